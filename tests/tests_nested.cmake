# Linux guests on emulated hosts with a genuine KVM: a short form always, everything with GODWIT_TEST_FULL.
option(GODWIT_TEST_FULL "run the nested test bed's long form" OFF)
find_package(Python3 REQUIRED COMPONENTS Interpreter)
add_test(NAME nested/linux COMMAND ${Python3_EXECUTABLE} -B ${CMAKE_SOURCE_DIR}/tests/nested/test_nested.py)
set(nested_environment "GODWIT_BUILD=${CMAKE_BINARY_DIR}")
set(nested_seconds 1500)
if(GODWIT_TEST_FULL)
  list(APPEND nested_environment "GODWIT_FULL=1")
  set(nested_seconds 14400)
endif()
set_tests_properties(nested/linux PROPERTIES LABELS nested TIMEOUT ${nested_seconds} SKIP_RETURN_CODE 77
  RUN_SERIAL TRUE ENVIRONMENT "${nested_environment}")

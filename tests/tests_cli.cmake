foreach(noun json table units)
  godwit_test(unit ${noun} ROOMS proto base)
endforeach()
foreach(noun image_file image_convert up_core import vm_spec_file pool_file plan_text vm_spec_schema build_core build_output build_script build_seal command render progress_bar receipt_text dr_waited)
  godwit_test(unit ${noun} ROOMS cli)
endforeach()

# Things of the command that need no pool: help, refusals, specs, completion.
find_package(Python3 REQUIRED COMPONENTS Interpreter)
add_test(NAME host/cli
  COMMAND ${Python3_EXECUTABLE} -B ${CMAKE_SOURCE_DIR}/tests/host/test_cli.py $<TARGET_FILE:godwit>)
set_tests_properties(host/cli PROPERTIES LABELS host TIMEOUT 120 SKIP_RETURN_CODE 77)

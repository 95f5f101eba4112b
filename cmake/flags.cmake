# Warnings are errors with both compilers; sanitizers come by preset.
set(GODWIT_SANITIZE "" CACHE STRING "address, thread or empty")
option(GODWIT_FUZZ "build the libFuzzer targets (clang only)" OFF)

add_library(godwit_flags INTERFACE)
target_compile_options(godwit_flags INTERFACE
  -Wall -Wextra -Wconversion -Wshadow -Wvla -Wmissing-prototypes -Wstrict-prototypes -Werror
  -Wno-sign-conversion
  -fstack-protector-strong -fno-strict-aliasing -fno-omit-frame-pointer)
target_compile_definitions(godwit_flags INTERFACE _GNU_SOURCE)
target_include_directories(godwit_flags INTERFACE ${CMAKE_SOURCE_DIR} ${CMAKE_BINARY_DIR})

if(GODWIT_SANITIZE STREQUAL "address")
  target_compile_options(godwit_flags INTERFACE -fsanitize=address,undefined -fno-sanitize-recover=all)
  target_link_options(godwit_flags INTERFACE -fsanitize=address,undefined)
elseif(GODWIT_SANITIZE STREQUAL "thread")
  # gcc says that it does not model fences; ours order accesses to guest memory, which it cannot see.
  target_compile_options(godwit_flags INTERFACE -fsanitize=thread -Wno-tsan)
  target_link_options(godwit_flags INTERFACE -fsanitize=thread)
else()
  target_compile_options(godwit_flags INTERFACE -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2)
  target_link_options(godwit_flags INTERFACE -Wl,-z,relro,-z,now)
endif()
if(GODWIT_FUZZ)
  target_compile_options(godwit_flags INTERFACE -fsanitize=fuzzer-no-link)
endif()

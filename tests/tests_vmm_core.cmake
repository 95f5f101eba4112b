# The verifying guest, built beside the tests that run it.
set(vmm_guest_dir ${CMAKE_BINARY_DIR}/tests_vmm_core)
file(GLOB vmm_guest_sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/guest/*.c
     ${CMAKE_CURRENT_LIST_DIR}/guest/*.h ${CMAKE_CURRENT_LIST_DIR}/guest/*.S
     ${CMAKE_CURRENT_LIST_DIR}/guest/*.lds)
add_custom_command(
  OUTPUT ${vmm_guest_dir}/guest.elf
  COMMAND sh ${CMAKE_CURRENT_LIST_DIR}/guest/build.sh ${vmm_guest_dir}
  DEPENDS ${vmm_guest_sources} ${CMAKE_CURRENT_LIST_DIR}/guest/build.sh
  COMMENT "the verifying guest")
add_custom_target(vmm_guest ALL DEPENDS ${vmm_guest_dir}/guest.elf)

# A host test with the verifying guest and the console of test_vm_support.
function(vmm_host_test name)
  godwit_test(host ${name} ROOMS vmm-core ${ARGN} TIMEOUT 180
    SOURCES ${CMAKE_SOURCE_DIR}/tests/host/test_vm_support.c)
  target_compile_definitions(test_host_${name} PRIVATE
    GUEST_ELF="${vmm_guest_dir}/guest.elf")
  add_dependencies(test_host_${name} vmm_guest)
  set_tests_properties(host/${name} PROPERTIES RUN_SERIAL ON)
endfunction()

vmm_host_test(vm_move)
vmm_host_test(vm_brake)
if(TARGET godwit_migrate)
  vmm_host_test(vm_replica)
  target_link_libraries(test_host_vm_replica PRIVATE godwit_migrate godwit_net)
  set_tests_properties(host/vm_replica PROPERTIES TIMEOUT 900)
endif()
vmm_host_test(vm_snapshot migrate storage)

godwit_test(unit guest_memory ROOMS vmm-core)
godwit_test(unit dev_serial ROOMS vmm-core)
godwit_test(unit gate ROOMS vmm-core)
godwit_test(unit brake ROOMS vmm-core)
godwit_test(unit cpu_model ROOMS vmm-core)
godwit_test(unit boot_pvh ROOMS vmm-core)
godwit_test(unit boot ROOMS vmm-core)
godwit_test(unit boot_area ROOMS vmm-core)
godwit_test(unit boot_bzimage ROOMS vmm-core)
godwit_test(unit acpi_tables ROOMS vmm-core)
godwit_test(unit dev_pm ROOMS vmm-core)
godwit_test(unit dev_rtc ROOMS vmm-core)
godwit_test(unit machine_state ROOMS vmm-core)
vmm_host_test(vm)
vmm_host_test(vm_dirty)
vmm_host_test(vm_disk)
vmm_host_test(vm_devices)
vmm_host_test(vm_hostile)
if(GODWIT_TEST_FULL) # GODWIT_TEST_MOVES is 500 there
  set_tests_properties(host/vm_disk host/vm_devices host/vm_hostile PROPERTIES TIMEOUT 7200)
endif()
foreach(kind devices hostile)
  target_sources(test_host_vm_${kind} PRIVATE ${CMAKE_SOURCE_DIR}/tests/host/tap_echo.c)
endforeach()
godwit_test(unit mmio ROOMS vmm-core)

godwit_test(unit virtqueue ROOMS vmm-core SOURCES ${CMAKE_SOURCE_DIR}/tests/support/ring_driver.c)

# The compiled DSDT is that of its source; skipped where there is no iasl.
add_test(NAME unit/acpi_dsdt COMMAND ${CMAKE_SOURCE_DIR}/scripts/acpi --check)
set_tests_properties(unit/acpi_dsdt PROPERTIES LABELS unit SKIP_RETURN_CODE 77)
set(virtio_machine_sources ${CMAKE_SOURCE_DIR}/tests/support/virtio_machine.c
    ${CMAKE_SOURCE_DIR}/tests/support/ring_driver.c)
foreach(kind blk balloon console rng vsock)
  godwit_test(unit dev_virtio_${kind} ROOMS vmm-core SOURCES ${virtio_machine_sources})
endforeach()
godwit_test(unit io_loop ROOMS vmm-core)
godwit_test(unit virtio_blk_flush ROOMS vmm-core SOURCES ${virtio_machine_sources}
            ${CMAKE_SOURCE_DIR}/tests/support/fake_disk.c)
godwit_test(unit virtio_pci ROOMS vmm-core SOURCES ${virtio_machine_sources})
godwit_test(unit pci ROOMS vmm-core)
godwit_test(host virtio_net ROOMS vmm-core SOURCES ${virtio_machine_sources}
  ${CMAKE_SOURCE_DIR}/tests/host/tap_echo.c)

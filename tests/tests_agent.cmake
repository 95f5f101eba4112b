godwit_test(unit latch_file ROOMS latch_file)
godwit_test(unit journal ROOMS agent)
godwit_test(unit vm_table ROOMS agent)
godwit_test(unit vm_word ROOMS agent)
godwit_test(unit host_facts ROOMS agent)
godwit_test(unit host_load ROOMS agent)
godwit_test(unit peers ROOMS agent)
godwit_test(unit orders ROOMS agent)
godwit_test(unit upgrade_core ROOMS agent)
godwit_test(unit watchdog ROOMS agent)
godwit_test(unit boot_files ROOMS vm_process)
godwit_test(unit disk_region ROOMS vm_process)
godwit_test(unit outflow_map ROOMS vm_process)
godwit_test(unit disk_outflow_core ROOMS vm_process)
godwit_test(unit disk_outflow ROOMS vm_process)
target_link_options(test_unit_disk_outflow PRIVATE -Wl,--wrap=sync_file_range,--wrap=fdatasync) # its medium is the test's
godwit_test(unit backends ROOMS agent)
godwit_test(unit start_mark ROOMS agent SOURCES ${CMAKE_SOURCE_DIR}/tests/support/agent_folders.c)
godwit_test(unit start_recall ROOMS agent SOURCES ${CMAKE_SOURCE_DIR}/tests/support/agent_folders.c)
target_link_options(test_unit_start_recall PRIVATE -Wl,--wrap=rpc_call,--wrap=vm_entry_set_spec) # memory may run out
godwit_test(unit order_await ROOMS agent)
godwit_test(unit start_list ROOMS agent SOURCES ${CMAKE_SOURCE_DIR}/tests/support/agent_folders.c)
godwit_test(unit quarantine ROOMS agent SOURCES ${CMAKE_SOURCE_DIR}/tests/support/agent_folders.c)
godwit_test(unit held_orders ROOMS agent)
godwit_test(unit standby_disks ROOMS agent)
godwit_test(unit image_folder ROOMS agent)
godwit_test(unit image_seal ROOMS agent)
godwit_test(unit machine_status ROOMS vm_process)
foreach(call move_is_source pthread_mutex_unlock)
  target_link_options(test_unit_machine_status PRIVATE -Wl,--wrap=${call}) # its move is none, its thread acts between
endforeach()
godwit_test(unit backend_set ROOMS vm_process)
godwit_test(unit counters ROOMS vm_process)
godwit_test(unit console ROOMS vm_process)
godwit_test(unit notice_core ROOMS vm_process)
godwit_test(host tap ROOMS agent)

# Real godwit-vm and godwit-agent processes, a fake coordinator, the verifying guest.
set(agent_guest_dir ${CMAKE_BINARY_DIR}/tests_agent)
file(GLOB agent_guest_sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/guest/*.[chS])
add_custom_command(
  OUTPUT ${agent_guest_dir}/guest.elf
  COMMAND sh ${CMAKE_CURRENT_LIST_DIR}/guest/build.sh ${agent_guest_dir}
  DEPENDS ${CMAKE_CURRENT_LIST_DIR}/guest/build.sh ${agent_guest_sources}
  COMMENT "the verifying guest, for agents")
add_custom_target(agent_guest ALL DEPENDS ${agent_guest_dir}/guest.elf)
godwit_test(host godwit_vm ROOMS agent TIMEOUT 240)
target_sources(test_host_godwit_vm PRIVATE ${CMAKE_SOURCE_DIR}/tests/support/tcp_proxy.c)
target_compile_definitions(test_host_godwit_vm PRIVATE
  GUEST_ELF="${agent_guest_dir}/guest.elf"
  GODWIT_VM="$<TARGET_FILE:godwit-vm>" GODWIT_AGENT="$<TARGET_FILE:godwit-agent>")
add_dependencies(test_host_godwit_vm agent_guest godwit-vm godwit-agent)
set_tests_properties(host/godwit_vm PROPERTIES RUN_SERIAL ON)
godwit_test(host agent_replica ROOMS agent TIMEOUT 240)
target_compile_definitions(test_host_agent_replica PRIVATE
  GUEST_ELF="${agent_guest_dir}/guest.elf"
  GODWIT_VM="$<TARGET_FILE:godwit-vm>" GODWIT_AGENT="$<TARGET_FILE:godwit-agent>")
add_dependencies(test_host_agent_replica agent_guest godwit-vm godwit-agent)
set_tests_properties(host/agent_replica PROPERTIES RUN_SERIAL ON)
godwit_test(unit domain_core ROOMS backend_libvirt)
godwit_test(unit domain_needs ROOMS backend_libvirt)
godwit_test(unit domain_call ROOMS backend_libvirt)
godwit_test(unit domain_start ROOMS backend_libvirt)
target_link_options(test_unit_domain_call PRIVATE -Wl,--wrap=virDomainSuspend)
target_link_options(test_unit_domain_start PRIVATE -Wl,--wrap=virDomainSuspend)
godwit_test(unit backend_libvirt ROOMS backend_libvirt)
foreach(call hypervisor_new hypervisor_free hypervisor_start hypervisor_call hypervisor_is_up domain_call_list domain_call_run
    domain_snapshot_take domain_snapshot_remove)
  target_link_options(test_unit_backend_libvirt PRIVATE -Wl,--wrap=${call}) # its libvirt is none
endforeach()
godwit_test(unit virt_view ROOMS backend_libvirt)
godwit_test(unit virt_snapshot ROOMS backend_libvirt)
godwit_test(unit domain_snapshot ROOMS backend_libvirt)
target_link_options(test_unit_domain_snapshot PRIVATE -Wl,--wrap=virDomainListAllSnapshots) # it may fail
godwit_test(unit qemu_watch ROOMS backend_libvirt)
godwit_test(unit qemu_kill ROOMS backend_libvirt)
godwit_test(unit domain_receipt ROOMS backend_libvirt)
godwit_test(unit snapshot_manifest ROOMS agent)
godwit_test(unit snapshots ROOMS agent)

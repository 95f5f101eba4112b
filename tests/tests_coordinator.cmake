godwit_test(unit token ROOMS proto base)
godwit_test(unit gw_code ROOMS proto base)
godwit_test(unit vm_spec ROOMS proto base)
godwit_test(unit planner ROOMS coordinator)
godwit_test(unit job_core ROOMS coordinator)
godwit_test(unit cluster_core ROOMS coordinator)
godwit_test(unit store ROOMS coordinator SOURCES ${CMAKE_SOURCE_DIR}/tests/support/store_contract.c)
godwit_test(host store_etcd ROOMS coordinator TIMEOUT 120
  SOURCES ${CMAKE_SOURCE_DIR}/tests/support/store_contract.c)
godwit_test(sim sim_move ROOMS coordinator TIMEOUT 300)
godwit_test(host coordinator ROOMS coordinator net TIMEOUT 120)
target_compile_definitions(test_host_coordinator PRIVATE
  GODWIT_COORDINATOR="$<TARGET_FILE:godwit-coordinator>")
add_dependencies(test_host_coordinator godwit-coordinator)

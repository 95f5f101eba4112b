godwit_test(unit token ROOMS proto base)
godwit_test(unit gw_code ROOMS proto base)
godwit_test(unit vm_spec ROOMS proto base)
godwit_test(unit planner ROOMS coordinator)
godwit_test(unit job_core ROOMS coordinator)
godwit_test(unit cluster_core ROOMS coordinator)
godwit_test(unit cluster_found ROOMS coordinator)
godwit_test(unit convoy ROOMS coordinator)
godwit_test(unit cluster_forecast ROOMS coordinator)
godwit_test(unit plan_core ROOMS coordinator)
godwit_test(unit ha_core ROOMS coordinator)
godwit_test(unit store ROOMS coordinator SOURCES ${CMAKE_SOURCE_DIR}/tests/support/store_contract.c)
godwit_test(host store_etcd ROOMS coordinator TIMEOUT 120
  SOURCES ${CMAKE_SOURCE_DIR}/tests/support/store_contract.c)
godwit_test(sim sim_move ROOMS coordinator TIMEOUT 900)
godwit_test(host coordinator ROOMS coordinator net TIMEOUT 120)
target_compile_definitions(test_host_coordinator PRIVATE
  GODWIT_COORDINATOR="$<TARGET_FILE:godwit-coordinator>")
add_dependencies(test_host_coordinator godwit-coordinator)

# A coordinator under 1,000 agents: run by hand, see docs/benchmarks.md.
add_executable(bench_agents ${CMAKE_SOURCE_DIR}/tests/bench/bench_agents.c)
target_link_libraries(bench_agents PRIVATE godwit_flags godwit_coordinator)

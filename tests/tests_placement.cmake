add_library(random_pool STATIC ${CMAKE_SOURCE_DIR}/tests/support/random_pool.c)
target_link_libraries(random_pool PRIVATE godwit_flags PUBLIC godwit_placement)
godwit_test(unit layout ROOMS placement LIBS random_pool m)
godwit_test(unit placement_plans ROOMS placement LIBS random_pool m)
godwit_test(unit forecast ROOMS placement migrate LIBS m)

add_executable(bench_planner ${CMAKE_SOURCE_DIR}/tests/bench/bench_planner.c)
target_link_libraries(bench_planner PRIVATE godwit_flags random_pool m)

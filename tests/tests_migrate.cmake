# Of the room migrate.
if(TARGET godwit_migrate)
  add_library(migrate_support STATIC
    ${CMAKE_SOURCE_DIR}/tests/support/pipe_stream.c
    ${CMAKE_SOURCE_DIR}/tests/support/fake_guest.c
    ${CMAKE_SOURCE_DIR}/tests/support/fake_move.c)
  target_link_libraries(migrate_support PRIVATE godwit_flags PUBLIC godwit_migrate)
  godwit_test(unit switchover_explore ROOMS migrate storage)
  foreach(noun phase page_frame move_frame source_core target_core converge post_choice throttle pacer page_codec page_mix
          page_delta page_digest page_order page_scan progress sample replica_explore
          replica_frame replica_journal replica_pace)
    godwit_test(unit ${noun} ROOMS migrate)
  endforeach()
  target_link_libraries(test_unit_throttle PRIVATE m)
  godwit_test(unit page_fetch ROOMS migrate LIBS migrate_support)
  godwit_test(unit page_server ROOMS migrate LIBS migrate_support)
  godwit_test(flow move ROOMS migrate LIBS migrate_support TIMEOUT 120)
  godwit_test(flow move_goals ROOMS migrate LIBS migrate_support TIMEOUT 120)
  godwit_test(flow move_reconnect ROOMS migrate LIBS migrate_support TIMEOUT 300)
  godwit_test(flow move_post ROOMS migrate LIBS migrate_support TIMEOUT 120)
  godwit_test(flow move_failure ROOMS migrate LIBS migrate_support TIMEOUT 180)
  godwit_test(flow guest_file ROOMS migrate storage LIBS migrate_support TIMEOUT 120)
  godwit_test(flow guest_pager ROOMS migrate storage LIBS migrate_support TIMEOUT 120)
  godwit_test(flow replica ROOMS migrate net LIBS migrate_support TIMEOUT 900)
  godwit_test(flow failpoints ROOMS migrate LIBS migrate_support TIMEOUT 600)
  add_executable(bench_flow ${CMAKE_SOURCE_DIR}/tests/bench/bench_flow.c)
  target_link_libraries(bench_flow PRIVATE godwit_flags migrate_support)
endif()
godwit_test(unit guest_index ROOMS migrate storage)
godwit_test(unit page_keeper ROOMS migrate)
godwit_test(unit replica_stage ROOMS migrate LIBS migrate_support)
godwit_test(unit replica_copy ROOMS migrate storage LIBS migrate_support)

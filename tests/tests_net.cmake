foreach(noun sparse err failpoint bitmap handoff id log world bytes loop thread)
  godwit_test(unit ${noun} ROOMS base)
endforeach()
godwit_test(unit pki ROOMS net LIBS PkgConfig::OPENSSL)
godwit_test(unit rpc ROOMS net TIMEOUT 120)
godwit_test(unit gcm_provider ROOMS net LIBS PkgConfig::OPENSSL)
godwit_test(unit tls_lane ROOMS net LIBS PkgConfig::OPENSSL TIMEOUT 120)

add_executable(bench_tls_lane ${CMAKE_SOURCE_DIR}/tests/bench/bench_tls_lane.c)
target_link_libraries(bench_tls_lane PRIVATE godwit_flags godwit_net)
godwit_test(unit announce ROOMS net)
godwit_test(unit digest ROOMS net)

godwit_test(unit text_server ROOMS net)

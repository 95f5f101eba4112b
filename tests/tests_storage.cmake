foreach(noun stamp share clone)
  godwit_test(unit ${noun} ROOMS storage)
endforeach()
godwit_test(unit share_space ROOMS storage)
godwit_test(unit disk ROOMS storage)
godwit_test(unit disk_mirror ROOMS storage)
godwit_test(host disk_block ROOMS storage)
godwit_test(unit iso_image ROOMS storage)
godwit_test(unit boot_disk ROOMS storage)

# What tests/host/test_pool_disks.py looks at stamps with.
add_executable(stamp_tool ${CMAKE_CURRENT_LIST_DIR}/host/stamp_tool.c)
target_link_libraries(stamp_tool PRIVATE godwit_flags godwit_storage)

foreach(noun stamp share)
  godwit_test(unit ${noun} ROOMS storage)
endforeach()
godwit_test(unit disk ROOMS storage)

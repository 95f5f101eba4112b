#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"

static void numbers_lie_little_end_first_at_any_address(void **state)
{
    (void)state;
    uint8_t bytes[9] = {0};

    bytes_put_u16(bytes + 1, 0x0102);
    assert_memory_equal(bytes + 1, "\x02\x01", 2);
    assert_int_equal(bytes_get_u16(bytes + 1), 0x0102);
    bytes_put_u32(bytes + 1, 0x01020304);
    assert_memory_equal(bytes + 1, "\x04\x03\x02\x01", 4);
    assert_int_equal(bytes_get_u32(bytes + 1), 0x01020304);
    bytes_put_u64(bytes + 1, UINT64_C(0xff02030405060708));
    assert_memory_equal(bytes + 1, "\x08\x07\x06\x05\x04\x03\x02\xff", 8);
    assert_true(bytes_get_u64(bytes + 1) == UINT64_C(0xff02030405060708));
}

static void ranges_are_judged_without_wrapping(void **state)
{
    (void)state;
    assert_true(range_fits(0, 0, 0));
    assert_true(range_fits(5, 5, 10));
    assert_true(range_fits(10, 0, 10));
    assert_false(range_fits(10, 1, 10));
    assert_false(range_fits(11, 0, 10));
    assert_false(range_fits(5, 6, 10));
    assert_false(range_fits(5, UINT64_MAX, 10));
    assert_false(range_fits(UINT64_MAX, 2, 10));
    assert_true(range_fits(1, UINT64_MAX - 1, UINT64_MAX));
}

static void sizes_are_counted_in_64_bits(void **state)
{
    (void)state;
    assert_true(GIB(64) == UINT64_C(68719476736));
    assert_true(MIB(2) / KIB(4) == 512);
    assert_int_equal(1 << PAGE_SHIFT, PAGE_BYTES);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_lie_little_end_first_at_any_address),
        cmocka_unit_test(ranges_are_judged_without_wrapping),
        cmocka_unit_test(sizes_are_counted_in_64_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "vmm-core/mmio.h"

struct seen {
    uint64_t offset;
    uint8_t bytes[MMIO_ACCESS_MAX];
    unsigned count, calls;
};

static void on_read(void *data, uint64_t offset, uint8_t *ret_bytes, unsigned count)
{
    struct seen *seen = data;
    seen->offset = offset;
    seen->calls++;
    memset(ret_bytes, 0x42, count);
}

static void on_write(void *data, uint64_t offset, const uint8_t *bytes, unsigned count)
{
    struct seen *seen = data;
    seen->offset = offset;
    seen->count = count;
    seen->calls++;
    memcpy(seen->bytes, bytes, count);
}

static const struct mmio_ops ops = {.read = on_read, .write = on_write};

static void an_access_reaches_the_device_whose_range_it_is_in(void **state)
{
    (void)state;
    struct mmio mmio = {0};
    struct seen low = {0}, high = {0};
    struct mmio_range high_range = {.address = 0x3000, .bytes = 0x1000, .ops = &ops, .data = &high};
    struct mmio_range low_range = {.address = 0x1000, .bytes = 0x1000, .ops = &ops, .data = &low};
    assert_true(mmio_add(&mmio, &high_range));
    assert_true(mmio_add(&mmio, &low_range));
    const uint8_t bytes[4] = {1, 2, 3, 4};
    uint8_t read[2] = {0};

    mmio_write(&mmio, 0x3ffc, bytes, 4);
    mmio_read(&mmio, 0x1000, read, 2);

    assert_int_equal(high.offset, 0xffc);
    assert_memory_equal(high.bytes, bytes, 4);
    assert_int_equal(low.calls, 1);
    assert_int_equal(read[1], 0x42);
}

static void nothing_there_reads_as_ones_and_takes_no_writes(void **state)
{
    (void)state;
    struct mmio mmio = {0};
    struct seen seen = {0};
    struct mmio_range range = {.address = 0x1000, .bytes = 0x1000, .ops = &ops, .data = &seen};
    assert_true(mmio_add(&mmio, &range));
    uint8_t bytes[8] = {0};

    mmio_read(&mmio, 0xfff, bytes, 1);
    assert_int_equal(bytes[0], 0xff);
    mmio_read(&mmio, 0x1ffd, bytes, 4); /* half in, half out */
    assert_int_equal(bytes[0], 0xff);
    mmio_read(&mmio, UINT64_MAX, bytes, 8);
    assert_int_equal(bytes[7], 0xff);
    mmio_write(&mmio, 0x2000, bytes, 8);
    assert_int_equal(seen.calls, 0);
}

static void ranges_that_overlap_are_refused(void **state)
{
    (void)state;
    struct mmio mmio = {0};
    struct mmio_range first = {.address = 0x1000, .bytes = 0x1000, .ops = &ops};
    struct mmio_range same = {.address = 0x1000, .bytes = 0x10, .ops = &ops};
    struct mmio_range tail = {.address = 0x1fff, .bytes = 0x1000, .ops = &ops};
    struct mmio_range head = {.address = 0x800, .bytes = 0x801, .ops = &ops};
    struct mmio_range end = {.address = UINT64_MAX - 1, .bytes = 0x10, .ops = &ops};
    struct mmio_range behind = {.address = 0x2000, .bytes = 0x10, .ops = &ops};
    assert_true(mmio_add(&mmio, &first));

    assert_false(mmio_add(&mmio, &same));
    assert_false(mmio_add(&mmio, &tail));
    assert_false(mmio_add(&mmio, &head));
    assert_false(mmio_add(&mmio, &end));
    assert_true(mmio_add(&mmio, &behind));
    mmio_remove(&mmio, &first);
    assert_true(mmio_add(&mmio, &same));
    assert_int_equal(mmio.count, 2);
}

static void a_full_bus_refuses_one_more(void **state)
{
    (void)state;
    struct mmio mmio = {0};
    struct mmio_range ranges[MMIO_RANGES_MAX + 1];
    for (unsigned i = 0; i < MMIO_RANGES_MAX; i++) {
        ranges[i] = (struct mmio_range){.address = i * 0x10, .bytes = 0x10, .ops = &ops};
        assert_true(mmio_add(&mmio, &ranges[i]));
    }
    ranges[MMIO_RANGES_MAX] = (struct mmio_range){.address = 0x10000, .bytes = 1, .ops = &ops};

    assert_false(mmio_add(&mmio, &ranges[MMIO_RANGES_MAX]));
    mmio_remove(&mmio, &ranges[7]);
    assert_true(mmio_add(&mmio, &ranges[MMIO_RANGES_MAX]));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_access_reaches_the_device_whose_range_it_is_in),
        cmocka_unit_test(nothing_there_reads_as_ones_and_takes_no_writes),
        cmocka_unit_test(ranges_that_overlap_are_refused),
        cmocka_unit_test(a_full_bus_refuses_one_more),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

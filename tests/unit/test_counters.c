#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "agent/vm/counters.h"
#include "base/err.h"
#include "base/own.h"

static struct counters full(void)
{
    struct counters counters = {.disk_count = DISKS_MAX + 1,
                                .nic_count = NICS_MAX,
                                .has_balloon = true,
                                .balloon = {.discarded_pages = 3, .reported_pages = 5}};
    for (unsigned i = 0; i < counters.disk_count; i++)
        counters.disks[i] = (struct vm_disk_stats){i, UINT64_MAX, i + 1, i << 20, 7, 8, 9, 0};
    for (unsigned i = 0; i < counters.nic_count; i++)
        counters.nics[i] = (struct vm_nic_stats){i, UINT64_MAX, 1, i + 2, 3, 4};
    return counters;
}

static void arrive_as_they_left(void **state)
{
    (void)state;
    struct counters left = full(), arrived;
    struct fault fault = {0};
    AUTO_FREE uint8_t *bytes = NULL;
    size_t count;
    memset(&arrived, 0xa5, sizeof arrived);
    arrived.disk_count = left.disk_count;
    arrived.nic_count = left.nic_count;

    assert_int_equal(counters_save(&left, &bytes, &count, &fault), 0);
    assert_int_equal(counters_load(&arrived, bytes, count, &fault), 0);

    assert_memory_equal(arrived.disks, left.disks, sizeof left.disks);
    assert_memory_equal(arrived.nics, left.nics, sizeof left.nics);
    assert_int_equal(arrived.balloon.discarded_pages, 3);
    assert_int_equal(arrived.balloon.reported_pages, 5);
    assert_true(count <= COUNTERS_BYTES_MAX);
}

static void of_another_machine_are_refused(void **state)
{
    (void)state;
    struct counters left = full(), arrived = {.disk_count = 1, .nic_count = NICS_MAX};
    const struct counters before = arrived;
    struct fault fault = {0};
    AUTO_FREE uint8_t *bytes = NULL;
    size_t count;
    assert_int_equal(counters_save(&left, &bytes, &count, &fault), 0);

    int r = counters_load(&arrived, bytes, count, &fault);

    assert_int_equal(r, ERR_CORRUPT);
    assert_string_equal(fault.text, "13 disks and 8 nics have counted, the machine has 1 and 8");
    assert_memory_equal(&arrived, &before, sizeof before);
}

static void that_cannot_be_read_are_refused(void **state)
{
    (void)state;
    struct counters arrived = {0};
    struct fault fault = {0};
    uint8_t bytes[COUNTERS_BYTES_MAX + 1];
    memset(bytes, 0xff, sizeof bytes);

    assert_int_equal(counters_load(&arrived, bytes, 9, &fault), ERR_CORRUPT);
    assert_int_equal(counters_load(&arrived, bytes, sizeof bytes, &fault), ERR_CORRUPT);
}

static void of_a_guest_that_told_nothing_say_nothing_of_its_memory(void **state)
{
    (void)state;
    struct counters counters = {.has_balloon = true};
    struct counters_message message;

    counters_fill(&counters, &message);
    assert_false(message.all.balloon->has_free_bytes);

    counters.balloon.told = true;
    counters_fill(&counters, &message);
    assert_true(message.all.balloon->has_free_bytes);

    counters.has_balloon = false;
    counters_fill(&counters, &message);
    assert_null(message.all.balloon);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(arrive_as_they_left),
        cmocka_unit_test(of_another_machine_are_refused),
        cmocka_unit_test(that_cannot_be_read_are_refused),
        cmocka_unit_test(of_a_guest_that_told_nothing_say_nothing_of_its_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

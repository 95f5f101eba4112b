/* What goes out of an arriving disk, when, and who is held; whatever the medium does. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "agent/vm/disk_outflow_core.h"
#include "base/world.h"

#define MS NS_PER_MS
#define MIB UINT64_C(1048576)

/* A step begun and ended, after took_ns. */
static void go_out(struct disk_outflow_core *core, uint64_t bytes, uint64_t took_ns)
{
    disk_outflow_core_arrived(core, bytes, 0);
    disk_outflow_core_begun(core, bytes, 0);
    disk_outflow_core_ended(core, took_ns);
}

static void a_whole_step_goes_out_at_once_and_less_a_moment_later(void **state)
{
    (void)state;
    struct disk_outflow_core core;
    disk_outflow_core_init(&core);
    assert_false(disk_outflow_core_is_due(&core, UINT64_MAX - 1)); /* nothing waits */
    assert_true(disk_outflow_core_due_ns(&core) == UINT64_MAX);

    disk_outflow_core_arrived(&core, core.step_bytes - 1, 10 * MS);
    assert_false(disk_outflow_core_is_due(&core, 10 * MS));
    uint64_t due_ns = disk_outflow_core_due_ns(&core);
    assert_true(due_ns == (10 + DISK_OUTFLOW_AGE_MS) * MS);
    assert_false(disk_outflow_core_is_due(&core, due_ns - 1));
    assert_true(disk_outflow_core_is_due(&core, due_ns));

    disk_outflow_core_arrived(&core, 1, 20 * MS);
    assert_true(disk_outflow_core_is_due(&core, 20 * MS));
}

static void one_step_is_under_way_at_a_time(void **state)
{
    (void)state;
    struct disk_outflow_core core;
    disk_outflow_core_init(&core);
    disk_outflow_core_arrived(&core, 4 * core.step_bytes, 0);

    disk_outflow_core_begun(&core, core.step_bytes, 0);
    assert_false(disk_outflow_core_is_due(&core, UINT64_MAX - 1));
    disk_outflow_core_ended(&core, DISK_OUTFLOW_STEP_MS * MS);
    assert_true(disk_outflow_core_is_due(&core, DISK_OUTFLOW_STEP_MS * MS));
}

static void who_brings_more_than_goes_out_is_held_until_it_went(void **state)
{
    (void)state;
    struct disk_outflow_core core;
    disk_outflow_core_init(&core);
    uint64_t step = core.step_bytes;

    disk_outflow_core_arrived(&core, DISK_OUTFLOW_HOLD_STEPS * step - 1, 0);
    assert_false(disk_outflow_core_holds(&core));
    disk_outflow_core_arrived(&core, 1, 0);
    assert_true(disk_outflow_core_holds(&core));
    disk_outflow_core_begun(&core, step, 0);
    assert_false(disk_outflow_core_holds(&core));
}

static void steps_shrink_on_a_slow_medium_and_grow_on_a_fast_one_between_two_limits(void **state)
{
    (void)state;
    struct disk_outflow_core core;
    disk_outflow_core_init(&core);
    for (unsigned i = 0; i < 50; i++)
        go_out(&core, core.step_bytes, 1000 * MS);
    assert_int_equal(core.step_bytes, DISK_OUTFLOW_STEP_MIN);
    for (unsigned i = 0; i < 50; i++)
        go_out(&core, core.step_bytes, 1 * MS);
    assert_int_equal(core.step_bytes, DISK_OUTFLOW_STEP_MAX);
    assert_int_equal(core.waiting_bytes, 0);
    assert_int_equal(core.under_way_bytes, 0);
}

static void few_bytes_that_went_fast_tell_nothing_of_a_whole_step(void **state)
{
    (void)state;
    struct disk_outflow_core core;
    disk_outflow_core_init(&core);
    for (unsigned i = 0; i < 50; i++)
        go_out(&core, 4096, 1 * MS);
    assert_int_equal(core.step_bytes, DISK_OUTFLOW_STEP_FIRST);
}

/* A medium of so many bytes a second, filled as fast as it is let. The longest step once they have settled. */
static uint64_t worst_step_ns(uint64_t bytes_per_s)
{
    struct disk_outflow_core core;
    uint64_t now_ns = 0, worst_ns = 0;
    disk_outflow_core_init(&core);
    for (unsigned i = 0; i < 400; i++) {
        while (!disk_outflow_core_holds(&core))
            disk_outflow_core_arrived(&core, 64 << 10, now_ns);
        assert_true(disk_outflow_core_is_due(&core, now_ns));
        uint64_t bytes = core.step_bytes, took_ns = bytes * NS_PER_S / bytes_per_s;
        disk_outflow_core_begun(&core, bytes, now_ns);
        now_ns += took_ns;
        disk_outflow_core_ended(&core, now_ns);
        if (i >= 100 && took_ns > worst_ns)
            worst_ns = took_ns;
    }
    return worst_ns;
}

static void whatever_the_medium_little_of_its_time_is_under_way(void **state)
{
    (void)state;
    const uint64_t mib_per_s[] = {20, 100, 400, 3000};
    for (unsigned i = 0; i < 4; i++) {
        uint64_t worst_ns = worst_step_ns(mib_per_s[i] * MIB);
        assert_true(worst_ns <= DISK_OUTFLOW_STEP_MS * MS * 5 / 4);
        if (mib_per_s[i] <= 400)
            assert_true(worst_ns >= DISK_OUTFLOW_STEP_MS * MS / 2); /* and no smaller than need be */
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_whole_step_goes_out_at_once_and_less_a_moment_later),
        cmocka_unit_test(one_step_is_under_way_at_a_time),
        cmocka_unit_test(who_brings_more_than_goes_out_is_held_until_it_went),
        cmocka_unit_test(steps_shrink_on_a_slow_medium_and_grow_on_a_fast_one_between_two_limits),
        cmocka_unit_test(few_bytes_that_went_fast_tell_nothing_of_a_whole_step),
        cmocka_unit_test(whatever_the_medium_little_of_its_time_is_under_way),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/world.h"
#include "migrate/converge.h"

static struct converge_round round_of(uint64_t pages, uint64_t dirty_pages)
{
    /* 2 us a page, as 2 GB/s */
    return (struct converge_round){.pages = pages,
                                   .data_pages = pages,
                                   .duration_ns = pages * 2000 + 100000,
                                   .round_trip_ns = 100000,
                                   .dirty_pages = dirty_pages};
}

static enum converge_answer step(struct converge *converge, uint64_t pages, uint64_t dirty_pages)
{
    struct converge_round round = round_of(pages, dirty_pages);
    return converge_step(converge, &round);
}

static void an_idle_guest_is_paused_after_the_bulk(void **state)
{
    (void)state;
    struct converge converge;
    converge_init(&converge, 100 * NS_PER_MS, 1);
    assert_int_equal(step(&converge, 262144, 20), CONVERGE_PAUSE);
    assert_in_range(converge.predicted_ns, 800000, 1200000);
}

static void a_set_that_fits_but_still_shrinks_gets_another_round(void **state)
{
    (void)state;
    struct converge converge;
    converge_init(&converge, 100 * NS_PER_MS, 1);
    assert_int_equal(step(&converge, 262144, 20000), CONVERGE_ROUND);
    assert_int_equal(step(&converge, 20000, 4000), CONVERGE_ROUND);
    assert_int_equal(step(&converge, 4000, 1000), CONVERGE_ROUND);
    assert_int_equal(step(&converge, 1000, 900), CONVERGE_PAUSE);
    assert_false(converge.waiting_for_goal);
}

static void the_goal_is_never_raised(void **state)
{
    (void)state;
    struct converge converge;
    converge_init(&converge, 10 * NS_PER_MS, 1);
    for (unsigned i = 0; i < 1000; i++)
        assert_int_equal(step(&converge, 50000, 50000), CONVERGE_ROUND);
    assert_true(converge.waiting_for_goal);
    assert_in_range(converge.predicted_ns, 90 * NS_PER_MS, 120 * NS_PER_MS);
    assert_int_equal(step(&converge, 50000, 3000), CONVERGE_ROUND); /* it shrinks again */
    assert_false(converge.waiting_for_goal);
    assert_int_equal(step(&converge, 3000, 2900), CONVERGE_PAUSE);
}

static void a_bandwidth_limit_does_not_count_for_the_pause(void **state)
{
    (void)state;
    struct converge converge;
    converge_init(&converge, 100 * NS_PER_MS, 1);
    struct converge_round round = round_of(100000, 1000);
    round.held_back_ns = 10 * NS_PER_S;
    round.duration_ns += round.held_back_ns;
    (void)converge_step(&converge, &round);
    assert_true(converge_predict_ns(&converge, 1000) < 5 * NS_PER_MS);
    assert_true(converge_forecast_ns(&converge, 100000, 10 << 20, 0) > 30 * NS_PER_S);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_idle_guest_is_paused_after_the_bulk),
        cmocka_unit_test(a_set_that_fits_but_still_shrinks_gets_another_round),
        cmocka_unit_test(the_goal_is_never_raised),
        cmocka_unit_test(a_bandwidth_limit_does_not_count_for_the_pause),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The controller alone and in a closed loop with a model of a writer and a wire. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "migrate/throttle.h"

static void a_policy_that_allows_none_never_throttles(void **state)
{
    (void)state;
    struct throttle throttle;
    throttle_init(&throttle, 0, 0);
    for (unsigned i = 0; i < 100; i++)
        assert_int_equal(throttle_step(&throttle, 1000, 1000, i), 0);
}

static void it_waits_for_its_stalls(void **state)
{
    (void)state;
    struct throttle throttle;
    throttle_init(&throttle, 900, 2);
    assert_int_equal(throttle_step(&throttle, 1000, 990, 0), 0);
    assert_int_equal(throttle_step(&throttle, 1000, 990, 1), 0);
    assert_true(throttle_step(&throttle, 1000, 990, 2) > 0);
}

static void a_set_that_halves_is_left_alone(void **state)
{
    (void)state;
    struct throttle throttle;
    throttle_init(&throttle, 900, 0);
    unsigned first = throttle_step(&throttle, 1000, 1000, 3);
    assert_int_equal(first, 500);
    assert_int_equal(throttle_step(&throttle, 1000, 500, 0), first);
    assert_int_equal(throttle_step(&throttle, 500, 100, 0), first);
}

static void a_slope_just_over_the_wanted_is_cut_just_a_little(void **state)
{
    (void)state;
    struct throttle throttle;
    throttle_init(&throttle, 900, 0);
    unsigned permille = throttle_step(&throttle, 1000, 550, 1);
    assert_in_range(permille, 80, 100); /* 1 - 500/550 */
}

static void it_never_goes_beyond_the_policy(void **state)
{
    (void)state;
    struct throttle throttle;
    throttle_init(&throttle, 800, 0);
    for (unsigned i = 0; i < 50; i++)
        assert_true(throttle_step(&throttle, 1000, 3000, i) <= 800);
    assert_int_equal(throttle.permille, 800);
    throttle_limit(&throttle, 990, 0);
    assert_true(throttle_step(&throttle, 1000, 1000, 9) > 800);
    throttle_limit(&throttle, 300, 0);
    assert_int_equal(throttle.permille, 300);
    assert_true(throttle.permille_peak > 800);
}

/* A writer that dirties `dirty` pages a second of `set` pages at random, a wire of `wire` pages a
 * second. Rounds until `goal` pages are left; 0: never. */
static unsigned rounds_to(double set, double dirty, double wire, double goal, unsigned permille_max,
                          unsigned *ret_permille)
{
    struct throttle throttle;
    throttle_init(&throttle, permille_max, 1);
    double left = set * 4; /* the bulk */
    unsigned stalls = 0;
    for (unsigned round = 1; round <= 60; round++) {
        double share = (1000 - throttle.permille) / 1000.0;
        double after = set * (1 - exp(-dirty * share * (left / wire) / set));
        *ret_permille = throttle.permille;
        if (after <= goal)
            return round;
        stalls = after * 100 < left * 85 ? 0 : stalls + 1;
        (void)throttle_step(&throttle, (uint64_t)left, (uint64_t)after, stalls);
        left = after;
    }
    return 0;
}

static void a_writer_ten_times_too_fast_converges(void **state)
{
    (void)state;
    for (double times = 0.5; times < 50; times *= 1.3) {
        unsigned permille = 0;
        unsigned rounds = rounds_to(65536, 25000 * times, 25000, 2500, 990, &permille);
        assert_true(rounds > 0 && rounds < 25);
        /* not much harder than the writer is too fast: it runs for at least a sixth of what would
         * have been enough */
        double enough = 1 - 1 / times;
        assert_true((1000 - permille) / 1000.0 > (1 - enough) / 6 || times < 1);
    }
}

static void a_writer_that_fits_is_not_throttled(void **state)
{
    (void)state;
    unsigned permille = 0;
    assert_true(rounds_to(65536, 5000, 25000, 2500, 990, &permille) > 0);
    assert_int_equal(permille, 0);
}

static void a_press_goes_as_far_as_the_policy_lets_and_no_further_than_four_fifths(void **state)
{
    (void)state;
    struct throttle throttle;
    throttle_init(&throttle, 0, 0);
    assert_false(throttle_press(&throttle));
    throttle_init(&throttle, 300, 0);
    assert_true(throttle_press(&throttle));
    assert_int_equal(throttle.permille, 300);
    assert_false(throttle_press(&throttle));
    throttle_init(&throttle, THROTTLE_PERMILLE_MAX, 0);
    assert_true(throttle_press(&throttle));
    assert_int_equal(throttle.permille, THROTTLE_PRESS_PERMILLE);
    assert_int_equal(throttle.permille_peak, THROTTLE_PRESS_PERMILLE);
    throttle.permille = 900;
    assert_false(throttle_press(&throttle));
    assert_int_equal(throttle.permille, 900);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_policy_that_allows_none_never_throttles),
        cmocka_unit_test(it_waits_for_its_stalls),
        cmocka_unit_test(a_set_that_halves_is_left_alone),
        cmocka_unit_test(a_slope_just_over_the_wanted_is_cut_just_a_little),
        cmocka_unit_test(it_never_goes_beyond_the_policy),
        cmocka_unit_test(a_writer_ten_times_too_fast_converges),
        cmocka_unit_test(a_writer_that_fits_is_not_throttled),
        cmocka_unit_test(a_press_goes_as_far_as_the_policy_lets_and_no_further_than_four_fifths),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "coordinator/convoy.h"

/* What carries moves: with n of them under way so many bytes a second. */
static double rate_of(unsigned moves, double link, double one)
{
    double all = moves * one;
    return all < link ? all : link;
}

/* Seconds of moves, always as many as may be. */
static void ride(struct convoy *convoy, double seconds, double link, double one)
{
    for (double at = 0; at < seconds; at += 0.1) {
        unsigned moves = convoy_limit(convoy);
        convoy_measure(convoy, moves, 0.1 * rate_of(moves, link, one), 0.1,
                       (unsigned)(at * 10) % 5 == 0);
    }
}

static void starts_with_two_because_one_prepares_while_the_other_copies(void **state)
{
    (void)state;
    struct convoy convoy = {0};

    assert_int_equal(convoy_limit(&convoy), 2);
    assert_true(convoy_carries(&convoy, 1e12, 2)); /* nothing is known against it */
}

static void a_link_that_two_fill_gets_no_more(void **state)
{
    (void)state;
    struct convoy convoy = {0};

    ride(&convoy, 30, 200e6, 150e6);

    assert_int_equal(convoy_limit(&convoy), 2);
    assert_int_equal(convoy.most_tried, 3); /* one more was tried, and did not pay */
}

static void a_wide_link_gets_as_many_as_fill_it(void **state)
{
    (void)state;
    struct convoy convoy = {0};

    ride(&convoy, 30, 1000e6, 200e6);

    assert_int_equal(convoy_limit(&convoy), 5);
    assert_int_equal(convoy.most_tried, 6);
}

static void it_tries_anew_after_a_while_because_links_change(void **state)
{
    (void)state;
    struct convoy convoy = {0};
    ride(&convoy, 30, 200e6, 150e6);

    ride(&convoy, 90, 2000e6, 150e6);

    assert_true(convoy_limit(&convoy) > 2);
}

static void a_guest_that_writes_more_than_its_share_is_not_carried_beside_another(void **state)
{
    (void)state;
    struct convoy convoy = {0};
    ride(&convoy, 10, 200e6, 200e6);

    assert_true(convoy_carries(&convoy, 100e6, 1));
    assert_false(convoy_carries(&convoy, 100e6, 2));
    assert_true(convoy_carries(&convoy, 20e6, 2));
}

static void nobody_under_way_teaches_nothing(void **state)
{
    (void)state;
    struct convoy convoy = {0};

    convoy_measure(&convoy, 0, 0, 10, 0);

    assert_int_equal(convoy_limit(&convoy), 2);
    assert_true(convoy_rate(&convoy, 1) == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(starts_with_two_because_one_prepares_while_the_other_copies),
        cmocka_unit_test(a_link_that_two_fill_gets_no_more),
        cmocka_unit_test(a_wide_link_gets_as_many_as_fill_it),
        cmocka_unit_test(it_tries_anew_after_a_while_because_links_change),
        cmocka_unit_test(a_guest_that_writes_more_than_its_share_is_not_carried_beside_another),
        cmocka_unit_test(nobody_under_way_teaches_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

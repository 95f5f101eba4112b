/* When rounds have had their chance. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/world.h"
#include "migrate/post_choice.h"

enum { NONE = GODWIT__MOVE_POSTCOPY_REASON__MOVE_POSTCOPY_REASON_NONE,
       ORDERED = GODWIT__MOVE_POSTCOPY_REASON__MOVE_POSTCOPY_REASON_ORDERED,
       GOAL = GODWIT__MOVE_POSTCOPY_REASON__MOVE_POSTCOPY_REASON_GOAL,
       DEADLINE = GODWIT__MOVE_POSTCOPY_REASON__MOVE_POSTCOPY_REASON_DEADLINE };

/* A goal of 100 ms, pages that cost 4 us; so many of `before` are dirty again. */
static struct converge after_round(uint64_t before, uint64_t dirty_pages)
{
    struct converge converge;
    converge_init(&converge, 100 * NS_PER_MS, 1);
    const struct converge_round round = {.pages = before,
                                         .data_pages = before,
                                         .duration_ns = before * 4000,
                                         .dirty_pages = dirty_pages};
    (void)converge_step(&converge, &round);
    return converge;
}

static const struct post_choice held_back = {
    .allowed = true, .throttle_permille = POST_CHOICE_PERMILLE, .left_ns = 3600 * NS_PER_S};

static void what_was_ordered_needs_no_reason(void **state)
{
    (void)state;
    const struct converge converge = after_round(100000, 10);
    const struct post_choice facts = {.ordered = true, .left_ns = 3600 * NS_PER_S};
    assert_int_equal(post_choice_make(&converge, &facts), ORDERED);
}

static void without_permission_nothing_leads_there(void **state)
{
    (void)state;
    const struct converge converge = after_round(100000, 100000);
    const struct post_choice facts = {.throttle_permille = 990, .left_ns = 0};
    assert_int_equal(post_choice_make(&converge, &facts), NONE);
}

static void writers_are_held_back_first(void **state)
{
    (void)state;
    const struct converge converge = after_round(100000, 100000);
    struct post_choice facts = held_back;
    facts.throttle_permille = POST_CHOICE_PERMILLE - 1;
    assert_int_equal(post_choice_make(&converge, &facts), NONE);
    assert_int_equal(post_choice_make(&converge, &held_back), GOAL);
}

static void a_set_that_still_shrinks_is_waited_for(void **state)
{
    (void)state;
    const struct converge converge = after_round(100000, 80000);
    assert_int_equal(post_choice_make(&converge, &held_back), NONE);
}

static void a_set_that_fits_the_goal_is_no_reason(void **state)
{
    (void)state;
    const struct converge converge = after_round(10000, 10000);
    assert_true(converge.predicted_ns <= converge.downtime_ns_max);
    assert_int_equal(post_choice_make(&converge, &held_back), NONE);
}

static void a_round_that_would_not_end_before_the_deadline_is_not_begun(void **state)
{
    (void)state;
    const struct converge converge = after_round(100000, 50000); /* 200 ms, and the pause again */
    struct post_choice facts = {.allowed = true, .left_ns = 500 * NS_PER_MS};
    assert_int_equal(post_choice_make(&converge, &facts), NONE);
    facts.left_ns = 300 * NS_PER_MS;
    assert_int_equal(post_choice_make(&converge, &facts), DEADLINE);
    facts.left_ns = 0;
    assert_int_equal(post_choice_make(&converge, &facts), DEADLINE);
}

static void a_limited_bandwidth_makes_the_round_longer(void **state)
{
    (void)state;
    const struct converge converge = after_round(100000, 50000);
    struct post_choice facts = {.allowed = true, .left_ns = 1900 * NS_PER_MS};
    assert_int_equal(post_choice_make(&converge, &facts), NONE);
    facts.bandwidth_bytes_per_s = 100000000; /* 50000 pages: 2 s */
    assert_int_equal(post_choice_make(&converge, &facts), DEADLINE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_ordered_needs_no_reason),
        cmocka_unit_test(without_permission_nothing_leads_there),
        cmocka_unit_test(writers_are_held_back_first),
        cmocka_unit_test(a_set_that_still_shrinks_is_waited_for),
        cmocka_unit_test(a_set_that_fits_the_goal_is_no_reason),
        cmocka_unit_test(a_round_that_would_not_end_before_the_deadline_is_not_begun),
        cmocka_unit_test(a_limited_bandwidth_makes_the_round_longer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

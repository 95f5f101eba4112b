/* When checkpoints are cut, whatever guest and link do; and what is said of the goal. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "base/world.h"
#include "migrate/replica_pace.h"

#define MS NS_PER_MS

/* Cuts whenever it may; each takes pause_ms and is held after ship_ms. Gives the worst that a loss
 * could have cost at any moment once the first was held. */
static uint64_t run(struct replica_pace *pace, uint64_t *now_ns, uint64_t pause_ms,
                    uint64_t ship_ms, unsigned cuts, uint64_t *ret_paused_ms)
{
    uint64_t worst_ns = 0;
    *ret_paused_ms = 0;
    for (unsigned i = 0; i < cuts; i++) {
        uint64_t next_ns = replica_pace_next_ns(pace);
        if (next_ns > *now_ns)
            *now_ns = next_ns;
        replica_pace_cut(pace, *now_ns, pause_ms * MS);
        *ret_paused_ms += pause_ms;
        *now_ns += ship_ms * MS;
        if (pace->held_cut_ns && replica_pace_rpo_ns(pace, *now_ns) > worst_ns)
            worst_ns = replica_pace_rpo_ns(pace, *now_ns);
        replica_pace_held(pace, *now_ns);
    }
    return worst_ns;
}

static void a_goal_that_can_be_held_is_held_with_as_few_cuts_as_possible(void **state)
{
    (void)state;
    const uint64_t ships[] = {1, 20, 100, 400};
    for (unsigned i = 0; i < 4; i++) {
        struct replica_pace pace;
        uint64_t now_ns = 5 * NS_PER_S, paused_ms;
        replica_pace_init(&pace, 1000 * MS, 0, now_ns);

        (void)run(&pace, &now_ns, 2, ships[i], 3, &paused_ms);
        uint64_t begun_ns = now_ns;
        uint64_t worst_ns = run(&pace, &now_ns, 2, ships[i], 50, &paused_ms);

        assert_true(worst_ns <= 1000 * MS);
        assert_true(worst_ns > 800 * MS);
        assert_false(pace.is_missed);
        assert_true((now_ns - begun_ns) / 50 >= (875 - ships[i]) * MS);
    }
}

static void a_link_that_is_too_slow_misses_the_goal_and_the_alarm_says_so(void **state)
{
    (void)state;
    struct replica_pace pace;
    uint64_t now_ns = NS_PER_S, paused_ms;
    replica_pace_init(&pace, 100 * MS, 0, now_ns);
    (void)run(&pace, &now_ns, 1, 10, 5, &paused_ms);
    assert_false(pace.is_missed);

    uint64_t worst_ns = run(&pace, &now_ns, 1, 300, 5, &paused_ms);
    assert_true(worst_ns >= 300 * MS &&
                worst_ns <= 720 * MS); /* two of them, one behind the other */
    (void)replica_pace_tick(&pace, now_ns);
    assert_true(pace.missed_count >= 1);
    assert_true(pace.is_missed);

    (void)run(&pace, &now_ns, 1, 10, 80, &paused_ms);
    assert_false(pace.is_missed);
}

static void the_alarm_comes_by_time_alone_once_and_goes_with_a_checkpoint(void **state)
{
    (void)state;
    struct replica_pace pace;
    replica_pace_init(&pace, 100 * MS, 0, NS_PER_S);
    replica_pace_cut(&pace, NS_PER_S, MS);
    replica_pace_held(&pace, NS_PER_S + 5 * MS);

    assert_false(replica_pace_tick(&pace, NS_PER_S + 100 * MS));
    assert_true(replica_pace_tick(&pace, NS_PER_S + 101 * MS));
    assert_false(replica_pace_tick(&pace, NS_PER_S + 500 * MS));
    assert_true(pace.is_missed && pace.missed_count == 1);
    assert_true(replica_pace_rpo_ns(&pace, NS_PER_S + 500 * MS) == 500 * MS);

    replica_pace_cut(&pace, NS_PER_S + 600 * MS, MS);
    replica_pace_lost(&pace); /* the link broke: nothing is better */
    (void)replica_pace_tick(&pace, NS_PER_S + 610 * MS);
    assert_true(pace.is_missed);
    replica_pace_cut(&pace, NS_PER_S + 700 * MS, MS);
    replica_pace_held(&pace, NS_PER_S + 705 * MS);
    assert_false(pace.is_missed);
    assert_true(pace.rpo_reached_ns == 705 * MS); /* what it had been, just before */
}

static void nothing_held_yet_counts_from_the_beginning(void **state)
{
    (void)state;
    struct replica_pace pace;
    replica_pace_init(&pace, 100 * MS, 0, NS_PER_S);
    assert_true(replica_pace_next_ns(&pace) == 0); /* at once */
    assert_true(replica_pace_rpo_ns(&pace, NS_PER_S + 30 * MS) == 30 * MS);
    assert_true(replica_pace_tick(&pace, NS_PER_S + 200 * MS));
}

static void rounds_before_a_cut_are_begun_so_much_earlier(void **state)
{
    (void)state;
    const uint64_t rounds[] = {1, 50, 200, 500};
    for (unsigned i = 0; i < 4; i++) {
        struct replica_pace pace;
        uint64_t now_ns = 5 * NS_PER_S, held_cut_ns = 0, worst_ns = 0;
        replica_pace_init(&pace, 1000 * MS, 0, now_ns);

        for (unsigned n = 0; n < 50; n++) {
            uint64_t next_ns = replica_pace_next_ns(&pace);
            now_ns = next_ns > now_ns ? next_ns : now_ns;
            replica_pace_begin(&pace, now_ns);
            now_ns += n == 0 ? 20 * NS_PER_S : rounds[i] * MS; /* a first image */
            uint64_t cut_ns = now_ns;
            replica_pace_cut(&pace, now_ns, 2 * MS);
            now_ns += 20 * MS;
            if (n > 2 && now_ns - held_cut_ns > worst_ns)
                worst_ns = now_ns - held_cut_ns;
            replica_pace_held(&pace, now_ns);
            held_cut_ns = cut_ns;
        }
        assert_true(worst_ns <= 1000 * MS);
        assert_true(worst_ns > 800 * MS); /* and as seldom as that lets them be */
        assert_false(pace.is_missed);
    }
}

static void the_guest_never_stands_still_for_more_than_its_share(void **state)
{
    (void)state;
    srand(7);
    for (unsigned i = 0; i < 200; i++) {
        unsigned permille = 1 + (unsigned)rand() % 300;
        uint64_t pause_ms = 1 + (uint64_t)rand() % 50, paused_ms, now_ns = NS_PER_S;
        struct replica_pace pace;
        replica_pace_init(&pace, (1 + (uint64_t)rand() % 500) * MS, permille, now_ns);

        (void)run(&pace, &now_ns, pause_ms, (uint64_t)rand() % 40 + 1, 1, &paused_ms);
        uint64_t begun_ns = pace.last_cut_ns;
        (void)run(&pace, &now_ns, pause_ms, (uint64_t)rand() % 40 + 1, 20, &paused_ms);

        uint64_t all_ms = (pace.last_cut_ns - begun_ns) / MS;
        assert_true(paused_ms * 1000 <= (all_ms + 1) * permille + 20 * 1000);
    }
}

static void a_cut_that_came_to_nothing_costs_no_more_of_the_guest_s_time(void **state)
{
    (void)state;
    struct replica_pace pace;
    replica_pace_init(&pace, 1000 * MS, 0, NS_PER_S);
    assert_int_equal(replica_pace_again_ns(&pace, 1500 * MS), 13500 * MS); /* a tenth of 15 s */
    assert_int_equal(replica_pace_again_ns(&pace, 0), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_goal_that_can_be_held_is_held_with_as_few_cuts_as_possible),
        cmocka_unit_test(a_link_that_is_too_slow_misses_the_goal_and_the_alarm_says_so),
        cmocka_unit_test(the_alarm_comes_by_time_alone_once_and_goes_with_a_checkpoint),
        cmocka_unit_test(nothing_held_yet_counts_from_the_beginning),
        cmocka_unit_test(rounds_before_a_cut_are_begun_so_much_earlier),
        cmocka_unit_test(the_guest_never_stands_still_for_more_than_its_share),
        cmocka_unit_test(a_cut_that_came_to_nothing_costs_no_more_of_the_guest_s_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

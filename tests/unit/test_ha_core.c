#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/world.h"
#include "coordinator/fence_options.h"
#include "coordinator/ha_core.h"

/* A host that was last heard at 1 s; the tests move the clock. */
static struct ha_view quiet_host(uint64_t now_ms)
{
    return (struct ha_view){.now_ns = now_ms * NS_PER_MS,
                            .seen_ns = NS_PER_S,
                            .is_armed = true,
                            .has_power = true,
                            .peers_up = 2,
                            .incarnation = "life1"};
}

static struct ha_core heard_host(void)
{
    return (struct ha_core){.was_heard = true};
}

/* Silent since 1 s, suspect since 5 s, and a peer has missed it since. */
static struct ha_core missed_host(void)
{
    struct ha_core core = heard_host();
    struct ha_view view = quiet_host(5000);
    (void)ha_core_tick(&core, &view);
    assert_int_equal(core.phase, HA_SUSPECT);
    ha_core_probed(&core, false, UINT64_MAX, 6000 * NS_PER_MS);
    return core;
}

static void silence_alone_is_suspicion_and_asks_others(void **state)
{
    (void)state;
    struct ha_core core = heard_host();
    struct ha_view view = quiet_host(4900);
    assert_int_equal(ha_core_tick(&core, &view), 0);

    view = quiet_host(5000);
    assert_int_equal(ha_core_tick(&core, &view), HA_TODO_PROBE);

    view = quiet_host(60000); /* nobody has answered: nothing is proven */
    assert_int_equal(ha_core_tick(&core, &view), HA_TODO_PROBE);
    assert_int_equal(core.phase, HA_SUSPECT);
}

static void a_host_that_others_reach_is_not_fenced(void **state)
{
    (void)state;
    struct ha_core core = missed_host();
    ha_core_probed(&core, true, UINT64_MAX, 8500 * NS_PER_MS);

    struct ha_view view = quiet_host(10000);
    assert_int_equal(ha_core_tick(&core, &view) & ~HA_TODO_PROBE, HA_TODO_CUT_OFF);
    assert_int_equal(core.phase, HA_SUSPECT);
}

static void beats_on_the_store_outweigh_a_connection_that_ended(void **state)
{
    (void)state;
    struct ha_core core = missed_host(), dead = missed_host();
    ha_core_probed(&core, false, 1000, 6500 * NS_PER_MS);

    struct ha_view view = quiet_host(7000); /* its connection has ended */
    assert_int_equal(ha_core_tick(&dead, &view) & HA_TODO_STORE, HA_TODO_STORE);
    assert_int_equal(ha_core_tick(&core, &view) & ~HA_TODO_PROBE, 0);
    view = quiet_host(8900);
    assert_int_equal(ha_core_tick(&core, &view) & ~HA_TODO_PROBE, 0);

    view = quiet_host(9000);
    assert_int_equal(ha_core_tick(&core, &view) & HA_TODO_STORE, HA_TODO_STORE);
    assert_int_equal(core.phase, HA_FENCING);
}

static void a_dead_host_is_recorded_then_switched_off_then_fenced(void **state)
{
    (void)state;
    struct ha_core core = missed_host();
    struct ha_view view = quiet_host(9000);

    unsigned bits = ha_core_tick(&core, &view);
    assert_true(bits & HA_TODO_STORE);
    assert_false(bits & HA_TODO_POWER); /* durable first */
    assert_string_equal(core.incarnation, "life1");
    assert_int_equal(ha_core_tick(&core, &view), HA_TODO_POWER);
    assert_int_equal(ha_core_tick(&core, &view), 0); /* once */

    assert_int_equal(ha_core_tried(&core, HA_CLASS_F2, true), HA_TODO_STORE | HA_TODO_FENCED);
    assert_int_equal(core.phase, HA_FENCED);
    assert_int_equal(core.fenced_by, HA_CLASS_F2);
}

static void a_host_that_beats_is_evicted_and_switched_off_when_that_fails(void **state)
{
    (void)state;
    struct ha_core core = missed_host();
    struct ha_view view = quiet_host(9000);
    view.has_storage = true;
    ha_core_probed(&core, false, 500, 8500 * NS_PER_MS);
    (void)ha_core_tick(&core, &view);
    assert_int_equal(ha_core_tick(&core, &view), HA_TODO_EVICT);

    assert_int_equal(ha_core_tried(&core, HA_CLASS_F1, false), 0);

    assert_int_equal(ha_core_tick(&core, &view), HA_TODO_POWER);
}

static void a_host_that_does_not_beat_is_switched_off_before_word_is_left_for_it(void **state)
{
    (void)state;
    struct ha_core core = missed_host();
    struct ha_view view = quiet_host(9000);
    view.has_storage = true;
    (void)ha_core_tick(&core, &view);
    assert_int_equal(ha_core_tick(&core, &view), HA_TODO_POWER);
    (void)ha_core_tried(&core, HA_CLASS_F2, false);

    assert_int_equal(ha_core_tick(&core, &view), HA_TODO_EVICT);
    (void)ha_core_tried(&core, HA_CLASS_F1, false);

    assert_int_equal(ha_core_tick(&core, &view), HA_TODO_HELD); /* the round is over */
    view.now_ns += HA_RETRY_MS * NS_PER_MS;
    assert_int_equal(ha_core_tick(&core, &view), HA_TODO_POWER);
}

static void a_fence_that_fails_is_told_and_tried_again(void **state)
{
    (void)state;
    struct ha_core core = missed_host();
    struct ha_view view = quiet_host(9000);
    (void)ha_core_tick(&core, &view);
    (void)ha_core_tick(&core, &view);
    (void)ha_core_tried(&core, HA_CLASS_F2, false);

    assert_int_equal(ha_core_tick(&core, &view), HA_TODO_HELD);
    assert_int_equal(ha_core_tick(&core, &view), 0);
    view.now_ns += HA_RETRY_MS * NS_PER_MS;
    assert_int_equal(ha_core_tick(&core, &view), HA_TODO_POWER);
    assert_int_equal(core.phase, HA_FENCING);
}

static void without_a_class_a_dead_host_is_held_until_an_operator_says_so(void **state)
{
    (void)state;
    struct ha_core core = missed_host();
    struct ha_view view = quiet_host(9000);
    view.has_power = false;

    assert_int_equal(ha_core_tick(&core, &view) & ~HA_TODO_PROBE, HA_TODO_HELD);
    assert_int_equal(ha_core_tick(&core, &view), 0);
    assert_int_equal(core.phase, HA_HELD);

    assert_int_equal(ha_core_confirm_down(&core, &view), HA_TODO_STORE | HA_TODO_FENCED);
    assert_int_equal(core.fenced_by, HA_CLASS_F0);
}

static void an_operator_cannot_call_a_host_down_that_answers(void **state)
{
    (void)state;
    struct ha_core core = heard_host();
    struct ha_view view = quiet_host(1500);
    view.link_up = true;

    assert_int_equal(ha_core_confirm_down(&core, &view), 0);
    assert_int_equal(core.phase, HA_WELL);
}

static void nothing_is_fenced_while_disarmed_in_grace_or_in_a_storm(void **state)
{
    (void)state;
    struct ha_core core = missed_host();
    struct ha_view view = quiet_host(20000);
    view.is_armed = false;
    assert_int_equal(ha_core_tick(&core, &view) & ~HA_TODO_PROBE, 0);
    view.is_armed = true;
    view.storm = true;
    assert_int_equal(ha_core_tick(&core, &view) & ~HA_TODO_PROBE, HA_TODO_BRAKE);
    assert_int_equal(core.phase, HA_SUSPECT);

    struct ha_core young = {0}; /* not heard of since we lead */
    view = quiet_host(60000);
    assert_int_equal(ha_core_tick(&young, &view), 0);
    view = quiet_host(121000);
    assert_int_equal(ha_core_tick(&young, &view), HA_TODO_PROBE);
}

static void the_life_that_was_fenced_is_quarantined_and_a_new_one_is_taken(void **state)
{
    (void)state;
    struct ha_core core = missed_host();
    struct ha_view view = quiet_host(9000);
    unsigned bits = 0;
    (void)ha_core_tick(&core, &view);
    (void)ha_core_tried(&core, HA_CLASS_F2, true);

    assert_int_equal(ha_core_hello(&core, "life1", view.now_ns, &bits), HA_HELLO_QUARANTINE);
    assert_int_equal(core.phase, HA_QUARANTINE);
    assert_false(ha_core_may_run(&core));
    assert_int_equal(ha_core_hello(&core, "life1", view.now_ns, &bits), HA_HELLO_QUARANTINE);

    assert_int_equal(ha_core_hello(&core, "life2", view.now_ns, &bits), HA_HELLO_TAKE);
    assert_int_equal(core.phase, HA_WELL);
    assert_true(ha_core_may_run(&core));
}

static void a_confirmation_that_comes_after_a_new_life_fences_nobody(void **state)
{
    (void)state;
    struct ha_core core = missed_host();
    struct ha_view view = quiet_host(9000);
    unsigned bits = 0;
    (void)ha_core_tick(&core, &view);
    (void)ha_core_tick(&core, &view);
    assert_int_equal(ha_core_hello(&core, "life2", view.now_ns, &bits), HA_HELLO_TAKE);

    assert_int_equal(ha_core_tried(&core, HA_CLASS_F2, true), 0);
    assert_int_equal(core.phase, HA_WELL);
}

static void tries_are_spaced(void **state)
{
    (void)state;
    assert_int_equal(ha_back_off_ns(0), 0);
    assert_int_equal(ha_back_off_ns(1), 10 * NS_PER_S);
    assert_int_equal(ha_back_off_ns(2), 30 * NS_PER_S);
    assert_int_equal(ha_back_off_ns(3), 90 * NS_PER_S);
    assert_int_equal(ha_back_off_ns(9), 90 * NS_PER_S);
}

static void fence_agents_get_only_words_from_the_lists(void **state)
{
    (void)state;
    char input[FENCE_INPUT_SIZE], why[128];
    assert_true(fence_options_input("fence_ipmilan", "ip=10.0.0.9,username=fence", "off", input));
    assert_string_equal(input, "ip=10.0.0.9\nusername=fence\naction=off\n");
    assert_true(fence_options_input("fence_dummy", "", "status", input));
    assert_string_equal(input, "action=status\n");
    static const char *const bad[][2] = {
        {"../../bin/sh", ""},
        {"fence_x/../sh", ""},
        {"sh", ""},
        {"fence_ipmilan", "action=on"},
        {"fence_ipmilan", "ip"},
        {"fence_ipmilan", "ip=1 2"},
        {"fence_ipmilan", "ip=a\nb=c"},
        {"fence_ipmilan", "password=x"},
        {"fence_ipmilan", "ip=$(x)"},
        {"fence_ipmilan", "ip="},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_false(fence_options_are_allowed(bad[i][0], bad[i][1], why, sizeof why));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(silence_alone_is_suspicion_and_asks_others),
        cmocka_unit_test(a_host_that_others_reach_is_not_fenced),
        cmocka_unit_test(beats_on_the_store_outweigh_a_connection_that_ended),
        cmocka_unit_test(a_dead_host_is_recorded_then_switched_off_then_fenced),
        cmocka_unit_test(a_host_that_beats_is_evicted_and_switched_off_when_that_fails),
        cmocka_unit_test(a_host_that_does_not_beat_is_switched_off_before_word_is_left_for_it),
        cmocka_unit_test(a_fence_that_fails_is_told_and_tried_again),
        cmocka_unit_test(without_a_class_a_dead_host_is_held_until_an_operator_says_so),
        cmocka_unit_test(an_operator_cannot_call_a_host_down_that_answers),
        cmocka_unit_test(nothing_is_fenced_while_disarmed_in_grace_or_in_a_storm),
        cmocka_unit_test(the_life_that_was_fenced_is_quarantined_and_a_new_one_is_taken),
        cmocka_unit_test(a_confirmation_that_comes_after_a_new_life_fences_nobody),
        cmocka_unit_test(tries_are_spaced),
        cmocka_unit_test(fence_agents_get_only_words_from_the_lists),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Every (phase, event) pair, deadlines, and what must never be taken. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "base/world.h"
#include "migrate/target_core.h"
#include "proto/limits.h"

enum { M = 7 };

static uint64_t now_ns;

static struct target_event event_of(enum target_event_type type)
{
    return (struct target_event){
        .now_ns = now_ns,
        .type = type,
        .generation = M,
        .state_digest = 99,
        .transfer = {
            .vm_id = "v", .move_id = "m", .incarnation = "i", .generation = M, .state_digest = 99}};
}

static unsigned step(struct target_core *core, enum target_event_type type)
{
    unsigned todo = 0;
    struct target_event event = event_of(type);
    (void)target_core_step(core, &event, &todo, NULL);
    return todo;
}

static void walk(struct target_core *core, enum phase phase)
{
    static const enum target_event_type path[] = {TARGET_EVENT_START,       TARGET_EVENT_HELLO,
                                                  TARGET_EVENT_EXTENTS_END, TARGET_EVENT_POPULATED,
                                                  TARGET_EVENT_LANES_OPEN,  TARGET_EVENT_DRAINED,
                                                  TARGET_EVENT_STATE,       TARGET_EVENT_LOADED,
                                                  TARGET_EVENT_TRANSFER,    TARGET_EVENT_RESUMED};
    const struct target_core_config config = {
        .vm_id = "v", .move_id = "m", .incarnation = "i", .generation = M, .memory_pages = 1 << 18};
    now_ns = NS_PER_S;
    target_core_init(core, &config);
    for (unsigned i = 0; i < sizeof path / sizeof path[0] && core->phase != phase; i++)
        (void)step(core, path[i]);
    assert_int_equal(core->phase, phase);
}

/* Its guest runs here, with pages left behind. */
static void walk_to_postcopy(struct target_core *core)
{
    walk(core, PHASE_GREET);
    struct target_event event = event_of(TARGET_EVENT_HELLO);
    event.postcopy = true;
    event.postcopy_away_ms_max = 1000;
    unsigned todo = 0;
    assert_int_equal(target_core_step(core, &event, &todo, NULL), 0);
    static const enum target_event_type path[] = {TARGET_EVENT_EXTENTS_END, TARGET_EVENT_POPULATED,
                                                  TARGET_EVENT_LANES_OPEN, TARGET_EVENT_MISSING,
                                                  TARGET_EVENT_DRAINED};
    for (unsigned i = 0; i < sizeof path / sizeof path[0]; i++)
        (void)step(core, path[i]);
    event = event_of(TARGET_EVENT_STATE);
    event.postcopy = true;
    assert_int_equal(target_core_step(core, &event, &todo, NULL), 0);
    (void)step(core, TARGET_EVENT_LOADED);
    (void)step(core, TARGET_EVENT_TRANSFER);
    (void)step(core, TARGET_EVENT_RESUMED);
    assert_int_equal(core->phase, PHASE_POSTCOPY);
}

static const enum phase phases[] = {PHASE_NONE,  PHASE_GREET, PHASE_PREPARE,  PHASE_PRECOPY,
                                    PHASE_DRAIN, PHASE_STATE, PHASE_HANDOVER, PHASE_DONE};

static void every_pair_is_handled_or_refused_and_only_a_right_lets_it_run(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 8; i++) {
        for (int type = 0; type < TARGET_EVENT_COUNT; type++) {
            struct target_core core;
            walk(&core, phases[i]);
            struct target_core before = core;
            struct target_event event = event_of((enum target_event_type)type);
            struct fault fault = {0};
            unsigned todo = 0;
            int r = target_core_step(&core, &event, &todo, &fault);
            if (r == ERR_STATE) {
                assert_true(fault.text[0]);
                assert_memory_equal(&before, &core, sizeof core);
                continue;
            }
            assert_int_equal(r, 0);
            if (todo & TARGET_TODO_RESUME) {
                assert_int_equal(before.latch, GODWIT__LATCH__LATCH_READY);
                assert_true(type == TARGET_EVENT_TRANSFER || type == TARGET_EVENT_VERDICT_TAKE);
            }
            if (before.ended)
                assert_int_equal(todo, 0);
        }
    }
}

static void a_transfer_that_names_another_is_never_taken(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 5; i++) {
        struct target_core core;
        walk(&core, PHASE_HANDOVER);
        struct target_event event = event_of(TARGET_EVENT_TRANSFER);
        if (i == 0)
            event.transfer.vm_id = "other";
        else if (i == 1)
            event.transfer.move_id = "other";
        else if (i == 2)
            event.transfer.incarnation = "boot-before";
        else if (i == 3)
            event.transfer.generation = M + 1;
        else
            event.transfer.state_digest = 98;
        unsigned todo = 0;
        assert_int_equal(target_core_step(&core, &event, &todo, NULL), 0);
        assert_false(todo & TARGET_TODO_RESUME);
        assert_true(todo & TARGET_TODO_LATCH_ABANDONED);
        assert_int_equal(core.fault.code, ERR_DENIED);
    }
}

static void nothing_is_taken_after_abandoning(void **state)
{
    (void)state;
    struct target_core core;
    walk(&core, PHASE_HANDOVER);
    assert_true(step(&core, TARGET_EVENT_VERDICT_ABANDON) & TARGET_TODO_LATCH_ABANDONED);
    assert_int_equal(step(&core, TARGET_EVENT_TRANSFER), 0);
    assert_int_equal(step(&core, TARGET_EVENT_VERDICT_TAKE), 0);
    assert_int_equal(core.latch, GODWIT__LATCH__LATCH_ABANDONED);
}

static void at_ready_a_lost_link_waits_for_the_relay_and_then_abandons(void **state)
{
    (void)state;
    struct target_core core;
    walk(&core, PHASE_HANDOVER);
    now_ns += NS_PER_S;
    assert_int_equal(step(&core, TARGET_EVENT_LINK_LOST), 0);
    now_ns += PARK_FENCE_MS * NS_PER_MS - 1;
    assert_int_equal(step(&core, TARGET_EVENT_TICK), 0);
    struct target_core relayed = core;
    assert_true(step(&relayed, TARGET_EVENT_VERDICT_TAKE) & TARGET_TODO_RESUME);
    now_ns++;
    assert_true(step(&core, TARGET_EVENT_TICK) & TARGET_TODO_LATCH_ABANDONED);
}

static void before_ready_a_lost_link_abandons_at_once(void **state)
{
    (void)state;
    for (unsigned i = 1; i < 6; i++) {
        struct target_core core;
        walk(&core, phases[i]);
        assert_true(step(&core, TARGET_EVENT_LINK_LOST) & TARGET_TODO_LATCH_ABANDONED);
        assert_int_equal(core.phase, PHASE_ROLLED_BACK);
    }
}

static void every_phase_has_a_deadline(void **state)
{
    (void)state;
    for (unsigned i = 1; i < 7; i++) {
        struct target_core core;
        walk(&core, phases[i]);
        assert_true(core.phase_deadline_ns > now_ns);
        now_ns = core.phase_deadline_ns;
        assert_true(step(&core, TARGET_EVENT_TICK) & TARGET_TODO_LATCH_ABANDONED);
    }
}

static void bytes_that_arrive_push_the_deadline_of_precopy(void **state)
{
    (void)state;
    struct target_core core;
    walk(&core, PHASE_PRECOPY);
    for (uint64_t i = 1; i < 10; i++) {
        now_ns += TARGET_SILENT_MS_MAX * NS_PER_MS - 1;
        struct target_event event = event_of(TARGET_EVENT_TICK);
        event.activity = i;
        unsigned todo = 0;
        assert_int_equal(target_core_step(&core, &event, &todo, NULL), 0);
        assert_int_equal(todo, 0);
    }
}

static void a_guest_that_was_taken_and_does_not_run_needs_somebody(void **state)
{
    (void)state;
    struct target_core core;
    walk(&core, PHASE_HANDOVER);
    (void)step(&core, TARGET_EVENT_TRANSFER);
    assert_int_equal(step(&core, TARGET_EVENT_FAILED), TARGET_TODO_END);
    assert_int_equal(core.latch, GODWIT__LATCH__LATCH_TOOK);
    assert_int_equal(core.fault.code, ERR_ATTENTION);
}

static void a_target_waits_for_its_source_to_come_back_but_not_for_ever(void **state)
{
    (void)state;
    struct target_core core;
    walk(&core, PHASE_PRECOPY);
    core.away_ms_max = 20000;
    assert_int_equal(step(&core, TARGET_EVENT_LANE_LOST), TARGET_TODO_HANG_UP);
    assert_int_equal(step(&core, TARGET_EVENT_LINK_LOST), TARGET_TODO_HANG_UP);
    now_ns += 19 * NS_PER_S;
    assert_int_equal(step(&core, TARGET_EVENT_TICK), 0);
    assert_int_equal(step(&core, TARGET_EVENT_REJOINED), 0);
    assert_int_equal(core.phase, PHASE_PRECOPY);
    assert_int_equal(core.latch, GODWIT__LATCH__LATCH_IN);

    assert_int_equal(step(&core, TARGET_EVENT_LINK_LOST), TARGET_TODO_HANG_UP);
    now_ns += (20000 + PEER_SILENT_MS) * NS_PER_MS;
    assert_true(step(&core, TARGET_EVENT_TICK) & TARGET_TODO_LATCH_ABANDONED);
    assert_int_equal(core.fault.code, ERR_TIMEOUT);
}

/* The source's guest stands and waits for a word: it gets one at once. */
static void a_state_that_comes_while_lanes_are_away_is_answered_with_abandoned(void **state)
{
    (void)state;
    struct target_core core;
    walk(&core, PHASE_PRECOPY);
    core.away_ms_max = 20000;
    (void)step(&core, TARGET_EVENT_LANE_LOST);
    unsigned todo = step(&core, TARGET_EVENT_STATE);
    assert_true(todo & TARGET_TODO_LATCH_ABANDONED && todo & TARGET_TODO_SEND_ABANDONED);
}

static void a_lane_lost_after_the_last_fence_abandons(void **state)
{
    (void)state;
    static const enum phase later[] = {PHASE_DRAIN, PHASE_STATE};
    for (unsigned i = 0; i < 2; i++) {
        struct target_core core;
        walk(&core, later[i]);
        core.away_ms_max = 20000;
        assert_true(step(&core, TARGET_EVENT_LANE_LOST) & TARGET_TODO_LATCH_ABANDONED);
    }
}

static void that_all_pages_came_is_said_again_until_the_source_answers(void **state)
{
    (void)state;
    struct target_core core;
    walk_to_postcopy(&core);
    assert_true(step(&core, TARGET_EVENT_FETCHED) & TARGET_TODO_SEND_FETCHED);
    unsigned said = 0;
    uint64_t end_ns = now_ns + POSTCOPY_LAST_MS_MAX * NS_PER_MS;
    for (; now_ns + 100 * NS_PER_MS < end_ns; now_ns += 100 * NS_PER_MS)
        said += (step(&core, TARGET_EVENT_TICK) & TARGET_TODO_SEND_FETCHED) != 0;
    assert_true(said >= 5);
    assert_int_equal(core.phase, PHASE_POSTCOPY);

    struct target_core heard = core;
    assert_true(step(&heard, TARGET_EVENT_SERVED) & TARGET_TODO_END);
    assert_int_equal(heard.fault.code, 0);

    struct target_core cut = core; /* what was half said made no sense to the source: it hung up */
    assert_true(step(&cut, TARGET_EVENT_LANE_LOST) & TARGET_TODO_HANG_UP);
    assert_int_equal(step(&cut, TARGET_EVENT_TICK), 0);
    assert_true(step(&cut, TARGET_EVENT_REJOINED) & TARGET_TODO_SEND_FETCHED);

    now_ns = end_ns; /* it needs nothing of it */
    assert_true(step(&core, TARGET_EVENT_TICK) & TARGET_TODO_END);
    assert_int_equal(core.phase, PHASE_DONE);
    assert_int_equal(core.fault.code, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_pair_is_handled_or_refused_and_only_a_right_lets_it_run),
        cmocka_unit_test(a_transfer_that_names_another_is_never_taken),
        cmocka_unit_test(nothing_is_taken_after_abandoning),
        cmocka_unit_test(at_ready_a_lost_link_waits_for_the_relay_and_then_abandons),
        cmocka_unit_test(before_ready_a_lost_link_abandons_at_once),
        cmocka_unit_test(every_phase_has_a_deadline),
        cmocka_unit_test(bytes_that_arrive_push_the_deadline_of_precopy),
        cmocka_unit_test(a_guest_that_was_taken_and_does_not_run_needs_somebody),
        cmocka_unit_test(a_target_waits_for_its_source_to_come_back_but_not_for_ever),
        cmocka_unit_test(a_state_that_comes_while_lanes_are_away_is_answered_with_abandoned),
        cmocka_unit_test(a_lane_lost_after_the_last_fence_abandons),
        cmocka_unit_test(that_all_pages_came_is_said_again_until_the_source_answers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

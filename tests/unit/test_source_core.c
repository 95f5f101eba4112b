/* Every (phase, event) pair, deadlines, and the mistakes that others have made. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "base/world.h"
#include "migrate/source_core.h"
#include "proto/limits.h"

enum { M = 7 };

static char traced[16][160];
static unsigned trace_count;

static void trace(void *data, const char *line)
{
    (void)data;
    (void)strncpy(traced[trace_count++ % 16], line, sizeof traced[0] - 1);
}

static uint64_t now_ns;

static unsigned step(struct source_core *core, enum source_event_type type)
{
    unsigned todo = 0;
    struct source_event event = {.now_ns = now_ns,
                                 .type = type,
                                 .generation = M + 1,
                                 .round = {.pages = 10, .data_pages = 10, .duration_ns = 1000}};
    (void)source_core_step(core, &event, &todo, NULL);
    return todo;
}

/* Walk the happy path up to `phase`. */
static void walk(struct source_core *core, enum phase phase)
{
    static const enum source_event_type path[] = {
        SOURCE_EVENT_START,    SOURCE_EVENT_CONTROL_OPEN, SOURCE_EVENT_WELCOME,
        SOURCE_EVENT_PREPARED, SOURCE_EVENT_LANES_OPEN,   SOURCE_EVENT_ROUND_DONE,
        SOURCE_EVENT_STOOD_BY, SOURCE_EVENT_PAUSED,       SOURCE_EVENT_DRAINED,
        SOURCE_EVENT_READY,    SOURCE_EVENT_LINK_LOST,    SOURCE_EVENT_VERDICT_STARTED};
    const struct source_core_config config = {.generation = M,
                                              .downtime_ns_max = NS_PER_S,
                                              .vcpus = 1,
                                              .memory_pages = 1 << 18,
                                              .policy = SOURCE_POLICY_BALANCED,
                                              .trace = trace};
    now_ns = NS_PER_S;
    trace_count = 0;
    source_core_init(core, &config);
    for (unsigned i = 0; i < sizeof path / sizeof path[0] && core->phase != phase; i++) {
        now_ns += 1000;
        (void)step(core, path[i]);
    }
    assert_int_equal(core->phase, phase);
}

static void every_pair_is_handled_or_refused_and_no_latch_goes_back(void **state)
{
    (void)state;
    static const enum phase phases[] = {PHASE_NONE,   PHASE_GREET, PHASE_PREPARE, PHASE_PRECOPY,
                                        PHASE_PAUSE,  PHASE_DRAIN, PHASE_STATE,   PHASE_HANDOVER,
                                        PHASE_PARKED, PHASE_DONE};
    unsigned refused = 0, handled = 0;
    for (unsigned i = 0; i < 10; i++) {
        for (int type = 0; type < SOURCE_EVENT_COUNT; type++) {
            struct source_core core;
            walk(&core, phases[i]);
            struct source_core before = core;
            struct source_event event = {
                .now_ns = now_ns, .type = (enum source_event_type)type, .generation = M + 1};
            struct fault fault = {0};
            unsigned todo = 0;
            int r = source_core_step(&core, &event, &todo, &fault);
            if (r == ERR_STATE) {
                refused++;
                assert_true(fault.text[0]);
                assert_memory_equal(&before, &core, sizeof core);
                assert_int_equal(todo, 0);
                continue;
            }
            handled++;
            assert_int_equal(r, 0);
            bool gave = before.latch == GODWIT__LATCH__LATCH_GAVE;
            bool granted =
                type == SOURCE_EVENT_VERDICT_RESUME || type == SOURCE_EVENT_VERDICT_ABANDONED;
            if (gave && !granted) {
                assert_false(todo & SOURCE_TODO_RESUME); /* INV-1 */
                assert_int_not_equal(core.latch, GODWIT__LATCH__LATCH_ABORTED);
            }
            if (core.phase == PHASE_ROLLED_BACK && before.guest_stopped)
                assert_true(todo & SOURCE_TODO_RESUME); /* INV-8 */
        }
    }
    assert_true(refused > 40 && handled > 60);
}

static int set_goals(struct source_core *core, enum source_policy policy, uint64_t downtime_ns,
                     uint64_t deadline_ms, unsigned *ret_todo)
{
    struct source_event event = {
        .now_ns = now_ns,
        .type = SOURCE_EVENT_GOALS,
        .goals = {.policy = policy, .downtime_ns_max = downtime_ns, .deadline_ms = deadline_ms}};
    return source_core_step(core, &event, ret_todo, NULL);
}

static unsigned stalled_round(struct source_core *core)
{
    unsigned todo = 0;
    struct source_event event = {
        .now_ns = now_ns,
        .type = SOURCE_EVENT_ROUND_DONE,
        .round = {
            .pages = 100000, .data_pages = 100000, .duration_ns = NS_PER_S, .dirty_pages = 100000}};
    assert_int_equal(source_core_step(core, &event, &todo, NULL), 0);
    return todo;
}

/* Rounds whose set stays as large, 40 ms of pause by the pace of the wire: within a goal of 100. */
static unsigned round_that_fits(struct source_core *core, uint64_t pages, uint64_t dirty_pages)
{
    unsigned todo = 0;
    struct source_event event = {.now_ns = now_ns,
                                 .type = SOURCE_EVENT_ROUND_DONE,
                                 .round = {.pages = pages,
                                           .data_pages = pages,
                                           .duration_ns = pages * 4000,
                                           .dirty_pages = dirty_pages}};
    assert_int_equal(source_core_step(core, &event, &todo, NULL), 0);
    return todo;
}

static void a_long_pause_within_the_goal_is_made_short_by_pressing_writers(void **state)
{
    (void)state;
    struct source_core core;
    unsigned todo = 0;
    walk(&core, PHASE_PRECOPY);
    assert_int_equal(set_goals(&core, SOURCE_POLICY_BALANCED, 100 * NS_PER_MS, 0, &todo), 0);
    assert_int_equal(round_that_fits(&core, 10000, 10000), SOURCE_TODO_ROUND | SOURCE_TODO_THROTTLE);
    assert_int_equal(source_core_throttle(&core), THROTTLE_PRESS_PERMILLE);
    assert_int_equal(round_that_fits(&core, 10000, 2500), SOURCE_TODO_ROUND); /* shrinks */
    assert_int_equal(round_that_fits(&core, 2500, 2400), SOURCE_TODO_STAND_BY); /* no more, though pressed */

    walk(&core, PHASE_PRECOPY); /* a short one is not worth it */
    assert_int_equal(set_goals(&core, SOURCE_POLICY_BALANCED, 100 * NS_PER_MS, 0, &todo), 0);
    assert_int_equal(round_that_fits(&core, 1000, 1000), SOURCE_TODO_STAND_BY);
    assert_int_equal(source_core_throttle(&core), 0);

    walk(&core, PHASE_PRECOPY); /* gentle takes nothing from the guest but the pause */
    assert_int_equal(set_goals(&core, SOURCE_POLICY_GENTLE, 100 * NS_PER_MS, 0, &todo), 0);
    assert_int_equal(round_that_fits(&core, 10000, 10000), SOURCE_TODO_STAND_BY);
    assert_int_equal(source_core_throttle(&core), 0);
}

static void goals_count_from_the_moment_they_are_set(void **state)
{
    (void)state;
    struct source_core core;
    unsigned todo = 0;
    walk(&core, PHASE_PRECOPY);
    assert_int_equal(set_goals(&core, SOURCE_POLICY_GENTLE, NS_PER_MS, 5000, &todo), 0);
    assert_int_equal(core.phase_deadline_ns, core.entered_ns[PHASE_PRECOPY] + 5000 * NS_PER_MS);
    for (unsigned i = 0; i < 9; i++)
        assert_int_equal(stalled_round(&core), SOURCE_TODO_ROUND); /* gentle never throttles */

    assert_int_equal(set_goals(&core, SOURCE_POLICY_FINISH, NS_PER_MS, 5000, &todo), 0);
    assert_int_equal(stalled_round(&core), SOURCE_TODO_ROUND | SOURCE_TODO_THROTTLE);
    assert_int_equal(core.throttle.permille, 500);
    assert_int_equal(set_goals(&core, SOURCE_POLICY_GENTLE, NS_PER_MS, 5000, &todo), 0);
    assert_int_equal(todo, SOURCE_TODO_THROTTLE);
    assert_int_equal(core.throttle.permille, 0);

    assert_int_equal(set_goals(&core, SOURCE_POLICY_GENTLE, 60 * NS_PER_S, 5000, &todo), 0);
    assert_int_equal(stalled_round(&core), SOURCE_TODO_STAND_BY);
    assert_int_equal(set_goals(&core, SOURCE_POLICY_GENTLE, NS_PER_S, 5000, &todo), ERR_STATE);
}

static void resume_after_gave_on_timeout_is_impossible(void **state)
{
    (void)state;
    struct source_core core;
    walk(&core, PHASE_HANDOVER);
    for (unsigned i = 0; i < 100; i++) {
        now_ns += 3600 * NS_PER_S;
        assert_int_equal(step(&core, SOURCE_EVENT_TICK), 0);
        assert_int_equal(core.phase, PHASE_PARKED);
        assert_int_equal(core.latch, GODWIT__LATCH__LATCH_GAVE);
    }
}

static void a_lost_link_after_gave_is_no_failure(void **state)
{
    (void)state;
    struct source_core core;
    walk(&core, PHASE_HANDOVER);
    assert_int_equal(step(&core, SOURCE_EVENT_LINK_LOST), 0);
    assert_int_equal(core.phase, PHASE_PARKED);
    assert_int_equal(step(&core, SOURCE_EVENT_VERDICT_CANCEL), 0);
    assert_int_equal(core.latch, GODWIT__LATCH__LATCH_GAVE);
    assert_true(step(&core, SOURCE_EVENT_VERDICT_STARTED) & SOURCE_TODO_LATCH_RELEASED);
    assert_int_equal(core.phase, PHASE_DONE);
    assert_int_equal(core.fault.code, 0);
}

static void an_abandoning_target_after_gave_still_needs_a_newer_generation(void **state)
{
    (void)state;
    struct source_core core;
    walk(&core, PHASE_HANDOVER);
    assert_int_equal(step(&core, SOURCE_EVENT_ABANDONED), 0);
    assert_int_equal(core.phase, PHASE_PARKED);
    unsigned todo = 0;
    struct source_event same = {
        .now_ns = now_ns, .type = SOURCE_EVENT_VERDICT_RESUME, .generation = M};
    assert_int_equal(source_core_step(&core, &same, &todo, NULL), ERR_STATE);
    assert_true(step(&core, SOURCE_EVENT_VERDICT_RESUME) & SOURCE_TODO_RESUME);
    assert_int_equal(core.phase, PHASE_ROLLED_BACK);
}

static void every_phase_has_a_deadline_and_it_leads_back(void **state)
{
    (void)state;
    static const enum phase phases[] = {PHASE_GREET, PHASE_PREPARE, PHASE_PRECOPY,
                                        PHASE_PAUSE, PHASE_DRAIN,   PHASE_STATE};
    for (unsigned i = 0; i < 6; i++) {
        struct source_core core;
        walk(&core, phases[i]);
        assert_true(core.phase_deadline_ns > now_ns);
        now_ns = core.phase_deadline_ns - 1;
        if (phases[i] != PHASE_PRECOPY) /* where standing still for a minute is enough, see below */
            assert_int_equal(step(&core, SOURCE_EVENT_TICK), 0);
        now_ns++;
        assert_true(step(&core, SOURCE_EVENT_TICK) & SOURCE_TODO_LATCH_ABORTED);
        assert_int_equal(core.phase, PHASE_ROLLED_BACK);
        assert_int_equal(core.ended_in, phases[i]);
        assert_int_equal(core.fault.code, phases[i] == PHASE_PRECOPY ? ERR_DEADLINE : ERR_TIMEOUT);
    }
}

static void a_precopy_that_stands_still_for_a_minute_is_given_up(void **state)
{
    (void)state;
    struct source_core core;
    walk(&core, PHASE_PRECOPY);
    assert_int_equal(step(&core, SOURCE_EVENT_TICK), 0);
    now_ns += SOURCE_SILENT_MS_MAX * NS_PER_MS;
    assert_true(step(&core, SOURCE_EVENT_TICK) & SOURCE_TODO_LATCH_ABORTED);
    assert_int_equal(core.fault.code, ERR_TIMEOUT);
}

/* In pre-copy, with 20 s for lost lanes to come back. */
static void walk_to_loss(struct source_core *core)
{
    walk(core, PHASE_PRECOPY);
    core->config.away_ms_max = 20000;
    assert_int_equal(step(core, SOURCE_EVENT_LANE_LOST),
                     SOURCE_TODO_HANG_UP | SOURCE_TODO_THROTTLE);
}

static void lanes_lost_in_precopy_are_dialled_and_the_next_round_follows(void **state)
{
    (void)state;
    struct source_core core;
    walk_to_loss(&core);
    core.throttle.permille = 300;
    assert_int_equal(source_core_throttle(&core), 0); /* slowing it would win nothing now */
    assert_int_equal(step(&core, SOURCE_EVENT_LANE_LOST), 0);
    assert_int_equal(step(&core, SOURCE_EVENT_LINK_LOST), 0);
    assert_int_equal(step(&core, SOURCE_EVENT_ROUND_DONE), 0);
    assert_int_equal(step(&core, SOURCE_EVENT_HUNG_UP), SOURCE_TODO_DIAL);
    now_ns += 3 * NS_PER_S;

    assert_int_equal(step(&core, SOURCE_EVENT_REJOINED), SOURCE_TODO_ROUND | SOURCE_TODO_THROTTLE);

    assert_int_equal(core.phase, PHASE_PRECOPY);
    assert_int_equal(core.reconnects, 1);
    assert_int_equal(core.away_all_ns, 3 * NS_PER_S);
    assert_int_equal(source_core_throttle(&core), 300);
    assert_int_equal(step(&core, SOURCE_EVENT_ROUND_DONE), SOURCE_TODO_STAND_BY);
    assert_int_equal(step(&core, SOURCE_EVENT_LINK_LOST),
                     SOURCE_TODO_HANG_UP | SOURCE_TODO_THROTTLE); /* standing by is forgotten */
    assert_int_equal(step(&core, SOURCE_EVENT_STOOD_BY), 0);
}

static void lanes_that_stay_away_lead_back_and_a_failed_dial_is_tried_again(void **state)
{
    (void)state;
    struct source_core core;
    walk_to_loss(&core);
    for (unsigned i = 0; i < 19; i++) {
        assert_int_equal(step(&core, SOURCE_EVENT_HUNG_UP), SOURCE_TODO_DIAL);
        assert_true(step(&core, SOURCE_EVENT_DIAL_FAILED) & SOURCE_TODO_HANG_UP);
        now_ns += NS_PER_S;
        assert_int_equal(step(&core, SOURCE_EVENT_TICK), 0);
    }
    now_ns += NS_PER_S;
    unsigned todo = step(&core, SOURCE_EVENT_TICK);
    assert_true(todo & SOURCE_TODO_LATCH_ABORTED);
    assert_false(todo & SOURCE_TODO_RESUME); /* the guest never stood */
    assert_int_equal(core.fault.code, ERR_TIMEOUT);
    assert_int_equal(core.phase, PHASE_ROLLED_BACK);
}

static unsigned dial_refused(struct source_core *core)
{
    struct fault refused = {0};
    (void)fault_set(&refused, ERR_REFUSED, "nobody");
    struct source_event event = {
        .now_ns = now_ns, .type = SOURCE_EVENT_DIAL_FAILED, .fault = &refused};
    unsigned todo = 0;
    (void)step(core, SOURCE_EVENT_HUNG_UP);
    (void)source_core_step(core, &event, &todo, NULL);
    return todo;
}

static void a_target_that_refuses_for_seconds_is_not_waited_for(void **state)
{
    (void)state;
    struct source_core core;
    walk_to_loss(&core);
    assert_true(dial_refused(&core) & SOURCE_TODO_HANG_UP);
    now_ns += REFUSED_MS_MAX * NS_PER_MS / 2;
    assert_true(dial_refused(&core) & SOURCE_TODO_HANG_UP);
    now_ns += REFUSED_MS_MAX * NS_PER_MS / 2;
    assert_true(dial_refused(&core) & SOURCE_TODO_LATCH_ABORTED);
    assert_int_equal(core.fault.code, ERR_CLOSED);
}

static void lanes_lost_in_the_pause_lead_back_and_after_gave_nowhere(void **state)
{
    (void)state;
    static const enum phase back[] = {PHASE_PAUSE, PHASE_DRAIN, PHASE_STATE};
    static const enum source_event_type losses[] = {SOURCE_EVENT_LANE_LOST, SOURCE_EVENT_LINK_LOST};
    for (unsigned i = 0; i < 3 * 2; i++) {
        struct source_core core;
        walk(&core, back[i / 2]);
        core.config.away_ms_max = 20000;
        unsigned todo = step(&core, losses[i % 2]);
        assert_true(todo & SOURCE_TODO_LATCH_ABORTED && todo & SOURCE_TODO_RESUME);
        assert_int_equal(core.phase, PHASE_ROLLED_BACK);
    }
    for (unsigned i = 0; i < 2; i++) {
        struct source_core core;
        walk(&core, PHASE_HANDOVER);
        core.config.away_ms_max = 20000;
        assert_int_equal(step(&core, losses[i]), 0);
        assert_int_equal(core.phase, PHASE_PARKED);
        assert_int_equal(core.latch, GODWIT__LATCH__LATCH_GAVE);
    }
}

enum { NOTICE_MS = 1500 };

/* The pause could begin, and the guest is told. */
static void walk_to_notice(struct source_core *core)
{
    walk(core, PHASE_PRECOPY);
    core->config.notice_ms_max = NOTICE_MS;
    assert_int_equal(step(core, SOURCE_EVENT_ROUND_DONE), SOURCE_TODO_NOTICE);
    assert_int_equal(core->phase, PHASE_PRECOPY);
}

/* What it wrote meanwhile goes first, and no round is judged by the wait. */
static void expect_pause_after_catching_up(struct source_core *core)
{
    unsigned rounds = core->converge.rounds;
    assert_int_equal(step(core, SOURCE_EVENT_ROUND_DONE), SOURCE_TODO_ROUND);
    assert_int_equal(core->converge.rounds, rounds);
    assert_int_equal(step(core, SOURCE_EVENT_ROUND_DONE), SOURCE_TODO_STAND_BY);
    assert_int_equal(step(core, SOURCE_EVENT_STOOD_BY), SOURCE_TODO_PAUSE);
}

static void a_guest_is_told_of_its_pause_once_and_waited_for(void **state)
{
    (void)state;
    struct source_core core;
    walk_to_notice(&core);
    assert_int_equal(step(&core, SOURCE_EVENT_ROUND_DONE), 0); /* none is under way */
    assert_int_equal(step(&core, SOURCE_EVENT_TICK), 0);

    assert_int_equal(step(&core, SOURCE_EVENT_NOTICED), SOURCE_TODO_ROUND);

    assert_int_equal(step(&core, SOURCE_EVENT_NOTICED), 0);
    expect_pause_after_catching_up(&core);
    assert_int_equal(step(&core, SOURCE_EVENT_NOTICED), 0);
}

static void a_guest_that_never_answers_has_its_time_and_no_more(void **state)
{
    (void)state;
    struct source_core core;
    walk_to_notice(&core);
    uint64_t until_ns = now_ns + NOTICE_MS * NS_PER_MS;
    assert_int_equal(source_core_deadline_ns(&core), until_ns);
    now_ns = until_ns - 1;
    assert_int_equal(step(&core, SOURCE_EVENT_TICK), 0);
    now_ns = until_ns;
    assert_int_equal(step(&core, SOURCE_EVENT_TICK), SOURCE_TODO_ROUND);
    assert_int_equal(source_core_deadline_ns(&core), core.phase_deadline_ns);
    expect_pause_after_catching_up(&core);
}

static void a_wait_for_the_guest_does_not_use_up_the_deadline(void **state)
{
    (void)state;
    struct source_core core;
    unsigned todo = 0;
    walk(&core, PHASE_PRECOPY);
    core.config.notice_ms_max = NOTICE_MS;
    now_ns = core.phase_deadline_ns - 1;
    assert_int_equal(step(&core, SOURCE_EVENT_ROUND_DONE), SOURCE_TODO_NOTICE);
    now_ns += NOTICE_MS * NS_PER_MS;
    assert_int_equal(step(&core, SOURCE_EVENT_TICK), SOURCE_TODO_ROUND);
    assert_int_equal(core.phase, PHASE_PRECOPY);
    assert_int_equal(set_goals(&core, SOURCE_POLICY_GENTLE, NS_PER_S, 5000, &todo), 0);
    assert_int_equal(core.phase_deadline_ns,
                     core.entered_ns[PHASE_PRECOPY] + (5000 + NOTICE_MS) * NS_PER_MS);
}

static void a_move_that_ends_while_it_waits_for_the_guest_just_ends(void **state)
{
    (void)state;
    static const enum source_event_type ends[] = {SOURCE_EVENT_VERDICT_CANCEL, SOURCE_EVENT_FAILED,
                                                  SOURCE_EVENT_ABANDONED};
    for (unsigned i = 0; i < 3; i++) {
        struct source_core core;
        walk_to_notice(&core);
        unsigned todo = step(&core, ends[i]);
        assert_true(todo & SOURCE_TODO_LATCH_ABORTED);
        assert_false(todo & SOURCE_TODO_RESUME); /* it never stood */
        assert_int_equal(step(&core, SOURCE_EVENT_NOTICED), 0);
        now_ns += NS_PER_S * 3600;
        assert_int_equal(step(&core, SOURCE_EVENT_TICK), 0);
    }
}

static void lanes_lost_while_the_guest_is_told_come_back_without_another_notice(void **state)
{
    (void)state;
    struct source_core core;
    walk_to_notice(&core);
    core.config.away_ms_max = 20000;
    assert_int_equal(step(&core, SOURCE_EVENT_LANE_LOST),
                     SOURCE_TODO_HANG_UP | SOURCE_TODO_THROTTLE);
    assert_int_equal(step(&core, SOURCE_EVENT_NOTICED), 0); /* nowhere to send a round to */
    assert_int_equal(step(&core, SOURCE_EVENT_HUNG_UP), SOURCE_TODO_DIAL);
    assert_int_equal(step(&core, SOURCE_EVENT_REJOINED), SOURCE_TODO_ROUND | SOURCE_TODO_THROTTLE);
    assert_int_equal(step(&core, SOURCE_EVENT_ROUND_DONE), SOURCE_TODO_STAND_BY);
}

static void a_post_copy_tells_the_guest_too(void **state)
{
    (void)state;
    struct source_core core;
    walk(&core, PHASE_PRECOPY);
    core.config.notice_ms_max = NOTICE_MS;
    core.config.postcopy = true;
    core.config.downtime_ns_max = core.converge.downtime_ns_max = 1;
    assert_int_equal(stalled_round(&core), SOURCE_TODO_NOTICE);
    assert_false(core.postcopy);
    assert_int_equal(step(&core, SOURCE_EVENT_NOTICED), SOURCE_TODO_ROUND);
    assert_int_equal(stalled_round(&core), SOURCE_TODO_ROUND);
    assert_int_equal(stalled_round(&core), SOURCE_TODO_STAND_BY);
    assert_true(core.postcopy);
}

/* Words that came by half would be waited for until the guest is lost. */
static void lanes_of_post_copy_that_neither_come_nor_fail_are_dialled_anew(void **state)
{
    (void)state;
    struct source_core core;
    walk(&core, PHASE_HANDOVER);
    core.postcopy = true;
    core.config.postcopy_away_ms_max = 300 * 1000;
    (void)step(&core, SOURCE_EVENT_STARTED);
    assert_int_equal(core.phase, PHASE_POSTCOPY);
    assert_int_equal(step(&core, SOURCE_EVENT_LANE_LOST), SOURCE_TODO_HANG_UP);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(step(&core, SOURCE_EVENT_HUNG_UP), SOURCE_TODO_DIAL);
        now_ns += SOURCE_DIAL_MS_MAX * NS_PER_MS - 1;
        assert_int_equal(step(&core, SOURCE_EVENT_TICK), 0);
        now_ns++;
        assert_int_equal(step(&core, SOURCE_EVENT_TICK), SOURCE_TODO_HANG_UP);
    }
    assert_int_equal(step(&core, SOURCE_EVENT_HUNG_UP), SOURCE_TODO_DIAL);
    assert_int_equal(step(&core, SOURCE_EVENT_REJOINED), 0);
    assert_int_equal(core.phase, PHASE_POSTCOPY);
}

/* ---- policy finish: what rounds do not bring down comes after the guest ---------------------- */

/* In pre-copy, with a goal that no round reaches; the target can take what comes late, or not. */
static void walk_to_finish(struct source_core *core, bool takes_postcopy)
{
    walk(core, PHASE_NONE);
    core->config.policy = SOURCE_POLICY_FINISH;
    core->config.postcopy_late = true;
    core->config.downtime_ns_max = core->converge.downtime_ns_max = NS_PER_MS;
    static const enum source_event_type path[] = {SOURCE_EVENT_START, SOURCE_EVENT_CONTROL_OPEN,
                                                  SOURCE_EVENT_WELCOME, SOURCE_EVENT_PREPARED,
                                                  SOURCE_EVENT_LANES_OPEN};
    for (unsigned i = 0; i < sizeof path / sizeof path[0]; i++) {
        struct source_event event = {
            .now_ns = now_ns, .type = path[i], .takes_postcopy = takes_postcopy};
        unsigned todo = 0;
        assert_int_equal(source_core_step(core, &event, &todo, NULL), 0);
    }
    assert_int_equal(core->phase, PHASE_PRECOPY);
}

static void finish_holds_writers_back_and_then_leaves_pages_behind(void **state)
{
    (void)state;
    struct source_core core;
    walk_to_finish(&core, true);
    unsigned rounds = 0, todo = 0;
    do {
        assert_int_equal(core.postcopy_reason, GODWIT__MOVE_POSTCOPY_REASON__MOVE_POSTCOPY_REASON_NONE);
        todo = stalled_round(&core);
        rounds++;
    } while (todo & SOURCE_TODO_ROUND && rounds < 20);
    assert_int_equal(todo, SOURCE_TODO_STAND_BY);
    assert_int_equal(rounds, 4); /* 500, 750, 800 of 1000, and one that shows that it is not enough */
    assert_int_equal(core.throttle.permille_peak, 800);
    assert_true(core.postcopy);
    assert_int_equal(core.postcopy_reason, GODWIT__MOVE_POSTCOPY_REASON__MOVE_POSTCOPY_REASON_GOAL);
    (void)step(&core, SOURCE_EVENT_STOOD_BY);
    (void)step(&core, SOURCE_EVENT_PAUSED);
    (void)step(&core, SOURCE_EVENT_DRAINED);
    (void)step(&core, SOURCE_EVENT_READY);
    (void)step(&core, SOURCE_EVENT_STARTED);
    assert_int_equal(core.phase, PHASE_POSTCOPY);
}

/* A press holds writers back as far as leads to post-copy, and is no reason for it. */
static void a_burst_after_a_press_leaves_no_pages_behind(void **state)
{
    (void)state;
    struct source_core core;
    walk_to_finish(&core, true);
    core.config.downtime_ns_max = core.converge.downtime_ns_max = 100 * NS_PER_MS;
    assert_int_equal(round_that_fits(&core, 10000, 10000), SOURCE_TODO_ROUND | SOURCE_TODO_THROTTLE);
    assert_int_equal(core.throttle.permille, THROTTLE_PRESS_PERMILLE);
    assert_true(round_that_fits(&core, 10000, 60000) & SOURCE_TODO_ROUND); /* 240 ms: far over its goal */
    assert_false(core.postcopy);
}

static void a_target_that_cannot_leaves_finish_with_its_throttle_and_its_deadline(void **state)
{
    (void)state;
    struct source_core core;
    walk_to_finish(&core, false);
    for (unsigned i = 0; i < 20; i++)
        assert_true(stalled_round(&core) & SOURCE_TODO_ROUND);
    assert_int_equal(core.throttle.permille, THROTTLE_PERMILLE_MAX);
    (void)step(&core, SOURCE_EVENT_TICK);
    now_ns = core.phase_deadline_ns;
    core.active_ns = now_ns;
    assert_true(step(&core, SOURCE_EVENT_TICK) & SOURCE_TODO_LATCH_ABORTED);
    assert_int_equal(core.fault.code, ERR_DEADLINE);
}

static void no_other_policy_leaves_pages_behind_by_itself(void **state)
{
    (void)state;
    static const enum source_policy policies[] = {SOURCE_POLICY_GENTLE, SOURCE_POLICY_BALANCED};
    for (unsigned i = 0; i < 2; i++) {
        struct source_core core;
        unsigned todo = 0;
        walk_to_finish(&core, true);
        /* the order named finish, and its operator has thought better of it */
        assert_int_equal(set_goals(&core, policies[i], NS_PER_MS, 5000, &todo), 0);
        for (unsigned round = 0; round < 20; round++)
            assert_true(stalled_round(&core) & SOURCE_TODO_ROUND);
        now_ns = core.phase_deadline_ns;
        assert_true(step(&core, SOURCE_EVENT_TICK) & SOURCE_TODO_LATCH_ABORTED);
        assert_int_equal(core.postcopy_reason, GODWIT__MOVE_POSTCOPY_REASON__MOVE_POSTCOPY_REASON_NONE);
    }
}

static void a_deadline_within_a_round_of_finish_is_answered_behind_it(void **state)
{
    (void)state;
    struct source_core core;
    walk_to_finish(&core, true);
    assert_true(stalled_round(&core) & SOURCE_TODO_ROUND);
    now_ns = core.phase_deadline_ns;
    assert_int_equal(step(&core, SOURCE_EVENT_TICK), 0);
    assert_int_equal(core.phase, PHASE_PRECOPY);
    assert_true(core.phase_deadline_ns > now_ns); /* INV-3 */
    assert_int_equal(stalled_round(&core), SOURCE_TODO_STAND_BY);
    assert_int_equal(core.postcopy_reason, GODWIT__MOVE_POSTCOPY_REASON__MOVE_POSTCOPY_REASON_DEADLINE);
    assert_true(core.phase_deadline_ns > now_ns);
}

static void a_round_that_never_ends_is_given_up_behind_the_deadline_too(void **state)
{
    (void)state;
    struct source_core core;
    walk_to_finish(&core, true);
    assert_true(stalled_round(&core) & SOURCE_TODO_ROUND);
    now_ns = core.phase_deadline_ns;
    assert_int_equal(step(&core, SOURCE_EVENT_TICK), 0);
    now_ns = core.phase_deadline_ns;
    core.active_ns = now_ns; /* it creeps */
    assert_true(step(&core, SOURCE_EVENT_TICK) & SOURCE_TODO_LATCH_ABORTED);
    assert_int_equal(core.fault.code, ERR_DEADLINE);
}

static void before_all_was_sent_once_the_deadline_leads_back_in_finish_too(void **state)
{
    (void)state;
    struct source_core core;
    walk_to_finish(&core, true);
    now_ns = core.phase_deadline_ns;
    assert_true(step(&core, SOURCE_EVENT_TICK) & SOURCE_TODO_LATCH_ABORTED);
    assert_non_null(strstr(core.fault.text, "before all memory had been sent once"));
}

static void what_fits_its_goal_at_the_deadline_leaves_nothing_behind(void **state)
{
    (void)state;
    struct source_core core;
    unsigned todo = 0;
    walk_to_finish(&core, true);
    assert_int_equal(set_goals(&core, SOURCE_POLICY_FINISH, NS_PER_S, 1000, &todo), 0);
    now_ns = core.phase_deadline_ns - NS_PER_MS;
    struct source_event shrinks = {
        .now_ns = now_ns,
        .type = SOURCE_EVENT_ROUND_DONE,
        .round = {
            .pages = 100000, .data_pages = 100000, .duration_ns = NS_PER_S, .dirty_pages = 50000}};
    assert_int_equal(source_core_step(&core, &shrinks, &todo, NULL), 0);
    assert_int_equal(todo, SOURCE_TODO_STAND_BY);
    assert_false(core.postcopy);
}

static void ready_out_of_turn_ends_the_move(void **state)
{
    (void)state;
    struct source_core core;
    walk(&core, PHASE_PRECOPY);
    assert_true(step(&core, SOURCE_EVENT_READY) & SOURCE_TODO_LATCH_ABORTED);
    assert_string_equal(core.fault.text, "the target said 'ready' in phase precopy");
}

static void a_phase_is_one_line_of_trace(void **state)
{
    (void)state;
    struct source_core core;
    walk(&core, PHASE_DONE);
    assert_int_equal(trace_count, 9);
    assert_string_equal(traced[0], "source none -> greet latch=1 round=0 ms=0");
    assert_string_equal(traced[6], "source state -> handover latch=2 round=1 ms=0");
    assert_string_equal(traced[8], "source parked -> done latch=4 round=1 ms=0");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_pair_is_handled_or_refused_and_no_latch_goes_back),
        cmocka_unit_test(a_long_pause_within_the_goal_is_made_short_by_pressing_writers),
        cmocka_unit_test(goals_count_from_the_moment_they_are_set),
        cmocka_unit_test(resume_after_gave_on_timeout_is_impossible),
        cmocka_unit_test(a_lost_link_after_gave_is_no_failure),
        cmocka_unit_test(an_abandoning_target_after_gave_still_needs_a_newer_generation),
        cmocka_unit_test(every_phase_has_a_deadline_and_it_leads_back),
        cmocka_unit_test(a_precopy_that_stands_still_for_a_minute_is_given_up),
        cmocka_unit_test(lanes_lost_in_precopy_are_dialled_and_the_next_round_follows),
        cmocka_unit_test(lanes_that_stay_away_lead_back_and_a_failed_dial_is_tried_again),
        cmocka_unit_test(a_target_that_refuses_for_seconds_is_not_waited_for),
        cmocka_unit_test(lanes_lost_in_the_pause_lead_back_and_after_gave_nowhere),
        cmocka_unit_test(a_guest_is_told_of_its_pause_once_and_waited_for),
        cmocka_unit_test(a_guest_that_never_answers_has_its_time_and_no_more),
        cmocka_unit_test(a_wait_for_the_guest_does_not_use_up_the_deadline),
        cmocka_unit_test(a_move_that_ends_while_it_waits_for_the_guest_just_ends),
        cmocka_unit_test(lanes_lost_while_the_guest_is_told_come_back_without_another_notice),
        cmocka_unit_test(a_post_copy_tells_the_guest_too),
        cmocka_unit_test(lanes_of_post_copy_that_neither_come_nor_fail_are_dialled_anew),
        cmocka_unit_test(finish_holds_writers_back_and_then_leaves_pages_behind),
        cmocka_unit_test(a_burst_after_a_press_leaves_no_pages_behind),
        cmocka_unit_test(a_target_that_cannot_leaves_finish_with_its_throttle_and_its_deadline),
        cmocka_unit_test(no_other_policy_leaves_pages_behind_by_itself),
        cmocka_unit_test(a_deadline_within_a_round_of_finish_is_answered_behind_it),
        cmocka_unit_test(a_round_that_never_ends_is_given_up_behind_the_deadline_too),
        cmocka_unit_test(before_all_was_sent_once_the_deadline_leads_back_in_finish_too),
        cmocka_unit_test(what_fits_its_goal_at_the_deadline_leaves_nothing_behind),
        cmocka_unit_test(ready_out_of_turn_ends_the_move),
        cmocka_unit_test(a_phase_is_one_line_of_trace),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

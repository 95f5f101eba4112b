/*  none -> greet -> prepare -> precopy (rounds) -> pause -> drain -> state -> handover -> done
 *    |       |         |          |                |       |        |          |  \
 *    +-------+---------+----------+----------------+-------+--------+          |   parked -> done
 *                          rolled-back (ABORTED, resumed)        GAVE --------+     |
 *                          rolled-back <---- only RESUME at a newer generation ------+
 *
 *  Where pages were left behind: handover, parked -> post-copy (serves, never runs) -> done
 */
#include "migrate/source_core.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "base/world.h"
#include "migrate/post_choice.h"
#include "proto/limits.h"

/* Of the pre-copy, where the order names no deadline. */
enum {
    DEADLINE_GENTLE_MS = 10 * 60 * 1000,
    DEADLINE_BALANCED_MS = 10 * 60 * 1000,
    DEADLINE_FINISH_MS = 60 * 60 * 1000,
    DEADLINE_MS_PER_GIB = 20 * 1000,
    REREAD_MS_PER_GIB = 4000,
    DRAIN_GOALS = 10, /* the drain may take ten times the goal before we turn back */
    /* Behind a deadline that came within a round: it ends, and what is missing is told. */
    OVERDUE_MS_MAX = 60 * 1000,
};

/* What each policy may take from the guest, in thousandths of its time, and how soon. */
static const struct {
    unsigned permille_max, stalls_min;
} throttles[] = {
    [SOURCE_POLICY_GENTLE] = {0, 0},
    [SOURCE_POLICY_BALANCED] = {800, 2},
    [SOURCE_POLICY_FINISH] = {THROTTLE_PERMILLE_MAX, 1},
};

static const char *const names[SOURCE_EVENT_COUNT] = {
    [SOURCE_EVENT_START] = "start",
    [SOURCE_EVENT_CONTROL_OPEN] = "control-open",
    [SOURCE_EVENT_LANES_OPEN] = "lanes-open",
    [SOURCE_EVENT_ROUND_DONE] = "round-done",
    [SOURCE_EVENT_STOOD_BY] = "stood-by",
    [SOURCE_EVENT_PAUSED] = "paused",
    [SOURCE_EVENT_DRAINED] = "drained",
    [SOURCE_EVENT_FAILED] = "failed",
    [SOURCE_EVENT_TICK] = "tick",
    [SOURCE_EVENT_NOTICED] = "noticed",
    [SOURCE_EVENT_LANE_LOST] = "lane-lost",
    [SOURCE_EVENT_HUNG_UP] = "hung-up",
    [SOURCE_EVENT_DIAL_FAILED] = "dial-failed",
    [SOURCE_EVENT_REJOINED] = "rejoined",
    [SOURCE_EVENT_WELCOME] = "welcome",
    [SOURCE_EVENT_PREPARED] = "prepared",
    [SOURCE_EVENT_READY] = "ready",
    [SOURCE_EVENT_STARTED] = "started",
    [SOURCE_EVENT_FETCHED] = "fetched",
    [SOURCE_EVENT_ABANDONED] = "abandoned",
    [SOURCE_EVENT_LINK_LOST] = "link-lost",
    [SOURCE_EVENT_VERDICT_CANCEL] = "verdict-cancel",
    [SOURCE_EVENT_VERDICT_STARTED] = "verdict-started",
    [SOURCE_EVENT_VERDICT_ABANDONED] = "verdict-abandoned",
    [SOURCE_EVENT_VERDICT_RESUME] = "verdict-resume",
    [SOURCE_EVENT_VERDICT_DROP] = "verdict-drop",
    [SOURCE_EVENT_GOALS] = "goals",
};

const char *source_event_name(enum source_event_type type)
{
    assert(type < SOURCE_EVENT_COUNT);
    return names[type];
}

static uint64_t gib_up(uint64_t pages)
{
    return (pages * PAGE_BYTES + GIB(1) - 1) / GIB(1);
}

uint64_t source_core_default_deadline_ms(const struct source_core_config *config)
{
    uint64_t ms = 0;
    switch (config->policy) {
    case SOURCE_POLICY_GENTLE:
        ms = DEADLINE_GENTLE_MS;
        break;
    case SOURCE_POLICY_BALANCED:
        ms = DEADLINE_BALANCED_MS;
        break;
    case SOURCE_POLICY_FINISH:
        ms = DEADLINE_FINISH_MS;
        break;
    }
    ms += gib_up(config->memory_pages) * DEADLINE_MS_PER_GIB;
    if (config->bandwidth_bytes_per_s) /* a limit that the operator set is not our delay */
        ms += config->memory_pages * PAGE_BYTES * 2 * 1000 / config->bandwidth_bytes_per_s;
    return ms;
}

void source_core_init(struct source_core *core, const struct source_core_config *config)
{
    memset(core, 0, sizeof *core); /* padding too: the explorer compares bytes */
    core->config = *config;
    if (core->config.deadline_ms == 0)
        core->config.deadline_ms = source_core_default_deadline_ms(config);
    core->latch = GODWIT__LATCH__LATCH_NONE;
    converge_init(&core->converge, config->downtime_ns_max, config->vcpus);
    throttle_init(&core->throttle, throttles[config->policy].permille_max,
                  throttles[config->policy].stalls_min);
}

static uint64_t phase_ms_max(const struct source_core *core, enum phase phase)
{
    uint64_t reread_ms =
        core->config.reread ? 1000 + gib_up(core->populated_pages) * REREAD_MS_PER_GIB : 0;

    switch (phase) {
    case PHASE_GREET:
        return CONNECT_MS_MAX + GREET_MS_MAX;
    case PHASE_PREPARE:
        return PREPARE_MS_MAX + gib_up(core->populated_pages) * PREPARE_MS_PER_GIB;
    case PHASE_PRECOPY:
        return core->config.deadline_ms;
    case PHASE_PAUSE:
        return PAUSE_MS_MAX;
    case PHASE_DRAIN:
        return PAUSE_MS_MAX + DRAIN_GOALS * core->config.downtime_ns_max / NS_PER_MS + reread_ms;
    case PHASE_STATE:
        return READY_MS_MAX + gib_up(core->config.memory_pages) * READY_MS_PER_GIB + reread_ms;
    case PHASE_HANDOVER:
        return STARTED_MS_MAX;
    case PHASE_PARKED: /* waits for a word; alarms and fences are the coordinator's */
    case PHASE_POSTCOPY: /* bounded by silence and by how long lanes may be away, see on_tick */
    case PHASE_NONE:
    case PHASE_DONE:
    case PHASE_ROLLED_BACK:
    case PHASE_COUNT:
        break;
    }
    return 0;
}

static void set_phase(struct source_core *core, enum phase phase, uint64_t now_ns)
{
    assert(phase_may_follow(core->phase, phase));
    if (core->config.trace) {
        char line[160];
        (void)snprintf(line, sizeof line, "source %s -> %s latch=%d round=%u ms=%llu",
                       phase_name(core->phase), phase_name(phase), (int)core->latch,
                       core->converge.rounds,
                       (unsigned long long)((now_ns - core->started_ns) / NS_PER_MS));
        core->config.trace(core->config.trace_data, line);
    }
    core->phase = phase;
    core->entered_ns[phase] = now_ns;
    uint64_t ms = phase_ms_max(core, phase);
    core->phase_deadline_ns = ms ? now_ns + ms * NS_PER_MS : 0;
}

static void latch(struct source_core *core, Godwit__Latch to)
{
    /* One way only; ABORTED after GAVE needs a newer generation that was granted. */
    assert(to > core->latch || to == GODWIT__LATCH__LATCH_ABORTED);
    assert(core->latch != GODWIT__LATCH__LATCH_RELEASED &&
           core->latch != GODWIT__LATCH__LATCH_ABORTED);
    assert(to != GODWIT__LATCH__LATCH_ABORTED || core->latch != GODWIT__LATCH__LATCH_GAVE ||
           core->generation_granted > core->config.generation);
    core->latch = to;
}

static void keep_fault(struct source_core *core, int code, const struct fault *fault,
                       const char *otherwise)
{
    if (fault && fault->code)
        core->fault = *fault;
    else
        (void)fault_set(&core->fault, code, "%s", otherwise);
}

/* INV-8: whatever happened, the guest runs on here as it did. Only before GAVE. */
static unsigned roll_back(struct source_core *core, uint64_t now_ns)
{
    assert(core->latch == GODWIT__LATCH__LATCH_OUT);
    assert(core->fault.code);

    unsigned todo = SOURCE_TODO_LATCH_ABORTED | SOURCE_TODO_END;
    if (core->guest_stopped)
        todo |= SOURCE_TODO_RESUME;
    if (core->control_open && !core->link_lost)
        todo |= SOURCE_TODO_SEND_ABORT;
    latch(core, GODWIT__LATCH__LATCH_ABORTED);
    core->ended_in = core->phase;
    core->ended = true;
    set_phase(core, PHASE_ROLLED_BACK, now_ns);
    return todo;
}

static void park(struct source_core *core, uint64_t now_ns)
{
    assert(core->latch == GODWIT__LATCH__LATCH_GAVE); /* INV-1: never resumes on its own again */
    if (core->phase == PHASE_HANDOVER)
        set_phase(core, PHASE_PARKED, now_ns);
}

static unsigned finish(struct source_core *core, uint64_t now_ns)
{
    assert(core->latch == GODWIT__LATCH__LATCH_GAVE);
    latch(core, GODWIT__LATCH__LATCH_RELEASED);
    core->fault = (struct fault){0}; /* a link that broke on the way no longer matters */
    core->ended_in = PHASE_DONE;
    core->ended = true;
    set_phase(core, PHASE_DONE, now_ns);
    return SOURCE_TODO_LATCH_RELEASED | SOURCE_TODO_END;
}

/* Only as policy finish, which an operator may take back on the way. */
static bool may_leave_late(const struct source_core *core)
{
    return core->may_postcopy && core->config.postcopy_late &&
           core->config.policy == SOURCE_POLICY_FINISH;
}

/* Either the move has not given the guest away and turns back, or it waits for a word. */
static unsigned give_up(struct source_core *core, uint64_t now_ns)
{
    switch (core->phase) {
    case PHASE_GREET:
    case PHASE_PREPARE:
    case PHASE_PRECOPY:
    case PHASE_PAUSE:
    case PHASE_DRAIN:
    case PHASE_STATE:
        return roll_back(core, now_ns);
    case PHASE_HANDOVER:
        park(core, now_ns);
        return 0;
    case PHASE_NONE:
    case PHASE_DONE:
    case PHASE_ROLLED_BACK:
    case PHASE_PARKED:
    case PHASE_POSTCOPY:
    case PHASE_COUNT:
        break;
    }
    return 0;
}

/* A word of the target that it may not say now: it does not follow the protocol. */
static unsigned out_of_turn(struct source_core *core, const struct source_event *event)
{
    if (core->phase == PHASE_HANDOVER || core->phase == PHASE_PARKED ||
        core->phase == PHASE_POSTCOPY)
        return 0; /* a late double; what counts now is STARTED, FETCHED or ABANDONED */
    (void)fault_set(&core->fault, ERR_CORRUPT, "the target said '%s' in phase %s",
                    source_event_name(event->type), phase_name(core->phase));
    return give_up(core, event->now_ns);
}

static unsigned on_start(struct source_core *core, const struct source_event *event)
{
    core->started_ns = event->now_ns;
    latch(core, GODWIT__LATCH__LATCH_OUT);
    set_phase(core, PHASE_GREET, event->now_ns);
    return SOURCE_TODO_LATCH_OUT | SOURCE_TODO_OPEN_CONTROL;
}

static unsigned on_control_open(struct source_core *core, const struct source_event *event)
{
    core->greeted_ns = event->now_ns;
    core->control_open = true;
    return SOURCE_TODO_SEND_HELLO;
}

/* Who may leave pages behind holds its guest back no further than is done before that. */
static void limit_throttle(struct source_core *core)
{
    enum source_policy policy = core->config.policy;
    unsigned permille = throttles[policy].permille_max;
    if (may_leave_late(core) && permille > POST_CHOICE_PERMILLE)
        permille = POST_CHOICE_PERMILLE;
    throttle_limit(&core->throttle, permille, throttles[policy].stalls_min);
}

static unsigned on_welcome(struct source_core *core, const struct source_event *event)
{
    if (core->phase != PHASE_GREET || !core->control_open)
        return out_of_turn(core, event);
    core->may_postcopy =
        core->config.postcopy || (core->config.postcopy_late && event->takes_postcopy);
    limit_throttle(core);
    core->populated_pages = event->populated_pages;
    /* The first round trip, of an idle wire; that of a fence also waits for what is under way. */
    core->converge.round_trip_ns = event->now_ns - core->greeted_ns;
    set_phase(core, PHASE_PREPARE, event->now_ns);
    return SOURCE_TODO_PREPARE;
}

static unsigned begin_precopy(struct source_core *core, uint64_t now_ns)
{
    if (!core->lanes_open || !core->prepared)
        return 0;
    set_phase(core, PHASE_PRECOPY, now_ns);
    return SOURCE_TODO_FIRST_ROUND;
}

static unsigned on_lanes_open(struct source_core *core, const struct source_event *event)
{
    core->lanes_open = true;
    return begin_precopy(core, event->now_ns);
}

static unsigned on_prepared(struct source_core *core, const struct source_event *event)
{
    if (core->phase != PHASE_PREPARE || core->prepared)
        return out_of_turn(core, event);
    core->prepared = true;
    return begin_precopy(core, event->now_ns);
}

/* ---- the notice to the guest ---------------------------------------------------------------- */

/* The pause could begin. A guest that wants to know of it hears of it once, and for as long as it
 * takes to answer the move stands still: what it costs is never more than notice_ms_max, and never
 * the move, whose own deadline does not count it. */
static unsigned give_notice(struct source_core *core, uint64_t now_ns)
{
    assert(core->notice == SOURCE_NOTICE_DUE && core->phase == PHASE_PRECOPY);
    core->notice = SOURCE_NOTICE_WAITING;
    core->notice_until_ns = now_ns + core->config.notice_ms_max * NS_PER_MS;
    core->phase_deadline_ns += core->config.notice_ms_max * NS_PER_MS;
    return SOURCE_TODO_NOTICE;
}

/* What it wrote meanwhile is sent before anything is judged by it: it took the wait, not a round. */
static unsigned end_notice(struct source_core *core)
{
    if (core->notice != SOURCE_NOTICE_WAITING)
        return 0; /* late, or doubled */
    core->notice = SOURCE_NOTICE_CATCH_UP;
    return SOURCE_TODO_ROUND;
}

static bool owes_notice(const struct source_core *core)
{
    return core->config.notice_ms_max && core->notice == SOURCE_NOTICE_DUE;
}

/* 0: another round. Else that was the last one: what misses the goal comes after the guest. */
static unsigned switch_over(struct source_core *core, uint64_t now_ns)
{
    const struct converge *converge = &core->converge;
    uint64_t deadline_ns = core->overdue ? now_ns : core->phase_deadline_ns;
    const struct post_choice facts = {
        .ordered = core->config.postcopy,
        .allowed = may_leave_late(core),
        .throttle_permille = core->throttle.is_pressed ? 0 : core->throttle.permille,
        .bandwidth_bytes_per_s = core->config.bandwidth_bytes_per_s,
        .left_ns = deadline_ns > now_ns ? deadline_ns - now_ns : 0,
    };
    Godwit__MovePostcopyReason reason = post_choice_make(converge, &facts);
    if (reason == GODWIT__MOVE_POSTCOPY_REASON__MOVE_POSTCOPY_REASON_NONE)
        return 0;
    if (owes_notice(core))
        return give_notice(core, now_ns);
    core->standing_by = true;
    if (reason == GODWIT__MOVE_POSTCOPY_REASON__MOVE_POSTCOPY_REASON_DEADLINE) {
        core->phase_deadline_ns = now_ns + OVERDUE_MS_MAX * NS_PER_MS;
        if (converge->predicted_ns <= converge->downtime_ns_max)
            return SOURCE_TODO_STAND_BY; /* it shrank still, and fits already */
    }
    core->postcopy = true;
    core->postcopy_reason = reason;
    return SOURCE_TODO_STAND_BY;
}

static unsigned on_round_done(struct source_core *core, const struct source_event *event)
{
    assert(!core->standing_by);
    const struct converge *converge = &core->converge;
    if (core->notice == SOURCE_NOTICE_CATCH_UP) {
        core->notice = SOURCE_NOTICE_OVER;
        return SOURCE_TODO_ROUND;
    }
    if (converge_step(&core->converge, &event->round) == CONVERGE_ROUND) {
        unsigned over = switch_over(core, event->now_ns);
        if (over)
            return over;
        unsigned before = core->throttle.permille;
        if (converge->predicted_ns > converge->downtime_ns_max)
            (void)throttle_step(&core->throttle, converge->dirty_before, event->round.dirty_pages,
                                converge->stalls);
        return SOURCE_TODO_ROUND | (core->throttle.permille != before ? SOURCE_TODO_THROTTLE : 0);
    }
    if (owes_notice(core))
        return give_notice(core, event->now_ns);
    if (converge->predicted_ns > THROTTLE_PRESS_NS_MIN && throttle_press(&core->throttle))
        return SOURCE_TODO_ROUND | SOURCE_TODO_THROTTLE;
    core->standing_by = true;
    return SOURCE_TODO_STAND_BY;
}

static unsigned on_noticed(struct source_core *core, const struct source_event *event)
{
    (void)event;
    return end_notice(core);
}

static unsigned on_stood_by(struct source_core *core, const struct source_event *event)
{
    core->guest_stopped = true; /* as soon as the todo is out it may be */
    set_phase(core, PHASE_PAUSE, event->now_ns);
    return SOURCE_TODO_PAUSE;
}

static unsigned on_paused(struct source_core *core, const struct source_event *event)
{
    set_phase(core, PHASE_DRAIN, event->now_ns);
    return SOURCE_TODO_DRAIN;
}

static unsigned on_drained(struct source_core *core, const struct source_event *event)
{
    set_phase(core, PHASE_STATE, event->now_ns);
    return SOURCE_TODO_SEND_STATE;
}

static unsigned on_ready(struct source_core *core, const struct source_event *event)
{
    if (core->phase != PHASE_STATE)
        return out_of_turn(core, event);
    assert(core->away == SOURCE_AWAY_NO);
    /* INV-2, INV-1: the commit point. From here on forward only. */
    latch(core, GODWIT__LATCH__LATCH_GAVE);
    set_phase(core, PHASE_HANDOVER, event->now_ns);
    return SOURCE_TODO_LATCH_GAVE | SOURCE_TODO_SEND_TRANSFER;
}

static unsigned serve(struct source_core *core, const struct source_event *event);

static unsigned on_started(struct source_core *core, const struct source_event *event)
{
    if (core->phase != PHASE_HANDOVER && core->phase != PHASE_PARKED)
        return out_of_turn(core, event);
    return core->postcopy ? serve(core, event) : finish(core, event->now_ns);
}

/* Nobody will ask for the pages any more, and not because all went well. */
static unsigned lose(struct source_core *core, uint64_t now_ns)
{
    assert(core->phase == PHASE_POSTCOPY && core->fault.code);
    latch(core, GODWIT__LATCH__LATCH_RELEASED);
    core->ended_in = core->phase;
    core->ended = true;
    set_phase(core, PHASE_DONE, now_ns);
    return SOURCE_TODO_LATCH_RELEASED | SOURCE_TODO_END;
}

/* Its STARTED may have been lost: who has every page runs. */
static unsigned on_fetched(struct source_core *core, const struct source_event *event)
{
    bool gave = core->latch == GODWIT__LATCH__LATCH_GAVE;
    if (!core->postcopy || !gave)
        return out_of_turn(core, event);
    if (core->phase != PHASE_POSTCOPY)
        set_phase(core, PHASE_POSTCOPY, event->now_ns);
    if (!event->fault)
        return finish(core, event->now_ns) | SOURCE_TODO_SEND_SERVED;
    /* It has run with them, so nothing is to be had from asking again: somebody must look. */
    core->fault = *event->fault;
    (void)fault_wrap(&core->fault, ERR_ATTENTION, "all its memory was given, but not as it was");
    return lose(core, event->now_ns) | SOURCE_TODO_SEND_SERVED;
}

static unsigned on_abandoned(struct source_core *core, const struct source_event *event)
{
    if (core->phase == PHASE_POSTCOPY)
        return 0; /* it took, so it cannot have */
    keep_fault(core, ERR_ROLLED_BACK, event->fault, "the target abandoned the move");
    if (core->latch == GODWIT__LATCH__LATCH_GAVE)
        core->target_abandoned = true; /* still: only a newer generation may resume */
    return give_up(core, event->now_ns);
}

/* ---- lost lanes ----------------------------------------------------------------------------- */

/* Only while the guest runs: in the pause a second link is not worth what the guest would wait for
 * it, so the move turns back (before GAVE) or parks. Once a target was told of pages that will not
 * come before the switchover, it has given up what it had of them: then too. */
static bool may_go_away(const struct source_core *core)
{
    return core->phase == PHASE_POSTCOPY || (core->phase == PHASE_PRECOPY && !core->postcopy &&
                                             core->config.away_ms_max > 0);
}

static uint64_t away_ms_max(const struct source_core *core)
{
    return core->phase == PHASE_POSTCOPY ? core->config.postcopy_away_ms_max
                                         : core->config.away_ms_max;
}

static unsigned go_away(struct source_core *core, const struct source_event *event)
{
    bool serves = core->phase == PHASE_POSTCOPY;
    assert(serves || (core->latch == GODWIT__LATCH__LATCH_OUT && !core->guest_stopped));
    if (core->away == SOURCE_AWAY_HANGING_UP)
        return 0; /* the other lanes of the same loss */
    if (core->away == SOURCE_AWAY_NO) {
        core->away_ns = event->now_ns;
        core->refused_ns = 0;
    }
    core->away = SOURCE_AWAY_HANGING_UP;
    core->standing_by = false;
    if (core->notice != SOURCE_NOTICE_DUE) /* it was told: what comes back goes on without a wait */
        core->notice = SOURCE_NOTICE_OVER;
    core->away_fault = (struct fault){0};
    if (event->fault)
        core->away_fault = *event->fault;
    return SOURCE_TODO_HANG_UP | (serves ? 0 : SOURCE_TODO_THROTTLE);
}

/* The target has the guest, we have pages of it. INV-1: whatever comes, it never runs here again. */
static unsigned serve(struct source_core *core, const struct source_event *event)
{
    assert(core->latch == GODWIT__LATCH__LATCH_GAVE);
    bool is_cut = core->link_lost || core->lane_lost;
    set_phase(core, PHASE_POSTCOPY, event->now_ns);
    core->fault = (struct fault){0};
    core->link_lost = core->lane_lost = false;
    core->active_ns = 0;
    return is_cut ? go_away(core, event) : 0;
}

static unsigned on_hung_up(struct source_core *core, const struct source_event *event)
{
    core->away = SOURCE_AWAY_DIALING;
    core->dial_ns = event->now_ns;
    return SOURCE_TODO_DIAL;
}

static unsigned on_dial_failed(struct source_core *core, const struct source_event *event)
{
    bool refused = event->fault && event->fault->code == ERR_REFUSED;
    if (!refused)
        core->refused_ns = 0;
    else if (!core->refused_ns)
        core->refused_ns = event->now_ns;
    bool is_over = refused && event->now_ns - core->refused_ns >= REFUSED_MS_MAX * NS_PER_MS;
    /* In post-copy a firewall's word is not enough to throw away what only we have: if the target
     * has ended, the coordinator says DROP. */
    if (is_over && core->phase != PHASE_POSTCOPY) {
        (void)fault_set(&core->fault, ERR_CLOSED, "nobody awaits the move at the target any more");
        return give_up(core, event->now_ns);
    }
    return go_away(core, event); /* what is open of this epoch ends, and then the next one */
}

static unsigned on_rejoined(struct source_core *core, const struct source_event *event)
{
    core->away = SOURCE_AWAY_NO;
    core->away_all_ns += event->now_ns - core->away_ns;
    core->reconnects++;
    core->active_ns = event->now_ns;
    return core->phase == PHASE_POSTCOPY ? 0 : SOURCE_TODO_ROUND | SOURCE_TODO_THROTTLE;
}

static bool is_away_too_long(const struct source_core *core, uint64_t now_ns)
{
    return core->away != SOURCE_AWAY_NO &&
           now_ns - core->away_ns >= away_ms_max(core) * NS_PER_MS;
}

static unsigned on_link_lost(struct source_core *core, const struct source_event *event)
{
    if (may_go_away(core))
        return go_away(core, event);
    core->link_lost = true;
    if (!core->target_abandoned)
        keep_fault(core, ERR_CLOSED, event->fault, "the target is gone");
    return give_up(core, event->now_ns);
}

static unsigned on_failed(struct source_core *core, const struct source_event *event)
{
    /* A changed byte, a word that makes no sense, no memory for a thread: new lanes mend it, and
     * the target says anew what it lacks. */
    if (core->phase == PHASE_POSTCOPY)
        return go_away(core, event);
    /* After GAVE what fails here no longer matters: a lane that breaks, a message not sent. But a
     * source that has to serve then serves by new lanes. */
    if (core->latch != GODWIT__LATCH__LATCH_GAVE)
        keep_fault(core, ERR_IO, event->fault, "the move failed");
    else
        core->lane_lost = core->postcopy;
    return give_up(core, event->now_ns);
}

static unsigned on_lane_lost(struct source_core *core, const struct source_event *event)
{
    if (may_go_away(core))
        return go_away(core, event);
    return on_failed(core, event);
}

static bool has_stalled(struct source_core *core, const struct source_event *event)
{
    if ((core->phase != PHASE_PRECOPY && core->phase != PHASE_POSTCOPY) ||
        core->away != SOURCE_AWAY_NO)
        return false;
    if (event->activity != core->activity || !core->active_ns) {
        core->activity = event->activity;
        core->active_ns = event->now_ns;
    }
    return event->now_ns - core->active_ns >= SOURCE_SILENT_MS_MAX * NS_PER_MS;
}

/* All memory was sent once, and the round that is under way ends of itself. */
static bool may_be_overdue(const struct source_core *core)
{
    return core->phase == PHASE_PRECOPY && may_leave_late(core) && core->converge.rounds > 0 &&
           core->away == SOURCE_AWAY_NO && core->notice != SOURCE_NOTICE_WAITING &&
           !core->standing_by && !core->overdue;
}

static unsigned on_tick(struct source_core *core, const struct source_event *event)
{
    if (has_stalled(core, event)) {
        if (core->phase == PHASE_POSTCOPY)
            return go_away(core, event);
        (void)fault_set(&core->fault, ERR_TIMEOUT, "nothing went to the target for %d s",
                        SOURCE_SILENT_MS_MAX / 1000);
        return give_up(core, event->now_ns);
    }
    if (core->phase == PHASE_POSTCOPY && is_away_too_long(core, event->now_ns)) {
        (void)fault_set(&core->fault, ERR_ATTENTION,
                        "in post-copy its lanes were lost and did not come back within %llu ms: "
                        "%.300s",
                        (unsigned long long)away_ms_max(core), core->away_fault.text);
        return lose(core, event->now_ns);
    }
    if (core->phase == PHASE_POSTCOPY && core->away == SOURCE_AWAY_DIALING &&
        event->now_ns - core->dial_ns >= SOURCE_DIAL_MS_MAX * NS_PER_MS)
        return go_away(core, event); /* half a word that came is waited for no longer */
    if (is_away_too_long(core, event->now_ns)) {
        (void)fault_set(&core->fault, ERR_TIMEOUT,
                        "its lanes were lost and did not come back within %llu ms: %.300s",
                        (unsigned long long)core->config.away_ms_max, core->away_fault.text);
        return give_up(core, event->now_ns);
    }
    if (core->notice == SOURCE_NOTICE_WAITING && event->now_ns >= core->notice_until_ns)
        return end_notice(core); /* it had its time */
    if (core->phase_deadline_ns == 0 || event->now_ns < core->phase_deadline_ns)
        return 0;
    if (may_be_overdue(core)) {
        core->overdue = true;
        core->phase_deadline_ns = event->now_ns + OVERDUE_MS_MAX * NS_PER_MS;
        return 0;
    }
    if (core->phase == PHASE_PRECOPY && core->converge.rounds == 0)
        (void)fault_set(&core->fault, ERR_DEADLINE,
                        "its deadline of %llu s came before all memory had been sent once",
                        (unsigned long long)(core->config.deadline_ms / 1000));
    else if (core->phase == PHASE_PRECOPY)
        (void)fault_set(&core->fault, ERR_DEADLINE,
                        "its deadline came: the pause would be %llu ms, the goal is %llu ms, and "
                        "the %llu s that were given did not bring it down",
                        (unsigned long long)(core->converge.predicted_ns / NS_PER_MS),
                        (unsigned long long)(core->config.downtime_ns_max / NS_PER_MS),
                        (unsigned long long)(core->config.deadline_ms / 1000));
    else
        (void)fault_set(&core->fault, ERR_TIMEOUT, "phase %s took longer than %llu ms",
                        phase_name(core->phase),
                        (unsigned long long)phase_ms_max(core, core->phase));
    return give_up(core, event->now_ns);
}

static unsigned on_cancel(struct source_core *core, const struct source_event *event)
{
    keep_fault(core, ERR_CANCELED, event->fault, "the move was cancelled");
    return give_up(core, event->now_ns);
}

static unsigned on_goals(struct source_core *core, const struct source_event *event)
{
    const struct source_goals *goals = &event->goals;
    struct source_core_config *config = &core->config;
    config->downtime_ns_max = core->converge.downtime_ns_max = goals->downtime_ns_max;
    config->bandwidth_bytes_per_s = goals->bandwidth_bytes_per_s;
    config->policy = goals->policy;
    config->deadline_ms =
        goals->deadline_ms ? goals->deadline_ms : source_core_default_deadline_ms(config);
    uint64_t noticed_ms = core->notice == SOURCE_NOTICE_DUE ? 0 : config->notice_ms_max;
    if (core->phase == PHASE_PRECOPY)
        core->phase_deadline_ns =
            core->entered_ns[PHASE_PRECOPY] + (config->deadline_ms + noticed_ms) * NS_PER_MS;
    core->overdue = false;
    unsigned before = core->throttle.permille;
    limit_throttle(core);
    return core->throttle.permille != before ? SOURCE_TODO_THROTTLE : 0;
}

static unsigned resume_granted(struct source_core *core, const struct source_event *event)
{
    assert(core->latch == GODWIT__LATCH__LATCH_GAVE);
    assert(event->generation > core->config.generation); /* INV-1 */

    core->generation_granted = event->generation;
    core->ended_in = core->phase;
    latch(core, GODWIT__LATCH__LATCH_ABORTED);
    if (!core->fault.code)
        (void)fault_set(&core->fault, ERR_ROLLED_BACK,
                        "the target did not take the guest; it was granted back");
    core->ended = true;
    set_phase(core, PHASE_ROLLED_BACK, event->now_ns);
    return SOURCE_TODO_LATCH_ABORTED | SOURCE_TODO_RESUME | SOURCE_TODO_END;
}

static unsigned on_verdict_abandoned(struct source_core *core, const struct source_event *event)
{
    core->target_abandoned = true;
    if (event->generation > core->config.generation)
        return resume_granted(core, event);
    park(core, event->now_ns);
    return 0;
}

static unsigned on_drop(struct source_core *core, const struct source_event *event)
{
    bool serves = core->phase == PHASE_POSTCOPY;
    (void)fault_set(&core->fault, ERR_ATTENTION, "the guest's memory here was dropped on order: %s",
                    serves ? "its target did not tell that it has all of it, and whether it is "
                             "the same there was not compared"
                           : "nobody told that it runs");
    latch(core, GODWIT__LATCH__LATCH_RELEASED);
    core->ended_in = core->phase;
    core->ended = true;
    set_phase(core, PHASE_DONE, event->now_ns);
    return SOURCE_TODO_LATCH_RELEASED | SOURCE_TODO_END;
}

/* May the shell or the world say this now? The target's words are not judged here. */
static bool may_happen(const struct source_core *core, const struct source_event *event)
{
    bool gave = core->latch == GODWIT__LATCH__LATCH_GAVE;

    switch (event->type) {
    case SOURCE_EVENT_START:
        return core->phase == PHASE_NONE;
    case SOURCE_EVENT_CONTROL_OPEN:
        return core->phase == PHASE_GREET && !core->control_open;
    case SOURCE_EVENT_LANES_OPEN:
        return core->phase == PHASE_PREPARE && !core->lanes_open;
    case SOURCE_EVENT_ROUND_DONE:
        return core->phase == PHASE_PRECOPY && !core->standing_by &&
               core->notice != SOURCE_NOTICE_WAITING && core->away == SOURCE_AWAY_NO;
    case SOURCE_EVENT_HUNG_UP:
        return core->away == SOURCE_AWAY_HANGING_UP;
    case SOURCE_EVENT_DIAL_FAILED:
    case SOURCE_EVENT_REJOINED:
        return core->away == SOURCE_AWAY_DIALING;
    case SOURCE_EVENT_STOOD_BY:
        return core->phase == PHASE_PRECOPY && core->standing_by;
    case SOURCE_EVENT_PAUSED:
        return core->phase == PHASE_PAUSE;
    case SOURCE_EVENT_DRAINED:
        return core->phase == PHASE_DRAIN;
    case SOURCE_EVENT_VERDICT_CANCEL:
        return core->phase != PHASE_NONE && !gave;
    case SOURCE_EVENT_VERDICT_STARTED:
    case SOURCE_EVENT_VERDICT_DROP:
        return gave;
    case SOURCE_EVENT_VERDICT_ABANDONED:
        return gave && core->phase != PHASE_POSTCOPY; /* INV-1: it took, so our memory is older */
    case SOURCE_EVENT_VERDICT_RESUME:
        return gave && core->phase != PHASE_POSTCOPY &&
               event->generation > core->config.generation;
    case SOURCE_EVENT_GOALS: /* nobody reads them any more once the pause was decided on */
        return core->phase <= PHASE_PRECOPY && !core->standing_by;
    case SOURCE_EVENT_FAILED:
    case SOURCE_EVENT_LANE_LOST:
    case SOURCE_EVENT_TICK:
    case SOURCE_EVENT_NOTICED:
    case SOURCE_EVENT_WELCOME:
    case SOURCE_EVENT_PREPARED:
    case SOURCE_EVENT_READY:
    case SOURCE_EVENT_STARTED:
    case SOURCE_EVENT_FETCHED:
    case SOURCE_EVENT_ABANDONED:
    case SOURCE_EVENT_LINK_LOST:
        return core->phase != PHASE_NONE;
    case SOURCE_EVENT_COUNT:
        break;
    }
    return false;
}

/* Somebody waits for the answer. */
static bool is_from_outside(enum source_event_type type)
{
    return type >= SOURCE_EVENT_VERDICT_CANCEL && type <= SOURCE_EVENT_GOALS;
}

static unsigned dispatch(struct source_core *core, const struct source_event *event)
{
    switch (event->type) {
    case SOURCE_EVENT_START:
        return on_start(core, event);
    case SOURCE_EVENT_CONTROL_OPEN:
        return on_control_open(core, event);
    case SOURCE_EVENT_LANES_OPEN:
        return on_lanes_open(core, event);
    case SOURCE_EVENT_ROUND_DONE:
        return on_round_done(core, event);
    case SOURCE_EVENT_STOOD_BY:
        return on_stood_by(core, event);
    case SOURCE_EVENT_PAUSED:
        return on_paused(core, event);
    case SOURCE_EVENT_DRAINED:
        return on_drained(core, event);
    case SOURCE_EVENT_FAILED:
        return on_failed(core, event);
    case SOURCE_EVENT_TICK:
        return on_tick(core, event);
    case SOURCE_EVENT_NOTICED:
        return on_noticed(core, event);
    case SOURCE_EVENT_LANE_LOST:
        return on_lane_lost(core, event);
    case SOURCE_EVENT_HUNG_UP:
        return on_hung_up(core, event);
    case SOURCE_EVENT_DIAL_FAILED:
        return on_dial_failed(core, event);
    case SOURCE_EVENT_REJOINED:
        return on_rejoined(core, event);
    case SOURCE_EVENT_WELCOME:
        return on_welcome(core, event);
    case SOURCE_EVENT_PREPARED:
        return on_prepared(core, event);
    case SOURCE_EVENT_READY:
        return on_ready(core, event);
    case SOURCE_EVENT_STARTED:
    case SOURCE_EVENT_VERDICT_STARTED:
        return on_started(core, event);
    case SOURCE_EVENT_FETCHED:
        return on_fetched(core, event);
    case SOURCE_EVENT_ABANDONED:
        return on_abandoned(core, event);
    case SOURCE_EVENT_LINK_LOST:
        return on_link_lost(core, event);
    case SOURCE_EVENT_VERDICT_CANCEL:
        return on_cancel(core, event);
    case SOURCE_EVENT_VERDICT_ABANDONED:
        return on_verdict_abandoned(core, event);
    case SOURCE_EVENT_VERDICT_RESUME:
        return resume_granted(core, event);
    case SOURCE_EVENT_VERDICT_DROP:
        return on_drop(core, event);
    case SOURCE_EVENT_GOALS:
        return on_goals(core, event);
    case SOURCE_EVENT_COUNT:
        break;
    }
    assert(false);
    return 0;
}

uint64_t source_core_deadline_ns(const struct source_core *core)
{
    bool waits = core->notice == SOURCE_NOTICE_WAITING && !core->ended;
    return waits && core->notice_until_ns < core->phase_deadline_ns ? core->notice_until_ns
                                                                   : core->phase_deadline_ns;
}

unsigned source_core_throttle(const struct source_core *core)
{
    return core->ended || core->away != SOURCE_AWAY_NO ? 0 : core->throttle.permille;
}

int source_core_step(struct source_core *core, const struct source_event *event, unsigned *ret_todo,
                     struct fault *fault)
{
    *ret_todo = 0;
    if (core->ended && !is_from_outside(event->type))
        return 0; /* the shell's and the wire's late news; nothing to decide any more */
    if (core->ended || !may_happen(core, event))
        return fault_set(fault, ERR_STATE, "'%s' may not be in phase %s",
                         source_event_name(event->type), phase_name(core->phase));
    *ret_todo = dispatch(core, event);
    return 0;
}

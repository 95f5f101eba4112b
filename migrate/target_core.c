/*  none -> greet -> prepare -> precopy -> pause, drain -> state -> handover -> done
 *    |       |        |          |            |           |         |  READY -> TOOK, resume
 *    +-------+--------+----------+------------+-----------+---------+
 *                         rolled-back (ABANDONED: will never run)
 *
 * The target does not see the pause begin: it passes through pause and drain when the last fences
 * and the state arrive. Where pages were left behind: handover -> post-copy (TOOK, runs) -> done.
 */
#include "migrate/target_core.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "base/world.h"
#include "proto/limits.h"

enum { REREAD_MS_PER_GIB = 4000, WHOLE_MS_MAX = 30000, FETCHED_AGAIN_MS = 1000 };

static const char *const names[TARGET_EVENT_COUNT] = {
    [TARGET_EVENT_START] = "start",
    [TARGET_EVENT_LANES_OPEN] = "lanes-open",
    [TARGET_EVENT_POPULATED] = "populated",
    [TARGET_EVENT_DRAINED] = "drained",
    [TARGET_EVENT_LOADED] = "loaded",
    [TARGET_EVENT_RESUMED] = "resumed",
    [TARGET_EVENT_FAILED] = "failed",
    [TARGET_EVENT_TICK] = "tick",
    [TARGET_EVENT_LANE_LOST] = "lane-lost",
    [TARGET_EVENT_REJOINED] = "rejoined",
    [TARGET_EVENT_FETCHED] = "fetched",
    [TARGET_EVENT_GUEST_LOST] = "guest-lost",
    [TARGET_EVENT_DROPPED] = "dropped",
    [TARGET_EVENT_HELLO] = "hello",
    [TARGET_EVENT_EXTENTS_END] = "extents-end",
    [TARGET_EVENT_MISSING] = "missing",
    [TARGET_EVENT_STATE] = "state",
    [TARGET_EVENT_TRANSFER] = "transfer",
    [TARGET_EVENT_ABORT] = "abort",
    [TARGET_EVENT_SERVED] = "served",
    [TARGET_EVENT_LINK_LOST] = "link-lost",
    [TARGET_EVENT_VERDICT_TAKE] = "verdict-take",
    [TARGET_EVENT_VERDICT_ABANDON] = "verdict-abandon",
};

const char *target_event_name(enum target_event_type type)
{
    assert(type < TARGET_EVENT_COUNT);
    return names[type];
}

void target_core_init(struct target_core *core, const struct target_core_config *config)
{
    memset(core, 0, sizeof *core);
    core->config = *config;
    core->latch = GODWIT__LATCH__LATCH_NONE;
}

static uint64_t gib_up(uint64_t pages)
{
    return (pages * PAGE_BYTES + GIB(1) - 1) / GIB(1);
}

static uint64_t phase_ms_max(const struct target_core *core, enum phase phase)
{
    switch (phase) {
    case PHASE_GREET:
        return CONNECT_MS_MAX + GREET_MS_MAX;
    case PHASE_PREPARE:
        /* Before the extents are known, the most that they can be. */
        return PREPARE_MS_MAX +
               gib_up(core->extents_known ? core->populate_pages : core->config.memory_pages) *
                   PREPARE_MS_PER_GIB;
    case PHASE_PRECOPY:
        return TARGET_SILENT_MS_MAX; /* pushed on by every byte, see on_tick */
    case PHASE_PAUSE:
    case PHASE_DRAIN:
        return WHOLE_MS_MAX; /* the source has the tighter one; this only frees what is left */
    case PHASE_STATE:
        return WHOLE_MS_MAX + gib_up(core->config.memory_pages) *
                                  (READY_MS_PER_GIB + (core->reread ? REREAD_MS_PER_GIB : 0));
    case PHASE_HANDOVER:
        return PARK_FENCE_MS;
    case PHASE_NONE:
    case PHASE_DONE:
    case PHASE_ROLLED_BACK:
    case PHASE_PARKED:
    case PHASE_POSTCOPY: /* set by hand: of silence, of an absence, of the last word */
    case PHASE_COUNT:
        break;
    }
    return 0;
}

static void set_phase(struct target_core *core, enum phase phase, uint64_t now_ns)
{
    assert(phase_may_follow(core->phase, phase));
    if (core->config.trace) {
        char line[160];
        (void)snprintf(line, sizeof line, "target %s -> %s latch=%d ms=%llu",
                       phase_name(core->phase), phase_name(phase), (int)core->latch,
                       (unsigned long long)((now_ns - core->started_ns) / NS_PER_MS));
        core->config.trace(core->config.trace_data, line);
    }
    core->phase = phase;
    core->entered_ns[phase] = now_ns;
    uint64_t ms = phase_ms_max(core, phase);
    core->phase_deadline_ns = ms ? now_ns + ms * NS_PER_MS : 0;
}

static void latch(struct target_core *core, Godwit__Latch to)
{
    assert(to > core->latch);                         /* one way only */
    assert(core->latch != GODWIT__LATCH__LATCH_TOOK); /* TOOK and ABANDONED exclude each other */
    core->latch = to;
}

static void keep_fault(struct target_core *core, int code, const struct fault *fault,
                       const char *otherwise)
{
    if (fault && fault->code)
        core->fault = *fault;
    else
        (void)fault_set(&core->fault, code, "%s", otherwise);
}

/* Latched before it is said: from here on this guest will never run here. */
static unsigned abandon(struct target_core *core, uint64_t now_ns)
{
    assert(core->latch == GODWIT__LATCH__LATCH_IN || core->latch == GODWIT__LATCH__LATCH_READY);
    assert(core->fault.code);

    unsigned todo = TARGET_TODO_LATCH_ABANDONED | TARGET_TODO_END;
    if (!core->link_lost)
        todo |= TARGET_TODO_SEND_ABANDONED; /* where there is a control lane to say it on */
    latch(core, GODWIT__LATCH__LATCH_ABANDONED);
    core->ended_in = core->phase;
    core->ended = true;
    set_phase(core, PHASE_ROLLED_BACK, now_ns);
    return todo;
}

static unsigned out_of_turn(struct target_core *core, const struct target_event *event)
{
    if (core->latch == GODWIT__LATCH__LATCH_TOOK)
        return 0; /* a late double */
    (void)fault_set(&core->fault, ERR_CORRUPT, "the source said '%s' in phase %s",
                    target_event_name(event->type), phase_name(core->phase));
    return abandon(core, event->now_ns);
}

static unsigned on_start(struct target_core *core, const struct target_event *event)
{
    core->started_ns = event->now_ns;
    latch(core, GODWIT__LATCH__LATCH_IN);
    set_phase(core, PHASE_GREET, event->now_ns);
    return TARGET_TODO_LATCH_IN | TARGET_TODO_ACCEPT;
}

static unsigned on_hello(struct target_core *core, const struct target_event *event)
{
    if (core->phase != PHASE_GREET)
        return out_of_turn(core, event);
    core->away_ms_max = event->away_ms_max < AWAY_MS_LONGEST ? event->away_ms_max : AWAY_MS_LONGEST;
    core->postcopy_away_ms_max = event->postcopy_away_ms_max < AWAY_MS_LONGEST
                                     ? event->postcopy_away_ms_max
                                     : AWAY_MS_LONGEST;
    core->may_postcopy = event->postcopy;
    set_phase(core, PHASE_PREPARE, event->now_ns);
    return TARGET_TODO_SEND_WELCOME;
}

static unsigned on_extents_end(struct target_core *core, const struct target_event *event)
{
    if (core->phase != PHASE_PREPARE || core->extents_known)
        return out_of_turn(core, event);
    core->extents_known = true;
    core->populate_pages = event->pages;
    return TARGET_TODO_POPULATE;
}

static unsigned begin_precopy(struct target_core *core, const struct target_event *event)
{
    if (!core->lanes_open || !core->populated)
        return 0;
    set_phase(core, PHASE_PRECOPY, event->now_ns);
    return TARGET_TODO_SEND_PREPARED;
}

static unsigned on_lanes_open(struct target_core *core, const struct target_event *event)
{
    core->lanes_open = true;
    return begin_precopy(core, event);
}

static unsigned on_populated(struct target_core *core, const struct target_event *event)
{
    core->populated = true;
    return begin_precopy(core, event);
}

static unsigned become_whole(struct target_core *core, uint64_t now_ns)
{
    if (core->phase == PHASE_PRECOPY) {
        set_phase(core, PHASE_PAUSE, now_ns);
        set_phase(core, PHASE_DRAIN, now_ns);
    }
    if (!core->drained || !core->has_state)
        return 0;
    set_phase(core, PHASE_STATE, now_ns);
    return TARGET_TODO_LOAD;
}

static unsigned on_drained(struct target_core *core, const struct target_event *event)
{
    core->drained = true;
    return become_whole(core, event->now_ns);
}

/* Told while the guest still runs at the source, and once more in its pause. */
static unsigned on_missing(struct target_core *core, const struct target_event *event)
{
    bool in_turn = core->phase == PHASE_PRECOPY || core->phase == PHASE_DRAIN;
    if (!core->may_postcopy || !in_turn || core->has_state || core->away)
        return out_of_turn(core, event);
    core->postcopy = true;
    return 0;
}

static unsigned on_state(struct target_core *core, const struct target_event *event)
{
    if ((core->phase != PHASE_PRECOPY && core->phase != PHASE_DRAIN) || core->has_state)
        return out_of_turn(core, event);
    if (core->away) { /* it broke in the pause: the source's guest stands and waits for our word */
        keep_fault(core, ERR_CLOSED, &core->away_fault, "a lane broke");
        return abandon(core, event->now_ns);
    }
    if (event->postcopy != core->postcopy) {
        (void)fault_set(&core->fault, ERR_CORRUPT, "the source left %s pages behind than it told of",
                        event->postcopy ? "other" : "fewer");
        return abandon(core, event->now_ns);
    }
    core->has_state = true;
    core->state_digest = event->state_digest;
    core->reread = event->reread;
    return become_whole(core, event->now_ns);
}

static unsigned on_loaded(struct target_core *core, const struct target_event *event)
{
    assert(core->drained && core->has_state);
    latch(core, GODWIT__LATCH__LATCH_READY);
    set_phase(core, PHASE_HANDOVER, event->now_ns);
    return TARGET_TODO_LATCH_READY | TARGET_TODO_SEND_READY;
}

static unsigned go_away(struct target_core *core, const struct target_event *event);

static unsigned take(struct target_core *core, const struct target_event *event)
{
    latch(core, GODWIT__LATCH__LATCH_TOOK);
    unsigned todo = TARGET_TODO_LATCH_TOOK | TARGET_TODO_RESUME;
    if (!core->postcopy) {
        core->phase_deadline_ns = 0; /* nothing but RESUMED is awaited, and that is our own */
        return todo;
    }
    bool is_cut = core->link_lost || core->lane_lost;
    set_phase(core, PHASE_POSTCOPY, event->now_ns);
    core->phase_deadline_ns = event->now_ns + TARGET_SILENT_MS_MAX * NS_PER_MS;
    core->fault = (struct fault){0};
    core->link_lost = core->lane_lost = false;
    return is_cut ? todo | go_away(core, event) : todo;
}

static bool transfer_is_ours(const struct target_core *core, const struct target_transfer *transfer)
{
    return strcmp(transfer->vm_id, core->config.vm_id) == 0 &&
           strcmp(transfer->move_id, core->config.move_id) == 0 &&
           strcmp(transfer->incarnation, core->config.incarnation) == 0 &&
           transfer->generation == core->config.generation &&
           transfer->state_digest == core->state_digest;
}

static unsigned on_transfer(struct target_core *core, const struct target_event *event)
{
    if (core->phase != PHASE_HANDOVER)
        return out_of_turn(core, event);
    if (core->latch == GODWIT__LATCH__LATCH_TOOK)
        return 0; /* a double */
    if (!transfer_is_ours(core, &event->transfer)) {
        (void)fault_set(&core->fault, ERR_DENIED,
                        "the transfer names VM '%s', move '%s', generation %llu: not this move",
                        event->transfer.vm_id, event->transfer.move_id,
                        (unsigned long long)event->transfer.generation);
        return abandon(core, event->now_ns);
    }
    return take(core, event);
}

/* It needs nothing of the source any more. */
static unsigned become_done(struct target_core *core, uint64_t now_ns)
{
    core->fault = (struct fault){0};
    core->ended_in = PHASE_DONE;
    core->ended = true;
    set_phase(core, PHASE_DONE, now_ns);
    return TARGET_TODO_END;
}

/* Told again and again, to a source that comes back as well, until it says that it has heard it:
 * one that never does serves for minutes nobody who needs it. */
static unsigned repeat_fetched(struct target_core *core, uint64_t now_ns)
{
    uint64_t again_ns = now_ns + FETCHED_AGAIN_MS * NS_PER_MS;
    core->phase_deadline_ns = core->away || again_ns > core->fetched_until_ns
                                  ? core->fetched_until_ns
                                  : again_ns;
    return core->away ? 0 : TARGET_TODO_SEND_FETCHED;
}

static unsigned say_fetched(struct target_core *core, uint64_t now_ns)
{
    if (!core->fetched || !core->resumed)
        return 0;
    core->fetched_until_ns = now_ns + POSTCOPY_LAST_MS_MAX * NS_PER_MS;
    return repeat_fetched(core, now_ns);
}

static unsigned on_fetched(struct target_core *core, const struct target_event *event)
{
    core->fetched = true;
    return say_fetched(core, event->now_ns);
}

static unsigned on_served(struct target_core *core, const struct target_event *event)
{
    if (core->phase != PHASE_POSTCOPY || !core->fetched || !core->resumed)
        return out_of_turn(core, event);
    unsigned todo = become_done(core, event->now_ns);
    if (event->fault) { /* it runs on: whether it is to be stopped is for somebody to say */
        core->fault = *event->fault;
        (void)fault_wrap(&core->fault, ERR_ATTENTION, "it runs here with all its memory, but");
    }
    return todo;
}

/* INV-1: it took, so nobody else has it: what is lost here is lost. Not a guest that runs and has
 * every page. */
static unsigned lose(struct target_core *core, const char *why, const struct target_event *event)
{
    assert(core->phase == PHASE_POSTCOPY);
    if (core->fetched && core->resumed)
        return become_done(core, event->now_ns);
    (void)fault_set(&core->fault, ERR_CORRUPT,
                    "lost in post-copy, with pages that only its old host had: %.300s", why);
    core->ended_in = core->phase;
    core->ended = true;
    set_phase(core, PHASE_DONE, event->now_ns);
    return TARGET_TODO_END;
}

static unsigned on_dropped(struct target_core *core, const struct target_event *event)
{
    return lose(core, "its process ends", event);
}

static unsigned on_resumed(struct target_core *core, const struct target_event *event)
{
    if (core->postcopy) {
        core->resumed = true;
        return TARGET_TODO_SEND_STARTED | say_fetched(core, event->now_ns);
    }
    core->ended_in = PHASE_DONE;
    core->ended = true;
    set_phase(core, PHASE_DONE, event->now_ns);
    return TARGET_TODO_SEND_STARTED | TARGET_TODO_END;
}

/* TOOK is never retracted: a guest that was taken and cannot run needs somebody. */
static unsigned on_took_failed(struct target_core *core, const struct target_event *event)
{
    keep_fault(core, ERR_ATTENTION, event->fault, "the guest was taken over and does not run");
    (void)fault_wrap(&core->fault, ERR_ATTENTION, "taken over, but not running");
    core->ended_in = core->phase;
    core->ended = true;
    set_phase(core, PHASE_DONE, event->now_ns);
    return TARGET_TODO_END;
}

/* In post-copy: a changed byte, a word that makes no sense, no memory for a thread. New lanes mend
 * it, and the guest needs none if it has every page. */
static unsigned on_failed(struct target_core *core, const struct target_event *event)
{
    if (core->phase == PHASE_POSTCOPY)
        return core->fetched && core->resumed ? become_done(core, event->now_ns)
                                              : go_away(core, event);
    if (core->latch == GODWIT__LATCH__LATCH_TOOK)
        return on_took_failed(core, event);
    keep_fault(core, ERR_IO, event->fault, "the move failed at the target");
    return abandon(core, event->now_ns);
}

static unsigned on_guest_lost(struct target_core *core, const struct target_event *event)
{
    if (core->phase != PHASE_POSTCOPY)
        return on_failed(core, event);
    return lose(core, event->fault ? event->fault->text : "its pages cannot be laid", event);
}

/* ---- lost lanes ----------------------------------------------------------------------------- */

/* Latched IN, nothing loaded, nothing said: until the source comes back there is nothing to decide
 * but how long to wait. It notices the loss later than we do, by PEER_SILENT_MS at most. */
static bool may_go_away(const struct target_core *core)
{
    return core->phase == PHASE_POSTCOPY ||
           (core->phase == PHASE_PRECOPY && !core->postcopy && core->away_ms_max > 0);
}

static uint64_t away_ms(const struct target_core *core)
{
    return (core->phase == PHASE_POSTCOPY ? core->postcopy_away_ms_max : core->away_ms_max) +
           PEER_SILENT_MS;
}

static unsigned go_away(struct target_core *core, const struct target_event *event)
{
    assert(core->phase == PHASE_POSTCOPY ||
           (core->latch == GODWIT__LATCH__LATCH_IN && !core->has_state));
    if (!core->away) {
        uint64_t ms = core->fetched && core->resumed ? POSTCOPY_LAST_MS_MAX : away_ms(core);
        core->phase_deadline_ns = event->now_ns + ms * NS_PER_MS;
        core->away_fault = (struct fault){0};
        if (event->fault)
            core->away_fault = *event->fault;
    }
    core->away = true;
    return TARGET_TODO_HANG_UP; /* of those that came anew, too */
}

static unsigned on_lane_lost(struct target_core *core, const struct target_event *event)
{
    if (may_go_away(core))
        return go_away(core, event);
    /* READY was said: it may have been given, and comes back once it knows that we took. */
    core->lane_lost = core->postcopy && core->latch == GODWIT__LATCH__LATCH_READY;
    return core->lane_lost ? 0 : on_failed(core, event);
}

static unsigned on_rejoined(struct target_core *core, const struct target_event *event)
{
    core->away = false;
    core->phase_deadline_ns = event->now_ns + TARGET_SILENT_MS_MAX * NS_PER_MS;
    return say_fetched(core, event->now_ns);
}

static unsigned on_link_lost(struct target_core *core, const struct target_event *event)
{
    if (may_go_away(core))
        return go_away(core, event);
    core->link_lost = true;
    if (core->latch == GODWIT__LATCH__LATCH_TOOK)
        return 0;
    keep_fault(core, ERR_CLOSED, event->fault, "the source is gone");
    if (core->latch != GODWIT__LATCH__LATCH_READY)
        return abandon(core, event->now_ns);
    /* The TRANSFER may be lost: its relay has this long to arrive before we abandon ourselves. */
    core->phase_deadline_ns = event->now_ns + PARK_FENCE_MS * NS_PER_MS;
    return 0;
}

static unsigned on_abort(struct target_core *core, const struct target_event *event)
{
    if (core->latch == GODWIT__LATCH__LATCH_TOOK)
        return 0; /* an ABORT after its own TRANSFER cannot be: GAVE and ABORTED exclude each other
                   */
    keep_fault(core, ERR_ROLLED_BACK, event->fault, "the source called the move off");
    return abandon(core, event->now_ns);
}

static unsigned on_postcopy_deadline(struct target_core *core, const struct target_event *event)
{
    if (core->fetched && core->resumed && !core->away && event->now_ns < core->fetched_until_ns)
        return repeat_fetched(core, event->now_ns);
    if (core->fetched && core->resumed)
        return become_done(core, event->now_ns); /* whether the source heard of it or not */
    if (!core->away)
        return go_away(core, event); /* silent: it shall come anew */
    char why[FAULT_TEXT_MAX];
    (void)snprintf(why, sizeof why, "the source did not come back within %llu s: %.200s",
                   (unsigned long long)(away_ms(core) / 1000), core->away_fault.text);
    return lose(core, why, event);
}

static unsigned on_tick(struct target_core *core, const struct target_event *event)
{
    bool copies = core->phase == PHASE_PRECOPY || (core->phase == PHASE_POSTCOPY && !core->fetched);
    if (copies && !core->away && event->activity != core->activity) {
        core->activity = event->activity;
        core->phase_deadline_ns = event->now_ns + TARGET_SILENT_MS_MAX * NS_PER_MS;
    }
    if (core->phase_deadline_ns == 0 || event->now_ns < core->phase_deadline_ns)
        return 0;
    if (core->phase == PHASE_POSTCOPY)
        return on_postcopy_deadline(core, event);
    if (core->away)
        (void)fault_set(
            &core->fault, ERR_TIMEOUT, "the source did not come back within %llu ms: %.300s",
            (unsigned long long)(core->away_ms_max + PEER_SILENT_MS), core->away_fault.text);
    else if (!core->link_lost)
        (void)fault_set(&core->fault, ERR_TIMEOUT, "phase %s took longer than %llu ms",
                        phase_name(core->phase),
                        (unsigned long long)phase_ms_max(core, core->phase));
    return abandon(core, event->now_ns);
}

static unsigned on_verdict_abandon(struct target_core *core, const struct target_event *event)
{
    keep_fault(core, ERR_CANCELED, event->fault, "the target was told to abandon the move");
    return abandon(core, event->now_ns);
}

/* May the shell or the world say this now? The source's words are not judged here. */
static bool may_happen(const struct target_core *core, const struct target_event *event)
{
    switch (event->type) {
    case TARGET_EVENT_START:
        return core->phase == PHASE_NONE;
    case TARGET_EVENT_LANES_OPEN:
        return core->phase == PHASE_PREPARE && !core->lanes_open;
    case TARGET_EVENT_POPULATED:
        return core->phase == PHASE_PREPARE && core->extents_known && !core->populated;
    case TARGET_EVENT_DRAINED:
        return (core->phase == PHASE_PRECOPY || core->phase == PHASE_DRAIN) && !core->drained &&
               !core->away;
    case TARGET_EVENT_REJOINED:
        return core->away;
    case TARGET_EVENT_FETCHED:
        return core->phase == PHASE_POSTCOPY && !core->fetched;
    case TARGET_EVENT_DROPPED:
        return core->phase == PHASE_POSTCOPY;
    case TARGET_EVENT_LOADED:
        return core->phase == PHASE_STATE;
    case TARGET_EVENT_RESUMED:
        return core->latch == GODWIT__LATCH__LATCH_TOOK && !core->resumed;
    case TARGET_EVENT_VERDICT_TAKE:
        return core->latch == GODWIT__LATCH__LATCH_READY &&
               event->generation == core->config.generation;
    case TARGET_EVENT_VERDICT_ABANDON:
        return core->latch == GODWIT__LATCH__LATCH_IN || core->latch == GODWIT__LATCH__LATCH_READY;
    case TARGET_EVENT_FAILED:
    case TARGET_EVENT_GUEST_LOST:
    case TARGET_EVENT_LANE_LOST:
    case TARGET_EVENT_TICK:
    case TARGET_EVENT_HELLO:
    case TARGET_EVENT_EXTENTS_END:
    case TARGET_EVENT_MISSING:
    case TARGET_EVENT_STATE:
    case TARGET_EVENT_TRANSFER:
    case TARGET_EVENT_ABORT:
    case TARGET_EVENT_SERVED:
    case TARGET_EVENT_LINK_LOST:
        return core->phase != PHASE_NONE;
    case TARGET_EVENT_COUNT:
        break;
    }
    return false;
}

static unsigned dispatch(struct target_core *core, const struct target_event *event)
{
    switch (event->type) {
    case TARGET_EVENT_START:
        return on_start(core, event);
    case TARGET_EVENT_LANES_OPEN:
        return on_lanes_open(core, event);
    case TARGET_EVENT_POPULATED:
        return on_populated(core, event);
    case TARGET_EVENT_DRAINED:
        return on_drained(core, event);
    case TARGET_EVENT_LOADED:
        return on_loaded(core, event);
    case TARGET_EVENT_RESUMED:
        return on_resumed(core, event);
    case TARGET_EVENT_FAILED:
        return on_failed(core, event);
    case TARGET_EVENT_TICK:
        return on_tick(core, event);
    case TARGET_EVENT_LANE_LOST:
        return on_lane_lost(core, event);
    case TARGET_EVENT_REJOINED:
        return on_rejoined(core, event);
    case TARGET_EVENT_FETCHED:
        return on_fetched(core, event);
    case TARGET_EVENT_GUEST_LOST:
        return on_guest_lost(core, event);
    case TARGET_EVENT_DROPPED:
        return on_dropped(core, event);
    case TARGET_EVENT_MISSING:
        return on_missing(core, event);
    case TARGET_EVENT_SERVED:
        return on_served(core, event);
    case TARGET_EVENT_HELLO:
        return on_hello(core, event);
    case TARGET_EVENT_EXTENTS_END:
        return on_extents_end(core, event);
    case TARGET_EVENT_STATE:
        return on_state(core, event);
    case TARGET_EVENT_TRANSFER:
        return on_transfer(core, event);
    case TARGET_EVENT_ABORT:
        return on_abort(core, event);
    case TARGET_EVENT_LINK_LOST:
        return on_link_lost(core, event);
    case TARGET_EVENT_VERDICT_TAKE:
        return take(core, event);
    case TARGET_EVENT_VERDICT_ABANDON:
        return on_verdict_abandon(core, event);
    case TARGET_EVENT_COUNT:
        break;
    }
    assert(false);
    return 0;
}

int target_core_step(struct target_core *core, const struct target_event *event, unsigned *ret_todo,
                     struct fault *fault)
{
    *ret_todo = 0;
    bool verdict =
        event->type == TARGET_EVENT_VERDICT_TAKE || event->type == TARGET_EVENT_VERDICT_ABANDON;
    if (core->ended && !verdict)
        return 0; /* late news; nothing to decide any more */
    if (core->ended || !may_happen(core, event))
        return fault_set(fault, ERR_STATE, "'%s' may not be in phase %s",
                         target_event_name(event->type), phase_name(core->phase));
    *ret_todo = dispatch(core, event);
    return 0;
}

#include "agent/backend_libvirt/domain_core.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/world.h"
#include "proto/limits.h"

enum {
    TRANSFER_AGAIN_MS = 300,
    TARGET_WORD_MS = 3000, /* for the target's word, or the coordinator's, that it runs there */
};

static const char *const phase_names[DOMAIN_PHASE_COUNT] = {
    [DOMAIN_PLAIN] = "plain",   [DOMAIN_GREET] = "greet",       [DOMAIN_COPY] = "copy",
    [DOMAIN_SETTLE] = "settle", [DOMAIN_GIVEN] = "given",       [DOMAIN_INCOMING] = "incoming",
    [DOMAIN_TAKING] = "taking", [DOMAIN_OVER] = "over",
};

const char *domain_phase_name(enum domain_phase phase)
{
    assert((unsigned)phase < DOMAIN_PHASE_COUNT);
    return phase_names[phase];
}

static bool phase_may_follow(enum domain_phase from, enum domain_phase to)
{
    switch (from) {
    case DOMAIN_PLAIN:
        return to == DOMAIN_GREET || to == DOMAIN_INCOMING || to == DOMAIN_OVER ||
               to == DOMAIN_SETTLE || to == DOMAIN_GIVEN;
    case DOMAIN_GREET:
        return to == DOMAIN_COPY || to == DOMAIN_PLAIN;
    case DOMAIN_COPY:
        return to == DOMAIN_SETTLE || to == DOMAIN_GIVEN || to == DOMAIN_PLAIN;
    case DOMAIN_SETTLE:
        return to == DOMAIN_PLAIN || to == DOMAIN_GIVEN;
    case DOMAIN_GIVEN:
        return to == DOMAIN_OVER;
    case DOMAIN_INCOMING:
        return to == DOMAIN_TAKING || to == DOMAIN_OVER;
    case DOMAIN_TAKING:
        return to == DOMAIN_PLAIN || to == DOMAIN_OVER;
    case DOMAIN_OVER:
    case DOMAIN_PHASE_COUNT:
        return false;
    }
    return false;
}

static void set_phase(struct domain_core *core, enum domain_phase phase, struct domain_todo *todo)
{
    assert(phase_may_follow(core->phase, phase));
    core->phase = phase;
    todo->bits |= DOMAIN_TODO_TELL;
}

/* One-way, and each follows only what it may follow. */
static void latch(struct domain_core *core, Godwit__Latch latch, struct domain_todo *todo)
{
    Godwit__Latch was = core->latch;
    switch (latch) {
    case GODWIT__LATCH__LATCH_OUT:
    case GODWIT__LATCH__LATCH_IN:
        break; /* a new move */
    case GODWIT__LATCH__LATCH_GAVE:
    case GODWIT__LATCH__LATCH_ABORTED:
        assert(was == GODWIT__LATCH__LATCH_OUT);
        break;
    case GODWIT__LATCH__LATCH_RELEASED:
        assert(was == GODWIT__LATCH__LATCH_GAVE);
        break;
    case GODWIT__LATCH__LATCH_READY:
        assert(was == GODWIT__LATCH__LATCH_IN);
        break;
    case GODWIT__LATCH__LATCH_TOOK:
        assert(was == GODWIT__LATCH__LATCH_READY);
        break;
    case GODWIT__LATCH__LATCH_ABANDONED:
        assert(was == GODWIT__LATCH__LATCH_IN || was == GODWIT__LATCH__LATCH_READY);
        break;
    case GODWIT__LATCH__LATCH_NONE:
    case _GODWIT__LATCH_IS_INT_SIZE:
        assert(false);
    }
    core->latch = latch;
    todo->bits |= DOMAIN_TODO_LATCH;
}

static void over(struct domain_core *core, enum domain_ending ending, const char *reason,
                 struct domain_todo *todo)
{
    set_phase(core, DOMAIN_OVER, todo);
    core->ending = ending;
    (void)snprintf(core->reason, sizeof core->reason, "%s", reason);
    todo->bits |= DOMAIN_TODO_OVER | DOMAIN_TODO_LATCH;
}

bool domain_core_is_moving(const struct domain_core *core)
{
    return core->phase != DOMAIN_PLAIN && core->phase != DOMAIN_OVER;
}

Godwit__VmState domain_core_state(const struct domain_core *core)
{
    switch (core->phase) {
    case DOMAIN_PLAIN:
    case DOMAIN_TAKING:
        return core->sight == SIGHT_PAUSED || (core->phase == DOMAIN_TAKING && core->stay_paused)
                   ? GODWIT__VM_STATE__VM_STATE_PAUSED
                   : GODWIT__VM_STATE__VM_STATE_RUNNING;
    case DOMAIN_GREET:
    case DOMAIN_COPY:
    case DOMAIN_SETTLE:
        return core->was_paused ? GODWIT__VM_STATE__VM_STATE_PAUSED
                                : GODWIT__VM_STATE__VM_STATE_RUNNING;
    case DOMAIN_GIVEN:
        return GODWIT__VM_STATE__VM_STATE_HELD;
    case DOMAIN_INCOMING:
        return GODWIT__VM_STATE__VM_STATE_INCOMING;
    case DOMAIN_OVER:
        return core->ending == DOMAIN_ENDED_GONE      ? GODWIT__VM_STATE__VM_STATE_GONE
               : core->ending == DOMAIN_ENDED_CRASHED ? GODWIT__VM_STATE__VM_STATE_CRASHED
                                                      : GODWIT__VM_STATE__VM_STATE_STOPPED;
    case DOMAIN_PHASE_COUNT:
        break;
    }
    return GODWIT__VM_STATE__VM_STATE_NONE;
}

/* ---- source ---- */
static void give(struct domain_core *core, uint64_t now_ns, struct domain_todo *todo)
{
    latch(core, GODWIT__LATCH__LATCH_GAVE, todo);
    set_phase(core, DOMAIN_GIVEN, todo);
    core->gave_ns = now_ns;
    core->transfer_ns = now_ns;
    todo->bits |= DOMAIN_TODO_TRANSFER;
}

static void roll_back(struct domain_core *core, struct domain_todo *todo)
{
    latch(core, GODWIT__LATCH__LATCH_ABORTED, todo);
    set_phase(core, DOMAIN_PLAIN, todo);
    if (!core->cause.code)
        (void)fault_set(&core->cause, ERR_ROLLED_BACK, "libvirt let the domain run on here");
    todo->bits |= DOMAIN_TODO_ABANDON | DOMAIN_TODO_MOVE_ENDED;
}

static void release(struct domain_core *core, struct domain_todo *todo)
{
    latch(core, GODWIT__LATCH__LATCH_RELEASED, todo);
    todo->bits |= DOMAIN_TODO_MOVE_ENDED;
    over(core, DOMAIN_ENDED_GONE, "moved to another host", todo);
}

static void set_cause(struct domain_core *core, const struct fault *fault)
{
    if (!core->cause.code && fault)
        core->cause = *fault; /* the first is the cause, later ones are its echoes */
}

static void abort_job(struct domain_core *core, struct domain_todo *todo)
{
    core->aborting = true;
    todo->bits |= DOMAIN_TODO_ABORT_JOB;
}

/* It stands still, and the target has no word of ours to run: this is the copy that goes on. But somebody may have let
 * the arrival run by hand, so the target is asked. One that does not answer may be what broke the move. */
static void go_on_here(struct domain_core *core, uint64_t now_ns, struct domain_todo *todo)
{
    if (!core->stand_ns)
        core->stand_ns = now_ns;
    if (!core->is_target_still && now_ns - core->stand_ns < TARGET_WORD_MS * NS_PER_MS)
        todo->bits |= DOMAIN_TODO_ASK_TARGET;
    else if (core->was_paused)
        roll_back(core, todo);
    else
        todo->bits |= DOMAIN_TODO_RESUME;
}

/* Libvirt's call is over, or there is none: what is here now decides. */
static void settle(struct domain_core *core, uint64_t now_ns, struct domain_todo *todo)
{
    if (core->is_calling)
        return;
    /* Taken there, by whatever hand, while libvirt has not let go of it here: what stands here must not run, and
     * what somebody lets run here by hand as well is not ours to end. Off, it was a move as any. */
    if (core->is_taken && core->sight != SIGHT_OFF)
        return;
    switch (core->sight) {
    case SIGHT_OFF:
        give(core, now_ns, todo);
        return;
    case SIGHT_RUNNING:
        if (!core->is_inherited)
            roll_back(core, todo);
        return;
    case SIGHT_PAUSED:
        if (!core->is_inherited)
            go_on_here(core, now_ns, todo);
        return;
    case SIGHT_MIGRATING:
        /* A libvirtd that began anew while the target finished leaves the source standing: it does
         * not know who has the guest. */
        if (core->is_jobless)
            go_on_here(core, now_ns, todo);
        return;
    case SIGHT_UNKNOWN:
        return; /* asked again with every tick */
    }
}

/* ---- target ---- */
static void abandon(struct domain_core *core, const char *reason, bool discard,
                    struct domain_todo *todo)
{
    latch(core, GODWIT__LATCH__LATCH_ABANDONED, todo);
    if (discard)
        todo->bits |= DOMAIN_TODO_DISCARD;
    todo->bits |= DOMAIN_TODO_MOVE_ENDED;
    over(core, DOMAIN_ENDED_GONE, reason, todo);
}

static void taken(struct domain_core *core, struct domain_todo *todo)
{
    core->is_resuming = false;
    set_phase(core, DOMAIN_PLAIN, todo);
    todo->bits |= DOMAIN_TODO_MOVE_ENDED | DOMAIN_TODO_LATCH;
}

static void take(struct domain_core *core, struct domain_todo *todo)
{
    latch(core, GODWIT__LATCH__LATCH_TOOK, todo);
    core->generation = core->move_generation;
    core->is_resuming = !core->stay_paused;
    set_phase(core, DOMAIN_TAKING, todo);
    if (core->is_resuming)
        todo->bits |= DOMAIN_TODO_RESUME;
    else
        taken(core, todo);
}

/* ---- what is seen ---- */
static void end_plain(struct domain_core *core, struct domain_todo *todo)
{
    enum domain_ending ending = DOMAIN_ENDED_OFF;

    if (core->stopping)
        ending = DOMAIN_ENDED_ASKED;
    else if (core->how == HOW_CRASHED || core->how == HOW_FAILED || core->how == HOW_UNKNOWN)
        ending = DOMAIN_ENDED_CRASHED;
    over(core, ending,
         ending == DOMAIN_ENDED_ASKED ? "stopped on request" : virt_view_how_words(core->how), todo);
}

/* It ran until it was off, and not by the migration: then no copy of it can be whole. */
static void off_while_moving(struct domain_core *core, enum virt_sight was, uint64_t now_ns,
                             struct domain_todo *todo)
{
    bool by_itself = core->how == HOW_SHUTDOWN || core->how == HOW_DESTROYED ||
                     core->how == HOW_CRASHED || core->how == HOW_FAILED;

    if (core->phase == DOMAIN_COPY && !(by_itself && was == SIGHT_RUNNING)) {
        give(core, now_ns, todo);
        return;
    }
    struct fault ended = {0};
    (void)fault_set(&ended, ERR_ROLLED_BACK, "%s", virt_view_how_words(core->how));
    set_cause(core, &ended);
    roll_back(core, todo);
    end_plain(core, todo);
}

static void seen_incoming(struct domain_core *core, struct domain_todo *todo)
{
    switch (core->sight) {
    case SIGHT_UNKNOWN:
        return;
    case SIGHT_OFF:
        if (core->has_arrived)
            abandon(core, "the arrival ended before it was whole", false, todo);
        else if (core->is_wanted) /* the source is off, and nothing of it is here */
            abandon(core, "it ended at the source, and nothing of it arrived", false, todo);
        return;
    case SIGHT_MIGRATING:
        core->has_arrived = true;
        return;
    case SIGHT_PAUSED:
        core->has_arrived = true;
        if (core->latch == GODWIT__LATCH__LATCH_IN) {
            latch(core, GODWIT__LATCH__LATCH_READY, todo);
            todo->bits |= DOMAIN_TODO_TELL;
        }
        return;
    case SIGHT_RUNNING:
        /* Somebody let it run by hand. It executes: that is the truth from now on. */
        core->has_arrived = true;
        if (core->latch == GODWIT__LATCH__LATCH_IN)
            latch(core, GODWIT__LATCH__LATCH_READY, todo);
        core->stay_paused = true; /* no resume is needed */
        take(core, todo);
        core->stay_paused = false;
        return;
    }
}

static void on_sight(struct domain_core *core, const struct domain_event *event,
                     struct domain_todo *todo)
{
    enum virt_sight was = core->sight;

    if (event->seen.sight == SIGHT_UNKNOWN)
        return; /* what was known last stands */
    if (core->phase == DOMAIN_PLAIN && event->seen.sight == SIGHT_OFF && was != SIGHT_OFF &&
        !event->seen.is_fresh) { /* of before its start, maybe */
        todo->bits |= DOMAIN_TODO_LOOK;
        return;
    }
    core->sight = event->seen.sight;
    if (core->sight == SIGHT_OFF)
        core->how = event->seen.how;
    if (core->sight != was)
        todo->bits |= DOMAIN_TODO_TELL;
    switch (core->phase) {
    case DOMAIN_PLAIN:
        if (core->sight == SIGHT_OFF && was != SIGHT_OFF)
            end_plain(core, todo);
        return;
    case DOMAIN_GREET:
    case DOMAIN_COPY:
        if (core->sight == SIGHT_OFF)
            off_while_moving(core, was, event->now_ns, todo);
        return;
    case DOMAIN_SETTLE:
        /* What was seen may be of before the end of libvirt's call; off it stays. */
        if (event->seen.is_fresh || core->sight == SIGHT_OFF)
            settle(core, event->now_ns, todo);
        return;
    case DOMAIN_INCOMING:
        seen_incoming(core, todo);
        return;
    case DOMAIN_TAKING:
        if (core->sight == SIGHT_RUNNING)
            taken(core, todo);
        else if (core->sight == SIGHT_OFF)
            end_plain(core, todo);
        return;
    case DOMAIN_GIVEN:
    case DOMAIN_OVER:
    case DOMAIN_PHASE_COUNT:
        return;
    }
}

/* ---- orders ---- */
static void begin_move(struct domain_core *core, const struct domain_event *event)
{
    (void)snprintf(core->move_id, sizeof core->move_id, "%s", event->move.move_id);
    core->move_generation = event->move.generation;
    core->deadline_ns = event->move.deadline_ns;
    core->cause = (struct fault){0};
    core->aborting = core->is_calling = core->is_inherited = core->is_told_parked = false;
    core->is_jobless = core->is_wanted = core->is_taken = core->is_target_still = false;
    core->stand_ns = 0;
    core->has_arrived = core->stay_paused = false;
}

static int on_move_out(struct domain_core *core, const struct domain_event *event,
                       struct domain_todo *todo, struct fault *fault)
{
    if (core->phase != DOMAIN_PLAIN)
        return fault_set(fault, ERR_BUSY, "a move has it");
    if (core->sight != SIGHT_RUNNING && core->sight != SIGHT_PAUSED)
        return fault_set(fault, ERR_STATE, "libvirt does not run it just now");
    begin_move(core, event);
    core->was_paused = core->sight == SIGHT_PAUSED;
    latch(core, GODWIT__LATCH__LATCH_OUT, todo);
    set_phase(core, DOMAIN_GREET, todo);
    todo->bits |= DOMAIN_TODO_GREET;
    return 0;
}

static int on_move_in(struct domain_core *core, const struct domain_event *event,
                      struct domain_todo *todo, struct fault *fault)
{
    if (core->phase != DOMAIN_PLAIN || core->generation || core->sight != SIGHT_OFF)
        return fault_set(fault, ERR_EXISTS, "libvirt of this host runs the domain already");
    begin_move(core, event);
    latch(core, GODWIT__LATCH__LATCH_IN, todo);
    set_phase(core, DOMAIN_INCOMING, todo);
    return 0;
}

static void on_greeted(struct domain_core *core, const struct domain_event *event,
                       struct domain_todo *todo)
{
    if (core->phase != DOMAIN_GREET)
        return;
    set_cause(core, event->fault);
    if (core->cause.code) { /* refused, or canceled meanwhile: libvirt was not asked yet */
        roll_back(core, todo);
        return;
    }
    set_phase(core, DOMAIN_COPY, todo);
    core->is_calling = true;
    todo->bits |= DOMAIN_TODO_MIGRATE;
}

static void on_migrated(struct domain_core *core, const struct domain_event *event,
                        struct domain_todo *todo)
{
    core->is_calling = false;
    if (core->phase != DOMAIN_COPY)
        return;
    set_cause(core, event->fault);
    set_phase(core, DOMAIN_SETTLE, todo);
    /* What was seen last may be of before: only a look after the call's end counts. */
    todo->bits |= DOMAIN_TODO_LOOK;
}

static void on_transferred(struct domain_core *core, const struct domain_event *event,
                           struct domain_todo *todo)
{
    if (core->phase != DOMAIN_GIVEN)
        return;
    /* An agent that was started anew has lost the move's key: only the coordinator's word helps. */
    if (event->answer.fault && event->answer.fault->code == ERR_DENIED)
        core->is_told_parked = true;
    if (!event->answer.fault && event->answer.latch == GODWIT__LATCH__LATCH_TOOK) {
        release(core, todo);
        return;
    }
    if (!event->answer.fault && event->answer.latch == GODWIT__LATCH__LATCH_ABANDONED) {
        /* Off here, given up there: nothing is left to wait for, and the coordinator learns both. */
        (void)fault_set(&core->cause, ERR_ATTENTION,
                        "the domain ended during the move, on both hosts");
        todo->bits |= DOMAIN_TODO_MOVE_ENDED;
        over(core, DOMAIN_ENDED_CRASHED, "it ended during a move, on both hosts", todo);
    }
}

static int on_cancel(struct domain_core *core, const struct domain_event *event,
                     struct domain_todo *todo, struct fault *fault)
{
    switch (core->phase) {
    case DOMAIN_GREET:
        set_cause(core, event->fault); /* its answer rolls back */
        return 0;
    case DOMAIN_COPY:
        set_cause(core, event->fault);
        abort_job(core, todo);
        return 0;
    case DOMAIN_SETTLE:
        return 0; /* it is being broken off, or was through: what is seen next says which */
    case DOMAIN_PLAIN:
        return 0;
    case DOMAIN_GIVEN:
    case DOMAIN_INCOMING:
    case DOMAIN_TAKING:
    case DOMAIN_OVER:
    case DOMAIN_PHASE_COUNT:
        break;
    }
    return fault_set(fault, ERR_STATE, "the move is past the point where it can be canceled");
}

static int on_take(struct domain_core *core, const struct domain_event *event,
                   struct domain_todo *todo, struct fault *fault)
{
    if (core->move_generation != event->take.generation)
        return fault_set(fault, ERR_DENIED, "the right to run is of generation %llu, expected %llu",
                         (unsigned long long)event->take.generation,
                         (unsigned long long)core->move_generation);
    if (core->latch == GODWIT__LATCH__LATCH_TOOK || core->latch == GODWIT__LATCH__LATCH_ABANDONED)
        return 0;
    if (core->phase != DOMAIN_INCOMING)
        return fault_set(fault, ERR_STATE, "no move brings it here");
    core->stay_paused = event->take.stay_paused;
    if (core->latch == GODWIT__LATCH__LATCH_READY) {
        take(core, todo);
        return 0;
    }
    core->is_wanted = true;
    todo->bits |= DOMAIN_TODO_LOOK;
    return fault_set(fault, ERR_BUSY, "the arrival is not whole yet");
}

static int on_abandon(struct domain_core *core, struct domain_todo *todo, struct fault *fault)
{
    if (core->latch == GODWIT__LATCH__LATCH_ABANDONED)
        return 0;
    if (core->phase != DOMAIN_INCOMING)
        return fault_set(fault, ERR_STATE, "it runs here as generation %llu",
                         (unsigned long long)core->generation);
    abandon(core, "the move was broken off", true, todo);
    return 0;
}

static int on_started(struct domain_core *core, struct domain_todo *todo, struct fault *fault)
{
    if (core->phase == DOMAIN_GIVEN) {
        release(core, todo);
        return 0;
    }
    if (core->latch == GODWIT__LATCH__LATCH_RELEASED)
        return 0;
    if (core->phase == DOMAIN_SETTLE)
        core->is_taken = true;
    return fault_set(fault, ERR_STATE, "this host has not given the domain away");
}

static int on_stop(struct domain_core *core, struct fault *fault)
{
    if (domain_core_is_moving(core))
        return fault_set(fault, ERR_BUSY, "a move has it");
    if (core->phase == DOMAIN_OVER)
        return 0;
    core->stopping = true; /* whoever asked ends it now */
    return 0;
}

/* ---- an agent begins, and finds the latch of an earlier one ---- */
static void on_inherit(struct domain_core *core, uint64_t now_ns, struct domain_todo *todo)
{
    assert(core->phase == DOMAIN_PLAIN);
    switch (core->latch) {
    case GODWIT__LATCH__LATCH_OUT:
        if (core->sight == SIGHT_OFF) {
            give(core, now_ns, todo);
        } else {
            core->is_inherited = true;
            (void)fault_set(&core->cause, ERR_CLOSED, "the source's agent ended during the move");
            set_phase(core, DOMAIN_SETTLE, todo);
            abort_job(core, todo);
        }
        return;
    case GODWIT__LATCH__LATCH_GAVE:
        set_phase(core, DOMAIN_GIVEN, todo);
        core->gave_ns = core->transfer_ns = now_ns;
        return;
    case GODWIT__LATCH__LATCH_IN:
    case GODWIT__LATCH__LATCH_READY:
        core->phase = DOMAIN_INCOMING;
        core->has_arrived = core->latch == GODWIT__LATCH__LATCH_READY;
        seen_incoming(core, todo);
        return;
    case GODWIT__LATCH__LATCH_TOOK:
        if (core->is_resuming && core->sight != SIGHT_OFF) {
            core->phase = DOMAIN_TAKING;
            if (core->sight == SIGHT_RUNNING)
                taken(core, todo);
            return;
        }
        break;
    case GODWIT__LATCH__LATCH_NONE:
    case GODWIT__LATCH__LATCH_ABORTED:
    case GODWIT__LATCH__LATCH_RELEASED:
    case GODWIT__LATCH__LATCH_ABANDONED:
    case _GODWIT__LATCH_IS_INT_SIZE:
        break;
    }
    if (core->sight == SIGHT_OFF)
        end_plain(core, todo);
}

/* Nothing of an inherited migration goes on here any more: the next look decides. */
static void on_no_job(struct domain_core *core, struct domain_todo *todo)
{
    if (core->phase != DOMAIN_SETTLE || !core->is_inherited)
        return;
    core->is_inherited = false;
    todo->bits |= DOMAIN_TODO_LOOK;
}

static void on_jobless(struct domain_core *core, struct domain_todo *todo)
{
    if (core->phase != DOMAIN_SETTLE || core->is_calling || core->is_inherited)
        return;
    core->is_jobless = true;
    todo->bits |= DOMAIN_TODO_LOOK;
}

static void on_target_says(struct domain_core *core, const struct domain_event *event,
                           struct domain_todo *todo)
{
    if (core->phase != DOMAIN_SETTLE || event->answer.fault)
        return;
    if (event->answer.latch == GODWIT__LATCH__LATCH_TOOK)
        core->is_taken = true;
    else
        core->is_target_still = true;
    todo->bits |= DOMAIN_TODO_LOOK;
}

static void on_tick(struct domain_core *core, uint64_t now_ns, struct domain_todo *todo)
{
    switch (core->phase) {
    case DOMAIN_COPY:
        if (core->deadline_ns && now_ns > core->deadline_ns && !core->aborting) {
            struct fault late = {0};
            (void)fault_set(&late, ERR_DEADLINE, "the move's deadline is over");
            set_cause(core, &late);
            abort_job(core, todo);
        }
        return;
    case DOMAIN_SETTLE:
        todo->bits |= DOMAIN_TODO_LOOK;
        if (core->is_inherited)
            abort_job(core, todo); /* until there is none: see the answer */
        else if (core->sight == SIGHT_MIGRATING)
            todo->bits |= DOMAIN_TODO_ASK_JOB;
        return;
    case DOMAIN_GIVEN:
        if (now_ns - core->transfer_ns > TRANSFER_AGAIN_MS * NS_PER_MS) {
            core->transfer_ns = now_ns;
            todo->bits |= DOMAIN_TODO_TRANSFER;
        }
        if (now_ns - core->gave_ns > STARTED_MS_MAX * NS_PER_MS && !core->is_told_parked) {
            core->is_told_parked = true;
            todo->bits |= DOMAIN_TODO_TELL;
        }
        return;
    case DOMAIN_INCOMING:
        todo->bits |= DOMAIN_TODO_LOOK;
        return;
    case DOMAIN_TAKING:
        todo->bits |= DOMAIN_TODO_RESUME;
        return;
    case DOMAIN_PLAIN:
    case DOMAIN_GREET:
    case DOMAIN_OVER:
    case DOMAIN_PHASE_COUNT:
        return;
    }
}

int domain_core_step(struct domain_core *core, const struct domain_event *event,
                     struct domain_todo *todo, struct fault *fault)
{
    switch (event->type) {
    case DOMAIN_EVENT_SIGHT:
        on_sight(core, event, todo);
        return 0;
    case DOMAIN_EVENT_MOVE_OUT:
        return on_move_out(core, event, todo, fault);
    case DOMAIN_EVENT_GREETED:
        on_greeted(core, event, todo);
        return 0;
    case DOMAIN_EVENT_MIGRATED:
        on_migrated(core, event, todo);
        return 0;
    case DOMAIN_EVENT_TRANSFERRED:
        on_transferred(core, event, todo);
        return 0;
    case DOMAIN_EVENT_MOVE_IN:
        return on_move_in(core, event, todo, fault);
    case DOMAIN_EVENT_TAKE:
        return on_take(core, event, todo, fault);
    case DOMAIN_EVENT_NO_JOB:
        on_no_job(core, todo);
        return 0;
    case DOMAIN_EVENT_JOBLESS:
        on_jobless(core, todo);
        return 0;
    case DOMAIN_EVENT_TARGET_SAYS:
        on_target_says(core, event, todo);
        return 0;
    case DOMAIN_EVENT_ABANDON:
        return on_abandon(core, todo, fault);
    case DOMAIN_EVENT_CANCEL:
        return on_cancel(core, event, todo, fault);
    case DOMAIN_EVENT_STARTED:
        return on_started(core, todo, fault);
    case DOMAIN_EVENT_DROP:
        return on_started(core, todo, fault);
    case DOMAIN_EVENT_STOP:
        return on_stop(core, fault);
    case DOMAIN_EVENT_INHERIT:
        on_inherit(core, event->now_ns, todo);
        return 0;
    case DOMAIN_EVENT_TICK:
        on_tick(core, event->now_ns, todo);
        return 0;
    }
    return 0;
}

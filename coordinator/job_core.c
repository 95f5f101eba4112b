#include "coordinator/job_core.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/world.h"
#include "coordinator/words.h"
#include "proto/limits.h"

enum {
    ASK_AGAIN_MS = 500,  /* a verdict or a question is repeated until it has had its effect */
    SILENCE_MS = 3000,   /* a side that tells nothing for so long is asked */
    WORDS_MS = 1000,     /* a target that gave up says why within it, or we go on without */
    STRAGGLER_MS = 5000, /* how long an end waits for a host that is away and no longer matters */
    RECEIPT_MS = 2000,
    CANCEL_FIRST_MS = 1500,
    LET_GO_MS = POSTCOPY_LAST_MS_MAX + 5000, /* a source hears from its target that this has all */
    OUT_LATE_MS = 3000, /* an order of a connection that has ended has had its effect by then */
};

static const char *const step_names[JOB_STEP_COUNT] = {
    [JOB_PREPARE] = "prepare", [JOB_MOVE] = "move",     [JOB_FORWARD] = "forward",
    [JOB_BACK] = "back",       [JOB_RESUME] = "resume", [JOB_ENDED] = "ended",
};
static const char *const state_names[JOB_STATE_COUNT] = {
    [JOB_RUNNING] = "running",         [JOB_DONE] = "done",         [JOB_FAILED] = "failed",
    [JOB_ROLLED_BACK] = "rolled-back", [JOB_CANCELED] = "canceled", [JOB_ATTENTION] = "attention",
};

const char *job_step_name(enum job_step step)
{
    assert((unsigned)step < JOB_STEP_COUNT);
    return step_names[step];
}

enum job_step job_step_from_name(const char *name)
{
    for (enum job_step step = 0; step < JOB_STEP_COUNT; step++) {
        if (strcmp(step_names[step], name) == 0)
            return step;
    }
    return JOB_STEP_COUNT;
}

const char *job_state_name(enum job_state state)
{
    assert((unsigned)state < JOB_STATE_COUNT);
    return state_names[state];
}

enum job_state job_state_from_name(const char *name)
{
    for (enum job_state state = 0; state < JOB_STATE_COUNT; state++) {
        if (strcmp(state_names[state], name) == 0)
            return state;
    }
    return JOB_STATE_COUNT;
}

static bool step_may_follow(enum job_step from, enum job_step to)
{
    switch (from) {
    case JOB_PREPARE:
        return to == JOB_MOVE || to == JOB_BACK;
    case JOB_MOVE:
        return to == JOB_FORWARD || to == JOB_BACK || to == JOB_RESUME || to == JOB_ENDED;
    case JOB_BACK: /* what looked like a roll-back may turn out to be past the commit point */
        return to == JOB_MOVE || to == JOB_FORWARD || to == JOB_ENDED;
    case JOB_FORWARD:
        return to == JOB_ENDED;
    case JOB_RESUME:
        return to == JOB_ENDED;
    case JOB_ENDED:
        return to == JOB_RESUME; /* reopened */
    case JOB_STEP_COUNT:
        return false;
    }
    return false;
}

static void set_step(struct job_core *core, enum job_step step, uint64_t now_ns,
                     struct job_todo *todo)
{
    assert(step_may_follow(core->step, step));
    log_debug("job_core", "step %s -> %s job=%s vm=%s", job_step_name(core->step),
              job_step_name(step), core->id, core->vm_id);
    core->step = step;
    core->step_ns = now_ns;
    core->source.ask_ns = core->target.ask_ns = 0;
    if (core->state == JOB_ATTENTION && step != JOB_ENDED)
        core->state = JOB_RUNNING;
    todo->bits |= JOB_TODO_STORE | JOB_TODO_REPORT;
}

static void set_own(struct job_todo *todo, enum job_own own)
{
    assert(todo->own == JOB_OWN_KEEP); /* one change a step, or a crash could fall between */
    todo->own = own;
    todo->bits |= JOB_TODO_STORE;
}

/* The first reason is the cause, later ones are its echoes. */
static void set_error(struct job_core *core, enum gw_code code, const char *text)
{
    if (core->error_code != GW_NONE && core->error_code != GW_NEEDS_ATTENTION)
        return;
    core->error_code = code;
    WORDS_COPY(core->error_text, text);
}

static void end(struct job_core *core, enum job_state state, uint64_t now_ns, struct job_todo *todo)
{
    set_step(core, JOB_ENDED, now_ns, todo);
    core->state = state;
    if (state == JOB_DONE)
        core->error_code = GW_NONE;
    todo->bits |= JOB_TODO_ENDED;
}

void job_core_init(struct job_core *core, uint64_t now_ns)
{
    core->step = JOB_PREPARE;
    core->state = JOB_RUNNING;
    core->step_ns = now_ns;
    core->source.link_up = core->target.link_up = true;
}

bool job_core_is_past_commit(const struct job_core *core)
{
    return core->source.latch == GODWIT__LATCH__LATCH_GAVE ||
           core->source.latch == GODWIT__LATCH__LATCH_RELEASED ||
           core->target.latch == GODWIT__LATCH__LATCH_TOOK || core->step == JOB_FORWARD ||
           core->step == JOB_RESUME || core->step == JOB_ENDED;
}

bool job_core_needs_source(const struct job_core *core)
{
    return core->step == JOB_FORWARD && (core->postcopy || core->may_postcopy) &&
           !core->target_ended && !core->target.gone;
}

/* ---- facts ------------------------------------------------------------------------------------
 */

/* Latches are one-way, so of two reports the higher is the later, whichever came first. */
static int latch_rank(Godwit__Latch latch)
{
    switch (latch) {
    case GODWIT__LATCH__LATCH_NONE:
        return 0;
    case GODWIT__LATCH__LATCH_OUT:
    case GODWIT__LATCH__LATCH_IN:
        return 1;
    case GODWIT__LATCH__LATCH_READY:
        return 2;
    case GODWIT__LATCH__LATCH_GAVE:
    case GODWIT__LATCH__LATCH_ABORTED:
    case GODWIT__LATCH__LATCH_TOOK:
    case GODWIT__LATCH__LATCH_ABANDONED:
        return 3;
    case GODWIT__LATCH__LATCH_RELEASED:
        return 4;
    case _GODWIT__LATCH_IS_INT_SIZE:
        break;
    }
    return -1;
}

static bool latch_is_targets(Godwit__Latch latch)
{
    return latch >= GODWIT__LATCH__LATCH_IN;
}

static bool target_is_clear(const struct job_core *core)
{
    return core->target.latch == GODWIT__LATCH__LATCH_ABANDONED ||
           (core->target.gone && core->target.latch != GODWIT__LATCH__LATCH_TOOK);
}

static bool source_gave(const struct job_core *core)
{
    return core->source.latch == GODWIT__LATCH__LATCH_GAVE;
}

static bool target_took(const struct job_core *core)
{
    /* A source releases only when it was told STARTED. */
    return core->target.latch == GODWIT__LATCH__LATCH_TOOK ||
           core->source.latch == GODWIT__LATCH__LATCH_RELEASED;
}

static enum gw_code code_of_fault(const struct job_core *core, int fault_code)
{
    if (fault_code == ERR_DEADLINE)
        return GW_MOVE_DEADLINE;
    return core->cancel ? GW_MOVE_CANCELED : GW_MOVE_ROLLED_BACK;
}

/* The source ended with a fault. Digests that differ are found when the target has every page, and
 * the guest runs there whatever is found. */
static void learn_cut(struct job_core *core, const struct job_report *report, struct job_todo *todo)
{
    if (!core->postcopy && !core->may_postcopy)
        return;
    core->post_cut = true;
    bool served = core->postcopy || core->source.latch == GODWIT__LATCH__LATCH_RELEASED;
    bool doubts = report->fault_code == ERR_CORRUPT || report->fault_code == ERR_ATTENTION;
    if (!served || !doubts || core->error_code == GW_MEMORY_UNPROVEN)
        return;
    core->error_code = GW_NONE; /* this outweighs what was told before */
    set_error(core, GW_MEMORY_UNPROVEN, report->fault_text);
    todo->bits |= JOB_TODO_STORE;
}

static void learn_report(struct job_core *core, const struct job_report *report, uint64_t now_ns,
                         struct job_todo *todo)
{
    struct job_side *side = report->at_target ? &core->target : &core->source;
    bool is_ours = report->latch == GODWIT__LATCH__LATCH_NONE ||
                   latch_is_targets(report->latch) == report->at_target;
    if (!is_ours)
        return; /* a latch of the other end: nobody honest says that */

    side->heard_ns = now_ns;
    if (latch_rank(report->latch) > latch_rank(side->latch)) {
        side->latch = report->latch;
        if (report->latch == GODWIT__LATCH__LATCH_ABANDONED)
            core->abandoned_ns = now_ns;
        todo->bits |= JOB_TODO_STORE | JOB_TODO_REPORT;
    }
    /* R7: a question that left before the target had its process is answered by "not here", and
     * that may arrive when it has long been there. */
    bool is_early =
        report->at_target && report->asked_ns > 0 && report->asked_ns <= core->address_ns;
    if (report->absent && !side->gone && core->step != JOB_PREPARE && !is_early) {
        side->gone = true;
        todo->bits |= JOB_TODO_STORE;
    }
    if (report->absent && report->powered_off && side->gone)
        side->powered_off = true;
    if (report->asked_ns > side->answered_ns) {
        side->answered_ns = report->asked_ns;
        side->answer_has_move = report->latch != GODWIT__LATCH__LATCH_NONE;
        side->answer_runs = report->runs;
        side->answer_generation = report->generation;
    }
    if (!report->at_target && report->parked)
        core->parked = true;
    if (report->postcopy)
        core->postcopy = true;
    if (report->at_target && (report->ended || report->has_all))
        core->target_ended = true;
    if (report->at_target && report->ended)
        core->target_told_end = true;
    if (report->ended && !report->at_target && report->fault_text)
        learn_cut(core, report, todo);
    if (report->has_receipt)
        core->has_receipt = true;
    if (report->ended && !report->at_target && report->fault_text)
        set_error(core, code_of_fault(core, report->fault_code), report->fault_text);
    if (report->ended && report->at_target && report->fault_text && !core->target_text[0])
        WORDS_COPY(core->target_text, report->fault_text);
    if (report->ended)
        side->ask_ns = 0; /* a latch that we missed is asked for at once */
}

/* The refusal of a target that could not make room: nothing began, so nothing was rolled back. */
static enum gw_code code_of_refusal(int fault_code)
{
    switch (fault_code) {
    case ERR_CPU_COMPAT:
        return GW_CPU_COMPAT;
    case ERR_NOMEM:
        return GW_NO_MEMORY;
    default:
        return GW_TARGET_REFUSED;
    }
}

/* ---- decisions --------------------------------------------------------------------------------
 */

static bool may_ask(struct job_side *side, uint64_t now_ns)
{
    if (!side->link_up || now_ns < side->ask_ns)
        return false;
    side->ask_ns = now_ns + ASK_AGAIN_MS * NS_PER_MS;
    return true;
}

static void tell_source(struct job_core *core, Godwit__MoveVerdictKind kind, uint64_t now_ns,
                        struct job_todo *todo)
{
    if (may_ask(&core->source, now_ns))
        todo->source_verdict = kind;
}

static void tell_target(struct job_core *core, Godwit__MoveVerdictKind kind, uint64_t now_ns,
                        struct job_todo *todo)
{
    if (may_ask(&core->target, now_ns))
        todo->target_verdict = kind;
}

static bool is_silent(const struct job_side *side, uint64_t now_ns)
{
    return now_ns - side->heard_ns > SILENCE_MS * NS_PER_MS;
}

static void ask_the_silent(struct job_core *core, uint64_t now_ns, struct job_todo *todo)
{
    if (is_silent(&core->source, now_ns) && may_ask(&core->source, now_ns))
        todo->bits |= JOB_TODO_ASK_SOURCE;
    if (is_silent(&core->target, now_ns) && may_ask(&core->target, now_ns))
        todo->bits |= JOB_TODO_ASK_TARGET;
}

static bool is_away(const struct job_side *side, uint64_t now_ns)
{
    return !side->link_up && now_ns - side->link_lost_ns > STRAGGLER_MS * NS_PER_MS;
}

static void go_forward(struct job_core *core, uint64_t now_ns, struct job_todo *todo)
{
    assert(core->source.latch != GODWIT__LATCH__LATCH_ABORTED); /* INV-1: exclusive with TOOK */
    set_own(todo, JOB_OWN_TAKEN);
    set_step(core, JOB_FORWARD, now_ns, todo);
}

/* The process that held the guest's memory is gone, and the other end will never have it. */
static void end_lost(struct job_core *core, const char *host, uint64_t now_ns,
                     struct job_todo *todo)
{
    char text[FAULT_TEXT_MAX];
    if (core->superseded)
        (void)snprintf(text, sizeof text,
                       "%s took the VM, wrote its disks and died: its memory on %s was older",
                       core->target_host, host);
    else if (core->postcopy)
        (void)snprintf(text, sizeof text,
                       "the VM's process on %s ended in post-copy, with a part of its memory still "
                       "on %s: it has to start cold",
                       host, core->source_host);
    else
        (void)snprintf(text, sizeof text, "the VM's process on %s ended during the move", host);
    core->error_code = GW_NONE; /* this outweighs what was told of the move itself */
    set_error(core, GW_VM_LOST, text);
    set_own(todo, JOB_OWN_STOP);
    end(core, JOB_FAILED, now_ns, todo);
}

/* GAVE, and neither TOOK nor ABANDONED is known: only forward, by whatever path there is. */
static void push_parked(struct job_core *core, uint64_t now_ns, struct job_todo *todo)
{
    uint64_t parked_ms = (now_ns - core->gave_ns) / NS_PER_MS;
    bool is_stuck =
        core->parked || !core->source.link_up || core->source.gone || parked_ms > STARTED_MS_MAX;
    if (is_stuck)
        tell_target(core, GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_TAKE, now_ns, todo);
    if (parked_ms > PARK_ALARM_MS && !core->alarmed) {
        core->alarmed = true;
        todo->bits |= JOB_TODO_ALARM | JOB_TODO_REPORT;
    }
    if (parked_ms > PARK_FENCE_MS && core->state != JOB_ATTENTION) {
        char text[FAULT_TEXT_MAX];
        (void)snprintf(text, sizeof text,
                       "the guest is held on %s: it was given to %s, which does not answer",
                       core->source_host, core->target_host);
        core->state = JOB_ATTENTION;
        set_error(core, GW_NEEDS_ATTENTION, text);
        todo->bits |= JOB_TODO_STORE | JOB_TODO_REPORT;
    }
}

/* A target that gives up latches first and says why a moment later. An operator wants its words, and
 * meanwhile the guest runs on at the source. */
static bool has_said_why(const struct job_core *core, uint64_t now_ns)
{
    return core->target.gone || core->target_text[0] || core->abandoned_ns == 0 ||
           now_ns - core->abandoned_ns > WORDS_MS * NS_PER_MS;
}

/* Its agent died with the order, or the coordinator before it left: the source says again and again
 * that it knows of no such move, and the target would wait for ever. */
static bool source_never_began(const struct job_core *core)
{
    return core->out_lost_ns && core->source.latch == GODWIT__LATCH__LATCH_NONE &&
           !core->source.answer_has_move &&
           core->source.answered_ns > core->out_lost_ns + OUT_LATE_MS * NS_PER_MS;
}

static void decide_move(struct job_core *core, uint64_t now_ns, struct job_todo *todo)
{
    if (target_took(core)) {
        go_forward(core, now_ns, todo);
        return;
    }
    if (core->source.latch == GODWIT__LATCH__LATCH_ABORTED) {
        set_step(core, JOB_BACK, now_ns, todo);
        return;
    }
    if (source_gave(core)) {
        if (!target_is_clear(core)) {
            push_parked(core, now_ns, todo);
        } else if (core->source.gone) {
            end_lost(core, core->source_host, now_ns, todo);
        } else {
            /* Proven: T latched ABANDONED m or its process is gone. The new generation is in the
             * store before the verdict leaves; a late TAKE finds nobody. */
            set_own(todo, JOB_OWN_RECOVER);
            set_step(core, JOB_RESUME, now_ns, todo);
        }
        return;
    }
    bool is_off = target_is_clear(core) && has_said_why(core, now_ns);
    if (core->cancel || core->out_refused || core->source.gone || is_off ||
        source_never_began(core)) {
        set_step(core, JOB_BACK, now_ns, todo);
        return;
    }
    ask_the_silent(core, now_ns, todo);
}

/* Does the source provably run on, never to give m away? */
static bool source_is_clear(const struct job_core *core)
{
    if (core->source.latch == GODWIT__LATCH__LATCH_ABORTED || !core->out_sent)
        return true;
    bool has_nothing = core->source.answered_ns > 0 && !core->source.answer_has_move;
    if (!has_nothing || core->source.latch != GODWIT__LATCH__LATCH_NONE)
        return false;
    /* Before READY the source has latched OUT. So an answer without a latch of this move, to a
     * question that left after the target was out of it, excludes a GAVE for ever. */
    return core->out_refused ||
           (core->target_clear_ns > 0 && core->source.answered_ns > core->target_clear_ns);
}

/* Nobody else has the VM; whether its source, which is away, still runs it is not known. */
static void end_unknown(struct job_core *core, uint64_t now_ns, struct job_todo *todo)
{
    char text[FAULT_TEXT_MAX];
    (void)snprintf(text, sizeof text,
                   "%s does not answer, the VM is there or has died there: %.300s",
                   core->source_host, core->error_text);
    core->error_code = GW_NONE; /* this outweighs why the move ended */
    set_error(core, GW_SOURCE_SILENT, text);
    end(core, JOB_FAILED, now_ns, todo);
}

static void end_back(struct job_core *core, uint64_t now_ns, struct job_todo *todo)
{
    if (core->cancel)
        set_error(core, GW_MOVE_CANCELED, "the move was canceled");
    set_error(core, GW_MOVE_ROLLED_BACK, "the move was not carried through");
    set_own(todo, JOB_OWN_BACK);
    if (!core->source.link_up) {
        end_unknown(core, now_ns, todo);
        return;
    }
    const struct gw_code_row *row = gw_code_row((int)core->error_code);
    assert(row);
    enum job_state state = JOB_ROLLED_BACK;
    if (core->error_code == GW_MOVE_CANCELED)
        state = JOB_CANCELED;
    else if (row->exit_code == EXIT_CODE_REFUSED)
        state = JOB_FAILED;
    end(core, state, now_ns, todo);
}

static void decide_back(struct job_core *core, uint64_t now_ns, struct job_todo *todo)
{
    bool aborted = core->source.latch == GODWIT__LATCH__LATCH_ABORTED;
    if (target_took(core)) {
        go_forward(core, now_ns, todo);
        return;
    }
    if (source_gave(core)) {
        set_step(core, JOB_MOVE, now_ns, todo);
        return;
    }
    if (core->source.gone && target_is_clear(core)) {
        end_lost(core, core->source_host, now_ns, todo);
        return;
    }
    /* A target that is away cannot matter any more once the source has ABORTED or never began:
     * what is left there is discarded when it comes back. */
    bool target_matters = !(aborted || !core->out_sent || core->out_refused);
    bool target_done = target_is_clear(core) ||
                       (!target_matters && (is_away(&core->target, now_ns) ||
                                            now_ns - core->step_ns > STRAGGLER_MS * NS_PER_MS));
    if (target_done && !core->source.gone && source_is_clear(core)) {
        /* Its latch came first; why it rolled back comes with the receipt, a moment later. */
        bool told = core->has_receipt || !aborted || is_away(&core->source, now_ns) ||
                    now_ns - core->step_ns > RECEIPT_MS * NS_PER_MS;
        /* A source that is cut off for a moment says that all is well when it is back. */
        bool may_come = !core->source.link_up && !is_away(&core->source, now_ns);
        if (told && !may_come)
            end_back(core, now_ns, todo);
        return;
    }
    /* The source is asked first: an ABANDON that races its GAVE would park the guest for nothing.
     */
    bool source_may_answer = target_matters && core->source.link_up && !core->source.gone &&
                             now_ns - core->step_ns < CANCEL_FIRST_MS * NS_PER_MS;
    if (!target_is_clear(core) && !source_may_answer)
        tell_target(core, GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_ABANDON, now_ns, todo);
    if (!source_is_clear(core) && !core->source.gone)
        tell_source(core, GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_CANCEL, now_ns, todo);
}

/* What the target said of its guest's end while the job had it is said to nobody again. */
static void end_forward(struct job_core *core, uint64_t now_ns, struct job_todo *todo)
{
    if (core->target.gone && todo->own != JOB_OWN_KEEP)
        return; /* its own change of the record, a tick later */
    if (core->target.gone && !core->target.powered_off) {
        end_lost(core, core->target_host, now_ns, todo);
        return;
    }
    if (core->target.gone)
        set_own(todo, JOB_OWN_ENDED);
    bool unproven = core->error_code == GW_MEMORY_UNPROVEN;
    end(core, unproven ? JOB_ATTENTION : JOB_DONE, now_ns, todo);
}

/* The target has every page and has said so to a source that did not hear it: who serves nobody
 * lets go. That both ends' memory is the same nobody has compared then, and the source says so. */
static bool is_forgotten(struct job_core *core, uint64_t now_ns)
{
    if (!core->postcopy || !core->target_told_end)
        return false;
    if (core->served_ns == 0)
        core->served_ns = now_ns;
    return now_ns - core->served_ns > LET_GO_MS * NS_PER_MS;
}

static void decide_forward(struct job_core *core, uint64_t now_ns, struct job_todo *todo)
{
    bool released = core->source.latch == GODWIT__LATCH__LATCH_RELEASED || core->source.gone;
    bool is_cut = core->post_cut ||
                  (core->source.gone && core->source.latch != GODWIT__LATCH__LATCH_RELEASED) ||
                  is_away(&core->source, now_ns);
    /* It comes back, or the target will say that the guest is lost, or has said that all is well to
     * a coordinator that was away. */
    if (job_core_needs_source(core) && is_cut) {
        if (is_silent(&core->target, now_ns) && may_ask(&core->target, now_ns))
            todo->bits |= JOB_TODO_ASK_TARGET;
        return;
    }
    if (released && core->released_ns == 0)
        core->released_ns = now_ns;
    /* Else the next move of this VM would find it still at the end of this one. */
    if (released && core->postcopy && !core->target_ended && !core->target.gone &&
        core->target.link_up && now_ns - core->released_ns < LET_GO_MS * NS_PER_MS)
        return;
    /* The receipt may come a moment after the word that the source's process is gone. */
    bool told =
        core->has_receipt || (released && now_ns - core->released_ns > RECEIPT_MS * NS_PER_MS);
    /* A source that is away is told by its next HELLO: a GAVE of a superseded generation. */
    if ((released && told) || is_away(&core->source, now_ns)) {
        end_forward(core, now_ns, todo);
        return;
    }
    bool is_lost = (core->postcopy || core->may_postcopy) && core->target.gone; /* with the guest */
    if (!released)
        tell_source(core,
                    is_lost || is_forgotten(core, now_ns) ? GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_DROP
                            : GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_STARTED,
                    now_ns, todo);
}

static void decide_resume(struct job_core *core, uint64_t now_ns, struct job_todo *todo)
{
    const struct job_side *source = &core->source;
    if (source->gone) {
        end_lost(core, core->source_host, now_ns, todo);
        return;
    }
    bool resumed = source->answer_runs && source->answered_ns > core->target_clear_ns;
    bool as_new = core->source.answer_runs && core->resume_generation > 0 &&
                  source->answer_generation == core->resume_generation;
    if (as_new || (resumed && source->answer_generation == core->source_generation)) {
        set_own(todo, as_new ? JOB_OWN_RECOVERED : JOB_OWN_RECOVERED_OLD);
        set_error(core, core->cancel ? GW_MOVE_CANCELED : GW_MOVE_ROLLED_BACK,
                  "the target abandoned the move after the source had given the guest");
        end(core, core->error_code == GW_MOVE_CANCELED ? JOB_CANCELED : JOB_ROLLED_BACK, now_ns,
            todo);
        return;
    }
    /* A target that is gone without a latch may have taken the guest all the same, when its host
     * was switched off. L knows: memory that is older than the disks must never run. */
    tell_source(core,
                core->superseded ? GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_DROP
                                 : GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_RESUME,
                now_ns, todo);
}

static void decide_prepare(struct job_core *core, uint64_t now_ns, struct job_todo *todo)
{
    if (core->cancel)
        set_step(core, JOB_BACK, now_ns, todo);
}

static void decide(struct job_core *core, uint64_t now_ns, struct job_todo *todo)
{
    if (target_is_clear(core) && core->target_clear_ns == 0)
        core->target_clear_ns = now_ns;
    if (source_gave(core) && core->gave_ns == 0)
        core->gave_ns = now_ns;

    enum job_step before;
    do {
        before = core->step;
        switch (core->step) {
        case JOB_PREPARE:
            decide_prepare(core, now_ns, todo);
            break;
        case JOB_MOVE:
            decide_move(core, now_ns, todo);
            break;
        case JOB_BACK:
            decide_back(core, now_ns, todo);
            break;
        case JOB_FORWARD:
            decide_forward(core, now_ns, todo);
            break;
        case JOB_RESUME:
            /* What RECOVER granted is known to the caller only now: verdicts wait a tick. */
            if (todo->own == JOB_OWN_KEEP)
                decide_resume(core, now_ns, todo);
            break;
        case JOB_ENDED:
        case JOB_STEP_COUNT:
            break;
        }
    } while (core->step != before);
}

/* ---- events -----------------------------------------------------------------------------------
 */

static void on_move_in_failed(struct job_core *core, const struct job_event *event,
                              struct job_todo *todo)
{
    if (core->step != JOB_PREPARE)
        return;
    const struct fault *fault = event->failed.fault;
    set_error(core, event->failed.definite ? code_of_refusal(fault->code) : GW_MOVE_ROLLED_BACK,
              fault->text);
    set_step(core, JOB_BACK, event->now_ns, todo);
}

static void on_move_out_failed(struct job_core *core, const struct job_event *event)
{
    if (core->step != JOB_MOVE)
        return;
    set_error(core, GW_MOVE_ROLLED_BACK, event->failed.fault->text);
    core->out_refused = event->failed.definite;
    core->out_lost_ns = event->now_ns;
    core->source.ask_ns = 0;
    core->source.heard_ns = 0;
}

static void on_restart(struct job_core *core, uint64_t now_ns, struct job_todo *todo)
{
    core->source.link_up = core->target.link_up = false;
    core->source.link_lost_ns = core->target.link_lost_ns = now_ns;
    core->step_ns = now_ns;
    core->out_lost_ns = now_ns; /* it may not have left */
    if (core->step == JOB_PREPARE) { /* the move's key was never stored, so it cannot go on */
        set_error(core, GW_MOVE_ROLLED_BACK,
                  "the coordinator was restarted while the target prepared");
        set_step(core, JOB_BACK, now_ns, todo);
    }
}

static void on_link(struct job_core *core, const struct job_event *event)
{
    struct job_side *side = event->link.at_target ? &core->target : &core->source;
    if (side->link_up == event->link.up)
        return;
    side->link_up = event->link.up;
    side->ask_ns = 0;
    side->heard_ns = 0; /* ask at once, once it is back */
    if (!event->link.up)
        side->link_lost_ns = event->now_ns;
}

void job_core_step(struct job_core *core, const struct job_event *event, struct job_todo *todo)
{
    if (core->step == JOB_ENDED)
        return;
    switch (event->type) {
    case JOB_EVENT_BEGIN:
        assert(core->step == JOB_PREPARE);
        todo->bits |= JOB_TODO_STORE | JOB_TODO_MOVE_IN | JOB_TODO_REPORT;
        break;
    case JOB_EVENT_RESTART:
        on_restart(core, event->now_ns, todo);
        break;
    case JOB_EVENT_ADDRESS:
        if (core->step == JOB_PREPARE) { /* else it comes too late: BACK is on its way */
            core->out_sent = true;
            core->address_ns = event->now_ns;
            core->source.heard_ns = core->target.heard_ns = event->now_ns;
            set_step(core, JOB_MOVE, event->now_ns, todo);
            todo->bits |= JOB_TODO_MOVE_OUT;
        }
        break;
    case JOB_EVENT_MOVE_IN_FAILED:
        on_move_in_failed(core, event, todo);
        break;
    case JOB_EVENT_MOVE_OUT_FAILED:
        on_move_out_failed(core, event);
        break;
    case JOB_EVENT_RESUME_LOST:
        core->superseded = core->superseded || core->step == JOB_RESUME;
        core->source.ask_ns = 0;
        break;
    case JOB_EVENT_REPORT:
        learn_report(core, &event->report, event->now_ns, todo);
        break;
    case JOB_EVENT_LINK:
        on_link(core, event);
        break;
    case JOB_EVENT_CANCEL:
        if (!core->cancel) {
            core->cancel = true;
            core->source.ask_ns = 0;
            todo->bits |= JOB_TODO_STORE | JOB_TODO_REPORT;
        }
        break;
    case JOB_EVENT_TICK:
        break;
    }
    decide(core, event->now_ns, todo);
}

void job_core_reopen(struct job_core *core, uint64_t now_ns, struct job_todo *todo)
{
    assert(core->step == JOB_ENDED && core->state != JOB_DONE);
    core->source.latch = GODWIT__LATCH__LATCH_GAVE;
    core->target_clear_ns = now_ns;
    core->source.link_up = true;
    core->state = JOB_RUNNING;
    set_step(core, JOB_RESUME, now_ns, todo);
}

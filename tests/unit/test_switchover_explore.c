/* Every order of events that the source's and the target's cores can live through together:
 * messages late, doubled, lost or out of order, deadlines at any moment, links that break, verdicts
 * as SWITCHOVER.md lets a coordinator give them. Nobody runs twice; nobody is lost.
 *
 * A sent message stays deliverable for ever, any number of times or never. Todo is carried out at
 * once. Time is abstract: TICK means that the phase's deadline has passed.
 *
 * Lanes may be lost in pre-copy at any moment, at either end, and come back or not.
 *
 * The same once more where the switchover may leave pages behind: there lanes may be lost in
 * post-copy, too, the target may die with pages missing, and nothing leads back once it took. And
 * once where it does so only at last (policy finish), after any round, or never.
 *
 * Beside the disks stands the stamp, by the rules of storage/stamp's own judge: the target swaps it
 * after TOOK, a source before it resumes as a newer generation. Whatever a coordinator gets wrong,
 * two never write.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include <assert.h>

#include "base/world.h"
#include "migrate/source_core.h"
#include "migrate/target_core.h"
#include "proto/limits.h"
#include "storage/stamp.h"

enum { M = 7, STATES_MAX = 1 << 20, TABLE = 1 << 22 };
/* There rounds end before the deadline, and behind it. */
#define LATE_DEADLINE_NS (UINT64_C(1) << 50)

enum message {
    HELLO,
    EXTENTS_END,
    STATE,
    TRANSFER,
    ABORT,
    WELCOME,
    PREPARED,
    READY,
    STARTED,
    ABANDONED,
    MISSING,
    FETCHED,
    SERVED,
    MESSAGE_COUNT
};

enum mutation {
    MUTATION_NONE,
    MUTATION_RESUME_ON_TIMEOUT,    /* the field's common hole */
    MUTATION_TARGET_STARTS_ITSELF, /* at READY, without the right */
    MUTATION_ABANDON_NOT_LATCHED,  /* a TRANSFER is taken after ABANDONED was said */
    MUTATION_SILENCE_IS_ABANDON,   /* the coordinator grants RESUME because it hears nothing */
    MUTATION_TAKE_WITHOUT_GAVE,    /* the coordinator relays TAKE although the source never gave */
    MUTATION_AWAY_AFTER_GAVE,      /* a link lost after GAVE is taken for one lost in pre-copy */
    MUTATION_ABANDONED_LETS_IN, /* a source that comes anew finds an ABANDONED target READY again */
    MUTATION_COUNT,
    /* with SILENCE_IS_ABANDON, for the disks alone: */
    MUTATION_RESUME_WITHOUT_STAMP,
    MUTATION_WEAK_SWAP, /* the target asks only whose the disks are */
    /* of post-copy: */
    MUTATION_POSTCOPY_FIRST,
    MUTATION_RELEASED_AT_STARTED = MUTATION_POSTCOPY_FIRST, /* as if nothing had been left behind */
    MUTATION_SOURCE_RUNS_WHEN_CUT,   /* lanes lost in post-copy are taken for lost in pre-copy */
    MUTATION_RESUME_AFTER_LOSS,      /* a target that died with the guest lets the source run on */
    MUTATION_TARGET_RUNS_WITH_HOLES, /* out of patience it goes on as if it had every page */
    MUTATION_DONE_AT_RESUMED,        /* the target ends as it does after a pre-copy */
    MUTATION_FAILURE_ENDS_SOURCE,    /* a changed byte on a lane of post-copy ends it, as before */
    MUTATION_FAILURE_ENDS_TARGET,    /* the same at the other end: the guest is killed */
    MUTATION_REFUSED_ENDS_SOURCE,    /* nobody listens for 3 s: as if the target were known dead */
    MUTATION_WHOLE_GUEST_LOST,       /* a failure behind the last page kills a guest that has all */
    MUTATION_POSTCOPY_END
};

/* All that tells two situations apart. */
struct node {
    uint8_t source_phase, source_latch, target_phase, target_latch;
    uint16_t source_flags, target_flags;
    uint16_t sent; /* messages */
    uint8_t source_runs, target_runs;
    uint8_t stamp, target_writes, target_killed; /* a target that lost its swap is killed */
    uint8_t rejoined;                            /* lanes were lost and came back; see REJOINED_* */
};

enum { REJOINED_PRECOPY = 1, REJOINED_POSTCOPY = 2, TARGET_LOST = 4 };

enum { STAMP_AT_SOURCE, STAMP_AT_TARGET, STAMP_RESUMED, STAMP_COUNT };
static const struct stamp stamps[STAMP_COUNT] = {
    {.generation = M - 1, .owner = "source", .incarnation = "s"},
    {.generation = M, .owner = "target", .incarnation = "t"},
    {.generation = M + 1, .owner = "source", .incarnation = "s"},
};

static struct node *nodes;
static uint32_t *table;
static uint32_t node_count;
static enum mutation mutation;
static const char *broken; /* the first rule that was broken */
static bool disks_alone;   /* look at nothing but who writes */
static bool postcopy;      /* the operator allowed it */
static bool late;          /* ... where rounds lead nowhere, as policy finish */

/* Endings that must have been seen, or the exploring proves nothing. */
enum ending {
    ENDING_MOVED,
    ENDING_ROLLED_BACK,
    ENDING_RESUMED_AFTER_GAVE, /* by a newer generation */
    ENDING_PARKED_THEN_MOVED,
    ENDING_TARGET_WRITES,
    ENDING_MOVED_AFTER_REJOINING,
    ENDING_ALL = (1 << 6) - 1,
    ENDING_POSTCOPIED = 6,
    ENDING_POSTCOPIED_AFTER_REJOINING,
    ENDING_POSTCOPY_LOST,
    ENDING_POSTCOPY_ALL = (1 << 9) - 1
};
static unsigned endings;

static void pack_source(const struct source_core *core, struct node *node)
{
    node->source_phase = (uint8_t)core->phase;
    node->source_latch = (uint8_t)core->latch;
    node->source_flags =
        (uint16_t)(core->control_open | core->lanes_open << 1 | core->prepared << 2 |
                   core->standing_by << 3 | core->guest_stopped << 4 | core->link_lost << 5 |
                   core->target_abandoned << 6 | core->ended << 7 | core->away << 8 |
                   core->postcopy << 10 | core->lane_lost << 11 |
                   (postcopy && core->ended && core->fault.code) << 12 |
                   (late && core->may_postcopy) << 13 | core->overdue << 14);
}

static void unpack_source(const struct node *node, struct source_core *core)
{
    const struct source_core_config config = {.generation = M,
                                              .downtime_ns_max = NS_PER_S,
                                              .deadline_ms = 1000,
                                              .away_ms_max = 1000,
                                              .postcopy = postcopy && !late,
                                              .postcopy_late = late,
                                              .policy = late ? SOURCE_POLICY_FINISH
                                                             : SOURCE_POLICY_GENTLE,
                                              .postcopy_away_ms_max = 1000,
                                              .vcpus = 1,
                                              .memory_pages = 512};
    source_core_init(core, &config);
    core->phase = (enum phase)node->source_phase;
    core->latch = (Godwit__Latch)node->source_latch;
    unsigned flags = node->source_flags;
    core->control_open = flags & 1;
    core->lanes_open = flags >> 1 & 1;
    core->prepared = flags >> 2 & 1;
    core->standing_by = flags >> 3 & 1;
    core->guest_stopped = flags >> 4 & 1;
    core->link_lost = flags >> 5 & 1;
    core->target_abandoned = flags >> 6 & 1;
    core->ended = flags >> 7 & 1;
    core->away = (enum source_away)(flags >> 8 & 3);
    core->postcopy = flags >> 10 & 1;
    core->lane_lost = flags >> 11 & 1;
    core->may_postcopy = late ? flags >> 13 & 1 : postcopy;
    core->overdue = flags >> 14 & 1;
    core->converge.rounds = late; /* the bulk round is behind it, or the deadline leads back */
    if (flags >> 12 & 1)
        (void)fault_set(&core->fault, ERR_ATTENTION, "lost");
    core->started_ns = 1;
    bool waits = core->phase != PHASE_NONE && core->phase != PHASE_PARKED &&
                 core->phase != PHASE_POSTCOPY && !core->ended;
    core->phase_deadline_ns = !waits ? 0 : late ? LATE_DEADLINE_NS : 2;
}

static void pack_target(const struct target_core *core, struct node *node)
{
    node->target_phase = (uint8_t)core->phase;
    node->target_latch = (uint8_t)core->latch;
    node->target_flags =
        (uint16_t)(core->extents_known | core->lanes_open << 1 | core->populated << 2 |
                   core->drained << 3 | core->has_state << 4 | core->link_lost << 5 |
                   core->ended << 6 | core->away << 7 | core->may_postcopy << 8 |
                   core->postcopy << 9 | core->lane_lost << 10 | core->resumed << 11 |
                   core->fetched << 12);
}

static void unpack_target(const struct node *node, struct target_core *core)
{
    const struct target_core_config config = {
        .vm_id = "v", .move_id = "m", .incarnation = "i", .generation = M, .memory_pages = 512};
    target_core_init(core, &config);
    core->phase = (enum phase)node->target_phase;
    core->latch = (Godwit__Latch)node->target_latch;
    unsigned flags = node->target_flags;
    core->extents_known = flags & 1;
    core->lanes_open = flags >> 1 & 1;
    core->populated = flags >> 2 & 1;
    core->drained = flags >> 3 & 1;
    core->has_state = flags >> 4 & 1;
    core->link_lost = flags >> 5 & 1;
    core->ended = flags >> 6 & 1;
    core->away = flags >> 7 & 1;
    core->away_ms_max = core->postcopy_away_ms_max = 1000;
    core->may_postcopy = flags >> 8 & 1;
    core->postcopy = flags >> 9 & 1;
    core->lane_lost = flags >> 10 & 1;
    core->resumed = flags >> 11 & 1;
    core->fetched = flags >> 12 & 1;
    core->state_digest = core->has_state ? 99 : 0;
    core->started_ns = 1;
    bool waits = core->phase != PHASE_NONE && !core->ended &&
                 (core->latch != GODWIT__LATCH__LATCH_TOOK || core->phase == PHASE_POSTCOPY);
    core->phase_deadline_ns = waits ? 2 : 0;
    if (core->link_lost)
        (void)fault_set(&core->fault, ERR_CLOSED, "gone");
}

static bool gave(const struct node *node)
{
    return node->source_latch == GODWIT__LATCH__LATCH_GAVE;
}

/* Pages were left behind, and not all of them are at the target. */
static bool has_holes(const struct node *node)
{
    return (node->target_flags >> 9 & 1) && !(node->target_flags >> 12 & 1);
}

static void check_postcopy(const struct node *node)
{
    bool source_ended = node->source_flags >> 7 & 1, source_failed = node->source_flags >> 12 & 1;
    bool target_ended = node->target_flags >> 6 & 1;
    bool took = node->target_latch == GODWIT__LATCH__LATCH_TOOK;

    if (took && node->source_runs)
        broken = "the source runs memory that is older than the guest";
    else if (took && has_holes(node) && source_ended && !source_failed)
        broken = "the source freed memory that the target still needs";
    else if (target_ended && node->target_runs && has_holes(node))
        broken = "the guest runs on with pages missing";
}

/* Only its owner, the end of all patience, or a guest that cannot go on may end it with a loss: what
 * new lanes can mend may not. */
static bool may_lose_source(enum source_event_type type)
{
    return type == SOURCE_EVENT_VERDICT_DROP || type == SOURCE_EVENT_TICK;
}

static bool may_lose_target(enum target_event_type type)
{
    return type == TARGET_EVENT_GUEST_LOST || type == TARGET_EVENT_DROPPED ||
           type == TARGET_EVENT_TICK;
}

static void check(const struct node *node)
{
    bool source_ended = node->source_flags >> 7 & 1, target_ended = node->target_flags >> 6 & 1;
    bool took = node->target_latch == GODWIT__LATCH__LATCH_TOOK;
    bool lost = node->rejoined & TARGET_LOST; /* with the guest: a cold start, by another's word */

    if (node->source_runs && node->target_writes && !node->target_killed)
        broken = "both write the disks";
    if (disks_alone)
        return;
    if (postcopy)
        check_postcopy(node);
    if (node->target_killed)
        broken = "a target lost its disks though nobody made a mistake";
    else if (node->source_runs && node->target_runs)
        broken = "both run";
    else if (node->target_runs && !took)
        broken = "the target runs without the right";
    else if (took && !gave(node) && node->source_latch != GODWIT__LATCH__LATCH_RELEASED)
        broken = "taken, but never given";
    else if (node->source_runs && gave(node))
        broken = "the source runs after GAVE";
    else if (source_ended && target_ended && !node->source_runs && !node->target_runs && !lost)
        broken = "both ended and nobody runs";
    else if (source_ended && node->source_phase == PHASE_ROLLED_BACK && !node->source_runs)
        broken = "rolled back and not resumed";
    else if (!source_ended && target_ended && !node->source_runs && !node->target_runs &&
             gave(node) && node->source_phase != PHASE_HANDOVER &&
             node->source_phase != PHASE_PARKED && !lost)
        broken = "nobody runs and the source is not parked";
}

static void note_ending(const struct node *from, const struct node *node)
{
    bool both = (node->source_flags >> 7 & 1) && (node->target_flags >> 6 & 1);
    if (both && node->target_runs)
        endings |= 1u << ENDING_MOVED;
    if (both && node->target_runs && (node->target_flags >> 9 & 1))
        endings |= 1u << ENDING_POSTCOPIED;
    if (both && node->target_runs && (node->rejoined & REJOINED_POSTCOPY))
        endings |= 1u << ENDING_POSTCOPIED_AFTER_REJOINING;
    if (both && (node->rejoined & TARGET_LOST))
        endings |= 1u << ENDING_POSTCOPY_LOST;
    if (both && node->target_runs && (node->rejoined & REJOINED_PRECOPY))
        endings |= 1u << ENDING_MOVED_AFTER_REJOINING;
    if (both && node->target_runs && node->target_writes)
        endings |= 1u << ENDING_TARGET_WRITES;
    if (both && node->source_runs)
        endings |= 1u << ENDING_ROLLED_BACK;
    if (from && gave(from) && node->source_runs)
        endings |= 1u << ENDING_RESUMED_AFTER_GAVE;
    if (from && from->source_phase == PHASE_PARKED && node->source_phase == PHASE_DONE &&
        node->target_runs)
        endings |= 1u << ENDING_PARKED_THEN_MOVED;
}

static void add(const struct node *from, const struct node *node)
{
    note_ending(from, node);
    check(node);
    uint64_t words[2];
    static_assert(sizeof *node == sizeof words, "a node is two words");
    memcpy(words, node, sizeof words);
    uint64_t hash =
        (words[0] * UINT64_C(0x9E3779B97F4A7C15)) ^ (words[1] * UINT64_C(0xC2B2AE3D27D4EB4F));
    uint32_t slot = (uint32_t)(hash >> 40) % TABLE;
    while (table[slot]) {
        if (memcmp(&nodes[table[slot] - 1], node, sizeof *node) == 0)
            return;
        slot = (slot + 1) % TABLE;
    }
    assert_true(node_count < STATES_MAX);
    nodes[node_count++] = *node;
    table[slot] = node_count;
}

static void send(struct node *node, enum message message)
{
    node->sent |= (uint16_t)(1u << message);
}

static bool was_sent(const struct node *node, enum message message)
{
    return node->sent >> message & 1;
}

static void source_step(const struct node *from, const struct source_event *event)
{
    struct node node = *from;
    struct source_core core;
    unpack_source(from, &core);
    unsigned todo = 0;
    struct source_event timed = *event;
    timed.now_ns = late && event->type == SOURCE_EVENT_TICK ? 2 * LATE_DEADLINE_NS
                   : event->now_ns                          ? event->now_ns
                                                            : 2;
    if (event->type == SOURCE_EVENT_DIAL_FAILED && event->fault) { /* and not for the first time */
        core.refused_ns = 2;
        timed.now_ns += REFUSED_MS_MAX * NS_PER_MS;
    }
    if (source_core_step(&core, &timed, &todo, NULL) < 0)
        return;
    pack_source(&core, &node);
    if ((todo & SOURCE_TODO_STAND_BY) && core.postcopy)
        send(&node, MISSING);
    if (todo & SOURCE_TODO_SEND_SERVED)
        send(&node, SERVED);
    if (todo & SOURCE_TODO_SEND_HELLO)
        send(&node, HELLO);
    if (todo & SOURCE_TODO_PREPARE)
        send(&node, EXTENTS_END);
    if (todo & SOURCE_TODO_PAUSE)
        node.source_runs = 0;
    if (todo & SOURCE_TODO_SEND_STATE)
        send(&node, STATE);
    if (todo & SOURCE_TODO_SEND_TRANSFER)
        send(&node, TRANSFER);
    if (todo & SOURCE_TODO_RESUME)
        node.source_runs = 1;
    if (todo & SOURCE_TODO_SEND_ABORT)
        send(&node, ABORT);
    if (mutation == MUTATION_RESUME_ON_TIMEOUT && event->type == SOURCE_EVENT_TICK &&
        from->source_phase == PHASE_HANDOVER)
        node.source_runs = 1;
    if (mutation == MUTATION_AWAY_AFTER_GAVE && event->type == SOURCE_EVENT_LINK_LOST &&
        from->source_phase == PHASE_HANDOVER)
        node.source_runs = 1; /* its guest goes on while it dials */
    if (event->type == SOURCE_EVENT_REJOINED)
        node.rejoined |=
            from->source_phase == PHASE_POSTCOPY ? REJOINED_POSTCOPY : REJOINED_PRECOPY;
    if (mutation == MUTATION_RELEASED_AT_STARTED && from->source_phase != PHASE_POSTCOPY &&
        core.phase == PHASE_POSTCOPY) {
        node.source_flags |= 1 << 7;
        node.source_phase = PHASE_DONE;
        node.source_latch = GODWIT__LATCH__LATCH_RELEASED;
    }
    bool refused = event->type == SOURCE_EVENT_DIAL_FAILED && event->fault;
    bool fails = (mutation == MUTATION_FAILURE_ENDS_SOURCE && event->type == SOURCE_EVENT_FAILED) ||
                 (mutation == MUTATION_REFUSED_ENDS_SOURCE && refused);
    if (fails && from->source_phase == PHASE_POSTCOPY) {
        core.ended = true;
        core.phase = PHASE_DONE;
        core.latch = GODWIT__LATCH__LATCH_RELEASED;
        (void)fault_set(&core.fault, ERR_ATTENTION, "lost");
        pack_source(&core, &node);
    }
    bool lost = from->source_phase == PHASE_POSTCOPY && core.ended && core.fault.code;
    if (lost && !may_lose_source(event->type) && !disks_alone)
        broken = "the source threw pages away for what new lanes mend";
    if (mutation == MUTATION_SOURCE_RUNS_WHEN_CUT && from->source_phase == PHASE_POSTCOPY &&
        event->type == SOURCE_EVENT_LANE_LOST)
        node.source_runs = 1;
    add(from, &node);
}

static void target_step(const struct node *from, const struct target_event *event)
{
    struct node node = *from;
    struct target_core core;
    unpack_target(from, &core);
    unsigned todo = 0;
    struct target_event timed = *event;
    timed.now_ns = event->type == TARGET_EVENT_TICK ? UINT64_C(1) << 60 : 2;
    if (mutation == MUTATION_ABANDON_NOT_LATCHED && event->type == TARGET_EVENT_TRANSFER &&
        from->target_latch == GODWIT__LATCH__LATCH_ABANDONED && core.drained && core.has_state) {
        node.target_runs = 1;
        node.target_latch = GODWIT__LATCH__LATCH_TOOK;
        send(&node, STARTED);
        add(from, &node);
        return;
    }
    if (mutation == MUTATION_ABANDONED_LETS_IN && event->type == TARGET_EVENT_LANE_LOST &&
        from->target_latch == GODWIT__LATCH__LATCH_ABANDONED && core.drained && core.has_state) {
        core.ended = core.link_lost = false;
        core.latch = GODWIT__LATCH__LATCH_READY;
        core.phase = PHASE_HANDOVER;
        pack_target(&core, &node);
        add(from, &node);
        return;
    }
    if (target_core_step(&core, &timed, &todo, NULL) < 0)
        return;
    if (mutation == MUTATION_DONE_AT_RESUMED && core.postcopy &&
        event->type == TARGET_EVENT_RESUMED) {
        core.ended = true;
        core.phase = PHASE_DONE;
    }
    bool fails = event->type == TARGET_EVENT_FAILED && from->target_phase == PHASE_POSTCOPY;
    bool is_whole = core.fetched && core.resumed;
    if (fails && ((mutation == MUTATION_FAILURE_ENDS_TARGET && !is_whole) ||
                  (mutation == MUTATION_WHOLE_GUEST_LOST && is_whole))) {
        core.ended = true;
        core.phase = PHASE_DONE;
        (void)fault_set(&core.fault, ERR_CORRUPT, "lost");
    }
    pack_target(&core, &node);
    if (from->target_phase == PHASE_POSTCOPY && core.ended && core.fault.code) {
        if (is_whole)
            broken = "a guest was lost that runs and has every page";
        else if (!may_lose_target(event->type))
            broken = "the guest was lost for what new lanes mend";
        node.rejoined |= TARGET_LOST; /* its process goes, no thread of it takes another step */
        node.target_runs = mutation == MUTATION_TARGET_RUNS_WITH_HOLES;
    }
    if (todo & TARGET_TODO_SEND_FETCHED)
        send(&node, FETCHED);
    if (todo & TARGET_TODO_SEND_WELCOME)
        send(&node, WELCOME);
    if (todo & TARGET_TODO_SEND_PREPARED)
        send(&node, PREPARED);
    if (todo & TARGET_TODO_SEND_READY)
        send(&node, READY);
    if (todo & TARGET_TODO_RESUME)
        node.target_runs = 1;
    if (todo & TARGET_TODO_SEND_STARTED)
        send(&node, STARTED);
    if (todo & TARGET_TODO_SEND_ABANDONED)
        send(&node, ABANDONED);
    if (mutation == MUTATION_TARGET_STARTS_ITSELF && (todo & TARGET_TODO_SEND_READY))
        node.target_runs = 1;
    add(from, &node);
}

/* The agent's part: L from one stamp to another, by the judge of storage/stamp. */
static bool swap(struct node *node, unsigned expected, unsigned wanted)
{
    bool weak = mutation == MUTATION_WEAK_SWAP && wanted == STAMP_AT_TARGET &&
                strcmp(stamps[node->stamp].owner, stamps[expected].owner) == 0;
    enum stamp_verdict verdict =
        stamp_judge(&stamps[node->stamp], &stamps[expected], &stamps[wanted]);

    if (verdict == STAMP_VERDICT_LOST && !weak)
        return false;
    node->stamp = (uint8_t)wanted;
    return true;
}

/* As a newer generation the source runs only after its agent has swapped the stamp. */
static void source_resumes(const struct node *node, enum source_event_type type)
{
    struct node stamped = *node;

    if (mutation == MUTATION_RESUME_WITHOUT_STAMP || swap(&stamped, STAMP_AT_SOURCE, STAMP_RESUMED))
        source_step(&stamped, &(struct source_event){.type = type, .generation = M + 1});
}

/* After TOOK the target's agent swaps, at any time; a loser is killed. */
static void target_takes_disks(const struct node *node)
{
    struct node after = *node;

    if (node->target_latch != GODWIT__LATCH__LATCH_TOOK || node->target_writes)
        return;
    if (swap(&after, STAMP_AT_SOURCE, STAMP_AT_TARGET))
        after.target_writes = 1;
    else
        after.target_killed = 1, after.target_runs = 0;
    add(node, &after);
}

static bool silence_counts(void)
{
    return mutation == MUTATION_SILENCE_IS_ABANDON ||
           (mutation > MUTATION_COUNT && mutation < MUTATION_POSTCOPY_FIRST);
}

static void source_events(const struct node *node)
{
    static const struct {
        enum message message;
        enum source_event_type type;
    } words[] = {{WELCOME, SOURCE_EVENT_WELCOME},
                 {PREPARED, SOURCE_EVENT_PREPARED},
                 {READY, SOURCE_EVENT_READY},
                 {STARTED, SOURCE_EVENT_STARTED},
                 {FETCHED, SOURCE_EVENT_FETCHED},
                 {ABANDONED, SOURCE_EVENT_ABANDONED}};
    for (unsigned i = 0; i < sizeof words / sizeof words[0]; i++) {
        if (was_sent(node, words[i].message))
            source_step(node, &(struct source_event){.type = words[i].type, .takes_postcopy = late});
    }
    if (late && was_sent(node, WELCOME)) /* a target that cannot */
        source_step(node, &(struct source_event){.type = SOURCE_EVENT_WELCOME});
    static const enum source_event_type own[] = {
        SOURCE_EVENT_START,     SOURCE_EVENT_CONTROL_OPEN,  SOURCE_EVENT_LANES_OPEN,
        SOURCE_EVENT_STOOD_BY,  SOURCE_EVENT_PAUSED,        SOURCE_EVENT_DRAINED,
        SOURCE_EVENT_FAILED,    SOURCE_EVENT_TICK,          SOURCE_EVENT_LINK_LOST,
        SOURCE_EVENT_LANE_LOST, SOURCE_EVENT_HUNG_UP,       SOURCE_EVENT_DIAL_FAILED,
        SOURCE_EVENT_REJOINED,  SOURCE_EVENT_VERDICT_CANCEL};
    for (unsigned i = 0; i < sizeof own / sizeof own[0]; i++)
        source_step(node, &(struct source_event){.type = own[i]});
    const struct fault refused = {.code = ERR_REFUSED};
    source_step(node, &(struct source_event){.type = SOURCE_EVENT_DIAL_FAILED, .fault = &refused});
    /* None, some that fit the goal, more than fit. */
    for (unsigned dirty = 0; dirty <= 1000000000; dirty += dirty ? 999900000 : 100000) {
        struct source_event event = {.type = SOURCE_EVENT_ROUND_DONE,
                                     .round = {.pages = 1000,
                                               .data_pages = 1000,
                                               .duration_ns = 1000000,
                                               .dirty_pages = dirty}};
        source_step(node, &event);
        event.now_ns = LATE_DEADLINE_NS + 1;
        if (late)
            source_step(node, &event);
    }

    bool abandoned = node->target_latch == GODWIT__LATCH__LATCH_ABANDONED;
    bool took = node->target_latch == GODWIT__LATCH__LATCH_TOOK;
    source_step(node, &(struct source_event){.type = SOURCE_EVENT_VERDICT_RESUME, .generation = M});
    if (took) {
        source_step(node, &(struct source_event){.type = SOURCE_EVENT_VERDICT_STARTED});
        source_step(node, &(struct source_event){.type = SOURCE_EVENT_VERDICT_DROP});
    }
    bool lost = mutation == MUTATION_RESUME_AFTER_LOSS && (node->rejoined & TARGET_LOST);
    if (abandoned || silence_counts() || lost) {
        source_resumes(node, SOURCE_EVENT_VERDICT_RESUME);
        source_step(node, &(struct source_event){.type = SOURCE_EVENT_VERDICT_ABANDONED});
        source_resumes(node, SOURCE_EVENT_VERDICT_ABANDONED);
    }
}

static void target_events(const struct node *node)
{
    static const struct {
        enum message message;
        enum target_event_type type;
    } words[] = {{HELLO, TARGET_EVENT_HELLO},
                 {EXTENTS_END, TARGET_EVENT_EXTENTS_END},
                 {STATE, TARGET_EVENT_STATE},
                 {TRANSFER, TARGET_EVENT_TRANSFER},
                 {MISSING, TARGET_EVENT_MISSING},
                 {SERVED, TARGET_EVENT_SERVED},
                 {ABORT, TARGET_EVENT_ABORT}};
    for (unsigned i = 0; i < sizeof words / sizeof words[0]; i++) {
        if (was_sent(node, words[i].message))
            target_step(node, &(struct target_event){.type = words[i].type,
                                                     .state_digest = 99,
                                                     .postcopy = words[i].message == STATE
                                                                     ? node->source_flags >> 10 & 1
                                                                     : postcopy,
                                                     .away_ms_max = 1000,
                                                     .postcopy_away_ms_max = 1000,
                                                     .transfer = {.vm_id = "v",
                                                                  .move_id = "m",
                                                                  .incarnation = "i",
                                                                  .generation = M,
                                                                  .state_digest = 99}});
    }
    static const enum target_event_type own[] = {
        TARGET_EVENT_START,     TARGET_EVENT_LANES_OPEN, TARGET_EVENT_POPULATED,
        TARGET_EVENT_LOADED,    TARGET_EVENT_TICK,       TARGET_EVENT_LINK_LOST,
        TARGET_EVENT_LANE_LOST, TARGET_EVENT_REJOINED,   TARGET_EVENT_VERDICT_ABANDON};
    for (unsigned i = 0; i < sizeof own / sizeof own[0]; i++)
        target_step(node, &(struct target_event){.type = own[i], .generation = M});
    /* The last fences come after the source has paused. A failure after TOOK is a broken host, not
     * a decision: it ends with ERR_ATTENTION and is left to HA; in post-copy it may be a lane's. */
    if (!node->source_runs)
        target_step(node, &(struct target_event){.type = TARGET_EVENT_DRAINED});
    if (node->target_latch != GODWIT__LATCH__LATCH_TOOK || node->target_phase == PHASE_POSTCOPY) {
        target_step(node, &(struct target_event){.type = TARGET_EVENT_FAILED});
        target_step(node, &(struct target_event){.type = TARGET_EVENT_GUEST_LOST});
    }
    if (node->target_runs)
        target_step(node, &(struct target_event){.type = TARGET_EVENT_RESUMED});
    /* Pages come as long as the source has them; the process that lacks them may die. */
    bool source_serves = gave(node) && !(node->source_flags >> 7 & 1);
    if (source_serves)
        target_step(node, &(struct target_event){.type = TARGET_EVENT_FETCHED});
    target_step(node, &(struct target_event){.type = TARGET_EVENT_DROPPED});
    if (gave(node) || mutation == MUTATION_TAKE_WITHOUT_GAVE)
        target_step(node,
                    &(struct target_event){.type = TARGET_EVENT_VERDICT_TAKE, .generation = M});
}

static uint32_t explore(enum mutation what)
{
    mutation = what;
    broken = NULL;
    endings = 0;
    node_count = 0;
    nodes = calloc(STATES_MAX, sizeof *nodes);
    table = calloc(TABLE, sizeof *table);
    assert_non_null(nodes);
    assert_non_null(table);
    struct node first = {.source_runs = 1};
    add(NULL, &first);
    for (uint32_t i = 0; i < node_count && !broken; i++) {
        struct node node = nodes[i];
        source_events(&node);
        if (node.target_killed)
            continue;
        target_events(&node);
        target_takes_disks(&node);
    }
    uint32_t count = node_count;
    free(nodes);
    free(table);
    return count;
}

static void nobody_runs_twice_and_nobody_is_lost(void **state)
{
    (void)state;
    uint32_t count = explore(MUTATION_NONE);
    print_message("%u states\n", count);
    if (broken)
        print_message("broken: %s\n", broken);
    assert_null(broken);
    assert_int_equal(endings, ENDING_ALL);
}

static void every_seeded_mistake_is_caught(void **state)
{
    (void)state;
    for (int what = MUTATION_NONE + 1; what < MUTATION_COUNT; what++) {
        uint32_t count = explore((enum mutation)what);
        print_message("mutation %d: %s after %u states\n", what, broken ? broken : "NOT CAUGHT",
                      count);
        assert_non_null(broken);
    }
}

static void even_a_resume_that_was_granted_on_silence_lets_one_write(void **state)
{
    (void)state;
    disks_alone = true;
    uint32_t count = explore(MUTATION_SILENCE_IS_ABANDON);
    print_message("%u states\n", count);
    assert_null(broken);

    for (int what = MUTATION_COUNT + 1; what <= MUTATION_WEAK_SWAP; what++) {
        count = explore((enum mutation)what);
        print_message("mutation %d: %s after %u states\n", what, broken ? broken : "NOT CAUGHT",
                      count);
        assert_non_null(broken);
    }
    disks_alone = false;
}

static void nobody_runs_older_memory_and_none_is_freed_too_early_in_post_copy(void **state)
{
    (void)state;
    postcopy = true;
    uint32_t count = explore(MUTATION_NONE);
    print_message("%u states\n", count);
    if (broken)
        print_message("broken: %s\n", broken);
    assert_null(broken);
    assert_int_equal(endings, ENDING_POSTCOPY_ALL);
    postcopy = false;
}

static void the_same_holds_where_pages_are_left_behind_only_at_last(void **state)
{
    (void)state;
    postcopy = late = true;
    uint32_t count = explore(MUTATION_NONE);
    print_message("%u states\n", count);
    if (broken)
        print_message("broken: %s\n", broken);
    assert_null(broken);
    assert_int_equal(endings, ENDING_POSTCOPY_ALL);
    for (int what = MUTATION_POSTCOPY_FIRST; what < MUTATION_POSTCOPY_END; what++) {
        count = explore((enum mutation)what);
        print_message("mutation %d: %s after %u states\n", what, broken ? broken : "NOT CAUGHT",
                      count);
        assert_non_null(broken);
    }
    postcopy = late = false;
}

static void every_seeded_mistake_of_post_copy_is_caught(void **state)
{
    (void)state;
    postcopy = true;
    for (int what = MUTATION_POSTCOPY_FIRST; what < MUTATION_POSTCOPY_END; what++) {
        uint32_t count = explore((enum mutation)what);
        print_message("mutation %d: %s after %u states\n", what, broken ? broken : "NOT CAUGHT",
                      count);
        assert_non_null(broken);
    }
    postcopy = false;
}

/* From a parked source every outcome can still be reached by a word from outside. */
static void a_parked_source_can_always_be_resolved(void **state)
{
    (void)state;
    struct node node = {.source_phase = PHASE_PARKED,
                        .source_latch = GODWIT__LATCH__LATCH_GAVE,
                        .source_flags = 1 << 4};
    static const struct {
        enum source_event_type type;
        uint64_t generation;
        enum phase ends_in;
    } verdicts[] = {{SOURCE_EVENT_VERDICT_STARTED, 0, PHASE_DONE},
                    {SOURCE_EVENT_VERDICT_RESUME, M + 1, PHASE_ROLLED_BACK},
                    {SOURCE_EVENT_VERDICT_ABANDONED, M + 1, PHASE_ROLLED_BACK},
                    {SOURCE_EVENT_VERDICT_DROP, 0, PHASE_DONE}};
    for (unsigned i = 0; i < 4; i++) {
        struct source_core core;
        unsigned todo = 0;
        unpack_source(&node, &core);
        struct source_event event = {
            .now_ns = 5, .type = verdicts[i].type, .generation = verdicts[i].generation};
        assert_int_equal(source_core_step(&core, &event, &todo, NULL), 0);
        assert_int_equal(core.phase, verdicts[i].ends_in);
        assert_true(todo & SOURCE_TODO_END);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nobody_runs_twice_and_nobody_is_lost),
        cmocka_unit_test(every_seeded_mistake_is_caught),
        cmocka_unit_test(even_a_resume_that_was_granted_on_silence_lets_one_write),
        cmocka_unit_test(nobody_runs_older_memory_and_none_is_freed_too_early_in_post_copy),
        cmocka_unit_test(every_seeded_mistake_of_post_copy_is_caught),
        cmocka_unit_test(the_same_holds_where_pages_are_left_behind_only_at_last),
        cmocka_unit_test(a_parked_source_can_always_be_resolved),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

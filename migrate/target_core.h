/* What the target's end of a move decides: a pure function of (state, event).
 *
 * Flow:   target (shell) -> event -> [target_core] -> todo bits -> target (shell)
 * Thread: under the shell's lock; no I/O, no clock: time arrives in the event.
 *
 * READY is said only when all is loaded and compared. TOOK needs the right to run, by TRANSFER or
 * by its relay TAKE; until then the target may abandon at any time, and once ABANDONED it never
 * runs.
 *
 * In post-copy it runs with pages missing that only the source has. Lanes that break are awaited; a
 * source that stays away takes the guest with it: the fault then is ERR_CORRUPT, and it may not run
 * on.
 */
#ifndef GODWIT_MIGRATE_TARGET_CORE_H
#define GODWIT_MIGRATE_TARGET_CORE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "proto/migration.pb-c.h"
#include "proto/phase.h"

enum target_event_type {
    TARGET_EVENT_START,
    /* our own work */
    TARGET_EVENT_LANES_OPEN, /* all that the greeting named */
    TARGET_EVENT_POPULATED,
    TARGET_EVENT_DRAINED, /* the last fence of every lane, digests equal */
    TARGET_EVENT_LOADED,  /* machine loaded, memory digest equal */
    TARGET_EVENT_RESUMED, /* the guest runs */
    TARGET_EVENT_FAILED,
    TARGET_EVENT_TICK,
    TARGET_EVENT_LANE_LOST, /* a lane's link broke, or the source came anew; with the fault */
    TARGET_EVENT_REJOINED,  /* all lanes are open again */
    TARGET_EVENT_FETCHED,   /* post-copy: every page is here */
    TARGET_EVENT_GUEST_LOST, /* post-copy: it cannot run, or a page cannot be laid; with the fault */
    TARGET_EVENT_DROPPED,   /* its owner ends it, whatever is still missing */
    /* the source's words, on the control lane */
    TARGET_EVENT_HELLO, /* judged fit by the shell */
    TARGET_EVENT_EXTENTS_END,
    TARGET_EVENT_MISSING, /* pages that will come only after the switchover */
    TARGET_EVENT_STATE, /* judged whole by the shell */
    TARGET_EVENT_TRANSFER,
    TARGET_EVENT_ABORT, /* with its fault */
    TARGET_EVENT_SERVED, /* post-copy: it knows that we have every page; or with its fault */
    TARGET_EVENT_LINK_LOST,
    /* verdicts from outside */
    TARGET_EVENT_VERDICT_TAKE, /* generation: m */
    TARGET_EVENT_VERDICT_ABANDON,
    TARGET_EVENT_COUNT
};

struct target_transfer {
    const char *vm_id, *move_id, *incarnation; /* borrowed */
    uint64_t generation, state_digest;
};

struct target_event {
    uint64_t now_ns;
    enum target_event_type type;
    uint64_t pages;                  /* EXTENTS_END: to populate */
    uint64_t away_ms_max;            /* HELLO: how long the source tries to come back; 0: never */
    uint64_t postcopy_away_ms_max;   /* HELLO: the same, in post-copy */
    bool postcopy;                   /* HELLO: it may leave pages behind; STATE: it did */
    uint64_t state_digest;           /* STATE */
    bool reread;                     /* STATE */
    uint64_t activity;               /* TICK: grows whenever a byte arrived */
    struct target_transfer transfer; /* TRANSFER */
    uint64_t generation;             /* verdicts */
    const struct fault *fault;       /* FAILED, ABORT, LINK_LOST, ABANDON; borrowed */
};

/* Carried out lowest bit first. */
enum target_todo {
    TARGET_TODO_LATCH_IN = 1 << 0,
    TARGET_TODO_ACCEPT = 1 << 1, /* begin to accept lanes, control first */
    TARGET_TODO_SEND_WELCOME = 1 << 2,
    TARGET_TODO_POPULATE = 1 << 3,
    TARGET_TODO_SEND_PREPARED = 1 << 4, /* and allow page frames */
    TARGET_TODO_LOAD = 1 << 5,          /* compare digests, load the machine */
    TARGET_TODO_LATCH_READY = 1 << 6,
    TARGET_TODO_SEND_READY = 1 << 7,
    TARGET_TODO_LATCH_TOOK = 1 << 8,
    TARGET_TODO_RESUME = 1 << 9,
    TARGET_TODO_SEND_STARTED = 1 << 10,
    TARGET_TODO_LATCH_ABANDONED = 1 << 11,
    TARGET_TODO_SEND_ABANDONED = 1 << 12,
    TARGET_TODO_END = 1 << 13,
    TARGET_TODO_HANG_UP = 1 << 14, /* end all lanes, keep what they brought */
    TARGET_TODO_SEND_FETCHED = 1 << 15,
};

#define TARGET_TODO_FORWARD                                                                        \
    (TARGET_TODO_ACCEPT | TARGET_TODO_SEND_WELCOME | TARGET_TODO_POPULATE |                        \
     TARGET_TODO_SEND_PREPARED | TARGET_TODO_LOAD | TARGET_TODO_SEND_READY | TARGET_TODO_HANG_UP)

enum { TARGET_SILENT_MS_MAX = 60 * 1000 }; /* pre-copy without one byte from the source */

struct target_core_config {
    const char *vm_id, *move_id, *incarnation; /* borrowed, must outlive the core */
    uint64_t generation;                       /* m */
    uint64_t memory_pages;
    void (*trace)(void *data, const char *line); /* one line a phase; may be NULL */
    void *trace_data;
};

struct target_core {
    struct target_core_config config;
    enum phase phase;
    Godwit__Latch latch;
    bool away; /* only in pre-copy and post-copy: lanes were lost, the source may come back */
    uint64_t away_ms_max, postcopy_away_ms_max;
    bool may_postcopy; /* by the greeting */
    bool postcopy;     /* pages are missing that come after TOOK */
    bool lane_lost;    /* post-copy: between READY and TOOK */
    bool resumed, fetched;
    uint64_t fetched_until_ns; /* how long a source that does not answer is told of it */
    struct fault away_fault;
    bool extents_known, lanes_open, populated, drained, has_state, link_lost;
    bool ended;
    uint64_t started_ns;
    uint64_t phase_deadline_ns; /* INV-3 */
    uint64_t activity;
    uint64_t populate_pages;
    uint64_t state_digest;
    bool reread;
    uint64_t entered_ns[PHASE_COUNT];
    enum phase ended_in;
    struct fault fault;
};

void target_core_init(struct target_core *core, const struct target_core_config *config);
/* As source_core_step: 0, or ERR_STATE and nothing has changed. */
int target_core_step(struct target_core *core, const struct target_event *event, unsigned *ret_todo,
                     struct fault *fault);
const char *target_event_name(enum target_event_type type);

#endif

/* What the source's end of a move decides: a pure function of (state, event).
 *
 * Flow:   source (shell) -> event -> [source_core] -> todo bits -> source (shell)
 * Thread: under the shell's lock; no I/O, no clock: time arrives in the event.
 *
 * The commit point is SOURCE_TODO_LATCH_GAVE. Before it every trouble leads back (ABORTED, resume);
 * after it nothing does but a word from outside that carries a newer generation.
 *
 * In post-copy the guest runs at the target and its memory here is older: then not even that word
 * leads back. It is kept until the target has every page, or is lost.
 */
#ifndef GODWIT_MIGRATE_SOURCE_CORE_H
#define GODWIT_MIGRATE_SOURCE_CORE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "migrate/converge.h"
#include "migrate/throttle.h"
#include "proto/migration.pb-c.h"
#include "proto/phase.h"

enum source_policy { SOURCE_POLICY_GENTLE, SOURCE_POLICY_BALANCED, SOURCE_POLICY_FINISH };

enum source_event_type {
    SOURCE_EVENT_START,
    /* our own work */
    SOURCE_EVENT_CONTROL_OPEN, /* the control lane's handshake is done */
    SOURCE_EVENT_LANES_OPEN,   /* all of them */
    SOURCE_EVENT_ROUND_DONE,   /* every lane's fence was answered */
    SOURCE_EVENT_STOOD_BY,     /* both sides are awake for the pause */
    SOURCE_EVENT_PAUSED,       /* vCPUs stand still, the last dirty pages are known */
    SOURCE_EVENT_DRAINED,      /* last fences written, machine state saved */
    SOURCE_EVENT_FAILED,       /* a lane, a save, a tracker: with the fault */
    SOURCE_EVENT_TICK,         /* only time has passed */
    SOURCE_EVENT_NOTICED,      /* the guest knows what is about to come, or will not listen */
    /* lanes lost in pre-copy come back: hang up what is left, dial, go on from what is dirty */
    SOURCE_EVENT_LANE_LOST,   /* a lane's link broke, with the fault */
    SOURCE_EVENT_HUNG_UP,     /* no thread of any lane is left */
    SOURCE_EVENT_DIAL_FAILED, /* a lane could not be opened again, with the fault */
    SOURCE_EVENT_REJOINED,    /* all are open, and what the target does not have is dirty */
    /* the target's words, on the control lane */
    SOURCE_EVENT_WELCOME,
    SOURCE_EVENT_PREPARED,
    SOURCE_EVENT_READY,
    SOURCE_EVENT_STARTED,
    SOURCE_EVENT_FETCHED,   /* post-copy: it has every page; with a fault if they are others */
    SOURCE_EVENT_ABANDONED, /* with its fault */
    SOURCE_EVENT_LINK_LOST, /* the control lane is gone */
    /* verdicts from outside */
    SOURCE_EVENT_VERDICT_CANCEL,
    SOURCE_EVENT_VERDICT_STARTED,
    SOURCE_EVENT_VERDICT_ABANDONED, /* generation: 0, or the new one to resume at */
    SOURCE_EVENT_VERDICT_RESUME,    /* generation: the new one */
    SOURCE_EVENT_VERDICT_DROP,
    /* the operator's, while it runs; not once the pause is near */
    SOURCE_EVENT_GOALS,
    SOURCE_EVENT_COUNT
};

struct source_goals {
    uint64_t downtime_ns_max;
    uint64_t deadline_ms; /* of the whole pre-copy, 0: by policy */
    uint64_t bandwidth_bytes_per_s;
    enum source_policy policy;
};

struct source_event {
    uint64_t now_ns;
    enum source_event_type type;
    struct converge_round round; /* ROUND_DONE */
    uint64_t activity;           /* TICK: grows whenever a page went out or a fence was answered */
    uint64_t populated_pages;    /* WELCOME: what prepare has to give memory to */
    bool takes_postcopy;         /* WELCOME: the target can let its guest wait for pages */
    uint64_t generation;         /* verdicts */
    struct source_goals goals;   /* GOALS: all of them */
    const struct fault *fault;   /* FAILED, ABANDONED, LINK_LOST, CANCEL; borrowed */
};

/* Carried out lowest bit first. */
enum source_todo {
    SOURCE_TODO_LATCH_OUT = 1 << 0,
    SOURCE_TODO_OPEN_CONTROL = 1 << 1,
    SOURCE_TODO_SEND_HELLO = 1 << 2,
    SOURCE_TODO_PREPARE = 1 << 3,     /* send extents, open the lanes */
    SOURCE_TODO_FIRST_ROUND = 1 << 4, /* begin to track, send what is populated */
    SOURCE_TODO_ROUND = 1 << 5,       /* send what is dirty */
    SOURCE_TODO_STAND_BY = 1 << 6,    /* wake both sides for the pause */
    SOURCE_TODO_PAUSE = 1 << 7,       /* stop the guest, collect the last dirty pages */
    SOURCE_TODO_DRAIN = 1 << 8,       /* send them, save the machine */
    SOURCE_TODO_SEND_STATE = 1 << 9,
    SOURCE_TODO_LATCH_GAVE = 1 << 10,
    SOURCE_TODO_SEND_TRANSFER = 1 << 11,
    SOURCE_TODO_LATCH_RELEASED = 1 << 12,
    SOURCE_TODO_LATCH_ABORTED = 1 << 13,
    SOURCE_TODO_RESUME = 1 << 14, /* as it was before the move */
    SOURCE_TODO_SEND_ABORT = 1 << 15,
    SOURCE_TODO_END = 1 << 16,
    SOURCE_TODO_THROTTLE = 1 << 17, /* hold the guest's writers as source_core_throttle says */
    SOURCE_TODO_HANG_UP = 1 << 18,  /* end all lanes and the control lane */
    SOURCE_TODO_DIAL = 1 << 19,     /* open them anew, in the next epoch */
    SOURCE_TODO_SEND_SERVED = 1 << 20, /* post-copy: the target needs us no more */
    SOURCE_TODO_NOTICE = 1 << 21,      /* tell the guest that its pause is near */
};

/* Of these nothing may happen any more once the move rolls back. */
#define SOURCE_TODO_FORWARD                                                                        \
    (SOURCE_TODO_OPEN_CONTROL | SOURCE_TODO_SEND_HELLO | SOURCE_TODO_PREPARE |                     \
     SOURCE_TODO_FIRST_ROUND | SOURCE_TODO_ROUND | SOURCE_TODO_STAND_BY | SOURCE_TODO_PAUSE |      \
     SOURCE_TODO_DRAIN | SOURCE_TODO_SEND_STATE | SOURCE_TODO_SEND_TRANSFER |                      \
     SOURCE_TODO_THROTTLE | SOURCE_TODO_HANG_UP | SOURCE_TODO_DIAL | SOURCE_TODO_NOTICE)

enum {
    SOURCE_SILENT_MS_MAX = 60 * 1000, /* a round in which nothing moves at all */
    SOURCE_DIAL_MS_MAX = 30 * 1000,   /* post-copy: lanes that neither come nor fail are dialled anew */
};

struct source_core_config {
    uint64_t generation; /* m */
    uint64_t downtime_ns_max;
    uint64_t deadline_ms; /* of the whole pre-copy, 0: by policy */
    enum source_policy policy;
    unsigned vcpus;
    uint64_t memory_pages;
    uint64_t bandwidth_bytes_per_s;
    uint64_t away_ms_max; /* how long lost lanes may stay away; 0: not at all */
    bool postcopy;        /* what does not fit the goal after one pass comes after the switchover */
    bool postcopy_late;   /* the same, where rounds lead nowhere; only as policy finish */
    uint64_t postcopy_away_ms_max;
    uint64_t notice_ms_max; /* how long the pause waits for a guest that is told of it; 0: not told */
    bool reread;          /* both sides read all memory inside the pause: more time for it */
    /* One line a phase; may be NULL. */
    void (*trace)(void *data, const char *line);
    void *trace_data;
};

/* Is the guest told that its pause is near? Once a move, when the pause could begin. */
enum source_notice { SOURCE_NOTICE_DUE, SOURCE_NOTICE_WAITING, SOURCE_NOTICE_CATCH_UP, SOURCE_NOTICE_OVER };

enum source_away { SOURCE_AWAY_NO, SOURCE_AWAY_HANGING_UP, SOURCE_AWAY_DIALING };

struct source_core {
    struct source_core_config config;
    enum phase phase;
    Godwit__Latch latch;
    struct converge converge;
    struct throttle throttle;
    bool control_open, lanes_open, prepared, standing_by, guest_stopped, link_lost;
    bool target_abandoned;        /* it said so after GAVE */
    enum source_notice notice;
    uint64_t notice_until_ns;     /* while it is waited for */
    bool may_postcopy;            /* by the order, or late and the target can */
    bool overdue;                 /* the deadline came within a round; what is left comes after it */
    bool postcopy;                /* this switchover leaves pages behind: decided at stand-by */
    Godwit__MovePostcopyReason postcopy_reason; /* and why */
    bool lane_lost;               /* post-copy: after GAVE, before STARTED was known */
    enum source_away away;        /* only in pre-copy and post-copy */
    uint64_t away_ns, refused_ns; /* since when; 0: not */
    uint64_t dial_ns;             /* when the lanes of this epoch were begun to be opened */
    uint64_t away_all_ns;         /* of all reconnects */
    unsigned reconnects;
    struct fault away_fault; /* the last reason why they are still away */
    bool ended;
    uint64_t started_ns, greeted_ns;
    uint64_t phase_deadline_ns;   /* INV-3 */
    uint64_t activity, active_ns; /* pre-copy: last seen, and when */
    uint64_t populated_pages;
    uint64_t generation_granted; /* to resume at after GAVE */
    uint64_t entered_ns[PHASE_COUNT];
    enum phase ended_in; /* the phase in which it failed, or DONE */
    struct fault fault;  /* why it did */
};

void source_core_init(struct source_core *core, const struct source_core_config *config);
/* Returns 0, or ERR_STATE when this event may not be in this phase: nothing has changed then. A
 * target's word out of turn is not refused but ends the move. *ret_todo: SOURCE_TODO_* bits. */
int source_core_step(struct source_core *core, const struct source_event *event, unsigned *ret_todo,
                     struct fault *fault);
/* When it wants to be told of the time at the latest; 0: it awaits nothing. */
uint64_t source_core_deadline_ns(const struct source_core *core);
/* What the writers are to be held back by now. */
unsigned source_core_throttle(const struct source_core *core);
const char *source_event_name(enum source_event_type type);
uint64_t source_core_default_deadline_ms(const struct source_core_config *config);

#endif

/* What to do next in one move, as the coordinator sees it: the migrate saga.
 *
 * Flow:   api, agent_link -> cluster_core -> [job_core] -> cluster_core -> store, agent_link
 * Thread: the loop's; pure. Time arrives in the event.
 *
 * The source decides (SWITCHOVER.md), the coordinator learns, records, and pushes what is stuck:
 *
 *   PREPARE  the target was ordered to make room; its answer is an address
 *      |        refused, lost, canceled, coordinator restarted (the key is gone) -> BACK
 *   MOVE     the source was ordered to go; both report latches
 *      |        target TOOK -> FORWARD | source ABORTED -> BACK
 *      |        source GAVE and nothing heard: TAKE to the target until it says TOOK or ABANDONED
 *      |        source GAVE, target ABANDONED or gone -> RESUME
 *   FORWARD  the record names the target; STARTED to the source until it is RELEASED or gone. In
 *            post-copy that lasts until every page was given; a target that dies then takes the
 *            guest with it: DROP to the source, which never runs it again
 *   BACK     ABANDON to the target, CANCEL to the source, until the source provably runs on
 *   RESUME   a new generation is recorded; RESUME to the source until it runs as that
 *   ENDED
 *
 * Everything is level-triggered: an event only adds a fact, then decide() looks at all facts. So
 * doubled, late and lost messages and a coordinator that was away are no cases of their own.
 */
#ifndef GODWIT_COORDINATOR_JOB_CORE_H
#define GODWIT_COORDINATOR_JOB_CORE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/id.h"
#include "coordinator/own.h"
#include "coordinator/problem.h"
#include "proto/vm.pb-c.h"

enum job_step { /* stored by name */
                JOB_PREPARE,
                JOB_MOVE,
                JOB_FORWARD,
                JOB_BACK,
                JOB_RESUME,
                JOB_ENDED,
                JOB_STEP_COUNT
};

enum job_state { /* stored by name, and what an operator reads */
                 JOB_RUNNING,
                 JOB_DONE,
                 JOB_FAILED,
                 JOB_ROLLED_BACK,
                 JOB_CANCELED,
                 JOB_ATTENTION,
                 JOB_STATE_COUNT
};

struct job_side { /* what is known of the source's or the target's end */
    /* durable */
    Godwit__Latch latch;
    bool gone; /* its agent said that no process of this VM is there */
    /* from here on: of this coordinator's life only */
    bool link_up;
    bool powered_off;  /* it is gone because its guest ended by itself */
    uint64_t heard_ns; /* when anything of this end was heard last */
    uint64_t ask_ns;   /* not before: the next question or repeated verdict */
    uint64_t link_lost_ns;
    uint64_t answered_ns; /* when the question was asked that was answered last */
    bool answer_has_move; /* that answer showed a latch of this move */
    bool answer_runs;     /* that answer showed a machine that is not held */
    uint64_t answer_generation;
};

struct job_core {
    /* durable */
    char id[ID_SHORT_SIZE];
    char vm_id[ID_TEXT_SIZE];
    char move_id[ID_TEXT_SIZE];
    char source_host[OWN_HOST_SIZE], target_host[OWN_HOST_SIZE];
    uint64_t source_generation; /* g, that the source runs as */
    uint64_t generation;        /* m, granted to the target */
    uint64_t resume_generation; /* granted to the source in RESUME, else 0 */
    enum job_step step;
    enum job_state state;
    bool out_sent; /* the source's order may have left */
    bool may_postcopy; /* its goals allow it: until the target says otherwise, the source is needed */
    bool cancel;   /* an operator asked for it */
    struct job_side source, target;
    enum gw_code error_code;
    char error_text[FAULT_TEXT_MAX];
    char target_text[FAULT_TEXT_MAX]; /* why the target gave up, as it told; of this life only */
    uint64_t abandoned_ns;            /* when its latch was heard */
    /* from here on: of this coordinator's life only */
    bool out_refused; /* the source's agent answered that it does not do it */
    uint64_t out_lost_ns; /* since when nobody knows whether the order reached the source; 0: known */
    bool parked;      /* the source said that it waits */
    bool postcopy;    /* the guest runs with pages that only the source has */
    bool post_cut;    /* the source ended before it had given them all */
    bool target_ended; /* it needs the source no more */
    bool target_told_end; /* ... by the word of its move, which comes once and last */
    bool superseded;  /* the disks were written since: what the source holds is old */
    bool has_receipt;
    bool alarmed;
    uint64_t address_ns;      /* when the target told its address: its process is there since */
    uint64_t gave_ns;         /* when GAVE was learned */
    uint64_t target_clear_ns; /* when it was learned that the target will never run it */
    uint64_t step_ns;         /* when the step began */
    uint64_t released_ns;
    uint64_t served_ns; /* when it was first seen that the target of a post-copy has all */
};

enum job_event_type {
    JOB_EVENT_BEGIN,   /* the hand-over has been recorded */
    JOB_EVENT_RESTART, /* loaded by a coordinator that did not begin it */
    JOB_EVENT_ADDRESS, /* the target holds memory and listens */
    JOB_EVENT_MOVE_IN_FAILED,
    JOB_EVENT_MOVE_OUT_FAILED,
    JOB_EVENT_RESUME_LOST, /* the source may not resume: L is another's */
    JOB_EVENT_REPORT, /* one side told of itself, or its agent did */
    JOB_EVENT_LINK,   /* an agent came or went */
    JOB_EVENT_CANCEL,
    JOB_EVENT_TICK,
};

struct job_report {
    bool at_target;
    Godwit__Latch latch; /* LATCH_NONE: nothing of this move */
    bool absent;         /* no process of this VM is there (any more) */
    bool powered_off;    /* because its guest ended by itself */
    bool runs;           /* a machine that is not held by a switchover */
    bool parked;         /* the source waits for word of the target */
    bool postcopy;     /* pages are still fetched, or may be */
    bool has_all;      /* the target runs and needs its source no more */
    bool ended;
    bool has_receipt;
    uint64_t generation;    /* it runs as; 0: not told */
    uint64_t asked_ns;      /* when the question left that this answers; 0: nobody asked */
    const char *fault_text; /* borrowed, why it ended; NULL */
    int fault_code;
};

struct job_event {
    uint64_t now_ns;
    enum job_event_type type;
    union {
        struct job_report report;
        struct {
            const struct fault *fault;
            bool definite; /* the agent itself said no; else nobody knows what became of it */
        } failed;
        struct {
            bool at_target, up;
        } link;
    };
};

enum {
    JOB_TODO_STORE = 1, /* before anything else of this todo leaves */
    JOB_TODO_MOVE_IN = 2,
    JOB_TODO_MOVE_OUT = 4,
    JOB_TODO_ASK_SOURCE = 8,
    JOB_TODO_ASK_TARGET = 16,
    JOB_TODO_REPORT = 32, /* watchers should know */
    JOB_TODO_ENDED = 64,
    JOB_TODO_ALARM = 128, /* the guest stands still and nobody answers */
};

enum job_own { /* what becomes of the ownership record, in the same transaction */
               JOB_OWN_KEEP,
               JOB_OWN_BACK,
               JOB_OWN_TAKEN,
               JOB_OWN_RECOVER,
               JOB_OWN_RECOVERED,     /* the source runs as resume_generation */
               JOB_OWN_RECOVERED_OLD, /* it resumed at the target's word, as what it was */
               JOB_OWN_STOP,  /* its only process is gone */
               JOB_OWN_ENDED, /* the guest ended by itself */
};

struct job_todo {
    unsigned bits;
    enum job_own own;
    Godwit__MoveVerdictKind source_verdict, target_verdict; /* 0: none */
};

void job_core_init(struct job_core *core, uint64_t now_ns);
/* Adds to a zeroed todo. After JOB_OWN_RECOVER the caller sets core->resume_generation from the
 * record before it stores. */
void job_core_step(struct job_core *core, const struct job_event *event, struct job_todo *todo);
static inline bool job_core_is_active(const struct job_core *core)
{
    return core->step != JOB_ENDED;
}
/* Has the source given the guest away, as far as is known? Then a cancel comes too late. */
bool job_core_is_past_commit(const struct job_core *core);
/* The target took it, and as far as is known only the source has some of its pages. */
bool job_core_needs_source(const struct job_core *core);
/* An ended, rolled back job whose source turns out to stand held: the target is known to be out of
 * it, so the source may have a new generation. */
void job_core_reopen(struct job_core *core, uint64_t now_ns, struct job_todo *todo);

const char *job_step_name(enum job_step step);
enum job_step job_step_from_name(const char *name);
const char *job_state_name(enum job_state state);
enum job_state job_state_from_name(const char *name);

#endif

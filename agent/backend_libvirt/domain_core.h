/* What to do next with one libvirt domain that the pool runs on this host: who may run it, and moves.
 *
 * Flow:   domain -> [domain_core] -> domain
 * Thread: the loop's; pure. Time arrives in the event.
 *
 * The rules are the switchover's (migrate/HANDOVER.md) with libvirt's own migration in the middle:
 *
 *   source                                         target
 *   OUT   greets the target's agent                IN     no such domain may be active here
 *         libvirt copies: LIVE, PEER2PEER, PAUSED         the arrival stands still inside libvirt
 *         the domain is off here  == GAVE                 it stands still, whole: READY
 *         TRANSFER ------------------------------------>  TOOK, then virDomainResume
 *   RELEASED <------------------------------------------  it runs
 *   or: libvirt failed and runs it on == ABORTED          ABANDON: what has arrived is destroyed
 *
 * libvirt decides when the source's QEMU ends, so "off" is what GAVE latches: from then on nothing
 * here can run it. The arrival was migrated PAUSED and is resumed by our word alone; so a lost
 * answer inside libvirt, after which it lets the source run on, leaves the target standing. A
 * target never gives an arrival up by itself: once the source is off it is the only copy.
 *
 * What is seen is level, not edge: a sight that comes twice, late, or after libvirtd was away says
 * the same.
 */
#ifndef GODWIT_AGENT_BACKEND_LIBVIRT_DOMAIN_CORE_H
#define GODWIT_AGENT_BACKEND_LIBVIRT_DOMAIN_CORE_H

#include <stdbool.h>
#include <stdint.h>

#include "agent/backend_libvirt/virt_view.h"
#include "base/err.h"
#include "proto/vm.pb-c.h"

enum { DOMAIN_CORE_MOVE_ID_SIZE = 40 };

enum domain_phase {
    DOMAIN_PLAIN,    /* no move, or one that is over */
    DOMAIN_GREET,    /* source: OUT, the target's agent is asked */
    DOMAIN_COPY,     /* source: OUT, libvirt is at it */
    DOMAIN_SETTLE,   /* source: OUT, libvirt's call is over, what is here now is being found out */
    DOMAIN_GIVEN,    /* source: GAVE, the target is being told */
    DOMAIN_INCOMING, /* target: IN or READY */
    DOMAIN_TAKING,   /* target: TOOK, being resumed */
    DOMAIN_OVER,     /* nothing of it is here any more: see ending */
    DOMAIN_PHASE_COUNT
};

enum domain_ending { /* the latch file's words, see agent/vm/latch_file.h */
    DOMAIN_ENDED_OFF,     /* stopped: by guest, by hand */
    DOMAIN_ENDED_CRASHED,
    DOMAIN_ENDED_GONE,    /* moved away, or an incoming one discarded */
    DOMAIN_ENDED_ASKED,   /* the pool stopped it */
};

struct domain_core {
    enum domain_phase phase;
    uint64_t generation; /* it runs as here; 0: it never did */
    Godwit__Latch latch;
    uint64_t move_generation;
    char move_id[DOMAIN_CORE_MOVE_ID_SIZE];
    enum virt_sight sight;
    enum virt_how how;
    bool has_arrived;    /* target: the arrival has been seen */
    bool was_paused;     /* by its operator, when the move began */
    bool stay_paused;    /* target: the source said so */
    bool is_wanted;      /* target: asked to run it before it was whole: so the source is off */
    bool stopping;       /* the pool asked for its end */
    bool aborting;       /* libvirt was asked to break off */
    bool is_calling;     /* libvirt's migrate call is under way */
    bool is_inherited;   /* a migration of a life before: nobody will hear its call end */
    bool is_jobless;     /* settling: libvirt knows of no migration any more */
    bool is_taken;       /* settling: the target is said to run it */
    bool is_target_still; /* settling: the target says that it does not */
    bool is_told_parked;
    bool is_resuming;    /* TOOK, and not yet seen to run: part of what is durable */
    uint64_t deadline_ns; /* 0: none */
    uint64_t gave_ns, transfer_ns;
    uint64_t stand_ns; /* settling: since when it could go on here, standing; 0: it cannot */
    struct fault cause; /* why the move rolls back */
    enum domain_ending ending;
    char reason[200];
};

enum domain_event_type {
    DOMAIN_EVENT_SIGHT,
    DOMAIN_EVENT_MOVE_OUT,
    DOMAIN_EVENT_GREETED,     /* fault code 0: the target is there */
    DOMAIN_EVENT_MIGRATED,    /* libvirt's call is over; fault code 0: it says it went well */
    DOMAIN_EVENT_TRANSFERRED, /* the target's answer: its latch, or a fault */
    DOMAIN_EVENT_MOVE_IN,
    DOMAIN_EVENT_TAKE,        /* TRANSFER of the source, or the coordinator's TAKE */
    DOMAIN_EVENT_NO_JOB,      /* libvirt was asked to break a migration off, and has none */
    DOMAIN_EVENT_JOBLESS,     /* libvirt was asked: no migration of it is under way */
    DOMAIN_EVENT_TARGET_SAYS, /* to a source that asked: the target's latch, or a fault */
    DOMAIN_EVENT_ABANDON,
    DOMAIN_EVENT_CANCEL,
    DOMAIN_EVENT_STARTED,     /* to a source: the target runs it, by another path */
    DOMAIN_EVENT_DROP,
    DOMAIN_EVENT_STOP,        /* the pool wants it off */
    DOMAIN_EVENT_INHERIT,     /* at the start of an agent: what an earlier life latched is in core */
    DOMAIN_EVENT_TICK,
};

struct domain_event {
    enum domain_event_type type;
    uint64_t now_ns;
    union {
        struct {
            enum virt_sight sight;
            enum virt_how how;
            bool is_fresh; /* asked for after whatever happened last */
        } seen;
        struct {
            const char *move_id;
            uint64_t generation, deadline_ns;
        } move;
        struct {
            uint64_t generation; /* of the move */
            bool stay_paused;
        } take;
        struct {
            Godwit__Latch latch;
            const struct fault *fault; /* NULL: an answer */
        } answer;
        const struct fault *fault; /* greeted, migrated, cancel: NULL: none */
    };
};

enum {
    DOMAIN_TODO_LATCH = 1,     /* durable before anything else of this todo */
    DOMAIN_TODO_TELL = 2,      /* the state changed */
    DOMAIN_TODO_GREET = 4,
    DOMAIN_TODO_MIGRATE = 8,
    DOMAIN_TODO_ABORT_JOB = 16,
    DOMAIN_TODO_LOOK = 32,
    DOMAIN_TODO_RESUME = 64,   /* virDomainResume */
    DOMAIN_TODO_DISCARD = 128, /* destroy the arrival */
    DOMAIN_TODO_TRANSFER = 256,
    DOMAIN_TODO_ABANDON = 512, /* tell the target that the source goes on */
    DOMAIN_TODO_MOVE_ENDED = 1024,
    DOMAIN_TODO_OVER = 2048,   /* the domain is no longer this host's */
    DOMAIN_TODO_ASK_JOB = 4096, /* is a migration of it under way? */
    DOMAIN_TODO_ASK_TARGET = 8192, /* its latch */
};

struct domain_todo {
    unsigned bits;
};

/* 0, or a refusal with its words: then nothing has changed. */
int domain_core_step(struct domain_core *core, const struct domain_event *event,
                     struct domain_todo *todo, struct fault *fault);
Godwit__VmState domain_core_state(const struct domain_core *core);
bool domain_core_is_moving(const struct domain_core *core);
const char *domain_phase_name(enum domain_phase phase);

#endif

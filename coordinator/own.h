/* The ownership record of one VM: who holds the right to run it, as which generation.
 *
 * Flow:   cluster_core -> [own] -> store
 * Thread: the loop's; pure.
 *
 *   STOPPED -> STARTING -> RUN -> HANDOVER -> RUN (source again, or target)
 *                                    \-> RECOVERING -> RUN (source, at a new generation)
 *   STARTING, RUN, HANDOVER -> RECOVERING (its hosts are proven dead) -> STARTING (elsewhere)
 *
 * hiwater only grows and is the only place where a generation comes from: one is never used twice,
 * also not after an aborted move. Whoever changes a record stores it before any order that rests on
 * it leaves (INV-7).
 */
#ifndef GODWIT_COORDINATOR_OWN_H
#define GODWIT_COORDINATOR_OWN_H

#include <stdbool.h>
#include <stdint.h>

#include "base/id.h"

enum own_phase {
    OWN_STOPPED,
    OWN_STARTING,
    OWN_RUN,
    OWN_HANDOVER,
    OWN_RECOVERING,
    OWN_PHASE_COUNT
};

enum { OWN_HOST_SIZE = ID_NAME_MAX + 1 };

struct own {
    uint64_t gen; /* the owner runs as; 0 before the first start */
    uint64_t hiwater;
    enum own_phase phase;
    char owner[OWN_HOST_SIZE];      /* when STOPPED: where it ran last, or "" */
    char target[OWN_HOST_SIZE];     /* in HANDOVER and RECOVERING */
    char move_id[ID_TEXT_SIZE];     /* in HANDOVER and RECOVERING */
    char incarnation[ID_TEXT_SIZE]; /* of the owner, that START named */
};

const char *own_phase_name(enum own_phase phase); /* "HANDOVER" */
/* The phase of that name, OWN_PHASE_COUNT when there is none. */
enum own_phase own_phase_from_name(const char *name);
bool own_phase_may_follow(enum own_phase from, enum own_phase to);

void own_start(struct own *own, const char *host, const char *incarnation);
void own_started(struct own *own);
/* Grants m = own->hiwater (grown by one) to the target; the owner keeps its generation. */
void own_hand_over(struct own *own, const char *target, const char *move_id);
void own_back(struct own *own); /* the source never gave: it runs on as it was */
void own_taken(struct own *own, const char *incarnation); /* the target runs as m */
void own_recover(
    struct own *own); /* target ABANDONED after GAVE: a new generation for the source */
void own_recovered(struct own *own); /* the source runs as that generation */
/* The process that held the guest is gone; whatever was granted stays used up. */
void own_stop(struct own *own);
/* Whoever had it is proven dead, and it shall run again: what was granted is used up, and nothing
 * that an earlier life does counts any more. */
void own_lose(struct own *own);
bool own_is_lost(const struct own *own); /* and waits to be started anew */
/* A lost one starts on `host`, at a new generation. */
void own_restart(struct own *own, const char *host, const char *incarnation);
/* It was to start, did not, and runs nowhere: `host` is where it ran last. */
void own_return(struct own *own, const char *host);
/* A stopped VM is found running with the newest generation: the record was too pessimistic. */
void own_adopt(struct own *own);
/* Found running as `gen`, by a pool whose own memory is older than that (R5, R10). */
void own_adopt_found(struct own *own, const char *host, const char *incarnation, uint64_t gen);
/* The same of one that is just being started there. */
void own_adopt_starting(struct own *own, const char *host, const char *incarnation, uint64_t gen);
/* A roll-back was recorded, yet the source turns out to have given (and the target is gone). */
void own_reopen(struct own *own, const char *target, const char *move_id);

#endif

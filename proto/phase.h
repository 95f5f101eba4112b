/* The phases of a move: the same words in code, trace, wire, CLI and documents.
 *
 * Flow:   source_core, target_core -> [phase] -> trace, progress, cli
 * Thread: any; pure.
 */
#ifndef GODWIT_PROTO_PHASE_H
#define GODWIT_PROTO_PHASE_H

#include <stdbool.h>

/* Wire numbers: append only. */
enum phase {
    PHASE_NONE = 0,
    PHASE_GREET = 1,
    PHASE_PREPARE = 2,
    PHASE_PRECOPY = 3,
    PHASE_PAUSE = 4,
    PHASE_DRAIN = 5,
    PHASE_STATE = 6,
    PHASE_HANDOVER = 7,
    PHASE_DONE = 8,        /* the VM runs at the target */
    PHASE_ROLLED_BACK = 9, /* the VM runs at the source; nothing is left at the target */
    PHASE_PARKED = 10,     /* given away, no word of the target: paused at the source, not lost */
    PHASE_POSTCOPY = 11,   /* runs at the target, with pages that the source still has to give */
    PHASE_COUNT
};

const char *phase_name(enum phase phase); /* "precopy" */
/* May a move go from one phase straight to the other? */
bool phase_may_follow(enum phase from, enum phase to);
static inline bool phase_is_final(enum phase phase)
{
    return phase == PHASE_DONE || phase == PHASE_ROLLED_BACK;
}

#endif

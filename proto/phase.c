#include "proto/phase.h"

static const char *const names[PHASE_COUNT] = {
    [PHASE_NONE] = "none",
    [PHASE_GREET] = "greet",
    [PHASE_PREPARE] = "prepare",
    [PHASE_PRECOPY] = "precopy",
    [PHASE_PAUSE] = "pause",
    [PHASE_DRAIN] = "drain",
    [PHASE_STATE] = "state",
    [PHASE_HANDOVER] = "handover",
    [PHASE_DONE] = "done",
    [PHASE_ROLLED_BACK] = "rolled-back",
    [PHASE_PARKED] = "parked",
    [PHASE_POSTCOPY] = "post-copy",
};

const char *phase_name(enum phase phase)
{
    return (unsigned)phase < PHASE_COUNT ? names[phase] : "unknown";
}

bool phase_may_follow(enum phase from, enum phase to)
{
    if (to == PHASE_ROLLED_BACK) /* from handover only with the target's word (SWITCHOVER rule) */
        return from != PHASE_DONE && from != PHASE_ROLLED_BACK && from != PHASE_POSTCOPY;
    switch (from) {
    case PHASE_NONE:
        return to == PHASE_GREET;
    case PHASE_HANDOVER:
        return to == PHASE_DONE || to == PHASE_PARKED || to == PHASE_POSTCOPY;
    case PHASE_PARKED:
        return to == PHASE_DONE || to == PHASE_POSTCOPY;
    case PHASE_POSTCOPY:
        return to == PHASE_DONE;
    case PHASE_GREET:
    case PHASE_PREPARE:
    case PHASE_PRECOPY:
    case PHASE_PAUSE:
    case PHASE_DRAIN:
    case PHASE_STATE:
        return (int)to == (int)from + 1;
    case PHASE_DONE:
    case PHASE_ROLLED_BACK:
    case PHASE_COUNT:
        return false;
    }
    return false;
}

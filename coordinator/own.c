#include "coordinator/own.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "coordinator/words.h"

static const char *const names[OWN_PHASE_COUNT] = {
    [OWN_STOPPED] = "STOPPED",   [OWN_STARTING] = "STARTING",     [OWN_RUN] = "RUN",
    [OWN_HANDOVER] = "HANDOVER", [OWN_RECOVERING] = "RECOVERING",
};

const char *own_phase_name(enum own_phase phase)
{
    assert((unsigned)phase < OWN_PHASE_COUNT);
    return names[phase];
}

enum own_phase own_phase_from_name(const char *name)
{
    for (enum own_phase phase = 0; phase < OWN_PHASE_COUNT; phase++) {
        if (strcmp(names[phase], name) == 0)
            return phase;
    }
    return OWN_PHASE_COUNT;
}

bool own_phase_may_follow(enum own_phase from, enum own_phase to)
{
    switch (from) {
    case OWN_STOPPED:
        return to == OWN_STARTING || to == OWN_RUN; /* the latter: adopted */
    case OWN_STARTING:
        return to == OWN_RUN || to == OWN_STOPPED || to == OWN_RECOVERING;
    case OWN_RUN:
        return to == OWN_HANDOVER || to == OWN_STOPPED || to == OWN_RECOVERING;
    case OWN_HANDOVER:
        return to == OWN_RUN || to == OWN_RECOVERING || to == OWN_STOPPED;
    case OWN_RECOVERING:
        return to == OWN_RUN || to == OWN_STOPPED || to == OWN_STARTING || to == OWN_RECOVERING;
    case OWN_PHASE_COUNT:
        return false;
    }
    return false;
}

static void set_phase(struct own *own, enum own_phase phase)
{
    assert(own_phase_may_follow(own->phase, phase));
    assert(own->gen <= own->hiwater); /* INV-1: no generation but those that were given out */
    own->phase = phase;
    if (phase != OWN_HANDOVER && phase != OWN_RECOVERING) {
        own->target[0] = '\0';
        own->move_id[0] = '\0';
    }
}

void own_start(struct own *own, const char *host, const char *incarnation)
{
    assert(own->phase == OWN_STOPPED);
    own->gen = ++own->hiwater;
    WORDS_COPY(own->owner, host);
    WORDS_COPY(own->incarnation, incarnation);
    set_phase(own, OWN_STARTING);
}

void own_started(struct own *own)
{
    assert(own->phase == OWN_STARTING);
    set_phase(own, OWN_RUN);
}

void own_hand_over(struct own *own, const char *target, const char *move_id)
{
    assert(own->phase == OWN_RUN && strcmp(own->owner, target) != 0);
    own->hiwater++;
    WORDS_COPY(own->target, target);
    WORDS_COPY(own->move_id, move_id);
    set_phase(own, OWN_HANDOVER);
}

void own_back(struct own *own)
{
    assert(own->phase == OWN_HANDOVER);
    set_phase(own, OWN_RUN);
}

void own_taken(struct own *own, const char *incarnation)
{
    assert(own->phase == OWN_HANDOVER);
    own->gen = own->hiwater; /* m: nothing else was granted since the hand-over began */
    WORDS_COPY(own->owner, own->target);
    WORDS_COPY(own->incarnation, incarnation);
    set_phase(own, OWN_RUN);
}

void own_recover(struct own *own)
{
    assert(own->phase == OWN_HANDOVER);
    own->gen = ++own->hiwater;
    set_phase(own, OWN_RECOVERING);
}

void own_recovered(struct own *own)
{
    assert(own->phase == OWN_RECOVERING);
    set_phase(own, OWN_RUN);
}

void own_stop(struct own *own)
{
    if (own->phase != OWN_STOPPED)
        set_phase(own, OWN_STOPPED);
}

void own_lose(struct own *own)
{
    if (own->phase == OWN_STOPPED) /* as good as lost: it ended by itself, and shall not have */
        own->phase = OWN_RUN;
    own->hiwater++;
    set_phase(own, OWN_RECOVERING);
    own->target[0] = '\0';
    own->move_id[0] = '\0';
}

bool own_is_lost(const struct own *own)
{
    return own->phase == OWN_RECOVERING && !own->move_id[0];
}

void own_restart(struct own *own, const char *host, const char *incarnation)
{
    assert(own_is_lost(own));
    own->gen = ++own->hiwater;
    WORDS_COPY(own->owner, host);
    WORDS_COPY(own->incarnation, incarnation);
    set_phase(own, OWN_STARTING);
}

void own_return(struct own *own, const char *host)
{
    assert(own->phase == OWN_STOPPED || own_is_lost(own));
    WORDS_COPY(own->owner, host);
    own->incarnation[0] = '\0';
}

void own_adopt(struct own *own)
{
    assert(own->phase == OWN_STOPPED && own->gen == own->hiwater && own->gen > 0);
    set_phase(own, OWN_RUN);
}

static void adopt_as(struct own *own, const char *host, const char *incarnation, uint64_t gen,
                     enum own_phase phase)
{
    assert(own->phase == OWN_STOPPED || own_is_lost(own) ||
           ((own->phase == OWN_RUN || own->phase == OWN_STARTING) && own->gen < gen));
    if (own->hiwater < gen)
        own->hiwater = gen;
    own->gen = gen;
    WORDS_COPY(own->owner, host);
    WORDS_COPY(own->incarnation, incarnation);
    own->phase = phase;
    own->target[0] = '\0';
    own->move_id[0] = '\0';
}

void own_adopt_found(struct own *own, const char *host, const char *incarnation, uint64_t gen)
{
    adopt_as(own, host, incarnation, gen, OWN_RUN);
}

void own_adopt_starting(struct own *own, const char *host, const char *incarnation, uint64_t gen)
{
    adopt_as(own, host, incarnation, gen, OWN_STARTING);
}

void own_reopen(struct own *own, const char *target, const char *move_id)
{
    assert(own->phase == OWN_RUN);
    own->gen = ++own->hiwater;
    set_phase(own, OWN_RECOVERING);
    WORDS_COPY(own->target, target);
    WORDS_COPY(own->move_id, move_id);
}

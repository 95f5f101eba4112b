#include "coordinator/ha_core.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/world.h"
#include "coordinator/words.h"

static const char *const phase_names[HA_PHASE_COUNT] = {
    [HA_WELL] = "well",     [HA_SUSPECT] = "suspect",       [HA_FENCING] = "fencing",
    [HA_FENCED] = "fenced", [HA_QUARANTINE] = "quarantine", [HA_HELD] = "held",
};
static const char *const class_names[HA_CLASS_COUNT] = {
    [HA_CLASS_NONE] = "", [HA_CLASS_F1] = "F1", [HA_CLASS_F2] = "F2", [HA_CLASS_F0] = "F0"};

const char *ha_phase_name(enum ha_phase phase)
{
    assert((unsigned)phase < HA_PHASE_COUNT);
    return phase_names[phase];
}

enum ha_phase ha_phase_from_name(const char *name)
{
    enum ha_phase phase = 0;
    while (phase < HA_PHASE_COUNT && strcmp(phase_names[phase], name) != 0)
        phase++;
    return phase;
}

const char *ha_class_name(enum ha_class class)
{
    assert((unsigned)class < HA_CLASS_COUNT);
    return class_names[class];
}

enum ha_class ha_class_from_name(const char *name)
{
    enum ha_class class = 0;
    while (class < HA_CLASS_COUNT && strcmp(class_names[class], name) != 0)
        class ++;
    return class;
}

static bool may_follow(enum ha_phase from, enum ha_phase to)
{
    switch (from) {
    case HA_WELL:
        return to == HA_SUSPECT || to == HA_FENCED; /* the latter: an operator's word */
    case HA_SUSPECT:
        return to == HA_WELL || to == HA_FENCING || to == HA_HELD || to == HA_FENCED;
    case HA_FENCING:
        return to == HA_FENCED;
    case HA_HELD:
        return to == HA_WELL || to == HA_FENCED || to == HA_FENCING;
    case HA_FENCED:
        return to == HA_QUARANTINE || to == HA_WELL;
    case HA_QUARANTINE:
        return to == HA_WELL || to == HA_FENCED;
    case HA_PHASE_COUNT:
        break;
    }
    return false;
}

static void set_phase(struct ha_core *core, enum ha_phase phase)
{
    assert(may_follow(core->phase, phase));
    core->phase = phase;
    core->is_told = false;
    core->trying = HA_CLASS_NONE;
}

static bool is_within(uint64_t then_ns, uint64_t now_ns, uint64_t ms)
{
    return then_ns != 0 && now_ns - then_ns < ms * NS_PER_MS;
}

static bool is_silent(const struct ha_view *view, uint64_t ms)
{
    return view->now_ns - view->seen_ns >= ms * NS_PER_MS;
}

/* A host that nobody has heard of since this coordinator leads may just be slow to come. */
static bool is_in_grace(const struct ha_core *core, const struct ha_view *view)
{
    return !core->was_heard && view->now_ns - view->began_ns < HA_BOOT_GRACE_MS * NS_PER_MS;
}

static bool is_reached_by_others(const struct ha_core *core, uint64_t now_ns)
{
    return is_within(core->reached_ns, now_ns, HA_PROBE_FRESH_MS);
}

static bool beats_on_store(const struct ha_core *core, uint64_t now_ns)
{
    return is_within(core->storage_ns, now_ns, HA_STORAGE_FRESH_MS);
}

/* An agent that has died ends its connection; so does one that cannot reach us and goes on beating
 * on the store. */
static bool is_silent_enough(const struct ha_core *core, const struct ha_view *view)
{
    bool is_gone = !view->link_up && !beats_on_store(core, view->now_ns);
    return is_silent(view, is_gone ? HA_DECLARE_GONE_MS : HA_DECLARE_MS);
}

/* Somebody was asked in this suspicion and could not reach it; where there is nobody to ask, our
 * own silence has to do: fencing is what makes it true. */
static bool is_missed_by_others(const struct ha_core *core, const struct ha_view *view)
{
    return view->peers_up == 0 || core->missed_ns > core->suspect_ns;
}

static unsigned tell(struct ha_core *core, unsigned bit)
{
    if (core->is_told)
        return 0;
    core->is_told = true;
    return bit;
}

static unsigned probe(struct ha_core *core, const struct ha_view *view)
{
    if (is_within(core->probe_ns, view->now_ns, HA_PROBE_EVERY_MS))
        return 0;
    core->probe_ns = view->now_ns;
    return HA_TODO_PROBE;
}

static unsigned begin_fencing(struct ha_core *core, const struct ha_view *view)
{
    set_phase(core, HA_FENCING);
    WORDS_COPY(core->incarnation, view->incarnation);
    core->retry_ns = view->now_ns;
    memset(core->was_tried, 0, sizeof core->was_tried);
    return HA_TODO_STORE;
}

static unsigned tick_well(struct ha_core *core, const struct ha_view *view)
{
    if (!is_silent(view, HA_SUSPECT_MS) || is_in_grace(core, view))
        return 0;
    set_phase(core, HA_SUSPECT);
    core->suspect_ns = view->now_ns;
    core->probe_ns = 0;
    return probe(core, view);
}

static unsigned tick_suspect(struct ha_core *core, const struct ha_view *view)
{
    if (view->link_up && !is_silent(view, HA_SUSPECT_MS)) {
        set_phase(core, HA_WELL);
        return HA_TODO_BACK;
    }
    unsigned bits = probe(core, view);
    if (!view->is_armed || !is_silent_enough(core, view))
        return bits;
    if (is_reached_by_others(core, view->now_ns))
        return bits | tell(core, HA_TODO_CUT_OFF);
    if (!is_missed_by_others(core, view))
        return bits;
    if (view->storm)
        return bits | tell(core, HA_TODO_BRAKE);
    if (view->has_storage || view->has_power)
        return bits | begin_fencing(core, view);
    set_phase(core, HA_HELD);
    return bits | tell(core, HA_TODO_HELD);
}

static unsigned tick_held(struct ha_core *core, const struct ha_view *view)
{
    if (view->link_up && !is_silent(view, HA_SUSPECT_MS)) {
        set_phase(core, HA_WELL);
        return HA_TODO_BACK;
    }
    if (view->is_armed && (view->has_storage || view->has_power)) /* an operator gave it one */
        return begin_fencing(core, view);
    return 0;
}

static unsigned try_class(struct ha_core *core, enum ha_class class, uint64_t now_ns)
{
    core->trying = class;
    core->trying_ns = now_ns;
    core->try_failed = false;
    core->was_tried[class] = true;
    return class == HA_CLASS_F1 ? HA_TODO_EVICT : HA_TODO_POWER;
}

/* NONE: all that the host has was tried in this round. */
static enum ha_class next_class(const struct ha_core *core, const struct ha_view *view)
{
    bool f1 = view->has_storage && !core->was_tried[HA_CLASS_F1];
    bool f2 = view->has_power && !core->was_tried[HA_CLASS_F2];
    if (f1 && (!f2 || beats_on_store(core, view->now_ns)))
        return HA_CLASS_F1;
    return f2 ? HA_CLASS_F2 : HA_CLASS_NONE;
}

/* It was declared dead and that is recorded: from here there is no way back but through FENCED, for
 * half a fence may have been done. */
static unsigned tick_fencing(struct ha_core *core, const struct ha_view *view)
{
    uint64_t most_ms = core->trying == HA_CLASS_F1 ? HA_EVICT_MS : HA_POWER_MS;
    if (core->trying != HA_CLASS_NONE && !core->try_failed &&
        is_within(core->trying_ns, view->now_ns, most_ms))
        return 0;
    if (core->trying == HA_CLASS_NONE && view->now_ns < core->retry_ns)
        return 0;
    enum ha_class next = next_class(core, view);
    if (next != HA_CLASS_NONE)
        return try_class(core, next, view->now_ns);
    core->trying = HA_CLASS_NONE; /* a round is over */
    core->retry_ns = view->now_ns + HA_RETRY_MS * NS_PER_MS;
    memset(core->was_tried, 0, sizeof core->was_tried);
    return tell(core, HA_TODO_HELD);
}

unsigned ha_core_tick(struct ha_core *core, const struct ha_view *view)
{
    switch (core->phase) {
    case HA_WELL:
        return tick_well(core, view);
    case HA_SUSPECT:
        return tick_suspect(core, view);
    case HA_FENCING:
        return tick_fencing(core, view);
    case HA_HELD:
        return tick_held(core, view);
    case HA_FENCED:
    case HA_QUARANTINE:
    case HA_PHASE_COUNT:
        break;
    }
    return 0;
}

void ha_core_probed(struct ha_core *core, bool reached, uint64_t storage_age_ms, uint64_t now_ns)
{
    if (reached)
        core->reached_ns = now_ns;
    else
        core->missed_ns = now_ns;
    if (storage_age_ms == UINT64_MAX || storage_age_ms > now_ns / NS_PER_MS)
        return;
    uint64_t written_ns = now_ns - storage_age_ms * NS_PER_MS;
    if (written_ns > core->storage_ns)
        core->storage_ns = written_ns;
}

static unsigned fenced(struct ha_core *core, enum ha_class class)
{
    set_phase(core, HA_FENCED);
    core->fenced_by = class;
    return HA_TODO_STORE | HA_TODO_FENCED;
}

unsigned ha_core_tried(struct ha_core *core, enum ha_class class, bool confirmed)
{
    if (core->phase != HA_FENCING)
        return 0; /* late word of a try that does not matter any more */
    if (confirmed)
        return fenced(core, class);
    if (core->trying == class)
        core->try_failed = true; /* on to the next class at once, or the round is over */
    return 0;
}

unsigned ha_core_confirm_down(struct ha_core *core, const struct ha_view *view)
{
    if (core->phase == HA_FENCED || core->phase == HA_QUARANTINE ||
        (view->link_up && !is_silent(view, HA_SUSPECT_MS)))
        return 0;
    if (core->phase != HA_FENCING)
        WORDS_COPY(core->incarnation, view->incarnation);
    return fenced(core, HA_CLASS_F0);
}

enum ha_hello ha_core_hello(struct ha_core *core, const char *incarnation, uint64_t now_ns,
                            unsigned *bits)
{
    (void)now_ns;
    core->was_heard = true;
    if (core->phase == HA_WELL)
        return HA_HELLO_TAKE;
    bool is_fenced_life = core->incarnation[0] && strcmp(core->incarnation, incarnation) == 0;
    switch (core->phase) {
    case HA_SUSPECT:
    case HA_HELD:
        set_phase(core, HA_WELL);
        *bits |= HA_TODO_BACK;
        return HA_HELLO_TAKE;
    case HA_FENCING: /* R11: what was begun is carried through, whoever comes back meanwhile */
        if (is_fenced_life)
            return HA_HELLO_QUARANTINE;
        core->phase =
            HA_FENCED; /* a new life: the old one has ended, its hello tells what is left */
        set_phase(core, HA_WELL);
        core->incarnation[0] = '\0';
        *bits |= HA_TODO_STORE | HA_TODO_BACK;
        return HA_HELLO_TAKE;
    case HA_FENCED:
    case HA_QUARANTINE:
        if (is_fenced_life) {
            if (core->phase == HA_FENCED)
                set_phase(core, HA_QUARANTINE);
            *bits |= HA_TODO_STORE;
            return HA_HELLO_QUARANTINE;
        }
        set_phase(core, HA_WELL);
        core->incarnation[0] = '\0';
        *bits |= HA_TODO_STORE | HA_TODO_BACK;
        return HA_HELLO_TAKE;
    case HA_WELL:
    case HA_PHASE_COUNT:
        break;
    }
    return HA_HELLO_TAKE;
}

uint64_t ha_back_off_ns(unsigned tries)
{
    static const uint64_t seconds[] = {0, 10, 30, 90};
    return seconds[tries < 4 ? tries : 3] * NS_PER_S;
}

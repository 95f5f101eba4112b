#include "agent/watchdog_core.h"

#include <assert.h>
#include <stdbool.h>

#include "base/world.h"

static unsigned on_isolate(struct watchdog_core *core, uint64_t now_ns)
{
    if (core->phase != WATCHDOG_ASLEEP || now_ns < core->retry_ns)
        return 0; /* more to end gives nobody more time */
    core->phase = WATCHDOG_AWAKE;
    core->since_ns = core->patted_ns = now_ns;
    return WATCHDOG_TODO_WAKE | WATCHDOG_TODO_PAT;
}

static unsigned on_unopened(struct watchdog_core *core, uint64_t now_ns)
{
    core->phase = WATCHDOG_ASLEEP;
    core->retry_ns = now_ns + WATCHDOG_RETRY_MS * NS_PER_MS;
    return 0;
}

static unsigned on_isolated(struct watchdog_core *core)
{
    if (core->phase == WATCHDOG_ASLEEP)
        return 0;
    core->phase = WATCHDOG_ASLEEP;
    return WATCHDOG_TODO_SLEEP;
}

static unsigned on_tick(struct watchdog_core *core, uint64_t now_ns)
{
    if (core->phase != WATCHDOG_AWAKE)
        return 0;
    if (now_ns - core->since_ns >= WATCHDOG_KILL_MS * NS_PER_MS) {
        core->phase = WATCHDOG_GONE;
        return WATCHDOG_TODO_LET_GO;
    }
    if (now_ns - core->patted_ns < WATCHDOG_PAT_MS * NS_PER_MS)
        return 0;
    core->patted_ns = now_ns;
    return WATCHDOG_TODO_PAT;
}

unsigned watchdog_core_step(struct watchdog_core *core, const struct watchdog_event *event)
{
    switch (event->type) {
    case WATCHDOG_EVENT_ISOLATE:
        return on_isolate(core, event->now_ns);
    case WATCHDOG_EVENT_ISOLATED:
        return on_isolated(core);
    case WATCHDOG_EVENT_TICK:
        return on_tick(core, event->now_ns);
    case WATCHDOG_EVENT_UNOPENED:
        return on_unopened(core, event->now_ns);
    case WATCHDOG_EVENT_COUNT:
        break;
    }
    assert(false);
    return 0;
}

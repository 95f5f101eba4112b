/* When this host's watchdog is woken, patted and let go: a pure function of (state, event).
 *
 * Flow:   quarantine -> watchdog (shell) -> event -> [watchdog_core] -> todo bits -> watchdog
 * (shell) Thread: the loop's; no I/O, no clock: time arrives in the event.
 *
 * A watchdog sleeps for as long as nobody has to be isolated: an agent that dies or is replaced
 * while its VMs may run stops none of them. It is awake from the moment at which VMs must end until
 * they provably have; it is patted for WATCHDOG_KILL_MS of that, in which killing them is all it
 * takes, and then no more: what a kill does not end, the reset of the host does. VMs that end
 * before that reset put it to sleep again.
 *
 *   asleep --isolate--> awake --WATCHDOG_KILL_MS--> let go --(the host resets)
 *      ^-----unopened-----+
 *      ^------isolated----+------isolated-------------+
 */
#ifndef GODWIT_AGENT_WATCHDOG_CORE_H
#define GODWIT_AGENT_WATCHDOG_CORE_H

#include <stdint.h>

enum {
    WATCHDOG_KILL_MS = 10000, /* for kills to be confirmed */
    WATCHDOG_PAT_MS = 2000,
    WATCHDOG_RETRY_MS = 1000, /* until a device that could not be opened is tried again */
    WATCHDOG_TIMEOUT_S = 10, /* asked of the device: from the last pat to the reset */
};

enum watchdog_event_type {
    WATCHDOG_EVENT_ISOLATE,  /* VMs of this host must end */
    WATCHDOG_EVENT_ISOLATED, /* all of them have, provably */
    WATCHDOG_EVENT_TICK,
    WATCHDOG_EVENT_UNOPENED, /* WAKE did not come about: the device is another's, say */
    WATCHDOG_EVENT_COUNT
};

struct watchdog_event {
    uint64_t now_ns;
    enum watchdog_event_type type;
};

/* Carried out lowest bit first. */
enum watchdog_todo {
    WATCHDOG_TODO_WAKE = 1 << 0, /* open the device: it counts from now on */
    WATCHDOG_TODO_PAT = 1 << 1,
    WATCHDOG_TODO_LET_GO = 1 << 2, /* tell that it is not patted any more */
    WATCHDOG_TODO_SLEEP = 1 << 3,  /* disarm and close it */
};

enum watchdog_phase { WATCHDOG_ASLEEP, WATCHDOG_AWAKE, WATCHDOG_GONE };

struct watchdog_core { /* zeroed: asleep */
    enum watchdog_phase phase;
    uint64_t since_ns, patted_ns;
    uint64_t retry_ns; /* no WAKE before */
};

/* Returns WATCHDOG_TODO_* bits. Any event may come at any time. */
unsigned watchdog_core_step(struct watchdog_core *core, const struct watchdog_event *event);

#endif

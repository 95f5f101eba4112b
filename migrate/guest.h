/* The guest as a move sees it: one that can be stopped, started, saved and loaded, with regions.
 *
 * Flow:   vmm-core -> [guest] -> source, target
 * Thread: the migration's own thread.
 */
#ifndef GODWIT_MIGRATE_GUEST_H
#define GODWIT_MIGRATE_GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "migrate/region.h"

struct fault;

struct guest_ops {
    void (*pause)(void *owner);                      /* all vCPUs at once; idempotent */
    int (*resume)(void *owner, struct fault *fault); /* guest time goes on */
    /* Hold the writing vCPUs back for so many thousandths of the time, 0: no more; may be NULL.
     * *ret_held_ns: how long they stood by now, added up over the vCPUs and since ever. */
    int (*throttle)(void *owner, unsigned permille, uint64_t *ret_held_ns, struct fault *fault);
    /* Gives malloc'ed bytes. */
    int (*save)(void *owner, uint8_t **ret_bytes, size_t *ret_count, struct fault *fault);
    int (*load)(void *owner, const uint8_t *bytes, size_t count, uint64_t paused_ns,
                struct fault *fault);
};

struct guest {
    const struct guest_ops *ops;
    void *owner;
    const char *vm_id, *name, *machine, *baseline; /* borrowed; for the greeting */
    unsigned vcpus;
    struct region *regions; /* borrowed; the first is the RAM */
    unsigned region_count;
    bool takes_counters; /* save: whoever loads it knows what its devices have counted */
    bool was_running;    /* source: resume it on a roll-back (an operator's pause stays a pause) */
};

#endif

/* One pass of all vCPUs over many test pages: filling them, checking them, or just standing still.
 *
 * Flow:   command, guest_init -> [sweep] -> test_memory
 * Thread: begun by vCPU 0; every vCPU helps. Writers do not write while a sweep runs.
 */
#ifndef GUEST_SWEEP_H
#define GUEST_SWEEP_H

#include <stdbool.h>
#include <stdint.h>

#include "page_content.h"

struct vcpu;

struct sweep_report {
    uint64_t pages;      /* with content, checked */
    uint64_t zero_pages; /* never written, checked to be zero */
    uint64_t bad_pages;
    uint64_t bad_first; /* lowest bad index */
    bool sum_holds, guest_holds;
    bool complete; /* false: some vCPU did not take part in time */
};

void sweep_fill(uint64_t pages, enum page_kind kind);
struct sweep_report sweep_verify(bool untouched_too);

/* Returns when every writer has finished its page, and has seen whatever was set before. */
bool sweep_barrier(void);

/* Called by every vCPU in its loop: takes part if a sweep is on. */
void sweep_help(struct vcpu *vcpu);

#endif

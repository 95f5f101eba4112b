/* The gate before the guest: vCPU threads run while it is open and are counted in when it closes.
 *
 * Flow:   vm_pause, vm_resume -> [gate] -> vcpu
 * Thread: one thread at a time turns it; any number of vCPU threads pass.
 *
 * One futex word says what is ordered and how often that changed; one counts who stands. Whoever
 * waits looks around for a moment before it sleeps, because a wake-up costs more here than a whole
 * pause should.
 */
#ifndef GODWIT_VMM_CORE_GATE_H
#define GODWIT_VMM_CORE_GATE_H

#include <stdbool.h>
#include <stdint.h>

enum gate_order {
    GATE_CLOSED = 0,
    GATE_OPEN = 1,
    GATE_ENDED = 2, /* closed by a thread inside; nobody waits for the others yet */
    GATE_QUIT = 3,
};

struct gate {
    uint32_t threads; /* set before start, read by all */
    uint32_t word;    /* atomic: turns << 2 | order */
    uint32_t parked;  /* atomic: threads that saw this closing */
};

void gate_init(struct gate *gate, uint32_t threads); /* closed */

enum gate_order gate_order(const struct gate *gate);
void gate_close(struct gate *gate); /* does not wait */
void gate_open(struct gate *gate);
void gate_quit(struct gate *gate);
/* From a thread that passed: stand here for so long, or until the gate is turned. */
void gate_hold(struct gate *gate, uint64_t hold_ns);
/* From a thread that passed: close for all who passed, unless somebody turned it meanwhile. */
void gate_end(struct gate *gate);

/* After gate_close: wait until all threads stand. False after `timeout_ns`: some do not yet. */
bool gate_wait_parked(struct gate *gate, uint64_t timeout_ns);

/* A vCPU thread's side: wait for it to open; false when it is time to quit. *seen is the thread's
 * own, at first GATE_NOT_SEEN. */
#define GATE_NOT_SEEN UINT32_MAX
bool gate_pass(struct gate *gate, uint32_t *seen);

#endif

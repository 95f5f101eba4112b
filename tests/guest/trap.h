/* Exceptions: but for what boot.S asks by them none is expected, so each is reported and ends its
 * vCPU. Interrupts of devices go to `interrupt`.
 *
 * Flow:   boot.S stubs -> [trap] -> serial, interrupt
 * Thread: the vCPU that was interrupted, in ring 0.
 */
#ifndef GUEST_TRAP_H
#define GUEST_TRAP_H

#include <stdint.h>

struct trap_frame {
    uint64_t vector, error, rip, cs, flags, rsp, ss;
};

void trap_init(void);
void trap_entry(struct trap_frame *frame);

#endif

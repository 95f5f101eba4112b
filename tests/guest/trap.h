/* Exceptions: but for boot_ask_avx() none is expected, so each is reported and ends its vCPU.
 *
 * Flow:   boot.S stubs -> [trap] -> serial
 * Thread: the vCPU that faulted, in ring 0, after which it runs no more.
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

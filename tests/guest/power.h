/* Ways to end.
 *
 * Flow:   command -> [power] -> the machine's ports
 * Thread: vCPU 0.
 */
#ifndef GUEST_POWER_H
#define GUEST_POWER_H

#include <stdbool.h>

__attribute__((noreturn)) void power_off(void);
__attribute__((noreturn)) void power_reset(void);

/* For trap_entry(): the fault that comes now is power_reset()'s last resort. */
bool power_wants_triple_fault(void);

#endif

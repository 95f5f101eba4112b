/* The two clocks a guest has: the TSC and kvmclock.
 *
 * Flow:   CPUID, pvclock page -> [clock] -> heartbeat, writer
 * Thread: clock_init() vCPU 0 before the others start; then read by all.
 */
#ifndef GUEST_CLOCK_H
#define GUEST_CLOCK_H

#include <stdbool.h>
#include <stdint.h>

struct clock_page; /* what KVM writes: one per vCPU, at the start of its area */

void clock_init(const struct clock_page *page);
uint64_t clock_tsc_khz(void);
uint64_t clock_ns(uint64_t ticks);
uint64_t clock_ticks(uint64_t ns);

/* False when this vCPU has no kvmclock. `ret_tsc` is the TSC the time was computed from. */
bool clock_read(const struct clock_page *page, uint64_t *ret_ns, uint64_t *ret_tsc);

#endif

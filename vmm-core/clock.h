/* Guest time: one instant at which kvmclock and every TSC are known, and how it goes on elsewhere.
 *
 * Flow:   vm_pause -> [clock] -> section "clock" -> [clock] -> vm_load
 * Thread: whoever holds the paused vm.
 *
 * A guest that is paused and resumed where it is finds its clocks run on. A guest that is loaded
 * elsewhere goes on from the saved instant plus how long it stood still: never back, never ahead.
 * Both clocks are set when it is loaded and run from then on, so a resume has nothing to set.
 */
#ifndef GODWIT_VMM_CORE_CLOCK_H
#define GODWIT_VMM_CORE_CLOCK_H

#include <stddef.h>
#include <stdint.h>

#include "base/world.h"

struct device;
struct fault;
struct vm;

/* A century: an older guest is a broken clock or a hostile peer, and sums stay far from wrapping. */
#define CLOCK_NS_MAX (UINT64_C(100) * 366 * 24 * 3600 * NS_PER_S)

enum { CLOCK_TSC_TOLERANCE_PPM = 250 }; /* KVM's own: below it no scaling is attempted */

struct clock_guest { /* travels */
    uint64_t clock_ns;
    uint32_t tsc_khz;
};

/* The same instant on three clocks of this host. */
struct clock_instant {
    uint64_t now_ns;   /* world_now_ns() */
    uint64_t host_tsc; /* in the guest's ticks, see vm_tsc_in_guest_ticks() */
    uint64_t clock_ns; /* the guest's kvmclock */
};

extern const struct device clock_device;

/* Note the instant. */
int clock_read(struct vm *vm, struct clock_instant *ret_instant, struct fault *fault);

/* `ns` in ticks of `tsc_khz`. */
uint64_t clock_ticks(uint64_t ns, uint32_t tsc_khz);

/* Guest half <-> packed ClockStateV1. */
int clock_save(const struct clock_guest *guest, uint8_t **ret_bytes, size_t *ret_count);
int clock_load(struct clock_guest *ret_guest, const uint8_t *bytes, size_t count,
               struct fault *fault);

#endif

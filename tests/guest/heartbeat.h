/* How this vCPU experiences time: the holes between its reads of the clocks, and steps backwards.
 *
 * Flow:   clock -> [heartbeat] -> command (stats)
 * Thread: each vCPU beats its own; vCPU 0 reads them all without a lock, number by number.
 */
#ifndef GUEST_HEARTBEAT_H
#define GUEST_HEARTBEAT_H

#include <stdbool.h>
#include <stdint.h>

#include "clock.h"

enum { HEARTBEAT_BUCKETS = 256, HEARTBEAT_DEEP_EVERY = 16, HEARTBEAT_HOLES = 16 };

struct heartbeat_hole {
    uint64_t end_tsc, ticks;
};

struct heartbeat {
    const struct clock_page *page;
    uint64_t generation; /* of the reset these numbers follow */
    uint64_t last_tsc;
    uint64_t last_ns; /* kvmclock; 0: none yet */
    uint64_t beats;   /* never reset: says that the vCPU lives */
    uint64_t gap_ticks_max, io_ticks_max;
    uint64_t back_tsc_ticks_max, back_cross_tsc_ticks_max;
    uint64_t back_kvmclock_ns_max, back_cross_kvmclock_ns_max, forward_kvmclock_ns_max;
    struct heartbeat_hole holes[HEARTBEAT_HOLES]; /* the longest, longest first */
    uint64_t bucket_beats[HEARTBEAT_BUCKETS]; /* 4 buckets per power of two ticks */
    uint64_t bucket_ticks[HEARTBEAT_BUCKETS];
};

/* All heartbeats together, since the last reset. */
struct heartbeat_total {
    uint64_t gap_ns, io_ns, p99_ns, p99_time_ns;
    uint64_t back_tsc_ns, back_cross_tsc_ns;
    uint64_t back_kvmclock_ns, back_cross_kvmclock_ns, forward_kvmclock_ns;
    uint32_t gap_vcpu;
    bool kvmclock;
};

void heartbeat_start(struct heartbeat *heartbeat, const struct clock_page *page);

/* One beat. Returns the TSC. `ret_deep` is true now and then: time for the caller's costly checks.
 * */
uint64_t heartbeat_beat(struct heartbeat *heartbeat, bool *ret_deep);

/* A beat right after a port access: counts as a hole, but not in the histogram. */
void heartbeat_beat_io(struct heartbeat *heartbeat);

/* Every vCPU forgets its numbers at its next beat; until then heartbeat_sum() leaves it out. */
void heartbeat_reset_all(void);
void heartbeat_sum(struct heartbeat_total *ret_total, uint32_t vcpus);

#endif

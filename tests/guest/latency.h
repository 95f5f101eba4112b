/* How long something took, again and again: a histogram of ticks.
 *
 * Flow:   disk -> [latency] -> command
 * Thread: vCPU 0.
 */
#ifndef GUEST_LATENCY_H
#define GUEST_LATENCY_H

#include <stdint.h>

enum { LATENCY_PARTS = 16, LATENCY_BUCKETS = 64 * LATENCY_PARTS }; /* 16 per power of two: 6 % */

struct latency {
    uint64_t count, ticks_max;
    uint64_t buckets[LATENCY_BUCKETS];
};

void latency_forget(struct latency *latency);
void latency_add(struct latency *latency, uint64_t ticks);
/* No fewer than `permille` of all took at most this. 0 when there are none. */
uint64_t latency_ticks(const struct latency *latency, uint32_t permille);

#endif

#include "latency.h"

enum { PARTS_SHIFT = 4 };

static uint32_t bucket_of(uint64_t ticks)
{
    if (ticks < LATENCY_PARTS)
        return (uint32_t)ticks;

    uint32_t top = 63 - (uint32_t)__builtin_clzll(ticks);

    return (top - PARTS_SHIFT + 1) * LATENCY_PARTS +
           (uint32_t)(ticks >> (top - PARTS_SHIFT) & (LATENCY_PARTS - 1));
}

/* The most that lies in the bucket. */
static uint64_t bucket_ticks_max(uint32_t bucket)
{
    if (bucket < LATENCY_PARTS)
        return bucket;

    uint32_t shift = bucket / LATENCY_PARTS - 1;

    return ((uint64_t)(bucket % LATENCY_PARTS + LATENCY_PARTS + 1) << shift) - 1;
}

void latency_forget(struct latency *latency)
{
    latency->count = latency->ticks_max = 0;
    for (uint32_t i = 0; i < LATENCY_BUCKETS; i++)
        latency->buckets[i] = 0;
}

void latency_add(struct latency *latency, uint64_t ticks)
{
    latency->count++;
    latency->buckets[bucket_of(ticks)]++;
    if (ticks > latency->ticks_max)
        latency->ticks_max = ticks;
}

uint64_t latency_ticks(const struct latency *latency, uint32_t permille)
{
    uint64_t wanted = (latency->count * permille + 999) / 1000, below = 0;

    for (uint32_t i = 0; wanted && i < LATENCY_BUCKETS; i++) {
        below += latency->buckets[i];
        if (below >= wanted) {
            uint64_t ticks = bucket_ticks_max(i);

            return ticks < latency->ticks_max ? ticks : latency->ticks_max;
        }
    }
    return 0;
}

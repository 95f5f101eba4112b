/* A hole is the time between two successive reads of the TSC by one vCPU. The loops read it after
 * every page or every port access, so a quiet guest's holes are some microseconds and whatever is
 * longer came from outside. The TSC can itself be moved by a migration: that is why kvmclock's
 * steps are kept apart. */
#include "heartbeat.h"

#include "machine.h"
#include "vcpu.h"

static uint64_t generation_wanted = 1; /* atomic */

/* The latest value any vCPU has seen. atomic; each on its own cache line */
static struct {
    uint64_t value;
} __attribute__((aligned(64))) shared_tsc, shared_ns;

static uint32_t bucket_of(uint64_t ticks)
{
    if (ticks < 4)
        return (uint32_t)ticks;

    uint32_t top = 63 - (uint32_t)__builtin_clzll(ticks);

    return top * 4 + (uint32_t)(ticks >> (top - 2) & 3);
}

static uint64_t bucket_ticks_max(uint32_t bucket)
{
    if (bucket < 8)
        return bucket;
    return ((uint64_t)(bucket % 4 + 5) << (bucket / 4 - 2)) - 1;
}

static void keep_max(uint64_t *max, uint64_t value)
{
    if (value > *max)
        *max = value;
}

static void forget(struct heartbeat *heartbeat, uint64_t generation)
{
    heartbeat->gap_ticks_max = heartbeat->io_ticks_max = 0;
    heartbeat->back_tsc_ticks_max = heartbeat->back_cross_tsc_ticks_max = 0;
    heartbeat->back_kvmclock_ns_max = heartbeat->back_cross_kvmclock_ns_max = 0;
    heartbeat->forward_kvmclock_ns_max = 0;
    for (uint32_t i = 0; i < HEARTBEAT_HOLES; i++)
        heartbeat->holes[i] = (struct heartbeat_hole){0};
    for (uint32_t i = 0; i < HEARTBEAT_BUCKETS; i++)
        heartbeat->bucket_beats[i] = heartbeat->bucket_ticks[i] = 0;
    heartbeat->last_tsc = machine_tsc();
    heartbeat->last_ns = 0;
    __atomic_store_n(&heartbeat->generation, generation, __ATOMIC_RELEASE);
}

void heartbeat_start(struct heartbeat *heartbeat, const struct clock_page *page)
{
    heartbeat->page = page;
    forget(heartbeat, __atomic_load_n(&generation_wanted, __ATOMIC_ACQUIRE));
}

/* How far `now` lies behind the latest value of all vCPUs; raises that value to `now`. The caller
 * has loaded `latest` before it read its clock, so a clock that all vCPUs share can never be behind
 * it. */
static uint64_t behind_all(uint64_t *shared, uint64_t latest, uint64_t now)
{
    uint64_t behind = now < latest ? latest - now : 0;

    while (latest < now &&
           !__atomic_compare_exchange_n(shared, &latest, now, true, __ATOMIC_SEQ_CST,
                                        __ATOMIC_SEQ_CST))
        ;
    return behind;
}

static void beat_kvmclock(struct heartbeat *heartbeat)
{
    uint64_t latest_tsc = __atomic_load_n(&shared_tsc.value, __ATOMIC_SEQ_CST);
    uint64_t latest_ns = __atomic_load_n(&shared_ns.value, __ATOMIC_SEQ_CST);
    uint64_t ns, tsc;

    if (!clock_read(heartbeat->page, &ns, &tsc))
        return;
    keep_max(&heartbeat->back_cross_tsc_ticks_max, behind_all(&shared_tsc.value, latest_tsc, tsc));
    keep_max(&heartbeat->back_cross_kvmclock_ns_max, behind_all(&shared_ns.value, latest_ns, ns));
    if (heartbeat->last_ns) {
        if (ns < heartbeat->last_ns)
            keep_max(&heartbeat->back_kvmclock_ns_max, heartbeat->last_ns - ns);
        else
            keep_max(&heartbeat->forward_kvmclock_ns_max, ns - heartbeat->last_ns);
    }
    heartbeat->last_ns = ns;
}

static void keep_hole(struct heartbeat *heartbeat, uint64_t now, uint64_t ticks)
{
    uint32_t i = HEARTBEAT_HOLES - 1;

    for (; i > 0 && heartbeat->holes[i - 1].ticks < ticks; i--)
        heartbeat->holes[i] = heartbeat->holes[i - 1];
    heartbeat->holes[i] = (struct heartbeat_hole){.end_tsc = now, .ticks = ticks};
}

/* Returns the hole before `now`, 0 when the TSC stepped backwards. */
static uint64_t beat_tsc(struct heartbeat *heartbeat, uint64_t now)
{
    uint64_t ticks = now - heartbeat->last_tsc;

    heartbeat->last_tsc = now;
    if ((int64_t)ticks < 0) {
        keep_max(&heartbeat->back_tsc_ticks_max, -ticks);
        return 0;
    }
    keep_max(&heartbeat->gap_ticks_max, ticks);
    if (ticks > heartbeat->holes[HEARTBEAT_HOLES - 1].ticks)
        keep_hole(heartbeat, now, ticks);
    return ticks;
}

uint64_t heartbeat_beat(struct heartbeat *heartbeat, bool *ret_deep)
{
    uint64_t now = machine_tsc();
    uint64_t ticks = beat_tsc(heartbeat, now);
    uint32_t bucket = bucket_of(ticks);

    heartbeat->bucket_beats[bucket]++;
    heartbeat->bucket_ticks[bucket] += ticks;
    *ret_deep = ++heartbeat->beats % HEARTBEAT_DEEP_EVERY == 0;
    if (*ret_deep) {
        uint64_t wanted = __atomic_load_n(&generation_wanted, __ATOMIC_ACQUIRE);

        if (wanted != heartbeat->generation)
            forget(heartbeat, wanted);
        beat_kvmclock(heartbeat);
    }
    return now;
}

void heartbeat_beat_io(struct heartbeat *heartbeat)
{
    keep_max(&heartbeat->io_ticks_max, beat_tsc(heartbeat, machine_tsc()));
    beat_kvmclock(heartbeat); /* dear elsewhere, nothing beside an exit */
}

void heartbeat_reset_all(void)
{
    __atomic_add_fetch(&generation_wanted, 1, __ATOMIC_RELEASE);
}

/* Smallest bucket bound that `percent` % of the histogram lies under. */
static uint64_t percentile_ticks(const uint64_t *buckets, uint64_t percent)
{
    uint64_t all = 0, below = 0;

    for (uint32_t i = 0; i < HEARTBEAT_BUCKETS; i++)
        all += buckets[i];
    for (uint32_t i = 0; i < HEARTBEAT_BUCKETS; i++) {
        below += buckets[i];
        if (below && below >= all - all / 100 * (100 - percent))
            return bucket_ticks_max(i);
    }
    return 0;
}

void heartbeat_sum(struct heartbeat_total *ret_total, uint32_t vcpus)
{
    /* Zeroed by hand at each call: too big for a stack, and only vCPU 0 sums. */
    static uint64_t beats[HEARTBEAT_BUCKETS], ticks[HEARTBEAT_BUCKETS];
    uint64_t generation = __atomic_load_n(&generation_wanted, __ATOMIC_ACQUIRE);
    struct heartbeat_total total = {0};

    for (uint32_t i = 0; i < HEARTBEAT_BUCKETS; i++)
        beats[i] = ticks[i] = 0;
    for (uint32_t v = 0; v < vcpus; v++) {
        const struct heartbeat *one = &vcpu_get(v)->heartbeat;

        if (__atomic_load_n(&one->generation, __ATOMIC_ACQUIRE) != generation)
            continue;

        uint64_t gap_ns = clock_ns(one->gap_ticks_max);

        if (gap_ns > total.gap_ns) {
            total.gap_ns = gap_ns;
            total.gap_vcpu = v;
        }
        keep_max(&total.io_ns, clock_ns(one->io_ticks_max));
        keep_max(&total.back_tsc_ns, clock_ns(one->back_tsc_ticks_max));
        keep_max(&total.back_cross_tsc_ns, clock_ns(one->back_cross_tsc_ticks_max));
        keep_max(&total.back_kvmclock_ns, one->back_kvmclock_ns_max);
        keep_max(&total.back_cross_kvmclock_ns, one->back_cross_kvmclock_ns_max);
        keep_max(&total.forward_kvmclock_ns, one->forward_kvmclock_ns_max);
        total.kvmclock = total.kvmclock || one->last_ns;
        for (uint32_t i = 0; i < HEARTBEAT_BUCKETS; i++) {
            beats[i] += one->bucket_beats[i];
            ticks[i] += one->bucket_ticks[i];
        }
    }
    total.p99_ns = clock_ns(percentile_ticks(beats, 99));
    total.p99_time_ns = clock_ns(percentile_ticks(ticks, 99));
    *ret_total = total;
}

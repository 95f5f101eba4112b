#include "agent/vm/sampler.h"

#include <stddef.h>
#include <stdlib.h>

#include "base/err.h"
#include "base/loop.h"
#include "base/own.h"
#include "base/world.h"
#include "migrate/sample.h"

enum { WAITERS_MAX = 8 };

struct waiter {
    sampler_done_fn *done;
    void *data;
};

struct sampler {
    struct sample *sample; /* owned; NULL: over */
    struct loop_timer *timer;
    struct waiter waiters[WAITERS_MAX];
    unsigned waiter_count;
};

static void tell(struct sampler *sampler, const struct sample_result *result,
                 const struct fault *fault)
{
    unsigned count = sampler->waiter_count;
    sampler->waiter_count = 0;
    for (unsigned i = 0; i < count; i++)
        sampler->waiters[i].done(sampler->waiters[i].data, result, fault);
}

static void arm(struct sampler *sampler)
{
    uint64_t next_ns = sample_next_ns(sampler->sample), now_ns = world_now_ns();
    uint64_t ms = next_ns > now_ns ? (next_ns - now_ns + NS_PER_MS - 1) / NS_PER_MS : 0;
    loop_timer_start(sampler->timer, ms, 0);
}

static void timer_fired(void *data)
{
    struct sampler *sampler = data;
    struct sample_result result;

    sample_look(sampler->sample);
    if (sample_next_ns(sampler->sample)) {
        arm(sampler);
        return;
    }
    sample_tell(sampler->sample, &result);
    sampler->sample = sample_free(sampler->sample);
    tell(sampler, &result, NULL);
}

int sampler_new(struct sampler **ret_sampler, struct loop *loop, struct region *region,
                sampler_done_fn *done, void *data, struct fault *fault)
{
    uint64_t seed;
    struct sampler *sampler = calloc(1, sizeof *sampler);
    if (!sampler)
        return fault_set(fault, ERR_NOMEM, "no memory to sample a guest");

    world_random(&seed, sizeof seed);
    int r = loop_timer_new(&sampler->timer, loop, timer_fired, sampler, fault);
    if (r == 0)
        r = sample_new(&sampler->sample, region, SAMPLER_MS * NS_PER_MS, seed, fault);
    if (r < 0) {
        (void)sampler_free(sampler);
        return r;
    }
    sampler->waiters[sampler->waiter_count++] = (struct waiter){.done = done, .data = data};
    arm(sampler);
    *ret_sampler = sampler;
    return 0;
}

int sampler_join(struct sampler *sampler, sampler_done_fn *done, void *data, struct fault *fault)
{
    if (sampler->waiter_count == WAITERS_MAX)
        return fault_set(fault, ERR_BUSY, "%d others wait for this guest's sample", WAITERS_MAX);
    sampler->waiters[sampler->waiter_count++] = (struct waiter){.done = done, .data = data};
    return 0;
}

bool sampler_is_over(const struct sampler *sampler)
{
    return !sampler->sample;
}

struct sampler *sampler_free(struct sampler *sampler)
{
    struct fault fault = {0};

    if (!sampler)
        return NULL;
    (void)fault_set(&fault, ERR_STATE, "the VM ended or moved away while it was looked at");
    tell(sampler, NULL, &fault);
    if (sampler->timer)
        (void)loop_timer_free(sampler->timer);
    sampler->sample = sample_free(sampler->sample);
    free(sampler);
    return NULL;
}

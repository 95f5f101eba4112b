#include "migrate/pacer.h"

#include <assert.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

#include "base/err.h"
#include "base/world.h"

enum { PACER_BURST_MS = 20, PACER_BURST_BYTES_MIN = 256 << 10 };

void pacer_core_init(struct pacer_core *core, uint64_t bytes_per_s, uint64_t now_ns)
{
    uint64_t burst = bytes_per_s / (1000 / PACER_BURST_MS);
    if (burst < PACER_BURST_BYTES_MIN)
        burst = PACER_BURST_BYTES_MIN;
    *core = (struct pacer_core){
        .bytes_per_s = bytes_per_s,
        .burst_bytes = burst,
        .tokens = (double)burst,
        .last_ns = now_ns,
    };
}

static void pay(struct pacer_core *core, uint64_t now_ns)
{
    assert(now_ns >= core->last_ns);
    core->tokens += (double)(now_ns - core->last_ns) * (double)core->bytes_per_s / 1e9;
    if (core->tokens > (double)core->burst_bytes)
        core->tokens = (double)core->burst_bytes;
    core->last_ns = now_ns;
}

void pacer_core_set(struct pacer_core *core, uint64_t bytes_per_s, uint64_t now_ns)
{
    struct pacer_core fresh;
    pacer_core_init(&fresh, bytes_per_s, now_ns);
    if (core->bytes_per_s && bytes_per_s) {
        pay(core, now_ns);
        if (core->tokens < fresh.tokens)
            fresh.tokens = core->tokens;
    }
    *core = fresh;
}

uint64_t pacer_core_debt_ns(const struct pacer_core *core, uint64_t now_ns)
{
    if (core->bytes_per_s == 0 || core->tokens >= 0)
        return 0;
    uint64_t debt_ns = (uint64_t)(-core->tokens * 1e9 / (double)core->bytes_per_s);
    uint64_t paid_ns = now_ns - core->last_ns;
    return debt_ns > paid_ns ? debt_ns - paid_ns : 0;
}

uint64_t pacer_core_room_ns(const struct pacer_core *core, uint64_t now_ns)
{
    if (core->bytes_per_s == 0)
        return 0;
    double missing = (double)core->burst_bytes - core->tokens;
    uint64_t fills_ns = (uint64_t)(missing * 1e9 / (double)core->bytes_per_s);
    uint64_t gone_ns = now_ns > core->last_ns ? now_ns - core->last_ns : 0;
    return fills_ns > gone_ns ? fills_ns - gone_ns : 0;
}

uint64_t pacer_core_take(struct pacer_core *core, uint64_t bytes, uint64_t now_ns)
{
    if (core->bytes_per_s == 0)
        return 0;
    pay(core, now_ns);
    core->tokens -= (double)bytes;
    return pacer_core_debt_ns(core, now_ns);
}

struct pacer {
    pthread_mutex_t mutex; /* guards all below */
    pthread_cond_t closing;
    struct pacer_core core;
    bool closed;
    uint64_t turn;  /* counts changes of the limit */
    bool unlimited; /* atomic: a glance without the mutex */
};

int pacer_new(struct pacer **ret_pacer, uint64_t bytes_per_s)
{
    struct pacer *pacer = calloc(1, sizeof *pacer);
    if (!pacer)
        return ERR_NOMEM;
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&pacer->closing, &attr);
    pthread_condattr_destroy(&attr);
    pthread_mutex_init(&pacer->mutex, NULL);
    pacer_core_init(&pacer->core, bytes_per_s, world_now_ns());
    pacer->unlimited = bytes_per_s == 0;
    *ret_pacer = pacer;
    return 0;
}

struct pacer *pacer_free(struct pacer *pacer)
{
    if (!pacer)
        return NULL;
    pthread_cond_destroy(&pacer->closing);
    pthread_mutex_destroy(&pacer->mutex);
    free(pacer);
    return NULL;
}

int pacer_wait(struct pacer *pacer, uint64_t bytes, uint64_t *ret_waited_ns)
{
    *ret_waited_ns = 0;
    if (__atomic_load_n(&pacer->unlimited, __ATOMIC_ACQUIRE))
        return 0;

    pthread_mutex_lock(&pacer->mutex);
    uint64_t begun_ns = world_now_ns();
    if (begun_ns < pacer->core.last_ns)
        begun_ns = pacer->core.last_ns;
    uint64_t until_ns = begun_ns + pacer_core_take(&pacer->core, bytes, begun_ns);
    uint64_t now_ns = begun_ns, turn = pacer->turn;
    while (!pacer->closed && now_ns < until_ns) {
        struct timespec at;
        clock_gettime(CLOCK_MONOTONIC, &at);
        uint64_t at_ns =
            (uint64_t)at.tv_sec * NS_PER_S + (uint64_t)at.tv_nsec + (until_ns - now_ns);
        at.tv_sec = (time_t)(at_ns / NS_PER_S);
        at.tv_nsec = (long)(at_ns % NS_PER_S);
        pthread_cond_timedwait(&pacer->closing, &pacer->mutex, &at);
        now_ns = world_now_ns();
        if (pacer->turn != turn) {
            turn = pacer->turn;
            until_ns = now_ns + pacer_core_debt_ns(&pacer->core, now_ns);
        }
    }
    bool closed = pacer->closed;
    pthread_mutex_unlock(&pacer->mutex);
    *ret_waited_ns = now_ns - begun_ns;
    return closed ? PACER_E_CLOSED : 0;
}

void pacer_charge(struct pacer *pacer, uint64_t bytes)
{
    if (__atomic_load_n(&pacer->unlimited, __ATOMIC_ACQUIRE))
        return;
    pthread_mutex_lock(&pacer->mutex);
    uint64_t now_ns = world_now_ns();
    (void)pacer_core_take(&pacer->core, bytes,
                          now_ns > pacer->core.last_ns ? now_ns : pacer->core.last_ns);
    pthread_mutex_unlock(&pacer->mutex);
}

uint64_t pacer_room_ns(struct pacer *pacer)
{
    if (__atomic_load_n(&pacer->unlimited, __ATOMIC_ACQUIRE))
        return 0;
    pthread_mutex_lock(&pacer->mutex);
    uint64_t room_ns = pacer_core_room_ns(&pacer->core, world_now_ns());
    pthread_mutex_unlock(&pacer->mutex);
    return room_ns;
}

void pacer_set(struct pacer *pacer, uint64_t bytes_per_s)
{
    pthread_mutex_lock(&pacer->mutex);
    uint64_t now_ns = world_now_ns();
    pacer_core_set(&pacer->core, bytes_per_s,
                   now_ns > pacer->core.last_ns ? now_ns : pacer->core.last_ns);
    __atomic_store_n(&pacer->unlimited, bytes_per_s == 0, __ATOMIC_RELEASE);
    pacer->turn++;
    pthread_cond_broadcast(&pacer->closing);
    pthread_mutex_unlock(&pacer->mutex);
}

void pacer_close(struct pacer *pacer)
{
    pthread_mutex_lock(&pacer->mutex);
    pacer->closed = true;
    pthread_cond_broadcast(&pacer->closing);
    pthread_mutex_unlock(&pacer->mutex);
}

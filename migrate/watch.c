#include "migrate/watch.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

#include "base/err.h"
#include "base/world.h"

struct watch {
    void (*expired)(void *data);
    void *data;
    uint64_t deadline_ns; /* atomic; 0: not armed */
    pthread_t thread;
    pthread_mutex_t mutex; /* guards stopped */
    pthread_cond_t stopping;
    bool stopped;
};

static bool rest(struct watch *watch)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    at.tv_nsec += (long)(WATCH_GLANCE_MS * NS_PER_MS);
    if (at.tv_nsec >= (long)NS_PER_S) {
        at.tv_nsec -= (long)NS_PER_S;
        at.tv_sec++;
    }
    pthread_mutex_lock(&watch->mutex);
    if (!watch->stopped)
        pthread_cond_timedwait(&watch->stopping, &watch->mutex, &at);
    bool stopped = watch->stopped;
    pthread_mutex_unlock(&watch->mutex);
    return !stopped;
}

static void *watch_run(void *data)
{
    struct watch *watch = data;
    while (rest(watch)) {
        uint64_t deadline_ns = __atomic_load_n(&watch->deadline_ns, __ATOMIC_ACQUIRE);
        if (deadline_ns == 0 || world_now_ns() < deadline_ns)
            continue;
        watch->expired(watch->data);
        break;
    }
    return NULL;
}

int watch_new(struct watch **ret_watch, void (*expired)(void *data), void *data,
              struct fault *fault)
{
    struct watch *watch = calloc(1, sizeof *watch);
    if (!watch)
        return fault_set(fault, ERR_NOMEM, "no memory for a watch");
    watch->expired = expired;
    watch->data = data;
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&watch->stopping, &attr);
    pthread_condattr_destroy(&attr);
    pthread_mutex_init(&watch->mutex, NULL);
    int error = pthread_create(&watch->thread, NULL, watch_run, watch);
    if (error) {
        pthread_cond_destroy(&watch->stopping);
        pthread_mutex_destroy(&watch->mutex);
        free(watch);
        return fault_set_errno(fault, ERR_NOMEM, error, "starting a watch");
    }
    *ret_watch = watch;
    return 0;
}

struct watch *watch_free(struct watch *watch)
{
    if (!watch)
        return NULL;
    pthread_mutex_lock(&watch->mutex);
    watch->stopped = true;
    pthread_cond_signal(&watch->stopping);
    pthread_mutex_unlock(&watch->mutex);
    pthread_join(watch->thread, NULL);
    pthread_cond_destroy(&watch->stopping);
    pthread_mutex_destroy(&watch->mutex);
    free(watch);
    return NULL;
}

void watch_arm(struct watch *watch, uint64_t deadline_ns)
{
    __atomic_store_n(&watch->deadline_ns, deadline_ns, __ATOMIC_RELEASE);
}

void watch_disarm(struct watch *watch)
{
    __atomic_store_n(&watch->deadline_ns, 0, __ATOMIC_RELEASE);
}

void watch_hurry(struct watch *watch)
{
    uint64_t armed_ns = __atomic_load_n(&watch->deadline_ns, __ATOMIC_ACQUIRE);
    while (armed_ns > 1 && !__atomic_compare_exchange_n(&watch->deadline_ns, &armed_ns, 1, false,
                                                        __ATOMIC_RELEASE, __ATOMIC_ACQUIRE))
        continue;
}

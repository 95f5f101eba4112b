#include "migrate/lane_opener.h"

#include <assert.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

#include "base/err.h"
#include "base/own.h"
#include "base/world.h"
#include "net/tls_lane.h"

enum { RETRY_MS = 100 };

struct lane_opener {
    struct lane_opener_config config;
    pthread_t thread;
    pthread_mutex_t mutex; /* guards the two below */
    pthread_cond_t told;
    unsigned lanes; /* 0: not told yet */
    bool stopped;
};

static bool is_stopped(struct lane_opener *opener)
{
    pthread_mutex_lock(&opener->mutex);
    bool stopped = opener->stopped;
    pthread_mutex_unlock(&opener->mutex);
    return stopped;
}

static int open_one(struct lane_opener *opener, unsigned wanted, struct fault *fault)
{
    struct stream *stream = NULL;
    struct tls_lane_name name = {.lane = wanted};
    int r = opener->config.open(opener->config.data, wanted, &stream, &name, fault);
    if (r == 0)
        opener->config.on_stream(opener->config.data, &name, stream);
    else if (!fault->code)
        (void)fault_set(fault, r, "opening a lane: %s", err_name(r));
    return r;
}

static void wait_ms(struct lane_opener *opener, uint64_t ms)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    uint64_t at_ns =
        (uint64_t)at.tv_sec * NS_PER_S + (uint64_t)at.tv_nsec + ms * NS_PER_MS;
    at.tv_sec = (time_t)(at_ns / NS_PER_S);
    at.tv_nsec = (long)(at_ns % NS_PER_S);
    int r = 0;
    pthread_mutex_lock(&opener->mutex);
    while (!opener->stopped && r == 0)
        r = pthread_cond_timedwait(&opener->told, &opener->mutex, &at);
    pthread_mutex_unlock(&opener->mutex);
}

static unsigned wait_until_told(struct lane_opener *opener)
{
    pthread_mutex_lock(&opener->mutex);
    while (opener->lanes == 0 && !opener->stopped)
        pthread_cond_wait(&opener->told, &opener->mutex);
    unsigned lanes = opener->stopped ? 0 : opener->lanes;
    pthread_mutex_unlock(&opener->mutex);
    return lanes;
}

/* Who stays away is no failure: the lanes that there are need nobody. Nor is a host that has no
 * descriptor or memory for a lane now: it may have them when the source comes back. */
static void take_what_comes(struct lane_opener *opener)
{
    int r = 0;
    while (!is_stopped(opener) && r != ERR_CANCELED) {
        struct fault fault = {0};
        r = open_one(opener, LANE_OPENER_ANY, &fault);
        if (r < 0 && r != ERR_TIMEOUT && r != ERR_CANCELED)
            wait_ms(opener, RETRY_MS);
    }
}

static int open_all(struct lane_opener *opener, struct fault *fault)
{
    if (opener->config.delay_ms)
        wait_ms(opener, opener->config.delay_ms);
    if (is_stopped(opener))
        return 0;
    int r = open_one(opener, TLS_LANE_CONTROL, fault);
    unsigned lanes = r == 0 ? wait_until_told(opener) : 0;
    for (unsigned i = 0; i < lanes && r == 0 && !is_stopped(opener); i++)
        r = open_one(opener, i, fault);
    if (r == 0 && opener->config.stays)
        take_what_comes(opener);
    return r;
}

static void *lane_opener_run(void *data)
{
    struct lane_opener *opener = data;
    struct fault fault = {0};
    int r = open_all(opener, &fault);
    opener->config.on_ended(opener->config.data, r < 0 ? &fault : NULL);
    return NULL;
}

static void lane_opener_destroy(struct lane_opener *opener)
{
    pthread_cond_destroy(&opener->told);
    pthread_mutex_destroy(&opener->mutex);
    free(opener);
}

int lane_opener_new(struct lane_opener **ret_opener, const struct lane_opener_config *config,
                    struct fault *fault)
{
    struct lane_opener *opener = calloc(1, sizeof *opener);
    if (!opener)
        return fault_set(fault, ERR_NOMEM, "no memory to open lanes");
    opener->config = *config;
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&opener->mutex, NULL);
    pthread_cond_init(&opener->told, &attr);
    pthread_condattr_destroy(&attr);
    int error = pthread_create(&opener->thread, NULL, lane_opener_run, opener);
    if (error) {
        lane_opener_destroy(opener);
        return fault_set_errno(fault, ERR_NOMEM, error, "starting to open lanes");
    }
    *ret_opener = opener;
    return 0;
}

void lane_opener_go_on(struct lane_opener *opener, unsigned lanes)
{
    assert(lanes > 0);
    pthread_mutex_lock(&opener->mutex);
    opener->lanes = lanes;
    pthread_cond_signal(&opener->told);
    pthread_mutex_unlock(&opener->mutex);
}

void lane_opener_stop(struct lane_opener *opener)
{
    pthread_mutex_lock(&opener->mutex);
    opener->stopped = true;
    pthread_cond_signal(&opener->told);
    pthread_mutex_unlock(&opener->mutex);
}

struct lane_opener *lane_opener_free(struct lane_opener *opener)
{
    if (!opener)
        return NULL;
    lane_opener_stop(opener);
    pthread_join(opener->thread, NULL);
    lane_opener_destroy(opener);
    return NULL;
}

#include "migrate/lane_opener.h"

#include <assert.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#include "base/err.h"
#include "base/own.h"
#include "net/tls_lane.h"

struct lane_opener {
    struct lane_opener_config config;
    pthread_t thread;
    pthread_mutex_t mutex; /* guards the two below */
    pthread_cond_t told;
    unsigned lanes; /* 0: not told yet */
    bool stopped;
};

static bool open_one(struct lane_opener *opener, unsigned wanted)
{
    struct fault fault = {0};
    struct stream *stream = NULL;
    unsigned lane = wanted;
    int r = opener->config.open(opener->config.data, wanted, &stream, &lane, &fault);
    if (r < 0) {
        if (!fault.code)
            (void)fault_set(&fault, r, "opening a lane: %s", err_name(r));
        opener->config.on_failed(opener->config.data, &fault);
        return false;
    }
    opener->config.on_stream(opener->config.data, lane, stream);
    return true;
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

static bool is_stopped(struct lane_opener *opener)
{
    pthread_mutex_lock(&opener->mutex);
    bool stopped = opener->stopped;
    pthread_mutex_unlock(&opener->mutex);
    return stopped;
}

static void *lane_opener_run(void *data)
{
    struct lane_opener *opener = data;
    if (!open_one(opener, TLS_LANE_CONTROL))
        return NULL;
    unsigned lanes = wait_until_told(opener);
    for (unsigned i = 0; i < lanes && !is_stopped(opener); i++) {
        if (!open_one(opener, i))
            break;
    }
    return NULL;
}

int lane_opener_new(struct lane_opener **ret_opener, const struct lane_opener_config *config,
                    struct fault *fault)
{
    struct lane_opener *opener = calloc(1, sizeof *opener);
    if (!opener)
        return fault_set(fault, ERR_NOMEM, "no memory to open lanes");
    opener->config = *config;
    pthread_mutex_init(&opener->mutex, NULL);
    pthread_cond_init(&opener->told, NULL);
    int error = pthread_create(&opener->thread, NULL, lane_opener_run, opener);
    if (error) {
        pthread_cond_destroy(&opener->told);
        pthread_mutex_destroy(&opener->mutex);
        free(opener);
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

struct lane_opener *lane_opener_free(struct lane_opener *opener)
{
    if (!opener)
        return NULL;
    pthread_mutex_lock(&opener->mutex);
    opener->stopped = true;
    pthread_cond_signal(&opener->told);
    pthread_mutex_unlock(&opener->mutex);
    pthread_join(opener->thread, NULL);
    pthread_cond_destroy(&opener->told);
    pthread_mutex_destroy(&opener->mutex);
    free(opener);
    return NULL;
}

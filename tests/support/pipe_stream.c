#include "tests/support/pipe_stream.h"

#include <assert.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/err.h"
#include "base/world.h"
#include "net/stream.h"

#define SPIN_NS NS_PER_MS

struct way {
    uint8_t *bytes;
    uint64_t slots, read, written; /* counts of all bytes */
    enum pipe_fault fault;
    uint64_t fault_at;
    uint64_t rate, free_at_ns; /* when the wire is free again */
};

struct pipe {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    struct way ways[2]; /* 0: first -> second */
    bool gone[2];       /* that end was freed */
    bool dead;
    unsigned refs;
};

struct end {
    struct stream stream; /* first member */
    struct pipe *pipe;
    unsigned index;
    bool interrupted; /* under the pipe's mutex */
    bool hot;         /* atomic */
};

static void wait_changed(struct end *end, uint64_t spin_until_ns)
{
    struct pipe *pipe = end->pipe;
    if (__atomic_load_n(&end->hot, __ATOMIC_RELAXED) && world_now_ns() < spin_until_ns) {
        pthread_mutex_unlock(&pipe->mutex);
        sched_yield();
        pthread_mutex_lock(&pipe->mutex);
        return;
    }
    pthread_cond_wait(&pipe->changed, &pipe->mutex);
}

static bool is_past(const struct way *way, enum pipe_fault fault, uint64_t count)
{
    return way->fault == fault && count >= way->fault_at;
}

static int look(struct end *end, struct fault *fault)
{
    if (end->interrupted)
        return fault_set(fault, ERR_CANCELED, "interrupted");
    if (end->pipe->dead)
        return fault_set(fault, ERR_CLOSED, "the peer is gone");
    return 0;
}

/* The wire's own time, as a token bucket without a burst; waited for without the mutex. */
static void pace(struct end *end, struct way *way, uint64_t count)
{
    if (!way->rate)
        return;
    uint64_t now_ns = world_now_ns();
    if (way->free_at_ns < now_ns)
        way->free_at_ns = now_ns;
    way->free_at_ns += count * NS_PER_S / way->rate;
    uint64_t wait_ns = way->free_at_ns - now_ns;
    if (wait_ns < NS_PER_MS)
        return;
    struct timespec rest = {.tv_sec = (time_t)(wait_ns / NS_PER_S),
                            .tv_nsec = (long)(wait_ns % NS_PER_S)};
    pthread_mutex_unlock(&end->pipe->mutex);
    (void)nanosleep(&rest, NULL);
    pthread_mutex_lock(&end->pipe->mutex);
    end->stream.wait_out_ns += wait_ns;
}

static void put_bytes(struct way *way, const uint8_t *from, uint64_t count)
{
    uint64_t at = way->written % way->slots;
    uint64_t head = way->slots - at < count ? way->slots - at : count;
    memcpy(way->bytes + at, from, head);
    memcpy(way->bytes, from + head, count - head);
    if (way->fault == PIPE_FAULT_FLIP && way->fault_at >= way->written &&
        way->fault_at - way->written < count)
        way->bytes[way->fault_at % way->slots] ^= 0x10;
    way->written += count;
}

static int end_write(struct stream *stream, const void *bytes, size_t count, struct fault *fault)
{
    struct end *end = (struct end *)stream;
    struct pipe *pipe = end->pipe;
    struct way *way = &pipe->ways[end->index];
    const uint8_t *from = bytes;
    int r = 0;
    uint64_t call_ns = world_now_ns();

    pthread_mutex_lock(&pipe->mutex);
    while (count > 0 && (r = look(end, fault)) == 0) {
        if (pipe->gone[!end->index]) {
            r = fault_set(fault, ERR_CLOSED, "the peer is gone");
            break;
        }
        uint64_t room = way->slots - (way->written - way->read);
        if (room == 0 && is_past(way, PIPE_FAULT_SWALLOW, way->written)) {
            pipe->dead = true;
            pthread_cond_broadcast(&pipe->changed);
            continue;
        }
        if (room == 0 || is_past(way, PIPE_FAULT_STALL, way->written)) {
            uint64_t begun_ns = world_now_ns();
            wait_changed(end, call_ns + SPIN_NS);
            stream->wait_out_ns += world_now_ns() - begun_ns;
            continue;
        }
        uint64_t part = count < room ? count : room;
        if (way->fault == PIPE_FAULT_STALL && part > way->fault_at - way->written)
            part = way->fault_at - way->written;
        if (is_past(way, PIPE_FAULT_TRUNCATE, way->written + part)) {
            way->fault_at = way->fault_at > way->written ? way->fault_at : way->written;
        }
        put_bytes(way, from, part);
        from += part;
        count -= part;
        __atomic_store_n(&stream->wire_bytes_out, stream->wire_bytes_out + part, __ATOMIC_RELAXED);
        if (is_past(way, PIPE_FAULT_DIE, way->written))
            pipe->dead = true;
        pthread_cond_broadcast(&pipe->changed);
        pace(end, way, part);
    }
    pthread_mutex_unlock(&pipe->mutex);
    return r;
}

static int end_flush(struct stream *stream, struct fault *fault)
{
    struct end *end = (struct end *)stream;
    pthread_mutex_lock(&end->pipe->mutex);
    int r = look(end, fault);
    pthread_mutex_unlock(&end->pipe->mutex);
    return r;
}

static int end_read(struct stream *stream, void *ret_bytes, size_t count, struct fault *fault)
{
    struct end *end = (struct end *)stream;
    struct pipe *pipe = end->pipe;
    struct way *way = &pipe->ways[!end->index];
    uint8_t *to = ret_bytes;
    int r = 0;
    uint64_t call_ns = world_now_ns();

    pthread_mutex_lock(&pipe->mutex);
    while (count > 0 && (r = look(end, fault)) == 0) {
        uint64_t have = way->written - way->read;
        if (way->fault == PIPE_FAULT_TRUNCATE && way->read + have > way->fault_at)
            have = way->fault_at > way->read ? way->fault_at - way->read : 0;
        if (way->fault == PIPE_FAULT_SWALLOW && way->read + have > way->fault_at)
            have = way->fault_at > way->read ? way->fault_at - way->read : 0;
        const struct way *out = &pipe->ways[end->index];
        if (have == 0 && is_past(out, PIPE_FAULT_SWALLOW, out->written)) {
            pipe->dead = true; /* it waits for an answer to what was lost */
            pthread_cond_broadcast(&pipe->changed);
            continue;
        }
        if (have == 0) {
            if (is_past(way, PIPE_FAULT_TRUNCATE, way->read) || pipe->gone[!end->index]) {
                r = fault_set(fault, ERR_CLOSED, "the peer is gone");
                break;
            }
            uint64_t begun_ns = world_now_ns();
            wait_changed(end, call_ns + SPIN_NS);
            stream->wait_in_ns += world_now_ns() - begun_ns;
            continue;
        }
        uint64_t at = way->read % way->slots;
        uint64_t part = count < have ? count : have;
        if (part > way->slots - at)
            part = way->slots - at;
        memcpy(to, way->bytes + at, part);
        to += part;
        count -= part;
        way->read += part;
        stream->wire_bytes_in += part;
        pthread_cond_broadcast(&pipe->changed);
    }
    pthread_mutex_unlock(&pipe->mutex);
    return r;
}

static void end_interrupt(struct stream *stream)
{
    struct end *end = (struct end *)stream;
    pthread_mutex_lock(&end->pipe->mutex);
    end->interrupted = true;
    pthread_cond_broadcast(&end->pipe->changed);
    pthread_mutex_unlock(&end->pipe->mutex);
}

static void end_set_hot(struct stream *stream, bool hot)
{
    struct end *end = (struct end *)stream;
    __atomic_store_n(&end->hot, hot, __ATOMIC_RELAXED);
}

static void end_free(struct stream *stream)
{
    struct end *end = (struct end *)stream;
    struct pipe *pipe = end->pipe;
    pthread_mutex_lock(&pipe->mutex);
    pipe->gone[end->index] = true;
    pthread_cond_broadcast(&pipe->changed);
    bool last = --pipe->refs == 0;
    pthread_mutex_unlock(&pipe->mutex);
    if (last) {
        pthread_cond_destroy(&pipe->changed);
        pthread_mutex_destroy(&pipe->mutex);
        free(pipe->ways[0].bytes);
        free(pipe->ways[1].bytes);
        free(pipe);
    }
    free(end);
}

static const struct stream_ops end_ops = {
    .write = end_write,
    .flush = end_flush,
    .read = end_read,
    .interrupt = end_interrupt,
    .set_hot = end_set_hot,
    .free = end_free,
};

static struct stream *end_new(struct pipe *pipe, unsigned index)
{
    struct end *end = calloc(1, sizeof *end);
    assert(end);
    end->stream.ops = &end_ops;
    end->pipe = pipe;
    end->index = index;
    return &end->stream;
}

void pipe_stream_new(struct stream **ret_first, struct stream **ret_second,
                     const struct pipe_stream_config *config)
{
    static const struct pipe_stream_config plain;
    if (!config)
        config = &plain;
    struct pipe *pipe = calloc(1, sizeof *pipe);
    assert(pipe);
    pthread_mutex_init(&pipe->mutex, NULL);
    pthread_cond_init(&pipe->changed, NULL);
    pipe->refs = 2;
    for (unsigned i = 0; i < 2; i++) {
        pipe->ways[i].slots = config->buffer_bytes ? config->buffer_bytes : 256 << 10;
        pipe->ways[i].bytes = malloc(pipe->ways[i].slots);
        assert(pipe->ways[i].bytes);
        pipe->ways[i].rate = config->bytes_per_s;
    }
    pipe->ways[0].fault = config->fault;
    pipe->ways[0].fault_at = config->fault_at;
    pipe->ways[1].fault = config->fault_back;
    pipe->ways[1].fault_at = config->fault_back_at;
    *ret_first = end_new(pipe, 0);
    *ret_second = end_new(pipe, 1);
}

/* The door of vmm-core/io_loop.h without a thread: what is ready runs when fake_io_loop_turn is
 * called. Linked before the real one, it takes its place. */
#include <assert.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/epoll.h>

#include "base/err.h"
#include "base/own.h"
#include "tests/support/fake_io_loop.h"
#include "vmm-core/io_loop.h"

struct io_loop {
    struct io_loop_config config;
    struct io_watch *watches[IO_LOOP_WATCHES_MAX + 1];
    uint32_t events[IO_LOOP_WATCHES_MAX + 1];
    struct io_job *jobs;
    bool runs;
};

int io_loop_new(struct io_loop **ret_loop, const struct io_loop_config *config, struct fault *fault)
{
    struct io_loop *loop = calloc(1, sizeof *loop);
    if (!loop)
        return fault_set(fault, ERR_NOMEM, "no memory");
    loop->config = *config;
    *ret_loop = loop;
    return 0;
}

void io_loop_stop(struct io_loop *loop)
{
    (void)io_loop_pause(loop, UINT64_MAX);
}

struct io_loop *io_loop_free(struct io_loop *loop)
{
    free(loop);
    return NULL;
}

static bool call_ready(struct io_loop *loop, enum io_watch_class class)
{
    bool any = false;
    for (uint32_t i = 1; i <= IO_LOOP_WATCHES_MAX; i++) {
        struct io_watch *watch = loop->watches[i];
        if (!watch || watch->class != class || !(loop->events[i] & EPOLLIN))
            continue;
        struct pollfd look = {.fd = watch->fd, .events = POLLIN};
        if (poll(&look, 1, 0) == 1) {
            watch->ready(watch->data, EPOLLIN);
            any = true;
        }
    }
    return any;
}

void fake_io_loop_turn(struct io_loop *loop, bool completions)
{
    if (!loop->runs)
        return;
    if (completions) {
        (void)call_ready(loop, IO_WATCH_COMPLETION);
        return;
    }
    (void)call_ready(loop, IO_WATCH_SOURCE);
    while (loop->jobs) {
        struct io_job *job = loop->jobs;
        io_loop_cancel(loop, job);
        job->run(job->data);
    }
}

bool io_loop_pause(struct io_loop *loop, uint64_t timeout_ns)
{
    (void)timeout_ns;
    if (!loop || !loop->runs)
        return true;
    loop->config.drain(loop->config.data);
    while (!loop->config.is_quiet(loop->config.data)) {
        bool any = call_ready(loop, IO_WATCH_COMPLETION);
        assert(any); /* what is in flight ends */
    }
    loop->runs = false;
    return true;
}

void io_loop_resume(struct io_loop *loop)
{
    if (loop->runs)
        return;
    loop->runs = true;
    loop->config.go_on(loop->config.data);
}

int io_loop_add(struct io_loop *loop, struct io_watch *watch, uint32_t events, struct fault *fault)
{
    for (uint32_t i = 1; i <= IO_LOOP_WATCHES_MAX; i++) {
        if (loop->watches[i])
            continue;
        loop->watches[i] = watch;
        loop->events[i] = events;
        watch->slot = i;
        return 0;
    }
    return fault_set(fault, ERR_LIMIT, "too many");
}

void io_loop_modify(struct io_loop *loop, struct io_watch *watch, uint32_t events)
{
    loop->events[watch->slot] = events;
}

void io_loop_remove(struct io_loop *loop, struct io_watch *watch)
{
    loop->watches[watch->slot] = NULL;
    watch->slot = 0;
}

void io_loop_post(struct io_loop *loop, struct io_job *job)
{
    if (job->posted)
        return;
    job->posted = true;
    job->next = loop->jobs;
    loop->jobs = job;
}

void io_loop_cancel(struct io_loop *loop, struct io_job *job)
{
    for (struct io_job **link = &loop->jobs; *link; link = &(*link)->next) {
        if (*link == job) {
            *link = job->next;
            break;
        }
    }
    job->posted = false;
}

/* Two epoll sets, one inside the other:
 *
 *   outer   wake-up, completions, the inner set
 *   inner   sources
 *
 * Draining takes the inner set out of the outer one: one call stops all new work, and nothing that
 * sources say meanwhile is lost, for all watching is level-triggered. The gate that stops vCPUs
 * stops this thread too; it stands there only when everything that was begun has ended.
 *
 * An event carries its slot's generation: a watch that was removed after the kernel reported it
 * is not called.
 */
#include "vmm-core/io_loop.h"

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/err.h"
#include "base/own.h"
#include "vmm-core/gate.h"

enum { IO_LOOP_BATCH = 64 };

#define TOKEN_WAKE UINT64_MAX
#define TOKEN_SOURCES (UINT64_MAX - 1)

struct slot {
    struct io_watch *watch; /* NULL: free */
    uint32_t generation;
};

struct io_loop {
    struct io_loop_config config;
    int outer, inner, wake;
    struct gate gate;
    pthread_t thread;
    bool started;

    /* under config.lock */
    struct slot slots[IO_LOOP_WATCHES_MAX + 1]; /* the first is never used */
    uint32_t next_slot;
    struct io_job *first_job, **last_job;

    /* the loop's thread */
    bool draining;
};

static void io_loop_freep(struct io_loop **loop)
{
    *loop = io_loop_free(*loop);
}

static uint64_t token_of(const struct io_loop *loop, const struct io_watch *watch)
{
    return (uint64_t)loop->slots[watch->slot].generation << 32 | watch->slot;
}

static int set_of(const struct io_loop *loop, const struct io_watch *watch)
{
    return watch->class == IO_WATCH_SOURCE ? loop->inner : loop->outer;
}

static void wake_up(struct io_loop *loop)
{
    uint64_t one = 1;
    ssize_t written = write(loop->wake, &one, sizeof one);
    assert(written == sizeof one || errno == EAGAIN); /* full: it is awake */
    (void)written;
}

static void dispatch(struct io_loop *loop, const struct epoll_event *event)
{
    uint32_t number = (uint32_t)event->data.u64;
    assert(number >= 1 && number <= IO_LOOP_WATCHES_MAX);
    const struct slot *slot = &loop->slots[number];
    if (slot->watch && slot->generation == (uint32_t)(event->data.u64 >> 32))
        slot->watch->ready(slot->watch->data, event->events);
}

static void dispatch_sources(struct io_loop *loop)
{
    struct epoll_event events[IO_LOOP_BATCH];
    int count = epoll_wait(loop->inner, events, IO_LOOP_BATCH, 0);
    for (int i = 0; i < count; i++)
        dispatch(loop, &events[i]);
}

/* Jobs that were there when it began: one that posts itself again does not starve the others. */
static void run_jobs(struct io_loop *loop)
{
    unsigned count = 0;
    for (const struct io_job *job = loop->first_job; job; job = job->next)
        count++;
    while (count-- > 0 && loop->first_job) {
        struct io_job *job = loop->first_job;
        io_loop_cancel(loop, job);
        job->run(job->data);
    }
}

static void drain_wake(struct io_loop *loop)
{
    uint64_t count;
    ssize_t r = read(loop->wake, &count, sizeof count);
    (void)r; /* EAGAIN: somebody else's look emptied it */
}

/* One wait and what it brought. Under the lock but for the wait. */
static void turn(struct io_loop *loop)
{
    struct epoll_event events[IO_LOOP_BATCH];
    bool hurry = loop->first_job && !loop->draining;
    (void)pthread_mutex_unlock(loop->config.lock);
    int count = epoll_wait(loop->outer, events, IO_LOOP_BATCH, hurry ? 0 : -1);
    (void)pthread_mutex_lock(loop->config.lock);
    assert(count >= 0 || errno == EINTR);
    for (int i = 0; i < count; i++) {
        if (events[i].data.u64 == TOKEN_WAKE)
            drain_wake(loop);
        else if (events[i].data.u64 == TOKEN_SOURCES)
            dispatch_sources(loop);
        else
            dispatch(loop, &events[i]);
    }
    if (!loop->draining)
        run_jobs(loop);
}

static void watch_sources(struct io_loop *loop, bool watch)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = TOKEN_SOURCES};
    int r = epoll_ctl(loop->outer, watch ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, loop->inner, &event);
    assert(r == 0); /* our own two sets; the outer one always has room for it */
}

/* From an open gate to a closed one with everything quiet. */
static void run_until_closed(struct io_loop *loop)
{
    (void)pthread_mutex_lock(loop->config.lock);
    watch_sources(loop, true);
    loop->config.go_on(loop->config.data);
    while (gate_order(&loop->gate) == GATE_OPEN)
        turn(loop);

    watch_sources(loop, false);
    loop->draining = true;
    loop->config.drain(loop->config.data);
    while (!loop->config.is_quiet(loop->config.data))
        turn(loop);
    loop->draining = false;
    (void)pthread_mutex_unlock(loop->config.lock);
}

static void *io_loop_main(void *data)
{
    struct io_loop *loop = data;
    (void)pthread_setname_np(pthread_self(), "io"); /* a nicety of top(1) */
    uint32_t seen = GATE_NOT_SEEN;
    while (gate_pass(&loop->gate, &seen))
        run_until_closed(loop);
    return NULL;
}

static int start_thread(struct io_loop *loop, struct fault *fault)
{
    sigset_t all, before; /* signals go to the process's other threads */
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    int r = pthread_create(&loop->thread, NULL, io_loop_main, loop);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (r != 0)
        return fault_set_errno(fault, ERR_NOMEM, r, "starting the I/O thread");
    loop->started = true;
    (void)gate_wait_parked(&loop->gate, UINT64_MAX); /* no timeout: it parked */
    return 0;
}

int io_loop_new(struct io_loop **ret_loop, const struct io_loop_config *config, struct fault *fault)
{
    assert(config->lock && config->drain && config->is_quiet && config->go_on);
    AUTO(io_loop_freep) struct io_loop *loop = calloc(1, sizeof *loop);
    if (!loop)
        return fault_set(fault, ERR_NOMEM, "no memory for an I/O loop");
    loop->config = *config;
    loop->last_job = &loop->first_job;
    gate_init(&loop->gate, 1);
    gate_close(&loop->gate);
    loop->outer = epoll_create1(EPOLL_CLOEXEC);
    loop->inner = epoll_create1(EPOLL_CLOEXEC);
    loop->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (loop->outer < 0 || loop->inner < 0 || loop->wake < 0)
        return fault_set_errno(fault, err_from_errno(errno), errno, "creating an I/O loop");
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = TOKEN_WAKE};
    if (epoll_ctl(loop->outer, EPOLL_CTL_ADD, loop->wake, &event) < 0)
        return fault_set_errno(fault, err_from_errno(errno), errno, "creating an I/O loop");
    int r = start_thread(loop, fault);
    if (r < 0)
        return r;

    *ret_loop = TAKE(loop);
    return 0;
}

void io_loop_stop(struct io_loop *loop)
{
    if (!loop || !loop->started)
        return;
    gate_quit(&loop->gate);
    wake_up(loop);
    int r = pthread_join(loop->thread, NULL);
    assert(r == 0);
    loop->started = false;
}

struct io_loop *io_loop_free(struct io_loop *loop)
{
    if (!loop)
        return NULL;
    io_loop_stop(loop);
    close_p(&loop->outer);
    close_p(&loop->inner);
    close_p(&loop->wake);
    free(loop);
    return NULL;
}

void io_loop_pause(struct io_loop *loop)
{
    if (gate_order(&loop->gate) == GATE_CLOSED)
        return;
    gate_close(&loop->gate);
    wake_up(loop);
    (void)gate_wait_parked(&loop->gate, UINT64_MAX); /* no timeout: it parked */
}

void io_loop_resume(struct io_loop *loop)
{
    if (gate_order(&loop->gate) != GATE_OPEN)
        gate_open(&loop->gate);
}

/* A free slot, or 0. */
static uint32_t find_slot(struct io_loop *loop)
{
    for (uint32_t i = 0; i < IO_LOOP_WATCHES_MAX; i++) {
        uint32_t number = 1 + (loop->next_slot + i) % IO_LOOP_WATCHES_MAX;
        if (!loop->slots[number].watch) {
            loop->next_slot = number % IO_LOOP_WATCHES_MAX;
            return number;
        }
    }
    return 0;
}

int io_loop_add(struct io_loop *loop, struct io_watch *watch, uint32_t events, struct fault *fault)
{
    assert(watch->slot == 0 && watch->fd >= 0 && watch->ready);
    uint32_t number = find_slot(loop);
    if (number == 0)
        return fault_set(fault, ERR_LIMIT, "an I/O loop watches at most %d descriptors",
                         IO_LOOP_WATCHES_MAX);
    watch->slot = number;
    loop->slots[number].generation = (loop->slots[number].generation + 1) & INT32_MAX;
    loop->slots[number].watch = watch;
    struct epoll_event event = {.events = events, .data.u64 = token_of(loop, watch)};
    if (epoll_ctl(set_of(loop, watch), EPOLL_CTL_ADD, watch->fd, &event) < 0) {
        int add_errno = errno;
        loop->slots[number].watch = NULL;
        watch->slot = 0;
        return fault_set_errno(fault, err_from_errno(add_errno), add_errno,
                               "watching a device's descriptor");
    }
    return 0;
}

void io_loop_modify(struct io_loop *loop, struct io_watch *watch, uint32_t events)
{
    assert(watch->slot != 0);
    struct epoll_event event = {.events = events, .data.u64 = token_of(loop, watch)};
    int r = epoll_ctl(set_of(loop, watch), EPOLL_CTL_MOD, watch->fd, &event);
    assert(r == 0); /* it is in there */
    (void)r;
}

void io_loop_remove(struct io_loop *loop, struct io_watch *watch)
{
    if (watch->slot == 0)
        return;
    (void)epoll_ctl(set_of(loop, watch), EPOLL_CTL_DEL, watch->fd, NULL); /* it is in there */
    loop->slots[watch->slot].watch = NULL;
    watch->slot = 0;
}

void io_loop_post(struct io_loop *loop, struct io_job *job)
{
    if (job->posted)
        return;
    job->posted = true;
    job->next = NULL;
    *loop->last_job = job;
    loop->last_job = &job->next;
    wake_up(loop);
}

void io_loop_cancel(struct io_loop *loop, struct io_job *job)
{
    if (!job->posted)
        return;
    struct io_job **link = &loop->first_job;
    while (*link != job)
        link = &(*link)->next; /* posted: it is in the list */
    *link = job->next;
    if (!*link)
        loop->last_job = link;
    job->next = NULL;
    job->posted = false;
}

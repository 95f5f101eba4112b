/* Two epoll sets, one inside the other:
 *
 *   outer   wake-up, completions, the inner set
 *   inner   sources
 *
 * Draining takes the inner set out of the outer one: one call stops all new work, and nothing that
 * sources say meanwhile is lost, for all watching is level-triggered. The thread stands only when
 * everything that was begun has ended; a pause that is given up before that lets it go on.
 *
 * An event carries its slot's generation: a watch that was removed after the kernel reported it
 * is not called.
 */
#include "vmm-core/io_loop.h"

#include <assert.h>
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/err.h"
#include "base/own.h"
#include "base/world.h"

enum { IO_LOOP_BATCH = 64, IO_LOOP_SPIN_NS = 100000 };

enum io_loop_order { IO_LOOP_STAND, IO_LOOP_GO, IO_LOOP_QUIT };

#define TOKEN_WAKE UINT64_MAX
#define TOKEN_SOURCES (UINT64_MAX - 1)

struct slot {
    struct io_watch *watch; /* NULL: free */
    uint32_t generation;
};

struct io_loop {
    struct io_loop_config config;
    int outer, inner, wake;
    pthread_t thread;
    bool started;
    bool stands; /* atomic; written under config.lock */

    /* under config.lock */
    enum io_loop_order order;
    pthread_cond_t changed;                     /* order, or `stands` */
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

static void set_stands(struct io_loop *loop, bool stands)
{
    __atomic_store_n(&loop->stands, stands, __ATOMIC_RELEASE);
    (void)pthread_cond_broadcast(&loop->changed);
}

/* Until it is told otherwise, and everything is quiet again; or the order was taken back. */
static void go(struct io_loop *loop)
{
    watch_sources(loop, true);
    loop->config.go_on(loop->config.data);
    while (loop->order == IO_LOOP_GO)
        turn(loop);

    watch_sources(loop, false);
    loop->draining = true;
    loop->config.drain(loop->config.data);
    while (loop->order != IO_LOOP_GO && !loop->config.is_quiet(loop->config.data))
        turn(loop);
    loop->draining = false;
}

static void *io_loop_main(void *data)
{
    struct io_loop *loop = data;
    (void)pthread_setname_np(pthread_self(), "io"); /* a nicety of top(1) */
    (void)pthread_mutex_lock(loop->config.lock);
    while (loop->order != IO_LOOP_QUIT) {
        if (loop->order == IO_LOOP_GO) {
            go(loop);
            continue;
        }
        set_stands(loop, true);
        while (loop->order == IO_LOOP_STAND)
            (void)pthread_cond_wait(&loop->changed, loop->config.lock);
        set_stands(loop, false);
    }
    (void)pthread_mutex_unlock(loop->config.lock);
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
    (void)io_loop_pause(loop, UINT64_MAX); /* no timeout: it has nothing to end */
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
    pthread_condattr_t by_monotonic_clock;
    (void)pthread_condattr_init(&by_monotonic_clock); /* none of these can fail on Linux */
    (void)pthread_condattr_setclock(&by_monotonic_clock, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&loop->changed, &by_monotonic_clock);
    (void)pthread_condattr_destroy(&by_monotonic_clock);
    loop->outer = loop->inner = loop->wake = -1;
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
    (void)pthread_mutex_lock(loop->config.lock);
    loop->order = IO_LOOP_QUIT;
    (void)pthread_cond_broadcast(&loop->changed);
    (void)pthread_mutex_unlock(loop->config.lock);
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
    (void)pthread_cond_destroy(&loop->changed);
    free(loop);
    return NULL;
}

/* A wake-up costs more than most pauses should: look around for a moment first. */
static bool spin_until_it_stands(const struct io_loop *loop)
{
    uint64_t start_ns = world_now_ns();
    while (!__atomic_load_n(&loop->stands, __ATOMIC_ACQUIRE)) {
        if (world_now_ns() - start_ns >= IO_LOOP_SPIN_NS)
            return false;
        (void)sched_yield(); /* always succeeds on Linux */
    }
    return true;
}

static struct timespec after(uint64_t timeout_ns)
{
    struct timespec at;
    (void)clock_gettime(CLOCK_MONOTONIC, &at); /* cannot fail */
    uint64_t ns = (uint64_t)at.tv_nsec + timeout_ns % NS_PER_S;
    at.tv_sec += (time_t)(timeout_ns / NS_PER_S + ns / NS_PER_S);
    at.tv_nsec = (long)(ns % NS_PER_S);
    return at;
}

bool io_loop_pause(struct io_loop *loop, uint64_t timeout_ns)
{
    const struct timespec until = after(timeout_ns == UINT64_MAX ? 0 : timeout_ns);
    (void)pthread_mutex_lock(loop->config.lock);
    loop->order = IO_LOOP_STAND;
    bool stood = loop->stands;
    (void)pthread_mutex_unlock(loop->config.lock);
    if (stood)
        return true;
    wake_up(loop);
    if (spin_until_it_stands(loop))
        return true;
    int r = 0;
    (void)pthread_mutex_lock(loop->config.lock);
    while (!loop->stands && r == 0)
        r = timeout_ns == UINT64_MAX
                ? pthread_cond_wait(&loop->changed, loop->config.lock)
                : pthread_cond_timedwait(&loop->changed, loop->config.lock, &until);
    bool stands = loop->stands;
    (void)pthread_mutex_unlock(loop->config.lock);
    return stands;
}

void io_loop_resume(struct io_loop *loop)
{
    (void)pthread_mutex_lock(loop->config.lock);
    loop->order = IO_LOOP_GO;
    (void)pthread_cond_broadcast(&loop->changed);
    (void)pthread_mutex_unlock(loop->config.lock);
    wake_up(loop);
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

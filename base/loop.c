/* libuv, seen through a keyhole. Four things are ours and not libuv's:
 *   - a handle and its memory part ways: _free closes it, the close callback gives the memory back;
 *   - posts from other threads go through one list and one uv_async, which also keeps the loop
 * alive until loop_stop;
 *   - a timer counts from now, not from the start of the loop's turn;
 *   - a turn that waits for one event takes a timer that was due for one. libuv before 1.45 fires
 * it and then waits for the next event all the same.
 */
#include "base/loop.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <uv.h>

#include "base/err.h"
#include "base/own.h"

struct post {
    struct post *next;
    void (*function)(void *data);
    void *data;
};

struct loop {
    uv_loop_t uv;
    uv_async_t wake;
    pthread_mutex_t mutex; /* guards the list only; never held while calling out */
    struct post *posts, **last_post;
    bool is_turning; /* in a turn that waits for one event */
};

struct loop_timer {
    uv_timer_t uv;
    void (*fired)(void *data);
    void *data;
};

struct loop_poll {
    uv_poll_t uv;
    void (*ready)(void *data, unsigned events);
    void *data;
};

struct loop_signal {
    uv_signal_t uv;
    void (*caught)(void *data, int signal_number);
    void *data;
};

struct loop_job {
    uv_work_t uv;
    void (*work)(void *data);
    void (*done)(void *data);
    void *data;
};

static struct post *take_posts(struct loop *loop)
{
    pthread_mutex_lock(&loop->mutex);
    struct post *posts = loop->posts;
    loop->posts = NULL;
    loop->last_post = &loop->posts;
    pthread_mutex_unlock(&loop->mutex);
    return posts;
}

static void on_wake(uv_async_t *wake)
{
    struct loop *loop = CONTAINER_OF(wake, struct loop, wake);
    struct post *post = take_posts(loop);
    while (post) {
        struct post *next = post->next;
        void (*function)(void *data) = post->function;
        void *data = post->data;
        free(post);
        function(data);
        post = next;
    }
}

int loop_new(struct loop **ret_loop, struct fault *fault)
{
    struct loop *loop = calloc(1, sizeof *loop);
    if (!loop)
        return fault_set(fault, ERR_NOMEM, "no memory for an event loop");

    int r = uv_loop_init(&loop->uv);
    if (r < 0) {
        free(loop);
        return fault_set(fault, ERR_IO, "starting an event loop: %s", uv_strerror(r));
    }
    r = uv_async_init(&loop->uv, &loop->wake, on_wake);
    if (r < 0) {
        (void)uv_loop_close(&loop->uv); /* nothing was opened on it */
        free(loop);
        return fault_set(fault, ERR_IO, "starting an event loop: %s", uv_strerror(r));
    }
    pthread_mutex_init(&loop->mutex, NULL);
    loop->last_post = &loop->posts;
    *ret_loop = loop;
    return 0;
}

struct loop *loop_free(struct loop *loop)
{
    if (!loop)
        return NULL;
    uv_close((uv_handle_t *)&loop->wake, NULL);
    while (uv_run(&loop->uv, UV_RUN_DEFAULT)) {
        /* a loop_stop during the last turns ends one uv_run early, no more */
    }
    int r = uv_loop_close(&loop->uv);
    assert(r == 0); /* somebody kept an object of this loop */

    struct post *post = take_posts(loop);
    while (post) {
        struct post *next = post->next;
        free(post);
        post = next;
    }
    pthread_mutex_destroy(&loop->mutex);
    free(loop);
    return NULL;
}

void loop_run(struct loop *loop)
{
    (void)uv_run(&loop->uv, UV_RUN_DEFAULT); /* what it returns says what was left, not an error */
}

void loop_turn(struct loop *loop, bool wait)
{
    loop->is_turning = wait;
    (void)uv_run(&loop->uv, wait ? UV_RUN_ONCE : UV_RUN_NOWAIT);
    loop->is_turning = false;
}

void loop_stop(struct loop *loop)
{
    uv_stop(&loop->uv);
}

struct uv_loop_s *loop_uv(struct loop *loop)
{
    return &loop->uv;
}

int loop_post(struct loop *loop, void (*function)(void *data), void *data)
{
    assert(function);
    struct post *post = calloc(1, sizeof *post);
    if (!post)
        return ERR_NOMEM;
    post->function = function;
    post->data = data;

    pthread_mutex_lock(&loop->mutex);
    *loop->last_post = post;
    loop->last_post = &post->next;
    /* Inside the mutex: once it is dropped the post may have run and the loop may be gone. */
    int r = uv_async_send(&loop->wake);
    pthread_mutex_unlock(&loop->mutex);
    assert(r == 0);
    return 0;
}

static void on_work(uv_work_t *uv)
{
    struct loop_job *job = CONTAINER_OF(uv, struct loop_job, uv);
    job->work(job->data);
}

static void on_worked(uv_work_t *uv, int status)
{
    (void)status; /* UV_ECANCELED cannot be: nobody cancels */
    struct loop_job *job = CONTAINER_OF(uv, struct loop_job, uv);
    void (*done)(void *data) = job->done;
    void *data = job->data;
    free(job);
    if (done)
        done(data);
}

int loop_work(struct loop *loop, void (*work)(void *data), void (*done)(void *data), void *data)
{
    assert(work);
    struct loop_job *job = calloc(1, sizeof *job);
    if (!job)
        return ERR_NOMEM;
    job->work = work;
    job->done = done;
    job->data = data;
    int r = uv_queue_work(&loop->uv, &job->uv, on_work, on_worked);
    assert(r == 0); /* fails for a NULL callback only */
    return 0;
}

/* ---- timers ---- */

static void on_timer(uv_timer_t *uv)
{
    struct loop_timer *timer = CONTAINER_OF(uv, struct loop_timer, uv);
    struct loop *loop = CONTAINER_OF(uv->loop, struct loop, uv);
    timer->fired(timer->data);
    if (loop->is_turning)
        uv_stop(&loop->uv); /* it looks for events once more, and waits for none */
}

int loop_timer_new(struct loop_timer **ret_timer, struct loop *loop, void (*fired)(void *data),
                   void *data, struct fault *fault)
{
    assert(fired);
    struct loop_timer *timer = calloc(1, sizeof *timer);
    if (!timer)
        return fault_set(fault, ERR_NOMEM, "no memory for a timer");
    timer->fired = fired;
    timer->data = data;
    int r = uv_timer_init(&loop->uv, &timer->uv);
    assert(r == 0); /* touches memory only */
    *ret_timer = timer;
    return 0;
}

void loop_timer_start(struct loop_timer *timer, uint64_t after_ms, uint64_t repeat_ms)
{
    uv_update_time(timer->uv.loop);
    int r = uv_timer_start(&timer->uv, on_timer, after_ms, repeat_ms);
    assert(r == 0); /* else it was freed before */
}

void loop_timer_stop(struct loop_timer *timer)
{
    (void)uv_timer_stop(&timer->uv); /* always 0 */
}

static void on_timer_closed(uv_handle_t *uv)
{
    free(CONTAINER_OF((uv_timer_t *)uv, struct loop_timer, uv));
}

struct loop_timer *loop_timer_free(struct loop_timer *timer)
{
    if (timer)
        uv_close((uv_handle_t *)&timer->uv, on_timer_closed);
    return NULL;
}

/* ---- descriptors ---- */

static void on_poll(uv_poll_t *uv, int status, int uv_events)
{
    struct loop_poll *poll = CONTAINER_OF(uv, struct loop_poll, uv);
    unsigned events = 0;
    if (uv_events & UV_READABLE)
        events |= LOOP_READABLE;
    if (uv_events & UV_WRITABLE)
        events |= LOOP_WRITABLE;
    if (uv_events & UV_DISCONNECT)
        events |= LOOP_GONE;
    if (status < 0) /* libuv has stopped watching: the other end of a pipe went away */
        events |= LOOP_GONE;
    poll->ready(poll->data, events);
}

int loop_poll_new(struct loop_poll **ret_poll, struct loop *loop, int fd,
                  void (*ready)(void *data, unsigned events), void *data, struct fault *fault)
{
    assert(fd >= 0);
    assert(ready);
    struct loop_poll *poll = calloc(1, sizeof *poll);
    if (!poll)
        return fault_set(fault, ERR_NOMEM, "no memory to watch a descriptor");
    poll->ready = ready;
    poll->data = data;
    int r = uv_poll_init(&loop->uv, &poll->uv, fd);
    if (r < 0) {
        free(poll);
        return fault_set(fault, r == UV_EEXIST ? ERR_EXISTS : ERR_IO, "watching descriptor %d: %s",
                         fd, uv_strerror(r));
    }
    *ret_poll = poll;
    return 0;
}

void loop_poll_set(struct loop_poll *poll, unsigned events)
{
    int uv_events = 0;
    if (events & LOOP_READABLE)
        uv_events |= UV_READABLE;
    if (events & LOOP_WRITABLE)
        uv_events |= UV_WRITABLE;
    if (events & LOOP_GONE)
        uv_events |= UV_DISCONNECT;
    int r = uv_events ? uv_poll_start(&poll->uv, uv_events, on_poll) : uv_poll_stop(&poll->uv);
    assert(r == 0); /* else it was freed before */
}

static void on_poll_closed(uv_handle_t *uv)
{
    free(CONTAINER_OF((uv_poll_t *)uv, struct loop_poll, uv));
}

struct loop_poll *loop_poll_free(struct loop_poll *poll)
{
    if (poll)
        uv_close((uv_handle_t *)&poll->uv, on_poll_closed);
    return NULL;
}

/* ---- signals ---- */

static void on_signal(uv_signal_t *uv, int signal_number)
{
    struct loop_signal *signal = CONTAINER_OF(uv, struct loop_signal, uv);
    signal->caught(signal->data, signal_number);
}

static void on_signal_closed(uv_handle_t *uv)
{
    free(CONTAINER_OF((uv_signal_t *)uv, struct loop_signal, uv));
}

int loop_signal_new(struct loop_signal **ret_signal, struct loop *loop, int signal_number,
                    void (*caught)(void *data, int signal_number), void *data, struct fault *fault)
{
    assert(caught);
    struct loop_signal *signal = calloc(1, sizeof *signal);
    if (!signal)
        return fault_set(fault, ERR_NOMEM, "no memory to catch a signal");
    signal->caught = caught;
    signal->data = data;
    int r = uv_signal_init(&loop->uv, &signal->uv);
    if (r < 0) {
        free(signal);
        return fault_set(fault, ERR_IO, "catching signal %d: %s", signal_number, uv_strerror(r));
    }
    r = uv_signal_start(&signal->uv, on_signal, signal_number);
    if (r < 0) {
        uv_close((uv_handle_t *)&signal->uv, on_signal_closed);
        return fault_set(fault, ERR_IO, "catching signal %d: %s", signal_number, uv_strerror(r));
    }
    *ret_signal = signal;
    return 0;
}

struct loop_signal *loop_signal_free(struct loop_signal *signal)
{
    if (signal)
        uv_close((uv_handle_t *)&signal->uv, on_signal_closed);
    return NULL;
}

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/err.h"
#include "base/loop.h"
#include "base/own.h"
#include "base/world.h"

enum { FAR_MS = 3600000 };

struct scene {
    struct loop *loop;
    struct loop_timer *timer;
    struct loop_poll *poll;
    struct loop_signal *signal;
    int fired, order[8], order_count;
    unsigned events;
    pthread_t loop_thread, work_thread, done_thread;
    int stop_after;
};

static int set_up(void **state)
{
    struct scene *scene = calloc(1, sizeof *scene);
    assert_non_null(scene);
    assert_int_equal(loop_new(&scene->loop, NULL), 0);
    *state = scene;
    return 0;
}

static int tear_down(void **state)
{
    struct scene *scene = *state;
    scene->timer = loop_timer_free(scene->timer);
    scene->poll = loop_poll_free(scene->poll);
    scene->signal = loop_signal_free(scene->signal);
    scene->loop = loop_free(scene->loop);
    free(scene);
    return 0;
}

static void on_timer(void *data)
{
    struct scene *scene = data;
    if (++scene->fired == scene->stop_after)
        loop_stop(scene->loop);
}

static void a_timer_fires_once_or_again(void **state)
{
    struct scene *scene = *state;
    assert_int_equal(loop_timer_new(&scene->timer, scene->loop, on_timer, scene, NULL), 0);
    scene->stop_after = 1;
    loop_timer_start(scene->timer, 1, 0);
    loop_run(scene->loop);
    assert_int_equal(scene->fired, 1);

    scene->stop_after = 4;
    loop_timer_start(scene->timer, 1, 1);
    loop_run(scene->loop);
    assert_int_equal(scene->fired, 4);
}

static void a_timer_counts_from_its_start_not_from_the_turns(void **state)
{
    struct scene *scene = *state;
    assert_int_equal(loop_timer_new(&scene->timer, scene->loop, on_timer, scene, NULL), 0);
    loop_turn(scene->loop, false);
    uint64_t busy_until_ms = world_now_ms() + 30;
    while (world_now_ms() < busy_until_ms)
        continue;

    uint64_t started_ms = world_now_ms();
    loop_timer_start(scene->timer, 20, 0);
    scene->stop_after = 1;
    loop_run(scene->loop);

    assert_true(world_now_ms() - started_ms >= 19);
}

/* Who turns until something has come must not wait for what comes next. */
static void a_turn_that_fired_a_timer_waits_for_nothing_more(void **state)
{
    struct scene *scene = *state;
    struct loop_timer *far = NULL;
    assert_int_equal(loop_timer_new(&scene->timer, scene->loop, on_timer, scene, NULL), 0);
    assert_int_equal(loop_timer_new(&far, scene->loop, on_timer, scene, NULL), 0);
    loop_timer_start(scene->timer, 0, 0);
    loop_timer_start(far, FAR_MS, 0);

    loop_turn(scene->loop, true);

    assert_int_equal(scene->fired, 1);
    far = loop_timer_free(far);
}

static void a_stopped_timer_stays_silent(void **state)
{
    struct scene *scene = *state;
    struct loop_timer *other = NULL;
    assert_int_equal(loop_timer_new(&scene->timer, scene->loop, on_timer, scene, NULL), 0);
    assert_int_equal(loop_timer_new(&other, scene->loop, on_timer, scene, NULL), 0);
    loop_timer_start(scene->timer, 1, 0);
    loop_timer_stop(scene->timer);
    loop_timer_start(other, 5, 0);
    scene->stop_after = 1;

    loop_run(scene->loop);

    assert_int_equal(scene->fired, 1);
    other = loop_timer_free(other);
}

static void on_timer_free_itself(void *data)
{
    struct scene *scene = data;
    scene->timer = loop_timer_free(scene->timer);
    loop_stop(scene->loop);
}

static void a_timer_may_free_itself(void **state)
{
    struct scene *scene = *state;
    assert_int_equal(loop_timer_new(&scene->timer, scene->loop, on_timer_free_itself, scene, NULL),
                     0);
    loop_timer_start(scene->timer, 0, 1);

    loop_run(scene->loop);

    assert_null(scene->timer);
}

struct note {
    struct scene *scene;
    int number;
};

static void on_post(void *data)
{
    struct note *note = data;
    note->scene->order[note->scene->order_count++] = note->number;
    assert_true(pthread_equal(pthread_self(), note->scene->loop_thread));
    if (note->scene->order_count == 4)
        loop_stop(note->scene->loop);
}

static void *post_four(void *data)
{
    struct note *notes = data;
    for (int i = 0; i < 4; i++) {
        if (loop_post(notes[i].scene->loop, on_post, &notes[i]) < 0)
            abort();
    }
    return NULL;
}

static void posts_of_another_thread_run_here_in_order(void **state)
{
    struct scene *scene = *state;
    struct note notes[4];
    pthread_t poster;
    for (int i = 0; i < 4; i++)
        notes[i] = (struct note){scene, i};
    scene->loop_thread = pthread_self();

    pthread_create(&poster, NULL, post_four, notes);
    loop_run(scene->loop);
    pthread_join(poster, NULL);

    for (int i = 0; i < 4; i++)
        assert_int_equal(scene->order[i], i);
}

static void posts_still_queued_at_the_end_are_dropped(void **state)
{
    struct scene *scene = *state;
    struct note note = {scene, 0};
    assert_int_equal(loop_post(scene->loop, on_post, &note), 0);
    assert_int_equal(loop_post(scene->loop, on_post, &note), 0);
    scene->loop = loop_free(scene->loop);

    assert_int_equal(scene->order_count, 0);
}

static void work(void *data)
{
    struct scene *scene = data;
    scene->work_thread = pthread_self();
}

static void work_done(void *data)
{
    struct scene *scene = data;
    scene->done_thread = pthread_self();
    scene->fired++;
    loop_stop(scene->loop);
}

static void work_is_done_elsewhere_and_told_here(void **state)
{
    struct scene *scene = *state;

    assert_int_equal(loop_work(scene->loop, work, work_done, scene), 0);
    loop_run(scene->loop);

    assert_int_equal(scene->fired, 1);
    assert_false(pthread_equal(scene->work_thread, pthread_self()));
    assert_true(pthread_equal(scene->done_thread, pthread_self()));
}

static void on_ready(void *data, unsigned events)
{
    struct scene *scene = data;
    scene->events |= events;
    scene->fired++;
}

static void a_poll_tells_readable_writable_and_gone(void **state)
{
    struct scene *scene = *state;
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    assert_int_equal(loop_poll_new(&scene->poll, scene->loop, fds[0], on_ready, scene, NULL), 0);
    loop_turn(scene->loop, false);
    assert_int_equal(scene->fired, 0);

    loop_poll_set(scene->poll, LOOP_READABLE | LOOP_GONE);
    assert_int_equal(write(fds[1], "x", 1), 1);
    while (!scene->fired)
        loop_turn(scene->loop, true);
    assert_int_equal(scene->events, LOOP_READABLE);

    loop_poll_set(scene->poll, 0);
    scene->fired = 0;
    for (int i = 0; i < 3; i++)
        loop_turn(scene->loop, false);
    assert_int_equal(scene->fired, 0);

    loop_poll_set(scene->poll, LOOP_READABLE | LOOP_GONE);
    (void)close(fds[1]);
    while (!(scene->events & LOOP_READABLE) || scene->fired == 0)
        loop_turn(scene->loop, true);
    scene->poll = loop_poll_free(scene->poll);
    (void)close(fds[0]);

    assert_int_equal(pipe(fds), 0);
    scene->events = 0;
    assert_int_equal(loop_poll_new(&scene->poll, scene->loop, fds[1], on_ready, scene, NULL), 0);
    loop_poll_set(scene->poll, LOOP_WRITABLE);
    while (!scene->events)
        loop_turn(scene->loop, true);
    assert_int_equal(scene->events, LOOP_WRITABLE);
    (void)close(fds[0]);
    while (!(scene->events & LOOP_GONE))
        loop_turn(scene->loop, true);
    scene->poll = loop_poll_free(scene->poll);
    (void)close(fds[1]);
}

static void a_descriptor_that_cannot_be_watched_is_told(void **state)
{
    struct scene *scene = *state;
    struct fault fault = {0};
    struct loop_poll *second = NULL;
    char path[] = "/tmp/godwit-loop-XXXXXX";
    AUTO_FD int file = mkstemp(path);
    (void)unlink(path);
    int fds[2];
    assert_int_equal(pipe(fds), 0);

    assert_int_equal(loop_poll_new(&second, scene->loop, file, on_ready, scene, &fault), ERR_IO);
    assert_int_equal(loop_poll_new(&scene->poll, scene->loop, fds[0], on_ready, scene, NULL), 0);
    loop_poll_set(scene->poll, LOOP_READABLE);
    assert_int_equal(loop_poll_new(&second, scene->loop, fds[0], on_ready, scene, &fault),
                     ERR_EXISTS);
    scene->poll = loop_poll_free(scene->poll);
    (void)close(fds[0]);
    (void)close(fds[1]);
}

static void on_signal(void *data, int signal_number)
{
    struct scene *scene = data;
    scene->fired = signal_number;
    loop_stop(scene->loop);
}

static void a_signal_is_caught(void **state)
{
    struct scene *scene = *state;
    assert_int_equal(loop_signal_new(&scene->signal, scene->loop, SIGUSR1, on_signal, scene, NULL),
                     0);

    assert_int_equal(raise(SIGUSR1), 0);
    loop_run(scene->loop);

    assert_int_equal(scene->fired, SIGUSR1);
    struct fault fault = {0};
    struct loop_signal *never = NULL;
    assert_int_equal(loop_signal_new(&never, scene->loop, SIGKILL, on_signal, scene, &fault),
                     ERR_IO);
}

static void freeing_nothing_is_fine(void **state)
{
    (void)state;
    assert_null(loop_free(NULL));
    assert_null(loop_timer_free(NULL));
    assert_null(loop_poll_free(NULL));
    assert_null(loop_signal_free(NULL));
}

#define test(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        test(a_timer_fires_once_or_again),
        test(a_timer_counts_from_its_start_not_from_the_turns),
        test(a_turn_that_fired_a_timer_waits_for_nothing_more),
        test(a_stopped_timer_stays_silent),
        test(a_timer_may_free_itself),
        test(posts_of_another_thread_run_here_in_order),
        test(posts_still_queued_at_the_end_are_dropped),
        test(work_is_done_elsewhere_and_told_here),
        test(a_poll_tells_readable_writable_and_gone),
        test(a_descriptor_that_cannot_be_watched_is_told),
        test(a_signal_is_caught),
        test(freeing_nothing_is_fine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

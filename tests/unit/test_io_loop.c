#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/err.h"
#include "base/own.h"
#include "vmm-core/io_loop.h"

struct scene {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct io_loop *loop;
    struct io_watch source, completion;
    struct io_job job;
    unsigned sources, completions, jobs, drains, starts;
    unsigned pending; /* begun and not ended */
    pthread_t thread; /* on which callbacks ran */
};

static void on_drain(void *data)
{
    struct scene *scene = data;
    scene->drains++;
    (void)pthread_cond_broadcast(&scene->changed);
}

static bool on_is_quiet(void *data)
{
    struct scene *scene = data;
    return scene->pending == 0;
}

static void on_go_on(void *data)
{
    struct scene *scene = data;
    scene->starts++;
    (void)pthread_cond_broadcast(&scene->changed);
}

static void take(int fd)
{
    uint64_t count;
    assert_int_equal(read(fd, &count, sizeof count), sizeof count);
}

static void ring(int fd)
{
    uint64_t one = 1;
    assert_int_equal(write(fd, &one, sizeof one), sizeof one);
}

static void on_source(void *data, uint32_t events)
{
    struct scene *scene = data;
    assert_int_equal(events, EPOLLIN);
    take(scene->source.fd);
    scene->sources++;
    scene->thread = pthread_self();
    (void)pthread_cond_broadcast(&scene->changed);
}

static void on_completion(void *data, uint32_t events)
{
    struct scene *scene = data;
    (void)events;
    take(scene->completion.fd);
    scene->completions++;
    scene->pending--;
    (void)pthread_cond_broadcast(&scene->changed);
}

static void on_job(void *data)
{
    struct scene *scene = data;
    scene->jobs++;
    (void)pthread_cond_broadcast(&scene->changed);
}

static void scene_init(struct scene *scene)
{
    *scene = (struct scene){.job = {.run = on_job, .data = scene}};
    (void)pthread_mutex_init(&scene->lock, NULL);
    (void)pthread_cond_init(&scene->changed, NULL);
    const struct io_loop_config config = {.lock = &scene->lock,
                                          .data = scene,
                                          .drain = on_drain,
                                          .is_quiet = on_is_quiet,
                                          .go_on = on_go_on};
    struct fault fault = {0};
    assert_int_equal(io_loop_new(&scene->loop, &config, &fault), 0);
    scene->source = (struct io_watch){
        .fd = eventfd(0, EFD_CLOEXEC), .class = IO_WATCH_SOURCE, .ready = on_source, .data = scene};
    scene->completion = (struct io_watch){.fd = eventfd(0, EFD_CLOEXEC),
                                          .class = IO_WATCH_COMPLETION,
                                          .ready = on_completion,
                                          .data = scene};
    (void)pthread_mutex_lock(&scene->lock);
    assert_int_equal(io_loop_add(scene->loop, &scene->source, EPOLLIN, &fault), 0);
    assert_int_equal(io_loop_add(scene->loop, &scene->completion, EPOLLIN, &fault), 0);
    (void)pthread_mutex_unlock(&scene->lock);
}

static void scene_deinit(struct scene *scene)
{
    io_loop_stop(scene->loop);
    io_loop_remove(scene->loop, &scene->source);
    io_loop_remove(scene->loop, &scene->completion);
    scene->loop = io_loop_free(scene->loop);
    close_p(&scene->source.fd);
    close_p(&scene->completion.fd);
    (void)pthread_cond_destroy(&scene->changed);
    (void)pthread_mutex_destroy(&scene->lock);
}

static void await(struct scene *scene, const unsigned *counter, unsigned value)
{
    (void)pthread_mutex_lock(&scene->lock);
    while (*counter < value)
        (void)pthread_cond_wait(&scene->changed, &scene->lock);
    (void)pthread_mutex_unlock(&scene->lock);
}

static void callbacks_run_on_its_own_thread_once_it_goes(void **state)
{
    (void)state;
    struct scene scene;
    scene_init(&scene);
    ring(scene.source.fd);
    assert_int_equal(scene.sources, 0);

    io_loop_resume(scene.loop);

    await(&scene, &scene.sources, 1);
    assert_false(pthread_equal(scene.thread, pthread_self()));
    assert_int_equal(scene.starts, 1);
    scene_deinit(&scene);
}

static void *pause_main(void *data)
{
    struct scene *scene = data;
    (void)io_loop_pause(scene->loop, UINT64_MAX);
    return NULL;
}

static void a_pause_waits_for_what_was_begun_and_takes_nothing_new(void **state)
{
    (void)state;
    struct scene scene;
    scene_init(&scene);
    scene.pending = 2;
    io_loop_resume(scene.loop);
    await(&scene, &scene.starts, 1);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, pause_main, &scene), 0);
    await(&scene, &scene.drains, 1);

    ring(scene.source.fd);
    ring(scene.completion.fd);
    await(&scene, &scene.completions, 1);
    ring(scene.completion.fd);
    assert_int_equal(pthread_join(thread, NULL), 0); /* paused */

    assert_int_equal(scene.completions, 2);
    assert_int_equal(scene.sources, 0);
    io_loop_resume(scene.loop);
    await(&scene, &scene.sources, 1); /* nothing was lost */
    scene_deinit(&scene);
}

static void a_pause_that_takes_too_long_can_be_taken_back(void **state)
{
    (void)state;
    struct scene scene;
    scene_init(&scene);
    scene.pending = 1;
    io_loop_resume(scene.loop);
    await(&scene, &scene.starts, 1);

    assert_false(io_loop_pause(scene.loop, 1000000));
    io_loop_resume(scene.loop);

    ring(scene.source.fd);
    await(&scene, &scene.sources, 1); /* it takes new work again */
    ring(scene.completion.fd);
    assert_true(io_loop_pause(scene.loop, UINT64_MAX));
    assert_int_equal(scene.drains, scene.starts);
    scene_deinit(&scene);
}

static void pausing_twice_is_pausing_once(void **state)
{
    (void)state;
    struct scene scene;
    scene_init(&scene);
    assert_true(io_loop_pause(scene.loop, UINT64_MAX)); /* it never went */
    for (unsigned i = 1; i <= 500; i++) {
        io_loop_resume(scene.loop);
        io_loop_resume(scene.loop);
        assert_true(io_loop_pause(scene.loop, UINT64_MAX));
        assert_true(io_loop_pause(scene.loop, UINT64_MAX));
        assert_int_equal(scene.drains, scene.starts);
    }
    scene_deinit(&scene);
}

static void a_job_runs_once_and_waits_while_the_loop_stands(void **state)
{
    (void)state;
    struct scene scene;
    scene_init(&scene);
    (void)pthread_mutex_lock(&scene.lock);
    io_loop_post(scene.loop, &scene.job);
    io_loop_post(scene.loop, &scene.job);
    (void)pthread_mutex_unlock(&scene.lock);
    assert_int_equal(scene.jobs, 0);

    io_loop_resume(scene.loop);

    await(&scene, &scene.jobs, 1);
    assert_true(io_loop_pause(scene.loop, UINT64_MAX));
    assert_int_equal(scene.jobs, 1);
    io_loop_post(scene.loop, &scene.job);
    io_loop_cancel(scene.loop, &scene.job);
    io_loop_resume(scene.loop);
    assert_true(io_loop_pause(scene.loop, UINT64_MAX));
    assert_int_equal(scene.jobs, 1);
    scene_deinit(&scene);
}

static void a_removed_watch_is_not_called(void **state)
{
    (void)state;
    struct scene scene;
    scene_init(&scene);
    io_loop_resume(scene.loop);
    for (unsigned i = 0; i < 500; i++) {
        ring(scene.source.fd);
        (void)pthread_mutex_lock(&scene.lock);
        io_loop_remove(scene.loop, &scene.source);
        unsigned before = scene.sources;
        (void)pthread_mutex_unlock(&scene.lock);
        assert_true(io_loop_pause(scene.loop, UINT64_MAX));
        assert_int_equal(scene.sources, before);
        (void)pthread_mutex_lock(&scene.lock);
        assert_int_equal(io_loop_add(scene.loop, &scene.source, EPOLLIN, NULL), 0);
        (void)pthread_mutex_unlock(&scene.lock);
        io_loop_resume(scene.loop);
    }
    scene_deinit(&scene);
}

static void it_watches_no_more_than_its_limit(void **state)
{
    (void)state;
    struct scene scene;
    static struct io_watch watches[IO_LOOP_WATCHES_MAX];
    struct fault fault = {0};
    scene_init(&scene);
    unsigned added = 0;
    int r = 0;
    while (r == 0 && added < IO_LOOP_WATCHES_MAX) {
        watches[added] =
            (struct io_watch){.fd = eventfd(0, EFD_CLOEXEC), .ready = on_source, .data = &scene};
        if (watches[added].fd < 0)
            break; /* this process may not have so many */
        r = io_loop_add(scene.loop, &watches[added++], EPOLLIN, &fault);
    }
    if (r < 0)
        assert_int_equal(r, ERR_LIMIT);
    assert_true(r < 0 ? added == IO_LOOP_WATCHES_MAX - 1 : added > 100);
    while (added-- > 0) {
        io_loop_remove(scene.loop, &watches[added]);
        close_p(&watches[added].fd);
    }
    scene_deinit(&scene);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(callbacks_run_on_its_own_thread_once_it_goes),
        cmocka_unit_test(a_pause_waits_for_what_was_begun_and_takes_nothing_new),
        cmocka_unit_test(a_pause_that_takes_too_long_can_be_taken_back),
        cmocka_unit_test(pausing_twice_is_pausing_once),
        cmocka_unit_test(a_job_runs_once_and_waits_while_the_loop_stands),
        cmocka_unit_test(a_removed_watch_is_not_called),
        cmocka_unit_test(it_watches_no_more_than_its_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

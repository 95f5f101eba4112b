#include "storage/disk_threads.h"

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include "storage/disk.h"
#include "storage/disk_file.h"

static void append(struct disk_request ***end, struct disk_request *request)
{
    request->next = NULL;
    **end = request;
    *end = &request->next;
}

static struct disk_request *take_todo(struct disk_threads *threads)
{
    struct disk_request *request = threads->todo;
    threads->todo = request->next;
    if (!threads->todo)
        threads->todo_end = &threads->todo;
    return request;
}

static void finish(struct disk_threads *threads, struct disk_request *request)
{
    append(&threads->done_end, request);
    uint64_t one = 1;
    ssize_t written = write(threads->event_fd, &one, sizeof one);
    assert(written == sizeof one || errno == EAGAIN); /* full: it is readable */
    (void)written;
}

static void *worker_main(void *data)
{
    struct disk_threads *threads = data;
    (void)pthread_setname_np(pthread_self(), "disk"); /* a nicety of top(1) */
    (void)pthread_mutex_lock(&threads->lock);
    for (;;) {
        while (!threads->todo && !threads->quit) {
            threads->idle++;
            (void)pthread_cond_wait(&threads->wanted, &threads->lock);
            threads->idle--;
        }
        if (!threads->todo)
            break;
        struct disk_request *request = take_todo(threads);
        (void)pthread_mutex_unlock(&threads->lock);
        request->error = disk_file_run(threads->file, request);
        (void)pthread_mutex_lock(&threads->lock);
        finish(threads, request);
    }
    (void)pthread_mutex_unlock(&threads->lock);
    return NULL;
}

void disk_threads_init(struct disk_threads *threads, const struct disk_file *file, int event_fd,
                       unsigned max)
{
    assert(max >= 1 && max <= DISK_THREADS_MAX);
    memset(threads, 0, sizeof *threads);
    threads->file = file;
    threads->event_fd = event_fd;
    threads->max = max;
    (void)pthread_mutex_init(&threads->lock, NULL);  /* cannot fail on Linux */
    (void)pthread_cond_init(&threads->wanted, NULL); /* as above */
    threads->todo_end = &threads->todo;
    threads->done_end = &threads->done;
}

void disk_threads_deinit(struct disk_threads *threads)
{
    if (!threads->file)
        return; /* never came to init */
    assert(!threads->todo && !threads->done);
    (void)pthread_mutex_lock(&threads->lock);
    threads->quit = true;
    (void)pthread_cond_broadcast(&threads->wanted);
    (void)pthread_mutex_unlock(&threads->lock);
    for (unsigned i = 0; i < threads->count; i++) {
        int r = pthread_join(threads->threads[i], NULL);
        assert(r == 0);
        (void)r;
    }
    (void)pthread_cond_destroy(&threads->wanted); /* nobody waits any more */
    (void)pthread_mutex_destroy(&threads->lock);
}

static void start_one(struct disk_threads *threads)
{
    sigset_t all, before; /* signals go to the process's other threads */
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    if (pthread_create(&threads->threads[threads->count], NULL, worker_main, threads) == 0)
        threads->count++;
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void disk_threads_put(struct disk_threads *threads, struct disk_request *request)
{
    (void)pthread_mutex_lock(&threads->lock);
    if (threads->idle == 0 && threads->count < threads->max)
        start_one(threads);
    if (threads->count) {
        append(&threads->todo_end, request);
        (void)pthread_cond_signal(&threads->wanted);
    } else {
        request->error = disk_file_run(threads->file, request);
        finish(threads, request);
    }
    (void)pthread_mutex_unlock(&threads->lock);
}

void disk_threads_put_done(struct disk_threads *threads, struct disk_request *request)
{
    (void)pthread_mutex_lock(&threads->lock);
    finish(threads, request);
    (void)pthread_mutex_unlock(&threads->lock);
}

struct disk_request *disk_threads_take_done(struct disk_threads *threads)
{
    (void)pthread_mutex_lock(&threads->lock);
    struct disk_request *first = threads->done;
    threads->done = NULL;
    threads->done_end = &threads->done;
    (void)pthread_mutex_unlock(&threads->lock);
    return first;
}

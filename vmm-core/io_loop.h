/* The thread on which a VM's devices do their work: doorbells, taps, finished disk requests.
 *
 * Flow:   eventfds, taps, disks -> [io_loop] -> virtio devices; vm_pause, vm_resume -> [io_loop]
 * Thread: new, pause, resume, free on whoever holds the vm; the rest on any thread that holds
 *         the lock which the loop was given (the vm's device lock). Every callback runs on the
 *         loop's thread with that lock held, and never calls pause, resume or free.
 *
 * Two classes of descriptors: a SOURCE brings new work (a doorbell, a tap), a COMPLETION ends work
 * that was begun. Pausing stops sources at once, asks the devices to finish what they began, goes
 * on with completions until they are quiet, then parks. What sources have meanwhile to say is kept
 * by the kernel until the loop goes on.
 */
#ifndef GODWIT_VMM_CORE_IO_LOOP_H
#define GODWIT_VMM_CORE_IO_LOOP_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct fault;
struct io_loop; /* opaque to devices */

enum { IO_LOOP_WATCHES_MAX = 1024 };

enum io_watch_class { IO_WATCH_SOURCE, IO_WATCH_COMPLETION };

/* One watched descriptor; lives in its device, zeroed before the first add. */
struct io_watch {
    int fd; /* borrowed */
    enum io_watch_class class;
    void (*ready)(void *data, uint32_t events); /* EPOLLIN, EPOLLOUT, EPOLLERR, EPOLLHUP */
    void *data;
    uint32_t slot; /* the loop's: 0 while not watched */
};

/* Something to do on the loop's thread; lives in its owner, who must cancel it before it goes. */
struct io_job {
    void (*run)(void *data);
    void *data;
    struct io_job *next; /* the loop's */
    bool posted;         /* the loop's */
};

struct io_loop_config {
    pthread_mutex_t *lock; /* borrowed; held around every callback */
    void *data;
    /* Take no new work, finish what was begun. */
    void (*drain)(void *data);
    /* Is everything finished that was begun? Asked after drain and after every completion. */
    bool (*is_quiet)(void *data);
    /* New work again: look at every queue, whatever its doorbell says. */
    void (*go_on)(void *data);
};

/* The thread starts parked: io_loop_resume lets it go. */
int io_loop_new(struct io_loop **ret_loop, const struct io_loop_config *config,
                struct fault *fault);
/* Drains and ends the thread. Watches and jobs can still be taken away. Accepts NULL. */
void io_loop_stop(struct io_loop *loop);
struct io_loop *io_loop_free(struct io_loop *loop); /* stops first */

/* Waits until the devices are quiet and the thread stands. False when they are not after
 * `timeout_ns` (UINT64_MAX: however long it takes): it goes on becoming so, until a resume.
 * Idempotent. */
bool io_loop_pause(struct io_loop *loop, uint64_t timeout_ns);
void io_loop_resume(struct io_loop *loop);

/* `events`: EPOLLIN, EPOLLOUT or both, level-triggered; 0 watches for errors only. */
int io_loop_add(struct io_loop *loop, struct io_watch *watch, uint32_t events, struct fault *fault);
void io_loop_modify(struct io_loop *loop, struct io_watch *watch, uint32_t events);
/* After it returns `ready` is not called any more. Nothing happens when it is not watched. */
void io_loop_remove(struct io_loop *loop, struct io_watch *watch);

/* Run once, soon; while the loop is parked, when it goes on. A job already posted stays so. */
void io_loop_post(struct io_loop *loop, struct io_job *job);
void io_loop_cancel(struct io_loop *loop, struct io_job *job);

#endif

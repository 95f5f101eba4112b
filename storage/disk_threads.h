/* Threads that run what blocks.
 *
 * Flow:   disk -> [disk_threads] -> disk_file; eventfd -> disk
 * Thread: the disk's, but for the workers inside.
 */
#ifndef GODWIT_STORAGE_DISK_THREADS_H
#define GODWIT_STORAGE_DISK_THREADS_H

#include <pthread.h>
#include <stdbool.h>

struct disk_file;
struct disk_request;

enum { DISK_THREADS_MAX = 4 };

struct disk_threads {
    /* set before start */
    const struct disk_file *file; /* borrowed */
    int event_fd;                 /* borrowed: signaled for every request that is done */
    unsigned max;

    pthread_mutex_t lock; /* guards the rest */
    pthread_cond_t wanted;
    struct disk_request *todo, **todo_end;
    struct disk_request *done, **done_end;
    unsigned count, idle;
    bool quit;
    pthread_t threads[DISK_THREADS_MAX];
};

void disk_threads_init(struct disk_threads *threads, const struct disk_file *file, int event_fd,
                       unsigned max);
void disk_threads_deinit(struct disk_threads *threads); /* nothing is in flight */

/* Runs it here and now when not a single thread can be had. */
void disk_threads_put(struct disk_threads *threads, struct disk_request *request);
/* Put among those that are done, as they are. */
void disk_threads_put_done(struct disk_threads *threads, struct disk_request *request);
/* Gives the list of those that are done, oldest first. */
struct disk_request *disk_threads_take_done(struct disk_threads *threads);

#endif

/* Reads, writes and flushes by io_uring.
 *
 * Flow:   disk -> [disk_uring] -> kernel; eventfd -> disk
 * Thread: the disk's.
 */
#ifndef GODWIT_STORAGE_DISK_URING_H
#define GODWIT_STORAGE_DISK_URING_H

#include <stdbool.h>

#include <liburing.h>

struct disk_file;
struct disk_request;

enum { DISK_URING_DEPTH = 128 };

struct disk_uring {
    bool ready;
    const struct disk_file *file; /* borrowed */
    struct io_uring ring;
    struct disk_request *waiting, **waiting_end; /* for room in the ring */
};

/* False where the kernel does not let us. */
bool disk_uring_init(struct disk_uring *uring, const struct disk_file *file, int event_fd);
void disk_uring_deinit(struct disk_uring *uring); /* nothing is in flight */

void disk_uring_put(struct disk_uring *uring, struct disk_request *request);
void disk_uring_kick(struct disk_uring *uring);
/* The next request that ended, with its `transferred` or `error`; NULL: none has. */
struct disk_request *disk_uring_take(struct disk_uring *uring);

#endif

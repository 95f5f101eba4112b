/* A guest's disk: requests go in, completions come out, nothing blocks.
 *
 * Flow:   virtio-blk -> [disk] -> file or block device; eventfd -> io loop -> [disk] -> virtio-blk
 * Thread: one at a time, whoever owns the disk; what blocks happens on threads of its own.
 *
 * A raw file or a block device behind a descriptor. Past the page cache (O_DIRECT) where the
 * file system lets us, by io_uring where the kernel lets us; else by threads.
 */
#ifndef GODWIT_STORAGE_DISK_H
#define GODWIT_STORAGE_DISK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct bitmap;
struct disk; /* opaque: this header is a door */
struct disk_mirror;
struct fault;

enum {
    DISK_SECTOR_BYTES = 512,
    DISK_PARTS_MAX = 256,
    DISK_TRANSFER_MAX = 64 << 20, /* bytes of one read or write */
};

enum disk_op {
    DISK_READ,
    DISK_WRITE,
    DISK_FLUSH,   /* everything completed before is durable when it is done */
    DISK_DISCARD, /* contents are not needed any more; a wish */
    DISK_WRITE_ZEROES,
};

struct disk_request { /* lives with whoever asks, until done */
    enum disk_op op;
    bool may_unmap;            /* DISK_WRITE_ZEROES: may give the space back */
    uint64_t offset, bytes;    /* multiples of DISK_SECTOR_BYTES inside the disk; flush: 0 */
    const struct iovec *parts; /* read, write: `bytes` in all, any alignment */
    unsigned part_count;
    /* Called by disk_reap, never by disk_submit. `error`: 0 or an errno. */
    void (*done)(struct disk_request *request, int error);
    void *data;

    /* the disk's */
    struct disk_request *next;
    bool mirrored; /* it is on the mirror's target, too */
    uint8_t *bounce;
    uint64_t transferred;
    int error;
};

struct disk_config {
    bool read_only;
    bool by_threads; /* not by io_uring */
    bool cached;     /* not by O_DIRECT */
};

/* Takes `fd`, a regular file or block device, when it returns 0. */
int disk_new(struct disk **ret_disk, int fd, const struct disk_config *config, struct fault *fault);
/* Nothing is in flight. */
struct disk *disk_free(struct disk *disk);

uint64_t disk_bytes(const struct disk *disk); /* as it was when opened */
bool disk_is_direct(const struct disk *disk);
bool disk_is_by_threads(const struct disk *disk);

/* From now on a bit is set in `written` (atomically) for every page of 4 KiB of the disk that a
 * request may have changed, at the latest before that request is told to be done; NULL: no more.
 * Borrowed; a request that is under way may set bits a little longer. Any thread. */
void disk_track(struct disk *disk, struct bitmap *written);

/* From now on what changes the disk, and every flush, goes by the mirror (disk_mirror.h), which must
 * outlive this; NULL: no more. */
void disk_mirror(struct disk *disk, struct disk_mirror *mirror);
/* The mirror was decided: once nothing is in flight its target is the disk. What is submitted
 * meanwhile waits. */
void disk_switch(struct disk *disk);

/* Begin; several may be in flight and end in any order. What was submitted starts at the latest
 * with the next disk_kick. */
void disk_submit(struct disk *disk, struct disk_request *request);
void disk_kick(struct disk *disk);
/* Readable while something may be done. Borrowed. */
int disk_event_fd(const struct disk *disk);
/* Call `done` of everything that is. */
void disk_reap(struct disk *disk);

#endif

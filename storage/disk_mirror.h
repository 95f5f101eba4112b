/* A disk that goes to another file while its guest writes it.
 *
 * Flow:   agent/vm -> [disk_mirror] <- disk: every change; target file <- its thread
 * Thread: its own for all that blocks; take, give under whatever guards the disk; the rest any.
 *
 *   COPYING   what is there is copied, cold first; what is written meanwhile is noted and copied again
 *   CLOSING   a write is told to be done when it is on both; the rest is copied, then all is read back
 *   EQUAL     both files hold every write that was told to be done, and every flush was one of both
 *   PROMISED  ... and it stays so until it is decided: while the target fails, writes wait
 *   SWITCHED  the disk is the target, which alone is written from here on
 *   OFF, FAILED   the disk is the source, as if nothing had been
 *
 * Only PROMISED may be followed by a decision, and until then the source is the disk; so whoever
 * records "it is the target now" between PROMISED and SWITCHED is right whatever dies in between: both
 * files are the disk. Blocks are 64 KiB; holes and zeroes are not written. Every block has a digest of
 * what was read from the source, which what is read back from the target has to equal.
 */
#ifndef GODWIT_STORAGE_DISK_MIRROR_H
#define GODWIT_STORAGE_DISK_MIRROR_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

struct disk_file;
struct disk_mirror; /* opaque: this header is a door */
struct disk_request;
struct disk_threads;

enum { DISK_MIRROR_BLOCK_BYTES = 64 << 10 };

enum disk_mirror_state {
    DISK_MIRROR_COPYING,
    DISK_MIRROR_CLOSING,
    DISK_MIRROR_EQUAL,
    DISK_MIRROR_PROMISED,
    DISK_MIRROR_SWITCHED,
    DISK_MIRROR_OFF,
    DISK_MIRROR_FAILED,
    DISK_MIRROR_STATE_COUNT
};

struct disk_mirror_status {
    enum disk_mirror_state state;
    uint64_t bytes;          /* of the disk */
    uint64_t copied_bytes;   /* read from the source, again and again */
    uint64_t written_bytes;  /* to the target */
    uint64_t left_bytes;     /* known to be copied still */
    uint64_t verified_bytes; /* read back */
    uint64_t mirrored;       /* requests that waited for both files */
    uint32_t passes;
    bool waits;         /* PROMISED, and the target fails: the guest's writes wait */
    struct fault fault; /* FAILED, or `waits`: why */
};

struct disk_mirror_config {
    int source_fd, target_fd; /* taken when disk_mirror_new returns 0; opened for reading and writing */
    uint64_t bytes;           /* of the disk; the target is as long */
    bool cached;              /* as the disk's */
    uint64_t rate_bytes_per_s; /* of the copying, not of what the guest writes; 0: as it can */
};

/* Nothing is copied before disk_mirror_start, nor noted before disk_mirror (storage/disk.h). */
int disk_mirror_new(struct disk_mirror **ret_mirror, const struct disk_mirror_config *config,
                    struct fault *fault);
int disk_mirror_start(struct disk_mirror *mirror, struct fault *fault);
/* It is no disk's any more. Waits for its thread, which ends soon after OFF, FAILED, SWITCHED. */
struct disk_mirror *disk_mirror_free(struct disk_mirror *mirror);

void disk_mirror_status(struct disk_mirror *mirror, struct disk_mirror_status *ret_status);
/* EQUAL -> PROMISED; again is as good. ERR_STATE with the reason in any other state. */
int disk_mirror_promise(struct disk_mirror *mirror, struct fault *fault);
/* It was decided: the target is the disk. From here on it fails the guest's writes as a disk does. */
int disk_mirror_decide(struct disk_mirror *mirror, struct fault *fault);
/* Give up; requests that wait are told what the source said. ERR_STATE when it was decided. */
int disk_mirror_abort(struct disk_mirror *mirror, struct fault *fault);
/* Has its thread come to its end, so that disk_mirror_free does not wait? */
bool disk_mirror_is_over(struct disk_mirror *mirror);

/* ---- for disk ---- */
/* A change or a flush is done at the source. True: taken, it comes back by `threads` as `mirrored`. */
bool disk_mirror_take(struct disk_mirror *mirror, struct disk_request *request,
                      struct disk_threads *threads);
/* Nothing is in flight: `ret_file` gets the target's file, which is the caller's; SWITCHED. */
void disk_mirror_give(struct disk_mirror *mirror, struct disk_file *ret_file);

#endif

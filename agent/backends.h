/* What a VM's disks and nics are on this host: looked at, opened, handed to its godwit-vm.
 *
 * Flow:   orders -> [backends] -> storage/share, storage/stamp, tap, cloud_seed
 * Thread: any; blocking, for a worker. Everything it needs is in the ask.
 *
 *   check   before a move comes in: is everything here? Nothing is opened for writing, no tap made
 *   start   the stamp is taken, disks that are to be made are made, all is opened
 *   take    after TOOK: the stamp is taken exactly from the source, then all is opened
 *
 * A stamp that somebody else has is BACKENDS_E_LOST: whoever it was taken for must not write.
 */
#ifndef GODWIT_AGENT_BACKENDS_H
#define GODWIT_AGENT_BACKENDS_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/limits.h"
#include "proto/vm.pb-c.h"
#include "storage/stamp.h"

struct fault;

enum { BACKENDS_FDS_MAX = DISKS_MAX + 1 + NIC_QUEUES_ALL_MAX };

enum { BACKENDS_E_LOST = 1 };

struct backends_ask {
    const Godwit__VmSpec *spec; /* borrowed, as the next two */
    const char *vm_id;
    const char *host;      /* this one's name */
    struct stamp expected; /* L as the order knows it */
    struct stamp wanted;   /* by generation, this host and its incarnation */
    /* check: disks that only the source has come with the move. Is there room for them, and, with
     * their sizes, make files for them: `fds` of the backends holds those, in order. */
    bool with_local_disks;
    const uint64_t *landing_bytes; /* of every disk of the machine; NULL: only look */
};

struct backends {
    uint64_t disk_bytes[DISKS_MAX + 1]; /* of the spec's disks, and the seed's */
    unsigned disk_count;
    int fds[BACKENDS_FDS_MAX]; /* disks in order, then each nic's queues */
    unsigned fd_count;
    struct stamp found; /* with BACKENDS_E_LOST: whose they are */
};

int backends_check(const struct backends_ask *ask, struct backends *ret_backends,
                   struct fault *fault);
int backends_start(const struct backends_ask *ask, struct backends *ret_backends,
                   struct fault *fault);
int backends_take(const struct backends_ask *ask, struct backends *ret_backends,
                  struct fault *fault);
void backends_close(struct backends *backends); /* zeroed ones too */

/* Of a VM whose local disks move with it: what landed for a move that did not come to its end; its
 * disks here, when it has left as `generation` (share_drop_disk, share_leave_disk). */
void backends_drop_landed(const Godwit__VmSpec *spec, const char *vm_id);
void backends_leave(const Godwit__VmSpec *spec, const char *vm_id, uint64_t generation);

/* A disk that nobody writes, to be read whole: as the next. */
int backends_open_disk(const Godwit__DiskSpec *disk, int *ret_fd, uint64_t *ret_bytes,
                       struct fault *fault);
/* The first disk, to be read for what it boots: through the cache, which is emptied first. */
int backends_open_boot(const Godwit__VmSpec *spec, int *ret_fd, struct fault *fault);

/* L of the VM; zeroed when it has none or needs none. */
int backends_read_stamp(const Godwit__VmSpec *spec, const char *vm_id, struct stamp *ret_stamp,
                        struct fault *fault);
/* L: from what this host holds as `generation` to `wanted`. BACKENDS_E_LOST: it does not hold it.
 */
int backends_restamp(const Godwit__VmSpec *spec, const char *vm_id, uint64_t generation,
                     const struct stamp *wanted, struct fault *fault);
/* Delete what was made for this VM, and its stamp. What cannot be deleted is told and left. */
int backends_remove(const Godwit__VmSpec *spec, const char *vm_id, struct fault *fault);

/* Each shared store of the spec once: write, read, wipe a word. */
int backends_write_word(const Godwit__VmSpec *spec, const char *word, struct fault *fault);
int backends_read_word(const Godwit__VmSpec *spec, const char *word, const char *host,
                       struct fault *fault);
void backends_wipe_word(const Godwit__VmSpec *spec, const char *word);

#endif

/* The far end of a replication: holds one whole checkpoint of a guest that runs elsewhere.
 *
 * Flow:   replicator -> link -> [replica] -> replica_core, replica_stage, replica_journal ->
 * agent/vm Thread: replica_start begins its own, on which the callbacks run; take and status from
 * any thread; new, start, free on the owner's.
 *
 * At any moment it is one checkpoint and what is arriving of the next. A link that breaks, a
 * segment that is damaged, doubled or out of turn costs what was arriving and the link. RAM lives
 * as long as this process; disks survive it (replica_journal).
 */
#ifndef GODWIT_MIGRATE_REPLICA_H
#define GODWIT_MIGRATE_REPLICA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "migrate/guest_file.h"
#include "proto/replica_frame.h"

struct fault;
struct guest;
struct guest_label;
struct region;
struct replica;
struct stream;

/* A source that says nothing for so long is given up: inside a segment, and between two of a checkpoint
 * (where a limit of bandwidth may hold it back). Between checkpoints it may be silent for ever: a host that
 * is gone shows by TCP, and replica_unlink ends any link. */
enum { REPLICA_SILENT_MS_MAX = 30000, REPLICA_SLOW_TIMES = 10 };

struct replica_disk {
    unsigned region_id; /* as the source numbers it */
    uint64_t bytes;
    int fd; /* borrowed, must outlive the replica; nobody else writes it */
};

struct replica_config {
    const char *who;        /* copied: the guest and its machine; the source must name the same */
    struct region *regions; /* of RAM, borrowed; empty. None: disks only */
    unsigned region_count;
    const struct replica_disk *disks; /* copied */
    unsigned disk_count;
    int journal_fd;          /* borrowed; with disks */
    uint64_t generation_min; /* older sources are refused */
    uint64_t silent_ms_max;  /* inside a segment; 0: REPLICA_SILENT_MS_MAX */

    /* Wait for the next link (its handshake is done): ERR_TIMEOUT is asked again, any other failure
     * ends the replica. */
    int (*accept_link)(void *data, uint64_t timeout_ms, struct stream **ret_stream,
                       struct fault *fault);
    /* Any thread: make a waiting accept_link return ERR_CANCELED, now and later. */
    void (*interrupt_accept)(void *data);
    /* A checkpoint is held. */
    void (*on_held)(void *data, const struct replica_id *id);
    /* Once, unless it was taken or freed: it can keep nothing more. What is held stays so. */
    void (*on_broken)(void *data, const struct fault *fault);
    void *data;
};

struct replica_status {
    struct replica_id held;         /* seq 0: none */
    uint64_t held_wall_ms;          /* when its guest stood still, by the source's clock */
    uint64_t held_ns;               /* when it was held, by ours */
    uint64_t sum;                   /* of the image that is held */
    uint64_t checkpoints, bytes_in; /* since the replica began */
    uint64_t bytes_kept;            /* of disks that were here and equal: not sent */
    bool is_linked, is_taken;
    bool is_broken; /* its disks are not certain: nothing more comes in, and who takes it has to mend
                       them first */
    bool is_deaf;   /* no link is accepted any more; what is held can be taken */
    uint64_t arriving_pages;
};

/* What a failover goes on from. */
struct replica_taken {
    struct replica_id id;
    uint8_t *state; /* the caller's: malloc'ed; NULL: disks only */
    size_t state_bytes;
    uint64_t stood_ns; /* since the checkpoint was held here: the guest's time stood still */
};

/* Files that get what is held: all borrowed, empty, the disks' of their sizes. */
struct replica_copy_config {
    struct guest *guest; /* of the replica's regions; NULL: disks only */
    const struct guest_label *label;
    int memory_fd;       /* becomes a guest's file (guest_file.h); -1: disks only */
    const int *disk_fds; /* one for each disk of the replica */
    unsigned disk_count;
    const bool *is_stopped; /* looked at between blocks; may be NULL */
};

struct replica_copied {
    struct replica_id id;  /* of the checkpoint that it is */
    uint64_t held_wall_ms; /* as replica_status has it */
    struct guest_file_counts memory;
    unsigned reflinks; /* disks that share their blocks with the replica's until either is written */
    uint64_t copied_bytes;    /* of the others */
    uint64_t put_aside_pages; /* were about to be written by a newer checkpoint */
};

/* Opens the journal, which puts a checkpoint that was committed into the disks, and reads disks
 * that it names, to know what they are. */
int replica_new(struct replica **ret_replica, const struct replica_config *config,
                struct fault *fault);
int replica_start(struct replica *replica, struct fault *fault);
struct replica *replica_free(struct replica *replica);

/* End the replication and give what is held, as `generation`, which is newer than any source's.
 * From then on memory and disks are the caller's, once it has freed the replica. ERR_STATE: nothing
 * whole is held, or it was taken before; ERR_IO: its disks cannot be made certain. Blocks while a checkpoint is being applied. */
int replica_take(struct replica *replica, uint64_t generation, struct replica_taken *ret_taken,
                 struct fault *fault);
/* Copy what is held now, memory and disks at one instant, while checkpoints go on becoming the image. Blocks
 * until all is durable; one at a time. ERR_STATE: nothing whole is held; ERR_CANCELED: it was stopped. Who takes
 * or frees the replica stops it before, and waits. */
int replica_make_copy(struct replica *replica, const struct replica_copy_config *config,
                      struct replica_copied *ret_copied, struct fault *fault);
void replica_status(struct replica *replica, struct replica_status *ret_status);
/* Any thread: end the link that there is; the next one is accepted. */
void replica_unlink(struct replica *replica);

/* The text that both ends must agree on; at most REPLICA_SHAPE_MAX bytes with its zero. Also the
 * source's. */
int replica_shape(const char *who, const struct region *regions, unsigned region_count,
                  const struct replica_disk *disks, unsigned disk_count,
                  char ret_shape[static REPLICA_SHAPE_MAX], struct fault *fault);

#endif

/* The near end of a replication: cuts checkpoints of a running guest and ships them, for ever.
 *
 * Flow:   agent/vm -> [replicator] -> replica_pace, replicator_core, page_codec -> link -> replica
 * Thread: replicator_start begins its own, on which all callbacks run but interrupt_open. status,
 *         tune, finish, hold and release from any thread. new, start, free on the owner's.
 *
 *      guest runs | stands still: state, dirty set copied aside | runs
 *                 '--- cut ----------------------------------'---- ship, HELD ---- next cut
 *
 * Large dirty sets are first sent while the guest runs. A link that is lost is opened again; what
 * was written meanwhile stays in the dirty log, what was under way is owed. The guest never waits
 * for link or replica.
 */
#ifndef GODWIT_MIGRATE_REPLICATOR_H
#define GODWIT_MIGRATE_REPLICATOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "proto/replica_frame.h"

struct guest;
struct replica_disk;
struct replicator;
struct replicator_status;
struct stream;

enum { REPLICATOR_COPY_BYTES_MAX = 256 << 20, REPLICATOR_SILENT_MS_MAX = 30000 };

struct replicator_config {
    struct guest
        *guest;         /* borrowed, must outlive the replicator; RAM's regions first, then disks */
    unsigned ram_count; /* so many regions are RAM; 0: disks only, and their guest's state stays */
    const struct replica_disk *disks; /* copied; their regions follow RAM's; fd is not used */
    unsigned disk_count;
    const char *who; /* copied; as the replica's */
    uint64_t generation;
    uint64_t rpo_ns;
    unsigned loss_permille;   /* 0: REPLICA_PACE_LOSS_PERMILLE */
    uint64_t bytes_per_s_max; /* 0: no limit */
    uint64_t copy_bytes_max;  /* 0: REPLICATOR_COPY_BYTES_MAX; a cut copies no more */

    /* Give a link whose handshake is done. Asked again while it fails, with growing pauses. */
    int (*open_link)(void *data, struct stream **ret_stream, struct fault *fault);
    /* Any thread: make a waiting open_link return ERR_CANCELED, now and later. */
    void (*interrupt_open)(void *data);
    /* A checkpoint is held, the link came or went, the alarm changed. */
    void (*on_change)(void *data, const struct replicator_status *status);
    /* Once, when it cannot go on: the guest ended itself, its log cannot be read, or (fault NULL)
     * the last checkpoint of replicator_finish is held and the guest stands still. */
    void (*on_ended)(void *data, const struct fault *fault);
    void *data;
};

struct replicator_status {
    struct replica_id held;             /* seq 0: none yet */
    uint64_t sum;                       /* of the image that is held */
    uint64_t rpo_ns;                    /* what the loss of this host would cost now */
    uint64_t rpo_goal_ns, rpo_worst_ns; /* just before the newest one was held */
    uint64_t pause_ns, ship_ns;         /* of the newest */
    uint64_t pause_all_ns;              /* since the protection began */
    uint64_t checkpoints, pages, bytes_out, links, missed_count;
    uint64_t owed_pages; /* that the replica lacks, as far as the last look at the log tells */
    bool is_linked, is_missed;
    bool is_finishing; /* a last checkpoint was asked for, and its time has not passed in vain */
    struct fault trouble; /* why there is no link, or no checkpoint; code 0: none */
};

int replicator_new(struct replicator **ret_replicator, const struct replicator_config *config,
                   struct fault *fault);
int replicator_start(struct replicator *replicator, struct fault *fault);
/* Ends the thread; the guest runs on, but after a finish that has ended it stands still. */
struct replicator *replicator_free(struct replicator *replicator);

/* The next checkpoint is the last: the guest stands still from it on (on_ended). If it is not held
 * within deadline_ms the guest goes on, and so does the replication: told as trouble. */
void replicator_finish(struct replicator *replicator, uint64_t deadline_ms);
void replicator_status(struct replicator *replicator, struct replicator_status *ret_status);
/* Another goal, another limit (0: none) from the next checkpoint on. */
void replicator_tune(struct replicator *replicator, uint64_t rpo_ns, uint64_t bytes_per_s_max);

/* Who wants to stop the guest or let it run, or change was_running, does so between these two: no
 * cut is made then. Waits for one that is under way. */
void replicator_hold(struct replicator *replicator);
void replicator_release(struct replicator *replicator);

#endif

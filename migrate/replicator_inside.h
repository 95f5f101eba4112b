/* What the files of the replicator share: its struct, and what they ask of each other.
 *
 * Flow:   replicator.h -> [replicator_inside] -> replicator, replicator_cut
 * Thread: the replicator's own, but for what a section of the struct says.
 *
 * Of each region there are three sets of pages:
 *
 *      pending   dirty in the log, or owed from before: to be in the next checkpoint
 *      cut       copied aside while the guest stood still: to be shipped now
 *      owed      cleared in the log since the checkpoint that is held: the replica may lack them
 *
 *   log --collect--> pending --(sent while it runs | copied)--> owed --HELD--> forgotten
 *                       ^---------------- link lost --------------'
 */
#ifndef GODWIT_MIGRATE_REPLICATOR_INSIDE_H
#define GODWIT_MIGRATE_REPLICATOR_INSIDE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bitmap.h"
#include "migrate/page_codec.h"
#include "migrate/page_digest.h"
#include "migrate/replica_core.h"
#include "migrate/replica_pace.h"
#include "migrate/replicator.h"
#include "proto/limits.h"
#include "proto/replica_frame.h"

struct pacer;
struct page_batch;
struct region;
struct stream;
struct watch;

enum {
    REPLICATOR_PARTS_MAX = REGIONS_MAX,
    REPLICATOR_COPY_BYTES_EASY = 16 << 20, /* copied in a few ms: no round before it */
};

struct replicator_part {
    struct region *region; /* borrowed */
    struct bitmap pending, cut, owed;
    struct page_digest digest; /* of what was sent last of each page */
    uint8_t *have; /* owned: digests of the blocks that the replica has of this disk, a source that owes
                      all asked for; zero: not known, or looked at. NULL: nothing is known */
    bool is_tracked;
};

struct replicator {
    /* set before start, read by all */
    struct replicator_config config;
    char shape[REPLICA_SHAPE_MAX];
    pthread_t thread;
    bool started;

    /* the replicator's thread */
    struct replicator_part parts[REPLICATOR_PARTS_MAX];
    unsigned count;
    struct replicator_core core;
    struct page_codec codec;
    struct pacer *pacer;
    struct stream *link; /* set and cleared under the lock: others interrupt it */
    struct watch *watch; /* of the link */
    uint8_t *aside;      /* copy_bytes_max of address space */
    uint64_t aside_pages, sum, running, pages;
    uint8_t *state;
    size_t state_bytes;
    bool is_whole;      /* the checkpoint under way names every page that is not zero */
    bool has_kept;      /* so the replica said that it had some of it */
    bool asks_not;      /* what it said did not come true */
    uint8_t *block;     /* owned: a copy of one */
    bool guest_is_held; /* by a last checkpoint */
    uint64_t stood_ns;  /* the guest, for the last cut, whatever came of it */
    uint64_t stop_ns, save_ns, copy_ns; /* of it: vCPUs and disks at rest; the machine saved; the rest */
    uint64_t cut_wall_ms; /* when it stood still, by this host's clock */
    bool in_cut;        /* where it failed, if it did */
    bool guest_failed;  /* what another link would not make better */

    pthread_mutex_t guest_lock; /* held while a cut stops the guest and lets it go; before `lock` */

    pthread_mutex_t lock; /* guards all below */
    pthread_cond_t changed;
    struct replica_pace pace;
    struct replicator_status status;
    uint64_t finish_until_ns; /* 0: nobody asked */
    bool stopping;
};

/* ---- replicator.c ---- */
void replicator_tell(struct replicator *replicator); /* on_change */
bool replicator_is_finishing(struct replicator *replicator);
/* Nobody waits for a last checkpoint any more, when its time has passed. */
void replicator_give_up_finish(struct replicator *replicator);

/* ---- replicator_cut.c ---- */
int replicator_send(struct replicator *replicator, enum replica_frame_type type, uint64_t seq,
                    const void *body, size_t count, struct fault *fault);
/* A segment of the replica that must be of this type, with a body of `size` bytes. */
int replicator_read(struct replicator *replicator, enum replica_frame_type type,
                    struct replica_frame *ret_frame, uint8_t *ret_body, size_t size,
                    struct fault *fault);
/* One checkpoint, from its first page to HELD. */
int replicator_ship_one(struct replicator *replicator, struct fault *fault);
void replicator_forget_owed(struct replicator *replicator);

/* ---- replicator_blocks.c ---- */
/* Of a whole checkpoint that begins: what has the replica of the disks? Without memory to ask nothing is
 * asked. */
int replicator_ask_blocks(struct replicator *replicator, struct fault *fault);
/* Take those pages of the batch out of it whose blocks the replica has as they are now, and tell it so. */
int replicator_keep_blocks(struct replicator *replicator, struct replicator_part *part,
                           struct page_batch *batch, struct fault *fault);
bool replicator_knows_blocks(const struct replicator *replicator); /* there is something to compare */
void replicator_forget_blocks(struct replicator *replicator);

#endif

/* One lane of the source: a thread that clears, copies, encodes and writes its blocks' pages.
 *
 * Flow:   page_scan -> handoff -> [lane_source] -> page_codec -> stream
 * Thread: its own; new, put and free by the move's thread; report runs on the lane's.
 *
 * A round ends with a fence that carries the digest of all pages of this lane and round; the target
 * answers it, so that a page that was not confirmed is never forgotten (INV-5). Of an unfinished
 * round the batches say how far the lane got.
 */
#ifndef GODWIT_MIGRATE_LANE_SOURCE_H
#define GODWIT_MIGRATE_LANE_SOURCE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "migrate/page_delta.h"
#include "migrate/page_tuner.h"

struct lane_source;
struct pacer;
struct page_batch;
struct page_digest;
struct progress;
struct region;
struct stream;

/* Inside the pause a thread spins this long for the next thing before it sleeps: what is awaited
 * comes sooner than a wake-up would, and where it does not, the core is needed by others: a thread
 * that only yields waits behind every busy one, a sleeper is woken before them. */
#define LANE_SPIN_NS UINT64_C(1000000)
/* How long the pause may be before its threads go back to normal. */
#define LANE_HOT_NS UINT64_C(100000000)

enum lane_report_type { LANE_REPORT_FENCE, LANE_REPORT_HOT, LANE_REPORT_LAST, LANE_REPORT_FAILED };

/* What one lane did in one round. LAST or FAILED is a lane's last report, and there always is one.
 */
struct lane_report {
    enum lane_report_type type;
    unsigned lane, round;
    uint64_t pages, zero_pages, raw_pages, lz4_pages, lz4_bytes, zstd_pages, zstd_bytes, wire_bytes;
    uint64_t patch_pages, patch_bytes, same_pages;
    uint64_t held_back_ns, round_trip_ns;
    uint64_t digest_sum; /* of all rounds: this lane's part of the digest over every page */
    uint64_t cpu_ns;     /* with LAST and FAILED */
    bool link_lost;      /* with FAILED: the connection broke, all else is well */
    struct fault fault;  /* with FAILED */
};

struct lane_source_config {
    unsigned lane;
    const struct region *regions; /* these all: borrowed, must outlive the lane */
    struct page_digest *digests;  /* one a region */
    struct page_delta *deltas;    /* one a region */
    unsigned region_count;
    struct pacer *pacer;
    struct progress *progress;
    enum page_tuner_policy compress;
    bool takes_zstd;              /* the target */
    enum page_delta_policy delta; /* OFF where the target takes no patches */
    bool may_spin;                /* on its stream and its queue, see hot */
    uint64_t batches_max;         /* that may wait at once */
    uint64_t digest_sum;          /* of the lane that was here before it */
    void (*report)(void *data, const struct lane_report *report);
    void *data;
};

/* Takes the stream when it returns 0. */
int lane_source_new(struct lane_source **ret_lane, const struct lane_source_config *config,
                    struct stream *stream, struct fault *fault);
/* Makes the thread end whatever it does, joins it, frees the stream. */
struct lane_source *lane_source_free(struct lane_source *lane);
/* Make it fail soon; free still has to follow. Any thread. */
void lane_source_interrupt(struct lane_source *lane);
/* Lend a batch until the lane has reported the fence behind it. */
void lane_source_put(struct lane_source *lane, struct page_batch *batch);

#endif

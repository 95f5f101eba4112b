/* One lane of the target: a thread that reads frames, judges them, places their pages.
 *
 * Flow:   stream -> [lane_target] -> page_frame, page_place -> guest RAM
 * Thread: its own; report runs on it.
 */
#ifndef GODWIT_MIGRATE_LANE_TARGET_H
#define GODWIT_MIGRATE_LANE_TARGET_H

#include <stdbool.h>
#include <stdint.h>

#include "migrate/lane_source.h"
#include "proto/page_frame.h"

struct lane_target;

/* How far a lane has come: what the source asks for when it comes anew, and what its next one goes
 * on from. A mark stands at the end of a block, where the source's batch ends too. */
struct lane_mark {
    unsigned round;
    uint64_t frames, running;        /* of the round, up to the mark */
    uint64_t sum, pages, zero_pages; /* of all rounds */
};

struct lane_target_config {
    unsigned lane;
    const struct region *regions; /* these all: borrowed, must outlive the lane */
    struct page_digest *digests;  /* one a region */
    unsigned region_count;
    const struct page_frame_plan *plan;
    const bool *frames_allowed; /* atomic; INV-4: prepared and not yet whole */
    bool may_spin;              /* on its stream, see hot */
    struct progress *progress;
    const struct lane_mark *before; /* of the lane that was here before it; NULL: none */
    void (*report)(void *data, const struct lane_report *report);
    void *data;
};

/* Takes the stream when it returns 0. */
int lane_target_new(struct lane_target **ret_lane, const struct lane_target_config *config,
                    struct stream *stream, struct fault *fault);
struct lane_target *lane_target_free(struct lane_target *lane);
/* When it has given its last report. */
void lane_target_mark(const struct lane_target *lane, struct lane_mark *ret_mark);
void lane_target_interrupt(struct lane_target *lane); /* any thread */

#endif

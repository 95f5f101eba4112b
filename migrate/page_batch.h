/* What a lane is asked to do next: the dirty pages of one 2 MiB block, or the end of a round.
 *
 * Flow:   page_scan -> [page_batch] -> handoff -> lane_source
 * Thread: passes with the handoff; the scan thread takes it back when the round is done.
 */
#ifndef GODWIT_MIGRATE_PAGE_BATCH_H
#define GODWIT_MIGRATE_PAGE_BATCH_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/limits.h"

enum { PAGE_BATCH_WORDS = BLOCK_PAGES / 64 };

enum page_batch_type {
    PAGE_BATCH_PAGES,
    PAGE_BATCH_FENCE,
    PAGE_BATCH_FENCE_HOT,  /* the pause is near: from now on spin instead of sleeping */
    PAGE_BATCH_FENCE_LAST, /* the lane's last */
};

struct page_batch {
    enum page_batch_type type;
    unsigned region;     /* index into the guest's regions */
    uint64_t first_page; /* of the block */
    uint64_t mask[PAGE_BATCH_WORDS];

    /* the lane's, while it has the batch: how far it got, should its link break */
    bool begun, done;
    uint64_t begun_ns;    /* when it cleared these pages */
    unsigned round;       /* of the lane; when done: */
    uint64_t frames_end;  /* frames of this round with the batch's last one */
    uint64_t running_end; /* the round's digest there */
};

#endif

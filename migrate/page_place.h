/* Puts the pages of judged frames where they belong.
 *
 * Flow:   stream -> lane_target -> [page_place] -> guest RAM, disk_region
 * Thread: one lane's; a page belongs to the lane of its block.
 *
 * Raw pages are read from the stream straight into guest RAM, a run at a time. Zero pages touch
 * memory only where something was placed before: all else is fresh and zero already.
 * A region that is written by a call (a disk) has its pages put together aside first: a store into its
 * mapping would be a fault a page, and the kernel would read or clear what is about to be overwritten.
 */
#ifndef GODWIT_MIGRATE_PAGE_PLACE_H
#define GODWIT_MIGRATE_PAGE_PLACE_H

#include <stdint.h>

#include "proto/page_frame.h"

struct fault;
struct page_digest;
struct region;
struct stream;
struct ZSTD_DCtx_s;

struct page_place {
    const struct region *regions; /* borrowed */
    struct page_digest *digests;  /* borrowed, one a region */
    unsigned region_count;
    uint8_t *staging; /* owned: body of a compressed frame; then its patches */
    uint8_t *group;   /* owned: a group whose pages are not neighbours */
    uint8_t *aside;   /* owned: the pages of a frame, entry by entry, of a region with a write of its own */
    struct ZSTD_DCtx_s *zstd; /* owned */

    uint64_t sum;     /* this lane's part of the digest over every page */
    uint64_t running; /* of this round, for the fence */
    uint64_t pages, zero_pages;
};

int page_place_init(struct page_place *place, const struct region *regions,
                    struct page_digest *digests, unsigned region_count, struct fault *fault);
void page_place_deinit(struct page_place *place);

/* Read the body of a frame that page_frame_get_entries accepted, and place it. */
int page_place_frame(struct page_place *place, struct page_frame *frame,
                     const struct page_frame_entry *entries, struct stream *stream,
                     struct fault *fault);

#endif

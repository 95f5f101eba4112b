/* One pass over a region's dirty pages, block by block.
 *
 * Flow:   region_collect -> bitmap -> [page_scan] -> page_batch -> handoff -> lane_source
 * Thread: scan (the move's own).
 */
#ifndef GODWIT_MIGRATE_PAGE_SCAN_H
#define GODWIT_MIGRATE_PAGE_SCAN_H

#include <stdbool.h>
#include <stdint.h>

#include "migrate/page_batch.h"

struct bitmap;

struct page_scan {
    const struct bitmap *dirty; /* borrowed, must not change during the pass */
    unsigned region;
    uint64_t next_page;
};

void page_scan_init(struct page_scan *scan, const struct bitmap *dirty, unsigned region);
/* Fill the next batch that has at least one page; false at the end. */
bool page_scan_next(struct page_scan *scan, struct page_batch *ret_batch);

/* The lane of a block: always the same one within a move, spread so that strides do not meet. */
unsigned page_scan_lane(unsigned region, uint64_t first_page, unsigned lanes);

#endif

/* Everything that must move is a region: pages that can be collected, cleared, read and written.
 *
 * Flow:   guest_memory, dirty_tracker -> [region] -> page_scan, lane
 * Thread: start, collect, populated, stop on the scan thread; clear and the bytes on lane threads.
 *
 * A table that the owner fills; RAM of a vm is region_ram.c in agent/vm's reach, a plain array in
 * the flow tests. Page numbers are flat, 0 .. pages-1.
 */
#ifndef GODWIT_MIGRATE_REGION_H
#define GODWIT_MIGRATE_REGION_H

#include <stdbool.h>
#include <stdint.h>

struct bitmap;
struct fault;
struct region;

struct region_ops {
    /* Begin to track. The first collect after it reports every page. */
    int (*track_start)(struct region *region, struct fault *fault);
    /* `goes_on`: the guest writes here again, so its writes must be fast again. */
    void (*track_stop)(struct region *region, bool goes_on);
    /* Add to `dirty` every page written and not cleared since. Clears nothing. */
    int (*collect)(struct region *region, struct bitmap *dirty, struct fault *fault);
    /* Clear the pages of the aligned 512-page block at first_page that are set in the mask. */
    int (*clear)(struct region *region, uint64_t first_page, const uint64_t mask[static 8],
                 struct fault *fault);
    /* Clear all pages that are set in `pages`, of the whole region: few calls, few interruptions.
     */
    int (*clear_many)(struct region *region, const struct bitmap *pages, struct fault *fault);
    /* Pages with memory behind them; all others are zero and are never touched. */
    int (*populated)(struct region *region, struct bitmap *ret_populated, struct fault *fault);
    /* Target: give pages memory now. Several threads at once, for different pages. */
    int (*populate)(struct region *region, uint64_t first_page, uint64_t pages,
                    struct fault *fault);
    /* Target: take their memory from pages, whatever it holds: the next touch finds none. NULL where
     * pages may not be left behind at a switchover (post-copy). */
    int (*discard)(struct region *region, uint64_t first_page, uint64_t pages, struct fault *fault);
    /* Target: what came for the pages of the aligned 512-page block at first_page that are set in the mask
     * lies there now. Whoever brought it is held in the call while it cannot be kept up with. NULL: nothing is
     * to be done. */
    void (*placed)(struct region *region, uint64_t first_page, const uint64_t mask[static 8]);
    /* Target: put these bytes into neighbouring pages; a failure is the owner's to remember and to tell. Several
     * threads at once, for different pages. NULL: they are put at base.
     * Pages of a region with it go whole: no patch is made for them. */
    void (*write)(struct region *region, uint64_t first_page, uint64_t pages, const uint8_t *bytes);
};

struct region {
    const struct region_ops *ops;
    void *owner;      /* borrowed, for the ops */
    const char *name; /* "ram" */
    unsigned id;
    uint64_t pages;
    uint8_t *base; /* page n is at base + n * PAGE_BYTES */
    /* Not 0: both ends have this very memory, so no page of it travels, the greeting compares the
     * numbers and the target refuses every frame. The ops then report no page as dirty. */
    uint64_t shared_id;
};

#endif

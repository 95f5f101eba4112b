/* What the target has of each page, as fingerprints of its lines: a page that is sent again goes as
 * a patch of the lines that changed.
 *
 * Flow:   lane_source's copy -> [page_delta] -> page_codec (patch, or whole)
 * Thread: a page belongs to the lane of its block; what is left of the room is shared and atomic.
 *
 * Copies of what was sent would give shorter patches (the bytes, not their lines) but hold few
 * pages, and the first time a page is sent again, which is most of the times, nothing is there to
 * compare with. Fingerprints may be taken in the bulk round already.
 */
#ifndef GODWIT_MIGRATE_PAGE_DELTA_H
#define GODWIT_MIGRATE_PAGE_DELTA_H

#include <stdbool.h>
#include <stdint.h>

#include "migrate/page_lines.h"

struct fault;
struct region;

/* Of one region. */
struct page_delta {
    struct page_lines_key key;
    uint64_t zero_lines[PAGE_LINES];
    uint64_t *lines; /* owned, mmap'ed: address space until it is written */
    uint64_t *known; /* owned: a bit a page */
    uint64_t pages;
    uint64_t *room; /* borrowed, atomic: pages that may still be remembered, of all regions */
};

enum page_delta_answer {
    PAGE_DELTA_WHOLE, /* send all of it */
    PAGE_DELTA_PATCH, /* these lines are enough */
    PAGE_DELTA_SAME,  /* the target has exactly this */
};

int page_delta_init(struct page_delta *delta, const struct region *region, uint64_t *room,
                    struct fault *fault);
void page_delta_deinit(struct page_delta *delta);

static inline bool page_delta_is_known(const struct page_delta *delta, uint64_t page)
{
    return (delta->known[page / 64] >> (page % 64)) & 1;
}

/* Compare with what the target has, and remember: the caller sends what the answer says.
 * `zero_there`: the target's page is zero. `bytes`: 64-byte aligned. */
enum page_delta_answer page_delta_step(struct page_delta *delta, uint64_t page,
                                       const uint8_t *bytes, bool zero_there, uint64_t *ret_lines);
/* The page goes as it is, or as zero: what was remembered of it no longer holds. */
void page_delta_forget(struct page_delta *delta, uint64_t page);

/* Is it worth a look? By lane: in the bulk round while the lane waits for the wire, later as long
 * as patches come of it. */
enum page_delta_policy { PAGE_DELTA_AUTO, PAGE_DELTA_OFF, PAGE_DELTA_ALWAYS };

enum {
    PAGE_DELTA_WINDOW_BYTES = 4 << 20, /* over which waiting is measured */
    PAGE_DELTA_SKIP_MAX = 512,         /* pages, after looks that were for nothing */
};

struct page_delta_pace {
    enum page_delta_policy policy;
    bool waits; /* a tenth of the time or more, for the wire */
    unsigned skip, skip_next;
    uint64_t bytes, begun_ns, begun_waited_ns;
};

/* `again`: the target has had a page here that was not zero. */
bool page_delta_pace_wants(struct page_delta_pace *pace, bool again);
/* What came of a look at a page that was known. */
void page_delta_pace_learn(struct page_delta_pace *pace, enum page_delta_answer answer);
/* So many bytes went out; waited_ns counts all waits so far. */
void page_delta_pace_step(struct page_delta_pace *pace, uint64_t now_ns, uint64_t bytes,
                          uint64_t waited_ns);

#endif

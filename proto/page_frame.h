/* One frame of guest pages as it crosses a lane: hand-laid, because it is 99 % of all bytes.
 *
 * Flow:   lane_source -> [page_frame] -> stream -> [page_frame] -> lane_target
 * Thread: any; pure.
 *
 * Little-endian:
 *      0  u32  magic "GWP1"
 *      4  u8   type
 *      5  u8   codec of the body (pages; 0 else)
 *      6  u16  entries (pages; 0 else)
 *      8  u32  region (pages; 0 else)
 *     12  u32  round, from 1
 *     16  u64  first page of the 2 MiB block (pages), or digest (fence, answer)
 *     24  u32  bytes of body behind the entries
 *     28  u32  check: low half of XXH3-64 over bytes 0..27 and the entries
 *     32  u32  per entry: bits 0-8 page in the block; bit 16 set: it has data, bit 17 set: it is a
 *              patch of what the target has; neither: it is zero
 *
 * The body begins with the data pages. As RAW they stand one after the other. As LZ4 or ZSTD there is first
 * one u32 a group of 16 data pages (the last may be smaller), the bytes that this group takes, then
 * the groups; one that takes as many bytes as its pages is stored as it is. Behind them stand the
 * patches, in the order of their entries: u64 which of the page's 64-byte lines are new, then those
 * lines. A patch may be laid twice: it says what is there, not how that differs.
 */
#ifndef GODWIT_PROTO_PAGE_FRAME_H
#define GODWIT_PROTO_PAGE_FRAME_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/limits.h"

struct fault;

enum { PAGE_FRAME_MAGIC = 0x31505747, PAGE_FRAME_GROUP_PAGES = 16 };
enum {
    PAGE_FRAME_GROUPS_MAX = PAGE_FRAME_PAGES_MAX / PAGE_FRAME_GROUP_PAGES,
    PAGE_FRAME_HEAD_MAX = PAGE_FRAME_HEADER_BYTES + PAGE_FRAME_PAGES_MAX * PAGE_ENTRY_BYTES,
    PAGE_PATCH_BYTES_MIN = 8 + PAGE_LINE_BYTES,
    PAGE_PATCH_BYTES_MAX = 8 + PAGE_PATCH_LINES_MAX * PAGE_LINE_BYTES,
};

/* Wire numbers: append only. */
enum page_frame_type {
    PAGE_FRAME_PAGES = 1,
    PAGE_FRAME_FENCE = 2,      /* the round's end on this lane; answered */
    PAGE_FRAME_FENCE_HOT = 3,  /* as FENCE, and the next round is the pause's: do not sleep */
    PAGE_FRAME_FENCE_LAST = 4, /* the last frame of the lane; not answered */
    PAGE_FRAME_ANSWER = 5,     /* target -> source: this fence was reached with this digest */
    PAGE_FRAME_ASK = 6,        /* target -> source, post-copy: first_page is waited for */
};
enum page_frame_codec {
    PAGE_FRAME_NONE = 0,
    PAGE_FRAME_RAW = 1,
    PAGE_FRAME_LZ4 = 2,
    PAGE_FRAME_ZSTD = 3, /* only to a target that says so */
};

struct page_frame {
    enum page_frame_type type;
    enum page_frame_codec codec;
    unsigned count; /* of entries */
    /* known once the entries are: of those, with data, and patches with the bytes they take (where
     * they are packed only once the sizes are) */
    unsigned data_count, patch_count;
    uint32_t patch_bytes;
    uint32_t region, round, body_bytes;
    uint64_t first_page; /* pages */
    uint64_t digest;     /* fences and answers */
};

struct page_frame_entry {
    uint16_t page;           /* in the block */
    bool has_data, is_patch; /* never both; neither: a zero page */
};

/* What a peer's frame is judged by: the regions of the accepted plan. */
struct page_frame_plan {
    struct {
        uint32_t id;
        uint64_t pages;
    } regions[REGIONS_MAX];
    unsigned region_count;
};

/* Write header and entries to ret_bytes; returns their length. */
unsigned page_frame_put(const struct page_frame *frame, const struct page_frame_entry *entries,
                        uint8_t ret_bytes[static PAGE_FRAME_HEAD_MAX]);

/* Judge a header: after it, read frame->count * PAGE_ENTRY_BYTES and judge those too. */
int page_frame_get(const uint8_t bytes[static PAGE_FRAME_HEADER_BYTES],
                   struct page_frame *ret_frame, struct fault *fault);
/* Judge the entries and the whole frame against the plan (INV-4): nothing of the body may be read
 * or placed before. Sets what is known of data and patches. `bytes` are the header and the entries
 * behind it. */
int page_frame_get_entries(const struct page_frame_plan *plan, const uint8_t *bytes,
                           struct page_frame *frame,
                           struct page_frame_entry ret_entries[static PAGE_FRAME_PAGES_MAX],
                           struct fault *fault);

static inline unsigned page_frame_groups(unsigned data_count)
{
    return (data_count + PAGE_FRAME_GROUP_PAGES - 1) / PAGE_FRAME_GROUP_PAGES;
}

static inline unsigned page_frame_group_pages(unsigned data_count, unsigned group)
{
    unsigned left = data_count - group * PAGE_FRAME_GROUP_PAGES;
    return left < PAGE_FRAME_GROUP_PAGES ? left : PAGE_FRAME_GROUP_PAGES;
}

void page_frame_put_sizes(const uint32_t *sizes, unsigned groups, uint8_t *ret_bytes);
/* Judge the group sizes at the body's start: each at most its pages, together the whole body but
 * for the patches. Sets frame->patch_bytes. */
int page_frame_get_sizes(struct page_frame *frame, const uint8_t *bytes,
                         uint32_t ret_sizes[static PAGE_FRAME_GROUPS_MAX], struct fault *fault);

/* Lay the lines of `page` that are set in `lines` as a patch; returns its length. */
unsigned page_frame_put_patch(const uint8_t *page, uint64_t lines, uint8_t *ret_bytes);
/* Judge all patches of a frame: frame->patch_count of them in exactly frame->patch_bytes. */
int page_frame_get_patches(const struct page_frame *frame, const uint8_t *bytes,
                           struct fault *fault);
/* Lay one judged patch over its page; returns its length. */
unsigned page_frame_lay_patch(const uint8_t *bytes, uint8_t *page);

#endif

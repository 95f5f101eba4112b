#include "proto/page_frame.h"

#include <assert.h>
#include <xxhash.h>

#include "base/err.h"

enum {
    AT_MAGIC = 0,
    AT_TYPE = 4,
    AT_CODEC = 5,
    AT_COUNT = 6,
    AT_REGION = 8,
    AT_ROUND = 12,
    AT_FIRST_PAGE = 16,
    AT_BODY_BYTES = 24,
    AT_CHECK = 28,
    ENTRY_PAGE_MASK = BLOCK_PAGES - 1,
    ENTRY_DATA = 1 << 16,
    ENTRY_PATCH = 1 << 17,
};

static_assert(AT_CHECK + 4 == PAGE_FRAME_HEADER_BYTES, "the header ends with its check");
static_assert(PAGE_FRAME_GROUPS_MAX * 4 + PAGE_FRAME_PAGES_MAX * PAGE_BYTES <= PAGE_FRAME_BODY_MAX,
              "a full page frame must fit even when nothing compresses");

static_assert((int)PAGE_PATCH_BYTES_MAX < (int)PAGE_BYTES, "a patch is smaller than its page");

static uint32_t head_check(const uint8_t *bytes, unsigned count)
{
    XXH64_hash_t header = XXH3_64bits(bytes, AT_CHECK);
    if (count == 0)
        return (uint32_t)header;
    return (uint32_t)XXH3_64bits_withSeed(bytes + PAGE_FRAME_HEADER_BYTES,
                                          (size_t)count * PAGE_ENTRY_BYTES, header);
}

unsigned page_frame_put(const struct page_frame *frame, const struct page_frame_entry *entries,
                        uint8_t ret_bytes[static PAGE_FRAME_HEAD_MAX])
{
    assert(frame->count <= PAGE_FRAME_PAGES_MAX);
    assert(frame->body_bytes <= PAGE_FRAME_BODY_MAX);

    bool pages = frame->type == PAGE_FRAME_PAGES || frame->type == PAGE_FRAME_ASK;
    bytes_put_u32(ret_bytes + AT_MAGIC, PAGE_FRAME_MAGIC);
    ret_bytes[AT_TYPE] = (uint8_t)frame->type;
    ret_bytes[AT_CODEC] = (uint8_t)frame->codec;
    bytes_put_u16(ret_bytes + AT_COUNT, (uint16_t)frame->count);
    bytes_put_u32(ret_bytes + AT_REGION, frame->region);
    bytes_put_u32(ret_bytes + AT_ROUND, frame->round);
    bytes_put_u64(ret_bytes + AT_FIRST_PAGE, pages ? frame->first_page : frame->digest);
    bytes_put_u32(ret_bytes + AT_BODY_BYTES, frame->body_bytes);
    for (unsigned i = 0; i < frame->count; i++) {
        assert(entries[i].page < BLOCK_PAGES);
        assert(!entries[i].has_data || !entries[i].is_patch);
        bytes_put_u32(ret_bytes + PAGE_FRAME_HEADER_BYTES + (size_t)i * PAGE_ENTRY_BYTES,
                      entries[i].page | (entries[i].has_data ? ENTRY_DATA : 0u) |
                          (entries[i].is_patch ? ENTRY_PATCH : 0u));
    }
    bytes_put_u32(ret_bytes + AT_CHECK, head_check(ret_bytes, frame->count));
    return PAGE_FRAME_HEADER_BYTES + frame->count * PAGE_ENTRY_BYTES;
}

static int get_pages(const struct page_frame *frame, struct fault *fault)
{
    if (frame->count < 1 || frame->count > PAGE_FRAME_PAGES_MAX)
        return fault_set(fault, ERR_CORRUPT, "page frame: %u entries, 1 to %d are allowed",
                         frame->count, PAGE_FRAME_PAGES_MAX);
    if (frame->codec == PAGE_FRAME_NONE)
        return fault_set(fault, ERR_CORRUPT, "page frame: codec %u is unknown",
                         (unsigned)frame->codec);
    if (frame->body_bytes > PAGE_FRAME_BODY_MAX)
        return fault_set(fault, ERR_CORRUPT, "page frame: a body of %u bytes, at most %d may be",
                         frame->body_bytes, PAGE_FRAME_BODY_MAX);
    return 0;
}

static int get_fence(const uint8_t *bytes, const struct page_frame *frame, struct fault *fault)
{
    bool names_page = frame->type == PAGE_FRAME_ASK;
    if (frame->count || frame->codec || (frame->region && !names_page) || frame->body_bytes)
        return fault_set(fault, ERR_CORRUPT, "page frame: a fence that carries pages");
    if (bytes_get_u32(bytes + AT_CHECK) != head_check(bytes, 0))
        return fault_set(fault, ERR_CORRUPT, "page frame: a fence was changed on the way");
    return 0;
}

int page_frame_get(const uint8_t bytes[static PAGE_FRAME_HEADER_BYTES],
                   struct page_frame *ret_frame, struct fault *fault)
{
    if (bytes_get_u32(bytes + AT_MAGIC) != PAGE_FRAME_MAGIC)
        return fault_set(fault, ERR_CORRUPT, "page frame: begins with %#x, not with its mark",
                         bytes_get_u32(bytes + AT_MAGIC));

    unsigned type = bytes[AT_TYPE];
    if (type < PAGE_FRAME_PAGES || type > PAGE_FRAME_ASK)
        return fault_set(fault, ERR_CORRUPT, "page frame: type %u is unknown", type);
    unsigned codec = bytes[AT_CODEC];
    if (codec > PAGE_FRAME_ZSTD)
        return fault_set(fault, ERR_CORRUPT, "page frame: codec %u is unknown", codec);

    struct page_frame frame = {
        .type = (enum page_frame_type)type,
        .codec = (enum page_frame_codec)codec,
        .count = bytes_get_u16(bytes + AT_COUNT),
        .region = bytes_get_u32(bytes + AT_REGION),
        .round = bytes_get_u32(bytes + AT_ROUND),
        .body_bytes = bytes_get_u32(bytes + AT_BODY_BYTES),
    };
    int r;
    if (frame.type == PAGE_FRAME_PAGES) {
        frame.first_page = bytes_get_u64(bytes + AT_FIRST_PAGE);
        r = get_pages(&frame, fault);
    } else {
        if (frame.type == PAGE_FRAME_ASK)
            frame.first_page = bytes_get_u64(bytes + AT_FIRST_PAGE);
        else
            frame.digest = bytes_get_u64(bytes + AT_FIRST_PAGE);
        r = get_fence(bytes, &frame, fault);
    }
    if (r < 0)
        return r;
    *ret_frame = frame;
    return 0;
}

static int plan_pages(const struct page_frame_plan *plan, uint32_t region, uint64_t *ret_pages)
{
    for (unsigned i = 0; i < plan->region_count; i++) {
        if (plan->regions[i].id == region) {
            *ret_pages = plan->regions[i].pages;
            return 0;
        }
    }
    return ERR_NOT_FOUND;
}

static bool patches_fit(const struct page_frame *frame, uint32_t bytes)
{
    return bytes >= frame->patch_count * PAGE_PATCH_BYTES_MIN &&
           bytes <= frame->patch_count * PAGE_PATCH_BYTES_MAX;
}

static int judge_body(struct page_frame *frame, struct fault *fault)
{
    uint32_t raw = frame->data_count * PAGE_BYTES;
    uint32_t sizes = page_frame_groups(frame->data_count) * 4;

    if (frame->codec == PAGE_FRAME_RAW) {
        if (frame->body_bytes < raw || !patches_fit(frame, frame->body_bytes - raw))
            return fault_set(fault, ERR_CORRUPT,
                             "page frame: %u raw pages and %u patches in a body of %u bytes",
                             frame->data_count, frame->patch_count, frame->body_bytes);
        frame->patch_bytes = frame->body_bytes - raw;
    }
    if (frame->codec != PAGE_FRAME_RAW &&
        (frame->data_count == 0 || frame->body_bytes <= sizes ||
         frame->body_bytes > sizes + raw + frame->patch_count * PAGE_PATCH_BYTES_MAX))
        return fault_set(fault, ERR_CORRUPT,
                         "page frame: %u compressed pages in a body of %u bytes", frame->data_count,
                         frame->body_bytes);
    return 0;
}

int page_frame_get_entries(const struct page_frame_plan *plan, const uint8_t *bytes,
                           struct page_frame *frame,
                           struct page_frame_entry ret_entries[static PAGE_FRAME_PAGES_MAX],
                           struct fault *fault)
{
    assert(frame->type == PAGE_FRAME_PAGES && frame->count <= PAGE_FRAME_PAGES_MAX);

    if (bytes_get_u32(bytes + AT_CHECK) != head_check(bytes, frame->count))
        return fault_set(fault, ERR_CORRUPT, "page frame: its head was changed on the way");

    uint64_t pages = 0;
    if (plan_pages(plan, frame->region, &pages) < 0)
        return fault_set(fault, ERR_CORRUPT, "page frame: region %u is not in the plan",
                         frame->region);
    if (frame->first_page % BLOCK_PAGES || frame->first_page >= pages)
        return fault_set(fault, ERR_CORRUPT, "page frame: block at page %llu of a region of %llu",
                         (unsigned long long)frame->first_page, (unsigned long long)pages);

    struct page_frame_entry entries[PAGE_FRAME_PAGES_MAX];
    unsigned data_count = 0, patch_count = 0;
    for (unsigned i = 0; i < frame->count; i++) {
        uint32_t word =
            bytes_get_u32(bytes + PAGE_FRAME_HEADER_BYTES + (size_t)i * PAGE_ENTRY_BYTES);
        bool has_data = (word & ENTRY_DATA) != 0, is_patch = (word & ENTRY_PATCH) != 0;
        if (word & ~(uint32_t)(ENTRY_PAGE_MASK | ENTRY_DATA | ENTRY_PATCH) ||
            (has_data && is_patch))
            return fault_set(fault, ERR_CORRUPT, "page frame: entry %u is %#x", i, word);
        uint16_t page = (uint16_t)(word & ENTRY_PAGE_MASK);
        if (i > 0 && page <= entries[i - 1].page)
            return fault_set(fault, ERR_CORRUPT, "page frame: entries out of order at %u", i);
        if (!range_fits(page, 1, pages - frame->first_page))
            return fault_set(fault, ERR_CORRUPT, "page frame leaves region %u at page %llu",
                             frame->region, (unsigned long long)(frame->first_page + page));
        entries[i] = (struct page_frame_entry){page, has_data, is_patch};
        data_count += has_data;
        patch_count += is_patch;
    }

    struct page_frame judged = *frame;
    judged.data_count = data_count;
    judged.patch_count = patch_count;
    int r = judge_body(&judged, fault);
    if (r < 0)
        return r;

    *frame = judged;
    memcpy(ret_entries, entries, frame->count * sizeof entries[0]);
    return 0;
}

void page_frame_put_sizes(const uint32_t *sizes, unsigned groups, uint8_t *ret_bytes)
{
    for (unsigned i = 0; i < groups; i++)
        bytes_put_u32(ret_bytes + (size_t)i * 4, sizes[i]);
}

int page_frame_get_sizes(struct page_frame *frame, const uint8_t *bytes,
                         uint32_t ret_sizes[static PAGE_FRAME_GROUPS_MAX], struct fault *fault)
{
    assert(frame->codec == PAGE_FRAME_LZ4 || frame->codec == PAGE_FRAME_ZSTD);
    unsigned groups = page_frame_groups(frame->data_count);
    assert(groups >= 1 && groups <= PAGE_FRAME_GROUPS_MAX && frame->body_bytes > groups * 4);

    uint32_t sizes[PAGE_FRAME_GROUPS_MAX];
    uint32_t left = frame->body_bytes - groups * 4;
    for (unsigned i = 0; i < groups; i++) {
        sizes[i] = bytes_get_u32(bytes + (size_t)i * 4);
        uint32_t raw = page_frame_group_pages(frame->data_count, i) * PAGE_BYTES;
        if (sizes[i] == 0 || sizes[i] > raw || sizes[i] > left)
            return fault_set(fault, ERR_CORRUPT, "page frame: group %u takes %u bytes of %u", i,
                             sizes[i], left);
        left -= sizes[i];
    }
    if (!patches_fit(frame, left))
        return fault_set(fault, ERR_CORRUPT, "page frame: %u bytes behind the last group", left);

    frame->patch_bytes = left;
    memcpy(ret_sizes, sizes, groups * sizeof sizes[0]);
    return 0;
}

unsigned page_frame_put_patch(const uint8_t *page, uint64_t lines, uint8_t *ret_bytes)
{
    assert(lines && __builtin_popcountll(lines) <= PAGE_PATCH_LINES_MAX);
    bytes_put_u64(ret_bytes, lines);
    uint8_t *at = ret_bytes + 8;
    for (uint64_t left = lines; left; left &= left - 1, at += PAGE_LINE_BYTES)
        memcpy(at, page + (size_t)__builtin_ctzll(left) * PAGE_LINE_BYTES, PAGE_LINE_BYTES);
    return (unsigned)(at - ret_bytes);
}

int page_frame_get_patches(const struct page_frame *frame, const uint8_t *bytes,
                           struct fault *fault)
{
    uint32_t left = frame->patch_bytes;
    for (unsigned i = 0; i < frame->patch_count; i++) {
        uint64_t lines = left >= PAGE_PATCH_BYTES_MIN ? bytes_get_u64(bytes) : 0;
        unsigned count = (unsigned)__builtin_popcountll(lines);
        uint32_t take = 8 + count * PAGE_LINE_BYTES;
        if (count == 0 || count > PAGE_PATCH_LINES_MAX || take > left)
            return fault_set(fault, ERR_CORRUPT, "page frame: patch %u has %u lines in %u bytes", i,
                             count, left);
        bytes += take;
        left -= take;
    }
    if (left)
        return fault_set(fault, ERR_CORRUPT, "page frame: %u bytes behind the last patch", left);
    return 0;
}

unsigned page_frame_lay_patch(const uint8_t *bytes, uint8_t *page)
{
    uint64_t lines = bytes_get_u64(bytes);
    const uint8_t *at = bytes + 8;
    for (uint64_t left = lines; left; left &= left - 1, at += PAGE_LINE_BYTES)
        memcpy(page + (size_t)__builtin_ctzll(left) * PAGE_LINE_BYTES, at, PAGE_LINE_BYTES);
    return (unsigned)(at - bytes);
}

/* A lane's bytes as a hostile source would send them: judged, placed nowhere but inside. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include <zstd.h>

#include "base/bytes.h"
#include "base/err.h"
#include "migrate/page_codec.h"
#include "proto/page_frame.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count);

/* An attacker knows how to make a check; chance does not. Half of the inputs get a right one. */
static void seal(uint8_t *bytes, size_t count)
{
    if (count < PAGE_FRAME_HEADER_BYTES || bytes[28] % 2)
        return;
    size_t entries = (size_t)bytes_get_u16(bytes + 6) * PAGE_ENTRY_BYTES;
    XXH64_hash_t check = XXH3_64bits(bytes, 28);
    if (entries && entries <= count - PAGE_FRAME_HEADER_BYTES)
        check = XXH3_64bits_withSeed(bytes + PAGE_FRAME_HEADER_BYTES, entries, check);
    bytes_put_u32(bytes + 28, (uint32_t)check);
}

/* What was judged must lie within a page, and take the bytes it said. The input is copied to memory
 * of exactly its size: reading beyond shows. */
static void lay_patches(const struct page_frame *frame, const uint8_t *bytes)
{
    static uint8_t page[PAGE_BYTES];
    struct fault fault;
    uint8_t *copy = malloc(frame->patch_bytes ? frame->patch_bytes : 1);
    if (!copy)
        return;
    memcpy(copy, bytes, frame->patch_bytes);
    if (page_frame_get_patches(frame, copy, &fault) == 0) {
        size_t at = 0;
        for (unsigned i = 0; i < frame->patch_count; i++)
            at += page_frame_lay_patch(copy + at, page);
        if (at != frame->patch_bytes)
            __builtin_trap();
    }
    free(copy);
}

/* As post-copy undoes it: from memory of exactly the body's size, to memory of exactly its pages'. */
static void decode_pages(struct page_frame frame, ZSTD_DCtx *zstd, const uint8_t *body)
{
    struct fault fault;
    uint8_t *copy = malloc(frame.body_bytes), *pages = malloc((size_t)frame.data_count * PAGE_BYTES);
    if (copy && pages) {
        memcpy(copy, body, frame.body_bytes);
        (void)page_codec_decode_pages(&frame, zstd, copy, pages, &fault);
    }
    free(copy);
    free(pages);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    static const struct page_frame_plan plan = {.regions = {{.id = 1, .pages = 1000}},
                                                .region_count = 1};
    static uint8_t raw[PAGE_FRAME_GROUP_PAGES * PAGE_BYTES];
    static uint8_t sealed[PAGE_FRAME_HEAD_MAX + PAGE_FRAME_BODY_MAX];
    static ZSTD_DCtx *zstd;
    struct page_frame frame;
    struct page_frame_entry entries[PAGE_FRAME_PAGES_MAX];
    struct fault fault;

    if (!zstd && !(zstd = ZSTD_createDCtx()))
        return 0;
    if (count > sizeof sealed)
        count = sizeof sealed;
    memcpy(sealed, bytes, count);
    bytes = sealed;
    seal(sealed, count);
    if (count < PAGE_FRAME_HEADER_BYTES || page_frame_get(bytes, &frame, &fault) < 0 ||
        frame.type != PAGE_FRAME_PAGES)
        return 0;
    size_t head = PAGE_FRAME_HEADER_BYTES + (size_t)frame.count * PAGE_ENTRY_BYTES;
    if (count < head || page_frame_get_entries(&plan, bytes, &frame, entries, &fault) < 0)
        return 0;
    for (unsigned i = 0; i < frame.count; i++) {
        if (!range_fits(frame.first_page + entries[i].page, 1, 1000))
            __builtin_trap();
    }
    if (count - head < frame.body_bytes)
        return 0;
    uint32_t sizes[PAGE_FRAME_GROUPS_MAX];
    if (frame.codec == PAGE_FRAME_RAW) {
        lay_patches(&frame, bytes + head + (size_t)frame.data_count * PAGE_BYTES);
        return 0;
    }
    if (frame.patch_count == 0)
        decode_pages(frame, zstd, bytes + head);
    if (page_frame_get_sizes(&frame, bytes + head, sizes, &fault) < 0)
        return 0;
    const uint8_t *at = bytes + head + (size_t)page_frame_groups(frame.data_count) * 4;
    for (unsigned i = 0; i < page_frame_groups(frame.data_count); i++) {
        (void)page_codec_decode_group(
            frame.codec, zstd, at, sizes[i], raw, page_frame_group_pages(frame.data_count, i) * PAGE_BYTES, &fault);
        at += sizes[i];
    }
    if (at + frame.patch_bytes != bytes + head + frame.body_bytes)
        __builtin_trap();
    lay_patches(&frame, at);
    return 0;
}

/* A lane's bytes as a hostile source would send them: judged, placed nowhere but inside. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"
#include "migrate/page_codec.h"
#include "proto/page_frame.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    static const struct page_frame_plan plan = {.regions = {{.id = 1, .pages = 1000}},
                                                .region_count = 1};
    static uint8_t raw[PAGE_FRAME_GROUP_PAGES * PAGE_BYTES];
    struct page_frame frame;
    struct page_frame_entry entries[PAGE_FRAME_PAGES_MAX];
    struct fault fault;

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
    uint32_t sizes[PAGE_FRAME_GROUPS_MAX];
    if (frame.codec != PAGE_FRAME_LZ4 || count - head < frame.body_bytes ||
        page_frame_get_sizes(&frame, bytes + head, sizes, &fault) < 0)
        return 0;
    const uint8_t *at = bytes + head + (size_t)page_frame_groups(frame.data_count) * 4;
    for (unsigned i = 0; i < page_frame_groups(frame.data_count); i++) {
        (void)page_codec_decode_group(
            at, sizes[i], raw, page_frame_group_pages(frame.data_count, i) * PAGE_BYTES, &fault);
        at += sizes[i];
    }
    return 0;
}

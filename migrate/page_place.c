#include "migrate/page_place.h"

#include <assert.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "base/err.h"
#include "migrate/page_codec.h"
#include "migrate/page_digest.h"
#include "migrate/region.h"
#include "net/stream.h"

static_assert(PAGE_FRAME_PAGES_MAX <= 64, "a frame's entries are bits of a word");

enum {
    GROUP_BYTES = PAGE_FRAME_GROUP_PAGES * PAGE_BYTES,
    ASIDE_BYTES = PAGE_FRAME_PAGES_MAX * PAGE_BYTES,
};

int page_place_init(struct page_place *place, const struct region *regions,
                    struct page_digest *digests, unsigned region_count, struct fault *fault)
{
    *place =
        (struct page_place){.regions = regions, .digests = digests, .region_count = region_count};
    place->staging = malloc(PAGE_FRAME_BODY_MAX);
    place->group = malloc(GROUP_BYTES);
    place->aside = malloc(ASIDE_BYTES); /* touched only where a region needs it */
    place->zstd = ZSTD_createDCtx();
    if (!place->staging || !place->group || !place->aside || !place->zstd) {
        page_place_deinit(place);
        return fault_set(fault, ERR_NOMEM, "no memory for a lane's frames");
    }
    return 0;
}

void page_place_deinit(struct page_place *place)
{
    (void)ZSTD_freeDCtx(place->zstd);
    place->zstd = NULL;
    free(place->aside);
    free(place->group);
    free(place->staging);
    place->aside = place->group = place->staging = NULL;
}

static unsigned find_region(const struct page_place *place, uint32_t id)
{
    unsigned i = 0;
    while (i < place->region_count && place->regions[i].id != id)
        i++;
    assert(i < place->region_count); /* page_frame_get_entries judged it */
    return i;
}

static bool is_written(const struct region *region)
{
    return region->ops && region->ops->write; /* a replica's disks are plain memory */
}

/* Where the entry's bytes are put together. */
static uint8_t *page_at(const struct page_place *place, const struct region *region,
                        const struct page_frame *frame, const struct page_frame_entry *entries,
                        unsigned i)
{
    return is_written(region) ? place->aside + (size_t)i * PAGE_BYTES
                              : region->base + (frame->first_page + entries[i].page) * PAGE_BYTES;
}

/* The number of neighbours from entry `first` on that all have data. */
static unsigned run_length(const struct page_frame_entry *entries, unsigned first, unsigned count)
{
    unsigned run = 1;
    while (first + run < count && entries[first + run].has_data &&
           entries[first + run].page == entries[first].page + run)
        run++;
    return run;
}

/* Lay the patches over the pages that lie here already. */
static int place_patches(struct page_place *place, const struct region *region,
                         const struct page_frame *frame, const struct page_frame_entry *entries,
                         const uint8_t *patches, struct fault *fault)
{
    int r = page_frame_get_patches(frame, patches, fault);
    if (r < 0)
        return r;
    for (unsigned i = 0; i < frame->count; i++) {
        if (!entries[i].is_patch)
            continue;
        uint8_t *page = page_at(place, region, frame, entries, i);
        if (is_written(region))
            memcpy(page, region->base + (frame->first_page + entries[i].page) * PAGE_BYTES,
                   PAGE_BYTES);
        patches += page_frame_lay_patch(patches, page);
    }
    return 0;
}

static int place_raw(struct page_place *place, const struct region *region,
                     const struct page_frame *frame, const struct page_frame_entry *entries,
                     struct stream *stream, struct fault *fault)
{
    for (unsigned i = 0; i < frame->count;) {
        if (!entries[i].has_data) {
            i++;
            continue;
        }
        unsigned run = run_length(entries, i, frame->count);
        int r = stream_read(stream, page_at(place, region, frame, entries, i),
                            (size_t)run * PAGE_BYTES, fault);
        if (r < 0)
            return r;
        i += run;
    }
    if (frame->patch_count == 0)
        return 0;
    int r = stream_read(stream, place->staging, frame->patch_bytes, fault);
    if (r < 0)
        return r;
    return place_patches(place, region, frame, entries, place->staging, fault);
}

static int place_group(struct page_place *place, const struct region *region,
                       const struct page_frame *frame, const struct page_frame_entry *entries,
                       const unsigned *data, unsigned pages, const uint8_t *packed,
                       uint32_t packed_bytes, struct fault *fault)
{
    uint32_t raw_bytes = pages * PAGE_BYTES;
    unsigned last = data[pages - 1];
    /* Neighbours both in the frame and in the region. */
    if (last - data[0] == pages - 1 && entries[last].page - entries[data[0]].page == (int)pages - 1)
        return page_codec_decode_group(frame->codec, place->zstd, packed, packed_bytes,
                                       page_at(place, region, frame, entries, data[0]), raw_bytes,
                                       fault);

    int r = page_codec_decode_group(frame->codec, place->zstd, packed, packed_bytes, place->group,
                                    raw_bytes, fault);
    if (r < 0)
        return r;
    for (unsigned i = 0; i < pages; i++)
        memcpy(page_at(place, region, frame, entries, data[i]),
               place->group + (size_t)i * PAGE_BYTES, PAGE_BYTES);
    return 0;
}

static int place_packed(struct page_place *place, const struct region *region,
                     struct page_frame *frame, const struct page_frame_entry *entries,
                     struct stream *stream, struct fault *fault)
{
    int r = stream_read(stream, place->staging, frame->body_bytes, fault);
    if (r < 0)
        return r;
    uint32_t sizes[PAGE_FRAME_GROUPS_MAX];
    r = page_frame_get_sizes(frame, place->staging, sizes, fault);
    if (r < 0)
        return r;

    unsigned data[PAGE_FRAME_PAGES_MAX], data_count = 0;
    for (unsigned i = 0; i < frame->count; i++) {
        if (entries[i].has_data)
            data[data_count++] = i;
    }
    assert(data_count == frame->data_count);

    unsigned groups = page_frame_groups(data_count);
    const uint8_t *at = place->staging + (size_t)groups * 4;
    for (unsigned i = 0; i < groups; i++) {
        r = place_group(place, region, frame, entries, data + (size_t)i * PAGE_FRAME_GROUP_PAGES,
                        page_frame_group_pages(data_count, i), at, sizes[i], fault);
        if (r < 0)
            return r;
        at += sizes[i];
    }
    return frame->patch_count ? place_patches(place, region, frame, entries, at, fault) : 0;
}

/* The stream ended inside the frame: its pages are the old ones, the new ones or torn. Whatever
 * comes for them next has to be placed, zeros too. */
static void forget_pages(struct page_place *place, struct page_digest *digest,
                         const struct page_frame *frame, const struct page_frame_entry *entries)
{
    for (unsigned i = 0; i < frame->count; i++)
        page_digest_set(digest, frame->first_page + entries[i].page, PAGE_DIGEST_UNKNOWN,
                        &place->sum);
}

static void tell_placed(const struct region *region, const struct page_frame *frame,
                        const struct page_frame_entry *entries)
{
    uint64_t mask[BLOCK_PAGES / 64] = {0};

    if (!region->ops || !region->ops->placed)
        return;
    for (unsigned i = 0; i < frame->count; i++)
        mask[entries[i].page / 64] |= UINT64_C(1) << (entries[i].page % 64);
    region->ops->placed((struct region *)region, frame->first_page, mask);
}

/* What was put together aside; `mask` says which entries. */
static void write_aside(const struct page_place *place, const struct region *region,
                        const struct page_frame *frame, const struct page_frame_entry *entries,
                        uint64_t mask)
{
    for (unsigned i = 0; i < frame->count;) {
        unsigned run = 0;
        while (i + run < frame->count && (mask >> (i + run) & 1) &&
               entries[i + run].page == entries[i].page + run)
            run++;
        if (run)
            region->ops->write((struct region *)region, frame->first_page + entries[i].page, run,
                               place->aside + (size_t)i * PAGE_BYTES);
        i += run ? run : 1;
    }
}

int page_place_frame(struct page_place *place, struct page_frame *frame,
                     const struct page_frame_entry *entries, struct stream *stream,
                     struct fault *fault)
{
    unsigned index = find_region(place, frame->region);
    const struct region *region = &place->regions[index];
    struct page_digest *digest = &place->digests[index];

    int r = frame->codec != PAGE_FRAME_RAW
                ? place_packed(place, region, frame, entries, stream, fault)
                : place_raw(place, region, frame, entries, stream, fault);
    if (r < 0) {
        forget_pages(place, digest, frame, entries);
        return r;
    }

    uint64_t touched = 0;
    for (unsigned i = 0; i < frame->count; i++) {
        uint64_t page = frame->first_page + entries[i].page;
        uint8_t *bytes = page_at(place, region, frame, entries, i);
        uint64_t hash = 0;
        if (entries[i].has_data || entries[i].is_patch)
            hash = page_digest_hash(bytes);
        else if (page_digest_get(digest, page) != 0)
            memset(bytes, 0, PAGE_BYTES);
        else
            bytes = NULL;
        touched |= (uint64_t)(bytes != NULL) << i;
        page_digest_set(digest, page, hash, &place->sum);
        place->running = page_digest_fold(place->running, page, hash);
        place->zero_pages += !entries[i].has_data && !entries[i].is_patch;
    }
    place->pages += frame->count;
    if (is_written(region))
        write_aside(place, region, frame, entries, touched);
    tell_placed(region, frame, entries);
    return 0;
}

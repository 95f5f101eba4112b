#include "migrate/sample.h"

#include <assert.h>
#include <lz4.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include <zstd.h>

#include "base/bitmap.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/own.h"
#include "base/world.h"
#include "migrate/region.h"
#include "proto/page_frame.h"

enum { GROUP_BYTES = PAGE_FRAME_GROUP_PAGES * PAGE_BYTES, GROUPS_MAX = 32 };

struct sample {
    struct region *region; /* borrowed */
    uint64_t duration_ns, begun_ns, cpu_ns;
    uint64_t populated_pages;
    unsigned count, zero_pages;
    uint64_t raw_bytes, packed_bytes, zstd_bytes;
    unsigned looks;
    uint64_t at_ns[SAMPLE_LOOKS];
    unsigned changed[SAMPLE_LOOKS];
    uint64_t pages[SAMPLE_PAGES_MAX], hashes[SAMPLE_PAGES_MAX];
};

static void sample_freep(struct sample **sample)
{
    *sample = sample_free(*sample);
}

static const uint8_t *page_at(const struct sample *sample, uint64_t page)
{
    return sample->region->base + page * PAGE_BYTES;
}

static uint64_t next_chance(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return *state >> 33;
}

/* One page out of every stretch of equal length of what is populated: what lies together is met in
 * proportion, so a small working set is not missed by chance. */
static void choose(struct sample *sample, const struct bitmap *populated, uint64_t seed)
{
    uint64_t all = sample->populated_pages;
    uint64_t wanted = all < SAMPLE_PAGES_MAX ? all : SAMPLE_PAGES_MAX, seen = 0;
    uint64_t page = bitmap_next_set(populated, 0);
    for (uint64_t i = 0; i < wanted; i++) {
        uint64_t first = i * all / wanted, end = (i + 1) * all / wanted;
        uint64_t target = first + next_chance(&seed) % (end - first);
        for (; seen < target; seen++)
            page = bitmap_next_set(populated, page + 1);
        assert(page != BITMAP_NONE);
        sample->pages[sample->count++] = page;
    }
}

static void first_look(struct sample *sample)
{
    static const uint8_t zeros[PAGE_BYTES];
    for (unsigned i = 0; i < sample->count; i++) {
        const uint8_t *bytes = page_at(sample, sample->pages[i]);
        sample->hashes[i] = XXH3_64bits(bytes, PAGE_BYTES);
        sample->zero_pages += memcmp(bytes, zeros, PAGE_BYTES) == 0;
    }
}

/* Groups of neighbours, as lanes pack them; from a copy, since the guest writes on. */
static void pack_some(struct sample *sample)
{
    AUTO_FREE uint8_t *raw = malloc(GROUP_BYTES);
    size_t lz4_room = (size_t)LZ4_compressBound(GROUP_BYTES), zstd_room = ZSTD_compressBound(GROUP_BYTES);
    AUTO_FREE char *packed = malloc(lz4_room > zstd_room ? lz4_room : zstd_room);
    ZSTD_CCtx *zstd = ZSTD_createCCtx();
    unsigned step = sample->count / GROUPS_MAX + 1;
    for (unsigned i = 0; raw && packed && zstd && i < sample->count; i += step) {
        uint64_t first = sample->pages[i] - sample->pages[i] % PAGE_FRAME_GROUP_PAGES;
        if (first + PAGE_FRAME_GROUP_PAGES > sample->region->pages)
            continue;
        static const uint8_t zeros[PAGE_BYTES];
        size_t count = 0;
        for (unsigned n = 0; n < PAGE_FRAME_GROUP_PAGES; n++) {
            memcpy(raw + count, page_at(sample, first + n), PAGE_BYTES);
            count += memcmp(raw + count, zeros, PAGE_BYTES) ? PAGE_BYTES : 0;
        }
        if (count == 0)
            continue;
        int size = LZ4_compress_fast((const char *)raw, packed, (int)count,
                                     LZ4_compressBound((int)count), 8);
        sample->raw_bytes += count;
        sample->packed_bytes += size > 0 && (size_t)size < count ? (size_t)size : count;
        size_t tight = ZSTD_compressCCtx(zstd, packed, zstd_room, raw, count, 1);
        sample->zstd_bytes += !ZSTD_isError(tight) && tight < count ? tight : count;
    }
    (void)ZSTD_freeCCtx(zstd);
}

int sample_new(struct sample **ret_sample, struct region *region, uint64_t duration_ns,
               uint64_t seed, struct fault *fault)
{
    AUTO(sample_freep) struct sample *sample = calloc(1, sizeof *sample);
    AUTO(bitmap_deinit) struct bitmap populated = {0};
    if (!sample || bitmap_init(&populated, region->pages) < 0)
        return fault_set(fault, ERR_NOMEM, "no memory to sample a guest");
    uint64_t cpu_ns = world_thread_cpu_ns();
    sample->region = region;
    sample->duration_ns = duration_ns;
    int r = region->ops->populated(region, &populated, fault);
    if (r < 0)
        return fault_wrap(fault, r, "asking which pages of '%s' have memory", region->name);
    sample->populated_pages = bitmap_count(&populated);
    choose(sample, &populated, seed);
    pack_some(sample);
    sample->begun_ns = world_now_ns();
    first_look(sample);
    sample->cpu_ns = world_thread_cpu_ns() - cpu_ns;
    *ret_sample = TAKE(sample);
    return 0;
}

struct sample *sample_free(struct sample *sample)
{
    free(sample);
    return NULL;
}

uint64_t sample_next_ns(const struct sample *sample)
{
    if (sample->looks == SAMPLE_LOOKS)
        return 0;
    return sample->begun_ns + (sample->duration_ns >> (SAMPLE_SHIFT - sample->looks));
}

void sample_look(struct sample *sample)
{
    assert(sample->looks < SAMPLE_LOOKS);
    uint64_t cpu_ns = world_thread_cpu_ns();
    unsigned changed = 0;
    for (unsigned i = 0; i < sample->count; i++)
        changed += XXH3_64bits(page_at(sample, sample->pages[i]), PAGE_BYTES) != sample->hashes[i];
    /* What changed and changed back is still written: the column only rises. */
    if (sample->looks > 0 && changed < sample->changed[sample->looks - 1])
        changed = sample->changed[sample->looks - 1];
    sample->changed[sample->looks] = changed;
    sample->at_ns[sample->looks++] = world_now_ns() - sample->begun_ns;
    sample->cpu_ns += world_thread_cpu_ns() - cpu_ns;
}

static unsigned permille(uint64_t part, uint64_t whole)
{
    return whole ? (unsigned)(part * 1000 / whole) : 0;
}

void sample_tell(const struct sample *sample, struct sample_result *ret_result)
{
    *ret_result = (struct sample_result){
        .populated_bytes = sample->populated_pages * PAGE_BYTES,
        .pages = sample->count,
        .zero_permille = permille(sample->zero_pages, sample->count),
        .packed_permille =
            sample->raw_bytes ? permille(sample->packed_bytes, sample->raw_bytes) : 1000,
        .zstd_permille = sample->raw_bytes ? permille(sample->zstd_bytes, sample->raw_bytes) : 1000,
        .looks = sample->looks,
        .cpu_ns = sample->cpu_ns,
    };
    for (unsigned i = 0; i < sample->looks; i++) {
        ret_result->at_ns[i] = sample->at_ns[i];
        ret_result->written_bytes[i] = sample->count
                                           ? (uint64_t)((double)sample->changed[i] / sample->count *
                                                        (double)ret_result->populated_bytes)
                                           : 0;
    }
}

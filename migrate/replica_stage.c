#include "migrate/replica_stage.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/bitmap.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/own.h"
#include "migrate/page_copy.h"
#include "migrate/page_digest.h"
#include "migrate/page_place.h"
#include "migrate/region.h"
#include "migrate/replica.h"
#include "migrate/replica_journal.h"
#include "net/stream.h"
#include "proto/page_frame.h"
#include "proto/replica_frame.h"

struct part {                /* a region of RAM, or a disk */
    struct region *ram;      /* borrowed; NULL: a disk */
    unsigned disk;           /* its index */
    struct bitmap named;     /* by the checkpoint that arrives */
    struct bitmap populated; /* RAM: its pages were given memory */
};

/* The arrays beside `parts` have the same indices: page_place wants them so. */
struct replica_stage {
    struct replica_journal *journal; /* borrowed */
    struct part parts[REGIONS_MAX];
    unsigned count;
    struct page_frame_plan plan;

    struct region aside[REGIONS_MAX],
        image[REGIONS_MAX]; /* a disk's image has the aside's memory */
    struct page_digest aside_digests[REGIONS_MAX], image_digests[REGIONS_MAX];
    struct page_place to_aside, to_image;

    bool is_direct;
    uint64_t sum, disks_sum;           /* of the image */
    uint64_t next_sum, next_disks_sum; /* as judged */
    uint64_t pages, kept_pages;
};

/* ---- life ---- */
static int add_part(struct replica_stage *stage, const struct region *like, struct region *ram,
                    unsigned disk, struct fault *fault)
{
    if (stage->count == REGIONS_MAX)
        return fault_set(fault, ERR_LIMIT, "a replica of more than %d regions", REGIONS_MAX);
    unsigned i = stage->count;
    for (unsigned other = 0; other < i; other++) {
        if (stage->plan.regions[other].id == like->id)
            return fault_set(fault, ERR_INVALID, "two regions of a replica have number %u",
                             like->id);
    }
    struct part *part = &stage->parts[i];
    part->ram = ram;
    part->disk = disk;
    if (bitmap_init(&part->named, like->pages) < 0 ||
        bitmap_init(&part->populated, like->pages) < 0)
        return fault_set(fault, ERR_NOMEM, "no memory for a replica of '%s'", like->name);
    stage->count++; /* from here on it is freed */
    void *base = mmap(NULL, like->pages * PAGE_BYTES, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED)
        return fault_set_errno(fault, ERR_NOMEM, errno, "no room to stage '%s'", like->name);
    stage->aside[i] = *like;
    stage->aside[i].base = base;
    stage->image[i] = ram ? *ram : stage->aside[i];
    stage->plan.regions[i].id = like->id;
    stage->plan.regions[i].pages = like->pages;
    stage->plan.region_count = stage->count;
    int r = page_digest_init(&stage->aside_digests[i], like, fault);
    return r < 0 ? r : page_digest_init(&stage->image_digests[i], like, fault);
}

static int add_parts(struct replica_stage *stage, const struct replica_stage_config *config,
                     struct fault *fault)
{
    int r = 0;
    for (unsigned i = 0; r == 0 && i < config->region_count; i++)
        r = add_part(stage, &config->regions[i], &config->regions[i], 0, fault);
    for (unsigned i = 0; r == 0 && i < config->disk_count; i++) {
        const struct replica_disk *disk = &config->disks[i];
        const struct region like = {
            .name = "disk",
            .id = disk->region_id,
            .pages = (disk->bytes + PAGE_BYTES - 1) / PAGE_BYTES,
        };
        r = add_part(stage, &like, NULL, i, fault);
    }
    if (r == 0 && stage->count == 0)
        r = fault_set(fault, ERR_INVALID, "a replica of nothing");
    return r;
}

int replica_stage_new(struct replica_stage **ret_stage, const struct replica_stage_config *config,
                      struct fault *fault)
{
    assert(config->journal || config->disk_count == 0);
    struct replica_stage *stage = calloc(1, sizeof *stage);
    if (!stage)
        return fault_set(fault, ERR_NOMEM, "no memory for a replica");
    stage->journal = config->journal;
    int r = add_parts(stage, config, fault);
    if (r == 0)
        r = page_place_init(&stage->to_aside, stage->aside, stage->aside_digests, stage->count,
                            fault);
    if (r == 0)
        r = page_place_init(&stage->to_image, stage->image, stage->image_digests, stage->count,
                            fault);
    if (r < 0) {
        (void)replica_stage_free(stage);
        return r;
    }
    *ret_stage = stage;
    return 0;
}

struct replica_stage *replica_stage_free(struct replica_stage *stage)
{
    if (!stage)
        return NULL;
    page_place_deinit(&stage->to_aside);
    page_place_deinit(&stage->to_image);
    for (unsigned i = 0; i < stage->count; i++) {
        struct region *aside = &stage->aside[i];
        if (aside->base)
            (void)munmap(aside->base, aside->pages * PAGE_BYTES); /* ours: cannot fail */
        page_digest_deinit(&stage->aside_digests[i]);
        page_digest_deinit(&stage->image_digests[i]);
        bitmap_deinit(&stage->parts[i].named);
        bitmap_deinit(&stage->parts[i].populated);
    }
    free(stage);
    return NULL;
}

static unsigned part_of_disk(const struct replica_stage *stage, unsigned disk)
{
    unsigned i = 0;
    while (stage->parts[i].ram || stage->parts[i].disk != disk)
        i++;
    assert(i < stage->count);
    return i;
}

static uint64_t hash_of(const uint8_t *bytes)
{
    uint8_t copy[PAGE_BYTES] __attribute__((aligned(64)));

    return page_copy(copy, bytes) ? page_digest_hash(copy) : 0;
}

void replica_stage_known(struct replica_stage *stage, unsigned disk, uint64_t page,
                         const uint8_t *bytes)
{
    unsigned i = part_of_disk(stage, disk);
    uint64_t change = 0;
    page_digest_set(&stage->image_digests[i], page, hash_of(bytes), &change);
    stage->sum += change;
    stage->disks_sum += change;
}

uint64_t replica_stage_sum(const struct replica_stage *stage)
{
    return stage->sum;
}

uint64_t replica_stage_pages(const struct replica_stage *stage)
{
    return stage->pages;
}

/* ---- arriving ---- */
/* Fresh memory for the next one: pages aside read as zero and count as such. */
static void forget_aside(struct replica_stage *stage)
{
    uint64_t none = 0;

    for (unsigned i = 0; i < stage->count; i++) {
        struct bitmap *named = &stage->parts[i].named;
        uint64_t page = bitmap_next_set(named, 0);
        if (page == BITMAP_NONE)
            continue;
        for (; page != BITMAP_NONE; page = bitmap_next_set(named, page + 1))
            page_digest_set(&stage->aside_digests[i], page, 0, &none);
        (void)madvise(stage->aside[i].base, stage->aside[i].pages * PAGE_BYTES,
                      MADV_DONTNEED); /* our own private memory: cannot fail */
        bitmap_clear_all(named);
    }
}

int replica_stage_begin(struct replica_stage *stage, const struct replica_id *id, bool holds,
                        struct fault *fault)
{
    forget_aside(stage);
    stage->is_direct = !holds;
    stage->pages = stage->kept_pages = 0;
    stage->to_aside.running = stage->to_image.running = 0;
    return stage->journal ? replica_journal_begin(stage->journal, id, fault) : 0;
}

/* Where the host has no memory it says so instead of dying of it. */
static int populate_run(struct replica_stage *stage, unsigned i, uint64_t first, uint64_t count,
                        struct fault *fault)
{
    struct part *part = &stage->parts[i];
    uint64_t page = bitmap_next_clear(&part->populated, first);
    if (page == BITMAP_NONE || page >= first + count)
        return 0;
    int r = part->ram->ops->populate(part->ram, first, count, fault);
    if (r == 0)
        bitmap_set_range(&part->populated, first, count);
    return r;
}

static int populate_frame(struct replica_stage *stage, unsigned i, const struct page_frame *frame,
                          const struct page_frame_entry *entries, struct fault *fault)
{
    int r = 0;
    for (unsigned n = 0, run; r == 0 && n < frame->count; n += run) {
        for (run = 1; n + run < frame->count && entries[n + run].page == entries[n].page + run;)
            run++;
        r = populate_run(stage, i, frame->first_page + entries[n].page, run, fault);
    }
    return r;
}

/* What the disk holds there is not known: not zero, so that whatever is to be there is written. */
static void forget_page(struct replica_stage *stage, unsigned i, uint64_t page)
{
    uint64_t ignored = 0;

    if (stage->is_direct)
        page_digest_set(&stage->image_digests[i], page, PAGE_DIGEST_UNKNOWN, &ignored);
}

/* A disk's pages were placed in memory aside: on with them, then the memory is not needed. */
static int pass_to_journal(struct replica_stage *stage, unsigned i, const struct page_frame *frame,
                           const struct page_frame_entry *entries, struct fault *fault)
{
    const struct page_digest *digest =
        stage->is_direct ? &stage->image_digests[i] : &stage->aside_digests[i];
    uint8_t *base = stage->aside[i].base;
    int r = 0;

    unsigned n = 0;
    for (; r == 0 && n < frame->count; n++) {
        uint64_t page = frame->first_page + entries[n].page;
        r = replica_journal_add(stage->journal, stage->parts[i].disk, page,
                                page_digest_get(digest, page) ? base + page * PAGE_BYTES : NULL,
                                fault);
    }
    for (n -= r < 0; r < 0 && n < frame->count; n++)
        forget_page(stage, i, frame->first_page + entries[n].page);
    uint64_t left = stage->aside[i].pages - frame->first_page;
    (void)madvise(base + frame->first_page * PAGE_BYTES,
                  (left < BLOCK_PAGES ? left : BLOCK_PAGES) * PAGE_BYTES, MADV_DONTNEED);
    return r;
}

static int take_frame(struct replica_stage *stage, struct page_frame *frame,
                      const struct page_frame_entry *entries, struct stream *stream,
                      struct fault *fault)
{
    unsigned i = 0;
    while (stage->plan.regions[i].id != frame->region)
        i++; /* judged: it is there */
    struct part *part = &stage->parts[i];
    int r = 0;

    if (stage->is_direct && part->ram)
        r = populate_frame(stage, i, frame, entries, fault);
    for (unsigned n = 0; n < frame->count; n++)
        bitmap_set(&part->named, frame->first_page + entries[n].page); /* whatever comes of it */
    if (r == 0)
        r = page_place_frame(stage->is_direct ? &stage->to_image : &stage->to_aside, frame, entries,
                             stream, fault);
    if (r == 0 && !part->ram)
        r = pass_to_journal(stage, i, frame, entries, fault);
    stage->pages += frame->count;
    return r;
}

int replica_stage_frame(struct replica_stage *stage, uint32_t bytes, struct stream *stream,
                        struct fault *fault)
{
    struct page_frame_entry entries[PAGE_FRAME_PAGES_MAX];
    uint8_t head[PAGE_FRAME_HEAD_MAX];
    struct page_frame frame;

    int r = stream_read(stream, head, PAGE_FRAME_HEADER_BYTES, fault);
    if (r == 0)
        r = page_frame_get(head, &frame, fault);
    if (r < 0)
        return r;
    uint64_t all =
        PAGE_FRAME_HEADER_BYTES + (uint64_t)frame.count * PAGE_ENTRY_BYTES + frame.body_bytes;
    if (frame.type != PAGE_FRAME_PAGES || all != bytes)
        return fault_set(fault, ERR_CORRUPT, "a page frame of %llu bytes in a segment of %u",
                         (unsigned long long)all, bytes);
    r = stream_read(stream, head + PAGE_FRAME_HEADER_BYTES, (size_t)frame.count * PAGE_ENTRY_BYTES,
                    fault);
    if (r == 0)
        r = page_frame_get_entries(&stage->plan, head, &frame, entries, fault);
    if (r == 0 && frame.patch_count)
        r = fault_set(fault, ERR_CORRUPT, "a patch, where only whole pages are taken");
    return r < 0 ? r : take_frame(stage, &frame, entries, stream, fault);
}

/* ---- kept ---- */
bool replica_stage_see(struct replica_stage *stage, unsigned disk, uint64_t first_page,
                       unsigned pages, const uint8_t *bytes, bool holds)
{
    unsigned i = part_of_disk(stage, disk);
    bool is_known = true;

    for (unsigned n = 0; n < pages; n++) {
        const uint8_t *at = bytes + (size_t)n * PAGE_BYTES;
        if (hash_of(at) == page_digest_get(&stage->image_digests[i], first_page + n))
            continue;
        if (holds)
            is_known = false;
        else
            replica_stage_known(stage, disk, first_page + n, at);
    }
    return is_known;
}

int replica_stage_keep(struct replica_stage *stage, const struct replica_blocks *blocks,
                       struct fault *fault)
{
    unsigned i = 0;
    while (i < stage->count && (stage->parts[i].ram || stage->plan.regions[i].id != blocks->region))
        i++;
    uint64_t all = i < stage->count ? stage->plan.regions[i].pages : 0;
    uint64_t first = blocks->first * REPLICA_BLOCK_PAGES;
    if (blocks->first > all / REPLICA_BLOCK_PAGES || first >= all ||
        blocks->count > (all - first + REPLICA_BLOCK_PAGES - 1) / REPLICA_BLOCK_PAGES)
        return fault_set(fault, ERR_CORRUPT, "blocks %llu and %u more of region %u are no disk's",
                         (unsigned long long)blocks->first, blocks->count, blocks->region);
    uint64_t end = first + (uint64_t)blocks->count * REPLICA_BLOCK_PAGES;
    end = end < all ? end : all;
    uint64_t named = bitmap_next_set(&stage->parts[i].named, first), ignored = 0;
    if (named != BITMAP_NONE && named < end)
        return fault_set(fault, ERR_CORRUPT, "page %llu of region %u is kept, and was sent",
                         (unsigned long long)named, blocks->region);
    bitmap_set_range(&stage->parts[i].named, first, end - first);
    for (uint64_t page = first; !stage->is_direct && page < end; page++)
        page_digest_set(&stage->aside_digests[i], page,
                        page_digest_get(&stage->image_digests[i], page), &ignored);
    stage->kept_pages += end - first;
    return 0;
}

uint64_t replica_stage_kept_pages(const struct replica_stage *stage)
{
    return stage->kept_pages;
}

/* ---- judged and applied ---- */
/* What naming these pages makes of the image's sum. The rest of the image need not be looked at: it
 * stays, or with a whole checkpoint it is zero. */
static uint64_t change_of_part(const struct replica_stage *stage, unsigned i, bool is_whole)
{
    const struct bitmap *named = &stage->parts[i].named;
    const struct page_digest *image = &stage->image_digests[i];
    const struct page_digest *now = stage->is_direct ? image : &stage->aside_digests[i];
    uint64_t sum = 0;

    for (uint64_t page = bitmap_next_set(named, 0); page != BITMAP_NONE;
         page = bitmap_next_set(named, page + 1)) {
        sum += page_digest_term(now->region_id, page, page_digest_get(now, page));
        if (!is_whole)
            sum -= page_digest_term(image->region_id, page, page_digest_get(image, page));
    }
    return sum;
}

static void sum_up(struct replica_stage *stage, bool is_whole)
{
    stage->next_sum = is_whole ? 0 : stage->sum;
    stage->next_disks_sum = is_whole ? 0 : stage->disks_sum;
    for (unsigned i = 0; i < stage->count; i++) {
        uint64_t change = change_of_part(stage, i, is_whole);
        stage->next_sum += change;
        stage->next_disks_sum += stage->parts[i].ram ? 0 : change;
    }
}

/* Pages that a whole checkpoint does not name are zero: of disks, the journal has to know. */
static int name_zeros(struct replica_stage *stage, struct fault *fault)
{
    int r = 0;
    for (unsigned i = 0; r == 0 && i < stage->count; i++) {
        const struct page_digest *image = &stage->image_digests[i];
        struct part *part = &stage->parts[i];
        for (uint64_t page = bitmap_next_clear(&part->named, 0);
             r == 0 && page != BITMAP_NONE && page < image->pages;
             page = bitmap_next_clear(&part->named, page + 1)) {
            if (page_digest_get(image, page) == 0)
                continue;
            bitmap_set(&part->named, page); /* staged as zero: that is what is aside */
            if (!part->ram)
                r = replica_journal_add(stage->journal, part->disk, page, NULL, fault);
            if (stage->is_direct) {
                if (part->ram)
                    memset(part->ram->base + page * PAGE_BYTES, 0, PAGE_BYTES);
                uint64_t none = 0;
                page_digest_set(&stage->image_digests[i], page, 0, &none);
            }
        }
    }
    return r;
}

/* Memory for every page that is going to change, while nothing has. */
static int populate_named(struct replica_stage *stage, struct fault *fault)
{
    int r = 0;
    for (unsigned i = 0; r == 0 && i < stage->count; i++) {
        const struct part *part = &stage->parts[i];
        uint64_t page = part->ram ? bitmap_next_set(&part->named, 0) : BITMAP_NONE;
        while (r == 0 && page != BITMAP_NONE) {
            uint64_t end = bitmap_next_clear(&part->named, page);
            end = end == BITMAP_NONE || end > part->named.bits ? part->named.bits : end;
            r = populate_run(stage, i, page, end - page, fault);
            page = end < part->named.bits ? bitmap_next_set(&part->named, end) : BITMAP_NONE;
        }
    }
    return r;
}

int replica_stage_judge(struct replica_stage *stage, const struct replica_commit *commit,
                        struct replica_journal_held *ret_held, struct fault *fault)
{
    uint64_t running = stage->is_direct ? stage->to_image.running : stage->to_aside.running;

    if (stage->is_direct && !commit->is_whole)
        return fault_set(fault, ERR_CORRUPT, "a checkpoint upon one that is not held here");
    sum_up(stage, commit->is_whole);
    if (commit->pages != stage->pages || commit->running != running ||
        commit->sum != stage->next_sum)
        return fault_set(fault, ERR_CORRUPT,
                         "what arrived is not the checkpoint that was sent: %llu pages of %llu",
                         (unsigned long long)stage->pages, (unsigned long long)commit->pages);
    int r = commit->is_whole ? name_zeros(stage, fault) : 0;
    if (r == 0 && !stage->is_direct)
        r = populate_named(stage, fault);
    if (r < 0)
        return r;
    ret_held->held.sum = stage->next_sum;
    ret_held->disks_sum = stage->next_disks_sum;
    return 0;
}

static void apply_part(struct replica_stage *stage, unsigned i)
{
    const struct part *part = &stage->parts[i];
    const uint8_t *from = stage->aside[i].base;
    struct page_digest *image = &stage->image_digests[i];
    uint64_t added_up = 0;

    for (uint64_t page = bitmap_next_set(&part->named, 0); page != BITMAP_NONE;
         page = bitmap_next_set(&part->named, page + 1)) {
        uint64_t hash = page_digest_get(&stage->aside_digests[i], page);
        if (part->ram && hash)
            memcpy(part->ram->base + page * PAGE_BYTES, from + page * PAGE_BYTES, PAGE_BYTES);
        else if (part->ram && page_digest_get(image, page))
            memset(part->ram->base + page * PAGE_BYTES, 0, PAGE_BYTES);
        page_digest_set(image, page, hash, &added_up);
    }
}

const struct bitmap *replica_stage_named(const struct replica_stage *stage, unsigned region)
{
    assert(region < stage->count && stage->parts[region].ram);
    return stage->is_direct ? NULL : &stage->parts[region].named;
}

void replica_stage_apply(struct replica_stage *stage)
{
    for (unsigned i = 0; !stage->is_direct && i < stage->count; i++)
        apply_part(stage, i);
    stage->sum = stage->next_sum;
    stage->disks_sum = stage->next_disks_sum;
}

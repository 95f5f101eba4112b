/* A whole checkpoint of disks that the replica has, nearly: it tells digests of its blocks, those
 * that are equal here are named and not sent. Cleared in the log first, then read (INV-5): a block
 * that is written while it is compared comes again, as any page does. */
#include "migrate/replicator_inside.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"
#include "migrate/page_batch.h"
#include "migrate/page_copy.h"
#include "migrate/region.h"

enum { BLOCK_BYTES = REPLICA_BLOCK_PAGES * PAGE_BYTES };

static_assert(BLOCK_PAGES % REPLICA_BLOCK_PAGES == 0, "a batch is of whole blocks");
static_assert(64 % REPLICA_BLOCK_PAGES == 0, "a block lies in one word of a mask");

static uint64_t block_count(const struct region *region)
{
    return (region->pages + REPLICA_BLOCK_PAGES - 1) / REPLICA_BLOCK_PAGES;
}

void replicator_forget_blocks(struct replicator *replicator)
{
    for (unsigned i = 0; i < replicator->count; i++) {
        free(replicator->parts[i].have);
        replicator->parts[i].have = NULL;
    }
}

bool replicator_knows_blocks(const struct replicator *replicator)
{
    for (unsigned i = 0; i < replicator->count; i++) {
        if (replicator->parts[i].have)
            return true;
    }
    return false;
}

static bool prepare(struct replicator *replicator)
{
    bool any = false;

    if (!replicator->block)
        replicator->block = aligned_alloc(64, BLOCK_BYTES);
    for (unsigned i = replicator->config.ram_count; replicator->block && i < replicator->count;
         i++) {
        struct replicator_part *part = &replicator->parts[i];
        part->have = calloc(block_count(part->region), REPLICA_BLOCK_DIGEST_BYTES);
        any |= part->have != NULL;
    }
    return any;
}

/* Judged as a peer's: of our disks, inside of them, and each once, so that there is an end. */
static int take_digests(struct replicator *replicator, const struct replica_blocks *blocks,
                        const uint8_t *digests, unsigned *part_at, uint64_t *block_at,
                        struct fault *fault)
{
    while (*part_at < replicator->count &&
           replicator->parts[*part_at].region->id != blocks->region) {
        (*part_at)++;
        *block_at = 0;
    }
    if (*part_at == replicator->count)
        return fault_set(fault, ERR_CORRUPT,
                         "digests of region %u, which is no disk or was told of", blocks->region);
    struct replicator_part *part = &replicator->parts[*part_at];
    uint64_t all = block_count(part->region);
    if (blocks->first < *block_at || blocks->first > all || blocks->count > all - blocks->first)
        return fault_set(fault, ERR_CORRUPT, "digests of blocks %llu and %u more out of their turn",
                         (unsigned long long)blocks->first, blocks->count);
    if (part->have)
        memcpy(part->have + blocks->first * REPLICA_BLOCK_DIGEST_BYTES, digests,
               (size_t)blocks->count * REPLICA_BLOCK_DIGEST_BYTES);
    *block_at = blocks->first + blocks->count;
    return 0;
}

int replicator_ask_blocks(struct replicator *replicator, struct fault *fault)
{
    enum { SIZE = REPLICA_HAVE_HEAD_BYTES + REPLICA_HAVE_BLOCKS_MAX * REPLICA_BLOCK_DIGEST_BYTES };
    uint8_t body[SIZE];
    struct replica_blocks blocks = {0};
    unsigned part_at = replicator->config.ram_count;
    uint64_t block_at = 0;

    replicator_forget_blocks(replicator);
    if (!prepare(replicator))
        return 0;
    int r = replicator_send(replicator, REPLICA_FRAME_ASK, 0, "", 0, fault);
    while (r == 0) {
        struct replica_frame frame;
        r = replicator_read(replicator, REPLICA_FRAME_HAVE, &frame, body, sizeof body, fault);
        if (r == 0)
            r = replica_have_get(body, frame.body_bytes, &blocks, fault);
        if (r == 0 && blocks.count == 0)
            return 0;
        if (r == 0)
            r = take_digests(replicator, &blocks, body + REPLICA_HAVE_HEAD_BYTES, &part_at,
                             &block_at, fault);
    }
    return r;
}

static int tell_kept(struct replicator *replicator, const struct replica_blocks *run,
                     struct fault *fault)
{
    uint8_t body[REPLICA_KEPT_BYTES];

    if (run->count == 0)
        return 0;
    replicator->has_kept = true;
    replica_kept_put(run, body);
    return replicator_send(replicator, REPLICA_FRAME_KEPT, replicator->core.sent.seq, body,
                           sizeof body, fault);
}

/* One look at each block: what is written later is sent. */
static bool is_there(struct replicator *replicator, struct replicator_part *part, uint64_t block)
{
    static const uint8_t unknown[REPLICA_BLOCK_DIGEST_BYTES];
    uint8_t *have = part->have + block * REPLICA_BLOCK_DIGEST_BYTES;
    uint8_t digest[REPLICA_BLOCK_DIGEST_BYTES];
    uint64_t first = block * REPLICA_BLOCK_PAGES, left = part->region->pages - first;
    unsigned pages = left < REPLICA_BLOCK_PAGES ? (unsigned)left : REPLICA_BLOCK_PAGES;

    if (memcmp(have, unknown, sizeof unknown) == 0)
        return false;
    memcpy(replicator->block, part->region->base + first * PAGE_BYTES, (size_t)pages * PAGE_BYTES);
    replica_block_digest(replicator->block, (size_t)pages * PAGE_BYTES, digest);
    bool is_equal = memcmp(have, digest, sizeof digest) == 0;
    memset(have, 0, REPLICA_BLOCK_DIGEST_BYTES);
    for (unsigned n = 0; is_equal && n < pages; n++) {
        uint8_t copy[PAGE_BYTES] __attribute__((aligned(64)));
        uint64_t hash = page_copy(copy, replicator->block + (size_t)n * PAGE_BYTES)
                            ? page_digest_hash(copy)
                            : 0;
        page_digest_set(&part->digest, first + n, hash, &replicator->sum);
    }
    return is_equal;
}

int replicator_keep_blocks(struct replicator *replicator, struct replicator_part *part,
                           struct page_batch *batch, struct fault *fault)
{
    struct replica_blocks run = {.region = part->region->id};
    int r = 0;

    for (unsigned n = 0; r == 0 && n < BLOCK_PAGES / REPLICA_BLOCK_PAGES; n++) {
        unsigned bit = n * REPLICA_BLOCK_PAGES;
        uint64_t bits = ((UINT64_C(1) << REPLICA_BLOCK_PAGES) - 1) << bit % 64;
        uint64_t block = batch->first_page / REPLICA_BLOCK_PAGES + n;
        if (!(batch->mask[bit / 64] & bits) || !is_there(replicator, part, block))
            continue;
        batch->mask[bit / 64] &= ~bits;
        if (run.count && run.first + run.count != block) {
            r = tell_kept(replicator, &run, fault);
            run.count = 0;
        }
        if (run.count++ == 0)
            run.first = block;
    }
    return r < 0 ? r : tell_kept(replicator, &run, fault);
}

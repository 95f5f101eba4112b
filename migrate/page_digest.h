/* A hash of every page that was sent or placed, and one sum over all of them.
 *
 * Flow:   lane_source, lane_target -> [page_digest] -> MoveState: compared before READY
 * Thread: an entry belongs to the lane of its block; sums are kept a lane; reread has own threads.
 *
 * A zero page counts 0, so pages that never existed need no entry; the table is address space until
 * it is written. The sum does not depend on order, so each lane adds up its own part while it works
 * and the total costs O(lanes) inside the pause.
 */
#ifndef GODWIT_MIGRATE_PAGE_DIGEST_H
#define GODWIT_MIGRATE_PAGE_DIGEST_H

#include <stdint.h>

struct fault;
struct region;

struct page_digest {
    uint64_t *hashes; /* owned, mmap'ed; one a page */
    uint64_t pages;
    unsigned region_id;
};

int page_digest_init(struct page_digest *digest, const struct region *region, struct fault *fault);
void page_digest_deinit(struct page_digest *digest);

/* XXH3-64 of a page that is not zero; never 0. */
uint64_t page_digest_hash(const uint8_t *page);

/* An entry of a page whose content at the target is not known: never that of a zero page, so that
 * the page is told of in any case. */
#define PAGE_DIGEST_UNKNOWN UINT64_C(1)

/* What one page adds to the sum. */
static inline uint64_t page_digest_term(unsigned region_id, uint64_t page, uint64_t hash)
{
    if (hash == 0)
        return 0;
    uint64_t x = hash ^ ((page + 1) * UINT64_C(0x9E3779B97F4A7C15)) ^
                 ((uint64_t)region_id * UINT64_C(0xC2B2AE3D27D4EB4F));
    x ^= x >> 33;
    x *= UINT64_C(0xff51afd7ed558ccd);
    x ^= x >> 33;
    x *= UINT64_C(0xc4ceb9fe1a85ec53);
    return x ^ (x >> 33);
}

static inline uint64_t page_digest_get(const struct page_digest *digest, uint64_t page)
{
    return digest->hashes[page];
}

/* Set a page's hash and move the lane's sum along. */
static inline void page_digest_set(struct page_digest *digest, uint64_t page, uint64_t hash,
                                   uint64_t *sum)
{
    uint64_t before = digest->hashes[page];
    if (before == hash)
        return;
    *sum += page_digest_term(digest->region_id, page, hash) -
            page_digest_term(digest->region_id, page, before);
    digest->hashes[page] = hash;
}

/* The running digest of one lane's round; depends on order, so a frame lost or doubled shows. */
static inline uint64_t page_digest_fold(uint64_t running, uint64_t page, uint64_t hash)
{
    uint64_t x = running ^ (hash + page * UINT64_C(0x9E3779B97F4A7C15));
    return ((x << 27) | (x >> 37)) * UINT64_C(0x9FB21C651E98DF25) + 1;
}

/* Read all populated memory again with `threads` threads, compare each page with its entry, and
 * give the sum of what was read. ERR_CORRUPT names the first page that is not what it should be:
 * at the source a write that dirty tracking missed, at the target a page placed wrongly. */
int page_digest_reread(struct page_digest *digests, const struct region *regions,
                       unsigned region_count, unsigned threads, uint64_t *ret_sum,
                       struct fault *fault);

#endif

#include "migrate/page_digest.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>

#include "base/bitmap.h"
#include "base/err.h"
#include "base/thread.h"
#include "migrate/region.h"
#include "proto/limits.h"

#if defined(__x86_64__)
#include <xxh_x86dispatch.h>
#else
#include <xxhash.h>
#endif

enum { REREAD_THREADS_MAX = 16 };

int page_digest_init(struct page_digest *digest, const struct region *region, struct fault *fault)
{
    void *map = mmap(NULL, region->pages * sizeof(uint64_t), PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED)
        return fault_set_errno(fault, ERR_NOMEM, errno, "no room for the digests of region '%s'",
                               region->name);
    *digest = (struct page_digest){.hashes = map, .pages = region->pages, .region_id = region->id};
    return 0;
}

void page_digest_deinit(struct page_digest *digest)
{
    if (digest->hashes)
        (void)munmap(digest->hashes, digest->pages * sizeof(uint64_t)); /* ours: cannot fail */
    digest->hashes = NULL;
}

uint64_t page_digest_hash(const uint8_t *page)
{
    uint64_t hash = XXH3_64bits(page, PAGE_BYTES);
    return hash ? hash : 1; /* 0 is kept for the zero page */
}

static bool page_is_zero(const uint8_t *page)
{
    uint64_t any = 0;
    for (unsigned i = 0; i < PAGE_BYTES && !any; i += 256) {
        uint64_t words[32];
        memcpy(words, page + i, sizeof words);
        for (unsigned j = 0; j < 32; j++)
            any |= words[j];
    }
    return any == 0;
}

struct reread {
    struct page_digest *digest;
    const struct region *region;
    struct bitmap populated;
    uint64_t next_block; /* atomic */
    uint64_t sum;        /* atomic */
    uint64_t wrong_page; /* atomic; BITMAP_NONE: none */
};

static void *reread_run(void *data)
{
    struct reread *reread = data;
    const struct page_digest *digest = reread->digest;
    uint64_t sum = 0;
    thread_begin("reread");

    for (;;) {
        uint64_t first = __atomic_fetch_add(&reread->next_block, BLOCK_PAGES, __ATOMIC_RELAXED);
        if (first >= digest->pages)
            break;
        uint64_t end = digest->pages - first > BLOCK_PAGES ? first + BLOCK_PAGES : digest->pages;
        for (uint64_t page = first; page < end; page++) {
            const uint8_t *bytes = reread->region->base + page * PAGE_BYTES;
            uint64_t hash = bitmap_test(&reread->populated, page) && !page_is_zero(bytes)
                                ? page_digest_hash(bytes)
                                : 0;
            if (hash != digest->hashes[page]) {
                uint64_t none = BITMAP_NONE;
                (void)__atomic_compare_exchange_n(&reread->wrong_page, &none, page, false,
                                                  __ATOMIC_RELAXED, __ATOMIC_RELAXED);
            }
            sum += page_digest_term(digest->region_id, page, hash);
        }
    }
    __atomic_fetch_add(&reread->sum, sum, __ATOMIC_RELAXED);
    return NULL;
}

static int reread_region(struct reread *reread, unsigned threads, struct fault *fault)
{
    int r = bitmap_init(&reread->populated, reread->region->pages);
    if (r < 0)
        return fault_set(fault, r, "no memory to read region '%s' again", reread->region->name);
    r = reread->region->ops->populated((struct region *)reread->region, &reread->populated, fault);
    if (r < 0)
        return r;

    pthread_t started[REREAD_THREADS_MAX];
    unsigned count = 0;
    while (count + 1 < threads && count < REREAD_THREADS_MAX &&
           pthread_create(&started[count], NULL, reread_run, reread) == 0)
        count++;
    reread_run(reread);
    for (unsigned i = 0; i < count; i++)
        pthread_join(started[i], NULL);
    if (reread->wrong_page != BITMAP_NONE)
        return fault_set(fault, ERR_CORRUPT, "page %llu of region '%s' is not what was sent",
                         (unsigned long long)reread->wrong_page, reread->region->name);
    return 0;
}

int page_digest_reread(struct page_digest *digests, const struct region *regions,
                       unsigned region_count, unsigned threads, uint64_t *ret_sum,
                       struct fault *fault)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < region_count; i++) {
        struct reread reread = {
            .digest = &digests[i], .region = &regions[i], .wrong_page = BITMAP_NONE};
        int r = reread_region(&reread, threads, fault);
        bitmap_deinit(&reread.populated);
        if (r < 0)
            return r;
        sum += reread.sum;
    }
    *ret_sum = sum;
    return 0;
}

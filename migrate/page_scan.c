#include "migrate/page_scan.h"

#include <assert.h>
#include <string.h>

#include "base/bitmap.h"

void page_scan_init(struct page_scan *scan, const struct bitmap *dirty, unsigned region)
{
    *scan = (struct page_scan){.dirty = dirty, .region = region};
}

bool page_scan_next(struct page_scan *scan, struct page_batch *ret_batch)
{
    uint64_t page = bitmap_next_set(scan->dirty, scan->next_page);
    if (page == BITMAP_NONE) {
        scan->next_page = scan->dirty->bits;
        return false;
    }
    uint64_t first = page - page % BLOCK_PAGES;
    size_t word = (size_t)(first / 64), words = bitmap_words(scan->dirty) - word;
    if (words > PAGE_BATCH_WORDS)
        words = PAGE_BATCH_WORDS;

    *ret_batch =
        (struct page_batch){.type = PAGE_BATCH_PAGES, .region = scan->region, .first_page = first};
    memcpy(ret_batch->mask, scan->dirty->words + word, words * sizeof ret_batch->mask[0]);
    scan->next_page = first + BLOCK_PAGES;
    return true;
}

unsigned page_scan_lane(unsigned region, uint64_t first_page, unsigned lanes)
{
    assert(lanes > 0 && first_page % BLOCK_PAGES == 0);
    uint64_t block = first_page / BLOCK_PAGES + ((uint64_t)region << 40);
    return (unsigned)(((block * UINT64_C(0x9E3779B97F4A7C15)) >> 32) % lanes);
}

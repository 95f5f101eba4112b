/* What a test page must hold: a function of seed, page index, kind and counters.
 *
 * Flow:   test_memory -> [page_content] -> guest RAM
 * Thread: any vCPU; the page belongs to the caller.
 *
 *   word 0  page index, kind in the top byte       word 2  key: mixes seed, index, kind and body
 * counter
 *   word 1  body counter (last full write)         word 3  stamp: counter below, its check above
 *   words 4-511  a stream made from the key
 * A full write makes all of it anew. A sparse write changes word 3 only.
 */
#ifndef GUEST_PAGE_CONTENT_H
#define GUEST_PAGE_CONTENT_H

#include <stdbool.h>
#include <stdint.h>

enum { PAGE_BYTES = 4096, PAGE_WORDS = PAGE_BYTES / 8 };

enum page_kind {
    PAGE_UNTOUCHED = 0, /* never written: all zero */
    PAGE_ZERO = 1,      /* written with zeros */
    PAGE_RANDOM = 2,    /* incompressible */
    PAGE_TEXT = 3,      /* compresses 2 to 3 times */
    PAGE_DUP = 4,       /* all such pages are equal, byte for byte */
};

struct page_identity {
    uint64_t index;
    uint32_t counter; /* writes so far */
    uint32_t body;    /* counter at the last full write */
    enum page_kind kind;
};

void page_content_init(uint64_t seed);
void page_content_write(uint64_t *page, const struct page_identity *identity);
void page_content_stamp(uint64_t *page, const struct page_identity *identity);
bool page_content_check(const uint64_t *page, const struct page_identity *identity);
bool page_content_is_zero(const uint64_t *page);

/* After a failed check: one word for what the page looks like. */
const char *page_content_blame(const uint64_t *page, const struct page_identity *identity);

#endif

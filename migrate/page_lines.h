/* Fingerprints of a page's 64 lines of 64 bytes: which of them changed since they were taken?
 *
 * Flow:   a lane's copy of a page -> [page_lines] -> page_delta
 * Thread: any; pure.
 *
 * A copy of every page that was sent would cost as much memory as the guest has; its fingerprints
 * cost an eighth. Keyed by chance, so that no guest can write a line that looks like the one
 * before; by accident one changed line in 2^60 or so does, which the digest of the round then
 * finds.
 */
#ifndef GODWIT_MIGRATE_PAGE_LINES_H
#define GODWIT_MIGRATE_PAGE_LINES_H

#include <stdbool.h>
#include <stdint.h>

enum { PAGE_LINES = 64 };

struct page_lines_key {
    uint64_t words[8];
    uint64_t odd;
};

void page_lines_draw_key(struct page_lines_key *ret_key);
/* `page`: 64-byte aligned. */
void page_lines_take(const struct page_lines_key *key, const uint8_t *page,
                     uint64_t ret_lines[static PAGE_LINES]);
/* The same without vector instructions. */
void page_lines_take_plain(const struct page_lines_key *key, const uint8_t *page,
                           uint64_t ret_lines[static PAGE_LINES]);
/* A bit for each line that differs. */
uint64_t page_lines_differ(const uint64_t one[static PAGE_LINES],
                           const uint64_t other[static PAGE_LINES]);

#endif

/* Accesses to guest memory that is not there yet: they wait until the page is laid.
 *
 * Flow:   vCPU, device -> kernel -> [page_faults] -> page_fetch -> [page_faults] -> it goes on
 * Thread: open, watch and close by one; read by one; lay, lay_zero and wake from any, and safe for
 *         the same page: one lays it, the others are told that it is there.
 *
 * Linux' userfaultfd. Who lays a page must not touch it through the watched memory itself.
 */
#ifndef GODWIT_MIGRATE_PAGE_FAULTS_H
#define GODWIT_MIGRATE_PAGE_FAULTS_H

#include <stdint.h>

struct fault;

enum { PAGE_FAULTS_READ_MAX = 64 };
enum { PAGE_FAULTS_E_THERE = 1 }; /* the page was there already */

struct page_faults {
    int fd; /* owned; -1: closed */
};

/* Refuses in words where this process may not. */
int page_faults_open(struct page_faults *faults, struct fault *fault);
/* All who wait go on, with pages of zeros: only for memory that nobody believes in any more, or
 * that is whole. Idempotent. */
void page_faults_close(struct page_faults *faults);
int page_faults_watch(struct page_faults *faults, uint8_t *base, uint64_t bytes,
                      struct fault *fault);
/* Addresses that are waited for; 0: none by now. */
int page_faults_read(struct page_faults *faults,
                     uint64_t ret_addresses[static PAGE_FAULTS_READ_MAX], unsigned *ret_count,
                     struct fault *fault);
/* Lay one page and let all go on who wait for it. 0, PAGE_FAULTS_E_THERE (they go on, too) or a
 * negative ERR_*. */
int page_faults_lay(struct page_faults *faults, uint8_t *page, const uint8_t *bytes,
                    struct fault *fault);
/* As many that follow each other: each is whole when it is there. Some may be, whatever it gives. */
int page_faults_lay_run(struct page_faults *faults, uint8_t *first, const uint8_t *bytes,
                        unsigned pages, unsigned *ret_laid, struct fault *fault);
int page_faults_lay_zero(struct page_faults *faults, uint8_t *page, struct fault *fault);

#endif

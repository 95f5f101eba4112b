/* Writes to guest memory wait until what was there is kept: copy before write, by userfaultfd.
 *
 * Flow:   vCPU, device -> kernel -> [page_guard] -> guest_snapshot -> [page_guard] -> it goes on
 * Thread: open, close by one; read by one; protect, release from any.
 *
 * A page that is protected can be read by all; whoever writes it waits until it is released. Pages without
 * memory are protected as well. When the guard is closed everybody goes on.
 */
#ifndef GODWIT_MIGRATE_PAGE_GUARD_H
#define GODWIT_MIGRATE_PAGE_GUARD_H

#include <stdint.h>

struct fault;

enum { PAGE_GUARD_READ_MAX = 64 };

struct page_guard {
    int fd; /* owned; -1: closed */
    uint8_t *base;
    uint64_t pages;
};

/* Guards memory of 4 KiB pages (also huge ones that the kernel made of them by itself); nothing is
 * protected yet. Refuses in words where this process may not, or the kernel cannot. */
int page_guard_open(struct page_guard *guard, uint8_t *base, uint64_t pages, struct fault *fault);
void page_guard_close(struct page_guard *guard); /* idempotent */
int page_guard_protect(struct page_guard *guard, uint64_t first, uint64_t count,
                       struct fault *fault);
/* May be written again; who waits goes on. */
int page_guard_release(struct page_guard *guard, uint64_t first, uint64_t count,
                       struct fault *fault);
/* Pages that somebody wants to write; 0: none by now. */
int page_guard_read(struct page_guard *guard, uint64_t ret_pages[static PAGE_GUARD_READ_MAX],
                    unsigned *ret_count, struct fault *fault);

#endif

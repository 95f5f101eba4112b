/* Holds a running guest's memory as it was at one instant, until all of it has been copied.
 *
 * Flow:   guest_snapshot -> [page_keeper] -> page_guard; [page_keeper] -> guest_snapshot
 * Thread: the snapshot's own, but for one of the keeper's that hears who wants to write.
 *
 *   new      nothing is protected
 *   protect  all of it, while the guest runs: who writes goes on at once and is noted
 *   settle   what was written meanwhile, again, until it is little
 *   fix      the guest stands still: the last of it. This is the instant
 *   begin_copy .. end_copy, take_kept: the owner copies page after page; whoever wants to write one that is
 *            still to be copied waits until the keeper has put a copy aside
 *
 * So the pause costs what was written since the last round of settling, whatever the guest does later. What
 * is put aside is bounded: when it is full writers wait for the owner.
 */
#ifndef GODWIT_MIGRATE_PAGE_KEEPER_H
#define GODWIT_MIGRATE_PAGE_KEEPER_H

#include <stdbool.h>
#include <stdint.h>

struct bitmap;
struct fault;
struct page_keeper;

enum { PAGE_KEEPER_PUT_ASIDE_MAX = 8192 }; /* pages: 32 MiB */

struct page_keeper_counts {
    uint64_t put_aside; /* pages that were written before they were copied */
    uint64_t waits;     /* of those, that had to wait for room */
};

/* `base` is borrowed and must outlive the keeper. */
int page_keeper_new(struct page_keeper **ret_keeper, uint8_t *base, uint64_t pages,
                    struct fault *fault);
/* Everybody may write again. Also in the middle of everything. */
struct page_keeper *page_keeper_free(struct page_keeper *keeper);

int page_keeper_protect(struct page_keeper *keeper, struct fault *fault);
int page_keeper_settle(struct page_keeper *keeper, struct fault *fault);
/* `populated`: pages that had memory after page_keeper_protect; what was written later is added. */
int page_keeper_fix(struct page_keeper *keeper, const struct bitmap *populated,
                    struct fault *fault);

/* Is this page still to be copied? Then the lock is held until end_copy, which comes soon. */
bool page_keeper_begin_copy(struct page_keeper *keeper, uint64_t page);
void page_keeper_end_copy(struct page_keeper *keeper, uint64_t page);
/* All pages of the range are copied: writes to them need not ask. */
int page_keeper_release(struct page_keeper *keeper, uint64_t first, uint64_t count,
                        struct fault *fault);
/* The oldest page that was put aside: its bytes are borrowed until drop_kept. NULL: none now. */
const uint8_t *page_keeper_take_kept(struct page_keeper *keeper, uint64_t *ret_page);
void page_keeper_drop_kept(struct page_keeper *keeper);
/* Has its thread kept up? A failure here means that the instant is lost. */
int page_keeper_check(struct page_keeper *keeper, struct fault *fault);
struct page_keeper_counts page_keeper_counts(struct page_keeper *keeper);

#endif

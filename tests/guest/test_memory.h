/* All RAM above the guest itself, as numbered test pages, and the shadow table that knows their
 * counters.
 *
 * Flow:   writer, sweep -> [test_memory] -> page_content
 * Thread: any vCPU; a page and its table entry have one writer at a time (see writer.c, sweep.c).
 *
 *   16 MiB | shadow table | test page 0, 1, ... | hole | ... | last test page
 * The table is ordinary memory and moves like the rest, so it could be stale together with the
 * pages. Therefore each vCPU sums up its changes of the table, and the sums must explain the whole
 * table.
 */
#ifndef GUEST_TEST_MEMORY_H
#define GUEST_TEST_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

#include "boot_info.h"
#include "page_content.h"

struct vcpu;

/* Maps and divides RAM. Returns the number of pages a loader or firmware left dirty, now zero;
 * -1 when there is too little RAM. */
int64_t test_memory_init(const struct boot_info *info);

uint64_t test_memory_pages(void);
uint64_t *test_memory_page(uint64_t index);
struct page_identity test_memory_identity(uint64_t index);

/* Write the page anew as `kind`, or only its stamp. Keeps the sums of `vcpu`. */
void test_memory_write(struct vcpu *vcpu, uint64_t index, enum page_kind kind);
void test_memory_write_sparse(struct vcpu *vcpu, uint64_t index);

/* Play the fault that pages and table alone cannot show: both as they were one write ago.
 * False when the page has not been written twice. */
bool test_memory_roll_back(uint64_t index);

/* What `vcpu`'s sums must add up to for this page's entry. */
uint64_t test_memory_sum(uint64_t index);

/* The guest's own code, constants and page tables are what they were at boot. */
bool test_memory_guest_holds(void);

#endif

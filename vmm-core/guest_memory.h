/* A guest's RAM: one memfd, mapped once, seen by the guest below and above the hole under 4 GiB.
 *
 * Flow:   guest writes -> [guest_memory] -> dirty_tracker, region
 * Thread: mapping is set before start and read by all; marks are atomic.
 *
 * Pages are numbered flat: page n is bytes [n * 4096, (n + 1) * 4096) of the memfd. The guest sees
 * pages below GUEST_MEMORY_HOLE_START at their own address and the rest from 4 GiB on.
 */
#ifndef GODWIT_VMM_CORE_GUEST_MEMORY_H
#define GODWIT_VMM_CORE_GUEST_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

struct bitmap;
struct fault;
struct guest_memory;

#define GUEST_MEMORY_HOLE_START UINT64_C(0xC0000000)
#define GUEST_MEMORY_HOLE_END UINT64_C(0x100000000)
#define GUEST_MEMORY_BYTES_MIN (UINT64_C(16) << 20)
#define GUEST_MEMORY_BYTES_MAX (UINT64_C(64) << 30)

enum { GUEST_MEMORY_PARTS_MAX = 2 };

/* A contiguous stretch of guest-physical address space (one KVM memory slot). */
struct guest_memory_part {
    uint64_t guest_address; /* bytes */
    uint64_t first_page;    /* flat page number */
    uint64_t pages;
};

/* `bytes` is a multiple of 2 MiB within the limits above. With `huge_pages`, memory comes from the
 * kernel's 2 MiB hugetlb pool and fails by name where there is none; otherwise transparent huge
 * pages are asked for and taken where the kernel gives them. Nothing is populated. */
int guest_memory_new(struct guest_memory **ret_memory, uint64_t bytes, bool huge_pages,
                     struct fault *fault);
/* The same memory once more, of another process on this host that holds `fd` (copied): nothing is
 * populated or read by it. Refuses by name what is no sealed memfd of exactly this size and kind. */
int guest_memory_adopt(struct guest_memory **ret_memory, int fd, uint64_t bytes, bool huge_pages,
                       struct fault *fault);
struct guest_memory *guest_memory_free(struct guest_memory *memory);
/* Names it among all memory of this host that is alive; never 0. */
uint64_t guest_memory_id(const struct guest_memory *memory);

uint64_t guest_memory_pages(const struct guest_memory *memory);
uint8_t *guest_memory_base(const struct guest_memory *memory); /* host address of page 0 */
int guest_memory_fd(const struct guest_memory *memory);        /* borrowed */
unsigned guest_memory_parts(const struct guest_memory *memory,
                            struct guest_memory_part ret_parts[static GUEST_MEMORY_PARTS_MAX]);

static inline uint8_t *guest_memory_page(uint8_t *base, uint64_t page)
{
    return base + (page << 12);
}

/* Host address of guest-physical [address, address + count), NULL when any byte is not RAM or
 * the range crosses a part's end. */
uint8_t *guest_memory_at(const struct guest_memory *memory, uint64_t address, uint64_t count);

/* The VMM itself wrote guest-physical [address, address + count): KVM's log does not see it.
 * Any thread; call after the write. */
void guest_memory_mark_written(struct guest_memory *memory, uint64_t address, uint64_t count);
/* The same by host address, for who holds what guest_memory_at gave. */
void guest_memory_mark_host_written(struct guest_memory *memory, const uint8_t *at,
                                    uint64_t count);
/* Take the marks made since the last take and add them to `dirty`. */
void guest_memory_take_written(struct guest_memory *memory, struct bitmap *dirty);

/* Give whole pages inside guest-physical [address, address + count) back to the host: they read as
 * zero and are not populated, until somebody writes. Marks them as written. Returns how many pages;
 * 0 for what is no RAM, or where the host cannot: they may read as zero then, but are populated. Any
 * thread. */
uint64_t guest_memory_discard(struct guest_memory *memory, uint64_t address, uint64_t count);
uint64_t guest_memory_discard_host(struct guest_memory *memory, const uint8_t *at, uint64_t count);
/* While held, none of it is given back: somebody still reads what is there. Any thread. */
void guest_memory_hold(struct guest_memory *memory, bool hold);

/* Set in `ret_populated` exactly the pages that have memory behind them (all others read as zero),
 * without touching any. Found by SEEK_DATA / SEEK_HOLE on the memfd. */
int guest_memory_populated(const struct guest_memory *memory, struct bitmap *ret_populated,
                           struct fault *fault);

/* Give pages [first, first + count) memory now (MADV_POPULATE_WRITE), so that nothing faults later.
 * ERR_NOMEM when the host has not enough. Any thread. Of adopted memory the pages are there: they are
 * only mapped, in whatever size they have. */
int guest_memory_populate(struct guest_memory *memory, uint64_t first, uint64_t count,
                          struct fault *fault);

#endif

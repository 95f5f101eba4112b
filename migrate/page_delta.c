#include "migrate/page_delta.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/bytes.h"
#include "base/err.h"
#include "migrate/region.h"
#include "proto/limits.h"

static_assert((int)PAGE_LINES * (int)PAGE_LINE_BYTES == PAGE_BYTES, "the lines are the page");

static size_t table_bytes(const struct page_delta *delta)
{
    return (size_t)delta->pages * PAGE_LINES * sizeof(uint64_t);
}

int page_delta_init(struct page_delta *delta, const struct region *region, uint64_t *room,
                    struct fault *fault)
{
    static const uint8_t zero[PAGE_BYTES] __attribute__((aligned(64)));
    struct page_delta fresh = {.pages = region->pages, .room = room};
    fresh.known = calloc((size_t)(region->pages + 63) / 64, sizeof *fresh.known);
    if (!fresh.known)
        return fault_set(fault, ERR_NOMEM, "no memory to remember pages of region '%s'",
                         region->name);
    void *map = mmap(NULL, table_bytes(&fresh), PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) {
        int error = errno;
        free(fresh.known);
        return fault_set_errno(fault, ERR_NOMEM, error, "no room to remember pages of region '%s'",
                               region->name);
    }
    fresh.lines = map;
    page_lines_draw_key(&fresh.key);
    page_lines_take(&fresh.key, zero, fresh.zero_lines);
    *delta = fresh;
    return 0;
}

void page_delta_deinit(struct page_delta *delta)
{
    if (delta->lines)
        (void)munmap(delta->lines, table_bytes(delta)); /* ours: cannot fail */
    free(delta->known);
    delta->lines = delta->known = NULL;
}

static bool take_room(struct page_delta *delta)
{
    uint64_t left = __atomic_load_n(delta->room, __ATOMIC_RELAXED);
    while (left > 0) {
        if (__atomic_compare_exchange_n(delta->room, &left, left - 1, false, __ATOMIC_RELAXED,
                                        __ATOMIC_RELAXED))
            return true;
    }
    return false;
}

enum page_delta_answer page_delta_step(struct page_delta *delta, uint64_t page,
                                       const uint8_t *bytes, bool zero_there, uint64_t *ret_lines)
{
    assert(page < delta->pages);
    uint64_t *known = delta->lines + page * PAGE_LINES;
    bool was_known = page_delta_is_known(delta, page);
    if (!was_known && !take_room(delta))
        return PAGE_DELTA_WHOLE;
    assert(!was_known || !zero_there);

    uint64_t now[PAGE_LINES], lines = UINT64_MAX;
    page_lines_take(&delta->key, bytes, now);
    if (was_known || zero_there)
        lines = page_lines_differ(now, was_known ? known : delta->zero_lines);
    memcpy(known, now, sizeof now);
    delta->known[page / 64] |= UINT64_C(1) << (page % 64);
    if (lines == 0)
        return PAGE_DELTA_SAME;
    if (__builtin_popcountll(lines) > PAGE_PATCH_LINES_MAX)
        return PAGE_DELTA_WHOLE;
    *ret_lines = lines;
    return PAGE_DELTA_PATCH;
}

void page_delta_forget(struct page_delta *delta, uint64_t page)
{
    if (!page_delta_is_known(delta, page))
        return;
    delta->known[page / 64] &= ~(UINT64_C(1) << (page % 64));
    __atomic_fetch_add(delta->room, 1, __ATOMIC_RELAXED);
}

bool page_delta_pace_wants(struct page_delta_pace *pace, bool again)
{
    if (pace->policy != PAGE_DELTA_AUTO)
        return pace->policy == PAGE_DELTA_ALWAYS;
    if (!again)
        return pace->waits;
    if (pace->skip == 0)
        return true;
    pace->skip--;
    return false;
}

void page_delta_pace_learn(struct page_delta_pace *pace, enum page_delta_answer answer)
{
    if (answer != PAGE_DELTA_WHOLE) {
        pace->skip = pace->skip_next = 0;
        return;
    }
    pace->skip_next = pace->skip_next ? pace->skip_next * 2 : 1;
    if (pace->skip_next > PAGE_DELTA_SKIP_MAX)
        pace->skip_next = PAGE_DELTA_SKIP_MAX;
    pace->skip = pace->skip_next;
}

void page_delta_pace_step(struct page_delta_pace *pace, uint64_t now_ns, uint64_t bytes,
                          uint64_t waited_ns)
{
    pace->bytes += bytes;
    if (pace->begun_ns && pace->bytes < PAGE_DELTA_WINDOW_BYTES)
        return;
    if (pace->begun_ns)
        pace->waits = (waited_ns - pace->begun_waited_ns) * 10 >= now_ns - pace->begun_ns;
    pace->bytes = 0;
    pace->begun_ns = now_ns;
    pace->begun_waited_ns = waited_ns;
}

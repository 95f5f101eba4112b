/* KVM's dirty log, one memory slot for each part of guest memory:
 *
 *   new      the slots are registered again with logging on; every bit starts as set
 *   collect  KVM_GET_DIRTY_LOG only reads, because of manual protection
 *   clear    KVM_CLEAR_DIRTY_LOG write-protects what is about to be read, block by block
 *   free     logging off: pages become writable again as they are touched
 *
 * Rejected: the dirty ring (cheap only for tiny sets, and full rings stop vCPUs) and the classic
 * log (each collect write-protects the whole guest at once, inside KVM's lock).
 */
#include "vmm-core/dirty_tracker.h"

#include <assert.h>
#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <sys/ioctl.h>

#include "base/bitmap.h"
#include "base/err.h"
#include "base/own.h"
#include "proto/limits.h"
#include "vmm-core/guest_memory.h"
#include "vmm-core/vm_inside.h"

static_assert((int)DIRTY_TRACKER_BLOCK_PAGES == (int)BLOCK_PAGES,
              "a clear covers what stays on one lane");

/* In one call, which holds KVM's lock meanwhile: some 0.1 ms. */
enum { CLEAR_PAGES_MAX = 16 * DIRTY_TRACKER_BLOCK_PAGES };

struct dirty_tracker {
    struct vm *vm; /* borrowed */
    unsigned part_count;
    struct guest_memory_part parts[GUEST_MEMORY_PARTS_MAX];
    struct bitmap log; /* scan thread: what KVM told last */
};

static void dirty_tracker_freep(struct dirty_tracker **tracker)
{
    *tracker = dirty_tracker_free(*tracker);
}

int dirty_tracker_new(struct dirty_tracker **ret_tracker, struct vm *vm, struct fault *fault)
{
    AUTO(dirty_tracker_freep) struct dirty_tracker *tracker = calloc(1, sizeof *tracker);
    if (!tracker)
        return fault_set(fault, ERR_NOMEM, "no memory for a dirty tracker");
    int r = bitmap_init(&tracker->log, guest_memory_pages(vm->memory));
    if (r < 0)
        return fault_set(fault, r, "no memory for the dirty log");
    tracker->part_count = guest_memory_parts(vm->memory, tracker->parts);
    tracker->vm = vm;
    r = vm_set_dirty_log(vm, true, fault);
    if (r < 0)
        return r;

    *ret_tracker = TAKE(tracker);
    return 0;
}

struct dirty_tracker *dirty_tracker_free(struct dirty_tracker *tracker)
{
    if (!tracker)
        return NULL;
    if (tracker->vm)
        (void)vm_set_dirty_log(tracker->vm, false, NULL); /* a log that stays on costs speed only */
    bitmap_deinit(&tracker->log);
    free(tracker);
    return NULL;
}

struct dirty_tracker *dirty_tracker_leave(struct dirty_tracker *tracker)
{
    if (tracker)
        tracker->vm = NULL;
    return dirty_tracker_free(tracker);
}

int dirty_tracker_collect(struct dirty_tracker *tracker, struct bitmap *dirty, struct fault *fault)
{
    assert(dirty->bits == tracker->log.bits);
    for (unsigned i = 0; i < tracker->part_count; i++) {
        assert(tracker->parts[i].first_page % 64 == 0);
        struct kvm_dirty_log log = {
            .slot = i,
            .dirty_bitmap = tracker->log.words + tracker->parts[i].first_page / 64,
        };
        if (ioctl(tracker->vm->fd, KVM_GET_DIRTY_LOG, &log) < 0)
            return fault_set_errno(fault, ERR_IO, errno, "reading the log of dirty pages");
    }
    vm_flush_ahead(tracker->vm); /* the pause waits for what is left to flush by then */
    bitmap_or(dirty, &tracker->log);
    guest_memory_take_written(tracker->vm->memory, dirty);
    return 0;
}

static int clear_log(struct dirty_tracker *tracker, unsigned slot, uint64_t first_page,
                     uint64_t pages, const uint64_t *words, struct fault *fault)
{
    struct kvm_clear_dirty_log clear = {
        .slot = slot,
        .num_pages = (uint32_t)pages,
        .first_page = first_page - tracker->parts[slot].first_page,
        .dirty_bitmap = (void *)(uintptr_t)words, /* the kernel reads only */
    };
    if (ioctl(tracker->vm->fd, KVM_CLEAR_DIRTY_LOG, &clear) < 0)
        return fault_set_errno(fault, ERR_IO, errno, "clearing the log of dirty pages");
    return 0;
}

int dirty_tracker_clear(struct dirty_tracker *tracker, uint64_t first_page,
                        const uint64_t mask[static 8], struct fault *fault)
{
    assert(first_page % DIRTY_TRACKER_BLOCK_PAGES == 0);
    assert(first_page < tracker->log.bits);
    unsigned slot = 0; /* parts begin and end at multiples of a block */
    if (tracker->part_count > 1 && first_page >= tracker->parts[1].first_page)
        slot = 1;
    return clear_log(tracker, slot, first_page, DIRTY_TRACKER_BLOCK_PAGES, mask, fault);
}

int dirty_tracker_clear_many(struct dirty_tracker *tracker, const struct bitmap *pages,
                             struct fault *fault)
{
    assert(pages->bits == tracker->log.bits);
    for (unsigned i = 0; i < tracker->part_count; i++) {
        uint64_t end = tracker->parts[i].first_page + tracker->parts[i].pages;
        uint64_t page = bitmap_next_set(pages, tracker->parts[i].first_page);
        while (page < end) { /* BITMAP_NONE is not */
            uint64_t first = page - page % DIRTY_TRACKER_BLOCK_PAGES;
            uint64_t count = end - first < CLEAR_PAGES_MAX ? end - first : CLEAR_PAGES_MAX;
            int r = clear_log(tracker, i, first, count, pages->words + first / 64, fault);
            if (r < 0)
                return r;
            page = bitmap_next_set(pages, first + count);
        }
    }
    return 0;
}

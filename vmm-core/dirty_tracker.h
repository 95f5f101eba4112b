/* Which guest pages changed since we last cleared them.
 *
 * Flow:   guest_memory -> [dirty_tracker] -> region
 * Thread: new, collect and free on the scan thread of one migration; clear on any lane thread.
 *
 * KVM's manual protection with everything initially set: the first collect reports all pages, a
 * page becomes write-protected only when it is cleared, and it is cleared just before it is read
 * (INV-5), so that a later write shows again.
 * Source: Linux Documentation/virt/kvm/api.rst, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2.
 */
#ifndef GODWIT_VMM_CORE_DIRTY_TRACKER_H
#define GODWIT_VMM_CORE_DIRTY_TRACKER_H

#include <stdint.h>

struct bitmap;
struct dirty_tracker;
struct fault;
struct vm;

enum {
    DIRTY_TRACKER_E_LOST = 1,       /* the kernel lost count: treat every page as dirty */
    DIRTY_TRACKER_BLOCK_PAGES = 512 /* a clear covers one aligned block of 2 MiB */
};

/* Begin tracking. `vm` is borrowed and must outlive the tracker. */
int dirty_tracker_new(struct dirty_tracker **ret_tracker, struct vm *vm, struct fault *fault);
/* Stops tracking (the guest's writes are free again). */
struct dirty_tracker *dirty_tracker_free(struct dirty_tracker *tracker);
/* Free without stopping: the guest will not run here again, and stopping takes KVM milliseconds. */
struct dirty_tracker *dirty_tracker_leave(struct dirty_tracker *tracker);

/* Add to `dirty` (flat page numbers) every page dirty in the log, and every page that the VMM
 * wrote. Does not clear KVM's log; takes the VMM's own marks.
 * Returns 0, DIRTY_TRACKER_E_LOST, or a negative ERR_*. */
int dirty_tracker_collect(struct dirty_tracker *tracker, struct bitmap *dirty, struct fault *fault);

/* Clear (and write-protect) the pages of one aligned block of 512 pages whose bits are set in
 * mask[0..7], starting at flat page `first_page`. To be called just before they are read.
 * Safe from several threads for different blocks. */
int dirty_tracker_clear(struct dirty_tracker *tracker, uint64_t first_page,
                        const uint64_t mask[static 8], struct fault *fault);

/* Clear all pages that are set in `pages`, of the whole guest, in few calls: each call into KVM
 * interrupts every vCPU once. Scan thread. */
int dirty_tracker_clear_many(struct dirty_tracker *tracker, const struct bitmap *pages,
                             struct fault *fault);

#endif

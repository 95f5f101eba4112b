/* virtio-balloon: memory that the guest lends back, by order or of its own accord
 * (virtio 1.2, 5.5).
 *
 * Flow:   guest -> [dev_virtio_balloon] -> guest_memory_discard; vm_set_balloon ->
 *         [dev_virtio_balloon] -> guest
 * Thread: under the vm's device lock; io thread.
 *
 * Pages in the balloon and pages that a guest reports as free (F_REPORTING) are given back to the
 * host at once: they read as zero from then on, are no longer populated, and so a move neither
 * reads nor sends them. A page that had been sent already is marked as written, so that it reads
 * as zero at the target too.
 */
#ifndef GODWIT_VMM_CORE_DEV_VIRTIO_BALLOON_H
#define GODWIT_VMM_CORE_DEV_VIRTIO_BALLOON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct device;
struct fault;
struct virtio_device;
struct virtio_kind;
struct vm_balloon_stats;

struct virtio_balloon_guest { /* travels */
    uint32_t target_pages;    /* as the host wants it */
    uint32_t actual_pages;    /* as the guest says */
    uint32_t poison;          /* what the guest fills free pages with */
};

extern const struct virtio_kind virtio_balloon_kind;
extern const struct device virtio_balloon_device;

/* How many bytes the guest shall do without. Under the device lock, as all below. */
int virtio_balloon_set_target(struct virtio_device *device, uint64_t bytes, struct fault *fault);
/* What the guest told last. */
void virtio_balloon_stats(struct virtio_device *device, struct vm_balloon_stats *ret_stats);
/* Have it tell anew. Not while the device drains. */
void virtio_balloon_ask(struct virtio_device *device);

/* The guest half of a device. */
void virtio_balloon_capture(const struct virtio_device *device,
                            struct virtio_balloon_guest *ret_guest);
void virtio_balloon_revive(struct virtio_device *device, const struct virtio_balloon_guest *guest);

/* Guest half <-> packed VirtioBalloonStateV1. */
int virtio_balloon_save(const struct virtio_balloon_guest *guest, uint8_t **ret_bytes,
                        size_t *ret_count);
int virtio_balloon_load(struct virtio_balloon_guest *ret_guest, const uint8_t *bytes, size_t count,
                        struct fault *fault);

#endif

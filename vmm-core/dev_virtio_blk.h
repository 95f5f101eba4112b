/* virtio-blk: a disk of the guest (virtio 1.2, 5.2).
 *
 * Flow:   virtio_pci -> [dev_virtio_blk] -> storage; storage -> [dev_virtio_blk] -> virtqueue
 * Thread: under the vm's device lock; requests begin and end on the io thread.
 *
 * Without a backend (an incoming guest that is not ours yet) requests wait in their queues. Before
 * a pause everything in flight ends, then what was written is made durable.
 */
#ifndef GODWIT_VMM_CORE_DEV_VIRTIO_BLK_H
#define GODWIT_VMM_CORE_DEV_VIRTIO_BLK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct bitmap;
struct device;
struct disk;
struct disk_mirror;
struct fault;
struct virtio_device;
struct virtio_kind;
struct vm_disk_stats;

enum {
    VIRTIO_BLK_SERIAL_BYTES = 20,
    VIRTIO_BLK_REQUESTS_MAX = 256, /* in flight, of one disk */
};

struct virtio_blk_guest { /* travels */
    uint64_t sectors;
    uint8_t read_only; /* 0 or 1 */
    uint16_t queues;
    char serial[VIRTIO_BLK_SERIAL_BYTES]; /* zero-padded */
};

extern const struct virtio_kind virtio_blk_kind;
extern const struct device virtio_blk_device;

/* Give it its backend; takes `disk` when it returns 0. Under the device lock. */
int virtio_blk_attach(struct virtio_device *device, struct disk *disk, struct fault *fault);
bool virtio_blk_is_read_only(const struct virtio_device *device);
/* As disk_track (storage/disk.h). */
int virtio_blk_track(struct virtio_device *device, struct bitmap *written, struct fault *fault);
/* As disk_mirror and disk_switch. */
int virtio_blk_mirror(struct virtio_device *device, struct disk_mirror *mirror,
                      struct fault *fault);
int virtio_blk_switch(struct virtio_device *device, struct fault *fault);
bool virtio_blk_waits(const struct virtio_device *device); /* a failed request, for a resume */
void virtio_blk_stats(const struct virtio_device *device, struct vm_disk_stats *ret_stats);

/* The guest half of a device. Saving is refused while something written may not be durable. */
int virtio_blk_capture(const struct virtio_device *device, struct virtio_blk_guest *ret_guest,
                       struct fault *fault);
/* Refuses a guest half that is another disk's. */
int virtio_blk_revive(struct virtio_device *device, const struct virtio_blk_guest *guest,
                      struct fault *fault);

/* Guest half <-> packed VirtioBlkStateV1. */
int virtio_blk_save(const struct virtio_blk_guest *guest, uint8_t **ret_bytes, size_t *ret_count);
int virtio_blk_load(struct virtio_blk_guest *ret_guest, const uint8_t *bytes, size_t count,
                    struct fault *fault);

#endif

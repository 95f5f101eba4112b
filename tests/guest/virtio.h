/* A virtio 1.x device over PCI and its rings, from the driver's side, polled or by MSI-X.
 *
 * Flow:   disk, nic, vsock -> [virtio] -> pci, memory, interrupt
 * Thread: vCPU 0.
 *
 * Split and packed rings, indirect tables not, event index yes. A ring has VIRTIO_REQUESTS
 * requests, each of at most VIRTIO_PARTS parts, and whoever uses it numbers them.
 */
#ifndef GUEST_VIRTIO_H
#define GUEST_VIRTIO_H

#include <stdbool.h>
#include <stdint.h>

#include "pci.h"

enum {
    VIRTIO_RING_SIZE_MAX = 256,
    VIRTIO_PARTS = 4,
    VIRTIO_REQUESTS_MAX = VIRTIO_RING_SIZE_MAX / VIRTIO_PARTS,
    VIRTIO_RINGS_MAX = 5,

    VIRTIO_DEVICE_NET = 1,
    VIRTIO_DEVICE_BLOCK = 2,
};

#define VIRTIO_F_EVENT_IDX (UINT64_C(1) << 29)
#define VIRTIO_F_VERSION_1 (UINT64_C(1) << 32)
#define VIRTIO_F_RING_PACKED (UINT64_C(1) << 34)

struct virtio_part {
    const volatile void *address;
    uint32_t bytes;
    bool is_writable; /* by the device; such parts come last */
};

struct virtio_ring {
    uint32_t vector; /* 0: none */
    uint16_t size, requests;
    bool packed, event_idx;
    uint16_t avail, used; /* split: free-running, packed: slots */
    uint16_t kicked;      /* split: avail at the last look whether to kick */
    uint16_t fresh;       /* packed: slots offered since then */
    bool avail_wrap, used_wrap;
    uint8_t slots[VIRTIO_REQUESTS_MAX]; /* of each request on its way */
    volatile uint16_t *doorbell;
    uint16_t index; /* of the queue */
    volatile uint8_t *memory;
};

struct virtio {
    struct pci_place place;
    volatile uint8_t *common, *config;
    volatile uint8_t *notify;
    uint32_t notify_multiplier;
    uint64_t features; /* agreed on */
    uint32_t msix_offset;
    bool by_interrupt;
    uint32_t vector_next; /* of the interrupt controller */
    uint16_t entry_next;  /* of the device's table */
};

/* Find the index-th device of this type, reset it and agree on `wanted` as far as it offers that
 * (VERSION_1 always). False when there is none, or it refuses. `vector` is where its interrupts
 * begin; 0: polled. */
bool virtio_begin(struct virtio *device, uint16_t type, uint32_t index, uint64_t wanted,
                  uint32_t vector);
/* Set up a ring before virtio_go. False when the device has no such queue. */
bool virtio_add_ring(struct virtio *device, struct virtio_ring *ring, uint16_t queue,
                     bool wants_interrupts);
void virtio_go(struct virtio *device);
/* Does the device still stand by what was agreed: not broken, not reset behind our back. */
bool virtio_is_well(const struct virtio *device);
uint32_t virtio_config_read(const struct virtio *device, uint32_t offset, uint32_t bytes);

/* `request` is not on its way already. */
void virtio_offer(struct virtio_ring *ring, uint16_t request, const struct virtio_part *parts,
                  uint32_t count);
/* After offers: tell the device if it wants to know. */
void virtio_kick(struct virtio_ring *ring);
/* A request that came back, and how many bytes the device says it wrote. */
bool virtio_take(struct virtio_ring *ring, uint16_t *ret_request, uint32_t *ret_bytes);
/* Nothing left to take: have an interrupt for the next. True when one came meanwhile. */
bool virtio_rearm(struct virtio_ring *ring);

#endif

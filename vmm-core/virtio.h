/* What a kind of virtio device is to its transport, and what the transport is to it.
 *
 * Flow:   guest -> virtio_pci -> [virtio] -> dev_virtio_x -> virtqueue -> guest memory
 * Thread: everything under the vm's device lock: notify, drain and job callbacks on the io
 *         thread, config and status on vCPU threads.
 *
 * A kind has a row in virtio_table (transport) and, for its own guest half, a row in device_table
 * (capture, save, load, revive). Its instance n is the n-th of its kind. What of the device is
 * common to all kinds (status, features, queues, PCI) is the transport's and travels in section
 * "virtio_pci".
 *
 *   create -> (activate -> notify* -> reset)* -> destroy
 *
 * After a load the transport's row revives first, then the kind's: there a kind whose device is
 * live (virtio_device_is_live) does what activate would have done. When the io loop goes on every
 * queue of a live device is notified once, whatever its doorbell says.
 */
#ifndef GODWIT_VMM_CORE_VIRTIO_H
#define GODWIT_VMM_CORE_VIRTIO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>

struct fault;
struct guest_memory;
struct io_loop;
struct machine_shape;
struct virtio_device;
struct virtqueue;
struct vm_config;

enum {
    VIRTIO_QUEUES_MAX = 17,    /* a nic of 8 queue pairs and its control queue */
    VIRTIO_FUNCTIONS_MAX = 31, /* slots 1 to 31 */
    VIRTIO_NO_VECTOR = 0xffff,

    VIRTIO_STATUS_ACKNOWLEDGE = 1,
    VIRTIO_STATUS_DRIVER = 2,
    VIRTIO_STATUS_DRIVER_OK = 4,
    VIRTIO_STATUS_FEATURES_OK = 8,
    VIRTIO_STATUS_NEEDS_RESET = 64,
    VIRTIO_STATUS_FAILED = 128,
};

/* Feature bits are numbers, as in <linux/virtio_*.h>. */
#define VIRTIO_FEATURE(bit) (UINT64_C(1) << (bit))
/* What the transport offers by itself for every kind. */
#define VIRTIO_FEATURES_OF_TRANSPORT                                                               \
    (VIRTIO_FEATURE(VIRTIO_RING_F_INDIRECT_DESC) | VIRTIO_FEATURE(VIRTIO_RING_F_EVENT_IDX) |       \
     VIRTIO_FEATURE(VIRTIO_F_VERSION_1) | VIRTIO_FEATURE(VIRTIO_F_RING_PACKED))

struct virtio_kind {
    const char *name; /* "virtio-blk", for an operator's eyes */
    uint16_t id;      /* VIRTIO_ID_* */
    uint8_t pci_class, pci_subclass;
    unsigned (*instances)(const struct machine_shape *shape);

    /* Fill features, queue_count, queue_size, config_bytes and state. The vm's memory and io loop
     * are there, its vCPUs not yet. */
    int (*create)(struct virtio_device *device, const struct vm_config *config,
                  struct fault *fault);
    /* Accepts half-created ones. The io loop's thread has ended. */
    void (*destroy)(struct virtio_device *device);

    /* Device configuration, inside config_bytes. config_write NULL: writes are lost. */
    void (*config_read)(struct virtio_device *device, unsigned offset, uint8_t *bytes,
                        unsigned count);
    void (*config_write)(struct virtio_device *device, unsigned offset, const uint8_t *bytes,
                         unsigned count);

    /* The driver is ready: device->driver_features are negotiated, queues are set up. */
    void (*activate)(struct virtio_device *device);
    /* A queue of a live device may have new buffers. Pop until it is empty; io thread. */
    void (*notify)(struct virtio_device *device, unsigned queue);
    /* Back to as created: forget queues, config and negotiated features. Requests in flight are
     * finished or canceled but never pushed; until none is left is_quiet says false. */
    void (*reset)(struct virtio_device *device);

    /* Before a pause: take no new buffers, finish those taken, and make durable what was told to be
     * written. NULL: nothing outlives notify. After it, until resume, notify is not called. */
    void (*drain)(struct virtio_device *device);
    /* A drain may come soon: begin now what it would have to wait for. NULL: nothing. */
    void (*flush_ahead)(struct virtio_device *device);
    /* Nothing of this device is in flight. NULL: always. */
    bool (*is_quiet)(const struct virtio_device *device);
    /* The pause is over; queues are notified next. NULL: nothing to do. */
    void (*go_on)(struct virtio_device *device);
};

struct virtio_transport_ops {
    void (*interrupt_queue)(struct virtio_device *device, unsigned queue);
    void (*interrupt_config)(struct virtio_device *device);
    void (*quiet)(struct virtio_device *device);
};

struct virtio_device {
    /* set before start */
    const struct virtio_kind *kind;
    unsigned instance;           /* of its kind */
    struct guest_memory *memory; /* borrowed */
    struct io_loop *loop;        /* borrowed */
    const struct virtio_transport_ops *transport;

    /* set by create */
    uint64_t features; /* offered; the transport's own are added */
    unsigned queue_count;
    uint16_t queue_size; /* largest, of each queue: a power of two up to VIRTQUEUE_SIZE_MAX */
    unsigned config_bytes;
    void *state; /* the kind's */

    /* the transport's, read by the kind */
    uint64_t driver_features;
    uint8_t status;
    bool resetting; /* waits for is_quiet */
    bool draining;
    struct virtqueue *queues; /* queue_count of them */
};

/* DRIVER_OK and neither broken nor being reset: queues may be touched. */
static inline bool virtio_device_is_live(const struct virtio_device *device)
{
    return (device->status & VIRTIO_STATUS_DRIVER_OK) &&
           !(device->status & VIRTIO_STATUS_NEEDS_RESET) && !device->resetting;
}

/* Was feature `bit` agreed on? */
static inline bool virtio_device_has(const struct virtio_device *device, unsigned bit)
{
    return device->driver_features & VIRTIO_FEATURE(bit);
}

/* NULL when the driver did not set it up. */
struct virtqueue *virtio_device_queue(struct virtio_device *device, unsigned queue);
/* Buffers were pushed: interrupt the driver if it wants to know (asks virtqueue_should_notify). */
void virtio_device_push_done(struct virtio_device *device, unsigned queue);
/* Device configuration changed by itself. */
void virtio_device_config_changed(struct virtio_device *device);
/* The driver broke the rules: the device stands still until it is reset. */
void virtio_device_needs_reset(struct virtio_device *device);
/* is_quiet has just become true. */
void virtio_device_quiet(struct virtio_device *device);

#endif

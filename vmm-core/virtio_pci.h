/* One virtio device on the PCI bus: the modern transport of virtio 1.2, 4.1.
 *
 * Flow:   guest -> pci, mmio -> [virtio_pci] -> io_loop -> kind; kind -> [virtio_pci] -> MSI-X
 * Thread: under the vm's device lock; registers on vCPU threads, doorbells on the io thread.
 *
 *   BAR 0: 0x0000 common, 0x1000 ISR, 0x2000 device configuration, 0x3000 doorbells (4 bytes each)
 *   BAR 1: MSI-X table and pending bits
 *
 * A doorbell is an eventfd that the io loop watches. KVM signals it where it can (ioeventfd);
 * otherwise the write comes as an exit and is turned into the same signal.
 */
#ifndef GODWIT_VMM_CORE_VIRTIO_PCI_H
#define GODWIT_VMM_CORE_VIRTIO_PCI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm-core/io_loop.h"
#include "vmm-core/pci.h"
#include "vmm-core/virtio.h"
#include "vmm-core/virtqueue.h"

struct device;
struct fault;
struct vm_config;

enum {
    VIRTIO_PCI_BAR_BYTES = 0x4000,
    VIRTIO_PCI_COMMON = 0x0000,
    VIRTIO_PCI_ISR = 0x1000,
    VIRTIO_PCI_DEVICE = 0x2000,
    VIRTIO_PCI_NOTIFY = 0x3000,
    VIRTIO_PCI_NOTIFY_BYTES = 4, /* from one queue's doorbell to the next */
};

struct virtio_pci_registers {
    uint64_t driver_features;
    uint32_t device_feature_select, driver_feature_select;
    uint16_t config_vector, queue_select;
    uint8_t status, isr, config_generation;
    uint16_t queue_vectors[VIRTIO_QUEUES_MAX];
    /* The window of capability "PCI configuration access". */
    uint8_t window_bar;
    uint32_t window_offset, window_bytes;
};

struct virtio_pci_guest { /* travels */
    uint16_t id;          /* the kind's */
    uint64_t features;    /* offered */
    struct virtio_pci_registers registers;
    unsigned queue_count;
    struct virtqueue_guest queues[VIRTIO_QUEUES_MAX];
    struct pci_guest pci;
};

/* What the transport needs of the machine below it. */
struct virtio_pci_host_ops {
    void (*message)(void *data, uint64_t address, uint32_t value);
    /* From now on (bind) or no longer, a write of two bytes at `address` signals `fd`. False: it
     * cannot be; writes come as exits then. */
    bool (*doorbell)(void *data, uint64_t address, int fd, bool bind);
};

struct virtio_pci_host {
    const struct virtio_pci_host_ops *ops;
    void *data;
    struct guest_memory *memory;
    struct io_loop *loop;
};

struct virtio_pci_doorbell {
    struct io_watch watch;
    unsigned queue;
    struct virtio_pci *owner;
    bool bound; /* the kernel signals it */
};

struct virtio_pci {
    struct virtio_device device;
    struct pci_function function;
    struct virtio_pci_host host;
    struct virtio_pci_registers registers; /* status and driver_features live in `device` */
    struct virtqueue queues[VIRTIO_QUEUES_MAX];
    struct virtio_pci_doorbell doorbells[VIRTIO_QUEUES_MAX];
    uint64_t doorbell_address; /* where they are bound, 0: nowhere */
    unsigned window_at;        /* the capability's offset in configuration space */
};

extern const struct device virtio_pci_device;

/* A device of `kind` on slot `slot`. `config` is borrowed for the call. */
int virtio_pci_new(struct virtio_pci **ret_pci, const struct virtio_kind *kind, unsigned instance,
                   const struct virtio_pci_host *host, const struct vm_config *config,
                   struct pci_bus *bus, unsigned slot, struct fault *fault);
/* The io loop's thread has ended. */
struct virtio_pci *virtio_pci_free(struct virtio_pci *pci);

/* A device that is being reset has come to rest: finish. Nothing happens to any other. */
void virtio_pci_settle(struct virtio_pci *pci);
/* Look at every queue, whatever the doorbells say. */
void virtio_pci_go_on(struct virtio_pci *pci);
/* As after power on. Nothing is in flight. */
void virtio_pci_reset(struct virtio_pci *pci);

void virtio_pci_capture(const struct virtio_pci *pci, struct virtio_pci_guest *ret_guest);
/* Refuses a guest half that this device cannot have. */
int virtio_pci_revive(struct virtio_pci *pci, const struct virtio_pci_guest *guest,
                      struct fault *fault);

/* Guest half <-> packed VirtioPciStateV1. */
int virtio_pci_save(const struct virtio_pci_guest *guest, uint8_t **ret_bytes, size_t *ret_count);
int virtio_pci_load(struct virtio_pci_guest *ret_guest, const uint8_t *bytes, size_t count,
                    struct fault *fault);

#endif

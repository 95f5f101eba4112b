/* A machine without a processor: memory, PCI, virtio devices and their I/O thread, and a guest's
 * hands on all of it.
 *
 * Flow:   test -> [virtio_machine] -> pci, virtio_bus -> devices
 * Thread: the test's; interrupts are noted on whichever thread raises them.
 */
#ifndef GODWIT_TESTS_SUPPORT_VIRTIO_MACHINE_H
#define GODWIT_TESTS_SUPPORT_VIRTIO_MACHINE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "tests/support/ring_driver.h"
#include "vmm-core/io_loop.h"
#include "vmm-core/machine_state.h"
#include "vmm-core/mmio.h"
#include "vmm-core/pci.h"
#include "vmm-core/virtio_bus.h"

struct vm_config;

enum { VIRTIO_MACHINE_VECTORS = 256 };

struct virtio_machine {
    pthread_mutex_t lock; /* the device lock */
    struct guest_memory *memory;
    struct mmio mmio;
    struct pci_bus pci;
    struct virtio_bus virtio;
    struct io_loop *loop;
    struct machine_shape shape;
    bool kernel_doorbells; /* says yes to a binding; nothing is signaled by it */
    unsigned bound;        /* doorbells */

    pthread_mutex_t told_lock;
    pthread_cond_t told;
    unsigned messages[VIRTIO_MACHINE_VECTORS]; /* by the message's data */
};

/* Memory of 16 MiB; the loop stands until virtio_machine_go. */
struct virtio_machine *virtio_machine_new(const struct vm_config *config);
struct virtio_machine *virtio_machine_free(struct virtio_machine *machine);
void virtio_machine_go(struct virtio_machine *machine);
void virtio_machine_stop(struct virtio_machine *machine);

/* The guest's accesses. */
uint64_t virtio_machine_read(struct virtio_machine *machine, uint64_t address, unsigned bytes);
void virtio_machine_write(struct virtio_machine *machine, uint64_t address, uint64_t value,
                          unsigned bytes);
uint32_t virtio_machine_config(struct virtio_machine *machine, unsigned slot, unsigned offset,
                               unsigned bytes);
void virtio_machine_set_config(struct virtio_machine *machine, unsigned slot, unsigned offset,
                               uint32_t value, unsigned bytes);

/* Wait until the message with this data came `count` times since the last wait for it. */
void virtio_machine_await(struct virtio_machine *machine, unsigned data, unsigned count);
/* How often it came since the last wait for it. */
unsigned virtio_machine_told(struct virtio_machine *machine, unsigned data);

/* Everything that travels, as vm_save makes it, into a machine as vm_load leaves it. */
int virtio_machine_save(struct virtio_machine *machine, struct machine_guest *ret_guest,
                        struct fault *fault);
int virtio_machine_load(struct virtio_machine *machine, const struct machine_guest *guest,
                        struct fault *fault);

/* An honest driver of one device. Queue n's message data is `slot * 16 + n`. */
enum { VIRTIO_DRIVER_QUEUES = 4 };

struct virtio_driver {
    struct virtio_machine *machine;
    unsigned slot;
    uint64_t bar;      /* BAR 0 */
    uint64_t features; /* agreed on */
    unsigned queue_count;
    struct ring_driver rings[VIRTIO_DRIVER_QUEUES];
};

/* Up to DRIVER_OK, with `wanted` of the offered features, VERSION_1 among them; rings from `area`
 * on. False when the device does not take the features. */
bool virtio_driver_init(struct virtio_driver *driver, struct virtio_machine *machine, unsigned slot,
                        uint64_t wanted, uint64_t area, uint16_t size);
void virtio_driver_kick(struct virtio_driver *driver, unsigned queue);
uint8_t virtio_driver_status(struct virtio_driver *driver);
void virtio_driver_set_status(struct virtio_driver *driver, uint8_t status);
unsigned virtio_driver_vector(const struct virtio_driver *driver, unsigned queue);

#endif

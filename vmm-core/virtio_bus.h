/* All virtio devices of a machine.
 *
 * Flow:   vm -> [virtio_bus] -> virtio_pci
 * Thread: init and deinit by the vm's owner; drain, is_quiet and go_on are the io loop's.
 */
#ifndef GODWIT_VMM_CORE_VIRTIO_BUS_H
#define GODWIT_VMM_CORE_VIRTIO_BUS_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm-core/virtio.h"

struct fault;
struct machine_shape;
struct pci_bus;
struct virtio_pci;
struct virtio_pci_host;
struct vm_config;

struct virtio_bus {
    unsigned count;
    struct virtio_pci *functions[VIRTIO_FUNCTIONS_MAX]; /* owned, in the order of slots */
};

/* How many devices a machine of this shape has. */
unsigned virtio_bus_functions(const struct machine_shape *shape);

int virtio_bus_init(struct virtio_bus *bus, const struct machine_shape *shape,
                    const struct virtio_pci_host *host, const struct vm_config *config,
                    struct pci_bus *pci, struct fault *fault);
void virtio_bus_deinit(struct virtio_bus *bus);

/* NULL when there is none. */
struct virtio_device *virtio_bus_find(const struct virtio_bus *bus, const struct virtio_kind *kind,
                                      unsigned instance);

void virtio_bus_drain(struct virtio_bus *bus);
bool virtio_bus_is_quiet(struct virtio_bus *bus);
void virtio_bus_go_on(struct virtio_bus *bus);
/* A drain may come soon. */
void virtio_bus_flush_ahead(struct virtio_bus *bus);
/* As after power on. The io loop is parked. */
void virtio_bus_reset(struct virtio_bus *bus);

#endif

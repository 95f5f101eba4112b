#include "vmm-core/virtio_bus.h"

#include <assert.h>
#include <string.h>

#include "vmm-core/layout.h"
#include "vmm-core/virtio_pci.h"
#include "vmm-core/virtio_table.h"

static_assert((int)LAYOUT_PCI_SLOT_VIRTIO + VIRTIO_FUNCTIONS_MAX <= (int)LAYOUT_PCI_SLOTS,
              "every device has a slot");

unsigned virtio_bus_functions(const struct machine_shape *shape)
{
    unsigned count = 0;
    for (size_t i = 0; i < virtio_table_count(); i++)
        count += virtio_table_at(i)->instances(shape);
    return count;
}

static int add_kind(struct virtio_bus *bus, const struct virtio_kind *kind, unsigned instances,
                    const struct virtio_pci_host *host, const struct vm_config *config,
                    struct pci_bus *pci, struct fault *fault)
{
    for (unsigned i = 0; i < instances; i++) {
        assert(bus->count < VIRTIO_FUNCTIONS_MAX);
        int r = virtio_pci_new(&bus->functions[bus->count], kind, i, host, config, pci,
                               LAYOUT_PCI_SLOT_VIRTIO + bus->count, fault);
        if (r < 0)
            return r;
        bus->count++;
    }
    return 0;
}

int virtio_bus_init(struct virtio_bus *bus, const struct machine_shape *shape,
                    const struct virtio_pci_host *host, const struct vm_config *config,
                    struct pci_bus *pci, struct fault *fault)
{
    memset(bus, 0, sizeof *bus);
    for (size_t i = 0; i < virtio_table_count(); i++) {
        const struct virtio_kind *kind = virtio_table_at(i);
        int r = add_kind(bus, kind, kind->instances(shape), host, config, pci, fault);
        if (r < 0)
            return r; /* the caller deinits */
    }
    return 0;
}

void virtio_bus_deinit(struct virtio_bus *bus)
{
    for (unsigned i = 0; i < bus->count; i++)
        bus->functions[i] = virtio_pci_free(bus->functions[i]);
    bus->count = 0;
}

struct virtio_device *virtio_bus_find(const struct virtio_bus *bus, const struct virtio_kind *kind,
                                      unsigned instance)
{
    for (unsigned i = 0; i < bus->count; i++) {
        struct virtio_device *device = &bus->functions[i]->device;
        if (device->kind == kind && device->instance == instance)
            return device;
    }
    return NULL;
}

void virtio_bus_drain(struct virtio_bus *bus)
{
    for (unsigned i = 0; i < bus->count; i++) {
        struct virtio_device *device = &bus->functions[i]->device;
        device->draining = true;
        if (device->kind->drain)
            device->kind->drain(device);
    }
}

bool virtio_bus_is_quiet(struct virtio_bus *bus)
{
    bool quiet = true;
    for (unsigned i = 0; i < bus->count; i++) {
        struct virtio_device *device = &bus->functions[i]->device;
        if (device->kind->is_quiet && !device->kind->is_quiet(device))
            quiet = false;
        else
            virtio_pci_settle(bus->functions[i]);
    }
    return quiet;
}

void virtio_bus_go_on(struct virtio_bus *bus)
{
    for (unsigned i = 0; i < bus->count; i++)
        virtio_pci_go_on(bus->functions[i]);
}

void virtio_bus_flush_ahead(struct virtio_bus *bus)
{
    for (unsigned i = 0; i < bus->count; i++) {
        struct virtio_device *device = &bus->functions[i]->device;
        if (device->kind->flush_ahead && !device->draining)
            device->kind->flush_ahead(device);
    }
}

void virtio_bus_reset(struct virtio_bus *bus)
{
    for (unsigned i = 0; i < bus->count; i++)
        virtio_pci_reset(bus->functions[i]);
}

/* PCI bus 0: configuration space by ECAM and by ports 0xCF8/0xCFC, the host bridge, functions with
 * memory BARs, capabilities and MSI-X.
 *
 * Flow:   vcpu -> mmio, ports -> [pci] -> virtio_pci
 * Thread: all calls under the vm's device lock.
 *
 * A function's configuration space is made of what the machine fixes (ids, capabilities, BAR sizes)
 * and of a few registers that the guest writes; only those travel. There is no INTx.
 */
#ifndef GODWIT_VMM_CORE_PCI_H
#define GODWIT_VMM_CORE_PCI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm-core/layout.h"
#include "vmm-core/mmio.h"

struct device;
struct vm;

enum {
    PCI_CONFIG_BYTES = 256,
    PCI_BARS_MAX = 2, /* BAR 0 and 1, 32-bit memory each */
    PCI_MSIX_VECTORS_MAX = 32,
    PCI_MSIX_ENTRY_BYTES = 16,
    PCI_MSIX_PBA_OFFSET = 0x800, /* in its BAR; the table is at 0 */
    PCI_MSIX_BAR_BYTES = 0x1000,

    PCI_COMMAND = 0x04,
    PCI_COMMAND_MEMORY = 0x0002,
    PCI_COMMAND_MASTER = 0x0004,
    PCI_COMMAND_INTX_DISABLE = 0x0400,
};

struct pci_msix_entry {
    uint64_t address;
    uint32_t data;
    uint32_t control; /* bit 0: masked */
};

struct pci_guest { /* travels */
    uint16_t command;
    uint8_t cache_line, interrupt_line;
    uint32_t bars[PCI_BARS_MAX];
    uint16_t msix_control; /* bits 14 (function mask) and 15 (enable) */
    uint32_t msix_pending; /* bit n: vector n was raised while masked */
    struct pci_msix_entry msix[PCI_MSIX_VECTORS_MAX];
};

struct pci_function;

struct pci_function_ops {
    /* A register of the device's own in configuration space (a capability's window). NULL: none. */
    void (*config_read)(void *data, unsigned offset, uint8_t *bytes, unsigned count);
    void (*config_write)(void *data, unsigned offset, const uint8_t *bytes, unsigned count);
    /* Command or BARs were written, or loaded: addresses may have changed. */
    void (*moved)(void *data);
    /* Tell the processor: an MSI. */
    void (*message)(void *data, uint64_t address, uint32_t value);
};

struct pci_function { /* lives in its device */
    /* set before it is added, read by all */
    unsigned slot;
    const struct pci_function_ops *ops;
    void *data;
    uint32_t bar_bytes[PCI_BARS_MAX]; /* powers of two, 0: no such BAR */
    unsigned msix_vectors;            /* 0: no MSI-X; else BAR 1 is table and PBA */
    unsigned window_offset, window_bytes; /* config_read/write's registers */
    uint8_t fixed[PCI_CONFIG_BYTES];  /* what the guest cannot write */

    /* under the device lock */
    struct pci_guest guest;
    struct mmio_range ranges[PCI_BARS_MAX]; /* ops and data by the device; BAR 1: by pci */
    bool mapped[PCI_BARS_MAX];
    unsigned capability_end; /* where the next capability goes */
    struct mmio *mmio;       /* borrowed */
};

struct pci_ids {
    uint16_t vendor, device, subsystem_vendor, subsystem;
    uint8_t revision, class_code, subclass, interface;
};

struct pci_bus_guest { /* travels */
    uint32_t address; /* port 0xCF8 */
    uint16_t host_command;
};

struct pci_bus {
    struct pci_bus_guest guest;
    struct pci_function *functions[LAYOUT_PCI_SLOTS]; /* borrowed */
    struct mmio_range ecam;
    uint32_t next_bar; /* where the next function's BARs go */
};

extern const struct device pci_device;

void pci_bus_init(struct pci_bus *bus, struct mmio *mmio);

/* Before it is added: ids, then capabilities in order, then BARs. */
void pci_function_init(struct pci_function *function, const struct pci_ids *ids);
/* `body` stands behind id and next pointer. Returns its offset. */
unsigned pci_function_add_capability(struct pci_function *function, uint8_t id,
                                     const uint8_t *body, unsigned body_bytes);
void pci_function_add_msix(struct pci_function *function, unsigned vectors);

/* Put it into its slot and give its BARs their places. */
void pci_bus_add(struct pci_bus *bus, struct pci_function *function, struct mmio *mmio);
/* As after power on, but for the places of BARs. */
void pci_function_reset(struct pci_function *function);
/* The guest half was set as a whole. */
void pci_function_loaded(struct pci_function *function);
/* Is this a guest half that this function can have? */
bool pci_function_takes(const struct pci_function *function, const struct pci_guest *guest);

/* Raise a vector: a message now, or a pending bit while it is masked; lost while MSI-X is off. */
void pci_function_raise(struct pci_function *function, unsigned vector);

/* One access to configuration space, 1 to 4 bytes, inside a double word. */
void pci_bus_config_read(struct pci_bus *bus, unsigned slot, unsigned offset, uint8_t *ret_bytes,
                         unsigned count);
void pci_bus_config_write(struct pci_bus *bus, unsigned slot, unsigned offset,
                          const uint8_t *bytes, unsigned count);

#endif

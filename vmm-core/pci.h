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

#include "proto/device_state.pb-c.h"
#include "vmm-core/layout.h"
#include "vmm-core/mmio.h"

struct device;
struct fault;
struct pci_bus;
struct state_reader;

enum {
    PCI_CONFIG_BYTES = 256,
    PCI_BARS_MAX = 2, /* BAR 0 and 1, 32-bit memory each */
    PCI_MSIX_BAR = 1,
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

struct pci_function_ops {
    /* Registers of the device's own in configuration space: its window. */
    void (*config_read)(void *data, unsigned offset, uint8_t *ret_bytes, unsigned count);
    void (*config_write)(void *data, unsigned offset, const uint8_t *bytes, unsigned count);
    /* BARs may answer elsewhere now (`mapped`, `ranges`). NULL: does not care. */
    void (*moved)(void *data);
    /* An MSI, to a local APIC. */
    void (*message)(void *data, uint64_t address, uint32_t value);
};

struct pci_function { /* lives in its device, zeroed before init */
    /* set before it is added, read by all */
    const struct pci_function_ops *ops; /* borrowed */
    void *data;
    uint32_t bar_bytes[PCI_BARS_MAX];     /* powers of two, 0: no such BAR */
    unsigned window_offset, window_bytes; /* of registers of the device's own */
    uint8_t fixed[PCI_CONFIG_BYTES];      /* what the guest cannot write */
    unsigned msix_vectors, msix_offset;   /* 0: no MSI-X */
    unsigned last_capability, capability_end;
    struct pci_bus *bus;               /* borrowed */
    uint32_t bar_places[PCI_BARS_MAX]; /* after power on */

    /* under the device lock */
    struct pci_guest guest;
    struct mmio_range ranges[PCI_BARS_MAX]; /* BAR 0: ops and data are the device's */
    bool mapped[PCI_BARS_MAX];
};

struct pci_ids {
    uint16_t vendor, device, subsystem_vendor, subsystem;
    uint8_t revision, class_code, subclass, interface;
};

struct pci_bus_guest { /* travels */
    uint32_t address;  /* port 0xCF8 */
    uint16_t host_command;
    uint8_t host_cache_line, host_interrupt_line;
};

struct pci_bus {
    struct mmio *mmio;                                /* borrowed */
    struct pci_function *functions[LAYOUT_PCI_SLOTS]; /* borrowed */
    struct pci_function host;
    struct mmio_range ecam;
    uint32_t next_bar; /* where the next function's BARs go */
    uint32_t address;  /* port 0xCF8 */
};

extern const struct device pci_device;

void pci_bus_init(struct pci_bus *bus, struct mmio *mmio);
/* Put a finished function into its slot and give its BARs their places; both outlive their use. */
void pci_bus_add(struct pci_bus *bus, struct pci_function *function, unsigned slot);
/* The bus and its bridge, not the functions. */
void pci_bus_reset(struct pci_bus *bus);
/* Make every BAR answer where its function's registers say. */
void pci_bus_place_bars(struct pci_bus *bus);

/* Before a function is added: ids, then capabilities. */
void pci_function_init(struct pci_function *function, const struct pci_ids *ids);
/* `body` stands behind id and next pointer. Returns the capability's offset. */
unsigned pci_function_add_capability(struct pci_function *function, uint8_t id, const uint8_t *body,
                                     unsigned body_bytes);
void pci_function_add_msix(struct pci_function *function, unsigned vectors);

/* As after power on. */
void pci_function_reset(struct pci_function *function);
/* Is this a guest half that the function can have? Then it can be set. */
bool pci_function_takes(const struct pci_function *function, const struct pci_guest *guest);
void pci_function_set(struct pci_function *function, const struct pci_guest *guest);

/* Raise a vector: a message now, or a pending bit while it is masked; lost while MSI-X is off. */
void pci_function_raise(struct pci_function *function, unsigned vector);

/* One access to configuration space, inside a double word. */
void pci_bus_config_read(struct pci_bus *bus, unsigned slot, unsigned offset, uint8_t *ret_bytes,
                         unsigned count);
void pci_bus_config_write(struct pci_bus *bus, unsigned slot, unsigned offset, const uint8_t *bytes,
                          unsigned count);
/* One access to ports 0xCF8 to 0xCFF. */
void pci_bus_port_read(struct pci_bus *bus, uint16_t port, uint8_t *ret_bytes, unsigned count);
void pci_bus_port_write(struct pci_bus *bus, uint16_t port, const uint8_t *bytes, unsigned count);

/* Guest half <-> PciFunctionV1, a part of a device's message; the arrays live in `message`. */
struct pci_function_message {
    Godwit__PciFunctionV1 out;
    uint32_t bars[PCI_BARS_MAX];
    uint64_t addresses[PCI_MSIX_VECTORS_MAX];
    uint32_t data[PCI_MSIX_VECTORS_MAX], controls[PCI_MSIX_VECTORS_MAX];
};
void pci_function_save(const struct pci_guest *guest, struct pci_function_message *message);
void pci_function_load(struct state_reader *reader, const Godwit__PciFunctionV1 *in,
                       struct pci_guest *ret_guest);

/* The bus's guest half <-> packed PciStateV1. */
void pci_bus_capture(const struct pci_bus *bus, struct pci_bus_guest *ret_guest);
void pci_bus_revive(struct pci_bus *bus, const struct pci_bus_guest *guest);
int pci_bus_save(const struct pci_bus_guest *guest, uint8_t **ret_bytes, size_t *ret_count);
int pci_bus_load(struct pci_bus_guest *ret_guest, const uint8_t *bytes, size_t count,
                 struct fault *fault);

#endif

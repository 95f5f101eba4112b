/* Where everything lies that a guest of machine godwit-1 can address: part of what a move keeps.
 *
 * Flow:   boot tables, pci, devices -> [layout] <- guest_memory
 * Thread: constants only.
 *
 *   0 ......... 0xC0000000   RAM (guest_memory.h), the rest of it from 4 GiB on
 *   0xC0000000 .. 0xDFFFFFFF PCI memory: where BARs are placed and may be moved to
 *   0xE0000000 .. 0xE00FFFFF PCI configuration space (ECAM) of bus 0
 *   0xFEC00000, 0xFEE00000   IOAPIC, local APIC (KVM's)
 *   0xFFFBC000 .. 0xFFFBFFFF KVM's own pages
 */
#ifndef GODWIT_VMM_CORE_LAYOUT_H
#define GODWIT_VMM_CORE_LAYOUT_H

#include <assert.h>
#include <stdint.h>

#include "vmm-core/guest_memory.h"

#define LAYOUT_PCI_MMIO_START UINT64_C(0xC0000000)
#define LAYOUT_PCI_MMIO_BYTES UINT64_C(0x20000000)
#define LAYOUT_ECAM_START UINT64_C(0xE0000000)
#define LAYOUT_ECAM_BYTES UINT64_C(0x100000) /* bus 0: 32 slots, 8 functions, 4 KiB each */
#define LAYOUT_IOAPIC UINT64_C(0xFEC00000)
#define LAYOUT_LAPIC UINT64_C(0xFEE00000)
/* A page and three more for guests in real mode on older processors. */
#define LAYOUT_KVM_IDENTITY_MAP UINT64_C(0xFFFBC000)
#define LAYOUT_KVM_TSS UINT64_C(0xFFFBD000)

enum {
    LAYOUT_PORT_RTC = 0x70, /* and 0x71 */
    LAYOUT_PORT_SERIAL = 0x3f8,
    LAYOUT_PORT_PM = 0x600, /* to 0x6ff */
    LAYOUT_PORT_PM_COUNT = 0x100,
    LAYOUT_PORT_PCI_ADDRESS = 0xcf8,
    LAYOUT_PORT_PCI_DATA = 0xcfc, /* to 0xcff */

    LAYOUT_GSI_SERIAL = 4,
    LAYOUT_GSI_RTC = 8,
    LAYOUT_GSI_ACPI = 9,
    LAYOUT_GSI_COUNT = 24, /* pins of the IOAPIC; PCI functions have MSI-X only */

    /* Slots of bus 0. Present devices follow each other in this order: console, rng, balloon,
     * vsock, disks, nics. */
    LAYOUT_PCI_SLOT_HOST = 0,
    LAYOUT_PCI_SLOT_VIRTIO = 1,
    LAYOUT_PCI_SLOTS = 32,
};

static_assert(GUEST_MEMORY_HOLE_START <= LAYOUT_PCI_MMIO_START, "no RAM below a BAR");
static_assert(LAYOUT_PCI_MMIO_START + LAYOUT_PCI_MMIO_BYTES <= LAYOUT_ECAM_START,
              "no BAR above configuration space");
static_assert(LAYOUT_ECAM_START + LAYOUT_ECAM_BYTES <= LAYOUT_IOAPIC, "below the APICs");
static_assert(LAYOUT_KVM_TSS + 0x3000 <= GUEST_MEMORY_HOLE_END, "all of it below 4 GiB");

#endif

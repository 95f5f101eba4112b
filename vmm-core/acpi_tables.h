/* The ACPI tables of machine godwit-1, as firmware would leave them below 1 MiB.
 *
 * Flow:   vm_boot -> [acpi_tables] -> guest_memory; boot_pvh, boot_bzimage name their place
 * Thread: owner's.
 * Source: ACPI specification 6.3, chapter 5; PCI firmware specification 3.2 (MCFG).
 *
 * Part of the machine version: they are built from the number of vCPUs and from nothing else, and
 * golden files hold them. What the DSDT says stands in acpi_dsdt.asl.
 *
 * A PC with classic PM1 registers, not "hardware-reduced": its interrupt controllers, timer chip
 * and clock are those of a PC, and hardware-reduced ACPI would tell kernels to leave all of them
 * alone. Every system knows this way, the power button is a bit in a register instead of bytecode
 * behind a GED, and the PM timer is a clock for guests that do not know KVM's.
 */
#ifndef GODWIT_VMM_CORE_ACPI_TABLES_H
#define GODWIT_VMM_CORE_ACPI_TABLES_H

#include <stddef.h>
#include <stdint.h>

struct guest_memory;

enum {
    ACPI_TABLES_FIRST = 0xe0000, /* guest-physical; the RSDP, where systems also search for it */
    ACPI_TABLES_BYTES = 0x10000, /* room */
};

/* As they lie from ACPI_TABLES_FIRST on. Returns how many bytes are used. */
size_t acpi_tables_build(uint8_t ret_bytes[static ACPI_TABLES_BYTES], unsigned vcpus);

void acpi_tables_put(struct guest_memory *memory, unsigned vcpus);

#endif

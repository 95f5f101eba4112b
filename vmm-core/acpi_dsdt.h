/* The compiled DSDT: acpi_dsdt.asl as bytes, with a checksum still to be made.
 *
 * Flow:   [acpi_dsdt] -> acpi_tables
 * Thread: constant.
 */
#ifndef GODWIT_VMM_CORE_ACPI_DSDT_H
#define GODWIT_VMM_CORE_ACPI_DSDT_H

#include <stddef.h>
#include <stdint.h>

extern const uint8_t acpi_dsdt[];
extern const size_t acpi_dsdt_bytes;

#endif

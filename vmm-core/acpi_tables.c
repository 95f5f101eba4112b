/* One table behind the other, each knowing where those lie that it points to:
 *
 *   RSDP -> XSDT -> FADT -> FACS, DSDT
 *                -> MADT
 *                -> MCFG
 */
#include "vmm-core/acpi_tables.h"

#include <assert.h>
#include <string.h>

#include "base/bytes.h"
#include "proto/limits.h"
#include "vmm-core/acpi_dsdt.h"
#include "vmm-core/dev_pm.h"
#include "vmm-core/dev_reset.h"
#include "vmm-core/dev_rtc.h"
#include "vmm-core/guest_memory.h"
#include "vmm-core/layout.h"

enum {
    HEADER_BYTES = 36,
    RSDP_BYTES = 36,
    RSDP_OLD_BYTES = 20, /* what its first checksum covers */
    FACS_BYTES = 64,
    FADT_BYTES = 276,
    XSDT_TABLES = 3,
    TABLE_ALIGN = 64, /* the FACS wants it */

    FADT_SERVER = 4,
    FADT_LEGACY_DEVICES = 0x01, /* COM1; no bit for a keyboard controller */
    FADT_NO_VGA = 0x04,
    FADT_NO_ASPM = 0x10,
    FADT_WBINVD = 1 << 0,
    FADT_C1 = 1 << 2,
    FADT_NO_SLEEP_BUTTON = 1 << 5,
    FADT_NO_RTC_WAKE = 1 << 6,
    FADT_TIMER_32_BITS = 1 << 8,
    FADT_RESET_REGISTER = 1 << 10,
    FADT_NO_C2 = 101,  /* us: above 100 there is none */
    FADT_NO_C3 = 1001, /* us: above 1000 there is none */

    SPACE_IO = 1,
    ACCESS_BYTE = 1,
    ACCESS_WORD = 2,
    ACCESS_DOUBLE = 3,

    MADT_HAS_8259 = 1,
    MADT_LAPIC = 0,
    MADT_IOAPIC = 1,
    MADT_OVERRIDE = 2,
    MADT_LAPIC_NMI = 4,
    MADT_LEVEL_HIGH = 0x0d,
    MADT_AS_THE_BUS = 0,
};

struct writer {
    uint8_t *bytes;
    size_t used;
};

static uint8_t *take(struct writer *writer, size_t count)
{
    assert(count <= ACPI_TABLES_BYTES - writer->used);
    uint8_t *at = writer->bytes + writer->used;
    writer->used += count;
    return at;
}

static uint64_t begin(struct writer *writer)
{
    writer->used = (writer->used + TABLE_ALIGN - 1) & ~(size_t)(TABLE_ALIGN - 1);
    assert(writer->used < ACPI_TABLES_BYTES);
    return ACPI_TABLES_FIRST + writer->used;
}

static uint8_t *table_at(const struct writer *writer, uint64_t address)
{
    return writer->bytes + (address - ACPI_TABLES_FIRST);
}

/* The byte that makes the sum over `count` bytes zero. */
static uint8_t checksum(const uint8_t *at, size_t count)
{
    uint8_t sum = 0;
    for (size_t i = 0; i < count; i++)
        sum = (uint8_t)(sum + at[i]);
    return (uint8_t)-sum;
}

static uint64_t begin_table(struct writer *writer, const char *signature, uint8_t revision)
{
    uint64_t address = begin(writer);
    uint8_t *at = take(writer, HEADER_BYTES);
    memcpy(at, signature, 4);
    at[8] = revision;
    memcpy(at + 10, "GODWITGODWIT-1", 14);
    bytes_put_u32(at + 24, 1);
    memcpy(at + 28, "GDWT", 4);
    bytes_put_u32(at + 32, 1);
    return address;
}

static void end_table(struct writer *writer, uint64_t address)
{
    uint8_t *at = table_at(writer, address);
    size_t count = (size_t)(ACPI_TABLES_FIRST + writer->used - address);
    bytes_put_u32(at + 4, (uint32_t)count);
    at[9] = 0;
    at[9] = checksum(at, count);
}

static uint64_t put_dsdt(struct writer *writer)
{
    uint64_t address = begin(writer);
    memcpy(take(writer, acpi_dsdt_bytes), acpi_dsdt, acpi_dsdt_bytes);
    end_table(writer, address);
    return address;
}

static uint64_t put_facs(struct writer *writer)
{
    uint64_t address = begin(writer);
    uint8_t *at = take(writer, FACS_BYTES);
    memcpy(at, "FACS", 4);
    bytes_put_u32(at + 4, FACS_BYTES);
    at[32] = 2; /* version */
    return address;
}

/* A register of ports in the form that ACPI gives to all registers. */
static void put_ports(uint8_t *at, uint8_t bits, uint8_t access, uint16_t port)
{
    at[0] = SPACE_IO;
    at[1] = bits;
    at[2] = 0;
    at[3] = access;
    bytes_put_u64(at + 4, port);
}

static uint64_t put_fadt(struct writer *writer, uint64_t facs, uint64_t dsdt)
{
    uint64_t address = begin_table(writer, "FACP", 6);
    (void)take(writer, FADT_BYTES - HEADER_BYTES);
    uint8_t *at = table_at(writer, address);
    bytes_put_u32(at + 36, (uint32_t)facs);
    bytes_put_u32(at + 40, (uint32_t)dsdt);
    at[45] = FADT_SERVER;
    bytes_put_u16(at + 46, LAYOUT_GSI_ACPI);
    /* No SMI command port: ACPI is always on. */
    bytes_put_u32(at + 56, PM_PORT_STATUS);
    bytes_put_u32(at + 64, PM_PORT_CONTROL);
    bytes_put_u32(at + 76, PM_PORT_TIMER);
    at[88] = 4; /* bytes of status and enable */
    at[89] = 2;
    at[91] = 4;
    bytes_put_u16(at + 96, FADT_NO_C2);
    bytes_put_u16(at + 98, FADT_NO_C3);
    at[108] = RTC_CENTURY;
    bytes_put_u16(at + 109, FADT_LEGACY_DEVICES | FADT_NO_VGA | FADT_NO_ASPM);
    bytes_put_u32(at + 112, FADT_WBINVD | FADT_C1 | FADT_NO_SLEEP_BUTTON | FADT_NO_RTC_WAKE |
                                FADT_TIMER_32_BITS | FADT_RESET_REGISTER);
    put_ports(at + 116, 8, ACCESS_BYTE, RESET_PORT_CONTROL);
    at[128] = RESET_CONTROL_HARD;
    at[131] = 3; /* of 6.3 */
    bytes_put_u64(at + 140, dsdt);
    put_ports(at + 148, 32, ACCESS_WORD, PM_PORT_STATUS);
    put_ports(at + 172, 16, ACCESS_WORD, PM_PORT_CONTROL);
    put_ports(at + 208, 32, ACCESS_DOUBLE, PM_PORT_TIMER);
    end_table(writer, address);
    return address;
}

static void put_override(struct writer *writer, uint8_t irq, uint32_t gsi, uint16_t flags)
{
    uint8_t *at = take(writer, 10);
    at[0] = MADT_OVERRIDE;
    at[1] = 10;
    at[3] = irq;
    bytes_put_u32(at + 4, gsi);
    bytes_put_u16(at + 8, flags);
}

static uint64_t put_madt(struct writer *writer, unsigned vcpus)
{
    uint64_t address = begin_table(writer, "APIC", 5);
    uint8_t *at = take(writer, 8);
    bytes_put_u32(at, (uint32_t)LAYOUT_LAPIC);
    bytes_put_u32(at + 4, MADT_HAS_8259);
    for (unsigned i = 0; i < vcpus; i++) {
        at = take(writer, 8);
        at[0] = MADT_LAPIC;
        at[1] = 8;
        at[2] = (uint8_t)i;       /* processor's uid */
        at[3] = (uint8_t)i;       /* APIC id */
        bytes_put_u32(at + 4, 1); /* it is there */
    }
    at = take(writer, 12);
    at[0] = MADT_IOAPIC;
    at[1] = 12;
    bytes_put_u32(at + 4, (uint32_t)LAYOUT_IOAPIC);
    put_override(writer, 0, 2, MADT_AS_THE_BUS);
    put_override(writer, LAYOUT_GSI_ACPI, LAYOUT_GSI_ACPI, MADT_LEVEL_HIGH);
    at = take(writer, 6);
    at[0] = MADT_LAPIC_NMI;
    at[1] = 6;
    at[2] = 0xff; /* of every processor */
    at[5] = 1;    /* LINT1 */
    end_table(writer, address);
    return address;
}

static uint64_t put_mcfg(struct writer *writer)
{
    uint64_t address = begin_table(writer, "MCFG", 1);
    uint8_t *at = take(writer, 8 + 16);
    bytes_put_u64(at + 8, LAYOUT_ECAM_START); /* segment 0, bus 0 to bus 0 */
    end_table(writer, address);
    return address;
}

static uint64_t put_xsdt(struct writer *writer, const uint64_t tables[static XSDT_TABLES])
{
    uint64_t address = begin_table(writer, "XSDT", 1);
    for (size_t i = 0; i < XSDT_TABLES; i++)
        bytes_put_u64(take(writer, 8), tables[i]);
    end_table(writer, address);
    return address;
}

static void put_rsdp(uint8_t *at, uint64_t xsdt)
{
    memcpy(at, "RSD PTR ", 8);
    memcpy(at + 9, "GODWIT", 6);
    at[15] = 2; /* revision: has an XSDT */
    bytes_put_u32(at + 20, RSDP_BYTES);
    bytes_put_u64(at + 24, xsdt);
    at[8] = checksum(at, RSDP_OLD_BYTES);
    at[32] = checksum(at, RSDP_BYTES);
}

size_t acpi_tables_build(uint8_t ret_bytes[static ACPI_TABLES_BYTES], unsigned vcpus)
{
    assert(vcpus >= 1 && vcpus <= VCPUS_MAX);
    memset(ret_bytes, 0, ACPI_TABLES_BYTES);
    struct writer writer = {.bytes = ret_bytes};
    uint8_t *rsdp = take(&writer, RSDP_BYTES);
    uint64_t facs = put_facs(&writer);
    uint64_t dsdt = put_dsdt(&writer);
    uint64_t tables[XSDT_TABLES];
    tables[0] = put_fadt(&writer, facs, dsdt);
    tables[1] = put_madt(&writer, vcpus);
    tables[2] = put_mcfg(&writer);
    put_rsdp(rsdp, put_xsdt(&writer, tables));
    return writer.used;
}

void acpi_tables_put(struct guest_memory *memory, unsigned vcpus)
{
    uint8_t *at = guest_memory_at(memory, ACPI_TABLES_FIRST, ACPI_TABLES_BYTES);
    assert(at); /* below 1 MiB: every guest has it */
    size_t used = acpi_tables_build(at, vcpus);
    guest_memory_mark_written(memory, ACPI_TABLES_FIRST, used);
}

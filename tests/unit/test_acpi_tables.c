/* The tables are part of machine version godwit-1: golden files hold them, byte for byte.
 * GODWIT_GOLDEN_WRITE=1 writes those that do not exist yet. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "vmm-core/acpi_tables.h"
#include "vmm-core/guest_memory.h"

static uint8_t tables[ACPI_TABLES_BYTES];

static void golden_compare(const char *name, const uint8_t *bytes, size_t count)
{
    char path[160];
    (void)snprintf(path, sizeof path, "tests/golden/%s.bin", name);
    FILE *file = fopen(path, "rb");
    if (!file && errno == ENOENT && getenv("GODWIT_GOLDEN_WRITE")) {
        file = fopen(path, "wb");
        assert_non_null(file);
        assert_int_equal(fwrite(bytes, 1, count, file), count);
        assert_int_equal(fclose(file), 0);
        return;
    }
    if (!file)
        fail_msg("no %s", path);
    static uint8_t golden[ACPI_TABLES_BYTES + 1];
    size_t golden_count = fread(golden, 1, sizeof golden, file);
    (void)fclose(file);
    assert_int_equal(golden_count, count);
    assert_memory_equal(golden, bytes, count);
}

static void the_tables_of_godwit_1_never_change(void **state)
{
    (void)state;
    golden_compare("acpi_tables_1_vcpu", tables, acpi_tables_build(tables, 1));
    golden_compare("acpi_tables_16_vcpus", tables, acpi_tables_build(tables, 16));
}

static uint8_t sum(const uint8_t *at, size_t count)
{
    uint8_t total = 0;
    for (size_t i = 0; i < count; i++)
        total = (uint8_t)(total + at[i]);
    return total;
}

/* Where guest-physical `address` is in the tables; fails the test outside them. */
static const uint8_t *at_address(uint64_t address, size_t used)
{
    assert_true(address >= ACPI_TABLES_FIRST && address < ACPI_TABLES_FIRST + used);
    return tables + (address - ACPI_TABLES_FIRST);
}

static const uint8_t *find_table(const char *signature, size_t used)
{
    const uint8_t *xsdt = at_address(bytes_get_u64(tables + 24), used);
    unsigned count = (bytes_get_u32(xsdt + 4) - 36) / 8;
    for (unsigned i = 0; i < count; i++) {
        const uint8_t *table = at_address(bytes_get_u64(xsdt + 36 + 8 * i), used);
        if (memcmp(table, signature, 4) == 0)
            return table;
    }
    fail_msg("no table %s", signature);
    return NULL;
}

static void every_table_is_found_and_sums_to_zero(void **state)
{
    (void)state;
    for (unsigned vcpus = 1; vcpus <= 16; vcpus++) {
        size_t used = acpi_tables_build(tables, vcpus);

        assert_memory_equal(tables, "RSD PTR ", 8);
        assert_int_equal(sum(tables, 20), 0);
        assert_int_equal(sum(tables, 36), 0);
        const uint8_t *xsdt = at_address(bytes_get_u64(tables + 24), used);
        assert_int_equal(sum(xsdt, bytes_get_u32(xsdt + 4)), 0);
        static const char *const names[] = {"FACP", "APIC", "MCFG"};
        for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
            const uint8_t *table = find_table(names[i], used);
            assert_int_equal(sum(table, bytes_get_u32(table + 4)), 0);
        }
        const uint8_t *fadt = find_table("FACP", used);
        const uint8_t *dsdt = at_address(bytes_get_u64(fadt + 140), used);
        assert_memory_equal(dsdt, "DSDT", 4);
        assert_int_equal(sum(dsdt, bytes_get_u32(dsdt + 4)), 0);
        assert_memory_equal(at_address(bytes_get_u32(fadt + 36), used), "FACS", 4);
    }
}

static void the_madt_names_every_vcpu(void **state)
{
    (void)state;
    size_t used = acpi_tables_build(tables, 5);
    const uint8_t *madt = find_table("APIC", used);
    unsigned end = bytes_get_u32(madt + 4);
    unsigned lapics = 0, ioapics = 0, overrides = 0;

    for (unsigned at = 44; at < end; at += madt[at + 1]) {
        assert_true(madt[at + 1] >= 2);
        if (madt[at] == 0) {
            assert_int_equal(madt[at + 3], lapics);
            assert_int_equal(bytes_get_u32(madt + at + 4), 1);
            lapics++;
        }
        ioapics += madt[at] == 1;
        overrides += madt[at] == 2;
    }

    assert_int_equal(lapics, 5);
    assert_int_equal(ioapics, 1);
    assert_int_equal(overrides, 2);
}

static void they_lie_where_the_guest_looks_for_them(void **state)
{
    (void)state;
    struct guest_memory *memory = NULL;
    assert_int_equal(guest_memory_new(&memory, GUEST_MEMORY_BYTES_MIN, false, NULL), 0);

    acpi_tables_put(memory, 2);

    size_t used = acpi_tables_build(tables, 2);
    assert_memory_equal(guest_memory_at(memory, 0xe0000, used), tables, used);
    (void)guest_memory_free(memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_tables_of_godwit_1_never_change),
        cmocka_unit_test(every_table_is_found_and_sums_to_zero),
        cmocka_unit_test(the_madt_names_every_vcpu),
        cmocka_unit_test(they_lie_where_the_guest_looks_for_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

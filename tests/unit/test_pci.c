#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "vmm-core/pci.h"

enum { SLOT = 3, BAR_BYTES = 0x4000 };

struct bench {
    struct mmio mmio;
    struct pci_bus bus;
    struct pci_function function, other;
    unsigned moved, messages;
    uint64_t address;
    uint32_t value;
};

static void on_moved(void *data)
{
    ((struct bench *)data)->moved++;
}

static void on_message(void *data, uint64_t address, uint32_t value)
{
    struct bench *bench = data;
    bench->messages++;
    bench->address = address;
    bench->value = value;
}

static void bar_read(void *data, uint64_t offset, uint8_t *ret_bytes, unsigned count)
{
    (void)offset;
    memset(ret_bytes, *(const uint8_t *)data, count);
}

static const struct pci_function_ops function_ops = {.moved = on_moved, .message = on_message};
static const struct mmio_ops bar_ops = {.read = bar_read};

static void make_function(struct bench *bench, struct pci_function *function, uint8_t *answer)
{
    const struct pci_ids ids = {
        .vendor = 0x1af4, .device = 0x1042, .class_code = 1, .subclass = 0x80};
    pci_function_init(function, &ids);
    pci_function_add_msix(function, 3);
    function->ops = &function_ops;
    function->data = bench;
    function->bar_bytes[0] = BAR_BYTES;
    function->ranges[0].ops = &bar_ops;
    function->ranges[0].data = answer;
}

static uint8_t answer = 0x11, other_answer = 0x22;

static void bench_begin(struct bench *bench)
{
    memset(bench, 0, sizeof *bench);
    pci_bus_init(&bench->bus, &bench->mmio);
    make_function(bench, &bench->function, &answer);
    make_function(bench, &bench->other, &other_answer);
    pci_bus_add(&bench->bus, &bench->function, SLOT);
    pci_bus_add(&bench->bus, &bench->other, SLOT + 1);
}

static uint64_t read_at(struct bench *bench, uint64_t address, unsigned count)
{
    uint8_t bytes[8] = {0};
    mmio_read(&bench->mmio, address, bytes, count);
    return bytes_get_u64(bytes);
}

static void write_at(struct bench *bench, uint64_t address, uint64_t value, unsigned count)
{
    uint8_t bytes[8];
    bytes_put_u64(bytes, value);
    mmio_write(&bench->mmio, address, bytes, count);
}

static uint64_t config_at(unsigned slot, unsigned offset)
{
    return LAYOUT_ECAM_START + (slot << 15) + offset;
}

static uint32_t port_read(struct bench *bench, uint32_t address, unsigned offset, unsigned count)
{
    uint8_t bytes[4];
    bytes_put_u32(bytes, address);
    pci_bus_port_write(&bench->bus, LAYOUT_PORT_PCI_ADDRESS, bytes, 4);
    memset(bytes, 0, sizeof bytes);
    pci_bus_port_read(&bench->bus, (uint16_t)(LAYOUT_PORT_PCI_DATA + offset), bytes, count);
    return bytes_get_u32(bytes);
}

static void both_ways_to_configuration_space_show_the_same(void **state)
{
    (void)state;
    struct bench bench;
    bench_begin(&bench);

    assert_int_equal(read_at(&bench, config_at(0, 0), 4), 0x00081b36);
    assert_int_equal(read_at(&bench, config_at(0, 0x0a), 2), 0x0600);
    assert_int_equal(read_at(&bench, config_at(SLOT, 0), 4), 0x10421af4);
    for (unsigned offset = 0; offset < PCI_CONFIG_BYTES; offset += 4)
        assert_int_equal(port_read(&bench, 0x80000000 | SLOT << 11 | offset, 0, 4),
                         read_at(&bench, config_at(SLOT, offset), 4));
    assert_int_equal(port_read(&bench, 0x80000000 | SLOT << 11, 2, 2), 0x1042);
    assert_int_equal(port_read(&bench, 0x80000000 | SLOT << 11 | 8, 3, 1), 0x01);
}

static void where_nothing_is_there_are_ones(void **state)
{
    (void)state;
    struct bench bench;
    bench_begin(&bench);

    assert_int_equal(read_at(&bench, config_at(9, 0), 4), 0xffffffff);
    assert_int_equal(read_at(&bench, config_at(SLOT, 0) | 1 << 12, 4), 0xffffffff); /* function 1 */
    assert_int_equal(port_read(&bench, 0x80010000 | SLOT << 11, 0, 4), 0xffffffff); /* bus 1 */
    assert_int_equal(port_read(&bench, SLOT << 11, 0, 4), 0xffffffff);              /* off */
    assert_int_equal(port_read(&bench, 0x80000000 | SLOT << 11, 2, 4), 0xffffffff); /* across */
    assert_int_equal(read_at(&bench, config_at(SLOT, 0x100), 4), 0); /* no extended capability */
    write_at(&bench, config_at(9, 4), 7, 2);
    write_at(&bench, config_at(SLOT, 0xfff), 7, 8);
}

static void a_guest_sizes_and_moves_a_bar(void **state)
{
    (void)state;
    struct bench bench;
    bench_begin(&bench);
    uint64_t first = read_at(&bench, config_at(SLOT, 0x10), 4);
    assert_int_equal(first, LAYOUT_PCI_MMIO_START);
    assert_int_equal(read_at(&bench, first, 1), 0xff); /* not decoded yet */
    write_at(&bench, config_at(SLOT, PCI_COMMAND), PCI_COMMAND_MEMORY, 2);
    assert_int_equal(read_at(&bench, first, 1), 0x11);

    write_at(&bench, config_at(SLOT, 0x10), 0xffffffff, 4);
    assert_int_equal(read_at(&bench, config_at(SLOT, 0x10), 4), (uint32_t)-BAR_BYTES);
    assert_false(bench.function.mapped[0]);
    write_at(&bench, config_at(SLOT, 0x10), 0xd0000000, 4);

    assert_int_equal(read_at(&bench, first, 1), 0xff);
    assert_int_equal(read_at(&bench, 0xd0003fff, 1), 0x11);
    assert_true(bench.moved > 0);
    write_at(&bench, config_at(SLOT, PCI_COMMAND), 0, 2);
    assert_int_equal(read_at(&bench, 0xd0000000, 1), 0xff);
}

static void a_bar_outside_its_window_or_over_another_is_not_there(void **state)
{
    (void)state;
    struct bench bench;
    bench_begin(&bench);
    write_at(&bench, config_at(SLOT, PCI_COMMAND), PCI_COMMAND_MEMORY, 2);
    write_at(&bench, config_at(SLOT + 1, PCI_COMMAND), PCI_COMMAND_MEMORY, 2);
    uint32_t place = (uint32_t)read_at(&bench, config_at(SLOT, 0x10), 4);

    write_at(&bench, config_at(SLOT + 1, 0x10), place, 4); /* the lower slot has it */
    assert_int_equal(read_at(&bench, place, 1), 0x11);
    assert_false(bench.other.mapped[0]);
    write_at(&bench, config_at(SLOT, PCI_COMMAND), 0, 2); /* until it goes */
    assert_int_equal(read_at(&bench, place, 1), 0x22);
    write_at(&bench, config_at(SLOT + 1, 0x10), 0xe0000000, 4); /* over the ECAM */
    assert_false(bench.other.mapped[0]);
    write_at(&bench, config_at(SLOT + 1, 0x10), 0x100000, 4); /* over RAM */
    assert_false(bench.other.mapped[0]);
    assert_int_equal(read_at(&bench, config_at(SLOT, 0), 4), 0x10421af4);
}

static void only_writable_bits_are_written(void **state)
{
    (void)state;
    struct bench bench;
    bench_begin(&bench);
    for (unsigned offset = 0; offset < PCI_CONFIG_BYTES; offset += 4) {
        uint64_t before = read_at(&bench, config_at(SLOT, offset), 4);
        write_at(&bench, config_at(SLOT, offset), 0xffffffff, 4);
        uint64_t changed = before ^ read_at(&bench, config_at(SLOT, offset), 4);
        uint64_t allowed = 0;
        if (offset == PCI_COMMAND)
            allowed = 0x406;
        if (offset == 0x0c || offset == 0x3c)
            allowed = 0xff;
        if (offset == 0x10 || offset == 0x14)
            allowed = 0xffffffff;
        if (offset == bench.function.msix_offset)
            allowed = 0xc0000000;
        assert_int_equal(changed & ~allowed, 0);
    }
    struct pci_guest guest = bench.function.guest;
    assert_true(pci_function_takes(&bench.function, &guest));
}

static uint64_t table_of(struct bench *bench)
{
    write_at(bench, config_at(SLOT, PCI_COMMAND), PCI_COMMAND_MEMORY, 2);
    return read_at(bench, config_at(SLOT, 0x14), 4);
}

static void set_control(struct bench *bench, uint32_t control)
{
    write_at(bench, config_at(SLOT, bench->function.msix_offset + 2), control, 2);
}

static void a_vector_is_sent_or_kept_while_masked(void **state)
{
    (void)state;
    struct bench bench;
    bench_begin(&bench);
    uint64_t table = table_of(&bench);
    write_at(&bench, table + 16, 0xfee01000, 8);
    write_at(&bench, table + 24, 0x42, 4);
    pci_function_raise(&bench.function, 1);
    assert_int_equal(bench.messages, 0); /* MSI-X is off: lost */
    set_control(&bench, 0x8000);

    pci_function_raise(&bench.function, 1); /* masked since power on */
    assert_int_equal(bench.messages, 0);
    assert_int_equal(read_at(&bench, table + PCI_MSIX_PBA_OFFSET, 4), 2);
    write_at(&bench, table + 28, 0, 4);
    assert_int_equal(bench.messages, 1);
    assert_int_equal(bench.address, 0xfee01000);
    assert_int_equal(bench.value, 0x42);
    assert_int_equal(read_at(&bench, table + PCI_MSIX_PBA_OFFSET, 8), 0);

    set_control(&bench, 0xc000); /* the whole function */
    pci_function_raise(&bench.function, 1);
    pci_function_raise(&bench.function, 1);
    assert_int_equal(bench.messages, 1);
    set_control(&bench, 0x8000);
    assert_int_equal(bench.messages, 2);
    pci_function_raise(&bench.function, 3); /* there are three */
    pci_function_raise(&bench.function, 0xffff);
    assert_int_equal(bench.messages, 2);
}

static void a_message_goes_to_interrupt_controllers_only(void **state)
{
    (void)state;
    struct bench bench;
    bench_begin(&bench);
    uint64_t table = table_of(&bench);
    set_control(&bench, 0x8000);
    write_at(&bench, table + 12, 0, 4);
    static const uint64_t elsewhere[] = {0, 0x100000, 0xfed00000, 0x1fee00000, UINT64_MAX};

    for (size_t i = 0; i < sizeof elsewhere / sizeof elsewhere[0]; i++) {
        write_at(&bench, table, elsewhere[i], 8);
        pci_function_raise(&bench.function, 0);
        assert_int_equal(bench.messages, 0);
    }
}

static void odd_accesses_to_the_table_do_nothing(void **state)
{
    (void)state;
    struct bench bench;
    bench_begin(&bench);
    uint64_t table = table_of(&bench);
    write_at(&bench, table, 0x12345678, 4);
    write_at(&bench, table, 0xff, 1);
    write_at(&bench, table + 2, 0xffffffff, 4);
    write_at(&bench, table + PCI_MSIX_PBA_OFFSET, 0xffffffff, 4);
    write_at(&bench, table + 3 * 16, 0xffffffff, 4); /* behind the last vector */

    assert_int_equal(read_at(&bench, table, 4), 0x12345678);
    assert_int_equal(read_at(&bench, table, 2), 0xffff);
    assert_int_equal(read_at(&bench, table + PCI_MSIX_PBA_OFFSET, 4), 0);
    assert_int_equal(read_at(&bench, table + 3 * 16, 4), 0);
}

static void guest_halves_that_cannot_be_are_refused(void **state)
{
    (void)state;
    struct bench bench;
    bench_begin(&bench);
    const struct pci_guest good = bench.function.guest;
    assert_true(pci_function_takes(&bench.function, &good));
    struct pci_guest bad[] = {good, good, good, good, good, good};
    bad[0].command = 0x8;
    bad[1].bars[0] += 0x10;
    bad[2].msix_control = 1;
    bad[3].msix_pending = 8;
    bad[4].msix[4].data = 1;
    bad[5].msix[0].control = 2;

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_false(pci_function_takes(&bench.function, &bad[i]));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_ways_to_configuration_space_show_the_same),
        cmocka_unit_test(where_nothing_is_there_are_ones),
        cmocka_unit_test(a_guest_sizes_and_moves_a_bar),
        cmocka_unit_test(a_bar_outside_its_window_or_over_another_is_not_there),
        cmocka_unit_test(only_writable_bits_are_written),
        cmocka_unit_test(a_vector_is_sent_or_kept_while_masked),
        cmocka_unit_test(a_message_goes_to_interrupt_controllers_only),
        cmocka_unit_test(odd_accesses_to_the_table_do_nothing),
        cmocka_unit_test(guest_halves_that_cannot_be_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

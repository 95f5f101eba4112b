/* The modern transport as a driver finds it, with a disk behind it that never gets a backend. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <linux/virtio_blk.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/own.h"
#include "tests/support/virtio_machine.h"
#include "vmm-core/guest_memory.h"
#include "vmm-core/virtio_pci.h"
#include "vmm-core/vm.h"

enum { SLOT = 1, RINGS = 0x100000 };

enum {
    FEATURES_OK = VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER | VIRTIO_STATUS_FEATURES_OK,
};

static struct virtio_machine *make_machine(void)
{
    const struct vm_disk_config disk = {.fd = -1, .bytes = 1 << 20, .queues = 2, .serial = "d"};
    const struct vm_config config = {.vcpus = 2, .disks = &disk, .disk_count = 1};
    struct virtio_machine *machine = virtio_machine_new(&config);
    virtio_machine_go(machine);
    virtio_machine_set_config(machine, SLOT, PCI_COMMAND, PCI_COMMAND_MEMORY, 2);
    return machine;
}

static uint64_t bar_of(struct virtio_machine *machine)
{
    return virtio_machine_config(machine, SLOT, 0x10, 4);
}

static void set_features(struct virtio_machine *machine, uint64_t features)
{
    for (unsigned i = 0; i < 2; i++) {
        virtio_machine_write(machine, bar_of(machine) + 0x08, i, 4);
        virtio_machine_write(machine, bar_of(machine) + 0x0c, features >> (i * 32) & UINT32_MAX, 4);
    }
}

static uint8_t status_after(struct virtio_machine *machine, uint8_t status)
{
    virtio_machine_write(machine, bar_of(machine) + 0x14, status, 1);
    return (uint8_t)virtio_machine_read(machine, bar_of(machine) + 0x14, 1);
}

static void capabilities_tell_where_everything_is(void **state)
{
    (void)state;
    struct virtio_machine *machine = make_machine();
    static const struct {
        uint32_t offset, bytes;
    } expected[] = {{0, 0}, {0, 0x38}, {0x3000, 8}, {0x1000, 1}, {0x2000, 60}, {0, 0}};
    unsigned seen = 0;
    unsigned at = virtio_machine_config(machine, SLOT, 0x34, 1);
    for (; at; at = virtio_machine_config(machine, SLOT, at + 1, 1)) {
        if (virtio_machine_config(machine, SLOT, at, 1) != 0x09)
            continue;
        uint32_t type = virtio_machine_config(machine, SLOT, at + 3, 1);
        assert_in_range(type, 1, 5);
        assert_int_equal(virtio_machine_config(machine, SLOT, at + 4, 1), 0); /* BAR */
        assert_int_equal(virtio_machine_config(machine, SLOT, at + 8, 4), expected[type].offset);
        assert_int_equal(virtio_machine_config(machine, SLOT, at + 12, 4), expected[type].bytes);
        if (type == 2)
            assert_int_equal(virtio_machine_config(machine, SLOT, at + 16, 4), 4);
        seen |= 1U << type;
    }
    assert_int_equal(seen, 0x3e);
    assert_int_equal(virtio_machine_config(machine, SLOT, 0, 4), 0x10421af4);
    assert_int_equal(virtio_machine_config(machine, SLOT, 8, 1), 1); /* revision */
    machine = virtio_machine_free(machine);
}

static void features_are_agreed_on_or_not(void **state)
{
    (void)state;
    struct virtio_machine *machine = make_machine();
    const uint64_t version = VIRTIO_FEATURE(VIRTIO_F_VERSION_1);

    (void)status_after(machine, 3);
    set_features(machine, VIRTIO_FEATURE(VIRTIO_BLK_F_FLUSH)); /* without VERSION_1 */
    assert_int_equal(status_after(machine, FEATURES_OK), 3);
    set_features(machine, version | VIRTIO_FEATURE(60)); /* never offered */
    assert_int_equal(status_after(machine, FEATURES_OK), 3);
    set_features(machine, version | VIRTIO_FEATURE(VIRTIO_BLK_F_FLUSH));
    assert_int_equal(status_after(machine, FEATURES_OK), FEATURES_OK);
    set_features(machine, 0); /* too late */
    virtio_machine_write(machine, bar_of(machine) + 0x08, 1, 4);
    assert_int_equal(virtio_machine_read(machine, bar_of(machine) + 0x0c, 4), version >> 32);
    virtio_machine_write(machine, bar_of(machine) + 0x00, 2, 4); /* there is no third word */
    assert_int_equal(virtio_machine_read(machine, bar_of(machine) + 0x04, 4), 0);
    machine = virtio_machine_free(machine);
}

static void driver_ok_without_features_asks_for_a_reset(void **state)
{
    (void)state;
    struct virtio_machine *machine = make_machine();

    uint8_t status = status_after(machine, VIRTIO_STATUS_DRIVER_OK | 3);

    assert_true(status & VIRTIO_STATUS_NEEDS_RESET);
    assert_int_equal(status_after(machine, 0), 0);
    machine = virtio_machine_free(machine);
}

static void bits_are_added_and_all_taken_at_once(void **state)
{
    (void)state;
    struct virtio_machine *machine = make_machine();
    assert_int_equal(status_after(machine, 1), 1);
    assert_int_equal(status_after(machine, 2), 3);                       /* none is taken away */
    assert_int_equal(status_after(machine, 0x30 | 0x40 | 3), 3);         /* unknown; ours alone */
    assert_int_equal(status_after(machine, VIRTIO_STATUS_FAILED), 0x83); /* the driver gave up */
    assert_int_equal(status_after(machine, 0), 0);
    machine = virtio_machine_free(machine);
}

static void a_reset_forgets_everything(void **state)
{
    (void)state;
    struct virtio_machine *machine = make_machine();
    AUTO_FREE struct machine_guest *before = malloc(sizeof *before);
    AUTO_FREE struct machine_guest *after = malloc(sizeof *after);
    struct virtio_driver driver;
    struct fault fault = {0};
    virtio_machine_stop(machine);
    assert_int_equal(virtio_machine_save(machine, before, &fault), 0);
    virtio_machine_go(machine);
    assert_true(virtio_driver_init(&driver, machine, SLOT, UINT64_MAX, RINGS, 64));

    virtio_driver_set_status(&driver, 0);

    virtio_machine_stop(machine);
    assert_int_equal(virtio_machine_save(machine, after, &fault), 0);
    before->virtio[0].pci = after->virtio[0].pci; /* PCI's own registers stay */
    assert_memory_equal(&before->virtio[0], &after->virtio[0], sizeof before->virtio[0]);
    machine = virtio_machine_free(machine);
}

static void rings_outside_of_memory_ask_for_a_reset(void **state)
{
    (void)state;
    struct virtio_machine *machine = make_machine();
    uint64_t bar = bar_of(machine);
    (void)status_after(machine, 3);
    set_features(machine, VIRTIO_FEATURE(VIRTIO_F_VERSION_1));
    (void)status_after(machine, FEATURES_OK);
    virtio_machine_write(machine, bar + 0x20, MIB(16) - 16, 8); /* its end is not there */
    virtio_machine_write(machine, bar + 0x28, RINGS, 8);
    virtio_machine_write(machine, bar + 0x30, RINGS + 4096, 8);

    virtio_machine_write(machine, bar + 0x1c, 1, 2);

    assert_true(virtio_machine_read(machine, bar + 0x14, 1) & VIRTIO_STATUS_NEEDS_RESET);
    virtio_machine_write(machine, bar + 0x3000, 0, 2); /* harmless */
    machine = virtio_machine_free(machine);
}

static void an_enabled_queue_keeps_its_place(void **state)
{
    (void)state;
    struct virtio_machine *machine = make_machine();
    struct virtio_driver driver;
    assert_true(virtio_driver_init(&driver, machine, SLOT, 0, RINGS, 64));
    uint64_t bar = driver.bar;
    virtio_machine_write(machine, bar + 0x16, 1, 2);
    uint64_t place = virtio_machine_read(machine, bar + 0x20, 8);

    virtio_machine_write(machine, bar + 0x20, 0x5000, 8);
    virtio_machine_write(machine, bar + 0x18, 8, 2);

    assert_int_equal(place, RINGS + RING_DRIVER_AREA);
    assert_int_equal(virtio_machine_read(machine, bar + 0x20, 8), place);
    assert_int_equal(virtio_machine_read(machine, bar + 0x18, 2), 64);
    assert_int_equal(virtio_machine_read(machine, bar + 0x1c, 2), 1);
    virtio_machine_write(machine, bar + 0x16, 2, 2); /* there are two */
    assert_int_equal(virtio_machine_read(machine, bar + 0x18, 2), 0);
    virtio_machine_write(machine, bar + 0x1c, 1, 2);
    machine = virtio_machine_free(machine);
}

static void a_vector_that_is_none_is_told_so(void **state)
{
    (void)state;
    struct virtio_machine *machine = make_machine();
    uint64_t bar = bar_of(machine);

    virtio_machine_write(machine, bar + 0x10, 2, 2); /* two queues: vectors 0 to 2 */
    assert_int_equal(virtio_machine_read(machine, bar + 0x10, 2), 2);
    virtio_machine_write(machine, bar + 0x10, 3, 2);
    assert_int_equal(virtio_machine_read(machine, bar + 0x10, 2), VIRTIO_NO_VECTOR);
    virtio_machine_write(machine, bar + 0x1a, 0x7fff, 2);
    assert_int_equal(virtio_machine_read(machine, bar + 0x1a, 2), VIRTIO_NO_VECTOR);
    machine = virtio_machine_free(machine);
}

static void the_interrupt_status_is_read_once(void **state)
{
    (void)state;
    struct virtio_machine *machine = make_machine();
    struct virtio_device *device = virtio_bus_find(&machine->virtio, &virtio_blk_kind, 0);
    uint64_t bar = bar_of(machine);
    uint64_t generation = virtio_machine_read(machine, bar + 0x15, 1);

    (void)pthread_mutex_lock(&machine->lock);
    virtio_device_config_changed(device);
    (void)pthread_mutex_unlock(&machine->lock);

    assert_int_equal(virtio_machine_read(machine, bar + 0x15, 1), generation + 1);
    assert_int_equal(virtio_machine_read(machine, bar + 0x1000, 1), 2);
    assert_int_equal(virtio_machine_read(machine, bar + 0x1000, 1), 0);
    machine = virtio_machine_free(machine);
}

static void configuration_space_is_a_way_to_the_bar(void **state)
{
    (void)state;
    struct virtio_machine *machine = make_machine();
    unsigned at = virtio_machine_config(machine, SLOT, 0x34, 1);
    while (virtio_machine_config(machine, SLOT, at, 1) != 0x09 ||
           virtio_machine_config(machine, SLOT, at + 3, 1) != 5)
        at = virtio_machine_config(machine, SLOT, at + 1, 1);
    virtio_machine_set_config(machine, SLOT, PCI_COMMAND, 0, 2); /* the BAR answers no more */

    virtio_machine_set_config(machine, SLOT, at + 8, 0x14, 4);
    virtio_machine_set_config(machine, SLOT, at + 12, 1, 4);
    virtio_machine_set_config(machine, SLOT, at + 16, 1, 1);
    assert_int_equal(virtio_machine_config(machine, SLOT, at + 16, 1), 1); /* ACKNOWLEDGE */

    virtio_machine_set_config(machine, SLOT, at + 8, 0x2001, 4);
    virtio_machine_set_config(machine, SLOT, at + 12, 4, 4);
    assert_int_equal(virtio_machine_config(machine, SLOT, at + 16, 4), 0); /* not aligned */
    virtio_machine_set_config(machine, SLOT, at + 8, 0xfffffffc, 4);
    assert_int_equal(virtio_machine_config(machine, SLOT, at + 16, 4), 0);
    virtio_machine_set_config(machine, SLOT, at + 16, UINT32_MAX, 4);
    machine = virtio_machine_free(machine);
}

static void doorbells_follow_the_bar(void **state)
{
    (void)state;
    struct virtio_machine *machine = make_machine();
    struct virtio_pci *pci = machine->virtio.functions[0];
    assert_int_equal(machine->bound, 2);
    assert_int_equal(pci->doorbell_address, LAYOUT_PCI_MMIO_START);

    virtio_machine_set_config(machine, SLOT, PCI_COMMAND, 0, 2);
    virtio_machine_set_config(machine, SLOT, 0x10, UINT32_MAX, 4); /* as a guest that sizes it */
    assert_int_equal(pci->doorbell_address, LAYOUT_PCI_MMIO_START);
    virtio_machine_set_config(machine, SLOT, 0x10, 0xd0000000, 4);
    virtio_machine_set_config(machine, SLOT, PCI_COMMAND, PCI_COMMAND_MEMORY, 2);

    assert_int_equal(pci->doorbell_address, 0xd0000000);
    assert_int_equal(machine->bound, 2);
    machine = virtio_machine_free(machine);
}

static void odd_accesses_do_nothing(void **state)
{
    (void)state;
    struct virtio_machine *machine = make_machine();
    uint64_t bar = bar_of(machine);
    for (unsigned offset = 0; offset < 0x38; offset++) {
        for (unsigned count = 1; count <= 8; count++) {
            if (offset == 0x14 || count == 8)
                continue;
            (void)virtio_machine_read(machine, bar + offset, count);
            virtio_machine_write(machine, bar + offset, offset % 4 == 3 ? UINT64_MAX : 0, count);
        }
    }
    assert_int_equal(virtio_machine_read(machine, bar + 0x14, 1), 0);
    assert_int_equal(virtio_machine_read(machine, bar + 0x36, 4), 0); /* across the end */
    virtio_machine_write(machine, bar + 0x3fff, 0, 1);
    virtio_machine_write(machine, bar + 0x3ffc, 0, 8);
    machine = virtio_machine_free(machine);
}

typedef void spoil_fn(struct virtio_pci_guest *guest);

static void spoil_kind(struct virtio_pci_guest *guest)
{
    guest->id = 1;
}
static void spoil_features(struct virtio_pci_guest *guest)
{
    guest->features |= VIRTIO_FEATURE(50);
}
static void spoil_agreed(struct virtio_pci_guest *guest)
{
    guest->registers.driver_features |= VIRTIO_FEATURE(50);
}
static void spoil_version(struct virtio_pci_guest *guest)
{
    guest->registers.driver_features &= ~VIRTIO_FEATURE(VIRTIO_F_VERSION_1);
}
static void spoil_queues(struct virtio_pci_guest *guest)
{
    guest->queue_count = 1;
}
static void spoil_status(struct virtio_pci_guest *guest)
{
    guest->registers.status = VIRTIO_STATUS_DRIVER_OK;
}
static void spoil_vector(struct virtio_pci_guest *guest)
{
    guest->registers.queue_vectors[1] = 3;
}
static void spoil_config_vector(struct virtio_pci_guest *guest)
{
    guest->registers.config_vector = 0x100;
}
static void spoil_ring(struct virtio_pci_guest *guest)
{
    guest->queues[0].descriptors = UINT64_MAX & ~UINT64_C(15);
}
static void spoil_pci(struct virtio_pci_guest *guest)
{
    guest->pci.bars[0] |= 1;
}

static void a_state_that_cannot_be_is_refused(void **state)
{
    (void)state;
    static const struct {
        spoil_fn *spoil;
        const char *reason;
    } rows[] = {
        {spoil_kind, "it is of another kind"},
        {spoil_features, "features that this host cannot give"},
        {spoil_agreed, "features that were never offered"},
        {spoil_version, "features that were never offered"},
        {spoil_queues, "another number of queues"},
        {spoil_status, "without having agreed on features"},
        {spoil_vector, "a queue's vector is none"},
        {spoil_config_vector, "its configuration's vector is none"},
        {spoil_ring, "queue 0: a ring"},
        {spoil_pci, "its PCI registers cannot be so"},
    };
    struct virtio_machine *machine = make_machine();
    AUTO_FREE struct machine_guest *guest = malloc(sizeof *guest);
    struct virtio_driver driver;
    struct fault fault = {0};
    assert_true(virtio_driver_init(&driver, machine, SLOT, 0, RINGS, 64));
    virtio_machine_stop(machine);
    assert_int_equal(virtio_machine_save(machine, guest, &fault), 0);
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
        struct virtio_pci_guest spoilt = guest->virtio[0];
        rows[i].spoil(&spoilt);
        fault = (struct fault){0};

        int r = virtio_pci_revive(machine->virtio.functions[0], &spoilt, &fault);

        if (r != ERR_CORRUPT || !strstr(fault.text, rows[i].reason))
            fail_msg("row %zu: '%s' instead of '%s'", i, fault.text, rows[i].reason);
    }
    assert_int_equal(virtio_pci_revive(machine->virtio.functions[0], &guest->virtio[0], &fault), 0);
    machine = virtio_machine_free(machine);
}

static void fewer_features_offered_at_the_source_stay_fewer(void **state)
{
    (void)state;
    struct virtio_machine *machine = make_machine();
    AUTO_FREE struct machine_guest *guest = malloc(sizeof *guest);
    struct fault fault = {0};
    virtio_machine_stop(machine);
    assert_int_equal(virtio_machine_save(machine, guest, &fault), 0);
    guest->virtio[0].features &= ~VIRTIO_FEATURE(VIRTIO_BLK_F_DISCARD);

    assert_int_equal(virtio_pci_revive(machine->virtio.functions[0], &guest->virtio[0], &fault), 0);

    virtio_machine_write(machine, bar_of(machine) + 0x00, 0, 4);
    assert_false(virtio_machine_read(machine, bar_of(machine) + 0x04, 4) &
                 VIRTIO_FEATURE(VIRTIO_BLK_F_DISCARD));
    machine = virtio_machine_free(machine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(capabilities_tell_where_everything_is),
        cmocka_unit_test(features_are_agreed_on_or_not),
        cmocka_unit_test(driver_ok_without_features_asks_for_a_reset),
        cmocka_unit_test(bits_are_added_and_all_taken_at_once),
        cmocka_unit_test(a_reset_forgets_everything),
        cmocka_unit_test(rings_outside_of_memory_ask_for_a_reset),
        cmocka_unit_test(an_enabled_queue_keeps_its_place),
        cmocka_unit_test(a_vector_that_is_none_is_told_so),
        cmocka_unit_test(the_interrupt_status_is_read_once),
        cmocka_unit_test(configuration_space_is_a_way_to_the_bar),
        cmocka_unit_test(doorbells_follow_the_bar),
        cmocka_unit_test(odd_accesses_do_nothing),
        cmocka_unit_test(a_state_that_cannot_be_is_refused),
        cmocka_unit_test(fewer_features_offered_at_the_source_stay_fewer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Golden bytes of every device's message, round trips through memory full of 0xA5, and refusals.
 * GODWIT_GOLDEN_WRITE=1 writes golden files that do not exist yet; those that do are frozen. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/err.h"
#include "base/own.h"
#include "proto/device_state.pb-c.h"
#include "vmm-core/device.h"
#include "vmm-core/device_table.h"
#include "vmm-core/machine_state.h"

static const struct machine_shape shape = {
    .vcpus = 2, .memory_bytes = 64 << 20, .baseline = "x86-64-v2", .disks = 2};

static void fill(void *at, size_t count, uint8_t seed)
{
    uint8_t *bytes = at;
    for (size_t i = 0; i < count; i++)
        bytes[i] = (uint8_t)(seed + i * 7);
}

/* Every field has a value of its own, within its range. */
static void fill_vcpu(struct vcpu_guest *guest, uint8_t seed)
{
    fill(&guest->regs, sizeof guest->regs, seed);
    fill(&guest->sregs, sizeof guest->sregs, (uint8_t)(seed + 1));
    guest->sregs.flags = KVM_SREGS2_FLAGS_PDPTRS_VALID;
    fill(&guest->events, sizeof guest->events, (uint8_t)(seed + 2));
    fill(&guest->debugregs, sizeof guest->debugregs, (uint8_t)(seed + 3));
    fill(guest->xsave, 2688, (uint8_t)(seed + 4));
    fill(guest->lapic, sizeof guest->lapic, (uint8_t)(seed + 5));
    (void)snprintf(guest->vendor, sizeof guest->vendor, "GenuineIntel");
    guest->mp_state = KVM_MP_STATE_HALTED;
    guest->xcr0 = 7;
    guest->msr_count = 3;
    for (uint32_t i = 0; i < guest->msr_count; i++)
        guest->msrs[i] = (struct kvm_msr_entry){.index = 0x174 + i, .data = 0x1122334455667788 * i};
    guest->tsc = 0x123456789abcdef;
    guest->tsc_deadline = 0xfedcba987654321;
}

static void fill_virtio(struct virtio_pci_guest *guest, uint8_t seed)
{
    guest->id = 2;
    guest->features = 0x206;
    guest->registers = (struct virtio_pci_registers){.driver_features = 0x530000206,
                                                     .device_feature_select = 1,
                                                     .driver_feature_select = 2,
                                                     .config_vector = 0,
                                                     .queue_select = 1,
                                                     .status = 15,
                                                     .isr = 1,
                                                     .config_generation = seed,
                                                     .window_bar = 3,
                                                     .window_offset = 0x3000,
                                                     .window_bytes = 2};
    memset(guest->registers.queue_vectors, 0xff, sizeof guest->registers.queue_vectors);
    guest->queue_count = 2;
    for (unsigned i = 0; i < guest->queue_count; i++) {
        guest->registers.queue_vectors[i] = (uint16_t)(i + 1);
        guest->queues[i] = (struct virtqueue_guest){.descriptors = 0x10000 + seed,
                                                    .driver = 0x20000 + seed,
                                                    .device = 0x30000 + seed,
                                                    .size = 256,
                                                    .next_avail = 77,
                                                    .next_used = 78,
                                                    .avail_wrap = 1,
                                                    .enabled = 1};
    }
    guest->pci.command = 6;
    guest->pci.cache_line = 16;
    guest->pci.interrupt_line = 11;
    guest->pci.bars[0] = 0xc0000000;
    guest->pci.bars[1] = 0xc0004000;
    guest->pci.msix_control = 0x8000;
    guest->pci.msix_pending = 4;
    for (unsigned i = 0; i < PCI_MSIX_VECTORS_MAX; i++)
        guest->pci.msix[i] = (struct pci_msix_entry){
            .address = 0xfee00000 + i * 0x1000, .data = 0x40 + i, .control = i % 2};
}

static void fill_machine(struct machine_guest *machine)
{
    memset(machine, 0, sizeof *machine);
    fill_vcpu(&machine->vcpus[0], 1);
    fill_vcpu(&machine->vcpus[1], 101);
    machine->vcpus[1].sregs.flags = 0;
    machine->vcpus[1].mp_state = KVM_MP_STATE_UNINITIALIZED;
    fill(&machine->irqchip.pic_master, sizeof machine->irqchip.pic_master, 11);
    fill(&machine->irqchip.pic_slave, sizeof machine->irqchip.pic_slave, 12);
    fill(&machine->irqchip.ioapic, sizeof machine->irqchip.ioapic, 13);
    for (size_t i = 0; i < PIT_CHANNELS; i++) {
        fill(&machine->pit.channels[i], sizeof machine->pit.channels[i], (uint8_t)(14 + i));
        machine->pit.channels[i].count = (uint32_t)(65536 - i);
        machine->pit.channels[i].mode = (uint8_t)(2 + i);
    }
    machine->pit.flags = KVM_PIT_FLAGS_SPEAKER_DATA_ON;
    machine->clock = (struct clock_guest){.clock_ns = 987654321987, .tsc_khz = 2300000};
    rtc_reset(&machine->rtc, UINT64_C(1795640398123456789));
    machine->rtc.index = 0x32;
    machine->rtc.ram[11] = 0x72; /* every interrupt */
    machine->rtc.ram[12] = 0x30; /* alarm and update wait to be read */
    fill(machine->rtc.ram + 14, sizeof machine->rtc.ram - 14, 15);
    machine->pm = (struct pm_guest){
        .status = PM_POWER_BUTTON, .enable = 0x0120, .control = 0x1401, .timer_ns = 123456789123};
    machine->serial = (struct serial_guest){.ier = 5,
                                            .fcr = 0x81,
                                            .lcr = 0x83,
                                            .mcr = 0x0b,
                                            .scr = 0x5a,
                                            .dll = 12,
                                            .dlm = 1,
                                            .overrun = 1,
                                            .thr_empty_pending = 1,
                                            .rx_count = 5,
                                            .rx = "hello"};
    machine->pci = (struct pci_bus_guest){.address = 0x80001010,
                                          .host_command = 6,
                                          .host_cache_line = 16,
                                          .host_interrupt_line = 255};
    for (unsigned i = 0; i < VIRTIO_FUNCTIONS_MAX; i++)
        fill_virtio(&machine->virtio[i], (uint8_t)(40 + i));
    for (unsigned i = 0; i < VM_DISKS_MAX; i++)
        machine->disks[i] = (struct virtio_blk_guest){
            .sectors = 2048 + i, .read_only = 1, .queues = 2, .serial = "disk serial, 20 long"};
    machine->balloon = (struct virtio_balloon_guest){
        .target_pages = 1024, .actual_pages = 1000, .poison = 0xaaaaaaaa};
    machine->vsock = (struct virtio_vsock_guest){.cid = 42, .reset_due = 1};
    for (unsigned i = 0; i < VM_NICS_MAX; i++)
        machine->nics[i] = (struct virtio_net_guest){.mac = {0x52, 0x54, 0, 1, 2, (uint8_t)i},
                                                     .mtu = 1500,
                                                     .pairs = 4,
                                                     .active_pairs = 2,
                                                     .link_up = 1,
                                                     .announce = 1,
                                                     .offloads = 0x182};
}

static const struct device *row(const char *name)
{
    for (size_t i = 0; i < device_table_count(); i++) {
        if (strcmp(device_table_at(i)->name, name) == 0)
            return device_table_at(i);
    }
    fail_msg("no row '%s'", name);
    return NULL;
}

/* clang-format off: one a line, as rows come and go */
static const char *const travellers[] = {
    "vcpu",
    "irqchip",
    "pit",
    "clock",
    "rtc",
    "pm",
    "serial",
    "pci",
    "virtio_pci",
    "virtio_balloon",
    "virtio_vsock",
    "virtio_blk",
    "virtio_net",
};
/* clang-format on */

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
    static uint8_t golden[64 << 10];
    size_t golden_count = fread(golden, 1, sizeof golden, file);
    (void)fclose(file);
    assert_int_equal(golden_count, count);
    assert_memory_equal(golden, bytes, count);
}

static void every_row_says_whether_it_travels(void **state)
{
    (void)state;
    size_t travelling = 0;
    for (size_t i = 0; i < device_table_count(); i++) {
        const struct device *device = device_table_at(i);
        assert_in_range(device->travel, DEVICE_TRAVELS, DEVICE_NOT_MIGRATABLE);
        if (device->travel != DEVICE_TRAVELS)
            continue;
        assert_string_equal(device->name, travellers[travelling]);
        travelling++;
        assert_true(device->version >= 1);
        assert_true(device->capture && device->save && device->load && device->revive);
    }
    assert_int_equal(travelling, ARRAY_COUNT(travellers));
}

static void golden_bytes_save_load_and_save_again(void **state)
{
    (void)state;
    AUTO_FREE struct machine_guest *machine = malloc(sizeof *machine);
    AUTO_FREE struct machine_guest *loaded = malloc(sizeof *loaded);
    fill_machine(machine);
    for (size_t i = 0; i < ARRAY_COUNT(travellers); i++) {
        const struct device *device = row(travellers[i]);
        AUTO_FREE uint8_t *first = NULL;
        AUTO_FREE uint8_t *second = NULL;
        size_t first_count = 0, second_count = 0;
        struct fault fault = {0};
        char name[64];
        (void)snprintf(name, sizeof name, "%s_state_v%u", device->name, device->version);

        assert_int_equal(device->save(machine, 0, &first, &first_count), 0);
        golden_compare(name, first, first_count);
        memset(loaded, 0xa5, sizeof *loaded);
        if (device->load(loaded, 0, first, first_count, &fault) < 0)
            fail_msg("%s: %s", device->name, fault.text);
        assert_int_equal(device->save(loaded, 0, &second, &second_count), 0);

        assert_int_equal(first_count, second_count);
        assert_memory_equal(first, second, first_count);
    }
}

static void the_whole_machine_saves_loads_and_saves_again(void **state)
{
    (void)state;
    AUTO_FREE struct machine_guest *machine = malloc(sizeof *machine);
    AUTO_FREE struct machine_guest *loaded = malloc(sizeof *loaded);
    AUTO_FREE uint8_t *first = NULL;
    AUTO_FREE uint8_t *second = NULL;
    size_t first_count = 0, second_count = 0;
    struct fault fault = {0};
    fill_machine(machine);

    assert_int_equal(machine_state_save(&shape, machine, &first, &first_count, &fault), 0);
    golden_compare("machine_state_v1", first, first_count);
    memset(loaded, 0xa5, sizeof *loaded);
    if (machine_state_load(&shape, loaded, first, first_count, &fault) < 0)
        fail_msg("%s", fault.text);
    assert_int_equal(machine_state_save(&shape, loaded, &second, &second_count, &fault), 0);

    assert_int_equal(first_count, second_count);
    assert_memory_equal(first, second, first_count);
}

/* Take one field out of a message; true when there was something to take. */
static bool drop_field(ProtobufCMessage *message, const ProtobufCFieldDescriptor *field)
{
    uint8_t *member = (uint8_t *)message + field->offset;
    uint8_t *quantifier = (uint8_t *)message + field->quantifier_offset;
    if (field->label == PROTOBUF_C_LABEL_REPEATED) {
        bool had = *(size_t *)(void *)quantifier > 0;
        *(size_t *)(void *)quantifier = 0;
        return had;
    }
    if (field->type == PROTOBUF_C_TYPE_MESSAGE || field->type == PROTOBUF_C_TYPE_STRING) {
        bool had = *(void **)(void *)member != NULL;
        *(void **)(void *)member = NULL;
        return had;
    }
    *(protobuf_c_boolean *)(void *)quantifier = 0;
    return true;
}

static void refuses_without(const struct device *device, const ProtobufCMessageDescriptor *type,
                            const uint8_t *bytes, size_t count,
                            const ProtobufCFieldDescriptor *field,
                            const ProtobufCFieldDescriptor *inner, struct machine_guest *scratch)
{
    ProtobufCMessage *message = protobuf_c_message_unpack(type, NULL, count, bytes);
    assert_non_null(message);
    ProtobufCMessage *holder = message;
    if (inner)
        holder = *(ProtobufCMessage **)(void *)((uint8_t *)message + field->offset);
    if (inner && field->label == PROTOBUF_C_LABEL_REPEATED)
        holder = **(ProtobufCMessage ***)(void *)((uint8_t *)message + field->offset);
    /* A set of PDPTRs is there only in some paging modes. */
    bool optional = inner && strcmp(inner->name, "pdptrs") == 0;
    const ProtobufCFieldDescriptor *dropped = inner ? inner : field;
    AUTO_FREE void *whole = malloc(holder->descriptor->sizeof_message);
    memcpy(whole, holder, holder->descriptor->sizeof_message);
    if (drop_field(holder, dropped) && !optional) {
        static uint8_t packed[64 << 10];
        size_t packed_count = protobuf_c_message_pack(message, packed);
        struct fault fault = {0};
        int r = device->load(scratch, 0, packed, packed_count, &fault);
        if (r != ERR_CORRUPT)
            fail_msg("%s loads without %s", device->name, dropped->name);
    }
    memcpy(holder, whole, holder->descriptor->sizeof_message);
    protobuf_c_message_free_unpacked(message, NULL);
}

static void no_field_may_be_missing(void **state)
{
    (void)state;
    /* clang-format off */
    static const ProtobufCMessageDescriptor *const types[] = {
        &godwit__vcpu_state_v1__descriptor,
        &godwit__irqchip_state_v1__descriptor,
        &godwit__pit_state_v1__descriptor,
        &godwit__clock_state_v1__descriptor,
        &godwit__rtc_state_v1__descriptor,
        &godwit__pm_state_v1__descriptor,
        &godwit__serial_state_v1__descriptor,
        &godwit__pci_state_v1__descriptor,
        &godwit__virtio_pci_state_v1__descriptor,
        &godwit__virtio_balloon_state_v1__descriptor,
        &godwit__virtio_vsock_state_v1__descriptor,
        &godwit__virtio_blk_state_v1__descriptor,
        &godwit__virtio_net_state_v1__descriptor,
    };
    /* clang-format on */
    static_assert(ARRAY_COUNT(types) == ARRAY_COUNT(travellers), "a message for each row");
    AUTO_FREE struct machine_guest *machine = malloc(sizeof *machine);
    AUTO_FREE struct machine_guest *scratch = malloc(sizeof *scratch);
    fill_machine(machine);
    for (size_t i = 0; i < ARRAY_COUNT(travellers); i++) {
        const struct device *device = row(travellers[i]);
        AUTO_FREE uint8_t *bytes = NULL;
        size_t count = 0;
        assert_int_equal(device->save(machine, 0, &bytes, &count), 0);
        for (unsigned f = 0; f < types[i]->n_fields; f++) {
            const ProtobufCFieldDescriptor *field = &types[i]->fields[f];
            refuses_without(device, types[i], bytes, count, field, NULL, scratch);
            const ProtobufCMessageDescriptor *inner =
                field->type == PROTOBUF_C_TYPE_MESSAGE ? field->descriptor : NULL;
            for (unsigned g = 0; inner && g < inner->n_fields; g++)
                refuses_without(device, types[i], bytes, count, field, &inner->fields[g], scratch);
        }
    }
}

/* Cut and flipped bytes: anything but a crash. */
static void damaged_bytes_are_taken_or_refused(void **state)
{
    (void)state;
    AUTO_FREE struct machine_guest *machine = malloc(sizeof *machine);
    AUTO_FREE uint8_t *bytes = NULL;
    size_t count = 0;
    fill_machine(machine);
    assert_int_equal(machine_state_save(&shape, machine, &bytes, &count, NULL), 0);

    for (size_t cut = 0; cut < count; cut++)
        assert_true(machine_state_load(&shape, machine, bytes, cut, NULL) < 0);
    for (size_t at = 0; at < count; at++) {
        bytes[at] ^= (uint8_t)(1 << at % 8);
        (void)machine_state_load(&shape, machine, bytes, count, NULL); /* either is right */
        bytes[at] ^= (uint8_t)(1 << at % 8);
    }
    assert_int_equal(machine_state_load(&shape, machine, bytes, count, NULL), 0);
}

typedef void spoil_fn(Godwit__MachineStateV1 *machine);

static void spoil_machine(Godwit__MachineStateV1 *m)
{
    m->machine = (char *)"godwit-2";
}
static void spoil_no_machine(Godwit__MachineStateV1 *m)
{
    m->machine = NULL;
}
static void spoil_baseline(Godwit__MachineStateV1 *m)
{
    m->baseline = (char *)"x86-64-v3";
}
static void spoil_vcpus(Godwit__MachineStateV1 *m)
{
    m->vcpus = 3;
}
static void spoil_memory(Godwit__MachineStateV1 *m)
{
    m->memory_bytes++;
}
static void spoil_unknown(Godwit__MachineStateV1 *m)
{
    m->sections[2]->name = (char *)"flux";
}
static void spoil_missing(Godwit__MachineStateV1 *m)
{
    m->n_sections--;
}
static void spoil_none(Godwit__MachineStateV1 *m)
{
    m->n_sections = 0;
}
static void spoil_doubled(Godwit__MachineStateV1 *m)
{
    m->sections[1] = m->sections[0];
}
static void spoil_order(Godwit__MachineStateV1 *m)
{
    Godwit__MachineSection *first = m->sections[2];
    m->sections[2] = m->sections[3];
    m->sections[3] = first;
}
static void spoil_left_over(Godwit__MachineStateV1 *m)
{
    m->sections[m->n_sections] = m->sections[m->n_sections - 1];
    m->n_sections++;
}
static void spoil_version(Godwit__MachineStateV1 *m)
{
    m->sections[0]->version = 2;
}
static void spoil_no_version(Godwit__MachineStateV1 *m)
{
    m->sections[0]->has_version = 0;
}
static void spoil_instance(Godwit__MachineStateV1 *m)
{
    m->sections[0]->instance = 1;
}
static void spoil_empty(Godwit__MachineStateV1 *m)
{
    m->sections[4]->has_state = 0;
}

static void refuses_a_machine_that_is_not_this_one(void **state)
{
    (void)state;
    static const struct {
        spoil_fn *spoil;
        const char *reason;
    } rows[] = {
        {spoil_machine, "is for machine 'godwit-2'"},
        {spoil_no_machine, "is for machine '(none)'"},
        {spoil_baseline, "CPU baseline 'x86-64-v3'"},
        {spoil_vcpus, "3 vCPUs, this VM has 2"},
        {spoil_memory, "bytes of memory"},
        {spoil_unknown, "'flux' 0 where 'irqchip' 0 belongs"},
        {spoil_missing, "ends before section 'virtio_blk'"},
        {spoil_none, "ends before section 'vcpu'"},
        {spoil_doubled, "'vcpu' 0 where 'vcpu' 1 belongs"},
        {spoil_order, "'pit' 0 where 'irqchip' 0 belongs"},
        {spoil_left_over, "1 sections left over, first 'virtio_blk'"},
        {spoil_version, "version 2, this host reads version 1"},
        {spoil_no_version, "this host reads version 1"},
        {spoil_instance, "'vcpu' 1 where 'vcpu' 0 belongs"},
        {spoil_empty, "'clock' 0 is empty"},
    };
    AUTO_FREE struct machine_guest *machine = malloc(sizeof *machine);
    AUTO_FREE uint8_t *bytes = NULL;
    size_t count = 0;
    fill_machine(machine);
    assert_int_equal(machine_state_save(&shape, machine, &bytes, &count, NULL), 0);
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
        Godwit__MachineStateV1 *whole = godwit__machine_state_v1__unpack(NULL, count, bytes);
        assert_non_null(whole);
        /* A shallow copy is spoilt, so that the whole can be freed as it was. */
        Godwit__MachineStateV1 spoilt = *whole;
        Godwit__MachineSection sections[16];
        Godwit__MachineSection *pointers[17];
        for (size_t k = 0; k < whole->n_sections; k++) {
            sections[k] = *whole->sections[k];
            pointers[k] = &sections[k];
        }
        spoilt.sections = pointers;
        rows[i].spoil(&spoilt);
        static uint8_t packed[64 << 10];
        size_t packed_count = godwit__machine_state_v1__pack(&spoilt, packed);
        struct fault fault = {0};

        int r = machine_state_load(&shape, machine, packed, packed_count, &fault);

        if (r >= 0 || !strstr(fault.text, rows[i].reason))
            fail_msg("row %zu: '%s' instead of '%s'", i, fault.text, rows[i].reason);
        godwit__machine_state_v1__free_unpacked(whole, NULL);
    }
}

static void refuses_fields_of_another_version(void **state)
{
    (void)state;
    AUTO_FREE struct machine_guest *machine = malloc(sizeof *machine);
    AUTO_FREE uint8_t *bytes = NULL;
    size_t count = 0;
    fill_machine(machine);
    assert_int_equal(row("clock")->save(machine, 0, &bytes, &count), 0);
    uint8_t more[64];
    memcpy(more, bytes, count);
    more[count] = 15 << 3; /* field 15, varint */
    more[count + 1] = 1;
    struct fault fault = {0};

    int r = row("clock")->load(machine, 0, more, count + 2, &fault);

    assert_int_equal(r, ERR_CORRUPT);
    assert_non_null(strstr(fault.text, "does not know"));
}

static void refuses_values_wider_than_their_register(void **state)
{
    (void)state;
    AUTO_FREE struct machine_guest *machine = malloc(sizeof *machine);
    Godwit__SerialStateV1 serial = GODWIT__SERIAL_STATE_V1__INIT;
    AUTO_FREE uint8_t *bytes = NULL;
    size_t count = 0;
    fill_machine(machine);
    assert_int_equal(row("serial")->save(machine, 0, &bytes, &count), 0);
    Godwit__SerialStateV1 *good = godwit__serial_state_v1__unpack(NULL, count, bytes);
    serial = *good;
    serial.lcr = 256;
    uint8_t packed[256];
    struct fault fault = {0};

    int r = row("serial")->load(machine, 0, packed, godwit__serial_state_v1__pack(&serial, packed),
                                &fault);

    assert_int_equal(r, ERR_CORRUPT);
    assert_string_equal(fault.text, "serial: lcr is 0x100, at most 0xff");
    godwit__serial_state_v1__free_unpacked(good, NULL);
}

/* Two bytes on the wire, a hundred in memory: must end at a budget, not at the host's last page. */
static void a_flood_of_empty_sections_is_refused(void **state)
{
    (void)state;
    AUTO_FREE struct machine_guest *machine = malloc(sizeof *machine);
    size_t count = 1 << 20;
    AUTO_FREE uint8_t *bytes = malloc(count);
    for (size_t i = 0; i < count; i += 2) {
        bytes[i] = 5 << 3 | 2;
        bytes[i + 1] = 0;
    }
    struct fault fault = {0};

    assert_int_equal(machine_state_load(&shape, machine, bytes, count, &fault), ERR_CORRUPT);
    assert_non_null(strstr(fault.text, "does not parse"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_row_says_whether_it_travels),
        cmocka_unit_test(golden_bytes_save_load_and_save_again),
        cmocka_unit_test(the_whole_machine_saves_loads_and_saves_again),
        cmocka_unit_test(no_field_may_be_missing),
        cmocka_unit_test(damaged_bytes_are_taken_or_refused),
        cmocka_unit_test(refuses_a_machine_that_is_not_this_one),
        cmocka_unit_test(refuses_fields_of_another_version),
        cmocka_unit_test(refuses_values_wider_than_their_register),
        cmocka_unit_test(a_flood_of_empty_sections_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

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
#include "cli/up_core.h"
#include "cli/up_file.h"
#include "cli/vm_spec_file.h"

#define MORE "    image: base\n    cpu: {vcpus: 1}\n    memory: {size: 64MiB}\n"

static int read_text(const char *text, struct up_file *ret_file, struct fault *fault)
{
    Godwit__UpFile *bound = NULL;
    int r = vm_spec_file_bind(text, strlen(text), "godwit.yaml", &godwit__up_file__descriptor,
                              &bound, fault);
    if (r < 0)
        return r;
    r = up_file_expand(bound, ret_file, fault);
    godwit__up_file__free_unpacked(bound, NULL);
    return r;
}

static struct up_file read_well(const char *text)
{
    struct up_file file = {0};
    struct fault fault = {0};
    int r = read_text(text, &file, &fault);
    if (r < 0)
        print_error("%s\n", fault.text);
    assert_int_equal(r, 0);
    return file;
}

static void a_declared_vm_has_every_field_of_a_spec_under_its_number(void **state)
{
    (void)state;
    const ProtobufCMessageDescriptor *spec = &godwit__vm_spec__descriptor;

    for (unsigned i = 0; i < spec->n_fields; i++) {
        const ProtobufCFieldDescriptor *field = &spec->fields[i];
        const ProtobufCFieldDescriptor *ours =
            protobuf_c_message_descriptor_get_field(&godwit__up_vm__descriptor, field->id);
        if (strcmp(field->name, "version") == 0)
            continue;
        assert_non_null(ours);
        assert_string_equal(ours->name, field->name);
        assert_int_equal(ours->type, field->type);
        assert_int_equal(ours->label, field->label);
        assert_ptr_equal(ours->descriptor, field->descriptor);
    }
    assert_int_equal(godwit__up_vm__descriptor.n_fields, spec->n_fields - 1 + 2);
}

static void a_count_becomes_that_many_vms_with_numbers(void **state)
{
    (void)state;
    struct up_file file = read_well("version: 1\nvms:\n  - name: db\n" MORE
                                    "  - name: web\n    count: 2\n" MORE);

    assert_int_equal(file.count, 3);
    assert_string_equal(file.specs[0]->name, "db");
    assert_string_equal(file.specs[1]->name, "web-1");
    assert_string_equal(file.specs[2]->name, "web-2");
    assert_int_equal(file.specs[2]->memory->size, 64 << 20);
    assert_int_equal(file.specs[2]->n_disks, 1);
    assert_string_equal(file.specs[2]->disks[0]->name, "root");
    assert_string_equal(file.specs[2]->disks[0]->image, "base");
    up_file_deinit(&file);
}

static void refuses_what_cannot_be_meant(void **state)
{
    (void)state;
    static const struct {
        const char *text, *says;
    } cases[] = {
        {"vms: []\n", "no VMs"},
        {"version: 2\nvms: []\n", "1"},
        {"vms:\n  - name: ../x\n" MORE, "letters"},
        {"vms:\n  - name: a\n    count: 0\n" MORE, "1"},
        {"vms:\n  - name: a\n    count: 5000\n" MORE, "1000"},
        {"vms:\n  - name: a\n" MORE "  - name: a\n" MORE, "twice"},
        {"vms:\n  - name: a-1\n" MORE "  - name: a\n    count: 1\n" MORE, "twice"},
        {"vms:\n  - name: a\n    imagee: b\n", "did you mean 'image'"},
        {"vms:\n  - name: a\n    image: base\n    memory: {size: 64MB}\n", "64MB"},
        {"vms:\n  - name: a\n    memory: {size: 64MiB}\n    cpu: {vcpus: 1}\n", "kernel"},
        {"vms:\n  - name: a\n    count: 2\n    disks: [{name: d, store: /s, file: f, size: 1MiB}]\n" MORE,
         "same file"},
        {"vms:\n  - name: a\n    count: 2\n    nics: [{bridge: br0, mac: '52:54:00:12:34:56'}]\n" MORE,
         "same"},
        {"vms:\n  - name: a\n    disks: [{name: root, image: other}]\n" MORE, "already"},
        {"vms:\n  - name: a\n    disks: [{name: root, image: other, path: /dev/sda}]\n    cpu: {vcpus: 1}\n    memory: {size: 64MiB}\n", "store"},
        {"vms:\n  - name: a\n    disks: [{name: root, image: ../x}]\n    cpu: {vcpus: 1}\n    memory: {size: 64MiB}\n", "image"},
        {"hosts: []\n", "vms"},
        {"", "vms:"},
    };

    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct up_file file = {0};
        struct fault fault = {0};
        int r = read_text(cases[i].text, &file, &fault);
        if (r == 0 || !strstr(fault.text, cases[i].says))
            print_error("%s: %s\n", cases[i].text, fault.text);
        assert_true(r < 0);
        assert_non_null(strstr(fault.text, cases[i].says));
    }
}

static Godwit__VmInfo vm_of(const char *name, const char *state, Godwit__VmSpec *spec)
{
    Godwit__VmInfo vm = GODWIT__VM_INFO__INIT;
    vm.name = (char *)(uintptr_t)name; /* only read, as is the next */
    vm.state = (char *)(uintptr_t)state;
    vm.spec = spec;
    return vm;
}

static void creates_what_is_missing_starts_what_is_down_keeps_the_rest(void **state)
{
    (void)state;
    struct up_file file = read_well("vms:\n  - name: web\n    count: 5\n" MORE);
    const Godwit__VmInfo vms[] = {
        vm_of("web-3", "crashed", file.specs[2]), vm_of("web-1", "running", file.specs[0]),
        vm_of("web-2", "stopped", file.specs[1]), vm_of("web-4", "paused", file.specs[3]),
        vm_of("web-50", "running", NULL)};
    const Godwit__VmInfo *present[] = {&vms[0], &vms[1], &vms[2], &vms[3], &vms[4]};
    struct up_step steps[5];

    up_core_plan((const Godwit__VmSpec *const *)file.specs, 5, present, 5, steps);

    static const enum up_action wanted[] = {UP_KEEP, UP_START, UP_START, UP_KEEP, UP_CREATE};
    for (size_t i = 0; i < 5; i++) {
        assert_int_equal(steps[i].action, wanted[i]);
        assert_int_equal(steps[i].declared, i);
        assert_string_equal(steps[i].diff, "");
    }
    up_core_plan((const Godwit__VmSpec *const *)file.specs, 5, present, 0, steps);
    for (size_t i = 0; i < 5; i++)
        assert_int_equal(steps[i].action, UP_CREATE);
    up_file_deinit(&file);
}

static void only_what_the_file_gives_can_differ(void **state)
{
    (void)state;
    struct up_file file = read_well("vms:\n  - name: a\n    host: node1\n    cmdline: quiet\n"
                                    "    disks: [{name: root, image: base, store: fast}]\n"
                                    "    cpu: {vcpus: 1}\n    memory: {size: 64MiB}\n");
    struct up_file other = read_well(
        "vms:\n  - name: a\n    host: node2\n    cmdline: quiet\n    console: virtio\n"
        "    disks: [{name: root, image: base, store: /srv/fast, pool_store: fast, file: a.raw, "
        "size: 8MiB}]\n    cpu: {vcpus: 1, baseline: x86-64-v2}\n    memory: {size: 64MiB}\n");
    char diff[UP_DIFF_SIZE];

    up_core_diff(file.specs[0], other.specs[0], diff);
    assert_string_equal(diff, "");

    other.specs[0]->cpu->vcpus = 2;
    other.specs[0]->cmdline[0] = 'Q';
    other.specs[0]->disks[0]->pool_store[0] = 'l';
    up_core_diff(file.specs[0], other.specs[0], diff);
    assert_string_equal(diff, "cpu.vcpus: 1 in the file, 2 in the pool\n"
                              "cmdline: quiet in the file, Quiet in the pool\n"
                              "disks[0].store: fast in the file, /srv/fast in the pool\n");
    up_core_diff(file.specs[0], &(const Godwit__VmSpec)GODWIT__VM_SPEC__INIT, diff);
    assert_non_null(strstr(diff, "disks: 1 in the file, 0 in the pool\n"));
    up_file_deinit(&file);
    up_file_deinit(&other);
}

static void takes_away_what_is_there_the_last_first_and_nothing_else(void **state)
{
    (void)state;
    struct up_file file = read_well("vms:\n  - name: web\n    count: 3\n" MORE);
    Godwit__VmInfo vms[] = {vm_of("web-1", "running", NULL), vm_of("db", "running", NULL),
                            vm_of("web-3", "stopped", NULL), vm_of("web-2", "running", NULL)};
    const Godwit__VmInfo *present[] = {&vms[0], &vms[1], &vms[2], &vms[3]};
    struct up_step steps[3];
    vms[3].unadopted = true; /* libvirt's, and not the pool's */
    vms[0].id = (char *)(uintptr_t) "id-of-web-1"; /* only read */

    up_core_plan_destroy((const Godwit__VmSpec *const *)file.specs, 3, present, 4, steps);

    assert_string_equal(steps[0].name, "web-3");
    assert_int_equal(steps[0].action, UP_REMOVE);
    assert_int_equal(steps[1].action, UP_ABSENT);
    assert_null(steps[1].vm_id);
    assert_string_equal(steps[2].name, "web-1");
    assert_string_equal(steps[2].vm_id, "id-of-web-1"); /* never by a name that may be a prefix */
    assert_int_equal(steps[2].action, UP_REMOVE);
    up_file_deinit(&file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_declared_vm_has_every_field_of_a_spec_under_its_number),
        cmocka_unit_test(a_count_becomes_that_many_vms_with_numbers),
        cmocka_unit_test(refuses_what_cannot_be_meant),
        cmocka_unit_test(creates_what_is_missing_starts_what_is_down_keeps_the_rest),
        cmocka_unit_test(only_what_the_file_gives_can_differ),
        cmocka_unit_test(takes_away_what_is_there_the_last_first_and_nothing_else),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

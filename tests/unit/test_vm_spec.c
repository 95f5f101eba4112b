#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/err.h"
#include "base/own.h"
#include "proto/vm_spec.h"

static void knows_one_stations_address_from_anything_else(void **state)
{
    (void)state;
    static const char *const bad[] = {"",
                                      "52:54:00:12:34",
                                      "52:54:00:12:34:5",
                                      "52-54-00-12-34-56",
                                      "53:54:00:12:34:56",
                                      "00:00:00:00:00:00",
                                      "52:54:00:12:34:g6",
                                      "52:54:00:12:34:567"};
    uint8_t mac[VM_SPEC_MAC_BYTES];
    char text[VM_SPEC_MAC_SIZE];

    assert_true(vm_spec_mac_parse("52:54:00:Ab:cD:56", mac));
    vm_spec_mac_print(mac, text);

    assert_string_equal(text, "52:54:00:ab:cd:56");
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++)
        assert_false(vm_spec_mac_parse(bad[i], mac));
}

static void makes_an_address_that_is_local_and_always_the_same(void **state)
{
    (void)state;
    uint8_t first[VM_SPEC_MAC_BYTES], again[VM_SPEC_MAC_BYTES], other[VM_SPEC_MAC_BYTES];

    vm_spec_mac_make("0123456789abcdef", 0, first);
    vm_spec_mac_make("0123456789abcdef", 0, again);
    vm_spec_mac_make("0123456789abcdef", 1, other);

    assert_memory_equal(first, again, sizeof first);
    assert_memory_not_equal(first, other, sizeof first);
    assert_int_equal(first[0] & 3, 2);
}

static void keeps_the_stamp_with_the_first_shared_disk_that_is_written(void **state)
{
    (void)state;
    Godwit__DiskSpec local = GODWIT__DISK_SPEC__INIT, reads = GODWIT__DISK_SPEC__INIT,
                     writes = GODWIT__DISK_SPEC__INIT;
    Godwit__DiskSpec *disks[] = {&local, &reads, &writes};
    Godwit__VmSpec spec = GODWIT__VM_SPEC__INIT;
    local.name = (char *)"local";
    local.path = (char *)"/dev/vg/disk";
    reads.store = (char *)"/srv/a";
    reads.shared = reads.read_only = true;
    writes.store = (char *)"/srv/b";
    writes.shared = true;
    spec.disks = disks;
    spec.n_disks = 3;

    assert_string_equal(vm_spec_stamp_store(&spec), "/srv/b");
    assert_ptr_equal(vm_spec_tying_disk(&spec), &local);
    local.read_only = true;
    assert_null(vm_spec_tying_disk(&spec));
    spec.n_disks = 2;
    assert_null(vm_spec_stamp_store(&spec));
}

static void a_guest_with_a_vsock_is_told_of_its_moves_unless_it_says_otherwise(void **state)
{
    (void)state;
    Godwit__VmSpec spec = GODWIT__VM_SPEC__INIT;
    Godwit__VsockSpec vsock = GODWIT__VSOCK_SPEC__INIT;
    struct fault fault = {0};
    assert_int_equal(vm_spec_notice_ms(&spec), 0);

    spec.vsock = &vsock;
    assert_int_equal(vm_spec_notice_ms(&spec), 1000);
    assert_int_equal(vm_spec_notice_port(&spec), 1010);

    vsock.has_notice_ms = vsock.has_notice_port = true;
    vsock.notice_port = 77;
    assert_int_equal(vm_spec_notice_ms(&spec), 0);
    assert_int_equal(vm_spec_notice_port(&spec), 77);
    assert_int_equal(vm_spec_judge(&spec, &fault), 0);

    vsock.notice_ms = 10001;
    assert_int_equal(vm_spec_judge(&spec, &fault), ERR_INVALID);
    assert_string_equal(fault.text, "vsock.notice_ms: found 10001; 0 to 10000 would fit");
    vsock.notice_ms = 0;
    vsock.notice_port = 0;
    assert_int_equal(vm_spec_judge(&spec, &fault), ERR_INVALID);
}

static void a_disk_tells_or_waits_when_a_request_fails(void **state)
{
    (void)state;
    Godwit__VmSpec spec = GODWIT__VM_SPEC__INIT;
    Godwit__DiskSpec disk = GODWIT__DISK_SPEC__INIT, *disks[] = {&disk};
    struct fault fault = {0};
    disk.name = (char *)"root";
    disk.path = (char *)"/srv/root.raw";
    spec.disks = disks;
    spec.n_disks = 1;
    assert_int_equal(vm_spec_judge(&spec, &fault), 0);
    assert_false(vm_spec_disk_waits(&disk));

    disk.on_error = (char *)"report";
    assert_int_equal(vm_spec_judge(&spec, &fault), 0);
    assert_false(vm_spec_disk_waits(&disk));
    disk.on_error = (char *)"pause";
    assert_int_equal(vm_spec_judge(&spec, &fault), 0);
    assert_true(vm_spec_disk_waits(&disk));

    disk.on_error = (char *)"ignore";
    assert_int_equal(vm_spec_judge(&spec, &fault), ERR_INVALID);
    assert_string_equal(fault.text, "disks[0].on_error: found 'ignore'; report or pause would fit");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(knows_one_stations_address_from_anything_else),
        cmocka_unit_test(makes_an_address_that_is_local_and_always_the_same),
        cmocka_unit_test(a_guest_with_a_vsock_is_told_of_its_moves_unless_it_says_otherwise),
        cmocka_unit_test(a_disk_tells_or_waits_when_a_request_fails),
        cmocka_unit_test(keeps_the_stamp_with_the_first_shared_disk_that_is_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

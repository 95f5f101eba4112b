#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "agent/snapshot_manifest.h"
#include "base/err.h"

static Godwit__SnapshotDisk disk;
static Godwit__SnapshotDisk *disks[] = {&disk};
static Godwit__SnapshotInfo info;

static char *text(const char *words)
{
    return (char *)(uintptr_t)words; /* only read */
}

static int set_up(void **state)
{
    (void)state;
    godwit__snapshot_disk__init(&disk);
    disk.name = text("root");
    disk.folder = text("/srv/vms");
    disk.file = text("a/web.raw");
    disk.clone = text("a/web.raw.snapshot-0123456789ab");
    godwit__snapshot_info__init(&info);
    info.id = text("0123456789abcdef0123456789abcdef");
    info.vm_id = text("feedfacefeedfacefeedfacefeedface");
    info.name = text("before");
    info.has_with_memory = info.with_memory = true;
    info.disks = disks;
    info.n_disks = 1;
    return 0;
}

static void comes_back_as_it_was_written(void **state)
{
    (void)state;
    uint8_t *bytes = NULL;
    size_t count = 0;
    Godwit__SnapshotInfo *again = NULL;
    struct fault fault = {0};

    assert_int_equal(snapshot_manifest_encode(&info, &bytes, &count, &fault), 0);
    assert_int_equal(snapshot_manifest_decode(bytes, count, &again, &fault), 0);

    assert_string_equal(again->id, info.id);
    assert_string_equal(again->disks[0]->clone, disk.clone);
    godwit__snapshot_info__free_unpacked(again, NULL);
    free(bytes);
}

static void one_bit_anywhere_or_a_byte_less_or_more_is_refused(void **state)
{
    (void)state;
    uint8_t *bytes = NULL, more[2048];
    size_t count = 0;
    Godwit__SnapshotInfo *again = NULL;
    struct fault fault = {0};

    assert_int_equal(snapshot_manifest_encode(&info, &bytes, &count, &fault), 0);
    for (size_t i = 0; i < count * 8; i++) {
        bytes[i / 8] ^= (uint8_t)(1U << i % 8);
        assert_true(snapshot_manifest_decode(bytes, count, &again, &fault) < 0);
        bytes[i / 8] ^= (uint8_t)(1U << i % 8);
    }
    for (size_t i = 0; i < count; i++)
        assert_true(snapshot_manifest_decode(bytes, i, &again, &fault) < 0);
    assert_true(count < sizeof more);
    memcpy(more, bytes, count);
    more[count] = 0;
    assert_true(snapshot_manifest_decode(more, count + 1, &again, &fault) < 0);
    assert_null(again);
    free(bytes);
}

static void refuse(void)
{
    uint8_t *bytes = NULL;
    size_t count = 0;
    struct fault fault = {0};
    assert_int_equal(snapshot_manifest_encode(&info, &bytes, &count, &fault), ERR_CORRUPT);
    assert_null(bytes);
}

static void a_path_that_leads_out_of_its_folder_is_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {"", "/etc/passwd", "../x", "a/../x", "a//x", "a/.", "./x", "a/.."};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        disk.clone = text(bad[i]);
        refuse();
        disk.clone = text("clone");
        disk.file = text(bad[i]);
        refuse();
        disk.file = text("web.raw");
    }
    disk.folder = text("srv");
    refuse();
    disk.folder = text("/srv");
    disk.clone = disk.file; /* a removal would delete the disk */
    refuse();
}

static void ids_and_names_that_are_no_file_names_are_refused(void **state)
{
    (void)state;
    info.id = text("../../../../../../../../../../x");
    refuse();
    info.id = text("0123456789abcdef0123456789abcdeF");
    refuse();
    info.id = text("0123456789abcdef0123456789abcdef");
    info.vm_id = text("a/b");
    refuse();
    info.vm_id = text("vm");
    info.name = text("");
    refuse();
    info.name = text("x");
    info.n_disks = 0;
    info.with_memory = false; /* it holds nothing */
    refuse();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(comes_back_as_it_was_written, set_up),
        cmocka_unit_test_setup(one_bit_anywhere_or_a_byte_less_or_more_is_refused, set_up),
        cmocka_unit_test_setup(a_path_that_leads_out_of_its_folder_is_refused, set_up),
        cmocka_unit_test_setup(ids_and_names_that_are_no_file_names_are_refused, set_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

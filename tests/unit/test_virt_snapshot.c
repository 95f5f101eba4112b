#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "agent/backend_libvirt/virt_snapshot.h"
#include "base/err.h"

#define VM_ID "00112233445566778899aabbccddeeff"
#define SNAPSHOT(name, state, memory, disks)                                                       \
    "<domainsnapshot><name>" name "</name><state>" state "</state>"                                \
    "<parent><name>older</name></parent><creationTime>1764139500</creationTime>" memory            \
    "<disks>" disks "</disks><domain type='kvm'><name>db</name></domain></domainsnapshot>"

static struct fault fault;
static struct virt_snapshot snapshot;

static int read_xml(const char *xml)
{
    fault = (struct fault){0};
    snapshot = (struct virt_snapshot){0};
    int r = virt_snapshot_read(xml, &snapshot, &fault);
    memcpy(snapshot.vm_id, VM_ID, sizeof VM_ID);
    return r;
}

static void reads_what_is_kept_and_where(void **state)
{
    (void)state;
    assert_int_equal(read_xml(SNAPSHOT("one", "running", "<memory snapshot='internal'/>",
                                       "<disk name='vda' snapshot='internal'/>"
                                       "<disk name='sda' snapshot='no'/>")),
                     0);
    assert_string_equal(snapshot.name, "one"); /* not its parent's */
    assert_int_equal(snapshot.created_unix_s, 1764139500);
    assert_true(snapshot.with_memory && snapshot.was_running);
    assert_false(snapshot.is_external || snapshot.was_off);
    assert_int_equal(snapshot.disk_count, 1);
    assert_string_equal(snapshot.disks[0], "vda");

    assert_int_equal(read_xml(SNAPSHOT("two", "shutoff", "<memory snapshot='no'/>",
                                       "<disk name='vda' snapshot='internal'/>")),
                     0);
    assert_true(snapshot.was_off);
    assert_false(snapshot.with_memory || snapshot.is_external);

    assert_int_equal(read_xml(SNAPSHOT("three", "disk-snapshot", "<memory snapshot='no'/>",
                                       "<disk name='vda' snapshot='external'/>")),
                     0);
    assert_true(snapshot.is_external);
    assert_false(snapshot.with_memory);

    assert_int_equal(read_xml(SNAPSHOT("four", "paused", "<memory snapshot='external' file='/m'/>", "")), 0);
    assert_true(snapshot.is_external && snapshot.with_memory);
    assert_false(snapshot.was_running);
}

static void counts_more_disks_than_it_names(void **state)
{
    (void)state;
    static const char disk[] = "<disk name='a-name-that-is-longer-than-a-word' snapshot='internal'/>";
    char xml[4096];
    int used = snprintf(xml, sizeof xml, "<domainsnapshot><name>many</name><disks>");
    for (unsigned i = 0; i < VIRT_SNAPSHOT_DISKS_MAX + 3; i++)
        used += snprintf(xml + used, sizeof xml - (size_t)used, "%s", disk);
    (void)snprintf(xml + used, sizeof xml - (size_t)used, "</disks></domainsnapshot>");

    assert_int_equal(read_xml(xml), 0);
    assert_int_equal(snapshot.disk_count, VIRT_SNAPSHOT_DISKS_MAX + 3);
    assert_string_equal(snapshot.disks[0], "disk-0");
}

static void refuses_what_is_no_snapshot(void **state)
{
    (void)state;
    assert_int_equal(read_xml(NULL), ERR_INVALID);
    assert_int_equal(read_xml("<domain/>"), ERR_INVALID);
    assert_int_equal(read_xml("<domainsnapshot/>"), ERR_INVALID);
    assert_int_equal(read_xml("<domainsnapshot><name/></domainsnapshot>"), ERR_INVALID);
    assert_int_equal(read_xml("<domainsnapshot>"), ERR_INVALID);
    assert_int_equal(read_xml("<!DOCTYPE d [<!ENTITY e 'x'>]><domainsnapshot><name>&e;</name></domainsnapshot>"),
                     ERR_INVALID);
    assert_int_equal(snapshot.created_unix_s, 0);
}

#define DOMAIN(disk) "<domain type='kvm'><name>db</name><devices>" disk "<disk type='file'><target dev='vdb'/></disk></devices></domain>"

static void a_definition_that_asks_for_new_files_is_refused(void **state)
{
    (void)state;
    assert_int_equal(virt_snapshot_judge_disks(DOMAIN("<disk type='file' snapshot='internal'/>"), &fault), 0);
    assert_int_equal(virt_snapshot_judge_disks(DOMAIN("<disk type='file' snapshot='no'/>"), &fault), 0);
    assert_int_equal(virt_snapshot_judge_disks(DOMAIN("<disk snapshot='external'><target dev='vda'/></disk>"), &fault),
                     ERR_UNSUPPORTED);
    assert_non_null(strstr(fault.text, "snapshot='external' of vda"));
    assert_int_equal(virt_snapshot_judge_disks(DOMAIN("<disk snapshot='external'/>"), &fault), ERR_UNSUPPORTED);
    assert_int_equal(virt_snapshot_judge_disks("<domain/>", &fault), 0);
    assert_int_equal(virt_snapshot_judge_disks("<network/>", &fault), ERR_INVALID);
    assert_int_equal(virt_snapshot_judge_disks("<domain>", &fault), ERR_INVALID);
}

static void its_id_is_the_same_for_every_look_and_another_for_every_other(void **state)
{
    (void)state;
    char first[ID_TEXT_SIZE], again[ID_TEXT_SIZE];
    assert_int_equal(read_xml(SNAPSHOT("one", "running", "", "")), 0);
    virt_snapshot_id(&snapshot, first);
    virt_snapshot_id(&snapshot, again);
    assert_string_equal(first, again);
    assert_int_equal(strlen(first), ID_TEXT_SIZE - 1);
    assert_true(id_name_is_valid(first));
    snapshot.created_unix_s++; /* one of the same name, after its end */
    virt_snapshot_id(&snapshot, again);
    assert_string_not_equal(first, again);
    assert_int_equal(read_xml(SNAPSHOT("two", "running", "", "")), 0);
    virt_snapshot_id(&snapshot, again);
    assert_string_not_equal(first, again);
}

static void a_pool_says_its_name_or_the_beginning_of_its_id(void **state)
{
    (void)state;
    char name[ID_NAME_MAX + 1], id[ID_TEXT_SIZE];
    assert_int_equal(read_xml(SNAPSHOT("before-upgrade", "running", "", "")), 0);
    virt_snapshot_pool_name(&snapshot, name);
    assert_string_equal(name, "before-upgrade");
    assert_int_equal(read_xml(SNAPSHOT("by hand (1)", "running", "", "")), 0);
    virt_snapshot_pool_name(&snapshot, name);
    virt_snapshot_id(&snapshot, id);
    assert_true(strlen(name) == 12 && strncmp(name, id, 12) == 0);

    Godwit__SnapshotInfo *info = virt_snapshot_info(&snapshot, "node1");
    assert_non_null(info);
    assert_string_equal(info->libvirt_name, "by hand (1)");
    assert_string_equal(info->name, name);
    assert_true(info->is_libvirt && !info->is_external && info->n_disks == 0);
    godwit__snapshot_info__free_unpacked(info, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_what_is_kept_and_where),
        cmocka_unit_test(counts_more_disks_than_it_names),
        cmocka_unit_test(refuses_what_is_no_snapshot),
        cmocka_unit_test(a_definition_that_asks_for_new_files_is_refused),
        cmocka_unit_test(its_id_is_the_same_for_every_look_and_another_for_every_other),
        cmocka_unit_test(a_pool_says_its_name_or_the_beginning_of_its_id),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Snapshots in libvirt's own test driver: domains in this process's memory, no libvirtd. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>
#include <unistd.h>

#include "agent/backend_libvirt/domain_snapshot.h"
#include "base/err.h"

#define VM_ID "00112233445566778899aabbccddeeff"
#define DOMAIN                                                                                     \
    "<domain type='test'><name>db</name><uuid>00112233-4455-6677-8899-aabbccddeeff</uuid>"         \
    "<memory>65536</memory><vcpu>1</vcpu><os><type>hvm</type></os><devices>"                       \
    "<disk type='file' snapshot='%s'><driver name='qemu' type='qcow2'/>"                           \
    "<source file='%s'/><target dev='vda' bus='virtio'/></disk></devices></domain>"

static virConnectPtr connection;
static virDomainPtr domain;
static struct fault fault;
static struct snapshot_word word;
static char disk[] = "/tmp/godwit-snapshot-XXXXXX"; /* of which a new file's name is made */

static bool does_list_fail;

int __real_virDomainListAllSnapshots(virDomainPtr of, virDomainSnapshotPtr **ret_snapshots, unsigned flags);
int __wrap_virDomainListAllSnapshots(virDomainPtr of, virDomainSnapshotPtr **ret_snapshots, unsigned flags);
int __wrap_virDomainListAllSnapshots(virDomainPtr of, virDomainSnapshotPtr **ret_snapshots, unsigned flags)
{
    return does_list_fail ? -1 : __real_virDomainListAllSnapshots(of, ret_snapshots, flags);
}

static void be_silent(void *data, virErrorPtr error)
{
    (void)data;
    (void)error;
}

static int set_up(void **state)
{
    (void)state;
    fault = (struct fault){0};
    does_list_fail = false;
    virSetErrorFunc(NULL, be_silent);
    connection = virConnectOpen("test:///default");
    return connection ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    (void)virDomainFree(domain);
    (void)virConnectClose(connection);
    return 0;
}

static void define(const char *where)
{
    char xml[1024];

    (void)snprintf(xml, sizeof xml, DOMAIN, where, disk);
    domain = virDomainDefineXML(connection, xml);
    assert_non_null(domain);
}

static void one_in_the_disks_is_taken_and_gone_back_to(void **state)
{
    (void)state;
    define("internal");
    assert_int_equal(domain_snapshot_take(connection, VM_ID, "off", true, &fault), 0);
    assert_int_equal(virDomainCreate(domain), 0);
    assert_int_equal(domain_snapshot_take(connection, VM_ID, "on", false, &fault), 0);
    assert_int_equal(virDomainDestroy(domain), 0);
    assert_int_equal(domain_snapshot_check(connection, VM_ID, "on", &fault), 0);
    assert_int_equal(domain_snapshot_restore(connection, domain, "on", false, &word, &fault), 0);
    assert_int_equal(virDomainIsActive(domain), 1);
}

/* Whatever the version of libvirt: the record's definition names the files of before. */
static void one_in_files_beside_is_not_gone_back_to(void **state)
{
    (void)state;
    define("external");
    virDomainSnapshotPtr by_hand = virDomainSnapshotCreateXML(
        domain, "<domainsnapshot><name>beside</name></domainsnapshot>", 0);
    assert_non_null(by_hand);
    (void)virDomainSnapshotFree(by_hand);

    assert_int_equal(domain_snapshot_check(connection, VM_ID, "beside", &fault), ERR_UNSUPPORTED);
    assert_non_null(strstr(fault.text, "(external)"));
    assert_non_null(strstr(fault.text, "the definition that HA starts elsewhere"));
    fault = (struct fault){0};
    assert_int_equal(domain_snapshot_restore(connection, domain, "beside", false, &word, &fault), ERR_UNSUPPORTED);
    assert_non_null(strstr(fault.text, "the definition that HA starts elsewhere"));
    assert_int_equal(virDomainIsActive(domain), 0);
}

static void none_is_taken_of_a_definition_that_puts_new_files_in_the_place_of_disks(void **state)
{
    (void)state;
    define("external");
    assert_int_equal(domain_snapshot_take(connection, VM_ID, "off", true, &fault), ERR_UNSUPPORTED);
    assert_non_null(strstr(fault.text, "snapshot='external' of vda"));
    assert_int_equal(virDomainSnapshotNum(domain, 0), 0);
    assert_int_equal(virDomainCreate(domain), 0);
    assert_int_equal(domain_snapshot_take(connection, VM_ID, "on", false, &fault), ERR_UNSUPPORTED);
    assert_int_equal(virDomainSnapshotNum(domain, 0), 0);
}

static void what_libvirt_does_not_tell_is_no_word_that_there_is_none(void **state)
{
    (void)state;
    struct domain_snapshot_list list = {0};
    define("internal");
    domain_snapshot_list_add(&list, domain);
    assert_true(list.count == 0 && !list.is_unknown);
    assert_int_equal(domain_snapshot_take(connection, VM_ID, "one", true, &fault), 0);
    domain_snapshot_list_add(&list, domain);
    assert_true(list.count == 1 && !list.is_unknown);
    does_list_fail = true;
    domain_snapshot_list_add(&list, domain);
    assert_true(list.count == 1 && list.is_unknown);
    domain_snapshot_list_deinit(&list);
    assert_int_equal(virDomainUndefineFlags(domain, VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA), 0);
    domain_snapshot_list_add(&list, domain); /* gone, and its snapshots with it */
    assert_true(list.count == 0 && !list.is_unknown);
}

static int make_disk(void **state)
{
    int fd = mkstemp(disk);

    (void)state;
    return fd < 0 ? -1 : close(fd);
}

static int remove_disk(void **state)
{
    (void)state;
    return unlink(disk);
}

int main(void)
{
#define ON_TEST(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        ON_TEST(one_in_the_disks_is_taken_and_gone_back_to),
        ON_TEST(one_in_files_beside_is_not_gone_back_to),
        ON_TEST(what_libvirt_does_not_tell_is_no_word_that_there_is_none),
        ON_TEST(none_is_taken_of_a_definition_that_puts_new_files_in_the_place_of_disks),
    };
    return cmocka_run_group_tests(tests, make_disk, remove_disk);
}

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "agent/backend_libvirt/domain_needs.h"
#include "base/err.h"

static struct fault fault;
static struct domain_needs needs;

static int read_xml(const char *xml)
{
    fault = (struct fault){0};
    needs = (struct domain_needs){0};
    return domain_needs_read(xml, &needs, &fault);
}

static void reads_what_a_host_must_have(void **state)
{
    (void)state;
    assert_int_equal(
        read_xml("<domain type='kvm'><name>db</name><os><type arch='x86_64' machine='pc-q35-7.2'>"
                 "hvm</type></os><cpu mode='custom' match='exact'><model>Skylake-Client</model>"
                 "<feature policy='require' name='vmx'/></cpu><devices>"
                 "<emulator>/usr/bin/qemu-system-x86_64</emulator>"
                 "<disk type='file' device='disk'><source file='/srv/vm/db.qcow2'/>"
                 "<target dev='vda'/></disk>"
                 "<disk type='file' device='cdrom'><source file='/srv/iso/a.iso'/>"
                 "<target dev='sda'/><readonly/></disk>"
                 "<disk type='block' device='disk'><source dev='/dev/vg/db'/><target dev='vdb'/>"
                 "</disk>"
                 "<disk type='network' device='disk'><source protocol='rbd' name='p/i'/>"
                 "<target dev='vdc'/></disk>"
                 "<interface type='bridge'><source bridge='br0'/></interface>"
                 "<interface type='network'><source network='default'/></interface>"
                 "<interface type='user'/></devices></domain>"),
        0);
    assert_string_equal(needs.machine, "pc-q35-7.2");
    assert_string_equal(needs.emulator, "/usr/bin/qemu-system-x86_64");
    assert_non_null(strstr(needs.cpu_xml, "Skylake-Client"));
    assert_int_equal(needs.disk_count, 4);
    assert_true(needs.disks[0].writable);
    assert_string_equal(needs.disks[0].path, "/srv/vm/db.qcow2");
    assert_false(needs.disks[1].writable);
    assert_true(needs.disks[2].is_block);
    assert_string_equal(needs.disks[2].path, "/dev/vg/db");
    assert_true(needs.disks[3].is_network);
    assert_int_equal(needs.link_count, 2);
    assert_false(needs.links[0].is_network);
    assert_string_equal(needs.links[1].name, "default");
    assert_string_equal(needs.pinned_by, "");
    domain_needs_deinit(&needs);
}

static void names_what_ties_a_domain_to_its_host(void **state)
{
    (void)state;
    assert_int_equal(read_xml("<domain type='kvm'><devices><hostdev mode='subsystem' type='pci'/>"
                              "</devices></domain>"),
                     0);
    assert_string_equal(needs.pinned_by, "a passed-through device");
    assert_int_equal(read_xml("<domain type='kvm'><devices><interface type='direct'>"
                              "<source dev='eth0'/></interface></devices></domain>"),
                     0);
    assert_string_equal(needs.pinned_by, "an interface on a host's device");
}

static void a_host_cpu_as_it_is_is_compared_by_qemu_alone(void **state)
{
    (void)state;
    assert_int_equal(read_xml("<domain type='kvm'><cpu mode='host-passthrough'/></domain>"), 0);
    assert_null(needs.cpu_xml);
}

static void refuses_what_is_no_definition(void **state)
{
    (void)state;
    assert_int_equal(read_xml(NULL), ERR_INVALID);
    assert_int_equal(read_xml(""), ERR_INVALID);
    assert_int_equal(read_xml("<domain"), ERR_INVALID);
    assert_int_equal(read_xml("<network/>"), ERR_INVALID);
    assert_int_equal(read_xml("<!DOCTYPE domain [<!ENTITY a 'b'>]><domain type='kvm'/>"),
                     ERR_INVALID);
    assert_true(fault.text[0]);
}

static void a_path_that_does_not_fit_is_refused_not_cut(void **state)
{
    (void)state;
    char xml[DOMAIN_NEEDS_PATH_SIZE + 256] =
        "<domain type='kvm'><devices><disk type='file'><source file='/";
    size_t used = strlen(xml);
    memset(xml + used, 'a', DOMAIN_NEEDS_PATH_SIZE);
    (void)strncpy(xml + used + DOMAIN_NEEDS_PATH_SIZE, "'/></disk></devices></domain>",
                  sizeof xml - used - DOMAIN_NEEDS_PATH_SIZE - 1);
    assert_int_equal(read_xml(xml), ERR_LIMIT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_what_a_host_must_have),
        cmocka_unit_test(names_what_ties_a_domain_to_its_host),
        cmocka_unit_test(a_host_cpu_as_it_is_is_compared_by_qemu_alone),
        cmocka_unit_test(refuses_what_is_no_definition),
        cmocka_unit_test(a_path_that_does_not_fit_is_refused_not_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

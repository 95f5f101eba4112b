#include "cli/import.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/err.h"
#include "base/own.h"
#include "cli/export_libvirt.h"
#include "cli/import_libvirt.h"
#include "cli/import_xl.h"
#include "cli/vm_spec_file.h"

#define DOMAIN(inner)                                                                              \
    "<domain type='kvm'><name>web</name><memory unit='MiB'>512</memory><vcpu>2</vcpu>"             \
    "<os><type arch='x86_64'>hvm</type></os><devices>"                                             \
    "<disk type='file' device='disk'><driver type='raw'/><source file='/srv/web.img'/>"            \
    "<target dev='vda' bus='virtio'/></disk>" inner "</devices></domain>"

static int read_with(int (*reader)(struct import *, const char *, size_t, struct fault *),
                     const char *text, const char *bridges, struct import *import,
                     struct fault *fault)
{
    assert_int_equal(import_init(import, bridges, fault), 0);
    return reader(import, text, strlen(text), fault);
}

static bool says(const struct import_lines *lines, const char *words)
{
    for (unsigned i = 0; i < lines->count; i++) {
        if (strstr(lines->text[i], words))
            return true;
    }
    return false;
}

static void a_plain_libvirt_domain_becomes_a_spec_that_passes_the_check(void **state)
{
    (void)state;
    AUTO(import_deinit) struct import import;
    struct fault fault = {0};
    const char *text = DOMAIN(
        "<interface type='bridge'><mac address='52:54:00:00:00:01'/><source bridge='br0'/>"
        "<model type='virtio'/><driver queues='2'/><mtu size='9000'/></interface>"
        "<rng model='virtio'/><memballoon model='virtio'/><vsock><cid address='7'/></vsock>");

    assert_int_equal(read_with(import_libvirt, text, NULL, &import, &fault), 0);

    assert_int_equal(import.obstacles.count, 0);
    assert_int_equal(vm_spec_check(import.spec, &fault), 0);
    assert_string_equal(import.spec->name, "web");
    assert_int_equal(import.spec->memory->size, 512 << 20);
    assert_int_equal(import.spec->cpu->vcpus, 2);
    assert_string_equal(import.spec->boot, "disk");
    assert_string_equal(import.spec->disks[0]->path, "/srv/web.img");
    assert_string_equal(import.spec->nics[0]->bridge, "br0");
    assert_string_equal(import.spec->nics[0]->mac, "52:54:00:00:00:01");
    assert_int_equal(import.spec->nics[0]->queues, 2);
    assert_int_equal(import.spec->nics[0]->mtu, 9000);
    assert_true(import.spec->rng && import.spec->balloon);
    assert_int_equal(import.spec->vsock->cid, 7);
}

static void what_the_embedded_vmm_cannot_run_is_told_with_every_reason(void **state)
{
    (void)state;
    AUTO(import_deinit) struct import import;
    struct fault fault = {0};
    const char *text =
        DOMAIN("<disk type='file' device='disk'><driver type='qcow2'/><source file='/srv/b.qcow2'/>"
               "<target dev='vdb' bus='virtio'/></disk><disk type='network' device='disk'>"
               "<target dev='vdc'/></disk><hostdev/><tpm/><filesystem/><flux/>"
               "<interface type='network'><source network='lan'/></interface>");

    assert_int_equal(read_with(import_libvirt, text, "default=br0", &import, &fault), 0);

    assert_true(says(&import.obstacles, "vdb is qcow2"));
    assert_true(says(&import.obstacles, "qemu-img convert -O raw /srv/b.qcow2"));
    assert_true(says(&import.obstacles, "vdc: type network"));
    assert_true(says(&import.obstacles, "'hostdev'"));
    assert_true(says(&import.obstacles, "'tpm'"));
    assert_true(says(&import.obstacles, "'filesystem'"));
    assert_true(says(&import.obstacles, "'flux' is not known"));
    assert_true(says(&import.obstacles, "--bridge lan=BRIDGE"));
}

static void a_network_is_the_bridge_that_the_operator_names(void **state)
{
    (void)state;
    AUTO(import_deinit) struct import import;
    struct fault fault = {0};
    const char *text = DOMAIN("<interface type='network'><source network='lan'/></interface>");

    assert_int_equal(read_with(import_libvirt, text, "default=br0,lan=br1", &import, &fault), 0);

    assert_int_equal(import.obstacles.count, 0);
    assert_string_equal(import.spec->nics[0]->bridge, "br1");
}

static void what_is_no_domain_is_refused_with_its_line(void **state)
{
    (void)state;
    static const struct {
        const char *text, *words;
    } cases[] = {
        {"", "not XML"},
        {"<domain>\n<name>", "line 2"},
        {"<network/>", "found <network>"},
        {"<!DOCTYPE x [<!ENTITY e SYSTEM 'file:///etc/passwd'>]><domain><name>&e;</name></domain>",
         "document type"},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        AUTO(import_deinit) struct import import;
        struct fault fault = {0};

        int r = read_with(import_libvirt, cases[i].text, NULL, &import, &fault);

        assert_int_equal(r, ERR_INVALID);
        if (i > 0)
            assert_non_null(strstr(fault.text, cases[i].words));
    }
}

static void a_foreign_architecture_xen_or_qemu_words_are_obstacles(void **state)
{
    (void)state;
    AUTO(import_deinit) struct import import;
    struct fault fault = {0};
    const char *text =
        "<domain type='xen' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>"
        "<name>web</name><memory>1048576</memory><os><type arch='aarch64'>hvm</type></os>"
        "<qemu:commandline><qemu:arg value='-x'/></qemu:commandline></domain>";

    assert_int_equal(read_with(import_libvirt, text, NULL, &import, &fault), 0);

    assert_true(says(&import.obstacles, "domain type 'xen'"));
    assert_true(says(&import.obstacles, "aarch64"));
    assert_true(says(&import.obstacles, "qemu:commandline"));
    assert_int_equal(import.spec->memory->size, 1 << 30); /* KiB is the unit when none is said */
}

static void an_exported_vm_comes_back_as_the_same_vm(void **state)
{
    (void)state;
    AUTO(import_deinit) struct import import, again;
    AUTO_FREE char *xml = NULL;
    struct fault fault = {0};
    const char *text = DOMAIN(
        "<disk type='block' device='disk'><source dev='/dev/vg/b'/><target dev='vdb' bus='virtio'/>"
        "<serial>S1</serial><readonly/></disk>"
        "<interface type='bridge'><mac address='52:54:00:00:00:01'/><source bridge='br0'/>"
        "<model type='virtio'/></interface><rng model='virtio'/>");
    assert_int_equal(read_with(import_libvirt, text, NULL, &import, &fault), 0);

    assert_int_equal(export_libvirt(import.spec, &xml, &fault), 0);
    assert_int_equal(read_with(import_libvirt, xml, NULL, &again, &fault), 0);

    assert_int_equal(again.obstacles.count, 0);
    assert_string_equal(again.spec->name, import.spec->name);
    assert_int_equal(again.spec->memory->size, import.spec->memory->size);
    assert_int_equal(again.spec->n_disks, 2);
    assert_string_equal(again.spec->disks[1]->path, "/dev/vg/b");
    assert_string_equal(again.spec->disks[1]->serial, "S1");
    assert_true(again.spec->disks[1]->read_only);
    assert_string_equal(again.spec->nics[0]->mac, "52:54:00:00:00:01");
    assert_true(again.spec->rng);
    assert_false(again.spec->balloon);
}

static void a_xen_file_with_pygrub_boots_from_its_disk(void **state)
{
    (void)state;
    AUTO(import_deinit) struct import import;
    struct fault fault = {0};
    const char *text = "# a comment\n"
                       "name = \"db\"\n"
                       "memory = 2048; vcpus = 2\n"
                       "bootloader = '/usr/lib/xen/bin/pygrub'\n"
                       "disk = [ 'phy:/dev/vg0/db,xvda,w', # first\n"
                       "         '/srv/data.img,raw,xvdb,r',\n"
                       "         'format=raw, vdev=xvdc, access=rw, target=/srv/c.img', ]\n"
                       "vif = [ 'mac=00:16:3e:12:34:56,bridge=xenbr0' ]\n";

    assert_int_equal(read_with(import_xl, text, NULL, &import, &fault), 0);

    assert_int_equal(import.obstacles.count, 0);
    assert_int_equal(vm_spec_check(import.spec, &fault), 0);
    assert_string_equal(import.spec->boot, "disk");
    assert_int_equal(import.spec->memory->size, UINT64_C(2) << 30);
    assert_int_equal(import.spec->n_disks, 3);
    assert_string_equal(import.spec->disks[0]->path, "/dev/vg0/db");
    assert_false(import.spec->disks[0]->read_only);
    assert_true(import.spec->disks[1]->read_only);
    assert_string_equal(import.spec->disks[2]->path, "/srv/c.img");
    assert_false(import.spec->disks[2]->read_only);
    assert_string_equal(import.spec->nics[0]->bridge, "xenbr0");
}

static void a_xen_kernel_with_root_and_extra_keeps_its_command_line(void **state)
{
    (void)state;
    AUTO(import_deinit) struct import import;
    struct fault fault = {0};
    const char *text = "name='k'\nmemory=512\nkernel='/boot/vmlinuz'\nramdisk='/boot/initrd'\n"
                       "root='/dev/vda1 ro'\nextra='console=ttyS0'\n";

    assert_int_equal(read_with(import_xl, text, NULL, &import, &fault), 0);

    assert_int_equal(import.obstacles.count, 0);
    assert_string_equal(import.spec->kernel, "/boot/vmlinuz");
    assert_string_equal(import.spec->initrd, "/boot/initrd");
    assert_string_equal(import.spec->cmdline, "root=/dev/vda1 ro console=ttyS0");
    assert_null(import.spec->boot);
}

static void a_xen_file_that_computes_is_refused_with_its_line(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "name = 'a'\nimport os\n",
        "name = 'a' + 'b'\n",
        "name = 'a\nb'\n",
        "disk = [ 'a' 'b' ]\n",
        "disk = [ 'a'\n",
        "= 3\n",
        "name = ['a', 'b']\nmemory=512\n",
    };
    for (size_t i = 0; i < ARRAY_COUNT(texts); i++) {
        AUTO(import_deinit) struct import import;
        struct fault fault = {0};

        assert_int_equal(read_with(import_xl, texts[i], NULL, &import, &fault), ERR_INVALID);

        assert_true(fault.text[0]);
    }
}

static void a_xen_pci_device_or_an_image_that_is_not_raw_is_an_obstacle(void **state)
{
    (void)state;
    AUTO(import_deinit) struct import import;
    struct fault fault = {0};
    const char *text = "name='a'\nmemory=512\ntype='hvm'\npci=['01:00.0']\nvif=['']\n"
                       "disk=['/srv/a.qcow2,qcow2,xvda,w']\nwarp=9\n";

    assert_int_equal(read_with(import_xl, text, NULL, &import, &fault), 0);

    assert_true(says(&import.obstacles, "'pci'"));
    assert_true(says(&import.obstacles, "is qcow2"));
    assert_true(says(&import.obstacles, "'warp' is not known"));
    assert_true(says(&import.obstacles, "xen's default bridge"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_plain_libvirt_domain_becomes_a_spec_that_passes_the_check),
        cmocka_unit_test(what_the_embedded_vmm_cannot_run_is_told_with_every_reason),
        cmocka_unit_test(a_network_is_the_bridge_that_the_operator_names),
        cmocka_unit_test(what_is_no_domain_is_refused_with_its_line),
        cmocka_unit_test(a_foreign_architecture_xen_or_qemu_words_are_obstacles),
        cmocka_unit_test(an_exported_vm_comes_back_as_the_same_vm),
        cmocka_unit_test(a_xen_file_with_pygrub_boots_from_its_disk),
        cmocka_unit_test(a_xen_kernel_with_root_and_extra_keeps_its_command_line),
        cmocka_unit_test(a_xen_file_that_computes_is_refused_with_its_line),
        cmocka_unit_test(a_xen_pci_device_or_an_image_that_is_not_raw_is_an_obstacle),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

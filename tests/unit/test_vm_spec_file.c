#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/own.h"
#include "cli/vm_spec_file.h"

static int parse(const char *text, Godwit__VmSpec **ret_spec, struct fault *fault)
{
    return vm_spec_file_parse(text, strlen(text), "web.yaml", ret_spec, fault);
}

static void binds_a_whole_vm(void **state)
{
    (void)state;
    struct fault fault = {0};
    Godwit__VmSpec *spec = NULL;

    int r = parse("# a comment\n"
                  "version: 1\n"
                  "name: web-01\n"
                  "kernel: /srv/guest.elf\n"
                  "cmdline: \"a=1 b: 2\"\n"
                  "cpu: {vcpus: 2, baseline: x86-64-v2}\n"
                  "memory:\n"
                  "  size: 1.5GiB\n"
                  "  hugepages: true\n"
                  "migration:\n"
                  "  max_downtime_ms: 0.3s\n"
                  "  policy: gentle\n",
                  &spec, &fault);

    assert_string_equal(fault.text, "");
    assert_int_equal(r, 0);
    assert_string_equal(spec->name, "web-01");
    assert_string_equal(spec->cmdline, "a=1 b: 2");
    assert_int_equal(spec->cpu->vcpus, 2);
    assert_int_equal(spec->memory->size, GIB(3) / 2);
    assert_true(spec->memory->hugepages);
    assert_int_equal(spec->migration->max_downtime_ms, 300);
    assert_string_equal(spec->migration->policy, "gentle");
    assert_null(spec->host);
    assert_int_equal(vm_spec_check(spec, &fault), 0);
    godwit__vm_spec__free_unpacked(spec, NULL);
}

static void binds_disks_nics_and_the_rest(void **state)
{
    (void)state;
    struct fault fault = {0};
    Godwit__VmSpec *spec = NULL;

    int r = parse("name: db\n"
                  "boot: disk\n"
                  "disks:\n"
                  "  - {name: root, store: /srv/shared, file: db/root.raw, size: 8GiB, shared: true}\n"
                  "  - name: tools\n"
                  "    path: /srv/tools.iso\n"
                  "    read_only: true\n"
                  "    cache: host\n"
                  "nics:\n"
                  "  - {bridge: br0, mac: \"52:54:00:12:34:56\", queues: 2, mtu: 9000}\n"
                  "  - bridge: br1\n"
                  "rng: true\n"
                  "vsock: {cid: 7, notice_port: 2000, notice_ms: 1.5s}\n"
                  "console: virtio\n"
                  "cloud_init:\n"
                  "  user_data: |\n"
                  "    #cloud-config\n"
                  "    ssh_pwauth: false\n"
                  "ha: {restart: true, priority: 50}\n",
                  &spec, &fault);

    assert_string_equal(fault.text, "");
    assert_int_equal(r, 0);
    assert_int_equal(spec->n_disks, 2);
    assert_string_equal(spec->disks[0]->file, "db/root.raw");
    assert_int_equal(spec->disks[0]->size, GIB(8));
    assert_true(spec->disks[0]->shared);
    assert_true(spec->disks[1]->read_only);
    assert_int_equal(spec->n_nics, 2);
    assert_int_equal(spec->nics[0]->queues, 2);
    assert_string_equal(spec->nics[1]->bridge, "br1");
    assert_int_equal(spec->vsock->cid, 7);
    assert_int_equal(spec->vsock->notice_port, 2000);
    assert_int_equal(spec->vsock->notice_ms, 1500);
    assert_string_equal(spec->cloud_init->user_data, "#cloud-config\nssh_pwauth: false\n");
    assert_int_equal(spec->ha->priority, 50);
    godwit__vm_spec__free_unpacked(spec, NULL);
}

static void says_where_what_and_what_would_fit(void **state)
{
    (void)state;
    static const struct {
        const char *text, *words;
    } cases[] = {
        {"name: web\nkernal: /k\n",
         "web.yaml:2:1: kernal: unknown key; did you mean 'kernel'?; there are version, name, cpu, "
         "memory, kernel, initrd, cmdline, host, migration, disks, nics, rng, balloon, vsock, "
         "console, cloud_init, ha, boot, backend, domain_xml, test_of"},
        {"disks: {name: a}\n",
         "web.yaml:1:9: disks: found a mapping (key: value); a list (lines that begin with '- ') "
         "would fit"},
        {"disks:\n  - name: a\n    siez: 1GiB\n",
         "web.yaml:3:5: disks[0].siez: unknown key; did you mean 'size'?; there are name, path, "
         "store, file, size, read_only, serial, cache, shared, pool_store, image, image_digest, snapshot, on_error"},
        {"disks:\n  - {name: a, store: ../s, file: b}\n",
         "web.yaml:2:22: disks[0].store: found '../s'; a store's name or the absolute path of a "
         "folder would fit"},
        {"disks:\n  - {name: a, path: /d}\n  - {name: b, path: d}\n",
         "web.yaml:3:21: disks[1].path: found 'd'; an absolute path would fit"},
        {"disks:\n  - {name: a, store: /s, file: a/../../b}\n",
         "web.yaml:2:32: disks[0].file: found 'a/../../b'; a path beneath the store, without "
         "'..', would fit"},
        {"disks:\n  - {name: a, path: /d, size: 1KiB}\n",
         "web.yaml:2:31: disks[0].size: found '1KiB'; 1.0 MiB to 64.0 TiB would fit"},
        {"disks:\n  - {name: a, path: /d, shared: true}\n",
         "web.yaml:2:6: disks[0]: shared needs a store and a file: the folder is what the hosts "
         "share"},
        {"nics:\n  - {bridge: br0, mac: \"53:54:00:12:34:56\"}\n",
         "web.yaml:2:24: nics[0].mac: found '53:54:00:12:34:56'; one station's address like "
         "52:54:00:12:34:56 would fit"},
        {"disks:\n  - {name: a, path: /d}\n  - {name: b, path: /d}\n",
         "web.yaml:3:6: disks[1]: it is the same as disks[0]"},
        {"console: vga\n", "web.yaml:1:10: console: found 'vga'; serial or virtio would fit"},
        {"vsock: {notice_ms: 1m}\n",
         "web.yaml:1:20: vsock.notice_ms: found '1m'; 0 s to 10.0 s would fit"},
        {"vsock: {notice_port: 0}\n",
         "web.yaml:1:22: vsock.notice_port: found '0'; a whole number from 1 to 4294967294 would fit"},
        {"boot: disk\n", "web.yaml:1:7: boot: disk, but the VM has no disks"},
        {"memory:\n  sise: 1GiB\n",
         "web.yaml:2:3: memory.sise: unknown key; did you mean 'size'?; there are size, hugepages"},
        {"memory:\n  size: 1GB\n",
         "web.yaml:2:9: memory.size: found '1GB', which can be read in two ways; write 1GiB"},
        {"memory:\n  size: 1KiB\n",
         "web.yaml:2:9: memory.size: found '1KiB'; 16 MiB to 64.0 GiB would fit"},
        {"memory: 1GiB\n", "web.yaml:1:9: memory: found '1GiB'; a mapping (key: value) would fit"},
        {"cpu:\n  vcpus: two\n",
         "web.yaml:2:10: cpu.vcpus: found 'two'; a whole number from 1 to 16 would fit"},
        {"cpu:\n  vcpus: 99\n",
         "web.yaml:2:10: cpu.vcpus: found '99'; a whole number from 1 to 16 would fit"},
        {"cpu: {vcpus: [1]}\n",
         "web.yaml:1:15: cpu.vcpus: found a list; a whole number from 1 to 16 would fit"},
        {"memory: {hugepages: yes}\n",
         "web.yaml:1:21: memory.hugepages: found 'yes'; true or false would fit"},
        {"migration: {policy: gentel}\n",
         "web.yaml:1:21: migration.policy: found 'gentel'; gentle, balanced or finish would fit; "
         "did you mean 'gentle'?"},
        {"version: 2\n", "web.yaml:1:10: version: found '2'; 1 would fit"},
        {"name: web\ncpu: {vcpus: 1}\nname: db\n",
         "web.yaml:3:1: name: stands here for the second time; first on line 1"},
        {"name:\n", "web.yaml:1:1: name: found nothing; a text would fit"},
        {"name: ../x\n",
         "web.yaml:1:7: name: found '../x'; letters, digits, '.', '_' and '-' would fit, 63 at "
         "most, first a letter or digit"},
        {"name: a\n---\nname: b\n", "web.yaml:3:1: a second document begins here; one VM a file"},
        {"- name: a\n",
         "web.yaml:1:1: found a list; a VM as key: value lines would fit, like 'name: web-01'"},
        {"", "web.yaml:1:1: found nothing; a VM as key: value lines would fit, like 'name: "
             "web-01'"},
        {"name: !!str web\n", "web.yaml:1:7: name: found a tag (!...); a spec takes none"},
        {"%YAML 1.2\n---\nname: a\n", "web.yaml:1:1: found a directive (%...); a spec takes none"},
        {"name: a\x01\n", "web.yaml:1:8: found the control letter 0x01; plain text would fit"},
        {"name: a\xff\n",
         "web.yaml:1:8: found a byte that is no UTF-8 (0xff); plain text would fit"},
        {"name: &a web\nhost: *a\n", "web.yaml:2:7: host: found an alias; write the value itself"},
    };

    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct fault fault = {0};
        Godwit__VmSpec *spec = NULL;
        assert_int_equal(parse(cases[i].text, &spec, &fault), ERR_INVALID);
        assert_string_equal(fault.text, cases[i].words);
        assert_null(spec);
    }
}

static void tells_the_place_of_bad_yaml(void **state)
{
    (void)state;
    struct fault fault = {0};
    Godwit__VmSpec *spec = NULL;

    int r = parse("name: web\nmemory: {size: 1GiB\n", &spec, &fault);

    assert_int_equal(r, ERR_INVALID);
    assert_non_null(strstr(fault.text, "web.yaml:"));
    assert_non_null(strstr(fault.text, "no YAML"));
}

static void refuses_what_is_nested_too_deeply(void **state)
{
    (void)state;
    struct fault fault = {0};
    Godwit__VmSpec *spec = NULL;

    int r = parse("disks: [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\n", &spec, &fault);

    assert_int_equal(r, ERR_LIMIT);
    assert_string_equal(fault.text, "web.yaml:1:39: found more than 32 levels");
    assert_null(spec);
}

static void takes_no_number_for_octal(void **state)
{
    (void)state;
    struct fault fault = {0};
    Godwit__VmSpec *spec = NULL;

    assert_int_equal(parse("cpu: {vcpus: 010}\n", &spec, &fault), 0);

    assert_int_equal(spec->cpu->vcpus, 10);
    godwit__vm_spec__free_unpacked(spec, NULL);
}

static void says_what_a_vm_lacks(void **state)
{
    (void)state;
    static const struct {
        const char *text, *words;
    } cases[] = {
        {"kernel: /k\n", "the VM lacks its name: give NAME or 'name:' in the file"},
        {"name: a\n", "the VM lacks its kernel: give --kernel FILE, 'kernel:' or 'boot: "
         "disk' in the file"},
        {"name: a\nkernel: /k\n",
         "the VM lacks its memory: give --memory 1GiB or 'memory: {size: 1GiB}' in the file"},
        {"name: a\nkernel: /k\nmemory: {size: 1GiB}\n",
         "the VM lacks its vCPUs: give --vcpus 2 or 'cpu: {vcpus: 2}' in the file"},
    };

    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct fault fault = {0};
        Godwit__VmSpec *spec = NULL;
        assert_int_equal(parse(cases[i].text, &spec, &fault), 0);
        assert_int_equal(vm_spec_check(spec, &fault), ERR_INVALID);
        assert_string_equal(fault.text, cases[i].words);
        godwit__vm_spec__free_unpacked(spec, NULL);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(binds_a_whole_vm),
        cmocka_unit_test(binds_disks_nics_and_the_rest),
        cmocka_unit_test(says_where_what_and_what_would_fit),
        cmocka_unit_test(tells_the_place_of_bad_yaml),
        cmocka_unit_test(refuses_what_is_nested_too_deeply),
        cmocka_unit_test(takes_no_number_for_octal),
        cmocka_unit_test(says_what_a_vm_lacks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

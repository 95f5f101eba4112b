#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <fcntl.h>
#include <unistd.h>

#include "agent/vm/backend_set.h"
#include "base/err.h"

static Godwit__DiskSpec disk = GODWIT__DISK_SPEC__INIT;
static Godwit__DiskSpec *disks[] = {&disk};
static Godwit__NicSpec nic = GODWIT__NIC_SPEC__INIT;
static Godwit__NicSpec *nics[] = {&nic};
static Godwit__VmSpec spec = GODWIT__VM_SPEC__INIT;
static Godwit__VmBackend of_disk = GODWIT__VM_BACKEND__INIT, of_nic = GODWIT__VM_BACKEND__INIT;
static Godwit__VmBackend *list[] = {&of_disk, &of_nic};
static struct backend_set set;
static struct fault fault;
static int fds[3];

static int set_up(void **state)
{
    static const uint64_t bytes[] = {1 << 20};
    (void)state;
    disk.name = (char *)"root";
    disk.path = (char *)"/dev/null";
    nic.bridge = (char *)"br0";
    nic.mac = (char *)"52:54:00:12:34:56";
    nic.has_queues = true;
    nic.queues = 2;
    spec.name = (char *)"web";
    spec.disks = disks;
    spec.nics = nics;
    spec.n_disks = spec.n_nics = 1;
    fault = (struct fault){0};
    of_disk.is_nic = false;
    of_disk.index = of_disk.fd_first = 0;
    of_disk.fd_count = 1;
    of_nic.is_nic = true;
    of_nic.index = 0;
    of_nic.fd_first = 1;
    of_nic.fd_count = 2;
    for (int i = 0; i < 3; i++) {
        fds[i] = open("/dev/null", O_RDWR | O_CLOEXEC);
        assert_true(fds[i] >= 0);
    }
    assert_int_equal(backend_set_init(&set, &spec, bytes, 1, &fault), 0);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    backend_set_deinit(&set);
    for (int i = 0; i < 3; i++) {
        if (fds[i] >= 0)
            (void)close(fds[i]);
    }
    return 0;
}

static void takes_every_descriptor_once(void **state)
{
    (void)state;
    assert_false(set.is_full);

    assert_int_equal(backend_set_fill(&set, list, 2, fds, 3, &fault), 0);

    assert_true(set.is_full);
    assert_int_equal(fds[0] + fds[1] + fds[2], -3);
}

static void refuses_what_does_not_fit_and_takes_nothing(void **state)
{
    (void)state;

    of_nic.fd_count = 1;
    assert_int_equal(backend_set_fill(&set, list, 2, fds, 3, &fault), ERR_INVALID);
    of_nic.fd_count = 2;
    of_nic.fd_first = UINT32_MAX;
    assert_int_equal(backend_set_fill(&set, list, 2, fds, 3, &fault), ERR_INVALID);
    of_nic.fd_first = 2;
    assert_int_equal(backend_set_fill(&set, list, 2, fds, 3, &fault), ERR_INVALID);
    of_nic = of_disk; /* the same twice */
    assert_int_equal(backend_set_fill(&set, list, 2, fds, 3, &fault), ERR_INVALID);
    assert_int_equal(backend_set_fill(&set, list, 1, fds, 3, &fault), ERR_INVALID);

    assert_false(set.is_full);
    assert_true(fds[0] >= 0 && fds[1] >= 0 && fds[2] >= 0);
}

static void tells_the_machine_what_the_spec_says(void **state)
{
    (void)state;
    struct vm_disk_config disk_configs[DISKS_MAX + 1];
    struct vm_nic_config nic_configs[NICS_MAX];
    struct vm_config config = {0};
    assert_int_equal(backend_set_fill(&set, list, 2, fds, 3, &fault), 0);

    assert_int_equal(backend_set_config(&set, &spec, disk_configs, nic_configs, &config, &fault), 0);

    assert_int_equal(config.disk_count, 1);
    assert_string_equal(config.disks[0].serial, "root");
    assert_int_equal(config.disks[0].bytes, 1 << 20);
    assert_true(config.disks[0].fd >= 0 && config.disks[0].fd != set.disk_fds[0]);
    assert_int_equal(config.nics[0].queue_pairs, 2);
    assert_int_equal(config.nics[0].mac[5], 0x56);
    assert_true(config.nics[0].fds[1] >= 0);
    backend_set_close_copies(disk_configs, 1, nic_configs, 1);
}

static void an_unplugged_nic_is_there_and_has_no_descriptors(void **state)
{
    (void)state;
    static const uint64_t bytes[] = {1 << 20};
    struct vm_disk_config disk_configs[DISKS_MAX + 1];
    struct vm_nic_config nic_configs[NICS_MAX];
    struct vm_config config = {0};
    backend_set_deinit(&set);
    nic.bridge = NULL;
    nic.has_unplugged = nic.unplugged = true;
    assert_int_equal(backend_set_init(&set, &spec, bytes, 1, &fault), 0);
    assert_int_equal(backend_set_fill(&set, list, 2, fds, 3, &fault), ERR_INVALID); /* taps for it */
    of_nic.fd_count = 0;

    assert_int_equal(backend_set_fill(&set, list, 2, fds, 3, &fault), 0);
    assert_int_equal(backend_set_config(&set, &spec, disk_configs, nic_configs, &config, &fault), 0);

    assert_true(set.is_full && fds[0] == -1 && fds[1] >= 0);
    assert_true(config.nics[0].unplugged && config.nics[0].queue_pairs == 2);
    assert_int_equal(config.nics[0].fds[0], -1);
    backend_set_close_copies(disk_configs, 1, nic_configs, 1);
    nic.has_unplugged = nic.unplugged = false;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(takes_every_descriptor_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(refuses_what_does_not_fit_and_takes_nothing, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(an_unplugged_nic_is_there_and_has_no_descriptors, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(tells_the_machine_what_the_spec_says, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

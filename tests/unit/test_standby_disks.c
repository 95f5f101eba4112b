/* The files of a replica: what lay here before is told of, whatever fails afterwards, and a name that
 * somebody took meanwhile is found out before the guest is taken. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/standby_disks.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/own.h"

struct replica {
    char store[64];
    int fd;
    Godwit__CpuSpec cpu;
    Godwit__MemorySpec memory;
    Godwit__DiskSpec disk;
    Godwit__DiskSpec *disks[1];
    Godwit__VmSpec spec;
    uint64_t bytes[1];
    Godwit__OrderReplicaIn order;
    struct standby_disks opened;
    struct fault fault;
};

static int set_up(void **state)
{
    struct replica *replica = calloc(1, sizeof *replica);

    if (!replica)
        return -1;
    (void)snprintf(replica->store, sizeof replica->store, "/tmp/godwit-standby-disks-XXXXXX");
    if (!mkdtemp(replica->store))
        return -1;
    replica->fd = open(replica->store, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    godwit__cpu_spec__init(&replica->cpu);
    godwit__memory_spec__init(&replica->memory);
    godwit__disk_spec__init(&replica->disk);
    godwit__vm_spec__init(&replica->spec);
    godwit__order_replica_in__init(&replica->order);
    replica->disk.name = (char *)"root";
    replica->disk.store = replica->store;
    replica->disk.file = (char *)"root.raw";
    replica->disks[0] = &replica->disk;
    replica->spec.name = (char *)"db-01";
    replica->spec.cpu = &replica->cpu;
    replica->spec.memory = &replica->memory;
    replica->spec.kernel = (char *)"/kernel";
    replica->spec.disks = replica->disks;
    replica->spec.n_disks = 1;
    replica->bytes[0] = MIB(4);
    replica->order.vm_id = (char *)"vm1";
    replica->order.protection_id = (char *)"p1";
    replica->order.spec = &replica->spec;
    replica->order.disk_bytes = replica->bytes;
    replica->order.n_disk_bytes = 1;
    replica->order.has_keep_disks = true;
    *state = replica;
    return replica->fd < 0 ? -1 : 0;
}

static int tear_down(void **state)
{
    struct replica *replica = *state;

    (void)unlinkat(replica->fd, "root.raw", 0);
    (void)close(replica->fd);
    int r = rmdir(replica->store); /* fails when anything is left */
    free(replica);
    return r;
}

static void put_file(const struct replica *replica, const char *text)
{
    int fd = openat(replica->fd, "root.raw", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    (void)close(fd);
}

static int open_disks(struct replica *replica)
{
    return standby_disks_open(&replica->order, "node1", false, &replica->opened, &replica->fault);
}

static void a_disk_that_was_lent_is_told_of_also_when_the_rest_fails(void **state)
{
    struct replica *replica = *state;
    put_file(replica, "precious");

    replica->order.keep_disks = true;
    replica->bytes[0] = UINT64_MAX; /* no file is as long as this */
    assert_true(open_disks(replica) < 0);
    assert_non_null(strstr(replica->fault.text, "making room"));
    assert_true(replica->opened.has_earlier);

    replica->bytes[0] = MIB(4);
    replica->fault = (struct fault){0};
    assert_int_equal(open_disks(replica), 0);
    assert_true(replica->opened.has_earlier);
    standby_disks_close(&replica->opened);
    assert_int_equal(standby_disks_keep(&replica->order, &replica->fault), 0);
    assert_int_equal(standby_disks_drop(&replica->order, true, &replica->fault), 0);
    assert_int_equal(faccessat(replica->fd, "root.raw", F_OK, 0), 0);
}

static void what_is_made_for_it_is_no_earlier_one(void **state)
{
    struct replica *replica = *state;

    replica->bytes[0] = UINT64_MAX;
    assert_true(open_disks(replica) < 0);
    assert_false(replica->opened.has_earlier);
    assert_int_equal(standby_disks_drop(&replica->order, false, &replica->fault), 0);
}

static void a_name_that_somebody_took_is_found_out_before_it_is_needed(void **state)
{
    struct replica *replica = *state;

    assert_int_equal(open_disks(replica), 0);
    standby_disks_close(&replica->opened);
    assert_int_equal(standby_disks_check_names(&replica->order, &replica->fault), 0);
    put_file(replica, "another VM's");
    assert_int_equal(standby_disks_check_names(&replica->order, &replica->fault), ERR_EXISTS);
    assert_non_null(strstr(replica->fault.text, "somebody else's"));

    assert_int_equal(unlinkat(replica->fd, "root.raw", 0), 0);
    assert_int_equal(standby_disks_check_names(&replica->order, &replica->fault), 0);
    for (unsigned i = 0; i < 2; i++) { /* its own name is no other's */
        assert_int_equal(standby_disks_keep(&replica->order, &replica->fault), 0);
        assert_int_equal(standby_disks_check_names(&replica->order, &replica->fault), 0);
    }
    assert_int_equal(standby_disks_drop(&replica->order, false, &replica->fault), 0);
    assert_int_equal(unlinkat(replica->fd, "root.raw", 0), 0);
    assert_int_equal(unlinkat(replica->fd, ".godwit/vm1/made/root", 0), 0);
    assert_int_equal(standby_disks_drop(&replica->order, false, &replica->fault), 0);
}

static void a_replica_that_is_gone_has_no_name(void **state)
{
    struct replica *replica = *state;

    assert_int_equal(open_disks(replica), 0);
    standby_disks_close(&replica->opened);
    assert_int_equal(unlinkat(replica->fd, ".godwit/vm1/made/root.replica", 0), 0);
    assert_int_equal(standby_disks_check_names(&replica->order, &replica->fault), ERR_NOT_FOUND);
    assert_int_equal(standby_disks_drop(&replica->order, false, &replica->fault), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(
            a_disk_that_was_lent_is_told_of_also_when_the_rest_fails, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_is_made_for_it_is_no_earlier_one, set_up, tear_down),
        cmocka_unit_test_setup_teardown(
            a_name_that_somebody_took_is_found_out_before_it_is_needed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_replica_that_is_gone_has_no_name, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

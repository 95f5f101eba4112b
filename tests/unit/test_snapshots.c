/* What is said of snapshots that are not here; those that are: tests/host/test_vm_snapshot.c. */
#include "agent/snapshots.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "agent/vm_table.h"
#include "base/err.h"
#include "base/loop.h"

#define ID "11111111111111111111111111111111"
#define OTHER "22222222222222222222222222222222"

static char state_dir[] = "/tmp/godwit-snapshots-XXXXXX";
static struct loop *loop;
static struct vm_table *table;
static struct snapshots *snapshots;
static struct fault fault;
static unsigned told;
static bool are_domains_known; /* as it was told last */

static void tell(void *data, const Godwit__AgentSnapshots *all)
{
    (void)data;
    told++;
    are_domains_known = all->domains_known;
}

static int set_up(void **state)
{
    (void)state;
    fault = (struct fault){0};
    told = 0;
    (void)snprintf(state_dir, sizeof state_dir, "/tmp/godwit-snapshots-XXXXXX");
    assert_non_null(mkdtemp(state_dir));
    assert_int_equal(loop_new(&loop, &fault), 0);
    const struct vm_table_config vms = {.loop = loop, .state_dir = state_dir, .run_dir = state_dir};
    assert_int_equal(vm_table_new(&table, &vms, &fault), 0);
    const struct snapshots_config config = {
        .loop = loop, .table = table, .host = "node1", .state_dir = state_dir, .tell = tell};
    assert_int_equal(snapshots_new(&snapshots, &config, &fault), 0);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    snapshots_stop(snapshots);
    snapshots = snapshots_free(snapshots);
    table = vm_table_free(table);
    loop = loop_free(loop);
    return rmdir(state_dir);
}

static int order(int (*carry_out)(struct snapshots *snapshots, const Godwit__OrderSnapshot *order,
                                  struct rpc_request *request, struct fault *ret_fault))
{
    Godwit__OrderSnapshot wanted = GODWIT__ORDER_SNAPSHOT__INIT;
    char id[] = ID;

    wanted.id = id;
    fault = (struct fault){0};
    return carry_out(snapshots, &wanted, NULL, &fault);
}

static void what_is_not_here_is_as_good_as_removed(void **state)
{
    (void)state;
    assert_int_equal(order(snapshots_remove), 0);
    assert_int_equal(told, 1);
    assert_int_equal(order(snapshots_check), ERR_NOT_FOUND);
}

static int order_clone(void)
{
    Godwit__OrderSnapshotClone wanted = GODWIT__ORDER_SNAPSHOT_CLONE__INIT;
    Godwit__VmSpec spec = GODWIT__VM_SPEC__INIT;
    char id[] = ID, vm_id[] = "v2", name[] = "web";

    spec.name = name;
    wanted.snapshot_id = id;
    wanted.vm_id = vm_id;
    wanted.spec = &spec;
    fault = (struct fault){0};
    /* Nobody to answer to: it is refused before. */
    return snapshots_clone(snapshots, &wanted, (struct rpc_request *)&wanted, &fault);
}

/* Before the first list of this agent's life, and while libvirtd is away. */
static void while_nothing_is_known_of_domains_it_is_not_said_that_one_is_removed(void **state)
{
    (void)state;
    Godwit__SnapshotInfo other = GODWIT__SNAPSHOT_INFO__INIT, *infos[] = {&other};
    char id[] = OTHER;

    snapshots_await_domains(snapshots);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(order(snapshots_remove), ERR_UNREACHABLE);
        assert_non_null(strstr(fault.text, "libvirt of this host has not answered yet"));
        assert_false(are_domains_known);
        assert_int_equal(order(snapshots_check), ERR_UNREACHABLE);
        assert_int_equal(order_clone(), ERR_UNREACHABLE);
        other.id = id;
        snapshots_set_domains(snapshots, infos, 1);
        assert_true(are_domains_known);
        assert_int_equal(order(snapshots_remove), 0);
        assert_int_equal(order(snapshots_check), ERR_NOT_FOUND);
        assert_int_equal(order_clone(), ERR_NOT_FOUND);
        snapshots_set_domains(snapshots, infos, 0); /* none is an answer too */
        assert_int_equal(order(snapshots_remove), 0);
        snapshots_set_domains(snapshots, NULL, 0); /* it is away */
    }
}

int main(void)
{
#define HERE(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        HERE(what_is_not_here_is_as_good_as_removed),
        HERE(while_nothing_is_known_of_domains_it_is_not_said_that_one_is_removed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

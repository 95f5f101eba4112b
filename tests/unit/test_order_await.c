/* A domain's start from a snapshot, ordered before libvirt has told of any. */
#include "agent/order_await.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "agent/host_facts.h"
#include "agent/orders.h"
#include "agent/orders_inside.h"
#include "agent/snapshots.h"
#include "agent/start_mark.h"
#include "agent/vm_table.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "net/rpc.h"
#include "proto/method.h"

#define SNAPSHOT "11111111111111111111111111111111"

enum { GENERATION = 5 };

static char dir[64];
static struct loop *loop;
static struct vm_table *table;
static struct host_facts *facts;
static struct snapshots *snapshots;
static struct orders *orders;
static struct rpc *agent, *coordinator;
static unsigned orders_came, answers, opened;
static int refused_code;
static bool settled;
static struct fault fault;

static void on_vm(void *data, struct vm_entry *entry)
{
    (void)data;
    (void)entry;
}

static void on_move(void *data, struct vm_entry *entry, const Godwit__MoveEvent *event)
{
    (void)data;
    (void)entry;
    (void)event;
}

static void on_ended(void *data, struct vm_entry *entry)
{
    (void)data;
    (void)entry;
}

static void on_settled(void *data)
{
    (void)data;
    settled = true;
}

/* As far as a start goes here: its snapshot was found. */
static int open_domain(void *data, struct vm_entry *entry, bool inherit, int *ret_fd, struct fault *ret_fault)
{
    (void)data;
    (void)entry;
    (void)inherit;
    (void)ret_fd;
    opened++;
    return fault_set(ret_fault, ERR_BUSY, "its domain is just ending here");
}

static void kill_domain(void *data, struct vm_entry *entry)
{
    (void)data;
    (void)entry;
}

static void tell(void *data, const Godwit__AgentSnapshots *all)
{
    (void)data;
    (void)all;
}

static void on_domains_known(void *data)
{
    (void)data;
    orders_on_domains_known(orders);
}

static void handle_start(void *data, struct rpc *rpc, struct rpc_request *request, const ProtobufCMessage *message)
{
    (void)data;
    (void)rpc;
    orders_start(orders, (const Godwit__OrderVmStart *)message, request);
    orders_came++;
}

static void answered(void *data, const ProtobufCMessage *reply, const struct fault *why)
{
    (void)data;
    answers++;
    refused_code = reply ? 0 : why->code;
}

static void begin_table(void)
{
    const struct vm_table_config config = {
        .loop = loop,
        .state_dir = dir,
        .run_dir = dir,
        .program = "/bin/false",
        .log_level = "error",
        .incarnation = "here",
        .on_vm = on_vm,
        .on_move = on_move,
        .on_ended = on_ended,
        .on_settled = on_settled,
        .open_domain = open_domain,
        .kill_domain = kill_domain,
    };

    settled = false;
    assert_int_equal(vm_table_new(&table, &config, &fault), 0);
    assert_int_equal(vm_table_load(table, &fault), 0);
    while (!settled)
        loop_turn(loop, true);
}

static void begin_orders(void)
{
    static const struct rpc_method methods[] = {
        {METHOD_ORDER_VM_START, &godwit__order_vm_start__descriptor, handle_start}};
    static const struct rpc_service service = {.methods = methods, .method_count = 1}, none = {0};
    const struct snapshots_config config = {.loop = loop,
                                            .table = table,
                                            .host = "node1",
                                            .state_dir = dir,
                                            .tell = tell,
                                            .on_domains_known = on_domains_known};
    int fds[2];

    assert_int_equal(host_facts_new(&facts, "node1", "127.0.0.1", dir, &fault), 0);
    assert_int_equal(orders_new(&orders, loop, table, facts, NULL, &fault), 0);
    assert_int_equal(snapshots_new(&snapshots, &config, &fault), 0);
    snapshots_await_domains(snapshots);
    orders_set_snapshots(orders, snapshots);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds), 0);
    assert_int_equal(rpc_new_unix(&agent, loop, fds[0], &service, NULL, &fault), 0);
    assert_int_equal(rpc_new_unix(&coordinator, loop, fds[1], &none, NULL, &fault), 0);
}

static int set_up(void **state)
{
    (void)state;
    log_set_level(LOG_ERROR + 1);
    (void)snprintf(dir, sizeof dir, "/tmp/godwit-await.XXXXXX");
    assert_non_null(mkdtemp(dir));
    orders_came = answers = opened = 0;
    refused_code = 0;
    assert_int_equal(loop_new(&loop, &fault), 0);
    begin_table();
    begin_orders();
    return 0;
}

static void remove_path(const char *name)
{
    char path[128];

    (void)snprintf(path, sizeof path, "%s%s", dir, name);
    (void)remove(path);
}

static int tear_down(void **state)
{
    struct vm_entry *entry = vm_table_find(table, "v1");
    (void)state;

    orders_stop(orders);
    snapshots_stop(snapshots);
    coordinator = rpc_close(coordinator);
    agent = rpc_close(agent);
    if (entry)
        vm_table_remove(entry);
    while (vm_table_count(table))
        loop_turn(loop, true);
    table = vm_table_free(table);
    snapshots = snapshots_free(snapshots);
    orders = orders_free(orders);
    facts = host_facts_free(facts);
    loop = loop_free(loop);
    remove_path("/incarnation");
    remove_path("/vms");
    assert_int_equal(rmdir(dir), 0);
    return 0;
}

static void order_start(uint64_t generation)
{
    Godwit__OrderVmStart order = GODWIT__ORDER_VM_START__INIT;
    Godwit__VmSpec spec = GODWIT__VM_SPEC__INIT;
    unsigned before = orders_came;

    spec.name = (char *)(uintptr_t)"dom"; /* only read, as the others */
    spec.backend = (char *)(uintptr_t)"libvirt";
    spec.domain_xml = (char *)(uintptr_t)"<domain/>";
    order.vm_id = (char *)(uintptr_t)"v1";
    order.spec = &spec;
    order.has_generation = true;
    order.generation = generation;
    order.incarnation = (char *)(uintptr_t)host_facts_incarnation(facts);
    order.snapshot_id = (char *)(uintptr_t)SNAPSHOT;
    assert_int_equal(rpc_call(coordinator, METHOD_ORDER_VM_START, &order.base, &godwit__vm_status__descriptor, 0,
                              answered, NULL, &fault),
                     0);
    while (orders_came == before)
        loop_turn(loop, true);
}

static void libvirt_tells(bool has_it)
{
    Godwit__SnapshotInfo info = GODWIT__SNAPSHOT_INFO__INIT, *infos[] = {&info};

    info.id = (char *)(uintptr_t)SNAPSHOT;
    info.vm_id = (char *)(uintptr_t)"v1";
    info.has_is_libvirt = info.is_libvirt = true;
    info.libvirt_name = (char *)(uintptr_t)"before";
    snapshots_set_domains(snapshots, infos, has_it);
}

static void wait_for_answers(unsigned count)
{
    while (answers < count)
        loop_turn(loop, true);
}

static void a_start_waits_for_the_list_and_goes_on_with_it(void **state)
{
    (void)state;
    order_start(GENERATION);
    assert_true(order_await_has(orders, "v1"));
    assert_null(vm_table_find(table, "v1")); /* nothing was done */

    libvirt_tells(true);
    assert_int_equal(opened, 1);
    wait_for_answers(1);

    assert_int_equal(refused_code, ERR_BUSY); /* see open_domain */
    assert_false(order_await_has(orders, "v1"));
}

static void what_libvirt_then_does_not_have_is_not_here(void **state)
{
    (void)state;
    order_start(GENERATION);

    libvirt_tells(false);
    wait_for_answers(1);

    assert_int_equal(refused_code, ERR_NOT_FOUND);
    assert_int_equal(opened, 0);
    assert_int_equal(vm_table_hiwater(table, "v1"), GENERATION);
    order_start(GENERATION + 1); /* it is known now */
    wait_for_answers(2);
    assert_int_equal(refused_code, ERR_NOT_FOUND);
}

static void a_libvirtd_that_stays_away_is_named_as_the_reason(void **state)
{
    (void)state;
    order_start(GENERATION);
    assert_non_null(orders->awaits.timer);
    order_await_give_up(orders);
    wait_for_answers(1);

    assert_int_equal(refused_code, ERR_UNREACHABLE);
    assert_int_equal(vm_table_hiwater(table, "v1"), GENERATION); /* and it is final */
    libvirt_tells(true);
    assert_int_equal(opened, 0);
}

static void what_was_voided_meanwhile_does_not_begin(void **state)
{
    (void)state;
    order_start(GENERATION);
    vm_table_refuse(table, "v1", GENERATION); /* as a stop does of which it is known that it is one of a start */

    libvirt_tells(true);
    wait_for_answers(1);

    assert_int_equal(refused_code, ERR_REFUSED);
    assert_int_equal(opened, 0);
}

static void what_libvirt_may_run_by_an_earlier_agents_order_is_not_given_up(void **state)
{
    (void)state;
    Godwit__VmSpec spec = GODWIT__VM_SPEC__INIT;
    struct vm_entry *entry = NULL;
    spec.name = (char *)(uintptr_t)"dom"; /* only read, as the next */
    spec.backend = (char *)(uintptr_t)"libvirt";
    assert_int_equal(vm_table_add(table, "v1", &entry, &fault), 0);
    assert_int_equal(start_mark_keep(entry, &spec, GENERATION, &fault), 0);
    order_start(GENERATION);
    order_start(GENERATION); /* the coordinator asks again */

    order_await_give_up(orders);

    assert_true(order_await_has(orders, "v1"));
    assert_int_equal(vm_table_hiwater(table, "v1"), 0);
    libvirt_tells(true);
    assert_true(opened > 0);
    wait_for_answers(2);
}

int main(void)
{
#define HERE(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        HERE(a_start_waits_for_the_list_and_goes_on_with_it),
        HERE(what_libvirt_then_does_not_have_is_not_here),
        HERE(a_libvirtd_that_stays_away_is_named_as_the_reason),
        HERE(what_was_voided_meanwhile_does_not_begin),
        HERE(what_libvirt_may_run_by_an_earlier_agents_order_is_not_given_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* A life of this host that was fenced is over when no start of it can come to run any more, libvirt's included. */
#include "agent/start_recall.h"

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

#include "agent/agent_link.h"
#include "agent/host_facts.h"
#include "agent/order_stop.h"
#include "agent/orders.h"
#include "agent/quarantine.h"
#include "agent/start_list.h"
#include "agent/start_mark.h"
#include "agent/vm_table.h"
#include "agent/vm_word.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "net/rpc.h"
#include "proto/method.h"
#include "tests/support/agent_folders.h"

enum { GENERATION = 5 };

static struct agent_folders folders;
static struct loop *loop;
static struct vm_table *table;
static struct host_facts *facts;
static struct quarantine *quarantine;
static struct rpc *domain; /* the far end of what speaks for it */
static struct rpc_request *ending;
static bool settled, is_over, is_libvirt_away;
static bool is_memory_out, is_spec_too_much; /* once */
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

static void on_over(void *data)
{
    (void)data;
    is_over = true;
}

static void handle_create(void *data, struct rpc *rpc, struct rpc_request *request, const ProtobufCMessage *message)
{
    const Godwit__VmCreate *order = (const Godwit__VmCreate *)message;
    (void)data;
    (void)rpc;

    assert_true(order->ends && order->may_run); /* never to be started */
    assert_int_equal(order->generation, GENERATION);
    assert_string_equal(order->spec->name, "dom");
    assert_null(ending);
    ending = request;
}

static void handle_quit(void *data, struct rpc *rpc, struct rpc_request *request, const ProtobufCMessage *message)
{
    (void)data;
    (void)rpc;
    (void)request;
    (void)message;
}

static void on_closed(void *data, struct rpc *rpc, const struct fault *why)
{
    (void)data;
    (void)why;
    domain = rpc_close(rpc);
}

static int open_domain(void *data, struct vm_entry *entry, bool inherit, int *ret_fd, struct fault *ret_fault)
{
    static const struct rpc_method methods[] = {
        {METHOD_VM_CREATE, &godwit__vm_create__descriptor, handle_create},
        {METHOD_VM_QUIT, &godwit__vm_action__descriptor, handle_quit}};
    static const struct rpc_service service = {.methods = methods, .method_count = 2, .on_closed = on_closed};
    int fds[2];
    (void)data;
    (void)entry;

    assert_false(inherit);
    if (is_libvirt_away)
        return fault_set(ret_fault, ERR_BUSY, "its domain is just ending here");
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds), 0);
    assert_int_equal(rpc_new_unix(&domain, loop, fds[0], &service, NULL, &fault), 0);
    *ret_fd = fds[1];
    return 0;
}

static void kill_domain(void *data, struct vm_entry *entry)
{
    (void)data;
    (void)entry;
}

int __wrap_rpc_call(struct rpc *rpc, uint16_t method, const ProtobufCMessage *request,
                    const ProtobufCMessageDescriptor *reply, uint64_t within_ms, rpc_done_fn *done, void *data,
                    struct fault *ret_fault);
int __real_rpc_call(struct rpc *rpc, uint16_t method, const ProtobufCMessage *request,
                    const ProtobufCMessageDescriptor *reply, uint64_t within_ms, rpc_done_fn *done, void *data,
                    struct fault *ret_fault);
bool __wrap_vm_entry_set_spec(struct vm_entry *entry, const Godwit__VmSpec *spec);
bool __real_vm_entry_set_spec(struct vm_entry *entry, const Godwit__VmSpec *spec);

int __wrap_rpc_call(struct rpc *rpc, uint16_t method, const ProtobufCMessage *request,
                    const ProtobufCMessageDescriptor *reply, uint64_t within_ms, rpc_done_fn *done, void *data,
                    struct fault *ret_fault)
{
    if (is_memory_out && method == METHOD_VM_CREATE) {
        is_memory_out = false;
        return fault_set(ret_fault, ERR_NOMEM, "no memory for a call");
    }
    return __real_rpc_call(rpc, method, request, reply, within_ms, done, data, ret_fault);
}

bool __wrap_vm_entry_set_spec(struct vm_entry *entry, const Godwit__VmSpec *spec)
{
    if (is_spec_too_much) {
        is_spec_too_much = false;
        return false;
    }
    return __real_vm_entry_set_spec(entry, spec);
}

static void begin_agent(void)
{
    const struct vm_table_config config = {
        .loop = loop,
        .state_dir = folders.state,
        .run_dir = folders.run,
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

/* An agent asked libvirt for its start and ended; the next one begins. */
static int set_up(void **state)
{
    struct vm_entry *entry = NULL;
    Godwit__VmSpec spec = GODWIT__VM_SPEC__INIT;
    (void)state;

    log_set_level(LOG_ERROR + 1);
    agent_folders_make(&folders);
    is_over = is_libvirt_away = is_memory_out = is_spec_too_much = false;
    assert_int_equal(loop_new(&loop, &fault), 0);
    begin_agent();
    spec.name = (char *)(uintptr_t)"dom"; /* only read */
    spec.backend = (char *)(uintptr_t)"libvirt";
    assert_int_equal(vm_table_add(table, "v1", &entry, &fault), 0);
    assert_int_equal(start_mark_keep(entry, &spec, GENERATION, &fault), 0);
    table = vm_table_free(table);
    begin_agent();
    assert_int_equal(host_facts_new(&facts, "node1", "127.0.0.1", folders.run, &fault), 0);
    return quarantine_new(&quarantine, loop, table, facts, &fault);
}

static int tear_down(void **state)
{
    (void)state;
    struct vm_entry *entry = vm_table_find(table, "v1");
    quarantine = quarantine_free(quarantine);
    facts = host_facts_free(facts);
    if (entry)
        vm_table_remove(entry);
    while (vm_table_count(table))
        loop_turn(loop, true);
    table = vm_table_free(table);
    loop = loop_free(loop);
    agent_folders_remove(&folders);
    return 0;
}

static void isolate(const Godwit__AgentWelcome *named)
{
    quarantine_begin(quarantine, named, on_over, NULL);
}

static void domain_is_spoken_for(void)
{
    while (!ending && !is_over)
        loop_turn(loop, true);
    assert_false(is_over);
}

static void refuse(void)
{
    const struct fault never = {.code = ERR_STATE, .text = "it was ended while it was being started"};

    (void)rpc_reply_fault(ending, &never);
    ending = NULL;
}

static void it_is_told_of_as_nothing(void **state)
{
    (void)state;
    Godwit__VmStatus room;
    struct vm_entry *entry = vm_table_find(table, "v1");

    assert_non_null(entry);
    assert_true(entry->is_recalled);
    assert_null(vm_word_list(entry, &room)); /* the pool says its order again */
}

/* A pool that was restored from a backup knows of no such order. */
static void it_is_named_as_what_may_be_starting(void **state)
{
    (void)state;
    struct start_list list = {0};

    assert_int_equal(start_list_make(&list, table, NULL, NULL, host_facts_incarnation(facts), &fault), 0);

    assert_int_equal(list.count, 1);
    assert_string_equal(list.list[0]->vm_id, "v1");
    assert_int_equal(list.list[0]->generation, GENERATION);
    start_list_deinit(&list);
}

static void a_fenced_life_is_over_once_libvirt_does_not_begin_it_any_more(void **state)
{
    (void)state;
    char before[80];
    (void)snprintf(before, sizeof before, "%s", host_facts_incarnation(facts));
    isolate(NULL);
    domain_is_spoken_for();
    assert_string_equal(host_facts_incarnation(facts), before);

    refuse();
    while (!is_over)
        loop_turn(loop, true);

    assert_string_not_equal(host_facts_incarnation(facts), before);
    assert_null(vm_table_find(table, "v1"));
    assert_int_equal(vm_table_hiwater(table, "v1"), GENERATION); /* the order may come late */
}

/* Those that have to end are named by what HELLO told, and of this one it told nothing. */
static void also_where_others_were_named(void **state)
{
    (void)state;
    Godwit__AgentWelcome named = GODWIT__AGENT_WELCOME__INIT;
    isolate(&named);
    domain_is_spoken_for();

    refuse();
    while (!is_over)
        loop_turn(loop, true);
}

static void one_that_libvirt_had_begun_has_ended_then(void **state)
{
    (void)state;
    Godwit__VmStatus status = GODWIT__VM_STATUS__INIT;
    isolate(NULL);
    domain_is_spoken_for();

    status.vm_id = (char *)(uintptr_t)"v1";
    status.has_state = status.has_generation = true;
    status.state = GODWIT__VM_STATE__VM_STATE_STOPPED;
    status.generation = GENERATION;
    (void)rpc_reply(ending, &status.base);
    ending = NULL;
    const struct vm_entry *entry = vm_table_find(table, "v1");
    while (entry->status->generation != GENERATION)
        loop_turn(loop, true);
    assert_false(is_over);
    domain = rpc_close(domain); /* it is over */
    while (!is_over)
        loop_turn(loop, true);

    assert_false(entry->is_recalled);
    assert_false(vm_entry_is_alive(entry));
    assert_int_equal(entry->status->generation, GENERATION);
    while (entry->saving)
        loop_turn(loop, true);
}

static void nobody_to_speak_for_it_is_no_end(void **state)
{
    (void)state;
    is_libvirt_away = true;
    isolate(NULL);
    for (int i = 0; i < 5; i++)
        loop_turn(loop, true);
    assert_false(is_over);

    is_libvirt_away = false;
    domain_is_spoken_for();
    refuse();
    while (!is_over)
        loop_turn(loop, true);
}

static void ends_although(bool *is_out)
{
    *is_out = true;
    isolate(NULL);

    domain_is_spoken_for();
    assert_false(*is_out);
    refuse();
    while (!is_over)
        loop_turn(loop, true);
    assert_null(vm_table_find(table, "v1"));
}

static void memory_that_runs_out_is_tried_again(void **state)
{
    (void)state;
    ends_although(&is_memory_out);
}

static void memory_that_runs_out_for_its_spec_is_too(void **state)
{
    (void)state;
    ends_although(&is_spec_too_much);
}

static void stop(bool removes, uint64_t ends_start)
{
    struct agent_link *link = NULL;
    struct orders *orders = NULL;
    Godwit__OrderVmStop order = GODWIT__ORDER_VM_STOP__INIT;
    assert_int_equal(orders_new(&orders, loop, table, facts, "", &fault), 0);
    const struct agent_link_config config = {
        .loop = loop, .address = "", .facts = facts, .table = table, .data = orders};
    assert_int_equal(agent_link_new(&link, &config, &fault), 0);
    order.vm_id = (char *)(uintptr_t)"v1"; /* only read */
    order.has_remove = true;
    order.remove = removes;
    order.has_ends_start = ends_start > 0;
    order.ends_start = ends_start;

    order_stop_handle(link, NULL, NULL, &order.base);

    orders_stop(orders);
    link = agent_link_free(link);
    orders = orders_free(orders);
}

/* Else nobody knew any more what libvirt may be at, and the host's next life would begin beside it. */
static void neither_a_stop_nor_a_removal_forgets_it(void **state)
{
    (void)state;
    const struct { bool removes; uint64_t ends_start; } cases[] = {{true, 0}, {false, 0}, {true, 1}, {false, GENERATION}};

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        stop(cases[i].removes, cases[i].ends_start);
        const struct vm_entry *entry = vm_table_find(table, "v1");
        assert_non_null(entry);
        assert_true(entry->is_recalled && !entry->stopping && !entry->remove);
        assert_int_equal(start_mark_generation(entry), GENERATION);
        assert_int_equal(vm_table_hiwater(table, "v1"), 0); /* nor is it refused: it may come to run */
    }
    isolate(NULL);
    domain_is_spoken_for();
    refuse();
    while (!is_over)
        loop_turn(loop, true);
}

/* What is kept of it meanwhile is no word of that start. */
static void its_mark_outlives_what_is_kept_of_it(void **state)
{
    (void)state;
    struct vm_entry *entry = vm_table_find(table, "v1");

    vm_entry_set(entry, GODWIT__VM_STATE__VM_STATE_STOPPED, GENERATION - 1, "", true);
    while (entry->saving)
        loop_turn(loop, true);

    assert_int_equal(start_mark_generation(entry), GENERATION);
}

int main(void)
{
#define ON_HOST(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        ON_HOST(it_is_told_of_as_nothing),
        ON_HOST(it_is_named_as_what_may_be_starting),
        ON_HOST(a_fenced_life_is_over_once_libvirt_does_not_begin_it_any_more),
        ON_HOST(also_where_others_were_named),
        ON_HOST(one_that_libvirt_had_begun_has_ended_then),
        ON_HOST(nobody_to_speak_for_it_is_no_end),
        ON_HOST(memory_that_runs_out_is_tried_again),
        ON_HOST(memory_that_runs_out_for_its_spec_is_too),
        ON_HOST(neither_a_stop_nor_a_removal_forgets_it),
        ON_HOST(its_mark_outlives_what_is_kept_of_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

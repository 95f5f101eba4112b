/* A pool that was restored from a backup knows of no start that was ordered since: hosts tell of those that they are at, or
 * will be, and nobody else may start these VMs meanwhile. */
#include "coordinator/cluster_adopt.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/log.h"
#include "base/world.h"
#include "coordinator/backup.h"
#include "coordinator/cluster_ask.h"
#include "coordinator/cluster_core.h"
#include "coordinator/cluster_ha.h"
#include "coordinator/words.h"
#include "proto/limits.h"

#define VM_STATE(name) GODWIT__VM_STATE__VM_STATE_##name
#define WEB "id-of-web"

static struct cluster cluster;
static struct cluster_todo todo; /* of the last step */
static struct problem problem;
static uint64_t now_ns, ticket;

static char *text(const char *words)
{
    return (char *)(uintptr_t)words; /* only read */
}

static struct cluster_now later(void)
{
    now_ns += 10 * NS_PER_MS;
    cluster_todo_deinit(&todo);
    return (struct cluster_now){.ns = now_ns, .unix_ms = 1};
}

/* `status` may be NULL; `starting` 0: nothing is being started there. */
static void hello(const char *name, Godwit__VmStatus *status, uint64_t starting)
{
    Godwit__BaselineFact v1 = GODWIT__BASELINE_FACT__INIT, *baselines[] = {&v1};
    Godwit__HostFacts facts = GODWIT__HOST_FACTS__INIT;
    Godwit__AgentHello message = GODWIT__AGENT_HELLO__INIT;
    Godwit__VmGeneration start = GODWIT__VM_GENERATION__INIT, *starts[] = {&start};
    struct cluster_host *host = cluster_host(&cluster, name);
    v1.name = text("x86-64-v1");
    v1.has_given = v1.given = true;
    facts.name = text(name);
    facts.incarnation = text("boot-1");
    facts.has_kvm = facts.kvm = true;
    facts.has_memory_free_bytes = true;
    facts.memory_free_bytes = GIB(4);
    facts.baselines = baselines;
    facts.n_baselines = 1;
    message.facts = &facts;
    if (status) {
        message.vms = &status;
        message.n_vms = 1;
    }
    start.vm_id = text(WEB);
    start.has_generation = true;
    start.generation = starting;
    message.starting = starts;
    message.n_starting = starting > 0;
    (void)cluster_ha_hello(&cluster, host, &message, later(), &todo);
    cluster_hello(&cluster, host, &message, later(), &todo);
}

static struct cluster_vm *web(void)
{
    return cluster_vm(&cluster, WEB);
}

static void order_done(const struct cluster_order *given, Godwit__VmState state, uint64_t generation,
                       const struct fault *fault)
{
    struct cluster_order order = *given;
    Godwit__VmStatus status = GODWIT__VM_STATUS__INIT;
    struct cluster_result result = {.definite = true, .status = fault ? NULL : &status, .fault = fault};
    status.vm_id = order.vm_id;
    status.has_state = status.has_generation = true;
    status.state = state;
    status.generation = generation;
    cluster_order_done(&cluster, &order, &result, later(), &todo);
}

static void create(void)
{
    Godwit__VmSpec spec = GODWIT__VM_SPEC__INIT;
    Godwit__MemorySpec size = GODWIT__MEMORY_SPEC__INIT;
    Godwit__CpuSpec cpu = GODWIT__CPU_SPEC__INIT;
    size.has_size = true;
    size.size = MIB(64);
    cpu.baseline = text("x86-64-v1");
    spec.name = text("web");
    spec.memory = &size;
    spec.cpu = &cpu;
    spec.kernel = text("/kernel");
    spec.host = text("node1");
    assert_int_equal(
        cluster_create_vm(&cluster, &spec, WEB, false, later(), &ticket, &problem, &todo), 0);
    assert_int_equal(todo.order_count, 1);
    order_done(&todo.orders[0], VM_STATE(RUNNING), 1, NULL);
    assert_int_equal(web()->own.phase, OWN_RUN);
}

/* As backup.c makes it. */
static void restore(void)
{
    own_stop(&web()->own);
    web()->own.hiwater += BACKUP_GENERATIONS_AHEAD;
    WORDS_COPY(cluster.settings[SETTING_RESTORED].value, "1");
    for (size_t i = 0; i < cluster.host_count; i++)
        cluster.hosts[i]->ha.was_heard = false;
}

static int set_up(void **state)
{
    (void)state;
    log_set_level(LOG_ERROR);
    cluster = (struct cluster){0};
    now_ns = NS_PER_S;
    for (int i = 1; i <= 2; i++) {
        char name[8];
        (void)snprintf(name, sizeof name, "node%d", i);
        assert_non_null(cluster_host_joined(&cluster, name, later(), &todo));
        hello(name, NULL, 0);
    }
    create();
    restore();
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    cluster_todo_deinit(&todo);
    cluster_deinit(&cluster);
    return 0;
}

static Godwit__VmStatus status_of(Godwit__VmState state, uint64_t generation)
{
    Godwit__VmStatus status = GODWIT__VM_STATUS__INIT;
    status.vm_id = text(WEB);
    status.has_state = status.has_generation = true;
    status.state = state;
    status.generation = generation;
    return status;
}

static void web_is(enum own_phase phase, const char *owner, uint64_t generation)
{
    assert_int_equal(web()->own.phase, phase);
    assert_string_equal(web()->own.owner, owner);
    assert_int_equal(web()->own.gen, generation);
}

/* All hosts are seen. */
static void end_restored(void)
{
    cluster_tick(&cluster, later(), &todo);
    assert_false(cluster_is_restored(&cluster, NULL, 0));
}

/* The START that is said again, once the pool is itself. */
static struct cluster_order start_said_again(void)
{
    now_ns += 3600 * NS_PER_S;
    for (size_t i = 0; i < cluster.host_count; i++)
        cluster.hosts[i]->seen_ns = now_ns;
    cluster_tick(&cluster, later(), &todo);
    assert_int_equal(todo.order_count, 1);
    assert_int_equal(todo.orders[0].kind, ORDER_START);
    return todo.orders[0];
}

static void nobody_starts_elsewhere_what_a_host_is_just_starting(void **state)
{
    (void)state;
    web()->want = WANT_STOPPED; /* as it was then */

    hello("node1", NULL, 0);
    hello("node2", NULL, 7);
    web_is(OWN_STARTING, "node2", 7);
    assert_string_equal(web()->own.incarnation, "boot-1");
    assert_true(web()->own.hiwater >= BACKUP_GENERATIONS_AHEAD); /* the next one is above all */
    assert_true(todo.put_count > 0); /* durable: a leader after this one knows it */
    end_restored();

    assert_int_not_equal(cluster_act(&cluster, "web", GODWIT__VM_VERB__VM_VERB_START, false, later(), &ticket, &problem, &todo), 0);
    assert_int_equal(todo.order_count, 0);
}

static void what_became_of_it_is_told_by_the_same_order(void **state)
{
    (void)state;
    hello("node2", NULL, 7);
    hello("node1", NULL, 0);
    end_restored();

    struct cluster_order order = start_said_again();
    assert_string_equal(order.host, "node2");
    assert_int_equal(order.generation, 7);
    order_done(&order, VM_STATE(RUNNING), 7, NULL);

    web_is(OWN_RUN, "node2", 7);
}

static void one_that_came_to_nothing_is_free_again(void **state)
{
    (void)state;
    const struct fault fault = {.code = ERR_REFUSED, .text = "its disk is not there"};
    hello("node2", NULL, 7);
    hello("node1", NULL, 0);
    end_restored();

    struct cluster_order order = start_said_again();
    order_done(&order, VM_STATE(NONE), 0, &fault);

    assert_int_equal(web()->own.phase, OWN_STOPPED);
    assert_int_equal(cluster_act(&cluster, "web", GODWIT__VM_VERB__VM_VERB_START, false, later(), &ticket, &problem, &todo), 0);
    assert_true(web()->own.gen > 7);
}

/* A life of node2 that was fenced may be at it still, and who took its place is not seen yet. */
static void it_is_not_said_again_before_all_hosts_are_seen(void **state)
{
    (void)state;
    Godwit__VmStatus status = status_of(VM_STATE(RUNNING), 8);
    hello("node2", NULL, 7);
    assert_int_equal(todo.order_count, 0);
    now_ns += 3600 * NS_PER_S;
    cluster_tick(&cluster, later(), &todo);
    for (size_t i = 0; i < todo.order_count; i++)
        assert_int_not_equal(todo.orders[i].kind, ORDER_START);

    hello("node1", &status, 0);

    web_is(OWN_RUN, "node1", 8);
}

static void what_runs_as_a_newer_generation_stays_the_record(void **state)
{
    (void)state;
    Godwit__VmStatus status = status_of(VM_STATE(RUNNING), 8);
    hello("node1", &status, 0);

    hello("node2", NULL, 7);

    web_is(OWN_RUN, "node1", 8);
    assert_int_equal(cluster.warning_count, 1);
    assert_non_null(strstr(cluster.warnings[0], "node2 is just starting web as generation 7"));
}

static void what_runs_as_an_older_one_does_not(void **state)
{
    (void)state;
    Godwit__VmStatus status = status_of(VM_STATE(RUNNING), 6);
    hello("node1", &status, 0);

    hello("node2", NULL, 7);

    web_is(OWN_STARTING, "node2", 7);
}

/* libvirt was asked by an agent before, whose VM was off until then. */
static void what_the_host_knew_of_it_before_is_no_end(void **state)
{
    (void)state;
    Godwit__VmStatus status = status_of(VM_STATE(STOPPED), 6);

    hello("node2", &status, 7);
    hello("node2", &status, 7); /* its link was lost, and is back */

    web_is(OWN_STARTING, "node2", 7);
}

static void a_snapshot_that_was_to_be_restored_then_is_not_any_more(void **state)
{
    (void)state;
    WORDS_COPY(web()->restoring, "snapshot-1");

    hello("node2", NULL, 7);

    assert_string_equal(web()->restoring, "");
}

/* It ended, and shall run: as it is found. */
static void what_is_lost_is_found_too(void **state)
{
    (void)state;
    Godwit__VmStatus status = status_of(VM_STATE(RUNNING), 8);
    hello("node2", NULL, 7);
    own_lose(&web()->own);

    hello("node1", &status, 0);

    web_is(OWN_RUN, "node1", 8);
}

static void a_pool_that_was_not_restored_goes_by_its_record(void **state)
{
    (void)state;
    cluster.settings[SETTING_RESTORED].value[0] = '\0';

    hello("node2", NULL, 7);

    assert_int_equal(web()->own.phase, OWN_STOPPED);
    assert_string_equal(web()->own.owner, "node1");
    assert_int_equal(todo.order_count, 0);
}

static void what_names_nothing_is_passed_over(void **state)
{
    (void)state;
    Godwit__AgentHello message = GODWIT__AGENT_HELLO__INIT;
    Godwit__VmGeneration start = GODWIT__VM_GENERATION__INIT, *starts[] = {&start};
    message.starting = starts;
    message.n_starting = 1;

    cluster_hello(&cluster, cluster_host(&cluster, "node2"), &message, later(), &todo);
    start.vm_id = text(WEB);
    cluster_hello(&cluster, cluster_host(&cluster, "node2"), &message, later(), &todo);
    start.vm_id = text("of no VM");
    start.generation = 7;
    cluster_hello(&cluster, cluster_host(&cluster, "node2"), &message, later(), &todo);

    assert_int_equal(web()->own.phase, OWN_STOPPED);
}

int main(void)
{
#define RESTORED(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        RESTORED(nobody_starts_elsewhere_what_a_host_is_just_starting),
        RESTORED(what_became_of_it_is_told_by_the_same_order),
        RESTORED(one_that_came_to_nothing_is_free_again),
        RESTORED(it_is_not_said_again_before_all_hosts_are_seen),
        RESTORED(what_runs_as_a_newer_generation_stays_the_record),
        RESTORED(what_runs_as_an_older_one_does_not),
        RESTORED(what_the_host_knew_of_it_before_is_no_end),
        RESTORED(a_snapshot_that_was_to_be_restored_then_is_not_any_more),
        RESTORED(what_is_lost_is_found_too),
        RESTORED(a_pool_that_was_not_restored_goes_by_its_record),
        RESTORED(what_names_nothing_is_passed_over),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

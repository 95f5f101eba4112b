#include "coordinator/cluster_unheard.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/log.h"
#include "base/world.h"
#include "coordinator/cluster_ask.h"
#include "coordinator/cluster_core.h"
#include "coordinator/cluster_ha.h"
#include "coordinator/cluster_view.h"
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

static void hello(const char *name, const char *incarnation, Godwit__VmStatus *status)
{
    Godwit__BaselineFact v1 = GODWIT__BASELINE_FACT__INIT, *baselines[] = {&v1};
    Godwit__HostFacts facts = GODWIT__HOST_FACTS__INIT;
    Godwit__AgentHello message = GODWIT__AGENT_HELLO__INIT;
    struct cluster_host *host = cluster_host(&cluster, name);
    v1.name = text("x86-64-v1");
    v1.has_given = v1.given = true;
    facts.name = text(name);
    facts.incarnation = text(incarnation);
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
    (void)cluster_ha_hello(&cluster, host, &message, later(), &todo);
    cluster_hello(&cluster, host, &message, later(), &todo);
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
        hello(name, "boot-1", NULL);
    }
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    cluster_todo_deinit(&todo);
    cluster_deinit(&cluster);
    return 0;
}

static struct cluster_vm *web(void)
{
    return cluster_vm(&cluster, WEB);
}

/* Of the order that the last step gave. */
static void order_succeeds(Godwit__VmState state, uint64_t generation)
{
    assert_int_equal(todo.order_count, 1);
    struct cluster_order order = todo.orders[0];
    Godwit__VmStatus status = GODWIT__VM_STATUS__INIT;
    struct cluster_result result = {.definite = true, .status = &status};
    status.vm_id = order.vm_id;
    status.has_state = status.has_generation = true;
    status.state = state;
    status.generation = generation;
    cluster_order_done(&cluster, &order, &result, later(), &todo);
}

/* It is being started on node1 as generation 1. */
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
}

static void create_running(void)
{
    create();
    order_succeeds(VM_STATE(RUNNING), 1);
    assert_int_equal(web()->own.phase, OWN_RUN);
}

static Godwit__VmStatus status_of(Godwit__VmState state, uint64_t generation)
{
    Godwit__VmStatus status = GODWIT__VM_STATUS__INIT;
    status.vm_id = text(WEB);
    status.has_state = true;
    status.state = state;
    status.has_generation = generation > 0;
    status.generation = generation;
    return status;
}

static void hello_unheard(const char *name)
{
    Godwit__VmStatus unheard = status_of(VM_STATE(NONE), 0);
    hello(name, "boot-1", &unheard);
}

static void first_word(const char *host, Godwit__VmState state, uint64_t generation)
{
    Godwit__VmStatus status = status_of(state, generation);
    cluster_vm_first_word(&cluster, cluster_host(&cluster, host), &status, later(), &todo);
}

static void only_a_status_without_state_generation_and_latch_is_one(void **state)
{
    (void)state;
    Godwit__MoveLatch latch = GODWIT__MOVE_LATCH__INIT;
    Godwit__VmStatus status = status_of(VM_STATE(NONE), 0);

    assert_true(cluster_unheard_is(&status));
    status.has_state = false;
    assert_true(cluster_unheard_is(&status));
    latch.move_id = text("m");
    status.latch = &latch;
    assert_false(cluster_unheard_is(&status));
    status = status_of(VM_STATE(NONE), 1);
    assert_false(cluster_unheard_is(&status));
    status = status_of(VM_STATE(INCOMING), 0);
    assert_false(cluster_unheard_is(&status));
}

static void one_that_runs_by_its_record_runs_on_by_it(void **state)
{
    (void)state;
    create_running();
    web()->in_postcopy = true;

    hello_unheard("node1");

    assert_int_equal(web()->own.phase, OWN_RUN);
    assert_string_equal(cluster_vm_word(&cluster, web(), now_ns), "running");
    assert_true(web()->in_postcopy); /* its last source may still have to serve it */
    assert_int_equal(todo.order_count, 0);
    first_word("node1", VM_STATE(RUNNING), 1);
    assert_int_equal(web()->own.phase, OWN_RUN);
    assert_int_equal(todo.order_count, 0);
}

static void one_that_ended_has_once_that_is_told(void **state)
{
    (void)state;
    create_running();
    hello_unheard("node1");

    first_word("node1", VM_STATE(CRASHED), 1);

    assert_int_equal(web()->own.phase, OWN_STOPPED);
    assert_string_equal(cluster_vm_word(&cluster, web(), now_ns), "crashed");
}

static void one_that_is_being_started_has_neither_started_nor_failed(void **state)
{
    (void)state;
    create();
    web()->ticket = 0; /* its asker has gone */

    hello_unheard("node1");
    assert_int_equal(web()->own.phase, OWN_STARTING);
    assert_int_equal(todo.order_count, 0);

    first_word("node1", VM_STATE(RUNNING), 1);
    assert_int_equal(web()->own.phase, OWN_RUN);
}

/* As HELLO would have said it: no event, of which the record learns less. */
static void one_whose_record_stopped_is_adopted_by_its_first_word(void **state)
{
    (void)state;
    create_running();
    own_stop(&web()->own);

    hello_unheard("node1");
    assert_int_equal(web()->own.phase, OWN_STOPPED);
    first_word("node1", VM_STATE(RUNNING), 1);

    assert_int_equal(web()->own.phase, OWN_RUN);
}

static void a_recorded_stop_is_ordered_when_it_is_known_to_run(void **state)
{
    (void)state;
    create_running();
    web()->want = WANT_STOPPED;

    hello_unheard("node1");
    assert_int_equal(todo.order_count, 0); /* a refusal would take it back */
    first_word("node1", VM_STATE(RUNNING), 1);

    assert_int_equal(todo.order_count, 1);
    assert_int_equal(todo.orders[0].kind, ORDER_STOP);
}

/* web moves from node1 to node2. */
static struct cluster_job *move_web(void)
{
    struct cluster_job *job = NULL;
    create_running();
    struct cluster_move_ask ask = {.vm = "web", .to = "node2", .job_id = "J000001", .move_id = "move-1"};
    assert_int_equal(cluster_migrate(&cluster, &ask, later(), &job, &problem, &todo), 0);
    order_succeeds(VM_STATE(NONE), 0);
    assert_int_equal(job->core.step, JOB_MOVE);
    return job;
}

static void a_target_that_is_not_known_is_not_gone(void **state)
{
    (void)state;
    struct cluster_job *job = move_web();

    hello_unheard("node2");
    assert_false(job->core.target.gone);
    assert_int_equal(job->core.step, JOB_MOVE);

    hello_unheard("node1");
    assert_false(job->core.source.gone);
    first_word("node2", VM_STATE(GONE), 0);
    assert_true(job->core.target.gone);
}

static void a_host_is_not_seen_before_all_its_vms_are(void **state)
{
    (void)state;
    char waits[200];
    create_running();
    WORDS_COPY(cluster.settings[SETTING_RESTORED].value, "1");
    hello_unheard("node2");
    cluster_tick(&cluster, later(), &todo);
    assert_true(cluster_is_restored(&cluster, waits, sizeof waits));
    assert_string_equal(waits, "node2");

    first_word("node2", VM_STATE(RUNNING), 7);
    assert_int_equal(web()->own.hiwater, 7);
    assert_string_equal(web()->own.owner, "node2");
    cluster_tick(&cluster, later(), &todo);
    assert_false(cluster_is_restored(&cluster, waits, sizeof waits));
}

/* An agent of before tells at once that a process which is still to become a VM is none. */
static void a_word_that_says_nothing_is_waited_past(void **state)
{
    (void)state;
    char waits[200];
    create_running();
    WORDS_COPY(cluster.settings[SETTING_RESTORED].value, "1");
    hello_unheard("node2");

    first_word("node2", VM_STATE(NONE), 0);
    cluster_tick(&cluster, later(), &todo);

    assert_true(cluster_is_restored(&cluster, waits, sizeof waits));
    assert_string_equal(waits, "node2");
    assert_int_equal(cluster.warning_count, 0); /* it is no process of another generation either */
}

static void of_a_host_that_was_fenced_it_ends_unless_the_record_has_it_there(void **state)
{
    (void)state;
    Godwit__VmStatus unheard = status_of(VM_STATE(NONE), 0);
    create_running();

    assert_false(cluster_ha_superseded(&cluster, cluster_host(&cluster, "node1"), &unheard));
    assert_true(cluster_ha_superseded(&cluster, cluster_host(&cluster, "node2"), &unheard));
    own_lose(&web()->own);
    assert_true(cluster_ha_superseded(&cluster, cluster_host(&cluster, "node1"), &unheard));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_a_status_without_state_generation_and_latch_is_one),
        cmocka_unit_test_setup_teardown(one_that_runs_by_its_record_runs_on_by_it, set_up, tear_down),
        cmocka_unit_test_setup_teardown(one_that_ended_has_once_that_is_told, set_up, tear_down),
        cmocka_unit_test_setup_teardown(one_that_is_being_started_has_neither_started_nor_failed, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(one_whose_record_stopped_is_adopted_by_its_first_word, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_recorded_stop_is_ordered_when_it_is_known_to_run, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_target_that_is_not_known_is_not_gone, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_host_is_not_seen_before_all_its_vms_are, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_word_that_says_nothing_is_waited_past, set_up, tear_down),
        cmocka_unit_test_setup_teardown(of_a_host_that_was_fenced_it_ends_unless_the_record_has_it_there,
                                        set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

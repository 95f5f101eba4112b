/* What is lost with a fenced host, when that is more than one tick tells of. */
#include "coordinator/cluster_ha.h"

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

enum { LOST = 40, TICKS = 20 };

static struct cluster cluster;
static struct problem problem;
static uint64_t now_ns;

static struct cluster_now now(void)
{
    return (struct cluster_now){.ns = now_ns, .unix_ms = 1000};
}

static void host_joins(const char *name)
{
    Godwit__BaselineFact v1 = GODWIT__BASELINE_FACT__INIT;
    Godwit__BaselineFact *baselines[] = {&v1};
    Godwit__HostFacts facts = GODWIT__HOST_FACTS__INIT;
    Godwit__AgentHello hello = GODWIT__AGENT_HELLO__INIT;
    struct cluster_todo todo = {0};
    v1.name = (char *)(uintptr_t) "x86-64-v1";
    v1.has_given = v1.given = true;
    facts.name = facts.incarnation = (char *)(uintptr_t)name;
    facts.has_kvm = facts.kvm = true;
    facts.has_cpus = facts.has_memory_bytes = facts.has_memory_free_bytes = true;
    facts.cpus = 64;
    facts.memory_bytes = facts.memory_free_bytes = GIB(64);
    facts.baselines = baselines;
    facts.n_baselines = 1;
    hello.facts = &facts;
    assert_non_null(cluster_host_joined(&cluster, name, now(), &todo));
    cluster_hello(&cluster, cluster_host(&cluster, name), &hello, now(), &todo);
    cluster_todo_deinit(&todo);
}

static int set_up(void **state)
{
    (void)state;
    struct cluster_todo todo = {0};
    log_set_level(LOG_ERROR);
    cluster = (struct cluster){0};
    now_ns = 100 * NS_PER_S;
    cluster_seed(&cluster, 1, 2);
    for (int i = 1; i <= 3; i++) {
        char name[8];
        (void)snprintf(name, sizeof name, "node%d", i);
        host_joins(name);
    }
    assert_int_equal(cluster_ha_set_reserve(&cluster, 0, &problem, &todo), 0);
    cluster_todo_deinit(&todo);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    cluster_deinit(&cluster);
    return 0;
}

/* Every start and room for a move that was ordered is there; moves stay under way. */
static void all_succeed(const struct cluster_todo *todo)
{
    for (size_t i = 0; i < todo->order_count; i++) {
        Godwit__VmStatus status = GODWIT__VM_STATUS__INIT;
        const struct cluster_result result = {.definite = true, .status = &status};
        const struct cluster_order *order = &todo->orders[i];
        bool starts = order->kind == ORDER_START;
        struct cluster_todo after = {0};
        if (!starts && order->kind != ORDER_MOVE_IN)
            continue;
        status.vm_id = (char *)(uintptr_t)order->vm_id;
        status.has_state = status.has_generation = starts;
        status.state = GODWIT__VM_STATE__VM_STATE_RUNNING;
        status.generation = starts ? order->generation : 0;
        cluster_order_done(&cluster, order, &result, now(), &after);
        cluster_todo_deinit(&after);
    }
}

static void run(const char *name, const char *host, uint32_t priority)
{
    Godwit__VmSpec spec = GODWIT__VM_SPEC__INIT;
    Godwit__MemorySpec memory = GODWIT__MEMORY_SPEC__INIT;
    Godwit__CpuSpec cpu = GODWIT__CPU_SPEC__INIT;
    Godwit__HaSpec ha = GODWIT__HA_SPEC__INIT;
    struct cluster_todo todo = {0};
    uint64_t ticket;
    memory.has_size = true;
    memory.size = MIB(64);
    cpu.baseline = (char *)(uintptr_t) "x86-64-v1";
    ha.has_restart = ha.restart = ha.has_priority = true;
    ha.priority = priority;
    spec.name = (char *)(uintptr_t)name;
    spec.host = (char *)(uintptr_t)host;
    spec.memory = &memory;
    spec.cpu = &cpu;
    spec.ha = &ha;
    spec.kernel = (char *)(uintptr_t) "/kernel";
    assert_int_equal(cluster_create_vm(&cluster, &spec, name, false, now(), &ticket, &problem, &todo), 0);
    all_succeed(&todo);
    cluster_todo_deinit(&todo);
    assert_int_equal(cluster_vm(&cluster, name)->own.phase, OWN_RUN);
}

static void link_is_lost(const char *name)
{
    struct cluster_todo todo = {0};
    cluster_link_lost(&cluster, cluster_host(&cluster, name), now(), &todo);
    cluster_todo_deinit(&todo);
}

static unsigned starts, in_order;
static uint32_t last_priority;

static void note_starts(const struct cluster_todo *todo)
{
    for (size_t i = 0; i < todo->order_count; i++) {
        if (todo->orders[i].kind != ORDER_START)
            continue;
        uint32_t priority = cluster_ha_priority(cluster_vm(&cluster, todo->orders[i].vm_id));
        in_order += priority <= last_priority;
        last_priority = priority;
        starts++;
    }
}

static void is_down_for_certain(const char *name)
{
    struct cluster_todo todo = {0};
    link_is_lost(name);
    starts = in_order = 0;
    last_priority = UINT32_MAX;
    assert_int_equal(cluster_ha_confirm_down(&cluster, name, name, now(), &problem, &todo), 0);
    note_starts(&todo);
    all_succeed(&todo);
    cluster_todo_deinit(&todo);
}

static void time_passes(void)
{
    for (int i = 0; i < TICKS; i++) {
        struct cluster_todo todo = {0};
        now_ns += 200 * NS_PER_MS;
        cluster_tick(&cluster, now(), &todo);
        note_starts(&todo);
        all_succeed(&todo);
        cluster_todo_deinit(&todo);
    }
}

static void each_of_many_is_started_once_elsewhere(void **state)
{
    (void)state;
    for (int i = 0; i < LOST; i++) {
        char name[16];
        (void)snprintf(name, sizeof name, "vm%02d", i);
        run(name, "node1", 50);
    }

    is_down_for_certain("node1");
    time_passes();

    assert_int_equal(starts, LOST);
    for (size_t i = 0; i < cluster.vm_count; i++) {
        const struct cluster_vm *vm = cluster.vms[i];
        assert_int_equal(vm->own.phase, OWN_RUN);
        assert_string_not_equal(vm->own.owner, "node1");
        assert_int_equal(vm->own.gen, 3); /* one of them is that of its loss */
    }
}

/* Room may be short: whoever is told of late must not find it taken by those that matter less. */
static void the_most_important_of_many_is_started_first(void **state)
{
    (void)state;
    run("important", "node1", 100); /* the last that is looked at */
    for (int i = 0; i < LOST; i++) {
        char name[16];
        (void)snprintf(name, sizeof name, "vm%02d", i);
        run(name, "node1", 10);
    }

    is_down_for_certain("node1");
    time_passes();

    assert_int_equal(starts, LOST + 1);
    assert_int_equal(in_order, LOST + 1);
}

/* Their source is cut off and not fenced: what they come to is not known for long. */
static void moves_that_wait_for_word_keep_nobody_from_being_lost(void **state)
{
    (void)state;
    run("victim", "node1", 50);
    for (int i = 0; i < LOST; i++) {
        char name[16], job_id[16], move_id[16];
        struct cluster_job *job = NULL;
        struct cluster_todo todo = {0};
        (void)snprintf(name, sizeof name, "vm%02d", i);
        (void)snprintf(job_id, sizeof job_id, "J%06d", i);
        (void)snprintf(move_id, sizeof move_id, "move-%d", i);
        run(name, "node2", 50);
        const struct cluster_move_ask ask = {.vm = name, .to = "node1", .job_id = job_id, .move_id = move_id};
        assert_int_equal(cluster_migrate(&cluster, &ask, now(), &job, &problem, &todo), 0);
        all_succeed(&todo);
        cluster_todo_deinit(&todo);
        assert_int_equal(job->core.step, JOB_MOVE);
    }

    link_is_lost("node2");
    is_down_for_certain("node1");
    time_passes();

    assert_non_null(cluster_vm(&cluster, "vm00")->job); /* still */
    assert_string_equal(cluster_vm(&cluster, "victim")->own.owner, "node3");
    assert_int_equal(cluster_vm(&cluster, "victim")->own.phase, OWN_RUN);
    assert_int_equal(starts, 1);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(each_of_many_is_started_once_elsewhere),
        TEST(the_most_important_of_many_is_started_first),
        TEST(moves_that_wait_for_word_keep_nobody_from_being_lost),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

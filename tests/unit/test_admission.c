/* Whether the pool survives the death of a host, and what is refused to keep it so. */
#include "coordinator/admission.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/world.h"
#include "coordinator/cluster_ask.h"
#include "coordinator/cluster_core.h"
#include "coordinator/cluster_ha.h"
#include "coordinator/rule.h"

static struct cluster cluster;
static struct problem problem;

static struct cluster_now now(void)
{
    return (struct cluster_now){.ns = NS_PER_S, .unix_ms = 1000};
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
    facts.cpus = 8;
    facts.memory_bytes = facts.memory_free_bytes = GIB(8);
    facts.baselines = baselines;
    facts.n_baselines = 1;
    hello.facts = &facts;
    assert_non_null(cluster_host_joined(&cluster, name, now(), &todo));
    cluster_hello(&cluster, cluster_host(&cluster, name), &hello, now(), &todo);
    cluster_todo_deinit(&todo);
}

/* Its host has started it at once. -1: it was refused. */
static int run(const char *name, const char *host, uint64_t memory_bytes, bool is_protected)
{
    Godwit__VmSpec spec = GODWIT__VM_SPEC__INIT;
    Godwit__MemorySpec memory = GODWIT__MEMORY_SPEC__INIT;
    Godwit__HaSpec ha = GODWIT__HA_SPEC__INIT;
    struct cluster_todo todo = {0};
    uint64_t ticket;
    memory.has_size = true;
    memory.size = memory_bytes;
    ha.has_restart = ha.restart = is_protected;
    spec.name = (char *)(uintptr_t)name;
    spec.host = (char *)(uintptr_t)host;
    spec.memory = &memory;
    spec.ha = &ha;
    spec.kernel = (char *)(uintptr_t) "/kernel";
    int r = cluster_create_vm(&cluster, &spec, name, false, now(), &ticket, &problem, &todo);
    for (size_t i = 0; i < todo.order_count; i++) {
        Godwit__VmStatus status = GODWIT__VM_STATUS__INIT;
        const struct cluster_result result = {.definite = true, .status = &status};
        struct cluster_todo after = {0};
        status.vm_id = todo.orders[i].vm_id;
        status.has_state = status.has_generation = true;
        status.state = GODWIT__VM_STATE__VM_STATE_RUNNING;
        status.generation = todo.orders[i].generation;
        cluster_order_done(&cluster, &todo.orders[i], &result, now(), &after);
        cluster_todo_deinit(&after);
    }
    cluster_todo_deinit(&todo);
    return r;
}

static int add_rule(const char *kind, char **vms, size_t vm_count, char **hosts, size_t host_count,
                    bool is_soft)
{
    Godwit__Rule rule = GODWIT__RULE__INIT;
    struct cluster_rule *added;
    struct cluster_todo todo = {0};
    rule.id = (char *)(uintptr_t) "r";
    rule.kind = (char *)(uintptr_t)kind;
    rule.vms = vms;
    rule.n_vms = vm_count;
    rule.hosts = hosts;
    rule.n_hosts = host_count;
    rule.has_soft = rule.soft = is_soft;
    int r = rule_add(&cluster, &rule, now(), &added, &problem, &todo);
    cluster_todo_deinit(&todo);
    return r;
}

static int set_label(const char *host, const char *label)
{
    char *labels[] = {(char *)(uintptr_t)label};
    Godwit__HostSetRequest request = GODWIT__HOST_SET_REQUEST__INIT;
    struct cluster_host *found;
    struct cluster_todo todo = {0};
    request.host = (char *)(uintptr_t)host;
    request.labels = labels;
    request.n_labels = 1;
    int r = rule_set_host(&cluster, &request, now(), &found, &problem, &todo);
    cluster_todo_deinit(&todo);
    return r;
}

static bool holds(void)
{
    char lacks[PROBLEM_HINT_SIZE];
    return admission_holds(&cluster, now(), lacks, sizeof lacks);
}

static int set_up(void **state)
{
    (void)state;
    cluster_seed(&cluster, 1, 2);
    memset(&problem, 0, sizeof problem);
    host_joins("node1");
    host_joins("node2");
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    cluster_deinit(&cluster);
    return 0;
}

static char *a_and_b[] = {(char *)(uintptr_t) "a", (char *)(uintptr_t) "b"};

static void a_start_that_takes_the_last_room_is_refused_and_names_who_would_lack_it(void **state)
{
    (void)state;
    assert_int_equal(run("a", "node1", GIB(5), true), 0);

    assert_int_equal(run("b", "node2", GIB(4), false), -1);

    assert_int_equal(problem.code, GW_RESERVE);
    assert_string_equal(problem.text, "a would find no room if node1 died");
    assert_int_equal(cluster.vm_count, 1); /* nothing is left of what was refused */
    assert_null(cluster_vm(&cluster, "b"));
    assert_int_equal(run("c", "node2", GIB(2), false), 0);
    assert_true(holds());
}

static void a_rule_that_leaves_no_host_for_a_protected_vm_is_refused(void **state)
{
    (void)state;
    assert_int_equal(run("a", "node1", GIB(1), true), 0);
    assert_int_equal(run("b", "node2", GIB(1), true), 0);
    char *node1[] = {(char *)(uintptr_t) "node1"};

    assert_int_equal(add_rule("anti-affinity", a_and_b, 2, NULL, 0, false), -1);
    assert_int_equal(problem.code, GW_RESERVE);
    assert_string_equal(problem.text, "a would find no room if node1 died");
    assert_int_equal(add_rule("pin", a_and_b, 1, node1, 1, false), -1);
    assert_int_equal(add_rule("exclude", a_and_b + 1, 1, node1, 1, false), -1);
    assert_string_equal(problem.text, "b would find no room if node2 died");

    assert_int_equal(cluster.rule_count, 0);
    assert_true(holds());
    assert_int_equal(add_rule("anti-affinity", a_and_b, 2, NULL, 0, true),
                     0); /* a soft one costs */
}

static void a_third_host_makes_the_rule_possible(void **state)
{
    (void)state;
    host_joins("node3");
    assert_int_equal(run("a", "node1", GIB(1), true), 0);
    assert_int_equal(run("b", "node2", GIB(1), true), 0);

    assert_int_equal(add_rule("anti-affinity", a_and_b, 2, NULL, 0, false), 0);
    assert_true(holds());
}

static void a_label_that_a_rule_leans_on_is_not_taken_away(void **state)
{
    (void)state;
    char *rack[] = {(char *)(uintptr_t) "rack=a"};
    assert_int_equal(set_label("node1", "rack=a"), 0);
    assert_int_equal(set_label("node2", "rack=a"), 0);
    assert_int_equal(run("a", "node1", GIB(1), true), 0);
    assert_int_equal(add_rule("pin", a_and_b, 1, rack, 1, false), 0);

    assert_int_equal(set_label("node2", "rack-"), -1);

    assert_int_equal(problem.code, GW_RESERVE);
    assert_string_equal(rule_host_label(cluster_host(&cluster, "node2"), "rack"), "a");
    assert_int_equal(set_label("node2", "disk=fast"), 0);
}

static void where_it_does_not_hold_nothing_is_refused_for_it(void **state)
{
    (void)state;
    struct cluster_todo todo = {0};
    assert_int_equal(cluster_ha_set_reserve(&cluster, 0, &problem, &todo), 0);
    assert_int_equal(run("a", "node1", GIB(5), true), 0);
    assert_int_equal(run("b", "node2", GIB(5), false), 0);
    assert_int_equal(cluster_ha_set_reserve(&cluster, 1, &problem, &todo), 0);
    cluster_todo_deinit(&todo);
    assert_false(holds());

    assert_int_equal(run("c", "node2", GIB(1), false), 0);
    assert_int_equal(add_rule("anti-affinity", a_and_b, 2, NULL, 0, false), 0);
}

static void two_deaths_at_once_are_judged_by_pairs(void **state)
{
    (void)state;
    struct cluster_todo todo = {0};
    host_joins("node3");
    assert_int_equal(run("a", "node1", GIB(5), true), 0);
    assert_int_equal(run("b", "node2", GIB(5), true), 0);
    assert_true(holds()); /* one: each finds room on node3 */

    assert_int_equal(cluster_ha_set_reserve(&cluster, 2, &problem, &todo), 0);
    cluster_todo_deinit(&todo);

    assert_false(holds()); /* both at once do not */
}

#define POOL(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        POOL(a_start_that_takes_the_last_room_is_refused_and_names_who_would_lack_it),
        POOL(a_rule_that_leaves_no_host_for_a_protected_vm_is_refused),
        POOL(a_third_host_makes_the_rule_possible),
        POOL(a_label_that_a_rule_leans_on_is_not_taken_away),
        POOL(where_it_does_not_hold_nothing_is_refused_for_it),
        POOL(two_deaths_at_once_are_judged_by_pairs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

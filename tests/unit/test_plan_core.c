/* Plans over a cluster of four hosts whose agents do what they are told; the world is the test's.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/log.h"
#include "base/world.h"
#include "coordinator/cluster_ask.h"
#include "coordinator/cluster_core.h"
#include "coordinator/cluster_found.h"
#include "coordinator/plan_make.h"
#include "coordinator/rows.h"
#include "coordinator/rule.h"
#include "coordinator/store.h"

#define VM_STATE(name) GODWIT__VM_STATE__VM_STATE_##name
#define LATCH(name) GODWIT__LATCH__LATCH_##name

enum { HOSTS = 4 };
static struct cluster cluster;
static struct problem problem;
static uint64_t now_ns;
static unsigned moves_begun, most_at_once, starts_ordered;
static char refusing[64];   /* these targets fail every move and start */
static struct store *store; /* NULL: nothing is kept */
static uint64_t last_event;

static struct cluster_now now(void)
{
    return (struct cluster_now){.ns = now_ns, .unix_ms = now_ns / NS_PER_MS};
}

static void keep(struct cluster_todo *todo)
{
    struct store_batch *batch = NULL;
    if (!store)
        return;
    assert_int_equal(store_batch_new(&batch, NULL), 0);
    for (size_t i = 0; i < todo->put_count; i++)
        rows_put(batch, &cluster, &todo->puts[i], now(), &last_event);
    assert_int_equal(store_commit_now(store, batch, NULL), 0);
    (void)store_batch_free(batch);
}

static void say_hello(const char *name, const char *incarnation)
{
    Godwit__BaselineFact v1 = GODWIT__BASELINE_FACT__INIT;
    Godwit__BaselineFact *baselines[] = {&v1};
    Godwit__HostFacts facts = GODWIT__HOST_FACTS__INIT;
    Godwit__AgentHello message = GODWIT__AGENT_HELLO__INIT;
    struct cluster_todo todo = {0};
    v1.name = (char *)(uintptr_t) "x86-64-v1";
    v1.has_given = v1.given = true;
    facts.name = (char *)(uintptr_t)name;
    facts.incarnation = (char *)(uintptr_t)incarnation;
    facts.has_kvm = facts.kvm = true;
    facts.has_cpus = facts.has_memory_bytes = facts.has_memory_free_bytes = true;
    facts.cpus = 8;
    facts.memory_bytes = facts.memory_free_bytes = GIB(8);
    facts.baselines = baselines;
    facts.n_baselines = 1;
    char *bridges[] = {(char *)(uintptr_t) "br0"};
    facts.cpu_vendor = (char *)(uintptr_t) "AuthenticAMD";
    facts.bridges = bridges;
    facts.n_bridges = strcmp(name, "node1") == 0 || strcmp(name, "node4") == 0;
    message.facts = &facts;
    /* All that it runs is told, or its VMs would be taken for gone. */
    Godwit__VmStatus statuses[64], *list[64];
    for (size_t i = 0; i < cluster.vm_count; i++) {
        const struct cluster_vm *vm = cluster.vms[i];
        if (vm->own.phase == OWN_STOPPED || strcmp(vm->own.owner, name) != 0)
            continue;
        Godwit__VmStatus *status = &statuses[message.n_vms];
        godwit__vm_status__init(status);
        status->vm_id = cluster.vms[i]->id;
        status->has_state = status->has_generation = true;
        status->state = VM_STATE(RUNNING);
        status->generation = vm->own.gen;
        list[message.n_vms++] = status;
    }
    message.vms = list;
    cluster_hello(&cluster, cluster_host(&cluster, name), &message, now(), &todo);
    keep(&todo);
    cluster_todo_deinit(&todo);
}

static void tell(struct cluster_job *job, bool at_target, Godwit__Latch latch,
                 struct cluster_todo *todo)
{
    Godwit__MoveEvent event = GODWIT__MOVE_EVENT__INIT;
    event.vm_id = job->core.vm_id;
    event.move_id = job->core.move_id;
    event.has_at_target = event.has_latch = true;
    event.at_target = at_target;
    event.latch = latch;
    const char *host = at_target ? job->core.target_host : job->core.source_host;
    cluster_move_event(&cluster, cluster_host(&cluster, host), &event, now(), todo);
}

static void answer(const struct cluster_order *order, int err)
{
    struct cluster_todo todo = {0};
    struct fault fault = {0};
    Godwit__VmStatus status = GODWIT__VM_STATUS__INIT;
    struct cluster_result result = {.definite = true, .status = &status};
    status.vm_id = (char *)(uintptr_t)order->vm_id;
    status.has_state = status.has_generation = true;
    status.state = order->kind == ORDER_STOP ? VM_STATE(STOPPED) : VM_STATE(RUNNING);
    status.generation = order->generation;
    if (err) {
        fault_set(&fault, err, "no room");
        result.fault = &fault;
        result.status = NULL;
    }
    cluster_order_done(&cluster, order, &result, now(), &todo);
    keep(&todo);
    for (size_t i = 0; i < todo.order_count; i++) {
        if (todo.orders[i].kind == ORDER_START || todo.orders[i].kind == ORDER_STOP ||
            todo.orders[i].kind == ORDER_MOVE_IN)
            fail_msg("an answer begets order %d", (int)todo.orders[i].kind);
    }
    cluster_todo_deinit(&todo);
}

/* A tick, and what it orders is carried out: moves are ordered in, and stay at that. */
static void tick(void)
{
    struct cluster_todo todo = {0};
    now_ns += 100 * NS_PER_MS;
    for (size_t i = 0; i < cluster.host_count; i++)
        cluster.hosts[i]->seen_ns = now_ns;
    cluster_tick(&cluster, now(), &todo);
    keep(&todo);
    for (size_t i = 0; i < todo.order_count; i++) {
        const struct cluster_order *order = &todo.orders[i];
        if (order->kind == ORDER_MOVE_IN) {
            moves_begun++;
            answer(order, strstr(refusing, order->host) ? ERR_NOMEM : 0);
        } else if (order->kind == ORDER_START) {
            starts_ordered++;
            answer(order, strstr(refusing, order->host) ? ERR_NOMEM : 0);
        } else if (order->kind == ORDER_STOP) {
            answer(order, 0);
        }
    }
    cluster_todo_deinit(&todo);
    unsigned active = 0;
    for (size_t i = 0; i < cluster.job_count; i++)
        active += job_core_is_active(&cluster.jobs[i]->core) &&
                  cluster.jobs[i]->core.step != JOB_FORWARD; /* those that have arrived */
    most_at_once = active > most_at_once ? active : most_at_once;
}

/* Every move that is under way arrives. */
static void arrive(void)
{
    for (size_t i = 0; i < cluster.job_count; i++) {
        struct cluster_job *job = cluster.jobs[i];
        struct cluster_todo todo = {0};
        if (!job_core_is_active(&job->core) || !job->core.out_sent)
            continue;
        tell(job, false, LATCH(GAVE), &todo);
        tell(job, true, LATCH(TOOK), &todo);
        tell(job, false, LATCH(RELEASED), &todo);
        keep(&todo);
        cluster_todo_deinit(&todo);
    }
}

static void run_to_end(const struct cluster_plan *plan)
{
    for (int i = 0; i < 2000 && !plan_is_over(plan); i++) {
        tick();
        if (i % 3 == 2)
            arrive();
    }
}

static struct cluster_vm *create_on(const char *name, const char *host, bool on_network);

static struct cluster_vm *create(const char *name, const char *host)
{
    return create_on(name, host, false);
}

static struct cluster_vm *create_on(const char *name, const char *host, bool on_network)
{
    Godwit__NicSpec nic = GODWIT__NIC_SPEC__INIT, *nics[] = {&nic};
    Godwit__VmSpec spec = GODWIT__VM_SPEC__INIT;
    Godwit__MemorySpec memory = GODWIT__MEMORY_SPEC__INIT;
    struct cluster_todo todo = {0};
    uint64_t ticket;
    char id[ID_TEXT_SIZE];
    (void)snprintf(id, sizeof id, "id-%.20s", name);
    memory.has_size = true;
    memory.size = MIB(512);
    spec.name = (char *)(uintptr_t)name;
    spec.memory = &memory;
    spec.kernel = (char *)(uintptr_t) "/kernel";
    spec.host = (char *)(uintptr_t)host;
    nic.bridge = (char *)(uintptr_t) "br0";
    spec.nics = nics;
    spec.n_nics = on_network;
    assert_int_equal(cluster_create_vm(&cluster, &spec, id, false, now(), &ticket, &problem, &todo),
                     0);
    keep(&todo);
    assert_int_equal(todo.order_count, 1);
    answer(&todo.orders[0], 0);
    cluster_todo_deinit(&todo);
    return cluster_vm(&cluster, id);
}

static struct cluster_plan *make(const char *kind, const char *host, bool dry_run,
                                 Godwit__VmChoice **choices, size_t count)
{
    Godwit__PlanMakeRequest request = GODWIT__PLAN_MAKE_REQUEST__INIT;
    struct cluster_todo todo = {0};
    struct cluster_plan *plan = NULL;
    char id[ID_SHORT_SIZE];
    cluster_draw_short(&cluster, 'P', id);
    request.kind = (char *)(uintptr_t)kind;
    request.host = (char *)(uintptr_t)host;
    request.has_dry_run = request.has_bring_back = true;
    request.dry_run = dry_run;
    request.bring_back = true;
    request.choices = choices;
    request.n_choices = count;
    const struct plan_ask ask = {.request = &request, .id = id, .by = "test", .parent = ""};
    problem = (struct problem){0};
    if (plan_make(&cluster, &ask, now(), &plan, &problem, &todo) != 0)
        plan = NULL;
    keep(&todo);
    cluster_todo_deinit(&todo);
    return plan;
}

static void act(struct cluster_plan *plan, Godwit__PlanVerb verb)
{
    struct cluster_todo todo = {0};
    struct cluster_plan *acted = NULL;
    assert_int_equal(plan_act(&cluster, plan->id, verb, now(), &acted, &problem, &todo), 0);
    keep(&todo);
    cluster_todo_deinit(&todo);
}

static void add_rule(const char *id, const char *kind, char **vms, size_t vm_count, char **hosts,
                     size_t host_count)
{
    Godwit__Rule rule = GODWIT__RULE__INIT;
    struct cluster_rule *added = NULL;
    struct cluster_todo todo = {0};
    rule.id = (char *)(uintptr_t)id;
    rule.kind = (char *)(uintptr_t)kind;
    rule.vms = vms;
    rule.n_vms = vm_count;
    rule.hosts = hosts;
    rule.n_hosts = host_count;
    assert_int_equal(rule_add(&cluster, &rule, now(), &added, &problem, &todo), 0);
    keep(&todo);
    cluster_todo_deinit(&todo);
}

static unsigned count_steps(const struct cluster_plan *plan, enum plan_step_state state)
{
    unsigned count = 0;
    for (size_t i = 0; i < plan->info->n_steps; i++)
        count += plan_step_state_of(plan->info->steps[i]) == state;
    return count;
}

static unsigned running_on(const char *host)
{
    unsigned count = 0;
    for (size_t i = 0; i < cluster.vm_count; i++)
        count +=
            cluster.vms[i]->own.phase == OWN_RUN && strcmp(cluster.vms[i]->own.owner, host) == 0;
    return count;
}

static int set_up(void **state)
{
    (void)state;
    static const char *const names[HOSTS] = {"node1", "node2", "node3", "node4"};
    log_set_level(LOG_ERROR);
    cluster = (struct cluster){0};
    cluster_seed(&cluster, 7, 9);
    now_ns = NS_PER_S;
    moves_begun = most_at_once = starts_ordered = 0;
    refusing[0] = '\0';
    for (int i = 0; i < HOSTS; i++) {
        struct cluster_todo todo = {0};
        assert_non_null(cluster_host_joined(&cluster, names[i], now(), &todo));
        keep(&todo);
        cluster_todo_deinit(&todo);
        say_hello(names[i], "boot-1");
    }
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    cluster_deinit(&cluster);
    store = store_close(store);
    return 0;
}

static void create_six(void)
{
    static const char *const names[] = {"web-1", "web-2", "web-3", "web-4", "web-5", "web-6"};
    for (int i = 0; i < 6; i++)
        (void)create(names[i], "node1");
}

static void an_evacuation_spreads_all_vms_and_cordons_the_host(void **state)
{
    (void)state;
    create_six();

    struct cluster_plan *plan = make("evacuate", "node1", false, NULL, 0);
    run_to_end(plan);

    assert_int_equal(plan_state_of(plan), PLAN_DONE);
    assert_int_equal(running_on("node1"), 0);
    assert_int_equal(running_on("node2"), 2);
    assert_int_equal(running_on("node3"), 2);
    assert_true(rule_host_is_cordoned(cluster_host(&cluster, "node1")));
    assert_int_equal(moves_begun, 6);
    assert_int_equal(most_at_once, 2); /* nothing says that more would carry more */
}

static void a_dry_run_begins_nothing_until_it_is_run(void **state)
{
    (void)state;
    create_six();
    struct cluster_plan *plan = make("evacuate", "node1", true, NULL, 0);

    for (int i = 0; i < 10; i++)
        tick();
    assert_int_equal(moves_begun, 0);
    assert_false(rule_host_is_cordoned(cluster_host(&cluster, "node1")));
    act(plan, GODWIT__PLAN_VERB__PLAN_VERB_RUN);
    run_to_end(plan);

    assert_int_equal(plan_state_of(plan), PLAN_DONE);
    assert_true(plan->info->exact);
}

static void a_target_that_fails_is_replaced_and_no_vm_stops(void **state)
{
    (void)state;
    create_six();
    struct cluster_plan *plan = make("evacuate", "node1", false, NULL, 0);
    (void)snprintf(refusing, sizeof refusing, "node2");

    run_to_end(plan);

    assert_int_equal(plan_state_of(plan), PLAN_DONE);
    assert_int_equal(running_on("node1") + running_on("node2"), 0);
    assert_int_equal(running_on("node3") + running_on("node4"), 6);
}

static void no_target_is_tried_twice_while_another_is_left(void **state)
{
    (void)state;
    (void)create("web-1", "node1");
    struct cluster_plan *plan = make("evacuate", "node1", false, NULL, 0);
    (void)snprintf(refusing, sizeof refusing, "node2 node3");

    run_to_end(plan);

    assert_int_equal(plan_state_of(plan), PLAN_DONE);
    assert_int_equal(running_on("node4"), 1);
    assert_in_range(moves_begun, 1, 3);
    assert_string_equal(plan->info->steps[0]->target, "node4");
}

static void when_all_targets_failed_they_are_tried_again_later(void **state)
{
    (void)state;
    (void)create("web-1", "node1");
    add_rule("here", "exclude", (char *[]){(char *)(uintptr_t) "web-1"}, 1,
             (char *[]){(char *)(uintptr_t) "node3", (char *)(uintptr_t) "node4"}, 2);
    struct cluster_plan *plan = make("evacuate", "node1", false, NULL, 0);
    (void)snprintf(refusing, sizeof refusing, "node2");
    while (moves_begun == 0)
        tick();
    refusing[0] = '\0'; /* what was wrong there has passed */

    run_to_end(plan);

    assert_int_equal(plan_state_of(plan), PLAN_DONE);
    assert_int_equal(running_on("node2"), 1);
    assert_int_equal(moves_begun, 2);
}

static void a_step_that_fails_everywhere_ends_and_its_guest_runs_on(void **state)
{
    (void)state;
    (void)create("web-1", "node1");
    struct cluster_plan *plan = make("evacuate", "node1", false, NULL, 0);
    (void)snprintf(refusing, sizeof refusing, "node2 node3 node4");

    run_to_end(plan);

    assert_int_equal(plan_state_of(plan), PLAN_PARTLY);
    assert_int_equal(running_on("node1"), 1);
    assert_int_equal(moves_begun, 3);
    assert_int_equal(plan->info->steps[0]->n_failed_at, 3);
    assert_non_null(strstr(plan->info->steps[0]->note, "no room"));
}

static void a_cold_start_that_fails_is_tried_elsewhere(void **state)
{
    (void)state;
    (void)create("web-1", "node1");
    Godwit__VmChoice cold = GODWIT__VM_CHOICE__INIT, *choices[] = {&cold};
    cold.vm = (char *)(uintptr_t) "web-1";
    cold.how = (char *)(uintptr_t) "cold";
    struct cluster_plan *plan = make("evacuate", "node1", false, choices, 1);
    (void)snprintf(refusing, sizeof refusing, "node2 node3");

    run_to_end(plan);

    assert_int_equal(plan_state_of(plan), PLAN_DONE);
    assert_int_equal(running_on("node4"), 1);
    assert_in_range(starts_ordered, 1, 3);
}

static void a_cold_start_that_fails_everywhere_ends_its_plan(void **state)
{
    (void)state;
    (void)create("web-1", "node1");
    Godwit__VmChoice cold = GODWIT__VM_CHOICE__INIT, *choices[] = {&cold};
    cold.vm = (char *)(uintptr_t) "web-1";
    cold.how = (char *)(uintptr_t) "cold";
    struct cluster_plan *plan = make("evacuate", "node1", false, choices, 1);
    (void)snprintf(refusing, sizeof refusing, "node2 node3 node4");

    run_to_end(plan);

    assert_int_equal(plan_state_of(plan), PLAN_PARTLY);
    assert_int_equal(plan->info->steps[0]->n_failed_at, 3);
}

static void no_guest_is_stopped_that_could_start_nowhere(void **state)
{
    (void)state;
    (void)create("web-1", "node1");
    Godwit__VmChoice cold = GODWIT__VM_CHOICE__INIT, *choices[] = {&cold};
    cold.vm = (char *)(uintptr_t) "web-1";
    cold.how = (char *)(uintptr_t) "cold";
    struct cluster_plan *plan = make("evacuate", "node1", false, choices, 1);
    for (size_t i = 1; i < cluster.host_count; i++)
        cluster.hosts[i]->memory_free_bytes = MIB(16); /* taken since the plan was made */

    run_to_end(plan);

    assert_int_equal(plan_state_of(plan), PLAN_PARTLY);
    assert_int_equal(running_on("node1"), 1);
}

static void an_exact_plan_goes_on_past_what_fails_and_says_what_is_left(void **state)
{
    (void)state;
    create_six();
    struct cluster_plan *plan = make("evacuate", "node1", true, NULL, 0);
    (void)snprintf(refusing, sizeof refusing, "node2");
    act(plan, GODWIT__PLAN_VERB__PLAN_VERB_RUN);

    run_to_end(plan);

    assert_int_equal(plan_state_of(plan), PLAN_PARTLY);
    assert_int_equal(count_steps(plan, STEP_FAILED), 2);
    assert_int_equal(running_on("node1"), 2);
    assert_int_equal(plan->info->error->exit_code, 8);
    assert_int_equal(plan->info->error->n_details, 2);
}

static void choices_say_which_vms_stay_are_stopped_or_go_cold(void **state)
{
    (void)state;
    create_six();
    Godwit__VmChoice keep_1 = GODWIT__VM_CHOICE__INIT, stop_2 = keep_1, cold_3 = keep_1;
    Godwit__VmChoice *choices[] = {&keep_1, &stop_2, &cold_3};
    keep_1.vm = (char *)(uintptr_t) "web-1";
    keep_1.how = (char *)(uintptr_t) "keep";
    stop_2.vm = (char *)(uintptr_t) "web-2";
    stop_2.how = (char *)(uintptr_t) "stop";
    cold_3.vm = (char *)(uintptr_t) "web-3";
    cold_3.how = (char *)(uintptr_t) "cold";

    struct cluster_plan *plan = make("evacuate", "node1", false, choices, 3);
    run_to_end(plan);

    assert_int_equal(plan_state_of(plan), PLAN_DONE);
    assert_string_equal(cluster_vm(&cluster, "id-web-1")->own.owner, "node1");
    assert_int_equal(cluster_vm(&cluster, "id-web-2")->own.phase, OWN_STOPPED);
    assert_int_equal(cluster_vm(&cluster, "id-web-3")->own.phase, OWN_RUN);
    assert_string_not_equal(cluster_vm(&cluster, "id-web-3")->own.owner, "node1");
    assert_int_equal(moves_begun, 3);
}

static void a_coordinator_that_died_goes_on_from_the_record(void **state)
{
    (void)state;
    assert_int_equal(store_open(&store, ":memory:", NULL, NULL), 0);
    cluster_deinit(&cluster); /* anew, with a store */
    assert_int_equal(set_up(NULL), 0);
    create_six();
    struct cluster_plan *plan = make("evacuate", "node1", false, NULL, 0);
    char id[ID_SHORT_SIZE];
    memcpy(id, plan->id, sizeof id);
    for (int i = 0; i < 3; i++)
        tick();
    arrive();
    for (int i = 0; i < 30; i++) /* an end waits a while for its receipt */
        tick();
    unsigned begun = moves_begun;
    assert_in_range(begun, 3, 5);
    arrive(); /* what was under way arrives; the coordinator dies before it has looked */

    struct cluster_todo todo = {0};
    cluster_deinit(&cluster);
    assert_int_equal(rows_load(store, &cluster, &last_event, NULL), 0);
    cluster_seed(&cluster, 21, 22);
    cluster_restart(&cluster, now(), &todo);
    keep(&todo);
    cluster_todo_deinit(&todo);
    for (size_t i = 0; i < cluster.host_count; i++)
        say_hello(cluster.hosts[i]->name, "boot-1");
    plan = cluster_find_plan(&cluster, id, &problem);
    assert_non_null(plan);
    run_to_end(plan);

    assert_int_equal(plan_state_of(plan), PLAN_DONE);
    assert_int_equal(running_on("node1"), 0);
    assert_int_equal(moves_begun, 6); /* none was begun twice */
}

static void a_new_coordinator_knows_where_a_step_has_failed(void **state)
{
    (void)state;
    assert_int_equal(store_open(&store, ":memory:", NULL, NULL), 0);
    cluster_deinit(&cluster); /* anew, with a store */
    assert_int_equal(set_up(NULL), 0);
    (void)create("web-1", "node1");
    struct cluster_plan *plan = make("evacuate", "node1", false, NULL, 0);
    char id[ID_SHORT_SIZE], first[OWN_HOST_SIZE];
    memcpy(id, plan->id, sizeof id);
    (void)snprintf(first, sizeof first, "%s", plan->info->steps[0]->target);
    (void)snprintf(refusing, sizeof refusing, "%s", first);
    while (plan->info->steps[0]->n_failed_at == 0)
        tick();

    struct cluster_todo todo = {0};
    cluster_deinit(&cluster);
    assert_int_equal(rows_load(store, &cluster, &last_event, NULL), 0);
    cluster_seed(&cluster, 21, 22);
    cluster_restart(&cluster, now(), &todo);
    keep(&todo);
    cluster_todo_deinit(&todo);
    for (size_t i = 0; i < cluster.host_count; i++)
        say_hello(cluster.hosts[i]->name, "boot-1");
    plan = cluster_find_plan(&cluster, id, &problem);
    run_to_end(plan);

    assert_int_equal(plan_state_of(plan), PLAN_DONE);
    assert_string_not_equal(plan->info->steps[0]->target, first);
    assert_int_equal(moves_begun, 2);
}

static void cancel_ends_what_waits_and_rolls_back_what_runs(void **state)
{
    (void)state;
    create_six();
    struct cluster_plan *plan = make("evacuate", "node1", false, NULL, 0);
    tick();
    act(plan, GODWIT__PLAN_VERB__PLAN_VERB_CANCEL);
    tick();

    assert_int_equal(count_steps(plan, STEP_WAITING), 0);
    for (size_t i = 0; i < cluster.job_count; i++) {
        struct cluster_todo todo = {0};
        assert_true(cluster.jobs[i]->core.cancel);
        tell(cluster.jobs[i], false, LATCH(ABORTED), &todo);
        tell(cluster.jobs[i], true, LATCH(ABANDONED), &todo);
        cluster_todo_deinit(&todo);
    }
    for (int i = 0; i < 100 && !plan_is_over(plan); i++)
        tick();

    assert_int_equal(plan_state_of(plan), PLAN_CANCELED);
    assert_int_equal(running_on("node1"), 6);
}

static void a_paused_plan_begins_nothing_new(void **state)
{
    (void)state;
    create_six();
    struct cluster_plan *plan = make("evacuate", "node1", false, NULL, 0);
    tick();
    unsigned begun = moves_begun;
    act(plan, GODWIT__PLAN_VERB__PLAN_VERB_PAUSE);
    for (int i = 0; i < 50; i++) {
        tick();
        arrive();
    }

    assert_int_equal(moves_begun, begun);
    assert_false(plan_is_over(plan));
    act(plan, GODWIT__PLAN_VERB__PLAN_VERB_RESUME);
    run_to_end(plan);
    assert_int_equal(plan_state_of(plan), PLAN_DONE);
}

static void a_host_has_one_mass_operation_at_a_time(void **state)
{
    (void)state;
    create_six();
    struct cluster_plan *plan = make("evacuate", "node1", false, NULL, 0);

    assert_null(make("evacuate", "node1", false, NULL, 0));
    assert_int_equal(problem.code, GW_HOST_BUSY);
    assert_non_null(strstr(problem.text, plan->id));
}

static void a_rule_keeps_a_vm_and_the_blocker_says_what_would_let_it_go(void **state)
{
    (void)state;
    create_six();
    char *vms[] = {(char *)(uintptr_t) "web-6"}, *hosts[] = {(char *)(uintptr_t) "node1"};
    add_rule("home", "pin", vms, 1, hosts, 1);

    struct cluster_plan *plan = make("evacuate", "node1", false, NULL, 0);
    run_to_end(plan);

    assert_int_equal(plan_state_of(plan), PLAN_PARTLY);
    assert_int_equal(plan->info->n_blockers, 1);
    assert_string_equal(plan->info->blockers[0]->vm, "web-6");
    assert_string_equal(plan->info->blockers[0]->concessions[0], "relax rule home");
    assert_int_equal(running_on("node1"), 1);
}

static void vms_that_a_rule_keeps_apart_are_apart_at_every_moment(void **state)
{
    (void)state;
    create_six();
    char *vms[] = {(char *)(uintptr_t) "web-*"};
    add_rule("apart", "anti-affinity", vms, 1, NULL, 0); /* six VMs on four hosts cannot be */

    struct cluster_plan *plan = make("repair", "", false, NULL, 0);
    for (int i = 0; i < 500 && !plan_is_over(plan); i++) {
        tick();
        for (size_t a = 0; a < cluster.vm_count; a++) {
            const struct own *own = &cluster.vms[a]->own;
            for (size_t b = 0; own->phase == OWN_HANDOVER && b < cluster.vm_count; b++)
                assert_false(a != b && strcmp(own->target, cluster.vms[b]->own.owner) == 0);
        }
        if (i % 3 == 2)
            arrive();
    }

    assert_int_equal(plan->info->n_steps, 3);
    assert_int_equal(count_steps(plan, STEP_DONE), 3);
    assert_int_equal(running_on("node2") + running_on("node3") + running_on("node4"), 3);
}

static void a_restored_host_gets_back_what_was_taken_away(void **state)
{
    (void)state;
    create_six();
    run_to_end(make("evacuate", "node1", false, NULL, 0));

    struct cluster_plan *plan = make("restore", "node1", false, NULL, 0);
    run_to_end(plan);

    assert_int_equal(plan_state_of(plan), PLAN_DONE);
    assert_int_equal(running_on("node1"), 6);
    assert_false(rule_host_is_cordoned(cluster_host(&cluster, "node1")));
}

static void hosts_reboot_one_after_another_and_get_their_vms_back(void **state)
{
    (void)state;
    create_six();
    (void)create("db-1", "node2");
    struct cluster_plan *plan = make("reboot", "", false, NULL, 0);
    unsigned boots = 0;
    assert_int_equal(plan->info->n_steps, 3 * HOSTS);

    for (int i = 0; i < 8000 && !plan_is_over(plan); i++) {
        tick();
        if (i % 3 == 2)
            arrive();
        unsigned away = 0;
        for (size_t n = 0; n < plan->info->n_steps; n++) {
            Godwit__PlanStep *step = plan->info->steps[n];
            if (!plan_step_is(step, "reboot") || plan_step_state_of(step) != STEP_RUNNING)
                continue;
            away++;
            assert_int_equal(running_on(step->source), 0);
            if (i % 7 == 0) { /* it comes back */
                char boot[16];
                (void)snprintf(boot, sizeof boot, "boot-%u", 10 + boots++);
                say_hello(step->source, boot);
            }
        }
        assert_in_range(away, 0, 1);
    }

    assert_int_equal(plan_state_of(plan), PLAN_DONE);
    assert_int_equal(boots, HOSTS);
    assert_int_equal(running_on("node1"), 6);
    assert_int_equal(running_on("node2"), 1);
}

static void a_plan_that_comes_too_late_is_refused_before_it_begins(void **state)
{
    (void)state;
    create_six();
    Godwit__PlanMakeRequest request = GODWIT__PLAN_MAKE_REQUEST__INIT;
    struct cluster_todo todo = {0};
    struct cluster_plan *plan = NULL;
    request.kind = (char *)(uintptr_t) "evacuate";
    request.host = (char *)(uintptr_t) "node1";
    request.has_by_ms = true;
    request.by_ms = 1;
    const struct plan_ask ask = {.request = &request, .id = "PTEST01", .by = "t", .parent = ""};

    assert_int_equal(plan_make(&cluster, &ask, now(), &plan, &problem, &todo), -1);
    assert_int_equal(problem.code, GW_PLAN_LATE);
    assert_int_equal(cluster.plan_count, 0);
    assert_int_equal(todo.put_count, 0);
    cluster_todo_deinit(&todo);
}

static void a_late_word_of_a_target_that_took_asks_for_nothing(void **state)
{
    (void)state;
    struct cluster_vm *vm = create("web", "node1");
    run_to_end(make("evacuate", "node1", false, NULL, 0));
    Godwit__VmStatus status = GODWIT__VM_STATUS__INIT;
    Godwit__MoveLatch latch = GODWIT__MOVE_LATCH__INIT;
    struct cluster_todo todo = {0};
    latch.move_id = cluster.jobs[0]->core.move_id;
    latch.has_latch = true;
    latch.latch = LATCH(READY);
    status.vm_id = vm->id;
    status.has_state = status.has_generation = true;
    status.state = VM_STATE(INCOMING);
    status.latch = &latch;

    cluster_vm_event(&cluster, cluster_host(&cluster, vm->own.owner), &status, now(), &todo);

    assert_int_equal(todo.order_count, 0);
    assert_int_equal(cluster.warning_count, 0);
    assert_int_equal(vm->state, VM_STATE(RUNNING));
    cluster_todo_deinit(&todo);
}

static void a_move_that_its_source_never_heard_of_is_no_missing_vm(void **state)
{
    (void)state;
    struct cluster_vm *vm = create("web", "node1");
    (void)make("evacuate", "node1", false, NULL, 0);
    tick();
    struct cluster_order order = {.kind = ORDER_VERDICT, .host = "node1", .asked_ns = now_ns};
    struct cluster_todo todo = {0};
    struct fault fault = {0};
    struct cluster_result result = {.fault = &fault, .definite = true};
    (void)snprintf(order.vm_id, sizeof order.vm_id, "%s", vm->id);
    (void)snprintf(order.job_id, sizeof order.job_id, "%s", vm->job->core.id);
    fault_set(&fault, ERR_NOT_FOUND, "web has no move %s", vm->job->core.move_id);

    cluster_order_done(&cluster, &order, &result, now(), &todo);

    assert_false(vm->job->core.source.gone);
    assert_int_equal(todo.order_count, 1);
    assert_int_equal(todo.orders[0].kind, ORDER_STATUS);
    cluster_todo_deinit(&todo);
}

static void a_vm_goes_only_where_its_network_is(void **state)
{
    (void)state;
    (void)create_on("web", "node1", true);
    struct cluster_plan *plan = make("evacuate", "node1", true, NULL, 0);

    assert_int_equal(plan->info->n_steps, 1);
    assert_string_equal(plan->info->steps[0]->target, "node4");
    assert_string_equal(plan->info->steps[0]->rejected[0], "node2 has no bridge br0");
}

/* ---- hosts with VMs of ours and domains of libvirt ---- */
static void drive_libvirt(const char *host)
{
    Godwit__AgentFound found = GODWIT__AGENT_FOUND__INIT;
    struct cluster_todo todo = {0};
    found.libvirt = (char *)(uintptr_t) "9.0.0 QEMU 7.2.22";
    cluster_found_take(&cluster, cluster_host(&cluster, host), &found, now(), &todo);
    keep(&todo);
    cluster_todo_deinit(&todo);
}

static void adopt_on(const char *name, const char *host)
{
    Godwit__FoundDomain domain = GODWIT__FOUND_DOMAIN__INIT;
    struct cluster_todo todo = {0};
    uint64_t ticket;
    char id[ID_TEXT_SIZE];
    (void)snprintf(id, sizeof id, "dom-%.20s", name);
    domain.vm_id = id;
    domain.name = (char *)(uintptr_t)name;
    domain.has_state = domain.has_vcpus = domain.has_memory_bytes = true;
    domain.state = VM_STATE(RUNNING);
    domain.vcpus = 1;
    domain.memory_bytes = MIB(512);
    assert_int_equal(cluster_found_adopt(&cluster, cluster_host(&cluster, host), &domain, now(),
                                         &ticket, &problem, &todo),
                     0);
    keep(&todo);
    assert_int_equal(todo.order_count, 1);
    answer(&todo.orders[0], 0);
    cluster_todo_deinit(&todo);
}

/* node1 and node3 drive libvirt; node1 has three of each. */
static void make_mixed(void)
{
    static const char *const ours[] = {"web-1", "web-2", "web-3"};
    static const char *const domains[] = {"db-1", "db-2", "db-3"};
    drive_libvirt("node1");
    drive_libvirt("node3");
    for (int i = 0; i < 3; i++) {
        (void)create(ours[i], "node1");
        adopt_on(domains[i], "node1");
    }
}

static const struct cluster_vm *named(const char *name)
{
    for (size_t i = 0; i < cluster.vm_count; i++) {
        if (strcmp(cluster.vms[i]->spec->name, name) == 0)
            return cluster.vms[i];
    }
    return NULL;
}

static void a_mixed_host_is_evacuated_and_domains_go_only_where_libvirt_is(void **state)
{
    (void)state;
    make_mixed();

    struct cluster_plan *plan = make("evacuate", "node1", false, NULL, 0);
    run_to_end(plan);

    assert_int_equal(plan_state_of(plan), PLAN_DONE);
    assert_int_equal(running_on("node1"), 0);
    assert_int_equal(moves_begun, 6);
    assert_string_equal(named("db-1")->own.owner, "node3");
    assert_string_equal(named("db-2")->own.owner, "node3");
    assert_string_equal(named("db-3")->own.owner, "node3");
    assert_int_equal(named("web-1")->own.phase, OWN_RUN);
}

static void a_rule_keeps_a_domain_and_a_vm_of_ours_apart(void **state)
{
    (void)state;
    drive_libvirt("node1");
    drive_libvirt("node2");
    drive_libvirt("node3");
    (void)create("web-1", "node2");
    adopt_on("db-1", "node1");
    adopt_on("db-2", "node3"); /* so that node2 would be the better place */
    adopt_on("db-3", "node3");
    char *vms[] = {(char *)(uintptr_t) "db-1", (char *)(uintptr_t) "web-1"};
    add_rule("split", "anti-affinity", vms, 2, NULL, 0);

    struct cluster_plan *plan = make("evacuate", "node1", false, NULL, 0);
    run_to_end(plan);

    assert_int_equal(plan_state_of(plan), PLAN_DONE);
    assert_string_equal(named("db-1")->own.owner, "node3");
    assert_string_equal(named("web-1")->own.owner, "node2");
}

static void a_domain_that_a_rule_pins_stays_and_says_why(void **state)
{
    (void)state;
    make_mixed();
    char *vms[] = {(char *)(uintptr_t) "db-1"}, *hosts[] = {(char *)(uintptr_t) "node1"};
    add_rule("home", "pin", vms, 1, hosts, 1);

    struct cluster_plan *plan = make("evacuate", "node1", false, NULL, 0);
    run_to_end(plan);

    assert_int_equal(plan_state_of(plan), PLAN_PARTLY);
    assert_int_equal(running_on("node1"), 1);
    assert_string_equal(plan->info->blockers[0]->vm, "db-1");
}

static void balance_moves_domains_and_vms_of_ours_alike(void **state)
{
    (void)state;
    Godwit__PlanMakeRequest request = GODWIT__PLAN_MAKE_REQUEST__INIT;
    struct cluster_todo todo = {0};
    struct cluster_plan *plan = NULL;
    char id[ID_SHORT_SIZE];
    make_mixed();
    drive_libvirt("node2");
    drive_libvirt("node4");
    cluster_draw_short(&cluster, 'P', id);
    request.kind = (char *)(uintptr_t) "balance";
    request.goal = (char *)(uintptr_t) "even";
    const struct plan_ask ask = {.request = &request, .id = id, .by = "test", .parent = ""};

    assert_int_equal(plan_make(&cluster, &ask, now(), &plan, &problem, &todo), 0);
    keep(&todo);
    cluster_todo_deinit(&todo);
    run_to_end(plan);

    assert_int_equal(plan_state_of(plan), PLAN_DONE);
    unsigned domains = 0, ours = 0;
    for (size_t i = 0; i < plan->info->n_steps; i++) {
        bool is_domain = strncmp(plan->info->steps[i]->vm, "db-", 3) == 0;
        domains += is_domain;
        ours += !is_domain;
    }
    assert_true(domains > 0 && ours > 0);
    assert_true(running_on("node1") < 6 && running_on("node2") > 0 && running_on("node3") > 0);
}

static void rules_are_judged_whole(void **state)
{
    (void)state;
    Godwit__Rule rule = GODWIT__RULE__INIT;
    struct cluster_rule *added = NULL;
    struct cluster_todo todo = {0};
    char *vms[] = {(char *)(uintptr_t) "web-*"}, *bad[] = {(char *)(uintptr_t) "we*b"};
    rule.id = (char *)(uintptr_t) "r";
    rule.kind = (char *)(uintptr_t) "pin";
    rule.vms = vms;
    rule.n_vms = 1;
    assert_int_equal(rule_add(&cluster, &rule, now(), &added, &problem, &todo), -1);
    assert_string_equal(problem.text, "rule r of kind pin needs hosts");
    rule.kind = (char *)(uintptr_t) "spread";
    rule.vms = bad;
    assert_int_equal(rule_add(&cluster, &rule, now(), &added, &problem, &todo), -1);
    rule.kind = (char *)(uintptr_t) "love";
    assert_int_equal(rule_add(&cluster, &rule, now(), &added, &problem, &todo), -1);
    assert_int_equal(problem.code, GW_RULE_INVALID);
    assert_int_equal(cluster.rule_count, 0);
    assert_int_equal(todo.put_count, 0);
    cluster_todo_deinit(&todo);
}

static void labels_are_set_and_taken_away(void **state)
{
    (void)state;
    Godwit__HostSetRequest request = GODWIT__HOST_SET_REQUEST__INIT;
    struct cluster_host *host = NULL;
    struct cluster_todo todo = {0};
    char *set[] = {(char *)(uintptr_t) "domain=rack-a", (char *)(uintptr_t) "ssd=yes"};
    char *drop[] = {(char *)(uintptr_t) "ssd-", (char *)(uintptr_t) "domain=rack-b"};
    request.host = (char *)(uintptr_t) "node1";
    request.labels = set;
    request.n_labels = 2;
    assert_int_equal(rule_set_host(&cluster, &request, now(), &host, &problem, &todo), 0);
    request.labels = drop;
    assert_int_equal(rule_set_host(&cluster, &request, now(), &host, &problem, &todo), 0);

    assert_string_equal(rule_host_label(host, "domain"), "rack-b");
    assert_null(rule_host_label(host, "ssd"));
    cluster_todo_deinit(&todo);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(an_evacuation_spreads_all_vms_and_cordons_the_host),
        TEST(a_dry_run_begins_nothing_until_it_is_run),
        TEST(a_target_that_fails_is_replaced_and_no_vm_stops),
        TEST(no_target_is_tried_twice_while_another_is_left),
        TEST(when_all_targets_failed_they_are_tried_again_later),
        TEST(a_step_that_fails_everywhere_ends_and_its_guest_runs_on),
        TEST(a_cold_start_that_fails_is_tried_elsewhere),
        TEST(a_cold_start_that_fails_everywhere_ends_its_plan),
        TEST(no_guest_is_stopped_that_could_start_nowhere),
        TEST(a_new_coordinator_knows_where_a_step_has_failed),
        TEST(an_exact_plan_goes_on_past_what_fails_and_says_what_is_left),
        TEST(choices_say_which_vms_stay_are_stopped_or_go_cold),
        TEST(a_coordinator_that_died_goes_on_from_the_record),
        TEST(cancel_ends_what_waits_and_rolls_back_what_runs),
        TEST(a_paused_plan_begins_nothing_new),
        TEST(a_host_has_one_mass_operation_at_a_time),
        TEST(a_rule_keeps_a_vm_and_the_blocker_says_what_would_let_it_go),
        TEST(vms_that_a_rule_keeps_apart_are_apart_at_every_moment),
        TEST(a_restored_host_gets_back_what_was_taken_away),
        TEST(hosts_reboot_one_after_another_and_get_their_vms_back),
        TEST(a_plan_that_comes_too_late_is_refused_before_it_begins),
        TEST(a_late_word_of_a_target_that_took_asks_for_nothing),
        TEST(a_move_that_its_source_never_heard_of_is_no_missing_vm),
        TEST(a_vm_goes_only_where_its_network_is),
        TEST(a_mixed_host_is_evacuated_and_domains_go_only_where_libvirt_is),
        TEST(a_rule_keeps_a_domain_and_a_vm_of_ours_apart),
        TEST(a_domain_that_a_rule_pins_stays_and_says_why),
        TEST(balance_moves_domains_and_vms_of_ours_alike),
        TEST(rules_are_judged_whole),
        TEST(labels_are_set_and_taken_away),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

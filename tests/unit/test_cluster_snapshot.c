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
#include "coordinator/cluster_snapshot.h"
#include "coordinator/words.h"

#define VM_ID "feedfacefeedfacefeedfacefeedface"
#define ONE "11111111111111111111111111111111"
#define TWO "22222222222222222222222222222222"

static struct cluster cluster;
static struct cluster_todo todo;
static struct problem problem;
static struct cluster_vm *vm;
static uint64_t now_ns;
static bool is_domain, are_domains_known; /* what is told of snapshots */

static char *text(const char *words)
{
    return (char *)(uintptr_t)words; /* only read */
}

static struct cluster_now later(void)
{
    now_ns += 10 * NS_PER_MS;
    cluster_todo_deinit(&todo);
    problem = (struct problem){0};
    return (struct cluster_now){.ns = now_ns, .unix_ms = 1764139500000};
}

static void join(const char *name)
{
    Godwit__BaselineFact v1 = GODWIT__BASELINE_FACT__INIT, *baselines[] = {&v1};
    Godwit__HostFacts facts = GODWIT__HOST_FACTS__INIT;
    Godwit__AgentHello hello = GODWIT__AGENT_HELLO__INIT;
    assert_non_null(cluster_host_joined(&cluster, name, later(), &todo));
    v1.name = text("x86-64-v1");
    v1.has_given = v1.given = true;
    facts.name = text(name);
    facts.incarnation = text("boot-1");
    facts.has_kvm = facts.kvm = true;
    facts.has_memory_free_bytes = true;
    facts.memory_free_bytes = UINT64_C(4) << 30;
    facts.baselines = baselines;
    facts.n_baselines = 1;
    hello.facts = &facts;
    cluster_hello(&cluster, cluster_host(&cluster, name), &hello, later(), &todo);
}

static struct cluster_order *find_order(enum cluster_order_kind kind)
{
    for (size_t i = 0; i < todo.order_count; i++) {
        if (todo.orders[i].kind == kind)
            return &todo.orders[i];
    }
    return NULL;
}

static const struct cluster_put *find_put(enum cluster_put_kind kind)
{
    for (size_t i = 0; i < todo.put_count; i++) {
        if (todo.puts[i].kind == kind)
            return &todo.puts[i];
    }
    return NULL;
}

static void answer_start(const struct fault *fault)
{
    Godwit__VmStatus status = GODWIT__VM_STATUS__INIT;
    struct cluster_order order = {.kind = ORDER_START, .generation = vm->own.gen, .ticket = vm->ticket};
    WORDS_COPY(order.host, vm->own.owner);
    WORDS_COPY(order.vm_id, VM_ID);
    status.vm_id = text(VM_ID);
    status.has_state = status.has_generation = true;
    status.state = GODWIT__VM_STATE__VM_STATE_RUNNING;
    status.generation = vm->own.gen;
    const struct cluster_result result = {
        .fault = fault, .definite = fault != NULL, .status = fault ? NULL : &status};
    cluster_order_done(&cluster, &order, &result, later(), &todo);
}

static void stop(void)
{
    vm->own.phase = OWN_STOPPED;
    vm->state = GODWIT__VM_STATE__VM_STATE_STOPPED;
}

static int set_up(void **state)
{
    (void)state;
    Godwit__CpuSpec cpu = GODWIT__CPU_SPEC__INIT;
    Godwit__MemorySpec memory = GODWIT__MEMORY_SPEC__INIT;
    Godwit__VmSpec spec = GODWIT__VM_SPEC__INIT;
    uint64_t ticket = 0;
    log_set_level(LOG_ERROR);
    cluster = (struct cluster){0};
    is_domain = are_domains_known = false;
    now_ns = NS_PER_S;
    join("node1");
    join("node2");
    spec.name = text("web");
    spec.kernel = text("/boot/guest.elf");
    spec.host = text("node1");
    cpu.has_vcpus = true;
    cpu.vcpus = 1;
    memory.has_size = true;
    memory.size = UINT64_C(256) << 20;
    spec.cpu = &cpu;
    spec.memory = &memory;
    if (cluster_create_vm(&cluster, &spec, VM_ID, false, later(), &ticket, &problem, &todo) != 0)
        fail_msg("%s", problem.text);
    vm = cluster_vm(&cluster, VM_ID);
    answer_start(NULL);
    assert_int_equal(vm->own.phase, OWN_RUN);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    cluster_todo_deinit(&todo);
    cluster_deinit(&cluster);
    return 0;
}

static void become_a_domain(void)
{
    vm->spec->backend = strdup("libvirt");
    cluster_host(&cluster, "node1")->facts->libvirt = strdup("9.0.0");
    assert_non_null(vm->spec->backend);
    is_domain = are_domains_known = true;
}

static void tell(const char *host, const char *id, const char *other)
{
    Godwit__SnapshotInfo infos[2], *list[2];
    const char *ids[] = {id, other};
    Godwit__AgentSnapshots all = GODWIT__AGENT_SNAPSHOTS__INIT;
    all.snapshots = list;
    for (size_t i = 0; i < 2 && ids[i]; i++) {
        godwit__snapshot_info__init(&infos[i]);
        infos[i].id = text(ids[i]);
        infos[i].vm_id = text(VM_ID);
        infos[i].vm_name = text("web");
        infos[i].name = text(i ? "second" : "first");
        infos[i].host = text(host);
        infos[i].has_is_libvirt = infos[i].is_libvirt = is_domain;
        infos[i].libvirt_name = is_domain ? text("by hand (1)") : NULL;
        list[all.n_snapshots++] = &infos[i];
    }
    all.has_domains_known = all.domains_known = are_domains_known;
    struct cluster_now now = later();
    (void)now;
    cluster_snapshots_told(&cluster, cluster_host(&cluster, host), &all, &todo);
}

static int take(const char *name, bool disks_only, bool with_memory, struct cluster_snapshot_order *ret_order)
{
    const struct cluster_snapshot_ask ask = {
        .vm = "web", .name = name, .disks_only = disks_only, .with_memory = with_memory};
    return cluster_snapshot_judge_take(&cluster, &ask, later(), ret_order, &problem);
}

static void the_record_follows_all_that_a_host_tells(void **state)
{
    (void)state;
    tell("node1", ONE, TWO);
    assert_non_null(find_put(PUT_SNAPSHOT));
    assert_int_equal(cluster_snapshot_count(&cluster, vm), 2);
    tell("node1", ONE, TWO); /* nothing new, nothing stored */
    assert_int_equal(todo.put_count, 0);
    tell("node2", NULL, NULL); /* another host's word */
    assert_int_equal(cluster_snapshot_count(&cluster, vm), 2);
    tell("node1", ONE, NULL);
    const struct cluster_put *put = find_put(PUT_DELETE_SNAPSHOT);
    assert_true(put && strcmp(put->key, TWO) == 0 && put->revision == 1);
    assert_int_equal(cluster_snapshot_count(&cluster, vm), 1);
    tell("node1", "../../etc", NULL); /* no id: as if it were not there */
    assert_int_equal(cluster_snapshot_count(&cluster, vm), 0);
}

static void one_is_taken_of_what_runs_and_the_vm_is_busy_meanwhile(void **state)
{
    (void)state;
    struct cluster_snapshot_order order;
    assert_int_equal(take(NULL, false, true, &order), 0);
    assert_false(order.is_stopped || order.disks_only);
    assert_string_equal(order.name, "at-20251126-064500");
    assert_int_equal(take("other", false, false, &order), -1);
    assert_int_equal(problem.code, GW_VM_BUSY);
}

static void none_is_taken_of_one_that_is_replicated_as_long_as_it_is(void **state)
{
    (void)state;
    struct cluster_snapshot_order order;
    char step[] = "protect", target[] = "node2", away[] = "away";
    Godwit__DrRecord record = GODWIT__DR_RECORD__INIT;
    struct cluster_dr dr = {.info = &record, .vm = vm};
    record.step = step;
    record.target = target;
    vm->dr = &dr;
    assert_int_equal(take(NULL, false, true, &order), -1);
    assert_int_equal(problem.code, GW_VM_STATE);
    assert_string_equal(problem.hint, "godwit dr unprotect web");
    assert_non_null(strstr(problem.vm_state, "running on node1"));
    assert_int_equal(vm->ticket, 0);
    record.step = away; /* nothing follows it any more */
    assert_int_equal(take(NULL, false, true, &order), 0);
    vm->dr = NULL;
}

static void names_are_judged_and_taken_once(void **state)
{
    (void)state;
    struct cluster_snapshot_order order;
    assert_int_equal(take("a/b", false, false, &order), -1);
    assert_int_equal(problem.code, GW_USAGE);
    tell("node1", ONE, NULL);
    assert_int_equal(take("first", false, false, &order), -1);
    assert_int_equal(problem.code, GW_NAME_TAKEN);
    assert_int_equal(take("x", true, true, &order), -1);
    assert_int_equal(problem.code, GW_USAGE);
    assert_int_equal(vm->ticket, 0);
}

static void of_a_stopped_vm_only_its_disks_are_taken(void **state)
{
    (void)state;
    struct cluster_snapshot_order order;
    stop();
    assert_int_equal(take("x", false, true, &order), -1);
    assert_int_equal(problem.code, GW_VM_STATE);
    WORDS_COPY(vm->suspended, "nonce");
    assert_int_equal(take("x", false, false, &order), -1);
    vm->suspended[0] = '\0';
    assert_int_equal(take("x", false, false, &order), 0);
    assert_true(order.is_stopped && order.disks_only);
}

static int restore(const char *word)
{
    uint64_t ticket = 0;
    return cluster_snapshot_restore(&cluster, "web", word, later(), &ticket, &problem, &todo);
}

static void a_stopped_vm_starts_from_it_as_a_new_generation(void **state)
{
    (void)state;
    tell("node1", ONE, TWO);
    assert_int_equal(restore("first"), -1); /* it runs */
    assert_int_equal(problem.code, GW_VM_STATE);
    stop();
    uint64_t before = vm->own.hiwater;
    assert_int_equal(restore("nothing"), -1);
    assert_int_equal(problem.code, GW_SNAPSHOT_UNKNOWN);
    assert_int_equal(restore("2222"), 0); /* the beginning of its id */

    const struct cluster_order *order = find_order(ORDER_START);
    assert_true(order && order->generation == before + 1 && strcmp(order->host, "node1") == 0);
    assert_true(find_put(PUT_OWN) && strcmp(vm->restoring, TWO) == 0); /* durable with STARTING */
    assert_string_equal(cluster_snapshot_to_restore(&cluster, vm, "node1")->info->id, TWO);
    assert_null(cluster_snapshot_to_restore(&cluster, vm, "node2"));
    answer_start(NULL);
    assert_true(vm->own.phase == OWN_RUN && !vm->restoring[0]);
}

static void a_refused_restore_leaves_it_stopped_and_is_not_repeated_by_itself(void **state)
{
    (void)state;
    struct fault fault = {0};
    tell("node1", ONE, NULL);
    stop();
    assert_int_equal(restore("first"), 0);
    (void)fault_set(&fault, ERR_CORRUPT, "damaged");
    answer_start(&fault);
    assert_true(vm->own.phase == OWN_STOPPED && !vm->restoring[0]);
    assert_null(find_order(ORDER_START));
    assert_int_equal(restore("first"), 0); /* when it is asked for again */
}

static void it_is_restored_where_it_lies(void **state)
{
    (void)state;
    tell("node2", ONE, NULL);
    stop();
    assert_int_equal(restore("first"), -1);
    assert_int_equal(problem.code, GW_VM_STATE);
    assert_non_null(strstr(problem.text, "lies on node2"));
    assert_int_equal(vm->own.phase, OWN_STOPPED);
}

static void a_vm_with_snapshots_is_not_removed_and_one_in_use_neither(void **state)
{
    (void)state;
    struct cluster_snapshot *snapshot = NULL;
    uint64_t ticket = 0;
    tell("node1", ONE, NULL);
    stop();
    assert_int_equal(cluster_act(&cluster, "web", GODWIT__VM_VERB__VM_VERB_RM, false, later(), &ticket,
                                 &problem, &todo), -1);
    assert_non_null(strstr(problem.text, "1 snapshots"));
    assert_int_equal(restore("first"), 0);
    vm->ticket = 0; /* the start is repeated, nobody waits for it */
    assert_int_equal(cluster_snapshot_judge_remove(&cluster, "web", "first", later(), &snapshot, &problem), -1);
    answer_start(NULL);
    assert_int_equal(cluster_snapshot_judge_remove(&cluster, "web", "first", later(), &snapshot, &problem), 0);
    assert_string_equal(snapshot->info->id, ONE);
}

/* It waits for HA to start it again, and goes on waiting. */
static void a_refused_removal_of_a_lost_one_changes_nothing(void **state)
{
    (void)state;
    uint64_t ticket = 0;
    tell("node1", ONE, NULL);
    own_lose(&vm->own);
    uint64_t revision = vm->own_revision;
    assert_int_equal(cluster_act(&cluster, "web", GODWIT__VM_VERB__VM_VERB_RM, true, later(), &ticket,
                                 &problem, &todo), -1);
    assert_non_null(strstr(problem.text, "1 snapshots"));
    assert_true(own_is_lost(&vm->own));
    assert_int_equal(vm->want, WANT_RUNNING);
    assert_int_equal(vm->own_revision, revision);
    assert_int_equal(todo.put_count, 0);
    assert_int_equal(todo.answer_count, 0);
}

/* Its host is busy with a disk of it, and says so: HA starts it again as it would have. */
static void a_lost_one_whose_removal_its_host_refuses_is_lost_still(void **state)
{
    (void)state;
    uint64_t ticket = 0;
    own_lose(&vm->own);
    assert_int_equal(cluster_act(&cluster, "web", GODWIT__VM_VERB__VM_VERB_RM, true, later(), &ticket,
                                 &problem, &todo), 0);
    assert_non_null(find_order(ORDER_STOP));
    struct cluster_order stop = *find_order(ORDER_STOP);
    struct fault fault = {0};
    const struct cluster_result busy = {.definite = true, .fault = &fault};
    (void)fault_set(&fault, ERR_BUSY, "a disk of this VM is just becoming an image");
    cluster_order_done(&cluster, &stop, &busy, later(), &todo);
    assert_int_equal(todo.answer_count, 1);
    assert_int_equal(vm->want, WANT_RUNNING);
    assert_true(own_is_lost(&vm->own));
    assert_non_null(find_put(PUT_OWN));
}

static void a_lost_one_is_removed_whether_its_host_answers_or_not(void **state)
{
    for (int away = 0; away < 2; away++) {
        uint64_t ticket = 0;
        own_lose(&vm->own);
        cluster_host(&cluster, "node1")->link_up = !away;
        assert_int_equal(cluster_act(&cluster, "web", GODWIT__VM_VERB__VM_VERB_RM, true, later(), &ticket,
                                     &problem, &todo), 0);
        assert_int_equal(find_put(PUT_OWN) != NULL, !away); /* what is dropped is not put as well */
        assert_int_equal(find_put(PUT_DELETE_VM) != NULL, away);
        assert_int_equal(find_order(ORDER_STOP) != NULL, !away);
        assert_int_equal(todo.answer_count, away);
        if (away)
            assert_int_equal(todo.answers[0].ticket, ticket);
        else
            assert_int_equal(vm->ticket, ticket);
        (void)tear_down(state);
        assert_int_equal(set_up(state), 0);
    }
}

static void a_domains_snapshots_are_not_gone_because_libvirtd_is(void **state)
{
    (void)state;
    become_a_domain();
    tell("node1", ONE, NULL);
    assert_int_equal(cluster_snapshot_count(&cluster, vm), 1);
    are_domains_known = false;
    tell("node1", NULL, NULL);
    assert_int_equal(cluster_snapshot_count(&cluster, vm), 1);
    assert_int_equal(todo.put_count, 0);
    are_domains_known = true;
    tell("node1", NULL, NULL);
    assert_int_equal(cluster_snapshot_count(&cluster, vm), 0);
    assert_non_null(find_put(PUT_DELETE_SNAPSHOT));
}

static void a_domain_does_not_move_while_snapshots_lie_where_it_is(void **state)
{
    (void)state;
    become_a_domain();
    assert_int_equal(cluster_may_move(&cluster, vm, later(), &problem), 0);
    tell("node2", TWO, NULL); /* of before a start elsewhere */
    assert_int_equal(cluster_may_move(&cluster, vm, later(), &problem), 0);
    tell("node1", ONE, NULL);
    assert_int_equal(cluster_may_move(&cluster, vm, later(), &problem), -1);
    assert_int_equal(problem.code, GW_VM_STATE);
    assert_non_null(strstr(problem.text, "libvirt moves no domain that has snapshots"));
    tell("node1", NULL, NULL);
    assert_int_equal(cluster_may_move(&cluster, vm, later(), &problem), 0);
}

static void a_domain_is_taken_with_its_memory_or_at_rest(void **state)
{
    (void)state;
    struct cluster_snapshot_order order;
    become_a_domain();
    assert_int_equal(take("one", true, false, &order), -1);
    assert_int_equal(problem.code, GW_VM_STATE);
    assert_int_equal(take("one", false, true, &order), 0);
    assert_false(order.disks_only || order.is_stopped);
    /* Meanwhile it does not move, nor is it restored. */
    assert_int_equal(cluster_may_move(&cluster, vm, later(), &problem), -1);
    assert_int_equal(problem.code, GW_VM_BUSY);
    vm->ticket = 0;
    stop();
    assert_int_equal(take("two", true, false, &order), 0);
    assert_true(order.is_stopped);
}

static void a_domain_goes_back_by_libvirts_name_and_is_let_go_with_its_snapshots(void **state)
{
    (void)state;
    uint64_t ticket = 0;
    become_a_domain();
    tell("node1", ONE, NULL);
    stop();
    assert_int_equal(restore("by hand (1)"), 0);
    assert_string_equal(cluster_snapshot_to_restore(&cluster, vm, "node1")->info->id, ONE);
    answer_start(NULL);
    stop();
    assert_int_equal(cluster_act(&cluster, "web", GODWIT__VM_VERB__VM_VERB_RM, false, later(), &ticket,
                                 &problem, &todo), 0);
}

static int judge_remove(const char *vm_word, const char *word, struct cluster_snapshot **ret_snapshot)
{
    *ret_snapshot = NULL;
    return cluster_snapshot_judge_remove(&cluster, vm_word, word, later(), ret_snapshot, &problem);
}

static void is_refused_for(const char *words)
{
    assert_int_equal(problem.code, GW_VM_STATE);
    assert_non_null(strstr(problem.text, words));
    assert_non_null(strstr(problem.text, "virsh snapshot-delete --metadata on node1"));
    assert_string_equal(problem.hint, "virsh snapshot-delete --metadata web 'by hand (1)'");
}

/* HA has started it there, and the host that it was on is back with its snapshot. */
static void a_domains_snapshot_is_removed_only_where_the_domain_is(void **state)
{
    (void)state;
    struct cluster_snapshot *snapshot;
    become_a_domain();
    tell("node1", ONE, NULL);
    assert_int_equal(judge_remove("web", "first", &snapshot), 0);
    WORDS_COPY(vm->own.owner, "node2");
    assert_int_equal(judge_remove("web", "first", &snapshot), -1);
    assert_null(snapshot);
    is_refused_for("lies on node1, and web is on node2");
    stop(); /* its disks are node2's all the same */
    assert_int_equal(judge_remove("web", ONE, &snapshot), -1);
    is_refused_for("lies on node1, and web is on node2");

    tell("node2", TWO, NULL); /* of the same name: where it is */
    assert_int_equal(judge_remove("web", "first", &snapshot), 0);
    assert_string_equal(snapshot->info->id, TWO);
    WORDS_COPY(vm->own.owner, "node1");
    assert_int_equal(judge_remove("web", "by hand (1)", &snapshot), 0);
    assert_string_equal(snapshot->info->id, ONE);
}

static void a_vms_own_snapshot_is_removed_wherever_the_vm_is(void **state)
{
    (void)state;
    struct cluster_snapshot *snapshot;
    tell("node1", ONE, NULL);
    WORDS_COPY(vm->own.owner, "node2");
    assert_int_equal(judge_remove("web", "first", &snapshot), 0);
    assert_string_equal(snapshot->info->id, ONE);
}

/* By hand, or because the pool has let it go. */
static void nor_is_it_removed_while_another_host_is_found_to_run_the_domain(void **state)
{
    (void)state;
    struct cluster_snapshot *snapshot;
    Godwit__FoundDomain domain = GODWIT__FOUND_DOMAIN__INIT, *domains[] = {&domain};
    Godwit__AgentFound found = GODWIT__AGENT_FOUND__INIT;
    become_a_domain();
    tell("node1", ONE, NULL);
    domain.vm_id = text(VM_ID);
    domain.name = text("web");
    domain.has_state = domain.has_vcpus = domain.has_memory_bytes = true;
    domain.state = GODWIT__VM_STATE__VM_STATE_RUNNING;
    domain.vcpus = 1;
    domain.memory_bytes = 1;
    found.libvirt = text("9.0.0");
    found.domains = domains;
    found.n_domains = 1;
    cluster_found_take(&cluster, cluster_host(&cluster, "node2"), &found, later(), &todo);
    assert_int_equal(judge_remove("web", "first", &snapshot), -1);
    is_refused_for("lies on node1, and web is on node2");
    cluster_drop_vm(&cluster, vm);
    assert_int_equal(judge_remove(VM_ID, "first", &snapshot), -1);
    is_refused_for("lies on node1, and web is on node2");

    domain.state = GODWIT__VM_STATE__VM_STATE_STOPPED;
    cluster_found_take(&cluster, cluster_host(&cluster, "node2"), &found, later(), &todo);
    assert_int_equal(judge_remove(VM_ID, "first", &snapshot), 0);
    assert_string_equal(snapshot->info->id, ONE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_record_follows_all_that_a_host_tells, set_up, tear_down),
        cmocka_unit_test_setup_teardown(one_is_taken_of_what_runs_and_the_vm_is_busy_meanwhile, set_up, tear_down),
        cmocka_unit_test_setup_teardown(none_is_taken_of_one_that_is_replicated_as_long_as_it_is, set_up, tear_down),
        cmocka_unit_test_setup_teardown(names_are_judged_and_taken_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(of_a_stopped_vm_only_its_disks_are_taken, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_stopped_vm_starts_from_it_as_a_new_generation, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_refused_restore_leaves_it_stopped_and_is_not_repeated_by_itself, set_up, tear_down),
        cmocka_unit_test_setup_teardown(it_is_restored_where_it_lies, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_vm_with_snapshots_is_not_removed_and_one_in_use_neither, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_refused_removal_of_a_lost_one_changes_nothing, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_lost_one_whose_removal_its_host_refuses_is_lost_still, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_lost_one_is_removed_whether_its_host_answers_or_not, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_domains_snapshots_are_not_gone_because_libvirtd_is, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_domain_does_not_move_while_snapshots_lie_where_it_is, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_domain_is_taken_with_its_memory_or_at_rest, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_domain_goes_back_by_libvirts_name_and_is_let_go_with_its_snapshots, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_domains_snapshot_is_removed_only_where_the_domain_is, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_vms_own_snapshot_is_removed_wherever_the_vm_is, set_up, tear_down),
        cmocka_unit_test_setup_teardown(nor_is_it_removed_while_another_host_is_found_to_run_the_domain, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

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
#include "coordinator/cluster_ask.h"
#include "coordinator/cluster_clone.h"
#include "coordinator/cluster_core.h"
#include "coordinator/cluster_snapshot.h"
#include "coordinator/words.h"
#include "proto/vm_spec.h"

#define VM_ID "feedfacefeedfacefeedfacefeedface"
#define CLONE_ID "c10ec10ec10ec10ec10ec10ec10ec10e"
#define SNAPSHOT "11111111111111111111111111111111"

static struct cluster cluster;
static struct cluster_todo todo;
static struct problem problem;
static struct cluster_vm *vm;
static uint64_t now_ns;

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

static void hello(const char *name, Godwit__VmStatus *found)
{
    Godwit__BaselineFact v1 = GODWIT__BASELINE_FACT__INIT, *baselines[] = {&v1};
    Godwit__HostFacts facts = GODWIT__HOST_FACTS__INIT;
    Godwit__AgentHello message = GODWIT__AGENT_HELLO__INIT;
    char *bridges[] = {text("br0"), text("br-test")};
    v1.name = text("x86-64-v1");
    v1.has_given = v1.given = true;
    facts.name = text(name);
    facts.incarnation = text("boot-1");
    facts.cpu_vendor = text("GenuineIntel");
    facts.has_kvm = facts.kvm = true;
    facts.has_memory_free_bytes = true;
    facts.memory_free_bytes = UINT64_C(4) << 30;
    facts.baselines = baselines;
    facts.n_baselines = 1;
    facts.bridges = bridges;
    facts.n_bridges = 2;
    message.facts = &facts;
    message.vms = &found;
    message.n_vms = found ? 1 : 0;
    cluster_hello(&cluster, cluster_host(&cluster, name), &message, later(), &todo);
}

static void join(const char *name)
{
    assert_non_null(cluster_host_joined(&cluster, name, later(), &todo));
    hello(name, NULL);
}

static void answer_start_as(struct cluster_vm *of, Godwit__VmState state, const struct fault *fault)
{
    Godwit__VmStatus status = GODWIT__VM_STATUS__INIT;
    struct cluster_order order = {.kind = ORDER_START, .generation = of->own.gen, .ticket = of->ticket};
    WORDS_COPY(order.host, of->own.owner);
    WORDS_COPY(order.vm_id, of->id);
    status.vm_id = text(of->id);
    status.has_state = status.has_generation = true;
    status.state = state;
    status.generation = of->own.gen;
    const struct cluster_result result = {
        .fault = fault, .definite = fault != NULL, .status = fault ? NULL : &status};
    cluster_order_done(&cluster, &order, &result, later(), &todo);
}

static void answer_start(struct cluster_vm *of, const struct fault *fault)
{
    answer_start_as(of, GODWIT__VM_STATE__VM_STATE_RUNNING, fault);
}

static void create(void)
{
    Godwit__CpuSpec cpu = GODWIT__CPU_SPEC__INIT;
    Godwit__MemorySpec memory = GODWIT__MEMORY_SPEC__INIT;
    Godwit__NicSpec nic = GODWIT__NIC_SPEC__INIT, *nics[] = {&nic};
    Godwit__DiskSpec root = GODWIT__DISK_SPEC__INIT, data = GODWIT__DISK_SPEC__INIT,
                     tools = GODWIT__DISK_SPEC__INIT;
    Godwit__DiskSpec *disks[] = {&root, &tools, &data};
    Godwit__CloudInitSpec cloud = GODWIT__CLOUD_INIT_SPEC__INIT;
    Godwit__HaSpec ha = GODWIT__HA_SPEC__INIT;
    Godwit__VmSpec spec = GODWIT__VM_SPEC__INIT;
    uint64_t ticket = 0;
    spec.name = text("web");
    spec.kernel = text("/boot/guest.elf");
    spec.host = text("node1");
    spec.cpu = &cpu;
    cpu.has_vcpus = true;
    cpu.vcpus = 2;
    spec.memory = &memory;
    memory.has_size = true;
    memory.size = UINT64_C(256) << 20;
    root.name = text("root");
    root.store = text("/srv/fast");
    root.file = text("vms/web.raw");
    root.has_size = true;
    root.size = 16 << 20;
    tools.name = text("tools");
    tools.path = text("/srv/tools.iso");
    tools.has_read_only = tools.read_only = true;
    data.name = text("data");
    data.path = text("/srv/old/web-data.raw");
    spec.disks = disks;
    spec.n_disks = 3;
    nic.bridge = text("br0");
    spec.nics = nics;
    spec.n_nics = 1;
    spec.cloud_init = &cloud;
    spec.ha = &ha;
    ha.has_restart = ha.restart = true;
    if (cluster_create_vm(&cluster, &spec, VM_ID, false, later(), &ticket, &problem, &todo) != 0)
        fail_msg("%s", problem.text);
    vm = cluster_vm(&cluster, VM_ID);
    answer_start(vm, NULL);
    assert_int_equal(vm->own.phase, OWN_RUN);
}

static void tell_snapshot_of(const char *vm_id, const char *host, bool with_memory)
{
    Godwit__SnapshotDisk root = GODWIT__SNAPSHOT_DISK__INIT, data = GODWIT__SNAPSHOT_DISK__INIT;
    Godwit__SnapshotDisk *disks[] = {&root, &data};
    Godwit__SnapshotInfo info = GODWIT__SNAPSHOT_INFO__INIT, *list[] = {&info};
    Godwit__AgentSnapshots all = GODWIT__AGENT_SNAPSHOTS__INIT;
    root.has_index = data.has_index = root.has_bytes = data.has_bytes = true;
    root.index = 0;
    root.name = text("root");
    root.folder = text("/srv/fast");
    root.file = text("vms/web.raw");
    root.clone = text("vms/web.raw.snapshot-1");
    root.bytes = 16 << 20;
    data.index = 2;
    data.name = text("data");
    data.folder = text("/srv/old");
    data.file = text("web-data.raw");
    data.clone = text("web-data.raw.snapshot-1");
    data.bytes = (1 << 20) + 512; /* no size that a disk is made with */
    info.id = text(strcmp(vm_id, VM_ID) == 0 ? SNAPSHOT : "22222222222222222222222222222222");
    info.vm_id = text(vm_id);
    info.name = text("first");
    info.host = text(host);
    info.has_with_memory = true;
    info.with_memory = with_memory;
    info.disks = disks;
    info.n_disks = 2;
    all.snapshots = list;
    all.n_snapshots = 1;
    struct cluster_now now = later();
    (void)now;
    cluster_snapshots_told(&cluster, cluster_host(&cluster, host), &all, &todo);
}

static void tell_snapshot(const char *host, bool with_memory)
{
    tell_snapshot_of(VM_ID, host, with_memory);
}

static int set_up(void **state)
{
    (void)state;
    log_set_level(LOG_ERROR);
    cluster = (struct cluster){0};
    now_ns = NS_PER_S;
    join("node1");
    join("node2");
    create();
    tell_snapshot("node1", true);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    cluster_todo_deinit(&todo);
    cluster_deinit(&cluster);
    return 0;
}

static int judge(const struct cluster_clone_ask *ask, struct cluster_snapshot **ret_snapshot,
                 Godwit__VmSpec **ret_spec)
{
    return cluster_clone_judge(&cluster, ask, later(), ret_snapshot, ret_spec, &problem);
}

static Godwit__VmSpec *spec_of(const struct cluster_clone_ask *ask)
{
    struct cluster_snapshot *snapshot = NULL;
    Godwit__VmSpec *spec = NULL;
    if (judge(ask, &snapshot, &spec) != 0)
        fail_msg("%s", problem.text);
    return spec;
}

static struct cluster_vm *make(const struct cluster_clone_ask *ask)
{
    struct cluster_snapshot *snapshot = NULL;
    Godwit__VmSpec *spec = NULL;
    struct cluster_vm *clone = NULL;
    if (judge(ask, &snapshot, &spec) != 0)
        fail_msg("%s", problem.text);
    int r = cluster_clone_create(&cluster, snapshot, spec, ask->cold, CLONE_ID, later(), &clone, &problem,
                                 &todo);
    godwit__vm_spec__free_unpacked(spec, NULL);
    return r == 0 ? clone : NULL;
}

static const struct cluster_clone_ask warm = {.vm = "web", .snapshot = "first", .name = "try"};
static const struct cluster_clone_ask cold = {
    .vm = "web", .snapshot = "first", .name = "try", .bridge = "br-test", .cold = true};

static void it_has_disks_and_cards_of_its_own_and_the_original_s_seed(void **state)
{
    (void)state;
    Godwit__VmSpec *spec = spec_of(&warm);

    assert_string_equal(spec->name, "try");
    assert_null(spec->host);
    assert_null(spec->ha);
    assert_string_equal(spec->disks[0]->store, "/srv/fast");
    assert_string_equal(spec->disks[0]->file, "vms/try-root.raw");
    assert_string_equal(spec->disks[0]->snapshot, SNAPSHOT);
    assert_int_equal(spec->disks[0]->size, 16 << 20);
    assert_string_equal(spec->disks[1]->path, "/srv/tools.iso"); /* nobody writes it */
    assert_null(spec->disks[1]->snapshot);
    assert_null(spec->disks[2]->path);
    assert_string_equal(spec->disks[2]->store, "/srv/old");
    assert_string_equal(spec->disks[2]->file, "try-data.raw");
    assert_false(spec->disks[2]->has_size);
    assert_true(spec->nics[0]->unplugged && !spec->nics[0]->bridge && !spec->nics[0]->mac);
    assert_string_equal(spec->cloud_init->meta_data, "instance-id: " VM_ID "\nlocal-hostname: web\n");
    assert_string_equal(vm->spec->disks[0]->file, "vms/web.raw"); /* the original is what it was */
    assert_true(vm->spec->ha && vm->spec->ha->restart);
    godwit__vm_spec__free_unpacked(spec, NULL);
}

static void one_that_boots_is_told_its_own_name_and_may_have_a_bridge(void **state)
{
    (void)state;
    Godwit__VmSpec *spec = spec_of(&cold);
    assert_string_equal(spec->nics[0]->bridge, "br-test");
    assert_false(spec->nics[0]->unplugged);
    assert_false(spec->cloud_init->meta_data && spec->cloud_init->meta_data[0]);
    godwit__vm_spec__free_unpacked(spec, NULL);
}

static void it_is_recorded_on_the_snapshot_s_host_and_starts_from_its_memory(void **state)
{
    (void)state;
    struct cluster_vm *clone = make(&warm);

    assert_non_null(clone);
    assert_true(clone->own.phase == OWN_STOPPED && clone->ticket && cluster_clone_is_raw(&cluster, clone));
    assert_string_equal(clone->own.owner, "node1");
    assert_string_equal(clone->restoring, SNAPSHOT);
    assert_string_not_equal(clone->spec->nics[0]->mac, vm->spec->nics[0]->mac);
    assert_string_equal(cluster_clone_origin(&cluster, clone, later(), &problem)->info->id, SNAPSHOT);
    clone->ticket = 0;
    if (cluster_start_home(&cluster, clone, later(), &problem, &todo) != 0)
        fail_msg("%s", problem.text);
    assert_true(todo.order_count == 1 && todo.orders[0].kind == ORDER_START && clone->own.gen == 1);
    assert_true(cluster_clone_is_twin(&cluster, clone));
    answer_start(clone, NULL);
    assert_true(clone->own.phase == OWN_RUN && !clone->restoring[0] && !cluster_clone_is_raw(&cluster, clone));
    assert_int_equal(vm->own.phase, OWN_RUN);
}

static void a_cold_one_is_raw_until_it_has_run_and_takes_no_memory(void **state)
{
    (void)state;
    struct cluster_vm *clone = make(&cold);
    assert_true(clone && !clone->restoring[0] && cluster_clone_is_raw(&cluster, clone));
    assert_false(cluster_clone_is_twin(&cluster, clone));
    clone->ticket = 0;
    assert_int_equal(cluster_start_home(&cluster, clone, later(), &problem, &todo), 0);
    answer_start(clone, NULL);
    assert_false(cluster_clone_is_raw(&cluster, clone));
}

static void a_refused_start_leaves_one_that_only_its_memory_starts(void **state)
{
    (void)state;
    struct fault fault = {0};
    struct cluster_vm *clone = make(&warm);
    clone->ticket = 0;
    assert_int_equal(cluster_start_home(&cluster, clone, later(), &problem, &todo), 0);
    (void)fault_set(&fault, ERR_CORRUPT, "damaged");
    answer_start(clone, &fault);
    assert_true(clone->own.phase == OWN_STOPPED && cluster_clone_is_raw(&cluster, clone));
    assert_string_equal(clone->restoring, SNAPSHOT);
}

/* Its start was carried out and it wrote its disks, but nobody here heard of it before it ended. */
static void one_that_ended_unheard_is_never_given_its_old_memory_again(void **state)
{
    (void)state;
    struct cluster_vm *clone = make(&warm);
    clone->ticket = 0;
    assert_int_equal(cluster_start_home(&cluster, clone, later(), &problem, &todo), 0);
    clone->ticket = 0;
    Godwit__VmStatus ended = GODWIT__VM_STATUS__INIT;
    ended.vm_id = text(CLONE_ID);
    ended.has_state = ended.has_generation = true;
    ended.state = GODWIT__VM_STATE__VM_STATE_CRASHED;
    ended.generation = clone->own.gen;
    hello("node1", &ended);
    assert_int_equal(clone->own.phase, OWN_STOPPED);
    assert_string_equal(clone->restoring, "");
    assert_false(cluster_clone_is_twin(&cluster, clone));
}

/* It ran, and may have written: it is neither "not created" nor to be given the snapshot's memory again. */
static void one_whose_start_is_told_as_ended_has_crashed_and_stays(void **state)
{
    (void)state;
    struct cluster_vm *clone = make(&warm);
    clone->ticket = 0;
    assert_int_equal(cluster_start_home(&cluster, clone, later(), &problem, &todo), 0);
    answer_start_as(clone, GODWIT__VM_STATE__VM_STATE_CRASHED, NULL);
    assert_int_equal(clone->own.phase, OWN_STOPPED);
    assert_true(clone->crashed);
    assert_string_equal(clone->restoring, "");
    assert_false(cluster_clone_is_raw(&cluster, clone));
    assert_int_equal(todo.answer_count, 1);
    assert_non_null(todo.answers[0].problem);
    assert_non_null(strstr(todo.answers[0].problem->text, "has crashed"));
}

static struct cluster_order *find_stop(void)
{
    for (size_t i = 0; i < todo.order_count; i++) {
        if (todo.orders[i].kind == ORDER_STOP)
            return &todo.orders[i];
    }
    return NULL;
}

static void pass(uint64_t ms)
{
    now_ns += ms * NS_PER_MS;
    cluster_tick(&cluster, later(), &todo);
}

/* Its disks are on a host that went away: the record is all that knows of them. */
static void one_that_is_not_made_whole_is_removed_once_its_host_is_back(void **state)
{
    (void)state;
    uint64_t ticket = 0;
    struct cluster_vm *clone = make(&warm);
    clone->ticket = 0;
    cluster_link_lost(&cluster, cluster_host(&cluster, "node1"), later(), &todo);
    assert_int_equal(cluster_remove_made(&cluster, clone, true, later(), &ticket, &problem, &todo),
                     CLUSTER_REMOVED_LATER);
    assert_int_equal(clone->want, WANT_REMOVED);
    bool is_put = false;
    for (size_t i = 0; i < todo.put_count; i++)
        is_put |= todo.puts[i].kind == PUT_OWN; /* a new coordinator knows, too */
    assert_true(is_put);
    pass(10000);
    assert_null(find_stop());

    hello("node1", NULL);
    pass(100);
    assert_non_null(find_stop());
    assert_true(find_stop()->remove);
    struct cluster_order order = *find_stop();
    struct fault busy = {0};
    (void)fault_set(&busy, ERR_BUSY, "a disk of this VM is just being made from a snapshot");
    struct cluster_result result = {.definite = true, .fault = &busy};
    cluster_order_done(&cluster, &order, &result, later(), &todo);
    assert_int_equal(clone->want, WANT_REMOVED);
    assert_int_equal(clone->ticket, 0);
    pass(10000);
    hello("node1", NULL); /* heard of again */
    pass(100);
    assert_non_null(find_stop()); /* and asked again */
    order = *find_stop();
    result.fault = NULL;
    cluster_order_done(&cluster, &order, &result, later(), &todo);
    assert_null(cluster_vm(&cluster, CLONE_ID));
}

/* As by vm rm: nobody could use them then. */
static void one_with_snapshots_is_not_removed_before_they_are(void **state)
{
    (void)state;
    uint64_t ticket = 0;
    struct cluster_vm *clone = make(&warm);
    clone->ticket = 0;
    cluster_link_lost(&cluster, cluster_host(&cluster, "node1"), later(), &todo);
    assert_int_equal(cluster_remove_made(&cluster, clone, true, later(), &ticket, &problem, &todo),
                     CLUSTER_REMOVED_LATER);
    hello("node1", NULL);
    tell_snapshot_of(CLONE_ID, "node1", true); /* the other's is gone thereby */
    pass(100);
    assert_null(find_stop());
    assert_non_null(strstr(clone->reason, "snapshots"));

    tell_snapshot("node1", true);
    pass(100);

    assert_non_null(find_stop());
    assert_true(find_stop()->remove);
}

static void of_one_without_disks_nothing_is_left_to_wait_for(void **state)
{
    (void)state;
    uint64_t ticket = 0;
    struct cluster_vm *clone = make(&warm);
    clone->ticket = 0;
    cluster_link_lost(&cluster, cluster_host(&cluster, "node1"), later(), &todo);
    assert_int_equal(cluster_remove_made(&cluster, clone, false, later(), &ticket, &problem, &todo), 0);
    assert_null(cluster_vm(&cluster, CLONE_ID));
}

static void a_snapshot_that_a_clone_still_needs_stays(void **state)
{
    (void)state;
    struct cluster_snapshot *snapshot = NULL;
    struct cluster_vm *clone = make(&cold);
    assert_int_equal(cluster_snapshot_judge_remove(&cluster, "web", "first", later(), &snapshot, &problem), -1);
    assert_non_null(strstr(problem.text, "try is still to be made"));
    clone->ticket = 0;
    assert_int_equal(cluster_start_home(&cluster, clone, later(), &problem, &todo), 0);
    answer_start(clone, NULL);
    assert_int_equal(cluster_snapshot_judge_remove(&cluster, "web", "first", later(), &snapshot, &problem), 0);
}

static void what_cannot_be_is_told_and_nothing_is_recorded(void **state)
{
    (void)state;
    struct cluster_snapshot *snapshot = NULL;
    Godwit__VmSpec *spec = NULL;
    struct cluster_clone_ask ask = warm;
    ask.name = "a/b";
    assert_int_equal(judge(&ask, &snapshot, &spec), -1);
    assert_int_equal(problem.code, GW_USAGE);
    ask = warm;
    ask.snapshot = "none";
    assert_int_equal(judge(&ask, &snapshot, &spec), -1);
    assert_int_equal(problem.code, GW_SNAPSHOT_UNKNOWN);
    ask = warm;
    ask.name = "web";
    assert_null(make(&ask));
    assert_int_equal(problem.code, GW_NAME_TAKEN);
    ask = warm;
    ask.bridge = "br-none";
    assert_null(make(&ask)); /* its host lacks it */
    cluster_host(&cluster, "node1")->link_up = false;
    assert_int_equal(judge(&warm, &snapshot, &spec), -1);
    assert_int_equal(problem.code, GW_HOST_DOWN);
    assert_int_equal(cluster.vm_count, 1);
    assert_int_equal(todo.put_count, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(it_has_disks_and_cards_of_its_own_and_the_original_s_seed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(one_that_boots_is_told_its_own_name_and_may_have_a_bridge, set_up, tear_down),
        cmocka_unit_test_setup_teardown(it_is_recorded_on_the_snapshot_s_host_and_starts_from_its_memory, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_cold_one_is_raw_until_it_has_run_and_takes_no_memory, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_refused_start_leaves_one_that_only_its_memory_starts, set_up, tear_down),
        cmocka_unit_test_setup_teardown(one_whose_start_is_told_as_ended_has_crashed_and_stays, set_up, tear_down),
        cmocka_unit_test_setup_teardown(one_that_is_not_made_whole_is_removed_once_its_host_is_back, set_up, tear_down),
        cmocka_unit_test_setup_teardown(one_with_snapshots_is_not_removed_before_they_are, set_up, tear_down),
        cmocka_unit_test_setup_teardown(of_one_without_disks_nothing_is_left_to_wait_for, set_up, tear_down),
        cmocka_unit_test_setup_teardown(one_that_ended_unheard_is_never_given_its_old_memory_again, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_snapshot_that_a_clone_still_needs_stays, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_cannot_be_is_told_and_nothing_is_recorded, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

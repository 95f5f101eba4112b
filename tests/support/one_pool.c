#include "tests/support/one_pool.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/own.h"
#include "base/world.h"
#include "coordinator/cluster_ask.h"
#include "coordinator/cluster_core.h"
#include "coordinator/cluster_ha.h"
#include "coordinator/dr.h"
#include "coordinator/dr_ask.h"
#include "coordinator/dr_tell.h"
#include "coordinator/dr_test.h"
#include "coordinator/rows.h"
#include "coordinator/store.h"
#include "coordinator/words.h"

const char *const host_names[HOSTS] = {"node1", "node2", "node3"};
const char *const vm_names[VMS] = {"web", "db"};

struct one_pool world;

struct cluster_now now(void)
{
    return (struct cluster_now){.ns = world.now_ns, .unix_ms = world.now_ns / NS_PER_MS};
}

static int host_of(const char *name)
{
    for (int h = 0; h < HOSTS; h++) {
        if (strcmp(host_names[h], name) == 0)
            return h;
    }
    fail_msg("no host %s", name);
    return -1;
}

static int vm_of(const char *id)
{
    return strcmp(id, "id-web") == 0 ? 0 : 1;
}

struct cluster_vm *vm(int v)
{
    return cluster_vm(&world.cluster, v == 0 ? "id-web" : "id-db");
}

/* ---- the store, and a coordinator that dies ---------------------------------------------------
 */

void restart(void)
{
    struct fault fault = {0};
    cluster_todo_deinit(&world.todo);
    world.queued = 0;
    cluster_deinit(&world.cluster);
    assert_int_equal(rows_load(world.store, &world.cluster, &world.last_event, &fault), 0);
    cluster_seed(&world.cluster, world.applies + 7, 3);
    cluster_restart(&world.cluster, now(), &world.todo);
    cluster_todo_deinit(&world.todo);
    for (int h = 0; h < HOSTS; h++) {
        if (world.up[h])
            say_hello(h);
    }
}

/* Once per run; cleared so that nothing that is left of the step is acted on. */
static bool dies(void)
{
    if (world.died || world.todo.put_count == 0 || ++world.applies != world.dies_at)
        return false;
    world.died = true;
    return true;
}

void apply(void)
{
    struct store_batch *batch = NULL;
    struct fault fault = {0};
    bool is_death = dies();
    assert_int_equal(store_batch_new(&batch, &fault), 0);
    for (size_t i = 0; i < world.todo.put_count; i++)
        rows_put(batch, &world.cluster, &world.todo.puts[i], now(), &world.last_event);
    if (!store_batch_is_empty(batch) && (!is_death || world.is_durable))
        assert_int_equal(store_commit_now(world.store, batch, &fault), 0);
    (void)store_batch_free(batch);
    if (is_death) {
        restart();
        return;
    }
    for (size_t i = 0; i < world.todo.put_count; i++) {
        const struct cluster_put *put = &world.todo.puts[i];
        bool is_overdue = put->kind == PUT_EVENT && strstr(put->text, "alert: no drill of");
        bool is_given_up = put->kind == PUT_EVENT && strstr(put->text, "alert: the test copy");
        if (!is_overdue && !is_given_up)
            continue;
        world.overdue += is_overdue;
        world.given_up += is_given_up;
        WORDS_COPY(world.told, put->text);
    }
    for (size_t i = 0; i < world.todo.order_count; i++) {
        assert_true(world.queued < QUEUE_MAX);
        world.queue[world.queued++] = world.todo.orders[i];
    }
    cluster_todo_deinit(&world.todo);
}

/* ---- agents -----------------------------------------------------------------------------------
 */

static uint64_t disk_bytes[1] = {GIB(1)};

static void fill_status(int h, int v, Godwit__VmStatus *status)
{
    const struct process *process = &world.processes[h][v];
    godwit__vm_status__init(status);
    status->vm_id = (char *)(uintptr_t)(v == 0 ? "id-web" : "id-db");
    status->has_state = status->has_generation = true;
    status->state =
        process->runs ? GODWIT__VM_STATE__VM_STATE_RUNNING : GODWIT__VM_STATE__VM_STATE_GONE;
    status->generation = process->generation;
    status->disk_bytes = disk_bytes;
    status->n_disk_bytes = 1;
}

static void fill_twin(Godwit__VmStatus *status)
{
    godwit__vm_status__init(status);
    status->vm_id = world.twin.id;
    status->has_state = status->has_generation = status->has_vcpu_cpu_ns = true;
    status->state = world.twin.runs ? GODWIT__VM_STATE__VM_STATE_RUNNING
                                    : GODWIT__VM_STATE__VM_STATE_SUSPENDED;
    status->generation = world.twin.generation;
    status->vcpu_cpu_ns = world.twin.vcpu_ns;
    if (!world.twin.runs)
        status->suspend_nonce = (char *)(uintptr_t) "nonce";
}

void tell_replicas(int h)
{
    Godwit__ReplicaStatus statuses[VMS], *list[VMS];
    Godwit__CheckpointId held[VMS];
    Godwit__AgentReplicas told = GODWIT__AGENT_REPLICAS__INIT;
    for (int v = 0; v < VMS; v++) {
        const struct process *process = &world.processes[h][v];
        if (!process->in_id[0])
            continue;
        Godwit__ReplicaStatus *status = &statuses[told.n_replicas];
        godwit__replica_status__init(status);
        godwit__checkpoint_id__init(&held[v]);
        status->vm_id = (char *)(uintptr_t)(v == 0 ? "id-web" : "id-db");
        status->protection_id = (char *)(uintptr_t)process->in_id;
        status->state = (char *)(uintptr_t)(process->holds ? "holding" : "waiting");
        status->has_held_unix_ms = process->holds;
        status->held_unix_ms = process->held_ms;
        status->has_bytes_kept = status->has_bytes_in = true;
        status->bytes_in = 1000;
        status->bytes_kept = process->keeps_disks ? 900 : 0;
        status->disk_bytes = disk_bytes;
        status->n_disk_bytes = 1;
        list[told.n_replicas++] = status;
    }
    told.replicas = list;
    dr_replicas_told(&world.cluster, cluster_host(&world.cluster, host_names[h]), &told, now(),
                     &world.todo);
    apply();
}

static void fill_protect(int h, int v, Godwit__ProtectStatus *status, Godwit__CheckpointId *held)
{
    const struct process *process = &world.processes[h][v];
    godwit__protect_status__init(status);
    godwit__checkpoint_id__init(held);
    status->vm_id = (char *)(uintptr_t)(v == 0 ? "id-web" : "id-db");
    status->protection_id = (char *)(uintptr_t)process->out_id;
    status->has_generation = status->has_is_linked = status->has_rpo_ms = true;
    status->generation = process->generation;
    status->is_linked = process->replicates;
    status->has_is_missed = status->is_missed = world.misses;
    status->rpo_ms = 800;
    status->has_finished = status->finished = process->finished;
    held->has_seq = true;
    held->seq = 5;
    status->held = held;
}

/* The link between the two carries a checkpoint. */
static void replicate(void)
{
    for (int h = 0; h < HOSTS; h++) {
        for (int v = 0; v < VMS; v++) {
            struct process *source = &world.processes[h][v];
            Godwit__ProtectStatus status;
            Godwit__CheckpointId held;
            if (!world.up[h] || !source->runs || !source->replicates)
                continue;
            for (int t = 0; t < HOSTS; t++) {
                struct process *target = &world.processes[t][v];
                if (!world.up[t] || strcmp(target->in_id, source->out_id) != 0)
                    continue;
                target->holds = true;
                target->held_ms = world.now_ns / NS_PER_MS - 700;
            }
            fill_protect(h, v, &status, &held);
            dr_protect_told(&world.cluster, cluster_host(&world.cluster, host_names[h]), &status,
                            now(), &world.todo);
            apply();
        }
        if (world.up[h])
            tell_replicas(h);
    }
}

void say_hello(int h)
{
    Godwit__BaselineFact v1 = GODWIT__BASELINE_FACT__INIT, *baselines[] = {&v1};
    Godwit__HostFacts facts = GODWIT__HOST_FACTS__INIT;
    Godwit__AgentHello hello = GODWIT__AGENT_HELLO__INIT;
    Godwit__VmStatus statuses[VMS + 1], *list[VMS + 1];
    char life[16];
    (void)snprintf(life, sizeof life, "boot-%u", world.boot[h]);
    v1.name = (char *)(uintptr_t) "x86-64-v1";
    v1.has_given = v1.given = true;
    facts.name = (char *)(uintptr_t)host_names[h];
    facts.incarnation = life;
    facts.has_kvm = facts.kvm = true;
    facts.has_memory_free_bytes = true;
    facts.memory_free_bytes = GIB(4);
    facts.baselines = baselines;
    facts.n_baselines = 1;
    hello.facts = &facts;
    hello.vms = list;
    for (int v = 0; v < VMS; v++) {
        if (!world.processes[h][v].runs)
            continue;
        fill_status(h, v, &statuses[v]);
        list[hello.n_vms++] = &statuses[v];
    }
    if (world.twin.exists && world.twin.h == h) {
        fill_twin(&statuses[VMS]);
        list[hello.n_vms++] = &statuses[VMS];
    }
    struct cluster_host *host = cluster_host(&world.cluster, host_names[h]);
    if (!cluster_ha_hello(&world.cluster, host, &hello, now(), &world.todo)) {
        for (size_t i = 0; i < hello.n_vms; i++) { /* quarantined: it ends what was superseded */
            if (cluster_ha_superseded(&world.cluster, host, hello.vms[i]))
                world.processes[h][vm_of(hello.vms[i]->vm_id)].runs = false;
        }
        apply();
        world.boot[h]++;
        say_hello(h);
        return;
    }
    cluster_hello(&world.cluster, host, &hello, now(), &world.todo);
    apply();
    tell_replicas(h);
}

/* INV-1, at the moment that something begins to run. */
static void begin_to_run(int h, int v, uint64_t generation)
{
    for (int other = 0; other < HOSTS; other++)
        assert_true(other == h || !world.processes[other][v].runs);
    world.processes[h][v].runs = true;
    world.processes[h][v].finished = world.processes[h][v].replicates = false;
    world.processes[h][v].generation = world.processes[h][v].seen = generation;
}

static int take_replica(int h, int v, const struct cluster_order *order)
{
    struct process *process = &world.processes[h][v];
    if (world.busy_takes > 0) {
        world.busy_takes--;
        return ERR_BUSY;
    }
    if (process->runs && process->generation == order->generation)
        return 0;
    if (order->generation <= process->seen || !process->holds ||
        strcmp(process->in_id, order->move_id) != 0 || world.refuses_take) {
        process->seen = order->generation; /* burnt */
        world.refuses_take = false;
        return ERR_REFUSED;
    }
    begin_to_run(h, v, order->generation);
    world.takes[v]++;
    process->in_id[0] = '\0';
    process->holds = false;
    return 0;
}

static int carry_out(int h, int v, const struct cluster_order *order)
{
    struct process *process = &world.processes[h][v];
    switch (order->kind) {
    case ORDER_START:
        if (process->runs && process->generation == order->generation)
            return 0;
        if (order->generation <= process->seen)
            return ERR_STATE;
        begin_to_run(h, v, order->generation);
        return 0;
    case ORDER_STOP:
    case ORDER_SPLIT_STOP:
        if (!process->runs)
            return ERR_NOT_FOUND;
        process->runs = process->replicates = false;
        return 0;
    case ORDER_REPLICA_IN:
        if (process->in_id[0] && strcmp(process->in_id, order->move_id) != 0)
            return ERR_EXISTS; /* another protection's: that one is dropped first */
        if (strcmp(process->in_id, order->move_id) != 0) {
            process->holds = world.keeps_whole && strcmp(world.kept_id, order->move_id) == 0;
            process->keeps_disks = vm(v)->dr->info->keep_disks;
        }
        WORDS_COPY(process->in_id, order->move_id);
        return 0;
    case ORDER_PROTECT:
        if (!process->runs || process->generation != order->generation)
            return ERR_STATE;
        process->replicates = true;
        WORDS_COPY(process->out_id, order->move_id);
        return 0;
    case ORDER_PROTECT_FINISH:
        if (!process->runs || !process->replicates || world.refuses_finish) {
            world.refuses_finish = false;
            return ERR_TIMEOUT;
        }
        process->finished = true;
        return 0;
    case ORDER_PROTECT_END:
        process->replicates = process->finished = false;
        return 0;
    case ORDER_REPLICA_TAKE:
        return take_replica(h, v, order);
    case ORDER_REPLICA_DROP:
        if (strcmp(process->in_id, order->move_id) != 0)
            return 0;
        process->in_id[0] = '\0';
        process->holds = false;
        return 0;
    default:
        return 0;
    }
}

void lose(int h)
{
    cluster_link_lost(&world.cluster, cluster_host(&world.cluster, host_names[h]), now(),
                      &world.todo);
    apply();
}

/* ---- the copy of a test ---- */
int copy_replica(int h, const struct cluster_order *order)
{
    const struct process *process = &world.processes[h][vm_of(order->vm_id)];
    const struct cluster_vm *of = vm(vm_of(order->vm_id));
    const Godwit__DrTest *test = of->dr ? of->dr->info->test : NULL;
    if (world.refuses_copy || !process->holds || strcmp(process->in_id, order->move_id) != 0 || !test)
        return ERR_STATE;
    assert_false(world.twin.exists);
    world.twin.exists = true;
    world.twin.runs = false;
    world.twin.h = h;
    world.twin.generation = DR_TEST_GENERATION;
    WORDS_COPY(world.twin.id, test->copy_id);
    world.copies++;
    return 0;
}

static int order_twin(const struct cluster_order *order)
{
    bool is_it = world.twin.exists && strcmp(world.twin.id, order->vm_id) == 0;
    switch (order->kind) {
    case ORDER_START:
        if (!is_it || world.refuses_twin ||
            (!world.twin.runs && order->generation <= world.twin.generation))
            return ERR_REFUSED;
        world.twin.runs = true;
        world.twin.generation = order->generation;
        return 0;
    case ORDER_STOP:
        assert_true(order->remove || world.twin_may_rest);
        if (world.twin_is_busy) {
            world.twin_is_busy = false;
            return ERR_BUSY;
        }
        if (is_it) {
            world.twin.exists = !order->remove;
            world.twin.runs = false;
        }
        return 0; /* gone already is as wanted */
    case ORDER_STATUS:
        world.twin.vcpu_ns += is_it && world.twin.runs && !world.twin_stands ? NS_PER_MS : 0;
        return is_it ? 0 : ERR_NOT_FOUND;
    default:
        fail_msg("order %d for a copy", (int)order->kind);
        return ERR_UNSUPPORTED;
    }
}

/* True: it was for a copy, or made one. */
static bool deliver_twin(struct cluster_order order)
{
    struct cluster_result result = {.definite = true};
    Godwit__ReplicaCopied copied = GODWIT__REPLICA_COPIED__INIT;
    Godwit__VmStatus status;
    struct fault fault = {0};
    bool makes = order.kind == ORDER_REPLICA_COPY;
    if (!makes && (strcmp(order.vm_id, "id-web") == 0 || strcmp(order.vm_id, "id-db") == 0))
        return false;
    int h = host_of(order.host), err = ERR_UNREACHABLE;
    if (world.up[h])
        err = makes ? copy_replica(h, &order) : order_twin(&order);
    if (err)
        fault_set(&fault, err, "simulated: %s", err_name(err));
    result.never_left = !world.up[h];
    world.orders[order.kind]++;
    copied.has_held_unix_ms = true;
    copied.held_unix_ms = world.processes[h][makes ? vm_of(order.vm_id) : 0].held_ms;
    fill_twin(&status);
    if (err)
        result.fault = &fault;
    else if (makes)
        result.copied = &copied;
    else if (order.kind != ORDER_STOP)
        result.status = &status;
    cluster_order_done(&world.cluster, &order, &result, now(), &world.todo);
    apply();
    return true;
}

static void deliver(struct cluster_order order)
{
    struct cluster_result result = {.definite = true};
    struct fault fault = {0};
    Godwit__VmStatus status;
    Godwit__ProtectStatus protect;
    Godwit__CheckpointId held;
    Godwit__ReplicaStatus replica = GODWIT__REPLICA_STATUS__INIT;
    if (order.about[0])
        return; /* nobody is fenced here but by an operator's word */
    if (deliver_twin(order))
        return;
    int h = host_of(order.host), v = vm_of(order.vm_id), err;
    if (!world.up[h]) {
        fault_set(&fault, ERR_UNREACHABLE, "not connected");
        result.never_left = true;
    } else if ((err = carry_out(h, v, &order)) != 0) {
        fault_set(&fault, err, "simulated: %s", err_name(err));
    }
    world.orders[order.kind]++;
    if (fault.code)
        result.fault = &fault;
    else if (order.kind == ORDER_START || order.kind == ORDER_REPLICA_TAKE) {
        fill_status(h, v, &status);
        result.status = &status;
    } else if (order.kind == ORDER_PROTECT || order.kind == ORDER_PROTECT_FINISH) {
        fill_protect(h, v, &protect, &held);
        result.protect = &protect;
    } else if (order.kind == ORDER_REPLICA_IN) {
        replica.state = (char *)(uintptr_t)(world.processes[h][v].holds ? "holding" : "waiting");
        result.replica = &replica;
    }
    if (order.kind == ORDER_PROTECT_FINISH && world.target_goes) {
        world.target_goes = false;
        world.up[1] = false;
        lose(1);
    }
    if (order.kind == ORDER_PROTECT && world.loses_target) {
        world.loses_target = false;
        lose(1);
        say_hello(1);
    }
    cluster_order_done(&world.cluster, &order, &result, now(), &world.todo);
    apply();
}

/* ---- time -------------------------------------------------------------------------------------
 */

void turn(void)
{
    world.now_ns += 100 * NS_PER_MS;
    for (int h = 0; h < HOSTS; h++) {
        Godwit__AgentHeartbeat heartbeat = GODWIT__AGENT_HEARTBEAT__INIT;
        struct cluster_host *host = cluster_host(&world.cluster, host_names[h]);
        if (world.up[h])
            cluster_heartbeat(&world.cluster, host, &heartbeat, now());
    }
    replicate();
    cluster_tick(&world.cluster, now(), &world.todo);
    apply();
    while (world.queued > 0) {
        struct cluster_order order = world.queue[0];
        memmove(&world.queue[0], &world.queue[1], --world.queued * sizeof order);
        deliver(order);
    }
}

void turn_until(bool (*is_so)(void), const char *what)
{
    for (int i = 0; i < TURNS_MAX; i++) {
        if (is_so())
            return;
        turn();
    }
    fail_msg("never: %s; step %s of %s at death %u %d", what,
             vm(0)->dr ? vm(0)->dr->info->step : "-", vm(0)->dr ? vm(0)->dr->info->op : "-",
             world.dies_at, world.is_durable);
}

void turn_for(unsigned ms)
{
    for (unsigned i = 0; i < ms / 100; i++)
        turn();
}

Godwit__DrRequest request_of(Godwit__DrVerb verb)
{
    Godwit__DrRequest request = GODWIT__DR_REQUEST__INIT;
    request.has_verb = true;
    request.verb = verb;
    request.vm = (char *)(uintptr_t) "web";
    return request;
}

int ask(const Godwit__DrRequest *request)
{
    world.problem = (struct problem){0};
    int r = dr_ask(&world.cluster, request, now(), &world.problem, &world.todo);
    apply();
    return r;
}

int protect(const char *name, const char *to, const char *group, unsigned order,
                   unsigned delay_ms)
{
    Godwit__DrRequest request = request_of(GODWIT__DR_VERB__DR_VERB_PROTECT);
    request.vm = (char *)(uintptr_t)name;
    request.to = (char *)(uintptr_t)to;
    request.group = (char *)(uintptr_t)group;
    request.has_order = request.has_delay_ms = group != NULL;
    request.order = order;
    request.delay_ms = delay_ms;
    return ask(&request);
}

int failover(bool planned, const char *confirm, bool split)
{
    Godwit__DrRequest request = request_of(GODWIT__DR_VERB__DR_VERB_FAILOVER);
    request.planned = planned;
    request.confirm = (char *)(uintptr_t)confirm;
    request.accept_split = split;
    return ask(&request);
}

int failback(void)
{
    Godwit__DrRequest request = request_of(GODWIT__DR_VERB__DR_VERB_FAILBACK);
    return ask(&request);
}

bool is_held(void)
{
    return vm(0)->dr && dr_step_is(vm(0)->dr, "protect") && vm(0)->dr->info->has_held &&
           dr_is_held(&world.cluster, vm(0)->dr, now());
}

bool is_away(void)
{
    return vm(0)->dr && dr_step_is(vm(0)->dr, "away");
}

bool is_home(void)
{
    return is_held() && !vm(0)->dr->info->op[0] && strcmp(vm(0)->own.owner, "node1") == 0 &&
           vm(0)->own.phase == OWN_RUN;
}

bool is_unprotected(void)
{
    return vm(0)->dr == NULL;
}

bool is_failed(void)
{
    return vm(0)->dr && strcmp(vm(0)->dr->info->last_state, "failed") == 0;
}

const char *state(void)
{
    static char reason[CLUSTER_REASON_SIZE];
    return dr_state(&world.cluster, vm(0)->dr, now(), reason);
}

unsigned running(int v)
{
    unsigned count = 0;
    for (int h = 0; h < HOSTS; h++)
        count += world.processes[h][v].runs;
    return count;
}

void power_off(int h)
{
    world.up[h] = false;
    world.boot[h]++;
    memset(world.processes[h], 0, sizeof world.processes[h]);
    lose(h);
}

static void create(int v)
{
    Godwit__VmSpec spec = GODWIT__VM_SPEC__INIT;
    Godwit__MemorySpec memory = GODWIT__MEMORY_SPEC__INIT;
    Godwit__DiskSpec disk = GODWIT__DISK_SPEC__INIT, *disks[] = {&disk};
    char file[16];
    uint64_t ticket;
    (void)snprintf(file, sizeof file, "%s.raw", vm_names[v]);
    memory.has_size = true;
    memory.size = MIB(128);
    disk.name = (char *)(uintptr_t) "root";
    disk.store = (char *)(uintptr_t) "/srv/one";
    disk.file = file;
    disk.has_size = true;
    disk.size = GIB(1);
    spec.name = (char *)(uintptr_t)vm_names[v];
    spec.host = (char *)(uintptr_t) "node1";
    spec.memory = &memory;
    spec.kernel = (char *)(uintptr_t) "/kernel";
    spec.disks = disks;
    spec.n_disks = 1;
    assert_int_equal(cluster_create_vm(&world.cluster, &spec, v == 0 ? "id-web" : "id-db", false,
                                       now(), &ticket, &world.problem, &world.todo),
                     0);
    apply();
}

void begin_world(void)
{
    struct fault fault = {0};
    memset(&world, 0, sizeof world);
    world.now_ns = 1000 * NS_PER_S; /* and it has led for long */
    cluster_seed(&world.cluster, 1, 2);
    assert_int_equal(store_open(&world.store, ":memory:", NULL, &fault), 0);
    for (int h = 0; h < HOSTS; h++) {
        assert_non_null(cluster_host_joined(&world.cluster, host_names[h], now(), &world.todo));
        apply();
        world.up[h] = true;
        say_hello(h);
    }
    for (int v = 0; v < VMS; v++)
        create(v);
    turn_for(500);
    assert_int_equal(vm(0)->own.phase, OWN_RUN);
    assert_string_equal(vm(0)->own.owner, "node1");
    world.applies = 0;
}

void end_world(void)
{
    cluster_todo_deinit(&world.todo);
    cluster_deinit(&world.cluster);
    world.store = store_close(world.store);
}

int set_up(void **ignored)
{
    (void)ignored;
    begin_world();
    return 0;
}

int tear_down(void **ignored)
{
    (void)ignored;
    end_world();
    return 0;
}

void hold(void)
{
    assert_int_equal(protect("web", "node2", NULL, 0, 0), 0);
    turn_until(is_held, "held");
}

/* ---- death at every step ----------------------------------------------------------------------
 */

void until(int (*ask_for)(void), bool (*is_so)(void), const char *what)
{
    for (int i = 0; i < 20 && !is_so(); i++) { /* an operator whose order was lost says it again */
        if (!vm(0)->dr || !vm(0)->dr->info->op[0])
            (void)ask_for();
        for (int n = 0; n < 200 && !is_so(); n++)
            turn();
    }
    turn_until(is_so, what);
}

int ask_protect(void)
{
    return protect("web", "node2", NULL, 0, 0);
}

void dies_at_each_step_of(void (*scenario)(void), unsigned steps_min)
{
    unsigned steps = 0;
    begin_world();
    scenario();
    steps = world.applies;
    end_world();
    assert_true(steps > steps_min);
    for (unsigned at = 1; at <= steps; at++) {
        for (int durable = 0; durable < 2; durable++) {
            begin_world();
            world.dies_at = at;
            world.is_durable = durable;
            scenario();
            assert_true(world.died);
            end_world();
        }
    }
    print_message("the coordinator died at each of %u transactions, before and after it\n", steps);
}

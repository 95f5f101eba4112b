#include "tests/support/two_pools.h"

#include <setjmp.h>
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
#include "coordinator/dr_peer.h"
#include "coordinator/dr_peer_hold.h"
#include "coordinator/dr_tell.h"
#include "coordinator/dr_test.h"
#include "coordinator/pool_store.h"
#include "coordinator/rows.h"
#include "coordinator/store.h"
#include "coordinator/words.h"

const char *const names[POOLS] = {"site-a", "site-b"};
const char *const ids[POOLS] = {"pool-id-a", "pool-id-b"};

struct two_pools world;

struct cluster_now now(void)
{
    return (struct cluster_now){.ns = world.now_ns, .unix_ms = world.now_ns / NS_PER_MS};
}

struct cluster_vm *vm(int p)
{
    return cluster_vm(&world.pools[p].cluster, "id-web");
}

bool step_is(int p, const char *step)
{
    return vm(p) && vm(p)->dr && dr_step_is(vm(p)->dr, step);
}

/* ---- coordinators that die --------------------------------------------------------------------
 */

static void say_hello(int p);

void restart(int p)
{
    struct pool *pool = &world.pools[p];
    struct fault fault = {0};
    cluster_todo_deinit(&pool->todo);
    pool->queued = 0;
    cluster_deinit(&pool->cluster);
    assert_int_equal(rows_load(pool->store, &pool->cluster, &pool->last_event, &fault), 0);
    cluster_seed(&pool->cluster, world.applies + 7, 3);
    cluster_restart(&pool->cluster, now(), &pool->todo);
    cluster_todo_deinit(&pool->todo);
    if (pool->up)
        say_hello(p);
}

bool apply(int p)
{
    struct pool *pool = &world.pools[p];
    struct store_batch *batch = NULL;
    struct fault fault = {0};
    bool dies = !world.died && pool->todo.put_count > 0 && ++world.applies == world.dies_at;
    assert_int_equal(store_batch_new(&batch, &fault), 0);
    for (size_t i = 0; i < pool->todo.put_count; i++)
        rows_put(batch, &pool->cluster, &pool->todo.puts[i], now(), &pool->last_event);
    if (!store_batch_is_empty(batch) && (!dies || world.is_durable))
        assert_int_equal(store_commit_now(pool->store, batch, &fault), 0);
    (void)store_batch_free(batch);
    if (dies) {
        world.died = true;
        restart(p);
        return false;
    }
    for (size_t i = 0; i < pool->todo.order_count; i++) {
        assert_true(pool->queued < QUEUE_MAX);
        pool->queue[pool->queued++] = pool->todo.orders[i];
    }
    cluster_todo_deinit(&pool->todo);
    return true;
}

/* ---- agents -----------------------------------------------------------------------------------
 */

struct cluster_host *host(int p)
{
    return cluster_host(&world.pools[p].cluster, "node1");
}

static void fill_status(int p, Godwit__VmStatus *status)
{
    static uint64_t disk_bytes[1] = {GIB(1)};
    godwit__vm_status__init(status);
    status->vm_id = (char *)(uintptr_t) "id-web";
    status->has_state = status->has_generation = true;
    status->state = world.pools[p].runs ? GODWIT__VM_STATE__VM_STATE_RUNNING
                                        : GODWIT__VM_STATE__VM_STATE_GONE;
    status->generation = world.pools[p].generation;
    status->disk_bytes = disk_bytes;
    status->n_disk_bytes = 1;
}

static void fill_twin(Godwit__VmStatus *status)
{
    godwit__vm_status__init(status);
    status->vm_id = world.twin.id;
    status->has_state = status->has_generation = status->has_vcpu_cpu_ns = true;
    status->state = world.twin.runs ? GODWIT__VM_STATE__VM_STATE_RUNNING
                                    : GODWIT__VM_STATE__VM_STATE_GONE;
    status->generation = world.twin.generation;
    status->vcpu_cpu_ns = world.twin.vcpu_ns;
}

static void say_hello(int p)
{
    Godwit__BaselineFact v1 = GODWIT__BASELINE_FACT__INIT, *baselines[] = {&v1};
    Godwit__HostFacts facts = GODWIT__HOST_FACTS__INIT;
    Godwit__AgentHello hello = GODWIT__AGENT_HELLO__INIT;
    Godwit__VmStatus status, twin, *list[2] = {&status};
    char life[16];
    (void)snprintf(life, sizeof life, "boot-%u", world.pools[p].boot);
    v1.name = (char *)(uintptr_t) "x86-64-v1";
    v1.has_given = v1.given = true;
    facts.name = (char *)(uintptr_t) "node1";
    facts.incarnation = life;
    facts.has_kvm = facts.kvm = true;
    facts.has_memory_free_bytes = true;
    facts.memory_free_bytes = GIB(4);
    facts.baselines = baselines;
    facts.n_baselines = 1;
    hello.facts = &facts;
    hello.vms = list;
    hello.n_vms = world.pools[p].runs;
    fill_status(p, &status);
    fill_twin(&twin);
    if (p == THERE && world.twin.exists && world.twin.runs)
        list[hello.n_vms++] = &twin;
    assert_true(cluster_ha_hello(&world.pools[p].cluster, host(p), &hello, now(),
                                 &world.pools[p].todo));
    cluster_hello(&world.pools[p].cluster, host(p), &hello, now(), &world.pools[p].todo);
    (void)apply(p);
}

static void begin_to_run(int p, uint64_t generation)
{
    struct pool *pool = &world.pools[p], *other = &world.pools[!p];
    assert_true(!other->runs || world.was_split); /* INV-1 */
    if (p == HERE)
        assert_false(step_is(THERE, "take") || step_is(THERE, "away"));
    pool->runs = true;
    pool->finished = pool->replicates = false;
    pool->generation = pool->seen = generation;
    world.starts += p == HERE;
}

static int take_replica(int p, const struct cluster_order *order)
{
    struct pool *pool = &world.pools[p];
    if (pool->runs && pool->generation == order->generation)
        return 0;
    if (order->generation <= pool->seen || !pool->holds || world.refuses_take) {
        pool->seen = order->generation;
        world.refuses_take = false;
        return ERR_REFUSED;
    }
    if (!world.was_split && vm(HERE)->dr && vm(HERE)->dr->info->is_whole)
        assert_int_equal(pool->held, world.pools[HERE].written); /* planned: nothing is lost */
    begin_to_run(p, order->generation);
    pool->written = pool->held;
    pool->in_id[0] = '\0';
    pool->holds = false;
    return 0;
}

static int carry_out(int p, const struct cluster_order *order)
{
    struct pool *pool = &world.pools[p];
    switch (order->kind) {
    case ORDER_START:
        if (pool->runs && pool->generation == order->generation)
            return 0;
        if (order->generation <= pool->seen)
            return ERR_STATE;
        begin_to_run(p, order->generation);
        return 0;
    case ORDER_STOP:
        if (!pool->runs)
            return ERR_NOT_FOUND;
        pool->runs = pool->replicates = false;
        return 0;
    case ORDER_REPLICA_IN:
        WORDS_COPY(pool->in_id, order->move_id);
        WORDS_COPY(vm(p)->dr->address, "127.0.0.1:9");
        return 0;
    case ORDER_PROTECT:
        if (!pool->runs || pool->generation != order->generation)
            return ERR_STATE;
        pool->replicates = true;
        WORDS_COPY(pool->out_id, order->move_id);
        return 0;
    case ORDER_PROTECT_FINISH:
        if (!pool->runs || !pool->replicates)
            return ERR_TIMEOUT;
        pool->finished = true;
        world.pools[THERE].held = pool->written;
        return 0;
    case ORDER_PROTECT_END:
        pool->replicates = pool->finished = false;
        return 0;
    case ORDER_REPLICA_TAKE:
        return take_replica(p, order);
    case ORDER_REPLICA_DROP:
        pool->in_id[0] = '\0';
        pool->holds = false;
        return 0;
    default:
        return 0;
    }
}

static void fill_protect(int p, Godwit__ProtectStatus *status, Godwit__CheckpointId *held)
{
    const struct pool *pool = &world.pools[p];
    godwit__protect_status__init(status);
    godwit__checkpoint_id__init(held);
    status->vm_id = (char *)(uintptr_t) "id-web";
    status->protection_id = (char *)(uintptr_t)pool->out_id;
    status->has_generation = status->has_is_linked = status->has_rpo_ms = true;
    status->generation = pool->generation;
    status->is_linked = pool->replicates;
    status->rpo_ms = 800;
    status->has_finished = status->finished = pool->finished;
    held->has_seq = true;
    held->seq = 5;
    status->held = held;
}

static void fill_replica(int p, Godwit__ReplicaStatus *status)
{
    const struct pool *pool = &world.pools[p];
    godwit__replica_status__init(status);
    status->vm_id = (char *)(uintptr_t) "id-web";
    status->protection_id = (char *)(uintptr_t)pool->in_id;
    status->state = (char *)(uintptr_t)(pool->holds ? "holding" : "waiting");
    status->has_held_unix_ms = pool->holds;
    status->held_unix_ms = world.now_ns / NS_PER_MS - 700;
}

static int copy_replica(const struct cluster_order *order)
{
    const struct pool *pool = &world.pools[THERE];
    const struct cluster_vm *of = vm(THERE);
    const Godwit__DrTest *test = of && of->dr ? of->dr->info->test : NULL;
    if (world.refuses_copy || !pool->holds || strcmp(pool->in_id, order->move_id) != 0 || !test)
        return ERR_STATE;
    assert_false(world.twin.exists);
    world.twin.exists = true;
    world.twin.runs = false;
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
        if (!is_it || (!world.twin.runs && order->generation <= world.twin.generation))
            return ERR_REFUSED;
        world.twin.runs = true;
        world.twin.generation = order->generation;
        return 0;
    case ORDER_STOP:
        assert_true(order->remove);
        if (is_it)
            world.twin.exists = world.twin.runs = false;
        return 0; /* gone already is as wanted */
    case ORDER_STATUS:
        world.twin.vcpu_ns += is_it && world.twin.runs && !world.twin.stands ? NS_PER_MS : 0;
        return is_it ? 0 : ERR_NOT_FOUND;
    default:
        fail_msg("order %d for a copy", (int)order->kind);
        return ERR_UNSUPPORTED;
    }
}

/* True: it was for a copy, or made one. */
static bool deliver_twin(int p, struct cluster_order order)
{
    struct cluster_result result = {.definite = true};
    Godwit__ReplicaCopied copied = GODWIT__REPLICA_COPIED__INIT;
    Godwit__VmStatus status;
    struct pool *pool = &world.pools[p];
    struct fault fault = {0};
    bool makes = order.kind == ORDER_REPLICA_COPY;
    if (!makes && strcmp(order.vm_id, "id-web") == 0)
        return false;
    assert_int_equal(p, THERE); /* nobody else has a replica */
    int err = !pool->up ? ERR_UNREACHABLE : makes ? copy_replica(&order) : order_twin(&order);
    if (makes && world.loses_answer)
        return true;
    if (err)
        fault_set(&fault, err, "simulated: %s", err_name(err));
    result.never_left = !pool->up;
    copied.has_held_unix_ms = true;
    copied.held_unix_ms = world.now_ns / NS_PER_MS - 700;
    fill_twin(&status);
    if (err)
        result.fault = &fault;
    else if (makes)
        result.copied = &copied;
    else if (order.kind != ORDER_STOP)
        result.status = &status;
    cluster_order_done(&pool->cluster, &order, &result, now(), &pool->todo);
    (void)apply(p);
    return true;
}

static void deliver(int p, struct cluster_order order)
{
    struct cluster_result result = {.definite = true};
    struct pool *pool = &world.pools[p];
    struct fault fault = {0};
    Godwit__VmStatus status;
    Godwit__ProtectStatus protect;
    Godwit__CheckpointId held;
    Godwit__ReplicaStatus replica;
    if (deliver_twin(p, order))
        return;
    int err = pool->up ? carry_out(p, &order) : ERR_UNREACHABLE;
    result.never_left = !pool->up;
    fill_status(p, &status);
    fill_protect(p, &protect, &held);
    fill_replica(p, &replica);
    if (err) {
        fault_set(&fault, err, "simulated: %s", err_name(err));
        result.fault = &fault;
    } else if (order.kind == ORDER_START || order.kind == ORDER_REPLICA_TAKE) {
        result.status = &status;
    } else if (order.kind == ORDER_PROTECT || order.kind == ORDER_PROTECT_FINISH) {
        result.protect = &protect;
    } else if (order.kind == ORDER_REPLICA_IN) {
        result.replica = &replica;
    }
    cluster_order_done(&pool->cluster, &order, &result, now(), &pool->todo);
    (void)apply(p);
}

static void agents_tell(int p)
{
    struct pool *pool = &world.pools[p];
    Godwit__AgentHeartbeat heartbeat = GODWIT__AGENT_HEARTBEAT__INIT;
    Godwit__ReplicaStatus replica, *list[] = {&replica};
    Godwit__AgentReplicas told = GODWIT__AGENT_REPLICAS__INIT;
    Godwit__ProtectStatus protect;
    Godwit__CheckpointId held;
    if (!pool->up)
        return;
    cluster_heartbeat(&pool->cluster, host(p), &heartbeat, now());
    if (pool->runs && !pool->finished)
        pool->written++;
    if (pool->runs && pool->replicates && strcmp(pool->out_id, world.pools[THERE].in_id) == 0) {
        world.pools[THERE].holds = true;
        if (world.line && !pool->finished)
            world.pools[THERE].held = pool->written;
        fill_protect(p, &protect, &held);
        dr_protect_told(&pool->cluster, host(p), &protect, now(), &pool->todo);
        (void)apply(p);
    }
    fill_replica(p, &replica);
    told.replicas = list;
    told.n_replicas = pool->in_id[0] != '\0';
    dr_replicas_told(&pool->cluster, host(p), &told, now(), &pool->todo);
    (void)apply(p);
}

/* ---- the line ---------------------------------------------------------------------------------
 */

static void ask_to_hold(void)
{
    struct cluster_dr *dr = vm(HERE)->dr;
    Godwit__PeerDrHold hold = GODWIT__PEER_DR_HOLD__INIT;
    Godwit__PeerDrHeld held;
    struct problem problem = {0};
    struct pool *there = &world.pools[THERE];
    hold.vm_id = dr->info->vm_id;
    hold.protection_id = dr->info->protection_id;
    hold.generation = dr->info->generation;
    hold.link_no = dr->link_no;
    hold.is_new = !dr->info->peer_host[0];
    hold.spec = dr->vm->spec;
    hold.disk_bytes = dr->vm->disk_bytes;
    hold.n_disk_bytes = 1;
    hold.rpo_ms = dr->info->rpo_ms;
    int r = dr_peer_hold(&there->cluster, ids[HERE], names[HERE], &hold, now(), &held, &problem,
                         &there->todo);
    Godwit__PeerDrHeld *copy = r == 0 ? cluster_message_copy(&held.base) : NULL;
    if (!apply(THERE) && copy) {
        godwit__peer_dr_held__free_unpacked(copy, NULL);
        return;
    }
    dr_peer_held(dr, copy, problem.text, now(), &world.pools[HERE].todo);
    if (copy)
        godwit__peer_dr_held__free_unpacked(copy, NULL);
    (void)apply(HERE);
}

static void exchange_words(void)
{
    struct pool *here = &world.pools[HERE], *there = &world.pools[THERE];
    Godwit__PeerDrWord said, answer = GODWIT__PEER_DR_WORD__INIT;
    dr_peer_say(vm(HERE)->dr, now(), &said);
    Godwit__PeerDrWord *heard = cluster_message_copy(&said.base);
    struct cluster_dr *dr = dr_peer_find(&there->cluster, ids[HERE], heard);
    answer.step = (char *)(uintptr_t) "none";
    if (dr)
        dr_peer_hear(&there->cluster, dr, heard, now(), &answer, &there->todo);
    Godwit__PeerDrWord *copy = cluster_message_copy(&answer.base);
    bool is_alive = apply(THERE);
    if (is_alive && vm(HERE)->dr)
        dr_peer_answered(&here->cluster, vm(HERE)->dr, copy, world.now_ns, now(), &here->todo);
    (void)apply(HERE);
    godwit__peer_dr_word__free_unpacked(heard, NULL);
    godwit__peer_dr_word__free_unpacked(copy, NULL);
}

static void talk(void)
{
    for (int p = 0; p < POOLS; p++) {
        if (vm(p) && vm(p)->dr)
            vm(p)->dr->peer_is_up = world.line, vm(p)->dr->peer_is_gone = world.is_no_peer;
    }
    if (!world.line)
        return;
    if (step_is(HERE, "protect") && vm(HERE)->dr->wants_hold)
        ask_to_hold();
    if (vm(HERE)->dr && dr_peer_is(vm(HERE)->dr) && world.now_ns % NS_PER_S == 0)
        exchange_words();
}

/* ---- time -------------------------------------------------------------------------------------
 */

void turn(void)
{
    world.now_ns += TURN_MS * NS_PER_MS;
    talk();
    for (int p = 0; p < POOLS; p++) {
        struct pool *pool = &world.pools[p];
        agents_tell(p);
        cluster_tick(&pool->cluster, now(), &pool->todo);
        (void)apply(p);
        while (pool->queued > 0) {
            struct cluster_order order = pool->queue[0];
            memmove(&pool->queue[0], &pool->queue[1], --pool->queued * sizeof order);
            deliver(p, order);
        }
    }
}

void turn_until(bool (*is_so)(void), const char *what)
{
    for (int i = 0; i < TURNS_MAX; i++) {
        if (is_so())
            return;
        turn();
    }
    fail_msg("never: %s; here %s, there %s, at death %u %d", what,
             vm(HERE)->dr ? vm(HERE)->dr->info->step : "-",
             vm(THERE) && vm(THERE)->dr ? vm(THERE)->dr->info->step : "-", world.dies_at,
             world.is_durable);
}

void turn_for(unsigned ms)
{
    for (unsigned i = 0; i < ms / TURN_MS; i++)
        turn();
}

int ask(int p, Godwit__DrVerb verb, const char *confirm, bool split, bool force)
{
    Godwit__DrRequest request = GODWIT__DR_REQUEST__INIT;
    request.has_verb = true;
    request.verb = verb;
    request.vm = (char *)(uintptr_t) "web";
    request.confirm = (char *)(uintptr_t)confirm;
    request.accept_split = split;
    request.force = force;
    world.problem = (struct problem){0};
    int r = dr_ask(&world.pools[p].cluster, &request, now(), &world.problem, &world.pools[p].todo);
    (void)apply(p);
    return r;
}

int take_over(const char *confirm, bool split)
{
    return ask(THERE, GODWIT__DR_VERB__DR_VERB_FAILOVER, confirm, split, false);
}

int unprotect(int p, bool force)
{
    return ask(p, GODWIT__DR_VERB__DR_VERB_UNPROTECT, NULL, false, force);
}

int start(int p)
{
    uint64_t ticket;
    world.problem = (struct problem){0};
    int r = cluster_act(&world.pools[p].cluster, "web", GODWIT__VM_VERB__VM_VERB_START, false, now(),
                        &ticket, &world.problem, &world.pools[p].todo);
    (void)apply(p);
    return r;
}

const char *state(int p)
{
    static char reason[CLUSTER_REASON_SIZE];
    return dr_state(&world.pools[p].cluster, vm(p)->dr, now(), reason);
}

bool is_held(void)
{
    return vm(HERE)->dr && strcmp(state(HERE), "protected") == 0 && vm(THERE) &&
           strcmp(state(THERE), "held") == 0;
}

bool runs_there(void)
{
    return world.pools[THERE].runs && step_is(THERE, "away");
}

bool is_over(void)
{
    return runs_there() && step_is(HERE, "away") && vm(THERE)->dr->info->is_heard;
}

bool is_failed(void)
{
    return strcmp(vm(THERE)->dr->info->last_state, "failed") == 0;
}

bool runs_here_again(void)
{
    return world.pools[HERE].runs && is_held();
}

bool is_unprotected(void)
{
    return !vm(HERE)->dr && !vm(THERE);
}

void power_off(int p)
{
    struct pool *pool = &world.pools[p];
    pool->up = pool->runs = pool->replicates = pool->finished = false;
    world.twin.runs = world.twin.runs && p != THERE;
    pool->boot++;
    cluster_link_lost(&pool->cluster, host(p), now(), &pool->todo);
    (void)apply(p);
}

void power_on(int p)
{
    world.pools[p].up = true;
    restart(p);
}

static void add_store(int p)
{
    struct pool *pool = &world.pools[p];
    Godwit__PoolStore given = GODWIT__POOL_STORE__INIT, *draft = NULL;
    char *hosts[] = {(char *)(uintptr_t) "node1"};
    struct cluster_store *store = NULL;
    given.name = (char *)(uintptr_t) "one";
    given.path = (char *)(uintptr_t) "/srv/one";
    given.hosts = hosts;
    given.n_hosts = 1;
    if (pool_store_draft(&pool->cluster, &given, now(), &draft, &world.problem) != 0 ||
        pool_store_add(&pool->cluster, draft, now(), &store, &world.problem, &pool->todo) != 0)
        fail_msg("%s", world.problem.text);
    (void)apply(p);
}

static void create(void)
{
    struct pool *pool = &world.pools[HERE];
    Godwit__VmSpec spec = GODWIT__VM_SPEC__INIT;
    Godwit__MemorySpec memory = GODWIT__MEMORY_SPEC__INIT;
    Godwit__DiskSpec disk = GODWIT__DISK_SPEC__INIT, *disks[] = {&disk};
    uint64_t ticket;
    memory.has_size = true;
    memory.size = MIB(128);
    disk.name = (char *)(uintptr_t) "root";
    disk.store = (char *)(uintptr_t) "one";
    disk.file = (char *)(uintptr_t) "web.raw";
    disk.has_size = true;
    disk.size = GIB(1);
    spec.name = (char *)(uintptr_t) "web";
    spec.memory = &memory;
    spec.kernel = (char *)(uintptr_t) "/srv/one/kernel";
    spec.disks = disks;
    spec.n_disks = 1;
    assert_int_equal(cluster_create_vm(&pool->cluster, &spec, "id-web", false, now(), &ticket,
                                       &world.problem, &pool->todo),
                     0);
    (void)apply(HERE);
}

void protect(void)
{
    static const struct dr_ask_peer peer = {
        .pool_id = "pool-id-b", .name = "site-b", .is_linked = true};
    Godwit__DrRequest request = GODWIT__DR_REQUEST__INIT;
    struct pool *pool = &world.pools[HERE];
    request.vm = (char *)(uintptr_t) "web";
    if (dr_ask_protect_there(&pool->cluster, &request, &peer, now(), &world.problem, &pool->todo))
        fail_msg("%s", world.problem.text);
    (void)apply(HERE);
}

int set_up(void **ignored)
{
    struct fault fault = {0};
    (void)ignored;
    memset(&world, 0, sizeof world);
    world.now_ns = 1000 * NS_PER_S;
    world.line = true;
    for (int p = 0; p < POOLS; p++) {
        struct pool *pool = &world.pools[p];
        cluster_seed(&pool->cluster, 1, 2 + p);
        assert_int_equal(store_open(&pool->store, ":memory:", NULL, &fault), 0);
        assert_non_null(cluster_host_joined(&pool->cluster, "node1", now(), &pool->todo));
        (void)apply(p);
        pool->up = true;
        say_hello(p);
        add_store(p);
    }
    create();
    turn_for(500);
    assert_int_equal(vm(HERE)->own.phase, OWN_RUN);
    protect();
    turn_until(is_held, "held");
    world.applies = 0;
    return 0;
}

int tear_down(void **ignored)
{
    (void)ignored;
    for (int p = 0; p < POOLS; p++) {
        cluster_todo_deinit(&world.pools[p].todo);
        cluster_deinit(&world.pools[p].cluster);
        world.pools[p].store = store_close(world.pools[p].store);
    }
    return 0;
}

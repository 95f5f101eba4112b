/* A replica across two pools: two clusters with their rows in two stores, an agent each, and a line between them. A
 * coordinator of either pool that dies at any step goes on from what was durable; nothing runs twice, and nothing is lost. */
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
#include "coordinator/rows.h"
#include "coordinator/pool_store.h"
#include "coordinator/store.h"
#include "coordinator/words.h"

enum { QUEUE_MAX = 64, TURNS_MAX = 3000, TURN_MS = 100 };
enum { HERE, THERE, POOLS }; /* the source, and the holder */

static const char *const names[POOLS] = {"site-a", "site-b"};
static const char *const ids[POOLS] = {"pool-id-a", "pool-id-b"};

struct pool {
    struct cluster cluster;
    struct cluster_todo todo;
    struct store *store;
    uint64_t last_event;
    bool up; /* its host */
    unsigned boot;
    struct cluster_order queue[QUEUE_MAX];
    size_t queued;
    /* its host's process of the VM, or of its replica */
    bool runs, finished, replicates, holds;
    uint64_t generation, seen, written, held;
    char out_id[ID_TEXT_SIZE], in_id[ID_TEXT_SIZE];
};

static struct {
    struct pool pools[POOLS];
    struct problem problem;
    uint64_t now_ns;
    bool line, was_split, is_no_peer;
    unsigned applies, dies_at;
    bool is_durable, died, refuses_take;
    unsigned starts;
} world;

static struct cluster_now now(void)
{
    return (struct cluster_now){.ns = world.now_ns, .unix_ms = world.now_ns / NS_PER_MS};
}

static struct cluster_vm *vm(int p)
{
    return cluster_vm(&world.pools[p].cluster, "id-web");
}

static bool step_is(int p, const char *step)
{
    return vm(p) && vm(p)->dr && dr_step_is(vm(p)->dr, step);
}

/* ---- coordinators that die --------------------------------------------------------------------
 */

static void say_hello(int p);

static void restart(int p)
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

/* Returns false when the coordinator died of it: what was to follow does not. */
static bool apply(int p)
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

static struct cluster_host *host(int p)
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

static void say_hello(int p)
{
    Godwit__BaselineFact v1 = GODWIT__BASELINE_FACT__INIT, *baselines[] = {&v1};
    Godwit__HostFacts facts = GODWIT__HOST_FACTS__INIT;
    Godwit__AgentHello hello = GODWIT__AGENT_HELLO__INIT;
    Godwit__VmStatus status, *list[] = {&status};
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

static void deliver(int p, struct cluster_order order)
{
    struct cluster_result result = {.definite = true};
    struct pool *pool = &world.pools[p];
    struct fault fault = {0};
    Godwit__VmStatus status;
    Godwit__ProtectStatus protect;
    Godwit__CheckpointId held;
    Godwit__ReplicaStatus replica;
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

static void turn(void)
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

static void turn_until(bool (*is_so)(void), const char *what)
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

static void turn_for(unsigned ms)
{
    for (unsigned i = 0; i < ms / TURN_MS; i++)
        turn();
}

static int ask(int p, Godwit__DrVerb verb, const char *confirm, bool split, bool force)
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

static int take_over(const char *confirm, bool split)
{
    return ask(THERE, GODWIT__DR_VERB__DR_VERB_FAILOVER, confirm, split, false);
}

static int unprotect(int p, bool force)
{
    return ask(p, GODWIT__DR_VERB__DR_VERB_UNPROTECT, NULL, false, force);
}

static int start(int p)
{
    uint64_t ticket;
    world.problem = (struct problem){0};
    int r = cluster_act(&world.pools[p].cluster, "web", GODWIT__VM_VERB__VM_VERB_START, false, now(),
                        &ticket, &world.problem, &world.pools[p].todo);
    (void)apply(p);
    return r;
}

static const char *state(int p)
{
    static char reason[CLUSTER_REASON_SIZE];
    return dr_state(&world.pools[p].cluster, vm(p)->dr, now(), reason);
}

static bool is_held(void)
{
    return vm(HERE)->dr && strcmp(state(HERE), "protected") == 0 && vm(THERE) &&
           strcmp(state(THERE), "held") == 0;
}

static bool runs_there(void)
{
    return world.pools[THERE].runs && step_is(THERE, "away");
}

static bool is_over(void)
{
    return runs_there() && step_is(HERE, "away") && vm(THERE)->dr->info->is_heard;
}

static bool is_failed(void)
{
    return strcmp(vm(THERE)->dr->info->last_state, "failed") == 0;
}

static bool runs_here_again(void)
{
    return world.pools[HERE].runs && is_held();
}

static bool is_unprotected(void)
{
    return !vm(HERE)->dr && !vm(THERE);
}

static void power_off(int p)
{
    struct pool *pool = &world.pools[p];
    pool->up = pool->runs = pool->replicates = pool->finished = false;
    pool->boot++;
    cluster_link_lost(&pool->cluster, host(p), now(), &pool->todo);
    (void)apply(p);
}

static void power_on(int p)
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

static void protect(void)
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

static int set_up(void **ignored)
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

static int tear_down(void **ignored)
{
    (void)ignored;
    for (int p = 0; p < POOLS; p++) {
        cluster_todo_deinit(&world.pools[p].todo);
        cluster_deinit(&world.pools[p].cluster);
        world.pools[p].store = store_close(world.pools[p].store);
    }
    return 0;
}

/* ---- tests ------------------------------------------------------------------------------------
 */

static void what_is_held_is_told_in_both_and_started_in_none(void **ignored)
{
    (void)ignored;
    uint64_t here_ms = 0, there_ms = 0;

    assert_true(dr_rpo_now(&world.pools[HERE].cluster, vm(HERE)->dr, now(), &here_ms));
    assert_true(dr_rpo_now(&world.pools[THERE].cluster, vm(THERE)->dr, now(), &there_ms));
    assert_int_equal(here_ms, 800);
    assert_int_equal(there_ms, 800);
    assert_int_equal(start(THERE), -1);
    assert_non_null(strstr(world.problem.text, "held for pool site-a"));
    assert_int_equal(ask(HERE, GODWIT__DR_VERB__DR_VERB_FAILOVER, NULL, false, false), -1);
    assert_int_equal(take_over("site-a", true), -1);
    assert_int_equal(world.problem.code, GW_HOST_ALIVE);
    assert_int_equal(unprotect(THERE, false), -1);
}

static void a_planned_takeover_goes_over_whole(void **ignored)
{
    (void)ignored;
    uint64_t before = vm(HERE)->own.gen;

    assert_int_equal(take_over(NULL, false), 0);
    turn_until(is_over, "taken over");

    assert_false(world.pools[HERE].runs);
    assert_true(vm(THERE)->own.gen > before);
    assert_true(vm(THERE)->dr->info->has_last_rpo_ms);
    assert_int_equal(vm(THERE)->dr->info->last_rpo_ms, 0);
    assert_int_equal(start(HERE), -1);
    assert_non_null(strstr(world.problem.text, "taken over by pool site-b"));
    assert_int_equal(unprotect(HERE, false), -1);
    assert_int_equal(unprotect(THERE, false), 0);
    turn_for(1000);
    assert_null(vm(THERE)->dr); /* and its VM is its own */
    assert_true(world.pools[THERE].runs);
}

/* Of either pool, before and after each transaction is durable. */
static void a_coordinator_that_dies_at_any_step_of_a_takeover_goes_on(void **state_of_test)
{
    unsigned deaths = 0;
    for (unsigned at = 1; at < 200; at++) {
        for (int durable = 0; durable < 2; durable++) {
            (void)tear_down(state_of_test);
            (void)set_up(state_of_test);
            world.dies_at = at;
            world.is_durable = durable;
            (void)take_over(NULL, false);
            turn_for(1000);
            if (step_is(THERE, "hold") && world.died && !vm(THERE)->dr->info->op[0])
                (void)take_over(NULL, false); /* its order was not kept, or it was given up */
            for (int tries = 0; tries < 3 && !is_over(); tries++) {
                turn_for(30000);
                if (step_is(THERE, "hold") && runs_here_again())
                    (void)take_over(NULL, false);
            }
            turn_until(is_over, "taken over");
            assert_false(world.pools[HERE].runs);
        }
        if (!world.died) {
            deaths = at - 1;
            break;
        }
    }
    print_message("the coordinators died at each of %u transactions, before and after it\n", deaths);
    assert_true(deaths > 5);
}

static void a_lost_one_is_handed_over_as_it_is(void **ignored)
{
    (void)ignored;
    power_off(HERE);
    turn_for(3000);
    power_on(HERE); /* its host is there again, the VM is not */
    turn_for(3000);
    world.starts = 0;

    assert_int_equal(take_over(NULL, false), 0);
    turn_until(is_over, "taken over");

    assert_false(vm(THERE)->dr->info->has_last_rpo_ms);
    assert_int_equal(world.starts, 0);
}

static void a_site_that_comes_back_starts_nothing_of_what_was_taken(void **ignored)
{
    (void)ignored;
    power_off(HERE);
    world.line = false;
    turn_for(2000);

    assert_int_equal(take_over(NULL, false), -1);
    assert_int_equal(world.problem.code, GW_DR_NOT_FENCED);
    assert_int_equal(take_over("node1", true), -1);
    assert_int_equal(world.problem.code, GW_USAGE);
    assert_int_equal(take_over("site-a", true), 0);
    world.was_split = true;
    turn_until(runs_there, "taken");
    world.starts = 0;
    power_on(HERE);
    turn_for(5000);
    assert_int_equal(start(HERE), -1);
    assert_non_null(strstr(world.problem.text, "does not answer"));
    world.line = true;
    turn_until(is_over, "told");

    assert_int_equal(start(HERE), -1);
    turn_for(5000);
    assert_int_equal(world.starts, 0);
    assert_string_equal(state(HERE), "away");
}

static void one_that_still_runs_is_a_conflict_and_is_fought_by_nobody(void **ignored)
{
    (void)ignored;
    uint64_t ticket;
    world.line = false;
    turn_for(2000);
    world.was_split = true;
    assert_int_equal(take_over("site-a", false), 0);
    turn_until(runs_there, "taken");

    world.line = true;
    turn_for(5000);

    assert_true(world.pools[HERE].runs && world.pools[THERE].runs);
    assert_string_equal(state(HERE), "conflict");
    assert_int_equal(cluster_act(&world.pools[HERE].cluster, "web", GODWIT__VM_VERB__VM_VERB_STOP,
                                 false, now(), &ticket, &world.problem, &world.pools[HERE].todo),
                     0);
    (void)apply(HERE);
    turn_for(1000);
    assert_string_equal(state(HERE), "away");
    assert_true(world.pools[THERE].runs);
}

/* Its host says so only after the other pool did, and HA would wait for it for ever. */
static void what_is_found_lost_after_it_was_taken_rests(void **ignored)
{
    (void)ignored;
    world.line = false;
    turn_for(2000);
    world.was_split = true;
    assert_int_equal(take_over("site-a", true), 0);
    turn_until(runs_there, "taken");
    world.line = true;
    turn_for(3000);
    assert_string_equal(state(HERE), "conflict");

    power_off(HERE);
    own_lose(&vm(HERE)->own);
    turn_for(1000);

    assert_string_equal(state(HERE), "away");
    assert_int_equal(vm(HERE)->own.phase, OWN_STOPPED);
    assert_int_equal(vm(HERE)->want, WANT_STOPPED);
}

static void a_take_that_is_refused_starts_it_where_it_was(void **ignored)
{
    (void)ignored;
    world.refuses_take = true;

    assert_int_equal(take_over(NULL, false), 0);
    turn_until(is_failed, "refused");
    for (int i = 0; i < 300 && !world.pools[HERE].runs; i++)
        turn();

    assert_true(world.pools[HERE].runs);
    assert_false(world.pools[THERE].runs);
    assert_true(step_is(THERE, "hold"));
    assert_int_equal(vm(THERE)->own.phase, OWN_STOPPED);
}

static void without_the_line_it_is_not_started_and_with_it_it_is(void **ignored)
{
    (void)ignored;
    uint64_t ticket;
    world.line = false;
    turn_for(1000);
    assert_int_equal(cluster_act(&world.pools[HERE].cluster, "web", GODWIT__VM_VERB__VM_VERB_STOP,
                                 false, now(), &ticket, &world.problem, &world.pools[HERE].todo),
                     0);
    (void)apply(HERE);
    turn_for(1000);

    assert_int_equal(start(HERE), -1);
    world.line = true;
    turn_for(2000);
    assert_int_equal(start(HERE), 0);
    turn_until(runs_here_again, "held again");
    assert_true(vm(THERE)->dr->info->peer_generation >= vm(HERE)->own.gen);
}

static void unprotect_ends_both_and_force_ends_one(void **ignored)
{
    (void)ignored;
    assert_int_equal(unprotect(HERE, false), 0);
    turn_until(is_unprotected, "unprotected");
    assert_true(world.pools[HERE].runs && !world.pools[THERE].holds);
    protect();
    turn_until(is_held, "held anew");

    world.line = false;
    assert_int_equal(unprotect(HERE, false), 0);
    turn_for(3000);
    assert_non_null(vm(HERE)->dr); /* it may be taken yet */
    assert_int_equal(unprotect(HERE, true), 0);
    turn_for(1000);
    assert_null(vm(HERE)->dr);
    assert_int_equal(unprotect(THERE, true), 0);
    turn_until(is_unprotected, "dropped there");
}

static void what_was_taken_is_not_forgotten_before_the_other_pool_has_heard(void **ignored)
{
    (void)ignored;
    power_off(HERE);
    world.line = false;
    turn_for(2000);
    assert_int_equal(take_over("site-a", false), 0);
    turn_until(runs_there, "taken");

    assert_int_equal(unprotect(THERE, true), -1);
    assert_int_equal(world.problem.code, GW_DR_STATE);
    assert_true(step_is(THERE, "away"));
    world.starts = 0;
    power_on(HERE);
    world.line = true;
    turn_until(is_over, "told");
    assert_int_equal(unprotect(THERE, false), 0);
    turn_for(5000);
    assert_null(vm(THERE)->dr);
    assert_int_equal(world.starts, 0);
}

static void what_was_taken_is_free_once_its_other_pool_is_no_peer_any_more(void **ignored)
{
    (void)ignored;
    power_off(HERE);
    world.line = false;
    turn_for(2000);
    assert_int_equal(take_over("site-a", false), 0);
    turn_until(runs_there, "taken");
    world.is_no_peer = true;
    turn_for(TURN_MS);

    assert_int_equal(unprotect(THERE, false), -1);
    assert_int_equal(unprotect(THERE, true), 0);
    turn_for(1000);
    assert_null(vm(THERE)->dr);
    assert_true(world.pools[THERE].runs);
}

/* It runs there, under a record that the other pool lost: "I know nothing of it" is no word that it does not. */
static void one_that_is_down_is_not_freed_by_a_pool_that_knows_nothing_of_it(void **ignored)
{
    (void)ignored;
    struct pool *there = &world.pools[THERE];
    power_off(HERE);
    world.line = false;
    turn_for(2000);
    assert_int_equal(take_over("site-a", false), 0);
    turn_until(runs_there, "taken");
    dr_set_text(&vm(THERE)->dr->info->protection_id, "another");
    world.starts = 0;
    power_on(HERE);
    world.line = true;
    turn_for(3000);
    static char reason[CLUSTER_REASON_SIZE];
    (void)dr_state(&world.pools[HERE].cluster, vm(HERE)->dr, now(), reason);
    assert_non_null(strstr(reason, "knows nothing of it"));

    assert_int_equal(unprotect(HERE, false), 0);
    turn_for(5000);
    assert_true(step_is(HERE, "end"));
    assert_int_equal(start(HERE), -1);
    assert_int_equal(world.starts, 0);
    assert_true(there->runs);
    there->runs = false; /* somebody saw to that */
    assert_int_equal(unprotect(HERE, true), 0);
    turn_for(1000);
    assert_null(vm(HERE)->dr);
}

static void one_that_is_down_is_unprotected_by_the_word_that_its_replica_goes(void **ignored)
{
    (void)ignored;
    uint64_t ticket;
    assert_int_equal(cluster_act(&world.pools[HERE].cluster, "web", GODWIT__VM_VERB__VM_VERB_STOP,
                                 false, now(), &ticket, &world.problem, &world.pools[HERE].todo),
                     0);
    (void)apply(HERE);
    turn_for(1000);

    assert_int_equal(unprotect(HERE, false), 0);
    turn_until(is_unprotected, "unprotected");
}

static void a_replica_that_is_dropped_is_not_started(void **ignored)
{
    (void)ignored;
    uint64_t ticket;
    power_off(THERE);
    assert_int_equal(unprotect(HERE, false), 0);
    for (int i = 0; i < 100 && !step_is(THERE, "end"); i++)
        turn();
    assert_true(step_is(THERE, "end"));

    assert_int_equal(start(THERE), -1);
    assert_non_null(strstr(world.problem.text, "held for pool site-a"));
    assert_int_equal(dr_peer_judge_start(vm(THERE), now(), &world.problem), -1);
    assert_int_equal(world.problem.code, GW_VM_BUSY);
    world.problem = (struct problem){0};
    assert_int_equal(cluster_act(&world.pools[THERE].cluster, "web", GODWIT__VM_VERB__VM_VERB_RM,
                                 false, now(), &ticket, &world.problem, &world.pools[THERE].todo),
                     -1);
    assert_non_null(strstr(world.problem.text, "held for pool site-a"));
    power_on(THERE);
    turn_until(is_unprotected, "dropped");
}

static void what_is_found_running_is_not_dropped_with_its_replica(void **ignored)
{
    (void)ignored;
    struct cluster_vm *found = vm(THERE);
    assert_int_equal(unprotect(THERE, true), 0);
    found->dr->info->in_ended = true;
    own_start(&found->own, "node1", "boot-0");
    found->own.phase = OWN_RUN;
    world.was_split = true;

    turn_for(TURN_MS);

    assert_ptr_equal(vm(THERE), found);
    assert_true(step_is(THERE, "away"));
}

static bool is_back(void)
{
    return step_is(HERE, "back");
}

static bool is_of_two_pools_again(void)
{
    return world.pools[HERE].runs && step_is(HERE, "protect") && step_is(THERE, "hold");
}

/* Days later it is lost: what is held is of before, and may not be taken for its newest. */
static void what_ran_on_after_a_take_that_was_refused_is_not_taken_as_it_was(void **ignored)
{
    (void)ignored;
    world.refuses_take = true;
    assert_int_equal(take_over(NULL, false), 0);
    turn_until(is_of_two_pools_again, "runs again");
    turn_for(5000);

    assert_false(vm(THERE)->dr->info->has_held);
    assert_false(world.pools[THERE].holds);
    restart(THERE);
    turn_for(5000);
    assert_false(vm(THERE)->dr->info->has_held);
    power_off(HERE);
    turn_for(3000);
    power_on(HERE);
    turn_for(3000);
    assert_int_equal(take_over(NULL, false), -1);
    assert_non_null(strstr(world.problem.text, "nothing whole"));
    assert_false(world.pools[THERE].runs);
    world.line = false;
    turn_for(1000);
    assert_int_equal(take_over("site-a", true), -1);
}

/* And is handed over before a word of that generation was heard. */
static void what_ran_on_unheard_is_not_taken_as_it_was(void **ignored)
{
    (void)ignored;
    world.refuses_take = true;
    assert_int_equal(take_over(NULL, false), 0);
    turn_until(is_back, "given back");
    assert_true(step_is(THERE, "hold"));
    assert_int_equal(take_over(NULL, false), 0);
    struct cluster_dr *there = vm(THERE)->dr;
    struct pool *pool = &world.pools[THERE];
    Godwit__PeerDrWord said = GODWIT__PEER_DR_WORD__INIT, answer;
    said.vm_id = there->info->vm_id;
    said.protection_id = there->info->protection_id;
    said.step = (char *)(uintptr_t) "handed";
    said.hand_no = there->info->hand_no;
    said.generation = vm(HERE)->own.hiwater + 1;

    dr_peer_hear(&pool->cluster, there, &said, now(), &answer, &pool->todo);

    assert_string_equal(answer.step, "hold");
    assert_true(answer.returned_no == said.hand_no && !there->info->has_held);
    (void)apply(THERE);
}

static void one_whose_host_dies_before_it_starts_again_can_be_taken(void **ignored)
{
    (void)ignored;
    world.refuses_take = true;
    assert_int_equal(take_over(NULL, false), 0);
    turn_until(is_back, "given back");
    power_off(HERE);
    for (int i = 0; i < 600 && !step_is(HERE, "protect"); i++)
        turn();
    assert_true(step_is(HERE, "protect"));
    assert_int_equal(vm(HERE)->own.phase, OWN_STOPPED);

    turn_for(2000);
    assert_int_equal(take_over(NULL, false), 0);
    turn_until(is_over, "taken");
    assert_true(world.pools[THERE].runs);
}

static void a_restore_stops_nothing_that_was_to_be_handed_over(void **ignored)
{
    (void)ignored;
    static const char *const steps[] = {"finish", "undo", "stop"};
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        struct pool *here = &world.pools[HERE];
        WORDS_COPY(here->cluster.settings[SETTING_RESTORED].value, "1");
        dr_set_text(&vm(HERE)->dr->info->step, steps[i]);
        vm(HERE)->want = WANT_STOPPED;
        dr_tick(&here->cluster, now(), &here->todo);
        (void)apply(HERE);
        here->cluster.settings[SETTING_RESTORED].value[0] = '\0';

        assert_true(step_is(HERE, "protect"));
        turn_for(2000);
        assert_true(here->runs);
        assert_int_equal(vm(HERE)->want, WANT_RUNNING);
    }
    static const char *const kept[] = {"handed", "back", "away"};
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++) {
        struct pool *here = &world.pools[HERE];
        WORDS_COPY(here->cluster.settings[SETTING_RESTORED].value, "1");
        dr_set_text(&vm(HERE)->dr->info->step, kept[i]);
        dr_tick(&here->cluster, now(), &here->todo);
        assert_true(step_is(HERE, kept[i]));
        (void)apply(HERE);
    }
}

static void what_a_peer_may_not_describe_is_not_held(void **ignored)
{
    (void)ignored;
    struct pool *there = &world.pools[THERE];
    Godwit__PeerDrHold hold = GODWIT__PEER_DR_HOLD__INIT;
    Godwit__PeerDrHeld held;
    Godwit__VmSpec *spec = cluster_message_copy(&vm(HERE)->spec->base);
    uint64_t bytes[1] = {GIB(1)};
    assert_int_equal(dr_peer_hold(&there->cluster, ids[HERE], names[HERE], &hold, now(), &held,
                                  &world.problem, &there->todo),
                     -1);
    hold.vm_id = (char *)(uintptr_t) "id-other";
    hold.protection_id = (char *)(uintptr_t) "p";
    hold.generation = hold.link_no = 1;
    hold.is_new = true;
    hold.spec = spec;
    hold.disk_bytes = bytes;
    hold.n_disk_bytes = 1;

    assert_int_equal(dr_peer_hold(&there->cluster, ids[HERE], names[HERE], &hold, now(), &held,
                                  &world.problem, &there->todo),
                     -1);
    assert_int_equal(world.problem.code, GW_NAME_TAKEN); /* it holds one called so */
    dr_set_text(&spec->name, "other");
    dr_set_text(&spec->disks[0]->store, "");
    dr_set_text(&spec->disks[0]->file, "");
    dr_set_text(&spec->disks[0]->path, "/dev/sda");
    assert_int_equal(dr_peer_hold(&there->cluster, ids[HERE], names[HERE], &hold, now(), &held,
                                  &world.problem, &there->todo),
                     -1);
    assert_int_equal(world.problem.code, GW_SPEC_INVALID);
    assert_null(cluster_vm(&there->cluster, "id-other"));
    godwit__vm_spec__free_unpacked(spec, NULL);
}

/* `change` makes of a description that would be held one that would open something else of the holder's hosts. */
static void expect_not_held(void (*change)(Godwit__VmSpec *spec), const char *words)
{
    struct pool *there = &world.pools[THERE];
    Godwit__PeerDrHold hold = GODWIT__PEER_DR_HOLD__INIT;
    Godwit__PeerDrHeld held;
    Godwit__VmSpec *spec = cluster_message_copy(&vm(HERE)->spec->base);
    uint64_t bytes[1] = {GIB(1)};
    dr_set_text(&spec->name, "other");
    dr_set_text(&spec->disks[0]->file, "other.raw");
    hold.vm_id = (char *)(uintptr_t) "id-other";
    hold.protection_id = (char *)(uintptr_t) "p";
    hold.generation = hold.link_no = 1;
    hold.is_new = true;
    hold.spec = spec;
    hold.disk_bytes = bytes;
    hold.n_disk_bytes = 1;
    change(spec);

    int r = dr_peer_hold(&there->cluster, ids[HERE], names[HERE], &hold, now(), &held, &world.problem,
                         &there->todo);

    if (!words) { /* the change is none: what is refused else is refused for the change */
        assert_int_equal(r, 0);
    } else {
        assert_int_equal(r, -1);
        assert_int_equal(world.problem.code, GW_SPEC_INVALID);
        if (!strstr(world.problem.text, words))
            fail_msg("%s", world.problem.text);
        assert_null(cluster_vm(&there->cluster, "id-other"));
    }
    godwit__vm_spec__free_unpacked(spec, NULL);
}

static void lie_in_a_folder(Godwit__VmSpec *spec)
{
    dr_set_text(&spec->disks[0]->store, "/etc");
    dr_set_text(&spec->disks[0]->pool_store, "");
}

static void be_read_only(Godwit__VmSpec *spec)
{
    spec->disks[0]->has_read_only = spec->disks[0]->read_only = true;
    spec->disks[0]->has_size = false;
}

static void start_from_a_file_of_the_host(Godwit__VmSpec *spec)
{
    dr_set_text(&spec->kernel, "/etc/shadow");
}

static void climb_out_of_the_store(Godwit__VmSpec *spec)
{
    dr_set_text(&spec->initrd, "/srv/one/../../etc/shadow");
}

static void change_nothing(Godwit__VmSpec *spec)
{
    (void)spec;
}

static void a_peer_opens_nothing_but_what_lies_in_stores(void **ignored)
{
    (void)ignored;
    expect_not_held(lie_in_a_folder, "no store of the other pool");
    expect_not_held(be_read_only, "read-only");
    expect_not_held(start_from_a_file_of_the_host, "/etc/shadow is in no store");
    expect_not_held(climb_out_of_the_store, "is in no store");
    expect_not_held(change_nothing, NULL);
}

static void a_number_that_no_pool_counts_to_is_not_taken_over(void **ignored)
{
    (void)ignored;
    struct cluster_dr *dr = vm(THERE)->dr;
    const struct dr_cross before = dr->cross;
    Godwit__PeerDrWord word = GODWIT__PEER_DR_WORD__INIT, answer;
    word.vm_id = dr->info->vm_id;
    word.protection_id = dr->info->protection_id;
    word.step = (char *)(uintptr_t) "protect";
    word.generation = word.hand_no = word.permit = UINT64_MAX;

    dr_peer_hear(&world.pools[THERE].cluster, dr, &word, now(), &answer, &world.pools[THERE].todo);

    assert_int_equal(dr->cross.generation, before.generation);
    assert_int_equal(dr->cross.hand_no, before.hand_no);
    assert_int_equal(answer.permit, 0);
    (void)apply(THERE);
}

static void what_a_peer_says_is_fit_for_a_terminal(void **ignored)
{
    (void)ignored;
    struct cluster_dr *dr = vm(HERE)->dr;
    Godwit__ProtectStatus status = GODWIT__PROTECT_STATUS__INIT;
    dr_peer_held(dr, NULL, "no\x1b[2J room\xc2\x9b", now(), &world.pools[HERE].todo);
    assert_string_equal(dr->trouble, "no [2J room??");
    status.trouble = (char *)(uintptr_t) "slow\r\nlink";
    dr_keep_out(dr, &status, now());
    assert_string_equal(dr->out->trouble, "slow  link");
}

#define test(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    log_set_level(LOG_ERROR);
    const struct CMUnitTest tests[] = {
        test(what_is_held_is_told_in_both_and_started_in_none),
        test(a_planned_takeover_goes_over_whole),
        test(a_coordinator_that_dies_at_any_step_of_a_takeover_goes_on),
        test(a_lost_one_is_handed_over_as_it_is),
        test(a_site_that_comes_back_starts_nothing_of_what_was_taken),
        test(one_that_still_runs_is_a_conflict_and_is_fought_by_nobody),
        test(what_is_found_lost_after_it_was_taken_rests),
        test(a_take_that_is_refused_starts_it_where_it_was),
        test(without_the_line_it_is_not_started_and_with_it_it_is),
        test(unprotect_ends_both_and_force_ends_one),
        test(what_was_taken_is_not_forgotten_before_the_other_pool_has_heard),
        test(what_was_taken_is_free_once_its_other_pool_is_no_peer_any_more),
        test(one_that_is_down_is_not_freed_by_a_pool_that_knows_nothing_of_it),
        test(one_that_is_down_is_unprotected_by_the_word_that_its_replica_goes),
        test(a_replica_that_is_dropped_is_not_started),
        test(what_is_found_running_is_not_dropped_with_its_replica),
        test(what_ran_on_after_a_take_that_was_refused_is_not_taken_as_it_was),
        test(what_ran_on_unheard_is_not_taken_as_it_was),
        test(one_whose_host_dies_before_it_starts_again_can_be_taken),
        test(a_peer_opens_nothing_but_what_lies_in_stores),
        test(a_number_that_no_pool_counts_to_is_not_taken_over),
        test(what_a_peer_says_is_fit_for_a_terminal),
        test(a_restore_stops_nothing_that_was_to_be_handed_over),
        test(what_a_peer_may_not_describe_is_not_held),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

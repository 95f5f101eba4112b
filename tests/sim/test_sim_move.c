/* The real cluster_core and job_core, the real rows in the real store (in memory), against fake
 * agents, under a seed: lost, late and doubled messages, cut lanes and links, dead processes,
 * rebooted hosts, a coordinator that dies at any step and comes back with what was durable.
 *
 * Safety, after every step: a VM runs on one host at most; no generation is run by two hosts;
 * hiwater never shrinks; a durable RUN(host, gen) names what that host really has run.
 * Plans (evacuate, restore, repair) run meanwhile: a step that was durably over is never begun
 * again, no plan's move goes where a hard rule has another member or to a cordoned host. Liveness,
 * after healing: no job and no plan is active, no guest is held, record and world agree.
 *
 * Some VMs have a shared disk, and with it the stamp L: a start takes it from what was read before,
 * a target after TOOK, a source that resumes anew. Whoever writes holds it, always.
 *
 * Some VMs have a replica on another host (without the engine: it holds what it holds). Failovers,
 * planned and not, and failbacks are judged by the same rules: a replica that is taken is one more
 * way for a VM to begin to run.
 *
 * A start may take its time, as libvirt's does: it is answered when it is through, whoever asks again. Some agents are
 * of a version that does not know stops that end starts.
 *
 * In two of three runs hosts die, are cut off, are fenced (by power, over a shared store, by an
 * operator's word) and come back; what HA protects must run again, once.
 *
 * Every seed replays bit by bit: some are run twice and their logs compared by hash. Seeded
 * mistakes in what surrounds the cores (agents, fences, the order of store and network) must each
 * be caught.
 *
 *   GODWIT_SIM_SEED=n     run that seed only, with a trace
 *   GODWIT_SIM_SEEDS=n    how many (default 1000)
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/err.h"
#include "base/log.h"
#include "base/own.h"
#include "base/world.h"
#include "coordinator/cluster_ask.h"
#include "coordinator/cluster_core.h"
#include "coordinator/cluster_ha.h"
#include "coordinator/cluster_view.h"
#include "coordinator/dr.h"
#include "coordinator/dr_ask.h"
#include "coordinator/dr_test.h"
#include "coordinator/plan_make.h"
#include "coordinator/preflight.h"
#include "coordinator/rows.h"
#include "coordinator/rule.h"
#include "coordinator/store.h"
#include "coordinator/store_driver.h"
#include "proto/limits.h"

enum {
    HOSTS = 3,
    VMS = 2,
    CALLS_MAX = 512,
    STRAYS_MAX = 64,
    COMMITS_MAX = 256,
    GENERATIONS_MAX = 4096,
    OVERS_MAX = 4096,
    STEPS = 1500,
    HA_STEPS = 2500,
    MUTATION_SEEDS = 1000,
    REPLAY_EVERY = 20,
#ifdef __SANITIZE_ADDRESS__
    SEEDS = 150, /* each takes several times as long */
#else
    SEEDS = 1000,
#endif
    HEAL_STEPS = 6000,
};

static const char *const host_names[HOSTS] = {"node1", "node2", "node3"};

struct l { /* the stamp beside a VM's disks; generation 0: nobody has held it yet */
    uint64_t generation;
    int host;
    unsigned boot;
};

struct process { /* a godwit-vm, or what its agent's journal remembers of it */
    bool exists;
    Godwit__VmState state;
    bool paused_by_move;
    uint64_t generation, latch_generation, seen; /* seen: journaled, survives all */
    Godwit__Latch latch;
    char move_id[ID_TEXT_SIZE];
    bool lane_cut; /* between this source or target and its peer */
    bool parked_told;
    /* on the lane, towards this process */
    bool got_ready, got_transfer, got_started, got_abandoned;
    bool finished;             /* its last checkpoint is held, it stands still */
    char out_id[ID_TEXT_SIZE]; /* the protection that it replicates for; "" */
    uint64_t slow_generation;  /* of a start that takes its time, as libvirt's may; 0: none */
    uint64_t slow_until_ns;
    struct l expected;         /* of a move in */
    bool disks_wait;           /* it runs, and its requests wait until L is taken */
};

/* Mistakes outside the cores: each breaks a rule that the cores rest on. */
enum mutation {
    MUTATION_NONE,
    MUTATION_RESUME_ON_TIMEOUT,    /* a source that GAVE resumes because it hears nothing */
    MUTATION_TARGET_STARTS_ITSELF, /* at READY, without the right */
    MUTATION_ABANDON_NOT_LATCHED,  /* ABANDONED is said, and a later TRANSFER taken */
    MUTATION_GAVE_FORGOTTEN,       /* GAVE does not last */
    MUTATION_NO_INCARNATION,       /* grants of another life are obeyed */
    MUTATION_OLD_GENERATION,       /* a generation that was seen is started again */
    MUTATION_REBOOT_SAME_LIFE,   /* a boot does not change the incarnation, and takes the journal */
    MUTATION_FENCE_LIES,         /* off is confirmed, and the host runs on */
    MUTATION_EVICT_LIES,         /* evicted is said, and the VMs run on */
    MUTATION_OPERATOR_ERRS,      /* a living host is confirmed down */
    MUTATION_ORDER_BEFORE_STORE, /* orders leave before they are durable */
    MUTATION_STORE_LOSES_RECORD, /* an ownership record is told durable and is not */
    MUTATION_STORE_LOSES_FENCE,  /* a fence is told durable and is not */
    MUTATION_ROLLED_BACK_STORE,  /* a coordinator begins with an older state */
    MUTATION_HELLO_FORGETS,      /* an agent that knows nothing lists nothing */
    MUTATION_CANCEL_AFTER_GAVE,  /* a cancel is obeyed past the commit point */
    MUTATION_STARTED_RESUMES,    /* STARTED makes the source run on */
    MUTATION_REFUSAL_FORGOTTEN,  /* a start that was refused begins when it is said again */
    MUTATION_TAKE_UNSTAMPED,     /* a target writes without having taken L */
    MUTATION_RESUME_UNSTAMPED,   /* a source writes as a new generation, L is of the old one */
    MUTATION_STEP_FORGETS,       /* a plan's step does not keep where it failed */
    MUTATION_TAKE_FORGOTTEN,     /* a take that was refused begins when it is said again */
    MUTATION_REPLICA_RUNS,       /* a replica runs on from the last checkpoint by itself */
    MUTATION_SLOW_REFUSED,       /* a start that takes long is refused, and carried out all the same */
    MUTATION_COUNT
};
static const char *const mutation_names[MUTATION_COUNT] = {
    "none",
    "resume_on_timeout",
    "target_starts_itself",
    "abandon_not_latched",
    "gave_forgotten",
    "no_incarnation",
    "old_generation",
    "reboot_same_life",
    "fence_lies",
    "evict_lies",

    "operator_errs",
    "order_before_store",
    "store_loses_record",
    "store_loses_fence",
    "rolled_back_store",
    "hello_forgets",
    "cancel_after_gave",
    "started_resumes",
    "refusal_forgotten",
    "take_unstamped",
    "resume_unstamped",
    "step_forgets",
    "take_forgotten",
    "replica_runs",
    "slow_refused",
};
static enum mutation mutation;
static bool is_child; /* a mutation's process: a breach ends it */

struct replica {
    bool exists, holds;
    char id[ID_TEXT_SIZE];
};

enum { TWINS = 8 };

struct twin { /* the copy of a test, on the replica's host: what it would go on from, or its process */
    bool exists, runs;
    char id[ID_TEXT_SIZE];
    uint64_t generation, seen;
};

struct host {
    bool connected;
    uint64_t away_until_ns;     /* a long outage of its line to the coordinator */
    uint64_t dead_until_ns;     /* powered off */
    uint64_t isolated_until_ns; /* nobody reaches it, but it runs on, and so does its store */
    bool is_forgetful;          /* its agent came up without knowing its VMs */
    bool is_unheard[VMS];       /* of this one it does not know what it is */
    bool is_old;                /* its agent is of before stops that end starts */
    unsigned boot;
    struct process processes[VMS];
    struct replica replicas[VMS];
    struct twin twins[TWINS];
};

enum total {
    TOTAL_FAULTS = 4,
    TOTAL_HOST_DEATHS,
    TOTAL_ISOLATIONS,
    TOTAL_FENCES,
    TOTAL_EVICTIONS,
    TOTAL_RESTARTS,
    TOTAL_QUARANTINES,
    TOTAL_PLANS_DONE,
    TOTAL_PLANS_PARTLY,
    TOTAL_PLAN_MOVES,
    TOTAL_PLAN_AGAIN,
    TOTAL_STAMPS,
    TOTAL_STAMPS_REFUSED,
    TOTAL_TAKES,
    TOTAL_TAKES_REFUSED,
    TOTAL_FINISHES,
    TOTAL_COPIES,
    TOTAL_COPIES_RUN,
    TOTAL_COUNT
};

struct call { /* an order on its way, or its answer */
    bool is_used, is_open, is_unsent;
    bool at_agent, answered; /* the agent has it; its answer travels */
    struct cluster_order order;
    char incarnation[ID_TEXT_SIZE];
    uint64_t sent_ns;
    int err; /* of the answer, 0: status */
    Godwit__VmState state;
    uint64_t generation, latch_generation;
    Godwit__Latch latch;
    char move_id[ID_TEXT_SIZE];
    bool has_status;
    bool finished;  /* of dr's */
    bool confirmed; /* of HA's orders */
    uint64_t storage_age_ms;
    struct l expected; /* of a start and a move in */
};

struct commit {
    struct store_batch *batch;
    struct cluster_todo todo;
};

struct over { /* a step of a plan that was durably over */
    char plan_id[ID_SHORT_SIZE];
    uint32_t number;
    enum plan_step_state state;
};

static struct sim {
    uint64_t seed, chance;
    uint64_t now_ns;
    bool traces, heals;
    bool resumes_by_itself, journal_tells, plans; /* options of this run */
    unsigned fault_percent, death_per_mille;
    struct cluster cluster;
    struct store *store;
    uint64_t last_event;
    struct host hosts[HOSTS];
    struct call calls[CALLS_MAX];
    struct call strays[STRAYS_MAX]; /* doubles that arrive whenever, to no one's knowledge */
    struct commit commits[COMMITS_MAX];
    size_t commit_count;
    char vm_ids[VMS][ID_TEXT_SIZE];
    uint64_t hiwater[VMS];
    bool has_disk[VMS];
    struct l l[VMS];
    int8_t ran[VMS][GENERATIONS_MAX]; /* host + 1 that has run this generation */
    struct over overs[OVERS_MAX];
    size_t over_count;
    uint64_t plans_done, plans_partly, plan_moves, plan_again;
    uint64_t moves_done, moves_back, moves_resumed, lost, crashes, next_id;
    bool has_ha, has_store, has_dr;
    bool tests_replicas;
    uint64_t takes, takes_refused, finishes, copies, copies_run;
    uint64_t hash; /* of all that happened */
    uint64_t faults, host_deaths, isolations, fences, evictions, restarts, quarantines;
    uint64_t stamps, stamps_refused;
} sim;

/* ---- chance -----------------------------------------------------------------------------------
 */

static uint64_t draw(uint64_t below)
{
    sim.chance ^= sim.chance << 13;
    sim.chance ^= sim.chance >> 7;
    sim.chance ^= sim.chance << 17;
    return (sim.chance * UINT64_C(0x2545F4914F6CDD1D) >> 33) % below;
}

static bool percent(unsigned n)
{
    return draw(100) < n;
}

static void log_event(uint64_t what, uint64_t which)
{
    uint64_t words[] = {sim.now_ns, what, which};
    for (size_t i = 0; i < ARRAY_COUNT(words); i++)
        sim.hash = (sim.hash ^ words[i]) * UINT64_C(0x100000001B3) + (sim.hash >> 29);
}

static bool fault_happens(unsigned per_mille)
{
    bool happens = !sim.heals && draw(1000) < (uint64_t)per_mille * sim.fault_percent / 100;
    sim.faults += happens;
    if (happens)
        log_event(1, per_mille);
    return happens;
}

#define TRACE(...)                                                                                 \
    do {                                                                                           \
        if (sim.traces) {                                                                          \
            (void)fprintf(stderr, "%8.3f ", (double)sim.now_ns / 1e9);                             \
            (void)fprintf(stderr, __VA_ARGS__);                                                    \
            (void)fputc('\n', stderr);                                                             \
        }                                                                                          \
    } while (0)

#define CHECK(claim, ...)                                                                          \
    do {                                                                                           \
        if (!(claim)) {                                                                            \
            if (is_child)                                                                          \
                _exit(3);                                                                          \
            (void)fprintf(stderr, "GODWIT_SIM_SEED=%llu: ", (unsigned long long)sim.seed);         \
            (void)fprintf(stderr, __VA_ARGS__);                                                    \
            fail_msg(" (%s)", #claim);                                                             \
        }                                                                                          \
    } while (0)

static struct cluster_now now(void)
{
    return (struct cluster_now){.ns = sim.now_ns, .unix_ms = sim.now_ns / NS_PER_MS};
}

static int host_index(const char *name)
{
    for (int i = 0; i < HOSTS; i++) {
        if (strcmp(host_names[i], name) == 0)
            return i;
    }
    return -1;
}

static int vm_index(const char *id)
{
    for (int i = 0; i < VMS; i++) {
        if (strcmp(sim.vm_ids[i], id) == 0)
            return i;
    }
    return -1;
}

static void incarnation_of(int host, char ret_text[static ID_TEXT_SIZE])
{
    (void)snprintf(ret_text, ID_TEXT_SIZE, "boot-%d-%u", host, sim.hosts[host].boot);
}

static bool is_dead(int h)
{
    return !sim.heals && sim.now_ns < sim.hosts[h].dead_until_ns;
}

static bool is_isolated(int h)
{
    return !sim.heals && sim.now_ns < sim.hosts[h].isolated_until_ns;
}

/* Could the coordinator's words arrive? */
static bool hears(int h)
{
    return !is_dead(h) && !is_isolated(h) && (sim.heals || sim.now_ns > sim.hosts[h].away_until_ns);
}

/* ---- the world --------------------------------------------------------------------------------
 */

static bool runs(const struct process *process)
{
    return process->exists && process->state == GODWIT__VM_STATE__VM_STATE_RUNNING &&
           !process->paused_by_move;
}

static void check_world(void)
{
    for (int v = 0; v < VMS; v++) {
        int running = -1;
        for (int h = 0; h < HOSTS; h++) {
            const struct process *process = &sim.hosts[h].processes[v];
            if (!runs(process))
                continue;
            CHECK(running < 0, "vm %d runs on %s and on %s", v, host_names[running], host_names[h]);
            running = h;
            CHECK(!sim.has_disk[v] || process->disks_wait ||
                      (sim.l[v].generation == process->generation && sim.l[v].host == h),
                  "vm %d writes its disk on %s as %llu, but L is %llu of %s", v, host_names[h],
                  (unsigned long long)process->generation, (unsigned long long)sim.l[v].generation,
                  host_names[sim.l[v].host]);
            CHECK(process->generation < GENERATIONS_MAX, "generations run out");
            int8_t *ran = &sim.ran[v][process->generation];
            CHECK(*ran == 0 || *ran == h + 1, "generation %llu of vm %d ran on %s, now on %s",
                  (unsigned long long)process->generation, v, host_names[*ran - 1], host_names[h]);
            *ran = (int8_t)(h + 1);
        }
    }
}

/* What is durable may be behind the world, never ahead of it. */
static void check_record(void)
{
    for (int v = 0; v < VMS; v++) {
        const struct cluster_vm *vm = cluster_vm(&sim.cluster, sim.vm_ids[v]);
        if (!vm || sim.commit_count > 0)
            continue; /* memory is ahead of the disk just now */
        CHECK(vm->own.hiwater >= sim.hiwater[v], "hiwater of vm %d shrank", v);
        sim.hiwater[v] = vm->own.hiwater;
        if (vm->own.phase == OWN_RUN)
            CHECK(sim.ran[v][vm->own.gen] == host_index(vm->own.owner) + 1,
                  "the record of vm %d says RUN(%s, %llu), which never ran", v, vm->own.owner,
                  (unsigned long long)vm->own.gen);
    }
}

/* Only what is durable counts: memory may run ahead of the disk and be lost. */
static void check_plans(void)
{
    for (size_t i = 0; sim.commit_count == 0 && i < sim.over_count; i++) {
        const struct over *over = &sim.overs[i];
        const struct cluster_plan *plan = NULL;
        for (size_t n = 0; n < sim.cluster.plan_count; n++) {
            if (strcmp(sim.cluster.plans[n]->id, over->plan_id) == 0)
                plan = sim.cluster.plans[n];
        }
        if (plan) /* else it was dropped for newer ones */
            CHECK(plan_step_state_of(plan->info->steps[over->number - 1]) == over->state,
                  "step %u of plan %s was over, now it is %s", over->number, plan->id,
                  plan->info->steps[over->number - 1]->state);
    }
    sim.over_count = 0;
    for (size_t i = 0; sim.commit_count == 0 && i < sim.cluster.plan_count; i++) {
        const struct cluster_plan *plan = sim.cluster.plans[i];
        for (size_t n = 0; n < plan->info->n_steps && sim.over_count < OVERS_MAX; n++) {
            enum plan_step_state state = plan_step_state_of(plan->info->steps[n]);
            if (state == STEP_WAITING || state == STEP_RUNNING)
                continue;
            struct over *over = &sim.overs[sim.over_count++];
            *over = (struct over){.number = (uint32_t)n + 1, .state = state};
            memcpy(over->plan_id, plan->id, sizeof over->plan_id);
        }
    }
}

/* Has an earlier move of this plan ended at `host` without this VM? */
static bool plan_failed_at(const struct cluster_job *job, const char *host)
{
    for (size_t i = 0; i < sim.cluster.job_count; i++) {
        const struct cluster_job *older = sim.cluster.jobs[i];
        if (older != job && strcmp(older->plan_id, job->plan_id) == 0 &&
            strcmp(older->core.vm_id, job->core.vm_id) == 0 && older->core.state != JOB_DONE &&
            strcmp(older->core.target_host, host) == 0)
            return true;
    }
    return false;
}

static bool may_take(const struct cluster_host *host, const struct cluster_vm *vm)
{
    if (!host->link_up || cluster_host_state(host, sim.now_ns) == HOST_DOWN ||
        rule_host_is_cordoned(host) || !ha_core_may_run(&host->ha) ||
        strcmp(vm->own.owner, host->name) == 0)
        return false;
    if (vm->dr && !dr_step_is(vm->dr, "away") && strcmp(vm->dr->info->target, host->name) == 0)
        return false; /* its replica is there */
    for (size_t v = 0; sim.cluster.rule_count > 0 && v < sim.cluster.vm_count; v++) {
        const struct cluster_vm *other = sim.cluster.vms[v];
        if (other != vm && other->own.phase != OWN_STOPPED &&
            (strcmp(other->own.owner, host->name) == 0 ||
             strcmp(other->own.target, host->name) == 0))
            return false;
    }
    return true;
}

/* Where it failed it goes again only when nothing else would take it. */
static void check_target_again(const struct cluster_job *job, const struct cluster_vm *vm)
{
    const struct cluster_plan *plan = NULL;
    for (size_t i = 0; i < sim.cluster.plan_count; i++) {
        if (strcmp(sim.cluster.plans[i]->id, job->plan_id) == 0)
            plan = sim.cluster.plans[i];
    }
    if (!plan || plan->info->exact || strcmp(plan->info->kind, "restore") == 0 ||
        !plan_failed_at(job, job->core.target_host))
        return;
    sim.plan_again++;
    for (size_t h = 0; h < sim.cluster.host_count; h++) {
        const struct cluster_host *host = sim.cluster.hosts[h];
        CHECK(plan_failed_at(job, host->name) || !may_take(host, vm),
              "plan %s moves a VM to %s again, where it failed, and not to %s", job->plan_id,
              job->core.target_host, host->name);
    }
}

/* A plan's move was just decided: judged by the records alone, not by the planner. */
static void check_plan_move(const struct cluster_job *job)
{
    const struct cluster_vm *vm = cluster_vm(&sim.cluster, job->core.vm_id);
    const struct cluster_host *target = cluster_host(&sim.cluster, job->core.target_host);
    if (!job->plan_id[0] || !vm)
        return;
    sim.plan_moves++;
    check_target_again(job, vm);
    CHECK(!rule_host_is_cordoned(target), "plan %s moves a VM to cordoned %s", job->plan_id,
          target->name);
    for (size_t r = 0; r < sim.cluster.rule_count; r++) {
        for (size_t v = 0; v < sim.cluster.vm_count; v++) {
            const struct cluster_vm *other = sim.cluster.vms[v];
            bool is_there = other != vm && other->own.phase != OWN_STOPPED &&
                            (strcmp(other->own.owner, target->name) == 0 ||
                             strcmp(other->own.target, target->name) == 0);
            CHECK(!is_there, "plan %s moves a VM to %s, where a rule's other member is",
                  job->plan_id, target->name);
        }
    }
}

static struct process *peer_of(int v, const struct process *process)
{
    for (int h = 0; h < HOSTS; h++) {
        struct process *other = &sim.hosts[h].processes[v];
        if (other != process && other->exists && other->move_id[0] && !is_isolated(h) &&
            strcmp(other->move_id, process->move_id) == 0)
            return other;
    }
    return NULL;
}

static void end_process(struct process *process)
{
    process->exists = false;
    process->state = GODWIT__VM_STATE__VM_STATE_GONE;
    process->paused_by_move = process->finished = false;
    process->out_id[0] = '\0';
    process->slow_generation = 0;
}

/* ---- what agents tell -------------------------------------------------------------------------
 */

static void apply(struct cluster_todo *todo);

struct told { /* a VmStatus and what it points to */
    Godwit__VmStatus status;
    Godwit__MoveLatch latch;
};

static void fill_status(int v, const struct process *process, struct told *told)
{
    godwit__vm_status__init(&told->status);
    godwit__move_latch__init(&told->latch);
    told->status.vm_id = sim.vm_ids[v];
    told->status.has_state = told->status.has_generation = true;
    told->status.state = process->exists ? process->state : GODWIT__VM_STATE__VM_STATE_GONE;
    told->status.generation = process->generation;
    if (process->latch) {
        told->latch.move_id = (char *)(uintptr_t)process->move_id;
        told->latch.has_latch = told->latch.has_generation = true;
        told->latch.latch = process->latch;
        told->latch.generation = process->latch_generation;
        told->status.latch = &told->latch;
    }
}

static void tell_move(int h, int v, bool ended)
{
    struct process *process = &sim.hosts[h].processes[v];
    struct cluster_host *host = cluster_host(&sim.cluster, host_names[h]);
    if (!sim.hosts[h].connected || !host || (!sim.heals && percent(10)))
        return;
    bool at_target = process->latch >= GODWIT__LATCH__LATCH_IN;
    Godwit__MoveEvent event = GODWIT__MOVE_EVENT__INIT;
    Godwit__MoveProgress progress = GODWIT__MOVE_PROGRESS__INIT;
    Godwit__MoveReceipt receipt = GODWIT__MOVE_RECEIPT__INIT;
    event.vm_id = sim.vm_ids[v];
    event.move_id = process->move_id;
    event.has_at_target = event.has_latch = event.has_ended = true;
    event.at_target = at_target;
    event.latch = process->latch;
    event.ended = ended;
    if (ended && !at_target)
        event.receipt = &receipt;
    progress.has_phase = process->parked_told;
    progress.phase = GODWIT__MOVE_PHASE__MOVE_PHASE_PARKED;
    event.progress = &progress;
    for (int times = percent(10) ? 2 : 1; times > 0; times--) {
        struct cluster_todo todo = {0};
        cluster_move_event(&sim.cluster, host, &event, now(), &todo);
        apply(&todo);
    }
}

static void tell_vm(int h, int v)
{
    struct cluster_host *host = cluster_host(&sim.cluster, host_names[h]);
    struct told told;
    struct cluster_todo todo = {0};
    if (!sim.hosts[h].connected || !host)
        return;
    fill_status(v, &sim.hosts[h].processes[v], &told);
    if (sim.hosts[h].is_unheard[v])
        cluster_vm_first_word(&sim.cluster, host, &told.status, now(), &todo);
    else
        cluster_vm_event(&sim.cluster, host, &told.status, now(), &todo);
    sim.hosts[h].is_unheard[v] = false;
    apply(&todo);
}

static void tell_replicas(int h)
{
    Godwit__ReplicaStatus statuses[VMS], *list[VMS];
    Godwit__AgentReplicas told = GODWIT__AGENT_REPLICAS__INIT;
    struct cluster_host *host = cluster_host(&sim.cluster, host_names[h]);
    struct cluster_todo todo = {0};
    for (int v = 0; v < VMS; v++) {
        const struct replica *replica = &sim.hosts[h].replicas[v];
        Godwit__ReplicaStatus *status = &statuses[told.n_replicas];
        if (!replica->exists)
            continue;
        godwit__replica_status__init(status);
        status->vm_id = sim.vm_ids[v];
        status->protection_id = (char *)(uintptr_t)replica->id;
        status->state = (char *)(uintptr_t)(replica->holds ? "holding" : "waiting");
        list[told.n_replicas++] = status;
    }
    told.replicas = list;
    dr_replicas_told(&sim.cluster, host, &told, now(), &todo);
    apply(&todo);
}

static void tell_protect(int h, int v)
{
    Godwit__ProtectStatus status = GODWIT__PROTECT_STATUS__INIT;
    Godwit__CheckpointId held = GODWIT__CHECKPOINT_ID__INIT;
    const struct process *process = &sim.hosts[h].processes[v];
    struct cluster_todo todo = {0};
    status.vm_id = sim.vm_ids[v];
    status.protection_id = (char *)(uintptr_t)process->out_id;
    status.has_generation = status.has_is_linked = true;
    status.generation = process->generation;
    status.is_linked = true;
    status.has_finished = status.finished = process->finished;
    held.has_seq = true;
    held.seq = 1;
    status.held = &held;
    dr_protect_told(&sim.cluster, cluster_host(&sim.cluster, host_names[h]), &status, now(), &todo);
    apply(&todo);
}

static struct twin *find_twin(int h, const char *id)
{
    for (size_t i = 0; i < TWINS; i++) {
        struct twin *twin = &sim.hosts[h].twins[i];
        if (twin->exists && strcmp(twin->id, id) == 0)
            return twin;
    }
    return NULL;
}

static void fill_twin(const struct twin *twin, Godwit__VmStatus *status)
{
    godwit__vm_status__init(status);
    status->vm_id = (char *)(uintptr_t)twin->id;
    status->has_state = status->has_generation = true;
    status->state = twin->runs ? GODWIT__VM_STATE__VM_STATE_RUNNING
                               : GODWIT__VM_STATE__VM_STATE_SUSPENDED;
    status->generation = twin->generation;
    status->suspend_nonce = twin->runs ? NULL : (char *)(uintptr_t) "rests";
}

/* It ends what was superseded, then takes a new life; it says hello again later. */
static void be_quarantined(int h, Godwit__VmStatus *const *list, size_t count)
{
    const struct cluster_host *host = cluster_host(&sim.cluster, host_names[h]);
    sim.quarantines++;
    for (size_t i = 0; i < count; i++) {
        if (!cluster_ha_superseded(&sim.cluster, host, list[i]))
            continue;
        if (vm_index(list[i]->vm_id) >= 0)
            end_process(&sim.hosts[h].processes[vm_index(list[i]->vm_id)]);
        else
            find_twin(h, list[i]->vm_id)->exists = false;
    }
    sim.hosts[h].boot++;
}

static void unheard_speak(void)
{
    for (int h = 0; h < HOSTS; h++) {
        for (int v = 0; v < VMS; v++) {
            if (sim.hosts[h].is_unheard[v] && hears(h) && percent(5))
                tell_vm(h, v);
        }
    }
}

static void say_hello(int h)
{
    Godwit__BaselineFact baseline = GODWIT__BASELINE_FACT__INIT;
    Godwit__BaselineFact *baselines[] = {&baseline};
    Godwit__HostFacts facts = GODWIT__HOST_FACTS__INIT;
    Godwit__AgentHello hello = GODWIT__AGENT_HELLO__INIT;
    struct told told[VMS];
    Godwit__VmStatus twins[TWINS], *list[VMS + TWINS];
    char incarnation[ID_TEXT_SIZE];
    baseline.name = (char *)(uintptr_t) "x86-64-v1";
    baseline.has_given = baseline.given = true;
    incarnation_of(h, incarnation);
    facts.name = (char *)(uintptr_t)host_names[h];
    facts.incarnation = incarnation;
    facts.has_kvm = facts.kvm = true;
    facts.has_memory_free_bytes = true;
    facts.memory_free_bytes = GIB(64);
    facts.has_memory_bytes = facts.has_cpus = true;
    hello.has_ends_starts = true;
    hello.ends_starts = !sim.hosts[h].is_old;
    facts.memory_bytes = GIB(64);
    facts.cpus = 8;
    facts.baselines = baselines;
    facts.n_baselines = 1;
    hello.facts = &facts;
    hello.vms = list;
    for (int v = 0; v < VMS; v++) {
        const struct process *process = &sim.hosts[h].processes[v];
        if (!process->exists && !(sim.journal_tells && process->latch))
            continue;
        if (mutation == MUTATION_HELLO_FORGETS && sim.hosts[h].is_forgetful)
            continue;
        fill_status(v, process, &told[v]);
        sim.hosts[h].is_unheard[v] = process->exists && percent(15);
        if (sim.hosts[h].is_unheard[v]) {
            godwit__vm_status__init(&told[v].status);
            told[v].status.vm_id = sim.vm_ids[v];
        }
        list[hello.n_vms++] = &told[v].status;
    }
    for (size_t i = 0; i < TWINS; i++) {
        if (!sim.hosts[h].twins[i].exists)
            continue;
        fill_twin(&sim.hosts[h].twins[i], &twins[i]);
        list[hello.n_vms++] = &twins[i];
    }
    facts.heartbeat_store = sim.has_store ? (char *)(uintptr_t) "store" : NULL;
    log_event(2, (uint64_t)h);
    struct cluster_todo todo = {0};
    struct cluster_host *known = cluster_host(&sim.cluster, host_names[h]);
    if (!cluster_ha_hello(&sim.cluster, known, &hello, now(), &todo)) {
        TRACE("%s is quarantined", host_names[h]);
        be_quarantined(h, list, hello.n_vms);
        apply(&todo);
        return;
    }
    TRACE("%s says hello", host_names[h]);
    sim.hosts[h].connected = true;
    sim.hosts[h].is_forgetful = false;
    cluster_hello(&sim.cluster, cluster_host(&sim.cluster, host_names[h]), &hello, now(), &todo);
    apply(&todo);
    tell_replicas(h);
}

/* ---- agents carry out -------------------------------------------------------------------------
 */

/* An exact compare-and-swap, as storage/stamp makes it. */
static bool take_l(int v, const struct l *expected, const struct l *wanted)
{
    const struct l *found = &sim.l[v];
    bool is_ours = found->generation == wanted->generation && found->host == wanted->host;
    bool is_expected = found->generation == expected->generation &&
                       (found->generation == 0 ||
                        (found->host == expected->host && found->boot == expected->boot));
    bool swaps = is_expected && wanted->generation > found->generation;
    if (!is_ours && !swaps) {
        sim.stamps_refused++;
        return false;
    }
    sim.l[v] = *wanted;
    sim.stamps++;
    return true;
}

static struct l wanted_l(int h, uint64_t generation)
{
    return (struct l){.generation = generation, .host = h, .boot = sim.hosts[h].boot};
}

/* L is this host's, of what the process holds or of an earlier resume that did not reach it. */
static bool resume_l(int h, int v, uint64_t held, uint64_t generation)
{
    const struct l found = sim.l[v], wanted = wanted_l(h, generation);
    bool is_ours =
        found.host == h &&
        (found.generation == held || (found.generation > held && found.boot == sim.hosts[h].boot));
    return take_l(v, is_ours ? &found : &(struct l){held, h, sim.hosts[h].boot}, &wanted);
}

/* A start that cannot go on from here; the agent keeps the generation, for the order may have been
 * said twice and the coordinator goes by the refusal. */
static int refuse_start(struct process *process, const struct call *call, uint64_t seen, int err)
{
    bool keeps = mutation != MUTATION_REFUSAL_FORGOTTEN && call->order.generation > seen;
    process->seen = keeps ? call->order.generation : seen;
    return err;
}

enum { PENDING = 1 }; /* no answer yet */

static void step_starts(void)
{
    for (int h = 0; h < HOSTS; h++) {
        for (int v = 0; v < VMS; v++) {
            struct process *process = &sim.hosts[h].processes[v];
            uint64_t generation = process->slow_generation;
            if (!generation || sim.now_ns < process->slow_until_ns || is_dead(h))
                continue;
            process->slow_generation = 0;
            process->seen = generation;
            if (fault_happens(200)) /* it ends as one that failed, and is refused from then on */
                continue;
            *process = (struct process){.exists = true,
                                        .seen = generation,
                                        .generation = generation,
                                        .state = GODWIT__VM_STATE__VM_STATE_RUNNING};
            TRACE("%s has started vm %d as %llu", host_names[h], v, (unsigned long long)generation);
            tell_vm(h, v);
        }
    }
}

static int agent_start(struct process *process, const struct call *call)
{
    char incarnation[ID_TEXT_SIZE];
    int h = host_index(call->order.host), v = vm_index(call->order.vm_id);
    incarnation_of(h, incarnation);
    if (process->exists && process->generation == call->order.generation)
        return 0;
    if (strcmp(incarnation, call->incarnation) != 0 && mutation != MUTATION_NO_INCARNATION)
        return ERR_DENIED;
    if (process->exists ||
        (call->order.generation <= process->seen && mutation != MUTATION_OLD_GENERATION &&
         mutation != MUTATION_NO_INCARNATION))
        return refuse_start(process, call, process->seen, ERR_STATE);
    if (process->slow_generation)
        return process->slow_generation == call->order.generation ? PENDING : ERR_BUSY;
    const struct l wanted = wanted_l(h, call->order.generation);
    if (sim.has_disk[v] && !take_l(v, &call->expected, &wanted))
        return refuse_start(process, call, process->seen, ERR_REFUSED);
    if (fault_happens(mutation == MUTATION_REFUSAL_FORGOTTEN ? 300 : 50))
        return refuse_start(process, call, process->seen, ERR_IO);
    if (!sim.has_disk[v] && fault_happens(mutation == MUTATION_SLOW_REFUSED ? 200 : 60)) {
        process->slow_generation = call->order.generation;
        process->slow_until_ns = sim.now_ns + draw(8) * NS_PER_S;
        TRACE("%s is at it for long", host_names[h]);
        return mutation == MUTATION_SLOW_REFUSED ? ERR_IO : PENDING;
    }
    uint64_t seen = call->order.generation;
    *process = (struct process){.exists = true,
                                .seen = seen,
                                .generation = seen,
                                .state = GODWIT__VM_STATE__VM_STATE_RUNNING};
    return 0;
}

static int agent_move_in(struct process *process, const struct call *call)
{
    if (process->exists && process->latch_generation == call->order.generation)
        return 0;
    if (process->exists || call->order.generation <= process->seen)
        return ERR_STATE;
    if (process->slow_generation)
        return ERR_BUSY;
    int v = vm_index(call->order.vm_id);
    if (sim.has_disk[v] && memcmp(&sim.l[v], &call->expected, sizeof sim.l[v]) != 0)
        return ERR_REFUSED; /* the record does not know whose the disks are */
    process->seen = call->order.generation;
    if (fault_happens(50))
        return ERR_NOMEM;
    uint64_t seen = process->seen;
    *process = (struct process){.exists = true,
                                .seen = seen,
                                .latch_generation = seen,
                                .latch = GODWIT__LATCH__LATCH_IN,
                                .expected = call->expected,
                                .state = GODWIT__VM_STATE__VM_STATE_INCOMING};
    (void)snprintf(process->move_id, sizeof process->move_id, "%s", call->order.move_id);
    return 0;
}

static int agent_move_out(struct process *process, const struct call *call)
{
    if (!process->exists)
        return ERR_NOT_FOUND;
    if (process->latch_generation == call->order.generation)
        return 0;
    if (call->order.generation <= process->seen ||
        process->state != GODWIT__VM_STATE__VM_STATE_RUNNING)
        return ERR_STATE;
    process->seen = call->order.generation;
    if (fault_happens(50))
        return ERR_UNREACHABLE;
    process->latch = GODWIT__LATCH__LATCH_OUT;
    process->latch_generation = call->order.generation;
    process->lane_cut = process->parked_told = false;
    process->out_id[0] = '\0'; /* its pages are the move's now */
    process->got_ready = process->got_started = process->got_abandoned = false;
    (void)snprintf(process->move_id, sizeof process->move_id, "%s", call->order.move_id);
    return 0;
}

static int agent_verdict(struct process *process, const struct cluster_order *order)
{
    int h = host_index(order->host), v = vm_index(order->vm_id);
    if (strcmp(process->move_id, order->move_id) != 0)
        return 0; /* it does not know that move: its status says so */
    switch (order->verdict) {
    case GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_CANCEL:
        if (process->latch == GODWIT__LATCH__LATCH_ABORTED)
            return 0;
        if (mutation == MUTATION_CANCEL_AFTER_GAVE && process->latch == GODWIT__LATCH__LATCH_GAVE) {
            process->latch = GODWIT__LATCH__LATCH_ABORTED;
            process->state = GODWIT__VM_STATE__VM_STATE_RUNNING;
            process->paused_by_move = false;
            return 0;
        }
        if (process->latch != GODWIT__LATCH__LATCH_OUT)
            return ERR_STATE;
        process->latch = GODWIT__LATCH__LATCH_ABORTED;
        process->paused_by_move = false;
        return 0;
    case GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_TAKE:
        if (process->latch == GODWIT__LATCH__LATCH_TOOK)
            return 0;
        if (process->latch != GODWIT__LATCH__LATCH_READY)
            return ERR_STATE;
        process->latch = GODWIT__LATCH__LATCH_TOOK;
        process->generation = process->latch_generation;
        process->state = GODWIT__VM_STATE__VM_STATE_RUNNING;
        process->disks_wait = mutation != MUTATION_TAKE_UNSTAMPED;
        return 0;
    case GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_STARTED:
    case GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_DROP:
        if (process->latch != GODWIT__LATCH__LATCH_GAVE ||
            process->state != GODWIT__VM_STATE__VM_STATE_HELD)
            return ERR_STATE;
        if (mutation == MUTATION_STARTED_RESUMES) {
            process->state = GODWIT__VM_STATE__VM_STATE_RUNNING;
            process->paused_by_move = false;
            return 0;
        }
        process->latch = GODWIT__LATCH__LATCH_RELEASED;
        end_process(process);
        return 0;
    case GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_ABANDON:
        if (process->latch == GODWIT__LATCH__LATCH_TOOK)
            return ERR_STATE;
        process->latch = GODWIT__LATCH__LATCH_ABANDONED;
        end_process(process);
        return 0;
    case GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_RESUME:
        if (process->state == GODWIT__VM_STATE__VM_STATE_RUNNING)
            return process->generation == order->generation ? 0 : ERR_STATE;
        if (process->latch != GODWIT__LATCH__LATCH_GAVE ||
            process->state != GODWIT__VM_STATE__VM_STATE_HELD || order->generation <= process->seen)
            return ERR_STATE;
        if (sim.has_disk[v] && mutation != MUTATION_RESUME_UNSTAMPED &&
            !resume_l(h, v, process->generation, order->generation))
            return ERR_SUPERSEDED;
        process->seen = process->generation = order->generation;
        process->state = GODWIT__VM_STATE__VM_STATE_RUNNING;
        process->paused_by_move = false;
        return 0;
    case _GODWIT__MOVE_VERDICT_KIND_IS_INT_SIZE:
        break;
    }
    return ERR_INVALID;
}

/* ---- both ends of a replica ---- */
static struct replica *replica_of(int v, const char *id)
{
    for (int h = 0; h < HOSTS; h++) {
        struct replica *replica = &sim.hosts[h].replicas[v];
        if (id[0] && replica->exists && strcmp(replica->id, id) == 0 && !is_isolated(h) &&
            !is_dead(h))
            return replica;
    }
    return NULL;
}

static int agent_replica_in(struct replica *replica, const struct process *process,
                            const struct call *call)
{
    if (process->exists)
        return ERR_STATE;
    if (fault_happens(50))
        return ERR_NOMEM;
    if (replica->exists && strcmp(replica->id, call->order.move_id) != 0)
        return ERR_EXISTS; /* another protection's: that one is dropped first */
    if (!replica->exists)
        *replica = (struct replica){.exists = true};
    (void)snprintf(replica->id, sizeof replica->id, "%s", call->order.move_id);
    return 0;
}

static int agent_protect(struct process *process, const struct call *call)
{
    if (!runs(process) || process->generation != call->order.generation ||
        process->latch == GODWIT__LATCH__LATCH_OUT)
        return ERR_STATE;
    (void)snprintf(process->out_id, sizeof process->out_id, "%s", call->order.move_id);
    return 0;
}

static int agent_finish(int v, struct process *process, const struct call *call)
{
    struct replica *replica = replica_of(v, call->order.move_id);
    if (!process->exists || strcmp(process->out_id, call->order.move_id) != 0)
        return ERR_NOT_FOUND;
    if (process->finished)
        return 0;
    if (!replica || fault_happens(200))
        return ERR_TIMEOUT; /* the guest runs on */
    replica->holds = process->finished = true;
    sim.finishes++;
    if (mutation == MUTATION_REPLICA_RUNS) {
        struct process *taken = NULL;
        for (int h = 0; h < HOSTS; h++)
            taken = replica == &sim.hosts[h].replicas[v] ? &sim.hosts[h].processes[v] : taken;
        taken->exists = true;
        taken->generation = process->generation + 1;
        taken->state = GODWIT__VM_STATE__VM_STATE_RUNNING;
    }
    return 0;
}

static int agent_take(struct process *process, struct replica *replica, const struct call *call)
{
    char incarnation[ID_TEXT_SIZE];
    uint64_t generation = call->order.generation, seen = process->seen;
    bool errs = mutation == MUTATION_TAKE_FORGOTTEN; /* then there is much to forget */
    incarnation_of(host_index(call->order.host), incarnation);
    if (process->exists && process->generation == generation)
        return 0;
    if (strcmp(incarnation, call->incarnation) != 0)
        return ERR_DENIED;
    if (fault_happens(200)) /* it was restarted, and does not know yet what it has done */
        return ERR_BUSY;
    bool is_refused = process->exists || generation <= seen || !replica->exists ||
                      !replica->holds || strcmp(replica->id, call->order.move_id) != 0 ||
                      (errs ? !sim.heals && percent(50) : fault_happens(200));
    if (is_refused) {
        bool keeps = !errs && generation > seen;
        process->seen = keeps ? generation : seen;
        sim.takes_refused++;
        return ERR_REFUSED;
    }
    *process = (struct process){.exists = true,
                                .seen = generation,
                                .generation = generation,
                                .state = GODWIT__VM_STATE__VM_STATE_RUNNING};
    replica->exists = replica->holds = false;
    sim.takes++;
    return fault_happens(200) ? ERR_BUSY : 0; /* done, and restarted before it could say so */
}

/* Its link carries a checkpoint; a break of it costs nothing that is held. */
static void step_replica(void)
{
    int h = (int)draw(HOSTS), v = (int)draw(VMS);
    struct process *process = &sim.hosts[h].processes[v];
    if (!process->out_id[0] || !process->exists || is_dead(h) || is_isolated(h))
        return;
    struct replica *replica = replica_of(v, process->out_id);
    if (replica && !process->finished)
        replica->holds = true;
    if (replica && sim.hosts[h].connected)
        tell_protect(h, v);
    if (fault_happens(10) && replica)
        *replica = (struct replica){0}; /* its process dies */
    int t = (int)draw(HOSTS);
    if (sim.hosts[t].connected && !is_isolated(t) && !is_dead(t))
        tell_replicas(t);
}

static void end_twins(int h)
{
    for (size_t i = 0; i < TWINS; i++) /* what rests in a file survives */
        sim.hosts[h].twins[i].exists =
            sim.hosts[h].twins[i].exists && !sim.hosts[h].twins[i].runs;
}

static void power_off(int h)
{
    memset(sim.hosts[h].replicas, 0, sizeof sim.hosts[h].replicas);
    end_twins(h);
    for (int v = 0; v < VMS; v++) {
        end_process(&sim.hosts[h].processes[v]);
        sim.hosts[h].processes[v].latch = GODWIT__LATCH__LATCH_NONE;
        if (mutation == MUTATION_REBOOT_SAME_LIFE)
            sim.hosts[h].processes[v].seen = 0;
    }
    if (mutation != MUTATION_REBOOT_SAME_LIFE)
        sim.hosts[h].boot++;
}

static void handle_fence(struct call *call, int about)
{
    call->confirmed = !fault_happens(150);
    if (!call->confirmed || mutation == MUTATION_FENCE_LIES)
        return;
    sim.fences++;
    TRACE("%s is switched off", host_names[about]);
    power_off(about);
    sim.hosts[about].dead_until_ns = sim.now_ns + (1 + draw(20)) * NS_PER_S;
}

static void handle_evict(struct call *call, int about)
{
    char life[ID_TEXT_SIZE];
    incarnation_of(about, life);
    bool is_meant = strcmp(life, call->order.incarnation) == 0;
    call->confirmed = sim.has_store && is_meant && !is_dead(about) && !fault_happens(150);
    if (!call->confirmed)
        return;
    sim.evictions++;
    TRACE("%s is evicted", host_names[about]);
    for (int v = 0; v < VMS && mutation != MUTATION_EVICT_LIES; v++)
        end_process(&sim.hosts[about].processes[v]);
    end_twins(about);
    sim.hosts[about].boot++;
    sim.hosts[about].connected = false;
}

/* Orders about a host: its state answers for it. */
static void handle_ha(struct call *call)
{
    int about = host_index(call->order.about);
    call->answered = true;
    call->storage_age_ms = UINT64_MAX;
    log_event(3, (uint64_t)call->order.kind);
    if (call->order.kind == ORDER_FENCE) {
        handle_fence(call, about);
    } else if (call->order.kind == ORDER_EVICT) {
        handle_evict(call, about);
    } else {
        call->confirmed = !is_dead(about) && !is_isolated(about);
        if (sim.has_store && !is_dead(about))
            call->storage_age_ms = draw(2000);
    }
    TRACE("order %d about %s: %s", (int)call->order.kind, host_names[about],
          call->confirmed ? "yes" : "no");
}

/* ---- copies of tests -------------------------------------------------------------------------- */

/* One that comes when its test is on already is of a line that is no more: never read. */
static int make_twin(int h, const struct call *call)
{
    const struct cluster_vm *vm = cluster_vm(&sim.cluster, call->order.vm_id);
    const Godwit__DrTest *test = vm && vm->dr ? vm->dr->info->test : NULL;
    const struct replica *replica = &sim.hosts[h].replicas[vm_index(call->order.vm_id)];
    struct twin *twin = NULL;
    if (!test || strcmp(test->nonce, call->order.nonce) != 0 || strcmp(test->step, "copy") != 0)
        return ERR_CANCELED;
    if (!replica->exists || !replica->holds || strcmp(replica->id, call->order.move_id) != 0 ||
        find_twin(h, test->copy_id) || fault_happens(100))
        return ERR_STATE;
    for (size_t i = 0; i < TWINS; i++) {
        if (!sim.hosts[h].twins[i].exists)
            twin = &sim.hosts[h].twins[i];
    }
    if (!twin)
        return ERR_LIMIT;
    *twin = (struct twin){.exists = true, .generation = DR_TEST_GENERATION, .seen = DR_TEST_GENERATION};
    (void)snprintf(twin->id, sizeof twin->id, "%s", test->copy_id);
    sim.copies++;
    return 0;
}

static int start_twin(int h, struct twin *twin, const struct call *call)
{
    char incarnation[ID_TEXT_SIZE];
    incarnation_of(h, incarnation);
    if (twin && twin->runs && twin->generation == call->order.generation)
        return 0;
    if (strcmp(incarnation, call->incarnation) != 0)
        return ERR_DENIED;
    if (!twin || twin->runs || call->order.generation <= twin->seen)
        return ERR_REFUSED;
    twin->seen = call->order.generation;
    if (fault_happens(100))
        return ERR_REFUSED;
    for (int other = 0; other < HOSTS; other++)
        CHECK(other == h || !find_twin(other, twin->id), "a test's copy is on two hosts");
    twin->runs = true;
    twin->generation = call->order.generation;
    sim.copies_run++;
    return 0;
}

static int order_twin(int h, const struct call *call)
{
    struct twin *twin = find_twin(h, call->order.vm_id);
    switch (call->order.kind) {
    case ORDER_START:
        return start_twin(h, twin, call);
    case ORDER_STOP:
        CHECK(call->order.remove, "a test's copy is stopped and not removed");
        if (fault_happens(50))
            return ERR_BUSY;
        if (twin)
            twin->exists = twin->runs = false;
        return 0;
    case ORDER_STATUS:
        return twin ? 0 : ERR_NOT_FOUND;
    default:
        return ERR_UNSUPPORTED;
    }
}

static void handle_twin(struct call *call)
{
    int h = host_index(call->order.host);
    bool makes = call->order.kind == ORDER_REPLICA_COPY;
    int err = makes ? make_twin(h, call) : order_twin(h, call);
    const struct twin *twin = makes ? NULL : find_twin(h, call->order.vm_id);
    log_event(4, (uint64_t)call->order.kind << 8 | (uint64_t)h << 4 | (uint64_t)(err != 0));
    TRACE("%s handles order %d of a test's copy: %s", host_names[h], (int)call->order.kind,
          err ? err_name(err) : "ok");
    call->err = err;
    call->answered = true;
    call->has_status = !err && !makes;
    call->state = !twin        ? GODWIT__VM_STATE__VM_STATE_GONE
                  : twin->runs ? GODWIT__VM_STATE__VM_STATE_RUNNING
                               : GODWIT__VM_STATE__VM_STATE_SUSPENDED;
    call->generation = twin ? twin->generation : 0;
    call->latch = GODWIT__LATCH__LATCH_NONE;
}

static void agent_handle(struct call *call)
{
    if (call->order.about[0]) {
        handle_ha(call);
        return;
    }
    if (call->order.kind == ORDER_REPLICA_COPY || vm_index(call->order.vm_id) < 0) {
        handle_twin(call);
        return;
    }
    int h = host_index(call->order.host), v = vm_index(call->order.vm_id);
    struct process *process = &sim.hosts[h].processes[v];
    bool ends_unheard = false; /* a stop of a start that has not begun here */
    int err = 0;
    switch (call->order.kind) {
    case ORDER_START:
        err = agent_start(process, call);
        break;
    case ORDER_STOP:
    case ORDER_SPLIT_STOP:
        ends_unheard = call->order.ends_start && !sim.hosts[h].is_old && !(process->exists &&
                                                   process->generation == call->order.generation);
        if (ends_unheard && process->slow_generation == call->order.generation)
            process->slow_generation = 0;
        if (ends_unheard && process->seen < call->order.generation)
            process->seen = call->order.generation; /* it never begins, also when it comes later */
        if (ends_unheard)
            break;
        if (process->slow_generation)
            err = ERR_BUSY;
        else if (process->exists)
            end_process(process);
        else
            err = ERR_NOT_FOUND;
        break;
    case ORDER_REPLICA_IN:
        err = agent_replica_in(&sim.hosts[h].replicas[v], process, call);
        break;
    case ORDER_PROTECT:
        err = agent_protect(process, call);
        break;
    case ORDER_PROTECT_FINISH:
        err = agent_finish(v, process, call);
        break;
    case ORDER_PROTECT_END:
        process->finished = false;
        process->out_id[0] = '\0';
        break;
    case ORDER_REPLICA_TAKE:
        err = agent_take(process, &sim.hosts[h].replicas[v], call);
        break;
    case ORDER_REPLICA_COPY: /* handle_twin's */
        break;
    case ORDER_REPLICA_DROP:
        if (strcmp(sim.hosts[h].replicas[v].id, call->order.move_id) == 0)
            sim.hosts[h].replicas[v] = (struct replica){0};
        break;
    case ORDER_MOVE_IN:
        err = agent_move_in(process, call);
        break;
    case ORDER_MOVE_OUT:
        err = agent_move_out(process, call);
        break;
    case ORDER_REBOOT: /* no agent's order */
        break;
    case ORDER_VERDICT:
    case ORDER_STATUS:
        if (!process->exists && !(sim.journal_tells && process->latch))
            err = ERR_NOT_FOUND;
        else if (!process->exists)
            err = 0;
        else if (call->order.kind == ORDER_VERDICT)
            err = agent_verdict(process, &call->order);
        break;
    case ORDER_PAUSE:
    case ORDER_RESUME:
    case ORDER_POWER_BUTTON:
    case ORDER_VM_REBOOT:
    case ORDER_VM_RESET:
    case ORDER_PROBE:
    case ORDER_EVICT:
    case ORDER_FENCE:
    case ORDER_TUNE:
    case ORDER_UPGRADE:
    case ORDER_SUSPEND:
    case ORDER_AUTOSTART_OFF:
    case ORDER_DEFINITION:
        break;
    }
    log_event(4, (uint64_t)call->order.kind << 8 | (uint64_t)h << 4 | (uint64_t)(err != 0));
    TRACE("%s handles order %d verdict %d gen %llu: %s", host_names[h], (int)call->order.kind,
          (int)call->order.verdict, (unsigned long long)call->order.generation,
          err == PENDING ? "pending" : err ? err_name(err) : "ok");
    check_world(); /* before anything else can happen to it */
    if (err == PENDING)
        return; /* heard of when it is said again, or by what is told */
    call->err = err;
    call->answered = true;
    call->has_status = !err && call->order.kind != ORDER_MOVE_IN &&
                       call->order.kind != ORDER_MOVE_OUT &&
                       (!dr_is_order(call->order.kind) || call->order.kind == ORDER_REPLICA_TAKE);
    call->finished = process->finished;
    call->state = process->exists ? process->state : GODWIT__VM_STATE__VM_STATE_GONE;
    call->generation = process->generation;
    call->latch = process->latch;
    call->latch_generation = process->latch_generation;
    (void)snprintf(call->move_id, sizeof call->move_id, "%s", process->move_id);
    if (ends_unheard) {
        call->state = GODWIT__VM_STATE__VM_STATE_GONE;
        call->generation = call->order.generation;
        call->latch = GODWIT__LATCH__LATCH_NONE;
        call->move_id[0] = '\0';
    }
}

static void disconnect(int h);

/* INV of HA: when a VM is ordered to start, nobody runs it but perhaps by this very order. */
static void check_start(const struct cluster_order *order)
{
    int v = vm_index(order->vm_id);
    for (int h = 0; h < HOSTS; h++) {
        const struct twin *twin = v < 0 ? find_twin(h, order->vm_id) : NULL;
        if (v < 0)
            CHECK(!twin || !twin->runs || twin->generation == order->generation,
                  "a test's copy is ordered to start while it runs on %s", host_names[h]);
        if (v < 0)
            continue;
        const struct process *process = &sim.hosts[h].processes[v];
        bool is_this = host_index(order->host) == h && process->generation == order->generation;
        CHECK(!runs(process) || is_this, "vm %d is ordered to start on %s while it runs on %s", v,
              order->host, host_names[h]);
    }
}

/* ---- the coordinator's shell, in small --------------------------------------------------------
 */

/* What the order's agent shall find beside the disks: of a start what is there now, of a move what
 * the record says. False: L is of a generation that the record does not know. */
static bool expect_l(struct call *call, const struct cluster_vm *vm)
{
    if (vm && vm_index(vm->id) < 0)
        return true; /* a copy has no shared disk */
    if (call->order.kind == ORDER_START) {
        const struct l *found = &sim.l[vm_index(vm->id)];
        Godwit__Stamp stamp = GODWIT__STAMP__INIT;
        stamp.generation = found->generation;
        stamp.owner = (char *)(uintptr_t)host_names[found->host];
        call->expected = *found;
        return preflight_judge_stamp(vm, call->order.generation, &stamp, NULL) == 0;
    }
    const struct cluster_job *job = cluster_job(&sim.cluster, call->order.job_id);
    if (call->order.kind == ORDER_MOVE_IN && job) {
        call->expected.generation = job->core.source_generation;
        call->expected.host = host_index(job->core.source_host);
        const char *boot = strrchr(vm->own.incarnation, '-');
        call->expected.boot = boot ? (unsigned)strtoul(boot + 1, NULL, 10) : 0;
    }
    return true;
}

static void send_order(const struct cluster_order *order)
{
    const struct cluster_vm *vm = cluster_vm(&sim.cluster, order->vm_id);
    if (!vm && !order->about[0])
        return;
    if (order->kind == ORDER_EVICT || order->kind == ORDER_FENCE) {
        if (sim.hosts[host_index(order->about)].connected)
            disconnect(host_index(order->about));
    }
    if (order->kind == ORDER_START || order->kind == ORDER_REPLICA_TAKE)
        check_start(order);
    for (size_t i = 0; i < CALLS_MAX; i++) {
        struct call *call = &sim.calls[i];
        if (call->is_used)
            continue;
        *call =
            (struct call){.is_used = true, .is_open = true, .order = *order, .sent_ns = sim.now_ns};
        (void)snprintf(call->incarnation, sizeof call->incarnation, "%s",
                       vm ? vm->own.incarnation : "");
        TRACE("order %d verdict %d to %s gen %llu", (int)order->kind, (int)order->verdict,
              order->host, (unsigned long long)order->generation);
        call->is_unsent = order->host[0] && !sim.hosts[host_index(order->host)].connected;
        if (!call->is_unsent && !expect_l(call, vm))
            call->is_unsent = true;
        bool begins = order->kind == ORDER_START || order->kind == ORDER_REPLICA_TAKE;
        bool is_doubled = (mutation == MUTATION_TAKE_FORGOTTEN && order->kind == ORDER_REPLICA_TAKE) ||
                          (mutation == MUTATION_REFUSAL_FORGOTTEN && order->kind == ORDER_START);
        if (!call->is_unsent && (is_doubled || percent(begins ? 40 : 10)) && !sim.heals)
            sim.strays[draw(STRAYS_MAX)] = *call;
        return;
    }
    CHECK(false, "too many calls");
}

static void act(const struct cluster_todo *todo)
{
    log_event(5, todo->order_count);
    for (size_t i = 0; i < todo->order_count; i++)
        send_order(&todo->orders[i]);
}

static void apply(struct cluster_todo *todo)
{
    struct fault fault = {0};
    struct store_batch *batch = NULL;
    assert_int_equal(store_batch_new(&batch, &fault), 0);
    for (size_t i = 0; i < todo->put_count; i++)
        sim.restarts += todo->puts[i].kind == PUT_EVENT &&
                        strstr(todo->puts[i].text, "is started again") != NULL;
    for (size_t i = 0; i < todo->put_count; i++)
        rows_put(batch, &sim.cluster, &todo->puts[i], now(), &sim.last_event);
    if (store_batch_is_empty(batch) && (sim.commit_count == 0 || todo->order_count == 0)) {
        act(todo);
        cluster_todo_deinit(todo);
        (void)store_batch_free(batch);
        return;
    }
    CHECK(sim.commit_count < COMMITS_MAX, "too many commits");
    if (mutation == MUTATION_ORDER_BEFORE_STORE && todo->order_count > 0) {
        act(todo);
        todo->order_count = 0;
    }
    sim.commits[sim.commit_count++] = (struct commit){.batch = batch, .todo = *todo};
    *todo = (struct cluster_todo){0};
}

/* What the store holds now of a row. */
struct old_row {
    struct store_change *change;
    bool found;
};

static int on_old(void *data, const char *key, uint64_t revision, const struct store_cell *cells,
                  struct fault *fault)
{
    struct old_row *old = data;
    (void)revision;
    (void)fault;
    if (strcmp(key, old->change->key) != 0)
        return 0;
    old->found = true;
    for (size_t i = 0; i < old->change->cell_count; i++) {
        struct store_cell *cell = &old->change->cells[i];
        free((char *)(uintptr_t)cell->bytes);
        *cell = cells[i];
        cell->bytes = NULL;
        if (cells[i].type == STORE_TEXT || cells[i].type == STORE_BLOB) {
            char *copy = malloc(cells[i].count + 1);
            assert_non_null(copy);
            memcpy(copy, cells[i].bytes, cells[i].count);
            copy[cells[i].count] = '\0';
            cell->bytes = copy;
        }
    }
    return 0;
}

static void restore_old(struct store_change *change)
{
    struct old_row old = {.change = change};
    if (percent(20))
        (void)store_load(sim.store, change->table, on_old, &old, NULL);
}

/* A store that loses rows keeps their revisions, or nothing would be committed any more. */
static int commit_batch(struct store_batch *batch, struct fault *fault)
{
    for (size_t i = 0; i < batch->count; i++) {
        struct store_change *change = &batch->changes[i];
        bool loses = (mutation == MUTATION_STORE_LOSES_RECORD && change->table == STORE_OWN) ||
                     (mutation == MUTATION_STORE_LOSES_FENCE && change->table == STORE_FENCE);
        if (loses && !change->is_delete)
            restore_old(change);
    }
    return store_commit_now(sim.store, batch, fault);
}

static void commit_first(bool and_act)
{
    struct commit commit = sim.commits[0];
    struct fault fault = {0};
    int r = commit_batch(commit.batch, &fault);
    CHECK(r == 0, "commit: %s", fault.text);
    log_event(6, commit.todo.put_count);
    sim.commit_count--;
    memmove(&sim.commits[0], &sim.commits[1], sim.commit_count * sizeof sim.commits[0]);
    if (and_act)
        act(&commit.todo);
    cluster_todo_deinit(&commit.todo);
    (void)store_batch_free(commit.batch);
}

static void coordinator_dies(void)
{
    sim.crashes++;
    uint64_t made = draw(sim.commit_count + 1); /* these became durable, nothing was sent */
    TRACE("the coordinator dies; %llu of %zu commits are durable", (unsigned long long)made,
          sim.commit_count);
    while (made-- > 0)
        commit_first(false);
    for (size_t i = 0; i < sim.commit_count; i++) {
        cluster_todo_deinit(&sim.commits[i].todo);
        (void)store_batch_free(sim.commits[i].batch);
    }
    sim.commit_count = 0;
    for (size_t i = 0; i < CALLS_MAX; i++) {
        if (sim.calls[i].is_used && !sim.calls[i].at_agent && percent(50))
            sim.calls[i].is_used = false;
        sim.calls[i].is_open = false;
    }
    cluster_deinit(&sim.cluster);
    for (int h = 0; h < HOSTS; h++)
        sim.hosts[h].connected = false;

    struct fault fault = {0};
    int r = rows_load(sim.store, &sim.cluster, &sim.last_event, &fault);
    CHECK(r == 0, "load: %s", fault.text);
    if (mutation == MUTATION_ROLLED_BACK_STORE) {
        for (int v = 0; v < VMS; v++) { /* as a backup would have it */
            struct cluster_vm *vm = cluster_vm(&sim.cluster, sim.vm_ids[v]);
            if (vm->own.hiwater > 2 && vm->own.phase == OWN_STOPPED)
                vm->own.hiwater = vm->own.gen = vm->own.hiwater - 2;
        }
    }
    struct cluster_todo todo = {0};
    uint64_t chance = draw(1u << 30);
    cluster_seed(&sim.cluster, chance, draw(1u << 30));
    cluster_restart(&sim.cluster, now(), &todo);
    apply(&todo);
}

static void finish_call(struct call *call, int err, bool definite)
{
    struct cluster_order order = call->order;
    struct fault fault = {0};
    struct told told;
    Godwit__ProtectStatus protect = GODWIT__PROTECT_STATUS__INIT;
    struct cluster_result result = {.definite = definite,
                                    .never_left = call->is_unsent,
                                    .confirmed = call->confirmed,
                                    .storage_age_ms = call->storage_age_ms};
    if (err) {
        fault_set(&fault, err, "simulated: %s", err_name(err));
        result.fault = &fault;
    } else if (call->has_status) {
        godwit__vm_status__init(&told.status);
        godwit__move_latch__init(&told.latch);
        told.status.vm_id = order.vm_id;
        told.status.has_state = told.status.has_generation = true;
        told.status.state = call->state;
        told.status.generation = call->generation;
        if (call->latch) {
            told.latch.move_id = call->move_id;
            told.latch.has_latch = told.latch.has_generation = true;
            told.latch.latch = call->latch;
            told.latch.generation = call->latch_generation;
            told.status.latch = &told.latch;
        }
        result.status = &told.status;
    }
    protect.has_finished = protect.finished = call->finished;
    if (!err && (order.kind == ORDER_PROTECT || order.kind == ORDER_PROTECT_FINISH))
        result.protect = &protect;
    Godwit__ReplicaCopied copied = GODWIT__REPLICA_COPIED__INIT;
    if (!err && order.kind == ORDER_REPLICA_COPY)
        result.copied = &copied;
    if (result.status && vm_index(order.vm_id) < 0) { /* its vCPUs are at it */
        told.status.has_vcpu_cpu_ns = true;
        told.status.vcpu_cpu_ns = sim.now_ns;
    }
    struct cluster_todo todo = {0};
    call->is_used = false;
    cluster_order_done(&sim.cluster, &order, &result, now(), &todo);
    apply(&todo);
}

static void disconnect(int h)
{
    TRACE("%s loses its link", host_names[h]);
    sim.hosts[h].connected = false;
    for (size_t i = 0; i < CALLS_MAX; i++) {
        struct call *call = &sim.calls[i];
        if (!call->is_used || !call->is_open || !call->order.host[0] ||
            host_index(call->order.host) != h)
            continue;
        struct call lost = *call;
        if (!lost.at_agent && !lost.is_unsent && percent(50))
            sim.strays[draw(STRAYS_MAX)] = lost; /* it may arrive after all */
        finish_call(call, ERR_CLOSED, lost.is_unsent);
    }
    struct cluster_todo todo = {0};
    cluster_link_lost(&sim.cluster, cluster_host(&sim.cluster, host_names[h]), now(), &todo);
    apply(&todo);
}

static void step_call(struct call *call)
{
    if (!call->is_open) { /* of a coordinator that died: the agent may have it still */
        bool arrives = !call->order.host[0] || hears(host_index(call->order.host));
        if (!call->at_agent && !call->is_unsent && arrives && percent(50))
            agent_handle(call);
        call->is_used = false;
        return;
    }
    if (call->is_unsent) {
        finish_call(call, ERR_UNREACHABLE, true);
    } else if (!call->at_agent) {
        call->at_agent = true;
        bool arrives = !call->order.host[0] || hears(host_index(call->order.host));
        if (arrives && (percent(90) || sim.heals))
            agent_handle(call);
    } else if (call->answered) {
        finish_call(call, call->err, true);
    } else if (sim.now_ns - call->sent_ns > 3 * NS_PER_S) {
        finish_call(call, ERR_TIMEOUT, false);
    }
}

/* ---- moves between processes ------------------------------------------------------------------
 */

static void step_source(int h, int v, struct process *source)
{
    struct process *target = peer_of(v, source);
    bool lane = target && !source->lane_cut && !target->lane_cut;
    if (source->latch == GODWIT__LATCH__LATCH_OUT) {
        if (source->got_abandoned || !lane) {
            if (percent(40)) {
                source->latch = GODWIT__LATCH__LATCH_ABORTED;
                source->paused_by_move = false;
                tell_move(h, v, true);
            }
        } else if (source->got_ready) {
            source->latch = GODWIT__LATCH__LATCH_GAVE;
            source->state = GODWIT__VM_STATE__VM_STATE_HELD;
            target->got_transfer = !fault_happens(300);
            target->lane_cut = !target->got_transfer;
            TRACE("%s GAVE", host_names[h]);
            tell_move(h, v, false);
        } else if (percent(30)) {
            source->paused_by_move = true;
        }
    } else if (source->latch == GODWIT__LATCH__LATCH_GAVE &&
               source->state == GODWIT__VM_STATE__VM_STATE_HELD) {
        if (source->got_started) {
            source->latch = GODWIT__LATCH__LATCH_RELEASED;
            tell_move(h, v, true);
            end_process(source);
        } else if (source->got_abandoned && sim.resumes_by_itself) {
            source->state = GODWIT__VM_STATE__VM_STATE_RUNNING;
            source->paused_by_move = false;
            TRACE("%s resumes at its target's word", host_names[h]);
            tell_move(h, v, true);
        } else if ((mutation == MUTATION_RESUME_ON_TIMEOUT && source->parked_told && percent(10)) ||
                   (mutation == MUTATION_GAVE_FORGOTTEN && percent(5))) {
            source->latch = GODWIT__LATCH__LATCH_ABORTED;
            source->state = GODWIT__VM_STATE__VM_STATE_RUNNING;
            source->paused_by_move = false;
            if (mutation == MUTATION_RESUME_ON_TIMEOUT)
                source->latch = GODWIT__LATCH__LATCH_GAVE;
            tell_move(h, v, true);
        } else if (!source->parked_told) {
            source->parked_told = true;
            tell_move(h, v, false);
        }
    }
}

static void step_target(int h, int v, struct process *target)
{
    struct process *source = peer_of(v, target);
    bool lane = source && !source->lane_cut && !target->lane_cut;
    if (target->latch == GODWIT__LATCH__LATCH_IN && lane && source->paused_by_move &&
        source->latch == GODWIT__LATCH__LATCH_OUT) {
        target->latch = GODWIT__LATCH__LATCH_READY;
        source->got_ready = true;
        TRACE("%s READY", host_names[h]);
        tell_move(h, v, false);
    } else if (target->latch == GODWIT__LATCH__LATCH_READY &&
               (target->got_transfer ||
                (mutation == MUTATION_TARGET_STARTS_ITSELF && percent(30)))) {
        target->latch = GODWIT__LATCH__LATCH_TOOK;
        target->state = GODWIT__VM_STATE__VM_STATE_RUNNING;
        target->disks_wait = mutation != MUTATION_TAKE_UNSTAMPED;
        target->generation = target->latch_generation;
        if (lane && !fault_happens(100))
            source->got_started = true;
        TRACE("%s TOOK", host_names[h]);
        tell_move(h, v, true);
    } else if ((target->latch == GODWIT__LATCH__LATCH_IN ||
                target->latch == GODWIT__LATCH__LATCH_READY) &&
               ((!lane && percent(15)) || fault_happens(20))) {
        target->latch = GODWIT__LATCH__LATCH_ABANDONED;
        if (lane)
            source->got_abandoned = true;
        TRACE("%s ABANDONED", host_names[h]);
        tell_move(h, v, true);
        if (mutation == MUTATION_ABANDON_NOT_LATCHED) {
            target->latch = GODWIT__LATCH__LATCH_READY;
            target->got_transfer = percent(50);
            return;
        }
        end_process(target);
    }
}

/* Its agent takes L for it; whoever does not get it is killed before it writes. */
static void step_disks(int h, int v, struct process *process)
{
    const struct l wanted = wanted_l(h, process->generation);
    if (fault_happens(300)) /* the store does not answer: tried on */
        return;
    if (!sim.has_disk[v] || take_l(v, &process->expected, &wanted)) {
        process->disks_wait = false;
        return;
    }
    TRACE("%s loses the disks of vm %d and ends it", host_names[h], v);
    end_process(process);
    process->state = GODWIT__VM_STATE__VM_STATE_CRASHED;
    tell_vm(h, v);
}

static void step_move(void)
{
    int h = (int)draw(HOSTS), v = (int)draw(VMS);
    struct process *process = &sim.hosts[h].processes[v];
    if (!process->exists || !process->latch || is_dead(h))
        return;
    if (runs(process) && process->disks_wait) {
        step_disks(h, v, process);
        return;
    }
    if (is_isolated(h))
        process->lane_cut = true;
    if (fault_happens(30))
        process->lane_cut = true;
    if (process->latch >= GODWIT__LATCH__LATCH_IN)
        step_target(h, v, process);
    else
        step_source(h, v, process);
}

/* ---- faults and operators ---------------------------------------------------------------------
 */

static void step_host_fault(int h)
{
    if (is_dead(h) || is_isolated(h))
        return;
    if (fault_happens(15)) {
        TRACE("%s dies", host_names[h]);
        sim.host_deaths++;
        if (sim.hosts[h].connected)
            disconnect(h);
        power_off(h);
        sim.hosts[h].dead_until_ns = sim.now_ns + (2 + draw(40)) * NS_PER_S;
    } else if (fault_happens(15)) {
        TRACE("%s is cut off from all and runs on", host_names[h]);
        sim.isolations++;
        sim.hosts[h].isolated_until_ns = sim.now_ns + (2 + draw(40)) * NS_PER_S;
        if (percent(50) && sim.hosts[h].connected)
            disconnect(h);
    } else if (percent(2)) {
        struct cluster_todo todo = {0};
        struct problem problem;
        bool errs = mutation == MUTATION_OPERATOR_ERRS;
        int about = (int)draw(HOSTS);
        if (is_dead(about) || errs)
            (void)cluster_ha_confirm_down(&sim.cluster, host_names[about], host_names[about], now(),
                                          &problem, &todo);
        apply(&todo);
    }
}

/* A double, however late. */
static void stray_arrives(void)
{
    struct call *stray = &sim.strays[draw(STRAYS_MAX)];
    if (stray->is_used && !stray->order.about[0] && hears(host_index(stray->order.host))) {
        TRACE("a stray order arrives");
        agent_handle(stray);
        stray->is_used = false;
    }
}

static void step_fault(void)
{
    int h = (int)draw(HOSTS), v = (int)draw(VMS);
    struct process *process = &sim.hosts[h].processes[v];
    if (sim.has_ha)
        step_host_fault(h);
    switch (draw(7)) {
    case 0:
        if (fault_happens(sim.death_per_mille))
            coordinator_dies();
        break;
    case 1:
        if (sim.hosts[h].connected && fault_happens(200)) {
            disconnect(h);
            sim.hosts[h].is_forgetful = percent(30);
            if (percent(10)) /* longer than any patience of the cores */
                sim.hosts[h].away_until_ns = sim.now_ns + (4 + draw(20)) * NS_PER_S;
        }
        break;
    case 2:
        if (process->exists && fault_happens(15)) {
            TRACE("the process of vm %d on %s dies", v, host_names[h]);
            sim.lost++;
            end_process(process);
            process->state = GODWIT__VM_STATE__VM_STATE_CRASHED;
            tell_vm(h, v);
        }
        break;
    case 3:
        if (fault_happens(10)) {
            TRACE("%s boots anew", host_names[h]);
            if (sim.hosts[h].connected)
                disconnect(h);
            power_off(h);
        }
        break;
    case 4:
        stray_arrives();
        break;
    case 5:
        if (sim.hosts[h].connected && percent(20))
            tell_vm(h, v); /* nobody asked; it may be anything */
        break;
    default:
        break;
    }
}

static void make_plan(void)
{
    static const char *const kinds[] = {"evacuate", "evacuate", "evacuate", "restore",
                                        "restore",  "restore",  "restore",  "repair"};
    Godwit__PlanMakeRequest request = GODWIT__PLAN_MAKE_REQUEST__INIT;
    struct cluster_todo todo = {0};
    struct cluster_plan *plan = NULL;
    struct problem problem;
    char id[ID_SHORT_SIZE];
    cluster_draw_short(&sim.cluster, 'P', id);
    request.kind = (char *)(uintptr_t)kinds[draw(8)];
    request.host = (char *)(uintptr_t)host_names[draw(HOSTS)];
    request.has_dry_run = request.has_bring_back = true;
    request.dry_run = percent(20);
    request.bring_back = percent(70);
    Godwit__VmChoice cold = GODWIT__VM_CHOICE__INIT, *choices[] = {&cold};
    char vm[16];
    (void)snprintf(vm, sizeof vm, "vm%d", (int)draw(VMS));
    cold.vm = vm;
    cold.how = (char *)(uintptr_t) "cold";
    if (percent(20)) {
        request.choices = choices;
        request.n_choices = 1;
    }
    const struct plan_ask ask = {.request = &request, .id = id, .by = "sim", .parent = ""};
    if (plan_make(&sim.cluster, &ask, now(), &plan, &problem, &todo) == 0)
        TRACE("plan %s: %s of %s, %zu steps", id, request.kind, request.host, plan->info->n_steps);
    apply(&todo);
}

static void change_plan(void)
{
    static const Godwit__PlanVerb verbs[] = {
        GODWIT__PLAN_VERB__PLAN_VERB_RUN,    GODWIT__PLAN_VERB__PLAN_VERB_PAUSE,
        GODWIT__PLAN_VERB__PLAN_VERB_RESUME, GODWIT__PLAN_VERB__PLAN_VERB_RESUME,
        GODWIT__PLAN_VERB__PLAN_VERB_CANCEL, GODWIT__PLAN_VERB__PLAN_VERB_RM};
    struct cluster_todo todo = {0};
    struct cluster_plan *plan = NULL;
    struct problem problem;
    if (sim.cluster.plan_count == 0)
        return;
    char id[ID_SHORT_SIZE];
    memcpy(id, sim.cluster.plans[sim.cluster.plan_count - 1 - draw(sim.cluster.plan_count)]->id,
           sizeof id);
    Godwit__PlanVerb verb = verbs[draw(6)];
    if (plan_act(&sim.cluster, id, verb, now(), &plan, &problem, &todo) == 0)
        TRACE("verb %d on plan %s", (int)verb, id);
    apply(&todo);
}

static void change_rule(void)
{
    static char *vms[] = {(char *)(uintptr_t) "vm*"};
    Godwit__Rule rule = GODWIT__RULE__INIT;
    struct cluster_rule *added = NULL;
    struct cluster_todo todo = {0};
    struct problem problem;
    rule.id = (char *)(uintptr_t) "apart";
    rule.kind = (char *)(uintptr_t) "anti-affinity";
    rule.vms = vms;
    rule.n_vms = 1;
    int r = sim.cluster.rule_count > 0
                ? rule_remove(&sim.cluster, "apart", &problem, &todo)
                : rule_add(&sim.cluster, &rule, now(), &added, &problem, &todo);
    if (r == 0)
        TRACE("rule %s", sim.cluster.rule_count > 0 ? "added" : "removed");
    apply(&todo);
}

/* What makes sense now, mostly. */
static Godwit__DrVerb dr_verb_of(const struct cluster_vm *vm)
{
    if (sim.tests_replicas && vm->dr && percent(50))
        return dr_test_is_open(vm->dr) ? GODWIT__DR_VERB__DR_VERB_TEST_END
               : percent(50)           ? GODWIT__DR_VERB__DR_VERB_TEST
                                       : GODWIT__DR_VERB__DR_VERB_DRILL_NOW;
    if (!vm->dr || percent(5))
        return GODWIT__DR_VERB__DR_VERB_PROTECT;
    if (percent(10))
        return GODWIT__DR_VERB__DR_VERB_UNPROTECT;
    return dr_step_is(vm->dr, "away") || percent(10) ? GODWIT__DR_VERB__DR_VERB_FAILBACK
                                                     : GODWIT__DR_VERB__DR_VERB_FAILOVER;
}

static void ask_of_dr(void)
{
    Godwit__DrRequest request = GODWIT__DR_REQUEST__INIT;
    struct cluster_todo todo = {0};
    struct problem problem;
    char vm[16];
    int v = (int)draw(VMS);
    if (sim.has_disk[v])
        v = 1 - v;
    if (sim.has_disk[v])
        return; /* its disk is shared */
    request.has_verb = true;
    request.verb = dr_verb_of(cluster_vm(&sim.cluster, sim.vm_ids[v]));
    (void)snprintf(vm, sizeof vm, "vm%d", v);
    request.vm = vm;
    request.to = (char *)(uintptr_t)host_names[draw(HOSTS)];
    request.has_auto_take = request.auto_take = percent(30);
    request.has_planned = request.planned =
        request.verb == GODWIT__DR_VERB__DR_VERB_FAILOVER && percent(50);
    if (dr_ask(&sim.cluster, &request, now(), &problem, &todo) == 0)
        TRACE("dr verb %d of %s to %s%s", (int)request.verb, vm, request.to,
              request.planned ? ", planned" : "");
    apply(&todo);
}

static void step_operator(void)
{
    if (sim.has_dr && percent(mutation == MUTATION_TAKE_FORGOTTEN ? 95 : 60)) {
        ask_of_dr();
        return;
    }
    if (sim.plans && percent(60)) {
        uint64_t what = draw(10);
        if (what < 6)
            make_plan();
        else if (what < 9)
            change_plan();
        else
            change_rule();
        return;
    }
    static const Godwit__VmVerb verbs[] = {GODWIT__VM_VERB__VM_VERB_START,
                                           GODWIT__VM_VERB__VM_VERB_START,
                                           GODWIT__VM_VERB__VM_VERB_STOP};
    struct cluster_todo todo = {0};
    struct problem problem;
    struct cluster_job *job = NULL;
    uint64_t ticket;
    char vm[16], job_id[ID_SHORT_SIZE], move_id[ID_TEXT_SIZE];
    (void)snprintf(vm, sizeof vm, "vm%d", (int)draw(VMS));
    (void)snprintf(job_id, sizeof job_id, "J%06x", (unsigned)(++sim.next_id & 0xffffff));
    (void)snprintf(move_id, sizeof move_id, "move-%llu", (unsigned long long)sim.next_id);
    if (percent(75)) {
        struct cluster_move_ask ask = {.vm = vm,
                                       .to = percent(50) ? "auto" : host_names[draw(HOSTS)],
                                       .job_id = job_id,
                                       .move_id = move_id};
        if (cluster_migrate(&sim.cluster, &ask, now(), &job, &problem, &todo) == 0)
            TRACE("migrate %s to %s, job %s", vm, job->core.target_host, job_id);
    } else if (percent(30) && sim.cluster.job_count > 0) {
        const struct cluster_job *last = sim.cluster.jobs[sim.cluster.job_count - 1];
        (void)snprintf(job_id, sizeof job_id, "%s", last->core.id);
        if (cluster_cancel(&sim.cluster, job_id, now(), &job, &problem, &todo) == 0)
            TRACE("cancel %s", job_id);
    } else {
        Godwit__VmVerb verb = verbs[draw(3)];
        if (cluster_act(&sim.cluster, vm, verb, false, now(), &ticket, &problem, &todo) == 0)
            TRACE("verb %d on %s", (int)verb, vm);
    }
    apply(&todo);
}

/* ---- time -------------------------------------------------------------------------------------
 */

static void heartbeats(void)
{
    Godwit__AgentHeartbeat heartbeat = GODWIT__AGENT_HEARTBEAT__INIT;
    for (int h = 0; h < HOSTS; h++) {
        struct cluster_host *host = cluster_host(&sim.cluster, host_names[h]);
        if (is_dead(h) || is_isolated(h)) {
            /* its line breaks when it is missed for long enough, as agent_link's does */
            if (sim.hosts[h].connected && sim.now_ns - host->seen_ns > 8 * NS_PER_S)
                disconnect(h);
            continue;
        }
        if (sim.hosts[h].connected)
            cluster_heartbeat(&sim.cluster, host, &heartbeat, now());
        else if (sim.heals || (sim.now_ns > sim.hosts[h].away_until_ns && percent(5)))
            say_hello(h);
    }
}

static void forget_failures(void)
{
    for (size_t i = 0; i < sim.cluster.plan_count; i++) {
        Godwit__PlanInfo *info = sim.cluster.plans[i]->info;
        for (size_t n = 0; n < info->n_steps; n++) {
            Godwit__PlanStep *step = info->steps[n];
            while (step->n_failed_at > 0)
                free(step->failed_at[--step->n_failed_at]);
        }
    }
}

static void step(void)
{
    sim.now_ns += (1 + draw(60)) * NS_PER_MS;
    heartbeats();
    unheard_speak();
    if (sim.commit_count > 0 && percent(mutation == MUTATION_ORDER_BEFORE_STORE ? 10 : 70))
        commit_first(true);
    for (int i = 0; i < 4; i++) {
        struct call *call = &sim.calls[draw(CALLS_MAX / 8)]; /* mostly the first are in use */
        if (call->is_used)
            step_call(call);
    }
    for (size_t i = draw(8); i < CALLS_MAX; i += 8) {
        if (sim.calls[i].is_used && percent(30))
            step_call(&sim.calls[i]);
    }
    step_move();
    step_starts();
    if (sim.has_dr)
        step_replica();
    check_world();
    if (!sim.heals) {
        step_fault();
        if ((mutation == MUTATION_TAKE_FORGOTTEN || mutation == MUTATION_REFUSAL_FORGOTTEN) && percent(5))
            stray_arrives();
        if (percent(mutation == MUTATION_TAKE_FORGOTTEN ? 20 : 8)) /* failovers it needs many */
            step_operator();
    }
    if (mutation == MUTATION_STEP_FORGETS)
        forget_failures();
    struct cluster_todo todo = {0};
    size_t jobs = sim.cluster.job_count;
    cluster_tick(&sim.cluster, now(), &todo);
    for (; jobs < sim.cluster.job_count; jobs++)
        check_plan_move(sim.cluster.jobs[jobs]);
    apply(&todo);
    check_world();
    check_record();
    check_plans();
}

/* ---- one run ----------------------------------------------------------------------------------
 */

static void begin(uint64_t seed)
{
    struct fault fault = {0};
    sim.seed = seed;
    sim.chance = seed * UINT64_C(0x9E3779B97F4A7C15) + 1;
    for (int i = 0; i < 8; i++)
        (void)draw(2);
    sim.now_ns = NS_PER_S;
    sim.resumes_by_itself = percent(30);
    sim.journal_tells = percent(50);
    sim.plans = percent(50);
    cluster_seed(&sim.cluster, seed, seed + 1);
    sim.has_ha = percent(66) || mutation != MUTATION_NONE;
    sim.has_store = percent(60);
    bool is_of_dr = mutation == MUTATION_TAKE_FORGOTTEN || mutation == MUTATION_REPLICA_RUNS;
    for (int v = 0; v < VMS; v++) /* a VM with a shared disk has no replica */
        sim.has_disk[v] = mutation != MUTATION_TAKE_FORGOTTEN && mutation != MUTATION_SLOW_REFUSED &&
                          (percent(60) || (mutation != MUTATION_NONE && !is_of_dr));
    sim.has_dr = percent(50) || is_of_dr;
    sim.tests_replicas = sim.has_dr && !sim.plans && mutation == MUTATION_NONE;
    sim.hash = UINT64_C(0xCBF29CE484222325);
    sim.fault_percent = (unsigned)draw(200);
    sim.death_per_mille = (unsigned)draw(60);
    int r = store_open(&sim.store, ":memory:", NULL, &fault);
    CHECK(r == 0, "store: %s", fault.text);
    for (int h = 0; h < HOSTS; h++) {
        struct cluster_todo todo = {0};
        sim.hosts[h].is_old = (seed + (uint64_t)h) % 5 == 0;
        assert_non_null(cluster_host_joined(&sim.cluster, host_names[h], now(), &todo));
        apply(&todo);
        say_hello(h);
        todo = (struct cluster_todo){0};
        if (sim.has_ha && percent(70))
            (void)cluster_ha_set_fence(&sim.cluster, host_names[h], "fence_sim", "", NULL, &todo);
        apply(&todo);
    }
    for (int v = 0; v < VMS; v++) {
        Godwit__HaSpec ha = GODWIT__HA_SPEC__INIT;
        Godwit__VmSpec spec = GODWIT__VM_SPEC__INIT;
        Godwit__MemorySpec memory = GODWIT__MEMORY_SPEC__INIT;
        char name[16];
        struct problem problem;
        uint64_t ticket;
        struct cluster_todo todo = {0};
        (void)snprintf(name, sizeof name, "vm%d", v);
        (void)snprintf(sim.vm_ids[v], sizeof sim.vm_ids[v], "id-of-vm%d", v);
        memory.has_size = true;
        memory.size = MIB(64);
        spec.name = name;
        spec.memory = &memory;
        spec.kernel = (char *)(uintptr_t) "/kernel";
        ha.has_restart = ha.restart = true;
        if (sim.has_ha && percent(75))
            spec.ha = &ha;
        r = cluster_create_vm(&sim.cluster, &spec, sim.vm_ids[v], false, now(), &ticket, &problem,
                              &todo);
        CHECK(r == 0, "create: %s", problem.text);
        apply(&todo);
    }
    while (sim.commit_count > 0) /* what operators were told is durable */
        commit_first(true);
}

static bool is_settled(void)
{
    if (sim.commit_count > 0)
        return false;
    for (size_t i = 0; i < CALLS_MAX; i++) {
        if (sim.calls[i].is_used)
            return false;
    }
    for (size_t i = 0; i < sim.cluster.job_count; i++) {
        if (job_core_is_active(&sim.cluster.jobs[i]->core))
            return false;
    }
    for (size_t i = 0; i < sim.cluster.plan_count; i++) {
        if (plan_is_active(sim.cluster.plans[i]))
            return false;
    }
    for (int v = 0; v < VMS; v++) {
        const struct cluster_vm *vm = cluster_vm(&sim.cluster, sim.vm_ids[v]);
        bool is_at_rest =
            !vm->dr || (!vm->dr->info->op[0] && !dr_is_acting(vm) && !dr_step_is(vm->dr, "end"));
        bool is_on_its_way_back = vm->dr && vm->own.phase == OWN_STOPPED &&
                                  dr_step_is(vm->dr, "protect"); /* nobody starts it */
        if (vm->dr && dr_test_is_open(vm->dr) && strcmp(vm->dr->info->test->step, "runs") != 0)
            return false;
        if ((vm->own.phase != OWN_RUN && vm->own.phase != OWN_STOPPED) ||
            !(is_at_rest || is_on_its_way_back))
            return false;
    }
    return true;
}

static void heal(void)
{
    TRACE("healing");
    sim.heals = true;
    for (size_t i = 0; i < sim.cluster.plan_count; i++) { /* what an operator held goes on */
        struct cluster_todo todo = {0};
        struct cluster_plan *plan = NULL;
        struct problem problem;
        if (plan_state_of(sim.cluster.plans[i]) == PLAN_PAUSED)
            (void)plan_act(&sim.cluster, sim.cluster.plans[i]->id,
                           GODWIT__PLAN_VERB__PLAN_VERB_RESUME, now(), &plan, &problem, &todo);
        apply(&todo);
    }
    memset(sim.strays, 0, sizeof sim.strays);
    for (int i = 0; i < HEAL_STEPS && !is_settled(); i++)
        step();
    for (int h = 0; h < HOSTS; h++) /* events may have been lost: agents tell all once more */
        say_hello(h);
    int i = 0;
    do {
        step();
    } while (++i < HEAL_STEPS && (!is_settled() || i < 100));
}

static void check_settled(void)
{
    for (int v = 0; v < VMS; v++) {
        const struct cluster_dr *dr = cluster_vm(&sim.cluster, sim.vm_ids[v])->dr;
        if (dr)
            TRACE("dr of vm%d: step %s op '%s' from %s to %s", v, dr->info->step, dr->info->op,
                  dr->info->source, dr->info->target);
    }
    CHECK(is_settled(), "not settled after healing: vm0 %s job %s, vm1 %s job %s",
          own_phase_name(cluster_vm(&sim.cluster, sim.vm_ids[0])->own.phase),
          cluster_vm(&sim.cluster, sim.vm_ids[0])->job
              ? job_step_name(cluster_vm(&sim.cluster, sim.vm_ids[0])->job->core.step)
              : "-",
          own_phase_name(cluster_vm(&sim.cluster, sim.vm_ids[1])->own.phase),
          cluster_vm(&sim.cluster, sim.vm_ids[1])->job
              ? job_step_name(cluster_vm(&sim.cluster, sim.vm_ids[1])->job->core.step)
              : "-");
    for (int v = 0; v < VMS; v++) {
        const struct cluster_vm *vm = cluster_vm(&sim.cluster, sim.vm_ids[v]);
        for (int h = 0; h < HOSTS; h++) {
            const struct process *process = &sim.hosts[h].processes[v];
            bool is_owner = vm->own.phase == OWN_RUN && host_index(vm->own.owner) == h;
            if (is_owner)
                CHECK(runs(process) && process->generation == vm->own.gen && !process->finished,
                      "vm %d: RUN(%s, %llu), but its process %s as %llu", v, vm->own.owner,
                      (unsigned long long)vm->own.gen, runs(process) ? "runs" : "does not run",
                      (unsigned long long)process->generation);
            else
                CHECK(!process->exists, "vm %d: left over on %s in state %d latch %d; %s(%s, %llu)",
                      v, host_names[h], (int)process->state, (int)process->latch,
                      own_phase_name(vm->own.phase), vm->own.owner,
                      (unsigned long long)vm->own.gen);
        }
    }
}

/* Whatever became of tests: what is there of copies is what the record says, on its host and nowhere else. */
static void check_twins(void)
{
    for (int h = 0; h < HOSTS; h++) {
        for (size_t i = 0; i < TWINS; i++) {
            const struct twin *twin = &sim.hosts[h].twins[i];
            const struct cluster_vm *vm = twin->exists ? cluster_vm(&sim.cluster, twin->id) : NULL;
            if (!twin->exists)
                continue;
            CHECK(vm && dr_test_is_copy(vm) && strcmp(vm->own.owner, host_names[h]) == 0,
                  "a test's copy is left over on %s", host_names[h]);
            CHECK(!twin->runs || (vm->own.phase == OWN_RUN && vm->own.gen == twin->generation),
                  "a test's copy runs on %s, its record says %s", host_names[h],
                  own_phase_name(vm->own.phase));
        }
    }
    for (size_t i = 0; i < sim.cluster.vm_count; i++) {
        const struct cluster_vm *vm = sim.cluster.vms[i];
        const struct twin *twin =
            dr_test_is_copy(vm) ? find_twin(host_index(vm->own.owner), vm->id) : NULL;
        if (dr_test_is_copy(vm) && vm->own.phase == OWN_RUN)
            CHECK(twin && twin->runs, "the record of a test's copy says RUN(%s), and it does not",
                  vm->own.owner);
    }
}

/* What HA protects runs once all is well, unless it was started in vain too often. */
static void check_protected(void)
{
    for (int v = 0; v < VMS; v++) {
        const struct cluster_vm *vm = cluster_vm(&sim.cluster, sim.vm_ids[v]);
        CHECK(!own_is_lost(&vm->own), "vm %d is lost and not started again", v);
    }
}

static void end_run(uint64_t totals[static TOTAL_COUNT])
{
    for (size_t i = 0; i < sim.cluster.job_count; i++) {
        const struct job_core *core = &sim.cluster.jobs[i]->core;
        totals[0] += core->state == JOB_DONE;
        totals[1] += core->state != JOB_DONE;
        totals[2] += core->resume_generation > 0;
    }
    totals[3] += sim.crashes;
    for (size_t i = 0; i < sim.cluster.plan_count; i++) {
        enum plan_state state = plan_state_of(sim.cluster.plans[i]);
        totals[TOTAL_PLANS_DONE] += state == PLAN_DONE;
        totals[TOTAL_PLANS_PARTLY] += state == PLAN_PARTLY || state == PLAN_CANCELED;
    }
    totals[TOTAL_PLAN_MOVES] += sim.plan_moves;
    totals[TOTAL_PLAN_AGAIN] += sim.plan_again;
    totals[TOTAL_FAULTS] += sim.faults;
    totals[TOTAL_HOST_DEATHS] += sim.host_deaths;
    totals[TOTAL_ISOLATIONS] += sim.isolations;
    totals[TOTAL_FENCES] += sim.fences;
    totals[TOTAL_EVICTIONS] += sim.evictions;
    totals[TOTAL_RESTARTS] += sim.restarts;
    totals[TOTAL_QUARANTINES] += sim.quarantines;
    totals[TOTAL_STAMPS] += sim.stamps;
    totals[TOTAL_STAMPS_REFUSED] += sim.stamps_refused;
    totals[TOTAL_TAKES] += sim.takes;
    totals[TOTAL_TAKES_REFUSED] += sim.takes_refused;
    totals[TOTAL_FINISHES] += sim.finishes;
    totals[TOTAL_COPIES] += sim.copies;
    totals[TOTAL_COPIES_RUN] += sim.copies_run;
    for (size_t i = 0; i < sim.commit_count; i++) {
        cluster_todo_deinit(&sim.commits[i].todo);
        (void)store_batch_free(sim.commits[i].batch);
    }
    cluster_deinit(&sim.cluster);
    sim.store = store_close(sim.store);
}

/* Returns the hash of all that happened. */
static uint64_t run_seed(uint64_t seed, bool traces, uint64_t totals[static TOTAL_COUNT])
{
    memset(&sim, 0, sizeof sim);
    sim.traces = traces;
    begin(seed);
    for (int i = 0; i < (sim.has_ha ? HA_STEPS : STEPS); i++)
        step();
    heal();
    check_settled();
    check_twins();
    check_protected();
    uint64_t hash = sim.hash;
    end_run(totals);
    return hash;
}

static void moves_and_failovers_are_safe_and_end(void **state)
{
    (void)state;
    const char *one = getenv("GODWIT_SIM_SEED"), *many = getenv("GODWIT_SIM_SEEDS");
    const char *from = getenv("GODWIT_SIM_FROM");
    uint64_t first = one ? strtoull(one, NULL, 10) : from ? strtoull(from, NULL, 10) : 1;
    uint64_t count = one ? 1 : many ? strtoull(many, NULL, 10) : SEEDS;
    uint64_t totals[TOTAL_COUNT] = {0}, ignored[TOTAL_COUNT] = {0}, replayed = 0;
    for (uint64_t seed = first; seed < first + count; seed++) {
        uint64_t hash = run_seed(seed, one != NULL, totals);
        if (seed % REPLAY_EVERY != 0)
            continue;
        replayed++;
        CHECK(run_seed(seed, false, ignored) == hash, "seed %llu does not replay",
              (unsigned long long)seed);
    }
    print_message(
        "%llu seeds (%llu replayed alike): %llu faults, %llu coordinator deaths, "
        "%llu host deaths, %llu isolations; %llu moves done, %llu not, %llu resumed at a "
        "new generation; %llu fenced by power, %llu evicted, %llu started again, "
        "%llu quarantines; %llu plans done, %llu plans partly or canceled, %llu moves of plans, "
        "%llu of them to where they had failed; "
        "%llu stamps taken, %llu not given; %llu last checkpoints, %llu replicas taken, %llu takes "
        "refused, %llu copies made of replicas, %llu ran; 0 violations\n",
        (unsigned long long)count, (unsigned long long)replayed,
        (unsigned long long)totals[TOTAL_FAULTS], (unsigned long long)totals[3],
        (unsigned long long)totals[TOTAL_HOST_DEATHS], (unsigned long long)totals[TOTAL_ISOLATIONS],
        (unsigned long long)totals[0], (unsigned long long)totals[1], (unsigned long long)totals[2],
        (unsigned long long)totals[TOTAL_FENCES], (unsigned long long)totals[TOTAL_EVICTIONS],
        (unsigned long long)totals[TOTAL_RESTARTS], (unsigned long long)totals[TOTAL_QUARANTINES],
        (unsigned long long)totals[TOTAL_PLANS_DONE],
        (unsigned long long)totals[TOTAL_PLANS_PARTLY],
        (unsigned long long)totals[TOTAL_PLAN_MOVES], (unsigned long long)totals[TOTAL_PLAN_AGAIN],
        (unsigned long long)totals[TOTAL_STAMPS], (unsigned long long)totals[TOTAL_STAMPS_REFUSED],
        (unsigned long long)totals[TOTAL_FINISHES], (unsigned long long)totals[TOTAL_TAKES],
        (unsigned long long)totals[TOTAL_TAKES_REFUSED], (unsigned long long)totals[TOTAL_COPIES],
        (unsigned long long)totals[TOTAL_COPIES_RUN]);
    if (one || count < 100)
        return;
    assert_true(totals[0] > count / 2 && totals[1] > count / 2 && totals[2] > count / 200 &&
                totals[3] > count / 2);
    assert_true(totals[TOTAL_FENCES] > count / 20 && totals[TOTAL_EVICTIONS] > count / 50 &&
                totals[TOTAL_RESTARTS] > count / 20 && totals[TOTAL_QUARANTINES] > count / 100);
    assert_true(totals[TOTAL_TAKES] > count / 20 && totals[TOTAL_TAKES_REFUSED] > count / 200 &&
                totals[TOTAL_FINISHES] > count / 50 && totals[TOTAL_COPIES_RUN] > count / 50);
    assert_true(totals[TOTAL_PLANS_DONE] > count / 2 && totals[TOTAL_PLANS_PARTLY] > count / 4 &&
                totals[TOTAL_PLAN_MOVES] > count / 4);
}

/* How many seeds it took, 0: it was not caught. The child ends at the first breach. */
static uint64_t seeds_to_catch(enum mutation tried)
{
    int seen[2];
    uint64_t last = 0, seed;
    assert_int_equal(pipe(seen), 0);
    pid_t child = fork();
    if (child == 0) {
        uint64_t totals[TOTAL_COUNT] = {0};
        int quiet = open("/dev/null", O_WRONLY);
        (void)dup2(quiet, 2);
        is_child = true;
        mutation = tried;
        for (seed = 1; seed <= MUTATION_SEEDS; seed++) {
            if (write(seen[1], &seed, sizeof seed) != sizeof seed)
                _exit(4);
            (void)run_seed(seed, false, totals);
        }
        _exit(0);
    }
    (void)close(seen[1]);
    while (read(seen[0], &seed, sizeof seed) == sizeof seed)
        last = seed;
    (void)close(seen[0]);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    bool caught = (WIFEXITED(status) && WEXITSTATUS(status) == 3) ||
                  (WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT); /* a core's assert */
    return caught ? last : 0;
}

static void every_seeded_mistake_is_caught(void **state)
{
    (void)state;
    unsigned missed = 0;
    if (getenv("GODWIT_SIM_SEED") || getenv("GODWIT_SIM_FROM"))
        return;
    for (enum mutation tried = MUTATION_NONE + 1; tried < MUTATION_COUNT; tried++) {
        uint64_t seeds = seeds_to_catch(tried);
        print_message("%-22s %s (%llu seeds)\n", mutation_names[tried],
                      seeds ? "caught" : "NOT CAUGHT",
                      (unsigned long long)(seeds ? seeds : MUTATION_SEEDS));
        missed += seeds == 0;
    }
    assert_int_equal(missed, 0);
}

int main(void)
{
    log_set_level(LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(moves_and_failovers_are_safe_and_end),
        cmocka_unit_test(every_seeded_mistake_is_caught),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#include "coordinator/balancer.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/own.h"
#include "base/world.h"
#include "coordinator/cluster_layout.h"
#include "coordinator/cluster_view.h"
#include "coordinator/plan_make.h"
#include "coordinator/words.h"

/* Loads are averages of half a minute: looking more often sees nothing new. */
enum { LOOK_EVERY_MS = 60000, LOAD_OLD_MS = 10000 };

static const char *const words[] = {
    [AUTO_OFF] = "off", [AUTO_APPROVE] = "approve", [AUTO_ON] = "on"};

int balancer_set(struct cluster *cluster, const char *word, struct problem *problem,
                 struct cluster_todo *todo)
{
    for (enum cluster_auto mode = AUTO_OFF; mode <= AUTO_ON; mode++) {
        if (strcmp(word, words[mode]) != 0)
            continue;
        cluster->auto_balance = mode;
        struct cluster_put *put = cluster_todo_put(todo, PUT_SETTINGS);
        put->revision = cluster->settings_revision++;
        cluster_todo_event(todo, "", "balance auto %s", word);
        return 0;
    }
    return problem_set(problem, GW_USAGE, "'%.40s' is no way to balance: off, approve, on", word);
}

static bool somebody_plans(const struct cluster *cluster)
{
    for (size_t i = 0; i < cluster->plan_count; i++) {
        const struct cluster_plan *plan = cluster->plans[i];
        bool waits = plan_state_of(plan) == PLAN_READY && plan->info->by &&
                     strcmp(plan->info->by, "balance") == 0;
        if (plan_is_active(plan) || waits)
            return true;
    }
    return false;
}

/* A pool whose loads are not known yet looks idle; nothing is planned on that. */
static bool loads_are_known(const struct cluster *cluster, struct cluster_now now)
{
    for (size_t i = 0; i < cluster->vm_count; i++) {
        const struct cluster_vm *vm = cluster->vms[i];
        if (vm->own.phase == OWN_RUN &&
            (vm->load_ns == 0 || now.ns - vm->load_ns > LOAD_OLD_MS * NS_PER_MS))
            return false;
    }
    return true;
}

void balancer_tick(struct cluster *cluster, struct cluster_now now, struct cluster_todo *todo)
{
    if (cluster->auto_balance == AUTO_OFF)
        return;
    if (cluster->balance_ns && now.ns - cluster->balance_ns < LOOK_EVERY_MS * NS_PER_MS)
        return;
    if (somebody_plans(cluster) || !loads_are_known(cluster, now))
        return;
    cluster->balance_ns = now.ns;
    cluster->balance_unix_ms = now.unix_ms;

    Godwit__PlanMakeRequest request = GODWIT__PLAN_MAKE_REQUEST__INIT;
    static char kind[] = "balance";
    struct problem problem = {0};
    struct cluster_plan *plan = NULL;
    char id[ID_SHORT_SIZE];
    cluster_draw_short(cluster, 'P', id);
    request.kind = kind;
    request.has_dry_run = true;
    request.dry_run = true;
    const struct plan_ask ask = {.request = &request, .id = id, .by = "balance", .parent = ""};
    if (plan_make(cluster, &ask, now, &plan, &problem, todo) != 0) {
        WORDS_COPY(cluster->balance_word, problem.text);
        return;
    }
    WORDS_COPY(cluster->balance_word, plan->info->verdict ? plan->info->verdict : "");
    struct cluster_plan *acted = NULL;
    if (plan->info->n_steps == 0)
        plan_forget(cluster, plan, todo);
    else if (cluster->auto_balance == AUTO_ON)
        (void)plan_act(cluster, id, GODWIT__PLAN_VERB__PLAN_VERB_RUN, now, &acted, &problem, todo);
}

static void tell_host(const struct cluster *cluster, const struct layout *layout, uint32_t h,
                      Godwit__HostLoad *told)
{
    const struct cluster_host *host = cluster->hosts[h];
    godwit__host_load__init(told);
    told->host = (char *)(uintptr_t)host->name; /* protobuf-c knows no const */
    told->has_load = told->has_stall = told->has_waits = told->has_full = true;
    told->has_psi_cpu = told->has_psi_memory = true;
    told->load = layout_host_load(layout, h);
    told->stall = layout_host_stall(layout, h);
    told->psi_cpu = host->psi_cpu;
    told->psi_memory = host->psi_memory;
    const struct layout_host *of_layout = layout_host(layout, h);
    told->full = of_layout->memory_bytes
                     ? 1 - (double)layout_free_bytes(layout, h) / (double)of_layout->memory_bytes
                     : 0;
    for (size_t v = 0; v < cluster->vm_count; v++) {
        const struct cluster_vm *vm = cluster->vms[v];
        if (vm->own.phase != OWN_STOPPED && strcmp(vm->own.owner, host->name) == 0)
            told->waits += vm->wait_cores;
    }
}

void balancer_reply(struct coordinator *coordinator, struct rpc_request *request)
{
    struct cluster *cluster = &coordinator->cluster;
    Godwit__BalanceReply reply = GODWIT__BALANCE_REPLY__INIT;
    struct cluster_layout view = {0};
    struct problem problem;
    AUTO_FREE Godwit__HostLoad *loads = calloc(cluster->host_count + 1, sizeof *loads);
    AUTO_FREE Godwit__HostLoad **list = calloc(cluster->host_count + 1, sizeof *list);
    assert(loads && list);
    reply.auto_ = (char *)(uintptr_t)words[cluster->auto_balance]; /* protobuf-c knows no const */
    reply.last = cluster->balance_word;
    reply.has_last_unix_ms = cluster->balance_unix_ms != 0;
    reply.last_unix_ms = cluster->balance_unix_ms;
    for (size_t i = 0; i < cluster->plan_count; i++) {
        const struct cluster_plan *plan = cluster->plans[i];
        bool is_waiting = plan_state_of(plan) == PLAN_READY || plan_is_active(plan);
        if (strcmp(plan->info->kind, "balance") == 0 && is_waiting)
            reply.plan = plan->info->id;
    }
    if (cluster_layout_new(&view, cluster, coordinator_now(), LAYOUT_STALL, true, &problem) == 0) {
        for (uint32_t h = 0; h < cluster->host_count; h++) {
            tell_host(cluster, view.layout, h, &loads[h]);
            list[h] = &loads[h];
        }
        reply.hosts = list;
        reply.n_hosts = cluster->host_count;
    }
    (void)rpc_reply(request, &reply.base);
    cluster_layout_deinit(&view);
}

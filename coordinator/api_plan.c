#include "coordinator/api_plan.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/log.h"
#include "base/own.h"
#include "coordinator/api.h"
#include "coordinator/balancer.h"
#include "coordinator/cluster_layout.h"
#include "coordinator/plan_make.h"
#include "coordinator/plan_watch.h"
#include "coordinator/rule.h"
#include "coordinator/why.h"
#include "coordinator/words.h"

/* ---- replies that wait for the disk -----------------------------------------------------------
 */

struct waiting {
    struct coordinator *coordinator;
    struct rpc_request *request;
    char id[OWN_HOST_SIZE];
};

static struct waiting *wait_as(struct coordinator *coordinator, struct rpc_request *request,
                               const char *id)
{
    struct waiting *waiting = calloc(1, sizeof *waiting);
    assert(waiting);
    waiting->coordinator = coordinator;
    waiting->request = request;
    WORDS_COPY(waiting->id, id);
    return waiting;
}

static void reply_plan(struct coordinator *coordinator, struct rpc_request *request,
                       struct cluster_plan *plan, struct problem *problem)
{
    Godwit__PlanReply reply = GODWIT__PLAN_REPLY__INIT;
    Godwit__OperatorError error;
    char *details[PROBLEM_DETAILS_MAX];
    if (problem) {
        problem_to_message(problem, &error, details);
        reply.error = &error;
    } else if (plan) {
        plan_tell_begin(&coordinator->cluster, plan, coordinator_now());
        reply.plan = plan->info;
    }
    (void)rpc_reply(request, &reply.base);
    if (plan && !problem)
        plan_tell_end(plan);
}

static struct cluster_plan *find_plan(const struct cluster *cluster, const char *id)
{
    for (size_t i = 0; i < cluster->plan_count; i++) {
        if (strcmp(cluster->plans[i]->id, id) == 0)
            return cluster->plans[i];
    }
    return NULL;
}

static void on_plan_stored(void *data)
{
    struct waiting *waiting = data;
    reply_plan(waiting->coordinator, waiting->request,
               find_plan(&waiting->coordinator->cluster, waiting->id), NULL);
    free(waiting);
}

/* ---- hosts ------------------------------------------------------------------------------------
 */

static void reply_host(struct coordinator *coordinator, struct rpc_request *request,
                       const struct cluster_host *host, struct problem *problem)
{
    Godwit__HostReply reply = GODWIT__HOST_REPLY__INIT;
    Godwit__OperatorError error;
    Godwit__HostInfo info;
    char *details[PROBLEM_DETAILS_MAX];
    if (problem) {
        problem_to_message(problem, &error, details);
        reply.error = &error;
    } else if (host) {
        api_fill_host(coordinator, host, &info);
        reply.host = &info;
    }
    (void)rpc_reply(request, &reply.base);
}

static void on_host_stored(void *data)
{
    struct waiting *waiting = data;
    reply_host(waiting->coordinator, waiting->request,
               cluster_host(&waiting->coordinator->cluster, waiting->id), NULL);
    free(waiting);
}

void api_plan_host_set(struct peer *peer, struct rpc_request *request, const void *message)
{
    struct coordinator *coordinator = peer->coordinator;
    struct cluster_todo todo = {0};
    struct cluster_host *host = NULL;
    struct problem problem;
    if (rule_set_host(&coordinator->cluster, message, coordinator_now(), &host, &problem, &todo) !=
        0) {
        reply_host(coordinator, request, NULL, &problem);
        cluster_todo_deinit(&todo);
        return;
    }
    coordinator_apply(coordinator, &todo, NULL, on_host_stored,
                      wait_as(coordinator, request, host->name));
}

/* ---- rules ------------------------------------------------------------------------------------
 */

/* Who breaks it now: of hard and soft rules alike. */
static void judge_rule(struct coordinator *coordinator, const struct layout *layout, uint32_t index,
                       Godwit__Rule *told)
{
    const struct layout_rule *rule = layout ? layout_rule(layout, index) : NULL;
    told->has_members = true;
    told->members = rule ? rule->vm_count : 0;
    told->broken_by = rule ? calloc(rule->vm_count + 1, sizeof *told->broken_by) : NULL;
    for (uint32_t i = 0; rule && told->broken_by && i < rule->vm_count; i++) {
        if (layout_breaks(layout, rule->vms[i], index))
            told->broken_by[told->n_broken_by++] =
                coordinator->cluster.vms[rule->vms[i]]->spec->name;
    }
    told->state = (char *)(uintptr_t)(told->n_broken_by > 0 ? "broken" : "kept");
}

void api_plan_rules(struct peer *peer, struct rpc_request *request, const void *message)
{
    (void)message;
    struct coordinator *coordinator = peer->coordinator;
    struct cluster *cluster = &coordinator->cluster;
    struct cluster_layout view = {0};
    struct problem problem;
    AUTO_FREE Godwit__Rule *rules = calloc(cluster->rule_count + 1, sizeof *rules);
    AUTO_FREE Godwit__Rule **list = calloc(cluster->rule_count + 1, sizeof *list);
    assert(rules && list);
    (void)cluster_layout_new(&view, cluster, coordinator_now(), LAYOUT_STALL, true, &problem);
    for (size_t i = 0; i < cluster->rule_count; i++) {
        rules[i] = *cluster->rules[i]->rule;
        judge_rule(coordinator, view.layout, (uint32_t)i, &rules[i]);
        list[i] = &rules[i];
    }
    Godwit__RuleList reply = GODWIT__RULE_LIST__INIT;
    reply.rules = list;
    reply.n_rules = cluster->rule_count;
    (void)rpc_reply(request, &reply.base);
    for (size_t i = 0; i < cluster->rule_count; i++)
        free(rules[i].broken_by);
    cluster_layout_deinit(&view);
}

static void reply_rule(struct rpc_request *request, Godwit__Rule *rule, struct problem *problem)
{
    Godwit__RuleReply reply = GODWIT__RULE_REPLY__INIT;
    Godwit__OperatorError error;
    char *details[PROBLEM_DETAILS_MAX];
    if (problem) {
        problem_to_message(problem, &error, details);
        reply.error = &error;
    }
    reply.rule = rule;
    (void)rpc_reply(request, &reply.base);
}

static void on_rule_stored(void *data)
{
    struct waiting *waiting = data;
    const struct cluster *cluster = &waiting->coordinator->cluster;
    struct cluster_layout view = {0};
    struct problem problem;
    Godwit__Rule told = GODWIT__RULE__INIT;
    for (size_t i = 0; i < cluster->rule_count; i++) {
        if (strcmp(cluster->rules[i]->rule->id, waiting->id) != 0)
            continue;
        told = *cluster->rules[i]->rule;
        (void)cluster_layout_new(&view, &waiting->coordinator->cluster, coordinator_now(),
                                 LAYOUT_STALL, true, &problem);
        judge_rule(waiting->coordinator, view.layout, (uint32_t)i, &told);
    }
    reply_rule(waiting->request, &told, NULL);
    free(told.broken_by);
    cluster_layout_deinit(&view);
    free(waiting);
}

void api_plan_rule_add(struct peer *peer, struct rpc_request *request, const void *message)
{
    struct coordinator *coordinator = peer->coordinator;
    const Godwit__RuleAddRequest *wanted = message;
    struct cluster_todo todo = {0};
    struct cluster_rule *rule = NULL;
    struct problem problem;
    if (rule_add(&coordinator->cluster, wanted->rule, coordinator_now(), &rule, &problem, &todo) !=
        0) {
        reply_rule(request, NULL, &problem);
        cluster_todo_deinit(&todo);
        return;
    }
    log_info("api", "rule added rule=%s kind=%s by=%s", rule->rule->id, rule->rule->kind,
             rpc_peer(peer->rpc)->name);
    coordinator_apply(coordinator, &todo, NULL, on_rule_stored,
                      wait_as(coordinator, request, rule->rule->id));
}

static void on_rule_gone(void *data)
{
    struct waiting *waiting = data;
    reply_rule(waiting->request, NULL, NULL);
    free(waiting);
}

void api_plan_rule_remove(struct peer *peer, struct rpc_request *request, const void *message)
{
    struct coordinator *coordinator = peer->coordinator;
    const Godwit__RuleRemoveRequest *wanted = message;
    struct cluster_todo todo = {0};
    struct problem problem;
    if (rule_remove(&coordinator->cluster, wanted->id ? wanted->id : "", &problem, &todo) != 0) {
        reply_rule(request, NULL, &problem);
        cluster_todo_deinit(&todo);
        return;
    }
    coordinator_apply(coordinator, &todo, NULL, on_rule_gone, wait_as(coordinator, request, ""));
}

/* ---- plans ------------------------------------------------------------------------------------
 */

static void make_plan(struct coordinator *coordinator, struct rpc_request *request,
                      const void *message)
{
    const struct rpc *rpc = rpc_request_rpc(request);
    struct cluster_todo todo = {0};
    struct cluster_plan *plan = NULL;
    struct problem problem;
    char id[ID_SHORT_SIZE];
    cluster_draw_short(&coordinator->cluster, 'P', id);
    const struct plan_ask ask = {
        .request = message, .id = id, .by = rpc ? rpc_peer(rpc)->name : "", .parent = ""};
    if (plan_make(&coordinator->cluster, &ask, coordinator_now(), &plan, &problem, &todo) != 0) {
        reply_plan(coordinator, request, NULL, &problem);
        cluster_todo_deinit(&todo);
        return;
    }
    log_info("api", "plan made plan=%s kind=%s state=%s steps=%zu by=%s", id, plan->info->kind,
             plan->info->state, plan->info->n_steps, ask.by);
    coordinator_apply(coordinator, &todo, NULL, on_plan_stored,
                      wait_as(coordinator, request, plan->id));
}

void api_plan_make(struct peer *peer, struct rpc_request *request, const void *message)
{
    api_look_first(peer->coordinator, request, message, make_plan);
}

void api_plan_act(struct peer *peer, struct rpc_request *request, const void *message)
{
    struct coordinator *coordinator = peer->coordinator;
    const Godwit__PlanActRequest *wanted = message;
    struct cluster_todo todo = {0};
    struct cluster_plan *plan = NULL;
    struct problem problem;
    if (plan_act(&coordinator->cluster, wanted->plan ? wanted->plan : "", wanted->verb,
                 coordinator_now(), &plan, &problem, &todo) != 0) {
        reply_plan(coordinator, request, NULL, &problem);
        cluster_todo_deinit(&todo);
        return;
    }
    coordinator_apply(coordinator, &todo, NULL, on_plan_stored,
                      wait_as(coordinator, request, plan ? plan->id : ""));
}

void api_plan_list(struct peer *peer, struct rpc_request *request, const void *message)
{
    struct coordinator *coordinator = peer->coordinator;
    struct cluster *cluster = &coordinator->cluster;
    const Godwit__PlanListRequest *wanted = message;
    struct cluster_plan *only = NULL;
    if (wanted->plan && wanted->plan[0]) {
        struct problem problem;
        only = cluster_find_plan(cluster, wanted->plan, &problem);
        if (!only) {
            api_reply_problem_as_fault(request, &problem, ERR_NOT_FOUND);
            return;
        }
    }
    AUTO_FREE Godwit__PlanInfo *infos = calloc(cluster->plan_count + 1, sizeof *infos);
    AUTO_FREE Godwit__PlanInfo **list = calloc(cluster->plan_count + 1, sizeof *list);
    assert(infos && list);
    size_t count = 0;
    for (size_t i = 0; i < cluster->plan_count; i++) {
        if (only && cluster->plans[i] != only)
            continue;
        plan_tell_begin(cluster, cluster->plans[i], coordinator_now());
        infos[count] = *cluster->plans[i]->info;
        if (!only)
            infos[count].n_steps = 0; /* its own page has them */
        list[count] = &infos[count];
        count++;
    }
    Godwit__PlanList reply = GODWIT__PLAN_LIST__INIT;
    reply.plans = list;
    reply.n_plans = count;
    (void)rpc_reply(request, &reply.base);
    for (size_t i = 0; i < cluster->plan_count; i++)
        plan_tell_end(cluster->plans[i]);
}

void api_plan_watch(struct peer *peer, struct rpc_request *request, const void *message)
{
    struct coordinator *coordinator = peer->coordinator;
    const Godwit__PlanWatchRequest *wanted = message;
    struct problem problem;
    struct cluster_plan *plan =
        cluster_find_plan(&coordinator->cluster, wanted->plan ? wanted->plan : "", &problem);
    reply_plan(coordinator, request, plan, plan ? NULL : &problem);
    if (plan && plan_is_active(plan))
        plan_watch_add(peer, plan->id);
}

/* ---- balance, why -----------------------------------------------------------------------------
 */

struct balance_waiting {
    struct coordinator *coordinator;
    struct rpc_request *request;
};

static void on_balance_stored(void *data)
{
    struct balance_waiting *waiting = data;
    balancer_reply(waiting->coordinator, waiting->request);
    free(waiting);
}

void api_plan_balance(struct peer *peer, struct rpc_request *request, const void *message)
{
    struct coordinator *coordinator = peer->coordinator;
    const Godwit__BalanceRequest *wanted = message;
    struct cluster_todo todo = {0};
    struct problem problem;
    if (wanted->set_auto && wanted->set_auto[0] &&
        balancer_set(&coordinator->cluster, wanted->set_auto, &problem, &todo) != 0) {
        Godwit__BalanceReply reply = GODWIT__BALANCE_REPLY__INIT;
        Godwit__OperatorError error;
        char *details[PROBLEM_DETAILS_MAX];
        problem_to_message(&problem, &error, details);
        reply.error = &error;
        (void)rpc_reply(request, &reply.base);
        return;
    }
    struct balance_waiting *waiting = calloc(1, sizeof *waiting);
    assert(waiting);
    *waiting = (struct balance_waiting){coordinator, request};
    coordinator_apply(coordinator, &todo, NULL, on_balance_stored, waiting);
}

static void tell_why(struct coordinator *coordinator, struct rpc_request *request,
                     const void *message)
{
    why_reply(&coordinator->cluster, request, message, coordinator_now());
}

void api_plan_why(struct peer *peer, struct rpc_request *request, const void *message)
{
    api_look_first(peer->coordinator, request, message, tell_why);
}

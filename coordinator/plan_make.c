#include "coordinator/plan_make.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/id.h"
#include "base/own.h"
#include "base/units.h"
#include "base/world.h"
#include "coordinator/cluster_core.h"
#include "coordinator/cluster_forecast.h"
#include "coordinator/cluster_layout.h"
#include "coordinator/rule.h"
#include "coordinator/words.h"
#include "placement/balance.h"
#include "placement/choose.h"
#include "placement/evacuate.h"
#include "proto/limits.h"

/* A balance plan looks so far ahead, and moves no VM that it moved less long ago. */
#define HORIZON_S 1800.0
#define COOL_DOWN_NS (UINT64_C(600) * NS_PER_S)
#define HYSTERESIS 2.0
#define GAIN_LEAST_S 5.0
enum { BALANCE_MOVES_MAX = 200 };

struct making {
    struct cluster *cluster;
    const struct plan_ask *ask;
    struct cluster_now now;
    struct cluster_layout view;
    struct cluster_plan *plan;
    struct problem *problem;
    struct moves moves;
};

static struct forecast_link link_of(const struct cluster *cluster)
{
    return cluster->link.bytes_per_s > 0 ? cluster->link : FORECAST_LINK_UNKNOWN;
}

static int open_view(struct making *making, enum layout_goal goal)
{
    cluster_layout_deinit(&making->view);
    return cluster_layout_new(&making->view, making->cluster, making->now, goal, true,
                              making->problem);
}

/* ---- from moves to steps ----------------------------------------------------------------------
 */

static void add_rules(Godwit__PlanInfo *info, Godwit__PlanStep *step, const struct layout *layout,
                      const struct move *move)
{
    for (unsigned i = 0; i < move->rule_count; i++) {
        const char *id = layout_rule(layout, move->rules[i])->id;
        plan_add_text(&step->rules, &step->n_rules, id);
        bool is_known = false;
        for (size_t n = 0; !is_known && n < info->n_rules; n++)
            is_known = strcmp(info->rules[n], id) == 0;
        if (!is_known)
            plan_add_text(&info->rules, &info->n_rules, id);
    }
}

static void set_forecast(Godwit__PlanStep *step, const struct forecast *forecast)
{
    step->has_predicted_ns = step->has_predicted_high_ns = step->has_predicted_pause_ns = true;
    step->predicted_ns = (uint64_t)(forecast->seconds * 1e9);
    step->predicted_high_ns = (uint64_t)(forecast->seconds_high * 1e9);
    step->predicted_pause_ns = (uint64_t)(forecast->pause_s * 1e9);
}

static Godwit__PlanStep *add_vm_step(struct making *making, const char *kind, uint32_t v,
                                     const char *source, const char *target)
{
    const struct cluster_vm *vm = making->cluster->vms[v];
    Godwit__PlanStep *step = plan_add_step(making->plan->info, kind);
    plan_text(&step->vm, "%s", vm->spec->name);
    plan_text(&step->vm_id, "%s", vm->id);
    plan_text(&step->source, "%s", source);
    plan_text(&step->target, "%s", target);
    step->has_memory_bytes = true;
    step->memory_bytes = vm->spec->memory->size;
    return step;
}

static const char *choice_of(const struct making *making, const struct cluster_vm *vm)
{
    const Godwit__PlanMakeRequest *request = making->ask->request;
    for (size_t i = request->n_choices; i-- > 0;) { /* the last one that fits counts */
        const Godwit__VmChoice *choice = request->choices[i];
        if (choice->vm && choice->how && rule_matches(choice->vm, vm->spec->name))
            return choice->how;
    }
    return "live";
}

static void take_moves(struct making *making)
{
    const struct layout *layout = making->view.layout;
    for (size_t i = 0; i < making->moves.count; i++) {
        const struct move *move = &making->moves.moves[i];
        bool is_cold = strcmp(choice_of(making, making->cluster->vms[move->vm]), "cold") == 0;
        Godwit__PlanStep *step =
            add_vm_step(making, is_cold ? "cold" : "migrate", move->vm,
                        layout_host(layout, move->from)->name, layout_host(layout, move->to)->name);
        plan_text(&step->reason, "%s", move->reason);
        for (unsigned n = 0; n < move->rejected_count; n++)
            plan_add_text(&step->rejected, &step->n_rejected, move->rejected[n]);
        add_rules(making->plan->info, step, layout, move);
        set_forecast(step, &move->forecast);
        step->has_gain = move->gain != 0;
        step->gain = move->gain;
        if (!is_cold && !move->forecast.converges)
            plan_text(&step->note, "writes faster than the link carries: may not converge");
    }
    for (size_t i = 0; i < making->moves.blocker_count; i++) {
        const struct blocker *blocker = &making->moves.blockers[i];
        Godwit__PlanBlocker *added = plan_add_blocker(making->plan->info);
        plan_text(&added->vm, "%s", layout_vm(layout, blocker->vm)->name);
        plan_text(&added->reason, "%s", blocker->reason);
        for (unsigned n = 0; n < blocker->concession_count; n++)
            plan_add_text(&added->concessions, &added->n_concessions, blocker->concessions[n]);
    }
}

/* One after another where they share a host, beside each other else. */
static void predict(struct making *making)
{
    Godwit__PlanInfo *info = making->plan->info;
    double likely = moves_lower_bound_s(making->view.layout, &making->moves), high = 0;
    double ratio = 1;
    double sum = 0, sum_high = 0;
    for (size_t i = 0; i < making->moves.count; i++) {
        sum += making->moves.moves[i].forecast.seconds;
        sum_high += making->moves.moves[i].forecast.seconds_high;
    }
    if (sum > 0)
        ratio = sum_high / sum;
    high = likely * ratio;
    info->has_predicted_ns = info->has_predicted_high_ns = true;
    info->predicted_ns = (uint64_t)(likely * 1e9);
    info->predicted_high_ns = (uint64_t)(high * 1e9);
}

/* ---- kinds ------------------------------------------------------------------------------------
 */

static struct cluster_host *find_target_host(struct making *making)
{
    const Godwit__PlanMakeRequest *request = making->ask->request;
    struct cluster_host *host =
        cluster_find_host(making->cluster, request->host ? request->host : "", making->problem);
    if (!host)
        return NULL;
    const struct cluster_plan *other =
        plan_of_host(making->cluster, host->name, making->ask->parent);
    if (other && !request->dry_run) {
        (void)problem_set(making->problem, GW_HOST_BUSY, "plan %s (%s) has %s now", other->id,
                          other->info->kind, host->name);
        problem_hint(making->problem, "godwit plan show %s", other->id);
        return NULL;
    }
    return host;
}

static int judge_choices(struct making *making)
{
    static const char *const hows[] = {"live", "cold", "stop", "keep"};
    const Godwit__PlanMakeRequest *request = making->ask->request;
    for (size_t i = 0; i < request->n_choices; i++) {
        const Godwit__VmChoice *choice = request->choices[i];
        bool is_known = false, names_one = false;
        for (size_t n = 0; choice->how && n < ARRAY_COUNT(hows); n++)
            is_known |= strcmp(choice->how, hows[n]) == 0;
        for (size_t v = 0; choice->vm && v < making->cluster->vm_count; v++)
            names_one |= rule_matches(choice->vm, making->cluster->vms[v]->spec->name);
        if (!is_known)
            return problem_set(making->problem, GW_USAGE,
                               "'%.40s' is nothing that can be chosen for a VM: live, cold, stop, "
                               "keep",
                               choice->how ? choice->how : "");
        if (!names_one)
            return problem_set(making->problem, GW_VM_UNKNOWN, "there is no VM '%.80s'",
                               choice->vm ? choice->vm : "");
    }
    return 0;
}

static int plan_vms(struct making *making, const uint32_t *vms, size_t count)
{
    struct fault fault = {0};
    const struct evacuate_ask ask = {
        .vms = vms, .count = count, .link = link_of(making->cluster), .pause_goal_s = 0.1};
    if (evacuate_plan(making->view.layout, &ask, &making->moves, &fault) < 0)
        return problem_set(making->problem, GW_INTERNAL, "%s", fault.text);
    /* Where each goes is known now, and with it what is known of the way. */
    for (size_t i = 0; i < making->moves.count; i++) {
        struct move *move = &making->moves.moves[i];
        move->forecast = cluster_forecast(making->cluster, making->cluster->vms[move->vm],
                                          layout_host(making->view.layout, move->from)->name,
                                          layout_host(making->view.layout, move->to)->name, NULL);
    }
    return 0;
}

static int make_evacuate(struct making *making, struct cluster_host *host)
{
    Godwit__PlanInfo *info = making->plan->info;
    uint32_t h = cluster_layout_host(making->cluster, host);
    AUTO_FREE uint32_t *vms = calloc(making->cluster->vm_count + 1, sizeof *vms);
    size_t count = 0;
    if (!vms || judge_choices(making) != 0 || open_view(making, LAYOUT_STALL) != 0)
        return -1;
    struct layout *layout = making->view.layout;
    if (host->facts == NULL || !layout_host(layout, h)->up) {
        (void)problem_set(making->problem, GW_HOST_DOWN,
                          "the agent of %s does not answer, so its VMs cannot be moved",
                          host->name);
        problem_hint(making->problem, "godwit host show %s", host->name);
        return -1;
    }
    layout_cordon(layout, h, true);
    for (uint32_t v = layout_first_vm(layout, h); v != LAYOUT_NONE; v = layout_next_vm(layout, v)) {
        const struct cluster_vm *vm = making->cluster->vms[v];
        const char *how = choice_of(making, vm);
        if (strcmp(how, "keep") == 0) {
            plan_add_text(&info->kept, &info->n_kept, vm->spec->name);
        } else if (strcmp(how, "stop") == 0) {
            Godwit__PlanStep *step = add_vm_step(making, "stop", v, host->name, "");
            plan_text(&step->reason, "the operator's choice");
        } else {
            vms[count++] = v;
        }
    }
    if (plan_vms(making, vms, count) != 0)
        return -1;
    take_moves(making);
    predict(making);
    return 0;
}

/* The VMs that the last evacuation took away and that are still where it brought them. */
static int make_restore(struct making *making, struct cluster_host *host)
{
    const struct cluster *cluster = making->cluster;
    const struct cluster_plan *last = NULL;
    uint32_t h = cluster_layout_host(cluster, host);
    for (size_t i = 0; i < cluster->plan_count; i++) {
        const Godwit__PlanInfo *info = cluster->plans[i]->info;
        bool fits = strcmp(info->kind, "evacuate") == 0 && info->host &&
                    strcmp(info->host, host->name) == 0 && plan_is_over(cluster->plans[i]);
        if (fits && (!last || info->began_unix_ms >= last->info->began_unix_ms))
            last = cluster->plans[i];
    }
    if (open_view(making, LAYOUT_STALL) != 0)
        return -1;
    struct layout *layout = making->view.layout;
    layout_cordon(layout, h, false);
    for (size_t i = 0; making->ask->request->bring_back && last && i < last->info->n_steps; i++) {
        const Godwit__PlanStep *step = last->info->steps[i];
        const struct cluster_vm *vm = step->vm_id ? cluster_vm(cluster, step->vm_id) : NULL;
        bool is_ours = vm && plan_step_state_of(step) == STEP_DONE && step->source &&
                       strcmp(step->source, host->name) == 0 && step->target &&
                       vm->own.phase == OWN_RUN && strcmp(vm->own.owner, step->target) == 0;
        uint32_t v = is_ours ? cluster_layout_vm(cluster, vm) : LAYOUT_NONE;
        if (!is_ours)
            continue;
        if (layout_vm(layout, v)->fixed || layout_judge(layout, v, h, NULL) != LAYOUT_FITS) {
            struct blocker *blocker = moves_add_blocker(&making->moves);
            assert(blocker);
            blocker->vm = v;
            if (layout_vm(layout, v)->fixed)
                WORDS_COPY(blocker->reason, layout_vm(layout, v)->fixed);
            else
                (void)layout_obstacle_words(layout, v, h, blocker->reason, sizeof blocker->reason);
            continue;
        }
        struct move *move = moves_add(&making->moves);
        assert(move);
        move->vm = v;
        move->from = layout_vm(layout, v)->host;
        move->to = h;
        move->forecast = cluster_forecast(cluster, vm, step->target, host->name, NULL);
        (void)snprintf(move->reason, sizeof move->reason, "plan %s took it away from %s", last->id,
                       host->name);
        moves_explain(layout, move);
        layout_move(layout, v, h);
    }
    take_moves(making);
    predict(making);
    return 0;
}

/* What was moved by a plan of balance a moment ago stays: loads that swing would make it swing. */
static void cool_down(struct making *making)
{
    for (size_t v = 0; v < making->cluster->vm_count; v++) {
        const struct cluster_vm *vm = making->cluster->vms[v];
        if (vm->balanced_ns == 0 || making->now.ns - vm->balanced_ns > COOL_DOWN_NS)
            continue;
        WORDS_COPY(making->view.fixed[v], "was moved to balance the pool less than 10 min ago");
        layout_fix(making->view.layout, (uint32_t)v, making->view.fixed[v]);
    }
}

static int make_balance(struct making *making)
{
    const Godwit__PlanMakeRequest *request = making->ask->request;
    bool is_even = request->goal && strcmp(request->goal, "even") == 0;
    struct fault fault = {0};
    struct balance_result result;
    if (request->goal && request->goal[0] && !is_even && strcmp(request->goal, "stall") != 0)
        return problem_set(making->problem, GW_USAGE,
                           "'%.40s' is nothing to balance by: stall, even", request->goal);
    cluster_layout_deinit(&making->view);
    if (cluster_layout_new(&making->view, making->cluster, making->now,
                           is_even ? LAYOUT_EVEN : LAYOUT_STALL, false, making->problem) != 0)
        return -1;
    cool_down(making);
    const struct balance_ask ask = {.horizon_s = HORIZON_S,
                                    .hysteresis = HYSTERESIS,
                                    .gain_least = is_even ? 0.01 : GAIN_LEAST_S,
                                    .moves_most = BALANCE_MOVES_MAX,
                                    .link = link_of(making->cluster),
                                    .pause_goal_s = 0.1,
                                    .is_budgeted = is_even,
                                    .even_enough = 0.1};
    if (balance_plan(making->view.layout, &ask, &making->moves, &result, &fault) < 0)
        return problem_set(making->problem, GW_INTERNAL, "%s", fault.text);
    take_moves(making);
    predict(making);
    plan_text(&making->plan->info->verdict, "%s", result.verdict);
    return 0;
}

static int make_repair(struct making *making)
{
    struct fault fault = {0};
    const struct balance_ask ask = {.horizon_s = HORIZON_S,
                                    .hysteresis = 1,
                                    .moves_most = BALANCE_MOVES_MAX,
                                    .link = link_of(making->cluster),
                                    .pause_goal_s = 0.1};
    if (open_view(making, LAYOUT_STALL) != 0)
        return -1;
    if (balance_repair(making->view.layout, &ask, &making->moves, &fault) < 0)
        return problem_set(making->problem, GW_INTERNAL, "%s", fault.text);
    take_moves(making);
    predict(making);
    if (making->moves.count == 0 && making->moves.blocker_count == 0)
        plan_text(&making->plan->info->verdict, "every hard rule is kept");
    return 0;
}

/* ---- reboot: host after host ------------------------------------------------------------------
 */

static int by_domain(const void *a, const void *b)
{
    const struct cluster_host *x = *(struct cluster_host *const *)a;
    const struct cluster_host *y = *(struct cluster_host *const *)b;
    const char *of_x = rule_host_label(x, "domain"), *of_y = rule_host_label(y, "domain");
    int order = strcmp(of_x ? of_x : "", of_y ? of_y : "");
    return order ? order : strcmp(x->name, y->name);
}

/* What the evacuation of this host would be now; its own is planned when its turn comes. */
static int foresee(struct making *making, struct cluster_host *host, Godwit__PlanStep *step)
{
    if (open_view(making, LAYOUT_STALL) != 0)
        return -1;
    struct layout *layout = making->view.layout;
    uint32_t h = cluster_layout_host(making->cluster, host);
    AUTO_FREE uint32_t *vms = calloc(making->cluster->vm_count + 1, sizeof *vms);
    size_t count = 0;
    if (!vms)
        return problem_set(making->problem, GW_INTERNAL, "no memory for a plan");
    layout_cordon(layout, h, true);
    for (uint32_t v = layout_first_vm(layout, h); v != LAYOUT_NONE; v = layout_next_vm(layout, v))
        vms[count++] = v;
    moves_deinit(&making->moves);
    if (plan_vms(making, vms, count) != 0)
        return -1;
    double seconds = moves_lower_bound_s(layout, &making->moves);
    step->has_predicted_ns = true;
    step->predicted_ns = (uint64_t)(seconds * 1e9);
    plan_text(&step->reason, "%zu VMs of %s go elsewhere first", making->moves.count, host->name);
    for (size_t i = 0; i < making->moves.blocker_count; i++) {
        const struct blocker *blocker = &making->moves.blockers[i];
        Godwit__PlanBlocker *added = plan_add_blocker(making->plan->info);
        plan_text(&added->vm, "%s", layout_vm(layout, blocker->vm)->name);
        plan_text(&added->reason, "%s", blocker->reason);
        for (unsigned n = 0; n < blocker->concession_count; n++)
            plan_add_text(&added->concessions, &added->n_concessions, blocker->concessions[n]);
    }
    return 0;
}

static int add_reboot(struct making *making, struct cluster_host *host)
{
    static const char *const kinds[] = {"evacuate", "reboot", "restore"};
    const char *domain = rule_host_label(host, "domain");
    for (size_t i = 0; i < ARRAY_COUNT(kinds); i++) {
        Godwit__PlanStep *step = plan_add_step(making->plan->info, kinds[i]);
        plan_text(&step->source, "%s", host->name);
        if (i == 0 && foresee(making, host, step) != 0)
            return -1;
        if (i == 1)
            plan_text(&step->reason, "failure domain %s", domain ? domain : host->name);
        if (i == 2)
            plan_text(&step->reason, "its VMs come back");
        making->plan->info->has_predicted_ns = true;
        making->plan->info->predicted_ns += step->predicted_ns * (i == 0 ? 2 : 1);
    }
    return 0;
}

static int make_reboot(struct making *making)
{
    struct cluster *cluster = making->cluster;
    const Godwit__PlanMakeRequest *request = making->ask->request;
    AUTO_FREE struct cluster_host **hosts = calloc(cluster->host_count + 1, sizeof *hosts);
    size_t count = 0;
    if (!hosts)
        return problem_set(making->problem, GW_INTERNAL, "no memory for a plan");
    for (size_t i = 0; i < request->n_hosts && i < cluster->host_count; i++) {
        hosts[count] = cluster_find_host(cluster, request->hosts[i], making->problem);
        if (!hosts[count++])
            return -1;
    }
    for (size_t i = 0; request->n_hosts == 0 && i < cluster->host_count; i++)
        hosts[count++] = cluster->hosts[i];
    qsort(hosts, count, sizeof *hosts, by_domain);
    for (size_t i = 0; i < cluster->plan_count; i++) {
        const struct cluster_plan *other = cluster->plans[i];
        if (plan_is_active(other) && !request->dry_run &&
            (strcmp(other->info->kind, "reboot") == 0 || other->info->host))
            return problem_set(making->problem, GW_HOST_BUSY, "plan %s (%s) runs; one at a time",
                               other->id, other->info->kind);
    }
    int r = 0;
    for (size_t i = 0; r == 0 && i < count; i++)
        r = add_reboot(making, hosts[i]);
    moves_deinit(&making->moves);
    return r;
}

/* ---- all --------------------------------------------------------------------------------------
 */

static int make_kind(struct making *making, const char *kind)
{
    struct cluster_host *host = NULL;
    bool of_host = strcmp(kind, "evacuate") == 0 || strcmp(kind, "restore") == 0;
    if (of_host) {
        host = find_target_host(making);
        if (!host)
            return -1;
        plan_text(&making->plan->info->host, "%s", host->name);
    }
    if (strcmp(kind, "evacuate") == 0)
        return make_evacuate(making, host);
    if (strcmp(kind, "restore") == 0)
        return make_restore(making, host);
    if (strcmp(kind, "balance") == 0)
        return make_balance(making);
    if (strcmp(kind, "repair") == 0)
        return make_repair(making);
    if (strcmp(kind, "reboot") == 0)
        return make_reboot(making);
    return problem_set(making->problem, GW_USAGE, "'%.40s' is no kind of plan", kind);
}

static int judge_time(struct making *making)
{
    Godwit__PlanInfo *info = making->plan->info;
    uint64_t by_ms = making->ask->request->by_ms;
    char likely[UNITS_TEXT_SIZE], high[UNITS_TEXT_SIZE], given[UNITS_TEXT_SIZE];
    if (by_ms == 0)
        return 0;
    info->has_deadline_unix_ms = true;
    info->deadline_unix_ms = making->now.unix_ms + by_ms;
    units_print_duration(info->predicted_ns, likely);
    units_print_duration(info->predicted_high_ns, high);
    units_print_duration(by_ms * NS_PER_MS, given);
    if (info->predicted_ns > by_ms * NS_PER_MS && !making->ask->request->dry_run) {
        (void)problem_set(making->problem, GW_PLAN_LATE,
                          "this takes %s to %s by what was measured, %s were given", likely, high,
                          given);
        problem_hint(making->problem, "without --by it takes as long as it takes");
        return -1;
    }
    if (info->predicted_high_ns > by_ms * NS_PER_MS)
        plan_text(&info->verdict, "may not be over in %s: %s to %s are likely", given, likely,
                  high);
    return 0;
}

static void begin(struct cluster *cluster, struct cluster_plan *plan, struct cluster_now now,
                  struct cluster_todo *todo)
{
    Godwit__PlanInfo *info = plan->info;
    char reason[CLUSTER_REASON_SIZE];
    struct cluster_host *host = info->host ? cluster_host(cluster, info->host) : NULL;
    plan_set_state(plan, PLAN_RUNNING);
    info->has_began_unix_ms = true;
    info->began_unix_ms = now.unix_ms;
    (void)snprintf(reason, sizeof reason, "evacuated by plan %s", plan->id);
    if (host && strcmp(info->kind, "evacuate") == 0 && !rule_host_is_cordoned(host))
        rule_cordon(host, true, reason, plan->id, todo);
    if (host && strcmp(info->kind, "restore") == 0 && rule_host_is_cordoned(host))
        rule_cordon(host, false, "", "", todo);
    cluster_todo_event(todo, "", "plan %s: %s%s%s begins, %zu steps, %zu VMs stay", plan->id,
                       info->kind, info->host ? " of " : "", info->host ? info->host : "",
                       info->n_steps, info->n_blockers);
}

static void drop_old_plans(struct cluster *cluster, struct cluster_todo *todo)
{
    for (size_t i = 0; cluster->plan_count > CLUSTER_PLANS_KEPT && i < cluster->plan_count;) {
        struct cluster_plan *plan = cluster->plans[i];
        if (plan_is_active(plan)) {
            i++;
            continue;
        }
        struct cluster_put *put = cluster_todo_put(todo, PUT_DELETE_PLAN);
        put->revision = plan->revision;
        WORDS_COPY(put->key, plan->id);
        cluster_drop_plan(cluster, plan);
    }
}

int plan_make(struct cluster *cluster, const struct plan_ask *ask, struct cluster_now now,
              struct cluster_plan **ret_plan, struct problem *problem, struct cluster_todo *todo)
{
    const Godwit__PlanMakeRequest *request = ask->request;
    struct making making = {.cluster = cluster, .ask = ask, .now = now, .problem = problem};
    const char *kind = request->kind ? request->kind : "";
    making.plan = cluster_add_plan(cluster, ask->id);
    if (!making.plan)
        return problem_set(problem, GW_INTERNAL, "no memory for a plan");
    Godwit__PlanInfo *info = making.plan->info;
    plan_text(&info->id, "%s", ask->id);
    plan_text(&info->kind, "%s", kind);
    plan_text(&info->by, "%s", ask->by);
    plan_text(&info->parent, "%s", ask->parent);
    info->has_created_unix_ms = true;
    info->created_unix_ms = now.unix_ms;
    info->has_exact = request->dry_run;
    info->exact = request->dry_run;
    info->has_bring_back = true;
    info->bring_back = request->bring_back;
    plan_set_state(making.plan, PLAN_READY);

    int r = make_kind(&making, kind);
    if (r == 0)
        r = judge_time(&making);
    if (r == 0 && info->n_steps > PLAN_STEPS_MAX)
        r = problem_set(problem, GW_POOL_FULL, "%zu steps; a plan has %d at most", info->n_steps,
                        PLAN_STEPS_MAX);
    moves_deinit(&making.moves);
    cluster_layout_deinit(&making.view);
    if (r != 0) {
        cluster_drop_plan(cluster, making.plan);
        return -1;
    }
    cluster_plan_ready(making.plan);
    if (!request->dry_run)
        begin(cluster, making.plan, now, todo);
    plan_put(making.plan, todo);
    *ret_plan = making.plan;
    drop_old_plans(cluster, todo);
    return 0;
}

void plan_forget(struct cluster *cluster, struct cluster_plan *plan, struct cluster_todo *todo)
{
    size_t kept = 0;
    for (size_t i = 0; i < todo->put_count; i++) { /* it may never have been stored */
        bool is_its = todo->puts[i].kind == PUT_PLAN && todo->puts[i].object == plan;
        if (is_its)
            plan->revision--;
        else
            todo->puts[kept++] = todo->puts[i];
    }
    todo->put_count = kept;
    if (plan->revision > 0) {
        struct cluster_put *put = cluster_todo_put(todo, PUT_DELETE_PLAN);
        put->revision = plan->revision;
        WORDS_COPY(put->key, plan->id);
    }
    cluster_drop_plan(cluster, plan);
}

/* ---- run, pause, resume, cancel, rm -----------------------------------------------------------
 */

static int wrong_state(const struct cluster_plan *plan, const char *what, struct problem *problem)
{
    (void)problem_set(problem, GW_PLAN_STATE, "plan %s is %s; it cannot be %s", plan->id,
                      plan->info->state, what);
    problem_hint(problem, "godwit plan show %s", plan->id);
    return -1;
}

static int act_run(struct cluster *cluster, struct cluster_plan *plan, struct cluster_now now,
                   struct problem *problem, struct cluster_todo *todo)
{
    if (plan_state_of(plan) != PLAN_READY)
        return wrong_state(plan, "run", problem);
    const struct cluster_plan *other =
        plan->info->host ? plan_of_host(cluster, plan->info->host, plan->id) : NULL;
    if (other)
        return problem_set(problem, GW_HOST_BUSY, "plan %s (%s) has %s now", other->id,
                           other->info->kind, plan->info->host);
    begin(cluster, plan, now, todo);
    return 0;
}

int plan_act(struct cluster *cluster, const char *word, Godwit__PlanVerb verb,
             struct cluster_now now, struct cluster_plan **ret_plan, struct problem *problem,
             struct cluster_todo *todo)
{
    struct cluster_plan *plan = cluster_find_plan(cluster, word, problem);
    if (!plan)
        return -1;
    enum plan_state state = plan_state_of(plan);
    *ret_plan = plan;
    switch (verb) {
    case GODWIT__PLAN_VERB__PLAN_VERB_RUN:
        if (act_run(cluster, plan, now, problem, todo) != 0)
            return -1;
        break;
    case GODWIT__PLAN_VERB__PLAN_VERB_PAUSE:
        if (state != PLAN_RUNNING)
            return wrong_state(plan, "paused", problem);
        plan_set_state(plan, PLAN_PAUSED);
        break;
    case GODWIT__PLAN_VERB__PLAN_VERB_RESUME:
        if (state != PLAN_PAUSED)
            return wrong_state(plan, "resumed", problem);
        plan_set_state(plan, PLAN_RUNNING);
        break;
    case GODWIT__PLAN_VERB__PLAN_VERB_CANCEL:
        if (state != PLAN_RUNNING && state != PLAN_PAUSED)
            return wrong_state(plan, "canceled", problem);
        plan_set_state(plan, PLAN_CANCELING);
        break;
    case GODWIT__PLAN_VERB__PLAN_VERB_RM: {
        if (plan_is_active(plan))
            return wrong_state(plan, "removed", problem);
        struct cluster_put *put = cluster_todo_put(todo, PUT_DELETE_PLAN);
        put->revision = plan->revision;
        WORDS_COPY(put->key, plan->id);
        cluster_drop_plan(cluster, plan);
        *ret_plan = NULL;
        return 0;
    }
    case _GODWIT__PLAN_VERB_IS_INT_SIZE:
    default: /* a number from the wire */
        return problem_set(problem, GW_USAGE, "nothing known can be done to a plan by verb %d",
                           (int)verb);
    }
    plan_put(plan, todo);
    return 0;
}

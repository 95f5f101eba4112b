#include "coordinator/plan_core.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/own.h"
#include "base/units.h"
#include "base/world.h"
#include "coordinator/balancer.h"
#include "coordinator/cluster_ask.h"
#include "coordinator/cluster_core.h"
#include "coordinator/cluster_forecast.h"
#include "coordinator/cluster_layout.h"
#include "coordinator/cluster_view.h"
#include "coordinator/plan_make.h"
#include "coordinator/rule.h"
#include "coordinator/words.h"
#include "proto/limits.h"
#include "proto/vm_spec.h"

enum {
    ATTEMPTS_MAX = 3, /* more only at targets that have not failed yet */
    TARGETS_MAX = 8,
    AGAIN_MS = 1500,  /* after a failed move, times its attempts */
    STUCK_MS = 15000, /* no host fits and nothing under way could change that */
};

struct running { /* one plan's turn */
    struct cluster *cluster;
    struct cluster_plan *plan;
    struct cluster_now now;
    struct cluster_todo *todo;
    bool changed;
};

static bool is_same(const char *a, const char *b)
{
    return a && b && strcmp(a, b) == 0;
}

static struct plan_run *run_of(const struct running *running, const Godwit__PlanStep *step)
{
    return &running->plan->runs[step->number - 1];
}

/* Why it waits is told, not stored: it changes with the wind. */
static void wait_for(struct running *running, Godwit__PlanStep *step, const char *why)
{
    if (is_same(step->note, why))
        return;
    plan_text(&step->note, "%s", why);
    cluster_todo_news(running->todo, running->plan->id);
}

static void end_step(struct running *running, Godwit__PlanStep *step, enum plan_step_state state,
                     const char *note)
{
    plan_set_step_state(step, state);
    plan_text(&step->note, "%s", note);
    step->has_ended_unix_ms = true;
    step->ended_unix_ms = running->now.unix_ms;
    running->changed = true;
}

static void begin_step(struct running *running, Godwit__PlanStep *step)
{
    plan_set_step_state(step, STEP_RUNNING);
    plan_text(&step->note, "%s", "");
    step->has_attempts = true;
    step->attempts++;
    if (!step->began_unix_ms) {
        step->has_began_unix_ms = true;
        step->began_unix_ms = running->now.unix_ms;
    }
    running->changed = true;
}

/* May a step that its target does not take go elsewhere? */
static bool may_choose(const struct running *running)
{
    const Godwit__PlanInfo *info = running->plan->info;
    return !info->exact && !is_same(info->kind, "restore");
}

static bool has_failed_at(const Godwit__PlanStep *step, const char *host)
{
    for (size_t i = 0; i < step->n_failed_at; i++) {
        if (is_same(step->failed_at[i], host))
            return true;
    }
    return false;
}

/* Its target goes to the end of those that failed; kept in the record, so that a coordinator that
 * takes over does not begin with them. */
static void blame_target(struct running *running, Godwit__PlanStep *step, const char *why)
{
    char *again = NULL;
    size_t kept = 0;
    for (size_t i = 0; i < step->n_failed_at; i++) {
        if (is_same(step->failed_at[i], step->target))
            again = step->failed_at[i];
        else
            step->failed_at[kept++] = step->failed_at[i];
    }
    step->n_failed_at = kept;
    if (again)
        step->failed_at[step->n_failed_at++] = again;
    else if (step->target)
        plan_add_text(&step->failed_at, &step->n_failed_at, step->target);
    plan_text(&step->failure, "%s", why);
    running->changed = true;
}

static void try_again(struct running *running, Godwit__PlanStep *step, const char *why)
{
    struct plan_run *run = run_of(running, step);
    enum plan_state state = plan_state_of(running->plan);
    bool goes_elsewhere = may_choose(running) && plan_step_is(step, "migrate");
    if (step->attempts >= (goes_elsewhere ? TARGETS_MAX : ATTEMPTS_MAX) ||
        state == PLAN_CANCELING) {
        end_step(running, step, state == PLAN_CANCELING ? STEP_CANCELED : STEP_FAILED, why);
        return;
    }
    plan_set_step_state(step, STEP_WAITING);
    plan_text(&step->note, "tries again: %s", why);
    run->not_before_ns = running->now.ns + (uint64_t)AGAIN_MS * step->attempts * NS_PER_MS;
    running->changed = true;
}

/* ---- steps under way --------------------------------------------------------------------------
 */

static void keep_receipt(Godwit__PlanStep *step, const struct cluster_job *job)
{
    step->has_total_ns = true;
    step->total_ns = (job->ended_unix_ms - job->created_unix_ms) * NS_PER_MS;
    if (!job->receipt)
        return;
    step->has_pause_ns = true;
    step->pause_ns = job->receipt->downtime_ns;
}

static void reap_move(struct running *running, Godwit__PlanStep *step)
{
    const struct cluster_job *job = step->job ? cluster_job(running->cluster, step->job) : NULL;
    struct cluster_vm *vm = cluster_vm(running->cluster, step->vm_id);
    if (job && job_core_is_active(&job->core)) {
        if (job->core.state == JOB_ATTENTION)
            wait_for(running, step, job->core.error_text);
        return;
    }
    if (job && job->core.state == JOB_DONE) {
        keep_receipt(step, job);
        if (vm && strcmp(running->plan->info->kind, "balance") == 0)
            vm->balanced_ns = running->now.ns;
        end_step(running, step, STEP_DONE, "");
    } else if (vm && vm->own.phase == OWN_RUN && is_same(vm->own.owner, step->target)) {
        end_step(running, step, STEP_DONE, "");
    } else if (!vm || vm->own.phase == OWN_STOPPED) {
        end_step(running, step, STEP_FAILED,
                 job && job->core.error_text[0] ? job->core.error_text : "the VM is stopped");
    } else {
        const char *why =
            job && job->core.error_text[0] ? job->core.error_text : "its job is not kept any more";
        blame_target(running, step, why);
        try_again(running, step, why);
    }
}

/* Where a cold step's guest may start now, in the order of ask_for_move; NULL with `problem` set.
 */
static struct cluster_host *cold_target(struct running *running, const Godwit__PlanStep *step,
                                        const struct cluster_vm *vm, struct problem *problem)
{
    struct cluster_start_ask ask = {.not_on = step->source, .only_on = step->target};
    struct cluster_host *host = NULL;
    bool is_tied = vm_spec_tying_disk(vm->spec) || vm_spec_is_libvirt(vm->spec);
    int r = -1;
    if (!has_failed_at(step, step->target))
        r = cluster_choose_start(running->cluster, vm, &ask, running->now, &host, problem);
    if (r != 0 && may_choose(running) && !is_tied) {
        ask.only_on = NULL;
        ask.avoid = step->failed_at;
        ask.avoid_count = step->n_failed_at;
        r = cluster_choose_start(running->cluster, vm, &ask, running->now, &host, problem);
        ask.avoid_count = 0;
    }
    for (size_t i = 0; r != 0 && i < step->n_failed_at; i++) {
        ask.only_on = step->failed_at[i];
        r = cluster_choose_start(running->cluster, vm, &ask, running->now, &host, problem);
    }
    return r == 0 ? host : NULL;
}

static void change_target(struct running *running, Godwit__PlanStep *step, const char *target)
{
    if (is_same(step->target, target))
        return;
    plan_text(&step->note, "%s instead of %s", target, step->target ? step->target : "any");
    plan_text(&step->target, "%s", target);
    running->changed = true;
}

static void start_cold(struct running *running, Godwit__PlanStep *step, struct cluster_vm *vm)
{
    struct plan_run *run = run_of(running, step);
    struct problem problem = {0};
    if (run->is_started) {
        run->is_started = false;
        blame_target(running, step, vm->reason[0] ? vm->reason : "it did not start there");
        run->not_before_ns = running->now.ns + AGAIN_MS * NS_PER_MS;
    }
    if (running->now.ns < run->not_before_ns)
        return;
    run->not_before_ns = running->now.ns + AGAIN_MS * NS_PER_MS;
    const struct cluster_host *target = cold_target(running, step, vm, &problem);
    running->changed = true;
    if (step->attempts++ > 2 * ATTEMPTS_MAX) {
        end_step(running, step, STEP_FAILED, target ? step->failure : problem.text);
    } else if (!target || cluster_start_on(running->cluster, vm, target, running->now, &problem,
                                           running->todo) != 0) {
        wait_for(running, step, problem.text);
    } else {
        change_target(running, step, target->name);
        run->is_started = true;
    }
}

/* Stop, then start elsewhere: each seen done before the next is ordered. */
static void reap_cold(struct running *running, Godwit__PlanStep *step)
{
    struct cluster_vm *vm = cluster_vm(running->cluster, step->vm_id);
    struct problem problem = {0};
    uint64_t ticket = 0;
    bool is_stop = plan_step_is(step, "stop");
    if (!vm) {
        end_step(running, step, STEP_SKIPPED, "the VM was removed");
        return;
    }
    if (vm->ticket || vm->job)
        return;
    if (vm->own.phase == OWN_STOPPED) {
        if (is_stop) {
            end_step(running, step, STEP_DONE, "");
            return;
        }
        start_cold(running, step, vm);
        return;
    }
    if (vm->own.phase == OWN_RUN && !is_same(vm->own.owner, step->source)) {
        end_step(running, step, STEP_DONE, "");
        return;
    }
    if (vm->own.phase == OWN_RUN && vm->want == WANT_RUNNING &&
        cluster_act(running->cluster, vm->id, GODWIT__VM_VERB__VM_VERB_STOP, false, running->now,
                    &ticket, &problem, running->todo) != 0)
        try_again(running, step, problem.text);
}

static void reap_child(struct running *running, Godwit__PlanStep *step)
{
    const struct cluster_plan *child = NULL;
    for (size_t i = 0; step->child && i < running->cluster->plan_count; i++) {
        if (is_same(running->cluster->plans[i]->id, step->child))
            child = running->cluster->plans[i];
    }
    if (!child) {
        end_step(running, step, STEP_FAILED, "its plan is not kept any more");
        return;
    }
    if (!plan_is_over(child))
        return;
    bool done = plan_state_of(child) == PLAN_DONE;
    end_step(running, step, done ? STEP_DONE : STEP_FAILED,
             done                   ? ""
             : child->info->verdict ? child->info->verdict
                                    : child->info->state);
}

static void reap_reboot(struct running *running, Godwit__PlanStep *step)
{
    const struct cluster_host *host = cluster_host(running->cluster, step->source);
    const char *now = host && host->facts ? host->facts->incarnation : NULL;
    bool is_new = now && step->incarnation && !is_same(now, step->incarnation);
    if (!host) {
        end_step(running, step, STEP_FAILED, "it is no host of the pool any more");
    } else if (is_new && host->link_up && cluster_host_state(host, running->now.ns) == HOST_UP) {
        end_step(running, step, STEP_DONE, "");
    } else {
        char why[CLUSTER_REASON_SIZE];
        (void)snprintf(why, sizeof why, "waits for %s to come back from its reboot", host->name);
        wait_for(running, step, why);
    }
}

static void reap(struct running *running, Godwit__PlanStep *step)
{
    if (plan_step_is(step, "migrate"))
        reap_move(running, step);
    else if (plan_step_is(step, "cold") || plan_step_is(step, "stop"))
        reap_cold(running, step);
    else if (plan_step_is(step, "evacuate") || plan_step_is(step, "restore"))
        reap_child(running, step);
    else if (plan_step_is(step, "reboot"))
        reap_reboot(running, step);
    else
        end_step(running, step, STEP_FAILED, "this version knows no such step");
}

/* ---- may it begin? ----------------------------------------------------------------------------
 */

/* Moves of the same VM's hard rules are under way: where they end decides where this one may go. */
static const char *companion_on_its_way(const struct running *running, const struct cluster_vm *vm)
{
    const struct cluster *cluster = running->cluster;
    for (size_t r = 0; r < cluster->rule_count; r++) {
        const Godwit__Rule *rule = cluster->rules[r]->rule;
        if (rule->soft || !rule_names_vm(rule, vm) || strcmp(rule->kind, "pin") == 0 ||
            strcmp(rule->kind, "exclude") == 0)
            continue;
        for (size_t v = 0; v < cluster->vm_count; v++) {
            const struct cluster_vm *other = cluster->vms[v];
            if (other != vm && other->job && rule_names_vm(rule, other))
                return other->spec->name;
        }
    }
    return NULL;
}

/* The target has the guest: what is left to be told burdens no link. */
static bool is_carrying(const struct cluster_job *job)
{
    return job_core_is_active(&job->core) && job->core.step != JOB_FORWARD;
}

static unsigned moves_under_way(const struct cluster *cluster, const char *host, bool in,
                                double *ret_dirtiest)
{
    unsigned count = 0;
    for (size_t i = 0; i < cluster->job_count; i++) {
        const struct cluster_job *job = cluster->jobs[i];
        const char *side = in ? job->core.target_host : job->core.source_host;
        if (!is_carrying(job) || strcmp(side, host) != 0)
            continue;
        count++;
        double dirty = job->progress ? (double)job->progress->dirty_bytes_per_s : 0;
        if (ret_dirtiest && dirty > *ret_dirtiest)
            *ret_dirtiest = dirty;
    }
    return count;
}

static bool convoy_lets(struct running *running, Godwit__PlanStep *step,
                        const struct cluster_vm *vm, const char *host_name, bool in)
{
    const struct cluster_host *host = cluster_host(running->cluster, host_name);
    char why[CLUSTER_REASON_SIZE], rate[UNITS_TEXT_SIZE], dirty[UNITS_TEXT_SIZE];
    double dirtiest = vm->dirty_bytes_per_s;
    unsigned count = moves_under_way(running->cluster, host_name, in, &dirtiest);
    if (!host || count == 0)
        return true;
    const struct convoy *convoy = in ? &host->convoy_in : &host->convoy_out;
    if (count >= convoy_limit(convoy)) {
        units_print_rate((uint64_t)convoy_rate(convoy, count), rate);
        (void)snprintf(why, sizeof why, "%u moves %s %s fill what carries them (%s)", count,
                       in ? "to" : "from", host_name, rate);
        wait_for(running, step, why);
        return false;
    }
    if (!convoy_carries(convoy, dirtiest, count + 1)) {
        units_print_rate((uint64_t)dirtiest, dirty);
        (void)snprintf(why, sizeof why,
                       "a guest that writes %s has the link of %s alone until it has moved", dirty,
                       host_name);
        wait_for(running, step, why);
        return false;
    }
    return true;
}

static bool may_begin_move(struct running *running, Godwit__PlanStep *step, struct cluster_vm *vm)
{
    char why[CLUSTER_REASON_SIZE];
    if (vm->job) {
        (void)snprintf(why, sizeof why, "job %s has %s: it moves to %s", vm->job->core.id,
                       vm->spec->name, vm->job->core.target_host);
        wait_for(running, step, why);
        return false;
    }
    if (vm->ticket) {
        wait_for(running, step, "another order for it is being carried out");
        return false;
    }
    if (running->now.ns < run_of(running, step)->not_before_ns)
        return false; /* its note says why */
    if (plan_step_is(step, "migrate") && !(convoy_lets(running, step, vm, vm->own.owner, false) &&
                                           convoy_lets(running, step, vm, step->target, true)))
        return false;
    const char *companion = companion_on_its_way(running, vm);
    if (!companion)
        return true;
    (void)snprintf(why, sizeof why, "waits for %s, which a rule ties it to", companion);
    wait_for(running, step, why);
    return false;
}

/* ---- beginning --------------------------------------------------------------------------------
 */

/* Refused now. What passes is waited for; what a chosen target lacks, another may have. */
static void refused(struct running *running, Godwit__PlanStep *step, const struct problem *problem)
{
    struct plan_run *run = run_of(running, step);
    bool passes = problem->code == GW_VM_BUSY || problem->code == GW_HOST_DOWN ||
                  problem->code == GW_NO_MEMORY || problem->code == GW_NO_HOST_FITS ||
                  problem->code == GW_RULE_FORBIDS || problem->code == GW_HOST_CORDONED;
    bool others_run = false;
    for (size_t i = 0; i < running->plan->info->n_steps; i++)
        others_run |= plan_step_state_of(running->plan->info->steps[i]) == STEP_RUNNING;
    if (others_run || run->stuck_ns == 0)
        run->stuck_ns = running->now.ns;
    run->not_before_ns = running->now.ns + AGAIN_MS * NS_PER_MS / 3;
    if (!passes || running->now.ns - run->stuck_ns > STUCK_MS * NS_PER_MS)
        end_step(running, step, STEP_FAILED, problem->text);
    else
        wait_for(running, step, problem->text);
}

/* Its target; if that is none now or has failed, the best other one; when none is left, the one
 * that failed longest ago, for what was wrong there may have passed. Each is judged anew. */
static int ask_for_move(struct running *running, const Godwit__PlanStep *step,
                        struct cluster_move_ask *ask, struct cluster_job **ret_job,
                        struct problem *problem)
{
    struct cluster *cluster = running->cluster;
    int r = -1;
    ask->to = step->target;
    if (!has_failed_at(step, step->target))
        r = cluster_migrate(cluster, ask, running->now, ret_job, problem, running->todo);
    if (r != 0 && may_choose(running)) {
        ask->to = "auto";
        ask->avoid = step->failed_at;
        ask->avoid_count = step->n_failed_at;
        r = cluster_migrate(cluster, ask, running->now, ret_job, problem, running->todo);
        ask->avoid_count = 0;
    }
    for (size_t i = 0; r != 0 && step->attempts < ATTEMPTS_MAX && i < step->n_failed_at; i++) {
        ask->to = step->failed_at[i];
        r = cluster_migrate(cluster, ask, running->now, ret_job, problem, running->todo);
    }
    return r;
}

static void begin_move(struct running *running, Godwit__PlanStep *step, struct cluster_vm *vm)
{
    struct cluster *cluster = running->cluster;
    struct problem problem = {0};
    struct cluster_job *job = NULL;
    char job_id[ID_SHORT_SIZE], move_id[ID_TEXT_SIZE];
    cluster_draw_short(cluster, 'J', job_id);
    cluster_draw_id(cluster, move_id);
    struct cluster_move_ask ask = {.vm = vm->id,
                                   .job_id = job_id,
                                   .move_id = move_id,
                                   .plan_id = running->plan->id,
                                   .reason = step->reason};
    if (ask_for_move(running, step, &ask, &job, &problem) != 0) {
        if (step->attempts >= ATTEMPTS_MAX)
            end_step(running, step, STEP_FAILED, step->failure ? step->failure : problem.text);
        else
            refused(running, step, &problem);
        return;
    }
    begin_step(running, step);
    plan_text(&step->job, "%s", job->core.id);
    plan_text(&step->source, "%s", job->core.source_host);
    change_target(running, step, job->core.target_host);
    run_of(running, step)->stuck_ns = 0;
}

/* Nothing is stopped that could start nowhere. What to order is decided at the next look. */
static void begin_cold(struct running *running, Godwit__PlanStep *step, const struct cluster_vm *vm)
{
    struct problem problem = {0};
    const struct cluster_host *target = cold_target(running, step, vm, &problem);
    if (!target) {
        refused(running, step, &problem);
        return;
    }
    begin_step(running, step);
    change_target(running, step, target->name);
}

static void begin_vm_step(struct running *running, Godwit__PlanStep *step)
{
    struct cluster_vm *vm = step->vm_id ? cluster_vm(running->cluster, step->vm_id) : NULL;
    const char *from = running->plan->info->host;
    bool leaves = is_same(running->plan->info->kind, "evacuate") && is_same(step->source, from);
    char why[CLUSTER_REASON_SIZE];
    if (!vm) {
        end_step(running, step, STEP_SKIPPED, "the VM was removed");
        return;
    }
    if (vm->own.phase == OWN_STOPPED) {
        end_step(running, step, STEP_SKIPPED, "the VM is stopped");
        return;
    }
    bool is_elsewhere =
        vm->own.phase == OWN_RUN && !vm->job &&
        (is_same(vm->own.owner, step->target) || (leaves && !is_same(vm->own.owner, from)));
    if (is_elsewhere) {
        (void)snprintf(why, sizeof why, "it runs on %s already", vm->own.owner);
        end_step(running, step, STEP_SKIPPED, why);
        return;
    }
    if (!may_begin_move(running, step, vm))
        return;
    if (plan_step_is(step, "migrate"))
        begin_move(running, step, vm);
    else if (plan_step_is(step, "cold"))
        begin_cold(running, step, vm);
    else
        begin_step(running, step); /* recorded first; what to order is decided at the next look */
}

static bool host_is_empty(const struct cluster *cluster, const char *name, const char **ret_vm)
{
    for (size_t v = 0; v < cluster->vm_count; v++) {
        const struct cluster_vm *vm = cluster->vms[v];
        bool is_there = vm->own.phase != OWN_STOPPED &&
                        (strcmp(vm->own.owner, name) == 0 ||
                         (vm->own.phase == OWN_HANDOVER && strcmp(vm->own.target, name) == 0));
        if (is_there) {
            *ret_vm = vm->spec->name;
            return false;
        }
    }
    return true;
}

static void begin_child(struct running *running, Godwit__PlanStep *step)
{
    Godwit__PlanMakeRequest request = GODWIT__PLAN_MAKE_REQUEST__INIT;
    struct problem problem = {0};
    struct cluster_plan *child = NULL;
    char id[ID_SHORT_SIZE], parent[ID_SHORT_SIZE], kind[16], host[OWN_HOST_SIZE];
    cluster_draw_short(running->cluster, 'P', id);
    WORDS_COPY(parent, running->plan->id);
    WORDS_COPY(kind, step->kind);
    WORDS_COPY(host, step->source);
    request.kind = kind;
    request.host = host;
    request.has_bring_back = true;
    request.bring_back = true;
    const struct plan_ask ask = {.request = &request, .id = id, .by = "plan", .parent = parent};
    if (plan_make(running->cluster, &ask, running->now, &child, &problem, running->todo) != 0) {
        refused(running, step, &problem);
        return;
    }
    begin_step(running, step);
    plan_text(&step->child, "%s", child->id);
}

static void begin_reboot(struct running *running, Godwit__PlanStep *step)
{
    const struct cluster_host *host = cluster_host(running->cluster, step->source);
    const char *left = NULL;
    char why[CLUSTER_REASON_SIZE];
    if (!host || !host->facts || !host->facts->incarnation) {
        end_step(running, step, STEP_FAILED, "its agent has never told which boot it is");
        return;
    }
    if (!host_is_empty(running->cluster, host->name, &left)) {
        (void)snprintf(why, sizeof why, "%s still runs there", left);
        end_step(running, step, STEP_FAILED, why);
        return;
    }
    begin_step(running, step);
    plan_text(&step->incarnation, "%s", host->facts->incarnation);
    struct cluster_order *order = cluster_todo_order(running->todo, ORDER_REBOOT);
    WORDS_COPY(order->host, host->name);
    order->asked_ns = running->now.ns;
}

/* Host after host: a step begins only when all before it went well. */
static void begin_host_step(struct running *running, Godwit__PlanStep *step)
{
    const Godwit__PlanInfo *info = running->plan->info;
    for (size_t i = 0; i + 1 < step->number; i++) {
        enum plan_step_state state = plan_step_state_of(info->steps[i]);
        if (state == STEP_WAITING || state == STEP_RUNNING)
            return;
        if (state != STEP_DONE) {
            end_step(running, step, STEP_CANCELED, "a step before it did not go well");
            return;
        }
    }
    if (plan_step_is(step, "reboot"))
        begin_reboot(running, step);
    else
        begin_child(running, step);
}

/* ---- a plan's turn ----------------------------------------------------------------------------
 */

static void begin_steps(struct running *running)
{
    const Godwit__PlanInfo *info = running->plan->info;
    bool of_hosts = is_same(info->kind, "reboot");
    for (size_t i = 0; i < info->n_steps; i++) {
        if (plan_step_state_of(info->steps[i]) != STEP_WAITING)
            continue;
        if (of_hosts)
            begin_host_step(running, info->steps[i]);
        else
            begin_vm_step(running, info->steps[i]);
    }
}

static void cancel_waiting(struct running *running, const char *why)
{
    const Godwit__PlanInfo *info = running->plan->info;
    for (size_t i = 0; i < info->n_steps; i++) {
        if (plan_step_state_of(info->steps[i]) == STEP_WAITING)
            end_step(running, info->steps[i], STEP_CANCELED, why);
    }
}

static void cancel_running(struct running *running)
{
    const Godwit__PlanInfo *info = running->plan->info;
    for (size_t i = 0; i < info->n_steps; i++) {
        Godwit__PlanStep *step = info->steps[i];
        struct cluster_job *job = step->job ? cluster_job(running->cluster, step->job) : NULL;
        if (plan_step_state_of(step) != STEP_RUNNING)
            continue;
        if (plan_step_is(step, "reboot"))
            end_step(running, step, STEP_CANCELED, "canceled; its host may reboot still");
        for (size_t n = 0; step->child && n < running->cluster->plan_count; n++) {
            struct cluster_plan *child = running->cluster->plans[n];
            if (is_same(child->id, step->child) && plan_is_active(child) &&
                plan_state_of(child) != PLAN_CANCELING) {
                plan_set_state(child, PLAN_CANCELING);
                plan_put(child, running->todo);
            }
        }
        if (!job || !job_core_is_active(&job->core) || job->core.cancel ||
            job_core_is_past_commit(&job->core))
            continue; /* it finishes, or is being canceled */
        struct job_event event = {.now_ns = running->now.ns, .type = JOB_EVENT_CANCEL};
        cluster_step_job(running->cluster, job, &event, running->now, running->todo);
    }
}

static void set_error(struct running *running, enum gw_code code, unsigned done, unsigned left)
{
    Godwit__PlanInfo *info = running->plan->info;
    struct problem problem = {0};
    (void)problem_set(&problem, code, "plan %s: %u of %zu done, %u left", running->plan->id, done,
                      info->n_steps + info->n_blockers, left);
    for (size_t i = 0; i < info->n_steps; i++) {
        const Godwit__PlanStep *step = info->steps[i];
        enum plan_step_state state = plan_step_state_of(step);
        if (state == STEP_FAILED || state == STEP_CANCELED)
            problem_detail(&problem, "%s  %s: %s", step->vm ? step->vm : step->source, step->state,
                           step->note ? step->note : "");
    }
    for (size_t i = 0; i < info->n_blockers; i++)
        problem_detail(&problem, "%s  stays: %s", info->blockers[i]->vm, info->blockers[i]->reason);
    problem_hint(&problem, "godwit plan show %s", running->plan->id);
    Godwit__OperatorError error;
    char *details[PROBLEM_DETAILS_MAX];
    problem_to_message(&problem, &error, details);
    if (info->error)
        godwit__operator_error__free_unpacked(info->error, NULL);
    info->error = cluster_message_copy(&error.base);
}

static void finish(struct running *running)
{
    Godwit__PlanInfo *info = running->plan->info;
    unsigned done = 0, left = (unsigned)info->n_blockers;
    for (size_t i = 0; i < info->n_steps; i++) {
        enum plan_step_state state = plan_step_state_of(info->steps[i]);
        if (state == STEP_WAITING || state == STEP_RUNNING)
            return;
        if (state == STEP_DONE || state == STEP_SKIPPED)
            done++;
        else
            left++;
    }
    bool canceled = plan_state_of(running->plan) == PLAN_CANCELING;
    plan_set_state(running->plan, canceled ? PLAN_CANCELED : left > 0 ? PLAN_PARTLY : PLAN_DONE);
    info->has_ended_unix_ms = true;
    info->ended_unix_ms = running->now.unix_ms;
    char took[UNITS_TEXT_SIZE];
    units_print_duration((info->ended_unix_ms - info->began_unix_ms) * NS_PER_MS, took);
    bool stays_cordoned = strcmp(info->kind, "evacuate") == 0 && info->host;
    plan_text(&info->verdict, "%u of %zu done in %s%s%s%s%s", done,
              info->n_steps + info->n_blockers, took,
              info->n_kept > 0 ? "; some stay by choice" : "", stays_cordoned ? "; " : "",
              stays_cordoned ? info->host : "",
              stays_cordoned ? " takes no VMs until it is restored" : "");
    if (left > 0)
        set_error(running, canceled ? GW_PLAN_CANCELED : GW_PLAN_PARTLY, done, left);
    cluster_todo_event(running->todo, "", "plan %s: %s %s: %s", running->plan->id, info->kind,
                       info->state, info->verdict);
    log_info("plan_core", "plan ended plan=%s kind=%s state=%s: %s", running->plan->id, info->kind,
             info->state, info->verdict);
    running->changed = true;
}

static void take_turn(struct running *running)
{
    Godwit__PlanInfo *info = running->plan->info;
    for (size_t i = 0; i < info->n_steps; i++) {
        if (plan_step_state_of(info->steps[i]) == STEP_RUNNING)
            reap(running, info->steps[i]);
    }
    enum plan_state state = plan_state_of(running->plan);
    if (state == PLAN_CANCELING) {
        cancel_waiting(running, "the plan was canceled");
        cancel_running(running);
    } else if (state == PLAN_RUNNING) {
        if (info->deadline_unix_ms && running->now.unix_ms > info->deadline_unix_ms)
            cancel_waiting(running, "the time that was given is over");
        begin_steps(running);
    }
    if (state != PLAN_PAUSED)
        finish(running);
    if (running->changed)
        plan_put(running->plan, running->todo);
}

/* ---- what moves carry -------------------------------------------------------------------------
 */

static void measure_host(struct cluster *cluster, struct cluster_host *host, bool in,
                         double seconds)
{
    unsigned moves = 0, ended = 0;
    double bytes = 0;
    for (size_t i = 0; i < cluster->job_count; i++) {
        const struct cluster_job *job = cluster->jobs[i];
        const char *side = in ? job->core.target_host : job->core.source_host;
        if (!job->is_measured || strcmp(side, host->name) != 0)
            continue;
        moves += is_carrying(job) || job->fresh_bytes > 0;
        ended += !job_core_is_active(&job->core) && job->core.state == JOB_DONE;
        bytes += job->fresh_bytes;
    }
    convoy_measure(in ? &host->convoy_in : &host->convoy_out, moves, bytes, seconds, ended);
}

/* Since the last look: guest memory that each move dealt with. */
static void measure(struct cluster *cluster, struct cluster_now now)
{
    double seconds = cluster->measured_ns ? (double)(now.ns - cluster->measured_ns) / 1e9 : 0;
    bool any = false;
    cluster->measured_ns = now.ns;
    for (size_t i = 0; i < cluster->job_count; i++) {
        struct cluster_job *job = cluster->jobs[i];
        double done = job->progress ? (double)job->progress->memory_bytes_done : 0;
        bool is_active = job_core_is_active(&job->core);
        if (!is_active && !job->is_measured)
            continue;
        job->is_measured = true;
        job->fresh_bytes = done > job->seen_bytes ? done - job->seen_bytes : 0;
        job->seen_bytes = done > job->seen_bytes ? done : job->seen_bytes;
        any = true;
    }
    for (size_t i = 0; any && seconds > 0 && seconds < 2 && i < cluster->host_count; i++) {
        measure_host(cluster, cluster->hosts[i], false, seconds);
        measure_host(cluster, cluster->hosts[i], true, seconds);
    }
    for (size_t i = 0; any && i < cluster->job_count; i++) {
        struct cluster_job *job = cluster->jobs[i];
        if (!job->is_measured || job_core_is_active(&job->core))
            continue;
        job->is_measured = false;
        cluster_forecast_learn(cluster, job);
    }
}

void plan_tick(struct cluster *cluster, struct cluster_now now, struct cluster_todo *todo)
{
    measure(cluster, now);
    balancer_tick(cluster, now, todo);
    for (size_t i = 0; i < cluster->plan_count; i++) { /* children may come at the end meanwhile */
        struct running running = {
            .cluster = cluster, .plan = cluster->plans[i], .now = now, .todo = todo};
        if (plan_is_active(running.plan))
            take_turn(&running);
    }
}

#include "coordinator/plan.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/own.h"
#include "base/world.h"

static const char *const state_names[PLAN_STATE_COUNT] = {
    [PLAN_READY] = "ready",         [PLAN_RUNNING] = "running", [PLAN_PAUSED] = "paused",
    [PLAN_CANCELING] = "canceling", [PLAN_DONE] = "done",       [PLAN_PARTLY] = "partly",
    [PLAN_CANCELED] = "canceled",
};
static const char *const step_names[STEP_STATE_COUNT] = {
    [STEP_WAITING] = "waiting", [STEP_RUNNING] = "running", [STEP_DONE] = "done",
    [STEP_FAILED] = "failed",   [STEP_SKIPPED] = "skipped", [STEP_CANCELED] = "canceled",
};

const char *plan_state_name(enum plan_state state)
{
    assert((unsigned)state < PLAN_STATE_COUNT);
    return state_names[state];
}

enum plan_state plan_state_of(const struct cluster_plan *plan)
{
    for (enum plan_state state = 0; plan->info->state && state < PLAN_STATE_COUNT; state++) {
        if (strcmp(plan->info->state, state_names[state]) == 0)
            return state;
    }
    return PLAN_STATE_COUNT;
}

bool plan_is_active(const struct cluster_plan *plan)
{
    enum plan_state state = plan_state_of(plan);
    return state == PLAN_RUNNING || state == PLAN_PAUSED || state == PLAN_CANCELING;
}

bool plan_is_over(const struct cluster_plan *plan)
{
    return plan_state_of(plan) >= PLAN_DONE;
}

enum plan_step_state plan_step_state_of(const Godwit__PlanStep *step)
{
    for (enum plan_step_state state = 0; step->state && state < STEP_STATE_COUNT; state++) {
        if (strcmp(step->state, step_names[state]) == 0)
            return state;
    }
    return STEP_STATE_COUNT;
}

void plan_set_state(struct cluster_plan *plan, enum plan_state state)
{
    plan_text(&plan->info->state, "%s", state_names[state]);
}

void plan_set_step_state(Godwit__PlanStep *step, enum plan_step_state state)
{
    plan_text(&step->state, "%s", step_names[state]);
}

bool plan_step_is(const Godwit__PlanStep *step, const char *kind)
{
    return step->kind && strcmp(step->kind, kind) == 0;
}

void plan_text(char **field, const char *format, ...)
{
    char text[CLUSTER_REASON_SIZE];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args); /* cut words are better than none */
    va_end(args);
    if (*field && *field != (char *)(uintptr_t)protobuf_c_empty_string)
        free(*field);
    *field = text[0] ? strdup(text) : NULL;
    assert(*field || !text[0]); /* control memory is small; without it there is no deciding */
}

static void *add(void *list, size_t *count, void *entry)
{
    void **bigger = reallocarray(list, *count + 1, sizeof *bigger);
    assert(bigger && entry);
    bigger[(*count)++] = entry;
    return bigger;
}

void plan_add_text(char ***list, size_t *count, const char *text)
{
    *list = add(*list, count, strdup(text));
}

Godwit__PlanStep *plan_add_step(Godwit__PlanInfo *info, const char *kind)
{
    Godwit__PlanStep *step = calloc(1, sizeof *step);
    assert(step);
    godwit__plan_step__init(step);
    info->steps = add(info->steps, &info->n_steps, step);
    step->has_number = true;
    step->number = (uint32_t)info->n_steps;
    plan_text(&step->kind, "%s", kind);
    plan_set_step_state(step, STEP_WAITING);
    return step;
}

Godwit__PlanBlocker *plan_add_blocker(Godwit__PlanInfo *info)
{
    Godwit__PlanBlocker *blocker = calloc(1, sizeof *blocker);
    assert(blocker);
    godwit__plan_blocker__init(blocker);
    info->blockers = add(info->blockers, &info->n_blockers, blocker);
    return blocker;
}

void plan_put(struct cluster_plan *plan, struct cluster_todo *todo)
{
    for (size_t i = 0; i < todo->put_count; i++) { /* once a todo: the row is read at its end */
        if (todo->puts[i].kind == PUT_PLAN && todo->puts[i].object == plan)
            return;
    }
    struct cluster_put *put = cluster_todo_put(todo, PUT_PLAN);
    put->object = plan;
    put->revision = plan->revision++;
    cluster_todo_news(todo, plan->id);
}

struct cluster_plan *plan_of_host(const struct cluster *cluster, const char *host,
                                  const char *but_not)
{
    for (size_t i = 0; i < cluster->plan_count; i++) {
        struct cluster_plan *plan = cluster->plans[i];
        bool is_it = plan->info->host && strcmp(plan->info->host, host) == 0;
        if (plan_is_active(plan) && is_it && strcmp(plan->id, but_not) != 0)
            return plan;
    }
    return NULL;
}

/* ---- telling ----------------------------------------------------------------------------------
 */

static void count_steps(const struct cluster *cluster, Godwit__PlanInfo *info)
{
    uint64_t wire = 0;
    info->has_steps_total = info->has_steps_done = true;
    info->has_steps_running = info->has_steps_failed = true;
    info->steps_total = (uint32_t)info->n_steps;
    info->steps_done = info->steps_running = info->steps_failed = 0;
    for (size_t i = 0; i < info->n_steps; i++) {
        Godwit__PlanStep *step = info->steps[i];
        enum plan_step_state state = plan_step_state_of(step);
        info->steps_done += state == STEP_DONE || state == STEP_SKIPPED;
        info->steps_running += state == STEP_RUNNING;
        info->steps_failed += state == STEP_FAILED || state == STEP_CANCELED;
        if (state != STEP_RUNNING || !step->job)
            continue;
        const struct cluster_job *job = cluster_job(cluster, step->job);
        step->progress = job ? job->progress : NULL;
        if (step->progress)
            wire += step->progress->wire_bytes_per_s;
    }
    info->has_wire_bytes_per_s = true;
    info->wire_bytes_per_s = wire;
}

/* What is left takes as much longer than forecast as what was done did. */
static uint64_t eta_ns(const Godwit__PlanInfo *info, struct cluster_now now)
{
    double all = 0, done = 0;
    for (size_t i = 0; i < info->n_steps; i++) {
        const Godwit__PlanStep *step = info->steps[i];
        double predicted = (double)step->predicted_ns;
        all += predicted;
        if (plan_step_state_of(step) != STEP_WAITING && plan_step_state_of(step) != STEP_RUNNING)
            done += predicted;
        else if (step->progress && step->progress->memory_bytes_total)
            done +=
                predicted * (double)step->progress->memory_bytes_done /
                (double)(step->progress->memory_bytes_total + step->progress->memory_bytes_done);
    }
    double elapsed = (double)(now.unix_ms - info->began_unix_ms) * 1e6;
    if (done > 0.05 * all)
        return (uint64_t)(elapsed * (all - done) / done);
    return info->predicted_ns > (uint64_t)elapsed ? info->predicted_ns - (uint64_t)elapsed : 0;
}

void plan_tell_begin(const struct cluster *cluster, struct cluster_plan *plan,
                     struct cluster_now now)
{
    Godwit__PlanInfo *info = plan->info;
    count_steps(cluster, info);
    info->has_eta_ns = plan_is_active(plan) && info->began_unix_ms;
    info->eta_ns = info->has_eta_ns ? eta_ns(info, now) : 0;
}

void plan_tell_end(struct cluster_plan *plan)
{
    Godwit__PlanInfo *info = plan->info;
    for (size_t i = 0; i < info->n_steps; i++)
        info->steps[i]->progress = NULL; /* it was the job's */
    info->has_steps_total = info->has_steps_done = false;
    info->has_steps_running = info->has_steps_failed = false;
    info->has_eta_ns = info->has_wire_bytes_per_s = false;
}

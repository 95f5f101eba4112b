/* The one object of every mass operation: ordered steps with reasons, forecasts, blockers; stored.
 *
 * Flow:   plan_make -> [plan] -> plan_core; rows stores it; api tells it
 * Thread: the loop's; pure.
 *
 * A plan's message is what is stored and what is told, so that nothing is decided that cannot be
 * read. States: ready (a dry run), running, paused, canceling; done, partly, canceled.
 */
#ifndef GODWIT_COORDINATOR_PLAN_H
#define GODWIT_COORDINATOR_PLAN_H

#include "coordinator/cluster.h"

enum plan_state {
    PLAN_READY,
    PLAN_RUNNING,
    PLAN_PAUSED,
    PLAN_CANCELING,
    PLAN_DONE,
    PLAN_PARTLY,
    PLAN_CANCELED,
    PLAN_STATE_COUNT
};

enum plan_step_state {
    STEP_WAITING,
    STEP_RUNNING,
    STEP_DONE,
    STEP_FAILED,
    STEP_SKIPPED,
    STEP_CANCELED,
    STEP_STATE_COUNT
};

const char *plan_state_name(enum plan_state state);
enum plan_state plan_state_of(const struct cluster_plan *plan); /* COUNT: not a known one */
bool plan_is_active(const struct cluster_plan *plan);           /* it holds its host and may act */
bool plan_is_over(const struct cluster_plan *plan);
enum plan_step_state plan_step_state_of(const Godwit__PlanStep *step);
void plan_set_state(struct cluster_plan *plan, enum plan_state state);
void plan_set_step_state(Godwit__PlanStep *step, enum plan_step_state state);
bool plan_step_is(const Godwit__PlanStep *step, const char *kind);

/* A new field of a message of this plan; frees what was there. printf-like. */
void plan_text(char **field, const char *format, ...) __attribute__((format(printf, 2, 3)));
void plan_add_text(char ***list, size_t *count, const char *text);
Godwit__PlanStep *plan_add_step(Godwit__PlanInfo *info, const char *kind);
Godwit__PlanBlocker *plan_add_blocker(Godwit__PlanInfo *info);

/* Note the change: it goes into the store with this todo, and watchers hear of it. */
void plan_put(struct cluster_plan *plan, struct cluster_todo *todo);
struct cluster_plan *plan_of_host(const struct cluster *cluster, const char *host,
                                  const char *but_not); /* active; NULL: none */

/* Fill what is told but not stored (counts, ETA, progress of running steps); the second takes the
 * borrowed parts out again and must follow before anything changes. */
void plan_tell_begin(const struct cluster *cluster, struct cluster_plan *plan,
                     struct cluster_now now);
void plan_tell_end(struct cluster_plan *plan);

#endif

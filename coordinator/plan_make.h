/* From what an operator asks for to a plan: evacuate, restore, balance, repair, reboot.
 *
 * Flow:   api, plan_core (children of a reboot) -> [plan_make] -> placement; plan -> store
 * Thread: the loop's; pure.
 */
#ifndef GODWIT_COORDINATOR_PLAN_MAKE_H
#define GODWIT_COORDINATOR_PLAN_MAKE_H

#include "coordinator/plan.h"

struct plan_ask {
    const Godwit__PlanMakeRequest *request;
    const char *id; /* chance, from the caller */
    const char *by;
    const char *parent; /* "": an operator's own */
};

/* Judged whole; then the plan is kept and stored, and runs unless it is a dry run. -1: `problem` is
 * set and nothing changed. */
int plan_make(struct cluster *cluster, const struct plan_ask *ask, struct cluster_now now,
              struct cluster_plan **ret_plan, struct problem *problem, struct cluster_todo *todo);
/* One that has nothing to do is not worth keeping. */
void plan_forget(struct cluster *cluster, struct cluster_plan *plan, struct cluster_todo *todo);
/* run, pause, resume, cancel, rm */
int plan_act(struct cluster *cluster, const char *word, Godwit__PlanVerb verb,
             struct cluster_now now, struct cluster_plan **ret_plan, struct problem *problem,
             struct cluster_todo *todo);

#endif

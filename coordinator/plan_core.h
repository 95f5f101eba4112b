/* Plans as sagas: which step begins now, what became of those under way, when all is over.
 *
 * Flow:   cluster_tick -> [plan_core] -> cluster_migrate and friends -> todo
 * Thread: the loop's; pure. Time arrives as now, chance from cluster_draw_id.
 *
 * A step is recorded as running, with its job, in the same transaction as the job itself (INV-7);
 * so whoever loads the record goes on from it, and a step is begun once. Before a step begins it is
 * judged anew against the pool as it is and as running steps will leave it. A step that cannot
 * begin yet says why. A failed move leaves its VM running where it was; it is tried again, with
 * another target where the plan is free to choose, and the plan goes on past it.
 */
#ifndef GODWIT_COORDINATOR_PLAN_CORE_H
#define GODWIT_COORDINATOR_PLAN_CORE_H

#include "coordinator/plan.h"

void plan_tick(struct cluster *cluster, struct cluster_now now, struct cluster_todo *todo);

#endif

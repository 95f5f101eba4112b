/* The pool as the planner sees it: every host, VM and rule under the index it has in the cluster.
 *
 * Flow:   cluster -> [cluster_layout] -> placement
 * Thread: the loop's; pure.
 *
 * Live and planned at once: a VM on its way counts at its target, with the memory that is promised
 * there, and its source has it still.
 */
#ifndef GODWIT_COORDINATOR_CLUSTER_LAYOUT_H
#define GODWIT_COORDINATOR_CLUSTER_LAYOUT_H

#include "coordinator/cluster.h"
#include "placement/forecast.h"
#include "placement/layout.h"

struct cluster_layout {
    struct layout *layout;
    char (*fixed)[CLUSTER_REASON_SIZE]; /* by VM: why it cannot be moved now */
};

/* `waits`: whoever asks can wait for VMs that are busy now. -1: `problem` is set. What is in it is
 * borrowed from the cluster, which must not change. */
int cluster_layout_new(struct cluster_layout *ret_view, struct cluster *cluster,
                       struct cluster_now now, enum layout_goal goal, bool waits,
                       struct problem *problem);
void cluster_layout_deinit(struct cluster_layout *view);
uint32_t cluster_layout_host(const struct cluster *cluster, const struct cluster_host *host);
uint32_t cluster_layout_vm(const struct cluster *cluster, const struct cluster_vm *vm);
/* What a move of this VM will take, by what was measured. */
struct forecast cluster_layout_forecast(const struct cluster *cluster, const struct cluster_vm *vm);
double cluster_layout_pause_goal_s(const struct cluster_vm *vm);

#endif

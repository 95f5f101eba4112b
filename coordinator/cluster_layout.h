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

struct cluster_bars {   /* hosts that lack what VMs of one kind need beside CPU and memory */
    const char *vendor; /* of CPU; NULL: any */
    const struct cluster_vm *like; /* the first VM of this kind: same nics, stores, vendor */
    uint8_t *bits;                 /* owned, by host */
};

enum { CLUSTER_BARS_MAX = 256 };

struct cluster_layout {
    struct layout *layout;
    struct cluster *cluster;
    struct planner_host *hosts; /* owned */
    struct cluster_bars *bars;  /* owned */
    size_t bar_count;
    uint64_t now_ns;            /* when it was made */
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
double cluster_layout_pause_goal_s(const struct cluster_vm *vm);

#endif

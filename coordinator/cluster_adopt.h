/* What a pool finds on its hosts that was restored from a backup (rule R10): what runs, and what is just being started.
 *
 * Flow:   an agent's HELLO, events -> cluster_core -> [cluster_adopt] -> own
 * Thread: the loop's; pure.
 *
 * Its records are older than the world, and say that nothing runs. A start that was ordered since is in no record and
 * not among the host's VMs before it has come to something, so hosts name it (AgentHello.starting): its record says STARTING
 * from then on, and nobody starts it anywhere else. When the pool is itself again the same START is said, and its answer is
 * what became of it. In a pool that was not restored the record knows more than the host, and none of this counts.
 */
#ifndef GODWIT_COORDINATOR_CLUSTER_ADOPT_H
#define GODWIT_COORDINATOR_CLUSTER_ADOPT_H

#include <stdbool.h>

#include "coordinator/cluster.h"
#include "proto/agent.pb-c.h"

/* `runs`: as `status` says. */
void cluster_adopt_running(struct cluster *cluster, const struct cluster_host *host, struct cluster_vm *vm,
                           const Godwit__VmStatus *status, bool runs, struct cluster_now now,
                           struct cluster_todo *todo);
void cluster_adopt_starting(struct cluster *cluster, const struct cluster_host *host,
                            const Godwit__AgentHello *hello, struct cluster_now now,
                            struct cluster_todo *todo);

#endif

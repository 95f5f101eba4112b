/* What operators ask of snapshots, and what hosts tell of them.
 *
 * Flow:   api -> [api_snapshot] -> cluster_snapshot, agent_link
 * Thread: the loop's.
 */
#ifndef GODWIT_COORDINATOR_API_SNAPSHOT_H
#define GODWIT_COORDINATOR_API_SNAPSHOT_H

#include "coordinator/coordinator.h"

void api_snapshot_request(struct peer *peer, struct rpc_request *request, const void *message);
void api_snapshot_told(struct peer *peer, struct rpc_request *request, const void *message);

#endif

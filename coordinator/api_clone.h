/* A new VM from a snapshot: recorded, its disks made on the snapshot's host, then started there.
 *
 * Flow:   api -> [api_clone] -> cluster_clone, agent_link -> the reply
 * Thread: the loop's.
 */
#ifndef GODWIT_COORDINATOR_API_CLONE_H
#define GODWIT_COORDINATOR_API_CLONE_H

#include <stdbool.h>

#include "coordinator/coordinator.h"

/* Handler, see api.c. */
void api_clone_request(struct peer *peer, struct rpc_request *request, const void *message);
/* False: the VM is no clone that has not run yet, so it starts as any other. Else answers the request. */
bool api_clone_start(struct coordinator *coordinator, struct rpc_request *request,
                     const char *word);

#endif

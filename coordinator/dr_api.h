/* Disaster recovery for operators, and what agents tell of both ends.
 *
 * Flow:   api -> [dr_api] -> dr_ask, dr; dr_tell -> DrReply
 * Thread: the loop's.
 */
#ifndef GODWIT_COORDINATOR_DR_API_H
#define GODWIT_COORDINATOR_DR_API_H

#include "coordinator/coordinator.h"

void dr_api_request(struct peer *peer, struct rpc_request *request, const void *message);
void dr_api_on_replicas(struct peer *peer, struct rpc_request *request, const void *message);
void dr_api_on_protect(struct peer *peer, struct rpc_request *request, const void *message);

#endif

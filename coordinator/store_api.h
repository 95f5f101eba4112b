/* What operators ask about stores of disks.
 *
 * Flow:   api -> [store_api] -> store_look -> pool_store -> the reply, when it is durable
 * Thread: the loop's.
 */
#ifndef GODWIT_COORDINATOR_STORE_API_H
#define GODWIT_COORDINATOR_STORE_API_H

#include "coordinator/coordinator.h"

/* Handlers, see api.c. */
void store_api_list(struct peer *peer, struct rpc_request *request, const void *message);
void store_api_add(struct peer *peer, struct rpc_request *request, const void *message);
void store_api_remove(struct peer *peer, struct rpc_request *request, const void *message);
void store_api_check(struct peer *peer, struct rpc_request *request, const void *message);

#endif

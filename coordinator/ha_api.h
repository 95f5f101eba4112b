/* What operators ask of HA, and how it stands in their words.
 *
 * Flow:   api -> [ha_api] -> cluster_ha, admission
 * Thread: the loop's.
 */
#ifndef GODWIT_COORDINATOR_HA_API_H
#define GODWIT_COORDINATOR_HA_API_H

#include "coordinator/coordinator.h"

void ha_api_request(struct peer *peer, struct rpc_request *request, const void *message);

#endif

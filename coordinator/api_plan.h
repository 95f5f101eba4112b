/* What operators ask of plans, rules, hosts' policies, balance; and why.
 *
 * Flow:   api's table -> [api_plan] -> plan_make, rule, why; replies
 * Thread: the loop's.
 */
#ifndef GODWIT_COORDINATOR_API_PLAN_H
#define GODWIT_COORDINATOR_API_PLAN_H

#include "coordinator/coordinator.h"

void api_plan_host_set(struct peer *peer, struct rpc_request *request, const void *message);
void api_plan_rules(struct peer *peer, struct rpc_request *request, const void *message);
void api_plan_rule_add(struct peer *peer, struct rpc_request *request, const void *message);
void api_plan_rule_remove(struct peer *peer, struct rpc_request *request, const void *message);
void api_plan_make(struct peer *peer, struct rpc_request *request, const void *message);
void api_plan_list(struct peer *peer, struct rpc_request *request, const void *message);
void api_plan_act(struct peer *peer, struct rpc_request *request, const void *message);
void api_plan_watch(struct peer *peer, struct rpc_request *request, const void *message);
void api_plan_balance(struct peer *peer, struct rpc_request *request, const void *message);
void api_plan_why(struct peer *peer, struct rpc_request *request, const void *message);

#endif

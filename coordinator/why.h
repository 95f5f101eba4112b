/* Why a VM is where it is, and why it is not elsewhere: every host judged and scored, its rules,
 * its moves.
 *
 * Flow:   api -> [why] -> layout, jobs -> WhyReply
 * Thread: the loop's; pure but for the reply.
 */
#ifndef GODWIT_COORDINATOR_WHY_H
#define GODWIT_COORDINATOR_WHY_H

#include "coordinator/cluster.h"

struct rpc_request;

void why_reply(struct cluster *cluster, struct rpc_request *request,
               const Godwit__WhyRequest *wanted, struct cluster_now now);

#endif

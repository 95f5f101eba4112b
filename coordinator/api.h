/* What may be asked of the coordinator, by whom: one table row a request.
 *
 * Flow:   operator, agent, new host -> [api] -> cluster_ask, agent_link, enrol, console_relay
 * Thread: the loop's.
 */
#ifndef GODWIT_COORDINATOR_API_H
#define GODWIT_COORDINATOR_API_H

#include "coordinator/coordinator.h"
#include "coordinator/problem.h"
#include "net/rpc.h"

extern const struct rpc_service api_service;

/* For requests whose reply has no room for an OperatorError: its words, with the code in them. */
void api_reply_problem_as_fault(struct rpc_request *request, const struct problem *problem,
                                int err);
/* As ActionReply: the VM of that id, or the problem. */
void api_reply_action(struct coordinator *coordinator, struct rpc_request *request,
                      const char *vm_id, struct problem *problem, Godwit__MoveReceipt *receipt);

/* Every pointer is borrowed from the cluster. */
void api_fill_host(struct coordinator *coordinator, const struct cluster_host *host,
                   Godwit__HostInfo *ret_info);

/* `go_on` with a copy of the message once all stores have been looked at: is there room, are they well?
 * The connection that the request came on may be gone by then. */
void api_look_first(struct coordinator *coordinator, struct rpc_request *request,
                    const ProtobufCMessage *message,
                    void (*go_on)(struct coordinator *coordinator, struct rpc_request *request,
                                  const void *message));

#endif

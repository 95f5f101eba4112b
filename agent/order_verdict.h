/* MOVE_VERDICT: passed on, after the shared disks were stamped anew where a source resumes.
 *
 * Flow:   orders -> [order_verdict] -> stamp (on a worker) -> godwit-vm
 * Thread: the loop's.
 */
#ifndef GODWIT_AGENT_ORDER_VERDICT_H
#define GODWIT_AGENT_ORDER_VERDICT_H

#include "agent/orders_inside.h"

/* Would this verdict let a source run again as a newer generation, whose shared disks have then to be
 * stamped first? */
bool order_verdict_restamps(const struct vm_entry *entry, const Godwit__MoveVerdict *verdict);
void order_verdict_handle(void *data, struct rpc *rpc, struct rpc_request *request,
                          const ProtobufCMessage *message);

#endif

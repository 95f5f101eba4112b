/* STOP: of what runs, of a start that is under way, and of what was made for a VM that goes.
 *
 * Flow:   orders -> [order_stop] -> godwit-vm, backends (on a worker)
 * Thread: the loop's.
 */
#ifndef GODWIT_AGENT_ORDER_STOP_H
#define GODWIT_AGENT_ORDER_STOP_H

#include "agent/orders_inside.h"

/* Its process is no more. The entry may be gone afterwards. */
void order_stop_ended(struct orders *orders, struct vm_entry *entry);
void order_stop_handle(void *data, struct rpc *rpc, struct rpc_request *request,
                       const ProtobufCMessage *message);

#endif

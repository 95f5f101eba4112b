/* MOVE_IN: room for a VM that comes.
 *
 * Flow:   orders -> [order_move_in] -> order_create -> godwit-vm
 * Thread: the loop's.
 */
#ifndef GODWIT_AGENT_ORDER_MOVE_IN_H
#define GODWIT_AGENT_ORDER_MOVE_IN_H

#include "agent/orders_inside.h"

void order_move_in_begin(struct orders *orders, const Godwit__MoveIn *order,
                         struct rpc_request *request);
void order_move_in_handle(void *data, struct rpc *rpc, struct rpc_request *request,
                          const ProtobufCMessage *message);

#endif

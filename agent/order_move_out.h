/* MOVE_OUT: a VM leaves for another host.
 *
 * Flow:   orders -> [order_move_out] -> godwit-vm, move_sockets
 * Thread: the loop's.
 */
#ifndef GODWIT_AGENT_ORDER_MOVE_OUT_H
#define GODWIT_AGENT_ORDER_MOVE_OUT_H

#include "agent/orders_inside.h"

void order_move_out_handle(void *data, struct rpc *rpc, struct rpc_request *request,
                           const ProtobufCMessage *message);

#endif

/* START: from its order to the answer, also of one that failed or was ended meanwhile.
 *
 * Flow:   orders -> [order_start] -> order_create
 * Thread: the loop's.
 */
#ifndef GODWIT_AGENT_ORDER_START_H
#define GODWIT_AGENT_ORDER_START_H

#include "agent/orders_inside.h"

/* The process of a start that failed has ended: those who wait for the start are answered. */
void order_start_discarded(struct orders *orders, struct vm_entry *entry, bool has_run);
/* Where there is nothing in it. Else it ends by itself, or goes on. */
void order_start_end_empty(struct vm_entry *entry);
void order_start_begin(struct orders *orders, const Godwit__OrderVmStart *order,
                       struct rpc_request *request);
/* A refusal is final (R7): the coordinator starts the VM elsewhere as the next generation, and this order may have been said
 * twice. */
void order_start_refuse(struct orders *orders, const Godwit__OrderVmStart *order,
                        struct rpc_request *request, const struct fault *fault);
void order_start_handle(void *data, struct rpc *rpc, struct rpc_request *request,
                        const ProtobufCMessage *message);
/* One that an agent before us had begun has ended, as it was asked to. */
void order_start_half_ended(struct orders *orders, struct vm_entry *entry);

#endif

/* Answers to orders, now or when those who wait for one thing can have them.
 *
 * Flow:   orders, order_* -> [order_reply] -> rpc
 * Thread: the loop's.
 */
#ifndef GODWIT_AGENT_ORDER_REPLY_H
#define GODWIT_AGENT_ORDER_REPLY_H

#include "agent/orders_inside.h"

void order_reply_fault(struct rpc_request *request, const struct fault *fault);
void order_reply_status(struct rpc_request *request, const struct vm_entry *entry);
void order_reply_empty(struct rpc_request *request);
void order_reply_gone(struct rpc_request *request, const char *vm_id);
/* It never runs here as this generation, also when its order comes once more. */
void order_reply_void(struct rpc_request *request, const char *vm_id, uint64_t generation);
/* Too many are refused as busy. */
void order_reply_later(struct vm_waiters *waiters, struct rpc_request *request);
/* Of too many the oldest is: those came over lines that are gone. */
void order_reply_later_newest(struct vm_waiters *waiters, struct rpc_request *request);
/* `entry` NULL: all get the fault. */
void order_reply_all(struct vm_waiters *waiters, const struct vm_entry *entry,
                     const struct fault *fault);

#endif

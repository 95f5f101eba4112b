/* Orders that are passed on to the VM's process and answered with what it says.
 *
 * Flow:   orders -> [order_relay] -> godwit-vm
 * Thread: the loop's.
 */
#ifndef GODWIT_AGENT_ORDER_RELAY_H
#define GODWIT_AGENT_ORDER_RELAY_H

#include "agent/orders_inside.h"

/* `message` by `method` to the process of the VM; its status is the answer. */
void order_relay(struct orders *orders, const char *vm_id, uint16_t method,
                 const ProtobufCMessage *message, struct rpc_request *request);
void order_relay_pause(void *data, struct rpc *rpc, struct rpc_request *request,
                       const ProtobufCMessage *message);
void order_relay_resume(void *data, struct rpc *rpc, struct rpc_request *request,
                        const ProtobufCMessage *message);
void order_relay_power_button(void *data, struct rpc *rpc, struct rpc_request *request,
                              const ProtobufCMessage *message);
void order_relay_reboot(void *data, struct rpc *rpc, struct rpc_request *request,
                        const ProtobufCMessage *message);
void order_relay_reset(void *data, struct rpc *rpc, struct rpc_request *request,
                       const ProtobufCMessage *message);
void order_relay_sample(void *data, struct rpc *rpc, struct rpc_request *request,
                        const ProtobufCMessage *message);
void order_relay_counters(void *data, struct rpc *rpc, struct rpc_request *request,
                          const ProtobufCMessage *message);
void order_relay_status(void *data, struct rpc *rpc, struct rpc_request *request,
                        const ProtobufCMessage *message);
void order_relay_tune(void *data, struct rpc *rpc, struct rpc_request *request,
                      const ProtobufCMessage *message);

#endif

/* Orders about a VM that wait until what is in their way here has come to something.
 *
 * Flow:   orders -> [held_orders] -> orders, once the VM's last process has ended or has said what it is
 * Thread: the loop's.
 *
 * They are taken up in the order in which they came, whatever they are: whoever orders again and again waits for the
 * answer to the newest. One that is kept again meanwhile waits for the next time.
 */
#ifndef GODWIT_AGENT_HELD_ORDERS_H
#define GODWIT_AGENT_HELD_ORDERS_H

#include <stdbool.h>

#include <protobuf-c/protobuf-c.h>

#include "agent/vm_table.h"

struct fault;
struct rpc_request;

struct held_order {
    struct held_order *next;
    char vm_id[VM_ID_SIZE];
    ProtobufCMessage *order; /* owned copy */
    struct rpc_request *request;
};

struct held_orders { /* zeroed: none */
    struct held_order *first;
};

/* An owned copy of a message, and its end: a move's key does not stay in memory. Copy: NULL without memory. */
ProtobufCMessage *held_orders_copy(const ProtobufCMessage *message);
void held_orders_wipe(ProtobufCMessage *message);

/* Behind those before it. */
int held_orders_put(struct held_orders *held, const char *vm_id, const ProtobufCMessage *order,
                    struct rpc_request *request, struct fault *fault);
/* `type` NULL: any. */
bool held_orders_has(const struct held_orders *held, const char *vm_id,
                     const ProtobufCMessageDescriptor *type);
/* Gives all of that VM, of that type (NULL: any), in their order; NULL: none. */
struct held_order *held_orders_take(struct held_orders *held, const char *vm_id,
                                    const ProtobufCMessageDescriptor *type);
/* Ends the first of what was taken; returns the next. */
struct held_order *held_order_free(struct held_order *order);
void held_orders_deinit(struct held_orders *held);

#endif

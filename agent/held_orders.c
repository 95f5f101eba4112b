#include "agent/held_orders.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "proto/agent.pb-c.h"

ProtobufCMessage *held_orders_copy(const ProtobufCMessage *message)
{
    size_t count = protobuf_c_message_get_packed_size(message);
    uint8_t *bytes = malloc(count ? count : 1);
    if (!bytes)
        return NULL;
    (void)protobuf_c_message_pack(message, bytes);
    ProtobufCMessage *copy = protobuf_c_message_unpack(message->descriptor, NULL, count, bytes);
    explicit_bzero(bytes, count); /* a move's key may be in it */
    free(bytes);
    return copy;
}

void held_orders_wipe(ProtobufCMessage *message)
{
    if (message->descriptor == &godwit__move_in__descriptor)
        explicit_bzero(((Godwit__MoveIn *)message)->psk.data, ((Godwit__MoveIn *)message)->psk.len);
    if (message->descriptor == &godwit__move_out__descriptor)
        explicit_bzero(((Godwit__MoveOut *)message)->psk.data, ((Godwit__MoveOut *)message)->psk.len);
    protobuf_c_message_free_unpacked(message, NULL);
}

int held_orders_put(struct held_orders *held, const char *vm_id, const ProtobufCMessage *order,
                    struct rpc_request *request, struct fault *fault)
{
    struct held_order *kept = calloc(1, sizeof *kept);
    ProtobufCMessage *copy = kept ? held_orders_copy(order) : NULL;

    if (!copy) {
        free(kept);
        return fault_set(fault, ERR_NOMEM, "no memory for an order");
    }
    (void)snprintf(kept->vm_id, sizeof kept->vm_id, "%s", vm_id);
    kept->order = copy;
    kept->request = request;
    struct held_order **end = &held->first;
    while (*end)
        end = &(*end)->next;
    *end = kept;
    return 0;
}

static bool is_meant(const struct held_order *order, const char *vm_id,
                     const ProtobufCMessageDescriptor *type)
{
    return strcmp(order->vm_id, vm_id) == 0 && (!type || order->order->descriptor == type);
}

bool held_orders_has(const struct held_orders *held, const char *vm_id,
                     const ProtobufCMessageDescriptor *type)
{
    for (const struct held_order *order = held->first; order; order = order->next) {
        if (is_meant(order, vm_id, type))
            return true;
    }
    return false;
}

struct held_order *held_orders_take(struct held_orders *held, const char *vm_id,
                                    const ProtobufCMessageDescriptor *type)
{
    struct held_order *taken = NULL, **end = &taken;

    for (struct held_order **at = &held->first; *at;) {
        struct held_order *order = *at;
        if (!is_meant(order, vm_id, type)) {
            at = &order->next;
            continue;
        }
        *at = order->next;
        order->next = NULL;
        *end = order;
        end = &order->next;
    }
    return taken;
}

struct held_order *held_order_free(struct held_order *order)
{
    struct held_order *next = order->next;

    held_orders_wipe(order->order);
    free(order);
    return next;
}

void held_orders_deinit(struct held_orders *held)
{
    while (held->first)
        held->first = held_order_free(held->first);
}

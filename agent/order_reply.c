#include "agent/order_reply.h"

#include <string.h>

#include "proto/limits.h"

void order_reply_fault(struct rpc_request *request, const struct fault *fault)
{
    if (request)
        (void)rpc_reply_fault(request, fault);
}

void order_reply_status(struct rpc_request *request, const struct vm_entry *entry)
{
    if (request)
        (void)rpc_reply(request, &entry->status->base);
}

void order_reply_empty(struct rpc_request *request)
{
    Godwit__Empty empty = GODWIT__EMPTY__INIT;

    if (request)
        (void)rpc_reply(request, &empty.base);
}

void order_reply_gone(struct rpc_request *request, const char *vm_id)
{
    Godwit__VmStatus gone = GODWIT__VM_STATUS__INIT;

    gone.vm_id = (char *)(uintptr_t)vm_id; /* protobuf-c knows no const */
    gone.has_state = true;
    gone.state = GODWIT__VM_STATE__VM_STATE_STOPPED;
    if (request)
        (void)rpc_reply(request, &gone.base);
}

/* It never runs here as this generation, also when its order comes once more. */
void order_reply_void(struct rpc_request *request, const char *vm_id, uint64_t generation)
{
    Godwit__VmStatus status = GODWIT__VM_STATUS__INIT;

    status.vm_id = (char *)(uintptr_t)vm_id; /* protobuf-c knows no const */
    status.has_state = status.has_generation = true;
    status.state = GODWIT__VM_STATE__VM_STATE_GONE;
    status.generation = generation;
    if (request)
        (void)rpc_reply(request, &status.base);
}

void order_reply_later(struct vm_waiters *waiters, struct rpc_request *request)
{
    struct fault fault = {0};

    if (!request)
        return;
    if (waiters->count < VM_WAITERS_MAX) {
        waiters->requests[waiters->count++] = request;
        return;
    }
    (void)fault_set(&fault, ERR_BUSY, "this order is being carried out");
    (void)rpc_reply_fault(request, &fault);
}

/* A start that is said again while it is carried out, or a stop of one. Refused it would count as never carried out, and
 * the VM be started elsewhere: those that are too many came over lines that are gone. */
void order_reply_later_newest(struct vm_waiters *waiters, struct rpc_request *request)
{
    struct fault fault = {0};

    if (request && waiters->count == VM_WAITERS_MAX) {
        (void)fault_set(&fault, ERR_BUSY, "this order was said again since");
        (void)rpc_reply_fault(waiters->requests[0], &fault);
        memmove(&waiters->requests[0], &waiters->requests[1],
                --waiters->count * sizeof waiters->requests[0]);
    }
    order_reply_later(waiters, request);
}

/* `entry` NULL: all get the fault. */
void order_reply_all(struct vm_waiters *waiters, const struct vm_entry *entry,
                     const struct fault *fault)
{
    struct vm_waiters now = *waiters;

    waiters->count = 0;
    for (size_t i = 0; i < now.count; i++) {
        if (entry)
            order_reply_status(now.requests[i], entry);
        else
            order_reply_fault(now.requests[i], fault);
    }
}

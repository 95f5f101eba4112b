#include "agent/order_relay.h"

#include "agent/order_judge.h"
#include "agent/order_reply.h"
#include "agent/order_step.h"
#include "agent/vm_process.h"
#include "agent/vm_word.h"
#include "proto/limits.h"
#include "proto/method.h"

enum {
    SAMPLE_MS_MAX = 10000, /* a second, and a busy host */
};

static void relayed(void *data, const ProtobufCMessage *reply, const struct fault *fault)
{
    struct step *step = data;
    struct vm_entry *entry = vm_table_find(step->orders->table, step->vm_id);

    if (reply && entry) {
        vm_entry_update(entry, (const Godwit__VmStatus *)reply);
        order_reply_status(step->request, entry);
    } else {
        struct fault gone = {0};
        if (!fault)
            (void)fault_set(&gone, ERR_NOT_FOUND, "VM %s is gone", step->vm_id);
        order_reply_fault(step->request, fault ? fault : &gone);
    }
    order_step_free(step);
}

void order_relay(struct orders *orders, const char *vm_id, uint16_t method,
                 const ProtobufCMessage *message, struct rpc_request *request)
{
    struct vm_entry *entry;
    struct fault fault = {0};
    struct step *step = NULL;

    int r = order_judge_process(orders, vm_id, &entry, &fault);
    if (r == 0)
        r = order_step_new(&step, orders, entry->id, NULL, request, &fault);
    if (r == 0)
        r = rpc_call(vm_process_rpc(entry->process), method, message,
                     &godwit__vm_status__descriptor, ORDER_CALL_MS_MAX, relayed, step, &fault);
    if (r < 0) {
        if (step)
            order_step_free(step);
        order_reply_fault(request, &fault);
    }
}

void order_relay_pause(void *data, struct rpc *rpc, struct rpc_request *request,
                       const ProtobufCMessage *message)
{
    (void)rpc;
    order_relay(orders_of(data), ((const Godwit__VmAction *)message)->vm_id, METHOD_VM_PAUSE, message,
                request);
}

void order_relay_resume(void *data, struct rpc *rpc, struct rpc_request *request,
                        const ProtobufCMessage *message)
{
    (void)rpc;
    order_relay(orders_of(data), ((const Godwit__VmAction *)message)->vm_id, METHOD_VM_RESUME, message,
                request);
}

void order_relay_power_button(void *data, struct rpc *rpc, struct rpc_request *request,
                              const ProtobufCMessage *message)
{
    (void)rpc;
    order_relay(orders_of(data), ((const Godwit__VmAction *)message)->vm_id, METHOD_VM_POWER_BUTTON,
                message, request);
}

void order_relay_reboot(void *data, struct rpc *rpc, struct rpc_request *request,
                        const ProtobufCMessage *message)
{
    (void)rpc;
    order_relay(orders_of(data), ((const Godwit__VmAction *)message)->vm_id, METHOD_VM_REBOOT, message,
                request);
}

void order_relay_reset(void *data, struct rpc *rpc, struct rpc_request *request,
                       const ProtobufCMessage *message)
{
    (void)rpc;
    order_relay(orders_of(data), ((const Godwit__VmAction *)message)->vm_id, METHOD_VM_RESET, message,
                request);
}

static void passed_on(void *data, const ProtobufCMessage *reply, const struct fault *fault)
{
    struct step *step = data;

    if (reply)
        (void)rpc_reply(step->request, reply);
    else
        order_reply_fault(step->request, fault);
    order_step_free(step);
}

/* A question for the VM's process, whose answer is no status. */
static void pass_on(struct orders *orders, uint16_t method, const ProtobufCMessage *message,
                    const ProtobufCMessageDescriptor *answer, uint64_t ms_max,
                    struct rpc_request *request)
{
    const Godwit__VmAction *order = (const Godwit__VmAction *)message;
    struct vm_entry *entry;
    struct fault fault = {0};
    struct step *step = NULL;

    if (!request)
        return;
    int r = order_judge_process(orders, order->vm_id, &entry, &fault);
    if (r == 0)
        r = order_step_new(&step, orders, entry->id, NULL, request, &fault);
    if (r == 0)
        r = rpc_call(vm_process_rpc(entry->process), method, message, answer, ms_max, passed_on,
                     step, &fault);
    if (r < 0) {
        if (step)
            order_step_free(step);
        order_reply_fault(request, &fault);
    }
}

void order_relay_sample(void *data, struct rpc *rpc, struct rpc_request *request,
                        const ProtobufCMessage *message)
{
    (void)rpc;
    pass_on(orders_of(data), METHOD_VM_SAMPLE, message, &godwit__vm_sample__descriptor,
            SAMPLE_MS_MAX, request);
}

void order_relay_counters(void *data, struct rpc *rpc, struct rpc_request *request,
                          const ProtobufCMessage *message)
{
    (void)rpc;
    pass_on(orders_of(data), METHOD_VM_COUNTERS, message, &godwit__vm_counters__descriptor,
            ORDER_CALL_MS_MAX, request);
}

void order_relay_status(void *data, struct rpc *rpc, struct rpc_request *request,
                        const ProtobufCMessage *message)
{
    const Godwit__VmAction *order = (const Godwit__VmAction *)message;
    struct orders *orders = orders_of(data);
    struct vm_entry *entry = vm_table_find(orders->table, order->vm_id);
    Godwit__Empty empty = GODWIT__EMPTY__INIT;
    (void)rpc;

    if (entry && (!vm_entry_is_alive(entry) || entry->upgrade || entry->suspending) &&
        !vm_word_is_unheard(entry)) {
        order_reply_status(request, entry); /* an upgrade changes nothing of what is told */
        return;
    }
    order_relay(orders, order->vm_id, METHOD_VM_STATUS, &empty.base, request);
}

void order_relay_tune(void *data, struct rpc *rpc, struct rpc_request *request,
                      const ProtobufCMessage *message)
{
    const Godwit__MoveTune *tune = (const Godwit__MoveTune *)message;
    (void)rpc;
    order_relay(orders_of(data), tune->vm_id, METHOD_VM_MOVE_TUNE, message, request);
}

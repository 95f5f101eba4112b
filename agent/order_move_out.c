#include "agent/order_move_out.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "agent/host_facts.h"
#include "agent/move_sockets.h"
#include "agent/order_judge.h"
#include "agent/order_reply.h"
#include "agent/order_step.h"
#include "agent/redial.h"
#include "agent/vm_process.h"
#include "base/log.h"
#include "proto/limits.h"
#include "proto/method.h"

static void remember_disks(struct vm_entry *entry, const Godwit__MoveOut *order)
{
    struct fault fault = {0};

    (void)snprintf(entry->disks_move_id, sizeof entry->disks_move_id, "%s",
                   order->goals && order->goals->with_local_disks ? order->move_id : "");
    if (vm_entry_keep_disks_move(entry, &fault) < 0) /* it moves all the same */
        log_warn("orders", "a disk that moves may stay here, too vm=%s: %s", entry->id,
                 fault.text);
}

static void move_out_failed(struct step *step, const struct fault *fault)
{
    struct vm_entry *entry = vm_table_find(step->orders->table, step->vm_id);

    log_warn("orders", "move out failed vm=%s: %s", step->vm_id, fault->text);
    if (entry)
        entry->out_move_id[0] = 0;
    order_reply_fault(step->request, fault);
    order_step_free(step);
}

static void move_out_begun(void *data, const ProtobufCMessage *reply, const struct fault *fault)
{
    struct step *step = data;

    if (!reply) {
        move_out_failed(step, fault);
        return;
    }
    log_info("orders", "move begins vm=%s move=%s", step->vm_id,
             ((Godwit__MoveOut *)step->order)->move_id);
    order_reply_empty(step->request);
    order_step_free(step);
}

static void move_out_connected(void *data, const int *fds, size_t count, const struct fault *fault)
{
    struct step *step = data;
    struct vm_entry *entry;
    struct fault words = {0};

    if (fault) {
        move_out_failed(step, fault);
        return;
    }
    int r = order_judge_process(step->orders, step->vm_id, &entry, &words);
    if (r == 0)
        r = rpc_call_fds(vm_process_rpc(entry->process), METHOD_VM_MOVE_OUT, step->order, fds,
                         count, &godwit__empty__descriptor, ORDER_CALL_MS_MAX, move_out_begun, step,
                         &words);
    for (size_t i = 0; i < count; i++)
        (void)close(fds[i]); /* the process has its own, or nobody needs them */
    if (r < 0)
        move_out_failed(step, &words);
}

static unsigned lanes_of(const struct orders *orders, const Godwit__MoveOut *order)
{
    unsigned lanes = order->goals ? order->goals->lanes : 0;

    if (!lanes)
        lanes = host_facts_cpus(orders->facts) / 2;
    if (!lanes)
        lanes = 1;
    if (order->goals && (order->goals->postcopy || order->goals->postcopy_late))
        lanes += 2; /* of its own: for what is asked for, and for the rest */
    return lanes < LANES_MAX ? lanes : LANES_MAX;
}

void order_move_out_handle(void *data, struct rpc *rpc, struct rpc_request *request,
                           const ProtobufCMessage *message)
{
    const Godwit__MoveOut *order = (const Godwit__MoveOut *)message;
    struct orders *orders = orders_of(data);
    struct vm_entry *entry = NULL;
    struct fault fault = {0};
    struct step *step = NULL;
    (void)rpc;

    int r = order_judge_incarnation(orders, order->source_incarnation, &fault);
    if (r == 0 && (!order->move_id || !*order->move_id || strlen(order->move_id) >= VM_ID_SIZE ||
                   !order->address))
        r = fault_set(&fault, ERR_INVALID, "a move out without its id or address");
    if (r == 0)
        r = order_judge_process(orders, order->vm_id, &entry, &fault);
    if (r == 0 && strcmp(entry->out_move_id, order->move_id) == 0) {
        order_reply_empty(request); /* it is under way, or over: its events say which */
        return;
    }
    if (r == 0 && order->generation <= entry->status->generation)
        r = fault_set(&fault, ERR_REFUSED, "%s runs as generation %llu; a move to %llu is too old",
                      entry->status->name ? entry->status->name : entry->id,
                      (unsigned long long)entry->status->generation,
                      (unsigned long long)order->generation);
    if (r == 0)
        r = order_step_new(&step, orders, entry->id, &order->base, request, &fault);
    if (r < 0) {
        order_reply_fault(request, &fault);
        return;
    }
    (void)snprintf(entry->out_move_id, sizeof entry->out_move_id, "%s", order->move_id);
    remember_disks(entry, order);
    if (vm_entry_is_domain(entry)) {
        if (rpc_call(vm_process_rpc(entry->process), METHOD_VM_MOVE_OUT, step->order,
                     &godwit__empty__descriptor, ORDER_CALL_MS_MAX, move_out_begun, step, &fault) < 0)
            move_out_failed(step, &fault);
        return;
    }
    redial_remember(entry, order->address);
    if (move_sockets_connect(orders->loop, order->address, lanes_of(orders, order) + 1,
                             move_out_connected, step, &fault) < 0)
        move_out_failed(step, &fault);
}

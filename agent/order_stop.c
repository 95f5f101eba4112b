#include "agent/order_stop.h"

#include <stdio.h>

#include "agent/images.h"
#include "agent/order_await.h"
#include "agent/order_judge.h"
#include "agent/order_reply.h"
#include "agent/order_step.h"
#include "agent/snapshots.h"
#include "agent/standby_twin.h"
#include "agent/store_question.h"
#include "agent/vm_process.h"
#include "base/id.h"
#include "base/log.h"
#include "base/loop.h"
#include "proto/limits.h"
#include "proto/method.h"

enum {
    QUIT_MS_MAX = 3000,
    END_MS_MAX = 3000, /* from the end of its connection to its own */
};

static void kill_hung(struct vm_entry *entry, uint64_t grace_ms)
{
    struct fault fault = {0};

    /* HELD after GAVE may be the only copy there is: that is for a verdict to end, not for us. */
    uint64_t given_as = vm_entry_given_as(entry);
    if (given_as) {
        (void)fault_set(&fault, ERR_STATE,
                        "it was given away as generation %llu and no verdict has come",
                        (unsigned long long)given_as);
    } else if (!vm_process_is_proven(entry->process)) {
        (void)fault_set(&fault, ERR_STATE, "process %d has not shown that it runs this VM",
                        vm_process_pid(entry->process));
    } else {
        vm_process_kill_after(entry->process, grace_ms);
        return;
    }
    entry->stopping = entry->remove = false;
    order_reply_all(&entry->stop_waiters, NULL, &fault);
}

static void stop_answered(void *data, const ProtobufCMessage *reply, const struct fault *fault)
{
    struct step *step = data;
    struct vm_entry *entry = vm_table_find(step->orders->table, step->vm_id);

    /* Refused: a move has it. Closed: it was ending already. Anything else: it hangs. */
    if (entry && entry->process && entry->stopping && !reply) {
        if (fault->code == ERR_BUSY || fault->code == ERR_STATE) {
            entry->stopping = entry->remove = false;
            order_reply_all(&entry->stop_waiters, NULL, fault);
        } else {
            kill_hung(entry, fault->code == ERR_CLOSED ? END_MS_MAX : 0);
        }
    }
    order_step_free(step);
}

static void stop_process(struct orders *orders, struct vm_entry *entry)
{
    Godwit__VmAction action = GODWIT__VM_ACTION__INIT;
    struct fault fault = {0};
    struct step *step = NULL;
    struct rpc *rpc = vm_process_rpc(entry->process);

    action.vm_id = entry->id;
    if (rpc && order_step_new(&step, orders, entry->id, NULL, NULL, &fault) == 0 &&
        rpc_call(rpc, METHOD_VM_QUIT, &action.base, &godwit__vm_status__descriptor, QUIT_MS_MAX,
                 stop_answered, step, &fault) == 0)
        return;
    if (step)
        order_step_free(step);
    kill_hung(entry, END_MS_MAX); /* not connected: as a process that has just ended */
}

static void stop_over(struct vm_entry *entry)
{
    bool remove = entry->remove;
    struct fault fault = {0};
    if (vm_entry_drop_file(entry, &fault) < 0) { /* what is there must not be gone on from */
        entry->stopping = entry->remove = false;
        order_reply_all(&entry->stop_waiters, NULL, &fault);
        return;
    }
    if (entry->status->state == GODWIT__VM_STATE__VM_STATE_SUSPENDED) {
        vm_entry_set(entry, GODWIT__VM_STATE__VM_STATE_STOPPED, entry->status->generation,
                     "stopped on request", true);
    }
    struct vm_waiters waiters = entry->stop_waiters;

    entry->stopping = entry->remove = false;
    entry->stop_waiters.count = 0;
    vm_entry_journal(entry, remove ? "remove" : "stop");
    order_reply_all(&waiters, entry, NULL);
    if (remove)
        vm_table_remove(entry);
}

static void remove_work(void *data)
{
    struct step *step = data;
    const Godwit__VmStatus *status = (const Godwit__VmStatus *)step->order;

    step->result = backends_remove(status->spec, step->vm_id, &step->fault);
}

static void remove_done(void *data)
{
    struct step *step = data;
    struct vm_entry *entry = vm_table_find(step->orders->table, step->vm_id);

    step->orders->workers--;
    if (entry && !step->orders->stopped) {
        entry->starting = false;
        if (step->result == 0) {
            stop_over(entry);
        } else {
            log_error("orders", "a VM's disks cannot be removed vm=%s: %s", step->vm_id,
                      step->fault.text);
            entry->stopping = entry->remove = false;
            order_reply_all(&entry->stop_waiters, NULL, &step->fault);
        }
    }
    order_step_free(step);
}

/* Its process is no more: what was made for it goes first, so that a failure can be told. */
void order_stop_ended(struct orders *orders, struct vm_entry *entry)
{
    struct fault fault = {0};
    struct step *step = NULL;

    if (!entry->remove || !entry->status->spec || !entry->status->spec->n_disks) {
        stop_over(entry);
        return;
    }
    int r = order_step_new(&step, orders, entry->id, &entry->status->base, NULL, &fault);
    if (r == 0) {
        entry->starting = true; /* nothing else is done to it meanwhile */
        orders->workers++;
        r = loop_work(orders->loop, remove_work, remove_done, step);
        if (r == 0)
            return;
        orders->workers--;
        entry->starting = false;
        order_step_free(step);
        (void)fault_set(&fault, r, "no worker to remove disks");
    }
    entry->stopping = entry->remove = false;
    order_reply_all(&entry->stop_waiters, NULL, &fault);
}

/* What it reads may never come. Until its disks are opened on a worker nobody can end that: it ends after. */
static void end_start(struct vm_entry *entry, uint64_t generation, struct rpc_request *request)
{
    struct fault fault = {0};

    order_reply_later_newest(&entry->stop_waiters, request);
    if (entry->start_ends)
        return;
    entry->start_ends = true;
    entry->starting_generation = generation;
    log_info("orders", "a start is ended on request vm=%s generation=%llu", entry->id,
             (unsigned long long)entry->starting_generation);
    if (!entry->process)
        return;
    (void)snprintf(entry->end_reason, sizeof entry->end_reason, "it was stopped while it was being started");
    if (vm_process_kill(entry->process, &fault) == 0)
        return;
    log_error("orders", "vm=%s: %s", entry->id, fault.text);
    entry->start_ends = false;
    entry->end_reason[0] = '\0';
    order_reply_all(&entry->stop_waiters, NULL, &fault);
}

/* True: it is seen to. Else it runs as that by now, and is stopped as any other. */
static bool stop_start(struct orders *orders, struct vm_entry *entry, const Godwit__OrderVmStop *order,
                       struct rpc_request *request)
{
    uint64_t generation = order->ends_start;
    bool is_it = entry && entry->starting && entry->start_may_end &&
                 entry->starting_generation == generation;

    if (entry && order_judge_is_unheard(entry) && entry->status->generation != generation) {
        struct fault fault = {0};
        if (entry->is_silent && entry->process && vm_process_is_proven(entry->process) &&
            !vm_entry_given_as(entry)) {
            end_start(entry, generation, request); /* what it had become shows when it has ended */
            return true;
        }
        (void)fault_set(&fault, ERR_BUSY, "its process has not answered the agent, which was started after it");
        entry->void_generation = generation; /* nor does a START that waits here begin it anew, once that has ended */
        order_reply_fault(request, &fault);
        return true;
    }
    if (entry && (is_it || order_judge_is_half_started(entry)) && !vm_entry_is_domain(entry)) {
        end_start(entry, generation, request);
        return true;
    }
    if (entry && ((entry->starting && entry->starting_generation == generation) ||
                  entry->status->generation == generation))
        return false;
    vm_table_refuse(orders->table, order->vm_id, generation); /* it may be on its way */
    order_reply_void(request, order->vm_id, generation);
    return true;
}

void order_stop_handle(void *data, struct rpc *rpc, struct rpc_request *request,
                       const ProtobufCMessage *message)
{
    const Godwit__OrderVmStop *order = (const Godwit__OrderVmStop *)message;
    struct orders *orders = orders_of(data);
    struct vm_entry *entry = vm_table_find(orders->table, order->vm_id);
    struct fault fault = {0};
    (void)rpc;

    if (order->vm_id && order->remove && images_are_cloned_for(orders->images, order->vm_id)) {
        (void)fault_set(&fault, ERR_BUSY, "a disk of this VM is just being made from an image");
        order_reply_fault(request, &fault);
        return;
    }
    if (order->vm_id && order->remove &&
        snapshots_are_cloned_for(orders->snapshots, order->vm_id)) {
        (void)fault_set(&fault, ERR_BUSY, "a disk of this VM is just being made from a snapshot");
        order_reply_fault(request, &fault);
        return;
    }
    if (order->vm_id && order->remove && standby_twins_make(&orders->twins, order->vm_id)) {
        (void)fault_set(&fault, ERR_BUSY, "this VM is just being made from a replica");
        order_reply_fault(request, &fault);
        return;
    }
    if ((order->remove || !order->ends_start) && order_await_has(orders, order->vm_id)) {
        (void)fault_set(&fault, ERR_BUSY, "it is just being started");
        order_reply_fault(request, &fault);
        return;
    }
    if (!entry && order->vm_id && order->remove) { /* gone already: as wanted */
        if (id_name_is_valid(order->vm_id) && order_judge_no_replica(orders, order->vm_id, &fault) == 0)
            vm_table_clear(orders->table, order->vm_id);
        if (order->spec && order->spec->n_disks > 0)
            store_question_remove(&orders->questions, order, request);
        else
            order_reply_gone(request, order->vm_id);
        return;
    }
    int r = 0;
    if (entry && entry->is_recalled) { /* not even a refusal of that start would be true */
        (void)fault_set(&fault, ERR_BUSY, "libvirt may still begin a start of %s, as generation %llu, that it was asked for "
                        "before this agent began: it is known once it is started again",
                        entry->status->name ? entry->status->name : entry->id,
                        (unsigned long long)entry->starting_generation);
        order_reply_fault(request, &fault);
        return;
    }
    if (order->ends_start && order->vm_id && id_name_is_valid(order->vm_id) &&
        stop_start(orders, entry, order, request))
        return;
    if (!entry)
        r = fault_set(&fault, ERR_NOT_FOUND, "this host has no VM %s",
                      order->vm_id ? order->vm_id : "");
    else if (entry->starting || entry->discard || entry->unreachable || entry->upgrade ||
             entry->suspending)
        r = fault_set(&fault, ERR_BUSY, "%s cannot be stopped just now",
                      entry->status->name ? entry->status->name : entry->id);
    if (r < 0) {
        order_reply_fault(request, &fault);
        return;
    }
    entry->remove = entry->remove || order->remove;
    order_reply_later(&entry->stop_waiters, request);
    if (!entry->process)
        order_stop_ended(orders, entry);
    else if (!entry->stopping) {
        entry->stopping = true;
        stop_process(orders, entry);
    }
}

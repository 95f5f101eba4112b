#include "agent/order_start.h"

#include <string.h>

#include "agent/attach.h"
#include "agent/images.h"
#include "agent/order_await.h"
#include "agent/order_create.h"
#include "agent/order_judge.h"
#include "agent/order_reply.h"
#include "agent/order_step.h"
#include "agent/orders.h"
#include "agent/snapshots.h"
#include "agent/vm_process.h"
#include "base/id.h"
#include "base/log.h"
#include "proto/vm_spec.h"

/* Those who asked for its end: `entry` as it is then, for it had run; NULL: it had not. */
static void answer_ends(struct vm_waiters *waiters, const struct vm_entry *entry,
                        const char *vm_id, uint64_t generation)
{
    struct vm_waiters now = *waiters;

    waiters->count = 0;
    for (size_t i = 0; i < now.count; i++) {
        if (entry)
            order_reply_status(now.requests[i], entry);
        else
            order_reply_void(now.requests[i], vm_id, generation);
    }
}

static void start_failed(struct step *step, const struct fault *given)
{
    struct orders *orders = step->orders;
    struct vm_entry *entry = vm_table_find(orders->table, step->vm_id);
    struct fault own = {0};
    const struct fault *fault = given;

    if (entry && entry->start_ends) {
        (void)fault_set(&own, ERR_REFUSED, "it was stopped while it was being started");
        fault = &own;
    }
    log_warn("orders", "start failed vm=%s generation=%llu: %s", step->vm_id,
             (unsigned long long)step->generation, fault->text);
    if (entry)
        entry->start_may_end = false;
    if (entry && entry->process && entry->starting_runs) {
        step->fault = *fault;
        step->next_failed = orders->failed;
        orders->failed = step; /* whether it ran is known when its process has ended */
        vm_entry_discard(entry);
        return;
    }
    vm_table_refuse(orders->table, step->vm_id, step->generation);
    if (entry) {
        struct vm_waiters waiters = entry->start_waiters, stops = entry->stop_waiters;
        bool ends = entry->start_ends;
        entry->start_waiters.count = 0;
        if (ends)
            entry->stop_waiters.count = 0;
        entry->start_ends = false;
        vm_entry_discard(entry);
        order_reply_all(&waiters, NULL, fault);
        if (ends)
            answer_ends(&stops, NULL, step->vm_id, step->generation);
    }
    order_step_free(step);
}

/* "Never started" would let the pool give its disks away, or go back to the snapshot, over what it has written. */
void order_start_discarded(struct orders *orders, struct vm_entry *entry, bool has_run)
{
    for (struct step **at = &orders->failed; *at; at = &(*at)->next_failed) {
        struct step *step = *at;
        if (strcmp(step->vm_id, entry->id) != 0)
            continue;
        *at = step->next_failed;
        if (!has_run)
            vm_table_refuse(orders->table, step->vm_id, step->generation);
        order_reply_all(&entry->start_waiters, has_run ? entry : NULL, &step->fault);
        if (entry->start_ends)
            answer_ends(&entry->stop_waiters, has_run ? entry : NULL, step->vm_id,
                        step->generation);
        entry->start_ends = false;
        order_step_free(step);
        return;
    }
}

static void start_created(void *data, const ProtobufCMessage *reply, const struct fault *fault)
{
    struct step *step = data;
    struct vm_entry *entry = vm_table_find(step->orders->table, step->vm_id);

    if (!reply || !entry) {
        start_failed(step, fault);
        return;
    }
    vm_entry_update(entry, (const Godwit__VmStatus *)reply);
    vm_entry_commit(entry);
    entry->start_may_end = false;
    if (entry->start_ends) /* too late for that: its process is ending as one that was started */
        entry->stopping = true;
    entry->start_ends = false;
    struct fault left = {0};
    if (order_create_nonce(step) && !step->snapshot && !vm_entry_is_paging(entry) &&
        vm_entry_drop_file(entry, &left) < 0) /* it is marked: of no use */
        log_warn("orders", "vm=%s: %s", entry->id, left.text);
    vm_entry_journal(entry, "start");
    log_info("orders", "started vm=%s name=%s generation=%llu pid=%d", entry->id,
             entry->status->name ? entry->status->name : "", (unsigned long long)step->generation,
             vm_process_pid(entry->process));
    order_reply_all(&entry->start_waiters, entry, NULL);
    order_step_free(step);
}

void order_start_refuse(struct orders *orders, const Godwit__OrderVmStart *order,
                        struct rpc_request *request, const struct fault *fault)
{
    if (order->vm_id && id_name_is_valid(order->vm_id))
        vm_table_refuse(orders->table, order->vm_id, order->generation);
    order_reply_fault(request, fault);
}

/* The snapshot that the order names: a copy, for nobody may take it away from under the start. */
static int take_snapshot(struct step *step, const Godwit__OrderVmStart *order, struct fault *fault)
{
    if (!order->snapshot_id || !*order->snapshot_id)
        return 0;
    const Godwit__SnapshotInfo *info =
        step->orders->snapshots ? snapshots_find(step->orders->snapshots, order->snapshot_id)
                                : NULL;
    step->is_clone = order->is_clone;
    if (!info && step->orders->snapshots && snapshots_judge_absent(step->orders->snapshots, fault) < 0)
        return fault->code;
    if (!info || (strcmp(info->vm_id, step->vm_id) == 0) == step->is_clone)
        return fault_set(fault, ERR_NOT_FOUND, "this host has no snapshot %.12s of %s",
                         order->snapshot_id, step->is_clone ? "another VM" : "it");
    if (info->is_libvirt && (step->is_clone || order->lazy))
        return fault_set(fault, ERR_UNSUPPORTED, "libvirt goes back to snapshot %s whole, or not at all",
                         info->name);
    if (step->is_clone && !info->with_memory)
        return fault_set(fault, ERR_INVALID, "snapshot %s holds no memory to go on from",
                         info->name);
    step->snapshot = (Godwit__SnapshotInfo *)held_orders_copy(&info->base);
    return step->snapshot ? 0 : fault_set(fault, ERR_NOMEM, "no memory for a snapshot");
}

/* There is nothing in it. Else it ends by itself, or goes on. */
void order_start_end_empty(struct vm_entry *entry)
{
    struct fault fault = {0};

    if (entry->process && !order_judge_is_unheard(entry) && entry->status->state == GODWIT__VM_STATE__VM_STATE_NONE)
        (void)vm_process_kill(entry->process, &fault);
}

void order_start_begin(struct orders *orders, const Godwit__OrderVmStart *order,
                       struct rpc_request *request)
{
    struct vm_entry *entry = vm_table_find(orders->table, order->vm_id);
    struct fault fault = {0};
    struct step *step = NULL;

    int r = order_judge_incarnation(orders, order->incarnation, &fault);
    if (r < 0) {
        order_reply_fault(request, &fault);
        return;
    }
    if (order->vm_id && images_are_sealed_for(orders->images, order->vm_id)) {
        (void)fault_set(&fault, ERR_BUSY, "a disk of this VM is just becoming an image");
        order_start_refuse(orders, order, request, &fault);
        return;
    }
    if (entry && entry->starting && entry->starting_generation == order->generation) {
        order_reply_later_newest(&entry->start_waiters, request);
        return;
    }
    r = order_judge_no_replica(orders, order->vm_id, &fault);
    bool is_open = entry && (order_judge_is_half_started(entry) ||
                             (order_judge_is_unheard(entry) && order->generation != entry->status->generation));
    if (r == 0 && is_open) {
        order_start_end_empty(entry);
        if (held_orders_put(&orders->held, entry->id, &order->base, request, &fault) < 0)
            order_reply_fault(request, &fault);
        return;
    }
    uint64_t hiwater = order->vm_id ? vm_table_hiwater(orders->table, order->vm_id) : 0;
    if (r == 0)
        r = orders_judge_start(entry, hiwater, order->generation, &fault);
    if (r == ORDERS_SAME) {
        order_reply_status(request, entry);
        return;
    }
    if (r == ORDERS_START && entry && entry->void_generation == order->generation && order->generation)
        r = fault_set(&fault, ERR_STATE, "it was stopped while it was being started");
    if (r == ORDERS_START && order_await_is_due(orders, order)) {
        if (order_await_put(orders, order, request, &fault) < 0)
            order_reply_fault(request, &fault);
        return;
    }
    if (r == ORDERS_START)
        r = order->spec && order->spec->name && vm_spec_judge(order->spec, &fault) == 0
                ? vm_table_add(orders->table, order->vm_id, &entry, &fault)
            : fault.code ? fault.code
                         : fault_set(&fault, ERR_INVALID, "a start without a VM's spec");
    if (r == 0)
        r = order_step_new(&step, orders, entry->id, &order->base, NULL, &fault);
    if (r < 0) {
        order_start_refuse(orders, order, request, &fault);
        return;
    }
    step->generation = order->generation;
    order_reply_later(&entry->start_waiters, request);
    step->start_paused = order->start_paused;
    step->only_running = order->only_running;
    entry->start_may_end = !vm_spec_is_libvirt(order->spec);
    entry->start_ends = false;
    r = attach_stamp_read(order->expected_stamp, &step->expected, &fault);
    if (r == 0)
        r = take_snapshot(step, order, &fault);
    if (r == 0)
        r = order_create(step, entry, start_created, &fault);
    if (r < 0)
        start_failed(step, &fault);
}

void order_start_handle(void *data, struct rpc *rpc, struct rpc_request *request,
                        const ProtobufCMessage *message)
{
    (void)rpc;
    order_start_begin(orders_of(data), (const Godwit__OrderVmStart *)message, request);
}

/* One that an agent before us had begun. Those that wait for what it comes to are its own order, said again. */
void order_start_half_ended(struct orders *orders, struct vm_entry *entry)
{
    struct fault fault = {0};
    bool has_run = entry->status->generation == entry->starting_generation;

    (void)fault_set(&fault, ERR_REFUSED, "it was stopped while it was being started");
    entry->start_ends = false;
    vm_table_refuse(orders->table, entry->id, entry->starting_generation);
    struct held_order *held =
        held_orders_take(&orders->held, entry->id, &godwit__order_vm_start__descriptor);
    for (; held; held = held_order_free(held)) {
        const Godwit__OrderVmStart *order = (const Godwit__OrderVmStart *)held->order;
        if (order->generation == entry->status->generation) /* it had run by then */
            order_reply_status(held->request, entry);
        else
            order_start_refuse(orders, order, held->request, &fault);
    }
    answer_ends(&entry->stop_waiters, has_run ? entry : NULL, entry->id,
                entry->starting_generation);
}

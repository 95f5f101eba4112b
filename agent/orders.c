#include "agent/orders.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/console_order.h"
#include "agent/disk_order.h"
#include "agent/domains.h"
#include "agent/host_facts.h"
#include "agent/images.h"
#include "agent/order_await.h"
#include "agent/order_judge.h"
#include "agent/order_move_in.h"
#include "agent/order_move_out.h"
#include "agent/order_relay.h"
#include "agent/order_reply.h"
#include "agent/order_start.h"
#include "agent/order_step.h"
#include "agent/order_stop.h"
#include "agent/order_verdict.h"
#include "agent/orders_inside.h"
#include "agent/peers.h"
#include "agent/protects.h"
#include "agent/quarantine.h"
#include "agent/snapshots.h"
#include "agent/standby_twin.h"
#include "agent/standbys.h"
#include "agent/store_beat.h"
#include "agent/store_look.h"
#include "agent/store_question.h"
#include "agent/suspend.h"
#include "agent/upgrade.h"
#include "base/id.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/own.h"
#include "proto/limits.h"
#include "proto/method.h"
#include "proto/vm_spec.h"

/* ---- judging ---- */
int orders_judge_start(const struct vm_entry *entry, uint64_t hiwater, uint64_t generation,
                       struct fault *fault)
{
    if (!generation)
        return fault_set(fault, ERR_INVALID, "a start needs a generation");
    if (entry && entry->status->has_state && generation == entry->status->generation)
        return ORDERS_SAME;
    if (generation <= hiwater)
        return fault_set(fault, ERR_REFUSED,
                         "a start as generation %llu is too old: this host has seen %llu",
                         (unsigned long long)generation, (unsigned long long)hiwater);
    if (entry && entry->starting)
        return fault_set(fault, ERR_STATE, "it is being started here already, as generation %llu",
                         (unsigned long long)entry->starting_generation);
    if (entry && vm_entry_is_alive(entry))
        return fault_set(fault, ERR_STATE, "it has a process here already, as generation %llu",
                         (unsigned long long)entry->status->generation);
    return ORDERS_START;
}

/* ---- what waits for the end of a process ---- */

/* What it said last was that its guest is off: it goes, and holds the disk until then. */
static bool has_stopped(const struct vm_entry *entry)
{
    return entry->process && !entry->starting && !entry->unreachable &&
           entry->status->state == GODWIT__VM_STATE__VM_STATE_STOPPED;
}

static void begin_image_seal(struct orders *orders, const Godwit__OrderImageSeal *order,
                             struct rpc_request *request)
{
    const struct vm_entry *entry = order->vm_id ? vm_table_find(orders->table, order->vm_id) : NULL;
    struct fault fault = {0};

    int r = order_judge_incarnation(orders, order->incarnation, &fault);
    if (r == 0 && entry && (order_judge_is_ending(entry) || has_stopped(entry))) {
        r = held_orders_put(&orders->held, order->vm_id, &order->base, request, &fault);
        if (r == 0)
            return;
    }
    if (r == 0 && entry && (vm_entry_is_alive(entry) || entry->starting))
        r = fault_set(&fault, ERR_STATE, "it has a process here: its disk is being written");
    if (r == 0)
        r = order_judge_no_replica(orders, order->vm_id, &fault);
    if (r < 0)
        order_reply_fault(request, &fault);
    else if (request)
        images_seal(orders->images, order,
                    orders->snapshots ? snapshots_root(orders->snapshots) : NULL, request);
}

static void handle_image_seal(void *data, struct rpc *rpc, struct rpc_request *request,
                              const ProtobufCMessage *message)
{
    (void)rpc;
    begin_image_seal(orders_of(data), (const Godwit__OrderImageSeal *)message, request);
}

/* Those that waited for the end of this VM's process. */
static void take_up_held(struct orders *orders, const char *vm_id, bool only_starts)
{
    const ProtobufCMessageDescriptor *start = &godwit__order_vm_start__descriptor;
    struct held_order *held = held_orders_take(&orders->held, vm_id, only_starts ? start : NULL);

    for (; held; held = held_order_free(held)) {
        if (held->order->descriptor == start)
            order_start_begin(orders, (const Godwit__OrderVmStart *)held->order, held->request);
        else if (held->order->descriptor == &godwit__order_image_seal__descriptor)
            begin_image_seal(orders, (const Godwit__OrderImageSeal *)held->order, held->request);
        else
            order_move_in_begin(orders, (const Godwit__MoveIn *)held->order, held->request);
    }
}

void orders_on_vm(struct orders *orders, struct vm_entry *entry)
{
    if (!orders || !entry->process || order_judge_is_unheard(entry))
        return;
    if (!order_judge_is_half_started(entry)) /* what was half started is started, or it is something else */
        take_up_held(orders, entry->id, true);
    else if (held_orders_has(&orders->held, entry->id, &godwit__order_vm_start__descriptor))
        order_start_end_empty(entry);
}

/* A VM with disks of its own left this host, or did not come: what becomes of them here. */
static void tidy_work(void *data)
{
    struct step *step = data;
    const Godwit__VmStatus *status = (const Godwit__VmStatus *)step->order;

    if (status->latch->latch == GODWIT__LATCH__LATCH_RELEASED)
        backends_leave(status->spec, step->vm_id, status->latch->generation);
    else
        backends_drop_landed(status->spec, step->vm_id);
}

static void tidy_done(void *data)
{
    struct step *step = data;
    struct vm_entry *entry = vm_table_find(step->orders->table, step->vm_id);

    step->orders->workers--;
    if (entry) {
        entry->tidying = false;
        entry->disks_move_id[0] = 0;
        (void)vm_entry_keep_disks_move(entry, NULL); /* else its start looks once more */
    }
    if (!step->orders->stopped)
        take_up_held(step->orders, step->vm_id, false);
    order_step_free(step);
}

static bool is_to_tidy(const struct vm_entry *entry)
{
    const Godwit__VmStatus *status = entry->status;

    if (status->state != GODWIT__VM_STATE__VM_STATE_GONE || !status->spec || !status->latch ||
        !status->latch->move_id || vm_entry_is_domain(entry) || !vm_spec_tying_disk(status->spec))
        return false;
    switch (status->latch->latch) {
    case GODWIT__LATCH__LATCH_RELEASED: /* by that very order, and by no other */
        return entry->disks_move_id[0] &&
               strcmp(entry->disks_move_id, status->latch->move_id) == 0;
    case GODWIT__LATCH__LATCH_ABANDONED:
        return true;
    default:
        return false;
    }
}

static bool tidy(struct orders *orders, struct vm_entry *entry)
{
    struct fault fault = {0};
    struct step *step = NULL;

    if (entry->tidying)
        return true;
    if (!is_to_tidy(entry))
        return false;
    int r = order_step_new(&step, orders, entry->id, &entry->status->base, NULL, &fault);
    if (r == 0) {
        orders->workers++;
        r = loop_work(orders->loop, tidy_work, tidy_done, step);
    }
    if (r == 0) {
        entry->tidying = true;
        return true;
    }
    if (step) {
        orders->workers--;
        order_step_free(step);
    }
    log_error("orders", "a disk that moved stays here vm=%s: no worker to put it away", entry->id);
    return false;
}

void orders_start(struct orders *orders, const Godwit__OrderVmStart *order,
                  struct rpc_request *request)
{
    order_start_begin(orders, order, request);
}

void orders_on_discarded(struct orders *orders, struct vm_entry *entry, bool has_run)
{
    order_start_discarded(orders, entry, has_run);
}

void orders_on_ended(struct orders *orders, struct vm_entry *entry)
{
    char vm_id[VM_ID_SIZE];
    memcpy(vm_id, entry->id, sizeof vm_id);

    if (entry->start_ends)
        order_start_half_ended(orders, entry);
    suspend_on_ended(orders->suspends, entry);
    if (orders->protects)
        protects_on_ended(orders->protects, entry);
    if (entry->stopping) {
        order_stop_ended(orders, entry); /* the entry may be gone now */
        entry = vm_table_find(orders->table, vm_id);
    }
    if (!entry || !tidy(orders, entry))
        take_up_held(orders, vm_id, false);
}

void orders_on_domains_known(struct orders *orders)
{
    order_await_known(orders);
}

void orders_on_settled(struct orders *orders)
{
    for (struct vm_entry *entry = vm_table_first(orders->table); entry; entry = entry->next)
        (void)tidy(orders, entry); /* what ended while no agent was looking */
}

/* ---- UPGRADE ---- */
static void handle_upgrade(void *data, struct rpc *rpc, struct rpc_request *request,
                           const ProtobufCMessage *message)
{
    const Godwit__VmUpgrade *order = (const Godwit__VmUpgrade *)message;
    struct orders *orders = orders_of(data);
    struct vm_entry *entry;
    struct fault fault = {0};
    (void)rpc;

    int r = order_judge_incarnation(orders, order->incarnation, &fault);
    if (r == 0)
        r = order_judge_process(orders, order->vm_id, &entry, &fault);
    if (r == 0 && (entry->stopping || entry->attaching))
        r = fault_set(&fault, ERR_BUSY, "%s cannot be upgraded just now",
                      entry->status->name ? entry->status->name : entry->id);
    if (r == 0)
        r = upgrade_begin(orders->upgrades, entry, request, &fault);
    if (r < 0)
        order_reply_fault(request, &fault);
}

void orders_set_upgrades(struct orders *orders, struct upgrades *upgrades,
                         struct suspends *suspends)
{
    orders->upgrades = upgrades;
    orders->suspends = suspends;
}

/* ---- SUSPEND ---- */
static void handle_suspend(void *data, struct rpc *rpc, struct rpc_request *request,
                           const ProtobufCMessage *message)
{
    const Godwit__VmSuspend *order = (const Godwit__VmSuspend *)message;
    struct orders *orders = orders_of(data);
    struct vm_entry *entry;
    struct fault fault = {0};
    (void)rpc;

    int r = order_judge_incarnation(orders, order->incarnation, &fault);
    if (r == 0)
        r = order_judge_process(orders, order->vm_id, &entry, &fault);
    if (r == 0 && (entry->stopping || entry->attaching))
        r = fault_set(&fault, ERR_BUSY, "%s cannot be suspended just now",
                      entry->status->name ? entry->status->name : entry->id);
    if (r == 0)
        r = suspend_begin(orders->suspends, entry, order, request, &fault);
    if (r < 0)
        order_reply_fault(request, &fault);
}

/* ---- SNAPSHOTS ---- */
void orders_set_snapshots(struct orders *orders, struct snapshots *snapshots)
{
    orders->snapshots = snapshots;
}

static int take_of(struct orders *orders, const Godwit__OrderSnapshot *order,
                   struct rpc_request *request, struct fault *fault)
{
    struct vm_entry *entry = order->vm_id ? vm_table_find(orders->table, order->vm_id) : NULL;

    if (!order->vm_id || !id_name_is_valid(order->vm_id))
        return fault_set(fault, ERR_INVALID, "a snapshot without its VM");
    if (order->is_stopped) {
        if (entry && (vm_entry_is_alive(entry) || entry->starting))
            return fault_set(fault, ERR_STATE, "it has a process here");
        return order->spec && vm_spec_is_libvirt(order->spec)
                   ? domains_snapshot_take(orders->domains, order, NULL, request, fault)
                   : snapshots_take(orders->snapshots, order, NULL, request, fault);
    }
    int r = order_judge_process(orders, order->vm_id, &entry, fault);
    if (r == 0 && (entry->stopping || entry->attaching))
        r = fault_set(fault, ERR_BUSY, "%s cannot be snapshotted just now",
                      entry->status->name ? entry->status->name : entry->id);
    if (r == 0 && vm_entry_is_domain(entry))
        return domains_snapshot_take(orders->domains, order, entry, request, fault);
    return r < 0 ? r : snapshots_take(orders->snapshots, order, entry, request, fault);
}

static void handle_snapshot_take(void *data, struct rpc *rpc, struct rpc_request *request,
                                 const ProtobufCMessage *message)
{
    const Godwit__OrderSnapshot *order = (const Godwit__OrderSnapshot *)message;
    struct orders *orders = orders_of(data);
    struct fault fault = {0};
    (void)rpc;

    int r = order_judge_incarnation(orders, order->incarnation, &fault);
    if (r == 0)
        r = take_of(orders, order, request, &fault);
    if (r < 0)
        order_reply_fault(request, &fault);
}

static void handle_snapshot_remove(void *data, struct rpc *rpc, struct rpc_request *request,
                                   const ProtobufCMessage *message)
{
    const Godwit__OrderSnapshot *order = (const Godwit__OrderSnapshot *)message;
    struct orders *orders = orders_of(data);
    const Godwit__SnapshotInfo *info = snapshots_find(orders->snapshots, order->id);
    struct fault fault = {0};
    (void)rpc;

    int r = request && info && info->is_libvirt
                ? domains_snapshot_remove(orders->domains, info, request, &fault)
                : snapshots_remove(orders->snapshots, order, request, &fault);
    if (r < 0)
        order_reply_fault(request, &fault);
}

static void handle_snapshot_check(void *data, struct rpc *rpc, struct rpc_request *request,
                                  const ProtobufCMessage *message)
{
    const Godwit__OrderSnapshot *order = (const Godwit__OrderSnapshot *)message;
    struct orders *orders = orders_of(data);
    const Godwit__SnapshotInfo *info = snapshots_find(orders->snapshots, order->id);
    struct fault fault = {0};
    (void)rpc;

    int r = request && info && info->is_libvirt
                ? domains_snapshot_check(orders->domains, info, request, &fault)
                : snapshots_check(orders->snapshots, order, request, &fault);
    if (r < 0)
        order_reply_fault(request, &fault);
}

/* ---- disaster recovery: see protects.h and standbys.h ---- */
void orders_set_dr(struct orders *orders, struct protects *protects, struct standbys *standbys)
{
    orders->protects = protects;
    orders->standbys = standbys;
    orders->twins.standbys = standbys;
}

static void wipe(const ProtobufCBinaryData *secret)
{
    if (secret->len)
        explicit_bzero(secret->data, secret->len); /* unpacked for us: our memory */
}

static void handle_protect(void *data, struct rpc *rpc, struct rpc_request *request,
                           const ProtobufCMessage *message)
{
    const Godwit__OrderProtect *order = (const Godwit__OrderProtect *)message;
    struct orders *orders = orders_of(data);
    struct vm_entry *entry;
    struct fault fault = {0};
    (void)rpc;

    int r = order_judge_incarnation(orders, order->incarnation, &fault);
    if (r == 0)
        r = order_judge_process(orders, order->vm_id, &entry, &fault);
    if (r == 0)
        r = protects_begin(orders->protects, entry, order, request, &fault);
    wipe(&order->psk);
    if (r < 0)
        order_reply_fault(request, &fault);
}

static void handle_protect_finish(void *data, struct rpc *rpc, struct rpc_request *request,
                                  const ProtobufCMessage *message)
{
    const Godwit__OrderProtectFinish *order = (const Godwit__OrderProtectFinish *)message;
    struct vm_entry *entry;
    struct fault fault = {0};
    (void)rpc;

    int r = order_judge_process(orders_of(data), order->vm_id, &entry, &fault);
    if (r == 0)
        r = protects_finish(orders_of(data)->protects, entry, order, request, &fault);
    if (r < 0)
        order_reply_fault(request, &fault);
}

/* Without a process nothing is replicated: as wanted. */
static void handle_protect_end(void *data, struct rpc *rpc, struct rpc_request *request,
                               const ProtobufCMessage *message)
{
    const Godwit__OrderProtectEnd *order = (const Godwit__OrderProtectEnd *)message;
    struct orders *orders = orders_of(data);
    struct vm_entry *entry = vm_table_find(orders->table, order->vm_id);
    struct fault fault = {0};
    (void)rpc;

    if (!entry || !vm_entry_is_alive(entry)) {
        order_reply_empty(request);
        return;
    }
    int r = order_judge_process(orders, order->vm_id, &entry, &fault);
    if (r == 0)
        r = protects_end(orders->protects, entry, order, request, &fault);
    if (r < 0)
        order_reply_fault(request, &fault);
}

static void handle_replica_in(void *data, struct rpc *rpc, struct rpc_request *request,
                              const ProtobufCMessage *message)
{
    const Godwit__OrderReplicaIn *order = (const Godwit__OrderReplicaIn *)message;
    struct fault fault = {0};
    (void)rpc;

    if (order_judge_incarnation(orders_of(data), order->incarnation, &fault) < 0)
        order_reply_fault(request, &fault);
    else
        standbys_in(orders_of(data)->standbys, order, request);
    wipe(&order->psk);
}

static void handle_replica_copy(void *data, struct rpc *rpc, struct rpc_request *request,
                                const ProtobufCMessage *message)
{
    const Godwit__OrderReplicaCopy *order = (const Godwit__OrderReplicaCopy *)message;
    struct fault fault = {0};
    (void)rpc;

    if (order_judge_incarnation(orders_of(data), order->incarnation, &fault) < 0)
        order_reply_fault(request, &fault);
    else
        standby_twin_make(&orders_of(data)->twins, order, request);
}

static void handle_replica_take(void *data, struct rpc *rpc, struct rpc_request *request,
                                const ProtobufCMessage *message)
{
    const Godwit__OrderReplicaTake *order = (const Godwit__OrderReplicaTake *)message;
    struct fault fault = {0};
    (void)rpc;

    if (order_judge_incarnation(orders_of(data), order->incarnation, &fault) < 0)
        order_reply_fault(request, &fault);
    else
        standbys_take(orders_of(data)->standbys, order, request);
}

static void handle_replica_drop(void *data, struct rpc *rpc, struct rpc_request *request,
                                const ProtobufCMessage *message)
{
    (void)rpc;
    standbys_drop(orders_of(data)->standbys, (const Godwit__OrderReplicaDrop *)message, request);
}

static void handle_snapshot_clone(void *data, struct rpc *rpc, struct rpc_request *request,
                                  const ProtobufCMessage *message)
{
    const Godwit__OrderSnapshotClone *order = (const Godwit__OrderSnapshotClone *)message;
    struct orders *orders = orders_of(data);
    struct fault fault = {0};
    (void)rpc;

    int r = order_judge_incarnation(orders, order->incarnation, &fault);
    if (r == 0)
        r = snapshots_clone(orders->snapshots, order, request, &fault);
    if (r < 0)
        order_reply_fault(request, &fault);
}

/* ---- consoles: see console_order.h ---- */
static void handle_attach(void *data, struct rpc *rpc, struct rpc_request *request,
                          const ProtobufCMessage *message)
{
    const Godwit__ConsoleAttach *order = (const Godwit__ConsoleAttach *)message;
    struct orders *orders = orders_of(data);
    struct vm_entry *entry;
    struct fault fault = {0};
    (void)rpc;

    if (order_judge_process(orders, order->vm_id, &entry, &fault) < 0)
        order_reply_fault(request, &fault);
    else
        console_order_attach(orders->table, entry, order, request);
}

static void handle_input(void *data, struct rpc *rpc, struct rpc_request *request,
                         const ProtobufCMessage *message)
{
    const Godwit__ConsoleData *input = (const Godwit__ConsoleData *)message;
    struct vm_entry *entry = NULL;
    struct fault fault = {0};

    if (order_judge_process(orders_of(data), input->vm_id, &entry, &fault) < 0)
        log_debug("orders", "console input dropped: %s", fault.text);
    console_order_input(entry, rpc, input);
    order_reply_empty(request);
}

void orders_on_lost(struct orders *orders)
{
    console_order_detach_all(orders->table);
}

/* ---- what the coordinator asks of stores: see store_question ---- */
static void handle_stamp_read(void *data, struct rpc *rpc, struct rpc_request *request,
                              const ProtobufCMessage *message)
{
    (void)rpc;
    store_question_stamp(&orders_of(data)->questions, (const Godwit__OrderStampRead *)message,
                         request);
}

static void handle_store_word(void *data, struct rpc *rpc, struct rpc_request *request,
                              const ProtobufCMessage *message)
{
    struct orders *orders = orders_of(data);
    const Godwit__OrderStoreWord *order = (const Godwit__OrderStoreWord *)message;
    (void)rpc;
    if (request && order->spec && vm_spec_is_libvirt(order->spec)) {
        domains_word(orders->domains, order, request);
        return;
    }
    store_question_word(&orders_of(data)->questions, (const Godwit__OrderStoreWord *)message,
                        request);
}

static void handle_disk_move(void *data, struct rpc *rpc, struct rpc_request *request,
                             const ProtobufCMessage *message)
{
    (void)rpc;
    disk_order(&orders_of(data)->disks, (const Godwit__OrderDiskMove *)message, request);
}

static void handle_store_look(void *data, struct rpc *rpc, struct rpc_request *request,
                              const ProtobufCMessage *message)
{
    (void)rpc;
    store_look(&orders_of(data)->questions, (const Godwit__OrderStoreLook *)message, request);
}

static void handle_move_check(void *data, struct rpc *rpc, struct rpc_request *request,
                              const ProtobufCMessage *message)
{
    struct orders *orders = orders_of(data);
    const Godwit__OrderMoveCheck *order = (const Godwit__OrderMoveCheck *)message;
    (void)rpc;
    if (request && order->spec && vm_spec_is_libvirt(order->spec)) {
        domains_check(orders->domains, order, host_facts_name(orders->facts), request);
        return;
    }
    store_question_move(&orders_of(data)->questions, (const Godwit__OrderMoveCheck *)message,
                        request);
}

static void handle_domain(void *data, struct rpc *rpc, struct rpc_request *request,
                          const ProtobufCMessage *message)
{
    (void)rpc;
    if (request)
        domains_read(orders_of(data)->domains, ((const Godwit__VmAction *)message)->vm_id, request);
}

static void handle_autostart_off(void *data, struct rpc *rpc, struct rpc_request *request,
                                 const ProtobufCMessage *message)
{
    (void)rpc;
    if (request)
        domains_autostart_off(orders_of(data)->domains,
                              ((const Godwit__VmAction *)message)->vm_id, request);
}

/* ---- logs ---- */
static void logs_work(void *data)
{
    struct step *step = data;
    struct stat status;

    AUTO_FD int fd = open(step->path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 && errno == ENOENT)
        return; /* it never ran here: an empty log */
    if (fd < 0 || fstat(fd, &status) < 0) {
        (void)fault_set_errno(&step->fault, ERR_IO, errno, "reading the console log");
        return;
    }
    uint64_t size = (uint64_t)status.st_size;
    uint64_t count = size < step->tail_bytes ? size : step->tail_bytes;
    step->bytes = malloc(count ? count : 1);
    if (!step->bytes) {
        (void)fault_set(&step->fault, ERR_NOMEM, "no memory for the console log");
        return;
    }
    ssize_t n = pread(fd, step->bytes, count, (off_t)(size - count));
    if (n < 0)
        (void)fault_set_errno(&step->fault, ERR_IO, errno, "reading the console log");
    else
        step->count = (size_t)n;
}

static void logs_done(void *data)
{
    struct step *step = data;
    Godwit__LogsReply reply = GODWIT__LOGS_REPLY__INIT;

    reply.has_data = true;
    reply.data = (ProtobufCBinaryData){.len = step->count, .data = step->bytes};
    if (step->fault.code)
        order_reply_fault(step->request, &step->fault);
    else if (step->request)
        (void)rpc_reply(step->request, &reply.base);
    order_step_free(step);
}

static void handle_logs(void *data, struct rpc *rpc, struct rpc_request *request,
                        const ProtobufCMessage *message)
{
    const Godwit__OrderLogs *order = (const Godwit__OrderLogs *)message;
    struct orders *orders = orders_of(data);
    struct vm_entry *entry = vm_table_find(orders->table, order->vm_id);
    struct fault fault = {0};
    struct step *step = NULL;
    (void)rpc;

    int r = entry ? order_step_new(&step, orders, entry->id, NULL, request, &fault)
                  : fault_set(&fault, ERR_NOT_FOUND, "this host has no VM %s",
                              order->vm_id ? order->vm_id : "");
    if (r == 0)
        r = vm_entry_state_path(entry, "console.log", step->path, &fault);
    if (r == 0) {
        step->tail_bytes = order->has_tail_bytes && order->tail_bytes < LOG_TAIL_MAX
                               ? order->tail_bytes
                               : LOG_TAIL_MAX;
        r = loop_work(orders->loop, logs_work, logs_done, step);
        if (r < 0)
            (void)fault_set(&fault, r, "no worker to read the log");
    }
    if (r < 0) {
        if (step)
            order_step_free(step);
        order_reply_fault(request, &fault);
    }
}

/* ---- HA: other hosts ---- */
struct asking { /* a PROBE under way */
    struct orders *orders;
    struct rpc_request *request;
    char host[VM_ID_SIZE];
};

static void probed(void *data, bool reached, const char *incarnation)
{
    AUTO_FREE struct asking *asking = data;
    Godwit__ProbeReply reply = GODWIT__PROBE_REPLY__INIT;
    uint64_t age_ms =
        asking->orders->beat ? store_beat_age_ms(asking->orders->beat, asking->host) : UINT64_MAX;

    reply.has_reached = true;
    reply.reached = reached;
    reply.incarnation = (char *)(uintptr_t)incarnation; /* protobuf-c knows no const */
    reply.has_storage_age_ms = age_ms != UINT64_MAX;
    reply.storage_age_ms = age_ms;
    (void)rpc_reply(asking->request, &reply.base);
}

static void handle_probe(void *data, struct rpc *rpc, struct rpc_request *request,
                         const ProtobufCMessage *message)
{
    const Godwit__OrderProbe *order = (const Godwit__OrderProbe *)message;
    struct orders *orders = orders_of(data);
    struct asking *asking = request && order->host ? calloc(1, sizeof *asking) : NULL;
    (void)rpc;

    if (!asking) {
        struct fault fault = {0};
        (void)fault_set(&fault, ERR_INVALID, "a probe needs a host");
        order_reply_fault(request, &fault);
        return;
    }
    asking->orders = orders;
    asking->request = request;
    (void)snprintf(asking->host, sizeof asking->host, "%s", order->host);
    if (orders->beat) /* watched from now on, so that the answer can tell its age */
        (void)store_beat_age_ms(orders->beat, order->host);
    if (orders->peers && order->address && order->address[0])
        peers_probe(orders->peers, order->host, order->address, probed, asking);
    else
        probed(asking, false, NULL);
}

static void evict_told(void *data, bool evicted)
{
    Godwit__EvictReply reply = GODWIT__EVICT_REPLY__INIT;

    reply.has_evicted = true;
    reply.evicted = evicted;
    (void)rpc_reply(data, &reply.base);
}

static void handle_evict(void *data, struct rpc *rpc, struct rpc_request *request,
                         const ProtobufCMessage *message)
{
    const Godwit__OrderEvict *order = (const Godwit__OrderEvict *)message;
    struct orders *orders = orders_of(data);
    struct fault fault = {0};
    (void)rpc;

    if (!request)
        return;
    if (!orders->beat || !order->host || !order->incarnation || !order->nonce) {
        (void)fault_set(&fault, ERR_UNSUPPORTED, "this host shares no store with %s",
                        order->host ? order->host : "anybody");
        order_reply_fault(request, &fault);
        return;
    }
    uint64_t wait_ms = order->wait_ms && order->wait_ms < 30000 ? order->wait_ms : 3000;
    store_beat_evict(orders->beat, order->host, order->incarnation, order->nonce, wait_ms,
                     evict_told, request);
}

void orders_set_ha(struct orders *orders, struct peers *peers, struct store_beat *beat,
                   struct quarantine *quarantine)
{
    orders->peers = peers;
    orders->beat = beat;
    orders->quarantine = quarantine;
}

void orders_set_domains(struct orders *orders, struct domains *domains)
{
    orders->domains = domains;
}

void orders_set_images(struct orders *orders, struct images *images)
{
    orders->images = images;
}

/* ---- images: see images.h ---- */
#define ORDERS_IMAGE(verb, type)                                                                   \
    static void handle_image_##verb(void *data, struct rpc *rpc, struct rpc_request *request,      \
                                    const ProtobufCMessage *message)                               \
    {                                                                                              \
        (void)rpc;                                                                                 \
        if (request)                                                                               \
            images_##verb(orders_of(data)->images, (const type *)message, request);                \
    }
ORDERS_IMAGE(begin, Godwit__OrderImageBegin)
ORDERS_IMAGE(chunk, Godwit__ImageChunk)
ORDERS_IMAGE(end, Godwit__OrderImageEnd)
ORDERS_IMAGE(fetch, Godwit__OrderImageFetch)
ORDERS_IMAGE(clone, Godwit__OrderImageClone)
ORDERS_IMAGE(remove, Godwit__OrderImageRemove)
ORDERS_IMAGE(read, Godwit__ImageReadRequest)
#undef ORDERS_IMAGE

void orders_on_quarantine(struct orders *orders, const struct Godwit__AgentWelcome *welcome,
                          void (*done)(void *data), void *data)
{
    quarantine_begin(orders->quarantine, welcome, done, data);
}

static const struct rpc_method orders_table[] = {
    {METHOD_ORDER_VM_START, &godwit__order_vm_start__descriptor, order_start_handle},
    {METHOD_ORDER_VM_STOP, &godwit__order_vm_stop__descriptor, order_stop_handle},
    {METHOD_ORDER_VM_PAUSE, &godwit__vm_action__descriptor, order_relay_pause},
    {METHOD_ORDER_VM_POWER_BUTTON, &godwit__vm_action__descriptor, order_relay_power_button},
    {METHOD_ORDER_VM_REBOOT, &godwit__vm_action__descriptor, order_relay_reboot},
    {METHOD_ORDER_VM_RESET, &godwit__vm_action__descriptor, order_relay_reset},
    {METHOD_ORDER_VM_RESUME, &godwit__vm_action__descriptor, order_relay_resume},
    {METHOD_ORDER_MOVE_IN, &godwit__move_in__descriptor, order_move_in_handle},
    {METHOD_ORDER_MOVE_OUT, &godwit__move_out__descriptor, order_move_out_handle},
    {METHOD_ORDER_MOVE_VERDICT, &godwit__move_verdict__descriptor, order_verdict_handle},
    {METHOD_ORDER_MOVE_TUNE, &godwit__move_tune__descriptor, order_relay_tune},
    {METHOD_ORDER_CONSOLE_ATTACH, &godwit__console_attach__descriptor, handle_attach},
    {METHOD_ORDER_CONSOLE_INPUT, &godwit__console_data__descriptor, handle_input},
    {METHOD_ORDER_LOGS, &godwit__order_logs__descriptor, handle_logs},
    {METHOD_ORDER_STAMP_READ, &godwit__order_stamp_read__descriptor, handle_stamp_read},
    {METHOD_ORDER_STORE_WORD, &godwit__order_store_word__descriptor, handle_store_word},
    {METHOD_ORDER_STORE_LOOK, &godwit__order_store_look__descriptor, handle_store_look},
    {METHOD_ORDER_DISK_MOVE, &godwit__order_disk_move__descriptor, handle_disk_move},
    {METHOD_ORDER_MOVE_CHECK, &godwit__order_move_check__descriptor, handle_move_check},
    {METHOD_ORDER_VM_COUNTERS, &godwit__vm_action__descriptor, order_relay_counters},
    {METHOD_ORDER_VM_SAMPLE, &godwit__vm_action__descriptor, order_relay_sample},
    {METHOD_ORDER_VM_STATUS, &godwit__vm_action__descriptor, order_relay_status},
    {METHOD_ORDER_DOMAIN, &godwit__vm_action__descriptor, handle_domain},
    {METHOD_ORDER_DOMAIN_AUTOSTART_OFF, &godwit__vm_action__descriptor, handle_autostart_off},
    {METHOD_ORDER_VM_SUSPEND, &godwit__vm_suspend__descriptor, handle_suspend},
    {METHOD_ORDER_SNAPSHOT_TAKE, &godwit__order_snapshot__descriptor, handle_snapshot_take},
    {METHOD_ORDER_SNAPSHOT_REMOVE, &godwit__order_snapshot__descriptor, handle_snapshot_remove},
    {METHOD_ORDER_SNAPSHOT_CHECK, &godwit__order_snapshot__descriptor, handle_snapshot_check},
    {METHOD_ORDER_REPLICA_IN, &godwit__order_replica_in__descriptor, handle_replica_in},
    {METHOD_ORDER_PROTECT, &godwit__order_protect__descriptor, handle_protect},
    {METHOD_ORDER_PROTECT_FINISH, &godwit__order_protect_finish__descriptor, handle_protect_finish},
    {METHOD_ORDER_PROTECT_END, &godwit__order_protect_end__descriptor, handle_protect_end},
    {METHOD_ORDER_REPLICA_TAKE, &godwit__order_replica_take__descriptor, handle_replica_take},
    {METHOD_ORDER_REPLICA_DROP, &godwit__order_replica_drop__descriptor, handle_replica_drop},
    {METHOD_ORDER_REPLICA_COPY, &godwit__order_replica_copy__descriptor, handle_replica_copy},
    {METHOD_ORDER_SNAPSHOT_CLONE, &godwit__order_snapshot_clone__descriptor, handle_snapshot_clone},
    {METHOD_ORDER_VM_UPGRADE, &godwit__vm_upgrade__descriptor, handle_upgrade},
    {METHOD_ORDER_PROBE, &godwit__order_probe__descriptor, handle_probe},
    {METHOD_ORDER_EVICT, &godwit__order_evict__descriptor, handle_evict},
    {METHOD_ORDER_IMAGE_BEGIN, &godwit__order_image_begin__descriptor, handle_image_begin},
    {METHOD_ORDER_IMAGE_CHUNK, &godwit__image_chunk__descriptor, handle_image_chunk},
    {METHOD_ORDER_IMAGE_END, &godwit__order_image_end__descriptor, handle_image_end},
    {METHOD_ORDER_IMAGE_FETCH, &godwit__order_image_fetch__descriptor, handle_image_fetch},
    {METHOD_ORDER_IMAGE_CLONE, &godwit__order_image_clone__descriptor, handle_image_clone},
    {METHOD_ORDER_IMAGE_SEAL, &godwit__order_image_seal__descriptor, handle_image_seal},
    {METHOD_ORDER_IMAGE_REMOVE, &godwit__order_image_remove__descriptor, handle_image_remove},
    {METHOD_ORDER_IMAGE_READ, &godwit__image_read_request__descriptor, handle_image_read},
};

const struct rpc_method *orders_methods(size_t *ret_count)
{
    *ret_count = ARRAY_COUNT(orders_table);
    return orders_table;
}

const struct held_orders *orders_held(const struct orders *orders)
{
    return &orders->held;
}

const struct held_orders *orders_awaits(const struct orders *orders)
{
    return &orders->awaits.held;
}

int orders_new(struct orders **ret_orders, struct loop *loop, struct vm_table *table,
               struct host_facts *facts, const char *boot_reader, struct fault *fault)
{
    struct orders *orders = calloc(1, sizeof *orders);
    if (!orders)
        return fault_set(fault, ERR_NOMEM, "no memory for the orders");
    orders->loop = loop;
    orders->table = table;
    orders->facts = facts;
    orders->boot_reader = boot_reader;
    orders->questions = (struct store_questions){.loop = loop, .facts = facts};
    orders->disks = (struct disk_orders){.loop = loop, .table = table, .facts = facts};
    orders->twins = (struct standby_twins){.loop = loop, .table = table};
    *ret_orders = orders;
    return 0;
}

void orders_stop(struct orders *orders)
{
    if (!orders)
        return;
    orders->stopped = true;
    while (orders->workers)
        loop_turn(orders->loop, true); /* each holds a pointer to us */
    store_questions_wait(&orders->questions);
    disk_orders_wait(&orders->disks);
    standby_twins_stop(&orders->twins);
}

struct orders *orders_free(struct orders *orders)
{
    if (orders)
        held_orders_deinit(&orders->held);
    if (orders)
        order_await_deinit(orders);
    while (orders && orders->failed) {
        struct step *step = orders->failed;
        orders->failed = step->next_failed;
        order_step_free(step);
    }
    if (orders)
        standby_twins_free(&orders->twins);
    free(orders);
    return NULL;
}

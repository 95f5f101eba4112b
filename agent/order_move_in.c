#include "agent/order_move_in.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "agent/attach.h"
#include "agent/host_facts.h"
#include "agent/move_sockets.h"
#include "agent/order_create.h"
#include "agent/order_judge.h"
#include "agent/order_reply.h"
#include "agent/order_step.h"
#include "agent/peers.h"
#include "agent/vm_process.h"
#include "base/log.h"
#include "base/own.h"
#include "net/tls_lane.h"
#include "proto/limits.h"
#include "proto/method.h"
#include "proto/vm_spec.h"

static void move_in_failed(struct step *step, const struct fault *fault)
{
    struct vm_entry *entry = vm_table_find(step->orders->table, step->vm_id);

    log_warn("orders", "move in failed vm=%s: %s", step->vm_id, fault->text);
    if (entry) {
        entry->in_move_id[0] = 0;
        vm_entry_discard(entry);
    }
    order_reply_fault(step->request, fault);
    order_step_free(step);
}

static void reply_address(struct rpc_request *request, const struct vm_entry *entry)
{
    Godwit__MoveInReply reply = GODWIT__MOVE_IN_REPLY__INIT;

    reply.address = (char *)entry->in_address;
    if (request)
        (void)rpc_reply(request, &reply.base);
}

static void move_in_listens(void *data, const ProtobufCMessage *reply, const struct fault *fault)
{
    struct step *step = data;
    struct vm_entry *entry = vm_table_find(step->orders->table, step->vm_id);

    if (!reply || !entry) {
        move_in_failed(step, fault);
        return;
    }
    vm_entry_commit(entry);
    vm_entry_set(entry, GODWIT__VM_STATE__VM_STATE_INCOMING, entry->status->generation, "", true);
    log_info("orders", "waits for a move vm=%s move=%s address=%s", entry->id, entry->in_move_id,
             entry->in_address);
    reply_address(step->request, entry);
    order_step_free(step);
}

static void move_in_created(void *data, const ProtobufCMessage *reply, const struct fault *fault)
{
    struct step *step = data;
    struct vm_entry *entry = vm_table_find(step->orders->table, step->vm_id);
    struct fault words = {0};

    if (!reply || !entry || !entry->process || !vm_process_rpc(entry->process)) {
        if (!fault)
            (void)fault_set(&words, ERR_CLOSED, "its process ended");
        move_in_failed(step, fault ? fault : &words);
        return;
    }
    int fds[1 + DISKS_MAX] = {step->listen_fd};
    size_t count = step->listen_fd >= 0; /* a domain of libvirt listens by itself */
    assert(step->backends.fd_count <= DISKS_MAX);
    memcpy(fds + count, step->backends.fds, step->backends.fd_count * sizeof fds[0]);
    count += step->backends.fd_count;
    if (rpc_call_fds(vm_process_rpc(entry->process), METHOD_VM_MOVE_IN, step->order, fds, count,
                     &godwit__empty__descriptor, ORDER_CALL_MS_MAX, move_in_listens, step, &words) < 0) {
        move_in_failed(step, &words);
        return;
    }
    close_p(&step->listen_fd); /* the kernel has its own */
    backends_close(&step->backends);
}

static int judge_move_in(struct orders *orders, const Godwit__MoveIn *order,
                         const struct vm_entry *entry, struct fault *fault)
{
    int r = order_judge_incarnation(orders, order->target_incarnation, fault);
    if (r < 0)
        return r;
    if (!order->spec || !order->spec->name || !order->move_id || !*order->move_id ||
        strlen(order->move_id) >= VM_ID_SIZE || order->psk.len != TLS_LANE_PSK_BYTES)
        return fault_set(fault, ERR_INVALID, "a move in without its VM, id or key");
    r = vm_spec_judge(order->spec, fault);
    if (r < 0)
        return r;
    if (order->with_local_disks && order->n_disk_bytes != vm_spec_disk_count(order->spec))
        return fault_set(fault, ERR_INVALID, "a move in with the sizes of %zu disks of %u",
                         order->n_disk_bytes, vm_spec_disk_count(order->spec));
    if (entry && (vm_entry_is_alive(entry) || entry->starting))
        return fault_set(fault, ERR_EXISTS, "%s has a process on this host already",
                         order->spec->name);
    r = order_judge_no_replica(orders, order->vm_id, fault);
    if (r < 0)
        return r;
    if (entry && order->generation <= entry->hiwater)
        return fault_set(fault, ERR_REFUSED,
                         "a move as generation %llu is too old: this host has seen %llu of %s",
                         (unsigned long long)order->generation, (unsigned long long)entry->hiwater,
                         order->spec->name);
    return 0;
}

/* A domain of libvirt: our agents speak of it on the line between hosts. */
static int peer_address(struct orders *orders, char ret_address[static MOVE_ADDRESS_SIZE],
                        struct fault *fault)
{
    const char *address = host_facts_read(orders->facts)->peer_address;

    if (!address || strlen(address) >= MOVE_ADDRESS_SIZE)
        return fault_set(fault, ERR_UNSUPPORTED,
                         "this host's agent cannot be reached by other hosts (port %d)",
                         PEERS_PORT);
    (void)snprintf(ret_address, MOVE_ADDRESS_SIZE, "%s", address);
    return 0;
}

void order_move_in_begin(struct orders *orders, const Godwit__MoveIn *order,
                         struct rpc_request *request)
{
    struct vm_entry *entry = vm_table_find(orders->table, order->vm_id);
    char address[MOVE_ADDRESS_SIZE];
    AUTO_FD int listen_fd = -1;
    struct fault fault = {0};
    struct step *step = NULL;

    if (entry && entry->process && !entry->starting && order->move_id &&
        strcmp(entry->in_move_id, order->move_id) == 0) {
        reply_address(request, entry);
        return;
    }
    if (entry && order_judge_is_ending(entry)) {
        if (held_orders_put(&orders->held, order->vm_id, &order->base, request, &fault) < 0)
            order_reply_fault(request, &fault);
        return;
    }
    int r = judge_move_in(orders, order, entry, &fault);
    if (r == 0)
        r = vm_spec_is_libvirt(order->spec)
                ? peer_address(orders, address, &fault)
                : move_sockets_listen(host_facts_move_address(orders->facts), &listen_fd, address,
                                      &fault);
    if (r == 0)
        r = vm_table_add(orders->table, order->vm_id, &entry, &fault);
    if (r == 0)
        r = order_step_new(&step, orders, entry->id, &order->base, request, &fault);
    if (r < 0) {
        order_reply_fault(request, &fault);
        return;
    }
    step->generation = order->generation;
    step->listen_fd = TAKE_FD(listen_fd);
    (void)snprintf(entry->in_move_id, sizeof entry->in_move_id, "%s", order->move_id);
    (void)snprintf(entry->in_address, sizeof entry->in_address, "%s", address);
    step->incoming = true;
    r = attach_stamp_read(order->expected_stamp, &step->expected, &fault);
    if (r == 0)
        r = order_create(step, entry, move_in_created, &fault);
    if (r < 0)
        move_in_failed(step, &fault);
}

void order_move_in_handle(void *data, struct rpc *rpc, struct rpc_request *request,
                          const ProtobufCMessage *message)
{
    (void)rpc;
    order_move_in_begin(orders_of(data), (const Godwit__MoveIn *)message, request);
}

#include "agent/vm/control.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/vm/console_ring.h"
#include "agent/vm/machine.h"
#include "base/err.h"
#include "base/failpoint.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/own.h"
#include "base/world.h"
#include "migrate/guest_snapshot.h"
#include "migrate/replica.h"
#include "migrate/sample.h"
#include "net/rpc.h"
#include "proto/limits.h"
#include "proto/method.h"
#include "proto/vm.pb-c.h"

enum { PEERS_MAX = 16, QUIT_FLUSH_MS = 50, LENT_MS_MAX = 3000 };

struct peer {
    struct control *control;
    struct rpc *rpc;   /* NULL: a free place */
    unsigned attached; /* console sessions */
};

struct control {
    struct loop *loop;
    struct rpc_server *server;
    struct machine *machine;
    struct loop_timer *quit_timer;
    struct peer peers[PEERS_MAX];
};

/* ---- events to every connection ---- */
static void send_all_once(struct control *control, uint16_t method, const ProtobufCMessage *event)
{
    for (size_t i = 0; i < PEERS_MAX; i++) {
        struct fault fault = {0};
        if (control->peers[i].rpc &&
            rpc_send_event(control->peers[i].rpc, method, event, &fault) < 0)
            log_debug("control", "an event was not sent: %s", fault.text);
    }
}

static void send_all(struct control *control, uint16_t method, const ProtobufCMessage *event)
{
    enum failpoint_action wrong = failpoint(FAILPOINT_VM_EVENT);

    if (wrong == FAILPOINT_DROP)
        return;
    if (wrong == FAILPOINT_DUPLICATE)
        send_all_once(control, method, event);
    send_all_once(control, method, event);
}

static void on_state(void *data)
{
    struct control *control = data;
    struct machine_status status;

    if (!control->machine)
        return;
    machine_status(control->machine, &status);
    send_all(control, METHOD_VM_STATE_EVENT, &status.vm.base);
}

static void on_move(void *data, const Godwit__MoveEvent *event)
{
    send_all(data, METHOD_VM_MOVE_EVENT, &event->base);
}

static void on_protect(void *data, const Godwit__VmProtectEvent *event)
{
    send_all(data, METHOD_VM_PROTECT_EVENT, &event->base);
}

static void on_replica(void *data, const Godwit__ReplicaStatus *status)
{
    send_all(data, METHOD_VM_REPLICA_EVENT, &status->base);
}

static void on_console(void *data, const uint8_t *bytes, size_t count)
{
    struct control *control = data;
    struct machine_status status;
    Godwit__ConsoleData event = GODWIT__CONSOLE_DATA__INIT;

    if (!control->machine)
        return;
    machine_status(control->machine, &status);
    event.vm_id = status.vm.vm_id;
    event.has_data = true;
    event.data = (ProtobufCBinaryData){.len = count, .data = (uint8_t *)bytes};
    for (size_t i = 0; i < PEERS_MAX; i++) {
        struct peer *peer = &control->peers[i];
        if (peer->rpc && peer->attached)
            (void)rpc_send_event(peer->rpc, METHOD_VM_CONSOLE_OUTPUT, &event.base, NULL);
    }
}

static void on_over(void *data)
{
    struct control *control = data;

    log_info("control", "nothing is left to do: ending");
    loop_stop(control->loop);
}

static void quit_timer_fired(void *data)
{
    struct control *control = data;

    loop_stop(control->loop);
}

/* ---- calls ---- */
static struct machine *machine_of(void *data)
{
    struct peer *peer = data;

    return peer->control->machine;
}

static void reply_status(struct machine *machine, struct rpc_request *request, int r,
                         const struct fault *fault)
{
    if (!request)
        return; /* sent as an event: nobody waits */
    if (r < 0) {
        (void)rpc_reply_fault(request, fault);
        return;
    }
    struct machine_status status;
    machine_status(machine, &status);
    (void)rpc_reply(request, &status.vm.base);
}

static void reply_empty(struct rpc_request *request, int r, const struct fault *fault)
{
    static const Godwit__Empty empty = GODWIT__EMPTY__INIT;

    if (!request)
        return;
    if (r < 0)
        (void)rpc_reply_fault(request, fault);
    else
        (void)rpc_reply(request, &empty.base);
}

static void handle_status(void *data, struct rpc *rpc, struct rpc_request *request,
                          const ProtobufCMessage *message)
{
    (void)rpc;
    (void)message;
    reply_status(machine_of(data), request, 0, NULL);
}

static int take_fd(struct rpc_request *request, size_t index)
{
    return request ? rpc_request_take_fd(request, index) : -1;
}

static size_t take_fds(struct rpc_request *request, int ret_fds[static RPC_FDS_MAX])
{
    size_t count = 0;

    for (int fd; count < RPC_FDS_MAX && (fd = take_fd(request, count)) >= 0; count++)
        ret_fds[count] = fd;
    return count;
}

static void close_fds(int *fds, size_t count)
{
    for (size_t i = 0; i < count; i++)
        close_p(&fds[i]);
}

/* ---- what takes as long as a file does ---- */
struct resting {
    struct machine *machine;
    struct rpc_request *request;
};

static void rested(void *data, const struct fault *fault)
{
    struct resting *resting = data;

    reply_status(resting->machine, resting->request, fault ? fault->code : 0, fault);
    free(resting);
}

/* Answer when it is done; false: there is nothing to wait for. */
static bool await_rest(struct machine *machine, struct rpc_request *request,
                       bool (*await)(struct machine *machine,
                                     void (*done)(void *data, const struct fault *fault),
                                     void *data))
{
    struct resting *resting = calloc(1, sizeof *resting);

    if (resting)
        *resting = (struct resting){machine, request};
    if (resting && await(machine, rested, resting))
        return true;
    free(resting);
    return false;
}

static void handle_suspend(void *data, struct rpc *rpc, struct rpc_request *request,
                           const ProtobufCMessage *message)
{
    struct machine *machine = machine_of(data);
    struct fault fault = {0};
    struct resting *resting = calloc(1, sizeof *resting);
    AUTO_FD int fd = take_fd(request, 0);
    (void)rpc;

    int r = fd < 0 || !resting ? fault_set(&fault, ERR_INVALID, "a suspend without its file") : 0;
    if (r == 0) {
        *resting = (struct resting){machine, request};
        r = machine_suspend(machine, (const Godwit__VmSuspend *)message, fd, rested, resting,
                            &fault);
    }
    if (r == 0) {
        (void)TAKE_FD(fd);
        return;
    }
    free(resting);
    reply_status(machine, request, r, &fault);
}

static void handle_suspend_end(void *data, struct rpc *rpc, struct rpc_request *request,
                               const ProtobufCMessage *message)
{
    struct peer *peer = data;
    struct fault fault = {0};
    bool keep = ((const Godwit__VmSuspendEnd *)message)->keep;
    (void)rpc;

    int r = machine_suspend_end(peer->control->machine, keep, &fault);
    reply_status(peer->control->machine, request, r, &fault);
    if (r == 0 && keep)
        loop_timer_start(peer->control->quit_timer, QUIT_FLUSH_MS, 0);
}

/* ---- snapshots ---- */
struct snapshotting {
    struct machine *machine;
    struct rpc_request *request;
    uint64_t begun_ns;
};

static void on_snapshotted(void *data, const struct guest_snapshot_result *result,
                           const struct fault *fault)
{
    struct snapshotting *snapshotting = data;
    Godwit__VmSnapshotted reply = GODWIT__VM_SNAPSHOTTED__INIT;
    struct machine_status status;

    if (fault) {
        (void)rpc_reply_fault(snapshotting->request, fault);
    } else {
        machine_status(snapshotting->machine, &status);
        reply.has_pause_ns = reply.has_took_ns = reply.has_generation = true;
        reply.has_memory_pages = reply.has_memory_bytes = reply.has_put_aside_pages = true;
        reply.pause_ns = result->pause_ns;
        reply.took_ns = world_now_ns() - snapshotting->begun_ns;
        reply.memory_pages = result->file.pages;
        reply.memory_bytes = result->file.bytes;
        reply.put_aside_pages = result->put_aside_pages;
        reply.generation = status.vm.generation;
        (void)rpc_reply(snapshotting->request, &reply.base);
    }
    free(snapshotting);
}

static void handle_snapshot(void *data, struct rpc *rpc, struct rpc_request *request,
                            const ProtobufCMessage *message)
{
    struct fault fault = {0};
    int fds[RPC_FDS_MAX];
    (void)rpc;

    if (!request)
        return; /* nobody would hear of it */
    size_t count = take_fds(request, fds);
    struct snapshotting *snapshotting = calloc(1, sizeof *snapshotting);
    int r = snapshotting ? 0 : fault_set(&fault, ERR_NOMEM, "no memory for a snapshot");
    if (r == 0) {
        *snapshotting = (struct snapshotting){machine_of(data), request, world_now_ns()};
        r = machine_snapshot(machine_of(data), (const Godwit__VmSnapshot *)message, fds, count,
                             on_snapshotted, snapshotting, &fault);
    }
    close_fds(fds, count);
    if (r == 0)
        return;
    free(snapshotting);
    (void)rpc_reply_fault(request, &fault);
}

/* ---- a guest that is replicated, and a replica ---- */
static void wipe(const ProtobufCBinaryData *secret)
{
    if (secret->len)
        explicit_bzero(secret->data, secret->len); /* unpacked for us: our memory */
}

static void reply_protect(struct machine *machine, struct rpc_request *request, int r,
                          const struct fault *fault)
{
    Godwit__ProtectStatus status;

    if (!request)
        return;
    if (r < 0) {
        (void)rpc_reply_fault(request, fault);
        return;
    }
    machine_protect_status(machine, &status);
    (void)rpc_reply(request, &status.base);
}

static void handle_protect(void *data, struct rpc *rpc, struct rpc_request *request,
                           const ProtobufCMessage *message)
{
    const Godwit__OrderProtect *order = (const Godwit__OrderProtect *)message;
    struct fault fault = {0};
    (void)rpc;

    int r = machine_protect(machine_of(data), order, &fault);
    wipe(&order->psk);
    reply_protect(machine_of(data), request, r, &fault);
}

static void finished(void *data, const struct fault *fault)
{
    struct resting *resting = data;

    reply_protect(resting->machine, resting->request, fault ? fault->code : 0, fault);
    free(resting);
}

static void handle_protect_finish(void *data, struct rpc *rpc, struct rpc_request *request,
                                  const ProtobufCMessage *message)
{
    struct machine *machine = machine_of(data);
    struct resting *resting = calloc(1, sizeof *resting);
    struct fault fault = {0};
    (void)rpc;

    int r = resting ? 0 : fault_set(&fault, ERR_NOMEM, "no memory for a last checkpoint");
    if (r == 0) {
        *resting = (struct resting){machine, request};
        r = machine_protect_finish(machine, (const Godwit__OrderProtectFinish *)message, finished,
                                   resting, &fault);
    }
    if (r == 0)
        return;
    free(resting);
    reply_protect(machine, request, r, &fault);
}

static void handle_protect_end(void *data, struct rpc *rpc, struct rpc_request *request,
                               const ProtobufCMessage *message)
{
    (void)rpc;
    machine_protect_end(machine_of(data),
                        ((const Godwit__OrderProtectEnd *)message)->protection_id);
    reply_empty(request, 0, NULL);
}

static void handle_protect_link(void *data, struct rpc *rpc, struct rpc_request *request,
                                const ProtobufCMessage *message)
{
    AUTO_FD int fd = take_fd(request, 0);
    (void)rpc;

    if (machine_protect_socket(machine_of(data), (const Godwit__VmProtectLink *)message, fd))
        (void)TAKE_FD(fd);
    reply_empty(request, 0, NULL); /* too late, or of another protection: closed */
}

static void reply_replica(struct machine *machine, struct rpc_request *request, int r,
                          const struct fault *fault)
{
    Godwit__ReplicaStatus status;

    if (!request)
        return;
    if (r < 0) {
        (void)rpc_reply_fault(request, fault);
        return;
    }
    machine_replica_status(machine, &status);
    (void)rpc_reply(request, &status.base);
}

static void handle_replica_in(void *data, struct rpc *rpc, struct rpc_request *request,
                              const ProtobufCMessage *message)
{
    const Godwit__OrderReplicaIn *order = (const Godwit__OrderReplicaIn *)message;
    struct fault fault = {0};
    int fds[RPC_FDS_MAX];
    size_t count = take_fds(request, fds);
    (void)rpc;

    int r = machine_replica_in(machine_of(data), order, fds, count, &fault);
    close_fds(fds, count);
    wipe(&order->psk);
    reply_replica(machine_of(data), request, r, &fault);
}

static void handle_replica_take(void *data, struct rpc *rpc, struct rpc_request *request,
                                const ProtobufCMessage *message)
{
    struct machine *machine = machine_of(data);
    struct resting *resting = calloc(1, sizeof *resting);
    struct fault fault = {0};
    AUTO_FD int fd = take_fd(request, 0);
    (void)rpc;

    int r = resting ? 0 : fault_set(&fault, ERR_NOMEM, "no memory to take a replica");
    if (r == 0) {
        *resting = (struct resting){machine, request};
        r = machine_replica_take(machine, (const Godwit__OrderReplicaTake *)message, &fd, rested,
                                 resting, &fault);
    }
    if (r == 0)
        return;
    free(resting);
    reply_status(machine, request, r, &fault);
}

struct copying {
    struct rpc_request *request;
    uint64_t begun_ns;
};

static void on_copied(void *data, const struct replica_copied *copied, const struct fault *fault)
{
    struct copying *copying = data;
    Godwit__ReplicaCopied reply = GODWIT__REPLICA_COPIED__INIT;
    Godwit__CheckpointId held = GODWIT__CHECKPOINT_ID__INIT;

    if (fault) {
        (void)rpc_reply_fault(copying->request, fault);
        free(copying);
        return;
    }
#define SET(message, field, value) ((message)->has_##field = true, (message)->field = (value))
    SET(&held, generation, copied->id.generation);
    SET(&held, session, copied->id.session);
    SET(&held, seq, copied->id.seq);
    reply.held = &held;
    SET(&reply, held_unix_ms, copied->held_wall_ms);
    SET(&reply, memory_pages, copied->memory.pages);
    SET(&reply, memory_bytes, copied->memory.bytes);
    SET(&reply, reflinks, copied->reflinks);
    SET(&reply, copied_bytes, copied->copied_bytes);
    SET(&reply, put_aside_pages, copied->put_aside_pages);
    SET(&reply, ns, world_now_ns() - copying->begun_ns);
#undef SET
    (void)rpc_reply(copying->request, &reply.base);
    free(copying);
}

static void handle_replica_copy(void *data, struct rpc *rpc, struct rpc_request *request,
                                const ProtobufCMessage *message)
{
    struct fault fault = {0};
    int fds[RPC_FDS_MAX];
    (void)rpc;

    if (!request)
        return; /* nobody would hear of it */
    size_t count = take_fds(request, fds);
    struct copying *copying = calloc(1, sizeof *copying);
    int r = copying ? 0 : fault_set(&fault, ERR_NOMEM, "no memory to copy a replica");
    if (r == 0) {
        *copying = (struct copying){request, world_now_ns()};
        r = machine_replica_copy(machine_of(data), (const Godwit__OrderReplicaCopy *)message, fds,
                                 count, on_copied, copying, &fault);
    }
    close_fds(fds, count);
    if (r == 0)
        return;
    free(copying);
    (void)rpc_reply_fault(request, &fault);
}

static void handle_replica_status(void *data, struct rpc *rpc, struct rpc_request *request,
                                  const ProtobufCMessage *message)
{
    (void)rpc;
    (void)message;
    reply_replica(machine_of(data), request, 0, NULL);
}

static void handle_create(void *data, struct rpc *rpc, struct rpc_request *request,
                          const ProtobufCMessage *message)
{
    struct machine *machine = machine_of(data);
    struct fault fault = {0};
    (void)rpc;

    const Godwit__VmCreate *order = (const Godwit__VmCreate *)message;
    int all[RPC_FDS_MAX];
    size_t count = take_fds(request, all);
    size_t plain = count; /* before those of disks and nics */
    for (size_t i = 0; i < order->n_backends; i++) {
        if (order->backends[i]->fd_first < plain)
            plain = order->backends[i]->fd_first;
    }
    size_t boot = order->in_place || order->suspend_nonce ? 4 : 3;
    struct machine_fds fds = {
        .kvm = plain > 0 ? TAKE_FD(all[0]) : -1,
        .console = plain > 1 ? TAKE_FD(all[1]) : -1,
        .latch = plain > 2 ? TAKE_FD(all[2]) : -1,
        .memory = order->in_place && plain > 3 ? all[3] : -1,
        .file = order->suspend_nonce && plain > 3 ? TAKE_FD(all[3]) : -1,
        .kernel = plain > boot ? TAKE_FD(all[boot]) : -1,
        .initrd = plain > boot + 1 ? TAKE_FD(all[boot + 1]) : -1,
        .all = all,
        .count = count,
    };
    int r = machine_create(machine, order, &fds, &fault);
    close_p(&fds.kvm);
    close_p(&fds.console);
    close_p(&fds.latch);
    close_p(&fds.kernel);
    close_p(&fds.initrd);
    close_p(&fds.file);
    close_fds(all, count);
    if (r == 0 && await_rest(machine, request, machine_await_restored))
        return;
    reply_status(machine, request, r, &fault);
}

static void handle_vm_attach(void *data, struct rpc *rpc, struct rpc_request *request,
                             const ProtobufCMessage *message)
{
    struct machine *machine = machine_of(data);
    struct fault fault = {0};
    int fds[RPC_FDS_MAX];
    size_t count = take_fds(request, fds);
    (void)rpc;

    int r = machine_attach(machine, (const Godwit__VmAttach *)message, fds, count, &fault);
    close_fds(fds, count);
    reply_status(machine, request, r, &fault);
}

static void handle_pause(void *data, struct rpc *rpc, struct rpc_request *request,
                         const ProtobufCMessage *message)
{
    struct fault fault = {0};
    (void)rpc;
    (void)message;
    int r = machine_pause(machine_of(data), &fault);
    reply_status(machine_of(data), request, r, &fault);
}

static void handle_resume(void *data, struct rpc *rpc, struct rpc_request *request,
                          const ProtobufCMessage *message)
{
    struct fault fault = {0};
    (void)rpc;
    (void)message;
    int r = machine_resume(machine_of(data), &fault);
    reply_status(machine_of(data), request, r, &fault);
}

static void handle_power_button(void *data, struct rpc *rpc, struct rpc_request *request,
                                const ProtobufCMessage *message)
{
    struct fault fault = {0};
    (void)rpc;
    (void)message;
    int r = machine_power_button(machine_of(data), &fault);
    reply_status(machine_of(data), request, r, &fault);
}

static void on_sampled(void *data, const struct sample_result *result, const struct fault *fault)
{
    struct rpc_request *request = data;
    Godwit__VmSample sample = GODWIT__VM_SAMPLE__INIT;
    uint64_t at_ns[SAMPLE_LOOKS], written_bytes[SAMPLE_LOOKS];

    if (!result) {
        (void)rpc_reply_fault(request, fault);
        return;
    }
    memcpy(at_ns, result->at_ns, sizeof at_ns);
    memcpy(written_bytes, result->written_bytes, sizeof written_bytes);
    sample.has_populated_bytes = sample.has_zero_permille = sample.has_packed_permille = true;
    sample.has_pages = sample.has_cpu_ns = true;
    sample.populated_bytes = result->populated_bytes;
    sample.zero_permille = result->zero_permille;
    sample.packed_permille = result->packed_permille;
    sample.has_zstd_permille = true;
    sample.zstd_permille = result->zstd_permille;
    sample.pages = result->pages;
    sample.cpu_ns = result->cpu_ns;
    sample.at_ns = at_ns;
    sample.written_bytes = written_bytes;
    sample.n_at_ns = sample.n_written_bytes = result->looks;
    (void)rpc_reply(request, &sample.base);
}

static void handle_sample(void *data, struct rpc *rpc, struct rpc_request *request,
                          const ProtobufCMessage *message)
{
    struct fault fault = {0};
    (void)rpc;
    (void)message;

    if (request && machine_sample(machine_of(data), on_sampled, request, &fault) < 0)
        (void)rpc_reply_fault(request, &fault);
}

static void handle_counters(void *data, struct rpc *rpc, struct rpc_request *request,
                            const ProtobufCMessage *message)
{
    struct counters_message counters;
    struct fault fault = {0};
    (void)rpc;
    (void)message;

    if (!request)
        return;
    if (machine_counters(machine_of(data), &counters, &fault) < 0)
        (void)rpc_reply_fault(request, &fault);
    else
        (void)rpc_reply(request, &counters.all.base);
}

static void handle_disk_move(void *data, struct rpc *rpc, struct rpc_request *request,
                             const ProtobufCMessage *message)
{
    struct disk_move_message told;
    struct fault fault = {0};
    AUTO_FD int fd = take_fd(request, 0);
    (void)rpc;

    if (!request)
        return;
    if (machine_disk_move(machine_of(data), (const Godwit__VmDiskMove *)message, &fd, &told,
                          &fault) < 0)
        (void)rpc_reply_fault(request, &fault);
    else
        (void)rpc_reply(request, &told.status.base);
}

static void handle_quit(void *data, struct rpc *rpc, struct rpc_request *request,
                        const ProtobufCMessage *message)
{
    struct peer *peer = data;
    struct control *control = peer->control;
    struct fault fault = {0};
    (void)rpc;
    (void)message;

    int r = machine_quit(control->machine, &fault);
    reply_status(control->machine, request, r, &fault);
    if (r == 0)
        loop_timer_start(control->quit_timer, QUIT_FLUSH_MS, 0); /* the reply goes out first */
}

static void handle_move_out(void *data, struct rpc *rpc, struct rpc_request *request,
                            const ProtobufCMessage *message)
{
    const Godwit__MoveOut *order = (const Godwit__MoveOut *)message;
    struct fault fault = {0};
    int fds[RPC_FDS_MAX] = {0};
    size_t count = 0;
    bool taken = false;
    (void)rpc;

    for (int fd; count < RPC_FDS_MAX && (fd = take_fd(request, count)) >= 0; count++)
        fds[count] = fd;
    int r = machine_move_out(machine_of(data), order, fds, count, &taken, &fault);
    for (size_t i = 0; i < count && !taken; i++)
        (void)close(fds[i]); /* refused: nothing was sent on it */
    wipe(&order->psk);
    reply_empty(request, r, &fault);
}

static void handle_move_lanes(void *data, struct rpc *rpc, struct rpc_request *request,
                              const ProtobufCMessage *message)
{
    const Godwit__MoveLanes *lanes = (const Godwit__MoveLanes *)message;
    int fds[RPC_FDS_MAX] = {0};
    size_t count = 0;
    (void)rpc;

    for (int fd; count < RPC_FDS_MAX && (fd = take_fd(request, count)) >= 0; count++)
        fds[count] = fd;
    bool taken = machine_take_sockets(machine_of(data), lanes, fds, count);
    for (size_t i = 0; i < count && !taken; i++)
        (void)close(fds[i]); /* too late, or of another move */
    reply_empty(request, 0, NULL);
}

static void handle_move_in(void *data, struct rpc *rpc, struct rpc_request *request,
                           const ProtobufCMessage *message)
{
    const Godwit__MoveIn *order = (const Godwit__MoveIn *)message;
    struct fault fault = {0};
    int disk_fds[DISKS_MAX];
    size_t disks = 0;
    AUTO_FD int fd = take_fd(request, 0);
    bool taken = false;
    int r;
    (void)rpc;

    for (int disk; disks < DISKS_MAX && (disk = take_fd(request, 1 + disks)) >= 0; disks++)
        disk_fds[disks] = disk;

    if (fd < 0)
        r = fault_set(&fault, ERR_INVALID, "a move in without its listening socket");
    else
        r = machine_move_in(machine_of(data), order, fd, disk_fds, disks, &taken, &fault);
    for (size_t i = 0; i < disks; i++)
        (void)close(disk_fds[i]); /* the machine has copies of what it wants */
    if (taken)
        (void)TAKE_FD(fd);
    wipe(&order->psk);
    reply_empty(request, r, &fault);
}

/* The agent asked; what it asked for goes to it as a call of ours, because only calls carry
 * descriptors. Its own call is answered when it has them. */
static void lent(void *data, const ProtobufCMessage *reply, const struct fault *fault)
{
    reply_empty(data, reply ? 0 : fault->code, fault);
}

static void handle_lend(void *data, struct rpc *rpc, struct rpc_request *request,
                        const ProtobufCMessage *message)
{
    struct machine_lent *parcel = calloc(1, sizeof *parcel);
    struct fault fault = {0};
    (void)message;

    int r = parcel ? machine_lend(machine_of(data), parcel, &fault)
                   : fault_set(&fault, ERR_NOMEM, "no memory to lend a guest");
    if (r == 0)
        r = rpc_call_fds(rpc, METHOD_VM_LENT, &parcel->message.base, parcel->fds, parcel->fd_count,
                         &godwit__empty__descriptor, LENT_MS_MAX, lent, request, &fault);
    free(parcel);
    if (r < 0)
        reply_empty(request, r, &fault);
}

static void handle_verdict(void *data, struct rpc *rpc, struct rpc_request *request,
                           const ProtobufCMessage *message)
{
    struct fault fault = {0};
    (void)rpc;
    int r = machine_verdict(machine_of(data), (const Godwit__MoveVerdict *)message, &fault);
    reply_status(machine_of(data), request, r, &fault);
}

static void handle_tune(void *data, struct rpc *rpc, struct rpc_request *request,
                        const ProtobufCMessage *message)
{
    struct fault fault = {0};
    (void)rpc;
    int r = machine_tune(machine_of(data), (const Godwit__MoveTune *)message, &fault);
    reply_status(machine_of(data), request, r, &fault);
}

static void handle_attach(void *data, struct rpc *rpc, struct rpc_request *request,
                          const ProtobufCMessage *message)
{
    const Godwit__ConsoleAttach *attach = (const Godwit__ConsoleAttach *)message;
    struct peer *peer = data;
    Godwit__ConsoleData reply = GODWIT__CONSOLE_DATA__INIT;
    (void)rpc;

    reply.vm_id = attach->vm_id;
    reply.has_session = attach->has_session;
    reply.session = attach->session;
    AUTO_FREE uint8_t *bytes = malloc(CONSOLE_RING_BYTES);
    if (bytes && attach->on)
        /* Flushed before the count goes up: what the reply holds is not sent again. */
        reply.data = (ProtobufCBinaryData){
            .len = machine_console_tail(peer->control->machine, bytes, CONSOLE_RING_BYTES),
            .data = bytes,
        };
    /* A guest that began here and wrote nothing may not listen yet: its first words are awaited. */
    reply.has_data = reply.data.len > 0 || !machine_began_here(peer->control->machine);
    if (attach->on)
        peer->attached++;
    else if (peer->attached)
        peer->attached--;
    if (request)
        (void)rpc_reply(request, &reply.base);
}

static void handle_input(void *data, struct rpc *rpc, struct rpc_request *request,
                         const ProtobufCMessage *message)
{
    const Godwit__ConsoleData *input = (const Godwit__ConsoleData *)message;
    (void)rpc;

    size_t taken = machine_console_input(machine_of(data), input->data.data, input->data.len);
    if (taken < input->data.len)
        log_warn("control", "%zu bytes of console input dropped: the guest does not read",
                 input->data.len - taken);
    reply_empty(request, 0, NULL);
}

static const struct rpc_method control_methods[] = {
    {METHOD_VM_STATUS, &godwit__empty__descriptor, handle_status},
    {METHOD_VM_CREATE, &godwit__vm_create__descriptor, handle_create},
    {METHOD_VM_ATTACH, &godwit__vm_attach__descriptor, handle_vm_attach},
    {METHOD_VM_PAUSE, &godwit__vm_action__descriptor, handle_pause},
    {METHOD_VM_RESUME, &godwit__vm_action__descriptor, handle_resume},
    {METHOD_VM_POWER_BUTTON, &godwit__vm_action__descriptor, handle_power_button},
    {METHOD_VM_SAMPLE, &godwit__vm_action__descriptor, handle_sample},
    {METHOD_VM_COUNTERS, &godwit__vm_action__descriptor, handle_counters},
    {METHOD_VM_DISK_MOVE, &godwit__vm_disk_move__descriptor, handle_disk_move},
    {METHOD_VM_QUIT, &godwit__vm_action__descriptor, handle_quit},
    {METHOD_VM_MOVE_OUT, &godwit__move_out__descriptor, handle_move_out},
    {METHOD_VM_MOVE_IN, &godwit__move_in__descriptor, handle_move_in},
    {METHOD_VM_MOVE_LANES, &godwit__move_lanes__descriptor, handle_move_lanes},
    {METHOD_VM_MOVE_VERDICT, &godwit__move_verdict__descriptor, handle_verdict},
    {METHOD_VM_MOVE_TUNE, &godwit__move_tune__descriptor, handle_tune},
    {METHOD_VM_CONSOLE_ATTACH, &godwit__console_attach__descriptor, handle_attach},
    {METHOD_VM_SUSPEND, &godwit__vm_suspend__descriptor, handle_suspend},
    {METHOD_VM_SNAPSHOT, &godwit__vm_snapshot__descriptor, handle_snapshot},
    {METHOD_VM_SUSPEND_END, &godwit__vm_suspend_end__descriptor, handle_suspend_end},
    {METHOD_VM_PROTECT, &godwit__order_protect__descriptor, handle_protect},
    {METHOD_VM_PROTECT_FINISH, &godwit__order_protect_finish__descriptor, handle_protect_finish},
    {METHOD_VM_PROTECT_END, &godwit__order_protect_end__descriptor, handle_protect_end},
    {METHOD_VM_PROTECT_LINK, &godwit__vm_protect_link__descriptor, handle_protect_link},
    {METHOD_VM_REPLICA_IN, &godwit__order_replica_in__descriptor, handle_replica_in},
    {METHOD_VM_REPLICA_TAKE, &godwit__order_replica_take__descriptor, handle_replica_take},
    {METHOD_VM_REPLICA_COPY, &godwit__order_replica_copy__descriptor, handle_replica_copy},
    {METHOD_VM_REPLICA_STATUS, &godwit__empty__descriptor, handle_replica_status},
    {METHOD_VM_LEND, &godwit__vm_action__descriptor, handle_lend},
    {METHOD_VM_CONSOLE_INPUT, &godwit__console_data__descriptor, handle_input},
};

/* ---- connections ---- */
static void on_closed(void *data, struct rpc *rpc, const struct fault *fault)
{
    struct peer *peer = data;

    log_debug("control", "a connection ended: %s", fault ? fault->text : "");
    *peer = (struct peer){0};
    (void)rpc_close(rpc);
}

static const struct rpc_service control_service = {
    .methods = control_methods,
    .method_count = ARRAY_COUNT(control_methods),
    .on_closed = on_closed,
};

static bool peer_is_owner(const struct rpc *rpc)
{
    unsigned uid;

    return sscanf(rpc_peer(rpc)->name, "%u:", &uid) == 1 && uid == geteuid();
}

static void on_peer(void *data, struct rpc *rpc)
{
    struct control *control = data;

    if (!peer_is_owner(rpc)) {
        log_warn("control", "turned a connection of another user away: %s", rpc_peer(rpc)->name);
        (void)rpc_close(rpc);
        return;
    }
    for (size_t i = 0; i < PEERS_MAX; i++) {
        struct peer *peer = &control->peers[i];
        if (!peer->rpc) {
            *peer = (struct peer){.control = control, .rpc = rpc};
            rpc_set_data(rpc, peer);
            return;
        }
    }
    log_warn("control", "turned a connection away: %d are open", PEERS_MAX);
    (void)rpc_close(rpc);
}

int control_new(struct control **ret_control, struct loop *loop, int listen_fd, const char *vm_id,
                const char *name, struct fault *fault)
{
    struct control *control = calloc(1, sizeof *control);
    if (!control)
        return fault_set(fault, ERR_NOMEM, "no memory for the control socket");

    control->loop = loop;
    const struct machine_config machine = {
        .loop = loop,
        .vm_id = vm_id,
        .name = name,
        .on_state = on_state,
        .on_move = on_move,
        .on_console = on_console,
        .on_protect = on_protect,
        .on_replica = on_replica,
        .on_over = on_over,
        .data = control,
    };
    const struct rpc_server_config server = {
        .unix_fd = listen_fd,
        .service = &control_service,
        .data = control,
        .on_peer = on_peer,
    };
    int r = machine_new(&control->machine, &machine, fault);
    if (r == 0)
        r = loop_timer_new(&control->quit_timer, loop, quit_timer_fired, control, fault);
    if (r == 0)
        r = rpc_server_new(&control->server, loop, &server, fault);
    if (r < 0) {
        (void)control_free(control);
        return r;
    }
    *ret_control = control;
    return 0;
}

struct control *control_free(struct control *control)
{
    if (!control)
        return NULL;
    (void)rpc_server_free(control->server);
    for (size_t i = 0; i < PEERS_MAX; i++) {
        if (control->peers[i].rpc)
            (void)rpc_close_flushed(control->peers[i].rpc);
        control->peers[i].rpc = NULL;
    }
    control->machine = machine_free(control->machine);
    if (control->quit_timer)
        (void)loop_timer_free(control->quit_timer);
    free(control);
    return NULL;
}

#include "coordinator/api_snapshot.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/own.h"
#include "coordinator/agent_link.h"
#include "coordinator/cluster_snapshot.h"
#include "coordinator/cluster_view.h"
#include "coordinator/words.h"
#include "proto/method.h"
#include "proto/snapshot.pb-c.h"

enum { ORDER_MS = 120000, ORDER_MS_A_GIB = 30000 };

struct asked { /* while the host is at it */
    struct coordinator *coordinator;
    struct rpc_request *request;
    char vm_id[ID_TEXT_SIZE]; /* "": it has no VM any more */
    uint64_t ticket;          /* that the VM has for it; 0: none */
    char what[CLUSTER_REASON_SIZE];
};

static void reply_problem(struct rpc_request *request, struct problem *problem)
{
    Godwit__SnapshotReply reply = GODWIT__SNAPSHOT_REPLY__INIT;
    Godwit__OperatorError error;
    char *details[PROBLEM_DETAILS_MAX];

    problem_to_message(problem, &error, details);
    reply.error = &error;
    (void)rpc_reply(request, &reply.base);
}

static void reply_list(struct rpc_request *request, Godwit__SnapshotInfo **infos, size_t count)
{
    Godwit__SnapshotReply reply = GODWIT__SNAPSHOT_REPLY__INIT;

    reply.snapshots = infos;
    reply.n_snapshots = count;
    (void)rpc_reply(request, &reply.base);
}

static void on_answer(void *data, const ProtobufCMessage *message, const struct fault *fault,
                      enum agent_link_fate fate)
{
    struct asked *asked = data;
    struct cluster *cluster = &asked->coordinator->cluster;
    struct cluster_vm *vm = cluster_vm(cluster, asked->vm_id);
    struct problem problem;

    if (vm && asked->ticket && vm->ticket == asked->ticket)
        vm->ticket = 0;
    if (message && message->descriptor == &godwit__snapshot_info__descriptor) {
        Godwit__SnapshotInfo *info = (Godwit__SnapshotInfo *)(uintptr_t)message;
        reply_list(asked->request, &info, 1);
    } else if (message) {
        reply_list(asked->request, NULL, 0);
    } else {
        (void)problem_set(&problem, fate == AGENT_LINK_REFUSED ? GW_ORDER_FAILED : GW_HOST_DOWN,
                          "%s: %.300s", asked->what, fault->text);
        problem_hint(&problem, "%s",
                     fate == AGENT_LINK_UNKNOWN ? "godwit vm snapshot ls" : fault->hint);
        if (vm)
            cluster_vm_place(cluster, vm, coordinator_now().ns, problem.vm_state,
                             sizeof problem.vm_state);
        reply_problem(asked->request, &problem);
    }
    free(asked);
}

static void ask(struct asked *asked, const char *host, uint16_t method,
                const Godwit__OrderSnapshot *order, const ProtobufCMessageDescriptor *reply,
                uint64_t memory_bytes)
{
    agent_link_call(asked->coordinator, host, method, &order->base, reply,
                    ORDER_MS + ORDER_MS_A_GIB * (memory_bytes >> 30), on_answer, asked);
}

static struct asked *asked_new(struct coordinator *coordinator, struct rpc_request *request,
                               const char *vm_id)
{
    struct asked *asked = calloc(1, sizeof *asked);
    assert(asked); /* control memory is small; without it there is no deciding */
    asked->coordinator = coordinator;
    asked->request = request;
    WORDS_COPY(asked->vm_id, vm_id);
    return asked;
}

static void list(struct coordinator *coordinator, struct rpc_request *request,
                 const Godwit__SnapshotRequest *wanted)
{
    const struct cluster *cluster = &coordinator->cluster;
    const struct cluster_vm *vm = NULL;
    struct problem problem;

    if (wanted->vm && wanted->vm[0]) {
        vm = cluster_find_vm(cluster, wanted->vm, &problem);
        if (!vm) {
            reply_problem(request, &problem);
            return;
        }
    }
    AUTO_FREE Godwit__SnapshotInfo **infos = calloc(cluster->snapshot_count + 1, sizeof *infos);
    assert(infos);
    size_t count = 0;
    for (size_t i = 0; i < cluster->snapshot_count; i++) {
        Godwit__SnapshotInfo *info = cluster->snapshots[i]->info;
        if ((!vm || strcmp(vm->id, info->vm_id) == 0) &&
            (!wanted->name || !wanted->name[0] || strcmp(wanted->name, info->name) == 0))
            infos[count++] = info;
    }
    if (vm && wanted->name && wanted->name[0] && count == 0) {
        struct cluster_snapshot *found = cluster_find_snapshot(cluster, vm, wanted->name, &problem);
        if (!found) {
            reply_problem(request, &problem);
            return;
        }
        infos[count++] = found->info;
    }
    reply_list(request, infos, count);
}

static char *incarnation_of(const struct cluster *cluster, const char *host)
{
    const struct cluster_host *found = cluster_host(cluster, host);
    return found && found->facts ? found->facts->incarnation : NULL;
}

static void take(struct coordinator *coordinator, struct rpc_request *request,
                 const Godwit__SnapshotRequest *wanted)
{
    struct cluster *cluster = &coordinator->cluster;
    const struct cluster_snapshot_ask asks = {.vm = wanted->vm ? wanted->vm : "",
                                              .name = wanted->name,
                                              .disks_only = wanted->disks_only,
                                              .with_memory = wanted->with_memory};
    struct cluster_snapshot_order judged;
    struct problem problem;
    char id[ID_TEXT_SIZE];

    if (cluster_snapshot_judge_take(cluster, &asks, coordinator_now(), &judged, &problem) != 0) {
        reply_problem(request, &problem);
        return;
    }
    struct cluster_vm *vm = judged.vm;
    struct asked *asked = asked_new(coordinator, request, vm->id);
    asked->ticket = vm->ticket;
    (void)snprintf(asked->what, sizeof asked->what, "no snapshot of %s was taken on %s",
                   vm->spec->name, vm->own.owner);
    id_random(id);
    Godwit__OrderSnapshot order = GODWIT__ORDER_SNAPSHOT__INIT;
    order.id = id;
    order.vm_id = vm->id;
    order.name = judged.name;
    order.has_disks_only = order.has_is_stopped = true;
    order.disks_only = judged.disks_only;
    order.is_stopped = judged.is_stopped;
    order.incarnation = incarnation_of(cluster, vm->own.owner);
    order.spec = vm->spec;
    ask(asked, vm->own.owner, METHOD_ORDER_SNAPSHOT_TAKE, &order, &godwit__snapshot_info__descriptor,
        vm->spec->memory->size);
}

static void check(struct coordinator *coordinator, struct rpc_request *request,
                  const Godwit__SnapshotRequest *wanted)
{
    Godwit__OrderSnapshot order = GODWIT__ORDER_SNAPSHOT__INIT;
    struct cluster_snapshot *snapshot;
    struct cluster_vm *vm;
    struct problem problem;

    if (cluster_snapshot_judge_restore(&coordinator->cluster, wanted->vm ? wanted->vm : "",
                                       wanted->name ? wanted->name : "", coordinator_now(), &vm,
                                       &snapshot, &problem) != 0) {
        reply_problem(request, &problem);
        return;
    }
    if (wanted->shallow && snapshot->info->is_libvirt) {
        (void)problem_set(&problem, GW_USAGE, "libvirt reads the memory of snapshot %s whole before %s runs: it goes "
                          "without --lazy", snapshot->info->name, vm->spec->name);
        reply_problem(request, &problem);
        return;
    }
    if (wanted->shallow) {
        Godwit__SnapshotReply reply = GODWIT__SNAPSHOT_REPLY__INIT;
        reply.snapshots = &snapshot->info;
        reply.n_snapshots = 1;
        (void)rpc_reply(request, &reply.base);
        return;
    }
    struct asked *asked = asked_new(coordinator, request, vm->id);
    (void)snprintf(asked->what, sizeof asked->what, "snapshot %s of %s cannot be restored",
                   snapshot->info->name, vm->spec->name);
    order.id = snapshot->info->id;
    ask(asked, snapshot->info->host, METHOD_ORDER_SNAPSHOT_CHECK, &order,
        &godwit__snapshot_info__descriptor, snapshot->info->memory_bytes);
}

static void drop(struct coordinator *coordinator, struct rpc_request *request,
                 const Godwit__SnapshotRequest *wanted)
{
    struct cluster *cluster = &coordinator->cluster;
    Godwit__OrderSnapshot order = GODWIT__ORDER_SNAPSHOT__INIT;
    struct cluster_snapshot *snapshot;
    struct problem problem;

    if (cluster_snapshot_judge_remove(cluster, wanted->vm ? wanted->vm : "",
                                      wanted->name ? wanted->name : "", coordinator_now(),
                                      &snapshot, &problem) != 0) {
        reply_problem(request, &problem);
        return;
    }
    if (wanted->verb == GODWIT__SNAPSHOT_VERB__SNAPSHOT_REMOVE_CHECK) {
        reply_list(request, NULL, 0);
        return;
    }
    struct cluster_vm *vm = cluster_vm(cluster, snapshot->info->vm_id);
    struct asked *asked = asked_new(coordinator, request, vm ? vm->id : "");
    if (vm)
        asked->ticket = vm->ticket = ++cluster->next_ticket; /* nobody starts from it meanwhile */
    (void)snprintf(asked->what, sizeof asked->what, "snapshot %s was not removed",
                   snapshot->info->name);
    order.id = snapshot->info->id;
    ask(asked, snapshot->info->host, METHOD_ORDER_SNAPSHOT_REMOVE, &order,
        &godwit__empty__descriptor, snapshot->info->memory_bytes);
}

void api_snapshot_request(struct peer *peer, struct rpc_request *request, const void *message)
{
    const Godwit__SnapshotRequest *wanted = message;
    struct fault fault = {0};

    switch (wanted->verb) {
    case GODWIT__SNAPSHOT_VERB__SNAPSHOT_LIST:
        list(peer->coordinator, request, wanted);
        return;
    case GODWIT__SNAPSHOT_VERB__SNAPSHOT_CREATE:
        take(peer->coordinator, request, wanted);
        return;
    case GODWIT__SNAPSHOT_VERB__SNAPSHOT_CHECK:
        check(peer->coordinator, request, wanted);
        return;
    case GODWIT__SNAPSHOT_VERB__SNAPSHOT_REMOVE:
    case GODWIT__SNAPSHOT_VERB__SNAPSHOT_REMOVE_CHECK:
        drop(peer->coordinator, request, wanted);
        return;
    case _GODWIT__SNAPSHOT_VERB_IS_INT_SIZE:
        break;
    }
    (void)fault_set(&fault, ERR_INVALID, "a request for snapshots without its verb");
    (void)rpc_reply_fault(request, &fault);
}

void api_snapshot_told(struct peer *peer, struct rpc_request *request, const void *message)
{
    struct cluster *cluster = &peer->coordinator->cluster;
    struct cluster_todo todo = {0};
    (void)request;

    cluster_snapshots_told(cluster, cluster_host(cluster, peer->host), message, &todo);
    coordinator_apply(peer->coordinator, &todo, NULL, NULL, NULL);
}

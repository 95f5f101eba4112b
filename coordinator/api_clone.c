/* A clone, from the order to a guest that runs:
 *
 *   clone --> recorded: STOPPED, the snapshot's host --> disks made there --> START --> it runs
 *   start ------------------------'                        | refused            | refused
 *                                            just created: removed again with its disks; else it stays
 *
 * While this goes on the new VM has a ticket, so nothing else is done to it; the VM that the snapshot is
 * of knows nothing of all this. A line that breaks leaves it stopped, and `vm start` goes on. */
#include "coordinator/api_clone.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/id.h"
#include "base/log.h"
#include "base/loop.h"
#include "coordinator/agent_link.h"
#include "coordinator/api.h"
#include "coordinator/cluster_ask.h"
#include "coordinator/cluster_clone.h"
#include "coordinator/cluster_core.h"
#include "coordinator/words.h"
#include "proto/method.h"
#include "proto/snapshot.pb-c.h"

enum { REMOVE_AGAIN_MS = 200, REMOVE_TRIES_MAX = 50 };

struct cloning {
    struct coordinator *coordinator;
    struct rpc_request *request;
    char vm_id[ID_TEXT_SIZE];
    bool is_created; /* the VM was, by this request */
    bool is_lazy;    /* it runs at once, its memory follows */
    bool has_disks;  /* some may have been made */
    /* while it is removed again */
    struct problem problem; /* that is told when it is */
    struct loop_timer *timer;
    unsigned tries;
};

static struct cluster_vm *vm_of(const struct cloning *cloning)
{
    return cluster_vm(&cloning->coordinator->cluster, cloning->vm_id);
}

static void remove_created(void *data);

/* Who asked hears it when all is as it was. */
static void give_up(struct cloning *cloning)
{
    if (cloning->timer)
        cloning->timer = loop_timer_free(cloning->timer);
    api_reply_action(cloning->coordinator, cloning->request, "", &cloning->problem, NULL);
    free(cloning);
}

/* A process that could not start may just be ending: its host says that it is busy. */
static void on_removed(void *data, const struct cluster_answer *answer)
{
    struct cloning *cloning = data;
    struct fault fault = {0};

    if (!answer->problem || !vm_of(cloning)) {
        give_up(cloning);
        return;
    }
    bool has_timer = cloning->timer ||
                     loop_timer_new(&cloning->timer, cloning->coordinator->loop, remove_created,
                                    cloning, &fault) == 0;
    if (has_timer && ++cloning->tries < REMOVE_TRIES_MAX) {
        loop_timer_start(cloning->timer, REMOVE_AGAIN_MS, 0);
        return;
    }
    log_warn("api_clone", "a clone that was not made whole stays defined vm=%s: %s",
             cloning->vm_id, answer->problem->text);
    problem_hint(&cloning->problem, "godwit vm rm %s", vm_of(cloning)->spec->name);
    give_up(cloning);
}

/* With the disks that were made for it. */
static void remove_created(void *data)
{
    struct cloning *cloning = data;
    struct coordinator *coordinator = cloning->coordinator;
    struct cluster_vm *vm = vm_of(cloning);
    struct cluster_todo todo = {0};
    struct problem problem;
    uint64_t ticket = 0;

    if (!vm) {
        give_up(cloning);
        return;
    }
    int r = cluster_remove_made(&coordinator->cluster, vm, cloning->has_disks, coordinator_now(),
                                &ticket, &problem, &todo);
    if (r == CLUSTER_REMOVED_LATER) {
        (void)snprintf(cloning->problem.vm_state, sizeof cloning->problem.vm_state,
                       "stopped, removed once %.64s is back", vm->own.owner);
        problem_hint(&cloning->problem, "godwit vm show %s", vm->spec->name);
        coordinator_apply(coordinator, &todo, NULL, NULL, NULL);
        give_up(cloning);
        return;
    }
    if (r != 0) {
        log_warn("api_clone", "a clone that was not made whole stays defined vm=%s: %s",
                 cloning->vm_id, problem.text);
        give_up(cloning);
        return;
    }
    coordinator_await_call(coordinator, ticket, on_removed, cloning);
    coordinator_apply(coordinator, &todo, NULL, NULL, NULL);
}

/* `is_known`: what was ordered was refused, so that nothing is under way. */
static void fail(struct cloning *cloning, const struct problem *problem, bool is_known)
{
    struct cluster_vm *vm = vm_of(cloning);
    bool is_removed = cloning->is_created && is_known;

    cloning->problem = *problem;
    if (!vm) {
        give_up(cloning);
        return;
    }
    vm->ticket = 0;
    (void)snprintf(cloning->problem.vm_state, sizeof cloning->problem.vm_state,
                   is_removed ? "not created" : "stopped, not made whole");
    if (!is_removed && !cloning->problem.hint[0])
        problem_hint(&cloning->problem, "godwit vm start %s", vm->spec->name);
    if (is_removed)
        remove_created(cloning);
    else
        give_up(cloning);
}

static void on_started(void *data, const struct cluster_answer *answer)
{
    struct cloning *cloning = data;
    const struct cluster_vm *vm = vm_of(cloning);

    if (answer->problem && vm && vm->own.phase == OWN_STOPPED && !vm->crashed) { /* it never ran */
        fail(cloning, answer->problem, true);
        return;
    }
    api_reply_action(cloning->coordinator, cloning->request, answer->vm_id, answer->problem,
                     answer->receipt);
    free(cloning);
}

static void start(struct cloning *cloning)
{
    struct coordinator *coordinator = cloning->coordinator;
    struct cluster_vm *vm = vm_of(cloning);
    struct cluster_todo todo = {0};
    struct problem problem;

    vm->ticket = 0;
    vm->lazy = cloning->is_lazy;
    if (cluster_start_home(&coordinator->cluster, vm, coordinator_now(), &problem, &todo) != 0) {
        fail(cloning, &problem, true);
        return;
    }
    coordinator_await_call(coordinator, vm->ticket, on_started, cloning);
    coordinator_apply(coordinator, &todo, NULL, NULL, NULL);
}

static void on_made(void *data, const ProtobufCMessage *reply, const struct fault *fault,
                    enum agent_link_fate fate)
{
    struct cloning *cloning = data;
    struct cluster_vm *vm = vm_of(cloning);
    struct problem problem;

    cloning->has_disks = fate != AGENT_LINK_NEVER_LEFT;
    if (reply && vm) {
        start(cloning);
        return;
    }
    if (vm) {
        (void)problem_set(&problem, fate == AGENT_LINK_REFUSED ? GW_ORDER_FAILED : GW_HOST_DOWN,
                          "%s: %.400s", vm->own.owner, fault->text);
        if (fault->hint[0])
            problem_hint(&problem, "%s", fault->hint);
    } else {
        (void)problem_set(&problem, GW_VM_UNKNOWN, "the VM was removed meanwhile");
    }
    fail(cloning, &problem, fate != AGENT_LINK_UNKNOWN);
}

static void make_disks(void *data)
{
    struct cloning *cloning = data;
    struct coordinator *coordinator = cloning->coordinator;
    Godwit__OrderSnapshotClone order = GODWIT__ORDER_SNAPSHOT_CLONE__INIT;
    const struct cluster_vm *vm = vm_of(cloning);
    struct problem problem;
    const struct cluster_snapshot *origin =
        vm ? cluster_clone_origin(&coordinator->cluster, vm, coordinator_now(), &problem) : NULL;

    if (!origin) {
        if (!vm)
            (void)problem_set(&problem, GW_VM_UNKNOWN, "the VM was removed meanwhile");
        fail(cloning, &problem, true);
        return;
    }
    const struct cluster_host *host = cluster_host(&coordinator->cluster, vm->own.owner);
    order.snapshot_id = origin->info->id;
    order.vm_id = cloning->vm_id;
    order.spec = vm->spec;
    order.incarnation = host->facts->incarnation;
    agent_link_call(coordinator, host->name, METHOD_ORDER_SNAPSHOT_CLONE, &order.base,
                    &godwit__snapshot_cloned__descriptor, 0, on_made, cloning);
}

static struct cloning *cloning_new(struct coordinator *coordinator, struct rpc_request *request,
                                   const char *vm_id, bool is_created)
{
    struct cloning *cloning = calloc(1, sizeof *cloning);

    assert(cloning); /* control memory is small; without it there is no deciding */
    cloning->coordinator = coordinator;
    cloning->request = request;
    cloning->is_created = is_created;
    WORDS_COPY(cloning->vm_id, vm_id);
    return cloning;
}

static const char *words(const char *text)
{
    return text ? text : "";
}

void api_clone_request(struct peer *peer, struct rpc_request *request, const void *message)
{
    const Godwit__SnapshotCloneRequest *wanted = message;
    struct coordinator *coordinator = peer->coordinator;
    const struct cluster_clone_ask ask = {.vm = words(wanted->vm),
                                          .snapshot = words(wanted->snapshot),
                                          .name = words(wanted->name),
                                          .bridge = wanted->bridge,
                                          .cold = wanted->cold};
    struct cluster_snapshot *snapshot = NULL;
    Godwit__VmSpec *spec = NULL;
    struct cluster_vm *vm = NULL;
    struct cluster_todo todo = {0};
    struct problem problem;
    char vm_id[ID_TEXT_SIZE];

    id_random(vm_id);
    int r = cluster_clone_judge(&coordinator->cluster, &ask, coordinator_now(), &snapshot, &spec,
                                &problem);
    if (r == 0)
        r = cluster_clone_create(&coordinator->cluster, snapshot, spec, ask.cold, vm_id,
                                 coordinator_now(), &vm, &problem, &todo);
    if (spec)
        godwit__vm_spec__free_unpacked(spec, NULL);
    if (r != 0) {
        api_reply_action(coordinator, request, "", &problem, NULL);
        return;
    }
    struct cloning *cloning = cloning_new(coordinator, request, vm_id, true);
    cloning->is_lazy = wanted->lazy;
    coordinator_apply(coordinator, &todo, NULL, make_disks, cloning);
}

bool api_clone_start(struct coordinator *coordinator, struct rpc_request *request,
                     const char *word)
{
    struct cluster *cluster = &coordinator->cluster;
    struct problem problem;
    struct cluster_vm *vm = cluster_find_vm(cluster, word, &problem);

    if (!vm || vm->job || vm->ticket || !cluster_clone_is_raw(cluster, vm))
        return false; /* and what it lacks is told there */
    vm->ticket = ++cluster->next_ticket;
    make_disks(cloning_new(coordinator, request, vm->id, false));
    return true;
}

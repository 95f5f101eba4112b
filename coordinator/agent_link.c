/* A call that fails is one of three: the agent said no, the order never left, or nobody knows what
 * became of it (the connection ended, the time is over). The cores must tell the last from the
 * others. net/rpc fails its calls before it tells that the connection is gone, so a fault is looked
 * at one turn of the loop later: a peer that is gone by then never answered. */
#include "coordinator/agent_link.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/own.h"
#include "base/world.h"
#include "coordinator/adopt_all.h"
#include "coordinator/cluster_core.h"
#include "coordinator/cluster_found.h"
#include "coordinator/cluster_ha.h"
#include "coordinator/cluster_snapshot.h"
#include "coordinator/cluster_view.h"
#include "coordinator/dr.h"
#include "coordinator/dr_order.h"
#include "coordinator/job.h"
#include "coordinator/preflight.h"
#include "coordinator/words.h"
#include "proto/limits.h"
#include "proto/method.h"
#include "proto/vm_spec.h"

enum {
    ORDER_MS = 60000,   /* starting, stopping, preparing memory */
    QUICK_MS = 10000,   /* pausing */
    UPGRADE_MS = 180000, /* a large guest's memory is mapped in it */
    QUESTION_MS = 3000, /* verdicts and questions: the cores ask again anyway */
};

struct agent_call {
    struct agent_call *next, **link; /* of its peer, or of `failed_calls` */
    struct coordinator *coordinator;
    agent_link_done_fn *done; /* NULL: forgotten; only what was posted frees it */
    void *data;
    struct fault fault;
    enum agent_link_fate fate;
};

struct peer *agent_link_find(struct coordinator *coordinator, const char *host)
{
    for (struct peer *peer = coordinator->peers; peer; peer = peer->next) {
        if (peer->host[0] && strcmp(peer->host, host) == 0)
            return peer;
    }
    return NULL;
}

static void unlink_call(struct agent_call *call)
{
    if (!call->link)
        return;
    *call->link = call->next;
    if (call->next)
        call->next->link = call->link;
    call->link = NULL;
    call->next = NULL;
}

static void finish_failed(void *data)
{
    struct agent_call *call = data;
    unlink_call(call);
    if (call->done)
        call->done(call->data, NULL, &call->fault, call->fate);
    free(call);
}

static void link_call(struct agent_call **list, struct agent_call *call)
{
    call->link = list;
    call->next = *list;
    if (call->next)
        call->next->link = &call->next;
    *list = call;
}

static void post_failed(struct agent_call *call)
{
    if (!call->link)
        link_call(&call->coordinator->failed_calls, call);
    int r = loop_post(call->coordinator->loop, finish_failed, call);
    assert(r == 0); /* only without memory for a few words */
}

static void on_answer(void *data, const ProtobufCMessage *reply, const struct fault *fault)
{
    struct agent_call *call = data;
    if (reply) {
        unlink_call(call);
        call->done(call->data, reply, NULL, AGENT_LINK_ANSWERED);
        free(call);
        return;
    }
    call->fault = *fault;
    call->fate = fault->code == ERR_TIMEOUT || fault->code == ERR_CLOSED ? AGENT_LINK_UNKNOWN
                                                                         : AGENT_LINK_REFUSED;
    post_failed(call); /* still in the peer's list: agent_link_gone may overrule the fate */
}

void agent_link_call(struct coordinator *coordinator, const char *host, uint16_t method,
                     const ProtobufCMessage *request, const ProtobufCMessageDescriptor *reply,
                     uint64_t timeout_ms, agent_link_done_fn *done, void *data)
{
    struct agent_call *call = calloc(1, sizeof *call);
    assert(call); /* control memory is small; without it there is no deciding */
    call->coordinator = coordinator;
    call->done = done;
    call->data = data;
    struct peer *peer = agent_link_find(coordinator, host);
    int r =
        peer
            ? rpc_call(peer->rpc, method, request, reply, timeout_ms, on_answer, call, &call->fault)
            : fault_set(&call->fault, ERR_UNREACHABLE, "the agent of %s is not connected", host);
    if (r < 0) {
        call->fate = AGENT_LINK_NEVER_LEFT;
        post_failed(call);
        return;
    }
    link_call(&peer->calls, call);
}

void agent_link_gone(struct peer *peer)
{
    while (peer->calls) {
        struct agent_call *call = peer->calls;
        bool is_posted = call->fault.code != 0;
        unlink_call(call);
        call->fate = AGENT_LINK_UNKNOWN;
        if (is_posted) {
            link_call(&call->coordinator->failed_calls, call);
        } else {
            fault_set(&call->fault, ERR_CLOSED, "the connection to %s ended", peer->host);
            post_failed(call);
        }
    }
}

void agent_link_forget(struct peer *peer)
{
    while (peer->calls) {
        struct agent_call *call = peer->calls;
        bool is_posted = call->fault.code != 0;
        unlink_call(call);
        call->done = NULL;
        if (!is_posted)
            free(call);
    }
}

void agent_link_forget_failed(struct coordinator *coordinator)
{
    while (coordinator->failed_calls) {
        struct agent_call *call = coordinator->failed_calls;
        unlink_call(call);
        call->done = NULL;
    }
}

/* ---- orders -----------------------------------------------------------------------------------
 */

struct sent { /* an order on its way */
    struct coordinator *coordinator;
    struct cluster_order order;
};

static void on_order_done(void *data, const ProtobufCMessage *reply, const struct fault *fault,
                          enum agent_link_fate fate)
{
    struct sent *sent = data;
    struct coordinator *coordinator = sent->coordinator;
    struct cluster_result result = {.fault = fault,
                                    .definite = fate != AGENT_LINK_UNKNOWN,
                                    .never_left = fate == AGENT_LINK_NEVER_LEFT};
    struct fault bad = {0};

    if (reply && reply->descriptor == &godwit__vm_status__descriptor)
        result.status = (const Godwit__VmStatus *)reply;
    if (reply && reply->descriptor == &godwit__protect_status__descriptor)
        result.protect = (const Godwit__ProtectStatus *)reply;
    if (reply && reply->descriptor == &godwit__replica_status__descriptor)
        result.replica = (const Godwit__ReplicaStatus *)reply;
    if (reply && reply->descriptor == &godwit__replica_copied__descriptor)
        result.copied = (const Godwit__ReplicaCopied *)reply;
    if (sent->order.kind == ORDER_DEFINITION && reply)
        result.found = (const Godwit__FoundDomain *)reply;
    if (dr_is_order(sent->order.kind))
        dr_order_answered(coordinator, &sent->order, reply);
    if (sent->order.kind == ORDER_REPLICA_IN && reply &&
        (!result.replica->address || !result.replica->address[0])) {
        fault_set(&bad, ERR_CORRUPT, "%s answered without an address", sent->order.host);
        result.fault = &bad;
    }
    if (reply && reply->descriptor == &godwit__vm_upgraded__descriptor)
        result.upgraded = (const Godwit__VmUpgraded *)reply;
    if (sent->order.kind == ORDER_MOVE_IN && reply) {
        const Godwit__MoveInReply *answer = (const Godwit__MoveInReply *)reply;
        struct job_key *key = job_key_find(coordinator, sent->order.job_id);
        if (!answer->address || !answer->address[0] ||
            strlen(answer->address) >= JOB_ADDRESS_SIZE) {
            fault_set(&bad, ERR_CORRUPT, "%s answered without an address", sent->order.host);
            result.fault = &bad;
        } else if (key) {
            WORDS_COPY(key->address, answer->address);
        }
    }
    if (reply && reply->descriptor == &godwit__probe_reply__descriptor) {
        const Godwit__ProbeReply *probe = (const Godwit__ProbeReply *)reply;
        result.confirmed = probe->reached;
        result.storage_age_ms = probe->has_storage_age_ms ? probe->storage_age_ms : UINT64_MAX;
    }
    if (reply && reply->descriptor == &godwit__evict_reply__descriptor)
        result.confirmed = ((const Godwit__EvictReply *)reply)->evicted;
    if (sent->order.kind == ORDER_MOVE_OUT || (sent->order.kind == ORDER_MOVE_IN && result.fault))
        job_key_wipe(coordinator, sent->order.job_id);
    if (fault)
        log_info("agent_link", "order failed order=%d host=%s vm=%s fate=%d: %s",
                 (int)sent->order.kind, sent->order.host, sent->order.vm_id, (int)fate,
                 fault->text);
    struct cluster_todo todo = {0};
    cluster_order_done(&coordinator->cluster, &sent->order, &result, coordinator_now(), &todo);
    coordinator_apply(coordinator, &todo, NULL, NULL, NULL);
    free(sent);
}

static void send_order(struct sent *sent, uint16_t method, const ProtobufCMessage *request,
                       const ProtobufCMessageDescriptor *reply, uint64_t timeout_ms)
{
    agent_link_call(sent->coordinator, sent->order.host, method, request, reply, timeout_ms,
                    on_order_done, sent);
}

static char *incarnation_of(struct coordinator *coordinator, const char *host)
{
    const struct cluster_host *found = cluster_host(&coordinator->cluster, host);
    return found && found->facts ? found->facts->incarnation : NULL;
}

/* What a guest's memory takes to a disk and back, at the worst. */
static uint64_t file_ms(const struct cluster_vm *vm)
{
    return 30000 * (1 + (vm->spec->memory->size >> 30));
}

static void send_suspend(struct sent *sent, const struct cluster_vm *vm)
{
    Godwit__VmSuspend order = GODWIT__VM_SUSPEND__INIT;
    order.vm_id = sent->order.vm_id;
    order.nonce = sent->order.nonce;
    order.incarnation = incarnation_of(sent->coordinator, sent->order.host);
    send_order(sent, METHOD_ORDER_VM_SUSPEND, &order.base, &godwit__vm_status__descriptor,
               2 * ORDER_MS + file_ms(vm));
}

static void send_start(struct sent *sent, struct cluster_vm *vm, Godwit__Stamp *expected)
{
    Godwit__OrderVmStart order = GODWIT__ORDER_VM_START__INIT;
    order.vm_id = vm->id;
    order.spec = vm->spec;
    order.has_generation = true;
    order.generation = sent->order.generation;
    order.incarnation = vm->own.incarnation;
    order.expected_stamp = expected;
    order.suspend_nonce = vm->suspended;
    order.has_only_running = true;
    order.only_running = vm->found_gen == sent->order.generation;
    order.has_lazy = true;
    order.lazy = vm->lazy;
    const struct cluster_snapshot *snapshot =
        cluster_snapshot_to_restore(&sent->coordinator->cluster, vm, sent->order.host);
    if (snapshot) {
        order.snapshot_id = snapshot->info->id;
        order.has_is_clone = true;
        order.is_clone = strcmp(snapshot->info->vm_id, vm->id) != 0;
    }
    send_order(sent, METHOD_ORDER_VM_START, &order.base, &godwit__vm_status__descriptor,
               vm->suspended[0] || snapshot ? ORDER_MS + file_ms(vm) : ORDER_MS);
}

/* L was read (R2 of SWITCHOVER); now the start may take the disks from exactly that. A failure here
 * is one of a start that never left: an earlier one of the same grant may still be on its way. */
static void on_stamp_read(void *data, const ProtobufCMessage *reply, const struct fault *fault,
                          enum agent_link_fate fate)
{
    struct sent *sent = data;
    struct cluster_vm *vm = cluster_vm(&sent->coordinator->cluster, sent->order.vm_id);
    struct fault words = {0};
    (void)fate;
    if (!vm) { /* removed while the question was on its way */
        free(sent);
        return;
    }
    Godwit__Stamp *found = (Godwit__Stamp *)(uintptr_t)reply; /* protobuf-c knows no const */
    if (fault)
        words = *fault;
    else if (preflight_judge_stamp(vm, sent->order.generation, found, &words) == 0) {
        send_start(sent, vm, found->generation ? found : NULL);
        return;
    }
    on_order_done(sent, NULL, &words, AGENT_LINK_NEVER_LEFT);
}

static void begin_start(struct sent *sent, struct cluster_vm *vm)
{
    Godwit__OrderStampRead order = GODWIT__ORDER_STAMP_READ__INIT;
    if (!vm_spec_stamp_store(vm->spec)) {
        send_start(sent, vm, NULL);
        return;
    }
    order.vm_id = vm->id;
    order.spec = vm->spec;
    agent_link_call(sent->coordinator, sent->order.host, METHOD_ORDER_STAMP_READ, &order.base,
                    &godwit__stamp__descriptor, QUICK_MS, on_stamp_read, sent);
}

static void send_stop(struct sent *sent)
{
    Godwit__OrderVmStop order = GODWIT__ORDER_VM_STOP__INIT;
    order.vm_id = sent->order.vm_id;
    order.has_remove = true;
    order.remove = sent->order.remove;
    order.has_ends_start = sent->order.ends_start;
    order.ends_start = sent->order.ends_start ? sent->order.generation : 0;
    const struct cluster_vm *vm = cluster_vm(&sent->coordinator->cluster, sent->order.vm_id);
    if (order.remove && vm)
        order.spec = vm->spec;
    send_order(sent, METHOD_ORDER_VM_STOP, &order.base, &godwit__vm_status__descriptor, ORDER_MS);
}

static void send_action(struct sent *sent, uint16_t method, uint64_t timeout_ms)
{
    Godwit__VmAction action = GODWIT__VM_ACTION__INIT;
    action.vm_id = sent->order.vm_id;
    send_order(sent, method, &action.base, &godwit__vm_status__descriptor, timeout_ms);
}

static void send_definition(struct sent *sent)
{
    Godwit__VmAction action = GODWIT__VM_ACTION__INIT;
    action.vm_id = sent->order.vm_id;
    send_order(sent, METHOD_ORDER_DOMAIN, &action.base, &godwit__found_domain__descriptor, QUICK_MS);
}

static void send_autostart_off(struct sent *sent)
{
    Godwit__VmAction action = GODWIT__VM_ACTION__INIT;
    action.vm_id = sent->order.vm_id;
    send_order(sent, METHOD_ORDER_DOMAIN_AUTOSTART_OFF, &action.base,
               &godwit__found_domain__descriptor, QUICK_MS);
}

static void send_upgrade(struct sent *sent)
{
    Godwit__VmUpgrade order = GODWIT__VM_UPGRADE__INIT;
    order.vm_id = sent->order.vm_id;
    order.incarnation = incarnation_of(sent->coordinator, sent->order.host);
    send_order(sent, METHOD_ORDER_VM_UPGRADE, &order.base, &godwit__vm_upgraded__descriptor,
               UPGRADE_MS);
}

static void send_verdict(struct sent *sent)
{
    Godwit__MoveVerdict verdict = GODWIT__MOVE_VERDICT__INIT;
    verdict.vm_id = sent->order.vm_id;
    verdict.move_id = sent->order.move_id;
    verdict.has_kind = true;
    verdict.kind = sent->order.verdict;
    verdict.has_generation = true;
    verdict.generation = sent->order.generation;
    const struct cluster_job *job = cluster_job(&sent->coordinator->cluster, sent->order.job_id);
    char reason[FAULT_TEXT_MAX];
    WORDS_COPY(reason, job && job->core.cancel           ? "the move was canceled"
                       : job && job->core.error_text[0]  ? job->core.error_text
                       : job && job->core.target_text[0] ? job->core.target_text
                                                         : "the coordinator's word");
    verdict.reason = reason;
    send_order(sent, METHOD_ORDER_MOVE_VERDICT, &verdict.base, &godwit__vm_status__descriptor,
               QUESTION_MS);
}

static void send_tune(struct sent *sent, struct cluster_job *job)
{
    Godwit__MoveTune order = GODWIT__MOVE_TUNE__INIT;
    order.vm_id = sent->order.vm_id;
    order.move_id = sent->order.move_id;
    order.goals = job->goals;
    send_order(sent, METHOD_ORDER_MOVE_TUNE, &order.base, &godwit__vm_status__descriptor, QUICK_MS);
}

static void send_move_in(struct sent *sent, struct cluster_vm *vm, struct cluster_job *job)
{
    struct job_key *key = job_key_new(sent->coordinator, job->core.id);
    assert(key);
    Godwit__MoveIn order = GODWIT__MOVE_IN__INIT;
    order.vm_id = vm->id;
    order.move_id = job->core.move_id;
    order.has_generation = true;
    order.generation = job->core.generation;
    order.has_psk = true;
    order.psk = (ProtobufCBinaryData){.data = key->psk, .len = sizeof key->psk};
    order.spec = vm->spec;
    order.has_lanes_max = true;
    order.lanes_max = job->goals && job->goals->lanes ? job->goals->lanes : LANES_MAX;
    order.target_incarnation = incarnation_of(sent->coordinator, job->core.target_host);
    Godwit__Stamp expected = GODWIT__STAMP__INIT;
    expected.has_generation = true;
    expected.generation = job->core.source_generation;
    expected.owner = job->core.source_host;
    expected.incarnation = vm->own.incarnation;
    if (vm_spec_stamp_store(vm->spec))
        order.expected_stamp = &expected;
    if (job->goals && job->goals->with_local_disks && vm_spec_tying_disk(vm->spec)) {
        order.has_with_local_disks = order.with_local_disks = true;
        order.disk_bytes = vm->disk_bytes;
        order.n_disk_bytes = vm_spec_disk_count(vm->spec);
    }
    send_order(sent, METHOD_ORDER_MOVE_IN, &order.base, &godwit__move_in_reply__descriptor,
               ORDER_MS);
}

static void on_move_checked(void *data, const struct fault *fault, enum agent_link_fate fate,
                            const char *note)
{
    struct sent *sent = data;
    struct cluster_vm *vm = cluster_vm(&sent->coordinator->cluster, sent->order.vm_id);
    struct cluster_job *job = cluster_job(&sent->coordinator->cluster, sent->order.job_id);
    struct fault words = {0};
    if (!fault && (!vm || !job || job->core.step != JOB_PREPARE)) {
        (void)fault_set(&words, ERR_CANCELED, "the move ended while its target was looked at");
        fault = &words;
        fate = AGENT_LINK_NEVER_LEFT;
    }
    if (fault) {
        on_order_done(sent, NULL, fault, fate);
        return;
    }
    cluster_job_note(job, note);
    send_move_in(sent, vm, job);
}

static void begin_move_in(struct sent *sent, struct cluster_vm *vm, struct cluster_job *job)
{
    if (preflight_is_needed(vm))
        preflight_move(sent->coordinator, vm, job, on_move_checked, sent);
    else
        send_move_in(sent, vm, job);
}

static void send_move_out(struct sent *sent, struct cluster_vm *vm, struct cluster_job *job)
{
    struct job_key *key = job_key_find(sent->coordinator, job->core.id);
    assert(key && key->address[0]); /* MOVE_OUT follows the target's answer in the same life */
    Godwit__MoveOut order = GODWIT__MOVE_OUT__INIT;
    order.vm_id = vm->id;
    order.move_id = job->core.move_id;
    order.has_generation = true;
    order.generation = job->core.generation;
    order.has_psk = true;
    order.psk = (ProtobufCBinaryData){.data = key->psk, .len = sizeof key->psk};
    order.address = key->address;
    order.goals = job->goals;
    order.source_incarnation = incarnation_of(sent->coordinator, job->core.source_host);
    order.target_incarnation = incarnation_of(sent->coordinator, job->core.target_host);
    send_order(sent, METHOD_ORDER_MOVE_OUT, &order.base, &godwit__empty__descriptor, ORDER_MS);
}

static void send_probe(struct sent *sent)
{
    const struct cluster_host *about = cluster_host(&sent->coordinator->cluster, sent->order.about);
    Godwit__OrderProbe order = GODWIT__ORDER_PROBE__INIT;
    order.host = sent->order.about;
    order.address = about && about->facts ? about->facts->peer_address : NULL;
    send_order(sent, METHOD_ORDER_PROBE, &order.base, &godwit__probe_reply__descriptor,
               QUESTION_MS);
}

static void send_evict(struct sent *sent)
{
    char nonce[ID_TEXT_SIZE];
    id_random(nonce);
    Godwit__OrderEvict order = GODWIT__ORDER_EVICT__INIT;
    order.host = sent->order.about;
    order.incarnation = sent->order.incarnation;
    order.nonce = nonce;
    order.has_wait_ms = true;
    order.wait_ms = HA_EVICT_MS - 1000;
    send_order(sent, METHOD_ORDER_EVICT, &order.base, &godwit__evict_reply__descriptor,
               HA_EVICT_MS);
}

/* What cannot be said any more never left. */
static void send_dr(struct sent *sent)
{
    struct dr_order order;
    struct fault fault = {0};
    if (!dr_order_make(sent->coordinator, &sent->order, &order)) {
        fault_set(&fault, ERR_CANCELED, "the protection is not what it was when this was decided");
        on_order_done(sent, NULL, &fault, AGENT_LINK_NEVER_LEFT);
        return;
    }
    struct coordinator *coordinator = sent->coordinator;
    const struct cluster_order decided = sent->order;
    send_order(sent, order.method, order.message, order.reply, order.timeout_ms);
    dr_order_sent(coordinator, &decided);
}

void agent_link_order(struct coordinator *coordinator, const struct cluster_order *order)
{
    struct cluster_vm *vm = cluster_vm(&coordinator->cluster, order->vm_id);
    struct cluster_job *job =
        order->job_id[0] ? cluster_job(&coordinator->cluster, order->job_id) : NULL;
    struct sent *sent = calloc(1, sizeof *sent);
    assert(sent);
    sent->coordinator = coordinator;
    sent->order = *order;
    log_debug("agent_link", "order=%d verdict=%d host=%s vm=%s generation=%llu", (int)order->kind,
              (int)order->verdict, order->host, order->vm_id,
              (unsigned long long)order->generation);
    bool needs_job =
        order->kind == ORDER_MOVE_IN || order->kind == ORDER_MOVE_OUT || order->kind == ORDER_TUNE;
    if ((!vm && !order->about[0]) ||
        (needs_job && !job)) { /* removed while the transaction was on its way */
        free(sent);
        return;
    }
    switch (order->kind) {
    case ORDER_START:
        begin_start(sent, vm);
        break;
    case ORDER_STOP:
        send_stop(sent);
        break;
    case ORDER_PAUSE:
        send_action(sent, METHOD_ORDER_VM_PAUSE, QUICK_MS);
        break;
    case ORDER_RESUME:
        send_action(sent, METHOD_ORDER_VM_RESUME, QUICK_MS);
        break;
    case ORDER_POWER_BUTTON:
        send_action(sent, METHOD_ORDER_VM_POWER_BUTTON, QUICK_MS);
        break;
    case ORDER_VM_REBOOT:
        send_action(sent, METHOD_ORDER_VM_REBOOT, QUICK_MS);
        break;
    case ORDER_VM_RESET:
        send_action(sent, METHOD_ORDER_VM_RESET, QUICK_MS);
        break;
    case ORDER_DEFINITION:
        send_definition(sent);
        break;
    case ORDER_AUTOSTART_OFF:
        send_autostart_off(sent);
        break;
    case ORDER_STATUS:
        send_action(sent, METHOD_ORDER_VM_STATUS, QUESTION_MS);
        break;
    case ORDER_VERDICT:
        send_verdict(sent);
        break;
    case ORDER_SUSPEND:
        send_suspend(sent, vm);
        break;
    case ORDER_UPGRADE:
        send_upgrade(sent);
        break;
    case ORDER_TUNE:
        send_tune(sent, job);
        break;
    case ORDER_MOVE_IN:
        begin_move_in(sent, vm, job);
        break;
    case ORDER_MOVE_OUT:
        send_move_out(sent, vm, job);
        break;
    case ORDER_REBOOT: /* carried out by reboot.c, not by an agent */
        free(sent);
        break;
    case ORDER_PROBE:
        send_probe(sent);
        break;
    case ORDER_EVICT:
        send_evict(sent);
        break;
    case ORDER_SPLIT_STOP:
        send_stop(sent);
        break;
    case ORDER_REPLICA_IN:
    case ORDER_PROTECT:
    case ORDER_PROTECT_FINISH:
    case ORDER_PROTECT_END:
    case ORDER_REPLICA_TAKE:
    case ORDER_REPLICA_DROP:
    case ORDER_REPLICA_COPY:
        send_dr(sent);
        break;
    case ORDER_FENCE:
        assert(false); /* is carried out here, see coordinator.c */
        break;
    }
}

/* ---- what agents say --------------------------------------------------------------------------
 */

static int judge_hello(struct peer *peer, const Godwit__AgentHello *hello, struct fault *fault)
{
    const char *name = rpc_peer(peer->rpc)->name;
    uint32_t from = hello->has_version_min ? hello->version_min : 1;
    uint32_t to = hello->has_version_max ? hello->version_max : 1;
    if (from > PROTOCOL_VERSION || to < PROTOCOL_VERSION_MIN || from > to)
        return fault_set(fault, ERR_UNSUPPORTED,
                         "the agent of %s speaks versions %u to %u, the coordinator %d to %d", name,
                         from, to, PROTOCOL_VERSION_MIN, PROTOCOL_VERSION);
    if (!hello->facts || !hello->facts->name || strcmp(hello->facts->name, name) != 0)
        return fault_set(fault, ERR_DENIED, "the agent of %s says that it is %s", name,
                         hello->facts && hello->facts->name ? hello->facts->name : "nobody");
    if (!hello->facts->incarnation || strlen(hello->facts->incarnation) >= ID_TEXT_SIZE)
        return fault_set(fault, ERR_INVALID, "the agent of %s told no incarnation", name);
    if (!cluster_host(&peer->coordinator->cluster, name))
        return fault_set(fault, ERR_DENIED, "%s is no host of this pool", name);
    return 0;
}

static void take_over_link(struct peer *peer, const char *name)
{
    struct peer *older = agent_link_find(peer->coordinator, name);
    if (older && older != peer) {
        log_info("agent_link", "a newer connection takes over host=%s", name);
        older->host[0] = '\0'; /* its end is no loss of the link */
        coordinator_peer_gone(older);
    }
    WORDS_COPY(peer->host, name);
}

/* `is_taken` false: it is quarantined, and told what of an earlier life it must end (R6). */
static void welcome(struct peer *peer, struct rpc_request *request, const struct cluster_host *host,
                    const Godwit__AgentHello *hello, bool is_taken)
{
    Godwit__AgentWelcome answer = GODWIT__AGENT_WELCOME__INIT;
    AUTO_FREE Godwit__VmGeneration *ends = calloc(hello->n_vms + 1, sizeof *ends);
    AUTO_FREE Godwit__VmGeneration **list = calloc(hello->n_vms + 1, sizeof *list);
    assert(ends && list); /* control memory is small; without it there is no deciding */
    answer.has_version = answer.has_heartbeat_ms = true;
    answer.version = PROTOCOL_VERSION;
    answer.heartbeat_ms = HEARTBEAT_MS;
    answer.has_quarantine = answer.quarantine = !is_taken;
    for (size_t i = 0; !is_taken && i < hello->n_vms; i++) {
        if (!cluster_ha_superseded(&peer->coordinator->cluster, host, hello->vms[i]))
            continue;
        Godwit__VmGeneration *end = &ends[answer.n_superseded];
        godwit__vm_generation__init(end);
        end->vm_id = hello->vms[i]->vm_id;
        end->has_generation = true;
        end->generation = hello->vms[i]->generation;
        list[answer.n_superseded++] = end;
    }
    answer.superseded = list;
    if (!is_taken)
        log_warn("agent_link", "quarantined host=%s life=%.8s ends=%zu", host->name,
                 hello->facts->incarnation, answer.n_superseded);
    (void)rpc_reply(request, &answer.base);
}

void agent_link_hello(struct peer *peer, struct rpc_request *request, const void *message)
{
    struct coordinator *coordinator = peer->coordinator;
    const Godwit__AgentHello *hello = message;
    struct fault fault = {0};
    if (judge_hello(peer, hello, &fault) < 0) {
        log_warn("agent_link", "%s address=%s", fault.text, rpc_peer_address(peer->rpc));
        (void)rpc_reply_fault(request, &fault);
        return;
    }
    const char *name = rpc_peer(peer->rpc)->name;
    struct cluster_host *host = cluster_host(&coordinator->cluster, name);
    struct cluster_todo todo = {0};
    bool is_taken = cluster_ha_hello(&coordinator->cluster, host, hello, coordinator_now(), &todo);
    welcome(peer, request, host, hello, is_taken);
    if (is_taken) {
        take_over_link(peer, name);
        log_info("agent_link", "agent is here host=%s vms=%zu version=%s", name, hello->n_vms,
                 hello->facts->version ? hello->facts->version : "?");
        cluster_hello(&coordinator->cluster, host, hello, coordinator_now(), &todo);
    }
    coordinator_apply(coordinator, &todo, NULL, NULL, NULL);
}

void agent_link_heartbeat(struct peer *peer, struct rpc_request *request, const void *message)
{
    (void)request;
    struct cluster *cluster = &peer->coordinator->cluster;
    cluster_heartbeat(cluster, cluster_host(cluster, peer->host), message, coordinator_now());
}

void agent_link_vm_event(struct peer *peer, struct rpc_request *request, const void *message)
{
    (void)request;
    const Godwit__AgentVmEvent *event = message;
    struct cluster *cluster = &peer->coordinator->cluster;
    if (!event->vm)
        return;
    struct cluster_todo todo = {0};
    struct cluster_host *host = cluster_host(cluster, peer->host);
    if (event->is_first_word)
        cluster_vm_first_word(cluster, host, event->vm, coordinator_now(), &todo);
    else
        cluster_vm_event(cluster, host, event->vm, coordinator_now(), &todo);
    coordinator_apply(peer->coordinator, &todo, NULL, NULL, NULL);
}

void agent_link_found(struct peer *peer, struct rpc_request *request, const void *message)
{
    (void)request;
    struct cluster *cluster = &peer->coordinator->cluster;
    struct cluster_todo todo = {0};
    cluster_found_take(cluster, cluster_host(cluster, peer->host), message, coordinator_now(),
                       &todo);
    coordinator_apply(peer->coordinator, &todo, NULL, NULL, NULL);
    adopt_all_look(peer->coordinator, peer->host);
}

void agent_link_move_event(struct peer *peer, struct rpc_request *request, const void *message)
{
    (void)request;
    struct cluster *cluster = &peer->coordinator->cluster;
    struct cluster_todo todo = {0};
    cluster_move_event(cluster, cluster_host(cluster, peer->host), message, coordinator_now(),
                       &todo);
    coordinator_apply(peer->coordinator, &todo, NULL, NULL, NULL);
}

void agent_link_tick(struct coordinator *coordinator)
{
    uint64_t now_ns = coordinator_now().ns;
    for (struct peer *peer = coordinator->peers, *next; peer; peer = next) {
        next = peer->next;
        const struct cluster_host *host =
            peer->host[0] ? cluster_host(&coordinator->cluster, peer->host) : NULL;
        if (!host || (now_ns - host->seen_ns) / NS_PER_MS < 2 * HOST_SUSPECT_MS)
            continue;
        log_warn("agent_link", "agent is silent, giving its connection up host=%s", peer->host);
        coordinator_peer_gone(peer);
        return; /* the list may have changed; the others next time */
    }
}

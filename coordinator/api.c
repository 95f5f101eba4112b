/* Protocol-level trouble (a wrong role, an unknown filter) is answered by a fault; what an operator
 * has to read is an OperatorError inside the reply. */
#include "coordinator/api.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/log.h"
#include "base/own.h"
#include "coordinator/agent_link.h"
#include "coordinator/api_plan.h"
#include "coordinator/api_clone.h"
#include "coordinator/api_snapshot.h"
#include "coordinator/audit.h"
#include "coordinator/backup.h"
#include "coordinator/cluster_ask.h"
#include "coordinator/cluster_forecast.h"
#include "coordinator/cluster_found.h"
#include "coordinator/cluster_snapshot.h"
#include "coordinator/cluster_view.h"
#include "coordinator/console_relay.h"
#include "coordinator/cluster_core.h"
#include "coordinator/disk_move.h"
#include "coordinator/disk_move_run.h"
#include "coordinator/dr_api.h"
#include "coordinator/dr_tell.h"
#include "coordinator/enrol.h"
#include "coordinator/events.h"
#include "coordinator/ha_api.h"
#include "coordinator/image_api.h"
#include "coordinator/image_seal.h"
#include "coordinator/peer_api.h"
#include "coordinator/peer_dr.h"
#include "coordinator/peer_link.h"
#include "coordinator/pool_store.h"
#include "coordinator/preflight.h"
#include "coordinator/sampling.h"
#include "coordinator/store_api.h"
#include "coordinator/store_look.h"
#include "coordinator/watch.h"
#include "coordinator/words.h"
#include "proto/limits.h"
#include "proto/method.h"
#include "proto/vm_spec.h"
#include "proto/backup.pb-c.h"
#include "proto/record.pb-c.h"

enum { LOGS_MS = 15000, COUNTERS_MS = 3000 };

void api_reply_problem_as_fault(struct rpc_request *request, const struct problem *problem, int err)
{
    const struct gw_code_row *row = gw_code_row((int)problem->code);
    assert(row);
    struct fault fault = {0};
    fault_set(&fault, err, "%.400s (%s %s)", problem->text, row->label, row->name);
    if (problem->hint[0])
        fault_hint(&fault, "%s", problem->hint);
    (void)rpc_reply_fault(request, &fault);
}

void api_reply_action(struct coordinator *coordinator, struct rpc_request *request,
                      const char *vm_id, struct problem *problem, Godwit__MoveReceipt *receipt)
{
    Godwit__ActionReply reply = GODWIT__ACTION_REPLY__INIT;
    Godwit__OperatorError error;
    Godwit__VmInfo info;
    char *details[PROBLEM_DETAILS_MAX];
    const struct cluster_vm *vm = cluster_vm(&coordinator->cluster, vm_id);
    if (problem) {
        problem_to_message(problem, &error, details);
        reply.error = &error;
    } else if (vm) {
        reply.receipt = receipt;
        cluster_vm_info(&coordinator->cluster, vm, coordinator_now().ns, &info);
        reply.vm = &info;
    }
    (void)rpc_reply(request, &reply.base);
}

static void reply_job(struct coordinator *coordinator, struct rpc_request *request,
                      const struct cluster_job *job, struct problem *problem, bool is_dry_run)
{
    Godwit__MigrateReply reply = GODWIT__MIGRATE_REPLY__INIT;
    Godwit__OperatorError error;
    char *details[PROBLEM_DETAILS_MAX];
    struct cluster_job_message message = {0};
    if (problem) {
        problem_to_message(problem, &error, details);
        reply.error = &error;
    } else {
        cluster_job_info(&coordinator->cluster, job, coordinator_now().ns, &message);
        if (is_dry_run)
            message.info.state = (char *)(uintptr_t) "queued"; /* protobuf-c knows no const */
        reply.job = &message.info;
    }
    (void)rpc_reply(request, &reply.base);
}

/* ---- pool and hosts ---------------------------------------------------------------------------
 */

static void on_pool_status(struct peer *peer, struct rpc_request *request, const void *message)
{
    (void)message;
    const struct coordinator *coordinator = peer->coordinator;
    const struct cluster *cluster = &coordinator->cluster;
    uint64_t now_ns = coordinator_now().ns;
    Godwit__PoolStatus status = GODWIT__POOL_STATUS__INIT;
    static char version[] = GODWIT_VERSION;
    char held[CLUSTER_REASON_SIZE];
    char *warnings[CLUSTER_WARNINGS_MAX + 3];

    status.pool_id = coordinator->pool_id;
    status.name = coordinator->name;
    status.version = version;
    status.address = coordinator->address;
    status.has_hosts = status.has_hosts_up = status.has_vms = status.has_vms_running = true;
    status.has_jobs_active = status.has_memory_bytes = status.has_memory_free_bytes = true;
    status.hosts = (uint32_t)cluster->host_count;
    status.vms = (uint32_t)cluster->vm_count;
    for (size_t i = 0; i < cluster->host_count; i++) {
        const struct cluster_host *host = cluster->hosts[i];
        if (cluster_host_state(host, now_ns) != HOST_UP || !host->facts)
            continue;
        status.hosts_up++;
        status.memory_bytes += host->facts->memory_bytes;
        status.memory_free_bytes += host->memory_free_bytes;
    }
    unsigned held_count = 0;
    for (size_t i = 0; i < cluster->vm_count; i++) {
        const char *word = cluster_vm_word(cluster, cluster->vms[i], now_ns);
        status.vms_running += strcmp(word, "running") == 0 || strcmp(word, "moving") == 0;
        held_count += strcmp(word, "held") == 0;
    }
    for (size_t i = 0; i < cluster->job_count; i++)
        status.jobs_active += job_core_is_active(&cluster->jobs[i]->core);
    AUTO_FREE struct planner_host *hosts = cluster_planner_hosts(cluster, now_ns);
    const char *baseline = hosts ? planner_baseline(hosts, cluster->host_count) : NULL;
    status.baseline = (char *)(uintptr_t)baseline;
    for (unsigned i = 0; i < cluster->warning_count; i++)
        warnings[status.n_warnings++] = (char *)(uintptr_t)cluster->warnings[i];
    if (held_count > 0) {
        (void)snprintf(held, sizeof held, "%u VMs are held by a move and wait for a host",
                       held_count);
        warnings[status.n_warnings++] = held;
    }
    char conflicts[CLUSTER_REASON_SIZE];
    unsigned conflict_count = 0;
    for (size_t i = 0; i < cluster->vm_count; i++)
        conflict_count += cluster->vms[i]->conflict_told;
    if (conflict_count > 0) {
        (void)snprintf(conflicts, sizeof conflicts,
                       "%u VMs run on a host where the pool's record does not have them: godwit "
                       "events",
                       conflict_count);
        warnings[status.n_warnings++] = conflicts;
    }
    char unprotected[CLUSTER_REASON_SIZE];
    if (dr_warning(cluster, coordinator_now(), unprotected))
        warnings[status.n_warnings++] = unprotected;
    status.warnings = warnings;
    (void)rpc_reply(request, &status.base);
}

/* Where it is, or may be; NULL: nowhere. */
static const struct cluster_host *owner_of(const struct cluster *cluster,
                                           const struct cluster_vm *vm)
{
    return vm->own.phase == OWN_STOPPED ? NULL : cluster_host(cluster, vm->own.owner);
}

static void fill_host(const struct cluster_host *host, uint32_t vms, uint64_t now_ns,
                      Godwit__HostInfo *info)
{
    godwit__host_info__init(info);
    info->name = (char *)(uintptr_t)host->name; /* protobuf-c knows no const */
    info->state = (char *)(uintptr_t)cluster_host_state_word(cluster_host_state(host, now_ns));
    info->has_vms = info->has_seen_unix_ms = true;
    info->policy = host->policy;
    info->seen_unix_ms = host->seen_unix_ms;
    info->vms = vms;
    if (!host->facts)
        return;
    info->has_cpus = info->has_memory_bytes = info->has_memory_free_bytes = true;
    info->cpus = host->facts->cpus;
    info->memory_bytes = host->facts->memory_bytes;
    info->memory_free_bytes = host->memory_free_bytes;
    info->address = host->facts->move_address;
    info->version = host->facts->version;
    info->baseline = (char *)(uintptr_t)planner_host_baseline(host->facts);
    info->facts = host->facts;
}

void api_fill_host(struct coordinator *coordinator, const struct cluster_host *host,
                   Godwit__HostInfo *ret_info)
{
    const struct cluster *cluster = &coordinator->cluster;
    uint32_t vms = 0;
    for (size_t i = 0; i < cluster->vm_count; i++)
        vms += owner_of(cluster, cluster->vms[i]) == host;
    fill_host(host, vms, coordinator_now().ns, ret_info);
}

static int by_host_name(const void *a, const void *b)
{
    return strcmp((*(Godwit__HostInfo *const *)a)->name, (*(Godwit__HostInfo *const *)b)->name);
}

static void on_host_list(struct peer *peer, struct rpc_request *request, const void *message)
{
    const Godwit__HostListRequest *wanted = message;
    const struct cluster *cluster = &peer->coordinator->cluster;
    uint64_t now_ns = coordinator_now().ns;
    size_t count = cluster->host_count;
    AUTO_FREE Godwit__HostInfo *infos = calloc(count + 1, sizeof *infos);
    AUTO_FREE Godwit__HostInfo **list = calloc(count + 1, sizeof *list);
    AUTO_FREE uint32_t *vms = calloc(count + 1, sizeof *vms);
    assert(infos && list && vms);
    for (size_t i = 0; i < cluster->vm_count; i++) {
        const struct cluster_host *owner = owner_of(cluster, cluster->vms[i]);
        vms[owner ? owner->index : count]++;
    }
    for (size_t i = 0; i < count; i++) {
        fill_host(cluster->hosts[i], vms[i], now_ns, &infos[i]);
        if (wanted->brief)
            infos[i].facts = NULL;
        list[i] = &infos[i];
    }
    qsort(list, count, sizeof *list, by_host_name);
    Godwit__HostList reply = GODWIT__HOST_LIST__INIT;
    reply.hosts = list;
    reply.n_hosts = count;
    (void)rpc_reply(request, &reply.base);
}

/* ---- VMs --------------------------------------------------------------------------------------
 */

static int by_vm_name(const void *a, const void *b)
{
    return strcmp((*(Godwit__VmInfo *const *)a)->name, (*(Godwit__VmInfo *const *)b)->name);
}

/* ---- a VM with what its devices have done: its host is asked, and the rest is told without it
 * ---- */
struct counted {
    struct coordinator *coordinator;
    struct rpc_request *request;
    char vm_id[ID_TEXT_SIZE];
};

static void reply_one(const struct counted *counted, const Godwit__VmCounters *counters,
                      const struct fault *fault)
{
    const struct cluster *cluster = &counted->coordinator->cluster;
    const struct cluster_vm *vm = cluster_vm(&counted->coordinator->cluster, counted->vm_id);
    Godwit__VmInfo info, *list[] = {&info};
    Godwit__VmList reply = GODWIT__VM_LIST__INIT;
    char why[CLUSTER_REASON_SIZE];
    if (vm) {
        cluster_vm_info(cluster, vm, coordinator_now().ns, &info);
        info.counters = (Godwit__VmCounters *)(uintptr_t)counters; /* protobuf-c knows no const */
        if (!counters) {
            (void)snprintf(why, sizeof why, "%.*s", (int)sizeof why - 1, fault->text);
            info.counters_fault = why;
        }
        reply.vms = list;
        reply.n_vms = 1;
    }
    (void)rpc_reply(counted->request, &reply.base);
}

static void on_counted(void *data, const ProtobufCMessage *reply, const struct fault *fault,
                       enum agent_link_fate fate)
{
    struct counted *counted = data;
    (void)fate;

    reply_one(counted, (const Godwit__VmCounters *)reply, fault);
    free(counted);
}

static void reply_counted(struct coordinator *coordinator, const struct cluster_vm *vm,
                          struct rpc_request *request)
{
    struct counted plain = {.coordinator = coordinator, .request = request};
    WORDS_COPY(plain.vm_id, vm->id);
    if (vm_spec_is_libvirt(vm->spec)) {
        struct fault fault = {0};
        (void)fault_set(&fault, ERR_UNSUPPORTED, "libvirt keeps them: virsh domstats %s",
                        vm->spec->name);
        reply_one(&plain, NULL, &fault);
        return;
    }
    struct counted *counted = calloc(1, sizeof *counted);
    assert(counted);
    *counted = plain;
    Godwit__VmAction order = GODWIT__VM_ACTION__INIT;
    order.vm_id = counted->vm_id;
    agent_link_call(coordinator, vm->own.owner, METHOD_ORDER_VM_COUNTERS, &order.base,
                    &godwit__vm_counters__descriptor, COUNTERS_MS, on_counted, counted);
}

/* Nothing that an operator would have to look at. */
static bool is_plain(const struct cluster *cluster, const struct cluster_vm *vm, uint64_t now_ns)
{
    const char *word = cluster_vm_word(cluster, vm, now_ns);
    return strcmp(word, "running") == 0 || strcmp(word, "stopped") == 0;
}

static void on_vm_list(struct peer *peer, struct rpc_request *request, const void *message)
{
    const struct cluster *cluster = &peer->coordinator->cluster;
    const Godwit__VmListRequest *wanted = message;
    uint64_t now_ns = coordinator_now().ns;
    const struct cluster_vm *only = NULL;
    if (wanted->vm && wanted->vm[0]) {
        struct problem problem;
        only = cluster_find_vm(cluster, wanted->vm, &problem);
        if (!only) {
            api_reply_problem_as_fault(request, &problem, ERR_NOT_FOUND);
            return;
        }
    }
    if (only && wanted->with_counters && only->own.phase == OWN_RUN) {
        reply_counted(peer->coordinator, only, request);
        return;
    }
    size_t found = only ? 0 : cluster_found_count(cluster);
    AUTO_FREE Godwit__VmInfo *infos = calloc(cluster->vm_count + found + 1, sizeof *infos);
    AUTO_FREE Godwit__VmInfo **list = calloc(cluster->vm_count + found + 1, sizeof *list);
    assert(infos && list);
    bool is_short = wanted->most > 0 && cluster->vm_count > wanted->most;
    size_t count = 0, left_out = 0;
    for (size_t i = 0; i < found; i++) {
        cluster_found_info(cluster, i, &infos[count]);
        list[count] = &infos[count];
        count++;
    }
    for (size_t i = 0; i < cluster->vm_count; i++) {
        if (only && only != cluster->vms[i])
            continue;
        if (!only && is_short &&
            (is_plain(cluster, cluster->vms[i], now_ns) || count >= wanted->most)) {
            left_out++;
            continue;
        }
        if (!only && wanted->brief)
            cluster_vm_brief(cluster, cluster->vms[i], now_ns, &infos[count]);
        else
            cluster_vm_info(cluster, cluster->vms[i], now_ns, &infos[count]);
        if (!only) /* user data, a domain's XML: thousands of them would not fit a message */
            infos[count].spec = NULL;
        list[count] = &infos[count];
        count++;
    }
    qsort(list, count, sizeof *list, by_vm_name);
    Godwit__VmList reply = GODWIT__VM_LIST__INIT;
    reply.vms = list;
    reply.n_vms = count;
    reply.has_left_out = left_out > 0;
    reply.left_out = (uint32_t)left_out;
    (void)rpc_reply(request, &reply.base);
}

/* A request that waits until stores have been looked at. */
struct looking {
    struct coordinator *coordinator;
    struct rpc_request *request;
    ProtobufCMessage *message; /* owned copy */
    void (*go_on)(struct coordinator *coordinator, struct rpc_request *request,
                  const void *message);
};

static void on_looked(void *data)
{
    struct looking *looking = data;
    looking->go_on(looking->coordinator, looking->request, looking->message);
    protobuf_c_message_free_unpacked(looking->message, NULL);
    free(looking);
}

void api_look_first(struct coordinator *coordinator, struct rpc_request *request,
                    const ProtobufCMessage *message,
                    void (*go_on)(struct coordinator *coordinator, struct rpc_request *request,
                                  const void *message))
{
    struct looking *looking = calloc(1, sizeof *looking);
    assert(looking); /* control memory is small; without it there is no deciding */
    *looking = (struct looking){.coordinator = coordinator,
                                .request = request,
                                .message = cluster_message_copy(message),
                                .go_on = go_on};
    assert(looking->message);
    if (!store_look(coordinator, NULL, on_looked, looking))
        on_looked(looking);
}

static void create_vm(struct coordinator *coordinator, struct rpc_request *request,
                      const void *message)
{
    const Godwit__VmCreateRequest *wanted = message;
    Godwit__VmSpec nothing = GODWIT__VM_SPEC__INIT;
    struct cluster_todo todo = {0};
    struct problem problem;
    uint64_t ticket = 0;
    char vm_id[ID_TEXT_SIZE];
    id_random(vm_id);
    if (wanted->spec && vm_spec_has_clones(wanted->spec)) {
        image_api_create(coordinator, request, wanted, vm_id);
        return;
    }
    if (cluster_create_vm(&coordinator->cluster, wanted->spec ? wanted->spec : &nothing, vm_id,
                          wanted->no_start, coordinator_now(), &ticket, &problem, &todo) != 0)
        api_reply_action(coordinator, request, "", &problem, NULL);
    else
        coordinator_await(coordinator, ticket, request);
    coordinator_apply(coordinator, &todo, NULL, NULL, NULL);
}

static void on_vm_create(struct peer *peer, struct rpc_request *request, const void *message)
{
    const Godwit__VmCreateRequest *wanted = message;
    if (wanted->spec && vm_spec_is_of_snapshot(wanted->spec)) {
        struct problem problem;
        (void)problem_set(&problem, GW_SPEC_INVALID,
                          "a VM with disks from a snapshot is made by a clone of that snapshot");
        problem_hint(&problem, "godwit vm snapshot clone VM SNAPSHOT NAME");
        api_reply_action(peer->coordinator, request, "", &problem, NULL);
        return;
    }
    if (wanted->spec && pool_store_is_named(wanted->spec))
        api_look_first(peer->coordinator, request, message, create_vm);
    else
        create_vm(peer->coordinator, request, message);
}

static void act_on_vm(struct coordinator *coordinator, struct rpc_request *request,
                      const void *message)
{
    const Godwit__VmActionRequest *wanted = message;
    struct cluster_todo todo = {0};
    struct problem problem;
    uint64_t ticket = 0;
    const char *vm = wanted->vm ? wanted->vm : "";
    if (wanted->verb == GODWIT__VM_VERB__VM_VERB_START &&
        (image_api_start(coordinator, request, vm) || api_clone_start(coordinator, request, vm)))
        return;
    int r = wanted->verb == GODWIT__VM_VERB__VM_VERB_RESTORE
                ? cluster_snapshot_restore(&coordinator->cluster, vm,
                                           wanted->snapshot ? wanted->snapshot : "",
                                           coordinator_now(), &ticket, &problem, &todo)
                : cluster_act(&coordinator->cluster, vm, wanted->verb, wanted->and_stop,
                              coordinator_now(), &ticket, &problem, &todo);
    struct cluster_vm *started = r == 0 ? cluster_find_vm(&coordinator->cluster, vm, &problem) : NULL;
    if (started) /* else it was removed */
        started->lazy = wanted->lazy;
    if (r != 0)
        api_reply_action(coordinator, request, "", &problem, NULL);
    else
        coordinator_await(coordinator, ticket, request);
    coordinator_apply(coordinator, &todo, NULL, NULL, NULL);
}

static void on_vm_action(struct peer *peer, struct rpc_request *request, const void *message)
{
    struct coordinator *coordinator = peer->coordinator;
    const Godwit__VmActionRequest *wanted = message;
    struct problem problem;
    const struct cluster_vm *vm =
        wanted->verb == GODWIT__VM_VERB__VM_VERB_START
            ? cluster_find_vm(&coordinator->cluster, wanted->vm ? wanted->vm : "", &problem)
            : NULL;
    if (vm && pool_store_is_named(vm->spec))
        api_look_first(coordinator, request, message, act_on_vm);
    else
        act_on_vm(coordinator, request, message);
}

struct adopting { /* while its host reads the definition */
    struct coordinator *coordinator;
    struct rpc_request *request;
    char host[OWN_HOST_SIZE];
};

static void on_domain_read(void *data, const ProtobufCMessage *reply, const struct fault *fault,
                           enum agent_link_fate fate)
{
    struct adopting *adopting = data;
    struct coordinator *coordinator = adopting->coordinator;
    struct cluster_host *host = cluster_host(&coordinator->cluster, adopting->host);
    struct cluster_todo todo = {0};
    struct problem problem;
    uint64_t ticket = 0;
    int r = -1;
    if (!reply)
        (void)problem_set(&problem, fate == AGENT_LINK_REFUSED ? GW_ORDER_FAILED : GW_HOST_DOWN,
                          "%s could not read the domain: %s", adopting->host, fault->text);
    else if (!host)
        (void)problem_set(&problem, GW_HOST_UNKNOWN, "host %s was removed", adopting->host);
    else
        r = cluster_found_adopt(&coordinator->cluster, host, (const Godwit__FoundDomain *)reply,
                                coordinator_now(), &ticket, &problem, &todo);
    if (r != 0)
        api_reply_action(coordinator, adopting->request, "", &problem, NULL);
    else
        coordinator_await(coordinator, ticket, adopting->request);
    coordinator_apply(coordinator, &todo, NULL, NULL, NULL);
    free(adopting);
}

static void on_vm_adopt(struct peer *peer, struct rpc_request *request, const void *message)
{
    struct coordinator *coordinator = peer->coordinator;
    const Godwit__VmAdoptRequest *wanted = message;
    const Godwit__FoundDomain *found = NULL;
    struct cluster_host *host = NULL;
    struct problem problem;
    if (cluster_found_find(&coordinator->cluster, wanted->vm ? wanted->vm : "",
                           wanted->host ? wanted->host : "", &host, &found, &problem) != 0) {
        api_reply_action(coordinator, request, "", &problem, NULL);
        return;
    }
    struct adopting *adopting = calloc(1, sizeof *adopting);
    assert(adopting);
    adopting->coordinator = coordinator;
    adopting->request = request;
    WORDS_COPY(adopting->host, host->name);
    Godwit__VmAction order = GODWIT__VM_ACTION__INIT;
    order.vm_id = found->vm_id;
    agent_link_call(coordinator, host->name, METHOD_ORDER_DOMAIN, &order.base,
                    &godwit__found_domain__descriptor, LOGS_MS, on_domain_read, adopting);
}

static void on_logs_read(void *data, const ProtobufCMessage *reply, const struct fault *fault,
                         enum agent_link_fate fate)
{
    (void)fate;
    struct rpc_request *request = data;
    if (reply)
        (void)rpc_reply(request, reply);
    else
        (void)rpc_reply_fault(request, fault);
}

static void on_vm_logs(struct peer *peer, struct rpc_request *request, const void *message)
{
    struct coordinator *coordinator = peer->coordinator;
    const Godwit__VmLogsRequest *wanted = message;
    struct problem problem;
    struct cluster_vm *vm =
        cluster_find_vm(&coordinator->cluster, wanted->vm ? wanted->vm : "", &problem);
    if (!vm) {
        api_reply_problem_as_fault(request, &problem, ERR_NOT_FOUND);
        return;
    }
    if (!vm->own.owner[0]) {
        struct fault fault = {0};
        fault_set(&fault, ERR_STATE, "%s has never run, so it has no log", vm->spec->name);
        fault_hint(&fault, "godwit vm start %s", vm->spec->name);
        (void)rpc_reply_fault(request, &fault);
        return;
    }
    Godwit__OrderLogs order = GODWIT__ORDER_LOGS__INIT;
    order.vm_id = vm->id;
    order.has_tail_bytes = true;
    order.tail_bytes =
        wanted->tail_bytes && wanted->tail_bytes < LOG_TAIL_MAX ? wanted->tail_bytes : LOG_TAIL_MAX;
    agent_link_call(coordinator, vm->own.owner, METHOD_ORDER_LOGS, &order.base,
                    &godwit__logs_reply__descriptor, LOGS_MS, on_logs_read, request);
}

/* ---- moves and jobs ---------------------------------------------------------------------------
 */

struct job_reply { /* between a decision about a job and its durability */
    struct coordinator *coordinator;
    struct rpc_request *request;
    char job_id[ID_SHORT_SIZE];
};

static void on_job_stored(void *data)
{
    struct job_reply *reply = data;
    struct cluster_job *job = cluster_job(&reply->coordinator->cluster, reply->job_id);
    struct problem problem;
    if (!job)
        (void)problem_set(&problem, GW_JOB_UNKNOWN, "job %s is not kept any more", reply->job_id);
    reply_job(reply->coordinator, reply->request, job, job ? NULL : &problem, false);
    free(reply);
}

static void reply_when_stored(struct coordinator *coordinator, struct rpc_request *request,
                              const struct cluster_job *job, struct cluster_todo *todo)
{
    struct job_reply *reply = calloc(1, sizeof *reply);
    assert(reply);
    reply->coordinator = coordinator;
    reply->request = request;
    WORDS_COPY(reply->job_id, job->core.id);
    coordinator_apply(coordinator, todo, NULL, on_job_stored, reply);
}

struct dry_run { /* a move that is only looked at, while both hosts are asked */
    struct coordinator *coordinator;
    struct rpc_request *request;
    struct cluster_job *job; /* owned, in no cluster */
};

static void on_dry_run_checked(void *data, const struct fault *fault, enum agent_link_fate fate,
                               const char *note)
{
    struct dry_run *dry_run = data;
    struct cluster_job *job = dry_run->job;
    struct problem problem;
    (void)fate;
    if (fault) {
        (void)problem_set(&problem, GW_TARGET_REFUSED, "%s cannot move to %s: %.300s", job->vm_name,
                          job->core.target_host, fault->text);
        const struct cluster_vm *vm = cluster_vm(&dry_run->coordinator->cluster, job->core.vm_id);
        if (vm)
            cluster_vm_place(&dry_run->coordinator->cluster, vm, coordinator_now().ns,
                             problem.vm_state, sizeof problem.vm_state);
        reply_job(dry_run->coordinator, dry_run->request, NULL, &problem, false);
    } else {
        cluster_job_note(job, note);
        reply_job(dry_run->coordinator, dry_run->request, job, NULL, true);
    }
    (void)cluster_job_free(job);
    free(dry_run);
}

static void on_dry_run_sampled(void *data, const Godwit__VmSample *sample,
                               const struct fault *fault)
{
    struct dry_run *dry_run = data;
    struct coordinator *coordinator = dry_run->coordinator;
    struct cluster_job *job = dry_run->job;
    const struct cluster_vm *vm = cluster_vm(&coordinator->cluster, job->core.vm_id);
    char note[CLUSTER_REASON_SIZE];
    if (!sample) {
        (void)snprintf(note, sizeof note, "its guest was not looked at: %.160s", fault->text);
        cluster_job_note(job, note);
    } else if (vm) {
        cluster_forecast_job(&coordinator->cluster, vm, job);
    }
    if (vm && preflight_is_needed(vm)) {
        preflight_move(coordinator, vm, job, on_dry_run_checked, dry_run);
        return;
    }
    reply_job(coordinator, dry_run->request, job, NULL, true);
    (void)cluster_job_free(job);
    free(dry_run);
}

/* Takes the job. */
static void reply_dry_run(struct coordinator *coordinator, struct rpc_request *request,
                          struct cluster_job *job)
{
    const struct cluster_vm *vm = cluster_vm(&coordinator->cluster, job->core.vm_id);
    assert(vm); /* found a moment ago */
    struct dry_run *dry_run = calloc(1, sizeof *dry_run);
    assert(dry_run);
    *dry_run = (struct dry_run){.coordinator = coordinator, .request = request, .job = job};
    sampling_start(coordinator, vm, on_dry_run_sampled, dry_run);
}

struct dirty_rate {
    struct rpc_request *request;
    char name[OWN_HOST_SIZE], host[OWN_HOST_SIZE];
    uint64_t memory_bytes;
};

static void on_dirty_rate_sampled(void *data, const Godwit__VmSample *sample,
                                  const struct fault *fault)
{
    struct dirty_rate *asked = data;
    Godwit__VmDirtyRateReply reply = GODWIT__VM_DIRTY_RATE_REPLY__INIT;
    reply.vm = asked->name;
    reply.host = asked->host;
    reply.has_memory_bytes = true;
    reply.memory_bytes = asked->memory_bytes;
    reply.sample = (Godwit__VmSample *)(uintptr_t)sample; /* protobuf-c knows no const */
    if (sample)
        (void)rpc_reply(asked->request, &reply.base);
    else
        (void)rpc_reply_fault(asked->request, fault);
    free(asked);
}

static void on_vm_dirty_rate(struct peer *peer, struct rpc_request *request, const void *message)
{
    struct coordinator *coordinator = peer->coordinator;
    const Godwit__VmDirtyRateRequest *wanted = message;
    struct problem problem;
    const struct cluster_vm *vm =
        cluster_find_vm(&coordinator->cluster, wanted->vm ? wanted->vm : "", &problem);
    if (!vm) {
        api_reply_problem_as_fault(request, &problem, ERR_NOT_FOUND);
        return;
    }
    if (vm->own.phase != OWN_RUN) {
        struct fault fault = {0};
        fault_set(&fault, ERR_STATE, "%s does not run, so it writes nothing", vm->spec->name);
        fault_hint(&fault, "godwit vm start %s", vm->spec->name);
        (void)rpc_reply_fault(request, &fault);
        return;
    }
    struct dirty_rate *asked = calloc(1, sizeof *asked);
    assert(asked);
    asked->request = request;
    WORDS_COPY(asked->name, vm->spec->name);
    WORDS_COPY(asked->host, vm->own.owner);
    asked->memory_bytes = vm->spec->memory->size;
    sampling_start(coordinator, vm, on_dirty_rate_sampled, asked);
}

static void migrate(struct coordinator *coordinator, struct rpc_request *request,
                    const void *message)
{
    const Godwit__MigrateRequest *wanted = message;
    struct cluster_todo todo = {0};
    struct cluster_job *job = NULL;
    struct problem problem;
    char job_id[ID_SHORT_SIZE], move_id[ID_TEXT_SIZE];
    do {
        id_random_short('J', job_id);
    } while (cluster_job(&coordinator->cluster, job_id));
    id_random(move_id);
    struct cluster_move_ask ask = {
        .vm = wanted->vm ? wanted->vm : "",
        .to = wanted->to ? wanted->to : "",
        .goals = wanted->goals,
        .dry_run = wanted->dry_run,
        .job_id = job_id,
        .move_id = move_id,
    };
    if (cluster_migrate(&coordinator->cluster, &ask, coordinator_now(), &job, &problem, &todo) !=
        0) {
        reply_job(coordinator, request, NULL, &problem, false);
        coordinator_apply(coordinator, &todo, NULL, NULL, NULL);
    } else if (wanted->dry_run) {
        reply_dry_run(coordinator, request, job);
    } else {
        log_info("api", "move begins job=%s vm=%s source=%s target=%s", job_id, job->vm_name,
                 job->core.source_host, job->core.target_host); /* who asked: the audit knows */
        reply_when_stored(coordinator, request, job, &todo);
    }
}

static void on_migrate(struct peer *peer, struct rpc_request *request, const void *message)
{
    const Godwit__MigrateRequest *wanted = message;
    const struct cluster *cluster = &peer->coordinator->cluster;
    struct problem problem;
    const struct cluster_vm *vm = cluster_find_vm(cluster, wanted->vm ? wanted->vm : "", &problem);
    bool come_along = wanted->goals && wanted->goals->with_local_disks;
    if (come_along || (vm && pool_store_is_named(vm->spec)))
        api_look_first(peer->coordinator, request, message, migrate);
    else
        migrate(peer->coordinator, request, message);
}

static void on_disk_move(struct peer *peer, struct rpc_request *request, const void *message)
{
    api_look_first(peer->coordinator, request, message, disk_move_run_begin);
}

static void on_job_list(struct peer *peer, struct rpc_request *request, const void *message)
{
    const struct cluster *cluster = &peer->coordinator->cluster;
    const Godwit__JobListRequest *wanted = message;
    uint64_t now_ns = coordinator_now().ns;
    const struct cluster_job *only = NULL;
    const struct cluster_disk_move *only_disk =
        wanted->job ? disk_move_find(cluster, wanted->job) : NULL;
    if (wanted->job && wanted->job[0] && !only_disk) {
        struct problem problem;
        only = cluster_find_job(cluster, wanted->job, &problem);
        if (!only) {
            api_reply_problem_as_fault(request, &problem, ERR_NOT_FOUND);
            return;
        }
    }
    AUTO_FREE struct cluster_job_message *infos = calloc(cluster->job_count + 1, sizeof *infos);
    AUTO_FREE struct disk_move_message *disks =
        calloc(cluster->disk_move_count + 1, sizeof *disks);
    AUTO_FREE Godwit__JobInfo **list =
        calloc(cluster->job_count + cluster->disk_move_count + 1, sizeof *list);
    assert(infos && list && disks);
    size_t count = 0;
    for (size_t i = 0; !only && i < cluster->disk_move_count; i++) {
        const struct cluster_disk_move *move = cluster->disk_moves[i];
        if (only_disk ? move != only_disk : !wanted->all && !disk_move_is_active(move))
            continue;
        disk_move_tell(cluster, move, now_ns, &disks[i]);
        list[count++] = &disks[i].info;
    }
    for (size_t i = 0, jobs = 0; !only_disk && i < cluster->job_count; i++) {
        const struct cluster_job *job = cluster->jobs[i];
        bool is_wanted = only ? job == only : wanted->all || job_core_is_active(&job->core);
        if (!is_wanted)
            continue;
        cluster_job_info(cluster, job, now_ns, &infos[jobs]);
        list[count++] = &infos[jobs++].info;
    }
    Godwit__JobList reply = GODWIT__JOB_LIST__INIT;
    reply.jobs = list;
    reply.n_jobs = count;
    (void)rpc_reply(request, &reply.base);
}

static void on_job_watch(struct peer *peer, struct rpc_request *request, const void *message)
{
    struct coordinator *coordinator = peer->coordinator;
    const Godwit__JobWatchRequest *wanted = message;
    struct problem problem;
    const struct cluster_disk_move *move =
        disk_move_find(&coordinator->cluster, wanted->job ? wanted->job : "");
    if (move) {
        Godwit__MigrateReply reply = GODWIT__MIGRATE_REPLY__INIT;
        struct disk_move_message told = {0};
        disk_move_tell(&coordinator->cluster, move, coordinator_now().ns, &told);
        reply.job = &told.info;
        (void)rpc_reply(request, &reply.base);
        if (disk_move_is_active(move))
            watch_add(peer, move->info->id);
        return;
    }
    struct cluster_job *job =
        cluster_find_job(&coordinator->cluster, wanted->job ? wanted->job : "", &problem);
    reply_job(coordinator, request, job, job ? NULL : &problem, false);
    if (job && job_core_is_active(&job->core))
        watch_add(peer, job->core.id);
}

static void on_job_set(struct peer *peer, struct rpc_request *request, const void *message)
{
    struct coordinator *coordinator = peer->coordinator;
    const Godwit__JobSetRequest *wanted = message;
    const Godwit__MoveGoals none = GODWIT__MOVE_GOALS__INIT;
    struct cluster_todo todo = {0};
    struct cluster_job *job = NULL;
    struct problem problem;
    if (cluster_set_goals(&coordinator->cluster, wanted->job ? wanted->job : "",
                          wanted->goals ? wanted->goals : &none, coordinator_now(), &job, &problem,
                          &todo) != 0) {
        reply_job(coordinator, request, NULL, &problem, false);
        coordinator_apply(coordinator, &todo, NULL, NULL, NULL);
    } else {
        log_info("api", "goals job=%s by=%s", job->core.id, rpc_peer(peer->rpc)->name);
        reply_when_stored(coordinator, request, job, &todo);
    }
}

static void on_job_cancel(struct peer *peer, struct rpc_request *request, const void *message)
{
    struct coordinator *coordinator = peer->coordinator;
    const Godwit__JobCancelRequest *wanted = message;
    struct cluster_todo todo = {0};
    struct cluster_job *job = NULL;
    struct problem problem;
    if (wanted->job && disk_move_run_cancel(coordinator, request, wanted->job))
        return;
    if (cluster_cancel(&coordinator->cluster, wanted->job ? wanted->job : "", coordinator_now(),
                       &job, &problem, &todo) != 0) {
        reply_job(coordinator, request, NULL, &problem, false);
        coordinator_apply(coordinator, &todo, NULL, NULL, NULL);
    } else {
        log_info("api", "cancel job=%s by=%s", job->core.id, rpc_peer(peer->rpc)->name);
        reply_when_stored(coordinator, request, job, &todo);
    }
}

/* ---- peer pools, which called us ---------------------------------------------------------------
 */

static void on_peer_dr_hold(struct peer *peer, struct rpc_request *request, const void *message)
{
    peer_dr_on_hold(peer->coordinator,
                    peer_pool_of(&peer->coordinator->peer_pools, rpc_peer(peer->rpc)), request,
                    message);
}

static void on_peer_dr_words(struct peer *peer, struct rpc_request *request, const void *message)
{
    peer_dr_on_words(peer->coordinator,
                     peer_pool_of(&peer->coordinator->peer_pools, rpc_peer(peer->rpc)), request,
                     message);
}

/* ---- the table --------------------------------------------------------------------------------
 */

/* method, message (protobuf-c's name of it), role ("*": anybody but a peer pool), handler. What a
 * peer pool may ask is what says "peer" here, and nothing else. */
#define API_LIST(X)                                                                                \
    X(METHOD_AGENT_HELLO, agent_hello, "host", agent_link_hello)                                   \
    X(METHOD_AGENT_HEARTBEAT, agent_heartbeat, "host", agent_link_heartbeat)                       \
    X(METHOD_AGENT_VM_EVENT, agent_vm_event, "host", agent_link_vm_event)                          \
    X(METHOD_AGENT_FOUND, agent_found, "host", agent_link_found)                                   \
    X(METHOD_AGENT_SNAPSHOTS, agent_snapshots, "host", api_snapshot_told)                          \
    X(METHOD_AGENT_MOVE_EVENT, move_event, "host", agent_link_move_event)                          \
    X(METHOD_AGENT_CONSOLE_OUTPUT, console_data, "host", console_relay_output)                     \
    X(METHOD_ENROL, enrol_request, "*", enrol_host)                                                \
    X(METHOD_PEER_JOIN, peer_join, "*", peer_api_join)                                             \
    X(METHOD_PEER_HELLO, peer_hello, "peer", peer_link_hello)                                      \
    X(METHOD_PEER_DR_HOLD, peer_dr_hold, "peer", on_peer_dr_hold)                                  \
    X(METHOD_PEER_DR_WORDS, peer_dr_words, "peer", on_peer_dr_words)                               \
    X(METHOD_POOL_PEER, peer_request, "operator", peer_api_request)                                \
    X(METHOD_POOL_STATUS, pool_status_request, "operator", on_pool_status)                         \
    X(METHOD_TOKEN_CREATE, token_create, "operator", enrol_create_token)                           \
    X(METHOD_HOST_LIST, host_list_request, "operator", on_host_list)                               \
    X(METHOD_VM_LIST, vm_list_request, "operator", on_vm_list)                                     \
    X(METHOD_VM_CREATE_IN_POOL, vm_create_request, "operator", on_vm_create)                       \
    X(METHOD_VM_ACTION, vm_action_request, "operator", on_vm_action)                               \
    X(METHOD_VM_ADOPT, vm_adopt_request, "operator", on_vm_adopt)                                  \
    X(METHOD_VM_LOGS, vm_logs_request, "operator", on_vm_logs)                                     \
    X(METHOD_VM_CONSOLE, vm_console_request, "operator", console_relay_open)                       \
    X(METHOD_VM_CONSOLE_DATA, vm_console_data, "operator", console_relay_input)                    \
    X(METHOD_MIGRATE, migrate_request, "operator", on_migrate)                                     \
    X(METHOD_VM_DIRTY_RATE, vm_dirty_rate_request, "operator", on_vm_dirty_rate)                   \
    X(METHOD_JOB_LIST, job_list_request, "operator", on_job_list)                                  \
    X(METHOD_JOB_WATCH, job_watch_request, "operator", on_job_watch)                               \
    X(METHOD_JOB_SET, job_set_request, "operator", on_job_set)                                     \
    X(METHOD_JOB_CANCEL, job_cancel_request, "operator", on_job_cancel)                            \
    X(METHOD_HOST_SET, host_set_request, "operator", api_plan_host_set)                            \
    X(METHOD_RULE_LIST, rule_list_request, "operator", api_plan_rules)                             \
    X(METHOD_RULE_ADD, rule_add_request, "operator", api_plan_rule_add)                            \
    X(METHOD_RULE_REMOVE, rule_remove_request, "operator", api_plan_rule_remove)                   \
    X(METHOD_PLAN_MAKE, plan_make_request, "operator", api_plan_make)                              \
    X(METHOD_PLAN_LIST, plan_list_request, "operator", api_plan_list)                              \
    X(METHOD_PLAN_ACT, plan_act_request, "operator", api_plan_act)                                 \
    X(METHOD_PLAN_WATCH, plan_watch_request, "operator", api_plan_watch)                           \
    X(METHOD_BALANCE, balance_request, "operator", api_plan_balance)                               \
    X(METHOD_WHY, why_request, "operator", api_plan_why)                                           \
    X(METHOD_HA, ha_request, "operator", ha_api_request)                                           \
    X(METHOD_DR, dr_request, "operator", dr_api_request)                                           \
    X(METHOD_AGENT_REPLICAS, agent_replicas, "host", dr_api_on_replicas)                           \
    X(METHOD_AGENT_PROTECT, protect_status, "host", dr_api_on_protect)                             \
    X(METHOD_EVENTS, events_request, "operator", events_request)                                   \
    X(METHOD_AUDIT, audit_request, "operator", audit_list)                                         \
    X(METHOD_DISK_MOVE, disk_move_request, "operator", on_disk_move)                               \
    X(METHOD_STORE_LIST, store_list_request, "operator", store_api_list)                           \
    X(METHOD_STORE_ADD, store_add_request, "operator", store_api_add)                              \
    X(METHOD_STORE_REMOVE, store_remove_request, "operator", store_api_remove)                     \
    X(METHOD_STORE_CHECK, store_check_request, "operator", store_api_check)                        \
    X(METHOD_SNAPSHOT, snapshot_request, "operator", api_snapshot_request)                         \
    X(METHOD_SNAPSHOT_CLONE, snapshot_clone_request, "operator", api_clone_request)                \
    X(METHOD_POOL_BACKUP, backup_request, "operator", backup_request)                              \
    X(METHOD_IMAGE_BEGIN, image_begin_request, "operator", image_api_begin)                        \
    X(METHOD_IMAGE_CHUNK, image_chunk, "operator", image_api_chunk)                                \
    X(METHOD_IMAGE_END, image_end_request, "operator", image_api_end)                              \
    X(METHOD_IMAGE_LIST, image_list_request, "operator", image_api_list)                           \
    X(METHOD_IMAGE_REMOVE, image_remove_request, "operator", image_api_remove)                     \
    X(METHOD_IMAGE_COPY, image_copy_request, "operator", image_api_copy)                           \
    X(METHOD_IMAGE_SEAL, image_seal_request, "operator", image_seal_request)                       \
    X(METHOD_IMAGE_READ, image_read_request, "operator", image_api_read)                           \
    X(METHOD_AGENT_IMAGES, agent_images, "host", image_api_on_images)                              \
    X(METHOD_AGENT_IMAGE_PROGRESS, agent_image_progress, "host", image_api_on_progress)

static bool is_event(uint16_t method)
{
    switch (method) {
    case METHOD_AGENT_HEARTBEAT:
    case METHOD_AGENT_VM_EVENT:
    case METHOD_AGENT_MOVE_EVENT:
    case METHOD_AGENT_FOUND:
    case METHOD_AGENT_SNAPSHOTS:
    case METHOD_AGENT_REPLICAS:
    case METHOD_AGENT_PROTECT:
    case METHOD_AGENT_CONSOLE_OUTPUT:
    case METHOD_VM_CONSOLE_DATA:
    case METHOD_AGENT_IMAGES:
    case METHOD_AGENT_IMAGE_PROGRESS:
        return true;
    default:
        return false;
    }
}

static int judge_peer(const struct peer *peer, uint16_t method, const char *role,
                      struct fault *fault)
{
    const struct pki_identity *identity = rpc_peer(peer->rpc);
    bool is_peer_pool = strcmp(identity->role, "peer") == 0;
    if (is_peer_pool && strcmp(role, "peer") != 0)
        return fault_set(fault, ERR_DENIED, "this is not for a peer pool");
    if (strcmp(role, "*") == 0)
        return 0;
    if (strcmp(identity->role, role) != 0)
        return fault_set(fault, ERR_DENIED, "this takes a certificate of role '%s', shown was %s%s",
                         role, identity->role[0] ? identity->role : "none",
                         identity->role[0] ? "'s" : "");
    if (strcmp(identity->pool, peer->coordinator->pool_id) != 0)
        return fault_set(fault, ERR_DENIED, "the certificate is of pool %s, this is pool %s",
                         identity->pool, peer->coordinator->pool_id);
    if (is_peer_pool && !peer_pool_of(&peer->coordinator->peer_pools, identity))
        return fault_set(fault, ERR_DENIED, "this pool is no peer of that one any more");
    if (strcmp(role, "host") == 0 && method != METHOD_AGENT_HELLO && !peer->host[0])
        return fault_set(fault, ERR_STATE, "the agent of %s has not said hello", identity->name);
    return 0;
}

/* R10: a restored state is read-only, but for the word that a missing host is down. */
static int judge_restored(const struct peer *peer, uint16_t method, const ProtobufCMessage *message,
                          struct fault *fault)
{
    char waits[CLUSTER_REASON_SIZE];
    bool is_fence = method == METHOD_HA && ((const Godwit__HaRequest *)message)->verb ==
                                               GODWIT__HA_VERB__HA_VERB_CONFIRM_DOWN;
    if (!audit_is_change(method, message) || is_fence ||
        !cluster_is_restored(&peer->coordinator->cluster, waits, sizeof waits))
        return 0;
    int r = fault_set(fault, ERR_STATE,
                      "the pool's state was restored from a backup and is read-only until every "
                      "host has answered or is fenced; missing: %.200s",
                      waits[0] ? waits : "none, a moment still");
    fault_hint(fault, "godwit ha status");
    return r;
}

static void dispatch(struct peer *peer, uint16_t method, const char *role,
                     void (*handler)(struct peer *peer, struct rpc_request *request,
                                     const void *message),
                     struct rpc_request *request, const ProtobufCMessage *message)
{
    struct fault fault = {0};
    if (!peer->coordinator->is_active) {
        const char *leader = peer->coordinator->leader;
        fault_set(&fault, ERR_NOT_LEADER, "this coordinator stands by; %s%s",
                  leader[0] ? "the pool is led by " : "nobody leads the pool just now", leader);
        fault_hint(&fault, "%s", leader);
        if (request)
            (void)rpc_reply_fault(request, &fault);
        return;
    }
    if (judge_peer(peer, method, role, &fault) < 0) {
        log_debug("api", "denied method=%u: %s", method, fault.text);
        if (request)
            (void)rpc_reply_fault(request, &fault);
        return;
    }
    if (is_event(method) == (request != NULL)) {
        fault_set(&fault, ERR_INVALID, "method %u is %s", method,
                  request ? "an event, not a call" : "a call, not an event");
        if (request)
            (void)rpc_reply_fault(request, &fault);
        return;
    }
    if (judge_restored(peer, method, message, &fault) < 0) {
        if (request)
            (void)rpc_reply_fault(request, &fault);
        return;
    }
    if (strcmp(role, "operator") == 0)
        audit_request(peer, method, request, message);
    handler(peer, request, message);
}

#define API_HANDLE(id, message_name, role, handler)                                                \
    static void handle_##id(void *data, struct rpc *rpc, struct rpc_request *request,              \
                            const ProtobufCMessage *message)                                       \
    {                                                                                              \
        (void)rpc;                                                                                 \
        dispatch(data, id, role, handler, request, message);                                       \
    }
API_LIST(API_HANDLE)

#define API_ROW(id, message_name, role, handler)                                                   \
    {.method = id, .request = &godwit__##message_name##__descriptor, .handle = handle_##id},
static const struct rpc_method methods[] = {API_LIST(API_ROW)};

static void on_closed(void *data, struct rpc *rpc, const struct fault *fault)
{
    struct peer *peer = data;
    (void)rpc;
    if (peer->host[0])
        log_info("api", "agent went away host=%s: %s", peer->host, fault->text);
    peer_link_lost(peer, fault->text);
    coordinator_peer_gone(peer);
}

const struct rpc_service api_service = {
    .methods = methods, .method_count = ARRAY_COUNT(methods), .on_closed = on_closed};

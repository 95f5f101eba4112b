#include "coordinator/ha_api.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/own.h"
#include "coordinator/admission.h"
#include "coordinator/cluster_ha.h"
#include "coordinator/cluster_view.h"
#include "coordinator/words.h"

/* protobuf-c knows no const; nobody writes through these. */
static char *text_of(const char *text)
{
    return (char *)(uintptr_t)text;
}

struct status { /* a HaStatus and what it points to */
    Godwit__HaStatus message;
    Godwit__HaHost *hosts, **host_list;
    Godwit__HaVm *vms, **vm_list;
    char (*classes)[8];
    char lacks[PROBLEM_HINT_SIZE];
};

static void status_deinit(struct status *status)
{
    free(status->hosts);
    free(status->host_list);
    free(status->vms);
    free(status->vm_list);
    free(status->classes);
}

static void fill_host(const struct cluster *cluster, const struct cluster_host *host,
                      Godwit__HaHost *info, char classes[static 8])
{
    godwit__ha_host__init(info);
    cluster_ha_classes(cluster, host, classes, 8);
    info->host = text_of(host->name);
    info->state = text_of(ha_phase_name(host->ha.phase));
    info->classes = classes;
    info->agent = host->fence_agent[0] ? text_of(host->fence_agent) : NULL;
    bool is_fenced = host->ha.phase == HA_FENCED || host->ha.phase == HA_QUARANTINE;
    info->fenced_by = is_fenced ? text_of(ha_class_name(host->ha.fenced_by)) : NULL;
    info->has_protected_vms = true;
    for (size_t i = 0; i < cluster->vm_count; i++) {
        const struct cluster_vm *vm = cluster->vms[i];
        info->protected_vms += cluster_ha_protects(vm) && vm->own.phase != OWN_STOPPED &&
                               strcmp(vm->own.owner, host->name) == 0;
    }
}

static const char *vm_state(const struct cluster_vm *vm)
{
    if (own_is_lost(&vm->own))
        return "recovering";
    if (vm->own.phase == OWN_STARTING)
        return "starting";
    return vm->own.phase == OWN_STOPPED ? "stopped" : "protected";
}

static void fill_vm(const struct cluster_vm *vm, Godwit__HaVm *info)
{
    godwit__ha_vm__init(info);
    info->vm = vm->spec->name;
    info->has_priority = info->has_tries = true;
    info->priority = cluster_ha_priority(vm);
    info->tries = vm->ha_tries;
    info->state = text_of(vm_state(vm));
    info->host = vm->own.owner[0] ? text_of(vm->own.owner) : NULL;
    info->reason = vm->reason[0] ? text_of(vm->reason) : NULL;
}

static void fill_status(struct cluster *cluster, struct cluster_now now,
                        struct status *status)
{
    Godwit__HaStatus *message = &status->message;
    godwit__ha_status__init(message);
    status->hosts = calloc(cluster->host_count + 1, sizeof *status->hosts);
    status->host_list = calloc(cluster->host_count + 1, sizeof *status->host_list);
    status->classes = calloc(cluster->host_count + 1, sizeof *status->classes);
    status->vms = calloc(cluster->vm_count + 1, sizeof *status->vms);
    status->vm_list = calloc(cluster->vm_count + 1, sizeof *status->vm_list);
    assert(status->hosts && status->host_list && status->classes && status->vms &&
           status->vm_list); /* control memory is small; without it there is no telling */
    message->has_armed = message->has_reserve = message->has_reserve_holds = true;
    message->armed = cluster_ha_is_armed(cluster, now.unix_ms);
    message->has_rearm_unix_ms = !message->armed;
    if (!message->armed)
        message->rearm_unix_ms = strtoull(cluster->settings[SETTING_HA_DISARMED].value, NULL, 10);
    message->reserve = cluster_ha_reserve(cluster);
    message->reserve_holds = admission_holds(cluster, now, status->lacks, sizeof status->lacks);
    message->reserve_lacks = status->lacks[0] ? status->lacks : NULL;
    for (size_t i = 0; i < cluster->host_count; i++) {
        fill_host(cluster, cluster->hosts[i], &status->hosts[i], status->classes[i]);
        status->host_list[i] = &status->hosts[i];
    }
    for (size_t i = 0; i < cluster->vm_count; i++) {
        if (!cluster_ha_protects(cluster->vms[i]))
            continue;
        fill_vm(cluster->vms[i], &status->vms[message->n_vms]);
        status->vm_list[message->n_vms] = &status->vms[message->n_vms];
        message->n_vms++;
    }
    message->n_hosts = cluster->host_count;
    message->hosts = status->host_list;
    message->vms = status->vm_list;
}

struct waiting { /* between a decision and its durability */
    struct coordinator *coordinator;
    struct rpc_request *request;
};

static void reply_status(void *data)
{
    struct waiting *waiting = data;
    struct status status = {0};
    Godwit__HaReply reply = GODWIT__HA_REPLY__INIT;
    fill_status(&waiting->coordinator->cluster, coordinator_now(), &status);
    reply.status = &status.message;
    (void)rpc_reply(waiting->request, &reply.base);
    status_deinit(&status);
    free(waiting);
}

static void reply_problem(struct rpc_request *request, struct problem *problem)
{
    Godwit__HaReply reply = GODWIT__HA_REPLY__INIT;
    Godwit__OperatorError error;
    char *details[PROBLEM_DETAILS_MAX];
    problem_to_message(problem, &error, details);
    reply.error = &error;
    (void)rpc_reply(request, &reply.base);
}

static const char *word(const char *text)
{
    return text ? text : "";
}

static int carry_out(struct cluster *cluster, const Godwit__HaRequest *wanted,
                     struct cluster_now now, struct problem *problem, struct cluster_todo *todo)
{
    switch (wanted->verb) {
    case GODWIT__HA_VERB__HA_VERB_STATUS:
        return 0;
    case GODWIT__HA_VERB__HA_VERB_ADD:
    case GODWIT__HA_VERB__HA_VERB_RM:
        return cluster_ha_protect(
            cluster, word(wanted->vm), wanted->verb == GODWIT__HA_VERB__HA_VERB_ADD,
            wanted->has_priority ? wanted->priority : HA_PRIORITY_DEFAULT, now, problem, todo);
    case GODWIT__HA_VERB__HA_VERB_ARM:
    case GODWIT__HA_VERB__HA_VERB_DISARM:
        return cluster_ha_arm(cluster, wanted->verb == GODWIT__HA_VERB__HA_VERB_ARM, wanted->for_s,
                              now, problem, todo);
    case GODWIT__HA_VERB__HA_VERB_FENCE_AGENT:
        return cluster_ha_set_fence(cluster, word(wanted->host), word(wanted->agent),
                                    word(wanted->options), problem, todo);
    case GODWIT__HA_VERB__HA_VERB_CONFIRM_DOWN:
        return cluster_ha_confirm_down(cluster, word(wanted->host), word(wanted->confirm), now,
                                       problem, todo);
    case GODWIT__HA_VERB__HA_VERB_RESERVE:
        return cluster_ha_set_reserve(cluster, wanted->reserve, problem, todo);
    case _GODWIT__HA_VERB_IS_INT_SIZE:
    default: /* a number from the wire */
        return problem_set(problem, GW_USAGE, "nothing known can be asked of HA by verb %d",
                           (int)wanted->verb);
    }
}

void ha_api_request(struct peer *peer, struct rpc_request *request, const void *message)
{
    struct coordinator *coordinator = peer->coordinator;
    const Godwit__HaRequest *wanted = message;
    struct cluster_todo todo = {0};
    struct problem problem = {0};
    if (carry_out(&coordinator->cluster, wanted, coordinator_now(), &problem, &todo) != 0) {
        reply_problem(request, &problem);
        coordinator_apply(coordinator, &todo, NULL, NULL, NULL);
        return;
    }
    if (wanted->verb != GODWIT__HA_VERB__HA_VERB_STATUS)
        log_info("ha_api", "verb=%d host=%s vm=%s by=%s", (int)wanted->verb, word(wanted->host),
                 word(wanted->vm), rpc_peer(peer->rpc)->name);
    struct waiting *waiting = calloc(1, sizeof *waiting);
    assert(waiting);
    waiting->coordinator = coordinator;
    waiting->request = request;
    coordinator_apply(coordinator, &todo, NULL, reply_status, waiting);
}

#include "coordinator/dr_api.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/own.h"
#include "coordinator/api.h"
#include "coordinator/dr.h"
#include "coordinator/dr_ask.h"
#include "coordinator/dr_tell.h"
#include "coordinator/peer_dr.h"
#include "coordinator/peer_link.h"
#include "coordinator/peer_pool.h"
#include "coordinator/words.h"

struct waiting { /* between a decision and its durability */
    struct coordinator *coordinator;
    struct rpc_request *request;
    char vm_id[ID_TEXT_SIZE]; /* "": all, or of the group */
    char group[OWN_HOST_SIZE];
};

static int by_group_and_order(const void *a, const void *b)
{
    const Godwit__DrInfo *x = *(Godwit__DrInfo *const *)a, *y = *(Godwit__DrInfo *const *)b;
    int r = strcmp(x->group, y->group);
    if (r == 0)
        r = x->order < y->order ? -1 : x->order > y->order;
    return r ? r : strcmp(x->vm, y->vm);
}

static void reply_status(void *data)
{
    struct waiting *waiting = data;
    const struct cluster *cluster = &waiting->coordinator->cluster;
    struct cluster_now now = coordinator_now();
    AUTO_FREE struct dr_message *messages = calloc(cluster->dr_count + 1, sizeof *messages);
    AUTO_FREE Godwit__DrInfo **list = calloc(cluster->dr_count + 1, sizeof *list);
    Godwit__DrReply reply = GODWIT__DR_REPLY__INIT;
    assert(messages && list); /* control memory is small; without it there is no telling */
    for (size_t i = 0; i < cluster->dr_count; i++) {
        const struct cluster_dr *dr = cluster->drs[i];
        if ((waiting->vm_id[0] && strcmp(dr->info->vm_id, waiting->vm_id) != 0) ||
            (waiting->group[0] && strcmp(dr->info->group, waiting->group) != 0))
            continue;
        dr_tell(cluster, dr, now, &messages[reply.n_vms]);
        list[reply.n_vms] = &messages[reply.n_vms].info;
        reply.n_vms++;
    }
    qsort(list, reply.n_vms, sizeof *list, by_group_and_order);
    reply.vms = list;
    (void)rpc_reply(waiting->request, &reply.base);
    free(waiting);
}

static void reply_problem(struct rpc_request *request, struct problem *problem)
{
    Godwit__DrReply reply = GODWIT__DR_REPLY__INIT;
    Godwit__OperatorError error;
    char *details[PROBLEM_DETAILS_MAX];
    problem_to_message(problem, &error, details);
    reply.error = &error;
    (void)rpc_reply(request, &reply.base);
}

/* `to`: a host, or a peer pool? -1: it could be either, or neither. */
static int find_peer(struct coordinator *coordinator, const char *to, struct peer_pool **ret_pool,
                     struct problem *problem)
{
    bool is_marked = strncmp(to, "pool:", 5) == 0;
    if (is_marked) {
        *ret_pool = peer_pool_find(&coordinator->peer_pools, to + 5, problem);
        return *ret_pool ? 0 : -1;
    }
    /* By its whole name only: a mistyped host is not the beginning of a peer's id. */
    for (struct peer_pool *pool = coordinator->peer_pools.first; pool; pool = pool->next) {
        if (!peer_pool_is_peer(pool) || strcmp(pool->info->name, to) != 0)
            continue;
        *ret_pool = peer_pool_find(&coordinator->peer_pools, to, problem);
        if (!*ret_pool)
            return -1; /* two are called so */
    }
    if (*ret_pool && cluster_host(&coordinator->cluster, to)) {
        (void)problem_set(problem, GW_AMBIGUOUS, "%.60s is a host here and a peer pool", to);
        problem_hint(problem, "--to pool:%.60s is the pool", to);
        return -1;
    }
    return 0;
}

static int ask(struct coordinator *coordinator, const Godwit__DrRequest *wanted,
               struct problem *problem, struct cluster_todo *todo)
{
    struct cluster_now now = coordinator_now();
    struct peer_pool *pool = NULL;
    peer_dr_look(coordinator);
    bool is_protect = wanted->verb == GODWIT__DR_VERB__DR_VERB_PROTECT && wanted->to;
    if (is_protect && find_peer(coordinator, wanted->to, &pool, problem) != 0)
        return -1;
    if (!pool)
        return dr_ask(&coordinator->cluster, wanted, now, problem, todo);
    const struct dr_ask_peer peer = {.pool_id = pool->info->pool_id,
                                     .name = pool->info->name,
                                     .is_linked = peer_pool_is_linked(pool, now.ns) &&
                                                  peer_link_rpc(coordinator, pool)};
    return dr_ask_protect_there(&coordinator->cluster, wanted, &peer, now, problem, todo);
}

static void act(struct coordinator *coordinator, struct rpc_request *request, const void *message)
{
    const Godwit__DrRequest *wanted = message;
    struct cluster_todo todo = {0};
    struct problem problem = {0};
    if (ask(coordinator, wanted, &problem, &todo) != 0) {
        reply_problem(request, &problem);
        coordinator_apply(coordinator, &todo, NULL, NULL, NULL);
        return;
    }
    if (wanted->verb != GODWIT__DR_VERB__DR_VERB_STATUS)
        log_info("dr_api", "verb=%d vm=%s group=%s", (int)wanted->verb, wanted->vm ? wanted->vm : "",
                 wanted->group ? wanted->group : ""); /* who asked: the audit knows */
    struct waiting *waiting = calloc(1, sizeof *waiting);
    assert(waiting);
    waiting->coordinator = coordinator;
    waiting->request = request;
    const struct cluster_vm *vm = wanted->vm && wanted->vm[0]
                                      ? cluster_find_vm(&coordinator->cluster, wanted->vm, &problem)
                                      : NULL;
    WORDS_COPY(waiting->vm_id, vm ? vm->id : "");
    WORDS_COPY(waiting->group, !vm && wanted->group ? wanted->group : "");
    coordinator_apply(coordinator, &todo, NULL, reply_status, waiting);
}

/* Disks come to lie somewhere by it: is there room for them now? A failover waits for no store. */
static bool lands(const Godwit__DrRequest *wanted)
{
    return wanted->verb == GODWIT__DR_VERB__DR_VERB_PROTECT ||
           wanted->verb == GODWIT__DR_VERB__DR_VERB_FAILBACK ||
           wanted->verb == GODWIT__DR_VERB__DR_VERB_TEST ||
           wanted->verb == GODWIT__DR_VERB__DR_VERB_DRILL_NOW;
}

void dr_api_request(struct peer *peer, struct rpc_request *request, const void *message)
{
    if (lands(message))
        api_look_first(peer->coordinator, request, message, act);
    else
        act(peer->coordinator, request, message);
}

void dr_api_on_replicas(struct peer *peer, struct rpc_request *request, const void *message)
{
    struct cluster *cluster = &peer->coordinator->cluster;
    struct cluster_todo todo = {0};
    (void)request;
    dr_replicas_told(cluster, cluster_host(cluster, peer->host), message, coordinator_now(), &todo);
    coordinator_apply(peer->coordinator, &todo, NULL, NULL, NULL);
}

void dr_api_on_protect(struct peer *peer, struct rpc_request *request, const void *message)
{
    struct cluster *cluster = &peer->coordinator->cluster;
    struct cluster_todo todo = {0};
    (void)request;
    dr_protect_told(cluster, cluster_host(cluster, peer->host), message, coordinator_now(), &todo);
    coordinator_apply(peer->coordinator, &todo, NULL, NULL, NULL);
}

#include "coordinator/store_api.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/log.h"
#include "base/own.h"
#include "coordinator/api.h"
#include "coordinator/pool_store.h"
#include "coordinator/store_look.h"
#include "coordinator/words.h"

struct asked { /* a request that waits for hosts, or for the disk */
    struct coordinator *coordinator;
    struct rpc_request *request;
    char name[OWN_HOST_SIZE]; /* of the one store; "" for all */
    /* add, check: what hosts are asked about */
    Godwit__PoolStore *draft;           /* owned */
    struct cluster_store_place *places; /* owned */
};

static struct asked *asked_new(struct coordinator *coordinator, struct rpc_request *request,
                               const char *name)
{
    struct asked *asked = calloc(1, sizeof *asked);
    assert(asked); /* control memory is small; without it there is no deciding */
    asked->coordinator = coordinator;
    asked->request = request;
    WORDS_COPY(asked->name, name);
    return asked;
}

static void asked_free(struct asked *asked)
{
    if (asked->draft)
        godwit__pool_store__free_unpacked(asked->draft, NULL);
    free(asked->places);
    free(asked);
}

static void reply_store(struct coordinator *coordinator, struct rpc_request *request,
                        const struct cluster_store *store, struct problem *problem)
{
    Godwit__StoreReply reply = GODWIT__STORE_REPLY__INIT;
    Godwit__OperatorError error;
    char *details[PROBLEM_DETAILS_MAX];
    struct pool_store_message message = {0};
    if (problem) {
        problem_to_message(problem, &error, details);
        reply.error = &error;
    } else if (store) {
        pool_store_tell(&coordinator->cluster, store, &message);
        reply.store = &message.store;
    }
    (void)rpc_reply(request, &reply.base);
    pool_store_message_deinit(&message);
}

/* ---- ls, show ---------------------------------------------------------------------------------
 */

static int by_name(const void *a, const void *b)
{
    return strcmp((*(Godwit__PoolStore *const *)a)->name, (*(Godwit__PoolStore *const *)b)->name);
}

static void reply_list(void *data)
{
    struct asked *asked = data;
    const struct cluster *cluster = &asked->coordinator->cluster;
    size_t count = 0;
    AUTO_FREE struct pool_store_message *messages =
        calloc(cluster->store_count + 1, sizeof *messages);
    AUTO_FREE Godwit__PoolStore **list = calloc(cluster->store_count + 1, sizeof *list);
    assert(messages && list);
    for (size_t i = 0; i < cluster->store_count; i++) {
        if (asked->name[0] && strcmp(cluster->stores[i]->store->name, asked->name) != 0)
            continue;
        pool_store_tell(cluster, cluster->stores[i], &messages[count]);
        list[count] = &messages[count].store;
        count++;
    }
    qsort(list, count, sizeof *list, by_name);
    Godwit__StoreList reply = GODWIT__STORE_LIST__INIT;
    reply.stores = list;
    reply.n_stores = count;
    (void)rpc_reply(asked->request, &reply.base);
    for (size_t i = 0; i < count; i++)
        pool_store_message_deinit(&messages[i]);
    asked_free(asked);
}

void store_api_list(struct peer *peer, struct rpc_request *request, const void *message)
{
    const Godwit__StoreListRequest *wanted = message;
    struct coordinator *coordinator = peer->coordinator;
    const struct cluster_store *only = NULL;
    struct problem problem;
    if (wanted->store && wanted->store[0]) {
        only = pool_store_find(&coordinator->cluster, wanted->store, &problem);
        if (!only) {
            api_reply_problem_as_fault(request, &problem, ERR_NOT_FOUND);
            return;
        }
    }
    struct asked *asked = asked_new(coordinator, request, only ? only->store->name : "");
    if (!store_look(coordinator, only, reply_list, asked))
        reply_list(asked);
}

/* ---- add --------------------------------------------------------------------------------------
 */

static void reply_named(void *data)
{
    struct asked *asked = data;
    reply_store(asked->coordinator, asked->request,
                pool_store_find(&asked->coordinator->cluster, asked->name, NULL), NULL);
    asked_free(asked);
}

/* Nothing is stored unless every host has it. */
static int judge_places(const struct asked *asked, struct problem *problem)
{
    unsigned bad = 0;
    for (size_t i = 0; i < asked->draft->n_hosts; i++) {
        const struct cluster_store_place *place = &asked->places[i];
        if (strcmp(place->state, "ok") == 0)
            continue;
        if (bad++ == 0)
            (void)problem_set(problem, GW_STORE_UNSEEN, "%s: %.300s", place->host, place->reason);
        else
            problem_detail(problem, "%s: %.120s", place->host, place->reason);
    }
    if (bad > 0 && asked->draft->n_hosts > 1)
        problem_hint(problem, "without --shared each host may have a folder of its own");
    return bad > 0 ? -1 : 0;
}

static void on_added(void *data)
{
    struct asked *asked = data;
    struct coordinator *coordinator = asked->coordinator;
    struct cluster_todo todo = {0};
    struct cluster_store *store = NULL;
    struct problem problem;
    if (judge_places(asked, &problem) != 0 ||
        pool_store_add(&coordinator->cluster, TAKE(asked->draft), coordinator_now(), &store,
                       &problem, &todo) != 0) {
        reply_store(coordinator, asked->request, NULL, &problem);
        cluster_todo_deinit(&todo);
        asked_free(asked);
        return;
    }
    free(store->places);
    store->places = TAKE(asked->places); /* as many: they were made for this draft */
    coordinator_apply(coordinator, &todo, NULL, reply_named, asked);
}

void store_api_add(struct peer *peer, struct rpc_request *request, const void *message)
{
    const Godwit__StoreAddRequest *wanted = message;
    struct coordinator *coordinator = peer->coordinator;
    Godwit__PoolStore *draft = NULL;
    struct problem problem;
    if (pool_store_draft(&coordinator->cluster, wanted->store, coordinator_now(), &draft,
                         &problem) != 0) {
        reply_store(coordinator, request, NULL, &problem);
        return;
    }
    struct asked *asked = asked_new(coordinator, request, draft->name);
    asked->draft = draft;
    asked->places = calloc(draft->n_hosts + 1, sizeof *asked->places);
    assert(asked->places);
    for (size_t i = 0; i < draft->n_hosts; i++)
        WORDS_COPY(asked->places[i].host, draft->hosts[i]);
    store_look_check(coordinator, draft, asked->places, on_added, asked);
}

/* ---- rm ---------------------------------------------------------------------------------------
 */

static void reply_removed(void *data)
{
    struct asked *asked = data;
    Godwit__StoreReply reply = GODWIT__STORE_REPLY__INIT;
    (void)rpc_reply(asked->request, &reply.base);
    asked_free(asked);
}

void store_api_remove(struct peer *peer, struct rpc_request *request, const void *message)
{
    const Godwit__StoreRemoveRequest *wanted = message;
    struct coordinator *coordinator = peer->coordinator;
    struct cluster_todo todo = {0};
    struct problem problem;
    if (pool_store_remove(&coordinator->cluster, wanted->store ? wanted->store : "", &problem,
                          &todo) != 0) {
        reply_store(coordinator, request, NULL, &problem);
        cluster_todo_deinit(&todo);
        return;
    }
    coordinator_apply(coordinator, &todo, NULL, reply_removed,
                      asked_new(coordinator, request, wanted->store));
}

/* ---- check ------------------------------------------------------------------------------------
 */

/* What was proven stays with the store; then its disks are measured too, and all of it is told. */
static void on_checked(void *data)
{
    struct asked *asked = data;
    struct cluster_store *store =
        pool_store_find(&asked->coordinator->cluster, asked->name, NULL);
    Godwit__StoreReply reply = GODWIT__STORE_REPLY__INIT;
    if (!store) {
        (void)rpc_reply(asked->request, &reply.base);
        asked_free(asked);
        return;
    }
    for (size_t i = 0; i < asked->draft->n_hosts; i++) {
        struct cluster_store_place *place = pool_store_place(store, asked->places[i].host);
        if (!place)
            continue; /* it was forgotten and added anew meanwhile */
        struct cluster_store_place was = *place;
        *place = asked->places[i];
        place->reserved_bytes = was.reserved_bytes;
        place->growth_bytes = was.growth_bytes;
        place->disks = was.disks;
        if (!place->seen_ns) {
            place->total_bytes = was.total_bytes;
            place->free_bytes = was.free_bytes;
        }
    }
    reply_named(asked);
}

static void on_measured(void *data)
{
    struct asked *asked = data;
    struct coordinator *coordinator = asked->coordinator;
    store_look_check(coordinator, asked->draft, asked->places, on_checked, asked);
}

void store_api_check(struct peer *peer, struct rpc_request *request, const void *message)
{
    const Godwit__StoreCheckRequest *wanted = message;
    struct coordinator *coordinator = peer->coordinator;
    struct problem problem;
    struct cluster_store *store =
        pool_store_find(&coordinator->cluster, wanted->store ? wanted->store : "", &problem);
    if (!store) {
        reply_store(coordinator, request, NULL, &problem);
        return;
    }
    struct asked *asked = asked_new(coordinator, request, store->store->name);
    asked->draft = cluster_message_copy(&store->store->base);
    asked->places = calloc(store->store->n_hosts + 1, sizeof *asked->places);
    assert(asked->draft && asked->places);
    for (size_t i = 0; i < store->store->n_hosts; i++)
        WORDS_COPY(asked->places[i].host, store->store->hosts[i]);
    bool is_asked = store_look(coordinator, store, on_measured, asked);
    assert(is_asked); /* there is this store */
    (void)is_asked;
}

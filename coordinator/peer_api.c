#include "coordinator/peer_api.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/own.h"
#include "base/world.h"
#include "coordinator/api.h"
#include "coordinator/peer_dr.h"
#include "coordinator/peer_link.h"
#include "coordinator/peer_pool.h"
#include "coordinator/store.h"
#include "coordinator/words.h"
#include "proto/method.h"
#include "proto/token.h"

enum { JOIN_MS_MAX = 10000 };

static struct store_batch *new_batch(void)
{
    struct store_batch *batch = NULL;
    int r = store_batch_new(&batch, NULL);
    assert(r == 0); /* control memory is small; without it there is no deciding */
    (void)r;
    return batch;
}

static void reply_problem(struct rpc_request *request, struct problem *problem)
{
    Godwit__OperatorError error;
    char *details[PROBLEM_DETAILS_MAX];
    Godwit__PeerReply reply = GODWIT__PEER_REPLY__INIT;
    problem_to_message(problem, &error, details);
    reply.error = &error;
    (void)rpc_reply(request, &reply.base);
}

/* ---- ls ---------------------------------------------------------------------------------------
 */

enum { ROWS_MAX = PEER_POOLS_MAX + PEER_INVITATIONS_MAX };

/* `only`: of one pool's id; "": all, invitations after them. */
static void reply_peers(struct coordinator *coordinator, struct rpc_request *request,
                        const char *only)
{
    Godwit__PeerInfo infos[ROWS_MAX], *list[ROWS_MAX];
    char pins[PEER_POOLS_MAX][PKI_PIN_SIZE];
    Godwit__PeerReply reply = GODWIT__PEER_REPLY__INIT;
    struct cluster_now now = coordinator_now();
    for (struct peer_pool *pool = coordinator->peer_pools.first; pool; pool = pool->next) {
        size_t n = reply.n_peers;
        if (!peer_pool_is_peer(pool) || n == PEER_POOLS_MAX ||
            (only[0] && strcmp(pool->info->pool_id, only) != 0))
            continue;
        peer_pool_tell(pool, now.ns, &infos[n], pins[n]);
        list[n] = &infos[n];
        reply.n_peers++;
    }
    for (struct peer_pool *pool = coordinator->peer_pools.first; pool && !only[0];
         pool = pool->next) {
        size_t n = reply.n_peers;
        if (peer_pool_is_peer(pool) || n == ROWS_MAX)
            continue;
        peer_pool_tell_invitation(pool, now.unix_ms, &infos[n]);
        list[n] = &infos[n];
        reply.n_peers++;
    }
    reply.peers = list;
    (void)rpc_reply(request, &reply.base);
}

/* ---- invite -----------------------------------------------------------------------------------
 */

struct invitation { /* between the order and its durability */
    struct rpc_request *request;
    char *text;
    uint64_t expires_unix_ms;
};

static void on_invited(void *data)
{
    struct invitation *invitation = data;
    Godwit__TokenCreated created = GODWIT__TOKEN_CREATED__INIT;
    Godwit__PeerReply reply = GODWIT__PEER_REPLY__INIT;
    created.token = invitation->text;
    created.has_expires_unix_ms = true;
    created.expires_unix_ms = invitation->expires_unix_ms;
    reply.token = &created;
    (void)rpc_reply(invitation->request, &reply.base);
    explicit_bzero(invitation->text, strlen(invitation->text));
    free(invitation->text);
    free(invitation);
}

static int make_text(const struct coordinator *coordinator, char *id, uint8_t *secret,
                     char **ret_text, struct problem *problem)
{
    Godwit__JoinToken token = GODWIT__JOIN_TOKEN__INIT;
    struct fault fault = {0};
    token.address = coordinator->address;
    token.pin = (char *)(uintptr_t)coordinator->pin; /* protobuf-c knows no const */
    token.id = id;
    token.has_secret = true;
    token.secret = (ProtobufCBinaryData){.data = secret, .len = TOKEN_SECRET_BYTES};
    token.pool_id = coordinator->pool_id;
    token.pool = coordinator->name;
    return token_encode(&token, ret_text, &fault) < 0
               ? problem_set(problem, GW_INTERNAL, "%.300s", fault.text)
               : 0;
}

static void invite(struct coordinator *coordinator, struct rpc_request *request,
                   const Godwit__PeerRequest *wanted)
{
    uint8_t secret[TOKEN_SECRET_BYTES];
    char chance[ID_TEXT_SIZE], id[PEER_ID_SIZE], *text = NULL;
    struct problem problem;
    struct store_batch *batch = new_batch();
    struct cluster_todo todo = {0};
    world_random(secret, sizeof secret);
    id_random(chance);
    (void)snprintf(id, sizeof id, "%.16s", chance);
    struct peer_pool *pool = NULL;
    if (make_text(coordinator, id, secret, &text, &problem) == 0)
        pool = peer_pool_invite(&coordinator->peer_pools, wanted->ttl_s,
                                coordinator_now().unix_ms, id, secret, sizeof secret, batch,
                                &problem);
    explicit_bzero(secret, sizeof secret);
    struct invitation *invitation = pool ? calloc(1, sizeof *invitation) : NULL;
    if (!pool) {
        free(text);
        reply_problem(request, &problem);
        coordinator_apply(coordinator, &todo, batch, NULL, NULL); /* what was dropped */
        return;
    }
    assert(invitation);
    *invitation = (struct invitation){
        .request = request, .text = text, .expires_unix_ms = pool->info->expires_unix_ms};
    cluster_todo_event(&todo, "", "an invitation for a peer pool was made: %s", id);
    coordinator_apply(coordinator, &todo, batch, on_invited, invitation);
}

/* ---- letting a pool in ------------------------------------------------------------------------
 */

struct letting_in {
    struct coordinator *coordinator;
    struct rpc_request *request;
    char *certificate;
};

static void on_let_in(void *data)
{
    struct letting_in *letting_in = data;
    const struct coordinator *coordinator = letting_in->coordinator;
    Godwit__PeerJoined reply = GODWIT__PEER_JOINED__INIT;
    reply.pool_id = coordinator->pool_id;
    reply.name = coordinator->name;
    reply.address = coordinator->address;
    reply.ca_certificate = coordinator->ca_certificate;
    reply.certificate = letting_in->certificate;
    (void)rpc_reply(letting_in->request, &reply.base);
    free(letting_in->certificate);
    free(letting_in);
}

void peer_api_join(struct peer *peer, struct rpc_request *request, const void *message)
{
    struct coordinator *coordinator = peer->coordinator;
    const Godwit__PeerJoin *join = message;
    uint64_t now_unix_ms = coordinator_now().unix_ms;
    struct problem problem = {0};
    struct fault fault = {0};
    char *certificate = NULL;
    struct peer_pool *pool = peer_pool_judge_join(&coordinator->peer_pools, coordinator->pool_id,
                                                  join, now_unix_ms, &problem);
    if (!pool) {
        log_warn("peer_api", "refused address=%s: %s", rpc_peer_address(peer->rpc), problem.text);
        api_reply_problem_as_fault(request, &problem,
                                   problem.code == GW_PEER_KNOWN ? ERR_EXISTS : ERR_DENIED);
        return;
    }
    struct pki_identity identity = {.role = "peer"};
    WORDS_COPY(identity.pool, coordinator->pool_id);
    WORDS_COPY(identity.name, pool->info->id);
    /* Signed before the token is used up: a bad request does not cost the token. */
    if (pki_sign(coordinator->ca_certificate, coordinator->ca_key, join->certificate_request,
                 &identity, PEER_CERTIFICATE_DAYS, &certificate, &fault) < 0) {
        (void)rpc_reply_fault(request, &fault);
        return;
    }
    struct letting_in *letting_in = calloc(1, sizeof *letting_in);
    assert(letting_in);
    *letting_in = (struct letting_in){
        .coordinator = coordinator, .request = request, .certificate = certificate};
    struct store_batch *batch = new_batch();
    struct cluster_todo todo = {0};
    peer_pool_joined(pool, join, now_unix_ms, batch);
    log_info("peer_api", "a pool becomes a peer peer=%s id=%s address=%s", join->name,
             join->pool_id, rpc_peer_address(peer->rpc));
    cluster_todo_event(&todo, "", "pool %s (%.8s) is a peer now, by invitation %s", join->name,
                       join->pool_id, pool->info->id);
    coordinator_apply(coordinator, &todo, batch, on_let_in, letting_in);
}

/* ---- add --------------------------------------------------------------------------------------
 */

struct adding { /* an invitation that is being taken up */
    struct adding *next;
    struct coordinator *coordinator;
    struct rpc_request *request;
    Godwit__JoinToken *token;
    char *key, *certificate_request; /* owned */
    struct tls_context *tls;
    struct rpc *rpc;
    size_t next_address;
    char address[ADDRESS_SIZE];
    struct problem problem; /* of the last address that was tried */
    char pool_id[PKI_NAME_MAX];
};

static void adding_free(struct adding *adding)
{
    struct adding **at = &adding->coordinator->peer_addings;
    while (*at != adding)
        at = &(*at)->next;
    *at = adding->next;
    (void)rpc_close(adding->rpc);
    (void)tls_context_free(adding->tls);
    if (adding->token)
        godwit__join_token__free_unpacked(adding->token, NULL);
    if (adding->key)
        explicit_bzero(adding->key, strlen(adding->key));
    free(adding->key);
    free(adding->certificate_request);
    free(adding);
}

static void give_up(struct adding *adding)
{
    reply_problem(adding->request, &adding->problem);
    adding_free(adding);
}

static void try_next(struct adding *adding);

/* Another address may do better where this one does not lead, or is not there. */
static void fail(struct adding *adding, const struct fault *fault)
{
    int code = fault->code;
    (void)problem_set(&adding->problem, GW_PEER_FAILED, "pool %.63s at %.100s: %.300s",
                      adding->token->pool, adding->address, fault->text);
    if (fault->hint[0] && code != ERR_NOT_LEADER)
        problem_hint(&adding->problem, "there: %.100s", fault->hint);
    adding->rpc = rpc_close(adding->rpc);
    if (code == ERR_NOT_LEADER || code == ERR_UNREACHABLE || code == ERR_TIMEOUT ||
        code == ERR_CLOSED)
        try_next(adding);
    else
        give_up(adding);
}

static void on_adding_closed(void *data, struct rpc *rpc, const struct fault *fault)
{
    struct fault none = {.code = ERR_CLOSED, .text = "it ended the connection"};
    (void)rpc;
    fail(data, fault ? fault : &none);
}

static const struct rpc_service adding_service = {.on_closed = on_adding_closed};

static void on_added(void *data)
{
    struct adding *adding = data;
    reply_peers(adding->coordinator, adding->request, adding->pool_id);
    adding_free(adding);
}

static void on_joined(void *data, const ProtobufCMessage *message, const struct fault *fault)
{
    struct adding *adding = data;
    struct coordinator *coordinator = adding->coordinator;
    const Godwit__PeerJoined *joined = (const Godwit__PeerJoined *)message;
    if (!joined) {
        fail(adding, fault);
        return;
    }
    /* Judged anew: another command may have added it meanwhile. */
    if (peer_pool_judge_token(&coordinator->peer_pools, coordinator->pool_id, adding->token,
                              &adding->problem) != 0 ||
        peer_pool_judge_joined(adding->token, joined, &adding->problem) != 0) {
        give_up(adding);
        return;
    }
    char secret[PKI_PIN_SIZE];
    AUTO_FREE char *locked = NULL;
    struct fault words = {0};
    peer_link_secret(coordinator, secret);
    int r = pki_lock_key(adding->key, secret, &locked, &words);
    explicit_bzero(secret, sizeof secret);
    if (r < 0) {
        fail(adding, &words);
        return;
    }
    struct store_batch *batch = new_batch();
    struct cluster_todo todo = {0};
    (void)peer_pool_add(&coordinator->peer_pools, adding->token, joined, locked,
                        coordinator_now().unix_ms, batch);
    WORDS_COPY(adding->pool_id, joined->pool_id);
    adding->rpc = rpc_close(adding->rpc); /* its end means nothing any more */
    cluster_todo_event(&todo, "", "pool %s (%.8s) is a peer now, by its invitation %s",
                       joined->name, joined->pool_id, adding->token->id);
    coordinator_apply(coordinator, &todo, batch, on_added, adding);
}

static void on_adding_opened(void *data, struct rpc *rpc, const struct fault *fault)
{
    struct adding *adding = data;
    struct coordinator *coordinator = adding->coordinator;
    struct fault words = {0};
    Godwit__PeerJoin join = GODWIT__PEER_JOIN__INIT;
    if (fault) {
        fail(adding, fault);
        return;
    }
    join.token_id = adding->token->id;
    join.has_secret = true;
    join.secret = adding->token->secret;
    join.pool_id = coordinator->pool_id;
    join.name = coordinator->name;
    join.address = coordinator->address;
    join.ca_certificate = coordinator->ca_certificate;
    join.certificate_request = adding->certificate_request;
    if (rpc_call(rpc, METHOD_PEER_JOIN, &join.base, &godwit__peer_joined__descriptor, JOIN_MS_MAX,
                 on_joined, adding, &words) < 0)
        fail(adding, &words);
}

static void try_next(struct adding *adding)
{
    struct fault fault = {0};
    if (!address_list_get(adding->token->address, adding->next_address++, adding->address,
                          sizeof adding->address)) {
        give_up(adding);
        return;
    }
    if (rpc_connect(&adding->rpc, adding->coordinator->loop, adding->address, adding->tls,
                    "coordinator", &adding_service, adding, on_adding_opened, &fault) < 0)
        fail(adding, &fault);
}

static int prepare(struct adding *adding, const char *text, struct problem *problem)
{
    struct coordinator *coordinator = adding->coordinator;
    struct fault fault = {0};
    if (token_decode(text, &adding->token, &fault) < 0)
        return problem_set(problem, GW_TOKEN_INVALID, "%.300s", fault.text);
    if (peer_pool_judge_token(&coordinator->peer_pools, coordinator->pool_id, adding->token,
                              problem) != 0)
        return -1;
    const struct tls_identity identity = {.pin = adding->token->pin};
    int r = tls_context_new(&adding->tls, &identity, &fault);
    if (r == 0)
        r = pki_new_key(&adding->key, &fault);
    if (r == 0)
        r = pki_new_request(adding->key, &adding->certificate_request, &fault);
    return r < 0 ? problem_set(problem, GW_TOKEN_INVALID, "%.300s", fault.text) : 0;
}

static void add(struct coordinator *coordinator, struct rpc_request *request,
                const Godwit__PeerRequest *wanted)
{
    struct adding *adding = calloc(1, sizeof *adding);
    assert(adding);
    adding->coordinator = coordinator;
    adding->request = request;
    adding->next = coordinator->peer_addings;
    coordinator->peer_addings = adding;
    if (prepare(adding, wanted->token ? wanted->token : "", &adding->problem) != 0)
        give_up(adding);
    else
        try_next(adding);
}

/* ---- rm ---------------------------------------------------------------------------------------
 */

static void on_removed(void *data)
{
    Godwit__PeerReply reply = GODWIT__PEER_REPLY__INIT;
    (void)rpc_reply(data, &reply.base);
}

static void take_back(struct coordinator *coordinator, struct rpc_request *request,
                      struct peer_pool *invitation)
{
    struct store_batch *batch = new_batch();
    struct cluster_todo todo = {0};
    cluster_todo_event(&todo, "", "the invitation %s for a peer pool was taken back",
                       invitation->info->id);
    peer_pool_remove(&coordinator->peer_pools, invitation, batch);
    coordinator_apply(coordinator, &todo, batch, on_removed, request);
}

static void remove_peer(struct coordinator *coordinator, struct rpc_request *request,
                        const Godwit__PeerRequest *wanted)
{
    struct problem problem = {0};
    struct peer_pool *pool =
        peer_pool_find_any(&coordinator->peer_pools, wanted->peer ? wanted->peer : "", &problem);
    if (!pool) {
        reply_problem(request, &problem);
        return;
    }
    if (!peer_pool_is_peer(pool)) {
        take_back(coordinator, request, pool);
        return;
    }
    unsigned replicas = peer_dr_count(coordinator, pool);
    if (replicas > 0 && !wanted->force) {
        (void)problem_set(&problem, GW_DR_STATE,
                          "%u replicas bind this pool and pool %.63s: nobody could take them over, "
                          "or hear of it",
                          replicas, pool->info->name);
        problem_hint(&problem, "godwit dr status");
        reply_problem(request, &problem);
        return;
    }
    struct store_batch *batch = new_batch();
    struct cluster_todo todo = {0};
    if (replicas > 0)
        cluster_todo_event(&todo, "", "alert: %u replicas still bind this pool and pool %s", replicas,
                           pool->info->name);
    cluster_todo_event(&todo, "", "pool %s (%.8s) is no peer any more", pool->info->name,
                       pool->info->pool_id);
    peer_link_end(coordinator, pool);
    peer_pool_remove(&coordinator->peer_pools, pool, batch);
    coordinator_apply(coordinator, &todo, batch, on_removed, request);
}

/* ---- all --------------------------------------------------------------------------------------
 */

void peer_api_request(struct peer *peer, struct rpc_request *request, const void *message)
{
    struct coordinator *coordinator = peer->coordinator;
    const Godwit__PeerRequest *wanted = message;
    struct problem problem = {0};
    switch (wanted->has_verb ? wanted->verb : GODWIT__PEER_VERB__PEER_VERB_LIST) {
    case GODWIT__PEER_VERB__PEER_VERB_LIST:
        reply_peers(coordinator, request, "");
        return;
    case GODWIT__PEER_VERB__PEER_VERB_INVITE:
        invite(coordinator, request, wanted);
        return;
    case GODWIT__PEER_VERB__PEER_VERB_ADD:
        add(coordinator, request, wanted);
        return;
    case GODWIT__PEER_VERB__PEER_VERB_REMOVE:
        remove_peer(coordinator, request, wanted);
        return;
    case _GODWIT__PEER_VERB_IS_INT_SIZE:
    default: /* a number from the wire */
        (void)problem_set(&problem, GW_USAGE, "unknown verb of pool peer");
        reply_problem(request, &problem);
    }
}

void peer_api_unload(struct coordinator *coordinator)
{
    while (coordinator->peer_addings) {
        struct adding *adding = coordinator->peer_addings;
        (void)problem_set(&adding->problem, GW_PEER_FAILED,
                          "the coordinator ends; the other pool may have let this one in");
        give_up(adding);
    }
    for (struct peer_pool *pool = coordinator->peer_pools.first; pool; pool = pool->next)
        peer_link_end(coordinator, pool);
    peer_pools_deinit(&coordinator->peer_pools);
}

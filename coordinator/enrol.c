#include "coordinator/enrol.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/log.h"
#include "base/own.h"
#include "base/world.h"
#include "coordinator/api.h"
#include "coordinator/cluster_core.h"
#include "coordinator/cluster_view.h"
#include "coordinator/store.h"
#include "coordinator/words.h"
#include "proto/limits.h"
#include "proto/token.h"

enum {
    HOST_CERTIFICATE_DAYS = 365, /* renewal is not there yet; until then a year */
    TOKEN_ID_SIZE = 17,
    TOKENS_MAX = 1000,
    TOKEN_KEEP_MS = 24 * 3600 * 1000, /* a used or expired one can still be told as such */
};

struct token {
    struct token *next;
    char id[TOKEN_ID_SIZE];
    char hash[PKI_PIN_SIZE];
    char host[OWN_HOST_SIZE]; /* "": any */
    uint64_t expires_unix_ms;
    uint64_t used_unix_ms; /* 0: not yet */
    char used_by[OWN_HOST_SIZE];
    uint64_t revision;
};

/* ---- rows -------------------------------------------------------------------------------------
 */

static void put_token(struct store_batch *batch, struct token *token)
{
    store_batch_put(batch, STORE_TOKEN, token->id, token->revision++);
    store_batch_text(batch, token->hash);
    store_batch_text(batch, token->host);
    store_batch_number(batch, (int64_t)token->expires_unix_ms);
    store_batch_number(batch, (int64_t)token->used_unix_ms);
    store_batch_text(batch, token->used_by);
}

static int load_token(void *data, const char *key, uint64_t revision,
                      const struct store_cell *cells, struct fault *fault)
{
    struct coordinator *coordinator = data;
    struct token *token = calloc(1, sizeof *token);
    if (!token)
        return fault_set(fault, ERR_NOMEM, "no memory for a token");
    WORDS_COPY(token->id, key);
    WORDS_COPY(token->hash, cells[STORE_TOKEN_HASH].bytes);
    WORDS_COPY(token->host, cells[STORE_TOKEN_HOST].bytes);
    WORDS_COPY(token->used_by, cells[STORE_TOKEN_USED_BY].bytes);
    token->expires_unix_ms = (uint64_t)cells[STORE_TOKEN_EXPIRES].number;
    token->used_unix_ms = (uint64_t)cells[STORE_TOKEN_USED].number;
    token->revision = revision;
    token->next = coordinator->tokens;
    coordinator->tokens = token;
    return 0;
}

int enrol_load(struct coordinator *coordinator, struct fault *fault)
{
    return store_load(coordinator->store, STORE_TOKEN, load_token, coordinator, fault);
}

void enrol_unload(struct coordinator *coordinator)
{
    while (coordinator->tokens) {
        struct token *token = coordinator->tokens;
        coordinator->tokens = token->next;
        free(token);
    }
}

static size_t drop_old_tokens(struct coordinator *coordinator, struct store_batch *batch,
                              uint64_t now_unix_ms)
{
    size_t kept = 0;
    struct token **link = &coordinator->tokens;
    while (*link) {
        struct token *token = *link;
        if (token->expires_unix_ms + TOKEN_KEEP_MS < now_unix_ms) {
            store_batch_delete(batch, STORE_TOKEN, token->id, token->revision);
            *link = token->next;
            free(token);
        } else {
            link = &token->next;
            kept++;
        }
    }
    return kept;
}

/* ---- tokens -----------------------------------------------------------------------------------
 */

struct creation { /* between the order and its durability */
    struct rpc_request *request;
    char *text;
    uint64_t expires_unix_ms;
};

static void on_token_stored(void *data)
{
    struct creation *creation = data;
    Godwit__TokenCreated created = GODWIT__TOKEN_CREATED__INIT;
    Godwit__TokenReply reply = GODWIT__TOKEN_REPLY__INIT;
    created.token = creation->text;
    created.has_expires_unix_ms = true;
    created.expires_unix_ms = creation->expires_unix_ms;
    reply.token = &created;
    (void)rpc_reply(creation->request, &reply.base);
    explicit_bzero(creation->text, strlen(creation->text));
    free(creation->text);
    free(creation);
}

static void reply_problem(struct rpc_request *request, struct problem *problem)
{
    Godwit__OperatorError error;
    char *details[PROBLEM_DETAILS_MAX];
    Godwit__TokenReply reply = GODWIT__TOKEN_REPLY__INIT;
    problem_to_message(problem, &error, details);
    reply.error = &error;
    (void)rpc_reply(request, &reply.base);
}

static int judge_creation(const Godwit__TokenCreate *wanted, struct problem *problem)
{
    if (wanted->has_ttl_s && wanted->ttl_s * 1000 > TOKEN_MS_MAX)
        return problem_set(problem, GW_TOKEN_TTL, "a join token lives %d seconds at most, not %llu",
                           TOKEN_MS_MAX / 1000, (unsigned long long)wanted->ttl_s);
    if (wanted->host && wanted->host[0] && !id_name_is_valid(wanted->host))
        return problem_set(problem, GW_USAGE,
                           "'%.80s' is no name for a host: 1 to %d letters, digits, '.', '_', '-'",
                           wanted->host, ID_NAME_MAX);
    return 0;
}

static int make_token(struct coordinator *coordinator, const Godwit__TokenCreate *wanted,
                      struct token *token, char **ret_text, struct fault *fault)
{
    uint8_t secret[TOKEN_SECRET_BYTES];
    char chance[ID_TEXT_SIZE];
    world_random(secret, sizeof secret);
    id_random(chance);
    (void)snprintf(token->id, sizeof token->id, "%.16s", chance);
    pki_sha256_hex(secret, sizeof secret, token->hash);
    WORDS_COPY(token->host, wanted->host ? wanted->host : "");
    uint64_t ttl_ms = wanted->ttl_s ? wanted->ttl_s * 1000 : TOKEN_MS_MAX;
    token->expires_unix_ms = coordinator_now().unix_ms + ttl_ms;

    Godwit__JoinToken join = GODWIT__JOIN_TOKEN__INIT;
    join.address = coordinator->address;
    join.pin = coordinator->pin;
    join.id = token->id;
    join.has_secret = true;
    join.secret = (ProtobufCBinaryData){.data = secret, .len = sizeof secret};
    int r = token_encode(&join, ret_text, fault);
    explicit_bzero(secret, sizeof secret);
    return r;
}

void enrol_create_token(struct peer *peer, struct rpc_request *request, const void *message)
{
    struct coordinator *coordinator = peer->coordinator;
    const Godwit__TokenCreate *wanted = message;
    struct problem problem;
    struct fault fault = {0};
    struct store_batch *batch = NULL;

    if (judge_creation(wanted, &problem) != 0) {
        reply_problem(request, &problem);
        return;
    }
    if (store_batch_new(&batch, &fault) < 0) {
        (void)rpc_reply_fault(request, &fault);
        return;
    }
    struct cluster_todo todo = {0};
    size_t kept = drop_old_tokens(coordinator, batch, coordinator_now().unix_ms);
    struct token *token = kept < TOKENS_MAX ? calloc(1, sizeof *token) : NULL;
    struct creation *creation = calloc(1, sizeof *creation);
    int r = !creation ? fault_set(&fault, ERR_NOMEM, "no memory for a token")
            : !token  ? fault_set(&fault, ERR_LIMIT, "%d join tokens are kept already", TOKENS_MAX)
                      : make_token(coordinator, wanted, token, &creation->text, &fault);
    if (r < 0) {
        free(token);
        free(creation);
        (void)rpc_reply_fault(request, &fault);
        coordinator_apply(coordinator, &todo, batch, NULL, NULL); /* what was dropped */
        return;
    }
    token->next = coordinator->tokens;
    coordinator->tokens = token;
    put_token(batch, token);
    cluster_todo_event(&todo, "", "join token %s created%s%s", token->id,
                       token->host[0] ? " for host " : "", token->host);
    creation->request = request;
    creation->expires_unix_ms = token->expires_unix_ms;
    coordinator_apply(coordinator, &todo, batch, on_token_stored, creation);
}

/* ---- hosts ------------------------------------------------------------------------------------
 */

static bool is_equal_in_constant_time(const char *a, const char *b, size_t count)
{
    unsigned char differs = 0;
    for (size_t i = 0; i < count; i++)
        differs |= (unsigned char)(a[i] ^ b[i]);
    return differs == 0;
}

static struct token *find_token(struct coordinator *coordinator, const Godwit__EnrolRequest *wanted)
{
    char hash[PKI_PIN_SIZE];
    pki_sha256_hex(wanted->secret.data, wanted->secret.len, hash);
    for (struct token *token = coordinator->tokens; token; token = token->next) {
        if (strcmp(token->id, wanted->token_id) == 0 &&
            is_equal_in_constant_time(token->hash, hash, PKI_PIN_SIZE))
            return token;
    }
    return NULL;
}

static int judge_host(struct coordinator *coordinator, const Godwit__EnrolRequest *wanted,
                      struct token **ret_token, struct problem *problem)
{
    struct cluster_now now = coordinator_now();
    if (!wanted->token_id || !wanted->has_secret || !wanted->host_name ||
        !wanted->certificate_request)
        return problem_set(problem, GW_TOKEN_INVALID, "the request to join lacks a part");
    struct token *token = find_token(coordinator, wanted);
    if (!token)
        return problem_set(problem, GW_TOKEN_INVALID, "this pool gave out no such join token");
    if (token->used_unix_ms)
        return problem_set(problem, GW_TOKEN_USED, "this join token was used by host %s",
                           token->used_by);
    if (now.unix_ms > token->expires_unix_ms)
        return problem_set(problem, GW_TOKEN_EXPIRED, "this join token expired %llu s ago",
                           (unsigned long long)(now.unix_ms - token->expires_unix_ms) / 1000);
    if (!id_name_is_valid(wanted->host_name))
        return problem_set(problem, GW_USAGE, "'%.80s' is no name for a host", wanted->host_name);
    if (token->host[0] && strcmp(token->host, wanted->host_name) != 0)
        return problem_set(problem, GW_TOKEN_INVALID, "this join token is for host %s, not for %s",
                           token->host, wanted->host_name);
    const struct cluster_host *known = cluster_host(&coordinator->cluster, wanted->host_name);
    bool may_replace = token->host[0] && known && !known->link_up;
    if (known && !may_replace) {
        (void)problem_set(problem, GW_HOST_NAME_TAKEN, "the pool has a host %s already",
                          wanted->host_name);
        problem_hint(problem, "godwit token create --host %s", wanted->host_name);
        return -1;
    }
    *ret_token = token;
    return 0;
}

struct enrolment { /* between the decision and its durability */
    struct coordinator *coordinator;
    struct rpc_request *request;
    char *certificate;
};

static void on_host_stored(void *data)
{
    struct enrolment *enrolment = data;
    Godwit__EnrolReply reply = GODWIT__ENROL_REPLY__INIT;
    reply.pool_id = enrolment->coordinator->pool_id;
    reply.ca_certificate = enrolment->coordinator->ca_certificate;
    reply.certificate = enrolment->certificate;
    (void)rpc_reply(enrolment->request, &reply.base);
    free(enrolment->certificate);
    free(enrolment);
}

static int sign(struct coordinator *coordinator, const Godwit__EnrolRequest *wanted,
                char **ret_certificate, struct fault *fault)
{
    struct pki_identity identity = {.role = "host"};
    WORDS_COPY(identity.pool, coordinator->pool_id);
    WORDS_COPY(identity.name, wanted->host_name);
    int r = pki_sign(coordinator->ca_certificate, coordinator->ca_key, wanted->certificate_request,
                     &identity, HOST_CERTIFICATE_DAYS, ret_certificate, fault);
    return r < 0 ? fault_wrap(fault, r, "signing the certificate of host %s", wanted->host_name)
                 : 0;
}

void enrol_host(struct peer *peer, struct rpc_request *request, const void *message)
{
    struct coordinator *coordinator = peer->coordinator;
    const Godwit__EnrolRequest *wanted = message;
    struct token *token = NULL;
    struct problem problem;
    struct fault fault = {0};

    if (judge_host(coordinator, wanted, &token, &problem) != 0) {
        log_warn("enrol", "refused address=%s: %s", rpc_peer_address(peer->rpc), problem.text);
        if (!problem.hint[0])
            problem_hint(&problem, "godwit token create");
        api_reply_problem_as_fault(request, &problem,
                                   problem.code == GW_HOST_NAME_TAKEN ? ERR_EXISTS : ERR_DENIED);
        return;
    }
    struct enrolment *enrolment = calloc(1, sizeof *enrolment);
    struct store_batch *batch = NULL;
    /* Signed before the token is used up: a bad request does not cost the token. */
    int r = enrolment ? sign(coordinator, wanted, &enrolment->certificate, &fault)
                      : fault_set(&fault, ERR_NOMEM, "no memory to let a host in");
    if (r == 0)
        r = store_batch_new(&batch, &fault);
    struct cluster_todo todo = {0};
    struct cluster_now now = coordinator_now();
    if (r == 0 && !cluster_host_joined(&coordinator->cluster, wanted->host_name, now, &todo))
        r = fault_set(&fault, ERR_LIMIT, "the pool has %d hosts, which is all it may have",
                      HOSTS_MAX);
    if (r < 0) {
        if (enrolment)
            free(enrolment->certificate);
        free(enrolment);
        (void)store_batch_free(batch);
        (void)rpc_reply_fault(request, &fault);
        return;
    }
    token->used_unix_ms = now.unix_ms;
    WORDS_COPY(token->used_by, wanted->host_name);
    put_token(batch, token);
    log_info("enrol", "host joins host=%s address=%s token=%s", wanted->host_name,
             rpc_peer_address(peer->rpc), token->id);
    enrolment->coordinator = coordinator;
    enrolment->request = request;
    coordinator_apply(coordinator, &todo, batch, on_host_stored, enrolment);
}

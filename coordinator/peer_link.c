#include "coordinator/peer_link.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/log.h"
#include "base/own.h"
#include "base/world.h"
#include "coordinator/peer_dr.h"
#include "coordinator/store.h"
#include "coordinator/words.h"
#include "proto/limits.h"
#include "proto/method.h"

enum { HELLO_EVERY_MS = 2000, HELLO_MS_MAX = 5000, BACKOFF_MS_MIN = 500, BACKOFF_MS_MAX = 10000 };

struct peer_link {
    struct coordinator *coordinator;
    struct peer_pool *pool;
    struct rpc *rpc;
    bool is_open, is_asked;
    uint64_t next_ns; /* of the next call, or of the next hello */
    uint64_t backoff_ms;
    size_t next_address;
    char leader[ADDRESS_SIZE];  /* that another coordinator of theirs named; "" */
    char address[ADDRESS_SIZE]; /* that is tried or spoken to */
};

/* The CA's key is in every coordinator of this pool, and in no backup. */
void peer_link_secret(const struct coordinator *coordinator, char ret_secret[static PKI_PIN_SIZE])
{
    AUTO_FREE char *text = NULL;
    int count = asprintf(&text, "peer line of %s", coordinator->ca_key);
    assert(count > 0); /* control memory is small; without it there is no deciding */
    pki_sha256_hex(text, (size_t)count, ret_secret);
    explicit_bzero(text, (size_t)count);
}

/* ---- calling ----------------------------------------------------------------------------------
 */

static void hang_up(struct peer_link *link, const char *why)
{
    struct peer_pool *pool = link->pool;
    if (!pool->reason[0])
        log_warn("peer_link", "no line to peer=%s: %s", pool->info->name, why);
    WORDS_COPY(pool->reason, why);
    link->rpc = rpc_close(link->rpc);
    link->is_open = link->is_asked = false;
    link->next_ns = coordinator_now().ns + link->backoff_ms * NS_PER_MS;
    link->backoff_ms =
        link->backoff_ms * 2 < BACKOFF_MS_MAX ? link->backoff_ms * 2 : BACKOFF_MS_MAX;
}

static void on_closed(void *data, struct rpc *rpc, const struct fault *fault)
{
    (void)rpc;
    hang_up(data, fault ? fault->text : "it ended the connection");
}

/* What the pool that we called may ask of us. */
static void on_hold(void *data, struct rpc *rpc, struct rpc_request *request,
                    const ProtobufCMessage *message)
{
    struct peer_link *link = data;
    (void)rpc;
    peer_dr_on_hold(link->coordinator, link->pool, request,
                    (const Godwit__PeerDrHold *)message);
}

static void on_words(void *data, struct rpc *rpc, struct rpc_request *request,
                     const ProtobufCMessage *message)
{
    struct peer_link *link = data;
    (void)rpc;
    peer_dr_on_words(link->coordinator, link->pool, request,
                     (const Godwit__PeerDrWords *)message);
}

static const struct rpc_method line_methods[] = {
    {METHOD_PEER_DR_HOLD, &godwit__peer_dr_hold__descriptor, on_hold},
    {METHOD_PEER_DR_WORDS, &godwit__peer_dr_words__descriptor, on_words},
};
static const struct rpc_service line_service = {.methods = line_methods,
                                                .method_count = ARRAY_COUNT(line_methods),
                                                .on_closed = on_closed};

static void on_welcome(void *data, const ProtobufCMessage *reply, const struct fault *fault)
{
    struct peer_link *link = data;
    const Godwit__PeerWelcome *welcome = (const Godwit__PeerWelcome *)reply;
    struct coordinator *coordinator = link->coordinator;
    struct store_batch *batch = NULL;
    struct cluster_todo todo = {0};
    link->is_asked = false;
    if (!welcome) {
        if (fault->code == ERR_NOT_LEADER && strcmp(fault->hint, link->address) != 0)
            WORDS_COPY(link->leader, fault->hint);
        hang_up(link, fault->text);
        return;
    }
    if (store_batch_new(&batch, NULL) < 0)
        return; /* the next one is soon */
    bool was_away = !peer_pool_is_linked(link->pool, coordinator_now().ns);
    struct cluster_now now = coordinator_now();
    peer_pool_heard(&coordinator->peer_pools, link->pool, welcome->name, welcome->address, now.ns,
                    now.unix_ms, batch);
    if (was_away)
        log_info("peer_link", "line is up peer=%s address=%s", link->pool->info->name,
                 link->address);
    link->backoff_ms = BACKOFF_MS_MIN;
    link->next_ns = now.ns + HELLO_EVERY_MS * NS_PER_MS;
    coordinator_apply(coordinator, &todo, batch, NULL, NULL);
}

static void say_hello(struct peer_link *link)
{
    struct coordinator *coordinator = link->coordinator;
    Godwit__PeerHello hello = GODWIT__PEER_HELLO__INIT;
    struct fault fault = {0};
    hello.pool_id = coordinator->pool_id;
    hello.name = coordinator->name;
    hello.address = coordinator->address;
    if (rpc_call(link->rpc, METHOD_PEER_HELLO, &hello.base, &godwit__peer_welcome__descriptor,
                 HELLO_MS_MAX, on_welcome, link, &fault) < 0)
        hang_up(link, fault.text);
    else
        link->is_asked = true;
}

static void on_opened(void *data, struct rpc *rpc, const struct fault *fault)
{
    struct peer_link *link = data;
    (void)rpc;
    if (fault) {
        hang_up(link, fault->text);
        return;
    }
    link->is_open = true;
    say_hello(link);
}

/* The one that was named as leader first, else the next of the list. */
static bool choose_address(struct peer_link *link)
{
    const char *list = link->pool->info->address;
    if (link->leader[0]) {
        WORDS_COPY(link->address, link->leader);
        link->leader[0] = '\0';
        return true;
    }
    size_t count = address_list_count(list);
    size_t index = link->next_address++ % (count ? count : 1);
    return address_list_get(list, index, link->address, sizeof link->address);
}

static int make_context(struct peer_link *link, struct tls_context **ret_context,
                        struct fault *fault)
{
    const Godwit__PeerRecord *info = link->pool->info;
    char secret[PKI_PIN_SIZE];
    AUTO_FREE char *key = NULL;
    peer_link_secret(link->coordinator, secret);
    int r = pki_unlock_key(info->key, secret, &key, fault);
    explicit_bzero(secret, sizeof secret);
    if (r < 0)
        return r;
    const struct tls_identity identity = {
        .ca_certificate = info->ca_certificate, .certificate = info->certificate, .key = key};
    r = tls_context_new(ret_context, &identity, fault);
    explicit_bzero(key, strlen(key));
    return r;
}

static void dial(struct peer_link *link)
{
    struct tls_context *context = NULL;
    struct fault fault = {0};
    int r = choose_address(link) ? make_context(link, &context, &fault)
                                 : fault_set(&fault, ERR_INVALID, "it has no address");
    if (r == 0)
        r = rpc_connect(&link->rpc, link->coordinator->loop, link->address, context, "coordinator",
                        &line_service, link, on_opened, &fault);
    (void)tls_context_free(context);
    if (r < 0)
        hang_up(link, fault.text);
    else
        rpc_limit_as_peer(link->rpc); /* its certificate says coordinator: it is another pool's all the same */
}

void peer_link_tick(struct coordinator *coordinator)
{
    uint64_t now_ns = coordinator_now().ns;
    for (struct peer_pool *pool = coordinator->peer_pools.first; pool; pool = pool->next) {
        if (!peer_pool_is_called(pool))
            continue;
        if (!pool->link) {
            pool->link = calloc(1, sizeof *pool->link);
            assert(pool->link); /* control memory is small; without it there is no deciding */
            *pool->link = (struct peer_link){
                .coordinator = coordinator, .pool = pool, .backoff_ms = BACKOFF_MS_MIN};
        }
        struct peer_link *link = pool->link;
        if (now_ns < link->next_ns)
            continue;
        if (!link->rpc)
            dial(link);
        else if (link->is_open && !link->is_asked)
            say_hello(link);
    }
}

/* ---- being called -----------------------------------------------------------------------------
 */

void peer_link_hello(struct peer *peer, struct rpc_request *request, const void *message)
{
    struct coordinator *coordinator = peer->coordinator;
    const Godwit__PeerHello *hello = message;
    struct peer_pool *pool = peer_pool_of(&coordinator->peer_pools, rpc_peer(peer->rpc));
    struct cluster_now now = coordinator_now();
    struct store_batch *batch = NULL;
    struct cluster_todo todo = {0};
    struct fault fault = {0};
    assert(pool); /* judged before it came here */
    int r = 0;
    if (!hello->pool_id || strcmp(hello->pool_id, pool->info->pool_id) != 0)
        r = fault_set(&fault, ERR_DENIED, "this certificate was given to pool %.63s, not to %.63s",
                      pool->info->pool_id, hello->pool_id ? hello->pool_id : "nobody");
    if (r == 0)
        r = store_batch_new(&batch, &fault);
    if (r < 0) {
        (void)rpc_reply_fault(request, &fault);
        return;
    }
    if (!peer_pool_is_linked(pool, now.ns))
        log_info("peer_link", "line is up peer=%s address=%s", pool->info->name,
                 rpc_peer_address(peer->rpc));
    peer_pool_heard(&coordinator->peer_pools, pool, hello->name, hello->address, now.ns,
                    now.unix_ms, batch);
    Godwit__PeerWelcome welcome = GODWIT__PEER_WELCOME__INIT;
    welcome.name = coordinator->name;
    welcome.address = coordinator->address;
    (void)rpc_reply(request, &welcome.base);
    coordinator_apply(coordinator, &todo, batch, NULL, NULL);
}

/* Should it have called anew meanwhile, its next hello says so. */
void peer_link_lost(struct peer *peer, const char *why)
{
    struct peer_pool *pool = peer_pool_of(&peer->coordinator->peer_pools, rpc_peer(peer->rpc));
    if (!pool || !pool->seen_ns)
        return;
    log_warn("peer_link", "line is lost peer=%s: %s", pool->info->name, why);
    WORDS_COPY(pool->reason, why);
}

struct rpc *peer_link_rpc(const struct coordinator *coordinator, const struct peer_pool *pool)
{
    if (pool->link)
        return pool->link->is_open ? pool->link->rpc : NULL;
    for (const struct peer *peer = coordinator->peers; peer; peer = peer->next) { /* newest first */
        if (peer_pool_of(&coordinator->peer_pools, rpc_peer(peer->rpc)) == pool)
            return peer->rpc;
    }
    return NULL;
}

void peer_link_end(struct coordinator *coordinator, struct peer_pool *pool)
{
    struct peer_link *link = TAKE(pool->link);
    if (link)
        link->rpc = rpc_close(link->rpc);
    free(link);
    for (struct peer *peer = coordinator->peers, *next; peer; peer = next) {
        next = peer->next;
        if (peer_pool_of(&coordinator->peer_pools, rpc_peer(peer->rpc)) == pool)
            coordinator_peer_gone(peer);
    }
}

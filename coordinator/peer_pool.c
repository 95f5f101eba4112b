#include "coordinator/peer_pool.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/own.h"
#include "base/world.h"
#include "coordinator/store.h"
#include "coordinator/words.h"
#include "proto/address_list.h"
#include "proto/limits.h"
#include "proto/token.h"

enum { INVITATION_KEEP_MS = 24 * 3600 * 1000, ADDRESS_LIST_MAX = 1024 };

static bool is_given(const char *text)
{
    return text && text[0];
}

static bool is_same(const char *a, const char *b)
{
    return a && b && strcmp(a, b) == 0;
}

static void set_text(char **field, const char *text)
{
    char *copy = strdup(text);
    assert(copy); /* control memory is small; without it there is no deciding */
    if (*field && *field != (char *)protobuf_c_empty_string)
        free(*field);
    *field = copy;
}

/* ---- rows -------------------------------------------------------------------------------------
 */

static void put(struct peer_pool *pool, struct store_batch *batch)
{
    size_t count = godwit__peer_record__get_packed_size(pool->info);
    AUTO_FREE uint8_t *bytes = malloc(count + 1);
    assert(bytes);
    (void)godwit__peer_record__pack(pool->info, bytes);
    store_batch_put(batch, STORE_PEER, pool->info->id, pool->revision++);
    store_batch_text(batch, pool->info->step);
    store_batch_blob(batch, bytes, count);
}

static struct peer_pool *pool_new(struct peer_pools *pools, Godwit__PeerRecord *info)
{
    struct peer_pool *pool = calloc(1, sizeof *pool);
    assert(pool);
    pool->info = info;
    pool->next = pools->first;
    pools->first = pool;
    return pool;
}

static struct peer_pool *draft_new(struct peer_pools *pools, const char *id, const char *step,
                                   uint64_t now_unix_ms)
{
    Godwit__PeerRecord *info = malloc(sizeof *info);
    assert(info);
    godwit__peer_record__init(info);
    set_text(&info->id, id);
    set_text(&info->step, step);
    info->has_created_unix_ms = true;
    info->created_unix_ms = now_unix_ms;
    return pool_new(pools, info);
}

static int load_row(void *data, const char *key, uint64_t revision, const struct store_cell *cells,
                    struct fault *fault)
{
    const struct store_cell *cell = &cells[STORE_PEER_INFO];
    Godwit__PeerRecord *info =
        godwit__peer_record__unpack(NULL, cell->count, (const uint8_t *)cell->bytes);
    bool is_peer = info && is_same(info->step, "peer");
    if (!info || !is_same(info->id, key) || (!is_peer && !is_same(info->step, "invited")) ||
        (is_peer && (!is_given(info->pool_id) || !info->name || !info->address ||
                     !is_given(info->ca_certificate) || !info->certificate != !info->key)) ||
        (!is_peer && !is_given(info->secret_hash))) {
        if (info)
            godwit__peer_record__free_unpacked(info, NULL);
        return fault_set(fault, ERR_CORRUPT, "the record of peer %.40s does not make sense", key);
    }
    pool_new(data, info)->revision = revision;
    return 0;
}

int peer_pools_load(struct peer_pools *pools, struct store *store, struct fault *fault)
{
    return store_load(store, STORE_PEER, load_row, pools, fault);
}

static void pool_free(struct peer_pool *pool)
{
    assert(!pool->link);
    godwit__peer_record__free_unpacked(pool->info, NULL);
    free(pool);
}

void peer_pools_deinit(struct peer_pools *pools)
{
    while (pools->first) {
        struct peer_pool *pool = pools->first;
        pools->first = pool->next;
        pool_free(pool);
    }
}

void peer_pool_remove(struct peer_pools *pools, struct peer_pool *pool, struct store_batch *batch)
{
    struct peer_pool **at = &pools->first;
    while (*at != pool)
        at = &(*at)->next;
    *at = pool->next;
    store_batch_delete(batch, STORE_PEER, pool->info->id, pool->revision);
    pool_free(pool);
}

/* ---- looking ----------------------------------------------------------------------------------
 */

bool peer_pool_is_peer(const struct peer_pool *pool)
{
    return is_same(pool->info->step, "peer");
}

bool peer_pool_is_called(const struct peer_pool *pool)
{
    return peer_pool_is_peer(pool) && pool->info->certificate;
}

bool peer_pool_is_linked(const struct peer_pool *pool, uint64_t now_ns)
{
    return peer_pool_is_peer(pool) && pool->seen_ns && !pool->reason[0] &&
           now_ns - pool->seen_ns < PEER_AWAY_MS * NS_PER_MS;
}

static struct peer_pool *by_pool_id(const struct peer_pools *pools, const char *pool_id)
{
    for (struct peer_pool *pool = pools->first; pool; pool = pool->next) {
        if (peer_pool_is_peer(pool) && is_same(pool->info->pool_id, pool_id))
            return pool;
    }
    return NULL;
}

static struct peer_pool *by_id(const struct peer_pools *pools, const char *id)
{
    for (struct peer_pool *pool = pools->first; pool; pool = pool->next) {
        if (is_same(pool->info->id, id))
            return pool;
    }
    return NULL;
}

struct peer_pool *peer_pool_of(const struct peer_pools *pools, const struct pki_identity *identity)
{
    struct peer_pool *pool =
        strcmp(identity->role, "peer") == 0 ? by_id(pools, identity->name) : NULL;
    return pool && peer_pool_is_peer(pool) && !peer_pool_is_called(pool) ? pool : NULL;
}

static bool begins(const char *id, const char *word)
{
    size_t length = strlen(word);
    return length >= 4 && strncmp(id, word, length) == 0;
}

static struct peer_pool *find(const struct peer_pools *pools, const char *word,
                              bool invitations_too, struct problem *problem)
{
    struct peer_pool *found = NULL;
    unsigned count = 0;
    for (struct peer_pool *pool = pools->first; pool; pool = pool->next) {
        bool is_peer = peer_pool_is_peer(pool);
        const char *id = is_peer ? pool->info->pool_id : pool->info->id;
        if (!is_peer && !invitations_too)
            continue;
        if (is_same(id, word))
            return pool;
        if ((is_peer && is_same(pool->info->name, word)) || begins(id, word)) {
            found = pool;
            count++;
        }
    }
    if (count > 1)
        (void)problem_set(problem, GW_AMBIGUOUS, "%u peers are called '%.80s'; their ids differ",
                          count, word);
    else if (!found)
        (void)problem_set(problem, GW_PEER_UNKNOWN, "this pool has no peer%s '%.80s'",
                          invitations_too ? " or invitation" : "", word);
    if (count != 1 && problem)
        problem_hint(problem, "godwit pool peer ls -o wide");
    return count == 1 ? found : NULL;
}

struct peer_pool *peer_pool_find(const struct peer_pools *pools, const char *word,
                                 struct problem *problem)
{
    return find(pools, word, false, problem);
}

struct peer_pool *peer_pool_find_any(const struct peer_pools *pools, const char *word,
                                     struct problem *problem)
{
    return find(pools, word, true, problem);
}

/* ---- the inviting pool ------------------------------------------------------------------------
 */

static void drop_old(struct peer_pools *pools, uint64_t now_unix_ms, struct store_batch *batch)
{
    for (struct peer_pool *pool = pools->first, *next; pool; pool = next) {
        next = pool->next;
        if (!peer_pool_is_peer(pool) &&
            pool->info->expires_unix_ms + INVITATION_KEEP_MS < now_unix_ms)
            peer_pool_remove(pools, pool, batch);
    }
}

static unsigned count_of(const struct peer_pools *pools, bool peers)
{
    unsigned count = 0;
    for (const struct peer_pool *pool = pools->first; pool; pool = pool->next)
        count += peer_pool_is_peer(pool) == peers;
    return count;
}

struct peer_pool *peer_pool_invite(struct peer_pools *pools, uint64_t ttl_s, uint64_t now_unix_ms,
                                   const char *id, const void *secret, size_t secret_bytes,
                                   struct store_batch *batch, struct problem *problem)
{
    char hash[PKI_PIN_SIZE];
    if (ttl_s > PEER_INVITATION_S_MAX) {
        (void)problem_set(problem, GW_TOKEN_TTL,
                          "a token for a peer lives %d seconds at most, not %llu",
                          PEER_INVITATION_S_MAX, (unsigned long long)ttl_s);
        return NULL;
    }
    drop_old(pools, now_unix_ms, batch);
    if (count_of(pools, false) >= PEER_INVITATIONS_MAX || by_id(pools, id)) {
        (void)problem_set(problem, GW_POOL_FULL, "%d invitations are kept already",
                          PEER_INVITATIONS_MAX);
        return NULL;
    }
    struct peer_pool *pool = draft_new(pools, id, "invited", now_unix_ms);
    pki_sha256_hex(secret, secret_bytes, hash);
    set_text(&pool->info->secret_hash, hash);
    pool->info->has_expires_unix_ms = true;
    pool->info->expires_unix_ms = now_unix_ms + (ttl_s ? ttl_s : PEER_INVITATION_S) * 1000;
    put(pool, batch);
    return pool;
}

static bool is_equal_in_constant_time(const char *a, const char *b, size_t count)
{
    unsigned char differs = 0;
    for (size_t i = 0; i < count; i++)
        differs |= (unsigned char)(a[i] ^ b[i]);
    return differs == 0;
}

static bool is_address_list(const char *list)
{
    size_t length = strnlen(list, ADDRESS_LIST_MAX);
    char address[ADDRESS_SIZE];
    for (size_t i = 0; i < length; i++) {
        if (list[i] <= ' ' || list[i] > '~')
            return false;
    }
    return length < ADDRESS_LIST_MAX && address_list_count(list) <= ADDRESSES_MAX &&
           address_list_get(list, 0, address, sizeof address);
}

static int judge_known(const struct peer_pools *pools, const char *own_pool_id, const char *pool_id,
                       struct problem *problem)
{
    const struct peer_pool *known = by_pool_id(pools, pool_id);
    if (is_same(own_pool_id, pool_id))
        return problem_set(problem, GW_PEER_KNOWN, "the token is of this pool itself");
    if (known) {
        (void)problem_set(problem, GW_PEER_KNOWN, "pool %.63s is a peer already",
                          known->info->name);
        problem_hint(problem, "godwit pool peer rm %.63s", known->info->pool_id);
        return -1;
    }
    if (count_of(pools, true) >= PEER_POOLS_MAX)
        return problem_set(problem, GW_POOL_FULL, "%d peers are as many as a pool may have",
                           PEER_POOLS_MAX);
    return 0;
}

struct peer_pool *peer_pool_judge_join(const struct peer_pools *pools, const char *own_pool_id,
                                       const Godwit__PeerJoin *join, uint64_t now_unix_ms,
                                       struct problem *problem)
{
    char hash[PKI_PIN_SIZE], pin[PKI_PIN_SIZE];
    if (!join->token_id || !join->has_secret || !join->pool_id || !join->name || !join->address ||
        !join->ca_certificate || !join->certificate_request) {
        (void)problem_set(problem, GW_TOKEN_INVALID, "the request to become a peer lacks a part");
        return NULL;
    }
    pki_sha256_hex(join->secret.data, join->secret.len, hash);
    struct peer_pool *pool = by_id(pools, join->token_id);
    if (!pool || !pool->info->secret_hash ||
        strlen(pool->info->secret_hash) != PKI_PIN_SIZE - 1 ||
        !is_equal_in_constant_time(pool->info->secret_hash, hash, PKI_PIN_SIZE)) {
        (void)problem_set(problem, GW_TOKEN_INVALID, "this pool gave out no such token for a peer");
        return NULL;
    }
    if (peer_pool_is_peer(pool)) {
        (void)problem_set(problem, GW_TOKEN_USED, "this token was used by pool %.63s",
                          pool->info->name);
        return NULL;
    }
    if (now_unix_ms > pool->info->expires_unix_ms) {
        (void)problem_set(problem, GW_TOKEN_EXPIRED, "this token expired %llu s ago",
                          (unsigned long long)(now_unix_ms - pool->info->expires_unix_ms) / 1000);
        return NULL;
    }
    if (!id_name_is_valid(join->pool_id) || !id_name_is_valid(join->name) ||
        !is_address_list(join->address) || pki_pin(join->ca_certificate, pin, NULL) < 0) {
        (void)problem_set(problem, GW_USAGE,
                          "the pool that wants to be a peer tells no id, name, address or CA that "
                          "could be one");
        return NULL;
    }
    return judge_known(pools, own_pool_id, join->pool_id, problem) == 0 ? pool : NULL;
}

void peer_pool_joined(struct peer_pool *pool, const Godwit__PeerJoin *join, uint64_t now_unix_ms,
                      struct store_batch *batch)
{
    Godwit__PeerRecord *info = pool->info;
    assert(!peer_pool_is_peer(pool));
    set_text(&info->step, "peer");
    set_text(&info->pool_id, join->pool_id);
    set_text(&info->name, join->name);
    set_text(&info->address, join->address);
    set_text(&info->ca_certificate, join->ca_certificate);
    info->created_unix_ms = now_unix_ms;
    put(pool, batch);
}

/* ---- the joining pool -------------------------------------------------------------------------
 */

int peer_pool_judge_token(const struct peer_pools *pools, const char *own_pool_id,
                          const Godwit__JoinToken *token, struct problem *problem)
{
    if (!is_given(token->pool_id)) {
        (void)problem_set(problem, GW_TOKEN_INVALID,
                          "this token lets a host into a pool; one for a peer is made in the other "
                          "pool by godwit pool peer invite");
        problem_hint(problem, "godwit pool peer invite");
        return -1;
    }
    if (!id_name_is_valid(token->pool_id) || !id_name_is_valid(token->pool ? token->pool : "") ||
        !is_address_list(token->address) || strlen(token->id) >= PEER_ID_SIZE ||
        !id_name_is_valid(token->id))
        return problem_set(problem, GW_TOKEN_INVALID,
                           "the token names no pool, address or id that could be one");
    if (judge_known(pools, own_pool_id, token->pool_id, problem) != 0)
        return -1;
    if (by_id(pools, token->id))
        return problem_set(problem, GW_TOKEN_INVALID, "the token's id is known here already");
    return 0;
}

int peer_pool_judge_joined(const Godwit__JoinToken *token, const Godwit__PeerJoined *joined,
                           struct problem *problem)
{
    char pin[PKI_PIN_SIZE];
    struct pki_identity identity;
    if (!joined->pool_id || !joined->name || !joined->address || !joined->ca_certificate ||
        !joined->certificate)
        return problem_set(problem, GW_PEER_FAILED, "the other pool's answer lacks a part");
    if (!is_same(joined->pool_id, token->pool_id) || !id_name_is_valid(joined->name) ||
        !is_address_list(joined->address))
        return problem_set(problem, GW_PEER_FAILED,
                           "what answers is pool '%.63s', the token is of pool %.63s",
                           id_name_is_valid(joined->pool_id) ? joined->pool_id : "?",
                           token->pool_id);
    if (pki_pin(joined->ca_certificate, pin, NULL) < 0 || !is_same(pin, token->pin))
        return problem_set(problem, GW_PEER_FAILED,
                           "the other pool's CA certificate is not the one that the token names");
    if (pki_identity_of(joined->certificate, &identity, NULL) < 0 ||
        !is_same(identity.role, "peer") || !is_same(identity.name, token->id) ||
        !is_same(identity.pool, token->pool_id))
        return problem_set(problem, GW_PEER_FAILED,
                           "the certificate that came back is not for a peer by this token");
    return 0;
}

struct peer_pool *peer_pool_add(struct peer_pools *pools, const Godwit__JoinToken *token,
                                const Godwit__PeerJoined *joined, const char *locked_key,
                                uint64_t now_unix_ms, struct store_batch *batch)
{
    struct peer_pool *pool = draft_new(pools, token->id, "peer", now_unix_ms);
    set_text(&pool->info->pool_id, joined->pool_id);
    set_text(&pool->info->name, joined->name);
    set_text(&pool->info->address, joined->address);
    set_text(&pool->info->ca_certificate, joined->ca_certificate);
    set_text(&pool->info->certificate, joined->certificate);
    set_text(&pool->info->key, locked_key);
    put(pool, batch);
    return pool;
}

/* ---- both -------------------------------------------------------------------------------------
 */

static bool is_name_of_another(const struct peer_pools *pools, const struct peer_pool *pool,
                               const char *name)
{
    for (const struct peer_pool *other = pools->first; other; other = other->next) {
        if (other != pool && peer_pool_is_peer(other) && is_same(other->info->name, name))
            return true;
    }
    return false;
}

void peer_pool_heard(const struct peer_pools *pools, struct peer_pool *pool, const char *name,
                     const char *address, uint64_t now_ns, uint64_t now_unix_ms,
                     struct store_batch *batch)
{
    Godwit__PeerRecord *info = pool->info;
    bool is_named = name && id_name_is_valid(name) && !is_same(name, info->name) &&
                    !is_name_of_another(pools, pool, name);
    bool is_moved = address && is_address_list(address) && !is_same(address, info->address);
    pool->seen_ns = now_ns;
    pool->seen_unix_ms = now_unix_ms;
    pool->reason[0] = '\0';
    if ((!is_named && !is_moved) ||
        (pool->news_ns && now_ns - pool->news_ns < PEER_NEWS_MS * NS_PER_MS))
        return;
    pool->news_ns = now_ns;
    if (is_named)
        set_text(&info->name, name);
    if (is_moved)
        set_text(&info->address, address);
    put(pool, batch);
}

void peer_pool_tell(const struct peer_pool *pool, uint64_t now_ns, Godwit__PeerInfo *ret_info,
                    char ret_pin[static PKI_PIN_SIZE])
{
    static const char *const states[] = {"away", "linked"};
    const Godwit__PeerRecord *info = pool->info;
    bool is_linked = peer_pool_is_linked(pool, now_ns);
    ret_pin[0] = '\0';
    (void)pki_pin(info->ca_certificate, ret_pin, NULL); /* it was judged when it was stored */
    godwit__peer_info__init(ret_info);
    ret_info->name = info->name;
    ret_info->pool_id = info->pool_id;
    ret_info->address = info->address;
    ret_info->state = (char *)(uintptr_t)states[is_linked]; /* protobuf-c knows no const */
    ret_info->pin = ret_pin;
    ret_info->has_invited = ret_info->has_created_unix_ms = true;
    ret_info->invited = !peer_pool_is_called(pool);
    ret_info->created_unix_ms = info->created_unix_ms;
    ret_info->has_seen_unix_ms = pool->seen_unix_ms != 0;
    ret_info->seen_unix_ms = pool->seen_unix_ms;
    if (!is_linked)
        ret_info->reason =
            (char *)(uintptr_t)(pool->reason[0] ? pool->reason
                                : pool->seen_ns ? "it is silent"
                                : peer_pool_is_called(pool)
                                    ? "it was not reached yet"
                                    : "it has not called since this coordinator began");
}

void peer_pool_tell_invitation(const struct peer_pool *pool, uint64_t now_unix_ms,
                               Godwit__PeerInfo *ret_info)
{
    static const char *const states[] = {"invited", "expired"};
    const Godwit__PeerRecord *info = pool->info;
    bool is_over = now_unix_ms > info->expires_unix_ms;
    godwit__peer_info__init(ret_info);
    ret_info->name = info->id;
    ret_info->state = (char *)(uintptr_t)states[is_over]; /* protobuf-c knows no const */
    ret_info->has_invited = ret_info->has_created_unix_ms = true;
    ret_info->invited = true;
    ret_info->created_unix_ms = info->created_unix_ms;
    ret_info->reason = (char *)(uintptr_t)(is_over ? "nobody has come by it in time"
                                                   : "nobody has come by it yet");
}

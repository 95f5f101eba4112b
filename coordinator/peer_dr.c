#include "coordinator/peer_dr.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/log.h"
#include "base/own.h"
#include "base/world.h"
#include "coordinator/api.h"
#include "coordinator/cluster_core.h"
#include "coordinator/dr.h"
#include "coordinator/dr_peer.h"
#include "coordinator/dr_peer_hold.h"
#include "coordinator/peer_link.h"
#include "coordinator/words.h"
#include "proto/method.h"
#include "proto/vm_spec.h"

enum {
    TELL_EVERY_MS = 1000,
    TELL_MS_MAX = 5000,
    HOLD_AGAIN_MS = 500,
    HOLD_MS_MAX = 5000,
    STUCK_MS = 6000, /* its connection ended, and with it the answer */
    WORDS_MAX = 500, /* at once: they have to fit what a peer may send */
};

static bool is_of(const struct cluster_dr *dr, const struct peer_pool *pool)
{
    return dr_peer_is(dr) && strcmp(dr->info->peer_pool_id, pool->info->pool_id) == 0;
}

unsigned peer_dr_count(const struct coordinator *coordinator, const struct peer_pool *pool)
{
    const struct cluster *cluster = &coordinator->cluster;
    unsigned count = 0;
    for (size_t i = 0; i < cluster->dr_count; i++)
        count += is_of(cluster->drs[i], pool);
    return count;
}

static struct cluster_dr *find_source(const struct cluster *cluster, const struct peer_pool *pool,
                                      const char *vm_id)
{
    const struct cluster_vm *vm = vm_id && vm_id[0] ? cluster_vm(cluster, vm_id) : NULL;
    struct cluster_dr *dr = vm ? vm->dr : NULL;
    return dr && is_of(dr, pool) && dr_peer_is_source(dr) ? dr : NULL;
}

/* ---- a reply that waits until it is durable ---------------------------------------------------
 */

struct waiting {
    struct rpc_request *request;
    ProtobufCMessage *reply; /* owned */
};

static void on_durable(void *data)
{
    struct waiting *waiting = data;
    (void)rpc_reply(waiting->request, waiting->reply);
    protobuf_c_message_free_unpacked(waiting->reply, NULL);
    free(waiting);
}

static void reply_when_durable(struct coordinator *coordinator, struct rpc_request *request,
                               const ProtobufCMessage *reply, struct cluster_todo *todo)
{
    struct waiting *waiting = calloc(1, sizeof *waiting);
    assert(waiting); /* control memory is small; without it there is no deciding */
    waiting->request = request;
    waiting->reply = cluster_message_copy(reply);
    assert(waiting->reply);
    coordinator_apply(coordinator, todo, NULL, on_durable, waiting);
}

/* ---- what is asked: durable before it leaves (INV-7) ------------------------------------------
 */

struct asking {
    struct coordinator *coordinator;
    char pool_id[PKI_NAME_MAX];
    char vm_id[ID_TEXT_SIZE];   /* of what is to be held; "": words of all */
    ProtobufCMessage *question; /* owned */
};

static void asking_freep(struct asking **asking)
{
    protobuf_c_message_free_unpacked((*asking)->question, NULL);
    free(*asking);
}

/* NULL: the other pool is no peer any more, or its line is gone. */
static struct rpc *line_by_now(const struct asking *asking, struct peer_pool **ret_pool)
{
    struct problem ignored = {0};
    *ret_pool = peer_pool_find(&asking->coordinator->peer_pools, asking->pool_id, &ignored);
    return *ret_pool ? peer_link_rpc(asking->coordinator, *ret_pool) : NULL;
}

static void ask_when_durable(struct coordinator *coordinator, const struct peer_pool *pool,
                             const char *vm_id, const ProtobufCMessage *question,
                             void (*leave)(void *data))
{
    struct cluster_todo todo = {0};
    struct asking *asking = calloc(1, sizeof *asking);
    assert(asking); /* control memory is small; without it there is no deciding */
    asking->coordinator = coordinator;
    WORDS_COPY(asking->pool_id, pool->info->pool_id);
    WORDS_COPY(asking->vm_id, vm_id);
    asking->question = cluster_message_copy(question);
    assert(asking->question);
    coordinator_apply(coordinator, &todo, NULL, leave, asking);
}

/* ---- asking to hold ---------------------------------------------------------------------------
 */

static void on_held(void *data, const ProtobufCMessage *reply, const struct fault *fault)
{
    struct peer_pool *pool = data;
    struct coordinator *coordinator = pool->coordinator;
    struct cluster_dr *dr = find_source(&coordinator->cluster, pool, pool->hold_id);
    struct cluster_todo todo = {0};
    pool->hold_ns = coordinator_now().ns + HOLD_AGAIN_MS * NS_PER_MS;
    if (dr)
        dr_peer_held(dr, (const Godwit__PeerDrHeld *)reply, fault ? fault->text : "",
                     coordinator_now(), &todo);
    coordinator_apply(coordinator, &todo, NULL, NULL, NULL);
}

static void send_hold(void *data)
{
    AUTO(asking_freep) struct asking *asking = data;
    struct peer_pool *pool;
    struct rpc *rpc = line_by_now(asking, &pool);
    struct fault fault = {0};
    if (!rpc || strcmp(pool->hold_id, asking->vm_id) != 0) /* it waited so long that another is asked */
        return;
    pool->hold_ns = coordinator_now().ns + STUCK_MS * NS_PER_MS;
    (void)rpc_call(rpc, METHOD_PEER_DR_HOLD, asking->question, &godwit__peer_dr_held__descriptor,
                   HOLD_MS_MAX, on_held, pool, &fault); /* a line that is lost comes back */
}

static void ask_to_hold(struct coordinator *coordinator, struct peer_pool *pool,
                        const struct cluster_dr *dr)
{
    const struct cluster_vm *vm = dr->vm;
    const struct cluster_host *host = cluster_host(&coordinator->cluster, vm->own.owner);
    Godwit__PeerDrHold hold = GODWIT__PEER_DR_HOLD__INIT;
    hold.vm_id = dr->info->vm_id;
    hold.protection_id = dr->info->protection_id;
    hold.has_generation = hold.has_link_no = hold.has_is_new = true;
    hold.generation = dr->info->generation;
    hold.link_no = dr->link_no;
    hold.is_new = !dr->info->peer_host[0];
    hold.spec = vm->spec;
    hold.n_disk_bytes = vm_spec_disk_count(vm->spec);
    hold.disk_bytes = dr->vm->disk_bytes;
    hold.has_rpo_ms = hold.has_disks_only = true;
    hold.rpo_ms = dr->info->rpo_ms;
    hold.disks_only = dr->info->disks_only;
    hold.cpu_vendor = host && host->facts ? host->facts->cpu_vendor : NULL;
    WORDS_COPY(pool->hold_id, vm->id);
    pool->hold_ns = coordinator_now().ns + STUCK_MS * NS_PER_MS;
    ask_when_durable(coordinator, pool, vm->id, &hold.base, send_hold);
}

/* One after the other, each in its turn. */
static void hold_next(struct coordinator *coordinator, struct peer_pool *pool)
{
    const struct cluster *cluster = &coordinator->cluster;
    if (coordinator_now().ns < pool->hold_ns)
        return;
    for (size_t i = 0; i < cluster->dr_count; i++) {
        const struct cluster_dr *dr = cluster->drs[(pool->next_dr + i) % cluster->dr_count];
        if (!is_of(dr, pool) || !dr->wants_hold || !dr_step_is(dr, "protect"))
            continue;
        pool->next_dr = (pool->next_dr + i + 1) % cluster->dr_count;
        ask_to_hold(coordinator, pool, dr);
        return;
    }
}

void peer_dr_on_hold(struct coordinator *coordinator, const struct peer_pool *pool,
                     struct rpc_request *request, const Godwit__PeerDrHold *wanted)
{
    Godwit__PeerDrHeld held;
    struct problem problem = {0};
    struct cluster_todo todo = {0};
    if (cluster_is_restored(&coordinator->cluster, NULL, 0))
        (void)problem_set(&problem, GW_DR_STATE, "the other pool's state was just restored");
    else if (dr_peer_hold(&coordinator->cluster, pool->info->pool_id, pool->info->name, wanted,
                          coordinator_now(), &held, &problem, &todo) == 0) {
        reply_when_durable(coordinator, request, &held.base, &todo);
        return;
    }
    api_reply_problem_as_fault(request, &problem, ERR_REFUSED);
    coordinator_apply(coordinator, &todo, NULL, NULL, NULL);
}

/* ---- how things are ---------------------------------------------------------------------------
 */

static void on_answers(void *data, const ProtobufCMessage *reply, const struct fault *fault)
{
    const struct peer_told *told = data;
    struct peer_pool *pool = told->pool;
    struct coordinator *coordinator = pool->coordinator;
    const Godwit__PeerDrWords *words = (const Godwit__PeerDrWords *)reply;
    struct cluster_todo todo = {0};
    pool->tell_ns = coordinator_now().ns + TELL_EVERY_MS * NS_PER_MS;
    if (!words)
        log_debug("peer_dr", "no answer peer=%s: %s", pool->info->name, fault->text);
    for (size_t i = 0; words && i < words->n_words; i++) {
        const Godwit__PeerDrWord *word = words->words[i];
        struct cluster_dr *dr = find_source(&coordinator->cluster, pool, word->vm_id);
        bool is_it =
            dr && word->protection_id && strcmp(dr->info->protection_id, word->protection_id) == 0;
        if (is_it)
            dr_peer_answered(&coordinator->cluster, dr, word, told->at_ns, coordinator_now(),
                             &todo);
    }
    coordinator_apply(coordinator, &todo, NULL, NULL, NULL);
}

/* Each call has a time of its own: an answer counts from when its question left, however late it comes. */
static struct peer_told *told_now(struct peer_pool *pool)
{
    struct peer_told *told = &pool->told[pool->next_told];
    uint64_t now_ns = coordinator_now().ns;
    if (told->at_ns && now_ns - told->at_ns <= 2 * TELL_MS_MAX * NS_PER_MS)
        return NULL; /* it may be answered yet */
    pool->next_told = (pool->next_told + 1) % PEER_TOLD_MAX;
    *told = (struct peer_told){.pool = pool, .at_ns = now_ns};
    return told;
}

static void send_words(void *data)
{
    AUTO(asking_freep) struct asking *asking = data;
    struct peer_pool *pool;
    struct rpc *rpc = line_by_now(asking, &pool);
    struct peer_told *told = rpc ? told_now(pool) : NULL;
    struct fault fault = {0};
    if (told)
        (void)rpc_call(rpc, METHOD_PEER_DR_WORDS, asking->question,
                       &godwit__peer_dr_words__descriptor, TELL_MS_MAX, on_answers, told,
                       &fault); /* a line that is lost comes back */
}

static void tell(struct coordinator *coordinator, struct peer_pool *pool)
{
    const struct cluster *cluster = &coordinator->cluster;
    struct cluster_now now = coordinator_now();
    Godwit__PeerDrWords words = GODWIT__PEER_DR_WORDS__INIT;
    if (now.ns < pool->tell_ns)
        return;
    AUTO_FREE Godwit__PeerDrWord *said = calloc(WORDS_MAX, sizeof *said);
    AUTO_FREE Godwit__PeerDrWord **list = calloc(WORDS_MAX, sizeof *list);
    assert(said && list); /* control memory is small; without it there is no deciding */
    words.words = list;
    size_t first = pool->next_word;
    for (size_t i = 0; i < cluster->dr_count && words.n_words < WORDS_MAX; i++) {
        struct cluster_dr *dr = cluster->drs[(first + i) % cluster->dr_count];
        pool->next_word = (first + i + 1) % cluster->dr_count;
        if (!is_of(dr, pool) || !dr_peer_is_source(dr))
            continue;
        dr_peer_say(dr, now, &said[words.n_words]);
        list[words.n_words] = &said[words.n_words];
        words.n_words++;
    }
    if (words.n_words == 0)
        return;
    pool->tell_ns = now.ns + STUCK_MS * NS_PER_MS;
    ask_when_durable(coordinator, pool, "", &words.base, send_words);
}

/* NULL: it cannot be spoken to, or not yet. */
static struct rpc *line_of(const struct coordinator *coordinator, const struct peer_pool *pool)
{
    bool is_linked = peer_pool_is_linked(pool, coordinator_now().ns) &&
                     !cluster_is_restored(&coordinator->cluster, NULL, 0);
    return is_linked ? peer_link_rpc(coordinator, pool) : NULL;
}

void peer_dr_look(struct coordinator *coordinator)
{
    struct cluster *cluster = &coordinator->cluster;
    for (size_t i = 0; i < cluster->dr_count; i++)
        cluster->drs[i]->peer_is_up = false, cluster->drs[i]->peer_is_gone = true;
    for (struct peer_pool *pool = coordinator->peer_pools.first; pool; pool = pool->next) {
        bool is_up = peer_pool_is_peer(pool) && line_of(coordinator, pool);
        for (size_t i = 0; i < cluster->dr_count; i++) {
            if (!is_of(cluster->drs[i], pool))
                continue;
            cluster->drs[i]->peer_is_up |= is_up;
            cluster->drs[i]->peer_is_gone = false;
        }
    }
}

void peer_dr_tick(struct coordinator *coordinator)
{
    peer_dr_look(coordinator);
    for (struct peer_pool *pool = coordinator->peer_pools.first; pool; pool = pool->next) {
        if (!line_of(coordinator, pool))
            continue;
        pool->coordinator = coordinator;
        hold_next(coordinator, pool);
        tell(coordinator, pool);
    }
}

static void answer_one(struct coordinator *coordinator, const struct peer_pool *pool,
                       Godwit__PeerDrWord *word, Godwit__PeerDrWord *ret_answer,
                       struct cluster_todo *todo)
{
    struct cluster *cluster = &coordinator->cluster;
    struct cluster_dr *dr = dr_peer_find(cluster, pool->info->pool_id, word);
    if (dr) {
        dr_peer_hear(cluster, dr, word, coordinator_now(), ret_answer, todo);
        return;
    }
    godwit__peer_dr_word__init(ret_answer);
    ret_answer->vm_id = word->vm_id;
    ret_answer->protection_id = word->protection_id;
    ret_answer->step = (char *)(uintptr_t) "none"; /* protobuf-c knows no const */
}

void peer_dr_on_words(struct coordinator *coordinator, const struct peer_pool *pool,
                      struct rpc_request *request, const Godwit__PeerDrWords *words)
{
    Godwit__PeerDrWords answers = GODWIT__PEER_DR_WORDS__INIT;
    struct cluster_todo todo = {0};
    struct fault fault = {0};
    if (words->n_words > WORDS_MAX || cluster_is_restored(&coordinator->cluster, NULL, 0)) {
        fault_set(&fault, ERR_STATE, "this pool cannot say just now");
        (void)rpc_reply_fault(request, &fault);
        return;
    }
    AUTO_FREE Godwit__PeerDrWord *said = calloc(words->n_words + 1, sizeof *said);
    AUTO_FREE Godwit__PeerDrWord **list = calloc(words->n_words + 1, sizeof *list);
    assert(said && list);
    answers.words = list;
    for (size_t i = 0; i < words->n_words; i++) {
        answer_one(coordinator, pool, words->words[i], &said[i], &todo);
        list[answers.n_words++] = &said[i];
    }
    reply_when_durable(coordinator, request, &answers.base, &todo);
}

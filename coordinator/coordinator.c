#include "coordinator/coordinator.h"

#include <assert.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/config.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/own.h"
#include "base/paths.h"
#include "base/world.h"
#include "coordinator/adopt_all.h"
#include "coordinator/agent_link.h"
#include "coordinator/api.h"
#include "coordinator/audit.h"
#include "coordinator/backup.h"
#include "coordinator/cluster_core.h"
#include "coordinator/console_relay.h"
#include "coordinator/disk_move_run.h"
#include "coordinator/enrol.h"
#include "coordinator/etcd.h"
#include "coordinator/events.h"
#include "coordinator/fence.h"
#include "coordinator/image_task.h"
#include "coordinator/job.h"
#include "coordinator/peer_api.h"
#include "coordinator/peer_dr.h"
#include "coordinator/peer_link.h"
#include "coordinator/plan_watch.h"
#include "coordinator/reboot.h"
#include "coordinator/rows.h"
#include "coordinator/store.h"
#include "coordinator/store_look.h"
#include "coordinator/watch.h"

enum { TICK_MS = 100, CAMPAIGN_MS = 500 };

struct ticket { /* an operator that waits for what becomes of an order */
    struct ticket *next;
    uint64_t number;
    struct rpc_request *request; /* NULL: `done` gets the answer */
    void (*done)(void *data, const struct cluster_answer *answer);
    void *data;
};

struct cluster_now coordinator_now(void)
{
    return (struct cluster_now){.ns = world_now_ns(), .unix_ms = world_wall_ms()};
}

/* ---- carrying out -----------------------------------------------------------------------------
 */

struct applying { /* a todo whose rows are on their way to the disk */
    struct coordinator *coordinator;
    struct cluster_todo todo;
    void (*after)(void *data);
    void *data;
};

void coordinator_await(struct coordinator *coordinator, uint64_t ticket,
                       struct rpc_request *request)
{
    struct ticket *waiting = calloc(1, sizeof *waiting);
    assert(waiting);
    waiting->number = ticket;
    waiting->request = request;
    waiting->next = coordinator->tickets;
    coordinator->tickets = waiting;
}

void coordinator_await_call(struct coordinator *coordinator, uint64_t ticket,
                            void (*done)(void *data, const struct cluster_answer *answer),
                            void *data)
{
    coordinator_await(coordinator, ticket, NULL);
    coordinator->tickets->done = done;
    coordinator->tickets->data = data;
}

static void give_answer(struct coordinator *coordinator, const struct cluster_answer *answer)
{
    struct ticket **link = &coordinator->tickets;
    while (*link && (*link)->number != answer->ticket)
        link = &(*link)->next;
    struct ticket *ticket = *link;
    if (!ticket)
        return;
    *link = ticket->next;
    if (ticket->done)
        ticket->done(ticket->data, answer);
    else
        api_reply_action(coordinator, ticket->request, answer->vm_id, answer->problem,
                         answer->receipt);
    free(ticket);
}

static void wipe_old_keys(struct coordinator *coordinator)
{
    struct job_key *key = coordinator->job_keys, *next;
    for (; key; key = next) {
        next = key->next;
        const struct cluster_job *job = cluster_job(&coordinator->cluster, key->job_id);
        if (!job || !job_core_is_active(&job->core))
            job_key_wipe(coordinator, key->job_id);
    }
}

/* What was said to a host that is being fenced, and not yet heard, is never to be heard. */
static void drop_link(struct coordinator *coordinator, const char *host)
{
    struct peer *peer = agent_link_find(coordinator, host);
    if (peer)
        coordinator_peer_gone(peer);
}

static void act(struct coordinator *coordinator, const struct cluster_todo *todo)
{
    for (size_t i = 0; i < todo->put_count; i++) {
        if (todo->puts[i].kind == PUT_EVENT)
            events_add(coordinator, todo->puts[i].key, todo->puts[i].text,
                       coordinator_now().unix_ms);
    }
    for (size_t i = 0; i < todo->order_count; i++) {
        const struct cluster_order *order = &todo->orders[i];
        if (order->kind == ORDER_EVICT || order->kind == ORDER_FENCE)
            drop_link(coordinator, order->about);
        if (order->kind == ORDER_REBOOT)
            reboot_host(coordinator, order->host);
        else if (order->kind == ORDER_FENCE)
            fence_order(coordinator, order);
        else
            agent_link_order(coordinator, order);
    }
    for (size_t i = 0; i < todo->answer_count; i++)
        give_answer(coordinator, &todo->answers[i]);
    for (size_t i = 0; i < todo->news_count; i++) {
        if (todo->news[i][0] == 'P')
            plan_watch_news(coordinator, todo->news[i]);
        else
            watch_news(coordinator, todo->news[i]);
    }
    wipe_old_keys(coordinator);
    console_relay_follow(coordinator);
}

static void on_stored(void *data, const struct fault *fault)
{
    struct applying *applying = data;
    struct coordinator *coordinator = applying->coordinator;
    assert(coordinator->commits > 0);
    coordinator->commits--;
    if (fault && !coordinator->is_failed) {
        log_error("coordinator", "the pool's state cannot be kept; VMs are not touched: %s",
                  fault->text);
        coordinator->is_failed = true;
        loop_stop(coordinator->loop);
    }
    if (!coordinator->is_failed) { /* later ones rest on it: none is acted on any more */
        act(coordinator, &applying->todo);
        if (applying->after)
            applying->after(applying->data);
    }
    cluster_todo_deinit(&applying->todo);
    free(applying);
}

void coordinator_apply(struct coordinator *coordinator, struct cluster_todo *todo,
                       struct store_batch *batch, void (*after)(void *data), void *data)
{
    struct cluster_now now = coordinator_now();
    struct fault fault = {0};
    if (!batch) {
        int r = store_batch_new(&batch, &fault);
        assert(r == 0); /* control memory is small; without it there is no deciding */
    }
    for (size_t i = 0; i < todo->put_count; i++)
        rows_put(batch, &coordinator->cluster, &todo->puts[i], now, &coordinator->last_event);

    bool has_to_wait =
        coordinator->commits > 0 && (todo->order_count || todo->answer_count || after);
    if (store_batch_is_empty(batch) && !has_to_wait) {
        (void)store_batch_free(batch);
        act(coordinator, todo);
        cluster_todo_deinit(todo);
        if (after)
            after(data);
        return;
    }
    struct applying *applying = calloc(1, sizeof *applying);
    assert(applying);
    *applying =
        (struct applying){.coordinator = coordinator, .todo = *todo, .after = after, .data = data};
    *todo = (struct cluster_todo){0};
    coordinator->commits++;
    store_commit(coordinator->store, batch, on_stored, applying);
}

static void on_tick(void *data)
{
    struct coordinator *coordinator = data;
    struct cluster_todo todo = {0};
    agent_link_tick(coordinator);
    peer_link_tick(coordinator);
    peer_dr_tick(coordinator);
    cluster_tick(&coordinator->cluster, coordinator_now(), &todo);
    if (todo.put_count || todo.order_count || todo.answer_count || todo.news_count)
        coordinator_apply(coordinator, &todo, NULL, NULL, NULL);
    cluster_todo_deinit(&todo);
    disk_move_run_tick(coordinator);
    store_look_tick(coordinator);
    watch_tick(coordinator);
    plan_watch_tick(coordinator);
}

/* ---- connections ------------------------------------------------------------------------------
 */

static void on_peer(void *data, struct rpc *rpc)
{
    struct coordinator *coordinator = data;
    struct peer *peer = calloc(1, sizeof *peer);
    if (!peer) {
        (void)rpc_close(rpc);
        return;
    }
    peer->coordinator = coordinator;
    peer->rpc = rpc;
    peer->next = coordinator->peers;
    coordinator->peers = peer;
    rpc_set_data(rpc, peer);
    log_debug("coordinator", "connected role='%s' name=%s address=%s", rpc_peer(rpc)->role,
              rpc_peer(rpc)->name, rpc_peer_address(rpc));
}

void coordinator_peer_gone(struct peer *peer)
{
    struct coordinator *coordinator = peer->coordinator;
    struct peer **link = &coordinator->peers;
    while (*link != peer)
        link = &(*link)->next;
    *link = peer->next;
    peer->rpc = rpc_close(peer->rpc);
    agent_link_gone(peer);
    watch_peer_gone(peer);
    plan_watch_peer_gone(peer);
    console_relay_peer_gone(peer);
    if (peer->host[0]) {
        struct cluster_todo todo = {0};
        struct cluster_host *host = cluster_host(&coordinator->cluster, peer->host);
        cluster_link_lost(&coordinator->cluster, host, coordinator_now(), &todo);
        coordinator_apply(coordinator, &todo, NULL, NULL, NULL);
    }
    free(peer);
}

/* ---- life -------------------------------------------------------------------------------------
 */

static int read_text(const char *directory, const char *file, char **ret_text, struct fault *fault)
{
    char path[PATH_MAX];
    int r = path_join(path, sizeof path, fault, "%s/%s", directory, file);
    return r < 0 ? r : file_read(path, ret_text, NULL, fault);
}

static void config_free_p(struct config **config)
{
    *config = config_free(*config);
}

static int copy_value(const struct config *config, const char *key, char **ret_value,
                      struct fault *fault)
{
    const char *value;
    int r = config_need(config, key, &value, fault);
    if (r < 0)
        return r;
    *ret_value = strdup(value);
    return *ret_value ? 0 : fault_set(fault, ERR_NOMEM, "no memory to read the pool's settings");
}

static int read_pool(struct coordinator *coordinator, const char *directory, char **ret_listen,
                     struct fault *fault)
{
    char path[PATH_MAX];
    AUTO(config_free_p) struct config *config = NULL;
    int r = path_join(path, sizeof path, fault, "%s/%s", directory, PATHS_POOL_CONFIG);
    if (r == 0)
        r = config_read(&config, path, fault);
    if (r < 0) {
        if (r == ERR_NOT_FOUND)
            fault_hint(fault, "godwit pool init");
        return r;
    }
    r = copy_value(config, "pool_id", &coordinator->pool_id, fault);
    if (r == 0)
        r = copy_value(config, "name", &coordinator->name, fault);
    if (r == 0)
        r = copy_value(config, "address", &coordinator->address, fault);
    if (r == 0)
        r = copy_value(config, "listen", ret_listen, fault);
    char first[ADDRESS_SIZE] = "";
    if (r == 0 && !config_get(config, "self") &&
        !address_list_get(coordinator->address, 0, first, sizeof first))
        r = fault_set(fault, ERR_INVALID, "%s names no address of this coordinator", path);
    if (r == 0) {
        coordinator->self = strdup(first[0] ? first : config_get(config, "self"));
        if (!coordinator->self)
            r = fault_set(fault, ERR_NOMEM, "no memory to read the pool's settings");
    }
    const char *adopt = config_get(config, "adopt");
    if (r == 0 && adopt && !adopt_all_is_word(adopt))
        r = fault_set(fault, ERR_INVALID, "%s: adopt: found '%.40s'; all would fit", path, adopt);
    coordinator->adopts_all = r == 0 && adopt && adopt[0];
    if (r == 0 && config_get(config, "reboot_command"))
        r = copy_value(config, "reboot_command", &coordinator->reboot_command, fault);
    if (r == 0)
        r = read_text(directory, PATHS_CA_CERTIFICATE, &coordinator->ca_certificate, fault);
    if (r == 0)
        r = read_text(directory, PATHS_CA_KEY, &coordinator->ca_key, fault);
    if (r == 0)
        r = pki_pin(coordinator->ca_certificate, coordinator->pin, fault);
    return r;
}

static void tls_context_free_p(struct tls_context **context)
{
    *context = tls_context_free(*context);
}

static int listen_on(struct coordinator *coordinator, const char *directory, const char *address,
                     struct fault *fault)
{
    AUTO_FREE char *certificate = NULL;
    AUTO_FREE char *key = NULL;
    AUTO(tls_context_free_p) struct tls_context *context = NULL;
    int r = read_text(directory, "coordinator.crt", &certificate, fault);
    if (r == 0)
        r = read_text(directory, "coordinator.key", &key, fault);
    if (r < 0)
        return r;
    struct tls_identity identity = {.ca_certificate = coordinator->ca_certificate,
                                    .certificate = certificate,
                                    .key = key,
                                    .allow_anonymous_peer = true};
    r = tls_context_new(&context, &identity, fault);
    explicit_bzero(key, strlen(key));
    if (r < 0)
        return r;
    struct rpc_server_config config = {.address = address,
                                       .context = context,
                                       .unix_fd = -1,
                                       .service = &api_service,
                                       .data = coordinator,
                                       .on_peer = on_peer};
    return rpc_server_new(&coordinator->server, coordinator->loop, &config, fault);
}

/* ---- leading and standing by ------------------------------------------------------------------
 */

static void on_lost(void *data, const struct fault *fault)
{
    struct coordinator *coordinator = data;
    if (coordinator->is_failed)
        return;
    log_error("coordinator", "standing down, VMs are not touched: %s", fault->text);
    coordinator->is_failed = true; /* nothing is acted on any more */
    loop_stop(coordinator->loop);
}

/* The store is open and ours: know what is in it and go on from there. */
static int activate(struct coordinator *coordinator, struct fault *fault)
{
    int r = rows_load(coordinator->store, &coordinator->cluster, &coordinator->last_event, fault);
    if (r == 0)
        r = enrol_load(coordinator, fault);
    if (r == 0)
        r = peer_pools_load(&coordinator->peer_pools, coordinator->store, fault);
    if (r == 0)
        r = events_load(coordinator, fault);
    if (r == 0)
        r = audit_load(coordinator, fault);
    if (r < 0)
        return fault_wrap(fault, r, "loading the pool's state");
    r = store_watch_lost(coordinator->store, on_lost, coordinator, fault);
    if (r == 0)
        r = loop_timer_new(&coordinator->tick, coordinator->loop, on_tick, coordinator, fault);
    if (r < 0)
        return r;
    coordinator->is_active = true;
    coordinator->leader[0] = '\0';
    struct cluster_todo todo = {0};
    uint64_t chance[2];
    world_random(chance, sizeof chance);
    cluster_seed(&coordinator->cluster, chance[0], chance[1]);
    cluster_restart(&coordinator->cluster, coordinator_now(), &todo);
    coordinator_apply(coordinator, &todo, NULL, NULL, NULL);
    loop_timer_start(coordinator->tick, TICK_MS, TICK_MS);
    log_info("coordinator", "ready pool=%s address=%s hosts=%zu vms=%zu jobs=%zu",
             coordinator->name, coordinator->self, coordinator->cluster.host_count,
             coordinator->cluster.vm_count, coordinator->cluster.job_count);
    return 0;
}

static void campaign_work(void *data)
{
    struct coordinator *coordinator = data;
    coordinator->campaign_fault = (struct fault){0};
    (void)store_open_as(&coordinator->campaign_store, coordinator->where, coordinator->self,
                        coordinator->loop, &coordinator->campaign_fault);
}

static void campaign_done(void *data)
{
    struct coordinator *coordinator = data;
    const struct fault *told = &coordinator->campaign_fault;
    coordinator->is_campaigning = false;
    if (told->code) {
        const char *leader = told->code == ERR_BUSY ? told->hint : "";
        bool is_news = strcmp(coordinator->leader, leader) != 0 || !coordinator->is_told;
        if (is_news)
            log_info("coordinator", "standing by: %s", told->text);
        coordinator->is_told = true;
        (void)snprintf(coordinator->leader, sizeof coordinator->leader, "%s", leader);
        return;
    }
    struct fault fault = {0};
    coordinator->is_told = false;
    coordinator->store = TAKE(coordinator->campaign_store);
    if (!coordinator->campaign)
        return; /* we are ending */
    loop_timer_stop(coordinator->campaign);
    if (activate(coordinator, &fault) < 0) {
        log_error("coordinator", "cannot lead: %s", fault.text);
        coordinator->is_failed = true;
        loop_stop(coordinator->loop);
    }
}

static void campaign(void *data)
{
    struct coordinator *coordinator = data;
    if (coordinator->is_campaigning)
        return;
    coordinator->is_campaigning =
        loop_work(coordinator->loop, campaign_work, campaign_done, coordinator) == 0;
}

static void stand_by(struct coordinator *coordinator)
{
    coordinator->is_failed = false;
    loop_timer_start(coordinator->campaign, 1, CAMPAIGN_MS);
}

static int open_sqlite(struct coordinator *coordinator, const char *directory, struct fault *fault)
{
    char path[PATH_MAX];
    int r = path_join(path, sizeof path, fault, "%s/%s", directory, PATHS_DATABASE);
    if (r == 0)
        r = store_open(&coordinator->store, path, coordinator->loop, fault);
    return r < 0 ? fault_wrap(fault, r, "loading the pool's state") : activate(coordinator, fault);
}

/* All coordinators of a pool share an etcd, which may serve other pools too. */
static int name_store(struct coordinator *coordinator, const char *store, struct fault *fault)
{
    const char *at = strstr(store, "://") + 3, *words = store + strcspn(store, "?");
    bool has_prefix = memchr(at, '/', (size_t)(words > at ? words - at : 0)) != NULL;
    int n = asprintf(&coordinator->where, "%.*s%s/%s%s", (int)(words - store), store,
                     has_prefix ? "" : "/godwit", coordinator->pool_id, words);
    if (n < 0) {
        coordinator->where = NULL;
        return fault_set(fault, ERR_NOMEM, "no memory for the store's address");
    }
    struct etcd *etcd = NULL; /* what makes no sense is told now, not by each campaign */
    int r = etcd_new(&etcd, coordinator->where, fault);
    (void)etcd_free(etcd);
    if (r < 0)
        return fault_wrap(fault, r, "--store");
    return loop_timer_new(&coordinator->campaign, coordinator->loop, campaign, coordinator, fault);
}

int coordinator_new(struct coordinator **ret_coordinator, struct loop *loop, const char *directory,
                    const char *store, const char *fence_dir, struct fault *fault)
{
    struct coordinator *coordinator = calloc(1, sizeof *coordinator);
    if (!coordinator)
        return fault_set(fault, ERR_NOMEM, "no memory for the coordinator");
    coordinator->loop = loop;
    coordinator->fence_dir = fence_dir;
    AUTO_FREE char *address = NULL;
    int r = 0;
    if (store && !store_is_shared(store))
        r = fault_set(fault, ERR_INVALID,
                      "--store: found '%.120s'; etcd://HOST:PORT,... or etcds:// would fit", store);
    if (r == 0)
        r = read_pool(coordinator, directory, &address, fault);
    if (r == 0)
        r = store ? name_store(coordinator, store, fault)
                  : open_sqlite(coordinator, directory, fault);
    if (r == 0)
        r = listen_on(coordinator, directory, address, fault);
    if (r < 0) {
        (void)coordinator_free(coordinator);
        return r;
    }
    log_info("coordinator", "listening pool=%s listen=%s port=%u", coordinator->name, address,
             rpc_server_port(coordinator->server));
    if (coordinator->campaign)
        stand_by(coordinator);
    *ret_coordinator = coordinator;
    return 0;
}

int coordinator_restore(struct loop *loop, const char *directory, const char *store,
                        const char *path, struct fault *fault)
{
    struct coordinator *coordinator = calloc(1, sizeof *coordinator);
    if (!coordinator)
        return fault_set(fault, ERR_NOMEM, "no memory for the coordinator");
    coordinator->loop = loop;
    AUTO_FREE char *address = NULL;
    char database[PATH_MAX];
    int r = read_pool(coordinator, directory, &address, fault);
    if (r == 0 && store)
        r = name_store(coordinator, store, fault);
    if (r == 0)
        r = path_join(database, sizeof database, fault, "%s/%s", directory, PATHS_DATABASE);
    if (r == 0)
        r = store_open_as(&coordinator->store, store ? coordinator->where : database,
                          coordinator->self, loop, fault);
    if (r == 0)
        r = backup_restore(coordinator->store, path, coordinator->pool_id, fault);
    (void)coordinator_free(coordinator);
    return r < 0 ? fault_wrap(fault, r, "restoring %s", path) : 0;
}

static void forget_peers(struct coordinator *coordinator)
{
    while (coordinator->peers) {
        struct peer *peer = coordinator->peers;
        coordinator->peers = peer->next;
        agent_link_forget(peer);
        watch_peer_gone(peer);
        plan_watch_peer_gone(peer);
        console_relay_peer_gone(peer);
        peer->rpc = rpc_close_flushed(peer->rpc);
        free(peer);
    }
}

/* Before anything that they would be told to is freed. */
static void forget_calls(struct coordinator *coordinator)
{
    for (struct peer *peer = coordinator->peers; peer; peer = peer->next)
        agent_link_forget(peer);
    agent_link_forget_failed(coordinator);
}

static void refuse_waiting(struct coordinator *coordinator)
{
    struct fault fault = {0};
    fault_set(&fault, ERR_UNREACHABLE, "the coordinator ends; the order may be carried out still");
    while (coordinator->tickets) {
        struct ticket *ticket = coordinator->tickets;
        coordinator->tickets = ticket->next;
        (void)rpc_reply_fault(ticket->request, &fault);
        free(ticket);
    }
    while (coordinator->image_tasks) {
        (void)rpc_reply_fault(coordinator->image_tasks->request, &fault);
        image_task_free(coordinator->image_tasks);
    }
}

static void deactivate(struct coordinator *coordinator)
{
    coordinator->is_active = false;
    coordinator->tick = loop_timer_free(coordinator->tick);
    while (coordinator->commits > 0 || coordinator->fencings > 0)
        /* what was decided becomes durable, and is answered */
        loop_turn(coordinator->loop, true);
    forget_calls(coordinator);
    refuse_waiting(coordinator);
    peer_api_unload(coordinator);
    forget_peers(coordinator);
    adopt_all_free(coordinator);
    job_keys_wipe_all(coordinator);
    enrol_unload(coordinator);
    events_unload(coordinator);
    audit_unload(coordinator);
    coordinator->store = store_close(coordinator->store);
    cluster_deinit(&coordinator->cluster);
    coordinator->last_session = coordinator->last_event = 0;
    coordinator->looks_at_stores = false; /* its answers do not come any more */
    coordinator->looked_at_stores_ns = 0;
}

bool coordinator_stood_down(struct coordinator *coordinator)
{
    if (!coordinator->campaign || !coordinator->is_failed)
        return false;
    deactivate(coordinator);
    stand_by(coordinator);
    return true;
}

struct coordinator *coordinator_free(struct coordinator *coordinator)
{
    if (!coordinator)
        return NULL;
    coordinator->server = rpc_server_free(coordinator->server);
    coordinator->campaign = loop_timer_free(coordinator->campaign);
    while (coordinator->is_campaigning)
        loop_turn(coordinator->loop, true);
    deactivate(coordinator);
    if (coordinator->ca_key)
        explicit_bzero(coordinator->ca_key, strlen(coordinator->ca_key));
    free(coordinator->pool_id);
    free(coordinator->name);
    free(coordinator->address);
    free(coordinator->self);
    free(coordinator->where);
    free(coordinator->ca_certificate);
    free(coordinator->reboot_command);
    free(coordinator->ca_key);
    free(coordinator);
    return NULL;
}

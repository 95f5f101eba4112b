/* Domains are known by lists: one when libvirtd is reached, one after every event of a domain that
 * nothing here speaks for, one every LIST_MS in case an event was lost. */
#include "agent/backend_libvirt/backend_libvirt.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "agent/backend_libvirt/domain.h"
#include "agent/backend_libvirt/domain_check.h"
#include "agent/backend_libvirt/domain_needs.h"
#include "agent/backend_libvirt/domain_snapshot.h"
#include "agent/backend_libvirt/hypervisor.h"
#include "agent/backend_libvirt/snapshot_orders.h"
#include "agent/backend_libvirt/virt_snapshot.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/own.h"
#include "base/world.h"
#include "net/rpc.h"
#include "proto/limits.h"

enum { LIST_MS = 5000 };

struct row { /* a domain that is spoken for */
    struct row *next;
    struct domain *domain;
};

struct backend_libvirt {
    struct backend_libvirt_config config;
    struct hypervisor *hypervisor;
    struct loop_timer *timer;
    struct row *rows;
    struct domain_list *list; /* of this connection; NULL: none yet */
    bool is_listing, list_again;
    bool is_stale; /* the list that is being made: it may show as running what has ended since */
    uint64_t list_number; /* of the list that was begun last */
    struct snapshot_orders orders;
    Godwit__SnapshotInfo **infos; /* owned, as is each; of the list */
    size_t info_count, left_out;
    char version[64];
    /* what is told of it */
    Godwit__AgentFound found;
    Godwit__FoundDomain *founds;
    Godwit__FoundDomain **found_list;
    char **undefined, **autostart; /* of the rows' ids, borrowed */
    Godwit__DomainDefinition *definitions;
    Godwit__DomainDefinition **definition_list;
};

static struct row *find_row(struct backend_libvirt *backend, const char *vm_id)
{
    for (struct row *row = backend->rows; row; row = row->next) {
        if (strcmp(domain_id(row->domain), vm_id) == 0)
            return row;
    }
    return NULL;
}

static const struct domain_state *find_state(const struct backend_libvirt *backend,
                                             const char *vm_id)
{
    for (size_t i = 0; backend->list && i < backend->list->count; i++) {
        if (strcmp(backend->list->states[i].vm_id, vm_id) == 0)
            return &backend->list->states[i];
    }
    return NULL;
}

/* ---- lists ---- */
static void list(struct backend_libvirt *backend);

static void list_work(struct _virConnect *connection, void *data)
{
    domain_call_list(connection, data);
}

static void tell_rows(struct backend_libvirt *backend)
{
    for (struct row *row = backend->rows; row; row = row->next) {
        const struct domain_state *state = find_state(backend, domain_id(row->domain));
        struct domain_state gone = {.sight = SIGHT_OFF};
        domain_see(row->domain, state ? state : &gone);
    }
}

/* ---- snapshots ---- */
static void drop_infos(struct backend_libvirt *backend)
{
    for (size_t i = 0; i < backend->info_count; i++)
        godwit__snapshot_info__free_unpacked(backend->infos[i], NULL);
    free(backend->infos);
    backend->infos = NULL;
    backend->info_count = 0;
}

static void make_infos(struct backend_libvirt *backend)
{
    const struct domain_snapshot_list *found = &backend->list->snapshots;

    drop_infos(backend);
    if (!found->is_unknown)
        backend->infos = calloc(found->count + 1, sizeof(Godwit__SnapshotInfo *));
    for (size_t i = 0; backend->infos && i < found->count; i++) {
        Godwit__SnapshotInfo *info = virt_snapshot_info(&found->snapshots[i], backend->config.host);
        if (info)
            backend->infos[backend->info_count++] = info;
    }
    if (found->left_out && found->left_out != backend->left_out)
        log_warn("backend_libvirt",
                 "%zu snapshots of domains are not told: there are more than %d, or libvirt "
                 "does not describe them",
                 found->left_out, DOMAIN_SNAPSHOTS_MAX);
    backend->left_out = found->left_out;
}

/* Who waits for a list that will not come is answered. */
static void no_list(struct backend_libvirt *backend)
{
    snapshot_orders_listed(&backend->orders, UINT64_MAX, NULL, 0);
}

static uint64_t on_order_over(void *data, const char *vm_id)
{
    struct backend_libvirt *backend = data;
    uint64_t number = backend->list_number + 1;

    backend->config.on_snapshot_over(backend->config.data, vm_id);
    list(backend);
    return number;
}

Godwit__SnapshotInfo *const *backend_libvirt_snapshots(const struct backend_libvirt *backend,
                                                       size_t *ret_count)
{
    *ret_count = backend->info_count;
    return backend->infos;
}

static int order_snapshot(struct backend_libvirt *backend, const struct snapshot_wish *wish,
                          struct fault *fault)
{
    const struct row *row = find_row(backend, wish->vm_id);

    if (row && domain_is_moving(row->domain) && wish->verb != SNAPSHOT_VERB_CHECK)
        return fault_set(fault, ERR_BUSY, "a move has it");
    return snapshot_orders_begin(&backend->orders, wish, fault);
}

int backend_libvirt_snapshot_take(struct backend_libvirt *backend,
                                  const Godwit__OrderSnapshot *order, bool is_off,
                                  struct rpc_request *request, struct fault *fault)
{
    const struct domain_state *state = find_state(backend, order->vm_id);
    const struct snapshot_wish wish = {.verb = SNAPSHOT_VERB_TAKE,
                                       .vm_id = order->vm_id,
                                       .name = order->name,
                                       .is_off = is_off,
                                       .memory_bytes = state ? state->memory_bytes : 0,
                                       .request = request};

    return order_snapshot(backend, &wish, fault);
}

int backend_libvirt_snapshot_check(struct backend_libvirt *backend,
                                   const Godwit__SnapshotInfo *info, struct rpc_request *request,
                                   struct fault *fault)
{
    const struct snapshot_wish wish = {.verb = SNAPSHOT_VERB_CHECK,
                                       .vm_id = info->vm_id,
                                       .name = info->libvirt_name,
                                       .request = request};

    return order_snapshot(backend, &wish, fault);
}

int backend_libvirt_snapshot_remove(struct backend_libvirt *backend,
                                    const Godwit__SnapshotInfo *info, struct rpc_request *request,
                                    struct fault *fault)
{
    const struct snapshot_wish wish = {.verb = SNAPSHOT_VERB_REMOVE,
                                       .vm_id = info->vm_id,
                                       .name = info->libvirt_name,
                                       .request = request};

    return order_snapshot(backend, &wish, fault);
}

static void list_done(void *data)
{
    struct domain_list *found = data;
    struct backend_libvirt *backend = found->owner;

    backend->is_listing = false;
    if (backend->is_stale) {
        backend->is_stale = false;
        (void)domain_list_free(found);
    } else if (found->fault.code) {
        log_warn("backend_libvirt", "%s", found->fault.text);
        (void)domain_list_free(found);
        no_list(backend);
    } else if (backend->version[0]) { /* of the connection that is there */
        (void)domain_list_free(backend->list);
        backend->list = found;
        make_infos(backend);
        tell_rows(backend);
        backend->config.on_changed(backend->config.data);
        if (backend->infos)
            snapshot_orders_listed(&backend->orders, found->number, backend->infos,
                                   backend->info_count);
    } else {
        (void)domain_list_free(found);
    }
    if (backend->list_again) {
        backend->list_again = false;
        list(backend);
    }
}

static void list(struct backend_libvirt *backend)
{
    if (backend->is_listing) {
        backend->list_again = true;
        return;
    }
    struct domain_list *found = calloc(1, sizeof *found);
    if (!found)
        return;
    found->owner = backend;
    found->number = ++backend->list_number;
    if (hypervisor_call(backend->hypervisor, list_work, list_done, found, NULL) == 0) {
        backend->is_listing = true;
    } else {
        (void)domain_list_free(found);
        no_list(backend);
    }
}

static void timer_fired(void *data)
{
    struct backend_libvirt *backend = data;

    snapshot_orders_tick(&backend->orders, world_now_ns());
    list(backend);
}

/* ---- libvirtd ---- */
static void on_up(void *data, const char *version)
{
    struct backend_libvirt *backend = data;

    (void)snprintf(backend->version, sizeof backend->version, "%s", version);
    list(backend);
}

static void on_down(void *data, const char *why)
{
    struct backend_libvirt *backend = data;

    log_warn("backend_libvirt", "%s; its domains run on, unseen", why);
    backend->version[0] = 0;
    backend->list = domain_list_free(backend->list);
    drop_infos(backend);
    backend->config.on_changed(backend->config.data);
    no_list(backend);
}

static void on_event(void *data, const char *vm_id, int event, int detail)
{
    struct backend_libvirt *backend = data;
    struct row *row = find_row(backend, vm_id);

    log_debug("backend_libvirt", "event=%d detail=%d vm=%s", event, detail, vm_id);
    if (row)
        domain_on_event(row->domain, event, detail);
    list(backend);
}

static void on_job(void *data, const char *vm_id, const struct virt_job *job)
{
    struct row *row = find_row(data, vm_id);

    if (row)
        domain_on_job(row->domain, job);
}

const char *backend_libvirt_version(const struct backend_libvirt *backend)
{
    return backend->version[0] ? backend->version : NULL;
}

bool backend_libvirt_is_known(const struct backend_libvirt *backend)
{
    return backend->list != NULL;
}

/* ---- domains that are spoken for ---- */
static void on_closed(void *data, struct domain *domain)
{
    struct backend_libvirt *backend = data;

    /* What was listed before its end shows it as running: no word of it until the next list. */
    for (size_t i = 0; backend->list && i < backend->list->count; i++) {
        if (strcmp(backend->list->states[i].vm_id, domain_id(domain)) == 0)
            backend->list->states[i].exists = false;
    }
    backend->is_stale = backend->is_listing;
    for (struct row **at = &backend->rows; *at; at = &(*at)->next) {
        struct row *row = *at;
        if (row->domain != domain)
            continue;
        *at = row->next;
        (void)domain_free(domain);
        free(row);
        break;
    }
    list(backend); /* it is one of the others now */
}

int backend_libvirt_open(struct backend_libvirt *backend, const char *vm_id, const char *latch_path,
                         bool inherit, int *ret_fd, struct fault *fault)
{
    int fds[2];
    const struct domain_state *seen = find_state(backend, vm_id);
    const struct domain_state gone = {.sight = SIGHT_OFF};
    const struct domain_config config = {
        .loop = backend->config.loop,
        .hypervisor = backend->hypervisor,
        .vm_id = vm_id,
        .latch_path = latch_path,
        .libvirt_uri = backend->config.libvirt_uri,
        .data_uri = backend->config.data_uri,
        .plain = backend->config.plain,
        .line_open = backend->config.line_open,
        .line_ask = backend->config.line_ask,
        .line_close = backend->config.line_close,
        .line_data = backend->config.data,
        .on_closed = on_closed,
        .data = backend,
    };

    if (find_row(backend, vm_id))
        return fault_set(fault, ERR_BUSY, "its domain is just ending here");
    if (!backend->list && inherit)
        return fault_set(fault, ERR_UNREACHABLE, "libvirtd of this host does not answer");
    struct row *row = calloc(1, sizeof *row);
    if (!row || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) < 0) {
        free(row);
        return fault_set(fault, ERR_NOMEM, "no room to speak for a domain");
    }
    int r = domain_new(&row->domain, &config, fds[0], inherit, seen && seen->exists ? seen : &gone,
                       fault);
    if (r < 0) {
        (void)close(fds[0]);
        (void)close(fds[1]);
        free(row);
        return r;
    }
    row->next = backend->rows;
    backend->rows = row;
    *ret_fd = fds[1];
    return 0;
}

void backend_libvirt_kill(struct backend_libvirt *backend, const char *vm_id)
{
    struct row *row = find_row(backend, vm_id);

    if (row)
        domain_kill(row->domain);
}

void backend_libvirt_on_peer(struct backend_libvirt *backend, const Godwit__PeerMove *message,
                             struct rpc_request *request)
{
    struct row *row = message->vm_id ? find_row(backend, message->vm_id) : NULL;
    struct fault fault = {0};

    if (row) {
        domain_on_peer(row->domain, message, request);
        return;
    }
    (void)fault_set(&fault, ERR_NOT_FOUND, "no such move brings the domain here");
    (void)rpc_reply_fault(request, &fault);
}

/* ---- the others ---- */
static bool is_possible(const struct domain_state *state)
{
    return state->vcpus >= 1 && state->memory_bytes > 0 && state->exists;
}

static void fill_found(const struct domain_state *state, Godwit__FoundDomain *found)
{
    godwit__found_domain__init(found);
    found->vm_id = (char *)(uintptr_t)state->vm_id; /* protobuf-c knows no const */
    found->name = (char *)(uintptr_t)state->name;
    found->has_state = found->has_vcpus = found->has_memory_bytes = true;
    found->state = state->sight == SIGHT_OFF       ? GODWIT__VM_STATE__VM_STATE_STOPPED
                   : state->sight == SIGHT_RUNNING ? GODWIT__VM_STATE__VM_STATE_RUNNING
                   : state->sight == SIGHT_PAUSED  ? GODWIT__VM_STATE__VM_STATE_PAUSED
                                                   : GODWIT__VM_STATE__VM_STATE_INCOMING;
    found->has_autostart = found->autostart = state->autostart;
    found->vcpus = state->vcpus;
    found->memory_bytes = state->memory_bytes;
}

static void fill_undefined(struct backend_libvirt *backend)
{
    size_t count = 0;

    for (struct row *row = backend->rows; row; row = row->next)
        count++;
    free(backend->undefined);
    backend->undefined = calloc(count + 1, sizeof *backend->undefined);
    backend->found.undefined = backend->undefined;
    for (struct row *row = backend->undefined ? backend->rows : NULL; row; row = row->next) {
        if (domain_is_undefined(row->domain))
            backend->undefined[backend->found.n_undefined++] =
                (char *)(uintptr_t)domain_id(row->domain); /* protobuf-c knows no const */
    }
}

static void fill_autostart(struct backend_libvirt *backend)
{
    size_t count = 0;

    for (struct row *row = backend->rows; row; row = row->next)
        count++;
    free(backend->autostart);
    backend->autostart = calloc(count + 1, sizeof *backend->autostart);
    backend->found.autostart = backend->autostart;
    for (struct row *row = backend->autostart ? backend->rows : NULL; row; row = row->next) {
        const struct domain_state *state = find_state(backend, domain_id(row->domain));
        if (state && state->autostart)
            backend->autostart[backend->found.n_autostart++] =
                (char *)(uintptr_t)domain_id(row->domain); /* protobuf-c knows no const */
    }
}

static void fill_definitions(struct backend_libvirt *backend)
{
    size_t count = 0;

    for (struct row *row = backend->rows; row; row = row->next)
        count++;
    free(backend->definitions);
    free(backend->definition_list);
    backend->definitions = calloc(count + 1, sizeof *backend->definitions);
    backend->definition_list = calloc(count + 1, sizeof *backend->definition_list);
    backend->found.definitions = backend->definition_list;
    if (!backend->definitions || !backend->definition_list)
        return;
    for (struct row *row = backend->rows; row; row = row->next) {
        const struct domain_state *state = find_state(backend, domain_id(row->domain));
        Godwit__DomainDefinition *definition = &backend->definitions[backend->found.n_definitions];
        if (!state || !state->exists || !state->definition[0] || domain_is_moving(row->domain))
            continue;
        godwit__domain_definition__init(definition);
        definition->vm_id = (char *)(uintptr_t)domain_id(row->domain); /* protobuf-c knows no const */
        definition->digest = (char *)(uintptr_t)state->definition;
        backend->definition_list[backend->found.n_definitions++] = definition;
    }
}

const Godwit__AgentFound *backend_libvirt_found(struct backend_libvirt *backend)
{
    godwit__agent_found__init(&backend->found);
    fill_undefined(backend);
    fill_autostart(backend);
    fill_definitions(backend);
    free(backend->founds);
    free(backend->found_list);
    size_t most = backend->list ? backend->list->count : 0;
    backend->founds = calloc(most + 1, sizeof *backend->founds);
    backend->found_list = calloc(most + 1, sizeof *backend->found_list);
    if (!backend->founds || !backend->found_list)
        return &backend->found;
    backend->found.domains = backend->found_list;
    for (size_t i = 0; i < most; i++) {
        const struct domain_state *state = &backend->list->states[i];
        size_t n = backend->found.n_domains;
        if (!is_possible(state) || find_row(backend, state->vm_id))
            continue;
        fill_found(state, &backend->founds[n]);
        backend->found_list[n] = &backend->founds[n];
        backend->found.n_domains++;
    }
    return &backend->found;
}

struct reading {
    struct backend_libvirt *backend;
    struct domain_call call;
    struct rpc_request *request;
};

static void read_work(struct _virConnect *connection, void *data)
{
    domain_call_run(connection, &((struct reading *)data)->call);
}

static void read_done(void *data)
{
    struct reading *reading = data;
    Godwit__FoundDomain found;

    if (reading->call.fault.code) {
        (void)rpc_reply_fault(reading->request, &reading->call.fault);
    } else {
        fill_found(&reading->call.state, &found);
        found.domain_xml = reading->call.text;
        (void)rpc_reply(reading->request, &found.base);
        if (reading->call.kind == DOMAIN_CALL_AUTOSTART_OFF)
            list(reading->backend); /* libvirt has no event of it */
    }
    free(reading->call.text);
    free(reading);
}

/* One call about a domain, whoever speaks for it, answered by what it is then. */
static void read_by(struct backend_libvirt *backend, const char *vm_id, enum domain_call_kind kind,
                    struct rpc_request *request)
{
    struct fault fault = {0};
    struct reading *reading = calloc(1, sizeof *reading);

    int r = reading ? 0 : fault_set(&fault, ERR_NOMEM, "no memory for a question");
    if (r == 0) {
        reading->backend = backend;
        reading->call.kind = kind;
        (void)snprintf(reading->call.vm_id, sizeof reading->call.vm_id, "%s", vm_id);
        reading->request = request;
        r = hypervisor_call(backend->hypervisor, read_work, read_done, reading, &fault);
    }
    if (r < 0) {
        free(reading);
        (void)rpc_reply_fault(request, &fault);
    }
}

void backend_libvirt_read(struct backend_libvirt *backend, const char *vm_id,
                          struct rpc_request *request)
{
    read_by(backend, vm_id, DOMAIN_CALL_READ, request);
}

void backend_libvirt_autostart_off(struct backend_libvirt *backend, const char *vm_id,
                                   struct rpc_request *request)
{
    read_by(backend, vm_id, DOMAIN_CALL_AUTOSTART_OFF, request);
}

/* ---- before a move ---- */
struct checking {
    struct rpc_request *request;
    struct domain_needs needs;
    char vm_id[33], name[DOMAIN_NAME_SIZE], word[DOMAIN_CHECK_WORD_SIZE], host[DOMAIN_NAME_SIZE];
    bool wipe;
    char note[DOMAIN_CHECK_NOTE_SIZE];
    int result;
    struct fault fault;
};

static void checking_free(struct checking *checking)
{
    domain_needs_deinit(&checking->needs);
    free(checking);
}

static void word_work(struct _virConnect *connection, void *data)
{
    struct checking *checking = data;

    if (!checking->wipe)
        checking->result =
            domain_snapshot_judge_move(connection, checking->vm_id, &checking->fault);
    if (checking->result == 0)
        checking->result =
            domain_check_word(&checking->needs, checking->word, checking->wipe, &checking->fault);
}

static void word_done(void *data)
{
    struct checking *checking = data;
    Godwit__Empty empty = GODWIT__EMPTY__INIT;

    if (checking->result < 0)
        (void)rpc_reply_fault(checking->request, &checking->fault);
    else
        (void)rpc_reply(checking->request, &empty.base);
    checking_free(checking);
}

static void check_work(struct _virConnect *connection, void *data)
{
    struct checking *checking = data;

    checking->result =
        domain_check_target(connection, &checking->needs, checking->vm_id, checking->name,
                            checking->word, checking->host, checking->note, &checking->fault);
}

static void check_done(void *data)
{
    struct checking *checking = data;
    Godwit__MoveChecked reply = GODWIT__MOVE_CHECKED__INIT;
    char *notes[] = {checking->note};

    reply.notes = notes;
    reply.n_notes = 1;
    if (checking->result < 0)
        (void)rpc_reply_fault(checking->request, &checking->fault);
    else
        (void)rpc_reply(checking->request, &reply.base);
    checking_free(checking);
}

static void check(struct backend_libvirt *backend, const char *vm_id, const Godwit__VmSpec *spec,
                  const char *word, struct checking *checking,
                  void (*work)(struct _virConnect *connection, void *data),
                  void (*done)(void *data))
{
    struct fault fault = {0};
    struct rpc_request *request = checking->request;

    int r = vm_id && spec && spec->name && word && strlen(word) < sizeof checking->word
                ? domain_needs_read(spec->domain_xml, &checking->needs, &fault)
                : fault_set(&fault, ERR_INVALID, "a question without its domain");
    if (r == 0) {
        (void)snprintf(checking->vm_id, sizeof checking->vm_id, "%s", vm_id);
        (void)snprintf(checking->name, sizeof checking->name, "%s", spec->name);
        (void)snprintf(checking->word, sizeof checking->word, "%s", word);
        r = hypervisor_call(backend->hypervisor, work, done, checking, &fault);
    }
    if (r < 0) {
        checking_free(checking);
        (void)rpc_reply_fault(request, &fault);
    }
}

static struct checking *checking_new(struct rpc_request *request)
{
    struct checking *checking = calloc(1, sizeof *checking);
    struct fault fault = {0};

    if (checking) {
        checking->request = request;
        return checking;
    }
    (void)fault_set(&fault, ERR_NOMEM, "no memory for a question");
    (void)rpc_reply_fault(request, &fault);
    return NULL;
}

void backend_libvirt_word(struct backend_libvirt *backend, const Godwit__OrderStoreWord *order,
                          struct rpc_request *request)
{
    struct checking *checking = checking_new(request);

    if (!checking)
        return;
    checking->wipe = order->wipe;
    check(backend, order->vm_id, order->spec, order->word, checking, word_work, word_done);
}

void backend_libvirt_check(struct backend_libvirt *backend, const Godwit__OrderMoveCheck *order,
                           const char *host, struct rpc_request *request)
{
    struct checking *checking = checking_new(request);

    if (!checking)
        return;
    (void)snprintf(checking->host, sizeof checking->host, "%s", host);
    check(backend, order->vm_id, order->spec, order->word, checking, check_work, check_done);
}

/* ---- life ---- */
int backend_libvirt_new(struct backend_libvirt **ret_backend,
                        const struct backend_libvirt_config *config, struct fault *fault)
{
    struct backend_libvirt *backend = calloc(1, sizeof *backend);
    if (!backend)
        return fault_set(fault, ERR_NOMEM, "no memory for libvirt's domains");
    backend->config = *config;
    godwit__agent_found__init(&backend->found);
    const struct hypervisor_config hypervisor = {.loop = config->loop,
                                                 .uri = config->uri,
                                                 .on_up = on_up,
                                                 .on_down = on_down,
                                                 .on_event = on_event,
                                                 .on_job = on_job,
                                                 .data = backend};
    int r = loop_timer_new(&backend->timer, config->loop, timer_fired, backend, fault);
    if (r == 0)
        r = hypervisor_new(&backend->hypervisor, &hypervisor, fault);
    backend->orders = (struct snapshot_orders){
        .hypervisor = backend->hypervisor, .on_over = on_order_over, .data = backend};
    if (r < 0) {
        (void)backend_libvirt_free(backend);
        return r;
    }
    *ret_backend = backend;
    return 0;
}

void backend_libvirt_start(struct backend_libvirt *backend)
{
    hypervisor_start(backend->hypervisor);
    loop_timer_start(backend->timer, LIST_MS, LIST_MS);
}

struct backend_libvirt *backend_libvirt_free(struct backend_libvirt *backend)
{
    if (!backend)
        return NULL;
    while (backend->rows) {
        struct row *row = backend->rows;
        backend->rows = row->next;
        (void)domain_free(row->domain);
        free(row);
    }
    if (backend->timer)
        (void)loop_timer_free(backend->timer);
    backend->hypervisor = hypervisor_free(backend->hypervisor);
    snapshot_orders_deinit(&backend->orders);
    drop_infos(backend);
    (void)domain_list_free(backend->list);
    free(backend->founds);
    free(backend->found_list);
    free(backend->undefined);
    free(backend->autostart);
    free(backend->definitions);
    free(backend->definition_list);
    free(backend);
    return NULL;
}

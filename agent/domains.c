#include "agent/domains.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/agent_link.h"
#include "agent/backend_libvirt/backend_libvirt.h"
#include "agent/peer_line.h"
#include "agent/peers.h"
#include "agent/snapshots.h"
#include "agent/vm_table.h"
#include "base/err.h"
#include "base/id.h"
#include "base/log.h"
#include "base/own.h"
#include "net/rpc.h"
#include "proto/method.h"

enum { URI_SIZE = 256 };

struct domains {
    struct domains_config config;
    struct backend_libvirt *backend;
    struct vm_table *table;
    struct snapshots *snapshots;
    struct agent_link *link;
    char peer_uri[URI_SIZE], data_uri[URI_SIZE];
};

static void *line_open(void *data, const char *address)
{
    struct domains *domains = data;

    return peer_line_new(domains->config.loop, domains->config.context, address);
}

static void line_ask(void *line, const Godwit__PeerMove *message,
                     void (*done)(void *data, const Godwit__PeerMoveReply *reply,
                                  const struct fault *fault),
                     void *data)
{
    peer_line_ask(line, message, done, data);
}

static void *line_close(void *line)
{
    return peer_line_free(line);
}

static void on_peer_move(void *data, const Godwit__PeerMove *message, struct rpc_request *request)
{
    struct domains *domains = data;

    backend_libvirt_on_peer(domains->backend, message, request);
}

void domains_tell(struct domains *domains)
{
    if (!domains || !domains->link)
        return;
    Godwit__AgentFound found = *backend_libvirt_found(domains->backend);
    /* Before its first list nothing is known of its domains: that is no word that there are none.
     */
    if (backend_libvirt_is_known(domains->backend))
        found.libvirt = (char *)(uintptr_t)backend_libvirt_version(domains->backend);
    agent_link_send(domains->link, METHOD_AGENT_FOUND, &found.base);
}

static void tell_snapshots(struct domains *domains)
{
    size_t count;
    Godwit__SnapshotInfo *const *infos = backend_libvirt_snapshots(domains->backend, &count);

    if (domains->snapshots)
        snapshots_set_domains(domains->snapshots, infos, count);
}

/* VMs that an earlier agent knew to run, and that could not be asked yet. */
static void on_changed(void *data)
{
    struct domains *domains = data;

    if (domains->table && backend_libvirt_is_known(domains->backend)) {
        for (struct vm_entry *entry = vm_table_first(domains->table), *next; entry; entry = next) {
            struct fault fault = {0};
            next = entry->next;
            if (vm_entry_is_domain(entry) && entry->unreachable && !entry->process &&
                vm_entry_inherit(entry, &fault) < 0)
                log_warn("domains", "cannot speak for a domain vm=%s: %s", entry->id, fault.text);
        }
    }
    domains_tell(domains);
    tell_snapshots(domains);
}

int domains_open(struct domains *domains, struct vm_entry *entry, bool inherit, int *ret_fd,
                 struct fault *fault)
{
    char path[VM_PATH_SIZE];

    if (!domains)
        return fault_set(fault, ERR_UNSUPPORTED,
                         "this host's agent does not drive libvirt (godwit-agent --libvirt URI)");
    int r = vm_entry_run_path(entry, "latch", path, fault);
    return r < 0 ? r
                 : backend_libvirt_open(domains->backend, entry->id, path, inherit, ret_fd, fault);
}

void domains_kill(struct domains *domains, struct vm_entry *entry)
{
    if (domains)
        backend_libvirt_kill(domains->backend, entry->id);
}

static void refuse(struct rpc_request *request)
{
    struct fault fault = {0};

    (void)fault_set(&fault, ERR_UNSUPPORTED, "this host's agent does not drive libvirt");
    (void)rpc_reply_fault(request, &fault);
}

void domains_read(struct domains *domains, const char *vm_id, struct rpc_request *request)
{
    if (domains && vm_id)
        backend_libvirt_read(domains->backend, vm_id, request);
    else
        refuse(request);
}

void domains_autostart_off(struct domains *domains, const char *vm_id, struct rpc_request *request)
{
    if (domains && vm_id)
        backend_libvirt_autostart_off(domains->backend, vm_id, request);
    else
        refuse(request);
}

/* ---- snapshots ---- */
static int judge_driven(const struct domains *domains, struct fault *fault)
{
    return domains ? 0
                   : fault_set(fault, ERR_UNSUPPORTED, "this host's agent does not drive libvirt");
}

static void set_busy(const struct domains *domains, const char *vm_id, bool is_busy)
{
    struct vm_entry *entry = domains->table ? vm_table_find(domains->table, vm_id) : NULL;

    if (entry)
        entry->snapshotting = is_busy;
}

static void on_snapshot_over(void *data, const char *vm_id)
{
    set_busy(data, vm_id, false);
}

int domains_snapshot_take(struct domains *domains, const Godwit__OrderSnapshot *order,
                          struct vm_entry *entry, struct rpc_request *request, struct fault *fault)
{
    int r = judge_driven(domains, fault);
    if (r == 0 && (!request || !order->name || !id_name_is_valid(order->name)))
        r = fault_set(fault, ERR_INVALID, "a snapshot without a fit name");
    if (r == 0 && entry && order->disks_only)
        r = fault_set(fault, ERR_UNSUPPORTED,
                      "libvirt takes the disks of a running domain only into new files");
    if (r == 0)
        r = backend_libvirt_snapshot_take(domains->backend, order, !entry, request, fault);
    if (r == 0)
        set_busy(domains, order->vm_id, true);
    return r;
}

int domains_snapshot_check(struct domains *domains, const Godwit__SnapshotInfo *info,
                           struct rpc_request *request, struct fault *fault)
{
    int r = judge_driven(domains, fault);
    return r < 0 ? r : backend_libvirt_snapshot_check(domains->backend, info, request, fault);
}

int domains_snapshot_remove(struct domains *domains, const Godwit__SnapshotInfo *info,
                            struct rpc_request *request, struct fault *fault)
{
    const struct vm_entry *entry = domains ? vm_table_find(domains->table, info->vm_id) : NULL;

    int r = judge_driven(domains, fault);
    if (r == 0 && entry && entry->starting) /* maybe from this one */
        r = fault_set(fault, ERR_BUSY, "%s is just being started", info->vm_name);
    if (r == 0)
        r = backend_libvirt_snapshot_remove(domains->backend, info, request, fault);
    if (r == 0)
        set_busy(domains, info->vm_id, true);
    return r;
}

void domains_word(struct domains *domains, const Godwit__OrderStoreWord *order,
                  struct rpc_request *request)
{
    if (domains)
        backend_libvirt_word(domains->backend, order, request);
    else
        refuse(request);
}

void domains_check(struct domains *domains, const Godwit__OrderMoveCheck *order, const char *host,
                   struct rpc_request *request)
{
    if (domains)
        backend_libvirt_check(domains->backend, order, host, request);
    else
        refuse(request);
}

int domains_new(struct domains **ret_domains, const struct domains_config *config,
                struct fault *fault)
{
    struct domains *domains = calloc(1, sizeof *domains);
    if (!domains)
        return fault_set(fault, ERR_NOMEM, "no memory for libvirt's domains");
    domains->config = *config;
    bool is_v6 = strchr(config->move_address, ':') != NULL;
    (void)snprintf(domains->peer_uri, URI_SIZE,
                   is_v6 ? "qemu+tls://[%.128s]/system" : "qemu+tls://%.128s/system",
                   config->move_address);
    (void)snprintf(domains->data_uri, URI_SIZE, is_v6 ? "tcp://[%.128s]" : "tcp://%.128s",
                   config->move_address);
    const struct backend_libvirt_config backend = {
        .loop = config->loop,
        .uri = config->uri,
        .libvirt_uri = config->peer_uri ? config->peer_uri : domains->peer_uri,
        .data_uri = domains->data_uri,
        .plain = config->plain,
        .on_changed = on_changed,
        .line_open = line_open,
        .line_ask = line_ask,
        .line_close = line_close,
        .host = config->host,
        .on_snapshot_over = on_snapshot_over,
        .data = domains,
    };
    int r = backend_libvirt_new(&domains->backend, &backend, fault);
    if (r < 0) {
        free(domains);
        return r;
    }
    *ret_domains = domains;
    return 0;
}

void domains_start(struct domains *domains, struct vm_table *table, struct peers *peers,
                   struct snapshots *snapshots)
{
    domains->table = table;
    domains->snapshots = snapshots;
    snapshots_await_domains(snapshots);
    peers_on_move(peers, on_peer_move, domains);
    backend_libvirt_start(domains->backend);
}

void domains_set_link(struct domains *domains, struct agent_link *link)
{
    if (domains)
        domains->link = link;
}

struct domains *domains_free(struct domains *domains)
{
    if (!domains)
        return NULL;
    domains->table = NULL;
    domains->snapshots = NULL;
    domains->backend = backend_libvirt_free(domains->backend);
    free(domains);
    return NULL;
}

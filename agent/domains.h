/* Where libvirt's domains meet this agent's VMs, its peers and its coordinator.
 *
 * Flow:   vm_table, orders -> [domains] -> backend_libvirt;  what is found -> agent_link
 * Thread: the loop's.
 */
#ifndef GODWIT_AGENT_DOMAINS_H
#define GODWIT_AGENT_DOMAINS_H

#include <stdbool.h>

#include "proto/agent.pb-c.h"
#include "proto/snapshot.pb-c.h"

struct agent_link;
struct domains;
struct fault;
struct loop;
struct peers;
struct rpc_request;
struct snapshots;
struct tls_context;
struct vm_entry;
struct vm_table;

struct domains_config {
    struct loop *loop;
    struct tls_context *context; /* all of these must outlive it */
    const char *host;         /* this one's name */
    const char *uri;          /* of this host's libvirt: "qemu:///system" */
    const char *peer_uri;     /* where other hosts' libvirtd reach it; NULL: qemu+tls at move_address */
    const char *move_address;
    bool plain;               /* QEMU's memory stream may go without TLS */
};

int domains_new(struct domains **ret_domains, const struct domains_config *config,
                struct fault *fault);
struct domains *domains_free(struct domains *domains); /* after the table */
void domains_start(struct domains *domains, struct vm_table *table, struct peers *peers,
                   struct snapshots *snapshots);
void domains_set_link(struct domains *domains, struct agent_link *link); /* NULL: none any more */

/* For vm_table: a socket that speaks for the entry's domain. `domains` NULL: ERR_UNSUPPORTED. */
int domains_open(struct domains *domains, struct vm_entry *entry, bool inherit, int *ret_fd,
                 struct fault *fault);
void domains_kill(struct domains *domains, struct vm_entry *entry);
void domains_tell(struct domains *domains); /* the coordinator: what is found */
/* Before a move of a domain: see backend_libvirt. */
void domains_word(struct domains *domains, const Godwit__OrderStoreWord *order,
                  struct rpc_request *request);
void domains_check(struct domains *domains, const Godwit__OrderMoveCheck *order, const char *host,
                   struct rpc_request *request);
void domains_read(struct domains *domains, const char *vm_id, struct rpc_request *request);
void domains_autostart_off(struct domains *domains, const char *vm_id, struct rpc_request *request);
/* Snapshots: see backend_libvirt. `entry`: of the domain that runs here, busy until libvirt is through; NULL: it is
 * off. */
int domains_snapshot_take(struct domains *domains, const Godwit__OrderSnapshot *order,
                          struct vm_entry *entry, struct rpc_request *request, struct fault *fault);
int domains_snapshot_check(struct domains *domains, const Godwit__SnapshotInfo *info,
                           struct rpc_request *request, struct fault *fault);
int domains_snapshot_remove(struct domains *domains, const Godwit__SnapshotInfo *info,
                            struct rpc_request *request, struct fault *fault);

#endif

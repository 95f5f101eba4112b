/* Orders about snapshots of this host's domains, while libvirt is at them.
 *
 * Flow:   backend_libvirt -> [snapshot_orders] -> hypervisor -> domain_snapshot;  answered on the
 * loop Thread: the loop's.
 *
 * One at a time of a domain. Answered when a list that was begun afterwards shows what came of it,
 * so that who hears the answer finds it told; or after a limit, while libvirt goes on, and the
 * domain is kept busy.
 */
#ifndef GODWIT_AGENT_BACKEND_LIBVIRT_SNAPSHOT_ORDERS_H
#define GODWIT_AGENT_BACKEND_LIBVIRT_SNAPSHOT_ORDERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/snapshot.pb-c.h"

struct fault;
struct hypervisor;
struct rpc_request;
struct snapshot_order;

enum snapshot_verb { SNAPSHOT_VERB_TAKE, SNAPSHOT_VERB_CHECK, SNAPSHOT_VERB_REMOVE };

struct snapshot_wish {
    enum snapshot_verb verb;
    const char *vm_id, *name; /* libvirt's; copied */
    bool is_off;              /* take: the pool knows it as stopped */
    uint64_t memory_bytes;
    struct rpc_request *request; /* answered, once begin returned 0 */
};

struct snapshot_orders { /* embedded in backend_libvirt */
    struct hypervisor *hypervisor;
    /* libvirt's call is over: the number of a list that begins from now on. */
    uint64_t (*on_over)(void *data, const char *vm_id);
    void *data;
    struct snapshot_order *first; /* owned */
};

int snapshot_orders_begin(struct snapshot_orders *orders, const struct snapshot_wish *wish,
                          struct fault *fault);
/* List `number` is there; `infos` are of it. NULL: there will be none, libvirtd is away. */
void snapshot_orders_listed(struct snapshot_orders *orders, uint64_t number,
                            Godwit__SnapshotInfo *const *infos, size_t count);
void snapshot_orders_tick(struct snapshot_orders *orders, uint64_t now_ns); /* limits */
/* After the hypervisor: nothing is answered any more. */
void snapshot_orders_deinit(struct snapshot_orders *orders);

#endif

#include "agent/backend_libvirt/snapshot_orders.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/backend_libvirt/domain_snapshot.h"
#include "agent/backend_libvirt/hypervisor.h"
#include "base/err.h"
#include "base/log.h"
#include "base/world.h"
#include "net/rpc.h"

enum { LIMIT_MS = 100000, LIMIT_MS_A_GIB = 30000, LIST_MS = 10000 };

struct snapshot_order {
    struct snapshot_order *next;
    struct snapshot_orders *orders;
    enum snapshot_verb verb;
    char vm_id[ID_TEXT_SIZE], name[VIRT_SNAPSHOT_NAME_SIZE];
    bool is_off, is_over; /* is_over: only the list is waited for */
    uint64_t begun_ns, took_ns, limit_ns, list;
    int result;
    struct fault fault;
    struct rpc_request *request; /* NULL: answered */
};

static void take_out(struct snapshot_order *order)
{
    for (struct snapshot_order **at = &order->orders->first; *at; at = &(*at)->next) {
        if (*at == order) {
            *at = order->next;
            return;
        }
    }
}

static void refuse(struct snapshot_order *order, const struct fault *fault)
{
    if (order->request)
        (void)rpc_reply_fault(order->request, fault);
    order->request = NULL;
}

/* ---- answers ---- */
static void reply_removed(struct snapshot_order *order)
{
    static const Godwit__Empty empty = GODWIT__EMPTY__INIT;

    if (order->request)
        (void)rpc_reply(order->request, &empty.base);
    order->request = NULL;
}

static void add_times(const struct snapshot_order *order, Godwit__SnapshotInfo *info)
{
    info->has_took_ns = true;
    info->took_ns = order->took_ns;
    /* libvirt writes the memory while the guest stands still: at most all of that. */
    info->has_pause_ns = info->with_memory;
    info->pause_ns = info->with_memory ? order->took_ns : 0;
}

static void reply_info(struct snapshot_order *order, Godwit__SnapshotInfo *const *infos,
                       size_t count)
{
    struct fault fault = {0};

    for (size_t i = 0; i < count && order->request; i++) {
        if (strcmp(infos[i]->vm_id, order->vm_id) != 0 ||
            strcmp(infos[i]->libvirt_name, order->name) != 0)
            continue;
        Godwit__SnapshotInfo told = *infos[i]; /* its texts are borrowed */
        if (order->verb == SNAPSHOT_VERB_TAKE)
            add_times(order, &told);
        (void)rpc_reply(order->request, &told.base);
        order->request = NULL;
    }
    (void)fault_set(&fault, infos ? ERR_NOT_FOUND : ERR_UNREACHABLE,
                    "libvirt was through with it, and %s",
                    infos ? "has it no more" : "does not answer any more");
    refuse(order, &fault);
}

void snapshot_orders_listed(struct snapshot_orders *orders, uint64_t number,
                            Godwit__SnapshotInfo *const *infos, size_t count)
{
    for (struct snapshot_order *order = orders->first, *next; order; order = next) {
        next = order->next;
        if (!order->is_over || (infos && order->list > number))
            continue;
        if (order->verb == SNAPSHOT_VERB_REMOVE)
            reply_removed(order);
        else
            reply_info(order, infos, infos ? count : 0);
        take_out(order);
        free(order);
    }
}

void snapshot_orders_tick(struct snapshot_orders *orders, uint64_t now_ns)
{
    struct fault late = {0};

    (void)fault_set(&late, ERR_TIMEOUT, "libvirt has not answered in time, and may still be at it");
    fault_hint(&late, "virsh domjobinfo");
    for (struct snapshot_order *order = orders->first; order; order = order->next) {
        if (now_ns > order->limit_ns)
            refuse(order, &late);
    }
}

/* ---- the call ---- */
static void work(struct _virConnect *connection, void *data)
{
    struct snapshot_order *order = data;

    switch (order->verb) {
    case SNAPSHOT_VERB_TAKE:
        order->result = domain_snapshot_take(connection, order->vm_id, order->name, order->is_off,
                                             &order->fault);
        return;
    case SNAPSHOT_VERB_CHECK:
        order->result = domain_snapshot_check(connection, order->vm_id, order->name, &order->fault);
        return;
    case SNAPSHOT_VERB_REMOVE:
        order->result =
            domain_snapshot_remove(connection, order->vm_id, order->name, &order->fault);
        return;
    }
}

static void done(void *data)
{
    static const char *const words[] = {"taken", "checked", "removed"};
    struct snapshot_order *order = data;
    struct snapshot_orders *orders = order->orders;

    order->took_ns = world_now_ns() - order->begun_ns;
    if (order->result < 0) {
        log_warn("snapshot_orders", "not %s vm=%s name=%s: %s", words[order->verb], order->vm_id,
                 order->name, order->fault.text);
        refuse(order, &order->fault);
    } else {
        log_info("snapshot_orders", "%s vm=%s name=%s took_ms=%llu", words[order->verb],
                 order->vm_id, order->name, (unsigned long long)(order->took_ns / NS_PER_MS));
    }
    order->is_over = true;
    order->limit_ns = world_now_ns() + LIST_MS * NS_PER_MS;
    order->list = UINT64_MAX; /* none yet: on_over may end an older one */
    uint64_t list = orders->on_over(orders->data, order->vm_id);
    for (struct snapshot_order *at = orders->first; at; at = at->next) {
        if (at == order)
            order->list = list; /* it is still there: libvirtd is */
    }
}

int snapshot_orders_begin(struct snapshot_orders *orders, const struct snapshot_wish *wish,
                          struct fault *fault)
{
    for (const struct snapshot_order *other = orders->first; other; other = other->next) {
        if (strcmp(other->vm_id, wish->vm_id) == 0 && !other->is_over)
            return fault_set(fault, ERR_BUSY, "libvirt is at another snapshot of it");
    }
    if (strlen(wish->vm_id) >= ID_TEXT_SIZE || strlen(wish->name) >= VIRT_SNAPSHOT_NAME_SIZE)
        return fault_set(fault, ERR_INVALID, "no domain's id, or no snapshot's name");
    struct snapshot_order *order = calloc(1, sizeof *order);
    if (!order)
        return fault_set(fault, ERR_NOMEM, "no memory for a snapshot");
    *order = (struct snapshot_order){.orders = orders,
                                     .verb = wish->verb,
                                     .is_off = wish->is_off,
                                     .begun_ns = world_now_ns(),
                                     .request = wish->request};
    order->limit_ns =
        order->begun_ns + (LIMIT_MS + (wish->memory_bytes >> 30) * LIMIT_MS_A_GIB) * NS_PER_MS;
    (void)snprintf(order->vm_id, sizeof order->vm_id, "%s", wish->vm_id);
    (void)snprintf(order->name, sizeof order->name, "%s", wish->name);
    int r = hypervisor_call(orders->hypervisor, work, done, order, fault);
    if (r < 0) {
        free(order);
        return r;
    }
    order->next = orders->first;
    orders->first = order;
    return 0;
}

/* What a thread inside libvirt still holds is lost: see hypervisor_free. */
void snapshot_orders_deinit(struct snapshot_orders *orders)
{
    for (struct snapshot_order *order = orders->first, *next; order; order = next) {
        next = order->next;
        if (order->is_over)
            free(order);
    }
    orders->first = NULL;
}

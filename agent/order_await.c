#include "agent/order_await.h"

#include "agent/order_start.h"
#include "agent/orders_inside.h"
#include "agent/snapshots.h"
#include "agent/start_mark.h"
#include "base/id.h"
#include "base/log.h"
#include "base/loop.h"
#include "proto/vm_spec.h"

enum { GIVE_UP_MS = 30000 }; /* within the coordinator's own patience for a start */

bool order_await_is_due(const struct orders *orders, const Godwit__OrderVmStart *order)
{
    bool has_snapshot = order->snapshot_id && *order->snapshot_id && !order->is_clone;
    struct fault ignored = {0};

    return has_snapshot && orders->snapshots && order->spec && vm_spec_is_libvirt(order->spec) && order->vm_id &&
           id_name_is_valid(order->vm_id) && !snapshots_find(orders->snapshots, order->snapshot_id) &&
           snapshots_judge_absent(orders->snapshots, &ignored) < 0;
}

static void timer_fired(void *data)
{
    struct orders *orders = data;

    if (!orders->stopped)
        order_await_give_up(orders);
}

/* Whatever waits while it runs has seen no libvirtd since it was begun. */
static int keep_time(struct orders *orders, struct fault *fault)
{
    struct order_awaits *awaits = &orders->awaits;

    if (awaits->timer)
        return 0;
    int r = loop_timer_new(&awaits->timer, orders->loop, timer_fired, orders, fault);
    if (r == 0)
        loop_timer_start(awaits->timer, GIVE_UP_MS, 0);
    return r;
}

static void stop_time(struct orders *orders)
{
    if (orders->awaits.timer)
        orders->awaits.timer = loop_timer_free(orders->awaits.timer);
}

int order_await_put(struct orders *orders, const Godwit__OrderVmStart *order, struct rpc_request *request,
                    struct fault *fault)
{
    int r = keep_time(orders, fault);
    if (r == 0)
        r = held_orders_put(&orders->awaits.held, order->vm_id, &order->base, request, fault);
    if (r == 0)
        log_info("order_await", "a start waits for libvirt's list of snapshots vm=%s snapshot=%.12s", order->vm_id,
                 order->snapshot_id);
    return r;
}

bool order_await_has(const struct orders *orders, const char *vm_id)
{
    return vm_id && held_orders_has(&orders->awaits.held, vm_id, NULL);
}

void order_await_known(struct orders *orders)
{
    struct held_order *held = orders->awaits.held.first;

    if (orders->stopped)
        return;
    orders->awaits.held.first = NULL;
    stop_time(orders);
    for (; held; held = held_order_free(held))
        order_start_begin(orders, (const Godwit__OrderVmStart *)held->order, held->request);
}

static bool may_run(const struct orders *orders, const Godwit__OrderVmStart *order)
{
    const struct vm_entry *entry = vm_table_find(orders->table, order->vm_id);

    return entry && start_mark_generation(entry) == order->generation;
}

void order_await_give_up(struct orders *orders)
{
    struct fault fault = {0};

    stop_time(orders);
    (void)snapshots_judge_absent(orders->snapshots, &fault);
    for (struct held_order **at = &orders->awaits.held.first; *at;) {
        const Godwit__OrderVmStart *order = (const Godwit__OrderVmStart *)(*at)->order;
        if (may_run(orders, order)) {
            at = &(*at)->next;
            continue;
        }
        order_start_refuse(orders, order, (*at)->request, &fault);
        *at = held_order_free(*at);
    }
}

void order_await_deinit(struct orders *orders)
{
    stop_time(orders);
    held_orders_deinit(&orders->awaits.held);
}

/* STARTs of domains from a snapshot that wait until libvirt has told which there are.
 *
 * Flow:   order_start -> [order_await] -> order_start, once the list is known (snapshots_set_domains)
 * Thread: the loop's.
 *
 * "No such snapshot" is final: it must not be said because nothing was told yet. An order that waits here has done nothing,
 * and is judged anew when it goes on. A libvirtd that stays away is told as such; but a start that an agent before us gave to
 * libvirt is not refused for that: it may run.
 */
#ifndef GODWIT_AGENT_ORDER_AWAIT_H
#define GODWIT_AGENT_ORDER_AWAIT_H

#include <stdbool.h>

#include "agent/held_orders.h"

struct fault;
struct Godwit__OrderVmStart;
struct loop_timer;
struct orders;
struct rpc_request;

struct order_awaits { /* zeroed: none */
    struct held_orders held;
    struct loop_timer *timer; /* runs while something waits that may be given up */
};

/* Is its snapshot one of which nothing can be said yet? */
bool order_await_is_due(const struct orders *orders, const struct Godwit__OrderVmStart *order);
/* Keeps it; answered later, when it returns 0. */
int order_await_put(struct orders *orders, const struct Godwit__OrderVmStart *order, struct rpc_request *request,
                    struct fault *fault);
/* Does one of this VM wait? Then it is as one that is being started. */
bool order_await_has(const struct orders *orders, const char *vm_id);
void order_await_known(struct orders *orders);   /* the list is: all go on */
void order_await_give_up(struct orders *orders); /* libvirtd was away for long: its timer, and tests */
void order_await_deinit(struct orders *orders);

#endif

/* What this host is just starting, or will without another order: HELLO's list of VMs tells nothing of it, or what was before.
 *
 * Flow:   vm_table, held_orders, order_await -> [start_list] -> agent_link: HELLO
 * Thread: the loop's.
 *
 * A coordinator that gave the order knows of it, says it again, and hears by its answer what became of it. One whose
 * state was restored from a backup does not: it has to take the VM for one that is being started here, or it would start it
 * a second time elsewhere. A move in is no start: what takes a guest was given it by another host.
 */
#ifndef GODWIT_AGENT_START_LIST_H
#define GODWIT_AGENT_START_LIST_H

#include <stddef.h>

#include "proto/ha.pb-c.h"

struct fault;
struct held_orders;
struct vm_table;

struct start_list { /* zeroed: none */
    Godwit__VmGeneration *starts, **list; /* owned; their ids are the table's and the orders' */
    size_t count;
};

/* `held`: that wait to be judged; `awaits`: that were, and wait for what they start from; NULL: none. `incarnation`: of this life of the host; what is held for another is going to be refused. */
int start_list_make(struct start_list *list, struct vm_table *table, const struct held_orders *held,
                    const struct held_orders *awaits, const char *incarnation, struct fault *fault);
void start_list_deinit(struct start_list *list);

#endif

/* Starting a process with a VM in it: files, disks and nics, then a process, then VM_CREATE.
 *
 * Flow:   order_start, order_move_in -> [order_create] -> vm_table, backends (on a worker) -> godwit-vm
 * Thread: the loop's.
 */
#ifndef GODWIT_AGENT_ORDER_CREATE_H
#define GODWIT_AGENT_ORDER_CREATE_H

#include "agent/orders_inside.h"

/* The file that this start goes on from; NULL: it boots. */
const char *order_create_nonce(const struct step *step);
/* `created` comes with the answer of VM_CREATE. Once this returned 0 the step is its. */
int order_create(struct step *step, struct vm_entry *entry, rpc_done_fn *created,
                 struct fault *fault);

#endif

/* A VM is handed over to a fresh process of this host: its memory, disks and taps change hands as
 * descriptors, its machine's state goes over a socket between the two, as in a move.
 *
 * Flow:   orders -> [upgrade] -> upgrade_core, vm_process (the old one, and the next)
 * Thread: the loop's; the stamp is looked at by a worker.
 *
 *   VM_LEND     the old process lends its descriptors and runs on
 *   VM_CREATE   a next process is started and built around the same memory
 *   MOVE_IN/OUT the ends of a move that carries no page (migrate/region.h: shared_id)
 *   TOOK        next.sock and next.latch take the places of control.sock and latch; the stamp is still
 *               ours, so the next process gets the disks and taps; the old one ends
 *
 * Whatever fails before the old one GAVE leaves the VM where it is. Files in RUN/vms/<id> tell an
 * agent that is started in the middle what there is: next.sock and next.latch until the switch, then
 * old.sock until the old process has ended.
 */
#ifndef GODWIT_AGENT_UPGRADE_H
#define GODWIT_AGENT_UPGRADE_H

#include "proto/vm.pb-c.h"

struct fault;
struct host_facts;
struct loop;
struct rpc_request;
struct upgrades;
struct vm_entry;
struct vm_table;

int upgrades_new(struct upgrades **ret_upgrades, struct loop *loop, struct vm_table *table,
                 struct host_facts *facts, struct fault *fault);
/* Workers are done with it: before the table is freed. */
void upgrades_stop(struct upgrades *upgrades);
struct upgrades *upgrades_free(struct upgrades *upgrades); /* processes run on; after the table */

/* Begin, and answer `request` with VmUpgraded when it is over; or a fault, and nothing has begun. */
int upgrade_begin(struct upgrades *upgrades, struct vm_entry *entry, struct rpc_request *request,
                  struct fault *fault);

/* For vm_table's callbacks of the same names; `data` is the upgrades. */
void upgrade_on_move(struct upgrades *upgrades, struct vm_entry *entry,
                     const Godwit__MoveEvent *event);
void upgrade_on_lent(struct upgrades *upgrades, struct vm_entry *entry, const Godwit__VmLent *lent,
                     struct rpc_request *request);
void upgrade_on_ended(struct upgrades *upgrades, struct vm_entry *entry, const char *how);
void upgrade_on_find(struct upgrades *upgrades, struct vm_entry *entry);

#endif

/* A running VM goes into a file of this host and its process ends; a start goes on from there.
 *
 * Flow:   orders -> [suspend] -> godwit-vm (writes), storage/guest_label;  vm_table -> [suspend]
 * Thread: the loop's; renames and syncs on a worker.
 *
 *   VM_SUSPEND      the guest stands still, its process writes STATE/vms/<id>/suspended.tmp, durably
 *   rename          to "suspended", and the folder is synced      <== from here on the file is the VM
 *   VM_SUSPEND_END  the process ends; its end finds the file and makes the VM SUSPENDED
 *
 * A file of that name with a fresh label means that the guest has not run since. So whoever lets it run
 * removes the name before (the process that still has it) or marks the file (one that was loaded from
 * it), and an agent that finds a process waiting for the last step ends it or lets it run on by that.
 */
#ifndef GODWIT_AGENT_SUSPEND_H
#define GODWIT_AGENT_SUSPEND_H

#include "proto/vm.pb-c.h"

struct fault;
struct loop;
struct rpc_request;
struct suspends;
struct vm_entry;
struct vm_table;

int suspends_new(struct suspends **ret_suspends, struct loop *loop, struct vm_table *table,
                 struct fault *fault);
void suspends_stop(struct suspends *suspends); /* workers are done: before the table is freed */
struct suspends *suspends_free(struct suspends *suspends);

/* Answers the request with the VM's status when its process has ended; or a fault, and it runs on. */
int suspend_begin(struct suspends *suspends, struct vm_entry *entry, const Godwit__VmSuspend *order,
                  struct rpc_request *request, struct fault *fault);
/* Its process has ended, and its status says what is so. */
void suspend_on_ended(struct suspends *suspends, struct vm_entry *entry);
/* Its process waits for the last step, and nobody here began it. */
void suspend_on_waiting(struct suspends *suspends, struct vm_entry *entry);

#endif

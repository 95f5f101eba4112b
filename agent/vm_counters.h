/* What the devices of this host's VMs have done, asked of their processes every few seconds for
 * metrics.
 *
 * Flow:   godwit-vm -> [vm_counters] -> metrics
 * Thread: the loop's.
 */
#ifndef GODWIT_AGENT_VM_COUNTERS_H
#define GODWIT_AGENT_VM_COUNTERS_H

#include "proto/vm.pb-c.h"

struct fault;
struct loop;
struct vm_counters;
struct vm_entry;
struct vm_table;

/* The table is borrowed and must have been freed before this is, so that nobody answers any more.
 */
int vm_counters_new(struct vm_counters **ret_counters, struct loop *loop, struct vm_table *table,
                    struct fault *fault);
struct vm_counters *vm_counters_free(struct vm_counters *counters);

/* As it was told last by the VM that runs now, borrowed until the loop goes on; NULL: not yet, or
 * by a process that cannot. */
const Godwit__VmCounters *vm_counters_find(const struct vm_counters *counters,
                                           const struct vm_entry *entry);

#endif

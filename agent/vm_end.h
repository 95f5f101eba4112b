/* What the end of a godwit-vm means: from what it left in its latch file and how it died.
 *
 * Flow:   vm_table -> latch record, exit -> [vm_end] -> state and words for the coordinator
 * Thread: any; pure.
 */
#ifndef GODWIT_AGENT_VM_END_H
#define GODWIT_AGENT_VM_END_H

#include <stdbool.h>

#include "proto/vm.pb-c.h"

struct latch_record;

enum { VM_END_REASON_SIZE = 240 };

struct vm_end {
    Godwit__VmState state; /* STOPPED, CRASHED or GONE */
    bool abandons;         /* it was a target that had not taken: ABANDONED is to be latched */
    char reason[VM_END_REASON_SIZE];
};

/* `record` NULL: no latch file was left. `how` says how it died: "killed by signal 9". `asked`: we
 * had asked it to end. */
void vm_end_decide(const struct latch_record *record, const char *how, bool asked,
                   struct vm_end *ret_end);

/* Does the file of a process that is no more tell what `status`, kept as that of a VM that does not run, does not know of?
 * A start or a move of which nothing could be kept. */
bool vm_end_is_news(const struct latch_record *record, const Godwit__VmStatus *status);

#endif

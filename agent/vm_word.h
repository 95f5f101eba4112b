/* What the coordinator is told of a VM: what is known of it, or that it is not known.
 *
 * Flow:   vm_table -> [vm_word] -> agent_link: HELLO, events
 * Thread: the loop's.
 *
 * vm.bin says what an agent before this one knew. As long as the process that it left has not answered, that may be
 * older than what the process did since, and is told to nobody: HELLO lists the VM as unknown, events are kept back,
 * and its first word (its process's answer, or its end) is marked, for it stands for HELLO's. An answer that it runs nothing
 * yet is no such word: what it is being made by a start of then is not known before it is that.
 */
#ifndef GODWIT_AGENT_VM_WORD_H
#define GODWIT_AGENT_VM_WORD_H

#include <stdbool.h>

#include "proto/agent.pb-c.h"

struct vm_entry;

/* Something that an earlier agent left runs for it, or may, and has not answered. */
bool vm_word_is_unheard(const struct vm_entry *entry);
/* For HELLO; NULL: it is not listed. `room` is used where it is unknown, and borrows from the entry. */
Godwit__VmStatus *vm_word_list(struct vm_entry *entry, Godwit__VmStatus *room);
/* Its event, which borrows from the entry; false: there is nothing to tell yet. */
bool vm_word_event(struct vm_entry *entry, Godwit__AgentVmEvent *ret_event);

#endif

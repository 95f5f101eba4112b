/* Which start of a domain libvirt was asked for last, kept as long as this boot: an agent that is started anew
 * knows what libvirt may still be at.
 *
 * Flow:   orders -> [start_mark] -> run folder -> vm_table, orders of the next agent
 * Thread: the loop's.
 *
 * A domain that was never here before has no vm.bin until it is known to run, and nothing else in its run folder tells it
 * from a VM whose process died. The mark has all that vm.bin will have.
 */
#ifndef GODWIT_AGENT_START_MARK_H
#define GODWIT_AGENT_START_MARK_H

#include <stdint.h>

#include "proto/vm.pb-c.h"

struct fault;
struct vm_entry;

#define START_MARK_NAME "domain.start" /* in the run folder; goes with what else is in there */

int start_mark_keep(const struct vm_entry *entry, const Godwit__VmSpec *spec, uint64_t generation,
                    struct fault *fault);
/* 0: there is none. */
uint64_t start_mark_generation(const struct vm_entry *entry);
/* As what it runs, if it does: the caller's. NULL: there is none. */
Godwit__VmStatus *start_mark_read(const struct vm_entry *entry);
/* That start is over: it was refused, or an agent before us did not tidy up; what is here next comes from elsewhere. */
void start_mark_drop(const struct vm_entry *entry);

#endif

/* Ending a domain's start that an agent before us had libvirt begin, and of which nobody knows what became.
 *
 * Flow:   quarantine -> [start_recall] -> vm_entry_open -> domain;  its answer -> vm_table
 * Thread: the loop's.
 *
 * Until the pool says its order again nobody speaks for such a domain. A life of this host that was fenced gets no order any
 * more, and is not over as long as libvirt may still begin the domain: so it is spoken for here, as one that is to end.
 */
#ifndef GODWIT_AGENT_START_RECALL_H
#define GODWIT_AGENT_START_RECALL_H

#include <stdbool.h>

struct fault;
struct vm_entry;

/* It is recalled, and nobody asked for its end yet. */
bool start_recall_is_due(const struct vm_entry *entry);
/* Of one that is due: it is alive from then on, until it has ended or is known never to run. On failure it still is due. */
int start_recall_end(struct vm_entry *entry, struct fault *fault);

#endif

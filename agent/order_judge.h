/* May this order be carried out here, and now?
 *
 * Flow:   orders, order_* -> [order_judge] -> vm_table
 * Thread: the loop's.
 */
#ifndef GODWIT_AGENT_ORDER_JUDGE_H
#define GODWIT_AGENT_ORDER_JUDGE_H

#include "agent/orders_inside.h"

int order_judge_incarnation(const struct orders *orders, const char *named, struct fault *fault);
int order_judge_no_replica(const struct orders *orders, const char *vm_id, struct fault *fault);
/* The VM with a process to speak to. */
int order_judge_process(struct orders *orders, const char *vm_id, struct vm_entry **ret_entry,
                        struct fault *fault);
/* By an agent before us; it goes on by itself, and nobody knows yet which generation it is. */
bool order_judge_is_half_started(const struct vm_entry *entry);
/* What an agent before us left and has not answered yet. */
bool order_judge_is_unheard(const struct vm_entry *entry);
/* Its last move is over for its process here, which only has to end. */
bool order_judge_is_ending(const struct vm_entry *entry);

#endif

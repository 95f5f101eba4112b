/* Class F2: a fence agent switches a host off, and is asked until it says that the power is off.
 *
 * Flow:   cluster_ha's order -> coordinator -> [fence] -> a child process -> cluster_ha
 * Thread: the loop's; the child is waited for on a worker.
 *
 * The protocol is that of the fence-agents project: "key=value" lines on standard input; action off
 * ends with 0 when it is done; action status ends with 0 for on and 2 for off. What the agent says
 * is believed only as far as status goes: "off" without a status of off is no fence. The child gets
 * an empty environment and no descriptor of ours.
 */
#ifndef GODWIT_COORDINATOR_FENCE_H
#define GODWIT_COORDINATOR_FENCE_H

#include "coordinator/coordinator.h"

#define FENCE_DIR_DEFAULT "/usr/sbin"

/* What became of it goes to cluster_order_done. */
void fence_order(struct coordinator *coordinator, const struct cluster_order *order);

#endif

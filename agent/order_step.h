/* An order on its way, and what it holds.
 *
 * Flow:   orders, order_* -> [order_step]
 * Thread: the loop's.
 */
#ifndef GODWIT_AGENT_ORDER_STEP_H
#define GODWIT_AGENT_ORDER_STEP_H

#include "agent/orders_inside.h"

void order_step_free(struct step *step);
/* `order` is copied, NULL: none. `request` NULL: nobody waits for this step itself. */
int order_step_new(struct step **ret_step, struct orders *orders, const char *vm_id,
                   const ProtobufCMessage *order, struct rpc_request *request, struct fault *fault);

#endif

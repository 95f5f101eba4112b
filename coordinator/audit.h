/* Who asked for what, and what became of it: an append-only log whose entries are chained by hash.
 *
 * Flow:   api -> [audit] -> store; api -> [audit] -> operator, who verifies the chain
 * Thread: the loop's.
 *
 * The entry "begins" is handed to the store before the request is looked at, and the store keeps its
 * order: nothing that the request does can become durable, or leave, before it. The outcome follows
 * when the request is answered.
 */
#ifndef GODWIT_COORDINATOR_AUDIT_H
#define GODWIT_COORDINATOR_AUDIT_H

#include "coordinator/coordinator.h"

int audit_load(struct coordinator *coordinator, struct fault *fault);
void audit_unload(struct coordinator *coordinator);
/* Is this request one that changes something? Then it is noted, and its answer will be. */
void audit_request(struct peer *peer, uint16_t method, struct rpc_request *request,
                   const ProtobufCMessage *message);
/* Does it change the pool? */
bool audit_is_change(uint16_t method, const ProtobufCMessage *message);
void audit_list(struct peer *peer, struct rpc_request *request, const void *message);

#endif

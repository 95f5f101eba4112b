/* Inviting another pool, taking such an invitation up, ending it.
 *
 * Flow:   operator -> [peer_api] -> token; token -> [peer_api] -> the other pool's [peer_api] ->
 * certificate Thread: the loop's.
 */
#ifndef GODWIT_COORDINATOR_PEER_API_H
#define GODWIT_COORDINATOR_PEER_API_H

#include "coordinator/coordinator.h"

/* Handlers, see api.c. */
void peer_api_request(struct peer *peer, struct rpc_request *request, const void *message);
void peer_api_join(struct peer *peer, struct rpc_request *request, const void *message);

/* The coordinator ends, or leads no more: hang up, answer who waits, forget all. */
void peer_api_unload(struct coordinator *coordinator);

#endif

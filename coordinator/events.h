/* The newest events of the pool, in memory beside the store, for `godwit events`.
 *
 * Flow:   store, coordinator_apply -> [events] -> api
 * Thread: the loop's.
 */
#ifndef GODWIT_COORDINATOR_EVENTS_H
#define GODWIT_COORDINATOR_EVENTS_H

#include "coordinator/coordinator.h"

int events_load(struct coordinator *coordinator, struct fault *fault);
void events_unload(struct coordinator *coordinator);
/* One that has just become durable. */
void events_add(struct coordinator *coordinator, const char *vm_id, const char *text,
                uint64_t unix_ms);
void events_request(struct peer *peer, struct rpc_request *request, const void *message);

#endif

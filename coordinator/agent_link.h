/* The agents' connections: who is there, orders down, facts and events up.
 *
 * Flow:   coordinator -> [agent_link] -> agent; agent -> [agent_link] -> cluster_core
 * Thread: the loop's.
 */
#ifndef GODWIT_COORDINATOR_AGENT_LINK_H
#define GODWIT_COORDINATOR_AGENT_LINK_H

#include "coordinator/coordinator.h"

/* The connection of a host's agent; NULL when there is none. */
struct peer *agent_link_find(struct coordinator *coordinator, const char *host);

enum agent_link_fate {
    AGENT_LINK_ANSWERED,
    AGENT_LINK_REFUSED, /* by the agent itself */
    AGENT_LINK_NEVER_LEFT,
    AGENT_LINK_UNKNOWN, /* the connection or the time ended: it may have been carried out */
};

/* `done` comes exactly once, never from inside the call: with a reply, or with a fault. */
typedef void agent_link_done_fn(void *data, const ProtobufCMessage *reply,
                                const struct fault *fault, enum agent_link_fate fate);
void agent_link_call(struct coordinator *coordinator, const char *host, uint16_t method,
                     const ProtobufCMessage *request, const ProtobufCMessageDescriptor *reply,
                     uint64_t timeout_ms, agent_link_done_fn *done, void *data);
/* Send an order of the cores; what became of it goes to cluster_core. */
void agent_link_order(struct coordinator *coordinator, const struct cluster_order *order);

/* The connection is gone: whoever waits for it is told so. */
void agent_link_gone(struct peer *peer);
/* A silent agent's connection is given up, so that it makes a new one. */
void agent_link_tick(struct coordinator *coordinator);
/* The process ends, or leads no more: calls under way are forgotten. */
void agent_link_forget(struct peer *peer);
/* ... and those that failed already and were to be told by the loop's next turn. */
void agent_link_forget_failed(struct coordinator *coordinator);

/* Handlers, see api.c. `request` is NULL for events. */
void agent_link_hello(struct peer *peer, struct rpc_request *request, const void *message);
void agent_link_heartbeat(struct peer *peer, struct rpc_request *request, const void *message);
void agent_link_vm_event(struct peer *peer, struct rpc_request *request, const void *message);
void agent_link_found(struct peer *peer, struct rpc_request *request, const void *message);
void agent_link_move_event(struct peer *peer, struct rpc_request *request, const void *message);

#endif

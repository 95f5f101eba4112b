/* Letting hosts in: join tokens, and certificates for those who hold one.
 *
 * Flow:   operator -> [enrol] -> token; a new host's token and request -> [enrol] -> its
 * certificate Thread: the loop's.
 *
 * A token is a one-time secret. The pool keeps its SHA-256 only; it lives 15 minutes at most, lets
 * one host in, once, and may be bound to a host's name.
 */
#ifndef GODWIT_COORDINATOR_ENROL_H
#define GODWIT_COORDINATOR_ENROL_H

#include "coordinator/coordinator.h"

struct fault;

int enrol_load(struct coordinator *coordinator, struct fault *fault);
void enrol_unload(struct coordinator *coordinator);

/* Handlers, see api.c. */
void enrol_create_token(struct peer *peer, struct rpc_request *request, const void *message);
void enrol_host(struct peer *peer, struct rpc_request *request, const void *message);

#endif

/* An operator's console of a VM, wherever it runs: after a move the session goes on at the new
 * host.
 *
 * Flow:   operator <-> [console_relay] <-> agent
 * Thread: the loop's.
 */
#ifndef GODWIT_COORDINATOR_CONSOLE_RELAY_H
#define GODWIT_COORDINATOR_CONSOLE_RELAY_H

#include "coordinator/coordinator.h"

/* Handlers, see api.c. */
void console_relay_open(struct peer *peer, struct rpc_request *request, const void *message);
void console_relay_input(struct peer *peer, struct rpc_request *request, const void *message);
void console_relay_output(struct peer *peer, struct rpc_request *request, const void *message);

/* Follow VMs that have moved, end sessions of VMs that have stopped. Called after every step. */
void console_relay_follow(struct coordinator *coordinator);
void console_relay_peer_gone(struct peer *peer); /* an operator's sessions end; an agent's wait */

#endif

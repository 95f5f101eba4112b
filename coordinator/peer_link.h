/* The line to a peer pool: who took an invitation up calls whoever gave it, says hello every two
 * seconds, and calls again when the line is lost. Once it is up either end may ask.
 *
 * Flow:   coordinator's tick -> [peer_link] -> the other pool's coordinator -> api -> [peer_link]
 * Thread: the loop's.
 */
#ifndef GODWIT_COORDINATOR_PEER_LINK_H
#define GODWIT_COORDINATOR_PEER_LINK_H

#include "coordinator/coordinator.h"
#include "coordinator/peer_pool.h"

void peer_link_tick(struct coordinator *coordinator);
/* The record goes, or the coordinator ends: hang up at once, in both directions. */
void peer_link_end(struct coordinator *coordinator, struct peer_pool *pool);
/* By which it can be asked now, whoever called; NULL: there is none. */
struct rpc *peer_link_rpc(const struct coordinator *coordinator, const struct peer_pool *pool);
/* Handler, see api.c. */
void peer_link_hello(struct peer *peer, struct rpc_request *request, const void *message);
/* A connection is closed: was it a line? */
void peer_link_lost(struct peer *peer, const char *why);
/* What locks the keys of our lines in the store. */
void peer_link_secret(const struct coordinator *coordinator, char ret_secret[static PKI_PIN_SIZE]);

#endif

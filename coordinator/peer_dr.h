/* What this coordinator and those of peer pools say to each other of replicas that one holds for
 * the other.
 *
 * Flow:   coordinator's tick -> [peer_dr] -> the line -> the other's [peer_dr] -> dr_peer -> store
 * Thread: the loop's.
 *
 * The source's coordinator asks: once a second how things are, and to be held whatever is not. Who
 * called whom does not matter. Nothing leaves before it is durable.
 */
#ifndef GODWIT_COORDINATOR_PEER_DR_H
#define GODWIT_COORDINATOR_PEER_DR_H

#include "coordinator/coordinator.h"
#include "proto/peer_dr.pb-c.h"

void peer_dr_tick(struct coordinator *coordinator);
/* Notes which lines are up, before somebody judges by it. */
void peer_dr_look(struct coordinator *coordinator);
/* Replicas of either direction. */
unsigned peer_dr_count(const struct coordinator *coordinator, const struct peer_pool *pool);

/* Handlers: of a line that the other pool called by, or we. */
void peer_dr_on_hold(struct coordinator *coordinator, const struct peer_pool *pool,
                     struct rpc_request *request, const Godwit__PeerDrHold *wanted);
void peer_dr_on_words(struct coordinator *coordinator, const struct peer_pool *pool,
                      struct rpc_request *request, const Godwit__PeerDrWords *words);

#endif

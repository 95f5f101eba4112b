/* A peer pool wants a replica of one of its VMs held here: is that possible, and where?
 *
 * Flow:   peer_dr -> [dr_peer_hold] -> the cluster's VM and record -> dr_peer
 * Thread: the loop's; pure.
 *
 * What a peer sends is judged as an operator's description would be, and more: a disk that is given
 * by a path is none of its business, and neither is a VM that this pool has already.
 */
#ifndef GODWIT_COORDINATOR_DR_PEER_HOLD_H
#define GODWIT_COORDINATOR_DR_PEER_HOLD_H

#include "coordinator/cluster.h"
#include "proto/peer_dr.pb-c.h"

/* Everything in `ret_held` is borrowed. It is to leave once `todo` is durable. */
int dr_peer_hold(struct cluster *cluster, const char *peer_pool_id, const char *peer_name,
                 const Godwit__PeerDrHold *wanted, struct cluster_now now,
                 Godwit__PeerDrHeld *ret_held, struct problem *problem, struct cluster_todo *todo);

#endif

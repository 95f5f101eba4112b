/* What operators ask of a replica across two pools: take it over, test it, end it.
 *
 * Flow:   dr_ask -> [dr_peer_ask] -> dr_peer, dr_test -> todo
 * Thread: the loop's; pure.
 */
#ifndef GODWIT_COORDINATOR_DR_PEER_ASK_H
#define GODWIT_COORDINATOR_DR_PEER_ASK_H

#include "coordinator/cluster.h"

int dr_peer_ask(struct cluster *cluster, struct cluster_dr *dr, const Godwit__DrRequest *request,
                struct cluster_now now, struct problem *problem, struct cluster_todo *todo);

#endif

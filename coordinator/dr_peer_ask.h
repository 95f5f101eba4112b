/* What operators ask of a replica across two pools: take it over, test it, end it.
 *
 * Flow:   dr_ask -> [dr_peer_ask] -> dr_peer, dr_test -> todo
 * Thread: the loop's; pure.
 */
#ifndef GODWIT_COORDINATOR_DR_PEER_ASK_H
#define GODWIT_COORDINATOR_DR_PEER_ASK_H

#include "coordinator/cluster.h"

/* -1: why one that is bound to another pool is not protected here, as it stands. */
int dr_peer_ask_refuse_protect(const struct cluster *cluster, const struct cluster_dr *dr,
                               struct cluster_now now, struct problem *problem);
int dr_peer_ask(struct cluster *cluster, struct cluster_dr *dr, const Godwit__DrRequest *request,
                struct cluster_now now, struct problem *problem, struct cluster_todo *todo);

#endif

/* What operators ask of disaster recovery: protect, unprotect, failover, failback.
 *
 * Flow:   dr_api -> [dr_ask] -> dr -> todo
 * Thread: the loop's; pure.
 *
 * A request is judged whole - of a group every VM - before anything is changed: 0, or -1 with
 * `problem` set. What it begins goes on by itself, and is told by dr_tell.
 */
#ifndef GODWIT_COORDINATOR_DR_ASK_H
#define GODWIT_COORDINATOR_DR_ASK_H

#include "coordinator/cluster.h"

int dr_ask(struct cluster *cluster, const Godwit__DrRequest *request, struct cluster_now now,
           struct problem *problem, struct cluster_todo *todo);

/* Protect a VM by a replica in a peer pool. */
struct dr_ask_peer {
    const char *pool_id, *name;
    bool is_linked;
};
int dr_ask_protect_there(struct cluster *cluster, const Godwit__DrRequest *request,
                         const struct dr_ask_peer *peer, struct cluster_now now,
                         struct problem *problem, struct cluster_todo *todo);
/* For dr_peer_ask: -1, `problem` says what goes on with it. */
int dr_ask_refuse_acting(const struct cluster *cluster, const struct cluster_dr *dr,
                         struct cluster_now now, struct problem *problem);
int dr_ask_refuse_ending(const struct cluster *cluster, const struct cluster_dr *dr,
                         struct cluster_now now, struct problem *problem);
/* For dr_peer_hold: an empty record of a VM that has none. */
struct cluster_dr *dr_ask_new_record(struct cluster *cluster, struct cluster_vm *vm,
                                     struct cluster_now now);

#endif

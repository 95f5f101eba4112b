/* How a replica across two pools is told of.
 *
 * Flow:   dr_tell -> [dr_peer_tell] -> cli
 * Thread: the loop's; pure.
 */
#ifndef GODWIT_COORDINATOR_DR_PEER_TELL_H
#define GODWIT_COORDINATOR_DR_PEER_TELL_H

#include "coordinator/cluster.h"

/* As dr_state's, and held, handed, conflict. */
const char *dr_peer_tell_state(const struct cluster *cluster, const struct cluster_dr *dr,
                               struct cluster_now now, char ret_reason[static CLUSTER_REASON_SIZE]);
/* At the source: what the end of its protection waits for, of the other pool. */
void dr_peer_tell_ending(const struct cluster_dr *dr, char ret_reason[static CLUSTER_REASON_SIZE]);
/* Nothing of what it has to say was heard for a while. */
bool dr_peer_tell_is_silent(const struct cluster_dr *dr, struct cluster_now now);

#endif

/* How a VM's protection looks: in words for operators, as warnings, as numbers.
 *
 * Flow:   dr, agents' words -> [dr_tell] -> dr_api, api (warnings), metrics
 * Thread: the loop's; pure.
 */
#ifndef GODWIT_COORDINATOR_DR_TELL_H
#define GODWIT_COORDINATOR_DR_TELL_H

#include "coordinator/cluster.h"

struct dr_message { /* borrows from the cluster until the next step */
    Godwit__DrInfo info;
    char state[16], reason[CLUSTER_REASON_SIZE], vm_state[CLUSTER_REASON_SIZE];
};
void dr_tell(const struct cluster *cluster, const struct cluster_dr *dr, struct cluster_now now,
             struct dr_message *ret_message);
/* waiting, syncing, protected, late, lost, queued, failing-over, failing-back, away, ending; why,
 * or "". */
const char *dr_state(const struct cluster *cluster, const struct cluster_dr *dr,
                     struct cluster_now now, char ret_reason[static CLUSTER_REASON_SIZE]);
/* Its protection ends: what that waits for. */
void dr_tell_ending(const struct cluster *cluster, const struct cluster_dr *dr,
                    struct cluster_now now, char ret_reason[static CLUSTER_REASON_SIZE]);
/* What the loss of its host would cost now; false: nobody knows, or nothing is held. */
bool dr_rpo_now(const struct cluster *cluster, const struct cluster_dr *dr, struct cluster_now now,
                uint64_t *ret_ms);
/* Once a tick: whoever does not keep its goal, or does again, is an event. */
void dr_tell_alarms(struct cluster *cluster, struct cluster_now now, struct cluster_todo *todo);
/* One sentence for `godwit status`; false: all is well. */
bool dr_warning(const struct cluster *cluster, struct cluster_now now,
                char ret_text[static CLUSTER_REASON_SIZE]);

#endif

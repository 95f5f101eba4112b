/* What a libvirt domain is defined as: the record follows what is done to it outside of the pool.
 *
 * Flow:   cluster_found -> [cluster_definition] -> todo: its text is read, and becomes the record's
 * Thread: the loop's; pure.
 *
 * HA starts a domain elsewhere by the record's definition. A disk that virsh has put a new file in the place of (an external
 * snapshot), moved or added is in none but libvirt's own; started by an older one, the guest would go on from the
 * file below. Hosts tell a digest with every list of their domains; the text is asked for when that is another one.
 */
#ifndef GODWIT_COORDINATOR_CLUSTER_DEFINITION_H
#define GODWIT_COORDINATOR_CLUSTER_DEFINITION_H

#include "coordinator/cluster.h"

void cluster_definition_told(struct cluster *cluster, const struct cluster_host *host,
                             const Godwit__AgentFound *found, struct cluster_now now,
                             struct cluster_todo *todo);
void cluster_definition_done(struct cluster_vm *vm, const struct cluster_order *order,
                             const struct cluster_result *result, struct cluster_todo *todo);

#endif

/* VMs of which their host's agent does not know what they are: their processes have not answered it yet, or have
 * no VM in them yet.
 *
 * Flow:   agent's HELLO -> [cluster_unheard] -> cluster_core, cluster_ha
 * Thread: the loop's; pure.
 *
 * Such a VM is neither absent nor running, and what its agent remembers of it is not told: it may have been
 * started, taken from another host, or have ended since. What it is comes as its first word.
 */
#ifndef GODWIT_COORDINATOR_CLUSTER_UNHEARD_H
#define GODWIT_COORDINATOR_CLUSTER_UNHEARD_H

#include <stdbool.h>

#include "proto/agent.pb-c.h"

struct cluster_host;

bool cluster_unheard_is(const Godwit__VmStatus *status);
/* Of all that a HELLO lists. */
void cluster_unheard_listed(struct cluster_host *host, const Godwit__AgentHello *hello);
/* The first word of one has come; false: it says nothing, and it is unheard as before. Agents of before told that too. */
bool cluster_unheard_answered(struct cluster_host *host, const Godwit__VmStatus *word);

#endif

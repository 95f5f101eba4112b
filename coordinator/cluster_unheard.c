#include "coordinator/cluster_unheard.h"

#include "coordinator/cluster.h"
#include "proto/vm_status.h"

bool cluster_unheard_is(const Godwit__VmStatus *status)
{
    return vm_status_says_nothing(status);
}

void cluster_unheard_listed(struct cluster_host *host, const Godwit__AgentHello *hello)
{
    host->unheard = 0;
    for (size_t i = 0; i < hello->n_vms; i++)
        host->unheard += cluster_unheard_is(hello->vms[i]);
}

bool cluster_unheard_answered(struct cluster_host *host, const Godwit__VmStatus *word)
{
    if (cluster_unheard_is(word))
        return false;
    if (host->unheard > 0)
        host->unheard--;
    return true;
}

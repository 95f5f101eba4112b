#include "coordinator/cluster_unheard.h"

#include "coordinator/cluster.h"

bool cluster_unheard_is(const Godwit__VmStatus *status)
{
    bool has_state = status->has_state && status->state != GODWIT__VM_STATE__VM_STATE_NONE;

    return !has_state && !status->generation && !(status->latch && status->latch->move_id);
}

void cluster_unheard_listed(struct cluster_host *host, const Godwit__AgentHello *hello)
{
    host->unheard = 0;
    for (size_t i = 0; i < hello->n_vms; i++)
        host->unheard += cluster_unheard_is(hello->vms[i]);
}

void cluster_unheard_answered(struct cluster_host *host)
{
    if (host->unheard > 0)
        host->unheard--;
}

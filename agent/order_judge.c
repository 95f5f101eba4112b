#include "agent/order_judge.h"

#include <string.h>

#include "agent/host_facts.h"
#include "agent/quarantine.h"
#include "agent/standbys.h"
#include "agent/vm_process.h"

int order_judge_incarnation(const struct orders *orders, const char *named, struct fault *fault)
{
    const char *ours = host_facts_incarnation(orders->facts);

    if (orders->quarantine && quarantine_is_on(orders->quarantine))
        return fault_set(fault, ERR_REFUSED, "this host is quarantined: its old life is ending");
    if (!named || strcmp(named, ours) != 0)
        return fault_set(
            fault, ERR_REFUSED,
            "the order is for another life of this host (%.8s, now %.8s): it was started "
            "anew since",
            named ? named : "none", ours);
    return 0;
}

/* What a replica holds here is taken; its disks are half of something until then. */
int order_judge_no_replica(const struct orders *orders, const char *vm_id, struct fault *fault)
{
    if (!vm_id || !orders->standbys || !standbys_hold(orders->standbys, vm_id))
        return 0;
    return fault_set(fault, ERR_STATE, "this host holds a replica of it: that is taken by a failover, or "
                                       "dropped first");
}

/* The VM with a process to speak to. */
int order_judge_process(struct orders *orders, const char *vm_id, struct vm_entry **ret_entry,
                        struct fault *fault)
{
    struct vm_entry *entry = vm_table_find(orders->table, vm_id);

    if (!entry)
        return fault_set(fault, ERR_NOT_FOUND, "this host has no VM %s", vm_id ? vm_id : "");
    if (!entry->process)
        return fault_set(fault, ERR_STATE, "%s does not run on this host",
                         entry->status->name ? entry->status->name : vm_id);
    if (entry->upgrade || entry->suspending || entry->snapshotting)
        return fault_set(fault, ERR_BUSY, "%s is being %s",
                         entry->status->name ? entry->status->name : vm_id,
                         entry->upgrade      ? "upgraded"
                         : entry->suspending ? "suspended"
                                             : "snapshotted");
    if (!vm_process_rpc(entry->process) || entry->starting)
        return fault_set(fault, ERR_BUSY, "%s: its process cannot be spoken to just now",
                         entry->status->name ? entry->status->name : vm_id);
    *ret_entry = entry;
    return 0;
}

/* A start whose agent died goes on without it: its process fills itself from a file, which takes seconds,
 * and then is the generation that it was started as. Until then nobody knows which that is. */
bool order_judge_is_half_started(const struct vm_entry *entry)
{
    const Godwit__VmStatus *status = entry->status;

    return entry->process && !entry->starting && !entry->discard && !entry->upgrade &&
           !status->generation && !entry->in_move_id[0] &&
           (!status->latch || status->latch->latch == GODWIT__LATCH__LATCH_NONE);
}

/* What an agent before us left and has not answered yet: of that vm.bin tells only what was before it, and it may be
 * any start. No order may count as refused for it, nor a start as ended. */
bool order_judge_is_unheard(const struct vm_entry *entry)
{
    bool is_silent = entry->process && !vm_process_is_known(entry->process);

    return (entry->unreachable || (is_silent && !entry->upgrade)) && !vm_entry_is_domain(entry);
}

/* The VM's last move is over for its process here, which only has to end: it was told to quit. */
bool order_judge_is_ending(const struct vm_entry *entry)
{
    return entry->tidying || (entry->process && !entry->starting && !entry->unreachable &&
                              entry->status->state == GODWIT__VM_STATE__VM_STATE_GONE);
}

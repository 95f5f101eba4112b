#include "agent/vm_end.h"

#include <stdio.h>

#include "agent/vm/latch_file.h"

static void set(struct vm_end *ret_end, Godwit__VmState state, const char *reason)
{
    ret_end->state = state;
    (void)snprintf(ret_end->reason, sizeof ret_end->reason, "%s", reason);
}

/* It came to tell why it ended. */
static bool decide_by_ending(const struct latch_record *record, struct vm_end *ret_end)
{
    switch (record->ending) {
    case LATCH_ENDING_POWER_OFF:
        set(ret_end, GODWIT__VM_STATE__VM_STATE_STOPPED, record->reason);
        return true;
    case LATCH_ENDING_CRASHED:
        set(ret_end, GODWIT__VM_STATE__VM_STATE_CRASHED, record->reason);
        return true;
    case LATCH_ENDING_GONE:
        set(ret_end, GODWIT__VM_STATE__VM_STATE_GONE, record->reason);
        return true;
    case LATCH_ENDING_QUIT:
        set(ret_end,
            record->generation ? GODWIT__VM_STATE__VM_STATE_STOPPED
                               : GODWIT__VM_STATE__VM_STATE_GONE,
            record->reason);
        ret_end->abandons = !record->generation && record->move_generation;
        return true;
    }
    return false;
}

void vm_end_decide(const struct latch_record *record, const char *how, bool asked,
                   struct vm_end *ret_end)
{
    char words[VM_END_REASON_SIZE];

    *ret_end = (struct vm_end){0};
    if (record && decide_by_ending(record, ret_end))
        return;

    unsigned latch = record ? record->latch : GODWIT__LATCH__LATCH_NONE;
    unsigned long long m = record ? record->move_generation : 0;
    switch (latch) {
    case GODWIT__LATCH__LATCH_IN:
    case GODWIT__LATCH__LATCH_READY:
    case GODWIT__LATCH__LATCH_ABANDONED:
        ret_end->abandons = latch != GODWIT__LATCH__LATCH_ABANDONED;
        (void)snprintf(words, sizeof words, "the move's target process ended before it took: %s",
                       how);
        set(ret_end, GODWIT__VM_STATE__VM_STATE_GONE, words);
        return;
    case GODWIT__LATCH__LATCH_GAVE:
        (void)snprintf(words, sizeof words,
                       "given away as generation %llu; its process here ended: %s", m, how);
        set(ret_end, GODWIT__VM_STATE__VM_STATE_GONE, words);
        return;
    case GODWIT__LATCH__LATCH_RELEASED:
        set(ret_end, GODWIT__VM_STATE__VM_STATE_GONE, "moved to another host");
        return;
    }
    if (record && !record->generation) { /* it never ran here, and no move had begun */
        (void)snprintf(words, sizeof words, "ended before it ran: %s", how);
        set(ret_end, GODWIT__VM_STATE__VM_STATE_GONE, words);
        return;
    }
    if (asked)
        set(ret_end, GODWIT__VM_STATE__VM_STATE_STOPPED, "stopped on request");
    else
        set(ret_end, GODWIT__VM_STATE__VM_STATE_CRASHED, how);
}

bool vm_end_is_news(const struct latch_record *record, const Godwit__VmStatus *status)
{
    uint64_t known = status->latch ? status->latch->generation : 0;

    if (known < status->generation)
        known = status->generation;
    return record->generation > status->generation || record->move_generation > known;
}

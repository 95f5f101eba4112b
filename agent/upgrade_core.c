#include "agent/upgrade_core.h"

/* It never runs: it said so, or it is no more and had not taken. */
static bool is_out(const struct upgrade_side *next)
{
    return next->latch == GODWIT__LATCH__LATCH_ABANDONED || !next->is_alive;
}

static enum upgrade_answer end_next(const struct upgrade_side *next)
{
    return next->is_alive ? UPGRADE_KILL_NEXT : UPGRADE_DROP_NEXT;
}

enum upgrade_answer upgrade_core_judge(const struct upgrade_facts *facts)
{
    const struct upgrade_side *old = &facts->old, *next = &facts->next;
    bool gave = old->latch == GODWIT__LATCH__LATCH_GAVE;

    if (next->latch == GODWIT__LATCH__LATCH_TOOK)
        return UPGRADE_SWITCH;
    if (gave && is_out(next))
        return old->is_alive ? UPGRADE_RESUME_OLD : end_next(next);
    if (gave)
        return next->latch == GODWIT__LATCH__LATCH_READY && (!old->is_alive || facts->is_overdue)
                   ? UPGRADE_TAKE
                   : UPGRADE_WAIT;
    /* Not given, and by a process that is no more or has latched ABORTED never will be. */
    if (!old->is_alive || old->latch == GODWIT__LATCH__LATCH_ABORTED)
        return end_next(next);
    if (old->latch == GODWIT__LATCH__LATCH_OUT)
        return UPGRADE_WAIT; /* READY may be on its way to it, also from a dead one */
    /* Nothing of this hand-over has begun at the old one. */
    if (!next->is_alive)
        return UPGRADE_DROP_NEXT;
    return facts->is_called_off || next->latch == GODWIT__LATCH__LATCH_ABANDONED
               ? UPGRADE_KILL_NEXT
               : UPGRADE_WAIT;
}

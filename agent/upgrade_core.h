/* Which of two processes of this host has a VM that is being handed over between them.
 *
 * Flow:   upgrade -> [upgrade_core] -> upgrade
 * Thread: any; pure.
 *
 * The host keeps the VM all the time, so the pool's record does not change. Between the two processes
 * the latches decide, as between two hosts (migrate/HANDOVER.md); they lie in files that outlive both
 * and the agent, so an agent that was started anew finds the same answer.
 *
 *   next TOOK                              the next one has it, alive or not
 *   next will never take, old GAVE         the old one goes on, told by us: nobody else can
 *   next will never take, old ABORTED      the old one runs on by itself
 *   anything else                          they are at it, and each of their phases has an end
 */
#ifndef GODWIT_AGENT_UPGRADE_CORE_H
#define GODWIT_AGENT_UPGRADE_CORE_H

#include <stdbool.h>

#include "proto/migration.pb-c.h"

struct upgrade_side {
    bool is_alive;       /* its process has not provably ended */
    Godwit__Latch latch; /* of this hand-over, as its file says; NONE: nothing of it yet */
};

struct upgrade_facts {
    struct upgrade_side old, next;
    bool is_called_off; /* the old one was not told to begin, and will not be */
    bool is_overdue;    /* the old one gave, and nothing was heard for some time */
};

enum upgrade_answer {
    UPGRADE_WAIT,
    UPGRADE_SWITCH,     /* the next process is the VM's: put it in the old one's place */
    UPGRADE_TAKE,       /* tell the next one that it was given the guest */
    UPGRADE_RESUME_OLD, /* the next one's file says ABANDONED, or has to say it first */
    UPGRADE_KILL_NEXT,  /* it can never take */
    UPGRADE_DROP_NEXT,  /* it has ended and is out of it: all is as it was before */
};

enum upgrade_answer upgrade_core_judge(const struct upgrade_facts *facts);

#endif

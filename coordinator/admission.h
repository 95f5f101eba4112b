/* Could the pool survive the death of its worst hosts, with what it is asked to run now?
 *
 * Flow:   cluster_ask, cluster_ha, api -> [admission] -> planner
 * Thread: the loop's; pure.
 *
 * For every set of `reserve` hosts (all of them for one or two, the greediest choices beyond): what
 * HA protects on them must find room on the others, placed one after the other, the largest first.
 * A start that would break what holds now is refused, naming the VM that would find no room; where
 * it does not hold already, nothing is refused for it: `godwit ha status` tells.
 */
#ifndef GODWIT_COORDINATOR_ADMISSION_H
#define GODWIT_COORDINATOR_ADMISSION_H

#include "coordinator/cluster.h"

struct admission_ask {           /* what is about to change; all zero: nothing */
    const struct cluster_vm *vm; /* it, or a new one of this spec */
    const Godwit__VmSpec *spec;  /* NULL: the VM's */
    const char *host;            /* where it would run; NULL: where it is */
    bool is_protected;
};

/* 0, or -1 with `problem` set. */
int admission_judge(const struct cluster *cluster, const struct admission_ask *ask,
                    struct cluster_now now, struct problem *problem);
/* Does it hold as things are? When not, ret_lacks says why. */
bool admission_holds(const struct cluster *cluster, struct cluster_now now, char *ret_lacks,
                     size_t size);

#endif

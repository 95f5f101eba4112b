/* Could the pool survive the death of its worst hosts, with what it is asked to run now?
 *
 * Flow:   cluster_ask, cluster_ha, rule, api -> [admission] -> cluster_layout, choose
 * Thread: the loop's; pure.
 *
 * For every set of `reserve` hosts (each host, each pair in pools of up to 32; beyond that those
 * that carry most): what HA protects on them must find room on the others by hard rules, cordons,
 * CPU and memory, placed one after the other, the largest first. A start or a rule that would break
 * what holds now is refused, naming the VM that would find no room; where it does not hold already,
 * nothing is refused for it: `godwit ha status` tells.
 */
#ifndef GODWIT_COORDINATOR_ADMISSION_H
#define GODWIT_COORDINATOR_ADMISSION_H

#include "coordinator/cluster.h"

struct admission_ask { /* what is about to change; all zero: nothing */
    const struct cluster_vm *vm;
    const struct cluster_host *host; /* where it would run; NULL: where it is */
    bool is_protected;
};

/* 0, or -1 with `problem` set. */
int admission_judge(struct cluster *cluster, const struct admission_ask *ask,
                    struct cluster_now now, struct problem *problem);
/* Does it hold as things are? When not, ret_lacks says why. */
bool admission_holds(struct cluster *cluster, struct cluster_now now, char *ret_lacks, size_t size);
/* After a change of rules or labels, which the caller takes back when this is not 0. `held`: what
 * admission_holds said before it. */
int admission_judge_changed(struct cluster *cluster, bool held, struct cluster_now now,
                            struct problem *problem);

#endif

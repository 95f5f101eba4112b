/* The pool's record of snapshots, and what may be done with them.
 *
 * Flow:   agent_link, api_snapshot -> [cluster_snapshot] -> cluster, todo
 * Thread: the loop's; pure.
 *
 * A snapshot lies on the host where it was taken, and that host's word is the truth: the record follows
 * all that it tells, so it also knows them while the host is away.
 */
#ifndef GODWIT_COORDINATOR_CLUSTER_SNAPSHOT_H
#define GODWIT_COORDINATOR_CLUSTER_SNAPSHOT_H

#include "coordinator/cluster.h"

/* What `host` has, all of it. Bad ones are left out. */
void cluster_snapshots_told(struct cluster *cluster, struct cluster_host *host,
                            const Godwit__AgentSnapshots *all, struct cluster_todo *todo);

size_t cluster_snapshot_count(const struct cluster *cluster, const struct cluster_vm *vm);
/* Those of them that lie where it is. */
size_t cluster_snapshot_count_here(const struct cluster *cluster, const struct cluster_vm *vm);
/* Of that VM, by name, one that lies where it is first, or by the beginning of its id; NULL with `problem` set. */
struct cluster_snapshot *cluster_find_snapshot(const struct cluster *cluster,
                                               const struct cluster_vm *vm, const char *word,
                                               struct problem *problem);
/* Its host has it for the VM's next start: NULL where the start is elsewhere. */
const struct cluster_snapshot *cluster_snapshot_to_restore(const struct cluster *cluster,
                                                           const struct cluster_vm *vm,
                                                           const char *host);

struct cluster_snapshot_ask {
    const char *vm, *name; /* name: NULL or "": one is made of the time */
    bool disks_only, with_memory;
};

struct cluster_snapshot_order {
    struct cluster_vm *vm;
    char name[OWN_HOST_SIZE];
    bool disks_only, is_stopped;
};

/* May it be taken now? The VM then has a ticket, which the caller clears. */
int cluster_snapshot_judge_take(struct cluster *cluster, const struct cluster_snapshot_ask *ask,
                                struct cluster_now now, struct cluster_snapshot_order *ret_order,
                                struct problem *problem);
/* Does the VM's own host have it, and answer? For a check, which changes nothing. */
int cluster_snapshot_judge_restore(struct cluster *cluster, const char *vm_word, const char *word,
                                   struct cluster_now now, struct cluster_vm **ret_vm,
                                   struct cluster_snapshot **ret_snapshot,
                                   struct problem *problem);
/* A stopped VM starts from it, as a new generation. */
int cluster_snapshot_restore(struct cluster *cluster, const char *vm_word, const char *word,
                             struct cluster_now now, uint64_t *ret_ticket, struct problem *problem,
                             struct cluster_todo *todo);
/* Removing: its host answers, and nobody starts from it; of a domain, its host has the domain too. `vm_word` may name a
 * VM that is no more, by id. */
int cluster_snapshot_judge_remove(struct cluster *cluster, const char *vm_word, const char *word,
                                  struct cluster_now now, struct cluster_snapshot **ret_snapshot,
                                  struct problem *problem);

#endif

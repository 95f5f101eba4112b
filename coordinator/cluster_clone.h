/* Clones of snapshots: which VM comes of one, and what that VM still lacks.
 *
 * Flow:   api_clone -> [cluster_clone] -> cluster_ask, cluster_snapshot -> todo
 * Thread: the loop's; pure.
 *
 * A clone is a VM of its own: another id and name, disks of its own in the folders of the snapshot's,
 * addresses of its own, on the snapshot's host. Until it has run for the first time its record names the
 * snapshot (`restoring`, where it goes on from the memory; its disks always do), so that whatever breaks
 * leaves one that `vm start` makes whole, or `vm rm` removes with all that was made for it.
 */
#ifndef GODWIT_COORDINATOR_CLUSTER_CLONE_H
#define GODWIT_COORDINATOR_CLUSTER_CLONE_H

#include "coordinator/cluster.h"

struct cluster_clone_ask {
    const char *vm, *snapshot, *name;
    const char *bridge; /* for all its nics; NULL or "": they are unplugged */
    bool cold;          /* from the disks alone */
};

/* May it be made now, and of what? 0, or -1 with `problem` set. */
int cluster_clone_judge(struct cluster *cluster, const struct cluster_clone_ask *ask,
                        struct cluster_now now, struct cluster_snapshot **ret_snapshot,
                        Godwit__VmSpec **ret_spec, struct problem *problem);
/* Record it: stopped, bound to the snapshot's host, with a ticket. Nothing is made yet. */
int cluster_clone_create(struct cluster *cluster, const struct cluster_snapshot *snapshot,
                         const Godwit__VmSpec *spec, bool cold, const char *vm_id,
                         struct cluster_now now, struct cluster_vm **ret_vm,
                         struct problem *problem, struct cluster_todo *todo);

/* Turn a copy of `vm`'s spec into that of its twin `ask->name` from the disks of `info`; `cold`: it boots anew. */
int cluster_clone_make_spec(const struct cluster_vm *vm, const Godwit__SnapshotInfo *info,
                            const struct cluster_clone_ask *ask, bool cold, Godwit__VmSpec *spec,
                            struct problem *problem);

/* It is a clone that has not run yet: its disks may lack, and its memory is the snapshot's. */
bool cluster_clone_is_raw(const struct cluster *cluster, const struct cluster_vm *vm);
/* Of a raw one. NULL with `problem` set: it is there no more, or its host does not answer. */
const struct cluster_snapshot *cluster_clone_origin(const struct cluster *cluster,
                                                    const struct cluster_vm *vm,
                                                    struct cluster_now now,
                                                    struct problem *problem);
/* Is some VM still to be made from it? Then its name; else NULL. */
const char *cluster_clone_waits_for(const struct cluster *cluster, const char *snapshot_id);
/* The VM's next start goes on from the memory of another VM. */
bool cluster_clone_is_twin(const struct cluster *cluster, const struct cluster_vm *vm);

#endif

/* Disks of a VM that has not run yet, from those of a snapshot of another one.
 *
 * Flow:   snapshots -> [snapshot_clone] -> snapshot_folder, storage/clone, share
 * Thread: any; blocking, for a worker.
 *
 * Each lies in the folder of the snapshot's clone, so that its file system shares the blocks; where it
 * cannot, data is copied and holes are kept. A disk gets its name when it is whole and durable, and one
 * that was made for this very disk before is kept. Neither the snapshot nor the VM that it is of is
 * touched: both may be in use. What starts from the snapshot's memory is a START of its own.
 */
#ifndef GODWIT_AGENT_SNAPSHOT_CLONE_H
#define GODWIT_AGENT_SNAPSHOT_CLONE_H

#include <stdatomic.h>
#include <stdint.h>

#include "proto/snapshot.pb-c.h"

struct fault;

struct snapshot_clone_counts {
    uint32_t disks, reflinks;
    uint64_t copied_bytes;
};

/* Does `spec` describe a twin of what the snapshot holds: the same disks written, each said to be of it? */
int snapshot_clone_judge(const Godwit__SnapshotInfo *info, const Godwit__VmSpec *spec,
                         struct fault *fault);
/* On failure what is made stays, for it may be said again; the VM's removal deletes it. */
int snapshot_clone_make(const Godwit__SnapshotInfo *info, const Godwit__VmSpec *spec,
                        const char *vm_id, atomic_bool *canceled,
                        struct snapshot_clone_counts *ret_counts, struct fault *fault);

#endif

/* A snapshot on disk: its folder with manifest and memory, and the clones beside the VM's disks.
 *
 * Flow:   snapshots, orders -> [snapshot_folder] -> files
 * Thread: any; blocking, for a worker.
 *
 *   ROOT/<id>.tmp/manifest     first, durably: so that whoever comes later finds the clones by it
 *   <disk>.snapshot-<id>       a clone of each disk, made by the file system of the disk
 *   ROOT/<id>.tmp/memory       a guest's file (migrate/guest_file.h)
 *   rename to ROOT/<id>        <== from here on there is a snapshot
 *
 * What ends in .tmp is none: snapshot_folder_drop deletes what its manifest names. Removing is the same
 * backwards.
 *
 *   ROOT/restoring-<vm>        a restore has begun to write to the VM's disks; holds the snapshot's id.
 *                              Until that restore is done the VM does not start in any other way.
 */
#ifndef GODWIT_AGENT_SNAPSHOT_FOLDER_H
#define GODWIT_AGENT_SNAPSHOT_FOLDER_H

#include <stdint.h>

#include "proto/limits.h"
#include "proto/snapshot.pb-c.h"
#include "proto/vm_spec.pb-c.h"

struct fault;

struct snapshot_files {
    int memory_fd; /* -1: without memory */
    int disk_fds[DISKS_MAX], clone_fds[DISKS_MAX];
    unsigned disk_count;
};

/* Deletes what a snapshot that did not become one has left, and what file_write left; not who names a clone whose
 * disk is not to be seen, for its store may be mounted later. The agent's start. */
void snapshot_folder_tidy(const char *root);
/* Gives the message. */
int snapshot_folder_load(const char *root, const char *id, Godwit__SnapshotInfo **ret_info,
                         struct fault *fault);

/* The disks that belong into it: all that the guest writes. Filled into `info`, whose memory they are. */
int snapshot_folder_plan(Godwit__SnapshotInfo *info, const Godwit__VmSpec *spec,
                         struct fault *fault);
/* Make the folder and empty files. Refuses by name a store that cannot clone, and too little room for
 * `memory_bytes`. On failure nothing is left. */
int snapshot_folder_begin(const char *root, Godwit__SnapshotInfo *info, uint64_t memory_bytes,
                          struct snapshot_files *ret_files, struct fault *fault);
void snapshot_files_close(struct snapshot_files *files);
/* Nobody writes to the disks: clone them now. */
int snapshot_folder_clone(const struct snapshot_files *files, struct fault *fault);
/* All is in its files, durably. */
int snapshot_folder_commit(const char *root, const Godwit__SnapshotInfo *info, struct fault *fault);
/* It became none. */
void snapshot_folder_drop(const char *root, const char *id);

/* ERR_BUSY while a restore from it is not done. */
int snapshot_folder_remove(const char *root, const Godwit__SnapshotInfo *info, struct fault *fault);
/* Could it be restored? Reads all of its memory; looks at clones and disks. */
int snapshot_folder_check(const char *root, const Godwit__SnapshotInfo *info, struct fault *fault);
/* A disk as it was: refuses one that has not its size any more. */
int snapshot_folder_open_clone(const Godwit__SnapshotDisk *disk, int *ret_fd, struct fault *fault);
int snapshot_folder_open_memory(const char *root, const char *id, int *ret_fd, struct fault *fault);

/* Write what the clones hold to the VM's disks, which nobody has open. The same again after a crash. */
int snapshot_folder_restore(const char *root, const Godwit__SnapshotInfo *info,
                            const Godwit__VmSpec *spec, struct fault *fault);
/* May this VM start, from `id` or (NULL) in any other way? ERR_STATE: a restore was begun. */
int snapshot_folder_may_start(const char *root, const char *vm_id, const char *id,
                              struct fault *fault);

#endif

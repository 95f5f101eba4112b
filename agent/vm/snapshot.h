/* This process's guest goes into a snapshot's files while it runs.
 *
 * Flow:   machine -> [snapshot] -> migrate/guest_snapshot
 * Thread: the loop's; a worker takes it, pauses and resumes the guest.
 */
#ifndef GODWIT_AGENT_VM_SNAPSHOT_H
#define GODWIT_AGENT_VM_SNAPSHOT_H

#include <stdbool.h>

#include "migrate/guest_snapshot.h"
#include "proto/limits.h"
#include "storage/guest_label.h"

struct fault;
struct guest;
struct guest_memory;
struct loop;
struct snapshot;

struct snapshot_config {
    struct loop *loop;
    struct guest *guest;         /* borrowed, as the next, must outlive the snapshot */
    struct guest_memory *memory;
    struct guest_label label;
    /* Disks that are captured: borrowed descriptors of theirs, which live as long as the snapshot. */
    int disk_fds[DISKS_MAX];
    unsigned disk_count;
    /* Loop, once: `fault` NULL: all is in its files and durable. The snapshot may be freed in it. */
    void (*done)(void *data, const struct guest_snapshot_result *result, const struct fault *fault);
    void *data;
};

/* `memory_fd` (-1: without memory) and `clone_fds`, one for each disk: empty files, taken when it
 * returns 0. */
int snapshot_new(struct snapshot **ret_snapshot, const struct snapshot_config *config,
                 int memory_fd, const int *clone_fds, struct fault *fault);
/* Stops it and waits for its worker, without a callback; the guest runs on. */
struct snapshot *snapshot_free(struct snapshot *snapshot);

#endif

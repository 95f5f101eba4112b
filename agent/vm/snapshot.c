/* A disk is captured by reflink: the clone shares the disk's blocks until one of them is written. What the
 * kernel still holds of the disk it writes out first, so that is done before the pause; in the pause
 * there is what came since. */
#include "agent/vm/snapshot.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/err.h"
#include "base/loop.h"
#include "base/own.h"
#include "storage/clone.h"
#include "vmm-core/guest_memory.h"

struct snapshot {
    struct snapshot_config config;
    int memory_fd;
    int clone_fds[DISKS_MAX];
    bool is_working;
    bool is_stopped; /* atomic */
    struct guest_snapshot_result result;
    struct fault fault;
    int code;
};

/* ---- the worker's ---- */
static int flush_disks(void *data, struct fault *fault)
{
    const struct snapshot *snapshot = data;

    for (unsigned i = 0; i < snapshot->config.disk_count; i++) {
        if (fdatasync(snapshot->config.disk_fds[i]) < 0)
            return fault_set_errno(fault, ERR_IO, errno, "writing out disk %u", i);
    }
    return 0;
}

static int capture_disks(void *data, struct fault *fault)
{
    const struct snapshot *snapshot = data;

    for (unsigned i = 0; i < snapshot->config.disk_count; i++) {
        int r = clone_share(snapshot->config.disk_fds[i], snapshot->clone_fds[i]);
        if (r < 0)
            return fault_set_errno(fault, err_from_errno(-r), -r,
                                   "cloning disk %u by its file system", i);
    }
    return 0;
}

static void hold_memory(void *data, bool hold)
{
    const struct snapshot *snapshot = data;

    guest_memory_hold(snapshot->config.memory, hold);
}

static int make_durable(const struct snapshot *snapshot, struct fault *fault)
{
    for (unsigned i = 0; i < snapshot->config.disk_count; i++) {
        if (fsync(snapshot->clone_fds[i]) < 0)
            return fault_set_errno(fault, ERR_IO, errno, "making the clone of disk %u durable", i);
    }
    return 0;
}

static void work(void *data)
{
    struct snapshot *snapshot = data;
    const struct guest_snapshot_config config = {
        .guest = snapshot->config.guest,
        .label = &snapshot->config.label,
        .fd = snapshot->memory_fd,
        .is_stopped = &snapshot->is_stopped,
        .prepare = flush_disks,
        .capture = capture_disks,
        .hold_memory = hold_memory,
        .data = snapshot,
    };

    snapshot->code = guest_snapshot_take(&config, &snapshot->result, &snapshot->fault);
    if (snapshot->code == 0)
        snapshot->code = make_durable(snapshot, &snapshot->fault);
}

/* ---- the loop's ---- */
static void work_done(void *data)
{
    struct snapshot *snapshot = data;
    struct fault fault = snapshot->fault;

    snapshot->is_working = false;
    if (__atomic_load_n(&snapshot->is_stopped, __ATOMIC_RELAXED))
        return; /* snapshot_free waits for this */
    if (snapshot->code < 0 && !fault.code)
        (void)fault_set(&fault, snapshot->code, "%s", err_name(snapshot->code));
    snapshot->config.done(snapshot->config.data, &snapshot->result,
                          snapshot->code < 0 ? &fault : NULL);
}

int snapshot_new(struct snapshot **ret_snapshot, const struct snapshot_config *config,
                 int memory_fd, const int *clone_fds, struct fault *fault)
{
    struct snapshot *snapshot = calloc(1, sizeof *snapshot);
    if (!snapshot)
        return fault_set(fault, ERR_NOMEM, "no memory for a snapshot");
    snapshot->config = *config;
    snapshot->is_working = true;
    snapshot->memory_fd = memory_fd;
    for (unsigned i = 0; i < config->disk_count; i++)
        snapshot->clone_fds[i] = clone_fds[i];
    int r = loop_work(config->loop, work, work_done, snapshot);
    if (r < 0) {
        free(snapshot);
        return fault_set(fault, r, "no worker for a snapshot");
    }
    *ret_snapshot = snapshot;
    return 0;
}

struct snapshot *snapshot_free(struct snapshot *snapshot)
{
    if (!snapshot)
        return NULL;
    __atomic_store_n(&snapshot->is_stopped, true, __ATOMIC_RELAXED);
    while (snapshot->is_working)
        loop_turn(snapshot->config.loop, true); /* it holds a pointer to us */
    close_p(&snapshot->memory_fd);
    for (unsigned i = 0; i < snapshot->config.disk_count; i++)
        close_p(&snapshot->clone_fds[i]);
    free(snapshot);
    return NULL;
}

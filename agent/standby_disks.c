#include "agent/standby_disks.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/backends.h"
#include "base/err.h"
#include "base/log.h"
#include "base/own.h"
#include "proto/vm_spec.h"
#include "storage/share.h"

enum { WORD_SIZE = 9 };

static bool is_replicated(const Godwit__DiskSpec *disk)
{
    return !disk->read_only && !vm_spec_disk_is_shared(disk);
}

int standby_disks_judge(const Godwit__OrderReplicaIn *order, struct fault *fault)
{
    const Godwit__VmSpec *spec = order->spec;
    unsigned count = 0;

    if (order->n_disk_bytes != vm_spec_disk_count(spec))
        return fault_set(fault, ERR_INVALID, "a replica with the sizes of %zu disks of %u",
                         order->n_disk_bytes, vm_spec_disk_count(spec));
    for (size_t i = 0; i < spec->n_disks; i++) {
        const Godwit__DiskSpec *disk = spec->disks[i];
        count += is_replicated(disk);
        if (!disk->read_only && vm_spec_disk_is_shared(disk))
            return fault_set(
                fault, ERR_UNSUPPORTED,
                "disk %s of %s lies in a store that hosts share: only disks of one host "
                "alone are replicated",
                disk->name, spec->name);
        if (is_replicated(disk) && (!disk->store || !disk->store[0]))
            return fault_set(
                fault, ERR_UNSUPPORTED,
                "disk %s of %s is given by its path; a disk is replicated when it lies in "
                "a store",
                disk->name, spec->name);
    }
    if (count == 0 && order->disks_only)
        return fault_set(fault, ERR_INVALID, "%s has no disk that could be replicated", spec->name);
    return 0;
}

/* A replica with RAM brings what its guest was booted from; disks alone are booted from this host's. */
static int check_boot(const Godwit__OrderReplicaIn *order, struct fault *fault)
{
    const char *const files[] = {order->spec->kernel, order->spec->initrd};

    if (!order->disks_only || vm_spec_boots_from_disk(order->spec))
        return 0;
    for (size_t i = 0; i < ARRAY_COUNT(files); i++) {
        if (files[i] && files[i][0] && access(files[i], R_OK) < 0)
            return fault_set_errno(fault, errno == ENOENT ? ERR_NOT_FOUND : err_from_errno(errno),
                                   errno, "%s, which %s boots", files[i], order->spec->name);
    }
    return 0;
}

/* Everything of the machine that is not replicated: read-only disks, bridges. */
static int check_rest(const Godwit__OrderReplicaIn *order, const char *host, struct fault *fault)
{
    Godwit__VmSpec rest = *order->spec;
    Godwit__DiskSpec *disks[DISKS_MAX];
    struct backends backends;

    rest.disks = disks;
    rest.n_disks = 0;
    for (size_t i = 0; i < order->spec->n_disks && rest.n_disks < DISKS_MAX; i++) {
        if (!is_replicated(order->spec->disks[i]))
            disks[rest.n_disks++] = order->spec->disks[i];
    }
    const struct backends_ask ask = {.spec = &rest, .vm_id = order->vm_id, .host = host};
    return backends_check(&ask, &backends, fault);
}

static const Godwit__DiskSpec *first_disk(const Godwit__OrderReplicaIn *order)
{
    for (size_t i = 0; i < order->spec->n_disks; i++) {
        if (is_replicated(order->spec->disks[i]))
            return order->spec->disks[i];
    }
    return NULL;
}

static const char *how_words(enum share_replica how)
{
    switch (how) {
    case SHARE_REPLICA_MADE:
        return "made for it";
    case SHARE_REPLICA_FOUND:
        return "an earlier replica's";
    case SHARE_REPLICA_LENT:
        break;
    }
    return "lay here as the VM's";
}

static int open_disk(const Godwit__OrderReplicaIn *order, size_t index, bool is_known,
                     struct standby_disks *disks, struct fault *fault)
{
    const Godwit__DiskSpec *disk = order->spec->disks[index];
    enum share_replica how = SHARE_REPLICA_MADE; /* and it is told of one that fails afterwards */
    AUTO_FD int share_fd = -1;

    int r = share_open(disk->store, &share_fd, fault);
    if (r == 0)
        r = share_open_replica(share_fd, order->vm_id, disk->name, disk->file,
                               order->disk_bytes[index], order->keep_disks,
                               &disks->fds[1 + disks->count], &how, fault);
    disks->has_earlier |= how != SHARE_REPLICA_MADE;
    if (r < 0)
        return fault_wrap(fault, r, "store %s", disk->store);
    disks->count++;
    if (!is_known)
        log_info("standby_disks", "a replica's disk vm=%s disk=%s file=%s: %s", order->vm_id,
                 disk->name, disk->file, how_words(how));
    return 0;
}

static int open_journal(const Godwit__OrderReplicaIn *order, bool is_known, int *ret_fd,
                        struct fault *fault)
{
    const Godwit__DiskSpec *disk = first_disk(order);
    AUTO_FD int share_fd = -1;

    assert(disk);
    int r = share_open(disk->store, &share_fd, fault);
    return r < 0 ? r
                 : share_open_replica_journal(share_fd, order->vm_id, disk->name, !is_known, ret_fd,
                                              fault);
}

int standby_disks_open(const Godwit__OrderReplicaIn *order, const char *host, bool is_known,
                       struct standby_disks *ret_disks, struct fault *fault)
{
    struct standby_disks *disks = ret_disks;

    *disks = (struct standby_disks){0};
    for (size_t i = 0; i < ARRAY_COUNT(disks->fds); i++)
        disks->fds[i] = -1;
    int r = check_boot(order, fault);
    if (r == 0)
        r = check_rest(order, host, fault);
    for (size_t i = 0; r == 0 && i < order->spec->n_disks; i++) {
        if (is_replicated(order->spec->disks[i]))
            r = open_disk(order, i, is_known, disks, fault);
    }
    if (r == 0 && disks->count)
        r = open_journal(order, is_known, &disks->fds[0], fault);
    if (r < 0)
        standby_disks_close(disks);
    return r;
}

void standby_disks_close(struct standby_disks *disks)
{
    for (unsigned i = 0; i < 1 + disks->count; i++)
        close_p(&disks->fds[i]);
    disks->count = 0;
}

int standby_disks_check_names(const Godwit__OrderReplicaIn *order, struct fault *fault)
{
    int r = 0;

    for (size_t i = 0; r == 0 && i < order->spec->n_disks; i++) {
        const Godwit__DiskSpec *disk = order->spec->disks[i];
        AUTO_FD int share_fd = -1;
        if (!is_replicated(disk))
            continue;
        r = share_open(disk->store, &share_fd, fault);
        if (r == 0)
            r = share_judge_replica(share_fd, order->vm_id, disk->name, disk->file, fault);
    }
    return r;
}

int standby_disks_keep(const Godwit__OrderReplicaIn *order, struct fault *fault)
{
    int r = 0;

    for (size_t i = 0; r == 0 && i < order->spec->n_disks; i++) {
        const Godwit__DiskSpec *disk = order->spec->disks[i];
        AUTO_FD int share_fd = -1;
        if (!is_replicated(disk))
            continue;
        r = share_open(disk->store, &share_fd, fault);
        if (r == 0)
            r = share_keep_replica(share_fd, order->vm_id, disk->name, disk->file, fault);
        if (r == 0 && disk == first_disk(order))
            share_drop_replica_journal(share_fd, order->vm_id, disk->name);
    }
    return r;
}

int standby_disks_drop(const Godwit__OrderReplicaIn *order, bool keep_disks, struct fault *fault)
{
    char word[WORD_SIZE];
    int r = 0;

    (void)snprintf(word, sizeof word, "%s", order->protection_id);
    for (size_t i = 0; i < order->spec->n_disks; i++) {
        const Godwit__DiskSpec *disk = order->spec->disks[i];
        struct fault why = {0};
        AUTO_FD int share_fd = -1;
        if (!is_replicated(disk))
            continue;
        int one = share_open(disk->store, &share_fd, &why);
        if (one == 0 && disk == first_disk(order))
            share_drop_replica_journal(share_fd, order->vm_id, disk->name);
        if (one == 0 && !keep_disks)
            one = share_drop_replica(share_fd, order->vm_id, disk->name, disk->file, word, &why);
        if (one == 0 && !vm_spec_stamp_store(order->spec)) /* its stamp is not ours to remove */
            (void)share_forget_vm(share_fd, order->vm_id, NULL); /* empty folders; else they stay */
        if (one < 0 && r == 0) {
            r = one;
            *fault = why;
        }
    }
    return r;
}

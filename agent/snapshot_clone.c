#include "agent/snapshot_clone.h"

#include <stdbool.h>
#include <string.h>

#include "agent/snapshot_folder.h"
#include "base/err.h"
#include "base/own.h"
#include "proto/vm_spec.h"
#include "storage/clone.h"
#include "storage/share.h"

static int judge_disk(const Godwit__SnapshotInfo *info, const Godwit__SnapshotDisk *from,
                      const Godwit__VmSpec *spec, struct fault *fault)
{
    const Godwit__DiskSpec *disk = from->index < spec->n_disks ? spec->disks[from->index] : NULL;

    if (!disk || !disk->name || strcmp(disk->name, from->name) != 0 || !disk->snapshot ||
        strcmp(disk->snapshot, info->id) != 0 || !disk->store || !disk->file)
        return fault_set(fault, ERR_REFUSED, "disk %s of the snapshot is not one of the clone's",
                         from->name);
    return 0;
}

int snapshot_clone_judge(const Godwit__SnapshotInfo *info, const Godwit__VmSpec *spec,
                         struct fault *fault)
{
    size_t written = 0;
    int r = vm_spec_judge(spec, fault);

    for (size_t i = 0; r == 0 && i < info->n_disks; i++)
        r = judge_disk(info, info->disks[i], spec, fault);
    for (size_t i = 0; r == 0 && i < spec->n_disks; i++)
        written += !spec->disks[i]->read_only;
    if (r == 0 && written != info->n_disks)
        r = fault_set(fault, ERR_REFUSED, "the snapshot holds %zu disks, the clone would write %zu",
                      info->n_disks, written);
    return r;
}

static int fill(void *data, int fd, struct fault *fault)
{
    return clone_fill(data, fd, fault);
}

static int make_disk(const Godwit__SnapshotDisk *from, const Godwit__DiskSpec *disk,
                     const char *vm_id, atomic_bool *canceled, struct snapshot_clone_counts *counts,
                     struct fault *fault)
{
    struct clone clone = {.from_bytes = from->bytes, .bytes = from->bytes, .canceled = canceled};
    AUTO_FD int share_fd = -1;
    AUTO_FD int from_fd = -1;
    bool made = false;

    int r = snapshot_folder_open_clone(from, &from_fd, fault);
    if (r == 0)
        r = share_open(disk->store, &share_fd, fault);
    if (r < 0)
        return r;
    clone.from = from_fd;
    r = share_make_filled(share_fd, vm_id, disk->name, disk->file, fill, &clone, &made, fault);
    if (r < 0) {
        (void)share_forget_vm(share_fd, vm_id, NULL); /* empty folders; else they stay */
        return r;
    }
    counts->disks++;
    counts->reflinks += !made || clone.is_reflink;
    counts->copied_bytes += clone.copied_bytes;
    return 0;
}

int snapshot_clone_make(const Godwit__SnapshotInfo *info, const Godwit__VmSpec *spec,
                        const char *vm_id, atomic_bool *canceled,
                        struct snapshot_clone_counts *ret_counts, struct fault *fault)
{
    struct snapshot_clone_counts counts = {0};
    int r = 0;

    for (size_t i = 0; r == 0 && i < info->n_disks; i++)
        r = make_disk(info->disks[i], spec->disks[info->disks[i]->index], vm_id, canceled, &counts,
                      fault);
    if (r == 0)
        *ret_counts = counts;
    return r;
}

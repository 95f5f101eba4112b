#include "agent/disk_place.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "base/log.h"
#include "base/own.h"
#include "proto/vm_spec.h"
#include "storage/share.h"

static bool is_given(const char *text)
{
    return text && text[0];
}

static const Godwit__DiskSpec *disk_before(const struct disk_place_ask *ask)
{
    return ask->before->disks[ask->disk];
}

static const Godwit__DiskSpec *disk_after(const struct disk_place_ask *ask)
{
    return ask->after->disks[ask->disk];
}

static bool is_same_text(const char *a, const char *b)
{
    return a && b && strcmp(a, b) == 0;
}

int disk_place_land(const struct disk_place_ask *ask, int *ret_fd, struct fault *fault)
{
    const Godwit__DiskSpec *disk = disk_after(ask);
    AUTO_FD int share_fd = -1;

    int r = share_open(disk->store, &share_fd, fault);
    if (r == 0)
        r = share_land_disk(share_fd, ask->vm_id, disk->name, disk->file, ask->bytes, ret_fd,
                            fault);
    return r < 0 ? fault_wrap(fault, r, "store %s", disk->store) : 0;
}

/* The named copy: there, the VM's, whole, and, while its process has it open, that very file. */
static int check_copy(const struct disk_place_ask *ask, int share_fd, struct fault *fault)
{
    const Godwit__DiskSpec *disk = disk_after(ask);
    AUTO_FD int fd = -1;
    struct stat info;

    int r = share_open_file(share_fd, disk->file, O_RDONLY, &fd, fault);
    if (r < 0)
        return r;
    if (fstat(fd, &info) < 0)
        return fault_set_errno(fault, ERR_IO, errno, "looking at %s", disk->file);
    if (!S_ISREG(info.st_mode) || (uint64_t)info.st_size != ask->bytes)
        return fault_set(fault, ERR_REFUSED, "%s is not the copy: it has %lld bytes, not %llu",
                         disk->file, (long long)info.st_size, (unsigned long long)ask->bytes);
    if (!share_is_made(share_fd, ask->vm_id, disk->name, disk->file))
        return fault_set(fault, ERR_REFUSED, "%s is not the file that was made for this VM",
                         disk->file);
    if (ask->inode && (info.st_ino != ask->inode || info.st_dev != ask->device))
        return fault_set(fault, ERR_REFUSED, "%s is not the file that the VM writes", disk->file);
    return 0;
}

/* A stamp where the VM will look for one: as it runs now. */
static int put_stamp(const struct disk_place_ask *ask, struct fault *fault)
{
    const char *store = vm_spec_stamp_store(ask->after);
    const struct stamp nobody = {0};
    struct stamp found = {0};
    AUTO_FD int share_fd = -1;
    AUTO_FD int stamp_fd = -1;

    if (!store || is_same_text(store, vm_spec_stamp_store(ask->before)))
        return 0;
    int r = share_open(store, &share_fd, fault);
    if (r == 0)
        r = share_open_stamp(share_fd, ask->vm_id, true, &stamp_fd, fault);
    if (r == 0)
        r = stamp_swap(stamp_fd, ask->vm_id, &nobody, &ask->wanted, &found, fault);
    if (r == STAMP_E_LOST)
        r = fault_set(fault, ERR_REFUSED,
                      "store %s says that the VM's disks are %.64s's, as generation %llu", store,
                      found.owner, (unsigned long long)found.generation);
    return r;
}

int disk_place_name(const struct disk_place_ask *ask, struct fault *fault)
{
    const Godwit__DiskSpec *disk = disk_after(ask);
    AUTO_FD int share_fd = -1;

    int r = share_open(disk->store, &share_fd, fault);
    if (r == 0)
        r = share_keep_disk(share_fd, ask->vm_id, disk->name, disk->file, fault);
    if (r == 0)
        r = check_copy(ask, share_fd, fault);
    if (r == 0)
        r = put_stamp(ask, fault);
    return r < 0 ? fault_wrap(fault, r, "store %s", disk->store) : 0;
}

/* The stamp of a store that is the VM's no more; what else it has there stays. */
static void forget(const char *store, const char *vm_id)
{
    AUTO_FD int share_fd = -1;

    if (store && share_open(store, &share_fd, NULL) == 0)
        (void)share_forget_vm(share_fd, vm_id, NULL); /* folders that are not empty stay */
}

int disk_place_leave(const struct disk_place_ask *ask, struct fault *fault)
{
    const Godwit__DiskSpec *old = disk_before(ask), *disk = disk_after(ask);
    const char *stamp = vm_spec_stamp_store(ask->after);
    AUTO_FD int share_fd = -1;
    AUTO_FD int old_fd = -1;

    int r = share_open(disk->store, &share_fd, fault);
    if (r == 0)
        r = check_copy(ask, share_fd, fault);
    if (r < 0)
        return fault_wrap(fault, r, "store %s: what was the disk stays", disk->store);
    if (!is_given(old->store)) {
        log_info("disk_place", "what was the disk stays where it is vm=%s disk=%s path=%s",
                 ask->vm_id, old->name, old->path);
        return 0;
    }
    r = share_open(old->store, &old_fd, fault);
    if (r == 0)
        r = share_leave_disk(old_fd, ask->vm_id, old->name, old->file, ask->generation, fault);
    if (r < 0)
        return fault_wrap(fault, r, "store %s", old->store);
    if (!is_same_text(vm_spec_stamp_store(ask->before), stamp))
        forget(vm_spec_stamp_store(ask->before), ask->vm_id);
    if (!is_same_text(old->store, stamp))
        forget(old->store, ask->vm_id);
    return 0;
}

int disk_place_undo(const struct disk_place_ask *ask, struct fault *fault)
{
    const Godwit__DiskSpec *disk = disk_after(ask);
    const char *stamp = vm_spec_stamp_store(ask->before);
    AUTO_FD int share_fd = -1;
    bool removed = false;

    int r = share_open(disk->store, &share_fd, fault);
    if (r < 0)
        return fault_wrap(fault, r, "store %s", disk->store);
    share_drop_disk(share_fd, ask->vm_id, disk->name);
    r = share_remove_disk(share_fd, ask->vm_id, disk->name, disk->file, &removed, fault);
    if (r < 0)
        return r;
    if (!is_same_text(vm_spec_stamp_store(ask->after), stamp))
        forget(vm_spec_stamp_store(ask->after), ask->vm_id);
    if (!is_same_text(disk->store, stamp))
        forget(disk->store, ask->vm_id);
    return 0;
}

#include "agent/snapshot_folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "agent/snapshot_manifest.h"
#include "base/config.h"
#include "base/err.h"
#include "base/id.h"
#include "base/log.h"
#include "base/own.h"
#include "proto/vm_spec.h"
#include "storage/clone.h"
#include "storage/guest_label.h"
#include "storage/guest_seal.h"
#include "storage/share.h"

enum {
    PATH_SIZE = 1024,
    PROBE_BYTES = 1 << 20,
    SPARE_BYTES = 64 << 20, /* for the store's other users */
    CLONE_ID_DIGITS = 12,
};

static const char temporary[] = ".tmp";
static const char restoring[] = "restoring-";

static int sync_folder(const char *path, struct fault *fault)
{
    AUTO_FD int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fsync(fd) < 0)
        return fault_set_errno(fault, ERR_IO, errno, "syncing %s", path);
    return 0;
}

/* ---- files beneath a disk's folder ---- */
static int open_beneath(const char *folder, const char *file, int flags, int *ret_fd,
                        struct fault *fault)
{
    AUTO_FD int folder_fd = -1;

    int r = share_open(folder, &folder_fd, fault);
    return r < 0 ? r : share_open_file(folder_fd, file, flags, ret_fd, fault);
}

/* The folder that `file` is directly in; `*ret_name`: its last part, borrowed. */
static int open_parent(const char *folder, const char *file, int *ret_fd, const char **ret_name,
                       struct fault *fault)
{
    char parent[PATH_SIZE];
    const char *slash = strrchr(file, '/');

    *ret_name = slash ? slash + 1 : file;
    if (!slash)
        return share_open(folder, ret_fd, fault);
    int r = path_join(parent, sizeof parent, fault, "%.*s", (int)(slash - file), file);
    return r < 0 ? r : open_beneath(folder, parent, O_RDONLY | O_DIRECTORY, ret_fd, fault);
}

static int make_clone_file(const Godwit__SnapshotDisk *disk, int *ret_fd, struct fault *fault)
{
    AUTO_FD int parent_fd = -1;
    const char *name;

    int r = open_parent(disk->folder, disk->clone, &parent_fd, &name, fault);
    if (r < 0)
        return r;
    *ret_fd = openat(parent_fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (*ret_fd < 0)
        return fault_set_errno(fault, err_from_errno(errno), errno, "making %s/%s", disk->folder,
                               disk->clone);
    return 0;
}

/* False: it may be there still, so who knows of it has to stay. */
static bool delete_clone(const Godwit__SnapshotDisk *disk)
{
    AUTO_FD int parent_fd = -1;
    const char *name;
    struct fault fault = {0};

    if (open_parent(disk->folder, disk->clone, &parent_fd, &name, &fault) < 0) {
        log_warn("snapshot_folder", "a clone is left: %s", fault.text);
        return false;
    }
    if (unlinkat(parent_fd, name, 0) == 0)
        return true;
    if (errno != ENOENT) {
        log_warn("snapshot_folder", "a clone is left: %s/%s: %s", disk->folder, disk->clone,
                 strerror(errno));
        return false;
    }
    const char *slash = strrchr(disk->file, '/'); /* its clone lies beside it */
    return faccessat(parent_fd, slash ? slash + 1 : disk->file, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

static int sync_clones(const Godwit__SnapshotInfo *info, struct fault *fault)
{
    for (size_t i = 0; i < info->n_disks; i++) {
        AUTO_FD int fd = -1;
        const char *name;
        int r = open_parent(info->disks[i]->folder, info->disks[i]->clone, &fd, &name, fault);
        if (r == 0 && fsync(fd) < 0)
            r = fault_set_errno(fault, ERR_IO, errno, "syncing %s", info->disks[i]->folder);
        if (r < 0)
            return r;
    }
    return 0;
}

/* ---- what is there ---- */
static int read_manifest(const char *folder, Godwit__SnapshotInfo **ret_info, struct fault *fault)
{
    char path[PATH_SIZE];
    AUTO_FREE char *bytes = NULL;
    size_t count = 0;

    int r = path_join(path, sizeof path, fault, "%s/manifest", folder);
    if (r == 0)
        r = file_read(path, &bytes, &count, fault);
    return r < 0 ? r
                 : snapshot_manifest_decode((const uint8_t *)bytes, count, ret_info, fault);
}

static int write_manifest(const char *folder, const Godwit__SnapshotInfo *info,
                          struct fault *fault)
{
    char path[PATH_SIZE];
    AUTO_FREE uint8_t *bytes = NULL;
    size_t count = 0;

    int r = snapshot_manifest_encode(info, &bytes, &count, fault);
    if (r == 0)
        r = path_join(path, sizeof path, fault, "%s/manifest", folder);
    return r < 0 ? r : file_write_atomic(path, 0600, bytes, count, fault);
}

int snapshot_folder_load(const char *root, const char *id, Godwit__SnapshotInfo **ret_info,
                         struct fault *fault)
{
    char folder[PATH_SIZE];
    Godwit__SnapshotInfo *info = NULL;

    int r = path_join(folder, sizeof folder, fault, "%s/%s", root, id);
    if (r == 0)
        r = read_manifest(folder, &info, fault);
    if (r == 0 && strcmp(info->id, id) != 0) {
        godwit__snapshot_info__free_unpacked(info, NULL);
        r = fault_set(fault, ERR_CORRUPT, "%s has another snapshot's manifest", folder);
    }
    if (r == 0)
        *ret_info = info;
    return r;
}

/* Exactly what we made there, by name. */
static void delete_folder(const char *folder)
{
    static const char *const names[] = {"memory", "manifest"};
    char path[PATH_SIZE];

    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        if (path_join(path, sizeof path, NULL, "%s/%s", folder, names[i]) < 0)
            continue;
        file_write_tidy(path);
        (void)unlink(path); /* absent is as good */
    }
    if (rmdir(folder) < 0 && errno != ENOENT)
        log_warn("snapshot_folder", "%s is left: %s", folder, strerror(errno));
}

/* `is_store_here`: a clone that is not found was not made. False: its store may be mounted only later; then
 * the folder, which names it, stays for the next agent. */
static void drop(const char *root, const char *id, bool is_store_here)
{
    char folder[PATH_SIZE], path[PATH_SIZE];
    Godwit__SnapshotInfo *info = NULL;
    struct fault fault = {0};
    bool is_gone = true;

    if (path_join(folder, sizeof folder, &fault, "%s/%s%s", root, id, temporary) < 0)
        return;
    if (read_manifest(folder, &info, &fault) == 0) {
        for (size_t i = 0; i < info->n_disks; i++)
            is_gone = delete_clone(info->disks[i]) && is_gone;
        godwit__snapshot_info__free_unpacked(info, NULL);
    }
    if (is_gone || is_store_here) {
        delete_folder(folder);
        return;
    }
    log_warn("snapshot_folder", "%s stays until its disks are here again", folder);
    if (path_join(path, sizeof path, &fault, "%s/memory", folder) == 0)
        (void)unlink(path); /* only the names of its clones are needed */
}

void snapshot_folder_drop(const char *root, const char *id)
{
    drop(root, id, true);
}

void snapshot_folder_tidy(const char *root)
{
    DIR *folder = opendir(root);

    for (struct dirent *item; folder && (item = readdir(folder));) {
        char id[ID_TEXT_SIZE];
        size_t count = strlen(item->d_name), end = sizeof temporary - 1;
        if (count != sizeof id - 1 + end || strcmp(item->d_name + count - end, temporary) != 0)
            continue;
        (void)snprintf(id, sizeof id, "%.*s", (int)(count - end), item->d_name);
        log_warn("snapshot_folder", "a snapshot that was not finished is deleted id=%s", id);
        drop(root, id, false);
    }
    if (folder)
        (void)closedir(folder); /* only read */
}

/* ---- taking one ---- */
static int split_path(const Godwit__DiskSpec *disk, char ret_folder[static PATH_SIZE],
                      const char **ret_file, struct fault *fault)
{
    if (disk->store && *disk->store) {
        *ret_file = disk->file;
        return path_join(ret_folder, PATH_SIZE, fault, "%s", disk->store);
    }
    const char *slash = strrchr(disk->path, '/'); /* it is absolute */
    *ret_file = slash + 1;
    return path_join(ret_folder, PATH_SIZE, fault, "%.*s",
                     slash == disk->path ? 1 : (int)(slash - disk->path), disk->path);
}

static int plan_disk(Godwit__SnapshotDisk *disk, const Godwit__DiskSpec *spec, uint32_t index,
                     const char *id, struct fault *fault)
{
    char folder[PATH_SIZE], clone[PATH_SIZE];
    const char *file;

    int r = split_path(spec, folder, &file, fault);
    if (r == 0)
        r = path_join(clone, sizeof clone, fault, "%s.snapshot-%.*s", file, CLONE_ID_DIGITS, id);
    if (r < 0)
        return r;
    disk->has_index = true;
    disk->index = index;
    disk->name = strdup(spec->name);
    disk->folder = strdup(folder);
    disk->file = strdup(file);
    disk->clone = strdup(clone);
    return disk->name && disk->folder && disk->file && disk->clone
               ? 0
               : fault_set(fault, ERR_NOMEM, "no memory for a snapshot");
}

int snapshot_folder_plan(Godwit__SnapshotInfo *info, const Godwit__VmSpec *spec,
                         struct fault *fault)
{
    info->disks = calloc(spec->n_disks + 1, sizeof info->disks[0]);
    if (!info->disks)
        return fault_set(fault, ERR_NOMEM, "no memory for a snapshot");
    for (size_t i = 0; i < spec->n_disks; i++) {
        if (spec->disks[i]->read_only)
            continue;
        Godwit__SnapshotDisk *disk = malloc(sizeof *disk);
        if (!disk)
            return fault_set(fault, ERR_NOMEM, "no memory for a snapshot");
        godwit__snapshot_disk__init(disk);
        info->disks[info->n_disks++] = disk;
        int r = plan_disk(disk, spec->disks[i], (uint32_t)i, info->id, fault);
        if (r < 0)
            return r;
    }
    return 0;
}

/* Its first MiB is enough to find out; all of it is cloned when the guest stands still. */
static int probe_clone(const Godwit__SnapshotDisk *disk, int clone_fd, int disk_fd,
                       struct fault *fault)
{
    struct file_clone_range range = {
        .src_fd = disk_fd, .src_length = disk->bytes < PROBE_BYTES ? 0 : PROBE_BYTES};

    if (ioctl(clone_fd, FICLONERANGE, &range) == 0)
        return 0;
    if (errno != EOPNOTSUPP && errno != ENOTTY && errno != EINVAL && errno != EXDEV)
        return fault_set_errno(fault, err_from_errno(errno), errno, "cloning %s/%s", disk->folder,
                               disk->file);
    int r = fault_set_errno(fault, ERR_UNSUPPORTED, errno,
                            "disk %s lies in %s, whose file system cannot clone a file in an "
                            "instant (reflink), so there is no snapshot of it",
                            disk->name, disk->folder);
    fault_hint(fault, "put its disks on XFS (reflink=1) or btrfs");
    return r;
}

static int begin_disk(Godwit__SnapshotDisk *disk, struct snapshot_files *files,
                      struct fault *fault)
{
    unsigned at = files->disk_count;
    struct stat status;

    int r = open_beneath(disk->folder, disk->file, O_RDONLY, &files->disk_fds[at], fault);
    if (r < 0)
        return fault_wrap(fault, r, "disk %s", disk->name);
    files->clone_fds[at] = -1;
    files->disk_count++;
    if (fstat(files->disk_fds[at], &status) < 0 || !S_ISREG(status.st_mode))
        return fault_set(fault, ERR_UNSUPPORTED,
                         "disk %s is no file: there is no snapshot of a device", disk->name);
    disk->has_bytes = true;
    disk->bytes = (uint64_t)status.st_size;
    r = make_clone_file(disk, &files->clone_fds[at], fault);
    return r < 0 ? r : probe_clone(disk, files->clone_fds[at], files->disk_fds[at], fault);
}

static int begin_memory(const char *folder, uint64_t memory_bytes, struct snapshot_files *files,
                        struct fault *fault)
{
    char path[PATH_SIZE];
    struct statvfs room;

    if (statvfs(folder, &room) < 0)
        return fault_set_errno(fault, ERR_IO, errno, "asking for room in %s", folder);
    uint64_t free_bytes = (uint64_t)room.f_bavail * room.f_frsize;
    if (free_bytes < memory_bytes || free_bytes - memory_bytes < SPARE_BYTES)
        return fault_set(fault, ERR_LIMIT,
                         "%s has room for %llu MiB; the guest's memory may take %llu MiB, and "
                         "%d MiB stay free",
                         folder, (unsigned long long)(free_bytes >> 20),
                         (unsigned long long)(memory_bytes >> 20), SPARE_BYTES >> 20);
    int r = path_join(path, sizeof path, fault, "%s/memory", folder);
    if (r < 0)
        return r;
    files->memory_fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    return files->memory_fd < 0
               ? fault_set_errno(fault, err_from_errno(errno), errno, "making %s", path)
               : 0;
}

static int begin_files(const char *root, const char *folder, Godwit__SnapshotInfo *info,
                       uint64_t memory_bytes, struct snapshot_files *files, struct fault *fault)
{
    int r = write_manifest(folder, info, fault);
    if (r == 0)
        r = sync_folder(root, fault);
    for (size_t i = 0; r == 0 && i < info->n_disks; i++)
        r = begin_disk(info->disks[i], files, fault);
    if (r == 0 && info->with_memory)
        r = begin_memory(folder, memory_bytes, files, fault);
    return r;
}

int snapshot_folder_begin(const char *root, Godwit__SnapshotInfo *info, uint64_t memory_bytes,
                          struct snapshot_files *ret_files, struct fault *fault)
{
    char folder[PATH_SIZE];
    struct snapshot_files files = {.memory_fd = -1};

    int r = dir_make(root, fault);
    if (r == 0)
        r = path_join(folder, sizeof folder, fault, "%s/%s%s", root, info->id, temporary);
    if (r == 0 && mkdir(folder, 0700) < 0)
        r = fault_set_errno(fault, err_from_errno(errno), errno, "making %s", folder);
    if (r < 0)
        return r;
    r = begin_files(root, folder, info, memory_bytes, &files, fault);
    if (r < 0) {
        snapshot_files_close(&files);
        snapshot_folder_drop(root, info->id);
        return r;
    }
    *ret_files = files;
    return 0;
}

void snapshot_files_close(struct snapshot_files *files)
{
    close_p(&files->memory_fd);
    for (unsigned i = 0; i < files->disk_count; i++) {
        close_p(&files->disk_fds[i]);
        close_p(&files->clone_fds[i]);
    }
    files->disk_count = 0;
}

static int clone_file(int to_fd, int from_fd, const char *what, struct fault *fault)
{
    int r = clone_share(from_fd, to_fd);

    if (r == 0 && fsync(to_fd) < 0)
        r = -errno;
    return r < 0 ? fault_set_errno(fault, err_from_errno(-r), -r, "cloning %s", what) : 0;
}

int snapshot_folder_clone(const struct snapshot_files *files, struct fault *fault)
{
    int r = 0;

    for (unsigned i = 0; r == 0 && i < files->disk_count; i++)
        r = clone_file(files->clone_fds[i], files->disk_fds[i], "a disk", fault);
    return r;
}

int snapshot_folder_commit(const char *root, const Godwit__SnapshotInfo *info, struct fault *fault)
{
    char from[PATH_SIZE], to[PATH_SIZE];

    int r = path_join(from, sizeof from, fault, "%s/%s%s", root, info->id, temporary);
    if (r == 0)
        r = path_join(to, sizeof to, fault, "%s/%s", root, info->id);
    if (r == 0)
        r = write_manifest(from, info, fault);
    if (r == 0)
        r = sync_folder(from, fault);
    if (r == 0)
        r = sync_clones(info, fault);
    if (r == 0 && rename(from, to) < 0)
        r = fault_set_errno(fault, ERR_IO, errno, "renaming %s", from);
    if (r == 0 && sync_folder(root, fault) < 0) {
        (void)rename(to, from); /* nobody is told of it */
        r = ERR_IO;
    }
    return r;
}

/* ---- restoring ---- */
static int marker_path(const char *root, const char *vm_id, char ret_path[static PATH_SIZE],
                       struct fault *fault)
{
    return path_join(ret_path, PATH_SIZE, fault, "%s/%s%s", root, restoring, vm_id);
}

int snapshot_folder_may_start(const char *root, const char *vm_id, const char *id,
                              struct fault *fault)
{
    char path[PATH_SIZE];
    AUTO_FREE char *begun = NULL;
    struct fault words = {0};

    int r = marker_path(root, vm_id, path, fault);
    if (r < 0)
        return r;
    r = file_read(path, &begun, NULL, &words);
    if (r == ERR_NOT_FOUND || (r == 0 && id && strcmp(begun, id) == 0))
        return 0;
    if (r < 0) {
        *fault = words;
        return r;
    }
    r = fault_set(fault, ERR_STATE,
                  "its disks are those of no instant: a restore from snapshot %.12s was not "
                  "finished, and only that snapshot's restore makes them whole",
                  begun);
    fault_hint(fault, "godwit vm snapshot restore");
    return r;
}

int snapshot_folder_open_clone(const Godwit__SnapshotDisk *disk, int *ret_fd, struct fault *fault)
{
    struct stat status;

    int r = open_beneath(disk->folder, disk->clone, O_RDONLY, ret_fd, fault);
    if (r == 0 && (fstat(*ret_fd, &status) < 0 || (uint64_t)status.st_size != disk->bytes))
        r = fault_set(fault, ERR_CORRUPT, "%s/%s is not of %llu bytes any more", disk->folder,
                      disk->clone, (unsigned long long)disk->bytes);
    return r < 0 ? fault_wrap(fault, r, "disk %s of the snapshot", disk->name) : 0;
}

static int restore_disk(const Godwit__SnapshotDisk *disk, struct fault *fault)
{
    AUTO_FD int clone_fd = -1;
    AUTO_FD int disk_fd = -1;

    int r = snapshot_folder_open_clone(disk, &clone_fd, fault);
    if (r == 0)
        r = open_beneath(disk->folder, disk->file, O_RDWR, &disk_fd, fault);
    if (r == 0 && ftruncate(disk_fd, (off_t)disk->bytes) < 0)
        r = fault_set_errno(fault, ERR_IO, errno, "giving it its size");
    if (r == 0)
        r = clone_file(disk_fd, clone_fd, disk->file, fault);
    return r < 0 ? fault_wrap(fault, r, "restoring disk %s", disk->name) : 0;
}

/* Is the disk still the one that was cloned? */
static int judge_disk(const Godwit__SnapshotDisk *disk, const Godwit__VmSpec *spec,
                      struct fault *fault)
{
    char folder[PATH_SIZE];
    const char *file = "";

    if (disk->index >= spec->n_disks || strcmp(spec->disks[disk->index]->name, disk->name) != 0)
        return fault_set(fault, ERR_REFUSED, "the VM has no disk %s any more", disk->name);
    int r = split_path(spec->disks[disk->index], folder, &file, fault);
    if (r < 0)
        return r;
    if (strcmp(folder, disk->folder) != 0 || strcmp(file, disk->file) != 0)
        return fault_set(fault, ERR_REFUSED,
                         "disk %s is %s/%s now; the snapshot is of %s/%s, where its clone lies",
                         disk->name, folder, file, disk->folder, disk->file);
    return 0;
}

int snapshot_folder_restore(const char *root, const Godwit__SnapshotInfo *info,
                            const Godwit__VmSpec *spec, struct fault *fault)
{
    char path[PATH_SIZE];
    int r = 0;

    for (size_t i = 0; r == 0 && i < info->n_disks; i++)
        r = judge_disk(info->disks[i], spec, fault);
    for (size_t i = 0; r == 0 && i < info->n_disks; i++) {
        AUTO_FD int fd = -1;
        r = snapshot_folder_open_clone(info->disks[i], &fd, fault); /* all of them, before one is used */
    }
    if (r == 0)
        r = marker_path(root, info->vm_id, path, fault);
    if (r == 0 && info->n_disks > 0)
        r = file_write_atomic(path, 0600, info->id, strlen(info->id), fault);
    for (size_t i = 0; r == 0 && i < info->n_disks; i++)
        r = restore_disk(info->disks[i], fault);
    if (r == 0 && info->n_disks > 0 && (unlink(path) < 0 || sync_folder(root, fault) < 0))
        r = fault_set(fault, ERR_IO, "ending the restore: %s cannot be removed", path);
    return r;
}

/* ---- looking, removing ---- */
int snapshot_folder_open_memory(const char *root, const char *id, int *ret_fd, struct fault *fault)
{
    char path[PATH_SIZE];

    int r = path_join(path, sizeof path, fault, "%s/%s/memory", root, id);
    if (r < 0)
        return r;
    *ret_fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    return *ret_fd < 0 ? fault_set_errno(fault, err_from_errno(errno), errno, "opening %s", path)
                       : 0;
}

static int check_memory(const char *root, const Godwit__SnapshotInfo *info, struct fault *fault)
{
    struct guest_label label = {.generation = info->generation};
    AUTO_FD int fd = -1;

    (void)snprintf(label.vm_id, sizeof label.vm_id, "%s", info->vm_id);
    (void)snprintf(label.nonce, sizeof label.nonce, "%s", info->id);
    int r = snapshot_folder_open_memory(root, info->id, &fd, fault);
    return r < 0 ? r : guest_seal_check(&label, fd, fault);
}

int snapshot_folder_check(const char *root, const Godwit__SnapshotInfo *info, struct fault *fault)
{
    int r = 0;

    for (size_t i = 0; r == 0 && i < info->n_disks; i++) {
        AUTO_FD int clone_fd = -1;
        AUTO_FD int disk_fd = -1;
        r = snapshot_folder_open_clone(info->disks[i], &clone_fd, fault);
        if (r == 0)
            r = open_beneath(info->disks[i]->folder, info->disks[i]->file, O_RDONLY, &disk_fd,
                             fault);
    }
    if (r == 0 && info->with_memory)
        r = check_memory(root, info, fault);
    return r;
}

int snapshot_folder_remove(const char *root, const Godwit__SnapshotInfo *info, struct fault *fault)
{
    char from[PATH_SIZE], to[PATH_SIZE], marker[PATH_SIZE];
    AUTO_FREE char *begun = NULL;

    int r = path_join(from, sizeof from, fault, "%s/%s", root, info->id);
    if (r == 0)
        r = path_join(to, sizeof to, fault, "%s/%s%s", root, info->id, temporary);
    if (r == 0)
        r = marker_path(root, info->vm_id, marker, fault);
    if (r < 0)
        return r;
    if (file_read(marker, &begun, NULL, NULL) == 0 && strcmp(begun, info->id) == 0)
        return fault_set(fault, ERR_BUSY,
                         "a restore from snapshot %s was not finished: without it the VM's disks "
                         "cannot be made whole",
                         info->name);
    if (rename(from, to) < 0 && errno != ENOENT)
        return fault_set_errno(fault, ERR_IO, errno, "renaming %s", from);
    r = sync_folder(root, fault);
    if (r == 0)
        drop(root, info->id, false);
    return r;
}

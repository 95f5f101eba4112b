#include "storage/share_space.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <linux/magic.h>

#include "base/err.h"
#include "base/id.h"
#include "base/own.h"
#include "storage/share.h"

enum { PROOF_BYTES = 64 << 10, PROOF_ALIGN = 4096, PROOF_NAME_SIZE = 64 };

static const struct {
    long magic;
    const char *name;
} file_systems[] = {
    {EXT4_SUPER_MAGIC, "ext4"},   {XFS_SUPER_MAGIC, "xfs"},       {BTRFS_SUPER_MAGIC, "btrfs"},
    {TMPFS_MAGIC, "tmpfs"},       {NFS_SUPER_MAGIC, "nfs"},       {OVERLAYFS_SUPER_MAGIC, "overlay"},
    {0x00c36400, "ceph"},         {0x01161970, "gfs2"},           {0x2fc12fc1, "zfs"},
    {F2FS_SUPER_MAGIC, "f2fs"},   {FUSE_SUPER_MAGIC, "fuse"},     {CIFS_SUPER_MAGIC, "cifs"},
    {0x7461636f, "ocfs2"},
};

int share_space_read(int share_fd, struct share_space *ret_space, struct fault *fault)
{
    struct share_space space = {0};
    struct statvfs room;
    struct statfs kind;

    if (fstatvfs(share_fd, &room) < 0 || fstatfs(share_fd, &kind) < 0)
        return fault_set_errno(fault, err_from_errno(errno), errno, "asking how full the store is");
    space.total_bytes = (uint64_t)room.f_blocks * room.f_frsize;
    space.free_bytes = (uint64_t)(geteuid() == 0 ? room.f_bfree : room.f_bavail) * room.f_frsize;
    space.read_only = (room.f_flag & ST_RDONLY) != 0;
    (void)snprintf(space.file_system, sizeof space.file_system, "%#lx",
                   (unsigned long)kind.f_type);
    for (size_t i = 0; i < ARRAY_COUNT(file_systems); i++) {
        if ((long)kind.f_type == file_systems[i].magic)
            (void)snprintf(space.file_system, sizeof space.file_system, "%s",
                           file_systems[i].name);
    }
    *ret_space = space;
    return 0;
}

int share_space_measure(int share_fd, const char *file, uint64_t *ret_bytes,
                        uint64_t *ret_used_bytes, struct fault *fault)
{
    AUTO_FD int fd = -1;
    struct stat info;

    *ret_bytes = *ret_used_bytes = 0;
    int r = share_open_file(share_fd, file, O_RDONLY, &fd, fault);
    if (r == ERR_NOT_FOUND) {
        *fault = (struct fault){0};
        return 0;
    }
    if (r < 0)
        return r;
    if (fstat(fd, &info) < 0)
        return fault_set_errno(fault, ERR_IO, errno, "measuring %s", file);
    if (!S_ISREG(info.st_mode))
        return 0; /* a device takes nothing of the store */
    *ret_bytes = (uint64_t)info.st_size;
    *ret_used_bytes = (uint64_t)info.st_blocks * 512;
    return 0;
}

/* ---- the proof ---- */
static void fill(uint8_t *bytes, const char *word)
{
    size_t length = strlen(word);

    for (size_t i = 0; i < PROOF_BYTES; i++)
        bytes[i] = (uint8_t)(word[i % length] + (char)(i / length));
}

/* What the page cache holds proves nothing: by O_DIRECT, else once it is dropped from the cache. */
static int read_back(int share_fd, const char *name, int fd, uint8_t *bytes, struct fault *fault)
{
    AUTO_FD int direct_fd = openat(share_fd, name, O_RDONLY | O_DIRECT | O_CLOEXEC | O_NOFOLLOW);
    size_t count = 0;

    if (direct_fd < 0)
        (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED); /* a wish; it was synced */
    while (count < PROOF_BYTES) {
        ssize_t n = pread(direct_fd >= 0 ? direct_fd : fd, bytes + count, PROOF_BYTES - count,
                          (off_t)count);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return fault_set_errno(fault, ERR_IO, n < 0 ? errno : EIO,
                                   "reading back what was written");
        count += (size_t)n;
    }
    return 0;
}

static int prove(int share_fd, const char *name, int fd, uint8_t *wrote, uint8_t *found,
                 struct fault *fault)
{
    size_t count = 0;

    while (count < PROOF_BYTES) {
        ssize_t n = write(fd, wrote + count, PROOF_BYTES - count);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return fault_set_errno(fault, n < 0 ? err_from_errno(errno) : ERR_IO,
                                   n < 0 ? errno : EIO, "writing into the store");
        count += (size_t)n;
    }
    if (fsync(fd) < 0)
        return fault_set_errno(fault, ERR_IO, errno, "syncing what was written into the store");
    int r = read_back(share_fd, name, fd, found, fault);
    if (r == 0 && memcmp(wrote, found, PROOF_BYTES) != 0)
        r = fault_set(fault, ERR_CORRUPT,
                      "what was written into the store and synced reads back as something else");
    return r;
}

int share_space_prove(int share_fd, struct fault *fault)
{
    char word[ID_TEXT_SIZE], name[PROOF_NAME_SIZE];
    AUTO_FREE void *wrote = NULL;
    AUTO_FREE void *found = NULL;

    id_random(word);
    (void)snprintf(name, sizeof name, ".godwit-proof-%s", word);
    if (posix_memalign(&wrote, PROOF_ALIGN, PROOF_BYTES) != 0)
        wrote = NULL;
    if (posix_memalign(&found, PROOF_ALIGN, PROOF_BYTES) != 0)
        found = NULL;
    if (!wrote || !found)
        return fault_set(fault, ERR_NOMEM, "no memory to prove the store");
    fill(wrote, word);
    memset(found, 0, PROOF_BYTES);
    AUTO_FD int fd = openat(share_fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return fault_set_errno(fault, err_from_errno(errno), errno, "making a file in the store");
    int r = prove(share_fd, name, fd, wrote, found, fault);
    (void)unlinkat(share_fd, name, 0); /* one that stays is a small file of a telling name */
    return r;
}

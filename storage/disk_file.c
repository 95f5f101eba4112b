/* The page cache must not hold what another host has written meanwhile: with O_DIRECT it holds
 * nothing; without, it is dropped when the disk is opened.
 */
#include "storage/disk_file.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/own.h"
#include "storage/disk.h"

enum { ZEROES_BYTES = 256 << 10 };

static const uint8_t zeroes[ZEROES_BYTES] __attribute__((aligned(PAGE_BYTES)));

static int find_size(struct disk_file *file, struct fault *fault)
{
    struct stat stat;
    if (fstat(file->fd, &stat) < 0)
        return fault_set_errno(fault, ERR_IO, errno, "looking at a disk");
    if (S_ISREG(stat.st_mode)) {
        file->bytes = (uint64_t)stat.st_size;
    } else if (S_ISBLK(stat.st_mode)) {
        file->is_block_device = true;
        if (ioctl(file->fd, BLKGETSIZE64, &file->bytes) < 0)
            return fault_set_errno(fault, ERR_IO, errno, "asking for a block device's size");
    } else {
        return fault_set(fault, ERR_INVALID, "a disk is a regular file or a block device");
    }
    file->bytes -= file->bytes % DISK_SECTOR_BYTES;
    if (file->bytes == 0)
        return fault_set(fault, ERR_INVALID, "a disk is empty");
    return 0;
}

/* Whether sectors can be read directly, into memory that is aligned to a sector and no more, tells
 * only the try: file systems differ, and some say yes and mean 4 KiB. */
static bool try_direct(const struct disk_file *file, int flags)
{
    if (fcntl(file->fd, F_SETFL, flags | O_DIRECT) < 0)
        return false;
    uint8_t buffer[3 * DISK_SECTOR_BYTES];
    uintptr_t at =
        ((uintptr_t)buffer + DISK_SECTOR_BYTES - 1) & ~(uintptr_t)(DISK_SECTOR_BYTES - 1);
    if (at % (2 * (uintptr_t)DISK_SECTOR_BYTES) == 0)
        at += DISK_SECTOR_BYTES; /* an odd sector */
    uint64_t last = file->bytes / DISK_SECTOR_BYTES - 1;
    uint64_t odd = last % 2 == 1 ? last : last ? last - 1 : 0;
    return pread(file->fd, (void *)at, DISK_SECTOR_BYTES, (off_t)(odd * DISK_SECTOR_BYTES)) ==
           DISK_SECTOR_BYTES;
}

static void choose_path(struct disk_file *file, bool cached)
{
    int flags = fcntl(file->fd, F_GETFL);
    file->direct = !cached && flags >= 0 && try_direct(file, flags);
    if (file->direct || flags < 0)
        return;
    (void)fcntl(file->fd, F_SETFL, flags & ~O_DIRECT); /* a cached disk reads right all the same */
    if (file->is_block_device)
        (void)ioctl(file->fd, BLKFLSBUF, 0); /* not allowed: then nobody else writes to it */
    else
        (void)posix_fadvise(file->fd, 0, 0, POSIX_FADV_DONTNEED); /* as above */
}

int disk_file_open(struct disk_file *ret_file, int fd, bool read_only, bool cached,
                   struct fault *fault)
{
    struct disk_file file = {.fd = fd, .read_only = read_only};
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0)
        return fault_set_errno(fault, ERR_INVALID, errno, "a disk's descriptor");
    if (!read_only && (flags & O_ACCMODE) != O_RDWR)
        return fault_set(fault, ERR_INVALID, "a disk that can be written was opened for reading");
    if ((flags & O_ACCMODE) == O_WRONLY)
        return fault_set(fault, ERR_INVALID, "a disk cannot be read");
    int r = find_size(&file, fault);
    if (r < 0)
        return r;
    choose_path(&file, cached);

    *ret_file = file;
    return 0;
}

void disk_file_close(struct disk_file *file)
{
    close_p(&file->fd);
    file->fd = -1;
}

/* The parts that are left behind `skip` bytes. Returns how many. */
static unsigned rest_of(const struct disk_request *request, struct iovec *ret_parts)
{
    if (request->bounce) {
        ret_parts[0] = (struct iovec){.iov_base = request->bounce + request->transferred,
                                      .iov_len = (size_t)(request->bytes - request->transferred)};
        return 1;
    }
    uint64_t skip = request->transferred;
    unsigned count = 0;
    for (unsigned i = 0; i < request->part_count; i++) {
        const struct iovec *part = &request->parts[i];
        if (skip >= part->iov_len) {
            skip -= part->iov_len;
            continue;
        }
        ret_parts[count++] = (struct iovec){.iov_base = (uint8_t *)part->iov_base + skip,
                                            .iov_len = part->iov_len - (size_t)skip};
        skip = 0;
    }
    return count;
}

static int transfer(const struct disk_file *file, struct disk_request *request)
{
    struct iovec parts[DISK_PARTS_MAX];
    while (request->transferred < request->bytes) {
        unsigned count = rest_of(request, parts);
        off_t offset = (off_t)(request->offset + request->transferred);
        ssize_t moved = request->op == DISK_READ ? preadv(file->fd, parts, (int)count, offset)
                                                 : pwritev(file->fd, parts, (int)count, offset);
        if (moved < 0 && errno == EINTR)
            continue;
        if (moved < 0)
            return errno;
        if (moved == 0)
            return request->op == DISK_READ ? EIO : ENOSPC; /* it was cut short by somebody */
        request->transferred += (uint64_t)moved;
    }
    return 0;
}

static int allocate(const struct disk_file *file, int mode, const struct disk_request *request)
{
    int r;
    do {
        r = fallocate(file->fd, mode | FALLOC_FL_KEEP_SIZE, (off_t)request->offset,
                      (off_t)request->bytes);
    } while (r < 0 && errno == EINTR);
    return r < 0 ? errno : 0;
}

static int discard(const struct disk_file *file, const struct disk_request *request)
{
    int error;
    if (file->is_block_device) {
        uint64_t range[2] = {request->offset, request->bytes};
        error = ioctl(file->fd, BLKDISCARD, range) < 0 ? errno : 0;
    } else {
        error = allocate(file, FALLOC_FL_PUNCH_HOLE, request);
    }
    return error == EOPNOTSUPP ? 0 : error; /* a wish */
}

static int write_zeroes(const struct disk_file *file, struct disk_request *request)
{
    int error =
        allocate(file, request->may_unmap ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE, request);
    if (error != EOPNOTSUPP)
        return error;
    while (request->transferred < request->bytes) {
        uint64_t left = request->bytes - request->transferred;
        ssize_t moved = pwrite(file->fd, zeroes, left < ZEROES_BYTES ? (size_t)left : ZEROES_BYTES,
                               (off_t)(request->offset + request->transferred));
        if (moved < 0 && errno == EINTR)
            continue;
        if (moved <= 0)
            return moved < 0 ? errno : ENOSPC;
        request->transferred += (uint64_t)moved;
    }
    return 0;
}

int disk_file_run(const struct disk_file *file, struct disk_request *request)
{
    assert(!file->read_only || request->op == DISK_READ || request->op == DISK_FLUSH);
    switch (request->op) {
    case DISK_READ:
    case DISK_WRITE:
        return transfer(file, request);
    case DISK_FLUSH:
        return fdatasync(file->fd) < 0 ? errno : 0;
    case DISK_DISCARD:
        return discard(file, request);
    case DISK_WRITE_ZEROES:
        return write_zeroes(file, request);
    }
    return EINVAL;
}

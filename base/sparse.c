#include "base/sparse.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"

bool sparse_is_zero(const void *bytes, size_t count)
{
    const char *at = bytes;

    return count == 0 || (at[0] == 0 && memcmp(at, at + 1, count - 1) == 0);
}

/* Where the hole at `offset` ends; `offset` itself when there is none, or the file system cannot
 * tell (then all of it is data). */
static uint64_t hole_end(int fd, uint64_t offset, uint64_t size)
{
    off_t data = lseek(fd, (off_t)offset, SEEK_DATA);

    if (data < 0)
        return errno == ENXIO ? size : offset;
    return (uint64_t)data < size ? (uint64_t)data : size;
}

int sparse_read(int fd, uint64_t offset, uint64_t size, void *buffer, size_t room,
                struct sparse_piece *ret_piece, struct fault *fault)
{
    struct sparse_piece piece = {0};

    assert(offset < size && room > 0);
    off_t end = lseek(fd, 0, SEEK_END);
    if (end >= 0 && (uint64_t)end < size) /* else its lost end would look like a hole */
        return fault_set(fault, ERR_CORRUPT, "the file has become shorter: %lld of %llu bytes",
                         (long long)end, (unsigned long long)size);
    uint64_t data = hole_end(fd, offset, size);
    if (data > offset) {
        uint64_t zeros = data - offset;
        ret_piece->zeros = zeros < SPARSE_ZEROS_MAX ? zeros : SPARSE_ZEROS_MAX;
        ret_piece->count = 0;
        return 0;
    }
    size_t want = size - offset < room ? (size_t)(size - offset) : room;
    while (piece.count < want) {
        ssize_t n = pread(fd, (char *)buffer + piece.count, want - piece.count,
                          (off_t)(offset + piece.count));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return fault_set_errno(fault, ERR_IO, errno, "reading at byte %llu",
                                   (unsigned long long)(offset + piece.count));
        if (n == 0)
            return fault_set(fault, ERR_CORRUPT, "the file ends at byte %llu, before its size",
                             (unsigned long long)(offset + piece.count));
        piece.count += (size_t)n;
    }
    if (sparse_is_zero(buffer, piece.count))
        piece = (struct sparse_piece){.zeros = piece.count};
    *ret_piece = piece;
    return 0;
}

int sparse_write(int fd, uint64_t offset, const void *bytes, size_t count, struct fault *fault)
{
    size_t done = 0;

    while (done < count) {
        ssize_t n = pwrite(fd, (const char *)bytes + done, count - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return fault_set_errno(fault, err_from_errno(errno), errno, "writing at byte %llu",
                                   (unsigned long long)(offset + done));
        done += (size_t)n;
    }
    return 0;
}

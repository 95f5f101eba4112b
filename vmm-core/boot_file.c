#include "vmm-core/boot_file.h"

#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/err.h"

int boot_file_size(int fd, const char *what, uint64_t *ret_bytes, struct fault *fault)
{
    struct stat stat;
    if (fstat(fd, &stat) < 0)
        return fault_set_errno(fault, ERR_IO, errno, "asking for the size of %s", what);
    if (!S_ISREG(stat.st_mode))
        return fault_set(fault, ERR_INVALID, "%s is not a regular file", what);
    *ret_bytes = (uint64_t)stat.st_size;
    return 0;
}

int boot_file_read(int fd, void *at, uint64_t count, uint64_t offset, const char *what,
                   struct fault *fault)
{
    uint8_t *next = at;
    while (count > 0) {
        size_t chunk = count < MIB(64) ? (size_t)count : (size_t)MIB(64);
        ssize_t got = pread(fd, next, chunk, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return fault_set_errno(fault, ERR_IO, errno, "reading %s", what);
        if (got == 0)
            return fault_set(fault, ERR_INVALID, "%s ends before its time", what);
        next += got;
        offset += (uint64_t)got;
        count -= (uint64_t)got;
    }
    return 0;
}

#include "storage/clone.h"

#include <assert.h>
#include <errno.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/own.h"
#include "base/sparse.h"

static int copy(struct clone *clone, int to, struct fault *fault)
{
    AUTO_FREE uint8_t *buffer = malloc(MIB(1));
    struct sparse_piece piece;
    int r = buffer ? 0 : fault_set(fault, ERR_NOMEM, "no memory to copy a disk");

    for (uint64_t at = 0; r == 0 && at < clone->from_bytes;) {
        if (clone->canceled && atomic_load(clone->canceled))
            return fault_set(fault, ERR_CANCELED, "the copy was given up");
        r = sparse_read(clone->from, at, clone->from_bytes, buffer, MIB(1), &piece, fault);
        if (r == 0 && piece.count > 0)
            r = sparse_write(to, at, buffer, piece.count, fault);
        if (r < 0)
            return r;
        clone->copied_bytes += piece.count;
        at += piece.count + piece.zeros;
        if (clone->done)
            atomic_store(clone->done, at);
    }
    return r;
}

int clone_share(int from, int to)
{
    int r;

    do
        r = ioctl(to, FICLONE, from);
    while (r < 0 && errno == EINTR);
    return r < 0 ? -errno : 0;
}

int clone_fill(struct clone *clone, int to, struct fault *fault)
{
    assert(clone->bytes >= clone->from_bytes);
    clone->is_reflink = clone_share(clone->from, to) == 0;
    clone->copied_bytes = 0;
    if (!clone->is_reflink) { /* another file system, or one that knows no reflink */
        int r = copy(clone, to, fault);
        if (r < 0)
            return r;
    }
    if (clone->done)
        atomic_store(clone->done, clone->from_bytes);
    if (ftruncate(to, (off_t)clone->bytes) < 0)
        return fault_set_errno(fault, err_from_errno(errno), errno, "making it %llu bytes long",
                               (unsigned long long)clone->bytes);
    return 0;
}

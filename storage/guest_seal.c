#include "storage/guest_seal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/own.h"
#include "storage/guest_label.h"

enum { STEP_BYTES = 1 << 20, DIGEST_BYTES = 8 };

static int read_at(int fd, void *ret_bytes, size_t count, uint64_t offset, struct fault *fault)
{
    uint8_t *to = ret_bytes;

    while (count > 0) {
        ssize_t got = pread(fd, to, count, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return fault_set_errno(fault, ERR_IO, errno, "reading the guest's file at %llu MiB",
                                   (unsigned long long)(offset >> 20));
        if (got == 0)
            return fault_set(fault, ERR_CORRUPT, "the guest's file ends at %llu bytes, too early",
                             (unsigned long long)offset);
        to += got;
        count -= (size_t)got;
        offset += (uint64_t)got;
    }
    return 0;
}

static int digest_body(int fd, uint64_t end, XXH3_state_t *digest, uint8_t *step_bytes,
                       struct fault *fault)
{
    int r = 0;

    for (uint64_t at = GUEST_SEAL_HEAD_BYTES; r == 0 && at < end;) {
        size_t step = end - at < STEP_BYTES ? (size_t)(end - at) : STEP_BYTES;
        r = read_at(fd, step_bytes, step, at, fault);
        if (r == 0)
            (void)XXH3_64bits_update(digest, step_bytes, step);
        at += step;
    }
    return r;
}

static int check_bytes(int fd, uint64_t bytes, XXH3_state_t *digest, uint8_t *step_bytes,
                       struct fault *fault)
{
    uint8_t head[GUEST_SEAL_HEAD_BYTES], tail[GUEST_SEAL_TAIL_BYTES];

    int r = read_at(fd, head, sizeof head, 0, fault);
    if (r == 0)
        r = read_at(fd, tail, sizeof tail, bytes - sizeof tail, fault);
    if (r < 0)
        return r;
    (void)XXH3_64bits_reset(digest);
    (void)XXH3_64bits_update(digest, head, GUEST_LABEL_BYTES);
    (void)XXH3_64bits_update(digest, head + GUEST_SEAL_SHAPE_AT, GUEST_SEAL_SHAPE_BYTES);
    r = digest_body(fd, bytes - DIGEST_BYTES, digest, step_bytes, fault);
    if (r < 0)
        return r;
    if (bytes_get_u64(tail) != GUEST_SEAL_MAGIC ||
        bytes_get_u64(tail + sizeof tail - DIGEST_BYTES) != XXH3_64bits_digest(digest))
        return fault_set(fault, ERR_CORRUPT,
                         "the guest's file is damaged: its digest is not that of its bytes");
    return 0;
}

int guest_seal_check(const struct guest_label *expected, int fd, struct fault *fault)
{
    struct guest_label label;
    struct stat status;
    uint64_t consumed_by = 0;

    int r = guest_label_read(fd, &label, &consumed_by, fault);
    if (r == 0)
        r = guest_label_judge(&label, consumed_by, expected, fault);
    if (r < 0)
        return r;
    if (fstat(fd, &status) < 0)
        return fault_set_errno(fault, ERR_IO, errno, "looking at the guest's file");
    if (status.st_size < (off_t)GUEST_SEAL_HEAD_BYTES + GUEST_SEAL_TAIL_BYTES)
        return fault_set(fault, ERR_CORRUPT, "the guest's file ends in its head");
    AUTO_FREE uint8_t *step_bytes = malloc(STEP_BYTES);
    XXH3_state_t *digest = XXH3_createState();
    r = step_bytes && digest
            ? check_bytes(fd, (uint64_t)status.st_size, digest, step_bytes, fault)
            : fault_set(fault, ERR_NOMEM, "no memory to read a guest's file");
    (void)XXH3_freeState(digest);
    return r;
}

#include "storage/guest_label.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/bytes.h"
#include "base/err.h"

#define LABEL_MAGIC UINT64_C(0x3154534555475747) /* "GWGUEST1" */

enum {
    LABEL_VERSION = 1,
    AT_VERSION = 8,
    AT_GENERATION = 16,
    AT_VM = 32,
    AT_NONCE = AT_VM + GUEST_LABEL_WORD_SIZE,
    AT_DIGEST = GUEST_LABEL_BYTES - 8,
    MARK_BYTES = 16,
};

int guest_label_encode(const struct guest_label *label, uint8_t ret_bytes[static GUEST_LABEL_BYTES],
                       struct fault *fault)
{
    if (!label->vm_id[0] || !label->nonce[0] || !label->generation ||
        strnlen(label->vm_id, GUEST_LABEL_WORD_SIZE) == GUEST_LABEL_WORD_SIZE ||
        strnlen(label->nonce, GUEST_LABEL_WORD_SIZE) == GUEST_LABEL_WORD_SIZE)
        return fault_set(fault, ERR_INVALID, "a guest's file without its VM, nonce or generation");
    memset(ret_bytes, 0, GUEST_LABEL_BYTES);
    bytes_put_u64(ret_bytes, LABEL_MAGIC);
    bytes_put_u32(ret_bytes + AT_VERSION, LABEL_VERSION);
    bytes_put_u64(ret_bytes + AT_GENERATION, label->generation);
    memcpy(ret_bytes + AT_VM, label->vm_id, strlen(label->vm_id));
    memcpy(ret_bytes + AT_NONCE, label->nonce, strlen(label->nonce));
    bytes_put_u64(ret_bytes + AT_DIGEST, XXH3_64bits(ret_bytes, AT_DIGEST));
    return 0;
}

int guest_label_decode(const uint8_t bytes[static GUEST_LABEL_BYTES], struct guest_label *ret_label,
                       struct fault *fault)
{
    struct guest_label label = {0};

    if (bytes_get_u64(bytes) != LABEL_MAGIC)
        return fault_set(fault, ERR_CORRUPT, "this is no guest's file");
    if (bytes_get_u32(bytes + AT_VERSION) != LABEL_VERSION)
        return fault_set(fault, ERR_UNSUPPORTED, "a guest's file of version %u, known here is %d",
                         bytes_get_u32(bytes + AT_VERSION), LABEL_VERSION);
    label.generation = bytes_get_u64(bytes + AT_GENERATION);
    memcpy(label.vm_id, bytes + AT_VM, sizeof label.vm_id);
    memcpy(label.nonce, bytes + AT_NONCE, sizeof label.nonce);
    if (bytes_get_u64(bytes + AT_DIGEST) != XXH3_64bits(bytes, AT_DIGEST) || !label.generation ||
        !label.vm_id[0] || !label.nonce[0] || label.vm_id[sizeof label.vm_id - 1] ||
        label.nonce[sizeof label.nonce - 1])
        return fault_set(fault, ERR_CORRUPT, "the head of the guest's file is damaged");
    *ret_label = label;
    return 0;
}

int guest_label_read(int fd, struct guest_label *ret_label, uint64_t *ret_consumed_by,
                     struct fault *fault)
{
    static const uint8_t fresh[MARK_BYTES];
    uint8_t bytes[GUEST_LABEL_BYTES + MARK_BYTES];

    ssize_t got = pread(fd, bytes, sizeof bytes, 0);
    if (got < 0)
        return fault_set_errno(fault, ERR_IO, errno, "reading the guest's file");
    if (got != (ssize_t)sizeof bytes)
        return fault_set(fault, ERR_CORRUPT, "the guest's file has %zd bytes, not even a head", got);
    int r = guest_label_decode(bytes, ret_label, fault);
    if (r < 0)
        return r;
    const uint8_t *mark = bytes + GUEST_LABEL_BYTES;
    uint64_t by = bytes_get_u64(mark);
    bool is_whole = by && bytes_get_u64(mark + 8) == XXH3_64bits(mark, 8);
    *ret_consumed_by = memcmp(mark, fresh, sizeof fresh) == 0 ? 0 : is_whole ? by : UINT64_MAX;
    return 0;
}

int guest_label_judge(const struct guest_label *label, uint64_t consumed_by,
                      const struct guest_label *expected, struct fault *fault)
{
    if (strcmp(label->vm_id, expected->vm_id) != 0)
        return fault_set(fault, ERR_REFUSED, "the guest's file is of VM %s, not of %s",
                         label->vm_id, expected->vm_id);
    if (strcmp(label->nonce, expected->nonce) != 0 || label->generation != expected->generation)
        return fault_set(fault, ERR_REFUSED,
                         "the guest's file is another one than was asked for: it is stale");
    if (consumed_by)
        return fault_set(fault, ERR_REFUSED, "the guest's file was consumed by generation %llu",
                         (unsigned long long)consumed_by);
    return 0;
}

int guest_label_consume(int fd, uint64_t generation, struct fault *fault)
{
    uint8_t mark[MARK_BYTES];

    bytes_put_u64(mark, generation);
    bytes_put_u64(mark + 8, XXH3_64bits(mark, 8));
    if (pwrite(fd, mark, sizeof mark, GUEST_LABEL_BYTES) != (ssize_t)sizeof mark ||
        fdatasync(fd) < 0)
        return fault_set_errno(fault, ERR_IO, errno, "marking the guest's file as consumed");
    return 0;
}

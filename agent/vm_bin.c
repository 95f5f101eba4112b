#include "agent/vm_bin.h"

#include <stdlib.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/bytes.h"
#include "base/err.h"

enum {
    FILE_MAGIC = 0x4d565747, /* "GWVM" */
    FILE_VERSION = 1,
    FILE_HEADER_BYTES = 24,
    FILE_BYTES_MAX = 1 << 20,
};

int vm_bin_encode(const Godwit__VmStatus *status, uint8_t **ret_bytes, size_t *ret_count)
{
    size_t body = godwit__vm_status__get_packed_size(status);
    uint8_t *bytes = malloc(FILE_HEADER_BYTES + body);
    if (!bytes)
        return ERR_NOMEM;
    (void)godwit__vm_status__pack(status, bytes + FILE_HEADER_BYTES);
    bytes_put_u32(bytes, FILE_MAGIC);
    bytes_put_u32(bytes + 4, FILE_VERSION);
    bytes_put_u32(bytes + 8, (uint32_t)body);
    bytes_put_u32(bytes + 12, 0);
    bytes_put_u64(bytes + 16, XXH3_64bits(bytes + FILE_HEADER_BYTES, body));
    *ret_bytes = bytes;
    *ret_count = FILE_HEADER_BYTES + body;
    return 0;
}

int vm_bin_decode(const uint8_t *bytes, size_t count, Godwit__VmStatus **ret_status,
                  struct fault *fault)
{
    if (count < FILE_HEADER_BYTES || count > FILE_BYTES_MAX || bytes_get_u32(bytes) != FILE_MAGIC)
        return fault_set(fault, ERR_CORRUPT, "this is no VM's file");
    if (bytes_get_u32(bytes + 4) != FILE_VERSION)
        return fault_set(fault, ERR_UNSUPPORTED, "a VM's file of version %u, this agent knows %d",
                         bytes_get_u32(bytes + 4), FILE_VERSION);
    size_t body = count - FILE_HEADER_BYTES;
    if (bytes_get_u32(bytes + 8) != body ||
        bytes_get_u64(bytes + 16) != XXH3_64bits(bytes + FILE_HEADER_BYTES, body))
        return fault_set(fault, ERR_CORRUPT, "a VM's file is damaged");
    Godwit__VmStatus *status = godwit__vm_status__unpack(NULL, body, bytes + FILE_HEADER_BYTES);
    if (!status || !status->vm_id) {
        if (status)
            godwit__vm_status__free_unpacked(status, NULL);
        return fault_set(fault, ERR_CORRUPT, "a VM's file does not say which VM");
    }
    *ret_status = status;
    return 0;
}

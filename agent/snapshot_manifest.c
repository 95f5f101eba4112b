#include "agent/snapshot_manifest.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/id.h"
#include "proto/limits.h"

#define MANIFEST_MAGIC UINT64_C(0x3130504e53445747) /* "GWDSNP01" */

enum { MANIFEST_VERSION = 1, AT_VERSION = 8, AT_COUNT = 12, AT_DIGEST = 16, HEAD_BYTES = 24 };
enum { PATH_TEXT_MAX = 400 };

/* No step out of the folder, and short enough to be put together with it. */
static bool is_beneath(const char *file)
{
    if (!file || !*file || *file == '/' || strlen(file) > PATH_TEXT_MAX)
        return false;
    for (const char *part = file; part; part = strchr(part, '/')) {
        part += *part == '/';
        size_t count = strcspn(part, "/");
        if (count == 0 || (count == 1 && part[0] == '.') ||
            (count == 2 && part[0] == '.' && part[1] == '.'))
            return false;
    }
    return true;
}

static bool disk_is_fit(const Godwit__SnapshotDisk *disk)
{
    return disk->index < DISKS_MAX && disk->name && id_name_is_valid(disk->name) && disk->folder &&
           disk->folder[0] == '/' && strlen(disk->folder) <= PATH_TEXT_MAX &&
           is_beneath(disk->file) && is_beneath(disk->clone) &&
           strcmp(disk->file, disk->clone) != 0;
}

static bool is_id(const char *text)
{
    return text && strlen(text) == ID_TEXT_SIZE - 1 &&
           strspn(text, "0123456789abcdef") == ID_TEXT_SIZE - 1;
}

static int judge(const Godwit__SnapshotInfo *info, struct fault *fault)
{
    if (!is_id(info->id) || !info->vm_id || !id_name_is_valid(info->vm_id) || !info->name ||
        !id_name_is_valid(info->name))
        return fault_set(fault, ERR_CORRUPT, "a snapshot without a fit id, VM or name");
    if (info->n_disks > DISKS_MAX || (info->n_disks == 0 && !info->with_memory))
        return fault_set(fault, ERR_CORRUPT, "snapshot %s has %zu disks", info->name,
                         info->n_disks);
    for (size_t i = 0; i < info->n_disks; i++) {
        if (!disk_is_fit(info->disks[i]) ||
            (i && info->disks[i]->index <= info->disks[i - 1]->index))
            return fault_set(fault, ERR_CORRUPT, "disk %zu of snapshot %s is not fit", i,
                             info->name);
    }
    return 0;
}

int snapshot_manifest_encode(const Godwit__SnapshotInfo *info, uint8_t **ret_bytes,
                             size_t *ret_count, struct fault *fault)
{
    int r = judge(info, fault);
    if (r < 0)
        return r;
    size_t count = godwit__snapshot_info__get_packed_size(info);
    if (count > SNAPSHOT_MANIFEST_BYTES_MAX - HEAD_BYTES)
        return fault_set(fault, ERR_LIMIT, "a snapshot's manifest of %zu bytes", count);
    uint8_t *bytes = calloc(1, HEAD_BYTES + count);
    if (!bytes)
        return fault_set(fault, ERR_NOMEM, "no memory for a snapshot's manifest");
    bytes_put_u64(bytes, MANIFEST_MAGIC);
    bytes_put_u32(bytes + AT_VERSION, MANIFEST_VERSION);
    bytes_put_u32(bytes + AT_COUNT, (uint32_t)count);
    (void)godwit__snapshot_info__pack(info, bytes + HEAD_BYTES);
    bytes_put_u64(bytes + AT_DIGEST, XXH3_64bits(bytes + HEAD_BYTES, count));
    *ret_bytes = bytes;
    *ret_count = HEAD_BYTES + count;
    return 0;
}

int snapshot_manifest_decode(const uint8_t *bytes, size_t count, Godwit__SnapshotInfo **ret_info,
                             struct fault *fault)
{
    if (count < HEAD_BYTES || bytes_get_u64(bytes) != MANIFEST_MAGIC)
        return fault_set(fault, ERR_CORRUPT, "this is no snapshot's manifest");
    if (bytes_get_u32(bytes + AT_VERSION) != MANIFEST_VERSION)
        return fault_set(fault, ERR_UNSUPPORTED,
                         "a snapshot's manifest of version %u, known here is %d",
                         bytes_get_u32(bytes + AT_VERSION), MANIFEST_VERSION);
    if (bytes_get_u32(bytes + AT_COUNT) != count - HEAD_BYTES ||
        count > SNAPSHOT_MANIFEST_BYTES_MAX ||
        bytes_get_u64(bytes + AT_DIGEST) != XXH3_64bits(bytes + HEAD_BYTES, count - HEAD_BYTES))
        return fault_set(fault, ERR_CORRUPT, "a snapshot's manifest is damaged");
    Godwit__SnapshotInfo *info =
        godwit__snapshot_info__unpack(NULL, count - HEAD_BYTES, bytes + HEAD_BYTES);
    if (!info)
        return fault_set(fault, ERR_CORRUPT, "a snapshot's manifest cannot be read");
    int r = judge(info, fault);
    if (r < 0) {
        godwit__snapshot_info__free_unpacked(info, NULL);
        return r;
    }
    *ret_info = info;
    return 0;
}

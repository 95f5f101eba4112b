/* A snapshot's manifest, as whoever can write the state folder may leave it: what is taken is fit to be used. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "agent/snapshot_manifest.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/id.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const Godwit__SnapshotInfo *info)
{
    assert(strlen(info->id) == ID_TEXT_SIZE - 1 && id_name_is_valid(info->vm_id));
    for (size_t i = 0; i < info->n_disks; i++) {
        assert(info->disks[i]->folder[0] == '/' && info->disks[i]->file[0] != '/');
        assert(strncmp(info->disks[i]->clone, "../", 3) != 0 && !strstr(info->disks[i]->clone, "/../"));
    }
}

static void decode(const uint8_t *bytes, size_t count)
{
    Godwit__SnapshotInfo *info = NULL;
    uint8_t *again = NULL;
    size_t again_count = 0;
    struct fault fault = {0};

    if (snapshot_manifest_decode(bytes, count, &info, &fault) < 0)
        return;
    check(info);
    assert(snapshot_manifest_encode(info, &again, &again_count, &fault) == 0);
    free(again);
    godwit__snapshot_info__free_unpacked(info, NULL);
}

/* As it is, and as the body of a manifest whose head is right: chance does not find a digest. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    enum { HEAD = 24 };
    uint8_t *whole = calloc(1, HEAD + size);

    decode(data, size);
    if (!whole)
        return 0;
    bytes_put_u64(whole, UINT64_C(0x3130504e53445747));
    bytes_put_u32(whole + 8, 1);
    bytes_put_u32(whole + 12, (uint32_t)size);
    bytes_put_u64(whole + 16, XXH3_64bits(data, size));
    memcpy(whole + HEAD, data, size);
    decode(whole, HEAD + size);
    free(whole);
    return 0;
}

/* A snapshot's description from any bytes: refused with words, or one whose every text ends. */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "agent/backend_libvirt/virt_snapshot.h"
#include "base/err.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    struct virt_snapshot snapshot = {0};
    struct fault fault = {0};
    char name[ID_NAME_MAX + 1];
    char *xml = malloc(count + 1);
    if (!xml)
        return 0;
    memcpy(xml, bytes, count);
    xml[count] = 0;
    int r = virt_snapshot_read(xml, &snapshot, &fault);
    free(xml);
    assert(r == 0 || fault.text[0]);
    if (r < 0)
        return 0;
    assert(snapshot.name[0] && strlen(snapshot.name) < VIRT_SNAPSHOT_NAME_SIZE);
    virt_snapshot_pool_name(&snapshot, name);
    assert(id_name_is_valid(name));
    Godwit__SnapshotInfo *info = virt_snapshot_info(&snapshot, "node1");
    assert(!info || info->n_disks <= VIRT_SNAPSHOT_DISKS_MAX);
    if (info)
        godwit__snapshot_info__free_unpacked(info, NULL);
    return 0;
}

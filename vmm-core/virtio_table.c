/* Console, rng, balloon, vsock, disks, nics: a new kind goes to the end, or it is another machine.
 */
#include "vmm-core/virtio_table.h"

#include <assert.h>

#include "base/own.h"
#include "vmm-core/dev_virtio_balloon.h"
#include "vmm-core/dev_virtio_blk.h"
#include "vmm-core/dev_virtio_console.h"
#include "vmm-core/dev_virtio_net.h"
#include "vmm-core/dev_virtio_rng.h"
#include "vmm-core/dev_virtio_vsock.h"
#include "vmm-core/virtio.h"

static const struct virtio_kind *const virtio_table[] = {
    &virtio_console_kind,
    &virtio_rng_kind,
    &virtio_balloon_kind,
    &virtio_vsock_kind,
    &virtio_blk_kind,
    &virtio_net_kind,
};

size_t virtio_table_count(void)
{
    return ARRAY_COUNT(virtio_table);
}

const struct virtio_kind *virtio_table_at(size_t index)
{
    assert(index < virtio_table_count());
    return virtio_table[index];
}

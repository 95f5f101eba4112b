/* Every kind of virtio device, in the order of their PCI slots: part of machine godwit-1.
 *
 * Flow:   virtio_bus -> [virtio_table] -> dev_virtio_x
 * Thread: any; the table is constant.
 */
#ifndef GODWIT_VMM_CORE_VIRTIO_TABLE_H
#define GODWIT_VMM_CORE_VIRTIO_TABLE_H

#include <stddef.h>

struct virtio_kind;

size_t virtio_table_count(void);
const struct virtio_kind *virtio_table_at(size_t index);

#endif

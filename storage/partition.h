/* Where the partitions of a disk are: GPT, or the old table, or none.
 *
 * Flow:   agent/boot -> [partition] -> ext4
 * Thread: any; pure.
 */
#ifndef GODWIT_STORAGE_PARTITION_H
#define GODWIT_STORAGE_PARTITION_H

#include <stddef.h>
#include <stdint.h>

enum { PARTITION_MAX = 128, PARTITION_HEAD_BYTES = 34 * 512 };

struct partition {
    uint64_t offset, bytes;
};

/* From the first PARTITION_HEAD_BYTES (fewer when the disk is smaller) of a disk of `disk_bytes`.
 * Those that do not fit the disk are left out; the whole disk when there is no table. Returns how
 * many. */
size_t partition_read(const uint8_t *head, size_t count, uint64_t disk_bytes,
                      struct partition ret_partitions[static PARTITION_MAX]);

#endif

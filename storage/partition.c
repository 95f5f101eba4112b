#include "storage/partition.h"

#include <stdbool.h>
#include <string.h>

#include "base/bytes.h"

enum { SECTOR = 512, MBR_TABLE = 446, MBR_ROWS = 4, MBR_ROW_BYTES = 16, MBR_GPT = 0xee };

static size_t add(struct partition *partitions, size_t count, uint64_t first, uint64_t sectors,
                  uint64_t disk_bytes)
{
    uint64_t all = disk_bytes / SECTOR;

    if (count == PARTITION_MAX || sectors == 0 || first == 0 || first >= all ||
        sectors > all - first)
        return count;
    partitions[count] = (struct partition){.offset = first * SECTOR, .bytes = sectors * SECTOR};
    return count + 1;
}

static bool is_zero(const uint8_t *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (bytes[i])
            return false;
    }
    return true;
}

static size_t read_gpt(const uint8_t *head, size_t count, uint64_t disk_bytes,
                       struct partition *partitions)
{
    const uint8_t *header = head + SECTOR;
    uint64_t at = bytes_get_u64(header + 72);
    uint32_t rows = bytes_get_u32(header + 80), row_bytes = bytes_get_u32(header + 84);
    size_t found = 0;

    if (row_bytes < 128 || row_bytes > 4096 || at < 2 || at >= count / SECTOR)
        return 0;
    at *= SECTOR;
    for (uint32_t i = 0; i < rows && i < PARTITION_MAX && row_bytes <= count - at; i++) {
        const uint8_t *row = head + at;
        uint64_t first = bytes_get_u64(row + 32), last = bytes_get_u64(row + 40);
        if (!is_zero(row, 16) && last >= first && last - first < UINT64_MAX)
            found = add(partitions, found, first, last - first + 1, disk_bytes);
        at += row_bytes;
    }
    return found;
}

size_t partition_read(const uint8_t *head, size_t count, uint64_t disk_bytes,
                      struct partition ret_partitions[static PARTITION_MAX])
{
    size_t found = 0;
    bool has_table = count >= SECTOR && head[510] == 0x55 && head[511] == 0xaa;

    if (has_table && count >= 2 * SECTOR && memcmp(head + SECTOR, "EFI PART", 8) == 0)
        found = read_gpt(head, count, disk_bytes, ret_partitions);
    bool has_old = has_table && found == 0;
    for (size_t i = 0; has_old && i < MBR_ROWS; i++) {
        const uint8_t *row = head + MBR_TABLE + i * MBR_ROW_BYTES;
        if (row[4] != 0 && row[4] != MBR_GPT)
            found = add(ret_partitions, found, bytes_get_u32(row + 8), bytes_get_u32(row + 12),
                        disk_bytes);
    }
    if (found == 0) {
        ret_partitions[0] = (struct partition){.offset = 0, .bytes = disk_bytes};
        found = 1;
    }
    return found;
}

#include "boot_info.h"

enum { START_INFO_MAGIC = 0x336ec578, MEMORY_RAM = 1 };

struct start_info {
    uint32_t magic, version, flags, modules;
    uint64_t modules_address, cmdline_address, rsdp_address, memory_map_address;
    uint32_t memory_map_entries, reserved;
};

struct memory_map_entry {
    uint64_t address, bytes;
    uint32_t type, reserved;
};

static uint32_t copy_text(char *to, const char *from, uint32_t bytes_max)
{
    uint32_t length = 0;

    while (length < bytes_max - 1 && from[length]) {
        to[length] = from[length];
        length++;
    }
    to[length] = 0;
    return length;
}

bool boot_info_read(struct boot_info *ret_info, uint64_t start_info_address)
{
    /* volatile: address 0 is a legal place for a loader, not for a C pointer. */
    const volatile struct start_info *start = (const volatile void *)start_info_address;

    if (start->magic != START_INFO_MAGIC)
        return false;

    uint64_t cmdline = start->cmdline_address;
    uint64_t map = start->memory_map_address;
    uint32_t entries = start->memory_map_entries;
    uint32_t length = 0;

    if (cmdline)
        length = copy_text(ret_info->cmdline, (const char *)cmdline, BOOT_INFO_CMDLINE_MAX);
    ret_info->left[0] = (struct boot_info_range){start_info_address, sizeof(*start)};
    ret_info->left[1] = (struct boot_info_range){cmdline, length};
    if (start->version < 1 || !map)
        return false;

    const volatile struct memory_map_entry *entry = (const volatile void *)map;

    ret_info->left[2] = (struct boot_info_range){map, entries * sizeof(*entry)};
    for (uint32_t i = 0; i < entries && ret_info->rams < BOOT_INFO_RANGES_MAX; i++) {
        if (entry[i].type != MEMORY_RAM)
            continue;
        ret_info->ram[ret_info->rams].address = entry[i].address;
        ret_info->ram[ret_info->rams++].bytes = entry[i].bytes;
        ret_info->ram_bytes += entry[i].bytes;
    }
    return ret_info->rams > 0;
}

/* What the PVH loader told us: command line and memory map.
 *
 * Flow:   start_info in low memory -> [boot_info] -> option, test_memory
 * Thread: vCPU 0 at boot.
 */
#ifndef GUEST_BOOT_INFO_H
#define GUEST_BOOT_INFO_H

#include <stdbool.h>
#include <stdint.h>

enum { BOOT_INFO_RANGES_MAX = 16, BOOT_INFO_CMDLINE_MAX = 1024 };

struct boot_info_range {
    uint64_t address, bytes;
};

struct boot_info {
    char cmdline[BOOT_INFO_CMDLINE_MAX];
    struct boot_info_range ram[BOOT_INFO_RANGES_MAX];
    uint32_t rams;
    uint64_t ram_bytes;
    /* Where the loader left its tables: they may lie in what becomes test memory. */
    struct boot_info_range left[3];
};

/* A copy of everything, because the originals may lie anywhere. False when it is not PVH version 1.
 * */
bool boot_info_read(struct boot_info *ret_info, uint64_t start_info_address);

#endif

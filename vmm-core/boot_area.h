/* Low memory as a kernel finds it, whichever way it boots, and where its initrd lies.
 *
 * Flow:   boot_pvh, boot_bzimage -> [boot_area] -> guest_memory
 * Thread: owner's.
 *
 *   0x80000  GDT, zero page, page tables     (bzImage)
 *   0x90000  start_info, modules, memory map (PVH)
 *   0x91000  command line
 *   0x9fc00  reserved up to 1 MiB; in it, from 0xE0000, the ACPI tables
 *
 * High in the first 640 KiB, where kernels seldom put the trampolines of their other processors.
 * Part of the machine version: a guest reads the map.
 */
#ifndef GODWIT_VMM_CORE_BOOT_AREA_H
#define GODWIT_VMM_CORE_BOOT_AREA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/limits.h"

struct fault;
struct guest_memory;

enum {
    BOOT_AREA_FIRST = 0x80000,
    BOOT_AREA_GDT = 0x80000,
    BOOT_AREA_ZERO_PAGE = 0x81000,
    BOOT_AREA_PAGE_TABLES = 0x82000, /* six pages */
    BOOT_AREA_START_INFO = 0x90000,
    BOOT_AREA_MODULES = 0x90100,
    BOOT_AREA_MAP = 0x90200,
    BOOT_AREA_CMDLINE = 0x91000,
    BOOT_AREA_END = BOOT_AREA_CMDLINE + CMDLINE_MAX + 1,

    BOOT_AREA_LOW_RAM_END = 0x9fc00,
    BOOT_AREA_HIGH_RAM = 0x100000,
    BOOT_AREA_MAP_MAX = 8,
};

enum boot_area_type { BOOT_AREA_RAM = 1, BOOT_AREA_RESERVED = 2 }; /* as E820 numbers them */

struct boot_area_entry {
    uint64_t address, end;
    enum boot_area_type type;
};

/* Ascending, without overlaps. Returns how many. */
unsigned boot_area_map(const struct guest_memory *memory,
                       struct boot_area_entry ret_map[static BOOT_AREA_MAP_MAX]);

/* At most `bytes_max` without its end, which the kernel's own limit may lower. */
int boot_area_check_cmdline(const char *cmdline, uint64_t bytes_max, struct fault *fault);
/* Checked before. */
void boot_area_put_cmdline(struct guest_memory *memory, const char *cmdline);

struct boot_area_initrd {
    uint64_t address, bytes; /* bytes 0: there is none */
};

/* As high as it goes below `end` and 4 GiB: kernels unpack downwards from there without touching
 * it. `fd` is borrowed, -1 for none. Nothing is read yet. */
int boot_area_place_initrd(const struct guest_memory *memory, int fd, uint64_t end,
                           struct boot_area_initrd *ret_initrd, struct fault *fault);
int boot_area_load_initrd(struct guest_memory *memory, int fd,
                          const struct boot_area_initrd *initrd, struct fault *fault);
/* The kernel lies at [address, address + bytes): ERR_INVALID when the initrd would cover it. */
int boot_area_check_initrd(const struct boot_area_initrd *initrd, uint64_t address, uint64_t bytes,
                           struct fault *fault);

bool boot_area_ranges_overlap(uint64_t first_a, uint64_t count_a, uint64_t first_b,
                              uint64_t count_b);

#endif

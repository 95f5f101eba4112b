#include "vmm-core/boot_area.h"

#include <assert.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"
#include "vmm-core/boot_file.h"
#include "vmm-core/guest_memory.h"
#include "vmm-core/layout.h"

static_assert(BOOT_AREA_END <= BOOT_AREA_LOW_RAM_END, "boot data lies in what the map calls RAM");
static_assert(GUEST_MEMORY_BYTES_MIN > BOOT_AREA_HIGH_RAM, "the smallest guest has the boot area");
static_assert(LAYOUT_ECAM_START >= GUEST_MEMORY_HOLE_START &&
                  LAYOUT_ECAM_START + LAYOUT_ECAM_BYTES <= GUEST_MEMORY_HOLE_END,
              "configuration space lies in the hole, so between the map's two parts of RAM");

static void add(struct boot_area_entry *map, unsigned *count, uint64_t address, uint64_t end,
                enum boot_area_type type)
{
    assert(*count < BOOT_AREA_MAP_MAX);
    assert(address < end);
    map[(*count)++] = (struct boot_area_entry){address, end, type};
}

unsigned boot_area_map(const struct guest_memory *memory,
                       struct boot_area_entry ret_map[static BOOT_AREA_MAP_MAX])
{
    struct guest_memory_part parts[GUEST_MEMORY_PARTS_MAX];
    unsigned part_count = guest_memory_parts(memory, parts);
    unsigned count = 0;

    add(ret_map, &count, 0, BOOT_AREA_LOW_RAM_END, BOOT_AREA_RAM);
    add(ret_map, &count, BOOT_AREA_LOW_RAM_END, BOOT_AREA_HIGH_RAM, BOOT_AREA_RESERVED);
    add(ret_map, &count, BOOT_AREA_HIGH_RAM, parts[0].pages << PAGE_SHIFT, BOOT_AREA_RAM);
    /* Linux believes in MCFG only what firmware has reserved. */
    add(ret_map, &count, LAYOUT_ECAM_START, LAYOUT_ECAM_START + LAYOUT_ECAM_BYTES,
        BOOT_AREA_RESERVED);
    for (unsigned i = 1; i < part_count; i++)
        add(ret_map, &count, parts[i].guest_address,
            parts[i].guest_address + (parts[i].pages << PAGE_SHIFT), BOOT_AREA_RAM);
    return count;
}

int boot_area_check_cmdline(const char *cmdline, uint64_t bytes_max, struct fault *fault)
{
    size_t bytes = strlen(cmdline);
    uint64_t most = bytes_max < CMDLINE_MAX ? bytes_max : CMDLINE_MAX;
    if (bytes > most)
        return fault_set(fault, ERR_INVALID, "the command line has %zu bytes, at most %llu fit",
                         bytes, (unsigned long long)most);
    return 0;
}

void boot_area_put_cmdline(struct guest_memory *memory, const char *cmdline)
{
    size_t bytes = strlen(cmdline) + 1;
    uint8_t *at = guest_memory_at(memory, BOOT_AREA_CMDLINE, bytes);
    assert(at && bytes <= CMDLINE_MAX + 1);
    memcpy(at, cmdline, bytes);
    guest_memory_mark_written(memory, BOOT_AREA_CMDLINE, bytes);
}

int boot_area_place_initrd(const struct guest_memory *memory, int fd, uint64_t end,
                           struct boot_area_initrd *ret_initrd, struct fault *fault)
{
    *ret_initrd = (struct boot_area_initrd){0};
    if (fd < 0)
        return 0;

    uint64_t bytes = 0;
    int r = boot_file_size(fd, "the initrd", &bytes, fault);
    if (r < 0)
        return r;
    struct guest_memory_part parts[GUEST_MEMORY_PARTS_MAX];
    (void)guest_memory_parts(memory, parts); /* part 0 is always there */
    uint64_t low_bytes = parts[0].pages << PAGE_SHIFT;
    if (low_bytes > end)
        low_bytes = end;
    if (bytes == 0 || low_bytes < BOOT_AREA_HIGH_RAM || bytes > low_bytes - BOOT_AREA_HIGH_RAM)
        return fault_set(fault, ERR_INVALID,
                         "an initrd of %llu bytes does not fit the guest's memory",
                         (unsigned long long)bytes);
    ret_initrd->address = (low_bytes - bytes) & ~(uint64_t)(PAGE_BYTES - 1);
    ret_initrd->bytes = bytes;
    return 0;
}

int boot_area_load_initrd(struct guest_memory *memory, int fd,
                          const struct boot_area_initrd *initrd, struct fault *fault)
{
    if (!initrd->bytes)
        return 0;
    uint8_t *at = guest_memory_at(memory, initrd->address, initrd->bytes);
    assert(at);
    int r = boot_file_read(fd, at, initrd->bytes, 0, "the initrd", fault);
    if (r == 0)
        guest_memory_mark_written(memory, initrd->address, initrd->bytes);
    return r;
}

int boot_area_check_initrd(const struct boot_area_initrd *initrd, uint64_t address, uint64_t bytes,
                           struct fault *fault)
{
    if (!initrd->bytes || !boot_area_ranges_overlap(initrd->address, initrd->bytes, address, bytes))
        return 0;
    return fault_set(fault, ERR_INVALID,
                     "kernel and initrd (%llu bytes) do not fit the guest's memory together",
                     (unsigned long long)initrd->bytes);
}

bool boot_area_ranges_overlap(uint64_t first_a, uint64_t count_a, uint64_t first_b,
                              uint64_t count_b)
{
    return first_a < first_b ? first_b - first_a < count_a : first_a - first_b < count_b;
}

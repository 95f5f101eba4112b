/* Loading a PVH kernel: an ELF file that names its 32-bit entry in a Xen note.
 *
 * Flow:   vm_boot -> [boot_pvh] -> guest_memory, vCPU 0's first registers
 * Thread: owner's.
 * Source: Xen docs/misc/pvh.pandoc, xen/include/public/arch-x86/hvm/start_info.h.
 *
 * The file is judged before a byte of it reaches guest memory: every offset against the file, every
 * address against RAM, no overlaps.
 */
#ifndef GODWIT_VMM_CORE_BOOT_PVH_H
#define GODWIT_VMM_CORE_BOOT_PVH_H

#include <stddef.h>
#include <stdint.h>

struct fault;
struct guest_memory;

enum { BOOT_PVH_SEGMENTS_MAX = 64, BOOT_PVH_NOTES_BYTES_MAX = 64 << 10 };

struct boot_pvh_segment {
    uint64_t file_offset, file_bytes;
    uint64_t address, memory_bytes; /* guest-physical */
};

/* A kernel file as it will lie in memory. */
struct boot_pvh_image {
    uint32_t entry;
    unsigned segment_count;
    struct boot_pvh_segment segments[BOOT_PVH_SEGMENTS_MAX];
};

/* Judge the file behind `fd`. ERR_INVALID with the reason for a file that is no PVH kernel. */
int boot_pvh_parse(struct boot_pvh_image *ret_image, int fd, const struct guest_memory *memory,
                   struct fault *fault);

/* Load kernel, initrd (fd or -1) and command line; *ret_entry and *ret_start_info go into vCPU 0's
 * EIP and EBX. */
int boot_pvh_load(struct guest_memory *memory, int kernel_fd, int initrd_fd, const char *cmdline,
                  uint32_t *ret_entry, uint32_t *ret_start_info, struct fault *fault);

#endif

/* Loading a Linux bzImage by the 64-bit boot protocol: what distributions ship as /boot/vmlinuz.
 *
 * Flow:   vm_boot -> [boot_bzimage] -> guest_memory, vCPU 0's first registers
 * Thread: owner's.
 * Source: Linux Documentation/arch/x86/boot.rst and zero-page.rst.
 *
 * The file is judged before a byte of it reaches guest memory. The real-mode part is not run: its
 * setup header is copied into a zero page that says what firmware would have found.
 */
#ifndef GODWIT_VMM_CORE_BOOT_BZIMAGE_H
#define GODWIT_VMM_CORE_BOOT_BZIMAGE_H

#include <stdbool.h>
#include <stdint.h>

struct fault;
struct guest_memory;

enum {
    BOOT_BZIMAGE_HEADER = 0x1f1,      /* where the setup header begins, in file and zero page */
    BOOT_BZIMAGE_HEADER_MAX = 0x290,  /* where the zero page has other things again */
    BOOT_BZIMAGE_READ_BYTES = 0x1000, /* enough of a file to judge its header */
};

/* A kernel file as it will lie in memory. */
struct boot_bzimage {
    uint64_t code_offset, code_bytes; /* of the file: what goes to `address` */
    uint64_t address;                 /* guest-physical */
    uint64_t room_bytes;              /* what the kernel needs from there on until it has a map */
    uint64_t initrd_end;              /* an initrd must end before this address */
    uint64_t cmdline_bytes_max;
    uint32_t header_bytes;
    uint8_t header[BOOT_BZIMAGE_HEADER_MAX - BOOT_BZIMAGE_HEADER];
};

/* Does a file that begins with these bytes claim to be one? */
bool boot_bzimage_is(const uint8_t *bytes, uint64_t count);

/* Judge the file behind `fd`. ERR_INVALID with the reason. */
int boot_bzimage_parse(struct boot_bzimage *ret_image, int fd, const struct guest_memory *memory,
                       struct fault *fault);

/* Load kernel, initrd (fd or -1), command line, zero page, page tables and descriptor table.
 * *ret_entry goes into vCPU 0's RIP, BOOT_AREA_ZERO_PAGE into RSI, BOOT_AREA_PAGE_TABLES into
 * CR3. */
int boot_bzimage_load(struct guest_memory *memory, int kernel_fd, int initrd_fd,
                      const char *cmdline, uint64_t *ret_entry, struct fault *fault);

#endif

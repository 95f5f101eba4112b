/* What a guest was booted from, kept for when it resets itself, also after a move: the kernel and
 * the initrd travel with it as a region of their own.
 *
 * Flow:   VM_CREATE's descriptors -> [boot_files] -> region "boot" -> [boot_files] -> vm_boot
 * Thread: the loop's; the region's calls on a move's threads, as migrate/region.h says.
 *
 * Where a VM was started the files stay behind their descriptors, and are read into memory when it
 * first moves. Where it came to they are that memory, and nothing else: another host may have another
 * file of the same name, or none. A command line is part of the spec.
 */
#ifndef GODWIT_AGENT_VM_BOOT_FILES_H
#define GODWIT_AGENT_VM_BOOT_FILES_H

#include <stddef.h>

struct boot_files;
struct fault;
struct region;

/* Takes the descriptors when it returns 0; -1 for none, as for a VM that comes by a move. */
int boot_files_new(struct boot_files **ret_files, int kernel_fd, int initrd_fd,
                   struct fault *fault);
struct boot_files *boot_files_free(struct boot_files *files);

/* Fill in the region of a move: `files` must outlive it. */
void boot_files_region(struct boot_files *files, unsigned id, struct region *ret_region);

/* Lends both for a boot; the initrd may be -1. Not during a move. ERR_NOT_FOUND: this VM came by a
 * move that brought none. */
int boot_files_get(struct boot_files *files, int *ret_kernel_fd, int *ret_initrd_fd,
                   struct fault *fault);

#endif

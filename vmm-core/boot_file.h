/* Reading a kernel or initrd file that anybody may have written.
 *
 * Flow:   descriptor -> [boot_file] -> boot_pvh, boot_bzimage
 * Thread: owner's.
 */
#ifndef GODWIT_VMM_CORE_BOOT_FILE_H
#define GODWIT_VMM_CORE_BOOT_FILE_H

#include <stdint.h>

struct fault;

/* ERR_INVALID for what is no regular file. `what` is for people: "the kernel". */
int boot_file_size(int fd, const char *what, uint64_t *ret_bytes, struct fault *fault);

/* The whole range must lie in the file: a short read is a file that shrank meanwhile. */
int boot_file_read(int fd, void *at, uint64_t count, uint64_t offset, const char *what,
                   struct fault *fault);

#endif

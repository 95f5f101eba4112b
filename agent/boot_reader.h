/* What a VM's first disk would boot, found out by godwit-boot-reader in a process of its own.
 *
 * Flow:   orders -> [boot_reader] -> godwit-boot-reader -> kernel and initrd in memory
 * Thread: any; blocking, for a worker.
 */
#ifndef GODWIT_AGENT_BOOT_READER_H
#define GODWIT_AGENT_BOOT_READER_H

struct fault;

enum { BOOT_READER_OPTIONS_SIZE = 4096, BOOT_READER_MS_MAX = 20000 };

/* `disk_fd` is only read. Gives open descriptors (*ret_initrd_fd -1: it has none) and the command
 * line of the guest's own entry. */
int boot_reader_run(const char *program, int disk_fd, int *ret_kernel_fd, int *ret_initrd_fd,
                    char ret_options[static BOOT_READER_OPTIONS_SIZE], struct fault *fault);

#endif

/* The kernel, initrd and command line that a disk would boot: partitions, file systems, entries.
 *
 * Flow:   agent/boot -> [boot_disk] -> partition, ext4, boot_entry
 * Thread: any; pure but for the function that reads the disk.
 *
 * The first file system that has an entry wins. A separate /boot and one inside the root are both
 * looked for; /boot on FAT is not.
 */
#ifndef GODWIT_STORAGE_BOOT_DISK_H
#define GODWIT_STORAGE_BOOT_DISK_H

#include "storage/boot_entry.h"
#include "storage/ext4.h"

struct boot_disk {
    struct ext4 fs; /* that the entry was found in */
    struct boot_entry entry;
    struct ext4_inode kernel, initrds[BOOT_ENTRY_INITRDS_MAX];
};

/* ERR_NOT_FOUND: nothing on it that we know how to boot; the words say what was looked at. */
int boot_disk_open(struct boot_disk *ret_disk, ext4_read_fn *read, void *data, uint64_t bytes,
                   struct fault *fault);

#endif

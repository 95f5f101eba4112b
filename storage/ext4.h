/* Files of an ext2, ext3 or ext4 file system, read only, nothing believed.
 *
 * Flow:   agent/boot -> [ext4] -> a disk, through a function that reads bytes
 * Thread: any; pure but for that function.
 *
 * A guest wrote every byte of it. Whatever a field says is held against the size of the disk and
 * against limits before it is followed; loops of links, of extents and of directories end by count.
 * A journal that was not replayed is not replayed here either: /boot changes seldom, and what it
 * says is judged again by who boots it.
 */
#ifndef GODWIT_STORAGE_EXT4_H
#define GODWIT_STORAGE_EXT4_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct fault;

enum { EXT4_NAME_MAX = 255, EXT4_FILE_MAX = 512 << 20, EXT4_BLOCK_BYTES_MAX = 65536 };

/* Bytes of the disk; 0 or a negative ERR_*. Never asked beyond the size that ext4_open was told. */
typedef int ext4_read_fn(void *data, uint64_t offset, void *ret_bytes, size_t count,
                         struct fault *fault);

struct ext4 { /* of the caller; nothing to free */
    ext4_read_fn *read;
    void *data;
    uint64_t offset, bytes; /* of the partition on the disk */
    uint32_t block_bytes, blocks_per_group, inodes_per_group, inodes, descriptor_bytes, inode_bytes;
    uint64_t blocks, groups;
    uint32_t first_block;
    unsigned steps; /* blocks looked at so far; bounded */
};

struct ext4_inode {
    uint32_t number;
    uint16_t mode;
    uint32_t flags;
    uint64_t bytes;
    uint8_t map[60];
};

/* ERR_NOT_FOUND: there is no such file system; ERR_UNSUPPORTED: it has a feature we do not read. */
int ext4_open(struct ext4 *ret_fs, ext4_read_fn *read, void *data, uint64_t offset, uint64_t bytes,
              struct fault *fault);
/* "/boot/vmlinuz"; links are followed within the file system. ERR_NOT_FOUND. */
int ext4_find(struct ext4 *fs, const char *path, struct ext4_inode *ret_inode, struct fault *fault);
bool ext4_is_folder(const struct ext4_inode *inode);
bool ext4_is_file(const struct ext4_inode *inode);
/* Each name of a folder, until `entry` returns false. */
int ext4_list(struct ext4 *fs, const struct ext4_inode *folder,
              bool (*entry)(void *data, const char *name), void *data, struct fault *fault);
/* `count` bytes at `at` of a file, which are there. */
int ext4_read(struct ext4 *fs, const struct ext4_inode *file, uint64_t at, uint8_t *ret_bytes,
              size_t count, struct fault *fault);

#endif

#include "storage/boot_disk.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/own.h"
#include "storage/partition.h"

enum { TEXT_MAX = 1 << 20, PATH_SIZE = 1024 };

static const char *const folders[] = {"/boot", ""}; /* inside the root, or a partition of its own */

/* A small text file; ERR_NOT_FOUND when it is not there. */
static int read_text(struct ext4 *fs, const char *folder, const char *name, char **ret_text,
                     size_t *ret_count, struct fault *fault)
{
    char path[PATH_SIZE];
    struct ext4_inode inode;

    (void)snprintf(path, sizeof path, "%.64s/%.800s", folder, name);
    int r = ext4_find(fs, path, &inode, fault);
    if (r < 0)
        return r;
    if (!ext4_is_file(&inode) || inode.bytes > TEXT_MAX)
        return fault_set(fault, ERR_NOT_FOUND, "%.200s is no text file", path);
    AUTO_FREE char *text = malloc(inode.bytes + 1);
    if (!text)
        return fault_set(fault, ERR_NOMEM, "no memory to read %.200s", path);
    r = ext4_read(fs, &inode, 0, (uint8_t *)text, inode.bytes, fault);
    if (r < 0)
        return r;
    *ret_count = inode.bytes;
    *ret_text = TAKE(text);
    return 0;
}

static void read_environment(struct ext4 *fs, const char *folder,
                             struct boot_environment *ret_environment)
{
    static const char *const names[] = {"grub/grubenv", "grub2/grubenv"};
    struct fault ignored = {0};

    *ret_environment = (struct boot_environment){0};
    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        AUTO_FREE char *text = NULL;
        size_t count;
        if (read_text(fs, folder, names[i], &text, &count, &ignored) == 0) {
            boot_environment_parse(text, count, ret_environment);
            return;
        }
    }
}

struct best { /* of the BLS files */
    const struct boot_environment *environment;
    char name[EXT4_NAME_MAX + 1];
};

static bool consider(void *data, const char *name)
{
    struct best *best = data;
    size_t count = strlen(name);

    if (count > 5 && strcmp(name + count - 5, ".conf") == 0 &&
        (!best->name[0] || boot_entry_is_better(name, best->name, best->environment)))
        (void)snprintf(best->name, sizeof best->name, "%s", name);
    return true;
}

static int read_bls(struct ext4 *fs, const char *folder, const struct boot_environment *environment,
                    struct boot_entry *ret_entry, struct fault *fault)
{
    static const char entries[] = "loader/entries";
    char path[PATH_SIZE];
    struct ext4_inode inode;
    struct best best = {.environment = environment};
    AUTO_FREE char *text = NULL;
    size_t count;

    (void)snprintf(path, sizeof path, "%s/%s", folder, entries);
    int r = ext4_find(fs, path, &inode, fault);
    if (r == 0 && !ext4_is_folder(&inode))
        r = fault_set(fault, ERR_NOT_FOUND, "%s is no folder", path);
    if (r == 0)
        r = ext4_list(fs, &inode, consider, &best, fault);
    if (r == 0 && !best.name[0])
        r = fault_set(fault, ERR_NOT_FOUND, "%s is empty", path);
    if (r < 0)
        return r;
    (void)snprintf(path, sizeof path, "%s/%s", entries, best.name);
    r = read_text(fs, folder, path, &text, &count, fault);
    return r < 0 ? r : boot_entry_parse_bls(text, count, environment, ret_entry, fault);
}

static int read_grub(struct ext4 *fs, const char *folder,
                     const struct boot_environment *environment, struct boot_entry *ret_entry,
                     struct fault *fault)
{
    static const char *const names[] = {"grub/grub.cfg", "grub2/grub.cfg"};
    int r = ERR_NOT_FOUND;

    for (size_t i = 0; i < ARRAY_COUNT(names) && r == ERR_NOT_FOUND; i++) {
        AUTO_FREE char *text = NULL;
        size_t count;
        r = read_text(fs, folder, names[i], &text, &count, fault);
        if (r == 0)
            r = boot_entry_parse_grub(text, count, environment, ret_entry, fault);
    }
    return r;
}

/* Entries name files from the root of their partition, or from the root of the guest. */
static int find_file(struct ext4 *fs, const char *folder, const char *path,
                     struct ext4_inode *ret_inode, struct fault *fault)
{
    char joined[PATH_SIZE];
    int r = ext4_find(fs, path, ret_inode, fault);

    if (r == ERR_NOT_FOUND) {
        (void)snprintf(joined, sizeof joined, "%s/%s", folder, path);
        r = ext4_find(fs, joined, ret_inode, fault);
    }
    if (r == ERR_NOT_FOUND && strncmp(path, "/boot/", 6) == 0)
        r = ext4_find(fs, path + 5, ret_inode, fault);
    if (r == 0 && (!ext4_is_file(ret_inode) || ret_inode->bytes == 0 ||
                   ret_inode->bytes > EXT4_FILE_MAX))
        r = fault_set(fault, ERR_NOT_FOUND, "%.200s is no file that can be booted", path);
    return r;
}

static int read_folder(struct boot_disk *disk, const char *folder, struct fault *fault)
{
    struct boot_environment environment;
    struct ext4 *fs = &disk->fs;

    read_environment(fs, folder, &environment);
    int r = read_bls(fs, folder, &environment, &disk->entry, fault);
    if (r == ERR_NOT_FOUND)
        r = read_grub(fs, folder, &environment, &disk->entry, fault);
    if (r == 0)
        r = find_file(fs, folder, disk->entry.kernel, &disk->kernel, fault);
    for (unsigned i = 0; r == 0 && i < disk->entry.initrd_count; i++)
        r = find_file(fs, folder, disk->entry.initrds[i], &disk->initrds[i], fault);
    return r;
}

int boot_disk_open(struct boot_disk *ret_disk, ext4_read_fn *read, void *data, uint64_t bytes,
                   struct fault *fault)
{
    uint8_t head[PARTITION_HEAD_BYTES];
    struct partition partitions[PARTITION_MAX];
    size_t head_count = bytes < sizeof head ? (size_t)bytes : sizeof head;
    unsigned systems = 0;
    int worst = 0;

    int r = read(data, 0, head, head_count, fault);
    if (r < 0)
        return r;
    size_t count = partition_read(head, head_count, bytes, partitions);
    for (size_t i = 0; i < count; i++) {
        struct ext4 fs;
        struct fault why = {0};
        r = ext4_open(&fs, read, data, partitions[i].offset, partitions[i].bytes, &why);
        systems += r == 0;
        for (size_t n = 0; r == 0 && n < ARRAY_COUNT(folders); n++) {
            ret_disk->fs = fs;
            r = read_folder(ret_disk, folders[n], &why);
            if (r == 0)
                return 0;
            if (r == ERR_NOT_FOUND && n + 1 < ARRAY_COUNT(folders))
                r = 0;
        }
        if (r != ERR_NOT_FOUND && worst == 0) { /* the first reason that says something */
            worst = r;
            *fault = why;
        }
    }
    if (worst < 0)
        return worst;
    return fault_set(fault, ERR_NOT_FOUND,
                     "nothing to boot: %zu partitions, %u of them ext4, no loader entry and no "
                     "grub.cfg in /boot",
                     count, systems);
}

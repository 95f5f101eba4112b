#include "storage/ext4.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"

enum {
    SUPER_AT = 1024,
    SUPER_BYTES = 1024,
    MAGIC = 0xef53,
    ROOT = 2,
    MODE_KIND = 0xf000,
    MODE_FOLDER = 0x4000,
    MODE_FILE = 0x8000,
    MODE_LINK = 0xa000,
    FLAG_ENCRYPTED = 0x800,
    FLAG_EXTENTS = 0x80000,
    FLAG_INLINE = 0x10000000,
    EXTENT_MAGIC = 0xf30a,
    EXTENT_DEPTH_MAX = 5,
    EXTENT_BYTES = 12,
    EXTENT_LEN_MAX = 32768, /* above it: reserved, not written */
    FEATURE_64BIT = 0x80,
    /* file types, unreplayed journal, extents, 64 bit, MMP, flexible groups, EA inodes, checksum
     * seed, large folders, inline data (of other files) */
    FEATURES_READ = 0x2 | 0x4 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x2000 | 0x4000 | 0x8000,
    LINKS_MAX = 8,
    PATH_SIZE = 1024,
    FOLDER_BLOCKS_MAX = 4096,
    STEPS_MAX = 1 << 20, /* blocks looked at in one life: 4 GiB of 4 KiB blocks */
};

static int corrupt(struct fault *fault, const char *what)
{
    return fault_set(fault, ERR_CORRUPT, "the file system is damaged: %s", what);
}

static int read_at(struct ext4 *fs, uint64_t at, void *bytes, size_t count, struct fault *fault)
{
    if (at > fs->bytes || count > fs->bytes - at)
        return corrupt(fault, "something lies beyond its end");
    if (++fs->steps > STEPS_MAX)
        return corrupt(fault, "it never comes to an end");
    return fs->read(fs->data, fs->offset + at, bytes, count, fault);
}

static int read_block(struct ext4 *fs, uint64_t block, uint32_t at, void *bytes, size_t count,
                      struct fault *fault)
{
    assert(at + count <= fs->block_bytes);
    if (block == 0 || block >= fs->blocks)
        return corrupt(fault, "a block that is not there");
    return read_at(fs, block * fs->block_bytes + at, bytes, count, fault);
}

/* ---- opening ---- */
int ext4_open(struct ext4 *ret_fs, ext4_read_fn *read, void *data, uint64_t offset, uint64_t bytes,
              struct fault *fault)
{
    uint8_t super[SUPER_BYTES];
    struct ext4 fs = {.read = read, .data = data, .offset = offset, .bytes = bytes};

    if (bytes < SUPER_AT + SUPER_BYTES)
        return fault_set(fault, ERR_NOT_FOUND, "too small for a file system");
    int r = read_at(&fs, SUPER_AT, super, sizeof super, fault);
    if (r < 0)
        return r;
    if (bytes_get_u16(super + 0x38) != MAGIC)
        return fault_set(fault, ERR_NOT_FOUND, "no ext4 file system");
    bool is_new = bytes_get_u32(super + 0x4c) >= 1;
    uint32_t features = is_new ? bytes_get_u32(super + 0x60) : 0;
    if (features & ~(uint32_t)FEATURES_READ)
        return fault_set(fault, ERR_UNSUPPORTED, "an ext4 file system with features %#x, read are %#x",
                         features, FEATURES_READ);
    uint32_t log_block = bytes_get_u32(super + 0x18);
    if (log_block > 6)
        return corrupt(fault, "the size of its blocks");
    fs.block_bytes = 1024u << log_block;
    fs.inodes = bytes_get_u32(super);
    fs.first_block = bytes_get_u32(super + 0x14);
    fs.blocks_per_group = bytes_get_u32(super + 0x20);
    fs.inodes_per_group = bytes_get_u32(super + 0x28);
    fs.inode_bytes = is_new ? bytes_get_u16(super + 0x58) : 128;
    fs.blocks = bytes_get_u32(super + 0x4);
    fs.descriptor_bytes = 32;
    if (features & FEATURE_64BIT) {
        fs.blocks |= (uint64_t)bytes_get_u32(super + 0x150) << 32;
        fs.descriptor_bytes = bytes_get_u16(super + 0xfe);
    }
    if (fs.blocks == 0 || fs.blocks > bytes / fs.block_bytes || fs.first_block >= fs.blocks ||
        fs.blocks_per_group == 0 || fs.inodes_per_group == 0 || fs.inode_bytes < 128 ||
        fs.inode_bytes > fs.block_bytes || fs.descriptor_bytes < 32 || fs.descriptor_bytes > 1024 ||
        ((features & FEATURE_64BIT) && fs.descriptor_bytes < 64))
        return corrupt(fault, "its first block");
    fs.groups = (fs.blocks - fs.first_block + fs.blocks_per_group - 1) / fs.blocks_per_group;
    *ret_fs = fs;
    return 0;
}

static int read_inode(struct ext4 *fs, uint32_t number, struct ext4_inode *ret_inode,
                      struct fault *fault)
{
    uint8_t descriptor[64], bytes[128];
    struct ext4_inode inode = {.number = number};

    if (number == 0 || number > fs->inodes)
        return corrupt(fault, "a file that is not there");
    uint64_t group = (number - 1) / fs->inodes_per_group;
    uint64_t index = (number - 1) % fs->inodes_per_group;
    if (group >= fs->groups)
        return corrupt(fault, "a group that is not there");
    size_t used = fs->descriptor_bytes < 64 ? 32 : 64;
    int r = read_at(fs,
                    ((uint64_t)fs->first_block + 1) * fs->block_bytes + group * fs->descriptor_bytes,
                    descriptor, used, fault);
    if (r < 0)
        return r;
    uint64_t table = bytes_get_u32(descriptor + 8);
    if (used == 64)
        table |= (uint64_t)bytes_get_u32(descriptor + 0x28) << 32;
    if (table == 0 || table >= fs->blocks)
        return corrupt(fault, "a table that is not there");
    r = read_at(fs, table * fs->block_bytes + index * fs->inode_bytes, bytes, sizeof bytes, fault);
    if (r < 0)
        return r;
    inode.mode = bytes_get_u16(bytes);
    inode.flags = bytes_get_u32(bytes + 0x20);
    inode.bytes = bytes_get_u32(bytes + 4) | (uint64_t)bytes_get_u32(bytes + 0x6c) << 32;
    memcpy(inode.map, bytes + 0x28, sizeof inode.map);
    *ret_inode = inode;
    return 0;
}

bool ext4_is_folder(const struct ext4_inode *inode)
{
    return (inode->mode & MODE_KIND) == MODE_FOLDER;
}

bool ext4_is_file(const struct ext4_inode *inode)
{
    return (inode->mode & MODE_KIND) == MODE_FILE;
}

/* ---- where a block of a file is ---- */
/* *ret_block 0: a hole, which reads as zeros. */
static int map_extents(struct ext4 *fs, const struct ext4_inode *inode, uint64_t wanted,
                       uint64_t *ret_block, struct fault *fault)
{
    uint8_t node[EXT4_BLOCK_BYTES_MAX];
    size_t room = sizeof inode->map;

    *ret_block = 0;
    memcpy(node, inode->map, room);
    for (int level = 0; level <= EXTENT_DEPTH_MAX; level++) {
        unsigned entries = bytes_get_u16(node + 2), depth = bytes_get_u16(node + 6);
        const uint8_t *chosen = NULL;
        if (bytes_get_u16(node) != EXTENT_MAGIC || entries > room / EXTENT_BYTES - 1)
            return corrupt(fault, "the map of a file");
        for (unsigned i = 0; i < entries; i++) { /* sorted, or what follows is judged anyway */
            const uint8_t *at = node + (size_t)(i + 1) * EXTENT_BYTES;
            if (bytes_get_u32(at) <= wanted)
                chosen = at;
        }
        if (!chosen)
            return 0;
        if (depth == 0) {
            unsigned length = bytes_get_u16(chosen + 4);
            uint64_t into = wanted - bytes_get_u32(chosen);
            if (length <= EXTENT_LEN_MAX && into < length)
                *ret_block = (bytes_get_u32(chosen + 8) |
                              (uint64_t)bytes_get_u16(chosen + 6) << 32) +
                             into;
            return 0;
        }
        uint64_t next = bytes_get_u32(chosen + 4) | (uint64_t)bytes_get_u16(chosen + 8) << 32;
        room = fs->block_bytes;
        int r = read_block(fs, next, 0, node, room, fault);
        if (r < 0)
            return r;
    }
    return corrupt(fault, "the map of a file is too deep");
}

/* ext2's and ext3's: twelve blocks, then tables of tables. */
static int map_tables(struct ext4 *fs, const struct ext4_inode *inode, uint64_t wanted,
                      uint64_t *ret_block, struct fault *fault)
{
    uint64_t in_table = fs->block_bytes / 4, span = 1;
    unsigned level = 0;
    uint8_t entry[4];

    if (wanted < 12) {
        *ret_block = bytes_get_u32(inode->map + 4 * wanted);
        return 0;
    }
    wanted -= 12;
    for (level = 1; level <= 3; level++) {
        span *= in_table;
        if (wanted < span)
            break;
        wanted -= span;
    }
    if (level > 3)
        return corrupt(fault, "a file is longer than it can be");
    uint64_t block = bytes_get_u32(inode->map + 4 * (11 + level));
    while (block != 0 && level-- > 0) {
        span /= in_table;
        int r = read_block(fs, block, (uint32_t)(wanted / span * 4), entry, sizeof entry, fault);
        if (r < 0)
            return r;
        block = bytes_get_u32(entry);
        wanted %= span;
    }
    *ret_block = block;
    return 0;
}

int ext4_read(struct ext4 *fs, const struct ext4_inode *file, uint64_t at, uint8_t *ret_bytes,
              size_t count, struct fault *fault)
{
    assert(at <= file->bytes && count <= file->bytes - at);
    if (file->flags & (FLAG_INLINE | FLAG_ENCRYPTED))
        return fault_set(fault, ERR_UNSUPPORTED, "a file that is encrypted or kept in its inode");
    while (count > 0) {
        uint64_t block = 0, number = at / fs->block_bytes;
        uint32_t into = (uint32_t)(at % fs->block_bytes);
        size_t part = fs->block_bytes - into;
        part = part < count ? part : count;
        int r = file->flags & FLAG_EXTENTS ? map_extents(fs, file, number, &block, fault)
                                           : map_tables(fs, file, number, &block, fault);
        if (r == 0 && block)
            r = read_block(fs, block, into, ret_bytes, part, fault);
        else if (r == 0)
            memset(ret_bytes, 0, part);
        if (r < 0)
            return r;
        if (!block && ++fs->steps > STEPS_MAX)
            return corrupt(fault, "it never comes to an end");
        at += part;
        ret_bytes += part;
        count -= part;
    }
    return 0;
}

/* ---- folders and paths ---- */
/* Each entry, until `entry` returns false. */
static int walk_folder(struct ext4 *fs, const struct ext4_inode *folder,
                       bool (*entry)(void *data, const char *name, uint32_t number), void *data,
                       struct fault *fault)
{
    uint8_t block[EXT4_BLOCK_BYTES_MAX];
    char name[EXT4_NAME_MAX + 1];
    uint64_t blocks = folder->bytes / fs->block_bytes;

    if (blocks > FOLDER_BLOCKS_MAX)
        return corrupt(fault, "a folder is too long");
    for (uint64_t i = 0; i < blocks; i++) {
        int r = ext4_read(fs, folder, i * fs->block_bytes, block, fs->block_bytes, fault);
        if (r < 0)
            return r;
        for (uint32_t at = 0; at + 8 <= fs->block_bytes;) {
            uint32_t number = bytes_get_u32(block + at), room = bytes_get_u16(block + at + 4);
            uint32_t length = block[at + 6];
            if (room == 0 || (room == 0xffff && fs->block_bytes == EXT4_BLOCK_BYTES_MAX))
                room = fs->block_bytes - at; /* how 64 KiB are written */
            if (room < 8 || room > fs->block_bytes - at || length > room - 8)
                return corrupt(fault, "an entry of a folder");
            memcpy(name, block + at + 8, length);
            name[length] = '\0';
            if (number != 0 && length > 0 && !memchr(name, '\0', length) && !entry(data, name, number))
                return 0;
            at += room;
        }
    }
    return 0;
}

struct search {
    const char *name;
    uint32_t found;
};

static bool match(void *data, const char *name, uint32_t number)
{
    struct search *search = data;

    if (strcmp(search->name, name) == 0)
        search->found = number;
    return search->found == 0;
}

struct listing {
    bool (*entry)(void *data, const char *name);
    void *data;
};

static bool pass_on(void *data, const char *name, uint32_t number)
{
    const struct listing *listing = data;
    (void)number;
    return listing->entry(listing->data, name);
}

int ext4_list(struct ext4 *fs, const struct ext4_inode *folder,
              bool (*entry)(void *data, const char *name), void *data, struct fault *fault)
{
    struct listing listing = {.entry = entry, .data = data};

    assert(ext4_is_folder(folder));
    return walk_folder(fs, folder, pass_on, &listing, fault);
}

static int read_link(struct ext4 *fs, const struct ext4_inode *link,
                     char ret_text[static PATH_SIZE], struct fault *fault)
{
    if (link->bytes == 0 || link->bytes >= PATH_SIZE)
        return corrupt(fault, "a link");
    if (link->bytes < sizeof link->map && !(link->flags & FLAG_EXTENTS)) {
        memcpy(ret_text, link->map, link->bytes);
    } else {
        int r = ext4_read(fs, link, 0, (uint8_t *)ret_text, link->bytes, fault);
        if (r < 0)
            return r;
    }
    ret_text[link->bytes] = '\0';
    return 0;
}

/* Put a link's text in front of what is left of the path. */
static int splice(char path[static PATH_SIZE], const char *link, const char *rest,
                  struct fault *fault)
{
    char joined[PATH_SIZE];
    size_t link_count = strlen(link), rest_count = strlen(rest);

    if (link_count + 1 + rest_count >= PATH_SIZE)
        return corrupt(fault, "a link that is too long");
    memcpy(joined, link, link_count);
    joined[link_count] = '/';
    memcpy(joined + link_count + 1, rest, rest_count + 1);
    memcpy(path, joined, link_count + 1 + rest_count + 1);
    return 0;
}

int ext4_find(struct ext4 *fs, const char *path, struct ext4_inode *ret_inode, struct fault *fault)
{
    char left[PATH_SIZE], name[EXT4_NAME_MAX + 1], link[PATH_SIZE];
    struct ext4_inode folder, inode;
    unsigned links = 0;
    const char *at = left;

    if (strlen(path) >= sizeof left)
        return fault_set(fault, ERR_NOT_FOUND, "a path that is too long");
    memcpy(left, path, strlen(path) + 1);
    int r = read_inode(fs, ROOT, &inode, fault);
    folder = inode;
    while (r == 0) {
        at += strspn(at, "/");
        if (!*at) {
            *ret_inode = inode;
            return 0;
        }
        size_t length = strcspn(at, "/");
        if (length > EXT4_NAME_MAX || !ext4_is_folder(&inode))
            return fault_set(fault, ERR_NOT_FOUND, "there is no %.200s", path);
        memcpy(name, at, length);
        name[length] = '\0';
        at += length;
        struct search search = {.name = name};
        folder = inode;
        r = walk_folder(fs, &folder, match, &search, fault);
        if (r == 0 && !search.found)
            return fault_set(fault, ERR_NOT_FOUND, "there is no %.200s", path);
        if (r == 0)
            r = read_inode(fs, search.found, &inode, fault);
        if (r < 0 || (inode.mode & MODE_KIND) != MODE_LINK)
            continue;
        if (++links > LINKS_MAX)
            return corrupt(fault, "links lead in a circle");
        r = read_link(fs, &inode, link, fault);
        if (r == 0)
            r = splice(left, link, at, fault);
        at = left;
        if (r == 0 && link[0] == '/')
            r = read_inode(fs, ROOT, &inode, fault);
        else
            inode = folder;
    }
    return r;
}

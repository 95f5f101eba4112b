/* What the guest finds in low memory:
 *
 *   0x90000 start_info   0x90100 module list   0x90200 memory map   0x91000 command line
 *
 * High in the first 640 KiB, where kernels seldom put the trampolines of their other processors.
 */
#include "vmm-core/boot_pvh.h"

#include <assert.h>
#include <elf.h>
#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/own.h"
#include "proto/limits.h"
#include "vmm-core/guest_memory.h"

enum {
    AREA_FIRST = 0x90000,
    START_INFO = AREA_FIRST,
    START_INFO_BYTES = 56,
    MODULE_LIST = 0x90100,
    MODULE_BYTES = 32,
    MEMORY_MAP = 0x90200,
    MEMORY_MAP_ENTRY_BYTES = 24,
    COMMAND_LINE = 0x91000,
    AREA_END = COMMAND_LINE + CMDLINE_MAX + 1,

    START_INFO_MAGIC = 0x336ec578,
    START_INFO_VERSION = 1,
    NOTE_PHYS32_ENTRY = 18,

    LOW_RAM_END = 0x9fc00,
    HIGH_RAM_START = 0x100000,
    MAP_RAM = 1,
    MAP_RESERVED = 2,
};

static_assert(AREA_END <= LOW_RAM_END, "boot data lies in what the map calls RAM");
static_assert(GUEST_MEMORY_BYTES_MIN > AREA_END, "the smallest guest has the boot area");

/* A program header of either class, widened. */
struct program_header {
    uint32_t type;
    uint64_t offset, address, file_bytes, memory_bytes, align;
};

struct elf_file {
    int fd;
    uint64_t bytes;
    bool is_64;
    uint64_t headers_offset;
    unsigned header_count;
};

/* The whole range must lie in the file: a short read is a file that shrank meanwhile. */
static int read_exactly(int fd, void *at, uint64_t count, uint64_t offset, const char *what,
                        struct fault *fault)
{
    uint8_t *next = at;
    while (count > 0) {
        size_t chunk = count < MIB(64) ? (size_t)count : (size_t)MIB(64);
        ssize_t got = pread(fd, next, chunk, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return fault_set_errno(fault, ERR_IO, errno, "reading %s", what);
        if (got == 0)
            return fault_set(fault, ERR_INVALID, "%s ends before its time", what);
        next += got;
        offset += (uint64_t)got;
        count -= (uint64_t)got;
    }
    return 0;
}

static int file_size(int fd, const char *what, uint64_t *ret_bytes, struct fault *fault)
{
    struct stat stat;
    if (fstat(fd, &stat) < 0)
        return fault_set_errno(fault, ERR_IO, errno, "asking for the size of %s", what);
    if (!S_ISREG(stat.st_mode))
        return fault_set(fault, ERR_INVALID, "%s is not a regular file", what);
    *ret_bytes = (uint64_t)stat.st_size;
    return 0;
}

static int read_header(struct elf_file *ret_file, int fd, struct fault *fault)
{
    struct elf_file file = {.fd = fd};
    int r = file_size(fd, "the kernel", &file.bytes, fault);
    if (r < 0)
        return r;

    union {
        unsigned char ident[EI_NIDENT];
        Elf32_Ehdr narrow;
        Elf64_Ehdr wide;
    } header = {{0}};
    if (file.bytes < sizeof header.narrow)
        return fault_set(fault, ERR_INVALID, "the kernel is no ELF file: %llu bytes are too few",
                         (unsigned long long)file.bytes);
    size_t count = file.bytes < sizeof header ? (size_t)file.bytes : sizeof header;
    r = read_exactly(fd, &header, count, 0, "the kernel's ELF header", fault);
    if (r < 0)
        return r;
    if (memcmp(header.ident, ELFMAG, SELFMAG) != 0)
        return fault_set(fault, ERR_INVALID,
                         "the kernel is no ELF file (a bzImage must be unpacked to its vmlinux)");
    if (header.ident[EI_DATA] != ELFDATA2LSB)
        return fault_set(fault, ERR_INVALID, "the kernel is not little-endian");

    unsigned machine, entry_bytes, expected_bytes;
    if (header.ident[EI_CLASS] == ELFCLASS64 && count == sizeof header.wide) {
        file.is_64 = true;
        machine = header.wide.e_machine;
        file.headers_offset = header.wide.e_phoff;
        file.header_count = header.wide.e_phnum;
        entry_bytes = header.wide.e_phentsize;
        expected_bytes = sizeof(Elf64_Phdr);
    } else if (header.ident[EI_CLASS] == ELFCLASS32) {
        machine = header.narrow.e_machine;
        file.headers_offset = header.narrow.e_phoff;
        file.header_count = header.narrow.e_phnum;
        entry_bytes = header.narrow.e_phentsize;
        expected_bytes = sizeof(Elf32_Phdr);
    } else {
        return fault_set(fault, ERR_INVALID,
                         "the kernel is neither a 32-bit nor a 64-bit ELF file");
    }

    if (machine != EM_386 && machine != EM_X86_64)
        return fault_set(fault, ERR_INVALID, "the kernel is for ELF machine %u, not for x86",
                         machine);
    if (file.header_count == 0 || file.header_count > BOOT_PVH_SEGMENTS_MAX)
        return fault_set(fault, ERR_INVALID, "the kernel has %u program headers, 1 to %d are read",
                         file.header_count, BOOT_PVH_SEGMENTS_MAX);
    if (entry_bytes != expected_bytes)
        return fault_set(fault, ERR_INVALID, "the kernel's program headers are %u bytes, not %u",
                         entry_bytes, expected_bytes);
    if (!range_fits(file.headers_offset, (uint64_t)file.header_count * entry_bytes, file.bytes))
        return fault_set(fault, ERR_INVALID, "the kernel's program headers lie outside the file");
    *ret_file = file;
    return 0;
}

static int read_program_header(const struct elf_file *file, unsigned index,
                               struct program_header *ret_header, struct fault *fault)
{
    int r;
    if (file->is_64) {
        Elf64_Phdr wide;
        r = read_exactly(file->fd, &wide, sizeof wide, file->headers_offset + index * sizeof wide,
                         "the kernel's program headers", fault);
        if (r == 0)
            *ret_header = (struct program_header){wide.p_type,   wide.p_offset, wide.p_paddr,
                                                  wide.p_filesz, wide.p_memsz,  wide.p_align};
        return r;
    }
    Elf32_Phdr narrow;
    r = read_exactly(file->fd, &narrow, sizeof narrow, file->headers_offset + index * sizeof narrow,
                     "the kernel's program headers", fault);
    if (r == 0)
        *ret_header = (struct program_header){narrow.p_type,   narrow.p_offset, narrow.p_paddr,
                                              narrow.p_filesz, narrow.p_memsz,  narrow.p_align};
    return r;
}

static bool ranges_overlap(uint64_t first_a, uint64_t count_a, uint64_t first_b, uint64_t count_b)
{
    return first_a < first_b ? first_b - first_a < count_a : first_a - first_b < count_b;
}

static int take_segment(struct boot_pvh_image *image, const struct elf_file *file,
                        const struct program_header *header, const struct guest_memory *memory,
                        struct fault *fault)
{
    if (header->memory_bytes == 0)
        return 0;
    unsigned long long address = header->address;
    if (header->file_bytes > header->memory_bytes)
        return fault_set(fault, ERR_INVALID,
                         "the kernel's segment at %#llx is larger in the file "
                         "than in memory",
                         address);
    if (!range_fits(header->offset, header->file_bytes, file->bytes))
        return fault_set(fault, ERR_INVALID, "the kernel's segment at %#llx lies outside the file",
                         address);
    if (!guest_memory_at(memory, header->address, header->memory_bytes))
        return fault_set(fault, ERR_INVALID,
                         "the kernel's segment at %#llx (%llu bytes) does not "
                         "fit the guest's memory",
                         address, (unsigned long long)header->memory_bytes);
    if (ranges_overlap(header->address, header->memory_bytes, AREA_FIRST, AREA_END - AREA_FIRST))
        return fault_set(fault, ERR_INVALID,
                         "the kernel's segment at %#llx covers the boot data at "
                         "%#x",
                         address, AREA_FIRST);
    for (unsigned i = 0; i < image->segment_count; i++) {
        if (ranges_overlap(header->address, header->memory_bytes, image->segments[i].address,
                           image->segments[i].memory_bytes))
            return fault_set(fault, ERR_INVALID, "the kernel's segments at %#llx and %#llx overlap",
                             (unsigned long long)image->segments[i].address, address);
    }
    image->segments[image->segment_count++] = (struct boot_pvh_segment){
        .file_offset = header->offset,
        .file_bytes = header->file_bytes,
        .address = header->address,
        .memory_bytes = header->memory_bytes,
    };
    return 0;
}

/* Size of a note's name or descriptor with its padding, without wrapping. */
static uint64_t padded(uint32_t count, uint64_t align)
{
    return ((uint64_t)count + align - 1) & ~(align - 1);
}

/* Walk the notes for the entry; *ret_entry stays as it is when there is none. */
static int scan_notes(const uint8_t *notes, uint64_t count, uint64_t align, uint64_t *ret_entry,
                      struct fault *fault)
{
    uint64_t at = 0;
    while (count - at >= sizeof(Elf32_Nhdr)) {
        uint32_t name_bytes = bytes_get_u32(notes + at);
        uint32_t value_bytes = bytes_get_u32(notes + at + 4);
        uint32_t type = bytes_get_u32(notes + at + 8);
        uint64_t name = at + sizeof(Elf32_Nhdr);
        uint64_t name_room = padded(name_bytes, align);
        if (!range_fits(name, name_room, count) ||
            !range_fits(name + name_room, value_bytes, count))
            return fault_set(fault, ERR_INVALID,
                             "the kernel's note at byte %llu leaves its segment",
                             (unsigned long long)at);
        uint64_t value = name + name_room;
        if (type == NOTE_PHYS32_ENTRY && name_bytes == 4 && memcmp(notes + name, "Xen", 4) == 0) {
            if (value_bytes == 4)
                *ret_entry = bytes_get_u32(notes + value);
            else if (value_bytes == 8)
                *ret_entry = bytes_get_u64(notes + value);
            else
                return fault_set(fault, ERR_INVALID,
                                 "the kernel's entry note has %u bytes, not 4 "
                                 "or 8",
                                 value_bytes);
        }
        uint64_t value_room = padded(value_bytes, align);
        if (!range_fits(value, value_room, count))
            return 0; /* the last note may lack its padding */
        at = value + value_room;
    }
    return 0;
}

static int read_notes(const struct elf_file *file, const struct program_header *header,
                      uint64_t *ret_entry, struct fault *fault)
{
    if (header->file_bytes > BOOT_PVH_NOTES_BYTES_MAX)
        return fault_set(fault, ERR_INVALID,
                         "the kernel's notes are %llu bytes, at most %d are read",
                         (unsigned long long)header->file_bytes, BOOT_PVH_NOTES_BYTES_MAX);
    if (!range_fits(header->offset, header->file_bytes, file->bytes))
        return fault_set(fault, ERR_INVALID, "the kernel's notes lie outside the file");
    if (header->file_bytes == 0)
        return 0;
    AUTO_FREE uint8_t *notes = malloc((size_t)header->file_bytes);
    if (!notes)
        return fault_set(fault, ERR_NOMEM, "no memory for the kernel's notes");
    int r = read_exactly(file->fd, notes, header->file_bytes, header->offset, "the kernel's notes",
                         fault);
    if (r < 0)
        return r;
    return scan_notes(notes, header->file_bytes, header->align == 8 ? 8 : 4, ret_entry, fault);
}

#define NO_ENTRY UINT64_MAX

static int check_entry(const struct boot_pvh_image *image, uint64_t entry, struct fault *fault)
{
    if (entry == NO_ENTRY)
        return fault_set(fault, ERR_INVALID,
                         "the kernel has no PVH entry (Xen note 18; Linux: CONFIG_PVH)");
    for (unsigned i = 0; i < image->segment_count; i++) {
        const struct boot_pvh_segment *segment = &image->segments[i];
        if (entry >= segment->address && entry - segment->address < segment->memory_bytes &&
            entry <= UINT32_MAX)
            return 0;
    }
    return fault_set(fault, ERR_INVALID,
                     "the kernel's entry %#llx lies in none of its segments "
                     "below 4 GiB",
                     (unsigned long long)entry);
}

int boot_pvh_parse(struct boot_pvh_image *ret_image, int fd, const struct guest_memory *memory,
                   struct fault *fault)
{
    struct elf_file file = {0};
    int r = read_header(&file, fd, fault);
    if (r < 0)
        return r;

    struct boot_pvh_image image = {0};
    uint64_t entry = NO_ENTRY;
    for (unsigned i = 0; i < file.header_count; i++) {
        struct program_header header = {0};
        r = read_program_header(&file, i, &header, fault);
        if (r == 0 && header.type == PT_LOAD)
            r = take_segment(&image, &file, &header, memory, fault);
        else if (r == 0 && header.type == PT_NOTE)
            r = read_notes(&file, &header, &entry, fault);
        if (r < 0)
            return r;
    }
    r = check_entry(&image, entry, fault);
    if (r < 0)
        return r;
    image.entry = (uint32_t)entry;
    *ret_image = image;
    return 0;
}

/* Guest memory is new and so zero behind a segment's file bytes. */
static int load_segments(struct guest_memory *memory, const struct boot_pvh_image *image, int fd,
                         struct fault *fault)
{
    for (unsigned i = 0; i < image->segment_count; i++) {
        const struct boot_pvh_segment *segment = &image->segments[i];
        uint8_t *at = guest_memory_at(memory, segment->address, segment->file_bytes);
        int r =
            read_exactly(fd, at, segment->file_bytes, segment->file_offset, "the kernel", fault);
        if (r < 0)
            return r;
        guest_memory_mark_written(memory, segment->address, segment->file_bytes);
    }
    return 0;
}

/* As high as it goes below 4 GiB: kernels unpack downwards from there without touching it. */
static int load_initrd(struct guest_memory *memory, const struct boot_pvh_image *image, int fd,
                       uint64_t *ret_address, uint64_t *ret_bytes, struct fault *fault)
{
    uint64_t bytes = 0;
    int r = file_size(fd, "the initrd", &bytes, fault);
    if (r < 0)
        return r;
    struct guest_memory_part parts[GUEST_MEMORY_PARTS_MAX];
    (void)guest_memory_parts(memory, parts); /* part 0 is always there */
    uint64_t low_bytes = parts[0].pages << PAGE_SHIFT;
    if (bytes == 0 || bytes > low_bytes - HIGH_RAM_START)
        return fault_set(fault, ERR_INVALID,
                         "an initrd of %llu bytes does not fit the guest's memory",
                         (unsigned long long)bytes);
    uint64_t address = (low_bytes - bytes) & ~(uint64_t)(PAGE_BYTES - 1);
    for (unsigned i = 0; i < image->segment_count; i++) {
        if (ranges_overlap(address, bytes, image->segments[i].address,
                           image->segments[i].memory_bytes))
            return fault_set(
                fault, ERR_INVALID,
                "kernel and initrd (%llu bytes) do not fit the guest's memory together",
                (unsigned long long)bytes);
    }
    r = read_exactly(fd, guest_memory_at(memory, address, bytes), bytes, 0, "the initrd", fault);
    if (r < 0)
        return r;
    guest_memory_mark_written(memory, address, bytes);
    *ret_address = address;
    *ret_bytes = bytes;
    return 0;
}

static uint32_t put_map_entry(uint8_t *map, uint32_t index, uint64_t address, uint64_t end,
                              uint32_t type)
{
    uint8_t *entry = map + (size_t)index * MEMORY_MAP_ENTRY_BYTES;
    bytes_put_u64(entry, address);
    bytes_put_u64(entry + 8, end - address);
    bytes_put_u32(entry + 16, type);
    bytes_put_u32(entry + 20, 0);
    return index + 1;
}

static uint32_t put_memory_map(const struct guest_memory *memory, uint8_t *map)
{
    struct guest_memory_part parts[GUEST_MEMORY_PARTS_MAX];
    unsigned part_count = guest_memory_parts(memory, parts);
    uint32_t count = put_map_entry(map, 0, 0, LOW_RAM_END, MAP_RAM);
    count = put_map_entry(map, count, LOW_RAM_END, HIGH_RAM_START, MAP_RESERVED);
    count = put_map_entry(map, count, HIGH_RAM_START, parts[0].pages << PAGE_SHIFT, MAP_RAM);
    for (unsigned i = 1; i < part_count; i++)
        count = put_map_entry(map, count, parts[i].guest_address,
                              parts[i].guest_address + (parts[i].pages << PAGE_SHIFT), MAP_RAM);
    return count;
}

static void put_start_info(uint8_t *info, bool has_module, uint32_t map_entries)
{
    bytes_put_u32(info, START_INFO_MAGIC);
    bytes_put_u32(info + 4, START_INFO_VERSION);
    bytes_put_u32(info + 8, 0); /* flags */
    bytes_put_u32(info + 12, has_module ? 1 : 0);
    bytes_put_u64(info + 16, has_module ? MODULE_LIST : 0);
    bytes_put_u64(info + 24, COMMAND_LINE);
    bytes_put_u64(info + 32, 0); /* no ACPI tables */
    bytes_put_u64(info + 40, MEMORY_MAP);
    bytes_put_u32(info + 48, map_entries);
    bytes_put_u32(info + 52, 0);
}

int boot_pvh_load(struct guest_memory *memory, int kernel_fd, int initrd_fd, const char *cmdline,
                  uint32_t *ret_entry, uint32_t *ret_start_info, struct fault *fault)
{
    size_t cmdline_bytes = strlen(cmdline) + 1;
    if (cmdline_bytes > CMDLINE_MAX + 1)
        return fault_set(fault, ERR_INVALID, "the command line has %zu bytes, at most %d fit",
                         cmdline_bytes - 1, CMDLINE_MAX);
    struct boot_pvh_image image;
    int r = boot_pvh_parse(&image, kernel_fd, memory, fault);
    if (r < 0)
        return r;
    uint64_t initrd_address = 0, initrd_bytes = 0;
    if (initrd_fd >= 0)
        r = load_initrd(memory, &image, initrd_fd, &initrd_address, &initrd_bytes, fault);
    if (r == 0)
        r = load_segments(memory, &image, kernel_fd, fault);
    if (r < 0)
        return r;

    uint8_t *area = guest_memory_at(memory, AREA_FIRST, AREA_END - AREA_FIRST);
    assert(area);
    memcpy(area + (COMMAND_LINE - AREA_FIRST), cmdline, cmdline_bytes);
    uint8_t *module = area + (MODULE_LIST - AREA_FIRST);
    bytes_put_u64(module, initrd_address);
    bytes_put_u64(module + 8, initrd_bytes);
    uint32_t map_entries = put_memory_map(memory, area + (MEMORY_MAP - AREA_FIRST));
    put_start_info(area, initrd_fd >= 0, map_entries);
    guest_memory_mark_written(memory, AREA_FIRST, AREA_END - AREA_FIRST);

    *ret_entry = image.entry;
    *ret_start_info = START_INFO;
    return 0;
}

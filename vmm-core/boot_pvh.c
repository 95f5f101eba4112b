#include "vmm-core/boot_pvh.h"

#include <assert.h>
#include <elf.h>
#include <stdbool.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/own.h"
#include "proto/limits.h"
#include "vmm-core/acpi_tables.h"
#include "vmm-core/boot_area.h"
#include "vmm-core/boot_file.h"
#include "vmm-core/guest_memory.h"

enum {
    START_INFO_BYTES = 56,
    MODULE_BYTES = 32,
    MEMORY_MAP_ENTRY_BYTES = 24,

    START_INFO_MAGIC = 0x336ec578,
    START_INFO_VERSION = 1,
    NOTE_PHYS32_ENTRY = 18,
};

static_assert(BOOT_AREA_MAP + BOOT_AREA_MAP_MAX * MEMORY_MAP_ENTRY_BYTES <= BOOT_AREA_CMDLINE,
              "the memory map ends before the command line");

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

static int read_header(struct elf_file *ret_file, int fd, struct fault *fault)
{
    struct elf_file file = {.fd = fd};
    int r = boot_file_size(fd, "the kernel", &file.bytes, fault);
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
    r = boot_file_read(fd, &header, count, 0, "the kernel's ELF header", fault);
    if (r < 0)
        return r;
    if (memcmp(header.ident, ELFMAG, SELFMAG) != 0)
        return fault_set(fault, ERR_INVALID, "the kernel is no ELF file");
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
        r = boot_file_read(file->fd, &wide, sizeof wide, file->headers_offset + index * sizeof wide,
                           "the kernel's program headers", fault);
        if (r == 0)
            *ret_header = (struct program_header){wide.p_type,   wide.p_offset, wide.p_paddr,
                                                  wide.p_filesz, wide.p_memsz,  wide.p_align};
        return r;
    }
    Elf32_Phdr narrow;
    r = boot_file_read(file->fd, &narrow, sizeof narrow,
                       file->headers_offset + index * sizeof narrow, "the kernel's program headers",
                       fault);
    if (r == 0)
        *ret_header = (struct program_header){narrow.p_type,   narrow.p_offset, narrow.p_paddr,
                                              narrow.p_filesz, narrow.p_memsz,  narrow.p_align};
    return r;
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
    if (boot_area_ranges_overlap(header->address, header->memory_bytes, BOOT_AREA_START_INFO,
                                 BOOT_AREA_END - BOOT_AREA_START_INFO))
        return fault_set(fault, ERR_INVALID,
                         "the kernel's segment at %#llx covers the boot data at %#x", address,
                         BOOT_AREA_START_INFO);
    if (boot_area_ranges_overlap(header->address, header->memory_bytes, ACPI_TABLES_FIRST,
                                 ACPI_TABLES_BYTES))
        return fault_set(fault, ERR_INVALID,
                         "the kernel's segment at %#llx covers the ACPI tables at %#x", address,
                         ACPI_TABLES_FIRST);
    for (unsigned i = 0; i < image->segment_count; i++) {
        if (boot_area_ranges_overlap(header->address, header->memory_bytes,
                                     image->segments[i].address, image->segments[i].memory_bytes))
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
    int r = boot_file_read(file->fd, notes, header->file_bytes, header->offset,
                           "the kernel's notes", fault);
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
            boot_file_read(fd, at, segment->file_bytes, segment->file_offset, "the kernel", fault);
        if (r < 0)
            return r;
        guest_memory_mark_written(memory, segment->address, segment->file_bytes);
    }
    return 0;
}

/* Eight bytes of flags and attributes behind what E820 has. */
static uint32_t put_memory_map(struct guest_memory *memory)
{
    struct boot_area_entry map[BOOT_AREA_MAP_MAX];
    uint32_t count = boot_area_map(memory, map);
    uint8_t *at = guest_memory_at(memory, BOOT_AREA_MAP, sizeof map);
    for (uint32_t i = 0; i < count; i++, at += MEMORY_MAP_ENTRY_BYTES) {
        bytes_put_u64(at, map[i].address);
        bytes_put_u64(at + 8, map[i].end - map[i].address);
        bytes_put_u32(at + 16, map[i].type);
        bytes_put_u32(at + 20, 0);
    }
    return count;
}

static void put_start_info(struct guest_memory *memory, const struct boot_area_initrd *initrd)
{
    uint32_t map_entries = put_memory_map(memory);
    uint8_t *module = guest_memory_at(memory, BOOT_AREA_MODULES, MODULE_BYTES);
    bytes_put_u64(module, initrd->address);
    bytes_put_u64(module + 8, initrd->bytes);

    uint8_t *info = guest_memory_at(memory, BOOT_AREA_START_INFO, START_INFO_BYTES);
    bytes_put_u32(info, START_INFO_MAGIC);
    bytes_put_u32(info + 4, START_INFO_VERSION);
    bytes_put_u32(info + 8, 0); /* flags */
    bytes_put_u32(info + 12, initrd->bytes ? 1 : 0);
    bytes_put_u64(info + 16, initrd->bytes ? BOOT_AREA_MODULES : 0);
    bytes_put_u64(info + 24, BOOT_AREA_CMDLINE);
    bytes_put_u64(info + 32, ACPI_TABLES_FIRST); /* the RSDP */
    bytes_put_u64(info + 40, BOOT_AREA_MAP);
    bytes_put_u32(info + 48, map_entries);
    bytes_put_u32(info + 52, 0);
    guest_memory_mark_written(memory, BOOT_AREA_START_INFO,
                              BOOT_AREA_CMDLINE - BOOT_AREA_START_INFO);
}

int boot_pvh_load(struct guest_memory *memory, int kernel_fd, int initrd_fd, const char *cmdline,
                  uint32_t *ret_entry, uint32_t *ret_start_info, struct fault *fault)
{
    int r = boot_area_check_cmdline(cmdline, CMDLINE_MAX, fault);
    if (r < 0)
        return r;
    struct boot_pvh_image image;
    struct boot_area_initrd initrd;
    r = boot_pvh_parse(&image, kernel_fd, memory, fault);
    if (r == 0)
        r = boot_area_place_initrd(memory, initrd_fd, GUEST_MEMORY_HOLE_START, &initrd, fault);
    for (unsigned i = 0; r == 0 && i < image.segment_count; i++)
        r = boot_area_check_initrd(&initrd, image.segments[i].address,
                                   image.segments[i].memory_bytes, fault);
    if (r == 0)
        r = boot_area_load_initrd(memory, initrd_fd, &initrd, fault);
    if (r == 0)
        r = load_segments(memory, &image, kernel_fd, fault);
    if (r < 0)
        return r;

    boot_area_put_cmdline(memory, cmdline);
    put_start_info(memory, &initrd);
    *ret_entry = image.entry;
    *ret_start_info = BOOT_AREA_START_INFO;
    return 0;
}

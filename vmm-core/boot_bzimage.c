#include "vmm-core/boot_bzimage.h"

#include <assert.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"
#include "vmm-core/acpi_tables.h"
#include "vmm-core/boot_area.h"
#include "vmm-core/boot_file.h"
#include "vmm-core/guest_memory.h"

/* Offsets in the file's first sectors; from 0x1f1 on also in the zero page. */
enum {
    ZERO_ACPI_RSDP = 0x70,
    ZERO_INITRD_HIGH = 0xc0,
    ZERO_INITRD_BYTES_HIGH = 0xc4,
    ZERO_CMDLINE_HIGH = 0xc8,
    ZERO_MAP_COUNT = 0x1e8,
    ZERO_MAP = 0x2d0,
    ZERO_MAP_ENTRY_BYTES = 20,
    ZERO_BYTES = 4096,

    SETUP_SECTORS = 0x1f1,
    SETUP_CODE_PARAGRAPHS = 0x1f4,
    SETUP_VIDEO_MODE = 0x1fa,
    SETUP_BOOT_FLAG = 0x1fe,
    SETUP_JUMP = 0x201, /* its operand tells where the header ends */
    SETUP_MAGIC = 0x202,
    SETUP_VERSION = 0x206,
    SETUP_LOADER = 0x210,
    SETUP_LOAD_FLAGS = 0x211,
    SETUP_INITRD = 0x218,
    SETUP_INITRD_BYTES = 0x21c,
    SETUP_CMDLINE = 0x228,
    SETUP_INITRD_LAST = 0x22c,
    SETUP_ALIGNMENT = 0x230,
    SETUP_RELOCATABLE = 0x234,
    SETUP_X_LOAD_FLAGS = 0x236,
    SETUP_CMDLINE_MAX = 0x238,
    SETUP_PREFERRED = 0x258,
    SETUP_ROOM = 0x260,
    SETUP_END_MIN = 0x264, /* a header of the oldest version that we take has all of the above */

    BOOT_FLAG = 0xaa55,
    VERSION_MIN = 0x020c, /* Linux 3.8: says whether it has a 64-bit entry */
    LOADED_HIGH = 0x01,
    HAS_64_BIT_ENTRY = 0x01,
    ENTRY_64_OFFSET = 0x200,
    LOADER_UNKNOWN = 0xff,
    VIDEO_NORMAL = 0xffff,
    SECTOR_BYTES = 512,
    SETUP_SECTORS_DEFAULT = 4,
    PARAGRAPH_BYTES = 16,
};

#define SETUP_MAGIC_WORD UINT32_C(0x53726448) /* "HdrS" */

/* One PML4, one table of four directories of 2 MiB pages: the first 4 GiB, each at its address. */
enum {
    TABLE_BYTES = 4096,
    TABLE_ENTRIES = 512,
    DIRECTORIES = 4,
    ENTRY_PRESENT_WRITABLE = 0x03,
    ENTRY_LARGE = 0x80,
};

#define GDT_CODE UINT64_C(0x00af9b000000ffff) /* selector 0x10: 64-bit, execute, read */
#define GDT_DATA UINT64_C(0x00cf93000000ffff) /* selector 0x18: flat, read, write */

static_assert(BOOT_AREA_PAGE_TABLES + (2 + DIRECTORIES) * TABLE_BYTES <= BOOT_AREA_START_INFO,
              "the page tables end before the next thing");
static_assert(ZERO_MAP + BOOT_AREA_MAP_MAX * ZERO_MAP_ENTRY_BYTES < ZERO_BYTES, "the map fits");

bool boot_bzimage_is(const uint8_t *bytes, uint64_t count)
{
    return count >= SETUP_MAGIC + 4 && bytes_get_u32(bytes + SETUP_MAGIC) == SETUP_MAGIC_WORD;
}

static int check_version(const uint8_t *bytes, struct fault *fault)
{
    unsigned version = bytes_get_u16(bytes + SETUP_VERSION);
    if (bytes_get_u16(bytes + SETUP_BOOT_FLAG) != BOOT_FLAG)
        return fault_set(fault, ERR_INVALID, "the kernel's boot sector has no boot flag");
    if (version < VERSION_MIN)
        return fault_set(fault, ERR_INVALID,
                         "the kernel speaks boot protocol %u.%02u, at least 2.12 is needed "
                         "(Linux 3.8)",
                         version >> 8, version & 0xff);
    if (!(bytes[SETUP_LOAD_FLAGS] & LOADED_HIGH))
        return fault_set(fault, ERR_INVALID, "the kernel is a zImage: it must be a bzImage");
    if (!(bytes_get_u16(bytes + SETUP_X_LOAD_FLAGS) & HAS_64_BIT_ENTRY))
        return fault_set(fault, ERR_INVALID, "the kernel has no 64-bit entry (a 32-bit kernel?)");
    return 0;
}

static int take_header(struct boot_bzimage *image, const uint8_t *bytes, struct fault *fault)
{
    unsigned end = SETUP_MAGIC + bytes[SETUP_JUMP];
    if (end < SETUP_END_MIN || end > BOOT_BZIMAGE_HEADER_MAX)
        return fault_set(fault, ERR_INVALID,
                         "the kernel's setup header ends at %#x, %#x to %#x is taken", end,
                         SETUP_END_MIN, BOOT_BZIMAGE_HEADER_MAX);
    image->header_bytes = end - BOOT_BZIMAGE_HEADER;
    memcpy(image->header, bytes + BOOT_BZIMAGE_HEADER, image->header_bytes);
    return 0;
}

/* The header's word about the size of the code stands, not the file's: behind it may follow a
 * signature. */
static int take_code(struct boot_bzimage *image, const uint8_t *bytes, uint64_t file_bytes,
                     struct fault *fault)
{
    unsigned sectors = bytes[SETUP_SECTORS] ? bytes[SETUP_SECTORS] : SETUP_SECTORS_DEFAULT;
    image->code_offset = (uint64_t)(sectors + 1) * SECTOR_BYTES;
    image->code_bytes = (uint64_t)bytes_get_u32(bytes + SETUP_CODE_PARAGRAPHS) * PARAGRAPH_BYTES;
    if (image->code_bytes <= ENTRY_64_OFFSET)
        return fault_set(fault, ERR_INVALID, "the kernel has %llu bytes of code: too few",
                         (unsigned long long)image->code_bytes);
    /* The last paragraph may lack its padding. */
    if (!range_fits(image->code_offset, image->code_bytes - (PARAGRAPH_BYTES - 1), file_bytes))
        return fault_set(fault, ERR_INVALID,
                         "the kernel's file ends at %llu, its code (%llu bytes) does not",
                         (unsigned long long)file_bytes, (unsigned long long)image->code_bytes);
    if (image->code_bytes > file_bytes - image->code_offset)
        image->code_bytes = file_bytes - image->code_offset;
    return 0;
}

static int take_place(struct boot_bzimage *image, const uint8_t *bytes,
                      const struct guest_memory *memory, struct fault *fault)
{
    image->address = bytes_get_u64(bytes + SETUP_PREFERRED);
    image->room_bytes = bytes_get_u32(bytes + SETUP_ROOM);
    if (image->room_bytes < image->code_bytes)
        return fault_set(
            fault, ERR_INVALID, "the kernel wants %llu bytes of memory for %llu bytes of code",
            (unsigned long long)image->room_bytes, (unsigned long long)image->code_bytes);
    if (image->address < BOOT_AREA_HIGH_RAM || image->address >= GUEST_MEMORY_HOLE_START)
        return fault_set(fault, ERR_INVALID,
                         "the kernel wants to lie at %#llx, not in RAM above "
                         "1 MiB and below 3 GiB",
                         (unsigned long long)image->address);
    if (!guest_memory_at(memory, image->address, image->room_bytes))
        return fault_set(
            fault, ERR_INVALID,
            "the kernel needs memory from %llu to %llu MiB: more than this guest has",
            (unsigned long long)(image->address >> 20),
            (unsigned long long)((image->address + image->room_bytes + MIB(1) - 1) >> 20));
    image->initrd_end = (uint64_t)bytes_get_u32(bytes + SETUP_INITRD_LAST) + 1;
    image->cmdline_bytes_max = bytes_get_u32(bytes + SETUP_CMDLINE_MAX);
    return 0;
}

int boot_bzimage_parse(struct boot_bzimage *ret_image, int fd, const struct guest_memory *memory,
                       struct fault *fault)
{
    uint64_t file_bytes = 0;
    int r = boot_file_size(fd, "the kernel", &file_bytes, fault);
    if (r < 0)
        return r;
    if (file_bytes < BOOT_BZIMAGE_READ_BYTES)
        return fault_set(fault, ERR_INVALID, "the kernel is no bzImage: %llu bytes are too few",
                         (unsigned long long)file_bytes);
    uint8_t bytes[BOOT_BZIMAGE_READ_BYTES];
    r = boot_file_read(fd, bytes, sizeof bytes, 0, "the kernel's setup header", fault);
    if (r < 0)
        return r;
    if (!boot_bzimage_is(bytes, sizeof bytes))
        return fault_set(fault, ERR_INVALID, "the kernel is no bzImage");

    struct boot_bzimage image = {0};
    if ((r = check_version(bytes, fault)) < 0 || (r = take_header(&image, bytes, fault)) < 0 ||
        (r = take_code(&image, bytes, file_bytes, fault)) < 0 ||
        (r = take_place(&image, bytes, memory, fault)) < 0)
        return r;
    *ret_image = image;
    return 0;
}

static void put_zero_page(struct guest_memory *memory, const struct boot_bzimage *image,
                          const struct boot_area_initrd *initrd)
{
    uint8_t *at = guest_memory_at(memory, BOOT_AREA_ZERO_PAGE, ZERO_BYTES);
    memset(at, 0, ZERO_BYTES);
    memcpy(at + BOOT_BZIMAGE_HEADER, image->header, image->header_bytes);
    bytes_put_u64(at + ZERO_ACPI_RSDP, ACPI_TABLES_FIRST);
    bytes_put_u16(at + SETUP_VIDEO_MODE, VIDEO_NORMAL);
    at[SETUP_LOADER] = LOADER_UNKNOWN;
    bytes_put_u32(at + SETUP_CMDLINE, BOOT_AREA_CMDLINE);
    bytes_put_u32(at + SETUP_INITRD, (uint32_t)initrd->address); /* below 4 GiB, both */
    bytes_put_u32(at + SETUP_INITRD_BYTES, (uint32_t)initrd->bytes);

    struct boot_area_entry map[BOOT_AREA_MAP_MAX];
    unsigned count = boot_area_map(memory, map);
    at[ZERO_MAP_COUNT] = (uint8_t)count;
    for (unsigned i = 0; i < count; i++) {
        uint8_t *entry = at + ZERO_MAP + i * ZERO_MAP_ENTRY_BYTES;
        bytes_put_u64(entry, map[i].address);
        bytes_put_u64(entry + 8, map[i].end - map[i].address);
        bytes_put_u32(entry + 16, map[i].type);
    }
    guest_memory_mark_written(memory, BOOT_AREA_ZERO_PAGE, ZERO_BYTES);
}

static void put_page_tables(struct guest_memory *memory)
{
    uint64_t bytes = (2 + DIRECTORIES) * TABLE_BYTES;
    uint8_t *top = guest_memory_at(memory, BOOT_AREA_PAGE_TABLES, bytes);
    uint8_t *pointers = top + TABLE_BYTES;
    uint8_t *directories = pointers + TABLE_BYTES;
    memset(top, 0, 2 * TABLE_BYTES);
    bytes_put_u64(top, (BOOT_AREA_PAGE_TABLES + TABLE_BYTES) | ENTRY_PRESENT_WRITABLE);
    for (unsigned i = 0; i < DIRECTORIES; i++)
        bytes_put_u64(pointers + 8 * i,
                      (BOOT_AREA_PAGE_TABLES + (2 + i) * TABLE_BYTES) | ENTRY_PRESENT_WRITABLE);
    for (unsigned i = 0; i < DIRECTORIES * TABLE_ENTRIES; i++)
        bytes_put_u64(directories + 8 * i, i * MIB(2) | ENTRY_LARGE | ENTRY_PRESENT_WRITABLE);
    guest_memory_mark_written(memory, BOOT_AREA_PAGE_TABLES, bytes);
}

static void put_gdt(struct guest_memory *memory)
{
    uint8_t *at = guest_memory_at(memory, BOOT_AREA_GDT, 4 * 8);
    memset(at, 0, 4 * 8);
    bytes_put_u64(at + 0x10, GDT_CODE);
    bytes_put_u64(at + 0x18, GDT_DATA);
    guest_memory_mark_written(memory, BOOT_AREA_GDT, 4 * 8);
}

int boot_bzimage_load(struct guest_memory *memory, int kernel_fd, int initrd_fd,
                      const char *cmdline, uint64_t *ret_entry, struct fault *fault)
{
    struct boot_bzimage image;
    struct boot_area_initrd initrd;
    int r = boot_bzimage_parse(&image, kernel_fd, memory, fault);
    if (r == 0)
        r = boot_area_check_cmdline(cmdline, image.cmdline_bytes_max, fault);
    if (r == 0)
        r = boot_area_place_initrd(memory, initrd_fd, image.initrd_end, &initrd, fault);
    if (r == 0)
        r = boot_area_check_initrd(&initrd, image.address, image.room_bytes, fault);
    if (r == 0)
        r = boot_area_load_initrd(memory, initrd_fd, &initrd, fault);
    if (r < 0)
        return r;

    uint8_t *code = guest_memory_at(memory, image.address, image.code_bytes);
    assert(code);
    r = boot_file_read(kernel_fd, code, image.code_bytes, image.code_offset, "the kernel", fault);
    if (r < 0)
        return r;
    guest_memory_mark_written(memory, image.address, image.code_bytes);
    put_gdt(memory);
    put_page_tables(memory);
    put_zero_page(memory, &image, &initrd);
    boot_area_put_cmdline(memory, cmdline);
    *ret_entry = image.address + ENTRY_64_OFFSET;
    return 0;
}

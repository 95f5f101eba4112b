#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bitmap.h"
#include "base/bytes.h"
#include "base/err.h"
#include "vmm-core/acpi_tables.h"
#include "vmm-core/boot_area.h"
#include "vmm-core/boot_bzimage.h"
#include "vmm-core/guest_memory.h"

enum {
    SETUP_SECTORS = 7,
    CODE_OFFSET = (SETUP_SECTORS + 1) * 512,
    CODE_BYTES = 0x3000,
    FILE_BYTES = CODE_OFFSET + CODE_BYTES + 100, /* a signature behind the code */
    KERNEL_ADDRESS = 0x1000000,
    KERNEL_ROOM = 0x400000,
};

/* A good kernel, to be spoilt. */
struct kernel {
    uint8_t bytes[FILE_BYTES];
    size_t file_bytes;
};

static struct guest_memory *memory;

static void good_kernel(struct kernel *kernel)
{
    uint8_t *at = kernel->bytes;
    kernel->file_bytes = FILE_BYTES;
    memset(at, 0, CODE_OFFSET);
    memset(at + CODE_OFFSET, 0x90, CODE_BYTES);
    memset(at + CODE_OFFSET + CODE_BYTES, 0x51, 100);
    at[0x1f1] = SETUP_SECTORS;
    bytes_put_u32(at + 0x1f4, CODE_BYTES / 16);
    bytes_put_u16(at + 0x1fe, 0xaa55);
    at[0x200] = 0xeb; /* jmp */
    at[0x201] = 0x6a;
    memcpy(at + 0x202, "HdrS", 4);
    bytes_put_u16(at + 0x206, 0x020f);
    at[0x211] = 1;
    bytes_put_u32(at + 0x22c, 0x7fffffff);
    bytes_put_u32(at + 0x230, 0x200000);
    at[0x234] = 1;
    bytes_put_u16(at + 0x236, 0x3f);
    bytes_put_u32(at + 0x238, 2047);
    bytes_put_u64(at + 0x258, KERNEL_ADDRESS);
    bytes_put_u32(at + 0x260, KERNEL_ROOM);
}

static int file_of(const void *bytes, size_t count)
{
    int fd = memfd_create("kernel", MFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, count), (ssize_t)count);
    return fd;
}

static int set_up(void **state)
{
    (void)state;
    memory = NULL;
    return guest_memory_new(&memory, MIB(32), false, NULL);
}

static int tear_down(void **state)
{
    (void)state;
    memory = guest_memory_free(memory);
    return 0;
}

static void takes_a_good_kernel(void **state)
{
    (void)state;
    static struct kernel kernel;
    good_kernel(&kernel);
    struct boot_bzimage image;
    struct fault fault = {0};
    int fd = file_of(kernel.bytes, kernel.file_bytes);

    if (boot_bzimage_parse(&image, fd, memory, &fault) < 0)
        fail_msg("%s", fault.text);

    assert_int_equal(image.code_offset, CODE_OFFSET);
    assert_int_equal(image.code_bytes, CODE_BYTES);
    assert_int_equal(image.address, KERNEL_ADDRESS);
    assert_int_equal(image.room_bytes, KERNEL_ROOM);
    assert_int_equal(image.header_bytes, 0x26c - 0x1f1);
    (void)close(fd);
}

typedef void spoil_fn(struct kernel *kernel);

static void spoil_short(struct kernel *k)
{
    k->file_bytes = 0xfff;
}
static void spoil_magic(struct kernel *k)
{
    k->bytes[0x202] = 'h';
}
static void spoil_flag(struct kernel *k)
{
    k->bytes[0x1fe] = 0;
}
static void spoil_version(struct kernel *k)
{
    bytes_put_u16(k->bytes + 0x206, 0x020b);
}
static void spoil_zimage(struct kernel *k)
{
    k->bytes[0x211] = 0;
}
static void spoil_32_bit(struct kernel *k)
{
    k->bytes[0x236] = 0;
}
static void spoil_header_short(struct kernel *k)
{
    k->bytes[0x201] = 0x61;
}
static void spoil_header_long(struct kernel *k)
{
    k->bytes[0x201] = 0x8f;
}
static void spoil_no_code(struct kernel *k)
{
    bytes_put_u32(k->bytes + 0x1f4, 0x20);
}
static void spoil_code_long(struct kernel *k)
{
    bytes_put_u32(k->bytes + 0x1f4, UINT32_MAX);
    bytes_put_u32(k->bytes + 0x260, UINT32_MAX);
}
static void spoil_cut(struct kernel *k)
{
    k->file_bytes = CODE_OFFSET + CODE_BYTES - 16;
}
static void spoil_sectors(struct kernel *k)
{
    k->bytes[0x1f1] = 255;
}
static void spoil_low(struct kernel *k)
{
    bytes_put_u64(k->bytes + 0x258, 0xff000);
}
static void spoil_high(struct kernel *k)
{
    bytes_put_u64(k->bytes + 0x258, UINT64_MAX - 0xfff);
}
static void spoil_room(struct kernel *k)
{
    bytes_put_u32(k->bytes + 0x260, MIB(16) + 1);
}
static void spoil_room_small(struct kernel *k)
{
    bytes_put_u32(k->bytes + 0x260, CODE_BYTES - 1);
}

static void refuses_hostile_kernels_by_reason(void **state)
{
    (void)state;
    static const struct {
        spoil_fn *spoil;
        const char *reason;
    } rows[] = {
        {spoil_short, "too few"},
        {spoil_magic, "no bzImage"},
        {spoil_flag, "no boot flag"},
        {spoil_version, "boot protocol 2.11, at least 2.12"},
        {spoil_zimage, "zImage"},
        {spoil_32_bit, "no 64-bit entry"},
        {spoil_header_short, "setup header ends at 0x263"},
        {spoil_header_long, "setup header ends at 0x291"},
        {spoil_no_code, "512 bytes of code: too few"},
        {spoil_code_long, "its code (68719476720 bytes) does not"},
        {spoil_cut, "its code (12288 bytes) does not"},
        {spoil_sectors, "its code (12288 bytes) does not"},
        {spoil_low, "wants to lie at 0xff000"},
        {spoil_high, "wants to lie at 0xfffffffffffff000"},
        {spoil_room, "from 16 to 33 MiB: more than this guest has"},
        {spoil_room_small, "12287 bytes of memory for 12288 bytes of code"},
    };
    static struct kernel kernel;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        good_kernel(&kernel);
        rows[i].spoil(&kernel);
        struct boot_bzimage image;
        struct fault fault = {0};
        int fd = file_of(kernel.bytes, kernel.file_bytes);

        int r = boot_bzimage_parse(&image, fd, memory, &fault);

        if (r != ERR_INVALID || !strstr(fault.text, rows[i].reason))
            fail_msg("row %zu: %d, '%s' instead of '%s'", i, r, fault.text, rows[i].reason);
        (void)close(fd);
    }
}

static void every_flipped_bit_is_taken_or_refused(void **state)
{
    (void)state;
    static struct kernel kernel;
    for (size_t at = 0x1f1; at < 0x290; at++) {
        for (unsigned bit = 0; bit < 8; bit++) {
            good_kernel(&kernel);
            kernel.bytes[at] ^= (uint8_t)(1 << bit);
            uint64_t entry = 0;
            int fd = file_of(kernel.bytes, kernel.file_bytes);

            int r = boot_bzimage_load(memory, fd, -1, "", &entry, NULL);

            assert_true(r == 0 || r == ERR_INVALID);
            (void)close(fd);
        }
    }
}

static void a_loaded_guest_finds_its_zero_page(void **state)
{
    (void)state;
    static struct kernel kernel;
    good_kernel(&kernel);
    kernel.bytes[0x1f0] = 0x77; /* before the header: stays behind */
    kernel.bytes[0x26c] = 0x77; /* behind it, too */
    int kernel_fd = file_of(kernel.bytes, kernel.file_bytes);
    int initrd_fd = file_of("initrd!", 7);
    uint64_t entry = 0;
    struct fault fault = {0};

    if (boot_bzimage_load(memory, kernel_fd, initrd_fd, "a=1 b", &entry, &fault) < 0)
        fail_msg("%s", fault.text);

    assert_int_equal(entry, KERNEL_ADDRESS + 0x200);
    assert_int_equal(*guest_memory_at(memory, KERNEL_ADDRESS, 1), 0x90);
    assert_int_equal(*guest_memory_at(memory, KERNEL_ADDRESS + CODE_BYTES, 1), 0);
    const uint8_t *zero = guest_memory_at(memory, BOOT_AREA_ZERO_PAGE, 4096);
    assert_memory_equal(zero + 0x202, "HdrS", 4);
    assert_int_equal(zero[0x1f0], 0);
    assert_int_equal(zero[0x26c], 0);
    assert_int_equal(zero[0x210], 0xff);
    assert_int_equal(bytes_get_u64(zero + 0x70), ACPI_TABLES_FIRST);
    assert_string_equal((const char *)guest_memory_at(memory, bytes_get_u32(zero + 0x228), 6),
                        "a=1 b");
    assert_int_equal(bytes_get_u32(zero + 0x21c), 7);
    assert_memory_equal(guest_memory_at(memory, bytes_get_u32(zero + 0x218), 7), "initrd!", 7);
    assert_int_equal(zero[0x1e8], 4);
    assert_int_equal(bytes_get_u64(zero + 0x2d0 + 2 * 20), 0x100000);
    assert_int_equal(bytes_get_u64(zero + 0x2d0 + 2 * 20 + 8), MIB(31));
    assert_int_equal(bytes_get_u32(zero + 0x2d0 + 3 * 20 + 16), 2);

    struct bitmap written;
    assert_int_equal(bitmap_init(&written, guest_memory_pages(memory)), 0);
    guest_memory_take_written(memory, &written);
    assert_true(bitmap_test(&written, KERNEL_ADDRESS >> PAGE_SHIFT));
    assert_true(bitmap_test(&written, BOOT_AREA_ZERO_PAGE >> PAGE_SHIFT));
    assert_true(bitmap_test(&written, BOOT_AREA_GDT >> PAGE_SHIFT));
    assert_true(bitmap_test(&written, BOOT_AREA_CMDLINE >> PAGE_SHIFT));
    for (unsigned i = 0; i < 6; i++)
        assert_true(bitmap_test(&written, (BOOT_AREA_PAGE_TABLES >> PAGE_SHIFT) + i));
    bitmap_deinit(&written);
    (void)close(kernel_fd);
    (void)close(initrd_fd);
}

/* Walk the tables as a processor would. */
static void every_address_below_4_gib_maps_to_itself(void **state)
{
    (void)state;
    static struct kernel kernel;
    good_kernel(&kernel);
    int fd = file_of(kernel.bytes, kernel.file_bytes);
    uint64_t entry = 0;
    assert_int_equal(boot_bzimage_load(memory, fd, -1, "", &entry, NULL), 0);

    for (uint64_t address = 0; address < GIB(4); address += MIB(2)) {
        uint64_t table = BOOT_AREA_PAGE_TABLES;
        for (unsigned shift = 39; shift >= 30; shift -= 9) {
            uint64_t found =
                bytes_get_u64(guest_memory_at(memory, table + (address >> shift & 511) * 8, 8));
            assert_int_equal(found & 0xfff, 3);
            table = found & ~UINT64_C(0xfff);
        }
        uint64_t page =
            bytes_get_u64(guest_memory_at(memory, table + (address >> 21 & 511) * 8, 8));
        assert_int_equal(page, address | 0x83);
    }
    (void)close(fd);
}

static void refuses_what_does_not_fit_beside_the_kernel(void **state)
{
    (void)state;
    static struct kernel kernel;
    good_kernel(&kernel);
    int kernel_fd = file_of(kernel.bytes, kernel.file_bytes);
    int initrd_fd = memfd_create("initrd", MFD_CLOEXEC);
    uint64_t entry = 0;
    struct fault fault = {0};

    assert_int_equal(boot_bzimage_load(memory, kernel_fd, initrd_fd, "", &entry, &fault),
                     ERR_INVALID);
    assert_int_equal(ftruncate(initrd_fd, (off_t)MIB(12) + 1), 0);
    assert_int_equal(boot_bzimage_load(memory, kernel_fd, initrd_fd, "", &entry, &fault),
                     ERR_INVALID);
    assert_non_null(strstr(fault.text, "together"));
    assert_int_equal(ftruncate(initrd_fd, (off_t)MIB(12)), 0);
    assert_int_equal(boot_bzimage_load(memory, kernel_fd, initrd_fd, "", &entry, &fault), 0);

    static char cmdline[2049];
    memset(cmdline, 'x', 2048);
    assert_int_equal(boot_bzimage_load(memory, kernel_fd, -1, cmdline, &entry, &fault),
                     ERR_INVALID);
    assert_non_null(strstr(fault.text, "at most 2047 fit"));
    cmdline[2047] = '\0';
    assert_int_equal(boot_bzimage_load(memory, kernel_fd, -1, cmdline, &entry, &fault), 0);
    (void)close(kernel_fd);
    (void)close(initrd_fd);
}

static void an_initrd_stays_below_the_kernels_limit(void **state)
{
    (void)state;
    static struct kernel kernel;
    good_kernel(&kernel);
    bytes_put_u32(kernel.bytes + 0x22c, 0x17fffff);
    int kernel_fd = file_of(kernel.bytes, kernel.file_bytes);
    int initrd_fd = file_of("initrd!", 7);
    uint64_t entry = 0;

    assert_int_equal(boot_bzimage_load(memory, kernel_fd, initrd_fd, "", &entry, NULL), 0);

    const uint8_t *zero = guest_memory_at(memory, BOOT_AREA_ZERO_PAGE, 4096);
    assert_int_equal(bytes_get_u32(zero + 0x218), 0x17ff000);
    (void)close(kernel_fd);
    (void)close(initrd_fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(takes_a_good_kernel, set_up, tear_down),
        cmocka_unit_test_setup_teardown(refuses_hostile_kernels_by_reason, set_up, tear_down),
        cmocka_unit_test_setup_teardown(every_flipped_bit_is_taken_or_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_loaded_guest_finds_its_zero_page, set_up, tear_down),
        cmocka_unit_test_setup_teardown(every_address_below_4_gib_maps_to_itself, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(refuses_what_does_not_fit_beside_the_kernel, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(an_initrd_stays_below_the_kernels_limit, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

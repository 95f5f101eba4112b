#include <elf.h>
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
#include "vmm-core/boot_pvh.h"
#include "vmm-core/guest_memory.h"

enum { KERNEL_ADDRESS = 0x100000, FILE_BYTES = 0x3000, CODE_OFFSET = 0x1000, NOTE_OFFSET = 0x200 };

/* A good 64-bit kernel, to be spoilt. */
struct kernel {
    Elf64_Ehdr header;
    Elf64_Phdr segments[3]; /* load, load, note */
    uint8_t note[64];
    uint64_t file_bytes;
};

static struct guest_memory *memory;

static struct kernel good_kernel(void)
{
    struct kernel kernel = {
        .header = {.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
                   .e_type = ET_EXEC,
                   .e_machine = EM_X86_64,
                   .e_phoff = sizeof(Elf64_Ehdr),
                   .e_phentsize = sizeof(Elf64_Phdr),
                   .e_phnum = 3},
        .segments = {{.p_type = PT_LOAD,
                      .p_offset = CODE_OFFSET,
                      .p_paddr = KERNEL_ADDRESS,
                      .p_filesz = 0x1000,
                      .p_memsz = 0x5000},
                     {.p_type = PT_LOAD,
                      .p_offset = 0x2000,
                      .p_paddr = 0x200000,
                      .p_filesz = 0x800,
                      .p_memsz = 0x800},
                     {.p_type = PT_NOTE, .p_offset = NOTE_OFFSET, .p_filesz = 20, .p_align = 4}},
        .file_bytes = FILE_BYTES,
    };
    bytes_put_u32(kernel.note, 4);
    bytes_put_u32(kernel.note + 4, 4);
    bytes_put_u32(kernel.note + 8, 18);
    memcpy(kernel.note + 12, "Xen", 4);
    bytes_put_u32(kernel.note + 16, KERNEL_ADDRESS + 0x10);
    return kernel;
}

static int file_of(const void *bytes, size_t count)
{
    int fd = memfd_create("kernel", MFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, count), (ssize_t)count);
    return fd;
}

static int kernel_file(const struct kernel *kernel)
{
    static uint8_t bytes[FILE_BYTES];
    memset(bytes, 0x90, sizeof bytes);
    memcpy(bytes, &kernel->header, sizeof kernel->header);
    memcpy(bytes + sizeof kernel->header, kernel->segments, sizeof kernel->segments);
    memcpy(bytes + NOTE_OFFSET, kernel->note, sizeof kernel->note);
    return file_of(bytes, (size_t)kernel->file_bytes);
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

static void takes_a_good_64_bit_kernel(void **state)
{
    (void)state;
    struct kernel kernel = good_kernel();
    struct boot_pvh_image image;
    struct fault fault = {0};
    int fd = kernel_file(&kernel);

    if (boot_pvh_parse(&image, fd, memory, &fault) < 0)
        fail_msg("%s", fault.text);

    assert_int_equal(image.entry, KERNEL_ADDRESS + 0x10);
    assert_int_equal(image.segment_count, 2);
    assert_int_equal(image.segments[0].memory_bytes, 0x5000);
    (void)close(fd);
}

static void takes_a_good_32_bit_kernel(void **state)
{
    (void)state;
    struct {
        Elf32_Ehdr header;
        Elf32_Phdr segments[2];
        uint8_t note[20];
        uint8_t code[64];
    } kernel = {
        .header = {.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS32, ELFDATA2LSB, EV_CURRENT},
                   .e_type = ET_EXEC,
                   .e_machine = EM_386,
                   .e_phoff = sizeof(Elf32_Ehdr),
                   .e_phentsize = sizeof(Elf32_Phdr),
                   .e_phnum = 2},
    };
    struct kernel good = good_kernel();
    memcpy(kernel.note, good.note, sizeof kernel.note);
    kernel.segments[0] = (Elf32_Phdr){
        .p_type = PT_LOAD, .p_paddr = KERNEL_ADDRESS, .p_filesz = sizeof kernel, .p_memsz = 0x2000};
    kernel.segments[1] =
        (Elf32_Phdr){.p_type = PT_NOTE,
                     .p_filesz = 20,
                     .p_offset = (Elf32_Off)(sizeof kernel.header + sizeof kernel.segments)};
    struct boot_pvh_image image;
    struct fault fault = {0};
    int fd = file_of(&kernel, sizeof kernel);

    if (boot_pvh_parse(&image, fd, memory, &fault) < 0)
        fail_msg("%s", fault.text);

    assert_int_equal(image.entry, KERNEL_ADDRESS + 0x10);
    assert_int_equal(image.segment_count, 1);
    (void)close(fd);
}

static void spoil_magic(struct kernel *k)
{
    k->header.e_ident[1] = 'X';
}
static void spoil_endian(struct kernel *k)
{
    k->header.e_ident[EI_DATA] = ELFDATA2MSB;
}
static void spoil_class(struct kernel *k)
{
    k->header.e_ident[EI_CLASS] = 3;
}
static void spoil_machine(struct kernel *k)
{
    k->header.e_machine = EM_AARCH64;
}
static void spoil_no_headers(struct kernel *k)
{
    k->header.e_phnum = 0;
}
static void spoil_many_headers(struct kernel *k)
{
    k->header.e_phnum = 65;
}
static void spoil_header_size(struct kernel *k)
{
    k->header.e_phentsize = 1;
}
static void spoil_header_offset(struct kernel *k)
{
    k->header.e_phoff = UINT64_MAX - 8;
}
static void spoil_header_end(struct kernel *k)
{
    k->header.e_phoff = FILE_BYTES - 10;
}
static void spoil_short_file(struct kernel *k)
{
    k->file_bytes = 40;
}
static void spoil_cut_header(struct kernel *k)
{
    k->file_bytes = 60;
}
static void spoil_cut_segment(struct kernel *k)
{
    k->file_bytes = 0x2100;
}
static void spoil_offset(struct kernel *k)
{
    k->segments[0].p_offset = UINT64_MAX;
}
static void spoil_wrap(struct kernel *k)
{
    k->segments[0].p_offset = UINT64_MAX - 0xfff;
    k->segments[0].p_filesz = 0x2000;
    k->segments[0].p_memsz = 0x2000;
}
static void spoil_file_larger(struct kernel *k)
{
    k->segments[0].p_filesz = 0x5001;
}
static void spoil_address(struct kernel *k)
{
    k->segments[0].p_paddr = MIB(32);
}
static void spoil_address_wraps(struct kernel *k)
{
    k->segments[0].p_paddr = UINT64_MAX - 0xfff;
}
static void spoil_hole(struct kernel *k)
{
    k->segments[0].p_paddr = 0xfee00000;
}
static void spoil_memory_huge(struct kernel *k)
{
    k->segments[0].p_memsz = UINT64_MAX;
}
static void spoil_memory_end(struct kernel *k)
{
    k->segments[0].p_memsz = MIB(31) + 1;
}
static void spoil_overlap(struct kernel *k)
{
    k->segments[1].p_paddr = KERNEL_ADDRESS + 0x4fff;
}
static void spoil_boot_area(struct kernel *k)
{
    k->segments[1].p_paddr = 0x8f900;
}
static void spoil_acpi_area(struct kernel *k)
{
    k->segments[1].p_paddr = 0xdfc00;
}
static void spoil_no_note(struct kernel *k)
{
    k->segments[2].p_type = PT_NULL;
}
static void spoil_other_note(struct kernel *k)
{
    bytes_put_u32(k->note + 8, 6);
}
static void spoil_other_name(struct kernel *k)
{
    memcpy(k->note + 12, "GNU", 4);
}
static void spoil_note_offset(struct kernel *k)
{
    k->segments[2].p_offset = FILE_BYTES;
}
static void spoil_note_size(struct kernel *k)
{
    k->segments[2].p_filesz = UINT64_MAX;
}
static void spoil_note_name(struct kernel *k)
{
    bytes_put_u32(k->note, UINT32_MAX);
}
static void spoil_note_value(struct kernel *k)
{
    bytes_put_u32(k->note + 4, UINT32_MAX - 2);
}
static void spoil_note_width(struct kernel *k)
{
    bytes_put_u32(k->note + 4, 2);
}
static void spoil_entry(struct kernel *k)
{
    bytes_put_u32(k->note + 16, 0x50);
}
static void spoil_entry_behind(struct kernel *k)
{
    bytes_put_u32(k->note + 16, KERNEL_ADDRESS + 0x5000);
}

static void refuses_hostile_kernels_by_reason(void **state)
{
    (void)state;
    static const struct {
        void (*spoil)(struct kernel *kernel);
        const char *reason;
    } rows[] = {
        {spoil_magic, "no ELF file"},
        {spoil_endian, "little-endian"},
        {spoil_class, "neither"},
        {spoil_machine, "not for x86"},
        {spoil_no_headers, "0 program headers"},
        {spoil_many_headers, "65 program headers"},
        {spoil_header_size, "are 1 bytes"},
        {spoil_header_offset, "headers lie outside the file"},
        {spoil_header_end, "headers lie outside the file"},
        {spoil_short_file, "too few"},
        {spoil_cut_header, "neither"},
        {spoil_cut_segment, "outside the file"},
        {spoil_offset, "outside the file"},
        {spoil_wrap, "outside the file"},
        {spoil_file_larger, "larger in the file"},
        {spoil_address, "does not fit the guest's memory"},
        {spoil_address_wraps, "does not fit the guest's memory"},
        {spoil_hole, "does not fit the guest's memory"},
        {spoil_memory_huge, "does not fit the guest's memory"},
        {spoil_memory_end, "does not fit the guest's memory"},
        {spoil_overlap, "overlap"},
        {spoil_boot_area, "boot data"},
        {spoil_acpi_area, "ACPI tables"},
        {spoil_no_note, "no PVH entry"},
        {spoil_other_note, "no PVH entry"},
        {spoil_other_name, "no PVH entry"},
        {spoil_note_offset, "notes lie outside the file"},
        {spoil_note_size, "notes are"},
        {spoil_note_name, "leaves its segment"},
        {spoil_note_value, "leaves its segment"},
        {spoil_note_width, "not 4 or 8"},
        {spoil_entry, "none of its segments"},
        {spoil_entry_behind, "none of its segments"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct kernel kernel = good_kernel();
        rows[i].spoil(&kernel);
        struct boot_pvh_image image;
        struct fault fault = {0};
        int fd = kernel_file(&kernel);

        int r = boot_pvh_parse(&image, fd, memory, &fault);

        if (r != ERR_INVALID || !strstr(fault.text, rows[i].reason))
            fail_msg("row %zu: %d, '%s' instead of '%s'", i, r, fault.text, rows[i].reason);
        (void)close(fd);
    }
}

static void every_flipped_byte_is_taken_or_refused(void **state)
{
    (void)state;
    for (size_t at = 0; at < sizeof(Elf64_Ehdr) + 3 * sizeof(Elf64_Phdr); at++) {
        for (unsigned bit = 0; bit < 8; bit++) {
            struct kernel kernel = good_kernel();
            ((uint8_t *)&kernel)[at] ^= (uint8_t)(1 << bit);
            struct boot_pvh_image image;
            int fd = kernel_file(&kernel);

            int r = boot_pvh_parse(&image, fd, memory, NULL);

            assert_true(r == 0 || r == ERR_INVALID);
            (void)close(fd);
        }
    }
}

static void a_loaded_guest_finds_its_start_info(void **state)
{
    (void)state;
    struct kernel kernel = good_kernel();
    int kernel_fd = kernel_file(&kernel);
    int initrd_fd = file_of("initrd!", 7);
    uint32_t entry = 0, start_info = 0;
    struct fault fault = {0};

    if (boot_pvh_load(memory, kernel_fd, initrd_fd, "a=1 b", &entry, &start_info, &fault) < 0)
        fail_msg("%s", fault.text);

    assert_int_equal(entry, KERNEL_ADDRESS + 0x10);
    const uint8_t *info = guest_memory_at(memory, start_info, 56);
    assert_int_equal(bytes_get_u32(info), 0x336ec578);
    assert_int_equal(bytes_get_u32(info + 4), 1);
    assert_int_equal(bytes_get_u32(info + 12), 1);
    const uint8_t *module = guest_memory_at(memory, bytes_get_u64(info + 16), 32);
    assert_int_equal(bytes_get_u64(module + 8), 7);
    assert_memory_equal(guest_memory_at(memory, bytes_get_u64(module), 7), "initrd!", 7);
    assert_string_equal((const char *)guest_memory_at(memory, bytes_get_u64(info + 24), 6),
                        "a=1 b");
    assert_int_equal(bytes_get_u64(info + 32), 0xe0000);
    assert_int_equal(bytes_get_u32(info + 48), 4);
    const uint8_t *map = guest_memory_at(memory, bytes_get_u64(info + 40), 96);
    assert_int_equal(bytes_get_u64(map + 48), 0x100000);
    assert_int_equal(bytes_get_u64(map + 56), MIB(31));
    assert_int_equal(*guest_memory_at(memory, KERNEL_ADDRESS, 1), 0x90);
    assert_int_equal(*guest_memory_at(memory, KERNEL_ADDRESS + 0x1000, 1), 0);

    struct bitmap written;
    assert_int_equal(bitmap_init(&written, guest_memory_pages(memory)), 0);
    guest_memory_take_written(memory, &written);
    assert_true(bitmap_test(&written, KERNEL_ADDRESS >> PAGE_SHIFT));
    assert_true(bitmap_test(&written, start_info >> PAGE_SHIFT));
    assert_true(bitmap_test(&written, bytes_get_u64(module) >> PAGE_SHIFT));
    bitmap_deinit(&written);
    (void)close(kernel_fd);
    (void)close(initrd_fd);
}

static void refuses_what_does_not_fit_beside_the_kernel(void **state)
{
    (void)state;
    struct kernel kernel = good_kernel();
    int kernel_fd = kernel_file(&kernel);
    int initrd_fd = memfd_create("initrd", MFD_CLOEXEC);
    uint32_t entry = 0, start_info = 0;
    struct fault fault = {0};

    assert_int_equal(boot_pvh_load(memory, kernel_fd, initrd_fd, "", &entry, &start_info, &fault),
                     ERR_INVALID);
    assert_int_equal(ftruncate(initrd_fd, (off_t)MIB(31)), 0);
    assert_int_equal(boot_pvh_load(memory, kernel_fd, initrd_fd, "", &entry, &start_info, &fault),
                     ERR_INVALID);
    assert_non_null(strstr(fault.text, "together"));
    assert_int_equal(ftruncate(initrd_fd, (off_t)MIB(32)), 0);
    assert_int_equal(boot_pvh_load(memory, kernel_fd, initrd_fd, "", &entry, &start_info, &fault),
                     ERR_INVALID);

    static char cmdline[4097];
    memset(cmdline, 'x', 4096);
    assert_int_equal(boot_pvh_load(memory, kernel_fd, -1, cmdline, &entry, &start_info, &fault),
                     ERR_INVALID);
    cmdline[4095] = '\0';
    assert_int_equal(boot_pvh_load(memory, kernel_fd, -1, cmdline, &entry, &start_info, &fault), 0);
    (void)close(kernel_fd);
    (void)close(initrd_fd);
}

static void a_pipe_is_no_kernel(void **state)
{
    (void)state;
    int fds[2];
    struct boot_pvh_image image;
    struct fault fault = {0};
    assert_int_equal(pipe(fds), 0);

    assert_int_equal(boot_pvh_parse(&image, fds[0], memory, &fault), ERR_INVALID);

    assert_non_null(strstr(fault.text, "not a regular file"));
    (void)close(fds[0]);
    (void)close(fds[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(takes_a_good_64_bit_kernel, set_up, tear_down),
        cmocka_unit_test_setup_teardown(takes_a_good_32_bit_kernel, set_up, tear_down),
        cmocka_unit_test_setup_teardown(refuses_hostile_kernels_by_reason, set_up, tear_down),
        cmocka_unit_test_setup_teardown(every_flipped_byte_is_taken_or_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_loaded_guest_finds_its_start_info, set_up, tear_down),
        cmocka_unit_test_setup_teardown(refuses_what_does_not_fit_beside_the_kernel, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_pipe_is_no_kernel, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

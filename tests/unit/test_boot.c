#include <elf.h>
#include <linux/kvm.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/err.h"
#include "vmm-core/acpi_tables.h"
#include "vmm-core/boot.h"
#include "vmm-core/boot_area.h"
#include "vmm-core/guest_memory.h"

enum { FILE_BYTES = 0x3000, KERNEL_ADDRESS = 0x1000000 };

static struct guest_memory *memory;
static uint8_t file[FILE_BYTES];

static int set_up(void **state)
{
    (void)state;
    memory = NULL;
    memset(file, 0, sizeof file);
    return guest_memory_new(&memory, MIB(32), false, NULL);
}

static int tear_down(void **state)
{
    (void)state;
    memory = guest_memory_free(memory);
    return 0;
}

static int load(struct boot_entry *ret_entry, size_t count, struct fault *fault)
{
    int fd = memfd_create("kernel", MFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, file, count), (ssize_t)count);
    int r = boot_load(memory, 2, fd, -1, "quiet", ret_entry, fault);
    (void)close(fd);
    return r;
}

static void make_bzimage(void)
{
    file[0x1f1] = 1;
    bytes_put_u32(file + 0x1f4, 0x2000 / 16);
    bytes_put_u16(file + 0x1fe, 0xaa55);
    file[0x201] = 0x66;
    memcpy(file + 0x202, "HdrS", 4);
    bytes_put_u16(file + 0x206, 0x020f);
    file[0x211] = 1;
    bytes_put_u32(file + 0x22c, 0x7fffffff);
    file[0x236] = 1;
    bytes_put_u32(file + 0x238, 2047);
    bytes_put_u64(file + 0x258, KERNEL_ADDRESS);
    bytes_put_u32(file + 0x260, 0x10000);
}

static void make_elf(void)
{
    const Elf64_Ehdr header = {.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB},
                               .e_machine = EM_X86_64,
                               .e_phoff = sizeof header,
                               .e_phentsize = sizeof(Elf64_Phdr),
                               .e_phnum = 2};
    const Elf64_Phdr segments[2] = {
        {.p_type = PT_LOAD, .p_paddr = KERNEL_ADDRESS, .p_filesz = 0x1000, .p_memsz = 0x1000},
        {.p_type = PT_NOTE, .p_offset = 0x200, .p_filesz = 20, .p_align = 4}};
    memcpy(file, &header, sizeof header);
    memcpy(file + sizeof header, segments, sizeof segments);
    bytes_put_u32(file + 0x200, 4);
    bytes_put_u32(file + 0x204, 4);
    bytes_put_u32(file + 0x208, 18);
    memcpy(file + 0x20c, "Xen", 4);
    bytes_put_u32(file + 0x210, KERNEL_ADDRESS + 0x30);
}

static void a_bzimage_begins_in_64_bit_mode_with_its_zero_page(void **state)
{
    (void)state;
    struct boot_entry entry;
    struct fault fault = {0};
    struct kvm_sregs sregs = {.cs.base = 0xffff0000};
    struct kvm_regs regs;
    make_bzimage();

    if (load(&entry, FILE_BYTES, &fault) < 0)
        fail_msg("%s", fault.text);
    boot_registers(&entry, &sregs, &regs);

    assert_int_equal(entry.kind, BOOT_BZIMAGE);
    assert_int_equal(regs.rip, KERNEL_ADDRESS + 0x200);
    assert_int_equal(regs.rsi, BOOT_AREA_ZERO_PAGE);
    assert_int_equal(regs.rflags, 2); /* interrupts off */
    assert_int_equal(sregs.cs.selector, 0x10);
    assert_int_equal(sregs.cs.base, 0);
    assert_int_equal(sregs.cs.l, 1);
    assert_int_equal(sregs.ds.selector, 0x18);
    assert_int_equal(sregs.cr3, BOOT_AREA_PAGE_TABLES);
    assert_true(sregs.cr0 & 0x80000000);
    assert_true(sregs.cr4 & 0x20);
    assert_int_equal(sregs.efer, 0x500);
    assert_memory_equal(guest_memory_at(memory, ACPI_TABLES_FIRST, 8), "RSD PTR ", 8);
}

static void an_elf_begins_in_32_bit_mode_with_its_start_info(void **state)
{
    (void)state;
    struct boot_entry entry;
    struct fault fault = {0};
    struct kvm_sregs sregs = {.cr3 = 0x5000};
    struct kvm_regs regs;
    make_elf();

    if (load(&entry, FILE_BYTES, &fault) < 0)
        fail_msg("%s", fault.text);
    boot_registers(&entry, &sregs, &regs);

    assert_int_equal(entry.kind, BOOT_PVH);
    assert_int_equal(regs.rip, KERNEL_ADDRESS + 0x30);
    assert_int_equal(regs.rbx, BOOT_AREA_START_INFO);
    assert_int_equal(sregs.cs.db, 1);
    assert_int_equal(sregs.cs.l, 0);
    assert_int_equal(sregs.cr0, 0x11);
    assert_int_equal(sregs.efer, 0);
    assert_memory_equal(guest_memory_at(memory, ACPI_TABLES_FIRST, 8), "RSD PTR ", 8);
}

static void what_is_neither_is_refused_in_words(void **state)
{
    (void)state;
    struct boot_entry entry;
    static const size_t sizes[] = {0, 3, 0x205, FILE_BYTES};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct fault fault = {0};
        assert_int_equal(load(&entry, sizes[i], &fault), ERR_INVALID);
        assert_non_null(strstr(fault.text, "neither a Linux bzImage (vmlinuz) nor an ELF file"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_bzimage_begins_in_64_bit_mode_with_its_zero_page, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(an_elf_begins_in_32_bit_mode_with_its_start_info, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(what_is_neither_is_refused_in_words, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

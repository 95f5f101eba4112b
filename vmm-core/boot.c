#include "vmm-core/boot.h"

#include <assert.h>
#include <elf.h>
#include <linux/kvm.h>
#include <string.h>

#include "base/err.h"
#include "vmm-core/acpi_tables.h"
#include "vmm-core/boot_area.h"
#include "vmm-core/boot_bzimage.h"
#include "vmm-core/boot_file.h"
#include "vmm-core/boot_pvh.h"

enum {
    CR0_PROTECTED = 0x11, /* protection on; ET is always one */
    CR4_PAE = 0x20,
    EFER_LONG_MODE = 0x500, /* enabled and active */
    GDT_LIMIT = 4 * 8 - 1,
};

#define CR0_PAGING UINT64_C(0x80000000)

static int boot_detect(int fd, enum boot_kind *ret_kind, struct fault *fault)
{
    uint64_t count = 0;
    int r = boot_file_size(fd, "the kernel", &count, fault);
    if (r < 0)
        return r;
    uint8_t bytes[BOOT_BZIMAGE_READ_BYTES];
    if (count > sizeof bytes)
        count = sizeof bytes;
    r = boot_file_read(fd, bytes, count, 0, "the kernel", fault);
    if (r < 0)
        return r;
    if (count >= SELFMAG && memcmp(bytes, ELFMAG, SELFMAG) == 0)
        *ret_kind = BOOT_PVH;
    else if (boot_bzimage_is(bytes, count))
        *ret_kind = BOOT_BZIMAGE;
    else
        return fault_set(fault, ERR_INVALID,
                         "the kernel is neither a Linux bzImage (vmlinuz) nor an ELF file with a "
                         "PVH entry");
    return 0;
}

int boot_load(struct guest_memory *memory, unsigned vcpus, int kernel_fd, int initrd_fd,
              const char *cmdline, struct boot_entry *ret_entry, struct fault *fault)
{
    struct boot_entry entry = {0};
    uint32_t address = 0, info = 0;
    int r = boot_detect(kernel_fd, &entry.kind, fault);
    if (r < 0)
        return r;
    switch (entry.kind) {
    case BOOT_PVH:
        r = boot_pvh_load(memory, kernel_fd, initrd_fd, cmdline, &address, &info, fault);
        entry.address = address;
        entry.info = info;
        break;
    case BOOT_BZIMAGE:
        r = boot_bzimage_load(memory, kernel_fd, initrd_fd, cmdline, &entry.address, fault);
        entry.info = BOOT_AREA_ZERO_PAGE;
        break;
    }
    if (r < 0)
        return r;
    acpi_tables_put(memory, vcpus);
    *ret_entry = entry;
    return 0;
}

/* Flat 32-bit segments, no paging, EBX at the start info. */
static void registers_pvh(const struct boot_entry *entry, struct kvm_sregs *sregs,
                          struct kvm_regs *regs)
{
    const struct kvm_segment code = {
        .limit = UINT32_MAX, .selector = 0x08, .type = 0xb, .present = 1, .db = 1, .s = 1, .g = 1};
    const struct kvm_segment data = {
        .limit = UINT32_MAX, .selector = 0x10, .type = 0x3, .present = 1, .db = 1, .s = 1, .g = 1};
    sregs->cs = code;
    sregs->ds = sregs->es = sregs->fs = sregs->gs = sregs->ss = data;
    sregs->cr0 = CR0_PROTECTED;
    sregs->cr4 = 0;
    sregs->efer = 0;
    *regs = (struct kvm_regs){.rip = entry->address, .rbx = entry->info, .rflags = 2};
}

/* 64-bit mode with every address at its place, selectors 0x10 and 0x18 in a table of the guest's
 * memory, RSI at the zero page. */
static void registers_bzimage(const struct boot_entry *entry, struct kvm_sregs *sregs,
                              struct kvm_regs *regs)
{
    const struct kvm_segment code = {
        .limit = UINT32_MAX, .selector = 0x10, .type = 0xb, .present = 1, .l = 1, .s = 1, .g = 1};
    const struct kvm_segment data = {
        .limit = UINT32_MAX, .selector = 0x18, .type = 0x3, .present = 1, .db = 1, .s = 1, .g = 1};
    sregs->cs = code;
    sregs->ds = sregs->es = sregs->fs = sregs->gs = sregs->ss = data;
    sregs->gdt = (struct kvm_dtable){.base = BOOT_AREA_GDT, .limit = GDT_LIMIT};
    sregs->idt = (struct kvm_dtable){0};
    sregs->cr0 = CR0_PROTECTED | CR0_PAGING;
    sregs->cr3 = BOOT_AREA_PAGE_TABLES;
    sregs->cr4 = CR4_PAE;
    sregs->efer = EFER_LONG_MODE;
    *regs = (struct kvm_regs){.rip = entry->address, .rsi = entry->info, .rflags = 2};
}

void boot_registers(const struct boot_entry *entry, struct kvm_sregs *sregs,
                    struct kvm_regs *ret_regs)
{
    const struct kvm_segment task = {.limit = 0x67, .selector = 0x20, .type = 0xb, .present = 1};
    sregs->tr = task;
    switch (entry->kind) {
    case BOOT_PVH:
        sregs->tr.selector = 0x18;
        registers_pvh(entry, sregs, ret_regs);
        return;
    case BOOT_BZIMAGE:
        registers_bzimage(entry, sregs, ret_regs);
        return;
    }
}

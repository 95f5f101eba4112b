/* A kernel file of whichever kind into a guest's memory, and how its first vCPU begins.
 *
 * Flow:   vm_boot -> [boot] -> boot_pvh, boot_bzimage, acpi_tables -> vCPU 0's first registers
 * Thread: owner's.
 */
#ifndef GODWIT_VMM_CORE_BOOT_H
#define GODWIT_VMM_CORE_BOOT_H

#include <stdint.h>

struct fault;
struct guest_memory;
struct kvm_regs;
struct kvm_sregs;

enum boot_kind { BOOT_PVH, BOOT_BZIMAGE };

struct boot_entry {
    enum boot_kind kind;
    uint64_t address;
    uint64_t info; /* guest-physical: start_info or zero page */
};

/* The kind is told by what the file holds. ERR_INVALID with the reason. The fds are borrowed,
 * initrd_fd may be -1. */
int boot_load(struct guest_memory *memory, unsigned vcpus, int kernel_fd, int initrd_fd,
              const char *cmdline, struct boot_entry *ret_entry, struct fault *fault);

/* `sregs` are those of a vCPU after power on; what the kind's convention wants is changed. */
void boot_registers(const struct boot_entry *entry, struct kvm_sregs *sregs,
                    struct kvm_regs *ret_regs);

#endif

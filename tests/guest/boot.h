/* Numbers and symbols that boot.S shares with C.
 *
 * Flow:   PVH loader or SIPI -> [boot] -> vcpu_enter() in ring 3
 * Thread: each vCPU once.
 */
#ifndef GUEST_BOOT_H
#define GUEST_BOOT_H

#define BOOT_VCPUS_MAX 64
#define BOOT_AP_PAGE 0x8000
#define BOOT_TRAPS 48 /* exceptions, then devices' interrupts */
#define BOOT_TSS_SELECTOR 0x40
#define BOOT_TSS_BYTES 104
#define BOOT_IO_PORTS 0x1000
/* From the first TSS to the end of the port bitmap that all share. */
#define BOOT_TSS_LIMIT (BOOT_VCPUS_MAX * BOOT_TSS_BYTES + BOOT_IO_PORTS / 8)
#define BOOT_GDT_BYTES (BOOT_TSS_SELECTOR + 16 * BOOT_VCPUS_MAX)
#define BOOT_KERNEL_STACK_SHIFT 12
#define BOOT_VCPU_AREA_SHIFT 15 /* one page of pvclock, struct vcpu, ring-3 stack from the top */
#define BOOT_PVCLOCK_OFFSET 0

#ifndef __ASSEMBLER__
#include <stdint.h>

extern uint64_t boot_pdpt[512];
extern uint8_t boot_gdt[BOOT_GDT_BYTES];
extern uint64_t boot_idt[2 * BOOT_TRAPS];
extern uint8_t boot_tss[BOOT_VCPUS_MAX * BOOT_TSS_BYTES];
extern uint8_t boot_kernel_stacks[];
extern uint8_t boot_vcpu_areas[];
extern uint8_t boot_trap_stubs[];
extern const uint8_t boot_ap_page[], boot_ap_page_end[];
extern const uint8_t boot_may_fault_xsetbv[], boot_may_fault_kvmclock[];
extern uint32_t boot_start_info;
extern volatile uint32_t boot_vcpu_index;
extern const uint8_t guest_image_start[], guest_constant_end[], guest_image_end[];

void boot_ask_avx(void);    /* ring 3: afterwards XCR0 permits AVX, if there is any */
void boot_ask_interrupts(void); /* ring 3: afterwards this vCPU takes interrupts */
extern const uint8_t boot_ask_interrupts_trap[];
void boot_enable_avx(void); /* ring 0 only */
__attribute__((noreturn)) void boot_stop_forever(void); /* ring 0 only */
__attribute__((noreturn)) void boot_triple_fault(void); /* ring 0 only */
#endif

#endif

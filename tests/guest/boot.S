/* Ring 0, kept tiny: from the PVH entry (or an AP's SIPI) straight into ring 3.
 *
 * The test machine's KVM emulates ring 0 one instruction at a time and knows few of them, while
 * ring 3 runs natively. So all tables are laid out here by the assembler, nothing loops, and
 * whatever can be done from ring 3 (more page tables, the IDT, the TSS of each AP) is done there:
 * every page is mapped with the U bit.
 *
 *   BSP: boot_entry (32-bit) ------------+
 *   AP:  boot_ap_page (16-bit) -> ap32 --+-> long_mode -> enter_ring3 -> iretq -> vcpu_enter(index)
 */
#include "boot.h"

#define PAGE_USER_2M 0xe7 /* present, writable, user, accessed, dirty, 2 MiB */
#define PAGE_USER_TABLE 0x27

#define CR0_PE 0x1
#define CR0_LONG 0x80010033 /* PG, WP, NE, ET, MP, PE; EM and TS stay clear for SSE */
#define CR4_PAE_SSE 0x620   /* PAE, OSFXSR, OSXMMEXCPT */
#define CR4_OSXSAVE_BIT 18
#define EFER_MSR 0xc0000080
#define EFER_LME_BIT 8
#define GS_BASE_MSR 0xc0000101
#define KVM_SYSTEM_TIME_MSR 0x4b564d01

    .section .note.pvh, "a", @note
    .balign 4
    .long 4, 8, 18 /* XEN_ELFNOTE_PHYS32_ENTRY */
    .asciz "Xen"
    .quad boot_entry

    .section .text.boot, "ax"
    .code32
    .globl boot_entry
boot_entry:
    cld
    cli
    movl %ebx, boot_start_info
    /* Split the address of TSS 0 into its descriptor: no relocation can say that. */
    movl $boot_tss, %eax
    movw %ax, boot_gdt + BOOT_TSS_SELECTOR + 2
    shrl $16, %eax
    movb %al, boot_gdt + BOOT_TSS_SELECTOR + 4
    movb %ah, boot_gdt + BOOT_TSS_SELECTOR + 7
    lgdt boot_gdt_pointer
ap32:
    movl $0x18, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl $boot_pml4, %eax
    movl %eax, %cr3
    movl $CR4_PAE_SSE, %eax
    movl %eax, %cr4
    movl $EFER_MSR, %ecx
    rdmsr
    orl $(1 << EFER_LME_BIT), %eax
    wrmsr
    movl $CR0_LONG, %eax
    movl %eax, %cr0
    ljmp $0x10, $long_mode

    .code64
long_mode:
    movl boot_vcpu_index, %ebp

    /* Kernel stack and TSS of this vCPU. */
    movl %ebp, %eax
    incl %eax
    shll $BOOT_KERNEL_STACK_SHIFT, %eax
    leaq boot_kernel_stacks(%rax), %rsp
    movl %ebp, %eax
    shll $4, %eax
    addl $BOOT_TSS_SELECTOR, %eax
    ltr %ax
    lidt boot_idt_pointer

    /* GS points at this vCPU's area for its whole life; ring 3 checks it. */
    movl %ebp, %eax
    shll $BOOT_VCPU_AREA_SHIFT, %eax
    leaq boot_vcpu_areas(%rax), %rax
    movq %rax, %rbx
    xorl %edx, %edx
    movl $GS_BASE_MSR, %ecx
    wrmsr

    /* kvmclock, when CPUID says KVM and CLOCKSOURCE2. */
    movq %rbx, %rsi
    movl $0x40000000, %eax
    cpuid
    cmpl $0x4b4d564b, %ebx /* "KVMK" */
    jne 2f
    movl $0x40000001, %eax
    cpuid
    btl $3, %eax
    jnc 2f
    leaq BOOT_PVCLOCK_OFFSET(%rsi), %rax
    orl $1, %eax
    xorl %edx, %edx
    movl $KVM_SYSTEM_TIME_MSR, %ecx
    .globl boot_may_fault_kvmclock
boot_may_fault_kvmclock:
    wrmsr
2:
    /* The ring-3 stack is the top of the vCPU's area. */
    movl %ebp, %edi
    leaq (1 << BOOT_VCPU_AREA_SHIFT)(%rsi), %rax
    subq $8, %rax /* as if called: the ABI's alignment at a function's first instruction */
    pushq $0x2b
    pushq %rax
    pushq $0x3002 /* IOPL 3, interrupts off. This machine's KVM loses IOPL: see boot_tss */
    pushq $0x33
    pushq $vcpu_enter
    movl $0x2b, %eax
    movl %eax, %ds
    movl %eax, %es
    iretq

/* Where an AP wakes up. Ring 3 copies it to BOOT_AP_PAGE; addresses in it are spelled for that
 * place. */
    .code16
    .globl boot_ap_page
boot_ap_page:
    cli
    cld
    xorw %ax, %ax
    movw %ax, %ds
    lgdtl BOOT_AP_PAGE + (ap_gdt_pointer - boot_ap_page)
    movl $CR0_PE, %eax
    movl %eax, %cr0
    ljmpl $0x08, $ap32
    .balign 4
ap_gdt_pointer:
    .word BOOT_GDT_BYTES - 1
    .long boot_gdt
    .globl boot_ap_page_end
boot_ap_page_end:

/* Exceptions, and interrupts where ring 3 asked for them (interrupt.c). Each stub leaves vector and error code for
 * trap_entry. */
    .code64
    .macro TRAP vector, has_error
    .balign 16
    .if \has_error == 0
    pushq $0
    .endif
    pushq $\vector
    jmp trap_common
    .endm

    .balign 16
    .globl boot_trap_stubs
boot_trap_stubs:
    .irp vector, 0, 1, 2, 3, 4, 5, 6, 7
    TRAP \vector, 0
    .endr
    TRAP 8, 1
    TRAP 9, 0
    .irp vector, 10, 11, 12, 13, 14
    TRAP \vector, 1
    .endr
    .irp vector, 15, 16
    TRAP \vector, 0
    .endr
    TRAP 17, 1
    .irp vector, 18, 19, 20
    TRAP \vector, 0
    .endr
    TRAP 21, 1
    .irp vector, 22, 23, 24, 25, 26, 27, 28
    TRAP \vector, 0
    .endr
    TRAP 29, 1
    TRAP 30, 1
    .irp vector, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47
    TRAP \vector, 0
    .endr

trap_common:
    pushq %rax
    pushq %rcx
    pushq %rdx
    pushq %rsi
    pushq %rdi
    pushq %r8
    pushq %r9
    pushq %r10
    pushq %r11
    movq %rsp, %rdi
    addq $72, %rdi
    call trap_entry
    popq %r11
    popq %r10
    popq %r9
    popq %r8
    popq %rdi
    popq %rsi
    popq %rdx
    popq %rcx
    popq %rax
    addq $16, %rsp
    iretq

/* Called in ring 3; trap_entry() answers the ud2 by boot_enable_avx() and goes on behind it. */
    .globl boot_ask_avx
boot_ask_avx:
    ud2
    ret

/* The same, answered by the interrupt flag. */
    .globl boot_ask_interrupts
    .globl boot_ask_interrupts_trap
boot_ask_interrupts:
boot_ask_interrupts_trap:
    ud2
    ret

/* Ring 0 only, called from trap_entry. */
    .globl boot_enable_avx
boot_enable_avx:
    movq %cr4, %rax
    orl $(1 << CR4_OSXSAVE_BIT), %eax
    movq %rax, %cr4
    xorl %ecx, %ecx
    xorl %edx, %edx
    movl $7, %eax /* x87, SSE, AVX */
    .globl boot_may_fault_xsetbv
boot_may_fault_xsetbv:
    xsetbv
    ret

    .globl boot_stop_forever
boot_stop_forever:
    cli
    hlt
    jmp boot_stop_forever

    .globl boot_triple_fault
boot_triple_fault:
    lidt boot_no_idt_pointer
    ud2

    .section .data.tables, "aw"
    .balign 4096
    .globl boot_pml4
boot_pml4:
    .quad boot_pdpt + PAGE_USER_TABLE
    .fill 511, 8, 0
    .globl boot_pdpt
boot_pdpt:
    .quad boot_pd_first + PAGE_USER_TABLE
    .quad 0
    .quad 0
    .quad boot_pd_fourth + PAGE_USER_TABLE
    .fill 508, 8, 0
boot_pd_first: /* 0 to 1 GiB */
    .set address, 0
    .rept 512
    .quad address + PAGE_USER_2M
    .set address, address + 0x200000
    .endr
boot_pd_fourth: /* 3 to 4 GiB: LAPIC and other devices */
    .set address, 0xc0000000
    .rept 512
    .quad address + PAGE_USER_2M
    .set address, address + 0x200000
    .endr

/* Accessed bits are preset: the emulator would have to write them. */
    .balign 16
    .globl boot_gdt
boot_gdt:
    .quad 0
    .quad 0x00cf9b000000ffff /* 0x08 code, 32 bits */
    .quad 0x00af9b000000ffff /* 0x10 code, 64 bits */
    .quad 0x00cf93000000ffff /* 0x18 data */
    .quad 0x00cffb000000ffff /* 0x23 user code, 32 bits: unused, keeps Linux's order */
    .quad 0x00cff3000000ffff /* 0x2b user data */
    .quad 0x00affb000000ffff /* 0x33 user code, 64 bits */
    .quad 0
    /* BOOT_TSS_SELECTOR: vCPU 0; its base is filled in above */
    .quad 0x0000890000000000 + BOOT_TSS_LIMIT
    .quad 0
    .fill 2 * (BOOT_VCPUS_MAX - 1), 8, 0

boot_gdt_pointer:
    .word BOOT_GDT_BYTES - 1
    .quad boot_gdt
    .balign 8
boot_idt_pointer:
    .word BOOT_TRAPS * 16 - 1
    .quad boot_idt
    .balign 8
boot_no_idt_pointer:
    .word 0
    .quad 0

    .balign 16
    .globl boot_idt
boot_idt: /* filled in by trap_init() */
    .fill 2 * BOOT_TRAPS, 8, 0

    .balign 16
    .globl boot_tss
/* Ring 3 does all port I/O. IOPL 3 would do, but on the software KVM of the test machine ring 3
 * finds IOPL 0, whatever iretq loaded; so a bitmap permits the ports. All TSSs share the one behind
 * the last. */
boot_tss:
    .set index, 0
    .rept BOOT_VCPUS_MAX
    .long 0
    .quad boot_kernel_stacks + ((index + 1) << BOOT_KERNEL_STACK_SHIFT)
    .fill 90, 1, 0
    .word (BOOT_VCPUS_MAX - index) * BOOT_TSS_BYTES
    .set index, index + 1
    .endr
    .fill BOOT_IO_PORTS / 8, 1, 0
    .byte 0xff

    .balign 4
    .globl boot_start_info
boot_start_info:
    .long 0
    .globl boot_vcpu_index
boot_vcpu_index: /* of the vCPU that starts next; vcpu_start_all() starts them one at a time */
    .long 0

    .section .bss, "aw", @nobits
    .balign 4096
    .globl boot_kernel_stacks
boot_kernel_stacks:
    .skip BOOT_VCPUS_MAX << BOOT_KERNEL_STACK_SHIFT
    .balign 4096
    .globl boot_vcpu_areas
boot_vcpu_areas:
    .skip BOOT_VCPUS_MAX << BOOT_VCPU_AREA_SHIFT

    .section .note.GNU-stack, "", @progbits

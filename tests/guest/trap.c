#include "trap.h"

#include "boot.h"
#include "interrupt.h"
#include "power.h"
#include "record.h"
#include "serial.h"

enum {
    STUB_BYTES = 16,
    GATE_KERNEL_INTERRUPT = 0x8e00,
    CODE_SELECTOR = 0x10,
    FLAGS_INTERRUPTS = 0x200
};

void trap_init(void)
{
    for (uint32_t i = 0; i < BOOT_TRAPS; i++) {
        uint64_t stub = (uint64_t)boot_trap_stubs + (uint64_t)i * STUB_BYTES;

        boot_idt[2 * i + 1] = stub >> 32;
        boot_idt[2 * i] = (stub & 0xffff) | (uint64_t)CODE_SELECTOR << 16 |
                          (uint64_t)GATE_KERNEL_INTERRUPT << 32 | (stub >> 16 & 0xffff) << 48;
    }
}

static uint64_t fault_address(void)
{
    uint64_t address;

    __asm__ volatile("movq %%cr2, %0" : "=r"(address));
    return address;
}

void trap_entry(struct trap_frame *frame)
{
    /* APs may find that what CPUID promised is not there: go on without. */
    if (frame->rip == (uint64_t)boot_may_fault_kvmclock) {
        frame->rip += 2;
        return;
    }
    if (frame->rip == (uint64_t)boot_may_fault_xsetbv) {
        frame->rip += 3;
        return;
    }
    if (frame->rip == (uint64_t)boot_ask_avx) {
        boot_enable_avx();
        frame->rip += 2;
        return;
    }
    if (frame->rip == (uint64_t)boot_ask_interrupts_trap) {
        frame->flags |= FLAGS_INTERRUPTS;
        frame->rip += 2;
        return;
    }
    if (interrupt_take(frame->vector))
        return;
    if (power_wants_triple_fault())
        boot_triple_fault();

    struct record record;

    serial_watch(0);
    record_begin(&record, "fault");
    record_number(&record, "vector", frame->vector);
    record_hex(&record, "error", frame->error);
    record_hex(&record, "rip", frame->rip);
    record_hex(&record, "cs", frame->cs);
    record_hex(&record, "address", fault_address());
    record_end(&record);
    boot_stop_forever();
}

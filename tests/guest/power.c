#include "power.h"

#include "clock.h"
#include "machine.h"

static bool triple_fault_wanted;

static void wait_ms(uint64_t ms)
{
    uint64_t begin = machine_tsc();

    while (machine_tsc() - begin < clock_ticks(ms * 1000000))
        machine_pause();
}

bool power_wants_triple_fault(void)
{
    return triple_fault_wanted;
}

void power_off(void)
{
    machine_out16(0x604, 0x2000); /* Godwit, QEMU pc, q35: PM1 control, SLP_EN */
    machine_out8(0x600, 0x34);    /* Cloud Hypervisor: sleep control */
    wait_ms(20);                  /* QEMU leaves a moment later, not at once */
    *(volatile uint8_t *)UINT64_C(0xfea00200) = 0x34; /* QEMU microvm: the GED's sleep control */
    wait_ms(20);
    machine_out32(0xf4, 0); /* QEMU isa-debug-exit */
    for (;;)
        machine_pause();
}

void power_reset(void)
{
    machine_out8(0x64, 0xfe);
    wait_ms(20);
    triple_fault_wanted = true;
    __builtin_trap();
}

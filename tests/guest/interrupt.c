/* Ring 3 cannot set its interrupt flag, so it asks by a trap (boot_ask_interrupts) and gets it set
 * on its way back. */
#include "interrupt.h"

#include "boot.h"
#include "machine.h"

enum {
    LAPIC_EOI = 0xb0,
    LAPIC_SVR = 0xf0,
    LAPIC_SVR_ENABLE = 0x100,
    PIC_MASK_1 = 0x21,
    PIC_MASK_2 = 0xa1
};

#define LAPIC_ADDRESS UINT64_C(0xfee00000)

static bool is_enabled;
static uint64_t counts[INTERRUPT_VECTORS]; /* atomic enough: one vCPU */

static volatile uint32_t *lapic(uint32_t reg)
{
    return (volatile uint32_t *)(LAPIC_ADDRESS + reg);
}

void interrupt_enable(void)
{
    if (is_enabled)
        return;
    is_enabled = true;
    /* The old controllers' vectors are those of exceptions. */
    machine_out8(PIC_MASK_1, 0xff);
    machine_out8(PIC_MASK_2, 0xff);
    *lapic(LAPIC_SVR) = LAPIC_SVR_ENABLE | INTERRUPT_VECTOR_SPURIOUS;
    boot_ask_interrupts();
}

uint64_t interrupt_count(uint32_t vector)
{
    return __atomic_load_n(&counts[vector - INTERRUPT_VECTOR_FIRST], __ATOMIC_ACQUIRE);
}

uint64_t interrupt_message_address(void)
{
    return LAPIC_ADDRESS; /* APIC id 0, physical, fixed */
}

uint32_t interrupt_message_data(uint32_t vector)
{
    return vector;
}

bool interrupt_take(uint64_t vector)
{
    if (vector == INTERRUPT_VECTOR_SPURIOUS)
        return true;
    if (vector < INTERRUPT_VECTOR_FIRST || vector >= INTERRUPT_VECTOR_FIRST + INTERRUPT_VECTORS)
        return false;
    counts[vector - INTERRUPT_VECTOR_FIRST]++;
    *lapic(LAPIC_EOI) = 0;
    return true;
}

/* Interrupts of devices, as messages to vCPU 0's local APIC.
 *
 * Flow:   device's MSI-X -> trap_entry -> [interrupt] -> virtio
 * Thread: vCPU 0; counts are written in ring 0, on top of whatever ring 3 was doing.
 *
 * Off until somebody wants them: then ring 3 of vCPU 0 runs with interrupts on for good.
 */
#ifndef GUEST_INTERRUPT_H
#define GUEST_INTERRUPT_H

#include <stdbool.h>
#include <stdint.h>

enum {
    INTERRUPT_VECTOR_FIRST = 32,
    INTERRUPT_VECTORS = 15, /* 32 to 46; 47 is the APIC's spurious one */
    INTERRUPT_VECTOR_SPURIOUS = 47,
};

/* From now on interrupts reach vCPU 0. Idempotent. */
void interrupt_enable(void);
/* How often `vector` came so far. */
uint64_t interrupt_count(uint32_t vector);
/* What a device must write where, to raise `vector`. */
uint64_t interrupt_message_address(void);
uint32_t interrupt_message_data(uint32_t vector);

/* Ring 0: true when `vector` is one of these and is dealt with. */
bool interrupt_take(uint64_t vector);

#endif

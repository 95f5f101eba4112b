/* A driver gone mad: garbage in rings, registers, configuration space and ports of every virtio
 * device.
 *
 * Flow:   command -> [hostile] -> ports, MMIO, its arena
 * Thread: every vCPU at once; vCPU 0 keeps answering, and it alone uses ports.
 *
 * What it tells devices to read and write is its arena or no memory at all, nearly always: devices
 * write into the arena as well, and what they wrote may be taken for an address. It spares what
 * would only end the attack: the console's ports, power off, reset, interrupts to CPUs that exist.
 */
#ifndef GUEST_HOSTILE_H
#define GUEST_HOSTILE_H

#include <stdint.h>

void hostile_start(uint64_t seed); /* finds the devices; again: another seed */
void hostile_stop(void);           /* when this returns, it writes no more */
uint64_t hostile_attacks(void);    /* so far */

/* Called by every vCPU in its loop. */
void hostile_step(uint32_t index);

#endif

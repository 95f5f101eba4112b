/* The last bytes that a guest's console wrote.
 *
 * Flow:   serial port -> [console_ring] -> a console that attaches
 * Thread: its owner's.
 */
#ifndef GODWIT_AGENT_VM_CONSOLE_RING_H
#define GODWIT_AGENT_VM_CONSOLE_RING_H

#include <stddef.h>
#include <stdint.h>

enum { CONSOLE_RING_BYTES = 64 << 10 };

struct console_ring {
    uint8_t bytes[CONSOLE_RING_BYTES];
    size_t start, count; /* count bytes from start on, around the end */
};

/* Adds; the oldest bytes give way. */
void console_ring_put(struct console_ring *ring, const uint8_t *bytes, size_t count);
/* Takes away up to `size` of the oldest bytes; returns how many. */
size_t console_ring_take(struct console_ring *ring, uint8_t *ret_bytes, size_t size);
/* Copies the newest bytes, at most `size`, oldest first; returns how many. */
size_t console_ring_tail(const struct console_ring *ring, uint8_t *ret_bytes, size_t size);

#endif

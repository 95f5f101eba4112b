#include "agent/vm/console_ring.h"

#include <assert.h>
#include <string.h>

/* Copy `count` bytes that begin `skip` after the oldest. */
static void ring_copy(const struct console_ring *ring, size_t skip, uint8_t *ret_bytes,
                      size_t count)
{
    assert(skip + count <= ring->count);

    size_t from = (ring->start + skip) % CONSOLE_RING_BYTES;
    size_t first = CONSOLE_RING_BYTES - from < count ? CONSOLE_RING_BYTES - from : count;
    memcpy(ret_bytes, ring->bytes + from, first);
    memcpy(ret_bytes + first, ring->bytes, count - first);
}

void console_ring_put(struct console_ring *ring, const uint8_t *bytes, size_t count)
{
    if (count > CONSOLE_RING_BYTES) {
        bytes += count - CONSOLE_RING_BYTES;
        count = CONSOLE_RING_BYTES;
    }
    size_t over =
        ring->count + count > CONSOLE_RING_BYTES ? ring->count + count - CONSOLE_RING_BYTES : 0;
    ring->start = (ring->start + over) % CONSOLE_RING_BYTES;
    ring->count -= over;

    size_t at = (ring->start + ring->count) % CONSOLE_RING_BYTES;
    size_t first = CONSOLE_RING_BYTES - at < count ? CONSOLE_RING_BYTES - at : count;
    memcpy(ring->bytes + at, bytes, first);
    memcpy(ring->bytes, bytes + first, count - first);
    ring->count += count;
}

size_t console_ring_take(struct console_ring *ring, uint8_t *ret_bytes, size_t size)
{
    size_t count = ring->count < size ? ring->count : size;

    ring_copy(ring, 0, ret_bytes, count);
    ring->start = (ring->start + count) % CONSOLE_RING_BYTES;
    ring->count -= count;
    return count;
}

size_t console_ring_tail(const struct console_ring *ring, uint8_t *ret_bytes, size_t size)
{
    size_t count = ring->count < size ? ring->count : size;

    ring_copy(ring, ring->count - count, ret_bytes, count);
    return count;
}

/* The guest's side of a virtqueue, for tests of devices: offers chains, takes used ones back.
 *
 * Flow:   test -> [ring_driver] -> guest_memory -> virtqueue
 * Thread: the test's.
 */
#ifndef GODWIT_TESTS_SUPPORT_RING_DRIVER_H
#define GODWIT_TESTS_SUPPORT_RING_DRIVER_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm-core/virtqueue.h"

enum { RING_DRIVER_AREA = 32 << 10 }; /* bytes that the rings and indirect tables of one take */

struct guest_memory;

struct ring_buffer {
    uint64_t address;
    uint32_t bytes;
    bool is_writable;
};

struct ring_driver {
    struct guest_memory *memory;
    uint64_t area; /* guest-physical */
    uint16_t size;
    bool packed, event_idx;
    uint16_t avail, used;
    bool avail_wrap, used_wrap;
    uint16_t free_slots;
    uint16_t slots[VIRTQUEUE_SIZE_MAX]; /* of each id in use, 0 when free */
};

/* Rings at `area`, a page's begin. Fills `ret_queue`'s guest half with size and addresses, as an
 * honest transport would before virtqueue_start. */
void ring_driver_init(struct ring_driver *driver, struct guest_memory *memory, uint64_t area,
                      uint16_t size, uint64_t features, struct virtqueue *ret_queue);

/* Offer a chain, through an indirect table when asked. Returns its id; asserts that it fits. */
uint16_t ring_driver_offer(struct ring_driver *driver, const struct ring_buffer *buffers,
                           unsigned count, bool indirect);
/* False when nothing came back, or something that was never offered. */
bool ring_driver_take(struct ring_driver *driver, uint16_t *ret_id, uint32_t *ret_bytes);
/* Ask for an interrupt at the next used chain (true) or for none. */
void ring_driver_want_interrupt(struct ring_driver *driver, bool want);

/* Raw access for tests that do what no driver should: bytes of the three areas. */
uint8_t *ring_driver_descriptor(const struct ring_driver *driver, unsigned slot);
uint8_t *ring_driver_avail(const struct ring_driver *driver);
uint8_t *ring_driver_used(const struct ring_driver *driver);

#endif

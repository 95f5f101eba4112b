/* Guest-physical addresses that are no RAM: which device answers.
 *
 * Flow:   vcpu (memory exits) -> [mmio] -> pci, virtio_pci
 * Thread: all calls under the vm's device lock.
 *
 * Ranges never overlap. Where there is none, reads give all ones and writes are lost, as on a bus.
 */
#ifndef GODWIT_VMM_CORE_MMIO_H
#define GODWIT_VMM_CORE_MMIO_H

#include <stdbool.h>
#include <stdint.h>

enum { MMIO_RANGES_MAX = 128, MMIO_ACCESS_MAX = 8 };

/* One access of 1 to 8 bytes, inside the range, at any alignment: the guest chooses. */
struct mmio_ops {
    void (*read)(void *data, uint64_t offset, uint8_t *ret_bytes, unsigned count);
    void (*write)(void *data, uint64_t offset, const uint8_t *bytes, unsigned count);
};

struct mmio_range { /* lives in its device */
    uint64_t address, bytes;
    const struct mmio_ops *ops;
    void *data;
};

struct mmio {
    unsigned count;
    struct mmio_range *ranges[MMIO_RANGES_MAX]; /* borrowed, by address */
};

/* Let `range` answer; it must outlive its registration. False when it would overlap another or
 * there are too many: then nothing changed. */
bool mmio_add(struct mmio *mmio, struct mmio_range *range);
/* Nothing happens when it is not there. */
void mmio_remove(struct mmio *mmio, struct mmio_range *range);

/* An access that leaves its range is answered as if nothing were there. */
void mmio_read(const struct mmio *mmio, uint64_t address, uint8_t *ret_bytes, unsigned count);
void mmio_write(const struct mmio *mmio, uint64_t address, const uint8_t *bytes, unsigned count);

#endif

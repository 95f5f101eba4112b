#include "vmm-core/mmio.h"

#include <assert.h>
#include <stddef.h>
#include <string.h>

#include "base/bytes.h"

/* How many ranges begin at or below `address`. */
static unsigned ranges_up_to(const struct mmio *mmio, uint64_t address)
{
    unsigned low = 0, high = mmio->count;
    while (low < high) {
        unsigned middle = (low + high) / 2;
        if (mmio->ranges[middle]->address <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static struct mmio_range *range_at(const struct mmio *mmio, uint64_t address, unsigned count)
{
    unsigned below = ranges_up_to(mmio, address);
    if (below == 0)
        return NULL;
    struct mmio_range *range = mmio->ranges[below - 1];
    return range_fits(address - range->address, count, range->bytes) ? range : NULL;
}

bool mmio_add(struct mmio *mmio, struct mmio_range *range)
{
    assert(range->bytes > 0 && range->ops);
    if (mmio->count == MMIO_RANGES_MAX || range->address > UINT64_MAX - range->bytes)
        return false;
    unsigned at = ranges_up_to(mmio, range->address);
    const struct mmio_range *before = at > 0 ? mmio->ranges[at - 1] : NULL;
    const struct mmio_range *behind = at < mmio->count ? mmio->ranges[at] : NULL;
    if (before && range->address - before->address < before->bytes)
        return false;
    if (behind && behind->address - range->address < range->bytes)
        return false;

    memmove(&mmio->ranges[at + 1], &mmio->ranges[at], (mmio->count - at) * sizeof mmio->ranges[0]);
    mmio->ranges[at] = range;
    mmio->count++;
    return true;
}

void mmio_remove(struct mmio *mmio, struct mmio_range *range)
{
    for (unsigned i = 0; i < mmio->count; i++) {
        if (mmio->ranges[i] != range)
            continue;
        mmio->count--;
        memmove(&mmio->ranges[i], &mmio->ranges[i + 1], (mmio->count - i) * sizeof mmio->ranges[0]);
        return;
    }
}

void mmio_read(const struct mmio *mmio, uint64_t address, uint8_t *ret_bytes, unsigned count)
{
    assert(count >= 1 && count <= MMIO_ACCESS_MAX);
    memset(ret_bytes, 0xff, count);
    struct mmio_range *range = range_at(mmio, address, count);
    if (range && range->ops->read)
        range->ops->read(range->data, address - range->address, ret_bytes, count);
}

void mmio_write(const struct mmio *mmio, uint64_t address, const uint8_t *bytes, unsigned count)
{
    assert(count >= 1 && count <= MMIO_ACCESS_MAX);
    struct mmio_range *range = range_at(mmio, address, count);
    if (range && range->ops->write)
        range->ops->write(range->data, address - range->address, bytes, count);
}

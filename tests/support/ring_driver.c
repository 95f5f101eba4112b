/* The area holds four pieces: descriptors, driver's, device's, and one indirect table per id. */
#include "tests/support/ring_driver.h"

#include <assert.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <string.h>

#include "base/bytes.h"
#include "vmm-core/guest_memory.h"

enum {
    AVAIL_OFFSET = 4 << 10,
    USED_OFFSET = 5 << 10,
    TABLE_OFFSET = 8 << 10,
    TABLE_BYTES = 24 << 10,
    AVAIL_BIT = 1 << 7,
    USED_BIT = 1 << 15,
};

uint8_t *ring_driver_descriptor(const struct ring_driver *driver, unsigned slot)
{
    return guest_memory_at(driver->memory, driver->area + slot * UINT64_C(16), 16);
}

uint8_t *ring_driver_avail(const struct ring_driver *driver)
{
    return guest_memory_at(driver->memory, driver->area + AVAIL_OFFSET, 1024);
}

uint8_t *ring_driver_used(const struct ring_driver *driver)
{
    return guest_memory_at(driver->memory, driver->area + USED_OFFSET, 3072);
}

void ring_driver_init(struct ring_driver *driver, struct guest_memory *memory, uint64_t area,
                      uint16_t size, uint64_t features, struct virtqueue *ret_queue)
{
    assert(size && size <= VIRTQUEUE_SIZE_MAX);
    bool packed = features >> VIRTIO_F_RING_PACKED & 1;
    *driver = (struct ring_driver){
        .memory = memory,
        .area = area,
        .size = size,
        .packed = packed,
        .event_idx = features >> VIRTIO_RING_F_EVENT_IDX & 1,
        .avail_wrap = packed,
        .used_wrap = packed,
        .free_slots = size,
    };
    memset(guest_memory_at(memory, area, RING_DRIVER_AREA), 0, RING_DRIVER_AREA);
    memset(ret_queue, 0, sizeof *ret_queue);
    ret_queue->guest.size = size;
    ret_queue->guest.descriptors = area;
    ret_queue->guest.driver = area + AVAIL_OFFSET;
    ret_queue->guest.device = area + USED_OFFSET;
}

static void put_packed(uint8_t *at, const struct ring_buffer *buffer, uint16_t flags, uint16_t id)
{
    bytes_put_u64(at, buffer->address);
    bytes_put_u32(at + 8, buffer->bytes);
    bytes_put_u16(at + 12, id);
    __atomic_store_n((uint16_t *)(void *)(at + 14), flags, __ATOMIC_RELEASE);
}

/* Split descriptors have the flags before the link, packed ones behind the id. */
static void put_split(uint8_t *at, const struct ring_buffer *buffer, uint16_t flags, uint16_t next)
{
    bytes_put_u64(at, buffer->address);
    bytes_put_u32(at + 8, buffer->bytes);
    bytes_put_u16(at + 12, flags);
    bytes_put_u16(at + 14, next);
}

/* Fill the indirect table of `id`; the buffer that stands for it. */
static struct ring_buffer make_table(struct ring_driver *driver, uint16_t id,
                                     const struct ring_buffer *buffers, unsigned count)
{
    uint64_t room = TABLE_BYTES / driver->size / 16 * 16;
    uint64_t address = driver->area + TABLE_OFFSET + id * room;
    assert(count * UINT64_C(16) <= room);
    uint8_t *table = guest_memory_at(driver->memory, address, room);
    for (unsigned i = 0; i < count; i++) {
        uint16_t write = buffers[i].is_writable ? VRING_DESC_F_WRITE : 0;
        uint16_t next = i + 1 < count ? VRING_DESC_F_NEXT : 0;
        if (driver->packed)
            put_packed(table + i * 16, &buffers[i], write, id);
        else
            put_split(table + i * 16, &buffers[i], write | next, (uint16_t)(i + 1));
    }
    return (struct ring_buffer){.address = address, .bytes = count * 16};
}

static uint16_t free_id(const struct ring_driver *driver)
{
    uint16_t id = 0;
    while (driver->slots[id] != 0) {
        id++;
        assert(id < driver->size); /* a test offers no more than fits */
    }
    return id;
}

/* Split ids are descriptor numbers: a chain takes free ones, the first names it. Descriptors that
 * are not heads are kept in use by a count of UINT16_MAX. */
static void offer_split(struct ring_driver *driver, const struct ring_buffer *buffers,
                        unsigned count, uint16_t extra, uint16_t head)
{
    uint16_t at = head;
    for (unsigned i = 0; i < count; i++) {
        driver->slots[at] = i == 0 ? (uint16_t)count : UINT16_MAX;
        uint16_t next = i + 1 < count ? free_id(driver) : 0;
        uint16_t flags = extra;
        flags |= buffers[i].is_writable ? VRING_DESC_F_WRITE : 0;
        flags |= i + 1 < count ? VRING_DESC_F_NEXT : 0;
        put_split(ring_driver_descriptor(driver, at), &buffers[i], flags, next);
        at = next;
    }
    uint8_t *avail = ring_driver_avail(driver);
    bytes_put_u16(avail + 4 + (driver->avail % driver->size) * 2, head);
    driver->avail++;
    __atomic_store_n((uint16_t *)(void *)(avail + 2), driver->avail, __ATOMIC_RELEASE);
}

static void offer_packed(struct ring_driver *driver, const struct ring_buffer *buffers,
                         unsigned count, uint16_t extra, uint16_t id)
{
    uint16_t first = driver->avail, first_flags = 0;
    driver->slots[id] = (uint16_t)count;
    for (unsigned i = 0; i < count; i++) {
        uint16_t flags = extra;
        flags |= buffers[i].is_writable ? VRING_DESC_F_WRITE : 0;
        flags |= i + 1 < count ? VRING_DESC_F_NEXT : 0;
        flags |= driver->avail_wrap ? AVAIL_BIT : USED_BIT;
        uint8_t *at = ring_driver_descriptor(driver, driver->avail);
        uint16_t shown = i == 0 ? bytes_get_u16(at + 14) : flags; /* the first is shown last */
        if (i == 0)
            first_flags = flags;
        put_packed(at, &buffers[i], shown, id);
        if (++driver->avail == driver->size) {
            driver->avail = 0;
            driver->avail_wrap = !driver->avail_wrap;
        }
    }
    __atomic_store_n((uint16_t *)(void *)(ring_driver_descriptor(driver, first) + 14), first_flags,
                     __ATOMIC_RELEASE);
}

uint16_t ring_driver_offer(struct ring_driver *driver, const struct ring_buffer *buffers,
                           unsigned count, bool indirect)
{
    uint16_t id = free_id(driver);
    struct ring_buffer table;
    uint16_t extra = 0;
    if (indirect) {
        table = make_table(driver, id, buffers, count);
        buffers = &table;
        count = 1;
        extra = VRING_DESC_F_INDIRECT;
    }
    assert(count <= driver->free_slots);
    driver->free_slots = (uint16_t)(driver->free_slots - count);
    if (driver->packed)
        offer_packed(driver, buffers, count, extra, id);
    else
        offer_split(driver, buffers, count, extra, id);
    return id;
}

static void free_split(struct ring_driver *driver, uint16_t head)
{
    uint16_t count = driver->slots[head], at = head;
    for (unsigned i = 0; i < count; i++) {
        driver->slots[at] = 0;
        at = bytes_get_u16(ring_driver_descriptor(driver, at) + 14);
        if (at >= driver->size)
            return; /* a test scribbled over it */
    }
}

static bool take_split(struct ring_driver *driver, uint16_t *ret_id, uint32_t *ret_bytes)
{
    const uint8_t *used = ring_driver_used(driver);
    uint16_t index = __atomic_load_n((const uint16_t *)(const void *)(used + 2), __ATOMIC_ACQUIRE);
    if (index == driver->used)
        return false;
    const uint8_t *entry = used + 4 + (driver->used % driver->size) * 8;
    uint16_t id = (uint16_t)bytes_get_u32(entry);
    *ret_id = id;
    *ret_bytes = bytes_get_u32(entry + 4);
    if (id >= driver->size || !driver->slots[id] || driver->slots[id] == UINT16_MAX)
        return false; /* never offered */
    driver->free_slots = (uint16_t)(driver->free_slots + driver->slots[id]);
    free_split(driver, id);
    driver->used++;
    return true;
}

static bool take_packed(struct ring_driver *driver, uint16_t *ret_id, uint32_t *ret_bytes)
{
    const uint8_t *at = ring_driver_descriptor(driver, driver->used);
    uint16_t flags = __atomic_load_n((const uint16_t *)(const void *)(at + 14), __ATOMIC_ACQUIRE);
    if (!!(flags & USED_BIT) != driver->used_wrap || !!(flags & AVAIL_BIT) != driver->used_wrap)
        return false;
    uint16_t id = bytes_get_u16(at + 12);
    *ret_id = id;
    *ret_bytes = bytes_get_u32(at + 8);
    if (id >= driver->size || !driver->slots[id])
        return false; /* never offered */
    driver->free_slots = (uint16_t)(driver->free_slots + driver->slots[id]);
    driver->used = (uint16_t)(driver->used + driver->slots[id]);
    driver->slots[id] = 0;
    if (driver->used >= driver->size) {
        driver->used = (uint16_t)(driver->used - driver->size);
        driver->used_wrap = !driver->used_wrap;
    }
    return true;
}

bool ring_driver_take(struct ring_driver *driver, uint16_t *ret_id, uint32_t *ret_bytes)
{
    return driver->packed ? take_packed(driver, ret_id, ret_bytes)
                          : take_split(driver, ret_id, ret_bytes);
}

void ring_driver_want_interrupt(struct ring_driver *driver, bool want)
{
    uint8_t *area = ring_driver_avail(driver);
    if (!driver->packed) {
        bytes_put_u16(area, want ? 0 : VRING_AVAIL_F_NO_INTERRUPT);
        uint16_t event = (uint16_t)(want ? driver->used : driver->used - 1);
        bytes_put_u16(area + 4 + driver->size * 2, event);
        return;
    }
    bytes_put_u16(area, (uint16_t)(driver->used | (driver->used_wrap ? 1 << 15 : 0)));
    uint16_t on = driver->event_idx ? VRING_PACKED_EVENT_FLAG_DESC : VRING_PACKED_EVENT_FLAG_ENABLE;
    bytes_put_u16(area + 2, want ? on : VRING_PACKED_EVENT_FLAG_DISABLE);
}

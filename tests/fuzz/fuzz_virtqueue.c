/* A driver that means harm, against both ring formats. The input's first bytes choose format, size
 * and where the rings lie; then come guest writes into the rings and calls of a device. Whatever
 * happens, every byte of guest memory that changed by our own hand is marked as written, parts lie
 * in RAM, and nothing crashes. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>

#include "base/bitmap.h"
#include "base/bytes.h"
#include "vmm-core/guest_memory.h"
#include "vmm-core/virtqueue.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count);

/* All addresses that the fuzzer finds by itself lie in the first pages; the rest is for its
 * luck. */
enum { PLAY_PAGES = 16, PLAY_BYTES = PLAY_PAGES * PAGE_BYTES, HELD_MAX = 4 };

struct input {
    const uint8_t *bytes;
    size_t count;
};

static struct guest_memory *memory;
static struct bitmap dirty;
static uint8_t shadow[PLAY_BYTES]; /* as the guest left it and as marked writes changed it */
static struct virtqueue queue;
static struct virtqueue_chain held[HELD_MAX];
static unsigned held_count;

static void must(bool claim)
{
    if (!claim)
        abort();
}

static uint32_t take(struct input *input, unsigned bytes)
{
    uint32_t value = 0;
    for (unsigned i = 0; i < bytes && input->count; i++, input->count--)
        value = value << 8 | *input->bytes++;
    return value;
}

/* The oracle: pages that differ from the shadow are marked. */
static void check_marks(void)
{
    const uint8_t *base = guest_memory_base(memory);
    bitmap_clear_all(&dirty);
    guest_memory_take_written(memory, &dirty);
    for (uint64_t page = 0; page < PLAY_PAGES; page++) {
        const uint8_t *now = base + page * PAGE_BYTES;
        uint8_t *then = shadow + page * PAGE_BYTES;
        if (memcmp(now, then, PAGE_BYTES) == 0)
            continue;
        must(bitmap_test(&dirty, page));
        memcpy(then, now, PAGE_BYTES);
    }
}

static void check_chain(const struct virtqueue_chain *chain)
{
    const uint8_t *base = guest_memory_base(memory);
    uint64_t readable = 0, writable = 0;
    unsigned parts = (unsigned)chain->readable + chain->writable;
    must(parts >= 1 && parts <= VIRTQUEUE_PARTS_MAX);
    for (unsigned i = 0; i < parts; i++) {
        const uint8_t *at = chain->parts[i].iov_base;
        must(at >= base && range_fits((uint64_t)(at - base), chain->parts[i].iov_len,
                                      guest_memory_pages(memory) << PAGE_SHIFT));
        *(i < chain->readable ? &readable : &writable) += chain->parts[i].iov_len;
    }
    must(readable == chain->readable_bytes && writable == chain->writable_bytes);
}

static void device_turn(struct input *input, uint32_t what)
{
    if (!queue.guest.enabled)
        return;
    static uint8_t text[256];
    switch (what % 6) {
    case 0:
    case 1:
        if (held_count < HELD_MAX && virtqueue_pop(&queue, &held[held_count]) == VIRTQUEUE_POPPED) {
            check_chain(&held[held_count]);
            (void)virtqueue_chain_read(&held[held_count], take(input, 1), text, sizeof text);
            held_count++;
        }
        break;
    case 2:
        if (held_count) {
            const struct virtqueue_chain *chain = &held[--held_count];
            uint32_t offset = take(input, 1), fill = take(input, 1);
            memset(text, (int)fill, sizeof text);
            size_t wrote = virtqueue_chain_write(chain, offset, text, fill);
            virtqueue_push(&queue, chain, wrote ? (uint32_t)(offset + wrote) : 0);
        }
        break;
    case 3:
        if (held_count)
            virtqueue_unpop(&queue, &held[--held_count]);
        break;
    case 4:
        (void)virtqueue_rearm(&queue);
        break;
    case 5:
        (void)virtqueue_should_notify(&queue);
        break;
    }
    must(queue.in_flight <= queue.guest.size);
}

static void guest_turn(struct input *input)
{
    uint32_t at = take(input, 2) % (PLAY_BYTES - 16);
    uint32_t bytes = take(input, 1) % 17;
    uint8_t *base = guest_memory_base(memory);
    for (uint32_t i = 0; i < bytes; i++)
        base[at + i] = shadow[at + i] = (uint8_t)take(input, 1);
}

static void guest_writes(uint64_t address, const uint8_t *from, uint64_t count)
{
    if (!range_fits(address, count, PLAY_BYTES))
        return;
    memcpy(guest_memory_base(memory) + address, from, count);
    memcpy(shadow + address, from, count);
}

/* A descriptor that is nearly right, offered as the format wants it: so the walk goes deep. */
static void driver_turn(struct input *input)
{
    const struct virtqueue_guest *guest = &queue.guest;
    if (guest->size == 0)
        return;
    uint8_t descriptor[16], index[2];
    uint16_t slot = (uint16_t)(take(input, 1) % guest->size);
    uint16_t flags = (uint16_t)take(input, 1);
    uint16_t next = (uint16_t)take(input, 1);
    bytes_put_u64(descriptor, take(input, 2));
    bytes_put_u32(descriptor + 8, take(input, 1) * 4);
    bytes_put_u16(descriptor + 12, queue.packed ? next : flags & 7);
    if (queue.packed) {
        slot = flags & 8 ? slot : guest->next_avail;
        flags = (uint16_t)((flags & 7) | (guest->avail_wrap ? 1 << 7 : 1 << 15));
    }
    bytes_put_u16(descriptor + 14, queue.packed ? flags : next);
    guest_writes(guest->descriptors + slot * UINT64_C(16), descriptor, sizeof descriptor);
    if (queue.packed || (flags & 8))
        return;
    bytes_put_u16(index, slot);
    guest_writes(guest->driver + 4 + (guest->next_avail % guest->size) * UINT64_C(2), index, 2);
    bytes_put_u16(index, (uint16_t)(guest->next_avail + 1U));
    guest_writes(guest->driver + 2, index, 2);
}

static void begin(struct input *input)
{
    static const uint16_t sizes[] = {0, 1, 2, 3, 4, 7, 8, 16, 32, 256, 257, 1024};
    uint32_t choice = take(input, 1);
    uint64_t features = (choice & 1 ? UINT64_C(1) << VIRTIO_F_RING_PACKED : 0) |
                        (choice & 2 ? UINT64_C(1) << VIRTIO_RING_F_INDIRECT_DESC : 0) |
                        (choice & 4 ? UINT64_C(1) << VIRTIO_RING_F_EVENT_IDX : 0);
    struct virtqueue_guest guest = {
        .size = sizes[take(input, 1) % 12],
        .descriptors = take(input, 1) * UINT64_C(0x100),
        .driver = take(input, 1) * UINT64_C(0x82),
        .device = take(input, 1) * UINT64_C(0x104),
        .enabled = 1,
    };
    if (choice & 8)
        guest.driver = MIB(16) - guest.driver;
    queue.guest = guest;
    if (choice & 16) { /* as a hostile source would send it */
        guest.next_avail = (uint16_t)take(input, 2);
        guest.next_used = (choice & 32) ? guest.next_avail : (uint16_t)take(input, 2);
        guest.avail_wrap = choice >> 6 & 1;
        guest.used_wrap = choice >> 7 & 1;
        (void)virtqueue_revive(&queue, &guest, memory, features);
    } else {
        (void)virtqueue_start(&queue, memory, features);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    struct input input = {bytes, count};
    if (!memory) {
        must(guest_memory_new(&memory, MIB(16), false, NULL) == 0);
        must(bitmap_init(&dirty, guest_memory_pages(memory)) == 0);
    }
    memset(guest_memory_base(memory), 0, PLAY_BYTES);
    memset(shadow, 0, sizeof shadow);
    held_count = 0;
    begin(&input);
    check_marks();
    while (input.count) {
        uint32_t what = take(&input, 1);
        if (what & 1)
            what & 2 ? driver_turn(&input) : guest_turn(&input);
        else
            device_turn(&input, what >> 1);
        check_marks();
    }
    return 0;
}

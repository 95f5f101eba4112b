#include "virtio.h"

#include "interrupt.h"
#include "machine.h"

enum {
    VENDOR = 0x1af4,
    DEVICE_MODERN = 0x1040,
    CAPABILITY_VENDOR = 0x09,
    CAPABILITY_MSIX = 0x11,
    WINDOW_COMMON = 1,
    WINDOW_NOTIFY = 2,
    WINDOW_DEVICE = 4,
    COMMAND = 0x04,
    COMMAND_MEMORY_MASTER = 0x06,
    MSIX_ENABLE = 0x8000,

    DEVICE_FEATURE_SELECT = 0x00,
    DEVICE_FEATURE = 0x04,
    DRIVER_FEATURE_SELECT = 0x08,
    DRIVER_FEATURE = 0x0c,
    CONFIG_VECTOR = 0x10,
    QUEUES = 0x12,
    STATUS = 0x14,
    QUEUE_SELECT = 0x16,
    QUEUE_SIZE = 0x18,
    QUEUE_VECTOR = 0x1a,
    QUEUE_ENABLE = 0x1c,
    QUEUE_NOTIFY_OFF = 0x1e,
    QUEUE_DESCRIPTORS = 0x20,
    QUEUE_DRIVER = 0x28,
    QUEUE_DEVICE = 0x30,

    STATUS_ACKNOWLEDGE = 1,
    STATUS_DRIVER = 2,
    STATUS_DRIVER_OK = 4,
    STATUS_FEATURES_OK = 8,
    STATUS_WELL = STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_DRIVER_OK | STATUS_FEATURES_OK,
    NO_VECTOR = 0xffff,

    NEXT = 1,
    WRITE = 2,
    AVAIL_BIT = 1 << 7,
    USED_BIT = 1 << 15,
    EVENT_WRAP = 1 << 15,
    EVENT_ENABLE = 0,
    EVENT_DISABLE = 1,
    EVENT_DESC = 2,

    /* In a ring's memory. */
    DRIVER_OFFSET = VIRTIO_RING_SIZE_MAX * 16,
    DEVICE_OFFSET = DRIVER_OFFSET + 1024,
    RING_BYTES = DEVICE_OFFSET + 3072,
};

static uint8_t ring_memory[2 * VIRTIO_RINGS_MAX][RING_BYTES] __attribute__((aligned(4096)));
static uint32_t ring_memory_used;

static volatile uint16_t *at16(volatile uint8_t *at)
{
    return (volatile uint16_t *)(volatile void *)at;
}

static volatile uint32_t *at32(volatile uint8_t *at)
{
    return (volatile uint32_t *)(volatile void *)at;
}

static void put64(volatile uint8_t *at, uint64_t value)
{
    *at32(at) = (uint32_t)value;
    *at32(at + 4) = (uint32_t)(value >> 32);
}

static void find_windows(struct virtio *device)
{
    for (uint32_t at = pci_next_capability(device->place, 0); at;
         at = pci_next_capability(device->place, at)) {
        uint32_t id = pci_read(device->place, at, 1);

        if (id == CAPABILITY_MSIX)
            device->msix_offset = at;
        if (id != CAPABILITY_VENDOR)
            continue;

        uint64_t bar = pci_bar(device->place, pci_read(device->place, at + 4, 1));
        volatile uint8_t *window =
            bar ? (volatile uint8_t *)(bar + pci_read(device->place, at + 8, 4)) : 0;

        switch (pci_read(device->place, at + 3, 1)) {
        case WINDOW_COMMON:
            device->common = window;
            break;
        case WINDOW_NOTIFY:
            device->notify = window;
            device->notify_multiplier = pci_read(device->place, at + 16, 4);
            break;
        case WINDOW_DEVICE:
            device->config = window;
            break;
        }
    }
}

static void enable_msix(struct virtio *device, uint32_t vector)
{
    if (!vector || !device->msix_offset)
        return;
    interrupt_enable();
    device->by_interrupt = true;
    device->vector_next = vector;
    pci_write16(device->place, device->msix_offset + 2, MSIX_ENABLE);
}

/* The next entry of the device's MSI-X table, unmasked. */
static uint16_t take_entry(struct virtio *device, uint32_t vector)
{
    uint32_t table = pci_read(device->place, device->msix_offset + 4, 4);
    volatile uint8_t *entry =
        (volatile uint8_t *)(pci_bar(device->place, table & 7) + (table & ~UINT32_C(7)) +
                             device->entry_next * 16);

    put64(entry, interrupt_message_address());
    *at32(entry + 8) = interrupt_message_data(vector);
    *at32(entry + 12) = 0;
    return device->entry_next++;
}

static uint64_t offered_features(const struct virtio *device)
{
    uint64_t features = 0;

    for (uint32_t half = 0; half < 2; half++) {
        *at32(device->common + DEVICE_FEATURE_SELECT) = half;
        features |= (uint64_t)*at32(device->common + DEVICE_FEATURE) << half * 32;
    }
    return features;
}

bool virtio_begin(struct virtio *device, uint16_t type, uint32_t index, uint64_t wanted,
                  uint32_t vector)
{
    *device = (struct virtio){0};
    if (!pci_find(VENDOR, (uint16_t)(DEVICE_MODERN + type), index, &device->place))
        return false;
    pci_write16(device->place, COMMAND, COMMAND_MEMORY_MASTER);
    find_windows(device);
    if (!device->common || !device->notify || !device->config)
        return false;

    volatile uint8_t *status = device->common + STATUS;

    *status = 0;
    while (*status)
        machine_pause();
    enable_msix(device, vector);
    *status = STATUS_ACKNOWLEDGE;
    *status = STATUS_ACKNOWLEDGE | STATUS_DRIVER;
    device->features = offered_features(device) & (wanted | VIRTIO_F_VERSION_1);
    for (uint32_t half = 0; half < 2; half++) {
        *at32(device->common + DRIVER_FEATURE_SELECT) = half;
        *at32(device->common + DRIVER_FEATURE) = (uint32_t)(device->features >> half * 32);
    }
    *status = STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK;
    *at16(device->common + CONFIG_VECTOR) = NO_VECTOR;
    return *status & STATUS_FEATURES_OK && device->features & VIRTIO_F_VERSION_1;
}

bool virtio_add_ring(struct virtio *device, struct virtio_ring *ring, uint16_t queue,
                     bool wants_interrupts)
{
    volatile uint8_t *common = device->common;

    if (queue >= *at16(common + QUEUES) ||
        ring_memory_used == sizeof(ring_memory) / sizeof(ring_memory[0]))
        return false;
    *at16(common + QUEUE_SELECT) = queue;

    uint16_t size = *at16(common + QUEUE_SIZE);

    if (size > VIRTIO_RING_SIZE_MAX)
        size = VIRTIO_RING_SIZE_MAX;
    if (size < VIRTIO_PARTS)
        return false;

    bool packed = device->features & VIRTIO_F_RING_PACKED;
    uint64_t memory = (uint64_t)ring_memory[ring_memory_used++];

    *ring = (struct virtio_ring){
        .size = size,
        .requests = size / VIRTIO_PARTS,
        .packed = packed,
        .event_idx = device->features & VIRTIO_F_EVENT_IDX,
        .avail_wrap = packed,
        .used_wrap = packed,
        .index = queue,
        .memory = (volatile uint8_t *)memory,
        .doorbell =
            at16(device->notify + *at16(common + QUEUE_NOTIFY_OFF) * device->notify_multiplier),
    };
    *at16(common + QUEUE_SIZE) = size;
    if (device->by_interrupt && wants_interrupts) {
        ring->vector = device->vector_next++;
        *at16(common + QUEUE_VECTOR) = take_entry(device, ring->vector);
        if (*at16(common + QUEUE_VECTOR) == NO_VECTOR)
            return false;
    } else {
        *at16(common + QUEUE_VECTOR) = NO_VECTOR;
        /* Never an interrupt: the flag for split, the event structure for packed. */
        *at16(ring->memory + DRIVER_OFFSET) = packed ? 0 : EVENT_DISABLE;
        if (packed)
            *at16(ring->memory + DRIVER_OFFSET + 2) = EVENT_DISABLE;
    }
    put64(common + QUEUE_DESCRIPTORS, memory);
    put64(common + QUEUE_DRIVER, memory + DRIVER_OFFSET);
    put64(common + QUEUE_DEVICE, memory + DEVICE_OFFSET);
    *at16(common + QUEUE_ENABLE) = 1;
    return true;
}

void virtio_go(struct virtio *device)
{
    *(device->common + STATUS) = STATUS_WELL;
}

bool virtio_is_well(const struct virtio *device)
{
    return *(device->common + STATUS) == STATUS_WELL;
}

uint32_t virtio_config_read(const struct virtio *device, uint32_t offset, uint32_t bytes)
{
    volatile uint8_t *at = device->config + offset;

    return bytes == 4 ? *at32(at) : bytes == 2 ? *at16(at) : *at;
}

static volatile uint8_t *slot_at(const struct virtio_ring *ring, uint32_t slot)
{
    return ring->memory + slot * 16;
}

static void put_part(volatile uint8_t *at, const struct virtio_part *part)
{
    *(volatile uint64_t *)(volatile void *)at = (uint64_t)part->address;
    *at32(at + 8) = part->bytes;
}

/* Request n owns descriptors n * VIRTIO_PARTS and on. */
static void offer_split(struct virtio_ring *ring, uint16_t request, const struct virtio_part *parts,
                        uint32_t count)
{
    uint32_t first = (uint32_t)request * VIRTIO_PARTS;
    volatile uint8_t *avail = ring->memory + DRIVER_OFFSET;

    for (uint32_t i = 0; i < count; i++) {
        volatile uint8_t *at = slot_at(ring, first + i);

        put_part(at, &parts[i]);
        *at16(at + 12) =
            (uint16_t)((parts[i].is_writable ? WRITE : 0) | (i + 1 < count ? NEXT : 0));
        *at16(at + 14) = (uint16_t)(first + i + 1);
    }
    *at16(avail + 4 + ring->avail % ring->size * 2) = (uint16_t)first;
    ring->avail++;
    __atomic_thread_fence(__ATOMIC_RELEASE);
    *at16(avail + 2) = ring->avail;
}

static void offer_packed(struct virtio_ring *ring, uint16_t request,
                         const struct virtio_part *parts, uint32_t count)
{
    volatile uint8_t *first = slot_at(ring, ring->avail);
    uint16_t first_flags = 0;

    for (uint32_t i = 0; i < count; i++) {
        volatile uint8_t *at = slot_at(ring, ring->avail);
        uint16_t flags =
            (uint16_t)((parts[i].is_writable ? WRITE : 0) | (i + 1 < count ? NEXT : 0) |
                       (ring->avail_wrap ? AVAIL_BIT : USED_BIT));

        put_part(at, &parts[i]);
        *at16(at + 12) = request;
        if (i == 0)
            first_flags = flags;
        else
            *at16(at + 14) = flags;
        if (++ring->avail == ring->size) {
            ring->avail = 0;
            ring->avail_wrap = !ring->avail_wrap;
        }
    }
    ring->slots[request] = (uint8_t)count;
    ring->fresh = (uint16_t)(ring->fresh + count);
    __atomic_thread_fence(__ATOMIC_RELEASE);
    *at16(first + 14) = first_flags;
}

void virtio_offer(struct virtio_ring *ring, uint16_t request, const struct virtio_part *parts,
                  uint32_t count)
{
    if (ring->packed)
        offer_packed(ring, request, parts, count);
    else
        offer_split(ring, request, parts, count);
}

static bool passed(uint16_t event, uint16_t now, uint16_t fresh)
{
    return (uint16_t)(now - event - 1) < fresh;
}

static bool wants_kick(struct virtio_ring *ring)
{
    volatile uint8_t *device = ring->memory + DEVICE_OFFSET;

    if (!ring->packed) {
        uint16_t fresh = (uint16_t)(ring->avail - ring->kicked);

        ring->kicked = ring->avail;
        if (!ring->event_idx)
            return !(*at16(device) & 1);
        return passed(*at16(device + 4 + ring->size * 8), ring->avail, fresh);
    }

    uint16_t fresh = ring->fresh, flags = *at16(device + 2) & 3, event = *at16(device);
    uint16_t slot = event & (uint16_t)~EVENT_WRAP;

    ring->fresh = 0;
    if (flags != EVENT_DESC)
        return flags != EVENT_DISABLE;
    if (!!(event & EVENT_WRAP) != ring->avail_wrap)
        slot = (uint16_t)(slot - ring->size);
    return passed(slot, ring->avail, fresh);
}

void virtio_kick(struct virtio_ring *ring)
{
    if (ring->packed ? ring->fresh == 0 : ring->kicked == ring->avail)
        return;
    machine_fence(); /* what was offered is seen before we look whether to tell */
    if (wants_kick(ring))
        *ring->doorbell = ring->index;
}

static bool has_used(const struct virtio_ring *ring)
{
    if (!ring->packed)
        return *at16(ring->memory + DEVICE_OFFSET + 2) != ring->used;

    uint16_t flags = *at16(slot_at(ring, ring->used) + 14);

    return !!(flags & USED_BIT) == ring->used_wrap && !!(flags & AVAIL_BIT) == ring->used_wrap;
}

bool virtio_take(struct virtio_ring *ring, uint16_t *ret_request, uint32_t *ret_bytes)
{
    if (!has_used(ring))
        return false;
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    if (!ring->packed) {
        volatile uint8_t *entry = ring->memory + DEVICE_OFFSET + 4 + ring->used % ring->size * 8;

        *ret_request = (uint16_t)(*at32(entry) / VIRTIO_PARTS);
        *ret_bytes = *at32(entry + 4);
        ring->used++;
        return true;
    }

    volatile uint8_t *at = slot_at(ring, ring->used);

    *ret_request = *at16(at + 12);
    *ret_bytes = *at32(at + 8);
    ring->used = (uint16_t)(ring->used + ring->slots[*ret_request % VIRTIO_REQUESTS_MAX]);
    if (ring->used >= ring->size) {
        ring->used = (uint16_t)(ring->used - ring->size);
        ring->used_wrap = !ring->used_wrap;
    }
    return true;
}

bool virtio_rearm(struct virtio_ring *ring)
{
    volatile uint8_t *driver = ring->memory + DRIVER_OFFSET;

    if (!ring->vector)
        return has_used(ring);
    if (!ring->packed) {
        if (ring->event_idx)
            *at16(driver + 4 + ring->size * 2) = ring->used;
    } else {
        *at16(driver) = (uint16_t)(ring->used | (ring->used_wrap ? EVENT_WRAP : 0));
        *at16(driver + 2) = ring->event_idx ? EVENT_DESC : EVENT_ENABLE;
    }
    machine_fence();
    return has_used(ring);
}

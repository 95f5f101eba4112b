/* Two ring formats behind one noun.
 *
 *   split    available ring of heads  ->  descriptor table (linked)  ->  used ring
 *   packed   one ring of descriptors; the driver turns two flag bits to offer a slot, the device
 *            turns them back to return it; wrap counters say which way round is which
 *
 * What cannot happen here: a field read twice (load_* hide the memory from the compiler), an
 * address followed unjudged (guest_memory_at), a chain without end (a part at least each step, and
 * parts are counted), more in flight than the ring has slots.
 */
#include "vmm-core/virtqueue.h"

#include <assert.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <string.h>

#include "base/bytes.h"
#include "proto/device_state.pb-c.h"
#include "vmm-core/guest_memory.h"
#include "vmm-core/state_reader.h"

enum {
    DESCRIPTOR_BYTES = 16,
    DESCRIPTOR_ALIGN = 16,
    SPLIT_AVAIL_ALIGN = 2,
    SPLIT_USED_ALIGN = 4,
    SPLIT_USED_BYTES = 8,   /* one entry */
    SPLIT_HEADER_BYTES = 4, /* flags, index */
    PACKED_EVENT_ALIGN = 4,
    PACKED_EVENT_BYTES = 4,
    PACKED_AVAIL = 1 << 7,
    PACKED_USED = 1 << 15,
    PACKED_EVENT_WRAP = 1 << 15,
    /* So many slots used since the driver was last told: its event may lie anywhere. */
    UNTOLD_MAX = 1 << 15,
};

struct descriptor {
    uint64_t address;
    uint32_t bytes;
    uint16_t flags;
    uint16_t next; /* packed: buffer id, which stands before the flags */
};

static uint16_t load_u16(const uint8_t *at)
{
    return le16toh(__atomic_load_n((const uint16_t *)(const void *)at, __ATOMIC_ACQUIRE));
}

static void store_u16(struct virtqueue *queue, uint8_t *at, uint16_t value)
{
    __atomic_store_n((uint16_t *)(void *)at, htole16(value), __ATOMIC_RELEASE);
    guest_memory_mark_host_written(queue->memory, at, sizeof value);
}

static void store_u32(struct virtqueue *queue, uint8_t *at, uint32_t value)
{
    __atomic_store_n((uint32_t *)(void *)at, htole32(value), __ATOMIC_RELAXED);
    guest_memory_mark_host_written(queue->memory, at, sizeof value);
}

/* Once: behind the fence the compiler cannot read it again instead of keeping it. An indirect
 * table may lie anywhere, so this is no aligned load. */
static struct descriptor load_descriptor(const uint8_t *at, bool packed)
{
    uint8_t copy[DESCRIPTOR_BYTES];
    memcpy(copy, at, sizeof copy);
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    return (struct descriptor){
        .address = bytes_get_u64(copy),
        .bytes = bytes_get_u32(copy + 8),
        .flags = bytes_get_u16(copy + (packed ? 14 : 12)),
        .next = bytes_get_u16(copy + (packed ? 12 : 14)),
    };
}

static uint8_t *packed_slot(const struct virtqueue *queue, uint16_t slot)
{
    assert(slot < queue->guest.size);
    return queue->descriptors + (size_t)slot * DESCRIPTOR_BYTES;
}

/* The driver writes the flags last: the half that holds them is read first, in one piece. */
static struct descriptor load_packed(const struct virtqueue *queue, uint16_t slot)
{
    const uint8_t *at = packed_slot(queue, slot);
    uint64_t tail =
        le64toh(__atomic_load_n((const uint64_t *)(const void *)(at + 8), __ATOMIC_ACQUIRE));
    uint64_t address =
        le64toh(__atomic_load_n((const uint64_t *)(const void *)at, __ATOMIC_RELAXED));
    return (struct descriptor){
        .address = address,
        .bytes = (uint32_t)tail,
        .next = (uint16_t)(tail >> 32),
        .flags = (uint16_t)(tail >> 48),
    };
}

void virtqueue_break(struct virtqueue *queue, const char *trouble)
{
    if (queue->guest.broken)
        return;
    queue->guest.broken = 1;
    queue->trouble = trouble;
}

static bool place(struct virtqueue *queue, uint64_t address, uint64_t bytes, uint64_t align,
                  uint8_t **ret_at)
{
    uint8_t *at = guest_memory_at(queue->memory, address, bytes);
    if (address % align != 0)
        virtqueue_break(queue, "a ring is not aligned");
    else if (!at)
        virtqueue_break(queue, "a ring lies outside of memory");
    *ret_at = at;
    return !queue->guest.broken;
}

static bool place_split(struct virtqueue *queue)
{
    const struct virtqueue_guest *guest = &queue->guest;
    uint64_t size = guest->size;
    if ((size & (size - 1)) != 0) {
        virtqueue_break(queue, "a split ring's size is no power of two");
        return false;
    }
    return place(queue, guest->descriptors, size * DESCRIPTOR_BYTES, DESCRIPTOR_ALIGN,
                 &queue->descriptors) &&
           place(queue, guest->driver, SPLIT_HEADER_BYTES + size * 2 + 2, SPLIT_AVAIL_ALIGN,
                 &queue->driver) &&
           place(queue, guest->device, SPLIT_HEADER_BYTES + size * SPLIT_USED_BYTES + 2,
                 SPLIT_USED_ALIGN, &queue->device);
}

static bool place_packed(struct virtqueue *queue)
{
    const struct virtqueue_guest *guest = &queue->guest;
    return place(queue, guest->descriptors, (uint64_t)guest->size * DESCRIPTOR_BYTES,
                 DESCRIPTOR_ALIGN, &queue->descriptors) &&
           place(queue, guest->driver, PACKED_EVENT_BYTES, PACKED_EVENT_ALIGN, &queue->driver) &&
           place(queue, guest->device, PACKED_EVENT_BYTES, PACKED_EVENT_ALIGN, &queue->device);
}

/* The host half from the guest half. */
static bool place_rings(struct virtqueue *queue, struct guest_memory *memory, uint64_t features)
{
    *queue = (struct virtqueue){
        .guest = queue->guest,
        .memory = memory,
        .packed = features >> VIRTIO_F_RING_PACKED & 1,
        .indirect = features >> VIRTIO_RING_F_INDIRECT_DESC & 1,
        .event_idx = features >> VIRTIO_RING_F_EVENT_IDX & 1,
    };
    if (queue->guest.size == 0 || queue->guest.size > VIRTQUEUE_SIZE_MAX) {
        virtqueue_break(queue, "a ring has no size or one beyond its limit");
        return false;
    }
    return queue->packed ? place_packed(queue) : place_split(queue);
}

bool virtqueue_start(struct virtqueue *queue, struct guest_memory *memory, uint64_t features)
{
    struct virtqueue_guest *guest = &queue->guest;
    guest->next_avail = guest->next_used = 0;
    guest->avail_wrap = guest->used_wrap = features >> VIRTIO_F_RING_PACKED & 1;
    guest->enabled = 1;
    guest->broken = 0;
    return place_rings(queue, memory, features);
}

bool virtqueue_revive(struct virtqueue *queue, const struct virtqueue_guest *guest,
                      struct guest_memory *memory, uint64_t features)
{
    *queue = (struct virtqueue){.guest = *guest};
    if (guest->broken)
        queue->trouble = "it was broken before the move";
    if (!guest->enabled || guest->broken)
        return true;
    if (!place_rings(queue, memory, features))
        return false;

    queue->untold = UNTOLD_MAX;
    bool is_quiet = guest->next_avail == guest->next_used && guest->avail_wrap == guest->used_wrap;
    bool is_inside = queue->packed ? guest->next_avail < guest->size : guest->avail_wrap == 0;
    if (!is_quiet || !is_inside)
        virtqueue_break(queue, "its position is none that a quiet ring can have");
    return is_quiet && is_inside;
}

void virtqueue_reset(struct virtqueue *queue)
{
    memset(queue, 0, sizeof *queue);
}

/* Returns what is wrong with it, or NULL. */
static const char *add_part(struct virtqueue *queue, struct virtqueue_chain *chain,
                            const struct descriptor *descriptor)
{
    bool is_writable = descriptor->flags & VRING_DESC_F_WRITE;
    uint32_t *bytes = is_writable ? &chain->writable_bytes : &chain->readable_bytes;
    unsigned index = (unsigned)chain->readable + chain->writable;
    if (index >= VIRTQUEUE_PARTS_MAX)
        return "a chain has more parts than its limit";
    if (descriptor->bytes == 0)
        return "a part of a chain is empty";
    if (!is_writable && chain->writable)
        return "a chain has a readable part behind a writable one";
    if (descriptor->bytes > UINT32_MAX - *bytes)
        return "a chain is longer than 4 GiB";
    uint8_t *at = guest_memory_at(queue->memory, descriptor->address, descriptor->bytes);
    if (!at)
        return "a part of a chain lies outside of memory";

    chain->parts[index] = (struct iovec){.iov_base = at, .iov_len = descriptor->bytes};
    *bytes += descriptor->bytes;
    if (is_writable)
        chain->writable++;
    else
        chain->readable++;
    return NULL;
}

static const char *find_table(const struct virtqueue *queue, const struct descriptor *descriptor,
                              const uint8_t **ret_table, uint32_t *ret_entries)
{
    if (!queue->indirect)
        return "an indirect table was never agreed on";
    if (descriptor->flags & VRING_DESC_F_NEXT)
        return "an indirect table is not the end of its chain";
    if (descriptor->bytes == 0 || descriptor->bytes % DESCRIPTOR_BYTES != 0)
        return "an indirect table has an odd size";
    *ret_table = guest_memory_at(queue->memory, descriptor->address, descriptor->bytes);
    *ret_entries = descriptor->bytes / DESCRIPTOR_BYTES;
    return *ret_table ? NULL : "an indirect table lies outside of memory";
}

/* Follow links from `index`; at most `entries` descriptors make a chain in a table of so many, and
 * only the ring's own table may end in another one. */
static const char *walk_links(struct virtqueue *queue, struct virtqueue_chain *chain,
                              const uint8_t *table, uint32_t entries, uint32_t index)
{
    for (uint32_t step = 0; step < entries; step++) {
        if (index >= entries)
            return "a descriptor's number is beyond its table";
        struct descriptor descriptor =
            load_descriptor(table + (size_t)index * DESCRIPTOR_BYTES, false);
        const char *trouble = NULL;
        if (descriptor.flags & VRING_DESC_F_INDIRECT) {
            if (table != queue->descriptors)
                return "an indirect table holds another";
            trouble = find_table(queue, &descriptor, &table, &entries);
            if (!trouble && table == queue->descriptors)
                trouble = "an indirect table is the ring's own";
            return trouble ? trouble : walk_links(queue, chain, table, entries, 0);
        }
        trouble = add_part(queue, chain, &descriptor);
        if (trouble || !(descriptor.flags & VRING_DESC_F_NEXT))
            return trouble;
        index = descriptor.next;
    }
    return "a chain is a loop";
}

static enum virtqueue_pop pop_split(struct virtqueue *queue, struct virtqueue_chain *chain)
{
    struct virtqueue_guest *guest = &queue->guest;
    uint16_t waiting = (uint16_t)(load_u16(queue->driver + 2) - guest->next_avail);
    if (waiting == 0)
        return VIRTQUEUE_EMPTY;

    const char *trouble = NULL;
    size_t entry = guest->next_avail & (guest->size - 1U);
    uint16_t head = load_u16(queue->driver + SPLIT_HEADER_BYTES + entry * 2);
    if (waiting > guest->size)
        trouble = "the driver offers more chains than the ring has";
    else if (queue->in_flight >= guest->size)
        trouble = "the driver offers chains that it has not got back";
    else
        trouble = walk_links(queue, chain, queue->descriptors, guest->size, head);
    if (trouble) {
        virtqueue_break(queue, trouble);
        return VIRTQUEUE_BROKEN;
    }
    chain->id = head;
    chain->slots = 1;
    guest->next_avail++;
    queue->in_flight++;
    return VIRTQUEUE_POPPED;
}

static bool packed_is_offered(uint16_t flags, bool wrap)
{
    return !!(flags & PACKED_AVAIL) == wrap && !!(flags & PACKED_USED) != wrap;
}

/* Packed tables have no links: one behind the other. */
static const char *walk_packed_table(struct virtqueue *queue, struct virtqueue_chain *chain,
                                     const struct descriptor *descriptor)
{
    const uint8_t *table = NULL;
    uint32_t entries = 0;
    const char *trouble = find_table(queue, descriptor, &table, &entries);
    for (uint32_t i = 0; !trouble && i < entries; i++) {
        struct descriptor inner = load_descriptor(table + (size_t)i * DESCRIPTOR_BYTES, true);
        trouble = add_part(queue, chain, &inner);
    }
    return trouble;
}

static const char *walk_packed(struct virtqueue *queue, struct virtqueue_chain *chain,
                               struct descriptor descriptor)
{
    uint16_t slot = queue->guest.next_avail;
    for (chain->slots = 1;; chain->slots++) {
        const char *trouble = descriptor.flags & VRING_DESC_F_INDIRECT
                                  ? walk_packed_table(queue, chain, &descriptor)
                                  : add_part(queue, chain, &descriptor);
        if (trouble)
            return trouble;
        if (!(descriptor.flags & VRING_DESC_F_NEXT))
            break;
        if (chain->slots >= queue->guest.size)
            return "a chain is a loop";
        slot = (uint16_t)(slot + 1U == queue->guest.size ? 0 : slot + 1U);
        descriptor = load_packed(queue, slot);
    }
    chain->id = descriptor.next;
    if (chain->slots > queue->guest.size - queue->in_flight)
        return "the driver offers chains that it has not got back";
    return NULL;
}

/* Move a packed position by `slots`, turning its wrap counter at the end of the ring. */
static void packed_advance(const struct virtqueue *queue, uint16_t *position, uint8_t *wrap,
                           uint16_t slots)
{
    unsigned sum = (unsigned)*position + slots;
    if (sum >= queue->guest.size) {
        sum -= queue->guest.size;
        *wrap ^= 1;
    }
    *position = (uint16_t)sum;
}

static enum virtqueue_pop pop_packed(struct virtqueue *queue, struct virtqueue_chain *chain)
{
    struct virtqueue_guest *guest = &queue->guest;
    struct descriptor first = load_packed(queue, guest->next_avail);
    if (!packed_is_offered(first.flags, guest->avail_wrap))
        return VIRTQUEUE_EMPTY;
    const char *trouble = walk_packed(queue, chain, first);
    if (trouble) {
        virtqueue_break(queue, trouble);
        return VIRTQUEUE_BROKEN;
    }
    packed_advance(queue, &guest->next_avail, &guest->avail_wrap, chain->slots);
    queue->in_flight = (uint16_t)(queue->in_flight + chain->slots);
    return VIRTQUEUE_POPPED;
}

enum virtqueue_pop virtqueue_pop(struct virtqueue *queue, struct virtqueue_chain *ret_chain)
{
    assert(queue->guest.enabled);
    if (queue->guest.broken)
        return VIRTQUEUE_BROKEN;
    ret_chain->readable = ret_chain->writable = 0;
    ret_chain->readable_bytes = ret_chain->writable_bytes = 0;
    return queue->packed ? pop_packed(queue, ret_chain) : pop_split(queue, ret_chain);
}

void virtqueue_unpop(struct virtqueue *queue, const struct virtqueue_chain *chain)
{
    struct virtqueue_guest *guest = &queue->guest;
    assert(queue->in_flight >= chain->slots);
    queue->in_flight = (uint16_t)(queue->in_flight - chain->slots);
    if (!queue->packed) {
        guest->next_avail--;
        return;
    }
    if (guest->next_avail < chain->slots) {
        guest->next_avail = (uint16_t)(guest->next_avail + guest->size);
        guest->avail_wrap ^= 1;
    }
    guest->next_avail = (uint16_t)(guest->next_avail - chain->slots);
}

static void mark_writable(struct virtqueue *queue, const struct virtqueue_chain *chain,
                          uint32_t bytes)
{
    for (unsigned i = 0; bytes > 0; i++) {
        assert(i < chain->writable);
        const struct iovec *part = &chain->parts[chain->readable + i];
        uint32_t here = bytes < part->iov_len ? bytes : (uint32_t)part->iov_len;
        guest_memory_mark_host_written(queue->memory, part->iov_base, here);
        bytes -= here;
    }
}

static void fill_split(struct virtqueue *queue, const struct virtqueue_chain *chain,
                       uint32_t bytes_written)
{
    const struct virtqueue_guest *guest = &queue->guest;
    size_t entry = (size_t)(guest->next_used + queue->staged) & (guest->size - 1U);
    uint8_t *at = queue->device + SPLIT_HEADER_BYTES + entry * SPLIT_USED_BYTES;
    store_u32(queue, at, chain->id);
    store_u32(queue, at + 4, bytes_written);
}

/* The first of several is shown last: a driver that finds it finds the others too. */
static void fill_packed(struct virtqueue *queue, const struct virtqueue_chain *chain,
                        uint32_t bytes_written)
{
    uint16_t slot = queue->guest.next_used;
    uint8_t wrap = queue->guest.used_wrap;
    packed_advance(queue, &slot, &wrap, queue->staged);
    uint16_t flags = (uint16_t)((wrap ? PACKED_AVAIL | PACKED_USED : 0) |
                                (bytes_written ? VRING_DESC_F_WRITE : 0));
    uint8_t *at = packed_slot(queue, slot);
    store_u32(queue, at + 8, bytes_written);
    store_u16(queue, at + 12, chain->id);
    if (queue->staged == 0)
        queue->staged_flags = flags;
    else
        store_u16(queue, at + 14, flags);
}

void virtqueue_fill(struct virtqueue *queue, const struct virtqueue_chain *chain,
                    uint32_t bytes_written)
{
    assert(bytes_written <= chain->writable_bytes);
    assert(chain->slots >= 1 && queue->in_flight >= chain->slots);
    mark_writable(queue, chain, bytes_written);
    queue->in_flight = (uint16_t)(queue->in_flight - chain->slots);
    if (queue->guest.broken)
        return; /* nobody reads its rings any more */
    if (queue->packed)
        fill_packed(queue, chain, bytes_written);
    else
        fill_split(queue, chain, bytes_written);
    queue->staged = (uint16_t)(queue->staged + chain->slots);
}

void virtqueue_flush(struct virtqueue *queue)
{
    struct virtqueue_guest *guest = &queue->guest;
    if (queue->staged == 0)
        return;
    if (queue->packed) {
        store_u16(queue, packed_slot(queue, guest->next_used) + 14, queue->staged_flags);
        packed_advance(queue, &guest->next_used, &guest->used_wrap, queue->staged);
    } else {
        guest->next_used = (uint16_t)(guest->next_used + queue->staged);
        store_u16(queue, queue->device + 2, guest->next_used);
    }
    if (queue->untold < UNTOLD_MAX)
        queue->untold += queue->staged;
    queue->staged = 0;
}

void virtqueue_push(struct virtqueue *queue, const struct virtqueue_chain *chain,
                    uint32_t bytes_written)
{
    virtqueue_fill(queue, chain, bytes_written);
    virtqueue_flush(queue);
}

/* Did the last `untold` slots up to `now` pass the slot behind `event`? */
static bool passed_event(uint16_t event, uint16_t now, uint32_t untold)
{
    return (uint16_t)(now - event - 1) < (uint16_t)untold;
}

static bool split_wants_notify(const struct virtqueue *queue, uint32_t untold)
{
    if (!queue->event_idx)
        return !(load_u16(queue->driver) & VRING_AVAIL_F_NO_INTERRUPT);
    uint16_t event = load_u16(queue->driver + SPLIT_HEADER_BYTES + (size_t)queue->guest.size * 2);
    return untold >= UNTOLD_MAX || passed_event(event, queue->guest.next_used, untold);
}

static bool packed_wants_notify(const struct virtqueue *queue, uint32_t untold)
{
    uint16_t flags = load_u16(queue->driver + 2) & 3;
    if (flags != VRING_PACKED_EVENT_FLAG_DESC || !queue->event_idx)
        return flags != VRING_PACKED_EVENT_FLAG_DISABLE;
    uint16_t event = load_u16(queue->driver);
    uint16_t slot = event & (uint16_t)~PACKED_EVENT_WRAP;
    if (!!(event & PACKED_EVENT_WRAP) != queue->guest.used_wrap)
        slot = (uint16_t)(slot - queue->guest.size); /* of the lap before */
    return untold >= UNTOLD_MAX || passed_event(slot, queue->guest.next_used, untold);
}

bool virtqueue_should_notify(struct virtqueue *queue)
{
    uint32_t untold = queue->untold;
    if (!queue->guest.enabled || queue->guest.broken || untold == 0)
        return false;
    queue->untold = 0;
    /* What was pushed must be seen before we look whether the driver wants to hear of it: it
     * looks at both the other way round. */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return queue->packed ? packed_wants_notify(queue, untold) : split_wants_notify(queue, untold);
}

bool virtqueue_rearm(struct virtqueue *queue)
{
    const struct virtqueue_guest *guest = &queue->guest;
    if (!guest->enabled || guest->broken)
        return false;
    if (queue->packed) {
        uint16_t event =
            (uint16_t)(guest->next_avail | (guest->avail_wrap ? PACKED_EVENT_WRAP : 0));
        store_u16(queue, queue->device, event);
        store_u16(queue, queue->device + 2,
                  queue->event_idx ? VRING_PACKED_EVENT_FLAG_DESC : VRING_PACKED_EVENT_FLAG_ENABLE);
    } else if (queue->event_idx) {
        store_u16(queue,
                  queue->device + SPLIT_HEADER_BYTES + (size_t)guest->size * SPLIT_USED_BYTES,
                  guest->next_avail);
    }
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* as in should_notify */
    return virtqueue_has_chain(queue);
}

bool virtqueue_has_chain(const struct virtqueue *queue)
{
    const struct virtqueue_guest *guest = &queue->guest;
    if (!guest->enabled || guest->broken)
        return false;
    if (queue->packed)
        return packed_is_offered(load_packed(queue, guest->next_avail).flags, guest->avail_wrap);
    return load_u16(queue->driver + 2) != guest->next_avail;
}

size_t virtqueue_chain_read(const struct virtqueue_chain *chain, size_t offset, void *ret_bytes,
                            size_t count)
{
    uint8_t *to = ret_bytes;
    size_t done = 0;
    for (unsigned i = 0; i < chain->readable && done < count; i++) {
        const struct iovec *part = &chain->parts[i];
        if (offset >= part->iov_len) {
            offset -= part->iov_len;
            continue;
        }
        size_t here = part->iov_len - offset;
        if (here > count - done)
            here = count - done;
        memcpy(to + done, (const uint8_t *)part->iov_base + offset, here);
        done += here;
        offset = 0;
    }
    __atomic_signal_fence(__ATOMIC_SEQ_CST); /* the copy is what counts: never read again */
    return done;
}

size_t virtqueue_chain_write(const struct virtqueue_chain *chain, size_t offset, const void *bytes,
                             size_t count)
{
    const uint8_t *from = bytes;
    size_t done = 0;
    for (unsigned i = 0; i < chain->writable && done < count; i++) {
        const struct iovec *part = &chain->parts[chain->readable + i];
        if (offset >= part->iov_len) {
            offset -= part->iov_len;
            continue;
        }
        size_t here = part->iov_len - offset;
        if (here > count - done)
            here = count - done;
        memcpy((uint8_t *)part->iov_base + offset, from + done, here);
        done += here;
        offset = 0;
    }
    return done;
}

/* clang-format off */
#define VIRTQUEUE_FIELDS(X)                                                                        \
    X(descriptors, UINT64_MAX) X(driver, UINT64_MAX) X(device, UINT64_MAX)                         \
    X(size, VIRTQUEUE_SIZE_MAX) X(next_avail, UINT16_MAX) X(next_used, UINT16_MAX)                 \
    X(avail_wrap, 1) X(used_wrap, 1) X(enabled, 1) X(broken, 1)
/* clang-format on */

void virtqueue_save(const struct virtqueue_guest *guest, struct Godwit__VirtqueueStateV1 *out)
{
#define SAVE_FIELD(field, max) STATE_PUT(out, field, guest->field);
    VIRTQUEUE_FIELDS(SAVE_FIELD)
#undef SAVE_FIELD
}

void virtqueue_load(struct state_reader *reader, const struct Godwit__VirtqueueStateV1 *in,
                    struct virtqueue_guest *ret_guest)
{
    struct virtqueue_guest guest;
    memset(&guest, 0, sizeof guest); /* padding too: equal states are equal bytes */
#define LOAD_FIELD(field, max) STATE_TAKE_MAX(reader, in, field, guest.field, max);
    VIRTQUEUE_FIELDS(LOAD_FIELD)
#undef LOAD_FIELD
    *ret_guest = guest;
}

/* Which queue is which depends on what was agreed on: those of features that were not are left out
 * of the count.
 *
 *   inflate, deflate, statistics (F_STATS_VQ), reporting (F_REPORTING)
 *
 * The statistics buffer stays in its queue until it is given back as the question for the next:
 * nothing is in flight between two calls.
 */
#include "vmm-core/dev_virtio_balloon.h"

#include <assert.h>
#include <linux/virtio_balloon.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/own.h"
#include "proto/device_state.pb-c.h"
#include "vmm-core/device.h"
#include "vmm-core/guest_memory.h"
#include "vmm-core/io_loop.h"
#include "vmm-core/machine_state.h"
#include "vmm-core/state_reader.h"
#include "vmm-core/virtio.h"
#include "vmm-core/virtio_bus.h"
#include "vmm-core/virtqueue.h"
#include "vmm-core/vm_inside.h"

enum {
    QUEUE_INFLATE = 0,
    QUEUE_DEFLATE = 1,
    QUEUES = 4,
    CONFIG_BYTES = 16,
    CONFIG_TARGET = 0,
    CONFIG_ACTUAL = 4,
    CONFIG_POISON = 12,
    STAT_BYTES = 10,
    STATS_MAX = 32,
    PFNS_AT_ONCE = 256,
    PFNS_MAX = 4096, /* of one request; drivers send 256. What is beyond stays the guest's */
    CHAINS_PER_TURN = 16,
    PCI_CLASS_OTHER = 0xff,
};

enum balloon_role { ROLE_INFLATE, ROLE_DEFLATE, ROLE_STATS, ROLE_REPORTING, ROLE_NONE };

struct balloon {
    struct virtio_device *device;
    struct virtio_balloon_guest guest;
    struct vm_balloon_stats stats;
    struct io_job look;
    struct virtqueue_chain chain;
};

static struct balloon *balloon_of(const struct virtio_device *device)
{
    return device->state;
}

static unsigned balloon_instances(const struct machine_shape *shape)
{
    return shape->balloon;
}

static enum balloon_role role_of(const struct virtio_device *device, unsigned queue)
{
    bool has_stats = virtio_device_has(device, VIRTIO_BALLOON_F_STATS_VQ);
    if (queue <= QUEUE_DEFLATE)
        return queue == QUEUE_INFLATE ? ROLE_INFLATE : ROLE_DEFLATE;
    if (has_stats && queue == 2)
        return ROLE_STATS;
    if (virtio_device_has(device, VIRTIO_BALLOON_F_REPORTING) && queue == (has_stats ? 3U : 2U))
        return ROLE_REPORTING;
    return ROLE_NONE;
}

/* Page numbers of 4 KiB, in runs as they come. Those that are no RAM are the guest's mistake and
 * nobody's harm. */
static void inflate(struct balloon *balloon)
{
    uint8_t words[PFNS_AT_ONCE * 4];
    size_t offset = 0, count;
    uint64_t first = 0, pages = 0;
    while (offset < PFNS_MAX * 4 &&
           (count = virtqueue_chain_read(&balloon->chain, offset, words, sizeof words)) >= 4) {
        for (size_t i = 0; i + 4 <= count; i += 4) {
            uint64_t page = bytes_get_u32(words + i);
            if (pages && page == first + pages) {
                pages++;
                continue;
            }
            balloon->stats.discarded_pages += guest_memory_discard(
                balloon->device->memory, first << PAGE_SHIFT, pages << PAGE_SHIFT);
            first = page;
            pages = 1;
        }
        offset += count;
    }
    balloon->stats.discarded_pages +=
        guest_memory_discard(balloon->device->memory, first << PAGE_SHIFT, pages << PAGE_SHIFT);
}

/* Free pages, told by the buffers themselves. A guest that fills free pages with something else
 * than zero expects to find it there again. */
static void report(struct balloon *balloon)
{
    struct guest_memory *memory = balloon->device->memory;
    const struct virtqueue_chain *chain = &balloon->chain;
    if (virtio_device_has(balloon->device, VIRTIO_BALLOON_F_PAGE_POISON) && balloon->guest.poison)
        return;
    for (unsigned i = 0; i < chain->writable; i++) {
        const struct iovec *part = &chain->parts[chain->readable + i];
        balloon->stats.reported_pages +=
            guest_memory_discard_host(memory, part->iov_base, part->iov_len);
    }
}

static void put_stat(struct vm_balloon_stats *stats, uint16_t tag, uint64_t value)
{
    switch (tag) {
    case VIRTIO_BALLOON_S_MEMFREE:
        stats->free_bytes = value;
        break;
    case VIRTIO_BALLOON_S_MEMTOT:
        stats->total_bytes = value;
        break;
    case VIRTIO_BALLOON_S_AVAIL:
        stats->available_bytes = value;
        break;
    case VIRTIO_BALLOON_S_CACHES:
        stats->cache_bytes = value;
        break;
    case VIRTIO_BALLOON_S_SWAP_IN:
        stats->swapped_in_bytes = value;
        break;
    case VIRTIO_BALLOON_S_SWAP_OUT:
        stats->swapped_out_bytes = value;
        break;
    case VIRTIO_BALLOON_S_MAJFLT:
        stats->major_faults = value;
        break;
    }
}

static void learn_stats(struct balloon *balloon)
{
    uint8_t bytes[STAT_BYTES * STATS_MAX];
    size_t count = virtqueue_chain_read(&balloon->chain, 0, bytes, sizeof bytes);
    for (size_t at = 0; at + STAT_BYTES <= count; at += STAT_BYTES)
        put_stat(&balloon->stats, bytes_get_u16(bytes + at), bytes_get_u64(bytes + at + 2));
    balloon->stats.told = true;
}

/* Only the look: the buffer stays. */
static void look_at_stats(struct balloon *balloon, struct virtqueue *queue)
{
    enum virtqueue_pop popped = virtqueue_pop(queue, &balloon->chain);
    if (popped == VIRTQUEUE_POPPED) {
        learn_stats(balloon);
        virtqueue_unpop(queue, &balloon->chain);
    } else if (popped == VIRTQUEUE_BROKEN) {
        virtio_device_needs_reset(balloon->device);
    }
    /* A buffer that is there already must not ask for another look: told at its coming once. */
    (void)virtqueue_rearm(queue);
}

static void take_all(struct balloon *balloon, struct virtqueue *queue, unsigned number,
                     enum balloon_role role)
{
    unsigned chains = 0;
    do {
        enum virtqueue_pop popped = VIRTQUEUE_POPPED;
        while (chains++ < CHAINS_PER_TURN &&
               (popped = virtqueue_pop(queue, &balloon->chain)) == VIRTQUEUE_POPPED) {
            if (role == ROLE_INFLATE)
                inflate(balloon);
            else if (role == ROLE_REPORTING)
                report(balloon);
            virtqueue_push(queue, &balloon->chain, 0);
        }
        if (popped == VIRTQUEUE_BROKEN)
            virtio_device_needs_reset(balloon->device);
        if (popped != VIRTQUEUE_EMPTY)
            break;
    } while (virtqueue_rearm(queue));
    virtio_device_push_done(balloon->device, number);
    if (chains > CHAINS_PER_TURN)
        io_loop_post(balloon->device->loop, &balloon->look);
}

static void balloon_notify(struct virtio_device *device, unsigned number)
{
    struct virtqueue *queue = virtio_device_queue(device, number);
    enum balloon_role role = role_of(device, number);
    if (!queue || role == ROLE_NONE)
        return;
    if (role == ROLE_STATS)
        look_at_stats(balloon_of(device), queue);
    else
        take_all(balloon_of(device), queue, number, role);
}

static void look(void *data)
{
    struct balloon *balloon = data;
    for (unsigned i = 0; i < QUEUES; i++) {
        if (virtio_device_is_live(balloon->device))
            balloon_notify(balloon->device, i);
    }
}

int virtio_balloon_set_target(struct virtio_device *device, uint64_t bytes, struct fault *fault)
{
    struct balloon *balloon = balloon_of(device);
    uint64_t pages = bytes >> PAGE_SHIFT;
    if (pages >= guest_memory_pages(device->memory))
        return fault_set(fault, ERR_INVALID,
                         "a balloon of %llu MiB in a guest of %llu MiB leaves it none",
                         (unsigned long long)(bytes >> 20),
                         (unsigned long long)(guest_memory_pages(device->memory) >> 8));
    if (balloon->guest.target_pages == pages)
        return 0;
    balloon->guest.target_pages = (uint32_t)pages;
    virtio_device_config_changed(device);
    return 0;
}

void virtio_balloon_stats(struct virtio_device *device, struct vm_balloon_stats *ret_stats)
{
    struct balloon *balloon = balloon_of(device);
    balloon->stats.target_bytes = (uint64_t)balloon->guest.target_pages << PAGE_SHIFT;
    balloon->stats.actual_bytes = (uint64_t)balloon->guest.actual_pages << PAGE_SHIFT;
    *ret_stats = balloon->stats;
}

void virtio_balloon_ask(struct virtio_device *device)
{
    struct balloon *balloon = balloon_of(device);
    if (!virtio_device_is_live(device) || device->draining || role_of(device, 2) != ROLE_STATS)
        return;
    struct virtqueue *queue = virtio_device_queue(device, 2);
    if (queue && virtqueue_pop(queue, &balloon->chain) == VIRTQUEUE_POPPED) {
        virtqueue_push(queue, &balloon->chain, 0); /* giving it back is the question */
        (void)virtqueue_rearm(queue);
        virtio_device_push_done(device, 2);
    }
}

static void balloon_config_read(struct virtio_device *device, unsigned offset, uint8_t *bytes,
                                unsigned count)
{
    const struct virtio_balloon_guest *guest = &balloon_of(device)->guest;
    uint8_t image[CONFIG_BYTES] = {0};
    bytes_put_u32(image + CONFIG_TARGET, guest->target_pages);
    bytes_put_u32(image + CONFIG_ACTUAL, guest->actual_pages);
    bytes_put_u32(image + CONFIG_POISON, guest->poison);
    memcpy(bytes, image + offset, count);
}

static void balloon_config_write(struct virtio_device *device, unsigned offset,
                                 const uint8_t *bytes, unsigned count)
{
    struct virtio_balloon_guest *guest = &balloon_of(device)->guest;
    if (count == 4 && offset == CONFIG_ACTUAL)
        guest->actual_pages = bytes_get_u32(bytes);
    else if (count == 4 && offset == CONFIG_POISON)
        guest->poison = bytes_get_u32(bytes);
}

static int balloon_create(struct virtio_device *device, const struct vm_config *config,
                          struct fault *fault)
{
    (void)config;
    struct balloon *balloon = calloc(1, sizeof *balloon);
    if (!balloon)
        return fault_set(fault, ERR_NOMEM, "no memory for a balloon");
    balloon->device = device;
    balloon->look = (struct io_job){.run = look, .data = balloon};
    device->features = VIRTIO_FEATURE(VIRTIO_BALLOON_F_STATS_VQ) |
                       VIRTIO_FEATURE(VIRTIO_BALLOON_F_DEFLATE_ON_OOM) |
                       VIRTIO_FEATURE(VIRTIO_BALLOON_F_PAGE_POISON) |
                       VIRTIO_FEATURE(VIRTIO_BALLOON_F_REPORTING);
    device->queue_count = QUEUES;
    device->queue_size = 128;
    device->config_bytes = CONFIG_BYTES;
    device->state = balloon;
    return 0;
}

static void balloon_destroy(struct virtio_device *device)
{
    struct balloon *balloon = balloon_of(device);
    if (balloon)
        io_loop_cancel(device->loop, &balloon->look);
    free(balloon);
    device->state = NULL;
}

/* The host's wish outlives a driver; what the old driver told does not. */
static void balloon_reset(struct virtio_device *device)
{
    struct balloon *balloon = balloon_of(device);
    io_loop_cancel(device->loop, &balloon->look);
    balloon->guest.actual_pages = 0;
    balloon->guest.poison = 0;
}

const struct virtio_kind virtio_balloon_kind = {
    .name = "virtio-balloon",
    .id = VIRTIO_ID_BALLOON,
    .pci_class = PCI_CLASS_OTHER,
    .instances = balloon_instances,
    .create = balloon_create,
    .destroy = balloon_destroy,
    .config_read = balloon_config_read,
    .config_write = balloon_config_write,
    .notify = balloon_notify,
    .reset = balloon_reset,
};

/* State */

void virtio_balloon_capture(const struct virtio_device *device,
                            struct virtio_balloon_guest *ret_guest)
{
    *ret_guest = balloon_of(device)->guest;
}

void virtio_balloon_revive(struct virtio_device *device, const struct virtio_balloon_guest *guest)
{
    balloon_of(device)->guest = *guest;
}

/* clang-format off */
#define BALLOON_FIELDS(X)                                                                          \
    X(target_pages, UINT32_MAX) X(actual_pages, UINT32_MAX) X(poison, UINT32_MAX)
/* clang-format on */

int virtio_balloon_save(const struct virtio_balloon_guest *guest, uint8_t **ret_bytes,
                        size_t *ret_count)
{
    Godwit__VirtioBalloonStateV1 state = GODWIT__VIRTIO_BALLOON_STATE_V1__INIT;
#define SAVE_FIELD(field, max) STATE_PUT(&state, field, guest->field);
    BALLOON_FIELDS(SAVE_FIELD)
#undef SAVE_FIELD
    return state_reader_pack(&state.base, ret_bytes, ret_count);
}

int virtio_balloon_load(struct virtio_balloon_guest *ret_guest, const uint8_t *bytes, size_t count,
                        struct fault *fault)
{
    struct state_reader reader = {.section = "virtio_balloon", .fault = fault};
    struct virtio_balloon_guest guest;
    memset(&guest, 0, sizeof guest); /* padding too: equal states are equal bytes */

    ProtobufCMessage *message =
        state_reader_unpack(&reader, &godwit__virtio_balloon_state_v1__descriptor, bytes, count);
    if (!message)
        return reader.result;
    const Godwit__VirtioBalloonStateV1 *in = (const Godwit__VirtioBalloonStateV1 *)message;
#define LOAD_FIELD(field, max) STATE_TAKE_MAX(&reader, in, field, guest.field, max);
    BALLOON_FIELDS(LOAD_FIELD)
#undef LOAD_FIELD
    protobuf_c_message_free_unpacked(message, NULL); /* state_reader allocates by malloc */
    if (reader.result < 0)
        return reader.result;

    *ret_guest = guest;
    return 0;
}

static struct virtio_device *find_balloon(struct vm *vm)
{
    return virtio_bus_find(&vm->virtio, &virtio_balloon_kind, 0);
}

static int capture_row(struct vm *vm, unsigned instance, struct fault *fault)
{
    (void)instance;
    (void)fault;
    (void)pthread_mutex_lock(&vm->device_lock);
    virtio_balloon_capture(find_balloon(vm), &vm->guest->balloon);
    (void)pthread_mutex_unlock(&vm->device_lock);
    return 0;
}

static int save_row(const struct machine_guest *machine, unsigned instance, uint8_t **ret_bytes,
                    size_t *ret_count)
{
    (void)instance;
    return virtio_balloon_save(&machine->balloon, ret_bytes, ret_count);
}

static int load_row(struct machine_guest *machine, unsigned instance, const uint8_t *bytes,
                    size_t count, struct fault *fault)
{
    (void)instance;
    return virtio_balloon_load(&machine->balloon, bytes, count, fault);
}

static int revive_row(struct vm *vm, const struct machine_guest *machine, unsigned instance,
                      struct fault *fault)
{
    (void)instance;
    (void)fault;
    (void)pthread_mutex_lock(&vm->device_lock);
    virtio_balloon_revive(find_balloon(vm), &machine->balloon);
    (void)pthread_mutex_unlock(&vm->device_lock);
    return 0;
}

const struct device virtio_balloon_device = {
    .name = "virtio_balloon",
    .travel = DEVICE_TRAVELS,
    .version = 1,
    .instances = balloon_instances,
    .capture = capture_row,
    .save = save_row,
    .load = load_row,
    .revive = revive_row,
};

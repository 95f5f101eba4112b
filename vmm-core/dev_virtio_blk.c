/* A request's way:
 *
 *   notify -> pop -> judge -> disk_submit ... disk_reap -> request_done -> status byte, push
 *                       \-> refused: status byte, push
 *
 * Reads land in guest memory while they are in flight; the pages are marked when the chain is
 * pushed, which is always before the io loop parks, and so before a move reads the log for the last
 * time.
 *
 * A drain: no new requests; when the last one has ended, one flush for what was written since the
 * last; then quiet. A flush that fails refuses the save by name: the target would find less on the
 * disk than the guest was told. It also fails every later one: the kernel tells a lost write once,
 * and a second fdatasync that says yes means nothing.
 */
#include "vmm-core/dev_virtio_blk.h"

#include <assert.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/own.h"
#include "proto/device_state.pb-c.h"
#include "storage/disk.h"
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
    HEADER_BYTES = 16,
    HEADER_SECTOR = 8,
    SEGMENT_BYTES = 16,
    CONFIG_BYTES = 60,
    QUEUES_DEFAULT_MAX = 4,
    DISCARD_SECTORS_MAX = 1 << 21, /* 1 GiB */
    ZEROES_SECTORS_MAX = 1 << 17,  /* 64 MiB: the worst case writes them */
    PHYSICAL_BLOCK_EXPONENT = 3,   /* 4 KiB: a hint */
};

static_assert(VIRTIO_BLK_SERIAL_BYTES == VIRTIO_BLK_ID_BYTES, "the standard's");
static_assert((int)VIRTIO_BLK_SERIAL_BYTES == (int)VM_DISK_SERIAL_MAX, "the door's");
static_assert((int)VIRTQUEUE_PARTS_MAX <= (int)DISK_PARTS_MAX, "a chain is one transfer");
static_assert((int)VM_DISK_QUEUES_MAX <= (int)VIRTIO_QUEUES_MAX, "each queue has its place");

struct blk;

struct blk_request {
    struct disk_request disk;
    struct blk *blk;
    struct blk_request *next; /* free list, or those that wait */
    unsigned queue;
    struct virtqueue_chain chain;
    struct iovec parts[VIRTQUEUE_PARTS_MAX];
};

struct blk {
    struct virtio_device *device;
    struct virtio_blk_guest guest;
    struct disk *disk; /* owned; NULL: not attached */
    struct io_watch watch;
    struct io_job look; /* at all queues */
    struct blk_request *free;
    unsigned request_count; /* made so far */
    unsigned in_flight;
    bool waits_on_error;
    struct blk_request *waiting, **waiting_end; /* failed, to be tried again */
    bool crowded;    /* a queue was left with requests for want of a free one */
    uint32_t pushed; /* bit n: queue n got chains back since it was last told */

    /* Writes are numbered; all up to `durable` are. */
    uint64_t written, durable;
    struct disk_request flush; /* ours, for a pause */
    uint64_t flush_covers;
    bool flushing;
    int lost_errno; /* of the first flush that failed; it stays */

    struct vm_disk_stats stats;
    void (*on_error)(void *data, unsigned disk, const struct fault *fault);
    void (*on_wait)(void *data, unsigned disk, const struct fault *fault);
    void *callback_data;
};

static unsigned blk_instances(const struct machine_shape *shape)
{
    return shape->disks;
}

static void blk_freep(struct blk **blk)
{
    free(*blk);
    *blk = NULL;
}

/* Making one */

static int take_serial(struct virtio_blk_guest *guest, const char *serial, struct fault *fault)
{
    size_t length = serial ? strlen(serial) : 0;
    if (length > VIRTIO_BLK_SERIAL_BYTES)
        return fault_set(fault, ERR_INVALID, "serial '%s' is longer than %d characters", serial,
                         VIRTIO_BLK_SERIAL_BYTES);
    memcpy(guest->serial, serial ? serial : "", length);
    return 0;
}

static int take_config(struct blk *blk, const struct vm_disk_config *config, unsigned vcpus,
                       struct fault *fault)
{
    struct virtio_blk_guest *guest = &blk->guest;
    if (config->queues > VM_DISK_QUEUES_MAX)
        return fault_set(fault, ERR_INVALID, "%u queues: a disk has at most %d", config->queues,
                         VM_DISK_QUEUES_MAX);
    if (config->bytes % DISK_SECTOR_BYTES != 0)
        return fault_set(fault, ERR_INVALID, "%llu bytes are no whole sectors",
                         (unsigned long long)config->bytes);
    if (config->fd < 0 && config->bytes == 0)
        return fault_set(fault, ERR_INVALID, "neither a descriptor nor a size is given");
    unsigned chosen = vcpus < QUEUES_DEFAULT_MAX ? vcpus : QUEUES_DEFAULT_MAX;
    guest->queues = (uint16_t)(config->queues ? config->queues : chosen);
    guest->read_only = config->read_only;
    guest->sectors = config->bytes / DISK_SECTOR_BYTES;
    return take_serial(guest, config->serial, fault);
}

static void complete_ready(void *data, uint32_t events);
static void look_at_queues(void *data);
static struct blk_request *take_request(struct blk *blk);
static void give_request(struct blk *blk, struct blk_request *request);
static void drop_waiting(struct blk *blk);

static int blk_create(struct virtio_device *device, const struct vm_config *config,
                      struct fault *fault)
{
    AUTO(blk_freep) struct blk *blk = calloc(1, sizeof *blk);
    if (!blk)
        return fault_set(fault, ERR_NOMEM, "no memory");
    const struct vm_disk_config *disk = &config->disks[device->instance];
    int r = take_config(blk, disk, config->vcpus, fault);
    if (r < 0)
        return r;
    blk->device = device;
    blk->watch.fd = -1;
    blk->look = (struct io_job){.run = look_at_queues, .data = blk};
    blk->waits_on_error = disk->waits_on_error;
    blk->waiting_end = &blk->waiting;
    blk->on_error = config->on_disk_error;
    blk->on_wait = config->on_disk_wait;
    blk->callback_data = config->data;

    device->features = VIRTIO_FEATURE(VIRTIO_BLK_F_SEG_MAX) |
                       VIRTIO_FEATURE(VIRTIO_BLK_F_BLK_SIZE) |
                       VIRTIO_FEATURE(VIRTIO_BLK_F_TOPOLOGY) | VIRTIO_FEATURE(VIRTIO_BLK_F_FLUSH) |
                       VIRTIO_FEATURE(VIRTIO_BLK_F_MQ);
    if (blk->guest.read_only)
        device->features |= VIRTIO_FEATURE(VIRTIO_BLK_F_RO);
    else
        device->features |=
            VIRTIO_FEATURE(VIRTIO_BLK_F_DISCARD) | VIRTIO_FEATURE(VIRTIO_BLK_F_WRITE_ZEROES);
    device->queue_count = blk->guest.queues;
    device->queue_size = VIRTQUEUE_SIZE_MAX;
    device->config_bytes = CONFIG_BYTES;
    /* One is there for certain: a disk that finds no memory for more goes on with it. */
    struct blk_request *request = take_request(blk);
    if (!request)
        return fault_set(fault, ERR_NOMEM, "no memory");
    give_request(blk, request);
    device->state = TAKE(blk);
    return 0;
}

static void blk_destroy(struct virtio_device *device)
{
    struct blk *blk = device->state;
    if (!blk)
        return;
    assert(blk->in_flight == 0 && !blk->flushing); /* the io loop drained before it ended */
    io_loop_cancel(device->loop, &blk->look);
    io_loop_remove(device->loop, &blk->watch);
    drop_waiting(blk);
    blk->disk = disk_free(blk->disk);
    while (blk->free) {
        struct blk_request *request = blk->free;
        blk->free = request->next;
        free(request);
    }
    free(blk);
    device->state = NULL;
}

int virtio_blk_attach(struct virtio_device *device, struct disk *disk, struct fault *fault)
{
    struct blk *blk = device->state;
    uint64_t sectors = disk_bytes(disk) / DISK_SECTOR_BYTES;
    if (blk->disk)
        return fault_set(fault, ERR_STATE, "disk %u has its backend already", device->instance);
    if (sectors < blk->guest.sectors)
        return fault_set(fault, ERR_INVALID, "disk %u: the guest sees %llu sectors, there are %llu",
                         device->instance, (unsigned long long)blk->guest.sectors,
                         (unsigned long long)sectors);
    blk->watch = (struct io_watch){.fd = disk_event_fd(disk),
                                   .class = IO_WATCH_COMPLETION,
                                   .ready = complete_ready,
                                   .data = blk};
    int r = io_loop_add(device->loop, &blk->watch, EPOLLIN, fault);
    if (r < 0)
        return r;
    if (blk->guest.sectors == 0)
        blk->guest.sectors = sectors;
    blk->disk = disk;
    io_loop_post(device->loop, &blk->look);
    return 0;
}

int virtio_blk_track(struct virtio_device *device, struct bitmap *written, struct fault *fault)
{
    struct blk *blk = device->state;
    if (!blk->disk)
        return fault_set(fault, ERR_STATE, "disk %u has no backend yet", device->instance);
    disk_track(blk->disk, written);
    return 0;
}

int virtio_blk_mirror(struct virtio_device *device, struct disk_mirror *mirror, struct fault *fault)
{
    struct blk *blk = device->state;
    if (!blk->disk)
        return fault_set(fault, ERR_STATE, "disk %u has no backend yet", device->instance);
    disk_mirror(blk->disk, mirror);
    return 0;
}

int virtio_blk_switch(struct virtio_device *device, struct fault *fault)
{
    struct blk *blk = device->state;
    if (!blk->disk)
        return fault_set(fault, ERR_STATE, "disk %u has no backend yet", device->instance);
    disk_switch(blk->disk);
    return 0;
}

bool virtio_blk_is_read_only(const struct virtio_device *device)
{
    const struct blk *blk = device->state;
    return blk->guest.read_only;
}

bool virtio_blk_waits(const struct virtio_device *device)
{
    const struct blk *blk = device->state;
    return blk->waiting != NULL;
}

void virtio_blk_stats(const struct virtio_device *device, struct vm_disk_stats *ret_stats)
{
    const struct blk *blk = device->state;
    *ret_stats = blk->stats;
}

static void blk_config_read(struct virtio_device *device, unsigned offset, uint8_t *bytes,
                            unsigned count)
{
    const struct blk *blk = device->state;
    struct virtio_blk_config config = {0};
    static_assert(sizeof config >= CONFIG_BYTES, "the standard's fields up to write zeroes");
    config.capacity = htole64(blk->guest.sectors);
    config.seg_max = htole32(VIRTQUEUE_PARTS_MAX - 2);
    config.blk_size = htole32(DISK_SECTOR_BYTES);
    config.physical_block_exp = PHYSICAL_BLOCK_EXPONENT;
    config.min_io_size = htole16(1 << PHYSICAL_BLOCK_EXPONENT);
    config.num_queues = htole16(blk->guest.queues);
    if (!blk->guest.read_only) {
        config.max_discard_sectors = htole32(DISCARD_SECTORS_MAX);
        config.max_discard_seg = htole32(1);
        config.discard_sector_alignment = htole32(1 << PHYSICAL_BLOCK_EXPONENT);
        config.max_write_zeroes_sectors = htole32(ZEROES_SECTORS_MAX);
        config.max_write_zeroes_seg = htole32(1);
        config.write_zeroes_may_unmap = 1;
    }
    memcpy(bytes, (const uint8_t *)&config + offset, count);
}

/* Requests */

static struct blk_request *take_request(struct blk *blk)
{
    struct blk_request *request = blk->free;
    if (request) {
        blk->free = request->next;
        return request;
    }
    if (blk->request_count == VIRTIO_BLK_REQUESTS_MAX)
        return NULL;
    request = calloc(1, sizeof *request);
    if (!request)
        return NULL;
    request->blk = blk;
    blk->request_count++;
    return request;
}

static void give_request(struct blk *blk, struct blk_request *request)
{
    request->next = blk->free;
    blk->free = request;
}

/* They are given back to nobody: their driver forgets them, or its guest is no more. */
static void drop_waiting(struct blk *blk)
{
    while (blk->waiting) {
        struct blk_request *request = blk->waiting;
        blk->waiting = request->next;
        give_request(blk, request);
    }
    blk->waiting_end = &blk->waiting;
}

static void tell_error(struct blk *blk, const struct blk_request *request, bool waits, int error)
{
    static const char *const words[] = {"reading", "writing", "flushing", "discarding",
                                        "writing zeroes"};
    blk->stats.errors++;
    blk->stats.last_errno = error;
    struct fault fault = {0};
    (void)fault_set_errno(&fault, ERR_IO, error, "disk %u: %s %llu sectors at %llu",
                          blk->device->instance, words[request->disk.op],
                          (unsigned long long)(request->disk.bytes / DISK_SECTOR_BYTES),
                          (unsigned long long)(request->disk.offset / DISK_SECTOR_BYTES));
    if (blk->on_error)
        blk->on_error(blk->callback_data, blk->device->instance, &fault);
    if (waits && !blk->waiting && blk->on_wait)
        blk->on_wait(blk->callback_data, blk->device->instance, &fault);
}

/* Give the chain back with its status, which is its last writable byte. */
static void answer(struct blk *blk, struct blk_request *request, uint8_t status)
{
    struct virtio_device *device = blk->device;
    struct virtqueue *queue = virtio_device_queue(device, request->queue);
    const struct virtqueue_chain *chain = &request->chain;
    assert(queue); /* it stays enabled until a reset has come to rest */
    if (device->resetting) {
        /* Not given back, but what was read is there and must travel. */
        for (unsigned i = 0; i < chain->writable; i++) {
            const struct iovec *part = &chain->parts[chain->readable + i];
            guest_memory_mark_host_written(device->memory, part->iov_base, part->iov_len);
        }
    } else {
        (void)virtqueue_chain_write(chain, chain->writable_bytes - 1, &status, 1);
        virtqueue_push(queue, chain, chain->writable_bytes);
        blk->pushed |= UINT32_C(1) << request->queue;
    }
    give_request(blk, request);
}

static void count_done(struct blk *blk, const struct disk_request *request)
{
    switch (request->op) {
    case DISK_READ:
        blk->stats.reads++;
        blk->stats.read_bytes += request->bytes;
        break;
    case DISK_WRITE:
    case DISK_DISCARD:
    case DISK_WRITE_ZEROES:
        blk->stats.writes++;
        blk->stats.written_bytes += request->op == DISK_WRITE ? request->bytes : 0;
        break;
    case DISK_FLUSH:
        blk->stats.flushes++;
        break;
    }
}

static void submit(struct blk *blk, struct blk_request *request);

static void note_lost(struct blk *blk, enum disk_op op, int error)
{
    if (op == DISK_FLUSH && blk->lost_errno == 0)
        blk->lost_errno = error;
}

/* What a flush was for may be gone, whatever the next one says: it is told. */
static bool may_wait(const struct blk *blk, const struct disk_request *done)
{
    return blk->waits_on_error && done->op != DISK_FLUSH && !blk->device->resetting;
}

static void let_wait(struct blk *blk, struct blk_request *request)
{
    request->next = NULL;
    *blk->waiting_end = request;
    blk->waiting_end = &request->next;
}

static void blk_go_on(struct virtio_device *device)
{
    struct blk *blk = device->state;
    struct blk_request *request = blk->waiting;

    blk->waiting = NULL;
    blk->waiting_end = &blk->waiting;
    while (request) {
        struct blk_request *next = request->next;
        submit(blk, request);
        request = next;
    }
    if (blk->disk)
        disk_kick(blk->disk);
}

static void request_done(struct disk_request *done, int error)
{
    struct blk_request *request = CONTAINER_OF(done, struct blk_request, disk);
    struct blk *blk = request->blk;
    blk->in_flight--;
    bool is_write = done->op != DISK_READ && done->op != DISK_FLUSH;
    bool must_be_durable = is_write && !virtio_device_has(blk->device, VIRTIO_BLK_F_FLUSH);
    if (is_write)
        blk->written++; /* also when it failed: part of it may be there */
    if (error) {
        bool waits = may_wait(blk, done);
        tell_error(blk, request, waits, error);
        note_lost(blk, done->op, error);
        if (waits) {
            let_wait(blk, request);
            return;
        }
    } else {
        count_done(blk, done);
        if (done->op == DISK_FLUSH && blk->durable < (uintptr_t)done->data)
            blk->durable = (uintptr_t)done->data;
        /* A driver that cannot flush is told of a write when it is durable. */
        if (must_be_durable && !blk->lost_errno) {
            done->op = DISK_FLUSH;
            done->offset = done->bytes = 0;
            submit(blk, request);
            return;
        }
    }
    bool lost = blk->lost_errno && (done->op == DISK_FLUSH || must_be_durable);
    answer(blk, request, error || lost ? VIRTIO_BLK_S_IOERR : VIRTIO_BLK_S_OK);
}

static void submit(struct blk *blk, struct blk_request *request)
{
    static_assert(sizeof(uintptr_t) >= sizeof blk->written, "a write's number fits `data`");
    request->disk.done = request_done;
    request->disk.data = (void *)(uintptr_t)blk->written; /* what a flush will cover */
    blk->in_flight++;
    disk_submit(blk->disk, &request->disk);
}

/* The chain's data: readable parts behind the header, or writable ones before the status. */
static unsigned data_parts(struct blk_request *request, bool writable)
{
    const struct virtqueue_chain *chain = &request->chain;
    unsigned first = writable ? chain->readable : 0;
    unsigned end = writable ? (unsigned)chain->readable + chain->writable : chain->readable;
    size_t skip = writable ? 0 : HEADER_BYTES;
    unsigned count = 0;
    for (unsigned i = first; i < end; i++) {
        struct iovec part = chain->parts[i];
        size_t here = skip < part.iov_len ? skip : part.iov_len;
        part.iov_base = (uint8_t *)part.iov_base + here;
        part.iov_len -= here;
        skip -= here;
        if (writable && i == end - 1)
            part.iov_len--; /* the status */
        if (part.iov_len)
            request->parts[count++] = part;
    }
    return count;
}

static bool in_disk(const struct blk *blk, uint64_t sector, uint64_t sectors)
{
    return range_fits(sector, sectors, blk->guest.sectors);
}

/* Each judges one kind of request: a status to answer with at once, or -1 when it was submitted. */

static int begin_transfer(struct blk *blk, struct blk_request *request, uint64_t sector, bool write)
{
    const struct virtqueue_chain *chain = &request->chain;
    uint64_t bytes = write ? chain->readable_bytes - HEADER_BYTES : chain->writable_bytes - 1;
    if (bytes == 0 || bytes % DISK_SECTOR_BYTES != 0 || bytes > DISK_TRANSFER_MAX ||
        !in_disk(blk, sector, bytes / DISK_SECTOR_BYTES))
        return VIRTIO_BLK_S_IOERR;
    if (write && blk->guest.read_only)
        return VIRTIO_BLK_S_IOERR;
    request->disk = (struct disk_request){
        .op = write ? DISK_WRITE : DISK_READ,
        .offset = sector * DISK_SECTOR_BYTES,
        .bytes = bytes,
        .parts = request->parts,
        .part_count = data_parts(request, !write),
    };
    submit(blk, request);
    return -1;
}

static int begin_range(struct blk *blk, struct blk_request *request, bool zeroes)
{
    const struct virtqueue_chain *chain = &request->chain;
    uint8_t segment[SEGMENT_BYTES];
    if (blk->guest.read_only)
        return VIRTIO_BLK_S_UNSUPP; /* not offered */
    if (chain->readable_bytes != HEADER_BYTES + SEGMENT_BYTES ||
        virtqueue_chain_read(chain, HEADER_BYTES, segment, sizeof segment) != sizeof segment)
        return VIRTIO_BLK_S_IOERR; /* one segment is the limit that we told */
    uint64_t sector = bytes_get_u64(segment);
    uint32_t sectors = bytes_get_u32(segment + 8);
    uint32_t flags = bytes_get_u32(segment + 12);
    if (flags & ~(zeroes ? (uint32_t)VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP : 0))
        return VIRTIO_BLK_S_UNSUPP;
    if (sectors == 0 || sectors > (zeroes ? ZEROES_SECTORS_MAX : DISCARD_SECTORS_MAX) ||
        !in_disk(blk, sector, sectors))
        return VIRTIO_BLK_S_IOERR;
    request->disk = (struct disk_request){
        .op = zeroes ? DISK_WRITE_ZEROES : DISK_DISCARD,
        .may_unmap = flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
        .offset = sector * DISK_SECTOR_BYTES,
        .bytes = (uint64_t)sectors * DISK_SECTOR_BYTES,
    };
    submit(blk, request);
    return -1;
}

static int begin_flush(struct blk *blk, struct blk_request *request)
{
    if (blk->lost_errno)
        return VIRTIO_BLK_S_IOERR;
    request->disk = (struct disk_request){.op = DISK_FLUSH};
    submit(blk, request);
    return -1;
}

static int tell_serial(const struct blk *blk, const struct blk_request *request)
{
    size_t room = request->chain.writable_bytes - 1;
    (void)virtqueue_chain_write(&request->chain, 0, blk->guest.serial,
                                room < sizeof blk->guest.serial ? room : sizeof blk->guest.serial);
    return VIRTIO_BLK_S_OK;
}

static int begin(struct blk *blk, struct blk_request *request, uint32_t type, uint64_t sector)
{
    switch (type) {
    case VIRTIO_BLK_T_IN:
        return begin_transfer(blk, request, sector, false);
    case VIRTIO_BLK_T_OUT:
        return begin_transfer(blk, request, sector, true);
    case VIRTIO_BLK_T_FLUSH:
        return begin_flush(blk, request);
    case VIRTIO_BLK_T_DISCARD:
        return begin_range(blk, request, false);
    case VIRTIO_BLK_T_WRITE_ZEROES:
        return begin_range(blk, request, true);
    case VIRTIO_BLK_T_GET_ID:
        return tell_serial(blk, request);
    default:
        return VIRTIO_BLK_S_UNSUPP;
    }
}

/* False: no honest driver sends this. */
static bool begin_chain(struct blk *blk, struct blk_request *request)
{
    uint8_t header[HEADER_BYTES];
    if (request->chain.writable_bytes == 0 ||
        virtqueue_chain_read(&request->chain, 0, header, sizeof header) != sizeof header)
        return false;
    int status = begin(blk, request, bytes_get_u32(header), bytes_get_u64(header + HEADER_SECTOR));
    if (status >= 0) {
        blk->stats.refused += status != VIRTIO_BLK_S_OK;
        answer(blk, request, (uint8_t)status);
    }
    return true;
}

/* True when a chain was begun. */
static bool begin_next(struct blk *blk, unsigned index, struct virtqueue *queue)
{
    struct blk_request *request = take_request(blk);
    if (!request) {
        blk->crowded = true; /* looked at again when a request ends */
        return false;
    }
    request->queue = index;
    if (virtqueue_pop(queue, &request->chain) != VIRTQUEUE_POPPED) {
        give_request(blk, request);
        return false;
    }
    if (begin_chain(blk, request))
        return true;
    virtqueue_break(queue, "a disk request has no header or no room for a status");
    virtqueue_push(queue, &request->chain, 0); /* broken: only taken out of the count */
    give_request(blk, request);
    return false;
}

static void tell_pushed(struct blk *blk)
{
    for (unsigned i = 0; blk->pushed; i++) {
        if (blk->pushed & UINT32_C(1) << i)
            virtio_device_push_done(blk->device, i);
        blk->pushed &= ~(UINT32_C(1) << i);
    }
}

static void blk_notify(struct virtio_device *device, unsigned index)
{
    struct blk *blk = device->state;
    struct virtqueue *queue = virtio_device_queue(device, index);
    if (!blk->disk || !queue)
        return;
    blk->crowded = false;
    do {
        while (begin_next(blk, index, queue))
            ;
    } while (!blk->crowded && virtqueue_rearm(queue));
    disk_kick(blk->disk);
    tell_pushed(blk);
    if (queue->guest.broken)
        virtio_device_needs_reset(device);
}

static void look_at_queues(void *data)
{
    struct blk *blk = data;
    struct virtio_device *device = blk->device;
    for (unsigned i = 0; i < device->queue_count; i++) {
        if (virtio_device_is_live(device) && !device->draining)
            blk_notify(device, i);
    }
}

/* Coming to rest */

static void flush_done(struct disk_request *request, int error)
{
    struct blk *blk = CONTAINER_OF(request, struct blk, flush);
    blk->flushing = false;
    if (error) {
        note_lost(blk, DISK_FLUSH, error);
        blk->stats.errors++;
        blk->stats.last_errno = error;
    } else {
        blk->durable = blk->flush_covers;
        blk->stats.flushes++;
    }
}

static void begin_own_flush(struct blk *blk)
{
    if (blk->flushing || blk->lost_errno || blk->durable == blk->written)
        return;
    if (blk->waiting)
        return; /* it fails just now, and nobody may take the guest as it is */
    blk->flushing = true;
    blk->flush_covers = blk->written;
    blk->flush = (struct disk_request){.op = DISK_FLUSH, .done = flush_done};
    disk_submit(blk->disk, &blk->flush);
    disk_kick(blk->disk);
}

static void flush_before_pause(struct blk *blk)
{
    if (blk->in_flight == 0)
        begin_own_flush(blk);
}

static void blk_flush_ahead(struct virtio_device *device)
{
    begin_own_flush(device->state);
}

static void blk_drain(struct virtio_device *device)
{
    struct blk *blk = device->state;
    flush_before_pause(blk);
}

static bool blk_is_quiet(const struct virtio_device *device)
{
    const struct blk *blk = device->state;
    return blk->in_flight == 0 && !blk->flushing;
}

static void blk_reset(struct virtio_device *device)
{
    struct blk *blk = device->state;
    while (blk->waiting) { /* what is in flight ends by itself */
        struct blk_request *request = blk->waiting;
        blk->waiting = request->next;
        answer(blk, request, VIRTIO_BLK_S_IOERR);
    }
    blk->waiting_end = &blk->waiting;
}

static void complete_ready(void *data, uint32_t events)
{
    (void)events;
    struct blk *blk = data;
    struct virtio_device *device = blk->device;
    disk_reap(blk->disk);
    disk_kick(blk->disk); /* flushes behind writes */
    tell_pushed(blk);
    if (device->resetting && blk_is_quiet(device))
        virtio_device_quiet(device);
    if (device->draining)
        flush_before_pause(blk);
    else if (blk->crowded)
        look_at_queues(blk);
}

const struct virtio_kind virtio_blk_kind = {
    .name = "virtio-blk",
    .id = VIRTIO_ID_BLOCK,
    .pci_class = 0x01,
    .pci_subclass = 0x80,
    .instances = blk_instances,
    .create = blk_create,
    .destroy = blk_destroy,
    .config_read = blk_config_read,
    .notify = blk_notify,
    .reset = blk_reset,
    .drain = blk_drain,
    .flush_ahead = blk_flush_ahead,
    .is_quiet = blk_is_quiet,
    .go_on = blk_go_on,
};

/* State */

int virtio_blk_capture(const struct virtio_device *device, struct virtio_blk_guest *ret_guest,
                       struct fault *fault)
{
    const struct blk *blk = device->state;
    assert(blk_is_quiet(device));
    if (blk->waiting)
        return fault_set(
            fault, ERR_BUSY,
            "disk %u: requests of the guest wait until it is resumed, because its medium "
            "failed them",
            device->instance);
    if (blk->lost_errno || blk->durable != blk->written)
        return fault_set_errno(fault, ERR_IO, blk->lost_errno,
                               "disk %u: what the guest wrote may not be durable: flushing it",
                               device->instance);
    *ret_guest = blk->guest;
    return 0;
}

int virtio_blk_revive(struct virtio_device *device, const struct virtio_blk_guest *guest,
                      struct fault *fault)
{
    struct blk *blk = device->state;
    if (guest->read_only != blk->guest.read_only || guest->queues != blk->guest.queues ||
        memcmp(guest->serial, blk->guest.serial, sizeof guest->serial) != 0)
        return fault_set(fault, ERR_CORRUPT,
                         "disk %u: the guest's has serial '%.20s' and is %s, this one's is '%.20s'",
                         device->instance, guest->serial,
                         guest->read_only ? "read-only" : "written", blk->guest.serial);
    if (blk->disk && disk_bytes(blk->disk) / DISK_SECTOR_BYTES < guest->sectors)
        return fault_set(fault, ERR_INVALID, "disk %u is smaller than the guest's",
                         device->instance);
    blk->guest = *guest;
    return 0;
}

int virtio_blk_save(const struct virtio_blk_guest *guest, uint8_t **ret_bytes, size_t *ret_count)
{
    Godwit__VirtioBlkStateV1 state = GODWIT__VIRTIO_BLK_STATE_V1__INIT;
    STATE_PUT(&state, sectors, guest->sectors);
    STATE_PUT(&state, read_only, guest->read_only);
    STATE_PUT(&state, queues, guest->queues);
    STATE_PUT(&state, serial,
              ((ProtobufCBinaryData){.data = (uint8_t *)guest->serial, /* read only */
                                     .len = sizeof guest->serial}));
    return state_reader_pack(&state.base, ret_bytes, ret_count);
}

int virtio_blk_load(struct virtio_blk_guest *ret_guest, const uint8_t *bytes, size_t count,
                    struct fault *fault)
{
    struct state_reader reader = {.section = "virtio_blk", .fault = fault};
    struct virtio_blk_guest guest;
    memset(&guest, 0, sizeof guest); /* padding too: equal states are equal bytes */

    ProtobufCMessage *message =
        state_reader_unpack(&reader, &godwit__virtio_blk_state_v1__descriptor, bytes, count);
    if (!message)
        return reader.result;
    const Godwit__VirtioBlkStateV1 *in = (const Godwit__VirtioBlkStateV1 *)message;
    STATE_TAKE_MAX(&reader, in, sectors, guest.sectors, UINT64_MAX / DISK_SECTOR_BYTES);
    STATE_TAKE_MAX(&reader, in, read_only, guest.read_only, 1);
    STATE_TAKE_MAX(&reader, in, queues, guest.queues, VM_DISK_QUEUES_MAX);
    if (state_reader_check(&reader, in->has_serial && in->serial.len == sizeof guest.serial,
                           "serial", "is missing or has not 20 bytes"))
        memcpy(guest.serial, in->serial.data, sizeof guest.serial);
    protobuf_c_message_free_unpacked(message, NULL); /* state_reader allocates by malloc */
    if (reader.result < 0)
        return reader.result;

    *ret_guest = guest;
    return 0;
}

static int capture_row(struct vm *vm, unsigned instance, struct fault *fault)
{
    (void)pthread_mutex_lock(&vm->device_lock);
    int r = virtio_blk_capture(virtio_bus_find(&vm->virtio, &virtio_blk_kind, instance),
                               &vm->guest->disks[instance], fault);
    (void)pthread_mutex_unlock(&vm->device_lock);
    return r;
}

static int revive_row(struct vm *vm, const struct machine_guest *machine, unsigned instance,
                      struct fault *fault)
{
    (void)pthread_mutex_lock(&vm->device_lock);
    int r = virtio_blk_revive(virtio_bus_find(&vm->virtio, &virtio_blk_kind, instance),
                              &machine->disks[instance], fault);
    (void)pthread_mutex_unlock(&vm->device_lock);
    return r;
}

static int save_row(const struct machine_guest *machine, unsigned instance, uint8_t **ret_bytes,
                    size_t *ret_count)
{
    assert(instance < VM_DISKS_MAX);
    return virtio_blk_save(&machine->disks[instance], ret_bytes, ret_count);
}

static int load_row(struct machine_guest *machine, unsigned instance, const uint8_t *bytes,
                    size_t count, struct fault *fault)
{
    assert(instance < VM_DISKS_MAX);
    return virtio_blk_load(&machine->disks[instance], bytes, count, fault);
}

const struct device virtio_blk_device = {
    .name = "virtio_blk",
    .travel = DEVICE_TRAVELS,
    .version = 1,
    .instances = blk_instances,
    .capture = capture_row,
    .save = save_row,
    .load = load_row,
    .revive = revive_row,
};

#include "vmm-core/dev_virtio_rng.h"

#include <errno.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/err.h"
#include "base/own.h"
#include "base/world.h"
#include "vmm-core/io_loop.h"
#include "vmm-core/machine_state.h"
#include "vmm-core/virtio.h"
#include "vmm-core/virtqueue.h"

enum { CHUNK_BYTES = 4096, PCI_CLASS_OTHER = 0xff };

struct rng {
    struct virtio_device *device;
    int timer; /* owned */
    struct io_watch watch;
    uint64_t turn_ns; /* when the present turn began */
    size_t left;      /* bytes that may still be given in it */
    struct virtqueue_chain chain;
};

static struct rng *rng_of(const struct virtio_device *device)
{
    return device->state;
}

static unsigned rng_instances(const struct machine_shape *shape)
{
    return shape->rng;
}

/* False: nothing left in this turn; the timer says when the next begins. */
static bool may_give(struct rng *rng)
{
    uint64_t now_ns = world_now_ns(), turn_ns = VIRTIO_RNG_TURN_MS * NS_PER_MS;
    if (now_ns - rng->turn_ns >= turn_ns) {
        rng->turn_ns = now_ns;
        rng->left = VIRTIO_RNG_BYTES_PER_TURN;
    }
    if (rng->left)
        return true;
    const struct itimerspec wake = {.it_value = {.tv_nsec = (long)turn_ns}};
    (void)timerfd_settime(rng->timer, 0, &wake, NULL); /* our own timer, a value that is one */
    return false;
}

/* Returns how many bytes the chain got: fewer than it has room for is the device's right. */
static uint32_t give(struct rng *rng)
{
    uint8_t bytes[CHUNK_BYTES];
    size_t count = rng->chain.writable_bytes;
    if (count > sizeof bytes)
        count = sizeof bytes;
    if (count > rng->left)
        count = rng->left;
    ssize_t got = getrandom(bytes, count, GRND_NONBLOCK);
    if (got <= 0)
        return 0;
    rng->left -= (size_t)got;
    return (uint32_t)virtqueue_chain_write(&rng->chain, 0, bytes, (size_t)got);
}

static void rng_notify(struct virtio_device *device, unsigned number)
{
    struct rng *rng = rng_of(device);
    struct virtqueue *queue = virtio_device_queue(device, number);
    enum virtqueue_pop popped = VIRTQUEUE_EMPTY;
    if (!queue)
        return;
    do {
        while (may_give(rng) && (popped = virtqueue_pop(queue, &rng->chain)) == VIRTQUEUE_POPPED) {
            if (rng->chain.writable == 0) {
                virtqueue_break(queue, "a request for random numbers has no room for any");
                popped = VIRTQUEUE_BROKEN;
                break;
            }
            virtqueue_push(queue, &rng->chain, give(rng));
        }
    } while (popped == VIRTQUEUE_EMPTY && rng->left && virtqueue_rearm(queue));
    if (popped == VIRTQUEUE_BROKEN)
        virtio_device_needs_reset(device);
    virtio_device_push_done(device, number);
}

static void timer_ready(void *data, uint32_t events)
{
    struct rng *rng = data;
    uint64_t count;
    (void)events;
    if (read(rng->timer, &count, sizeof count) == (ssize_t)sizeof count &&
        virtio_device_is_live(rng->device))
        rng_notify(rng->device, 0);
}

static void rng_destroy(struct virtio_device *device)
{
    struct rng *rng = rng_of(device);
    if (!rng)
        return;
    io_loop_remove(device->loop, &rng->watch);
    close_p(&rng->timer);
    free(rng);
    device->state = NULL;
}

static int rng_create(struct virtio_device *device, const struct vm_config *config,
                      struct fault *fault)
{
    (void)config;
    struct rng *rng = calloc(1, sizeof *rng);
    if (!rng)
        return fault_set(fault, ERR_NOMEM, "no memory for a random number device");
    device->state = rng; /* destroy frees it */
    device->queue_count = 1;
    device->queue_size = 64;
    rng->device = device;
    rng->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (rng->timer < 0)
        return fault_set_errno(fault, err_from_errno(errno), errno,
                               "creating the random number device's timer");
    rng->watch = (struct io_watch){
        .fd = rng->timer, .class = IO_WATCH_SOURCE, .ready = timer_ready, .data = rng};
    return io_loop_add(device->loop, &rng->watch, EPOLLIN, fault);
}

static void rng_config_read(struct virtio_device *device, unsigned offset, uint8_t *bytes,
                            unsigned count)
{
    (void)device; /* it has no configuration: never called */
    (void)offset;
    memset(bytes, 0, count);
}

static void rng_reset(struct virtio_device *device)
{
    (void)device; /* nothing but its queue */
}

const struct virtio_kind virtio_rng_kind = {
    .name = "virtio-rng",
    .id = VIRTIO_ID_RNG,
    .pci_class = PCI_CLASS_OTHER,
    .instances = rng_instances,
    .create = rng_create,
    .destroy = rng_destroy,
    .config_read = rng_config_read,
    .notify = rng_notify,
    .reset = rng_reset,
};

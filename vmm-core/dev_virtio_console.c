#include "vmm-core/dev_virtio_console.h"

#include <linux/virtio_console.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/own.h"
#include "vmm-core/io_loop.h"
#include "vmm-core/machine_state.h"
#include "vmm-core/virtio.h"
#include "vmm-core/virtqueue.h"
#include "vmm-core/vm.h"

enum {
    QUEUE_INPUT = 0,
    QUEUE_OUTPUT = 1,
    QUEUES = 2,
    CONFIG_BYTES = 12,
    CONFIG_EMERGENCY = 8,
    CHUNK_BYTES = 1024,
    CHAINS_PER_TURN = 64, /* others get theirs */
    PCI_CLASS_COMMUNICATION = 0x07,
    PCI_SUBCLASS_OTHER = 0x80,
};

struct console_device {
    struct virtio_device *device;
    struct io_job look; /* at output left before it was empty */
    /* Takes note and returns: called with the vm's devices locked. */
    void (*on_output)(void *data, const uint8_t *bytes, size_t count);
    void *callback_data;
    struct virtqueue_chain chain;
};

static struct console_device *console_of(const struct virtio_device *device)
{
    return device->state;
}

static unsigned console_instances(const struct machine_shape *shape)
{
    return shape->console;
}

static void put_chain(struct console_device *console)
{
    uint8_t bytes[CHUNK_BYTES];
    size_t offset = 0, count;
    while ((count = virtqueue_chain_read(&console->chain, offset, bytes, sizeof bytes)) > 0) {
        if (console->on_output)
            console->on_output(console->callback_data, bytes, count);
        offset += count;
    }
}

static void take_output(struct virtio_device *device)
{
    struct console_device *console = console_of(device);
    struct virtqueue *queue = virtio_device_queue(device, QUEUE_OUTPUT);
    unsigned chains = 0;
    if (!queue)
        return;
    do {
        enum virtqueue_pop popped = VIRTQUEUE_POPPED;
        while (chains++ < CHAINS_PER_TURN &&
               (popped = virtqueue_pop(queue, &console->chain)) == VIRTQUEUE_POPPED) {
            put_chain(console);
            virtqueue_push(queue, &console->chain, 0);
        }
        if (popped == VIRTQUEUE_BROKEN)
            virtio_device_needs_reset(device);
        if (popped != VIRTQUEUE_EMPTY)
            break;
    } while (virtqueue_rearm(queue));
    virtio_device_push_done(device, QUEUE_OUTPUT);
    if (chains > CHAINS_PER_TURN)
        io_loop_post(device->loop, &console->look);
}

static void look(void *data)
{
    const struct console_device *console = data;
    if (virtio_device_is_live(console->device))
        take_output(console->device);
}

bool virtio_console_listens(struct virtio_device *device)
{
    return virtio_device_is_live(device) && virtio_device_queue(device, QUEUE_INPUT);
}

size_t virtio_console_input(struct virtio_device *device, const uint8_t *bytes, size_t count)
{
    struct console_device *console = console_of(device);
    size_t done = 0;
    if (!virtio_console_listens(device) || device->draining)
        return 0;
    struct virtqueue *queue = virtio_device_queue(device, QUEUE_INPUT);
    while (done < count) {
        enum virtqueue_pop popped = virtqueue_pop(queue, &console->chain);
        if (popped == VIRTQUEUE_POPPED && console->chain.writable == 0) {
            virtqueue_break(queue, "a buffer for input has no room");
            popped = VIRTQUEUE_BROKEN;
        }
        if (popped == VIRTQUEUE_BROKEN)
            virtio_device_needs_reset(device);
        if (popped != VIRTQUEUE_POPPED)
            break;
        size_t wrote = virtqueue_chain_write(&console->chain, 0, bytes + done, count - done);
        virtqueue_push(queue, &console->chain, (uint32_t)wrote);
        done += wrote;
    }
    virtio_device_push_done(device, QUEUE_INPUT);
    return done;
}

/* More room for input needs no word: whoever feeds the console tries again by itself. */
static void console_notify(struct virtio_device *device, unsigned queue)
{
    if (queue == QUEUE_OUTPUT)
        take_output(device);
}

static void console_config_read(struct virtio_device *device, unsigned offset, uint8_t *bytes,
                                unsigned count)
{
    (void)device; /* sizes are not known here, and not offered */
    uint8_t image[CONFIG_BYTES] = {0};
    bytes_put_u32(image + 4, 1); /* ports */
    memcpy(bytes, image + offset, count);
}

/* A byte from a guest that has no driver yet, or no longer. */
static void console_config_write(struct virtio_device *device, unsigned offset,
                                 const uint8_t *bytes, unsigned count)
{
    const struct console_device *console = console_of(device);
    if (offset == CONFIG_EMERGENCY && count >= 1 && console->on_output)
        console->on_output(console->callback_data, bytes, 1);
}

static int console_create(struct virtio_device *device, const struct vm_config *config,
                          struct fault *fault)
{
    struct console_device *console = calloc(1, sizeof *console);
    if (!console)
        return fault_set(fault, ERR_NOMEM, "no memory for a console");
    console->device = device;
    console->look = (struct io_job){.run = look, .data = console};
    console->on_output = config->on_serial;
    console->callback_data = config->data;
    device->features = VIRTIO_FEATURE(VIRTIO_CONSOLE_F_EMERG_WRITE);
    device->queue_count = QUEUES;
    device->queue_size = 64;
    device->config_bytes = CONFIG_BYTES;
    device->state = console;
    return 0;
}

static void console_destroy(struct virtio_device *device)
{
    struct console_device *console = console_of(device);
    if (console)
        io_loop_cancel(device->loop, &console->look);
    free(console);
    device->state = NULL;
}

static void console_reset(struct virtio_device *device)
{
    io_loop_cancel(device->loop, &console_of(device)->look);
}

const struct virtio_kind virtio_console_kind = {
    .name = "virtio-console",
    .id = VIRTIO_ID_CONSOLE,
    .pci_class = PCI_CLASS_COMMUNICATION,
    .pci_subclass = PCI_SUBCLASS_OTHER,
    .instances = console_instances,
    .create = console_create,
    .destroy = console_destroy,
    .config_read = console_config_read,
    .config_write = console_config_write,
    .notify = console_notify,
    .reset = console_reset,
};

#include "vmm-core/virtio.h"

#include <assert.h>

#include "vmm-core/virtqueue.h"

struct virtqueue *virtio_device_queue(struct virtio_device *device, unsigned queue)
{
    assert(queue < device->queue_count);
    struct virtqueue *found = &device->queues[queue];
    return found->guest.enabled ? found : NULL;
}

void virtio_device_push_done(struct virtio_device *device, unsigned queue)
{
    struct virtqueue *pushed = virtio_device_queue(device, queue);
    if (pushed && virtio_device_is_live(device) && virtqueue_should_notify(pushed))
        device->transport->interrupt_queue(device, queue);
}

void virtio_device_config_changed(struct virtio_device *device)
{
    device->transport->interrupt_config(device);
}

void virtio_device_needs_reset(struct virtio_device *device)
{
    if (device->status & VIRTIO_STATUS_NEEDS_RESET)
        return;
    device->status |= VIRTIO_STATUS_NEEDS_RESET;
    if (device->status & VIRTIO_STATUS_DRIVER_OK)
        device->transport->interrupt_config(device);
}

void virtio_device_quiet(struct virtio_device *device)
{
    device->transport->quiet(device);
}

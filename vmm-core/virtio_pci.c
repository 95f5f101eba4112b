/* The status machine (virtio 1.2, 3.1): a driver adds bits, one by one, and takes all away at once.
 *
 *   0 -> ACKNOWLEDGE -> DRIVER -> FEATURES_OK -> (queues) -> DRIVER_OK -> ... -> 0
 *                                 only when we agree         live          reset, once at rest
 *
 * Writing zero begins a reset; while requests are in flight the old status is still read, so the
 * driver, which waits for zero, cannot take back memory that is still being written to.
 *
 * Whatever a driver writes that it must not is ignored, or makes the device ask for a reset.
 */
#include "vmm-core/virtio_pci.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/own.h"
#include "proto/device_state.pb-c.h"
#include "vmm-core/device.h"
#include "vmm-core/machine_state.h"
#include "vmm-core/state_reader.h"
#include "vmm-core/vm_inside.h"

enum {
    COMMON_DEVICE_FEATURE_SELECT = 0x00,
    COMMON_DEVICE_FEATURE = 0x04,
    COMMON_DRIVER_FEATURE_SELECT = 0x08,
    COMMON_DRIVER_FEATURE = 0x0c,
    COMMON_CONFIG_VECTOR = 0x10,
    COMMON_QUEUE_COUNT = 0x12,
    COMMON_STATUS = 0x14,
    COMMON_CONFIG_GENERATION = 0x15,
    COMMON_QUEUE_SELECT = 0x16,
    COMMON_QUEUE_SIZE = 0x18,
    COMMON_QUEUE_VECTOR = 0x1a,
    COMMON_QUEUE_ENABLE = 0x1c,
    COMMON_QUEUE_NOTIFY_OFFSET = 0x1e,
    COMMON_QUEUE_DESCRIPTORS = 0x20,
    COMMON_QUEUE_DRIVER = 0x28,
    COMMON_QUEUE_DEVICE = 0x30,
    COMMON_BYTES = 0x38,

    ISR_QUEUE = 1,
    ISR_CONFIG = 2,

    CAPABILITY_VENDOR = 0x09,
    CAPABILITY_COMMON = 1,
    CAPABILITY_NOTIFY = 2,
    CAPABILITY_ISR = 3,
    CAPABILITY_DEVICE = 4,
    CAPABILITY_WINDOW = 5,
    CAPABILITY_BYTES = 16, /* common part, id and next pointer among them */

    WINDOW_BAR = 4, /* in its capability */
    WINDOW_OFFSET = 8,
    WINDOW_LENGTH = 12,
    WINDOW_DATA = 16,
    WINDOW_BYTES = 20,

    STATUS_KNOWN = VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER | VIRTIO_STATUS_DRIVER_OK |
                   VIRTIO_STATUS_FEATURES_OK | VIRTIO_STATUS_NEEDS_RESET | VIRTIO_STATUS_FAILED,

    PCI_VENDOR_VIRTIO = 0x1af4,
    PCI_DEVICE_VIRTIO = 0x1040, /* and the device's type */
    PCI_SUBSYSTEM_VIRTIO = 0x1100,
};

static_assert(VIRTIO_QUEUES_MAX + 1 <= PCI_MSIX_VECTORS_MAX, "a vector each, and one for config");
static_assert(VIRTIO_PCI_NOTIFY + VIRTIO_QUEUES_MAX * VIRTIO_PCI_NOTIFY_BYTES <=
                  VIRTIO_PCI_BAR_BYTES,
              "every doorbell is inside the BAR");

static struct virtio_pci *pci_of(struct virtio_device *device)
{
    return CONTAINER_OF(device, struct virtio_pci, device);
}

static void virtio_pci_freep(struct virtio_pci **pci)
{
    *pci = virtio_pci_free(*pci);
}

/* Interrupts */

static void interrupt_queue(struct virtio_device *device, unsigned queue)
{
    struct virtio_pci *pci = pci_of(device);
    pci->registers.isr |= ISR_QUEUE;
    pci_function_raise(&pci->function, pci->registers.queue_vectors[queue]);
}

static void interrupt_config(struct virtio_device *device)
{
    struct virtio_pci *pci = pci_of(device);
    pci->registers.config_generation++;
    pci->registers.isr |= ISR_CONFIG;
    pci_function_raise(&pci->function, pci->registers.config_vector);
}

static void device_quiet(struct virtio_device *device)
{
    virtio_pci_settle(pci_of(device));
}

static const struct virtio_transport_ops transport_ops = {
    .interrupt_queue = interrupt_queue,
    .interrupt_config = interrupt_config,
    .quiet = device_quiet,
};

/* Doorbells */

static void ring_doorbell(struct virtio_pci *pci, unsigned queue)
{
    uint64_t one = 1;
    ssize_t written = write(pci->doorbells[queue].watch.fd, &one, sizeof one);
    assert(written == sizeof one || errno == EAGAIN); /* full: it rings */
    (void)written;
}

static void ring_enabled(struct virtio_pci *pci)
{
    for (unsigned i = 0; i < pci->device.queue_count; i++) {
        if (pci->queues[i].guest.enabled)
            ring_doorbell(pci, i);
    }
}

static void notify_queue(struct virtio_pci *pci, unsigned queue)
{
    struct virtio_device *device = &pci->device;
    if (virtio_device_is_live(device) && !device->draining && pci->queues[queue].guest.enabled)
        device->kind->notify(device, queue);
}

static void doorbell_ready(void *data, uint32_t events)
{
    (void)events;
    struct virtio_pci_doorbell *doorbell = data;
    uint64_t count;
    ssize_t r = read(doorbell->watch.fd, &count, sizeof count);
    (void)r; /* EAGAIN: it was looked at already */
    notify_queue(doorbell->owner, doorbell->queue);
}

void virtio_pci_go_on(struct virtio_pci *pci)
{
    struct virtio_device *device = &pci->device;
    device->draining = false;
    if (device->kind->go_on)
        device->kind->go_on(device);
    for (unsigned i = 0; i < device->queue_count; i++)
        notify_queue(pci, i);
}

static void bind_doorbells(struct virtio_pci *pci, uint64_t address, bool bind)
{
    for (unsigned i = 0; i < pci->device.queue_count; i++) {
        struct virtio_pci_doorbell *doorbell = &pci->doorbells[i];
        uint64_t at = address + VIRTIO_PCI_NOTIFY + i * VIRTIO_PCI_NOTIFY_BYTES;
        if (bind != doorbell->bound &&
            pci->host.ops->doorbell(pci->host.data, at, doorbell->watch.fd, bind))
            doorbell->bound = bind;
    }
    pci->doorbell_address = bind ? address : 0;
}

/* Binding costs the kernel a grace period each, so it follows only a BAR that has really gone
 * elsewhere: switching memory decoding off and on, as every driver does, changes nothing. */
static void bar_moved(void *data)
{
    struct virtio_pci *pci = data;
    uint64_t address = pci->function.ranges[0].address;
    if (!pci->function.mapped[0] || address == pci->doorbell_address)
        return;
    if (pci->doorbell_address)
        bind_doorbells(pci, pci->doorbell_address, false);
    bind_doorbells(pci, address, true);
}

/* Reset */

static void forget_all(struct virtio_pci *pci)
{
    struct virtio_device *device = &pci->device;
    for (unsigned i = 0; i < device->queue_count; i++) {
        virtqueue_reset(&pci->queues[i]);
        pci->queues[i].guest.size = device->queue_size;
    }
    /* The window is configuration space's, the generation only grows. */
    struct virtio_pci_registers *registers = &pci->registers;
    registers->device_feature_select = registers->driver_feature_select = 0;
    registers->queue_select = 0;
    registers->isr = 0;
    registers->config_vector = VIRTIO_NO_VECTOR;
    for (unsigned i = 0; i < VIRTIO_QUEUES_MAX; i++)
        registers->queue_vectors[i] = VIRTIO_NO_VECTOR;
    device->driver_features = 0;
    device->status = 0;
    device->resetting = false;
}

void virtio_pci_settle(struct virtio_pci *pci)
{
    if (pci->device.resetting)
        forget_all(pci);
}

static void begin_reset(struct virtio_pci *pci)
{
    struct virtio_device *device = &pci->device;
    if (device->resetting)
        return;
    device->resetting = true;
    device->kind->reset(device);
    if (!device->kind->is_quiet || device->kind->is_quiet(device))
        virtio_pci_settle(pci);
}

void virtio_pci_reset(struct virtio_pci *pci)
{
    begin_reset(pci);
    assert(!pci->device.resetting); /* nothing is in flight */
    struct virtio_pci_registers *registers = &pci->registers;
    registers->window_bar = 0;
    registers->window_offset = registers->window_bytes = 0;
    registers->config_generation = 0;
    pci_function_reset(&pci->function);
}

/* Common configuration */

static uint64_t offered(const struct virtio_device *device)
{
    return device->features | VIRTIO_FEATURES_OF_TRANSPORT;
}

static uint32_t feature_word(uint64_t features, uint32_t select)
{
    return select < 2 ? (uint32_t)(features >> (select * 32)) : 0;
}

static struct virtqueue_guest *selected_queue(struct virtio_pci *pci)
{
    unsigned queue = pci->registers.queue_select;
    return queue < pci->device.queue_count ? &pci->queues[queue].guest : NULL;
}

static void put_queue(struct virtio_pci *pci, uint8_t image[static COMMON_BYTES])
{
    const struct virtqueue_guest *queue = selected_queue(pci);
    if (!queue)
        return; /* size 0: there is none */
    uint16_t number = pci->registers.queue_select;
    bytes_put_u16(image + COMMON_QUEUE_SIZE, queue->size);
    bytes_put_u16(image + COMMON_QUEUE_VECTOR, pci->registers.queue_vectors[number]);
    bytes_put_u16(image + COMMON_QUEUE_ENABLE, queue->enabled);
    bytes_put_u16(image + COMMON_QUEUE_NOTIFY_OFFSET, number);
    bytes_put_u64(image + COMMON_QUEUE_DESCRIPTORS, queue->descriptors);
    bytes_put_u64(image + COMMON_QUEUE_DRIVER, queue->driver);
    bytes_put_u64(image + COMMON_QUEUE_DEVICE, queue->device);
}

static void read_common(struct virtio_pci *pci, uint64_t offset, uint8_t *ret_bytes, unsigned count)
{
    const struct virtio_device *device = &pci->device;
    const struct virtio_pci_registers *registers = &pci->registers;
    uint8_t image[COMMON_BYTES] = {0};
    bytes_put_u32(image + COMMON_DEVICE_FEATURE_SELECT, registers->device_feature_select);
    bytes_put_u32(image + COMMON_DEVICE_FEATURE,
                  feature_word(offered(device), registers->device_feature_select));
    bytes_put_u32(image + COMMON_DRIVER_FEATURE_SELECT, registers->driver_feature_select);
    bytes_put_u32(image + COMMON_DRIVER_FEATURE,
                  feature_word(device->driver_features, registers->driver_feature_select));
    bytes_put_u16(image + COMMON_CONFIG_VECTOR, registers->config_vector);
    bytes_put_u16(image + COMMON_QUEUE_COUNT, (uint16_t)device->queue_count);
    image[COMMON_STATUS] = device->status;
    image[COMMON_CONFIG_GENERATION] = registers->config_generation;
    bytes_put_u16(image + COMMON_QUEUE_SELECT, registers->queue_select);
    put_queue(pci, image);
    if (range_fits(offset, count, COMMON_BYTES))
        memcpy(ret_bytes, image + offset, count);
}

static void write_features(struct virtio_pci *pci, uint32_t value)
{
    struct virtio_device *device = &pci->device;
    uint32_t select = pci->registers.driver_feature_select;
    if (select >= 2 || (device->status & VIRTIO_STATUS_FEATURES_OK))
        return;
    uint64_t mask = UINT64_C(0xffffffff) << (select * 32);
    device->driver_features = (device->driver_features & ~mask) | (uint64_t)value << (select * 32);
}

static bool features_are_fine(const struct virtio_device *device)
{
    return (device->driver_features & ~offered(device)) == 0 &&
           virtio_device_has(device, VIRTIO_F_VERSION_1);
}

static void write_status(struct virtio_pci *pci, uint8_t value)
{
    struct virtio_device *device = &pci->device;
    if (value == 0) {
        begin_reset(pci);
        return;
    }
    if (device->resetting)
        return;
    uint8_t added = (uint8_t)(value & ~device->status & STATUS_KNOWN & ~VIRTIO_STATUS_NEEDS_RESET);
    if ((added & VIRTIO_STATUS_FEATURES_OK) && !features_are_fine(device))
        added &= (uint8_t)~VIRTIO_STATUS_FEATURES_OK; /* the driver reads it back and gives up */
    device->status |= added;
    if (!(added & VIRTIO_STATUS_DRIVER_OK))
        return;
    if (!(device->status & VIRTIO_STATUS_FEATURES_OK)) {
        virtio_device_needs_reset(device);
        return;
    }
    if (!virtio_device_is_live(device))
        return; /* a queue was broken from the beginning */
    if (device->kind->activate)
        device->kind->activate(device);
    ring_enabled(pci);
}

static uint16_t vector_of(const struct virtio_pci *pci, uint16_t value)
{
    return value < pci->function.msix_vectors ? value : VIRTIO_NO_VECTOR;
}

/* Rings are looked at here, once, with everything that was agreed on. */
static void enable_queue(struct virtio_pci *pci)
{
    struct virtio_device *device = &pci->device;
    unsigned number = pci->registers.queue_select;
    struct virtqueue *queue = &pci->queues[number];
    if (queue->guest.enabled || device->resetting)
        return;
    if (!(device->status & VIRTIO_STATUS_FEATURES_OK) || queue->guest.size > device->queue_size ||
        !virtqueue_start(queue, device->memory, device->driver_features)) {
        virtio_device_needs_reset(device);
        return;
    }
    if (virtio_device_is_live(device))
        ring_doorbell(pci, number);
}

static void write_address(uint64_t *address, bool high, uint32_t value)
{
    if (high)
        *address = (*address & UINT32_MAX) | (uint64_t)value << 32;
    else
        *address = (*address & ~(uint64_t)UINT32_MAX) | value;
}

static void write_queue(struct virtio_pci *pci, uint64_t offset, uint32_t value)
{
    struct virtqueue_guest *queue = selected_queue(pci);
    if (!queue)
        return;
    if (offset == COMMON_QUEUE_VECTOR)
        pci->registers.queue_vectors[pci->registers.queue_select] = vector_of(pci, (uint16_t)value);
    else if (offset == COMMON_QUEUE_ENABLE && value == 1)
        enable_queue(pci);
    if (queue->enabled)
        return; /* its place is fixed until the next reset */
    if (offset == COMMON_QUEUE_SIZE)
        queue->size = value > pci->device.queue_size ? pci->device.queue_size : (uint16_t)value;
    else if (offset >= COMMON_QUEUE_DEVICE)
        write_address(&queue->device, offset != COMMON_QUEUE_DEVICE, value);
    else if (offset >= COMMON_QUEUE_DRIVER)
        write_address(&queue->driver, offset != COMMON_QUEUE_DRIVER, value);
    else if (offset >= COMMON_QUEUE_DESCRIPTORS)
        write_address(&queue->descriptors, offset != COMMON_QUEUE_DESCRIPTORS, value);
}

/* How wide the register at `offset` is; 0 where none begins. */
static unsigned common_width(uint64_t offset)
{
    if (offset < COMMON_CONFIG_VECTOR || offset >= COMMON_QUEUE_DESCRIPTORS)
        return offset % 4 == 0 ? 4 : 0;
    if (offset == COMMON_STATUS || offset == COMMON_CONFIG_GENERATION)
        return 1;
    return offset % 2 == 0 ? 2 : 0;
}

static void write_common_register(struct virtio_pci *pci, uint64_t offset, uint32_t value)
{
    struct virtio_pci_registers *registers = &pci->registers;
    switch (offset) {
    case COMMON_DEVICE_FEATURE_SELECT:
        registers->device_feature_select = value;
        break;
    case COMMON_DRIVER_FEATURE_SELECT:
        registers->driver_feature_select = value;
        break;
    case COMMON_DRIVER_FEATURE:
        write_features(pci, value);
        break;
    case COMMON_CONFIG_VECTOR:
        registers->config_vector = vector_of(pci, (uint16_t)value);
        break;
    case COMMON_STATUS:
        write_status(pci, (uint8_t)value);
        break;
    case COMMON_QUEUE_SELECT:
        registers->queue_select = (uint16_t)value;
        break;
    case COMMON_DEVICE_FEATURE:
    case COMMON_QUEUE_COUNT:
    case COMMON_CONFIG_GENERATION:
    case COMMON_QUEUE_NOTIFY_OFFSET:
        break; /* read only */
    default:
        write_queue(pci, offset, value);
        break;
    }
}

static void write_common(struct virtio_pci *pci, uint64_t offset, const uint8_t *bytes,
                         unsigned count)
{
    if (count == 8) { /* an address in one piece */
        write_common(pci, offset, bytes, 4);
        write_common(pci, offset + 4, bytes + 4, 4);
        return;
    }
    if (!range_fits(offset, count, COMMON_BYTES) || count != common_width(offset))
        return;
    uint8_t word[4] = {0};
    memcpy(word, bytes, count);
    write_common_register(pci, offset, bytes_get_u32(word));
}

/* BAR 0 */

static void read_device(struct virtio_pci *pci, uint64_t offset, uint8_t *ret_bytes, unsigned count)
{
    struct virtio_device *device = &pci->device;
    if (range_fits(offset, count, device->config_bytes))
        device->kind->config_read(device, (unsigned)offset, ret_bytes, count);
}

static void write_device(struct virtio_pci *pci, uint64_t offset, const uint8_t *bytes,
                         unsigned count)
{
    struct virtio_device *device = &pci->device;
    if (range_fits(offset, count, device->config_bytes) && device->kind->config_write)
        device->kind->config_write(device, (unsigned)offset, bytes, count);
}

static void bar_read(void *data, uint64_t offset, uint8_t *ret_bytes, unsigned count)
{
    struct virtio_pci *pci = data;
    memset(ret_bytes, 0, count);
    if (offset >= VIRTIO_PCI_NOTIFY)
        return;
    if (offset >= VIRTIO_PCI_DEVICE) {
        read_device(pci, offset - VIRTIO_PCI_DEVICE, ret_bytes, count);
    } else if (offset == VIRTIO_PCI_ISR) {
        ret_bytes[0] = pci->registers.isr;
        pci->registers.isr = 0;
    } else if (offset < VIRTIO_PCI_ISR) {
        read_common(pci, offset, ret_bytes, count);
    }
}

static void bar_write(void *data, uint64_t offset, const uint8_t *bytes, unsigned count)
{
    struct virtio_pci *pci = data;
    if (offset >= VIRTIO_PCI_NOTIFY) {
        uint64_t queue = (offset - VIRTIO_PCI_NOTIFY) / VIRTIO_PCI_NOTIFY_BYTES;
        if (queue < pci->device.queue_count)
            ring_doorbell(pci, (unsigned)queue);
    } else if (offset >= VIRTIO_PCI_DEVICE) {
        write_device(pci, offset - VIRTIO_PCI_DEVICE, bytes, count);
    } else if (offset < VIRTIO_PCI_ISR) {
        write_common(pci, offset, bytes, count);
    }
}

static const struct mmio_ops bar_ops = {.read = bar_read, .write = bar_write};

/* The window: BAR 0 by way of configuration space, for whoever cannot map it yet. */

static bool window_is_fine(const struct virtio_pci_registers *registers)
{
    uint32_t bytes = registers->window_bytes;
    return registers->window_bar == 0 && (bytes == 1 || bytes == 2 || bytes == 4) &&
           registers->window_offset % bytes == 0 &&
           range_fits(registers->window_offset, bytes, VIRTIO_PCI_BAR_BYTES);
}

static void window_read(void *data, unsigned offset, uint8_t *ret_bytes, unsigned count)
{
    struct virtio_pci *pci = data;
    const struct virtio_pci_registers *registers = &pci->registers;
    unsigned at = offset - pci->window_at;
    uint8_t image[WINDOW_BYTES];
    memcpy(image, pci->function.fixed + pci->window_at, sizeof image);
    image[WINDOW_BAR] = registers->window_bar;
    bytes_put_u32(image + WINDOW_OFFSET, registers->window_offset);
    bytes_put_u32(image + WINDOW_LENGTH, registers->window_bytes);
    if (at == WINDOW_DATA && count == registers->window_bytes && window_is_fine(registers))
        bar_read(pci, registers->window_offset, image + WINDOW_DATA, count);
    memcpy(ret_bytes, image + at, count);
}

static void window_write(void *data, unsigned offset, const uint8_t *bytes, unsigned count)
{
    struct virtio_pci *pci = data;
    struct virtio_pci_registers *registers = &pci->registers;
    unsigned at = offset - pci->window_at;
    if (at == WINDOW_DATA) {
        if (count == registers->window_bytes && window_is_fine(registers))
            bar_write(pci, registers->window_offset, bytes, count);
        return;
    }
    uint8_t image[WINDOW_DATA];
    memset(image, 0, sizeof image);
    image[WINDOW_BAR] = registers->window_bar;
    bytes_put_u32(image + WINDOW_OFFSET, registers->window_offset);
    bytes_put_u32(image + WINDOW_LENGTH, registers->window_bytes);
    if (!range_fits(at, count, WINDOW_DATA))
        return;
    memcpy(image + at, bytes, count);
    registers->window_bar = image[WINDOW_BAR];
    registers->window_offset = bytes_get_u32(image + WINDOW_OFFSET);
    registers->window_bytes = bytes_get_u32(image + WINDOW_LENGTH);
}

static void send_message(void *data, uint64_t address, uint32_t value)
{
    struct virtio_pci *pci = data;
    pci->host.ops->message(pci->host.data, address, value);
}

static const struct pci_function_ops function_ops = {
    .config_read = window_read,
    .config_write = window_write,
    .moved = bar_moved,
    .message = send_message,
};

/* Making one */

static unsigned add_capability(struct pci_function *function, uint8_t type, uint32_t offset,
                               uint32_t bytes, unsigned more)
{
    uint8_t body[WINDOW_BYTES - 2] = {0};
    body[0] = (uint8_t)(CAPABILITY_BYTES + more);
    body[1] = type;
    body[2] = 0; /* BAR */
    bytes_put_u32(body + 6, offset);
    bytes_put_u32(body + 10, bytes);
    if (type == CAPABILITY_NOTIFY)
        bytes_put_u32(body + 14, VIRTIO_PCI_NOTIFY_BYTES);
    return pci_function_add_capability(function, CAPABILITY_VENDOR, body,
                                       CAPABILITY_BYTES - 2 + more);
}

static void describe(struct virtio_pci *pci)
{
    const struct virtio_kind *kind = pci->device.kind;
    struct pci_function *function = &pci->function;
    const struct pci_ids ids = {
        .vendor = PCI_VENDOR_VIRTIO,
        .device = (uint16_t)(PCI_DEVICE_VIRTIO + kind->id),
        .subsystem_vendor = PCI_VENDOR_VIRTIO,
        .subsystem = PCI_SUBSYSTEM_VIRTIO,
        .revision = 1,
        .class_code = kind->pci_class,
        .subclass = kind->pci_subclass,
    };
    pci_function_init(function, &ids);
    pci_function_add_msix(function, pci->device.queue_count + 1);
    (void)add_capability(function, CAPABILITY_COMMON, VIRTIO_PCI_COMMON, COMMON_BYTES, 0);
    (void)add_capability(function, CAPABILITY_ISR, VIRTIO_PCI_ISR, 1, 0);
    if (pci->device.config_bytes)
        (void)add_capability(function, CAPABILITY_DEVICE, VIRTIO_PCI_DEVICE,
                             pci->device.config_bytes, 0);
    (void)add_capability(function, CAPABILITY_NOTIFY, VIRTIO_PCI_NOTIFY,
                         pci->device.queue_count * VIRTIO_PCI_NOTIFY_BYTES, 4);
    pci->window_at = add_capability(function, CAPABILITY_WINDOW, 0, 0, 4);
    function->window_offset = pci->window_at + WINDOW_BAR;
    function->window_bytes = WINDOW_BYTES - WINDOW_BAR;
    function->bar_bytes[0] = VIRTIO_PCI_BAR_BYTES;
    function->ranges[0].ops = &bar_ops;
    function->ranges[0].data = pci;
    function->ops = &function_ops;
    function->data = pci;
}

static int open_doorbells(struct virtio_pci *pci, struct fault *fault)
{
    for (unsigned i = 0; i < pci->device.queue_count; i++) {
        struct virtio_pci_doorbell *doorbell = &pci->doorbells[i];
        doorbell->queue = i;
        doorbell->owner = pci;
        int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (fd < 0)
            return fault_set_errno(fault, err_from_errno(errno), errno, "making a doorbell");
        doorbell->watch = (struct io_watch){
            .fd = fd, .class = IO_WATCH_SOURCE, .ready = doorbell_ready, .data = doorbell};
        int r = io_loop_add(pci->host.loop, &doorbell->watch, EPOLLIN, fault);
        if (r < 0)
            return r;
    }
    return 0;
}

int virtio_pci_new(struct virtio_pci **ret_pci, const struct virtio_kind *kind, unsigned instance,
                   const struct virtio_pci_host *host, const struct vm_config *config,
                   struct pci_bus *bus, unsigned slot, struct fault *fault)
{
    AUTO(virtio_pci_freep) struct virtio_pci *pci = calloc(1, sizeof *pci);
    if (!pci)
        return fault_set(fault, ERR_NOMEM, "no memory for %s %u", kind->name, instance);
    for (unsigned i = 0; i < VIRTIO_QUEUES_MAX; i++)
        pci->doorbells[i].watch.fd = -1;
    pci->host = *host;
    pci->device = (struct virtio_device){
        .kind = kind,
        .instance = instance,
        .memory = host->memory,
        .loop = host->loop,
        .transport = &transport_ops,
        .queues = pci->queues,
    };
    int r = kind->create(&pci->device, config, fault);
    if (r < 0)
        return fault_wrap(fault, r, "%s %u", kind->name, instance);
    const struct virtio_device *device = &pci->device;
    assert(device->queue_count >= 1 && device->queue_count <= VIRTIO_QUEUES_MAX);
    assert(device->queue_size >= 1 && device->queue_size <= VIRTQUEUE_SIZE_MAX);
    assert((device->features & VIRTIO_FEATURES_OF_TRANSPORT) == 0);
    describe(pci);
    if ((r = open_doorbells(pci, fault)) < 0)
        return r;
    forget_all(pci);
    pci_bus_add(bus, &pci->function, slot);
    /* Bound before the guest needs them: an incoming guest has no time for it. */
    bind_doorbells(pci, pci->function.bar_places[0], true);

    *ret_pci = TAKE(pci);
    return 0;
}

struct virtio_pci *virtio_pci_free(struct virtio_pci *pci)
{
    if (!pci)
        return NULL;
    pci->device.kind->destroy(&pci->device);
    for (unsigned i = 0; i < VIRTIO_QUEUES_MAX; i++) {
        io_loop_remove(pci->host.loop, &pci->doorbells[i].watch);
        close_p(&pci->doorbells[i].watch.fd);
    }
    free(pci);
    return NULL;
}

/* State */

void virtio_pci_capture(const struct virtio_pci *pci, struct virtio_pci_guest *ret_guest)
{
    const struct virtio_device *device = &pci->device;
    assert(!device->resetting);
    memset(ret_guest, 0, sizeof *ret_guest);
    ret_guest->id = device->kind->id;
    ret_guest->features = device->features;
    ret_guest->registers = pci->registers;
    ret_guest->registers.status = device->status;
    ret_guest->registers.driver_features = device->driver_features;
    ret_guest->queue_count = device->queue_count;
    for (unsigned i = 0; i < device->queue_count; i++)
        ret_guest->queues[i] = pci->queues[i].guest;
    ret_guest->pci = pci->function.guest;
}

static const char *misfit(const struct virtio_pci *pci, const struct virtio_pci_guest *guest)
{
    const struct virtio_device *device = &pci->device;
    const struct virtio_pci_registers *registers = &guest->registers;
    uint64_t common = guest->features | VIRTIO_FEATURES_OF_TRANSPORT;
    if (guest->id != device->kind->id)
        return "it is of another kind";
    if (guest->features & ~device->features)
        return "it was offered features that this host cannot give";
    if (guest->queue_count != device->queue_count)
        return "it has another number of queues";
    if ((registers->status & VIRTIO_STATUS_FEATURES_OK) &&
        ((registers->driver_features & ~common) ||
         !(registers->driver_features & VIRTIO_FEATURE(VIRTIO_F_VERSION_1))))
        return "its driver has features that were never offered";
    if ((registers->status & VIRTIO_STATUS_DRIVER_OK) &&
        !(registers->status & (VIRTIO_STATUS_FEATURES_OK | VIRTIO_STATUS_NEEDS_RESET)))
        return "its driver runs without having agreed on features";
    for (unsigned i = 0; i < guest->queue_count; i++) {
        if (guest->queues[i].size > device->queue_size)
            return "a queue is larger than it can be";
        if (vector_of(pci, registers->queue_vectors[i]) != registers->queue_vectors[i])
            return "a queue's vector is none";
    }
    if (vector_of(pci, registers->config_vector) != registers->config_vector)
        return "its configuration's vector is none";
    return pci_function_takes(&pci->function, &guest->pci) ? NULL
                                                           : "its PCI registers cannot be so";
}

int virtio_pci_revive(struct virtio_pci *pci, const struct virtio_pci_guest *guest,
                      struct fault *fault)
{
    struct virtio_device *device = &pci->device;
    const char *trouble = misfit(pci, guest);
    if (trouble)
        return fault_set(fault, ERR_CORRUPT, "%s %u: %s", device->kind->name, device->instance,
                         trouble);
    device->features = guest->features;
    device->status = guest->registers.status;
    device->driver_features = guest->registers.driver_features;
    pci->registers = guest->registers;
    for (unsigned i = 0; i < guest->queue_count; i++) {
        if (!virtqueue_revive(&pci->queues[i], &guest->queues[i], device->memory,
                              device->driver_features))
            return fault_set(fault, ERR_CORRUPT, "%s %u: queue %u: %s", device->kind->name,
                             device->instance, i, pci->queues[i].trouble);
    }
    pci_function_set(&pci->function, &guest->pci);
    return 0;
}

/* clang-format off */
#define REGISTER_FIELDS(X)                                                                         \
    X(driver_features) X(device_feature_select) X(driver_feature_select) X(config_vector)          \
    X(queue_select) X(status) X(isr) X(config_generation) X(window_bar) X(window_offset)           \
    X(window_bytes)
/* clang-format on */

int virtio_pci_save(const struct virtio_pci_guest *guest, uint8_t **ret_bytes, size_t *ret_count)
{
    assert(guest->queue_count <= VIRTIO_QUEUES_MAX);
    Godwit__VirtioPciStateV1 state = GODWIT__VIRTIO_PCI_STATE_V1__INIT;
    Godwit__VirtqueueStateV1 queues[VIRTIO_QUEUES_MAX];
    Godwit__VirtqueueStateV1 *pointers[VIRTIO_QUEUES_MAX];
    uint32_t vectors[VIRTIO_QUEUES_MAX];
    struct pci_function_message function;

    STATE_PUT(&state, id, guest->id);
    STATE_PUT(&state, features, guest->features);
#define SAVE_FIELD(field) STATE_PUT(&state, field, guest->registers.field);
    REGISTER_FIELDS(SAVE_FIELD)
#undef SAVE_FIELD
    for (unsigned i = 0; i < guest->queue_count; i++) {
        godwit__virtqueue_state_v1__init(&queues[i]);
        virtqueue_save(&guest->queues[i], &queues[i]);
        pointers[i] = &queues[i];
        vectors[i] = guest->registers.queue_vectors[i];
    }
    state.queues = pointers;
    state.queue_vectors = vectors;
    state.n_queues = state.n_queue_vectors = guest->queue_count;
    pci_function_save(&guest->pci, &function);
    state.function = &function.out;
    return state_reader_pack(&state.base, ret_bytes, ret_count);
}

static void load_queues(struct state_reader *reader, const Godwit__VirtioPciStateV1 *in,
                        struct virtio_pci_guest *guest)
{
    if (!state_reader_check(reader,
                            in->n_queues >= 1 && in->n_queues <= VIRTIO_QUEUES_MAX &&
                                in->n_queue_vectors == in->n_queues,
                            "queues", "are none, too many or without vectors"))
        return;
    guest->queue_count = (unsigned)in->n_queues;
    for (unsigned i = 0; i < VIRTIO_QUEUES_MAX; i++)
        guest->registers.queue_vectors[i] = VIRTIO_NO_VECTOR;
    for (unsigned i = 0; i < guest->queue_count; i++) {
        virtqueue_load(reader, in->queues[i], &guest->queues[i]);
        if (state_reader_check(reader, in->queue_vectors[i] <= UINT16_MAX, "queue_vectors",
                               "are wider than their register"))
            guest->registers.queue_vectors[i] = (uint16_t)in->queue_vectors[i];
    }
}

int virtio_pci_load(struct virtio_pci_guest *ret_guest, const uint8_t *bytes, size_t count,
                    struct fault *fault)
{
    struct state_reader reader = {.section = "virtio_pci", .fault = fault};
    struct virtio_pci_guest guest;
    memset(&guest, 0, sizeof guest); /* padding too: equal states are equal bytes */

    ProtobufCMessage *message =
        state_reader_unpack(&reader, &godwit__virtio_pci_state_v1__descriptor, bytes, count);
    if (!message)
        return reader.result;
    const Godwit__VirtioPciStateV1 *in = (const Godwit__VirtioPciStateV1 *)message;
    STATE_TAKE(&reader, in, id, guest.id);
    STATE_TAKE(&reader, in, features, guest.features);
#define LOAD_FIELD(field) STATE_TAKE(&reader, in, field, guest.registers.field);
    REGISTER_FIELDS(LOAD_FIELD)
#undef LOAD_FIELD
    (void)state_reader_check(&reader, (guest.registers.status & ~STATUS_KNOWN) == 0, "status",
                             "has bits that are none");
    load_queues(&reader, in, &guest);
    pci_function_load(&reader, in->function, &guest.pci);
    protobuf_c_message_free_unpacked(message, NULL); /* state_reader allocates by malloc */
    if (reader.result < 0)
        return reader.result;

    *ret_guest = guest;
    return 0;
}

static int capture_row(struct vm *vm, unsigned instance, struct fault *fault)
{
    (void)fault;
    (void)pthread_mutex_lock(&vm->device_lock);
    virtio_pci_capture(vm->virtio.functions[instance], &vm->guest->virtio[instance]);
    (void)pthread_mutex_unlock(&vm->device_lock);
    return 0;
}

static int revive_row(struct vm *vm, const struct machine_guest *machine, unsigned instance,
                      struct fault *fault)
{
    (void)pthread_mutex_lock(&vm->device_lock);
    int r = virtio_pci_revive(vm->virtio.functions[instance], &machine->virtio[instance], fault);
    (void)pthread_mutex_unlock(&vm->device_lock);
    return r;
}

static int save_row(const struct machine_guest *machine, unsigned instance, uint8_t **ret_bytes,
                    size_t *ret_count)
{
    assert(instance < VIRTIO_FUNCTIONS_MAX);
    return virtio_pci_save(&machine->virtio[instance], ret_bytes, ret_count);
}

static int load_row(struct machine_guest *machine, unsigned instance, const uint8_t *bytes,
                    size_t count, struct fault *fault)
{
    assert(instance < VIRTIO_FUNCTIONS_MAX);
    return virtio_pci_load(&machine->virtio[instance], bytes, count, fault);
}

const struct device virtio_pci_device = {
    .name = "virtio_pci",
    .travel = DEVICE_TRAVELS,
    .version = 1,
    .instances = virtio_bus_functions,
    .capture = capture_row,
    .save = save_row,
    .load = load_row,
    .revive = revive_row,
};

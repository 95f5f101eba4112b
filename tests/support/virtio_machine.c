#include "tests/support/virtio_machine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/err.h"
#include "vmm-core/device.h"
#include "vmm-core/guest_memory.h"
#include "vmm-core/virtio_pci.h"
#include "vmm-core/vm.h"

static void on_message(void *data, uint64_t address, uint32_t value)
{
    struct virtio_machine *machine = data;
    (void)address;
    (void)pthread_mutex_lock(&machine->told_lock);
    machine->messages[value % VIRTIO_MACHINE_VECTORS]++;
    (void)pthread_cond_broadcast(&machine->told);
    (void)pthread_mutex_unlock(&machine->told_lock);
}

static bool on_doorbell(void *data, uint64_t address, int fd, bool bind)
{
    struct virtio_machine *machine = data;
    (void)address;
    (void)fd;
    if (machine->kernel_doorbells)
        machine->bound += bind ? 1U : -1U;
    return machine->kernel_doorbells;
}

static const struct virtio_pci_host_ops host_ops = {.message = on_message, .doorbell = on_doorbell};

static void on_drain(void *data)
{
    virtio_bus_drain(&((struct virtio_machine *)data)->virtio);
}

static bool on_is_quiet(void *data)
{
    return virtio_bus_is_quiet(&((struct virtio_machine *)data)->virtio);
}

static void on_go_on(void *data)
{
    virtio_bus_go_on(&((struct virtio_machine *)data)->virtio);
}

struct virtio_machine *virtio_machine_new(const struct vm_config *config)
{
    struct fault fault = {0};
    struct virtio_machine *machine = calloc(1, sizeof *machine);
    assert_non_null(machine);
    (void)pthread_mutex_init(&machine->lock, NULL);
    (void)pthread_mutex_init(&machine->told_lock, NULL);
    (void)pthread_cond_init(&machine->told, NULL);
    machine->kernel_doorbells = true;
    machine->shape = (struct machine_shape){.vcpus = config->vcpus,
                                            .memory_bytes = MIB(16),
                                            .baseline = "x86-64-v2",
                                            .console = config->console,
                                            .rng = config->rng,
                                            .balloon = config->balloon,
                                            .vsock = config->vsock_cid != 0,
                                            .disks = config->disk_count,
                                            .nics = config->nic_count};
    const struct io_loop_config loop = {.lock = &machine->lock,
                                        .data = machine,
                                        .drain = on_drain,
                                        .is_quiet = on_is_quiet,
                                        .go_on = on_go_on};
    assert_int_equal(guest_memory_new(&machine->memory, MIB(16), false, &fault), 0);
    assert_int_equal(io_loop_new(&machine->loop, &loop, &fault), 0);
    pci_bus_init(&machine->pci, &machine->mmio);
    const struct virtio_pci_host host = {
        .ops = &host_ops, .data = machine, .memory = machine->memory, .loop = machine->loop};
    if (virtio_bus_init(&machine->virtio, &machine->shape, &host, config, &machine->pci, &fault) <
        0)
        fail_msg("%s", fault.text);
    return machine;
}

struct virtio_machine *virtio_machine_free(struct virtio_machine *machine)
{
    if (!machine)
        return NULL;
    io_loop_stop(machine->loop);
    virtio_bus_deinit(&machine->virtio);
    machine->loop = io_loop_free(machine->loop);
    machine->memory = guest_memory_free(machine->memory);
    (void)pthread_cond_destroy(&machine->told);
    (void)pthread_mutex_destroy(&machine->told_lock);
    (void)pthread_mutex_destroy(&machine->lock);
    free(machine);
    return NULL;
}

void virtio_machine_go(struct virtio_machine *machine)
{
    io_loop_resume(machine->loop);
}

void virtio_machine_stop(struct virtio_machine *machine)
{
    assert_true(io_loop_pause(machine->loop, UINT64_MAX));
}

uint64_t virtio_machine_read(struct virtio_machine *machine, uint64_t address, unsigned bytes)
{
    uint8_t value[8] = {0};
    (void)pthread_mutex_lock(&machine->lock);
    mmio_read(&machine->mmio, address, value, bytes);
    (void)pthread_mutex_unlock(&machine->lock);
    return bytes_get_u64(value);
}

void virtio_machine_write(struct virtio_machine *machine, uint64_t address, uint64_t value,
                          unsigned bytes)
{
    uint8_t raw[8];
    bytes_put_u64(raw, value);
    (void)pthread_mutex_lock(&machine->lock);
    mmio_write(&machine->mmio, address, raw, bytes);
    (void)pthread_mutex_unlock(&machine->lock);
}

uint32_t virtio_machine_config(struct virtio_machine *machine, unsigned slot, unsigned offset,
                               unsigned bytes)
{
    return (uint32_t)virtio_machine_read(machine, LAYOUT_ECAM_START + (slot << 15) + offset, bytes);
}

void virtio_machine_set_config(struct virtio_machine *machine, unsigned slot, unsigned offset,
                               uint32_t value, unsigned bytes)
{
    virtio_machine_write(machine, LAYOUT_ECAM_START + (slot << 15) + offset, value, bytes);
}

void virtio_machine_await(struct virtio_machine *machine, unsigned data, unsigned count)
{
    (void)pthread_mutex_lock(&machine->told_lock);
    while (machine->messages[data] < count)
        (void)pthread_cond_wait(&machine->told, &machine->told_lock);
    machine->messages[data] -= count;
    (void)pthread_mutex_unlock(&machine->told_lock);
}

unsigned virtio_machine_told(struct virtio_machine *machine, unsigned data)
{
    (void)pthread_mutex_lock(&machine->told_lock);
    unsigned count = machine->messages[data];
    machine->messages[data] = 0;
    (void)pthread_mutex_unlock(&machine->told_lock);
    return count;
}

/* The rows of device_table need a vm; what they call does not. */
int virtio_machine_save(struct virtio_machine *machine, struct machine_guest *ret_guest,
                        struct fault *fault)
{
    int r = 0;
    memset(ret_guest, 0xa5, sizeof *ret_guest);
    (void)pthread_mutex_lock(&machine->lock);
    for (unsigned i = 0; r == 0 && i < machine->shape.disks; i++)
        r = virtio_blk_capture(virtio_bus_find(&machine->virtio, &virtio_blk_kind, i),
                               &ret_guest->disks[i], fault);
    for (unsigned i = 0; i < machine->shape.nics; i++)
        virtio_net_capture(virtio_bus_find(&machine->virtio, &virtio_net_kind, i),
                           &ret_guest->nics[i]);
    if (machine->shape.balloon)
        virtio_balloon_capture(virtio_bus_find(&machine->virtio, &virtio_balloon_kind, 0),
                               &ret_guest->balloon);
    if (machine->shape.vsock)
        virtio_vsock_capture(virtio_bus_find(&machine->virtio, &virtio_vsock_kind, 0),
                             &ret_guest->vsock);
    for (unsigned i = 0; i < machine->virtio.count; i++)
        virtio_pci_capture(machine->virtio.functions[i], &ret_guest->virtio[i]);
    pci_bus_capture(&machine->pci, &ret_guest->pci);
    (void)pthread_mutex_unlock(&machine->lock);
    return r;
}

int virtio_machine_load(struct virtio_machine *machine, const struct machine_guest *guest,
                        struct fault *fault)
{
    int r = 0;
    (void)pthread_mutex_lock(&machine->lock);
    pci_bus_revive(&machine->pci, &guest->pci);
    for (unsigned i = 0; r == 0 && i < machine->virtio.count; i++)
        r = virtio_pci_revive(machine->virtio.functions[i], &guest->virtio[i], fault);
    for (unsigned i = 0; r == 0 && i < machine->shape.disks; i++)
        r = virtio_blk_revive(virtio_bus_find(&machine->virtio, &virtio_blk_kind, i),
                              &guest->disks[i], fault);
    for (unsigned i = 0; r == 0 && i < machine->shape.nics; i++)
        r = virtio_net_revive(virtio_bus_find(&machine->virtio, &virtio_net_kind, i),
                              &guest->nics[i], fault);
    if (r == 0 && machine->shape.balloon)
        virtio_balloon_revive(virtio_bus_find(&machine->virtio, &virtio_balloon_kind, 0),
                              &guest->balloon);
    if (r == 0 && machine->shape.vsock)
        r = virtio_vsock_revive(virtio_bus_find(&machine->virtio, &virtio_vsock_kind, 0),
                                &guest->vsock, fault);
    (void)pthread_mutex_unlock(&machine->lock);
    return r;
}

enum { /* common configuration */
       COMMON_DEVICE_FEATURE_SELECT = 0x00,
       COMMON_DEVICE_FEATURE = 0x04,
       COMMON_DRIVER_FEATURE_SELECT = 0x08,
       COMMON_DRIVER_FEATURE = 0x0c,
       COMMON_QUEUE_COUNT = 0x12,
       COMMON_STATUS = 0x14,
       COMMON_QUEUE_SELECT = 0x16,
       COMMON_QUEUE_SIZE = 0x18,
       COMMON_QUEUE_VECTOR = 0x1a,
       COMMON_QUEUE_ENABLE = 0x1c,
       COMMON_QUEUE_DESCRIPTORS = 0x20,
       COMMON_QUEUE_DRIVER = 0x28,
       COMMON_QUEUE_DEVICE = 0x30,
};

uint8_t virtio_driver_status(struct virtio_driver *driver)
{
    return (uint8_t)virtio_machine_read(driver->machine, driver->bar + COMMON_STATUS, 1);
}

void virtio_driver_set_status(struct virtio_driver *driver, uint8_t status)
{
    virtio_machine_write(driver->machine, driver->bar + COMMON_STATUS, status, 1);
}

unsigned virtio_driver_vector(const struct virtio_driver *driver, unsigned queue)
{
    return driver->slot * 16 + queue;
}

static uint64_t offered_features(struct virtio_driver *driver)
{
    uint64_t features = 0;
    for (unsigned i = 0; i < 2; i++) {
        virtio_machine_write(driver->machine, driver->bar + COMMON_DEVICE_FEATURE_SELECT, i, 4);
        features |= virtio_machine_read(driver->machine, driver->bar + COMMON_DEVICE_FEATURE, 4)
                    << (i * 32);
    }
    return features;
}

static void find_device(struct virtio_driver *driver)
{
    struct virtio_machine *machine = driver->machine;
    unsigned slot = driver->slot;
    virtio_machine_set_config(machine, slot, PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER,
                              2);
    driver->bar = virtio_machine_config(machine, slot, 0x10, 4);
    uint64_t table = virtio_machine_config(machine, slot, 0x14, 4);
    for (unsigned i = 0; i < VIRTIO_DRIVER_QUEUES; i++) {
        virtio_machine_write(machine, table + (i + 1) * 16, LAYOUT_LAPIC, 8);
        virtio_machine_write(machine, table + (i + 1) * 16 + 8, virtio_driver_vector(driver, i), 4);
        virtio_machine_write(machine, table + (i + 1) * 16 + 12, 0, 4);
    }
    unsigned at = virtio_machine_config(machine, slot, 0x34, 1);
    while (at && virtio_machine_config(machine, slot, at, 1) != 0x11)
        at = virtio_machine_config(machine, slot, at + 1, 1);
    assert_int_not_equal(at, 0);
    virtio_machine_set_config(machine, slot, at + 2, 0x8000, 2);
}

static void set_up_queue(struct virtio_driver *driver, unsigned index, uint64_t area, uint16_t size)
{
    struct virtio_machine *machine = driver->machine;
    struct virtqueue queue = {0};
    ring_driver_init(&driver->rings[index], machine->memory, area, size, driver->features, &queue);
    virtio_machine_write(machine, driver->bar + COMMON_QUEUE_SELECT, index, 2);
    virtio_machine_write(machine, driver->bar + COMMON_QUEUE_SIZE, size, 2);
    virtio_machine_write(machine, driver->bar + COMMON_QUEUE_VECTOR, index + 1, 2);
    virtio_machine_write(machine, driver->bar + COMMON_QUEUE_DESCRIPTORS, queue.guest.descriptors,
                         8);
    virtio_machine_write(machine, driver->bar + COMMON_QUEUE_DRIVER, queue.guest.driver, 8);
    virtio_machine_write(machine, driver->bar + COMMON_QUEUE_DEVICE, queue.guest.device, 8);
    virtio_machine_write(machine, driver->bar + COMMON_QUEUE_ENABLE, 1, 2);
}

bool virtio_driver_init(struct virtio_driver *driver, struct virtio_machine *machine, unsigned slot,
                        uint64_t wanted, uint64_t area, uint16_t size)
{
    *driver = (struct virtio_driver){.machine = machine, .slot = slot};
    find_device(driver);
    virtio_driver_set_status(driver, 0);
    while (virtio_driver_status(driver) != 0)
        ; /* as a driver does: it is over when it is zero */
    virtio_driver_set_status(driver, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER);
    driver->features = (wanted | VIRTIO_FEATURE(VIRTIO_F_VERSION_1)) & offered_features(driver);
    for (unsigned i = 0; i < 2; i++) {
        virtio_machine_write(machine, driver->bar + COMMON_DRIVER_FEATURE_SELECT, i, 4);
        virtio_machine_write(machine, driver->bar + COMMON_DRIVER_FEATURE,
                             driver->features >> (i * 32) & UINT32_MAX, 4);
    }
    uint8_t status = VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER | VIRTIO_STATUS_FEATURES_OK;
    virtio_driver_set_status(driver, status);
    if (!(virtio_driver_status(driver) & VIRTIO_STATUS_FEATURES_OK))
        return false;
    unsigned count = (unsigned)virtio_machine_read(machine, driver->bar + COMMON_QUEUE_COUNT, 2);
    driver->queue_count = count < VIRTIO_DRIVER_QUEUES ? count : VIRTIO_DRIVER_QUEUES;
    for (unsigned i = 0; i < driver->queue_count; i++)
        set_up_queue(driver, i, area + (uint64_t)i * RING_DRIVER_AREA, size);
    virtio_driver_set_status(driver, status | VIRTIO_STATUS_DRIVER_OK);
    return true;
}

void virtio_driver_kick(struct virtio_driver *driver, unsigned queue)
{
    virtio_machine_write(driver->machine,
                         driver->bar + VIRTIO_PCI_NOTIFY + queue * VIRTIO_PCI_NOTIFY_BYTES, queue,
                         2);
}

/* The order of the rows is the order in which their sections stand in a machine state and are
 * loaded and revived: from where an interrupt ends (vCPU) to where it begins (serial). Capture goes
 * through the table backwards, see STATE.md.
 */
#include "vmm-core/device_table.h"

#include <assert.h>
#include <string.h>

#include "base/own.h"
#include "vmm-core/clock.h"
#include "vmm-core/dev_pm.h"
#include "vmm-core/dev_reset.h"
#include "vmm-core/dev_rtc.h"
#include "vmm-core/dev_serial.h"
#include "vmm-core/dev_virtio_balloon.h"
#include "vmm-core/dev_virtio_blk.h"
#include "vmm-core/dev_virtio_net.h"
#include "vmm-core/dev_virtio_vsock.h"
#include "vmm-core/device.h"
#include "vmm-core/irqchip.h"
#include "vmm-core/pci.h"
#include "vmm-core/pit.h"
#include "vmm-core/vcpu.h"
#include "vmm-core/virtio_pci.h"

/* clang-format off: one a line, the order is what counts */
static const struct device *const device_table[] = {
    &vcpu_device,
    &irqchip_device,
    &pit_device,
    &clock_device,
    &rtc_device,
    &pm_device,
    &serial_device,
    &pci_device,
    &virtio_pci_device,
    &virtio_balloon_device,
    &virtio_vsock_device,
    &virtio_blk_device,
    &virtio_net_device,
    &reset_device,
};
/* clang-format on */

size_t device_table_count(void)
{
    return ARRAY_COUNT(device_table);
}

const struct device *device_table_at(size_t index)
{
    assert(index < ARRAY_COUNT(device_table));
    return device_table[index];
}

static bool device_has_port(const struct device *device, uint16_t port)
{
    for (size_t i = 0; i < DEVICE_PORT_RANGES_MAX; i++) {
        const struct device_ports *ports = &device->ports[i];
        if (port >= ports->first && port - ports->first < ports->count)
            return true;
    }
    return false;
}

static const struct device *device_at_port(uint16_t port)
{
    for (size_t i = 0; i < ARRAY_COUNT(device_table); i++) {
        if (device_has_port(device_table[i], port))
            return device_table[i];
    }
    return NULL;
}

void device_table_port_in(struct vm *vm, const struct device_access *access)
{
    memset(access->data, 0xff, (size_t)access->size * access->count);
    const struct device *device = device_at_port(access->port);
    if (device && device->port_in)
        device->port_in(vm, access);
}

void device_table_port_out(struct vm *vm, const struct device_access *access)
{
    const struct device *device = device_at_port(access->port);
    if (device && device->port_out)
        device->port_out(vm, access);
}

#include "vmm-core/dev_reset.h"

#include "vmm-core/device.h"
#include "vmm-core/vm_inside.h"

enum {
    PORT_KEYBOARD = 0x64,
    PORT_RESET_CONTROL = 0xcf9,
    PORT_POWER = 0x600,

    KEYBOARD_PULSE_RESET = 0xfe,
    RESET_CONTROL_GO = 0x04,
    POWER_OFF = 0x34, /* ACPI sleep control: enable (0x20), type 5 (0x14) */
};

static void reset_in(struct vm *vm, const struct device_access *access)
{
    (void)vm;
    /* Zero at 0x64 is "ready for a command": a guest that resets by keyboard waits for it. */
    for (uint32_t i = 0; i < access->count && access->port != PORT_POWER; i++)
        access->data[i * access->size] = 0;
}

static void reset_out(struct vm *vm, const struct device_access *access)
{
    for (uint32_t i = 0; i < access->count; i++) {
        uint8_t value = access->data[i * access->size];
        if (access->port == PORT_KEYBOARD && value == KEYBOARD_PULSE_RESET)
            vm_end(vm, VM_EVENT_RESET, NULL);
        else if (access->port == PORT_RESET_CONTROL && (value & RESET_CONTROL_GO))
            vm_end(vm, VM_EVENT_RESET, NULL);
        else if (access->port == PORT_POWER && value == POWER_OFF)
            vm_end(vm, VM_EVENT_POWER_OFF, NULL);
    }
}

const struct device reset_device = {
    .name = "reset",
    .travel = DEVICE_STATELESS,
    .ports = {{PORT_KEYBOARD, 1}, {PORT_RESET_CONTROL, 1}, {PORT_POWER, 1}},
    .port_in = reset_in,
    .port_out = reset_out,
};

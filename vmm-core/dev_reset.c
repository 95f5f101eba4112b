#include "vmm-core/dev_reset.h"

#include "vmm-core/device.h"
#include "vmm-core/vm_inside.h"

enum { PORT_KEYBOARD = 0x64, KEYBOARD_PULSE_RESET = 0xfe };

static void reset_in(struct vm *vm, const struct device_access *access)
{
    (void)vm;
    /* Zero at 0x64 is "ready for a command": a guest that resets by keyboard waits for it. */
    for (uint32_t i = 0; i < access->count; i++)
        access->data[i * access->size] = 0;
}

static void reset_out(struct vm *vm, const struct device_access *access)
{
    for (uint32_t i = 0; i < access->count; i++) {
        uint8_t value = access->data[i * access->size];
        bool keyboard = access->port == PORT_KEYBOARD && value == KEYBOARD_PULSE_RESET;
        bool control = access->port == RESET_PORT_CONTROL && (value & RESET_CONTROL_GO);
        if (keyboard || control)
            vm_end(vm, VM_EVENT_RESET, NULL);
    }
}

const struct device reset_device = {
    .name = "reset",
    .travel = DEVICE_STATELESS,
    .ports = {{PORT_KEYBOARD, 1}, {RESET_PORT_CONTROL, 1}},
    .port_in = reset_in,
    .port_out = reset_out,
};

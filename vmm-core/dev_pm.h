/* ACPI's PM1 registers and PM timer at ports 0x600: power button, sleep (only "off"), a clock.
 *
 * Flow:   vcpu -> device_table -> [dev_pm] -> vm_end; vm_power_button -> [dev_pm] -> interrupt 9
 * Thread: vCPU threads and whoever presses the button, under the vm's device lock.
 */
#ifndef GODWIT_VMM_CORE_DEV_PM_H
#define GODWIT_VMM_CORE_DEV_PM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct device;
struct fault;
struct vm;

enum {
    PM_PORT = 0x600,
    PM_PORTS = 0x10,
    PM_PORT_STATUS = PM_PORT,      /* and enable, 2 bytes each */
    PM_PORT_CONTROL = PM_PORT + 4, /* 2 bytes */
    PM_PORT_TIMER = PM_PORT + 8,   /* 4 bytes */

    PM_POWER_BUTTON = 0x0100, /* in status and enable */
    PM_TIMER_HZ = 3579545,
};

struct pm_guest { /* travels */
    uint16_t status, enable, control;
    uint64_t timer_ns; /* at the instant of the clock row's clock_ns */
};

struct pm_host {            /* stays */
    uint64_t timer_zero_ns; /* world_now_ns() when the guest's timer was zero */
    bool irq_level;         /* what KVM was last told */
};

extern const struct device pm_device;

/* The chip alone, without a vm: `count` (1, 2, 4) bytes at `offset` from PM_PORT. The timer stands
 * at guest->timer_ns. */
void pm_reset(struct pm_guest *guest);
void pm_read(const struct pm_guest *guest, unsigned offset, uint8_t *ret_bytes, unsigned count);
/* True when the guest wants to be switched off. */
bool pm_write(struct pm_guest *guest, unsigned offset, const uint8_t *bytes, unsigned count);
bool pm_wants_interrupt(const struct pm_guest *guest);

/* The same with the vm's lock and interrupt line. False, and nothing pressed, while the guest has
 * not enabled the button: a press would be forgotten when it does. Any thread. */
bool pm_press_button(struct vm *vm);

/* Guest half <-> packed PmStateV1. */
int pm_save(const struct pm_guest *guest, uint8_t **ret_bytes, size_t *ret_count);
int pm_load(struct pm_guest *ret_guest, const uint8_t *bytes, size_t count, struct fault *fault);

#endif

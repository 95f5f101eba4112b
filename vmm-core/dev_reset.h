/* The guest's ways to start over: the keyboard controller's pulse at port 0x64 and the reset
 * control register at 0xCF9, which ACPI names too.
 *
 * Flow:   vcpu -> device_table -> [dev_reset] -> vm_end
 * Thread: vCPU threads.
 */
#ifndef GODWIT_VMM_CORE_DEV_RESET_H
#define GODWIT_VMM_CORE_DEV_RESET_H

enum { RESET_PORT_CONTROL = 0xcf9, RESET_CONTROL_GO = 0x04, RESET_CONTROL_HARD = 0x06 };

struct device;

extern const struct device reset_device;

#endif

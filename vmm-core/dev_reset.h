/* The guest's ways to end itself: reset at ports 0x64 and 0xCF9, power off at port 0x600.
 *
 * Flow:   vcpu -> device_table -> [dev_reset] -> vm_end
 * Thread: vCPU threads.
 */
#ifndef GODWIT_VMM_CORE_DEV_RESET_H
#define GODWIT_VMM_CORE_DEV_RESET_H

struct device;

extern const struct device reset_device;

#endif

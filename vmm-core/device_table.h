/* Every device of a machine, in the order of save, load and revive.
 *
 * Flow:   vm, vcpu -> [device_table] -> device
 * Thread: any; the table is constant.
 */
#ifndef GODWIT_VMM_CORE_DEVICE_TABLE_H
#define GODWIT_VMM_CORE_DEVICE_TABLE_H

#include <stdbool.h>
#include <stddef.h>

struct device;
struct device_access;
struct vm;

size_t device_table_count(void);
const struct device *device_table_at(size_t index);

/* Port I/O of one exit, to the device at that port; where there is none, reads give all ones and
 * writes are lost. */
void device_table_port_in(struct vm *vm, const struct device_access *access);
void device_table_port_out(struct vm *vm, const struct device_access *access);

#endif

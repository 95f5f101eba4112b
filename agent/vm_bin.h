/* vm.bin: what an agent knew of a VM, for the one after it.
 *
 * Flow:   vm_table -> [vm_bin] -> STATE/vms/<id>/vm.bin -> [vm_bin] -> vm_table
 * Thread: any; pure.
 *
 * u32 magic, u32 version, u32 body bytes, u32 zero, u64 XXH3 of the body, packed VmStatus.
 */
#ifndef GODWIT_AGENT_VM_BIN_H
#define GODWIT_AGENT_VM_BIN_H

#include <stddef.h>
#include <stdint.h>

#include "proto/vm.pb-c.h"

struct fault;

/* *ret_bytes is malloc'ed. */
int vm_bin_encode(const Godwit__VmStatus *status, uint8_t **ret_bytes, size_t *ret_count);
int vm_bin_decode(const uint8_t *bytes, size_t count, Godwit__VmStatus **ret_status,
                  struct fault *fault);

#endif

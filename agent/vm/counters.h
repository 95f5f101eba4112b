/* What a VM's disks, nics and balloon have done, for operators: the VM's numbers, not its
 * process's.
 *
 * Flow:   vm -> [counters] -> control;  guest_port <-> [counters], so that they travel with the
 * guest Thread: none of its own. The machine's belong to the loop and stand still while a move or a
 * rest saves the guest.
 *
 * A device counts from zero when its machine is built. What was counted before that (by a machine
 * that was reset, by the process or host the guest came from) is kept here and added.
 */
#ifndef GODWIT_AGENT_VM_COUNTERS_H
#define GODWIT_AGENT_VM_COUNTERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/limits.h"
#include "proto/vm.pb-c.h"
#include "vmm-core/vm.h"

struct fault;

enum { COUNTERS_BYTES_MAX = 8192 };

struct counters {
    unsigned disk_count, nic_count; /* of the machine */
    struct vm_disk_stats disks[DISKS_MAX + 1];
    struct vm_nic_stats nics[NICS_MAX];
    bool has_balloon;
    struct vm_balloon_stats balloon;
};

/* The message and the parts it points into. */
struct counters_message {
    Godwit__VmCounters all;
    Godwit__DiskCounters disks[DISKS_MAX + 1], *disk_list[DISKS_MAX + 1];
    Godwit__NicCounters nics[NICS_MAX], *nic_list[NICS_MAX];
    Godwit__BalloonCounters balloon;
};

/* Add what this machine has counted; of its guest's memory, what it told last. `ask`: and have the
 * guest tell anew, which writes its memory. */
void counters_add(struct counters *counters, struct vm *vm, bool ask);
/* Without names of disks and nics. */
void counters_fill(const struct counters *counters, struct counters_message *ret_message);

/* Packed VmCounters (malloc'ed) and back. A load keeps sums only, and refuses those of another
 * machine than `counters` says. */
int counters_save(const struct counters *counters, uint8_t **ret_bytes, size_t *ret_count,
                  struct fault *fault);
int counters_load(struct counters *counters, const uint8_t *bytes, size_t count,
                  struct fault *fault);

#endif

/* The descriptors of a VM's disks and nics in its process, and how the machine's devices are made.
 *
 * Flow:   control -> machine -> [backend_set] -> vmm-core/vm
 * Thread: the loop's.
 *
 * The set keeps its descriptors as long as the process lives and gives the machine copies, so that a
 * guest that resets is built again around the same files and taps.
 */
#ifndef GODWIT_AGENT_VM_BACKEND_SET_H
#define GODWIT_AGENT_VM_BACKEND_SET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/limits.h"
#include "proto/vm.pb-c.h"
#include "vmm-core/vm.h"

struct fault;

struct backend_set {
    unsigned disk_count, nic_count; /* of the machine */
    uint64_t disk_bytes[DISKS_MAX + 1];
    char serials[DISKS_MAX + 1][DISK_SERIAL_MAX + 1];
    int disk_fds[DISKS_MAX + 1];
    int nic_fds[NICS_MAX][NIC_QUEUES_MAX];
    unsigned nic_queues[NICS_MAX];
    unsigned nic_taps[NICS_MAX]; /* descriptors: one a queue, none of a nic that is unplugged */
    unsigned disks_attached, nics_attached; /* by backend_set_attach, which may be repeated */
    bool is_full;                           /* all descriptors are there */
};

/* What the spec asks for; no descriptors yet. `disk_bytes` of every disk. */
int backend_set_init(struct backend_set *set, const Godwit__VmSpec *spec,
                     const uint64_t *disk_bytes, size_t disk_count, struct fault *fault);
void backend_set_deinit(struct backend_set *set); /* zeroed ones too */

bool backend_set_is_empty(const struct backend_set *set); /* the VM has no disks and nics */
/* All of them at once: each disk and nic exactly once, with all its queues. Takes the descriptors
 * out of `fds` (they become -1) only when it returns 0. */
int backend_set_fill(struct backend_set *set, Godwit__VmBackend *const *backends, size_t count,
                     int *fds, size_t fd_count, struct fault *fault);

/* Devices of a machine: `ret_disks` and `ret_nics` are the caller's, and so are the copies of the
 * descriptors in them until vm_new has taken them. */
int backend_set_config(const struct backend_set *set, const Godwit__VmSpec *spec,
                       struct vm_disk_config *ret_disks, struct vm_nic_config *ret_nics,
                       struct vm_config *config, struct fault *fault);
void backend_set_close_copies(struct vm_disk_config *disks, unsigned disk_count,
                              struct vm_nic_config *nics, unsigned nic_count);
/* Give a machine that was made without descriptors its copies. */
int backend_set_attach(struct backend_set *set, struct vm *vm, struct fault *fault);

#endif

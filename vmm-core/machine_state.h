/* All guest halves of a machine, and the one message they travel in.
 *
 * Flow:   device rows -> [machine_state] -> migrate -> [machine_state] -> device rows
 * Thread: whoever holds the paused vm. No KVM here: bytes in, guest halves out, or a refusal.
 */
#ifndef GODWIT_VMM_CORE_MACHINE_STATE_H
#define GODWIT_VMM_CORE_MACHINE_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/limits.h"
#include "vmm-core/clock.h"
#include "vmm-core/dev_pm.h"
#include "vmm-core/dev_rtc.h"
#include "vmm-core/dev_serial.h"
#include "vmm-core/dev_virtio_balloon.h"
#include "vmm-core/dev_virtio_blk.h"
#include "vmm-core/dev_virtio_net.h"
#include "vmm-core/dev_virtio_vsock.h"
#include "vmm-core/irqchip.h"
#include "vmm-core/pci.h"
#include "vmm-core/pit.h"
#include "vmm-core/vcpu_state.h"
#include "vmm-core/virtio.h"
#include "vmm-core/virtio_pci.h"
#include "vmm-core/vm.h"

#define MACHINE_STATE_NAME "godwit-1" /* fixes what a guest sees; a new name is a new machine */

struct device;
struct fault;

struct machine_guest {
    struct vcpu_guest vcpus[VCPUS_MAX];
    struct irqchip_guest irqchip;
    struct pit_guest pit;
    struct clock_guest clock;
    struct rtc_guest rtc;
    struct pm_guest pm;
    struct serial_guest serial;
    struct pci_bus_guest pci;
    struct virtio_pci_guest virtio[VIRTIO_FUNCTIONS_MAX];
    struct virtio_balloon_guest balloon;
    struct virtio_vsock_guest vsock;
    struct virtio_blk_guest disks[VM_DISKS_MAX];
    struct virtio_net_guest nics[VM_NICS_MAX];
};

/* What both ends must agree on. */
struct machine_shape {
    unsigned vcpus;
    uint64_t memory_bytes;
    const char *baseline; /* borrowed */
    unsigned disks, nics;
    bool console, rng, balloon, vsock;
};

/* How many sections a row has; 0 when it does not travel. */
unsigned machine_state_instances(const struct device *device, const struct machine_shape *shape);

/* Gives one packed MachineStateV1 with a section for every row that travels. */
int machine_state_save(const struct machine_shape *shape, const struct machine_guest *machine,
                       uint8_t **ret_bytes, size_t *ret_count, struct fault *fault);

/* Judge everything, then fill `machine`. Sections must be those of the table, each once, in its
 * order, nothing else. Not a ret_ argument: when it fails `machine` holds what was read so far. */
int machine_state_load(const struct machine_shape *shape, struct machine_guest *machine,
                       const uint8_t *bytes, size_t count, struct fault *fault);

#endif

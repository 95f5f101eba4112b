/* struct vm as its own room sees it; everybody else uses vm.h.
 *
 * Flow:   vm -> [vm_inside] <- vcpu, device rows, dirty_tracker
 * Thread: see each field.
 */
#ifndef GODWIT_VMM_CORE_VM_INSIDE_H
#define GODWIT_VMM_CORE_VM_INSIDE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "vmm-core/clock.h"
#include "vmm-core/dev_pm.h"
#include "vmm-core/dev_rtc.h"
#include "vmm-core/dev_serial.h"
#include "vmm-core/gate.h"
#include "vmm-core/io_loop.h"
#include "vmm-core/mmio.h"
#include "vmm-core/pci.h"
#include "vmm-core/vcpu.h"
#include "vmm-core/vcpu_state.h"
#include "vmm-core/machine_state.h"
#include "vmm-core/virtio_bus.h"
#include "vmm-core/vm.h"

struct brake;
struct guest_memory;
struct machine_guest;

struct vm {
    /* set before start, read by all */
    int fd;
    unsigned vcpu_count;
    const struct cpu_model *cpu_model;
    char vendor[VCPU_STATE_VENDOR_SIZE];
    bool has_xsave;        /* the baseline's */
    bool has_tsc_offset;   /* KVM tells and takes it */
    uint32_t events_flags; /* KVM_VCPUEVENT_VALID_* that this host's KVM can carry */
    uint32_t host_tsc_khz;
    struct vcpu_msr_list msrs;
    struct guest_memory *memory; /* owned */
    struct io_loop *io_loop;     /* owned */
    struct machine_shape shape;
    void (*on_serial)(void *data, const uint8_t *bytes, size_t count);
    void (*on_event)(void *data, enum vm_event event, const struct fault *fault);
    void *callback_data;

    /* owner's thread, or whoever pauses */
    bool started;
    uint32_t tsc_khz;             /* what the guest was told at its boot; travels */
    bool tsc_scaled;              /* KVM makes it so; else it is the host's, near enough */
    struct clock_instant stopped; /* when the guest last stood still */
    struct clock_instant loaded;  /* when vm_load began */
    struct brake *brake;          /* owned; NULL: never needed */
    uint64_t paused_ns;           /* how long it had stood still by then */
    bool drain_late;              /* devices were not quiet in time: this pause can save nothing */
    bool time_due;                /* loaded, not resumed: guest time is still that of `guest` */
    struct machine_guest *guest;  /* owned; guest halves as last captured or loaded */

    /* written before the gate opens, read by vCPU threads behind it */
    uint64_t resume_turn; /* counts openings */
    bool resume_was_long; /* the guest's watchdogs should be told */

    /* atomic */
    bool ended;

    struct gate gate;
    struct vcpu vcpus[VM_VCPUS_MAX];

    pthread_mutex_t device_lock; /* guards what follows; never held while calling out */
    struct mmio mmio;
    struct pci_bus pci;
    struct virtio_bus virtio;
    struct rtc_guest rtc;
    struct rtc_host rtc_host;
    struct pm_guest pm;
    struct pm_host pm_host;
    struct serial_guest serial;
    struct serial_host serial_host;
};

/* The host's TSC in ticks of the guest's, before its offset. */
uint64_t vm_tsc_in_guest_ticks(const struct vm *vm, uint64_t host_tsc);
/* Go on with a guest that was told `tsc_khz`: that must be the host's frequency, near enough, or
 * one that KVM can make of it. */
int vm_set_tsc_khz(struct vm *vm, uint32_t tsc_khz, struct fault *fault);
/* Turn KVM's dirty log on or off for all memory slots. */
int vm_set_dirty_log(struct vm *vm, bool enable, struct fault *fault);
/* A pause may come soon: begin to make durable what the guest has written to its disks so far. */
void vm_flush_ahead(struct vm *vm);
void vm_set_irq(struct vm *vm, unsigned irq, bool level);
/* The guest ended itself; vCPU thread. Only the first call of a vm's life is told. */
void vm_end(struct vm *vm, enum vm_event event, const struct fault *fault);

#endif

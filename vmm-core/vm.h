/* One guest on /dev/kvm: memory, vCPUs, devices; boots, runs, pauses, saves, loads.
 *
 * Flow:   agent/vm -> [vm] -> vcpu, device_table, guest_memory; migrate <- [vm]
 * Thread: new, boot, load, start, free on the owner's thread; pause, resume, save from one thread
 *         at a time (owner or the scan thread of a migration); serial input from any.
 */
#ifndef GODWIT_VMM_CORE_VM_H
#define GODWIT_VMM_CORE_VM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cpu_model;
struct fault;
struct guest_memory;
struct vm;

enum { VM_VCPUS_MAX = 16, VM_CMDLINE_MAX = 4095 };

/* What a guest can do to itself. Called on a vCPU thread; must not block or call back into vm. */
enum vm_event { VM_EVENT_POWER_OFF, VM_EVENT_RESET, VM_EVENT_CRASH };

struct vm_config {
    int kvm_fd; /* borrowed during vm_new only; an open /dev/kvm */
    unsigned vcpus;
    uint64_t memory_bytes;
    bool huge_pages;
    const struct cpu_model *cpu_model;

    /* The guest's serial port wrote. vCPU thread; the bytes are borrowed. */
    void (*on_serial)(void *data, const uint8_t *bytes, size_t count);
    /* `fault` says more for VM_EVENT_CRASH (which exit, on which vCPU); else NULL. */
    void (*on_event)(void *data, enum vm_event event, const struct fault *fault);
    void *data;
};

/* An empty machine: memory, vCPUs and devices exist, nothing runs, nothing is loaded. */
int vm_new(struct vm **ret_vm, const struct vm_config *config, struct fault *fault);
/* Ends vCPU threads, then frees. */
struct vm *vm_free(struct vm *vm);

struct guest_memory *vm_memory(struct vm *vm); /* borrowed, lives as long as the vm */
unsigned vm_vcpus(const struct vm *vm);

/* Load a PVH ELF kernel, initrd (fd or -1; becomes module 0) and command line; set up vCPU 0.
 * Bad files give ERR_INVALID with the reason. The fds are borrowed. */
int vm_boot(struct vm *vm, int kernel_fd, int initrd_fd, const char *cmdline, struct fault *fault);

/* Start vCPU threads, in the paused state. Call once, after vm_boot or before vm_load. */
int vm_start(struct vm *vm, struct fault *fault);
/* Let the guest run. After vm_load, guest time goes on from the saved time plus the pause. */
int vm_resume(struct vm *vm, struct fault *fault);
/* Kick all vCPUs at once and wait until none is inside the guest and device emulation is quiet.
 * Idempotent. */
void vm_pause(struct vm *vm);
bool vm_is_running(const struct vm *vm);

/* All state that the guest can observe, as one packed MachineStateV1 (proto/device_state.proto), in
 * device-table order. Only while paused. Gives malloc'ed bytes. */
int vm_save(struct vm *vm, uint8_t **ret_bytes, size_t *ret_count, struct fault *fault);

/* Load what vm_save gave, into a vm of the same config after vm_start and before its first
 * vm_resume. Unknown, missing, doubled or left-over sections refuse the whole; on failure the vm
 * is only fit for vm_free. `paused_ns` is how long the guest stood still already when the bytes
 * arrived; the time until vm_resume is added to it. */
int vm_load(struct vm *vm, const uint8_t *bytes, size_t count, uint64_t paused_ns,
            struct fault *fault);

/* Bytes for the guest's serial port; returns how many fitted the receive queue. Any thread. */
size_t vm_serial_input(struct vm *vm, const uint8_t *bytes, size_t count);

/* CPU time of all vCPU threads so far, in ns. Any thread. */
uint64_t vm_vcpu_cpu_ns(const struct vm *vm);

#endif

/* One virtual processor: its thread, its way into the guest and what it does with each exit.
 *
 * Flow:   gate -> [vcpu] -> KVM_RUN -> device_table
 * Thread: its own, but for new, start, free and kick.
 */
#ifndef GODWIT_VMM_CORE_VCPU_H
#define GODWIT_VMM_CORE_VCPU_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct device;
struct fault;
struct kvm_run;
struct vm;

struct vcpu {
    struct vm *vm; /* borrowed */
    unsigned index;
    int fd;
    int stats_fd; /* KVM's counts of it, -1: not told. Opened before it runs: KVM waits else */
    struct kvm_run *run; /* mapped */
    size_t run_bytes;
    bool started;
    pthread_t thread;
    uint64_t resume_turn; /* its own thread: the last opening it has answered */
    /* atomic */
    uint64_t hold_until_ns; /* as the brake wants it */
    uint64_t held_ns;       /* all together */
};

extern const struct device vcpu_device;

/* Create vCPU `index` of the vm and give it its CPUID. */
int vcpu_init(struct vcpu *vcpu, struct vm *vm, unsigned index, int kvm_fd, size_t run_bytes,
              struct fault *fault);
/* Its thread has been joined. */
void vcpu_deinit(struct vcpu *vcpu);

/* Before it ever ran: change the frequency that its CPUID names. */
int vcpu_tell_tsc_khz(struct vcpu *vcpu, uint32_t tsc_khz, struct fault *fault);

/* The thread parks at the gate at once. */
int vcpu_start(struct vcpu *vcpu, struct fault *fault);
void vcpu_join(struct vcpu *vcpu);

/* Let KVM_RUN return soon (`leave`), or enter again (not `leave`, only while it stands). */
void vcpu_set_leave(struct vcpu *vcpu, bool leave);
void vcpu_kick(struct vcpu *vcpu);
/* Out of the guest, and not in again before then; any thread. A gate that closes comes first. */
void vcpu_hold(struct vcpu *vcpu, uint64_t until_ns);

#endif

/* One vCPU's guest half: all that a guest can observe of its processor.
 *
 * Flow:   KVM -> [vcpu_state] -> section "vcpu" -> [vcpu_state] -> KVM
 * Thread: whoever holds the paused vm.
 */
#ifndef GODWIT_VMM_CORE_VCPU_STATE_H
#define GODWIT_VMM_CORE_VCPU_STATE_H

#include <linux/kvm.h>
#include <stddef.h>
#include <stdint.h>

struct fault;
struct vcpu;

enum {
    VCPU_STATE_MSRS_MAX = 192,
    VCPU_STATE_XSAVE_BYTES = 4096, /* the baselines end with AVX-512: 2688 bytes */
    VCPU_STATE_XSAVE_BYTES_MIN = 576,
    VCPU_STATE_LAPIC_BYTES = 1024,
    VCPU_STATE_VENDOR_SIZE = 13,
};

struct vcpu_guest { /* travels */
    char vendor[VCPU_STATE_VENDOR_SIZE];
    uint32_t mp_state;
    struct kvm_regs regs;
    struct kvm_sregs2 sregs;
    struct kvm_vcpu_events events; /* without flags: those say what this host's KVM can carry */
    struct kvm_debugregs debugregs;
    uint64_t xcr0;
    uint8_t xsave[VCPU_STATE_XSAVE_BYTES];
    uint8_t lapic[VCPU_STATE_LAPIC_BYTES];
    uint32_t msr_count;
    struct kvm_msr_entry msrs[VCPU_STATE_MSRS_MAX];
    uint64_t tsc;          /* at the instant of the clock row's clock_ns */
    uint64_t tsc_deadline; /* 0 when not armed */
};

/* Which MSRs travel: decided once by vm_new, by reading each and writing it back. */
struct vcpu_msr_list {
    uint32_t count;
    uint32_t indices[VCPU_STATE_MSRS_MAX];
};
int vcpu_msr_list_init(struct vcpu_msr_list *list, int kvm_fd, int vcpu_fd, struct fault *fault);

/* KVM -> guest half, with the TSC as it was when the host's (in the guest's ticks) was `host_tsc`.
 * The vCPU is not in KVM_RUN and has no unfinished exit. */
int vcpu_state_capture(struct vcpu *vcpu, uint64_t host_tsc, struct vcpu_guest *ret_guest,
                       struct fault *fault);
/* Guest half -> KVM. At the instant when the host's TSC (in the guest's ticks) was `host_tsc`, the
 * guest's is guest->tsc + `elapsed_tsc`; it goes on by itself from there. */
int vcpu_state_revive(struct vcpu *vcpu, const struct vcpu_guest *guest, uint64_t host_tsc,
                      uint64_t elapsed_tsc, struct fault *fault);

/* Guest half <-> packed VcpuStateV1. */
int vcpu_state_save(const struct vcpu_guest *guest, uint8_t **ret_bytes, size_t *ret_count);
int vcpu_state_load(struct vcpu_guest *ret_guest, const uint8_t *bytes, size_t count,
                    struct fault *fault);

#endif

/* The one place that knows the order of vCPU ioctls; STATE.md says why it is this order.
 *
 *   capture: mp_state, events, regs, sregs, debugregs, (xcr0), xsave, lapic, msrs, tsc offset
 *   revive:  tsc offset, sregs, (xcr0), xsave, lapic, msrs with tsc deadline, regs, debugregs,
 *            events, mp_state
 */
#include "vmm-core/vcpu_state.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <x86intrin.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/own.h"
#include "proto/device_state.pb-c.h"
#include "vmm-core/state_reader.h"
#include "vmm-core/vcpu.h"
#include "vmm-core/vm_inside.h"

/* From linux/kvm.h of 5.16 on; older headers lack them, older kernels answer "no". */
#ifndef KVM_VCPU_TSC_CTRL
#define KVM_VCPU_TSC_CTRL 0
#define KVM_VCPU_TSC_OFFSET 0
#endif

enum {
    MSR_TSC = 0x10,
    MSR_WALL_CLOCK_OLD = 0x11,
    MSR_SMI_COUNT = 0x34,
    MSR_UCODE_REVISION = 0x8b,
    MSR_PLATFORM_INFO = 0xce,
    MSR_ARCH_CAPABILITIES = 0x10a,
    MSR_MCG_STATUS = 0x17a,
    MSR_MTRR_PHYS_FIRST = 0x200,
    MSR_MTRR_PHYS_LAST = 0x20f,
    MSR_SYSENTER_ESP = 0x175,
    MSR_SYSENTER_EIP = 0x176,
    MSR_PERF_CAPABILITIES = 0x345,
    MSR_MCI_FIRST = 0x400,
    MSR_MCI_LAST = 0x403,
    MSR_TSC_DEADLINE = 0x6e0,
    MSR_HYPER_V_FIRST = 0x40000000,
    MSR_HYPER_V_LAST = 0x400000ff,
    MSR_WALL_CLOCK = 0x4b564d00,
};

/* Time travels apart; the wall clock registers make KVM write into guest memory, and what it wrote
 * travels with that memory; the rest describes a host, not a guest. */
static const uint32_t msrs_that_stay[] = {
    MSR_TSC,           MSR_TSC_DEADLINE,   MSR_WALL_CLOCK_OLD,    MSR_WALL_CLOCK,
    MSR_SMI_COUNT,     MSR_UCODE_REVISION, MSR_ARCH_CAPABILITIES, MSR_PERF_CAPABILITIES,
    MSR_PLATFORM_INFO,
};

/* KVM keeps these but its list does not name them. */
static const uint32_t msrs_unlisted[] = {
    0x250,          0x258, 0x259, 0x268, 0x269, 0x26a,
    0x26b,          0x26c, 0x26d, 0x26e, 0x26f, /* fixed MTRRs */
    0x2ff,                                      /* MTRR default */
    MSR_MCG_STATUS,
};

struct msr_batch { /* as struct kvm_msrs, with room */
    uint32_t nmsrs;
    uint32_t pad;
    struct kvm_msr_entry entries[VCPU_STATE_MSRS_MAX + 1];
};

static_assert(offsetof(struct msr_batch, entries) == sizeof(struct kvm_msrs),
              "a batch is laid out as the kernel's struct");
static_assert(sizeof(struct kvm_lapic_state) == VCPU_STATE_LAPIC_BYTES, "one register page");
static_assert(sizeof(struct kvm_xsave) == VCPU_STATE_XSAVE_BYTES, "what KVM_GET_XSAVE writes");

static int vcpu_ioctl(struct vcpu *vcpu, unsigned long request, void *argument, const char *what,
                      struct fault *fault)
{
    if (ioctl(vcpu->fd, request, argument) >= 0)
        return 0;
    int code = errno == EINVAL ? ERR_CORRUPT : ERR_IO; /* the kernel judged what we carried */
    return fault_set_errno(fault, code, errno, "vCPU %u: %s", vcpu->index, what);
}

/* KVM keeps the Hyper-V registers for every guest, though no baseline shows them; some of them run
 * with time. */
static bool msr_stays(uint32_t index)
{
    if (index >= MSR_HYPER_V_FIRST && index <= MSR_HYPER_V_LAST)
        return true;
    for (size_t i = 0; i < ARRAY_COUNT(msrs_that_stay); i++) {
        if (msrs_that_stay[i] == index)
            return true;
    }
    return false;
}

/* Does it read, and take back what it gave? */
static bool msr_round_trips(int vcpu_fd, uint32_t index)
{
    struct msr_batch one = {.nmsrs = 1, .entries = {{.index = index}}};
    if (ioctl(vcpu_fd, KVM_GET_MSRS, &one) != 1)
        return false;
    return ioctl(vcpu_fd, KVM_SET_MSRS, &one) == 1;
}

static int compare_u32(const void *left, const void *right)
{
    uint32_t a = *(const uint32_t *)left;
    uint32_t b = *(const uint32_t *)right;
    return (a > b) - (a < b);
}

static void msr_list_offer(struct vcpu_msr_list *list, int vcpu_fd, uint32_t index)
{
    if (list->count == VCPU_STATE_MSRS_MAX || msr_stays(index))
        return;
    for (uint32_t i = 0; i < list->count; i++) {
        if (list->indices[i] == index)
            return;
    }
    if (msr_round_trips(vcpu_fd, index))
        list->indices[list->count++] = index;
}

int vcpu_msr_list_init(struct vcpu_msr_list *list, int kvm_fd, int vcpu_fd, struct fault *fault)
{
    enum { LISTED_MAX = 1024 };
    AUTO_FREE struct kvm_msr_list *listed =
        calloc(1, sizeof *listed + LISTED_MAX * sizeof listed->indices[0]);
    if (!listed)
        return fault_set(fault, ERR_NOMEM, "no memory for the list of MSRs");
    listed->nmsrs = LISTED_MAX;
    if (ioctl(kvm_fd, KVM_GET_MSR_INDEX_LIST, listed) < 0)
        return fault_set_errno(fault, ERR_IO, errno, "asking KVM which MSRs a guest has");

    *list = (struct vcpu_msr_list){0};
    for (uint32_t i = 0; i < listed->nmsrs; i++)
        msr_list_offer(list, vcpu_fd, listed->indices[i]);
    for (size_t i = 0; i < ARRAY_COUNT(msrs_unlisted); i++)
        msr_list_offer(list, vcpu_fd, msrs_unlisted[i]);
    for (uint32_t index = MSR_MTRR_PHYS_FIRST; index <= MSR_MTRR_PHYS_LAST; index++)
        msr_list_offer(list, vcpu_fd, index);
    for (uint32_t index = MSR_MCI_FIRST; index <= MSR_MCI_LAST; index++)
        msr_list_offer(list, vcpu_fd, index);
    if (list->count == VCPU_STATE_MSRS_MAX)
        return fault_set(fault, ERR_LIMIT, "KVM has more than %d MSRs to carry",
                         VCPU_STATE_MSRS_MAX - 1);

    /* Ascending, so that a peer's list can be told to hold nothing twice. */
    qsort(list->indices, list->count, sizeof list->indices[0], compare_u32);
    return 0;
}

/* AMD's processors keep 32 bits of these two (SYSENTER is not for long mode there), and KVM cuts
 * them when they are set; what it tells may be longer. */
static void cut_sysenter(struct kvm_msr_entry *msr)
{
    if (msr->index == MSR_SYSENTER_ESP || msr->index == MSR_SYSENTER_EIP)
        msr->data &= UINT32_MAX;
}

static int capture_msrs(struct vcpu *vcpu, struct vcpu_guest *guest, struct fault *fault)
{
    const struct vcpu_msr_list *list = &vcpu->vm->msrs;
    struct msr_batch batch;
    batch.pad = 0;
    batch.nmsrs = list->count + 1;
    for (uint32_t i = 0; i < list->count; i++)
        batch.entries[i] = (struct kvm_msr_entry){.index = list->indices[i]};
    batch.entries[list->count] = (struct kvm_msr_entry){.index = MSR_TSC_DEADLINE};

    int got = ioctl(vcpu->fd, KVM_GET_MSRS, &batch);
    if (got != (int)batch.nmsrs)
        return fault_set(fault, ERR_IO, "vCPU %u: MSR %#x does not read", vcpu->index,
                         got < 0 ? 0 : batch.entries[got].index);

    guest->msr_count = list->count;
    memcpy(guest->msrs, batch.entries, list->count * sizeof guest->msrs[0]);
    guest->tsc_deadline = batch.entries[list->count].data;
    for (uint32_t i = 0; i < guest->msr_count && strcmp(guest->vendor, "GenuineIntel") != 0; i++)
        cut_sysenter(&guest->msrs[i]);
    return 0;
}

static int tsc_offset_ioctl(struct vcpu *vcpu, unsigned long request, uint64_t *offset)
{
    struct kvm_device_attr attr = {
        .group = KVM_VCPU_TSC_CTRL,
        .attr = KVM_VCPU_TSC_OFFSET,
        .addr = (uint64_t)(uintptr_t)offset,
    };
    return ioctl(vcpu->fd, request, &attr);
}

/* Guest TSC minus host TSC. Where the kernel does not tell (before 5.16) it is measured, and vCPUs
 * differ by the time between two system calls; KVM draws them together again when they are set. */
static int capture_tsc_offset(struct vcpu *vcpu, uint64_t *ret_offset, struct fault *fault)
{
    if (vcpu->vm->has_tsc_offset) {
        if (tsc_offset_ioctl(vcpu, KVM_GET_DEVICE_ATTR, ret_offset) < 0)
            return fault_set_errno(fault, ERR_IO, errno, "vCPU %u: reading the TSC offset",
                                   vcpu->index);
        return 0;
    }
    struct msr_batch one = {.nmsrs = 1, .entries = {{.index = MSR_TSC}}};
    uint64_t host_tsc = vm_tsc_in_guest_ticks(vcpu->vm, __rdtsc());
    if (ioctl(vcpu->fd, KVM_GET_MSRS, &one) != 1)
        return fault_set(fault, ERR_IO, "vCPU %u: the TSC does not read", vcpu->index);
    *ret_offset = one.entries[0].data - host_tsc;
    return 0;
}

static int capture_xcr0(struct vcpu *vcpu, struct vcpu_guest *guest, struct fault *fault)
{
    guest->xcr0 = 1;
    if (!vcpu->vm->has_xsave)
        return 0; /* the baseline has no XSETBV: the register cannot have moved */
    struct kvm_xcrs xcrs = {0};
    int r = vcpu_ioctl(vcpu, KVM_GET_XCRS, &xcrs, "reading XCR0", fault);
    if (r < 0)
        return r;
    if (xcrs.nr_xcrs)
        guest->xcr0 = xcrs.xcrs[0].value;
    return 0;
}

/* What the kernel leaves behind as padding would make equal states look different. */
static void events_canonical(struct kvm_vcpu_events *events)
{
    events->flags = 0;
    events->sipi_vector = 0; /* never valid when read */
    events->nmi.pad = 0;
    events->smi.smm = 0;
    events->smi.pending = 0;
    events->smi.smm_inside_nmi = 0;
    memset(events->reserved, 0, sizeof events->reserved);
}

int vcpu_state_capture(struct vcpu *vcpu, uint64_t host_tsc, struct vcpu_guest *ret_guest,
                       struct fault *fault)
{
    struct vcpu_guest *guest = ret_guest;
    struct kvm_mp_state mp_state = {0};
    uint64_t tsc_offset = 0;
    int r;

    (void)snprintf(guest->vendor, sizeof guest->vendor, "%s", vcpu->vm->vendor);
    if ((r = vcpu_ioctl(vcpu, KVM_GET_MP_STATE, &mp_state, "reading the run state", fault)) < 0 ||
        (r = vcpu_ioctl(vcpu, KVM_GET_VCPU_EVENTS, &guest->events, "reading events", fault)) < 0 ||
        (r = vcpu_ioctl(vcpu, KVM_GET_REGS, &guest->regs, "reading registers", fault)) < 0 ||
        (r = vcpu_ioctl(vcpu, KVM_GET_SREGS2, &guest->sregs, "reading system registers", fault)) <
            0 ||
        (r = vcpu_ioctl(vcpu, KVM_GET_DEBUGREGS, &guest->debugregs, "reading debug registers",
                        fault)) < 0 ||
        (r = capture_xcr0(vcpu, guest, fault)) < 0 ||
        (r = vcpu_ioctl(vcpu, KVM_GET_XSAVE, guest->xsave, "reading vector registers", fault)) <
            0 ||
        (r = vcpu_ioctl(vcpu, KVM_GET_LAPIC, guest->lapic, "reading the local APIC", fault)) < 0 ||
        (r = capture_msrs(vcpu, guest, fault)) < 0 ||
        (r = capture_tsc_offset(vcpu, &tsc_offset, fault)) < 0)
        return r;

    guest->mp_state = mp_state.mp_state;
    events_canonical(&guest->events);
    guest->tsc = host_tsc + tsc_offset;
    return 0;
}

/* First of all: the deadline timer is armed against the TSC. */
static int revive_tsc(struct vcpu *vcpu, uint64_t tsc, uint64_t host_tsc, struct fault *fault)
{
    if (vcpu->vm->has_tsc_offset) {
        uint64_t offset = tsc - host_tsc;
        if (tsc_offset_ioctl(vcpu, KVM_SET_DEVICE_ATTR, &offset) < 0)
            return fault_set_errno(fault, ERR_IO, errno, "vCPU %u: setting the TSC offset",
                                   vcpu->index);
        return 0;
    }
    uint64_t now_tsc = vm_tsc_in_guest_ticks(vcpu->vm, __rdtsc());
    struct msr_batch one = {.nmsrs = 1,
                            .entries = {{.index = MSR_TSC, .data = tsc + (now_tsc - host_tsc)}}};
    if (ioctl(vcpu->fd, KVM_SET_MSRS, &one) != 1)
        return fault_set(fault, ERR_IO, "vCPU %u: the TSC cannot be set", vcpu->index);
    return 0;
}

static int revive_msrs(struct vcpu *vcpu, const struct vcpu_guest *guest, struct fault *fault)
{
    const struct vcpu_msr_list *list = &vcpu->vm->msrs;
    struct msr_batch batch;
    batch.pad = 0;
    batch.nmsrs = 0;
    for (uint32_t i = 0; i < guest->msr_count; i++) {
        const struct kvm_msr_entry *msr = &guest->msrs[i];
        if (bsearch(&msr->index, list->indices, list->count, sizeof list->indices[0],
                    compare_u32)) {
            batch.entries[batch.nmsrs++] = *msr;
        } else if (msr->data) {
            /* A zero in a register that this kernel does not have stands there as well. */
            return fault_set(fault, ERR_UNSUPPORTED,
                             "vCPU %u: this host has no MSR %#x, the guest's is %#llx", vcpu->index,
                             msr->index, (unsigned long long)msr->data);
        }
    }
    if (guest->tsc_deadline)
        batch.entries[batch.nmsrs++] =
            (struct kvm_msr_entry){.index = MSR_TSC_DEADLINE, .data = guest->tsc_deadline};
    int set = ioctl(vcpu->fd, KVM_SET_MSRS, &batch);
    if (set == (int)batch.nmsrs)
        return 0;
    return fault_set(fault, ERR_CORRUPT, "vCPU %u: MSR %#x does not take %#llx", vcpu->index,
                     set < 0 ? 0 : batch.entries[set].index,
                     set < 0 ? 0ULL : (unsigned long long)batch.entries[set].data);
}

static int revive_events(struct vcpu *vcpu, const struct vcpu_guest *guest, struct fault *fault)
{
    struct kvm_vcpu_events events = guest->events;
    if (events.triple_fault.pending && !(vcpu->vm->events_flags & KVM_VCPUEVENT_VALID_TRIPLE_FAULT))
        return fault_set(fault, ERR_UNSUPPORTED,
                         "vCPU %u: this host cannot carry a pending triple fault", vcpu->index);
    events.flags = vcpu->vm->events_flags;
    return vcpu_ioctl(vcpu, KVM_SET_VCPU_EVENTS, &events, "setting events", fault);
}

static int revive_xcr0(struct vcpu *vcpu, const struct vcpu_guest *guest, struct fault *fault)
{
    if (!vcpu->vm->has_xsave) {
        if (guest->xcr0 != 1)
            return fault_set(fault, ERR_CORRUPT, "vCPU %u: xcr0 %#llx in a baseline without XSAVE",
                             vcpu->index, (unsigned long long)guest->xcr0);
        return 0;
    }
    struct kvm_xcrs xcrs = {.nr_xcrs = 1, .xcrs = {{.value = guest->xcr0}}};
    return vcpu_ioctl(vcpu, KVM_SET_XCRS, &xcrs, "setting XCR0", fault);
}

int vcpu_state_revive(struct vcpu *vcpu, const struct vcpu_guest *guest, uint64_t host_tsc,
                      uint64_t elapsed_tsc, struct fault *fault)
{
    if (strcmp(guest->vendor, vcpu->vm->vendor) != 0)
        return fault_set(fault, ERR_CPU_COMPAT,
                         "the guest ran on a %s processor, this host's is %s: guests keep their "
                         "vendor",
                         guest->vendor, vcpu->vm->vendor);

    /* The kernel's interface takes no const; it reads only. */
    struct vcpu_guest *in = (struct vcpu_guest *)guest;
    struct kvm_mp_state mp_state = {.mp_state = guest->mp_state};
    int r;
    if ((r = revive_tsc(vcpu, guest->tsc + elapsed_tsc, host_tsc, fault)) < 0 ||
        (r = vcpu_ioctl(vcpu, KVM_SET_SREGS2, &in->sregs, "setting system registers", fault)) < 0 ||
        (r = revive_xcr0(vcpu, guest, fault)) < 0 ||
        (r = vcpu_ioctl(vcpu, KVM_SET_XSAVE, in->xsave, "setting vector registers", fault)) < 0 ||
        (r = vcpu_ioctl(vcpu, KVM_SET_LAPIC, in->lapic, "setting the local APIC", fault)) < 0 ||
        (r = revive_msrs(vcpu, guest, fault)) < 0 ||
        (r = vcpu_ioctl(vcpu, KVM_SET_REGS, &in->regs, "setting registers", fault)) < 0 ||
        (r = vcpu_ioctl(vcpu, KVM_SET_DEBUGREGS, &in->debugregs, "setting debug registers",
                        fault)) < 0 ||
        (r = revive_events(vcpu, guest, fault)) < 0)
        return r;
    return vcpu_ioctl(vcpu, KVM_SET_MP_STATE, &mp_state, "setting the run state", fault);
}

/* One list per message, so that save and load cannot disagree: X(message field, struct field). */
/* clang-format off */
#define SEGMENT_FIELDS(X)                                                                          \
    X(address, base) X(limit, limit) X(selector, selector) X(type, type)                           \
    X(present, present) X(dpl, dpl) X(db, db) X(s, s) X(l, l) X(g, g) X(avl, avl)                  \
    X(unusable, unusable)
#define TABLE_FIELDS(X) X(address, base) X(limit, limit)
#define REGS_FIELDS(X)                                                                             \
    X(rax, rax) X(rbx, rbx) X(rcx, rcx) X(rdx, rdx) X(rsi, rsi) X(rdi, rdi) X(rsp, rsp)            \
    X(rbp, rbp) X(r8, r8) X(r9, r9) X(r10, r10) X(r11, r11) X(r12, r12) X(r13, r13)                \
    X(r14, r14) X(r15, r15) X(rip, rip) X(rflags, rflags)
#define SREGS_FIELDS(X)                                                                            \
    X(cr0, cr0) X(cr2, cr2) X(cr3, cr3) X(cr4, cr4) X(cr8, cr8) X(efer, efer)                      \
    X(apic_base, apic_base)
#define SREGS_SEGMENTS(X) X(cs) X(ds) X(es) X(fs) X(gs) X(ss) X(tr) X(ldt)
#define SREGS_TABLES(X) X(gdt) X(idt)
#define EVENTS_FIELDS(X)                                                                           \
    X(exception_injected, exception.injected)                                                      \
    X(exception_nr, exception.nr)                                                                  \
    X(exception_has_error_code, exception.has_error_code)                                          \
    X(exception_pending, exception.pending)                                                        \
    X(exception_error_code, exception.error_code)                                                  \
    X(exception_has_payload, exception_has_payload)                                                \
    X(exception_payload, exception_payload)                                                        \
    X(interrupt_injected, interrupt.injected)                                                      \
    X(interrupt_nr, interrupt.nr)                                                                  \
    X(interrupt_soft, interrupt.soft)                                                              \
    X(interrupt_shadow, interrupt.shadow)                                                          \
    X(nmi_injected, nmi.injected)                                                                  \
    X(nmi_pending, nmi.pending)                                                                    \
    X(nmi_masked, nmi.masked)                                                                      \
    X(latched_init, smi.latched_init)                                                              \
    X(triple_fault_pending, triple_fault.pending)
#define VCPU_FIELDS(X)                                                                             \
    X(mp_state, mp_state) X(dr6, debugregs.dr6) X(dr7, debugregs.dr7) X(xcr0, xcr0)                \
    X(tsc, tsc) X(tsc_deadline, tsc_deadline)
/* clang-format on */

#define SAVE_FIELD(field, member) STATE_PUT(out, field, in->member);
#define LOAD_FIELD(field, member) STATE_TAKE(reader, in, field, out->member);

static void segment_save(Godwit__SegmentV1 *out, const struct kvm_segment *in)
{
    godwit__segment_v1__init(out);
    SEGMENT_FIELDS(SAVE_FIELD)
}

static void segment_load(struct state_reader *reader, struct kvm_segment *out,
                         const Godwit__SegmentV1 *in)
{
    SEGMENT_FIELDS(LOAD_FIELD)
}

static void table_save(Godwit__DescriptorTableV1 *out, const struct kvm_dtable *in)
{
    godwit__descriptor_table_v1__init(out);
    TABLE_FIELDS(SAVE_FIELD)
}

static void table_load(struct state_reader *reader, struct kvm_dtable *out,
                       const Godwit__DescriptorTableV1 *in)
{
    TABLE_FIELDS(LOAD_FIELD)
}

static void regs_save(Godwit__RegsV1 *out, const struct kvm_regs *in)
{
    godwit__regs_v1__init(out);
    REGS_FIELDS(SAVE_FIELD)
}

static void regs_load(struct state_reader *reader, struct kvm_regs *out, const Godwit__RegsV1 *in)
{
    REGS_FIELDS(LOAD_FIELD)
}

static void events_save(Godwit__EventsV1 *out, const struct kvm_vcpu_events *in)
{
    godwit__events_v1__init(out);
    EVENTS_FIELDS(SAVE_FIELD)
}

static void events_load(struct state_reader *reader, struct kvm_vcpu_events *out,
                        const Godwit__EventsV1 *in)
{
    EVENTS_FIELDS(LOAD_FIELD)
}

struct sregs_message { /* a SregsV1 with its parts, on the stack */
    Godwit__SregsV1 sregs;
#define SREGS_PART(name) Godwit__SegmentV1 name;
    SREGS_SEGMENTS(SREGS_PART)
#undef SREGS_PART
    Godwit__DescriptorTableV1 gdt, idt;
    uint64_t pdptrs[4];
};

static void sregs_save(struct sregs_message *message, const struct kvm_sregs2 *in)
{
    Godwit__SregsV1 *out = &message->sregs;
    godwit__sregs_v1__init(out);
    SREGS_FIELDS(SAVE_FIELD)
#define SAVE_PART(name)                                                                            \
    segment_save(&message->name, &in->name);                                                       \
    out->name = &message->name;
    SREGS_SEGMENTS(SAVE_PART)
#undef SAVE_PART
#define SAVE_PART(name)                                                                            \
    table_save(&message->name, &in->name);                                                         \
    out->name = &message->name;
    SREGS_TABLES(SAVE_PART)
#undef SAVE_PART
    if (in->flags & KVM_SREGS2_FLAGS_PDPTRS_VALID) {
        for (size_t i = 0; i < ARRAY_COUNT(message->pdptrs); i++)
            message->pdptrs[i] = in->pdptrs[i];
        out->pdptrs = message->pdptrs;
        out->n_pdptrs = ARRAY_COUNT(message->pdptrs);
    }
}

static void sregs_load(struct state_reader *reader, struct kvm_sregs2 *out,
                       const Godwit__SregsV1 *in)
{
    SREGS_FIELDS(LOAD_FIELD)
#define LOAD_PART(name)                                                                            \
    if (state_reader_check(reader, in->name != NULL, #name, "is missing"))                         \
        segment_load(reader, &out->name, in->name);
    SREGS_SEGMENTS(LOAD_PART)
#undef LOAD_PART
#define LOAD_PART(name)                                                                            \
    if (state_reader_check(reader, in->name != NULL, #name, "is missing"))                         \
        table_load(reader, &out->name, in->name);
    SREGS_TABLES(LOAD_PART)
#undef LOAD_PART
    if (in->n_pdptrs == 0)
        return;
    if (!state_reader_check(reader, in->n_pdptrs == ARRAY_COUNT(out->pdptrs), "pdptrs",
                            "are not four"))
        return;
    for (size_t i = 0; i < ARRAY_COUNT(out->pdptrs); i++)
        out->pdptrs[i] = in->pdptrs[i];
    out->flags = KVM_SREGS2_FLAGS_PDPTRS_VALID;
}

/* Without the zeros at its end, in steps of 64: most guests use a quarter of the area. */
static size_t xsave_bytes_used(const uint8_t xsave[static VCPU_STATE_XSAVE_BYTES])
{
    size_t used = VCPU_STATE_XSAVE_BYTES;
    while (used > VCPU_STATE_XSAVE_BYTES_MIN && bytes_get_u64(xsave + used - 8) == 0)
        used -= 8;
    return (used + 63) & ~(size_t)63;
}

int vcpu_state_save(const struct vcpu_guest *guest, uint8_t **ret_bytes, size_t *ret_count)
{
    assert(guest->msr_count <= VCPU_STATE_MSRS_MAX);
    Godwit__VcpuStateV1 state = GODWIT__VCPU_STATE_V1__INIT;
    Godwit__RegsV1 regs;
    Godwit__EventsV1 events;
    struct sregs_message sregs;
    uint64_t db[4];
    uint32_t msr_indices[VCPU_STATE_MSRS_MAX];
    uint64_t msr_values[VCPU_STATE_MSRS_MAX];

    {
        Godwit__VcpuStateV1 *out = &state;
        const struct vcpu_guest *in = guest;
        VCPU_FIELDS(SAVE_FIELD)
    }
    regs_save(&regs, &guest->regs);
    events_save(&events, &guest->events);
    sregs_save(&sregs, &guest->sregs);
    for (size_t i = 0; i < ARRAY_COUNT(db); i++)
        db[i] = guest->debugregs.db[i];
    for (uint32_t i = 0; i < guest->msr_count; i++) {
        msr_indices[i] = guest->msrs[i].index;
        msr_values[i] = guest->msrs[i].data;
    }

    state.vendor = (char *)guest->vendor; /* packing reads only, here and below */
    state.regs = &regs;
    state.sregs = &sregs.sregs;
    state.events = &events;
    state.db = db;
    state.n_db = ARRAY_COUNT(db);
    STATE_PUT(&state, xsave,
              ((ProtobufCBinaryData){.data = (uint8_t *)guest->xsave,
                                     .len = xsave_bytes_used(guest->xsave)}));
    STATE_PUT(
        &state, lapic,
        ((ProtobufCBinaryData){.data = (uint8_t *)guest->lapic, .len = VCPU_STATE_LAPIC_BYTES}));
    state.msr_index = msr_indices;
    state.n_msr_index = guest->msr_count;
    state.msr_value = msr_values;
    state.n_msr_value = guest->msr_count;
    return state_reader_pack(&state.base, ret_bytes, ret_count);
}

static void vendor_load(struct state_reader *reader, struct vcpu_guest *out, const char *vendor)
{
    if (!state_reader_check(reader, vendor != NULL, "vendor", "is missing"))
        return;
    if (state_reader_check(reader, strlen(vendor) < sizeof out->vendor, "vendor", "is too long"))
        (void)snprintf(out->vendor, sizeof out->vendor, "%s", vendor);
}

static void msrs_load(struct state_reader *reader, struct vcpu_guest *out,
                      const Godwit__VcpuStateV1 *in)
{
    if (!state_reader_check(reader, in->n_msr_index <= VCPU_STATE_MSRS_MAX, "msr_index",
                            "are too many") ||
        !state_reader_check(reader, in->n_msr_index == in->n_msr_value, "msr_value",
                            "are not as many as msr_index"))
        return;
    for (size_t i = 0; i < in->n_msr_index; i++) {
        if (!state_reader_check(reader, i == 0 || in->msr_index[i] > in->msr_index[i - 1],
                                "msr_index", "is not ascending"))
            return;
        out->msrs[i] = (struct kvm_msr_entry){.index = in->msr_index[i], .data = in->msr_value[i]};
    }
    out->msr_count = (uint32_t)in->n_msr_index;
}

static void areas_load(struct state_reader *reader, struct vcpu_guest *out,
                       const Godwit__VcpuStateV1 *in)
{
    if (state_reader_check(reader,
                           in->has_xsave && in->xsave.len >= VCPU_STATE_XSAVE_BYTES_MIN &&
                               in->xsave.len <= VCPU_STATE_XSAVE_BYTES,
                           "xsave", "is missing or has no size of an XSAVE area"))
        memcpy(out->xsave, in->xsave.data, in->xsave.len);
    if (state_reader_check(reader, in->has_lapic && in->lapic.len == VCPU_STATE_LAPIC_BYTES,
                           "lapic", "is missing or not 1024 bytes long"))
        memcpy(out->lapic, in->lapic.data, in->lapic.len);
}

/* KVM knows more run states (of other architectures); a guest of ours is in one of these. */
static bool mp_state_is_known(uint32_t mp_state)
{
    return mp_state == KVM_MP_STATE_RUNNABLE || mp_state == KVM_MP_STATE_UNINITIALIZED ||
           mp_state == KVM_MP_STATE_INIT_RECEIVED || mp_state == KVM_MP_STATE_HALTED ||
           mp_state == KVM_MP_STATE_SIPI_RECEIVED;
}

static void vcpu_fields_load(struct state_reader *reader, struct vcpu_guest *out,
                             const Godwit__VcpuStateV1 *in)
{
    VCPU_FIELDS(LOAD_FIELD)
    (void)state_reader_check(reader, mp_state_is_known(out->mp_state), "mp_state", "is unknown");
    vendor_load(reader, out, in->vendor);
    if (state_reader_check(reader, in->regs != NULL, "regs", "are missing"))
        regs_load(reader, &out->regs, in->regs);
    if (state_reader_check(reader, in->sregs != NULL, "sregs", "are missing"))
        sregs_load(reader, &out->sregs, in->sregs);
    if (state_reader_check(reader, in->events != NULL, "events", "are missing"))
        events_load(reader, &out->events, in->events);
    if (state_reader_check(reader, in->n_db == ARRAY_COUNT(out->debugregs.db), "db",
                           "are not four")) {
        for (size_t i = 0; i < ARRAY_COUNT(out->debugregs.db); i++)
            out->debugregs.db[i] = in->db[i];
    }
    areas_load(reader, out, in);
    msrs_load(reader, out, in);
}

int vcpu_state_load(struct vcpu_guest *ret_guest, const uint8_t *bytes, size_t count,
                    struct fault *fault)
{
    struct state_reader reader = {.section = "vcpu", .fault = fault};
    struct vcpu_guest guest;
    memset(&guest, 0, sizeof guest); /* padding too: equal states are equal bytes */

    ProtobufCMessage *message =
        state_reader_unpack(&reader, &godwit__vcpu_state_v1__descriptor, bytes, count);
    if (!message)
        return reader.result;
    vcpu_fields_load(&reader, &guest, (const Godwit__VcpuStateV1 *)message);
    protobuf_c_message_free_unpacked(message, NULL); /* state_reader allocates by malloc */
    if (reader.result < 0)
        return reader.result;

    *ret_guest = guest;
    return 0;
}

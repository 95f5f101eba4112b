/* A vCPU thread's life:
 *
 *   gate_pass -> KVM_RUN -> exit -> KVM_RUN -> ... EINTR -> gate_pass
 *
 * It goes to the gate only when KVM_RUN itself said EINTR. An exit for port or memory I/O is
 * finished by the next KVM_RUN; with immediate_exit set that KVM_RUN does just this, and so no
 * vCPU ever stands at the gate with half an instruction in it.
 */
#include "vmm-core/vcpu.h"

#include <assert.h>
#include <errno.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "base/err.h"
#include "base/own.h"
#include "base/world.h"
#include "vmm-core/cpu_model.h"
#include "vmm-core/device.h"
#include "vmm-core/device_table.h"
#include "vmm-core/machine_state.h"
#include "vmm-core/vm_inside.h"

/* Its only work is to interrupt KVM_RUN. Not SIGUSR1: that one belongs to programs. */
#define VCPU_SIGNAL SIGRTMIN

static void on_signal(int number)
{
    (void)number;
}

static pthread_once_t signal_once = PTHREAD_ONCE_INIT;

static void install_signal(void)
{
    struct sigaction action = {.sa_handler = on_signal}; /* no SA_RESTART */
    (void)sigemptyset(&action.sa_mask);
    int r = sigaction(VCPU_SIGNAL, &action, NULL);
    assert(r == 0);
}

static int set_cpuid(struct vcpu *vcpu, int kvm_fd, struct fault *fault)
{
    AUTO_FREE struct kvm_cpuid2 *cpuid =
        calloc(1, sizeof *cpuid + CPU_MODEL_ENTRIES_MAX * sizeof cpuid->entries[0]);
    if (!cpuid)
        return fault_set(fault, ERR_NOMEM, "no memory for a CPUID table");
    cpuid->nent = CPU_MODEL_ENTRIES_MAX;

    int tsc_khz = ioctl(vcpu->fd, KVM_GET_TSC_KHZ, 0);
    if (tsc_khz <= 0)
        return fault_set(fault, ERR_UNSUPPORTED, "KVM does not tell the TSC's frequency");
    vcpu->vm->host_tsc_khz = (uint32_t)tsc_khz;
    vcpu->vm->tsc_khz = (uint32_t)tsc_khz;

    int r = cpu_model_cpuid(vcpu->vm->cpu_model, kvm_fd, vcpu->index, vcpu->vm->vcpu_count, cpuid,
                            fault);
    if (r < 0)
        return r;
    cpu_model_set_tsc_khz(cpuid, vcpu->vm->tsc_khz);
    if (ioctl(vcpu->fd, KVM_SET_CPUID2, cpuid) < 0)
        return fault_set_errno(fault, ERR_CPU_COMPAT, errno,
                               "vCPU %u: KVM refuses the CPUID of baseline %s", vcpu->index,
                               cpu_model_name(vcpu->vm->cpu_model));
    return 0;
}

int vcpu_tell_tsc_khz(struct vcpu *vcpu, uint32_t tsc_khz, struct fault *fault)
{
    AUTO_FREE struct kvm_cpuid2 *cpuid =
        calloc(1, sizeof *cpuid + CPU_MODEL_ENTRIES_MAX * sizeof cpuid->entries[0]);
    if (!cpuid)
        return fault_set(fault, ERR_NOMEM, "no memory for a CPUID table");
    cpuid->nent = CPU_MODEL_ENTRIES_MAX;
    if (ioctl(vcpu->fd, KVM_GET_CPUID2, cpuid) < 0)
        return fault_set_errno(fault, ERR_IO, errno, "vCPU %u: reading its CPUID", vcpu->index);
    cpu_model_set_tsc_khz(cpuid, tsc_khz);
    if (ioctl(vcpu->fd, KVM_SET_CPUID2, cpuid) < 0)
        return fault_set_errno(fault, ERR_CPU_COMPAT, errno, "vCPU %u: telling it a TSC of %u kHz",
                               vcpu->index, tsc_khz);
    return 0;
}

/* Only what the baseline shows can be used, also by a guest that does not look. */
static int set_limits(struct vcpu *vcpu, struct fault *fault)
{
    struct kvm_enable_cap cap = {.cap = KVM_CAP_ENFORCE_PV_FEATURE_CPUID, .args = {1}};
    if (ioctl(vcpu->fd, KVM_ENABLE_CAP, &cap) < 0)
        return fault_set_errno(fault, ERR_UNSUPPORTED, errno,
                               "vCPU %u: KVM cannot hold the guest to its paravirtual features",
                               vcpu->index);
    uint64_t mcg_cap = 1; /* one machine check bank: the architecture wants one, we raise none */
    if (ioctl(vcpu->fd, KVM_X86_SETUP_MCE, &mcg_cap) < 0)
        return fault_set_errno(fault, ERR_UNSUPPORTED, errno, "vCPU %u: setting up machine checks",
                               vcpu->index);
    return 0;
}

int vcpu_init(struct vcpu *vcpu, struct vm *vm, unsigned index, int kvm_fd, size_t run_bytes,
              struct fault *fault)
{
    *vcpu = (struct vcpu){.vm = vm, .index = index, .fd = -1, .stats_fd = -1};
    (void)pthread_once(&signal_once, install_signal);

    vcpu->fd = ioctl(vm->fd, KVM_CREATE_VCPU, index);
    if (vcpu->fd < 0)
        return fault_set_errno(fault, err_from_errno(errno), errno, "creating vCPU %u", index);
    void *run = mmap(NULL, run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
    if (run == MAP_FAILED)
        return fault_set_errno(fault, err_from_errno(errno), errno, "mapping vCPU %u", index);
    vcpu->run = run;
    vcpu->run_bytes = run_bytes;
    vcpu->stats_fd = ioctl(vcpu->fd, KVM_GET_STATS_FD, NULL); /* before Linux 5.14: not told */

    int r = set_cpuid(vcpu, kvm_fd, fault);
    if (r < 0)
        return r;
    return set_limits(vcpu, fault);
}

void vcpu_deinit(struct vcpu *vcpu)
{
    assert(!vcpu->started);
    if (!vcpu->vm)
        return; /* never came to vcpu_init */
    if (vcpu->run)
        (void)munmap(vcpu->run, vcpu->run_bytes); /* our own mapping: cannot fail */
    close_p(&vcpu->stats_fd);
    close_p(&vcpu->fd);
    *vcpu = (struct vcpu){.fd = -1, .stats_fd = -1};
}

void vcpu_set_leave(struct vcpu *vcpu, bool leave)
{
    __atomic_store_n(&vcpu->run->immediate_exit, leave, __ATOMIC_RELEASE);
}

void vcpu_kick(struct vcpu *vcpu)
{
    if (vcpu->started)
        (void)pthread_kill(vcpu->thread, VCPU_SIGNAL); /* the thread is there until joined */
}

/* The guest cannot go on. Says which exit and where, for whoever reads the event. */
static void crash(struct vcpu *vcpu, const char *what, unsigned long long detail)
{
    struct kvm_regs regs = {0};
    (void)ioctl(vcpu->fd, KVM_GET_REGS, &regs); /* a crash report with rip 0 is still one */
    struct fault fault = {0};
    (void)fault_set(&fault, ERR_STATE, "vCPU %u stopped: %s %#llx at rip %#llx", vcpu->index, what,
                    detail, (unsigned long long)regs.rip);
    vm_end(vcpu->vm, VM_EVENT_CRASH, &fault);
}

static void port_exit(struct vcpu *vcpu)
{
    struct kvm_run *run = vcpu->run;
    struct device_access access = {
        .port = run->io.port,
        .size = run->io.size,
        .count = run->io.count,
        .data = (uint8_t *)run + run->io.data_offset,
    };
    if (run->io.direction == KVM_EXIT_IO_IN)
        device_table_port_in(vcpu->vm, &access);
    else
        device_table_port_out(vcpu->vm, &access);
}

static void memory_exit(struct vcpu *vcpu)
{
    struct kvm_run *run = vcpu->run;
    struct vm *vm = vcpu->vm;
    unsigned count = run->mmio.len; /* KVM's: 1 to 8 */
    (void)pthread_mutex_lock(&vm->device_lock);
    if (run->mmio.is_write)
        mmio_write(&vm->mmio, run->mmio.phys_addr, run->mmio.data, count);
    else
        mmio_read(&vm->mmio, run->mmio.phys_addr, run->mmio.data, count);
    (void)pthread_mutex_unlock(&vm->device_lock);
}

/* True to go on in the guest. */
static bool handle_exit(struct vcpu *vcpu)
{
    struct kvm_run *run = vcpu->run;
    switch (run->exit_reason) {
    case KVM_EXIT_IO:
        port_exit(vcpu);
        break;
    case KVM_EXIT_MMIO:
        memory_exit(vcpu);
        break;
    case KVM_EXIT_INTR:
    case KVM_EXIT_IRQ_WINDOW_OPEN:
        break;
    case KVM_EXIT_SHUTDOWN: /* triple fault: what a PC answers with a reset */
        vm_end(vcpu->vm, VM_EVENT_RESET, NULL);
        break;
    case KVM_EXIT_INTERNAL_ERROR:
        crash(vcpu, "KVM internal error", run->internal.suberror);
        break;
    case KVM_EXIT_FAIL_ENTRY:
        crash(vcpu, "entry failed", run->fail_entry.hardware_entry_failure_reason);
        break;
    default:
        crash(vcpu, "unexpected exit", run->exit_reason);
        break;
    }
    return !__atomic_load_n(&vcpu->vm->ended, __ATOMIC_ACQUIRE);
}

/* What is due once after the gate opened, before the guest runs: guests take a long hole in their
 * time for a lock-up, unless they are told that they were stopped. */
static void answer_resume(struct vcpu *vcpu)
{
    struct vm *vm = vcpu->vm;
    if (vcpu->resume_turn == vm->resume_turn)
        return;
    vcpu->resume_turn = vm->resume_turn;

    if (vm->resume_was_long)
        (void)ioctl(vcpu->fd, KVM_KVMCLOCK_CTRL, 0); /* EINVAL: the guest has no kvmclock */
}

static void run_until_interrupted(struct vcpu *vcpu)
{
    for (;;) {
        int r = ioctl(vcpu->fd, KVM_RUN, 0);
        if (r < 0 && errno == EINTR)
            return;
        if (r < 0 && errno == EAGAIN)
            continue; /* an application processor was woken by its INIT */
        if (r < 0) {
            crash(vcpu, "KVM_RUN errno", (unsigned long long)errno);
            return;
        }
        if (!handle_exit(vcpu))
            return;
    }
}

void vcpu_hold(struct vcpu *vcpu, uint64_t until_ns)
{
    __atomic_store_n(&vcpu->hold_until_ns, until_ns, __ATOMIC_RELEASE);
    vcpu_set_leave(vcpu, true);
    vcpu_kick(vcpu);
}

/* It left the guest: to stand at the gate, or because the brake holds it. `leave` is taken back in
 * either case. Who closes the gate does so before he sets `leave`: either he sets it after us and
 * KVM_RUN returns at once, or we take back what he set and with it have seen the gate closed. */
static void stand_held(struct vcpu *vcpu)
{
    uint64_t until_ns = __atomic_load_n(&vcpu->hold_until_ns, __ATOMIC_ACQUIRE);
    uint64_t now_ns = until_ns ? world_now_ns() : 0;
    if (until_ns > now_ns) {
        gate_hold(&vcpu->vm->gate, until_ns - now_ns);
        uint64_t held_ns = world_now_ns() - now_ns;
        __atomic_store_n(&vcpu->held_ns, vcpu->held_ns + held_ns, __ATOMIC_RELAXED);
    }
    (void)__atomic_exchange_n(&vcpu->run->immediate_exit, 0, __ATOMIC_ACQ_REL);
}

static void *vcpu_main(void *data)
{
    struct vcpu *vcpu = data;
    char name[16];
    (void)snprintf(name, sizeof name, "vcpu%u", vcpu->index);
    (void)pthread_setname_np(pthread_self(), name); /* a nicety of top(1) */

    uint32_t seen = GATE_NOT_SEEN;
    while (gate_pass(&vcpu->vm->gate, &seen)) {
        answer_resume(vcpu);
        run_until_interrupted(vcpu);
        stand_held(vcpu);
    }
    return NULL;
}

int vcpu_start(struct vcpu *vcpu, struct fault *fault)
{
    assert(!vcpu->started);
    /* Only the kick reaches a vCPU; what concerns the process goes to its other threads. */
    sigset_t all, before;
    (void)sigfillset(&all);
    (void)sigdelset(&all, VCPU_SIGNAL);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    int r = pthread_create(&vcpu->thread, NULL, vcpu_main, vcpu);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (r != 0)
        return fault_set_errno(fault, ERR_NOMEM, r, "starting the thread of vCPU %u", vcpu->index);
    vcpu->started = true;
    return 0;
}

void vcpu_join(struct vcpu *vcpu)
{
    if (!vcpu->started)
        return;
    int r = pthread_join(vcpu->thread, NULL);
    assert(r == 0);
    vcpu->started = false;
}

static int vcpu_capture(struct vm *vm, unsigned instance, struct fault *fault)
{
    struct vcpu_guest *guest = &vm->guest->vcpus[instance];
    uint64_t tsc = guest->tsc;
    uint64_t tsc_deadline = guest->tsc_deadline;
    int r = vcpu_state_capture(&vm->vcpus[instance], vm->stopped.host_tsc, guest, fault);
    if (r == 0 && vm->time_due) {
        guest->tsc = tsc; /* as loaded: it has not run since */
        guest->tsc_deadline = tsc_deadline;
    }
    return r;
}

static int vcpu_revive(struct vm *vm, const struct machine_guest *machine, unsigned instance,
                       struct fault *fault)
{
    return vcpu_state_revive(&vm->vcpus[instance], &machine->vcpus[instance], vm->loaded.host_tsc,
                             clock_ticks(vm->paused_ns, vm->tsc_khz), fault);
}

static int save_row(const struct machine_guest *machine, unsigned instance, uint8_t **ret_bytes,
                    size_t *ret_count)
{
    assert(instance < VCPUS_MAX);
    return vcpu_state_save(&machine->vcpus[instance], ret_bytes, ret_count);
}

static int load_row(struct machine_guest *machine, unsigned instance, const uint8_t *bytes,
                    size_t count, struct fault *fault)
{
    assert(instance < VCPUS_MAX);
    return vcpu_state_load(&machine->vcpus[instance], bytes, count, fault);
}

const struct device vcpu_device = {
    .name = "vcpu",
    .travel = DEVICE_TRAVELS,
    .version = 1,
    .per_vcpu = true,
    .capture = vcpu_capture,
    .save = save_row,
    .load = load_row,
    .revive = vcpu_revive,
};

/* The machine: who exists, in which order, and who runs.
 *
 *   vm_new -> vm_boot -> vm_start -> vm_resume <-> vm_pause -> vm_save
 *   vm_new ------------> vm_start -> vm_load -> vm_resume        (the other end)
 *
 * The gate holds the truth about running; `ended` outlives it, for a guest that switched itself off
 * is never let in again.
 */
#include "vmm-core/vm.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>

#include "base/err.h"
#include "base/own.h"
#include "base/world.h"
#include "proto/limits.h"
#include "storage/disk.h"
#include "vmm-core/boot.h"
#include "vmm-core/brake.h"
#include "vmm-core/cpu_model.h"
#include "vmm-core/dev_virtio_balloon.h"
#include "vmm-core/dev_virtio_blk.h"
#include "vmm-core/dev_virtio_console.h"
#include "vmm-core/dev_virtio_net.h"
#include "vmm-core/dev_virtio_vsock.h"
#include "vmm-core/device.h"
#include "vmm-core/device_table.h"
#include "vmm-core/guest_memory.h"
#include "vmm-core/layout.h"
#include "vmm-core/machine_state.h"
#include "vmm-core/vm_inside.h"

static_assert((int)VM_VCPUS_MAX == (int)VCPUS_MAX, "the door and the limits agree");
static_assert((int)VM_CMDLINE_MAX == (int)CMDLINE_MAX, "the door and the limits agree");
static_assert(VM_DISKS_MAX + VM_NICS_MAX + 4 <= VIRTIO_FUNCTIONS_MAX, "every device has a slot");
static_assert(VM_MEMORY_MIN == GUEST_MEMORY_BYTES_MIN, "the door and the limits agree");
static_assert(VM_MEMORY_MAX == GUEST_MEMORY_BYTES_MAX, "the door and the limits agree");

#define KICK_AGAIN_NS (10 * NS_PER_MS)
/* Guests call it a lock-up after 10 s and more; KVM_KVMCLOCK_CTRL costs every resume. */
#define LONG_PAUSE_NS (2 * NS_PER_S)
/* No pause is longer; sums of guest time stay far from wrapping. */
#define PAUSED_NS_MAX (UINT64_C(366) * 24 * 3600 * NS_PER_S)

static void vm_freep(struct vm **vm)
{
    *vm = vm_free(*vm);
}

static int check_config(const struct vm_config *config, struct fault *fault)
{
    if (config->vcpus < 1 || config->vcpus > VM_VCPUS_MAX)
        return fault_set(fault, ERR_INVALID, "%u vCPUs: a VM has 1 to %d", config->vcpus,
                         VM_VCPUS_MAX);
    assert(config->cpu_model);
    if (config->disk_count > VM_DISKS_MAX || config->nic_count > VM_NICS_MAX)
        return fault_set(fault, ERR_INVALID, "%u disks and %u nics: a VM has at most %d and %d",
                         config->disk_count, config->nic_count, VM_DISKS_MAX, VM_NICS_MAX);
    int version = ioctl(config->kvm_fd, KVM_GET_API_VERSION, 0);
    if (version != KVM_API_VERSION)
        return fault_set(fault, ERR_UNSUPPORTED, "this is no KVM of version %d", KVM_API_VERSION);
    return cpu_model_check_host(config->cpu_model, config->kvm_fd, NULL, 0, fault);
}

struct requirement {
    int cap;
    const char *name;
};

static int check_kvm(const struct vm *vm, struct fault *fault)
{
    static const struct requirement requirements[] = {
        {KVM_CAP_IRQCHIP, "in-kernel interrupt controllers"},
        {KVM_CAP_PIT2, "an in-kernel timer chip"},
        {KVM_CAP_PIT_STATE2, "the timer chip's state"},
        {KVM_CAP_IMMEDIATE_EXIT, "immediate exit"},
        {KVM_CAP_MP_STATE, "run states"},
        {KVM_CAP_VCPU_EVENTS, "pending events"},
        {KVM_CAP_SREGS2, "system registers with PDPTRs (Linux 5.14)"},
        {KVM_CAP_DEBUGREGS, "debug registers"},
        {KVM_CAP_XSAVE, "vector registers"},
        {KVM_CAP_XCRS, "extended control registers"},
        {KVM_CAP_ADJUST_CLOCK, "the guest's clock"},
        {KVM_CAP_ENFORCE_PV_FEATURE_CPUID, "limits on paravirtual features (Linux 5.10)"},
    };
    for (size_t i = 0; i < ARRAY_COUNT(requirements); i++) {
        if (ioctl(vm->fd, KVM_CHECK_EXTENSION, requirements[i].cap) <= 0)
            return fault_set(fault, ERR_UNSUPPORTED, "this host's KVM has no %s",
                             requirements[i].name);
    }
    int dirty_log = ioctl(vm->fd, KVM_CHECK_EXTENSION, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2);
    int wanted = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET;
    if ((dirty_log & wanted) != wanted)
        return fault_set(fault, ERR_UNSUPPORTED,
                         "this host's KVM has no manual dirty log that starts full (Linux 5.7)");
    return 0;
}

static int enable_cap(struct vm *vm, uint32_t cap, uint64_t argument, const char *what,
                      struct fault *fault)
{
    struct kvm_enable_cap enable = {.cap = cap, .args = {argument}};
    if (ioctl(vm->fd, KVM_ENABLE_CAP, &enable) < 0)
        return fault_set_errno(fault, ERR_UNSUPPORTED, errno, "enabling KVM's %s", what);
    return 0;
}

/* Before any vCPU exists. */
static int set_up_machine(struct vm *vm, struct fault *fault)
{
    int r = enable_cap(vm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
                       KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET,
                       "manual dirty log", fault);
    if (r == 0)
        r = enable_cap(vm, KVM_CAP_EXCEPTION_PAYLOAD, 1, "exception payloads", fault);
    if (r < 0)
        return r;
    vm->events_flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW |
                       KVM_VCPUEVENT_VALID_SMM | KVM_VCPUEVENT_VALID_PAYLOAD;
    if (ioctl(vm->fd, KVM_CHECK_EXTENSION, KVM_CAP_X86_TRIPLE_FAULT_EVENT) > 0 &&
        enable_cap(vm, KVM_CAP_X86_TRIPLE_FAULT_EVENT, 1, "triple fault event", fault) == 0)
        vm->events_flags |= KVM_VCPUEVENT_VALID_TRIPLE_FAULT;

    uint64_t identity_map = LAYOUT_KVM_IDENTITY_MAP;
    if (ioctl(vm->fd, KVM_SET_IDENTITY_MAP_ADDR, &identity_map) < 0 ||
        ioctl(vm->fd, KVM_SET_TSS_ADDR, (unsigned long)LAYOUT_KVM_TSS) < 0)
        return fault_set_errno(fault, ERR_IO, errno, "placing KVM's own pages");
    if (ioctl(vm->fd, KVM_CREATE_IRQCHIP, 0) < 0)
        return fault_set_errno(fault, ERR_IO, errno, "creating the interrupt controllers");
    struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};
    if (ioctl(vm->fd, KVM_CREATE_PIT2, &pit) < 0)
        return fault_set_errno(fault, ERR_IO, errno, "creating the timer chip");
    return 0;
}

int vm_set_dirty_log(struct vm *vm, bool enable, struct fault *fault)
{
    struct guest_memory_part parts[GUEST_MEMORY_PARTS_MAX];
    unsigned count = guest_memory_parts(vm->memory, parts);
    for (unsigned i = 0; i < count; i++) {
        struct kvm_userspace_memory_region slot = {
            .slot = i,
            .flags = enable ? KVM_MEM_LOG_DIRTY_PAGES : 0,
            .guest_phys_addr = parts[i].guest_address,
            .memory_size = parts[i].pages << 12,
            .userspace_addr =
                (uintptr_t)guest_memory_page(guest_memory_base(vm->memory), parts[i].first_page),
        };
        if (ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &slot) < 0)
            return fault_set_errno(fault, err_from_errno(errno), errno,
                                   "giving the guest its memory (slot %u)", i);
    }
    return 0;
}

static void send_message(void *data, uint64_t address, uint32_t value)
{
    const struct vm *vm = data;
    struct kvm_msi msi = {
        .address_lo = (uint32_t)address, .address_hi = (uint32_t)(address >> 32), .data = value};
    /* Nobody there, or masked away: the guest's own choice. */
    (void)ioctl(vm->fd, KVM_SIGNAL_MSI, &msi);
}

static bool bind_doorbell(void *data, uint64_t address, int fd, bool bind)
{
    const struct vm *vm = data;
    struct kvm_ioeventfd doorbell = {
        .addr = address, .len = 2, .fd = fd, .flags = bind ? 0 : KVM_IOEVENTFD_FLAG_DEASSIGN};
    return ioctl(vm->fd, KVM_IOEVENTFD, &doorbell) == 0;
}

static const struct virtio_pci_host_ops virtio_host_ops = {
    .message = send_message,
    .doorbell = bind_doorbell,
};

static void drain_devices(void *data)
{
    struct vm *vm = data;
    virtio_bus_drain(&vm->virtio);
}

static bool devices_are_quiet(void *data)
{
    struct vm *vm = data;
    return virtio_bus_is_quiet(&vm->virtio);
}

static void devices_go_on(void *data)
{
    struct vm *vm = data;
    virtio_bus_go_on(&vm->virtio);
}

static int create_devices(struct vm *vm, const struct vm_config *config, struct fault *fault)
{
    const struct io_loop_config loop = {.lock = &vm->device_lock,
                                        .data = vm,
                                        .drain = drain_devices,
                                        .is_quiet = devices_are_quiet,
                                        .go_on = devices_go_on};
    pci_bus_init(&vm->pci, &vm->mmio);
    int r = io_loop_new(&vm->io_loop, &loop, fault);
    if (r == 0)
        r = rtc_init(vm, fault);
    if (r < 0)
        return r;
    const struct virtio_pci_host host = {
        .ops = &virtio_host_ops, .data = vm, .memory = vm->memory, .loop = vm->io_loop};
    return virtio_bus_init(&vm->virtio, &vm->shape, &host, config, &vm->pci, fault);
}

static struct virtio_device *find_disk(const struct vm *vm, unsigned index)
{
    return virtio_bus_find(&vm->virtio, &virtio_blk_kind, index);
}

/* Borrows `fd`. */
static int attach_disk(struct vm *vm, unsigned index, int fd, struct fault *fault)
{
    struct virtio_device *device = find_disk(vm, index);
    if (!device)
        return fault_set(fault, ERR_NOT_FOUND, "the VM has no disk %u", index);
    const struct disk_config config = {.read_only = virtio_blk_is_read_only(device)};
    struct disk *disk = NULL;
    AUTO_FD int own_fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    int r = disk_new(&disk, own_fd, &config, fault);
    if (r < 0)
        return fault_wrap(fault, r, "disk %u", index);
    own_fd = -1; /* taken */
    (void)pthread_mutex_lock(&vm->device_lock);
    r = virtio_blk_attach(device, disk, fault);
    (void)pthread_mutex_unlock(&vm->device_lock);
    if (r < 0)
        disk = disk_free(disk);
    return r;
}

int vm_attach_disk(struct vm *vm, unsigned index, int fd, struct fault *fault)
{
    int r = attach_disk(vm, index, fd, fault);
    if (r == 0)
        close_p(&fd);
    return r;
}

int vm_track_disk(struct vm *vm, unsigned index, struct bitmap *written, struct fault *fault)
{
    struct virtio_device *device = find_disk(vm, index);
    if (!device)
        return fault_set(fault, ERR_NOT_FOUND, "the VM has no disk %u", index);
    (void)pthread_mutex_lock(&vm->device_lock);
    int r = virtio_blk_track(device, written, fault);
    (void)pthread_mutex_unlock(&vm->device_lock);
    return r;
}

int vm_mirror_disk(struct vm *vm, unsigned index, struct disk_mirror *mirror, struct fault *fault)
{
    struct virtio_device *device = find_disk(vm, index);
    if (!device)
        return fault_set(fault, ERR_NOT_FOUND, "the VM has no disk %u", index);
    (void)pthread_mutex_lock(&vm->device_lock);
    int r = virtio_blk_mirror(device, mirror, fault);
    (void)pthread_mutex_unlock(&vm->device_lock);
    return r;
}

int vm_switch_disk(struct vm *vm, unsigned index, struct fault *fault)
{
    struct virtio_device *device = find_disk(vm, index);
    if (!device)
        return fault_set(fault, ERR_NOT_FOUND, "the VM has no disk %u", index);
    (void)pthread_mutex_lock(&vm->device_lock);
    int r = virtio_blk_switch(device, fault);
    (void)pthread_mutex_unlock(&vm->device_lock);
    return r;
}

bool vm_disks_wait(struct vm *vm)
{
    bool waits = false;
    (void)pthread_mutex_lock(&vm->device_lock);
    for (unsigned i = 0; i < vm->shape.disks; i++)
        waits |= virtio_blk_waits(find_disk(vm, i));
    (void)pthread_mutex_unlock(&vm->device_lock);
    return waits;
}

void vm_disk_stats(struct vm *vm, unsigned index, struct vm_disk_stats *ret_stats)
{
    struct virtio_device *device = find_disk(vm, index);
    assert(device);
    (void)pthread_mutex_lock(&vm->device_lock);
    virtio_blk_stats(device, ret_stats);
    (void)pthread_mutex_unlock(&vm->device_lock);
}

static struct virtio_device *find_nic(const struct vm *vm, unsigned index)
{
    return virtio_bus_find(&vm->virtio, &virtio_net_kind, index);
}

/* Borrows `fds`. */
static int attach_nic(struct vm *vm, unsigned index, const int *fds, unsigned count,
                      struct fault *fault)
{
    struct virtio_device *device = find_nic(vm, index);
    if (!device)
        return fault_set(fault, ERR_NOT_FOUND, "the VM has no nic %u", index);
    if (count < 1 || count > VM_NIC_QUEUE_PAIRS_MAX)
        return fault_set(fault, ERR_INVALID, "nic %u: a tap has 1 to %d queues", index,
                         VM_NIC_QUEUE_PAIRS_MAX);
    int own_fds[VM_NIC_QUEUE_PAIRS_MAX], r = 0;
    unsigned own = 0;
    for (; own < count && r == 0; own++) {
        own_fds[own] = fcntl(fds[own], F_DUPFD_CLOEXEC, 0);
        if (own_fds[own] < 0)
            r = fault_set_errno(fault, err_from_errno(errno), errno, "nic %u: its tap", index);
    }
    if (r == 0) {
        (void)pthread_mutex_lock(&vm->device_lock);
        r = virtio_net_attach(device, own_fds, count, fault);
        (void)pthread_mutex_unlock(&vm->device_lock);
    }
    for (unsigned i = 0; i < own && r < 0; i++)
        close_p(&own_fds[i]);
    return r;
}

int vm_attach_nic(struct vm *vm, unsigned index, const int *fds, unsigned count,
                  struct fault *fault)
{
    int r = attach_nic(vm, index, fds, count, fault);
    for (unsigned i = 0; i < count && r == 0; i++)
        (void)close(fds[i]);
    return r;
}

void vm_nic_stats(struct vm *vm, unsigned index, struct vm_nic_stats *ret_stats)
{
    struct virtio_device *device = find_nic(vm, index);
    assert(device);
    (void)pthread_mutex_lock(&vm->device_lock);
    virtio_net_stats(device, ret_stats);
    (void)pthread_mutex_unlock(&vm->device_lock);
}

int vm_set_nic_link(struct vm *vm, unsigned index, bool up, struct fault *fault)
{
    struct virtio_device *device = find_nic(vm, index);
    if (!device)
        return fault_set(fault, ERR_NOT_FOUND, "the VM has no nic %u", index);
    (void)pthread_mutex_lock(&vm->device_lock);
    virtio_net_set_link(device, up);
    (void)pthread_mutex_unlock(&vm->device_lock);
    return 0;
}

static int attach_backends(struct vm *vm, const struct vm_config *config, struct fault *fault)
{
    for (unsigned i = 0; i < config->disk_count; i++) {
        int r = config->disks[i].fd < 0 ? 0 : attach_disk(vm, i, config->disks[i].fd, fault);
        if (r < 0)
            return r;
    }
    for (unsigned i = 0; i < config->nic_count; i++) {
        const struct vm_nic_config *nic = &config->nics[i];
        int r = nic->fds[0] < 0 ? 0 : attach_nic(vm, i, nic->fds, nic->queue_pairs, fault);
        if (r < 0)
            return r;
    }
    return 0;
}

static int create_vcpus(struct vm *vm, int kvm_fd, struct fault *fault)
{
    int run_bytes = ioctl(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (run_bytes < 0)
        return fault_set_errno(fault, ERR_IO, errno, "asking for the size of a vCPU");
    for (unsigned i = 0; i < vm->vcpu_count; i++) {
        int r = vcpu_init(&vm->vcpus[i], vm, i, kvm_fd, (size_t)run_bytes, fault);
        if (r < 0)
            return r;
    }
    struct kvm_device_attr attr = {.group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET};
    vm->has_tsc_offset = ioctl(vm->vcpus[0].fd, KVM_HAS_DEVICE_ATTR, &attr) == 0;
    return vcpu_msr_list_init(&vm->msrs, kvm_fd, vm->vcpus[0].fd, fault);
}

static int get_memory(struct vm *vm, const struct vm_config *config, struct fault *fault)
{
    if (config->adopts_memory)
        return guest_memory_adopt(&vm->memory, config->memory_fd, config->memory_bytes,
                                  config->huge_pages, fault);
    return guest_memory_new(&vm->memory, config->memory_bytes, config->huge_pages, fault);
}

int vm_new(struct vm **ret_vm, const struct vm_config *config, struct fault *fault)
{
    int r = check_config(config, fault);
    if (r < 0)
        return r;

    AUTO(vm_freep) struct vm *vm = calloc(1, sizeof *vm);
    if (!vm)
        return fault_set(fault, ERR_NOMEM, "no memory for a VM");
    (void)pthread_mutex_init(&vm->device_lock, NULL); /* cannot fail on Linux */
    vm->fd = -1;
    vm->vcpu_count = config->vcpus;
    vm->cpu_model = config->cpu_model;
    vm->has_xsave = cpu_model_has_xsave(config->cpu_model);
    vm->on_serial = config->on_serial;
    vm->on_event = config->on_event;
    vm->callback_data = config->data;
    vm->shape = (struct machine_shape){
        .vcpus = config->vcpus,
        .memory_bytes = config->memory_bytes,
        .baseline = cpu_model_name(config->cpu_model),
        .console = config->console,
        .rng = config->rng,
        .balloon = config->balloon,
        .vsock = config->vsock_cid != 0,
        .disks = config->disk_count,
        .nics = config->nic_count,
    };
    gate_init(&vm->gate, config->vcpus);
    serial_reset(&vm->serial);
    pm_reset(&vm->pm);
    vm->pm_host.timer_zero_ns = world_now_ns();
    vm->rtc_host.timer_fd = -1;
    vm->guest = calloc(1, sizeof *vm->guest);
    if (!vm->guest)
        return fault_set(fault, ERR_NOMEM, "no memory for a VM");

    do { /* seen once in some hundred: the kernel gives up for a signal that is not for us */
        vm->fd = ioctl(config->kvm_fd, KVM_CREATE_VM, 0);
    } while (vm->fd < 0 && errno == EINTR);
    if (vm->fd < 0)
        return fault_set_errno(fault, err_from_errno(errno), errno, "creating a VM");
    if ((r = cpu_model_host_vendor(config->kvm_fd, vm->vendor, fault)) < 0 ||
        (r = check_kvm(vm, fault)) < 0 || (r = set_up_machine(vm, fault)) < 0 ||
        (r = get_memory(vm, config, fault)) < 0 || (r = vm_set_dirty_log(vm, false, fault)) < 0 ||
        (r = create_devices(vm, config, fault)) < 0 ||
        (r = create_vcpus(vm, config->kvm_fd, fault)) < 0 ||
        (r = attach_backends(vm, config, fault)) < 0)
        return r;
    for (unsigned i = 0; i < config->disk_count; i++)
        (void)close(config->disks[i].fd); /* taken */
    for (unsigned i = 0; i < config->nic_count; i++) {
        for (unsigned k = 0; k < config->nics[i].queue_pairs; k++)
            (void)close(config->nics[i].fds[k]); /* taken */
    }

    *ret_vm = TAKE(vm);
    return 0;
}

struct vm *vm_free(struct vm *vm)
{
    if (!vm)
        return NULL;
    vm->brake = brake_free(vm->brake);
    gate_quit(&vm->gate);
    for (unsigned i = 0; i < vm->vcpu_count; i++) {
        if (vm->vcpus[i].run)
            vcpu_set_leave(&vm->vcpus[i], true);
        vcpu_kick(&vm->vcpus[i]);
    }
    for (unsigned i = 0; i < vm->vcpu_count; i++) {
        vcpu_join(&vm->vcpus[i]);
        vcpu_deinit(&vm->vcpus[i]);
    }
    io_loop_stop(vm->io_loop);
    virtio_bus_deinit(&vm->virtio);
    rtc_deinit(vm);
    vm->io_loop = io_loop_free(vm->io_loop);
    close_p(&vm->fd);
    vm->memory = guest_memory_free(vm->memory);
    free(vm->guest);
    (void)pthread_mutex_destroy(&vm->device_lock); /* nobody is left to hold it */
    free(vm);
    return NULL;
}

struct guest_memory *vm_memory(struct vm *vm)
{
    return vm->memory;
}

unsigned vm_vcpus(const struct vm *vm)
{
    return vm->vcpu_count;
}

int vm_boot(struct vm *vm, int kernel_fd, int initrd_fd, const char *cmdline, struct fault *fault)
{
    assert(!vm->started);
    struct boot_entry entry;
    int r = boot_load(vm->memory, vm->vcpu_count, kernel_fd, initrd_fd, cmdline, &entry, fault);
    if (r < 0)
        return r;
    int first = vm->vcpus[0].fd;
    struct kvm_sregs sregs;
    struct kvm_regs regs;
    if (ioctl(first, KVM_GET_SREGS, &sregs) < 0)
        return fault_set_errno(fault, ERR_IO, errno, "reading vCPU 0");
    boot_registers(&entry, &sregs, &regs);
    if (ioctl(first, KVM_SET_SREGS, &sregs) < 0 || ioctl(first, KVM_SET_REGS, &regs) < 0)
        return fault_set_errno(fault, ERR_IO, errno, "setting vCPU 0");
    return 0;
}

static void kick_all(struct vm *vm)
{
    for (unsigned i = 0; i < vm->vcpu_count; i++)
        vcpu_set_leave(&vm->vcpus[i], true);
    for (unsigned i = 0; i < vm->vcpu_count; i++)
        vcpu_kick(&vm->vcpus[i]);
}

int vm_start(struct vm *vm, struct fault *fault)
{
    assert(!vm->started);
    gate_close(&vm->gate);
    for (unsigned i = 0; i < vm->vcpu_count; i++) {
        int r = vcpu_start(&vm->vcpus[i], fault);
        if (r < 0)
            return r; /* vm_free ends those that started */
    }
    (void)gate_wait_parked(&vm->gate, UINT64_MAX); /* no timeout: they parked */
    vm->started = true;
    return clock_read(vm, &vm->stopped, fault);
}

bool vm_is_running(const struct vm *vm)
{
    return gate_order(&vm->gate) == GATE_OPEN;
}

/* Tried and rejected: real-time priority for kicked threads and for whoever waits for them. On two
 * busy cores it cost 50 us in the median and left the tail, some scheduler ticks, as it was. */
void vm_pause(struct vm *vm)
{
    enum gate_order order = gate_order(&vm->gate);
    if (!vm->started || order == GATE_CLOSED)
        return;

    gate_close(&vm->gate);
    do {
        kick_all(vm);
    } while (!gate_wait_parked(&vm->gate, KICK_AGAIN_NS));

    struct clock_instant stopped;
    int r = clock_read(vm, &stopped, NULL);
    assert(r == 0); /* KVM_GET_CLOCK has no way to fail */
    vm->stopped = stopped;
    /* What vCPUs began, devices finish; memory changes until they have. */
    vm->drain_late = !io_loop_pause(vm->io_loop, DRAIN_MS_MAX * NS_PER_MS);
}

void vm_wait_quiet(struct vm *vm)
{
    assert(!vm_is_running(vm));
    (void)io_loop_pause(vm->io_loop, UINT64_MAX); /* no timeout: they are quiet */
    vm->drain_late = false;
}

void vm_halt(struct vm *vm)
{
    if (!vm->started || gate_order(&vm->gate) == GATE_CLOSED)
        return;
    gate_close(&vm->gate);
    kick_all(vm);
}

int vm_resume(struct vm *vm, struct fault *fault)
{
    if (!vm->started)
        return fault_set(fault, ERR_STATE, "the VM is not started");
    if (__atomic_load_n(&vm->ended, __ATOMIC_ACQUIRE))
        return fault_set(fault, ERR_STATE, "the guest has ended and cannot run again");
    if (vm_is_running(vm))
        return 0;

    uint64_t now_ns = world_now_ns();
    uint64_t stood_ns =
        vm->time_due ? vm->paused_ns + (now_ns - vm->loaded.now_ns) : now_ns - vm->stopped.now_ns;
    vm->resume_was_long = stood_ns >= LONG_PAUSE_NS;
    vm->time_due = false;
    vm->resume_turn++;
    for (unsigned i = 0; i < vm->vcpu_count; i++)
        vcpu_set_leave(&vm->vcpus[i], false);
    io_loop_resume(vm->io_loop);
    gate_open(&vm->gate);
    return 0;
}

void vm_end(struct vm *vm, enum vm_event event, const struct fault *fault)
{
    if (__atomic_exchange_n(&vm->ended, true, __ATOMIC_ACQ_REL))
        return;
    gate_end(&vm->gate);
    kick_all(vm);
    if (vm->on_event)
        vm->on_event(vm->callback_data, event, fault);
}

uint64_t vm_tsc_in_guest_ticks(const struct vm *vm, uint64_t host_tsc)
{
    if (!vm->tsc_scaled)
        return host_tsc;
    return (uint64_t)((unsigned __int128)host_tsc * vm->tsc_khz / vm->host_tsc_khz);
}

static int scale_tsc(struct vm *vm, uint32_t tsc_khz, struct fault *fault)
{
    if (ioctl(vm->fd, KVM_CHECK_EXTENSION, KVM_CAP_TSC_CONTROL) <= 0)
        return fault_set(
            fault, ERR_CPU_COMPAT,
            "the guest's TSC runs at %u kHz, this host's at %u kHz and cannot be scaled", tsc_khz,
            vm->host_tsc_khz);
    for (unsigned i = 0; i < vm->vcpu_count; i++) {
        if (ioctl(vm->vcpus[i].fd, KVM_SET_TSC_KHZ, (unsigned long)tsc_khz) < 0)
            return fault_set_errno(fault, ERR_CPU_COMPAT, errno,
                                   "scaling the guest's TSC from %u to %u kHz", vm->host_tsc_khz,
                                   tsc_khz);
    }
    vm->tsc_scaled = true;
    return 0;
}

int vm_set_tsc_khz(struct vm *vm, uint32_t tsc_khz, struct fault *fault)
{
    if (tsc_khz == vm->tsc_khz)
        return 0;
    uint32_t host = vm->host_tsc_khz;
    uint64_t apart = tsc_khz > host ? tsc_khz - host : host - tsc_khz;
    int r = 0;
    /* Below the tolerance it is two hosts' calibrations of one frequency. */
    if (apart * 1000000 > (uint64_t)host * CLOCK_TSC_TOLERANCE_PPM)
        r = scale_tsc(vm, tsc_khz, fault);
    for (unsigned i = 0; r == 0 && i < vm->vcpu_count; i++)
        r = vcpu_tell_tsc_khz(&vm->vcpus[i], tsc_khz, fault);
    if (r == 0)
        vm->tsc_khz = tsc_khz;
    return r;
}

void vm_set_irq(struct vm *vm, unsigned irq, bool level)
{
    struct kvm_irq_level line = {.irq = irq, .level = level};
    int r = ioctl(vm->fd, KVM_IRQ_LINE, &line);
    assert(r == 0); /* an interrupt line of the chips that we created */
}

/* Backwards: from where an interrupt begins to where it ends, so that one which is on its way may
 * be saved twice but never not at all. */
static int capture_all(struct vm *vm, struct fault *fault)
{
    for (size_t i = device_table_count(); i-- > 0;) {
        const struct device *device = device_table_at(i);
        unsigned instances = machine_state_instances(device, &vm->shape);
        for (unsigned k = 0; k < instances; k++) {
            int r = device->capture(vm, k, fault);
            if (r < 0)
                return r;
        }
    }
    return 0;
}

int vm_save(struct vm *vm, uint8_t **ret_bytes, size_t *ret_count, struct fault *fault)
{
    if (!vm->started || gate_order(&vm->gate) != GATE_CLOSED)
        return fault_set(fault, ERR_STATE, "only a paused VM can be saved");
    if (__atomic_load_n(&vm->ended, __ATOMIC_ACQUIRE))
        return fault_set(fault, ERR_STATE, "the guest has ended: there is nothing to save");
    if (vm->drain_late)
        return fault_set(
            fault, ERR_TIMEOUT,
            "requests to the VM's disks did not end within %d ms: it cannot be saved now",
            DRAIN_MS_MAX);
    int r = capture_all(vm, fault);
    if (r < 0)
        return r;
    return machine_state_save(&vm->shape, vm->guest, ret_bytes, ret_count, fault);
}

int vm_load(struct vm *vm, const uint8_t *bytes, size_t count, uint64_t paused_ns,
            struct fault *fault)
{
    uint64_t begin_ns = world_now_ns();
    if (!vm->started || gate_order(&vm->gate) != GATE_CLOSED || vm->resume_turn)
        return fault_set(fault, ERR_STATE, "state is loaded into a VM that never ran");
    if (paused_ns > PAUSED_NS_MAX)
        return fault_set(fault, ERR_INVALID, "a pause of %llu s is none",
                         (unsigned long long)(paused_ns / NS_PER_S));
    int r = machine_state_load(&vm->shape, vm->guest, bytes, count, fault);
    if (r < 0)
        return r;
    if ((r = vm_set_tsc_khz(vm, vm->guest->clock.tsc_khz, fault)) < 0 ||
        (r = clock_read(vm, &vm->loaded, fault)) < 0)
        return r;
    vm->paused_ns = paused_ns + (vm->loaded.now_ns - begin_ns);
    for (size_t i = 0; i < device_table_count(); i++) { /* INV-6: all are loaded by now */
        const struct device *device = device_table_at(i);
        unsigned instances = machine_state_instances(device, &vm->shape);
        for (unsigned k = 0; k < instances; k++) {
            r = device->revive(vm, vm->guest, k, fault);
            if (r < 0)
                return r;
        }
    }
    vm->time_due = true;
    return 0;
}

bool vm_power_button(struct vm *vm)
{
    return pm_press_button(vm);
}

int vm_attach_vsock(struct vm *vm, int fd, struct fault *fault)
{
    struct virtio_device *device = virtio_bus_find(&vm->virtio, &virtio_vsock_kind, 0);
    if (!device)
        return fault_set(fault, ERR_NOT_FOUND, "the VM has no vsock");
    (void)pthread_mutex_lock(&vm->device_lock);
    int r = virtio_vsock_attach(device, fd, fault);
    (void)pthread_mutex_unlock(&vm->device_lock);
    return r;
}

int vm_connect_vsock(struct vm *vm, uint32_t port, int *ret_fd, struct fault *fault)
{
    struct virtio_device *device = virtio_bus_find(&vm->virtio, &virtio_vsock_kind, 0);
    if (!device)
        return fault_set(fault, ERR_NOT_FOUND, "the VM has no vsock");
    (void)pthread_mutex_lock(&vm->device_lock);
    int r = virtio_vsock_connect(device, port, ret_fd, fault);
    (void)pthread_mutex_unlock(&vm->device_lock);
    return r;
}

int vm_set_balloon(struct vm *vm, uint64_t bytes, struct fault *fault)
{
    struct virtio_device *device = virtio_bus_find(&vm->virtio, &virtio_balloon_kind, 0);
    if (!device)
        return fault_set(fault, ERR_NOT_FOUND, "the VM has no balloon");
    (void)pthread_mutex_lock(&vm->device_lock);
    int r = virtio_balloon_set_target(device, bytes, fault);
    (void)pthread_mutex_unlock(&vm->device_lock);
    return r;
}

bool vm_balloon_stats(struct vm *vm, bool ask, struct vm_balloon_stats *ret_stats)
{
    struct virtio_device *device = virtio_bus_find(&vm->virtio, &virtio_balloon_kind, 0);
    if (!device)
        return false;
    (void)pthread_mutex_lock(&vm->device_lock);
    virtio_balloon_stats(device, ret_stats);
    if (ask)
        virtio_balloon_ask(device);
    (void)pthread_mutex_unlock(&vm->device_lock);
    return true;
}

void vm_flush_ahead(struct vm *vm)
{
    (void)pthread_mutex_lock(&vm->device_lock);
    virtio_bus_flush_ahead(&vm->virtio);
    (void)pthread_mutex_unlock(&vm->device_lock);
}

size_t vm_serial_input(struct vm *vm, const uint8_t *bytes, size_t count)
{
    struct virtio_device *console = virtio_bus_find(&vm->virtio, &virtio_console_kind, 0);
    if (console) {
        (void)pthread_mutex_lock(&vm->device_lock);
        bool listens = virtio_console_listens(console);
        /* What came in a pause would miss a move. */
        size_t taken =
            listens && vm_is_running(vm) ? virtio_console_input(console, bytes, count) : 0;
        (void)pthread_mutex_unlock(&vm->device_lock);
        if (listens)
            return taken;
    }
    return serial_input(vm, bytes, count);
}

int vm_brake(struct vm *vm, unsigned permille, struct fault *fault)
{
    if (!vm->brake && permille > 0) {
        int r = brake_new(&vm->brake, vm, fault);
        if (r < 0)
            return r;
    }
    if (vm->brake)
        brake_set(vm->brake, permille);
    return 0;
}

uint64_t vm_held_ns(const struct vm *vm)
{
    uint64_t sum_ns = 0;
    for (unsigned i = 0; i < vm->vcpu_count; i++)
        sum_ns += __atomic_load_n(&vm->vcpus[i].held_ns, __ATOMIC_RELAXED);
    return sum_ns;
}

uint64_t vm_vcpu_cpu_ns(const struct vm *vm)
{
    uint64_t sum_ns = 0;
    for (unsigned i = 0; i < vm->vcpu_count; i++) {
        clockid_t clock;
        struct timespec time;
        if (vm->vcpus[i].started && pthread_getcpuclockid(vm->vcpus[i].thread, &clock) == 0 &&
            clock_gettime(clock, &time) == 0)
            sum_ns += (uint64_t)time.tv_sec * NS_PER_S + (uint64_t)time.tv_nsec;
    }
    return sum_ns;
}

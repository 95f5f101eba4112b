/* What an agent opens, in and out: the order that makes the VM and brings it all, the disks and nics of one that
 * moved here, and what is lent to a fresh process of this host. */
#include "agent/vm/machine_inside.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/vm/backend_set.h"
#include "agent/vm/boot_files.h"
#include "agent/vm/console.h"
#include "agent/vm/guest_port.h"
#include "agent/vm/latch_file.h"
#include "base/err.h"
#include "base/failpoint.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/own.h"
#include "proto/limits.h"
#include "vmm-core/guest_memory.h"
#include "vmm-core/vm.h"

/* ---- create ---- */
Godwit__VmSpec *machine_create_spec_copy(const Godwit__VmSpec *spec)
{
    size_t count = godwit__vm_spec__get_packed_size(spec);
    AUTO_FREE uint8_t *bytes = malloc(count ? count : 1);
    if (!bytes)
        return NULL;
    (void)godwit__vm_spec__pack(spec, bytes);
    return godwit__vm_spec__unpack(NULL, count, bytes);
}

static Godwit__Stamp *stamp_copy(const Godwit__Stamp *stamp)
{
    uint8_t bytes[256];
    size_t count = godwit__stamp__get_packed_size(stamp);

    if (count > sizeof bytes)
        return NULL; /* no stamp has so long words: the agent refuses it as a mismatch */
    (void)godwit__stamp__pack(stamp, bytes);
    return godwit__stamp__unpack(NULL, count, bytes);
}

static int check_create(const struct machine *machine, const Godwit__VmCreate *order,
                        const struct machine_fds *fds, struct fault *fault)
{
    const Godwit__VmSpec *spec = order->spec;

    if (!order->vm_id || strcmp(order->vm_id, machine->config.vm_id) != 0)
        return fault_set(fault, ERR_INVALID, "this process is of VM %s", machine->config.vm_id);
    if (!spec || !spec->name || !spec->cpu || !spec->cpu->baseline || !spec->memory)
        return fault_set(fault, ERR_INVALID, "a VM needs a name, cpu and memory");
    if (spec->cpu->vcpus < 1 || spec->cpu->vcpus > VCPUS_MAX)
        return fault_set(fault, ERR_LIMIT, "%s: %u vCPUs, a VM has 1 to %d", spec->name,
                         spec->cpu->vcpus, VCPUS_MAX);
    if (spec->memory->size < VM_MEMORY_MIN || spec->memory->size > VM_MEMORY_MAX)
        return fault_set(fault, ERR_LIMIT, "%s: %llu bytes of memory, a VM has 16 MiB to 64 GiB",
                         spec->name, (unsigned long long)spec->memory->size);
    if (!order->incoming && !order->generation)
        return fault_set(fault, ERR_INVALID, "%s: a start needs a generation", spec->name);
    if (order->in_place && (!order->incoming || fds->memory < 0))
        return fault_set(fault, ERR_INVALID, "%s: no guest's memory to take over", spec->name);
    bool boots = !order->incoming && !order->suspend_nonce;
    if (fds->kvm < 0 || fds->console < 0 || fds->latch < 0 || (boots && fds->kernel < 0) ||
        (order->suspend_nonce && (order->incoming || fds->file < 0)))
        return fault_set(fault, ERR_INVALID, "%s: descriptors are missing", spec->name);
    return 0;
}

static bool is_same_create(struct machine *machine, const Godwit__VmCreate *order)
{
    return order->vm_id && strcmp(order->vm_id, machine->config.vm_id) == 0 && !order->incoming &&
           order->generation && order->generation == machine_record(machine).generation;
}

int machine_create(struct machine *machine, const Godwit__VmCreate *order, struct machine_fds *fds,
                   struct fault *fault)
{
    if (machine->state != GODWIT__VM_STATE__VM_STATE_NONE) {
        if (is_same_create(machine, order))
            return 0;
        return fault_set(fault, ERR_EXISTS, "%s: this process has its VM already",
                         machine->config.name);
    }
    int r = check_create(machine, order, fds, fault);
    if (r == 0)
        r = failpoint_check(FAILPOINT_VM_CREATE, fault);
    if (r < 0)
        return r;
    Godwit__VmSpec *spec = machine_create_spec_copy(order->spec);
    if (!spec)
        return fault_set(fault, ERR_NOMEM, "no memory for the VM's spec");
    if (machine->spec)
        godwit__vm_spec__free_unpacked(machine->spec, NULL);
    machine->spec = spec;
    (void)snprintf(machine->host, sizeof machine->host, "%s", order->host ? order->host : "");

    r = backend_set_init(&machine->backends, spec, order->disk_bytes, order->n_disk_bytes, fault);
    if (r == 0 && !order->incoming && !backend_set_is_empty(&machine->backends))
        r = backend_set_fill(&machine->backends, order->backends, order->n_backends, fds->all,
                             fds->count, fault);
    if (r < 0)
        return r;
    if (order->expected_stamp)
        machine->expected_stamp = stamp_copy(order->expected_stamp);
    if (!machine->boot_files) {
        r = boot_files_new(&machine->boot_files, fds->kernel, fds->initrd, fault);
        if (r < 0)
            return r;
        fds->kernel = fds->initrd = -1;
    }
    if (!machine->latch_file) {
        r = latch_file_open(&machine->latch_file, fds->latch, fault);
        if (r < 0)
            return r;
        fds->latch = -1;
        console_set_log(machine->console, TAKE_FD(fds->console));
        machine->fds.kvm = TAKE_FD(fds->kvm);
    }
    machine->paused = order->start_paused;
    machine->moved_in = order->incoming;
    machine->in_place = order->in_place;
    if (order->incoming) {
        r = machine_build(machine, order->in_place ? fds->memory : -1, fault);
        if (r == 0)
            r = vm_start(machine->vm, fault);
        if (r == 0)
            guest_port_set_in_place(machine->port, machine->in_place);
    } else if (order->suspend_nonce) {
        r = machine_rest_restore(machine, order, &fds->file, fault);
    } else {
        machine_record_set_generation(machine, order->generation); /* written before it runs */
        r = machine_boot(machine, fault);
    }
    if (r < 0) {
        machine_unbuild(machine);
        machine_record_set_generation(machine, 0);
        return fault_wrap(fault, r, "creating %s", spec->name);
    }
    if (order->incoming)
        loop_timer_start(machine->over_timer, MACHINE_CREATE_WAIT_MS, 0);
    else
        loop_timer_stop(machine->over_timer);
    machine_set_state(machine,
                      order->incoming || machine->rest ? GODWIT__VM_STATE__VM_STATE_INCOMING
                      : machine->paused                ? GODWIT__VM_STATE__VM_STATE_PAUSED
                                                       : GODWIT__VM_STATE__VM_STATE_RUNNING,
                      "%s", "");
    return 0;
}

/* ---- disks and nics of a VM that has moved here ---- */
int machine_attach(struct machine *machine, const Godwit__VmAttach *order, int *fds, size_t count,
                   struct fault *fault)
{
    if (!order->vm_id || strcmp(order->vm_id, machine->config.vm_id) != 0)
        return fault_set(fault, ERR_INVALID, "this process is of VM %s", machine->config.vm_id);
    if (!machine->vm || !machine_record(machine).generation)
        return fault_set(fault, ERR_STATE, "%s has not taken its guest", machine->config.name);
    if (!machine->backends.is_full) {
        int r = backend_set_fill(&machine->backends, order->backends, order->n_backends, fds, count,
                                 fault);
        if (r < 0)
            return r;
    }
    int r = backend_set_attach(&machine->backends, machine->vm, fault);
    if (r < 0) {
        machine->backends.is_full = false; /* wanted still */
        return r;
    }
    machine->seq++;
    log_info("machine", "attached disks=%u nics=%u vm=%s", machine->backends.disk_count,
             machine->backends.nic_count, machine->config.vm_id);
    machine->config.on_state(machine->config.data);
    return 0;
}

/* ---- to a fresh process of this host ---- */
static void lend_backends(struct machine *machine, struct machine_lent *lent)
{
    const struct backend_set *set = &machine->backends;

    for (unsigned i = 0; i < set->disk_count + set->nic_count; i++) {
        Godwit__VmBackend *backend = &lent->backends[i];
        godwit__vm_backend__init(backend);
        bool is_nic = i >= set->disk_count;
        unsigned index = is_nic ? i - set->disk_count : i;
        unsigned count = is_nic ? set->nic_taps[index] : 1;
        const int *from = is_nic ? set->nic_fds[index] : &set->disk_fds[index];
        backend->has_is_nic = backend->has_index = true;
        backend->is_nic = is_nic;
        backend->index = index;
        backend->has_fd_first = backend->has_fd_count = true;
        backend->fd_first = (uint32_t)lent->fd_count;
        backend->fd_count = count;
        for (unsigned n = 0; n < count; n++)
            lent->fds[lent->fd_count++] = from[n];
        lent->list[i] = backend;
    }
    lent->message.backends = lent->list;
    lent->message.n_backends = set->disk_count + set->nic_count;
}

static_assert(MACHINE_LENT_BACKENDS_MAX >= DISKS_MAX + 1 + NICS_MAX, "every disk and nic");
static_assert(3 + DISKS_MAX + 1 + NIC_QUEUES_ALL_MAX <= RPC_FDS_MAX, "all that is lent");

int machine_lend(struct machine *machine, struct machine_lent *ret_lent, struct fault *fault)
{
    struct machine_lent *lent = ret_lent;
    int kernel_fd = -1, initrd_fd = -1;

    int r = machine_hand_check_is_whole(machine, "be upgraded", fault);
    if (r < 0)
        return r;
    r = boot_files_get(machine->boot_files, &kernel_fd, &initrd_fd, fault);
    if (r < 0 && r != ERR_NOT_FOUND) /* it came by a move that brought none */
        return r;
    *lent = (struct machine_lent){.message = GODWIT__VM_LENT__INIT};
    lent->message.vm_id = (char *)(uintptr_t)machine->config.vm_id; /* protobuf-c knows no const */
    lent->fds[lent->fd_count++] = guest_memory_fd(vm_memory(machine->vm));
    lent->message.has_has_kernel_fd = lent->message.has_has_initrd_fd = true;
    lent->message.has_kernel_fd = kernel_fd >= 0;
    lent->message.has_initrd_fd = initrd_fd >= 0;
    if (kernel_fd >= 0)
        lent->fds[lent->fd_count++] = kernel_fd;
    if (initrd_fd >= 0)
        lent->fds[lent->fd_count++] = initrd_fd;
    lend_backends(machine, lent);
    lent->message.disk_bytes = machine->backends.disk_bytes;
    lent->message.n_disk_bytes = machine->backends.disk_count;
    return 0;
}

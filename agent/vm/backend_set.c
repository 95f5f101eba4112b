#include "agent/vm/backend_set.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/own.h"
#include "proto/vm_spec.h"

enum { VSOCK_CID_FIRST = 3 };

static_assert((int)DISKS_MAX + 1 <= (int)VM_DISKS_MAX, "the machine has room");
static_assert((int)NICS_MAX <= (int)VM_NICS_MAX, "the machine has room");
static_assert((int)NIC_QUEUES_MAX <= (int)VM_NIC_QUEUE_PAIRS_MAX, "the machine has room");
static_assert((int)DISK_SERIAL_MAX <= (int)VM_DISK_SERIAL_MAX, "the machine has room");

static const char *serial_of(const Godwit__VmSpec *spec, unsigned index)
{
    if (index == spec->n_disks)
        return "cidata";
    const Godwit__DiskSpec *disk = spec->disks[index];
    return disk->serial && disk->serial[0] ? disk->serial : disk->name;
}

int backend_set_init(struct backend_set *set, const Godwit__VmSpec *spec,
                     const uint64_t *disk_bytes, size_t disk_count, struct fault *fault)
{
    struct fault reason = {0};

    if (vm_spec_judge(spec, &reason) < 0)
        return fault_set(fault, ERR_INVALID, "%s: %s", spec->name, reason.text);
    if (disk_count != vm_spec_disk_count(spec))
        return fault_set(fault, ERR_INVALID, "%s: sizes of %zu disks, it has %u", spec->name,
                         disk_count, vm_spec_disk_count(spec));
    *set = (struct backend_set){.disk_count = (unsigned)disk_count,
                                .nic_count = (unsigned)spec->n_nics};
    for (unsigned i = 0; i < DISKS_MAX + 1; i++) {
        set->disk_fds[i] = -1;
        if (i >= disk_count)
            continue;
        set->disk_bytes[i] = disk_bytes[i];
        (void)snprintf(set->serials[i], sizeof set->serials[i], "%.*s", DISK_SERIAL_MAX,
                       serial_of(spec, i));
        if (disk_bytes[i] == 0 || disk_bytes[i] % 512 != 0)
            return fault_set(fault, ERR_INVALID, "%s: disk %u has no size", spec->name, i);
    }
    for (unsigned i = 0; i < NICS_MAX; i++) {
        for (unsigned n = 0; n < NIC_QUEUES_MAX; n++)
            set->nic_fds[i][n] = -1;
        if (i >= set->nic_count)
            continue;
        set->nic_queues[i] = vm_spec_nic_queues(spec->nics[i]);
        set->nic_taps[i] = vm_spec_nic_taps(spec->nics[i]);
    }
    return 0;
}

void backend_set_deinit(struct backend_set *set)
{
    for (unsigned i = 0; i < set->disk_count; i++)
        close_p(&set->disk_fds[i]);
    for (unsigned i = 0; i < set->nic_count; i++) {
        for (unsigned n = 0; n < set->nic_queues[i]; n++)
            close_p(&set->nic_fds[i][n]);
    }
    *set = (struct backend_set){0};
}

bool backend_set_is_empty(const struct backend_set *set)
{
    return set->disk_count == 0 && set->nic_count == 0;
}

/* Where the descriptors of this backend go; NULL: it has no such device, or not so many. */
static int *find_place(struct backend_set *set, const Godwit__VmBackend *backend)
{
    if (!backend->is_nic)
        return backend->index < set->disk_count && backend->fd_count == 1
                   ? &set->disk_fds[backend->index]
                   : NULL;
    return backend->index < set->nic_count && backend->fd_count == set->nic_taps[backend->index]
               ? set->nic_fds[backend->index]
               : NULL;
}

int backend_set_fill(struct backend_set *set, Godwit__VmBackend *const *backends, size_t count,
                     int *fds, size_t fd_count, struct fault *fault)
{
    bool seen[DISKS_MAX + 1 + NICS_MAX] = {false};

    if (count != set->disk_count + set->nic_count)
        return fault_set(fault, ERR_INVALID, "%zu disks and nics, the VM has %u", count,
                         set->disk_count + set->nic_count);
    for (size_t i = 0; i < count; i++) { /* judged whole, then taken whole */
        const Godwit__VmBackend *backend = backends[i];
        bool fits = find_place(set, backend) && backend->fd_first <= fd_count &&
                    backend->fd_count <= fd_count - backend->fd_first;
        size_t number = backend->index + (backend->is_nic ? DISKS_MAX + 1 : 0);
        if (!fits || seen[number])
            return fault_set(fault, ERR_INVALID, "%s %u: descriptors that do not fit",
                             backend->is_nic ? "nic" : "disk", backend->index);
        seen[number] = true;
        for (size_t n = 0; n < backend->fd_count; n++) {
            if (fds[backend->fd_first + n] < 0)
                return fault_set(fault, ERR_INVALID, "%s %u: its descriptor is missing",
                                 backend->is_nic ? "nic" : "disk", backend->index);
        }
    }
    for (size_t i = 0; i < count; i++) {
        int *place = find_place(set, backends[i]);
        for (size_t n = 0; n < backends[i]->fd_count; n++) {
            close_p(&place[n]);
            place[n] = TAKE_FD(fds[backends[i]->fd_first + n]);
        }
    }
    set->is_full = true;
    return 0;
}

/* ---- to the machine ---- */
static int copy_fd(int fd, int *ret_fd, struct fault *fault)
{
    if (fd < 0)
        return 0;
    *ret_fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (*ret_fd < 0)
        return fault_set_errno(fault, err_from_errno(errno), errno, "copying a descriptor");
    return 0;
}

void backend_set_close_copies(struct vm_disk_config *disks, unsigned disk_count,
                              struct vm_nic_config *nics, unsigned nic_count)
{
    for (unsigned i = 0; i < disk_count; i++)
        close_p(&disks[i].fd);
    for (unsigned i = 0; i < nic_count; i++) {
        for (unsigned n = 0; n < nics[i].queue_pairs; n++)
            close_p(&nics[i].fds[n]);
    }
}

int backend_set_config(const struct backend_set *set, const Godwit__VmSpec *spec,
                       struct vm_disk_config *ret_disks, struct vm_nic_config *ret_nics,
                       struct vm_config *config, struct fault *fault)
{
    int r = 0;

    for (unsigned i = 0; i < set->disk_count; i++) {
        ret_disks[i] = (struct vm_disk_config){
            .fd = -1,
            .bytes = set->disk_bytes[i],
            .read_only = i == spec->n_disks || spec->disks[i]->read_only,
            .serial = set->serials[i],
            .waits_on_error = i < spec->n_disks && vm_spec_disk_waits(spec->disks[i]),
        };
        if (r == 0)
            r = copy_fd(set->disk_fds[i], &ret_disks[i].fd, fault);
    }
    for (unsigned i = 0; i < set->nic_count; i++) {
        struct vm_nic_config *nic = &ret_nics[i];
        *nic = (struct vm_nic_config){.queue_pairs = set->nic_queues[i],
                                      .mtu = (uint16_t)spec->nics[i]->mtu,
                                      .unplugged = set->nic_taps[i] == 0};
        for (unsigned n = 0; n < VM_NIC_QUEUE_PAIRS_MAX; n++)
            nic->fds[n] = -1;
        for (unsigned n = 0; r == 0 && n < set->nic_queues[i]; n++)
            r = copy_fd(set->nic_fds[i][n], &nic->fds[n], fault);
        if (r == 0 && (!spec->nics[i]->mac || !vm_spec_mac_parse(spec->nics[i]->mac, nic->mac)))
            r = fault_set(fault, ERR_INVALID, "nic %u has no address", i);
    }
    config->console = spec->console && strcmp(spec->console, "virtio") == 0;
    config->rng = spec->rng;
    config->balloon = spec->balloon;
    if (spec->vsock)
        config->vsock_cid = spec->vsock->cid ? spec->vsock->cid : VSOCK_CID_FIRST;
    config->disks = ret_disks;
    config->disk_count = set->disk_count;
    config->nics = ret_nics;
    config->nic_count = set->nic_count;
    if (r < 0)
        backend_set_close_copies(ret_disks, set->disk_count, ret_nics, set->nic_count);
    return r;
}

static int attach_nic(const struct backend_set *set, unsigned index, struct vm *vm,
                      struct fault *fault)
{
    int fds[NIC_QUEUES_MAX];
    int r = 0;

    for (unsigned n = 0; n < NIC_QUEUES_MAX; n++)
        fds[n] = -1;
    for (unsigned n = 0; r == 0 && n < set->nic_queues[index]; n++)
        r = copy_fd(set->nic_fds[index][n], &fds[n], fault);
    if (r == 0)
        r = vm_attach_nic(vm, index, fds, set->nic_queues[index], fault);
    for (unsigned n = 0; r < 0 && n < set->nic_queues[index]; n++)
        close_p(&fds[n]);
    return r < 0 ? fault_wrap(fault, r, "attaching nic %u", index) : 0;
}

int backend_set_attach(struct backend_set *set, struct vm *vm, struct fault *fault)
{
    int r = 0;

    while (r == 0 && set->disks_attached < set->disk_count) {
        AUTO_FD int fd = -1;
        r = copy_fd(set->disk_fds[set->disks_attached], &fd, fault);
        if (r == 0)
            r = vm_attach_disk(vm, set->disks_attached, fd, fault);
        if (r < 0)
            return fault_wrap(fault, r, "attaching disk %u", set->disks_attached);
        (void)TAKE_FD(fd);
        set->disks_attached++;
    }
    while (r == 0 && set->nics_attached < set->nic_count) {
        if (set->nic_taps[set->nics_attached] > 0)
            r = attach_nic(set, set->nics_attached, vm, fault);
        set->nics_attached += r == 0;
    }
    return r;
}

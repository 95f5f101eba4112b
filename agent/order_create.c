#include "agent/order_create.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "agent/attach.h"
#include "agent/boot_reader.h"
#include "agent/host_facts.h"
#include "agent/order_step.h"
#include "agent/snapshot_folder.h"
#include "agent/snapshots.h"
#include "agent/start_mark.h"
#include "agent/suspend.h"
#include "agent/vm/latch_file.h"
#include "agent/vm_process.h"
#include "base/config.h"
#include "base/loop.h"
#include "base/own.h"
#include "proto/limits.h"
#include "proto/method.h"
#include "proto/vm_spec.h"

enum {
    CREATE_MS_MAX = 30000, /* a large kernel and initrd are read in it */
    FILE_MS_A_GIB = 30000, /* and a guest's file */
};

/* The file that this start goes on from; NULL: it boots. */
const char *order_create_nonce(const struct step *step)
{
    if (step->order->descriptor != &godwit__order_vm_start__descriptor)
        return NULL;
    if (step->snapshot) /* one of disks alone boots */
        return step->snapshot->with_memory ? step->snapshot->id : NULL;
    const char *nonce = ((const Godwit__OrderVmStart *)step->order)->suspend_nonce;
    return nonce && *nonce ? nonce : NULL;
}

static bool is_lazy(const struct step *step)
{
    return order_create_nonce(step) && ((const Godwit__OrderVmStart *)step->order)->lazy;
}

/* Exactly the one that was meant, and nobody has gone on from it. In the kernel's place: it brings
 * its own. */
static int open_file(struct step *step, struct vm_entry *entry, struct fault *fault)
{
    char path[VM_PATH_SIZE];

    if (step->snapshot) {
        step->file_generation = step->snapshot->generation;
        return snapshot_folder_open_memory(snapshots_root(step->orders->snapshots),
                                           step->snapshot->id, &step->fds[FD_KERNEL], fault);
    }
    if (!vm_entry_find_file(entry, order_create_nonce(step), &step->file_generation))
        return fault_set(fault, ERR_NOT_FOUND, "there is no file here that it could go on from");
    int r = vm_entry_state_path(entry, "suspended", path, fault);
    if (r < 0)
        return r;
    step->fds[FD_KERNEL] = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    return step->fds[FD_KERNEL] < 0
               ? fault_set_errno(fault, err_from_errno(errno), errno, "opening %s", path)
               : 0;
}

/* They may lie on a store, which may hang: opened on a worker. Those of a disk are read when that is open. */
static int open_boot_files(struct step *step, const Godwit__VmSpec *spec, struct fault *fault)
{
    if (!spec->kernel || !*spec->kernel)
        return fault_set(fault, ERR_INVALID, "%s has no kernel", spec->name);
    step->fds[FD_KERNEL] = open(spec->kernel, O_RDONLY | O_CLOEXEC);
    if (step->fds[FD_KERNEL] < 0)
        return fault_set_errno(fault, err_from_errno(errno), errno, "opening the kernel %s",
                               spec->kernel);
    if (spec->initrd && *spec->initrd) {
        step->fds[FD_INITRD] = open(spec->initrd, O_RDONLY | O_CLOEXEC);
        if (step->fds[FD_INITRD] < 0)
            return fault_set_errno(fault, err_from_errno(errno), errno, "opening the initrd %s",
                                   spec->initrd);
    }
    return 0;
}

/* This agent's own: all that lies in its folders. */
static int open_files(struct step *step, struct vm_entry *entry, const Godwit__VmSpec *spec,
                      struct fault *fault)
{
    char path[VM_PATH_SIZE];

    int r = host_facts_check(step->orders->facts, spec, &step->fds[FD_KVM], fault);
    if (r == 0)
        r = vm_entry_state_path(entry, "console.log", path, fault);
    if (r < 0)
        return r;
    step->fds[FD_CONSOLE] =
        open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (step->fds[FD_CONSOLE] < 0)
        return fault_set_errno(fault, err_from_errno(errno), errno, "opening %s", path);
    r = vm_entry_run_path(entry, "latch", path, fault);
    if (r == 0)
        r = latch_file_create(path, &step->fds[FD_LATCH], fault);
    return r == 0 && order_create_nonce(step) ? open_file(step, entry, fault) : r;
}

static const Godwit__VmSpec *step_spec(const struct step *step)
{
    const ProtobufCMessageDescriptor *type = step->order->descriptor;

    if (type == &godwit__move_in__descriptor)
        return ((const Godwit__MoveIn *)step->order)->spec;
    assert(type == &godwit__order_vm_start__descriptor);
    return ((const Godwit__OrderVmStart *)step->order)->spec;
}

static struct backends_ask step_ask(const struct step *step)
{
    return (struct backends_ask){
        .spec = step_spec(step),
        .vm_id = step->vm_id,
        .host = host_facts_name(step->orders->facts),
        .expected = step->expected,
        .wanted = step->wanted,
    };
}

/* Kernel and initrd of the first disk, and its own command line before what the spec adds. */
static int read_boot(struct step *step, struct fault *fault)
{
    Godwit__VmSpec *spec = ((Godwit__OrderVmStart *)step->order)->spec;
    char options[BOOT_READER_OPTIONS_SIZE], whole[CMDLINE_MAX + 1];
    AUTO_FD int disk_fd = -1;

    int r = backends_open_boot(spec, &disk_fd, fault);
    if (r == 0)
        r = boot_reader_run(step->orders->boot_reader, disk_fd, &step->fds[FD_KERNEL],
                            &step->fds[FD_INITRD], options, fault);
    if (r < 0)
        return fault_wrap(fault, r, "%s cannot boot from its disk %s", spec->name,
                          spec->disks[0]->name);
    const char *more = spec->cmdline ? spec->cmdline : "";
    r = path_join(whole, sizeof whole, fault, "%s%s%s", options, *more ? " " : "", more);
    char *copy = r == 0 ? strdup(whole) : NULL;
    if (!copy)
        return r < 0 ? r : fault_set(fault, ERR_NOMEM, "no memory for a command line");
    if (spec->cmdline && spec->cmdline != protobuf_c_empty_string)
        free(spec->cmdline);
    spec->cmdline = copy;
    return 0;
}

/* A restore that was begun is the only way for its VM to start. */
static int may_start(const struct step *step, struct fault *fault)
{
    const struct snapshots *snapshots = step->orders->snapshots;
    const char *id = step->snapshot ? step->snapshot->id : NULL;

    return snapshots && !step->incoming ? snapshot_folder_may_start(snapshots_root(snapshots),
                                                                    step->vm_id, id, fault)
                                        : 0;
}

static void backends_work(void *data)
{
    struct step *step = data;
    struct backends_ask ask = step_ask(step);

    bool boots = !step->incoming && !order_create_nonce(step);
    bool boots_from_disk = vm_spec_boots_from_disk(step_spec(step));

    step->result = may_start(step, &step->fault);
    if (step->result == 0 && boots && !boots_from_disk)
        step->result = open_boot_files(step, step_spec(step), &step->fault);
    if (step->result < 0)
        return;

    if (step->incoming) {
        const Godwit__MoveIn *order = (const Godwit__MoveIn *)step->order;
        ask.with_local_disks = order->with_local_disks;
        ask.landing_bytes = order->disk_bytes;
    }

    step->result = step->incoming ? backends_check(&ask, &step->backends, &step->fault)
                                  : backends_start(&ask, &step->backends, &step->fault);
    if (step->result == BACKENDS_E_LOST)
        step->result = ERR_REFUSED;
    if (step->result == 0 && step->snapshot && !step->is_clone) /* they are ours to write now */
        step->result = snapshot_folder_restore(snapshots_root(step->orders->snapshots),
                                               step->snapshot, step_spec(step), &step->fault);
    if (step->result == 0 && boots && boots_from_disk)
        step->result = read_boot(step, &step->fault);
}

/* VM_CREATE, with all descriptors. */
static int send_create(struct step *step, struct vm_entry *entry, struct fault *fault)
{
    Godwit__VmCreate order = GODWIT__VM_CREATE__INIT;
    Godwit__VmBackend backends[ATTACH_BACKENDS_MAX];
    Godwit__VmBackend *list[ATTACH_BACKENDS_MAX];
    Godwit__Stamp expected;
    int fds[FD_COUNT + BACKENDS_FDS_MAX];
    size_t count = 0;

    while (count < FD_COUNT && step->fds[count] >= 0) {
        fds[count] = step->fds[count];
        count++;
    }
    order.vm_id = entry->id;
    order.spec = (Godwit__VmSpec *)(uintptr_t)step_spec(step); /* protobuf-c knows no const */
    order.host = (char *)(uintptr_t)host_facts_name(step->orders->facts);
    order.has_generation = true;
    order.generation = step->incoming ? 0 : step->generation;
    order.has_incoming = true;
    order.incoming = step->incoming;
    order.has_start_paused = true;
    order.start_paused = step->start_paused;
    order.has_only_running = true;
    order.only_running = step->only_running;
    order.disk_bytes = step->backends.disk_bytes;
    order.n_disk_bytes = step->backends.disk_count;
    if (step->expected.generation) {
        attach_stamp_write(&step->expected, &expected);
        order.expected_stamp = &expected;
    }
    order.has_may_run = true;
    order.may_run = step->may_run;
    order.has_ran_here = true;
    order.ran_here = step->ran_here;
    order.suspend_nonce = (char *)(uintptr_t)order_create_nonce(step); /* protobuf-c knows no const */
    order.has_is_snapshot = true;
    order.is_snapshot = step->snapshot != NULL;
    if (step->is_clone)
        order.file_vm_id = step->snapshot->vm_id;
    if (step->snapshot && step->snapshot->is_libvirt)
        order.domain_snapshot = step->snapshot->libvirt_name;
    order.has_lazy = true;
    order.lazy = is_lazy(step);
    order.has_suspend_generation = true;
    order.suspend_generation = step->file_generation;
    uint64_t gib = order_create_nonce(step) ? 1 + (step_spec(step)->memory->size >> 30) : 0;
    uint64_t within_ms = CREATE_MS_MAX + gib * FILE_MS_A_GIB;
    if (!step->incoming && vm_spec_is_libvirt(step_spec(step)))
        within_ms = 0; /* libvirt may be at it for as long as it likes, and nobody else may start it meanwhile */
    if (!step->incoming) {
        order.backends = list;
        order.n_backends =
            attach_list(step_spec(step), &step->backends, (unsigned)count, backends, list);
        memcpy(fds + count, step->backends.fds, step->backends.fd_count * sizeof fds[0]);
        count += step->backends.fd_count;
    }
    int r = rpc_call_fds(vm_process_rpc(entry->process), METHOD_VM_CREATE, &order.base, fds, count,
                         &godwit__vm_status__descriptor, within_ms, step->created, step, fault);
    for (size_t i = 0; r == 0 && i < FD_COUNT; i++) {
        close_p(&step->fds[i]); /* the kernel has its own */
        step->fds[i] = -1;
    }
    if (r == 0 && !step->incoming) /* what landed follows with MOVE_IN */
        backends_close(&step->backends);
    return r;
}

static void backends_done(void *data)
{
    struct step *step = data;
    struct vm_entry *entry = vm_table_find(step->orders->table, step->vm_id);
    struct fault fault = step->fault;

    step->orders->workers--;
    if (step->orders->stopped) {
        order_step_free(step);
        return;
    }
    int r = entry ? step->result : fault_set(&fault, ERR_NOT_FOUND, "VM %s is gone", step->vm_id);
    if (r == 0 && entry->start_ends)
        r = fault_set(&fault, ERR_REFUSED, "it was stopped while it was being started");
    if (r == 0)
        r = vm_entry_spawn(entry, step_spec(step)->name, &fault);
    if (r == 0 && !vm_entry_set_spec(entry, step_spec(step)))
        r = fault_set(&fault, ERR_NOMEM, "no memory for the VM's spec");
    if (r == 0)
        r = send_create(step, entry, &fault);
    if (r < 0)
        step->created(step, NULL, &fault);
}

/* libvirt's: no files of ours, no process; what speaks for it takes the same order. */
static int create_domain(struct step *step, struct vm_entry *entry, struct fault *fault)
{
    int r = 0;

    if (!step->incoming) {
        step->may_run = start_mark_generation(entry) == step->generation;
        step->ran_here = entry->status->has_state && entry->status->generation + 1 == step->generation;
        r = start_mark_keep(entry, step_spec(step), step->generation, fault);
    } else {
        start_mark_drop(entry);
    }
    if (r == 0)
        r = vm_entry_open(entry, step_spec(step)->name, fault);
    if (r == 0 && !vm_entry_set_spec(entry, step_spec(step)))
        r = fault_set(fault, ERR_NOMEM, "no memory for the VM's spec");
    return r < 0 ? r : send_create(step, entry, fault);
}

/* Files, disks and nics; then a process; then VM_CREATE, and `created` comes with its answer. Once
 * this returned 0 the step is its. */
int order_create(struct step *step, struct vm_entry *entry, rpc_done_fn *created,
                 struct fault *fault)
{
    entry->starting = true;
    entry->starting_generation = step->generation;
    entry->starting_from_file = order_create_nonce(step) != NULL;
    entry->starting_moves_in = step->incoming;
    entry->starting_runs = !step->incoming && !vm_spec_is_libvirt(step_spec(step));
    step->created = created;
    if (vm_spec_is_libvirt(step_spec(step)))
        return create_domain(step, entry, fault);
    host_facts_stamp(step->orders->facts, step->generation, &step->wanted);
    int r = vm_entry_begin(entry, fault);
    /* It boots, or comes from elsewhere: what rests here is old. */
    if (r == 0 && (!order_create_nonce(step) || step->snapshot))
        r = vm_entry_drop_file(entry, fault);
    if (r == 0)
        r = open_files(step, entry, step_spec(step), fault);
    if (r < 0)
        return r;
    step->orders->workers++;
    r = loop_work(step->orders->loop, backends_work, backends_done, step);
    if (r < 0) {
        step->orders->workers--;
        return fault_set(fault, r, "no worker to open disks");
    }
    return 0;
}

/* Orders that take several steps carry a `struct step`: whose VM, whose request, which files.
 * Between the steps the VM may have gone from the table, so each step looks it up again. */
#include "agent/orders.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/agent_link.h"
#include "agent/attach.h"
#include "agent/backends.h"
#include "agent/boot_reader.h"
#include "agent/console_order.h"
#include "agent/disk_order.h"
#include "agent/domains.h"
#include "agent/held_orders.h"
#include "agent/host_facts.h"
#include "agent/images.h"
#include "agent/move_sockets.h"
#include "agent/peers.h"
#include "agent/protects.h"
#include "agent/quarantine.h"
#include "agent/redial.h"
#include "agent/snapshot_folder.h"
#include "agent/snapshots.h"
#include "agent/standby_twin.h"
#include "agent/standbys.h"
#include "agent/start_mark.h"
#include "agent/store_beat.h"
#include "agent/store_look.h"
#include "agent/store_question.h"
#include "agent/suspend.h"
#include "agent/upgrade.h"
#include "agent/vm/latch_file.h"
#include "agent/vm_process.h"
#include "agent/vm_table.h"
#include "agent/vm_word.h"
#include "base/config.h"
#include "base/err.h"
#include "base/id.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/own.h"
#include "net/rpc.h"
#include "net/tls_lane.h"
#include "proto/agent.pb-c.h"
#include "proto/limits.h"
#include "proto/method.h"
#include "proto/vm_spec.h"

enum {
    CREATE_MS_MAX = 30000, /* a large kernel and initrd are read in it */
    FILE_MS_A_GIB = 30000, /* and a guest's file */
    CALL_MS_MAX = 5000,
    SAMPLE_MS_MAX = 10000, /* a second, and a busy host */
    QUIT_MS_MAX = 3000,
    END_MS_MAX = 3000, /* from the end of its connection to its own */
};

struct orders {
    struct loop *loop;
    struct vm_table *table;
    struct host_facts *facts;
    const char *boot_reader; /* the program */
    struct store_questions questions;
    struct disk_orders disks;
    struct standby_twins twins;
    unsigned workers; /* that hold a step */
    bool stopped;
    struct peers *peers;
    struct store_beat *beat;
    struct quarantine *quarantine;
    struct domains *domains;
    struct upgrades *upgrades;
    struct suspends *suspends;
    struct images *images;
    struct snapshots *snapshots;
    struct protects *protects;
    struct standbys *standbys;
    struct held_orders held; /* MOVE_INs, STARTs and seals that wait for what a VM's last process comes to */
    struct step *failed; /* STARTs whose process is being ended: did it run? */
};

enum { FD_KVM, FD_CONSOLE, FD_LATCH, FD_KERNEL, FD_INITRD, FD_COUNT };

struct step {
    struct orders *orders;
    char vm_id[VM_ID_SIZE];
    struct rpc_request *request; /* NULL: those that wait are in the entry */
    ProtobufCMessage *order;     /* owned copy */
    uint64_t generation;
    int fds[FD_COUNT];
    int listen_fd;
    /* logs */
    char path[VM_PATH_SIZE];
    uint64_t tail_bytes;
    uint8_t *bytes;
    size_t count;
    struct fault fault;
    /* disks and nics, on a worker */
    struct backends backends;
    struct stamp expected, wanted;
    int result;
    bool incoming, start_paused, only_running;
    bool may_run; /* an agent before us had libvirt start this very generation */
    rpc_done_fn *created;
    uint64_t file_generation; /* of a start that goes on from a file */
    Godwit__SnapshotInfo *snapshot; /* owned; of a start that restores it; NULL: none */
    bool is_clone; /* it is another VM's: its disks are cloned before, its memory goes on here too */
    struct step *next_failed; /* of orders.failed */
};

static struct orders *orders_of(void *data)
{
    return agent_link_data(data);
}

/* ---- steps ---- */
static void step_free(struct step *step)
{
    for (size_t i = 0; i < FD_COUNT; i++)
        close_p(&step->fds[i]);
    close_p(&step->listen_fd);
    backends_close(&step->backends);
    if (step->order)
        held_orders_wipe(step->order);
    if (step->snapshot)
        godwit__snapshot_info__free_unpacked(step->snapshot, NULL);
    free(step->bytes);
    free(step);
}

static int step_new(struct step **ret_step, struct orders *orders, const char *vm_id,
                    const ProtobufCMessage *order, struct rpc_request *request, struct fault *fault)
{
    struct step *step = calloc(1, sizeof *step);
    if (!step)
        return fault_set(fault, ERR_NOMEM, "no memory for an order");
    for (size_t i = 0; i < FD_COUNT; i++)
        step->fds[i] = -1;
    step->listen_fd = -1;
    step->orders = orders;
    (void)snprintf(step->vm_id, sizeof step->vm_id, "%s", vm_id);
    step->request = request;
    if (order && !(step->order = held_orders_copy(order))) {
        step_free(step);
        return fault_set(fault, ERR_NOMEM, "no memory for an order");
    }
    *ret_step = step;
    return 0;
}

static void reply_fault(struct rpc_request *request, const struct fault *fault)
{
    if (request)
        (void)rpc_reply_fault(request, fault);
}

static void reply_status(struct rpc_request *request, const struct vm_entry *entry)
{
    if (request)
        (void)rpc_reply(request, &entry->status->base);
}

static void waiters_add(struct vm_waiters *waiters, struct rpc_request *request)
{
    struct fault fault = {0};

    if (!request)
        return;
    if (waiters->count < VM_WAITERS_MAX) {
        waiters->requests[waiters->count++] = request;
        return;
    }
    (void)fault_set(&fault, ERR_BUSY, "this order is being carried out");
    (void)rpc_reply_fault(request, &fault);
}

/* A start that is said again while it is carried out, or a stop of one. Refused it would count as never carried out, and
 * the VM be started elsewhere: those that are too many came over lines that are gone. */
static void waiters_add_newest(struct vm_waiters *waiters, struct rpc_request *request)
{
    struct fault fault = {0};

    if (request && waiters->count == VM_WAITERS_MAX) {
        (void)fault_set(&fault, ERR_BUSY, "this order was said again since");
        (void)rpc_reply_fault(waiters->requests[0], &fault);
        memmove(&waiters->requests[0], &waiters->requests[1],
                --waiters->count * sizeof waiters->requests[0]);
    }
    waiters_add(waiters, request);
}

/* `entry` NULL: all get the fault. */
static void waiters_answer(struct vm_waiters *waiters, const struct vm_entry *entry,
                           const struct fault *fault)
{
    struct vm_waiters now = *waiters;

    waiters->count = 0;
    for (size_t i = 0; i < now.count; i++) {
        if (entry)
            reply_status(now.requests[i], entry);
        else
            reply_fault(now.requests[i], fault);
    }
}

/* ---- judging ---- */
static int check_incarnation(const struct orders *orders, const char *named, struct fault *fault)
{
    const char *ours = host_facts_incarnation(orders->facts);

    if (orders->quarantine && quarantine_is_on(orders->quarantine))
        return fault_set(fault, ERR_REFUSED, "this host is quarantined: its old life is ending");
    if (!named || strcmp(named, ours) != 0)
        return fault_set(
            fault, ERR_REFUSED,
            "the order is for another life of this host (%.8s, now %.8s): it was started "
            "anew since",
            named ? named : "none", ours);
    return 0;
}

/* What a replica holds here is taken; its disks are half of something until then. */
static int check_no_replica(const struct orders *orders, const char *vm_id, struct fault *fault)
{
    if (!vm_id || !orders->standbys || !standbys_hold(orders->standbys, vm_id))
        return 0;
    return fault_set(fault, ERR_STATE, "this host holds a replica of it: that is taken by a failover, or "
                                       "dropped first");
}

int orders_judge_start(const struct vm_entry *entry, uint64_t hiwater, uint64_t generation,
                       struct fault *fault)
{
    if (!generation)
        return fault_set(fault, ERR_INVALID, "a start needs a generation");
    if (entry && entry->status->has_state && generation == entry->status->generation)
        return ORDERS_SAME;
    if (generation <= hiwater)
        return fault_set(fault, ERR_REFUSED,
                         "a start as generation %llu is too old: this host has seen %llu",
                         (unsigned long long)generation, (unsigned long long)hiwater);
    if (entry && entry->starting)
        return fault_set(fault, ERR_STATE, "it is being started here already, as generation %llu",
                         (unsigned long long)entry->starting_generation);
    if (entry && vm_entry_is_alive(entry))
        return fault_set(fault, ERR_STATE, "it has a process here already, as generation %llu",
                         (unsigned long long)entry->status->generation);
    return ORDERS_START;
}

/* The VM with a process to speak to. */
static int need_process(struct orders *orders, const char *vm_id, struct vm_entry **ret_entry,
                        struct fault *fault)
{
    struct vm_entry *entry = vm_table_find(orders->table, vm_id);

    if (!entry)
        return fault_set(fault, ERR_NOT_FOUND, "this host has no VM %s", vm_id ? vm_id : "");
    if (!entry->process)
        return fault_set(fault, ERR_STATE, "%s does not run on this host",
                         entry->status->name ? entry->status->name : vm_id);
    if (entry->upgrade || entry->suspending || entry->snapshotting)
        return fault_set(fault, ERR_BUSY, "%s is being %s",
                         entry->status->name ? entry->status->name : vm_id,
                         entry->upgrade      ? "upgraded"
                         : entry->suspending ? "suspended"
                                             : "snapshotted");
    if (!vm_process_rpc(entry->process) || entry->starting)
        return fault_set(fault, ERR_BUSY, "%s: its process cannot be spoken to just now",
                         entry->status->name ? entry->status->name : vm_id);
    *ret_entry = entry;
    return 0;
}

/* ---- starting a process with a VM in it: START and MOVE_IN ---- */
/* The file that this start goes on from; NULL: it boots. */
static const char *step_nonce(const struct step *step)
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
    return step_nonce(step) && ((const Godwit__OrderVmStart *)step->order)->lazy;
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
    if (!vm_entry_find_file(entry, step_nonce(step), &step->file_generation))
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
    return r == 0 && step_nonce(step) ? open_file(step, entry, fault) : r;
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

    bool boots = !step->incoming && !step_nonce(step);
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
    order.suspend_nonce = (char *)(uintptr_t)step_nonce(step); /* protobuf-c knows no const */
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
    uint64_t gib = step_nonce(step) ? 1 + (step_spec(step)->memory->size >> 30) : 0;
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
        step_free(step);
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
        r = start_mark_keep(entry, step_spec(step), step->generation, fault);
    }
    if (r == 0)
        r = vm_entry_open(entry, step_spec(step)->name, fault);
    if (r == 0 && !vm_entry_set_spec(entry, step_spec(step)))
        r = fault_set(fault, ERR_NOMEM, "no memory for the VM's spec");
    return r < 0 ? r : send_create(step, entry, fault);
}

/* Files, disks and nics; then a process; then VM_CREATE, and `created` comes with its answer. Once
 * this returned 0 the step is its. */
static int create(struct step *step, struct vm_entry *entry, rpc_done_fn *created,
                  struct fault *fault)
{
    entry->starting = true;
    entry->starting_generation = step->generation;
    entry->starting_from_file = step_nonce(step) != NULL;
    entry->starting_runs = !step->incoming && !vm_spec_is_libvirt(step_spec(step));
    step->created = created;
    if (vm_spec_is_libvirt(step_spec(step)))
        return create_domain(step, entry, fault);
    host_facts_stamp(step->orders->facts, step->generation, &step->wanted);
    int r = vm_entry_begin(entry, fault);
    if (r == 0 && (!step_nonce(step) || step->snapshot)) /* it boots, or comes from elsewhere: what rests here is old */
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

/* ---- START ---- */
/* It never runs here as this generation, also when its order comes once more. */
static void reply_void(struct rpc_request *request, const char *vm_id, uint64_t generation)
{
    Godwit__VmStatus status = GODWIT__VM_STATUS__INIT;

    status.vm_id = (char *)(uintptr_t)vm_id; /* protobuf-c knows no const */
    status.has_state = status.has_generation = true;
    status.state = GODWIT__VM_STATE__VM_STATE_GONE;
    status.generation = generation;
    if (request)
        (void)rpc_reply(request, &status.base);
}

/* Those who asked for its end: `entry` as it is then, for it had run; NULL: it had not. */
static void answer_start_ends(struct vm_waiters *waiters, const struct vm_entry *entry,
                              const char *vm_id, uint64_t generation)
{
    struct vm_waiters now = *waiters;

    waiters->count = 0;
    for (size_t i = 0; i < now.count; i++) {
        if (entry)
            reply_status(now.requests[i], entry);
        else
            reply_void(now.requests[i], vm_id, generation);
    }
}

static void start_failed(struct step *step, const struct fault *given)
{
    struct orders *orders = step->orders;
    struct vm_entry *entry = vm_table_find(orders->table, step->vm_id);
    struct fault own = {0};
    const struct fault *fault = given;

    if (entry && entry->start_ends) {
        (void)fault_set(&own, ERR_REFUSED, "it was stopped while it was being started");
        fault = &own;
    }
    log_warn("orders", "start failed vm=%s generation=%llu: %s", step->vm_id,
             (unsigned long long)step->generation, fault->text);
    if (entry)
        entry->start_may_end = false;
    if (entry && entry->process && entry->starting_runs) {
        step->fault = *fault;
        step->next_failed = orders->failed;
        orders->failed = step; /* whether it ran is known when its process has ended */
        vm_entry_discard(entry);
        return;
    }
    vm_table_refuse(orders->table, step->vm_id, step->generation);
    if (entry) {
        struct vm_waiters waiters = entry->start_waiters, stops = entry->stop_waiters;
        bool ends = entry->start_ends;
        entry->start_waiters.count = 0;
        if (ends)
            entry->stop_waiters.count = 0;
        entry->start_ends = false;
        vm_entry_discard(entry);
        waiters_answer(&waiters, NULL, fault);
        if (ends)
            answer_start_ends(&stops, NULL, step->vm_id, step->generation);
    }
    step_free(step);
}

/* "Never started" would let the pool give its disks away, or go back to the snapshot, over what it has written. */
void orders_on_discarded(struct orders *orders, struct vm_entry *entry, bool has_run)
{
    for (struct step **at = &orders->failed; *at; at = &(*at)->next_failed) {
        struct step *step = *at;
        if (strcmp(step->vm_id, entry->id) != 0)
            continue;
        *at = step->next_failed;
        if (!has_run)
            vm_table_refuse(orders->table, step->vm_id, step->generation);
        waiters_answer(&entry->start_waiters, has_run ? entry : NULL, &step->fault);
        if (entry->start_ends)
            answer_start_ends(&entry->stop_waiters, has_run ? entry : NULL, step->vm_id,
                              step->generation);
        entry->start_ends = false;
        step_free(step);
        return;
    }
}

static void start_created(void *data, const ProtobufCMessage *reply, const struct fault *fault)
{
    struct step *step = data;
    struct vm_entry *entry = vm_table_find(step->orders->table, step->vm_id);

    if (!reply || !entry) {
        start_failed(step, fault);
        return;
    }
    vm_entry_update(entry, (const Godwit__VmStatus *)reply);
    vm_entry_commit(entry);
    entry->start_may_end = false;
    if (entry->start_ends) /* too late for that: its process is ending as one that was started */
        entry->stopping = true;
    entry->start_ends = false;
    struct fault left = {0};
    if (step_nonce(step) && !step->snapshot && !vm_entry_is_paging(entry) &&
        vm_entry_drop_file(entry, &left) < 0) /* it is marked: of no use */
        log_warn("orders", "vm=%s: %s", entry->id, left.text);
    vm_entry_journal(entry, "start");
    log_info("orders", "started vm=%s name=%s generation=%llu pid=%d", entry->id,
             entry->status->name ? entry->status->name : "", (unsigned long long)step->generation,
             vm_process_pid(entry->process));
    waiters_answer(&entry->start_waiters, entry, NULL);
    step_free(step);
}

/* A refusal is final (R7): the coordinator starts the VM elsewhere as the next generation, and this
 * order may have been said twice. */
static void refuse_start(struct orders *orders, const Godwit__OrderVmStart *order,
                         struct rpc_request *request, const struct fault *fault)
{
    if (order->vm_id && id_name_is_valid(order->vm_id))
        vm_table_refuse(orders->table, order->vm_id, order->generation);
    reply_fault(request, fault);
}

/* The snapshot that the order names: a copy, for nobody may take it away from under the start. */
static int take_snapshot(struct step *step, const Godwit__OrderVmStart *order, struct fault *fault)
{
    if (!order->snapshot_id || !*order->snapshot_id)
        return 0;
    const Godwit__SnapshotInfo *info =
        step->orders->snapshots ? snapshots_find(step->orders->snapshots, order->snapshot_id)
                                : NULL;
    step->is_clone = order->is_clone;
    if (!info || (strcmp(info->vm_id, step->vm_id) == 0) == step->is_clone)
        return fault_set(fault, ERR_NOT_FOUND, "this host has no snapshot %.12s of %s",
                         order->snapshot_id, step->is_clone ? "another VM" : "it");
    if (info->is_libvirt && (step->is_clone || order->lazy))
        return fault_set(fault, ERR_UNSUPPORTED, "libvirt goes back to snapshot %s whole, or not at all",
                         info->name);
    if (step->is_clone && !info->with_memory)
        return fault_set(fault, ERR_INVALID, "snapshot %s holds no memory to go on from",
                         info->name);
    step->snapshot = (Godwit__SnapshotInfo *)held_orders_copy(&info->base);
    return step->snapshot ? 0 : fault_set(fault, ERR_NOMEM, "no memory for a snapshot");
}

/* A start whose agent died goes on without it: its process fills itself from a file, which takes seconds,
 * and then is the generation that it was started as. Until then nobody knows which that is. */
static bool is_half_started(const struct vm_entry *entry)
{
    const Godwit__VmStatus *status = entry->status;

    return entry->process && !entry->starting && !entry->discard && !entry->upgrade &&
           !status->generation && !entry->in_move_id[0] &&
           (!status->latch || status->latch->latch == GODWIT__LATCH__LATCH_NONE);
}

/* What an agent before us left and has not answered yet: of that vm.bin tells only what was before it, and it may be
 * any start. No order may count as refused for it, nor a start as ended. */
static bool is_unheard(const struct vm_entry *entry)
{
    bool is_silent = entry->process && !vm_process_is_known(entry->process);

    return (entry->unreachable || (is_silent && !entry->upgrade)) && !vm_entry_is_domain(entry);
}

/* There is nothing in it. Else it ends by itself, or goes on. */
static void end_empty(struct vm_entry *entry)
{
    struct fault fault = {0};

    if (entry->process && !is_unheard(entry) && entry->status->state == GODWIT__VM_STATE__VM_STATE_NONE)
        (void)vm_process_kill(entry->process, &fault);
}

void orders_start(struct orders *orders, const Godwit__OrderVmStart *order,
                  struct rpc_request *request)
{
    struct vm_entry *entry = vm_table_find(orders->table, order->vm_id);
    struct fault fault = {0};
    struct step *step = NULL;

    int r = check_incarnation(orders, order->incarnation, &fault);
    if (r < 0) {
        reply_fault(request, &fault);
        return;
    }
    if (order->vm_id && images_are_sealed_for(orders->images, order->vm_id)) {
        (void)fault_set(&fault, ERR_BUSY, "a disk of this VM is just becoming an image");
        refuse_start(orders, order, request, &fault);
        return;
    }
    if (entry && entry->starting && entry->starting_generation == order->generation) {
        waiters_add_newest(&entry->start_waiters, request);
        return;
    }
    r = check_no_replica(orders, order->vm_id, &fault);
    bool is_open = entry && (is_half_started(entry) || (is_unheard(entry) && order->generation !=
                                                                                 entry->status->generation));
    if (r == 0 && is_open) {
        end_empty(entry);
        if (held_orders_put(&orders->held, entry->id, &order->base, request, &fault) < 0)
            reply_fault(request, &fault);
        return;
    }
    uint64_t hiwater = order->vm_id ? vm_table_hiwater(orders->table, order->vm_id) : 0;
    if (r == 0)
        r = orders_judge_start(entry, hiwater, order->generation, &fault);
    if (r == ORDERS_SAME) {
        reply_status(request, entry);
        return;
    }
    if (r == ORDERS_START && entry && entry->void_generation == order->generation && order->generation)
        r = fault_set(&fault, ERR_STATE, "it was stopped while it was being started");
    if (r == ORDERS_START)
        r = order->spec && order->spec->name && vm_spec_judge(order->spec, &fault) == 0
                ? vm_table_add(orders->table, order->vm_id, &entry, &fault)
            : fault.code ? fault.code
                         : fault_set(&fault, ERR_INVALID, "a start without a VM's spec");
    if (r == 0)
        r = step_new(&step, orders, entry->id, &order->base, NULL, &fault);
    if (r < 0) {
        refuse_start(orders, order, request, &fault);
        return;
    }
    step->generation = order->generation;
    waiters_add(&entry->start_waiters, request);
    step->start_paused = order->start_paused;
    step->only_running = order->only_running;
    entry->start_may_end = !vm_spec_is_libvirt(order->spec);
    entry->start_ends = false;
    r = attach_stamp_read(order->expected_stamp, &step->expected, &fault);
    if (r == 0)
        r = take_snapshot(step, order, &fault);
    if (r == 0)
        r = create(step, entry, start_created, &fault);
    if (r < 0)
        start_failed(step, &fault);
}

static void handle_start(void *data, struct rpc *rpc, struct rpc_request *request,
                         const ProtobufCMessage *message)
{
    (void)rpc;
    orders_start(orders_of(data), (const Godwit__OrderVmStart *)message, request);
}

/* ---- STOP ---- */
static void kill_hung(struct vm_entry *entry, uint64_t grace_ms)
{
    struct fault fault = {0};

    /* HELD after GAVE may be the only copy there is: that is for a verdict to end, not for us. */
    uint64_t given_as = vm_entry_given_as(entry);
    if (given_as) {
        (void)fault_set(&fault, ERR_STATE,
                        "it was given away as generation %llu and no verdict has come",
                        (unsigned long long)given_as);
    } else if (!vm_process_is_proven(entry->process)) {
        (void)fault_set(&fault, ERR_STATE, "process %d has not shown that it runs this VM",
                        vm_process_pid(entry->process));
    } else {
        vm_process_kill_after(entry->process, grace_ms);
        return;
    }
    entry->stopping = entry->remove = false;
    waiters_answer(&entry->stop_waiters, NULL, &fault);
}

static void stop_answered(void *data, const ProtobufCMessage *reply, const struct fault *fault)
{
    struct step *step = data;
    struct vm_entry *entry = vm_table_find(step->orders->table, step->vm_id);

    /* Refused: a move has it. Closed: it was ending already. Anything else: it hangs. */
    if (entry && entry->process && entry->stopping && !reply) {
        if (fault->code == ERR_BUSY || fault->code == ERR_STATE) {
            entry->stopping = entry->remove = false;
            waiters_answer(&entry->stop_waiters, NULL, fault);
        } else {
            kill_hung(entry, fault->code == ERR_CLOSED ? END_MS_MAX : 0);
        }
    }
    step_free(step);
}

static void stop_process(struct orders *orders, struct vm_entry *entry)
{
    Godwit__VmAction action = GODWIT__VM_ACTION__INIT;
    struct fault fault = {0};
    struct step *step = NULL;
    struct rpc *rpc = vm_process_rpc(entry->process);

    action.vm_id = entry->id;
    if (rpc && step_new(&step, orders, entry->id, NULL, NULL, &fault) == 0 &&
        rpc_call(rpc, METHOD_VM_QUIT, &action.base, &godwit__vm_status__descriptor, QUIT_MS_MAX,
                 stop_answered, step, &fault) == 0)
        return;
    if (step)
        step_free(step);
    kill_hung(entry, END_MS_MAX); /* not connected: as a process that has just ended */
}

static void stop_over(struct vm_entry *entry)
{
    bool remove = entry->remove;
    struct fault fault = {0};
    if (vm_entry_drop_file(entry, &fault) < 0) { /* what is there must not be gone on from */
        entry->stopping = entry->remove = false;
        waiters_answer(&entry->stop_waiters, NULL, &fault);
        return;
    }
    if (entry->status->state == GODWIT__VM_STATE__VM_STATE_SUSPENDED) {
        vm_entry_set(entry, GODWIT__VM_STATE__VM_STATE_STOPPED, entry->status->generation,
                     "stopped on request", true);
    }
    struct vm_waiters waiters = entry->stop_waiters;

    entry->stopping = entry->remove = false;
    entry->stop_waiters.count = 0;
    vm_entry_journal(entry, remove ? "remove" : "stop");
    waiters_answer(&waiters, entry, NULL);
    if (remove)
        vm_table_remove(entry);
}

static void remove_work(void *data)
{
    struct step *step = data;
    const Godwit__VmStatus *status = (const Godwit__VmStatus *)step->order;

    step->result = backends_remove(status->spec, step->vm_id, &step->fault);
}

static void remove_done(void *data)
{
    struct step *step = data;
    struct vm_entry *entry = vm_table_find(step->orders->table, step->vm_id);

    step->orders->workers--;
    if (entry && !step->orders->stopped) {
        entry->starting = false;
        if (step->result == 0) {
            stop_over(entry);
        } else {
            log_error("orders", "a VM's disks cannot be removed vm=%s: %s", step->vm_id,
                      step->fault.text);
            entry->stopping = entry->remove = false;
            waiters_answer(&entry->stop_waiters, NULL, &step->fault);
        }
    }
    step_free(step);
}

/* Its process is no more: what was made for it goes first, so that a failure can be told. */
static void stop_ended(struct orders *orders, struct vm_entry *entry)
{
    struct fault fault = {0};
    struct step *step = NULL;

    if (!entry->remove || !entry->status->spec || !entry->status->spec->n_disks) {
        stop_over(entry);
        return;
    }
    int r = step_new(&step, orders, entry->id, &entry->status->base, NULL, &fault);
    if (r == 0) {
        entry->starting = true; /* nothing else is done to it meanwhile */
        orders->workers++;
        r = loop_work(orders->loop, remove_work, remove_done, step);
        if (r == 0)
            return;
        orders->workers--;
        entry->starting = false;
        step_free(step);
        (void)fault_set(&fault, r, "no worker to remove disks");
    }
    entry->stopping = entry->remove = false;
    waiters_answer(&entry->stop_waiters, NULL, &fault);
}

static void reply_gone(struct rpc_request *request, const char *vm_id)
{
    Godwit__VmStatus gone = GODWIT__VM_STATUS__INIT;

    gone.vm_id = (char *)(uintptr_t)vm_id; /* protobuf-c knows no const */
    gone.has_state = true;
    gone.state = GODWIT__VM_STATE__VM_STATE_STOPPED;
    if (request)
        (void)rpc_reply(request, &gone.base);
}

/* What it reads may never come. Until its disks are opened on a worker nobody can end that: it ends after. */
static void end_start(struct vm_entry *entry, uint64_t generation, struct rpc_request *request)
{
    struct fault fault = {0};

    waiters_add_newest(&entry->stop_waiters, request);
    if (entry->start_ends)
        return;
    entry->start_ends = true;
    entry->starting_generation = generation;
    log_info("orders", "a start is ended on request vm=%s generation=%llu", entry->id,
             (unsigned long long)entry->starting_generation);
    if (!entry->process)
        return;
    (void)snprintf(entry->end_reason, sizeof entry->end_reason, "it was stopped while it was being started");
    if (vm_process_kill(entry->process, &fault) == 0)
        return;
    log_error("orders", "vm=%s: %s", entry->id, fault.text);
    entry->start_ends = false;
    entry->end_reason[0] = '\0';
    waiters_answer(&entry->stop_waiters, NULL, &fault);
}

/* True: it is seen to. Else it runs as that by now, and is stopped as any other. */
static bool stop_start(struct orders *orders, struct vm_entry *entry, const Godwit__OrderVmStop *order,
                       struct rpc_request *request)
{
    uint64_t generation = order->ends_start;
    bool is_it = entry && entry->starting && entry->start_may_end &&
                 entry->starting_generation == generation;

    if (entry && is_unheard(entry) && entry->status->generation != generation) {
        struct fault fault = {0};
        if (entry->is_silent && entry->process && vm_process_is_proven(entry->process) &&
            !vm_entry_given_as(entry)) {
            end_start(entry, generation, request); /* what it had become shows when it has ended */
            return true;
        }
        (void)fault_set(&fault, ERR_BUSY, "its process has not answered the agent, which was started after it");
        entry->void_generation = generation; /* nor does a START that waits here begin it anew, once that has ended */
        reply_fault(request, &fault);
        return true;
    }
    if (entry && (is_it || is_half_started(entry)) && !vm_entry_is_domain(entry)) {
        end_start(entry, generation, request);
        return true;
    }
    if (entry && ((entry->starting && entry->starting_generation == generation) ||
                  entry->status->generation == generation))
        return false;
    vm_table_refuse(orders->table, order->vm_id, generation); /* it may be on its way */
    reply_void(request, order->vm_id, generation);
    return true;
}

static void handle_stop(void *data, struct rpc *rpc, struct rpc_request *request,
                        const ProtobufCMessage *message)
{
    const Godwit__OrderVmStop *order = (const Godwit__OrderVmStop *)message;
    struct orders *orders = orders_of(data);
    struct vm_entry *entry = vm_table_find(orders->table, order->vm_id);
    struct fault fault = {0};
    (void)rpc;

    if (order->vm_id && order->remove && images_are_cloned_for(orders->images, order->vm_id)) {
        (void)fault_set(&fault, ERR_BUSY, "a disk of this VM is just being made from an image");
        reply_fault(request, &fault);
        return;
    }
    if (order->vm_id && order->remove &&
        snapshots_are_cloned_for(orders->snapshots, order->vm_id)) {
        (void)fault_set(&fault, ERR_BUSY, "a disk of this VM is just being made from a snapshot");
        reply_fault(request, &fault);
        return;
    }
    if (order->vm_id && order->remove && standby_twins_make(&orders->twins, order->vm_id)) {
        (void)fault_set(&fault, ERR_BUSY, "this VM is just being made from a replica");
        reply_fault(request, &fault);
        return;
    }
    if (!entry && order->vm_id && order->remove) { /* gone already: as wanted */
        if (id_name_is_valid(order->vm_id) && check_no_replica(orders, order->vm_id, &fault) == 0)
            vm_table_clear(orders->table, order->vm_id);
        if (order->spec && order->spec->n_disks > 0)
            store_question_remove(&orders->questions, order, request);
        else
            reply_gone(request, order->vm_id);
        return;
    }
    int r = 0;
    if (order->ends_start && order->vm_id && id_name_is_valid(order->vm_id) &&
        stop_start(orders, entry, order, request))
        return;
    if (!entry)
        r = fault_set(&fault, ERR_NOT_FOUND, "this host has no VM %s",
                      order->vm_id ? order->vm_id : "");
    else if (entry->starting || entry->discard || entry->unreachable || entry->upgrade ||
             entry->suspending)
        r = fault_set(&fault, ERR_BUSY, "%s cannot be stopped just now",
                      entry->status->name ? entry->status->name : entry->id);
    if (r < 0) {
        reply_fault(request, &fault);
        return;
    }
    entry->remove = entry->remove || order->remove;
    waiters_add(&entry->stop_waiters, request);
    if (!entry->process)
        stop_ended(orders, entry);
    else if (!entry->stopping) {
        entry->stopping = true;
        stop_process(orders, entry);
    }
}

/* ---- PAUSE, RESUME, VERDICT, STATUS: passed on, answered with the VM's status ---- */
static void relayed(void *data, const ProtobufCMessage *reply, const struct fault *fault)
{
    struct step *step = data;
    struct vm_entry *entry = vm_table_find(step->orders->table, step->vm_id);

    if (reply && entry) {
        vm_entry_update(entry, (const Godwit__VmStatus *)reply);
        reply_status(step->request, entry);
    } else {
        struct fault gone = {0};
        if (!fault)
            (void)fault_set(&gone, ERR_NOT_FOUND, "VM %s is gone", step->vm_id);
        reply_fault(step->request, fault ? fault : &gone);
    }
    step_free(step);
}

static void relay(struct orders *orders, const char *vm_id, uint16_t method,
                  const ProtobufCMessage *message, struct rpc_request *request)
{
    struct vm_entry *entry;
    struct fault fault = {0};
    struct step *step = NULL;

    int r = need_process(orders, vm_id, &entry, &fault);
    if (r == 0)
        r = step_new(&step, orders, entry->id, NULL, request, &fault);
    if (r == 0)
        r = rpc_call(vm_process_rpc(entry->process), method, message,
                     &godwit__vm_status__descriptor, CALL_MS_MAX, relayed, step, &fault);
    if (r < 0) {
        if (step)
            step_free(step);
        reply_fault(request, &fault);
    }
}

static void handle_pause(void *data, struct rpc *rpc, struct rpc_request *request,
                         const ProtobufCMessage *message)
{
    (void)rpc;
    relay(orders_of(data), ((const Godwit__VmAction *)message)->vm_id, METHOD_VM_PAUSE, message,
          request);
}

static void handle_resume(void *data, struct rpc *rpc, struct rpc_request *request,
                          const ProtobufCMessage *message)
{
    (void)rpc;
    relay(orders_of(data), ((const Godwit__VmAction *)message)->vm_id, METHOD_VM_RESUME, message,
          request);
}

static void handle_power_button(void *data, struct rpc *rpc, struct rpc_request *request,
                                const ProtobufCMessage *message)
{
    (void)rpc;
    relay(orders_of(data), ((const Godwit__VmAction *)message)->vm_id, METHOD_VM_POWER_BUTTON,
          message, request);
}

static void handle_reboot(void *data, struct rpc *rpc, struct rpc_request *request,
                          const ProtobufCMessage *message)
{
    (void)rpc;
    relay(orders_of(data), ((const Godwit__VmAction *)message)->vm_id, METHOD_VM_REBOOT, message,
          request);
}

static void handle_reset(void *data, struct rpc *rpc, struct rpc_request *request,
                         const ProtobufCMessage *message)
{
    (void)rpc;
    relay(orders_of(data), ((const Godwit__VmAction *)message)->vm_id, METHOD_VM_RESET, message,
          request);
}

static void passed_on(void *data, const ProtobufCMessage *reply, const struct fault *fault)
{
    struct step *step = data;

    if (reply)
        (void)rpc_reply(step->request, reply);
    else
        reply_fault(step->request, fault);
    step_free(step);
}

/* A question for the VM's process, whose answer is no status. */
static void pass_on(struct orders *orders, uint16_t method, const ProtobufCMessage *message,
                    const ProtobufCMessageDescriptor *answer, uint64_t ms_max,
                    struct rpc_request *request)
{
    const Godwit__VmAction *order = (const Godwit__VmAction *)message;
    struct vm_entry *entry;
    struct fault fault = {0};
    struct step *step = NULL;

    if (!request)
        return;
    int r = need_process(orders, order->vm_id, &entry, &fault);
    if (r == 0)
        r = step_new(&step, orders, entry->id, NULL, request, &fault);
    if (r == 0)
        r = rpc_call(vm_process_rpc(entry->process), method, message, answer, ms_max, passed_on,
                     step, &fault);
    if (r < 0) {
        if (step)
            step_free(step);
        reply_fault(request, &fault);
    }
}

static void handle_sample(void *data, struct rpc *rpc, struct rpc_request *request,
                          const ProtobufCMessage *message)
{
    (void)rpc;
    pass_on(orders_of(data), METHOD_VM_SAMPLE, message, &godwit__vm_sample__descriptor,
            SAMPLE_MS_MAX, request);
}

static void handle_counters(void *data, struct rpc *rpc, struct rpc_request *request,
                            const ProtobufCMessage *message)
{
    (void)rpc;
    pass_on(orders_of(data), METHOD_VM_COUNTERS, message, &godwit__vm_counters__descriptor,
            CALL_MS_MAX, request);
}

static void handle_status(void *data, struct rpc *rpc, struct rpc_request *request,
                          const ProtobufCMessage *message)
{
    const Godwit__VmAction *order = (const Godwit__VmAction *)message;
    struct orders *orders = orders_of(data);
    struct vm_entry *entry = vm_table_find(orders->table, order->vm_id);
    Godwit__Empty empty = GODWIT__EMPTY__INIT;
    (void)rpc;

    if (entry && (!vm_entry_is_alive(entry) || entry->upgrade || entry->suspending) &&
        !vm_word_is_unheard(entry)) {
        reply_status(request, entry); /* an upgrade changes nothing of what is told */
        return;
    }
    relay(orders, order->vm_id, METHOD_VM_STATUS, &empty.base, request);
}

/* Of a process that is no more: what its latch says is the last word. */
static bool verdict_is_so(const struct vm_entry *entry, const Godwit__MoveVerdict *verdict)
{
    const Godwit__MoveLatch *latch = entry->status->latch;

    if (!latch || !latch->move_id || !verdict->move_id || strcmp(latch->move_id, verdict->move_id))
        return false;
    switch (verdict->kind) {
    case GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_CANCEL:
    case GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_ABANDON:
        return latch->latch == GODWIT__LATCH__LATCH_ABANDONED ||
               latch->latch == GODWIT__LATCH__LATCH_ABORTED;
    case GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_STARTED:
    case GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_DROP:
        return latch->latch == GODWIT__LATCH__LATCH_RELEASED ||
               entry->status->state == GODWIT__VM_STATE__VM_STATE_GONE;
    case GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_TAKE:
    case GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_RESUME:
    case _GODWIT__MOVE_VERDICT_KIND_IS_INT_SIZE:
        break; /* there is no memory any more to run */
    }
    return false;
}

/* The source shall run again as a new generation: first its disks have to be its own as that. */
bool orders_verdict_restamps(const struct vm_entry *entry, const Godwit__MoveVerdict *verdict)
{
    const Godwit__MoveLatch *latch = entry->status->latch;
    bool resumes = verdict->kind == GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_RESUME ||
                   verdict->kind == GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_ABANDON;

    return resumes && latch && latch->latch == GODWIT__LATCH__LATCH_GAVE &&
           verdict->generation > latch->generation && entry->status->spec &&
           vm_spec_stamp_store(entry->status->spec);
}

struct restamp {
    struct step *step; /* its order is the verdict, its request waits */
    Godwit__VmSpec *spec;
    uint64_t generation;
};

static void restamp_work(void *data)
{
    struct restamp *restamp = data;
    struct step *step = restamp->step;

    step->result = backends_restamp(restamp->spec, step->vm_id, restamp->generation, &step->wanted,
                                    &step->fault);
}

static void restamp_done(void *data)
{
    struct restamp *restamp = data;
    struct step *step = restamp->step;

    step->orders->workers--;
    if (!step->orders->stopped) {
        if (step->result == BACKENDS_E_LOST)
            step->fault.code = ERR_SUPERSEDED; /* the coordinator drops the guest that is held */
        if (step->result == 0)
            relay(step->orders, step->vm_id, METHOD_VM_MOVE_VERDICT, step->order, step->request);
        else
            reply_fault(step->request, &step->fault);
    }
    godwit__vm_spec__free_unpacked(restamp->spec, NULL);
    step_free(step);
    free(restamp);
}

static int restamp_begin(struct orders *orders, struct vm_entry *entry,
                         const Godwit__MoveVerdict *verdict, struct rpc_request *request,
                         struct fault *fault)
{
    struct restamp *restamp = calloc(1, sizeof *restamp);
    int r = restamp ? step_new(&restamp->step, orders, entry->id, &verdict->base, request, fault)
                    : fault_set(fault, ERR_NOMEM, "no memory for an order");
    if (r == 0) {
        restamp->spec = (Godwit__VmSpec *)held_orders_copy(&entry->status->spec->base);
        restamp->generation = entry->status->generation;
        host_facts_stamp(orders->facts, verdict->generation, &restamp->step->wanted);
        r = restamp->spec ? loop_work(orders->loop, restamp_work, restamp_done, restamp)
                          : ERR_NOMEM;
        if (r == 0) {
            orders->workers++;
            return 0;
        }
        (void)fault_set(fault, r, "no worker to stamp disks");
        if (restamp->spec)
            godwit__vm_spec__free_unpacked(restamp->spec, NULL);
        step_free(restamp->step);
    }
    free(restamp);
    return r;
}

static void handle_verdict(void *data, struct rpc *rpc, struct rpc_request *request,
                           const ProtobufCMessage *message)
{
    const Godwit__MoveVerdict *verdict = (const Godwit__MoveVerdict *)message;
    struct orders *orders = orders_of(data);
    struct vm_entry *entry = vm_table_find(orders->table, verdict->vm_id);
    (void)rpc;

    if (entry && !vm_entry_is_alive(entry) && verdict_is_so(entry, verdict)) {
        reply_status(request, entry);
        return;
    }
    if (entry && orders_verdict_restamps(entry, verdict)) {
        struct fault fault = {0};
        if (restamp_begin(orders, entry, verdict, request, &fault) < 0)
            reply_fault(request, &fault);
        return;
    }
    relay(orders, verdict->vm_id, METHOD_VM_MOVE_VERDICT, message, request);
}

static void handle_tune(void *data, struct rpc *rpc, struct rpc_request *request,
                        const ProtobufCMessage *message)
{
    const Godwit__MoveTune *tune = (const Godwit__MoveTune *)message;
    (void)rpc;
    relay(orders_of(data), tune->vm_id, METHOD_VM_MOVE_TUNE, message, request);
}

/* ---- MOVE_IN ---- */
static void move_in_failed(struct step *step, const struct fault *fault)
{
    struct vm_entry *entry = vm_table_find(step->orders->table, step->vm_id);

    log_warn("orders", "move in failed vm=%s: %s", step->vm_id, fault->text);
    if (entry) {
        entry->in_move_id[0] = 0;
        vm_entry_discard(entry);
    }
    reply_fault(step->request, fault);
    step_free(step);
}

static void reply_address(struct rpc_request *request, const struct vm_entry *entry)
{
    Godwit__MoveInReply reply = GODWIT__MOVE_IN_REPLY__INIT;

    reply.address = (char *)entry->in_address;
    if (request)
        (void)rpc_reply(request, &reply.base);
}

static void move_in_listens(void *data, const ProtobufCMessage *reply, const struct fault *fault)
{
    struct step *step = data;
    struct vm_entry *entry = vm_table_find(step->orders->table, step->vm_id);

    if (!reply || !entry) {
        move_in_failed(step, fault);
        return;
    }
    vm_entry_commit(entry);
    vm_entry_set(entry, GODWIT__VM_STATE__VM_STATE_INCOMING, entry->status->generation, "", true);
    log_info("orders", "waits for a move vm=%s move=%s address=%s", entry->id, entry->in_move_id,
             entry->in_address);
    reply_address(step->request, entry);
    step_free(step);
}

static void move_in_created(void *data, const ProtobufCMessage *reply, const struct fault *fault)
{
    struct step *step = data;
    struct vm_entry *entry = vm_table_find(step->orders->table, step->vm_id);
    struct fault words = {0};

    if (!reply || !entry || !entry->process || !vm_process_rpc(entry->process)) {
        if (!fault)
            (void)fault_set(&words, ERR_CLOSED, "its process ended");
        move_in_failed(step, fault ? fault : &words);
        return;
    }
    int fds[1 + DISKS_MAX] = {step->listen_fd};
    size_t count = step->listen_fd >= 0; /* a domain of libvirt listens by itself */
    assert(step->backends.fd_count <= DISKS_MAX);
    memcpy(fds + count, step->backends.fds, step->backends.fd_count * sizeof fds[0]);
    count += step->backends.fd_count;
    if (rpc_call_fds(vm_process_rpc(entry->process), METHOD_VM_MOVE_IN, step->order, fds, count,
                     &godwit__empty__descriptor, CALL_MS_MAX, move_in_listens, step, &words) < 0) {
        move_in_failed(step, &words);
        return;
    }
    close_p(&step->listen_fd); /* the kernel has its own */
    backends_close(&step->backends);
}

static int judge_move_in(struct orders *orders, const Godwit__MoveIn *order,
                         const struct vm_entry *entry, struct fault *fault)
{
    int r = check_incarnation(orders, order->target_incarnation, fault);
    if (r < 0)
        return r;
    if (!order->spec || !order->spec->name || !order->move_id || !*order->move_id ||
        strlen(order->move_id) >= VM_ID_SIZE || order->psk.len != TLS_LANE_PSK_BYTES)
        return fault_set(fault, ERR_INVALID, "a move in without its VM, id or key");
    r = vm_spec_judge(order->spec, fault);
    if (r < 0)
        return r;
    if (order->with_local_disks && order->n_disk_bytes != vm_spec_disk_count(order->spec))
        return fault_set(fault, ERR_INVALID, "a move in with the sizes of %zu disks of %u",
                         order->n_disk_bytes, vm_spec_disk_count(order->spec));
    if (entry && (vm_entry_is_alive(entry) || entry->starting))
        return fault_set(fault, ERR_EXISTS, "%s has a process on this host already",
                         order->spec->name);
    r = check_no_replica(orders, order->vm_id, fault);
    if (r < 0)
        return r;
    if (entry && order->generation <= entry->hiwater)
        return fault_set(fault, ERR_REFUSED,
                         "a move as generation %llu is too old: this host has seen %llu of %s",
                         (unsigned long long)order->generation, (unsigned long long)entry->hiwater,
                         order->spec->name);
    return 0;
}

/* The VM's last move is over for its process here, which only has to end: it was told to quit. */
static bool is_ending(const struct vm_entry *entry)
{
    return entry->tidying || (entry->process && !entry->starting && !entry->unreachable &&
                              entry->status->state == GODWIT__VM_STATE__VM_STATE_GONE);
}

/* A domain of libvirt: our agents speak of it on the line between hosts. */
static int peer_address(struct orders *orders, char ret_address[static MOVE_ADDRESS_SIZE],
                        struct fault *fault)
{
    const char *address = host_facts_read(orders->facts)->peer_address;

    if (!address || strlen(address) >= MOVE_ADDRESS_SIZE)
        return fault_set(fault, ERR_UNSUPPORTED,
                         "this host's agent cannot be reached by other hosts (port %d)",
                         PEERS_PORT);
    (void)snprintf(ret_address, MOVE_ADDRESS_SIZE, "%s", address);
    return 0;
}

static void begin_move_in(struct orders *orders, const Godwit__MoveIn *order,
                          struct rpc_request *request)
{
    struct vm_entry *entry = vm_table_find(orders->table, order->vm_id);
    char address[MOVE_ADDRESS_SIZE];
    AUTO_FD int listen_fd = -1;
    struct fault fault = {0};
    struct step *step = NULL;

    if (entry && entry->process && !entry->starting && order->move_id &&
        strcmp(entry->in_move_id, order->move_id) == 0) {
        reply_address(request, entry);
        return;
    }
    if (entry && is_ending(entry)) {
        if (held_orders_put(&orders->held, order->vm_id, &order->base, request, &fault) < 0)
            reply_fault(request, &fault);
        return;
    }
    int r = judge_move_in(orders, order, entry, &fault);
    if (r == 0)
        r = vm_spec_is_libvirt(order->spec)
                ? peer_address(orders, address, &fault)
                : move_sockets_listen(host_facts_move_address(orders->facts), &listen_fd, address,
                                      &fault);
    if (r == 0)
        r = vm_table_add(orders->table, order->vm_id, &entry, &fault);
    if (r == 0)
        r = step_new(&step, orders, entry->id, &order->base, request, &fault);
    if (r < 0) {
        reply_fault(request, &fault);
        return;
    }
    step->generation = order->generation;
    step->listen_fd = TAKE_FD(listen_fd);
    (void)snprintf(entry->in_move_id, sizeof entry->in_move_id, "%s", order->move_id);
    (void)snprintf(entry->in_address, sizeof entry->in_address, "%s", address);
    step->incoming = true;
    r = attach_stamp_read(order->expected_stamp, &step->expected, &fault);
    if (r == 0)
        r = create(step, entry, move_in_created, &fault);
    if (r < 0)
        move_in_failed(step, &fault);
}

static void handle_move_in(void *data, struct rpc *rpc, struct rpc_request *request,
                           const ProtobufCMessage *message)
{
    (void)rpc;
    begin_move_in(orders_of(data), (const Godwit__MoveIn *)message, request);
}

/* What it said last was that its guest is off: it goes, and holds the disk until then. */
static bool has_stopped(const struct vm_entry *entry)
{
    return entry->process && !entry->starting && !entry->unreachable &&
           entry->status->state == GODWIT__VM_STATE__VM_STATE_STOPPED;
}

static void begin_image_seal(struct orders *orders, const Godwit__OrderImageSeal *order,
                             struct rpc_request *request)
{
    const struct vm_entry *entry = order->vm_id ? vm_table_find(orders->table, order->vm_id) : NULL;
    struct fault fault = {0};

    int r = check_incarnation(orders, order->incarnation, &fault);
    if (r == 0 && entry && (is_ending(entry) || has_stopped(entry))) {
        r = held_orders_put(&orders->held, order->vm_id, &order->base, request, &fault);
        if (r == 0)
            return;
    }
    if (r == 0 && entry && (vm_entry_is_alive(entry) || entry->starting))
        r = fault_set(&fault, ERR_STATE, "it has a process here: its disk is being written");
    if (r == 0)
        r = check_no_replica(orders, order->vm_id, &fault);
    if (r < 0)
        reply_fault(request, &fault);
    else if (request)
        images_seal(orders->images, order,
                    orders->snapshots ? snapshots_root(orders->snapshots) : NULL, request);
}

static void handle_image_seal(void *data, struct rpc *rpc, struct rpc_request *request,
                              const ProtobufCMessage *message)
{
    (void)rpc;
    begin_image_seal(orders_of(data), (const Godwit__OrderImageSeal *)message, request);
}

/* Those that waited for the end of this VM's process. */
static void take_up_held(struct orders *orders, const char *vm_id, bool only_starts)
{
    const ProtobufCMessageDescriptor *start = &godwit__order_vm_start__descriptor;
    struct held_order *held = held_orders_take(&orders->held, vm_id, only_starts ? start : NULL);

    for (; held; held = held_order_free(held)) {
        if (held->order->descriptor == start)
            orders_start(orders, (const Godwit__OrderVmStart *)held->order, held->request);
        else if (held->order->descriptor == &godwit__order_image_seal__descriptor)
            begin_image_seal(orders, (const Godwit__OrderImageSeal *)held->order, held->request);
        else
            begin_move_in(orders, (const Godwit__MoveIn *)held->order, held->request);
    }
}

void orders_on_vm(struct orders *orders, struct vm_entry *entry)
{
    if (!orders || !entry->process || is_unheard(entry))
        return;
    if (!is_half_started(entry)) /* what was half started is started, or it is something else */
        take_up_held(orders, entry->id, true);
    else if (held_orders_has(&orders->held, entry->id, &godwit__order_vm_start__descriptor))
        end_empty(entry);
}

/* A VM with disks of its own left this host, or did not come: what becomes of them here. */
static void tidy_work(void *data)
{
    struct step *step = data;
    const Godwit__VmStatus *status = (const Godwit__VmStatus *)step->order;

    if (status->latch->latch == GODWIT__LATCH__LATCH_RELEASED)
        backends_leave(status->spec, step->vm_id, status->latch->generation);
    else
        backends_drop_landed(status->spec, step->vm_id);
}

static void tidy_done(void *data)
{
    struct step *step = data;
    struct vm_entry *entry = vm_table_find(step->orders->table, step->vm_id);

    step->orders->workers--;
    if (entry) {
        entry->tidying = false;
        entry->disks_move_id[0] = 0;
        (void)vm_entry_keep_disks_move(entry, NULL); /* else its start looks once more */
    }
    if (!step->orders->stopped)
        take_up_held(step->orders, step->vm_id, false);
    step_free(step);
}

static bool is_to_tidy(const struct vm_entry *entry)
{
    const Godwit__VmStatus *status = entry->status;

    if (status->state != GODWIT__VM_STATE__VM_STATE_GONE || !status->spec || !status->latch ||
        !status->latch->move_id || vm_entry_is_domain(entry) || !vm_spec_tying_disk(status->spec))
        return false;
    switch (status->latch->latch) {
    case GODWIT__LATCH__LATCH_RELEASED: /* by that very order, and by no other */
        return entry->disks_move_id[0] &&
               strcmp(entry->disks_move_id, status->latch->move_id) == 0;
    case GODWIT__LATCH__LATCH_ABANDONED:
        return true;
    default:
        return false;
    }
}

static bool tidy(struct orders *orders, struct vm_entry *entry)
{
    struct fault fault = {0};
    struct step *step = NULL;

    if (entry->tidying)
        return true;
    if (!is_to_tidy(entry))
        return false;
    int r = step_new(&step, orders, entry->id, &entry->status->base, NULL, &fault);
    if (r == 0) {
        orders->workers++;
        r = loop_work(orders->loop, tidy_work, tidy_done, step);
    }
    if (r == 0) {
        entry->tidying = true;
        return true;
    }
    if (step) {
        orders->workers--;
        step_free(step);
    }
    log_error("orders", "a disk that moved stays here vm=%s: no worker to put it away", entry->id);
    return false;
}

/* One that an agent before us had begun. Those that wait for what it comes to are its own order, said again. */
static void half_started_ended(struct orders *orders, struct vm_entry *entry)
{
    struct fault fault = {0};
    bool has_run = entry->status->generation == entry->starting_generation;

    (void)fault_set(&fault, ERR_REFUSED, "it was stopped while it was being started");
    entry->start_ends = false;
    vm_table_refuse(orders->table, entry->id, entry->starting_generation);
    struct held_order *held =
        held_orders_take(&orders->held, entry->id, &godwit__order_vm_start__descriptor);
    for (; held; held = held_order_free(held)) {
        const Godwit__OrderVmStart *order = (const Godwit__OrderVmStart *)held->order;
        if (order->generation == entry->status->generation) /* it had run by then */
            reply_status(held->request, entry);
        else
            refuse_start(orders, order, held->request, &fault);
    }
    answer_start_ends(&entry->stop_waiters, has_run ? entry : NULL, entry->id,
                      entry->starting_generation);
}

void orders_on_ended(struct orders *orders, struct vm_entry *entry)
{
    char vm_id[VM_ID_SIZE];
    memcpy(vm_id, entry->id, sizeof vm_id);

    if (entry->start_ends)
        half_started_ended(orders, entry);
    suspend_on_ended(orders->suspends, entry);
    if (orders->protects)
        protects_on_ended(orders->protects, entry);
    if (entry->stopping) {
        stop_ended(orders, entry); /* the entry may be gone now */
        entry = vm_table_find(orders->table, vm_id);
    }
    if (!entry || !tidy(orders, entry))
        take_up_held(orders, vm_id, false);
}

void orders_on_settled(struct orders *orders)
{
    for (struct vm_entry *entry = vm_table_first(orders->table); entry; entry = entry->next)
        (void)tidy(orders, entry); /* what ended while no agent was looking */
}

/* ---- MOVE_OUT ---- */
static void remember_disks(struct vm_entry *entry, const Godwit__MoveOut *order)
{
    struct fault fault = {0};

    (void)snprintf(entry->disks_move_id, sizeof entry->disks_move_id, "%s",
                   order->goals && order->goals->with_local_disks ? order->move_id : "");
    if (vm_entry_keep_disks_move(entry, &fault) < 0) /* it moves all the same */
        log_warn("orders", "a disk that moves may stay here, too vm=%s: %s", entry->id,
                 fault.text);
}

static void reply_empty(struct rpc_request *request)
{
    Godwit__Empty empty = GODWIT__EMPTY__INIT;

    if (request)
        (void)rpc_reply(request, &empty.base);
}

static void move_out_failed(struct step *step, const struct fault *fault)
{
    struct vm_entry *entry = vm_table_find(step->orders->table, step->vm_id);

    log_warn("orders", "move out failed vm=%s: %s", step->vm_id, fault->text);
    if (entry)
        entry->out_move_id[0] = 0;
    reply_fault(step->request, fault);
    step_free(step);
}

static void move_out_begun(void *data, const ProtobufCMessage *reply, const struct fault *fault)
{
    struct step *step = data;

    if (!reply) {
        move_out_failed(step, fault);
        return;
    }
    log_info("orders", "move begins vm=%s move=%s", step->vm_id,
             ((Godwit__MoveOut *)step->order)->move_id);
    reply_empty(step->request);
    step_free(step);
}

static void move_out_connected(void *data, const int *fds, size_t count, const struct fault *fault)
{
    struct step *step = data;
    struct vm_entry *entry;
    struct fault words = {0};

    if (fault) {
        move_out_failed(step, fault);
        return;
    }
    int r = need_process(step->orders, step->vm_id, &entry, &words);
    if (r == 0)
        r = rpc_call_fds(vm_process_rpc(entry->process), METHOD_VM_MOVE_OUT, step->order, fds,
                         count, &godwit__empty__descriptor, CALL_MS_MAX, move_out_begun, step,
                         &words);
    for (size_t i = 0; i < count; i++)
        (void)close(fds[i]); /* the process has its own, or nobody needs them */
    if (r < 0)
        move_out_failed(step, &words);
}

static unsigned lanes_of(const struct orders *orders, const Godwit__MoveOut *order)
{
    unsigned lanes = order->goals ? order->goals->lanes : 0;

    if (!lanes)
        lanes = host_facts_cpus(orders->facts) / 2;
    if (!lanes)
        lanes = 1;
    if (order->goals && (order->goals->postcopy || order->goals->postcopy_late))
        lanes += 2; /* of its own: for what is asked for, and for the rest */
    return lanes < LANES_MAX ? lanes : LANES_MAX;
}

static void handle_move_out(void *data, struct rpc *rpc, struct rpc_request *request,
                            const ProtobufCMessage *message)
{
    const Godwit__MoveOut *order = (const Godwit__MoveOut *)message;
    struct orders *orders = orders_of(data);
    struct vm_entry *entry = NULL;
    struct fault fault = {0};
    struct step *step = NULL;
    (void)rpc;

    int r = check_incarnation(orders, order->source_incarnation, &fault);
    if (r == 0 && (!order->move_id || !*order->move_id || strlen(order->move_id) >= VM_ID_SIZE ||
                   !order->address))
        r = fault_set(&fault, ERR_INVALID, "a move out without its id or address");
    if (r == 0)
        r = need_process(orders, order->vm_id, &entry, &fault);
    if (r == 0 && strcmp(entry->out_move_id, order->move_id) == 0) {
        reply_empty(request); /* it is under way, or over: its events say which */
        return;
    }
    if (r == 0 && order->generation <= entry->status->generation)
        r = fault_set(&fault, ERR_REFUSED, "%s runs as generation %llu; a move to %llu is too old",
                      entry->status->name ? entry->status->name : entry->id,
                      (unsigned long long)entry->status->generation,
                      (unsigned long long)order->generation);
    if (r == 0)
        r = step_new(&step, orders, entry->id, &order->base, request, &fault);
    if (r < 0) {
        reply_fault(request, &fault);
        return;
    }
    (void)snprintf(entry->out_move_id, sizeof entry->out_move_id, "%s", order->move_id);
    remember_disks(entry, order);
    if (vm_entry_is_domain(entry)) {
        if (rpc_call(vm_process_rpc(entry->process), METHOD_VM_MOVE_OUT, step->order,
                     &godwit__empty__descriptor, CALL_MS_MAX, move_out_begun, step, &fault) < 0)
            move_out_failed(step, &fault);
        return;
    }
    redial_remember(entry, order->address);
    if (move_sockets_connect(orders->loop, order->address, lanes_of(orders, order) + 1,
                             move_out_connected, step, &fault) < 0)
        move_out_failed(step, &fault);
}

/* ---- UPGRADE ---- */
static void handle_upgrade(void *data, struct rpc *rpc, struct rpc_request *request,
                           const ProtobufCMessage *message)
{
    const Godwit__VmUpgrade *order = (const Godwit__VmUpgrade *)message;
    struct orders *orders = orders_of(data);
    struct vm_entry *entry;
    struct fault fault = {0};
    (void)rpc;

    int r = check_incarnation(orders, order->incarnation, &fault);
    if (r == 0)
        r = need_process(orders, order->vm_id, &entry, &fault);
    if (r == 0 && (entry->stopping || entry->attaching))
        r = fault_set(&fault, ERR_BUSY, "%s cannot be upgraded just now",
                      entry->status->name ? entry->status->name : entry->id);
    if (r == 0)
        r = upgrade_begin(orders->upgrades, entry, request, &fault);
    if (r < 0)
        reply_fault(request, &fault);
}

void orders_set_upgrades(struct orders *orders, struct upgrades *upgrades,
                         struct suspends *suspends)
{
    orders->upgrades = upgrades;
    orders->suspends = suspends;
}

/* ---- SUSPEND ---- */
static void handle_suspend(void *data, struct rpc *rpc, struct rpc_request *request,
                           const ProtobufCMessage *message)
{
    const Godwit__VmSuspend *order = (const Godwit__VmSuspend *)message;
    struct orders *orders = orders_of(data);
    struct vm_entry *entry;
    struct fault fault = {0};
    (void)rpc;

    int r = check_incarnation(orders, order->incarnation, &fault);
    if (r == 0)
        r = need_process(orders, order->vm_id, &entry, &fault);
    if (r == 0 && (entry->stopping || entry->attaching))
        r = fault_set(&fault, ERR_BUSY, "%s cannot be suspended just now",
                      entry->status->name ? entry->status->name : entry->id);
    if (r == 0)
        r = suspend_begin(orders->suspends, entry, order, request, &fault);
    if (r < 0)
        reply_fault(request, &fault);
}

/* ---- SNAPSHOTS ---- */
void orders_set_snapshots(struct orders *orders, struct snapshots *snapshots)
{
    orders->snapshots = snapshots;
}

static int take_of(struct orders *orders, const Godwit__OrderSnapshot *order,
                   struct rpc_request *request, struct fault *fault)
{
    struct vm_entry *entry = order->vm_id ? vm_table_find(orders->table, order->vm_id) : NULL;

    if (!order->vm_id || !id_name_is_valid(order->vm_id))
        return fault_set(fault, ERR_INVALID, "a snapshot without its VM");
    if (order->is_stopped) {
        if (entry && (vm_entry_is_alive(entry) || entry->starting))
            return fault_set(fault, ERR_STATE, "it has a process here");
        return order->spec && vm_spec_is_libvirt(order->spec)
                   ? domains_snapshot_take(orders->domains, order, NULL, request, fault)
                   : snapshots_take(orders->snapshots, order, NULL, request, fault);
    }
    int r = need_process(orders, order->vm_id, &entry, fault);
    if (r == 0 && (entry->stopping || entry->attaching))
        r = fault_set(fault, ERR_BUSY, "%s cannot be snapshotted just now",
                      entry->status->name ? entry->status->name : entry->id);
    if (r == 0 && vm_entry_is_domain(entry))
        return domains_snapshot_take(orders->domains, order, entry, request, fault);
    return r < 0 ? r : snapshots_take(orders->snapshots, order, entry, request, fault);
}

static void handle_snapshot_take(void *data, struct rpc *rpc, struct rpc_request *request,
                                 const ProtobufCMessage *message)
{
    const Godwit__OrderSnapshot *order = (const Godwit__OrderSnapshot *)message;
    struct orders *orders = orders_of(data);
    struct fault fault = {0};
    (void)rpc;

    int r = check_incarnation(orders, order->incarnation, &fault);
    if (r == 0)
        r = take_of(orders, order, request, &fault);
    if (r < 0)
        reply_fault(request, &fault);
}

static void handle_snapshot_remove(void *data, struct rpc *rpc, struct rpc_request *request,
                                   const ProtobufCMessage *message)
{
    const Godwit__OrderSnapshot *order = (const Godwit__OrderSnapshot *)message;
    struct orders *orders = orders_of(data);
    const Godwit__SnapshotInfo *info = snapshots_find(orders->snapshots, order->id);
    struct fault fault = {0};
    (void)rpc;

    int r = request && info && info->is_libvirt
                ? domains_snapshot_remove(orders->domains, info, request, &fault)
                : snapshots_remove(orders->snapshots, order, request, &fault);
    if (r < 0)
        reply_fault(request, &fault);
}

static void handle_snapshot_check(void *data, struct rpc *rpc, struct rpc_request *request,
                                  const ProtobufCMessage *message)
{
    const Godwit__OrderSnapshot *order = (const Godwit__OrderSnapshot *)message;
    struct orders *orders = orders_of(data);
    const Godwit__SnapshotInfo *info = snapshots_find(orders->snapshots, order->id);
    struct fault fault = {0};
    (void)rpc;

    int r = request && info && info->is_libvirt
                ? domains_snapshot_check(orders->domains, info, request, &fault)
                : snapshots_check(orders->snapshots, order, request, &fault);
    if (r < 0)
        reply_fault(request, &fault);
}

/* ---- disaster recovery: see protects.h and standbys.h ---- */
void orders_set_dr(struct orders *orders, struct protects *protects, struct standbys *standbys)
{
    orders->protects = protects;
    orders->standbys = standbys;
    orders->twins.standbys = standbys;
}

static void wipe(const ProtobufCBinaryData *secret)
{
    if (secret->len)
        explicit_bzero(secret->data, secret->len); /* unpacked for us: our memory */
}

static void handle_protect(void *data, struct rpc *rpc, struct rpc_request *request,
                           const ProtobufCMessage *message)
{
    const Godwit__OrderProtect *order = (const Godwit__OrderProtect *)message;
    struct orders *orders = orders_of(data);
    struct vm_entry *entry;
    struct fault fault = {0};
    (void)rpc;

    int r = check_incarnation(orders, order->incarnation, &fault);
    if (r == 0)
        r = need_process(orders, order->vm_id, &entry, &fault);
    if (r == 0)
        r = protects_begin(orders->protects, entry, order, request, &fault);
    wipe(&order->psk);
    if (r < 0)
        reply_fault(request, &fault);
}

static void handle_protect_finish(void *data, struct rpc *rpc, struct rpc_request *request,
                                  const ProtobufCMessage *message)
{
    const Godwit__OrderProtectFinish *order = (const Godwit__OrderProtectFinish *)message;
    struct vm_entry *entry;
    struct fault fault = {0};
    (void)rpc;

    int r = need_process(orders_of(data), order->vm_id, &entry, &fault);
    if (r == 0)
        r = protects_finish(orders_of(data)->protects, entry, order, request, &fault);
    if (r < 0)
        reply_fault(request, &fault);
}

/* Without a process nothing is replicated: as wanted. */
static void handle_protect_end(void *data, struct rpc *rpc, struct rpc_request *request,
                               const ProtobufCMessage *message)
{
    const Godwit__OrderProtectEnd *order = (const Godwit__OrderProtectEnd *)message;
    struct orders *orders = orders_of(data);
    struct vm_entry *entry = vm_table_find(orders->table, order->vm_id);
    struct fault fault = {0};
    (void)rpc;

    if (!entry || !vm_entry_is_alive(entry)) {
        reply_empty(request);
        return;
    }
    int r = need_process(orders, order->vm_id, &entry, &fault);
    if (r == 0)
        r = protects_end(orders->protects, entry, order, request, &fault);
    if (r < 0)
        reply_fault(request, &fault);
}

static void handle_replica_in(void *data, struct rpc *rpc, struct rpc_request *request,
                              const ProtobufCMessage *message)
{
    const Godwit__OrderReplicaIn *order = (const Godwit__OrderReplicaIn *)message;
    struct fault fault = {0};
    (void)rpc;

    if (check_incarnation(orders_of(data), order->incarnation, &fault) < 0)
        reply_fault(request, &fault);
    else
        standbys_in(orders_of(data)->standbys, order, request);
    wipe(&order->psk);
}

static void handle_replica_copy(void *data, struct rpc *rpc, struct rpc_request *request,
                                const ProtobufCMessage *message)
{
    const Godwit__OrderReplicaCopy *order = (const Godwit__OrderReplicaCopy *)message;
    struct fault fault = {0};
    (void)rpc;

    if (check_incarnation(orders_of(data), order->incarnation, &fault) < 0)
        reply_fault(request, &fault);
    else
        standby_twin_make(&orders_of(data)->twins, order, request);
}

static void handle_replica_take(void *data, struct rpc *rpc, struct rpc_request *request,
                                const ProtobufCMessage *message)
{
    const Godwit__OrderReplicaTake *order = (const Godwit__OrderReplicaTake *)message;
    struct fault fault = {0};
    (void)rpc;

    if (check_incarnation(orders_of(data), order->incarnation, &fault) < 0)
        reply_fault(request, &fault);
    else
        standbys_take(orders_of(data)->standbys, order, request);
}

static void handle_replica_drop(void *data, struct rpc *rpc, struct rpc_request *request,
                                const ProtobufCMessage *message)
{
    (void)rpc;
    standbys_drop(orders_of(data)->standbys, (const Godwit__OrderReplicaDrop *)message, request);
}

static void handle_snapshot_clone(void *data, struct rpc *rpc, struct rpc_request *request,
                                  const ProtobufCMessage *message)
{
    const Godwit__OrderSnapshotClone *order = (const Godwit__OrderSnapshotClone *)message;
    struct orders *orders = orders_of(data);
    struct fault fault = {0};
    (void)rpc;

    int r = check_incarnation(orders, order->incarnation, &fault);
    if (r == 0)
        r = snapshots_clone(orders->snapshots, order, request, &fault);
    if (r < 0)
        reply_fault(request, &fault);
}

/* ---- consoles: see console_order.h ---- */
static void handle_attach(void *data, struct rpc *rpc, struct rpc_request *request,
                          const ProtobufCMessage *message)
{
    const Godwit__ConsoleAttach *order = (const Godwit__ConsoleAttach *)message;
    struct orders *orders = orders_of(data);
    struct vm_entry *entry;
    struct fault fault = {0};
    (void)rpc;

    if (need_process(orders, order->vm_id, &entry, &fault) < 0)
        reply_fault(request, &fault);
    else
        console_order_attach(orders->table, entry, order, request);
}

static void handle_input(void *data, struct rpc *rpc, struct rpc_request *request,
                         const ProtobufCMessage *message)
{
    const Godwit__ConsoleData *input = (const Godwit__ConsoleData *)message;
    struct vm_entry *entry = NULL;
    struct fault fault = {0};

    if (need_process(orders_of(data), input->vm_id, &entry, &fault) < 0)
        log_debug("orders", "console input dropped: %s", fault.text);
    console_order_input(entry, rpc, input);
    reply_empty(request);
}

void orders_on_lost(struct orders *orders)
{
    console_order_detach_all(orders->table);
}

/* ---- what the coordinator asks of stores: see store_question ---- */
static void handle_stamp_read(void *data, struct rpc *rpc, struct rpc_request *request,
                              const ProtobufCMessage *message)
{
    (void)rpc;
    store_question_stamp(&orders_of(data)->questions, (const Godwit__OrderStampRead *)message,
                         request);
}

static void handle_store_word(void *data, struct rpc *rpc, struct rpc_request *request,
                              const ProtobufCMessage *message)
{
    struct orders *orders = orders_of(data);
    const Godwit__OrderStoreWord *order = (const Godwit__OrderStoreWord *)message;
    (void)rpc;
    if (request && order->spec && vm_spec_is_libvirt(order->spec)) {
        domains_word(orders->domains, order, request);
        return;
    }
    store_question_word(&orders_of(data)->questions, (const Godwit__OrderStoreWord *)message,
                        request);
}

static void handle_disk_move(void *data, struct rpc *rpc, struct rpc_request *request,
                             const ProtobufCMessage *message)
{
    (void)rpc;
    disk_order(&orders_of(data)->disks, (const Godwit__OrderDiskMove *)message, request);
}

static void handle_store_look(void *data, struct rpc *rpc, struct rpc_request *request,
                              const ProtobufCMessage *message)
{
    (void)rpc;
    store_look(&orders_of(data)->questions, (const Godwit__OrderStoreLook *)message, request);
}

static void handle_move_check(void *data, struct rpc *rpc, struct rpc_request *request,
                              const ProtobufCMessage *message)
{
    struct orders *orders = orders_of(data);
    const Godwit__OrderMoveCheck *order = (const Godwit__OrderMoveCheck *)message;
    (void)rpc;
    if (request && order->spec && vm_spec_is_libvirt(order->spec)) {
        domains_check(orders->domains, order, host_facts_name(orders->facts), request);
        return;
    }
    store_question_move(&orders_of(data)->questions, (const Godwit__OrderMoveCheck *)message,
                        request);
}

static void handle_domain(void *data, struct rpc *rpc, struct rpc_request *request,
                          const ProtobufCMessage *message)
{
    (void)rpc;
    if (request)
        domains_read(orders_of(data)->domains, ((const Godwit__VmAction *)message)->vm_id, request);
}

static void handle_autostart_off(void *data, struct rpc *rpc, struct rpc_request *request,
                                 const ProtobufCMessage *message)
{
    (void)rpc;
    if (request)
        domains_autostart_off(orders_of(data)->domains,
                              ((const Godwit__VmAction *)message)->vm_id, request);
}

/* ---- logs ---- */
static void logs_work(void *data)
{
    struct step *step = data;
    struct stat status;

    AUTO_FD int fd = open(step->path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 && errno == ENOENT)
        return; /* it never ran here: an empty log */
    if (fd < 0 || fstat(fd, &status) < 0) {
        (void)fault_set_errno(&step->fault, ERR_IO, errno, "reading the console log");
        return;
    }
    uint64_t size = (uint64_t)status.st_size;
    uint64_t count = size < step->tail_bytes ? size : step->tail_bytes;
    step->bytes = malloc(count ? count : 1);
    if (!step->bytes) {
        (void)fault_set(&step->fault, ERR_NOMEM, "no memory for the console log");
        return;
    }
    ssize_t n = pread(fd, step->bytes, count, (off_t)(size - count));
    if (n < 0)
        (void)fault_set_errno(&step->fault, ERR_IO, errno, "reading the console log");
    else
        step->count = (size_t)n;
}

static void logs_done(void *data)
{
    struct step *step = data;
    Godwit__LogsReply reply = GODWIT__LOGS_REPLY__INIT;

    reply.has_data = true;
    reply.data = (ProtobufCBinaryData){.len = step->count, .data = step->bytes};
    if (step->fault.code)
        reply_fault(step->request, &step->fault);
    else if (step->request)
        (void)rpc_reply(step->request, &reply.base);
    step_free(step);
}

static void handle_logs(void *data, struct rpc *rpc, struct rpc_request *request,
                        const ProtobufCMessage *message)
{
    const Godwit__OrderLogs *order = (const Godwit__OrderLogs *)message;
    struct orders *orders = orders_of(data);
    struct vm_entry *entry = vm_table_find(orders->table, order->vm_id);
    struct fault fault = {0};
    struct step *step = NULL;
    (void)rpc;

    int r = entry ? step_new(&step, orders, entry->id, NULL, request, &fault)
                  : fault_set(&fault, ERR_NOT_FOUND, "this host has no VM %s",
                              order->vm_id ? order->vm_id : "");
    if (r == 0)
        r = vm_entry_state_path(entry, "console.log", step->path, &fault);
    if (r == 0) {
        step->tail_bytes = order->has_tail_bytes && order->tail_bytes < LOG_TAIL_MAX
                               ? order->tail_bytes
                               : LOG_TAIL_MAX;
        r = loop_work(orders->loop, logs_work, logs_done, step);
        if (r < 0)
            (void)fault_set(&fault, r, "no worker to read the log");
    }
    if (r < 0) {
        if (step)
            step_free(step);
        reply_fault(request, &fault);
    }
}

/* ---- HA: other hosts ---- */
struct asking { /* a PROBE under way */
    struct orders *orders;
    struct rpc_request *request;
    char host[VM_ID_SIZE];
};

static void probed(void *data, bool reached, const char *incarnation)
{
    AUTO_FREE struct asking *asking = data;
    Godwit__ProbeReply reply = GODWIT__PROBE_REPLY__INIT;
    uint64_t age_ms =
        asking->orders->beat ? store_beat_age_ms(asking->orders->beat, asking->host) : UINT64_MAX;

    reply.has_reached = true;
    reply.reached = reached;
    reply.incarnation = (char *)(uintptr_t)incarnation; /* protobuf-c knows no const */
    reply.has_storage_age_ms = age_ms != UINT64_MAX;
    reply.storage_age_ms = age_ms;
    (void)rpc_reply(asking->request, &reply.base);
}

static void handle_probe(void *data, struct rpc *rpc, struct rpc_request *request,
                         const ProtobufCMessage *message)
{
    const Godwit__OrderProbe *order = (const Godwit__OrderProbe *)message;
    struct orders *orders = orders_of(data);
    struct asking *asking = request && order->host ? calloc(1, sizeof *asking) : NULL;
    (void)rpc;

    if (!asking) {
        struct fault fault = {0};
        (void)fault_set(&fault, ERR_INVALID, "a probe needs a host");
        reply_fault(request, &fault);
        return;
    }
    asking->orders = orders;
    asking->request = request;
    (void)snprintf(asking->host, sizeof asking->host, "%s", order->host);
    if (orders->beat) /* watched from now on, so that the answer can tell its age */
        (void)store_beat_age_ms(orders->beat, order->host);
    if (orders->peers && order->address && order->address[0])
        peers_probe(orders->peers, order->host, order->address, probed, asking);
    else
        probed(asking, false, NULL);
}

static void evict_told(void *data, bool evicted)
{
    Godwit__EvictReply reply = GODWIT__EVICT_REPLY__INIT;

    reply.has_evicted = true;
    reply.evicted = evicted;
    (void)rpc_reply(data, &reply.base);
}

static void handle_evict(void *data, struct rpc *rpc, struct rpc_request *request,
                         const ProtobufCMessage *message)
{
    const Godwit__OrderEvict *order = (const Godwit__OrderEvict *)message;
    struct orders *orders = orders_of(data);
    struct fault fault = {0};
    (void)rpc;

    if (!request)
        return;
    if (!orders->beat || !order->host || !order->incarnation || !order->nonce) {
        (void)fault_set(&fault, ERR_UNSUPPORTED, "this host shares no store with %s",
                        order->host ? order->host : "anybody");
        reply_fault(request, &fault);
        return;
    }
    uint64_t wait_ms = order->wait_ms && order->wait_ms < 30000 ? order->wait_ms : 3000;
    store_beat_evict(orders->beat, order->host, order->incarnation, order->nonce, wait_ms,
                     evict_told, request);
}

void orders_set_ha(struct orders *orders, struct peers *peers, struct store_beat *beat,
                   struct quarantine *quarantine)
{
    orders->peers = peers;
    orders->beat = beat;
    orders->quarantine = quarantine;
}

void orders_set_domains(struct orders *orders, struct domains *domains)
{
    orders->domains = domains;
}

void orders_set_images(struct orders *orders, struct images *images)
{
    orders->images = images;
}

/* ---- images: see images.h ---- */
#define ORDERS_IMAGE(verb, type)                                                                   \
    static void handle_image_##verb(void *data, struct rpc *rpc, struct rpc_request *request,      \
                                    const ProtobufCMessage *message)                               \
    {                                                                                              \
        (void)rpc;                                                                                 \
        if (request)                                                                               \
            images_##verb(orders_of(data)->images, (const type *)message, request);                \
    }
ORDERS_IMAGE(begin, Godwit__OrderImageBegin)
ORDERS_IMAGE(chunk, Godwit__ImageChunk)
ORDERS_IMAGE(end, Godwit__OrderImageEnd)
ORDERS_IMAGE(fetch, Godwit__OrderImageFetch)
ORDERS_IMAGE(clone, Godwit__OrderImageClone)
ORDERS_IMAGE(remove, Godwit__OrderImageRemove)
ORDERS_IMAGE(read, Godwit__ImageReadRequest)
#undef ORDERS_IMAGE

void orders_on_quarantine(struct orders *orders, const struct Godwit__AgentWelcome *welcome,
                          void (*done)(void *data), void *data)
{
    quarantine_begin(orders->quarantine, welcome, done, data);
}

static const struct rpc_method orders_table[] = {
    {METHOD_ORDER_VM_START, &godwit__order_vm_start__descriptor, handle_start},
    {METHOD_ORDER_VM_STOP, &godwit__order_vm_stop__descriptor, handle_stop},
    {METHOD_ORDER_VM_PAUSE, &godwit__vm_action__descriptor, handle_pause},
    {METHOD_ORDER_VM_POWER_BUTTON, &godwit__vm_action__descriptor, handle_power_button},
    {METHOD_ORDER_VM_REBOOT, &godwit__vm_action__descriptor, handle_reboot},
    {METHOD_ORDER_VM_RESET, &godwit__vm_action__descriptor, handle_reset},
    {METHOD_ORDER_VM_RESUME, &godwit__vm_action__descriptor, handle_resume},
    {METHOD_ORDER_MOVE_IN, &godwit__move_in__descriptor, handle_move_in},
    {METHOD_ORDER_MOVE_OUT, &godwit__move_out__descriptor, handle_move_out},
    {METHOD_ORDER_MOVE_VERDICT, &godwit__move_verdict__descriptor, handle_verdict},
    {METHOD_ORDER_MOVE_TUNE, &godwit__move_tune__descriptor, handle_tune},
    {METHOD_ORDER_CONSOLE_ATTACH, &godwit__console_attach__descriptor, handle_attach},
    {METHOD_ORDER_CONSOLE_INPUT, &godwit__console_data__descriptor, handle_input},
    {METHOD_ORDER_LOGS, &godwit__order_logs__descriptor, handle_logs},
    {METHOD_ORDER_STAMP_READ, &godwit__order_stamp_read__descriptor, handle_stamp_read},
    {METHOD_ORDER_STORE_WORD, &godwit__order_store_word__descriptor, handle_store_word},
    {METHOD_ORDER_STORE_LOOK, &godwit__order_store_look__descriptor, handle_store_look},
    {METHOD_ORDER_DISK_MOVE, &godwit__order_disk_move__descriptor, handle_disk_move},
    {METHOD_ORDER_MOVE_CHECK, &godwit__order_move_check__descriptor, handle_move_check},
    {METHOD_ORDER_VM_COUNTERS, &godwit__vm_action__descriptor, handle_counters},
    {METHOD_ORDER_VM_SAMPLE, &godwit__vm_action__descriptor, handle_sample},
    {METHOD_ORDER_VM_STATUS, &godwit__vm_action__descriptor, handle_status},
    {METHOD_ORDER_DOMAIN, &godwit__vm_action__descriptor, handle_domain},
    {METHOD_ORDER_DOMAIN_AUTOSTART_OFF, &godwit__vm_action__descriptor, handle_autostart_off},
    {METHOD_ORDER_VM_SUSPEND, &godwit__vm_suspend__descriptor, handle_suspend},
    {METHOD_ORDER_SNAPSHOT_TAKE, &godwit__order_snapshot__descriptor, handle_snapshot_take},
    {METHOD_ORDER_SNAPSHOT_REMOVE, &godwit__order_snapshot__descriptor, handle_snapshot_remove},
    {METHOD_ORDER_SNAPSHOT_CHECK, &godwit__order_snapshot__descriptor, handle_snapshot_check},
    {METHOD_ORDER_REPLICA_IN, &godwit__order_replica_in__descriptor, handle_replica_in},
    {METHOD_ORDER_PROTECT, &godwit__order_protect__descriptor, handle_protect},
    {METHOD_ORDER_PROTECT_FINISH, &godwit__order_protect_finish__descriptor, handle_protect_finish},
    {METHOD_ORDER_PROTECT_END, &godwit__order_protect_end__descriptor, handle_protect_end},
    {METHOD_ORDER_REPLICA_TAKE, &godwit__order_replica_take__descriptor, handle_replica_take},
    {METHOD_ORDER_REPLICA_DROP, &godwit__order_replica_drop__descriptor, handle_replica_drop},
    {METHOD_ORDER_REPLICA_COPY, &godwit__order_replica_copy__descriptor, handle_replica_copy},
    {METHOD_ORDER_SNAPSHOT_CLONE, &godwit__order_snapshot_clone__descriptor, handle_snapshot_clone},
    {METHOD_ORDER_VM_UPGRADE, &godwit__vm_upgrade__descriptor, handle_upgrade},
    {METHOD_ORDER_PROBE, &godwit__order_probe__descriptor, handle_probe},
    {METHOD_ORDER_EVICT, &godwit__order_evict__descriptor, handle_evict},
    {METHOD_ORDER_IMAGE_BEGIN, &godwit__order_image_begin__descriptor, handle_image_begin},
    {METHOD_ORDER_IMAGE_CHUNK, &godwit__image_chunk__descriptor, handle_image_chunk},
    {METHOD_ORDER_IMAGE_END, &godwit__order_image_end__descriptor, handle_image_end},
    {METHOD_ORDER_IMAGE_FETCH, &godwit__order_image_fetch__descriptor, handle_image_fetch},
    {METHOD_ORDER_IMAGE_CLONE, &godwit__order_image_clone__descriptor, handle_image_clone},
    {METHOD_ORDER_IMAGE_SEAL, &godwit__order_image_seal__descriptor, handle_image_seal},
    {METHOD_ORDER_IMAGE_REMOVE, &godwit__order_image_remove__descriptor, handle_image_remove},
    {METHOD_ORDER_IMAGE_READ, &godwit__image_read_request__descriptor, handle_image_read},
};

const struct rpc_method *orders_methods(size_t *ret_count)
{
    *ret_count = ARRAY_COUNT(orders_table);
    return orders_table;
}

int orders_new(struct orders **ret_orders, struct loop *loop, struct vm_table *table,
               struct host_facts *facts, const char *boot_reader, struct fault *fault)
{
    struct orders *orders = calloc(1, sizeof *orders);
    if (!orders)
        return fault_set(fault, ERR_NOMEM, "no memory for the orders");
    orders->loop = loop;
    orders->table = table;
    orders->facts = facts;
    orders->boot_reader = boot_reader;
    orders->questions = (struct store_questions){.loop = loop, .facts = facts};
    orders->disks = (struct disk_orders){.loop = loop, .table = table, .facts = facts};
    orders->twins = (struct standby_twins){.loop = loop, .table = table};
    *ret_orders = orders;
    return 0;
}

void orders_stop(struct orders *orders)
{
    if (!orders)
        return;
    orders->stopped = true;
    while (orders->workers)
        loop_turn(orders->loop, true); /* each holds a pointer to us */
    store_questions_wait(&orders->questions);
    disk_orders_wait(&orders->disks);
    standby_twins_stop(&orders->twins);
}

struct orders *orders_free(struct orders *orders)
{
    if (orders)
        held_orders_deinit(&orders->held);
    while (orders && orders->failed) {
        struct step *step = orders->failed;
        orders->failed = step->next_failed;
        step_free(step);
    }
    if (orders)
        standby_twins_free(&orders->twins);
    free(orders);
    return NULL;
}

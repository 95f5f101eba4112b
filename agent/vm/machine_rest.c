/* Into a file and out of it. A guest that goes on from one may run before all of it is read (guest_pager): until
 * then nobody else is to have it, and a page that cannot be read stands it still for good. */
#include "agent/vm/machine_inside.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/vm/disk_move.h"
#include "agent/vm/guest_port.h"
#include "agent/vm/latch_file.h"
#include "agent/vm/notice.h"
#include "agent/vm/rest.h"
#include "agent/vm/snapshot.h"
#include "base/err.h"
#include "base/failpoint.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/own.h"
#include "base/world.h"
#include "migrate/guest.h"
#include "migrate/guest_file.h"
#include "migrate/guest_pager.h"
#include "migrate/guest_snapshot.h"
#include "proto/limits.h"
#include "proto/vm_spec.h"
#include "storage/guest_label.h"
#include "vmm-core/vm.h"

/* ---- at rest in a file ---- */
static void suspended(void *data, const struct guest_file_counts *counts,
                      const struct fault *fault);

static void tell_rested(struct machine *machine, const struct fault *fault)
{
    void (*done)(void *data, const struct fault *fault) = machine->rest_done;

    machine->rest_done = NULL;
    if (done)
        done(machine->rest_data, fault);
}

/* Worker: from here on this process is the one that goes on. */
static void before_consume(void *data)
{
    struct machine *machine = data;

    machine_record_set_generation(machine, machine->rest_generation);
}

static void log_pager(struct machine *machine, const char *what)
{
    struct guest_pager_counts counts;

    guest_pager_counts(machine->pager, &counts);
    log_info("machine",
             "%s vm=%s pages=%llu bytes=%llu left=%llu faults=%llu fault_pages=%llu ms=%llu", what,
             machine->config.vm_id, (unsigned long long)counts.pages,
             (unsigned long long)counts.bytes, (unsigned long long)counts.pages_left,
             (unsigned long long)counts.faults, (unsigned long long)counts.fault_pages,
             (unsigned long long)(counts.ns / NS_PER_MS));
}

static void tell_restored(struct machine *machine)
{
    if (machine_hears(machine))
        notice_resumed(machine->notice, NOTICE_KIND_SUSPEND, NULL, NULL,
                       machine->host[0] ? machine->host : NULL);
}

static void restored(void *data, const struct guest_file_counts *counts, const struct fault *fault)
{
    struct machine *machine = data;
    const struct guest_file_counts done = *counts; /* the rest's own */
    struct fault words = {0};

    if (fault)
        words = *fault;
    else
        machine->pager = rest_take_pager(machine->rest);
    machine->rest = rest_free(machine->rest);
    if (!words.code) {
        machine_take_cmdline(machine);
        if (!machine->rest_vm_id[0]) /* what its twin did is not its own */
            (void)guest_port_take_counters(machine->port, &machine->counters); /* else from zero */
        machine->paused = guest_port_stays_paused(machine->port);
        if (machine->pager)
            guest_pager_run(machine->pager); /* it runs already */
        else if (!machine->paused)
            (void)guest_port_resume(machine->port, &words);
    }
    if (words.code) {
        machine_unbuild(machine);
        machine_record_set_generation(machine, 0);
        machine->state = GODWIT__VM_STATE__VM_STATE_NONE;
        loop_timer_start(machine->over_timer, MACHINE_ENDED_LINGER_MS, 0);
        tell_rested(machine, &words);
        return;
    }
    machine_set_state(machine,
                      machine->paused ? GODWIT__VM_STATE__VM_STATE_PAUSED
                                      : GODWIT__VM_STATE__VM_STATE_RUNNING,
                      "%s", "");
    if (machine->pager) {
        log_pager(machine, "goes on while its file is read");
        atomic_store(&machine->waits_for_guest, false);
    } else {
        log_info("machine", "goes on from its file vm=%s pages=%llu bytes=%llu ms=%llu",
                 machine->config.vm_id, (unsigned long long)done.pages,
                 (unsigned long long)done.bytes, (unsigned long long)(done.ns / NS_PER_MS));
        tell_restored(machine);
    }
    tell_rested(machine, NULL);
    machine_take_pending(machine); /* one that ran already may have ended itself */
}

/* ---- its memory comes behind it ---- */
/* From the pager's thread: all of it is here, or (with a fault) a part of it will never be. */
struct pager_note {
    struct machine *machine;
    unsigned epoch;
    struct fault fault; /* code 0: whole */
};

static void on_whole(struct machine *machine)
{
    log_pager(machine, "has all of its memory");
    machine->pager = guest_pager_free(machine->pager);
    machine->seq++;
    machine->config.on_state(machine->config.data);
    tell_restored(machine);
    machine_take_pending(machine); /* a disk that waits: nobody could be paused for it before */
}

/* It is not ended: what it had begun with its disks may be at rest by now, and an operator decides. */
static void on_lost(struct machine *machine, const struct fault *fault)
{
    machine->is_lost = machine->paused = true;
    vm_halt(machine->vm);
    log_error("machine", "it stands still for good vm=%s: %s", machine->config.vm_id, fault->text);
    machine_set_state(machine, GODWIT__VM_STATE__VM_STATE_PAUSED, "its memory cannot be read: %s",
                      fault->text);
}

static void pager_note_posted(void *data)
{
    struct pager_note *note = data;
    struct machine *machine = note->machine;

    if (note->epoch == atomic_load(&machine->epoch) && machine->pager && !machine->is_lost) {
        if (note->fault.code)
            on_lost(machine, &note->fault);
        else
            on_whole(machine);
    }
    free(note);
}

static int post_pager_note(struct machine *machine, const struct fault *fault)
{
    struct pager_note *note = calloc(1, sizeof *note);
    if (!note)
        return ERR_NOMEM;
    note->machine = machine;
    note->epoch = atomic_load(&machine->epoch);
    if (fault)
        note->fault = *fault;
    int r = loop_post(machine->config.loop, pager_note_posted, note);
    if (r < 0)
        free(note);
    return r;
}

static void on_pager_whole(void *data)
{
    struct machine *machine = data;

    if (post_pager_note(machine, NULL) < 0)
        log_error("machine", "no memory to be told that all memory is here vm=%s",
                  machine->config.vm_id); /* it counts as busy until it is stopped */
}

/* Whoever waits for a page that cannot be read waits on. Where the loop may be among them, all end with the process:
 * let go, they would read zeros, and a device would write them to a disk. */
static void on_pager_lost(void *data, const struct fault *fault)
{
    struct machine *machine = data;

    atomic_store(&machine->pager_lost, true);
    if (atomic_load(&machine->waits_for_guest) || post_pager_note(machine, fault) < 0)
        machine_move_on_lost(machine, fault);
}

static int begin_rest(struct machine *machine, const char *nonce, uint64_t generation, bool is_load,
                      int *file, struct fault *fault)
{
    struct rest_config config = {
        .loop = machine->config.loop,
        .guest = guest_port_guest(machine->port),
        .label = {.generation = generation},
        .is_load = is_load,
        .is_lazy = is_load && machine->paging_nonce[0],
        .whole = on_pager_whole,
        .lost = on_pager_lost,
        .keeps_file = is_load && machine->rest_is_kept,
        .before_consume = before_consume,
        .consumed_by = machine->rest_generation,
        .done = is_load ? restored : suspended,
        .data = machine,
    };
    if (!nonce || !*nonce || strlen(nonce) >= sizeof config.label.nonce)
        return fault_set(fault, ERR_INVALID, "a guest's file without a fit nonce");
    (void)snprintf(config.label.vm_id, sizeof config.label.vm_id, "%s",
                   is_load && machine->rest_vm_id[0] ? machine->rest_vm_id : machine->config.vm_id);
    (void)snprintf(config.label.nonce, sizeof config.label.nonce, "%s", nonce);
    int r = rest_new(&machine->rest, &config, *file, fault);
    if (r == 0)
        *file = -1;
    return r;
}

/* Build the machine and fill it from the file; it runs, or is told not to, when that is done. */
int machine_rest_restore(struct machine *machine, const Godwit__VmCreate *order, int *file,
                         struct fault *fault)
{
    const char *of = order->file_vm_id ? order->file_vm_id : "";
    if (strlen(of) >= sizeof machine->rest_vm_id || (of[0] && !order->is_snapshot))
        return fault_set(fault, ERR_INVALID, "a file of another VM that is no snapshot");
    (void)snprintf(machine->rest_vm_id, sizeof machine->rest_vm_id, "%s", of);
    (void)snprintf(machine->paging_nonce, sizeof machine->paging_nonce, "%s",
                   order->lazy ? order->suspend_nonce : "");
    atomic_store(&machine->waits_for_guest, true); /* until it runs */
    int r = machine_build(machine, -1, fault);
    if (r == 0)
        r = vm_start(machine->vm, fault);
    machine->rest_generation = order->generation;
    machine->rest_is_kept = order->is_snapshot;
    if (r == 0)
        r = begin_rest(machine, order->suspend_nonce, order->suspend_generation, true, file, fault);
    return r;
}

/* ---- into a file ---- */
static void run_on(struct machine *machine)
{
    struct fault fault = {0};

    if (!machine->paused && !machine->has_pending && guest_port_resume(machine->port, &fault) < 0)
        log_error("machine", "it cannot run on vm=%s: %s", machine->config.vm_id, fault.text);
    machine_set_state(machine,
                      machine->paused ? GODWIT__VM_STATE__VM_STATE_PAUSED
                                      : GODWIT__VM_STATE__VM_STATE_RUNNING,
                      "%s", "");
    if (machine_hears(machine))
        notice_cancelled(machine->notice, NOTICE_KIND_SUSPEND, NULL);
    machine_take_pending(machine);
}

static void suspended(void *data, const struct guest_file_counts *counts, const struct fault *fault)
{
    struct machine *machine = data;
    const struct guest_file_counts done = *counts; /* the rest's own */
    struct fault words = {0};

    if (fault)
        words = *fault;
    machine->rest = rest_free(machine->rest);
    if (words.code) {
        run_on(machine);
        tell_rested(machine, &words);
        return;
    }
    machine_set_state(machine, GODWIT__VM_STATE__VM_STATE_SUSPENDED, "%s", "");
    log_info("machine", "is in its file vm=%s pages=%llu bytes=%llu ms=%llu", machine->config.vm_id,
             (unsigned long long)done.pages, (unsigned long long)done.bytes,
             (unsigned long long)(done.ns / NS_PER_MS));
    tell_rested(machine, NULL);
}

/* It was told, or need not be: it stands still and goes into its file. */
void machine_rest_suspend_now(struct machine *machine)
{
    struct fault fault = {0};
    AUTO_FD int file = TAKE_FD(machine->suspend_fd);

    machine_replica_end_protect(machine, "the VM is suspended");
    guest_port_guest(machine->port)->was_running = !machine->paused;
    guest_port_guest(machine->port)->takes_counters = true; /* a process of this host reads it */
    guest_port_pause(machine->port);
    if (begin_rest(machine, machine->rest_nonce, machine_record(machine).generation, false, &file,
                   &fault) < 0) {
        run_on(machine);
        tell_rested(machine, &fault);
    }
}

int machine_suspend(struct machine *machine, const Godwit__VmSuspend *order, int file,
                    void (*done)(void *data, const struct fault *fault), void *data,
                    struct fault *fault)
{
    int r = machine_hand_check_is_whole(machine, "be suspended", fault);
    if (r < 0)
        return r;
    if (!order->nonce || !*order->nonce || strlen(order->nonce) >= sizeof machine->rest_nonce)
        return fault_set(fault, ERR_INVALID, "a guest's file without a fit nonce");
    (void)snprintf(machine->rest_nonce, sizeof machine->rest_nonce, "%s", order->nonce);
    machine->rest_done = done;
    machine->rest_data = data;
    machine->suspend_fd = file;
    if (machine_hears(machine))
        notice_prepare(machine->notice, NOTICE_KIND_SUSPEND, NULL,
                       vm_spec_notice_ms(machine->spec));
    else
        machine_rest_suspend_now(machine);
    return 0;
}

int machine_suspend_end(struct machine *machine, bool keep, struct fault *fault)
{
    if (machine->state != GODWIT__VM_STATE__VM_STATE_SUSPENDED)
        return fault_set(fault, ERR_STATE, "%s is not suspended", machine->config.name);
    if (keep)
        machine_end(machine, GODWIT__VM_STATE__VM_STATE_STOPPED, LATCH_ENDING_QUIT, "suspended to a file");
    else
        run_on(machine);
    return 0;
}

/* ---- into a snapshot's files, running ---- */
static void snapshotted(void *data, const struct guest_snapshot_result *result,
                        const struct fault *fault)
{
    struct machine *machine = data;
    const struct guest_snapshot_result done = *result; /* the snapshot's own */
    struct fault words = {0};

    if (fault)
        words = *fault;
    machine->snapshot = snapshot_free(machine->snapshot);
    if (!machine->paused && !vm_is_running(machine->vm) && !machine->has_pending)
        log_error("machine", "it cannot run on vm=%s: %s", machine->config.vm_id, words.text);
    else if (!words.code)
        log_info("machine",
                 "was snapshotted vm=%s pause_us=%llu stop_us=%llu protect_us=%llu save_us=%llu "
                 "disks_us=%llu resume_us=%llu pages=%llu bytes=%llu ms=%llu",
                 machine->config.vm_id, (unsigned long long)(done.pause_ns / 1000),
                 (unsigned long long)(done.parts.stop_ns / 1000),
                 (unsigned long long)(done.parts.protect_ns / 1000),
                 (unsigned long long)(done.parts.save_ns / 1000),
                 (unsigned long long)(done.parts.capture_ns / 1000),
                 (unsigned long long)(done.parts.resume_ns / 1000),
                 (unsigned long long)done.file.pages, (unsigned long long)done.file.bytes,
                 (unsigned long long)(done.file.ns / NS_PER_MS));
    machine->snapshot_done(machine->snapshot_data, &done, words.code ? &words : NULL);
    machine_take_pending(machine);
}

/* Disks in the order of their descriptors; each once, and one that is written. */
static int check_snapshot(const struct machine *machine, const Godwit__VmSnapshot *order,
                          size_t fd_count, struct fault *fault)
{
    int r = machine_hand_check_not_moving(machine, "be snapshotted", fault);
    if (r < 0)
        return r;
    if (machine->state != GODWIT__VM_STATE__VM_STATE_RUNNING &&
        machine->state != GODWIT__VM_STATE__VM_STATE_PAUSED)
        return fault_set(fault, ERR_STATE, "%s does not run here", machine->config.name);
    if (machine->protect)
        return fault_set(fault, ERR_BUSY, "%s is replicated to another host: it cannot be snapshotted "
                                          "until that protection ends",
                         machine->config.name);
    if (machine->disk_move && !disk_move_is_over(machine->disk_move))
        return fault_set(fault, ERR_BUSY, "a disk of %s is moving to another store: it cannot be "
                                          "snapshotted until that has ended",
                         machine->config.name);
    if (order->with_memory && machine->spec->memory->hugepages)
        return fault_set(fault, ERR_UNSUPPORTED,
                         "%s has memory of the 2 MiB page pool, of which there is no snapshot: only "
                         "of its disks",
                         machine->config.name);
    if (!order->snapshot_id || !*order->snapshot_id ||
        strlen(order->snapshot_id) >= GUEST_LABEL_WORD_SIZE || order->n_disks > DISKS_MAX ||
        fd_count != order->n_disks + order->with_memory)
        return fault_set(fault, ERR_INVALID, "a snapshot without a fit id, or without its files");
    for (size_t i = 0; i < order->n_disks; i++) {
        if (order->disks[i] >= machine->spec->n_disks || (i && order->disks[i] <= order->disks[i - 1]))
            return fault_set(fault, ERR_INVALID, "a snapshot of disk %u, which %s has not",
                             order->disks[i], machine->config.name);
    }
    return 0;
}

int machine_snapshot(struct machine *machine, const Godwit__VmSnapshot *order, int *fds,
                     size_t fd_count,
                     void (*done)(void *data, const struct guest_snapshot_result *result,
                                  const struct fault *fault),
                     void *data, struct fault *fault)
{
    int r = check_snapshot(machine, order, fd_count, fault);
    if (r == 0 && machine_wants_backends(machine))
        r = fault_set(fault, ERR_BUSY, "%s still waits for its disks and nics",
                      machine->config.name);
    if (r == 0)
        r = failpoint_reload(fault);
    if (r < 0)
        return r;
    struct snapshot_config config = {
        .loop = machine->config.loop,
        .guest = guest_port_guest(machine->port),
        .memory = vm_memory(machine->vm),
        .label = {.generation = machine_record(machine).generation},
        .disk_count = (unsigned)order->n_disks,
        .done = snapshotted,
        .data = machine,
    };
    (void)snprintf(config.label.vm_id, sizeof config.label.vm_id, "%s", machine->config.vm_id);
    (void)snprintf(config.label.nonce, sizeof config.label.nonce, "%s", order->snapshot_id);
    for (size_t i = 0; i < order->n_disks; i++)
        config.disk_fds[i] = machine->backends.disk_fds[order->disks[i]];
    config.guest->was_running = !machine->paused;
    config.guest->takes_counters = true; /* a process of this host reads it */
    r = snapshot_new(&machine->snapshot, &config, order->with_memory ? fds[0] : -1,
                     fds + order->with_memory, fault);
    if (r < 0)
        return r;
    for (size_t i = 0; i < fd_count; i++)
        fds[i] = -1;
    machine->snapshot_done = done;
    machine->snapshot_data = data;
    return 0;
}

bool machine_await_restored(struct machine *machine,
                            void (*done)(void *data, const struct fault *fault), void *data)
{
    if (!machine->rest)
        return false;
    machine->rest_done = done;
    machine->rest_data = data;
    return true;
}

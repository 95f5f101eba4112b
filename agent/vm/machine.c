/* Three threads meet here. The loop owns everything; a vCPU thread comes with serial bytes and with
 * what the guest did to itself (posted as a note that carries the machine's epoch, so a note of a
 * machine that was rebuilt meanwhile is void); the move's thread sets latches (under latch_mutex,
 * written to the file before the move acts).
 *
 * This file holds the state, the record, building and the end, and what the guest does by itself; machine_create
 * what the agent brings, machine_hand what is done to a VM that stays, machine_move, machine_rest (files, snapshots)
 * and machine_replica what else may become of it. */
#include "agent/vm/machine.h"

#include <assert.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/vm/backend_set.h"
#include "agent/vm/boot_files.h"
#include "agent/vm/console.h"
#include "agent/vm/counters.h"
#include "agent/vm/disk_move.h"
#include "agent/vm/guest_port.h"
#include "agent/vm/latch_file.h"
#include "agent/vm/machine_inside.h"
#include "agent/vm/move.h"
#include "agent/vm/notice.h"
#include "agent/vm/protect.h"
#include "agent/vm/rest.h"
#include "agent/vm/sampler.h"
#include "agent/vm/snapshot.h"
#include "agent/vm/standby.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/own.h"
#include "base/thread.h"
#include "base/world.h"
#include "migrate/guest_pager.h"
#include "proto/limits.h"
#include "proto/vm_spec.h"
#include "vmm-core/cpu_model.h"
#include "vmm-core/guest_memory.h"
#include "vmm-core/vm.h"

enum {
    DISK_TOLD_MS = 1000,
    REST_MS = 300, /* before the memory of a guest that moved away is freed */
};

/* ---- states and the record ---- */
bool machine_state_has_machine(Godwit__VmState state)
{
    return state == GODWIT__VM_STATE__VM_STATE_RUNNING ||
           state == GODWIT__VM_STATE__VM_STATE_PAUSED ||
           state == GODWIT__VM_STATE__VM_STATE_INCOMING ||
           state == GODWIT__VM_STATE__VM_STATE_HELD ||
           state == GODWIT__VM_STATE__VM_STATE_SUSPENDED;
}

struct latch_record machine_record(struct machine *machine)
{
    pthread_mutex_lock(&machine->latch_mutex);
    struct latch_record record = machine->record;
    pthread_mutex_unlock(&machine->latch_mutex);
    return record;
}

/* It has taken its guest and its move is not over, or its file is still being read: pages may be missing, and who
 * touches one waits for it. So the loop touches no memory of the guest. */
bool machine_may_lack_pages(struct machine *machine)
{
    if (machine->pager)
        return true;
    return machine->move && !move_is_source(machine->move) && !machine->in_place &&
           machine_record(machine).latch == GODWIT__LATCH__LATCH_TOOK;
}

/* It has its guest, whose disks and nics are still to come: the agent has to know at once. */
bool machine_wants_backends(struct machine *machine)
{
    return machine->vm && machine_record(machine).generation &&
           !backend_set_is_empty(&machine->backends) && !machine->backends.is_full;
}

__attribute__((format(printf, 3, 4))) void
machine_set_state(struct machine *machine, Godwit__VmState state, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(machine->reason, sizeof machine->reason, format, args);
    va_end(args);
    if (state == GODWIT__VM_STATE__VM_STATE_PAUSED && !machine->reason[0])
        (void)snprintf(machine->reason, sizeof machine->reason, "%s", machine->disk_waits);
    machine->state = state;
    machine->seq++;
    log_info("machine", "state=%s vm=%s generation=%llu%s%s",
             protobuf_c_enum_descriptor_get_value(&godwit__vm_state__descriptor, (int)state)->name,
             machine->config.vm_id, (unsigned long long)machine_record(machine).generation,
             machine->reason[0] ? ": " : "", machine->reason);
    machine->config.on_state(machine->config.data);
}

void machine_record_put_locked(struct machine *machine)
{
    if (machine->latch_file)
        latch_file_put(machine->latch_file, &machine->record);
}

void machine_record_set_generation(struct machine *machine, uint64_t generation)
{
    pthread_mutex_lock(&machine->latch_mutex);
    machine->record.generation = generation;
    machine_record_put_locked(machine);
    pthread_mutex_unlock(&machine->latch_mutex);
}

/* Any thread. */
void machine_die(void)
{
    for (;;)
        (void)kill(getpid(), SIGKILL);
}

void machine_unbuild(struct machine *machine)
{
    if (machine->notice)
        notice_stop(machine->notice);
    /* Whoever waits for a page that is lost is never let go: see on_pager_lost. */
    atomic_store(&machine->waits_for_guest, true);
    if (machine->pager && atomic_load(&machine->pager_lost))
        machine_die();
    if (machine->vm)
        vm_pause(machine->vm); /* no vCPU thread uses the port from here on */
    if (machine->vm && machine->pager)
        vm_wait_quiet(machine->vm); /* a write of a page that is to come would write zeros without the pager */
    machine->pager = guest_pager_free(machine->pager);
    machine->sampler = sampler_free(machine->sampler);
    if (machine->vm)
        counters_add(&machine->counters, machine->vm, false);
    machine->port = guest_port_free(machine->port);
    machine->vm = vm_free(machine->vm);
    machine->backends.disks_attached = machine->backends.nics_attached = 0;
    machine->disk_waits[0] = '\0';
    atomic_fetch_add(&machine->epoch, 1);
}

static void rest_timer_fired(void *data)
{
    struct machine *machine = data;
    thread_stand_back(); /* nothing that this process still does is in a hurry */
    machine_unbuild(machine);
}

void machine_write_ending(struct machine *machine, enum latch_ending ending, const char *reason)
{
    pthread_mutex_lock(&machine->latch_mutex);
    machine->record.ending = (uint8_t)ending;
    snprintf(machine->record.reason, sizeof machine->record.reason, "%.*s",
             (int)sizeof machine->record.reason - 1, reason);
    machine_record_put_locked(machine);
    pthread_mutex_unlock(&machine->latch_mutex);
}

/* The VM is over: memory back, the ending written, the process lingers for who wants to know. */
void machine_end(struct machine *machine, Godwit__VmState state, enum latch_ending ending,
                 const char *reason)
{
    machine_replica_end_protect(machine, reason[0] ? reason : "the VM ended");
    machine->standby = standby_free(machine->standby); /* what arrives there is nobody's any more */
    machine->move = move_free(machine->move);
    if (machine->port)
        guest_port_drop_disks(machine->port);
    /* Giving memory back takes 0.1 s of a core for 512 MiB in small pages. After a move, those who
     * tell of its end and the guest's first steps over there, maybe on the same cores, come first.
     */
    if (state == GODWIT__VM_STATE__VM_STATE_GONE && machine->vm)
        loop_timer_start(machine->rest_timer, REST_MS, 0);
    else
        machine_unbuild(machine);
    machine->disk_move = disk_move_free(machine->disk_move, machine->vm);
    backend_set_deinit(&machine->backends); /* taps go, disks are nobody's any more */

    machine_write_ending(machine, ending, reason);
    console_flush(machine->console);
    machine_set_state(machine, state, "%s", reason);
    loop_timer_start(machine->over_timer,
                     state == GODWIT__VM_STATE__VM_STATE_GONE ? MACHINE_GONE_LINGER_MS
                                                              : MACHINE_ENDED_LINGER_MS,
                     0);
}

static void over_timer_fired(void *data)
{
    struct machine *machine = data;

    if (machine->state == GODWIT__VM_STATE__VM_STATE_INCOMING && machine->move) {
        machine_move_leave(machine);
        return;
    }
    if (machine->state == GODWIT__VM_STATE__VM_STATE_INCOMING && !machine->rest) {
        machine_end(machine, GODWIT__VM_STATE__VM_STATE_GONE, LATCH_ENDING_GONE,
                    "the move for which it was made never began");
        return;
    }
    if (!machine_state_has_machine(machine->state))
        machine->config.on_over(machine->config.data);
}

/* ---- what the guest does ---- */
struct guest_note {
    struct machine *machine;
    unsigned epoch;
    enum vm_event event;
    struct fault fault;
};

static void on_guest_event(struct machine *machine, enum vm_event event, const struct fault *fault);

static void guest_note_posted(void *data)
{
    struct guest_note *note = data;

    if (note->epoch == atomic_load(&note->machine->epoch))
        on_guest_event(note->machine, note->event, &note->fault);
    free(note);
}

/* vCPU thread. */
static void on_event(void *data, enum vm_event event, const struct fault *fault)
{
    struct machine *machine = data;

    if (machine->port)
        guest_port_set_ended(machine->port);
    struct guest_note *note = calloc(1, sizeof *note);
    if (!note)
        return; /* the guest stands still; an operator can stop it */
    note->machine = machine;
    note->epoch = atomic_load(&machine->epoch);
    note->event = event;
    if (fault)
        note->fault = *fault;
    if (loop_post(machine->config.loop, guest_note_posted, note) < 0)
        free(note);
}

struct disk_note {
    struct machine *machine;
    unsigned epoch, disk;
    bool waits;
    struct fault fault;
};

static void disk_note_posted(void *data)
{
    struct disk_note *note = data;
    struct machine *machine = note->machine;

    if (note->epoch == atomic_load(&machine->epoch) && note->disk < machine->backends.disk_count) {
        const char *name = machine->backends.serials[note->disk];
        log_error("machine", "a disk failed the guest vm=%s disk=%s: %s", machine->config.vm_id,
                  name, note->fault.text);
        if (note->waits) {
            (void)snprintf(machine->disk_waits, sizeof machine->disk_waits,
                           "disk %s failed it (%.150s): godwit vm resume tries again", name,
                           note->fault.text);
            machine_hand_pause_for_disk(machine);
        }
    }
    free(note);
}

static void post_disk_note(struct machine *machine, unsigned disk, bool waits,
                           const struct fault *fault)
{
    struct disk_note *note = calloc(1, sizeof *note);
    if (!note)
        return; /* the guest was told: it has its own log; or waits, as for a disk that is slow */
    note->machine = machine;
    note->epoch = atomic_load(&machine->epoch);
    note->disk = disk;
    note->waits = waits;
    note->fault = *fault;
    if (loop_post(machine->config.loop, disk_note_posted, note) < 0)
        free(note);
}

/* I/O thread. */
static void on_disk_wait(void *data, unsigned disk, const struct fault *fault)
{
    post_disk_note(data, disk, true, fault);
}

/* I/O thread. Once a second is enough: a store that is away fails every request. */
static void on_disk_error(void *data, unsigned disk, const struct fault *fault)
{
    struct machine *machine = data;
    uint64_t now_ms = world_now_ms(), told_ms = atomic_load(&machine->disk_told_ms);

    if ((told_ms && now_ms - told_ms < DISK_TOLD_MS) ||
        !atomic_compare_exchange_strong(&machine->disk_told_ms, &told_ms, now_ms))
        return;
    post_disk_note(machine, disk, false, fault);
}

/* vCPU thread. */
static void on_serial(void *data, const uint8_t *bytes, size_t count)
{
    struct machine *machine = data;

    console_output(machine->console, bytes, count);
}

static void on_console_output(void *data, const uint8_t *bytes, size_t count)
{
    struct machine *machine = data;

    machine->config.on_console(machine->config.data, bytes, count);
}

static size_t give_console_input(void *data, const uint8_t *bytes, size_t count)
{
    struct machine *machine = data;

    if (!machine->port || (machine_may_lack_pages(machine) && !machine->pager))
        return 0; /* it is offered again */
    if (!machine->pager)
        return guest_port_input(machine->port, bytes, count);
    /* A vCPU that holds the device lock may wait for a page: whoever loses it now knows that the loop does, too. */
    size_t taken = 0;
    atomic_store(&machine->waits_for_guest, true);
    if (!atomic_load(&machine->pager_lost))
        taken = guest_port_input(machine->port, bytes, count);
    atomic_store(&machine->waits_for_guest, false);
    return taken;
}

/* ---- building and rebuilding ---- */
int machine_build(struct machine *machine, int memory_fd, struct fault *fault)
{
    const struct cpu_model *model = cpu_model_find(machine->spec->cpu->baseline);
    if (!model)
        return fault_set(fault, ERR_UNSUPPORTED, "CPU baseline '%s' is not known here",
                         machine->spec->cpu->baseline);

    struct vm_disk_config disks[DISKS_MAX + 1];
    struct vm_nic_config nics[NICS_MAX];
    struct vm_config config = {
        .kvm_fd = machine->fds.kvm,
        .vcpus = machine->spec->cpu->vcpus,
        .memory_bytes = machine->spec->memory->size,
        .huge_pages = machine->spec->memory->hugepages,
        .adopts_memory = memory_fd >= 0,
        .memory_fd = memory_fd,
        .cpu_model = model,
        .keeps_macs = machine->rest_vm_id[0] != '\0',
        .on_serial = on_serial,
        .on_event = on_event,
        .on_disk_error = on_disk_error,
        .on_disk_wait = on_disk_wait,
        .data = machine,
    };
    int r = backend_set_config(&machine->backends, machine->spec, disks, nics, &config, fault);
    if (r < 0)
        return r;
    r = vm_new(&machine->vm, &config, fault);
    if (r < 0) {
        backend_set_close_copies(disks, config.disk_count, nics, config.nic_count);
        return r;
    }
    if (machine->backends.is_full) {
        machine->backends.disks_attached = machine->backends.disk_count;
        machine->backends.nics_attached = machine->backends.nic_count;
    }
    if (machine->disk_move) {
        r = disk_move_rebuilt(machine->disk_move, machine->vm, fault);
        if (r < 0)
            return r;
    }
    machine->counters.disk_count = machine->backends.disk_count;
    machine->counters.nic_count = machine->backends.nic_count;
    return guest_port_new(&machine->port, machine->vm, machine->boot_files, machine->spec,
                          machine->config.vm_id, &machine->counters, fault);
}

int machine_boot(struct machine *machine, struct fault *fault)
{
    int kernel_fd = -1, initrd_fd = -1;
    machine->began_here = true;
    int r = boot_files_get(machine->boot_files, &kernel_fd, &initrd_fd, fault);
    if (r == 0)
        r = machine_build(machine, -1, fault);
    if (r == 0)
        r = vm_boot(machine->vm, kernel_fd, initrd_fd,
                    machine->spec->cmdline ? machine->spec->cmdline : "", fault);
    if (r == 0)
        r = vm_start(machine->vm, fault);
    if (r == 0 && !machine->paused)
        r = guest_port_resume(machine->port, fault);
    return r;
}

/* The pool's description knows only what its operator added; a guest that resets needs all of it.
 */
void machine_take_cmdline(struct machine *machine)
{
    char *cmdline = guest_port_take_cmdline(machine->port);

    if (!cmdline)
        return;
    if (machine->spec->cmdline && machine->spec->cmdline != protobuf_c_empty_string)
        free(machine->spec->cmdline);
    machine->spec->cmdline = cmdline;
    machine->moved_in = false; /* it is as if it had been started here */
}

/* A reset is a new boot of the same files, which a move has brought along: everything is built anew
 * in this process. Where it brought none the VM stops, visibly, and a start gives it a kernel. */
static void on_reset(struct machine *machine)
{
    struct fault fault = {0};

    if (machine->moved_in && vm_spec_boots_from_disk(machine->spec)) {
        machine_end(machine, GODWIT__VM_STATE__VM_STATE_STOPPED, LATCH_ENDING_POWER_OFF,
                    "the guest reset itself; its command line is read from its disk by a start: start it "
                    "again");
        return;
    }
    machine_unbuild(machine);
    int r = machine_boot(machine, &fault);
    if (r == ERR_NOT_FOUND) {
        machine_end(machine, GODWIT__VM_STATE__VM_STATE_STOPPED, LATCH_ENDING_POWER_OFF,
                    "the guest reset itself, and its last move brought no kernel along: start it again");
        return;
    }
    if (r < 0) {
        (void)fault_wrap(&fault, fault.code, "booting again after a reset");
        machine_unbuild(machine);
        machine_end(machine, GODWIT__VM_STATE__VM_STATE_CRASHED, LATCH_ENDING_CRASHED, fault.text);
        return;
    }
    machine_set_state(machine,
                      machine->paused ? GODWIT__VM_STATE__VM_STATE_PAUSED
                                      : GODWIT__VM_STATE__VM_STATE_RUNNING,
                      "%s", "");
    log_info("machine", "the guest reset itself and boots again vm=%s", machine->config.vm_id);
}

static void on_guest_event(struct machine *machine, enum vm_event event, const struct fault *fault)
{
    assert(machine->vm);
    machine_replica_end_protect(machine, "the guest reset or ended itself");
    if (machine->is_lost)
        return; /* nothing that it did since counts */
    if (machine->rest || machine->snapshot || machine->suspend_fd >= 0) {
        /* It is told when that is done, and its save refuses. */
        machine->has_pending = true;
        machine->pending = event;
        machine->pending_fault = *fault;
        return;
    }
    if (machine->move) {
        /* First the move must let go of it: its save refuses from now on, so it rolls back. */
        struct fault ignored = {0};
        machine->has_pending = true;
        machine->pending = event;
        machine->pending_fault = *fault;
        (void)move_verdict(machine->move, GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_CANCEL, 0,
                           "the guest reset or ended itself", &ignored); /* past it: as above */
        return;
    }
    switch (event) {
    case VM_EVENT_POWER_OFF:
        machine_end(machine, GODWIT__VM_STATE__VM_STATE_STOPPED, LATCH_ENDING_POWER_OFF,
                    "the guest switched itself off");
        return;
    case VM_EVENT_RESET:
        on_reset(machine);
        return;
    case VM_EVENT_CRASH:
        machine_end(machine, GODWIT__VM_STATE__VM_STATE_CRASHED, LATCH_ENDING_CRASHED,
                    fault->text[0] ? fault->text : "the guest crashed");
        return;
    }
}

void machine_take_pending(struct machine *machine)
{
    machine_hand_pause_for_disk(machine);
    if (machine->has_pending && machine->vm && machine_state_has_machine(machine->state)) {
        machine->has_pending = false;
        on_guest_event(machine, machine->pending, &machine->pending_fault);
    }
}

/* ---- what the guest is told ---- */
static int connect_guest(void *data, int *ret_fd, struct fault *fault)
{
    struct machine *machine = data;

    if (!machine->vm)
        return fault_set(fault, ERR_STATE, "there is no guest");
    return vm_connect_vsock(machine->vm, vm_spec_notice_port(machine->spec), ret_fd, fault);
}

enum notice_kind machine_notice_kind(const struct machine *machine)
{
    return machine->in_place ? NOTICE_KIND_UPGRADE : NOTICE_KIND_MOVE;
}

/* Is this guest told of anything, and does it run to hear it? */
bool machine_hears(const struct machine *machine)
{
    return vm_spec_notice_ms(machine->spec) > 0 && !machine->paused && !machine->has_pending;
}

/* It knows of its pause, or had its time. */
static void on_notice_over(void *data)
{
    struct machine *machine = data;

    if (machine->move)
        move_noticed(machine->move);
    else if (machine->suspend_fd >= 0)
        machine_rest_suspend_now(machine);
}

void machine_tell_resumed(struct machine *machine)
{
    uint64_t pause_ns = 0, pause_ms;
    bool is_known = guest_port_pause_ns(machine->port, &pause_ns);

    if (!machine_hears(machine))
        return;
    pause_ms = (pause_ns + NS_PER_MS - 1) / NS_PER_MS;
    notice_resumed(machine->notice, machine_notice_kind(machine), machine->last_move_id,
                   is_known ? &pause_ms : NULL, machine->host[0] ? machine->host : NULL);
}

/* ---- status, console ---- */
void machine_status(struct machine *machine, struct machine_status *ret_status)
{
    struct machine_status *status = ret_status;
    struct stat memory;

    *status = (struct machine_status){GODWIT__VM_STATUS__INIT, GODWIT__MOVE_LATCH__INIT};
    status->vm.vm_id = (char *)machine->config.vm_id;
    status->vm.name = (char *)machine->config.name;
    status->vm.has_state = true;
    status->vm.state = machine->state;
    status->vm.spec = machine->spec;
    status->vm.version = (char *)(uintptr_t)GODWIT_VERSION;
    status->vm.has_pid = true;
    status->vm.pid = getpid();
    status->vm.has_seq = true;
    status->vm.seq = machine->seq;
    status->vm.has_wants_backends = true;
    status->vm.wants_backends = machine_wants_backends(machine);
    if (machine->pager)
        status->vm.paging_nonce = machine->paging_nonce;
    status->vm.expected_stamp = machine->expected_stamp;
    status->vm.disk_bytes = machine->backends.disk_bytes;
    status->vm.n_disk_bytes = machine->backends.disk_count;
    if (machine->state == GODWIT__VM_STATE__VM_STATE_SUSPENDED)
        status->vm.suspend_nonce = machine->rest_nonce;
    if (machine->reason[0])
        status->vm.reason = machine->reason;
    if (machine->vm) {
        status->vm.has_vcpu_cpu_ns = true;
        status->vm.vcpu_cpu_ns = vm_vcpu_cpu_ns(machine->vm);
        if (fstat(guest_memory_fd(vm_memory(machine->vm)), &memory) == 0) {
            status->vm.has_memory_populated = true;
            status->vm.memory_populated = (uint64_t)memory.st_blocks * 512;
        }
    }
    pthread_mutex_lock(&machine->latch_mutex);
    status->vm.has_generation = true;
    status->vm.generation = machine->record.generation;
    if (machine->last_move_id[0]) {
        status->vm.latch = &status->latch;
        status->latch.move_id = machine->last_move_id;
        status->latch.has_generation = true;
        status->latch.generation = machine->record.move_generation;
        status->latch.has_latch = true;
        status->latch.latch = machine->record.latch;
    }
    pthread_mutex_unlock(&machine->latch_mutex);
    /* After the latch, which the move's thread sets meanwhile: TOOK is never told without it. */
    status->vm.has_in_postcopy = true;
    status->vm.in_postcopy = machine_may_lack_pages(machine) && !machine->pager;
}

size_t machine_console_tail(struct machine *machine, uint8_t *ret_bytes, size_t size)
{
    console_flush(machine->console);
    return console_tail(machine->console, ret_bytes, size);
}

bool machine_began_here(const struct machine *machine)
{
    return machine->began_here;
}

size_t machine_console_input(struct machine *machine, const uint8_t *bytes, size_t count)
{
    return console_input(machine->console, bytes, count);
}

/* ---- the machine ---- */
int machine_new(struct machine **ret_machine, const struct machine_config *config,
                struct fault *fault)
{
    struct machine *machine = calloc(1, sizeof *machine);
    if (!machine)
        return fault_set(fault, ERR_NOMEM, "no memory for a machine");

    machine->config = *config;
    machine->suspend_fd = machine->take_console = -1;
    machine->fds = (struct machine_fds){-1, -1, -1, -1, -1, -1, -1, NULL, 0};
    pthread_mutex_init(&machine->latch_mutex, NULL);
    const struct console_config console = {
        .loop = config->loop,
        .on_output = on_console_output,
        .give_input = give_console_input,
        .data = machine,
    };
    const struct notice_config notice = {
        .loop = config->loop, .connect = connect_guest, .go = on_notice_over, .data = machine};
    int r = console_new(&machine->console, &console, fault);
    if (r == 0)
        r = notice_new(&machine->notice, &notice, fault);
    if (r == 0)
        r = loop_timer_new(&machine->over_timer, config->loop, over_timer_fired, machine, fault);
    if (r == 0)
        r = loop_timer_new(&machine->rest_timer, config->loop, rest_timer_fired, machine, fault);
    if (r < 0) {
        (void)machine_free(machine);
        return r;
    }
    loop_timer_start(machine->over_timer, MACHINE_CREATE_WAIT_MS, 0);
    *ret_machine = machine;
    return 0;
}

struct machine *machine_free(struct machine *machine)
{
    if (!machine)
        return NULL;
    if (machine->is_stuck)
        machine_die(); /* who waits for that thread waits for as long as it does */
    machine->protect = protect_free(machine->protect);
    machine->standby = standby_free(machine->standby);
    free(machine->taken.state);
    close_p(&machine->take_console);
    (void)move_free(machine->move);
    machine->rest = rest_free(machine->rest);
    machine->snapshot = snapshot_free(machine->snapshot);
    machine->notice = notice_free(machine->notice);
    close_p(&machine->suspend_fd);
    machine_unbuild(machine);
    machine->disk_move = disk_move_free(machine->disk_move, NULL);
    (void)console_free(machine->console);
    if (machine->over_timer)
        (void)loop_timer_free(machine->over_timer);
    if (machine->rest_timer)
        (void)loop_timer_free(machine->rest_timer);
    (void)latch_file_free(machine->latch_file);
    backend_set_deinit(&machine->backends);
    if (machine->expected_stamp)
        godwit__stamp__free_unpacked(machine->expected_stamp, NULL);
    if (machine->spec)
        godwit__vm_spec__free_unpacked(machine->spec, NULL);
    close_p(&machine->fds.kvm);
    (void)boot_files_free(machine->boot_files);
    pthread_mutex_destroy(&machine->latch_mutex);
    free(machine);
    return NULL;
}

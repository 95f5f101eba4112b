/* Three threads meet here. The loop owns everything; a vCPU thread comes with serial bytes and with
 * what the guest did to itself (posted as a note that carries the machine's epoch, so a note of a
 * machine that was rebuilt meanwhile is void); the move's thread sets latches (under latch_mutex,
 * written to the file before the move acts). */
#include "agent/vm/machine.h"

#include <assert.h>
#include <stdarg.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/vm/backend_set.h"
#include "agent/vm/boot_files.h"
#include "agent/vm/console.h"
#include "agent/vm/counters.h"
#include "agent/vm/guest_port.h"
#include "agent/vm/latch_file.h"
#include "agent/vm/move.h"
#include "agent/vm/notice.h"
#include "agent/vm/protect.h"
#include "agent/vm/rest.h"
#include "agent/vm/snapshot.h"
#include "agent/vm/standby.h"
#include "base/err.h"
#include "base/failpoint.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/own.h"
#include "base/world.h"
#include "base/thread.h"
#include "migrate/guest.h"
#include "migrate/guest_pager.h"
#include "migrate/region.h"
#include "migrate/replica.h"
#include "proto/limits.h"
#include "proto/vm_spec.h"
#include "vmm-core/cpu_model.h"
#include "vmm-core/guest_memory.h"
#include "vmm-core/vm.h"

enum {
    CREATE_WAIT_MS = 15000, /* for VM_CREATE, or an incoming VM's MOVE_IN: else its agent died */
    ENDED_LINGER_MS = 5000,
    DISK_TOLD_MS = 1000,
    GONE_LINGER_MS = 10000,
    HOST_NAME_SIZE = 65,
    WHO_SIZE = 200,
    REST_MS = 300, /* before the memory of a guest that moved away is freed */
};

struct machine {
    struct machine_config config;
    Godwit__VmState state;
    Godwit__VmSpec *spec; /* owned */
    uint64_t seq;
    struct vm *vm;
    struct guest_port *port;
    struct console *console;
    struct move *move;
    struct notice *notice;
    struct rest *rest; /* it goes into a file, or comes out of one */
    int suspend_fd;    /* owned: the file, while the guest is told of it; -1: it is not */
    void (*rest_done)(void *data, const struct fault *fault);
    void *rest_data;
    uint64_t rest_generation; /* that goes on from the file */
    char rest_nonce[GUEST_LABEL_WORD_SIZE];
    bool rest_is_kept; /* it is a snapshot's: others may go on from it later */
    char rest_vm_id[GUEST_LABEL_WORD_SIZE]; /* whose file it is, when not this VM's: a twin; "" */
    struct guest_pager *pager; /* it runs, and its memory still comes out of its file */
    char paging_nonce[GUEST_LABEL_WORD_SIZE]; /* of that file */
    bool is_lost;              /* a page of it cannot be read: it stands still until it is stopped */
    atomic_bool pager_lost;    /* the same, at once; set on the pager's threads */
    atomic_bool waits_for_guest; /* the loop, or a worker that it waits for, may wait for a page */
    struct snapshot *snapshot; /* it goes into files while it runs */
    void (*snapshot_done)(void *data, const struct guest_snapshot_result *result,
                          const struct fault *fault);
    void *snapshot_data;
    struct protect *protect; /* it is replicated to another host */
    struct standby *standby; /* it is a replica, or was */
    struct replica_taken taken; /* that this VM is to go on from, until it does */
    uint64_t take_generation;
    int take_console; /* owned */
    void (*take_done)(void *data, const struct fault *fault);
    void *take_data;
    struct machine_fds fds;
    struct boot_files *boot_files;
    struct backend_set backends;
    struct disk_move *disk_move; /* the last one; NULL: none yet */
    struct counters
        counters; /* what was counted before this vm: by one that was reset, elsewhere */
    Godwit__Stamp *expected_stamp; /* owned; NULL: none was named */
    bool paused;                   /* by an operator */
    bool moved_in;                 /* its spec lacks what its disk said at its start */
    bool in_postcopy; /* it came, and pages of it are still to come */
    bool in_place;    /* the move that is under way, or was made for: the generation stays */
    bool has_pending; /* the guest did something to itself while a move had it */
    enum vm_event pending;
    struct fault pending_fault;
    char reason[LATCH_FILE_REASON_SIZE];
    char host[HOST_NAME_SIZE]; /* for the guest; "": not known */
    char last_move_id[LATCH_FILE_MOVE_ID_SIZE];
    struct loop_timer *over_timer, *rest_timer;
    struct sampler *sampler;         /* looks at the vm's memory; NULL: nobody asked */
    atomic_uint epoch;               /* of the vm; read by vCPU threads */
    _Atomic(uint64_t) disk_told_ms;  /* when a disk's failure was told last; any thread */
    char disk_waits[LATCH_FILE_REASON_SIZE]; /* why it stands still, or is to, since a request failed; "" */

    pthread_mutex_t latch_mutex;
    struct latch_file *latch_file; /* set before any thread */
    struct latch_record record;    /* under the mutex */
};

/* ---- states and the record ---- */
static void suspended(void *data, const struct guest_file_counts *counts,
                      const struct fault *fault);
static bool wants_backends(struct machine *machine);

static void run_on(struct machine *machine);
static void end_protect(struct machine *machine, const char *why);

static bool state_has_machine(Godwit__VmState state)
{
    return state == GODWIT__VM_STATE__VM_STATE_RUNNING ||
           state == GODWIT__VM_STATE__VM_STATE_PAUSED ||
           state == GODWIT__VM_STATE__VM_STATE_INCOMING ||
           state == GODWIT__VM_STATE__VM_STATE_HELD ||
           state == GODWIT__VM_STATE__VM_STATE_SUSPENDED;
}

static struct latch_record record_get(struct machine *machine)
{
    pthread_mutex_lock(&machine->latch_mutex);
    struct latch_record record = machine->record;
    pthread_mutex_unlock(&machine->latch_mutex);
    return record;
}

/* It has taken its guest and its move is not over, or its file is still being read: pages may be missing, and who
 * touches one waits for it. So the loop touches no memory of the guest. */
static bool may_lack_pages(struct machine *machine)
{
    if (machine->pager)
        return true;
    return machine->move && !move_is_source(machine->move) && !machine->in_place &&
           record_get(machine).latch == GODWIT__LATCH__LATCH_TOOK;
}

__attribute__((format(printf, 3, 4))) static void
set_state(struct machine *machine, Godwit__VmState state, const char *format, ...)
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
             machine->config.vm_id, (unsigned long long)record_get(machine).generation,
             machine->reason[0] ? ": " : "", machine->reason);
    machine->config.on_state(machine->config.data);
}

static void record_put_locked(struct machine *machine)
{
    if (machine->latch_file)
        latch_file_put(machine->latch_file, &machine->record);
}

static void record_set_generation(struct machine *machine, uint64_t generation)
{
    pthread_mutex_lock(&machine->latch_mutex);
    machine->record.generation = generation;
    record_put_locked(machine);
    pthread_mutex_unlock(&machine->latch_mutex);
}

/* Any thread. */
static void die(void)
{
    for (;;)
        (void)kill(getpid(), SIGKILL);
}

static void unbuild(struct machine *machine)
{
    if (machine->notice)
        notice_stop(machine->notice);
    /* Whoever waits for a page that is lost is never let go: see on_pager_lost. */
    atomic_store(&machine->waits_for_guest, true);
    if (machine->pager && atomic_load(&machine->pager_lost))
        die();
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
    unbuild(machine);
}

static void write_ending(struct machine *machine, enum latch_ending ending, const char *reason)
{
    pthread_mutex_lock(&machine->latch_mutex);
    machine->record.ending = (uint8_t)ending;
    snprintf(machine->record.reason, sizeof machine->record.reason, "%.*s",
             (int)sizeof machine->record.reason - 1, reason);
    record_put_locked(machine);
    pthread_mutex_unlock(&machine->latch_mutex);
}

/* The VM is over: memory back, the ending written, the process lingers for who wants to know. */
static void end(struct machine *machine, Godwit__VmState state, enum latch_ending ending,
                const char *reason)
{
    end_protect(machine, reason[0] ? reason : "the VM ended");
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
        unbuild(machine);
    machine->disk_move = disk_move_free(machine->disk_move, machine->vm);
    backend_set_deinit(&machine->backends); /* taps go, disks are nobody's any more */

    write_ending(machine, ending, reason);
    console_flush(machine->console);
    set_state(machine, state, "%s", reason);
    loop_timer_start(machine->over_timer,
                     state == GODWIT__VM_STATE__VM_STATE_GONE ? GONE_LINGER_MS : ENDED_LINGER_MS,
                     0);
}

static void over_timer_fired(void *data)
{
    struct machine *machine = data;

    if (machine->state == GODWIT__VM_STATE__VM_STATE_INCOMING && !machine->move && !machine->rest) {
        end(machine, GODWIT__VM_STATE__VM_STATE_GONE, LATCH_ENDING_GONE,
            "the move for which it was made never began");
        return;
    }
    if (!state_has_machine(machine->state))
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

static void pause_for_disk(struct machine *machine);

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
            pause_for_disk(machine);
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

    if (!machine->port || (may_lack_pages(machine) && !machine->pager))
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
static int build(struct machine *machine, int memory_fd, struct fault *fault)
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

static int boot(struct machine *machine, struct fault *fault)
{
    int kernel_fd = -1, initrd_fd = -1;
    int r = boot_files_get(machine->boot_files, &kernel_fd, &initrd_fd, fault);
    if (r == 0)
        r = build(machine, -1, fault);
    if (r == 0)
        r = vm_boot(machine->vm, kernel_fd, initrd_fd,
                    machine->spec->cmdline ? machine->spec->cmdline : "", fault);
    if (r == 0)
        r = vm_start(machine->vm, fault);
    if (r == 0 && !machine->paused)
        r = guest_port_resume(machine->port, fault);
    return r;
}

/* A reset is a new boot of the same files, which a move has brought along: everything is built anew
 * in this process. Where it brought none the VM stops, visibly, and a start gives it a kernel. */
static void on_reset(struct machine *machine)
{
    struct fault fault = {0};

    if (machine->moved_in && vm_spec_boots_from_disk(machine->spec)) {
        end(machine, GODWIT__VM_STATE__VM_STATE_STOPPED, LATCH_ENDING_POWER_OFF,
            "the guest reset itself; its command line is read from its disk by a start: start it "
            "again");
        return;
    }
    unbuild(machine);
    int r = boot(machine, &fault);
    if (r == ERR_NOT_FOUND) {
        end(machine, GODWIT__VM_STATE__VM_STATE_STOPPED, LATCH_ENDING_POWER_OFF,
            "the guest reset itself, and its last move brought no kernel along: start it again");
        return;
    }
    if (r < 0) {
        (void)fault_wrap(&fault, fault.code, "booting again after a reset");
        unbuild(machine);
        end(machine, GODWIT__VM_STATE__VM_STATE_CRASHED, LATCH_ENDING_CRASHED, fault.text);
        return;
    }
    set_state(machine,
              machine->paused ? GODWIT__VM_STATE__VM_STATE_PAUSED
                              : GODWIT__VM_STATE__VM_STATE_RUNNING,
              "%s", "");
    log_info("machine", "the guest reset itself and boots again vm=%s", machine->config.vm_id);
}

static void on_guest_event(struct machine *machine, enum vm_event event, const struct fault *fault)
{
    assert(machine->vm);
    end_protect(machine, "the guest reset or ended itself");
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
        end(machine, GODWIT__VM_STATE__VM_STATE_STOPPED, LATCH_ENDING_POWER_OFF,
            "the guest switched itself off");
        return;
    case VM_EVENT_RESET:
        on_reset(machine);
        return;
    case VM_EVENT_CRASH:
        end(machine, GODWIT__VM_STATE__VM_STATE_CRASHED, LATCH_ENDING_CRASHED,
            fault->text[0] ? fault->text : "the guest crashed");
        return;
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

static enum notice_kind notice_kind_of(const struct machine *machine)
{
    return machine->in_place ? NOTICE_KIND_UPGRADE : NOTICE_KIND_MOVE;
}

/* Is this guest told of anything, and does it run to hear it? */
static bool hears(const struct machine *machine)
{
    return vm_spec_notice_ms(machine->spec) > 0 && !machine->paused && !machine->has_pending;
}

static void suspend_now(struct machine *machine);

/* It knows of its pause, or had its time. */
static void on_notice_over(void *data)
{
    struct machine *machine = data;

    if (machine->move)
        move_noticed(machine->move);
    else if (machine->suspend_fd >= 0)
        suspend_now(machine);
}

/* A move out could pause it. */
static void on_move_notice(void *data)
{
    struct machine *machine = data;

    notice_prepare(machine->notice, notice_kind_of(machine), machine->last_move_id,
                   vm_spec_notice_ms(machine->spec));
}

static void tell_resumed(struct machine *machine)
{
    uint64_t pause_ns = 0, pause_ms;
    bool is_known = guest_port_pause_ns(machine->port, &pause_ns);

    if (!hears(machine))
        return;
    pause_ms = (pause_ns + NS_PER_MS - 1) / NS_PER_MS;
    notice_resumed(machine->notice, notice_kind_of(machine), machine->last_move_id,
                   is_known ? &pause_ms : NULL, machine->host[0] ? machine->host : NULL);
}

/* ---- create ---- */
static Godwit__VmSpec *spec_copy(const Godwit__VmSpec *spec)
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
           order->generation && order->generation == record_get(machine).generation;
}

/* ---- at rest in a file ---- */
static void tell_rested(struct machine *machine, const struct fault *fault)
{
    void (*done)(void *data, const struct fault *fault) = machine->rest_done;

    machine->rest_done = NULL;
    if (done)
        done(machine->rest_data, fault);
}

static void take_pending(struct machine *machine)
{
    pause_for_disk(machine);
    if (machine->has_pending && machine->vm && state_has_machine(machine->state)) {
        machine->has_pending = false;
        on_guest_event(machine, machine->pending, &machine->pending_fault);
    }
}

static void on_move_lost(void *data, const struct fault *fault);

/* Worker: from here on this process is the one that goes on. */
static void before_consume(void *data)
{
    struct machine *machine = data;

    record_set_generation(machine, machine->rest_generation);
}

static void take_cmdline(struct machine *machine);

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
    if (hears(machine))
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
        take_cmdline(machine);
        if (!machine->rest_vm_id[0]) /* what its twin did is not its own */
            (void)guest_port_take_counters(machine->port, &machine->counters); /* else from zero */
        machine->paused = guest_port_stays_paused(machine->port);
        if (machine->pager)
            guest_pager_run(machine->pager); /* it runs already */
        else if (!machine->paused)
            (void)guest_port_resume(machine->port, &words);
    }
    if (words.code) {
        unbuild(machine);
        record_set_generation(machine, 0);
        machine->state = GODWIT__VM_STATE__VM_STATE_NONE;
        loop_timer_start(machine->over_timer, ENDED_LINGER_MS, 0);
        tell_rested(machine, &words);
        return;
    }
    set_state(machine,
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
    take_pending(machine); /* one that ran already may have ended itself */
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
    take_pending(machine); /* a disk that waits: nobody could be paused for it before */
}

/* It is not ended: what it had begun with its disks may be at rest by now, and an operator decides. */
static void on_lost(struct machine *machine, const struct fault *fault)
{
    machine->is_lost = machine->paused = true;
    vm_halt(machine->vm);
    log_error("machine", "it stands still for good vm=%s: %s", machine->config.vm_id, fault->text);
    set_state(machine, GODWIT__VM_STATE__VM_STATE_PAUSED, "its memory cannot be read: %s",
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
        on_move_lost(machine, fault);
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
static int restore(struct machine *machine, const Godwit__VmCreate *order, int *file,
                   struct fault *fault)
{
    const char *of = order->file_vm_id ? order->file_vm_id : "";
    if (strlen(of) >= sizeof machine->rest_vm_id || (of[0] && !order->is_snapshot))
        return fault_set(fault, ERR_INVALID, "a file of another VM that is no snapshot");
    (void)snprintf(machine->rest_vm_id, sizeof machine->rest_vm_id, "%s", of);
    (void)snprintf(machine->paging_nonce, sizeof machine->paging_nonce, "%s",
                   order->lazy ? order->suspend_nonce : "");
    atomic_store(&machine->waits_for_guest, true); /* until it runs */
    int r = build(machine, -1, fault);
    if (r == 0)
        r = vm_start(machine->vm, fault);
    machine->rest_generation = order->generation;
    machine->rest_is_kept = order->is_snapshot;
    if (r == 0)
        r = begin_rest(machine, order->suspend_nonce, order->suspend_generation, true, file, fault);
    return r;
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
    Godwit__VmSpec *spec = spec_copy(order->spec);
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
        r = build(machine, order->in_place ? fds->memory : -1, fault);
        if (r == 0)
            r = vm_start(machine->vm, fault);
        if (r == 0)
            guest_port_set_in_place(machine->port, machine->in_place);
    } else if (order->suspend_nonce) {
        r = restore(machine, order, &fds->file, fault);
    } else {
        record_set_generation(machine, order->generation); /* written before it runs */
        r = boot(machine, fault);
    }
    if (r < 0) {
        unbuild(machine);
        record_set_generation(machine, 0);
        return fault_wrap(fault, r, "creating %s", spec->name);
    }
    if (order->incoming)
        loop_timer_start(machine->over_timer, CREATE_WAIT_MS, 0);
    else
        loop_timer_stop(machine->over_timer);
    set_state(machine,
              order->incoming || machine->rest ? GODWIT__VM_STATE__VM_STATE_INCOMING
              : machine->paused                ? GODWIT__VM_STATE__VM_STATE_PAUSED
                                               : GODWIT__VM_STATE__VM_STATE_RUNNING,
              "%s", "");
    return 0;
}

/* ---- a disk to another file ---- */
static int begin_disk_move(struct machine *machine, const Godwit__VmDiskMove *order, int *fd,
                           struct fault *fault)
{
    const Godwit__VmSpec *spec = machine->spec;

    if (machine->state != GODWIT__VM_STATE__VM_STATE_RUNNING &&
        machine->state != GODWIT__VM_STATE__VM_STATE_PAUSED)
        return fault_set(fault, ERR_STATE, "%s does not run here", machine->config.name);
    if (machine->move || machine->rest || machine->pager || machine->in_postcopy ||
        wants_backends(machine))
        return fault_set(fault, ERR_BUSY, "%s is on its way: its disks stay where they are",
                         machine->config.name);
    if (machine->protect)
        return fault_set(fault, ERR_BUSY, "%s is replicated to another host: its disks stay where they "
                                          "are until that protection ends",
                         machine->config.name);
    if (order->generation != record_get(machine).generation)
        return fault_set(fault, ERR_STATE, "%s runs as generation %llu, %llu was meant",
                         machine->config.name,
                         (unsigned long long)record_get(machine).generation,
                         (unsigned long long)order->generation);
    if (machine->disk_move && !disk_move_is_over(machine->disk_move))
        return fault_set(fault, ERR_BUSY, "a disk of %s goes to another store already",
                         machine->config.name);
    if (order->disk >= spec->n_disks || spec->disks[order->disk]->read_only)
        return fault_set(fault, ERR_INVALID, "%s has no disk %u that is written",
                         machine->config.name, order->disk);
    if (*fd < 0)
        return fault_set(fault, ERR_INVALID, "a disk's move without its file");
    machine->disk_move = disk_move_free(machine->disk_move, machine->vm);
    int r = disk_move_new(&machine->disk_move, order, &machine->backends, machine->vm, false, *fd,
                          fault);
    if (r == 0)
        *fd = -1;
    return r;
}

/* From here on everything that is told of this VM says where its disk lies now. Only that part of the
 * spec is exchanged: others borrow the rest. */
static int settle_disk_move(struct machine *machine, struct fault *fault)
{
    unsigned index = disk_move_disk(machine->disk_move);
    Godwit__DiskSpec *after = disk_move_take_after(machine->disk_move);

    if (!after)
        return disk_move_settle(machine->disk_move, &machine->backends, machine->vm, fault);
    int r = disk_move_settle(machine->disk_move, &machine->backends, machine->vm, fault);
    if (r < 0) {
        disk_move_give_after(machine->disk_move, after);
        return r;
    }
    godwit__disk_spec__free_unpacked(machine->spec->disks[index], NULL);
    machine->spec->disks[index] = after;
    machine->seq++;
    machine->config.on_state(machine->config.data);
    return 0;
}

int machine_disk_move(struct machine *machine, const Godwit__VmDiskMove *order, int *fd,
                      struct disk_move_message *ret_message, struct fault *fault)
{
    bool is_known = machine->vm && disk_move_is(machine->disk_move, order->move_id);
    int r = 0;

    switch (order->verb) {
    case GODWIT__DISK_MOVE_VERB__DISK_MOVE_LOOK:
        break;
    case GODWIT__DISK_MOVE_VERB__DISK_MOVE_BEGIN:
        if (!is_known)
            r = begin_disk_move(machine, order, fd, fault);
        is_known = is_known || r == 0;
        break;
    case GODWIT__DISK_MOVE_VERB__DISK_MOVE_PROMISE:
        r = is_known ? disk_move_promise(machine->disk_move, fault) : 0;
        break;
    case GODWIT__DISK_MOVE_VERB__DISK_MOVE_SETTLE:
        r = is_known ? settle_disk_move(machine, fault) : 0;
        break;
    case GODWIT__DISK_MOVE_VERB__DISK_MOVE_UNDO:
        r = is_known ? disk_move_undo(machine->disk_move, machine->vm, fault) : 0;
        break;
    case _GODWIT__DISK_MOVE_VERB_IS_INT_SIZE:
    default: /* a number from the wire */
        r = fault_set(fault, ERR_UNSUPPORTED, "nothing known can be done to a disk by verb %d",
                      (int)order->verb);
    }
    if (r < 0)
        return r;
    if (is_known)
        disk_move_tell(machine->disk_move, machine->vm, ret_message);
    else
        disk_move_tell_none(ret_message);
    return 0;
}

/* ---- an operator's hand ---- */
static int check_has_memory(const struct machine *machine, const char *what, struct fault *fault)
{
    struct guest_pager_counts counts;

    if (machine->is_lost) {
        (void)fault_set(fault, ERR_STATE,
                        "a part of the memory of %s cannot be read from its file: it cannot %s, only be "
                        "stopped",
                        machine->config.name, what);
        fault_hint(fault, "godwit vm stop --force %s", machine->config.name);
        return ERR_STATE;
    }
    if (!machine->pager)
        return 0;
    guest_pager_counts(machine->pager, &counts);
    return fault_set(fault, ERR_BUSY,
                     "%s runs while its memory is still read from its file, %llu MiB are to come: it cannot "
                     "%s until all of it is here",
                     machine->config.name,
                     (unsigned long long)(counts.pages_left * PAGE_BYTES / MIB(1)), what);
}

static int check_not_moving(const struct machine *machine, const char *what, struct fault *fault)
{
    int r = check_has_memory(machine, what, fault);
    if (r < 0)
        return r;
    if (machine->in_postcopy)
        return fault_set(fault, ERR_BUSY,
                         "%s still fetches memory from its old host (post-copy): it cannot %s until "
                         "all of it is here",
                         machine->config.name, what);
    if (machine->rest || machine->suspend_fd >= 0 ||
        machine->state == GODWIT__VM_STATE__VM_STATE_SUSPENDED)
        return fault_set(fault, ERR_BUSY, "%s is at rest, or on its way: it cannot %s now",
                         machine->config.name, what);
    if (machine->snapshot)
        return fault_set(fault, ERR_BUSY, "%s is being snapshotted: it cannot %s until that is done",
                         machine->config.name, what);
    if (machine->move || machine->state == GODWIT__VM_STATE__VM_STATE_HELD)
        return fault_set(fault, ERR_BUSY, "%s is moving: it cannot %s until the move has ended",
                         machine->config.name, what);
    if (machine->protect && protect_is_finishing(machine->protect))
        return fault_set(fault, ERR_BUSY,
                         "%s hands its last checkpoint to another host: it cannot %s now",
                         machine->config.name, what);
    return 0;
}

/* Between these no checkpoint is cut. */
static void hold_protect(struct machine *machine)
{
    if (machine->protect)
        protect_hold(machine->protect);
}

static void release_protect(struct machine *machine)
{
    if (!machine->protect)
        return;
    guest_port_guest(machine->port)->was_running = !machine->paused;
    protect_release(machine->protect);
}

/* What needs its disks to be where they are. */
static int check_disks_stay(const struct machine *machine, const char *what, struct fault *fault)
{
    if (machine->disk_move && !disk_move_is_over(machine->disk_move))
        return fault_set(fault, ERR_BUSY, "a disk of %s goes to another store: it cannot %s now",
                         machine->config.name, what);
    return 0;
}

static void stand_still(struct machine *machine)
{
    hold_protect(machine);
    guest_port_pause(machine->port);
    machine->paused = true;
    release_protect(machine);
    set_state(machine, GODWIT__VM_STATE__VM_STATE_PAUSED, "%s", "");
}

/* A request of a disk of it failed and waits. While something else is done to it that comes first,
 * and this once that is over: then it may have been tried again. */
static void pause_for_disk(struct machine *machine)
{
    struct fault ignored = {0};

    if (!machine->disk_waits[0] || check_not_moving(machine, "be paused", &ignored) < 0)
        return;
    if (!machine->vm || !vm_disks_wait(machine->vm))
        machine->disk_waits[0] = '\0';
    else if (machine->state == GODWIT__VM_STATE__VM_STATE_RUNNING)
        stand_still(machine);
}

int machine_pause(struct machine *machine, struct fault *fault)
{
    int r = check_not_moving(machine, "be paused", fault);
    if (r < 0)
        return r;
    if (machine->state == GODWIT__VM_STATE__VM_STATE_PAUSED)
        return 0;
    if (machine->state != GODWIT__VM_STATE__VM_STATE_RUNNING)
        return fault_set(fault, ERR_STATE, "%s does not run", machine->config.name);
    stand_still(machine);
    return 0;
}

int machine_resume(struct machine *machine, struct fault *fault)
{
    int r = check_not_moving(machine, "be resumed", fault);
    if (r < 0)
        return r;
    if (machine->state == GODWIT__VM_STATE__VM_STATE_RUNNING)
        return 0;
    if (machine->state != GODWIT__VM_STATE__VM_STATE_PAUSED)
        return fault_set(fault, ERR_STATE, "%s is not paused", machine->config.name);
    machine->disk_waits[0] = '\0'; /* tried again: told anew if that helps nothing */
    hold_protect(machine);
    r = guest_port_resume(machine->port, fault);
    machine->paused = r < 0;
    release_protect(machine);
    if (r < 0)
        return r;
    set_state(machine, GODWIT__VM_STATE__VM_STATE_RUNNING, "%s", "");
    return 0;
}

int machine_power_button(struct machine *machine, struct fault *fault)
{
    int r = check_not_moving(machine, "be asked to switch itself off", fault);
    if (r < 0)
        return r;
    if (machine->state == GODWIT__VM_STATE__VM_STATE_PAUSED)
        return fault_set(fault, ERR_UNSUPPORTED, "%s is paused: it hears nothing",
                         machine->config.name);
    if (machine->state != GODWIT__VM_STATE__VM_STATE_RUNNING)
        return fault_set(fault, ERR_STATE, "%s does not run", machine->config.name);
    if (!vm_power_button(machine->vm))
        return fault_set(fault, ERR_UNSUPPORTED, "%s does not listen to its power button",
                         machine->config.name);
    return 0;
}

int machine_sample(struct machine *machine, sampler_done_fn *done, void *data, struct fault *fault)
{
    if (!machine->port || (machine->state != GODWIT__VM_STATE__VM_STATE_RUNNING &&
                           machine->state != GODWIT__VM_STATE__VM_STATE_PAUSED))
        return fault_set(fault, ERR_STATE, "%s does not run here", machine->config.name);
    int r = check_has_memory(machine, "be sampled", fault);
    if (r < 0)
        return r;
    if (may_lack_pages(machine))
        return fault_set(fault, ERR_BUSY, "%s still fetches memory from its old host",
                         machine->config.name);
    if (machine->sampler && !sampler_is_over(machine->sampler))
        return sampler_join(machine->sampler, done, data, fault);
    machine->sampler = sampler_free(machine->sampler);
    struct region *ram = &guest_port_guest(machine->port)->regions[0];
    return sampler_new(&machine->sampler, machine->config.loop, ram, done, data, fault);
}

static const char *disk_name(const struct machine *machine, unsigned index)
{
    return index < machine->spec->n_disks ? machine->spec->disks[index]->name : "cidata";
}

int machine_counters(struct machine *machine, struct counters_message *ret_message,
                     struct fault *fault)
{
    if (!machine->vm || !state_has_machine(machine->state) ||
        machine->state == GODWIT__VM_STATE__VM_STATE_INCOMING)
        return fault_set(fault, ERR_STATE, "%s does not run here", machine->config.name);
    struct counters counters = machine->counters;
    /* Who asks its guest writes its memory, which nobody may behind a move's back. A device that
     * waits for a page keeps what it has counted to itself. */
    bool may_ask =
        machine->state == GODWIT__VM_STATE__VM_STATE_RUNNING && !machine->move &&
        !machine->snapshot && !machine->protect;
    if (!may_lack_pages(machine))
        counters_add(&counters, machine->vm, may_ask);
    counters_fill(&counters, ret_message);
    for (unsigned i = 0; i < counters.disk_count; i++) /* protobuf-c knows no const */
        ret_message->disks[i].name = (char *)(uintptr_t)disk_name(machine, i);
    for (unsigned i = 0; i < counters.nic_count; i++)
        ret_message->nics[i].mac = machine->spec->nics[i]->mac;
    return 0;
}

/* Its threads are not to be ended one by one, so its memory is given back by the process's end alone. */
static void quit_lost(struct machine *machine)
{
    const char *reason = "stopped on request";

    write_ending(machine, LATCH_ENDING_QUIT, reason);
    set_state(machine, GODWIT__VM_STATE__VM_STATE_STOPPED, "%s", reason);
    loop_timer_start(machine->over_timer, ENDED_LINGER_MS, 0);
}

int machine_quit(struct machine *machine, struct fault *fault)
{
    end_protect(machine, "the VM is stopped");
    if (machine->is_lost) {
        quit_lost(machine);
        return 0;
    }
    int r = machine->pager ? 0 : check_not_moving(machine, "be stopped", fault);
    if (r < 0)
        return r;
    if (state_has_machine(machine->state))
        end(machine, GODWIT__VM_STATE__VM_STATE_STOPPED, LATCH_ENDING_QUIT, "stopped on request");
    return 0;
}

/* ---- into a file ---- */
static void run_on(struct machine *machine)
{
    struct fault fault = {0};

    if (!machine->paused && !machine->has_pending && guest_port_resume(machine->port, &fault) < 0)
        log_error("machine", "it cannot run on vm=%s: %s", machine->config.vm_id, fault.text);
    set_state(machine,
              machine->paused ? GODWIT__VM_STATE__VM_STATE_PAUSED
                              : GODWIT__VM_STATE__VM_STATE_RUNNING,
              "%s", "");
    if (hears(machine))
        notice_cancelled(machine->notice, NOTICE_KIND_SUSPEND, NULL);
    take_pending(machine);
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
    set_state(machine, GODWIT__VM_STATE__VM_STATE_SUSPENDED, "%s", "");
    log_info("machine", "is in its file vm=%s pages=%llu bytes=%llu ms=%llu", machine->config.vm_id,
             (unsigned long long)done.pages, (unsigned long long)done.bytes,
             (unsigned long long)(done.ns / NS_PER_MS));
    tell_rested(machine, NULL);
}

/* It was told, or need not be: it stands still and goes into its file. */
static void suspend_now(struct machine *machine)
{
    struct fault fault = {0};
    AUTO_FD int file = TAKE_FD(machine->suspend_fd);

    end_protect(machine, "the VM is suspended");
    guest_port_guest(machine->port)->was_running = !machine->paused;
    guest_port_guest(machine->port)->takes_counters = true; /* a process of this host reads it */
    guest_port_pause(machine->port);
    if (begin_rest(machine, machine->rest_nonce, record_get(machine).generation, false, &file,
                   &fault) < 0) {
        run_on(machine);
        tell_rested(machine, &fault);
    }
}

/* It runs here or is paused, with all it has, and nothing else is being done to it. */
static int check_is_whole(struct machine *machine, const char *what, struct fault *fault)
{
    int r = check_not_moving(machine, what, fault);
    if (r == 0)
        r = check_disks_stay(machine, what, fault);
    if (r < 0)
        return r;
    if (machine->state != GODWIT__VM_STATE__VM_STATE_RUNNING &&
        machine->state != GODWIT__VM_STATE__VM_STATE_PAUSED)
        return fault_set(fault, ERR_STATE, "%s does not run here", machine->config.name);
    if (wants_backends(machine))
        return fault_set(fault, ERR_BUSY, "%s still waits for its disks and nics",
                         machine->config.name);
    return 0;
}

int machine_suspend(struct machine *machine, const Godwit__VmSuspend *order, int file,
                    void (*done)(void *data, const struct fault *fault), void *data,
                    struct fault *fault)
{
    int r = check_is_whole(machine, "be suspended", fault);
    if (r < 0)
        return r;
    if (!order->nonce || !*order->nonce || strlen(order->nonce) >= sizeof machine->rest_nonce)
        return fault_set(fault, ERR_INVALID, "a guest's file without a fit nonce");
    (void)snprintf(machine->rest_nonce, sizeof machine->rest_nonce, "%s", order->nonce);
    machine->rest_done = done;
    machine->rest_data = data;
    machine->suspend_fd = file;
    if (hears(machine))
        notice_prepare(machine->notice, NOTICE_KIND_SUSPEND, NULL,
                       vm_spec_notice_ms(machine->spec));
    else
        suspend_now(machine);
    return 0;
}

int machine_suspend_end(struct machine *machine, bool keep, struct fault *fault)
{
    if (machine->state != GODWIT__VM_STATE__VM_STATE_SUSPENDED)
        return fault_set(fault, ERR_STATE, "%s is not suspended", machine->config.name);
    if (keep)
        end(machine, GODWIT__VM_STATE__VM_STATE_STOPPED, LATCH_ENDING_QUIT, "suspended to a file");
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
    take_pending(machine);
}

/* Disks in the order of their descriptors; each once, and one that is written. */
static int check_snapshot(const struct machine *machine, const Godwit__VmSnapshot *order,
                          size_t fd_count, struct fault *fault)
{
    int r = check_not_moving(machine, "be snapshotted", fault);
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
    if (r == 0 && wants_backends(machine))
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
        .label = {.generation = record_get(machine).generation},
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

/* ---- moves ---- */
/* Move's thread: durable first, then the move acts. */
static void on_move_latch(void *data, Godwit__Latch latch)
{
    struct machine *machine = data;

    pthread_mutex_lock(&machine->latch_mutex);
    machine->record.latch = (uint8_t)latch;
    if (latch == GODWIT__LATCH__LATCH_TOOK)
        machine->record.generation = machine->record.move_generation;
    record_put_locked(machine);
    pthread_mutex_unlock(&machine->latch_mutex);
}

/* ---- post-copy ---- */
/* It runs from now on, and is moving still. */
static void begin_postcopy(struct machine *machine)
{
    machine->in_postcopy = true;
    (void)guest_port_take_counters(machine->port, &machine->counters); /* they go on from there */
    machine->paused = guest_port_stays_paused(machine->port);
    set_state(machine,
              machine->paused ? GODWIT__VM_STATE__VM_STATE_PAUSED
                              : GODWIT__VM_STATE__VM_STATE_RUNNING,
              "%s", "");
}

/* Move's thread: pages of the guest are gone. A thread that waits for one and were let go would read
 * zeros, and a device would write them to a disk. So none takes another step: all end with the
 * process, and the agent reads why from the latch file. The loop may wait for such a thread itself
 * (a disk that is attached), so nothing here needs it. */
static void on_move_lost(void *data, const struct fault *fault)
{
    struct machine *machine = data;
    write_ending(machine, LATCH_ENDING_CRASHED, fault->text);
    log_error("machine", "%s vm=%s", fault->text, machine->config.vm_id);
    die();
}

/* It has its guest, whose disks and nics are still to come: the agent has to know at once. */
static bool wants_backends(struct machine *machine)
{
    return machine->vm && record_get(machine).generation &&
           !backend_set_is_empty(&machine->backends) && !machine->backends.is_full;
}

static void on_move_event(void *data, const Godwit__MoveEvent *event)
{
    struct machine *machine = data;

    if (event->has_latch && event->latch == GODWIT__LATCH__LATCH_TOOK && wants_backends(machine)) {
        machine->seq++;
        machine->config.on_state(machine->config.data);
    }
    if (event->has_latch && event->latch == GODWIT__LATCH__LATCH_GAVE)
        set_state(machine, GODWIT__VM_STATE__VM_STATE_HELD,
                  "given away as generation %llu; the target's word is awaited",
                  (unsigned long long)move_generation(machine->move));
    if (event->progress && event->at_target && !machine->in_postcopy &&
        event->progress->phase == GODWIT__MOVE_PHASE__MOVE_PHASE_POST_COPY)
        begin_postcopy(machine);
    machine->config.on_move(machine->config.data, event);
}

static const char *event_words(const Godwit__MoveEvent *event, const char *otherwise)
{
    return event->fault && event->fault->text && *event->fault->text ? event->fault->text
                                                                     : otherwise;
}

static void on_source_ended(struct machine *machine, enum phase phase)
{
    if (phase == PHASE_DONE) {
        end(machine, GODWIT__VM_STATE__VM_STATE_GONE, LATCH_ENDING_GONE,
            machine->in_place ? "handed over to another process of this host"
                              : "moved to another host");
        return;
    }
    machine->move = move_free(machine->move);
    guest_port_drop_disks(machine->port);
    guest_port_set_in_place(machine->port, false);
    set_state(machine,
              machine->paused ? GODWIT__VM_STATE__VM_STATE_PAUSED
                              : GODWIT__VM_STATE__VM_STATE_RUNNING,
              "%s", "");
    if (hears(machine))
        notice_cancelled(machine->notice, notice_kind_of(machine), machine->last_move_id);
}

/* The pool's description knows only what its operator added; a guest that resets needs all of it.
 */
static void take_cmdline(struct machine *machine)
{
    char *cmdline = guest_port_take_cmdline(machine->port);

    if (!cmdline)
        return;
    if (machine->spec->cmdline && machine->spec->cmdline != protobuf_c_empty_string)
        free(machine->spec->cmdline);
    machine->spec->cmdline = cmdline;
    machine->moved_in = false; /* it is as if it had been started here */
}

static void on_target_ended(struct machine *machine, enum phase phase,
                            const Godwit__MoveEvent *event)
{
    if (phase == PHASE_ROLLED_BACK) {
        char reason[LATCH_FILE_REASON_SIZE];
        snprintf(reason, sizeof reason, "%s", event_words(event, "the move was rolled back"));
        end(machine, GODWIT__VM_STATE__VM_STATE_GONE, LATCH_ENDING_GONE, reason);
        return;
    }
    machine->in_postcopy = false;
    machine->move = move_free(machine->move);
    guest_port_drop_disks(machine->port);
    guest_port_set_in_place(machine->port, false);
    take_cmdline(machine);
    (void)guest_port_take_counters(machine->port,
                                   &machine->counters); /* an old source tells none */
    machine->paused = guest_port_stays_paused(machine->port);
    set_state(machine,
              machine->paused ? GODWIT__VM_STATE__VM_STATE_PAUSED
                              : GODWIT__VM_STATE__VM_STATE_RUNNING,
              "%s", "");
    tell_resumed(machine);
}

static void on_move_ended(void *data, enum phase phase, const Godwit__MoveEvent *event)
{
    struct machine *machine = data;

    if (move_is_source(machine->move))
        on_source_ended(machine, phase);
    else
        on_target_ended(machine, phase, event);
    machine->config.on_move(machine->config.data, event);

    take_pending(machine);
}

/* Remember which move it is; its first latch is written by the move itself. */
static void record_begin_move(struct machine *machine, const char *move_id, uint64_t generation)
{
    pthread_mutex_lock(&machine->latch_mutex);
    snprintf(machine->record.move_id, sizeof machine->record.move_id, "%s", move_id);
    machine->record.move_generation = generation;
    machine->record.latch = GODWIT__LATCH__LATCH_NONE;
    record_put_locked(machine);
    pthread_mutex_unlock(&machine->latch_mutex);
}

/* A move's order that fits this VM now? *ret_again: the same one is under way or was obeyed. */
static int check_move(struct machine *machine, const char *vm_id, const char *move_id,
                      uint64_t generation, bool in_place, bool *ret_again, struct fault *fault)
{
    *ret_again = false;
    if (!vm_id || strcmp(vm_id, machine->config.vm_id) != 0)
        return fault_set(fault, ERR_INVALID, "this process is of VM %s", machine->config.vm_id);
    if (!move_id || !*move_id || strlen(move_id) >= LATCH_FILE_MOVE_ID_SIZE)
        return fault_set(fault, ERR_INVALID, "a move without a fit id");
    if (strcmp(move_id, machine->last_move_id) == 0) {
        *ret_again = true;
        return 0;
    }
    int r = check_not_moving(machine, "begin another move", fault);
    if (r < 0)
        return r;
    uint64_t held = record_get(machine).generation;
    if (held && in_place && generation == held)
        return 0; /* the host keeps the VM, so it keeps its generation */
    if (generation <= held || (held && in_place))
        return fault_set(
            fault, ERR_REFUSED, "%s runs as generation %llu; a move to %llu is too old",
            machine->config.name, (unsigned long long)held, (unsigned long long)generation);
    return 0;
}

/* The disks that come with a move, in the order of their descriptors at MOVE_IN. */
static int add_disks(struct machine *machine, const int *fds, size_t fd_count, struct fault *fault)
{
    const Godwit__VmSpec *spec = machine->spec;
    bool incoming = machine->state == GODWIT__VM_STATE__VM_STATE_INCOMING;
    size_t used = 0;
    int r = 0;

    for (unsigned i = 0; r == 0 && i < spec->n_disks; i++) {
        if (spec->disks[i]->read_only || vm_spec_disk_is_shared(spec->disks[i]))
            continue;
        if (incoming && used == fd_count)
            r = fault_set(fault, ERR_INVALID, "disk %s comes without a file to write it to",
                          spec->disks[i]->name);
        AUTO_FD int fd = -1;
        if (r == 0) {
            fd = fcntl(incoming ? fds[used++] : machine->backends.disk_fds[i], F_DUPFD_CLOEXEC, 3);
            if (fd < 0)
                r = fault_set_errno(fault, err_from_errno(errno), errno, "copying a descriptor");
        }
        if (r == 0)
            r = guest_port_add_disk(machine->port, i, fd, machine->backends.disk_bytes[i], incoming,
                                    fault);
        if (r == 0)
            (void)TAKE_FD(fd);
    }
    if (r < 0)
        guest_port_drop_disks(machine->port);
    return r;
}

static struct move_config move_config_of(struct machine *machine)
{
    return (struct move_config){
        .loop = machine->config.loop,
        .guest = guest_port_guest(machine->port),
        .vm_id = machine->config.vm_id,
        .on_latch = on_move_latch,
        .on_lost = on_move_lost,
        .notice_ms_max = vm_spec_notice_ms(machine->spec),
        .on_notice = on_move_notice,
        .on_event = on_move_event,
        .on_ended = on_move_ended,
        .data = machine,
    };
}

int machine_move_out(struct machine *machine, const Godwit__MoveOut *order, const int *fds,
                     size_t fd_count, bool *ret_taken, struct fault *fault)
{
    bool again;

    *ret_taken = false;
    int r = check_move(machine, order->vm_id, order->move_id, order->generation, order->in_place,
                       &again, fault);
    if (r == 0 && !again)
        r = check_disks_stay(machine, "move", fault);
    if (r < 0 || again)
        return r;
    if (machine->state != GODWIT__VM_STATE__VM_STATE_RUNNING &&
        machine->state != GODWIT__VM_STATE__VM_STATE_PAUSED)
        return fault_set(fault, ERR_STATE, "%s does not run here", machine->config.name);
    if (order->goals && (order->goals->postcopy || order->goals->postcopy_late) &&
        machine->spec->memory->hugepages)
        return fault_set(fault, ERR_UNSUPPORTED,
                         "%s has memory of the 2 MiB page pool: it moves without --postcopy",
                         machine->config.name);
    r = failpoint_reload(fault);
    if (r == 0)
        r = failpoint_check(FAILPOINT_VM_MOVE_OUT, fault);
    if (r < 0)
        return r;

    end_protect(machine, "the VM moves");
    if (order->goals && order->goals->with_local_disks) {
        r = add_disks(machine, NULL, 0, fault);
        if (r < 0)
            return fault_wrap(fault, r, "moving %s", machine->config.name);
    }
    const struct move_config config = move_config_of(machine);
    guest_port_guest(machine->port)->was_running = !machine->paused;
    machine->in_place = order->in_place;
    if (machine->in_place) {
        machine->sampler = sampler_free(machine->sampler); /* it looks by the ops that change now */
        guest_port_set_in_place(machine->port, true);
    }
    struct latch_record before = record_get(machine);
    record_begin_move(machine, order->move_id, order->generation);
    r = move_new_source(&machine->move, &config, order, fds, fd_count, fault);
    if (r < 0) {
        guest_port_set_in_place(machine->port, false);
        pthread_mutex_lock(&machine->latch_mutex);
        machine->record = before;
        record_put_locked(machine);
        pthread_mutex_unlock(&machine->latch_mutex);
        guest_port_drop_disks(machine->port);
        return fault_wrap(fault, r, "moving %s", machine->config.name);
    }
    snprintf(machine->last_move_id, sizeof machine->last_move_id, "%s", order->move_id);
    *ret_taken = true;
    return 0;
}

int machine_move_in(struct machine *machine, const Godwit__MoveIn *order, int listen_fd,
                    const int *disk_fds, size_t disk_count, bool *ret_taken, struct fault *fault)
{
    bool again;

    *ret_taken = false;
    int r = check_move(machine, order->vm_id, order->move_id, order->generation, machine->in_place,
                       &again, fault);
    if (r < 0 || again)
        return r;
    if (machine->state != GODWIT__VM_STATE__VM_STATE_INCOMING || machine->standby)
        return fault_set(fault, ERR_STATE, "%s: this process does not wait for a move",
                         machine->config.name);
    r = failpoint_reload(fault);
    if (r == 0)
        r = failpoint_check(FAILPOINT_VM_MOVE_IN, fault);
    if (r < 0)
        return r;

    if (order->with_local_disks) {
        r = add_disks(machine, disk_fds, disk_count, fault);
        if (r < 0)
            return fault_wrap(fault, r, "receiving %s", machine->config.name);
    }
    const struct move_config config = move_config_of(machine);
    record_begin_move(machine, order->move_id, order->generation);
    r = move_new_target(&machine->move, &config, order, listen_fd, fault);
    if (r < 0)
        guest_port_drop_disks(machine->port);
    if (r < 0)
        return fault_wrap(fault, r, "receiving %s", machine->config.name);
    loop_timer_stop(machine->over_timer);
    snprintf(machine->last_move_id, sizeof machine->last_move_id, "%s", order->move_id);
    *ret_taken = true;
    return 0;
}

bool machine_take_sockets(struct machine *machine, const Godwit__MoveLanes *lanes, const int *fds,
                          size_t fd_count)
{
    struct fault fault = {0};

    if (!machine->move || !move_is_source(machine->move) || !lanes->move_id ||
        strcmp(lanes->move_id, machine->last_move_id) != 0)
        return false;
    if (lanes->fault)
        (void)fault_set(&fault, err_from_number(lanes->fault->number), "%.300s",
                        lanes->fault->text ? lanes->fault->text : "no sockets");
    return move_take_sockets(machine->move, lanes->epoch, fds, fd_count,
                             lanes->fault ? &fault : NULL);
}

int machine_tune(struct machine *machine, const Godwit__MoveTune *tune, struct fault *fault)
{
    if (!machine->move || !tune->move_id || strcmp(tune->move_id, machine->last_move_id) != 0)
        return fault_set(fault, ERR_MOVE_UNKNOWN, "%s has no move %s", machine->config.name,
                         tune->move_id ? tune->move_id : "without an id");
    if (!tune->goals)
        return fault_set(fault, ERR_INVALID, "no goals to set");
    return move_tune(machine->move, tune->goals, fault);
}

/* A verdict that comes again after the move has ended, and says what is so. */
static bool verdict_is_fulfilled(Godwit__MoveVerdictKind kind, const struct latch_record *record)
{
    switch (kind) {
    case GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_CANCEL:
        return record->latch == GODWIT__LATCH__LATCH_ABORTED ||
               record->latch == GODWIT__LATCH__LATCH_ABANDONED;
    case GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_TAKE:
        return record->latch == GODWIT__LATCH__LATCH_TOOK;
    case GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_STARTED:
    case GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_DROP:
        return record->latch == GODWIT__LATCH__LATCH_RELEASED ||
               record->ending == LATCH_ENDING_GONE;
    case GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_ABANDON:
        return record->latch == GODWIT__LATCH__LATCH_ABANDONED;
    case GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_RESUME:
        return record->generation > record->move_generation ||
               record->latch == GODWIT__LATCH__LATCH_ABORTED;
    case _GODWIT__MOVE_VERDICT_KIND_IS_INT_SIZE:
        break;
    }
    return false;
}

int machine_verdict(struct machine *machine, const Godwit__MoveVerdict *verdict,
                    struct fault *fault)
{
    if (!verdict->move_id || strcmp(verdict->move_id, machine->last_move_id) != 0)
        return fault_set(fault, ERR_MOVE_UNKNOWN, "%s has no move %s", machine->config.name,
                         verdict->move_id ? verdict->move_id : "without an id");
    const struct latch_record record = record_get(machine);
    if (!machine->move) {
        if (verdict_is_fulfilled(verdict->kind, &record))
            return 0;
        return fault_set(fault, ERR_STATE, "move %s of %s has ended", verdict->move_id,
                         machine->config.name);
    }
    /* Both of these let the guest run again at a new generation, once it was given away. */
    bool names_resume = verdict->kind == GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_RESUME;
    bool resume =
        move_is_source(machine->move) && record.latch == GODWIT__LATCH__LATCH_GAVE &&
        (names_resume ||
         (verdict->kind == GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_ABANDON && verdict->generation));
    if ((resume || names_resume) && verdict->generation <= record.move_generation)
        return fault_set(fault, ERR_REFUSED, "%s: a resume needs a generation above %llu, not %llu",
                         machine->config.name, (unsigned long long)record.move_generation,
                         (unsigned long long)verdict->generation);
    resume = resume && !machine->in_place; /* which stays what its host holds */
    if (resume)
        record_set_generation(machine, verdict->generation); /* written before it runs */
    int r = move_verdict(machine->move, verdict->kind, verdict->generation,
                         verdict->reason ? verdict->reason : "", fault);
    if (r < 0 && resume)
        record_set_generation(machine, record.generation);
    return r;
}

/* ---- disks and nics of a VM that has moved here ---- */
int machine_attach(struct machine *machine, const Godwit__VmAttach *order, int *fds, size_t count,
                   struct fault *fault)
{
    if (!order->vm_id || strcmp(order->vm_id, machine->config.vm_id) != 0)
        return fault_set(fault, ERR_INVALID, "this process is of VM %s", machine->config.vm_id);
    if (!machine->vm || !record_get(machine).generation)
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

    int r = check_is_whole(machine, "be upgraded", fault);
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

/* ---- replicated to another host ---- */
/* What is on disks that other hosts write too is no replica's to hold. */
static bool is_replicated(const Godwit__DiskSpec *disk)
{
    return !disk->read_only && !vm_spec_disk_is_shared(disk);
}

static void who_of(const struct machine *machine, bool disks_only, char ret_who[static WHO_SIZE])
{
    const Godwit__VmSpec *spec = machine->spec;

    (void)snprintf(ret_who, WHO_SIZE, disks_only ? "%.63s disks" : "%.63s godwit-1 %.63s %u",
                   machine->config.vm_id, disks_only ? "" : spec->cpu->baseline,
                   disks_only ? 0 : spec->cpu->vcpus);
}

/* A replica locks the files that it writes (see the agent), its source those that it reads: a folder
 * that both hosts have, without being known as shared, shows before a byte is written. */
static int lock_disks(struct machine *machine, int operation, struct fault *fault)
{
    for (unsigned i = 0; i < machine->spec->n_disks; i++) {
        int fd = machine->backends.disk_fds[i];
        if (!is_replicated(machine->spec->disks[i]) || fd < 0)
            continue;
        if (flock(fd, operation | LOCK_NB) < 0 && errno == EWOULDBLOCK)
            return fault_set(fault, ERR_REFUSED,
                             "disk %s of %s is the very file that somebody else writes: its replica "
                             "cannot lie in the same folder",
                             machine->spec->disks[i]->name, machine->config.name);
    }
    return 0; /* a file system without locks tells nothing */
}

static void tell_protect_ended(struct machine *machine, const char *why)
{
    Godwit__VmProtectEvent event = GODWIT__VM_PROTECT_EVENT__INIT;
    Godwit__ProtectStatus status;

    protect_status(machine->protect, &status);
    status.has_ended = true;
    status.ended = true;
    status.is_linked = false;
    status.trouble = (char *)(uintptr_t)why; /* protobuf-c knows no const */
    event.status = &status;
    machine->config.on_protect(machine->config.data, &event);
}

/* The guest stands or runs as it did; after a last checkpoint it stands. */
static void end_protect(struct machine *machine, const char *why)
{
    struct fault fault = {0};

    if (!machine->protect)
        return;
    log_info("machine", "is not replicated any more vm=%s: %s", machine->config.vm_id, why);
    (void)fault_set(&fault, ERR_CANCELED, "the replication ended: %.300s", why);
    protect_abandon_finish(machine->protect, &fault);
    tell_protect_ended(machine, why);
    machine->protect = protect_free(machine->protect);
    (void)lock_disks(machine, LOCK_UN, &fault); /* nothing to be told */
    guest_port_drop_disks(machine->port);
}

static void on_protect_event(void *data, const Godwit__VmProtectEvent *event)
{
    struct machine *machine = data;

    machine->config.on_protect(machine->config.data, event);
}

static void on_protect_ended(void *data, const struct fault *fault)
{
    struct machine *machine = data;

    if (fault) {
        char why[FAULT_TEXT_MAX];
        (void)snprintf(why, sizeof why, "%s", fault->text);
        end_protect(machine, why);
        return;
    }
    set_state(machine, GODWIT__VM_STATE__VM_STATE_PAUSED, "%s",
              "its last checkpoint is held by another host");
}

static int check_protect(struct machine *machine, const Godwit__OrderProtect *order,
                         struct fault *fault)
{
    if (!order->vm_id || strcmp(order->vm_id, machine->config.vm_id) != 0)
        return fault_set(fault, ERR_INVALID, "this process is of VM %s", machine->config.vm_id);
    int r = check_is_whole(machine, "be replicated", fault);
    if (r < 0)
        return r;
    if (order->generation != record_get(machine).generation)
        return fault_set(fault, ERR_STATE, "%s runs as generation %llu, %llu was meant",
                         machine->config.name,
                         (unsigned long long)record_get(machine).generation,
                         (unsigned long long)order->generation);
    for (unsigned i = 0; i < machine->spec->n_disks; i++) {
        const Godwit__DiskSpec *disk = machine->spec->disks[i];
        if (!disk->read_only && vm_spec_disk_is_shared(disk))
            return fault_set(fault, ERR_UNSUPPORTED,
                             "disk %s of %s lies in a store that hosts share: only disks of one host "
                             "alone are replicated",
                             disk->name, machine->config.name);
    }
    return 0;
}

static int begin_protect(struct machine *machine, const Godwit__OrderProtect *order,
                         struct fault *fault)
{
    struct replica_disk disks[DISKS_MAX];
    struct guest *guest = guest_port_guest(machine->port);
    unsigned disk_count = 0;
    char who[WHO_SIZE];

    for (unsigned i = 0; i < machine->spec->n_disks; i++) {
        if (is_replicated(machine->spec->disks[i]))
            disks[disk_count++] =
                (struct replica_disk){.region_id = GUEST_PORT_DISKS_AT + i,
                                      .bytes = machine->backends.disk_bytes[i],
                                      .fd = -1};
    }
    if (disk_count == 0 && order->disks_only)
        return fault_set(fault, ERR_INVALID, "%s has no disk that could be replicated",
                         machine->config.name);
    int r = lock_disks(machine, LOCK_SH, fault);
    if (r == 0)
        r = add_disks(machine, NULL, 0, fault);
    if (r < 0)
        return r;
    who_of(machine, order->disks_only, who);
    const struct protect_config config = {
        .loop = machine->config.loop,
        .guest = guest,
        .ram_count = order->disks_only ? 0 : GUEST_PORT_DISKS_AT,
        .disks = disks,
        .disk_count = disk_count,
        .who = who,
        .vm_id = machine->config.vm_id,
        .on_event = on_protect_event,
        .on_ended = on_protect_ended,
        .data = machine,
    };
    guest->was_running = !machine->paused;
    guest->takes_counters = true; /* whoever holds a replica is as new as this */
    return protect_new(&machine->protect, &config, order, fault);
}

int machine_protect(struct machine *machine, const Godwit__OrderProtect *order, struct fault *fault)
{
    if (machine->protect && protect_is(machine->protect, order))
        return protect_tune(machine->protect, order, fault);
    int r = check_protect(machine, order, fault);
    if (r < 0)
        return r;
    end_protect(machine, "another protection takes its place");
    r = begin_protect(machine, order, fault);
    if (r < 0) {
        struct fault ignored = {0};
        (void)lock_disks(machine, LOCK_UN, &ignored);
        guest_port_drop_disks(machine->port);
        return fault_wrap(fault, r, "replicating %s", machine->config.name);
    }
    log_info("machine", "is replicated vm=%s protection=%s to=%s goal_ms=%llu%s",
             machine->config.vm_id, order->protection_id, order->address,
             (unsigned long long)order->rpo_ms, order->disks_only ? " (disks only)" : "");
    return 0;
}

int machine_protect_finish(struct machine *machine, const Godwit__OrderProtectFinish *order,
                           void (*done)(void *data, const struct fault *fault), void *data,
                           struct fault *fault)
{
    if (!machine->protect || !protect_has_id(machine->protect, order->protection_id))
        return fault_set(fault, ERR_STATE, "%s is not replicated by this protection",
                         machine->config.name);
    return protect_finish(machine->protect, order->deadline_ms, done, data, fault);
}

void machine_protect_end(struct machine *machine, const char *protection_id)
{
    if (!machine->protect || !protect_has_id(machine->protect, protection_id))
        return;
    end_protect(machine, "the protection was ended");
    /* After a last checkpoint, or one that was just held, it stands still. */
    struct fault fault = {0};
    if (!machine->paused && !machine->has_pending &&
        guest_port_resume(machine->port, &fault) < 0)
        log_error("machine", "it cannot run on vm=%s: %s", machine->config.vm_id, fault.text);
    set_state(machine,
              machine->paused ? GODWIT__VM_STATE__VM_STATE_PAUSED
                              : GODWIT__VM_STATE__VM_STATE_RUNNING,
              "%s", "");
}

bool machine_protect_socket(struct machine *machine, const Godwit__VmProtectLink *link, int fd)
{
    struct fault fault = {0};

    if (!machine->protect || !protect_has_id(machine->protect, link->protection_id))
        return false;
    if (link->fault)
        (void)fault_set(&fault, err_from_number(link->fault->number), "%.300s",
                        link->fault->text ? link->fault->text : "no socket");
    return protect_take_socket(machine->protect, link->link, fd, link->fault ? &fault : NULL);
}

void machine_protect_status(struct machine *machine, Godwit__ProtectStatus *ret_status)
{
    if (machine->protect) {
        protect_status(machine->protect, ret_status);
        return;
    }
    godwit__protect_status__init(ret_status);
    ret_status->vm_id = (char *)(uintptr_t)machine->config.vm_id; /* protobuf-c knows no const */
}

/* ---- the replica of one ---- */
static void on_standby_event(void *data, const Godwit__ReplicaStatus *status)
{
    struct machine *machine = data;

    machine->config.on_replica(machine->config.data, status);
}

static int check_replica(struct machine *machine, const Godwit__OrderReplicaIn *order,
                         struct fault *fault)
{
    if (!order->vm_id || strcmp(order->vm_id, machine->config.vm_id) != 0)
        return fault_set(fault, ERR_INVALID, "this process is of VM %s", machine->config.vm_id);
    if (machine->move || machine->in_place ||
        machine->state != (order->disks_only ? GODWIT__VM_STATE__VM_STATE_NONE
                                             : GODWIT__VM_STATE__VM_STATE_INCOMING))
        return fault_set(fault, ERR_STATE, "%s: this process does not wait for a replica",
                         machine->config.name);
    if (!order->spec || vm_spec_judge(order->spec, fault) < 0 ||
        order->n_disk_bytes != vm_spec_disk_count(order->spec))
        return fault_set(fault, ERR_INVALID, "a replica without a fit spec, or the sizes of its disks");
    return 0;
}

/* Descriptors: the socket, then with disks the journal and each disk, in the spec's order. */
static int fill_standby(const struct machine *machine, const Godwit__OrderReplicaIn *order,
                        const int *fds, size_t fd_count, struct standby_config *config,
                        struct fault *fault)
{
    const Godwit__VmSpec *spec = order->spec;

    config->listen_fd = fd_count > 0 ? fds[0] : -1;
    config->journal_fd = fd_count > 1 ? fds[1] : -1;
    for (unsigned i = 0; i < spec->n_disks; i++) {
        if (!is_replicated(spec->disks[i]))
            continue;
        unsigned n = config->disk_count++;
        config->disks[n] = (struct standby_disk){
            .region_id = GUEST_PORT_DISKS_AT + i,
            .bytes = order->disk_bytes[i],
            .fd = fd_count > 2 + (size_t)n ? fds[2 + n] : -1,
        };
    }
    size_t wanted = 1 + (config->disk_count ? 1 + config->disk_count : 0);
    if (fd_count != wanted || (!config->disk_count && order->disks_only))
        return fault_set(fault, ERR_INVALID, "%s: a replica of %u disks with %zu descriptors",
                         machine->config.name, config->disk_count, fd_count);
    return 0;
}

int machine_replica_in(struct machine *machine, const Godwit__OrderReplicaIn *order, int *fds,
                       size_t fd_count, struct fault *fault)
{
    char who[WHO_SIZE];

    if (machine->standby && standby_has_id(machine->standby, order->protection_id)) {
        int r = fd_count == 1 ? standby_listen(machine->standby, &order->psk, fds[0], fault)
                              : fault_set(fault, ERR_INVALID, "a replica is listened for by one socket");
        if (r == 0)
            fds[0] = -1;
        return r;
    }
    if (machine->standby)
        return fault_set(fault, ERR_EXISTS, "%s: this process holds another replica",
                         machine->config.name);
    int r = check_replica(machine, order, fault);
    if (r < 0)
        return r;
    if (!machine->spec && !(machine->spec = spec_copy(order->spec)))
        return fault_set(fault, ERR_NOMEM, "no memory for the VM's spec");
    struct standby_config config = {
        .loop = machine->config.loop,
        .vm_id = machine->config.vm_id,
        .who = who,
        .on_event = on_standby_event,
        .data = machine,
    };
    who_of(machine, order->disks_only, who);
    if (!order->disks_only) {
        struct guest *guest = guest_port_guest(machine->port);
        config.regions = guest->regions;
        config.region_count = GUEST_PORT_DISKS_AT;
    }
    r = fill_standby(machine, order, fds, fd_count, &config, fault);
    if (r == 0)
        r = standby_new(&machine->standby, &config, order, fault);
    if (r < 0)
        return fault_wrap(fault, r, "holding a replica of %s", machine->config.name);
    for (size_t i = 0; i < fd_count; i++)
        fds[i] = -1;
    loop_timer_stop(machine->over_timer);
    return 0;
}

static void answer_take(struct machine *machine, const struct fault *fault)
{
    void (*done)(void *data, const struct fault *fault) = machine->take_done;

    close_p(&machine->take_console);
    machine->take_done = NULL;
    if (done)
        done(machine->take_data, fault);
}

/* What was taken is kept until the guest runs from it: a failure here may be tried again. */
static int go_on(struct machine *machine, struct fault *fault)
{
    struct guest *guest = guest_port_guest(machine->port);

    record_set_generation(machine, machine->take_generation); /* written before it runs */
    int r = guest->ops->load(guest->owner, machine->taken.state, machine->taken.state_bytes,
                             machine->taken.stood_ns, fault);
    if (r == 0) {
        console_set_log(machine->console, TAKE_FD(machine->take_console));
        r = guest->ops->resume(guest->owner, fault);
    }
    if (r < 0) {
        record_set_generation(machine, 0);
        return fault_wrap(fault, r, "going on from the replica of %s", machine->config.name);
    }
    free(machine->taken.state);
    machine->taken.state = NULL;
    take_cmdline(machine);
    (void)guest_port_take_counters(machine->port, &machine->counters);
    machine->paused = guest_port_stays_paused(machine->port);
    set_state(machine,
              machine->paused ? GODWIT__VM_STATE__VM_STATE_PAUSED
                              : GODWIT__VM_STATE__VM_STATE_RUNNING,
              "%s", "");
    log_info("machine", "goes on from its replica vm=%s checkpoint=%llu stood_ms=%llu",
             machine->config.vm_id, (unsigned long long)machine->taken.id.seq,
             (unsigned long long)(machine->taken.stood_ns / NS_PER_MS));
    tell_resumed(machine);
    return 0;
}

static void taken(void *data, const struct replica_taken *replica, const struct fault *fault)
{
    struct machine *machine = data;
    struct fault words = {0};

    if (!replica) {
        answer_take(machine, fault);
        return;
    }
    machine->taken = *replica;
    if (replica->state && go_on(machine, &words) < 0) {
        answer_take(machine, &words);
        return;
    }
    answer_take(machine, NULL);
}

int machine_replica_take(struct machine *machine, const Godwit__OrderReplicaTake *order,
                         int *console_fd, void (*done)(void *data, const struct fault *fault),
                         void *data, struct fault *fault)
{
    if (!machine->standby || !standby_has_id(machine->standby, order->protection_id))
        return fault_set(fault, ERR_STATE, "%s: this process holds no such replica",
                         machine->config.name);
    if (machine->take_done)
        return fault_set(fault, ERR_BUSY, "%s is being taken", machine->config.name);
    if (!order->generation || (machine->vm && *console_fd < 0))
        return fault_set(fault, ERR_INVALID, "a replica is taken as a generation, with a console's log");
    machine->take_done = done;
    machine->take_data = data;
    machine->take_generation = order->generation;
    if (machine->taken.state) { /* an earlier one did not come to run */
        machine->take_console = TAKE_FD(*console_fd);
        struct fault words = {0};
        answer_take(machine, go_on(machine, &words) < 0 ? &words : NULL);
        return 0;
    }
    int r = standby_take(machine->standby, order->generation, taken, machine, fault);
    if (r < 0) {
        machine->take_done = NULL;
        return r;
    }
    machine->take_console = TAKE_FD(*console_fd);
    return 0;
}

int machine_replica_copy(struct machine *machine, const Godwit__OrderReplicaCopy *order, int *fds,
                         size_t fd_count,
                         void (*done)(void *data, const struct replica_copied *copied,
                                      const struct fault *fault),
                         void *data, struct fault *fault)
{
    struct guest_label label = {.generation = order->generation};

    if (!machine->standby || !standby_has_id(machine->standby, order->protection_id))
        return fault_set(fault, ERR_STATE, "%s: this process holds no such replica",
                         machine->config.name);
    if (!order->copy_id || !*order->copy_id || strlen(order->copy_id) >= sizeof label.vm_id ||
        !order->nonce || !*order->nonce || strlen(order->nonce) >= sizeof label.nonce ||
        !order->generation || strcmp(order->copy_id, machine->config.vm_id) == 0)
        return fault_set(fault, ERR_INVALID, "a copy of a replica without a fit id or nonce");
    (void)snprintf(label.vm_id, sizeof label.vm_id, "%s", order->copy_id);
    (void)snprintf(label.nonce, sizeof label.nonce, "%s", order->nonce);
    int r = standby_copy(machine->standby, machine->vm ? guest_port_guest(machine->port) : NULL,
                         &label, fds, fd_count, done, data, fault);
    for (size_t i = 0; r == 0 && i < fd_count; i++)
        fds[i] = -1;
    return r;
}

void machine_replica_status(struct machine *machine, Godwit__ReplicaStatus *ret_status)
{
    if (machine->standby) {
        standby_status(machine->standby, ret_status);
        return;
    }
    godwit__replica_status__init(ret_status);
    ret_status->vm_id = (char *)(uintptr_t)machine->config.vm_id; /* protobuf-c knows no const */
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
    status->vm.wants_backends = wants_backends(machine);
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
    status->vm.in_postcopy = may_lack_pages(machine) && !machine->pager;
}

size_t machine_console_tail(struct machine *machine, uint8_t *ret_bytes, size_t size)
{
    console_flush(machine->console);
    return console_tail(machine->console, ret_bytes, size);
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
    loop_timer_start(machine->over_timer, CREATE_WAIT_MS, 0);
    *ret_machine = machine;
    return 0;
}

struct machine *machine_free(struct machine *machine)
{
    if (!machine)
        return NULL;
    machine->protect = protect_free(machine->protect);
    machine->standby = standby_free(machine->standby);
    free(machine->taken.state);
    close_p(&machine->take_console);
    (void)move_free(machine->move);
    machine->rest = rest_free(machine->rest);
    machine->snapshot = snapshot_free(machine->snapshot);
    machine->notice = notice_free(machine->notice);
    close_p(&machine->suspend_fd);
    unbuild(machine);
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

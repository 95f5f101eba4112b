/* Both ends of a move: the order, latches (move's thread), events, and how it ended.
 *
 *   source: RUNNING | PAUSED --order--> [move] --GAVE--> HELD --> GONE, or as it was
 *   target: INCOMING --order--> [move] --(post-copy: runs already)--> RUNNING | PAUSED, or GONE */
#include "agent/vm/machine_inside.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "agent/vm/console.h"
#include "agent/vm/guest_port.h"
#include "agent/vm/latch_file.h"
#include "agent/vm/move.h"
#include "agent/vm/notice.h"
#include "agent/vm/sampler.h"
#include "base/err.h"
#include "base/failpoint.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/own.h"
#include "migrate/guest.h"
#include "proto/vm_spec.h"

enum {
    THREADS_MS_MAX = 5000, /* of a move in that was given up, for its threads to end */
    LOG_MS_MAX = 100,      /* of a pause, for the console's log: its order is worth no more */
};

/* ---- moves ---- */
/* Move's thread: durable first, then the move acts. */
static void on_move_latch(void *data, Godwit__Latch latch)
{
    struct machine *machine = data;

    if (latch == GODWIT__LATCH__LATCH_GAVE && machine->in_place)
        console_settle(machine->console, LOG_MS_MAX); /* the next process goes on with the same file */
    pthread_mutex_lock(&machine->latch_mutex);
    machine->record.latch = (uint8_t)latch;
    if (latch == GODWIT__LATCH__LATCH_TOOK)
        machine->record.generation = machine->record.move_generation;
    machine_record_put_locked(machine);
    pthread_mutex_unlock(&machine->latch_mutex);
}

/* ---- post-copy ---- */
/* It runs from now on, and is moving still. */
static void begin_postcopy(struct machine *machine)
{
    machine->in_postcopy = true;
    (void)guest_port_take_counters(machine->port, &machine->counters); /* they go on from there */
    machine->paused = guest_port_stays_paused(machine->port);
    machine_set_state(machine,
                      machine->paused ? GODWIT__VM_STATE__VM_STATE_PAUSED
                                      : GODWIT__VM_STATE__VM_STATE_RUNNING,
                      "%s", "");
}

/* Move's thread: pages of the guest are gone. A thread that waits for one and were let go would read
 * zeros, and a device would write them to a disk. So none takes another step: all end with the
 * process, and the agent reads why from the latch file. The loop may wait for such a thread itself
 * (a disk that is attached), so nothing here needs it. */
void machine_move_on_lost(void *data, const struct fault *fault)
{
    struct machine *machine = data;
    machine_write_ending(machine, LATCH_ENDING_CRASHED, fault->text);
    log_error("machine", "%s vm=%s", fault->text, machine->config.vm_id);
    machine_die();
}

/* ---- what it tells, and how it ended ---- */
/* A move out could pause it. */
static void on_move_notice(void *data)
{
    struct machine *machine = data;

    notice_prepare(machine->notice, machine_notice_kind(machine), machine->last_move_id,
                   vm_spec_notice_ms(machine->spec));
}

static void on_move_event(void *data, const Godwit__MoveEvent *event)
{
    struct machine *machine = data;

    if (event->has_latch && event->latch == GODWIT__LATCH__LATCH_TOOK && machine_wants_backends(machine)) {
        machine->seq++;
        machine->config.on_state(machine->config.data);
    }
    if (event->has_latch && event->latch == GODWIT__LATCH__LATCH_ABANDONED)
        loop_timer_start(machine->over_timer, THREADS_MS_MAX, 0);
    if (event->has_latch && event->latch == GODWIT__LATCH__LATCH_GAVE)
        machine_set_state(machine, GODWIT__VM_STATE__VM_STATE_HELD,
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
        machine_end(machine, GODWIT__VM_STATE__VM_STATE_GONE, LATCH_ENDING_GONE,
                    machine->in_place ? "handed over to another process of this host"
                                      : "moved to another host");
        return;
    }
    machine->move = move_free(machine->move);
    guest_port_drop_disks(machine->port);
    guest_port_set_in_place(machine->port, false);
    machine_set_state(machine,
                      machine->paused ? GODWIT__VM_STATE__VM_STATE_PAUSED
                                      : GODWIT__VM_STATE__VM_STATE_RUNNING,
                      "%s", "");
    if (machine_hears(machine))
        notice_cancelled(machine->notice, machine_notice_kind(machine), machine->last_move_id);
}

static void on_target_ended(struct machine *machine, enum phase phase,
                            const Godwit__MoveEvent *event)
{
    if (phase == PHASE_ROLLED_BACK) {
        char reason[LATCH_FILE_REASON_SIZE];
        snprintf(reason, sizeof reason, "%s", event_words(event, "the move was rolled back"));
        machine_end(machine, GODWIT__VM_STATE__VM_STATE_GONE, LATCH_ENDING_GONE, reason);
        return;
    }
    machine->in_postcopy = false;
    machine->move = move_free(machine->move);
    guest_port_drop_disks(machine->port);
    guest_port_set_in_place(machine->port, false);
    machine_take_cmdline(machine);
    (void)guest_port_take_counters(machine->port,
                                   &machine->counters); /* an old source tells none */
    machine->paused = guest_port_stays_paused(machine->port);
    machine_set_state(machine,
                      machine->paused ? GODWIT__VM_STATE__VM_STATE_PAUSED
                                      : GODWIT__VM_STATE__VM_STATE_RUNNING,
                      "%s", "");
    machine_tell_resumed(machine);
}

/* A thread that writes into a disk waits in the kernel for as long as the disk's medium hangs: it cannot be called back, and
 * neither it nor the guest's memory may be freed under it. */
void machine_move_leave(struct machine *machine)
{
    static const char words[] = "the move was given up; a thread of it still waits, for a disk's medium or for a "
                                "core: what it holds goes when it ends, or with its process";
    Godwit__MoveEvent event = GODWIT__MOVE_EVENT__INIT;
    Godwit__Fault told = GODWIT__FAULT__INIT;

    assert(!move_is_source(machine->move));
    machine->is_stuck = true;
    machine_write_ending(machine, LATCH_ENDING_GONE, words);
    machine_set_state(machine, GODWIT__VM_STATE__VM_STATE_GONE, "%s", words);
    told.has_number = true;
    told.number = -ERR_TIMEOUT;
    told.text = (char *)(uintptr_t)words; /* protobuf-c knows no const */
    event.vm_id = (char *)(uintptr_t)machine->config.vm_id;
    event.move_id = machine->last_move_id;
    event.has_at_target = event.has_generation = event.has_ended = true;
    event.at_target = event.ended = true;
    event.generation = move_generation(machine->move);
    event.fault = &told;
    machine->config.on_move(machine->config.data, &event);
    loop_timer_start(machine->over_timer, MACHINE_GONE_LINGER_MS, 0);
}

static void on_move_ended(void *data, enum phase phase, const Godwit__MoveEvent *event)
{
    struct machine *machine = data;

    machine->is_stuck = false;
    if (move_is_source(machine->move))
        on_source_ended(machine, phase);
    else
        on_target_ended(machine, phase, event);
    machine->config.on_move(machine->config.data, event);

    machine_take_pending(machine);
}

/* ---- orders ---- */
/* Remember which move it is; its first latch is written by the move itself. */
static void record_begin_move(struct machine *machine, const char *move_id, uint64_t generation)
{
    pthread_mutex_lock(&machine->latch_mutex);
    snprintf(machine->record.move_id, sizeof machine->record.move_id, "%s", move_id);
    machine->record.move_generation = generation;
    machine->record.latch = GODWIT__LATCH__LATCH_NONE;
    machine_record_put_locked(machine);
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
    int r = machine_hand_check_not_moving(machine, "begin another move", fault);
    if (r < 0)
        return r;
    uint64_t held = machine_record(machine).generation;
    if (held && in_place && generation == held)
        return 0; /* the host keeps the VM, so it keeps its generation */
    if (generation <= held || (held && in_place))
        return fault_set(
            fault, ERR_REFUSED, "%s runs as generation %llu; a move to %llu is too old",
            machine->config.name, (unsigned long long)held, (unsigned long long)generation);
    return 0;
}

/* The disks that come with a move, in the order of their descriptors at MOVE_IN. */
int machine_move_add_disks(struct machine *machine, const int *fds, size_t fd_count, struct fault *fault)
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
        .on_lost = machine_move_on_lost,
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
        r = machine_hand_check_disks_stay(machine, "move", fault);
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

    machine_replica_end_protect(machine, "the VM moves");
    if (order->goals && order->goals->with_local_disks) {
        r = machine_move_add_disks(machine, NULL, 0, fault);
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
    struct latch_record before = machine_record(machine);
    record_begin_move(machine, order->move_id, order->generation);
    r = move_new_source(&machine->move, &config, order, fds, fd_count, fault);
    if (r < 0) {
        guest_port_set_in_place(machine->port, false);
        pthread_mutex_lock(&machine->latch_mutex);
        machine->record = before;
        machine_record_put_locked(machine);
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
        r = machine_move_add_disks(machine, disk_fds, disk_count, fault);
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

/* ---- while it is under way ---- */
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
    const struct latch_record record = machine_record(machine);
    if (!machine->move || machine->is_stuck) {
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
        machine_record_set_generation(machine, verdict->generation); /* written before it runs */
    int r = move_verdict(machine->move, verdict->kind, verdict->generation,
                         verdict->reason ? verdict->reason : "", fault);
    if (r < 0 && resume)
        machine_record_set_generation(machine, record.generation);
    return r;
}

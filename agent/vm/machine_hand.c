/* What an operator, or the pool for one, does to a VM that is here and stays; what may be done to it just now. */
#include "agent/vm/machine_inside.h"

#include "agent/vm/counters.h"
#include "agent/vm/disk_move.h"
#include "agent/vm/guest_port.h"
#include "agent/vm/latch_file.h"
#include "agent/vm/protect.h"
#include "agent/vm/sampler.h"
#include "base/err.h"
#include "base/loop.h"
#include "migrate/guest.h"
#include "migrate/guest_pager.h"
#include "migrate/region.h"
#include "proto/limits.h"
#include "vmm-core/vm.h"

/* ---- a disk to another file ---- */
static int begin_disk_move(struct machine *machine, const Godwit__VmDiskMove *order, int *fd,
                           struct fault *fault)
{
    const Godwit__VmSpec *spec = machine->spec;

    if (machine->state != GODWIT__VM_STATE__VM_STATE_RUNNING &&
        machine->state != GODWIT__VM_STATE__VM_STATE_PAUSED)
        return fault_set(fault, ERR_STATE, "%s does not run here", machine->config.name);
    if (machine->move || machine->rest || machine->pager || machine->in_postcopy ||
        machine_wants_backends(machine))
        return fault_set(fault, ERR_BUSY, "%s is on its way: its disks stay where they are",
                         machine->config.name);
    if (machine->protect)
        return fault_set(fault, ERR_BUSY, "%s is replicated to another host: its disks stay where they "
                                          "are until that protection ends",
                         machine->config.name);
    if (order->generation != machine_record(machine).generation)
        return fault_set(fault, ERR_STATE, "%s runs as generation %llu, %llu was meant",
                         machine->config.name,
                         (unsigned long long)machine_record(machine).generation,
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

int machine_hand_check_not_moving(const struct machine *machine, const char *what, struct fault *fault)
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
int machine_hand_check_disks_stay(const struct machine *machine, const char *what, struct fault *fault)
{
    if (machine->disk_move && !disk_move_is_over(machine->disk_move))
        return fault_set(fault, ERR_BUSY, "a disk of %s goes to another store: it cannot %s now",
                         machine->config.name, what);
    return 0;
}

/* It runs here or is paused, with all it has, and nothing else is being done to it. */
int machine_hand_check_is_whole(struct machine *machine, const char *what, struct fault *fault)
{
    int r = machine_hand_check_not_moving(machine, what, fault);
    if (r == 0)
        r = machine_hand_check_disks_stay(machine, what, fault);
    if (r < 0)
        return r;
    if (machine->state != GODWIT__VM_STATE__VM_STATE_RUNNING &&
        machine->state != GODWIT__VM_STATE__VM_STATE_PAUSED)
        return fault_set(fault, ERR_STATE, "%s does not run here", machine->config.name);
    if (machine_wants_backends(machine))
        return fault_set(fault, ERR_BUSY, "%s still waits for its disks and nics",
                         machine->config.name);
    return 0;
}

static void stand_still(struct machine *machine)
{
    hold_protect(machine);
    guest_port_pause(machine->port);
    machine->paused = true;
    release_protect(machine);
    machine_set_state(machine, GODWIT__VM_STATE__VM_STATE_PAUSED, "%s", "");
}

/* A request of a disk of it failed and waits. While something else is done to it that comes first,
 * and this once that is over: then it may have been tried again. */
void machine_hand_pause_for_disk(struct machine *machine)
{
    struct fault ignored = {0};

    if (!machine->disk_waits[0] || machine_hand_check_not_moving(machine, "be paused", &ignored) < 0)
        return;
    if (!machine->vm || !vm_disks_wait(machine->vm))
        machine->disk_waits[0] = '\0';
    else if (machine->state == GODWIT__VM_STATE__VM_STATE_RUNNING)
        stand_still(machine);
}

int machine_pause(struct machine *machine, struct fault *fault)
{
    int r = machine_hand_check_not_moving(machine, "be paused", fault);
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
    int r = machine_hand_check_not_moving(machine, "be resumed", fault);
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
    machine_set_state(machine, GODWIT__VM_STATE__VM_STATE_RUNNING, "%s", "");
    return 0;
}

int machine_power_button(struct machine *machine, struct fault *fault)
{
    int r = machine_hand_check_not_moving(machine, "be asked to switch itself off", fault);
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
    if (machine_may_lack_pages(machine))
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
    if (!machine->vm || !machine_state_has_machine(machine->state) ||
        machine->state == GODWIT__VM_STATE__VM_STATE_INCOMING)
        return fault_set(fault, ERR_STATE, "%s does not run here", machine->config.name);
    struct counters counters = machine->counters;
    /* Who asks its guest writes its memory, which nobody may behind a move's back. A device that
     * waits for a page keeps what it has counted to itself. */
    bool may_ask =
        machine->state == GODWIT__VM_STATE__VM_STATE_RUNNING && !machine->move &&
        !machine->snapshot && !machine->protect;
    if (!machine_may_lack_pages(machine))
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

    machine_write_ending(machine, LATCH_ENDING_QUIT, reason);
    machine_set_state(machine, GODWIT__VM_STATE__VM_STATE_STOPPED, "%s", reason);
    loop_timer_start(machine->over_timer, MACHINE_ENDED_LINGER_MS, 0);
}

int machine_quit(struct machine *machine, struct fault *fault)
{
    machine_replica_end_protect(machine, "the VM is stopped");
    if (machine->is_stuck)
        return 0;
    if (machine->is_lost) {
        quit_lost(machine);
        return 0;
    }
    int r = machine->pager ? 0 : machine_hand_check_not_moving(machine, "be stopped", fault);
    if (r < 0)
        return r;
    if (machine_state_has_machine(machine->state))
        machine_end(machine, GODWIT__VM_STATE__VM_STATE_STOPPED, LATCH_ENDING_QUIT, "stopped on request");
    return 0;
}

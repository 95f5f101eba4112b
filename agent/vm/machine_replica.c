/* A VM that is replicated to another host (protect), and the replica of one that is held here (standby) and may
 * be taken or copied. */
#include "agent/vm/machine_inside.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>

#include "agent/vm/console.h"
#include "agent/vm/guest_port.h"
#include "agent/vm/protect.h"
#include "agent/vm/standby.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/own.h"
#include "base/world.h"
#include "migrate/guest.h"
#include "migrate/replica.h"
#include "proto/limits.h"
#include "proto/vm_spec.h"
#include "storage/guest_label.h"

enum { WHO_SIZE = 200 };

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
void machine_replica_end_protect(struct machine *machine, const char *why)
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
        machine_replica_end_protect(machine, why);
        return;
    }
    machine_set_state(machine, GODWIT__VM_STATE__VM_STATE_PAUSED, "%s",
                      "its last checkpoint is held by another host");
}

static int check_protect(struct machine *machine, const Godwit__OrderProtect *order,
                         struct fault *fault)
{
    if (!order->vm_id || strcmp(order->vm_id, machine->config.vm_id) != 0)
        return fault_set(fault, ERR_INVALID, "this process is of VM %s", machine->config.vm_id);
    int r = machine_hand_check_is_whole(machine, "be replicated", fault);
    if (r < 0)
        return r;
    if (order->generation != machine_record(machine).generation)
        return fault_set(fault, ERR_STATE, "%s runs as generation %llu, %llu was meant",
                         machine->config.name,
                         (unsigned long long)machine_record(machine).generation,
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
        r = machine_move_add_disks(machine, NULL, 0, fault);
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
    machine_replica_end_protect(machine, "another protection takes its place");
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
    machine_replica_end_protect(machine, "the protection was ended");
    /* After a last checkpoint, or one that was just held, it stands still. */
    struct fault fault = {0};
    if (!machine->paused && !machine->has_pending &&
        guest_port_resume(machine->port, &fault) < 0)
        log_error("machine", "it cannot run on vm=%s: %s", machine->config.vm_id, fault.text);
    machine_set_state(machine,
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
    if (!machine->spec && !(machine->spec = machine_create_spec_copy(order->spec)))
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

    machine_record_set_generation(machine, machine->take_generation); /* written before it runs */
    int r = guest->ops->load(guest->owner, machine->taken.state, machine->taken.state_bytes,
                             machine->taken.stood_ns, fault);
    if (r == 0) {
        console_set_log(machine->console, TAKE_FD(machine->take_console));
        r = guest->ops->resume(guest->owner, fault);
    }
    if (r < 0) {
        machine_record_set_generation(machine, 0);
        return fault_wrap(fault, r, "going on from the replica of %s", machine->config.name);
    }
    free(machine->taken.state);
    machine->taken.state = NULL;
    machine_take_cmdline(machine);
    (void)guest_port_take_counters(machine->port, &machine->counters);
    machine->paused = guest_port_stays_paused(machine->port);
    machine_set_state(machine,
                      machine->paused ? GODWIT__VM_STATE__VM_STATE_PAUSED
                                      : GODWIT__VM_STATE__VM_STATE_RUNNING,
                      "%s", "");
    log_info("machine", "goes on from its replica vm=%s checkpoint=%llu stood_ms=%llu",
             machine->config.vm_id, (unsigned long long)machine->taken.id.seq,
             (unsigned long long)(machine->taken.stood_ns / NS_PER_MS));
    machine_tell_resumed(machine);
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

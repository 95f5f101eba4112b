/* The one VM of this process: created or incoming, running, paused, moving, ended.
 *
 * Flow:   control -> [machine] -> vm, guest_port, console, move, latch_file
 * Thread: the loop's, but for what its .c marks.
 *
 *   NONE --create--> RUNNING <--> PAUSED ---move out---> GONE
 *     |                 |  \--power off, crash--> STOPPED, CRASHED
 *     `--incoming--> INCOMING --move in--> RUNNING | PAUSED, or GONE when rolled back
 *
 * An INCOMING one (or, of disks alone, a process without a VM) may hold a replica instead, and become
 * the VM when that is taken; a VM that runs may be replicated itself, until it moves, rests or ends.
 *
 * From a source's GAVE until the move's end the state is HELD; only the move itself or a verdict
 * leaves it. A VM that ended has given its memory back; its process stays until it is told to quit,
 * or for a few seconds: whoever comes later reads the ending in the latch file.
 */
#ifndef GODWIT_AGENT_VM_MACHINE_H
#define GODWIT_AGENT_VM_MACHINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/vm/counters.h"
#include "agent/vm/disk_move.h"
#include "agent/vm/sampler.h"
#include "proto/limits.h"
#include "proto/vm.pb-c.h"
#include "proto/vm_dr.pb-c.h"

struct fault;
struct loop;
struct machine;
struct replica_copied;

struct machine_config {
    struct loop *loop;
    const char *vm_id, *name; /* borrowed for ever: argv */
    void (*on_state)(void *data);
    void (*on_move)(void *data, const Godwit__MoveEvent *event);
    void (*on_console)(void *data, const uint8_t *bytes, size_t count);
    void (*on_protect)(void *data, const Godwit__VmProtectEvent *event);
    void (*on_replica)(void *data, const Godwit__ReplicaStatus *status);
    void (*on_over)(void *data); /* nobody told it to quit, but there is nothing left to do */
    void *data;
};

/* Descriptors that come with VM_CREATE; -1: not given. */
struct machine_fds {
    int kvm, console, latch, kernel, initrd;
    int memory; /* in place: the guest's, borrowed */
    int file;   /* that it goes on from */
    int *all;   /* every one that came, for the order's backends; taken ones become -1 */
    size_t count;
};

/* A message and the parts it points into. */
struct machine_status {
    Godwit__VmStatus vm;
    Godwit__MoveLatch latch;
};

/* Disks and nics of a VM that has taken its guest. Takes the descriptors out of `fds` when it
 * returns 0; the same order twice is one. */
struct machine;
int machine_attach(struct machine *machine, const Godwit__VmAttach *order, int *fds, size_t count,
                   struct fault *fault);

int machine_new(struct machine **ret_machine, const struct machine_config *config,
                struct fault *fault);
struct machine *machine_free(struct machine *machine);

/* What another process of this host needs to take the guest over in place: fills the message, whose
 * lists are the caller's (MACHINE_LENT_BACKENDS_MAX places), and borrowed descriptors. */
enum { MACHINE_LENT_BACKENDS_MAX = 24 };
struct machine_lent {
    Godwit__VmLent message;
    Godwit__VmBackend backends[MACHINE_LENT_BACKENDS_MAX], *list[MACHINE_LENT_BACKENDS_MAX];
    int fds[RPC_FDS_MAX];
    size_t fd_count;
};
int machine_lend(struct machine *machine, struct machine_lent *ret_lent, struct fault *fault);

/* Takes the fds it wants out of `fds` (they become -1). The same order twice is one. */
int machine_create(struct machine *machine, const Godwit__VmCreate *order, struct machine_fds *fds,
                   struct fault *fault);
int machine_pause(struct machine *machine, struct fault *fault);
int machine_resume(struct machine *machine, struct fault *fault);
/* Asks the guest to switch itself off; it ends later or never. ERR_UNSUPPORTED when it does not
 * listen. */
int machine_power_button(struct machine *machine, struct fault *fault);
/* Look at what the guest writes for a second; `done` comes once, from the loop. */
int machine_sample(struct machine *machine, sampler_done_fn *done, void *data, struct fault *fault);
/* What its devices have done. Names in the message are borrowed until the machine's next change. */
int machine_counters(struct machine *machine, struct counters_message *ret_message,
                     struct fault *fault);
/* A disk to another file: see disk_move.h. Takes *fd (it becomes -1) when it is used. */
int machine_disk_move(struct machine *machine, const Godwit__VmDiskMove *order, int *fd,
                      struct disk_move_message *ret_message, struct fault *fault);
/* 0: this process may end. ERR_BUSY or ERR_STATE while a move has it, or it is held. */
int machine_quit(struct machine *machine, struct fault *fault);

/* Take the fds when they return 0 and *ret_taken is set (a repeated order does not need them). */
int machine_move_out(struct machine *machine, const Godwit__MoveOut *order, const int *fds,
                     size_t fd_count, bool *ret_taken, struct fault *fault);
/* `disk_fds`: borrowed; the files for the disks that come with it, in the spec's order. */
int machine_move_in(struct machine *machine, const Godwit__MoveIn *order, int listen_fd,
                    const int *disk_fds, size_t disk_count, bool *ret_taken, struct fault *fault);
/* Other goals for the move out that is under way. */
/* Sockets for lanes that were lost, as an event of the move asked for; true when they were taken.
 */
bool machine_take_sockets(struct machine *machine, const Godwit__MoveLanes *lanes, const int *fds,
                          size_t fd_count);
int machine_tune(struct machine *machine, const Godwit__MoveTune *tune, struct fault *fault);
int machine_verdict(struct machine *machine, const Godwit__MoveVerdict *verdict,
                    struct fault *fault);

/* The guest stands still and goes into the file (taken when it returns 0); `done` comes once,
 * later. */
int machine_suspend(struct machine *machine, const Godwit__VmSuspend *order, int file,
                    void (*done)(void *data, const struct fault *fault), void *data,
                    struct fault *fault);
/* All is in the file: keep it and end, or run on. */
int machine_suspend_end(struct machine *machine, bool keep, struct fault *fault);
/* The guest goes into the snapshot's files while it runs; `done` comes once, later, with its result or
 * a fault. Takes the descriptors out of `fds` (memory's first, if it is asked for) when it returns 0. */
struct guest_snapshot_result;
int machine_snapshot(struct machine *machine, const Godwit__VmSnapshot *order, int *fds,
                     size_t fd_count,
                     void (*done)(void *data, const struct guest_snapshot_result *result,
                                  const struct fault *fault),
                     void *data, struct fault *fault);

/* Replicate this guest to another host from now on; the same protection again has what the order says
 * now. See protect.h for the next three. */
int machine_protect(struct machine *machine, const Godwit__OrderProtect *order,
                    struct fault *fault);
int machine_protect_finish(struct machine *machine, const Godwit__OrderProtectFinish *order,
                           void (*done)(void *data, const struct fault *fault), void *data,
                           struct fault *fault);
/* The guest runs on unprotected, also after its last checkpoint. Another protection's: nothing to do. */
void machine_protect_end(struct machine *machine, const char *protection_id);
bool machine_protect_socket(struct machine *machine, const Godwit__VmProtectLink *link, int fd);
/* Of no protection: all empty but the VM's id. Borrowed, as machine_status. */
void machine_protect_status(struct machine *machine, Godwit__ProtectStatus *ret_status);

/* Hold a replica. Takes descriptors out of `fds` (they become -1) when it returns 0: a listening
 * socket; of a new one its journal and disks. */
int machine_replica_in(struct machine *machine, const Godwit__OrderReplicaIn *order, int *fds,
                       size_t fd_count, struct fault *fault);
/* Go on from what is held; of disks alone: it is on them. `done` comes once, later. Takes *console_fd
 * (it becomes -1) when it returns 0. */
int machine_replica_take(struct machine *machine, const Godwit__OrderReplicaTake *order,
                         int *console_fd, void (*done)(void *data, const struct fault *fault),
                         void *data, struct fault *fault);
/* Copy what the replica holds into files, for another VM: see standby_copy. Takes descriptors out of `fds` when it
 * returns 0. */
int machine_replica_copy(struct machine *machine, const Godwit__OrderReplicaCopy *order, int *fds,
                         size_t fd_count,
                         void (*done)(void *data, const struct replica_copied *copied,
                                      const struct fault *fault),
                         void *data, struct fault *fault);
void machine_replica_status(struct machine *machine, Godwit__ReplicaStatus *ret_status);

/* After a create that goes on from a file: is it still being read? `done` comes once then. */
bool machine_await_restored(struct machine *machine,
                            void (*done)(void *data, const struct fault *fault), void *data);

/* Borrowed parts: valid until the machine's next change. */
void machine_status(struct machine *machine, struct machine_status *ret_status);
size_t machine_console_tail(struct machine *machine, uint8_t *ret_bytes, size_t size);
bool machine_began_here(const struct machine *machine); /* was its guest booted in this process? */
size_t machine_console_input(struct machine *machine, const uint8_t *bytes, size_t count);

#endif

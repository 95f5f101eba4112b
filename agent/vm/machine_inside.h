/* What the files of the machine share: its struct, and what they ask of each other.
 *
 * Flow:   machine.h -> [machine_inside] -> machine, machine_create, machine_hand, machine_move, machine_rest,
 *         machine_replica
 * Thread: the loop's, but for what is marked.
 */
#ifndef GODWIT_AGENT_VM_MACHINE_INSIDE_H
#define GODWIT_AGENT_VM_MACHINE_INSIDE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "agent/vm/backend_set.h"
#include "agent/vm/counters.h"
#include "agent/vm/latch_file.h"
#include "agent/vm/machine.h"
#include "agent/vm/notice.h"
#include "base/err.h"
#include "migrate/replica.h"
#include "proto/vm_spec.pb-c.h"
#include "storage/guest_label.h"
#include "vmm-core/vm.h"

struct boot_files;
struct console;
struct disk_move;
struct guest_pager;
struct guest_port;
struct guest_snapshot_result;
struct loop_timer;
struct move;
struct protect;
struct rest;
struct sampler;
struct snapshot;
struct standby;

enum {
    MACHINE_CREATE_WAIT_MS = 15000, /* for VM_CREATE, or an incoming VM's MOVE_IN: else its agent died */
    MACHINE_ENDED_LINGER_MS = 5000,
    MACHINE_GONE_LINGER_MS = 10000,
    MACHINE_HOST_NAME_SIZE = 65,
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
    bool began_here;               /* its guest, by a boot; it did not come running */
    bool moved_in;                 /* its spec lacks what its disk said at its start */
    bool in_postcopy; /* it came, and pages of it are still to come */
    bool in_place;    /* the move that is under way, or was made for: the generation stays */
    bool is_stuck;    /* the move in was given up, and a thread of it does not end */
    bool has_pending; /* the guest did something to itself while a move had it */
    enum vm_event pending;
    struct fault pending_fault;
    char reason[LATCH_FILE_REASON_SIZE];
    char host[MACHINE_HOST_NAME_SIZE]; /* for the guest; "": not known */
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

/* ---- machine.c ------------------------------------------------------------------------------ */

/* Does a VM in this state have its machine? */
bool machine_state_has_machine(Godwit__VmState state);

/* A copy, read under the mutex. */
struct latch_record machine_record(struct machine *machine);

/* Write what the record says now; the caller has the mutex. */
void machine_record_put_locked(struct machine *machine);

/* Written before who acts upon it acts. */
void machine_record_set_generation(struct machine *machine, uint64_t generation);

/* Any thread: what its end was, in the latch file. */
void machine_write_ending(struct machine *machine, enum latch_ending ending, const char *reason);

/* Note the state, with its reason or "", and tell of it. */
__attribute__((format(printf, 3, 4))) void
machine_set_state(struct machine *machine, Godwit__VmState state, const char *format, ...);

/* It has taken its guest and its move is not over, or its file is still being read: pages may be missing, and who
 * touches one waits for it. So the loop touches no memory of the guest. */
bool machine_may_lack_pages(struct machine *machine);

/* It has its guest, whose disks and nics are still to come: the agent has to know at once. */
bool machine_wants_backends(struct machine *machine);

/* The machine from its spec and backends; `memory_fd` is borrowed: the guest's, or -1 for new memory. */
int machine_build(struct machine *machine, int memory_fd, struct fault *fault);

/* Build it, load what it boots from, let it run. */
int machine_boot(struct machine *machine, struct fault *fault);

/* The vm and all that hangs on it; what it counted stays. */
void machine_unbuild(struct machine *machine);

/* The VM is over: memory back, the ending written, the process lingers for who wants to know. */
void machine_end(struct machine *machine, Godwit__VmState state, enum latch_ending ending,
                 const char *reason);

/* Any thread; does not return: the process ends here and now. */
void machine_die(void);

/* What the guest did to itself while something else had it. */
void machine_take_pending(struct machine *machine);

/* The pool's description knows only what its operator added; a guest that resets needs all of it. */
void machine_take_cmdline(struct machine *machine);

/* Is this guest told of anything, and does it run to hear it? */
bool machine_hears(const struct machine *machine);

/* Of the move that is under way, or was the last. */
enum notice_kind machine_notice_kind(const struct machine *machine);

/* It goes on after a move or from a replica. */
void machine_tell_resumed(struct machine *machine);

/* ---- machine_create.c ----------------------------------------------------------------------- */

/* Gives a copy; NULL: no memory. */
Godwit__VmSpec *machine_create_spec_copy(const Godwit__VmSpec *spec);

/* ---- machine_hand.c ------------------------------------------------------------------------- */

/* `what`: what is to be done to it ("be paused"). Is nothing else being done, and is all of it here? */
int machine_hand_check_not_moving(const struct machine *machine, const char *what, struct fault *fault);

/* For what needs its disks to be where they are. */
int machine_hand_check_disks_stay(const struct machine *machine, const char *what, struct fault *fault);

/* It runs here or is paused, with all it has, and nothing else is being done to it. */
int machine_hand_check_is_whole(struct machine *machine, const char *what, struct fault *fault);

/* A request of a disk of it failed and waits. While something else is done to it that comes first,
 * and this once that is over: then it may have been tried again. */
void machine_hand_pause_for_disk(struct machine *machine);

/* ---- machine_move.c ------------------------------------------------------------------------- */

/* The disks that go along become regions of the guest, in the order of their descriptors at MOVE_IN. */
int machine_move_add_disks(struct machine *machine, const int *fds, size_t fd_count, struct fault *fault);

/* A move in was given up some time ago, and not all of its threads have ended: says that it is over all the same. What they
 * use stays until they end, or the process does. */
void machine_move_leave(struct machine *machine);

/* Any thread; does not return: pages of the guest are gone. */
void machine_move_on_lost(void *data, const struct fault *fault);

/* ---- machine_rest.c ------------------------------------------------------------------------- */

/* Build the machine and fill it from the file; it runs, or is told not to, when that is done. Takes *file (it
 * becomes -1) when it is used. */
int machine_rest_restore(struct machine *machine, const Godwit__VmCreate *order, int *file,
                         struct fault *fault);

/* It was told, or need not be: it stands still and goes into its file. */
void machine_rest_suspend_now(struct machine *machine);

/* ---- machine_replica.c ---------------------------------------------------------------------- */

/* The guest stands or runs as it did; after a last checkpoint it stands. Of no protection: nothing to do. */
void machine_replica_end_protect(struct machine *machine, const char *why);

#endif

/* All VMs of this host, running or not: what is known of each, on disk and in their processes.
 *
 * Flow:   orders -> [vm_table] -> vm_process;  godwit-vm's events -> [vm_table] -> agent_link
 * Thread: the loop's; files are written by workers.
 *
 * A VM's last known status lies in STATE/vms/<id>/vm.bin, so that a restarted agent knows the VMs
 * that do not run; those that run are found by their sockets in RUN/vms/<id> and asked. What does
 * not answer is left alone and asked again every second (R9): nothing is ended or deleted on
 * ignorance.
 */
#ifndef GODWIT_AGENT_VM_TABLE_H
#define GODWIT_AGENT_VM_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/vm.pb-c.h"
#include "proto/vm_dr.pb-c.h"

struct fault;
struct journal;
struct latch_record;
struct loop;
struct rpc_request;
struct upgrade;
struct vm_entry;
struct vm_process;
struct vm_process_config;
struct vm_table;

enum {
    VM_ID_SIZE = 64,
    VM_PATH_SIZE = 512,
    VM_SESSIONS_MAX = 16,
    VM_WAITERS_MAX = 4,
    VM_END_REASON_MAX = 200,
    VM_ADOPT_MS_MAX = 800, /* for a running VM to answer before the coordinator is told */
};

struct vm_waiters { /* requests that wait for one thing */
    struct rpc_request *requests[VM_WAITERS_MAX];
    size_t count;
};

struct vm_entry {
    struct vm_table *table;
    struct vm_entry *next;
    char id[VM_ID_SIZE];
    Godwit__VmStatus *status;   /* owned; what is told and kept */
    struct vm_process *process; /* NULL: none */
    uint64_t hiwater;           /* no generation below it starts here */

    /* orders under way (orders.c) */
    bool starting;
    uint64_t starting_generation;
    uint64_t void_generation;           /* a stop was refused while it was not known what its start had become: never begun anew */
    bool starting_from_file;            /* its memory comes from one */
    bool starting_moves_in;             /* it is a MOVE_IN's: another host's guest is to come, no start */
    bool starting_runs;                 /* it is a START's, of a process: what ends on the way may have run */
    bool start_may_end, start_ends;     /* a START is under way that a stop may end; one has */
    bool is_recalled; /* libvirt may be at a start of before, as starting_generation: its next one, or start_recall.c, finds out */
    bool is_recall_unsent; /* start_recall.c: it is spoken for, and was not asked to end yet */
    bool attaching;                     /* attach.c: disks and nics are on their way */
    bool suspending;                    /* suspend.c: what its process tells is for that */
    bool snapshotting;                  /* snapshots.c: it goes into files while it runs */
    struct upgrade *upgrade;            /* upgrade.c: it is being handed over, or was; NULL: no */
    struct vm_process *next_process;    /* upgrade.c: to whom; NULL: none */
    char end_reason[VM_END_REASON_MAX]; /* why we killed it; empty: we did not */
    bool stopping, remove;
    bool tidying; /* its disks are put away on a worker: it left, or did not come */
    struct vm_waiters start_waiters, stop_waiters;
    bool is_unconfirmed;   /* what runs for it has said nothing yet: its status is an earlier agent's */
    bool is_silent;        /* it was asked, and did not answer in time */
    bool was_told_unknown; /* vm_word.c: by the last HELLO, and nothing else was since */
    char out_move_id[VM_ID_SIZE]; /* of the last MOVE_OUT that was begun */
    char disks_move_id[VM_ID_SIZE]; /* of the MOVE_OUT that takes local disks along; else empty */
    bool dialling;                /* redial.c: sockets for its lost lanes are being connected */
    char in_move_id[VM_ID_SIZE];  /* of the last MOVE_IN, with its address */
    char in_address[160];
    uint64_t sessions[VM_SESSIONS_MAX]; /* of attached consoles */
    size_t session_count;
    struct vm_input { /* what viewers typed, the newest VM_SESSIONS_MAX of them; all zero: none */
        uint64_t stream, taken;
    } inputs[VM_SESSIONS_MAX];
    size_t next_input;

    /* vm_table.c's own */
    Godwit__VmStatus *before; /* owned: what it was before an order that may fail; NULL: new */
    bool discard;             /* that order failed: its process's end means nothing */
    bool unreachable;         /* something may run that we cannot reach */
    bool quit_sent, asking, quiet, dirty, saving, removed;
};

struct vm_table_config {
    struct loop *loop;
    const char *state_dir, *run_dir, *program, *log_level,
        *incarnation;                                  /* must outlive the table */
    const char *failpoints_path;                       /* so must this; NULL but in tests */
    void (*on_vm)(void *data, struct vm_entry *entry); /* its status changed */
    void (*on_move)(void *data, struct vm_entry *entry, const Godwit__MoveEvent *event);
    void (*on_console)(void *data, struct vm_entry *entry, const Godwit__ConsoleData *event);
    void (*on_protect)(void *data, struct vm_entry *entry, const Godwit__VmProtectEvent *event);
    void (*on_ended)(void *data, struct vm_entry *entry); /* its process has; status is new */
    /* The process of a start that failed has ended: as one that ran (on_ended comes then), or as one that
     * never did; the entry may go right after. */
    void (*on_discarded)(void *data, struct vm_entry *entry, bool has_run);
    void (*on_wants_backends)(void *data, struct vm_entry *entry); /* said at every such status */
    /* A domain of libvirt instead of a process: see domains. `inherit`: it ran before this agent. */
    int (*open_domain)(void *data, struct vm_entry *entry, bool inherit, int *ret_fd,
                       struct fault *fault);
    void (*kill_domain)(void *data, struct vm_entry *entry);
    /* Of an entry with an upgrade: what its process tells is for that. */
    void (*on_upgrade_move)(void *data, struct vm_entry *entry, const Godwit__MoveEvent *event);
    void (*on_upgrade_lent)(void *data, struct vm_entry *entry, const Godwit__VmLent *lent,
                            struct rpc_request *request);
    void (*on_upgrade_ended)(void *data, struct vm_entry *entry, const char *how);
    /* Its process has all in a file and waits, and no order of ours is at it. */
    void (*on_suspended)(void *data, struct vm_entry *entry);
    /* Before what runs is looked for: was one under way? It then is in the entry. */
    void (*on_find)(void *data, struct vm_entry *entry);
    void (*on_settled)(void *data); /* once, after vm_table_load: all that run have answered */
    void *data;
};

int vm_table_new(struct vm_table **ret_table, const struct vm_table_config *config,
                 struct fault *fault);
struct vm_table *vm_table_free(struct vm_table *table); /* processes run on */

/* This generation of a VM was seen here, as the journal remembers or as an order names it: none up
 * to it starts here any more. Best effort: without memory it is forgotten. */
void vm_table_note_generation(struct vm_table *table, const char *vm_id, uint64_t generation);
/* The highest generation that was seen, also of a VM that is not here any more; 0: none. */
uint64_t vm_table_hiwater(struct vm_table *table, const char *vm_id);
/* A start as `generation` is refused, and the coordinator goes by that: it is not to begin when the
 * order, said twice, comes again. Also journaled. */
void vm_table_refuse(struct vm_table *table, const char *vm_id, uint64_t generation);
/* Where events go from now on; must outlive the table's last event. NULL: nowhere. */
void vm_table_set_journal(struct vm_table *table, struct journal *journal);
/* Read the folders, adopt what runs; on_settled comes when it has answered. */
int vm_table_load(struct vm_table *table, struct fault *fault);

struct vm_entry *vm_table_first(struct vm_table *table); /* and then entry->next */
struct vm_entry *vm_table_find(struct vm_table *table, const char *vm_id); /* NULL: not here */
size_t vm_table_count(const struct vm_table *table);
size_t vm_table_running(const struct vm_table *table); /* with a process */
/* The VM's entry, made and given its folders when it is new. */
int vm_table_add(struct vm_table *table, const char *vm_id, struct vm_entry **ret_entry,
                 struct fault *fault);
/* Forget a VM without a process, and delete its own files. */
void vm_table_remove(struct vm_entry *entry);
/* The same for one that has no entry: what an agent before us may have left. */
void vm_table_clear(const struct vm_table *table, const char *vm_id);

/* Of a VM that may have no entry; otherwise as the next. */
int vm_table_state_path(const struct vm_table *table, const char *vm_id, const char *name,
                        char ret_path[static VM_PATH_SIZE], struct fault *fault);
/* Paths of a VM's things: "console.log", "vm.log" in STATE; "control.sock", "latch", "move" in RUN.
 */
int vm_entry_state_path(const struct vm_entry *entry, const char *name,
                        char ret_path[static VM_PATH_SIZE], struct fault *fault);
int vm_entry_run_path(const struct vm_entry *entry, const char *name,
                      char ret_path[static VM_PATH_SIZE], struct fault *fault);
/* Its disks_move_id into RUN/move-disks, for an agent that is started anew meanwhile; "": no file. */
int vm_entry_keep_disks_move(const struct vm_entry *entry, struct fault *fault);

/* Does something run for it here, or may it? */
bool vm_entry_is_alive(const struct vm_entry *entry);
/* What happens from here on can be undone by vm_entry_discard, until vm_entry_commit. */
int vm_entry_begin(struct vm_entry *entry, struct fault *fault);
/* Start a process without a VM in it. */
int vm_entry_spawn(struct vm_entry *entry, const char *name, struct fault *fault);
/* The same for a domain of libvirt: what speaks for it. */
int vm_entry_open(struct vm_entry *entry, const char *name, struct fault *fault);
/* A domain that an earlier agent knew to run can be spoken for now. */
int vm_entry_inherit(struct vm_entry *entry, struct fault *fault);
bool vm_entry_is_domain(const struct vm_entry *entry);
void vm_entry_commit(struct vm_entry *entry);
/* For upgrade.c. The config of a process of this VM whose socket has this name in RUN; callbacks and
 * data are the caller's to set. `socket_path` and `log_path` are what it points to. */
int vm_entry_process_config(struct vm_entry *entry, const char *socket_name,
                            char socket_path[static VM_PATH_SIZE],
                            char log_path[static VM_PATH_SIZE],
                            struct vm_process_config *ret_config, struct fault *fault);
/* The process at control.sock is this one from now on; the one before is the caller's. */
void vm_entry_switch(struct vm_entry *entry, struct vm_process *process);
/* A process that held a replica is the VM's from now on, as `status` says; its files in RUN lie in the
 * entry's folder already. `status` NULL: it is asked. `process` NULL: it has ended since, and the latch
 * file says as what. */
void vm_entry_adopt_replica(struct vm_entry *entry, struct vm_process *process,
                            const Godwit__VmStatus *status, const char *how);
/* Its process has ended, and no upgrade has it: what the latch file says becomes of it. */
void vm_entry_ended(struct vm_entry *entry, const char *how);
void vm_entry_refresh(struct vm_entry *entry); /* ask its process how it is */
/* Its process gave its guest away as this generation and was told nothing since; 0: no. By its latch file, which is
 * as it is also when the process does not answer. */
uint64_t vm_entry_given_as(const struct vm_entry *entry);
/* Is there a file that a guest of this generation goes on from, and nobody has yet? Its nonce, when
 * asked for. */
enum { VM_NONCE_SIZE = 64 };
bool vm_entry_has_file(const struct vm_entry *entry, uint64_t generation,
                       char ret_nonce[VM_NONCE_SIZE]);
/* The same of the file with this nonce, whatever is known of its VM; *ret_generation: that rests in it. */
bool vm_entry_find_file(const struct vm_entry *entry, const char *nonce, uint64_t *ret_generation);
/* A VM that never ran here rests in such a file, which was put into its place: it is SUSPENDED. False: there is none. */
bool vm_entry_rest(struct vm_entry *entry, uint64_t generation);
/* Nobody goes on from it any more, whatever power does. */
int vm_entry_drop_file(const struct vm_entry *entry, struct fault *fault);
/* Its guest runs while its memory is still read from a file: that is kept until all is here, or it has ended. */
bool vm_entry_is_paging(const struct vm_entry *entry);
/* Write ABANDONED into the latch file of this name, whose process is no more. */
bool vm_entry_write_abandoned(struct vm_entry *entry, const char *name,
                              struct latch_record *record);
/* The order for which it was spawned failed: end the process, be as before (a new entry is forgotten, so
 * the entry may be gone when this returns). One that was started may have run by then: its latch file says
 * so when it has ended, and it has crashed. */
void vm_entry_discard(struct vm_entry *entry);
/* Change the state; tells (when `tell`) and keeps it. */
void vm_entry_set(struct vm_entry *entry, Godwit__VmState state, uint64_t generation,
                  const char *reason, bool tell);
/* Take a status over from the VM's process. */
void vm_entry_update(struct vm_entry *entry, const Godwit__VmStatus *status);
bool vm_entry_set_spec(struct vm_entry *entry, const Godwit__VmSpec *spec); /* false: no memory */
void vm_entry_journal(struct vm_entry *entry, const char *event);

#endif

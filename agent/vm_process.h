/* One godwit-vm as its agent sees it: started or found running, spoken to, watched until it ends.
 *
 * Flow:   vm_table, orders -> [vm_process] -> net/rpc -> godwit-vm;  its events -> vm_table
 * Thread: the loop's.
 *
 * Its end is seen by a pidfd, which works for processes that another agent started, and is told
 * only when its socket has been read to the end too: the last words come before the end. Freeing
 * this object leaves the process running.
 */
#ifndef GODWIT_AGENT_VM_PROCESS_H
#define GODWIT_AGENT_VM_PROCESS_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/vm.pb-c.h"
#include "proto/vm_dr.pb-c.h"

struct fault;
struct loop;
struct rpc;
struct rpc_request;
struct vm_process;

enum { VM_PROCESS_HOW_SIZE = 96 };

struct vm_process_config {
    struct loop *loop;
    const char *program;   /* godwit-vm */
    const char *log_level; /* given on to it */
    const char *vm_id, *name;
    const char *socket_path; /* its control socket; all of these are copied where they are kept */
    const char *log_path;    /* its own log: descriptors 1 and 2 */
    const char *failpoints_path; /* for tests: see base/failpoint; NULL, always but there */
    void (*on_state)(void *data, const Godwit__VmStatus *status);
    void (*on_move)(void *data, const Godwit__MoveEvent *event);
    void (*on_console)(void *data, const Godwit__ConsoleData *event);
    void (*on_protect)(void *data, const Godwit__VmProtectEvent *event); /* NULL: not listened to */
    void (*on_replica)(void *data, const Godwit__ReplicaStatus *status); /* as this */
    void (*on_connected)(void *data); /* again, after the connection was lost */
    void (*kill)(void *data); /* of one that is spoken for by vm_process_open */
    /* It lends what it was asked for; take the descriptors, then answer the request. NULL: refused. */
    void (*on_lent)(void *data, const Godwit__VmLent *lent, struct rpc_request *request);
    /* The process is no more; free this object, now or later. `how`: "killed by signal 9". */
    void (*on_ended)(void *data, const char *how);
    void *data;
};

/* Make the socket, start the program, connect. */
int vm_process_start(struct vm_process **ret_process, const struct vm_process_config *config,
                     struct fault *fault);
/* Connect to one that runs. ERR_NOT_FOUND: nobody listens there, the process has ended. */
int vm_process_adopt(struct vm_process **ret_process, const struct vm_process_config *config,
                     struct fault *fault);
/* No process of ours: `fd`, taken when this returns 0, speaks for it (see domains). It ends when the
 * socket does. */
int vm_process_open(struct vm_process **ret_process, const struct vm_process_config *config, int fd,
                    struct fault *fault);
/* What an order began did not come to be: end a process; what is spoken for is only let go. */
int vm_process_discard(struct vm_process *process, struct fault *fault);
struct vm_process *vm_process_free(struct vm_process *process);
/* Somebody else's from now on: other callbacks and data, and its socket may have another path. */
int vm_process_give(struct vm_process *process, const struct vm_process_config *config,
                    struct fault *fault);

struct rpc *vm_process_rpc(struct vm_process *process); /* NULL while not connected */
int vm_process_pid(const struct vm_process *process);
/* SIGKILL by pidfd. ERR_STATE for an adopted one that is not proven to be the VM's. */
int vm_process_kill(struct vm_process *process, struct fault *fault);
/* The same in so long, should it not have ended by itself until then. */
void vm_process_kill_after(struct vm_process *process, uint64_t ms);
/* It has answered with its VM's id: it is what we take it for. */
void vm_process_set_known(struct vm_process *process);
bool vm_process_is_known(const struct vm_process *process);
/* The same also without an answer, by the kernel's word: see vm_proof. */
bool vm_process_is_proven(const struct vm_process *process);

#endif

/* The replicas that this host holds of guests that run elsewhere: each a godwit-vm process, its
 * disks and a record; told to the coordinator as what they are, never as VMs.
 *
 * Flow:   orders -> [standbys] -> standby_disks, vm_process;  [standbys] -> agent_link; a failover
 * -> vm_table Thread: the loop's; files on workers.
 *
 *   STATE/replicas/<vm>/replica.bin   the order, without its key; a failover that was begun
 *   STATE/replicas/<vm>/vm.log        its process's
 *   RUN/replicas/<vm>/                control.sock, latch
 *
 *   in      record, disks --> process --> it listens
 *   take    record: as generation g --> its process goes on from what it holds --> the disks get
 * their names --> its socket and latch move to RUN/vms/<vm>: it is the VM's process, and attach
 * gives it disks and nics. Of disks alone: the process ends, and the VM is started from them drop
 * process, then files that this protection made
 *
 * Processes outlive this agent and are found again by their sockets. One that has ended is told as
 * broken; the same order makes another on the same disks. A failover that an agent before us had
 * begun goes on when its process says that it was taken.
 */
#ifndef GODWIT_AGENT_STANDBYS_H
#define GODWIT_AGENT_STANDBYS_H

#include <stdbool.h>

#include "proto/agent.pb-c.h"
#include "proto/dr.pb-c.h"
#include "proto/vm.pb-c.h"

struct fault;
struct host_facts;
struct loop;
struct rpc;
struct rpc_request;
struct standbys;
struct vm_table;

struct standbys_config {
    struct loop *loop;
    struct vm_table *table; /* borrowed, as all below, must outlive the standbys */
    struct host_facts *facts;
    const char *state_dir, *run_dir, *program, *log_level;
    const char *failpoints_path; /* NULL but in tests */
    void (*tell)(void *data, const Godwit__AgentReplicas *all);
    /* A failover of disks alone: start the VM from them; answers the request. */
    void (*start)(void *data, const Godwit__OrderVmStart *order, struct rpc_request *request);
    void *data;
};

/* Reads the records; the processes are looked for by standbys_load. */
int standbys_new(struct standbys **ret_standbys, const struct standbys_config *config,
                 struct fault *fault);
void standbys_load(struct standbys *standbys);
void standbys_stop(struct standbys *standbys); /* workers are done: before the table is freed */
struct standbys *standbys_free(struct standbys *standbys); /* processes run on */

void standbys_tell(struct standbys *standbys); /* at once: a new link to the coordinator */
/* Is a replica of it here, which was not taken? Then it is taken, never started. */
bool standbys_hold(const struct standbys *standbys, const char *vm_id);

/* One that may be looked at, of this protection: what it was made by, and the line to its process. Borrowed until the
 * loop's next turn. */
int standbys_look(const struct standbys *standbys, const char *vm_id, const char *protection_id,
                  const Godwit__OrderReplicaIn **ret_order, struct rpc **ret_rpc,
                  struct fault *fault);

/* Orders, judged for this life of the host already. Each answers its request, now or later. */
void standbys_in(struct standbys *standbys, const Godwit__OrderReplicaIn *order,
                 struct rpc_request *request);
void standbys_take(struct standbys *standbys, const Godwit__OrderReplicaTake *order,
                   struct rpc_request *request);
void standbys_drop(struct standbys *standbys, const Godwit__OrderReplicaDrop *order,
                   struct rpc_request *request);

#endif

/* A VM of its own made of what a replica of this host holds, for a test: disks, and the file that its memory
 * goes on from. Nothing is started here, and nothing of the replica is changed.
 *
 * Flow:   orders -> [standby_twin] -> standbys' process (the copy), storage/share, vm_table
 * Thread: the loop's; files on workers.
 *
 *   land    empty files of the twin's disks, without their names; of its memory      worker
 *   VM_REPLICA_COPY                                                                  the replica's process
 *   keep    names                                                                    worker
 *           the VM is SUSPENDED here (of disks alone: there is nothing to tell), the answer
 *
 * What fails leaves nothing. An agent that dies in between leaves files that the removal of that VM finds.
 */
#ifndef GODWIT_AGENT_STANDBY_TWIN_H
#define GODWIT_AGENT_STANDBY_TWIN_H

#include <stdbool.h>

#include "proto/dr.pb-c.h"

struct fault;
struct loop;
struct rpc_request;
struct standbys;
struct twin;
struct vm_table;

struct standby_twins {
    struct loop *loop;
    struct vm_table *table;
    struct standbys *standbys;
    struct twin *first; /* under way */
    unsigned workers;
    bool stopped;
};

/* Answers with ReplicaCopied, or why not. */
void standby_twin_make(struct standby_twins *twins, const Godwit__OrderReplicaCopy *order,
                       struct rpc_request *request);
/* It is no time to remove this VM. */
bool standby_twins_make(const struct standby_twins *twins, const char *vm_id);
void standby_twins_stop(struct standby_twins *twins); /* no worker has one any more */
void standby_twins_free(struct standby_twins *twins); /* the replicas' processes are let go of */

#endif

/* The pool in the operator's words: states, places, the messages of pool.proto.
 *
 * Flow:   cluster -> [cluster_view] -> api, watch, cluster_core's refusals
 * Thread: the loop's; pure.
 */
#ifndef GODWIT_COORDINATOR_CLUSTER_VIEW_H
#define GODWIT_COORDINATOR_CLUSTER_VIEW_H

#include "coordinator/cluster.h"
#include "coordinator/planner.h"

enum cluster_host_state { HOST_UP, HOST_SUSPECT, HOST_DOWN };

enum cluster_host_state cluster_host_state(const struct cluster_host *host, uint64_t now_ns);
const char *cluster_host_state_word(enum cluster_host_state state);
const char *cluster_vm_word(const struct cluster *cluster, const struct cluster_vm *vm,
                            uint64_t now_ns);
/* "running on node1" */
void cluster_vm_place(const struct cluster *cluster, const struct cluster_vm *vm, uint64_t now_ns,
                      char *ret_text, size_t size);
/* What the planner sees; malloc'ed, host_count entries. NULL: no memory. */
struct planner_host *cluster_planner_hosts(const struct cluster *cluster, uint64_t now_ns);

/* ---- words and messages; every pointer in a message is borrowed from the cluster ---- */
/* What `godwit status` shows of it; the other adds the rest, its spec too. */
void cluster_vm_brief(const struct cluster *cluster, const struct cluster_vm *vm, uint64_t now_ns,
                      Godwit__VmInfo *ret_info);
void cluster_vm_info(const struct cluster *cluster, const struct cluster_vm *vm, uint64_t now_ns,
                     Godwit__VmInfo *ret_info);

struct cluster_job_message { /* room for what a JobInfo points to */
    Godwit__JobInfo info;
    Godwit__OperatorError error;
    struct problem problem;
    char *details[PROBLEM_DETAILS_MAX];
    char *notes[CLUSTER_NOTES_MAX];
    char vm_state[128];
};
void cluster_job_info(const struct cluster *cluster, const struct cluster_job *job, uint64_t now_ns,
                      struct cluster_job_message *ret_message);

#endif

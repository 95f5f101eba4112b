/* What becomes of the pool as agents report: every decision about hosts, VMs, records and jobs.
 *
 * Flow:   agent_link, cluster_ask -> [cluster_core] -> todo -> store, then agent_link, api, watch
 * Thread: the loop's; pure. Time and chance arrive in the arguments.
 *
 * Every function that changes something adds to a todo: rows to put into the store in one
 * transaction, and then, only once that is durable, orders to agents, answers to operators and
 * news for watchers (INV-7). The shell (coordinator.c) carries it out and holds no policy, so
 * tests/sim runs this very code against fake agents.
 */
#ifndef GODWIT_COORDINATOR_CLUSTER_CORE_H
#define GODWIT_COORDINATOR_CLUSTER_CORE_H

#include "coordinator/cluster.h"

/* All rows are there: active jobs take their VMs and go on, agents are awaited. */
void cluster_restart(struct cluster *cluster, struct cluster_now now, struct cluster_todo *todo);

/* ---- agents ---- */
/* Returns NULL when the pool is full. A host that is known already is found. */
struct cluster_host *cluster_host_joined(struct cluster *cluster, const char *name,
                                         struct cluster_now now, struct cluster_todo *todo);
/* `hello` is borrowed. */
void cluster_hello(struct cluster *cluster, struct cluster_host *host,
                   const Godwit__AgentHello *hello, struct cluster_now now,
                   struct cluster_todo *todo);
void cluster_heartbeat(struct cluster *cluster, struct cluster_host *host,
                       const Godwit__AgentHeartbeat *heartbeat, struct cluster_now now);
void cluster_link_lost(struct cluster *cluster, struct cluster_host *host, struct cluster_now now,
                       struct cluster_todo *todo);
void cluster_vm_event(struct cluster *cluster, struct cluster_host *host,
                      const Godwit__VmStatus *status, struct cluster_now now,
                      struct cluster_todo *todo);
/* The same of one that HELLO listed as unknown: it counts as HELLO's word of it. */
void cluster_vm_first_word(struct cluster *cluster, struct cluster_host *host,
                           const Godwit__VmStatus *status, struct cluster_now now,
                           struct cluster_todo *todo);
void cluster_move_event(struct cluster *cluster, struct cluster_host *host,
                        const Godwit__MoveEvent *event, struct cluster_now now,
                        struct cluster_todo *todo);
void cluster_order_done(struct cluster *cluster, const struct cluster_order *order,
                        const struct cluster_result *result, struct cluster_now now,
                        struct cluster_todo *todo);
void cluster_tick(struct cluster *cluster, struct cluster_now now, struct cluster_todo *todo);

/* One step of a job, with all that follows for its VM's record; for cluster_ask. */
/* Its goals were changed: store them, and tell the source where it is at it. */
void cluster_tune_job(struct cluster_job *job, struct cluster_now now, struct cluster_todo *todo);
void cluster_step_job(struct cluster *cluster, struct cluster_job *job,
                      const struct job_event *event, struct cluster_now now,
                      struct cluster_todo *todo);
/* For the operator: what was found, why it waits. What does not fit any more is left out. */
void cluster_job_note(struct cluster_job *job, const char *text);
/* Note that the record changed: it goes into the store with this todo. */
void cluster_put_own(struct cluster_vm *vm, struct cluster_now now, struct cluster_todo *todo);
/* An order to `host` about this VM, under the recorded generation. */
struct cluster_order *cluster_order_vm(const struct cluster_vm *vm, const char *host,
                                       enum cluster_order_kind kind, struct cluster_now now,
                                       struct cluster_todo *todo);

/* Is the pool's state one that was restored, and not all hosts seen since (R10)? Then it is read-only;
 * ret_waits (may be NULL) names those that are missing. */
bool cluster_is_restored(const struct cluster *cluster, char *ret_waits, size_t size);

/* ---- for cluster_ha ---- */
/* `host` is fenced: it has no process of this VM, whatever was on its way. */
void cluster_vm_is_gone(struct cluster *cluster, struct cluster_host *host, struct cluster_vm *vm,
                        struct cluster_now now, struct cluster_todo *todo);
void cluster_warn(struct cluster *cluster, const char *host, const char *text);
void cluster_clear_warnings(struct cluster *cluster, const char *host);

#endif

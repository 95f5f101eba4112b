/* High availability over the cluster: hosts that die are fenced, what they ran starts elsewhere,
 * once.
 *
 * Flow:   cluster_core's tick, agent_link, api -> [cluster_ha] -> ha_core, own -> todo
 * Thread: the loop's; pure.
 *
 * What is lost with a fenced host is found level-triggered: as long as a host is fenced, every
 * record that names it is told that its process is gone. A VM that HA protects becomes RECOVERING
 * and is started anew, the most important ones first; any other becomes STOPPED.
 */
#ifndef GODWIT_COORDINATOR_CLUSTER_HA_H
#define GODWIT_COORDINATOR_CLUSTER_HA_H

#include "coordinator/cluster_core.h"

/* ---- from cluster_core ---- */
void cluster_ha_tick(struct cluster *cluster, struct cluster_now now, struct cluster_todo *todo);
/* May the hello be taken? When not, the agent is to be told what to end (cluster_ha_superseded). */
bool cluster_ha_hello(struct cluster *cluster, struct cluster_host *host,
                      const Godwit__AgentHello *hello, struct cluster_now now,
                      struct cluster_todo *todo);
/* Is what that host runs under this status an earlier life of the VM, which must end? */
bool cluster_ha_superseded(const struct cluster *cluster, const struct cluster_host *host,
                           const Godwit__VmStatus *status);
/* The VM's process has ended, or could not be started, and nobody wanted that: it stops, or is lost
 * and will be started again. Puts the record. */
void cluster_ha_end_vm(struct cluster *cluster, struct cluster_vm *vm, bool crashed,
                       struct cluster_now now, struct cluster_todo *todo);
void cluster_ha_started(struct cluster_vm *vm, struct cluster_now now);
void cluster_ha_order_done(struct cluster *cluster, const struct cluster_order *order,
                           const struct cluster_result *result, struct cluster_now now,
                           struct cluster_todo *todo);

/* ---- views ---- */
bool cluster_ha_protects(const struct cluster_vm *vm);
uint32_t cluster_ha_priority(const struct cluster_vm *vm);
bool cluster_ha_is_armed(const struct cluster *cluster, uint64_t now_unix_ms);
unsigned cluster_ha_reserve(const struct cluster *cluster);
bool cluster_ha_may_run_on(const struct cluster_host *host);
bool cluster_ha_has_storage(const struct cluster *cluster, const struct cluster_host *host);
/* "F1 F2", "F0" for none */
void cluster_ha_classes(const struct cluster *cluster, const struct cluster_host *host,
                        char *ret_text, size_t size);

/* ---- what operators ask: 0, or -1 with `problem` set and nothing changed ---- */
int cluster_ha_protect(struct cluster *cluster, const char *word, bool protect, uint32_t priority,
                       struct cluster_now now, struct problem *problem, struct cluster_todo *todo);
int cluster_ha_arm(struct cluster *cluster, bool arm, uint64_t for_s, struct cluster_now now,
                   struct problem *problem, struct cluster_todo *todo);
int cluster_ha_set_reserve(struct cluster *cluster, uint32_t reserve, struct problem *problem,
                           struct cluster_todo *todo);
int cluster_ha_set_fence(struct cluster *cluster, const char *word, const char *agent,
                         const char *options, struct problem *problem, struct cluster_todo *todo);
int cluster_ha_confirm_down(struct cluster *cluster, const char *word, const char *confirm,
                            struct cluster_now now, struct problem *problem,
                            struct cluster_todo *todo);

#endif

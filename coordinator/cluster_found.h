/* Domains of libvirt that hosts have and the pool does not run there: shown, adopted, reconciled.
 *
 * Flow:   agent_link, api -> [cluster_found] -> todo
 * Thread: the loop's; pure.
 *
 * A host tells all of them whenever one changes, so what is here is level, not edge. What somebody
 * does by hand is followed where the record allows it, and otherwise raised as a conflict; nothing
 * is ever stopped for it.
 *
 *   record STOPPED, found running             started by hand, or moved there: the record follows
 *   record RUN elsewhere, found running       two claims: a conflict, told until it is over
 *   lost and about to be restarted, found     it runs: HA follows instead of starting a second copy
 *   about to be started, arriving elsewhere   it may run: no start on any other host
 *   record here, no definition any more       told; it runs on, or is defined again by its next
 *                                             start
 *   protected by HA, has autostart            that is switched off: a host that boots would start
 *                                             a second copy of what HA has started elsewhere
 *   no record                                 not the pool's; `vm ls` shows it, `vm adopt` takes it
 */
#ifndef GODWIT_COORDINATOR_CLUSTER_FOUND_H
#define GODWIT_COORDINATOR_CLUSTER_FOUND_H

#include "coordinator/cluster.h"

void cluster_found_take(struct cluster *cluster, struct cluster_host *host,
                        const Godwit__AgentFound *found, struct cluster_now now,
                        struct cluster_todo *todo);
void cluster_found_tick(struct cluster *cluster, struct cluster_now now, struct cluster_todo *todo);

void cluster_found_autostart_done(const struct cluster_vm *vm, const struct cluster_order *order,
                                  const struct cluster_result *result, struct cluster_todo *todo);

/* A host that may run VMs, where this domain is found running; NULL: none. */
struct cluster_host *cluster_found_where(struct cluster *cluster, const struct cluster_vm *vm);
/* Another host than `host` where this domain, of the pool or not, runs or may: arriving, just being started, or not to be
 * seen; NULL: none. */
const char *cluster_found_elsewhere(const struct cluster *cluster, const char *vm_id,
                                    const char *host);

/* A VM that is a domain may be started on `host`; -1: another one may run it. */
int cluster_found_judge_start(const struct cluster *cluster, const struct cluster_vm *vm,
                              const char *host, struct problem *problem);

/* The host and the domain that `word` (name or id) and `host` ("": any) mean; -1 with `problem`. */
int cluster_found_find(struct cluster *cluster, const char *word, const char *host,
                       struct cluster_host **ret_host, const Godwit__FoundDomain **ret_found,
                       struct problem *problem);
/* The first domain of the host that the pool does not know, and that was not passed over; NULL. */
const Godwit__FoundDomain *cluster_found_next(const struct cluster *cluster,
                                              const struct cluster_host *host,
                                              bool (*was_passed)(const void *data,
                                                                 const char *vm_id),
                                              const void *data);
/* Take it into the pool as it is; `domain` comes from the host, with its definition. */
int cluster_found_adopt(struct cluster *cluster, struct cluster_host *host,
                        const Godwit__FoundDomain *domain, struct cluster_now now,
                        uint64_t *ret_ticket, struct problem *problem, struct cluster_todo *todo);

/* Those that the pool does not know, on hosts that answer: how many, and one as a VM's line. */
size_t cluster_found_count(const struct cluster *cluster);
void cluster_found_info(const struct cluster *cluster, size_t index, Godwit__VmInfo *ret_info);

#endif

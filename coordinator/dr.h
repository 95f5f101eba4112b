/* The saga of a VM that has a replica on another host: kept protected for ever, taken there,
 * brought back.
 *
 * Flow:   cluster_core's tick, links, answers -> [dr] -> todo -> store, agent_link; dr_ask begins
 * its operations Thread: the loop's; pure.
 *
 *   protect --dr failover--> queued --its turn--> [its host is fenced, or: accept-split] take --it
 * runs--> away
 *                                   \--planned--> finish --all is held--> stop --STOPPED--> take
 * --it runs--> away away --dr failback--> queued --> protect (towards home, its disks are kept)
 * --held--> finish, stop, take
 *        --it runs--> protect (as in the beginning)
 *   finish --the target went away--> undo --> protect          take --refused--> protect, or,
 * planned: back --> protect any but finish, undo, stop, take --dr unprotect--> end --both ends
 * know--> no record
 *
 * Each step is durable before its order leaves (INV-7), each order may come again. Who may run is
 * the ownership record's to say and nothing else (INV-1): a replica is taken only out of STOPPED or
 * lost, both of which are recorded on evidence alone - or of what an operator swore to
 * (accept-split) - under a generation that the record names first. In `protect` both ends are asked
 * level-triggered: what a link or a restart may have lost is asked again.
 */
#ifndef GODWIT_COORDINATOR_DR_H
#define GODWIT_COORDINATOR_DR_H

#include "coordinator/cluster.h"

enum { DR_RPO_MS_MIN = 100, DR_RPO_MS_MAX = 3600000, DR_FINISH_MS = 60000 };

/* ---- from cluster_core ---- */
void dr_tick(struct cluster *cluster, struct cluster_now now, struct cluster_todo *todo);
void dr_link_changed(struct cluster *cluster, const struct cluster_host *host, bool up,
                     struct cluster_now now);
/* Of a kind that dr_is_order names. The take's effect on the record is cluster_core's. */
void dr_order_done(struct cluster *cluster, const struct cluster_order *order,
                   const struct cluster_result *result, struct cluster_now now,
                   struct cluster_todo *todo);
bool dr_is_order(enum cluster_order_kind kind);
/* Its start is a take, which the saga repeats: START must not be said. */
bool dr_takes(const struct cluster_vm *vm);
/* An operation has the VM now: nobody else does anything to it. */
bool dr_is_acting(const struct cluster_vm *vm);
/* May HA start it anew on `host`? Where a replica is held it may not, but where the VM was. */
bool dr_lets_start(const struct cluster_vm *vm, const char *host);

/* ---- what agents tell ---- */
void dr_protect_told(struct cluster *cluster, const struct cluster_host *host,
                     const Godwit__ProtectStatus *status, struct cluster_now now,
                     struct cluster_todo *todo);
void dr_replicas_told(struct cluster *cluster, const struct cluster_host *host,
                      const Godwit__AgentReplicas *told, struct cluster_now now,
                      struct cluster_todo *todo);

/* ---- for dr_ask and dr_tell ---- */
bool dr_step_is(const struct cluster_dr *dr, const char *step);
bool dr_op_is(const struct cluster_dr *dr, const char *op);
/* Towards home: a failback that is under way, or that did not come through. */
bool dr_returns(const struct cluster_dr *dr);
/* Nothing runs, and that is proven. */
bool dr_is_down(const struct cluster_vm *vm);
/* Its host is fenced, and the record is lost with one of the next ticks: so many at once. */
bool dr_will_be_lost(const struct cluster *cluster, const struct cluster_vm *vm);
bool dr_host_is_up(const struct cluster *cluster, const char *name, struct cluster_now now);
/* This coordinator has just begun: who is not here yet may be on its way. */
bool dr_is_settling(const struct cluster *cluster, struct cluster_now now);
/* It is no host of the pool any more, or its life is fenced: what that did is over. */
bool dr_host_is_gone(const struct cluster *cluster, const char *name);
/* Both ends are linked, and what the replica lacks is what was written since its last checkpoint.
 */
bool dr_is_held(const struct cluster *cluster, const struct cluster_dr *dr, struct cluster_now now);
/* A new pair of ends: nothing is held, both are asked. Puts nothing. */
void dr_new_pair(struct cluster *cluster, struct cluster_dr *dr, const char *source,
                 const char *target, bool keep_disks);
void dr_set_step(struct cluster_dr *dr, const char *step, struct cluster_todo *todo);
void dr_begin_op(struct cluster_dr *dr, const char *op, struct cluster_now now,
                 struct cluster_todo *todo);
/* It failed, for `why`. The step is the caller's to set, which puts. */
void dr_give_up_op(struct cluster_dr *dr, const char *why, struct cluster_now now,
                   struct cluster_todo *todo);
void dr_end_op(struct cluster_dr *dr, const char *state, struct cluster_now now);
void dr_put(struct cluster_dr *dr, struct cluster_todo *todo);
void dr_set_text(char **field, const char *text);

/* ---- for dr_peer ---- */
/* A key serves once: whoever is to be asked again needs another, and the other end with it. */
void dr_ask_anew(struct cluster_dr *dr);
void dr_order(struct cluster_dr *dr, const char *host, enum cluster_order_kind kind,
              struct cluster_now now, struct cluster_todo *todo);
bool dr_runs_at_source(const struct cluster_dr *dr);
/* Only out of what is proven: STOPPED, or lost. */
void dr_take(struct cluster *cluster, struct cluster_dr *dr, struct cluster_now now,
             struct cluster_todo *todo);
void dr_keep_out(struct cluster_dr *dr, const Godwit__ProtectStatus *status,
                 struct cluster_now now);
/* NULL: it is not there. */
void dr_keep_in(struct cluster_dr *dr, const Godwit__ReplicaStatus *status,
                struct cluster_todo *todo);

/* While loading: takes the record; NULL: no memory, or it does not make sense. */
struct cluster_dr *dr_load(struct cluster *cluster, Godwit__DrRecord *info);

#endif

/* A VM's replica in a peer pool: the two ends of it as records of their clusters, by the rules of
 * dr_cross.
 *
 * Flow:   dr's tick, peer_dr -> [dr_peer] -> todo -> store, agent_link; what is to be said: peer_dr
 * Thread: the loop's; pure.
 *
 * The source's record is that of a protection whose target is a pool ("pool:NAME", which is no
 * host's name); its steps are dr's, and `handed` between `stop` and `away`. The holder's is of a VM
 * that is STOPPED here, with the same id, whose source is the other pool; what it does with its own
 * host are dr's orders, and dr's take.
 */
#ifndef GODWIT_COORDINATOR_DR_PEER_H
#define GODWIT_COORDINATOR_DR_PEER_H

#include "coordinator/cluster.h"
#include "proto/peer_dr.pb-c.h"

enum { DR_PEER_NAME_SIZE = OWN_HOST_SIZE + 8 };

/* Generations and numbers of hand-overs that a peer may name: what follows them is to fit too. */
#define DR_PEER_NUMBER_MAX (UINT64_C(1) << 62)

bool dr_peer_is(const struct cluster_dr *dr);
bool dr_peer_is_source(const struct cluster_dr *dr);
bool dr_peer_holds(const struct cluster_dr *dr);
/* "pool:site-b" without the "pool:". */
const char *dr_peer_name(const struct cluster_dr *dr);
/* AWAY at the source, and it runs here too: an operator accepted that, and has to end one. */
bool dr_peer_is_conflict(const struct cluster_dr *dr);

/* ---- for dr ---- */
void dr_peer_load(struct cluster_dr *dr);
void dr_peer_step(struct cluster *cluster, struct cluster_dr *dr, struct cluster_now now,
                  struct cluster_todo *todo);
void dr_peer_step_away(struct cluster_dr *dr, struct cluster_now now, struct cluster_todo *todo);
void dr_peer_want_hold(struct cluster_dr *dr, struct cluster_now now);
/* It is STOPPED: from now on it is the other pool's. */
void dr_peer_hand_over(struct cluster_dr *dr, bool is_whole, struct cluster_now now,
                       struct cluster_todo *todo);
void dr_peer_not_taken(struct cluster_dr *dr, const char *why, struct cluster_now now,
                       struct cluster_todo *todo);
/* At the holder: what it holds is older than what the source went on with, and is dropped. */
bool dr_peer_is_stale(const struct cluster_dr *dr);
/* It is to end: is nothing of it more than a replica? One that is found running is kept. */
bool dr_peer_may_drop(struct cluster_dr *dr, struct cluster_todo *todo);
/* Its replica was dropped, and it never was more here. */
void dr_peer_drop_vm(struct cluster *cluster, struct cluster_vm *vm, struct cluster_todo *todo);

/* ---- for whoever starts VMs ---- */
/* Does the peer permit it, just now? */
bool dr_peer_may_start(const struct cluster_vm *vm, struct cluster_now now);
/* The same; -1: `problem` says why not. */
int dr_peer_judge_start(const struct cluster_vm *vm, struct cluster_now now,
                        struct problem *problem);

/* ---- for dr_peer_ask ---- */
/* What is durable of dr->cross goes into the record, which is put. */
void dr_peer_keep(struct cluster_dr *dr, struct cluster_todo *todo);
/* With the step that the record has. */
struct dr_cross *dr_peer_cross(struct cluster_dr *dr);

/* ---- what pools say: the source's asks ---- */
/* Everything in it is borrowed. */
void dr_peer_say(struct cluster_dr *dr, struct cluster_now now, Godwit__PeerDrWord *ret_word);
/* At the source: the answer to what was asked at `asked_ns`. */
void dr_peer_answered(struct cluster *cluster, struct cluster_dr *dr,
                      const Godwit__PeerDrWord *word, uint64_t asked_ns, struct cluster_now now,
                      struct cluster_todo *todo);
/* At the holder; NULL: it has no such record of that pool. */
struct cluster_dr *dr_peer_find(const struct cluster *cluster, const char *peer_pool_id,
                                const Godwit__PeerDrWord *word);
/* `ret_answer` is to leave once `todo` is durable; what it points to is borrowed until then. */
void dr_peer_hear(struct cluster *cluster, struct cluster_dr *dr, const Godwit__PeerDrWord *word,
                  struct cluster_now now, Godwit__PeerDrWord *ret_answer,
                  struct cluster_todo *todo);

/* At the source: `told` is NULL when it failed. */
void dr_peer_held(struct cluster_dr *dr, const Godwit__PeerDrHeld *told, const char *why,
                  struct cluster_now now, struct cluster_todo *todo);

#endif

/* The pool's named stores of disks: judged, kept, found by name, reckoned with.
 *
 * Flow:   store_api -> [pool_store] -> cluster -> store; cluster_ask, planner read them
 * Thread: the loop's; pure. What hosts see of a store is brought by store_look.
 *
 * A store has one path, the same on all its hosts. A shared one is the same folder everywhere; of
 * any other every host has its own. Room is counted as provisioned: what is free, less what the
 * disks that lie there may still grow by.
 */
#ifndef GODWIT_COORDINATOR_POOL_STORE_H
#define GODWIT_COORDINATOR_POOL_STORE_H

#include "coordinator/cluster.h"
#include "coordinator/planner.h"

/* How long a state that was seen of a place is good for refusing it; looked at again well before. */
enum { POOL_STORE_FRESH_MS = 60000, POOL_STORE_LOOK_EVERY_MS = 20000 };

/* Name, path and hosts make sense by themselves. -1: `problem` says what does not. */
int pool_store_judge(const Godwit__PoolStore *store, struct problem *problem);
struct cluster_store *pool_store_find(const struct cluster *cluster, const char *name,
                                      struct problem *problem);
struct cluster_store_place *pool_store_place(const struct cluster_store *store, const char *host);

/* Judged whole beside the pool's hosts and stores; gives a copy that is in no cluster yet. */
int pool_store_draft(struct cluster *cluster, const Godwit__PoolStore *given,
                     struct cluster_now now, Godwit__PoolStore **ret_store,
                     struct problem *problem);
/* Takes the draft, always. -1: `problem` is set and nothing changed. */
int pool_store_add(struct cluster *cluster, Godwit__PoolStore *draft, struct cluster_now now,
                   struct cluster_store **ret_store, struct problem *problem,
                   struct cluster_todo *todo);
int pool_store_remove(struct cluster *cluster, const char *name, struct problem *problem,
                      struct cluster_todo *todo);

/* A copy with the path of every store that is named. */
int pool_store_resolve(const struct cluster *cluster, const Godwit__VmSpec *spec,
                       Godwit__VmSpec **ret_spec, struct problem *problem);
/* Is any disk in a named store? */
bool pool_store_is_named(const Godwit__VmSpec *spec);

/* Does the disk of a VM that is (or begins) on `vm_host` lie in this store, as `host` has it? The
 * file beneath the store, or NULL. */
const char *pool_store_file(const struct cluster_store *store, const char *host,
                            const Godwit__DiskSpec *disk, const char *vm_host);
/* Its host, or the one that its description names; "" for none. */
const char *pool_store_home(const struct cluster_vm *vm);
/* What a disk was made to be, or was last told to be. */
uint64_t pool_store_disk_bytes(const struct cluster_vm *vm, size_t disk);
uint64_t pool_store_room(const struct cluster_store_place *place);

/* For planner_ask: borrows the cluster. A host whose store is not well by what was last seen of it, and
 * seen lately, falls out; so does one without room. */
struct planner_stores pool_store_planner(const struct cluster *cluster, uint64_t now_ns);

/* As it is told to operators. `ret_message` borrows from the cluster until the next step. */
struct pool_store_message {
    Godwit__PoolStore store;
    Godwit__StorePlace *places; /* owned, as are the next two */
    Godwit__StorePlace **place_list;
    char **vms;
};
void pool_store_tell(const struct cluster *cluster, const struct cluster_store *store,
                     struct pool_store_message *ret_message);
void pool_store_message_deinit(struct pool_store_message *message);

#endif

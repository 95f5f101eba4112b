/* What hosts see of a store: asked of each, and kept in its places.
 *
 * Flow:   store_api, api -> [store_look] -> agent_link -> agents -> back -> the store's places
 * Thread: the loop's.
 *
 * Look: how full is it, what do its disks take? Check: besides, each host writes and reads back, and
 * of a shared store the first host that has it writes a word which all others have to see; so that it
 * is one folder is proven, not believed. Nothing lasts of it.
 */
#ifndef GODWIT_COORDINATOR_STORE_LOOK_H
#define GODWIT_COORDINATOR_STORE_LOOK_H

#include <stdbool.h>

#include "coordinator/coordinator.h"

/* Comes once, never from inside the call. */
typedef void store_look_done_fn(void *data);

/* Every store of the pool, or the one; a store that is removed meanwhile is left out. False: there is
 * none to look at, and `done` does not come. */
bool store_look(struct coordinator *coordinator, const struct cluster_store *only,
                store_look_done_fn *done, void *data);
/* Now and then: are they well? So that who plans by itself, and who is asked in between, knows. Their room besides
 * where a drill of a replica is due soon, which begins by itself. */
void store_look_tick(struct coordinator *coordinator);
/* `places` of a store that need not be in the pool (yet); `store` and they are borrowed until `done`
 * has come. Each place's state and reason say what was found. */
void store_look_check(struct coordinator *coordinator, const Godwit__PoolStore *store,
                      struct cluster_store_place *places, store_look_done_fn *done, void *data);

#endif

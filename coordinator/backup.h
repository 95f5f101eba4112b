/* A copy of the pool's state, and a pool's state out of a copy.
 *
 * Flow:   store -> [backup] -> operator;  a file -> [backup] -> an empty store
 * Thread: the loop's, and before it runs.
 *
 * A restored state is older than the world (rule R10): moves that were under way are forgotten, every
 * VM counts as stopped, generations go on far above any that may have been given out since, and the
 * setting "restored" keeps the pool read-only until every host has said hello or has been fenced.
 * What runs is then adopted as it is found.
 */
#ifndef GODWIT_COORDINATOR_BACKUP_H
#define GODWIT_COORDINATOR_BACKUP_H

#include "coordinator/coordinator.h"

/* No host runs so many generations of a VM between two backups. */
#define BACKUP_GENERATIONS_AHEAD (UINT64_C(1) << 20)

void backup_request(struct peer *peer, struct rpc_request *request, const void *message);
/* Fill `store`, which must be empty, with the bytes of a backup, without the line before them. */
int backup_put(struct store *store, const uint8_t *bytes, size_t count, const char *pool_id,
               struct fault *fault);
/* The same from the file at `path`; only of the pool `pool_id`. */
int backup_restore(struct store *store, const char *path, const char *pool_id,
                   struct fault *fault);

#endif

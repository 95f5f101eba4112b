/* A pool as YAML, and the layout that it means.
 *
 * Flow:   pool.yaml -> [pool_file] -> layout -> cmd_simulate
 * Thread: any; no state.
 */
#ifndef GODWIT_CLI_POOL_FILE_H
#define GODWIT_CLI_POOL_FILE_H

#include "placement/layout.h"
#include "proto/simulate.pb-c.h"

struct fault;

/* "-" reads stdin. Gives a message to free with godwit__pool_file__free_unpacked. */
int pool_file_read(const char *path, Godwit__PoolFile **ret_pool, struct fault *fault);
int pool_file_parse(const char *text, size_t count, const char *name, Godwit__PoolFile **ret_pool,
                    struct fault *fault);
/* Gives a sealed layout that borrows from the message. A host that lacks memory for what it runs, a
 * rule that names nobody and the like are refused in words. */
int pool_file_layout(const Godwit__PoolFile *pool, enum layout_goal goal,
                     struct layout **ret_layout, struct fault *fault);

#endif

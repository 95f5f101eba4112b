/* A host enters the pool: token -> pinned connection -> signed certificate -> STATE/agent.
 *
 * Flow:   pool join -> [host_join] -> METHOD_ENROL -> STATE/agent
 * Thread: the command's; it turns its own loop.
 */
#ifndef GODWIT_CLI_HOST_JOIN_H
#define GODWIT_CLI_HOST_JOIN_H

#include <limits.h>

#include "base/id.h"

struct fault;

enum { HOST_JOIN_MS = 15000 };

struct join_wish { /* NULL: the default */
    const char *token, *state, *name, *move_address;
};

struct join_result {
    char state[PATH_MAX];
    char name[ID_NAME_MAX + 1];
    char pool_id[64];
    char move_address[256];
};

/* ERR_EXISTS when this host has joined a pool before. */
int host_join(const struct join_wish *wish, struct join_result *ret_result, struct fault *fault);

#endif

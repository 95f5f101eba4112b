/* The files that make a pool: CA, identities of coordinator and operator, their configs.
 *
 * Flow:   pool init -> [pool_files] -> net/pki, base/config -> STATE/coordinator, STATE/operator
 * Thread: any; blocking.
 */
#ifndef GODWIT_CLI_POOL_FILES_H
#define GODWIT_CLI_POOL_FILES_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/id.h"

struct fault;

enum { POOL_CA_DAYS = 3650, POOL_CERTIFICATE_DAYS = 1825, POOL_ADDRESS_SIZE = 256 };

struct pool_wish { /* NULL: the default */
    const char *state, *name, *listen, *address;
    bool adopt_all; /* the libvirt domains that hosts bring along */
};

struct pool_files {
    char state[PATH_MAX];
    char id[ID_TEXT_SIZE];
    char name[ID_NAME_MAX + 1];
    char listen[POOL_ADDRESS_SIZE], address[POOL_ADDRESS_SIZE];
};

/* ERR_EXISTS when there is a pool already; pool.json is written last, so a run that was cut short
 * can be repeated. */
int pool_files_make(const struct pool_wish *wish, struct pool_files *ret_pool, struct fault *fault);

/* Makes a folder for another coordinator of the pool in `state`, which shares its authority; it goes
 * to the machine that listens at `address`, one of the pool's addresses. */
int pool_files_add(const char *state, const char *folder, const char *listen, const char *address,
                   struct fault *fault);

/* Several, with commas between them. */
int pool_check_addresses(const char *list, const char *what, struct fault *fault);
/* "HOST:PORT" or "[V6]:PORT", PORT 1 to 65535; words of failure name `what`. */
int pool_check_address(const char *address, const char *what, struct fault *fault);
/* An absolute path of the state folder. */
int pool_state_path(const char *state, char *ret_path, size_t size, struct fault *fault);

#endif

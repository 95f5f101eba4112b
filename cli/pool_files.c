#include "cli/pool_files.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/config.h"
#include "base/err.h"
#include "base/own.h"
#include "base/paths.h"
#include "base/units.h"
#include "net/pki.h"
#include "proto/address_list.h"

int pool_state_path(const char *state, char *ret_path, size_t size, struct fault *fault)
{
    char here[PATH_MAX];
    if (!state)
        state = PATHS_STATE_DEFAULT;
    if (state[0] == '/')
        return path_join(ret_path, size, fault, "%s", state);
    if (!getcwd(here, sizeof here))
        return fault_set_errno(fault, ERR_IO, errno, "cannot tell the current folder");
    return path_join(ret_path, size, fault, "%s/%s", here, state);
}

int pool_check_addresses(const char *list, const char *what, struct fault *fault)
{
    char address[ADDRESS_SIZE];
    size_t count = address_list_count(list);
    if (count == 0 || count > ADDRESSES_MAX)
        return fault_set(fault, ERR_INVALID, "%s: found %zu addresses, possible are 1 to %d", what,
                         count, ADDRESSES_MAX);
    for (size_t i = 0; i < count; i++) {
        if (!address_list_get(list, i, address, sizeof address))
            address[0] = '\0';
        int r = pool_check_address(address, what, fault);
        if (r < 0)
            return r;
    }
    return 0;
}

int pool_check_address(const char *address, const char *what, struct fault *fault)
{
    const char *colon = strrchr(address, ':');
    const char *bracket = strchr(address, ']');
    uint64_t port;
    bool shaped = colon && colon > address && colon[1] && strlen(address) < POOL_ADDRESS_SIZE &&
                  (address[0] == '[' ? bracket && bracket + 1 == colon
                                     : memchr(address, ':', (size_t)(colon - address)) == NULL);
    if (!shaped || units_parse_count(colon + 1, 1, 65535, &port, NULL) < 0)
        return fault_set(fault, ERR_INVALID,
                         "%s: found '%.60s'; HOST:PORT would fit, like 10.0.0.1:%d", what, address,
                         PATHS_PORT_DEFAULT);
    return 0;
}

/* The first address of this machine that others can reach; loopback when there is none. */
static void own_address(char *ret_host, size_t size)
{
    struct ifaddrs *all = NULL;
    (void)snprintf(ret_host, size, "127.0.0.1");
    if (getifaddrs(&all) != 0)
        return;
    for (const struct ifaddrs *at = all; at; at = at->ifa_next) {
        if (!at->ifa_addr || at->ifa_addr->sa_family != AF_INET || !(at->ifa_flags & IFF_UP) ||
            (at->ifa_flags & IFF_LOOPBACK))
            continue;
        const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)at->ifa_addr;
        if (inet_ntop(AF_INET, &in->sin_addr, ret_host, (socklen_t)size))
            break;
    }
    freeifaddrs(all);
}

static int choose_addresses(const struct pool_wish *wish, struct pool_files *pool,
                            struct fault *fault)
{
    int r = 0;
    if (wish->listen)
        (void)snprintf(pool->listen, sizeof pool->listen, "%.250s", wish->listen);
    else
        (void)snprintf(pool->listen, sizeof pool->listen, "0.0.0.0:%d", PATHS_PORT_DEFAULT);
    r = pool_check_address(pool->listen, "--listen", fault);
    if (r < 0)
        return r;
    if (wish->address) {
        (void)snprintf(pool->address, sizeof pool->address, "%.250s", wish->address);
        return pool_check_addresses(pool->address, "--address", fault);
    }
    /* Listening everywhere is no address to give away: take one that others can reach. */
    bool everywhere =
        strncmp(pool->listen, "0.0.0.0:", 8) == 0 || strncmp(pool->listen, "[::]:", 5) == 0;
    char host[INET6_ADDRSTRLEN];
    own_address(host, sizeof host);
    if (everywhere)
        (void)snprintf(pool->address, sizeof pool->address, "%s%s", host,
                       strrchr(pool->listen, ':'));
    else
        memcpy(pool->address, pool->listen, sizeof pool->address);
    return 0;
}

static int choose_name(const struct pool_wish *wish, struct pool_files *pool, struct fault *fault)
{
    const char *name = wish->name ? wish->name : "pool";
    if (!id_name_is_valid(name))
        return fault_set(fault, ERR_INVALID,
                         "--name: found '%.70s'; letters, digits, '.', '_' and '-' would fit, "
                         "%d at most, first a letter or digit",
                         name, ID_NAME_MAX);
    (void)snprintf(pool->name, sizeof pool->name, "%s", name);
    return 0;
}

static int write_text(const char *folder, const char *name, mode_t mode, const char *text,
                      struct fault *fault)
{
    char path[PATH_MAX];
    int r = path_join(path, sizeof path, fault, "%s/%s", folder, name);
    return r < 0 ? r : file_write_atomic(path, mode, text, strlen(text), fault);
}

struct authority {
    const char *certificate, *key;
};

/* A folder with the CA's certificate and an identity of `role` signed by it. */
static int make_identity(const struct pool_files *pool, const struct authority *ca,
                         const char *folder, const char *role, struct fault *fault)
{
    AUTO_FREE char *key = NULL, *request = NULL, *certificate = NULL;
    struct pki_identity identity = {0};
    char certificate_name[64], key_name[64];
    (void)snprintf(identity.pool, sizeof identity.pool, "%s", pool->id);
    (void)snprintf(identity.role, sizeof identity.role, "%s", role);
    (void)snprintf(identity.name, sizeof identity.name, "%s",
                   strcmp(role, "operator") == 0 ? "admin" : "coordinator");
    (void)snprintf(certificate_name, sizeof certificate_name, "%s.crt", role);
    (void)snprintf(key_name, sizeof key_name, "%s.key", role);

    int r = dir_make(folder, fault);
    if (r == 0)
        r = pki_new_key(&key, fault);
    if (r == 0)
        r = pki_new_request(key, &request, fault);
    if (r == 0)
        r = pki_sign(ca->certificate, ca->key, request, &identity, POOL_CERTIFICATE_DAYS,
                     &certificate, fault);
    if (r == 0)
        r = write_text(folder, PATHS_CA_CERTIFICATE, 0644, ca->certificate, fault);
    if (r == 0)
        r = write_text(folder, certificate_name, 0644, certificate, fault);
    if (r == 0)
        r = write_text(folder, key_name, 0600, key, fault);
    return r;
}

static int write_configs(const struct pool_files *pool, bool adopt_all, const char *coordinator,
                         const char *operator_folder, struct fault *fault)
{
    char path[PATH_MAX];
    const char *const operator_keys[] = {"pool_id", "address"};
    const char *const operator_values[] = {pool->id, pool->address};
    int r = path_join(path, sizeof path, fault, "%s/%s", operator_folder, PATHS_OPERATOR_CONFIG);
    if (r == 0)
        r = config_write(path, 0600, operator_keys, operator_values, ARRAY_COUNT(operator_keys),
                         fault);
    if (r < 0)
        return r;
    const char *const pool_keys[] = {"pool_id", "name", "listen", "address", "adopt"};
    const char *const pool_values[] = {pool->id, pool->name, pool->listen, pool->address, "all"};
    size_t count = ARRAY_COUNT(pool_keys) - !adopt_all;
    r = path_join(path, sizeof path, fault, "%s/%s", coordinator, PATHS_POOL_CONFIG);
    return r < 0 ? r : config_write(path, 0600, pool_keys, pool_values, count, fault);
}

static int refuse_existing(const char *coordinator, struct fault *fault)
{
    static const char *const names[] = {PATHS_POOL_CONFIG, PATHS_DATABASE};
    char path[PATH_MAX];
    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        int r = path_join(path, sizeof path, fault, "%s/%s", coordinator, names[i]);
        if (r < 0)
            return r;
        if (access(path, F_OK) != 0)
            continue;
        r = fault_set(fault, ERR_EXISTS, "there is a pool here already: %s; nothing was changed",
                      path);
        fault_hint(fault, "godwit pool init --dir /var/lib/godwit-2");
        return r;
    }
    return 0;
}

int pool_files_make(const struct pool_wish *wish, struct pool_files *ret_pool, struct fault *fault)
{
    struct pool_files pool = {0};
    char coordinator[PATH_MAX], operator_folder[PATH_MAX];
    int r = pool_state_path(wish->state, pool.state, sizeof pool.state, fault);
    if (r == 0)
        r = choose_name(wish, &pool, fault);
    if (r == 0)
        r = choose_addresses(wish, &pool, fault);
    if (r == 0)
        r = path_join(coordinator, sizeof coordinator, fault, "%s/%s", pool.state,
                      PATHS_COORDINATOR_DIR);
    if (r == 0)
        r = path_join(operator_folder, sizeof operator_folder, fault, "%s/%s", pool.state,
                      PATHS_OPERATOR_DIR);
    if (r == 0)
        r = refuse_existing(coordinator, fault);
    if (r < 0)
        return r;

    AUTO_FREE char *certificate = NULL, *key = NULL;
    id_random(pool.id);
    r = pki_new_ca(pool.id, POOL_CA_DAYS, &certificate, &key, fault);
    if (r < 0)
        return fault_wrap(fault, r, "making the pool's certificate authority");
    const struct authority ca = {.certificate = certificate, .key = key};
    r = make_identity(&pool, &ca, coordinator, "coordinator", fault);
    if (r == 0)
        r = make_identity(&pool, &ca, operator_folder, "operator", fault);
    if (r == 0)
        r = write_text(coordinator, PATHS_CA_KEY, 0600, key, fault);
    if (r == 0)
        r = write_configs(&pool, wish->adopt_all, coordinator, operator_folder, fault);
    if (r < 0)
        return r;
    *ret_pool = pool;
    return 0;
}

/* ---- another coordinator ----------------------------------------------------------------------
 */

struct first_pool { /* what the first coordinator's folder tells */
    struct config *config;
    char *ca_certificate, *ca_key;
    const char *id, *name, *address, *adopt; /* adopt: NULL when it adopts nothing by itself */
};

static int read_first(const char *coordinator, struct first_pool *pool, struct fault *fault)
{
    char path[PATH_MAX];
    int r = path_join(path, sizeof path, fault, "%s/%s", coordinator, PATHS_POOL_CONFIG);
    if (r == 0)
        r = config_read(&pool->config, path, fault);
    if (r == 0)
        r = config_need(pool->config, "pool_id", &pool->id, fault);
    if (r == 0)
        r = config_need(pool->config, "name", &pool->name, fault);
    if (r == 0)
        r = config_need(pool->config, "address", &pool->address, fault);
    if (r == 0)
        pool->adopt = config_get(pool->config, "adopt");
    if (r == 0)
        r = path_join(path, sizeof path, fault, "%s/%s", coordinator, PATHS_CA_CERTIFICATE);
    if (r == 0)
        r = file_read(path, &pool->ca_certificate, NULL, fault);
    if (r == 0)
        r = path_join(path, sizeof path, fault, "%s/%s", coordinator, PATHS_CA_KEY);
    return r == 0 ? file_read(path, &pool->ca_key, NULL, fault) : r;
}

static bool is_among(const char *list, const char *address)
{
    char one[ADDRESS_SIZE];
    for (size_t i = 0; address_list_get(list, i, one, sizeof one); i++) {
        if (strcmp(one, address) == 0)
            return true;
    }
    return false;
}

static int write_another(const struct first_pool *first, const char *folder, const char *listen,
                         const char *address, struct fault *fault)
{
    const struct authority ca = {.certificate = first->ca_certificate, .key = first->ca_key};
    struct pool_files pool = {0};
    char path[PATH_MAX];
    (void)snprintf(pool.id, sizeof pool.id, "%s", first->id);
    int r = refuse_existing(folder, fault);
    if (r == 0)
        r = make_identity(&pool, &ca, folder, "coordinator", fault);
    if (r == 0)
        r = write_text(folder, PATHS_CA_KEY, 0600, first->ca_key, fault);
    if (r == 0)
        r = path_join(path, sizeof path, fault, "%s/%s", folder, PATHS_POOL_CONFIG);
    const char *const keys[] = {"pool_id", "name", "listen", "address", "self", "adopt"};
    const char *const values[] = {first->id, first->name, listen, first->address, address,
                                  first->adopt};
    size_t count = ARRAY_COUNT(keys) - !first->adopt;
    return r == 0 ? config_write(path, 0600, keys, values, count, fault) : r;
}

int pool_files_add(const char *state, const char *folder, const char *listen, const char *address,
                   struct fault *fault)
{
    char root[PATH_MAX], coordinator[PATH_MAX];
    struct first_pool first = {0};
    int r = pool_check_address(address, "--address", fault);
    if (r == 0)
        r = pool_check_address(listen, "--listen", fault);
    if (r == 0)
        r = pool_state_path(state, root, sizeof root, fault);
    if (r == 0)
        r = path_join(coordinator, sizeof coordinator, fault, "%s/%s", root, PATHS_COORDINATOR_DIR);
    if (r == 0)
        r = read_first(coordinator, &first, fault);
    if (r == 0 && !is_among(first.address, address)) {
        r = fault_set(fault, ERR_INVALID,
                      "--address: %s is none of the pool's addresses (%.200s), so no host would "
                      "look for it there",
                      address, first.address);
        fault_hint(fault, "godwit pool init --help");
    }
    if (r == 0)
        r = write_another(&first, folder, listen, address, fault);
    first.config = config_free(first.config);
    free(first.ca_certificate);
    if (first.ca_key)
        explicit_bzero(first.ca_key, strlen(first.ca_key));
    free(first.ca_key);
    return r;
}

#include "coordinator/pool_store.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/id.h"
#include "base/own.h"
#include "base/world.h"
#include "coordinator/words.h"
#include "proto/limits.h"
#include "proto/vm_spec.h"

enum { PATH_LENGTH_MAX = 200 };

static bool is_given(const char *text)
{
    return text && text[0];
}

/* ---- judged -----------------------------------------------------------------------------------
 */

/* "/srv/fast": whole steps, none of them "." or "..", no slash at the end. */
static bool path_is_plain(const char *path)
{
    if (path[0] != '/' || !path[1] || strlen(path) > PATH_LENGTH_MAX)
        return false;
    for (const char *at = path; at; at = strchr(at, '/')) {
        at++;
        size_t count = strcspn(at, "/");
        if (count == 0 || (count == 1 && at[0] == '.') || (count == 2 && memcmp(at, "..", 2) == 0))
            return false;
    }
    return true;
}

int pool_store_judge(const Godwit__PoolStore *store, struct problem *problem)
{
    if (!is_given(store->name) || !id_name_is_valid(store->name))
        return problem_set(problem, GW_STORE_INVALID,
                           "'%.80s' is no name for a store: 1 to %d letters, digits, '.', '_', '-'",
                           is_given(store->name) ? store->name : "", ID_NAME_MAX);
    if (!is_given(store->path) || !path_is_plain(store->path))
        return problem_set(problem, GW_STORE_INVALID,
                           "store %s: found the path '%.120s'; an absolute one like /srv/fast, "
                           "without '..', would fit",
                           store->name, is_given(store->path) ? store->path : "");
    if (store->n_hosts == 0 || store->n_hosts > HOSTS_MAX)
        return problem_set(problem, GW_STORE_INVALID, "store %s has %zu hosts, possible are 1 to %d",
                           store->name, store->n_hosts, HOSTS_MAX);
    for (size_t i = 0; i < store->n_hosts; i++) {
        if (!id_name_is_valid(store->hosts[i]))
            return problem_set(problem, GW_STORE_INVALID, "store %s: '%.80s' is no host's name",
                               store->name, store->hosts[i]);
        for (size_t n = 0; n < i; n++) {
            if (strcmp(store->hosts[n], store->hosts[i]) == 0)
                return problem_set(problem, GW_STORE_INVALID, "store %s names %s twice",
                                   store->name, store->hosts[i]);
        }
    }
    return 0;
}

static struct cluster_store *find(const struct cluster *cluster, const char *name)
{
    for (size_t i = 0; i < cluster->store_count; i++) {
        if (strcmp(cluster->stores[i]->store->name, name) == 0)
            return cluster->stores[i];
    }
    return NULL;
}

struct cluster_store *pool_store_find(const struct cluster *cluster, const char *name,
                                      struct problem *problem)
{
    struct cluster_store *store = find(cluster, name);
    const char *names[STORES_MAX];
    if (store)
        return store;
    for (size_t i = 0; i < cluster->store_count; i++)
        names[i] = cluster->stores[i]->store->name;
    const char *nearest = id_nearest(name, names, cluster->store_count);
    (void)problem_set(problem, GW_STORE_UNKNOWN, "the pool has no store '%.80s'", name);
    if (nearest)
        problem_hint(problem, "did you mean '%s'?", nearest);
    else
        problem_hint(problem, "godwit store ls");
    return NULL;
}

struct cluster_store_place *pool_store_place(const struct cluster_store *store, const char *host)
{
    for (size_t i = 0; i < store->store->n_hosts; i++) {
        if (strcmp(store->places[i].host, host) == 0)
            return &store->places[i];
    }
    return NULL;
}

/* ---- add, remove ------------------------------------------------------------------------------
 */

/* Two stores in one folder would count its room twice. */
static int judge_beside(const struct cluster *cluster, const Godwit__PoolStore *given,
                        struct problem *problem)
{
    for (size_t i = 0; i < cluster->store_count; i++) {
        const struct cluster_store *other = cluster->stores[i];
        if (strcmp(other->store->path, given->path) != 0)
            continue;
        for (size_t n = 0; n < given->n_hosts; n++) {
            if (pool_store_place(other, given->hosts[n]))
                return problem_set(problem, GW_NAME_TAKEN, "%s on %s is store %s already",
                                   given->path, given->hosts[n], other->store->name);
        }
    }
    return 0;
}

static int judge_new(struct cluster *cluster, const Godwit__PoolStore *given,
                     struct problem *problem)
{
    if (pool_store_judge(given, problem) != 0)
        return -1;
    if (find(cluster, given->name)) {
        (void)problem_set(problem, GW_NAME_TAKEN, "there already is a store %s", given->name);
        problem_hint(problem, "godwit store show %s", given->name);
        return -1;
    }
    if (cluster->store_count == STORES_MAX)
        return problem_set(problem, GW_POOL_FULL,
                           "the pool has %d stores, which is all it may have", STORES_MAX);
    for (size_t i = 0; i < given->n_hosts; i++) {
        if (!cluster_find_host(cluster, given->hosts[i], problem))
            return -1;
        if (!cluster_host(cluster, given->hosts[i]))
            return problem_set(problem, GW_HOST_UNKNOWN, "the pool has no host '%s'; a store takes "
                               "whole names", given->hosts[i]);
    }
    return judge_beside(cluster, given, problem);
}

int pool_store_draft(struct cluster *cluster, const Godwit__PoolStore *given,
                     struct cluster_now now, Godwit__PoolStore **ret_store, struct problem *problem)
{
    const Godwit__PoolStore nothing = GODWIT__POOL_STORE__INIT;
    Godwit__PoolStore plain = GODWIT__POOL_STORE__INIT;
    if (!given)
        given = &nothing;
    if (judge_new(cluster, given, problem) != 0)
        return -1;
    plain.name = given->name;
    plain.path = given->path;
    plain.has_shared = true;
    plain.shared = given->shared;
    plain.hosts = given->hosts;
    plain.n_hosts = given->n_hosts;
    plain.has_created_unix_ms = true;
    plain.created_unix_ms = now.unix_ms;
    *ret_store = cluster_message_copy(&plain.base);
    return *ret_store ? 0
                      : problem_set(problem, GW_INTERNAL, "no memory for store %s", given->name);
}

int pool_store_add(struct cluster *cluster, Godwit__PoolStore *draft, struct cluster_now now,
                   struct cluster_store **ret_store, struct problem *problem,
                   struct cluster_todo *todo)
{
    (void)now;
    /* Looking at it took a while: another may have come first. */
    struct cluster_store *store =
        judge_new(cluster, draft, problem) == 0 ? cluster_add_store(cluster, draft) : NULL;
    if (!store) {
        godwit__pool_store__free_unpacked(draft, NULL);
        return -1;
    }
    struct cluster_put *put = cluster_todo_put(todo, PUT_STORE);
    put->object = store;
    put->revision = store->revision++;
    cluster_todo_event(todo, "", "store %s added: %s on %zu hosts%s", draft->name, draft->path,
                       draft->n_hosts, draft->shared ? ", shared" : "");
    *ret_store = store;
    return 0;
}

/* ---- whose disks lie in it --------------------------------------------------------------------
 */

const char *pool_store_home(const struct cluster_vm *vm)
{
    if (vm->own.owner[0])
        return vm->own.owner;
    return is_given(vm->spec->host) ? vm->spec->host : "";
}

uint64_t pool_store_disk_bytes(const struct cluster_vm *vm, size_t disk)
{
    const Godwit__DiskSpec *spec = vm->spec->disks[disk];
    return disk < DISKS_MAX && vm->disk_bytes[disk] ? vm->disk_bytes[disk]
           : spec->has_size                         ? spec->size
                                                    : 0;
}

const char *pool_store_file(const struct cluster_store *store, const char *host,
                            const Godwit__DiskSpec *disk, const char *vm_host)
{
    const char *path = store->store->path;
    size_t length = strlen(path);
    if (is_given(disk->pool_store) && strcmp(disk->pool_store, store->store->name) != 0)
        return NULL;
    bool is_here = store->store->shared
                       ? is_given(disk->pool_store) || pool_store_place(store, vm_host) != NULL
                       : strcmp(vm_host, host) == 0;
    if (!is_here)
        return NULL;
    if (is_given(disk->store))
        return strcmp(disk->store, path) == 0 ? disk->file : NULL;
    if (is_given(disk->path) && strncmp(disk->path, path, length) == 0 &&
        disk->path[length] == '/' && disk->path[length + 1])
        return disk->path + length + 1;
    return NULL;
}

/* A VM that has not run may be given any of a local store's hosts: by name it lies in it. */
static bool lies_in(const struct cluster_store *store, const struct cluster_vm *vm)
{
    const char *home = pool_store_home(vm);
    for (size_t i = 0; i < vm->spec->n_disks; i++) {
        const Godwit__DiskSpec *disk = vm->spec->disks[i];
        if (is_given(disk->pool_store) && strcmp(disk->pool_store, store->store->name) == 0)
            return true;
        if (pool_store_place(store, home) && pool_store_file(store, home, disk, home))
            return true;
        if (vm->own.phase == OWN_HANDOVER && pool_store_place(store, vm->own.target) &&
            pool_store_file(store, vm->own.target, disk, vm->own.target))
            return true;
    }
    return false;
}

int pool_store_remove(struct cluster *cluster, const char *name, struct problem *problem,
                      struct cluster_todo *todo)
{
    struct cluster_store *store = pool_store_find(cluster, name, problem);
    size_t count = 0;
    if (!store)
        return -1;
    for (size_t i = 0; i < cluster->vm_count; i++) {
        if (!lies_in(store, cluster->vms[i]))
            continue;
        if (count++ == 0)
            (void)problem_set(problem, GW_STORE_IN_USE, "disks of VMs lie in store %s", name);
        problem_detail(problem, "%s", cluster->vms[i]->spec->name);
    }
    if (count > 0) {
        problem_hint(problem, "godwit store show %s", name);
        return -1;
    }
    struct cluster_put *put = cluster_todo_put(todo, PUT_DELETE_STORE);
    put->revision = store->revision;
    WORDS_COPY(put->name, store->store->name);
    cluster_todo_event(todo, "", "store %s forgotten; its files stay", store->store->name);
    cluster_drop_store(cluster, store);
    return 0;
}

/* ---- in a VM's description --------------------------------------------------------------------
 */

bool pool_store_is_named(const Godwit__VmSpec *spec)
{
    for (size_t i = 0; i < spec->n_disks; i++) {
        const Godwit__DiskSpec *disk = spec->disks[i];
        if (is_given(disk->pool_store) || (is_given(disk->store) && disk->store[0] != '/'))
            return true;
    }
    return false;
}

static char *copy_of(const char *text)
{
    char *copy = strdup(text);
    assert(copy); /* control memory is small; without it there is no deciding */
    return copy;
}

static void replace(char **field, const char *text)
{
    char *copy = copy_of(text);
    if (*field && *field != (char *)protobuf_c_empty_string)
        free(*field);
    *field = copy;
}

/* `disk` is a copy of our own. */
static int resolve_disk(const struct cluster *cluster, const char *vm, Godwit__DiskSpec *disk,
                        struct problem *problem)
{
    bool by_path = is_given(disk->store) && disk->store[0] == '/';
    if (!is_given(disk->store) || (by_path && !is_given(disk->pool_store)))
        return 0;
    const struct cluster_store *store =
        pool_store_find(cluster, by_path ? disk->pool_store : disk->store, problem);
    if (!store)
        return -1;
    if (by_path && strcmp(disk->store, store->store->path) != 0)
        return problem_set(problem, GW_SPEC_INVALID, "%s: disk %s: store %s is %s, found '%.120s'",
                           vm, disk->name, store->store->name, store->store->path, disk->store);
    if (disk->has_shared && disk->shared && !store->store->shared) {
        (void)problem_set(problem, GW_SPEC_INVALID,
                          "%s: disk %s: store %s is not shared, every host has its own", vm,
                          disk->name, store->store->name);
        problem_hint(problem, "leave shared: out; the store says it");
        return -1;
    }
    replace(&disk->pool_store, store->store->name);
    replace(&disk->store, store->store->path);
    disk->has_shared = disk->shared = store->store->shared;
    return 0;
}

int pool_store_resolve(const struct cluster *cluster, const Godwit__VmSpec *spec,
                       Godwit__VmSpec **ret_spec, struct problem *problem)
{
    Godwit__VmSpec *copy = cluster_message_copy(&spec->base);
    if (!copy)
        return problem_set(problem, GW_INTERNAL, "no memory for VM %s", spec->name);
    for (size_t i = 0; i < copy->n_disks; i++) {
        if (resolve_disk(cluster, copy->name, copy->disks[i], problem) == 0)
            continue;
        godwit__vm_spec__free_unpacked(copy, NULL);
        return -1;
    }
    *ret_spec = copy;
    return 0;
}

/* ---- room -------------------------------------------------------------------------------------
 */

uint64_t pool_store_room(const struct cluster_store_place *place)
{
    return place->free_bytes > place->growth_bytes ? place->free_bytes - place->growth_bytes : 0;
}

static uint64_t needed_bytes(const struct planner_ask *ask, size_t disk)
{
    const Godwit__DiskSpec *spec = ask->spec->disks[disk];
    if (ask->landing_bytes)
        return spec->read_only || vm_spec_disk_is_shared(spec) ? 0 : ask->landing_bytes[disk];
    return ask->makes_disks && spec->has_size ? spec->size : 0;
}

#define MIB_OF(bytes) ((unsigned long long)((bytes) >> 20))

/* That nobody answered is the host's matter, not the store's. */
static bool was_seen_unwell(const struct cluster_store_place *place, uint64_t now_ns)
{
    bool is_known = place->state_ns && now_ns - place->state_ns < POOL_STORE_FRESH_MS * NS_PER_MS;
    return is_known && strcmp(place->state, "ok") != 0 && strcmp(place->state, "unknown") != 0;
}

/* A store that cannot be written will do for disks that are only read. */
static bool is_written_there(const Godwit__VmSpec *spec, const char *store)
{
    for (size_t i = 0; i < spec->n_disks; i++) {
        const char *name = spec->disks[i]->pool_store;
        if (is_given(name) && strcmp(name, store) == 0 && !spec->disks[i]->read_only)
            return true;
    }
    return false;
}

static enum gw_code judge_state(const struct cluster_store *store,
                                const struct cluster_store_place *place,
                                const struct planner_ask *ask, char *ret_reason,
                                size_t reason_size)
{
    bool is_enough = strcmp(place->state, "read-only") == 0 &&
                     !is_written_there(ask->spec, store->store->name);
    if (is_enough || !was_seen_unwell(place, ask->stores->now_ns))
        return GW_NONE;
    (void)snprintf(ret_reason, reason_size, "store %s on %s was last seen %s%s%.100s",
                   store->store->name, place->host, place->state, place->reason[0] ? ": " : "",
                   place->reason);
    return GW_STORE_UNSEEN;
}

static enum gw_code judge_host(const void *data, const char *host, const struct planner_ask *ask,
                               char *ret_reason, size_t reason_size)
{
    const struct cluster *cluster = data;
    const Godwit__VmSpec *spec = ask->spec;
    for (size_t i = 0; i < spec->n_disks; i++) {
        const char *name = spec->disks[i]->pool_store;
        const struct cluster_store *store = is_given(name) ? find(cluster, name) : NULL;
        if (!store)
            continue; /* a path, or a store of a pool that was restored from before it */
        const struct cluster_store_place *place = pool_store_place(store, host);
        if (!place) {
            (void)snprintf(ret_reason, reason_size, "%s does not have store %s of disk %s", host,
                           name, spec->disks[i]->name);
            return GW_STORE_UNSEEN;
        }
        enum gw_code code = judge_state(store, place, ask, ret_reason, reason_size);
        if (code != GW_NONE)
            return code;
        uint64_t need = 0;
        for (size_t n = 0; n < spec->n_disks; n++) {
            const char *other = spec->disks[n]->pool_store;
            need += is_given(other) && strcmp(other, name) == 0 ? needed_bytes(ask, n) : 0;
        }
        if (need > 0 && place->seen_ns && need > pool_store_room(place)) {
            (void)snprintf(ret_reason, reason_size,
                           "store %s on %s has room for %llu MiB (%llu free, its disks may take "
                           "%llu of it), %llu are needed",
                           name, host, MIB_OF(pool_store_room(place)), MIB_OF(place->free_bytes),
                           MIB_OF(place->growth_bytes), MIB_OF(need));
            return GW_STORE_FULL;
        }
    }
    return GW_NONE;
}

struct planner_stores pool_store_planner(const struct cluster *cluster, uint64_t now_ns)
{
    return (struct planner_stores){.judge = judge_host, .data = cluster, .now_ns = now_ns};
}

/* ---- told -------------------------------------------------------------------------------------
 */

static void tell_place(const struct cluster_store_place *place, Godwit__StorePlace *told)
{
    godwit__store_place__init(told);
    told->host = (char *)(uintptr_t)place->host; /* protobuf-c knows no const */
    told->state = (char *)(uintptr_t)place->state;
    told->reason = place->reason[0] ? (char *)(uintptr_t)place->reason : NULL;
    if (!place->seen_ns)
        return;
    told->has_total_bytes = told->has_free_bytes = told->has_reserved_bytes = true;
    told->has_room_bytes = told->has_disks = true;
    told->total_bytes = place->total_bytes;
    told->free_bytes = place->free_bytes;
    told->reserved_bytes = place->reserved_bytes;
    told->room_bytes = pool_store_room(place);
    told->disks = place->disks;
    told->file_system = (char *)(uintptr_t)place->file_system;
}

/* Of a shared store any place that sees it will do; else the one with the least room is told. */
static const Godwit__StorePlace *tightest(const struct pool_store_message *message)
{
    const Godwit__StorePlace *least = NULL;
    for (size_t i = 0; i < message->store.n_places; i++) {
        const Godwit__StorePlace *place = &message->places[i];
        if (place->has_room_bytes && (!least || place->room_bytes < least->room_bytes))
            least = place;
    }
    return least;
}

void pool_store_tell(const struct cluster *cluster, const struct cluster_store *store,
                     struct pool_store_message *ret_message)
{
    size_t hosts = store->store->n_hosts;
    struct pool_store_message message = {
        .store = *store->store,
        .places = calloc(hosts + 1, sizeof *message.places),
        .place_list = calloc(hosts + 1, sizeof *message.place_list),
        .vms = calloc(cluster->vm_count + 1, sizeof *message.vms),
    };
    assert(message.places && message.place_list && message.vms);
    static char ok[] = "ok";
    message.store.state = ok;
    for (size_t i = hosts; i-- > 0;) {
        tell_place(&store->places[i], &message.places[i]);
        message.place_list[i] = &message.places[i];
        if (strcmp(store->places[i].state, "ok") != 0)
            message.store.state = message.places[i].state;
    }
    for (size_t i = 0; i < cluster->vm_count; i++) {
        if (lies_in(store, cluster->vms[i]))
            message.vms[message.store.n_vms++] = cluster->vms[i]->spec->name;
    }
    message.store.places = message.place_list;
    message.store.n_places = hosts;
    message.store.vms = message.vms;
    const Godwit__StorePlace *least = tightest(&message);
    if (least) {
        message.store.has_total_bytes = message.store.has_free_bytes = true;
        message.store.has_reserved_bytes = message.store.has_room_bytes = true;
        message.store.total_bytes = least->total_bytes;
        message.store.free_bytes = least->free_bytes;
        message.store.reserved_bytes = least->reserved_bytes;
        message.store.room_bytes = least->room_bytes;
    }
    *ret_message = message;
}

void pool_store_message_deinit(struct pool_store_message *message)
{
    free(message->places);
    free(message->place_list);
    free(message->vms);
    *message = (struct pool_store_message){0};
}

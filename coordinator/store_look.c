/*      look:   LOOK -> every host of every store -> done
 *      check:  PROVE -> every host --all answered--> WORD_WRITE -> the first that is well
 *                  --> WORD_READ -> the others that are well --> WORD_WIPE -> the first --> done
 * A host that fails a step keeps the first reason and is asked nothing more. */
#include "coordinator/store_look.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/id.h"
#include "base/own.h"
#include "base/world.h"
#include "coordinator/agent_link.h"
#include "coordinator/dr_test.h"
#include "coordinator/pool_store.h"
#include "coordinator/words.h"
#include "proto/limits.h"
#include "proto/method.h"

enum { LOOK_MS = 5000, PROVE_MS = 15000 };

static void place_is(struct cluster_store_place *place, const char *state, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static void place_is(struct cluster_store_place *place, const char *state, const char *format, ...)
{
    va_list words;
    WORDS_COPY(place->state, state);
    va_start(words, format);
    (void)vsnprintf(place->reason, sizeof place->reason, format, words);
    va_end(words);
    place->state_ns = coordinator_now().ns;
}

static bool is_well(const struct cluster_store_place *place)
{
    return strcmp(place->state, "ok") == 0;
}

static void take_fault(struct cluster_store_place *place, const struct fault *fault,
                       enum agent_link_fate fate)
{
    bool is_told = fate == AGENT_LINK_REFUSED;
    place_is(place,
             !is_told                       ? "unknown"
             : fault->code == ERR_NOT_FOUND ? "missing"
                                            : "failed",
             is_told ? "%.200s" : "the agent does not answer: %.200s", fault->text);
}

static void take_state(struct cluster_store_place *place, const Godwit__StoreSeen *seen)
{
    if (seen->read_only)
        place_is(place, "read-only", "the file system is mounted read only");
    else
        place_is(place, "ok", "%s", "");
}

static void take_space(struct cluster_store_place *place, const Godwit__StoreSeen *seen)
{
    place->total_bytes = seen->total_bytes;
    place->free_bytes = seen->free_bytes;
    place->seen_ns = coordinator_now().ns;
    WORDS_COPY(place->file_system, seen->file_system ? seen->file_system : "");
    take_state(place, seen);
}

/* ---- look -------------------------------------------------------------------------------------
 */

struct look { /* of all that is asked together */
    struct coordinator *coordinator;
    bool is_brief; /* only whether they are well */
    unsigned waits;
    store_look_done_fn *done;
    void *data;
};

struct ask { /* of one host about one store */
    struct look *look;
    char store[OWN_HOST_SIZE], host[OWN_HOST_SIZE];
    char **files;    /* owned; of a shared store one host measures for all */
    uint64_t *sizes; /* owned; as provisioned */
    uint32_t count, uncounted;
    uint64_t reserved_bytes;
};

static void ask_free(struct ask *ask)
{
    for (uint32_t i = 0; i < ask->count; i++)
        free(ask->files[i]);
    free(ask->files);
    free(ask->sizes);
    free(ask);
}

static void find_files(struct ask *ask, const struct cluster *cluster,
                       const struct cluster_store *store)
{
    ask->files = calloc(STORE_FILES_MAX, sizeof *ask->files);
    ask->sizes = calloc(STORE_FILES_MAX, sizeof *ask->sizes);
    assert(ask->files && ask->sizes); /* control memory is small */
    for (size_t v = 0; v < cluster->vm_count; v++) {
        const struct cluster_vm *vm = cluster->vms[v];
        for (size_t i = 0; i < vm->spec->n_disks; i++) {
            const char *file =
                pool_store_file(store, ask->host, vm->spec->disks[i], pool_store_home(vm));
            uint64_t bytes = file ? pool_store_disk_bytes(vm, i) : 0;
            if (!file)
                continue;
            ask->reserved_bytes += bytes;
            if (ask->count == STORE_FILES_MAX) {
                ask->uncounted++; /* it counts whole: the room is told too small, never too large */
                continue;
            }
            ask->files[ask->count] = strdup(file);
            assert(ask->files[ask->count]);
            ask->sizes[ask->count++] = bytes;
        }
    }
}

/* A file of somebody else's size counts as what it is. */
static void take_files(struct cluster_store_place *place, const struct ask *ask,
                       const Godwit__StoreSeen *seen)
{
    uint64_t used = 0;
    place->reserved_bytes = ask->reserved_bytes;
    place->disks = ask->count + ask->uncounted;
    for (uint32_t i = 0; i < ask->count; i++) {
        bool is_there = i < seen->n_file_bytes && i < seen->n_file_used_bytes;
        uint64_t bytes = is_there ? seen->file_bytes[i] : 0;
        uint64_t taken = is_there ? seen->file_used_bytes[i] : 0;
        if (ask->sizes[i] == 0)
            place->reserved_bytes += bytes;
        uint64_t size = ask->sizes[i] ? ask->sizes[i] : bytes;
        used += taken < size ? taken : size;
    }
    place->growth_bytes = place->reserved_bytes > used ? place->reserved_bytes - used : 0;
}

static void take_seen(struct cluster_store *store, const struct ask *ask,
                      const Godwit__StoreSeen *seen)
{
    struct cluster_store_place *place = pool_store_place(store, ask->host);
    if (!place)
        return;
    if (ask->look->is_brief) {
        take_state(place, seen);
        return;
    }
    take_space(place, seen);
    if (!ask->files)
        return;
    take_files(place, ask, seen);
    for (size_t i = 0; store->store->shared && i < store->store->n_hosts; i++) {
        struct cluster_store_place *other = &store->places[i];
        other->reserved_bytes = place->reserved_bytes;
        other->growth_bytes = place->growth_bytes;
        other->disks = place->disks;
    }
}

static void look_is_over(struct look *look)
{
    if (--look->waits > 0)
        return;
    look->done(look->data);
    free(look);
}

static void on_seen(void *data, const ProtobufCMessage *reply, const struct fault *fault,
                    enum agent_link_fate fate)
{
    struct ask *ask = data;
    struct look *look = ask->look;
    struct cluster_store *store =
        pool_store_find(&look->coordinator->cluster, ask->store, NULL);
    struct cluster_store_place *place = store ? pool_store_place(store, ask->host) : NULL;
    if (place && fault)
        take_fault(place, fault, fate);
    else if (place)
        take_seen(store, ask, (const Godwit__StoreSeen *)reply);
    ask_free(ask);
    look_is_over(look);
}

static void look_at(struct look *look, const struct cluster_store *store)
{
    struct coordinator *coordinator = look->coordinator;
    bool is_measured = false;
    for (size_t i = 0; i < store->store->n_hosts; i++) {
        struct ask *ask = calloc(1, sizeof *ask);
        assert(ask); /* control memory is small */
        ask->look = look;
        WORDS_COPY(ask->store, store->store->name);
        WORDS_COPY(ask->host, store->store->hosts[i]);
        bool is_last = i + 1 == store->store->n_hosts;
        bool measures = !look->is_brief &&
                        (!store->store->shared ||
                         (!is_measured && (is_last || agent_link_find(coordinator, ask->host))));
        if (measures)
            find_files(ask, &coordinator->cluster, store);
        is_measured = is_measured || measures;
        Godwit__OrderStoreLook order = GODWIT__ORDER_STORE_LOOK__INIT;
        order.path = store->store->path;
        order.has_verb = true;
        order.verb = GODWIT__STORE_LOOK_VERB__STORE_LOOK;
        order.files = ask->files;
        order.n_files = ask->count;
        look->waits++;
        agent_link_call(coordinator, ask->host, METHOD_ORDER_STORE_LOOK, &order.base,
                        &godwit__store_seen__descriptor, LOOK_MS, on_seen, ask);
    }
}

bool store_look(struct coordinator *coordinator, const struct cluster_store *only,
                store_look_done_fn *done, void *data)
{
    const struct cluster *cluster = &coordinator->cluster;
    if (cluster->store_count == 0)
        return false;
    struct look *look = calloc(1, sizeof *look);
    assert(look); /* control memory is small */
    *look = (struct look){.coordinator = coordinator, .done = done, .data = data};
    for (size_t i = 0; i < cluster->store_count; i++) {
        if (!only || only == cluster->stores[i])
            look_at(look, cluster->stores[i]);
    }
    assert(look->waits > 0); /* a store has a host at least, and no answer came yet */
    return true;
}

static void own_is_over(void *data)
{
    struct coordinator *coordinator = data;
    coordinator->looks_at_stores = false;
}

void store_look_tick(struct coordinator *coordinator)
{
    const struct cluster *cluster = &coordinator->cluster;
    struct cluster_now now = coordinator_now();
    uint64_t now_ns = now.ns;
    if (cluster->store_count == 0 || coordinator->looks_at_stores ||
        now_ns - coordinator->looked_at_stores_ns < POOL_STORE_LOOK_EVERY_MS * NS_PER_MS)
        return;
    struct look *look = calloc(1, sizeof *look);
    assert(look); /* control memory is small */
    *look = (struct look){.coordinator = coordinator,
                          .is_brief = !dr_test_is_due_within(cluster, now, 2 * POOL_STORE_LOOK_EVERY_MS),
                          .done = own_is_over,
                          .data = coordinator};
    coordinator->looks_at_stores = true;
    coordinator->looked_at_stores_ns = now_ns;
    for (size_t i = 0; i < cluster->store_count; i++)
        look_at(look, cluster->stores[i]);
}

/* ---- check ------------------------------------------------------------------------------------
 */

struct check {
    struct coordinator *coordinator;
    const Godwit__PoolStore *store;
    struct cluster_store_place *places;
    char word[ID_TEXT_SIZE];
    size_t writer;
    unsigned waits;
    store_look_done_fn *done;
    void *data;
};

struct check_ask {
    struct check *check;
    size_t host;
    Godwit__StoreLookVerb verb;
};

static void on_checked(void *data, const ProtobufCMessage *reply, const struct fault *fault,
                       enum agent_link_fate fate);

static void check_host(struct check *check, size_t host, Godwit__StoreLookVerb verb)
{
    struct check_ask *ask = calloc(1, sizeof *ask);
    Godwit__OrderStoreLook order = GODWIT__ORDER_STORE_LOOK__INIT;
    assert(ask); /* control memory is small */
    *ask = (struct check_ask){.check = check, .host = host, .verb = verb};
    order.path = check->store->path;
    order.has_verb = true;
    order.verb = verb;
    order.word = check->word;
    check->waits++;
    agent_link_call(check->coordinator, check->places[host].host, METHOD_ORDER_STORE_LOOK,
                    &order.base, &godwit__store_seen__descriptor, PROVE_MS, on_checked, ask);
}

static void check_is_over(struct check *check)
{
    check->done(check->data);
    free(check);
}

/* The next host that is well leaves the word; nobody is there to read it: that was all. */
static void write_word(struct check *check)
{
    size_t well = 0;
    check->writer = SIZE_MAX;
    for (size_t i = check->store->n_hosts; i-- > 0;) {
        if (!is_well(&check->places[i]))
            continue;
        check->writer = i;
        well++;
    }
    if (!check->store->shared || well < 2)
        check_is_over(check);
    else
        check_host(check, check->writer, GODWIT__STORE_LOOK_VERB__STORE_WORD_WRITE);
}

static void read_word(struct check *check)
{
    for (size_t i = 0; i < check->store->n_hosts; i++) {
        if (i != check->writer && is_well(&check->places[i]))
            check_host(check, i, GODWIT__STORE_LOOK_VERB__STORE_WORD_READ);
    }
}

/* The last answer of a step is in. */
static void go_on(struct check *check, Godwit__StoreLookVerb verb)
{
    switch (verb) {
    case GODWIT__STORE_LOOK_VERB__STORE_PROVE:
        write_word(check);
        break;
    case GODWIT__STORE_LOOK_VERB__STORE_WORD_WRITE:
        if (is_well(&check->places[check->writer]))
            read_word(check);
        else
            write_word(check);
        break;
    case GODWIT__STORE_LOOK_VERB__STORE_WORD_READ:
        check_host(check, check->writer, GODWIT__STORE_LOOK_VERB__STORE_WORD_WIPE);
        break;
    case GODWIT__STORE_LOOK_VERB__STORE_WORD_WIPE:
        check_is_over(check);
        break;
    case GODWIT__STORE_LOOK_VERB__STORE_LOOK:
    case _GODWIT__STORE_LOOK_VERB_IS_INT_SIZE:
        assert(false); /* a check never asks that */
    }
}

static void on_checked(void *data, const ProtobufCMessage *reply, const struct fault *fault,
                       enum agent_link_fate fate)
{
    struct check_ask *ask = data;
    struct check *check = ask->check;
    struct cluster_store_place *place = &check->places[ask->host];
    const Godwit__StoreSeen *seen = (const Godwit__StoreSeen *)reply;
    Godwit__StoreLookVerb verb = ask->verb;
    bool is_wipe = verb == GODWIT__STORE_LOOK_VERB__STORE_WORD_WIPE;
    if (fault && !is_wipe) /* a word that stays is a small file, and says nothing false */
        take_fault(place, fault, fate);
    else if (!fault && verb == GODWIT__STORE_LOOK_VERB__STORE_PROVE)
        take_space(place, seen);
    else if (!fault && verb == GODWIT__STORE_LOOK_VERB__STORE_WORD_READ && !seen->word_seen)
        place_is(place, "other", "%s has a folder %.120s, but not the one that %s writes to",
                 place->host, check->store->path, check->places[check->writer].host);
    free(ask);
    if (--check->waits == 0)
        go_on(check, verb);
}

void store_look_check(struct coordinator *coordinator, const Godwit__PoolStore *store,
                      struct cluster_store_place *places, store_look_done_fn *done, void *data)
{
    struct check *check = calloc(1, sizeof *check);
    assert(check && store->n_hosts > 0); /* pool_store_judge has seen to the latter */
    *check = (struct check){.coordinator = coordinator,
                            .store = store,
                            .places = places,
                            .done = done,
                            .data = data};
    id_random(check->word);
    for (size_t i = 0; i < store->n_hosts; i++)
        check_host(check, i, GODWIT__STORE_LOOK_VERB__STORE_PROVE);
}

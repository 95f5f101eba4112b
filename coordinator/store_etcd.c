/* The shared driver: rows as keys of an etcd that runs on several hosts.
 *
 *   /PREFIX/leader           who writes, under a lease of ours; when it ends the key is gone
 *   /PREFIX/schema           its version
 *   /PREFIX/commit           which transaction came last: tells a lost answer from a lost race
 *   /PREFIX/row/TABLE/KEY    one StoreRow each
 *
 * Every transaction compares the creation of `leader`, so a coordinator that was deposed, however
 * long it slept, cannot write; and the last change of every row that it touches. Nobody else writes
 * while we lead, so what the rows' revisions are is read once, when we have become leader.
 *
 * An answer that is lost (a member died, etcd elects) leaves it open whether the transaction was
 * made: it is sent again, and if it then is not met, `commit` says whether that was our own doing.
 */
#include <assert.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/id.h"
#include "base/log.h"
#include "base/own.h"
#include "base/world.h"
#include "coordinator/etcd.h"
#include "coordinator/store_driver.h"
#include "coordinator/store_row.h"

enum {
    LEASE_S = 5,
    RENEW_MS = 1000,
    RENEW_LATE_MS = 2000,
    BUCKETS = 4096,
    COMPACT_EVERY = 1000,
    WHO_SIZE = 256,
    NONCE_SIZE = ID_TEXT_SIZE + 24,
};

struct known { /* a row that is there */
    struct known *next;
    char *key; /* owned; whole, with prefix */
    uint64_t revision, mod_revision;
};

struct etcd_store {
    struct etcd *work, *beat; /* of the transactions, of the renewals */
    char *who;
    char id[ID_TEXT_SIZE]; /* of this leadership */
    uint64_t lease, leader_revision, commit_count;
    _Atomic uint64_t good_until_ms; /* the lease cannot have ended before */
    _Atomic bool is_lost;
    struct known *buckets[BUCKETS];
    char leader_key[ETCD_KEY_MAX], commit_key[ETCD_KEY_MAX], schema_key[ETCD_KEY_MAX];
};

/* ---- what is known of the rows ----------------------------------------------------------------
 */

static struct known **find(struct etcd_store *store, const char *key)
{
    uint32_t hash = 2166136261u;
    for (const char *at = key; *at; at++)
        hash = (hash ^ (uint8_t)*at) * 16777619u;
    struct known **link = &store->buckets[hash % BUCKETS];
    while (*link && strcmp((*link)->key, key) != 0)
        link = &(*link)->next;
    return link;
}

static void know(struct etcd_store *store, const char *key, uint64_t revision,
                 uint64_t mod_revision)
{
    struct known **link = find(store, key);
    if (!*link) {
        *link = calloc(1, sizeof **link);
        assert(*link); /* control memory is small; without it there is no deciding */
        (*link)->key = strdup(key);
        assert((*link)->key);
    }
    (*link)->revision = revision;
    (*link)->mod_revision = mod_revision;
}

static void forget(struct known **link)
{
    struct known *known = *link;
    if (!known)
        return;
    *link = known->next;
    free(known->key);
    free(known);
}

static void row_key(const struct etcd_store *store, enum store_table table, const char *key,
                    char ret_key[static ETCD_KEY_MAX])
{
    int n = snprintf(ret_key, ETCD_KEY_MAX, "%srow/%s/%s", etcd_prefix(store->work),
                     store_tables[table].name, key);
    assert(n > 0 && n < ETCD_KEY_MAX); /* keys are ids and names, which are short */
}

/* ---- rows -------------------------------------------------------------------------------------
 */

struct loading {
    struct etcd_store *store;
    enum store_table table;
    size_t prefix_length;
    store_row_fn *row;
    void *data;
};

static int on_loaded(void *data, const struct etcd_row *from, struct fault *fault)
{
    struct loading *loading = data;
    const struct known *known = *find(loading->store, from->key);
    if (!known || known->mod_revision != from->mod_revision)
        return fault_set(fault, ERR_STATE, "etcd: %s was changed by somebody else", from->key);
    struct store_row row;
    int r = store_row_decode(loading->table, from->value, from->count, &row, fault);
    if (r < 0)
        return fault_wrap(fault, r, "etcd: %s", from->key);
    r = loading->row(loading->data, from->key + loading->prefix_length, known->revision, row.cells,
                     fault);
    store_row_deinit(&row);
    return r;
}

/* The first key that does not begin with `prefix`: all of ours end in '/'. */
static void end_of(char *prefix)
{
    size_t length = strlen(prefix);
    assert(length > 0 && prefix[length - 1] == '/');
    prefix[length - 1] = '/' + 1;
}

static int load(void *self, enum store_table table, store_row_fn *row, void *data,
                struct fault *fault)
{
    struct etcd_store *store = self;
    char first[ETCD_KEY_MAX], end[ETCD_KEY_MAX];
    row_key(store, table, "", first);
    row_key(store, table, "", end);
    end_of(end);
    struct loading loading = {
        .store = store, .table = table, .prefix_length = strlen(first), .row = row, .data = data};
    return etcd_range(store->work, first, end, false, on_loaded, &loading, fault);
}

static int on_known(void *data, const struct etcd_row *row, struct fault *fault)
{
    (void)fault;
    know(data, row->key, row->version, row->mod_revision);
    return 0;
}

/* ---- leadership -------------------------------------------------------------------------------
 */

static int lost(struct etcd_store *store, struct fault *fault)
{
    store->is_lost = true;
    return fault_set(fault, ERR_STATE, "another coordinator may lead: our lease in etcd is gone");
}

static int renew_by(struct etcd_store *store, struct etcd *etcd, struct fault *fault)
{
    if (store->is_lost)
        return lost(store, fault);
    uint64_t sent_ms = world_now_ms();
    struct fault why = {0};
    int r = etcd_lease_renew(etcd, store->lease, &why);
    if (r == 0) {
        store->good_until_ms = sent_ms + LEASE_S * 1000;
        return 0;
    }
    if (r == ERR_NOT_FOUND)
        return lost(store, fault);
    if (world_now_ms() < store->good_until_ms)
        return 0; /* there is time to try again */
    store->is_lost = true;
    return fault_set(fault, ERR_UNREACHABLE, "our lease in etcd could not be renewed: %.300s",
                     why.text);
}

static int renew(void *self, struct fault *fault)
{
    struct etcd_store *store = self;
    return renew_by(store, store->beat, fault);
}

struct held {
    bool is_there;
    char value[WHO_SIZE + NONCE_SIZE];
    uint64_t create_revision, mod_revision;
};

static int on_held(void *data, const struct etcd_row *row, struct fault *fault)
{
    struct held *held = data;
    (void)fault;
    held->is_there = true;
    held->create_revision = row->create_revision;
    held->mod_revision = row->mod_revision;
    (void)snprintf(held->value, sizeof held->value, "%.*s", (int)row->count,
                   (const char *)row->value);
    return 0;
}

static int read_key(struct etcd_store *store, const char *key, struct held *ret_held,
                    struct fault *fault)
{
    *ret_held = (struct held){0};
    return etcd_range(store->work, key, "", false, on_held, ret_held, fault);
}

/* "ID WHO" */
static const char *who_of(const struct held *held)
{
    const char *space = strchr(held->value, ' ');
    return space ? space + 1 : held->value;
}

static int refuse_second(const struct held *held, struct fault *fault)
{
    int r = fault_set(fault, ERR_BUSY, "another coordinator leads: %.200s", who_of(held));
    fault_hint(fault, "%.150s", who_of(held));
    return r;
}

static int become_leader(struct etcd_store *store, struct fault *fault)
{
    struct held held;
    int r = read_key(store, store->leader_key, &held, fault);
    if (r < 0)
        return r;
    if (held.is_there)
        return refuse_second(&held, fault);
    uint64_t sent_ms = world_now_ms();
    r = etcd_lease_grant(store->work, LEASE_S, &store->lease, fault);
    if (r < 0)
        return r;
    char value[WHO_SIZE + NONCE_SIZE];
    (void)snprintf(value, sizeof value, "%s %s", store->id, store->who);
    const struct etcd_compare free = {.key = store->leader_key, .of_creation = true};
    const struct etcd_change take = {
        .key = store->leader_key, .value = value, .count = strlen(value), .lease = store->lease};
    uint64_t revision = 0;
    r = etcd_commit(store->work, &free, 1, &take, 1, &revision, fault);
    if (r < 0 && r != ERR_UNREACHABLE)
        return r;
    do { /* whatever the answer was: is it ours? */
        r = read_key(store, store->leader_key, &held, fault);
    } while (r == ERR_UNREACHABLE && world_now_ms() < sent_ms + LEASE_S * 1000);
    if (r < 0)
        return r;
    if (!held.is_there)
        return fault_set(fault, ERR_UNREACHABLE, "etcd did not keep the leader's key");
    if (strcmp(held.value, value) != 0)
        return refuse_second(&held, fault);
    store->leader_revision = held.create_revision;
    store->good_until_ms = sent_ms + LEASE_S * 1000;
    return 0;
}

/* ---- transactions -----------------------------------------------------------------------------
 */

/* What the row's revision is after the changes before `index`. */
static uint64_t revision_before(struct etcd_store *store, const struct store_batch *batch,
                                size_t index, const char *whole_key)
{
    const struct store_change *change = &batch->changes[index];
    for (size_t i = index; i-- > 0;) {
        const struct store_change *earlier = &batch->changes[i];
        if (earlier->table == change->table && strcmp(earlier->key, change->key) == 0)
            return earlier->is_delete ? 0 : earlier->revision + 1;
    }
    const struct known *known = *find(store, whole_key);
    return known ? known->revision : 0;
}

static int check_revisions(struct etcd_store *store, const struct store_batch *batch,
                           struct fault *fault)
{
    for (size_t i = 0; i < batch->count; i++) {
        const struct store_change *change = &batch->changes[i];
        char key[ETCD_KEY_MAX];
        row_key(store, change->table, change->key, key);
        uint64_t found = revision_before(store, batch, i, key);
        if (found != change->revision || (change->is_delete && found == 0))
            return fault_set(fault, ERR_STATE, "etcd: %s is at revision %llu, not %llu", key,
                             (unsigned long long)found, (unsigned long long)change->revision);
    }
    return 0;
}

struct part { /* of a batch, as one transaction */
    struct etcd_compare compares[ETCD_CHANGES_MAX];
    struct etcd_change changes[ETCD_CHANGES_MAX];
    char keys[ETCD_CHANGES_MAX][ETCD_KEY_MAX];
    uint64_t revisions[ETCD_CHANGES_MAX]; /* after it; 0: deleted */
    size_t count;
};

static void add_to_part(struct etcd_store *store, struct part *part,
                        const struct store_change *change)
{
    char key[ETCD_KEY_MAX];
    row_key(store, change->table, change->key, key);
    size_t at = 0;
    while (at < part->count && strcmp(part->keys[at], key) != 0)
        at++;
    if (at == part->count) {
        const struct known *known = *find(store, key);
        (void)snprintf(part->keys[at], ETCD_KEY_MAX, "%s", key);
        part->compares[at] = (struct etcd_compare){.key = part->keys[at],
                                                   .revision = known ? known->mod_revision : 0};
        part->count++;
    } else {
        free((void *)(uintptr_t)part->changes[at].value); /* a later word on the same row */
    }
    struct etcd_change *made = &part->changes[at];
    *made = (struct etcd_change){.key = part->keys[at], .is_delete = change->is_delete};
    part->revisions[at] = change->is_delete ? 0 : change->revision + 1;
    if (!change->is_delete) {
        uint8_t *bytes;
        store_row_encode(change, &bytes, &made->count);
        made->value = bytes;
    }
}

/* One transaction, until it is known to be made or we may not lead any more. */
static int commit_changes(struct etcd_store *store, const struct part *part, uint64_t *ret_revision,
                          struct fault *fault)
{
    struct etcd_compare compares[ETCD_CHANGES_MAX + 1];
    struct etcd_change changes[ETCD_CHANGES_MAX + 1];
    char nonce[NONCE_SIZE];
    memcpy(compares, part->compares, part->count * sizeof *compares);
    memcpy(changes, part->changes, part->count * sizeof *changes);
    (void)snprintf(nonce, sizeof nonce, "%s-%" PRIu64, store->id, ++store->commit_count);
    compares[part->count] = (struct etcd_compare){
        .key = store->leader_key, .of_creation = true, .revision = store->leader_revision};
    changes[part->count] =
        (struct etcd_change){.key = store->commit_key, .value = nonce, .count = strlen(nonce)};
    struct fault why = {0};
    for (;;) {
        int r = etcd_commit(store->work, compares, part->count + 1, changes, part->count + 1,
                            ret_revision, &why);
        if (r == 0)
            return 0;
        struct held held = {0};
        if (r == ETCD_E_NOT_MET && (r = read_key(store, store->commit_key, &held, &why)) == 0) {
            if (!held.is_there || strcmp(held.value, nonce) != 0)
                return lost(store, fault);
            *ret_revision = held.mod_revision; /* it was made, only the answer was lost */
            return 0;
        }
        if (r != ERR_UNREACHABLE || store->is_lost || world_now_ms() >= store->good_until_ms) {
            store->is_lost = true;
            return fault_set(fault, r, "a transaction was not made: %.300s", why.text);
        }
        log_debug("store_etcd", "trying on: %s", why.text);
    }
}

static int commit_part(struct etcd_store *store, struct part *part, struct fault *fault)
{
    uint64_t revision = 0;
    int r = commit_changes(store, part, &revision, fault);
    for (size_t i = 0; i < part->count; i++) {
        if (r == 0 && part->revisions[i] == 0)
            forget(find(store, part->keys[i]));
        else if (r == 0)
            know(store, part->keys[i], part->revisions[i], revision);
        free((void *)(uintptr_t)part->changes[i].value);
    }
    part->count = 0;
    if (r == 0 && store->commit_count % COMPACT_EVERY == 0)
        (void)etcd_compact(store->work, revision, NULL); /* next time, then */
    return r;
}

/* A batch above etcd's limit is made in parts, each of them under our leadership. It is cut only
 * before a host's or an ownership record's row, with which the cores begin a decision, so that what
 * belongs together stays together. */
static bool may_cut_before(const struct store_change *change)
{
    return change->table == STORE_OWN || change->table == STORE_HOST ||
           change->table == STORE_EVENT;
}

static size_t cut_length(const struct store_batch *batch, size_t from)
{
    size_t left = batch->count - from;
    if (left < ETCD_CHANGES_MAX)
        return left;
    for (size_t length = ETCD_CHANGES_MAX - 1; length > 0; length--) {
        if (may_cut_before(&batch->changes[from + length]))
            return length;
    }
    return ETCD_CHANGES_MAX - 1;
}

static int commit(void *self, const struct store_batch *batch, struct fault *fault)
{
    struct etcd_store *store = self;
    if (store->is_lost)
        return lost(store, fault);
    if (world_now_ms() + LEASE_S * 1000 - RENEW_LATE_MS > store->good_until_ms) {
        int r = renew_by(store, store->work, fault);
        if (r < 0)
            return r;
    }
    int r = check_revisions(store, batch, fault);
    if (r < 0)
        return r;
    AUTO_FREE struct part *part = calloc(1, sizeof *part);
    if (!part)
        return fault_set(fault, ERR_NOMEM, "no memory for a transaction");
    size_t from = 0;
    do {
        size_t length = cut_length(batch, from);
        for (size_t i = from; i < from + length; i++)
            add_to_part(store, part, &batch->changes[i]);
        from += length;
        r = commit_part(store, part, fault);
    } while (r == 0 && from < batch->count);
    return r;
}

/* ---- opening and closing ----------------------------------------------------------------------
 */

static int check_schema(struct etcd_store *store, struct fault *fault)
{
    struct held held;
    int r = read_key(store, store->schema_key, &held, fault);
    if (r < 0)
        return r;
    uint64_t version = strtoull(held.value, NULL, 10);
    if (version > STORE_SCHEMA_VERSION)
        return fault_set(fault, ERR_UNSUPPORTED,
                         "etcd: %s was written by a newer version (schema %llu, this one knows %d)",
                         store->schema_key, (unsigned long long)version, STORE_SCHEMA_VERSION);
    return 0;
}

static int write_schema(struct etcd_store *store, struct fault *fault)
{
    char version[16];
    uint64_t revision;
    (void)snprintf(version, sizeof version, "%d", STORE_SCHEMA_VERSION);
    const struct etcd_compare leads = {
        .key = store->leader_key, .of_creation = true, .revision = store->leader_revision};
    const struct etcd_change put = {
        .key = store->schema_key, .value = version, .count = strlen(version)};
    int r = etcd_commit(store->work, &leads, 1, &put, 1, &revision, fault);
    return r == ETCD_E_NOT_MET ? lost(store, fault) : r;
}

static int know_all(struct etcd_store *store, struct fault *fault)
{
    char first[ETCD_KEY_MAX], end[ETCD_KEY_MAX];
    (void)snprintf(first, sizeof first, "%.256srow/", etcd_prefix(store->work));
    (void)snprintf(end, sizeof end, "%.256srow/", etcd_prefix(store->work));
    end_of(end);
    return etcd_range(store->work, first, end, true, on_known, store, fault);
}

/* Events are kept up to a number, as SQLite's are. */
struct trimming {
    struct etcd_store *store;
    uint64_t count, drop;
    struct part *part;
};

static int count_event(void *data, const struct etcd_row *row, struct fault *fault)
{
    (void)row;
    (void)fault;
    ((struct trimming *)data)->count++;
    return 0;
}

static int drop_event(void *data, const struct etcd_row *row, struct fault *fault)
{
    struct trimming *trimming = data;
    struct part *part = trimming->part;
    if (trimming->drop == 0)
        return 0;
    trimming->drop--;
    size_t at = part->count++;
    (void)snprintf(part->keys[at], ETCD_KEY_MAX, "%s", row->key);
    part->compares[at] =
        (struct etcd_compare){.key = part->keys[at], .revision = row->mod_revision};
    part->changes[at] = (struct etcd_change){.key = part->keys[at], .is_delete = true};
    part->revisions[at] = 0;
    if (part->count == ETCD_CHANGES_MAX || trimming->drop == 0)
        return commit_part(trimming->store, part, fault);
    return 0;
}

static int trim_events(struct etcd_store *store, struct fault *fault)
{
    char first[ETCD_KEY_MAX], end[ETCD_KEY_MAX];
    row_key(store, STORE_EVENT, "", first);
    row_key(store, STORE_EVENT, "", end);
    end_of(end);
    struct trimming trimming = {.store = store};
    int r = etcd_range(store->work, first, end, true, count_event, &trimming, fault);
    if (r < 0 || trimming.count <= STORE_EVENTS_KEPT)
        return r;
    AUTO_FREE struct part *part = calloc(1, sizeof *part);
    if (!part)
        return fault_set(fault, ERR_NOMEM, "no memory to forget old events");
    trimming.part = part;
    trimming.drop = trimming.count - STORE_EVENTS_KEPT;
    return etcd_range(store->work, first, end, true, drop_event, &trimming, fault);
}

static void etcd_store_close(void *self)
{
    struct etcd_store *store = self;
    if (store->lease && store->work)
        (void)etcd_lease_revoke(store->work, store->lease, NULL); /* else it ends by itself */
    for (size_t i = 0; i < BUCKETS; i++) {
        while (store->buckets[i])
            forget(&store->buckets[i]);
    }
    (void)etcd_free(store->work);
    (void)etcd_free(store->beat);
    free(store->who);
    free(store);
}

/* Leadership that was won under a struggling etcd is not given away for one answer that is late:
 * nobody else could do better with it. */
static int take_over(struct etcd_store *store, struct fault *fault)
{
    int (*const steps[])(struct etcd_store * store, struct fault * fault) = {write_schema, know_all,
                                                                             trim_events};
    for (size_t at = 0; at < ARRAY_COUNT(steps);) {
        int r = steps[at](store, fault);
        if (r == 0)
            at++;
        else if (r != ERR_UNREACHABLE)
            return r;
        r = renew_by(store, store->work, fault); /* fails once the lease may have ended */
        if (r < 0)
            return r;
    }
    return 0;
}

static int open_store(struct etcd_store *store, const char *where, const char *who,
                      struct fault *fault)
{
    int r = etcd_new(&store->work, where, fault);
    if (r == 0)
        r = etcd_new(&store->beat, where, fault);
    if (r < 0)
        return r;
    store->who = strndup(who[0] ? who : "somebody", WHO_SIZE - 1);
    if (!store->who)
        return fault_set(fault, ERR_NOMEM, "no memory for the store");
    const char *prefix = etcd_prefix(store->work);
    (void)snprintf(store->leader_key, ETCD_KEY_MAX, "%.256sleader", prefix);
    (void)snprintf(store->commit_key, ETCD_KEY_MAX, "%.256scommit", prefix);
    (void)snprintf(store->schema_key, ETCD_KEY_MAX, "%.256sschema", prefix);
    id_random(store->id);
    r = check_schema(store, fault);
    if (r == 0)
        r = become_leader(store, fault);
    return r == 0 ? take_over(store, fault) : r;
}

static int etcd_store_open(void **ret_self, const char *where, const char *who, struct fault *fault)
{
    struct etcd_store *store = calloc(1, sizeof *store);
    if (!store)
        return fault_set(fault, ERR_NOMEM, "no memory for the store");
    int r = open_store(store, where, who, fault);
    if (r < 0) {
        etcd_store_close(store);
        return r;
    }
    *ret_self = store;
    return 0;
}

const struct store_driver store_etcd = {.open = etcd_store_open,
                                        .close = etcd_store_close,
                                        .load = load,
                                        .commit = commit,
                                        .renew = renew,
                                        .renew_ms = RENEW_MS};

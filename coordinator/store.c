/* What both drivers share. Batches are handed over in a list, at most one worker is on its way, and
 * it drains the list one transaction after the other. So transactions are durable in the order in
 * which the cores decided them, and a decision that rests on an earlier one can never be kept
 * without it. */
#include "coordinator/store.h"

#include <assert.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/own.h"
#include "coordinator/etcd.h"
#include "coordinator/store_driver.h"

#define COLUMN_SQL(id, sql) sql,
static const char *const host_columns[] = {STORE_HOST_COLUMNS(COLUMN_SQL)};
static const char *const vm_columns[] = {STORE_VM_COLUMNS(COLUMN_SQL)};
static const char *const own_columns[] = {STORE_OWN_COLUMNS(COLUMN_SQL)};
static const char *const job_columns[] = {STORE_JOB_COLUMNS(COLUMN_SQL)};
static const char *const token_columns[] = {STORE_TOKEN_COLUMNS(COLUMN_SQL)};
static const char *const event_columns[] = {STORE_EVENT_COLUMNS(COLUMN_SQL)};
static const char *const rule_columns[] = {STORE_RULE_COLUMNS(COLUMN_SQL)};
static const char *const plan_columns[] = {STORE_PLAN_COLUMNS(COLUMN_SQL)};
static const char *const fence_columns[] = {STORE_FENCE_COLUMNS(COLUMN_SQL)};
static const char *const setting_columns[] = {STORE_SETTING_COLUMNS(COLUMN_SQL)};
static const char *const audit_columns[] = {STORE_AUDIT_COLUMNS(COLUMN_SQL)};
static const char *const disks_columns[] = {STORE_DISKS_COLUMNS(COLUMN_SQL)};
static const char *const image_columns[] = {STORE_IMAGE_COLUMNS(COLUMN_SQL)};
static const char *const disk_move_columns[] = {STORE_DISK_MOVE_COLUMNS(COLUMN_SQL)};
static const char *const dr_columns[] = {STORE_DR_COLUMNS(COLUMN_SQL)};
static const char *const peer_columns[] = {STORE_PEER_COLUMNS(COLUMN_SQL)};
static const char *const snapshot_columns[] = {STORE_SNAPSHOT_COLUMNS(COLUMN_SQL)};

const struct store_table_row store_tables[STORE_TABLE_COUNT] = {
    [STORE_HOST] = {"host", host_columns, STORE_HOST_COLUMN_COUNT},
    [STORE_VM] = {"vm", vm_columns, STORE_VM_COLUMN_COUNT},
    [STORE_OWN] = {"own", own_columns, STORE_OWN_COLUMN_COUNT},
    [STORE_JOB] = {"job", job_columns, STORE_JOB_COLUMN_COUNT},
    [STORE_TOKEN] = {"token", token_columns, STORE_TOKEN_COLUMN_COUNT},
    [STORE_EVENT] = {"event", event_columns, STORE_EVENT_COLUMN_COUNT},
    [STORE_RULE] = {"rule", rule_columns, STORE_RULE_COLUMN_COUNT},
    [STORE_PLAN] = {"plan", plan_columns, STORE_PLAN_COLUMN_COUNT},
    [STORE_FENCE] = {"fence", fence_columns, STORE_FENCE_COLUMN_COUNT},
    [STORE_SETTING] = {"setting", setting_columns, STORE_SETTING_COLUMN_COUNT},
    [STORE_AUDIT] = {"audit", audit_columns, STORE_AUDIT_COLUMN_COUNT},
    [STORE_DISKS] = {"disk_store", disks_columns, STORE_DISKS_COLUMN_COUNT},
    [STORE_IMAGE] = {"image", image_columns, STORE_IMAGE_COLUMN_COUNT},
    [STORE_DISK_MOVE] = {"disk_move", disk_move_columns, STORE_DISK_MOVE_COLUMN_COUNT},
    [STORE_DR] = {"dr", dr_columns, STORE_DR_COLUMN_COUNT},
    [STORE_PEER] = {"peer", peer_columns, STORE_PEER_COLUMN_COUNT},
    [STORE_SNAPSHOT] = {"snapshot", snapshot_columns, STORE_SNAPSHOT_COLUMN_COUNT},
};
static_assert((int)STORE_JOB_COLUMN_COUNT <= (int)STORE_COLUMNS_MAX, "the widest table must fit");

struct store {
    const struct store_driver *driver;
    void *self; /* the driver's */
    struct loop *loop;
    /* under the mutex */
    pthread_mutex_t mutex;
    pthread_cond_t idle;
    struct store_batch *waiting, **waiting_end;
    struct store_batch *finished, **finished_end;
    bool worker_runs, renewal_runs;
    /* the loop's thread only */
    bool is_closed;
    unsigned works; /* loop_work calls without their `done` */
    struct loop_timer *renew_timer;
    struct fault renew_fault; /* the renewal's, until its `done` */
    void (*lost)(void *data, const struct fault *fault);
    void *lost_data;
};

/* ---- batches ----------------------------------------------------------------------------------
 */

int store_batch_new(struct store_batch **ret_batch, struct fault *fault)
{
    struct store_batch *batch = calloc(1, sizeof *batch);
    if (!batch)
        return fault_set(fault, ERR_NOMEM, "no memory for a transaction");
    *ret_batch = batch;
    return 0;
}

struct store_batch *store_batch_free(struct store_batch *batch)
{
    if (!batch)
        return NULL;
    for (size_t i = 0; i < batch->count; i++) {
        struct store_change *change = &batch->changes[i];
        for (size_t n = 0; n < change->cell_count; n++)
            free((char *)(uintptr_t)change->cells[n].bytes);
        free(change->key);
    }
    free(batch->changes);
    free(batch);
    return NULL;
}

bool store_batch_is_empty(const struct store_batch *batch)
{
    return batch->count == 0;
}

static struct store_change *add_change(struct store_batch *batch, enum store_table table,
                                       const char *key, uint64_t revision)
{
    if (batch->count == batch->room) {
        batch->room = batch->room ? batch->room * 2 : 4;
        batch->changes = reallocarray(batch->changes, batch->room, sizeof *batch->changes);
        assert(batch->changes); /* control memory is small; without it there is no deciding */
    }
    struct store_change *change = &batch->changes[batch->count++];
    *change = (struct store_change){.table = table, .revision = revision, .key = strdup(key)};
    assert(change->key);
    return change;
}

void store_batch_put(struct store_batch *batch, enum store_table table, const char *key,
                     uint64_t revision)
{
    (void)add_change(batch, table, key, revision);
}

void store_batch_delete(struct store_batch *batch, enum store_table table, const char *key,
                        uint64_t revision)
{
    add_change(batch, table, key, revision)->is_delete = true;
}

static struct store_cell *add_cell(struct store_batch *batch)
{
    assert(batch->count > 0);
    struct store_change *change = &batch->changes[batch->count - 1];
    assert(!change->is_delete && change->cell_count < store_tables[change->table].count);
    return &change->cells[change->cell_count++];
}

void store_batch_number(struct store_batch *batch, int64_t number)
{
    *add_cell(batch) = (struct store_cell){.type = STORE_NUMBER, .number = number};
}

void store_batch_text(struct store_batch *batch, const char *text)
{
    char *copy = strdup(text);
    assert(copy);
    *add_cell(batch) =
        (struct store_cell){.type = STORE_TEXT, .bytes = copy, .count = strlen(text)};
}

void store_batch_blob(struct store_batch *batch, const void *bytes, size_t count)
{
    char *copy = malloc(count + 1);
    assert(copy);
    if (count > 0)
        memcpy(copy, bytes, count);
    *add_cell(batch) = (struct store_cell){.type = STORE_BLOB, .bytes = copy, .count = count};
}

/* ---- opening and closing ----------------------------------------------------------------------
 */

static void renew(void *data);

int store_open_as(struct store **ret_store, const char *where, const char *who, struct loop *loop,
                  struct fault *fault)
{
    struct store *store = calloc(1, sizeof *store);
    if (!store)
        return fault_set(fault, ERR_NOMEM, "no memory for the store");
    store->driver = store_is_shared(where) ? &store_etcd : &store_sqlite;
    store->loop = loop;
    store->waiting_end = &store->waiting;
    store->finished_end = &store->finished;
    (void)pthread_mutex_init(&store->mutex, NULL);
    (void)pthread_cond_init(&store->idle, NULL);
    int r = store->driver->open(&store->self, where, who, fault);
    if (r < 0) {
        store->self = NULL;
        (void)store_close(store);
        return r;
    }
    *ret_store = store;
    return 0;
}

int store_open(struct store **ret_store, const char *where, struct loop *loop, struct fault *fault)
{
    return store_open_as(ret_store, where, "", loop, fault);
}

bool store_is_shared(const char *where)
{
    return etcd_is_named(where);
}

static struct store_batch *free_batches(struct store_batch *batch)
{
    while (batch) {
        struct store_batch *next = batch->next;
        (void)store_batch_free(batch);
        batch = next;
    }
    return NULL;
}

static void release(struct store *store)
{
    (void)pthread_mutex_destroy(&store->mutex);
    (void)pthread_cond_destroy(&store->idle);
    free(store);
}

struct store *store_close(struct store *store)
{
    if (!store)
        return NULL;
    store->renew_timer = loop_timer_free(store->renew_timer);
    (void)pthread_mutex_lock(&store->mutex);
    while (store->worker_runs || store->renewal_runs)
        (void)pthread_cond_wait(&store->idle, &store->mutex);
    store->waiting = free_batches(store->waiting);
    store->finished = free_batches(store->finished);
    (void)pthread_mutex_unlock(&store->mutex);
    if (store->self)
        store->driver->close(store->self);
    store->self = NULL;
    store->is_closed = true;
    if (store->works == 0)
        release(store);
    return NULL; /* else the last `done` of the loop releases it */
}

int store_load(struct store *store, enum store_table table,
               int (*row)(void *data, const char *key, uint64_t revision,
                          const struct store_cell *cells, struct fault *fault),
               void *data, struct fault *fault)
{
    return store->driver->load(store->self, table, row, data, fault);
}

int store_commit_now(struct store *store, const struct store_batch *batch, struct fault *fault)
{
    return store->driver->commit(store->self, batch, fault);
}

/* ---- keeping the right to write ---------------------------------------------------------------
 */

static void renew_work(void *data)
{
    struct store *store = data;
    (void)store->driver->renew(store->self, &store->renew_fault); /* travels to renew_done */
    (void)pthread_mutex_lock(&store->mutex);
    store->renewal_runs = false;
    (void)pthread_cond_broadcast(&store->idle);
    (void)pthread_mutex_unlock(&store->mutex);
}

static void work_over(struct store *store)
{
    assert(store->works > 0);
    store->works--;
    if (store->is_closed && store->works == 0)
        release(store);
}

static void renew_done(void *data)
{
    struct store *store = data;
    if (!store->is_closed && store->renew_fault.code && store->lost) {
        void (*lost)(void *data, const struct fault *fault) = TAKE(store->lost);
        loop_timer_stop(store->renew_timer);
        lost(store->lost_data, &store->renew_fault);
    }
    work_over(store);
}

static void renew(void *data)
{
    struct store *store = data;
    (void)pthread_mutex_lock(&store->mutex);
    bool start = !store->renewal_runs;
    store->renewal_runs = true;
    (void)pthread_mutex_unlock(&store->mutex);
    if (!start)
        return; /* it is at it still */
    int r = loop_work(store->loop, renew_work, renew_done, store);
    assert(r == 0); /* only without memory for a request */
    store->works++;
}

int store_watch_lost(struct store *store, void (*lost)(void *data, const struct fault *fault),
                     void *data, struct fault *fault)
{
    assert(store->loop && !store->renew_timer);
    if (!store->driver->renew)
        return 0;
    store->lost = lost;
    store->lost_data = data;
    int r = loop_timer_new(&store->renew_timer, store->loop, renew, store, fault);
    if (r == 0)
        loop_timer_start(store->renew_timer, 1, store->driver->renew_ms);
    return r;
}

/* ---- the worker -------------------------------------------------------------------------------
 */

static void work(void *data)
{
    struct store *store = data;
    (void)pthread_mutex_lock(&store->mutex);
    while (store->waiting) {
        struct store_batch *batch = store->waiting;
        store->waiting = batch->next;
        if (!store->waiting)
            store->waiting_end = &store->waiting;
        (void)pthread_mutex_unlock(&store->mutex);

        (void)store_commit_now(store, batch, &batch->fault); /* travels in the batch */

        (void)pthread_mutex_lock(&store->mutex);
        batch->next = NULL;
        *store->finished_end = batch;
        store->finished_end = &batch->next;
    }
    store->worker_runs = false;
    (void)pthread_cond_broadcast(&store->idle);
    (void)pthread_mutex_unlock(&store->mutex);
}

static struct store_batch *take_finished(struct store *store)
{
    (void)pthread_mutex_lock(&store->mutex);
    struct store_batch *batch = store->finished;
    if (batch) {
        store->finished = batch->next;
        if (!store->finished)
            store->finished_end = &store->finished;
    }
    (void)pthread_mutex_unlock(&store->mutex);
    return batch;
}

static void work_done(void *data)
{
    struct store *store = data;
    struct store_batch *batch;
    while (!store->is_closed && (batch = take_finished(store))) {
        batch->done(batch->data, batch->fault.code ? &batch->fault : NULL);
        (void)store_batch_free(batch);
    }
    work_over(store);
}

void store_commit(struct store *store, struct store_batch *batch,
                  void (*done)(void *data, const struct fault *fault), void *data)
{
    assert(store->loop && !store->is_closed);
    batch->done = done;
    batch->data = data;
    batch->next = NULL;
    (void)pthread_mutex_lock(&store->mutex);
    *store->waiting_end = batch;
    store->waiting_end = &batch->next;
    bool start = !store->worker_runs;
    store->worker_runs = true;
    (void)pthread_mutex_unlock(&store->mutex);
    if (!start)
        return;
    int r = loop_work(store->loop, work, work_done, store);
    assert(r == 0); /* only without memory for a request */
    store->works++;
}

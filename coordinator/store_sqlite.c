/* The embedded driver. One connection, used by one thread at a time: the loop hands batches over in
 * a list, at most one worker is on its way, and it drains the list one transaction after the other.
 * So transactions are durable in the order in which the cores decided them, and a decision that
 * rests on an earlier one can never be on disk without it.
 *
 * The file stays locked as long as we live (locking_mode EXCLUSIVE): two coordinators on one store
 * would each believe in their own memory. */
#include <assert.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/own.h"
#include "coordinator/store.h"

enum { SCHEMA_APPLICATION_ID = 0x47445754 /* "GDWT" */, SQL_TEXT_MAX = 2048 };

#define COLUMN_SQL(id, sql) sql,
static const char *const host_columns[] = {STORE_HOST_COLUMNS(COLUMN_SQL)};
static const char *const vm_columns[] = {STORE_VM_COLUMNS(COLUMN_SQL)};
static const char *const own_columns[] = {STORE_OWN_COLUMNS(COLUMN_SQL)};
static const char *const job_columns[] = {STORE_JOB_COLUMNS(COLUMN_SQL)};
static const char *const token_columns[] = {STORE_TOKEN_COLUMNS(COLUMN_SQL)};
static const char *const event_columns[] = {STORE_EVENT_COLUMNS(COLUMN_SQL)};

static const struct table {
    const char *name;
    const char *const *columns;
    size_t count;
} tables[STORE_TABLE_COUNT] = {
    [STORE_HOST] = {"host", host_columns, STORE_HOST_COLUMN_COUNT},
    [STORE_VM] = {"vm", vm_columns, STORE_VM_COLUMN_COUNT},
    [STORE_OWN] = {"own", own_columns, STORE_OWN_COLUMN_COUNT},
    [STORE_JOB] = {"job", job_columns, STORE_JOB_COLUMN_COUNT},
    [STORE_TOKEN] = {"token", token_columns, STORE_TOKEN_COLUMN_COUNT},
    [STORE_EVENT] = {"event", event_columns, STORE_EVENT_COLUMN_COUNT},
};
static_assert((int)STORE_JOB_COLUMN_COUNT <= (int)STORE_COLUMNS_MAX, "the widest table must fit");

struct change {
    enum store_table table;
    bool is_delete;
    char *key; /* owned */
    uint64_t revision;
    struct store_cell cells[STORE_COLUMNS_MAX]; /* bytes owned */
    size_t cell_count;
};

struct store_batch {
    struct change *changes;
    size_t count, room;
    /* while it waits for its turn */
    struct store_batch *next;
    void (*done)(void *data, const struct fault *fault);
    void *data;
    struct fault fault;
};

struct store {
    sqlite3 *db;
    struct loop *loop;
    char *path;
    /* under the mutex */
    pthread_mutex_t mutex;
    pthread_cond_t idle;
    struct store_batch *waiting, **waiting_end;
    struct store_batch *finished, **finished_end;
    bool worker_runs;
    bool is_closed; /* the loop's thread only */
    unsigned works; /* the loop's thread only: loop_work calls without their `done` */
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
        struct change *change = &batch->changes[i];
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

static struct change *add_change(struct store_batch *batch, enum store_table table, const char *key,
                                 uint64_t revision)
{
    if (batch->count == batch->room) {
        batch->room = batch->room ? batch->room * 2 : 4;
        batch->changes = reallocarray(batch->changes, batch->room, sizeof *batch->changes);
        assert(batch->changes); /* control memory is small; without it there is no deciding */
    }
    struct change *change = &batch->changes[batch->count++];
    *change = (struct change){.table = table, .revision = revision, .key = strdup(key)};
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
    struct change *change = &batch->changes[batch->count - 1];
    assert(!change->is_delete && change->cell_count < tables[change->table].count);
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

/* ---- SQLite -----------------------------------------------------------------------------------
 */

static int fail(const struct store *store, const char *doing, struct fault *fault)
{
    int code = sqlite3_errcode(store->db) & 0xff;
    int err = code == SQLITE_BUSY || code == SQLITE_LOCKED      ? ERR_BUSY
              : code == SQLITE_CORRUPT || code == SQLITE_NOTADB ? ERR_CORRUPT
              : code == SQLITE_NOMEM                            ? ERR_NOMEM
                                                                : ERR_IO;
    return fault_set(fault, err, "%s: %s: %s", store->path, doing, sqlite3_errmsg(store->db));
}

static int execute(struct store *store, const char *sql, struct fault *fault)
{
    if (sqlite3_exec(store->db, sql, NULL, NULL, NULL) != SQLITE_OK)
        return fail(store, sql, fault);
    return 0;
}

static int prepare(struct store *store, const char *sql, sqlite3_stmt **ret_statement,
                   struct fault *fault)
{
    if (sqlite3_prepare_v2(store->db, sql, -1, ret_statement, NULL) != SQLITE_OK)
        return fail(store, "preparing a statement", fault);
    return 0;
}

static void finalize_p(sqlite3_stmt **statement)
{
    (void)sqlite3_finalize(*statement); /* repeats the error of the step, which was looked at */
}

/* The first word of "gen INTEGER". */
static void append_column(char *sql, const char *column, const char *after)
{
    size_t used = strlen(sql);
    int length = (int)strcspn(column, " ");
    int n = snprintf(sql + used, SQL_TEXT_MAX - used, "%.*s%s", length, column, after);
    assert(n > 0 && (size_t)n < SQL_TEXT_MAX - used);
}

static void append(char *sql, const char *text)
{
    size_t used = strlen(sql);
    int n = snprintf(sql + used, SQL_TEXT_MAX - used, "%s", text);
    assert(n >= 0 && (size_t)n < SQL_TEXT_MAX - used);
}

static int bind(sqlite3_stmt *statement, int place, const struct store_cell *cell)
{
    switch (cell->type) {
    case STORE_NULL:
        return sqlite3_bind_null(statement, place);
    case STORE_NUMBER:
        return sqlite3_bind_int64(statement, place, cell->number);
    case STORE_TEXT:
        return sqlite3_bind_text(statement, place, cell->bytes, (int)cell->count, SQLITE_STATIC);
    case STORE_BLOB:
        return sqlite3_bind_blob(statement, place, cell->bytes, (int)cell->count, SQLITE_STATIC);
    }
    return SQLITE_MISUSE;
}

/* ?1 key, ?2 the revision it shall have, ?3 the one it must have, ?4... the cells. */
static void write_sql(const struct change *change, char *sql)
{
    const struct table *table = &tables[change->table];
    sql[0] = '\0';
    if (change->is_delete) {
        append(sql, "DELETE FROM ");
        append(sql, table->name);
        append(sql, " WHERE key = ?1 AND ?2 > 0 AND revision = ?3");
        return;
    }
    append(sql, change->revision ? "UPDATE " : "INSERT INTO ");
    append(sql, table->name);
    append(sql, change->revision ? " SET revision = ?2" : "(key, revision");
    for (size_t i = 0; i < table->count; i++) {
        char place[16];
        (void)snprintf(place, sizeof place, " = ?%zu", i + 4);
        append(sql, ", ");
        append_column(sql, table->columns[i], change->revision ? place : "");
    }
    if (change->revision) {
        append(sql, " WHERE key = ?1 AND revision = ?3");
        return;
    }
    append(sql, ") SELECT ?1, ?2");
    for (size_t i = 0; i < table->count; i++) {
        char place[16];
        (void)snprintf(place, sizeof place, ", ?%zu", i + 4);
        append(sql, place);
    }
    append(sql, " WHERE ?3 = 0");
}

static int apply_change(struct store *store, const struct change *change, struct fault *fault)
{
    char sql[SQL_TEXT_MAX];
    assert(change->is_delete || change->cell_count == tables[change->table].count);
    write_sql(change, sql);
    AUTO(finalize_p) sqlite3_stmt *statement = NULL;
    int r = prepare(store, sql, &statement, fault);
    if (r < 0)
        return r;
    int bound = sqlite3_bind_text(statement, 1, change->key, -1, SQLITE_STATIC);
    if (bound == SQLITE_OK)
        bound = sqlite3_bind_int64(statement, 2, (int64_t)change->revision + 1);
    if (bound == SQLITE_OK)
        bound = sqlite3_bind_int64(statement, 3, (int64_t)change->revision);
    for (size_t i = 0; bound == SQLITE_OK && i < change->cell_count; i++)
        bound = bind(statement, (int)i + 4, &change->cells[i]);
    if (bound != SQLITE_OK)
        return fail(store, "binding a value", fault);

    int stepped = sqlite3_step(statement);
    if (stepped == SQLITE_CONSTRAINT)
        return fault_set(fault, ERR_STATE, "%s: %s '%s' is there already: %s", store->path,
                         tables[change->table].name, change->key, sqlite3_errmsg(store->db));
    if (stepped != SQLITE_DONE)
        return fail(store, "changing a row", fault);
    if (sqlite3_changes(store->db) != 1)
        return fault_set(fault, ERR_STATE, "%s: %s '%s' is not at revision %llu any more",
                         store->path, tables[change->table].name, change->key,
                         (unsigned long long)change->revision);
    return 0;
}

int store_commit_now(struct store *store, const struct store_batch *batch, struct fault *fault)
{
    int r = execute(store, "BEGIN IMMEDIATE", fault);
    if (r < 0)
        return r;
    for (size_t i = 0; r == 0 && i < batch->count; i++)
        r = apply_change(store, &batch->changes[i], fault);
    if (r == 0)
        r = execute(store, "COMMIT", fault);
    if (r < 0)
        (void)sqlite3_exec(store->db, "ROLLBACK", NULL, NULL, NULL); /* r says why already */
    return r;
}

static int read_number(struct store *store, const char *sql, int64_t *ret_number,
                       struct fault *fault)
{
    AUTO(finalize_p) sqlite3_stmt *statement = NULL;
    int r = prepare(store, sql, &statement, fault);
    if (r < 0)
        return r;
    if (sqlite3_step(statement) != SQLITE_ROW)
        return fail(store, sql, fault);
    *ret_number = sqlite3_column_int64(statement, 0);
    return 0;
}

static int check_integrity(struct store *store, struct fault *fault)
{
    AUTO(finalize_p) sqlite3_stmt *statement = NULL;
    int r = prepare(store, "PRAGMA integrity_check(1)", &statement, fault);
    if (r < 0)
        return r;
    if (sqlite3_step(statement) != SQLITE_ROW)
        return fail(store, "checking the file", fault);
    const char *word = (const char *)sqlite3_column_text(statement, 0);
    if (!word || strcmp(word, "ok") != 0)
        return fault_set(fault, ERR_CORRUPT, "%s is damaged: %s", store->path,
                         word ? word : "no reason was given");
    return 0;
}

static int make_tables(struct store *store, struct fault *fault)
{
    int r = execute(store, "BEGIN IMMEDIATE", fault);
    for (size_t t = 0; r == 0 && t < STORE_TABLE_COUNT; t++) {
        char sql[SQL_TEXT_MAX] = "CREATE TABLE ";
        append(sql, tables[t].name);
        append(sql, "(key TEXT PRIMARY KEY NOT NULL, revision INTEGER NOT NULL");
        for (size_t i = 0; i < tables[t].count; i++) {
            append(sql, ", ");
            append(sql, tables[t].columns[i]);
        }
        append(sql, ") STRICT");
        r = execute(store, sql, fault);
    }
    char sql[128];
    (void)snprintf(sql, sizeof sql, "PRAGMA application_id = %d; PRAGMA user_version = %d",
                   SCHEMA_APPLICATION_ID, STORE_SCHEMA_VERSION);
    if (r == 0)
        r = execute(store, sql, fault);
    return r == 0 ? execute(store, "COMMIT", fault) : r;
}

static int check_schema(struct store *store, struct fault *fault)
{
    int64_t version = 0, application = 0, objects = 0;
    int r = read_number(store, "PRAGMA user_version", &version, fault);
    if (r == 0)
        r = read_number(store, "PRAGMA application_id", &application, fault);
    if (r == 0)
        r = read_number(store, "SELECT count(*) FROM sqlite_schema", &objects, fault);
    if (r < 0)
        return r;
    if (objects == 0 && version == 0)
        return make_tables(store, fault);
    if (application != SCHEMA_APPLICATION_ID)
        return fault_set(fault, ERR_CORRUPT, "%s is a database, but not one of godwit",
                         store->path);
    if (version > STORE_SCHEMA_VERSION)
        return fault_set(fault, ERR_UNSUPPORTED,
                         "%s was written by a newer version (schema %lld, this one knows %d)",
                         store->path, (long long)version, STORE_SCHEMA_VERSION);
    return 0;
}

static int open_file(struct store *store, struct fault *fault)
{
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_FULLMUTEX;
    if (sqlite3_open_v2(store->path, &store->db, flags, NULL) != SQLITE_OK) {
        if (!store->db)
            return fault_set(fault, ERR_NOMEM, "no memory to open %s", store->path);
        return fail(store, "opening", fault);
    }
    (void)sqlite3_extended_result_codes(store->db, 0);
    /* The order matters: exclusive before WAL, so that no shared-memory file is used. */
    static const char *const settings[] = {
        "PRAGMA locking_mode = EXCLUSIVE", "PRAGMA journal_mode = WAL",
        "PRAGMA synchronous = FULL",       "PRAGMA foreign_keys = ON",
        "PRAGMA trusted_schema = OFF",     "PRAGMA cell_size_check = ON",
    };
    for (size_t i = 0; i < ARRAY_COUNT(settings); i++) {
        int r = execute(store, settings[i], fault);
        if (r < 0)
            return r;
    }
    int r = check_integrity(store, fault);
    if (r == 0)
        r = check_schema(store, fault);
    char sql[160];
    (void)snprintf(sql, sizeof sql,
                   "DELETE FROM event WHERE key NOT IN "
                   "(SELECT key FROM event ORDER BY key DESC LIMIT %d)",
                   STORE_EVENTS_KEPT);
    return r == 0 ? execute(store, sql, fault) : r; /* takes the lock, too */
}

int store_open(struct store **ret_store, const char *path, struct loop *loop, struct fault *fault)
{
    struct store *store = calloc(1, sizeof *store);
    if (!store)
        return fault_set(fault, ERR_NOMEM, "no memory for the store");
    store->loop = loop;
    store->waiting_end = &store->waiting;
    store->finished_end = &store->finished;
    (void)pthread_mutex_init(&store->mutex, NULL);
    (void)pthread_cond_init(&store->idle, NULL);
    store->path = strdup(path);
    int r = store->path ? open_file(store, fault)
                        : fault_set(fault, ERR_NOMEM, "no memory for the store");
    if (r < 0) {
        (void)store_close(store);
        return r;
    }
    *ret_store = store;
    return 0;
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
    free(store->path);
    free(store);
}

struct store *store_close(struct store *store)
{
    if (!store)
        return NULL;
    (void)pthread_mutex_lock(&store->mutex);
    while (store->worker_runs)
        (void)pthread_cond_wait(&store->idle, &store->mutex);
    store->waiting = free_batches(store->waiting);
    store->finished = free_batches(store->finished);
    (void)pthread_mutex_unlock(&store->mutex);
    int closed = sqlite3_close(store->db);
    assert(closed == SQLITE_OK); /* no statement outlives its function */
    store->db = NULL;
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
    char sql[SQL_TEXT_MAX] = "SELECT key, revision";
    for (size_t i = 0; i < tables[table].count; i++) {
        append(sql, ", ");
        append_column(sql, tables[table].columns[i], "");
    }
    append(sql, " FROM ");
    append(sql, tables[table].name);
    append(sql, " ORDER BY key");
    AUTO(finalize_p) sqlite3_stmt *statement = NULL;
    int r = prepare(store, sql, &statement, fault);
    if (r < 0)
        return r;

    int stepped;
    while ((stepped = sqlite3_step(statement)) == SQLITE_ROW) {
        struct store_cell cells[STORE_COLUMNS_MAX] = {0};
        for (size_t i = 0; i < tables[table].count; i++) {
            int column = (int)i + 2, type = sqlite3_column_type(statement, column);
            struct store_cell *cell = &cells[i];
            cell->type = type == SQLITE_INTEGER ? STORE_NUMBER
                         : type == SQLITE_TEXT  ? STORE_TEXT
                         : type == SQLITE_BLOB  ? STORE_BLOB
                                                : STORE_NULL;
            cell->number = type == SQLITE_INTEGER ? sqlite3_column_int64(statement, column) : 0;
            if (type == SQLITE_TEXT)
                cell->bytes = (const char *)sqlite3_column_text(statement, column);
            else if (type == SQLITE_BLOB)
                cell->bytes = sqlite3_column_blob(statement, column);
            cell->count = (size_t)sqlite3_column_bytes(statement, column);
            if (!cell->bytes) { /* readers of a text need not look whether there is one */
                cell->bytes = "";
                cell->count = 0;
            }
        }
        r = row(data, (const char *)sqlite3_column_text(statement, 0),
                (uint64_t)sqlite3_column_int64(statement, 1), cells, fault);
        if (r < 0)
            return r;
    }
    return stepped == SQLITE_DONE ? 0 : fail(store, "reading rows", fault);
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
    assert(store->works > 0);
    while (!store->is_closed && (batch = take_finished(store))) {
        batch->done(batch->data, batch->fault.code ? &batch->fault : NULL);
        (void)store_batch_free(batch);
    }
    store->works--;
    if (store->is_closed && store->works == 0)
        release(store);
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

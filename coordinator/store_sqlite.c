/* The embedded driver: one connection, used by one thread at a time.
 *
 * The file stays locked as long as we live (locking_mode EXCLUSIVE): two coordinators on one store
 * would each believe in their own memory. */
#include <assert.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/own.h"
#include "coordinator/store_driver.h"

enum { SCHEMA_APPLICATION_ID = 0x47445754 /* "GDWT" */, SQL_TEXT_MAX = 2048 };

struct sqlite {
    sqlite3 *db;
    char *path;
};

static int fail(const struct sqlite *store, const char *doing, struct fault *fault)
{
    int code = sqlite3_errcode(store->db) & 0xff;
    int err = code == SQLITE_BUSY || code == SQLITE_LOCKED      ? ERR_BUSY
              : code == SQLITE_CORRUPT || code == SQLITE_NOTADB ? ERR_CORRUPT
              : code == SQLITE_NOMEM                            ? ERR_NOMEM
                                                                : ERR_IO;
    return fault_set(fault, err, "%s: %s: %s", store->path, doing, sqlite3_errmsg(store->db));
}

static int execute(struct sqlite *store, const char *sql, struct fault *fault)
{
    if (sqlite3_exec(store->db, sql, NULL, NULL, NULL) != SQLITE_OK)
        return fail(store, sql, fault);
    return 0;
}

static int prepare(struct sqlite *store, const char *sql, sqlite3_stmt **ret_statement,
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
static void write_sql(const struct store_change *change, char *sql)
{
    const struct store_table_row *table = &store_tables[change->table];
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

static int apply_change(struct sqlite *store, const struct store_change *change,
                        struct fault *fault)
{
    char sql[SQL_TEXT_MAX];
    assert(change->is_delete || change->cell_count == store_tables[change->table].count);
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
                         store_tables[change->table].name, change->key, sqlite3_errmsg(store->db));
    if (stepped != SQLITE_DONE)
        return fail(store, "changing a row", fault);
    if (sqlite3_changes(store->db) != 1)
        return fault_set(fault, ERR_STATE, "%s: %s '%s' is not at revision %llu any more",
                         store->path, store_tables[change->table].name, change->key,
                         (unsigned long long)change->revision);
    return 0;
}

static int commit(void *self, const struct store_batch *batch, struct fault *fault)
{
    struct sqlite *store = self;
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

static int read_number(struct sqlite *store, const char *sql, int64_t *ret_number,
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

static int check_integrity(struct sqlite *store, struct fault *fault)
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

struct column_search {
    const char *column;
    bool found;
};

static int on_column(void *data, int count, char **values, char **names)
{
    struct column_search *search = data;
    (void)count;
    (void)names;
    size_t length = strcspn(search->column, " ");
    if (strlen(values[1]) == length && strncmp(values[1], search->column, length) == 0)
        search->found = true;
    return 0;
}

static void create_sql(const struct store_table_row *table, char *sql)
{
    sql[0] = '\0';
    append(sql, "CREATE TABLE IF NOT EXISTS ");
    append(sql, table->name);
    append(sql, "(key TEXT PRIMARY KEY NOT NULL, revision INTEGER NOT NULL");
    for (size_t i = 0; i < table->count; i++) {
        append(sql, ", ");
        append(sql, table->columns[i]);
    }
    append(sql, ") STRICT");
}

/* Tables and columns that came after a file was made are added when it is opened; a reader finds
 * NULL in their cells and takes that for 0 or "". */
static int add_missing(struct sqlite *store, const struct store_table_row *table,
                       struct fault *fault)
{
    char sql[SQL_TEXT_MAX];
    create_sql(table, sql);
    int r = execute(store, sql, fault);
    for (size_t i = 0; r == 0 && i < table->count; i++) {
        struct column_search search = {.column = table->columns[i]};
        (void)snprintf(sql, sizeof sql, "PRAGMA table_info(%s)", table->name);
        if (sqlite3_exec(store->db, sql, on_column, &search, NULL) != SQLITE_OK)
            return fail(store, sql, fault);
        if (search.found)
            continue;
        (void)snprintf(sql, sizeof sql, "ALTER TABLE %s ADD COLUMN %s", table->name,
                       table->columns[i]);
        r = execute(store, sql, fault);
    }
    return r;
}

static int make_tables(struct sqlite *store, struct fault *fault)
{
    int r = execute(store, "BEGIN IMMEDIATE", fault);
    for (size_t t = 0; r == 0 && t < STORE_TABLE_COUNT; t++)
        r = add_missing(store, &store_tables[t], fault);
    char sql[128];
    (void)snprintf(sql, sizeof sql, "PRAGMA application_id = %d; PRAGMA user_version = %d",
                   SCHEMA_APPLICATION_ID, STORE_SCHEMA_VERSION);
    if (r == 0)
        r = execute(store, sql, fault);
    return r == 0 ? execute(store, "COMMIT", fault) : r;
}

static int check_schema(struct sqlite *store, struct fault *fault)
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
    return make_tables(store, fault);
}

static int open_file(struct sqlite *store, struct fault *fault)
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

static void sqlite_close(void *self)
{
    struct sqlite *store = self;
    int closed = sqlite3_close(store->db);
    assert(closed == SQLITE_OK); /* no statement outlives its function */
    free(store->path);
    free(store);
}

static int sqlite_open(void **ret_self, const char *where, const char *who, struct fault *fault)
{
    (void)who; /* the file's lock does not tell */
    struct sqlite *store = calloc(1, sizeof *store);
    if (!store)
        return fault_set(fault, ERR_NOMEM, "no memory for the store");
    store->path = strdup(where);
    int r = store->path ? open_file(store, fault)
                        : fault_set(fault, ERR_NOMEM, "no memory for the store");
    if (r < 0) {
        sqlite_close(store);
        return r;
    }
    *ret_self = store;
    return 0;
}

static int load(void *self, enum store_table table, store_row_fn *row, void *data,
                struct fault *fault)
{
    struct sqlite *store = self;
    char sql[SQL_TEXT_MAX] = "SELECT key, revision";
    for (size_t i = 0; i < store_tables[table].count; i++) {
        append(sql, ", ");
        append_column(sql, store_tables[table].columns[i], "");
    }
    append(sql, " FROM ");
    append(sql, store_tables[table].name);
    append(sql, " ORDER BY key");
    AUTO(finalize_p) sqlite3_stmt *statement = NULL;
    int r = prepare(store, sql, &statement, fault);
    if (r < 0)
        return r;

    int stepped;
    while ((stepped = sqlite3_step(statement)) == SQLITE_ROW) {
        struct store_cell cells[STORE_COLUMNS_MAX] = {0};
        for (size_t i = 0; i < store_tables[table].count; i++) {
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

const struct store_driver store_sqlite = {
    .open = sqlite_open, .close = sqlite_close, .load = load, .commit = commit};

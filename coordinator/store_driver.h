/* What stands behind the store: SQLite in a file, or etcd on several hosts.
 *
 * Flow:   store -> [store_driver] -> store_sqlite, store_etcd
 * Thread: load and commit on one thread at a time; renew on another, beside a commit.
 */
#ifndef GODWIT_COORDINATOR_STORE_DRIVER_H
#define GODWIT_COORDINATOR_STORE_DRIVER_H

#include "base/err.h"
#include "coordinator/store.h"

struct store_table_row {
    const char *name;
    const char *const *columns; /* as SQL: "gen INTEGER" */
    size_t count;
};
extern const struct store_table_row store_tables[STORE_TABLE_COUNT];

struct store_change {
    enum store_table table;
    bool is_delete;
    char *key; /* owned */
    uint64_t revision;
    struct store_cell cells[STORE_COLUMNS_MAX]; /* bytes owned */
    size_t cell_count;
};

struct store_batch {
    struct store_change *changes;
    size_t count, room;
    /* while it waits for its turn */
    struct store_batch *next;
    void (*done)(void *data, const struct fault *fault);
    void *data;
    struct fault fault;
};

typedef int store_row_fn(void *data, const char *key, uint64_t revision,
                         const struct store_cell *cells, struct fault *fault);

struct store_driver {
    /* `who`: what a second opener shall be told; ERR_BUSY when there is a first one already. */
    int (*open)(void **ret_self, const char *where, const char *who, struct fault *fault);
    void (*close)(void *self);
    int (*load)(void *self, enum store_table table, store_row_fn *row, void *data,
                struct fault *fault);
    int (*commit)(void *self, const struct store_batch *batch, struct fault *fault);
    /* Keep the right to write; a failure means that it is gone. NULL: nobody can take it. */
    int (*renew)(void *self, struct fault *fault);
    unsigned renew_ms;
};

extern const struct store_driver store_sqlite;
extern const struct store_driver store_etcd;

#endif

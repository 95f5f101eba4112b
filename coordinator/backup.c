#include "coordinator/backup.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/config.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/own.h"
#include "coordinator/own.h"
#include "coordinator/rows.h"
#include "coordinator/store_driver.h"
#include "proto/backup.pb-c.h"
#include "proto/limits.h"

enum { TRIES_MAX = 100 };

/* ---- taking one -------------------------------------------------------------------------------
 */

struct taking { /* the message being filled; freed as one */
    Godwit__BackupTable *table;
    size_t room;
    uint32_t rows;
};

static void set_bytes(ProtobufCBinaryData *bytes, const struct store_cell *cell)
{
    bytes->len = cell->count;
    bytes->data = malloc(cell->count + 1);
    assert(bytes->data); /* control memory is small; without it there is no copy */
    memcpy(bytes->data, cell->bytes, cell->count);
}

static Godwit__StoreCell *copy_cell(const struct store_cell *from)
{
    Godwit__StoreCell *cell = malloc(sizeof *cell);
    assert(cell);
    godwit__store_cell__init(cell);
    cell->has_number = from->type == STORE_NUMBER;
    cell->number = from->number;
    cell->has_text = from->type == STORE_TEXT;
    cell->has_blob = from->type == STORE_BLOB;
    if (cell->has_text)
        set_bytes(&cell->text, from);
    else if (cell->has_blob)
        set_bytes(&cell->blob, from);
    return cell;
}

static int take_row(void *data, const char *key, uint64_t revision, const struct store_cell *cells,
                    struct fault *fault)
{
    struct taking *taking = data;
    Godwit__BackupTable *table = taking->table;
    size_t columns = 0;
    (void)revision;
    (void)fault;
    for (size_t t = 0; t < STORE_TABLE_COUNT; t++)
        columns = strcmp(store_tables[t].name, table->name) == 0 ? store_tables[t].count : columns;
    if (table->n_rows == taking->room) {
        taking->room = taking->room ? taking->room * 2 : 64;
        table->rows = reallocarray(table->rows, taking->room, sizeof *table->rows);
        assert(table->rows);
    }
    Godwit__BackupRow *row = malloc(sizeof *row);
    assert(row);
    godwit__backup_row__init(row);
    row->key = strdup(key);
    row->row = malloc(sizeof *row->row);
    assert(row->key && row->row);
    godwit__store_row__init(row->row);
    row->row->cells = calloc(columns + 1, sizeof *row->row->cells);
    assert(row->row->cells);
    for (size_t i = 0; i < columns; i++)
        row->row->cells[row->row->n_cells++] = copy_cell(&cells[i]);
    table->rows[table->n_rows++] = row;
    taking->rows++;
    return 0;
}

static int take_all(struct coordinator *coordinator, Godwit__PoolBackup *backup, uint32_t *ret_rows,
                    struct fault *fault)
{
    backup->tables = calloc(STORE_TABLE_COUNT, sizeof *backup->tables);
    assert(backup->tables);
    for (enum store_table t = 0; t < STORE_TABLE_COUNT; t++) {
        Godwit__BackupTable *table = malloc(sizeof *table);
        assert(table);
        godwit__backup_table__init(table);
        table->name = strdup(store_tables[t].name);
        assert(table->name);
        backup->tables[backup->n_tables++] = table;
        struct taking taking = {.table = table};
        int r = store_load(coordinator->store, t, take_row, &taking, fault);
        if (r < 0)
            return r;
        *ret_rows += taking.rows;
    }
    return 0;
}

struct waiting {
    struct coordinator *coordinator;
    struct rpc_request *request;
    unsigned tries;
};

static void give(struct waiting *waiting)
{
    struct coordinator *coordinator = waiting->coordinator;
    Godwit__PoolBackup *backup = malloc(sizeof *backup);
    Godwit__BackupReply reply = GODWIT__BACKUP_REPLY__INIT;
    struct fault fault = {0};
    char hash[PKI_PIN_SIZE];
    assert(backup);
    godwit__pool_backup__init(backup);
    backup->has_version = backup->has_unix_ms = true;
    backup->version = STORE_SCHEMA_VERSION;
    backup->unix_ms = coordinator_now().unix_ms;
    backup->pool_id = strdup(coordinator->pool_id);
    int r = take_all(coordinator, backup, &reply.rows, &fault);
    size_t count = godwit__pool_backup__get_packed_size(backup);
    AUTO_FREE uint8_t *bytes = malloc(count + 1);
    assert(bytes);
    (void)godwit__pool_backup__pack(backup, bytes);
    godwit__pool_backup__free_unpacked(backup, NULL);
    if (r == 0 && count + 256 > RPC_BODY_MAX)
        r = fault_set(&fault, ERR_LIMIT, "the pool's state has %zu bytes, a reply takes %d", count,
                      RPC_BODY_MAX);
    if (r < 0) {
        (void)rpc_reply_fault(waiting->request, &fault);
        return;
    }
    pki_sha256_hex(bytes, count, hash);
    reply.has_backup = reply.has_rows = true;
    reply.backup = (ProtobufCBinaryData){.data = bytes, .len = count};
    reply.sha256 = hash;
    (void)rpc_reply(waiting->request, &reply.base);
}

/* The store is read when no worker writes to it: then what is read is one state. */
static void on_turn(void *data)
{
    struct waiting *waiting = data;
    struct fault fault = {0};
    if (waiting->coordinator->commits == 0) {
        give(waiting);
        free(waiting);
        return;
    }
    struct cluster_todo todo = {0};
    if (++waiting->tries > TRIES_MAX) {
        fault_set(&fault, ERR_BUSY, "the pool's state is changing all the time; try again");
        (void)rpc_reply_fault(waiting->request, &fault);
        free(waiting);
        return;
    }
    coordinator_apply(waiting->coordinator, &todo, NULL, on_turn, waiting);
}

void backup_request(struct peer *peer, struct rpc_request *request, const void *message)
{
    struct waiting *waiting = calloc(1, sizeof *waiting);
    (void)message;
    assert(waiting);
    waiting->coordinator = peer->coordinator;
    waiting->request = request;
    on_turn(waiting);
}

/* ---- putting one back -------------------------------------------------------------------------
 */

/* Bytes of a message have no end but their count. */
static bool says(const Godwit__StoreRow *row, size_t column, const char *word)
{
    const Godwit__StoreCell *cell = row->n_cells > column ? row->cells[column] : NULL;
    return cell && cell->has_text && cell->text.len == strlen(word) &&
           memcmp(cell->text.data, word, cell->text.len) == 0;
}

static void put_cell(struct store_batch *batch, const Godwit__StoreCell *cell)
{
    AUTO_FREE char *text = NULL;
    if (cell && cell->has_number) {
        store_batch_number(batch, cell->number);
    } else if (cell && cell->has_blob) {
        store_batch_blob(batch, cell->blob.data, cell->blob.len);
    } else {
        bool has_bytes = cell && cell->has_text && cell->text.len > 0;
        text = strndup(has_bytes ? (const char *)cell->text.data : "",
                       has_bytes ? cell->text.len : 0);
        assert(text);
        store_batch_text(batch, text);
    }
}

/* A number that no pool can have reached stays what it is; the row is then refused when it is read.
 */
static int64_t generation_ahead(int64_t seen)
{
    int64_t ahead = (int64_t)BACKUP_GENERATIONS_AHEAD;
    return seen <= INT64_MAX - ahead ? seen + ahead : seen;
}

/* What a record may still say: which generations are used up. Who runs is for the hosts to tell. */
static void put_record_cell(struct store_batch *batch, const Godwit__StoreRow *row, size_t column)
{
    const Godwit__StoreCell *cell = row->n_cells > column ? row->cells[column] : NULL;
    switch (column) {
    case STORE_OWN_HIWATER:
        store_batch_number(batch, generation_ahead(cell ? cell->number : 0));
        break;
    case STORE_OWN_PHASE:
        store_batch_text(batch, own_phase_name(OWN_STOPPED));
        break;
    case STORE_OWN_WANT: /* a stop or a removal that was wanted once is no order of now */
        store_batch_number(batch, WANT_RUNNING);
        break;
    case STORE_OWN_TARGET:
    case STORE_OWN_MOVE:
        store_batch_text(batch, "");
        break;
    default:
        put_cell(batch, cell);
    }
}

static void put_row(struct store_batch *batch, enum store_table table, const Godwit__BackupRow *row)
{
    store_batch_put(batch, table, row->key, 0);
    for (size_t i = 0; i < store_tables[table].count; i++) {
        if (table == STORE_OWN)
            put_record_cell(batch, row->row, i);
        else
            put_cell(batch, row->row->n_cells > i ? row->row->cells[i] : NULL);
    }
}

static bool is_kept(enum store_table table, const Godwit__BackupRow *row)
{
    if (table == STORE_TOKEN)
        return false; /* one that was used since would be good again */
    if (table == STORE_PEER)
        return says(row->row, STORE_PEER_STEP, "peer"); /* nor an invitation */
    if (table == STORE_SETTING)
        return strcmp(row->key, rows_setting_name(SETTING_RESTORED)) != 0;
    return table != STORE_JOB || says(row->row, STORE_JOB_STEP, "ended");
}

static int judge_backup(const Godwit__PoolBackup *backup, const char *pool_id, struct fault *fault)
{
    if (!backup || !backup->pool_id)
        return fault_set(fault, ERR_CORRUPT, "this is no backup of a pool");
    if (strcmp(backup->pool_id, pool_id) != 0)
        return fault_set(fault, ERR_INVALID, "the backup is of pool %.40s, this is pool %.40s",
                         backup->pool_id, pool_id);
    if (backup->version > STORE_SCHEMA_VERSION)
        return fault_set(fault, ERR_UNSUPPORTED, "the backup is of a newer version (schema %u)",
                         backup->version);
    for (size_t t = 0; t < backup->n_tables; t++) {
        for (size_t i = 0; i < backup->tables[t]->n_rows; i++) {
            const Godwit__BackupRow *row = backup->tables[t]->rows[i];
            if (!row->key || !row->row || strlen(row->key) > 200)
                return fault_set(fault, ERR_CORRUPT, "the backup has a row that is none");
        }
    }
    return 0;
}

static int put_all(struct store *store, const Godwit__PoolBackup *backup, struct fault *fault)
{
    struct store_batch *batch = NULL;
    char since[24];
    int r = store_batch_new(&batch, fault);
    if (r < 0)
        return r;
    for (size_t t = 0; t < backup->n_tables; t++) {
        const Godwit__BackupTable *table = backup->tables[t];
        for (enum store_table known = 0; known < STORE_TABLE_COUNT; known++) {
            if (!table->name || strcmp(store_tables[known].name, table->name) != 0)
                continue;
            for (size_t i = 0; i < table->n_rows; i++) {
                if (is_kept(known, table->rows[i]))
                    put_row(batch, known, table->rows[i]);
            }
        }
    }
    (void)snprintf(since, sizeof since, "%llu", (unsigned long long)backup->unix_ms);
    store_batch_put(batch, STORE_SETTING, rows_setting_name(SETTING_RESTORED), 0);
    store_batch_text(batch, since);
    r = store_commit_now(store, batch, fault);
    (void)store_batch_free(batch);
    return r;
}

static int on_any(void *data, const char *key, uint64_t revision, const struct store_cell *cells,
                  struct fault *fault)
{
    (void)key;
    (void)revision;
    (void)cells;
    (void)fault;
    *(bool *)data = true;
    return 0;
}

int backup_put(struct store *store, const uint8_t *bytes, size_t count, const char *pool_id,
               struct fault *fault)
{
    Godwit__PoolBackup *backup = godwit__pool_backup__unpack(NULL, count, bytes);
    int r = judge_backup(backup, pool_id, fault);
    if (r == 0)
        r = put_all(store, backup, fault);
    if (backup)
        godwit__pool_backup__free_unpacked(backup, NULL);
    return r;
}

int backup_restore(struct store *store, const char *path, const char *pool_id, struct fault *fault)
{
    AUTO_FREE char *bytes = NULL;
    size_t count = 0;
    bool has_rows = false;
    char hash[PKI_PIN_SIZE];
    int r = store_load(store, STORE_HOST, on_any, &has_rows, fault);
    if (r == 0 && has_rows)
        r = fault_set(fault, ERR_EXISTS, "there is a state already; nothing was changed");
    if (r == 0)
        r = file_read(path, &bytes, &count, fault);
    if (r < 0)
        return r;
    /* A line with the hash of the rest. */
    if (count < PKI_PIN_SIZE || bytes[PKI_PIN_SIZE - 1] != '\n')
        return fault_set(fault, ERR_CORRUPT, "%s is no backup of a pool", path);
    pki_sha256_hex(bytes + PKI_PIN_SIZE, count - PKI_PIN_SIZE, hash);
    if (memcmp(bytes, hash, PKI_PIN_SIZE - 1) != 0)
        return fault_set(fault, ERR_CORRUPT, "%s is damaged: its hash is not what it says", path);
    return backup_put(store, (const uint8_t *)bytes + PKI_PIN_SIZE, count - PKI_PIN_SIZE, pool_id,
                      fault);
}

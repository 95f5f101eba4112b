/* The pool's state on disk: rows by key, changed by transactions that compare revisions.
 *
 * Flow:   coordinator -> [store] -> store_driver -> SQLite or etcd
 * Thread: load and commit_now on any one thread; with a loop, commit on the loop's: transactions
 * run on a worker in the order they were handed in, and `done` comes back on the loop.
 *
 * What a row holds is columns of the schema below, in that order. A change names the revision that
 * it expects (0: no such row yet); when one of them is not met nothing of its batch happens and the
 * answer is ERR_STATE. What is committed has been fsynced.
 */
#ifndef GODWIT_COORDINATOR_STORE_H
#define GODWIT_COORDINATOR_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct fault;
struct loop;
struct store;
struct store_batch;

enum store_table {
    STORE_HOST,
    STORE_VM,
    STORE_OWN,
    STORE_JOB,
    STORE_TOKEN,
    STORE_EVENT,
    STORE_RULE,
    STORE_PLAN,
    STORE_FENCE,   /* a host's: how it is fenced, and whether it has been */
    STORE_SETTING, /* of the pool, by name */
    STORE_AUDIT,
    STORE_DISKS, /* a store of disks, by name */
    STORE_IMAGE,
    STORE_DISK_MOVE,
    STORE_SNAPSHOT, /* by id: what its host told of it */
    STORE_DR,       /* a VM's protection by a replica, by the VM's id */
    STORE_PEER,     /* another pool, or an invitation for one, by the token's id */
    STORE_TABLE_COUNT
};

enum { STORE_COLUMNS_MAX = 24, STORE_EVENTS_KEPT = 10000, STORE_SCHEMA_VERSION = 1 };

/* The columns beside key and revision; the order is that of the cells. Append only: a change of
 * this list is a new STORE_SCHEMA_VERSION with a converter. */
#define STORE_HOST_COLUMNS(X) X(SEEN, "seen_unix_ms INTEGER") X(FACTS, "facts BLOB") X(POLICY, "policy BLOB")
#define STORE_VM_COLUMNS(X) X(NAME, "name TEXT UNIQUE") X(SPEC, "spec BLOB")
#define STORE_OWN_COLUMNS(X)                                                                       \
    X(GEN, "gen INTEGER")                                                                          \
    X(HIWATER, "hiwater INTEGER") X(PHASE, "phase TEXT") X(OWNER, "owner TEXT")                    \
        X(INCARNATION, "incarnation TEXT") X(TARGET, "target TEXT") X(MOVE, "move_id TEXT")        \
            X(WANT, "want INTEGER") X(CRASHED, "crashed INTEGER") X(REASON, "reason TEXT")           \
                X(SUSPENDED, "suspended TEXT") X(RESTORING, "restoring TEXT")                      \
                    X(FOUND_GEN, "found_gen INTEGER")
#define STORE_JOB_COLUMNS(X)                                                                       \
    X(VM, "vm_id TEXT")                                                                            \
    X(STATE, "state TEXT") X(STEP, "step TEXT") X(MOVE, "move_id TEXT") X(SOURCE, "source TEXT")   \
        X(TARGET, "target TEXT") X(SOURCE_GEN, "source_gen INTEGER") X(GEN, "gen INTEGER")         \
            X(RESUME_GEN, "resume_gen INTEGER") X(OUT_SENT, "out_sent INTEGER")                    \
                X(CANCEL, "cancel INTEGER") X(SOURCE_LATCH, "source_latch INTEGER")                \
                    X(TARGET_LATCH, "target_latch INTEGER") X(SOURCE_GONE, "source_gone INTEGER")  \
                        X(TARGET_GONE, "target_gone INTEGER") X(CODE, "code INTEGER")              \
                            X(ERROR, "error TEXT") X(INFO, "info BLOB")
#define STORE_TOKEN_COLUMNS(X)                                                                     \
    X(HASH, "hash TEXT")                                                                           \
    X(HOST, "host TEXT") X(EXPIRES, "expires_unix_ms INTEGER") X(USED, "used_unix_ms INTEGER")     \
        X(USED_BY, "used_by TEXT")
#define STORE_EVENT_COLUMNS(X) X(TIME, "unix_ms INTEGER") X(VM, "vm_id TEXT") X(TEXT, "text TEXT")

#define STORE_RULE_COLUMNS(X) X(RULE, "rule BLOB")
#define STORE_PLAN_COLUMNS(X) X(STATE, "state TEXT") X(INFO, "info BLOB")
#define STORE_FENCE_COLUMNS(X)                                                                     \
    X(AGENT, "agent TEXT")                                                                         \
    X(OPTIONS, "options TEXT") X(PHASE, "phase TEXT") X(INCARNATION, "incarnation TEXT")           \
        X(CLASS, "class TEXT")
#define STORE_SETTING_COLUMNS(X) X(VALUE, "value TEXT")
#define STORE_DISKS_COLUMNS(X) X(INFO, "info BLOB")
#define STORE_DISK_MOVE_COLUMNS(X) X(INFO, "info BLOB")
#define STORE_AUDIT_COLUMNS(X)                                                                     \
    X(TIME, "unix_ms INTEGER")                                                                     \
    X(WHO, "who TEXT") X(WHAT, "what TEXT") X(SUBJECT, "subject TEXT") X(OUTCOME, "outcome TEXT")  \
        X(BEGINS, "begins INTEGER") X(HASH, "hash TEXT")

#define STORE_IMAGE_COLUMNS(X) X(INFO, "info BLOB")
#define STORE_SNAPSHOT_COLUMNS(X) X(INFO, "info BLOB")
#define STORE_DR_COLUMNS(X) X(INFO, "info BLOB")
#define STORE_PEER_COLUMNS(X) X(STEP, "step TEXT") X(INFO, "info BLOB")

#define STORE_COLUMN_ENUM_HOST(id, sql) STORE_HOST_##id,
#define STORE_COLUMN_ENUM_VM(id, sql) STORE_VM_##id,
#define STORE_COLUMN_ENUM_OWN(id, sql) STORE_OWN_##id,
#define STORE_COLUMN_ENUM_JOB(id, sql) STORE_JOB_##id,
#define STORE_COLUMN_ENUM_TOKEN(id, sql) STORE_TOKEN_##id,
#define STORE_COLUMN_ENUM_EVENT(id, sql) STORE_EVENT_##id,
#define STORE_COLUMN_ENUM_RULE(id, sql) STORE_RULE_##id,
#define STORE_COLUMN_ENUM_PLAN(id, sql) STORE_PLAN_##id,
#define STORE_COLUMN_ENUM_FENCE(id, sql) STORE_FENCE_##id,
#define STORE_COLUMN_ENUM_SETTING(id, sql) STORE_SETTING_##id,
#define STORE_COLUMN_ENUM_AUDIT(id, sql) STORE_AUDIT_##id,
#define STORE_COLUMN_ENUM_DISKS(id, sql) STORE_DISKS_##id,
#define STORE_COLUMN_ENUM_IMAGE(id, sql) STORE_IMAGE_##id,
#define STORE_COLUMN_ENUM_DISK_MOVE(id, sql) STORE_DISK_MOVE_##id,
#define STORE_COLUMN_ENUM_SNAPSHOT(id, sql) STORE_SNAPSHOT_##id,
#define STORE_COLUMN_ENUM_DR(id, sql) STORE_DR_##id,
#define STORE_COLUMN_ENUM_PEER(id, sql) STORE_PEER_##id,
enum { STORE_PEER_COLUMNS(STORE_COLUMN_ENUM_PEER) STORE_PEER_COLUMN_COUNT };
enum { STORE_DR_COLUMNS(STORE_COLUMN_ENUM_DR) STORE_DR_COLUMN_COUNT };
enum { STORE_SNAPSHOT_COLUMNS(STORE_COLUMN_ENUM_SNAPSHOT) STORE_SNAPSHOT_COLUMN_COUNT };
enum { STORE_HOST_COLUMNS(STORE_COLUMN_ENUM_HOST) STORE_HOST_COLUMN_COUNT };
enum { STORE_VM_COLUMNS(STORE_COLUMN_ENUM_VM) STORE_VM_COLUMN_COUNT };
enum { STORE_OWN_COLUMNS(STORE_COLUMN_ENUM_OWN) STORE_OWN_COLUMN_COUNT };
enum { STORE_JOB_COLUMNS(STORE_COLUMN_ENUM_JOB) STORE_JOB_COLUMN_COUNT };
enum { STORE_TOKEN_COLUMNS(STORE_COLUMN_ENUM_TOKEN) STORE_TOKEN_COLUMN_COUNT };
enum { STORE_EVENT_COLUMNS(STORE_COLUMN_ENUM_EVENT) STORE_EVENT_COLUMN_COUNT };
enum { STORE_RULE_COLUMNS(STORE_COLUMN_ENUM_RULE) STORE_RULE_COLUMN_COUNT };
enum { STORE_PLAN_COLUMNS(STORE_COLUMN_ENUM_PLAN) STORE_PLAN_COLUMN_COUNT };
enum { STORE_FENCE_COLUMNS(STORE_COLUMN_ENUM_FENCE) STORE_FENCE_COLUMN_COUNT };
enum { STORE_SETTING_COLUMNS(STORE_COLUMN_ENUM_SETTING) STORE_SETTING_COLUMN_COUNT };
enum { STORE_AUDIT_COLUMNS(STORE_COLUMN_ENUM_AUDIT) STORE_AUDIT_COLUMN_COUNT };
enum { STORE_DISKS_COLUMNS(STORE_COLUMN_ENUM_DISKS) STORE_DISKS_COLUMN_COUNT };
enum { STORE_IMAGE_COLUMNS(STORE_COLUMN_ENUM_IMAGE) STORE_IMAGE_COLUMN_COUNT };
enum { STORE_DISK_MOVE_COLUMNS(STORE_COLUMN_ENUM_DISK_MOVE) STORE_DISK_MOVE_COLUMN_COUNT };

struct store_cell {
    enum { STORE_NULL, STORE_NUMBER, STORE_TEXT, STORE_BLOB } type;
    int64_t number;
    const char *bytes; /* of a text: zero-ended */
    size_t count;
};

/* `where` is a file for SQLite, or "etcd://HOST:PORT,HOST:PORT/PREFIX".
 * Opens or makes the file. Refuses one that another process has open for writing (ERR_BUSY), one
 * of a newer schema (ERR_UNSUPPORTED) and one that is damaged (ERR_CORRUPT). `loop` may be NULL:
 * then only store_commit_now may be used. */
int store_open(struct store **ret_store, const char *path, struct loop *loop, struct fault *fault);
/* The same, telling a later opener who we are: its ERR_BUSY carries `who` as hint (etcd only). */
int store_open_as(struct store **ret_store, const char *where, const char *who, struct loop *loop,
                  struct fault *fault);
/* Can several coordinators stand by for this one? */
bool store_is_shared(const char *where);
/* Opening etcd makes us the one writer for as long as a lease is renewed; every transaction rests
 * on it. From now on it is renewed, and `lost` comes at most once, on the loop, when it is gone:
 * then nothing may be decided here any more. SQLite's lock cannot be lost. */
int store_watch_lost(struct store *store, void (*lost)(void *data, const struct fault *fault),
                     void *data, struct fault *fault);
/* Waits for the transactions that were handed in; their `done` are not called any more. */
struct store *store_close(struct store *store);

/* Every row of a table in the order of its keys; cells are borrowed for the call. A negative answer
 * of `row` ends it and is returned. */
int store_load(struct store *store, enum store_table table,
               int (*row)(void *data, const char *key, uint64_t revision,
                          const struct store_cell *cells, struct fault *fault),
               void *data, struct fault *fault);

int store_batch_new(struct store_batch **ret_batch, struct fault *fault);
struct store_batch *store_batch_free(struct store_batch *batch);
bool store_batch_is_empty(const struct store_batch *batch);
/* Begin to put a row; its cells follow by store_batch_number/text/blob, in the schema's order. */
void store_batch_put(struct store_batch *batch, enum store_table table, const char *key,
                     uint64_t revision);
void store_batch_delete(struct store_batch *batch, enum store_table table, const char *key,
                        uint64_t revision);
void store_batch_number(struct store_batch *batch, int64_t number);
void store_batch_text(struct store_batch *batch, const char *text);                /* copied */
void store_batch_blob(struct store_batch *batch, const void *bytes, size_t count); /* copied */

/* One transaction, now, blocking. */
int store_commit_now(struct store *store, const struct store_batch *batch, struct fault *fault);
/* Takes the batch, always. `done` comes exactly once, on the loop, in order; its fault is NULL when
 * the batch is durable. */
void store_commit(struct store *store, struct store_batch *batch,
                  void (*done)(void *data, const struct fault *fault), void *data);

#endif

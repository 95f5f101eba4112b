/* The contract of store.h. */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/err.h"
#include "base/loop.h"
#include "coordinator/store.h"

static char folder[64], path[96];

static int set_up(void **state)
{
    (void)state;
    (void)snprintf(folder, sizeof folder, "/tmp/godwit-store-XXXXXX");
    assert_non_null(mkdtemp(folder));
    (void)snprintf(path, sizeof path, "%s/pool.db", folder);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    static const char *const ends[] = {"", "-wal", "-shm", "-journal"};
    for (size_t i = 0; i < 4; i++) {
        char file[128];
        (void)snprintf(file, sizeof file, "%s%s", path, ends[i]);
        (void)unlink(file);
    }
    (void)rmdir(folder);
    return 0;
}

static struct store *opened(struct loop *loop)
{
    struct store *store = NULL;
    struct fault fault = {0};
    if (store_open(&store, path, loop, &fault) < 0)
        fail_msg("%s", fault.text);
    return store;
}

static void put_host(struct store_batch *batch, const char *name, uint64_t revision, int64_t seen)
{
    store_batch_put(batch, STORE_HOST, name, revision);
    store_batch_number(batch, seen);
    store_batch_blob(batch, "facts", 5);
}

static struct store_batch *batch_of(const char *name, uint64_t revision, int64_t seen)
{
    struct store_batch *batch = NULL;
    assert_int_equal(store_batch_new(&batch, NULL), 0);
    put_host(batch, name, revision, seen);
    return batch;
}

static int commit(struct store *store, struct store_batch *batch)
{
    int r = store_commit_now(store, batch, NULL);
    (void)store_batch_free(batch);
    return r;
}

struct seen {
    unsigned rows;
    uint64_t revision;
    int64_t number;
    char key[32];
};

static int look(void *data, const char *key, uint64_t revision, const struct store_cell *cells,
                struct fault *fault)
{
    (void)fault;
    struct seen *seen = data;
    seen->rows++;
    seen->revision = revision;
    seen->number = cells[STORE_HOST_SEEN].number;
    (void)snprintf(seen->key, sizeof seen->key, "%s", key);
    assert_int_equal(cells[STORE_HOST_FACTS].count, 5);
    assert_memory_equal(cells[STORE_HOST_FACTS].bytes, "facts", 5);
    return 0;
}

static struct seen look_at(struct store *store)
{
    struct seen seen = {0};
    assert_int_equal(store_load(store, STORE_HOST, look, &seen, NULL), 0);
    return seen;
}

static void a_row_is_there_after_it_was_opened_again(void **state)
{
    (void)state;
    struct store *store = opened(NULL);
    assert_int_equal(commit(store, batch_of("node1", 0, 41)), 0);
    assert_int_equal(commit(store, batch_of("node1", 1, 42)), 0);
    (void)store_close(store);

    store = opened(NULL);
    struct seen seen = look_at(store);

    assert_int_equal(seen.rows, 1);
    assert_int_equal(seen.revision, 2);
    assert_int_equal(seen.number, 42);
    (void)store_close(store);
}

static void a_revision_that_is_not_met_changes_nothing_of_the_batch(void **state)
{
    (void)state;
    struct store *store = opened(NULL);
    assert_int_equal(commit(store, batch_of("node1", 0, 1)), 0);
    struct store_batch *batch = batch_of("node2", 0, 2);
    put_host(batch, "node1", 7, 3);

    int r = commit(store, batch);

    assert_int_equal(r, ERR_STATE);
    struct seen seen = look_at(store);
    assert_int_equal(seen.rows, 1);
    assert_string_equal(seen.key, "node1");
    assert_int_equal(seen.number, 1);
    (void)store_close(store);
}

static void what_is_there_is_not_put_anew(void **state)
{
    (void)state;
    struct store *store = opened(NULL);
    assert_int_equal(commit(store, batch_of("node1", 0, 1)), 0);

    assert_int_equal(commit(store, batch_of("node1", 0, 2)), ERR_STATE);

    assert_int_equal(look_at(store).number, 1);
    (void)store_close(store);
}

static void a_row_is_deleted_at_its_revision_only(void **state)
{
    (void)state;
    struct store *store = opened(NULL);
    assert_int_equal(commit(store, batch_of("node1", 0, 1)), 0);
    for (uint64_t revision = 2; revision > 0; revision--) {
        struct store_batch *batch = NULL;
        assert_int_equal(store_batch_new(&batch, NULL), 0);
        store_batch_delete(batch, STORE_HOST, "node1", revision);
        assert_int_equal(commit(store, batch), revision == 1 ? 0 : ERR_STATE);
    }
    assert_int_equal(look_at(store).rows, 0);
    (void)store_close(store);
}

static void a_second_opener_is_refused(void **state)
{
    (void)state;
    struct store *store = opened(NULL), *second = NULL;
    struct fault fault = {0};

    int r = store_open(&second, path, NULL, &fault);

    assert_int_equal(r, ERR_BUSY);
    (void)store_close(store);
}

static void change_file(const char *sql)
{
    sqlite3 *db = NULL;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
}

static void assert_not_opened(int code, const char *words)
{
    struct store *store = NULL;
    struct fault fault = {0};
    assert_int_equal(store_open(&store, path, NULL, &fault), code);
    if (!strstr(fault.text, words))
        fail_msg("'%s' lacks '%s'", fault.text, words);
}

static void a_newer_schema_is_refused(void **state)
{
    (void)state;
    (void)store_close(opened(NULL));
    change_file("PRAGMA user_version = 99");

    assert_not_opened(ERR_UNSUPPORTED, "newer version");
}

static void a_foreign_database_is_refused(void **state)
{
    (void)state;
    change_file("CREATE TABLE something(x)");

    assert_not_opened(ERR_CORRUPT, "not one of godwit");
}

static void a_file_that_is_no_database_is_refused(void **state)
{
    (void)state;
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    for (int i = 0; i < 4096; i++)
        (void)fputs("no database ", file);
    (void)fclose(file);

    assert_not_opened(ERR_CORRUPT, "");
}

/* A child commits pairs of rows as fast as it can and is killed in between; the parent finds whole
 * transactions only, and all of those that the child was told of. */
static void a_killed_writer_leaves_whole_transactions(void **state)
{
    (void)state;
    for (int round = 0; round < 8; round++) {
        int told[2];
        assert_int_equal(pipe(told), 0);
        struct store *before = opened(NULL);
        struct seen start = look_at(before);
        (void)store_close(before);
        uint64_t first = start.rows ? start.revision : 0;
        pid_t child = fork();
        if (child == 0) {
            struct store *store = NULL;
            if (store_open(&store, path, NULL, NULL) < 0)
                _exit(1);
            for (uint64_t n = first;; n++) {
                struct store_batch *batch = NULL;
                (void)store_batch_new(&batch, NULL);
                put_host(batch, "a", n, (int64_t)n);
                put_host(batch, "b", n, (int64_t)n);
                if (store_commit_now(store, batch, NULL) < 0)
                    _exit(2);
                if (write(told[1], &n, sizeof n) != sizeof n)
                    _exit(3);
                (void)store_batch_free(batch);
            }
        }
        (void)close(told[1]);
        uint64_t last = 0, n;
        for (int i = 0; i < 5 + round * 3; i++)
            assert_int_equal(read(told[0], &last, sizeof last), sizeof last);
        assert_int_equal(kill(child, SIGKILL), 0);
        while (read(told[0], &n, sizeof n) == sizeof n)
            last = n;
        (void)close(told[0]);
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status));

        struct store *store = opened(NULL);
        struct seen seen = look_at(store); /* of the last row, 'b' */
        assert_int_equal(seen.rows, 2);
        assert_true(seen.number >= (int64_t)last);
        (void)store_close(store);
    }
}

static unsigned done_count;
static int done_order[4];
static struct loop *the_loop;

static void on_done(void *data, const struct fault *fault)
{
    done_order[done_count++] = fault ? -*(int *)data : *(int *)data;
    if (done_count == 3)
        loop_stop(the_loop);
}

static void the_worker_commits_in_order_and_tells_on_the_loop(void **state)
{
    (void)state;
    static int one = 1, two = 2, three = 3;
    struct fault fault = {0};
    assert_int_equal(loop_new(&the_loop, &fault), 0);
    struct store *store = opened(the_loop);
    done_count = 0;

    store_commit(store, batch_of("node1", 0, 1), on_done, &one);
    store_commit(store, batch_of("node1", 7, 2), on_done, &two); /* not met */
    store_commit(store, batch_of("node1", 1, 3), on_done, &three);
    assert_int_equal(done_count, 0);
    loop_run(the_loop);

    assert_int_equal(done_order[0], 1);
    assert_int_equal(done_order[1], -2);
    assert_int_equal(done_order[2], 3);
    assert_int_equal(look_at(store).number, 3);
    (void)store_close(store);
    the_loop = loop_free(the_loop);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_row_is_there_after_it_was_opened_again),
        TEST(a_revision_that_is_not_met_changes_nothing_of_the_batch),
        TEST(what_is_there_is_not_put_anew),
        TEST(a_row_is_deleted_at_its_revision_only),
        TEST(a_second_opener_is_refused),
        TEST(a_newer_schema_is_refused),
        TEST(a_foreign_database_is_refused),
        TEST(a_file_that_is_no_database_is_refused),
        TEST(a_killed_writer_leaves_whole_transactions),
        TEST(the_worker_commits_in_order_and_tells_on_the_loop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

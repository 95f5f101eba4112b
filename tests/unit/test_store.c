/* The contract of store.h with SQLite, and what is this driver's own. */
#include <fcntl.h>
#include <setjmp.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/err.h"
#include "coordinator/store.h"
#include "tests/support/store_contract.h"

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
    (void)store_close(store_contract_open(NULL));
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

static void what_an_older_file_lacks_is_added(void **state)
{
    (void)state;
    (void)store_close(store_contract_open(NULL));
    change_file("DROP TABLE event; ALTER TABLE own DROP COLUMN reason");

    struct store *store = store_contract_open(NULL);

    struct store_batch *batch = NULL;
    assert_int_equal(store_batch_new(&batch, NULL), 0);
    store_batch_put(batch, STORE_EVENT, "1", 0);
    store_batch_number(batch, 1);
    store_batch_text(batch, "");
    store_batch_text(batch, "words");
    assert_int_equal(store_commit_now(store, batch, NULL), 0);
    (void)store_batch_free(batch);
    (void)store_close(store);
    change_file("SELECT reason FROM own");
}

static const char *where(void)
{
    return path;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct store_contract contract = {
        .where = where, .set_up = set_up, .tear_down = tear_down, .killed_rounds = 8};
    const struct CMUnitTest tests[] = {
        TEST(a_newer_schema_is_refused),
        TEST(a_foreign_database_is_refused),
        TEST(a_file_that_is_no_database_is_refused),
        TEST(what_an_older_file_lacks_is_added),
    };
    return store_contract_run(&contract) | cmocka_run_group_tests(tests, NULL, NULL);
}

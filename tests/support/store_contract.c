#include "tests/support/store_contract.h"

#include <poll.h>
#include <setjmp.h>
#include <signal.h>
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
#include "base/world.h"
#include "coordinator/store.h"

static const struct store_contract *contract;

/* A writer that was killed keeps its right for as long as its lease lasts. */
struct store *store_contract_open(struct loop *loop)
{
    struct store *store = NULL;
    struct fault fault = {0};
    uint64_t end_ms = world_now_ms() + 15000;
    int r;
    while ((r = store_open(&store, contract->where(), loop, &fault)) == ERR_BUSY &&
           contract->waits_for_the_dead && world_now_ms() < end_ms)
        (void)poll(NULL, 0, 100);
    if (r < 0)
        fail_msg("%s", fault.text);
    return store;
}

static void put_host(struct store_batch *batch, const char *name, uint64_t revision, int64_t seen)
{
    store_batch_put(batch, STORE_HOST, name, revision);
    store_batch_number(batch, seen);
    store_batch_blob(batch, "facts", 5);
    store_batch_blob(batch, "", 0);
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
    struct store *store = store_contract_open(NULL);
    assert_int_equal(commit(store, batch_of("node1", 0, 41)), 0);
    assert_int_equal(commit(store, batch_of("node1", 1, 42)), 0);
    (void)store_close(store);

    store = store_contract_open(NULL);
    struct seen seen = look_at(store);

    assert_int_equal(seen.rows, 1);
    assert_int_equal(seen.revision, 2);
    assert_int_equal(seen.number, 42);
    (void)store_close(store);
}

static void a_revision_that_is_not_met_changes_nothing_of_the_batch(void **state)
{
    (void)state;
    struct store *store = store_contract_open(NULL);
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
    struct store *store = store_contract_open(NULL);
    assert_int_equal(commit(store, batch_of("node1", 0, 1)), 0);

    assert_int_equal(commit(store, batch_of("node1", 0, 2)), ERR_STATE);

    assert_int_equal(look_at(store).number, 1);
    (void)store_close(store);
}

static void a_row_is_deleted_at_its_revision_only(void **state)
{
    (void)state;
    struct store *store = store_contract_open(NULL);
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
    struct store *store = store_contract_open(NULL), *second = NULL;
    struct fault fault = {0};

    int r = store_open(&second, contract->where(), NULL, &fault);

    assert_int_equal(r, ERR_BUSY);
    (void)store_close(store);
}

/* A child commits pairs of rows as fast as it can and is killed in between; the parent finds whole
 * transactions only, and all of those that the child was told of. */
static void a_killed_writer_leaves_whole_transactions(void **state)
{
    (void)state;
    for (int round = 0; round < contract->killed_rounds; round++) {
        int told[2];
        assert_int_equal(pipe(told), 0);
        struct store *before = store_contract_open(NULL);
        struct seen start = look_at(before);
        (void)store_close(before);
        uint64_t first = start.rows ? start.revision : 0;
        pid_t child = fork();
        if (child == 0) {
            struct store *store = NULL;
            if (store_open(&store, contract->where(), NULL, NULL) < 0)
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

        struct store *store = store_contract_open(NULL);
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
    struct store *store = store_contract_open(the_loop);
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

static void a_row_may_be_put_more_than_once_in_a_batch(void **state)
{
    (void)state;
    struct store *store = store_contract_open(NULL);
    struct store_batch *batch = batch_of("node1", 0, 1);
    put_host(batch, "node1", 1, 2);
    put_host(batch, "node2", 0, 3);
    store_batch_delete(batch, STORE_HOST, "node2", 1);
    put_host(batch, "node1", 2, 4);

    assert_int_equal(commit(store, batch), 0);

    struct seen seen = look_at(store);
    assert_int_equal(seen.rows, 1);
    assert_int_equal(seen.number, 4);
    assert_int_equal(commit(store, batch_of("node1", 3, 5)), 0);
    (void)store_close(store);
}

static void a_batch_may_be_large(void **state)
{
    (void)state;
    struct store *store = store_contract_open(NULL);
    struct store_batch *batch = NULL;
    assert_int_equal(store_batch_new(&batch, NULL), 0);
    for (int i = 0; i < 700; i++) {
        char name[16];
        (void)snprintf(name, sizeof name, "node%03d", i);
        put_host(batch, name, 0, i);
    }
    assert_int_equal(commit(store, batch), 0);
    (void)store_close(store);

    store = store_contract_open(NULL);
    struct seen seen = look_at(store);
    assert_int_equal(seen.rows, 700);
    assert_string_equal(seen.key, "node699");
    (void)store_close(store);
}

static int look_at_own(void *data, const char *key, uint64_t revision,
                       const struct store_cell *cells, struct fault *fault)
{
    (void)fault;
    (void)revision;
    *(unsigned *)data += 1;
    assert_string_equal(key, "vm");
    assert_int_equal(cells[STORE_OWN_GEN].number, INT64_MIN);
    assert_int_equal(cells[STORE_OWN_HIWATER].number, INT64_MAX);
    assert_string_equal(cells[STORE_OWN_PHASE].bytes, "");
    assert_string_equal(cells[STORE_OWN_OWNER].bytes, "n\303\266de \"1\"");
    return 0;
}

static void cells_come_back_as_they_were(void **state)
{
    (void)state;
    struct store *store = store_contract_open(NULL);
    struct store_batch *batch = NULL;
    unsigned rows = 0;
    assert_int_equal(store_batch_new(&batch, NULL), 0);
    store_batch_put(batch, STORE_OWN, "vm", 0);
    store_batch_number(batch, INT64_MIN);
    store_batch_number(batch, INT64_MAX);
    store_batch_text(batch, "");
    store_batch_text(batch, "n\303\266de \"1\"");
    for (int i = STORE_OWN_INCARNATION; i < STORE_OWN_WANT; i++)
        store_batch_text(batch, "x");
    store_batch_number(batch, 0);
    store_batch_number(batch, -1);
    for (int i = STORE_OWN_REASON; i < STORE_OWN_FOUND_GEN; i++)
        store_batch_text(batch, "y");
    store_batch_number(batch, 7);
    assert_int_equal(commit(store, batch), 0);

    assert_int_equal(store_load(store, STORE_OWN, look_at_own, &rows, NULL), 0);

    assert_int_equal(rows, 1);
    (void)store_close(store);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, given->set_up, given->tear_down)

int store_contract_run(const struct store_contract *given)
{
    contract = given;
    const struct CMUnitTest tests[] = {
        TEST(a_row_is_there_after_it_was_opened_again),
        TEST(a_revision_that_is_not_met_changes_nothing_of_the_batch),
        TEST(what_is_there_is_not_put_anew),
        TEST(a_row_is_deleted_at_its_revision_only),
        TEST(a_row_may_be_put_more_than_once_in_a_batch),
        TEST(a_batch_may_be_large),
        TEST(cells_come_back_as_they_were),
        TEST(a_second_opener_is_refused),
        TEST(a_killed_writer_leaves_whole_transactions),
        TEST(the_worker_commits_in_order_and_tells_on_the_loop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

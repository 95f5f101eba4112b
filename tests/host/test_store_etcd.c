/* The contract of store.h with a real etcd of one member, and what is this driver's own. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/err.h"
#include "base/loop.h"
#include "coordinator/etcd.h"
#include "coordinator/store.h"
#include "tests/support/etcd_server.h"
#include "tests/support/store_contract.h"

static char place[128];
static struct etcd_server server;
static unsigned pool;

static const char *where(void)
{
    return place;
}

static int set_up(void **state)
{
    (void)state;
    (void)snprintf(place, sizeof place, "etcd://127.0.0.1:1,127.0.0.1:%d/test/%u", server.port,
                   ++pool);
    return 0; /* its first member is never there */
}

static int tear_down(void **state)
{
    (void)state;
    return 0;
}

static struct store_batch *event(const char *key)
{
    struct store_batch *batch = NULL;
    assert_int_equal(store_batch_new(&batch, NULL), 0);
    store_batch_put(batch, STORE_EVENT, key, 0);
    store_batch_number(batch, 1);
    store_batch_text(batch, "");
    store_batch_text(batch, "words");
    return batch;
}

static int commit(struct store *store, const char *key, struct fault *fault)
{
    struct store_batch *batch = event(key);
    int r = store_commit_now(store, batch, fault);
    (void)store_batch_free(batch);
    return r;
}

static void take_the_leaders_key_away(void)
{
    struct etcd *etcd = NULL;
    uint64_t revision;
    char key[ETCD_KEY_MAX];
    assert_int_equal(etcd_new(&etcd, place, NULL), 0);
    (void)snprintf(key, sizeof key, "%.100sleader", etcd_prefix(etcd));
    const struct etcd_change drop = {.key = key, .is_delete = true};
    assert_int_equal(etcd_commit(etcd, NULL, 0, &drop, 1, &revision, NULL), 0);
    (void)etcd_free(etcd);
}

static void a_deposed_leader_cannot_write(void **state)
{
    (void)state;
    struct fault fault = {0};
    struct store *old = store_contract_open(NULL), *new = NULL;
    assert_int_equal(commit(old, "1", &fault), 0);
    take_the_leaders_key_away();
    assert_int_equal(store_open(&new, place, NULL, &fault), 0);

    assert_int_equal(commit(old, "2", &fault), ERR_STATE);

    assert_int_equal(commit(new, "2", &fault), 0);
    assert_int_equal(commit(old, "3", &fault), ERR_STATE);
    (void)store_close(old);
    (void)store_close(new);
}

static void a_second_opener_is_told_who_leads(void **state)
{
    (void)state;
    struct fault fault = {0};
    struct store *first = NULL, *second = NULL;
    assert_int_equal(store_open_as(&first, place, "10.0.0.1:7411", NULL, &fault), 0);

    assert_int_equal(store_open_as(&second, place, "10.0.0.2:7411", NULL, &fault), ERR_BUSY);

    assert_string_equal(fault.hint, "10.0.0.1:7411");
    (void)store_close(first); /* gives its lease back: nobody has to wait for it */
    assert_int_equal(store_open_as(&second, place, "10.0.0.2:7411", NULL, &fault), 0);
    (void)store_close(second);
}

static unsigned losses;

static void on_lost(void *data, const struct fault *fault)
{
    assert_int_equal(fault->code, ERR_UNREACHABLE);
    losses++;
    loop_stop(data);
}

static void a_leader_that_etcd_does_not_answer_stops_in_time(void **state)
{
    (void)state;
    struct fault fault = {0};
    struct loop *loop = NULL;
    assert_int_equal(loop_new(&loop, &fault), 0);
    struct store *store = store_contract_open(loop);
    assert_int_equal(store_watch_lost(store, on_lost, loop, &fault), 0);
    assert_int_equal(kill(server.pid, SIGSTOP), 0);

    loop_run(loop); /* until the loss */

    assert_int_equal(losses, 1);
    assert_int_equal(commit(store, "1", &fault), ERR_STATE);
    assert_int_equal(kill(server.pid, SIGCONT), 0);
    (void)store_close(store);
    (void)loop_free(loop);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    bool is_there = etcd_server_start(&server, false);
    (void)set_up(NULL);
    if (!is_there || !etcd_server_await(place)) {
        (void)puts("skipped: no etcd (package etcd-server)");
        etcd_server_stop(&server);
        return 77;
    }
    const struct store_contract contract = {.where = where,
                                            .set_up = set_up,
                                            .tear_down = tear_down,
                                            .waits_for_the_dead = true,
                                            .killed_rounds = 2};
    const struct CMUnitTest tests[] = {
        TEST(a_deposed_leader_cannot_write),
        TEST(a_second_opener_is_told_who_leads),
        TEST(a_leader_that_etcd_does_not_answer_stops_in_time),
    };
    int r = store_contract_run(&contract) | cmocka_run_group_tests(tests, NULL, NULL);
    etcd_server_stop(&server);
    return r;
}

/* The contract of store.h with a real etcd of one member, and what is this driver's own. */
#include <fcntl.h>
#include <ftw.h>
#include <netinet/in.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/err.h"
#include "base/loop.h"
#include "base/world.h"
#include "coordinator/etcd.h"
#include "coordinator/store.h"
#include "tests/support/store_contract.h"

static char folder[64], place[128];
static pid_t etcd_pid;
static int port;
static unsigned pool;

static const char *where(void)
{
    return place;
}

static int set_up(void **state)
{
    (void)state;
    (void)snprintf(place, sizeof place, "etcd://127.0.0.1:1,127.0.0.1:%d/test/%u", port, ++pool);
    return 0; /* its first member is never there */
}

static int tear_down(void **state)
{
    (void)state;
    return 0;
}

static int free_port(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    int bound = bind(fd, (struct sockaddr *)&address, size);
    int named = getsockname(fd, (struct sockaddr *)&address, &size);
    (void)close(fd);
    return bound == 0 && named == 0 ? ntohs(address.sin_port) : 0;
}

static int remove_one(const char *path, const struct stat *info, int type, struct FTW *at)
{
    (void)info;
    (void)type;
    (void)at;
    return remove(path);
}

static bool start_etcd(void)
{
    char client[64], peer[64], cluster[80];
    (void)snprintf(folder, sizeof folder, "/tmp/godwit-etcd-XXXXXX");
    if (!mkdtemp(folder))
        return false;
    port = free_port();
    (void)snprintf(client, sizeof client, "http://127.0.0.1:%d", port);
    (void)snprintf(peer, sizeof peer, "http://127.0.0.1:%d", free_port());
    (void)snprintf(cluster, sizeof cluster, "default=%s", peer);
    etcd_pid = fork();
    if (etcd_pid == 0) {
        int quiet = open("/dev/null", O_WRONLY);
        (void)dup2(quiet, 1);
        (void)dup2(quiet, 2);
        (void)execlp("etcd", "etcd", "--data-dir", folder, "--listen-client-urls", client,
                     "--advertise-client-urls", client, "--listen-peer-urls", peer,
                     "--initial-advertise-peer-urls", peer, "--initial-cluster", cluster, NULL);
        _exit(127);
    }
    return etcd_pid > 0;
}

static bool etcd_answers(void)
{
    struct store *store = NULL;
    (void)set_up(NULL);
    for (uint64_t end_ms = world_now_ms() + 20000; world_now_ms() < end_ms;) {
        if (store_open(&store, place, NULL, NULL) == 0) {
            (void)store_close(store);
            return true;
        }
        (void)poll(NULL, 0, 50);
    }
    return false;
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
    assert_int_equal(kill(etcd_pid, SIGSTOP), 0);

    loop_run(loop); /* until the loss */

    assert_int_equal(losses, 1);
    assert_int_equal(commit(store, "1", &fault), ERR_STATE);
    assert_int_equal(kill(etcd_pid, SIGCONT), 0);
    (void)store_close(store);
    (void)loop_free(loop);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    if (access("/usr/bin/etcd", X_OK) != 0 || !start_etcd() || !etcd_answers()) {
        (void)puts("skipped: no etcd (package etcd-server)");
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
    (void)kill(etcd_pid, SIGKILL);
    (void)waitpid(etcd_pid, NULL, 0);
    (void)nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    return r;
}

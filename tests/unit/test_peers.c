/* The door of an agent to other agents, over loopback TLS with real certificates: each test has an
 * address of its own, as the port is one. Nothing sleeps: await() turns the loop. */
#include "agent/peers.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "agent/host_facts.h"
#include "base/err.h"
#include "base/loop.h"
#include "base/own.h"
#include "net/pki.h"
#include "net/rpc.h"
#include "net/tls.h"
#include "proto/agent.pb-c.h"
#include "proto/ha.pb-c.h"
#include "proto/limits.h"
#include "proto/method.h"

enum { PATIENCE_MS = 20000 };

struct caller { /* connects, and asks whether the agent lives unless it shall be silent */
    struct rpc *rpc;
    bool is_silent, is_open, is_over;
    struct fault fault; /* of what ended it; empty: it was answered */
    char host[64];
};

static struct loop *loop;
static struct loop_timer *patience;
static bool is_out_of_patience;
static char run_dir[64], address[32], place[48];
static char *ca, *ca_key;
static struct host_facts *facts;
static struct peers *peers;
static struct caller callers[PEERS_MAX + 2];

static void on_patience(void *data)
{
    (void)data;
    is_out_of_patience = true;
}

#define await(condition)                                                                           \
    for (is_out_of_patience = false, loop_timer_start(patience, PATIENCE_MS, 0); !(condition);) {  \
        assert_false(is_out_of_patience);                                                          \
        loop_turn(loop, true);                                                                     \
    }

static struct tls_context *context_of(const char *role)
{
    struct fault fault = {0};
    struct pki_identity identity = {.pool = "pool-a", .name = "node1"};
    struct tls_context *context = NULL;
    AUTO_FREE char *key = NULL, *request = NULL, *certificate = NULL;
    (void)snprintf(identity.role, sizeof identity.role, "%s", role);
    assert_int_equal(pki_new_key(&key, &fault), 0);
    assert_int_equal(pki_new_request(key, &request, &fault), 0);
    assert_int_equal(pki_sign(ca, ca_key, request, &identity, 30, &certificate, &fault), 0);
    const struct tls_identity own = {.ca_certificate = ca, .certificate = certificate, .key = key};
    assert_int_equal(tls_context_new(&context, &own, &fault), 0);
    return context;
}

static int set_up(void **state)
{
    (void)state;
    static unsigned number = 0;
    struct fault fault = {0};
    (void)snprintf(run_dir, sizeof run_dir, "/tmp/godwit-peers.XXXXXX");
    assert_non_null(mkdtemp(run_dir));
    unsigned chance = (unsigned)getpid();
    (void)snprintf(address, sizeof address, "127.%u.%u.%u", 100 + number++, chance / 250 % 250,
                   1 + chance % 250);
    (void)snprintf(place, sizeof place, "%s:%d", address, PEERS_PORT);
    memset(callers, 0, sizeof callers);
    assert_int_equal(loop_new(&loop, &fault), 0);
    assert_int_equal(loop_timer_new(&patience, loop, on_patience, NULL, &fault), 0);
    assert_int_equal(pki_new_ca("pool-a", 30, &ca, &ca_key, &fault), 0);
    assert_int_equal(host_facts_new(&facts, "node1", address, run_dir, &fault), 0);
    struct tls_context *context = context_of("host");
    assert_int_equal(peers_new(&peers, loop, context, facts, "node1", address, &fault), 0);
    (void)tls_context_free(context);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    char path[128];
    for (size_t i = 0; i < ARRAY_COUNT(callers); i++)
        callers[i].rpc = rpc_close(callers[i].rpc);
    peers = peers_free(peers);
    facts = host_facts_free(facts);
    patience = loop_timer_free(patience);
    loop = loop_free(loop);
    free(ca);
    free(ca_key);
    (void)snprintf(path, sizeof path, "%s/incarnation", run_dir);
    (void)unlink(path);
    return rmdir(run_dir);
}

/* ---- calling ---- */

static void end(struct caller *caller, const struct fault *fault)
{
    caller->is_over = true;
    if (fault)
        caller->fault = *fault;
}

static void on_closed(void *data, struct rpc *rpc, const struct fault *fault)
{
    (void)rpc;
    struct caller *caller = data;
    if (!caller->is_over)
        end(caller, fault);
}

static const struct rpc_service service = {.on_closed = on_closed};

static void on_alive(void *data, const ProtobufCMessage *reply, const struct fault *fault)
{
    struct caller *caller = data;
    const Godwit__PeerAliveReply *alive = (const Godwit__PeerAliveReply *)reply;
    if (alive)
        (void)snprintf(caller->host, sizeof caller->host, "%s", alive->host);
    end(caller, fault);
}

static void on_opened(void *data, struct rpc *rpc, const struct fault *fault)
{
    struct caller *caller = data;
    struct fault words = {0};
    Godwit__PeerAlive alive = GODWIT__PEER_ALIVE__INIT;
    if (fault) {
        end(caller, fault);
        return;
    }
    caller->is_open = true;
    if (!caller->is_silent && rpc_call(rpc, METHOD_PEER_ALIVE, &alive.base,
                                       &godwit__peer_alive_reply__descriptor, PATIENCE_MS, on_alive,
                                       caller, &words) < 0)
        end(caller, &words);
}

static void call(struct caller *caller, struct tls_context *context)
{
    struct fault fault = {0};
    assert_int_equal(rpc_connect(&caller->rpc, loop, place, context, "host", &service, caller,
                                 on_opened, &fault),
                     0);
}

static struct caller *ask_as(size_t at, const char *role)
{
    struct tls_context *context = context_of(role);
    call(&callers[at], context);
    (void)tls_context_free(context);
    await(callers[at].is_over);
    return &callers[at];
}

/* ---- tests ---- */

static void a_host_and_a_coordinator_are_told_who_lives_there(void **state)
{
    (void)state;
    static const char *const roles[] = {"host", "coordinator"};
    for (size_t i = 0; i < ARRAY_COUNT(roles); i++) {
        struct caller *caller = ask_as(i, roles[i]);
        assert_int_equal(caller->fault.code, 0);
        assert_string_equal(caller->host, "node1");
    }
}

/* Closed as it comes, before a word: a refusal of each method would leave it its place. */
static void who_else_has_the_pools_certificate_is_not_kept(void **state)
{
    (void)state;
    static const char *const roles[] = {"peer", "operator"};
    for (size_t i = 0; i < ARRAY_COUNT(roles); i++) {
        const struct caller *caller = ask_as(i, roles[i]);
        assert_int_not_equal(caller->fault.code, ERR_DENIED); /* a word in answer */
        assert_int_not_equal(caller->fault.code, 0);
    }
}

static void silent_ones_of_a_peer_pool_take_no_hosts_place(void **state)
{
    (void)state;
    struct tls_context *context = context_of("peer");
    for (size_t i = 0; i < PEERS_MAX; i++) {
        callers[i].is_silent = true;
        call(&callers[i], context);
    }
    (void)tls_context_free(context);
    for (size_t i = 0; i < PEERS_MAX; i++)
        await(callers[i].is_open || callers[i].is_over);

    const struct caller *caller = ask_as(PEERS_MAX, "host");

    assert_int_equal(caller->fault.code, 0);
    assert_string_equal(caller->host, "node1");
    for (size_t i = 0; i < PEERS_MAX; i++)
        await(callers[i].is_over);
}

#define test(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        test(a_host_and_a_coordinator_are_told_who_lives_there),
        test(who_else_has_the_pools_certificate_is_not_kept),
        test(silent_ones_of_a_peer_pool_take_no_hosts_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

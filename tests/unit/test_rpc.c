/* Two ends of rpc in one loop: over a Unix socketpair and over loopback TLS with real
 * certificates. Nothing sleeps: await() turns the loop until something is true. */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/err.h"
#include "base/loop.h"
#include "base/own.h"
#include "net/conn.h"
#include "net/rpc.h"
#include "net/rpc_frame.h"
#include "proto/common.pb-c.h"
#include "proto/limits.h"

enum { ECHO = 1, HOLD = 2, NEWS = 3, REFUSE = 4, DROP = 5, COUNT_FDS = 6, UNSERVED = 77 };
enum { CALLS_KEPT = 512, PATIENCE_MS = 20000 };

struct end { /* one end of a conversation, or a server with its newest peer */
    struct rpc *rpc;
    int opened, closed, news, held_count;
    struct fault fault; /* of opened or closed */
    struct rpc_request *held[CALLS_KEPT];
    char first_fd_text[32];
    bool close_on_call;
};

struct answer {
    int count;
    struct fault fault; /* empty: a reply */
    char text[FAULT_TEXT_MAX];
    struct rpc *close_in_done;
};

struct world {
    struct loop *loop;
    struct loop_timer *patience;
    bool is_out_of_patience;
    char *ca, *ca_key, *other_ca, *other_key;
    char pin[PKI_PIN_SIZE];
    struct end client, server;
    struct rpc_server *listener;
    char address[32];
};

/* ---- what is served ---- */

static void on_echo(void *data, struct rpc *rpc, struct rpc_request *request,
                    const ProtobufCMessage *message)
{
    struct end *end = data;
    assert_ptr_equal(rpc_request_rpc(request), rpc);
    if (end->close_on_call) {
        end->rpc = rpc_close(rpc);
        assert_int_equal(rpc_reply(request, message), ERR_CLOSED);
        return;
    }
    (void)rpc_reply(request, message); /* the storm test closes meanwhile */
}

static void on_hold(void *data, struct rpc *rpc, struct rpc_request *request,
                    const ProtobufCMessage *message)
{
    (void)rpc, (void)message;
    struct end *end = data;
    assert_true(end->held_count < CALLS_KEPT);
    end->held[end->held_count++] = request;
}

static void on_news(void *data, struct rpc *rpc, struct rpc_request *request,
                    const ProtobufCMessage *message)
{
    (void)rpc, (void)message;
    struct end *end = data;
    assert_null(request);
    end->news++;
}

static void on_refuse(void *data, struct rpc *rpc, struct rpc_request *request,
                      const ProtobufCMessage *message)
{
    (void)data, (void)rpc, (void)message;
    struct fault fault = {0};
    fault_set(&fault, ERR_REFUSED, "no room for\x1b[2J vm 'a'\n%s",
              "\xc2\x9b"
              "31m");
    fault_hint(&fault, "godwit host list");
    assert_int_equal(rpc_reply_fault(request, &fault), 0);
}

static void on_drop(void *data, struct rpc *rpc, struct rpc_request *request,
                    const ProtobufCMessage *message)
{
    (void)message;
    struct end *end = data;
    end->rpc = rpc_close(rpc);
    assert_null(rpc_request_rpc(request));
    (void)rpc_reply(request, message);
}

static void on_count_fds(void *data, struct rpc *rpc, struct rpc_request *request,
                         const ProtobufCMessage *message)
{
    (void)rpc, (void)message;
    struct end *end = data;
    Godwit__Fault reply = GODWIT__FAULT__INIT;
    reply.has_number = true;
    AUTO_FD int first = rpc_request_take_fd(request, 0);
    if (first >= 0) {
        assert_int_equal(rpc_request_take_fd(request, 0), -1);
        ssize_t got = pread(first, end->first_fd_text, sizeof end->first_fd_text - 1, 0);
        assert_true(got > 0);
        reply.number = 1;
    }
    int last = -1;
    while ((last = rpc_request_take_fd(request, (size_t)reply.number)) >= 0) {
        reply.number++;
        (void)close(last);
    }
    assert_int_equal(rpc_reply(request, &reply.base), 0);
}

static void on_closed(void *data, struct rpc *rpc, const struct fault *fault)
{
    struct end *end = data;
    assert_ptr_equal(rpc, end->rpc);
    end->closed++;
    end->fault = *fault;
}

static const struct rpc_method methods[] = {
    {ECHO, &godwit__fault__descriptor, on_echo},
    {HOLD, &godwit__fault__descriptor, on_hold},
    {NEWS, &godwit__fault__descriptor, on_news},
    {REFUSE, &godwit__fault__descriptor, on_refuse},
    {DROP, &godwit__fault__descriptor, on_drop},
    {COUNT_FDS, &godwit__fault__descriptor, on_count_fds},
};
static const struct rpc_service service = {
    .methods = methods, .method_count = ARRAY_COUNT(methods), .on_closed = on_closed};

static void on_opened(void *data, struct rpc *rpc, const struct fault *fault)
{
    (void)rpc;
    struct end *end = data;
    end->opened++;
    end->fault = fault ? *fault : (struct fault){0};
}

static void on_peer(void *data, struct rpc *rpc)
{
    struct end *end = data;
    (void)rpc_close(end->rpc);
    end->rpc = rpc;
    end->opened++;
}

static void on_done(void *data, const ProtobufCMessage *reply, const struct fault *fault)
{
    struct answer *answer = data;
    answer->count++;
    assert_true(!reply != !fault);
    if (fault)
        answer->fault = *fault;
    else if (((const Godwit__Fault *)reply)->text)
        (void)snprintf(answer->text, sizeof answer->text, "%s",
                       ((const Godwit__Fault *)reply)->text);
    else
        (void)snprintf(answer->text, sizeof answer->text, "%d",
                       ((const Godwit__Fault *)reply)->number);
    answer->close_in_done = rpc_close(answer->close_in_done);
}

/* ---- the stage ---- */

static void on_patience(void *data)
{
    ((struct world *)data)->is_out_of_patience = true;
}

#define await(world, condition)                                                                    \
    for ((world)->is_out_of_patience = false, loop_timer_start((world)->patience, PATIENCE_MS, 0); \
         !(condition);) {                                                                          \
        assert_false((world)->is_out_of_patience);                                                 \
        loop_turn((world)->loop, true);                                                            \
    }

static int set_up(void **state)
{
    struct world *world = calloc(1, sizeof *world);
    struct fault fault = {0};
    assert_non_null(world);
    assert_int_equal(loop_new(&world->loop, &fault), 0);
    assert_int_equal(loop_timer_new(&world->patience, world->loop, on_patience, world, &fault), 0);
    loop_timer_start(world->patience, PATIENCE_MS, 0);
    assert_int_equal(pki_new_ca("pool-a", 30, &world->ca, &world->ca_key, &fault), 0);
    assert_int_equal(pki_new_ca("pool-a", 30, &world->other_ca, &world->other_key, &fault), 0);
    assert_int_equal(pki_pin(world->ca, world->pin, &fault), 0);
    *state = world;
    return 0;
}

static int tear_down(void **state)
{
    struct world *world = *state;
    world->client.rpc = rpc_close(world->client.rpc);
    world->server.rpc = rpc_close(world->server.rpc);
    for (int i = 0; i < world->server.held_count; i++)
        (void)rpc_reply(world->server.held[i], NULL);
    world->listener = rpc_server_free(world->listener);
    world->patience = loop_timer_free(world->patience);
    world->loop = loop_free(world->loop);
    free(world->ca);
    free(world->ca_key);
    free(world->other_ca);
    free(world->other_key);
    free(world);
    return 0;
}

static struct tls_context *member(const char *ca, const char *ca_key, const char *pool,
                                  const char *role, unsigned days, const char *trusted,
                                  const char *pin, bool allow_anonymous)
{
    struct fault fault = {0};
    struct pki_identity identity = {.name = "node1"};
    (void)snprintf(identity.pool, sizeof identity.pool, "%s", pool);
    (void)snprintf(identity.role, sizeof identity.role, "%s", role);
    AUTO_FREE char *key = NULL, *request = NULL, *certificate = NULL;
    assert_int_equal(pki_new_key(&key, &fault), 0);
    assert_int_equal(pki_new_request(key, &request, &fault), 0);
    assert_int_equal(pki_sign(ca, ca_key, request, &identity, days, &certificate, &fault), 0);
    struct tls_identity tls = {.ca_certificate = trusted,
                               .pin = pin,
                               .certificate = certificate,
                               .key = key,
                               .allow_anonymous_peer = allow_anonymous};
    struct tls_context *context = NULL;
    assert_int_equal(tls_context_new(&context, &tls, &fault), 0);
    return context;
}

static struct tls_context *ordinary(struct world *world, const char *role)
{
    return member(world->ca, world->ca_key, "pool-a", role, 30, world->ca, NULL, false);
}

static struct tls_context *stranger(struct world *world, const char *ca, const char *pin)
{
    (void)world;
    struct fault fault = {0};
    struct tls_identity tls = {.ca_certificate = ca, .pin = pin};
    struct tls_context *context = NULL;
    assert_int_equal(tls_context_new(&context, &tls, &fault), 0);
    return context;
}

static void serve(struct world *world, struct tls_context *context)
{
    struct fault fault = {0};
    struct rpc_server_config config = {.address = "127.0.0.1:0",
                                       .context = context,
                                       .unix_fd = -1,
                                       .service = &service,
                                       .data = &world->server,
                                       .on_peer = on_peer};
    assert_int_equal(rpc_server_new(&world->listener, world->loop, &config, &fault), 0);
    (void)tls_context_free(context);
    (void)snprintf(world->address, sizeof world->address, "127.0.0.1:%u",
                   rpc_server_port(world->listener));
}

static void call_server(struct world *world, struct tls_context *context, const char *role)
{
    struct fault fault = {0};
    int r = rpc_connect(&world->client.rpc, world->loop, world->address, context, role, &service,
                        &world->client, on_opened, &fault);
    assert_int_equal(r, 0);
    (void)tls_context_free(context);
}

static void connect_pair(struct world *world)
{
    serve(world, ordinary(world, "coordinator"));
    call_server(world, ordinary(world, "host"), "coordinator");
    await(world, world->client.opened && world->server.opened);
    assert_int_equal(world->client.fault.code, 0);
}

static void connect_unix_pair(struct world *world)
{
    struct fault fault = {0};
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    assert_int_equal(
        rpc_new_unix(&world->client.rpc, world->loop, fds[0], &service, &world->client, &fault), 0);
    assert_int_equal(
        rpc_new_unix(&world->server.rpc, world->loop, fds[1], &service, &world->server, &fault), 0);
}

static int call(struct rpc *rpc, uint16_t method, const char *text, uint64_t timeout_ms,
                struct answer *answer)
{
    Godwit__Fault message = GODWIT__FAULT__INIT;
    message.text = (char *)(uintptr_t)text;
    return rpc_call(rpc, method, &message.base, &godwit__fault__descriptor, timeout_ms, on_done,
                    answer, NULL);
}

/* ---- over Unix ---- */

static void answers_a_call_over_a_unix_socket(void **state)
{
    struct world *world = *state;
    struct answer answer = {0};
    connect_unix_pair(world);

    assert_int_equal(call(world->client.rpc, ECHO, "hello", 5000, &answer), 0);
    await(world, answer.count);

    assert_int_equal(answer.fault.code, 0);
    assert_string_equal(answer.text, "hello");
    assert_string_equal(rpc_peer(world->client.rpc)->role, "local");
    char who[64];
    (void)snprintf(who, sizeof who, "%u:%d", getuid(), getpid());
    assert_string_equal(rpc_peer(world->client.rpc)->name, who);
    assert_string_equal(rpc_peer_address(world->client.rpc), "unix");
    assert_string_equal(rpc_local_address(world->client.rpc), "");
}

static void both_ends_may_call(void **state)
{
    struct world *world = *state;
    struct answer there = {0}, back = {0};
    connect_unix_pair(world);

    assert_int_equal(call(world->client.rpc, ECHO, "there", 5000, &there), 0);
    assert_int_equal(call(world->server.rpc, ECHO, "back", 5000, &back), 0);
    await(world, there.count && back.count);

    assert_string_equal(there.text, "there");
    assert_string_equal(back.text, "back");
}

static int open_text(const char *text)
{
    int fd = memfd_create("test", MFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    return fd;
}

static int descriptors_open(void)
{
    int count = 0;
    for (int fd = 0; fd < 1024; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

static void passes_descriptors_with_their_own_call(void **state)
{
    struct world *world = *state;
    connect_unix_pair(world);
    struct answer answers[3] = {0};
    AUTO_FD int first = open_text("first"), second = open_text("second");
    int before = descriptors_open();
    int fds[RPC_FDS_MAX];
    for (size_t i = 0; i < ARRAY_COUNT(fds); i++)
        fds[i] = i == 0 ? first : second;
    Godwit__Fault message = GODWIT__FAULT__INIT;

    assert_int_equal(rpc_call_fds(world->client.rpc, COUNT_FDS, &message.base, fds, RPC_FDS_MAX,
                                  &godwit__fault__descriptor, 5000, on_done, &answers[0], NULL),
                     0);
    assert_int_equal(call(world->client.rpc, COUNT_FDS, NULL, 5000, &answers[1]), 0);
    assert_int_equal(rpc_call_fds(world->client.rpc, HOLD, &message.base, fds, 3,
                                  &godwit__fault__descriptor, 5000, on_done, &answers[2], NULL),
                     0);
    await(world, answers[0].count && answers[1].count && world->server.held_count == 1);

    char all[8];
    (void)snprintf(all, sizeof all, "%d", RPC_FDS_MAX);
    assert_string_equal(answers[0].text, all);
    assert_string_equal(answers[1].text, "0");
    assert_string_equal(world->server.first_fd_text, "first");
    (void)rpc_reply(world->server.held[--world->server.held_count], &message.base);
    assert_int_equal(descriptors_open(), before); /* those not taken were closed */
}

static void refuses_descriptors_that_were_promised_and_did_not_come(void **state)
{
    struct world *world = *state;
    struct fault fault = {0};
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    AUTO_FD int raw = fds[1];
    assert_int_equal(
        rpc_new_unix(&world->client.rpc, world->loop, fds[0], &service, &world->client, &fault), 0);
    uint8_t header[RPC_HEADER_BYTES];
    rpc_frame_put(header, &(struct rpc_frame){.kind = RPC_FRAME_CALL, .method = ECHO, .fds = 2});

    assert_int_equal(write(raw, header, sizeof header), sizeof header);
    await(world, world->client.closed);

    assert_int_equal(world->client.fault.code, ERR_CORRUPT);
}

static void a_unix_server_welcomes_and_replaces_only_a_stale_socket(void **state)
{
    struct world *world = *state;
    struct fault fault = {0};
    char path[] = "/tmp/godwit-test-XXXXXX/sock", folder[sizeof path];
    memcpy(folder, path, sizeof path);
    folder[strlen(folder) - 5] = '\0';
    assert_non_null(mkdtemp(folder));
    memcpy(path, folder, strlen(folder));
    int stale = -1, listening = -1, again = -1, fd = -1;
    assert_int_equal(unix_listen(path, &stale, &fault), 0);
    (void)close(stale);

    assert_int_equal(unix_listen(path, &listening, &fault), 0);
    assert_int_equal(unix_listen(path, &again, &fault), ERR_EXISTS);
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0600);
    struct rpc_server_config config = {
        .unix_fd = listening, .service = &service, .data = &world->server, .on_peer = on_peer};
    assert_int_equal(rpc_server_new(&world->listener, world->loop, &config, &fault), 0);
    assert_int_equal(unix_connect(path, &fd, &fault), 0);
    assert_int_equal(
        rpc_new_unix(&world->client.rpc, world->loop, fd, &service, &world->client, &fault), 0);
    struct answer answer = {0};
    assert_int_equal(call(world->client.rpc, ECHO, "hi", 5000, &answer), 0);
    await(world, answer.count);

    assert_string_equal(answer.text, "hi");
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(folder), 0);
    assert_int_equal(unix_connect(path, &fd, &fault), ERR_NOT_FOUND);
}

static void who_does_not_accept_is_not_waited_for(void **state)
{
    (void)state;
    char folder[] = "/tmp/godwit-unix.XXXXXX", path[64];
    struct fault fault = {0};
    int listening = -1, fds[256], r = 0;
    size_t count = 0;
    assert_non_null(mkdtemp(folder));
    (void)snprintf(path, sizeof path, "%s/sock", folder);
    assert_int_equal(unix_listen(path, &listening, &fault), 0);

    while (count < 256 && (r = unix_connect(path, &fds[count], &fault)) == 0)
        count++;

    assert_int_equal(r, ERR_IO); /* and not as one that nobody listens at */
    assert_true(count > 0);
    while (count > 0)
        (void)close(fds[--count]);
    (void)close(listening);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(folder), 0);
}

/* ---- calls and their ends ---- */

static void a_peers_fault_arrives_with_code_text_and_hint_made_harmless(void **state)
{
    struct world *world = *state;
    struct answer answer = {0};
    connect_unix_pair(world);

    assert_int_equal(call(world->client.rpc, REFUSE, NULL, 5000, &answer), 0);
    await(world, answer.count);

    assert_int_equal(answer.fault.code, ERR_REFUSED);
    assert_string_equal(answer.fault.text, "no room for [2J vm 'a' ??31m");
    assert_string_equal(answer.fault.hint, "godwit host list");
}

static void an_unserved_method_gets_a_fault_and_an_unserved_event_none(void **state)
{
    struct world *world = *state;
    struct answer answer = {0};
    connect_unix_pair(world);
    Godwit__Fault message = GODWIT__FAULT__INIT;

    assert_int_equal(rpc_send_event(world->client.rpc, UNSERVED, &message.base, NULL), 0);
    assert_int_equal(rpc_send_event(world->client.rpc, NEWS, &message.base, NULL), 0);
    assert_int_equal(call(world->client.rpc, UNSERVED, NULL, 5000, &answer), 0);
    await(world, answer.count);

    assert_int_equal(answer.fault.code, ERR_UNSUPPORTED);
    assert_int_equal(world->server.news, 1);
    assert_int_equal(world->server.closed, 0);
}

static void a_call_times_out_once_and_a_late_reply_is_harmless(void **state)
{
    struct world *world = *state;
    struct answer late = {0}, next = {0};
    connect_unix_pair(world);
    assert_int_equal(call(world->client.rpc, HOLD, NULL, 1, &late), 0);
    await(world, late.count && world->server.held_count);
    assert_int_equal(late.fault.code, ERR_TIMEOUT);
    Godwit__Fault message = GODWIT__FAULT__INIT;

    assert_int_equal(rpc_reply(world->server.held[--world->server.held_count], &message.base), 0);
    assert_int_equal(call(world->client.rpc, ECHO, "next", 5000, &next), 0);
    await(world, next.count);

    assert_int_equal(late.count, 1);
    assert_string_equal(next.text, "next");
    assert_int_equal(world->client.closed, 0);
}

static void calls_under_way_fail_once_when_the_peer_goes(void **state)
{
    struct world *world = *state;
    struct answer held[3] = {0};
    connect_pair(world);
    for (size_t i = 0; i < ARRAY_COUNT(held); i++)
        assert_int_equal(call(world->client.rpc, HOLD, NULL, 0, &held[i]), 0);
    await(world, world->server.held_count == 3);

    world->server.rpc = rpc_close(world->server.rpc);
    await(world, world->client.closed);

    for (size_t i = 0; i < ARRAY_COUNT(held); i++) {
        assert_int_equal(held[i].count, 1);
        assert_int_equal(held[i].fault.code, ERR_CLOSED);
        assert_null(rpc_request_rpc(world->server.held[i]));
    }
    assert_int_equal(call(world->client.rpc, ECHO, NULL, 0, &held[0]), ERR_CLOSED);
    assert_int_equal(held[0].count, 1);
}

static void closing_in_a_done_forgets_the_other_calls(void **state)
{
    struct world *world = *state;
    connect_unix_pair(world);
    struct answer first = {.close_in_done = world->client.rpc}, second = {0};
    assert_int_equal(call(world->client.rpc, ECHO, NULL, 5000, &first), 0);
    assert_int_equal(call(world->client.rpc, ECHO, NULL, 5000, &second), 0);
    world->client.rpc = NULL;

    await(world, world->server.closed);

    assert_int_equal(first.count, 1);
    assert_int_equal(second.count, 0);
    assert_int_equal(world->client.closed, 0);
}

static void a_handler_may_close_its_own_rpc(void **state)
{
    struct world *world = *state;
    struct answer answers[2] = {0};
    connect_pair(world);
    world->server.close_on_call = true;
    assert_int_equal(call(world->client.rpc, ECHO, NULL, 5000, &answers[0]), 0);
    assert_int_equal(call(world->client.rpc, ECHO, NULL, 5000, &answers[1]), 0);

    await(world, world->client.closed);

    assert_int_equal(answers[0].fault.code, ERR_CLOSED);
    assert_int_equal(answers[1].fault.code, ERR_CLOSED);
    assert_int_equal(world->server.closed, 0);
}

static void no_more_calls_than_the_limit_wait_at_once(void **state)
{
    struct world *world = *state;
    struct answer answer = {0}, echo = {0};
    connect_pair(world);
    for (int i = 0; i < RPC_CALLS_MAX; i++)
        assert_int_equal(call(world->client.rpc, HOLD, NULL, 0, &answer), 0);
    assert_int_equal(call(world->client.rpc, ECHO, NULL, 0, &echo), ERR_BUSY);
    await(world, world->server.held_count == RPC_CALLS_MAX);
    Godwit__Fault message = GODWIT__FAULT__INIT;

    while (world->server.held_count > 0)
        assert_int_equal(rpc_reply(world->server.held[--world->server.held_count], &message.base),
                         0);
    await(world, answer.count == RPC_CALLS_MAX);

    assert_int_equal(call(world->client.rpc, ECHO, "now", 0, &echo), 0);
    await(world, echo.count);
    assert_string_equal(echo.text, "now");
}

static void survives_a_storm_of_calls_from_both_ends(void **state)
{
    struct world *world = *state;
    struct answer there = {0}, back = {0};
    connect_pair(world);
    int made = 0;

    while (made < 20000) {
        while (call(world->client.rpc, ECHO, "a storm of calls", 0, &there) == 0 &&
               call(world->server.rpc, ECHO, "a storm of calls", 0, &back) == 0)
            made++;
        loop_turn(world->loop, true);
    }
    await(world, there.count >= made && back.count >= made);

    assert_int_equal(there.fault.code, 0);
    assert_int_equal(back.fault.code, 0);
}

static void carries_a_message_of_full_size_and_refuses_a_larger_one(void **state)
{
    struct world *world = *state;
    struct answer large = {0}, larger = {0};
    connect_pair(world);
    char *text = calloc(1, RPC_BODY_MAX + 1);
    assert_non_null(text);
    memset(text, 'x', RPC_BODY_MAX);

    assert_int_equal(call(world->client.rpc, ECHO, text, 0, &larger), ERR_LIMIT);
    text[RPC_BODY_MAX - 16] = '\0';
    assert_int_equal(call(world->client.rpc, ECHO, text, 0, &large), 0);
    await(world, large.count);

    assert_int_equal(larger.count, 0);
    assert_int_equal(large.fault.code, 0);
    assert_int_equal(strlen(large.text), FAULT_TEXT_MAX - 1);
    free(text);
}

static void a_peer_that_does_not_read_loses_the_connection(void **state)
{
    struct world *world = *state;
    struct fault fault = {0};
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    AUTO_FD int silent = fds[1];
    (void)silent;
    assert_int_equal(
        rpc_new_unix(&world->client.rpc, world->loop, fds[0], &service, &world->client, &fault), 0);
    Godwit__Fault message = GODWIT__FAULT__INIT;
    char *text = calloc(1, 4 << 20);
    assert_non_null(text);
    memset(text, 'x', (4 << 20) - 1);
    message.text = text;

    int sent = 0, r;
    while ((r = rpc_send_event(world->client.rpc, NEWS, &message.base, &fault)) == 0)
        sent++;
    await(world, world->client.closed);

    assert_int_equal(r, ERR_LIMIT);
    assert_in_range(sent, 14, 16);
    assert_int_equal(world->client.fault.code, ERR_LIMIT);
    free(text);
}

static void closing_flushed_delivers_what_was_said(void **state)
{
    struct world *world = *state;
    connect_pair(world);
    Godwit__Fault message = GODWIT__FAULT__INIT;
    char *text = calloc(1, 1 << 20);
    assert_non_null(text);
    memset(text, 'x', (1 << 20) - 1);
    message.text = text;

    for (int i = 0; i < 20; i++)
        assert_int_equal(rpc_send_event(world->client.rpc, NEWS, &message.base, NULL), 0);
    world->client.rpc = rpc_close_flushed(world->client.rpc);
    await(world, world->server.closed);

    assert_int_equal(world->server.news, 20);
    assert_int_equal(world->server.fault.code, ERR_CLOSED);
    free(text);
}

struct slow_reader {
    struct world *world;
    int fd;
    size_t count;
    bool is_over;
};

/* Every 300 ms as much as the socket holds: at no time silent for long, and late all the same. */
static void read_slowly(void *data)
{
    struct slow_reader *reader = data;
    static char bytes[1 << 20];
    ssize_t got = read(reader->fd, bytes, sizeof bytes);
    if (got > 0)
        reader->count += (size_t)got;
    if (got == 0)
        reader->is_over = true;
}

static void closing_flushed_waits_for_a_slow_reader(void **state)
{
    struct world *world = *state;
    struct fault fault = {0};
    struct slow_reader reader = {.world = world};
    struct loop_timer *timer = NULL;
    int fds[2], size = 256 << 10;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds), 0);
    AUTO_FD int slow = reader.fd = fds[1];
    (void)slow;
    assert_int_equal(setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof size), 0);
    assert_int_equal(
        rpc_new_unix(&world->client.rpc, world->loop, fds[0], &service, &world->client, &fault), 0);
    Godwit__Fault message = GODWIT__FAULT__INIT;
    char *text = calloc(1, 4 << 20);
    assert_non_null(text);
    memset(text, 'x', (4 << 20) - 1);
    message.text = text;
    assert_int_equal(loop_timer_new(&timer, world->loop, read_slowly, &reader, &fault), 0);

    assert_int_equal(rpc_send_event(world->client.rpc, NEWS, &message.base, NULL), 0);
    world->client.rpc = rpc_close_flushed(world->client.rpc);
    loop_timer_start(timer, 300, 300);
    await(world, reader.is_over);

    assert_true(reader.count > 4 << 20);
    timer = loop_timer_free(timer);
    free(text);
}

/* ---- bad peers ---- */

static void raw_unix(struct world *world, const void *bytes, size_t count)
{
    struct fault fault = {0};
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    AUTO_FD int raw = fds[1];
    assert_int_equal(
        rpc_new_unix(&world->client.rpc, world->loop, fds[0], &service, &world->client, &fault), 0);
    assert_int_equal(write(raw, bytes, count), count);
    assert_int_equal(shutdown(raw, SHUT_WR), 0);
    await(world, world->client.closed);
}

static void garbage_ends_the_connection_with_a_reason(void **state)
{
    struct world *world = *state;

    raw_unix(world, "GET / HTTP/1.1\r\nHost: x\r\n\r\n", 27);

    assert_int_equal(world->client.fault.code, ERR_CORRUPT);
    assert_non_null(strstr(world->client.fault.text, "unknown kind"));
}

static void an_oversized_frame_ends_the_connection_at_its_header(void **state)
{
    struct world *world = *state;
    uint8_t header[RPC_HEADER_BYTES];
    rpc_frame_put(header, &(struct rpc_frame){.kind = RPC_FRAME_CALL, .body_bytes = RPC_BODY_MAX});
    header[0] = 1;

    raw_unix(world, header, sizeof header);

    assert_int_equal(world->client.fault.code, ERR_LIMIT);
}

static void another_pool_that_we_called_may_send_no_more_than_one_that_calls(void **state)
{
    struct world *world = *state;
    struct fault fault = {0};
    uint8_t header[RPC_HEADER_BYTES];
    int fds[2];
    rpc_frame_put(header, &(struct rpc_frame){.kind = RPC_FRAME_CALL, .body_bytes = 1 << 20}); /* of a coordinator: fine */
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    AUTO_FD int raw = fds[1];
    assert_int_equal(
        rpc_new_unix(&world->client.rpc, world->loop, fds[0], &service, &world->client, &fault), 0);
    rpc_limit_as_peer(world->client.rpc);

    assert_int_equal(write(raw, header, sizeof header), sizeof header);
    await(world, world->client.closed);

    assert_int_equal(world->client.fault.code, ERR_LIMIT);
}

static void an_answer_to_no_call_ends_the_connection(void **state)
{
    struct world *world = *state;
    uint8_t header[RPC_HEADER_BYTES];
    rpc_frame_put(header, &(struct rpc_frame){.kind = RPC_FRAME_REPLY, .call = 5 << 8 | 1});

    raw_unix(world, header, sizeof header);

    assert_int_equal(world->client.fault.code, ERR_CORRUPT);
}

static void a_truncated_frame_is_never_served(void **state)
{
    struct world *world = *state;
    uint8_t bytes[RPC_HEADER_BYTES + 3] = {0};
    rpc_frame_put(bytes,
                  &(struct rpc_frame){.kind = RPC_FRAME_EVENT, .method = NEWS, .body_bytes = 4});

    raw_unix(world, bytes, sizeof bytes);

    assert_int_equal(world->client.fault.code, ERR_CLOSED);
    assert_int_equal(world->client.news, 0);
}

static void a_garbled_body_is_refused_and_the_next_call_served(void **state)
{
    struct world *world = *state;
    struct fault fault = {0};
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    AUTO_FD int raw = fds[1];
    assert_int_equal(
        rpc_new_unix(&world->client.rpc, world->loop, fds[0], &service, &world->client, &fault), 0);
    uint8_t bytes[2 * RPC_HEADER_BYTES + 2] = {0};
    rpc_frame_put(bytes, &(struct rpc_frame){
                             .kind = RPC_FRAME_CALL, .method = ECHO, .body_bytes = 2, .call = 256});
    memset(bytes + RPC_HEADER_BYTES, 0xff, 2);
    rpc_frame_put(bytes + RPC_HEADER_BYTES + 2,
                  &(struct rpc_frame){.kind = RPC_FRAME_EVENT, .method = NEWS});

    assert_int_equal(write(raw, bytes, sizeof bytes), sizeof bytes);
    await(world, world->client.news == 1);

    uint8_t answer[256];
    assert_true(read(raw, answer, sizeof answer) > RPC_HEADER_BYTES);
    assert_int_equal(answer[4], RPC_FRAME_FAULT);
    assert_int_equal(world->client.closed, 0);
}

/* ---- over TLS ---- */

static void answers_a_call_over_tls_and_knows_the_peer(void **state)
{
    struct world *world = *state;
    struct answer answer = {0};
    connect_pair(world);

    assert_int_equal(call(world->client.rpc, ECHO, "hello", 5000, &answer), 0);
    await(world, answer.count);

    assert_string_equal(answer.text, "hello");
    assert_string_equal(rpc_peer(world->client.rpc)->role, "coordinator");
    assert_string_equal(rpc_peer(world->server.rpc)->role, "host");
    assert_string_equal(rpc_peer(world->server.rpc)->name, "node1");
    assert_string_equal(rpc_peer(world->server.rpc)->pool, "pool-a");
    assert_string_equal(rpc_local_address(world->client.rpc), "127.0.0.1");
    assert_string_equal(rpc_peer_address(world->client.rpc), world->address);
}

static void connects_by_name_trying_every_address(void **state)
{
    struct world *world = *state;
    serve(world, ordinary(world, "coordinator"));
    (void)snprintf(world->address, sizeof world->address, "localhost:%u",
                   rpc_server_port(world->listener));

    call_server(world, ordinary(world, "host"), "coordinator");
    await(world, world->client.opened);

    assert_int_equal(world->client.fault.code, 0);
}

static void expect_no_entry(struct world *world, int code)
{
    await(world, world->client.opened);
    assert_int_equal(world->client.opened, 1);
    assert_int_equal(world->client.fault.code, code);
    struct answer answer = {0};
    assert_int_equal(call(world->client.rpc, ECHO, NULL, 0, &answer), ERR_CLOSED);
    world->client.rpc = rpc_close(world->client.rpc);
    assert_int_equal(world->server.opened, 0);
    assert_int_equal(world->client.closed, 0);
}

static void a_server_of_another_ca_is_not_trusted(void **state)
{
    struct world *world = *state;
    serve(world, member(world->other_ca, world->other_key, "pool-a", "coordinator", 30,
                        world->other_ca, NULL, false));

    call_server(world, ordinary(world, "host"), "coordinator");

    expect_no_entry(world, ERR_DENIED);
}

static void a_client_of_another_ca_does_not_get_in(void **state)
{
    struct world *world = *state;
    serve(world, ordinary(world, "coordinator"));

    call_server(
        world,
        member(world->other_ca, world->other_key, "pool-a", "host", 30, world->ca, NULL, false),
        "coordinator");

    expect_no_entry(world, ERR_DENIED);
}

static void a_client_of_another_pool_under_the_same_ca_does_not_get_in(void **state)
{
    struct world *world = *state;
    serve(world, ordinary(world, "coordinator"));

    call_server(world,
                member(world->ca, world->ca_key, "pool-b", "host", 30, world->ca, NULL, false),
                "coordinator");

    expect_no_entry(world, ERR_DENIED);
}

static void a_host_cannot_pass_for_a_coordinator(void **state)
{
    struct world *world = *state;
    serve(world, ordinary(world, "host"));

    call_server(world, ordinary(world, "host"), "coordinator");

    await(world, world->client.opened);
    assert_int_equal(world->client.fault.code, ERR_DENIED);
    assert_non_null(strstr(world->client.fault.text, "host 'node1'"));
}

static void a_client_without_certificate_does_not_get_in(void **state)
{
    struct world *world = *state;
    serve(world, ordinary(world, "coordinator"));

    call_server(world, stranger(world, world->ca, NULL), "coordinator");

    expect_no_entry(world, ERR_DENIED);
}

static void enrolment_works_with_the_pin_alone(void **state)
{
    struct world *world = *state;
    struct answer answer = {0};
    serve(world,
          member(world->ca, world->ca_key, "pool-a", "coordinator", 30, world->ca, NULL, true));

    call_server(world, stranger(world, NULL, world->pin), "coordinator");
    await(world, world->client.opened && world->server.opened);

    assert_int_equal(world->client.fault.code, 0);
    assert_string_equal(rpc_peer(world->server.rpc)->role, "");
    assert_string_equal(rpc_peer(world->client.rpc)->role, "coordinator");
    assert_int_equal(call(world->client.rpc, ECHO, "let me in", 5000, &answer), 0);
    await(world, answer.count);
    assert_string_equal(answer.text, "let me in");
}

static void an_anonymous_peer_may_not_send_much(void **state)
{
    struct world *world = *state;
    struct answer answer = {0};
    serve(world,
          member(world->ca, world->ca_key, "pool-a", "coordinator", 30, world->ca, NULL, true));
    call_server(world, stranger(world, NULL, world->pin), "coordinator");
    await(world, world->client.opened && world->server.opened);
    char text[(64 << 10) + 1];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';

    assert_int_equal(call(world->client.rpc, ECHO, text, 5000, &answer), 0);
    await(world, world->client.closed && world->server.closed);

    assert_int_equal(world->server.fault.code, ERR_LIMIT);
    assert_int_equal(answer.fault.code, ERR_CLOSED);
}

/* Another pool says more than a stranger, and less than our own. */
static void a_peer_pool_may_not_send_as_much_as_a_host(void **state)
{
    struct world *world = *state;
    struct answer first = {0}, answer = {0};
    serve(world, ordinary(world, "coordinator"));
    call_server(world, ordinary(world, "peer"), "coordinator");
    await(world, world->client.opened && world->server.opened);
    enum { FITS = 300 << 10, MORE = 513 << 10 };
    AUTO_FREE char *text = malloc(MORE + 1);
    assert_non_null(text);
    memset(text, 'x', MORE);
    text[FITS] = '\0';
    assert_int_equal(call(world->client.rpc, ECHO, text, 5000, &first), 0);
    await(world, first.count);
    assert_int_equal(first.fault.code, 0);
    text[FITS] = 'x';
    text[MORE] = '\0';

    assert_int_equal(call(world->client.rpc, ECHO, text, 5000, &answer), 0);
    await(world, world->client.closed && world->server.closed);

    assert_int_equal(world->server.fault.code, ERR_LIMIT);
    assert_int_equal(answer.fault.code, ERR_CLOSED);
}

static void a_pin_of_another_ca_is_not_satisfied(void **state)
{
    struct world *world = *state;
    struct fault fault = {0};
    char pin[PKI_PIN_SIZE];
    assert_int_equal(pki_pin(world->other_ca, pin, &fault), 0);
    serve(world,
          member(world->ca, world->ca_key, "pool-a", "coordinator", 30, world->ca, NULL, true));

    call_server(world, stranger(world, NULL, pin), "coordinator");

    await(world, world->client.opened);
    assert_int_equal(world->client.fault.code, ERR_DENIED);
    assert_non_null(strstr(world->client.fault.text, "token"));
}

/* A server that sends the pinned CA along, but whose own certificate is another CA's. */
static void sending_the_pinned_ca_along_does_not_satisfy_the_pin(void **state)
{
    struct world *world = *state;
    serve(world, member(world->other_ca, world->other_key, "pool-a", "coordinator", 30, world->ca,
                        NULL, true));

    call_server(world, stranger(world, NULL, world->pin), "coordinator");

    await(world, world->client.opened);
    assert_int_equal(world->client.fault.code, ERR_DENIED);
}

/* ---- reaching nobody ---- */

static void nobody_listening_is_told_as_unreachable(void **state)
{
    struct world *world = *state;
    serve(world, ordinary(world, "coordinator"));
    world->listener = rpc_server_free(world->listener);

    call_server(world, ordinary(world, "host"), "coordinator");
    await(world, world->client.opened);

    assert_int_equal(world->client.fault.code, ERR_UNREACHABLE);
    assert_non_null(strstr(world->client.fault.text, "127.0.0.1"));
}

static void addresses_that_are_none_are_refused_at_once(void **state)
{
    struct world *world = *state;
    static const char *const bad[] = {
        "host", ":1", "host:", "host:65536", "host:1x", "::1:80", "[::1:80", "[]:80", ""};
    struct tls_context *context = ordinary(world, "host");
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        struct fault fault = {0};
        int r = rpc_connect(&world->client.rpc, world->loop, bad[i], context, "coordinator",
                            &service, &world->client, on_opened, &fault);
        assert_int_equal(r, ERR_INVALID);
    }
    (void)tls_context_free(context);
}

static void closing_before_the_connection_is_there_is_quiet(void **state)
{
    struct world *world = *state;
    serve(world, ordinary(world, "coordinator"));
    (void)snprintf(world->address, sizeof world->address, "localhost:%u",
                   rpc_server_port(world->listener));

    call_server(world, ordinary(world, "host"), "coordinator");
    world->client.rpc = rpc_close(world->client.rpc);
    call_server(world, ordinary(world, "host"), "coordinator");
    await(world, world->client.opened);

    assert_int_equal(world->client.opened, 1);
}

static int raw_client(struct world *world)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons(rpc_server_port(world->listener)),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
    return fd;
}

static bool is_at_end(int fd)
{
    char bytes[512];
    ssize_t got;
    while ((got = read(fd, bytes, sizeof bytes)) > 0)
        continue;
    return got == 0 || (errno != EAGAIN && errno != EINTR);
}

static void a_client_that_speaks_no_tls_is_dropped(void **state)
{
    struct world *world = *state;
    serve(world, ordinary(world, "coordinator"));
    AUTO_FD int fd = raw_client(world);

    assert_int_equal(write(fd, "GET / HTTP/1.0\r\n\r\n", 18), 18);
    await(world, is_at_end(fd));

    assert_int_equal(world->server.opened, 0);
}

static void a_client_that_says_nothing_is_dropped(void **state)
{
    struct world *world = *state;
    serve(world, ordinary(world, "coordinator"));
    AUTO_FD int fd = raw_client(world);

    await(world, is_at_end(fd)); /* after CONNECT_MS_MAX */

    assert_int_equal(world->server.opened, 0);
}

static void a_server_that_says_nothing_is_given_up(void **state)
{
    struct world *world = *state;
    AUTO_FD int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    assert_int_equal(bind(fd, (struct sockaddr *)&address, size), 0);
    assert_int_equal(listen(fd, 1), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &size), 0);
    (void)snprintf(world->address, sizeof world->address, "127.0.0.1:%u", ntohs(address.sin_port));

    call_server(world, ordinary(world, "host"), "coordinator");
    await(world, world->client.opened);

    assert_int_equal(world->client.fault.code, ERR_TIMEOUT);
}

static void a_crowd_of_strangers_keeps_nobody_out(void **state)
{
    struct world *world = *state;
    serve(world, ordinary(world, "coordinator"));
    int crowd[300];
    for (size_t i = 0; i < ARRAY_COUNT(crowd); i++) {
        crowd[i] = raw_client(world);
        loop_turn(world->loop, false);
    }

    call_server(world, ordinary(world, "host"), "coordinator");
    await(world, world->client.opened);

    assert_int_equal(world->client.fault.code, 0);
    await(world, is_at_end(crowd[0]));
    for (size_t i = 0; i < ARRAY_COUNT(crowd); i++)
        (void)close(crowd[i]);
}

#define test(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        test(answers_a_call_over_a_unix_socket),
        test(both_ends_may_call),
        test(passes_descriptors_with_their_own_call),
        test(refuses_descriptors_that_were_promised_and_did_not_come),
        test(a_unix_server_welcomes_and_replaces_only_a_stale_socket),
        cmocka_unit_test(who_does_not_accept_is_not_waited_for),
        test(a_peers_fault_arrives_with_code_text_and_hint_made_harmless),
        test(an_unserved_method_gets_a_fault_and_an_unserved_event_none),
        test(a_call_times_out_once_and_a_late_reply_is_harmless),
        test(calls_under_way_fail_once_when_the_peer_goes),
        test(closing_in_a_done_forgets_the_other_calls),
        test(a_handler_may_close_its_own_rpc),
        test(no_more_calls_than_the_limit_wait_at_once),
        test(survives_a_storm_of_calls_from_both_ends),
        test(carries_a_message_of_full_size_and_refuses_a_larger_one),
        test(a_peer_that_does_not_read_loses_the_connection),
        test(closing_flushed_delivers_what_was_said),
        test(closing_flushed_waits_for_a_slow_reader),
        test(garbage_ends_the_connection_with_a_reason),
        test(an_oversized_frame_ends_the_connection_at_its_header),
        test(an_answer_to_no_call_ends_the_connection),
        test(a_truncated_frame_is_never_served),
        test(another_pool_that_we_called_may_send_no_more_than_one_that_calls),
        test(a_garbled_body_is_refused_and_the_next_call_served),
        test(answers_a_call_over_tls_and_knows_the_peer),
        test(connects_by_name_trying_every_address),
        test(a_server_of_another_ca_is_not_trusted),
        test(a_client_of_another_ca_does_not_get_in),
        test(a_client_of_another_pool_under_the_same_ca_does_not_get_in),
        test(a_host_cannot_pass_for_a_coordinator),
        test(a_client_without_certificate_does_not_get_in),
        test(enrolment_works_with_the_pin_alone),
        test(an_anonymous_peer_may_not_send_much),
        test(a_peer_pool_may_not_send_as_much_as_a_host),
        test(a_pin_of_another_ca_is_not_satisfied),
        test(sending_the_pinned_ca_along_does_not_satisfy_the_pin),
        test(nobody_listening_is_told_as_unreachable),
        test(addresses_that_are_none_are_refused_at_once),
        test(closing_before_the_connection_is_there_is_quiet),
        test(a_client_that_speaks_no_tls_is_dropped),
        test(a_client_that_says_nothing_is_dropped),
        test(a_server_that_says_nothing_is_given_up),
        test(a_crowd_of_strangers_keeps_nobody_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

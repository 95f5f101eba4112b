/* A real godwit-coordinator process, with fake agents over real TLS. */
#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/config.h"
#include "base/err.h"
#include "base/loop.h"
#include "base/own.h"
#include "base/world.h"
#include "net/pki.h"
#include "net/rpc.h"
#include "proto/limits.h"
#include "proto/method.h"
#include "proto/peer.pb-c.h"
#include "proto/peer_dr.pb-c.h"
#include "proto/pool.pb-c.h"
#include "proto/token.h"

#define POOL_ID "pool-1"
enum { WAIT_MS = 15000 };

struct agent { /* what a fake agent knows of its one VM */
    char name[16];
    char *certificate, *key;
    struct rpc *rpc;
    bool is_open;
    bool has_vm, refuses_move_in;
    char vm_id[64], move_id[64];
    Godwit__VmState state;
    uint64_t generation, latch_generation;
    Godwit__Latch latch;
    unsigned input_bytes, move_ins, move_outs, abandons, starteds, cancels, resumes, stops, drops;
    bool saw_psk;
};

struct room {
    char directory[64];
    char address[64];
    pid_t coordinator;
    struct loop *loop;
    struct loop_timer *timer;
    char *ca_certificate, *ca_key;
    char *operator_certificate, *operator_key;
    struct rpc *operator_rpc;
    bool operator_is_open;
    struct agent agents[2];
    Godwit__JobInfo *news; /* the last JOB_EVENT */
    unsigned news_count;
    uint64_t taken; /* what was told last of typed bytes, and how often that was */
    unsigned taken_count, early_count;
    bool has_opened;
};
static struct room room; /* one test at a time */

/* ---- waiting ----------------------------------------------------------------------------------
 */

static void nothing(void *data)
{
    (void)data;
}

static void wait_until(bool (*is_true)(void *data), void *data)
{
    uint64_t begin = world_now_ms();
    while (!is_true(data)) {
        if (world_now_ms() - begin > WAIT_MS)
            fail_msg("waited for %d ms in vain", WAIT_MS);
        loop_timer_start(room.timer, 20, 0);
        loop_turn(room.loop, true);
    }
}

struct answer {
    bool is_there;
    void *message;
    struct fault fault;
};

static void *copy_of(const ProtobufCMessage *message)
{
    size_t size = protobuf_c_message_get_packed_size(message);
    AUTO_FREE uint8_t *bytes = malloc(size + 1);
    assert_non_null(bytes);
    (void)protobuf_c_message_pack(message, bytes);
    return protobuf_c_message_unpack(message->descriptor, NULL, size, bytes);
}

static void on_answer(void *data, const ProtobufCMessage *reply, const struct fault *fault)
{
    struct answer *answer = data;
    answer->is_there = true;
    if (reply)
        answer->message = copy_of(reply);
    else
        answer->fault = *fault;
}

static bool answer_is_there(void *data)
{
    return ((struct answer *)data)->is_there;
}

/* Gives the reply; NULL with `ret_fault` set. */
static void *call(struct rpc *rpc, uint16_t method, const void *request,
                  const ProtobufCMessageDescriptor *reply, struct fault *ret_fault)
{
    static struct answer answer; /* outlives a failing test's stack */
    struct fault fault = {0};
    memset(&answer, 0, sizeof answer);
    int r = rpc_call(rpc, method, request, reply, 10000, on_answer, &answer, &fault);
    if (r < 0)
        fail_msg("%s", fault.text);
    wait_until(answer_is_there, &answer);
    if (ret_fault)
        *ret_fault = answer.fault;
    return answer.message;
}

#define FREE(message) protobuf_c_message_free_unpacked((ProtobufCMessage *)(message), NULL)

/* ---- fake agents ------------------------------------------------------------------------------
 */

static Godwit__VmStatus *status_of(struct agent *agent)
{
    static Godwit__VmStatus status;
    static Godwit__MoveLatch latch;
    godwit__vm_status__init(&status);
    godwit__move_latch__init(&latch);
    status.vm_id = agent->vm_id;
    status.has_state = status.has_generation = true;
    status.state = agent->state;
    status.generation = agent->generation;
    if (agent->latch) {
        latch.move_id = agent->move_id;
        latch.has_latch = latch.has_generation = true;
        latch.latch = agent->latch;
        latch.generation = agent->latch_generation;
        status.latch = &latch;
    }
    return &status;
}

static void reply_status(struct agent *agent, struct rpc_request *request)
{
    struct fault fault = {0};
    if (agent->has_vm) {
        (void)rpc_reply(request, &status_of(agent)->base);
        return;
    }
    fault_set(&fault, ERR_NOT_FOUND, "%s has no such VM", agent->name);
    (void)rpc_reply_fault(request, &fault);
}

static void on_start(void *data, struct rpc *rpc, struct rpc_request *request,
                     const ProtobufCMessage *message)
{
    (void)rpc;
    struct agent *agent = data;
    const Godwit__OrderVmStart *order = (const Godwit__OrderVmStart *)message;
    agent->has_vm = true;
    (void)snprintf(agent->vm_id, sizeof agent->vm_id, "%s", order->vm_id);
    agent->state = GODWIT__VM_STATE__VM_STATE_RUNNING;
    agent->generation = order->generation;
    reply_status(agent, request);
}

static void on_stop(void *data, struct rpc *rpc, struct rpc_request *request,
                    const ProtobufCMessage *message)
{
    (void)rpc;
    (void)message;
    struct agent *agent = data;
    agent->stops++;
    agent->state = GODWIT__VM_STATE__VM_STATE_STOPPED;
    reply_status(agent, request);
}

static void on_pause(void *data, struct rpc *rpc, struct rpc_request *request,
                     const ProtobufCMessage *message)
{
    (void)rpc;
    (void)message;
    struct agent *agent = data;
    agent->state = GODWIT__VM_STATE__VM_STATE_PAUSED;
    reply_status(agent, request);
}

static void on_status(void *data, struct rpc *rpc, struct rpc_request *request,
                      const ProtobufCMessage *message)
{
    (void)rpc;
    (void)message;
    reply_status(data, request);
}

static void on_move_in(void *data, struct rpc *rpc, struct rpc_request *request,
                       const ProtobufCMessage *message)
{
    (void)rpc;
    struct agent *agent = data;
    const Godwit__MoveIn *order = (const Godwit__MoveIn *)message;
    agent->move_ins++;
    agent->saw_psk = order->psk.len == 32;
    if (agent->refuses_move_in) {
        struct fault fault = {0};
        fault_set(&fault, ERR_NOMEM, "%s has no memory for it after all", agent->name);
        (void)rpc_reply_fault(request, &fault);
        return;
    }
    agent->has_vm = true;
    agent->state = GODWIT__VM_STATE__VM_STATE_INCOMING;
    agent->generation = 0;
    agent->latch = GODWIT__LATCH__LATCH_IN;
    agent->latch_generation = order->generation;
    (void)snprintf(agent->vm_id, sizeof agent->vm_id, "%s", order->vm_id);
    (void)snprintf(agent->move_id, sizeof agent->move_id, "%s", order->move_id);
    Godwit__MoveInReply reply = GODWIT__MOVE_IN_REPLY__INIT;
    reply.address = (char *)(uintptr_t) "127.0.0.1:4711";
    (void)rpc_reply(request, &reply.base);
}

static void on_move_out(void *data, struct rpc *rpc, struct rpc_request *request,
                        const ProtobufCMessage *message)
{
    (void)rpc;
    struct agent *agent = data;
    const Godwit__MoveOut *order = (const Godwit__MoveOut *)message;
    agent->move_outs++;
    agent->saw_psk = order->psk.len == 32 && strcmp(order->address, "127.0.0.1:4711") == 0;
    agent->latch = GODWIT__LATCH__LATCH_OUT;
    agent->latch_generation = order->generation;
    (void)snprintf(agent->move_id, sizeof agent->move_id, "%s", order->move_id);
    Godwit__Empty reply = GODWIT__EMPTY__INIT;
    (void)rpc_reply(request, &reply.base);
}

static void on_verdict(void *data, struct rpc *rpc, struct rpc_request *request,
                       const ProtobufCMessage *message)
{
    (void)rpc;
    struct agent *agent = data;
    const Godwit__MoveVerdict *verdict = (const Godwit__MoveVerdict *)message;
    switch (verdict->kind) {
    case GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_CANCEL:
        agent->cancels++;
        if (agent->latch == GODWIT__LATCH__LATCH_OUT)
            agent->latch = GODWIT__LATCH__LATCH_ABORTED;
        break;
    case GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_TAKE:
        if (agent->latch == GODWIT__LATCH__LATCH_READY) {
            agent->latch = GODWIT__LATCH__LATCH_TOOK;
            agent->state = GODWIT__VM_STATE__VM_STATE_RUNNING;
            agent->generation = agent->latch_generation;
        }
        break;
    case GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_STARTED:
        agent->starteds++;
        agent->latch = GODWIT__LATCH__LATCH_RELEASED;
        agent->state = GODWIT__VM_STATE__VM_STATE_GONE;
        break;
    case GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_ABANDON:
        agent->abandons++;
        if (agent->latch == GODWIT__LATCH__LATCH_IN || agent->latch == GODWIT__LATCH__LATCH_READY)
            agent->latch = GODWIT__LATCH__LATCH_ABANDONED;
        agent->state = GODWIT__VM_STATE__VM_STATE_GONE;
        break;
    case GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_RESUME:
        agent->resumes++;
        agent->generation = verdict->generation;
        agent->state = GODWIT__VM_STATE__VM_STATE_RUNNING;
        break;
    case GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_DROP:
        agent->drops++;
        agent->has_vm = false;
        break;
    case _GODWIT__MOVE_VERDICT_KIND_IS_INT_SIZE:
        break;
    }
    reply_status(agent, request);
}

static void on_logs(void *data, struct rpc *rpc, struct rpc_request *request,
                    const ProtobufCMessage *message)
{
    (void)data;
    (void)rpc;
    (void)message;
    static char text[] = "hello from the guest\n";
    Godwit__LogsReply reply = GODWIT__LOGS_REPLY__INIT;
    reply.has_data = true;
    reply.data = (ProtobufCBinaryData){.data = (uint8_t *)text, .len = strlen(text)};
    (void)rpc_reply(request, &reply.base);
}

static void on_attach(void *data, struct rpc *rpc, struct rpc_request *request,
                      const ProtobufCMessage *message)
{
    (void)data;
    (void)rpc;
    (void)message;
    Godwit__ConsoleData reply = GODWIT__CONSOLE_DATA__INIT;
    reply.has_data = true; /* of no bytes: its guest has written nothing here */
    (void)rpc_reply(request, &reply.base);
}

static void on_input(void *data, struct rpc *rpc, struct rpc_request *request,
                     const ProtobufCMessage *message)
{
    struct agent *agent = data;
    (void)request;
    const Godwit__ConsoleData *input = (const Godwit__ConsoleData *)message;
    Godwit__ConsoleData told = GODWIT__CONSOLE_DATA__INIT;
    agent->input_bytes += (unsigned)input->data.len;
    told.vm_id = input->vm_id;
    told.has_session = told.has_stream = told.has_taken = true;
    told.session = input->session;
    told.stream = input->stream;
    told.taken = input->at + input->data.len;
    (void)rpc_send_event(rpc, METHOD_AGENT_CONSOLE_OUTPUT, &told.base, NULL);
}

static void on_agent_closed(void *data, struct rpc *rpc, const struct fault *fault)
{
    (void)fault;
    struct agent *agent = data;
    (void)rpc_close(rpc);
    agent->rpc = NULL;
    agent->is_open = false;
}

static const struct rpc_method agent_methods[] = {
    {METHOD_ORDER_VM_START, &godwit__order_vm_start__descriptor, on_start},
    {METHOD_ORDER_VM_STOP, &godwit__order_vm_stop__descriptor, on_stop},
    {METHOD_ORDER_VM_PAUSE, &godwit__vm_action__descriptor, on_pause},
    {METHOD_ORDER_VM_STATUS, &godwit__vm_action__descriptor, on_status},
    {METHOD_ORDER_MOVE_IN, &godwit__move_in__descriptor, on_move_in},
    {METHOD_ORDER_MOVE_OUT, &godwit__move_out__descriptor, on_move_out},
    {METHOD_ORDER_MOVE_VERDICT, &godwit__move_verdict__descriptor, on_verdict},
    {METHOD_ORDER_LOGS, &godwit__order_logs__descriptor, on_logs},
    {METHOD_ORDER_CONSOLE_ATTACH, &godwit__console_attach__descriptor, on_attach},
    {METHOD_ORDER_CONSOLE_INPUT, &godwit__console_data__descriptor, on_input},
};
static const struct rpc_service agent_service = {.methods = agent_methods,
                                                 .method_count = ARRAY_COUNT(agent_methods),
                                                 .on_closed = on_agent_closed};

static void on_job_event(void *data, struct rpc *rpc, struct rpc_request *request,
                         const ProtobufCMessage *message)
{
    (void)data;
    (void)rpc;
    (void)request;
    if (room.news)
        FREE(room.news);
    room.news = copy_of(message);
    room.news_count++;
}

static void on_console_data(void *data, struct rpc *rpc, struct rpc_request *request,
                            const ProtobufCMessage *message)
{
    (void)data;
    (void)rpc;
    (void)request;
    const Godwit__VmConsoleData *event = (const Godwit__VmConsoleData *)message;
    room.early_count += event->has_data;
    if (!event->has_taken)
        return;
    room.taken = event->taken;
    room.taken_count++;
}

static void on_operator_closed(void *data, struct rpc *rpc, const struct fault *fault)
{
    (void)data;
    (void)fault;
    (void)rpc_close(rpc);
    room.operator_rpc = NULL;
    room.operator_is_open = false;
}

static const struct rpc_method operator_methods[] = {
    {METHOD_JOB_EVENT, &godwit__job_info__descriptor, on_job_event},
    {METHOD_VM_CONSOLE_DATA, &godwit__vm_console_data__descriptor, on_console_data},
};
static const struct rpc_service operator_service = {.methods = operator_methods,
                                                    .method_count = ARRAY_COUNT(operator_methods),
                                                    .on_closed = on_operator_closed};

/* ---- connecting -------------------------------------------------------------------------------
 */

static void on_opened(void *data, struct rpc *rpc, const struct fault *fault)
{
    (void)rpc;
    (void)data;
    room.has_opened = true;
    room.operator_is_open = !fault; /* for whichever opens now */
}

static bool has_opened(void *data)
{
    (void)data;
    return room.has_opened;
}

/* Connects, again while the coordinator is not up yet. */
static struct rpc *connect_as(const char *certificate, const char *key, const char *pin,
                              const struct rpc_service *service, void *data)
{
    struct fault fault = {0};
    struct tls_identity identity = {.ca_certificate = pin ? NULL : room.ca_certificate,
                                    .pin = pin,
                                    .certificate = certificate,
                                    .key = key};
    struct tls_context *context = NULL;
    if (tls_context_new(&context, &identity, &fault) < 0)
        fail_msg("%s", fault.text);
    struct rpc *rpc = NULL;
    uint64_t begin = world_now_ms();
    for (;;) {
        room.has_opened = false;
        int r = rpc_connect(&rpc, room.loop, room.address, context, "coordinator", service, data,
                            on_opened, &fault);
        assert_int_equal(r, 0);
        wait_until(has_opened, NULL);
        if (room.operator_is_open)
            break;
        rpc = rpc_close(rpc);
        if (world_now_ms() - begin > WAIT_MS)
            fail_msg("the coordinator cannot be reached");
        loop_timer_start(room.timer, 50, 0);
        loop_turn(room.loop, true);
    }
    (void)tls_context_free(context);
    return rpc;
}

static void connect_operator(void)
{
    room.operator_rpc =
        connect_as(room.operator_certificate, room.operator_key, NULL, &operator_service, NULL);
}

static void say_hello(struct agent *agent)
{
    Godwit__BaselineFact v1 = GODWIT__BASELINE_FACT__INIT, v2 = GODWIT__BASELINE_FACT__INIT;
    Godwit__BaselineFact *baselines[] = {&v1, &v2};
    v1.name = (char *)(uintptr_t) "x86-64-v1";
    v2.name = (char *)(uintptr_t) "x86-64-v2";
    v1.has_given = v1.given = v2.has_given = v2.given = true;
    Godwit__HostFacts facts = GODWIT__HOST_FACTS__INIT;
    facts.name = agent->name;
    facts.incarnation = (char *)(uintptr_t) "boot-1";
    facts.has_kvm = facts.kvm = true;
    facts.has_memory_bytes = facts.has_memory_free_bytes = true;
    facts.memory_bytes = facts.memory_free_bytes = GIB(8);
    facts.baselines = baselines;
    facts.n_baselines = 2;
    Godwit__AgentHello hello = GODWIT__AGENT_HELLO__INIT;
    Godwit__VmStatus *vms[1];
    hello.has_version_min = hello.has_version_max = true;
    hello.version_min = hello.version_max = PROTOCOL_VERSION;
    hello.facts = &facts;
    if (agent->has_vm) {
        vms[0] = status_of(agent);
        hello.vms = vms;
        hello.n_vms = 1;
    }
    struct fault fault = {0};
    Godwit__AgentWelcome *welcome =
        call(agent->rpc, METHOD_AGENT_HELLO, &hello, &godwit__agent_welcome__descriptor, &fault);
    if (!welcome)
        fail_msg("%s", fault.text);
    FREE(welcome);
}

static void connect_agent(struct agent *agent)
{
    agent->rpc = connect_as(agent->certificate, agent->key, NULL, &agent_service, agent);
    say_hello(agent);
}

static void move_event(struct agent *agent, bool at_target, Godwit__MovePhase phase, bool ended)
{
    Godwit__MoveEvent event = GODWIT__MOVE_EVENT__INIT;
    Godwit__MoveProgress progress = GODWIT__MOVE_PROGRESS__INIT;
    Godwit__MoveReceipt receipt = GODWIT__MOVE_RECEIPT__INIT;
    event.vm_id = agent->vm_id;
    event.move_id = agent->move_id;
    event.has_at_target = true;
    event.at_target = at_target;
    event.has_latch = true;
    event.latch = agent->latch;
    progress.has_phase = true;
    progress.phase = phase;
    event.progress = &progress;
    event.has_ended = true;
    event.ended = ended;
    if (ended && !at_target) {
        receipt.has_downtime_ns = true;
        receipt.downtime_ns = 24000000;
        event.receipt = &receipt;
    }
    assert_int_equal(rpc_send_event(agent->rpc, METHOD_AGENT_MOVE_EVENT, &event.base, NULL), 0);
}

/* ---- the room ---------------------------------------------------------------------------------
 */

static void write_text(const char *name, const char *text)
{
    char path[128];
    struct fault fault = {0};
    (void)snprintf(path, sizeof path, "%s/%s", room.directory, name);
    assert_int_equal(file_write_atomic(path, 0600, text, strlen(text), &fault), 0);
}

static void make_identity(const char *role, const char *name, char **ret_certificate,
                          char **ret_key)
{
    struct fault fault = {0};
    AUTO_FREE char *request = NULL;
    struct pki_identity identity = {.pool = POOL_ID};
    (void)snprintf(identity.role, sizeof identity.role, "%s", role);
    (void)snprintf(identity.name, sizeof identity.name, "%s", name);
    assert_int_equal(pki_new_key(ret_key, &fault), 0);
    assert_int_equal(pki_new_request(*ret_key, &request, &fault), 0);
    assert_int_equal(
        pki_sign(room.ca_certificate, room.ca_key, request, &identity, 1, ret_certificate, &fault),
        0);
}

static unsigned free_port(void)
{
    AUTO_FD int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &length), 0);
    return ntohs(address.sin_port);
}

static void start_coordinator(void)
{
    room.coordinator = fork();
    assert_true(room.coordinator >= 0);
    if (room.coordinator == 0) {
        const char *level = getenv("GODWIT_TEST_LOG");
        (void)execl(GODWIT_COORDINATOR, "godwit-coordinator", "--dir", room.directory,
                    "--log-level", level ? level : "error", (char *)NULL);
        _exit(127);
    }
}

static int end_coordinator(int signal_number)
{
    int status = 0;
    assert_int_equal(kill(room.coordinator, signal_number), 0);
    assert_int_equal(waitpid(room.coordinator, &status, 0), room.coordinator);
    room.coordinator = 0;
    return status;
}

static bool nobody_is_connected(void *data)
{
    (void)data;
    return !room.operator_rpc && !room.agents[0].rpc && !room.agents[1].rpc;
}

static void make_pool(void)
{
    struct fault fault = {0};
    char listen[64], *certificate = NULL, *key = NULL;
    (void)snprintf(room.directory, sizeof room.directory, "/tmp/godwit-test-XXXXXX");
    assert_non_null(mkdtemp(room.directory));
    (void)snprintf(listen, sizeof listen, "127.0.0.1:%u", free_port());
    (void)snprintf(room.address, sizeof room.address, "%s", listen);
    const char *keys[] = {"pool_id", "name", "listen", "address"};
    const char *values[] = {POOL_ID, "test", listen, listen};
    char path[128];
    (void)snprintf(path, sizeof path, "%s/pool.json", room.directory);
    assert_int_equal(config_write(path, 0600, keys, values, 4, &fault), 0);
    assert_int_equal(pki_new_ca(POOL_ID, 1, &room.ca_certificate, &room.ca_key, &fault), 0);
    make_identity("coordinator", "c1", &certificate, &key);
    make_identity("operator", "me", &room.operator_certificate, &room.operator_key);
    write_text("ca.crt", room.ca_certificate);
    write_text("ca.key", room.ca_key);
    write_text("coordinator.crt", certificate);
    write_text("coordinator.key", key);
    free(certificate);
    free(key);
}

static char *make_token(const char *host)
{
    Godwit__TokenCreate create = GODWIT__TOKEN_CREATE__INIT;
    create.host = (char *)(uintptr_t)host;
    Godwit__TokenReply *reply = call(room.operator_rpc, METHOD_TOKEN_CREATE, &create,
                                     &godwit__token_reply__descriptor, NULL);
    assert_non_null(reply);
    assert_null(reply->error);
    char *text = strdup(reply->token->token);
    FREE(reply);
    return text;
}

/* As an agent joins: by the token's pin, without certificate. NULL: refused with `ret_fault`. */
static char *enrol(const char *token_text, const char *host, const char *key,
                   struct fault *ret_fault)
{
    struct fault fault = {0};
    Godwit__JoinToken *token = NULL;
    assert_int_equal(token_decode(token_text, &token, &fault), 0);
    assert_string_equal(token->address, room.address);
    AUTO_FREE char *request = NULL;
    assert_int_equal(pki_new_request(key, &request, &fault), 0);
    struct rpc *rpc = connect_as(NULL, NULL, token->pin, &operator_service, NULL);
    Godwit__EnrolRequest enrolment = GODWIT__ENROL_REQUEST__INIT;
    enrolment.token_id = token->id;
    enrolment.has_secret = true;
    enrolment.secret = token->secret;
    enrolment.host_name = (char *)(uintptr_t)host;
    enrolment.certificate_request = request;
    Godwit__EnrolReply *reply =
        call(rpc, METHOD_ENROL, &enrolment, &godwit__enrol_reply__descriptor, ret_fault);
    char *certificate = reply ? strdup(reply->certificate) : NULL;
    if (reply)
        FREE(reply);
    (void)rpc_close(rpc);
    FREE(token);
    return certificate;
}

static void join(struct agent *agent, const char *name)
{
    struct fault fault = {0};
    AUTO_FREE char *token = make_token(NULL);
    (void)snprintf(agent->name, sizeof agent->name, "%s", name);
    assert_int_equal(pki_new_key(&agent->key, &fault), 0);
    agent->certificate = enrol(token, name, agent->key, &fault);
    if (!agent->certificate)
        fail_msg("%s", fault.text);
    connect_agent(agent);
}

static int set_up(void **state)
{
    (void)state;
    struct fault fault = {0};
    memset(&room, 0, sizeof room);
    assert_int_equal(loop_new(&room.loop, &fault), 0);
    assert_int_equal(loop_timer_new(&room.timer, room.loop, nothing, NULL, &fault), 0);
    make_pool();
    start_coordinator();
    connect_operator();
    return 0;
}

static int set_up_two_hosts(void **state)
{
    (void)set_up(state);
    join(&room.agents[0], "node1");
    join(&room.agents[1], "node2");
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    if (room.coordinator > 0)
        (void)end_coordinator(SIGKILL);
    (void)rpc_close(room.operator_rpc);
    for (size_t i = 0; i < 2; i++) {
        (void)rpc_close(room.agents[i].rpc);
        free(room.agents[i].certificate);
        free(room.agents[i].key);
    }
    (void)loop_timer_free(room.timer);
    (void)loop_free(room.loop);
    if (room.news)
        FREE(room.news);
    free(room.ca_certificate);
    free(room.ca_key);
    free(room.operator_certificate);
    free(room.operator_key);
    DIR *folder = opendir(room.directory);
    for (struct dirent *entry; folder && (entry = readdir(folder));) {
        if (entry->d_name[0] != '.')
            (void)unlinkat(dirfd(folder), entry->d_name, 0);
    }
    if (folder)
        (void)closedir(folder);
    (void)rmdir(room.directory);
    return 0;
}

/* ---- what operators do ------------------------------------------------------------------------
 */

static Godwit__ActionReply *create_vm(const char *name, const char *host)
{
    Godwit__VmCreateRequest request = GODWIT__VM_CREATE_REQUEST__INIT;
    Godwit__VmSpec spec = GODWIT__VM_SPEC__INIT;
    Godwit__MemorySpec memory = GODWIT__MEMORY_SPEC__INIT;
    memory.has_size = true;
    memory.size = MIB(64);
    spec.name = (char *)(uintptr_t)name;
    spec.memory = &memory;
    spec.kernel = (char *)(uintptr_t) "/boot/vmlinux";
    spec.host = (char *)(uintptr_t)host;
    request.spec = &spec;
    return call(room.operator_rpc, METHOD_VM_CREATE_IN_POOL, &request,
                &godwit__action_reply__descriptor, NULL);
}

static Godwit__ActionReply *create_stopped(const char *name)
{
    Godwit__VmCreateRequest request = GODWIT__VM_CREATE_REQUEST__INIT;
    Godwit__VmSpec spec = GODWIT__VM_SPEC__INIT;
    Godwit__MemorySpec memory = GODWIT__MEMORY_SPEC__INIT;
    memory.has_size = true;
    memory.size = MIB(64);
    spec.name = (char *)(uintptr_t)name;
    spec.memory = &memory;
    spec.kernel = (char *)(uintptr_t) "/boot/vmlinux";
    request.spec = &spec;
    request.has_no_start = request.no_start = true;
    return call(room.operator_rpc, METHOD_VM_CREATE_IN_POOL, &request,
                &godwit__action_reply__descriptor, NULL);
}

static void create_on_node1(void)
{
    Godwit__ActionReply *reply = create_vm("web", "node1");
    assert_non_null(reply);
    if (reply->error)
        fail_msg("%s", reply->error->message);
    assert_string_equal(reply->vm->state, "running");
    assert_string_equal(reply->vm->baseline, "x86-64-v2");
    assert_int_equal(reply->vm->generation, 1);
    FREE(reply);
}

static Godwit__ActionReply *act(const char *vm, Godwit__VmVerb verb)
{
    Godwit__VmActionRequest request = GODWIT__VM_ACTION_REQUEST__INIT;
    request.vm = (char *)(uintptr_t)vm;
    request.has_verb = true;
    request.verb = verb;
    return call(room.operator_rpc, METHOD_VM_ACTION, &request, &godwit__action_reply__descriptor,
                NULL);
}

static Godwit__MigrateReply *migrate(const char *vm, const char *to)
{
    Godwit__MigrateRequest request = GODWIT__MIGRATE_REQUEST__INIT;
    request.vm = (char *)(uintptr_t)vm;
    request.to = (char *)(uintptr_t)to;
    return call(room.operator_rpc, METHOD_MIGRATE, &request, &godwit__migrate_reply__descriptor,
                NULL);
}

static char job_id[16];

static void begin_move(void)
{
    Godwit__MigrateReply *reply = migrate("web", "node2");
    assert_non_null(reply);
    if (reply->error)
        fail_msg("%s", reply->error->message);
    (void)snprintf(job_id, sizeof job_id, "%s", reply->job->id);
    FREE(reply);
    Godwit__JobWatchRequest watch = GODWIT__JOB_WATCH_REQUEST__INIT;
    watch.job = job_id;
    reply =
        call(room.operator_rpc, METHOD_JOB_WATCH, &watch, &godwit__migrate_reply__descriptor, NULL);
    assert_non_null(reply);
    assert_null(reply->error);
    FREE(reply);
}

static bool source_has_its_order(void *data)
{
    (void)data;
    return room.agents[0].move_outs == 1;
}

static bool job_has_ended(void *data)
{
    (void)data;
    return room.news && room.news->has_ended_unix_ms;
}

static Godwit__JobInfo *job_now(void)
{
    Godwit__JobListRequest request = GODWIT__JOB_LIST_REQUEST__INIT;
    request.job = job_id;
    Godwit__JobList *list =
        call(room.operator_rpc, METHOD_JOB_LIST, &request, &godwit__job_list__descriptor, NULL);
    assert_non_null(list);
    assert_int_equal(list->n_jobs, 1);
    Godwit__JobInfo *job = copy_of(&list->jobs[0]->base);
    FREE(list);
    return job;
}

static bool listed_job_has_ended(void *data)
{
    (void)data;
    Godwit__JobInfo *job = job_now();
    bool ended = job->has_ended_unix_ms;
    FREE(job);
    return ended;
}

static Godwit__VmInfo *vm_now(void)
{
    Godwit__VmListRequest request = GODWIT__VM_LIST_REQUEST__INIT;
    Godwit__VmList *list =
        call(room.operator_rpc, METHOD_VM_LIST, &request, &godwit__vm_list__descriptor, NULL);
    assert_non_null(list);
    assert_int_equal(list->n_vms, 1);
    Godwit__VmInfo *vm = copy_of(&list->vms[0]->base);
    FREE(list);
    return vm;
}

static void assert_vm_is(const char *state, const char *host, uint64_t generation)
{
    Godwit__VmInfo *vm = vm_now();
    assert_string_equal(vm->state, state);
    assert_string_equal(vm->host, host);
    assert_int_equal(vm->generation, generation);
    FREE(vm);
}

/* What both processes do between READY and STARTED, without a coordinator. */
static void hand_over(void)
{
    struct agent *source = &room.agents[0], *target = &room.agents[1];
    source->latch = GODWIT__LATCH__LATCH_GAVE;
    source->state = GODWIT__VM_STATE__VM_STATE_HELD;
    target->latch = GODWIT__LATCH__LATCH_TOOK;
    target->state = GODWIT__VM_STATE__VM_STATE_RUNNING;
    target->generation = target->latch_generation;
}

/* ---- tests ------------------------------------------------------------------------------------
 */

static void a_token_lets_one_host_in_once(void **state)
{
    (void)state;
    struct fault fault = {0};
    AUTO_FREE char *token = make_token(NULL);
    AUTO_FREE char *key = NULL;
    assert_int_equal(pki_new_key(&key, &fault), 0);

    AUTO_FREE char *first = enrol(token, "node1", key, &fault);
    assert_non_null(first);
    struct pki_identity identity;
    assert_int_equal(pki_identity_of(first, &identity, &fault), 0);
    assert_string_equal(identity.role, "host");
    assert_string_equal(identity.name, "node1");
    AUTO_FREE char *second = enrol(token, "node2", key, &fault);

    assert_null(second);
    assert_int_equal(fault.code, ERR_DENIED);
    assert_non_null(strstr(fault.text, "GW-2302"));
}

static void a_token_for_one_host_refuses_another(void **state)
{
    (void)state;
    struct fault fault = {0};
    AUTO_FREE char *token = make_token("node7");
    AUTO_FREE char *key = NULL;
    assert_int_equal(pki_new_key(&key, &fault), 0);

    AUTO_FREE char *other = enrol(token, "node1", key, &fault);

    assert_null(other);
    assert_non_null(strstr(fault.text, "GW-2301"));
}

static void a_used_token_stays_used_after_a_restart(void **state)
{
    (void)state;
    struct fault fault = {0};
    AUTO_FREE char *token = make_token(NULL);
    AUTO_FREE char *key = NULL;
    assert_int_equal(pki_new_key(&key, &fault), 0);
    AUTO_FREE char *first = enrol(token, "node1", key, &fault);
    assert_non_null(first);

    (void)end_coordinator(SIGKILL);
    wait_until(nobody_is_connected, NULL);
    start_coordinator();
    AUTO_FREE char *second = enrol(token, "node2", key, &fault);

    assert_null(second);
    assert_non_null(strstr(fault.text, "GW-2302"));
}

static void a_host_may_not_ask_what_operators_ask(void **state)
{
    (void)state;
    Godwit__PoolStatusRequest request = GODWIT__POOL_STATUS_REQUEST__INIT;
    struct fault fault = {0};

    void *reply = call(room.agents[0].rpc, METHOD_POOL_STATUS, &request,
                       &godwit__pool_status__descriptor, &fault);

    assert_null(reply);
    assert_int_equal(fault.code, ERR_DENIED);
}

static void a_second_coordinator_on_the_folder_refuses(void **state)
{
    (void)state;
    pid_t second = fork();
    if (second == 0) {
        int silence = open("/dev/null", O_WRONLY);
        (void)dup2(silence, STDERR_FILENO);
        (void)execl(GODWIT_COORDINATOR, "godwit-coordinator", "--dir", room.directory,
                    (char *)NULL);
        _exit(127);
    }
    int status = 0;

    assert_int_equal(waitpid(second, &status, 0), second);

    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 1);
}

static void term_ends_it_cleanly(void **state)
{
    (void)state;

    int status = end_coordinator(SIGTERM);

    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

static bool is_refused(struct rpc *rpc, uint16_t method)
{
    struct fault fault = {0};
    Godwit__Empty nothing_said = GODWIT__EMPTY__INIT;
    void *reply = call(rpc, method, &nothing_said, &godwit__empty__descriptor, &fault);
    bool refused = !reply && (fault.code == ERR_DENIED || fault.code == ERR_UNSUPPORTED);
    if (!refused)
        print_message("method %u: %s\n", method, reply ? "answered" : fault.text);
    if (reply)
        FREE(reply);
    return refused;
}

/* Of our own CA, as a pool gets it that is let in: it opens nothing, unless there is its record. */
static void a_peer_pools_certificate_opens_none_of_our_methods(void **state)
{
    (void)state;
    AUTO_FREE char *certificate = NULL, *key = NULL;
    make_identity("peer", "0123456789abcdef", &certificate, &key);
    struct rpc *rpc = connect_as(certificate, key, NULL, &operator_service, NULL);
    unsigned failed = 0;

    for (uint16_t method = 1; method < 700; method++)
        failed += !is_refused(rpc, method);

    assert_int_equal(failed, 0);
    (void)rpc_close(rpc);
}

/* Lets a pool in by an invitation, as the one that takes it up. */
static char *become_peer(const char *key)
{
    Godwit__PeerRequest invite = GODWIT__PEER_REQUEST__INIT;
    Godwit__PeerJoin join = GODWIT__PEER_JOIN__INIT;
    Godwit__JoinToken *token = NULL;
    struct fault fault = {0};
    AUTO_FREE char *request = NULL;
    invite.has_verb = true;
    invite.verb = GODWIT__PEER_VERB__PEER_VERB_INVITE;
    Godwit__PeerReply *invited = call(room.operator_rpc, METHOD_POOL_PEER, &invite,
                                      &godwit__peer_reply__descriptor, NULL);
    assert_true(invited && invited->token && invited->token->token);
    assert_int_equal(token_decode(invited->token->token, &token, &fault), 0);
    assert_int_equal(pki_new_request(key, &request, &fault), 0);
    struct rpc *rpc = connect_as(NULL, NULL, token->pin, &operator_service, NULL);
    join.token_id = token->id;
    join.has_secret = true;
    join.secret = token->secret;
    join.pool_id = (char *)(uintptr_t) "another-pool";
    join.name = (char *)(uintptr_t) "site-b";
    join.address = (char *)(uintptr_t) "127.0.0.9:7411";
    join.ca_certificate = room.ca_certificate; /* any that is one */
    join.certificate_request = request;
    Godwit__PeerJoined *joined =
        call(rpc, METHOD_PEER_JOIN, &join, &godwit__peer_joined__descriptor, &fault);
    if (!joined)
        fail_msg("%s", fault.text);
    char *certificate = strdup(joined->certificate);
    FREE(joined);
    FREE(token);
    FREE(invited);
    (void)rpc_close(rpc);
    return certificate;
}

static void a_peers_certificate_opens_what_is_said_of_replicas_and_nothing_else(void **state)
{
    (void)state;
    struct fault fault = {0};
    AUTO_FREE char *key = NULL;
    assert_int_equal(pki_new_key(&key, &fault), 0);
    AUTO_FREE char *certificate = become_peer(key);
    struct rpc *rpc = connect_as(certificate, key, NULL, &operator_service, NULL);
    unsigned failed = 0;

    for (uint16_t method = 1; method < 700; method++) {
        bool is_for_peers = method == METHOD_PEER_DR_HOLD || method == METHOD_PEER_DR_WORDS;
        failed += !is_for_peers && !is_refused(rpc, method); /* an empty hello is refused too */
    }
    Godwit__PeerDrWords words = GODWIT__PEER_DR_WORDS__INIT;
    Godwit__PeerDrHold hold = GODWIT__PEER_DR_HOLD__INIT;
    Godwit__PeerDrWords *said =
        call(rpc, METHOD_PEER_DR_WORDS, &words, &godwit__peer_dr_words__descriptor, &fault);
    void *held = call(rpc, METHOD_PEER_DR_HOLD, &hold, &godwit__peer_dr_held__descriptor, &fault);

    assert_int_equal(failed, 0);
    assert_true(said && said->n_words == 0);
    assert_null(held); /* for it describes nothing */
    assert_non_null(strstr(fault.text, "lacks a part"));
    FREE(said);
    (void)rpc_close(rpc);
}

struct opening {
    bool is_there;
    struct fault fault;
};

static void on_opening(void *data, struct rpc *rpc, const struct fault *fault)
{
    struct opening *opening = data;
    (void)rpc;
    opening->is_there = true;
    if (fault)
        opening->fault = *fault;
}

static bool opening_is_there(void *data)
{
    return ((struct opening *)data)->is_there;
}

static void ignore_end(void *data, struct rpc *rpc, const struct fault *fault)
{
    struct opening *opening = data;
    (void)rpc;
    opening->is_there = true;
    opening->fault = *fault;
}

/* Whatever it says in it, our own pool and an operator of it not least. */
static void a_certificate_of_another_pools_ca_is_none_at_our_door(void **state)
{
    (void)state;
    static const char *const roles[] = {"operator", "host", "coordinator", "peer"};
    static const struct rpc_service service = {.on_closed = ignore_end};
    struct fault fault = {0};
    AUTO_FREE char *ca = NULL, *ca_key = NULL, *key = NULL, *request = NULL;
    assert_int_equal(pki_new_ca(POOL_ID, 1, &ca, &ca_key, &fault), 0);
    assert_int_equal(pki_new_key(&key, &fault), 0);
    assert_int_equal(pki_new_request(key, &request, &fault), 0);
    for (size_t i = 0; i < ARRAY_COUNT(roles); i++) {
        AUTO_FREE char *certificate = NULL;
        struct pki_identity identity = {.pool = POOL_ID, .name = "me"};
        (void)snprintf(identity.role, sizeof identity.role, "%s", roles[i]);
        assert_int_equal(pki_sign(ca, ca_key, request, &identity, 1, &certificate, &fault), 0);
        const struct tls_identity shown = {
            .ca_certificate = room.ca_certificate, .certificate = certificate, .key = key};
        struct tls_context *context = NULL;
        struct rpc *rpc = NULL;
        static struct opening opening;
        opening = (struct opening){0};
        assert_int_equal(tls_context_new(&context, &shown, &fault), 0);
        assert_int_equal(rpc_connect(&rpc, room.loop, room.address, context, "coordinator",
                                     &service, &opening, on_opening, &fault),
                         0);
        wait_until(opening_is_there, &opening);
        if (!opening.fault.code) { /* TLS 1.3: the client is done before it is judged */
            opening.is_there = false;
            wait_until(opening_is_there, &opening);
        }
        assert_int_not_equal(opening.fault.code, 0);
        (void)rpc_close(rpc);
        (void)tls_context_free(context);
    }
}

static void a_vm_is_created_stopped_started_and_removed(void **state)
{
    (void)state;
    create_on_node1();

    Godwit__ActionReply *stopped = act("web", GODWIT__VM_VERB__VM_VERB_STOP);
    assert_null(stopped->error);
    assert_string_equal(stopped->vm->state, "stopped");
    Godwit__ActionReply *again = act("web", GODWIT__VM_VERB__VM_VERB_STOP);
    assert_string_equal(again->error->code, "GW-2108");
    assert_string_equal(again->error->vm_state, "stopped");
    Godwit__ActionReply *started = act("we", GODWIT__VM_VERB__VM_VERB_START);
    assert_null(started->error);
    assert_int_equal(started->vm->generation, 2);
    assert_string_equal(started->vm->host, "node1");
    Godwit__ActionReply *running = act("web", GODWIT__VM_VERB__VM_VERB_RM);
    assert_string_equal(running->error->code, "GW-2108");
    assert_string_equal(running->error->vm_state, "running on node1");
    Godwit__ActionReply *unknown = act("wbe", GODWIT__VM_VERB__VM_VERB_STOP);
    assert_string_equal(unknown->error->code, "GW-2102");
    assert_int_equal(unknown->error->exit_code, 3);
    assert_non_null(strstr(unknown->error->hint, "web"));
    FREE(act("web", GODWIT__VM_VERB__VM_VERB_STOP));
    Godwit__ActionReply *removed = act("web", GODWIT__VM_VERB__VM_VERB_RM);
    assert_null(removed->error);
    Godwit__ActionReply *gone = act("web", GODWIT__VM_VERB__VM_VERB_START);
    assert_string_equal(gone->error->code, "GW-2102");

    FREE(stopped);
    FREE(again);
    FREE(started);
    FREE(running);
    FREE(unknown);
    FREE(removed);
    FREE(gone);
}

static Godwit__VmList *list_vms(const char *vm, bool brief)
{
    Godwit__VmListRequest request = GODWIT__VM_LIST_REQUEST__INIT;
    request.vm = (char *)(uintptr_t)vm;
    request.has_brief = request.brief = brief;
    Godwit__VmList *list =
        call(room.operator_rpc, METHOD_VM_LIST, &request, &godwit__vm_list__descriptor, NULL);
    assert_non_null(list);
    assert_int_equal(list->n_vms, 1);
    return list;
}

static void only_one_vm_that_is_asked_for_comes_with_its_spec(void **state)
{
    (void)state;
    create_on_node1();

    Godwit__VmList *one = list_vms("web", false), *all = list_vms(NULL, false),
                   *brief = list_vms(NULL, true);

    assert_non_null(one->vms[0]->spec);
    assert_string_equal(one->vms[0]->spec->kernel, "/boot/vmlinux");
    assert_null(all->vms[0]->spec);
    assert_string_equal(all->vms[0]->id, one->vms[0]->id);
    assert_int_equal(all->vms[0]->generation, 1);
    assert_null(brief->vms[0]->spec);
    assert_null(brief->vms[0]->id);
    assert_string_equal(brief->vms[0]->name, "web");
    assert_string_equal(brief->vms[0]->state, "running");
    assert_string_equal(brief->vms[0]->host, "node1");
    assert_int_equal(brief->vms[0]->memory_bytes, MIB(64));

    FREE(one);
    FREE(all);
    FREE(brief);
}

static bool typed_is_answered(void *data)
{
    return room.taken_count == *(const unsigned *)data;
}

static void type(uint64_t session, uint64_t at, unsigned answers)
{
    static char line[] = "verify\n";
    Godwit__VmConsoleData event = GODWIT__VM_CONSOLE_DATA__INIT;
    event.has_session = event.has_stream = event.has_at = event.has_data = true;
    event.session = session;
    event.stream = 77;
    event.at = at;
    event.data = (ProtobufCBinaryData){.data = (uint8_t *)line, .len = strlen(line)};
    assert_int_equal(rpc_send_event(room.operator_rpc, METHOD_VM_CONSOLE_DATA, &event.base, NULL),
                     0);
    wait_until(typed_is_answered, &answers);
}

static bool has_no_console(void *data)
{
    (void)data;
    Godwit__VmConsoleRequest request = GODWIT__VM_CONSOLE_REQUEST__INIT;
    struct fault fault = {0};
    request.vm = (char *)(uintptr_t) "web";
    void *reply = call(room.operator_rpc, METHOD_VM_CONSOLE, &request,
                       &godwit__vm_console_reply__descriptor, &fault);
    if (reply)
        FREE(reply);
    return !reply;
}

static bool early_is_told(void *data)
{
    (void)data;
    return room.early_count > 0;
}

static void a_viewer_is_told_too_that_nothing_was_written_before(void **state)
{
    (void)state;
    create_on_node1();
    room.early_count = 0;
    Godwit__VmConsoleRequest request = GODWIT__VM_CONSOLE_REQUEST__INIT;
    request.vm = (char *)(uintptr_t) "web";

    Godwit__VmConsoleReply *console = call(room.operator_rpc, METHOD_VM_CONSOLE, &request,
                                           &godwit__vm_console_reply__descriptor, NULL);

    assert_non_null(console);
    wait_until(early_is_told, NULL);
    FREE(console);
}

static void what_is_typed_is_told_taken_or_not_taken(void **state)
{
    (void)state;
    create_on_node1();
    room.taken_count = 0;
    Godwit__VmConsoleRequest request = GODWIT__VM_CONSOLE_REQUEST__INIT;
    request.vm = (char *)(uintptr_t) "web";
    Godwit__VmConsoleReply *console = call(room.operator_rpc, METHOD_VM_CONSOLE, &request,
                                           &godwit__vm_console_reply__descriptor, NULL);
    assert_non_null(console);

    type(console->session, 0, 1);
    assert_int_equal(room.taken, 7);
    room.agents[0].rpc = rpc_close(room.agents[0].rpc);
    wait_until(has_no_console, NULL); /* the coordinator has noticed */
    type(console->session, 7, 2);

    assert_int_equal(room.taken, 7); /* none of it: the viewer keeps it */
    assert_int_equal(room.agents[0].input_bytes, 7);
    FREE(console);
}

static void a_short_list_leaves_out_what_runs_or_is_stopped(void **state)
{
    (void)state;
    create_on_node1();
    Godwit__ActionReply *stopped = create_stopped("db"),
                        *paused = act("web", GODWIT__VM_VERB__VM_VERB_PAUSE);
    Godwit__VmListRequest request = GODWIT__VM_LIST_REQUEST__INIT;
    request.has_brief = request.brief = request.has_most = true;
    request.most = 1;

    Godwit__VmList *list =
        call(room.operator_rpc, METHOD_VM_LIST, &request, &godwit__vm_list__descriptor, NULL);
    request.most = 2;
    Godwit__VmList *all =
        call(room.operator_rpc, METHOD_VM_LIST, &request, &godwit__vm_list__descriptor, NULL);

    assert_int_equal(list->n_vms, 1);
    assert_string_equal(list->vms[0]->name, "web");
    assert_string_equal(list->vms[0]->state, "paused");
    assert_int_equal(list->left_out, 1);
    assert_int_equal(all->n_vms, 2);
    assert_int_equal(all->left_out, 0);

    FREE(stopped);
    FREE(paused);
    FREE(list);
    FREE(all);
}

static void a_brief_list_of_hosts_has_no_facts(void **state)
{
    (void)state;
    Godwit__HostListRequest request = GODWIT__HOST_LIST_REQUEST__INIT;

    Godwit__HostList *whole =
        call(room.operator_rpc, METHOD_HOST_LIST, &request, &godwit__host_list__descriptor, NULL);
    request.has_brief = request.brief = true;
    Godwit__HostList *brief =
        call(room.operator_rpc, METHOD_HOST_LIST, &request, &godwit__host_list__descriptor, NULL);

    assert_int_equal(whole->n_hosts, 2);
    assert_non_null(whole->hosts[0]->facts);
    assert_int_equal(brief->n_hosts, 2);
    assert_null(brief->hosts[0]->facts);
    assert_string_equal(brief->hosts[0]->state, whole->hosts[0]->state);
    assert_int_equal(brief->hosts[0]->memory_bytes, whole->hosts[0]->memory_bytes);

    FREE(whole);
    FREE(brief);
}

static void a_filter_for_an_unknown_vm_is_a_fault(void **state)
{
    (void)state;
    Godwit__VmListRequest request = GODWIT__VM_LIST_REQUEST__INIT;
    struct fault fault = {0};
    request.vm = (char *)(uintptr_t) "nobody";

    void *reply =
        call(room.operator_rpc, METHOD_VM_LIST, &request, &godwit__vm_list__descriptor, &fault);

    assert_null(reply);
    assert_int_equal(fault.code, ERR_NOT_FOUND);
}

static void a_bad_spec_creates_nothing(void **state)
{
    (void)state;

    Godwit__ActionReply *reply = create_vm("-no-name", NULL);

    assert_string_equal(reply->error->code, "GW-2110");
    assert_int_equal(reply->error->exit_code, 2);
    FREE(reply);
}

static void a_move_takes_the_vm_to_its_target(void **state)
{
    (void)state;
    struct agent *source = &room.agents[0], *target = &room.agents[1];
    create_on_node1();

    begin_move();
    wait_until(source_has_its_order, NULL);
    assert_true(source->saw_psk && target->saw_psk);
    Godwit__MigrateReply *busy = migrate("web", NULL);
    assert_string_equal(busy->error->code, "GW-2103");
    assert_int_equal(busy->error->exit_code, 9);
    FREE(busy);
    move_event(source, false, GODWIT__MOVE_PHASE__MOVE_PHASE_PRECOPY, false);
    hand_over();
    move_event(target, true, GODWIT__MOVE_PHASE__MOVE_PHASE_DONE, true);
    source->latch = GODWIT__LATCH__LATCH_RELEASED;
    source->state = GODWIT__VM_STATE__VM_STATE_GONE;
    move_event(source, false, GODWIT__MOVE_PHASE__MOVE_PHASE_DONE, true);
    wait_until(job_has_ended, NULL);

    assert_string_equal(room.news->state, "done");
    assert_string_equal(room.news->vm_state, "running on node2");
    assert_int_equal(room.news->receipt->downtime_ns, 24000000);
    assert_vm_is("running", "node2", 2);
}

static void a_target_that_refuses_changes_nothing(void **state)
{
    (void)state;
    create_on_node1();
    room.agents[1].refuses_move_in = true;

    begin_move();
    wait_until(listed_job_has_ended, NULL);

    Godwit__JobInfo *job = job_now();
    assert_string_equal(job->state, "failed");
    assert_string_equal(job->error->code, "GW-2105");
    assert_int_equal(job->error->exit_code, 5);
    assert_string_equal(job->vm_state, "running on node1");
    assert_int_equal(room.agents[0].move_outs, 0);
    FREE(job);
    assert_vm_is("running", "node1", 1);
}

static void a_canceled_move_leaves_the_vm_on_its_source(void **state)
{
    (void)state;
    create_on_node1();
    begin_move();
    wait_until(source_has_its_order, NULL);

    Godwit__JobCancelRequest cancel = GODWIT__JOB_CANCEL_REQUEST__INIT;
    cancel.job = job_id;
    Godwit__MigrateReply *reply = call(room.operator_rpc, METHOD_JOB_CANCEL, &cancel,
                                       &godwit__migrate_reply__descriptor, NULL);
    assert_null(reply->error);
    FREE(reply);
    wait_until(job_has_ended, NULL);

    assert_string_equal(room.news->state, "canceled");
    assert_string_equal(room.news->error->code, "GW-2202");
    assert_true(room.agents[0].cancels > 0 && room.agents[1].abandons > 0);
    assert_vm_is("running", "node1", 1);
}

static void kill_and_restart(void)
{
    (void)end_coordinator(SIGKILL);
    wait_until(nobody_is_connected, NULL);
    start_coordinator();
    connect_operator();
}

static void a_move_goes_on_while_the_coordinator_is_dead(void **state)
{
    (void)state;
    create_on_node1();
    begin_move();
    wait_until(source_has_its_order, NULL);

    kill_and_restart();
    hand_over(); /* both processes needed nobody for it */
    connect_agent(&room.agents[0]);
    connect_agent(&room.agents[1]);
    wait_until(listed_job_has_ended, NULL);

    Godwit__JobInfo *job = job_now();
    assert_string_equal(job->state, "done");
    FREE(job);
    assert_true(room.agents[0].starteds > 0);
    assert_vm_is("running", "node2", 2);
}

static void a_held_source_is_resumed_when_its_target_abandoned(void **state)
{
    (void)state;
    create_on_node1();
    begin_move();
    wait_until(source_has_its_order, NULL);

    kill_and_restart();
    room.agents[0].latch = GODWIT__LATCH__LATCH_GAVE;
    room.agents[0].state = GODWIT__VM_STATE__VM_STATE_HELD;
    room.agents[1].latch = GODWIT__LATCH__LATCH_ABANDONED;
    room.agents[1].state = GODWIT__VM_STATE__VM_STATE_GONE;
    connect_agent(&room.agents[0]);
    connect_agent(&room.agents[1]);
    wait_until(listed_job_has_ended, NULL);

    Godwit__JobInfo *job = job_now();
    assert_string_equal(job->state, "rolled-back");
    FREE(job);
    assert_int_equal(room.agents[0].generation, 3); /* 2 was the move's: used up */
    assert_vm_is("running", "node1", 3);
}

static void a_move_that_waits_for_nobody_ends_without_its_key(void **state)
{
    (void)state;
    create_on_node1();
    (void)rpc_close(TAKE(room.agents[1].rpc)); /* answers nothing any more */
    connect_agent(&room.agents[1]);
    begin_move();
    wait_until(source_has_its_order, NULL);
    room.agents[0].latch = GODWIT__LATCH__LATCH_NONE; /* as if it never had come */

    kill_and_restart();
    connect_agent(&room.agents[0]);
    connect_agent(&room.agents[1]);
    Godwit__JobCancelRequest cancel = GODWIT__JOB_CANCEL_REQUEST__INIT;
    cancel.job = job_id;
    FREE(call(room.operator_rpc, METHOD_JOB_CANCEL, &cancel, &godwit__migrate_reply__descriptor,
              NULL));
    wait_until(listed_job_has_ended, NULL);

    assert_vm_is("running", "node1", 1);
}

static void a_vm_that_its_host_lost_is_told_as_crashed(void **state)
{
    (void)state;
    create_on_node1();

    (void)rpc_close(TAKE(room.agents[0].rpc));
    room.agents[0].has_vm = false;
    connect_agent(&room.agents[0]);

    Godwit__VmInfo *vm = vm_now();
    assert_string_equal(vm->state, "crashed");
    assert_string_equal(vm->record_phase, "STOPPED");
    FREE(vm);
}

static void logs_come_from_the_vms_host(void **state)
{
    (void)state;
    create_on_node1();
    Godwit__VmLogsRequest request = GODWIT__VM_LOGS_REQUEST__INIT;
    request.vm = (char *)(uintptr_t) "web";

    Godwit__LogsReply *reply =
        call(room.operator_rpc, METHOD_VM_LOGS, &request, &godwit__logs_reply__descriptor, NULL);

    assert_non_null(reply);
    assert_int_equal(reply->data.len, strlen("hello from the guest\n"));
    FREE(reply);
}

#define BARE(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
#define PAIR(test) cmocka_unit_test_setup_teardown(test, set_up_two_hosts, tear_down)

int main(void)
{
    (void)signal(SIGPIPE, SIG_IGN);
    const struct CMUnitTest tests[] = {
        BARE(a_token_lets_one_host_in_once),
        BARE(a_token_for_one_host_refuses_another),
        BARE(a_used_token_stays_used_after_a_restart),
        BARE(a_second_coordinator_on_the_folder_refuses),
        BARE(term_ends_it_cleanly),
        PAIR(a_host_may_not_ask_what_operators_ask),
        BARE(a_peer_pools_certificate_opens_none_of_our_methods),
        BARE(a_peers_certificate_opens_what_is_said_of_replicas_and_nothing_else),
        BARE(a_certificate_of_another_pools_ca_is_none_at_our_door),
        PAIR(a_vm_is_created_stopped_started_and_removed),
        PAIR(only_one_vm_that_is_asked_for_comes_with_its_spec),
        PAIR(a_short_list_leaves_out_what_runs_or_is_stopped),
        PAIR(a_viewer_is_told_too_that_nothing_was_written_before),
        PAIR(what_is_typed_is_told_taken_or_not_taken),
        PAIR(a_brief_list_of_hosts_has_no_facts),
        PAIR(a_filter_for_an_unknown_vm_is_a_fault),
        PAIR(a_bad_spec_creates_nothing),
        PAIR(a_move_takes_the_vm_to_its_target),
        PAIR(a_target_that_refuses_changes_nothing),
        PAIR(a_canceled_move_leaves_the_vm_on_its_source),
        PAIR(a_move_goes_on_while_the_coordinator_is_dead),
        PAIR(a_held_source_is_resumed_when_its_target_abandoned),
        PAIR(a_move_that_waits_for_nobody_ends_without_its_key),
        PAIR(a_vm_that_its_host_lost_is_told_as_crashed),
        PAIR(logs_come_from_the_vms_host),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

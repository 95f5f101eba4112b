/* Real godwit-vm processes, driven as an agent drives them, and real agents under a fake
 * coordinator. */
#include <fcntl.h>
#include <linux/kvm.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "agent/move_sockets.h"
#include "agent/vm/latch_file.h"
#include "agent/vm_process.h"
#include "base/bytes.h"
#include "base/config.h"
#include "base/err.h"
#include "base/id.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/own.h"
#include "base/world.h"
#include "net/pki.h"
#include "net/rpc.h"
#include "net/tls_lane.h"
#include "proto/agent.pb-c.h"
#include "proto/limits.h"
#include "proto/method.h"
#include "tests/support/tcp_proxy.h"

enum { WAIT_S_MAX = 40, TEXT_MAX = 1 << 20 };

static struct loop *loop;
static char work_dir[64];

/* ---- waiting ---- */
static bool timed_out;

static void on_timeout(void *data)
{
    (void)data;
    timed_out = true;
}

#define WAIT_FOR(condition)                                                                        \
    do {                                                                                           \
        struct loop_timer *timer_ = NULL;                                                          \
        struct fault fault_ = {0};                                                                 \
        timed_out = false;                                                                         \
        assert_int_equal(loop_timer_new(&timer_, loop, on_timeout, NULL, &fault_), 0);             \
        loop_timer_start(timer_, WAIT_S_MAX * 1000, 0);                                            \
        while (!(condition) && !timed_out)                                                         \
            loop_turn(loop, true);                                                                 \
        (void)loop_timer_free(timer_);                                                             \
        if (timed_out)                                                                             \
            fail_msg("timed out waiting for %s", #condition);                                      \
    } while (0)

/* ---- calls, made to look synchronous ---- */
struct answer {
    bool came;
    ProtobufCMessage *message; /* owned copy; NULL: a fault */
    struct fault fault;
};

static void on_answer(void *data, const ProtobufCMessage *reply, const struct fault *fault)
{
    struct answer *answer = data;
    uint8_t *bytes;
    size_t count;

    answer->came = true;
    if (!reply) {
        answer->fault = *fault;
        return;
    }
    count = protobuf_c_message_get_packed_size(reply);
    bytes = malloc(count + 1);
    assert_non_null(bytes);
    (void)protobuf_c_message_pack(reply, bytes);
    answer->message = protobuf_c_message_unpack(reply->descriptor, NULL, count, bytes);
    free(bytes);
}

static struct answer call(struct rpc *rpc, uint16_t method, const ProtobufCMessage *message,
                          const int *fds, size_t fd_count, const ProtobufCMessageDescriptor *type)
{
    struct answer answer = {0};
    struct fault fault = {0};

    assert_non_null(rpc);
    assert_int_equal(
        rpc_call_fds(rpc, method, message, fds, fd_count, type, 30000, on_answer, &answer, &fault),
        0);
    WAIT_FOR(answer.came);
    return answer;
}

static void answer_free(struct answer *answer)
{
    if (answer->message)
        protobuf_c_message_free_unpacked(answer->message, NULL);
    answer->message = NULL;
}

static void expect_ok(struct answer answer)
{
    if (!answer.message)
        fail_msg("refused: %s", answer.fault.text);
    answer_free(&answer);
}

static Godwit__VmState expect_state(struct answer answer)
{
    if (!answer.message)
        fail_msg("refused: %s", answer.fault.text);
    Godwit__VmState state = ((Godwit__VmStatus *)answer.message)->state;
    answer_free(&answer);
    return state;
}

/* ---- one godwit-vm and its "agent" ---- */
struct host {
    struct vm_process *process;
    char dir[128], latch_path[192];
    Godwit__VmState state;
    uint64_t generation;
    Godwit__Latch latch;
    bool move_ended, precopy, post_copy, dead;
    bool in_postcopy; /* by its status */
    pid_t pid;
    bool moved; /* by the receipt */
    uint64_t wire_bytes, populated_bytes, resent_pages;
    unsigned reconnects;
    char address[MOVE_ADDRESS_SIZE]; /* where its move goes */
    char move_id[40];
    bool dialling;
    unsigned epoch;
    uint64_t digest_pages, downtime_ns;
    char how[VM_PROCESS_HOW_SIZE];
    char move_fault[FAULT_TEXT_MAX];
    char *text; /* console */
    size_t used, read;
    bool starts_paused, told_early; /* what its console held when it was attached, be it nothing */
};

static void on_state(void *data, const Godwit__VmStatus *status)
{
    struct host *host = data;
    host->state = status->state;
    host->generation = status->generation;
    host->in_postcopy = status->in_postcopy;
    host->pid = status->pid;
}

static void on_lanes_given(void *data, const ProtobufCMessage *reply, const struct fault *fault)
{
    (void)data;
    (void)reply;
    (void)fault;
}

/* As the agent does for lanes that were lost. */
static void on_dialled(void *data, const int *fds, size_t count, const struct fault *fault)
{
    struct host *host = data;
    Godwit__MoveLanes lanes = GODWIT__MOVE_LANES__INIT;
    Godwit__Fault told = GODWIT__FAULT__INIT;

    lanes.vm_id = (char *)"v1";
    lanes.move_id = host->move_id;
    lanes.has_epoch = true;
    lanes.epoch = host->epoch;
    if (fault) {
        told.has_number = true;
        told.number = -fault->code;
        told.text = (char *)fault->text;
        lanes.fault = &told;
    }
    if (host->process && vm_process_rpc(host->process))
        assert_int_equal(rpc_call_fds(vm_process_rpc(host->process), METHOD_VM_MOVE_LANES,
                                      &lanes.base, fds, count, &godwit__empty__descriptor, 30000,
                                      on_lanes_given, host, NULL),
                         0);
    for (size_t i = 0; i < count; i++)
        (void)close(fds[i]);
    host->dialling = false;
}

static void dial(struct host *host, const Godwit__MoveEvent *event)
{
    struct fault fault = {0};

    if (host->dialling)
        return;
    host->dialling = true;
    host->epoch = event->epoch;
    (void)snprintf(host->move_id, sizeof host->move_id, "%s", event->move_id);
    assert_int_equal(
        move_sockets_connect(loop, host->address, event->lanes_wanted, on_dialled, host, &fault),
        0);
}

static void on_move(void *data, const Godwit__MoveEvent *event)
{
    struct host *host = data;

    if (event->has_lanes_wanted) {
        dial(host, event);
        return;
    }

    if (event->has_latch)
        host->latch = event->latch;
    if (event->progress && event->progress->phase == GODWIT__MOVE_PHASE__MOVE_PHASE_PRECOPY &&
        event->progress->wire_bytes > 0)
        host->precopy = true;
    if (event->progress && event->progress->phase == GODWIT__MOVE_PHASE__MOVE_PHASE_POST_COPY)
        host->post_copy = true;
    if (event->ended) {
        host->move_ended = true;
        (void)snprintf(host->move_fault, sizeof host->move_fault, "%s",
                       event->fault && event->fault->text ? event->fault->text : "");
        if (event->receipt) {
            host->moved = event->receipt->moved;
            host->digest_pages = event->receipt->digest_pages;
            host->downtime_ns = event->receipt->downtime_ns;
            host->wire_bytes = event->receipt->wire_bytes;
            host->populated_bytes = event->receipt->populated_bytes;
            host->resent_pages = event->receipt->resent_pages;
            host->reconnects = event->receipt->reconnects;
        }
    }
}

static void add_text(struct host *host, const ProtobufCBinaryData *data)
{
    assert_true(data->len < TEXT_MAX - host->used);
    if (!data->len)
        return;
    memcpy(host->text + host->used, data->data, data->len);
    host->used += data->len;
    host->text[host->used] = 0;
}

static void on_console(void *data, const Godwit__ConsoleData *event)
{
    add_text(data, &event->data);
}

static void on_connected(void *data)
{
    (void)data;
}

static void on_ended(void *data, const char *how)
{
    struct host *host = data;
    (void)snprintf(host->how, sizeof host->how, "%s", how);
    host->process = vm_process_free(host->process);
    host->dead = true;
}

static Godwit__CpuSpec cpu_spec = GODWIT__CPU_SPEC__INIT;
static Godwit__MemorySpec memory_spec = GODWIT__MEMORY_SPEC__INIT;
static Godwit__VmSpec vm_spec = GODWIT__VM_SPEC__INIT;

static void set_spec(unsigned vcpus, uint64_t memory_mib, const char *cmdline)
{
    cpu_spec.has_vcpus = memory_spec.has_size = true;
    cpu_spec.vcpus = vcpus;
    cpu_spec.baseline = (char *)"x86-64-v1";
    memory_spec.size = MIB(memory_mib);
    vm_spec.name = (char *)"db-01";
    vm_spec.cpu = &cpu_spec;
    vm_spec.memory = &memory_spec;
    vm_spec.kernel = (char *)GUEST_ELF;
    vm_spec.cmdline = (char *)cmdline;
}

static const char *failpoints_path; /* of the processes that are started from now on; NULL: none */

static void host_start(struct host *host, const char *name)
{
    char socket_path[192], log_path[192];
    struct fault fault = {0};

    *host = (struct host){0};
    host->text = calloc(1, TEXT_MAX);
    (void)snprintf(host->dir, sizeof host->dir, "%s/%s", work_dir, name);
    assert_int_equal(dir_make(host->dir, &fault), 0);
    (void)snprintf(socket_path, sizeof socket_path, "%s/control.sock", host->dir);
    (void)snprintf(log_path, sizeof log_path, "%s/vm.log", host->dir);
    (void)snprintf(host->latch_path, sizeof host->latch_path, "%s/latch", host->dir);
    const struct vm_process_config config = {
        .loop = loop,
        .program = GODWIT_VM,
        .log_level = "debug",
        .vm_id = "v1",
        .name = "db-01",
        .socket_path = socket_path,
        .log_path = log_path,
        .failpoints_path = failpoints_path,
        .on_state = on_state,
        .on_move = on_move,
        .on_console = on_console,
        .on_connected = on_connected,
        .on_ended = on_ended,
        .data = host,
    };
    if (vm_process_start(&host->process, &config, &fault) < 0)
        fail_msg("%s", fault.text);
}

static struct rpc *rpc_of(struct host *host)
{
    return vm_process_rpc(host->process);
}

static void host_create(struct host *host, uint64_t generation, bool incoming)
{
    Godwit__VmCreate order = GODWIT__VM_CREATE__INIT;
    struct fault fault = {0};
    char path[192];
    int fds[4];

    (void)snprintf(path, sizeof path, "%s/console.log", host->dir);
    fds[0] = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    fds[1] = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    assert_int_equal(latch_file_create(host->latch_path, &fds[2], &fault), 0);
    fds[3] = open(GUEST_ELF, O_RDONLY | O_CLOEXEC);
    order.vm_id = (char *)"v1";
    order.spec = &vm_spec;
    order.host = (char *)"host-b";
    order.has_generation = order.has_incoming = true;
    order.generation = generation;
    order.incoming = incoming;
    order.has_start_paused = order.start_paused = host->starts_paused;
    Godwit__VmState state = expect_state(call(rpc_of(host), METHOD_VM_CREATE, &order.base, fds,
                                              incoming ? 3 : 4, &godwit__vm_status__descriptor));
    assert_int_equal(state, incoming              ? GODWIT__VM_STATE__VM_STATE_INCOMING
                            : host->starts_paused ? GODWIT__VM_STATE__VM_STATE_PAUSED
                                                  : GODWIT__VM_STATE__VM_STATE_RUNNING);
    for (size_t i = 0; i < 4; i++)
        (void)close(fds[i]);
}

static void host_attach(struct host *host)
{
    Godwit__ConsoleAttach attach = GODWIT__CONSOLE_ATTACH__INIT;
    attach.vm_id = (char *)"v1";
    attach.has_on = attach.on = true;
    struct answer answer = call(rpc_of(host), METHOD_VM_CONSOLE_ATTACH, &attach.base, NULL, 0,
                                &godwit__console_data__descriptor);
    assert_non_null(answer.message);
    add_text(host, &((Godwit__ConsoleData *)answer.message)->data);
    host->told_early = ((Godwit__ConsoleData *)answer.message)->has_data;
    answer_free(&answer);
}

static char *find_line(struct host *host, const char *prefix)
{
    char *at = strstr(host->text + host->read, prefix);
    char *end = at ? strchr(at, '\n') : NULL;
    if (end)
        host->read = (size_t)(end - host->text);
    return end ? at : NULL;
}

static char *host_expect(struct host *host, const char *prefix)
{
    char *line = NULL;
    WAIT_FOR((line = find_line(host, prefix)));
    return line;
}

static void host_type(struct host *host, const char *text)
{
    Godwit__ConsoleData input = GODWIT__CONSOLE_DATA__INIT;
    input.vm_id = (char *)"v1";
    input.has_data = true;
    input.data = (ProtobufCBinaryData){.len = strlen(text), .data = (uint8_t *)text};
    assert_int_equal(rpc_send_event(rpc_of(host), METHOD_VM_CONSOLE_INPUT, &input.base, NULL), 0);
}

static struct answer host_action(struct host *host, uint16_t method)
{
    Godwit__VmAction action = GODWIT__VM_ACTION__INIT;
    action.vm_id = (char *)"v1";
    return call(rpc_of(host), method, &action.base, NULL, 0, &godwit__vm_status__descriptor);
}

static void host_end(struct host *host)
{
    if (host->process) {
        struct answer answer = host_action(host, METHOD_VM_QUIT);
        answer_free(&answer);
        WAIT_FOR(host->dead);
    }
    free(host->text);
}

struct connected {
    bool came;
    int fds[MOVE_SOCKETS_MAX];
    size_t count;
};

static void on_sockets(void *data, const int *fds, size_t count, const struct fault *fault)
{
    struct connected *connected = data;
    connected->came = true;
    if (fault)
        fail_msg("%s", fault->text);
    memcpy(connected->fds, fds, count * sizeof *fds);
    connected->count = count;
}

/* The network between the two, where it is not the loopback itself. */
static struct tcp_proxy_config bad_network;
static struct tcp_proxy *proxy;
static uint64_t away_ms_max;
static bool with_postcopy; /* and a goal that it cannot keep before */

static void move_begin(struct host *source, struct host *target, const char *move_id, uint64_t m,
                       uint64_t bandwidth)
{
    static const uint8_t psk[TLS_LANE_PSK_BYTES] = {1, 2, 3};
    Godwit__MoveIn in = GODWIT__MOVE_IN__INIT;
    Godwit__MoveOut out = GODWIT__MOVE_OUT__INIT;
    Godwit__MoveGoals goals = GODWIT__MOVE_GOALS__INIT;
    struct fault fault = {0};
    char address[MOVE_ADDRESS_SIZE];
    int listen_fd;

    assert_int_equal(move_sockets_listen("127.0.0.1", &listen_fd, address, &fault), 0);
    in.vm_id = out.vm_id = (char *)"v1";
    in.move_id = out.move_id = (char *)move_id;
    in.has_generation = out.has_generation = true;
    in.generation = out.generation = m;
    in.has_psk = out.has_psk = true;
    in.psk = out.psk = (ProtobufCBinaryData){.len = sizeof psk, .data = (uint8_t *)psk};
    in.target_incarnation = out.target_incarnation = (char *)"boot-b";
    in.spec = &vm_spec;
    expect_ok(call(rpc_of(target), METHOD_VM_MOVE_IN, &in.base, &listen_fd, 1,
                   &godwit__empty__descriptor));
    (void)close(listen_fd);

    if (bad_network.cuts) {
        char way_in[TCP_PROXY_ADDRESS_SIZE];
        bad_network.upstream = address;
        proxy = tcp_proxy_new(&bad_network, way_in);
        (void)snprintf(address, sizeof address, "%s", way_in);
    }
    (void)snprintf(source->address, sizeof source->address, "%s", address);
    struct connected connected = {0};
    assert_int_equal(move_sockets_connect(loop, address, with_postcopy ? 4 : 3, on_sockets,
                                          &connected, &fault),
                     0);
    WAIT_FOR(connected.came);
    goals.has_bandwidth_bytes_per_s = true;
    goals.bandwidth_bytes_per_s = bandwidth;
    goals.has_away_ms_max = true;
    goals.away_ms_max = away_ms_max;
    goals.has_postcopy = goals.has_downtime_ns_max = with_postcopy;
    goals.postcopy = with_postcopy;
    goals.downtime_ns_max = with_postcopy ? 5 * NS_PER_MS : 0;
    out.goals = &goals;
    source->move_ended = source->precopy = target->move_ended = false;
    expect_ok(call(rpc_of(source), METHOD_VM_MOVE_OUT, &out.base, connected.fds, connected.count,
                   &godwit__empty__descriptor));
    for (size_t i = 0; i < connected.count; i++)
        (void)close(connected.fds[i]);
}

static void boot(struct host *host, const char *name, const char *cmdline, uint64_t memory_mib)
{
    set_spec(2, memory_mib, cmdline);
    host_start(host, name);
    host_create(host, 1, false);
    host_attach(host);
    (void)host_expect(host, "gw ready");
}

/* ---- godwit-vm ---- */
static void boots_and_talks_on_its_console(void **state)
{
    (void)state;
    struct host host;
    struct latch_record record = {0};
    struct fault fault = {0};

    boot(&host, "talk", "vcpus=2", 128);
    host_type(&host, "ping\n");
    (void)host_expect(&host, "gw pong");

    assert_int_equal(latch_file_read(host.latch_path, &record, &fault), 0);
    assert_int_equal(record.generation, 1);
    assert_int_equal(record.ending, LATCH_ENDING_NONE);
    char path[192];
    struct stat status;
    (void)snprintf(path, sizeof path, "%s/console.log", host.dir);
    assert_int_equal(stat(path, &status), 0);
    assert_true(status.st_size > 0);
    host_end(&host);
    assert_int_equal(latch_file_read(host.latch_path, &record, &fault), 0);
    assert_int_equal(record.ending, LATCH_ENDING_QUIT);
}

/* It does not listen yet: who has a question for it waits for its first words. */
static void a_guest_that_has_just_begun_is_not_told_as_silent(void **state)
{
    (void)state;
    struct host host;

    set_spec(2, 128, "vcpus=2");
    host_start(&host, "begun");
    host.starts_paused = true;
    host_create(&host, 1, false);
    host_attach(&host);
    assert_false(host.told_early);
    assert_int_equal(expect_state(host_action(&host, METHOD_VM_RESUME)),
                     GODWIT__VM_STATE__VM_STATE_RUNNING);
    (void)host_expect(&host, "gw ready");
    host_attach(&host);
    assert_true(host.told_early);
    host_end(&host);
}

static void pauses_and_resumes(void **state)
{
    (void)state;
    struct host host;

    boot(&host, "pause", "vcpus=2", 128);
    assert_int_equal(expect_state(host_action(&host, METHOD_VM_PAUSE)),
                     GODWIT__VM_STATE__VM_STATE_PAUSED);
    struct answer deaf = host_action(&host, METHOD_VM_POWER_BUTTON);
    assert_int_equal(deaf.fault.code, ERR_UNSUPPORTED);
    host_type(&host, "ping\n"); /* waits in the queue */
    assert_int_equal(expect_state(host_action(&host, METHOD_VM_RESUME)),
                     GODWIT__VM_STATE__VM_STATE_RUNNING);
    (void)host_expect(&host, "gw pong");
    deaf = host_action(&host, METHOD_VM_POWER_BUTTON); /* this guest has no driver for it */
    assert_int_equal(deaf.fault.code, ERR_UNSUPPORTED);
    host_end(&host);
}

static void a_reset_boots_again_and_a_power_off_ends(void **state)
{
    (void)state;
    struct host host;
    struct latch_record record = {0};
    struct fault fault = {0};

    boot(&host, "reset", "vcpus=2", 128);
    host_type(&host, "reset\n");
    (void)host_expect(&host, "gw ready");
    host_type(&host, "poweroff\n");
    WAIT_FOR(host.state == GODWIT__VM_STATE__VM_STATE_STOPPED);
    assert_int_equal(latch_file_read(host.latch_path, &record, &fault), 0);
    assert_int_equal(record.ending, LATCH_ENDING_POWER_OFF);
    WAIT_FOR(host.dead); /* nobody tells it to quit: it ends by itself */
    host_end(&host);
}

static void refuses_a_bad_kernel_in_words(void **state)
{
    (void)state;
    struct host host;
    Godwit__VmCreate order = GODWIT__VM_CREATE__INIT;
    struct fault fault = {0};
    int fds[4];

    set_spec(1, 64, "");
    host_start(&host, "bad");
    fds[0] = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    fds[1] = open("/dev/null", O_WRONLY | O_CLOEXEC);
    assert_int_equal(latch_file_create(host.latch_path, &fds[2], &fault), 0);
    fds[3] = open("/etc/passwd", O_RDONLY | O_CLOEXEC);
    order.vm_id = (char *)"v1";
    order.spec = &vm_spec;
    order.has_generation = true;
    order.generation = 1;
    struct answer answer =
        call(rpc_of(&host), METHOD_VM_CREATE, &order.base, fds, 4, &godwit__vm_status__descriptor);
    assert_null(answer.message);
    assert_non_null(strstr(answer.fault.text, "db-01"));
    for (size_t i = 0; i < 4; i++)
        (void)close(fds[i]);
    host_end(&host);
}

static void moves_to_another_process_and_its_memory_is_whole(void **state)
{
    (void)state;
    struct host source, target;
    struct latch_record record = {0};
    struct fault fault = {0};

    boot(&source, "move-s", "vcpus=2 writers=1 rate=20 ws=32 fill=random fillmb=64", 256);
    host_start(&target, "move-t");
    host_create(&target, 0, true);
    host_attach(&target);
    assert_true(target.told_early && target.used == 0); /* a guest that came has nothing to say */
    move_begin(&source, &target, "m1", 2, 0);
    struct answer busy = host_action(&source, METHOD_VM_PAUSE);
    assert_null(busy.message);
    assert_int_equal(busy.fault.code, ERR_BUSY);
    WAIT_FOR(source.move_ended && target.move_ended);
    if (!source.moved)
        fail_msg("not moved: %s", source.move_fault);

    assert_int_equal(target.state, GODWIT__VM_STATE__VM_STATE_RUNNING);
    assert_int_equal(target.generation, 2);
    assert_int_equal(target.latch, GODWIT__LATCH__LATCH_TOOK);
    assert_int_equal(source.latch, GODWIT__LATCH__LATCH_RELEASED);
    WAIT_FOR(source.state == GODWIT__VM_STATE__VM_STATE_GONE);
    host_type(&target, "verify\n");
    assert_non_null(strstr(host_expect(&target, "gw verify"), "gw verify ok"));
    assert_int_equal(latch_file_read(target.latch_path, &record, &fault), 0);
    assert_int_equal(record.latch, GODWIT__LATCH__LATCH_TOOK);
    assert_int_equal(record.generation, 2);
    assert_int_equal(latch_file_read(source.latch_path, &record, &fault), 0);
    assert_int_equal(record.latch, GODWIT__LATCH__LATCH_RELEASED);
    print_message("downtime %.1f ms, %llu pages compared\n", (double)source.downtime_ns / 1e6,
                  (unsigned long long)source.digest_pages);
    host_end(&source);

    /* and on to a third, paused: it stays paused until somebody resumes it */
    struct host third;
    assert_int_equal(expect_state(host_action(&target, METHOD_VM_PAUSE)),
                     GODWIT__VM_STATE__VM_STATE_PAUSED);
    host_start(&third, "move-u");
    host_create(&third, 0, true);
    host_attach(&third);
    move_begin(&target, &third, "m2", 3, 0);
    WAIT_FOR(target.move_ended && third.move_ended);
    if (!target.moved)
        fail_msg("not moved: %s", target.move_fault);
    assert_int_equal(third.state, GODWIT__VM_STATE__VM_STATE_PAUSED);
    assert_int_equal(expect_state(host_action(&third, METHOD_VM_RESUME)),
                     GODWIT__VM_STATE__VM_STATE_RUNNING);
    host_type(&third, "verify\n");
    assert_non_null(strstr(host_expect(&third, "gw verify"), "gw verify ok"));
    host_end(&target);

    /* a reset boots the kernel, which came along twice */
    host_type(&third, "reset\n");
    (void)host_expect(&third, "gw ready");
    host_type(&third, "verify\n");
    assert_non_null(strstr(host_expect(&third, "gw verify"), "gw verify ok"));
    assert_int_equal(third.state, GODWIT__VM_STATE__VM_STATE_RUNNING);
    assert_int_equal(third.generation, 3);
    host_end(&third);
}

static void runs_on_when_the_target_is_killed_and_moves_the_next_time(void **state)
{
    (void)state;
    struct host source, target, second;
    struct fault fault = {0};

    boot(&source, "kill-s", "vcpus=2 writers=1 rate=20 ws=32 fill=random fillmb=96", 256);
    host_start(&target, "kill-t");
    host_create(&target, 0, true);
    move_begin(&source, &target, "m1", 2, MIB(8));
    WAIT_FOR(source.precopy);
    assert_int_equal(vm_process_kill(target.process, &fault), 0);
    WAIT_FOR(target.dead && source.move_ended);

    assert_false(source.moved);
    assert_int_equal(source.latch, GODWIT__LATCH__LATCH_ABORTED);
    assert_int_equal(source.state, GODWIT__VM_STATE__VM_STATE_RUNNING);
    assert_non_null(strstr(target.how, "signal 9"));
    host_type(&source, "verify\n");
    assert_non_null(strstr(host_expect(&source, "gw verify"), "gw verify ok"));
    struct latch_record record = {0};
    assert_int_equal(latch_file_read(target.latch_path, &record, &fault), 0);
    assert_int_equal(record.latch, GODWIT__LATCH__LATCH_IN);
    host_end(&target);

    host_start(&second, "kill-u");
    host_create(&second, 0, true);
    host_attach(&second);
    move_begin(&source, &second, "m2", 3, 0);
    WAIT_FOR(source.move_ended && second.move_ended);
    if (!source.moved)
        fail_msg("not moved: %s", source.move_fault);
    host_type(&second, "verify\n");
    assert_non_null(strstr(host_expect(&second, "gw verify"), "gw verify ok"));
    host_end(&source);
    host_end(&second);
}

static void end_bad_network(void)
{
    proxy = tcp_proxy_free(proxy);
    bad_network = (struct tcp_proxy_config){0};
    away_ms_max = 0;
}

static bool was_hit(const char *path)
{
    char words[256];
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    size_t count = fread(words, 1, sizeof words - 1, file);
    (void)fclose(file);
    words[count] = 0;
    return strstr(words, "\nhit ") != NULL;
}

/* A lane that writes into a disk stands still for as long as its medium does; here a failpoint stands for that. */
static void a_target_whose_lane_hangs_says_that_its_move_is_over_and_can_be_ended(void **state)
{
    (void)state;
    struct host source, target;
    struct fault fault = {0};
    char path[192];

    boot(&source, "hang-s", "vcpus=2 writers=1 rate=20 ws=32 fill=random fillmb=96", 256);
    (void)snprintf(path, sizeof path, "%s/failpoints", work_dir);
    FILE *spec = fopen(path, "w");
    assert_non_null(spec);
    (void)fprintf(spec, "target.place=delay:50000\n");
    assert_int_equal(fclose(spec), 0);
    failpoints_path = path;
    host_start(&target, "hang-t");
    failpoints_path = NULL;
    host_create(&target, 0, true);
    move_begin(&source, &target, "m1", 2, MIB(8));
    WAIT_FOR(source.precopy && was_hit(path));

    Godwit__MoveVerdict verdict = GODWIT__MOVE_VERDICT__INIT;
    verdict.vm_id = (char *)"v1";
    verdict.move_id = (char *)"m1";
    verdict.has_kind = true;
    verdict.kind = GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_CANCEL;
    (void)expect_state(call(rpc_of(&source), METHOD_VM_MOVE_VERDICT, &verdict.base, NULL, 0,
                            &godwit__vm_status__descriptor));
    WAIT_FOR(source.move_ended);
    assert_int_equal(source.state, GODWIT__VM_STATE__VM_STATE_RUNNING);

    WAIT_FOR(target.move_ended && target.state == GODWIT__VM_STATE__VM_STATE_GONE);
    assert_int_equal(target.latch, GODWIT__LATCH__LATCH_ABANDONED);
    assert_non_null(strstr(target.move_fault, "a thread of it still waits"));
    struct latch_record record = {0};
    assert_int_equal(latch_file_read(target.latch_path, &record, &fault), 0);
    assert_int_equal(record.ending, LATCH_ENDING_GONE);

    verdict.kind = GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_ABANDON; /* said again: it is so */
    (void)expect_state(call(rpc_of(&target), METHOD_VM_MOVE_VERDICT, &verdict.base, NULL, 0,
                            &godwit__vm_status__descriptor));
    host_end(&target); /* the thread waits yet */
    host_end(&source);
}

static void a_move_whose_lanes_are_cut_goes_on_where_it_was(void **state)
{
    (void)state;
    struct host source, target;

    bad_network = (struct tcp_proxy_config){.cut_bytes = MIB(40), .cuts = 3};
    boot(&source, "cut-s", "vcpus=2 writers=1 rate=20 ws=16 fill=random fillmb=160", 256);
    host_start(&target, "cut-t");
    host_create(&target, 0, true);
    host_attach(&target);
    move_begin(&source, &target, "m1", 2, 0);
    WAIT_FOR(source.move_ended && target.move_ended);
    if (!source.moved)
        fail_msg("not moved: %s", source.move_fault);

    assert_int_equal(tcp_proxy_cuts(proxy), 3);
    assert_in_range(source.reconnects, 1, 3); /* two cuts may be one loss */
    print_message("%u reconnects, %.1f MiB went over the wire for %.1f MiB, %llu pages again\n",
                  source.reconnects, (double)source.wire_bytes / MIB(1),
                  (double)source.populated_bytes / MIB(1), (unsigned long long)source.resent_pages);
    /* without marks each cut would cost all that had gone before it: 2 copies and more */
    assert_true(source.wire_bytes < source.populated_bytes * 3 / 2);
    host_type(&target, "verify\n");
    assert_non_null(strstr(host_expect(&target, "gw verify"), "gw verify ok"));
    WAIT_FOR(source.state == GODWIT__VM_STATE__VM_STATE_GONE);
    end_bad_network();
    host_end(&source);
    host_end(&target);
}

static void a_cut_that_does_not_heal_leaves_the_guest_where_it_ran(void **state)
{
    (void)state;
    struct host source, target;
    Godwit__MoveVerdict verdict = GODWIT__MOVE_VERDICT__INIT;

    bad_network = (struct tcp_proxy_config){.cut_bytes = MIB(20), .cuts = 1, .stays_closed = true};
    away_ms_max = 2000;
    boot(&source, "stay-s", "vcpus=2 writers=1 rate=20 ws=16 fill=random fillmb=96", 256);
    host_start(&target, "stay-t");
    host_create(&target, 0, true);
    move_begin(&source, &target, "m1", 2, 0);
    WAIT_FOR(source.move_ended);

    assert_false(source.moved);
    if (!strstr(source.move_fault, "did not come back within 2000 ms"))
        fail_msg("%s", source.move_fault);
    assert_int_equal(source.latch, GODWIT__LATCH__LATCH_ABORTED);
    assert_int_equal(source.state, GODWIT__VM_STATE__VM_STATE_RUNNING);
    host_type(&source, "verify\n");
    assert_non_null(strstr(host_expect(&source, "gw verify"), "gw verify ok"));
    assert_false(target.move_ended); /* it waits longer than the source tries */
    verdict.vm_id = (char *)"v1";
    verdict.move_id = (char *)"m1";
    verdict.has_kind = true;
    verdict.kind = GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_ABANDON; /* as the coordinator would */
    (void)expect_state(call(rpc_of(&target), METHOD_VM_MOVE_VERDICT, &verdict.base, NULL, 0,
                            &godwit__vm_status__descriptor));
    WAIT_FOR(target.move_ended && target.state == GODWIT__VM_STATE__VM_STATE_GONE);
    assert_int_equal(target.latch, GODWIT__LATCH__LATCH_ABANDONED);
    end_bad_network();
    host_end(&target);
    host_end(&source);
}

/* Its source stands, so that no page comes: whoever touches one that is missing waits for it, and that
 * must not be the thread that hears its agent. */
static void a_guest_in_post_copy_waits_for_its_pages_and_its_process_for_nothing(void **state)
{
    (void)state;
    struct host source, target;
    Godwit__VmAction action = GODWIT__VM_ACTION__INIT;
    action.vm_id = (char *)"v1";

    with_postcopy = true;
    boot(&source, "post-s", "vcpus=2 writers=1 rate=2000 ws=32 fill=random fillmb=8", 256);
    host_start(&target, "post-t");
    host_create(&target, 0, true);
    host_attach(&target);
    move_begin(&source, &target, "m1", 2, MIB(16));
    WAIT_FOR(target.post_copy && target.in_postcopy);
    pid_t source_pid = source.pid;
    assert_int_equal(kill(source_pid, SIGSTOP), 0);

    host_type(&target, "verify\n");
    expect_ok(call(rpc_of(&target), METHOD_VM_COUNTERS, &action.base, NULL, 0,
                   &godwit__vm_counters__descriptor));
    struct answer busy = host_action(&target, METHOD_VM_PAUSE);
    assert_null(busy.message);
    assert_int_equal(busy.fault.code, ERR_BUSY);
    assert_true(target.in_postcopy && !target.move_ended);

    assert_int_equal(kill(source_pid, SIGCONT), 0);
    WAIT_FOR(source.move_ended && target.move_ended && !target.in_postcopy);
    if (!source.moved)
        fail_msg("not moved: %s", source.move_fault);
    assert_non_null(strstr(host_expect(&target, "gw verify"), "gw verify ok")); /* typed long ago */
    WAIT_FOR(source.state == GODWIT__VM_STATE__VM_STATE_GONE);
    with_postcopy = false;
    host_end(&source);
    host_end(&target);
}

/* ---- what the guest is told ---- */
static Godwit__VsockSpec vsock_spec = GODWIT__VSOCK_SPEC__INIT;

static void boot_listener(struct host *host, const char *name, uint64_t notice_ms)
{
    vsock_spec.has_cid = vsock_spec.has_notice_ms = true;
    vsock_spec.cid = 7;
    vsock_spec.notice_ms = notice_ms;
    vm_spec.vsock = &vsock_spec;
    boot(host, name, "vcpus=2 vsock=1010 fill=random fillmb=32", 128);
}

static void expect_notice(struct host *host, const char *line)
{
    char whole[128];

    (void)snprintf(whole, sizeof whole, "gw notice %s\n", line);
    (void)host_expect(host, whole);
}

static void set_manner(struct host *host, const char *manner)
{
    char command[32];

    (void)snprintf(command, sizeof command, "vsock %s\n", manner);
    host_type(host, command);
    (void)host_expect(host, "gw ok");
}

static void move_on(struct host *source, struct host *target, const char *name, const char *move_id,
                    uint64_t m)
{
    host_start(target, name);
    host_create(target, 0, true);
    host_attach(target);
    move_begin(source, target, move_id, m, 0);
    WAIT_FOR(source->move_ended && target->move_ended);
    if (!source->moved)
        fail_msg("not moved: %s", source->move_fault);
}

static void a_guest_that_listens_is_told_before_and_after_its_move(void **state)
{
    (void)state;
    struct host source, target;

    boot_listener(&source, "told-s", 10000);
    move_on(&source, &target, "told-t", "m1", 2);

    expect_notice(&source, "prepare kind=move id=m1 deadline_ms=10000");
    char *told = host_expect(&target, "gw notice");
    if (strncmp(told, "gw notice resumed kind=move id=m1 pause_ms=", 43) != 0 ||
        !strstr(told, " host=host-b"))
        fail_msg("%s", told);
    host_type(&target, "vsock\n");
    told = host_expect(&target, "gw vsock");
    if (!strstr(told, " resets=1 device=ok"))
        fail_msg("%s", told);
    host_type(&target, "verify\n");
    assert_non_null(strstr(host_expect(&target, "gw verify"), "gw verify ok"));
    host_end(&source);
    host_end(&target);
    vm_spec.vsock = NULL;
}

static void a_guest_that_behaves_badly_is_moved_all_the_same(void **state)
{
    (void)state;
    static const char *const manners[] = {"silent", "close", "flood", "refuse", "deaf"};
    struct host hosts[2];
    unsigned at = 0;

    boot_listener(&hosts[at], "bad-0", 300);
    for (unsigned i = 0; i < ARRAY_COUNT(manners); i++, at ^= 1) {
        char name[16], move_id[16];
        (void)snprintf(name, sizeof name, "bad-%u", i + 1);
        (void)snprintf(move_id, sizeof move_id, "m%u", i + 1);
        set_manner(&hosts[at], manners[i]);
        move_on(&hosts[at], &hosts[at ^ 1], name, move_id, i + 2);
        host_end(&hosts[at]);
        host_type(&hosts[at ^ 1], "verify\n");
        assert_non_null(strstr(host_expect(&hosts[at ^ 1], "gw verify"), "gw verify ok"));
    }
    host_end(&hosts[at]);
    vm_spec.vsock = NULL;
}

static void a_move_that_fails_after_its_notice_is_called_off(void **state)
{
    (void)state;
    struct host source, target;
    struct fault fault = {0};

    boot_listener(&source, "off-s", 10000);
    set_manner(&source, "silent");
    host_start(&target, "off-t");
    host_create(&target, 0, true);
    move_begin(&source, &target, "m1", 2, 0);
    expect_notice(&source, "prepare kind=move id=m1 deadline_ms=10000");
    assert_false(source.move_ended);

    assert_int_equal(vm_process_kill(target.process, &fault), 0);

    expect_notice(&source, "cancelled kind=move id=m1");
    WAIT_FOR(target.dead && source.move_ended);
    assert_false(source.moved);
    assert_int_equal(source.state, GODWIT__VM_STATE__VM_STATE_RUNNING);
    host_end(&target);
    host_end(&source);
    vm_spec.vsock = NULL;
}

static void a_guest_is_told_of_a_suspend_and_that_it_was_called_off(void **state)
{
    (void)state;
    struct host host;
    Godwit__VmSuspend order = GODWIT__VM_SUSPEND__INIT;
    Godwit__VmSuspendEnd over = GODWIT__VM_SUSPEND_END__INIT;
    char path[192];

    boot_listener(&host, "rest", 10000);
    (void)snprintf(path, sizeof path, "%s/guest", host.dir);
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    order.vm_id = over.vm_id = (char *)"v1";
    order.nonce = (char *)"a-nonce";
    assert_int_equal(expect_state(call(rpc_of(&host), METHOD_VM_SUSPEND, &order.base, &fd, 1,
                                       &godwit__vm_status__descriptor)),
                     GODWIT__VM_STATE__VM_STATE_SUSPENDED);
    (void)close(fd);
    expect_notice(&host, "prepare kind=suspend deadline_ms=10000");

    assert_int_equal(expect_state(call(rpc_of(&host), METHOD_VM_SUSPEND_END, &over.base, NULL, 0,
                                       &godwit__vm_status__descriptor)),
                     GODWIT__VM_STATE__VM_STATE_RUNNING);

    expect_notice(&host, "cancelled kind=suspend");
    host_end(&host);
    vm_spec.vsock = NULL;
}

static void a_reset_in_a_move_rolls_it_back_and_boots_at_the_source(void **state)
{
    (void)state;
    struct host source, target;

    boot(&source, "rst-s", "vcpus=2 fill=random fillmb=96", 256);
    host_start(&target, "rst-t");
    host_create(&target, 0, true);
    move_begin(&source, &target, "m1", 2, MIB(8));
    WAIT_FOR(source.precopy);
    host_type(&source, "reset\n");
    WAIT_FOR(source.move_ended && target.move_ended);
    assert_false(source.moved);
    (void)host_expect(&source, "gw ready");
    assert_int_equal(source.generation, 1);
    WAIT_FOR(target.state == GODWIT__VM_STATE__VM_STATE_GONE);
    host_end(&target);
    host_end(&source);
}

/* ---- agents under a fake coordinator ---- */
struct node {
    char name[16], dir[128], run_dir[128], incarnation[ID_TEXT_SIZE];
    pid_t pid;
    struct rpc *rpc;
    unsigned hellos;
    Godwit__VmState state; /* of v1, as last told */
    uint64_t generation;
    Godwit__Latch latch;
    int vm_pid;
    char reason[256];
    Godwit__Latch moved_latch; /* by move events */
    bool move_ended, moved, precopy;
    unsigned reconnects;
    char *text;
    size_t used, read;
};

static struct node nodes[2];
static struct rpc_server *server;
static struct tls_context *server_context;
static char *ca, *ca_key;
static char server_address[64];

static struct node *node_of(const struct rpc *rpc)
{
    for (size_t i = 0; i < 2; i++) {
        if (strcmp(rpc_peer(rpc)->name, nodes[i].name) == 0)
            return &nodes[i];
    }
    fail_msg("a stranger: %s", rpc_peer(rpc)->name);
    return NULL;
}

static void node_take(struct node *node, const Godwit__VmStatus *vm)
{
    node->state = vm->state;
    node->generation = vm->generation;
    node->latch = vm->latch ? vm->latch->latch : GODWIT__LATCH__LATCH_NONE;
    node->vm_pid = vm->pid;
    (void)snprintf(node->reason, sizeof node->reason, "%s", vm->reason ? vm->reason : "");
}

static void on_hello(void *data, struct rpc *rpc, struct rpc_request *request,
                     const ProtobufCMessage *message)
{
    const Godwit__AgentHello *hello = (const Godwit__AgentHello *)message;
    struct node *node = node_of(rpc);
    Godwit__AgentWelcome welcome = GODWIT__AGENT_WELCOME__INIT;
    (void)data;

    node->rpc = rpc;
    node->hellos++;
    (void)snprintf(node->incarnation, sizeof node->incarnation, "%s", hello->facts->incarnation);
    for (size_t i = 0; i < hello->n_vms; i++)
        node_take(node, hello->vms[i]);
    welcome.has_version = welcome.has_heartbeat_ms = true;
    welcome.version = PROTOCOL_VERSION;
    welcome.heartbeat_ms = HEARTBEAT_MS;
    (void)rpc_reply(request, &welcome.base);
}

static void on_heartbeat(void *data, struct rpc *rpc, struct rpc_request *request,
                         const ProtobufCMessage *message)
{
    (void)data;
    (void)rpc;
    (void)request;
    (void)message;
}

static void on_vm_event(void *data, struct rpc *rpc, struct rpc_request *request,
                        const ProtobufCMessage *message)
{
    (void)data;
    (void)request;
    node_take(node_of(rpc), ((const Godwit__AgentVmEvent *)message)->vm);
}

static void on_move_event(void *data, struct rpc *rpc, struct rpc_request *request,
                          const ProtobufCMessage *message)
{
    const Godwit__MoveEvent *event = (const Godwit__MoveEvent *)message;
    struct node *node = node_of(rpc);
    (void)data;
    (void)request;

    if (event->has_latch)
        node->moved_latch = event->latch;
    if (event->progress && event->progress->phase == GODWIT__MOVE_PHASE__MOVE_PHASE_PRECOPY &&
        event->progress->wire_bytes > 0)
        node->precopy = true;
    if (event->ended) {
        node->move_ended = true;
        node->moved = event->receipt && event->receipt->moved;
        node->reconnects = event->receipt ? event->receipt->reconnects : 0;
    }
}

static void on_console_output(void *data, struct rpc *rpc, struct rpc_request *request,
                              const ProtobufCMessage *message)
{
    const Godwit__ConsoleData *event = (const Godwit__ConsoleData *)message;
    struct node *node = node_of(rpc);
    (void)data;
    (void)request;

    assert_int_equal(event->session, 77);
    assert_true(event->data.len < TEXT_MAX - node->used);
    memcpy(node->text + node->used, event->data.data, event->data.len);
    node->used += event->data.len;
    node->text[node->used] = 0;
}

static const struct rpc_method coordinator_methods[] = {
    {METHOD_AGENT_HELLO, &godwit__agent_hello__descriptor, on_hello},
    {METHOD_AGENT_HEARTBEAT, &godwit__agent_heartbeat__descriptor, on_heartbeat},
    {METHOD_AGENT_VM_EVENT, &godwit__agent_vm_event__descriptor, on_vm_event},
    {METHOD_AGENT_MOVE_EVENT, &godwit__move_event__descriptor, on_move_event},
    {METHOD_AGENT_CONSOLE_OUTPUT, &godwit__console_data__descriptor, on_console_output},
};

static void on_agent_closed(void *data, struct rpc *rpc, const struct fault *fault)
{
    (void)data;
    (void)fault;
    for (size_t i = 0; i < 2; i++) {
        if (nodes[i].rpc == rpc)
            nodes[i].rpc = NULL;
    }
    (void)rpc_close(rpc);
}

static const struct rpc_service coordinator_service = {
    .methods = coordinator_methods,
    .method_count = ARRAY_COUNT(coordinator_methods),
    .on_closed = on_agent_closed,
};

static void on_agent_peer(void *data, struct rpc *rpc)
{
    (void)data;
    assert_string_equal(rpc_peer(rpc)->role, "host");
}

static void make_certificate(const char *role, const char *name, char **ret_certificate,
                             char **ret_key)
{
    struct fault fault = {0};
    struct pki_identity identity = {.pool = "testpool"};
    char *request = NULL;

    (void)snprintf(identity.role, sizeof identity.role, "%s", role);
    (void)snprintf(identity.name, sizeof identity.name, "%s", name);
    assert_int_equal(pki_new_key(ret_key, &fault), 0);
    assert_int_equal(pki_new_request(*ret_key, &request, &fault), 0);
    assert_int_equal(pki_sign(ca, ca_key, request, &identity, 1, ret_certificate, &fault), 0);
    free(request);
}

static void coordinator_start(void)
{
    struct fault fault = {0};
    char *certificate, *key;

    assert_int_equal(pki_new_ca("testpool", 1, &ca, &ca_key, &fault), 0);
    make_certificate("coordinator", "1", &certificate, &key);
    const struct tls_identity identity = {
        .ca_certificate = ca, .certificate = certificate, .key = key};
    assert_int_equal(tls_context_new(&server_context, &identity, &fault), 0);
    free(certificate);
    free(key);
    const struct rpc_server_config config = {
        .address = "127.0.0.1:0",
        .context = server_context,
        .unix_fd = -1,
        .service = &coordinator_service,
        .on_peer = on_agent_peer,
    };
    assert_int_equal(rpc_server_new(&server, loop, &config, &fault), 0);
    (void)snprintf(server_address, sizeof server_address, "127.0.0.1:%u", rpc_server_port(server));
}

static void put_file(const struct node *node, const char *name, const char *text)
{
    char path[256];
    struct fault fault = {0};
    (void)snprintf(path, sizeof path, "%s/%s", node->dir, name);
    assert_int_equal(file_write_atomic(path, 0600, text, strlen(text), &fault), 0);
}

static void node_spawn(struct node *node)
{
    char log_path[192];
    (void)snprintf(log_path, sizeof log_path, "%s/%s.log", work_dir, node->name);

    node->pid = fork();
    assert_true(node->pid >= 0);
    if (node->pid == 0) {
        int fd = open(log_path, O_WRONLY | O_APPEND | O_CREAT, 0600);
        (void)dup2(fd, 1);
        (void)dup2(fd, 2);
        execl(GODWIT_AGENT, "godwit-agent", "--dir", node->dir, "--run-dir", node->run_dir,
              "--vm-program", GODWIT_VM, "--log-level", "debug", NULL);
        _exit(127);
    }
}

static void node_start(struct node *node, const char *name)
{
    struct fault fault = {0};
    char path[256], *certificate, *key;

    *node = (struct node){0};
    node->text = calloc(1, TEXT_MAX);
    (void)snprintf(node->name, sizeof node->name, "%s", name);
    (void)snprintf(node->dir, sizeof node->dir, "%s/%s/agent", work_dir, name);
    (void)snprintf(node->run_dir, sizeof node->run_dir, "%s/%s/run", work_dir, name);
    assert_int_equal(dir_make(node->dir, &fault), 0);
    make_certificate("host", name, &certificate, &key);
    put_file(node, "ca.crt", ca);
    put_file(node, "host.crt", certificate);
    put_file(node, "host.key", key);
    free(certificate);
    free(key);
    const char *const keys[] = {"pool_id", "name", "coordinator", "move_address"};
    const char *const values[] = {"testpool", name, server_address, "127.0.0.1"};
    (void)snprintf(path, sizeof path, "%s/agent.json", node->dir);
    assert_int_equal(config_write(path, 0600, keys, values, 4, &fault), 0);
    node_spawn(node);
    WAIT_FOR(node->hellos == 1);
}

static void node_kill(struct node *node, int signal_number)
{
    assert_int_equal(kill(node->pid, signal_number), 0);
    assert_int_equal(waitpid(node->pid, NULL, 0), node->pid);
    WAIT_FOR(!node->rpc);
}

/* Kill the agent, start another: it must say hello with what runs within about a second. */
static void node_restart(struct node *node)
{
    node_kill(node, SIGKILL);
    unsigned hellos = node->hellos;
    uint64_t before_ms = world_now_ms();
    node->state = GODWIT__VM_STATE__VM_STATE_NONE;
    node->latch = GODWIT__LATCH__LATCH_NONE;
    node_spawn(node);
    WAIT_FOR(node->hellos > hellos);
    print_message("%s said hello %llu ms after its restart\n", node->name,
                  (unsigned long long)(world_now_ms() - before_ms));
    assert_true(world_now_ms() - before_ms < 3000);
}

static struct answer order_start_of(struct node *node, const char *vm_id, uint64_t generation,
                                    const char *incarnation)
{
    Godwit__OrderVmStart order = GODWIT__ORDER_VM_START__INIT;
    order.vm_id = (char *)vm_id;
    order.spec = &vm_spec;
    order.has_generation = true;
    order.generation = generation;
    order.incarnation = (char *)incarnation;
    return call(node->rpc, METHOD_ORDER_VM_START, &order.base, NULL, 0,
                &godwit__vm_status__descriptor);
}

static struct answer order_start(struct node *node, uint64_t generation, const char *incarnation)
{
    return order_start_of(node, "v1", generation, incarnation);
}

static struct answer order_stop(struct node *node, bool remove)
{
    Godwit__OrderVmStop order = GODWIT__ORDER_VM_STOP__INIT;
    order.vm_id = (char *)"v1";
    order.has_remove = true;
    order.remove = remove;
    return call(node->rpc, METHOD_ORDER_VM_STOP, &order.base, NULL, 0,
                &godwit__vm_status__descriptor);
}

static void order_attach(struct node *node)
{
    Godwit__ConsoleAttach attach = GODWIT__CONSOLE_ATTACH__INIT;
    attach.vm_id = (char *)"v1";
    attach.has_on = attach.on = attach.has_session = true;
    attach.session = 77;
    struct answer answer = call(node->rpc, METHOD_ORDER_CONSOLE_ATTACH, &attach.base, NULL, 0,
                                &godwit__console_data__descriptor);
    if (!answer.message)
        fail_msg("%s", answer.fault.text);
    const Godwit__ConsoleData *data = (Godwit__ConsoleData *)answer.message;
    if (data->data.len)
        memcpy(node->text + node->used, data->data.data, data->data.len);
    node->used += data->data.len;
    answer_free(&answer);
}

static char *node_find(struct node *node, const char *prefix)
{
    char *at = strstr(node->text + node->read, prefix);
    char *end = at ? strchr(at, '\n') : NULL;
    if (end)
        node->read = (size_t)(end - node->text);
    return end ? at : NULL;
}

static char *node_ask(struct node *node, const char *command, const char *prefix)
{
    Godwit__ConsoleData input = GODWIT__CONSOLE_DATA__INIT;
    char *line = NULL;
    input.vm_id = (char *)"v1";
    input.has_data = input.has_session = true;
    input.session = 77;
    input.data = (ProtobufCBinaryData){.len = strlen(command), .data = (uint8_t *)command};
    if (*command)
        assert_int_equal(rpc_send_event(node->rpc, METHOD_ORDER_CONSOLE_INPUT, &input.base, NULL),
                         0);
    WAIT_FOR((line = node_find(node, prefix)));
    return line;
}

/* As a viewer whose stream of typed bytes has come to `at`. */
static void node_ping(struct node *node, uint64_t at)
{
    Godwit__ConsoleData input = GODWIT__CONSOLE_DATA__INIT;
    input.vm_id = (char *)"v1";
    input.has_data = input.has_session = input.has_stream = input.has_at = true;
    input.session = 77;
    input.stream = 4711;
    input.at = at;
    input.data = (ProtobufCBinaryData){.len = 5, .data = (uint8_t *)"ping\n"};
    node->read = node->used;
    assert_int_equal(rpc_send_event(node->rpc, METHOD_ORDER_CONSOLE_INPUT, &input.base, NULL), 0);
    WAIT_FOR(node_find(node, "gw pong"));
}

static void order_move(struct node *source, struct node *target, const char *move_id, uint64_t m,
                       uint64_t bandwidth)
{
    static const uint8_t psk[TLS_LANE_PSK_BYTES] = {9, 8, 7};
    Godwit__MoveIn in = GODWIT__MOVE_IN__INIT;
    Godwit__MoveOut out = GODWIT__MOVE_OUT__INIT;
    Godwit__MoveGoals goals = GODWIT__MOVE_GOALS__INIT;

    in.vm_id = out.vm_id = (char *)"v1";
    in.move_id = out.move_id = (char *)move_id;
    in.has_generation = out.has_generation = true;
    in.generation = out.generation = m;
    in.has_psk = out.has_psk = true;
    in.psk = out.psk = (ProtobufCBinaryData){.len = sizeof psk, .data = (uint8_t *)psk};
    in.target_incarnation = out.target_incarnation = target->incarnation;
    out.source_incarnation = source->incarnation;
    in.spec = &vm_spec;
    goals.has_bandwidth_bytes_per_s = true;
    goals.bandwidth_bytes_per_s = bandwidth;
    out.goals = &goals;
    source->move_ended = target->move_ended = source->moved = source->precopy = false;

    struct answer first = call(target->rpc, METHOD_ORDER_MOVE_IN, &in.base, NULL, 0,
                               &godwit__move_in_reply__descriptor);
    if (!first.message)
        fail_msg("%s", first.fault.text);
    struct answer again = call(target->rpc, METHOD_ORDER_MOVE_IN, &in.base, NULL, 0,
                               &godwit__move_in_reply__descriptor);
    out.address = ((Godwit__MoveInReply *)first.message)->address;
    assert_string_equal(out.address, ((Godwit__MoveInReply *)again.message)->address);
    char way_in[TCP_PROXY_ADDRESS_SIZE];
    if (bad_network.cuts) {
        bad_network.upstream = out.address;
        proxy = tcp_proxy_new(&bad_network, way_in);
        out.address = way_in;
    }
    expect_ok(
        call(source->rpc, METHOD_ORDER_MOVE_OUT, &out.base, NULL, 0, &godwit__empty__descriptor));
    expect_ok(
        call(source->rpc, METHOD_ORDER_MOVE_OUT, &out.base, NULL, 0, &godwit__empty__descriptor));
    answer_free(&first);
    answer_free(&again);
}

static void starts_a_vm_once_per_generation(struct node *a)
{
    struct answer answer = order_start(a, 1, "another-boot");
    assert_null(answer.message);
    assert_int_equal(answer.fault.code, ERR_REFUSED);

    vm_spec.kernel = (char *)"/no/such/kernel";
    answer = order_start_of(a, "v0", 1, a->incarnation);
    assert_null(answer.message);
    assert_non_null(strstr(answer.fault.text, "/no/such/kernel"));
    vm_spec.kernel = (char *)GUEST_ELF;
    answer = order_start_of(a, "v0", 1, a->incarnation); /* said twice: the refusal stands */
    assert_null(answer.message);
    assert_int_equal(answer.fault.code, ERR_REFUSED);

    answer = order_start(a, 1, a->incarnation);
    if (!answer.message)
        fail_msg("%s", answer.fault.text);
    int pid = ((Godwit__VmStatus *)answer.message)->pid;
    answer_free(&answer);
    answer = order_start(a, 1, a->incarnation);
    assert_int_equal(((Godwit__VmStatus *)answer.message)->pid, pid);
    answer_free(&answer);
    answer = order_start(a, 2, a->incarnation);
    assert_null(answer.message);
    assert_int_equal(answer.fault.code, ERR_STATE);
    order_attach(a);
    (void)node_ask(a, "", "gw ready");
}

static void an_agent_that_is_killed_adopts(struct node *node, uint64_t generation,
                                           Godwit__VmState state, Godwit__Latch latch)
{
    node_restart(node);
    assert_int_equal(node->state, state);
    assert_int_equal(node->generation, generation);
    assert_int_equal(node->latch, latch);
    order_attach(node);
    node->read = node->used;
    (void)node_ask(node, "ping\n", "gw pong");
}

static void agents_carry_out_orders_and_survive(void **state)
{
    (void)state;
    struct node *a = &nodes[0], *b = &nodes[1];

    set_spec(2, 256, "vcpus=2 writers=1 rate=20 ws=32 fill=random fillmb=64");
    coordinator_start();
    node_start(a, "node1");
    node_start(b, "node2");
    assert_string_not_equal(a->incarnation, b->incarnation);
    starts_a_vm_once_per_generation(a);
    an_agent_that_is_killed_adopts(a, 1, GODWIT__VM_STATE__VM_STATE_RUNNING,
                                   GODWIT__LATCH__LATCH_NONE);

    /* there, with its lanes cut on the way and an agent that begins anew meanwhile */
    bad_network = (struct tcp_proxy_config){.cut_bytes = MIB(24), .cuts = 1};
    order_move(a, b, "m1", 2, MIB(20));
    WAIT_FOR(a->precopy);
    an_agent_that_is_killed_adopts(a, 1, GODWIT__VM_STATE__VM_STATE_RUNNING,
                                   GODWIT__LATCH__LATCH_OUT);
    WAIT_FOR(a->move_ended && b->move_ended);
    assert_true(a->moved);
    assert_int_equal(a->reconnects, 1);
    end_bad_network();
    WAIT_FOR(a->state == GODWIT__VM_STATE__VM_STATE_GONE);
    assert_int_equal(b->state, GODWIT__VM_STATE__VM_STATE_RUNNING);
    assert_int_equal(b->generation, 2);
    order_attach(b);
    assert_non_null(strstr(node_ask(b, "verify\n", "gw verify"), "gw verify ok"));

    /* a viewer typed here, then where the VM was meanwhile, and now here again */
    node_ping(b, 0);
    node_ping(b, 500);

    /* both agents die; what they say afterwards is still true */
    an_agent_that_is_killed_adopts(b, 2, GODWIT__VM_STATE__VM_STATE_RUNNING,
                                   GODWIT__LATCH__LATCH_TOOK);
    node_restart(a);
    assert_int_equal(a->state, GODWIT__VM_STATE__VM_STATE_GONE);
    assert_int_equal(a->latch, GODWIT__LATCH__LATCH_RELEASED);
    struct answer answer = order_start(a, 1, a->incarnation);
    answer_free(&answer); /* the present status or a refusal, but nothing runs: */
    assert_int_equal(a->state, GODWIT__VM_STATE__VM_STATE_GONE);

    /* back, but the target dies on the way: it never runs there, and is told so */
    order_move(b, a, "m2", 3, MIB(8));
    WAIT_FOR(b->precopy);
    an_agent_that_is_killed_adopts(b, 2, GODWIT__VM_STATE__VM_STATE_RUNNING,
                                   GODWIT__LATCH__LATCH_OUT);
    WAIT_FOR(a->state == GODWIT__VM_STATE__VM_STATE_INCOMING && a->vm_pid > 0);
    assert_int_equal(kill(a->vm_pid, SIGKILL), 0);
    WAIT_FOR(a->move_ended && b->move_ended);
    assert_int_equal(a->moved_latch, GODWIT__LATCH__LATCH_ABANDONED);
    WAIT_FOR(a->state == GODWIT__VM_STATE__VM_STATE_GONE);
    assert_int_equal(a->latch, GODWIT__LATCH__LATCH_ABANDONED);
    assert_int_equal(b->latch, GODWIT__LATCH__LATCH_ABORTED);
    assert_int_equal(b->state, GODWIT__VM_STATE__VM_STATE_RUNNING);
    b->read = b->used;
    assert_non_null(strstr(node_ask(b, "verify\n", "gw verify"), "gw verify ok"));

    /* the VM's process is killed: crashed, with the signal */
    answer = order_start(b, 2, b->incarnation);
    assert_int_equal(kill(((Godwit__VmStatus *)answer.message)->pid, SIGKILL), 0);
    answer_free(&answer);
    WAIT_FOR(b->state == GODWIT__VM_STATE__VM_STATE_CRASHED);
    assert_true(b->reason[0] != 0);

    /* started again, stopped, removed */
    assert_int_equal(expect_state(order_start(b, 4, b->incarnation)),
                     GODWIT__VM_STATE__VM_STATE_RUNNING);
    assert_int_equal(expect_state(order_stop(b, false)), GODWIT__VM_STATE__VM_STATE_STOPPED);
    assert_int_equal(expect_state(order_stop(b, true)), GODWIT__VM_STATE__VM_STATE_STOPPED);
    assert_int_equal(expect_state(order_stop(a, true)), GODWIT__VM_STATE__VM_STATE_GONE);
    node_kill(a, SIGTERM);
    node_kill(b, SIGTERM);
    char path[256];
    for (size_t i = 0; i < 2; i++) {
        (void)snprintf(path, sizeof path, "%s/vms/v1", nodes[i].dir);
        assert_int_not_equal(access(path, F_OK), 0);
        (void)snprintf(path, sizeof path, "%s/vms/v1", nodes[i].run_dir);
        assert_int_not_equal(access(path, F_OK), 0);
        free(nodes[i].text);
    }
    server = rpc_server_free(server);
    server_context = tls_context_free(server_context);
    free(ca);
    free(ca_key);
}

static void remove_work_dir(void)
{
    pid_t pid = fork();
    if (pid == 0) {
        execlp("rm", "rm", "-rf", "--", work_dir, NULL);
        _exit(127);
    }
    (void)waitpid(pid, NULL, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(boots_and_talks_on_its_console),
        cmocka_unit_test(a_guest_that_has_just_begun_is_not_told_as_silent),
        cmocka_unit_test(pauses_and_resumes),
        cmocka_unit_test(a_reset_boots_again_and_a_power_off_ends),
        cmocka_unit_test(refuses_a_bad_kernel_in_words),
        cmocka_unit_test(moves_to_another_process_and_its_memory_is_whole),
        cmocka_unit_test(runs_on_when_the_target_is_killed_and_moves_the_next_time),
        cmocka_unit_test(a_target_whose_lane_hangs_says_that_its_move_is_over_and_can_be_ended),
        cmocka_unit_test(a_move_whose_lanes_are_cut_goes_on_where_it_was),
        cmocka_unit_test(a_cut_that_does_not_heal_leaves_the_guest_where_it_ran),
        cmocka_unit_test(a_guest_in_post_copy_waits_for_its_pages_and_its_process_for_nothing),
        cmocka_unit_test(a_guest_that_listens_is_told_before_and_after_its_move),
        cmocka_unit_test(a_guest_that_behaves_badly_is_moved_all_the_same),
        cmocka_unit_test(a_move_that_fails_after_its_notice_is_called_off),
        cmocka_unit_test(a_guest_is_told_of_a_suspend_and_that_it_was_called_off),
        cmocka_unit_test(a_reset_in_a_move_rolls_it_back_and_boots_at_the_source),
        cmocka_unit_test(agents_carry_out_orders_and_survive),
    };
    struct fault fault = {0};
    int kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

    if (kvm_fd < 0 || ioctl(kvm_fd, KVM_GET_API_VERSION, 0) != KVM_API_VERSION) {
        (void)printf("skipped: no /dev/kvm here\n");
        return 77;
    }
    (void)close(kvm_fd);
    (void)signal(SIGPIPE, SIG_IGN);
    log_set_level(LOG_WARN);
    (void)snprintf(work_dir, sizeof work_dir, "/tmp/godwit-vm-test.XXXXXX");
    if (!mkdtemp(work_dir) || loop_new(&loop, &fault) < 0)
        return 1;
    const char *only = getenv("GODWIT_TEST_ONLY");
    if (only)
        cmocka_set_test_filter(only);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    loop = loop_free(loop);
    if (failed || getenv("GODWIT_TEST_KEEP"))
        (void)printf("logs are left in %s\n", work_dir);
    else
        remove_work_dir();
    return failed;
}

/* Disaster recovery at the agents' level: real godwit-agent and godwit-vm processes and verifying
 * guests on KVM, a fake coordinator. A host dies with all that is on it and its guest goes on at
 * the other one, from a whole checkpoint; it comes back and only differences travel; a planned
 * failover loses nothing; agents that die forget nothing.
 *
 * Both hosts are this machine, so each has a folder of its own for the store of its disks. */
#include <dirent.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "agent/vm/latch_file.h"
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
#include "proto/dr.pb-c.h"
#include "proto/limits.h"
#include "proto/method.h"

enum { WAIT_S_MAX = 60, TEXT_MAX = 1 << 20, DISK_MIB = 16, RPO_MS = 1000 };

static struct loop *loop;
static char work_dir[64];
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

static void *copy_of(const ProtobufCMessage *message)
{
    size_t count = protobuf_c_message_get_packed_size(message);
    AUTO_FREE uint8_t *bytes = malloc(count + 1);
    assert_non_null(bytes);
    (void)protobuf_c_message_pack(message, bytes);
    return protobuf_c_message_unpack(message->descriptor, NULL, count, bytes);
}

static void on_answer(void *data, const ProtobufCMessage *reply, const struct fault *fault)
{
    struct answer *answer = data;

    answer->came = true;
    if (reply)
        answer->message = copy_of(reply);
    else
        answer->fault = *fault;
}

static struct answer call(struct rpc *rpc, uint16_t method, const ProtobufCMessage *message,
                          const ProtobufCMessageDescriptor *type)
{
    struct answer answer = {0};
    struct fault fault = {0};

    assert_non_null(rpc);
    assert_int_equal(rpc_call(rpc, method, message, type, 90000, on_answer, &answer, &fault), 0);
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

static void expect_refusal(struct answer answer, int code, const char *words)
{
    if (answer.message)
        fail_msg("not refused: %s", words);
    if (answer.fault.code != code || !strstr(answer.fault.text, words))
        fail_msg("refused by %s: %s", err_name(answer.fault.code), answer.fault.text);
}

/* ---- agents under a fake coordinator ---- */
struct node {
    char name[16], dir[128], run_dir[128], store[160], incarnation[ID_TEXT_SIZE];
    pid_t pid;
    struct rpc *rpc;
    unsigned hellos, vms_told; /* in hellos and events */
    Godwit__VmState state;     /* of v1, as last told */
    uint64_t generation;
    int vm_pid;
    Godwit__ProtectStatus *protect; /* owned: the last told */
    Godwit__ReplicaStatus *replica; /* owned; NULL: none is told */
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
    node->vms_told++;
    node->state = vm->state;
    node->generation = vm->generation;
    node->vm_pid = vm->pid;
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

static void on_ignored(void *data, struct rpc *rpc, struct rpc_request *request,
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

static void on_console_output(void *data, struct rpc *rpc, struct rpc_request *request,
                              const ProtobufCMessage *message)
{
    const Godwit__ConsoleData *event = (const Godwit__ConsoleData *)message;
    struct node *node = node_of(rpc);
    (void)data;
    (void)request;

    assert_true(event->data.len < TEXT_MAX - node->used);
    memcpy(node->text + node->used, event->data.data, event->data.len);
    node->used += event->data.len;
    node->text[node->used] = 0;
}

static void set_protect(struct node *node, Godwit__ProtectStatus *status)
{
    if (node->protect)
        godwit__protect_status__free_unpacked(node->protect, NULL);
    node->protect = status;
}

static void set_replica(struct node *node, Godwit__ReplicaStatus *status)
{
    if (node->replica)
        godwit__replica_status__free_unpacked(node->replica, NULL);
    node->replica = status;
}

static void on_protect(void *data, struct rpc *rpc, struct rpc_request *request,
                       const ProtobufCMessage *message)
{
    (void)data;
    (void)request;
    set_protect(node_of(rpc), copy_of(message));
}

static void on_replicas(void *data, struct rpc *rpc, struct rpc_request *request,
                        const ProtobufCMessage *message)
{
    const Godwit__AgentReplicas *all = (const Godwit__AgentReplicas *)message;
    (void)data;
    (void)request;

    assert_true(all->n_replicas <= 1);
    set_replica(node_of(rpc), all->n_replicas ? copy_of(&all->replicas[0]->base) : NULL);
}

static const struct rpc_method coordinator_methods[] = {
    {METHOD_AGENT_HELLO, &godwit__agent_hello__descriptor, on_hello},
    {METHOD_AGENT_HEARTBEAT, &godwit__agent_heartbeat__descriptor, on_ignored},
    {METHOD_AGENT_VM_EVENT, &godwit__agent_vm_event__descriptor, on_vm_event},
    {METHOD_AGENT_CONSOLE_OUTPUT, &godwit__console_data__descriptor, on_console_output},
    {METHOD_AGENT_PROTECT, &godwit__protect_status__descriptor, on_protect},
    {METHOD_AGENT_REPLICAS, &godwit__agent_replicas__descriptor, on_replicas},
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
    (void)snprintf(node->store, sizeof node->store, "%s/%s/store", work_dir, name);
    assert_int_equal(dir_make(node->dir, &fault), 0);
    assert_int_equal(dir_make(node->store, &fault), 0);
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
    set_protect(node, NULL);
    set_replica(node, NULL);
}

static void node_again(struct node *node)
{
    unsigned hellos = node->hellos;
    node->state = GODWIT__VM_STATE__VM_STATE_NONE;
    node_spawn(node);
    WAIT_FOR(node->hellos > hellos);
}

/* The host: what speaks for it, and what runs on it. */
static void node_die(struct node *node)
{
    int vm_pid = node->vm_pid;
    assert_true(vm_pid > 0);
    node_kill(node, SIGKILL);
    assert_int_equal(kill(vm_pid, SIGKILL), 0);
}

static void node_end(struct node *node)
{
    if (node->pid)
        node_kill(node, SIGTERM);
    free(node->text);
}

static void teardown(void)
{
    server = rpc_server_free(server);
    server_context = tls_context_free(server_context);
    free(ca);
    free(ca_key);
}

/* ---- the VM ---- */
static Godwit__CpuSpec cpu_spec = GODWIT__CPU_SPEC__INIT;
static Godwit__MemorySpec memory_spec = GODWIT__MEMORY_SPEC__INIT;
static Godwit__DiskSpec disk_spec = GODWIT__DISK_SPEC__INIT;
static Godwit__DiskSpec *disk_list[] = {&disk_spec};

/* As this host sees it: its store is its own folder. */
static Godwit__VmSpec spec_of(struct node *node)
{
    Godwit__VmSpec spec = GODWIT__VM_SPEC__INIT;

    cpu_spec.has_vcpus = memory_spec.has_size = disk_spec.has_size = true;
    cpu_spec.vcpus = 1;
    cpu_spec.baseline = (char *)"x86-64-v1";
    memory_spec.size = MIB(128);
    disk_spec.name = (char *)"root";
    disk_spec.store = node->store;
    disk_spec.file = (char *)"db-01.raw";
    disk_spec.size = MIB(DISK_MIB);
    spec.name = (char *)"db-01";
    spec.cpu = &cpu_spec;
    spec.memory = &memory_spec;
    spec.kernel = (char *)GUEST_ELF;
    spec.cmdline =
        (char *)"vcpus=1 writers=1 rate=5 ws=16 fill=random fillmb=32 disk=16 diskrate=100";
    spec.disks = disk_list;
    spec.n_disks = 1;
    return spec;
}

static struct answer order_start(struct node *node, uint64_t generation)
{
    Godwit__OrderVmStart order = GODWIT__ORDER_VM_START__INIT;
    Godwit__VmSpec spec = spec_of(node);
    order.vm_id = (char *)"v1";
    order.spec = &spec;
    order.has_generation = true;
    order.generation = generation;
    order.incarnation = node->incarnation;
    return call(node->rpc, METHOD_ORDER_VM_START, &order.base, &godwit__vm_status__descriptor);
}

static struct answer order_stop(struct node *node, bool remove)
{
    Godwit__OrderVmStop order = GODWIT__ORDER_VM_STOP__INIT;
    order.vm_id = (char *)"v1";
    order.has_remove = true;
    order.remove = remove;
    return call(node->rpc, METHOD_ORDER_VM_STOP, &order.base, &godwit__vm_status__descriptor);
}

static void order_attach(struct node *node)
{
    Godwit__ConsoleAttach attach = GODWIT__CONSOLE_ATTACH__INIT;
    attach.vm_id = (char *)"v1";
    attach.has_on = attach.on = attach.has_session = true;
    attach.session = 77;
    struct answer answer = call(node->rpc, METHOD_ORDER_CONSOLE_ATTACH, &attach.base,
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
    input.data =
        (ProtobufCBinaryData){.len = strlen(command), .data = (uint8_t *)(uintptr_t)command};
    if (*command)
        assert_int_equal(rpc_send_event(node->rpc, METHOD_ORDER_CONSOLE_INPUT, &input.base, NULL),
                         0);
    WAIT_FOR((line = node_find(node, prefix)));
    return line;
}

static void boot(struct node *node, uint64_t generation)
{
    expect_ok(order_start(node, generation));
    order_attach(node);
    (void)node_ask(node, "", "gw ready");
}

static void expect_whole(struct node *node)
{
    node->read = node->used;
    char *line = node_ask(node, "verify\n", "gw verify");
    assert_memory_equal(line, "gw verify ok", 12);
    line = node_ask(node, "disk verify\n", "gw diskverify");
    assert_memory_equal(line, "gw diskverify ok", 16);
}

/* ---- a protection ---- */
static uint8_t psk[TLS_LANE_PSK_BYTES] = {1, 2, 3};

struct protection {
    const char *id;
    struct node *source, *target;
    uint64_t generation;
    bool disks_only, keep_disks;
};

static const char *kernel; /* NULL: the guest's */

static struct answer order_in(const struct protection *protection)
{
    Godwit__OrderReplicaIn order = GODWIT__ORDER_REPLICA_IN__INIT;
    Godwit__VmSpec spec = spec_of(protection->target);
    uint64_t disk_bytes[] = {MIB(DISK_MIB)};
    if (kernel)
        spec.kernel = (char *)(uintptr_t)kernel;
    order.vm_id = (char *)"v1";
    order.protection_id = (char *)(uintptr_t)protection->id;
    order.incarnation = protection->target->incarnation;
    order.spec = &spec;
    order.disk_bytes = disk_bytes;
    order.n_disk_bytes = 1;
    order.has_psk = order.has_generation = order.has_disks_only = order.has_keep_disks = true;
    order.psk = (ProtobufCBinaryData){.len = sizeof psk, .data = psk};
    order.generation = protection->generation;
    order.disks_only = protection->disks_only;
    order.keep_disks = protection->keep_disks;
    return call(protection->target->rpc, METHOD_ORDER_REPLICA_IN, &order.base,
                &godwit__replica_status__descriptor);
}

static struct answer order_protect(const struct protection *protection, const char *address)
{
    Godwit__OrderProtect order = GODWIT__ORDER_PROTECT__INIT;
    order.vm_id = (char *)"v1";
    order.protection_id = (char *)(uintptr_t)protection->id;
    order.incarnation = protection->source->incarnation;
    order.has_generation = order.has_psk = order.has_rpo_ms = order.has_disks_only = true;
    order.generation = protection->generation;
    order.psk = (ProtobufCBinaryData){.len = sizeof psk, .data = psk};
    order.address = (char *)(uintptr_t)address;
    order.rpo_ms = RPO_MS;
    order.disks_only = protection->disks_only;
    return call(protection->source->rpc, METHOD_ORDER_PROTECT, &order.base,
                &godwit__protect_status__descriptor);
}

/* As a coordinator does it, whenever one of the two came back: with another key each time. */
static void protect(const struct protection *protection)
{
    psk[0]++;
    struct answer in = order_in(protection);
    if (!in.message)
        fail_msg("%s", in.fault.text);
    const char *address = ((Godwit__ReplicaStatus *)in.message)->address;
    assert_non_null(address);
    expect_ok(order_protect(protection, address));
    answer_free(&in);
}

static bool is_in_state(const struct node *node, const char *state)
{
    return node->replica && node->replica->state && strcmp(node->replica->state, state) == 0;
}

static uint64_t held(const struct node *node)
{
    return node->replica && node->replica->held ? node->replica->held->seq : 0;
}

static Godwit__OrderReplicaTake take_of(struct node *node, const char *id, uint64_t generation)
{
    Godwit__OrderReplicaTake order = GODWIT__ORDER_REPLICA_TAKE__INIT;
    order.vm_id = (char *)"v1";
    order.protection_id = (char *)(uintptr_t)id;
    order.incarnation = node->incarnation;
    order.has_generation = true;
    order.generation = generation;
    return order;
}

static struct answer order_take(struct node *node, const char *id, uint64_t generation)
{
    Godwit__OrderReplicaTake order = take_of(node, id, generation);
    return call(node->rpc, METHOD_ORDER_REPLICA_TAKE, &order.base, &godwit__vm_status__descriptor);
}

static struct answer order_drop(struct node *node, const char *id)
{
    Godwit__OrderReplicaDrop order = GODWIT__ORDER_REPLICA_DROP__INIT;
    order.vm_id = (char *)"v1";
    order.protection_id = (char *)(uintptr_t)id;
    return call(node->rpc, METHOD_ORDER_REPLICA_DROP, &order.base, &godwit__empty__descriptor);
}

static struct answer order_end(struct node *node, const char *id)
{
    Godwit__OrderProtectEnd order = GODWIT__ORDER_PROTECT_END__INIT;
    order.vm_id = (char *)"v1";
    order.protection_id = (char *)(uintptr_t)id;
    return call(node->rpc, METHOD_ORDER_PROTECT_END, &order.base, &godwit__empty__descriptor);
}

static struct answer order_finish(struct node *node, const char *id)
{
    Godwit__OrderProtectFinish order = GODWIT__ORDER_PROTECT_FINISH__INIT;
    order.vm_id = (char *)"v1";
    order.protection_id = (char *)(uintptr_t)id;
    order.has_deadline_ms = true;
    order.deadline_ms = 30000;
    return call(node->rpc, METHOD_ORDER_PROTECT_FINISH, &order.base,
                &godwit__protect_status__descriptor);
}

static struct answer order_action(struct node *node, uint16_t method)
{
    Godwit__VmAction action = GODWIT__VM_ACTION__INIT;
    action.vm_id = (char *)"v1";
    return call(node->rpc, method, &action.base, &godwit__vm_status__descriptor);
}

/* Taken: it runs there, once, and all it wrote is there. */
static void expect_taken(struct node *node, const char *id, uint64_t generation)
{
    uint64_t begun_ms = world_now_ms();
    struct answer answer = order_take(node, id, generation);
    if (!answer.message)
        fail_msg("%s", answer.fault.text);
    const Godwit__VmStatus *status = (const Godwit__VmStatus *)answer.message;
    assert_int_equal(status->state, GODWIT__VM_STATE__VM_STATE_RUNNING);
    assert_int_equal(status->generation, generation);
    int pid = status->pid;
    answer_free(&answer);
    print_message("taken as generation %llu after %llu ms\n", (unsigned long long)generation,
                  (unsigned long long)(world_now_ms() - begun_ms));
    answer = order_take(node, id, generation); /* said twice: done already */
    assert_non_null(answer.message);
    assert_int_equal(((Godwit__VmStatus *)answer.message)->pid, pid);
    answer_free(&answer);
    WAIT_FOR(is_in_state(node, "taken"));
    node->vm_pid = pid;
}

static const char *path_of(const struct node *node)
{
    static char path[256];
    (void)snprintf(path, sizeof path, "%s/db-01.raw", node->store);
    return path;
}

static unsigned count_files(const char *path)
{
    unsigned count = 0;
    DIR *folder = opendir(path);
    for (struct dirent *item; folder && (item = readdir(folder));)
        count += item->d_name[0] != '.';
    if (folder)
        (void)closedir(folder);
    return count;
}

/* ---- tests ---- */
static void a_host_dies_and_its_guest_goes_on_at_the_other(void **state)
{
    (void)state;
    struct node *a = &nodes[0], *b = &nodes[1];
    struct protection there = {.id = "p1", .source = a, .target = b, .generation = 1};

    boot(a, 1);
    expect_refusal(
        order_in(&(struct protection){.id = "p0", .source = a, .target = a, .generation = 1}),
        ERR_EXISTS, "runs on this host");
    protect(&there);
    expect_refusal(order_start(b, 1), ERR_STATE, "holds a replica");
    expect_refusal(
        order_in(&(struct protection){.id = "p2", .source = a, .target = b, .generation = 1}),
        ERR_EXISTS, "another protection");
    WAIT_FOR(is_in_state(b, "holding") && a->protect && a->protect->is_linked);
    assert_int_equal(b->vms_told, 0); /* a replica is no VM */

    /* an operator's pause stays one: nothing changes, and checkpoints go on all the same */
    expect_ok(order_action(a, METHOD_ORDER_VM_PAUSE));
    uint64_t seq = held(b);
    WAIT_FOR(held(b) > seq + 1);
    assert_int_equal(a->state, GODWIT__VM_STATE__VM_STATE_PAUSED);
    expect_ok(order_action(a, METHOD_ORDER_VM_RESUME));

    /* agents die and come again: what they did is found, and goes on with other keys */
    node_kill(a, SIGKILL);
    node_kill(b, SIGKILL);
    node_again(a);
    node_again(b);
    WAIT_FOR(is_in_state(b, "holding"));
    seq = held(b);
    WAIT_FOR(held(b) > seq); /* without any order */
    protect(&there);
    seq = held(b);
    WAIT_FOR(held(b) > seq + 1);
    WAIT_FOR(a->protect && a->protect->is_linked && a->protect->links >= 2);

    node_die(a);
    expect_taken(b, "p1", 2);
    assert_int_equal(b->state, GODWIT__VM_STATE__VM_STATE_RUNNING);
    order_attach(b);
    expect_whole(b);

    node_again(a); /* back, with a VM that is over, and nothing is started by itself */
    WAIT_FOR(a->state == GODWIT__VM_STATE__VM_STATE_CRASHED);
    assert_int_equal(a->generation, 1);
}

static void it_goes_back_by_differences_and_loses_nothing(void **state)
{
    (void)state;
    struct node *a = &nodes[0], *b = &nodes[1];
    struct protection back = {.id = "p3", .source = b, .target = a, .generation = 2};

    expect_refusal(order_in(&back), ERR_EXISTS, "is there already");
    back.keep_disks = true;
    protect(&back);
    WAIT_FOR(is_in_state(a, "holding"));
    print_message("%llu of %d MiB of its disk were there, %llu bytes came\n",
                  (unsigned long long)(a->replica->bytes_kept >> 20), DISK_MIB,
                  (unsigned long long)a->replica->bytes_in);
    assert_true(a->replica->bytes_kept > 0);

    struct answer answer = order_finish(b, "p3");
    if (!answer.message)
        fail_msg("%s", answer.fault.text);
    const Godwit__ProtectStatus *last = (const Godwit__ProtectStatus *)answer.message;
    assert_true(last->finished);
    WAIT_FOR(held(a) == last->held->seq);
    answer_free(&answer);
    expect_refusal(order_action(b, METHOD_ORDER_VM_RESUME), ERR_BUSY, "last checkpoint");
    expect_ok(order_stop(b, false));
    expect_taken(a, "p3", 3);
    order_attach(a);
    expect_whole(a);
    expect_ok(order_drop(b, "p1"));
    expect_ok(order_drop(a, "p3"));
}

static void a_guest_that_resets_is_protected_anew(void **state)
{
    (void)state;
    struct node *a = &nodes[0], *b = &nodes[1];
    struct protection there = {
        .id = "p9", .source = a, .target = b, .generation = 3, .keep_disks = true};

    protect(&there);
    WAIT_FOR(is_in_state(b, "holding"));
    uint64_t session = b->replica->held->session;
    a->read = a->used;
    (void)node_ask(a, "reset\n", "gw ready");
    WAIT_FOR(a->protect && a->protect->ended);
    protect(&there);
    WAIT_FOR(is_in_state(b, "holding") && b->replica->held->session != session);
    expect_whole(a);
    expect_ok(order_end(a, "p9"));
    expect_ok(order_drop(b, "p9"));
    char path[256];
    (void)snprintf(path, sizeof path, "%s/db-01.raw.replica-p9", b->store);
    assert_int_equal(renameat(AT_FDCWD, path, AT_FDCWD, path_of(b)), 0);
}

static void a_last_checkpoint_can_be_called_off(void **state)
{
    (void)state;
    struct node *a = &nodes[0], *b = &nodes[1];
    struct protection there = {
        .id = "p4", .source = a, .target = b, .generation = 3, .keep_disks = true};

    protect(&there);
    WAIT_FOR(is_in_state(b, "holding"));
    expect_ok(order_finish(a, "p4"));
    WAIT_FOR(a->state == GODWIT__VM_STATE__VM_STATE_PAUSED);
    expect_ok(order_end(a, "p4"));
    WAIT_FOR(a->state == GODWIT__VM_STATE__VM_STATE_RUNNING && a->protect && a->protect->ended);
    expect_whole(a);

    /* dropped: what lay there before is put aside and not deleted, nothing else is left */
    expect_ok(order_drop(b, "p4"));
    WAIT_FOR(!b->replica);
    char path[256];
    (void)snprintf(path, sizeof path, "%s/db-01.raw.replica-p4", b->store);
    assert_int_equal(access(path, F_OK), 0);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(count_files(b->store), 0);
    (void)snprintf(path, sizeof path, "%s/replicas/v1", b->dir);
    assert_int_not_equal(access(path, F_OK), 0);
    (void)snprintf(path, sizeof path, "%s/replicas/v1", b->run_dir);
    assert_int_not_equal(access(path, F_OK), 0);
}

/* Its one godwit-vm that this agent started. */
static pid_t child_of(const struct node *node)
{
    pid_t pid = 0;
    DIR *folder = opendir("/proc");
    for (struct dirent *item; folder && (item = readdir(folder));) {
        char path[64], line[256];
        size_t count = 0;
        (void)snprintf(path, sizeof path, "/proc/%.20s/stat", item->d_name);
        FILE *file = fopen(path, "re");
        if (file)
            count = fread(line, 1, sizeof line - 1, file);
        line[count] = 0;
        int number = 0, parent = 0;
        char *end = strrchr(line, ')');
        if (file && end && strstr(line, "(godwit-vm)") && sscanf(end, ") %*c %d", &parent) == 1 &&
            parent == node->pid && sscanf(line, "%d", &number) == 1)
            pid = number;
        if (file)
            (void)fclose(file);
    }
    if (folder)
        (void)closedir(folder);
    assert_true(pid > 0);
    return pid;
}

static void a_replica_whose_process_died_is_made_again(void **state)
{
    (void)state;
    struct node *a = &nodes[0], *b = &nodes[1];
    struct protection there = {.id = "p5", .source = a, .target = b, .generation = 3};

    protect(&there);
    WAIT_FOR(is_in_state(b, "holding"));
    assert_int_equal(kill(child_of(b), SIGKILL), 0);
    WAIT_FOR(is_in_state(b, "broken"));
    expect_refusal(order_take(b, "p5", 4), ERR_STATE, "has ended");
    protect(&there);
    WAIT_FOR(is_in_state(b, "holding"));
    expect_refusal(order_take(b, "p5", 4), ERR_REFUSED,
                   "too old"); /* refused once is refused for good */
    expect_ok(order_end(a, "p5"));
    expect_ok(order_drop(b, "p5"));
    WAIT_FOR(!b->replica);
    assert_int_equal(count_files(b->store), 0);
    expect_whole(a);
}

static void disks_alone_are_booted_from(void **state)
{
    (void)state;
    struct node *a = &nodes[0], *b = &nodes[1];
    struct protection there = {
        .id = "p6", .source = a, .target = b, .generation = 3, .disks_only = true};

    kernel = "/no/such/kernel"; /* told now, and not when it is needed */
    expect_refusal(order_in(&there), ERR_NOT_FOUND, "/no/such/kernel");
    assert_int_equal(count_files(b->store), 0);
    char path[256];
    (void)snprintf(path, sizeof path, "%s/kernel", b->dir);
    assert_int_equal(symlink(GUEST_ELF, path), 0);
    kernel = path;
    protect(&there);
    WAIT_FOR(is_in_state(b, "holding"));
    uint64_t seq = held(b);
    WAIT_FOR(held(b) > seq);
    node_die(a);
    /* a start that fails is tried again as the next generation; not when another was in between */
    assert_int_equal(unlink(path), 0);
    expect_refusal(order_take(b, "p6", 5), ERR_NOT_FOUND, "kernel");
    assert_int_equal(symlink(GUEST_ELF, path), 0);
    expect_refusal(order_take(b, "p6", 5), ERR_REFUSED, "too old");
    node_kill(b, SIGKILL);
    node_again(b);
    expect_taken(b, "p6", 6);
    assert_int_equal(unlink(path), 0);
    kernel = NULL;
    order_attach(b);
    (void)node_ask(b, "", "gw ready");
    expect_ok(order_drop(b, "p6"));
    expect_ok(order_stop(b, true));
    assert_int_equal(count_files(b->store), 0); /* made for it: removed with it */
}

/* What the replica's process says that it runs as; 0: it does not. */
static uint64_t latched(const struct node *node)
{
    struct latch_record record = {0};
    struct fault fault = {0};
    char path[256];

    (void)snprintf(path, sizeof path, "%s/replicas/v1/latch", node->run_dir);
    return latch_file_read(path, &record, &fault) == 0 ? record.generation : 0;
}

static void on_tick(void *data)
{
    (void)data;
}

/* Its agent dies when it has given the order, and the replica's process carries it out all the same.
 * It stands still afterwards. */
static void take_without_an_answer(struct protection *protection, uint64_t generation, pid_t pid)
{
    struct node *node = protection->target;
    Godwit__OrderReplicaTake order = take_of(node, protection->id, generation);
    struct answer lost = {0};
    struct fault fault = {0};
    char path[256];

    (void)snprintf(path, sizeof path, "%s/vms/v1/console.log", node->dir);
    (void)unlink(path);
    assert_int_equal(kill(pid, SIGSTOP), 0);
    assert_int_equal(rpc_call(node->rpc, METHOD_ORDER_REPLICA_TAKE, &order.base,
                              &godwit__vm_status__descriptor, 90000, on_answer, &lost, &fault),
                     0);
    do { /* the log is made just before the order is given */
        expect_refusal(order_in(protection), ERR_BUSY, "being worked at");
    } while (access(path, F_OK) < 0);
    expect_refusal(order_in(protection), ERR_BUSY, "being worked at");
    assert_int_equal(kill(node->pid, SIGSTOP), 0);
    assert_int_equal(kill(pid, SIGCONT), 0);
    struct loop_timer *tick = NULL; /* a file tells nobody that it changed */
    assert_int_equal(loop_timer_new(&tick, loop, on_tick, NULL, &fault), 0);
    loop_timer_start(tick, 10, 10);
    WAIT_FOR(latched(node) == generation);
    (void)loop_timer_free(tick);
    assert_int_equal(kill(pid, SIGSTOP), 0);
    node_kill(node, SIGKILL);
    WAIT_FOR(lost.came);
    assert_null(lost.message);
    node_again(node);
}

static void a_failover_that_an_agent_died_in_is_carried_out_once(void **state)
{
    (void)state;
    struct node *a = &nodes[0], *b = &nodes[1];
    struct protection there = {.id = "p7", .source = a, .target = b, .generation = 6};

    node_again(a);
    WAIT_FOR(a->state == GODWIT__VM_STATE__VM_STATE_CRASHED);
    a->read = a->used;
    boot(a, 6);
    a->vm_pid = child_of(a);
    protect(&there);
    WAIT_FOR(is_in_state(b, "holding"));

    /* its name is another's by now: its memory is not spent on finding that out */
    int fd = open(path_of(b), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    (void)close(fd);
    expect_refusal(order_take(b, "p7", 7), ERR_EXISTS, "somebody else's");
    assert_int_equal(unlink(path_of(b)), 0);
    uint64_t seq = held(b);
    WAIT_FOR(held(b) > seq);

    pid_t pid = child_of(b);
    node_die(a);
    take_without_an_answer(&there, 8, pid);
    expect_refusal(order_take(b, "p7", 8), ERR_BUSY, "found out"); /* and that is not final */
    assert_int_equal(kill(pid, SIGCONT), 0);
    struct answer answer = {.fault.code = ERR_BUSY};
    while (!answer.message && answer.fault.code == ERR_BUSY)
        answer = order_take(b, "p7", 8);
    if (!answer.message)
        fail_msg("%s", answer.fault.text);
    assert_int_equal(((Godwit__VmStatus *)answer.message)->pid, pid);
    assert_int_equal(((Godwit__VmStatus *)answer.message)->generation, 8);
    answer_free(&answer);
    WAIT_FOR(is_in_state(b, "taken"));
    b->vm_pid = pid;
    order_attach(b);
    expect_whole(b);
}

static void what_was_refused_does_not_run_when_it_is_found_out_about(void **state)
{
    (void)state;
    struct node *a = &nodes[0], *b = &nodes[1];
    struct protection back = {
        .id = "p8", .source = b, .target = a, .generation = 8, .keep_disks = true};

    node_again(a);
    WAIT_FOR(a->state == GODWIT__VM_STATE__VM_STATE_CRASHED);
    protect(&back);
    WAIT_FOR(is_in_state(a, "holding"));
    pid_t pid = child_of(a);
    take_without_an_answer(&back, 9, pid);
    expect_refusal(order_start(a, 9), ERR_STATE, "holds a replica"); /* 9 is over with that */
    assert_int_equal(kill(pid, SIGCONT), 0);
    WAIT_FOR(is_in_state(a, "broken") && !strstr(a->replica->reason, "tried again"));
    assert_int_equal(a->state, GODWIT__VM_STATE__VM_STATE_CRASHED);
    expect_refusal(order_take(a, "p8", 9), ERR_REFUSED, "too old");
    expect_refusal(order_take(a, "p8", 10), ERR_STATE, "has ended");

    expect_whole(b);
    protect(&back); /* and it is a replica again */
    WAIT_FOR(is_in_state(a, "holding"));
    expect_ok(order_end(b, "p8"));
    expect_ok(order_drop(a, "p8"));
    expect_ok(order_drop(b, "p7"));
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

static int set_up(void **state)
{
    (void)state;
    coordinator_start();
    node_start(&nodes[0], "node1");
    node_start(&nodes[1], "node2");
    assert_string_not_equal(nodes[0].incarnation, nodes[1].incarnation);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        struct node *node = &nodes[i];
        if (node->rpc && node->state == GODWIT__VM_STATE__VM_STATE_RUNNING) {
            struct answer answer = order_stop(node, false);
            answer_free(&answer);
        }
        if (node->rpc)
            node_end(node);
        set_protect(node, NULL);
        set_replica(node, NULL);
    }
    teardown();
    return 0;
}

int main(void)
{
    struct fault fault = {0};
    int kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

    if (kvm_fd < 0) {
        print_message("no /dev/kvm: skipped\n");
        return 77;
    }
    (void)close(kvm_fd);
    signal(SIGPIPE, SIG_IGN);
    (void)snprintf(work_dir, sizeof work_dir, "/var/tmp/godwit-replica-XXXXXX");
    if (!mkdtemp(work_dir) || loop_new(&loop, &fault) < 0)
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_host_dies_and_its_guest_goes_on_at_the_other),
        cmocka_unit_test(it_goes_back_by_differences_and_loses_nothing),
        cmocka_unit_test(a_guest_that_resets_is_protected_anew),
        cmocka_unit_test(a_last_checkpoint_can_be_called_off),
        cmocka_unit_test(a_replica_whose_process_died_is_made_again),
        cmocka_unit_test(disks_alone_are_booted_from),
        cmocka_unit_test(a_failover_that_an_agent_died_in_is_carried_out_once),
        cmocka_unit_test(what_was_refused_does_not_run_when_it_is_found_out_about),
    };
    int failed = cmocka_run_group_tests(tests, set_up, tear_down);
    loop = loop_free(loop);
    if (!failed || !getenv("GODWIT_KEEP"))
        remove_work_dir();
    return failed;
}

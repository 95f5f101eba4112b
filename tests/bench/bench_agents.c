/* A real coordinator under many agents: mutual TLS on loopback, a hello each, a heartbeat each a
 * second; beside that an operator, a process of its own, who asks for what `godwit status` shows.
 *
 *   bench_agents GODWIT-COORDINATOR [AGENTS] [SECONDS] [VMS]
 *
 * Prints the coordinator's CPU and memory, and how long the operator waited: from the first
 * question to the last answer as read into memory. */
#include <fcntl.h>
#include <ftw.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/config.h"
#include "base/err.h"
#include "base/loop.h"
#include "base/own.h"
#include "base/world.h"
#include "coordinator/store.h"
#include "net/pki.h"
#include "net/rpc.h"
#include "proto/method.h"
#include "proto/pool.pb-c.h"

#define POOL_ID "bench"
enum { SAMPLES_MAX = 20000, ASK_EVERY_MS = 25, VMS_A_HOST_MAX = 64 };

struct agent {
    char name[32];
    struct tls_context *context;
    struct rpc *rpc;
    bool is_open, is_welcome;
};

struct vm { /* runs on agent number `index` modulo their count */
    char id[32];
    Godwit__VmStatus status;
    Godwit__VmLoad load;
};

static char folder[64], address[64];
static char *ca_certificate, *ca_key;
static struct loop *loop;
static struct agent *agents;
static size_t agent_count = 1000, vm_count, beat_count, welcome_count;
static uint64_t beats_begun_ns;
static struct vm *guests;
static struct rpc *operator_rpc;
static bool operator_is_open, is_operator; /* the latter: this process is the operator's */
static pid_t coordinator_pid, operator_pid;
static uint64_t asked_ns;
static unsigned replies_left;

static struct samples { /* shared with the operator's process, read when that has ended */
    size_t count;
    uint64_t answer_bytes;
    uint64_t ns[SAMPLES_MAX];
} * samples; /* [0] of the status, [1] of a question without an answer to speak of: the noise */
static unsigned turn;

static int remove_one(const char *path, const struct stat *info, int type, struct FTW *at)
{
    (void)info;
    (void)type;
    (void)at;
    return remove(path);
}

static void end_child(pid_t *pid)
{
    if (*pid > 0) {
        (void)kill(*pid, SIGTERM);
        (void)waitpid(*pid, NULL, 0);
    }
    *pid = 0;
}

static void clean_up(void)
{
    end_child(&operator_pid);
    end_child(&coordinator_pid);
    if (folder[0])
        (void)nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void die(const char *doing, const struct fault *fault)
{
    (void)fprintf(stderr, "bench_agents: %s: %s\n", doing, fault ? fault->text : "failed");
    if (!is_operator)
        clean_up();
    _exit(1);
}

static void identity_of(const char *role, const char *name, char **ret_certificate, char **ret_key)
{
    struct pki_identity identity = {.pool = POOL_ID};
    struct fault fault = {0};
    AUTO_FREE char *request = NULL;
    (void)snprintf(identity.role, sizeof identity.role, "%s", role);
    (void)snprintf(identity.name, sizeof identity.name, "%s", name);
    if (pki_new_key(ret_key, &fault) < 0 || pki_new_request(*ret_key, &request, &fault) < 0 ||
        pki_sign(ca_certificate, ca_key, request, &identity, 1, ret_certificate, &fault) < 0)
        die("making an identity", &fault);
}

static struct tls_context *context_of(const char *role, const char *name)
{
    AUTO_FREE char *certificate = NULL, *key = NULL;
    struct tls_context *context = NULL;
    struct fault fault = {0};
    identity_of(role, name, &certificate, &key);
    const struct tls_identity identity = {
        .ca_certificate = ca_certificate, .certificate = certificate, .key = key};
    if (tls_context_new(&context, &identity, &fault) < 0)
        die("making a TLS context", &fault);
    return context;
}

static void write_text(const char *name, const char *text)
{
    char path[128];
    struct fault fault = {0};
    (void)snprintf(path, sizeof path, "%s/%s", folder, name);
    if (file_write_atomic(path, 0600, text, strlen(text), &fault) < 0)
        die("writing a file", &fault);
}

static int free_port(void)
{
    struct sockaddr_in place = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof place;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(fd, (struct sockaddr *)&place, size) != 0 ||
        getsockname(fd, (struct sockaddr *)&place, &size) != 0)
        die("finding a port", NULL);
    (void)close(fd);
    return ntohs(place.sin_port);
}

static void put_vm(struct store_batch *batch, size_t index)
{
    Godwit__VmSpec spec = GODWIT__VM_SPEC__INIT;
    Godwit__CpuSpec cpu = GODWIT__CPU_SPEC__INIT;
    Godwit__MemorySpec memory = GODWIT__MEMORY_SPEC__INIT;
    uint8_t bytes[256];
    cpu.has_vcpus = memory.has_size = true;
    cpu.vcpus = 2;
    cpu.baseline = (char *)(uintptr_t) "x86-64-v2";
    memory.size = UINT64_C(1) << 30;
    spec.name = guests[index].id;
    spec.cpu = &cpu;
    spec.memory = &memory;
    size_t size = godwit__vm_spec__pack(&spec, bytes);
    store_batch_put(batch, STORE_VM, guests[index].id, 0);
    store_batch_text(batch, guests[index].id);
    store_batch_blob(batch, bytes, size);
    const char *host = agents[index % agent_count].name;
    store_batch_put(batch, STORE_OWN, guests[index].id, 0);
    store_batch_number(batch, 1); /* gen, hiwater */
    store_batch_number(batch, 1);
    store_batch_text(batch, "RUN");
    store_batch_text(batch, host); /* owner, its incarnation, no move */
    store_batch_text(batch, host);
    store_batch_text(batch, "");
    store_batch_text(batch, "");
    store_batch_number(batch, 0); /* wanted running, not crashed, no reason, not suspended */
    store_batch_number(batch, 0);
    store_batch_text(batch, "");
    store_batch_text(batch, "");
    store_batch_text(batch, ""); /* from no snapshot, not found */
    store_batch_number(batch, 0);
}

static void make_vms(void)
{
    guests = calloc(vm_count + 1, sizeof *guests);
    if (!guests)
        die("making VMs", NULL);
    for (size_t i = 0; i < vm_count; i++) {
        struct vm *vm = &guests[i];
        (void)snprintf(vm->id, sizeof vm->id, "vm%06zu", i);
        godwit__vm_status__init(&vm->status);
        vm->status.vm_id = vm->id;
        vm->status.has_state = vm->status.has_generation = true;
        vm->status.state = GODWIT__VM_STATE__VM_STATE_RUNNING;
        vm->status.generation = 1;
        godwit__vm_load__init(&vm->load);
        vm->load.vm_id = vm->id;
        vm->load.has_run_cores = vm->load.has_wait_cores = true;
        vm->load.run_cores = 0.5;
    }
}

/* The hosts are put into the pool's file, as if they had joined by tokens, and VMs that run. */
static void make_pool(void)
{
    char path[128];
    struct fault fault = {0};
    AUTO_FREE char *certificate = NULL, *key = NULL;
    (void)snprintf(folder, sizeof folder, "/dev/shm/godwit-bench-XXXXXX");
    if (!mkdtemp(folder))
        die("making a folder", NULL);
    (void)snprintf(address, sizeof address, "127.0.0.1:%d", free_port());
    if (pki_new_ca(POOL_ID, 1, &ca_certificate, &ca_key, &fault) < 0)
        die("making a CA", &fault);
    identity_of("coordinator", "c1", &certificate, &key);
    write_text("ca.crt", ca_certificate);
    write_text("ca.key", ca_key);
    write_text("coordinator.crt", certificate);
    write_text("coordinator.key", key);
    const char *const keys[] = {"pool_id", "name", "listen", "address"};
    const char *const values[] = {POOL_ID, "bench", address, address};
    (void)snprintf(path, sizeof path, "%s/pool.json", folder);
    if (config_write(path, 0600, keys, values, 4, &fault) < 0)
        die("writing pool.json", &fault);

    struct store *store = NULL;
    struct store_batch *batch = NULL;
    (void)snprintf(path, sizeof path, "%s/pool.db", folder);
    if (store_open(&store, path, NULL, &fault) < 0 || store_batch_new(&batch, &fault) < 0)
        die("making the pool's file", &fault);
    for (size_t i = 0; i < agent_count; i++) {
        store_batch_put(batch, STORE_HOST, agents[i].name, 0);
        store_batch_number(batch, 0);
        store_batch_blob(batch, "", 0); /* no facts before its first hello, and no policy */
        store_batch_blob(batch, "", 0);
    }
    for (size_t i = 0; i < vm_count; i++)
        put_vm(batch, i);
    if (store_commit_now(store, batch, &fault) < 0)
        die("filling the pool's file", &fault);
    (void)store_batch_free(batch);
    (void)store_close(store);
}

static pid_t start_coordinator(const char *program)
{
    pid_t pid = fork();
    if (pid == 0) {
        (void)execl(program, program, "--dir", folder, "--log-level", "error", (char *)NULL);
        _exit(127);
    }
    return pid;
}

static void wait_until_it_listens(pid_t coordinator)
{
    struct sockaddr_in place = {.sin_family = AF_INET,
                                .sin_port =
                                    htons((uint16_t)strtoul(strchr(address, ':') + 1, NULL, 10)),
                                .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    for (;;) {
        int fd = socket(AF_INET, SOCK_STREAM, 0), status;
        bool listens = connect(fd, (struct sockaddr *)&place, sizeof place) == 0;
        (void)close(fd);
        if (listens)
            return;
        if (waitpid(coordinator, &status, WNOHANG) == coordinator)
            die("the coordinator ended", NULL);
        (void)poll(NULL, 0, 20);
    }
}

/* ---- agents -----------------------------------------------------------------------------------
 */

static void on_welcome(void *data, const ProtobufCMessage *reply, const struct fault *fault)
{
    struct agent *agent = data;
    if (!reply)
        die("saying hello", fault);
    agent->is_welcome = true;
    welcome_count++;
}

static void on_opened(void *data, struct rpc *rpc, const struct fault *fault)
{
    struct agent *agent = data;
    Godwit__HostFacts facts = GODWIT__HOST_FACTS__INIT;
    Godwit__AgentHello hello = GODWIT__AGENT_HELLO__INIT;
    Godwit__BaselineFact baseline = GODWIT__BASELINE_FACT__INIT;
    Godwit__BaselineFact *baselines[] = {&baseline};
    struct fault why = {0};
    if (fault)
        die("connecting an agent", fault);
    agent->is_open = true;
    baseline.name = (char *)(uintptr_t) "x86-64-v2";
    baseline.has_given = baseline.given = true;
    facts.name = agent->name;
    facts.incarnation = agent->name;
    facts.has_kvm = facts.kvm = facts.has_memory_bytes = facts.has_memory_free_bytes = true;
    facts.memory_bytes = facts.memory_free_bytes = UINT64_C(256) << 30;
    facts.baselines = baselines;
    facts.n_baselines = 1;
    hello.facts = &facts;
    Godwit__VmStatus *list[VMS_A_HOST_MAX];
    for (size_t i = (size_t)(agent - agents); i < vm_count; i += agent_count)
        list[hello.n_vms++] = &guests[i].status;
    hello.vms = list;
    if (rpc_call(rpc, METHOD_AGENT_HELLO, &hello.base, &godwit__agent_welcome__descriptor, 60000,
                 on_welcome, agent, &why) < 0)
        die("saying hello", &why);
}

static void on_closed(void *data, struct rpc *rpc, const struct fault *fault)
{
    (void)data;
    (void)rpc;
    die("a connection ended", fault);
}

static const struct rpc_service service = {.on_closed = on_closed};

/* As many as are due: each agent once a second, evenly. */
static void beat(void *data)
{
    (void)data;
    uint64_t due = (world_now_ns() - beats_begun_ns) / 1000 * agent_count / 1000000;
    for (; beat_count < due; beat_count++) {
        size_t agent = beat_count % agent_count;
        Godwit__AgentHeartbeat message = GODWIT__AGENT_HEARTBEAT__INIT;
        message.has_memory_free_bytes = message.has_load1 = true;
        message.memory_free_bytes = UINT64_C(200) << 30;
        message.load1 = 1.5;
        Godwit__VmLoad *loads[VMS_A_HOST_MAX];
        for (size_t v = agent; v < vm_count; v += agent_count)
            loads[message.n_vms++] = &guests[v].load;
        message.vms = loads;
        if (agents[agent].is_welcome)
            (void)rpc_send_event(agents[agent].rpc, METHOD_AGENT_HEARTBEAT, &message.base, NULL);
    }
}

/* ---- the operator -----------------------------------------------------------------------------
 */

static void on_told(void *data, const ProtobufCMessage *reply, const struct fault *fault)
{
    struct samples *kept = data;
    if (!reply)
        die("asking for the status", fault);
    if (kept->count == 0)
        kept->answer_bytes += protobuf_c_message_get_packed_size(reply);
    if (--replies_left == 0 && kept->count < SAMPLES_MAX)
        kept->ns[kept->count++] = world_now_ns() - asked_ns;
}

/* By turns: the four questions of `godwit status`, one after the other on the wire, and the last of
 * them alone. */
static void ask(void *data)
{
    Godwit__PoolStatusRequest pool = GODWIT__POOL_STATUS_REQUEST__INIT;
    Godwit__HostListRequest hosts = GODWIT__HOST_LIST_REQUEST__INIT;
    Godwit__VmListRequest vms = GODWIT__VM_LIST_REQUEST__INIT;
    Godwit__JobListRequest jobs = GODWIT__JOB_LIST_REQUEST__INIT;
    (void)data;
    if (replies_left)
        return;
    struct samples *kept = &samples[turn++ % 2];
    hosts.has_brief = hosts.brief = vms.has_brief = vms.brief = vms.has_most = true;
    vms.most = 200;
    replies_left = kept == samples ? 4 : 1;
    asked_ns = world_now_ns();
    if (kept == samples) {
        (void)rpc_call(operator_rpc, METHOD_POOL_STATUS, &pool.base,
                       &godwit__pool_status__descriptor, 30000, on_told, kept, NULL);
        (void)rpc_call(operator_rpc, METHOD_HOST_LIST, &hosts.base, &godwit__host_list__descriptor,
                       30000, on_told, kept, NULL);
        (void)rpc_call(operator_rpc, METHOD_VM_LIST, &vms.base, &godwit__vm_list__descriptor, 30000,
                       on_told, kept, NULL);
    }
    (void)rpc_call(operator_rpc, METHOD_JOB_LIST, &jobs.base, &godwit__job_list__descriptor, 30000,
                   on_told, kept, NULL);
}

static void on_operator_opened(void *data, struct rpc *rpc, const struct fault *fault)
{
    (void)data;
    (void)rpc;
    if (fault)
        die("connecting the operator", fault);
    operator_is_open = true;
}

static void stop_now(void *data)
{
    loop_stop(data);
}

/* Waits until it is let, then asks for so long. */
static pid_t start_operator(struct tls_context *context, const int let[2], unsigned long seconds)
{
    struct fault fault = {0};
    struct loop_timer *asks = NULL, *end = NULL;
    char word;
    pid_t pid = fork();
    if (pid != 0)
        return pid;
    is_operator = true;
    (void)close(let[1]);
    if (read(let[0], &word, 1) != 1)
        _exit(0);
    if (loop_new(&loop, &fault) < 0 || loop_timer_new(&asks, loop, ask, NULL, &fault) < 0 ||
        loop_timer_new(&end, loop, stop_now, loop, &fault) < 0 ||
        rpc_connect(&operator_rpc, loop, address, context, "coordinator", &service, NULL,
                    on_operator_opened, &fault) < 0)
        die("setting the operator up", &fault);
    while (!operator_is_open)
        loop_turn(loop, true);
    loop_timer_start(asks, 1, ASK_EVERY_MS);
    loop_timer_start(end, seconds * 1000, 0);
    loop_run(loop);
    _exit(0);
}

/* ---- measuring --------------------------------------------------------------------------------
 */

static double cpu_seconds(pid_t pid)
{
    char path[64], line[1024] = "";
    unsigned long user = 0, kernel = 0;
    (void)snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    FILE *file = fopen(path, "re");
    if (file && fgets(line, sizeof line, file)) {
        const char *at = strrchr(line, ')');
        if (at)
            (void)sscanf(at + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user,
                         &kernel);
    }
    if (file)
        (void)fclose(file);
    return (double)(user + kernel) / (double)sysconf(_SC_CLK_TCK);
}

static double resident_mib(pid_t pid)
{
    char path[64];
    unsigned long pages = 0;
    (void)snprintf(path, sizeof path, "/proc/%d/statm", (int)pid);
    FILE *file = fopen(path, "re");
    if (file) {
        (void)!fscanf(file, "%*u %lu", &pages);
        (void)fclose(file);
    }
    return (double)pages * 4096 / (1 << 20);
}

static int by_size(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static double percentile_ms(const struct samples *of, double part)
{
    size_t at = (size_t)((double)(of->count - 1) * part);
    return (double)of->ns[at] / 1e6;
}

static void print_waits(const char *what, struct samples *of)
{
    if (of->count == 0)
        return;
    qsort(of->ns, of->count, sizeof *of->ns, by_size);
    (void)printf("%s, %.0f KiB, %zu times: p50 %.1f ms, p90 %.1f ms, p99 %.1f ms, worst %.1f ms\n",
                 what, (double)of->answer_bytes / 1024, of->count, percentile_ms(of, 0.5),
                 percentile_ms(of, 0.9), percentile_ms(of, 0.99), percentile_ms(of, 1));
}

static void connect_all(void)
{
    struct fault fault = {0};
    for (size_t i = 0; i < agent_count; i++) {
        agents[i].context = context_of("host", agents[i].name);
        if (rpc_connect(&agents[i].rpc, loop, address, agents[i].context, "coordinator", &service,
                        &agents[i], on_opened, &fault) < 0)
            die("connecting an agent", &fault);
        while (!agents[i].is_open) /* one handshake at a time: it is not what is measured */
            loop_turn(loop, true);
    }
    while (welcome_count < agent_count)
        loop_turn(loop, true);
}

int main(int argc, char **argv)
{
    struct fault fault = {0};
    if (argc < 2) {
        (void)fputs("usage: bench_agents GODWIT-COORDINATOR [AGENTS] [SECONDS] [VMS]\n", stderr);
        return 2;
    }
    agent_count = argc > 2 ? strtoul(argv[2], NULL, 10) : 1000;
    unsigned long seconds = argc > 3 ? strtoul(argv[3], NULL, 10) : 20;
    vm_count = argc > 4 ? strtoul(argv[4], NULL, 10) : 0;
    if (agent_count == 0 || vm_count > VMS_A_HOST_MAX * agent_count)
        die("taking the numbers", NULL);
    make_vms();
    struct rlimit files = {.rlim_cur = 65536, .rlim_max = 65536};
    (void)setrlimit(RLIMIT_NOFILE, &files); /* the coordinator inherits it */
    agents = calloc(agent_count + 1, sizeof *agents);
    for (size_t i = 0; agents && i < agent_count; i++)
        (void)snprintf(agents[i].name, sizeof agents[i].name, "node%04zu", i);
    make_pool();
    pid_t coordinator = coordinator_pid = start_coordinator(argv[1]);
    int let[2];
    samples =
        mmap(NULL, 2 * sizeof *samples, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (!agents || samples == MAP_FAILED || pipe2(let, O_CLOEXEC) != 0)
        die("setting up", NULL);
    wait_until_it_listens(coordinator);
    operator_pid = start_operator(context_of("operator", "me"), let, seconds / 2);
    struct loop_timer *beats = NULL, *end = NULL;
    if (loop_new(&loop, &fault) < 0 || loop_timer_new(&beats, loop, beat, NULL, &fault) < 0 ||
        loop_timer_new(&end, loop, stop_now, loop, &fault) < 0)
        die("setting up", &fault);
    uint64_t begun_ms = world_now_ms();
    beats_begun_ns = world_now_ns();
    loop_timer_start(beats, 10, 10);
    connect_all();
    (void)printf("%zu agents connected and welcomed in %.1f s\n", agent_count,
                 (double)(world_now_ms() - begun_ms) / 1e3);
    (void)fflush(stdout);

    double cpu = cpu_seconds(coordinator);
    begun_ms = world_now_ms();
    loop_timer_start(end, seconds * 500, 0);
    loop_run(loop);
    double idle = (cpu_seconds(coordinator) - cpu) / ((double)(world_now_ms() - begun_ms) / 1e3);
    cpu = cpu_seconds(coordinator);
    begun_ms = world_now_ms();
    (void)!write(let[1], "!", 1);
    loop_timer_start(end, seconds * 500, 0);
    loop_run(loop);
    double spent = (double)(world_now_ms() - begun_ms) / 1e3;
    double busy = (cpu_seconds(coordinator) - cpu) / spent;
    (void)waitpid(operator_pid, NULL, 0);
    operator_pid = 0;
    (void)printf("coordinator: %.1f %% of a CPU under %zu heartbeats a second, %zu VMs, %.1f %% "
                 "with the operator beside (%.1f ms of CPU a status); %.0f MiB resident\n",
                 idle * 100, agent_count, vm_count, busy * 100,
                 samples->count ? (busy - idle) * spent * 1e3 / (double)samples->count : 0,
                 resident_mib(coordinator));
    print_waits("status (pool, hosts, VMs, jobs)", &samples[0]);
    print_waits("jobs alone, of which there are none", &samples[1]);
    clean_up();
    return 0;
}

/* One stage at a time a replica; what it waits for comes back with a pointer to it, so it lives
 * until the stage is over:
 *
 *   MAKING    worker: record, disks --> spawn --> VM_CREATE (RAM) --> VM_REPLICA_IN --> answer
 *   HEARING   VM_REPLICA_IN again: another key and socket --> answer
 *   TAKING    worker: record --> VM_REPLICA_TAKE --> worker: names, record --> the VM's, answer
 *             a refusal: what is it now? taken all the same (by an agent before us) --> goes on
 *   DROPPING  its process ends --> worker: files --> answer, gone */
#include "agent/standbys.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "agent/host_facts.h"
#include "agent/move_sockets.h"
#include "agent/standby_disks.h"
#include "agent/vm/latch_file.h"
#include "agent/vm_process.h"
#include "agent/vm_table.h"
#include "base/bytes.h"
#include "base/config.h"
#include "base/err.h"
#include "base/id.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/own.h"
#include "net/rpc.h"
#include "net/tls_lane.h"
#include "proto/limits.h"
#include "proto/method.h"
#include "proto/vm_dr.pb-c.h"
#include "proto/vm_spec.h"

enum {
    CALL_MS_MAX = 5000,
    CREATE_MS_MAX = 30000,
    TAKE_MS_MAX = 120000, /* a journal may have to go into the disks first */
    TELL_MS = 1000,
    RECORD_HEAD_BYTES = 16, /* u64 magic, u64 XXH3 of the packed message behind it */
    RECORD_BYTES_MAX = 1 << 20,
    PROTECTION_ID_SIZE = TLS_LANE_MOVE_ID_MAX + 1,
};

#define RECORD_MAGIC UINT64_C(0x31594453574f4447) /* "GDOWSDY1" */

enum stage { STAGE_IDLE, STAGE_MAKING, STAGE_HEARING, STAGE_TAKING, STAGE_DROPPING };

struct standbys {
    struct standbys_config config;
    struct standing *first;
    struct loop_timer *timer;
    unsigned workers;
    bool dirty, stopped;
};

struct standing { /* one replica of this host */
    struct standbys *standbys;
    struct standing *next;
    char vm_id[VM_ID_SIZE];
    Godwit__StandbyRecord *record; /* owned; its order always is there */
    Godwit__ReplicaStatus *status; /* owned: the last that its process told; NULL: nothing */
    struct vm_process *process;
    bool is_found;               /* an earlier agent's, which has not said yet how it is */
    bool is_asked;               /* how it is: the answer comes with a pointer to us */
    char reason[FAULT_TEXT_MAX]; /* why it has no process */

    enum stage stage;
    struct vm_waiters waiters;
    Godwit__OrderReplicaIn *order; /* owned: that is being carried out, with its key */
    bool is_new;                   /* and which made this one */
    int listen_fd, kvm_fd, latch_fd, null_fd;
    struct standby_disks disks;
    bool in_call;            /* its process has the stage's call */
    bool is_settled;         /* its process took what it held */
    bool sends_again;        /* TAKE, with the next tick: its process could not be spoken to, or was busy */
    Godwit__VmStatus *taken; /* owned: what it said then; NULL: an agent before us heard it */
    char incarnation[80];    /* that the failover is for */
    bool keep_disks, is_killed;
    struct fault take_fault; /* why the failover failed, while its end is seen to */
    struct fault drop_fault; /* why it is dropped, for who waits; code 0: because it was ordered */

    /* a worker's */
    struct fault fault;
    int result;
};

/* ---- messages ---- */
static void *copy_of(const ProtobufCMessage *message)
{
    size_t count = protobuf_c_message_get_packed_size(message);
    uint8_t *bytes = malloc(count ? count : 1);
    if (!bytes)
        return NULL;
    (void)protobuf_c_message_pack(message, bytes);
    void *copy = protobuf_c_message_unpack(message->descriptor, NULL, count, bytes);
    explicit_bzero(bytes, count); /* a key may be in it */
    free(bytes);
    return copy;
}

static void order_free(Godwit__OrderReplicaIn *order)
{
    if (!order)
        return;
    if (order->psk.len)
        explicit_bzero(order->psk.data, order->psk.len);
    godwit__order_replica_in__free_unpacked(order, NULL);
}

static void reply_fault(struct rpc_request *request, const struct fault *fault)
{
    if (request)
        (void)rpc_reply_fault(request, fault);
}

/* ---- paths and the record ---- */
static int state_path(const struct standing *standing, const char *name,
                      char ret_path[VM_PATH_SIZE], struct fault *fault)
{
    return path_join(ret_path, VM_PATH_SIZE, fault, "%s/replicas/%s%s%s",
                     standing->standbys->config.state_dir, standing->vm_id, *name ? "/" : "", name);
}

static int run_path(const struct standing *standing, const char *name, char ret_path[VM_PATH_SIZE],
                    struct fault *fault)
{
    return path_join(ret_path, VM_PATH_SIZE, fault, "%s/replicas/%s%s%s",
                     standing->standbys->config.run_dir, standing->vm_id, *name ? "/" : "", name);
}

static int make_folder(const char *root, const char *vm_id, struct fault *fault)
{
    char path[VM_PATH_SIZE];

    int r = path_join(path, sizeof path, fault, "%s/replicas", root);
    if (r == 0)
        r = dir_make(path, fault);
    if (r == 0)
        r = path_join(path, sizeof path, fault, "%s/replicas/%s", root, vm_id);
    return r < 0 ? r : dir_make(path, fault);
}

/* A worker's. */
static int save_record(const struct standing *standing, struct fault *fault)
{
    size_t body = godwit__standby_record__get_packed_size(standing->record);
    AUTO_FREE uint8_t *bytes = malloc(RECORD_HEAD_BYTES + body);
    char path[VM_PATH_SIZE];

    if (!bytes)
        return fault_set(fault, ERR_NOMEM, "no memory to keep a replica's record");
    (void)godwit__standby_record__pack(standing->record, bytes + RECORD_HEAD_BYTES);
    bytes_put_u64(bytes, RECORD_MAGIC);
    bytes_put_u64(bytes + 8, XXH3_64bits(bytes + RECORD_HEAD_BYTES, body));
    int r = make_folder(standing->standbys->config.state_dir, standing->vm_id, fault);
    if (r == 0)
        r = state_path(standing, "replica.bin", path, fault);
    return r < 0 ? r : file_write_atomic(path, 0600, bytes, RECORD_HEAD_BYTES + body, fault);
}

static int read_record(struct standing *standing, struct fault *fault)
{
    char path[VM_PATH_SIZE];
    AUTO_FREE char *text = NULL;
    size_t count = 0;

    int r = state_path(standing, "replica.bin", path, fault);
    if (r == 0)
        file_write_tidy(path);
    if (r == 0)
        r = file_read(path, &text, &count, fault);
    if (r < 0)
        return r;
    const uint8_t *bytes = (const uint8_t *)text;
    if (count < RECORD_HEAD_BYTES || count > RECORD_BYTES_MAX ||
        bytes_get_u64(bytes) != RECORD_MAGIC ||
        bytes_get_u64(bytes + 8) !=
            XXH3_64bits(bytes + RECORD_HEAD_BYTES, count - RECORD_HEAD_BYTES))
        return fault_set(fault, ERR_CORRUPT, "%s is damaged", path);
    standing->record =
        godwit__standby_record__unpack(NULL, count - RECORD_HEAD_BYTES, bytes + RECORD_HEAD_BYTES);
    const Godwit__OrderReplicaIn *order = standing->record ? standing->record->order : NULL;
    if (!order || !order->spec || !order->spec->name || !order->protection_id || !order->vm_id ||
        strcmp(order->vm_id, standing->vm_id) != 0)
        return fault_set(fault, ERR_CORRUPT, "%s is not understood", path);
    return 0;
}

static void unlink_run(const struct standing *standing, const char *name)
{
    char path[VM_PATH_SIZE];

    if (run_path(standing, name, path, NULL) == 0)
        (void)unlink(path); /* absent is as good */
}

/* Everything of ours but the files that its record names. */
static void remove_folders(const struct standing *standing)
{
    static const char *const state_names[] = {"vm.log", "replica.bin"};
    char path[VM_PATH_SIZE];

    unlink_run(standing, "control.sock");
    unlink_run(standing, "latch");
    if (run_path(standing, "", path, NULL) == 0)
        (void)rmdir(path); /* keeps what is not ours */
    for (size_t i = 0; i < ARRAY_COUNT(state_names); i++) {
        if (state_path(standing, state_names[i], path, NULL) == 0)
            (void)unlink(path);
    }
    if (state_path(standing, "", path, NULL) == 0)
        (void)rmdir(path);
}

/* ---- the list ---- */
static struct standing *find(const struct standbys *standbys, const char *vm_id)
{
    struct standing *standing = standbys->first;

    while (standing && (!vm_id || strcmp(standing->vm_id, vm_id) != 0))
        standing = standing->next;
    return standing;
}

static int standing_new(struct standbys *standbys, const char *vm_id,
                        struct standing **ret_standing, struct fault *fault)
{
    struct standing *standing = calloc(1, sizeof *standing);
    if (!standing)
        return fault_set(fault, ERR_NOMEM, "no memory for a replica");
    standing->standbys = standbys;
    (void)snprintf(standing->vm_id, sizeof standing->vm_id, "%s", vm_id);
    standing->listen_fd = standing->kvm_fd = standing->latch_fd = standing->null_fd = -1;
    standing->next = standbys->first;
    standbys->first = standing;
    *ret_standing = standing;
    return 0;
}

static void close_fds(struct standing *standing)
{
    close_p(&standing->listen_fd);
    close_p(&standing->kvm_fd);
    close_p(&standing->latch_fd);
    close_p(&standing->null_fd);
    if (standing->disks.count)
        standby_disks_close(&standing->disks);
}

static void standing_free(struct standing *standing)
{
    for (struct standing **at = &standing->standbys->first; *at; at = &(*at)->next) {
        if (*at == standing) {
            *at = standing->next;
            break;
        }
    }
    close_fds(standing);
    (void)vm_process_free(standing->process);
    order_free(standing->order);
    if (standing->record)
        godwit__standby_record__free_unpacked(standing->record, NULL);
    if (standing->status)
        godwit__replica_status__free_unpacked(standing->status, NULL);
    if (standing->taken)
        godwit__vm_status__free_unpacked(standing->taken, NULL);
    free(standing);
}

bool standbys_hold(const struct standbys *standbys, const char *vm_id)
{
    const struct standing *standing = find(standbys, vm_id);

    return standing && (!standing->record->is_taken ||
                        (standing->stage == STAGE_TAKING && !standing->record->order->disks_only));
}

/* ---- telling ---- */
static bool is_linked_to(const struct standing *standing)
{
    return standing->process && vm_process_rpc(standing->process);
}

/* What its process told, or why there is none. `held` is the caller's. */
static void fill_status(const struct standing *standing, Godwit__ReplicaStatus *ret_status,
                        Godwit__CheckpointId *held)
{
    Godwit__ReplicaStatus *status = ret_status;

    godwit__replica_status__init(status);
    godwit__checkpoint_id__init(held);
    if (standing->status)
        *status = *standing->status;
    status->vm_id = (char *)(uintptr_t)standing->vm_id; /* protobuf-c knows no const */
    status->protection_id = standing->record->order->protection_id;
    status->disk_bytes = standing->record->order->disk_bytes;
    status->n_disk_bytes = standing->record->order->n_disk_bytes;
    if (!status->held)
        status->held = held;
    if (standing->record->is_taken) {
        status->state = (char *)(uintptr_t) "taken";
        status->is_linked = false;
        status->has_stood_ms = true;
        status->stood_ms = standing->record->stood_ms;
    } else if (!standing->process && standing->stage != STAGE_MAKING) {
        status->state = (char *)(uintptr_t) "broken";
        status->is_linked = false;
        status->reason = (char *)(uintptr_t)standing->reason;
        status->held =
            held; /* memory is gone; what the disks are is found out when it is made again */
    } else if (!status->state) {
        status->state = (char *)(uintptr_t) "waiting";
    } else if (standing->stage == STAGE_IDLE && strcmp(status->state, "taken") == 0) {
        status->state = (char *)(uintptr_t) "broken";
        status->reason =
            (char *)(uintptr_t) "it was taken, but its guest did not go on: it may be tried again";
    }
}

void standbys_tell(struct standbys *standbys)
{
    Godwit__AgentReplicas all = GODWIT__AGENT_REPLICAS__INIT;
    size_t count = 0, n = 0;

    for (const struct standing *at = standbys->first; at; at = at->next)
        count++;
    AUTO_FREE Godwit__ReplicaStatus *statuses = calloc(count + 1, sizeof *statuses);
    AUTO_FREE Godwit__CheckpointId *held = calloc(count + 1, sizeof *held);
    AUTO_FREE Godwit__ReplicaStatus **list = calloc(count + 1, sizeof(void *));
    if (!statuses || !held || !list)
        return; /* told with the next change */
    for (const struct standing *at = standbys->first; at; at = at->next, n++) {
        fill_status(at, &statuses[n], &held[n]);
        list[n] = &statuses[n];
    }
    all.replicas = list;
    all.n_replicas = n;
    standbys->dirty = false;
    standbys->config.tell(standbys->config.data, &all);
}

static void take_again(struct standing *standing);

static void timer_fired(void *data)
{
    struct standbys *standbys = data;

    for (struct standing *at = standbys->first; at; at = at->next)
        take_again(at);
    if (standbys->dirty)
        standbys_tell(standbys);
}

static void answer(struct standing *standing, const struct fault *fault)
{
    struct vm_waiters now = standing->waiters;
    Godwit__ReplicaStatus status;
    Godwit__CheckpointId held;

    standing->waiters.count = 0;
    standing->standbys->dirty = true;
    fill_status(standing, &status, &held);
    for (size_t i = 0; i < now.count; i++) {
        if (fault)
            reply_fault(now.requests[i], fault);
        else
            (void)rpc_reply(now.requests[i], &status.base);
    }
}

static void waiters_add(struct standing *standing, struct rpc_request *request)
{
    struct fault fault = {0};

    if (!request)
        return;
    if (standing->waiters.count < VM_WAITERS_MAX) {
        standing->waiters.requests[standing->waiters.count++] = request;
        return;
    }
    (void)fault_set(&fault, ERR_BUSY, "this order is being carried out");
    reply_fault(request, &fault);
}

static int work(struct standing *standing, void (*function)(void *data), void (*done)(void *data),
                struct fault *fault)
{
    standing->fault = (struct fault){0};
    standing->standbys->workers++;
    int r = loop_work(standing->standbys->config.loop, function, done, standing);
    if (r < 0) {
        standing->standbys->workers--;
        return fault_set(fault, r, "no worker for a replica");
    }
    return 0;
}

/* ---- its process ---- */
static void kill_process(struct standing *standing);
static void process_over(struct standing *standing, const char *how);
static void go_on_taking(struct standing *standing);

/* Which generation it ran as; 0: it never was the VM. Its latch file is the last word. */
static uint64_t ran_as(const struct standing *standing)
{
    struct latch_record record = {0};
    struct fault ignored = {0};
    char path[VM_PATH_SIZE];

    return run_path(standing, "latch", path, NULL) == 0 &&
                   latch_file_read(path, &record, &ignored) == 0
               ? record.generation
               : 0;
}

/* Did it run as the VM that the failover makes of it? */
static bool has_run(const struct standing *standing)
{
    return standing->record->take_generation &&
           ran_as(standing) == standing->record->take_generation;
}

static void take_status(struct standing *standing, const Godwit__ReplicaStatus *status)
{
    Godwit__ReplicaStatus *copy = copy_of(&status->base);

    if (!copy)
        return; /* with the next one */
    if (standing->status)
        godwit__replica_status__free_unpacked(standing->status, NULL);
    standing->status = copy;
    standing->standbys->dirty = true;
}

static bool is_taken(const Godwit__ReplicaStatus *status)
{
    return status->state && strcmp(status->state, "taken") == 0;
}

static void on_replica(void *data, const Godwit__ReplicaStatus *status)
{
    struct standing *standing = data;

    if (status->protection_id &&
        strcmp(status->protection_id, standing->record->order->protection_id) == 0)
        take_status(standing, status);
    if (standing->stage == STAGE_IDLE && !standing->is_found && !standing->record->is_taken &&
        standing->process && vm_process_is_known(standing->process) && is_taken(status) &&
        has_run(standing))
        go_on_taking(standing); /* it was at it still when we came */
}

static void on_state(void *data, const Godwit__VmStatus *status)
{
    (void)data; /* asked for when it is the VM's process */
    (void)status;
}

static void on_move(void *data, const Godwit__MoveEvent *event)
{
    (void)data;
    (void)event;
}

static void on_console(void *data, const Godwit__ConsoleData *event)
{
    (void)data;
    (void)event;
}

static void asked(void *data, const ProtobufCMessage *reply, const struct fault *fault)
{
    struct standing *standing = data;
    const Godwit__ReplicaStatus *status = (const Godwit__ReplicaStatus *)reply;

    standing->is_asked = false;
    if (!status || !status->vm_id || strcmp(status->vm_id, standing->vm_id) != 0) {
        log_warn("standbys", "a replica's process does not answer, it is left alone vm=%s: %s",
                 standing->vm_id, fault ? fault->text : "it speaks of another VM");
        return; /* asked again when it is connected to anew */
    }
    if (!standing->process)
        return;
    vm_process_set_known(standing->process);
    on_replica(standing, status);
    if (!standing->is_found)
        return;
    standing->is_found = false;
    log_info("standbys", "found a replica again vm=%s state=%s", standing->vm_id,
             status->state ? status->state : "");
    if (is_taken(status))
        go_on_taking(standing);
}

static void ask(struct standing *standing)
{
    Godwit__Empty empty = GODWIT__EMPTY__INIT;

    if (is_linked_to(standing) && !standing->is_asked)
        standing->is_asked =
            rpc_call(vm_process_rpc(standing->process), METHOD_VM_REPLICA_STATUS, &empty.base,
                     &godwit__replica_status__descriptor, CALL_MS_MAX, asked, standing, NULL) == 0;
}

static void on_connected(void *data)
{
    ask(data);
}

static void on_process_ended(void *data, const char *how)
{
    struct standing *standing = data;
    char words[VM_PROCESS_HOW_SIZE];

    (void)snprintf(words, sizeof words, "%s", how);
    standing->process = vm_process_free(standing->process);
    standing->is_asked = false;
    process_over(standing, words);
}

static int process_config(struct standing *standing, char socket_path[VM_PATH_SIZE],
                          char log_path[VM_PATH_SIZE], struct vm_process_config *ret_config,
                          struct fault *fault)
{
    const struct standbys_config *config = &standing->standbys->config;

    int r = run_path(standing, "control.sock", socket_path, fault);
    if (r == 0)
        r = state_path(standing, "vm.log", log_path, fault);
    *ret_config = (struct vm_process_config){
        .loop = config->loop,
        .program = config->program,
        .log_level = config->log_level,
        .vm_id = standing->vm_id,
        .name = standing->record->order->spec->name,
        .socket_path = socket_path,
        .log_path = log_path,
        .failpoints_path = config->failpoints_path,
        .on_state = on_state,
        .on_move = on_move,
        .on_console = on_console,
        .on_replica = on_replica,
        .on_connected = on_connected,
        .on_ended = on_process_ended,
        .data = standing,
    };
    return r;
}

static void kill_process(struct standing *standing)
{
    struct fault fault = {0};

    standing->is_killed = true;
    if (standing->process && vm_process_kill(standing->process, &fault) < 0)
        log_error("standbys", "a replica's process is left over vm=%s: %s", standing->vm_id,
                  fault.text);
}

/* ---- DROP, and a replica that did not come to be ---- */
static void drop_work(void *data)
{
    struct standing *standing = data;

    standing->result =
        standing->record->is_taken
            ? 0
            : standby_disks_drop(standing->record->order, standing->keep_disks, &standing->fault);
    if (standing->result == 0)
        remove_folders(standing);
}

static void reply_empty_all(struct standing *standing)
{
    static const Godwit__Empty empty = GODWIT__EMPTY__INIT;

    for (size_t i = 0; i < standing->waiters.count; i++)
        (void)rpc_reply(standing->waiters.requests[i], &empty.base);
    standing->waiters.count = 0;
}

static void drop_done(void *data)
{
    struct standing *standing = data;
    struct standbys *standbys = standing->standbys;

    standbys->workers--;
    if (standbys->stopped)
        return; /* standbys_free has it */
    standbys->dirty = true;
    if (standing->result < 0) {
        log_error("standbys", "a replica's files are left vm=%s: %s", standing->vm_id,
                  standing->fault.text);
        standing->stage = STAGE_IDLE;
        answer(standing, &standing->fault);
        return;
    }
    log_info("standbys", "a replica is dropped vm=%s", standing->vm_id);
    if (standing->drop_fault.code)
        answer(standing, &standing->drop_fault);
    else
        reply_empty_all(standing);
    standing_free(standing);
}

/* Once it has no process. */
static void drop_files(struct standing *standing)
{
    struct fault fault = {0};

    if (work(standing, drop_work, drop_done, &fault) < 0) {
        standing->stage = STAGE_IDLE;
        answer(standing, &fault);
    }
}

static void begin_drop(struct standing *standing, bool keep_disks)
{
    standing->stage = STAGE_DROPPING;
    standing->keep_disks = keep_disks;
    if (standing->process)
        kill_process(standing); /* process_over goes on */
    else
        drop_files(standing);
}

/* ---- IN ---- */
/* Those that wait are told; what was made for it goes. */
static void in_failed(struct standing *standing, const struct fault *fault)
{
    struct fault words = *fault;

    log_warn("standbys", "no replica vm=%s: %s", standing->vm_id, words.text);
    close_fds(standing);
    order_free(standing->order);
    standing->order = NULL;
    (void)snprintf(standing->reason, sizeof standing->reason, "%s", words.text);
    if (standing->is_new && standing->stage == STAGE_MAKING) {
        standing->drop_fault = words;
        begin_drop(standing, standing->disks.has_earlier);
        return;
    }
    standing->stage = STAGE_IDLE;
    answer(standing, &words);
}

static void listening(void *data, const ProtobufCMessage *reply, const struct fault *fault)
{
    struct standing *standing = data;

    standing->in_call = false;
    if (!reply) {
        bool makes = standing->stage == STAGE_MAKING;
        if (makes)
            kill_process(standing); /* half a one is none */
        in_failed(standing, fault);
        return;
    }
    take_status(standing, (const Godwit__ReplicaStatus *)reply);
    close_fds(standing);
    order_free(standing->order);
    standing->order = NULL;
    standing->stage = STAGE_IDLE;
    standing->is_new = false;
    standing->reason[0] = 0;
    log_info("standbys", "a replica listens vm=%s protection=%s address=%s", standing->vm_id,
             standing->record->order->protection_id,
             standing->status && standing->status->address ? standing->status->address : "");
    answer(standing, NULL);
}

static int send_in(struct standing *standing, struct fault *fault)
{
    int fds[2 + DISKS_MAX] = {standing->listen_fd};
    size_t count = 1;

    for (unsigned i = 0; standing->disks.count && i < 1 + standing->disks.count; i++)
        fds[count++] = standing->disks.fds[i];
    if (!is_linked_to(standing))
        return fault_set(fault, ERR_CLOSED, "its process ended");
    int r = rpc_call_fds(vm_process_rpc(standing->process), METHOD_VM_REPLICA_IN,
                         &standing->order->base, fds, count, &godwit__replica_status__descriptor,
                         CALL_MS_MAX, listening, standing, fault);
    standing->in_call = r == 0;
    return r;
}

static void created(void *data, const ProtobufCMessage *reply, const struct fault *fault)
{
    struct standing *standing = data;
    struct fault words = {0};

    standing->in_call = false;
    if (reply && send_in(standing, &words) == 0)
        return;
    kill_process(standing);
    in_failed(standing, reply ? &words : fault);
}

static int send_create(struct standing *standing, struct fault *fault)
{
    Godwit__VmCreate create = GODWIT__VM_CREATE__INIT;
    const int fds[] = {standing->kvm_fd, standing->null_fd, standing->latch_fd};

    create.vm_id = standing->vm_id;
    create.spec = standing->order->spec;
    create.host = (char *)(uintptr_t)host_facts_name(standing->standbys->config.facts);
    create.has_incoming = create.incoming = true;
    create.disk_bytes = standing->order->disk_bytes;
    create.n_disk_bytes = standing->order->n_disk_bytes;
    int r = rpc_call_fds(vm_process_rpc(standing->process), METHOD_VM_CREATE, &create.base, fds,
                         ARRAY_COUNT(fds), &godwit__vm_status__descriptor, CREATE_MS_MAX, created,
                         standing, fault);
    standing->in_call = r == 0;
    return r;
}

static void make_work(void *data)
{
    struct standing *standing = data;
    const struct standbys_config *config = &standing->standbys->config;

    standing->result = save_record(standing, &standing->fault);
    if (standing->result == 0)
        standing->result = make_folder(config->run_dir, standing->vm_id, &standing->fault);
    if (standing->result == 0)
        standing->result =
            standby_disks_open(standing->order, host_facts_name(config->facts), !standing->is_new,
                               &standing->disks, &standing->fault);
}

static int spawn(struct standing *standing, struct fault *fault)
{
    char socket_path[VM_PATH_SIZE], log_path[VM_PATH_SIZE], latch_path[VM_PATH_SIZE];
    struct vm_process_config config;

    int r = process_config(standing, socket_path, log_path, &config, fault);
    if (r == 0)
        r = host_facts_check(standing->standbys->config.facts, standing->order->spec,
                             &standing->kvm_fd, fault);
    if (r == 0 && standing->order->disks_only)
        close_p(&standing->kvm_fd); /* only: could it run here? */
    if (r == 0 && !standing->order->disks_only) {
        r = run_path(standing, "latch", latch_path, fault);
        if (r == 0)
            r = latch_file_create(latch_path, &standing->latch_fd, fault);
        if (r == 0 && (standing->null_fd = open("/dev/null", O_WRONLY | O_CLOEXEC)) < 0)
            r = fault_set_errno(fault, ERR_IO, errno, "opening /dev/null");
    }
    standing->is_killed = standing->is_settled = false;
    return r < 0 ? r : vm_process_start(&standing->process, &config, fault);
}

static void make_done(void *data)
{
    struct standing *standing = data;
    struct fault fault = standing->fault;

    standing->standbys->workers--;
    if (standing->standbys->stopped)
        return; /* standbys_free has it */
    int r = standing->result;
    if (r == 0)
        r = spawn(standing, &fault);
    if (r == 0) {
        r = standing->order->disks_only ? send_in(standing, &fault) : send_create(standing, &fault);
        if (r < 0)
            kill_process(standing);
    }
    if (r < 0)
        in_failed(standing, &fault);
}

static int judge_in(struct standbys *standbys, const Godwit__OrderReplicaIn *order,
                    struct fault *fault)
{
    const struct vm_entry *entry = vm_table_find(standbys->config.table, order->vm_id);

    if (!order->vm_id || !id_name_is_valid(order->vm_id) || !order->protection_id ||
        !id_name_is_valid(order->protection_id) ||
        strlen(order->protection_id) >= PROTECTION_ID_SIZE ||
        order->psk.len != TLS_LANE_PSK_BYTES || !order->spec || !order->spec->name)
        return fault_set(fault, ERR_INVALID, "a replica without its VM, id or key");
    int r = vm_spec_judge(order->spec, fault);
    if (r == 0 && vm_spec_is_libvirt(order->spec))
        r = fault_set(fault, ERR_UNSUPPORTED,
                      "%s is a domain of libvirt: there is no replica of it", order->spec->name);
    if (r == 0)
        r = standby_disks_judge(order, fault);
    if (r < 0)
        return r;
    if (entry && (vm_entry_is_alive(entry) || entry->starting || entry->tidying))
        return fault_set(fault, ERR_EXISTS,
                         "%s runs on this host: its replica belongs on another one",
                         order->spec->name);
    return 0;
}

/* The one that this order is for; made when there is none. */
static int pick(struct standbys *standbys, const Godwit__OrderReplicaIn *order,
                struct standing **ret_standing, struct fault *fault)
{
    struct standing *standing = find(standbys, order->vm_id);

    if (standing && standing->stage != STAGE_IDLE)
        return fault_set(fault, ERR_BUSY, "the replica of %s is being worked at",
                         order->spec->name);
    if (standing && standing->record->is_taken && standing->is_asked)
        return fault_set(fault, ERR_BUSY, "the replica of %s is being worked at",
                         order->spec->name);
    bool is_same =
        standing && strcmp(standing->record->order->protection_id, order->protection_id) == 0;
    if (standing && standing->record->is_taken && !is_same) {
        standing_free(standing); /* that VM is gone from here since; its record is written over */
        standing = NULL;
    }
    if (standing && !is_same)
        return fault_set(
            fault, ERR_EXISTS,
            "this host holds a replica of %s for another protection (%.12s): that one is "
            "dropped first",
            order->spec->name, standing->record->order->protection_id);
    if (standing && standing->record->is_taken)
        return fault_set(fault, ERR_STATE, "the replica of %s was taken", order->spec->name);
    if (standing && (standing->is_found || standing->is_asked ||
                     (standing->process && !is_linked_to(standing))))
        return fault_set(fault, ERR_BUSY, "the replica's process cannot be spoken to just now");
    if (standing) {
        *ret_standing = standing;
        return 0;
    }
    int r = standing_new(standbys, order->vm_id, &standing, fault);
    if (r == 0) {
        standing->is_new = true;
        *ret_standing = standing;
    }
    return r;
}

/* What is kept of the order, for good: all but its key. */
static int keep_order(struct standing *standing, const Godwit__OrderReplicaIn *order,
                      struct fault *fault)
{
    Godwit__StandbyRecord record = GODWIT__STANDBY_RECORD__INIT;
    Godwit__OrderReplicaIn bare = *order;

    bare.has_psk = false;
    bare.psk = (ProtobufCBinaryData){0};
    if (standing->record)
        record = *standing->record;
    record.order = &bare;
    Godwit__StandbyRecord *copy = copy_of(&record.base);
    if (!copy)
        return fault_set(fault, ERR_NOMEM, "no memory for a replica");
    if (standing->record)
        godwit__standby_record__free_unpacked(standing->record, NULL);
    standing->record = copy;
    /* Older sources stay out, also of a process that is made anew. */
    order_free(standing->order);
    standing->order = copy_of(&order->base);
    if (!standing->order)
        return fault_set(fault, ERR_NOMEM, "no memory for a replica");
    return 0;
}

void standbys_in(struct standbys *standbys, const Godwit__OrderReplicaIn *order,
                 struct rpc_request *request)
{
    struct standing *standing = NULL;
    char address[MOVE_ADDRESS_SIZE];
    struct fault fault = {0};

    int r = judge_in(standbys, order, &fault);
    if (r == 0)
        r = pick(standbys, order, &standing, &fault);
    if (r < 0) {
        reply_fault(request, &fault);
        return;
    }
    r = keep_order(standing, order, &fault);
    if (r == 0)
        r = move_sockets_listen(host_facts_move_address(standbys->config.facts),
                                &standing->listen_fd, address, &fault);
    if (r < 0) {
        reply_fault(request, &fault);
        close_fds(standing);
        if (standing->is_new)
            standing_free(standing);
        return;
    }
    waiters_add(standing, request);
    standing->stage = standing->process ? STAGE_HEARING : STAGE_MAKING;
    r = standing->process ? send_in(standing, &fault)
                          : work(standing, make_work, make_done, &fault);
    if (r < 0)
        in_failed(standing, &fault);
}

/* ---- TAKE ---- */
static void take_failed(struct standing *standing, const struct fault *fault)
{
    struct fault words = *fault;

    log_warn("standbys", "a failover failed vm=%s generation=%llu: %s", standing->vm_id,
             (unsigned long long)standing->record->take_generation, words.text);
    vm_table_refuse(standing->standbys->config.table, standing->vm_id,
                    standing->record->take_generation);
    if (standing->is_killed || !standing->process) /* what it wrote there is no word any more */
        unlink_run(standing, "latch");
    standing->is_settled = false;
    standing->stage = STAGE_IDLE;
    answer(standing, &words);
}

static void answer_vm(struct standing *standing, const struct vm_entry *entry)
{
    struct vm_waiters now = standing->waiters;

    standing->waiters.count = 0;
    for (size_t i = 0; i < now.count; i++)
        (void)rpc_reply(now.requests[i], &entry->status->base);
}

static void move_file(const char *from, const char *to)
{
    if (rename(from, to) < 0 && errno != ENOENT)
        log_error("standbys", "%s is not at %s: %s", from, to, strerror(errno));
}

/* Its socket, latch and log lie where a VM's lie from now on. */
static void move_files(const struct standing *standing, const struct vm_entry *entry)
{
    char from[VM_PATH_SIZE], to[VM_PATH_SIZE];

    if (run_path(standing, "latch", from, NULL) == 0 &&
        vm_entry_run_path(entry, "latch", to, NULL) == 0)
        move_file(from, to);
    if (run_path(standing, "control.sock", from, NULL) == 0 &&
        vm_entry_run_path(entry, "control.sock", to, NULL) == 0)
        move_file(from, to);
    if (state_path(standing, "vm.log", from, NULL) == 0 &&
        vm_entry_state_path(entry, "vm.log", to, NULL) == 0)
        move_file(from, to);
    if (run_path(standing, "", from, NULL) == 0)
        (void)rmdir(from); /* keeps what is not ours */
}

/* Of disks alone: the VM starts from them, as the order's generation. */
static void start_from_disks(struct standing *standing)
{
    Godwit__OrderVmStart start = GODWIT__ORDER_VM_START__INIT;
    struct standbys *standbys = standing->standbys;
    struct vm_waiters now = standing->waiters;
    Godwit__VmSpec *spec = copy_of(&standing->record->order->spec->base);
    struct fault fault = {0};

    standing->stage = STAGE_IDLE;
    if (!spec) {
        (void)fault_set(&fault, ERR_NOMEM, "no memory to start a VM");
        answer(standing, &fault);
        return;
    }
    start.vm_id = standing->vm_id;
    start.incarnation = standing->incarnation;
    start.spec = spec;
    start.has_generation = true;
    start.generation = standing->record->take_generation;
    standing->waiters.count = 0;
    for (size_t i = 0; i < (now.count ? now.count : 1); i++)
        standbys->config.start(standbys->config.data, &start, now.count ? now.requests[i] : NULL);
    godwit__vm_spec__free_unpacked(spec, NULL);
}

static void become_vm(struct standing *standing)
{
    struct vm_table *table = standing->standbys->config.table;
    struct vm_entry *entry = NULL;
    struct fault fault = {0};

    int r = vm_table_add(table, standing->vm_id, &entry, &fault);
    if (r == 0 && !vm_entry_set_spec(entry, standing->record->order->spec))
        r = fault_set(&fault, ERR_NOMEM, "no memory for the VM's spec");
    if (r < 0) { /* it runs, and its record says so: the next agent tries again */
        log_error("standbys", "a VM that was taken is not told of vm=%s: %s", standing->vm_id,
                  fault.text);
        standing->stage = STAGE_IDLE;
        answer(standing, &fault);
        return;
    }
    move_files(standing, entry);
    struct vm_process *process = TAKE(standing->process);
    log_info("standbys", "a replica is the VM now vm=%s name=%s generation=%llu stood_ms=%llu",
             standing->vm_id, standing->record->order->spec->name,
             (unsigned long long)standing->record->take_generation,
             (unsigned long long)standing->record->stood_ms);
    vm_entry_adopt_replica(entry, process, standing->taken,
                           "its process ended right after the failover");
    standing->stage = STAGE_IDLE;
    entry = vm_table_find(table, standing->vm_id);
    if (entry && standing->taken) {
        answer_vm(standing, entry);
    } else { /* it is being asked: whoever orders it again hears how it is */
        (void)fault_set(&fault, ERR_BUSY, "it goes on here, and is being asked how it is");
        answer(standing, &fault);
    }
    standing->standbys->dirty = true;
}

static void name_work(void *data)
{
    struct standing *standing = data;

    standing->result = standby_disks_keep(standing->record->order, &standing->fault);
    if (standing->result == 0)
        standing->result = save_record(standing, &standing->fault);
}

static void unmark_work(void *data)
{
    struct standing *standing = data;
    struct fault fault = {0};

    if (save_record(standing, &fault) < 0) /* the table's word, that it is refused, stands above it */
        log_error("standbys", "a failover that failed stays in its record vm=%s: %s", standing->vm_id,
                  fault.text);
}

static void unmark_done(void *data)
{
    struct standing *standing = data;

    standing->standbys->workers--;
    if (!standing->standbys->stopped)
        take_failed(standing, &standing->take_fault);
}

/* It does not come to its end, and its record said that it did. */
static void unmark(struct standing *standing)
{
    struct fault ignored = {0};

    standing->take_fault = standing->fault;
    standing->record->is_taken = standing->is_settled = false;
    kill_process(standing);
    vm_table_refuse(standing->standbys->config.table, standing->vm_id,
                    standing->record->take_generation);
    if (work(standing, unmark_work, unmark_done, &ignored) < 0)
        take_failed(standing, &standing->take_fault);
}

static void name_done(void *data)
{
    struct standing *standing = data;
    struct standbys *standbys = standing->standbys;

    standbys->workers--;
    if (standbys->stopped)
        return;
    bool is_ours =
        strcmp(standing->incarnation, host_facts_incarnation(standbys->config.facts)) == 0;
    if (standing->result < 0 || !is_ours) {
        /* Fenced meanwhile, or its disks cannot be named: it must not go on. */
        if (standing->result == 0)
            (void)fault_set(&standing->fault, ERR_REFUSED,
                            "this host began another life meanwhile");
        unmark(standing);
        return;
    }
    if (standing->record->order->disks_only)
        start_from_disks(standing);
    else
        become_vm(standing);
}

static void name_disks(struct standing *standing)
{
    struct fault fault = {0};

    standing->record->has_is_taken = standing->record->is_taken = true;
    standing->record->has_stood_ms = standing->status && standing->status->has_stood_ms;
    standing->record->stood_ms = standing->status ? standing->status->stood_ms : 0;
    if (work(standing, name_work, name_done, &fault) < 0) {
        standing->record->is_taken = false;
        kill_process(standing);
        take_failed(standing, &fault);
    }
}

/* What it holds is asked once more, for how long it stood; then it is named. */
static void asked_after_take(void *data, const ProtobufCMessage *reply, const struct fault *fault)
{
    struct standing *standing = data;
    (void)fault;

    standing->in_call = false;
    standing->is_settled = true;
    if (reply)
        take_status(standing, (const Godwit__ReplicaStatus *)reply);
    if (standing->record->order->disks_only && standing->process)
        kill_process(standing); /* all is on the disks: process_over goes on */
    else
        name_disks(standing);
}

/* What was refused may have been done for an agent before us: then it goes on. */
static void asked_after_refusal(void *data, const ProtobufCMessage *reply,
                                const struct fault *fault)
{
    struct standing *standing = data;
    uint64_t generation = ran_as(standing);
    bool is_done = reply && is_taken((const Godwit__ReplicaStatus *)reply);

    if (is_done && (standing->record->order->disks_only || has_run(standing))) {
        asked_after_take(standing, reply, fault);
        return;
    }
    standing->in_call = false;
    if (reply)
        take_status(standing, (const Godwit__ReplicaStatus *)reply);
    if (!reply || generation) /* nobody knows what runs there, or it is another generation */
        kill_process(standing);
    take_failed(standing, &standing->take_fault);
}

static void refused(struct standing *standing, const struct fault *fault)
{
    Godwit__Empty empty = GODWIT__EMPTY__INIT;
    bool is_certain = fault->code != ERR_TIMEOUT && fault->code != ERR_CLOSED;

    standing->take_fault = *fault;
    standing->in_call = is_certain && is_linked_to(standing) &&
                        rpc_call(vm_process_rpc(standing->process), METHOD_VM_REPLICA_STATUS,
                                 &empty.base, &godwit__replica_status__descriptor, CALL_MS_MAX,
                                 asked_after_refusal, standing, NULL) == 0;
    if (standing->in_call)
        return;
    kill_process(standing); /* whatever it did: nothing of it runs when that is told */
    take_failed(standing, &standing->take_fault);
}

static void taken(void *data, const ProtobufCMessage *reply, const struct fault *fault)
{
    struct standing *standing = data;
    Godwit__Empty empty = GODWIT__EMPTY__INIT;

    standing->in_call = false;
    if (!reply && fault->code == ERR_BUSY) { /* an agent before us ordered it, or its disks are read */
        standing->sends_again = true;
        return;
    }
    if (!reply) {
        refused(standing, fault);
        return;
    }
    if (standing->taken)
        godwit__vm_status__free_unpacked(standing->taken, NULL);
    standing->taken = copy_of(reply);
    standing->in_call = is_linked_to(standing) &&
                        rpc_call(vm_process_rpc(standing->process), METHOD_VM_REPLICA_STATUS,
                                 &empty.base, &godwit__replica_status__descriptor, CALL_MS_MAX,
                                 asked_after_take, standing, NULL) == 0;
    if (!standing->in_call)
        asked_after_take(standing, NULL, NULL);
}

static int send_take(struct standing *standing, struct fault *fault)
{
    Godwit__OrderReplicaTake order = GODWIT__ORDER_REPLICA_TAKE__INIT;
    const char *root = standing->standbys->config.state_dir;
    char path[VM_PATH_SIZE];
    AUTO_FD int console_fd = -1;

    if (!standing->process)
        return fault_set(fault, ERR_STATE, "the replica's process has ended: %.300s",
                         standing->reason);
    if (!is_linked_to(standing)) {
        standing->sends_again = true; /* connected to again, or its end comes */
        return 0;
    }
    order.vm_id = standing->vm_id;
    order.protection_id = standing->record->order->protection_id;
    order.has_generation = true;
    order.generation = standing->record->take_generation;
    if (!standing->record->order->disks_only) {
        int r = path_join(path, sizeof path, fault, "%s/vms/%s", root, standing->vm_id);
        if (r == 0)
            r = dir_make(path, fault);
        if (r == 0)
            r = path_join(path, sizeof path, fault, "%s/vms/%s/console.log", root, standing->vm_id);
        if (r < 0)
            return r;
        console_fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (console_fd < 0)
            return fault_set_errno(fault, err_from_errno(errno), errno, "opening %s", path);
    }
    int r = rpc_call_fds(vm_process_rpc(standing->process), METHOD_VM_REPLICA_TAKE, &order.base,
                         &console_fd, console_fd >= 0, &godwit__vm_status__descriptor, TAKE_MS_MAX,
                         taken, standing, fault);
    standing->in_call = r == 0;
    return r;
}

static void take_again(struct standing *standing)
{
    struct fault fault = {0};

    if (!standing->sends_again)
        return;
    standing->sends_again = false;
    if (send_take(standing, &fault) < 0)
        take_failed(standing, &fault);
}

static void mark_work(void *data)
{
    struct standing *standing = data;

    /* Refused here its memory stays; once the guest has gone on there is no way back. */
    standing->result = standby_disks_check_names(standing->record->order, &standing->fault);
    if (standing->result == 0)
        standing->result = save_record(standing, &standing->fault);
}

static void mark_done(void *data)
{
    struct standing *standing = data;
    struct fault fault = standing->fault;

    standing->standbys->workers--;
    if (standing->standbys->stopped)
        return;
    int r = standing->result;
    if (r == 0 && standing->record->is_taken) { /* its disks have their names */
        start_from_disks(standing);
        return;
    }
    if (r == 0)
        r = send_take(standing, &fault);
    if (r < 0)
        take_failed(standing, &fault);
}

static int judge_going_on(const struct standing *standing, struct fault *fault)
{
    const struct standbys *standbys = standing->standbys;
    const Godwit__StandbyRecord *record = standing->record;

    if (record->take_generation <= vm_table_hiwater(standbys->config.table, standing->vm_id))
        return fault_set(fault, ERR_REFUSED, "generation %llu was refused here meanwhile",
                         (unsigned long long)record->take_generation);
    if (record->incarnation &&
        strcmp(record->incarnation, host_facts_incarnation(standbys->config.facts)) != 0)
        return fault_set(fault, ERR_REFUSED, "this host began another life meanwhile");
    if (!record->order->disks_only && !has_run(standing))
        return fault_set(fault, ERR_STATE, "its guest did not go on as that");
    return 0;
}

/* An agent before us began it, and its process went on: the rest. But what was refused since may run
 * elsewhere by now. */
static void go_on_taking(struct standing *standing)
{
    const Godwit__StandbyRecord *record = standing->record;
    struct fault fault = {0};

    if (standing->stage != STAGE_IDLE)
        return;
    if (judge_going_on(standing, &fault) < 0) {
        log_warn("standbys", "a failover that was begun does not go on vm=%s generation=%llu: %s",
                 standing->vm_id, (unsigned long long)record->take_generation, fault.text);
        if (ran_as(standing)) {
            kill_process(standing);
            unlink_run(standing, "latch");
            vm_table_refuse(standing->standbys->config.table, standing->vm_id,
                            record->take_generation);
        }
        standbys_tell(standing->standbys);
        return;
    }
    log_info("standbys", "a failover that was begun goes on vm=%s generation=%llu", standing->vm_id,
             (unsigned long long)record->take_generation);
    standing->stage = STAGE_TAKING;
    (void)snprintf(standing->incarnation, sizeof standing->incarnation, "%s",
                   record->incarnation
                       ? record->incarnation
                       : host_facts_incarnation(standing->standbys->config.facts));
    asked_after_take(standing, NULL, NULL);
}

/* Disks alone whose start failed are the newest still when nobody had a generation since. */
static bool may_start_again(const struct standing *standing, const struct vm_entry *entry,
                            uint64_t generation)
{
    uint64_t before = standing->record->take_generation;
    bool has_started = entry && entry->status->generation >= before;

    return standing->record->order->disks_only &&
           (generation == before || (generation == before + 1 && !has_started));
}

static int judge_take(struct standbys *standbys, const Godwit__OrderReplicaTake *order,
                      const struct standing *standing, struct fault *fault)
{
    const struct vm_entry *entry = vm_table_find(standbys->config.table, order->vm_id);
    uint64_t hiwater = order->vm_id ? vm_table_hiwater(standbys->config.table, order->vm_id) : 0;

    if (!order->generation || !order->incarnation ||
        strlen(order->incarnation) >= sizeof standing->incarnation)
        return fault_set(fault, ERR_INVALID, "a failover needs a generation");
    if (!standing || !order->protection_id ||
        strcmp(standing->record->order->protection_id, order->protection_id) != 0)
        return fault_set(fault, ERR_NOT_FOUND, "this host holds no such replica");
    if (standing->stage != STAGE_IDLE)
        return fault_set(fault, ERR_BUSY, "the replica is being worked at");
    if (standing->is_found || standing->is_asked ||
        (standing->process &&
         (!is_linked_to(standing) || !vm_process_is_known(standing->process))))
        return fault_set(fault, ERR_BUSY, "it is being found out how the replica is");
    if (standing->record->is_taken && standing->record->take_generation == order->generation &&
        entry && (vm_entry_is_alive(entry) || entry->starting)) /* as that, or it has not said yet */
        return fault_set(fault, ERR_BUSY, "it goes on here, and is being asked how it is");
    if (order->generation <= hiwater)
        return fault_set(fault, ERR_REFUSED,
                         "a failover as generation %llu is too old: this host has seen %llu",
                         (unsigned long long)order->generation, (unsigned long long)hiwater);
    if (entry && (vm_entry_is_alive(entry) || entry->starting))
        return fault_set(fault, ERR_STATE, "it has a process here already, as generation %llu",
                         (unsigned long long)entry->status->generation);
    if (standing->record->is_taken && !may_start_again(standing, entry, order->generation))
        return fault_set(fault, ERR_STATE, "this replica was taken as generation %llu",
                         (unsigned long long)standing->record->take_generation);
    return 0;
}

/* Carried out before, or just now? Then that is the answer. */
static bool is_again(struct standbys *standbys, const Godwit__OrderReplicaTake *order,
                     struct standing *standing, struct rpc_request *request)
{
    struct vm_entry *entry = vm_table_find(standbys->config.table, order->vm_id);

    if (standing && standing->stage == STAGE_TAKING &&
        standing->record->take_generation == order->generation) {
        waiters_add(standing, request);
        return true;
    }
    if (!entry || !order->generation || entry->starting || !entry->status->has_state ||
        entry->status->generation != order->generation)
        return false;
    if (request)
        (void)rpc_reply(request, &entry->status->base);
    return true;
}

void standbys_take(struct standbys *standbys, const Godwit__OrderReplicaTake *order,
                   struct rpc_request *request)
{
    struct standing *standing = find(standbys, order->vm_id);
    struct fault fault = {0};

    if (is_again(standbys, order, standing, request))
        return;
    int r = judge_take(standbys, order, standing, &fault);
    if (r < 0) { /* final, as a start's: the order may have been said twice */
        if (r != ERR_BUSY && order->vm_id && id_name_is_valid(order->vm_id) && order->generation)
            vm_table_refuse(standbys->config.table, order->vm_id, order->generation);
        reply_fault(request, &fault);
        return;
    }
    waiters_add(standing, request);
    standing->stage = STAGE_TAKING;
    (void)snprintf(standing->incarnation, sizeof standing->incarnation, "%s", order->incarnation);
    standing->record->has_take_generation = true;
    standing->record->take_generation = order->generation;
    char *incarnation = strdup(order->incarnation);
    if (!incarnation) {
        (void)fault_set(&fault, ERR_NOMEM, "no memory for a failover");
        take_failed(standing, &fault);
        return;
    }
    free(standing->record->incarnation);
    standing->record->incarnation = incarnation;
    if (work(standing, mark_work, mark_done, &fault) < 0)
        take_failed(standing, &fault);
}

/* ---- DROP ---- */
void standbys_drop(struct standbys *standbys, const Godwit__OrderReplicaDrop *order,
                   struct rpc_request *request)
{
    struct standing *standing = find(standbys, order->vm_id);
    static const Godwit__Empty empty = GODWIT__EMPTY__INIT;
    struct fault fault = {0};

    if (!standing || !order->protection_id ||
        strcmp(standing->record->order->protection_id, order->protection_id) != 0) {
        if (request) /* gone already: as wanted */
            (void)rpc_reply(request, &empty.base);
        return;
    }
    if (standing->stage == STAGE_DROPPING) {
        waiters_add(standing, request);
        return;
    }
    if (standing->stage != STAGE_IDLE || standing->is_found || standing->is_asked ||
        (standing->process && !vm_process_is_known(standing->process))) {
        (void)fault_set(&fault, ERR_BUSY, "the replica is being worked at");
        reply_fault(request, &fault);
        return;
    }
    waiters_add(standing, request);
    begin_drop(standing, order->keep_disks);
}

/* ---- looking at one ---- */
int standbys_look(const struct standbys *standbys, const char *vm_id, const char *protection_id,
                  const Godwit__OrderReplicaIn **ret_order, struct rpc **ret_rpc,
                  struct fault *fault)
{
    const struct standing *standing = find(standbys, vm_id);

    if (!standing || !protection_id || standing->record->is_taken ||
        strcmp(standing->record->order->protection_id, protection_id) != 0)
        return fault_set(fault, ERR_NOT_FOUND, "this host holds no such replica");
    if (standing->stage != STAGE_IDLE || standing->is_found || standing->is_asked)
        return fault_set(fault, ERR_BUSY, "the replica is being worked at");
    if (!standing->process)
        return fault_set(fault, ERR_STATE, "the replica has no process: %.300s", standing->reason);
    if (!is_linked_to(standing) || !vm_process_is_known(standing->process))
        return fault_set(fault, ERR_BUSY, "the replica's process cannot be spoken to just now");
    *ret_order = standing->record->order;
    *ret_rpc = vm_process_rpc(standing->process);
    return 0;
}

/* ---- its end ---- */
static void process_over(struct standing *standing, const char *how)
{
    struct fault fault = {0};

    standing->standbys->dirty = true;
    if (!standing->reason[0] || standing->stage == STAGE_IDLE)
        (void)snprintf(standing->reason, sizeof standing->reason, "%s", how);
    switch (standing->stage) {
    case STAGE_DROPPING:
        drop_files(standing);
        return;
    case STAGE_TAKING:
        if (standing->in_call) { /* its answer will not come any more */
            standing->in_call = false;
            (void)fault_set(&fault, ERR_CLOSED, "%s", how);
            take_failed(standing, &fault);
        } else if (standing->sends_again) {
            standing->sends_again = false;
            (void)fault_set(&fault, ERR_CLOSED, "%s", how);
            take_failed(standing, &fault);
        } else if (standing->record->order->disks_only && standing->is_settled &&
                   !standing->record->is_taken) {
            name_disks(standing); /* as wanted */
        }
        return; /* else the worker finds it gone */
    case STAGE_MAKING:
    case STAGE_HEARING:
        if (standing->in_call) {
            standing->in_call = false;
            (void)fault_set(&fault, ERR_CLOSED, "%s", how);
            in_failed(standing, &fault);
        }
        return;
    case STAGE_IDLE:
        break;
    }
    if (has_run(standing)) {
        standing->is_found = false;
        go_on_taking(standing);
        if (standing->stage == STAGE_TAKING)
            return;
    }
    (void)fault_set(&fault, ERR_CLOSED, "%s", how);
    log_warn("standbys", "a replica's process is over vm=%s: %s", standing->vm_id, how);
    standing->is_found = false;
    standbys_tell(standing->standbys);
}

/* ---- life ---- */
static void adopt(struct standing *standing)
{
    char socket_path[VM_PATH_SIZE], log_path[VM_PATH_SIZE];
    struct vm_process_config config;
    struct fault fault = {0};

    if (standing->record->is_taken && !has_run(standing))
        return; /* its process, if any, is the VM's */
    int r = process_config(standing, socket_path, log_path, &config, &fault);
    if (r == 0)
        r = vm_process_adopt(&standing->process, &config, &fault);
    if (r == 0) {
        standing->is_found = true;
        ask(standing);
        return;
    }
    if (r != ERR_NOT_FOUND)
        log_error("standbys", "cannot reach a replica's process vm=%s: %s", standing->vm_id,
                  fault.text);
    process_over(standing, "its process ended while no agent was looking");
}

static void load_one(struct standbys *standbys, const char *vm_id)
{
    struct standing *standing = NULL;
    struct fault fault = {0};

    if (!id_name_is_valid(vm_id) || standing_new(standbys, vm_id, &standing, &fault) < 0)
        return;
    int r = read_record(standing, &fault);
    if (r < 0) {
        if (r != ERR_NOT_FOUND)
            log_error("standbys", "a replica's record is left alone: %s", fault.text);
        standing_free(standing);
    }
}

int standbys_new(struct standbys **ret_standbys, const struct standbys_config *config,
                 struct fault *fault)
{
    char path[VM_PATH_SIZE];
    struct standbys *standbys = calloc(1, sizeof *standbys);
    if (!standbys)
        return fault_set(fault, ERR_NOMEM, "no memory for replicas");
    standbys->config = *config;
    int r = loop_timer_new(&standbys->timer, config->loop, timer_fired, standbys, fault);
    if (r == 0)
        r = path_join(path, sizeof path, fault, "%s/replicas", config->state_dir);
    if (r < 0) {
        (void)standbys_free(standbys);
        return r;
    }
    DIR *folder = opendir(path);
    for (struct dirent *item; folder && (item = readdir(folder));) {
        if (item->d_name[0] != '.')
            load_one(standbys, item->d_name);
    }
    if (folder)
        (void)closedir(folder); /* only read */
    loop_timer_start(standbys->timer, TELL_MS, TELL_MS);
    *ret_standbys = standbys;
    return 0;
}

void standbys_load(struct standbys *standbys)
{
    for (struct standing *at = standbys->first, *next; at; at = next) {
        next = at->next;
        adopt(at);
    }
}

void standbys_stop(struct standbys *standbys)
{
    if (!standbys)
        return;
    standbys->stopped = true;
    while (standbys->workers)
        loop_turn(standbys->config.loop, true); /* each holds a pointer into us */
}

struct standbys *standbys_free(struct standbys *standbys)
{
    if (!standbys)
        return NULL;
    while (standbys->first)
        standing_free(standbys->first);
    if (standbys->timer)
        (void)loop_timer_free(standbys->timer);
    free(standbys);
    return NULL;
}

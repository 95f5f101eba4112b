/* The life of an upgrade; each arrow is an answer or an event, and fail() leads to BACK from anywhere
 * before the move has begun:
 *
 *   LEND -> CREATE -> LISTEN -> MOVE -- upgrade_core: SWITCH --> AFTER -> freed
 *                                 |                                ^
 *   (agent started anew) -> MOVE -+---- upgrade_core: DROP_NEXT -> BACK -> freed
 *
 * From MOVE on nothing is decided here: look() reads both latch files and who lives, upgrade_core says
 * what that means, and it is looked again until it means an end. */
#include "agent/upgrade.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/backends.h"
#include "agent/host_facts.h"
#include "agent/upgrade_core.h"
#include "agent/vm/latch_file.h"
#include "agent/vm_process.h"
#include "agent/vm_table.h"
#include "base/err.h"
#include "base/id.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/own.h"
#include "base/world.h"
#include "net/rpc.h"
#include "net/tls_lane.h"
#include "proto/limits.h"
#include "proto/method.h"
#include "proto/vm_spec.h"
#include "storage/stamp.h"

enum {
    CALL_MS_MAX = 5000,
    CREATE_MS_MAX = 30000,
    LOOK_MS = 20,
    OVERDUE_MS = 2000, /* GAVE and no word: as STARTED_MS_MAX between hosts */
    RECEIPT_MS = 2000,
    SAY_AGAIN_MS = 500,
    OLD_MS_MAX = 20000, /* for the old process to end by itself */
    LANES = 1, /* nothing travels on it but its fences */
};

enum upgrade_stage { STAGE_LEND, STAGE_CREATE, STAGE_LISTEN, STAGE_MOVE, STAGE_AFTER, STAGE_BACK };

struct upgrades {
    struct loop *loop;
    struct vm_table *table;
    struct host_facts *facts;
    struct upgrade *first;
    unsigned workers;
    bool stopped;
};

struct upgrade {
    struct upgrades *upgrades;
    struct upgrade *chain;
    struct vm_entry *entry; /* that holds us, until the switch or the end; then it may go: entry_of */
    enum upgrade_stage stage;
    struct rpc_request *request; /* NULL: answered, or nobody waits */
    char move_id[LATCH_FILE_MOVE_ID_SIZE];
    uint64_t generation;
    uint8_t psk[TLS_LANE_PSK_BYTES];
    Godwit__VmLent *lent;          /* owned */
    int fds[RPC_FDS_MAX];          /* that came with it */
    size_t fd_count;
    int listen_fd;
    struct vm_process *old;        /* after the switch, until it has ended */
    bool next_ended, old_ended, is_called_off, is_attached, is_killed;
    unsigned calls; /* whose answers will come with a pointer to us */
    bool is_over;   /* only waits for those */
    uint64_t gave_ms, switched_ms, said_ms;
    char old_how[VM_PROCESS_HOW_SIZE];
    char version_before[64];
    Godwit__MoveReceipt *receipt; /* owned; the old process's */
    struct fault fault;           /* the first reason */
    struct loop_timer *timer;
    /* the stamp, on a worker */
    Godwit__VmSpec *spec; /* owned */
    char vm_id[VM_ID_SIZE];
    struct stamp wanted;
    int stamp_result;
    struct fault stamp_fault;
};

static void look(struct upgrade *upgrade);

static void *copy_of(const ProtobufCMessage *message)
{
    size_t count = protobuf_c_message_get_packed_size(message);
    AUTO_FREE uint8_t *bytes = malloc(count ? count : 1);
    if (!bytes)
        return NULL;
    (void)protobuf_c_message_pack(message, bytes);
    return protobuf_c_message_unpack(message->descriptor, NULL, count, bytes);
}

static struct vm_entry *entry_of(const struct upgrade *upgrade)
{
    return vm_table_find(upgrade->upgrades->table, upgrade->vm_id);
}

static const char *name_of(const struct upgrade *upgrade)
{
    const Godwit__VmStatus *status = upgrade->entry->status;
    return status->name ? status->name : upgrade->entry->id;
}

static void unlink_run(const struct vm_entry *entry, const char *name)
{
    char path[VM_PATH_SIZE];

    if (vm_entry_run_path(entry, name, path, NULL) == 0)
        (void)unlink(path); /* absent is as good */
}

static bool rename_run(const struct vm_entry *entry, const char *from, const char *to)
{
    char from_path[VM_PATH_SIZE], to_path[VM_PATH_SIZE];

    return vm_entry_run_path(entry, from, from_path, NULL) == 0 &&
           vm_entry_run_path(entry, to, to_path, NULL) == 0 && rename(from_path, to_path) == 0;
}

static bool is_there(const struct vm_entry *entry, const char *name)
{
    char path[VM_PATH_SIZE];
    struct stat info;

    return vm_entry_run_path(entry, name, path, NULL) == 0 && lstat(path, &info) == 0;
}

static void read_latch(const struct vm_entry *entry, const char *name,
                       struct latch_record *ret_record)
{
    char path[VM_PATH_SIZE];
    struct fault fault = {0};

    *ret_record = (struct latch_record){0};
    if (vm_entry_run_path(entry, name, path, &fault) == 0 &&
        latch_file_read(path, ret_record, &fault) == ERR_CORRUPT)
        log_error("upgrade", "vm=%s: %s", entry->id, fault.text);
}

/* ---- its end ---- */
static void close_fds(struct upgrade *upgrade)
{
    for (size_t i = 0; i < upgrade->fd_count; i++)
        close_p(&upgrade->fds[i]);
    upgrade->fd_count = 0;
    close_p(&upgrade->listen_fd);
}

static void upgrade_free(struct upgrade *upgrade)
{
    if (upgrade->calls > 0) {
        upgrade->is_over = true;
        loop_timer_stop(upgrade->timer);
        upgrade->old = vm_process_free(upgrade->old);
        return;
    }
    for (struct upgrade **at = &upgrade->upgrades->first; *at; at = &(*at)->chain) {
        if (*at == upgrade) {
            *at = upgrade->chain;
            break;
        }
    }
    close_fds(upgrade);
    explicit_bzero(upgrade->psk, sizeof upgrade->psk);
    (void)vm_process_free(upgrade->old);
    if (upgrade->timer)
        (void)loop_timer_free(upgrade->timer);
    if (upgrade->lent)
        godwit__vm_lent__free_unpacked(upgrade->lent, NULL);
    if (upgrade->receipt)
        godwit__move_receipt__free_unpacked(upgrade->receipt, NULL);
    if (upgrade->spec)
        godwit__vm_spec__free_unpacked(upgrade->spec, NULL);
    free(upgrade);
}

/* An answer has come; false: nobody waits for it any more, and the upgrade may be gone. */
static bool answered(struct upgrade *upgrade)
{
    assert(upgrade->calls > 0);
    upgrade->calls--;
    if (upgrade->is_over)
        upgrade_free(upgrade);
    else
        return true;
    return false;
}

static void answer(struct upgrade *upgrade)
{
    Godwit__VmUpgraded reply = GODWIT__VM_UPGRADED__INIT;
    Godwit__Fault words = GODWIT__FAULT__INIT;
    struct rpc_request *request = upgrade->request;
    const struct vm_entry *entry = entry_of(upgrade);

    upgrade->request = NULL;
    if (!request)
        return;
    if (upgrade->fault.code) {
        words.has_number = true;
        words.number = -upgrade->fault.code;
        words.text = upgrade->fault.text;
        words.hint = upgrade->fault.hint;
        reply.fault = &words;
    }
    reply.vm = entry ? entry->status : NULL;
    reply.receipt = upgrade->receipt;
    reply.version_before = upgrade->version_before;
    (void)rpc_reply(request, &reply.base);
}

static void note_fault(struct upgrade *upgrade, const struct fault *fault)
{
    if (!upgrade->fault.code && fault && fault->code)
        upgrade->fault = *fault;
}

/* All is as before: the old process has the VM, or its end becomes the VM's. */
static void finish_back(struct upgrade *upgrade)
{
    struct vm_entry *entry = upgrade->entry;
    struct fault fault = {0};
    char how[VM_PROCESS_HOW_SIZE];

    unlink_run(entry, "next.sock");
    unlink_run(entry, "next.latch");
    unlink_run(entry, "lanes.sock");
    (void)fault_set(&fault, ERR_ROLLED_BACK, "the next process ended before it took the guest");
    note_fault(upgrade, &fault);
    log_warn("upgrade", "not handed over, the old process runs on vm=%s: %s", entry->id,
             upgrade->fault.text);
    entry->next_process = vm_process_free(entry->next_process);
    entry->upgrade = NULL;
    answer(upgrade);
    bool ended = upgrade->old_ended;
    memcpy(how, upgrade->old_how, sizeof how);
    upgrade_free(upgrade);
    if (ended)
        vm_entry_ended(entry, how);
    else
        vm_entry_refresh(entry); /* it may have ended or gone to sleep by itself meanwhile */
}

static void fail(struct upgrade *upgrade, const struct fault *fault)
{
    note_fault(upgrade, fault);
    upgrade->is_called_off = true;
    upgrade->stage = STAGE_BACK;
    if (!upgrade->entry->next_process)
        upgrade->next_ended = true;
    loop_timer_start(upgrade->timer, 0, LOOK_MS);
}

/* ---- after the switch ---- */
static void send_quit(struct upgrade *upgrade)
{
    Godwit__VmAction action = GODWIT__VM_ACTION__INIT;
    struct rpc *rpc = upgrade->old ? vm_process_rpc(upgrade->old) : NULL;

    action.vm_id = upgrade->vm_id;
    if (rpc)
        (void)rpc_send_event(rpc, METHOD_VM_QUIT, &action.base, NULL); /* said again, if need be */
}

/* GAVE, and STARTED was lost: nobody else tells it. */
static void send_started(struct upgrade *upgrade)
{
    Godwit__MoveVerdict verdict = GODWIT__MOVE_VERDICT__INIT;
    struct rpc *rpc = upgrade->old ? vm_process_rpc(upgrade->old) : NULL;

    verdict.vm_id = upgrade->vm_id;
    verdict.move_id = upgrade->move_id;
    verdict.has_kind = true;
    verdict.kind = GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_STARTED;
    if (rpc)
        (void)rpc_send_event(rpc, METHOD_VM_MOVE_VERDICT, &verdict.base, NULL); /* as above */
}

static void look_after(struct upgrade *upgrade)
{
    uint64_t since_ms = world_now_ms() - upgrade->switched_ms;
    bool told = upgrade->receipt || upgrade->old_ended || since_ms > RECEIPT_MS;
    struct fault fault = {0};

    if ((upgrade->old_ended || since_ms > 2 * RECEIPT_MS) && upgrade->is_attached)
        answer(upgrade);
    if (upgrade->old_ended && upgrade->is_attached) {
        const struct vm_entry *entry = entry_of(upgrade);
        if (entry)
            unlink_run(entry, "old.sock");
        upgrade_free(upgrade);
        return;
    }
    if (upgrade->old && told && since_ms >= upgrade->said_ms) {
        upgrade->said_ms = since_ms + SAY_AGAIN_MS;
        if (since_ms > RECEIPT_MS)
            send_started(upgrade);
        send_quit(upgrade);
    }
    if (upgrade->old && since_ms > OLD_MS_MAX && !upgrade->is_killed)
        upgrade->is_killed = vm_process_kill(upgrade->old, &fault) == 0; /* it gave its guest away */
    loop_timer_start(upgrade->timer, LOOK_MS, 0);
}

static void attached(struct upgrade *upgrade, const Godwit__VmStatus *status)
{
    struct vm_entry *entry = entry_of(upgrade);

    upgrade->is_attached = true;
    close_fds(upgrade);
    if (entry) {
        entry->attaching = false;
        if (status && entry->process)
            vm_entry_update(entry, status);
        else
            vm_entry_refresh(entry);
    }
    look(upgrade);
}

static void attach_answered(void *data, const ProtobufCMessage *reply, const struct fault *fault)
{
    struct upgrade *upgrade = data;

    if (!answered(upgrade))
        return;
    if (!reply) /* the ordinary way, as soon as it says that it wants them: attach.h */
        log_warn("upgrade", "its disks and nics are opened anew vm=%s: %s", upgrade->vm_id,
                 fault->text);
    attached(upgrade, (const Godwit__VmStatus *)reply);
}

static void stamp_work(void *data)
{
    struct upgrade *upgrade = data;

    upgrade->stamp_result = backends_restamp(upgrade->spec, upgrade->vm_id, upgrade->generation,
                                             &upgrade->wanted, &upgrade->stamp_fault);
}

static int send_attach(struct upgrade *upgrade, struct vm_entry *entry, struct fault *fault)
{
    Godwit__VmAttach order = GODWIT__VM_ATTACH__INIT;
    struct rpc *rpc = entry->process ? vm_process_rpc(entry->process) : NULL;
    size_t first = 1 + (size_t)upgrade->lent->has_kernel_fd + (size_t)upgrade->lent->has_initrd_fd;

    if (!rpc)
        return fault_set(fault, ERR_CLOSED, "its process cannot be spoken to just now");
    order.vm_id = entry->id;
    order.backends = upgrade->lent->backends;
    order.n_backends = upgrade->lent->n_backends;
    for (size_t i = 0; i < order.n_backends; i++)
        order.backends[i]->fd_first -= (uint32_t)first;
    int r = rpc_call_fds(rpc, METHOD_VM_ATTACH, &order.base, upgrade->fds + first,
                         upgrade->fd_count - first, &godwit__vm_status__descriptor, CALL_MS_MAX,
                         attach_answered, upgrade, fault);
    upgrade->calls += r == 0;
    return r;
}

/* The stamp names this host and its life, not a process: it must be as it was. */
static void stamp_done(void *data)
{
    struct upgrade *upgrade = data;
    struct fault fault = {0};

    upgrade->upgrades->workers--;
    if (upgrade->upgrades->stopped)
        return; /* upgrades_free has it */
    struct vm_entry *entry = entry_of(upgrade);
    if (upgrade->stamp_result == BACKENDS_E_LOST && entry && entry->process) {
        (void)snprintf(entry->end_reason, sizeof entry->end_reason, "%.190s",
                       upgrade->stamp_fault.text);
        log_error("upgrade", "another host may write its disks: killing vm=%s: %s", entry->id,
                  upgrade->stamp_fault.text);
        (void)vm_process_kill(entry->process, &fault); /* its end is seen, or there was none */
    }
    if (upgrade->stamp_result != 0 || !entry || send_attach(upgrade, entry, &fault) < 0)
        attached(upgrade, NULL);
}

/* Its disks and nics as they are, where nobody else may write them; else only how it is. */
static void begin_attach(struct upgrade *upgrade, struct vm_entry *entry)
{
    Godwit__Empty empty = GODWIT__EMPTY__INIT;
    struct rpc *rpc = vm_process_rpc(entry->process);

    upgrade->spec = entry->status->spec ? copy_of(&entry->status->spec->base) : NULL;
    if (upgrade->lent && upgrade->lent->n_backends > 0 && upgrade->spec) {
        host_facts_stamp(upgrade->upgrades->facts, upgrade->generation, &upgrade->wanted);
        entry->attaching = true;
        upgrade->upgrades->workers++;
        if (loop_work(upgrade->upgrades->loop, stamp_work, stamp_done, upgrade) == 0)
            return;
        upgrade->upgrades->workers--;
        entry->attaching = false;
    }
    if (rpc && rpc_call(rpc, METHOD_VM_STATUS, &empty.base, &godwit__vm_status__descriptor,
                        CALL_MS_MAX, attach_answered, upgrade, NULL) == 0)
        upgrade->calls++;
    else
        upgrade->is_attached = true; /* it asks its agent for them */
}

static void give_old(struct upgrade *upgrade, struct vm_process *old);

/* old.sock first, so that a crash in between leaves every process with a name. */
static void rename_next(struct vm_entry *entry)
{
    if (is_there(entry, "next.sock")) {
        (void)rename_run(entry, "control.sock", "old.sock"); /* absent: its process has ended */
        (void)rename_run(entry, "next.sock", "control.sock");
    }
    (void)rename_run(entry, "next.latch", "latch");
}

static void do_switch(struct upgrade *upgrade)
{
    struct vm_entry *entry = upgrade->entry;
    struct vm_process *old = entry->process, *next = entry->next_process;

    rename_next(entry);
    log_info("upgrade", "handed over to process %d vm=%s", next ? vm_process_pid(next) : 0,
             entry->id);
    upgrade->stage = STAGE_AFTER;
    upgrade->switched_ms = world_now_ms();
    upgrade->fault = (struct fault){0};
    entry->next_process = entry->process = NULL;
    entry->upgrade = NULL; /* what its process tells from here on is the VM's */
    if (old)
        give_old(upgrade, old);
    loop_timer_start(upgrade->timer, LOOK_MS, 0);
    if (next) {
        entry->process = next;
        begin_attach(upgrade, entry);
        vm_entry_switch(entry, next);
        return;
    }
    upgrade->is_attached = true;
    (void)fault_set(&upgrade->fault, ERR_CLOSED, "the next process took the guest and ended");
    vm_entry_ended(entry, "its process ended right after it took the guest");
}

/* ---- looking ---- */
static void tell_next(struct upgrade *upgrade, Godwit__MoveVerdictKind kind)
{
    Godwit__MoveVerdict verdict = GODWIT__MOVE_VERDICT__INIT;
    struct vm_process *next = upgrade->entry->next_process;
    struct rpc *rpc = next ? vm_process_rpc(next) : NULL;

    verdict.vm_id = upgrade->entry->id;
    verdict.move_id = upgrade->move_id;
    verdict.has_kind = true;
    verdict.kind = kind;
    verdict.has_generation = true;
    verdict.generation = upgrade->generation;
    if (rpc)
        (void)rpc_send_event(rpc, METHOD_VM_MOVE_VERDICT, &verdict.base, NULL); /* looked again */
}

/* The next one never runs: its file says so, and then the old one is told. */
static void resume_old(struct upgrade *upgrade, struct latch_record *next)
{
    Godwit__MoveVerdict verdict = GODWIT__MOVE_VERDICT__INIT;
    struct vm_entry *entry = upgrade->entry;
    struct rpc *rpc = entry->process ? vm_process_rpc(entry->process) : NULL;

    if (next->latch != GODWIT__LATCH__LATCH_ABANDONED) {
        (void)snprintf(next->move_id, sizeof next->move_id, "%s", upgrade->move_id);
        next->move_generation = upgrade->generation;
        if (!vm_entry_write_abandoned(entry, "next.latch", next))
            return;
    }
    verdict.vm_id = entry->id;
    verdict.move_id = upgrade->move_id;
    verdict.has_kind = true;
    verdict.kind = GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_RESUME;
    verdict.has_generation = true;
    verdict.generation = upgrade->generation + 1; /* above the move's, for the cores; not recorded */
    verdict.reason = (char *)(uintptr_t) "the next process never took the guest";
    if (rpc)
        (void)rpc_send_event(rpc, METHOD_VM_MOVE_VERDICT, &verdict.base, NULL);
}

static void kill_next(struct upgrade *upgrade)
{
    struct fault fault = {0};
    struct vm_process *next = upgrade->entry->next_process;

    if (!next || upgrade->is_killed)
        return;
    if (vm_process_kill(next, &fault) == 0)
        upgrade->is_killed = true;
    else
        log_warn("upgrade", "the next process is left over yet vm=%s: %s", upgrade->entry->id,
                 fault.text);
}

static void look(struct upgrade *upgrade)
{
    struct vm_entry *entry = upgrade->entry;
    struct latch_record old, next;

    if (upgrade->stage == STAGE_AFTER) {
        look_after(upgrade);
        return;
    }
    if (upgrade->stage < STAGE_MOVE)
        return; /* the next answer leads on */
    read_latch(entry, "latch", &old);
    read_latch(entry, "next.latch", &next);
    if (!upgrade->move_id[0] && next.move_id[0]) { /* an agent before us drew it */
        (void)snprintf(upgrade->move_id, sizeof upgrade->move_id, "%s", next.move_id);
        upgrade->generation = next.move_generation;
    }
    bool is_of_it = upgrade->move_id[0] && strcmp(old.move_id, upgrade->move_id) == 0;
    uint64_t now_ms = world_now_ms();
    if (is_of_it && old.latch == GODWIT__LATCH__LATCH_GAVE && !upgrade->gave_ms)
        upgrade->gave_ms = now_ms;
    const struct upgrade_facts facts = {
        .old = {.is_alive = !upgrade->old_ended,
                .latch = is_of_it ? (Godwit__Latch)old.latch : GODWIT__LATCH__LATCH_NONE},
        .next = {.is_alive = !upgrade->next_ended, .latch = (Godwit__Latch)next.latch},
        .is_called_off = upgrade->is_called_off,
        .is_overdue = upgrade->gave_ms && now_ms - upgrade->gave_ms > OVERDUE_MS,
    };
    switch (upgrade_core_judge(&facts)) {
    case UPGRADE_WAIT:
        return;
    case UPGRADE_SWITCH:
        do_switch(upgrade);
        return;
    case UPGRADE_TAKE:
        tell_next(upgrade, GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_TAKE);
        return;
    case UPGRADE_RESUME_OLD:
        resume_old(upgrade, &next);
        return;
    case UPGRADE_KILL_NEXT:
        kill_next(upgrade);
        return;
    case UPGRADE_DROP_NEXT:
        finish_back(upgrade);
        return;
    }
}

static void timer_fired(void *data)
{
    look(data);
}

/* ---- what the processes tell ---- */
static void on_next_state(void *data, const Godwit__VmStatus *status)
{
    struct upgrade *upgrade = data;
    (void)status; /* its latch file says what counts */
    look(upgrade);
}

static void take_move_event(struct upgrade *upgrade, const Godwit__MoveEvent *event)
{
    if (!event->move_id || strcmp(event->move_id, upgrade->move_id) != 0)
        return;
    if (event->receipt && !upgrade->receipt)
        upgrade->receipt = copy_of(&event->receipt->base);
    if (event->ended && event->fault && event->fault->text && upgrade->stage != STAGE_AFTER) {
        struct fault fault = {0};
        (void)fault_set(&fault, err_from_number(event->fault->number), "%.400s",
                        event->fault->text);
        note_fault(upgrade, &fault);
    }
}

static void on_process_move(void *data, const Godwit__MoveEvent *event)
{
    struct upgrade *upgrade = data;

    take_move_event(upgrade, event);
    look(upgrade);
}

static void on_process_console(void *data, const Godwit__ConsoleData *event)
{
    (void)data;
    (void)event; /* whoever is attached is attached to the other one */
}

static void on_next_connected(void *data)
{
    look(data);
}

static void on_next_ended(void *data, const char *how)
{
    struct upgrade *upgrade = data;
    struct fault fault = {0};

    upgrade->entry->next_process = vm_process_free(upgrade->entry->next_process);
    upgrade->next_ended = true;
    if (!upgrade->is_killed) {
        (void)fault_set(&fault, ERR_CLOSED, "the next process is gone: %s", how);
        note_fault(upgrade, &fault);
    }
    if (upgrade->stage < STAGE_MOVE)
        fail(upgrade, &fault);
    else
        look(upgrade);
}

static void on_old_state(void *data, const Godwit__VmStatus *status)
{
    (void)data;
    (void)status;
}

static void on_old_ended(void *data, const char *how)
{
    struct upgrade *upgrade = data;
    (void)how;

    upgrade->old = vm_process_free(upgrade->old);
    upgrade->old_ended = true;
    look(upgrade);
}

static void give_old(struct upgrade *upgrade, struct vm_process *old)
{
    char socket_path[VM_PATH_SIZE], log_path[VM_PATH_SIZE];
    struct vm_process_config config;
    struct fault fault = {0};

    int r = vm_entry_process_config(upgrade->entry, "old.sock", socket_path, log_path, &config,
                                    &fault);
    config.on_state = on_old_state;
    config.on_move = on_process_move;
    config.on_console = on_process_console;
    config.on_connected = on_next_connected;
    config.on_ended = on_old_ended;
    config.data = upgrade;
    if (r == 0)
        r = vm_process_give(old, &config, &fault);
    assert(r == 0); /* a few bytes: without them there is no deciding */
    upgrade->old = old;
}

void upgrade_on_move(struct upgrades *upgrades, struct vm_entry *entry,
                     const Godwit__MoveEvent *event)
{
    (void)upgrades;
    on_process_move(entry->upgrade, event);
}

void upgrade_on_ended(struct upgrades *upgrades, struct vm_entry *entry, const char *how)
{
    struct upgrade *upgrade = entry->upgrade;
    struct fault fault = {0};
    (void)upgrades;

    upgrade->old_ended = true;
    (void)snprintf(upgrade->old_how, sizeof upgrade->old_how, "%s", how);
    (void)fault_set(&fault, ERR_CLOSED, "the VM's process ended while it was handed over: %s", how);
    note_fault(upgrade, &fault);
    if (upgrade->stage < STAGE_MOVE)
        fail(upgrade, &fault);
    else
        look(upgrade);
}

/* ---- the steps to the move ---- */
static void out_begun(void *data, const ProtobufCMessage *reply, const struct fault *fault)
{
    struct upgrade *upgrade = data;

    if (!answered(upgrade) || reply)
        return; /* events follow */
    note_fault(upgrade, fault);
    /* Said by itself: it has not begun. Else nobody knows, and its latch says. */
    upgrade->is_called_off = fault->code != ERR_TIMEOUT && fault->code != ERR_CLOSED;
    look(upgrade);
}

static int send_out(struct upgrade *upgrade, const int *fds, size_t count, struct fault *fault)
{
    Godwit__MoveOut order = GODWIT__MOVE_OUT__INIT;
    struct rpc *rpc = upgrade->entry->process ? vm_process_rpc(upgrade->entry->process) : NULL;

    if (!rpc)
        return fault_set(fault, ERR_CLOSED, "%s: its process cannot be spoken to just now",
                         name_of(upgrade));
    order.vm_id = upgrade->entry->id;
    order.move_id = upgrade->move_id;
    order.has_generation = true;
    order.generation = upgrade->generation;
    order.has_psk = true;
    order.psk = (ProtobufCBinaryData){.data = upgrade->psk, .len = sizeof upgrade->psk};
    order.target_incarnation =
        (char *)(uintptr_t)host_facts_incarnation(upgrade->upgrades->facts);
    order.has_in_place = order.in_place = true;
    Godwit__MoveGoals goals = GODWIT__MOVE_GOALS__INIT;
    goals.has_away_ms_max = true;
    goals.away_ms_max = 1; /* lanes on one host are lost with their process: it does not come back */
    order.goals = &goals;
    upgrade->stage = STAGE_MOVE; /* from here on the latches say what is so */
    loop_timer_start(upgrade->timer, LOOK_MS, LOOK_MS);
    int r = rpc_call_fds(rpc, METHOD_VM_MOVE_OUT, &order.base, fds, count,
                         &godwit__empty__descriptor, CALL_MS_MAX, out_begun, upgrade, fault);
    upgrade->calls += r == 0;
    return r;
}

static void in_listens(void *data, const ProtobufCMessage *reply, const struct fault *fault)
{
    struct upgrade *upgrade = data;
    char path[VM_PATH_SIZE];
    int fds[LANES + 1] = {-1, -1};
    struct fault words = {0};

    if (!answered(upgrade) || upgrade->stage != STAGE_LISTEN)
        return; /* it failed meanwhile */
    if (!reply) {
        fail(upgrade, fault);
        return;
    }
    int r = vm_entry_run_path(upgrade->entry, "lanes.sock", path, &words);
    for (size_t i = 0; r == 0 && i < ARRAY_COUNT(fds); i++)
        r = unix_connect(path, &fds[i], &words);
    unlink_run(upgrade->entry, "lanes.sock"); /* nobody else comes */
    if (r == 0)
        r = send_out(upgrade, fds, ARRAY_COUNT(fds), &words);
    for (size_t i = 0; i < ARRAY_COUNT(fds); i++)
        close_p(&fds[i]); /* the process has its own */
    explicit_bzero(upgrade->psk, sizeof upgrade->psk);
    if (r < 0)
        fail(upgrade, &words);
}

static int send_in(struct upgrade *upgrade, struct fault *fault)
{
    Godwit__MoveIn order = GODWIT__MOVE_IN__INIT;
    struct vm_process *next = upgrade->entry->next_process;
    struct rpc *rpc = next ? vm_process_rpc(next) : NULL;
    char path[VM_PATH_SIZE];

    int r = vm_entry_run_path(upgrade->entry, "lanes.sock", path, fault);
    if (r == 0)
        r = unix_listen(path, &upgrade->listen_fd, fault);
    if (r < 0)
        return r;
    if (!rpc)
        return fault_set(fault, ERR_CLOSED, "the next process cannot be spoken to");
    id_random(upgrade->move_id);
    world_random(upgrade->psk, sizeof upgrade->psk);
    order.vm_id = upgrade->entry->id;
    order.move_id = upgrade->move_id;
    order.has_generation = true;
    order.generation = upgrade->generation;
    order.has_psk = true;
    order.psk = (ProtobufCBinaryData){.data = upgrade->psk, .len = sizeof upgrade->psk};
    order.has_lanes_max = true;
    order.lanes_max = LANES;
    order.target_incarnation =
        (char *)(uintptr_t)host_facts_incarnation(upgrade->upgrades->facts);
    upgrade->stage = STAGE_LISTEN;
    r = rpc_call_fds(rpc, METHOD_VM_MOVE_IN, &order.base, &upgrade->listen_fd, 1,
                     &godwit__empty__descriptor, CALL_MS_MAX, in_listens, upgrade, fault);
    upgrade->calls += r == 0;
    return r;
}

static void created(void *data, const ProtobufCMessage *reply, const struct fault *fault)
{
    struct upgrade *upgrade = data;
    struct fault words = {0};

    if (!answered(upgrade) || upgrade->stage != STAGE_CREATE)
        return;
    if (!reply) {
        fail(upgrade, fault);
        return;
    }
    if (send_in(upgrade, &words) < 0)
        fail(upgrade, &words);
    close_p(&upgrade->listen_fd); /* the process has its own */
    upgrade->listen_fd = -1;
}

static int open_files(struct upgrade *upgrade, int ret_fds[static 3], struct fault *fault)
{
    char path[VM_PATH_SIZE];

    int r = host_facts_check(upgrade->upgrades->facts, upgrade->entry->status->spec, &ret_fds[0],
                             fault);
    if (r == 0)
        r = vm_entry_state_path(upgrade->entry, "console.log", path, fault);
    if (r < 0)
        return r;
    ret_fds[1] = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (ret_fds[1] < 0)
        return fault_set_errno(fault, err_from_errno(errno), errno, "opening %s", path);
    r = vm_entry_run_path(upgrade->entry, "next.latch", path, fault);
    return r < 0 ? r : latch_file_create(path, &ret_fds[2], fault);
}

static int send_create(struct upgrade *upgrade, struct fault *fault)
{
    Godwit__VmCreate order = GODWIT__VM_CREATE__INIT;
    struct rpc *rpc = vm_process_rpc(upgrade->entry->next_process);
    int fds[6] = {-1, -1, -1, -1, -1, -1};
    size_t boot = (size_t)upgrade->lent->has_kernel_fd + (size_t)upgrade->lent->has_initrd_fd;
    Godwit__Stamp expected = GODWIT__STAMP__INIT;
    struct stamp stamp;

    int r = rpc ? open_files(upgrade, fds, fault)
                : fault_set(fault, ERR_CLOSED, "the next process cannot be spoken to");
    for (size_t i = 0; i < 1 + boot; i++)
        fds[3 + i] = upgrade->fds[i]; /* memory, kernel, initrd: ours */
    order.vm_id = upgrade->entry->id;
    order.spec = upgrade->entry->status->spec;
    order.host = (char *)(uintptr_t)host_facts_name(upgrade->upgrades->facts); /* protobuf-c: no const */
    order.has_incoming = order.incoming = true;
    order.has_in_place = order.in_place = true;
    order.disk_bytes = upgrade->lent->disk_bytes;
    order.n_disk_bytes = upgrade->lent->n_disk_bytes;
    host_facts_stamp(upgrade->upgrades->facts, upgrade->generation, &stamp);
    expected.has_generation = true;
    expected.generation = stamp.generation;
    expected.owner = stamp.owner;
    expected.incarnation = stamp.incarnation;
    if (vm_spec_stamp_store(upgrade->entry->status->spec))
        order.expected_stamp = &expected;
    if (r == 0)
        r = rpc_call_fds(rpc, METHOD_VM_CREATE, &order.base, fds, 4 + boot,
                         &godwit__vm_status__descriptor, CREATE_MS_MAX, created, upgrade, fault);
    upgrade->calls += r == 0;
    for (size_t i = 0; i < 3; i++)
        close_p(&fds[i]);
    return r;
}

static int next_config(struct upgrade *upgrade, char socket_path[VM_PATH_SIZE],
                       char log_path[VM_PATH_SIZE], struct vm_process_config *ret_config,
                       struct fault *fault)
{
    int r = vm_entry_process_config(upgrade->entry, "next.sock", socket_path, log_path, ret_config,
                                    fault);
    ret_config->on_state = on_next_state;
    ret_config->on_move = on_process_move;
    ret_config->on_console = on_process_console;
    ret_config->on_connected = on_next_connected;
    ret_config->on_ended = on_next_ended;
    ret_config->data = upgrade;
    return r;
}

static void lend_answered(void *data, const ProtobufCMessage *reply, const struct fault *fault)
{
    struct upgrade *upgrade = data;
    char socket_path[VM_PATH_SIZE], log_path[VM_PATH_SIZE];
    struct vm_process_config config;
    struct fault words = {0};

    if (!answered(upgrade) || upgrade->stage != STAGE_LEND)
        return;
    if (!reply || !upgrade->lent) {
        if (reply)
            (void)fault_set(&words, ERR_CORRUPT, "its process lent nothing");
        fail(upgrade, reply ? &words : fault);
        return;
    }
    upgrade->stage = STAGE_CREATE;
    int r = next_config(upgrade, socket_path, log_path, &config, &words);
    if (r == 0)
        r = vm_process_start(&upgrade->entry->next_process, &config, &words);
    if (r == 0)
        r = send_create(upgrade, &words);
    if (r < 0)
        fail(upgrade, &words);
}

/* The lists of what came are judged by godwit-vm (backend_set_fill); here only that they fit. */
static bool lent_fits(const Godwit__VmLent *lent, size_t fd_count)
{
    size_t first = 1 + (size_t)lent->has_kernel_fd + (size_t)lent->has_initrd_fd;

    bool fits = fd_count >= first && !(lent->has_initrd_fd && !lent->has_kernel_fd) &&
                lent->n_backends <= BACKENDS_FDS_MAX;
    for (size_t i = 0; fits && i < lent->n_backends; i++)
        fits = lent->backends[i]->fd_first >= first;
    return fits;
}

void upgrade_on_lent(struct upgrades *upgrades, struct vm_entry *entry, const Godwit__VmLent *lent,
                     struct rpc_request *request)
{
    struct upgrade *upgrade = entry->upgrade;
    struct fault fault = {0};
    static const Godwit__Empty empty = GODWIT__EMPTY__INIT;
    (void)upgrades;

    if (upgrade->stage != STAGE_LEND || upgrade->lent) {
        (void)fault_set(&fault, ERR_STATE, "that was lent already");
        (void)rpc_reply_fault(request, &fault);
        return;
    }
    for (int fd; upgrade->fd_count < RPC_FDS_MAX &&
                 (fd = rpc_request_take_fd(request, upgrade->fd_count)) >= 0;)
        upgrade->fds[upgrade->fd_count++] = fd;
    if (lent_fits(lent, upgrade->fd_count))
        upgrade->lent = copy_of(&lent->base);
    if (!upgrade->lent) {
        (void)fault_set(&fault, ERR_CORRUPT, "what was lent does not fit");
        (void)rpc_reply_fault(request, &fault);
        return;
    }
    (void)rpc_reply(request, &empty.base);
}

static int upgrade_new(struct upgrades *upgrades, struct vm_entry *entry,
                       struct upgrade **ret_upgrade, struct fault *fault)
{
    struct upgrade *upgrade = calloc(1, sizeof *upgrade);
    if (!upgrade)
        return fault_set(fault, ERR_NOMEM, "no memory to hand a VM over");
    upgrade->upgrades = upgrades;
    upgrade->listen_fd = -1;
    int r = loop_timer_new(&upgrade->timer, upgrades->loop, timer_fired, upgrade, fault);
    if (r < 0) {
        free(upgrade);
        return r;
    }
    upgrade->chain = upgrades->first;
    upgrades->first = upgrade;
    upgrade->entry = entry;
    upgrade->generation = entry->status->generation;
    (void)snprintf(upgrade->vm_id, sizeof upgrade->vm_id, "%s", entry->id);
    (void)snprintf(upgrade->version_before, sizeof upgrade->version_before, "%s",
                   entry->status->version ? entry->status->version : "");
    *ret_upgrade = upgrade;
    return 0;
}

int upgrade_begin(struct upgrades *upgrades, struct vm_entry *entry, struct rpc_request *request,
                  struct fault *fault)
{
    Godwit__VmAction action = GODWIT__VM_ACTION__INIT;
    struct upgrade *upgrade = NULL;

    if (vm_entry_is_domain(entry))
        return fault_set(fault, ERR_UNSUPPORTED, "%s runs in libvirt's QEMU, which has its own ways",
                         entry->status->name ? entry->status->name : entry->id);
    if (!entry->status->spec || !entry->status->generation)
        return fault_set(fault, ERR_STATE, "%s does not run on this host", entry->id);
    for (const struct upgrade *at = upgrades->first; at; at = at->chain) {
        if (!at->is_over && strcmp(at->vm_id, entry->id) == 0)
            return fault_set(fault, ERR_BUSY, "%s: the process that had it before is still ending",
                             entry->status->name ? entry->status->name : entry->id);
    }
    int r = upgrade_new(upgrades, entry, &upgrade, fault);
    if (r < 0)
        return r;
    action.vm_id = entry->id;
    entry->upgrade = upgrade;
    r = rpc_call(vm_process_rpc(entry->process), METHOD_VM_LEND, &action.base,
                 &godwit__empty__descriptor, CALL_MS_MAX, lend_answered, upgrade, fault);
    if (r < 0) {
        entry->upgrade = NULL;
        upgrade_free(upgrade);
        return r;
    }
    upgrade->calls++;
    upgrade->request = request;
    log_info("upgrade", "begins vm=%s pid=%d", entry->id, vm_process_pid(entry->process));
    return 0;
}

/* ---- an agent that was started in the middle ---- */
static void known(void *data, const ProtobufCMessage *reply, const struct fault *fault)
{
    struct upgrade *upgrade = data;
    const Godwit__VmStatus *status = (const Godwit__VmStatus *)reply;
    (void)fault;

    if (!answered(upgrade))
        return;
    struct vm_process *process =
        upgrade->stage == STAGE_AFTER ? upgrade->old : upgrade->entry->next_process;
    if (process && status && status->vm_id && strcmp(status->vm_id, upgrade->vm_id) == 0)
        vm_process_set_known(process);
}

static void ask_known(struct upgrade *upgrade, struct vm_process *process)
{
    Godwit__Empty empty = GODWIT__EMPTY__INIT;

    upgrade->calls += rpc_call(vm_process_rpc(process), METHOD_VM_STATUS, &empty.base,
                               &godwit__vm_status__descriptor, CALL_MS_MAX, known, upgrade,
                               NULL) == 0;
}

/* The old process of an upgrade that was decided: it only has to end. */
static void find_old(struct upgrades *upgrades, struct vm_entry *entry)
{
    char socket_path[VM_PATH_SIZE], log_path[VM_PATH_SIZE];
    struct vm_process_config config;
    struct upgrade *upgrade = NULL;
    struct vm_process *old = NULL;
    struct fault fault = {0};

    int r = upgrade_new(upgrades, entry, &upgrade, &fault);
    if (r == 0)
        r = vm_entry_process_config(entry, "old.sock", socket_path, log_path, &config, &fault);
    if (r == 0) {
        struct latch_record record;
        read_latch(entry, "latch", &record);
        (void)snprintf(upgrade->move_id, sizeof upgrade->move_id, "%s", record.move_id);
        upgrade->stage = STAGE_AFTER;
        upgrade->is_attached = true;
        config.on_state = on_old_state;
        config.on_move = on_process_move;
        config.on_console = on_process_console;
        config.on_connected = on_next_connected;
        config.on_ended = on_old_ended;
        config.data = upgrade;
        r = vm_process_adopt(&old, &config, &fault);
    }
    if (r == 0) {
        upgrade->old = old;
        ask_known(upgrade, old);
        loop_timer_start(upgrade->timer, LOOK_MS, 0);
        return;
    }
    if (r != ERR_NOT_FOUND)
        log_error("upgrade", "the old process of an upgrade cannot be reached vm=%s: %s", entry->id,
                  fault.text);
    else
        unlink_run(entry, "old.sock");
    if (upgrade)
        upgrade_free(upgrade);
}

static void find_next(struct upgrades *upgrades, struct vm_entry *entry)
{
    char socket_path[VM_PATH_SIZE], log_path[VM_PATH_SIZE];
    struct vm_process_config config;
    struct upgrade *upgrade = NULL;
    struct fault fault = {0};

    int r = upgrade_new(upgrades, entry, &upgrade, &fault);
    if (r == 0)
        r = next_config(upgrade, socket_path, log_path, &config, &fault);
    if (r < 0) {
        log_error("upgrade", "cannot look after an upgrade vm=%s: %s", entry->id, fault.text);
        if (upgrade)
            upgrade_free(upgrade);
        return;
    }
    r = vm_process_adopt(&entry->next_process, &config, &fault);
    if (r == 0)
        ask_known(upgrade, entry->next_process);
    else if (r == ERR_NOT_FOUND)
        upgrade->next_ended = true;
    else
        log_error("upgrade", "the next process of an upgrade cannot be reached vm=%s: %s",
                  entry->id, fault.text);
    /* The source is told after the target has answered: without a move there it never was. */
    struct latch_record next;
    read_latch(entry, "next.latch", &next);
    upgrade->is_called_off = !next.move_id[0];
    upgrade->stage = STAGE_MOVE;
    entry->upgrade = upgrade;
    loop_timer_start(upgrade->timer, LOOK_MS, LOOK_MS);
}

void upgrade_on_find(struct upgrades *upgrades, struct vm_entry *entry)
{
    struct latch_record next;

    for (struct upgrade *at = upgrades->first; at; at = at->chain) {
        if (!at->is_over && strcmp(at->vm_id, entry->id) == 0)
            return; /* looked after */
    }
    if (is_there(entry, "next.latch")) {
        log_warn("upgrade", "an upgrade was under way when the agent ended vm=%s", entry->id);
        read_latch(entry, "next.latch", &next);
        if (next.latch == GODWIT__LATCH__LATCH_TOOK)
            rename_next(entry); /* and what is adopted is the next one */
        else
            find_next(upgrades, entry);
    }
    if (is_there(entry, "old.sock"))
        find_old(upgrades, entry);
}

/* ---- all of them ---- */
int upgrades_new(struct upgrades **ret_upgrades, struct loop *loop, struct vm_table *table,
                 struct host_facts *facts, struct fault *fault)
{
    struct upgrades *upgrades = calloc(1, sizeof *upgrades);
    if (!upgrades)
        return fault_set(fault, ERR_NOMEM, "no memory for upgrades");
    upgrades->loop = loop;
    upgrades->table = table;
    upgrades->facts = facts;
    *ret_upgrades = upgrades;
    return 0;
}

void upgrades_stop(struct upgrades *upgrades)
{
    if (!upgrades)
        return;
    upgrades->stopped = true;
    while (upgrades->workers)
        loop_turn(upgrades->loop, true); /* each holds a pointer to one of ours */
}

struct upgrades *upgrades_free(struct upgrades *upgrades)
{
    while (upgrades && upgrades->first) {
        upgrades->first->calls = 0; /* those processes are closed: no answer comes */
        upgrade_free(upgrades->first);
    }
    free(upgrades);
    return NULL;
}

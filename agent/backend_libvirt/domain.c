/* A step of the core gives a todo, carried out in one order: what is durable, what is told, what is
 * done. What was done comes back as an event. Every call to libvirt carries the domain's number, so
 * that an answer to one that has been freed meanwhile finds nobody. */
#include "agent/backend_libvirt/domain.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/backend_libvirt/domain_core.h"
#include "agent/backend_libvirt/hypervisor.h"
#include "agent/backend_libvirt/qemu_watch.h"
#include "agent/vm/latch_file.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/own.h"
#include "base/world.h"
#include "net/rpc.h"
#include "proto/limits.h"
#include "proto/method.h"

enum {
    TICK_MS = 250,
    PSK_BYTES = 32,
    WAITERS_MAX = 4,
    LINGER_MS = 500,
    JOB_WORD_MS = 3000, /* what libvirt tells of a migration that is over may come after its end */
    DEADLINE_MS = 10 * 60 * 1000,
    DEADLINE_FINISH_MS = 60 * 60 * 1000,
    DEADLINE_MS_PER_GIB = 20000,
};

static const char resuming_words[] = "resuming";

struct move { /* of the shell: what the core need not know */
    Godwit__MoveOut *out; /* owned; source */
    uint8_t psk[PSK_BYTES]; /* target; with has_key */
    bool has_key;
    char target_incarnation[64];
    void *line;
    struct virt_plan plan;
    char libvirt_uri[DOMAIN_URI_SIZE], data_uri[DOMAIN_URI_SIZE];
    bool peer_plain;
    uint64_t order_ns, greeted_ns, stopped_ns, off_ns, taken_ns, resume_ns;
    struct virt_job job;
    bool is_asking_job, is_transferring, is_final_job;
    uint32_t throttle_peak;
};

struct domain {
    struct domain_config config;
    struct holder *holder;
    char vm_id[33];
    struct rpc *rpc;
    struct domain_core core;
    struct latch_file *latch;
    struct domain_state state;
    Godwit__VmSpec *spec; /* owned; as the last create gave it */
    uint64_t seq;
    struct loop_timer *timer, *end_timer;
    struct move move;
    unsigned epoch; /* counts ends of migrations: what was seen before one is no news after it */
    unsigned held_bits; /* of a todo that waits for libvirt's last word of a migration */
    bool is_looking, look_again, is_resuming, is_over, is_told_over, was_created;
    struct qemu_watch *watch; /* inside the pause of a move away; else NULL */
    struct rpc_request *quit;  /* that waits for the end */
    struct rpc_request *takers[WAITERS_MAX]; /* peers that wait for it to run */
    size_t taker_count;
};

struct holder { /* keeps the address of a domain for as long as answers may come */
    struct domain *domain; /* NULL: freed */
    unsigned references;
};

struct ask { /* one call to libvirt */
    struct holder *holder;
    struct domain_call call;
    struct rpc_request *request;
    Godwit__VmSpec *spec; /* owned: of a start, whose XML the call borrows */
    void (*answered)(struct domain *domain, struct ask *ask);
    unsigned epoch; /* of the domain, when it was asked */
};

static void step(struct domain *domain, const struct domain_event *event);
static int step_or_refuse(struct domain *domain, const struct domain_event *event,
                          struct fault *fault);

/* ---- what is told ---- */
static void fill_latch(const struct domain *domain, Godwit__MoveLatch *ret_latch)
{
    godwit__move_latch__init(ret_latch);
    ret_latch->move_id = (char *)(uintptr_t)domain->core.move_id; /* protobuf-c knows no const */
    ret_latch->has_generation = ret_latch->has_latch = true;
    ret_latch->generation = domain->core.move_generation;
    ret_latch->latch = domain->core.latch;
}

struct told {
    Godwit__VmStatus vm;
    Godwit__MoveLatch latch;
};

static void fill_status(const struct domain *domain, struct told *ret_told)
{
    Godwit__VmStatus *vm = &ret_told->vm;
    const struct domain_core *core = &domain->core;

    godwit__vm_status__init(vm);
    vm->vm_id = (char *)(uintptr_t)domain->vm_id;
    vm->name = domain->state.name[0]              ? (char *)(uintptr_t)domain->state.name
               : domain->spec && domain->spec->name ? domain->spec->name
                                                    : NULL;
    vm->has_state = vm->has_generation = vm->has_seq = true;
    vm->state = domain_core_state(core);
    vm->generation = core->generation;
    vm->seq = domain->seq;
    vm->reason = core->reason[0] ? (char *)(uintptr_t)core->reason : NULL;
    vm->has_pid = domain->state.pid > 0 && core->sight != SIGHT_OFF;
    vm->pid = vm->has_pid ? domain->state.pid : 0;
    vm->has_vcpu_cpu_ns = true;
    vm->vcpu_cpu_ns = domain->state.cpu_ns;
    if (core->move_id[0] && core->latch) {
        fill_latch(domain, &ret_told->latch);
        vm->latch = &ret_told->latch;
    }
}

static void tell_state(struct domain *domain)
{
    struct told told;

    domain->seq++;
    fill_status(domain, &told);
    if (domain->rpc)
        (void)rpc_send_event(domain->rpc, METHOD_VM_STATE_EVENT, &told.vm.base, NULL);
}

static void reply_status(struct domain *domain, struct rpc_request *request)
{
    struct told told;

    if (!request)
        return;
    fill_status(domain, &told);
    (void)rpc_reply(request, &told.vm.base);
}

static void reply_fault(struct rpc_request *request, const struct fault *fault)
{
    if (request)
        (void)rpc_reply_fault(request, fault);
}

static void put_latch(struct domain *domain)
{
    static const uint8_t endings[] = {
        [DOMAIN_ENDED_OFF] = LATCH_ENDING_POWER_OFF,
        [DOMAIN_ENDED_CRASHED] = LATCH_ENDING_CRASHED,
        [DOMAIN_ENDED_GONE] = LATCH_ENDING_GONE,
        [DOMAIN_ENDED_ASKED] = LATCH_ENDING_QUIT,
    };
    const struct domain_core *core = &domain->core;
    struct latch_record record = {
        .generation = core->generation,
        .move_generation = core->move_generation,
        .latch = (uint8_t)core->latch,
        .ending = core->phase == DOMAIN_OVER ? endings[core->ending] : LATCH_ENDING_NONE,
    };

    (void)snprintf(record.move_id, sizeof record.move_id, "%s", core->move_id);
    (void)snprintf(record.reason, sizeof record.reason, "%s",
                   core->is_resuming ? resuming_words : core->reason);
    latch_file_put(domain->latch, &record);
}

static bool at_target(const struct domain *domain)
{
    return domain->core.latch >= GODWIT__LATCH__LATCH_IN;
}

static void init_move_event(const struct domain *domain, Godwit__MoveEvent *ret_event)
{
    godwit__move_event__init(ret_event);
    ret_event->vm_id = (char *)(uintptr_t)domain->vm_id;
    ret_event->move_id = (char *)(uintptr_t)domain->core.move_id;
    ret_event->has_at_target = true;
    ret_event->at_target = at_target(domain);
    ret_event->has_generation = true;
    ret_event->generation = domain->core.move_generation;
}

static void send_move_event(struct domain *domain, const Godwit__MoveEvent *event)
{
    if (domain->rpc)
        (void)rpc_send_event(domain->rpc, METHOD_VM_MOVE_EVENT, &event->base, NULL);
}

static void tell_latch(struct domain *domain)
{
    Godwit__MoveEvent event;

    if (!domain->core.move_id[0] || !domain->core.latch)
        return;
    init_move_event(domain, &event);
    event.has_latch = true;
    event.latch = domain->core.latch;
    send_move_event(domain, &event);
}

/* ---- progress and receipt ---- */
static Godwit__MovePhase phase_now(const struct domain *domain)
{
    switch (domain->core.phase) {
    case DOMAIN_GREET:
        return GODWIT__MOVE_PHASE__MOVE_PHASE_GREET;
    case DOMAIN_COPY:
    case DOMAIN_SETTLE:
        return domain->core.sight == SIGHT_MIGRATING ? GODWIT__MOVE_PHASE__MOVE_PHASE_STATE
               : domain->move.job.data_total         ? GODWIT__MOVE_PHASE__MOVE_PHASE_PRECOPY
                                                     : GODWIT__MOVE_PHASE__MOVE_PHASE_PREPARE;
    case DOMAIN_GIVEN:
        return domain->core.is_told_parked ? GODWIT__MOVE_PHASE__MOVE_PHASE_PARKED
                                           : GODWIT__MOVE_PHASE__MOVE_PHASE_HANDOVER;
    case DOMAIN_PLAIN:
    case DOMAIN_INCOMING:
    case DOMAIN_TAKING:
    case DOMAIN_OVER:
    case DOMAIN_PHASE_COUNT:
        break;
    }
    return domain->core.latch == GODWIT__LATCH__LATCH_ABORTED
               ? GODWIT__MOVE_PHASE__MOVE_PHASE_ROLLED_BACK
               : GODWIT__MOVE_PHASE__MOVE_PHASE_DONE;
}

static void tell_progress(struct domain *domain)
{
    Godwit__MoveEvent event;
    Godwit__MoveProgress progress = GODWIT__MOVE_PROGRESS__INIT;
    struct move *move = &domain->move;

    init_move_event(domain, &event);
    virt_view_progress(&move->job, world_now_ns() - move->order_ns, &progress);
    progress.has_phase = true;
    progress.phase = phase_now(domain);
    progress.has_lanes = true;
    progress.lanes = move->plan.connections ? move->plan.connections : 1;
    if (progress.throttle_permille > move->throttle_peak)
        move->throttle_peak = progress.throttle_permille;
    event.progress = &progress;
    send_move_event(domain, &event);
}

enum { RECEIPT_ROUNDS_MAX = 64 };

struct receipt {
    Godwit__MoveReceipt message;
    Godwit__MoveRound rounds[RECEIPT_ROUNDS_MAX];
    Godwit__MoveRound *round_list[RECEIPT_ROUNDS_MAX];
    Godwit__MovePhaseTime times[6];
    Godwit__MovePhaseTime *list[6];
};

static void add_phase(struct receipt *receipt, const struct move *move, Godwit__MovePhase phase,
                      uint64_t from_ns, uint64_t to_ns)
{
    size_t i = receipt->message.n_phases;

    if (!from_ns || to_ns < from_ns || i == ARRAY_COUNT(receipt->times))
        return;
    godwit__move_phase_time__init(&receipt->times[i]);
    receipt->times[i].has_phase = receipt->times[i].has_start_ns = true;
    receipt->times[i].has_duration_ns = true;
    receipt->times[i].phase = phase;
    receipt->times[i].start_ns = from_ns - move->order_ns;
    receipt->times[i].duration_ns = to_ns - from_ns;
    receipt->list[i] = &receipt->times[i];
    receipt->message.n_phases++;
}

static void add_pause(Godwit__MoveReceipt *message, const struct move *move)
{
    if (!move->stopped_ns || move->taken_ns < move->stopped_ns)
        return;
    message->has_downtime_ns = true;
    message->downtime_ns = move->taken_ns - move->stopped_ns;
    message->has_state_ns = message->has_resume_ns = true;
    message->state_ns = move->off_ns > move->stopped_ns ? move->off_ns - move->stopped_ns : 0;
    message->resume_ns = move->resume_ns;
}

/* libvirt counts rounds, and pages over all of them: they stand in the first. */
static void add_rounds(struct receipt *receipt, const struct virt_job *job)
{
    size_t count = job->iteration < RECEIPT_ROUNDS_MAX ? job->iteration : RECEIPT_ROUNDS_MAX;

    for (size_t i = 0; i < count; i++) {
        Godwit__MoveRound *round = &receipt->rounds[i];
        godwit__move_round__init(round);
        round->has_number = true;
        round->number = (uint32_t)i + 1;
        receipt->round_list[i] = round;
    }
    if (count) {
        Godwit__MoveRound *first = &receipt->rounds[0];
        first->has_pages = first->has_zero_pages = first->has_raw_pages = true;
        first->pages = job->normal_pages + job->zero_pages;
        first->zero_pages = job->zero_pages;
        first->raw_pages = job->normal_pages;
        first->has_wire_bytes = true;
        first->wire_bytes = job->data_processed;
    }
    receipt->message.rounds = receipt->round_list;
    receipt->message.n_rounds = count;
}

static void fill_receipt(struct domain *domain, struct receipt *receipt, bool moved)
{
    struct move *move = &domain->move;
    Godwit__MoveReceipt *message = &receipt->message;
    uint64_t now_ns = world_now_ns();
    uint64_t setup_ns = move->job.setup_ms * NS_PER_MS;
    uint64_t copied_ns = move->stopped_ns ? move->stopped_ns : now_ns;

    godwit__move_receipt__init(message);
    message->phases = receipt->list;
    add_phase(receipt, move, GODWIT__MOVE_PHASE__MOVE_PHASE_GREET, move->order_ns,
              move->greeted_ns ? move->greeted_ns : now_ns);
    if (move->greeted_ns) {
        uint64_t begun_ns = move->greeted_ns + setup_ns;
        add_phase(receipt, move, GODWIT__MOVE_PHASE__MOVE_PHASE_PREPARE, move->greeted_ns,
                  begun_ns);
        add_phase(receipt, move, GODWIT__MOVE_PHASE__MOVE_PHASE_PRECOPY, begun_ns, copied_ns);
    }
    if (move->off_ns > move->stopped_ns)
        add_phase(receipt, move, GODWIT__MOVE_PHASE__MOVE_PHASE_STATE, move->stopped_ns,
                  move->off_ns);
    add_phase(receipt, move, GODWIT__MOVE_PHASE__MOVE_PHASE_HANDOVER, move->off_ns,
              move->taken_ns);
    add_rounds(receipt, &move->job);
    message->move_id = domain->core.move_id;
    message->vm_id = domain->vm_id;
    message->has_moved = message->has_ended_in = message->has_total_ns = true;
    message->moved = moved;
    message->ended_in = moved ? GODWIT__MOVE_PHASE__MOVE_PHASE_DONE : phase_now(domain);
    message->total_ns = now_ns - move->order_ns;
    if (moved)
        add_pause(message, move);
    message->has_downtime_goal_ns = true;
    message->downtime_goal_ns = move->plan.downtime_ms * NS_PER_MS;
    message->has_memory_bytes = true;
    message->memory_bytes = domain->state.memory_bytes;
    /* A short migration may be over before libvirt told any figure of it: none is not zero. */
    message->has_wire_bytes = message->has_populated_bytes = move->job.data_total > 0;
    message->wire_bytes = move->job.data_processed;
    message->populated_bytes = move->job.data_total;
    message->has_lanes = true;
    message->lanes = move->plan.connections ? move->plan.connections : 1;
    message->cipher = (char *)(uintptr_t)(move->peer_plain ? "none" : "QEMU's TLS");
    message->has_throttle_permille_peak = move->throttle_peak > 0;
    message->throttle_permille_peak = move->throttle_peak;
}

static void tell_move_ended(struct domain *domain)
{
    Godwit__MoveEvent event;
    Godwit__Fault fault = GODWIT__FAULT__INIT;
    struct receipt receipt = {0};
    const struct domain_core *core = &domain->core;
    bool moved = core->latch == GODWIT__LATCH__LATCH_RELEASED;

    init_move_event(domain, &event);
    event.has_latch = event.has_ended = event.ended = true;
    event.latch = core->latch;
    if (!moved && core->cause.code) {
        fault.has_number = true;
        fault.number = -core->cause.code;
        fault.text = (char *)(uintptr_t)core->cause.text;
        event.fault = &fault;
    }
    if (domain->move.out) {
        fill_receipt(domain, &receipt, moved);
        receipt.message.fault = event.fault;
        event.receipt = &receipt.message;
    }
    send_move_event(domain, &event);
    log_info("domain", "move ended vm=%s move=%s latch=%s%s%s", domain->vm_id, core->move_id,
             latch_file_latch_name(core->latch), event.fault ? ": " : "",
             event.fault ? core->cause.text : "");
}

static void forget_move(struct domain *domain)
{
    struct move *move = &domain->move;

    domain->watch = qemu_watch_free(domain->watch);

    if (move->line)
        move->line = domain->config.line_close(move->line);
    if (move->out) {
        explicit_bzero(move->out->psk.data, move->out->psk.len);
        godwit__move_out__free_unpacked(move->out, NULL);
    }
    explicit_bzero(move->psk, sizeof move->psk);
    *move = (struct move){0};
}

/* ---- asking libvirt ---- */
static struct holder *holder_ref(struct domain *domain)
{
    domain->holder->references++;
    return domain->holder;
}

static void holder_unref(struct holder *holder)
{
    if (--holder->references == 0)
        free(holder);
}

static void ask_free(struct ask *ask)
{
    free(ask->call.text);
    if (ask->spec)
        godwit__vm_spec__free_unpacked(ask->spec, NULL);
    holder_unref(ask->holder);
    free(ask);
}

static void ask_work(struct _virConnect *connection, void *data)
{
    struct ask *ask = data;

    domain_call_run(connection, &ask->call);
}

static void ask_done(void *data)
{
    struct ask *ask = data;

    if (ask->holder->domain)
        ask->answered(ask->holder->domain, ask);
    ask_free(ask);
}

static struct ask *ask_new(struct domain *domain, enum domain_call_kind kind,
                           struct rpc_request *request,
                           void (*answered)(struct domain *domain, struct ask *ask))
{
    struct ask *ask = calloc(1, sizeof *ask);

    if (!ask)
        return NULL;
    ask->holder = holder_ref(domain);
    ask->call.kind = kind;
    memcpy(ask->call.vm_id, domain->vm_id, sizeof ask->call.vm_id);
    ask->request = request;
    ask->answered = answered;
    ask->epoch = domain->epoch;
    return ask;
}

/* Takes the ask. On failure its request is answered and `answered` does not come. */
static bool ask_send(struct domain *domain, struct ask *ask)
{
    struct fault fault = {0};

    if (!ask)
        return false;
    if (hypervisor_call(domain->config.hypervisor, ask_work, ask_done, ask, &fault) == 0)
        return true;
    reply_fault(ask->request, &fault);
    ask_free(ask);
    return false;
}

static void see(struct domain *domain, const struct ask *ask)
{
    const struct domain_state *state = &ask->call.state;

    if (state->sight != SIGHT_UNKNOWN && state->exists)
        domain->state = *state;
    const struct domain_event event = {.type = DOMAIN_EVENT_SIGHT,
                                       .now_ns = world_now_ns(),
                                       .seen = {.sight = state->sight,
                                                .how = state->how,
                                                .is_fresh = ask->epoch == domain->epoch}};
    step(domain, &event);
}

static void look(struct domain *domain);

static void looked(struct domain *domain, struct ask *ask)
{
    domain->is_looking = false;
    see(domain, ask);
    if (domain->look_again && !domain->is_over) {
        domain->look_again = false;
        look(domain);
    }
}

/* A look that is under way may have seen what was before: then another follows. */
static void look(struct domain *domain)
{
    if (domain->is_looking) {
        domain->look_again = true;
        return;
    }
    domain->is_looking =
        ask_send(domain, ask_new(domain, DOMAIN_CALL_LOOK, NULL, looked));
}

static void resumed(struct domain *domain, struct ask *ask)
{
    domain->is_resuming = false;
    if (ask->call.fault.code)
        log_error("domain", "cannot be resumed, trying on vm=%s: %s", domain->vm_id,
                  ask->call.fault.text);
    see(domain, ask);
}

static void resume(struct domain *domain)
{
    if (!domain->is_resuming)
        domain->is_resuming =
            ask_send(domain, ask_new(domain, DOMAIN_CALL_RESUME, NULL, resumed));
}

static void job_aborted(struct domain *domain, struct ask *ask)
{
    const struct domain_event event = {.type = DOMAIN_EVENT_NO_JOB,
                                       .now_ns = world_now_ns()};

    if (ask->call.fault.code != ERR_STATE && ask->call.fault.code != ERR_NOT_FOUND)
        return;
    if (domain->core.is_inherited)
        domain->epoch++;
    step(domain, &event);
}

static void discarded(struct domain *domain, struct ask *ask)
{
    (void)domain;
    if (ask->call.fault.code)
        log_error("domain", "what a move had brought is left over vm=%s: %s", ask->call.vm_id,
                  ask->call.fault.text);
}

static void job_read(struct domain *domain, struct ask *ask)
{
    domain->move.is_asking_job = false;
    if (ask->call.fault.code)
        log_debug("domain", "vm=%s: %s", domain->vm_id, ask->call.fault.text);
    if (!ask->call.fault.code && domain->move.out && !domain->move.is_final_job)
        domain->move.job = ask->call.job;
}

static void ask_job(struct domain *domain)
{
    if (!domain->move.is_asking_job && !domain->move.is_final_job)
        domain->move.is_asking_job =
            ask_send(domain, ask_new(domain, DOMAIN_CALL_JOB, NULL, job_read));
}

/* ---- the source's calls ---- */
static void migrated(struct domain *domain, struct ask *ask)
{
    const struct domain_event event = {.type = DOMAIN_EVENT_MIGRATED,
                                       .now_ns = world_now_ns(),
                                       .fault = ask->call.fault.code ? &ask->call.fault : NULL};

    domain->epoch++;
    log_info("domain", "libvirt's migration is over vm=%s: %s", domain->vm_id,
             ask->call.fault.code ? ask->call.fault.text : "done");
    step(domain, &event);
}

static void migrate(struct domain *domain)
{
    struct move *move = &domain->move;
    struct ask *ask = ask_new(domain, DOMAIN_CALL_MIGRATE, NULL, migrated);
    struct fault fault = {0};

    if (ask) {
        virt_view_plan(move->out->goals, domain->state.persistent, move->peer_plain, &move->plan);
        ask->call.plan = move->plan;
        memcpy(ask->call.libvirt_uri, move->libvirt_uri, sizeof ask->call.libvirt_uri);
        memcpy(ask->call.data_uri, move->data_uri, sizeof ask->call.data_uri);
    }
    if (ask_send(domain, ask))
        return;
    domain->epoch++;
    const struct domain_event event = {.type = DOMAIN_EVENT_MIGRATED,
                                       .now_ns = world_now_ns(),
                                       .fault = &fault};
    (void)fault_set(&fault, ERR_UNREACHABLE, "libvirtd of the source does not answer");
    step(domain, &event);
}

static void copy_uri(char ret_uri[static DOMAIN_URI_SIZE], const char *uri)
{
    (void)snprintf(ret_uri, DOMAIN_URI_SIZE, "%s",
                   uri && strlen(uri) < DOMAIN_URI_SIZE ? uri : "");
}

static void greeted(void *data, const Godwit__PeerMoveReply *reply, const struct fault *fault)
{
    struct domain *domain = data;
    struct domain_event event = {.type = DOMAIN_EVENT_GREETED,
                                 .now_ns = world_now_ns(),
                                 .fault = fault};
    struct fault words = {0};

    if (reply) {
        domain->move.greeted_ns = event.now_ns;
        domain->move.peer_plain = reply->plain && domain->config.plain;
        copy_uri(domain->move.libvirt_uri, reply->libvirt_uri);
        copy_uri(domain->move.data_uri, reply->data_uri);
        if (!domain->move.libvirt_uri[0]) {
            (void)fault_set(&words, ERR_REFUSED, "the target's libvirtd takes no domains");
            event.fault = &words;
        }
    }
    step(domain, &event);
}

static void ask_peer(struct domain *domain, Godwit__PeerMoveKind kind, domain_peer_fn *done)
{
    Godwit__PeerMove message = GODWIT__PEER_MOVE__INIT;
    struct move *move = &domain->move;
    struct fault fault = {0};

    if (!move->out) { /* of an earlier agent: what it knew of the target is gone */
        (void)fault_set(&fault, ERR_CLOSED, "the line to the target is lost");
        done(domain, NULL, &fault);
        return;
    }
    message.has_kind = message.has_generation = message.has_psk = true;
    message.kind = kind;
    message.vm_id = domain->vm_id;
    message.move_id = domain->core.move_id;
    message.generation = domain->core.move_generation;
    message.psk = move->out->psk;
    message.target_incarnation = move->out->target_incarnation;
    message.has_stay_paused = true;
    message.stay_paused = domain->core.was_paused;
    if (!move->line)
        move->line = domain->config.line_open(domain->config.line_data, move->out->address);
    if (!move->line) {
        (void)fault_set(&fault, ERR_NOMEM, "no line to the target's agent");
        done(domain, NULL, &fault);
        return;
    }
    domain->config.line_ask(move->line, &message, done, domain);
}

static void transferred(void *data, const Godwit__PeerMoveReply *reply, const struct fault *fault)
{
    struct domain *domain = data;
    struct domain_event event = {.type = DOMAIN_EVENT_TRANSFERRED,
                                 .now_ns = world_now_ns(),
                                 .answer = {.fault = fault}};

    domain->move.is_transferring = false;
    if (reply) {
        event.answer.latch = reply->latch;
        domain->move.taken_ns = event.now_ns;
        domain->move.resume_ns = reply->resume_ns;
    } else {
        log_debug("domain", "the target has not taken yet vm=%s: %s", domain->vm_id, fault->text);
    }
    step(domain, &event);
}

static void transfer(struct domain *domain)
{
    if (domain->move.is_transferring)
        return;
    domain->move.is_transferring = true;
    ask_peer(domain, GODWIT__PEER_MOVE_KIND__PEER_MOVE_TRANSFER, transferred);
}

static void abandon_told(void *data, const Godwit__PeerMoveReply *reply, const struct fault *fault)
{
    struct domain *domain = data;
    (void)reply;
    (void)fault; /* the coordinator tells the target, too */

    if (!domain_core_is_moving(&domain->core))
        forget_move(domain);
}

/* ---- a step ---- */
static void carry_out(struct domain *domain, unsigned bits);

static void let_go(struct domain *domain)
{
    unsigned bits = domain->held_bits;

    domain->move.is_final_job = true; /* or all that there will be */
    domain->held_bits = 0;
    carry_out(domain, bits);
}

static void end_timer_fired(void *data)
{
    struct domain *domain = data;

    if (domain->held_bits)
        let_go(domain);
    else
        domain->config.on_closed(domain->config.data, domain);
}

static void answer_takers(struct domain *domain)
{
    Godwit__PeerMoveReply reply = GODWIT__PEER_MOVE_REPLY__INIT;

    reply.has_latch = true;
    reply.latch = domain->core.latch;
    reply.has_resume_ns = true;
    reply.resume_ns = domain->move.resume_ns;
    for (size_t i = 0; i < domain->taker_count; i++)
        (void)rpc_reply(domain->takers[i], &reply.base);
    domain->taker_count = 0;
}

/* The guest runs at the target; only the receipt waits, for the figures of the whole migration. */
static unsigned hold(struct domain *domain, unsigned bits)
{
    const unsigned last = DOMAIN_TODO_MOVE_ENDED | DOMAIN_TODO_TELL | DOMAIN_TODO_OVER;
    bool may_wait = (bits & DOMAIN_TODO_MOVE_ENDED) && domain->move.out &&
                    domain->core.latch == GODWIT__LATCH__LATCH_RELEASED;

    if (!may_wait || domain->move.is_final_job || domain->held_bits)
        return bits;
    tell_latch(domain);
    domain->held_bits = bits & last;
    loop_timer_start(domain->end_timer, JOB_WORD_MS, 0);
    return bits & ~last;
}

static void carry_out(struct domain *domain, unsigned bits)
{
    struct domain_core *core = &domain->core;

    if (bits & DOMAIN_TODO_LATCH)
        put_latch(domain);
    if ((bits & DOMAIN_TODO_LATCH) && core->phase != DOMAIN_OVER)
        tell_latch(domain);
    bits = hold(domain, bits);
    if (bits & DOMAIN_TODO_RESUME) /* before anything is told: this is inside the pause */
        resume(domain);
    if (bits & DOMAIN_TODO_TRANSFER)
        transfer(domain);
    if (bits & DOMAIN_TODO_MOVE_ENDED)
        tell_move_ended(domain);
    if (core->phase != DOMAIN_INCOMING && core->phase != DOMAIN_TAKING && domain->taker_count)
        answer_takers(domain);
    if ((bits & DOMAIN_TODO_TELL) && !(bits & DOMAIN_TODO_OVER))
        tell_state(domain);
    if (bits & DOMAIN_TODO_ABANDON)
        ask_peer(domain, GODWIT__PEER_MOVE_KIND__PEER_MOVE_ABANDON, abandon_told);
    if (bits & DOMAIN_TODO_GREET)
        ask_peer(domain, GODWIT__PEER_MOVE_KIND__PEER_MOVE_HELLO, greeted);
    if (bits & DOMAIN_TODO_MIGRATE)
        migrate(domain);
    if (bits & DOMAIN_TODO_ABORT_JOB)
        (void)ask_send(domain, ask_new(domain, DOMAIN_CALL_ABORT_JOB, NULL, job_aborted));
    if (bits & DOMAIN_TODO_LOOK)
        look(domain);
    if (bits & DOMAIN_TODO_DISCARD)
        (void)ask_send(domain, ask_new(domain, DOMAIN_CALL_DISCARD, NULL, discarded));
    if ((bits & DOMAIN_TODO_OVER) && !domain->is_over) {
        domain->is_over = true;
        if (domain->was_created)
            tell_state(domain);
        if (domain->quit)
            reply_status(domain, TAKE(domain->quit));
        loop_timer_start(domain->end_timer, LINGER_MS, 0);
    }
}

static int step_or_refuse(struct domain *domain, const struct domain_event *event,
                          struct fault *fault)
{
    struct domain_todo todo = {0};
    enum domain_phase was = domain->core.phase;

    int r = domain_core_step(&domain->core, event, &todo, fault);
    if (domain->core.phase != was)
        log_debug("domain", "phase %s -> %s vm=%s", domain_phase_name(was),
                  domain_phase_name(domain->core.phase), domain->vm_id);
    if (domain->core.phase == DOMAIN_GIVEN && was != DOMAIN_GIVEN)
        domain->move.off_ns = event->now_ns;
    carry_out(domain, todo.bits);
    return r;
}

static void step(struct domain *domain, const struct domain_event *event)
{
    struct fault fault = {0};

    if (step_or_refuse(domain, event, &fault) < 0)
        log_debug("domain", "vm=%s: %s", domain->vm_id, fault.text);
}

static void timer_fired(void *data)
{
    struct domain *domain = data;
    const struct domain_event event = {.type = DOMAIN_EVENT_TICK, .now_ns = world_now_ns()};

    if (domain->is_over || !domain_core_is_moving(&domain->core))
        return;
    if (domain->core.phase == DOMAIN_COPY)
        ask_job(domain);
    if (domain->move.out)
        tell_progress(domain);
    step(domain, &event);
}

/* ---- the end of the source's QEMU, before libvirt tells it ---- */
static void on_qemu_ended(void *data)
{
    struct domain *domain = data;
    const struct domain_event event = {.type = DOMAIN_EVENT_SIGHT,
                                       .now_ns = world_now_ns(),
                                       .seen = {.sight = SIGHT_OFF, .is_fresh = true}};

    if (domain->core.phase == DOMAIN_COPY || domain->core.phase == DOMAIN_SETTLE)
        step(domain, &event);
}

static void watch_qemu(struct domain *domain)
{
    struct fault fault = {0};

    if (domain->watch || domain->core.phase != DOMAIN_COPY || domain->state.pid <= 0)
        return;
    if (qemu_watch_new(&domain->watch, domain->config.loop, domain->state.pid, on_qemu_ended,
                       domain, &fault) < 0)
        log_debug("domain", "vm=%s: %s", domain->vm_id, fault.text); /* libvirt's word will do */
}

/* ---- what libvirt says ---- */
void domain_see(struct domain *domain, const struct domain_state *state)
{
    bool is_news = state->sight != SIGHT_UNKNOWN && state->sight != domain->core.sight;

    if (state->exists && state->sight == domain->core.sight)
        domain->state = *state;
    if (is_news && !domain->is_over)
        look(domain);
}

void domain_on_event(struct domain *domain, int event, int detail)
{
    struct domain_event step_event = {.type = DOMAIN_EVENT_SIGHT, .now_ns = world_now_ns()};

    if (virt_view_event(event, detail, &step_event.seen.sight, &step_event.seen.how)) {
        if (step_event.seen.sight == SIGHT_MIGRATING) {
            domain->move.stopped_ns = step_event.now_ns;
            watch_qemu(domain);
        }
        /* An arrival is not whole by an event alone: see domain_core. */
        bool certain = domain->core.phase != DOMAIN_INCOMING ||
                       step_event.seen.sight != SIGHT_MIGRATING;
        if (certain)
            step(domain, &step_event);
    }
    if (!domain->is_over)
        look(domain);
}

void domain_on_job(struct domain *domain, const struct virt_job *job)
{
    if (!domain->move.out)
        return;
    domain->move.job = *job;
    domain->move.is_final_job = true;
    if (domain->held_bits)
        let_go(domain);
}

/* ---- calls of the agent ---- */
static void acted(struct domain *domain, struct ask *ask)
{
    see(domain, ask);
    if (ask->call.fault.code)
        reply_fault(ask->request, &ask->call.fault);
    else
        reply_status(domain, ask->request);
}

static int judge_quiet(const struct domain *domain, struct fault *fault)
{
    if (domain_core_is_moving(&domain->core))
        return fault_set(fault, ERR_BUSY, "a move has it");
    return 0;
}

static void act(struct domain *domain, enum domain_call_kind kind, struct rpc_request *request)
{
    struct fault fault = {0};

    if (judge_quiet(domain, &fault) < 0) {
        reply_fault(request, &fault);
        return;
    }
    (void)ask_send(domain, ask_new(domain, kind, request, acted));
}

static void handle_status(void *data, struct rpc *rpc, struct rpc_request *request,
                          const ProtobufCMessage *message)
{
    (void)rpc;
    (void)message;
    reply_status(data, request);
}

static void handle_pause(void *data, struct rpc *rpc, struct rpc_request *request,
                         const ProtobufCMessage *message)
{
    (void)rpc;
    (void)message;
    act(data, DOMAIN_CALL_SUSPEND, request);
}

static void handle_resume(void *data, struct rpc *rpc, struct rpc_request *request,
                          const ProtobufCMessage *message)
{
    (void)rpc;
    (void)message;
    act(data, DOMAIN_CALL_RESUME, request);
}

static void handle_power_button(void *data, struct rpc *rpc, struct rpc_request *request,
                                const ProtobufCMessage *message)
{
    (void)rpc;
    (void)message;
    act(data, DOMAIN_CALL_SHUTDOWN, request);
}

static void started(struct domain *domain, struct ask *ask)
{
    const struct domain_state *state = &ask->call.state;

    if (ask->call.fault.code || state->sight == SIGHT_OFF || state->sight == SIGHT_UNKNOWN) {
        if (!ask->call.fault.code)
            (void)fault_set(&ask->call.fault, ERR_IO, "libvirt started it, and it ended at once");
        reply_fault(ask->request, &ask->call.fault);
        return;
    }
    domain->was_created = true;
    put_latch(domain);
    see(domain, ask);
    reply_status(domain, ask->request);
}

static void *copy_message(const ProtobufCMessage *message)
{
    size_t count = protobuf_c_message_get_packed_size(message);
    AUTO_FREE uint8_t *bytes = malloc(count ? count : 1);

    if (!bytes)
        return NULL;
    (void)protobuf_c_message_pack(message, bytes);
    void *copy = protobuf_c_message_unpack(message->descriptor, NULL, count, bytes);
    explicit_bzero(bytes, count);
    return copy;
}

/* A start, or room for a move that comes. */
static void handle_create(void *data, struct rpc *rpc, struct rpc_request *request,
                          const ProtobufCMessage *message)
{
    struct domain *domain = data;
    const Godwit__VmCreate *order = (const Godwit__VmCreate *)message;
    struct fault fault = {0};
    (void)rpc;

    if (domain->spec)
        godwit__vm_spec__free_unpacked(domain->spec, NULL);
    domain->spec = order->spec ? copy_message(&order->spec->base) : NULL;
    if (!domain->spec) {
        (void)fault_set(&fault, ERR_INVALID, "a domain without a description");
        reply_fault(request, &fault);
        return;
    }
    struct ask *ask = ask_new(domain, order->incoming ? DOMAIN_CALL_CHECK : DOMAIN_CALL_START,
                              request, order->incoming ? acted : started);
    if (ask && !order->incoming) {
        domain->core.generation = order->generation;
        ask->spec = copy_message(&order->spec->base);
        ask->call.xml = ask->spec && ask->spec->domain_xml ? ask->spec->domain_xml : NULL;
        ask->call.start_paused = order->start_paused;
        ask->call.may_define = true;
    }
    domain->was_created = domain->was_created || order->incoming;
    (void)ask_send(domain, ask);
}

static void destroyed(struct domain *domain, struct ask *ask)
{
    if (ask->call.fault.code) {
        domain->core.stopping = false;
        reply_fault(TAKE(domain->quit), &ask->call.fault);
    }
    see(domain, ask);
}

static void handle_quit(void *data, struct rpc *rpc, struct rpc_request *request,
                        const ProtobufCMessage *message)
{
    struct domain *domain = data;
    const struct domain_event event = {.type = DOMAIN_EVENT_STOP, .now_ns = world_now_ns()};
    struct fault fault = {0};
    (void)rpc;
    (void)message;

    if (domain->held_bits)
        let_go(domain);
    if (domain->is_over) { /* the agent knows: nothing is left to tell */
        reply_status(domain, request);
        loop_timer_start(domain->end_timer, 0, 0);
        return;
    }
    int r = domain->quit ? fault_set(&fault, ERR_BUSY, "it is being stopped")
                         : step_or_refuse(domain, &event, &fault);
    if (r < 0) {
        reply_fault(request, &fault);
        return;
    }
    domain->quit = request;
    struct ask *ask = ask_new(domain, DOMAIN_CALL_DESTROY, NULL, destroyed);
    if (!ask_send(domain, ask)) {
        (void)fault_set(&fault, ERR_BUSY, "libvirtd of this host does not answer");
        domain->core.stopping = false;
        reply_fault(TAKE(domain->quit), &fault);
    }
}

static uint64_t deadline_of(const struct domain *domain, const Godwit__MoveGoals *goals,
                            uint64_t now_ns)
{
    if (goals && goals->deadline_ms)
        return now_ns + goals->deadline_ms * NS_PER_MS;
    bool finish = goals && goals->policy && strcmp(goals->policy, "finish") == 0;
    uint64_t ms = finish ? DEADLINE_FINISH_MS : DEADLINE_MS;
    ms += (domain->state.memory_bytes >> 30) * DEADLINE_MS_PER_GIB;
    if (goals && goals->bandwidth_bytes_per_s)
        ms += 2000 * (domain->state.memory_bytes / goals->bandwidth_bytes_per_s);
    return now_ns + ms * NS_PER_MS;
}

static void reply_empty(struct rpc_request *request)
{
    static const Godwit__Empty empty = GODWIT__EMPTY__INIT;

    if (request)
        (void)rpc_reply(request, &empty.base);
}

static void handle_move_out(void *data, struct rpc *rpc, struct rpc_request *request,
                            const ProtobufCMessage *message)
{
    struct domain *domain = data;
    const Godwit__MoveOut *order = (const Godwit__MoveOut *)message;
    uint64_t now_ns = world_now_ns();
    struct fault fault = {0};
    (void)rpc;

    struct domain_event event = {
        .type = DOMAIN_EVENT_MOVE_OUT,
        .now_ns = now_ns,
        .move = {.move_id = order->move_id ? order->move_id : "",
                 .generation = order->generation,
                 .deadline_ns = deadline_of(domain, order->goals, now_ns)},
    };
    int r = 0;
    if (!event.move.move_id[0] || strlen(event.move.move_id) >= DOMAIN_CORE_MOVE_ID_SIZE)
        r = fault_set(&fault, ERR_INVALID, "a move without its id");
    if (r == 0 && domain->core.phase != DOMAIN_PLAIN)
        r = fault_set(&fault, ERR_BUSY, "a move has it");
    if (r == 0) {
        forget_move(domain);
        domain->move.out = copy_message(&order->base);
        domain->move.order_ns = now_ns;
        if (!domain->move.out)
            r = fault_set(&fault, ERR_NOMEM, "no memory for a move");
    }
    if (r == 0)
        r = step_or_refuse(domain, &event, &fault);
    if (r < 0)
        reply_fault(request, &fault);
    else
        reply_empty(request);
}

static void handle_move_in(void *data, struct rpc *rpc, struct rpc_request *request,
                           const ProtobufCMessage *message)
{
    struct domain *domain = data;
    const Godwit__MoveIn *order = (const Godwit__MoveIn *)message;
    struct fault fault = {0};
    (void)rpc;

    const struct domain_event event = {
        .type = DOMAIN_EVENT_MOVE_IN,
        .now_ns = world_now_ns(),
        .move = {.move_id = order->move_id ? order->move_id : "", .generation = order->generation},
    };
    int r = 0;
    if (order->psk.len != PSK_BYTES || !event.move.move_id[0] ||
        strlen(event.move.move_id) >= DOMAIN_CORE_MOVE_ID_SIZE)
        r = fault_set(&fault, ERR_INVALID, "a move without its id or key");
    if (r == 0)
        r = step_or_refuse(domain, &event, &fault);
    if (r < 0) {
        reply_fault(request, &fault);
        return;
    }
    memcpy(domain->move.psk, order->psk.data, PSK_BYTES);
    domain->move.has_key = true;
    (void)snprintf(domain->move.target_incarnation, sizeof domain->move.target_incarnation, "%s",
                   order->target_incarnation ? order->target_incarnation : "");
    reply_empty(request);
}

static int judge_verdict(struct domain *domain, const Godwit__MoveVerdict *verdict,
                         struct domain_event *ret_event, struct fault *fault)
{
    if (!verdict->move_id || strcmp(verdict->move_id, domain->core.move_id) != 0)
        return fault_set(fault, ERR_NOT_FOUND, "it is not of move %.40s",
                         verdict->move_id ? verdict->move_id : "");
    switch (verdict->kind) {
    case GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_CANCEL:
        ret_event->type = DOMAIN_EVENT_CANCEL;
        return 0;
    case GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_TAKE:
        ret_event->type = DOMAIN_EVENT_TAKE;
        ret_event->take.generation = verdict->generation;
        return 0;
    case GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_STARTED:
        ret_event->type = DOMAIN_EVENT_STARTED;
        return 0;
    case GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_ABANDON:
        ret_event->type = DOMAIN_EVENT_ABANDON;
        return 0;
    case GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_DROP:
        ret_event->type = DOMAIN_EVENT_DROP;
        return 0;
    case GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_RESUME:
        return fault_set(fault, ERR_STATE,
                         "libvirt has ended the domain here: there is no memory to resume");
    case _GODWIT__MOVE_VERDICT_KIND_IS_INT_SIZE:
    default: /* a number from the wire */
        return fault_set(fault, ERR_UNSUPPORTED, "verdict %d is not known", (int)verdict->kind);
    }
}

static void handle_verdict(void *data, struct rpc *rpc, struct rpc_request *request,
                           const ProtobufCMessage *message)
{
    struct domain *domain = data;
    const Godwit__MoveVerdict *verdict = (const Godwit__MoveVerdict *)message;
    struct domain_event event = {.now_ns = world_now_ns()};
    struct fault fault = {0}, canceled = {0};
    (void)rpc;

    int r = judge_verdict(domain, verdict, &event, &fault);
    if (r == 0 && event.type == DOMAIN_EVENT_STARTED && domain->move.is_transferring) {
        reply_status(domain, request); /* the target's own answer is on its way, and says more */
        return;
    }
    if (r == 0 && event.type == DOMAIN_EVENT_CANCEL) {
        (void)fault_set(&canceled, ERR_CANCELED, "%.200s",
                        verdict->reason ? verdict->reason : "the move was canceled");
        event.fault = &canceled;
    }
    if (r == 0)
        r = step_or_refuse(domain, &event, &fault);
    if (r < 0)
        reply_fault(request, &fault);
    else
        reply_status(domain, request);
}

static void tuned(struct domain *domain, struct ask *ask)
{
    reply_status(domain, ask->request);
}

static void handle_tune(void *data, struct rpc *rpc, struct rpc_request *request,
                        const ProtobufCMessage *message)
{
    struct domain *domain = data;
    const Godwit__MoveTune *tune = (const Godwit__MoveTune *)message;
    struct fault fault = {0};
    (void)rpc;

    if (domain->core.phase != DOMAIN_COPY || !domain->move.out || !tune->goals) {
        (void)fault_set(&fault, ERR_STATE, "no move of it is copying");
        reply_fault(request, &fault);
        return;
    }
    struct move *move = &domain->move;
    virt_view_plan(tune->goals, domain->state.persistent, move->peer_plain, &move->plan);
    if (tune->goals->has_deadline_ms && tune->goals->deadline_ms)
        domain->core.deadline_ns = move->order_ns + tune->goals->deadline_ms * NS_PER_MS;
    struct ask *ask = ask_new(domain, DOMAIN_CALL_TUNE, request, tuned);
    if (ask) {
        ask->call.plan = move->plan;
        if (!ask->call.plan.bandwidth_mib_per_s)
            ask->call.plan.bandwidth_mib_per_s = UINT32_MAX; /* no limit any more */
    }
    (void)ask_send(domain, ask);
}

static void handle_console(void *data, struct rpc *rpc, struct rpc_request *request,
                           const ProtobufCMessage *message)
{
    struct fault fault = {0};
    (void)data;
    (void)rpc;
    (void)message;

    (void)fault_set(&fault, ERR_UNSUPPORTED,
                    "the console of a libvirt domain is not relayed: use virsh console");
    reply_fault(request, &fault);
}

static void handle_input(void *data, struct rpc *rpc, struct rpc_request *request,
                         const ProtobufCMessage *message)
{
    (void)data;
    (void)rpc;
    (void)request;
    (void)message; /* an event, of a console that was never attached */
}

static const struct rpc_method methods[] = {
    {METHOD_VM_STATUS, &godwit__empty__descriptor, handle_status},
    {METHOD_VM_CREATE, &godwit__vm_create__descriptor, handle_create},
    {METHOD_VM_PAUSE, &godwit__vm_action__descriptor, handle_pause},
    {METHOD_VM_RESUME, &godwit__vm_action__descriptor, handle_resume},
    {METHOD_VM_POWER_BUTTON, &godwit__vm_action__descriptor, handle_power_button},
    {METHOD_VM_QUIT, &godwit__vm_action__descriptor, handle_quit},
    {METHOD_VM_MOVE_OUT, &godwit__move_out__descriptor, handle_move_out},
    {METHOD_VM_MOVE_IN, &godwit__move_in__descriptor, handle_move_in},
    {METHOD_VM_MOVE_VERDICT, &godwit__move_verdict__descriptor, handle_verdict},
    {METHOD_VM_MOVE_TUNE, &godwit__move_tune__descriptor, handle_tune},
    {METHOD_VM_CONSOLE_ATTACH, &godwit__console_attach__descriptor, handle_console},
    {METHOD_VM_CONSOLE_INPUT, &godwit__console_data__descriptor, handle_input},
};

static void on_rpc_closed(void *data, struct rpc *rpc, const struct fault *fault)
{
    struct domain *domain = data;
    (void)fault;

    (void)rpc_close(rpc);
    domain->rpc = NULL;
    domain->held_bits = 0;
    loop_timer_start(domain->end_timer, 0, 0); /* the agent has given the VM up */
}

static const struct rpc_service service = {
    .methods = methods, .method_count = ARRAY_COUNT(methods), .on_closed = on_rpc_closed};

/* ---- calls of another host's agent ---- */
static bool is_same_key(const uint8_t *a, const ProtobufCBinaryData *b)
{
    uint8_t differs = 0;

    if (b->len != PSK_BYTES)
        return false;
    for (size_t i = 0; i < PSK_BYTES; i++)
        differs |= a[i] ^ b->data[i];
    return differs == 0;
}

static int judge_peer(const struct domain *domain, const Godwit__PeerMove *message,
                      struct fault *fault)
{
    if (!message->move_id || strcmp(message->move_id, domain->core.move_id) != 0 ||
        !at_target(domain))
        return fault_set(fault, ERR_NOT_FOUND, "no such move brings the domain here");
    if (!domain->move.has_key || !message->has_psk ||
        !is_same_key(domain->move.psk, &message->psk))
        return fault_set(fault, ERR_DENIED, "this is not the source of the move");
    if (!message->target_incarnation ||
        strcmp(message->target_incarnation, domain->move.target_incarnation) != 0)
        return fault_set(fault, ERR_DENIED, "the move is to another life of this host");
    return 0;
}

static void peer_take(struct domain *domain, const Godwit__PeerMove *message,
                      struct rpc_request *request)
{
    const struct domain_event event = {
        .type = DOMAIN_EVENT_TAKE,
        .now_ns = world_now_ns(),
        .take = {.generation = message->generation, .stay_paused = message->stay_paused},
    };
    struct fault fault = {0};

    if (domain->taker_count == WAITERS_MAX) {
        (void)fault_set(&fault, ERR_BUSY, "it is being resumed");
        reply_fault(request, &fault);
        return;
    }
    if (!domain->move.taken_ns)
        domain->move.taken_ns = event.now_ns;
    domain->takers[domain->taker_count++] = request;
    if (step_or_refuse(domain, &event, &fault) < 0) {
        if (domain->taker_count)
            domain->taker_count--;
        reply_fault(request, &fault);
    }
}

void domain_on_peer(struct domain *domain, const Godwit__PeerMove *message,
                    struct rpc_request *request)
{
    Godwit__PeerMoveReply reply = GODWIT__PEER_MOVE_REPLY__INIT;
    const struct domain_event abandon = {.type = DOMAIN_EVENT_ABANDON,
                                         .now_ns = world_now_ns()};
    struct fault fault = {0};

    int r = judge_peer(domain, message, &fault);
    if (r == 0 && message->kind == GODWIT__PEER_MOVE_KIND__PEER_MOVE_TRANSFER) {
        peer_take(domain, message, request);
        return;
    }
    if (r == 0 && message->kind == GODWIT__PEER_MOVE_KIND__PEER_MOVE_ABANDON)
        r = step_or_refuse(domain, &abandon, &fault);
    if (r < 0) {
        reply_fault(request, &fault);
        return;
    }
    reply.has_latch = reply.has_plain = true;
    reply.latch = domain->core.latch;
    reply.libvirt_uri = (char *)(uintptr_t)domain->config.libvirt_uri;
    reply.data_uri = (char *)(uintptr_t)domain->config.data_uri;
    reply.plain = domain->config.plain;
    (void)rpc_reply(request, &reply.base);
}

static void killed(struct domain *domain, struct ask *ask)
{
    if (ask->call.fault.code)
        log_error("domain", "cannot be ended vm=%s: %s", domain->vm_id, ask->call.fault.text);
    see(domain, ask);
}

void domain_kill(struct domain *domain)
{
    domain->core.stopping = true;
    (void)ask_send(domain, ask_new(domain, DOMAIN_CALL_DESTROY, NULL, killed));
}

/* ---- life ---- */
static int open_latch(struct domain *domain, bool inherit, struct fault *fault)
{
    struct latch_record record = {0};
    AUTO_FD int fd = -1;
    int r = 0;

    if (inherit) {
        r = latch_file_read(domain->config.latch_path, &record, fault);
        fd = r == 0 ? open(domain->config.latch_path, O_RDWR | O_CLOEXEC | O_NOFOLLOW) : -1;
        if (r == 0 && fd < 0)
            r = fault_set_errno(fault, ERR_IO, errno, "opening %s", domain->config.latch_path);
    } else {
        r = latch_file_create(domain->config.latch_path, &fd, fault);
    }
    if (r == 0)
        r = latch_file_open(&domain->latch, fd, fault);
    if (r < 0)
        return r;
    (void)TAKE_FD(fd);
    struct domain_core *core = &domain->core;
    core->generation = record.generation;
    core->move_generation = record.move_generation;
    core->latch = (Godwit__Latch)record.latch;
    core->is_resuming = strcmp(record.reason, resuming_words) == 0;
    (void)snprintf(core->move_id, sizeof core->move_id, "%s", record.move_id);
    return 0;
}

static int set_up(struct domain *domain, int fd, bool inherit, struct fault *fault)
{
    int r = open_latch(domain, inherit, fault);
    if (r == 0)
        r = loop_timer_new(&domain->timer, domain->config.loop, timer_fired, domain, fault);
    if (r == 0)
        r = loop_timer_new(&domain->end_timer, domain->config.loop, end_timer_fired, domain, fault);
    if (r == 0)
        r = rpc_new_unix(&domain->rpc, domain->config.loop, fd, &service, domain, fault);
    return r;
}

int domain_new(struct domain **ret_domain, const struct domain_config *config, int fd, bool inherit,
               const struct domain_state *seen, struct fault *fault)
{
    struct domain *domain = calloc(1, sizeof *domain);
    struct holder *holder = calloc(1, sizeof *holder);

    if (!domain || !holder) {
        free(domain);
        free(holder);
        return fault_set(fault, ERR_NOMEM, "no memory for a domain");
    }
    *holder = (struct holder){.domain = domain, .references = 1};
    domain->holder = holder;
    domain->config = *config;
    (void)snprintf(domain->vm_id, sizeof domain->vm_id, "%s", config->vm_id);
    domain->core.sight = SIGHT_OFF;
    int r = set_up(domain, fd, inherit, fault);
    if (r < 0) {
        (void)domain_free(domain);
        return r;
    }
    domain->config.vm_id = domain->config.latch_path = NULL; /* the caller's */
    loop_timer_start(domain->timer, TICK_MS, TICK_MS);
    *ret_domain = domain;
    if (!inherit)
        return 0;
    domain->was_created = true;
    domain->state = *seen;
    domain->core.sight = seen->sight;
    domain->core.how = seen->how;
    const struct domain_event event = {.type = DOMAIN_EVENT_INHERIT,
                                       .now_ns = world_now_ns()};
    step(domain, &event);
    return 0;
}

struct domain *domain_free(struct domain *domain)
{
    if (!domain)
        return NULL;
    domain->holder->domain = NULL;
    holder_unref(domain->holder);
    forget_move(domain); /* and its watch */
    struct fault fault = {0};
    (void)fault_set(&fault, ERR_CLOSED, "the domain has ended here");
    reply_fault(domain->quit, &fault);
    for (size_t i = 0; i < domain->taker_count; i++)
        reply_fault(domain->takers[i], &fault);
    (void)rpc_close(domain->rpc);
    if (domain->timer)
        (void)loop_timer_free(domain->timer);
    if (domain->end_timer)
        (void)loop_timer_free(domain->end_timer);
    (void)latch_file_free(domain->latch);
    if (domain->spec)
        godwit__vm_spec__free_unpacked(domain->spec, NULL);
    free(domain);
    return NULL;
}

const char *domain_id(const struct domain *domain)
{
    return domain->vm_id;
}

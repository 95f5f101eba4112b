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

#include "agent/backend_libvirt/domain_ask.h"
#include "agent/backend_libvirt/domain_console.h"
#include "agent/backend_libvirt/domain_inside.h"
#include "agent/backend_libvirt/domain_orders.h"
#include "agent/backend_libvirt/domain_start.h"
#include "agent/backend_libvirt/domain_tell.h"
#include "agent/backend_libvirt/hypervisor.h"
#include "agent/backend_libvirt/qemu_kill.h"
#include "agent/backend_libvirt/qemu_watch.h"
#include "agent/vm/latch_file.h"
#include "base/failpoint.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/own.h"
#include "base/world.h"
#include "net/rpc.h"
#include "proto/limits.h"
#include "proto/method.h"

enum {
    TICK_MS = 250,
    LINGER_MS = 500,
    JOB_WORD_MS = 3000, /* what libvirt tells of a migration that is over may come after its end */
    KILL_MS = 1500,     /* for libvirt to end a domain that must end; then its QEMU is killed */
    KILL_AGAIN_MS = 500,
};

static const char resuming_words[] = "resuming";

/* ---- latches and moves ---- */
/* Before a latch is durable: a kill here leaves the one before. */
static void reach_latch(Godwit__Latch latch)
{
    switch (latch) {
    case GODWIT__LATCH__LATCH_OUT:
        (void)failpoint(FAILPOINT_DOMAIN_BEFORE_OUT); /* it only acts, as the others */
        break;
    case GODWIT__LATCH__LATCH_GAVE:
        (void)failpoint(FAILPOINT_DOMAIN_BEFORE_GAVE);
        break;
    case GODWIT__LATCH__LATCH_RELEASED:
        (void)failpoint(FAILPOINT_DOMAIN_BEFORE_RELEASED);
        break;
    case GODWIT__LATCH__LATCH_IN:
        (void)failpoint(FAILPOINT_DOMAIN_BEFORE_IN);
        break;
    case GODWIT__LATCH__LATCH_READY:
        (void)failpoint(FAILPOINT_DOMAIN_BEFORE_READY);
        break;
    case GODWIT__LATCH__LATCH_TOOK:
        (void)failpoint(FAILPOINT_DOMAIN_BEFORE_TOOK);
        break;
    case GODWIT__LATCH__LATCH_NONE:
    case GODWIT__LATCH__LATCH_ABORTED:
    case GODWIT__LATCH__LATCH_ABANDONED:
    case _GODWIT__LATCH_IS_INT_SIZE:
        break;
    }
}

void domain_put_latch(struct domain *domain)
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

void domain_forget_move(struct domain *domain)
{
    struct domain_move *move = &domain->move;

    domain->watch = qemu_watch_free(domain->watch);

    if (move->line)
        move->line = domain->config.line_close(move->line);
    if (move->out) {
        explicit_bzero(move->out->psk.data, move->out->psk.len);
        godwit__move_out__free_unpacked(move->out, NULL);
    }
    explicit_bzero(move->psk, sizeof move->psk);
    *move = (struct domain_move){0};
}

/* ---- answers of libvirt ---- */
void domain_saw(struct domain *domain, const struct domain_ask *ask)
{
    const struct domain_state *state = &ask->call.state;

    if (state->sight != SIGHT_UNKNOWN && state->exists)
        domain->state = *state;
    if (domain_start_holds(domain))
        return;
    const struct domain_event event = {.type = DOMAIN_EVENT_SIGHT,
                                       .now_ns = world_now_ns(),
                                       .seen = {.sight = state->sight,
                                                .how = state->how,
                                                .is_fresh = ask->epoch == domain->epoch}};
    domain_step(domain, &event);
}

static void looked(struct domain *domain, struct domain_ask *ask)
{
    domain->is_looking = false;
    domain_saw(domain, ask);
    if (domain->look_again && !domain->is_over) {
        domain->look_again = false;
        domain_look(domain);
    }
}

/* A look that is under way may have seen what was before: then another follows. */
void domain_look(struct domain *domain)
{
    if (domain->is_looking) {
        domain->look_again = true;
        return;
    }
    domain->is_looking =
        domain_ask_send(domain, domain_ask_new(domain, DOMAIN_CALL_LOOK, NULL, looked));
}

static void resumed(struct domain *domain, struct domain_ask *ask)
{
    domain->is_resuming = false;
    if (ask->call.fault.code)
        log_error("domain", "cannot be resumed, trying on vm=%s: %s", domain->vm_id,
                  ask->call.fault.text);
    domain_saw(domain, ask);
}

static void resume(struct domain *domain)
{
    if (!domain->is_resuming)
        domain->is_resuming =
            domain_ask_send(domain, domain_ask_new(domain, DOMAIN_CALL_RESUME, NULL, resumed));
}

static void job_aborted(struct domain *domain, struct domain_ask *ask)
{
    const struct domain_event event = {.type = DOMAIN_EVENT_NO_JOB, .now_ns = world_now_ns()};

    if (ask->call.fault.code != ERR_STATE && ask->call.fault.code != ERR_NOT_FOUND)
        return;
    if (domain->core.is_inherited)
        domain->epoch++;
    domain_step(domain, &event);
}

static void discarded(struct domain *domain, struct domain_ask *ask)
{
    (void)domain;
    if (ask->call.fault.code)
        log_error("domain", "what a move had brought is left over vm=%s: %s", ask->call.vm_id,
                  ask->call.fault.text);
}

static void job_read(struct domain *domain, struct domain_ask *ask)
{
    domain->move.is_asking_job = false;
    if (ask->call.fault.code)
        log_debug("domain", "vm=%s: %s", domain->vm_id, ask->call.fault.text);
    if (!ask->call.fault.code && domain->move.out && !domain->move.is_final_job)
        domain->move.figures.job = ask->call.job;
}

static void ask_job(struct domain *domain)
{
    if (!domain->move.is_asking_job && !domain->move.is_final_job)
        domain->move.is_asking_job =
            domain_ask_send(domain, domain_ask_new(domain, DOMAIN_CALL_JOB, NULL, job_read));
}

static void job_sought(struct domain *domain, struct domain_ask *ask)
{
    const struct domain_event event = {.type = DOMAIN_EVENT_JOBLESS, .now_ns = world_now_ns()};

    domain->move.is_asking_job = false;
    if (ask->call.fault.code == ERR_NOT_FOUND)
        domain_step(domain, &event);
}

static void seek_job(struct domain *domain)
{
    if (!domain->move.is_asking_job)
        domain->move.is_asking_job =
            domain_ask_send(domain, domain_ask_new(domain, DOMAIN_CALL_JOB, NULL, job_sought));
}

/* ---- the source's calls ---- */
static void migrated(struct domain *domain, struct domain_ask *ask)
{
    const struct domain_event event = {.type = DOMAIN_EVENT_MIGRATED,
                                       .now_ns = world_now_ns(),
                                       .fault = ask->call.fault.code ? &ask->call.fault : NULL};

    domain->epoch++;
    log_info("domain", "libvirt's migration is over vm=%s: %s", domain->vm_id,
             ask->call.fault.code ? ask->call.fault.text : "done");
    domain_step(domain, &event);
}

static void migrate(struct domain *domain)
{
    (void)failpoint(FAILPOINT_DOMAIN_MIGRATE); /* it only acts */
    struct domain_move *move = &domain->move;
    struct domain_ask *ask = domain_ask_new(domain, DOMAIN_CALL_MIGRATE, NULL, migrated);
    struct fault fault = {0};

    if (ask) {
        virt_view_plan(move->out->goals, domain->state.persistent, move->figures.peer_plain,
                       &move->figures.plan);
        ask->call.plan = move->figures.plan;
        memcpy(ask->call.libvirt_uri, move->libvirt_uri, sizeof ask->call.libvirt_uri);
        memcpy(ask->call.data_uri, move->data_uri, sizeof ask->call.data_uri);
    }
    if (domain_ask_send(domain, ask))
        return;
    domain->epoch++;
    const struct domain_event event = {
        .type = DOMAIN_EVENT_MIGRATED, .now_ns = world_now_ns(), .fault = &fault};
    (void)fault_set(&fault, ERR_UNREACHABLE, "libvirtd of the source does not answer");
    domain_step(domain, &event);
}

static void copy_uri(char ret_uri[static DOMAIN_URI_SIZE], const char *uri)
{
    (void)snprintf(ret_uri, DOMAIN_URI_SIZE, "%s", uri && strlen(uri) < DOMAIN_URI_SIZE ? uri : "");
}

static void greeted(void *data, const Godwit__PeerMoveReply *reply, const struct fault *fault)
{
    struct domain *domain = data;
    struct domain_event event = {
        .type = DOMAIN_EVENT_GREETED, .now_ns = world_now_ns(), .fault = fault};
    struct fault words = {0};

    if (reply) {
        domain->move.figures.greeted_ns = event.now_ns;
        domain->move.figures.peer_plain = reply->plain && domain->config.plain;
        copy_uri(domain->move.libvirt_uri, reply->libvirt_uri);
        copy_uri(domain->move.data_uri, reply->data_uri);
        if (!domain->move.libvirt_uri[0]) {
            (void)fault_set(&words, ERR_REFUSED, "the target's libvirtd takes no domains");
            event.fault = &words;
        }
    }
    domain_step(domain, &event);
}

static void ask_peer(struct domain *domain, Godwit__PeerMoveKind kind, domain_peer_fn *done)
{
    Godwit__PeerMove message = GODWIT__PEER_MOVE__INIT;
    struct domain_move *move = &domain->move;
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

static void target_said(void *data, const Godwit__PeerMoveReply *reply, const struct fault *fault)
{
    struct domain *domain = data;
    struct domain_event event = {
        .type = DOMAIN_EVENT_TARGET_SAYS, .now_ns = world_now_ns(), .answer = {.fault = fault}};

    domain->move.is_asking_target = false;
    if (reply)
        event.answer.latch = reply->latch;
    else
        log_debug("domain", "the target does not say whether it runs vm=%s: %s", domain->vm_id,
                  fault->text);
    if (event.answer.latch == GODWIT__LATCH__LATCH_TOOK)
        log_warn("domain", "the target runs it, by somebody's hand: what stands here stays vm=%s",
                 domain->vm_id);
    domain_step(domain, &event);
}

static void ask_target(struct domain *domain)
{
    if (domain->move.is_asking_target)
        return;
    domain->move.is_asking_target = true;
    ask_peer(domain, GODWIT__PEER_MOVE_KIND__PEER_MOVE_HELLO, target_said);
}

static void transferred(void *data, const Godwit__PeerMoveReply *reply, const struct fault *fault)
{
    struct domain *domain = data;
    struct domain_event event = {
        .type = DOMAIN_EVENT_TRANSFERRED, .now_ns = world_now_ns(), .answer = {.fault = fault}};

    domain->move.is_transferring = false;
    if (reply) {
        event.answer.latch = reply->latch;
        domain->move.figures.taken_ns = event.now_ns;
        domain->move.figures.resume_ns = reply->resume_ns;
    } else {
        log_debug("domain", "the target has not taken yet vm=%s: %s", domain->vm_id, fault->text);
    }
    domain_step(domain, &event);
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
        domain_forget_move(domain);
}

/* ---- a step ---- */
static void carry_out(struct domain *domain, unsigned bits);

void domain_let_go(struct domain *domain)
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
        domain_let_go(domain);
    else
        domain->config.on_closed(domain->config.data, domain);
}

static void answer_takers(struct domain *domain)
{
    Godwit__PeerMoveReply reply = GODWIT__PEER_MOVE_REPLY__INIT;

    reply.has_latch = true;
    reply.latch = domain->core.latch;
    reply.has_resume_ns = true;
    reply.resume_ns = domain->move.figures.resume_ns;
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
    domain_tell_latch(domain);
    domain->held_bits = bits & last;
    loop_timer_start(domain->end_timer, JOB_WORD_MS, 0);
    return bits & ~last;
}

static void carry_out(struct domain *domain, unsigned bits)
{
    struct domain_core *core = &domain->core;

    if (bits & DOMAIN_TODO_LATCH) {
        reach_latch(core->latch);
        domain_put_latch(domain);
        if (core->latch == GODWIT__LATCH__LATCH_GAVE)
            (void)failpoint(FAILPOINT_DOMAIN_AFTER_GAVE); /* it only acts */
        else if (core->latch == GODWIT__LATCH__LATCH_TOOK && core->phase == DOMAIN_TAKING)
            (void)failpoint(FAILPOINT_DOMAIN_AFTER_TOOK); /* it only acts */
    }
    if ((bits & DOMAIN_TODO_LATCH) && core->phase != DOMAIN_OVER)
        domain_tell_latch(domain);
    bits = hold(domain, bits);
    if (bits & DOMAIN_TODO_RESUME) /* before anything is told: this is inside the pause */
        resume(domain);
    if (bits & DOMAIN_TODO_TRANSFER)
        transfer(domain);
    if (bits & DOMAIN_TODO_MOVE_ENDED)
        domain_tell_move_ended(domain);
    if (core->phase != DOMAIN_INCOMING && core->phase != DOMAIN_TAKING && domain->taker_count)
        answer_takers(domain);
    if ((bits & DOMAIN_TODO_TELL) && !(bits & DOMAIN_TODO_OVER))
        domain_tell_state(domain);
    if (bits & DOMAIN_TODO_ABANDON)
        ask_peer(domain, GODWIT__PEER_MOVE_KIND__PEER_MOVE_ABANDON, abandon_told);
    if (bits & DOMAIN_TODO_GREET)
        ask_peer(domain, GODWIT__PEER_MOVE_KIND__PEER_MOVE_HELLO, greeted);
    if (bits & DOMAIN_TODO_MIGRATE)
        migrate(domain);
    if (bits & DOMAIN_TODO_ABORT_JOB)
        (void)domain_ask_send(domain,
                              domain_ask_new(domain, DOMAIN_CALL_ABORT_JOB, NULL, job_aborted));
    if (bits & DOMAIN_TODO_ASK_JOB)
        seek_job(domain);
    if (bits & DOMAIN_TODO_ASK_TARGET)
        ask_target(domain);
    if (bits & DOMAIN_TODO_LOOK)
        domain_look(domain);
    if (bits & DOMAIN_TODO_DISCARD)
        (void)domain_ask_send(domain, domain_ask_new(domain, DOMAIN_CALL_DISCARD, NULL, discarded));
    if ((bits & DOMAIN_TODO_OVER) && !domain->is_over) {
        domain->is_over = true;
        /* That it stopped or crashed is told by its end, when it may be started again. */
        if (domain->was_created && core->ending == DOMAIN_ENDED_GONE)
            domain_tell_state(domain);
        if (domain->quit)
            domain_tell_reply(domain, TAKE(domain->quit));
        /* Whoever asks meanwhile is answered that it has ended, and must be able to start it. */
        bool lingers = core->ending == DOMAIN_ENDED_GONE && !domain->is_dismissed;
        loop_timer_start(domain->end_timer, lingers ? LINGER_MS : 0, 0);
    }
}

int domain_step_or_refuse(struct domain *domain, const struct domain_event *event,
                          struct fault *fault)
{
    struct domain_todo todo = {0};
    enum domain_phase was = domain->core.phase;

    int r = domain_core_step(&domain->core, event, &todo, fault);
    if (domain->core.phase != was)
        log_debug("domain", "phase %s -> %s vm=%s", domain_phase_name(was),
                  domain_phase_name(domain->core.phase), domain->vm_id);
    if (domain->core.phase == DOMAIN_GIVEN && was != DOMAIN_GIVEN)
        domain->move.figures.off_ns = event->now_ns;
    carry_out(domain, todo.bits);
    return r;
}

void domain_step(struct domain *domain, const struct domain_event *event)
{
    struct fault fault = {0};

    if (domain_step_or_refuse(domain, event, &fault) < 0)
        log_debug("domain", "vm=%s: %s", domain->vm_id, fault.text);
}

static void timer_fired(void *data)
{
    struct domain *domain = data;
    const struct domain_event event = {.type = DOMAIN_EVENT_TICK, .now_ns = world_now_ns()};

    domain_start_tick(domain);
    if (domain->is_over || !domain_core_is_moving(&domain->core))
        return;
    if (domain->core.phase == DOMAIN_COPY)
        ask_job(domain);
    if (domain->move.out)
        domain_tell_progress(domain);
    domain_step(domain, &event);
}

/* ---- the end of the source's QEMU, before libvirt tells it ---- */
static void on_qemu_ended(void *data)
{
    struct domain *domain = data;
    const struct domain_event event = {.type = DOMAIN_EVENT_SIGHT,
                                       .now_ns = world_now_ns(),
                                       .seen = {.sight = SIGHT_OFF, .is_fresh = true}};

    if (domain->core.phase == DOMAIN_COPY || domain->core.phase == DOMAIN_SETTLE)
        domain_step(domain, &event);
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

    if (state->exists && (state->sight == domain->core.sight || domain->start.order))
        domain->state = *state;
    if (is_news && !domain->is_over && !domain_start_holds(domain))
        domain_look(domain);
}

void domain_on_event(struct domain *domain, int event, int detail)
{
    struct domain_event step_event = {
        .type = DOMAIN_EVENT_SIGHT,
        .now_ns = world_now_ns(),
        /* Events come in their order; one of before the end of a migration's call may come after it. */
        .seen = {.is_fresh = domain->core.phase == DOMAIN_PLAIN}};
    bool was_off = domain->core.sight == SIGHT_OFF;

    if (domain_start_holds(domain))
        return;
    if (virt_view_event(event, detail, &step_event.seen.sight, &step_event.seen.how)) {
        if (step_event.seen.sight == SIGHT_MIGRATING && domain->move.out)
            (void)failpoint(FAILPOINT_DOMAIN_STOPPED); /* it only acts */
        if (step_event.seen.sight == SIGHT_MIGRATING) {
            domain->move.figures.stopped_ns = step_event.now_ns;
            watch_qemu(domain);
        }
        /* An arrival is not whole by an event alone: see domain_core. */
        bool certain =
            domain->core.phase != DOMAIN_INCOMING || step_event.seen.sight != SIGHT_MIGRATING;
        if (certain)
            domain_step(domain, &step_event);
        if (was_off && domain->core.sight != SIGHT_OFF)
            domain->epoch++;
    }
    if (!domain->is_over)
        domain_look(domain);
}

void domain_on_job(struct domain *domain, const struct virt_job *job)
{
    /* Figures without a byte are not this migration's: those of the one that brought it may come late. */
    if (!domain->move.out || job->data_total == 0)
        return;
    domain->move.figures.job = *job;
    domain->move.is_final_job = true;
    if (domain->held_bits)
        domain_let_go(domain);
}

void domain_on_agent_gone(void *data, struct rpc *rpc, const struct fault *fault)
{
    struct domain *domain = data;
    (void)fault;

    (void)rpc_close(rpc);
    domain->rpc = NULL;
    domain->held_bits = 0;
    loop_timer_start(domain->end_timer, 0, 0); /* the agent has given the VM up */
}

/* ---- calls of another host's agent ---- */
static bool is_same_key(const uint8_t *a, const ProtobufCBinaryData *b)
{
    uint8_t differs = 0;

    if (b->len != DOMAIN_PSK_BYTES)
        return false;
    for (size_t i = 0; i < DOMAIN_PSK_BYTES; i++)
        differs |= a[i] ^ b->data[i];
    return differs == 0;
}

static int judge_peer(const struct domain *domain, const Godwit__PeerMove *message,
                      struct fault *fault)
{
    if (!message->move_id || strcmp(message->move_id, domain->core.move_id) != 0 ||
        !domain_is_at_target(domain))
        return fault_set(fault, ERR_NOT_FOUND, "no such move brings the domain here");
    if (!domain->move.has_key || !message->has_psk || !is_same_key(domain->move.psk, &message->psk))
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

    if (domain->taker_count == DOMAIN_TAKERS_MAX) {
        (void)fault_set(&fault, ERR_BUSY, "it is being resumed");
        domain_tell_refusal(request, &fault);
        return;
    }
    if (!domain->move.figures.taken_ns)
        domain->move.figures.taken_ns = event.now_ns;
    domain->takers[domain->taker_count++] = request;
    if (domain_step_or_refuse(domain, &event, &fault) < 0) {
        if (domain->taker_count)
            domain->taker_count--;
        domain_tell_refusal(request, &fault);
    }
}

void domain_on_peer(struct domain *domain, const Godwit__PeerMove *message,
                    struct rpc_request *request)
{
    Godwit__PeerMoveReply reply = GODWIT__PEER_MOVE_REPLY__INIT;
    const struct domain_event abandon = {.type = DOMAIN_EVENT_ABANDON, .now_ns = world_now_ns()};
    struct fault fault = {0};

    int r = judge_peer(domain, message, &fault);
    if (r == 0 && message->kind == GODWIT__PEER_MOVE_KIND__PEER_MOVE_TRANSFER) {
        peer_take(domain, message, request);
        return;
    }
    if (r == 0 && message->kind == GODWIT__PEER_MOVE_KIND__PEER_MOVE_ABANDON)
        r = domain_step_or_refuse(domain, &abandon, &fault);
    if (r < 0) {
        domain_tell_refusal(request, &fault);
        return;
    }
    reply.has_latch = reply.has_plain = true;
    reply.latch = domain->core.latch;
    reply.libvirt_uri = (char *)(uintptr_t)domain->config.libvirt_uri;
    reply.data_uri = (char *)(uintptr_t)domain->config.data_uri;
    reply.plain = domain->config.plain;
    (void)rpc_reply(request, &reply.base);
}

/* ---- the end, whatever else is going on ---- */
static void on_killed_qemu_ended(void *data)
{
    struct domain *domain = data;
    const struct domain_event event = {
        .type = DOMAIN_EVENT_SIGHT,
        .now_ns = world_now_ns(),
        .seen = {.sight = SIGHT_OFF, .how = HOW_DESTROYED, .is_fresh = true}};

    if (domain_start_holds(domain)) { /* libvirt may be about to begin it once more: its word is awaited */
        domain->start.has_run = true;
        domain->state.pid = 0;
        return;
    }
    domain_step(domain, &event);
}

/* No libvirtd, or one that does not come to its end: then the process itself. */
static void kill_qemu(struct domain *domain)
{
    struct fault fault = {0};
    int32_t pid = domain->state.pid;

    int r = qemu_kill(pid, domain->vm_id, &fault);
    if (r == 0 && !domain->kill_watch && !qemu_watch_is_ending(pid))
        r = qemu_watch_new(&domain->kill_watch, domain->config.loop, pid, on_killed_qemu_ended,
                           domain, &fault);
    else if (r == 0 && !domain->kill_watch)
        on_killed_qemu_ended(domain);
    if (r < 0 && !domain->is_kill_told)
        log_error("domain", "cannot be ended vm=%s: %s", domain->vm_id, fault.text);
    else if (r == 0 && !domain->is_kill_told)
        log_warn("domain", "libvirtd does not end it: its QEMU is killed vm=%s pid=%d",
                 domain->vm_id, pid);
    domain->is_kill_told = true;
}

static void killed(struct domain *domain, struct domain_ask *ask)
{
    domain->is_killing = false;
    if (ask->call.fault.code)
        log_error("domain", "libvirt cannot end it vm=%s: %s", domain->vm_id, ask->call.fault.text);
    domain_saw(domain, ask);
    if (ask->call.fault.code && !domain->is_over)
        kill_qemu(domain);
    if (!domain->is_over)
        domain_start_ended(domain, ask);
}

void domain_kill(struct domain *domain)
{
    uint64_t now_ns = world_now_ns();
    struct domain_ask *ask;

    if (domain->is_over)
        return;
    domain->core.stopping = true;
    if (!domain->kill_ns)
        domain->kill_ns = now_ns;
    if (!domain->is_killing && now_ns - domain->kill_asked_ns > KILL_AGAIN_MS * NS_PER_MS) {
        domain->kill_asked_ns = now_ns;
        ask = domain_ask_new(domain, DOMAIN_CALL_DESTROY, NULL, killed);
        if (ask)
            ask->call.settles = domain->start.order != NULL;
        domain->is_killing = domain_ask_send(domain, ask);
    }
    bool has_qemu = domain->state.pid > 0 || !domain->start.order;
    if (has_qemu && (!hypervisor_is_up(domain->config.hypervisor) ||
                     now_ns - domain->kill_ns > KILL_MS * NS_PER_MS))
        kill_qemu(domain);
}

bool domain_is_moving(const struct domain *domain)
{
    return domain_core_is_moving(&domain->core);
}

bool domain_is_undefined(const struct domain *domain)
{
    const struct domain_core *core = &domain->core;

    return core->phase == DOMAIN_PLAIN && core->generation && core->sight != SIGHT_OFF &&
           domain->state.exists && !domain->state.persistent;
}

/* ---- life ---- */
static void on_console_output(void *data, const uint8_t *bytes, size_t count)
{
    struct domain *domain = data;
    Godwit__ConsoleData event = GODWIT__CONSOLE_DATA__INIT;

    event.vm_id = domain->vm_id;
    event.has_data = true;
    event.data.data = (uint8_t *)(uintptr_t)bytes; /* protobuf-c knows no const */
    event.data.len = count;
    if (domain->rpc)
        (void)rpc_send_event(domain->rpc, METHOD_VM_CONSOLE_OUTPUT, &event.base, NULL);
}

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
    const struct domain_console_config console = {.loop = domain->config.loop,
                                                  .hypervisor = domain->config.hypervisor,
                                                  .vm_id = domain->vm_id,
                                                  .on_output = on_console_output,
                                                  .data = domain};
    if (r == 0)
        r = domain_console_new(&domain->console, &console, fault);
    if (r == 0)
        r = rpc_new_unix(&domain->rpc, domain->config.loop, fd, &domain_orders_service, domain,
                         fault);
    return r;
}

int domain_new(struct domain **ret_domain, const struct domain_config *config, int fd, bool inherit,
               const struct domain_state *seen, struct fault *fault)
{
    struct domain *domain = calloc(1, sizeof *domain);
    struct domain_holder *holder = calloc(1, sizeof *holder);

    if (!domain || !holder) {
        free(domain);
        free(holder);
        return fault_set(fault, ERR_NOMEM, "no memory for a domain");
    }
    *holder = (struct domain_holder){.domain = domain, .references = 1};
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
    const struct domain_event event = {.type = DOMAIN_EVENT_INHERIT, .now_ns = world_now_ns()};
    domain_step(domain, &event);
    return 0;
}

struct domain *domain_free(struct domain *domain)
{
    if (!domain)
        return NULL;
    domain->holder->domain = NULL;
    domain_holder_unref(domain->holder);
    domain_forget_move(domain); /* and its watch */
    domain->kill_watch = qemu_watch_free(domain->kill_watch);
    domain->console = domain_console_free(domain->console);
    struct fault fault = {0};
    (void)fault_set(&fault, ERR_CLOSED, "the domain has ended here");
    domain_tell_refusal(domain->quit, &fault);
    domain_start_deinit(domain);
    for (size_t i = 0; i < domain->taker_count; i++)
        domain_tell_refusal(domain->takers[i], &fault);
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

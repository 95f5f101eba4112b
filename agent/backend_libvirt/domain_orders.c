/* Most orders are one call to libvirt, answered with the domain's status when it is over; those
 * about a move are events of the core. */
#include "agent/backend_libvirt/domain_orders.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/backend_libvirt/domain_ask.h"
#include "agent/backend_libvirt/domain_console.h"
#include "agent/backend_libvirt/domain_inside.h"
#include "agent/backend_libvirt/domain_start.h"
#include "agent/backend_libvirt/domain_tell.h"
#include "base/failpoint.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/own.h"
#include "base/world.h"
#include "proto/limits.h"
#include "proto/method.h"

enum {
    DEADLINE_MS = 10 * 60 * 1000,
    DEADLINE_FINISH_MS = 60 * 60 * 1000,
    DEADLINE_MS_PER_GIB = 20000,
};

static void acted(struct domain *domain, struct domain_ask *ask)
{
    domain_saw(domain, ask);
    if (ask->call.fault.code)
        domain_tell_refusal(ask->request, &ask->call.fault);
    else
        domain_tell_reply(domain, ask->request);
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
        domain_tell_refusal(request, &fault);
        return;
    }
    (void)domain_ask_send(domain, domain_ask_new(domain, kind, request, acted));
}

static void handle_status(void *data, struct rpc *rpc, struct rpc_request *request,
                          const ProtobufCMessage *message)
{
    (void)rpc;
    (void)message;
    domain_tell_reply(data, request);
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

static void handle_reboot(void *data, struct rpc *rpc, struct rpc_request *request,
                          const ProtobufCMessage *message)
{
    (void)rpc;
    (void)message;
    act(data, DOMAIN_CALL_REBOOT, request);
}

static void handle_reset(void *data, struct rpc *rpc, struct rpc_request *request,
                         const ProtobufCMessage *message)
{
    (void)rpc;
    (void)message;
    act(data, DOMAIN_CALL_RESET, request);
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
    domain->spec = order->spec ? domain_ask_copy(&order->spec->base) : NULL;
    if (!domain->spec) {
        (void)fault_set(&fault, ERR_INVALID, "a domain without a description");
        domain_tell_refusal(request, &fault);
        return;
    }
    if (!order->incoming) {
        domain_start_begin(domain, order, request);
        return;
    }
    domain->was_created = true;
    (void)domain_ask_send(domain, domain_ask_new(domain, DOMAIN_CALL_CHECK, request, acted));
}

static void destroyed(struct domain *domain, struct domain_ask *ask)
{
    if (ask->call.fault.code) {
        domain->core.stopping = false;
        domain_tell_refusal(TAKE(domain->quit), &ask->call.fault);
    }
    domain_saw(domain, ask);
}

static void handle_quit(void *data, struct rpc *rpc, struct rpc_request *request,
                        const ProtobufCMessage *message)
{
    struct domain *domain = data;
    const struct domain_event event = {.type = DOMAIN_EVENT_STOP, .now_ns = world_now_ns()};
    struct fault fault = {0};
    (void)rpc;
    (void)message;

    if (domain->held_bits && !request) { /* the agent knows; the receipt's figures are on their way */
        domain->is_dismissed = true;
        return;
    }
    if (domain->held_bits)
        domain_let_go(domain);
    if (domain->is_over) { /* the agent knows: nothing is left to tell */
        domain_tell_reply(domain, request);
        loop_timer_start(domain->end_timer, 0, 0);
        return;
    }
    int r = domain->quit ? fault_set(&fault, ERR_BUSY, "it is being stopped")
                         : domain_step_or_refuse(domain, &event, &fault);
    if (r < 0) {
        domain_tell_refusal(request, &fault);
        return;
    }
    domain->quit = request;
    struct domain_ask *ask = domain_ask_new(domain, DOMAIN_CALL_DESTROY, NULL, destroyed);
    if (!domain_ask_send(domain, ask)) {
        (void)fault_set(&fault, ERR_BUSY, "libvirtd of this host does not answer");
        domain->core.stopping = false;
        domain_tell_refusal(TAKE(domain->quit), &fault);
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
    int r = failpoint_reload(&fault); /* nothing, but in a test's agent */
    if (r == 0 &&
        (!event.move.move_id[0] || strlen(event.move.move_id) >= DOMAIN_CORE_MOVE_ID_SIZE))
        r = fault_set(&fault, ERR_INVALID, "a move without its id");
    if (r == 0 && domain->core.phase != DOMAIN_PLAIN)
        r = fault_set(&fault, ERR_BUSY, "a move has it");
    if (r == 0) {
        domain_forget_move(domain);
        domain->move.out = domain_ask_copy(&order->base);
        domain->move.figures.order_ns = now_ns;
        if (!domain->move.out)
            r = fault_set(&fault, ERR_NOMEM, "no memory for a move");
    }
    if (r == 0)
        r = domain_step_or_refuse(domain, &event, &fault);
    if (r < 0)
        domain_tell_refusal(request, &fault);
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
    int r = failpoint_reload(&fault); /* nothing, but in a test's agent */
    if (r == 0 && (order->psk.len != DOMAIN_PSK_BYTES || !event.move.move_id[0] ||
                   strlen(event.move.move_id) >= DOMAIN_CORE_MOVE_ID_SIZE))
        r = fault_set(&fault, ERR_INVALID, "a move without its id or key");
    if (r == 0)
        r = domain_step_or_refuse(domain, &event, &fault);
    if (r < 0) {
        domain_tell_refusal(request, &fault);
        return;
    }
    memcpy(domain->move.psk, order->psk.data, DOMAIN_PSK_BYTES);
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
        /* The target is proven to be out of it, and libvirt has ended the domain here: there is no
         * memory to go on from. As if the target itself had said so. */
        ret_event->type = DOMAIN_EVENT_TRANSFERRED;
        ret_event->answer.latch = GODWIT__LATCH__LATCH_ABANDONED;
        return 0;
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
        domain_tell_reply(domain,
                          request); /* the target's own answer is on its way, and says more */
        return;
    }
    if (r == 0 && event.type == DOMAIN_EVENT_CANCEL) {
        (void)fault_set(&canceled, ERR_CANCELED, "%.200s",
                        verdict->reason ? verdict->reason : "the move was canceled");
        event.fault = &canceled;
    }
    if (r == 0)
        r = domain_step_or_refuse(domain, &event, &fault);
    if (r < 0)
        domain_tell_refusal(request, &fault);
    else
        domain_tell_reply(domain, request);
}

static void tuned(struct domain *domain, struct domain_ask *ask)
{
    domain_tell_reply(domain, ask->request);
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
        domain_tell_refusal(request, &fault);
        return;
    }
    struct domain_move *move = &domain->move;
    virt_view_plan(tune->goals, domain->state.persistent, move->figures.peer_plain,
                   &move->figures.plan);
    if (tune->goals->has_deadline_ms && tune->goals->deadline_ms)
        domain->core.deadline_ns = move->figures.order_ns + tune->goals->deadline_ms * NS_PER_MS;
    struct domain_ask *ask = domain_ask_new(domain, DOMAIN_CALL_TUNE, request, tuned);
    if (ask) {
        ask->call.plan = move->figures.plan;
        if (!ask->call.plan.bandwidth_mib_per_s)
            ask->call.plan.bandwidth_mib_per_s = UINT32_MAX; /* no limit any more */
    }
    (void)domain_ask_send(domain, ask);
}

static void handle_console(void *data, struct rpc *rpc, struct rpc_request *request,
                           const ProtobufCMessage *message)
{
    struct domain *domain = data;
    (void)rpc;

    domain_console_attach(domain->console, (const Godwit__ConsoleAttach *)message, request);
}

static void handle_input(void *data, struct rpc *rpc, struct rpc_request *request,
                         const ProtobufCMessage *message)
{
    struct domain *domain = data;
    const Godwit__ConsoleData *input = (const Godwit__ConsoleData *)message;
    (void)rpc;
    (void)request; /* an event */

    size_t taken = domain_console_input(domain->console, input->data.data, input->data.len);
    if (taken < input->data.len)
        log_warn("domain", "%zu bytes of console input dropped vm=%s", input->data.len - taken,
                 domain->vm_id);
}

static const struct rpc_method methods[] = {
    {METHOD_VM_STATUS, &godwit__empty__descriptor, handle_status},
    {METHOD_VM_CREATE, &godwit__vm_create__descriptor, handle_create},
    {METHOD_VM_PAUSE, &godwit__vm_action__descriptor, handle_pause},
    {METHOD_VM_RESUME, &godwit__vm_action__descriptor, handle_resume},
    {METHOD_VM_POWER_BUTTON, &godwit__vm_action__descriptor, handle_power_button},
    {METHOD_VM_REBOOT, &godwit__vm_action__descriptor, handle_reboot},
    {METHOD_VM_RESET, &godwit__vm_action__descriptor, handle_reset},
    {METHOD_VM_QUIT, &godwit__vm_action__descriptor, handle_quit},
    {METHOD_VM_MOVE_OUT, &godwit__move_out__descriptor, handle_move_out},
    {METHOD_VM_MOVE_IN, &godwit__move_in__descriptor, handle_move_in},
    {METHOD_VM_MOVE_VERDICT, &godwit__move_verdict__descriptor, handle_verdict},
    {METHOD_VM_MOVE_TUNE, &godwit__move_tune__descriptor, handle_tune},
    {METHOD_VM_CONSOLE_ATTACH, &godwit__console_attach__descriptor, handle_console},
    {METHOD_VM_CONSOLE_INPUT, &godwit__console_data__descriptor, handle_input},
};

const struct rpc_service domain_orders_service = {
    .methods = methods, .method_count = ARRAY_COUNT(methods), .on_closed = domain_on_agent_gone};

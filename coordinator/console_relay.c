/* One session a viewer. The agent is told to attach with the session's number; output is passed to
 * the session it names, or to all of the VM when it names none. */
#include "coordinator/console_relay.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/log.h"
#include "base/world.h"
#include "coordinator/agent_link.h"
#include "coordinator/api.h"
#include "coordinator/cluster_view.h"
#include "coordinator/words.h"
#include "proto/limits.h"
#include "proto/method.h"

enum { ATTACH_MS = 5000 };

struct console_session {
    struct console_session *next;
    struct peer *peer; /* the operator's */
    uint64_t number;
    char vm_id[ID_TEXT_SIZE];
    char host[OWN_HOST_SIZE]; /* where it is attached, "" while it is nowhere */
};

static struct console_session *find(struct coordinator *coordinator, uint64_t number)
{
    struct console_session *session = coordinator->sessions;
    while (session && session->number != number)
        session = session->next;
    return session;
}

static void remove_session(struct coordinator *coordinator, struct console_session *session)
{
    struct console_session **link = &coordinator->sessions;
    while (*link != session)
        link = &(*link)->next;
    *link = session->next;
    free(session);
}

static void send_data(struct console_session *session, const ProtobufCBinaryData *data,
                      const char *reason)
{
    Godwit__VmConsoleData event = GODWIT__VM_CONSOLE_DATA__INIT;
    event.has_session = true;
    event.session = session->number;
    if (data) {
        event.has_data = true;
        event.data = *data;
    }
    if (reason) {
        event.has_ended = event.ended = true;
        event.reason = (char *)(uintptr_t)reason; /* protobuf-c knows no const */
    }
    (void)rpc_send_event(session->peer->rpc, METHOD_VM_CONSOLE_DATA, &event.base,
                         NULL); /* a viewer that went away is noticed by on_closed */
}

/* What became of typed bytes: as the agent tells, or none of them was passed on. */
static void tell_taken(struct peer *peer, uint64_t number, uint64_t stream, bool unknown,
                       uint64_t taken)
{
    Godwit__VmConsoleData event = GODWIT__VM_CONSOLE_DATA__INIT;
    event.has_session = event.has_stream = true;
    event.session = number;
    event.stream = stream;
    event.has_unknown = event.unknown = unknown;
    event.has_taken = !unknown;
    event.taken = taken;
    (void)rpc_send_event(peer->rpc, METHOD_VM_CONSOLE_DATA, &event.base, NULL); /* see send_data */
}

/* ---- attaching --------------------------------------------------------------------------------
 */

struct attaching {
    struct coordinator *coordinator;
    uint64_t number;
};

static void on_attached(void *data, const ProtobufCMessage *reply, const struct fault *fault,
                        enum agent_link_fate fate)
{
    struct attaching *attaching = data;
    struct console_session *session = find(attaching->coordinator, attaching->number);
    if (session && reply) {
        const Godwit__ConsoleData *last = (const Godwit__ConsoleData *)reply;
        if (last->has_data)
            send_data(session, &last->data, NULL); /* also of no bytes: its viewer waits for it */
    } else if (session) {
        log_debug("console_relay", "attaching failed session=%llu: %s",
                  (unsigned long long)session->number, fault->text);
        session->host[0] = '\0'; /* the next step tries again */
        if (fate == AGENT_LINK_REFUSED && fault->code == ERR_UNSUPPORTED) {
            send_data(session, NULL, fault->text); /* and would hear the same for ever */
            remove_session(attaching->coordinator, session);
        }
    }
    free(attaching);
}

static void on_detached(void *data, const ProtobufCMessage *reply, const struct fault *fault,
                        enum agent_link_fate fate)
{
    (void)data;
    (void)reply;
    (void)fault; /* an agent that is gone has no session either */
    (void)fate;
}

static void attach(struct coordinator *coordinator, struct console_session *session,
                   const char *host)
{
    struct attaching *attaching = calloc(1, sizeof *attaching);
    if (!attaching)
        return;
    attaching->coordinator = coordinator;
    attaching->number = session->number;
    WORDS_COPY(session->host, host);
    Godwit__ConsoleAttach order = GODWIT__CONSOLE_ATTACH__INIT;
    order.vm_id = session->vm_id;
    order.has_on = order.on = true;
    order.has_session = true;
    order.session = session->number;
    agent_link_call(coordinator, host, METHOD_ORDER_CONSOLE_ATTACH, &order.base,
                    &godwit__console_data__descriptor, ATTACH_MS, on_attached, attaching);
}

static void detach(struct coordinator *coordinator, struct console_session *session)
{
    if (!session->host[0] || !agent_link_find(coordinator, session->host))
        return;
    Godwit__ConsoleAttach order = GODWIT__CONSOLE_ATTACH__INIT;
    order.vm_id = session->vm_id;
    order.has_on = true;
    order.has_session = true;
    order.session = session->number;
    agent_link_call(coordinator, session->host, METHOD_ORDER_CONSOLE_ATTACH, &order.base,
                    &godwit__console_data__descriptor, ATTACH_MS, on_detached, NULL);
    session->host[0] = '\0';
}

/* ---- handlers ---------------------------------------------------------------------------------
 */

/* Its host's agent is here, or was a moment ago: an agent or a coordinator that has just begun anew
 * is no reason to refuse, the session waits for the link. */
static bool has_console(struct coordinator *coordinator, const struct cluster_vm *vm)
{
    if (vm->own.phase == OWN_STOPPED)
        return false;
    if (agent_link_find(coordinator, vm->own.owner))
        return true;
    const struct cluster_host *host = cluster_host(&coordinator->cluster, vm->own.owner);
    return host && cluster_host_state(host, coordinator_now().ns) != HOST_DOWN &&
           !own_is_lost(&vm->own);
}

void console_relay_open(struct peer *peer, struct rpc_request *request, const void *message)
{
    struct coordinator *coordinator = peer->coordinator;
    const Godwit__VmConsoleRequest *wanted = message;
    struct problem problem;
    const struct cluster_vm *vm =
        cluster_find_vm(&coordinator->cluster, wanted->vm ? wanted->vm : "", &problem);
    if (!vm) {
        api_reply_problem_as_fault(request, &problem, ERR_NOT_FOUND);
        return;
    }
    struct fault fault = {0};
    if (!has_console(coordinator, vm)) {
        char place[128];
        cluster_vm_place(&coordinator->cluster, vm, coordinator_now().ns, place, sizeof place);
        fault_set(&fault, ERR_STATE, "%s has no console now; it is %s", vm->spec->name, place);
        fault_hint(&fault, "godwit vm logs %s", vm->spec->name);
        (void)rpc_reply_fault(request, &fault);
        return;
    }
    struct console_session *session = calloc(1, sizeof *session);
    if (!session) {
        fault_set(&fault, ERR_NOMEM, "no memory for a console session");
        (void)rpc_reply_fault(request, &fault);
        return;
    }
    session->peer = peer;
    session->number = ++coordinator->last_session;
    WORDS_COPY(session->vm_id, vm->id);
    session->next = coordinator->sessions;
    coordinator->sessions = session;

    Godwit__VmInfo info;
    Godwit__VmConsoleReply reply = GODWIT__VM_CONSOLE_REPLY__INIT;
    cluster_vm_info(&coordinator->cluster, vm, coordinator_now().ns, &info);
    reply.has_session = true;
    reply.session = session->number;
    reply.vm = &info;
    (void)rpc_reply(request, &reply.base);
    if (agent_link_find(coordinator, vm->own.owner))
        attach(coordinator, session, vm->own.owner); /* else console_relay_follow does */
}

void console_relay_input(struct peer *peer, struct rpc_request *request, const void *message)
{
    (void)request;
    struct coordinator *coordinator = peer->coordinator;
    const Godwit__VmConsoleData *event = message;
    struct console_session *session = find(coordinator, event->session);
    if (!session || session->peer != peer)
        return; /* of a session that ended meanwhile */
    if (event->ended) {
        detach(coordinator, session);
        remove_session(coordinator, session);
        return;
    }
    struct peer *agent = session->host[0] ? agent_link_find(coordinator, session->host) : NULL;
    if (!event->has_data || event->data.len > CONSOLE_CHUNK_MAX)
        return;
    if (!agent) { /* typed into a VM that is nobody's just now: the viewer keeps it */
        if (event->stream)
            tell_taken(peer, session->number, event->stream, false, event->at);
        return;
    }
    Godwit__ConsoleData input = GODWIT__CONSOLE_DATA__INIT;
    input.vm_id = session->vm_id;
    input.has_data = true;
    input.data = event->data;
    input.has_session = true;
    input.session = session->number;
    input.has_stream = event->has_stream;
    input.stream = event->stream;
    input.has_at = event->has_at;
    input.at = event->at;
    input.has_again = event->has_again;
    input.again = event->again;
    (void)rpc_send_event(agent->rpc, METHOD_ORDER_CONSOLE_INPUT, &input.base, NULL);
}

void console_relay_output(struct peer *peer, struct rpc_request *request, const void *message)
{
    (void)request;
    const Godwit__ConsoleData *event = message;
    if (!event->vm_id)
        return;
    if (event->stream) {
        const struct console_session *typed = find(peer->coordinator, event->session);
        if (typed && strcmp(typed->vm_id, event->vm_id) == 0)
            tell_taken(typed->peer, typed->number, event->stream, event->unknown, event->taken);
        return;
    }
    if (!event->has_data || event->data.len == 0)
        return;
    for (struct console_session *session = peer->coordinator->sessions; session;
         session = session->next) {
        bool is_meant = !event->session || event->session == session->number;
        if (is_meant && strcmp(session->vm_id, event->vm_id) == 0 &&
            strcmp(session->host, peer->host) == 0)
            send_data(session, &event->data, NULL);
    }
}

void console_relay_follow(struct coordinator *coordinator)
{
    struct console_session *session = coordinator->sessions, *next;
    for (; session; session = next) {
        next = session->next;
        const struct cluster_vm *vm = cluster_vm(&coordinator->cluster, session->vm_id);
        if (!vm || vm->own.phase == OWN_STOPPED) {
            send_data(session, NULL,
                      !vm           ? "the VM was removed"
                      : vm->crashed ? "the VM crashed"
                                    : "the VM stopped");
            remove_session(coordinator, session);
        } else if (strcmp(session->host, vm->own.owner) != 0 &&
                   agent_link_find(coordinator, vm->own.owner)) {
            detach(coordinator, session);
            attach(coordinator, session, vm->own.owner);
        }
    }
}

void console_relay_peer_gone(struct peer *peer)
{
    struct coordinator *coordinator = peer->coordinator;
    struct console_session *session = coordinator->sessions, *next;
    for (; session; session = next) {
        next = session->next;
        if (session->peer == peer) {
            detach(coordinator, session);
            remove_session(coordinator, session);
        } else if (peer->host[0] && strcmp(session->host, peer->host) == 0) {
            session->host[0] = '\0';
        }
    }
}

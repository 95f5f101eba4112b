#include "agent/backend_libvirt/domain_start.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/backend_libvirt/domain_ask.h"
#include "agent/backend_libvirt/domain_inside.h"
#include "agent/backend_libvirt/domain_tell.h"
#include "base/log.h"
#include "base/world.h"

enum {
    ASK_AGAIN_MS = 1000,
    TURN_MS = 35000, /* libvirt's own limit for a call that waits for another at the domain is 30 s */
};

static struct rpc_request *end(struct domain_start *start)
{
    struct rpc_request *request = start->request;

    if (start->order)
        godwit__vm_create__free_unpacked(start->order, NULL);
    *start = (struct domain_start){0};
    return request;
}

static void refuse(struct domain *domain, const struct fault *fault)
{
    domain_tell_refusal(end(&domain->start), fault);
}

static void wait_on(struct domain *domain, const char *why)
{
    if (!domain->start.is_told)
        log_warn("domain_start", "whether libvirt starts it is not known, asking on vm=%s: %s",
                 domain->vm_id, why);
    domain->start.is_told = true;
    domain->start.may_run = true;
    domain->start.lost_ns = world_now_ns();
    domain->start.heard_ns = 0;
}

static bool is_active(enum virt_sight sight)
{
    return sight != SIGHT_OFF && sight != SIGHT_UNKNOWN;
}

/* Somebody else may have been quicker: as good, but where it was to go on from a snapshot. */
static bool has_started(const struct domain_call *call)
{
    return is_active(call->state.sight) && (!call->fault.code || !call->snapshot[0]);
}

/* Lost on its way, with a call (this one, or one before it) that may still be carried out; or it was begun, and how it
 * is cannot be seen. Libvirt's own no is one even then: it was said after it had waited for what is at the domain. */
static bool is_open(const struct domain_start *start, const struct domain_call *call)
{
    if (call->fault.code)
        return call->is_lost && (call->was_asked || start->may_run);
    return call->state.sight == SIGHT_UNKNOWN;
}

static void started(struct domain *domain, struct domain_ask *ask)
{
    struct domain_start *start = &domain->start;

    start->is_asking = false;
    if (!has_started(&ask->call)) {
        if (is_open(start, &ask->call)) {
            wait_on(domain, ask->call.fault.code ? ask->call.fault.text : "it cannot be looked at");
            return;
        }
        if (!ask->call.fault.code)
            (void)fault_set(&ask->call.fault, ERR_IO, "libvirt started it, and it ended at once");
        refuse(domain, &ask->call.fault);
        return;
    }
    bool has_news = start->has_news;
    struct rpc_request *request = end(start);
    domain->was_created = true;
    domain_put_latch(domain);
    domain_saw(domain, ask);
    domain->epoch++;
    domain_tell_reply(domain, request);
    if (domain->quit) /* libvirt was told before there was anything to end */
        domain_kill(domain);
    else if (has_news) /* it may have ended since */
        domain_look(domain);
}

static void ask_libvirt(struct domain *domain)
{
    struct domain_start *start = &domain->start;
    const Godwit__VmCreate *order = start->order;
    struct domain_ask *ask = domain_ask_new(domain, DOMAIN_CALL_START, NULL, started);
    struct fault fault = {0};

    start->asked_ns = world_now_ns();
    if (ask) {
        ask->spec = domain_ask_copy(&order->spec->base);
        ask->call.xml = ask->spec && ask->spec->domain_xml ? ask->spec->domain_xml : NULL;
        ask->call.start_paused = order->start_paused;
        ask->call.may_define = true;
        ask->call.may_define_over = !order->ran_here;
        ask->call.only_running = order->only_running;
        (void)snprintf(ask->call.snapshot, sizeof ask->call.snapshot, "%s",
                       order->domain_snapshot ? order->domain_snapshot : "");
    }
    start->is_asking = domain_ask_send(domain, ask);
    if (start->is_asking)
        return;
    (void)fault_set(&fault, ERR_UNREACHABLE, "libvirtd of this host does not answer");
    if (start->may_run)
        wait_on(domain, fault.text);
    else
        refuse(domain, &fault);
}

void domain_start_begin(struct domain *domain, const Godwit__VmCreate *order,
                        struct rpc_request *request)
{
    struct domain_start *start = &domain->start;
    struct fault fault = {0};
    Godwit__VmCreate *copy =
        start->order ? NULL : domain_ask_copy(&order->base);

    if (!copy) {
        (void)fault_set(&fault, start->order ? ERR_BUSY : ERR_NOMEM,
                        start->order ? "it is being started" : "no memory for a start");
        domain_tell_refusal(request, &fault);
        return;
    }
    *start = (struct domain_start){.order = copy,
                                   .request = request,
                                   .may_run = order->may_run || order->ends,
                                   .lost_ns = world_now_ns()};
    domain->core.generation = order->generation;
    if (order->ends)
        domain_kill(domain);
    else
        ask_libvirt(domain);
}

void domain_start_tick(struct domain *domain)
{
    const struct domain_start *start = &domain->start;
    bool is_due = world_now_ns() - start->asked_ns >= ASK_AGAIN_MS * NS_PER_MS;

    if (!start->order || start->is_asking || domain->is_over)
        return;
    if (domain->kill_ns)
        domain_kill(domain);
    else if (is_due)
        ask_libvirt(domain);
}

bool domain_start_holds(struct domain *domain)
{
    if (domain->start.order)
        domain->start.has_news = true;
    return domain->start.order != NULL;
}

bool domain_start_is_over(const struct domain_start *start, const struct domain_call *call, uint64_t asked_ns)
{
    bool is_off = !call->fault.code && call->state.sight == SIGHT_OFF;
    bool had_its_turn = start->heard_ns && asked_ns >= start->heard_ns + TURN_MS * NS_PER_MS;

    if (!start->order || start->is_asking || !is_off)
        return false;
    return !start->may_run || (had_its_turn && call->is_settled);
}

/* It was begun after all: no refusal may say that it never ran. */
static void ended_as_one_that_ran(struct domain *domain)
{
    struct rpc_request *request = end(&domain->start);
    struct domain_event event = {.type = DOMAIN_EVENT_SIGHT,
                                 .now_ns = world_now_ns(),
                                 .seen = {.sight = SIGHT_RUNNING, .is_fresh = true}};

    domain->was_created = true;
    domain_put_latch(domain);
    domain->epoch++;
    domain_step(domain, &event);
    event.seen.sight = SIGHT_OFF;
    event.seen.how = HOW_DESTROYED;
    domain_step(domain, &event);
    domain_tell_reply(domain, request);
}

void domain_start_ended(struct domain *domain, const struct domain_ask *ask)
{
    struct domain_start *start = &domain->start;
    struct fault fault = {0};

    start->has_run = start->has_run || (start->order && (ask->call.was_active || is_active(domain->state.sight)));
    if (!start->heard_ns && ask->call.is_heard && domain->kill_asked_ns >= start->lost_ns)
        start->heard_ns = world_now_ns();
    if (!domain_start_is_over(start, &ask->call, domain->kill_asked_ns))
        return;
    if (start->has_run) {
        ended_as_one_that_ran(domain);
        return;
    }
    (void)fault_set(&fault, ERR_STATE, "it was ended while it was being started");
    refuse(domain, &fault);
}

void domain_start_deinit(struct domain *domain)
{
    struct fault fault = {0};

    (void)fault_set(&fault, ERR_STATE, "libvirt started it, and it has ended");
    refuse(domain, &fault);
}

/*   loop's thread                                          libvirt's event thread
 *   attach  -> a call opens the stream -> its callback is registered
 *   told    <- posted once a burst     <- output ring      <- readable
 *   input   -> input ring, then "writable" is asked for    -> writable: sent
 *   closed  -> callback removed, a call aborts the stream
 *
 * A tube is what both threads reach of one open stream. It is counted: the console holds one
 * reference, libvirt's callback one, each word on its way to the loop one. */
#include "agent/backend_libvirt/domain_console.h"

#include <assert.h>
#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "agent/backend_libvirt/domain_call.h"
#include "agent/backend_libvirt/hypervisor.h"
#include "agent/backend_libvirt/virt_view.h"
#include "agent/vm/console_ring.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "net/rpc.h"
#include "proto/limits.h"

enum {
    AGAIN_MS = 1000,
    BUSY_AGAIN_MS = 250, /* somebody has it: we ourselves, until libvirtd has heard that we left */
    BUSY_TRIES = 8,
    SEND_BYTES = 1024,
    INPUT_MAX = CONSOLE_RING_BYTES
};

struct tube {
    pthread_mutex_t mutex;
    unsigned references;
    struct loop *loop; /* NULL once nobody listens */
    virStreamPtr stream;
    struct console_ring output, input;
    bool is_posted, is_ended;
    struct domain_console *console; /* the loop's thread only; NULL: nobody */
};

struct waiter { /* a session whose console is being opened */
    struct rpc_request *request;
    uint64_t session;
};

struct domain_console {
    struct domain_console_config config;
    char vm_id[33];
    struct tube *tube; /* NULL: not open */
    struct opening *opening;
    struct loop_timer *timer;
    struct console_ring seen;
    struct console_ring early; /* typed while it was being opened */
    uint64_t sessions[DOMAIN_CONSOLE_VIEWERS_MAX];
    size_t session_count;
    struct waiter waiters[DOMAIN_CONSOLE_VIEWERS_MAX];
    size_t waiter_count;
    bool was_told; /* that it cannot be opened */
    unsigned busy; /* how often in a row somebody else had it */
};

struct opening {                    /* a call under way */
    struct domain_console *console; /* NULL: freed meanwhile */
    struct hypervisor *hypervisor;
    char vm_id[33];
    virStreamPtr stream;
    struct fault fault;
};

/* ---- tubes ---- */
static void tube_unref(struct tube *tube)
{
    pthread_mutex_lock(&tube->mutex);
    bool is_last = --tube->references == 0;
    pthread_mutex_unlock(&tube->mutex);
    if (!is_last)
        return;
    pthread_mutex_destroy(&tube->mutex);
    free(tube);
}

static void tube_told(void *data);

/* Under the mutex. One word is enough for all that waits. */
static void tube_post(struct tube *tube)
{
    if (tube->is_posted || !tube->loop)
        return;
    tube->is_posted = loop_post(tube->loop, tube_told, tube) == 0;
    tube->references += tube->is_posted;
}

static void read_stream(struct tube *tube, virStreamPtr stream)
{
    char bytes[CONSOLE_CHUNK_MAX];
    int count = virStreamRecv(stream, bytes, sizeof bytes);

    if (count == -2)
        return; /* nothing now */
    pthread_mutex_lock(&tube->mutex);
    if (count > 0)
        console_ring_put(&tube->output, (const uint8_t *)bytes, (size_t)count);
    else
        tube->is_ended = true;
    tube_post(tube);
    pthread_mutex_unlock(&tube->mutex);
}

/* Under the mutex. */
static void ask_events(struct tube *tube)
{
    int events = VIR_STREAM_EVENT_READABLE;

    if (tube->input.count)
        events |= VIR_STREAM_EVENT_WRITABLE;
    if (tube->loop && !tube->is_ended && virStreamEventUpdateCallback(tube->stream, events) < 0)
        log_debug("domain_console", "libvirt does not say when it takes more");
}

static void write_stream(struct tube *tube, virStreamPtr stream)
{
    uint8_t bytes[SEND_BYTES];

    pthread_mutex_lock(&tube->mutex);
    struct console_ring *input = &tube->input;
    size_t start = input->start, queued = input->count;
    size_t count = console_ring_take(input, bytes, sizeof bytes);
    input->start = start; /* only looked at: what is refused keeps its place */
    input->count = queued;
    pthread_mutex_unlock(&tube->mutex);

    int sent = count ? virStreamSend(stream, (const char *)bytes, count) : 0;

    pthread_mutex_lock(&tube->mutex);
    if (sent > 0) /* this thread alone takes; more may have been put behind */
        (void)console_ring_take(input, bytes, (size_t)sent);
    if (sent == -1) {
        tube->is_ended = true;
        tube_post(tube);
    }
    ask_events(tube);
    pthread_mutex_unlock(&tube->mutex);
}

/* Libvirt's event thread. */
static void on_stream(virStreamPtr stream, int events, void *data)
{
    struct tube *tube = data;

    if (events & VIR_STREAM_EVENT_READABLE)
        read_stream(tube, stream);
    if (events & VIR_STREAM_EVENT_WRITABLE)
        write_stream(tube, stream);
    if (!(events & (VIR_STREAM_EVENT_ERROR | VIR_STREAM_EVENT_HANGUP)))
        return;
    pthread_mutex_lock(&tube->mutex);
    tube->is_ended = true;
    tube_post(tube);
    pthread_mutex_unlock(&tube->mutex);
}

static void unref_tube(void *data)
{
    tube_unref(data);
}

static void abort_work(struct _virConnect *connection, void *data)
{
    virStreamPtr stream = data;
    (void)connection;

    (void)virStreamAbort(stream); /* it may have ended by itself */
    (void)virStreamFree(stream);
}

static void abort_done(void *data)
{
    (void)data;
}

/* Takes the stream. libvirtd keeps its console for us until it is told. */
static void give_back(struct hypervisor *hypervisor, virStreamPtr stream)
{
    if (hypervisor_call(hypervisor, abort_work, abort_done, stream, NULL) < 0)
        (void)virStreamFree(stream); /* with the connection the console is free, too */
}

static void close_tube(struct domain_console *console)
{
    struct tube *tube = console->tube;

    if (!tube)
        return;
    console->tube = NULL;
    pthread_mutex_lock(&tube->mutex);
    tube->loop = NULL;
    tube->console = NULL;
    pthread_mutex_unlock(&tube->mutex);
    (void)virStreamEventRemoveCallback(tube->stream);
    give_back(console->config.hypervisor, tube->stream);
    tube_unref(tube);
}

/* ---- opening ---- */

/* ERR_BUSY: another reader has it. ERR_UNSUPPORTED: this domain has none that libvirt can give. */
static void judge_refusal(struct fault *fault)
{
    const virError *error = virGetLastError();
    int code = error ? error->code : VIR_ERR_OK;

    (void)domain_call_fault(fault, "opening the console");
    if (code == VIR_ERR_OPERATION_FAILED)
        fault->code = ERR_BUSY;
    else if (code == VIR_ERR_INTERNAL_ERROR)
        fault->code = ERR_UNSUPPORTED; /* its words name the device: not a PTY, or none at all */
}

static void open_work(struct _virConnect *connection, void *data)
{
    struct opening *opening = data;
    char uuid[37];

    virResetLastError();
    virDomainPtr domain =
        virt_view_uuid(opening->vm_id, uuid) ? virDomainLookupByUUIDString(connection, uuid) : NULL;
    virStreamPtr stream = domain ? virStreamNew(connection, VIR_STREAM_NONBLOCK) : NULL;
    if (stream && virDomainOpenConsole(domain, NULL, stream, 0) == 0) {
        opening->stream = stream;
        stream = NULL;
    } else {
        judge_refusal(&opening->fault);
    }
    if (stream)
        (void)virStreamFree(stream);
    if (domain)
        (void)virDomainFree(domain);
}

static int make_tube(struct domain_console *console, virStreamPtr stream, struct fault *fault)
{
    struct tube *tube = calloc(1, sizeof *tube);

    if (!tube)
        return fault_set(fault, ERR_NOMEM, "no memory for a console");
    *tube = (struct tube){
        .references = 2, .loop = console->config.loop, .stream = stream, .console = console};
    pthread_mutex_init(&tube->mutex, NULL);
    int events = VIR_STREAM_EVENT_READABLE;
    if (virStreamEventAddCallback(stream, events, on_stream, tube, unref_tube) < 0) {
        tube->references = 1;
        tube_unref(tube);
        return domain_call_fault(fault, "listening to the console");
    }
    console->tube = tube;
    pthread_mutex_lock(&tube->mutex);
    tube->input = console->early;
    ask_events(tube);
    pthread_mutex_unlock(&tube->mutex);
    console->early = (struct console_ring){0};
    return 0;
}

static void reply_to(struct domain_console *console, const struct waiter *waiter, bool on)
{
    Godwit__ConsoleData reply = GODWIT__CONSOLE_DATA__INIT;
    uint8_t *bytes = on ? malloc(CONSOLE_RING_BYTES) : NULL;

    reply.vm_id = console->vm_id;
    reply.has_session = true;
    reply.session = waiter->session;
    if (bytes) {
        reply.data.data = bytes;
        reply.data.len = console_ring_tail(&console->seen, bytes, CONSOLE_RING_BYTES);
    }
    reply.has_data = reply.data.len > 0; /* nothing seen is not nothing said: it is listened for */
    if (waiter->request)
        (void)rpc_reply(waiter->request, &reply.base);
    free(bytes);
}

static void set_session(struct domain_console *console, uint64_t session, bool on)
{
    for (size_t i = 0; i < console->session_count; i++) {
        if (console->sessions[i] != session)
            continue;
        if (!on)
            console->sessions[i] = console->sessions[--console->session_count];
        return;
    }
    if (on && console->session_count < DOMAIN_CONSOLE_VIEWERS_MAX)
        console->sessions[console->session_count++] = session;
}

static void refuse_waiters(struct domain_console *console, const struct fault *fault)
{
    for (size_t i = 0; i < console->waiter_count; i++) {
        struct waiter *waiter = &console->waiters[i];
        set_session(console, waiter->session, false);
        if (waiter->request)
            (void)rpc_reply_fault(waiter->request, fault);
    }
    console->waiter_count = 0;
}

/* While somebody looks. */
static void open_later(struct domain_console *console)
{
    if (console->session_count)
        loop_timer_start(console->timer, AGAIN_MS, 0);
}

static void opened(struct domain_console *console, struct opening *opening)
{
    struct fault *fault = &opening->fault;

    console->opening = NULL;
    if (!fault->code && !console->session_count) { /* the last one has gone meanwhile */
        give_back(opening->hypervisor, opening->stream);
        return;
    }
    if (!fault->code && make_tube(console, opening->stream, fault) < 0)
        give_back(opening->hypervisor, opening->stream);
    if (fault->code == ERR_BUSY && console->session_count && ++console->busy < BUSY_TRIES) {
        loop_timer_start(console->timer, BUSY_AGAIN_MS, 0);
        return;
    }
    console->busy = 0;
    if (fault->code == ERR_BUSY)
        fault->code = ERR_UNSUPPORTED; /* for whoever waits: it will not come by waiting */
    if (fault->code) {
        if (!console->was_told)
            log_info("domain_console", "not opened vm=%s: %s", console->vm_id, fault->text);
        console->was_told = true;
        refuse_waiters(console, fault);
        open_later(console);
        return;
    }
    console->was_told = false;
    for (size_t i = 0; i < console->waiter_count; i++)
        reply_to(console, &console->waiters[i], true);
    console->waiter_count = 0;
}

static void open_done(void *data)
{
    struct opening *opening = data;

    if (opening->console)
        opened(opening->console, opening);
    else if (opening->stream)
        give_back(opening->hypervisor, opening->stream);
    free(opening);
}

static void open_now(void *data)
{
    struct domain_console *console = data;
    struct fault fault = {0};

    if (console->tube || console->opening || !console->session_count)
        return;
    struct opening *opening = calloc(1, sizeof *opening);
    int r = opening ? 0 : fault_set(&fault, ERR_NOMEM, "no memory for a console");
    if (r == 0) {
        opening->console = console;
        opening->hypervisor = console->config.hypervisor;
        memcpy(opening->vm_id, console->vm_id, sizeof opening->vm_id);
        r = hypervisor_call(console->config.hypervisor, open_work, open_done, opening, &fault);
    }
    if (r == 0) {
        console->opening = opening;
        return;
    }
    free(opening);
    refuse_waiters(console, &fault);
    open_later(console);
}

/* ---- what the guest says ---- */
static void carry(struct domain_console *console, struct tube *tube)
{
    uint8_t bytes[CONSOLE_CHUNK_MAX];
    size_t count;

    do {
        pthread_mutex_lock(&tube->mutex);
        count = console_ring_take(&tube->output, bytes, sizeof bytes);
        pthread_mutex_unlock(&tube->mutex);
        console_ring_put(&console->seen, bytes, count);
        if (count)
            console->config.on_output(console->config.data, bytes, count);
    } while (count == sizeof bytes);
}

static void tube_told(void *data)
{
    struct tube *tube = data;
    struct domain_console *console = tube->console;

    pthread_mutex_lock(&tube->mutex);
    tube->is_posted = false;
    bool is_ended = tube->is_ended;
    pthread_mutex_unlock(&tube->mutex);
    if (console)
        carry(console, tube);
    if (console && is_ended) {
        pthread_mutex_lock(&tube->mutex);
        console->early = tube->input; /* what was not sent is for the next stream */
        pthread_mutex_unlock(&tube->mutex);
        close_tube(console);
        open_later(console);
    }
    tube_unref(tube);
}

/* ---- viewers ---- */
static void detach(struct domain_console *console, uint64_t session)
{
    set_session(console, session, false);
    if (console->session_count)
        return;
    loop_timer_stop(console->timer);
    close_tube(console);
    console->early = (struct console_ring){0};
}

void domain_console_attach(struct domain_console *console, const Godwit__ConsoleAttach *attach,
                           struct rpc_request *request)
{
    struct waiter waiter = {.request = request, .session = attach->session};
    struct fault fault = {0};

    if (!attach->on) {
        detach(console, attach->session);
        reply_to(console, &waiter, false);
        return;
    }
    if (console->waiter_count == DOMAIN_CONSOLE_VIEWERS_MAX) {
        (void)fault_set(&fault, ERR_LIMIT, "%d consoles of this domain are open",
                        DOMAIN_CONSOLE_VIEWERS_MAX);
        if (request)
            (void)rpc_reply_fault(request, &fault);
        return;
    }
    set_session(console, attach->session, true);
    if (console->tube) {
        carry(console, console->tube); /* what the reply holds is not sent again */
        reply_to(console, &waiter, true);
        return;
    }
    console->waiters[console->waiter_count++] = waiter;
    open_now(console);
}

static size_t queue(struct console_ring *ring, const uint8_t *bytes, size_t count)
{
    size_t room = INPUT_MAX - ring->count;
    size_t taken = count < room ? count : room;

    console_ring_put(ring, bytes, taken);
    return taken;
}

size_t domain_console_input(struct domain_console *console, const uint8_t *bytes, size_t count)
{
    struct tube *tube = console->tube;

    if (!tube)
        return console->session_count ? queue(&console->early, bytes, count) : 0;
    pthread_mutex_lock(&tube->mutex);
    size_t taken = queue(&tube->input, bytes, count);
    ask_events(tube);
    pthread_mutex_unlock(&tube->mutex);
    return taken;
}

/* ---- life ---- */
int domain_console_new(struct domain_console **ret_console,
                       const struct domain_console_config *config, struct fault *fault)
{
    struct domain_console *console = calloc(1, sizeof *console);

    if (!console)
        return fault_set(fault, ERR_NOMEM, "no memory for a console");
    assert(strlen(config->vm_id) < sizeof console->vm_id);
    console->config = *config;
    memcpy(console->vm_id, config->vm_id, strlen(config->vm_id) + 1);
    console->config.vm_id = console->vm_id;
    int r = loop_timer_new(&console->timer, config->loop, open_now, console, fault);
    if (r < 0) {
        free(console);
        return r;
    }
    *ret_console = console;
    return 0;
}

struct domain_console *domain_console_free(struct domain_console *console)
{
    struct fault fault = {0};

    if (!console)
        return NULL;
    (void)fault_set(&fault, ERR_CLOSED, "the domain has ended here");
    refuse_waiters(console, &fault);
    if (console->opening)
        console->opening->console = NULL;
    close_tube(console);
    (void)loop_timer_free(console->timer);
    free(console);
    return NULL;
}

#include "agent/backend_libvirt/hypervisor.h"

#include <assert.h>
#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/backend_libvirt/domain_call.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/thread.h"

enum {
    BACKOFF_MS_MIN = 200,
    BACKOFF_MS_MAX = 5000,
    KEEPALIVE_S = 3, /* and after KEEPALIVE_COUNT unanswered the connection counts as dead */
    KEEPALIVE_COUNT = 4,
};

/* What threads reach: it outlives the hypervisor while one of them holds it. */
struct link {
    pthread_mutex_t mutex;
    unsigned references;
    struct loop *loop;             /* NULL once the hypervisor is freed */
    struct hypervisor *hypervisor; /* the loop's thread only */
};

struct hypervisor {
    struct hypervisor_config config;
    struct link *link;
    struct loop_timer *timer;
    virConnectPtr connection; /* NULL: none */
    bool connecting;
    uint64_t backoff_ms;
    bool was_told;
};

struct notice { /* of a thread, for the loop */
    struct link *link;
    virConnectPtr connection; /* which it is about; compared, never used */
    char vm_id[33];
    int event, detail;
    struct virt_job job;
    struct fault fault;
    char version[64];
    const char *uri;
};

struct call {
    struct link *link;
    virConnectPtr connection; /* a reference */
    void (*work)(virConnectPtr connection, void *data);
    void (*done)(void *data);
    void *data;
};

/* ---- threads and the loop ---- */
static void link_unref(struct link *link)
{
    pthread_mutex_lock(&link->mutex);
    bool is_last = --link->references == 0;
    pthread_mutex_unlock(&link->mutex);
    if (is_last) {
        pthread_mutex_destroy(&link->mutex);
        free(link);
    }
}

static struct link *link_ref(struct link *link)
{
    pthread_mutex_lock(&link->mutex);
    link->references++;
    pthread_mutex_unlock(&link->mutex);
    return link;
}

/* false: nobody is there any more. */
static bool link_post(struct link *link, void (*function)(void *data), void *data)
{
    pthread_mutex_lock(&link->mutex);
    bool posted = link->loop && loop_post(link->loop, function, data) == 0;
    pthread_mutex_unlock(&link->mutex);
    return posted;
}

static int thread_run(void *(*function)(void *data), void *data)
{
    pthread_t thread;
    pthread_attr_t attributes;

    (void)pthread_attr_init(&attributes); /* only sets presets */
    (void)pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    int error = pthread_create(&thread, &attributes, function, data);
    (void)pthread_attr_destroy(&attributes);
    return error;
}

/* libvirt's event loop is one a process. */
static void *event_thread(void *data)
{
    thread_begin("libvirt-events");
    while (virEventRunDefaultImpl() == 0) {
    }
    log_error("hypervisor", "libvirt's event loop ended: no more events of domains");
    return data;
}

static void be_silent(void *data, virErrorPtr error)
{
    (void)data;
    (void)error; /* every failure is told by the call that met it */
}

static void begin_events(void)
{
    virSetErrorFunc(NULL, be_silent);
    if (virInitialize() < 0 || virEventRegisterDefaultImpl() < 0 ||
        thread_run(event_thread, NULL) != 0)
        log_error("hypervisor", "libvirt's event loop cannot be begun");
}

/* ---- events ---- */
static struct notice *notice_new(struct link *link, virConnectPtr connection)
{
    struct notice *notice = calloc(1, sizeof *notice);
    if (notice) {
        notice->link = link_ref(link);
        notice->connection = connection;
    }
    return notice;
}

static void notice_free(struct notice *notice)
{
    link_unref(notice->link);
    free(notice);
}

static void notice_post(struct notice *notice, void (*function)(void *data))
{
    if (!link_post(notice->link, function, notice))
        notice_free(notice);
}

/* Of the connection that is in use, not of one before it. */
static struct hypervisor *notice_hypervisor(const struct notice *notice)
{
    struct hypervisor *hypervisor = notice->link->hypervisor;
    return hypervisor && hypervisor->connection == notice->connection ? hypervisor : NULL;
}

static void tell_event(void *data)
{
    struct notice *notice = data;
    struct hypervisor *hypervisor = notice_hypervisor(notice);

    if (hypervisor)
        hypervisor->config.on_event(hypervisor->config.data, notice->vm_id, notice->event,
                                    notice->detail);
    notice_free(notice);
}

static void tell_job(void *data)
{
    struct notice *notice = data;
    struct hypervisor *hypervisor = notice_hypervisor(notice);

    if (hypervisor)
        hypervisor->config.on_job(hypervisor->config.data, notice->vm_id, &notice->job);
    notice_free(notice);
}

static bool name_domain(struct notice *notice, virDomainPtr domain)
{
    char uuid[VIR_UUID_STRING_BUFLEN];
    return virDomainGetUUIDString(domain, uuid) == 0 && virt_view_id(uuid, notice->vm_id);
}

static int on_lifecycle(virConnectPtr connection, virDomainPtr domain, int event, int detail,
                        void *data)
{
    struct notice *notice = notice_new(data, connection);

    if (!notice)
        return 0; /* the next look finds out */
    notice->event = event;
    notice->detail = detail;
    if (name_domain(notice, domain))
        notice_post(notice, tell_event);
    else
        notice_free(notice);
    return 0;
}

static void on_job_completed(virConnectPtr connection, virDomainPtr domain,
                             virTypedParameterPtr parameters, int count, void *data)
{
    struct notice *notice = notice_new(data, connection);

    if (!notice)
        return;
    domain_call_read_job(parameters, count, &notice->job);
    if (name_domain(notice, domain))
        notice_post(notice, tell_job);
    else
        notice_free(notice);
}

static void unref_data(void *data)
{
    link_unref(data);
}

/* ---- the connection ---- */
static void connect_now(void *data);

static void connect_later(struct hypervisor *hypervisor, const char *why)
{
    if (!hypervisor->was_told)
        log_warn("hypervisor", "no connection to libvirt at %s, trying on: %s",
                 hypervisor->config.uri, why);
    hypervisor->was_told = true;
    loop_timer_start(hypervisor->timer, hypervisor->backoff_ms, 0);
    hypervisor->backoff_ms = hypervisor->backoff_ms * 2 < BACKOFF_MS_MAX ? hypervisor->backoff_ms * 2
                                                                         : BACKOFF_MS_MAX;
}

static void tell_lost(void *data)
{
    struct notice *notice = data;
    struct hypervisor *hypervisor = notice_hypervisor(notice);

    if (hypervisor) {
        virConnectPtr connection = hypervisor->connection;
        hypervisor->connection = NULL;
        (void)virConnectClose(connection); /* calls under way hold references of their own */
        hypervisor->config.on_down(hypervisor->config.data, "libvirtd ended the connection");
        connect_later(hypervisor, "libvirtd ended the connection");
    }
    notice_free(notice);
}

static void on_close(virConnectPtr connection, int reason, void *data)
{
    struct notice *notice = notice_new(data, connection);
    (void)reason;

    if (notice)
        notice_post(notice, tell_lost);
}

static void tell_connected(void *data)
{
    struct notice *notice = data;
    struct hypervisor *hypervisor = notice->link->hypervisor;

    if (!hypervisor) {
        notice_free(notice);
        return;
    }
    hypervisor->connecting = false;
    if (!notice->connection) {
        connect_later(hypervisor, notice->fault.text);
        notice_free(notice);
        return;
    }
    hypervisor->connection = notice->connection;
    hypervisor->backoff_ms = BACKOFF_MS_MIN;
    hypervisor->was_told = false;
    log_info("hypervisor", "connected to libvirt at %s: %s", hypervisor->config.uri,
             notice->version);
    if (virConnectIsAlive(hypervisor->connection) == 1) {
        hypervisor->config.on_up(hypervisor->config.data, notice->version);
        notice_free(notice);
    } else { /* it ended before this word came: its notice did not know whom to tell */
        hypervisor->config.on_up(hypervisor->config.data, notice->version);
        tell_lost(notice);
    }
}

static bool connect_set_up(virConnectPtr connection, struct link *link, struct notice *notice)
{
    unsigned long libvirt = 0, qemu = 0;

    if (virConnectSetKeepAlive(connection, KEEPALIVE_S, KEEPALIVE_COUNT) < 0)
        log_debug("hypervisor", "no keepalive with this libvirt");
    if (virConnectRegisterCloseCallback(connection, on_close, link_ref(link), unref_data) < 0)
        link_unref(link); /* a connection inside this process cannot close */
    if (virConnectDomainEventRegisterAny(connection, NULL, VIR_DOMAIN_EVENT_ID_LIFECYCLE,
                                         VIR_DOMAIN_EVENT_CALLBACK(on_lifecycle), link_ref(link),
                                         unref_data) < 0) {
        link_unref(link);
        return false;
    }
    if (virConnectDomainEventRegisterAny(connection, NULL, VIR_DOMAIN_EVENT_ID_JOB_COMPLETED,
                                         VIR_DOMAIN_EVENT_CALLBACK(on_job_completed),
                                         link_ref(link), unref_data) < 0)
        link_unref(link); /* receipts are poorer without */
    (void)virConnectGetLibVersion(connection, &libvirt); /* 0 is told as 0 */
    (void)virConnectGetVersion(connection, &qemu);
    (void)snprintf(notice->version, sizeof notice->version, "%lu.%lu.%lu QEMU %lu.%lu.%lu",
                   libvirt / 1000000, libvirt / 1000 % 1000, libvirt % 1000, qemu / 1000000,
                   qemu / 1000 % 1000, qemu % 1000);
    return true;
}

static void *connect_thread(void *data)
{
    struct notice *notice = data;
    struct link *link = notice->link;

    thread_begin("libvirt-connect");
    virConnectPtr connection = virConnectOpen(notice->uri);
    if (connection && !connect_set_up(connection, link, notice)) {
        (void)virConnectClose(connection);
        connection = NULL;
    }
    if (!connection)
        (void)domain_call_fault(&notice->fault, "connecting");
    notice->connection = connection;
    if (!link_post(link, tell_connected, notice)) {
        if (connection)
            (void)virConnectClose(connection);
        notice_free(notice);
    }
    return NULL;
}

static void connect_now(void *data)
{
    struct hypervisor *hypervisor = data;

    assert(!hypervisor->connection && !hypervisor->connecting);
    struct notice *notice = notice_new(hypervisor->link, NULL);
    if (notice)
        notice->uri = hypervisor->config.uri;
    if (notice && thread_run(connect_thread, notice) == 0) {
        hypervisor->connecting = true;
        return;
    }
    if (notice)
        notice_free(notice);
    connect_later(hypervisor, "no thread for it");
}

/* ---- calls ---- */
static void call_done(void *data)
{
    struct call *call = data;

    (void)virConnectClose(call->connection); /* our reference */
    if (call->link->hypervisor)
        call->done(call->data);
    link_unref(call->link);
    free(call);
}

static void *call_thread(void *data)
{
    struct call *call = data;

    thread_begin("libvirt-call");
    call->work(call->connection, call->data);
    (void)link_post(call->link, call_done, call); /* not posted: the process ends */
    return NULL;
}

int hypervisor_call(struct hypervisor *hypervisor,
                    void (*work)(virConnectPtr connection, void *data), void (*done)(void *data),
                    void *data, struct fault *fault)
{
    if (!hypervisor->connection)
        return fault_set(fault, ERR_UNREACHABLE, "libvirtd of this host does not answer");
    struct call *call = calloc(1, sizeof *call);
    if (!call)
        return fault_set(fault, ERR_NOMEM, "no memory for a call to libvirt");
    (void)virConnectRef(hypervisor->connection);
    *call = (struct call){.link = link_ref(hypervisor->link),
                          .connection = hypervisor->connection,
                          .work = work,
                          .done = done,
                          .data = data};
    int error = thread_run(call_thread, call);
    if (error) {
        (void)virConnectClose(call->connection);
        link_unref(call->link);
        free(call);
        return fault_set_errno(fault, ERR_NOMEM, error, "no thread for a call to libvirt");
    }
    return 0;
}

bool hypervisor_is_up(const struct hypervisor *hypervisor)
{
    return hypervisor->connection != NULL;
}

/* ---- life ---- */
int hypervisor_new(struct hypervisor **ret_hypervisor, const struct hypervisor_config *config,
                   struct fault *fault)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    struct hypervisor *hypervisor = calloc(1, sizeof *hypervisor);
    struct link *link = calloc(1, sizeof *link);

    if (!hypervisor || !link) {
        free(hypervisor);
        free(link);
        return fault_set(fault, ERR_NOMEM, "no memory for the connection to libvirt");
    }
    hypervisor->config = *config;
    hypervisor->backoff_ms = BACKOFF_MS_MIN;
    hypervisor->link = link;
    *link = (struct link){.references = 1, .loop = config->loop, .hypervisor = hypervisor};
    pthread_mutex_init(&link->mutex, NULL);
    int r = loop_timer_new(&hypervisor->timer, config->loop, connect_now, hypervisor, fault);
    if (r < 0) {
        link_unref(link);
        free(hypervisor);
        return r;
    }
    (void)pthread_once(&once, begin_events);
    *ret_hypervisor = hypervisor;
    return 0;
}

void hypervisor_start(struct hypervisor *hypervisor)
{
    connect_now(hypervisor);
}

struct hypervisor *hypervisor_free(struct hypervisor *hypervisor)
{
    if (!hypervisor)
        return NULL;
    (void)loop_timer_free(hypervisor->timer);
    pthread_mutex_lock(&hypervisor->link->mutex);
    hypervisor->link->loop = NULL;
    hypervisor->link->hypervisor = NULL;
    pthread_mutex_unlock(&hypervisor->link->mutex);
    if (hypervisor->connection)
        (void)virConnectClose(hypervisor->connection);
    link_unref(hypervisor->link);
    free(hypervisor);
    return NULL;
}

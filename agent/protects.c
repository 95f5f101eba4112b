#include "agent/protects.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/move_sockets.h"
#include "agent/vm_process.h"
#include "agent/vm_table.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/own.h"
#include "net/rpc.h"
#include "net/tls_lane.h"
#include "proto/method.h"

enum {
    CALL_MS_MAX = 5000,
    END_MS_MAX = 20000,             /* a cut that is under way ends first */
    FINISH_MS_MAX = 10 * 60 * 1000, /* of an operator's patience */
    ID_SIZE = TLS_LANE_MOVE_ID_MAX + 1,
};

struct protects {
    struct protects_config config;
    struct known *first;
    unsigned workers; /* that connect, with a pointer to us */
    bool stopped;
};

struct known { /* a protection that was told of */
    struct known *next;
    char vm_id[VM_ID_SIZE];
    Godwit__ProtectStatus *status; /* owned: the last */
};

struct dial { /* a link that is being connected */
    struct protects *protects;
    char vm_id[VM_ID_SIZE], protection_id[ID_SIZE];
    unsigned link;
};

struct call {
    struct protects *protects;
    struct rpc_request *request;
    char vm_id[VM_ID_SIZE];
};

/* ---- what is known ---- */
static struct known **place_of(struct protects *protects, const char *vm_id)
{
    struct known **at = &protects->first;

    while (*at && strcmp((*at)->vm_id, vm_id) != 0)
        at = &(*at)->next;
    return at;
}

static void forget(struct protects *protects, const char *vm_id)
{
    struct known **at = place_of(protects, vm_id), *known = *at;

    if (!known)
        return;
    *at = known->next;
    godwit__protect_status__free_unpacked(known->status, NULL);
    free(known);
}

static Godwit__ProtectStatus *status_copy(const Godwit__ProtectStatus *status)
{
    size_t count = godwit__protect_status__get_packed_size(status);
    AUTO_FREE uint8_t *bytes = malloc(count ? count : 1);

    if (!bytes)
        return NULL;
    (void)godwit__protect_status__pack(status, bytes);
    return godwit__protect_status__unpack(NULL, count, bytes);
}

static void remember(struct protects *protects, const char *vm_id,
                     const Godwit__ProtectStatus *status)
{
    struct known **at = place_of(protects, vm_id), *known = *at;
    Godwit__ProtectStatus *copy = status_copy(status);

    if (!known && copy && (known = calloc(1, sizeof *known))) {
        (void)snprintf(known->vm_id, sizeof known->vm_id, "%s", vm_id);
        *at = known;
    }
    if (!known || !copy) { /* told again in some seconds */
        if (copy)
            godwit__protect_status__free_unpacked(copy, NULL);
        return;
    }
    if (known->status)
        godwit__protect_status__free_unpacked(known->status, NULL);
    known->status = copy;
}

void protects_tell(struct protects *protects)
{
    for (const struct known *at = protects->first; at; at = at->next)
        protects->config.tell(protects->config.data, at->status);
}

void protects_on_ended(struct protects *protects, struct vm_entry *entry)
{
    struct known *known = *place_of(protects, entry->id);

    if (!known)
        return;
    Godwit__ProtectStatus status = *known->status;
    status.has_ended = status.ended = true;
    status.is_linked = false;
    status.trouble = (char *)(uintptr_t) "the VM's process ended"; /* protobuf-c knows no const */
    protects->config.tell(protects->config.data, &status);
    forget(protects, entry->id);
}

/* ---- links ---- */
static void given(void *data, const ProtobufCMessage *reply, const struct fault *fault)
{
    struct dial *dial = data;

    if (!reply)
        log_warn("protects", "a socket was not handed over vm=%s: %s", dial->vm_id, fault->text);
    free(dial);
}

static void connected(void *data, const int *fds, size_t count, const struct fault *fault)
{
    struct dial *dial = data;
    struct vm_entry *entry =
        dial->protects->stopped ? NULL : vm_table_find(dial->protects->config.table, dial->vm_id);
    struct rpc *rpc = entry && entry->process ? vm_process_rpc(entry->process) : NULL;
    Godwit__VmProtectLink link = GODWIT__VM_PROTECT_LINK__INIT;
    Godwit__Fault told = GODWIT__FAULT__INIT;
    struct fault words = {0};

    dial->protects->workers--;
    if (fault)
        log_debug("protects", "no link vm=%s: %s", dial->vm_id, fault->text);
    link.vm_id = dial->vm_id;
    link.protection_id = dial->protection_id;
    link.has_link = true;
    link.link = dial->link;
    if (fault) {
        told.has_number = true;
        told.number = -fault->code;
        told.text = (char *)(uintptr_t)fault->text; /* protobuf-c knows no const */
        link.fault = &told;
    }
    int r = rpc ? rpc_call_fds(rpc, METHOD_VM_PROTECT_LINK, &link.base, fds, count,
                               &godwit__empty__descriptor, CALL_MS_MAX, given, dial, &words)
                : fault_set(&words, ERR_NOT_FOUND, "its process is gone");
    for (size_t i = 0; i < count; i++)
        (void)close(fds[i]); /* the process has its own, or nobody needs them */
    if (r < 0)
        given(dial, NULL, &words);
}

static void begin_dial(struct protects *protects, const struct vm_entry *entry,
                       const Godwit__VmProtectEvent *event)
{
    struct fault fault = {0};

    if (!event->address || !event->status || !event->status->protection_id ||
        strlen(event->status->protection_id) >= ID_SIZE || protects->stopped)
        return;
    struct dial *dial = calloc(1, sizeof *dial);
    if (!dial)
        return; /* it asks again */
    dial->protects = protects;
    dial->link = event->link;
    (void)snprintf(dial->vm_id, sizeof dial->vm_id, "%s", entry->id);
    (void)snprintf(dial->protection_id, sizeof dial->protection_id, "%s",
                   event->status->protection_id);
    protects->workers++;
    if (move_sockets_connect(protects->config.loop, event->address, 1, connected, dial, &fault) < 0)
        connected(dial, NULL, 0, &fault);
}

void protects_on_event(struct protects *protects, struct vm_entry *entry,
                       const Godwit__VmProtectEvent *event)
{
    const Godwit__ProtectStatus *status = event->status;

    if (event->has_link && event->link) {
        begin_dial(protects, entry, event);
        return; /* the rest of it comes by itself */
    }
    if (!status || !status->protection_id || !status->vm_id ||
        strcmp(status->vm_id, entry->id) != 0)
        return;
    protects->config.tell(protects->config.data, status);
    if (status->ended)
        forget(protects, entry->id);
    else
        remember(protects, entry->id, status);
}

/* ---- orders ---- */
static void answered(void *data, const ProtobufCMessage *reply, const struct fault *fault)
{
    struct call *call = data;

    if (reply && reply->descriptor == &godwit__protect_status__descriptor &&
        ((const Godwit__ProtectStatus *)reply)->protection_id)
        remember(call->protects, call->vm_id, (const Godwit__ProtectStatus *)reply);
    if (call->request && reply)
        (void)rpc_reply(call->request, reply);
    else if (call->request)
        (void)rpc_reply_fault(call->request, fault);
    free(call);
}

static int pass_on(struct protects *protects, struct vm_entry *entry, uint16_t method,
                   const ProtobufCMessage *order, const ProtobufCMessageDescriptor *answer,
                   uint64_t ms_max, struct rpc_request *request, struct fault *fault)
{
    struct call *call = calloc(1, sizeof *call);
    if (!call)
        return fault_set(fault, ERR_NOMEM, "no memory for an order");
    call->protects = protects;
    call->request = request;
    (void)snprintf(call->vm_id, sizeof call->vm_id, "%s", entry->id);
    int r = rpc_call(vm_process_rpc(entry->process), method, order, answer, ms_max, answered, call,
                     fault);
    if (r < 0)
        free(call);
    return r;
}

int protects_begin(struct protects *protects, struct vm_entry *entry,
                   const Godwit__OrderProtect *order, struct rpc_request *request,
                   struct fault *fault)
{
    if (vm_entry_is_domain(entry))
        return fault_set(fault, ERR_UNSUPPORTED, "%s is a domain of libvirt: it is not replicated",
                         entry->status->name ? entry->status->name : entry->id);
    return pass_on(protects, entry, METHOD_VM_PROTECT, &order->base,
                   &godwit__protect_status__descriptor, END_MS_MAX, request, fault);
}

int protects_finish(struct protects *protects, struct vm_entry *entry,
                    const Godwit__OrderProtectFinish *order, struct rpc_request *request,
                    struct fault *fault)
{
    if (!order->deadline_ms || order->deadline_ms > FINISH_MS_MAX)
        return fault_set(fault, ERR_INVALID, "a last checkpoint within %llu ms; at most %d",
                         (unsigned long long)order->deadline_ms, FINISH_MS_MAX);
    return pass_on(protects, entry, METHOD_VM_PROTECT_FINISH, &order->base,
                   &godwit__protect_status__descriptor, order->deadline_ms + END_MS_MAX, request,
                   fault);
}

int protects_end(struct protects *protects, struct vm_entry *entry,
                 const Godwit__OrderProtectEnd *order, struct rpc_request *request,
                 struct fault *fault)
{
    return pass_on(protects, entry, METHOD_VM_PROTECT_END, &order->base, &godwit__empty__descriptor,
                   END_MS_MAX, request, fault);
}

/* ---- life ---- */
int protects_new(struct protects **ret_protects, const struct protects_config *config,
                 struct fault *fault)
{
    struct protects *protects = calloc(1, sizeof *protects);
    if (!protects)
        return fault_set(fault, ERR_NOMEM, "no memory for protections");
    protects->config = *config;
    *ret_protects = protects;
    return 0;
}

void protects_stop(struct protects *protects)
{
    if (!protects)
        return;
    protects->stopped = true;
    while (protects->workers)
        loop_turn(protects->config.loop, true); /* each holds a pointer to us */
}

struct protects *protects_free(struct protects *protects)
{
    if (!protects)
        return NULL;
    while (protects->first)
        forget(protects, protects->first->vm_id);
    free(protects);
    return NULL;
}

#include "agent/console_order.h"

#include <stdio.h>
#include <stdlib.h>

#include "agent/vm_process.h"
#include "agent/vm_table.h"
#include "base/err.h"
#include "base/log.h"
#include "base/own.h"
#include "net/rpc.h"
#include "proto/method.h"

enum { CALL_MS_MAX = 5000 };

struct attaching { /* until its process has answered; the VM may be gone by then */
    struct vm_table *table;
    struct rpc_request *request;
    char vm_id[VM_ID_SIZE];
    uint64_t session;
    bool on;
};

/* ---- who is attached ---- */
static void session_set(struct vm_entry *entry, uint64_t session, bool on)
{
    for (size_t i = 0; i < entry->session_count; i++) {
        if (entry->sessions[i] == session) {
            if (!on)
                entry->sessions[i] = entry->sessions[--entry->session_count];
            return;
        }
    }
    if (on && entry->session_count < VM_SESSIONS_MAX)
        entry->sessions[entry->session_count++] = session;
}

static bool session_is_on(const struct vm_entry *entry, uint64_t session)
{
    for (size_t i = 0; i < entry->session_count; i++) {
        if (entry->sessions[i] == session)
            return true;
    }
    return false;
}

static void attached(void *data, const ProtobufCMessage *reply, const struct fault *fault)
{
    AUTO_FREE struct attaching *attaching = data;
    struct vm_entry *entry = vm_table_find(attaching->table, attaching->vm_id);

    if (!reply || !entry) {
        if (attaching->request)
            (void)rpc_reply_fault(attaching->request, fault);
        return;
    }
    Godwit__ConsoleData data_reply = *(const Godwit__ConsoleData *)reply;
    session_set(entry, attaching->session, attaching->on);
    data_reply.has_session = true;
    data_reply.session = attaching->session;
    if (attaching->request)
        (void)rpc_reply(attaching->request, &data_reply.base);
}

static int attach(struct vm_table *table, struct vm_entry *entry,
                  const Godwit__ConsoleAttach *order, struct rpc_request *request,
                  struct fault *fault)
{
    if (order->on && entry->session_count == VM_SESSIONS_MAX &&
        !session_is_on(entry, order->session))
        return fault_set(fault, ERR_LIMIT, "%d consoles of this VM are open", VM_SESSIONS_MAX);
    struct attaching *attaching = calloc(1, sizeof *attaching);
    if (!attaching)
        return fault_set(fault, ERR_NOMEM, "no memory for an order");
    attaching->table = table;
    attaching->request = request;
    (void)snprintf(attaching->vm_id, sizeof attaching->vm_id, "%s", entry->id);
    attaching->session = order->session;
    attaching->on = order->on;
    if (!order->on)
        session_set(entry, order->session, false); /* nothing more goes there from now on */
    int r = rpc_call(vm_process_rpc(entry->process), METHOD_VM_CONSOLE_ATTACH, &order->base,
                     &godwit__console_data__descriptor, CALL_MS_MAX, attached, attaching, fault);
    if (r < 0)
        free(attaching);
    return r;
}

void console_order_attach(struct vm_table *table, struct vm_entry *entry,
                          const Godwit__ConsoleAttach *order, struct rpc_request *request)
{
    struct fault fault = {0};

    if (attach(table, entry, order, request, &fault) < 0 && request)
        (void)rpc_reply_fault(request, &fault);
}

static void ignore_reply(void *data, const ProtobufCMessage *reply, const struct fault *fault)
{
    (void)data;
    (void)reply;
    (void)fault;
}

void console_order_detach_all(struct vm_table *table)
{
    for (struct vm_entry *entry = vm_table_first(table); entry; entry = entry->next) {
        struct rpc *rpc = entry->process ? vm_process_rpc(entry->process) : NULL;
        while (entry->session_count) {
            Godwit__ConsoleAttach attach = GODWIT__CONSOLE_ATTACH__INIT;
            attach.vm_id = entry->id;
            attach.has_on = true;
            attach.has_session = true;
            attach.session = entry->sessions[--entry->session_count];
            if (rpc)
                (void)rpc_call(rpc, METHOD_VM_CONSOLE_ATTACH, &attach.base,
                               &godwit__console_data__descriptor, CALL_MS_MAX, ignore_reply, NULL,
                               NULL);
        }
    }
}

/* ---- what was typed ---- */
static struct vm_input *find_input(struct vm_entry *entry, uint64_t stream)
{
    for (size_t i = 0; i < VM_SESSIONS_MAX; i++) {
        if (entry->inputs[i].stream == stream)
            return &entry->inputs[i];
    }
    return NULL;
}

static void tell_taken(struct rpc *rpc, const Godwit__ConsoleData *input,
                       const struct vm_input *known)
{
    Godwit__ConsoleData told = GODWIT__CONSOLE_DATA__INIT;
    told.vm_id = input->vm_id;
    told.has_session = told.has_stream = true;
    told.session = input->session;
    told.stream = input->stream;
    told.has_unknown = told.unknown = !known;
    told.has_taken = known != NULL;
    told.taken = known ? known->taken : 0;
    (void)rpc_send_event(rpc, METHOD_AGENT_CONSOLE_OUTPUT, &told.base, NULL);
}

/* What came of the stream so far is passed over. An agent that does not know the stream takes what
 * is said for the first time, and of what may have come to another only says that it cannot tell.
 */
static void take_input(struct vm_entry *entry, struct rpc *rpc, const Godwit__ConsoleData *input)
{
    struct vm_input *known = find_input(entry, input->stream);
    struct fault fault = {0};
    if (!known && !input->again) {
        known = &entry->inputs[entry->next_input++ % VM_SESSIONS_MAX];
        *known = (struct vm_input){.stream = input->stream, .taken = input->at};
    }
    if (known && input->at > known->taken) { /* the VM was elsewhere meanwhile, and is back */
        if (input->again)
            known = NULL;
        else
            known->taken = input->at;
    }
    if (known && input->at <= known->taken && input->data.len > known->taken - input->at) {
        Godwit__ConsoleData rest = *input;
        rest.data.data += known->taken - input->at;
        rest.data.len -= known->taken - input->at;
        int r = rpc_send_event(vm_process_rpc(entry->process), METHOD_VM_CONSOLE_INPUT, &rest.base,
                               &fault);
        if (r == 0)
            known->taken += rest.data.len;
        else
            log_debug("console_order", "console input waits: %s", fault.text);
    }
    tell_taken(rpc, input, known);
}

void console_order_input(struct vm_entry *entry, struct rpc *rpc, const Godwit__ConsoleData *input)
{
    struct fault fault = {0};

    if (!entry) {
        if (input->stream) /* none of it is taken: it may be said again, where the VM is then */
            tell_taken(rpc, input, &(struct vm_input){.taken = input->at});
    } else if (input->stream) {
        take_input(entry, rpc, input);
    } else if (rpc_send_event(vm_process_rpc(entry->process), METHOD_VM_CONSOLE_INPUT, &input->base,
                              &fault) < 0) {
        log_debug("console_order", "console input dropped: %s", fault.text);
    }
}

#include "cli/client.h"

#include <assert.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/config.h"
#include "base/err.h"
#include "base/loop.h"
#include "base/own.h"
#include "base/paths.h"
#include "base/world.h"
#include "cli/context.h"
#include "net/rpc.h"
#include "proto/address_list.h"
#include "proto/image.pb-c.h"
#include "proto/method.h"
#include "proto/pool.pb-c.h"

struct client {
    struct loop *loop;
    struct tls_context *tls;
    struct rpc *rpc;
    bool connected;
    struct client_listener listener;
    char addresses[1024];       /* of all coordinators */
    char address[ADDRESS_SIZE]; /* the one spoken to */
    char folder[PATH_MAX];
};

/* ---- events ---- */

static void pass_event(struct client *client, uint16_t method, const ProtobufCMessage *message)
{
    if (client->listener.event)
        client->listener.event(client->listener.data, method, message);
}

static void on_job_event(void *data, struct rpc *rpc, struct rpc_request *request,
                         const ProtobufCMessage *message)
{
    (void)rpc;
    (void)request; /* an event wants no answer */
    pass_event(data, METHOD_JOB_EVENT, message);
}

static void on_image_progress(void *data, struct rpc *rpc, struct rpc_request *request,
                              const ProtobufCMessage *message)
{
    (void)rpc;
    (void)request; /* an event wants no answer */
    pass_event(data, METHOD_IMAGE_PROGRESS, message);
}

static void on_plan_event(void *data, struct rpc *rpc, struct rpc_request *request,
                          const ProtobufCMessage *message)
{
    (void)rpc;
    (void)request;
    pass_event(data, METHOD_PLAN_EVENT, message);
}

static void on_console_data(void *data, struct rpc *rpc, struct rpc_request *request,
                            const ProtobufCMessage *message)
{
    (void)rpc;
    (void)request;
    pass_event(data, METHOD_VM_CONSOLE_DATA, message);
}

static const struct rpc_method methods[] = {
    {METHOD_JOB_EVENT, &godwit__job_info__descriptor, on_job_event},
    {METHOD_PLAN_EVENT, &godwit__plan_info__descriptor, on_plan_event},
    {METHOD_VM_CONSOLE_DATA, &godwit__vm_console_data__descriptor, on_console_data},
    {METHOD_IMAGE_PROGRESS, &godwit__image_progress__descriptor, on_image_progress},
};

static void on_closed(void *data, struct rpc *rpc, const struct fault *fault)
{
    struct client *client = data;
    assert(rpc == client->rpc);
    (void)rpc;
    client->connected = false;
    if (client->listener.closed)
        client->listener.closed(client->listener.data, fault);
}

static const struct rpc_service service = {
    .methods = methods, .method_count = ARRAY_COUNT(methods), .on_closed = on_closed};

/* ---- where the pool is ---- */

static bool holds_config(const char *folder)
{
    char path[PATH_MAX];
    if (path_join(path, sizeof path, NULL, "%s/%s", folder, PATHS_OPERATOR_CONFIG) < 0)
        return false;
    return access(path, F_OK) == 0;
}

int client_find_folder(const char *dir, char *ret_path, size_t size, struct fault *fault)
{
    char paths[2][PATH_MAX] = {"", ""};
    if (dir) {
        int r = path_join(paths[0], sizeof paths[0], fault, "%s", dir);
        if (r == 0)
            r = path_join(paths[1], sizeof paths[1], fault, "%s/%s", dir, PATHS_OPERATOR_DIR);
        if (r < 0)
            return r;
    } else {
        const char *home = getenv("HOME");
        if (home && home[0])
            (void)path_join(paths[0], sizeof paths[0], NULL, "%s/.config/godwit", home);
        (void)path_join(paths[1], sizeof paths[1], NULL, "%s/%s", PATHS_STATE_DEFAULT,
                        PATHS_OPERATOR_DIR);
    }
    for (size_t i = 0; i < 2; i++) {
        if (paths[i][0] && holds_config(paths[i]))
            return path_join(ret_path, size, fault, "%s", paths[i]);
    }
    int r =
        fault_set(fault, ERR_UNREACHABLE, "no pool is known here: there is no %s in %s nor in %s",
                  PATHS_OPERATOR_CONFIG, paths[0], paths[1]);
    fault_hint(fault, "%s", dir ? "godwit pool init --help" : "godwit pool init");
    return r;
}

static int read_text(const char *folder, const char *name, char **ret_text, struct fault *fault)
{
    char path[PATH_MAX];
    int r = path_join(path, sizeof path, fault, "%s/%s", folder, name);
    return r < 0 ? r : file_read(path, ret_text, NULL, fault);
}

static int read_identity(struct client *client, struct fault *fault)
{
    AUTO_FREE char *ca = NULL, *certificate = NULL, *key = NULL;
    int r = read_text(client->folder, PATHS_CA_CERTIFICATE, &ca, fault);
    if (r == 0)
        r = read_text(client->folder, "operator.crt", &certificate, fault);
    if (r == 0)
        r = read_text(client->folder, "operator.key", &key, fault);
    if (r < 0)
        return r;
    const struct tls_identity identity = {
        .ca_certificate = ca, .certificate = certificate, .key = key};
    return tls_context_new(&client->tls, &identity, fault);
}

static int read_config(struct client *client, const char *dir, struct fault *fault)
{
    int r = client_find_folder(dir, client->folder, sizeof client->folder, fault);
    if (r < 0)
        return r;
    char path[PATH_MAX];
    r = path_join(path, sizeof path, fault, "%s/%s", client->folder, PATHS_OPERATOR_CONFIG);
    if (r < 0)
        return r;
    struct config *config = NULL;
    r = config_read(&config, path, fault);
    if (r < 0)
        return r;
    const char *address = NULL;
    r = config_need(config, "address", &address, fault);
    if (r == 0)
        (void)snprintf(client->addresses, sizeof client->addresses, "%s", address);
    config_free(config);
    return r;
}

/* ---- connecting ---- */

struct opening {
    struct client *client;
    bool over;
    struct fault fault;
};

static void on_opened(void *data, struct rpc *rpc, const struct fault *fault)
{
    struct client *client = data;
    struct opening *opening = client->listener.data;
    (void)rpc;
    opening->over = true;
    if (fault)
        opening->fault = *fault;
}

static int explain_unreachable(const struct client *client, struct fault *fault)
{
    struct fault reason = *fault;
    int r = fault_set(fault, ERR_UNREACHABLE, "the coordinator at %s does not answer: %.200s",
                      client->address, reason.text);
    fault_hint(fault, "%s", reason.hint[0] ? reason.hint : "godwit doctor");
    return r;
}

static int connect_to(struct client *client, const char *address, struct fault *fault)
{
    (void)snprintf(client->address, sizeof client->address, "%s", address);
    struct client_listener listener = client->listener;
    struct opening opening = {.client = client};
    client->rpc = rpc_close(client->rpc);
    client->connected = false;
    /* While the connection opens nobody else may hear of it. */
    client->listener = (struct client_listener){.data = &opening};
    int r = rpc_connect(&client->rpc, client->loop, client->address, client->tls, "coordinator",
                        &service, client, on_opened, fault);
    while (r == 0 && !opening.over)
        loop_turn(client->loop, true);
    client->listener = listener;
    if (r == 0 && opening.fault.code < 0) {
        client->rpc = rpc_close(client->rpc);
        if (fault)
            *fault = opening.fault;
        r = opening.fault.code;
    }
    if (r < 0)
        return fault ? explain_unreachable(client, fault) : ERR_UNREACHABLE;
    client->connected = true;
    return 0;
}

int client_reconnect(struct client *client, struct fault *fault)
{
    char address[ADDRESS_SIZE];
    struct fault first = {0};
    int r = 0;
    for (size_t i = 0; address_list_get(client->addresses, i, address, sizeof address); i++) {
        struct fault why = {0};
        r = connect_to(client, address, &why);
        if (r == 0)
            return 0;
        if (!first.code)
            first = why;
    }
    if (fault && first.code)
        *fault = first;
    return first.code ? r
                      : fault_set(fault, ERR_INVALID, "%s names no coordinator", client->folder);
}

int client_of(struct context *context, struct client **ret_client, struct fault *fault)
{
    if (context->client) {
        *ret_client = context->client;
        return 0;
    }
    struct client *client = calloc(1, sizeof *client);
    if (!client)
        return fault_set(fault, ERR_NOMEM, "no memory to connect");
    int r = read_config(client, command_text(context->line, "dir"), fault);
    if (r == 0)
        r = read_identity(client, fault);
    if (r == 0)
        r = loop_new(&client->loop, fault);
    if (r == 0)
        r = client_reconnect(client, fault);
    if (r < 0) {
        client_close(client);
        return r;
    }
    *ret_client = context->client = client;
    return 0;
}

struct client *client_close(struct client *client)
{
    if (!client)
        return NULL;
    client->rpc = rpc_close(client->rpc);
    client->tls = tls_context_free(client->tls);
    client->loop = loop_free(client->loop);
    free(client);
    return NULL;
}

/* ---- calls ---- */

struct call {
    const ProtobufCMessageDescriptor *reply_type;
    ProtobufCMessage *reply; /* our own copy: the callback's lives only during it */
    struct fault fault;
    bool over;
};

static ProtobufCMessage *copy_message(const ProtobufCMessage *message)
{
    size_t size = protobuf_c_message_get_packed_size(message);
    AUTO_FREE uint8_t *bytes = malloc(size + 1);
    if (!bytes)
        return NULL;
    (void)protobuf_c_message_pack(message, bytes);
    return protobuf_c_message_unpack(message->descriptor, NULL, size, bytes);
}

static void on_reply(void *data, const ProtobufCMessage *reply, const struct fault *fault)
{
    struct call *call = data;
    call->over = true;
    if (fault) {
        call->fault = *fault;
        return;
    }
    call->reply = copy_message(reply);
    if (!call->reply)
        (void)fault_set(&call->fault, ERR_NOMEM, "no memory for the coordinator's answer");
}

static int call_once(struct client *client, uint16_t method, const ProtobufCMessage *request,
                     const ProtobufCMessageDescriptor *reply, uint64_t timeout_ms, void *ret_reply,
                     struct fault *fault)
{
    if (!client->connected)
        return fault_set(fault, ERR_CLOSED, "the connection to the coordinator at %s is gone",
                         client->address);
    struct call call = {.reply_type = reply};
    int r = rpc_call(client->rpc, method, request, reply, timeout_ms, on_reply, &call, fault);
    if (r < 0)
        return r;
    while (!call.over)
        loop_turn(client->loop, true);
    if (call.fault.code < 0) {
        if (fault)
            *fault = call.fault;
        return call.fault.code;
    }
    assert(call.reply->descriptor == reply);
    *(ProtobufCMessage **)ret_reply = call.reply;
    return 0;
}

static void on_waited(void *data)
{
    *(bool *)data = true;
}

/* Between two leaders there may be none for some seconds. */
static void wait_a_moment(struct client *client)
{
    struct loop_timer *timer = NULL;
    bool is_over = false;
    if (loop_timer_new(&timer, client->loop, on_waited, &is_over, NULL) < 0)
        return;
    loop_timer_start(timer, 200, 0);
    while (!is_over)
        loop_turn(client->loop, true);
    (void)loop_timer_free(timer);
}

/* To whom a coordinator that stands by points, else to any of them. */
static int find_leader(struct client *client, const char *named, struct fault *fault)
{
    if (named[0] && strcmp(named, client->address) != 0 && connect_to(client, named, NULL) == 0)
        return 0;
    wait_a_moment(client);
    return client_reconnect(client, fault);
}

int client_call(struct client *client, uint16_t method, const ProtobufCMessage *request,
                const ProtobufCMessageDescriptor *reply, uint64_t timeout_ms, void *ret_reply,
                struct fault *fault)
{
    uint64_t end_ms = world_now_ms() + CLIENT_LEADER_MS;
    struct fault found;
    for (;;) {
        found = (struct fault){0};
        int r = call_once(client, method, request, reply, timeout_ms, ret_reply, &found);
        if (r == 0)
            return 0;
        /* Refused unheard: it may be said again, elsewhere. */
        if (r != ERR_NOT_LEADER || world_now_ms() > end_ms ||
            find_leader(client, found.hint, &found) < 0)
            break;
    }
    if (fault) {
        *fault = found;
        if (found.code == ERR_NOT_LEADER)
            fault->hint[0] = '\0'; /* an address, no command */
    }
    return found.code;
}

int client_post(struct client *client, uint16_t method, const ProtobufCMessage *request,
                const ProtobufCMessageDescriptor *reply, uint64_t timeout_ms,
                void (*done)(void *data, const ProtobufCMessage *reply, const struct fault *fault),
                void *data, struct fault *fault)
{
    if (!client->connected)
        return fault_set(fault, ERR_CLOSED, "the connection to the coordinator at %s is gone",
                         client->address);
    return rpc_call(client->rpc, method, request, reply, timeout_ms, done, data, fault);
}

int client_send_event(struct client *client, uint16_t method, const ProtobufCMessage *event,
                      struct fault *fault)
{
    if (!client->connected)
        return fault_set(fault, ERR_CLOSED, "the connection to the coordinator at %s is gone",
                         client->address);
    return rpc_send_event(client->rpc, method, event, fault);
}

void client_listen(struct client *client, const struct client_listener *listener)
{
    client->listener = listener ? *listener : (struct client_listener){0};
}

bool client_is_connected(const struct client *client)
{
    return client->connected;
}

struct loop *client_loop(const struct client *client)
{
    return client->loop;
}

void client_turn(struct client *client)
{
    loop_turn(client->loop, true);
}

const char *client_address(const struct client *client)
{
    return client->address;
}

const char *client_folder(const struct client *client)
{
    return client->folder;
}

/* A call's id is its sequence number and its place in the table of calls, so that a reply finds its
 * call in one step, a late reply (the call timed out) is told from a made-up one, and both are
 * harmless.
 *
 * Who may be freed where: every call out (handle, done, opened, on_closed) may rpc_close the rpc.
 * `holds` keeps the memory while we stand in one of them; afterwards `is_closed` is looked at.
 * A request lives until it is answered, longer than its rpc if need be.
 */
#include "net/rpc.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/own.h"
#include "net/conn.h"
#include "net/rpc_accept.h"
#include "net/rpc_frame.h"
#include "proto/common.pb-c.h"
#include "proto/limits.h"

enum {
    CALL_SLOT_BITS = 8,
    ANONYMOUS_BODY_MAX = 64 << 10, /* a stranger has only an enrolment to say */
    PEER_BODY_MAX = 512 << 10,     /* another pool: a VM's spec is the most of it */
};
static_assert(PEER_BODY_MAX >= 2 * SPEC_TEXT_MAX, "a VM's spec has room in what a peer says");
static_assert(RPC_CALLS_MAX == 1 << CALL_SLOT_BITS, "a call's slot is the low byte of its id");

struct rpc_call {
    struct rpc *rpc;
    uint64_t id;
    const ProtobufCMessageDescriptor *reply;
    rpc_done_fn *done;
    void *data;
    struct loop_timer *timer; /* NULL without limit */
    uint64_t timeout_ms;
};

struct rpc_request {
    struct rpc *rpc; /* NULL when the connection has ended */
    struct rpc_request *next, **link;
    uint64_t id;
    uint16_t method;
    size_t fd_count;
    int fds[RPC_FDS_MAX];  /* -1: taken */
    rpc_done_fn *answered; /* NULL: nobody wants to know */
    void *answered_data;
};

struct rpc {
    struct conn *conn;
    struct loop *loop;
    const struct rpc_service *service;
    void *data;
    void (*opened)(void *data, struct rpc *rpc, const struct fault *fault); /* NULL: has come */
    struct loop_timer *greeting; /* a client's wait for the server's hello */
    struct rpc_assembler in;
    uint64_t sequence;
    unsigned call_count, request_count;
    struct rpc_call *calls[RPC_CALLS_MAX];
    struct rpc_request *requests;
    struct pki_identity peer;
    char peer_address[64], local_address[64];
    bool is_limited; /* as a peer's, see rpc_limit_as_peer */
    unsigned holds;
    bool is_client, is_open, is_closed;
};

static void on_conn_opened(void *data);
static void on_conn_bytes(void *data, const uint8_t *bytes, size_t count);
static void on_conn_ended(void *data, const struct fault *fault);

static const struct conn_events conn_events = {
    .opened = on_conn_opened, .bytes = on_conn_bytes, .ended = on_conn_ended};

static void hold(struct rpc *rpc)
{
    rpc->holds++;
}

static void release(struct rpc *rpc)
{
    assert(rpc->holds > 0);
    if (--rpc->holds == 0 && rpc->is_closed)
        free(rpc);
}

/* ---- birth and death ---- */

static int rpc_new(struct rpc **ret_rpc, struct loop *loop, const struct rpc_service *service,
                   void *data, struct fault *fault)
{
    struct rpc *rpc = calloc(1, sizeof *rpc);
    if (!rpc)
        return fault_set(fault, ERR_NOMEM, "no memory for a conversation");
    rpc->loop = loop;
    rpc->service = service;
    rpc->data = data;
    *ret_rpc = rpc;
    return 0;
}

static void learn_peer(struct rpc *rpc)
{
    rpc->peer = *conn_peer(rpc->conn);
    (void)snprintf(rpc->peer_address, sizeof rpc->peer_address, "%s", conn_peer_address(rpc->conn));
    (void)snprintf(rpc->local_address, sizeof rpc->local_address, "%s",
                   conn_local_address(rpc->conn));
}

static void call_free(struct rpc_call *call)
{
    struct rpc *rpc = call->rpc;
    rpc->calls[call->id % RPC_CALLS_MAX] = NULL;
    rpc->call_count--;
    (void)loop_timer_free(call->timer);
    free(call);
}

static void forget_requests(struct rpc *rpc)
{
    while (rpc->requests) {
        struct rpc_request *request = rpc->requests;
        rpc->requests = request->next;
        request->rpc = NULL;
        request->next = NULL;
        request->link = NULL;
    }
    rpc->request_count = 0;
}

static struct rpc *close_with(struct rpc *rpc, struct conn *(*leave)(struct conn *conn))
{
    if (!rpc || rpc->is_closed)
        return NULL;
    rpc->is_closed = true;
    rpc->is_open = false;
    rpc->conn = leave(rpc->conn);
    rpc->greeting = loop_timer_free(rpc->greeting);
    for (size_t i = 0; i < RPC_CALLS_MAX; i++) {
        if (rpc->calls[i])
            call_free(rpc->calls[i]);
    }
    forget_requests(rpc);
    rpc_assembler_deinit(&rpc->in);
    if (rpc->holds == 0)
        free(rpc);
    return NULL;
}

struct rpc *rpc_close(struct rpc *rpc)
{
    return close_with(rpc, conn_free);
}

struct rpc *rpc_close_flushed(struct rpc *rpc)
{
    return close_with(rpc, conn_linger);
}

static void on_greeting_late(void *data)
{
    struct rpc *rpc = data;
    struct fault fault = {0};
    fault_set(&fault, ERR_TIMEOUT, "the server did not greet us in time");
    conn_fail(rpc->conn, &fault);
}

int rpc_connect(struct rpc **ret_rpc, struct loop *loop, const char *address,
                struct tls_context *context, const char *peer_role,
                const struct rpc_service *service, void *data,
                void (*opened)(void *data, struct rpc *rpc, const struct fault *fault),
                struct fault *fault)
{
    assert(opened);
    struct rpc *rpc = NULL;
    int r = rpc_new(&rpc, loop, service, data, fault);
    if (r < 0)
        return r;
    rpc->is_client = true;
    rpc->opened = opened;
    r = loop_timer_new(&rpc->greeting, loop, on_greeting_late, rpc, fault);
    if (r == 0)
        r = conn_connect(&rpc->conn, loop, address, context, peer_role, &conn_events, rpc, fault);
    if (r < 0) {
        (void)rpc_close(rpc);
        return r;
    }
    learn_peer(rpc);
    *ret_rpc = rpc;
    return 0;
}

int rpc_accept(struct rpc **ret_rpc, struct loop *loop, int fd, struct tls_context *context,
               const struct rpc_service *service, void *data,
               void (*opened)(void *data, struct rpc *rpc, const struct fault *fault),
               struct fault *fault)
{
    assert(opened);
    struct rpc *rpc = NULL;
    int r = rpc_new(&rpc, loop, service, data, fault);
    if (r < 0)
        return r;
    rpc->opened = opened;
    r = conn_accept(&rpc->conn, loop, fd, context, &conn_events, rpc, fault);
    if (r < 0) {
        (void)rpc_close(rpc);
        return r;
    }
    learn_peer(rpc);
    *ret_rpc = rpc;
    return 0;
}

int rpc_new_unix(struct rpc **ret_rpc, struct loop *loop, int fd, const struct rpc_service *service,
                 void *data, struct fault *fault)
{
    struct rpc *rpc = NULL;
    int r = rpc_new(&rpc, loop, service, data, fault);
    if (r < 0)
        return r;
    r = conn_new_unix(&rpc->conn, loop, fd, &conn_events, rpc, fault);
    if (r < 0) {
        (void)rpc_close(rpc);
        return r;
    }
    learn_peer(rpc);
    rpc->is_open = true;
    *ret_rpc = rpc;
    return 0;
}

/* ---- the end of the connection ---- */

/* Calls fail in the order they were made; a done may close the rpc, which ends the loop. */
static bool fail_calls(struct rpc *rpc, const struct fault *fault)
{
    while (rpc->call_count > 0) {
        struct rpc_call *oldest = NULL;
        for (size_t i = 0; i < RPC_CALLS_MAX; i++) {
            struct rpc_call *call = rpc->calls[i];
            if (call && (!oldest || call->id >> CALL_SLOT_BITS < oldest->id >> CALL_SLOT_BITS))
                oldest = call;
        }
        assert(oldest);
        rpc_done_fn *done = oldest->done;
        void *data = oldest->data;
        call_free(oldest);
        done(data, NULL, fault);
        if (rpc->is_closed)
            return false;
    }
    return true;
}

static void on_conn_ended(void *data, const struct fault *fault)
{
    struct rpc *rpc = data;
    struct fault why = *fault; /* the conn's own goes with it */
    rpc->conn = conn_free(rpc->conn);
    rpc->is_open = false;
    if (rpc->greeting)
        loop_timer_stop(rpc->greeting);
    forget_requests(rpc);

    hold(rpc);
    if (rpc->opened) {
        void (*opened)(void *data, struct rpc *rpc, const struct fault *fault) = TAKE(rpc->opened);
        opened(rpc->data, rpc, &why);
    } else if (fail_calls(rpc, &why) && rpc->service->on_closed) {
        rpc->service->on_closed(rpc->data, rpc, &why);
    }
    release(rpc);
}

/* ---- sending ---- */

/* A whole message, malloc'ed; NULL without memory. */
static uint8_t *message_new(struct rpc_frame frame, const ProtobufCMessage *body)
{
    uint8_t *message = malloc(RPC_HEADER_BYTES + frame.body_bytes);
    if (!message)
        return NULL;
    rpc_frame_put(message, &frame);
    if (body) {
        size_t packed = protobuf_c_message_pack(body, message + RPC_HEADER_BYTES);
        assert(packed == frame.body_bytes);
    }
    return message;
}

static int send_frame(struct rpc *rpc, struct rpc_frame frame, const ProtobufCMessage *body,
                      const int *fds, struct fault *fault)
{
    size_t body_bytes = body ? protobuf_c_message_get_packed_size(body) : 0;
    if (body_bytes > RPC_BODY_MAX)
        return fault_set(fault, ERR_LIMIT, "a message of %zu bytes, the limit is %d", body_bytes,
                         RPC_BODY_MAX);
    frame.body_bytes = (uint32_t)body_bytes;
    AUTO_FREE uint8_t *message = message_new(frame, body);
    if (!message)
        return fault_set(fault, ERR_NOMEM, "no memory for a message of %zu bytes", body_bytes);
    return conn_send(rpc->conn, message, RPC_HEADER_BYTES + body_bytes, fds, frame.fds, fault);
}

static void on_call_late(void *data)
{
    struct rpc_call *call = data;
    struct fault fault = {0};
    fault_set(&fault, ERR_TIMEOUT, "%s did not answer within %llu ms",
              call->rpc->peer.name[0] ? call->rpc->peer.name : call->rpc->peer_address,
              (unsigned long long)call->timeout_ms);
    rpc_done_fn *done = call->done;
    void *done_data = call->data;
    call_free(call);
    done(done_data, NULL, &fault);
}

static int call_new(struct rpc_call **ret_call, struct rpc *rpc, uint64_t timeout_ms,
                    struct fault *fault)
{
    if (rpc->call_count == RPC_CALLS_MAX)
        return fault_set(fault, ERR_BUSY, "%d calls wait for an answer already", RPC_CALLS_MAX);
    struct rpc_call *call = calloc(1, sizeof *call);
    if (!call)
        return fault_set(fault, ERR_NOMEM, "no memory for a call");
    call->rpc = rpc;
    if (timeout_ms > 0) {
        int r = loop_timer_new(&call->timer, rpc->loop, on_call_late, call, fault);
        if (r < 0) {
            free(call);
            return r;
        }
        loop_timer_start(call->timer, timeout_ms, 0);
    }
    call->timeout_ms = timeout_ms;
    uint64_t slot = ++rpc->sequence % RPC_CALLS_MAX;
    while (rpc->calls[slot])
        slot = (slot + 1) % RPC_CALLS_MAX;
    call->id = rpc->sequence << CALL_SLOT_BITS | slot;
    rpc->calls[slot] = call;
    rpc->call_count++;
    *ret_call = call;
    return 0;
}

int rpc_call_fds(struct rpc *rpc, uint16_t method, const ProtobufCMessage *request, const int *fds,
                 size_t fd_count, const ProtobufCMessageDescriptor *reply, uint64_t timeout_ms,
                 rpc_done_fn *done, void *data, struct fault *fault)
{
    assert(done);
    assert(fd_count <= RPC_FDS_MAX);
    if (!rpc->is_open)
        return fault_set(fault, ERR_CLOSED, "there is no connection to %s", rpc->peer_address);
    if (fd_count > 0 && strcmp(rpc->peer.role, "local") != 0)
        return fault_set(fault, ERR_UNSUPPORTED, "descriptors pass over Unix sockets only");

    struct rpc_call *call = NULL;
    int r = call_new(&call, rpc, timeout_ms, fault);
    if (r < 0)
        return r;
    call->reply = reply;
    call->done = done;
    call->data = data;
    struct rpc_frame frame = {
        .kind = RPC_FRAME_CALL, .method = method, .call = call->id, .fds = (uint8_t)fd_count};
    r = send_frame(rpc, frame, request, fds, fault);
    if (r < 0)
        call_free(call);
    return r;
}

int rpc_call(struct rpc *rpc, uint16_t method, const ProtobufCMessage *request,
             const ProtobufCMessageDescriptor *reply, uint64_t timeout_ms, rpc_done_fn *done,
             void *data, struct fault *fault)
{
    return rpc_call_fds(rpc, method, request, NULL, 0, reply, timeout_ms, done, data, fault);
}

int rpc_send_event(struct rpc *rpc, uint16_t method, const ProtobufCMessage *event,
                   struct fault *fault)
{
    if (!rpc->is_open)
        return fault_set(fault, ERR_CLOSED, "there is no connection to %s", rpc->peer_address);
    struct rpc_frame frame = {.kind = RPC_FRAME_EVENT, .method = method};
    return send_frame(rpc, frame, event, NULL, fault);
}

static int send_fault(struct rpc *rpc, uint16_t method, uint64_t call, const struct fault *fault)
{
    Godwit__Fault words = GODWIT__FAULT__INIT;
    words.has_number = true;
    words.number = -fault->code;
    words.text = (char *)(uintptr_t)fault->text;
    words.hint = fault->hint[0] ? (char *)(uintptr_t)fault->hint : NULL;
    struct rpc_frame frame = {.kind = RPC_FRAME_FAULT, .method = method, .call = call};
    return send_frame(rpc, frame, &words.base, NULL, NULL);
}

/* ---- answering ---- */

static void request_free(struct rpc_request *request)
{
    if (request->rpc) {
        *request->link = request->next;
        if (request->next)
            request->next->link = request->link;
        request->rpc->request_count--;
    }
    for (size_t i = 0; i < request->fd_count; i++) {
        if (request->fds[i] >= 0)
            (void)close(request->fds[i]); /* nobody took it */
    }
    free(request);
}

void rpc_request_watch(struct rpc_request *request, rpc_done_fn *answered, void *data)
{
    assert(!request->answered);
    request->answered = answered;
    request->answered_data = data;
}

static void tell_answer(struct rpc_request *request, const ProtobufCMessage *reply,
                        const struct fault *fault)
{
    rpc_done_fn *answered = TAKE(request->answered);
    if (answered)
        answered(request->answered_data, reply, fault);
}

int rpc_reply(struct rpc_request *request, const ProtobufCMessage *reply)
{
    tell_answer(request, reply, NULL);
    struct rpc *rpc = request->rpc;
    int r = ERR_CLOSED;
    if (rpc && rpc->is_open) {
        struct rpc_frame frame = {
            .kind = RPC_FRAME_REPLY, .method = request->method, .call = request->id};
        struct fault fault = {0};
        r = send_frame(rpc, frame, reply, NULL, &fault);
        if (r < 0 && r != ERR_CLOSED) /* too large: the caller must hear something */
            (void)send_fault(rpc, request->method, request->id, &fault);
    }
    request_free(request);
    return r;
}

int rpc_reply_fault(struct rpc_request *request, const struct fault *fault)
{
    assert(fault->code < 0);
    tell_answer(request, NULL, fault);
    struct rpc *rpc = request->rpc;
    int r = ERR_CLOSED;
    if (rpc && rpc->is_open)
        r = send_fault(rpc, request->method, request->id, fault);
    request_free(request);
    return r;
}

struct rpc *rpc_request_rpc(const struct rpc_request *request)
{
    return request->rpc;
}

int rpc_request_take_fd(struct rpc_request *request, size_t index)
{
    return index < request->fd_count ? TAKE_FD(request->fds[index]) : -1;
}

/* ---- receiving ---- */

/* Words of a peer go to terminals and logs: no control characters, C1 ones (c2 80..9f) included. */
static void copy_words(char *ret_words, size_t room, const char *words)
{
    size_t used = 0;
    for (const uint8_t *at = (const uint8_t *)words; *at && used + 1 < room; at++) {
        uint8_t letter = *at;
        if (letter < 0x20 || letter == 0x7f)
            letter = ' ';
        else if (letter >= 0x80 && letter <= 0x9f && at != (const uint8_t *)words && at[-1] == 0xc2)
            ret_words[used - 1] = letter = '?';
        ret_words[used++] = (char)letter;
    }
    if (used + 1 == room) { /* cut: not within a letter of several bytes */
        while (used > 0 && ((uint8_t)ret_words[used - 1] & 0xc0) == 0x80)
            used--;
        if (used > 0 && (uint8_t)ret_words[used - 1] >= 0xc0)
            used--;
    }
    ret_words[used] = '\0';
}

static void read_fault(const struct rpc_assembler *in, struct fault *ret_fault)
{
    Godwit__Fault *words = godwit__fault__unpack(NULL, in->body_bytes, in->body);
    if (!words) {
        fault_set(ret_fault, ERR_CORRUPT, "the peer's failure came garbled");
        return;
    }
    *ret_fault = (struct fault){.code = err_from_number(words->has_number ? words->number : 0)};
    if (words->text)
        copy_words(ret_fault->text, sizeof ret_fault->text, words->text);
    if (words->hint)
        copy_words(ret_fault->hint, sizeof ret_fault->hint, words->hint);
    if (!ret_fault->text[0])
        (void)snprintf(ret_fault->text, sizeof ret_fault->text, "%s", err_name(ret_fault->code));
    godwit__fault__free_unpacked(words, NULL);
}

/* The three on_frame_* below return 0 or a failure that ends the connection. */

static int on_answer(struct rpc *rpc, struct fault *fault)
{
    const struct rpc_frame *frame = &rpc->in.frame;
    if (frame->call >> CALL_SLOT_BITS > rpc->sequence || frame->call >> CALL_SLOT_BITS == 0)
        return fault_set(fault, ERR_CORRUPT, "an answer to a call that was never made");
    struct rpc_call *call = rpc->calls[frame->call % RPC_CALLS_MAX];
    if (!call || call->id != frame->call)
        return 0; /* it came too late: done has heard so */

    ProtobufCMessage *reply = NULL;
    struct fault why = {0};
    if (frame->kind == RPC_FRAME_FAULT)
        read_fault(&rpc->in, &why);
    else
        reply = protobuf_c_message_unpack(call->reply, NULL, rpc->in.body_bytes, rpc->in.body);
    if (!reply && why.code == 0)
        fault_set(&why, ERR_CORRUPT, "the answer from %s came garbled", rpc->peer_address);

    rpc_done_fn *done = call->done;
    void *data = call->data;
    call_free(call);
    done(data, reply, reply ? NULL : &why);
    if (reply)
        protobuf_c_message_free_unpacked(reply, NULL);
    return 0;
}

static const struct rpc_method *find_method(const struct rpc *rpc, uint16_t method)
{
    for (size_t i = 0; i < rpc->service->method_count; i++) {
        if (rpc->service->methods[i].method == method)
            return &rpc->service->methods[i];
    }
    return NULL;
}

static int request_new(struct rpc_request **ret_request, struct rpc *rpc, struct fault *fault)
{
    const struct rpc_frame *frame = &rpc->in.frame;
    struct rpc_request *request = calloc(1, sizeof *request);
    if (!request)
        return fault_set(fault, ERR_NOMEM, "no memory for a request");
    int r = conn_take_fds(rpc->conn, request->fds, frame->fds, fault);
    if (r < 0) {
        free(request);
        return r;
    }
    request->fd_count = frame->fds;
    request->id = frame->call;
    request->method = frame->method;
    request->rpc = rpc;
    request->next = rpc->requests;
    request->link = &rpc->requests;
    if (request->next)
        request->next->link = &request->next;
    rpc->requests = request;
    rpc->request_count++;
    *ret_request = request;
    return 0;
}

static int on_call(struct rpc *rpc, struct fault *fault)
{
    struct rpc_request *request = NULL;
    int r = request_new(&request, rpc, fault);
    if (r < 0)
        return r;

    struct fault why = {0};
    const struct rpc_method *method = find_method(rpc, request->method);
    ProtobufCMessage *message = NULL;
    if (rpc->request_count > RPC_CALLS_MAX)
        fault_set(&why, ERR_BUSY, "%d calls of this connection wait already", RPC_CALLS_MAX);
    else if (!method)
        fault_set(&why, ERR_UNSUPPORTED, "the method %u is not served here", request->method);
    else if (!(message = protobuf_c_message_unpack(method->request, NULL, rpc->in.body_bytes,
                                                   rpc->in.body)))
        fault_set(&why, ERR_CORRUPT, "the request of method %u came garbled", request->method);
    if (why.code != 0) {
        (void)rpc_reply_fault(request, &why); /* if it does not arrive, the connection has ended */
        return 0;
    }
    method->handle(rpc->data, rpc, request, message);
    protobuf_c_message_free_unpacked(message, NULL);
    return 0;
}

static int on_event(struct rpc *rpc, struct fault *fault)
{
    (void)fault; /* an event that we do not understand is no reason to part */
    const struct rpc_method *method = find_method(rpc, rpc->in.frame.method);
    ProtobufCMessage *message =
        method ? protobuf_c_message_unpack(method->request, NULL, rpc->in.body_bytes, rpc->in.body)
               : NULL;
    if (!message) {
        log_debug("rpc", "event not understood method=%u peer=%s", rpc->in.frame.method,
                  rpc->peer_address);
        return 0;
    }
    method->handle(rpc->data, rpc, NULL, message);
    protobuf_c_message_free_unpacked(message, NULL);
    return 0;
}

static void tell_opened(struct rpc *rpc)
{
    void (*opened)(void *data, struct rpc *rpc, const struct fault *fault) = TAKE(rpc->opened);
    rpc->is_open = true;
    opened(rpc->data, rpc, NULL);
}

static int on_hello(struct rpc *rpc, struct fault *fault)
{
    const struct rpc_frame *frame = &rpc->in.frame;
    if (!rpc->is_client || !rpc->opened)
        return fault_set(fault, ERR_CORRUPT, "a greeting out of its turn");
    if (frame->call > PROTOCOL_VERSION || frame->method < PROTOCOL_VERSION_MIN)
        return fault_set(
            fault, ERR_UNSUPPORTED, "the server speaks versions %llu to %u, we speak %d to %d",
            (unsigned long long)frame->call, frame->method, PROTOCOL_VERSION_MIN, PROTOCOL_VERSION);
    loop_timer_stop(rpc->greeting);
    tell_opened(rpc);
    return 0;
}

static int on_frame(struct rpc *rpc, struct fault *fault)
{
    if (!rpc->is_open && rpc->in.frame.kind != RPC_FRAME_HELLO)
        return fault_set(fault, ERR_CORRUPT, "a message before the greeting");
    switch ((enum rpc_frame_kind)rpc->in.frame.kind) {
    case RPC_FRAME_CALL:
        return on_call(rpc, fault);
    case RPC_FRAME_REPLY:
    case RPC_FRAME_FAULT:
        return on_answer(rpc, fault);
    case RPC_FRAME_EVENT:
        return on_event(rpc, fault);
    case RPC_FRAME_HELLO:
        return on_hello(rpc, fault);
    case RPC_FRAME_KIND_END:
        break;
    }
    assert(false && "rpc_frame_get lets no other kind through");
    return 0;
}

void rpc_limit_as_peer(struct rpc *rpc)
{
    rpc->is_limited = true;
}

static uint32_t body_max_of(const struct rpc *rpc)
{
    const char *role = rpc->peer.role;
    if (!role[0])
        return ANONYMOUS_BODY_MAX;
    return rpc->is_limited || strcmp(role, "peer") == 0 ? PEER_BODY_MAX : RPC_BODY_MAX;
}

static void on_conn_bytes(void *data, const uint8_t *bytes, size_t count)
{
    struct rpc *rpc = data;
    uint32_t body_max = body_max_of(rpc);
    struct fault fault = {0};
    hold(rpc);
    while (count > 0) {
        int r = rpc_assembler_feed(&rpc->in, &bytes, &count, body_max, &fault);
        if (r == 0)
            break;
        if (r == RPC_FRAME_E_WHOLE) {
            r = on_frame(rpc, &fault);
            if (rpc->is_closed)
                break;
            rpc_assembler_next(&rpc->in);
        }
        if (r < 0) {
            fault_wrap(&fault, r, "a bad message from the peer");
            conn_fail(rpc->conn, &fault);
            break;
        }
    }
    release(rpc);
}

static void on_conn_opened(void *data)
{
    struct rpc *rpc = data;
    learn_peer(rpc);
    if (rpc->is_client) {
        loop_timer_start(rpc->greeting, GREET_MS_MAX, 0);
        return;
    }
    struct rpc_frame frame = {
        .kind = RPC_FRAME_HELLO, .method = PROTOCOL_VERSION, .call = PROTOCOL_VERSION_MIN};
    if (send_frame(rpc, frame, NULL, NULL, NULL) < 0)
        return; /* the conn tells its end by itself */
    hold(rpc);
    tell_opened(rpc);
    release(rpc);
}

/* ---- questions ---- */

void rpc_set_data(struct rpc *rpc, void *data)
{
    rpc->data = data;
}

void *rpc_data(const struct rpc *rpc)
{
    return rpc->data;
}

const struct pki_identity *rpc_peer(const struct rpc *rpc)
{
    return &rpc->peer;
}

const char *rpc_peer_address(const struct rpc *rpc)
{
    return rpc->peer_address;
}

const char *rpc_local_address(const struct rpc *rpc)
{
    return rpc->local_address;
}

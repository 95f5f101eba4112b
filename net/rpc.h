/* Calls, replies and events between two processes: one symmetrical conversation over mutual TLS or
 * a Unix socket (which can also pass file descriptors).
 *
 * Flow:   cli -> [rpc] -> coordinator -> [rpc] -> agent -> [rpc] -> agent/vm
 * Thread: the loop's.
 *
 * A frame is 16 bytes of header (u32 body bytes, u8 kind, u8 flags, u16 method, u64 call id, all
 * little-endian) and a protobuf body. Methods are rows of the enum in proto/method.h; both ends may
 * call. Bad frames end the connection with a reason; a message of an unknown method gets a fault.
 * The happy path of a call: rpc_call -> peer's handler -> rpc_reply -> done(reply, NULL).
 * Otherwise done(NULL, fault) comes exactly once: the peer's fault, a time-out, or the end of the
 * connection. After rpc_close neither done nor on_closed is called.
 */
#ifndef GODWIT_NET_RPC_H
#define GODWIT_NET_RPC_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "net/pki.h"

struct fault;
struct loop;
struct rpc;
struct rpc_request; /* one call of the peer that waits for our answer */
struct rpc_server;
struct tls_context;

/* A row of what we serve. `request` is the descriptor the body is unpacked with. */
struct rpc_method {
    uint16_t method;
    const ProtobufCMessageDescriptor *request;
    /* `message` is borrowed for the call. Answer now or later, exactly once, by rpc_reply or
     * rpc_reply_fault. For events (calls that want no answer) `request` is NULL. */
    void (*handle)(void *data, struct rpc *rpc, struct rpc_request *request,
                   const ProtobufCMessage *message);
};

struct rpc_service {
    const struct rpc_method *methods;
    size_t method_count;
    /* The connection ended (never after our own rpc_close). The rpc is still to be freed. */
    void (*on_closed)(void *data, struct rpc *rpc, const struct fault *fault);
};

/* ---- TLS identities ---- */
struct tls_identity { /* PEM texts, borrowed during tls_context_new */
    const char *ca_certificate; /* NULL with pin: trust the chain whose root has that pin */
    const char *pin;
    const char *certificate, *key; /* NULL: an anonymous client (enrolment only) */
    bool allow_anonymous_peer;     /* server: let clients without certificate in, as role "" */
};
int tls_context_new(struct tls_context **ret_context, const struct tls_identity *identity,
                    struct fault *fault);
struct tls_context *tls_context_free(struct tls_context *context); /* drops a reference */

/* ---- connections ---- */
/* Connect to "host:port" or "[v6]:port". `opened` comes once: with a NULL fault when the handshake
 * is done and the peer's role is `peer_role`, else with a fault and the rpc is only fit for
 * rpc_close. `service` and `data` must outlive the rpc. `context` gets a reference. */
int rpc_connect(struct rpc **ret_rpc, struct loop *loop, const char *address,
                struct tls_context *context, const char *peer_role,
                const struct rpc_service *service, void *data,
                void (*opened)(void *data, struct rpc *rpc, const struct fault *fault),
                struct fault *fault);
/* Over an already connected Unix stream socket; takes fd when it returns 0. Ready at once. */
int rpc_new_unix(struct rpc **ret_rpc, struct loop *loop, int fd,
                 const struct rpc_service *service, void *data, struct fault *fault);
/* Ends it at once; calls under way are forgotten. NULL is fine; may be called in a callback. */
struct rpc *rpc_close(struct rpc *rpc);
/* Let what is queued go out first, then close: at the latest when the peer took nothing for 2 s, or
 * after 30 s. */
struct rpc *rpc_close_flushed(struct rpc *rpc);

void rpc_set_data(struct rpc *rpc, void *data);
void *rpc_data(const struct rpc *rpc);
/* Who the peer proved to be; role "" for anonymous, "local" on a Unix socket (with pid and uid by
 * SO_PEERCRED in name as "uid:pid"). */
const struct pki_identity *rpc_peer(const struct rpc *rpc);
/* A peer that is another pool: its messages may be as large as a pool's that calls us, whoever called. */
void rpc_limit_as_peer(struct rpc *rpc);
/* "10.0.0.2:4123" or "unix". */
const char *rpc_peer_address(const struct rpc *rpc);
/* The TCP address of our own end, without port; "" for unix. */
const char *rpc_local_address(const struct rpc *rpc);

/* ---- talking ---- */
typedef void rpc_done_fn(void *data, const ProtobufCMessage *reply, const struct fault *fault);
/* `reply` is the descriptor that the answer is unpacked with. `timeout_ms` 0: no limit. */
int rpc_call(struct rpc *rpc, uint16_t method, const ProtobufCMessage *request,
             const ProtobufCMessageDescriptor *reply, uint64_t timeout_ms, rpc_done_fn *done,
             void *data, struct fault *fault);
/* The same with descriptors (Unix only); they are duplicated by the kernel, still yours. */
int rpc_call_fds(struct rpc *rpc, uint16_t method, const ProtobufCMessage *request, const int *fds,
                 size_t fd_count, const ProtobufCMessageDescriptor *reply, uint64_t timeout_ms,
                 rpc_done_fn *done, void *data, struct fault *fault);
/* A call that wants no answer. */
int rpc_send_event(struct rpc *rpc, uint16_t method, const ProtobufCMessage *event,
                   struct fault *fault);

int rpc_reply(struct rpc_request *request, const ProtobufCMessage *reply);
/* Sends code, text, hint. */
int rpc_reply_fault(struct rpc_request *request, const struct fault *fault);
/* Tell what it is answered with, or that it is refused; once, from inside rpc_reply. */
void rpc_request_watch(struct rpc_request *request, rpc_done_fn *answered, void *data);
/* The connection a request came on, NULL when it has ended meanwhile (answers are then dropped). */
struct rpc *rpc_request_rpc(const struct rpc_request *request);
/* Take descriptor `index` that came with the request; -1 when there is none. Those not taken are
 * closed with the request. */
int rpc_request_take_fd(struct rpc_request *request, size_t index);

/* ---- listening ---- */
struct rpc_server_config {
    const char *address;         /* "0.0.0.0:7411"; port 0 picks one */
    struct tls_context *context; /* gets a reference */
    int unix_fd;                 /* or: a listening Unix socket, taken; -1 for TCP */
    const struct rpc_service *service;
    void *data;
    /* A peer is there, handshake done. Set its data by rpc_set_data; it is yours to close. */
    void (*on_peer)(void *data, struct rpc *rpc);
};
int rpc_server_new(struct rpc_server **ret_server, struct loop *loop,
                   const struct rpc_server_config *config, struct fault *fault);
struct rpc_server *rpc_server_free(struct rpc_server *server);
uint16_t rpc_server_port(const struct rpc_server *server);

/* A listening Unix socket at `path` (mode 0600; a stale socket file is replaced), or a connected
 * one to it. */
int unix_listen(const char *path, int *ret_fd, struct fault *fault);
int unix_connect(const char *path, int *ret_fd, struct fault *fault);

#endif

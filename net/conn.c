/* The life of a connection:
 *
 *   RESOLVE -> CONNECT (an address after the other) -> HANDSHAKE -> OPEN -> FAILED -> freed
 *                                     accept ^      unix ^   |
 *                                                            +-> LINGER -> freed
 *
 * One timer serves all states: it is the deadline of RESOLVE, CONNECT, HANDSHAKE and LINGER, and in
 * FAILED it brings `ended` in a turn of its own, so that no call of ours ever calls back.
 * Reading and writing stand under one hold of on_ready, which keeps the memory while a call out
 * frees the conn; every call out is followed by a look at `is_freed`.
 */
#include "net/conn.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <uv.h>

#include "base/err.h"
#include "base/loop.h"
#include "base/own.h"
#include "base/world.h"
#include "net/byte_queue.h"
#include "net/fdpass.h"
#include "net/rpc.h"
#include "net/tcp.h"
#include "net/tls.h"
#include "net/tls_lane.h"
#include "proto/limits.h"

enum {
    LINGER_QUIET_MS_MAX = 2000, /* nothing went out for so long */
    LINGER_MS_MAX = 30000,
    READ_BYTES = 64 << 10,
    READS_PER_TURN_MAX = 4, /* then others have their turn */
    FDS_WAITING_MAX = RPC_CALLS_MAX,
};

enum conn_state { CONN_RESOLVE, CONN_CONNECT, CONN_HANDSHAKE, CONN_OPEN, CONN_LINGER, CONN_FAILED };

/* A name look-up outlives the conn that asked for it. */
struct resolve {
    uv_getaddrinfo_t uv;
    struct conn *conn; /* NULL when it is gone */
};

/* Descriptors that leave with the byte at `at` (counted over the connection's life). */
struct parcel {
    struct parcel *next;
    uint64_t at;
    size_t count;
    int fds[RPC_FDS_MAX];
};

struct conn {
    enum conn_state state;
    struct loop *loop;
    const struct conn_events *events;
    void *data;
    int fd;
    struct loop_poll *poll;
    struct loop_timer *timer;
    unsigned watched; /* LOOP_* bits set on poll */

    struct tls_session *tls; /* NULL on a Unix socket */
    char *asked;             /* the address as given, for words; NULL when accepted */
    char role[PKI_ROLE_MAX]; /* that the peer must have; "" when accepted */
    struct resolve *resolve;
    struct addrinfo *addresses, *next_address;
    uint64_t connect_until_ms;

    struct byte_queue out;
    uint64_t out_taken; /* bytes that have left `out` */
    struct parcel *parcels, **last_parcel;
    int fds_in[FDS_WAITING_MAX];
    size_t fds_in_count;

    struct pki_identity peer;
    char peer_address[TCP_ADDRESS_SIZE], local_address[TCP_ADDRESS_SIZE];
    struct fault fault; /* why it ends, in FAILED */
    unsigned holds;
    bool is_freed;
    bool is_shut; /* LINGER: our direction is closed */
    uint64_t linger_until_ms;
};

static void on_ready(void *data, unsigned events);
static void on_deadline(void *data);
static void connect_next(struct conn *conn);

/* ---- birth and death ---- */

static int conn_new(struct conn **ret_conn, struct loop *loop, const struct conn_events *events,
                    void *data, struct fault *fault)
{
    struct conn *conn = calloc(1, sizeof *conn);
    if (!conn)
        return fault_set(fault, ERR_NOMEM, "no memory for a connection");
    conn->loop = loop;
    conn->events = events;
    conn->data = data;
    conn->fd = -1;
    conn->last_parcel = &conn->parcels;
    int r = loop_timer_new(&conn->timer, loop, on_deadline, conn, fault);
    if (r < 0) {
        free(conn);
        return r;
    }
    *ret_conn = conn;
    return 0;
}

static void drop_socket(struct conn *conn)
{
    conn->poll = loop_poll_free(conn->poll);
    if (conn->fd >= 0)
        (void)close(conn->fd); /* its bytes are lost or delivered; close can tell us nothing */
    conn->fd = -1;
    conn->watched = 0;
}

static void drop_parcel(struct conn *conn)
{
    struct parcel *parcel = conn->parcels;
    for (size_t i = 0; i < parcel->count; i++)
        (void)close(parcel->fds[i]); /* our duplicates */
    conn->parcels = parcel->next;
    if (!conn->parcels)
        conn->last_parcel = &conn->parcels;
    free(parcel);
}

struct conn *conn_free(struct conn *conn)
{
    if (!conn)
        return NULL;
    if (!conn->is_freed) {
        conn->is_freed = true;
        drop_socket(conn);
        conn->timer = loop_timer_free(conn->timer);
        if (conn->resolve) {
            conn->resolve->conn = NULL;
            (void)uv_cancel((uv_req_t *)&conn->resolve->uv); /* too late is fine */
            conn->resolve = NULL;
        }
        conn->tls = tls_session_free(conn->tls);
        uv_freeaddrinfo(conn->addresses);
        free(conn->asked);
        byte_queue_deinit(&conn->out);
        while (conn->parcels)
            drop_parcel(conn);
        for (size_t i = 0; i < conn->fds_in_count; i++)
            (void)close(conn->fds_in[i]); /* nobody took them */
    }
    if (conn->holds == 0)
        free(conn);
    return NULL;
}

static void hold(struct conn *conn)
{
    conn->holds++;
}

static void release(struct conn *conn)
{
    assert(conn->holds > 0);
    if (--conn->holds == 0 && conn->is_freed)
        free(conn);
}

static void watch(struct conn *conn, unsigned events)
{
    if (conn->poll && conn->watched != events) {
        conn->watched = events;
        loop_poll_set(conn->poll, events);
    }
}

void conn_fail(struct conn *conn, const struct fault *fault)
{
    assert(fault->code < 0);
    if (conn->state == CONN_FAILED || conn->is_freed)
        return;
    if (conn->state == CONN_LINGER) { /* nobody listens any more */
        (void)conn_free(conn);
        return;
    }
    conn->state = CONN_FAILED;
    conn->fault = *fault;
    watch(conn, 0);
    loop_timer_start(conn->timer, 0, 0);
}

static void fail(struct conn *conn, int code, const char *words)
{
    struct fault fault = {0};
    fault_set(&fault, code, "%s", words);
    conn_fail(conn, &fault);
}

static void fail_errno(struct conn *conn, int errno_value, const char *words)
{
    struct fault fault = {0};
    fault_set_errno(&fault, err_from_errno(errno_value), errno_value, "%s", words);
    conn_fail(conn, &fault);
}

/* ---- sending ---- */

static void take_wire_bytes(struct conn *conn)
{
    const uint8_t *bytes;
    size_t count = conn->tls ? tls_session_wire(conn->tls, &bytes) : 0;
    if (count == 0)
        return;
    int r = byte_queue_put(&conn->out, bytes, count);
    tls_session_wire_taken(conn->tls);
    if (r < 0)
        fail(conn, ERR_NOMEM, "no memory for the bytes to the peer");
}

static ssize_t send_some(struct conn *conn)
{
    const struct parcel *parcel = conn->parcels;
    const int *fds = NULL;
    size_t fd_count = 0, count = conn->out.count;
    if (parcel && parcel->at == conn->out_taken) {
        fds = parcel->fds;
        fd_count = parcel->count;
        parcel = parcel->next;
    }
    if (parcel && parcel->at - conn->out_taken < count)
        count = (size_t)(parcel->at - conn->out_taken); /* up to the next parcel */
    ssize_t sent = fdpass_send(conn->fd, byte_queue_front(&conn->out), count, fds, fd_count);
    if (sent > 0) {
        if (fd_count > 0)
            drop_parcel(conn);
        conn->out_taken += (uint64_t)sent;
        byte_queue_drop(&conn->out, (size_t)sent);
    }
    return sent;
}

/* There is a socket, and it carries bytes. */
static bool is_live(const struct conn *conn)
{
    return !conn->is_freed && (conn->state == CONN_HANDSHAKE || conn->state == CONN_OPEN ||
                               conn->state == CONN_LINGER);
}

/* A peer that reads slowly gets all, one that does not read is not waited for. */
static void linger_on(struct conn *conn)
{
    uint64_t now_ms = world_now_ms();
    uint64_t left_ms = conn->linger_until_ms > now_ms ? conn->linger_until_ms - now_ms : 0;
    loop_timer_start(conn->timer, left_ms < LINGER_QUIET_MS_MAX ? left_ms : LINGER_QUIET_MS_MAX, 0);
}

/* Push what is queued; may end the connection, and free it in LINGER. */
static void flush(struct conn *conn)
{
    take_wire_bytes(conn);
    while (is_live(conn) && conn->out.count > 0) {
        ssize_t sent = send_some(conn);
        if (sent == -EAGAIN || sent == -ENOBUFS)
            break;
        if (sent < 0) {
            fail_errno(conn, (int)-sent, "sending to the peer");
            return;
        }
        if (conn->state == CONN_LINGER)
            linger_on(conn);
    }
    if (!is_live(conn))
        return;
    if (conn->state == CONN_LINGER && conn->out.count == 0 && !conn->is_shut) {
        conn->is_shut = true;
        (void)shutdown(conn->fd, SHUT_WR); /* fails when the peer is gone: reading finds that */
    }
    watch(conn, LOOP_READABLE | (conn->out.count > 0 ? LOOP_WRITABLE : 0u));
}

static int queue_parcel(struct conn *conn, const int *fds, size_t count, struct fault *fault)
{
    assert(!conn->tls);
    assert(count <= RPC_FDS_MAX);
    struct parcel *parcel = calloc(1, sizeof *parcel);
    if (!parcel)
        return fault_set(fault, ERR_NOMEM, "no memory to pass descriptors");
    parcel->at = conn->out_taken + conn->out.count;
    *conn->last_parcel = parcel;
    conn->last_parcel = &parcel->next;
    for (size_t i = 0; i < count; i++) {
        int fd = fcntl(fds[i], F_DUPFD_CLOEXEC, 0);
        if (fd < 0)
            return fault_set_errno(fault, ERR_IO, errno, "passing descriptor %d", fds[i]);
        parcel->fds[parcel->count++] = fd;
    }
    return 0;
}

static int queue_bytes(struct conn *conn, const void *bytes, size_t count, struct fault *fault)
{
    if (count > RPC_SEND_QUEUE_MAX || conn->out.count > RPC_SEND_QUEUE_MAX - count)
        return fault_set(fault, ERR_LIMIT, "the peer does not read: %d MiB wait for it",
                         RPC_SEND_QUEUE_MAX >> 20);
    if (conn->tls)
        return tls_session_write(conn->tls, bytes, count, fault);
    if (byte_queue_put(&conn->out, bytes, count) < 0)
        return fault_set(fault, ERR_NOMEM, "no memory for the bytes to the peer");
    return 0;
}

int conn_send(struct conn *conn, const void *bytes, size_t count, const int *fds, size_t fd_count,
              struct fault *fault)
{
    assert(count > 0);
    if (conn->state != CONN_OPEN)
        return fault_set(fault, ERR_CLOSED, "the connection is not open");
    struct fault why = {0};
    int r = fd_count > 0 ? queue_parcel(conn, fds, fd_count, &why) : 0;
    if (r == 0)
        r = queue_bytes(conn, bytes, count, &why);
    if (r < 0) { /* half of a message may be queued: nothing may follow it */
        conn_fail(conn, &why);
        if (fault)
            *fault = why;
        return r;
    }
    flush(conn);
    return 0;
}

/* ---- receiving ---- */

static bool tell_bytes(struct conn *conn, const uint8_t *bytes, size_t count)
{
    if (conn->state == CONN_LINGER)
        return true; /* read only to keep the peer's bytes from turning into a reset */
    conn->events->bytes(conn->data, bytes, count);
    return !conn->is_freed && conn->state != CONN_FAILED;
}

static void judge_peer(struct conn *conn)
{
    struct fault fault = {0};
    int r = tls_session_peer(conn->tls, &conn->peer, &fault);
    if (r == 0 && conn->role[0] && strcmp(conn->peer.role, conn->role) != 0)
        r = fault_set(&fault, ERR_DENIED, "it is the %s '%s', not a %s", conn->peer.role,
                      conn->peer.name, conn->role);
    if (r < 0) {
        conn_fail(conn, &fault);
        return;
    }
    conn->state = CONN_OPEN;
    loop_timer_stop(conn->timer);
}

/* Says whether plain bytes may follow. */
static bool shake_hands(struct conn *conn)
{
    struct fault fault = {0};
    int r = tls_session_handshake(conn->tls, &fault);
    flush(conn); /* an alert, too, is for the peer to hear */
    if (conn->state != CONN_HANDSHAKE || r == TLS_E_MORE)
        return false;
    if (r < 0) {
        conn_fail(conn, &fault);
        return false;
    }
    judge_peer(conn);
    if (conn->state != CONN_OPEN)
        return false;
    conn->events->opened(conn->data);
    return !conn->is_freed && conn->state != CONN_FAILED;
}

static void pump_tls(struct conn *conn, const uint8_t *wire, size_t wire_count)
{
    struct fault fault = {0};
    int r = tls_session_feed(conn->tls, wire, wire_count, &fault);
    if (r < 0) {
        conn_fail(conn, &fault);
        return;
    }
    if (conn->state == CONN_HANDSHAKE && !shake_hands(conn))
        return;

    uint8_t plain[16 << 10];
    size_t count;
    while ((r = tls_session_read(conn->tls, plain, sizeof plain, &count, &fault)) == 0) {
        if (!tell_bytes(conn, plain, count))
            return;
    }
    flush(conn);
    if (r == TLS_E_END)
        fail(conn, ERR_CLOSED, "the peer closed the connection");
    else if (r < 0)
        conn_fail(conn, &fault);
}

static ssize_t receive(struct conn *conn, uint8_t *buffer)
{
    if (conn->tls) {
        ssize_t got;
        do {
            got = recv(conn->fd, buffer, READ_BYTES, MSG_DONTWAIT);
        } while (got < 0 && errno == EINTR);
        return got < 0 ? -errno : got;
    }
    int fds[RPC_FDS_MAX];
    size_t fd_count = 0;
    ssize_t got = fdpass_receive(conn->fd, buffer, READ_BYTES, fds, &fd_count);
    if (fd_count > FDS_WAITING_MAX - conn->fds_in_count) {
        for (size_t i = 0; i < fd_count; i++)
            (void)close(fds[i]); /* more than any honest peer has under way */
        return -EMSGSIZE;
    }
    for (size_t i = 0; i < fd_count; i++)
        conn->fds_in[conn->fds_in_count++] = fds[i];
    return got;
}

/* `is_gone`: libuv has stopped watching a broken socket, so this is the last chance to read. */
static void on_readable(struct conn *conn, bool is_gone)
{
    uint8_t buffer[READ_BYTES];
    for (int i = 0; (i < READS_PER_TURN_MAX || is_gone) && is_live(conn); i++) {
        ssize_t got = receive(conn, buffer);
        if (got == -EAGAIN) {
            if (is_gone)
                fail(conn, ERR_CLOSED, "the connection broke");
            return;
        }
        if (got == -EMSGSIZE) {
            fail(conn, ERR_LIMIT, "the peer sent too many descriptors");
            return;
        }
        if (got < 0) {
            fail_errno(conn, (int)-got, "receiving from the peer");
            return;
        }
        if (got == 0) {
            fail(conn, ERR_CLOSED, "the peer is gone: the connection ended");
            return;
        }
        if (conn->tls)
            pump_tls(conn, buffer, (size_t)got);
        else
            (void)tell_bytes(conn, buffer, (size_t)got); /* the loop's condition asks again */
        if ((size_t)got < READ_BYTES && !is_gone)
            return;
    }
}

/* ---- connecting ---- */

static void fill_addresses(struct conn *conn)
{
    struct sockaddr_storage address;
    socklen_t size = sizeof address;
    if (getpeername(conn->fd, (struct sockaddr *)&address, &size) == 0)
        tcp_address_text((struct sockaddr *)&address, size, true, conn->peer_address);
    size = sizeof address;
    if (getsockname(conn->fd, (struct sockaddr *)&address, &size) == 0)
        tcp_address_text((struct sockaddr *)&address, size, false, conn->local_address);
}

static void start_handshake(struct conn *conn)
{
    struct fault fault = {0};
    conn->state = CONN_HANDSHAKE;
    fill_addresses(conn);
    loop_timer_start(conn->timer, CONNECT_MS_MAX, 0);
    int r = tls_session_handshake(conn->tls, &fault); /* a client's first words */
    if (r < 0)
        conn_fail(conn, &fault);
    else
        flush(conn);
}

static void on_connected(struct conn *conn)
{
    int error = 0;
    socklen_t size = sizeof error;
    if (getsockopt(conn->fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0)
        error = errno;
    if (error == 0) {
        start_handshake(conn);
        return;
    }
    fault_set_errno(&conn->fault, err_from_errno(error), error, "connecting");
    connect_next(conn);
}

/* 0, or what went wrong with this address. */
static int connect_one(struct conn *conn, const struct addrinfo *info)
{
    conn->fd = socket(info->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (conn->fd < 0)
        return fault_set_errno(&conn->fault, ERR_IO, errno, "connecting");
    int r = tcp_set_options(conn->fd, &conn->fault);
    if (r < 0)
        return r;
    if (connect(conn->fd, info->ai_addr, info->ai_addrlen) < 0 && errno != EINPROGRESS)
        return fault_set_errno(&conn->fault, err_from_errno(errno), errno, "connecting");
    r = loop_poll_new(&conn->poll, conn->loop, conn->fd, on_ready, conn, &conn->fault);
    if (r < 0)
        return r;
    watch(conn, LOOP_WRITABLE);
    return 0;
}

static void give_up_connecting(struct conn *conn)
{
    struct fault why = conn->fault;
    if (why.code == 0)
        fault_set(&why, ERR_TIMEOUT, "connecting: no answer within %d s", CONNECT_MS_MAX / 1000);
    conn_fail(conn, &why);
}

/* The time that is left is shared among the addresses that are left. */
static void connect_next(struct conn *conn)
{
    uint64_t now_ms = world_now_ms();
    drop_socket(conn);
    while (conn->next_address && now_ms < conn->connect_until_ms) {
        const struct addrinfo *info = conn->next_address;
        uint64_t addresses = 0;
        for (const struct addrinfo *i = info; i; i = i->ai_next)
            addresses++;
        conn->next_address = info->ai_next;
        if (connect_one(conn, info) == 0) {
            loop_timer_start(conn->timer, (conn->connect_until_ms - now_ms) / addresses, 0);
            return;
        }
        drop_socket(conn);
    }
    give_up_connecting(conn);
}

static void on_resolved(uv_getaddrinfo_t *uv, int status, struct addrinfo *list)
{
    struct resolve *resolve = CONTAINER_OF(uv, struct resolve, uv);
    struct conn *conn = resolve->conn;
    free(resolve);
    if (!conn) {
        uv_freeaddrinfo(list);
        return;
    }
    conn->resolve = NULL;
    if (status < 0) {
        struct fault fault = {0};
        fault_set(&fault, ERR_UNREACHABLE, "looking up the name: %s", uv_strerror(status));
        conn_fail(conn, &fault);
        return;
    }
    if (conn->state != CONN_RESOLVE) { /* it has failed meanwhile */
        uv_freeaddrinfo(list);
        return;
    }
    conn->addresses = conn->next_address = list;
    conn->state = CONN_CONNECT;
    connect_next(conn);
}

static int start_resolving(struct conn *conn, const struct tcp_name *name, struct fault *fault)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                             .ai_flags = AI_NUMERICSERV | AI_NUMERICHOST};
    /* A numeric address needs no worker thread, which may be busy elsewhere. */
    if (getaddrinfo(name->host, name->port, &hints, &conn->addresses) == 0) {
        conn->next_address = conn->addresses;
        conn->state = CONN_CONNECT;
        loop_timer_start(conn->timer, 0, 0);
        return 0;
    }

    hints.ai_flags = AI_NUMERICSERV;
    struct resolve *resolve = calloc(1, sizeof *resolve);
    if (!resolve)
        return fault_set(fault, ERR_NOMEM, "no memory for a name look-up");
    int r = uv_getaddrinfo(loop_uv(conn->loop), &resolve->uv, on_resolved, name->host, name->port,
                           &hints);
    if (r < 0) {
        free(resolve);
        return fault_set(fault, r == UV_ENOMEM ? ERR_NOMEM : ERR_INVALID, "looking up %s: %s",
                         conn->asked, uv_strerror(r));
    }
    resolve->conn = conn;
    conn->resolve = resolve;
    conn->state = CONN_RESOLVE;
    loop_timer_start(conn->timer, CONNECT_MS_MAX, 0);
    return 0;
}

int conn_connect(struct conn **ret_conn, struct loop *loop, const char *address,
                 struct tls_context *context, const char *peer_role,
                 const struct conn_events *events, void *data, struct fault *fault)
{
    struct tcp_name name;
    int r = tcp_name_parse(address, &name, fault);
    if (r < 0)
        return r;
    struct conn *conn = NULL;
    r = conn_new(&conn, loop, events, data, fault);
    if (r < 0)
        return r;
    assert(peer_role[0] && strlen(peer_role) < sizeof conn->role);
    (void)snprintf(conn->role, sizeof conn->role, "%s", peer_role);
    (void)snprintf(conn->peer_address, sizeof conn->peer_address, "%s", address);
    conn->asked = strdup(address);
    if (!conn->asked)
        r = fault_set(fault, ERR_NOMEM, "no memory for a connection");
    if (r == 0)
        r = tls_session_new(&conn->tls, context, false, fault);
    if (r == 0)
        r = start_resolving(conn, &name, fault);
    if (r < 0) {
        (void)conn_free(conn);
        return r;
    }
    conn->connect_until_ms = world_now_ms() + CONNECT_MS_MAX;
    *ret_conn = conn;
    return 0;
}

static int adopt_socket(struct conn *conn, int fd, struct fault *fault)
{
    int r = loop_poll_new(&conn->poll, conn->loop, fd, on_ready, conn, fault);
    if (r < 0)
        return r;
    conn->fd = fd;
    watch(conn, LOOP_READABLE);
    return 0;
}

int conn_accept(struct conn **ret_conn, struct loop *loop, int fd, struct tls_context *context,
                const struct conn_events *events, void *data, struct fault *fault)
{
    struct conn *conn = NULL;
    int r = conn_new(&conn, loop, events, data, fault);
    if (r < 0)
        return r;
    r = tcp_set_options(fd, fault);
    if (r == 0)
        r = tls_session_new(&conn->tls, context, true, fault);
    if (r == 0)
        r = adopt_socket(conn, fd, fault);
    if (r < 0) {
        (void)conn_free(conn);
        return r;
    }
    conn->state = CONN_HANDSHAKE;
    fill_addresses(conn);
    loop_timer_start(conn->timer, CONNECT_MS_MAX, 0);
    *ret_conn = conn;
    return 0;
}

int conn_new_unix(struct conn **ret_conn, struct loop *loop, int fd,
                  const struct conn_events *events, void *data, struct fault *fault)
{
    struct ucred who;
    socklen_t size = sizeof who;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size) < 0)
        return fault_set_errno(fault, ERR_IO, errno, "asking who is behind a Unix socket");
    struct conn *conn = NULL;
    int r = conn_new(&conn, loop, events, data, fault);
    if (r < 0)
        return r;
    r = adopt_socket(conn, fd, fault);
    if (r < 0) {
        (void)conn_free(conn);
        return r;
    }
    conn->state = CONN_OPEN;
    (void)snprintf(conn->peer.role, sizeof conn->peer.role, "local");
    (void)snprintf(conn->peer.name, sizeof conn->peer.name, "%u:%d", who.uid, (int)who.pid);
    (void)snprintf(conn->peer_address, sizeof conn->peer_address, "unix");
    *ret_conn = conn;
    return 0;
}

/* ---- the loop's calls ---- */

static void on_ready(void *data, unsigned events)
{
    struct conn *conn = data;
    if (conn->state == CONN_CONNECT) {
        on_connected(conn);
        return;
    }
    hold(conn);
    if (events & LOOP_WRITABLE)
        flush(conn);
    if (is_live(conn) && (events & (LOOP_READABLE | LOOP_GONE)))
        on_readable(conn, events & LOOP_GONE);
    release(conn);
}

static void on_deadline(void *data)
{
    struct conn *conn = data;
    switch (conn->state) {
    case CONN_RESOLVE:
    case CONN_CONNECT:
        conn->fault.code = 0; /* silence is worse news than an earlier address's refusal */
        connect_next(conn);
        break;
    case CONN_HANDSHAKE:
        fail(conn, ERR_TIMEOUT, "the peer did not finish the TLS handshake in time");
        break;
    case CONN_LINGER:
        (void)conn_free(conn);
        break;
    case CONN_FAILED:
        if (conn->tls)
            fault_wrap(&conn->fault, conn->fault.code, "%s",
                       conn->asked ? conn->asked : conn->peer_address);
        conn->events->ended(conn->data, &conn->fault);
        break;
    case CONN_OPEN:
        assert(false && "an open connection has no deadline");
    }
}

/* ---- leaving ---- */

struct conn *conn_linger(struct conn *conn)
{
    if (!conn)
        return NULL;
    bool has_handshaken = conn->state == CONN_OPEN;
    if (conn->fd < 0 || !(has_handshaken || conn->out.count > 0) || conn->state == CONN_CONNECT)
        return conn_free(conn);
    conn->state = CONN_LINGER;
    conn->events = NULL;
    conn->data = NULL;
    conn->linger_until_ms = world_now_ms() + LINGER_MS_MAX;
    linger_on(conn);
    if (has_handshaken && conn->tls)
        tls_session_bye(conn->tls);
    hold(conn);
    flush(conn);
    release(conn); /* gone already or gone later: it is its own now */
    return NULL;
}

/* ---- questions ---- */

int conn_take_fds(struct conn *conn, int *ret_fds, size_t count, struct fault *fault)
{
    if (count > conn->fds_in_count)
        return fault_set(fault, ERR_CORRUPT, "a message speaks of %zu descriptors, %zu came", count,
                         conn->fds_in_count);
    if (count > 0)
        memcpy(ret_fds, conn->fds_in, count * sizeof *ret_fds);
    conn->fds_in_count -= count;
    memmove(conn->fds_in, conn->fds_in + count, conn->fds_in_count * sizeof *conn->fds_in);
    return 0;
}

const struct pki_identity *conn_peer(const struct conn *conn)
{
    return &conn->peer;
}

const char *conn_peer_address(const struct conn *conn)
{
    return conn->peer_address;
}

const char *conn_local_address(const struct conn *conn)
{
    return conn->local_address;
}

/* accept -> TLS handshake (a stranger has CONNECT_MS_MAX for it) -> on_peer. Strangers in their
 * handshake are counted: when there are too many, the oldest goes, so that silent ones cannot keep
 * others out.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/own.h"
#include "net/rpc_accept.h"
#include "net/tcp.h"
#include "net/tls.h"

enum {
    STRANGERS_MAX = 256,
    ACCEPTS_PER_TURN_MAX = 16,
    FULL_PAUSE_MS = 100, /* out of descriptors: look again after this */
};

struct stranger {
    struct rpc_server *server;
    struct rpc *rpc;
    struct stranger *next; /* younger */
};

struct rpc_server {
    struct loop *loop;
    int fd;
    uint16_t port;
    struct loop_poll *poll;
    struct loop_timer *full;
    struct tls_context *context; /* NULL for Unix */
    const struct rpc_service *service;
    void *data;
    void (*on_peer)(void *data, struct rpc *rpc);
    struct stranger *strangers; /* oldest first */
    size_t stranger_count;
};

static void stranger_forget(struct stranger *stranger)
{
    struct stranger **link = &stranger->server->strangers;
    while (*link != stranger)
        link = &(*link)->next;
    *link = stranger->next;
    stranger->server->stranger_count--;
    free(stranger);
}

static void on_opened(void *data, struct rpc *rpc, const struct fault *fault)
{
    struct stranger *stranger = data;
    struct rpc_server *server = stranger->server;
    stranger_forget(stranger);
    if (fault) {
        log_debug("rpc_server", "a stranger did not get in: %s", fault->text);
        (void)rpc_close_flushed(rpc);
        return;
    }
    rpc_set_data(rpc, server->data);
    server->on_peer(server->data, rpc);
}

static void welcome_unix(struct rpc_server *server, int fd)
{
    struct rpc *rpc = NULL;
    struct fault fault = {0};
    if (rpc_new_unix(&rpc, server->loop, fd, server->service, server->data, &fault) < 0) {
        (void)close(fd);
        log_debug("rpc_server", "a connection was dropped: %s", fault.text);
        return;
    }
    server->on_peer(server->data, rpc);
}

static void welcome_tcp(struct rpc_server *server, int fd)
{
    if (server->stranger_count == STRANGERS_MAX) {
        struct stranger *oldest = server->strangers;
        (void)rpc_close(oldest->rpc);
        stranger_forget(oldest);
    }
    struct stranger *stranger = calloc(1, sizeof *stranger);
    struct fault fault = {0};
    if (!stranger || rpc_accept(&stranger->rpc, server->loop, fd, server->context, server->service,
                                stranger, on_opened, &fault) < 0) {
        free(stranger);
        (void)close(fd);
        log_debug("rpc_server", "a connection was dropped: %s", fault.text);
        return;
    }
    stranger->server = server;
    struct stranger **link = &server->strangers;
    while (*link)
        link = &(*link)->next;
    *link = stranger;
    server->stranger_count++;
}

static void on_full_over(void *data)
{
    struct rpc_server *server = data;
    loop_poll_set(server->poll, LOOP_READABLE);
}

/* One a turn over Unix sockets, as on_peer may free the server. */
static void on_ready(void *data, unsigned events)
{
    (void)events;
    struct rpc_server *server = data;
    for (int i = 0; i < ACCEPTS_PER_TURN_MAX; i++) {
        int fd = accept4(server->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0) {
            if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
                loop_poll_set(server->poll, 0);
                loop_timer_start(server->full, FULL_PAUSE_MS, 0);
            }
            return; /* EAGAIN, or a connection that broke before we took it */
        }
        if (!server->context) {
            welcome_unix(server, fd);
            return;
        }
        welcome_tcp(server, fd);
    }
}

static int open_server(struct rpc_server *server, const struct rpc_server_config *config,
                       struct fault *fault)
{
    int r = 0;
    if (config->unix_fd < 0)
        r = tcp_listen(config->address, &server->fd, &server->port, fault);
    else
        server->fd = config->unix_fd;
    if (r == 0)
        r = loop_timer_new(&server->full, server->loop, on_full_over, server, fault);
    if (r == 0)
        r = loop_poll_new(&server->poll, server->loop, server->fd, on_ready, server, fault);
    return r;
}

int rpc_server_new(struct rpc_server **ret_server, struct loop *loop,
                   const struct rpc_server_config *config, struct fault *fault)
{
    assert(config->on_peer);
    assert(config->unix_fd >= 0 || (config->address && config->context));
    struct rpc_server *server = calloc(1, sizeof *server);
    if (!server)
        return fault_set(fault, ERR_NOMEM, "no memory for a server");
    server->loop = loop;
    server->fd = -1;
    server->service = config->service;
    server->data = config->data;
    server->on_peer = config->on_peer;
    int r = open_server(server, config, fault);
    if (r < 0) {
        if (config->unix_fd >= 0)
            server->fd = -1; /* taken only when all went well */
        (void)rpc_server_free(server);
        return r;
    }
    if (config->unix_fd < 0)
        server->context = tls_context_ref(config->context);
    loop_poll_set(server->poll, LOOP_READABLE);
    *ret_server = server;
    return 0;
}

struct rpc_server *rpc_server_free(struct rpc_server *server)
{
    if (!server)
        return NULL;
    while (server->strangers) {
        (void)rpc_close(server->strangers->rpc);
        stranger_forget(server->strangers);
    }
    server->poll = loop_poll_free(server->poll);
    server->full = loop_timer_free(server->full);
    if (server->fd >= 0)
        (void)close(server->fd);
    (void)tls_context_free(server->context);
    free(server);
    return NULL;
}

uint16_t rpc_server_port(const struct rpc_server *server)
{
    return server->port;
}

#include "agent/move_sockets.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/err.h"
#include "base/loop.h"
#include "base/own.h"
#include "base/world.h"
#include "net/tls_lane.h"

struct move_connect {
    char address[MOVE_ADDRESS_SIZE];
    size_t count;
    int fds[MOVE_SOCKETS_MAX];
    struct fault fault;
    void (*done)(void *data, const int *fds, size_t count, const struct fault *fault);
    void *data;
};

/* Addresses are numbers: a name that resolves differently on two hosts is no place to send a guest.
 */
static int resolve(const char *host, const char *port, struct addrinfo **ret_info,
                   struct fault *fault)
{
    const struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV,
                                   .ai_socktype = SOCK_STREAM};
    char bare[MOVE_ADDRESS_SIZE];
    size_t count = strlen(host);

    if (count && host[0] == '[' && host[count - 1] == ']')
        (void)snprintf(bare, sizeof bare, "%.*s", (int)count - 2, host + 1);
    else
        (void)snprintf(bare, sizeof bare, "%s", host);
    int r = getaddrinfo(bare, port, &hints, ret_info);
    if (r != 0)
        return fault_set(fault, ERR_INVALID, "'%s' is no numeric address: %s", host,
                         gai_strerror(r));
    return 0;
}

int move_sockets_listen(const char *host, int *ret_fd, char ret_address[static MOVE_ADDRESS_SIZE],
                        struct fault *fault)
{
    struct addrinfo *info = NULL;
    int r = resolve(host, "0", &info, fault);
    if (r < 0)
        return fault_wrap(fault, r, "move_address of this host");

    AUTO_FD int fd = socket(info->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, info->ai_addr, info->ai_addrlen) < 0 || listen(fd, MOVE_SOCKETS_MAX) < 0)
        r = fault_set_errno(fault, err_from_errno(errno), errno, "listening for a move on %s",
                            host);
    freeaddrinfo(info);
    if (r < 0)
        return r;

    struct sockaddr_storage bound;
    socklen_t size = sizeof bound;
    char host_text[NI_MAXHOST], port_text[NI_MAXSERV];
    if (getsockname(fd, (struct sockaddr *)&bound, &size) < 0 ||
        getnameinfo((struct sockaddr *)&bound, size, host_text, sizeof host_text, port_text,
                    sizeof port_text, NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        return fault_set(fault, ERR_IO, "asking for the address of a move's socket");
    (void)snprintf(ret_address, MOVE_ADDRESS_SIZE,
                   bound.ss_family == AF_INET6 ? "[%.100s]:%.16s" : "%.100s:%.16s", host_text,
                   port_text);
    *ret_fd = TAKE_FD(fd);
    return 0;
}

/* ---- connecting, on a worker ---- */
static int connect_one(const struct addrinfo *info, uint64_t until_ms, int *ret_fd,
                       struct fault *fault)
{
    AUTO_FD int fd = socket(info->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return fault_set_errno(fault, err_from_errno(errno), errno, "opening a socket");
    if (connect(fd, info->ai_addr, info->ai_addrlen) < 0 && errno != EINPROGRESS)
        return fault_set_errno(fault, errno == ECONNREFUSED ? ERR_REFUSED : ERR_UNREACHABLE, errno,
                               "connecting");

    struct pollfd wait = {.fd = fd, .events = POLLOUT};
    uint64_t now_ms = world_now_ms();
    int n = now_ms < until_ms ? poll(&wait, 1, (int)(until_ms - now_ms)) : 0;
    if (n <= 0)
        return fault_set(fault, ERR_UNREACHABLE, "no answer within %d ms", CONNECT_MS_MAX);
    int error = 0;
    socklen_t size = sizeof error;
    (void)getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size); /* an open socket has one */
    if (error) /* a host that says so knows that nobody listens */
        return fault_set_errno(fault, error == ECONNREFUSED ? ERR_REFUSED : ERR_UNREACHABLE, error,
                               "connecting");
    int r = tcp_set_options(fd, fault);
    if (r < 0)
        return r;
    (void)fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK); /* lanes block */
    *ret_fd = TAKE_FD(fd);
    return 0;
}

static void connect_work(void *data)
{
    struct move_connect *job = data;
    struct addrinfo *info = NULL;
    uint64_t until_ms = world_now_ms() + CONNECT_MS_MAX;
    char *colon = strrchr(job->address, ':');

    if (!colon) {
        (void)fault_set(&job->fault, ERR_INVALID, "'%s' is no address", job->address);
        return;
    }
    *colon = 0;
    int r = resolve(job->address, colon + 1, &info, &job->fault);
    *colon = ':';
    for (size_t i = 0; r == 0 && i < job->count; i++)
        r = connect_one(info, until_ms, &job->fds[i], &job->fault);
    if (info)
        freeaddrinfo(info);
    if (r < 0)
        (void)fault_wrap(&job->fault, r, "opening the move's lanes to %s", job->address);
}

static void connect_done(void *data)
{
    struct move_connect *job = data;
    bool failed = job->fault.code != 0;

    for (size_t i = 0; failed && i < job->count; i++)
        close_p(&job->fds[i]);
    job->done(job->data, failed ? NULL : job->fds, failed ? 0 : job->count,
              failed ? &job->fault : NULL);
    free(job);
}

int move_sockets_connect(struct loop *loop, const char *address, size_t count,
                         void (*done)(void *data, const int *fds, size_t count,
                                      const struct fault *fault),
                         void *data, struct fault *fault)
{
    assert(count >= 1 && count <= MOVE_SOCKETS_MAX);
    if (strlen(address) >= MOVE_ADDRESS_SIZE)
        return fault_set(fault, ERR_INVALID, "a move's address is too long");

    struct move_connect *job = calloc(1, sizeof *job);
    if (!job)
        return fault_set(fault, ERR_NOMEM, "no memory to connect a move");
    memcpy(job->address, address, strlen(address) + 1);
    job->count = count;
    for (size_t i = 0; i < MOVE_SOCKETS_MAX; i++)
        job->fds[i] = -1;
    job->done = done;
    job->data = data;
    if (loop_work(loop, connect_work, connect_done, job) < 0) {
        free(job);
        return fault_set(fault, ERR_NOMEM, "no worker to connect a move");
    }
    return 0;
}

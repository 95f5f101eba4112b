#include "net/text_server.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/err.h"
#include "base/loop.h"
#include "base/own.h"

enum { IDLE_MS = 5000 };

struct visitor {
    struct visitor *next;
    struct text_server *server;
    struct loop_poll *poll;
    struct loop_timer *timer;
    int fd;
    char request[TEXT_SERVER_REQUEST_MAX];
    size_t request_count;
    char *answer; /* owned */
    size_t answer_count, sent;
};

struct text_server {
    struct loop *loop;
    struct loop_poll *poll;
    int fd;
    char path[64];
    void (*write)(void *data, FILE *out);
    void *data;
    struct visitor *visitors;
    unsigned visitor_count;
};

int text_server_judge(const char *request, size_t count, const char *path)
{
    const char *end = memmem(request, count, "\r\n", 2);
    if (!end)
        return count < TEXT_SERVER_REQUEST_MAX ? 0 : ERR_INVALID;
    size_t line = (size_t)(end - request), length = strlen(path);
    if (line < 4 || memcmp(request, "GET ", 4) != 0)
        return ERR_INVALID;
    bool is_path = line >= 4 + length && memcmp(request + 4, path, length) == 0 &&
                   (line == 4 + length || request[4 + length] == ' ' || request[4 + length] == '?');
    if (!is_path)
        return ERR_NOT_FOUND;
    if (!memmem(request, count, "\r\n\r\n", 4))
        return count < TEXT_SERVER_REQUEST_MAX ? 0 : ERR_INVALID;
    return 1;
}

static void visitor_gone(struct visitor *visitor)
{
    struct visitor **link = &visitor->server->visitors;
    while (*link != visitor)
        link = &(*link)->next;
    *link = visitor->next;
    visitor->server->visitor_count--;
    (void)loop_poll_free(visitor->poll);
    (void)loop_timer_free(visitor->timer);
    (void)close(visitor->fd);
    free(visitor->answer);
    free(visitor);
}

static void on_idle(void *data)
{
    visitor_gone(data);
}

/* Head and text; false: no memory. */
static bool make_answer(struct visitor *visitor, int judged)
{
    struct text_server *server = visitor->server;
    AUTO_FREE char *text = NULL;
    size_t count = 0;
    FILE *out = open_memstream(&text, &count);
    if (!out)
        return false;
    if (judged == 1)
        server->write(server->data, out);
    else
        (void)fprintf(out, "nothing here but %s\n", server->path);
    if (fclose(out) != 0)
        return false;
    int n = asprintf(&visitor->answer,
                     "HTTP/1.1 %s\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: "
                     "%zu\r\nConnection: close\r\n\r\n%s",
                     judged == 1               ? "200 OK"
                     : judged == ERR_NOT_FOUND ? "404 Not Found"
                                               : "400 Bad Request",
                     count, text);
    if (n < 0)
        visitor->answer = NULL;
    visitor->answer_count = n < 0 ? 0 : (size_t)n;
    return n >= 0;
}

static void send_on(struct visitor *visitor)
{
    while (visitor->sent < visitor->answer_count) {
        ssize_t n = send(visitor->fd, visitor->answer + visitor->sent,
                         visitor->answer_count - visitor->sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) {
            loop_poll_set(visitor->poll, LOOP_WRITABLE);
            return;
        }
        if (n < 0)
            break;
        visitor->sent += (size_t)n;
    }
    visitor_gone(visitor);
}

static void on_ready(void *data, unsigned events)
{
    struct visitor *visitor = data;
    if (visitor->answer) {
        send_on(visitor);
        return;
    }
    ssize_t n = recv(visitor->fd, visitor->request + visitor->request_count,
                     sizeof visitor->request - visitor->request_count, 0);
    if (n < 0 && errno == EAGAIN && !(events & LOOP_GONE))
        return;
    if (n <= 0) {
        visitor_gone(visitor);
        return;
    }
    visitor->request_count += (size_t)n;
    int judged = text_server_judge(visitor->request, visitor->request_count, visitor->server->path);
    if (judged == 0)
        return;
    if (make_answer(visitor, judged))
        send_on(visitor);
    else
        visitor_gone(visitor);
}

static void on_visitor(void *data, unsigned events)
{
    struct text_server *server = data;
    (void)events;
    int fd = accept4(server->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return; /* it went away again */
    struct visitor *visitor =
        server->visitor_count < TEXT_SERVER_CONNECTIONS_MAX ? calloc(1, sizeof *visitor) : NULL;
    if (!visitor || loop_poll_new(&visitor->poll, server->loop, fd, on_ready, visitor, NULL) < 0 ||
        loop_timer_new(&visitor->timer, server->loop, on_idle, visitor, NULL) < 0) {
        if (visitor)
            (void)loop_poll_free(visitor->poll);
        free(visitor);
        (void)close(fd);
        return;
    }
    visitor->server = server;
    visitor->fd = fd;
    visitor->next = server->visitors;
    server->visitors = visitor;
    server->visitor_count++;
    loop_poll_set(visitor->poll, LOOP_READABLE);
    loop_timer_start(visitor->timer, IDLE_MS, 0);
}

static bool is_loopback(const struct sockaddr *address)
{
    if (address->sa_family == AF_INET)
        return ntohl(((const struct sockaddr_in *)(const void *)address)->sin_addr.s_addr) >> 24 ==
               127;
    return address->sa_family == AF_INET6 &&
           IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)(const void *)address)->sin6_addr);
}

static int listen_at(const char *address, int *ret_fd, struct fault *fault)
{
    char host[64];
    const char *colon = strrchr(address, ':');
    size_t length = colon ? (size_t)(colon - address) : 0;
    bool braces = length > 2 && address[0] == '[' && colon[-1] == ']';
    if (length == 0 || length >= sizeof host)
        return fault_set(fault, ERR_INVALID, "'%.80s' is no address; 127.0.0.1:9411 would fit",
                         address);
    (void)snprintf(host, sizeof host, "%.*s", (int)(braces ? length - 2 : length),
                   address + (braces ? 1 : 0));
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                                   .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE};
    struct addrinfo *found = NULL;
    if (getaddrinfo(host, colon + 1, &hints, &found) != 0 || !is_loopback(found->ai_addr)) {
        if (found)
            freeaddrinfo(found);
        return fault_set(fault, ERR_INVALID,
                         "'%.80s' is no loopback address; 127.0.0.1:9411 would fit", address);
    }
    AUTO_FD int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int on = 1;
    bool good = fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0 &&
                bind(fd, found->ai_addr, found->ai_addrlen) == 0 && listen(fd, 16) == 0;
    int error = errno;
    freeaddrinfo(found);
    if (!good)
        return fault_set_errno(fault, err_from_errno(error), error, "listening on %s", address);
    *ret_fd = TAKE_FD(fd);
    return 0;
}

int text_server_new(struct text_server **ret_server, struct loop *loop, const char *address,
                    const char *path, void (*write)(void *data, FILE *out), void *data,
                    struct fault *fault)
{
    struct text_server *server = calloc(1, sizeof *server);
    if (!server)
        return fault_set(fault, ERR_NOMEM, "no memory for metrics");
    server->loop = loop;
    server->write = write;
    server->data = data;
    server->fd = -1;
    (void)snprintf(server->path, sizeof server->path, "%s", path);
    int r = listen_at(address, &server->fd, fault);
    if (r == 0)
        r = loop_poll_new(&server->poll, loop, server->fd, on_visitor, server, fault);
    if (r < 0) {
        (void)text_server_free(server);
        return r;
    }
    loop_poll_set(server->poll, LOOP_READABLE);
    *ret_server = server;
    return 0;
}

struct text_server *text_server_free(struct text_server *server)
{
    if (!server)
        return NULL;
    while (server->visitors)
        visitor_gone(server->visitors);
    (void)loop_poll_free(server->poll);
    if (server->fd >= 0)
        (void)close(server->fd);
    free(server);
    return NULL;
}

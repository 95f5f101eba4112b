#include "net/tcp.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/own.h"
#include "net/tls_lane.h"
#include "proto/limits.h"

enum { BACKLOG = 256 };

int tcp_name_parse(const char *address, struct tcp_name *ret_name, struct fault *fault)
{
    struct tcp_name name = {0};
    const char *host = address;
    const char *colon = strrchr(address, ':');
    if (!colon)
        return fault_set(fault, ERR_INVALID, "the address '%.100s' has no port", address);

    size_t host_length = (size_t)(colon - address);
    if (address[0] == '[') {
        if (host_length < 3 || colon[-1] != ']')
            return fault_set(fault, ERR_INVALID, "the address '%.100s' is not [v6]:port", address);
        host++;
        host_length -= 2;
    } else if (memchr(address, ':', host_length)) {
        return fault_set(fault, ERR_INVALID, "the address '%.100s' needs brackets: [v6]:port",
                         address);
    }
    if (host_length == 0 || host_length >= sizeof name.host)
        return fault_set(fault, ERR_INVALID, "the address '%.100s' has no host", address);
    memcpy(name.host, host, host_length);

    size_t digits = strspn(colon + 1, "0123456789");
    if (digits == 0 || digits >= sizeof name.port || colon[1 + digits] != '\0' ||
        strtoul(colon + 1, NULL, 10) > UINT16_MAX)
        return fault_set(fault, ERR_INVALID, "the address '%.100s' has a port outside 0..65535",
                         address);
    memcpy(name.port, colon + 1, digits);
    *ret_name = name;
    return 0;
}

static int set_option(int fd, int level, int option, int value)
{
    return setsockopt(fd, level, option, &value, sizeof value);
}

/* A peer that dies without a word is found within PEER_SILENT_MS whether or not we are sending:
 * TCP_USER_TIMEOUT bounds unacknowledged bytes, keepalive finds it when we only listen. */
int tcp_set_options(int fd, struct fault *fault)
{
    static_assert(PEER_SILENT_MS >= 4000, "three keepalive probes a second apart must fit");
    int idle_s = PEER_SILENT_MS / 1000 - 3;
    int domain = 0;
    socklen_t size = sizeof domain;
    if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) == 0 && domain == AF_UNIX)
        return 0; /* a peer on this host: the kernel tells at once when it is gone */
    if (set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1) < 0 ||
        set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1) < 0 ||
        set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, idle_s) < 0 ||
        set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, 1) < 0 ||
        set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, 3) < 0 ||
        set_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, PEER_SILENT_MS) < 0)
        return fault_set_errno(fault, ERR_IO, errno, "setting options of a TCP connection");
    return 0;
}

static int listen_at(const struct addrinfo *info, int *ret_fd, uint16_t *ret_port)
{
    AUTO_FD int fd = socket(info->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    struct sockaddr_storage bound;
    socklen_t size = sizeof bound;
    if (set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1) < 0 ||
        bind(fd, info->ai_addr, info->ai_addrlen) < 0 || listen(fd, BACKLOG) < 0 ||
        getsockname(fd, (struct sockaddr *)&bound, &size) < 0)
        return -errno;
    *ret_port = ntohs(bound.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&bound)->sin6_port
                                                  : ((struct sockaddr_in *)&bound)->sin_port);
    *ret_fd = TAKE_FD(fd);
    return 0;
}

int tcp_listen(const char *address, int *ret_fd, uint16_t *ret_port, struct fault *fault)
{
    struct tcp_name name;
    int r = tcp_name_parse(address, &name, fault);
    if (r < 0)
        return r;

    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    struct addrinfo *list = NULL;
    int found = getaddrinfo(name.host, name.port, &hints, &list);
    if (found != 0)
        return fault_set(fault, ERR_NOT_FOUND, "listening on %s: %s", address, gai_strerror(found));
    int why = 0;
    for (struct addrinfo *info = list; info; info = info->ai_next) {
        why = listen_at(info, ret_fd, ret_port);
        if (why == 0)
            break;
    }
    freeaddrinfo(list);
    if (why != 0)
        return fault_set_errno(fault, why == -EADDRINUSE ? ERR_EXISTS : err_from_errno(-why), -why,
                               "listening on %s", address);
    return 0;
}

void tcp_address_text(const struct sockaddr *address, socklen_t size, bool with_port,
                      char ret_text[static TCP_ADDRESS_SIZE])
{
    char host[48] = "", port[TCP_PORT_SIZE] = "";
    ret_text[0] = '\0';
    if (getnameinfo(address, size, host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        return;
    if (!with_port)
        (void)snprintf(ret_text, TCP_ADDRESS_SIZE, "%s", host);
    else
        (void)snprintf(ret_text, TCP_ADDRESS_SIZE, strchr(host, ':') ? "[%s]:%s" : "%s:%s", host,
                       port);
}

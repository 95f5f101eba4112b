#include "tests/support/tcp_proxy.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

enum { PAIRS_MAX = 64, BUFFER_BYTES = 64 << 10 };

struct half { /* what was read on one side and is to be written on the other */
    uint8_t bytes[BUFFER_BYTES];
    size_t start, end;
    bool ended;
};

struct pair {
    int fds[2]; /* 0: who connected, 1: upstream; -1: free */
    struct half halves[2];
};

struct tcp_proxy {
    struct tcp_proxy_config config;
    struct sockaddr_in upstream;
    int listen_fd, stop_fd;
    pthread_t thread;
    struct pair *pairs[PAIRS_MAX];
    uint64_t since_cut;
    unsigned cuts;  /* atomic */
    uint64_t bytes; /* atomic */
};

static void pair_reset(struct pair **pair)
{
    const struct linger now = {.l_onoff = 1};
    for (unsigned i = 0; i < 2; i++) {
        (void)setsockopt((*pair)->fds[i], SOL_SOCKET, SO_LINGER, &now, sizeof now);
        (void)close((*pair)->fds[i]);
    }
    free(*pair);
    *pair = NULL;
}

static void cut(struct tcp_proxy *proxy)
{
    for (unsigned i = 0; i < PAIRS_MAX; i++) {
        if (proxy->pairs[i])
            pair_reset(&proxy->pairs[i]);
    }
    proxy->since_cut = 0;
    __atomic_add_fetch(&proxy->cuts, 1, __ATOMIC_RELEASE);
}

static bool is_closed(const struct tcp_proxy *proxy)
{
    return proxy->config.stays_closed &&
           __atomic_load_n(&proxy->cuts, __ATOMIC_ACQUIRE) >= proxy->config.cuts;
}

static void take_connection(struct tcp_proxy *proxy)
{
    int fd = accept4(proxy->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return;
    struct pair *pair = calloc(1, sizeof *pair);
    assert(pair);
    pair->fds[0] = fd;
    pair->fds[1] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    unsigned slot = 0;
    while (slot < PAIRS_MAX && proxy->pairs[slot])
        slot++;
    if (is_closed(proxy) || slot == PAIRS_MAX ||
        connect(pair->fds[1], (struct sockaddr *)&proxy->upstream, sizeof proxy->upstream) < 0) {
        pair_reset(&pair);
        return;
    }
    (void)fcntl(pair->fds[1], F_SETFL, O_NONBLOCK);
    proxy->pairs[slot] = pair;
}

/* From side `from` to the other; false when the pair is done for. */
static bool pump(struct tcp_proxy *proxy, struct pair *pair, unsigned from)
{
    struct half *half = &pair->halves[from];
    if (half->start == half->end && !half->ended) {
        ssize_t n = recv(pair->fds[from], half->bytes, sizeof half->bytes, MSG_DONTWAIT);
        if (n < 0)
            return errno == EAGAIN || errno == EINTR;
        if (n == 0) {
            half->ended = true;
            (void)shutdown(pair->fds[!from], SHUT_WR);
            return !pair->halves[!from].ended;
        }
        half->start = 0;
        half->end = (size_t)n;
    }
    while (half->start < half->end) {
        ssize_t n = send(pair->fds[!from], half->bytes + half->start, half->end - half->start,
                         MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0)
            return errno == EAGAIN || errno == EINTR;
        half->start += (size_t)n;
        if (from == 0) {
            proxy->since_cut += (uint64_t)n;
            __atomic_add_fetch(&proxy->bytes, (uint64_t)n, __ATOMIC_RELAXED);
        }
    }
    return true;
}

static nfds_t list(struct tcp_proxy *proxy, struct pollfd *polls)
{
    nfds_t count = 0;
    polls[count++] = (struct pollfd){.fd = proxy->stop_fd, .events = POLLIN};
    polls[count++] = (struct pollfd){.fd = proxy->listen_fd, .events = POLLIN};
    for (unsigned i = 0; i < PAIRS_MAX; i++) {
        for (unsigned side = 0; proxy->pairs[i] && side < 2; side++) {
            const struct half *in = &proxy->pairs[i]->halves[side];
            const struct half *out = &proxy->pairs[i]->halves[!side];
            short events = 0;
            if (in->start == in->end && !in->ended)
                events |= POLLIN;
            if (out->start < out->end)
                events |= POLLOUT;
            polls[count++] =
                (struct pollfd){.fd = events ? proxy->pairs[i]->fds[side] : -1, .events = events};
        }
    }
    return count;
}

static void pump_all(struct tcp_proxy *proxy)
{
    for (unsigned i = 0; i < PAIRS_MAX; i++) {
        struct pair *pair = proxy->pairs[i];
        if (pair && (!pump(proxy, pair, 0) || !pump(proxy, pair, 1)))
            pair_reset(&proxy->pairs[i]);
    }
}

static void *proxy_run(void *data)
{
    struct tcp_proxy *proxy = data;
    struct pollfd polls[2 + 2 * PAIRS_MAX];
    for (;;) {
        nfds_t count = list(proxy, polls);
        if (poll(polls, count, -1) < 0 && errno != EINTR)
            break;
        if (polls[0].revents)
            break;
        if (polls[1].revents)
            take_connection(proxy);
        pump_all(proxy);
        if (proxy->config.cut_bytes && proxy->cuts < proxy->config.cuts &&
            proxy->since_cut >= proxy->config.cut_bytes)
            cut(proxy);
    }
    for (unsigned i = 0; i < PAIRS_MAX; i++) {
        if (proxy->pairs[i])
            pair_reset(&proxy->pairs[i]);
    }
    return NULL;
}

struct tcp_proxy *tcp_proxy_new(const struct tcp_proxy_config *config,
                                char ret_address[static TCP_PROXY_ADDRESS_SIZE])
{
    struct tcp_proxy *proxy = calloc(1, sizeof *proxy);
    assert(proxy);
    proxy->config = *config;
    const char *colon = strrchr(config->upstream, ':');
    char host[64];
    assert(colon && (size_t)(colon - config->upstream) < sizeof host);
    (void)snprintf(host, sizeof host, "%.*s", (int)(colon - config->upstream), config->upstream);
    proxy->upstream.sin_family = AF_INET;
    proxy->upstream.sin_port = htons((uint16_t)strtoul(colon + 1, NULL, 10));
    int r = inet_pton(AF_INET, host, &proxy->upstream.sin_addr);
    assert(r == 1);

    struct sockaddr_in own = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof own;
    proxy->listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    proxy->stop_fd = eventfd(0, EFD_CLOEXEC);
    assert(proxy->listen_fd >= 0 && proxy->stop_fd >= 0);
    r = bind(proxy->listen_fd, (struct sockaddr *)&own, sizeof own);
    assert(r == 0);
    r = listen(proxy->listen_fd, PAIRS_MAX);
    assert(r == 0);
    r = getsockname(proxy->listen_fd, (struct sockaddr *)&own, &size);
    assert(r == 0);
    (void)snprintf(ret_address, TCP_PROXY_ADDRESS_SIZE, "127.0.0.1:%u", ntohs(own.sin_port));
    r = pthread_create(&proxy->thread, NULL, proxy_run, proxy);
    assert(r == 0);
    return proxy;
}

unsigned tcp_proxy_cuts(struct tcp_proxy *proxy)
{
    return __atomic_load_n(&proxy->cuts, __ATOMIC_ACQUIRE);
}

uint64_t tcp_proxy_bytes(struct tcp_proxy *proxy)
{
    return __atomic_load_n(&proxy->bytes, __ATOMIC_RELAXED);
}

struct tcp_proxy *tcp_proxy_free(struct tcp_proxy *proxy)
{
    if (!proxy)
        return NULL;
    uint64_t one = 1;
    ssize_t n = write(proxy->stop_fd, &one, sizeof one);
    assert(n == sizeof one);
    pthread_join(proxy->thread, NULL);
    (void)close(proxy->listen_fd);
    (void)close(proxy->stop_fd);
    free(proxy);
    return NULL;
}

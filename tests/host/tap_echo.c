#include "tests/host/tap_echo.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <pthread.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/own.h"

enum { FRAME_MAX = 1 << 16, TEST_EXIT_SKIP = 77 };

struct tap_echo {
    int fds[TAP_ECHO_QUEUES_MAX];
    unsigned queues;
    int socket, stop;
    bool answers;
    pthread_t thread;
    uint64_t count; /* atomic */
};

void tap_echo_enter_namespace(void)
{
    int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    if (fd < 0 || unshare(CLONE_NEWNET) < 0) {
        (void)printf("skipped: no taps or no network namespaces here (%s)\n", strerror(errno));
        exit(TEST_EXIT_SKIP);
    }
    (void)close(fd);
}

static int open_queue(const char *name, unsigned queues)
{
    int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    assert(fd >= 0);
    struct ifreq request = {.ifr_flags = (short)(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR |
                                                 (queues > 1 ? IFF_MULTI_QUEUE : 0))};
    (void)snprintf(request.ifr_name, sizeof request.ifr_name, "%s", name);
    int r = ioctl(fd, TUNSETIFF, &request);
    assert(r == 0);
    (void)r;
    return fd;
}

/* No IPv6 chatter: what is on the wire is the test's. */
static void bring_up(const char *name)
{
    char path[96];
    (void)snprintf(path, sizeof path, "/proc/sys/net/ipv6/conf/%s/disable_ipv6", name);
    int sysctl = open(path, O_WRONLY | O_CLOEXEC);
    if (sysctl >= 0) {
        (void)!write(sysctl, "1", 1); /* where it cannot be, foreign frames are counted apart */
        (void)close(sysctl);
    }
    AUTO_FD int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct ifreq request = {0};
    (void)snprintf(request.ifr_name, sizeof request.ifr_name, "%s", name);
    request.ifr_flags = IFF_UP;
    int r = ioctl(fd, SIOCSIFFLAGS, &request);
    assert(r == 0);
    (void)r;
}

static int open_socket(const char *name)
{
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(ETH_P_ALL));
    assert(fd >= 0);
    struct sockaddr_ll address = {.sll_family = AF_PACKET,
                                  .sll_protocol = htons(ETH_P_ALL),
                                  .sll_ifindex = (int)if_nametoindex(name)};
    int r = bind(fd, (const struct sockaddr *)&address, sizeof address);
    assert(r == 0);
    int on = 1, room = 8 << 20;
    r = setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &on, sizeof on);
    assert(r == 0);
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room); /* a wish */
    (void)r;
    return fd;
}

static void *answer(void *data)
{
    struct tap_echo *echo = data;
    static _Thread_local uint8_t frame[FRAME_MAX];
    for (;;) {
        struct pollfd polls[] = {{.fd = echo->socket, .events = POLLIN},
                                 {.fd = echo->stop, .events = POLLIN}};
        if (poll(polls, 2, -1) < 0 && errno != EINTR)
            return NULL;
        if (polls[1].revents)
            return NULL;
        ssize_t bytes = recv(echo->socket, frame, sizeof frame, MSG_DONTWAIT);
        if (bytes < 14)
            continue;
        uint8_t mac[6];
        memcpy(mac, frame, 6);
        memcpy(frame, frame + 6, 6);
        memcpy(frame + 6, mac, 6);
        if (send(echo->socket, frame, (size_t)bytes, 0) == bytes)
            __atomic_fetch_add(&echo->count, 1, __ATOMIC_RELAXED);
    }
}

struct tap_echo *tap_echo_new(const char *name, unsigned queues, bool answers)
{
    assert(queues >= 1 && queues <= TAP_ECHO_QUEUES_MAX);
    struct tap_echo *echo = calloc(1, sizeof *echo);
    assert(echo);
    echo->queues = queues;
    for (unsigned i = 0; i < queues; i++)
        echo->fds[i] = open_queue(name, queues);
    bring_up(name);
    echo->socket = open_socket(name);
    echo->stop = eventfd(0, EFD_CLOEXEC);
    echo->answers = answers;
    int r = answers ? pthread_create(&echo->thread, NULL, answer, echo) : 0;
    assert(r == 0);
    (void)r;
    return echo;
}

struct tap_echo *tap_echo_free(struct tap_echo *echo)
{
    if (!echo)
        return NULL;
    if (echo->answers) {
        uint64_t one = 1;
        (void)!write(echo->stop, &one, sizeof one); /* an empty eventfd takes it */
        (void)pthread_join(echo->thread, NULL);
    }
    (void)close(echo->socket);
    (void)close(echo->stop);
    for (unsigned i = 0; i < echo->queues; i++)
        (void)close(echo->fds[i]);
    free(echo);
    return NULL;
}

int tap_echo_fd(const struct tap_echo *echo, unsigned queue)
{
    assert(queue < echo->queues);
    return fcntl(echo->fds[queue], F_DUPFD_CLOEXEC, 0);
}

int tap_echo_socket(const struct tap_echo *echo)
{
    assert(!echo->answers);
    return echo->socket;
}

uint64_t tap_echo_count(const struct tap_echo *echo)
{
    return __atomic_load_n(&echo->count, __ATOMIC_RELAXED);
}

#define _GNU_SOURCE
#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

uint64_t mix(uint64_t word)
{
    word += UINT64_C(0x9e3779b97f4a7c15);
    word = (word ^ word >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    word = (word ^ word >> 27) * UINT64_C(0x94d049bb133111eb);
    return word ^ word >> 31;
}

uint64_t now_ns(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

void sleep_ms(unsigned ms)
{
    (void)usleep(ms * 1000);
}

void start_thread(void *(*run)(void *data), void *data)
{
    pthread_t thread;
    int r = pthread_create(&thread, NULL, run, data);
    if (r != 0) {
        (void)printf("gw failed: no thread: %s\n", strerror(r));
        exit(1);
    }
    (void)pthread_detach(thread);
}

int connect_to(const char *address, uint16_t port)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    if (inet_pton(AF_INET, address, &to.sin_addr) != 1)
        return -1;
    for (unsigned tries = 0; tries < 600; tries++) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(fd, (struct sockaddr *)&to, sizeof to) == 0)
            return fd;
        (void)close(fd);
        sleep_ms(100);
    }
    return -1;
}

int listen_at(uint16_t port, int type)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port)};
    int fd = socket(AF_INET, type, 0), on = 1;
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&at, sizeof at) < 0 ||
        (type == SOCK_STREAM && listen(fd, 1) < 0)) {
        (void)printf("gw failed: port %u: %s\n", port, strerror(errno));
        exit(1);
    }
    return fd;
}

bool send_all(int fd, const void *data, size_t size)
{
    const char *at = data;
    while (size > 0) {
        ssize_t n = send(fd, at, size, MSG_NOSIGNAL);
        if (n <= 0)
            return false;
        at += n;
        size -= (size_t)n;
    }
    return true;
}

static struct block_writer writer;
static struct stream streams[2];
static struct clock_watch watch;
static struct cpu_hog hog;

static void *accept_stream(void *data)
{
    int listener = listen_at(PORT_IN, SOCK_STREAM);
    int fd = accept(listener, NULL, NULL);
    (void)close(listener);
    stream_start(data, fd, 3, 4);
    return NULL;
}

static void guest_run(const char *peer, const char *blocks, unsigned percent)
{
    clock_watch_start(&watch);
    cpu_hog_start(&hog, percent);
    int acks_fd = -1;
    if (peer) {
        int fd = connect_to(peer, PORT_OUT);
        acks_fd = connect_to(peer, PORT_ACKS);
        if (fd < 0 || acks_fd < 0)
            (void)printf("gw failed: cannot reach %s\n", peer);
        stream_start(&streams[0], fd, 1, 2);
        start_thread(accept_stream, &streams[1]);
        beat_start(peer);
    }
    if (blocks)
        block_writer_start(&writer, blocks, acks_fd);
    console_run(&writer, streams, &watch, &hog);
}

static const char *option(int argc, char **argv, const char *name)
{
    for (int i = 0; i + 1 < argc; i++) {
        if (strcmp(argv[i], name) == 0)
            return argv[i + 1];
    }
    return NULL;
}

int main(int argc, char **argv)
{
    (void)signal(SIGPIPE, SIG_IGN);
    (void)setvbuf(stdout, NULL, _IOLBF, 0);
    const char *word = argc > 1 ? argv[1] : "";
    if (strcmp(word, "guest") == 0) {
        const char *percent = option(argc, argv, "--hog");
        guest_run(option(argc, argv, "--peer"), option(argc, argv, "--blocks"),
                  percent ? (unsigned)strtoul(percent, NULL, 10) : 0);
        return 0;
    }
    if (strcmp(word, "peer") == 0 && argc == 3)
        return peer_run(argv[2]);
    if (strcmp(word, "check") == 0 && argc == 4)
        return block_file_check(argv[2], strtoull(argv[3], NULL, 10)) ? 0 : 1;
    (void)fprintf(stderr, "usage: load guest [--peer ADDRESS] [--blocks FILE] [--hog PERCENT]\n"
                          "       load peer GUEST_ADDRESS\n"
                          "       load check FILE ACKNOWLEDGED\n");
    return 2;
}

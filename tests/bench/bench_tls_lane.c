/* How fast a lane is, and what a gigabyte costs both ends together, beside the bare socket.
 *
 *   bench_tls_lane [GB per run]
 *
 * Loopback TCP, a writer and a reader thread for each lane; the reader takes what the writer gave
 * in pieces of the same size, preceded by a header of 32 bytes as the lanes of a move do it.
 */
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "base/err.h"
#include "base/own.h"
#include "base/world.h"
#include "net/stream.h"
#include "net/tls_lane.h"

enum { LANES = 2, HEADER = 32 };

static const uint8_t psk[TLS_LANE_PSK_BYTES] = {1, 2, 3};

struct plain { /* the bare socket as a stream, blocking */
    struct stream stream;
    int fd;
};

struct side {
    pthread_t thread;
    int fd;
    unsigned lane;
    bool is_source, is_plain, is_hot;
    size_t piece, pieces;
    pthread_barrier_t *start;
    uint64_t waited_ns;
};

static void check(int r, const struct fault *fault)
{
    if (r == 0)
        return;
    fprintf(stderr, "%s\n", fault->text);
    exit(1);
}

static int plain_write(struct stream *stream, const void *bytes, size_t count, struct fault *fault)
{
    const uint8_t *at = bytes;
    while (count > 0) {
        ssize_t sent = send(((struct plain *)stream)->fd, at, count, MSG_NOSIGNAL);
        if (sent < 0)
            return fault_set_errno(fault, ERR_IO, errno, "sending");
        at += sent;
        count -= (size_t)sent;
    }
    return 0;
}

static int plain_read(struct stream *stream, void *bytes, size_t count, struct fault *fault)
{
    ssize_t got = recv(((struct plain *)stream)->fd, bytes, count, MSG_WAITALL);
    return got == (ssize_t)count ? 0 : fault_set_errno(fault, ERR_IO, errno, "receiving");
}

static int plain_flush(struct stream *stream, struct fault *fault)
{
    (void)stream, (void)fault;
    return 0;
}

static void plain_free(struct stream *stream)
{
    (void)close(((struct plain *)stream)->fd);
    free(stream);
}

static const struct stream_ops plain_ops = {
    .write = plain_write, .read = plain_read, .flush = plain_flush, .free = plain_free};

static struct stream *open_stream(const struct side *side)
{
    struct fault fault = {0};
    if (side->is_plain) {
        struct plain *plain = calloc(1, sizeof *plain);
        if (!plain)
            exit(1);
        plain->stream.ops = &plain_ops;
        plain->fd = side->fd;
        return &plain->stream;
    }
    struct tls_lane_config config = {.fd = side->fd,
                                     .is_source = side->is_source,
                                     .move_id = "bench",
                                     .name = {.lane = side->lane},
                                     .psk = psk,
                                     .handshake_ms_max = 5000};
    struct stream *stream = NULL;
    struct tls_lane_name name;
    check(tls_lane_new(&stream, &name, &config, &fault), &fault);
    stream_set_hot(stream, side->is_hot);
    return stream;
}

static void *run_side(void *data)
{
    struct side *side = data;
    struct fault fault = {0};
    struct stream *stream = open_stream(side);
    uint8_t *bytes = aligned_alloc(4096, side->piece);
    uint8_t header[HEADER] = {0};
    if (!bytes)
        exit(1);
    memset(bytes, 7, side->piece);

    pthread_barrier_wait(side->start);
    for (size_t i = 0; i < side->pieces; i++) {
        if (side->is_source) {
            check(stream_write(stream, header, HEADER, &fault), &fault);
            check(stream_write(stream, bytes, side->piece, &fault), &fault);
        } else {
            check(stream_read(stream, header, HEADER, &fault), &fault);
            check(stream_read(stream, bytes, side->piece, &fault), &fault);
        }
    }
    if (side->is_source)
        check(stream_flush(stream, &fault), &fault);
    /* The lane's last word comes from the reader, so that nobody closes under bytes on the way. */
    if (side->is_source) {
        check(stream_read(stream, header, HEADER, &fault), &fault);
    } else {
        check(stream_write(stream, header, HEADER, &fault), &fault);
        check(stream_flush(stream, &fault), &fault);
    }
    side->waited_ns = side->is_source ? stream->wait_out_ns : stream->wait_in_ns;
    pthread_barrier_wait(side->start);
    free(bytes);
    (void)stream_free(stream);
    return NULL;
}

static void connect_pair(int ret_fds[2])
{
    AUTO_FD int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    ret_fds[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (bind(listener, (struct sockaddr *)&address, size) < 0 || listen(listener, 1) < 0 ||
        getsockname(listener, (struct sockaddr *)&address, &size) < 0 ||
        connect(ret_fds[0], (struct sockaddr *)&address, size) < 0 ||
        (ret_fds[1] = accept(listener, NULL, NULL)) < 0) {
        perror("loopback");
        exit(1);
    }
}

static double cpu_s(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)usage.ru_utime.tv_sec + (double)usage.ru_stime.tv_sec +
           ((double)usage.ru_utime.tv_usec + (double)usage.ru_stime.tv_usec) / 1e6;
}

static void run(bool is_plain, size_t lanes, size_t piece, bool is_hot, double gigabytes)
{
    struct side sides[2 * LANES] = {0};
    pthread_barrier_t start;
    pthread_barrier_init(&start, NULL, (unsigned)(2 * lanes + 1));
    size_t pieces = (size_t)(gigabytes * 1e9 / (double)piece / (double)lanes);
    for (size_t i = 0; i < lanes; i++) {
        int fds[2];
        connect_pair(fds);
        for (size_t k = 0; k < 2; k++) {
            struct side *side = &sides[2 * i + k];
            *side = (struct side){.fd = fds[k],
                                  .lane = (unsigned)i,
                                  .is_source = k == 0,
                                  .is_plain = is_plain,
                                  .is_hot = is_hot,
                                  .piece = piece,
                                  .pieces = pieces,
                                  .start = &start};
            pthread_create(&side->thread, NULL, run_side, side);
        }
    }
    pthread_barrier_wait(&start);
    uint64_t began_ns = world_now_ns();
    double began_cpu_s = cpu_s();
    pthread_barrier_wait(&start);
    double took_s = (double)(world_now_ns() - began_ns) / 1e9, used_s = cpu_s() - began_cpu_s;
    double moved = (double)(lanes * pieces * piece) / 1e9, waited_s[2] = {0};
    for (size_t i = 0; i < 2 * lanes; i++) {
        pthread_join(sides[i].thread, NULL);
        waited_s[i % 2] += (double)sides[i].waited_ns / 1e9;
    }
    pthread_barrier_destroy(&start);
    printf("%-5s %zu lane%s %4zu KiB%s  %5.2f GB/s  %5.2f CPU-s/GB  waits out %.2f in %.2f s\n",
           is_plain ? "plain" : "tls", lanes, lanes > 1 ? "s" : " ", piece >> 10,
           is_hot ? " hot" : "    ", moved / took_s, used_s / moved, waited_s[0], waited_s[1]);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    double gigabytes = argc > 1 ? strtod(argv[1], NULL) : 3.0;
    for (size_t lanes = 1; lanes <= LANES; lanes++) {
        for (size_t piece = 64 << 10; piece <= 256 << 10; piece *= 2) {
            run(true, lanes, piece, false, gigabytes);
            run(false, lanes, piece, false, gigabytes);
        }
    }
    run(false, 1, 4 << 10, false, gigabytes);
    run(false, 1, 256 << 10, true, gigabytes);
    return 0;
}

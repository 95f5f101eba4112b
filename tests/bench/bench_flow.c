/* GB/s, CPU-s/GB and the pause of whole moves in one process: over pipes and over TLS on loopback.
 *
 *      bench_flow [mib] [lanes] [pipe|tls] [zero|random|text|mix] [auto|off|lz4] [repeats]
 * [rounds|stream] [writers' pages]
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/log.h"
#include "base/world.h"
#include "net/stream.h"
#include "net/tls_lane.h"
#include "tests/support/fake_move.h"

static uint8_t psk[TLS_LANE_PSK_BYTES] = {1, 2, 3};

struct accepting {
    int fd;
    struct stream *stream;
    int r;
};

static void *accept_run(void *data)
{
    struct accepting *accepting = data;
    struct fault fault = {0};
    struct tls_lane_name name;
    const struct tls_lane_config config = {
        .fd = accepting->fd, .move_id = "move-1", .psk = psk, .handshake_ms_max = 5000};
    accepting->r = tls_lane_new(&accepting->stream, &name, &config, &fault);
    if (accepting->r < 0)
        fprintf(stderr, "target: %s\n", fault.text);
    return NULL;
}

static void socket_pair(int ret_fds[2])
{
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t bytes = sizeof address;
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 1) ||
        getsockname(listener, (struct sockaddr *)&address, &bytes))
        abort();
    ret_fds[0] = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(ret_fds[0], (struct sockaddr *)&address, sizeof address))
        abort();
    ret_fds[1] = accept(listener, NULL, NULL);
    close(listener);
}

static int tls_streams(unsigned lane, struct stream **ret_source, struct stream **ret_target)
{
    int fds[2];
    socket_pair(fds);
    struct fault fault = {0};
    struct accepting accepting = {.fd = fds[1]};
    pthread_t thread;
    if (pthread_create(&thread, NULL, accept_run, &accepting))
        abort();
    const struct tls_lane_config config = {.fd = fds[0],
                                           .is_source = true,
                                           .move_id = "move-1",
                                           .name = {.lane = lane},
                                           .psk = psk,
                                           .handshake_ms_max = 5000};
    struct tls_lane_name told;
    int r = tls_lane_new(ret_source, &told, &config, &fault);
    pthread_join(thread, NULL);
    if (r < 0 || accepting.r < 0) {
        fprintf(stderr, "source: %s\n", fault.text);
        return ERR_IO;
    }
    *ret_target = accepting.stream;
    return 0;
}

static enum fake_fill fill_of(const char *word)
{
    return strcmp(word, "zero") == 0     ? FAKE_FILL_ZERO
           : strcmp(word, "random") == 0 ? FAKE_FILL_RANDOM
           : strcmp(word, "text") == 0   ? FAKE_FILL_TEXT
                                         : FAKE_FILL_MIX;
}

static void bench(unsigned mib, unsigned lanes, bool tls, const char *fill, const char *compress,
                  const char *mode, unsigned writer_pages)
{
    const struct fake_guest_config source_config = {.pages = MIB(mib) / PAGE_BYTES,
                                                    .fill = fill_of(fill),
                                                    .running = true,
                                                    .writers = writer_pages > 0,
                                                    .writer_pages = writer_pages,
                                                    .writes_per_ms = 30};
    const struct fake_guest_config target_config = {.pages = source_config.pages};
    struct fake_guest *source = fake_guest_new(&source_config);
    struct fake_guest *target = fake_guest_new(&target_config);
    Godwit__MoveGoals goals = GODWIT__MOVE_GOALS__INIT;
    goals.compress = (char *)compress;
    goals.lanes = lanes;
    goals.mode = (char *)mode;
    const struct fake_move_config config = {
        .source_guest = fake_guest_guest(source),
        .target_guest = fake_guest_guest(target),
        .goals = &goals,
        .lanes = LANES_MAX,
        .streams = tls ? tls_streams : NULL,
    };
    struct fake_move move;
    fake_move_init(&move, &config);
    fake_move_start(&move);
    fake_move_await_end(&move);
    double gib = (double)mib / 1024 * 1.073741824;
    double seconds = (double)(move.round_ns[0]) / 1e9;
    printf("%-6s %-4s lanes %u: bulk %.3f s %.2f GB/s  cpu-s/GB source %.2f target %.2f  "
           "wire %.1f MiB  pause %.0f us (%.0f+%.0f+%.0f+%.0f) predicted %.0f us  total %.0f ms "
           "(forecast %.0f)  %s\n",
           fill, tls ? "tls" : "pipe", move.lanes, seconds, gib / seconds,
           (double)move.source_cpu_ns / 1e9 / gib, (double)move.target_cpu_ns / 1e9 / gib,
           (double)move.wire_bytes / 1048576, (double)move.downtime_ns / 1e3,
           (double)move.pause_ns / 1e3, (double)move.drain_ns / 1e3, (double)move.state_ns / 1e3,
           (double)move.resume_ns / 1e3, (double)move.predicted_ns / 1e3,
           (double)move.total_ns / 1e6, (double)move.predicted_total_ns / 1e6,
           move.moved ? "moved" : move.at_source.fault.text);
    if (move.moved && fake_guest_compare(source, target) != UINT64_MAX)
        printf("MEMORY DIFFERS\n");
    fake_move_deinit(&move);
    fake_guest_free(source);
    fake_guest_free(target);
}

int main(int argc, char **argv)
{
    unsigned mib = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : 512;
    unsigned lanes = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 10) : 0;
    bool tls = argc > 3 && strcmp(argv[3], "tls") == 0;
    const char *fill = argc > 4 ? argv[4] : "random";
    const char *compress = argc > 5 ? argv[5] : "auto";
    unsigned repeats = argc > 6 ? (unsigned)strtoul(argv[6], NULL, 10) : 3;
    const char *mode = argc > 7 ? argv[7] : "auto";
    unsigned writer_pages = argc > 8 ? (unsigned)strtoul(argv[8], NULL, 10) : 0;
    log_set_level(LOG_WARN);
    for (unsigned i = 0; i < repeats; i++)
        bench(mib, lanes, tls, fill, compress, mode, writer_pages);
    return 0;
}

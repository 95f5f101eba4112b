/* The far end, on the test's machine: one line of its stdin asks for one record.
 *   stats   everything since the start
 *   gap     the longest gap between two datagrams since the last "gap" (or the start) */
#define _GNU_SOURCE
#include "load.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static struct stream out, in;
static _Atomic uint64_t acked, acks_bad, beats, beats_lost, beats_old, gap_ns_max;
static _Atomic int64_t shift_ns, shift_ns_min, shift_ns_max;
static _Atomic bool acks_ended;

static void *run_acks(void *unused)
{
    int fd = accept(listen_at(PORT_ACKS, SOCK_STREAM), NULL, NULL);
    uint64_t number;
    while (recv(fd, &number, sizeof number, MSG_WAITALL) == (ssize_t)sizeof number) {
        if (number != acked + 1)
            acks_bad++;
        acked = number;
    }
    acks_ended = true;
    return unused;
}

static void *run_beats(void *unused)
{
    int fd = listen_at(PORT_BEATS, SOCK_DGRAM);
    struct beat beat;
    uint64_t last_ns = 0, last_number = 0;
    int64_t first = 0;
    while (recv(fd, &beat, sizeof beat, 0) == (ssize_t)sizeof beat) {
        uint64_t now = now_ns();
        int64_t distance = (int64_t)(beat.guest_ns - now);
        if (beats++ == 0) {
            first = distance;
        } else if (beat.number <= last_number) {
            beats_old++;
            continue;
        } else {
            beats_lost += beat.number - last_number - 1;
            if (now - last_ns > gap_ns_max)
                gap_ns_max = now - last_ns;
            shift_ns = distance - first;
            if (shift_ns < shift_ns_min)
                shift_ns_min = (int64_t)shift_ns;
            if (shift_ns > shift_ns_max)
                shift_ns_max = (int64_t)shift_ns;
        }
        last_ns = now;
        last_number = beat.number;
    }
    return unused;
}

static void *run_out(void *unused)
{
    int listener = listen_at(PORT_OUT, SOCK_STREAM);
    stream_start(&out, accept(listener, NULL, NULL), 2, 1);
    return unused;
}

static void *run_in(void *address)
{
    sleep_ms(100);
    stream_start(&in, connect_to(address, PORT_IN), 4, 3);
    return NULL;
}

static void tell_stats(void)
{
    (void)printf("gw peer acked=%llu acks_bad=%llu beats=%llu beats_lost=%llu beats_old=%llu "
                 "shift_us=%lld shift_us_min=%lld shift_us_max=%lld out_sent=%llu out_received=%llu "
                 "out_bad=%llu out_broken=%d in_sent=%llu in_received=%llu in_bad=%llu in_broken=%d\n",
                 (unsigned long long)acked, (unsigned long long)acks_bad, (unsigned long long)beats,
                 (unsigned long long)beats_lost, (unsigned long long)beats_old,
                 (long long)shift_ns / 1000, (long long)shift_ns_min / 1000,
                 (long long)shift_ns_max / 1000, (unsigned long long)out.sent,
                 (unsigned long long)out.received, (unsigned long long)out.bad_at, out.broken,
                 (unsigned long long)in.sent, (unsigned long long)in.received,
                 (unsigned long long)in.bad_at, in.broken);
}

int peer_run(const char *guest_address)
{
    start_thread(run_acks, NULL);
    start_thread(run_beats, NULL);
    start_thread(run_out, NULL);
    start_thread(run_in, (void *)(uintptr_t)guest_address);
    char line[64];
    (void)printf("gw peer ready\n");
    while (fgets(line, sizeof line, stdin)) {
        if (strncmp(line, "stats", 5) == 0)
            tell_stats();
        else if (strncmp(line, "gap", 3) == 0)
            (void)printf("gw gap us=%llu\n",
                         (unsigned long long)atomic_exchange(&gap_ns_max, 0) / 1000);
    }
    return 0;
}

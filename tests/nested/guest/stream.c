/* A connection on which each side sends words of a sequence that the other knows: word i is mix(seed ^ i). A
 * byte lost, doubled or changed shows at its place; an end or a reset shows as broken. */
#define _GNU_SOURCE
#include "load.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>

enum { CHUNK_WORDS = 256, CHUNK_MS = 20 };

static void *run_send(void *data)
{
    struct stream *stream = data;
    uint64_t words[CHUNK_WORDS];
    for (uint64_t at = 0;; at += CHUNK_WORDS) {
        for (uint64_t i = 0; i < CHUNK_WORDS; i++)
            words[i] = mix(stream->seed_out << 56 ^ (at + i));
        if (!send_all(stream->fd, words, sizeof words)) {
            stream->broken = errno ? errno : -1;
            return NULL;
        }
        stream->sent += sizeof words;
        sleep_ms(CHUNK_MS);
    }
}

static void *run_receive(void *data)
{
    struct stream *stream = data;
    unsigned char bytes[16384];
    uint64_t place = 0, word = mix(stream->seed_in << 56);
    for (;;) {
        ssize_t n = recv(stream->fd, bytes, sizeof bytes, 0);
        if (n <= 0) {
            stream->broken = n < 0 ? errno : -1;
            return NULL;
        }
        for (ssize_t i = 0; i < n; i++, place++) {
            if (place % 8 == 0)
                word = mix(stream->seed_in << 56 ^ place / 8);
            unsigned char wanted = (unsigned char)(word >> place % 8 * 8);
            if (bytes[i] != wanted && stream->bad_at == 0)
                stream->bad_at = place + 1;
        }
        stream->received += (uint64_t)n;
    }
}

void stream_start(struct stream *stream, int fd, uint64_t seed_out, uint64_t seed_in)
{
    if (fd < 0) {
        stream->broken = -1;
        return;
    }
    int on = 1;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    stream->fd = fd;
    stream->seed_out = seed_out;
    stream->seed_in = seed_in;
    start_thread(run_send, stream);
    start_thread(run_receive, stream);
}

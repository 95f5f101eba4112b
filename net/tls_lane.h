/* A lane's stream: TLS 1.3 with the move's one-time pre-shared key, over a connected TCP socket.
 *
 * Flow:   agent's socket -> [tls_lane] -> stream
 * Thread: the lane's own.
 *
 * PSK with (EC)DHE only (RFC 8446 section 2.2), AES-128-GCM first, full 16 KiB records. The
 * identity sent is the move's id, the lane's number and, once lanes were lost, the epoch: how often
 * the move has connected anew. So a lane that authenticates belongs to this move and to no other,
 * and one of an earlier epoch is known as such. One thread may read while another writes; they
 * share a lock that is held for one record at a time and never across a wait. What a failing
 * stream_read wrote to its buffer is not to be used.
 */
#ifndef GODWIT_NET_TLS_LANE_H
#define GODWIT_NET_TLS_LANE_H

#include <stdbool.h>
#include <stdint.h>

struct fault;
struct stream;

enum {
    TLS_LANE_PSK_BYTES = 32,
    TLS_LANE_CONTROL = 0xff,
    TLS_LANE_MOVE_ID_MAX = 64,
    /* AES-GCM is safe for 2^24.5 full records under one key (RFC 8446 section 5.5). */
    TLS_LANE_KEY_RECORDS_MAX = 1 << 23,
};

struct tls_lane_name {
    unsigned lane;  /* 0 .. LANES_MAX-1 or TLS_LANE_CONTROL */
    unsigned epoch; /* 0 .. LANE_EPOCH_MAX; 0: the lanes that the move began with */
};

struct tls_lane_config {
    int fd;         /* connected socket; taken when tls_lane_new returns 0 */
    bool is_source; /* the source is the TLS client */
    const char *move_id;
    struct tls_lane_name name; /* as target: ret_name says */
    const uint8_t *psk;        /* TLS_LANE_PSK_BYTES */
    uint64_t handshake_ms_max;
    uint64_t key_records_max; /* 0: TLS_LANE_KEY_RECORDS_MAX; then a KeyUpdate */
};

/* Does the handshake before it returns. As target, *ret_name is what the source gave (checked
 * against the move id and its range); as source it is config->name. */
int tls_lane_new(struct stream **ret_stream, struct tls_lane_name *ret_name,
                 const struct tls_lane_config *config, struct fault *fault);

/* What OpenSSL does once a process (configuration, providers, tables, first use of each algorithm),
 * done now instead of in the first handshake. Any thread, also while lanes open; nobody need call it.
 * False: nothing is warm, and nothing lost. */
bool tls_lane_warm(void);

/* Set on every socket between hosts: no delay, keepalive, TCP_USER_TIMEOUT (PEER_SILENT_MS). */
int tcp_set_options(int fd, struct fault *fault);

#endif

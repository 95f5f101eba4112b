/* The handshake of a lane: TLS 1.3 with the move's pre-shared key, by OpenSSL; keys come out.
 *
 * Flow:   tls_lane_new -> [lane_handshake] -> tls_record
 * Thread: the lane's own; blocks until handshake_ms_max.
 */
#ifndef GODWIT_NET_LANE_HANDSHAKE_H
#define GODWIT_NET_LANE_HANDSHAKE_H

#include <stdint.h>

#include "net/tls_record.h"

struct fault;
struct tls_lane_config;

struct lane_keys { /* secrets: cleanse after use */
    unsigned lane;
    uint8_t out_secret[TLS_RECORD_SECRET_BYTES], in_secret[TLS_RECORD_SECRET_BYTES];
    uint64_t wire_bytes_out, wire_bytes_in; /* that the handshake took */
};

/* config->fd does not block and stays the caller's. When this returns 0 the peer has proved that it
 * has the key and means this move, and the next byte on the socket is that of a record. */
int lane_handshake(const struct tls_lane_config *config, struct lane_keys *ret_keys,
                   struct fault *fault);

#endif

/* The handshake of a lane: TLS 1.3 with the move's pre-shared key.
 *
 * Flow:   tls_lane_new -> [lane_handshake] -> tls_lane
 * Thread: the lane's own; blocks until handshake_ms_max.
 */
#ifndef GODWIT_NET_LANE_HANDSHAKE_H
#define GODWIT_NET_LANE_HANDSHAKE_H

#include <stdbool.h>
#include <stdint.h>

#include "net/tls_lane.h"

struct fault;
struct ssl_st;

struct lane_session {
    struct ssl_st *ssl; /* owned by whoever holds the lane_session */
    struct tls_lane_name name;
    uint64_t wire_bytes_out, wire_bytes_in; /* that the handshake took */
};

/* config->fd does not block and stays the caller's. When this returns 0 the peer has proved that it
 * has the key and means this move, and OpenSSL holds no byte of what follows. Gives
 * ret_session->ssl, which has no BIO any more. */
int lane_handshake(const struct tls_lane_config *config, struct lane_session *ret_session,
                   struct fault *fault);

/* One handshake with ourselves over memory, so that the first real one finds all that OpenSSL makes
 * once a process. Any thread. False: it did not come about, which costs the first real one its time. */
bool lane_handshake_warm(void);

#endif

/* Sealing and opening TLS 1.3 records in one direction (RFC 8446 section 5), AES-128-GCM.
 *
 * Flow:   tls_lane -> [tls_record] -> socket
 * Thread: one at a time for each object; the two directions of a lane share nothing.
 *
 * No I/O: wire bytes and plain bytes are the caller's, and pass from one to the other without a
 * copy in between.
 */
#ifndef GODWIT_NET_TLS_RECORD_H
#define GODWIT_NET_TLS_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct evp_cipher_ctx_st;

enum {
    TLS_RECORD_ALERT = 21,
    TLS_RECORD_HANDSHAKE = 22,
    TLS_RECORD_DATA = 23,
};

enum {
    TLS_RECORD_SECRET_BYTES = 32,
    TLS_RECORD_IV_BYTES = 12,
    TLS_RECORD_PLAIN_MAX = 16384,
    TLS_RECORD_HEADER_BYTES = 5,
    TLS_RECORD_TAIL_BYTES = 1 + 16, /* inner type, tag */
    TLS_RECORD_WIRE_MAX = TLS_RECORD_HEADER_BYTES + TLS_RECORD_PLAIN_MAX + TLS_RECORD_TAIL_BYTES,
    TLS_RECORD_BODY_MAX = TLS_RECORD_PLAIN_MAX + 256, /* what a peer may send */
};

struct tls_record {
    struct evp_cipher_ctx_st *cipher; /* owned */
    uint64_t sequence;                /* records under the present key */
    uint8_t secret[TLS_RECORD_SECRET_BYTES];
    uint8_t iv[TLS_RECORD_IV_BYTES];
    bool seals;
};

/* `secret` is a traffic secret of the handshake. Returns 0 or ERR_NOMEM. */
int tls_record_init(struct tls_record *record, const uint8_t secret[static TLS_RECORD_SECRET_BYTES],
                    bool seals);
void tls_record_deinit(struct tls_record *record);
/* The key after a KeyUpdate. */
int tls_record_next_key(struct tls_record *record);

/* One record of `head` followed by `tail` (together at most TLS_RECORD_PLAIN_MAX) to ret_wire.
 * Returns the wire bytes. */
size_t tls_record_seal(struct tls_record *record, uint8_t type, const void *head, size_t head_bytes,
                       const void *tail, size_t tail_bytes,
                       uint8_t ret_wire[static TLS_RECORD_WIRE_MAX]);

/* Bytes behind the header, or 0 for a header that starts no protected record. */
size_t tls_record_body_bytes(const uint8_t header[static TLS_RECORD_HEADER_BYTES]);

enum { TLS_RECORD_E_FORGED = 1 };
/* Open the whole record at `wire`. ret_plain has room for its body less TLS_RECORD_TAIL_BYTES and
 * is written before the tag is checked: when this returns TLS_RECORD_E_FORGED it holds rubbish. */
int tls_record_open(struct tls_record *record, const uint8_t *wire, void *ret_plain,
                    size_t *ret_count, uint8_t *ret_type);

#endif

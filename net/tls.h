/* TLS 1.3 of the control connections, between plain and wire bytes in memory; no sockets here.
 *
 * Flow:   conn -> [tls] -> conn
 * Thread: the loop's.
 *
 * Wire bytes go in by tls_session_feed and come out by tls_session_wire; after every other call of
 * this header there may be wire bytes to send. tls_context itself is declared in net/rpc.h.
 */
#ifndef GODWIT_NET_TLS_H
#define GODWIT_NET_TLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "net/pki.h"

struct fault;
struct tls_context;
struct tls_session;

struct tls_context *tls_context_ref(struct tls_context *context);

int tls_session_new(struct tls_session **ret_session, struct tls_context *context, bool is_server,
                    struct fault *fault);
struct tls_session *tls_session_free(struct tls_session *session);

enum {
    TLS_E_MORE = 1, /* wire bytes of the peer are needed first */
    TLS_E_END = 2,  /* the peer said good-bye */
};

int tls_session_feed(struct tls_session *session, const void *bytes, size_t count,
                     struct fault *fault);
/* 0 done, TLS_E_MORE, or a failure: ERR_DENIED for trust, ERR_CORRUPT for what is not TLS. */
int tls_session_handshake(struct tls_session *session, struct fault *fault);
/* Who the peer is, after the handshake; role "" for an anonymous one. */
int tls_session_peer(struct tls_session *session, struct pki_identity *ret_peer,
                     struct fault *fault);
int tls_session_read(struct tls_session *session, void *ret_bytes, size_t room, size_t *ret_count,
                     struct fault *fault);
int tls_session_write(struct tls_session *session, const void *bytes, size_t count,
                      struct fault *fault);
void tls_session_bye(struct tls_session *session);

/* Bytes for the peer, valid until the next call; tls_session_wire_taken drops them. */
size_t tls_session_wire(struct tls_session *session, const uint8_t **ret_bytes);
void tls_session_wire_taken(struct tls_session *session);

#endif

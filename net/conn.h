/* One connection under rpc: TCP with TLS, or a Unix socket; it opens, carries bytes, ends.
 *
 * Flow:   socket <-> tls <-> [conn] <-> rpc
 * Thread: the loop's.
 *
 * `opened` comes at most once, then `bytes`, and `ended` at most once as the last word; none of
 * them from inside a call of this header, and none after conn_free. All may free the conn.
 */
#ifndef GODWIT_NET_CONN_H
#define GODWIT_NET_CONN_H

#include <stddef.h>
#include <stdint.h>

#include "net/pki.h"

struct conn;
struct fault;
struct loop;
struct tls_context;

struct conn_events {
    void (*opened)(void *data);
    void (*bytes)(void *data, const uint8_t *bytes, size_t count);
    void (*ended)(void *data, const struct fault *fault);
};

int conn_connect(struct conn **ret_conn, struct loop *loop, const char *address,
                 struct tls_context *context, const char *peer_role,
                 const struct conn_events *events, void *data, struct fault *fault);
/* A TCP socket from accept, as TLS server; takes fd when it returns 0. */
int conn_accept(struct conn **ret_conn, struct loop *loop, int fd, struct tls_context *context,
                const struct conn_events *events, void *data, struct fault *fault);
/* A connected Unix socket, open at once without `opened`; takes fd when it returns 0. */
int conn_new_unix(struct conn **ret_conn, struct loop *loop, int fd,
                  const struct conn_events *events, void *data, struct fault *fault);
struct conn *conn_free(struct conn *conn);
/* Let what is queued go out, then end and free itself: after 2 s in which the peer took nothing, and
 * after 30 s in any case. */
struct conn *conn_linger(struct conn *conn);

/* Queue bytes, with descriptors at the first of them (Unix only; duplicated, still the caller's).
 * ERR_CLOSED when it is not open, ERR_LIMIT when the queue is full: that ends the connection. */
int conn_send(struct conn *conn, const void *bytes, size_t count, const int *fds, size_t fd_count,
              struct fault *fault);
/* Give the `count` oldest descriptors received; ERR_CORRUPT when so many have not come. */
int conn_take_fds(struct conn *conn, int *ret_fds, size_t count, struct fault *fault);
/* End it with these words of ours; `ended` follows. */
void conn_fail(struct conn *conn, const struct fault *fault);

const struct pki_identity *conn_peer(const struct conn *conn);
const char *conn_peer_address(const struct conn *conn);
const char *conn_local_address(const struct conn *conn);

#endif

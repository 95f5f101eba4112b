/* A real etcd of one member, by plain HTTP or by TLS with certificates both ways.
 *
 * Flow:   host tests -> [etcd_server] -> etcd
 * Thread: the test's own.
 */
#ifndef GODWIT_TESTS_SUPPORT_ETCD_SERVER_H
#define GODWIT_TESTS_SUPPORT_ETCD_SERVER_H

#include <stdbool.h>
#include <sys/types.h>

struct etcd_server {
    char folder[64]; /* by TLS: ca.pem, client.pem, client.key, other.pem lie in it */
    pid_t pid;
    int port; /* of 127.0.0.1 */
};

/* False: there is no etcd here, or no openssl to make certificates. */
bool etcd_server_start(struct etcd_server *server, bool by_tls);
/* Waits until a store at `place` can be opened; false: it never could. */
bool etcd_server_await(const char *place);
void etcd_server_stop(struct etcd_server *server);

#endif

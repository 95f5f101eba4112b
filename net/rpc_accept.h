/* The room's own door to rpc: an rpc over a socket that was just accepted.
 *
 * Flow:   rpc_server -> [rpc_accept] -> rpc
 * Thread: the loop's.
 */
#ifndef GODWIT_NET_RPC_ACCEPT_H
#define GODWIT_NET_RPC_ACCEPT_H

#include "net/rpc.h"

/* As rpc_connect, from the server's side; takes fd when it returns 0. */
int rpc_accept(struct rpc **ret_rpc, struct loop *loop, int fd, struct tls_context *context,
               const struct rpc_service *service, void *data,
               void (*opened)(void *data, struct rpc *rpc, const struct fault *fault),
               struct fault *fault);

#endif

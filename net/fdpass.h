/* Bytes and descriptors over a Unix stream socket.
 *
 * Flow:   conn -> [fdpass] -> kernel
 * Thread: any; no state.
 */
#ifndef GODWIT_NET_FDPASS_H
#define GODWIT_NET_FDPASS_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "proto/limits.h"

/* As send(2), never blocks, no SIGPIPE; -errno on failure. The descriptors go with the first byte.
 */
ssize_t fdpass_send(int fd, const void *bytes, size_t count, const int *fds, size_t fd_count);
/* As recv(2), never blocks; -errno on failure. Descriptors received are close-on-exec and the
 * caller's; -EMSGSIZE when the peer sent more than RPC_FDS_MAX at once (all are closed). */
ssize_t fdpass_receive(int fd, void *ret_bytes, size_t room, int ret_fds[static RPC_FDS_MAX],
                       size_t *ret_fd_count);

#endif

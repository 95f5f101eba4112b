/* The TCP sockets of a move: the target's agent listens, the source's agent connects.
 *
 * Flow:   orders -> [move_sockets] -> godwit-vm (which does the handshakes)
 * Thread: the loop's; connecting is done by a worker.
 */
#ifndef GODWIT_AGENT_MOVE_SOCKETS_H
#define GODWIT_AGENT_MOVE_SOCKETS_H

#include <stddef.h>

#include "proto/limits.h"

struct fault;
struct loop;

enum { MOVE_ADDRESS_SIZE = 160, MOVE_SOCKETS_MAX = LANES_MAX + 1 };

/* Listen on `host` (a numeric address, v6 with or without brackets), any port; *ret_address is
 * "host:port", fit for move_sockets_connect elsewhere. */
int move_sockets_listen(const char *host, int *ret_fd, char ret_address[static MOVE_ADDRESS_SIZE],
                        struct fault *fault);

/* Connect `count` sockets to `address` within CONNECT_MS_MAX. `done` comes once, on the loop, with
 * blocking sockets (the callee's to close) or with a fault: ERR_REFUSED where nobody listens, else
 * ERR_UNREACHABLE. */
int move_sockets_connect(struct loop *loop, const char *address, size_t count,
                         void (*done)(void *data, const int *fds, size_t count,
                                      const struct fault *fault),
                         void *data, struct fault *fault);

#endif

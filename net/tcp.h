/* TCP addresses and sockets.
 *
 * Flow:   conn, rpc_server -> [tcp] -> kernel
 * Thread: any; no state. tcp_listen may block in a name look-up and is for start-up.
 */
#ifndef GODWIT_NET_TCP_H
#define GODWIT_NET_TCP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

struct fault;

enum { TCP_HOST_SIZE = 256, TCP_PORT_SIZE = 6, TCP_ADDRESS_SIZE = 64 };

struct tcp_name {
    char host[TCP_HOST_SIZE];
    char port[TCP_PORT_SIZE]; /* decimal, 0 to 65535 */
};

/* "host:port", "10.0.0.2:7411", "[fe80::1]:7411". */
int tcp_name_parse(const char *address, struct tcp_name *ret_name, struct fault *fault);
int tcp_listen(const char *address, int *ret_fd, uint16_t *ret_port, struct fault *fault);
/* Words of a socket address, with or without its port; "" for what is no IP address. */
void tcp_address_text(const struct sockaddr *address, socklen_t size, bool with_port,
                      char ret_text[static TCP_ADDRESS_SIZE]);

#endif

/* A TCP proxy whose connections break to order: what the host tests use for a bad network.
 *
 * Flow:   source's agent -> [tcp_proxy] -> target's godwit-vm
 * Thread: its own; the functions from the test's.
 */
#ifndef GODWIT_TESTS_SUPPORT_TCP_PROXY_H
#define GODWIT_TESTS_SUPPORT_TCP_PROXY_H

#include <stdbool.h>
#include <stdint.h>

struct tcp_proxy;

enum { TCP_PROXY_ADDRESS_SIZE = 64 };

struct tcp_proxy_config {
    const char *upstream; /* "127.0.0.1:40123" */
    /* Each time that so many bytes have gone upstream since the last cut (0: never), all
     * connections are reset; at most `cuts` times. */
    uint64_t cut_bytes;
    unsigned cuts;
    bool stays_closed; /* after the last cut: who connects is reset */
};

struct tcp_proxy *tcp_proxy_new(const struct tcp_proxy_config *config,
                                char ret_address[static TCP_PROXY_ADDRESS_SIZE]);
unsigned tcp_proxy_cuts(struct tcp_proxy *proxy);  /* so far */
uint64_t tcp_proxy_bytes(struct tcp_proxy *proxy); /* that went upstream, all in all */
struct tcp_proxy *tcp_proxy_free(struct tcp_proxy *proxy);

#endif

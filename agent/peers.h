/* This agent and the other hosts' agents: are you alive? Asked when one has gone silent.
 *
 * Flow:   orders (PROBE) -> [peers] -> net/rpc -> another agent's [peers]
 * Thread: the loop's.
 *
 * The line is mutual TLS with the hosts' own certificates; it says who lives there as which
 * incarnation, takes a move's words for a libvirt domain, and gives images to read; nothing else.
 */
#ifndef GODWIT_AGENT_PEERS_H
#define GODWIT_AGENT_PEERS_H

#include <stdbool.h>

#include "proto/agent.pb-c.h"

struct fault;
struct rpc_request;
struct host_facts;
struct images;
struct loop;
struct peers;
struct tls_context;

enum { PEERS_PORT = 7412, PEERS_MAX = 64, PEERS_PROBE_MS = 1500 };

/* Listens at `address` (an address without port) when it can; a host where it cannot is just not
 * reached by others. */
int peers_new(struct peers **ret_peers, struct loop *loop, struct tls_context *context,
              struct host_facts *facts, const char *name, const char *address,
              struct fault *fault);
/* What other agents say of moves of libvirt domains goes there; whoever takes it judges its key. */
void peers_on_move(struct peers *peers,
                   void (*on_move)(void *data, const Godwit__PeerMove *message,
                                   struct rpc_request *request),
                   void *data);
/* Images of this host are read there by others. NULL: by nobody. */
void peers_set_images(struct peers *peers, struct images *images);
struct peers *peers_free(struct peers *peers);

/* Does the agent of `host` answer at `address`? `done` comes once, on the loop; `incarnation` is
 * NULL unless it was reached. */
void peers_probe(struct peers *peers, const char *host, const char *address,
                 void (*done)(void *data, bool reached, const char *incarnation), void *data);

#endif

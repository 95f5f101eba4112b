#include "agent/peers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/host_facts.h"
#include "agent/images.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/own.h"
#include "net/rpc.h"
#include "proto/ha.pb-c.h"
#include "proto/method.h"

enum { ADDRESS_ROOM = 192 };

struct guest { /* a connection that another agent made to us */
    struct guest *next;
    struct peers *peers;
    struct rpc *rpc;
};

struct probe { /* one that we make */
    struct probe *next;
    struct peers *peers;
    struct rpc *rpc;
    struct loop_timer *timer;
    char host[64];
    bool is_over;
    void (*done)(void *data, bool reached, const char *incarnation);
    void *data;
};

struct peers {
    struct loop *loop;
    struct tls_context *context;
    struct host_facts *facts;
    const char *name;
    struct rpc_server *server;
    struct guest *guests;
    unsigned guest_count;
    struct probe *probes;
    void (*on_move)(void *data, const Godwit__PeerMove *message, struct rpc_request *request);
    void *move_data;
    struct images *images; /* borrowed; NULL: none are given */
};

/* ---- answering --------------------------------------------------------------------------------
 */

static void guest_gone(struct guest *guest)
{
    struct guest **link = &guest->peers->guests;
    while (*link != guest)
        link = &(*link)->next;
    *link = guest->next;
    guest->peers->guest_count--;
    (void)rpc_close(guest->rpc);
    free(guest);
}

static void handle_alive(void *data, struct rpc *rpc, struct rpc_request *request,
                         const ProtobufCMessage *message)
{
    const struct guest *guest = data;
    struct fault fault = {0};
    (void)message;
    if (!request)
        return;
    if (strcmp(rpc_peer(rpc)->role, "host") != 0 &&
        strcmp(rpc_peer(rpc)->role, "coordinator") != 0) {
        (void)fault_set(&fault, ERR_DENIED, "this takes a host's certificate");
        (void)rpc_reply_fault(request, &fault);
        return;
    }
    Godwit__PeerAliveReply reply = GODWIT__PEER_ALIVE_REPLY__INIT;
    reply.host = (char *)(uintptr_t)guest->peers->name; /* protobuf-c knows no const */
    reply.incarnation = (char *)(uintptr_t)host_facts_incarnation(guest->peers->facts);
    (void)rpc_reply(request, &reply.base);
}

static void handle_move(void *data, struct rpc *rpc, struct rpc_request *request,
                        const ProtobufCMessage *message)
{
    const struct guest *guest = data;
    struct fault fault = {0};
    if (!request)
        return;
    int r = 0;
    if (strcmp(rpc_peer(rpc)->role, "host") != 0)
        r = fault_set(&fault, ERR_DENIED, "this takes a host's certificate");
    else if (!guest->peers->on_move)
        r = fault_set(&fault, ERR_UNSUPPORTED, "this host's agent does not drive libvirt");
    if (r < 0)
        (void)rpc_reply_fault(request, &fault);
    else
        guest->peers->on_move(guest->peers->move_data, (const Godwit__PeerMove *)message, request);
}

void peers_on_move(struct peers *peers,
                   void (*on_move)(void *data, const Godwit__PeerMove *message,
                                   struct rpc_request *request),
                   void *data)
{
    peers->on_move = on_move;
    peers->move_data = data;
}

static void handle_image_read(void *data, struct rpc *rpc, struct rpc_request *request,
                              const ProtobufCMessage *message)
{
    const struct guest *guest = data;
    struct fault fault = {0};
    int r = 0;
    if (!request)
        return;
    if (strcmp(rpc_peer(rpc)->role, "host") != 0)
        r = fault_set(&fault, ERR_DENIED, "this takes a host's certificate");
    else if (!guest->peers->images)
        r = fault_set(&fault, ERR_UNSUPPORTED, "this host has no images");
    if (r < 0)
        (void)rpc_reply_fault(request, &fault);
    else
        images_read(guest->peers->images, (const Godwit__ImageReadRequest *)message, request);
}

void peers_set_images(struct peers *peers, struct images *images)
{
    peers->images = images;
}

static void on_guest_closed(void *data, struct rpc *rpc, const struct fault *fault)
{
    (void)rpc;
    (void)fault;
    guest_gone(data);
}

static const struct rpc_method guest_methods[] = {
    {METHOD_PEER_ALIVE, &godwit__peer_alive__descriptor, handle_alive},
    {METHOD_PEER_MOVE, &godwit__peer_move__descriptor, handle_move},
    {METHOD_PEER_IMAGE_READ, &godwit__image_read_request__descriptor, handle_image_read},
};
static const struct rpc_service guest_service = {.methods = guest_methods,
                                                 .method_count = ARRAY_COUNT(guest_methods),
                                                 .on_closed = on_guest_closed};

/* The pool's CA signs others too (operators, peer pools), and keeps those for years: nothing is for
 * them here, and whoever is silent would hold a place. */
static bool is_of_ours(const struct pki_identity *identity)
{
    static const char *const roles[] = {"host", "coordinator"};
    for (size_t i = 0; i < ARRAY_COUNT(roles); i++) {
        if (strcmp(identity->role, roles[i]) == 0)
            return true;
    }
    return false;
}

static void on_guest(void *data, struct rpc *rpc)
{
    struct peers *peers = data;
    bool has_place = is_of_ours(rpc_peer(rpc)) && peers->guest_count < PEERS_MAX;
    struct guest *guest = has_place ? calloc(1, sizeof *guest) : NULL;
    if (!guest) {
        (void)rpc_close(rpc);
        return;
    }
    guest->peers = peers;
    guest->rpc = rpc;
    guest->next = peers->guests;
    peers->guests = guest;
    peers->guest_count++;
    rpc_set_data(rpc, guest);
}

/* ---- asking -----------------------------------------------------------------------------------
 */

static void probe_free(struct probe *probe)
{
    struct probe **link = &probe->peers->probes;
    while (*link != probe)
        link = &(*link)->next;
    *link = probe->next;
    (void)rpc_close(probe->rpc);
    (void)loop_timer_free(probe->timer);
    free(probe);
}

/* Freed from the timer's callback, never from inside one of rpc's. */
static void probe_over(struct probe *probe, bool reached, const char *incarnation)
{
    if (probe->is_over)
        return;
    probe->is_over = true;
    probe->done(probe->data, reached, incarnation);
    loop_timer_start(probe->timer, 0, 0);
}

static void on_probe_timer(void *data)
{
    struct probe *probe = data;
    if (!probe->is_over) {
        probe->is_over = true;
        probe->done(probe->data, false, NULL);
    }
    probe_free(probe);
}

static void on_alive(void *data, const ProtobufCMessage *reply, const struct fault *fault)
{
    struct probe *probe = data;
    const Godwit__PeerAliveReply *alive = (const Godwit__PeerAliveReply *)reply;
    (void)fault;
    bool is_it = alive && alive->host && strcmp(alive->host, probe->host) == 0;
    probe_over(probe, is_it, is_it ? alive->incarnation : NULL);
}

static void on_probe_closed(void *data, struct rpc *rpc, const struct fault *fault)
{
    (void)rpc;
    (void)fault;
    probe_over(data, false, NULL);
}

static const struct rpc_service probe_service = {.on_closed = on_probe_closed};

static void on_probe_opened(void *data, struct rpc *rpc, const struct fault *fault)
{
    struct probe *probe = data;
    Godwit__PeerAlive alive = GODWIT__PEER_ALIVE__INIT;
    if (fault || strcmp(rpc_peer(rpc)->name, probe->host) != 0 ||
        rpc_call(rpc, METHOD_PEER_ALIVE, &alive.base, &godwit__peer_alive_reply__descriptor,
                 PEERS_PROBE_MS, on_alive, probe, NULL) < 0)
        probe_over(probe, false, NULL);
}

void peers_probe(struct peers *peers, const char *host, const char *address,
                 void (*done)(void *data, bool reached, const char *incarnation), void *data)
{
    struct probe *probe = calloc(1, sizeof *probe);
    if (!probe || loop_timer_new(&probe->timer, peers->loop, on_probe_timer, probe, NULL) < 0) {
        free(probe);
        done(data, false, NULL);
        return;
    }
    probe->peers = peers;
    probe->done = done;
    probe->data = data;
    (void)snprintf(probe->host, sizeof probe->host, "%s", host);
    probe->next = peers->probes;
    peers->probes = probe;
    loop_timer_start(probe->timer, PEERS_PROBE_MS, 0);
    if (rpc_connect(&probe->rpc, peers->loop, address, peers->context, "host", &probe_service,
                    probe, on_probe_opened, NULL) < 0)
        probe_over(probe, false, NULL);
}

/* ---- life -------------------------------------------------------------------------------------
 */

static void listen_at(struct peers *peers, const char *address)
{
    char place[ADDRESS_ROOM];
    struct fault fault = {0};
    bool is_v6 = strchr(address, ':') != NULL;
    (void)snprintf(place, sizeof place, is_v6 ? "[%.128s]:%d" : "%.128s:%d", address, PEERS_PORT);
    const struct rpc_server_config config = {.address = place,
                                             .context = peers->context,
                                             .unix_fd = -1,
                                             .service = &guest_service,
                                             .data = peers,
                                             .on_peer = on_guest};
    if (rpc_server_new(&peers->server, peers->loop, &config, &fault) < 0)
        log_warn("peers", "other hosts cannot ask this one whether it lives: %s", fault.text);
    else
        host_facts_set_peer_address(peers->facts, place);
}

int peers_new(struct peers **ret_peers, struct loop *loop, struct tls_context *context,
              struct host_facts *facts, const char *name, const char *address, struct fault *fault)
{
    struct peers *peers = calloc(1, sizeof *peers);
    if (!peers)
        return fault_set(fault, ERR_NOMEM, "no memory for the line to other hosts");
    peers->loop = loop;
    peers->context = context;
    peers->facts = facts;
    peers->name = name;
    listen_at(peers, address);
    *ret_peers = peers;
    return 0;
}

struct peers *peers_free(struct peers *peers)
{
    if (!peers)
        return NULL;
    if (peers->server)
        (void)rpc_server_free(peers->server);
    while (peers->guests)
        guest_gone(peers->guests);
    while (peers->probes)
        probe_free(peers->probes);
    free(peers);
    return NULL;
}

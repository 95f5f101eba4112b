/* The operator's line to the coordinator, made to look synchronous: the loop turns until the reply.
 *
 * Flow:   cmd_* -> [client] -> net/rpc -> coordinator
 * Thread: the command's; it turns the loop itself, so callbacks run inside client_call and
 *         client_turn and nowhere else.
 */
#ifndef GODWIT_CLI_CLIENT_H
#define GODWIT_CLI_CLIENT_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stdint.h>

struct client;
struct context;
struct fault;
struct loop;

enum { CLIENT_CALL_MS = 30000, CLIENT_LEADER_MS = 15000 };

/* Where operator.json lies: --dir or GODWIT_DIR (the folder itself, or one that holds operator/),
 * else ~/.config/godwit, else the state folder of this host. */
int client_find_folder(const char *dir, char *ret_path, size_t size, struct fault *fault);

/* The context's client, connected at first need. Failures name the address and what to check. */
int client_of(struct context *context, struct client **ret_client, struct fault *fault);
struct client *client_close(struct client *client);

/* Gives a reply to free with protobuf_c_message_free_unpacked(reply, NULL). */
int client_call(struct client *client, uint16_t method, const ProtobufCMessage *request,
                const ProtobufCMessageDescriptor *reply, uint64_t timeout_ms, void *ret_reply,
                struct fault *fault);
/* The same without waiting: `done` comes while the loop turns, as rpc_call's. Not said again to
 * another leader. */
int client_post(struct client *client, uint16_t method, const ProtobufCMessage *request,
                const ProtobufCMessageDescriptor *reply, uint64_t timeout_ms,
                void (*done)(void *data, const ProtobufCMessage *reply, const struct fault *fault),
                void *data, struct fault *fault);
int client_send_event(struct client *client, uint16_t method, const ProtobufCMessage *event,
                      struct fault *fault);

/* Events of the coordinator go to one listener at a time; NULL: they are dropped. `closed` comes
 * when the connection breaks: then client_reconnect is worth a try. */
struct client_listener {
    void (*event)(void *data, uint16_t method, const ProtobufCMessage *message);
    void (*closed)(void *data, const struct fault *fault);
    void *data;
};
void client_listen(struct client *client, const struct client_listener *listener);
bool client_is_connected(const struct client *client);
/* One try. */
int client_reconnect(struct client *client, struct fault *fault);

struct loop *client_loop(const struct client *client);
void client_turn(struct client *client); /* wait for at least one event */
const char *client_address(const struct client *client);
const char *client_folder(const struct client *client);

#endif

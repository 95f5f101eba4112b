/* This agent's conversation with its coordinator: hello, heartbeats, events up, orders down.
 *
 * Flow:   vm_table -> [agent_link] -> coordinator -> [agent_link] -> orders
 * Thread: the loop's.
 *
 * Of several coordinators one leads; the others name it. It is tried for ever, 0.1 to 2 s apart (0.4 s when there are several). Nothing is queued while it is down: progress is stale by
 * then, and whatever lasts (states, latches, generations) is told again by the hello.
 */
#ifndef GODWIT_AGENT_AGENT_LINK_H
#define GODWIT_AGENT_AGENT_LINK_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct Godwit__AgentWelcome;
struct agent_link;
struct fault;
struct held_orders;
struct host_facts;
struct loop;
struct rpc_method;
struct tls_context;
struct vm_table;

struct agent_link_config {
    struct loop *loop;
    const char *address; /* of the coordinators; must outlive the link, as all below */
    struct tls_context *context;
    struct host_facts *facts;
    struct vm_table *table;
    const struct held_orders *held, *awaits; /* starts that wait here are told by hello: start_list */
    const struct rpc_method *methods; /* orders; their handlers' data is the link */
    size_t method_count;
    /* This life of the host was fenced. `welcome` is borrowed; agent_link_again when it is over. */
    void (*on_quarantine)(void *data, const struct Godwit__AgentWelcome *welcome);
    void *quarantine_data;
    void (*on_welcome)(void *data); /* with quarantine_data: what hello does not tell may follow */
    void (*on_lost)(void *data); /* the coordinator is away: its consoles are void */
    void *data;
};

int agent_link_new(struct agent_link **ret_link, const struct agent_link_config *config,
                   struct fault *fault);
struct agent_link *agent_link_free(struct agent_link *link);

/* Begin: not before the VMs that run have answered. */
void agent_link_start(struct agent_link *link);
void *agent_link_data(const struct agent_link *link); /* the config's */
bool agent_link_is_welcome(const struct agent_link *link);
void agent_link_again(struct agent_link *link); /* say hello anew, as whoever we are now */
/* Dropped when nobody is there. */
void agent_link_send(struct agent_link *link, uint16_t method, const ProtobufCMessage *event);

#endif

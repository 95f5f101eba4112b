/* A line to another host's agent, for one move of a libvirt domain.
 *
 * Flow:   backend_libvirt -> [peer_line] -> net/rpc -> the other agent's peers -> its backend_libvirt
 * Thread: the loop's.
 *
 * Connected when it is first asked, and again after it was lost; one question at a time.
 */
#ifndef GODWIT_AGENT_PEER_LINE_H
#define GODWIT_AGENT_PEER_LINE_H

#include "proto/agent.pb-c.h"

struct fault;
struct loop;
struct peer_line;
struct tls_context;

/* NULL: no memory. */
struct peer_line *peer_line_new(struct loop *loop, struct tls_context *context,
                                const char *address);
/* Nothing is answered any more. May be called from inside `done`. */
struct peer_line *peer_line_free(struct peer_line *line);
/* `done` comes once, with a reply or a fault: ERR_BUSY while another question is under way. */
void peer_line_ask(struct peer_line *line, const Godwit__PeerMove *message,
                   void (*done)(void *data, const Godwit__PeerMoveReply *reply,
                                const struct fault *fault),
                   void *data);

#endif

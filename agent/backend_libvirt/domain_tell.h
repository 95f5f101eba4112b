/* What an agent is told of one domain, in the words of a godwit-vm: states, latches, a move's
 * progress and end.
 *
 * Flow:   domain, domain_orders -> [domain_tell] -> net/rpc -> vm_table
 * Thread: the loop's.
 */
#ifndef GODWIT_AGENT_BACKEND_LIBVIRT_DOMAIN_TELL_H
#define GODWIT_AGENT_BACKEND_LIBVIRT_DOMAIN_TELL_H

struct domain;
struct fault;
struct rpc_request;

/* Events. */
void domain_tell_state(struct domain *domain);
void domain_tell_latch(struct domain *domain);
void domain_tell_progress(struct domain *domain);
void domain_tell_move_ended(struct domain *domain); /* with its receipt, at the source */

/* Answers; take the request, NULL: nobody waits. */
void domain_tell_reply(struct domain *domain, struct rpc_request *request); /* its status */
void domain_tell_refusal(struct rpc_request *request, const struct fault *fault);

#endif

/* One libvirt domain that the pool runs here: it answers its agent as a godwit-vm does.
 *
 * Flow:   orders, vm_table <-> net/rpc <-> [domain] -> hypervisor;  domain_core decides
 * Thread: the loop's.
 *
 * The agent speaks to it over a socket pair with the calls of proto/method.h's VM_*, so orders,
 * tables, journals and verdicts know no second kind of VM. The socket ends when the domain is no
 * longer this host's; its latch file says why, as that of a godwit-vm does. The end of this object
 * ends no domain.
 */
#ifndef GODWIT_AGENT_BACKEND_LIBVIRT_DOMAIN_H
#define GODWIT_AGENT_BACKEND_LIBVIRT_DOMAIN_H

#include <stdbool.h>
#include <stdint.h>

#include "agent/backend_libvirt/domain_call.h"
#include "proto/agent.pb-c.h"

struct domain;
struct hypervisor;
struct loop;
struct rpc_request;

typedef void domain_peer_fn(void *data, const Godwit__PeerMoveReply *reply,
                            const struct fault *fault);

struct domain_config {
    struct loop *loop;
    struct hypervisor *hypervisor;
    const char *vm_id, *latch_path; /* copied */
    const char *libvirt_uri,
        *data_uri; /* where other hosts' libvirtd reach ours; must outlive it */
    bool plain;    /* memory may travel without TLS */
    /* A line to another host's agent: opened at its address, asked, closed. */
    void *(*line_open)(void *data, const char *address);
    void (*line_ask)(void *line, const Godwit__PeerMove *message, domain_peer_fn *done, void *data);
    void *(*line_close)(void *line); /* nothing is answered any more */
    void *line_data;
    void (*on_closed)(void *data, struct domain *domain); /* it is over: free it */
    void *data;
};

/* `fd` is its end of the pair, taken when this returns 0. `inherit`: the latch file is an earlier
 * agent's and `seen` is how the domain is now; else the file is new. */
int domain_new(struct domain **ret_domain, const struct domain_config *config, int fd, bool inherit,
               const struct domain_state *seen, struct fault *fault);
struct domain *domain_free(struct domain *domain);
const char *domain_id(const struct domain *domain);

/* What libvirt said of all domains: where that is news, this one is looked at. */
void domain_see(struct domain *domain, const struct domain_state *state);
void domain_on_event(struct domain *domain, int event, int detail);
void domain_on_job(struct domain *domain, const struct virt_job *job);
/* The agent of another host, about a move that brings the domain here. */
void domain_on_peer(struct domain *domain, const Godwit__PeerMove *message,
                    struct rpc_request *request);
bool domain_is_moving(const struct domain *domain);
/* It runs here, and libvirt has no definition of it: virsh undefine. */
bool domain_is_undefined(const struct domain *domain);
/* Destroy it, whatever the pool wants of it; without libvirtd, too. May be said again and again. */
void domain_kill(struct domain *domain);

/* ---- for the room's other files ---- */
struct domain_ask;
struct domain_event;
struct rpc;

void domain_step(struct domain *domain, const struct domain_event *event);
int domain_step_or_refuse(struct domain *domain, const struct domain_event *event,
                          struct fault *fault);
/* How the domain is after a call to libvirt. */
void domain_saw(struct domain *domain, const struct domain_ask *ask);
void domain_look(struct domain *domain);
void domain_put_latch(struct domain *domain);
void domain_forget_move(struct domain *domain); /* and its key */
void domain_let_go(struct domain *domain);      /* of a receipt that waits for its figures */
void domain_on_agent_gone(void *data, struct rpc *rpc, const struct fault *fault);

#endif

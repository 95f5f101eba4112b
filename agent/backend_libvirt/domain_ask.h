/* One call to libvirt on behalf of a domain, that may outlive it.
 *
 * Flow:   domain, domain_orders -> [domain_ask] -> hypervisor -> domain_call;  answered on the loop
 * Thread: the loop's.
 */
#ifndef GODWIT_AGENT_BACKEND_LIBVIRT_DOMAIN_ASK_H
#define GODWIT_AGENT_BACKEND_LIBVIRT_DOMAIN_ASK_H

#include <stdbool.h>

#include "agent/backend_libvirt/domain_call.h"
#include "proto/vm_spec.pb-c.h"

struct domain;
struct rpc_request;

struct domain_holder {     /* keeps the address of a domain for as long as answers may come */
    struct domain *domain; /* NULL: freed */
    unsigned references;
};

struct domain_ask { /* one call to libvirt */
    struct domain_holder *holder;
    struct domain_call call;
    struct rpc_request *request;
    Godwit__VmSpec *spec; /* owned: of a start, whose XML the call borrows */
    void (*answered)(struct domain *domain, struct domain_ask *ask);
    unsigned epoch; /* of the domain, when it was asked */
};

/* NULL: no memory. `answered` comes once it was sent, unless the domain has been freed by then. */
struct domain_ask *domain_ask_new(struct domain *domain, enum domain_call_kind kind,
                                  struct rpc_request *request,
                                  void (*answered)(struct domain *domain, struct domain_ask *ask));
/* Takes the ask, NULL too. On failure its request is answered and `answered` does not come. */
bool domain_ask_send(struct domain *domain, struct domain_ask *ask);
/* Of a message that an order brought, for as long as libvirt is at it; NULL: no memory. No byte of it stays elsewhere. */
void *domain_ask_copy(const ProtobufCMessage *message);
void domain_holder_unref(struct domain_holder *holder);

#endif

/* One start of a domain, until libvirt's word on it is clear.
 *
 * Flow:   domain_orders -> [domain_start] -> domain_ask -> libvirt;  the answer -> agent/orders
 * Thread: the loop's.
 *
 * A refusal is final: the pool starts the VM elsewhere. So only libvirt's own no is one. A call that takes long is waited
 * for, however long; one whose answer was lost (libvirtd ended, or its connection did) may still be carried out, and
 * libvirt is asked once more: what runs by then is started, what does not is started now, or refused by libvirt itself.
 *
 * Until then nothing that is seen of the domain is a word about it: what one call began and lost, a later one may begin
 * again. So it is told as nothing, it is not over, and has no latch: an agent that is started anew asks libvirt again.
 */
#ifndef GODWIT_AGENT_BACKEND_LIBVIRT_DOMAIN_START_H
#define GODWIT_AGENT_BACKEND_LIBVIRT_DOMAIN_START_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/vm.pb-c.h"

struct domain;
struct fault;
struct rpc_request;

struct domain_start { /* zeroed: none is under way */
    Godwit__VmCreate *order;     /* owned */
    struct rpc_request *request; /* that waits for its end */
    bool is_asking;              /* a call is under way */
    bool may_run;                /* one was, and nobody knows what became of it */
    bool is_told;
    bool has_news;               /* events came, and were left to the call's answer */
    uint64_t asked_ns;
};

void domain_start_begin(struct domain *domain, const Godwit__VmCreate *order,
                        struct rpc_request *request);
void domain_start_tick(struct domain *domain);
/* Is one under way? Then what was just seen, or told by libvirt, waits for its end. */
bool domain_start_holds(struct domain *domain);
/* It was ended, and libvirt has nothing of it. Not while a call is under way: its answer says. */
void domain_start_ended(struct domain *domain);
void domain_start_deinit(struct domain *domain); /* whoever waits is refused */

#endif

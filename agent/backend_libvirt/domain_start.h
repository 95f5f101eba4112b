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
 *
 * One that must end meanwhile is destroyed, as often as it shows. It is refused only with proof: libvirt lets a call wait for
 * another at the same domain for half a minute, then fails it (QEMU_JOB_WAIT_TIME). That begins when a worker has the call,
 * and a libvirtd that stands still, or whose workers are all busy, may have it waiting for one until whenever it goes on. Its
 * workers take what came first; only looks and destroys may pass. So once a pause that was asked for after the loss is
 * answered, the lost call has a worker (or was never read), and half a minute later it has begun or never does; and who has
 * begun is waited for by one more pause, asked for after that (domain_call.settles).
 */
#ifndef GODWIT_AGENT_BACKEND_LIBVIRT_DOMAIN_START_H
#define GODWIT_AGENT_BACKEND_LIBVIRT_DOMAIN_START_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/vm.pb-c.h"

struct domain;
struct domain_ask;
struct domain_call;
struct fault;
struct rpc_request;

struct domain_start { /* zeroed: none is under way */
    Godwit__VmCreate *order;     /* owned */
    struct rpc_request *request; /* that waits for its end */
    bool is_asking;              /* a call is under way */
    bool may_run;                /* one was, and nobody knows what became of it */
    bool is_told;
    bool has_news;               /* events came, and were left to the call's answer */
    bool has_run;                /* it was seen up, while it was to end */
    uint64_t asked_ns, lost_ns;  /* when libvirt was asked last; when a call was lost last, or an earlier agent's was */
    uint64_t heard_ns;           /* when libvirtd first answered after that: it goes on; 0: not yet */
};

void domain_start_begin(struct domain *domain, const Godwit__VmCreate *order,
                        struct rpc_request *request);
void domain_start_tick(struct domain *domain);
/* Is one under way? Then what was just seen, or told by libvirt, waits for its end. */
bool domain_start_holds(struct domain *domain);
/* It was to be ended by this call, asked at `asked_ns`. Is it known by now that nothing comes of the start? Not while a call
 * is under way: its answer says. */
bool domain_start_is_over(const struct domain_start *start, const struct domain_call *call, uint64_t asked_ns);
/* If so, whoever waits is told: that it has ended, or that it never was. */
void domain_start_ended(struct domain *domain, const struct domain_ask *ask);
void domain_start_deinit(struct domain *domain); /* whoever waits is refused */

#endif

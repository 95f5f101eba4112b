/* Guests of this host that are replicated to another one: orders go on to their processes, links
 * are connected for them, what they tell goes up.
 *
 * Flow:   orders -> [protects] -> godwit-vm;  its events -> vm_table -> [protects] -> agent_link
 * Thread: the loop's; connecting is a worker's.
 *
 * Nothing is kept here: a process knows its protection and tells of it every few seconds, so that a
 * restarted agent hears of it, and names the address with each link that it wants.
 */
#ifndef GODWIT_AGENT_PROTECTS_H
#define GODWIT_AGENT_PROTECTS_H

#include "proto/dr.pb-c.h"
#include "proto/vm_dr.pb-c.h"

struct fault;
struct loop;
struct protects;
struct rpc_request;
struct vm_entry;
struct vm_table;

struct protects_config {
    struct loop *loop;
    struct vm_table *table; /* borrowed, must outlive the protects */
    void (*tell)(void *data, const Godwit__ProtectStatus *status);
    void *data;
};

int protects_new(struct protects **ret_protects, const struct protects_config *config,
                 struct fault *fault);
void protects_stop(struct protects *protects); /* no more callbacks: before the table is freed */
struct protects *protects_free(struct protects *protects);

void protects_on_event(struct protects *protects, struct vm_entry *entry,
                       const Godwit__VmProtectEvent *event);
void protects_on_ended(struct protects *protects, struct vm_entry *entry); /* its process has */
void protects_tell(struct protects *protects); /* all of them: a new link to the coordinator */

/* Orders of a VM whose process can be spoken to. Each answers its request later when it returns 0.
 */
int protects_begin(struct protects *protects, struct vm_entry *entry,
                   const Godwit__OrderProtect *order, struct rpc_request *request,
                   struct fault *fault);
int protects_finish(struct protects *protects, struct vm_entry *entry,
                    const Godwit__OrderProtectFinish *order, struct rpc_request *request,
                    struct fault *fault);
int protects_end(struct protects *protects, struct vm_entry *entry,
                 const Godwit__OrderProtectEnd *order, struct rpc_request *request,
                 struct fault *fault);

#endif

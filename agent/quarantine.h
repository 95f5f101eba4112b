/* Ending VMs that may not run here any more, and taking a new life for this host (rule R6).
 *
 * Flow:   agent_link (welcome), store_beat (eviction) -> [quarantine] -> vm_table, host_facts
 * Thread: the loop's.
 *
 * Either exactly those that the coordinator names, by VM and generation, or all. They are killed
 * through their pidfds; only when every one has provably ended is the incarnation changed: then all
 * grants that name the old one are void, and whoever waited is told. A process that a kill does not
 * end (it hangs inside the kernel) is the watchdog's, where there is one.
 */
#ifndef GODWIT_AGENT_QUARANTINE_H
#define GODWIT_AGENT_QUARANTINE_H

#include <stdbool.h>

#include "proto/agent.pb-c.h"

struct fault;
struct host_facts;
struct loop;
struct quarantine;
struct vm_entry;
struct vm_table;
struct watchdog;

enum { QUARANTINE_AGAIN_MS = 500 };

int quarantine_new(struct quarantine **ret_quarantine, struct loop *loop, struct vm_table *table,
                   struct host_facts *facts, struct fault *fault);
struct quarantine *quarantine_free(struct quarantine *quarantine);

/* Borrowed, must outlive the quarantine; NULL: there is none. */
void quarantine_set_watchdog(struct quarantine *quarantine, struct watchdog *watchdog);

/* `named` NULL: all. `done` comes once, on the loop, when it is over; one at a time, a second one
 * while the first goes on widens it. */
void quarantine_begin(struct quarantine *quarantine, const Godwit__AgentWelcome *named,
                      void (*done)(void *data), void *data);
bool quarantine_is_on(const struct quarantine *quarantine); /* nothing may be started */

#endif

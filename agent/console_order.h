/* Consoles of this host's VMs: who is attached to them, and what was typed.
 *
 * Flow:   orders -> [console_order] -> a VM's process;  its output goes by vm_table
 * Thread: the loop's.
 */
#ifndef GODWIT_AGENT_CONSOLE_ORDER_H
#define GODWIT_AGENT_CONSOLE_ORDER_H

#include "proto/agent.pb-c.h"

struct rpc;
struct rpc_request;
struct vm_entry;
struct vm_table;

/* `entry` has a process to speak to. Answer: ConsoleData, what its console has kept. */
void console_order_attach(struct vm_table *table, struct vm_entry *entry,
                          const Godwit__ConsoleAttach *order, struct rpc_request *request);
/* Told over `rpc` how far its stream was taken, where it has one. `entry` NULL: none of it can be. */
void console_order_input(struct vm_entry *entry, struct rpc *rpc, const Godwit__ConsoleData *input);
/* The coordinator is away, and with it all who were attached. */
void console_order_detach_all(struct vm_table *table);

#endif

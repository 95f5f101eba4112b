/* What the coordinator may order: one table row per METHOD_ORDER_*.
 *
 * Flow:   coordinator -> agent_link -> [orders] -> vm_table, vm_process -> godwit-vm
 * Thread: the loop's.
 *
 * Every order may come again: a start of the generation that is already here answers its present
 * status, a move in answers the same address, a stop of what is stopped is done. An older
 * generation and another incarnation of this host are refused by name.
 */
#ifndef GODWIT_AGENT_ORDERS_H
#define GODWIT_AGENT_ORDERS_H

#include <stdbool.h>
#include <stddef.h>

#include "proto/vm.pb-c.h"

struct domains;
struct fault;
struct held_orders;
struct host_facts;
struct images;
struct loop;
struct Godwit__AgentWelcome;
struct Godwit__OrderVmStart;
struct orders;
struct peers;
struct protects;
struct quarantine;
struct store_beat;
struct rpc_method;
struct rpc_request;
struct snapshots;
struct standbys;
struct suspends;
struct upgrades;
struct vm_entry;
struct vm_table;

int orders_new(struct orders **ret_orders, struct loop *loop, struct vm_table *table,
               struct host_facts *facts, const char *boot_reader, struct fault *fault);
/* Workers are done with it, and what they bring is dropped: before the table is freed. */
void orders_stop(struct orders *orders);
/* What HA's orders go to; `beat` may be NULL. They must outlive the orders. */
void orders_set_ha(struct orders *orders, struct peers *peers, struct store_beat *beat,
                   struct quarantine *quarantine);
void orders_set_domains(struct orders *orders, struct domains *domains); /* NULL: no libvirt here */
void orders_set_images(struct orders *orders, struct images *images);
void orders_set_upgrades(struct orders *orders, struct upgrades *upgrades,
                         struct suspends *suspends);
void orders_set_snapshots(struct orders *orders, struct snapshots *snapshots);
void orders_set_dr(struct orders *orders, struct protects *protects, struct standbys *standbys);
/* For standbys: as if the coordinator had ordered it. */
void orders_start(struct orders *orders, const struct Godwit__OrderVmStart *order,
                  struct rpc_request *request);
/* For agent_link. */
void orders_on_quarantine(struct orders *orders, const struct Godwit__AgentWelcome *welcome,
                          void (*done)(void *data), void *data);
struct orders *orders_free(struct orders *orders);

const struct held_orders *orders_held(const struct orders *orders); /* those that wait; as long as the orders */
const struct held_orders *orders_awaits(const struct orders *orders); /* likewise, of order_await */
/* For agent_link, whose data must be the orders. */
const struct rpc_method *orders_methods(size_t *ret_count);

void orders_on_vm(struct orders *orders, struct vm_entry *entry); /* its status changed; NULL is fine */
void orders_on_ended(struct orders *orders, struct vm_entry *entry); /* a VM's process has */
/* That of a start that failed has: those who wait for the start are answered. */
void orders_on_discarded(struct orders *orders, struct vm_entry *entry, bool has_run);
void orders_on_settled(struct orders *orders); /* what runs is known: see to what does not any more */
void orders_on_domains_known(struct orders *orders); /* the list of their snapshots is */
void orders_on_lost(struct orders *orders); /* the coordinator is away: consoles are detached */

/* What a start of `generation` would mean for this entry (NULL: none) where `hiwater` was the highest
 * that was seen: ORDERS_START, ORDERS_SAME (answer the status), or a refusal. */
enum { ORDERS_START = 1, ORDERS_SAME = 2 };
int orders_judge_start(const struct vm_entry *entry, uint64_t hiwater, uint64_t generation,
                       struct fault *fault);

#endif

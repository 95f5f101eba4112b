/* What an agent may order of one domain: the calls of a godwit-vm, one row each.
 *
 * Flow:   orders -> net/rpc -> [domain_orders] -> domain, domain_ask
 * Thread: the loop's.
 */
#ifndef GODWIT_AGENT_BACKEND_LIBVIRT_DOMAIN_ORDERS_H
#define GODWIT_AGENT_BACKEND_LIBVIRT_DOMAIN_ORDERS_H

#include "net/rpc.h"

/* For a connection whose data is the domain. */
extern const struct rpc_service domain_orders_service;

#endif

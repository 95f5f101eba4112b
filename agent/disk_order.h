/* A disk to another store of this host: what the coordinator orders, step by step.
 *
 * Flow:   orders -> [disk_order] -> godwit-vm (the copy), disk_place (the files, on a worker) -> answer
 * Thread: the loop's.
 *
 * The agent keeps nothing of it: what is so stands in the VM's process, in the files, and in the order.
 * So it may be killed anywhere, and every order may come again.
 */
#ifndef GODWIT_AGENT_DISK_ORDER_H
#define GODWIT_AGENT_DISK_ORDER_H

#include "proto/disk_move.pb-c.h"

struct host_facts;
struct loop;
struct rpc_request;
struct vm_table;

struct disk_orders {
    struct loop *loop;
    struct vm_table *table;
    struct host_facts *facts;
    unsigned workers;
};

/* Answer: DiskMoveStatus, or why not. */
void disk_order(struct disk_orders *orders, const Godwit__OrderDiskMove *order,
                struct rpc_request *request);
void disk_orders_wait(struct disk_orders *orders); /* until no worker has one */

#endif

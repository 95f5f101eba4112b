/* What orders are made of: the room's own view of struct orders and of an order on its way.
 *
 * Flow:   orders and the order_* files share it; nobody else
 * Thread: the loop's; a step is a worker's while it is at it.
 *
 * Orders that take several steps carry a `struct step`: whose VM, whose request, which files. Between the steps the VM may
 * have gone from the table, so each step looks it up again.
 */
#ifndef GODWIT_AGENT_ORDERS_INSIDE_H
#define GODWIT_AGENT_ORDERS_INSIDE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/agent_link.h"
#include "agent/backends.h"
#include "agent/disk_order.h"
#include "agent/held_orders.h"
#include "agent/order_await.h"
#include "agent/standby_twin.h"
#include "agent/store_question.h"
#include "agent/vm_table.h"
#include "base/err.h"
#include "net/rpc.h"
#include "proto/agent.pb-c.h"
#include "proto/snapshot.pb-c.h"

enum { ORDER_CALL_MS_MAX = 5000 }; /* of what is asked of a godwit-vm and answered at once */

struct orders {
    struct loop *loop;
    struct vm_table *table;
    struct host_facts *facts;
    const char *boot_reader; /* the program */
    struct store_questions questions;
    struct disk_orders disks;
    struct standby_twins twins;
    unsigned workers; /* that hold a step */
    bool stopped;
    struct peers *peers;
    struct store_beat *beat;
    struct quarantine *quarantine;
    struct domains *domains;
    struct upgrades *upgrades;
    struct suspends *suspends;
    struct images *images;
    struct snapshots *snapshots;
    struct protects *protects;
    struct standbys *standbys;
    struct held_orders held; /* MOVE_INs, STARTs and seals that wait for what a VM's last process comes to */
    struct order_awaits awaits;
    struct step *failed; /* STARTs whose process is being ended: did it run? */
};

enum { FD_KVM, FD_CONSOLE, FD_LATCH, FD_KERNEL, FD_INITRD, FD_COUNT };

struct step {
    struct orders *orders;
    char vm_id[VM_ID_SIZE];
    struct rpc_request *request; /* NULL: those that wait are in the entry */
    ProtobufCMessage *order;     /* owned copy */
    uint64_t generation;
    int fds[FD_COUNT];
    int listen_fd;
    /* logs */
    char path[VM_PATH_SIZE];
    uint64_t tail_bytes;
    uint8_t *bytes;
    size_t count;
    struct fault fault;
    /* disks and nics, on a worker */
    struct backends backends;
    struct stamp expected, wanted;
    int result;
    bool incoming, start_paused, only_running;
    bool may_run; /* an agent before us had libvirt start this very generation */
    bool ran_here; /* as the generation before: nobody ran it elsewhere since */
    rpc_done_fn *created;
    uint64_t file_generation; /* of a start that goes on from a file */
    Godwit__SnapshotInfo *snapshot; /* owned; of a start that restores it; NULL: none */
    bool is_clone; /* it is another VM's: its disks are cloned before, its memory goes on here too */
    struct step *next_failed; /* of orders.failed */
};

static inline struct orders *orders_of(void *data)
{
    return agent_link_data(data);
}

#endif

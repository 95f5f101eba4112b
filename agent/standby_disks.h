/* The files of a replica on this host: its disks where the VM's spec says, a journal beside the
 * first.
 *
 * Flow:   standbys -> [standby_disks] -> storage/share
 * Thread: any; blocking, for a worker. Everything it needs is in the ask. Each step may come again.
 *
 *   open    disks that nobody runs from: new ones, an earlier replica's, or (keep_disks) the VM's
 * own keep    after a failover: they get their own names, the journal goes drop    the protection
 * is over: exactly what it made goes
 *
 * Only disks that are written and lie in a store of this host alone are replicated. All others of
 * the machine have to be here already, as for a move.
 */
#ifndef GODWIT_AGENT_STANDBY_DISKS_H
#define GODWIT_AGENT_STANDBY_DISKS_H

#include <stdbool.h>

#include "proto/dr.pb-c.h"
#include "proto/limits.h"

struct fault;

struct standby_disks {
    int fds[1 + DISKS_MAX]; /* the journal, then disks in the spec's order */
    unsigned count;         /* 0: no disk is replicated */
    bool has_earlier;       /* one of them lay here before */
};

/* Can there be a replica of this VM here at all? Of the spec alone. */
int standby_disks_judge(const Godwit__OrderReplicaIn *order, struct fault *fault);
/* `is_known`: they are the ones that this protection has had before. */
int standby_disks_open(const Godwit__OrderReplicaIn *order, const char *host, bool is_known,
                       struct standby_disks *ret_disks, struct fault *fault);
void standby_disks_close(struct standby_disks *disks);
/* Could they have their own names now? ERR_EXISTS: one is somebody else's. */
int standby_disks_check_names(const Godwit__OrderReplicaIn *order, struct fault *fault);
int standby_disks_keep(const Godwit__OrderReplicaIn *order, struct fault *fault);
/* `keep_disks`: but not its disks, which stay as a replica's. */
int standby_disks_drop(const Godwit__OrderReplicaIn *order, bool keep_disks, struct fault *fault);

#endif

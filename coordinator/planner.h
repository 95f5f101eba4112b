/* Where can this VM run? A pure choice over the hosts as they were last heard of.
 *
 * Flow:   cluster_core -> [planner] -> cluster_core
 * Thread: any; pure.
 *
 * Hard predicates first, each with its reason for a host that falls out; then the cost: of the
 * layout when there is one (least waiting, then least full), else the host with the most free
 * memory wins; the name breaks a tie, so that a plan is repeatable.
 */
#ifndef GODWIT_COORDINATOR_PLANNER_H
#define GODWIT_COORDINATOR_PLANNER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "coordinator/problem.h"
#include "placement/layout.h"
#include "proto/agent.pb-c.h"

struct planner_ask;

struct planner_host {
    const char *name;
    bool up;
    const Godwit__HostFacts *facts; /* NULL: never heard of since it joined */
    uint64_t memory_free_bytes;
    uint64_t memory_promised_bytes; /* to VMs on their way there */
};

/* What is known of the stores that the disks lie in; the planner itself knows none. */
struct planner_stores {
    /* May the VM's disks be on `host`? GW_NONE, or the reason and its sentence. */
    enum gw_code (*judge)(const void *data, const char *host, const struct planner_ask *ask,
                          char *ret_reason, size_t reason_size);
    const void *data;
    uint64_t now_ns; /* what was seen long before does not count */
};

struct planner_ask {
    const char *vm_name;
    const char *baseline; /* "": any */
    uint64_t memory_bytes;
    const Godwit__VmSpec *spec; /* for its nics and disks; NULL: none */
    const struct planner_stores *stores; /* NULL: any host will do */
    bool makes_disks; /* those that are not there yet need room in their stores */
    const uint64_t *landing_bytes; /* of each disk that comes along with a move; NULL: none does */
    bool postcopy;              /* it has to let its guest wait for pages */
    const char *cpu_vendor;     /* the guest runs on it and cannot change it; NULL: any */
    const char *not_on;  /* the source of a move; NULL: none */
    const char *only_on; /* the operator's choice; NULL: any */
    char *const *avoid;  /* hosts that failed before; only read */
    size_t avoid_count;
    /* With the same hosts under the same indexes: its rules and cordons count too, and its costs
     * choose. NULL: none; layout_vm LAYOUT_NONE: one that it does not know yet. */
    const struct layout *layout;
    uint32_t layout_vm;
};

/* What a VM needs beside its guest memory: its process, page tables, buffers of a move. */
#define PLANNER_OVERHEAD_BYTES (UINT64_C(48) << 20)

/* May `host` run it by its facts? GW_NONE, or the reason and its sentence (ret_reason may be NULL).
 */
enum gw_code planner_judge(const struct planner_host *host, const struct planner_ask *ask,
                           char *ret_reason, size_t reason_size);

/* The index of the choice, or -1 with `problem` set: the reason of the one host that was asked for,
 * else GW_NO_HOST_FITS with every host's reason as a detail. */
int planner_choose(const struct planner_host *hosts, size_t count, const struct planner_ask *ask,
                   struct problem *problem);

/* The best baseline that every host that is up gives (facts list them weakest first); NULL when
 * there is none. Borrowed from the facts. */
const char *planner_baseline(const struct planner_host *hosts, size_t count);
/* The best that one host gives, NULL for none. */
const char *planner_host_baseline(const Godwit__HostFacts *facts);

#endif

/* Placement rules as operators write them: judged, matched to VMs and hosts, told.
 *
 * Flow:   api -> [rule] -> cluster -> store; cluster_layout reads them
 * Thread: the loop's; pure.
 */
#ifndef GODWIT_COORDINATOR_RULE_H
#define GODWIT_COORDINATOR_RULE_H

#include "coordinator/cluster.h"
#include "placement/layout.h"

/* LAYOUT_RULE_KIND_COUNT: there is none of that name. */
enum layout_rule_kind rule_kind_from_name(const char *name);
const char *rule_kind_name(enum layout_rule_kind kind);

/* "web-*" matches all that begin with "web-"; without a star the name itself. */
bool rule_matches(const char *pattern, const char *name);
bool rule_names_vm(const Godwit__Rule *rule, const struct cluster_vm *vm);
bool rule_names_host(const Godwit__Rule *rule, const struct cluster_host *host);
/* The value of a host's label; NULL: it has none. */
const char *rule_host_label(const struct cluster_host *host, const char *key);

/* Judged whole, then kept and stored. -1: `problem` is set and nothing changed. */
int rule_add(struct cluster *cluster, const Godwit__Rule *rule, struct cluster_now now,
             struct cluster_rule **ret_rule, struct problem *problem, struct cluster_todo *todo);
int rule_remove(struct cluster *cluster, const char *id, struct problem *problem,
                struct cluster_todo *todo);

/* Cordon, uncordon, labels ("key=value" sets, "key-" takes away). */
int rule_set_host(struct cluster *cluster, const Godwit__HostSetRequest *wanted,
                  struct cluster_now now, struct cluster_host **ret_host, struct problem *problem,
                  struct cluster_todo *todo);
/* The libvirt domains that the host brought along are adopted: remembered, so that it is once. */
void rule_domains_adopted(struct cluster_host *host, struct cluster_todo *todo);
void rule_cordon(struct cluster_host *host, bool cordoned, const char *reason, const char *plan,
                 struct cluster_todo *todo);
static inline bool rule_host_is_cordoned(const struct cluster_host *host)
{
    return host->policy && host->policy->cordoned;
}

#endif

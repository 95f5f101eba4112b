/* Snapshots of domains, as libvirt has them: listed, taken, judged, gone back to, removed.
 * Blocking.
 *
 * Flow:   snapshot_orders, domain_call -> [domain_snapshot] -> libvirtd
 * Thread: a call's own; nothing here is shared.
 *
 * All are libvirt's: those that virsh made are listed, gone back to and removed like those of a
 * pool. Taken and gone back to are only internal ones, in the domain's qcow2 files: they leave its
 * definition as it is.
 */
#ifndef GODWIT_AGENT_BACKEND_LIBVIRT_DOMAIN_SNAPSHOT_H
#define GODWIT_AGENT_BACKEND_LIBVIRT_DOMAIN_SNAPSHOT_H

#include <stdbool.h>
#include <stddef.h>

#include "agent/backend_libvirt/virt_snapshot.h"

struct _virConnect;
struct _virDomain;
struct fault;

enum { DOMAIN_SNAPSHOTS_MAX = 1024 }; /* of a host; more are told as a number in the log */

struct domain_snapshot_list {
    struct virt_snapshot *snapshots; /* malloc'ed */
    size_t count;
    size_t left_out; /* that there was no room for, or whose description could not be read */
    bool is_unknown; /* libvirt has not told those of a domain: what is here is no word of the rest */
};

/* Those of one domain, added to the list. What ends meanwhile is left out. */
void domain_snapshot_list_add(struct domain_snapshot_list *list, struct _virDomain *domain);
void domain_snapshot_list_deinit(struct domain_snapshot_list *list);

/* Memory and disks of one that runs, disks of one that is off. */
int domain_snapshot_take(struct _virConnect *connection, const char *vm_id, const char *name,
                         bool is_off, struct fault *fault);
/* Could it be gone back to, once the domain is off? */
int domain_snapshot_check(struct _virConnect *connection, const char *vm_id, const char *name,
                          struct fault *fault);
struct snapshot_word {
    bool was_asked; /* libvirt was told to go back */
    bool is_no;     /* and said no itself; else what is at the domain may be an earlier call of the same */
};

/* The domain, which is off, runs from it. One that does already, by this call said before, is left
 * alone. */
int domain_snapshot_restore(struct _virConnect *connection, struct _virDomain *domain, const char *name,
                            bool start_paused, struct snapshot_word *ret_word, struct fault *fault);
/* None of that name is as good. */
int domain_snapshot_remove(struct _virConnect *connection, const char *vm_id, const char *name,
                           struct fault *fault);
/* libvirt moves no domain that has snapshots: a refusal that names them. */
int domain_snapshot_judge_move(struct _virConnect *connection, const char *vm_id,
                               struct fault *fault);

#endif

/* The snapshots that lie on this host: taken, checked, removed, told to the coordinator.
 *
 * Flow:   orders -> [snapshots] -> snapshot_folder, godwit-vm;  [snapshots] -> agent_link
 * Thread: the loop's; files on workers.
 *
 *   begin     folder and empty files                                worker
 *   VM_SNAPSHOT (or, of a VM that is stopped, clones of its disks)  its process, worker
 *   commit    the folder gets its name                              worker
 *   AGENT_SNAPSHOTS, then the answer: who hears the answer knows of it
 *
 * What fails in between is dropped, and a guest that runs goes on. The folders are the truth: the pool's
 * record follows what is told, all of it, at every welcome and change.
 */
#ifndef GODWIT_AGENT_SNAPSHOTS_H
#define GODWIT_AGENT_SNAPSHOTS_H

#include <stdbool.h>

#include "proto/snapshot.pb-c.h"

struct fault;
struct loop;
struct rpc_request;
struct snapshots;
struct vm_entry;
struct vm_table;

struct snapshots_config {
    struct loop *loop;
    struct vm_table *table; /* borrowed, as the next, must outlive the snapshots */
    const char *host;
    const char *state_dir; /* they lie in its folder "snapshots" */
    void (*tell)(void *data, const Godwit__AgentSnapshots *all);
    void (*on_domains_known)(void *data); /* those of libvirt's domains can be found from now on; NULL is fine */
    void *data;
};

/* Reads the folders and deletes what was not finished. */
int snapshots_new(struct snapshots **ret_snapshots, const struct snapshots_config *config,
                  struct fault *fault);
void snapshots_stop(struct snapshots *snapshots); /* workers are done: before the table is freed */
struct snapshots *snapshots_free(struct snapshots *snapshots);

const char *snapshots_root(const struct snapshots *snapshots);
/* Borrowed until the loop's next turn; NULL: no such one here. */
const Godwit__SnapshotInfo *snapshots_find(const struct snapshots *snapshots, const char *id);
/* Of one that is not to be found: 0, it is not here; ERR_UNREACHABLE: it may be one of a domain, of which nothing is known
 * now. */
int snapshots_judge_absent(const struct snapshots *snapshots, struct fault *fault);
void snapshots_tell(struct snapshots *snapshots);
/* This agent drives libvirt: until its first list nothing is known of its domains' snapshots. */
void snapshots_await_domains(struct snapshots *snapshots);
/* Those of libvirt's domains, which lie in libvirt: found, told and ordered like ours, by is_libvirt. Copied; NULL: they
 * are not known just now. */
void snapshots_set_domains(struct snapshots *snapshots, Godwit__SnapshotInfo *const *infos,
                           size_t count);

/* `entry`: the VM's that runs here; NULL: it is stopped. The request is answered later when it returns 0. */
int snapshots_take(struct snapshots *snapshots, const Godwit__OrderSnapshot *order,
                   struct vm_entry *entry, struct rpc_request *request, struct fault *fault);
/* Absent is as good: answered at once. ERR_UNREACHABLE: it may be one of a domain, of which nothing is known now. */
int snapshots_remove(struct snapshots *snapshots, const Godwit__OrderSnapshot *order,
                     struct rpc_request *request, struct fault *fault);
int snapshots_check(struct snapshots *snapshots, const Godwit__OrderSnapshot *order,
                    struct rpc_request *request, struct fault *fault);
/* The disks of another VM, which has not run: answered with SnapshotCloned. A START with is_clone then goes on
 * from the memory. ERR_UNREACHABLE: as with remove; libvirt's are none to clone from in any case. */
int snapshots_clone(struct snapshots *snapshots, const Godwit__OrderSnapshotClone *order,
                    struct rpc_request *request, struct fault *fault);
/* Disks of this VM are being made: it is no time to remove what was made for it. */
bool snapshots_are_cloned_for(const struct snapshots *snapshots, const char *vm_id);

#endif

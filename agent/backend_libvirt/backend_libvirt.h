/* The domains of this host's libvirt: those that the pool runs here, and those that it does not.
 *
 * Flow:   agent/domains -> [backend_libvirt] -> domain, hypervisor -> libvirtd
 * Thread: the loop's.
 *
 * libvirt's definitions stay libvirt's: nothing is renamed, hidden or redefined. What others do to
 * a domain is seen by events and by looking again, and told; it is never undone.
 */
#ifndef GODWIT_AGENT_BACKEND_LIBVIRT_BACKEND_LIBVIRT_H
#define GODWIT_AGENT_BACKEND_LIBVIRT_BACKEND_LIBVIRT_H

#include <stdbool.h>
#include <stddef.h>

#include "proto/agent.pb-c.h"
#include "proto/snapshot.pb-c.h"

struct backend_libvirt;
struct fault;
struct loop;
struct rpc_request;

struct backend_libvirt_config {
    struct loop *loop;
    const char *host;        /* this one's name; all texts must outlive it */
    const char *uri;         /* "qemu:///system" */
    const char *libvirt_uri; /* where other hosts' libvirtd reach this one's */
    const char *data_uri;    /* where memory comes in; NULL: libvirt chooses */
    bool plain;              /* memory may travel without TLS */
    /* Something was seen, or libvirtd came or went. */
    void (*on_changed)(void *data);
    /* Lines to agents of other hosts. */
    void *(*line_open)(void *data, const char *address);
    void (*line_ask)(void *line, const Godwit__PeerMove *message,
                     void (*done)(void *data, const Godwit__PeerMoveReply *reply,
                                  const struct fault *fault),
                     void *data);
    void *(*line_close)(void *line);
    /* libvirt is through with an order about a snapshot of the VM. */
    void (*on_snapshot_over)(void *data, const char *vm_id);
    void *data;
};

int backend_libvirt_new(struct backend_libvirt **ret_backend,
                        const struct backend_libvirt_config *config, struct fault *fault);
struct backend_libvirt *backend_libvirt_free(struct backend_libvirt *backend);
void backend_libvirt_start(struct backend_libvirt *backend);
/* NULL: not connected. */
const char *backend_libvirt_version(const struct backend_libvirt *backend);
/* Are all domains known, as of a list that libvirtd gave since it was connected to? */
bool backend_libvirt_is_known(const struct backend_libvirt *backend);

/* A socket that speaks for the domain as a godwit-vm does for its VM. `inherit`: the latch file at
 * `latch_path` tells of a life before; only while all domains are known. */
int backend_libvirt_open(struct backend_libvirt *backend, const char *vm_id, const char *latch_path,
                         bool inherit, int *ret_fd, struct fault *fault);
/* Destroy it, whatever else is going on. */
void backend_libvirt_kill(struct backend_libvirt *backend, const char *vm_id);

/* Domains that nothing here speaks for, as found last, and which of the others have lost their
 * definition; valid until the next turn of the loop. */
const Godwit__AgentFound *backend_libvirt_found(struct backend_libvirt *backend);
/* Any domain: libvirt no longer starts it when the host boots. Answered by what it is then. */
void backend_libvirt_autostart_off(struct backend_libvirt *backend, const char *vm_id,
                                   struct rpc_request *request);
/* One of those, with its definition. */
void backend_libvirt_read(struct backend_libvirt *backend, const char *vm_id,
                          struct rpc_request *request);
/* All snapshots of all domains, as of the last list; NULL: not known. Valid until the next turn of the loop. */
Godwit__SnapshotInfo *const *backend_libvirt_snapshots(const struct backend_libvirt *backend,
                                                       size_t *ret_count);
/* The request is answered later when these return 0; then on_snapshot_over comes, perhaps later still. */
int backend_libvirt_snapshot_take(struct backend_libvirt *backend,
                                  const Godwit__OrderSnapshot *order, bool is_off,
                                  struct rpc_request *request, struct fault *fault);
int backend_libvirt_snapshot_check(struct backend_libvirt *backend,
                                   const Godwit__SnapshotInfo *info, struct rpc_request *request,
                                   struct fault *fault);
int backend_libvirt_snapshot_remove(struct backend_libvirt *backend,
                                    const Godwit__SnapshotInfo *info, struct rpc_request *request,
                                    struct fault *fault);
/* Before a move: at its source, has it what libvirt would not move, and a word beside the disks; at its target, could it run here? */
void backend_libvirt_word(struct backend_libvirt *backend, const Godwit__OrderStoreWord *order,
                          struct rpc_request *request);
void backend_libvirt_check(struct backend_libvirt *backend, const Godwit__OrderMoveCheck *order,
                           const char *host, struct rpc_request *request);
void backend_libvirt_on_peer(struct backend_libvirt *backend, const Godwit__PeerMove *message,
                             struct rpc_request *request);

#endif

/* The guest of this process replicated to another host, for ever: sockets become links, what the
 * replicator tells becomes events on the loop.
 *
 * Flow:   machine -> [protect] -> migrate/replicator;  the agent's sockets -> [protect] ->
 * net/tls_lane Thread: all on the loop's; links are opened on the replicator's own thread.
 *
 * This process opens no connection itself: it tells that it wants one (link number n, to an
 * address), the agent connects and hands the socket over (protect_take_socket), or says why there
 * is none. It is asked again and again, since an agent may be just coming back. The key lives as
 * long as the protection; a newer one may come with protect_tune.
 */
#ifndef GODWIT_AGENT_VM_PROTECT_H
#define GODWIT_AGENT_VM_PROTECT_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/vm_dr.pb-c.h"

struct fault;
struct guest;
struct loop;
struct protect;
struct replica_disk;

struct protect_config {
    struct loop *loop;
    struct guest *guest; /* borrowed, must outlive the protect; as replicator_config's */
    unsigned ram_count;
    const struct replica_disk *disks; /* copied */
    unsigned disk_count;
    const char *who;   /* copied */
    const char *vm_id; /* borrowed for ever */
    void (*on_event)(void *data, const Godwit__VmProtectEvent *event);
    /* Once, and the protect may be freed in it. NULL: the last checkpoint is held and the guest
     * stands still (it stays so until somebody lets it run); else it cannot be replicated any more.
     */
    void (*on_ended)(void *data, const struct fault *fault);
    void *data;
};

int protect_new(struct protect **ret_protect, const struct protect_config *config,
                const Godwit__OrderProtect *order, struct fault *fault);
/* Joins the replicator's thread; without a callback. */
struct protect *protect_free(struct protect *protect);

/* Is it what this order asks for? */
bool protect_is(const struct protect *protect, const Godwit__OrderProtect *order);
bool protect_has_id(const struct protect *protect, const char *protection_id);
/* The same protection with another key, address, goal or limit. */
int protect_tune(struct protect *protect, const Godwit__OrderProtect *order, struct fault *fault);

/* True when the socket was taken; else nobody awaits it. */
bool protect_take_socket(struct protect *protect, unsigned link, int fd, const struct fault *fault);

/* The next checkpoint is the last. `done` comes once, with a fault where the guest runs on; not
 * when the protect is freed before: protect_abandon_finish gives those their answer. */
int protect_finish(struct protect *protect, uint64_t deadline_ms,
                   void (*done)(void *data, const struct fault *fault), void *data,
                   struct fault *fault);
void protect_abandon_finish(struct protect *protect, const struct fault *fault);
/* A last checkpoint is on its way, or held: whether the guest runs is not for others to say. */
bool protect_is_finishing(const struct protect *protect);
bool protect_is_finished(const struct protect *protect);

/* Between these no cut is made: to stop the guest, or let it run. */
void protect_hold(struct protect *protect);
void protect_release(struct protect *protect);

/* Borrowed parts, valid until the next call. */
void protect_status(struct protect *protect, Godwit__ProtectStatus *ret_status);

#endif

/* The replica of a guest that runs elsewhere, in the process that would go on with it.
 *
 * Flow:   a source's links -> [standby] -> migrate/replica;  machine -> [standby]: take
 * Thread: all on the loop's; links are accepted on the replica's own thread, disks are read and
 * taken on workers.
 *
 * A stranger that connects is turned away by the key and costs no more than
 * STANDBY_HANDSHAKE_MS_MAX. A newer key and socket may come any time; the link that there is then
 * ends.
 */
#ifndef GODWIT_AGENT_VM_STANDBY_H
#define GODWIT_AGENT_VM_STANDBY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/dr.pb-c.h"
#include "proto/limits.h"

struct fault;
struct guest;
struct guest_label;
struct loop;
struct region;
struct replica_copied;
struct replica_taken;
struct standby;

enum { STANDBY_HANDSHAKE_MS_MAX = 4000 };

struct standby_disk {
    unsigned region_id;
    uint64_t bytes;
    int fd;
};

struct standby_config {
    struct loop *loop;
    const char *vm_id;      /* borrowed for ever */
    const char *who;        /* copied */
    struct region *regions; /* of RAM: borrowed, must outlive the standby; none: disks only */
    unsigned region_count;
    struct standby_disk disks[DISKS_MAX]; /* their descriptors, as the next two, are taken when it
                                             returns 0 */
    unsigned disk_count;
    int journal_fd; /* with disks */
    int listen_fd;
    void (*on_event)(void *data, const Godwit__ReplicaStatus *status);
    void *data;
};

/* Its disks are read first, by a worker; links wait for that. */
int standby_new(struct standby **ret_standby, const struct standby_config *config,
                const Godwit__OrderReplicaIn *order, struct fault *fault);
/* Waits for its workers and joins its thread. */
struct standby *standby_free(struct standby *standby);

bool standby_has_id(const struct standby *standby, const char *protection_id);
/* Another key and socket, which is taken when it returns 0. */
int standby_listen(struct standby *standby, const ProtobufCBinaryData *psk, int listen_fd,
                   struct fault *fault);

/* As replica_take, on a worker; `done` comes once unless the standby is freed before. With a fault
 * all is as it was. `taken` is the callback's, its state too; the replica's disks are closed by
 * then. */
int standby_take(struct standby *standby, uint64_t generation,
                 void (*done)(void *data, const struct replica_taken *taken,
                              const struct fault *fault),
                 void *data, struct fault *fault);

/* As replica_make_copy, on a worker. `guest`: whose regions the replica has; NULL: disks only. Descriptors: with a
 * guest its memory's file, then each disk's; taken when it returns 0. `done` comes once unless the standby is freed
 * before. Whoever takes the replica meanwhile ends it: ERR_CANCELED. */
int standby_copy(struct standby *standby, struct guest *guest, const struct guest_label *label,
                 const int *fds, size_t fd_count,
                 void (*done)(void *data, const struct replica_copied *copied,
                              const struct fault *fault),
                 void *data, struct fault *fault);

/* Borrowed parts, valid until the next call. */
void standby_status(struct standby *standby, Godwit__ReplicaStatus *ret_status);

#endif

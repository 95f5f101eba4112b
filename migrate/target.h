/* The target's end of one move: greets, prepares memory, places pages, takes the guest over.
 *
 * Flow:   source -> lanes -> [target] -> target_core, page_place -> agent/vm
 * Thread: target_start begins the move's own thread and one per lane; callbacks run on the move's
 *         thread, but for accept_lane, which runs on one that does nothing else. verdict from any
 *         thread. new, start, free on the owner's.
 */
#ifndef GODWIT_MIGRATE_TARGET_H
#define GODWIT_MIGRATE_TARGET_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/phase.h"
#include "proto/vm.pb-c.h"

struct fault;
struct guest;
struct stream;
struct target;
struct tls_lane_name;

struct target_config {
    struct guest *guest; /* borrowed, must outlive the target; empty, paused */
    const char *move_id; /* copied */
    uint64_t generation;
    const char *incarnation; /* this host's, copied: TRANSFER must name it */

    /* Wait (at most timeout_ms, then ERR_TIMEOUT) for the next lane of this move: handshake done,
     * name told. Asked as long as the source may come back. */
    int (*accept_lane)(void *data, uint64_t timeout_ms, struct stream **ret_stream,
                       struct tls_lane_name *ret_name, struct fault *fault);
    /* Any thread: make a waiting accept_lane return ERR_CANCELED, now and later. */
    void (*interrupt_accept)(void *data);
    void (*on_latch)(void *data, Godwit__Latch latch);
    void (*on_progress)(void *data, const Godwit__MoveProgress *progress);
    /* A post-copy lost its source, and pages of the guest with it. It may not take another step: the
     * process has to end at once, by this thread, for any other may wait for such a page. NULL, or
     * when it returns: on_ended tells of it. */
    void (*on_lost)(void *data, const struct fault *fault);
    /* Once: DONE (the guest runs here; with the fault ERR_CORRUPT: as on_lost) or ROLLED_BACK
     * (ABANDONED: discard it). */
    void (*on_ended)(void *data, enum phase phase, const struct fault *fault);
    void *data;
};

int target_new(struct target **ret_target, const struct target_config *config, struct fault *fault);
int target_start(struct target *target, struct fault *fault);
struct target *target_free(struct target *target);

/* ABANDON before TOOK; TAKE (a relayed TRANSFER) when READY; else ERR_STATE. */
int target_verdict(struct target *target, Godwit__MoveVerdictKind kind, uint64_t generation,
                   const char *reason, struct fault *fault);

#endif

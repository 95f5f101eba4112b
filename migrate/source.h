/* The source's end of one move: walks the phases, drives lanes, hands the guest over.
 *
 * Flow:   agent/vm -> [source] -> source_core, page_scan, lanes -> target
 * Thread: source_start begins the scan thread, which is the move's own; callbacks run on it, but
 *         for open_lane, which runs on a thread that does nothing else.
 *         verdict, tune and noticed from any thread. new, start, free on the owner's.
 */
#ifndef GODWIT_MIGRATE_SOURCE_H
#define GODWIT_MIGRATE_SOURCE_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/vm.pb-c.h"
#include "proto/phase.h"

struct fault;
struct guest;
struct source;
struct stream;

struct source_config {
    struct guest *guest;            /* borrowed, must outlive the source */
    const char *move_id;            /* copied */
    uint64_t generation;            /* m */
    const char *target_incarnation; /* copied */
    const Godwit__MoveGoals *goals; /* copied; zero fields take their defaults */
    unsigned lanes;                 /* streams that open_lane can give, besides control */
    uint64_t postcopy_away_ms_max;  /* 0: POSTCOPY_AWAY_MS_MAX; the goals may make it longer */

    /* When the pause could begin: tell the guest, and say source_noticed. The move waits for that
     * no longer than notice_ms_max; 0: it does not tell a guest, nor one that does not run. */
    uint64_t notice_ms_max;
    void (*on_notice)(void *data);

    /* Give the stream of lane n, or of the control lane (TLS_LANE_CONTROL): handshake done. Epochs
     * after 0 replace lanes that were lost: every one begins with its control lane, and streams of
     * an earlier one are never asked for again. ERR_REFUSED: nobody listens there any more. */
    int (*open_lane)(void *data, unsigned lane, unsigned epoch, struct stream **ret_stream,
                     struct fault *fault);
    /* A latch was set. When this returns it must be as durable as the guest's memory. */
    void (*on_latch)(void *data, Godwit__Latch latch);
    /* At every phase and 4 times a second; borrowed. */
    void (*on_progress)(void *data, const Godwit__MoveProgress *progress);
    /* Our part is over, once: DONE (memory may go), ROLLED_BACK (the guest is as it was before).
     * PARKED comes as progress, not here. The receipt is borrowed. */
    void (*on_ended)(void *data, enum phase phase, const Godwit__MoveReceipt *receipt,
                     const struct fault *fault);
    void *data;

    /* Any thread: make a waiting open_lane return ERR_CANCELED, now and later. May be NULL: then a
     * cancel waits for the handshake's own limit. */
    void (*interrupt_open)(void *data);
};

int source_new(struct source **ret_source, const struct source_config *config, struct fault *fault);
int source_start(struct source *source, struct fault *fault);
/* Joins the thread (verdict CANCEL first, when it has not ended). */
struct source *source_free(struct source *source);

/* Other goals while it runs, all of them; of `goals` counts: downtime, deadline (of the whole
 * pre-copy), bandwidth, policy. ERR_STATE once the pause is near, or the move has ended. Any
 * thread. */
int source_tune(struct source *source, const Godwit__MoveGoals *goals, struct fault *fault);

/* The guest knows, or will not listen: the move goes on. Says nothing to a move that does not wait.
 * Any thread, not before source_start. */
void source_noticed(struct source *source);

/* What the world says of the move; obeyed where SWITCHOVER's rules allow it, else refused with
 * ERR_STATE (asked synchronously of the core under its lock): CANCEL before GAVE; STARTED,
 * ABANDON(ed by target), RESUME(generation), DROP after GAVE. */
int source_verdict(struct source *source, Godwit__MoveVerdictKind kind, uint64_t generation,
                   const char *reason, struct fault *fault);

#endif

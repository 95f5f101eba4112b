/* How far a move is: counted by its lanes, told four times a second.
 *
 * Flow:   lanes -> [progress] -> source, target -> on_progress
 * Thread: progress_add from any lane; the rest on the move's own thread.
 */
#ifndef GODWIT_MIGRATE_PROGRESS_H
#define GODWIT_MIGRATE_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/migration.pb-c.h"

struct converge;

enum { PROGRESS_MS = 250 };

struct progress {
    uint64_t pages, zero_pages, wire_bytes; /* atomic; of all rounds */

    /* the move's own thread's */
    uint64_t told_ns, told_wire_bytes, wire_bytes_per_s;
    uint64_t round_begin_pages, round_pages, round_begin_ns;
};

/* What the shell knows beside the counts. */
struct progress_facts {
    uint64_t now_ns, started_ns;
    Godwit__MovePhase phase;
    unsigned round, lanes;
    uint64_t memory_pages;           /* populated at the start */
    const struct converge *converge; /* NULL at the target */
    uint64_t bandwidth_bytes_per_s;
    unsigned throttle_permille;
    bool away; /* lanes were lost and are being opened again */
    unsigned reconnects;
    Godwit__MovePostcopyReason postcopy_reason;
};

void progress_add(struct progress *progress, uint64_t pages, uint64_t zero_pages,
                  uint64_t wire_bytes);
void progress_begin_round(struct progress *progress, uint64_t pages, uint64_t now_ns);
uint64_t progress_pages(const struct progress *progress);
uint64_t progress_wire_bytes(const struct progress *progress);
void progress_fill(struct progress *progress, const struct progress_facts *facts,
                   Godwit__MoveProgress *ret_message);

#endif

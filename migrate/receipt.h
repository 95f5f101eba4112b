/* What a move was: put together while it runs, handed over when it has ended.
 *
 * Flow:   source -> [receipt] -> on_ended
 * Thread: the move's own.
 */
#ifndef GODWIT_MIGRATE_RECEIPT_H
#define GODWIT_MIGRATE_RECEIPT_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/limits.h"
#include "proto/migration.pb-c.h"

struct source_core;

struct receipt {
    Godwit__MoveReceipt message; /* what it points to is owned here */
    Godwit__Fault fault;
    char fault_text[640];
    char fault_hint[160];
    Godwit__MoveRound *rounds; /* owned array */
    Godwit__MoveRound **round_pointers;
    unsigned round_count;
    Godwit__MovePhaseTime phases[16];
    Godwit__MovePhaseTime *phase_pointers[16];
};

void receipt_init(struct receipt *receipt);
void receipt_deinit(struct receipt *receipt);
/* A round beyond ROUNDS_MAX is added to the last entry. Without memory it is left out. */
void receipt_add_round(struct receipt *receipt, const Godwit__MoveRound *round);
/* Take phases, latency parts and fault from the core; the rest is set by the owner. */
void receipt_finish(struct receipt *receipt, const struct source_core *core, uint64_t now_ns);

#endif

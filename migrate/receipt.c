#include "migrate/receipt.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/own.h"
#include "migrate/source_core.h"

void receipt_init(struct receipt *receipt)
{
    *receipt = (struct receipt){0};
    godwit__move_receipt__init(&receipt->message);
}

void receipt_deinit(struct receipt *receipt)
{
    free(receipt->round_pointers);
    free(receipt->rounds);
    receipt->round_pointers = NULL;
    receipt->rounds = NULL;
}

static bool room_for_round(struct receipt *receipt)
{
    unsigned count = receipt->round_count;
    if (count != 0 && (count < 16 || (count & (count - 1))))
        return true; /* it grows at 0, 16, 32, 64 ... */
    size_t slots = count ? (size_t)count * 2 : 16;
    Godwit__MoveRound *rounds = reallocarray(receipt->rounds, slots, sizeof *rounds);
    if (!rounds)
        return false;
    receipt->rounds = rounds;
    Godwit__MoveRound **pointers = reallocarray(receipt->round_pointers, slots, sizeof *pointers);
    if (!pointers)
        return false;
    receipt->round_pointers = pointers;
    return true;
}

static void merge_round(Godwit__MoveRound *into, const Godwit__MoveRound *round)
{
    into->number = round->number;
    into->pages += round->pages;
    into->zero_pages += round->zero_pages;
    into->raw_pages += round->raw_pages;
    into->lz4_pages += round->lz4_pages;
    into->lz4_bytes += round->lz4_bytes;
    into->zstd_pages += round->zstd_pages;
    into->zstd_bytes += round->zstd_bytes;
    into->patch_pages += round->patch_pages;
    into->patch_bytes += round->patch_bytes;
    into->same_pages += round->same_pages;
    into->wire_bytes += round->wire_bytes;
    into->duration_ns += round->duration_ns;
    into->dirty_pages_after = round->dirty_pages_after;
}

void receipt_add_round(struct receipt *receipt, const Godwit__MoveRound *round)
{
    if (receipt->round_count == ROUNDS_MAX) {
        merge_round(&receipt->rounds[ROUNDS_MAX - 1], round);
        return;
    }
    if (!room_for_round(receipt))
        return;
    receipt->rounds[receipt->round_count++] = *round;
}

static void add_phase(struct receipt *receipt, const struct source_core *core, enum phase phase,
                      uint64_t end_ns)
{
    Godwit__MoveReceipt *message = &receipt->message;
    size_t n = message->n_phases;
    assert(n < ARRAY_COUNT(receipt->phases));
    Godwit__MovePhaseTime *time = &receipt->phases[n];
    godwit__move_phase_time__init(time);
    time->has_phase = time->has_start_ns = time->has_duration_ns = 1;
    time->phase = (Godwit__MovePhase)phase;
    time->start_ns = core->entered_ns[phase] - core->started_ns;
    time->duration_ns = end_ns - core->entered_ns[phase];
    receipt->phase_pointers[n] = time;
    message->phases = receipt->phase_pointers;
    message->n_phases = n + 1;
}

static const enum phase order[] = {PHASE_GREET, PHASE_PREPARE,    PHASE_PRECOPY,  PHASE_PAUSE,
                                   PHASE_DRAIN, PHASE_STATE,      PHASE_HANDOVER, PHASE_PARKED,
                                   PHASE_POSTCOPY, PHASE_DONE,    PHASE_ROLLED_BACK};

static void add_phases(struct receipt *receipt, const struct source_core *core, uint64_t now_ns)
{
    for (unsigned i = 0; i < ARRAY_COUNT(order); i++) {
        if (!core->entered_ns[order[i]])
            continue;
        uint64_t end_ns = now_ns;
        for (unsigned j = i + 1; j < ARRAY_COUNT(order); j++) {
            if (core->entered_ns[order[j]]) {
                end_ns = core->entered_ns[order[j]];
                break;
            }
        }
        add_phase(receipt, core, order[i], end_ns);
    }
}

static uint64_t between(const struct source_core *core, enum phase from, enum phase to)
{
    return core->entered_ns[from] && core->entered_ns[to]
               ? core->entered_ns[to] - core->entered_ns[from]
               : 0;
}

static void add_fault(struct receipt *receipt, const struct fault *fault)
{
    Godwit__Fault *to = &receipt->fault;
    godwit__fault__init(to);
    to->has_number = 1;
    to->number = -fault->code;
    memcpy(receipt->fault_text, fault->text, sizeof fault->text);
    memcpy(receipt->fault_hint, fault->hint, sizeof fault->hint);
    to->text = receipt->fault_text;
    to->hint = receipt->fault_hint;
    receipt->message.fault = to;
}

void receipt_finish(struct receipt *receipt, const struct source_core *core, uint64_t now_ns)
{
    Godwit__MoveReceipt *to = &receipt->message;
    for (unsigned i = 0; i < receipt->round_count; i++)
        receipt->round_pointers[i] = &receipt->rounds[i];
    to->rounds = receipt->round_pointers;
    to->n_rounds = receipt->round_count;
    add_phases(receipt, core, now_ns);

#define FILL(field, value) (to->has_##field = 1, to->field = (value))
    bool moved = core->phase == PHASE_DONE && !core->fault.code;
    FILL(moved, moved);
    FILL(ended_in, (Godwit__MovePhase)core->ended_in);
    FILL(total_ns, now_ns - core->started_ns);
    /* Where pages were left behind the guest ran before the move was done. */
    enum phase runs = core->entered_ns[PHASE_POSTCOPY] ? PHASE_POSTCOPY : PHASE_DONE;
    if (moved) {
        FILL(downtime_ns, between(core, PHASE_PAUSE, runs));
        FILL(pause_ns, between(core, PHASE_PAUSE, PHASE_DRAIN));
        FILL(drain_ns, between(core, PHASE_DRAIN, PHASE_STATE));
        FILL(state_ns, between(core, PHASE_STATE, PHASE_HANDOVER));
        FILL(resume_ns, between(core, PHASE_HANDOVER, runs));
        FILL(predicted_downtime_ns, core->converge.predicted_ns);
    } else if (core->fault.code) {
        add_fault(receipt, &core->fault);
    }
    FILL(downtime_goal_ns, core->config.downtime_ns_max);
    FILL(memory_bytes, core->config.memory_pages * PAGE_BYTES);
    FILL(populated_bytes, core->populated_pages * PAGE_BYTES);
#undef FILL
}

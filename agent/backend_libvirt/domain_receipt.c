#include "agent/backend_libvirt/domain_receipt.h"

#include "base/own.h"
#include "base/world.h"

static void add_phase(struct domain_receipt_told *told, uint64_t order_ns, Godwit__MovePhase phase,
                      uint64_t from_ns, uint64_t to_ns)
{
    size_t i = told->message.n_phases;

    if (!from_ns || to_ns < from_ns || i == ARRAY_COUNT(told->times))
        return;
    godwit__move_phase_time__init(&told->times[i]);
    told->times[i].has_phase = told->times[i].has_start_ns = true;
    told->times[i].has_duration_ns = true;
    told->times[i].phase = phase;
    told->times[i].start_ns = from_ns - order_ns;
    told->times[i].duration_ns = to_ns - from_ns;
    told->list[i] = &told->times[i];
    told->message.n_phases++;
}

static void add_phases(const struct domain_receipt *receipt, uint64_t now_ns,
                       struct domain_receipt_told *told)
{
    uint64_t order_ns = receipt->order_ns;
    uint64_t copied_ns = receipt->stopped_ns ? receipt->stopped_ns : now_ns;

    told->message.phases = told->list;
    add_phase(told, order_ns, GODWIT__MOVE_PHASE__MOVE_PHASE_GREET, order_ns,
              receipt->greeted_ns ? receipt->greeted_ns : now_ns);
    if (receipt->greeted_ns) {
        uint64_t begun_ns = receipt->greeted_ns + receipt->job.setup_ms * NS_PER_MS;
        add_phase(told, order_ns, GODWIT__MOVE_PHASE__MOVE_PHASE_PREPARE, receipt->greeted_ns,
                  begun_ns);
        add_phase(told, order_ns, GODWIT__MOVE_PHASE__MOVE_PHASE_PRECOPY, begun_ns, copied_ns);
    }
    if (receipt->off_ns > receipt->stopped_ns)
        add_phase(told, order_ns, GODWIT__MOVE_PHASE__MOVE_PHASE_STATE, receipt->stopped_ns,
                  receipt->off_ns);
    add_phase(told, order_ns, GODWIT__MOVE_PHASE__MOVE_PHASE_HANDOVER, receipt->off_ns,
              receipt->taken_ns);
}

static void add_pause(const struct domain_receipt *receipt, Godwit__MoveReceipt *message)
{
    if (!receipt->stopped_ns || receipt->taken_ns < receipt->stopped_ns)
        return;
    message->has_downtime_ns = true;
    message->downtime_ns = receipt->taken_ns - receipt->stopped_ns;
    message->has_state_ns = message->has_resume_ns = true;
    message->state_ns =
        receipt->off_ns > receipt->stopped_ns ? receipt->off_ns - receipt->stopped_ns : 0;
    message->resume_ns = receipt->resume_ns;
}

/* libvirt counts rounds, and pages over all of them: they stand in the first. */
static void add_rounds(const struct virt_job *job, struct domain_receipt_told *told)
{
    size_t count =
        job->iteration < DOMAIN_RECEIPT_ROUNDS_MAX ? job->iteration : DOMAIN_RECEIPT_ROUNDS_MAX;

    for (size_t i = 0; i < count; i++) {
        Godwit__MoveRound *round = &told->rounds[i];
        godwit__move_round__init(round);
        round->has_number = true;
        round->number = (uint32_t)i + 1;
        told->round_list[i] = round;
    }
    if (count) {
        Godwit__MoveRound *first = &told->rounds[0];
        first->has_pages = first->has_zero_pages = first->has_raw_pages = true;
        first->pages = job->normal_pages + job->zero_pages;
        first->zero_pages = job->zero_pages;
        first->raw_pages = job->normal_pages;
        first->has_wire_bytes = true;
        first->wire_bytes = job->data_processed;
    }
    told->message.rounds = told->round_list;
    told->message.n_rounds = count;
}

void domain_receipt_fill(const struct domain_receipt *receipt, bool moved,
                         Godwit__MovePhase ended_in, uint64_t now_ns,
                         struct domain_receipt_told *ret_told)
{
    Godwit__MoveReceipt *message = &ret_told->message;

    godwit__move_receipt__init(message);
    add_phases(receipt, now_ns, ret_told);
    add_rounds(&receipt->job, ret_told);
    message->has_moved = message->has_ended_in = message->has_total_ns = true;
    message->moved = moved;
    message->ended_in = moved ? GODWIT__MOVE_PHASE__MOVE_PHASE_DONE : ended_in;
    message->total_ns = now_ns - receipt->order_ns;
    if (moved)
        add_pause(receipt, message);
    message->has_downtime_goal_ns = true;
    message->downtime_goal_ns = receipt->plan.downtime_ms * NS_PER_MS;
    message->has_memory_bytes = true;
    message->memory_bytes = receipt->memory_bytes;
    /* A short migration may be over before libvirt told any figure of it: none is not zero. */
    message->has_wire_bytes = message->has_populated_bytes = receipt->job.data_total > 0;
    message->wire_bytes = receipt->job.data_processed;
    message->populated_bytes = receipt->job.data_total;
    message->has_lanes = true;
    message->lanes = receipt->plan.connections ? receipt->plan.connections : 1;
    message->cipher = (char *)(uintptr_t)(receipt->peer_plain ? "none" : "QEMU's TLS");
    message->has_throttle_permille_peak = receipt->throttle_peak > 0;
    message->throttle_permille_peak = receipt->throttle_peak;
}

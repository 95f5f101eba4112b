#include "agent/backend_libvirt/domain_tell.h"

#include "agent/backend_libvirt/domain_inside.h"
#include "agent/vm/latch_file.h"
#include "base/log.h"
#include "base/own.h"
#include "base/world.h"
#include "net/rpc.h"
#include "proto/method.h"

/* ---- what is told ---- */
static void fill_latch(const struct domain *domain, Godwit__MoveLatch *ret_latch)
{
    godwit__move_latch__init(ret_latch);
    ret_latch->move_id = (char *)(uintptr_t)domain->core.move_id; /* protobuf-c knows no const */
    ret_latch->has_generation = ret_latch->has_latch = true;
    ret_latch->generation = domain->core.move_generation;
    ret_latch->latch = domain->core.latch;
}

struct told {
    Godwit__VmStatus vm;
    Godwit__MoveLatch latch;
};

static void fill_status(const struct domain *domain, struct told *ret_told)
{
    Godwit__VmStatus *vm = &ret_told->vm;
    const struct domain_core *core = &domain->core;

    godwit__vm_status__init(vm);
    vm->vm_id = (char *)(uintptr_t)domain->vm_id;
    vm->name = domain->state.name[0]                ? (char *)(uintptr_t)domain->state.name
               : domain->spec && domain->spec->name ? domain->spec->name
                                                    : NULL;
    vm->has_state = vm->has_generation = vm->has_seq = true;
    vm->state = domain_core_state(core);
    vm->generation = core->generation;
    vm->seq = domain->seq;
    vm->reason = core->reason[0] ? (char *)(uintptr_t)core->reason : NULL;
    vm->has_pid = domain->state.pid > 0 && core->sight != SIGHT_OFF;
    vm->pid = vm->has_pid ? domain->state.pid : 0;
    vm->has_vcpu_cpu_ns = true;
    vm->vcpu_cpu_ns = domain->state.cpu_ns;
    if (core->move_id[0] && core->latch) {
        fill_latch(domain, &ret_told->latch);
        vm->latch = &ret_told->latch;
    }
}

void domain_tell_state(struct domain *domain)
{
    struct told told;

    domain->seq++;
    fill_status(domain, &told);
    if (domain->rpc)
        (void)rpc_send_event(domain->rpc, METHOD_VM_STATE_EVENT, &told.vm.base, NULL);
}

void domain_tell_reply(struct domain *domain, struct rpc_request *request)
{
    struct told told;

    if (!request)
        return;
    fill_status(domain, &told);
    (void)rpc_reply(request, &told.vm.base);
}

void domain_tell_refusal(struct rpc_request *request, const struct fault *fault)
{
    if (request)
        (void)rpc_reply_fault(request, fault);
}

static void init_move_event(const struct domain *domain, Godwit__MoveEvent *ret_event)
{
    godwit__move_event__init(ret_event);
    ret_event->vm_id = (char *)(uintptr_t)domain->vm_id;
    ret_event->move_id = (char *)(uintptr_t)domain->core.move_id;
    ret_event->has_at_target = true;
    ret_event->at_target = domain_is_at_target(domain);
    ret_event->has_generation = true;
    ret_event->generation = domain->core.move_generation;
}

static void send_move_event(struct domain *domain, const Godwit__MoveEvent *event)
{
    if (domain->rpc)
        (void)rpc_send_event(domain->rpc, METHOD_VM_MOVE_EVENT, &event->base, NULL);
}

void domain_tell_latch(struct domain *domain)
{
    Godwit__MoveEvent event;

    if (!domain->core.move_id[0] || !domain->core.latch)
        return;
    init_move_event(domain, &event);
    event.has_latch = true;
    event.latch = domain->core.latch;
    send_move_event(domain, &event);
}

/* ---- progress and receipt ---- */
static Godwit__MovePhase phase_now(const struct domain *domain)
{
    switch (domain->core.phase) {
    case DOMAIN_GREET:
        return GODWIT__MOVE_PHASE__MOVE_PHASE_GREET;
    case DOMAIN_COPY:
    case DOMAIN_SETTLE:
        return domain->core.sight == SIGHT_MIGRATING ? GODWIT__MOVE_PHASE__MOVE_PHASE_STATE
               : domain->move.figures.job.data_total ? GODWIT__MOVE_PHASE__MOVE_PHASE_PRECOPY
                                                     : GODWIT__MOVE_PHASE__MOVE_PHASE_PREPARE;
    case DOMAIN_GIVEN:
        return domain->core.is_told_parked ? GODWIT__MOVE_PHASE__MOVE_PHASE_PARKED
                                           : GODWIT__MOVE_PHASE__MOVE_PHASE_HANDOVER;
    case DOMAIN_PLAIN:
    case DOMAIN_INCOMING:
    case DOMAIN_TAKING:
    case DOMAIN_OVER:
    case DOMAIN_PHASE_COUNT:
        break;
    }
    return domain->core.latch == GODWIT__LATCH__LATCH_ABORTED
               ? GODWIT__MOVE_PHASE__MOVE_PHASE_ROLLED_BACK
               : GODWIT__MOVE_PHASE__MOVE_PHASE_DONE;
}

void domain_tell_progress(struct domain *domain)
{
    Godwit__MoveEvent event;
    Godwit__MoveProgress progress = GODWIT__MOVE_PROGRESS__INIT;
    struct domain_move *move = &domain->move;

    init_move_event(domain, &event);
    virt_view_progress(&move->figures.job, world_now_ns() - move->figures.order_ns, &progress);
    progress.has_phase = true;
    progress.phase = phase_now(domain);
    progress.has_lanes = true;
    progress.lanes = move->figures.plan.connections ? move->figures.plan.connections : 1;
    if (progress.throttle_permille > move->figures.throttle_peak)
        move->figures.throttle_peak = progress.throttle_permille;
    event.progress = &progress;
    send_move_event(domain, &event);
}

void domain_tell_move_ended(struct domain *domain)
{
    Godwit__MoveEvent event;
    Godwit__Fault fault = GODWIT__FAULT__INIT;
    struct domain_receipt_told receipt = {0};
    const struct domain_core *core = &domain->core;
    bool moved = core->latch == GODWIT__LATCH__LATCH_RELEASED;

    init_move_event(domain, &event);
    event.has_latch = event.has_ended = event.ended = true;
    event.latch = core->latch;
    if (!moved && core->cause.code) {
        fault.has_number = true;
        fault.number = -core->cause.code;
        fault.text = (char *)(uintptr_t)core->cause.text;
        event.fault = &fault;
    }
    if (domain->move.out) {
        domain->move.figures.memory_bytes = domain->state.memory_bytes;
        domain_receipt_fill(&domain->move.figures, moved, phase_now(domain), world_now_ns(),
                            &receipt);
        receipt.message.move_id = event.move_id;
        receipt.message.vm_id = domain->vm_id;
        receipt.message.fault = event.fault;
        event.receipt = &receipt.message;
    }
    send_move_event(domain, &event);
    log_info("domain", "move ended vm=%s move=%s latch=%s%s%s", domain->vm_id, core->move_id,
             latch_file_latch_name(core->latch), event.fault ? ": " : "",
             event.fault ? core->cause.text : "");
}

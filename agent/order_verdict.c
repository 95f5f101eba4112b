#include "agent/order_verdict.h"

#include <stdlib.h>
#include <string.h>

#include "agent/host_facts.h"
#include "agent/order_relay.h"
#include "agent/order_reply.h"
#include "agent/order_step.h"
#include "base/loop.h"
#include "proto/method.h"
#include "proto/vm_spec.h"

struct restamp {
    struct step *step; /* its order is the verdict, its request waits */
    Godwit__VmSpec *spec;
    uint64_t generation;
};

/* Of a process that is no more: what its latch says is the last word. */
static bool verdict_is_so(const struct vm_entry *entry, const Godwit__MoveVerdict *verdict)
{
    const Godwit__MoveLatch *latch = entry->status->latch;

    if (!latch || !latch->move_id || !verdict->move_id || strcmp(latch->move_id, verdict->move_id))
        return false;
    switch (verdict->kind) {
    case GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_CANCEL:
    case GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_ABANDON:
        return latch->latch == GODWIT__LATCH__LATCH_ABANDONED ||
               latch->latch == GODWIT__LATCH__LATCH_ABORTED;
    case GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_STARTED:
    case GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_DROP:
        return latch->latch == GODWIT__LATCH__LATCH_RELEASED ||
               entry->status->state == GODWIT__VM_STATE__VM_STATE_GONE;
    case GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_TAKE:
    case GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_RESUME:
    case _GODWIT__MOVE_VERDICT_KIND_IS_INT_SIZE:
        break; /* there is no memory any more to run */
    }
    return false;
}

/* The source shall run again as a new generation: first its disks have to be its own as that. */
bool order_verdict_restamps(const struct vm_entry *entry, const Godwit__MoveVerdict *verdict)
{
    const Godwit__MoveLatch *latch = entry->status->latch;
    bool resumes = verdict->kind == GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_RESUME ||
                   verdict->kind == GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_ABANDON;

    return resumes && latch && latch->latch == GODWIT__LATCH__LATCH_GAVE &&
           verdict->generation > latch->generation && entry->status->spec &&
           vm_spec_stamp_store(entry->status->spec);
}

static void restamp_work(void *data)
{
    struct restamp *restamp = data;
    struct step *step = restamp->step;

    step->result = backends_restamp(restamp->spec, step->vm_id, restamp->generation, &step->wanted,
                                    &step->fault);
}

static void restamp_done(void *data)
{
    struct restamp *restamp = data;
    struct step *step = restamp->step;

    step->orders->workers--;
    if (!step->orders->stopped) {
        if (step->result == BACKENDS_E_LOST)
            step->fault.code = ERR_SUPERSEDED; /* the coordinator drops the guest that is held */
        if (step->result == 0)
            order_relay(step->orders, step->vm_id, METHOD_VM_MOVE_VERDICT, step->order, step->request);
        else
            order_reply_fault(step->request, &step->fault);
    }
    godwit__vm_spec__free_unpacked(restamp->spec, NULL);
    order_step_free(step);
    free(restamp);
}

static int restamp_begin(struct orders *orders, struct vm_entry *entry,
                         const Godwit__MoveVerdict *verdict, struct rpc_request *request,
                         struct fault *fault)
{
    struct restamp *restamp = calloc(1, sizeof *restamp);
    int r = restamp ? order_step_new(&restamp->step, orders, entry->id, &verdict->base, request, fault)
                    : fault_set(fault, ERR_NOMEM, "no memory for an order");
    if (r == 0) {
        restamp->spec = (Godwit__VmSpec *)held_orders_copy(&entry->status->spec->base);
        restamp->generation = entry->status->generation;
        host_facts_stamp(orders->facts, verdict->generation, &restamp->step->wanted);
        r = restamp->spec ? loop_work(orders->loop, restamp_work, restamp_done, restamp)
                          : ERR_NOMEM;
        if (r == 0) {
            orders->workers++;
            return 0;
        }
        (void)fault_set(fault, r, "no worker to stamp disks");
        if (restamp->spec)
            godwit__vm_spec__free_unpacked(restamp->spec, NULL);
        order_step_free(restamp->step);
    }
    free(restamp);
    return r;
}

void order_verdict_handle(void *data, struct rpc *rpc, struct rpc_request *request,
                          const ProtobufCMessage *message)
{
    const Godwit__MoveVerdict *verdict = (const Godwit__MoveVerdict *)message;
    struct orders *orders = orders_of(data);
    struct vm_entry *entry = vm_table_find(orders->table, verdict->vm_id);
    (void)rpc;

    if (entry && !vm_entry_is_alive(entry) && verdict_is_so(entry, verdict)) {
        order_reply_status(request, entry);
        return;
    }
    if (entry && order_verdict_restamps(entry, verdict)) {
        struct fault fault = {0};
        if (restamp_begin(orders, entry, verdict, request, &fault) < 0)
            order_reply_fault(request, &fault);
        return;
    }
    order_relay(orders, verdict->vm_id, METHOD_VM_MOVE_VERDICT, message, request);
}

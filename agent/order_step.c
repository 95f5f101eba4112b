#include "agent/order_step.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/own.h"

void order_step_free(struct step *step)
{
    for (size_t i = 0; i < FD_COUNT; i++)
        close_p(&step->fds[i]);
    close_p(&step->listen_fd);
    backends_close(&step->backends);
    if (step->order)
        held_orders_wipe(step->order);
    if (step->snapshot)
        godwit__snapshot_info__free_unpacked(step->snapshot, NULL);
    free(step->bytes);
    free(step);
}

int order_step_new(struct step **ret_step, struct orders *orders, const char *vm_id,
                   const ProtobufCMessage *order, struct rpc_request *request, struct fault *fault)
{
    struct step *step = calloc(1, sizeof *step);
    if (!step)
        return fault_set(fault, ERR_NOMEM, "no memory for an order");
    for (size_t i = 0; i < FD_COUNT; i++)
        step->fds[i] = -1;
    step->listen_fd = -1;
    step->orders = orders;
    (void)snprintf(step->vm_id, sizeof step->vm_id, "%s", vm_id);
    step->request = request;
    if (order && !(step->order = held_orders_copy(order))) {
        order_step_free(step);
        return fault_set(fault, ERR_NOMEM, "no memory for an order");
    }
    *ret_step = step;
    return 0;
}

#include "coordinator/sampling.h"

#include <assert.h>
#include <stdlib.h>

#include "base/err.h"
#include "coordinator/agent_link.h"
#include "coordinator/cluster_forecast.h"
#include "coordinator/words.h"
#include "proto/method.h"

enum { SAMPLING_MS = 15000 };

struct sampling {
    struct coordinator *coordinator;
    char vm_id[ID_TEXT_SIZE];
    sampling_done_fn *done;
    void *data;
};

static void on_sampled(void *data, const ProtobufCMessage *reply, const struct fault *fault,
                       enum agent_link_fate fate)
{
    struct sampling *sampling = data;
    const Godwit__VmSample *sample = (const Godwit__VmSample *)reply;
    struct cluster_vm *vm = cluster_vm(&sampling->coordinator->cluster, sampling->vm_id);
    struct fault refused = {0};
    (void)fate;

    if (sample && !vm)
        (void)fault_set(&refused, ERR_NOT_FOUND, "the VM was removed");
    else if (sample)
        (void)cluster_forecast_sample(vm, sample, &refused);
    if (refused.code)
        sampling->done(sampling->data, NULL, &refused);
    else
        sampling->done(sampling->data, sample, fault);
    free(sampling);
}

void sampling_start(struct coordinator *coordinator, const struct cluster_vm *vm,
                    sampling_done_fn *done, void *data)
{
    struct sampling *sampling = calloc(1, sizeof *sampling);
    assert(sampling); /* control memory is small; without it there is no deciding */
    sampling->coordinator = coordinator;
    WORDS_COPY(sampling->vm_id, vm->id);
    sampling->done = done;
    sampling->data = data;
    Godwit__VmAction order = GODWIT__VM_ACTION__INIT;
    order.vm_id = sampling->vm_id;
    agent_link_call(coordinator, vm->own.owner, METHOD_ORDER_VM_SAMPLE, &order.base,
                    &godwit__vm_sample__descriptor, SAMPLING_MS, on_sampled, sampling);
}

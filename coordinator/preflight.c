/*      STORE_WORD (write) -> source --ok--> MOVE_CHECK -> target --> STORE_WORD (wipe) -> source --> done
 *                              `---- failed ----------------`----------------------------------------^ */
#include "coordinator/preflight.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/id.h"
#include "coordinator/cluster.h"
#include "coordinator/words.h"
#include "proto/method.h"
#include "proto/vm_spec.h"

enum { CHECK_MS = 10000 };

struct preflight {
    struct coordinator *coordinator;
    char vm_id[ID_TEXT_SIZE];
    char source[OWN_HOST_SIZE], target[OWN_HOST_SIZE];
    char word[ID_TEXT_SIZE];
    bool with_local_disks;
    char note[CLUSTER_REASON_SIZE];
    struct fault fault; /* what came of it */
    enum agent_link_fate fate;
    preflight_done_fn *done;
    void *data;
};

static void finish(struct preflight *preflight)
{
    bool failed = preflight->fault.code != 0;

    preflight->done(preflight->data, failed ? &preflight->fault : NULL, preflight->fate,
                    preflight->note);
    free(preflight);
}

/* Removed meanwhile: then there is nothing left to ask for. */
static struct cluster_vm *vm_of(struct preflight *preflight)
{
    struct cluster_vm *vm = cluster_vm(&preflight->coordinator->cluster, preflight->vm_id);

    if (!vm) {
        (void)fault_set(&preflight->fault, ERR_NOT_FOUND, "the VM was removed");
        preflight->fate = AGENT_LINK_NEVER_LEFT;
    }
    return vm;
}

static void on_wiped(void *data, const ProtobufCMessage *reply, const struct fault *fault,
                     enum agent_link_fate fate)
{
    (void)reply;
    (void)fault; /* a word that stays is a small file, and says nothing false */
    (void)fate;
    finish(data);
}

static void ask_word(struct preflight *preflight, const struct cluster_vm *vm, bool wipe,
                     agent_link_done_fn *done)
{
    Godwit__OrderStoreWord order = GODWIT__ORDER_STORE_WORD__INIT;
    order.vm_id = preflight->vm_id;
    order.spec = vm->spec;
    order.word = preflight->word;
    order.has_wipe = true;
    order.wipe = wipe;
    agent_link_call(preflight->coordinator, preflight->source, METHOD_ORDER_STORE_WORD, &order.base,
                    &godwit__empty__descriptor, CHECK_MS, done, preflight);
}

static void on_checked(void *data, const ProtobufCMessage *reply, const struct fault *fault,
                       enum agent_link_fate fate)
{
    struct preflight *preflight = data;
    const Godwit__MoveChecked *checked = (const Godwit__MoveChecked *)reply;
    preflight->fate = fate;
    if (fault)
        preflight->fault = *fault;
    else if (checked->n_notes > 0)
        WORDS_COPY(preflight->note, checked->notes[0]);
    struct cluster_vm *vm = cluster_vm(&preflight->coordinator->cluster, preflight->vm_id);
    if (vm)
        ask_word(preflight, vm, true, on_wiped);
    else
        finish(preflight);
}

static void on_written(void *data, const ProtobufCMessage *reply, const struct fault *fault,
                       enum agent_link_fate fate)
{
    struct preflight *preflight = data;
    (void)reply;
    preflight->fate = fate;
    if (fault) {
        preflight->fault = *fault;
        (void)fault_wrap(&preflight->fault, fault->code, "%s", preflight->source);
        finish(preflight);
        return;
    }
    struct cluster_vm *vm = vm_of(preflight);
    if (!vm) {
        finish(preflight);
        return;
    }
    Godwit__OrderMoveCheck order = GODWIT__ORDER_MOVE_CHECK__INIT;
    Godwit__Stamp expected = GODWIT__STAMP__INIT;
    expected.has_generation = true;
    expected.generation = vm->own.gen;
    expected.owner = vm->own.owner;
    expected.incarnation = vm->own.incarnation;
    order.vm_id = preflight->vm_id;
    order.spec = vm->spec;
    order.word = preflight->word;
    order.expected_stamp = &expected;
    order.has_with_local_disks = true;
    order.with_local_disks = preflight->with_local_disks;
    agent_link_call(preflight->coordinator, preflight->target, METHOD_ORDER_MOVE_CHECK, &order.base,
                    &godwit__move_checked__descriptor, CHECK_MS, on_checked, preflight);
}

bool preflight_is_needed(const struct cluster_vm *vm)
{
    return vm->spec->n_disks > 0 || vm->spec->n_nics > 0 || vm_spec_is_libvirt(vm->spec);
}

void preflight_move(struct coordinator *coordinator, const struct cluster_vm *vm,
                    const struct cluster_job *job, preflight_done_fn *done, void *data)
{
    struct preflight *preflight = calloc(1, sizeof *preflight);
    assert(preflight); /* control memory is small; without it there is no deciding */
    preflight->coordinator = coordinator;
    WORDS_COPY(preflight->vm_id, vm->id);
    WORDS_COPY(preflight->source, job->core.source_host);
    WORDS_COPY(preflight->target, job->core.target_host);
    preflight->with_local_disks = job->goals && job->goals->with_local_disks;
    id_random(preflight->word);
    preflight->done = done;
    preflight->data = data;
    ask_word(preflight, vm, false, on_written);
}

int preflight_judge_stamp(const struct cluster_vm *vm, uint64_t generation,
                          const Godwit__Stamp *found, struct fault *fault)
{
    bool is_ours = found->generation == generation && found->owner &&
                   strcmp(found->owner, vm->own.owner) == 0;
    if (found->generation < generation || is_ours)
        return 0;
    return fault_set(fault, ERR_REFUSED,
                     "the disks of %s are %.64s's as generation %llu, which the pool's record does "
                     "not know: it may be older than the disks",
                     vm->spec->name, found->owner ? found->owner : "",
                     (unsigned long long)found->generation);
}

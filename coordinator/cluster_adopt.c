#include "coordinator/cluster_adopt.h"

#include <stdio.h>
#include <string.h>

#include "coordinator/cluster_core.h"
#include "coordinator/words.h"

/* What is found is the truth, the record is only what was once so. */
static bool is_news(const struct cluster_vm *vm, uint64_t generation)
{
    const struct own *own = &vm->own;

    if (vm->job)
        return false;
    return own->phase == OWN_STOPPED || own_is_lost(own) ||
           ((own->phase == OWN_RUN || own->phase == OWN_STARTING) && own->gen < generation);
}

/* Whatever was wanted of it once is no order of now, and its disks are further than any snapshot's memory. */
static void forget_wishes(struct cluster_vm *vm)
{
    vm->want = WANT_RUNNING;
    vm->restoring[0] = '\0';
    vm->crashed = false;
    vm->reason[0] = '\0';
}

static const char *incarnation_of(const struct cluster_host *host)
{
    return host->facts && host->facts->incarnation ? host->facts->incarnation : "";
}

void cluster_adopt_running(struct cluster *cluster, const struct cluster_host *host, struct cluster_vm *vm,
                           const Godwit__VmStatus *status, bool runs, struct cluster_now now,
                           struct cluster_todo *todo)
{
    const Godwit__MoveLatch *latch = status->latch && status->latch->move_id ? status->latch : NULL;
    uint64_t newest =
        latch && latch->generation > status->generation ? latch->generation : status->generation;
    bool is_new = runs && is_news(vm, status->generation);
    bool rises = newest > vm->own.hiwater;

    if (!cluster_is_restored(cluster, NULL, 0) || !(is_new || rises))
        return;
    if (rises)
        vm->own.hiwater = newest;
    if (is_new) {
        own_adopt_found(&vm->own, host->name, incarnation_of(host), status->generation);
        forget_wishes(vm);
        cluster_todo_event(todo, vm->id, "VM %s is found on %s as generation %llu", vm->spec->name,
                           host->name, (unsigned long long)status->generation);
    }
    cluster_put_own(vm, now, todo);
}

static void adopt_start(struct cluster *cluster, const struct cluster_host *host, struct cluster_vm *vm,
                        uint64_t generation, struct cluster_now now, struct cluster_todo *todo)
{
    char text[CLUSTER_REASON_SIZE];

    if (is_news(vm, generation)) {
        own_adopt_starting(&vm->own, host->name, incarnation_of(host), generation);
        forget_wishes(vm);
        vm->ha_starts = false;
        vm->start_ns = now.ns;
        cluster_put_own(vm, now, todo);
        cluster_todo_event(todo, vm->id, "VM %s is found being started on %s as generation %llu",
                           vm->spec->name, host->name, (unsigned long long)generation);
    } else if (strcmp(vm->own.owner, host->name) != 0) {
        (void)snprintf(text, sizeof text, "%s is just starting %s as generation %llu; the record says %s %s as %llu",
                       host->name, vm->spec->name, (unsigned long long)generation,
                       own_phase_name(vm->own.phase), vm->own.owner, (unsigned long long)vm->own.gen);
        cluster_warn(cluster, host->name, text);
    }
}

void cluster_adopt_starting(struct cluster *cluster, const struct cluster_host *host,
                            const Godwit__AgentHello *hello, struct cluster_now now,
                            struct cluster_todo *todo)
{
    for (size_t i = 0; i < hello->n_starting && cluster_is_restored(cluster, NULL, 0); i++) {
        const Godwit__VmGeneration *start = hello->starting[i];
        struct cluster_vm *vm = start->vm_id ? cluster_vm(cluster, start->vm_id) : NULL;
        if (vm && start->generation)
            adopt_start(cluster, host, vm, start->generation, now, todo);
    }
}

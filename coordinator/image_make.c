/* Disks of a VM that are made from images, before its first start:
 *
 *   create --> recorded: STOPPED, its host --> each disk: image there? else fetch --> clone
 *   start  ------------------------'                   | refused           | all are made
 *                                      created: removed again; else stopped   start as any other
 *
 * While this goes on the VM has a ticket, so nothing else is done to it. */
#include "coordinator/image_api.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/log.h"
#include "coordinator/api.h"
#include "coordinator/cluster_ask.h"
#include "coordinator/image.h"
#include "coordinator/image_task.h"
#include "coordinator/words.h"
#include "proto/method.h"
#include "proto/vm_spec.h"

static void make_next(struct image_task *task);

static struct cluster_vm *vm_of(struct image_task *task)
{
    return cluster_vm(&task->coordinator->cluster, task->vm_id);
}

/* What was created for nothing goes again, with the disks that were made for it. */
static void remove_created(struct image_task *task, struct cluster_vm *vm, bool has_disks,
                           struct problem *told)
{
    struct coordinator *coordinator = task->coordinator;
    struct cluster_todo todo = {0};
    struct problem problem;
    uint64_t ticket = 0;

    int r = cluster_remove_made(&coordinator->cluster, vm, has_disks, coordinator_now(), &ticket,
                                &problem, &todo);
    if (r == CLUSTER_REMOVED_LATER) {
        (void)snprintf(told->vm_state, sizeof told->vm_state, "stopped, removed once %.64s is back",
                       vm->own.owner);
        problem_hint(told, "godwit vm show %s", vm->spec->name);
    } else if (r != 0) {
        log_warn("image_make", "a VM whose disks could not be made stays defined vm=%s: %s",
                 task->vm_id, problem.text);
    }
    coordinator_apply(coordinator, &todo, NULL, NULL, NULL);
}

static void fail(struct image_task *task, struct problem *problem, enum agent_link_fate fate)
{
    struct cluster_vm *vm = vm_of(task);
    bool is_removed = task->is_created && fate != AGENT_LINK_UNKNOWN;

    if (vm) {
        vm->ticket = 0;
        (void)snprintf(problem->vm_state, sizeof problem->vm_state,
                       is_removed ? "not created" : "stopped, without its disks");
        if (!is_removed && !problem->hint[0])
            problem_hint(problem, "godwit vm start %s", vm->spec->name);
        if (is_removed)
            remove_created(task, vm, task->disk > 0 || fate == AGENT_LINK_REFUSED, problem);
    }
    api_reply_action(task->coordinator, task->request, "", problem, NULL);
    image_task_free(task);
}

/* ---- one disk ---- */
static void on_cloned(void *data, const ProtobufCMessage *reply, const struct fault *fault,
                      enum agent_link_fate fate)
{
    struct image_task *task = data;
    const Godwit__ImageCloned *cloned = (const Godwit__ImageCloned *)reply;
    struct problem problem;

    if (!cloned) {
        image_task_problem(task, fault, fate, &problem);
        fail(task, &problem, fate);
        return;
    }
    log_info("image_make", "disk made vm=%s disk=%zu host=%s how=%s", task->vm_id, task->disk,
             task->host, cloned->how ? cloned->how : "");
    image_task_progress(task, cloned->how ? cloned->how : "clone", cloned->bytes, cloned->bytes);
    task->disk++;
    make_next(task);
}

static void clone_disk(struct image_task *task, const struct cluster_vm *vm)
{
    Godwit__OrderImageClone order = GODWIT__ORDER_IMAGE_CLONE__INIT;

    order.vm_id = task->vm_id;
    order.disk = vm->spec->disks[task->disk];
    order.has_watch = true;
    order.watch = task->number;
    agent_link_call(task->coordinator, task->host, METHOD_ORDER_IMAGE_CLONE, &order.base,
                    &godwit__image_cloned__descriptor, 0, on_cloned, task);
}

static void on_fetched(void *data, const ProtobufCMessage *reply, const struct fault *fault,
                       enum agent_link_fate fate)
{
    struct image_task *task = data;
    const struct cluster_vm *vm = vm_of(task);
    struct problem problem;

    if (reply && vm) {
        clone_disk(task, vm);
        return;
    }
    if (fault)
        image_task_problem(task, fault, fate, &problem);
    else
        (void)problem_set(&problem, GW_VM_UNKNOWN, "the VM was removed meanwhile");
    fail(task, &problem, fate);
}

static void start(struct image_task *task)
{
    struct coordinator *coordinator = task->coordinator;
    struct cluster_vm *vm = vm_of(task);
    struct cluster_todo todo = {0};
    struct problem problem;
    uint64_t ticket = 0;

    vm->ticket = 0;
    if (cluster_act(&coordinator->cluster, task->vm_id, GODWIT__VM_VERB__VM_VERB_START, false,
                    coordinator_now(), &ticket, &problem, &todo) != 0)
        api_reply_action(coordinator, task->request, "", &problem, NULL);
    else
        coordinator_await(coordinator, ticket, task->request);
    coordinator_apply(coordinator, &todo, NULL, NULL, NULL);
    image_task_free(task);
}

static void make_next(struct image_task *task)
{
    struct cluster *cluster = &task->coordinator->cluster;
    const struct cluster_vm *vm = vm_of(task);
    struct problem problem;

    if (!vm) {
        (void)problem_set(&problem, GW_VM_UNKNOWN, "the VM was removed meanwhile");
        fail(task, &problem, AGENT_LINK_REFUSED);
        return;
    }
    while (task->disk < vm->spec->n_disks && !vm_spec_disk_is_clone(vm->spec->disks[task->disk]))
        task->disk++;
    if (task->disk == vm->spec->n_disks) {
        start(task);
        return;
    }
    const Godwit__DiskSpec *disk = vm->spec->disks[task->disk];
    const struct cluster_host *host = cluster_host(cluster, task->host);
    (void)snprintf(task->what, sizeof task->what, "disk %.63s of %.63s", disk->name,
                   vm->spec->name);
    if (host && image_host_has(host, disk->image_digest)) {
        clone_disk(task, vm);
        return;
    }
    const struct cluster_image *image = image_find(cluster, disk->image, &problem);
    if (!image || strcmp(image->info->digest, disk->image_digest) != 0) {
        if (image)
            (void)problem_set(&problem, GW_IMAGE_UNKNOWN,
                              "image %s has another content now, and the one that %s was created "
                              "from is not on %s",
                              disk->image, vm->spec->name, task->host);
        fail(task, &problem, AGENT_LINK_REFUSED);
        return;
    }
    WORDS_COPY(task->name, image->info->name);
    image_task_fetch(task, disk->image_digest, image->info->size, on_fetched);
}

static void on_recorded(void *data)
{
    make_next(data);
}

/* Bound to its host, which is durable before the first disk is made there. */
static void begin(struct coordinator *coordinator, struct rpc_request *request,
                  struct cluster_vm *vm, const struct cluster_host *host, bool is_created,
                  struct cluster_todo *todo)
{
    struct image_task *task = image_task_new(coordinator, request);

    assert(image_vm_is_raw(vm));
    WORDS_COPY(task->vm_id, vm->id);
    WORDS_COPY(task->host, host->name);
    task->is_created = is_created;
    vm->ticket = ++coordinator->cluster.next_ticket;
    WORDS_COPY(vm->own.owner, host->name);
    if (!is_created) /* else it is about to be put, as it is now */
        cluster_put_own(vm, coordinator_now(), todo);
    coordinator_apply(coordinator, todo, NULL, on_recorded, task);
}

/* The host where it shall be, if its description names one, else any that fits. */
static int choose(struct cluster *cluster, const struct cluster_vm *vm,
                  struct cluster_host **ret_host, struct problem *problem)
{
    const char *given = vm->own.owner[0] ? vm->own.owner : vm->spec->host;
    struct cluster_start_ask ask = {.makes_disks = true};

    if (given && given[0]) {
        const struct cluster_host *named = cluster_find_host(cluster, given, problem);
        if (!named)
            return -1;
        ask.only_on = named->name;
    }
    return cluster_choose_start(cluster, vm, &ask, coordinator_now(), ret_host, problem);
}

/* ---- create, start ---- */
void image_api_create(struct coordinator *coordinator, struct rpc_request *request,
                      const Godwit__VmCreateRequest *wanted, const char *vm_id)
{
    struct cluster *cluster = &coordinator->cluster;
    struct cluster_host *host = NULL;
    struct cluster_todo todo = {0};
    struct problem problem;
    uint64_t ticket = 0;
    Godwit__VmSpec *spec = image_complete_spec(cluster, wanted->spec, &problem);
    int r = spec ? cluster_create_vm(cluster, spec, vm_id, true, coordinator_now(), &ticket,
                                     &problem, &todo)
                 : -1;
    if (spec)
        godwit__vm_spec__free_unpacked(spec, NULL);
    struct cluster_vm *vm = r == 0 ? cluster_vm(cluster, vm_id) : NULL;
    if (vm && wanted->no_start) {
        coordinator_await(coordinator, ticket, request);
        coordinator_apply(coordinator, &todo, NULL, NULL, NULL);
        return;
    }
    if (vm && choose(cluster, vm, &host, &problem) != 0) {
        cluster_drop_vm(cluster, vm); /* nothing of it was recorded yet */
        r = -1;
    }
    if (r != 0) {
        cluster_todo_deinit(&todo);
        api_reply_action(coordinator, request, "", &problem, NULL);
        return;
    }
    begin(coordinator, request, vm, host, true, &todo);
}

bool image_api_start(struct coordinator *coordinator, struct rpc_request *request,
                     const char *word)
{
    struct cluster *cluster = &coordinator->cluster;
    struct cluster_host *host = NULL;
    struct cluster_todo todo = {0};
    struct problem problem;
    struct cluster_vm *vm = cluster_find_vm(cluster, word, &problem);

    if (!vm || vm->job || vm->ticket || !image_vm_is_raw(vm))
        return false; /* and what it lacks is told there */
    if (choose(cluster, vm, &host, &problem) != 0) {
        api_reply_action(coordinator, request, "", &problem, NULL);
        return true;
    }
    begin(coordinator, request, vm, host, false, &todo);
    return true;
}

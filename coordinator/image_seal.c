#include "coordinator/image_seal.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/log.h"
#include "coordinator/agent_link.h"
#include "coordinator/cluster_ask.h"
#include "coordinator/cluster_clone.h"
#include "coordinator/cluster_view.h"
#include "coordinator/image.h"
#include "coordinator/image_task.h"
#include "coordinator/words.h"
#include "proto/method.h"
#include "proto/vm_spec.h"

/* ---- may it be done? ---- */
static int wrong_state(const struct cluster *cluster, const struct cluster_vm *vm, const char *what,
                       const char *hint, struct problem *problem)
{
    (void)problem_set(problem, GW_VM_STATE, "%s %s", vm->spec->name, what);
    cluster_vm_place(cluster, vm, coordinator_now().ns, problem->vm_state,
                     sizeof problem->vm_state);
    if (hint)
        problem_hint(problem, "godwit vm %s %s", hint, vm->spec->name);
    return -1;
}

static int judge_vm(const struct cluster *cluster, const struct cluster_vm *vm,
                    struct problem *problem)
{
    const struct cluster_host *host = cluster_host(cluster, vm->own.owner);

    if (cluster_judge_free(cluster, vm, coordinator_now(), problem) != 0)
        return -1;
    if (vm_spec_is_libvirt(vm->spec))
        return wrong_state(cluster, vm, "is a libvirt domain; godwit image import takes its disk",
                           NULL, problem);
    if (vm->own.phase != OWN_STOPPED)
        return wrong_state(cluster, vm, "is not stopped", "stop", problem);
    if (vm->suspended[0])
        return wrong_state(cluster, vm, "is suspended: its disk lacks what is in its memory",
                           "resume", problem);
    if (!vm->own.owner[0] || image_vm_is_raw(vm) || cluster_clone_is_raw(cluster, vm))
        return wrong_state(cluster, vm, "has never run, so there is nothing to seal", "start",
                           problem);
    if (host && host->link_up && host->facts &&
        cluster_host_state(host, coordinator_now().ns) != HOST_DOWN)
        return 0;
    (void)problem_set(problem, GW_HOST_DOWN, "%s is on %s, whose agent does not answer",
                      vm->spec->name, vm->own.owner);
    problem_hint(problem, "godwit host show %s", vm->own.owner);
    return -1;
}

static int find_disk(const struct cluster_vm *vm, const char *name, size_t *ret_disk,
                     struct problem *problem)
{
    size_t disk = 0;

    while (disk < vm->spec->n_disks && name && name[0] &&
           strcmp(vm->spec->disks[disk]->name, name) != 0)
        disk++;
    if (disk == vm->spec->n_disks) {
        (void)problem_set(problem, GW_SPEC_INVALID, "%s has no disk %.80s", vm->spec->name,
                          name && name[0] ? name : "at all");
        problem_hint(problem, "godwit vm show %s", vm->spec->name);
        return -1;
    }
    *ret_disk = disk;
    return 0;
}

static int judge_name(const struct cluster *cluster, const char *name, struct problem *problem)
{
    struct problem unknown;

    if (!name || !id_name_is_valid(name))
        return problem_set(problem, GW_IMAGE_INVALID,
                           "'%.80s' is no name for an image: 1 to %d letters, digits, '.', '_', "
                           "'-', the first a letter or digit",
                           name ? name : "", ID_NAME_MAX);
    if (!image_find(cluster, name, &unknown))
        return 0;
    (void)problem_set(problem, GW_NAME_TAKEN, "there already is an image %s", name);
    problem_hint(problem, "godwit image show %s", name);
    return -1;
}

/* ---- doing it ---- */
static void reply(struct image_task *task, const struct cluster_image *image,
                  struct problem *problem)
{
    Godwit__ImageReply answer = GODWIT__IMAGE_REPLY__INIT;
    Godwit__OperatorError error;
    Godwit__ImageInfo info;
    char *details[PROBLEM_DETAILS_MAX];
    struct cluster_vm *vm = cluster_vm(&task->coordinator->cluster, task->vm_id);

    if (vm)
        vm->ticket = 0;
    if (problem) {
        problem_to_message(problem, &error, details);
        answer.error = &error;
    } else {
        image_tell(&task->coordinator->cluster, image, &info);
        answer.image = &info;
    }
    (void)rpc_reply(task->request, &answer.base);
    if (!problem)
        image_tell_end(&info);
    image_task_free(task);
}

static void on_stored(void *data)
{
    struct image_task *task = data;
    struct problem problem;
    const struct cluster_image *image =
        image_find(&task->coordinator->cluster, task->name, &problem);

    reply(task, image, image ? NULL : &problem);
}

static void on_dropped(void *data, const ProtobufCMessage *message, const struct fault *fault,
                       enum agent_link_fate fate)
{
    (void)data;
    (void)message;
    (void)fate;
    if (fault)
        log_warn("image_seal", "content without a name is left: %s", fault->text);
}

/* It boots as its VM did. */
static int add(struct image_task *task, const Godwit__ImageSealed *sealed,
               struct cluster_image **ret_image, struct problem *problem, struct cluster_todo *todo)
{
    struct cluster *cluster = &task->coordinator->cluster;
    const struct cluster_vm *vm = cluster_vm(cluster, task->vm_id);
    Godwit__ImageInfo info = GODWIT__IMAGE_INFO__INIT;

    info.name = task->name;
    info.digest = sealed->digest;
    info.has_size = true;
    info.size = sealed->size;
    if (vm) {
        info.kernel = vm_spec_boots_from_disk(vm->spec) ? NULL : vm->spec->kernel;
        info.initrd = info.kernel ? vm->spec->initrd : NULL;
        info.cmdline = vm->spec->cmdline;
    }
    return image_add(cluster, &info, coordinator_now(), ret_image, problem, todo);
}

static void on_sealed(void *data, const ProtobufCMessage *message, const struct fault *fault,
                      enum agent_link_fate fate)
{
    struct image_task *task = data;
    struct coordinator *coordinator = task->coordinator;
    const Godwit__ImageSealed *sealed = (const Godwit__ImageSealed *)message;
    struct cluster_todo todo = {0};
    struct cluster_image *image = NULL;
    struct problem problem;

    if (!sealed) {
        image_task_problem(task, fault, fate, &problem);
        reply(task, NULL, &problem);
        return;
    }
    if (add(task, sealed, &image, &problem, &todo) != 0) {
        Godwit__OrderImageRemove order = GODWIT__ORDER_IMAGE_REMOVE__INIT;
        order.digest = sealed->digest;
        if (!sealed->was_here && sealed->digest &&
            !image_is_named(&coordinator->cluster, sealed->digest))
            agent_link_call(coordinator, task->host, METHOD_ORDER_IMAGE_REMOVE, &order.base,
                            &godwit__image_state__descriptor, 0, on_dropped, NULL);
        cluster_todo_deinit(&todo);
        reply(task, NULL, &problem);
        return;
    }
    log_info("image_seal", "image name=%s digest=%.12s vm=%s host=%s", task->name, sealed->digest,
             task->vm_id, task->host);
    coordinator_apply(coordinator, &todo, NULL, on_stored, task);
}

static void seal(struct coordinator *coordinator, struct rpc_request *request,
                 struct cluster_vm *vm, size_t disk, const char *name)
{
    struct image_task *task = image_task_new(coordinator, request);
    Godwit__OrderImageSeal order = GODWIT__ORDER_IMAGE_SEAL__INIT;

    WORDS_COPY(task->host, vm->own.owner);
    WORDS_COPY(task->vm_id, vm->id);
    WORDS_COPY(task->name, name);
    (void)snprintf(task->what, sizeof task->what, "disk %.63s of %.63s",
                   vm->spec->disks[disk]->name, vm->spec->name);
    vm->ticket = ++coordinator->cluster.next_ticket;
    order.vm_id = task->vm_id;
    order.disk = vm->spec->disks[disk];
    order.has_bytes = order.has_watch = true;
    order.bytes = vm->disk_bytes[disk];
    order.watch = task->number;
    order.incarnation = cluster_host(&coordinator->cluster, task->host)->facts->incarnation;
    agent_link_call(coordinator, task->host, METHOD_ORDER_IMAGE_SEAL, &order.base,
                    &godwit__image_sealed__descriptor, 0, on_sealed, task);
}

void image_seal_request(struct peer *peer, struct rpc_request *request, const void *message)
{
    struct cluster *cluster = &peer->coordinator->cluster;
    const Godwit__ImageSealRequest *wanted = message;
    Godwit__ImageReply answer = GODWIT__IMAGE_REPLY__INIT;
    Godwit__OperatorError error;
    struct problem problem;
    char *details[PROBLEM_DETAILS_MAX];
    size_t disk = 0;
    struct cluster_vm *vm = cluster_find_vm(cluster, wanted->vm ? wanted->vm : "", &problem);

    if (vm && judge_vm(cluster, vm, &problem) == 0 &&
        find_disk(vm, wanted->disk, &disk, &problem) == 0 &&
        judge_name(cluster, wanted->name, &problem) == 0) {
        seal(peer->coordinator, request, vm, disk, wanted->name);
        return;
    }
    problem_to_message(&problem, &error, details);
    answer.error = &error;
    (void)rpc_reply(request, &answer.base);
}

#include "coordinator/image_api.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/log.h"
#include "base/own.h"
#include "coordinator/agent_link.h"
#include "coordinator/api.h"
#include "coordinator/image.h"
#include "coordinator/image_task.h"
#include "coordinator/words.h"
#include "proto/limits.h"
#include "proto/method.h"
#include "proto/vm_spec.h"

enum { PART_MS = 60000, PUBLISH_MS = 10 * 60 * 1000 };

/* ---- replies ---- */
static void reply_image(struct coordinator *coordinator, struct rpc_request *request,
                        const struct cluster_image *image, struct problem *problem)
{
    Godwit__ImageReply reply = GODWIT__IMAGE_REPLY__INIT;
    Godwit__OperatorError error;
    Godwit__ImageInfo info;
    char *details[PROBLEM_DETAILS_MAX];

    if (problem) {
        problem_to_message(problem, &error, details);
        reply.error = &error;
    } else if (image) {
        image_tell(&coordinator->cluster, image, &info);
        reply.image = &info;
    }
    (void)rpc_reply(request, &reply.base);
    if (reply.image)
        image_tell_end(&info);
}

static void reply_begin_problem(struct rpc_request *request, struct problem *problem)
{
    Godwit__ImageBeginReply reply = GODWIT__IMAGE_BEGIN_REPLY__INIT;
    Godwit__OperatorError error;
    char *details[PROBLEM_DETAILS_MAX];

    problem_to_message(problem, &error, details);
    reply.error = &error;
    (void)rpc_reply(request, &reply.base);
}

/* ---- import ---- */
static void on_begun(void *data, const ProtobufCMessage *reply, const struct fault *fault,
                     enum agent_link_fate fate)
{
    struct image_task *task = data;
    const Godwit__ImageState *state = (const Godwit__ImageState *)reply;
    Godwit__ImageBeginReply answer = GODWIT__IMAGE_BEGIN_REPLY__INIT;
    struct problem problem;

    if (!state) {
        image_task_problem(task, fault, fate, &problem);
        reply_begin_problem(task->request, &problem);
    } else {
        answer.host = task->host;
        answer.has_offset = answer.has_whole = true;
        answer.offset = state->offset;
        answer.whole = state->whole;
        (void)rpc_reply(task->request, &answer.base);
    }
    image_task_free(task);
}

void image_api_begin(struct peer *peer, struct rpc_request *request, const void *message)
{
    struct coordinator *coordinator = peer->coordinator;
    const Godwit__ImageBeginRequest *wanted = message;
    struct cluster_host *host = NULL;
    struct problem problem;

    if (image_judge(&coordinator->cluster, wanted->image, &problem) >= 0)
        host = image_choose_host(&coordinator->cluster, wanted->host ? wanted->host : "",
                                 wanted->image->digest, coordinator_now(), &problem);
    if (!host) {
        reply_begin_problem(request, &problem);
        return;
    }
    struct image_task *task = image_task_new(coordinator, request);
    Godwit__OrderImageBegin order = GODWIT__ORDER_IMAGE_BEGIN__INIT;
    WORDS_COPY(task->host, host->name);
    order.digest = wanted->image->digest;
    order.has_size = true;
    order.size = wanted->image->size;
    agent_link_call(coordinator, host->name, METHOD_ORDER_IMAGE_BEGIN, &order.base,
                    &godwit__image_state__descriptor, PART_MS, on_begun, task);
}

static void pass_on(void *data, const ProtobufCMessage *reply, const struct fault *fault,
                    enum agent_link_fate fate)
{
    struct rpc_request *request = data;
    (void)fate;

    if (reply)
        (void)rpc_reply(request, reply);
    else
        (void)rpc_reply_fault(request, fault);
}

void image_api_chunk(struct peer *peer, struct rpc_request *request, const void *message)
{
    const Godwit__ImageChunk *chunk = message;
    struct fault fault = {0};

    if (!chunk->host || chunk->data.len > IMAGE_CHUNK_BYTES) {
        (void)fault_set(&fault, ERR_INVALID, "a part of an image with %zu bytes%s",
                        chunk->data.len, chunk->host ? "" : ", for no host");
        (void)rpc_reply_fault(request, &fault);
        return;
    }
    agent_link_call(peer->coordinator, chunk->host, METHOD_ORDER_IMAGE_CHUNK, &chunk->base,
                    &godwit__image_state__descriptor, PART_MS, pass_on, request);
}

static void on_stored(void *data)
{
    struct image_task *task = data;
    struct problem problem;
    const struct cluster_image *image =
        image_find(&task->coordinator->cluster, task->name, &problem);

    reply_image(task->coordinator, task->request, image, image ? NULL : &problem);
    image_task_free(task);
}

static void on_ended(void *data, const ProtobufCMessage *reply, const struct fault *fault,
                     enum agent_link_fate fate)
{
    struct image_task *task = data;
    struct coordinator *coordinator = task->coordinator;
    struct cluster_todo todo = {0};
    struct cluster_image *image = NULL;
    struct problem problem;

    if (!reply)
        image_task_problem(task, fault, fate, &problem);
    if (!reply || image_add(&coordinator->cluster, task->info, coordinator_now(), &image, &problem,
                            &todo) != 0) {
        reply_image(coordinator, task->request, NULL, &problem);
        cluster_todo_deinit(&todo);
        image_task_free(task);
        return;
    }
    log_info("image_api", "image name=%s digest=%.12s host=%s", image->info->name,
             image->info->digest, task->host);
    WORDS_COPY(task->name, image->info->name);
    coordinator_apply(coordinator, &todo, NULL, on_stored, task);
}

static void on_aborted(void *data, const ProtobufCMessage *reply, const struct fault *fault,
                       enum agent_link_fate fate)
{
    struct rpc_request *request = data;
    Godwit__ImageReply answer = GODWIT__IMAGE_REPLY__INIT;
    (void)reply;
    (void)fault; /* an agent that is gone drops it by itself */
    (void)fate;

    (void)rpc_reply(request, &answer.base);
}

void image_api_end(struct peer *peer, struct rpc_request *request, const void *message)
{
    struct coordinator *coordinator = peer->coordinator;
    const Godwit__ImageEndRequest *wanted = message;
    Godwit__OrderImageEnd order = GODWIT__ORDER_IMAGE_END__INIT;
    const char *host = wanted->host ? wanted->host : "";
    struct problem problem;

    if (image_judge(&coordinator->cluster, wanted->image, &problem) < 0) {
        reply_image(coordinator, request, NULL, &problem);
        return;
    }
    order.digest = wanted->image->digest;
    if (wanted->abort) {
        order.has_abort = order.abort = true;
        agent_link_call(coordinator, host, METHOD_ORDER_IMAGE_END, &order.base,
                        &godwit__image_state__descriptor, PART_MS, on_aborted, request);
        return;
    }
    struct image_task *task = image_task_new(coordinator, request);
    WORDS_COPY(task->host, host);
    task->info = cluster_message_copy(&wanted->image->base);
    assert(task->info); /* see image_task_new */
    agent_link_call(coordinator, host, METHOD_ORDER_IMAGE_END, &order.base,
                    &godwit__image_state__descriptor, PUBLISH_MS, on_ended, task);
}

/* ---- ls, show, export ---- */
static int by_name(const void *a, const void *b)
{
    return strcmp((*(Godwit__ImageInfo *const *)a)->name, (*(Godwit__ImageInfo *const *)b)->name);
}

void image_api_list(struct peer *peer, struct rpc_request *request, const void *message)
{
    const struct cluster *cluster = &peer->coordinator->cluster;
    const Godwit__ImageListRequest *wanted = message;
    const struct cluster_image *only = NULL;
    struct problem problem;
    if (wanted->name && wanted->name[0] && !(only = image_find(cluster, wanted->name, &problem))) {
        api_reply_problem_as_fault(request, &problem, ERR_NOT_FOUND);
        return;
    }
    AUTO_FREE Godwit__ImageInfo *infos = calloc(cluster->image_count + 1, sizeof *infos);
    AUTO_FREE Godwit__ImageInfo **list = calloc(cluster->image_count + 1, sizeof *list);
    Godwit__ImageList reply = GODWIT__IMAGE_LIST__INIT;
    assert(infos && list);
    for (size_t i = 0; i < cluster->image_count; i++) {
        if (only && cluster->images[i] != only)
            continue;
        list[reply.n_images] = &infos[reply.n_images];
        image_tell(cluster, cluster->images[i], &infos[reply.n_images++]);
    }
    qsort(list, reply.n_images, sizeof *list, by_name);
    reply.images = list;
    (void)rpc_reply(request, &reply.base);
    for (size_t i = 0; i < reply.n_images; i++)
        image_tell_end(&infos[i]);
}

void image_api_read(struct peer *peer, struct rpc_request *request, const void *message)
{
    struct coordinator *coordinator = peer->coordinator;
    const Godwit__ImageReadRequest *wanted = message;
    struct problem problem;
    struct fault fault = {0};
    const struct cluster_image *image =
        image_find(&coordinator->cluster, wanted->name ? wanted->name : "", &problem);
    if (!image) {
        api_reply_problem_as_fault(request, &problem, ERR_NOT_FOUND);
        return;
    }
    const struct cluster_host *host = image_find_host(&coordinator->cluster, image->info->digest,
                                                      NULL, coordinator_now());
    if (!host) {
        (void)fault_set(&fault, ERR_UNREACHABLE, "no host that answers has image %s",
                        image->info->name);
        (void)rpc_reply_fault(request, &fault);
        return;
    }
    Godwit__ImageReadRequest order = GODWIT__IMAGE_READ_REQUEST__INIT;
    order.digest = image->info->digest;
    order.has_offset = true;
    order.offset = wanted->offset;
    agent_link_call(coordinator, host->name, METHOD_ORDER_IMAGE_READ, &order.base,
                    &godwit__image_data__descriptor, PART_MS, pass_on, request);
}

/* ---- rm ---- */
struct removing { /* one name's content, on several hosts */
    struct rpc_request *request;
    size_t waits;
    char **left; /* names of hosts; owned */
    size_t left_count;
};

struct removing_host {
    struct removing *removing;
    char host[OWN_HOST_SIZE];
};

static void removed_one(struct removing *removing)
{
    Godwit__ImageReply reply = GODWIT__IMAGE_REPLY__INIT;

    if (--removing->waits > 0)
        return;
    reply.left_on = removing->left;
    reply.n_left_on = removing->left_count;
    (void)rpc_reply(removing->request, &reply.base);
    for (size_t i = 0; i < removing->left_count; i++)
        free(removing->left[i]);
    free(removing->left);
    free(removing);
}

static void on_removed(void *data, const ProtobufCMessage *reply, const struct fault *fault,
                       enum agent_link_fate fate)
{
    AUTO_FREE struct removing_host *one = data;
    (void)fate;

    if (!reply) {
        log_info("image_api", "content of a removed image is left host=%s: %s", one->host,
                 fault->text);
        one->removing->left[one->removing->left_count++] = strdup(one->host);
    }
    removed_one(one->removing);
}

struct removal { /* between the decision and its durability */
    struct coordinator *coordinator;
    struct rpc_request *request;
    char digest[80];
};

static void on_name_gone(void *data)
{
    AUTO_FREE struct removal *removal = data;
    struct coordinator *coordinator = removal->coordinator;
    const struct cluster *cluster = &coordinator->cluster;
    struct removing *removing = calloc(1, sizeof *removing);
    assert(removing);
    removing->request = removal->request;
    removing->left = calloc(cluster->host_count + 1, sizeof *removing->left);
    assert(removing->left);
    removing->waits = 1; /* ours */
    for (size_t i = 0; i < cluster->host_count; i++) {
        const struct cluster_host *host = cluster->hosts[i];
        if (!image_host_has(host, removal->digest) || image_is_named(cluster, removal->digest))
            continue; /* another name of the same content keeps it */
        struct removing_host *one = calloc(1, sizeof *one);
        Godwit__OrderImageRemove order = GODWIT__ORDER_IMAGE_REMOVE__INIT;
        assert(one);
        one->removing = removing;
        WORDS_COPY(one->host, host->name);
        order.digest = removal->digest;
        removing->waits++;
        agent_link_call(coordinator, host->name, METHOD_ORDER_IMAGE_REMOVE, &order.base,
                        &godwit__image_state__descriptor, PART_MS, on_removed, one);
    }
    removed_one(removing);
}

static bool is_on_its_way(const struct coordinator *coordinator, const char *name)
{
    for (const struct image_task *task = coordinator->image_tasks; task; task = task->next) {
        if (strcmp(task->name, name) == 0)
            return true;
    }
    return false;
}

void image_api_remove(struct peer *peer, struct rpc_request *request, const void *message)
{
    struct coordinator *coordinator = peer->coordinator;
    const Godwit__ImageRemoveRequest *wanted = message;
    const char *name = wanted->name ? wanted->name : "";
    struct cluster_todo todo = {0};
    struct problem problem;
    struct removal *removal = calloc(1, sizeof *removal);
    assert(removal);
    const struct cluster_image *image = image_find(&coordinator->cluster, name, &problem);
    if (image)
        WORDS_COPY(removal->digest, image->info->digest);
    int r = image ? 0 : -1;
    if (r == 0 && is_on_its_way(coordinator, name))
        r = problem_set(&problem, GW_IMAGE_IN_USE, "image %s is just on its way to a host", name);
    if (r == 0)
        r = image_remove(&coordinator->cluster, name, &problem, &todo);
    if (r != 0) {
        reply_image(coordinator, request, NULL, &problem);
        cluster_todo_deinit(&todo);
        free(removal);
        return;
    }
    removal->coordinator = coordinator;
    removal->request = request;
    coordinator_apply(coordinator, &todo, NULL, on_name_gone, removal);
}

/* ---- to another host ---- */
static void on_copied(void *data, const ProtobufCMessage *reply, const struct fault *fault,
                      enum agent_link_fate fate)
{
    struct image_task *task = data;
    struct problem problem;
    const struct cluster_image *image = NULL;

    if (!reply)
        image_task_problem(task, fault, fate, &problem);
    else
        image = image_find(&task->coordinator->cluster, task->name, &problem);
    reply_image(task->coordinator, task->request, image, image ? NULL : &problem);
    image_task_free(task);
}

void image_api_copy(struct peer *peer, struct rpc_request *request, const void *message)
{
    struct coordinator *coordinator = peer->coordinator;
    const Godwit__ImageCopyRequest *wanted = message;
    struct cluster_host *host = NULL;
    struct problem problem;
    const struct cluster_image *image =
        image_find(&coordinator->cluster, wanted->name ? wanted->name : "", &problem);

    if (image)
        host = image_choose_host(&coordinator->cluster, wanted->to ? wanted->to : "",
                                 image->info->digest, coordinator_now(), &problem);
    if (!host) {
        reply_image(coordinator, request, NULL, &problem);
        return;
    }
    struct image_task *task = image_task_new(coordinator, request);
    WORDS_COPY(task->host, host->name);
    WORDS_COPY(task->name, image->info->name);
    (void)snprintf(task->what, sizeof task->what, "%s to %s", task->name, task->host);
    image_task_fetch(task, image->info->digest, image->info->size, on_copied);
}

/* ---- what agents tell ---- */
void image_api_on_images(struct peer *peer, struct rpc_request *request, const void *message)
{
    struct cluster_host *host = cluster_host(&peer->coordinator->cluster, peer->host);
    (void)request;

    if (host)
        image_take(host, message);
}

void image_api_on_progress(struct peer *peer, struct rpc_request *request, const void *message)
{
    const Godwit__AgentImageProgress *event = message;
    (void)request;

    for (struct image_task *task = peer->coordinator->image_tasks; task; task = task->next) {
        if (task->number == event->watch && strcmp(task->host, peer->host) == 0)
            image_task_progress(task, event->phase ? event->phase : "", event->done, event->total);
    }
}

#include "coordinator/image_task.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/cluster_view.h"
#include "coordinator/image.h"
#include "proto/method.h"

enum { SOURCES_MAX = 8 };

struct image_task *image_task_new(struct coordinator *coordinator, struct rpc_request *request)
{
    struct image_task *task = calloc(1, sizeof *task);

    assert(task); /* control memory is small; without it there is no deciding */
    task->coordinator = coordinator;
    task->request = request;
    task->number = ++coordinator->last_image_task;
    task->next = coordinator->image_tasks;
    coordinator->image_tasks = task;
    return task;
}

void image_task_free(struct image_task *task)
{
    struct image_task **at = &task->coordinator->image_tasks;

    while (*at != task)
        at = &(*at)->next;
    *at = task->next;
    if (task->info)
        godwit__image_info__free_unpacked(task->info, NULL);
    free(task);
}

void image_task_progress(struct image_task *task, const char *phase, uint64_t done, uint64_t total)
{
    Godwit__ImageProgress event = GODWIT__IMAGE_PROGRESS__INIT;
    struct rpc *rpc = rpc_request_rpc(task->request);

    event.what = task->what;
    event.phase = (char *)(uintptr_t)phase; /* protobuf-c knows no const */
    event.has_done = event.has_total = true;
    event.done = done;
    event.total = total;
    if (rpc)
        (void)rpc_send_event(rpc, METHOD_IMAGE_PROGRESS, &event.base,
                             NULL); /* an operator that went away needs none */
}

void image_task_fetch(struct image_task *task, const char *digest, uint64_t size,
                      agent_link_done_fn *done)
{
    const struct cluster *cluster = &task->coordinator->cluster;
    Godwit__OrderImageFetch order = GODWIT__ORDER_IMAGE_FETCH__INIT;
    Godwit__ImageSource sources[SOURCES_MAX], *list[SOURCES_MAX];

    for (size_t i = 0; i < cluster->host_count && order.n_sources < SOURCES_MAX; i++) {
        const struct cluster_host *host = cluster->hosts[i];
        if (!host->link_up || !host->facts || !host->facts->peer_address ||
            !host->facts->peer_address[0] || strcmp(host->name, task->host) == 0 ||
            !image_host_has(host, digest))
            continue;
        Godwit__ImageSource *source = &sources[order.n_sources];
        godwit__image_source__init(source);
        source->host = (char *)(uintptr_t)host->name; /* protobuf-c knows no const */
        source->address = host->facts->peer_address;
        list[order.n_sources++] = source;
    }
    order.digest = (char *)(uintptr_t)digest;
    order.has_size = order.has_watch = true;
    order.size = size;
    order.watch = task->number;
    order.sources = list;
    agent_link_call(task->coordinator, task->host, METHOD_ORDER_IMAGE_FETCH, &order.base,
                    &godwit__image_state__descriptor, 0, done, task);
}

void image_task_problem(const struct image_task *task, const struct fault *fault,
                        enum agent_link_fate fate, struct problem *ret_problem)
{
    enum gw_code code = fate == AGENT_LINK_REFUSED ? GW_IMAGE_FAILED : GW_HOST_DOWN;

    (void)problem_set(ret_problem, code, "%s: %.400s", task->host, fault->text);
    if (fault->hint[0])
        problem_hint(ret_problem, "%s", fault->hint);
}

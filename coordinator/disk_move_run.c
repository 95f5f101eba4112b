#include "coordinator/disk_move_run.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/id.h"
#include "base/log.h"
#include "base/world.h"
#include "coordinator/agent_link.h"
#include "coordinator/disk_move.h"
#include "coordinator/words.h"
#include "proto/method.h"

enum { CALL_MS = 15000, LOOK_MS = 300, AGAIN_MS = 1000 };

struct asked {
    struct coordinator *coordinator;
    char id[ID_SHORT_SIZE];
    Godwit__DiskMoveVerb verb;
};

static void on_stored(void *data)
{
    struct asked *asked = data;
    struct cluster_disk_move *move = disk_move_find(&asked->coordinator->cluster, asked->id);
    if (move)
        move->is_storing = false;
    free(asked);
}

static struct asked *asked_new(struct coordinator *coordinator, const char *id)
{
    struct asked *asked = calloc(1, sizeof *asked);
    assert(asked); /* control memory is small; without it there is no deciding */
    asked->coordinator = coordinator;
    WORDS_COPY(asked->id, id);
    return asked;
}

/* No order of a step leaves before the step is durable. */
static void apply(struct coordinator *coordinator, struct cluster_disk_move *move,
                  struct cluster_todo *todo)
{
    if (todo->put_count == 0) {
        coordinator_apply(coordinator, todo, NULL, NULL, NULL);
        return;
    }
    move->is_storing = true;
    coordinator_apply(coordinator, todo, NULL, on_stored, asked_new(coordinator, move->info->id));
}

static void on_answer(void *data, const ProtobufCMessage *reply, const struct fault *fault,
                      enum agent_link_fate fate)
{
    struct asked *asked = data;
    struct coordinator *coordinator = asked->coordinator;
    struct cluster_disk_move *move = disk_move_find(&coordinator->cluster, asked->id);
    struct cluster_todo todo = {0};
    const struct disk_move_answer answer = {
        .verb = asked->verb,
        .said = (const Godwit__DiskMoveStatus *)reply,
        .fault = fault,
        .definite = fate == AGENT_LINK_REFUSED,
    };
    if (move) {
        struct cluster_now now = coordinator_now();
        move->is_asked = false;
        move->next_ns = now.ns + (fault ? AGAIN_MS : LOOK_MS) * NS_PER_MS;
        if (fault)
            log_debug("disk_move", "job=%s step=%s: %s", move->info->id, move->info->step,
                      fault->text);
        disk_move_answered(&coordinator->cluster, move, &answer, now, &todo);
        apply(coordinator, move, &todo);
    }
    free(asked);
}

static void ask(struct coordinator *coordinator, struct cluster_disk_move *move)
{
    const Godwit__DiskMove *info = move->info;
    struct asked *asked = asked_new(coordinator, info->id);
    Godwit__OrderDiskMove order = GODWIT__ORDER_DISK_MOVE__INIT;
    asked->verb = disk_move_verb(move);
    order.vm_id = info->vm_id;
    order.move_id = info->move_id;
    order.has_verb = order.has_generation = order.has_disk = order.has_bytes = true;
    order.verb = asked->verb;
    order.generation = info->generation;
    order.incarnation = info->incarnation;
    order.disk = info->disk;
    order.bytes = info->bytes;
    order.before = info->before;
    order.after = info->after;
    order.has_bandwidth_bytes_per_s = info->has_bandwidth_bytes_per_s;
    order.bandwidth_bytes_per_s = info->bandwidth_bytes_per_s;
    move->is_asked = true;
    agent_link_call(coordinator, info->host, METHOD_ORDER_DISK_MOVE, &order.base,
                    &godwit__disk_move_status__descriptor, CALL_MS, on_answer, asked);
}

void disk_move_run_tick(struct coordinator *coordinator)
{
    struct cluster *cluster = &coordinator->cluster;
    uint64_t now_ns = coordinator_now().ns;
    for (size_t i = 0; i < cluster->disk_move_count; i++) {
        struct cluster_disk_move *move = cluster->disk_moves[i];
        if (disk_move_is_active(move) && !move->is_asked && !move->is_storing &&
            move->next_ns <= now_ns)
            ask(coordinator, move);
    }
}

/* ---- operators --------------------------------------------------------------------------------
 */

struct waiting {
    struct coordinator *coordinator;
    struct rpc_request *request;
    char id[ID_SHORT_SIZE];
};

static void reply_move(struct coordinator *coordinator, struct rpc_request *request,
                       const struct cluster_disk_move *move, struct problem *problem)
{
    Godwit__MigrateReply reply = GODWIT__MIGRATE_REPLY__INIT;
    Godwit__OperatorError error;
    char *details[PROBLEM_DETAILS_MAX];
    struct disk_move_message message = {0};
    if (problem) {
        problem_to_message(problem, &error, details);
        reply.error = &error;
    } else if (move) {
        disk_move_tell(&coordinator->cluster, move, coordinator_now().ns, &message);
        reply.job = &message.info;
    }
    (void)rpc_reply(request, &reply.base);
}

static void on_begun(void *data)
{
    struct waiting *waiting = data;
    struct cluster_disk_move *move =
        disk_move_find(&waiting->coordinator->cluster, waiting->id);
    if (move)
        move->is_storing = false;
    reply_move(waiting->coordinator, waiting->request, move, NULL);
    free(waiting);
}

static void reply_when_stored(struct coordinator *coordinator, struct rpc_request *request,
                              struct cluster_disk_move *move, struct cluster_todo *todo)
{
    struct waiting *waiting = calloc(1, sizeof *waiting);
    assert(waiting); /* see asked_new */
    waiting->coordinator = coordinator;
    waiting->request = request;
    WORDS_COPY(waiting->id, move->info->id);
    move->is_storing = true;
    coordinator_apply(coordinator, todo, NULL, on_begun, waiting);
}

void disk_move_run_begin(struct coordinator *coordinator, struct rpc_request *request,
                         const void *message)
{
    const Godwit__DiskMoveRequest *wanted = message;
    struct cluster_todo todo = {0};
    struct cluster_disk_move *move = NULL;
    struct problem problem = {0};
    char id[ID_SHORT_SIZE], move_id[ID_TEXT_SIZE];
    do {
        id_random_short('D', id);
    } while (disk_move_find(&coordinator->cluster, id));
    id_random(move_id);
    const struct disk_move_ask ask_for = {
        .vm = wanted->vm ? wanted->vm : "",
        .disk = wanted->disk ? wanted->disk : "",
        .to = wanted->to ? wanted->to : "",
        .bandwidth_bytes_per_s = wanted->bandwidth_bytes_per_s,
        .id = id,
        .move_id = move_id,
    };
    if (disk_move_begin(&coordinator->cluster, &ask_for, wanted->dry_run, coordinator_now(), &move,
                        &problem, &todo) != 0) {
        reply_move(coordinator, request, NULL, &problem);
        cluster_todo_deinit(&todo);
    } else if (wanted->dry_run) {
        reply_move(coordinator, request, move, NULL);
        disk_move_drop(move);
    } else {
        log_info("disk_move", "begins job=%s vm=%s disk=%s", id, move->info->vm,
                 move->info->disk_name);
        reply_when_stored(coordinator, request, move, &todo);
    }
}

bool disk_move_run_cancel(struct coordinator *coordinator, struct rpc_request *request,
                          const char *word)
{
    struct cluster_disk_move *move = disk_move_find(&coordinator->cluster, word);
    struct cluster_todo todo = {0};
    struct problem problem = {0};
    if (!move)
        return false;
    if (disk_move_cancel(&coordinator->cluster, move, coordinator_now(), &problem, &todo) != 0) {
        reply_move(coordinator, request, NULL, &problem);
        cluster_todo_deinit(&todo);
    } else {
        reply_when_stored(coordinator, request, move, &todo);
    }
    return true;
}

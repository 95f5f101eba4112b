#include "coordinator/watch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/world.h"
#include "coordinator/cluster_view.h"
#include "coordinator/disk_move.h"
#include "coordinator/words.h"
#include "proto/method.h"

enum { WATCH_MS_MIN = 100 };

struct watcher {
    struct watcher *next;
    struct peer *peer;
    char job_id[ID_SHORT_SIZE];
    uint64_t sent_ns;
    bool has_news;
    /* what was sent last: a change of these is sent at once */
    enum job_step step;
    enum job_state state;
    Godwit__MovePhase phase;
};

void watch_add(struct peer *peer, const char *job_id)
{
    struct watcher *watcher = calloc(1, sizeof *watcher);
    if (!watcher)
        return; /* the reply has told of the job; its end is seen by asking again */
    watcher->peer = peer;
    WORDS_COPY(watcher->job_id, job_id);
    watcher->next = peer->coordinator->watchers;
    peer->coordinator->watchers = watcher;
}

static Godwit__MovePhase phase_of(const struct cluster_job *job)
{
    return job->progress ? job->progress->phase : GODWIT__MOVE_PHASE__MOVE_PHASE_NONE;
}

/* Returns whether there will be more. */
static bool send_news(struct watcher *watcher, const struct cluster_job *job, uint64_t now_ns)
{
    struct cluster_job_message message = {0};
    cluster_job_info(&watcher->peer->coordinator->cluster, job, now_ns, &message);
    (void)rpc_send_event(watcher->peer->rpc, METHOD_JOB_EVENT, &message.info.base,
                         NULL); /* a watcher that went away is noticed by on_closed */
    watcher->sent_ns = now_ns;
    watcher->has_news = false;
    watcher->step = job->core.step;
    watcher->state = job->core.state;
    watcher->phase = phase_of(job);
    return job_core_is_active(&job->core);
}

/* A disk's move. Returns whether there will be more. */
static bool send_disk_news(struct watcher *watcher, const struct cluster_disk_move *move,
                           uint64_t now_ns)
{
    struct disk_move_message message = {0};
    disk_move_tell(&watcher->peer->coordinator->cluster, move, now_ns, &message);
    (void)rpc_send_event(watcher->peer->rpc, METHOD_JOB_EVENT, &message.info.base,
                         NULL); /* see send_news */
    watcher->sent_ns = now_ns;
    watcher->has_news = false;
    return disk_move_is_active(move);
}

static bool is_urgent(const struct watcher *watcher, const struct cluster_job *job)
{
    return watcher->sent_ns == 0 || watcher->step != job->core.step ||
           watcher->state != job->core.state || watcher->phase != phase_of(job);
}

static void tell(struct coordinator *coordinator, const char *job_id, bool is_news)
{
    uint64_t now_ns = world_now_ns();
    struct watcher **link = &coordinator->watchers;
    while (*link) {
        struct watcher *watcher = *link;
        if (job_id && strcmp(watcher->job_id, job_id) != 0) {
            link = &watcher->next;
            continue;
        }
        watcher->has_news |= is_news;
        const struct cluster_job *job = cluster_job(&coordinator->cluster, watcher->job_id);
        bool is_due =
            job && watcher->has_news &&
            (is_urgent(watcher, job) || now_ns - watcher->sent_ns >= WATCH_MS_MIN * NS_PER_MS);
        bool goes_on = job && (!is_due || send_news(watcher, job, now_ns));
        const struct cluster_disk_move *move =
            job ? NULL : disk_move_find(&coordinator->cluster, watcher->job_id);
        bool is_disk_due = move && watcher->has_news &&
                           (!disk_move_is_active(move) ||
                            now_ns - watcher->sent_ns >= WATCH_MS_MIN * NS_PER_MS);
        if (move)
            goes_on = !is_disk_due || send_disk_news(watcher, move, now_ns);
        if (goes_on) {
            link = &watcher->next;
        } else {
            *link = watcher->next;
            free(watcher);
        }
    }
}

void watch_news(struct coordinator *coordinator, const char *job_id)
{
    tell(coordinator, job_id, true);
}

void watch_tick(struct coordinator *coordinator)
{
    tell(coordinator, NULL, false);
}

void watch_peer_gone(struct peer *peer)
{
    struct watcher **link = &peer->coordinator->watchers;
    while (*link) {
        struct watcher *watcher = *link;
        if (watcher->peer == peer) {
            *link = watcher->next;
            free(watcher);
        } else {
            link = &watcher->next;
        }
    }
}

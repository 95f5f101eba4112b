#include "coordinator/plan_watch.h"

#include <stdlib.h>
#include <string.h>

#include "base/world.h"
#include "coordinator/plan.h"
#include "coordinator/words.h"
#include "proto/method.h"

enum { PLAN_WATCH_MS = 250 };

struct plan_watcher {
    struct plan_watcher *next;
    struct peer *peer;
    char plan_id[ID_SHORT_SIZE];
    uint64_t sent_ns;
    bool has_news;
};

void plan_watch_add(struct peer *peer, const char *plan_id)
{
    struct plan_watcher *watcher = calloc(1, sizeof *watcher);
    if (!watcher)
        return; /* the reply has told of the plan; its end is seen by asking again */
    watcher->peer = peer;
    WORDS_COPY(watcher->plan_id, plan_id);
    watcher->next = peer->coordinator->plan_watchers;
    peer->coordinator->plan_watchers = watcher;
}

static struct cluster_plan *find(const struct coordinator *coordinator, const char *id)
{
    for (size_t i = 0; i < coordinator->cluster.plan_count; i++) {
        if (strcmp(coordinator->cluster.plans[i]->id, id) == 0)
            return coordinator->cluster.plans[i];
    }
    return NULL;
}

static void tell(struct coordinator *coordinator, const char *plan_id)
{
    uint64_t now_ns = world_now_ns();
    struct plan_watcher **link = &coordinator->plan_watchers;
    while (*link) {
        struct plan_watcher *watcher = *link;
        struct cluster_plan *plan = find(coordinator, watcher->plan_id);
        watcher->has_news |= plan_id && strcmp(plan_id, watcher->plan_id) == 0;
        bool is_over = plan && plan_is_over(plan);
        bool is_due = now_ns - watcher->sent_ns >= PLAN_WATCH_MS * NS_PER_MS;
        bool was_last = !plan;
        if (plan && (is_over || is_due) && (watcher->has_news || plan_is_active(plan))) {
            plan_tell_begin(&coordinator->cluster, plan, coordinator_now());
            (void)rpc_send_event(watcher->peer->rpc, METHOD_PLAN_EVENT, &plan->info->base,
                                 NULL); /* one that went away is noticed by on_closed */
            plan_tell_end(plan);
            watcher->sent_ns = now_ns;
            watcher->has_news = false;
            was_last = is_over;
        }
        if (!was_last) { /* an end that is not durable yet comes as news when it is */
            link = &watcher->next;
            continue;
        }
        *link = watcher->next;
        free(watcher);
    }
}

void plan_watch_news(struct coordinator *coordinator, const char *plan_id)
{
    tell(coordinator, plan_id);
}

void plan_watch_tick(struct coordinator *coordinator)
{
    if (coordinator->plan_watchers)
        tell(coordinator, NULL);
}

void plan_watch_peer_gone(struct peer *peer)
{
    struct plan_watcher **link = &peer->coordinator->plan_watchers;
    while (*link) {
        struct plan_watcher *watcher = *link;
        if (watcher->peer == peer) {
            *link = watcher->next;
            free(watcher);
        } else {
            link = &watcher->next;
        }
    }
}

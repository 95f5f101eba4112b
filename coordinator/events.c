#include "coordinator/events.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/own.h"
#include "coordinator/store.h"
#include "coordinator/words.h"
#include "proto/record.pb-c.h"

enum { EVENTS_A_REPLY = 2000 };

struct event {
    uint64_t number, unix_ms;
    char vm_id[ID_TEXT_SIZE];
    char text[CLUSTER_REASON_SIZE];
};

struct events { /* a ring */
    struct event items[STORE_EVENTS_KEPT];
    size_t count, first;
    uint64_t last;
};

static void add(struct events *events, uint64_t number, uint64_t unix_ms, const char *vm_id,
                const char *text)
{
    bool is_full = events->count == STORE_EVENTS_KEPT;
    struct event *event = &events->items[(events->first + events->count) % STORE_EVENTS_KEPT];
    if (is_full)
        events->first = (events->first + 1) % STORE_EVENTS_KEPT;
    else
        events->count++;
    event->number = number;
    event->unix_ms = unix_ms;
    WORDS_COPY(event->vm_id, vm_id);
    WORDS_COPY(event->text, text);
    events->last = number;
}

static int load_event(void *data, const char *key, uint64_t revision,
                      const struct store_cell *cells, struct fault *fault)
{
    (void)revision;
    (void)fault;
    add(data, strtoull(key, NULL, 10), (uint64_t)cells[STORE_EVENT_TIME].number,
        cells[STORE_EVENT_VM].bytes, cells[STORE_EVENT_TEXT].bytes);
    return 0;
}

int events_load(struct coordinator *coordinator, struct fault *fault)
{
    coordinator->events = calloc(1, sizeof *coordinator->events);
    if (!coordinator->events)
        return fault_set(fault, ERR_NOMEM, "no memory for the pool's events");
    return store_load(coordinator->store, STORE_EVENT, load_event, coordinator->events, fault);
}

void events_unload(struct coordinator *coordinator)
{
    free(coordinator->events);
    coordinator->events = NULL;
}

void events_add(struct coordinator *coordinator, const char *vm_id, const char *text,
                uint64_t unix_ms)
{
    struct events *events = coordinator->events;
    if (events) /* a number of our own: the stored ones may still be on their way */
        add(events, events->last + 1, unix_ms, vm_id, text);
}

static bool is_wanted(const struct event *event, const Godwit__EventsRequest *wanted,
                      const char *vm_id)
{
    return event->number > wanted->after && event->unix_ms >= wanted->since_unix_ms &&
           (!vm_id || strcmp(event->vm_id, vm_id) == 0);
}

void events_request(struct peer *peer, struct rpc_request *request, const void *message)
{
    const Godwit__EventsRequest *wanted = message;
    const struct events *events = peer->coordinator->events;
    const struct cluster *cluster = &peer->coordinator->cluster;
    struct problem problem = {0};
    const struct cluster_vm *vm = NULL;
    if (wanted->vm && wanted->vm[0])
        vm = cluster_find_vm(cluster, wanted->vm, &problem);
    const char *vm_id = vm ? vm->id : wanted->vm && wanted->vm[0] ? wanted->vm : NULL;

    AUTO_FREE Godwit__PoolEvent *items = calloc(EVENTS_A_REPLY, sizeof *items);
    AUTO_FREE Godwit__PoolEvent **list = calloc(EVENTS_A_REPLY, sizeof *list);
    assert(items && list); /* control memory is small; without it there is no telling */
    Godwit__EventList reply = GODWIT__EVENT_LIST__INIT;
    size_t skip = 0, matching = 0;
    for (size_t i = 0; i < events->count; i++)
        matching +=
            is_wanted(&events->items[(events->first + i) % STORE_EVENTS_KEPT], wanted, vm_id);
    skip = matching > EVENTS_A_REPLY ? matching - EVENTS_A_REPLY : 0; /* the newest count */
    for (size_t i = 0; i < events->count; i++) {
        const struct event *event = &events->items[(events->first + i) % STORE_EVENTS_KEPT];
        if (!is_wanted(event, wanted, vm_id) || (skip > 0 && skip-- > 0))
            continue;
        Godwit__PoolEvent *item = &items[reply.n_events];
        const struct cluster_vm *of = event->vm_id[0] ? cluster_vm(cluster, event->vm_id) : NULL;
        godwit__pool_event__init(item);
        item->has_number = item->has_unix_ms = true;
        item->number = event->number;
        item->unix_ms = event->unix_ms;
        item->vm = (char *)(uintptr_t)(of ? of->spec->name : event->vm_id); /* no const there */
        item->text = (char *)(uintptr_t)event->text;
        list[reply.n_events++] = item;
    }
    reply.events = list;
    reply.has_last = true;
    reply.last = events->last;
    (void)rpc_reply(request, &reply.base);
}

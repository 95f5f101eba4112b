#include "base/handoff.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>

#include "base/err.h"

struct handoff {
    pthread_mutex_t mutex;
    pthread_cond_t not_empty, not_full;
    size_t slots, first, count; /* count is also read without the mutex, by try_take's glance */
    bool closed;
    void *items[];
};

int handoff_new(struct handoff **ret_handoff, size_t slots)
{
    assert(slots > 0);
    struct handoff *handoff = calloc(1, sizeof *handoff + slots * sizeof handoff->items[0]);
    if (!handoff)
        return ERR_NOMEM;
    pthread_mutex_init(&handoff->mutex, NULL);
    pthread_cond_init(&handoff->not_empty, NULL);
    pthread_cond_init(&handoff->not_full, NULL);
    handoff->slots = slots;
    *ret_handoff = handoff;
    return 0;
}

struct handoff *handoff_free(struct handoff *handoff, void (*discard)(void *item))
{
    if (!handoff)
        return NULL;
    for (size_t i = 0; i < handoff->count && discard; i++)
        discard(handoff->items[(handoff->first + i) % handoff->slots]);
    pthread_cond_destroy(&handoff->not_full);
    pthread_cond_destroy(&handoff->not_empty);
    pthread_mutex_destroy(&handoff->mutex);
    free(handoff);
    return NULL;
}

int handoff_put(struct handoff *handoff, void **item)
{
    assert(*item);
    pthread_mutex_lock(&handoff->mutex);
    while (handoff->count == handoff->slots && !handoff->closed)
        pthread_cond_wait(&handoff->not_full, &handoff->mutex);
    if (handoff->closed) {
        pthread_mutex_unlock(&handoff->mutex);
        return HANDOFF_E_CLOSED;
    }
    handoff->items[(handoff->first + handoff->count) % handoff->slots] = *item;
    *item = NULL;
    __atomic_store_n(&handoff->count, handoff->count + 1, __ATOMIC_RELAXED);
    pthread_cond_signal(&handoff->not_empty);
    pthread_mutex_unlock(&handoff->mutex);
    return 0;
}

static void *take_locked(struct handoff *handoff)
{
    if (handoff->count == 0)
        return NULL;
    void *item = handoff->items[handoff->first];
    handoff->first = (handoff->first + 1) % handoff->slots;
    __atomic_store_n(&handoff->count, handoff->count - 1, __ATOMIC_RELAXED);
    pthread_cond_signal(&handoff->not_full);
    return item;
}

void *handoff_take(struct handoff *handoff)
{
    pthread_mutex_lock(&handoff->mutex);
    while (handoff->count == 0 && !handoff->closed)
        pthread_cond_wait(&handoff->not_empty, &handoff->mutex);
    void *item = take_locked(handoff);
    pthread_mutex_unlock(&handoff->mutex);
    return item;
}

void *handoff_try_take(struct handoff *handoff)
{
    if (__atomic_load_n(&handoff->count, __ATOMIC_RELAXED) == 0)
        return NULL;
    pthread_mutex_lock(&handoff->mutex);
    void *item = take_locked(handoff);
    pthread_mutex_unlock(&handoff->mutex);
    return item;
}

void handoff_close(struct handoff *handoff)
{
    pthread_mutex_lock(&handoff->mutex);
    handoff->closed = true;
    pthread_cond_broadcast(&handoff->not_empty);
    pthread_cond_broadcast(&handoff->not_full);
    pthread_mutex_unlock(&handoff->mutex);
}

#include "migrate/mailbox.h"

#include <assert.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/err.h"
#include "base/world.h"

struct mailbox {
    pthread_mutex_t mutex;
    pthread_cond_t not_empty, not_full;
    size_t slots, item_bytes, first, count;
    bool closed, poked;
    unsigned news; /* atomic: count or poked, for a spinning taker's glance */
    uint8_t items[];
};

int mailbox_new(struct mailbox **ret_mailbox, size_t slots, size_t item_bytes)
{
    assert(slots > 0 && item_bytes > 0);
    struct mailbox *mailbox = calloc(1, sizeof *mailbox + slots * item_bytes);
    if (!mailbox)
        return ERR_NOMEM;
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&mailbox->mutex, NULL);
    pthread_cond_init(&mailbox->not_empty, &attr);
    pthread_cond_init(&mailbox->not_full, NULL);
    pthread_condattr_destroy(&attr);
    mailbox->slots = slots;
    mailbox->item_bytes = item_bytes;
    *ret_mailbox = mailbox;
    return 0;
}

struct mailbox *mailbox_free(struct mailbox *mailbox)
{
    if (!mailbox)
        return NULL;
    assert(mailbox->count == 0);
    pthread_cond_destroy(&mailbox->not_full);
    pthread_cond_destroy(&mailbox->not_empty);
    pthread_mutex_destroy(&mailbox->mutex);
    free(mailbox);
    return NULL;
}

static void publish_news(struct mailbox *mailbox)
{
    __atomic_store_n(&mailbox->news, mailbox->count > 0 || mailbox->poked, __ATOMIC_RELEASE);
}

int mailbox_put(struct mailbox *mailbox, const void *item)
{
    pthread_mutex_lock(&mailbox->mutex);
    while (mailbox->count == mailbox->slots && !mailbox->closed)
        pthread_cond_wait(&mailbox->not_full, &mailbox->mutex);
    bool closed = mailbox->closed;
    if (!closed) {
        size_t slot = (mailbox->first + mailbox->count) % mailbox->slots;
        memcpy(mailbox->items + slot * mailbox->item_bytes, item, mailbox->item_bytes);
        mailbox->count++;
        publish_news(mailbox);
        pthread_cond_signal(&mailbox->not_empty);
    }
    pthread_mutex_unlock(&mailbox->mutex);
    return closed ? MAILBOX_E_CLOSED : 0;
}

void mailbox_poke(struct mailbox *mailbox)
{
    pthread_mutex_lock(&mailbox->mutex);
    mailbox->poked = true;
    publish_news(mailbox);
    pthread_cond_signal(&mailbox->not_empty);
    pthread_mutex_unlock(&mailbox->mutex);
}

static bool take_locked(struct mailbox *mailbox, void *ret_item)
{
    if (mailbox->count == 0)
        return false;
    memcpy(ret_item, mailbox->items + mailbox->first * mailbox->item_bytes, mailbox->item_bytes);
    mailbox->first = (mailbox->first + 1) % mailbox->slots;
    mailbox->count--;
    publish_news(mailbox);
    pthread_cond_signal(&mailbox->not_full);
    return true;
}

static void wait_locked(struct mailbox *mailbox, uint64_t wait_ns)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    uint64_t at_ns = (uint64_t)at.tv_sec * NS_PER_S + (uint64_t)at.tv_nsec + wait_ns;
    at.tv_sec = (time_t)(at_ns / NS_PER_S);
    at.tv_nsec = (long)(at_ns % NS_PER_S);
    pthread_cond_timedwait(&mailbox->not_empty, &mailbox->mutex, &at);
}

bool mailbox_take(struct mailbox *mailbox, void *ret_item, uint64_t until_ns,
                  uint64_t spin_until_ns)
{
    uint64_t now_ns = world_now_ns();
    while (now_ns < spin_until_ns && now_ns < until_ns &&
           !__atomic_load_n(&mailbox->news, __ATOMIC_ACQUIRE)) {
        sched_yield();
        now_ns = world_now_ns();
    }

    pthread_mutex_lock(&mailbox->mutex);
    while (mailbox->count == 0 && !mailbox->poked && now_ns < until_ns) {
        wait_locked(mailbox, until_ns - now_ns);
        now_ns = world_now_ns();
    }
    bool taken = take_locked(mailbox, ret_item);
    if (!taken)
        mailbox->poked = false;
    publish_news(mailbox);
    pthread_mutex_unlock(&mailbox->mutex);
    return taken;
}

bool mailbox_try_take(struct mailbox *mailbox, void *ret_item)
{
    pthread_mutex_lock(&mailbox->mutex);
    bool taken = take_locked(mailbox, ret_item);
    pthread_mutex_unlock(&mailbox->mutex);
    return taken;
}

void mailbox_close(struct mailbox *mailbox)
{
    pthread_mutex_lock(&mailbox->mutex);
    mailbox->closed = true;
    pthread_cond_broadcast(&mailbox->not_full);
    pthread_cond_broadcast(&mailbox->not_empty);
    pthread_mutex_unlock(&mailbox->mutex);
}

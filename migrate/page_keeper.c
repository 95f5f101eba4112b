#include "migrate/page_keeper.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/bitmap.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/own.h"
#include "base/thread.h"
#include "migrate/page_guard.h"

enum {
    PROTECT_STEP_PAGES = 16384, /* 64 MiB a call: faults of the guest get in between */
    SETTLE_ROUNDS_MAX = 8,
    SETTLED_PAGES = 128,
    GAP_PAGES = 16, /* protected once more rather than in two calls */
};

struct page_keeper {
    struct page_guard guard;
    pthread_t thread;
    bool has_thread;
    int stop_fd;

    pthread_mutex_t lock; /* also held while the kernel releases a page: short */
    pthread_cond_t room;
    /* under the lock */
    bool is_fixed, is_stopped;
    struct bitmap written; /* before the instant: released since it was protected */
    struct bitmap todo;    /* after it: still to be copied */
    uint64_t *kept_pages;
    uint8_t *kept;
    unsigned kept_first, kept_count;
    struct page_keeper_counts counts;
    struct fault broken;
};

/* ---- the keeper's thread ---- */
/* Under the lock. */
static void put_aside(struct page_keeper *keeper, uint64_t page)
{
    bool waited = false;
    while (bitmap_test(&keeper->todo, page) && keeper->kept_count == PAGE_KEEPER_PUT_ASIDE_MAX &&
           !keeper->is_stopped) {
        waited = true;
        (void)pthread_cond_wait(&keeper->room, &keeper->lock);
    }
    if (!bitmap_test(&keeper->todo, page) || keeper->is_stopped)
        return;
    unsigned at = (keeper->kept_first + keeper->kept_count) % PAGE_KEEPER_PUT_ASIDE_MAX;
    memcpy(keeper->kept + (size_t)at * PAGE_BYTES, keeper->guard.base + page * PAGE_BYTES,
           PAGE_BYTES);
    keeper->kept_pages[at] = page;
    keeper->kept_count++;
    bitmap_clear(&keeper->todo, page);
    keeper->counts.put_aside++;
    keeper->counts.waits += waited;
}

static int let_write(struct page_keeper *keeper, uint64_t page, struct fault *fault)
{
    (void)pthread_mutex_lock(&keeper->lock);
    if (keeper->is_fixed)
        put_aside(keeper, page);
    /* Released before it is noted, and both under the lock: whoever takes the notes either finds it or
     * protects it after this. */
    int r = keeper->is_stopped ? 0 : page_guard_release(&keeper->guard, page, 1, fault);
    if (!keeper->is_fixed)
        bitmap_set(&keeper->written, page);
    (void)pthread_mutex_unlock(&keeper->lock);
    return r;
}

static int hear(struct page_keeper *keeper, struct fault *fault)
{
    uint64_t pages[PAGE_GUARD_READ_MAX];
    unsigned count = 0;

    int r = page_guard_read(&keeper->guard, pages, &count, fault);
    for (unsigned i = 0; r == 0 && i < count; i++)
        r = let_write(keeper, pages[i], fault);
    return r;
}

/* Nobody may be left waiting: without its thread the guard is of no use, and the instant is lost. */
static void give_up(struct page_keeper *keeper, const struct fault *fault)
{
    (void)pthread_mutex_lock(&keeper->lock);
    keeper->broken = *fault;
    page_guard_close(&keeper->guard);
    (void)pthread_mutex_unlock(&keeper->lock);
}

static void *keep(void *data)
{
    struct page_keeper *keeper = data;
    struct pollfd polls[] = {{.fd = keeper->guard.fd, .events = POLLIN},
                             {.fd = keeper->stop_fd, .events = POLLIN}};
    struct fault fault = {0};
    int r = 0;

    thread_begin("keeper");
    while (r == 0) {
        if (poll(polls, ARRAY_COUNT(polls), -1) < 0 && errno != EINTR)
            r = fault_set_errno(&fault, ERR_IO, errno, "waiting for a guest's writes");
        else if (polls[1].revents)
            return NULL;
        else
            r = hear(keeper, &fault);
    }
    give_up(keeper, &fault);
    return NULL;
}

/* ---- life ---- */
static void page_keeper_freep(struct page_keeper **keeper)
{
    *keeper = page_keeper_free(*keeper);
}

int page_keeper_new(struct page_keeper **ret_keeper, uint8_t *base, uint64_t pages,
                    struct fault *fault)
{
    AUTO(page_keeper_freep) struct page_keeper *keeper = calloc(1, sizeof *keeper);
    if (!keeper)
        return fault_set(fault, ERR_NOMEM, "no memory for a snapshot");
    keeper->guard.fd = -1;
    (void)pthread_mutex_init(&keeper->lock, NULL);
    (void)pthread_cond_init(&keeper->room, NULL);
    keeper->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    keeper->kept = aligned_alloc(PAGE_BYTES, (size_t)PAGE_KEEPER_PUT_ASIDE_MAX * PAGE_BYTES);
    keeper->kept_pages = calloc(PAGE_KEEPER_PUT_ASIDE_MAX, sizeof *keeper->kept_pages);
    if (keeper->stop_fd < 0 || !keeper->kept || !keeper->kept_pages ||
        bitmap_init(&keeper->written, pages) < 0 || bitmap_init(&keeper->todo, pages) < 0)
        return fault_set(fault, ERR_NOMEM, "no memory for a snapshot");
    int r = page_guard_open(&keeper->guard, base, pages, fault);
    if (r < 0)
        return r;
    int error = pthread_create(&keeper->thread, NULL, keep, keeper);
    if (error)
        return fault_set_errno(fault, ERR_NOMEM, error, "no thread for a snapshot");
    keeper->has_thread = true;
    *ret_keeper = TAKE(keeper);
    return 0;
}

struct page_keeper *page_keeper_free(struct page_keeper *keeper)
{
    if (!keeper)
        return NULL;
    if (keeper->has_thread) {
        const uint64_t one = 1;
        (void)pthread_mutex_lock(&keeper->lock);
        keeper->is_stopped = true;
        (void)pthread_cond_signal(&keeper->room);
        (void)pthread_mutex_unlock(&keeper->lock);
        (void)!write(keeper->stop_fd, &one, sizeof one); /* it has room: nobody else writes to it */
        (void)pthread_join(keeper->thread, NULL);
    }
    page_guard_close(&keeper->guard); /* who waits goes on */
    close_p(&keeper->stop_fd);
    bitmap_deinit(&keeper->written);
    bitmap_deinit(&keeper->todo);
    free(keeper->kept);
    free(keeper->kept_pages);
    (void)pthread_cond_destroy(&keeper->room);
    (void)pthread_mutex_destroy(&keeper->lock);
    free(keeper);
    return NULL;
}

int page_keeper_check(struct page_keeper *keeper, struct fault *fault)
{
    (void)pthread_mutex_lock(&keeper->lock);
    int r = keeper->broken.code;
    if (r < 0)
        *fault = keeper->broken;
    (void)pthread_mutex_unlock(&keeper->lock);
    return r;
}

struct page_keeper_counts page_keeper_counts(struct page_keeper *keeper)
{
    (void)pthread_mutex_lock(&keeper->lock);
    struct page_keeper_counts counts = keeper->counts;
    (void)pthread_mutex_unlock(&keeper->lock);
    return counts;
}

/* ---- up to the instant ---- */
int page_keeper_protect(struct page_keeper *keeper, struct fault *fault)
{
    uint64_t pages = keeper->guard.pages;
    int r = page_keeper_check(keeper, fault);

    for (uint64_t first = 0; r == 0 && first < pages; first += PROTECT_STEP_PAGES) {
        uint64_t left = pages - first;
        r = page_guard_protect(&keeper->guard, first,
                               left < PROTECT_STEP_PAGES ? left : PROTECT_STEP_PAGES, fault);
    }
    return r;
}

static uint64_t take_written(struct page_keeper *keeper, struct bitmap *ret_pages)
{
    (void)pthread_mutex_lock(&keeper->lock);
    memcpy(ret_pages->words, keeper->written.words,
           bitmap_words(ret_pages) * sizeof ret_pages->words[0]);
    bitmap_clear_all(&keeper->written);
    (void)pthread_mutex_unlock(&keeper->lock);
    return bitmap_count(ret_pages);
}

static int protect_pages(struct page_keeper *keeper, const struct bitmap *pages,
                         struct fault *fault)
{
    int r = 0;

    for (uint64_t first = bitmap_next_set(pages, 0), next; r == 0 && first != BITMAP_NONE;
         first = next) {
        uint64_t end = first;
        for (next = first; next != BITMAP_NONE && next - end < GAP_PAGES;
             next = bitmap_next_set(pages, end)) {
            end = bitmap_next_clear(pages, next);
            if (end == BITMAP_NONE)
                end = pages->bits;
            if (end == pages->bits) {
                next = BITMAP_NONE;
                break;
            }
        }
        r = page_guard_protect(&keeper->guard, first, end - first, fault);
    }
    return r;
}

int page_keeper_settle(struct page_keeper *keeper, struct fault *fault)
{
    struct bitmap written = {0};

    if (bitmap_init(&written, keeper->guard.pages) < 0)
        return fault_set(fault, ERR_NOMEM, "no memory for a snapshot");
    int r = 0;
    for (unsigned round = 0; r == 0 && round < SETTLE_ROUNDS_MAX; round++) {
        uint64_t count = take_written(keeper, &written);
        (void)pthread_mutex_lock(&keeper->lock);
        bitmap_or(&keeper->todo, &written); /* they have memory now */
        (void)pthread_mutex_unlock(&keeper->lock);
        r = protect_pages(keeper, &written, fault);
        if (count < SETTLED_PAGES)
            break;
    }
    bitmap_deinit(&written);
    return r < 0 ? r : page_keeper_check(keeper, fault);
}

int page_keeper_fix(struct page_keeper *keeper, const struct bitmap *populated,
                    struct fault *fault)
{
    (void)pthread_mutex_lock(&keeper->lock);
    assert(!keeper->is_fixed);
    int r = keeper->broken.code;
    if (r < 0)
        *fault = keeper->broken;
    else
        r = protect_pages(keeper, &keeper->written, fault);
    if (r == 0) {
        bitmap_or(&keeper->todo, &keeper->written);
        bitmap_or(&keeper->todo, populated);
        keeper->is_fixed = true;
    }
    (void)pthread_mutex_unlock(&keeper->lock);
    return r;
}

/* ---- after it ---- */
bool page_keeper_begin_copy(struct page_keeper *keeper, uint64_t page)
{
    (void)pthread_mutex_lock(&keeper->lock);
    assert(keeper->is_fixed);
    if (bitmap_test(&keeper->todo, page))
        return true;
    (void)pthread_mutex_unlock(&keeper->lock);
    return false;
}

void page_keeper_end_copy(struct page_keeper *keeper, uint64_t page)
{
    bitmap_clear(&keeper->todo, page);
    (void)pthread_cond_signal(&keeper->room); /* its thread may wait for just this page */
    (void)pthread_mutex_unlock(&keeper->lock);
}

int page_keeper_release(struct page_keeper *keeper, uint64_t first, uint64_t count,
                        struct fault *fault)
{
    int r = page_keeper_check(keeper, fault);
    return r < 0 ? r : page_guard_release(&keeper->guard, first, count, fault);
}

const uint8_t *page_keeper_take_kept(struct page_keeper *keeper, uint64_t *ret_page)
{
    const uint8_t *bytes = NULL;

    (void)pthread_mutex_lock(&keeper->lock);
    if (keeper->kept_count > 0) {
        bytes = keeper->kept + (size_t)keeper->kept_first * PAGE_BYTES;
        *ret_page = keeper->kept_pages[keeper->kept_first];
    }
    (void)pthread_mutex_unlock(&keeper->lock);
    return bytes;
}

void page_keeper_drop_kept(struct page_keeper *keeper)
{
    (void)pthread_mutex_lock(&keeper->lock);
    assert(keeper->kept_count > 0);
    keeper->kept_first = (keeper->kept_first + 1) % PAGE_KEEPER_PUT_ASIDE_MAX;
    keeper->kept_count--;
    (void)pthread_cond_signal(&keeper->room);
    (void)pthread_mutex_unlock(&keeper->lock);
}

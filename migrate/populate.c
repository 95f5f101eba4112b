#include "migrate/populate.h"

#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/bitmap.h"
#include "base/err.h"
#include "base/failpoint.h"
#include "base/own.h"
#include "base/thread.h"
#include "base/world.h"
#include "migrate/region.h"
#include "proto/limits.h"

/* 16 MiB at a time: short enough to stop and to share out. The kernel gets less at once, a huge page
 * (some 0.3 ms), and the core is offered to others after each: inside of the kernel a thread gives
 * it away at ticks of 4 ms only, and the guest that is to move lost as much where both shared one.
 */
enum { CHUNK_PAGES = 8 * BLOCK_PAGES, STEP_PAGES = BLOCK_PAGES, THREADS_MAX = 16 };

struct populate {
    struct populate_config config;
    uint64_t begun_ns;
    pthread_t threads[THREADS_MAX];
    unsigned thread_count;

    pthread_mutex_t mutex; /* guards all below */
    unsigned running, region;
    uint64_t next_page, cpu_ns;
    bool stopped;
    struct fault fault;
};

static void populate_freep(struct populate **populate)
{
    *populate = populate_free(*populate);
}

struct chunk {
    unsigned region;
    uint64_t first, end;
};

static bool next_chunk(struct populate *populate, struct chunk *ret_chunk)
{
    bool found = false;
    pthread_mutex_lock(&populate->mutex);
    while (!found && !populate->stopped && populate->region < populate->config.region_count) {
        const struct bitmap *wanted = &populate->config.wanted[populate->region];
        uint64_t page = bitmap_next_set(wanted, populate->next_page);
        if (page == BITMAP_NONE) {
            populate->region++;
            populate->next_page = 0;
            continue;
        }
        uint64_t end = page - page % CHUNK_PAGES + CHUNK_PAGES;
        if (end > wanted->bits)
            end = wanted->bits;
        *ret_chunk = (struct chunk){.region = populate->region, .first = page, .end = end};
        populate->next_page = end;
        found = true;
    }
    pthread_mutex_unlock(&populate->mutex);
    return found;
}

static int populate_chunk(const struct populate *populate, const struct chunk *chunk,
                          struct fault *fault)
{
    const struct bitmap *wanted = &populate->config.wanted[chunk->region];
    struct region *region = (struct region *)&populate->config.regions[chunk->region];

    for (uint64_t page = chunk->first; page < chunk->end;) {
        page = bitmap_next_set(wanted, page);
        if (page >= chunk->end) /* BITMAP_NONE too */
            break;
        uint64_t end = bitmap_next_clear(wanted, page);
        uint64_t step_end = page - page % STEP_PAGES + STEP_PAGES;
        if (end > chunk->end)
            end = chunk->end;
        if (end > step_end)
            end = step_end;
        int r = failpoint_check(FAILPOINT_TARGET_POPULATE, fault);
        if (r == 0)
            r = region->ops->populate(region, page, end - page, fault);
        if (r < 0)
            return r;
        page = end;
        (void)sched_yield(); /* cannot fail */
    }
    return 0;
}

static void *populate_run(void *data)
{
    struct populate *populate = data;
    struct fault fault = {0};
    struct chunk chunk;
    int r = 0;
    thread_begin("populate");
    thread_give_way();
    while (r == 0 && next_chunk(populate, &chunk))
        r = populate_chunk(populate, &chunk, &fault);

    pthread_mutex_lock(&populate->mutex);
    if (r < 0) {
        if (!fault.code)
            (void)fault_set(&fault, r, "%s", err_name(r));
        if (!populate->fault.code)
            populate->fault = fault;
        populate->stopped = true;
    }
    populate->cpu_ns += world_thread_cpu_ns();
    bool last = --populate->running == 0;
    pthread_mutex_unlock(&populate->mutex);
    if (last) /* nobody else touches it any more */
        populate->config.done(populate->config.data, populate->fault.code ? &populate->fault : NULL,
                              world_now_ns() - populate->begun_ns, populate->cpu_ns);
    return NULL;
}

int populate_new(struct populate **ret_populate, const struct populate_config *config,
                 struct fault *fault)
{
    struct populate *populate = calloc(1, sizeof *populate);
    if (!populate)
        return fault_set(fault, ERR_NOMEM, "no memory to populate memory");
    pthread_mutex_init(&populate->mutex, NULL);
    AUTO(populate_freep) struct populate *owned = populate;
    populate->config = *config;
    populate->begun_ns = world_now_ns();

    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    /* Half of the cores: a thread inside the kernel gives its core away at ticks of 4 ms only, and
     * here other guests run. With all of two cores the guest that was to move lost 8 ms at a time.
     */
    unsigned wanted = cores < 2 ? 1 : cores > 2 * THREADS_MAX ? THREADS_MAX : (unsigned)cores / 2;
    /* Held while they start, so that no early one believes to be the last. */
    pthread_mutex_lock(&populate->mutex);
    int error = 0;
    while (populate->thread_count < wanted && !error) {
        error = pthread_create(&populate->threads[populate->thread_count], NULL, populate_run,
                               populate);
        populate->thread_count += !error;
    }
    populate->running = populate->thread_count;
    pthread_mutex_unlock(&populate->mutex);
    if (populate->thread_count == 0)
        return fault_set_errno(fault, ERR_NOMEM, error, "starting to populate memory");
    *ret_populate = TAKE(owned);
    return 0;
}

struct populate *populate_free(struct populate *populate)
{
    if (!populate)
        return NULL;
    pthread_mutex_lock(&populate->mutex);
    populate->stopped = true;
    pthread_mutex_unlock(&populate->mutex);
    for (unsigned i = 0; i < populate->thread_count; i++)
        pthread_join(populate->threads[i], NULL);
    pthread_mutex_destroy(&populate->mutex);
    free(populate);
    return NULL;
}

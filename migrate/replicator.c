/* Links, one at a time, and the thread that opens them, ships over them, and opens them again. */
#include "migrate/replicator_inside.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/thread.h"
#include "base/world.h"
#include "migrate/guest.h"
#include "migrate/pacer.h"
#include "migrate/region.h"
#include "migrate/replica.h"
#include "migrate/watch.h"
#include "net/stream.h"

enum { RETRY_MS_MIN = 100, RETRY_MS_MAX = 2000 };

/* ---- telling ---- */
static void fill_status(struct replicator *replicator, struct replicator_status *ret_status)
{
    (void)pthread_mutex_lock(&replicator->lock);
    uint64_t now_ns = world_now_ns();
    (void)replica_pace_tick(&replicator->pace, now_ns);
    replicator->status.rpo_ns = replica_pace_rpo_ns(&replicator->pace, now_ns);
    replicator->status.is_missed = replicator->pace.is_missed;
    replicator->status.missed_count = replicator->pace.missed_count;
    replicator->status.is_finishing = replicator->finish_until_ns != 0;
    *ret_status = replicator->status;
    if (replicator->link) /* those that are closed are counted */
        ret_status->bytes_out += __atomic_load_n(&replicator->link->wire_bytes_out, __ATOMIC_RELAXED);
    (void)pthread_mutex_unlock(&replicator->lock);
}

void replicator_status(struct replicator *replicator, struct replicator_status *ret_status)
{
    fill_status(replicator, ret_status);
}

void replicator_tell(struct replicator *replicator)
{
    struct replicator_status status;
    fill_status(replicator, &status);
    if (replicator->config.on_change)
        replicator->config.on_change(replicator->config.data, &status);
}

static void note_trouble(struct replicator *replicator, const struct fault *fault)
{
    (void)pthread_mutex_lock(&replicator->lock);
    replicator->status.trouble = *fault;
    (void)pthread_mutex_unlock(&replicator->lock);
}

static bool is_stopping(struct replicator *replicator)
{
    (void)pthread_mutex_lock(&replicator->lock);
    bool stopping = replicator->stopping;
    (void)pthread_mutex_unlock(&replicator->lock);
    return stopping;
}

/* Until then, or until somebody wants something. */
static void await(struct replicator *replicator, uint64_t until_ns)
{
    (void)pthread_mutex_lock(&replicator->lock);
    uint64_t now_ns = world_now_ns(), goal_ns = replicator->pace.rpo_ns;
    while (goal_ns == replicator->pace.rpo_ns && !replicator->stopping &&
           !replicator->finish_until_ns && now_ns < until_ns) {
        struct timespec at;
        (void)clock_gettime(CLOCK_MONOTONIC, &at);
        uint64_t at_ns = (uint64_t)at.tv_sec * NS_PER_S + (uint64_t)at.tv_nsec + until_ns - now_ns;
        at.tv_sec = (time_t)(at_ns / NS_PER_S);
        at.tv_nsec = (long)(at_ns % NS_PER_S);
        (void)pthread_cond_timedwait(&replicator->changed, &replicator->lock, &at);
        now_ns = world_now_ns();
    }
    (void)pthread_mutex_unlock(&replicator->lock);
}

bool replicator_is_finishing(struct replicator *replicator)
{
    (void)pthread_mutex_lock(&replicator->lock);
    bool asked = replicator->finish_until_ns != 0;
    (void)pthread_mutex_unlock(&replicator->lock);
    return asked;
}

/* Nobody waits for a last checkpoint any more. */
void replicator_give_up_finish(struct replicator *replicator)
{
    (void)pthread_mutex_lock(&replicator->lock);
    if (replicator->finish_until_ns && world_now_ns() >= replicator->finish_until_ns)
        replicator->finish_until_ns = 0;
    (void)pthread_mutex_unlock(&replicator->lock);
}

/* ---- a link ---- */
/* The image is begun anew: everything that has memory, and what is written from here on. */
static int begin_whole(struct replicator *replicator, struct fault *fault)
{
    replicator->sum = 0;
    for (unsigned i = 0; i < replicator->count; i++) {
        struct replicator_part *part = &replicator->parts[i];
        struct region *region = part->region;
        page_digest_deinit(&part->digest);
        int r = page_digest_init(&part->digest, region, fault);
        if (r == 0)
            r = region->ops->collect(region, &part->pending, fault);
        bitmap_set_range(&part->pending, 0, region->pages);
        if (r == 0)
            r = region->ops->clear_many(region, &part->pending, fault);
        bitmap_clear_all(&part->owed);
        bitmap_clear_all(&part->pending);
        if (r == 0)
            r = region->ops->populated(region, &part->pending, fault);
        if (r < 0) {
            replicator->guest_failed = true;
            return fault_wrap(fault, r, "beginning a whole checkpoint");
        }
    }
    return 0;
}

static int greet(struct replicator *replicator, struct fault *fault)
{
    uint8_t body[REPLICA_WELCOME_BYTES];
    struct replica_frame answer;
    struct replica_welcome welcome;
    enum replicator_owes owes = REPLICATOR_OWES_WHOLE;

    int r = replicator_send(replicator, REPLICA_FRAME_HELLO, 0, replicator->shape,
                            strlen(replicator->shape), fault);
    if (r == 0)
        r = replicator_read(replicator, REPLICA_FRAME_WELCOME, &answer, body, sizeof body, fault);
    if (r == 0)
        r = replica_welcome_get(body, &welcome, fault);
    if (r == 0)
        r = replicator_core_linked(&replicator->core, &welcome.held, &owes, fault);
    if (r < 0)
        return r;
    replicator->is_whole = owes == REPLICATOR_OWES_WHOLE;
    for (unsigned i = 0; owes == REPLICATOR_OWES_SENT && i < replicator->count; i++)
        bitmap_or(&replicator->parts[i].pending, &replicator->parts[i].owed);
    replicator_forget_owed(replicator);
    replicator->has_kept = false;
    if (owes == REPLICATOR_OWES_WHOLE && welcome.tells_blocks && !replicator->asks_not)
        r = replicator_ask_blocks(replicator, fault);
    if (r == 0 && owes == REPLICATOR_OWES_WHOLE)
        r = begin_whole(replicator, fault);
    return r;
}

static void watch_expired(void *data)
{
    struct replicator *replicator = data;
    stream_interrupt(replicator->link); /* the watch ends before the link does */
}

static int open_link(struct replicator *replicator, struct fault *fault)
{
    struct stream *link = NULL;
    int r = replicator->config.open_link(replicator->config.data, &link, fault);
    if (r < 0)
        return r;
    (void)pthread_mutex_lock(&replicator->lock);
    replicator->link = link;
    bool stopping = replicator->stopping;
    (void)pthread_mutex_unlock(&replicator->lock);
    r = stopping ? fault_set(fault, ERR_CANCELED, "the replication was stopped")
                 : watch_new(&replicator->watch, watch_expired, replicator, fault);
    return r < 0 ? r : greet(replicator, fault);
}

static void close_link(struct replicator *replicator)
{
    struct stream *link = replicator->link;

    replicator->watch = watch_free(replicator->watch);
    replicator_forget_blocks(replicator);
    /* All was told, and it is not held: maybe because it had not what it said. Then it gets
     * everything. */
    replicator->asks_not |= replicator->has_kept && replicator->core.is_cut;
    if (replicator->core.is_linked)
        replicator_core_unlinked(&replicator->core);
    (void)pthread_mutex_lock(&replicator->lock);
    replicator->link = NULL;
    replicator->status.is_linked = false;
    if (link)
        replicator->status.bytes_out += link->wire_bytes_out;
    replica_pace_lost(&replicator->pace);
    (void)pthread_mutex_unlock(&replicator->lock);
    (void)stream_free(link);
}

static void note_linked(struct replicator *replicator)
{
    (void)pthread_mutex_lock(&replicator->lock);
    replicator->status.is_linked = true;
    replicator->status.links++;
    (void)pthread_mutex_unlock(&replicator->lock);
    replicator_tell(replicator);
}

static uint64_t next_cut_ns(struct replicator *replicator)
{
    (void)pthread_mutex_lock(&replicator->lock);
    uint64_t next_ns = replica_pace_next_ns(&replicator->pace);
    (void)pthread_mutex_unlock(&replicator->lock);
    return next_ns;
}

/* Another goal makes it another moment. */
static void await_cut(struct replicator *replicator)
{
    uint64_t next_ns;

    do {
        next_ns = next_cut_ns(replicator);
        await(replicator, next_ns);
    } while (next_cut_ns(replicator) != next_ns && !is_stopping(replicator) &&
             !replicator_is_finishing(replicator));
}

/* Before another attempt; who waits for a last checkpoint does not shorten it to nothing. */
static void rest(struct replicator *replicator, uint64_t ms)
{
    const struct timespec least = {.tv_nsec = RETRY_MS_MIN * 1000000L};

    if (replicator_is_finishing(replicator))
        (void)nanosleep(&least, NULL);
    else
        await(replicator, world_now_ns() + ms * NS_PER_MS);
}

/* A cut that could not be is no end: the guest wrote too much, or a disk did not come to rest. */
static bool is_passing(const struct replicator *replicator, int r)
{
    return (r == ERR_BUSY || r == ERR_TIMEOUT) && replicator->in_cut && !replicator->guest_failed;
}

/* Checkpoints until the link breaks, the guest ends, or the last one is held. */
static int ship(struct replicator *replicator, struct fault *fault)
{
    while (!is_stopping(replicator)) {
        if (replicator->core.sent.seq == 0)
            await_cut(replicator);
        if (is_stopping(replicator))
            break;
        int r = replicator_ship_one(replicator, fault);
        if (r < 0 && !is_passing(replicator, r))
            return r;
        if (r < 0) {
            note_trouble(replicator, fault);
            replicator_give_up_finish(replicator);
            replicator_tell(replicator);
            uint64_t ms =
                replica_pace_again_ns(&replicator->pace, replicator->stood_ns) / NS_PER_MS;
            rest(replicator, ms > RETRY_MS_MIN ? ms : RETRY_MS_MIN);
        } else if (replicator->guest_is_held) {
            return 0;
        }
    }
    return fault_set(fault, ERR_CANCELED, "the replication was stopped");
}

/* ---- the thread ---- */
/* After a last checkpoint that did not arrive the guest goes on. */
static int let_go(struct replicator *replicator, struct fault *fault)
{
    struct guest *guest = replicator->config.guest;

    if (!replicator->guest_is_held)
        return 0;
    replicator_hold(replicator);
    replicator->guest_is_held = false;
    int r = guest->was_running ? guest->ops->resume(guest->owner, fault) : 0;
    replicator_release(replicator);
    return r;
}

static int track(struct replicator *replicator, struct fault *fault)
{
    for (unsigned i = 0; i < replicator->count; i++) {
        struct replicator_part *part = &replicator->parts[i];
        int r = part->region->ops->track_start(part->region, fault);
        if (r < 0)
            return fault_wrap(fault, r, "tracking what is written of '%s'", part->region->name);
        part->is_tracked = true;
    }
    return 0;
}

static void untrack(struct replicator *replicator)
{
    for (unsigned i = 0; i < replicator->count; i++) {
        struct replicator_part *part = &replicator->parts[i];
        if (part->is_tracked)
            part->region->ops->track_stop(part->region, true);
        part->is_tracked = false;
    }
}

static int run_links(struct replicator *replicator, struct fault *fault)
{
    uint64_t retry_ms = RETRY_MS_MIN;

    for (;;) {
        *fault = (struct fault){0};
        int r = open_link(replicator, fault);
        bool was_linked = r == 0;
        if (was_linked) {
            note_linked(replicator);
            retry_ms = RETRY_MS_MIN;
            r = ship(replicator, fault);
        }
        close_link(replicator);
        if (r == 0 || is_stopping(replicator) || replicator->guest_failed)
            return r;
        note_trouble(replicator, fault);
        struct fault broken = {0};
        r = let_go(replicator, &broken);
        if (r < 0) {
            *fault = broken;
            return r;
        }
        replicator_give_up_finish(replicator);
        replicator_tell(replicator);
        rest(replicator, retry_ms);
        retry_ms = retry_ms * 2 < RETRY_MS_MAX ? retry_ms * 2 : RETRY_MS_MAX;
    }
}

static void *replicator_run(void *data)
{
    struct replicator *replicator = data;
    struct fault fault = {0}, broken = {0};
    thread_begin("replicator");

    int r = track(replicator, &fault);
    if (r == 0)
        r = run_links(replicator, &fault);
    untrack(replicator);
    if (r < 0 && let_go(replicator, &broken) < 0)
        fault = broken;
    if (!is_stopping(replicator) || r == 0)
        replicator->config.on_ended(replicator->config.data, r < 0 ? &fault : NULL);
    return NULL;
}

/* ---- life ---- */
static int add_part(struct replicator *replicator, struct region *region, struct fault *fault)
{
    struct replicator_part *part = &replicator->parts[replicator->count++];

    part->region = region;
    if (bitmap_init(&part->pending, region->pages) < 0 ||
        bitmap_init(&part->cut, region->pages) < 0 || bitmap_init(&part->owed, region->pages) < 0)
        return fault_set(fault, ERR_NOMEM, "no memory to replicate '%s'", region->name);
    return page_digest_init(&part->digest, region, fault);
}

static int add_parts(struct replicator *replicator, const struct replicator_config *config,
                     struct fault *fault)
{
    struct guest *guest = config->guest;
    unsigned first = config->ram_count ? 0 : guest->region_count - config->disk_count;
    int r = 0;

    if (config->ram_count + config->disk_count > guest->region_count ||
        guest->region_count > REPLICATOR_PARTS_MAX || config->ram_count + config->disk_count == 0)
        return fault_set(fault, ERR_INVALID, "a replication of %u + %u regions, the guest has %u",
                         config->ram_count, config->disk_count, guest->region_count);
    for (unsigned i = first; r == 0 && i < guest->region_count; i++)
        r = add_part(replicator, &guest->regions[i], fault);
    if (r == 0)
        r = replica_shape(config->who, guest->regions, config->ram_count, config->disks,
                          config->disk_count, replicator->shape, fault);
    return r;
}

int replicator_new(struct replicator **ret_replicator, const struct replicator_config *config,
                   struct fault *fault)
{
    if (config->rpo_ns < NS_PER_MS || config->loss_permille >= 1000 || config->generation == 0)
        return fault_set(fault, ERR_INVALID, "a replication without a goal or a generation");
    struct replicator *replicator = calloc(1, sizeof *replicator);
    if (!replicator)
        return fault_set(fault, ERR_NOMEM, "no memory for a replication");
    replicator->config = *config;
    pthread_condattr_t monotonic;
    (void)pthread_condattr_init(&monotonic);
    (void)pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&replicator->changed, &monotonic);
    (void)pthread_condattr_destroy(&monotonic);
    (void)pthread_mutex_init(&replicator->lock, NULL);
    (void)pthread_mutex_init(&replicator->guest_lock, NULL);

    uint64_t session = 0, copy_bytes = config->copy_bytes_max ? config->copy_bytes_max
                                                              : REPLICATOR_COPY_BYTES_MAX;
    while (session == 0)
        world_random(&session, sizeof session);
    replicator_core_init(&replicator->core, config->generation, session);
    replica_pace_init(&replicator->pace, config->rpo_ns, config->loss_permille, world_now_ns());
    replicator->status.rpo_goal_ns = config->rpo_ns;
    replicator->aside_pages = copy_bytes / PAGE_BYTES;
    void *aside = mmap(NULL, copy_bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    int r =
        aside == MAP_FAILED ? fault_set_errno(fault, ERR_NOMEM, errno, "no room for copies") : 0;
    replicator->aside = r < 0 ? NULL : aside;
    if (r == 0)
        r = page_codec_init(&replicator->codec, PAGE_TUNER_AUTO, false, fault);
    if (r == 0)
        r = pacer_new(&replicator->pacer, config->bytes_per_s_max);
    if (r == 0)
        r = add_parts(replicator, config, fault);
    if (r < 0) {
        (void)replicator_free(replicator);
        return r;
    }
    replicator->config.who = NULL; /* the shape has them */
    replicator->config.disks = NULL;
    *ret_replicator = replicator;
    return 0;
}

int replicator_start(struct replicator *replicator, struct fault *fault)
{
    int error = pthread_create(&replicator->thread, NULL, replicator_run, replicator);
    if (error)
        return fault_set_errno(fault, ERR_NOMEM, error, "starting a replication");
    replicator->started = true;
    return 0;
}

struct replicator *replicator_free(struct replicator *replicator)
{
    if (!replicator)
        return NULL;
    if (replicator->started) {
        (void)pthread_mutex_lock(&replicator->lock);
        replicator->stopping = true;
        if (replicator->link)
            stream_interrupt(replicator->link);
        (void)pthread_cond_broadcast(&replicator->changed);
        (void)pthread_mutex_unlock(&replicator->lock);
        replicator->config.interrupt_open(replicator->config.data);
        pacer_close(replicator->pacer);
        (void)pthread_join(replicator->thread, NULL);
    }
    for (unsigned i = 0; i < replicator->count; i++) {
        bitmap_deinit(&replicator->parts[i].pending);
        bitmap_deinit(&replicator->parts[i].cut);
        bitmap_deinit(&replicator->parts[i].owed);
        page_digest_deinit(&replicator->parts[i].digest);
        free(replicator->parts[i].have);
    }
    if (replicator->aside)
        (void)munmap(replicator->aside, replicator->aside_pages * PAGE_BYTES);
    (void)pacer_free(replicator->pacer);
    page_codec_deinit(&replicator->codec);
    free(replicator->state);
    free(replicator->block);
    (void)pthread_cond_destroy(&replicator->changed);
    (void)pthread_mutex_destroy(&replicator->lock);
    (void)pthread_mutex_destroy(&replicator->guest_lock);
    free(replicator);
    return NULL;
}

void replicator_finish(struct replicator *replicator, uint64_t deadline_ms)
{
    (void)pthread_mutex_lock(&replicator->lock);
    replicator->finish_until_ns = world_now_ns() + deadline_ms * NS_PER_MS;
    (void)pthread_cond_broadcast(&replicator->changed);
    (void)pthread_mutex_unlock(&replicator->lock);
}

void replicator_tune(struct replicator *replicator, uint64_t rpo_ns, uint64_t bytes_per_s_max)
{
    assert(rpo_ns >= NS_PER_MS);
    (void)pthread_mutex_lock(&replicator->lock);
    replicator->pace.rpo_ns = replicator->status.rpo_goal_ns = rpo_ns;
    (void)pthread_cond_broadcast(&replicator->changed);
    (void)pthread_mutex_unlock(&replicator->lock);
    pacer_set(replicator->pacer, bytes_per_s_max);
}

void replicator_hold(struct replicator *replicator)
{
    (void)pthread_mutex_lock(&replicator->guest_lock);
}

void replicator_release(struct replicator *replicator)
{
    (void)pthread_mutex_unlock(&replicator->guest_lock);
}

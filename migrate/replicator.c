/* One thread does it all, one link at a time. Of each region there are three sets of pages:
 *
 *      pending   dirty in the log, or owed from before: to be in the next checkpoint
 *      cut       copied aside while the guest stood still: to be shipped now
 *      owed      cleared in the log since the checkpoint that is held: the replica may lack them
 *
 *   log --collect--> pending --(sent while it runs | copied)--> owed --HELD--> forgotten
 *                       ^---------------- link lost --------------'
 */
#include "migrate/replicator.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "base/bitmap.h"
#include "base/bytes.h"
#include "base/own.h"
#include "base/thread.h"
#include "base/world.h"
#include "migrate/guest.h"
#include "migrate/pacer.h"
#include "migrate/page_codec.h"
#include "migrate/page_copy.h"
#include "migrate/page_digest.h"
#include "migrate/page_scan.h"
#include "migrate/region.h"
#include "migrate/replica.h"
#include "migrate/replica_core.h"
#include "migrate/replica_pace.h"
#include "migrate/watch.h"
#include "net/stream.h"

enum {
    COPY_BYTES_EASY = 16 << 20, /* copied in a few ms: no round before it */
    ROUNDS_BEFORE_CUT_MAX = 8,
    RETRY_MS_MIN = 100,
    RETRY_MS_MAX = 2000,
    PARTS_MAX = REGIONS_MAX,
};

struct part {
    struct region *region; /* borrowed */
    struct bitmap pending, cut, owed;
    struct page_digest digest; /* of what was sent last of each page */
    bool is_tracked;
};

struct replicator {
    /* set before start, read by all */
    struct replicator_config config;
    char shape[REPLICA_SHAPE_MAX];
    pthread_t thread;
    bool started;

    /* the replicator's thread */
    struct part parts[PARTS_MAX];
    unsigned count;
    struct replicator_core core;
    struct page_codec codec;
    struct pacer *pacer;
    struct stream *link; /* set and cleared under the lock: others interrupt it */
    struct watch *watch; /* of the link */
    uint8_t *aside;      /* copy_bytes_max of address space */
    uint64_t aside_pages, sum, running, pages;
    uint8_t *state;
    size_t state_bytes;
    bool is_whole;      /* the checkpoint under way names every page that is not zero */
    bool guest_is_held; /* by a last checkpoint */
    bool in_cut;        /* where it failed, if it did */
    bool guest_failed;  /* what another link would not make better */

    pthread_mutex_t lock; /* guards all below */
    pthread_cond_t changed;
    struct replica_pace pace;
    struct replicator_status status;
    uint64_t finish_until_ns; /* 0: nobody asked */
    bool stopping;
};

/* ---- telling ---- */
static void fill_status(struct replicator *replicator, struct replicator_status *ret_status)
{
    (void)pthread_mutex_lock(&replicator->lock);
    uint64_t now_ns = world_now_ns();
    (void)replica_pace_tick(&replicator->pace, now_ns);
    replicator->status.rpo_ns = replica_pace_rpo_ns(&replicator->pace, now_ns);
    replicator->status.is_missed = replicator->pace.is_missed;
    replicator->status.missed_count = replicator->pace.missed_count;
    *ret_status = replicator->status;
    (void)pthread_mutex_unlock(&replicator->lock);
}

void replicator_status(struct replicator *replicator, struct replicator_status *ret_status)
{
    fill_status(replicator, ret_status);
}

static void tell(struct replicator *replicator)
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

/* Until then, or until somebody wants something; a glance at the alarm now and then. */
static void await(struct replicator *replicator, uint64_t until_ns)
{
    (void)pthread_mutex_lock(&replicator->lock);
    uint64_t now_ns = world_now_ns();
    while (!replicator->stopping && !replicator->finish_until_ns && now_ns < until_ns) {
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

/* ---- segments ---- */
/* What is to be written or read has to be so by then. A guest that stands still waits no longer
 * than it was to. */
static void arm(struct replicator *replicator)
{
    uint64_t until_ns = world_now_ns() + REPLICATOR_SILENT_MS_MAX * NS_PER_MS;

    (void)pthread_mutex_lock(&replicator->lock);
    if (replicator->guest_is_held && replicator->finish_until_ns < until_ns)
        until_ns = replicator->finish_until_ns;
    (void)pthread_mutex_unlock(&replicator->lock);
    watch_arm(replicator->watch, until_ns);
}

static int send_segment(struct replicator *replicator, enum replica_frame_type type, uint64_t seq,
                        const void *body, size_t count, struct fault *fault)
{
    uint8_t head[REPLICA_FRAME_HEAD_BYTES];
    const struct replica_frame frame = {
        .type = type,
        .id = {replicator->config.generation, replicator->core.held.session, seq},
        .body_bytes = (uint32_t)count,
        .body_check = type == REPLICA_FRAME_PAGES ? 0 : replica_frame_check(body, count),
    };
    replica_frame_put(&frame, head);
    arm(replicator);
    int r = stream_write(replicator->link, head, sizeof head, fault);
    if (r == 0)
        r = stream_write(replicator->link, body, count, fault);
    if (r == 0 && type != REPLICA_FRAME_PAGES)
        r = stream_flush(replicator->link, fault);
    watch_disarm(replicator->watch);
    return r;
}

/* A segment of the replica that must be of this type; its body is at most `size` bytes. */
static int read_segment(struct replicator *replicator, enum replica_frame_type type,
                        struct replica_frame *ret_frame, uint8_t *ret_body, size_t size,
                        struct fault *fault)
{
    uint8_t head[REPLICA_FRAME_HEAD_BYTES], body[REPLICA_TEXT_MAX + 1];
    struct replica_frame frame;

    static_assert(REPLICA_WELCOME_BYTES <= REPLICA_TEXT_MAX, "any answer fits");
    arm(replicator);
    int r = stream_read(replicator->link, head, sizeof head, fault);
    if (r == 0)
        r = replica_frame_get(head, false, &frame, fault);
    if (r == 0 && frame.body_bytes)
        r = stream_read(replicator->link, body, frame.body_bytes, fault);
    watch_disarm(replicator->watch);
    if (r == 0)
        r = replica_frame_judge(&frame, body, fault);
    if (r < 0)
        return r;
    body[frame.body_bytes] = 0;
    if (frame.type == REPLICA_FRAME_REFUSE)
        return fault_set(fault, ERR_REFUSED, "the replica refuses: %.300s", (char *)body);
    if (frame.type != type || frame.body_bytes != size)
        return fault_set(fault, ERR_CORRUPT, "the replica's answer is out of its turn");
    if (size)
        memcpy(ret_body, body, size);
    *ret_frame = frame;
    return 0;
}

/* ---- pages ---- */
static int write_frame(struct replicator *replicator, struct fault *fault)
{
    struct page_codec *codec = &replicator->codec;
    const uint8_t *bytes = NULL;
    uint64_t waited_ns = 0;
    size_t count = page_codec_encode(codec, &bytes);

    if (count == 0)
        return 0;
    replicator->pages += codec->frame.count;
    if (pacer_wait(replicator->pacer, count, &waited_ns) == PACER_E_CLOSED)
        return fault_set(fault, ERR_CANCELED, "the replication was stopped");
    int r = send_segment(replicator, REPLICA_FRAME_PAGES, replicator->core.sent.seq, bytes, count,
                         fault);
    page_tuner_step(&codec->tuner, world_now_ns(), (uint64_t)codec->frame.data_count * PAGE_BYTES,
                    replicator->link->wait_out_ns);
    return r;
}

static uint32_t frame_round(const struct replicator *replicator)
{
    return 1 + (uint32_t)(replicator->core.sent.seq % INT32_MAX);
}

/* Where a zero page need not be told of: the replica takes what is not named for zero. */
static void take_page(struct replicator *replicator, struct part *part, uint64_t page,
                      const uint8_t *from)
{
    struct page_codec *codec = &replicator->codec;
    uint8_t *slot = page_codec_slot(codec);
    uint64_t hash = 0;

    if (page_copy(slot, from)) {
        hash = page_digest_hash(slot);
        page_codec_add_data(codec, (unsigned)(page % BLOCK_PAGES));
    } else if (replicator->is_whole && page_digest_get(&part->digest, page) == 0) {
        return;
    } else {
        page_codec_add_zero(codec, (unsigned)(page % BLOCK_PAGES));
    }
    page_digest_set(&part->digest, page, hash, &replicator->sum);
    replicator->running = page_digest_fold(replicator->running, page, hash);
}

/* `from` NULL: the guest's own pages; else copies, one behind the other. */
static int send_block(struct replicator *replicator, struct part *part,
                      const struct page_batch *batch, const uint8_t **from, struct fault *fault)
{
    struct page_codec *codec = &replicator->codec;
    const struct region *region = part->region;
    int r = 0;

    page_codec_begin(codec, region->id, batch->first_page, frame_round(replicator));
    for (unsigned i = 0; r == 0 && i < PAGE_BATCH_WORDS; i++) {
        for (uint64_t word = batch->mask[i]; r == 0 && word; word &= word - 1) {
            uint64_t page = batch->first_page + i * 64 + (unsigned)__builtin_ctzll(word);
            take_page(replicator, part, page, from ? *from : region->base + page * PAGE_BYTES);
            if (from)
                *from += PAGE_BYTES;
            if (codec->frame.count < PAGE_FRAME_PAGES_MAX)
                continue;
            r = write_frame(replicator, fault);
            page_codec_begin(codec, region->id, batch->first_page, frame_round(replicator));
        }
    }
    return r < 0 ? r : write_frame(replicator, fault);
}

static void move_block(struct part *part, const struct page_batch *batch)
{
    size_t first = (size_t)(batch->first_page / 64), words = bitmap_words(&part->pending);
    for (size_t i = 0; i < PAGE_BATCH_WORDS && first + i < words; i++) {
        part->owed.words[first + i] |= batch->mask[i];
        part->pending.words[first + i] &= ~batch->mask[i];
    }
}

static int collect(struct replicator *replicator, struct fault *fault)
{
    for (unsigned i = 0; i < replicator->count; i++) {
        struct part *part = &replicator->parts[i];
        int r = part->region->ops->collect(part->region, &part->pending, fault);
        if (r < 0) {
            replicator->guest_failed = true;
            return fault_wrap(fault, r, "reading what was written of '%s'", part->region->name);
        }
    }
    return 0;
}

static uint64_t pending_pages(const struct replicator *replicator)
{
    uint64_t pages = 0;
    for (unsigned i = 0; i < replicator->count; i++)
        pages += bitmap_count(&replicator->parts[i].pending);
    return pages;
}

/* All that is pending, while the guest runs. INV-5: cleared before it is read. */
static int send_round(struct replicator *replicator, struct fault *fault)
{
    int r = 0;
    for (unsigned i = 0; r == 0 && i < replicator->count; i++) {
        struct part *part = &replicator->parts[i];
        struct page_scan scan;
        struct page_batch batch;
        page_scan_init(&scan, &part->pending, i);
        while (r == 0 && page_scan_next(&scan, &batch)) {
            r = part->region->ops->clear(part->region, batch.first_page, batch.mask, fault);
            replicator->guest_failed |= r < 0;
            if (r < 0)
                break;
            move_block(part, &batch);
            r = send_block(replicator, part, &batch, NULL, fault);
        }
    }
    return r;
}

/* Smaller the dirty set, while that goes quickly: what is left stands for the pause. */
static int send_rounds(struct replicator *replicator, struct fault *fault)
{
    uint64_t before = UINT64_MAX;

    for (unsigned round = 0; round < ROUNDS_BEFORE_CUT_MAX; round++) {
        int r = collect(replicator, fault);
        if (r < 0)
            return r;
        uint64_t pages = pending_pages(replicator);
        (void)pthread_mutex_lock(&replicator->lock);
        replicator->status.owed_pages = pages;
        (void)pthread_mutex_unlock(&replicator->lock);
        bool shrinks = pages < before - before / 8;
        if (pages * PAGE_BYTES <= COPY_BYTES_EASY || (!shrinks && pages <= replicator->aside_pages))
            return 0;
        before = pages;
        r = send_round(replicator, fault);
        if (r < 0)
            return r;
    }
    return 0;
}

/* ---- the cut ---- */
/* While the guest stands still. Positive: too much to copy, nothing was done. */
enum { E_TOO_MUCH = 1 };

static int copy_aside(struct replicator *replicator, struct fault *fault)
{
    uint8_t *to = replicator->aside;

    int r = collect(replicator, fault);
    if (r < 0)
        return r;
    if (pending_pages(replicator) > replicator->aside_pages)
        return E_TOO_MUCH;
    for (unsigned i = 0; i < replicator->count; i++) {
        struct part *part = &replicator->parts[i];
        r = part->region->ops->clear_many(part->region, &part->pending, fault);
        if (r < 0)
            return r; /* all is pending still */
    }
    for (unsigned i = 0; i < replicator->count; i++) {
        struct part *part = &replicator->parts[i];
        bitmap_clear_all(&part->cut);
        bitmap_or(&part->cut, &part->pending);
        bitmap_or(&part->owed, &part->pending);
        bitmap_clear_all(&part->pending);
        for (uint64_t page = bitmap_next_set(&part->cut, 0); page != BITMAP_NONE;
             page = bitmap_next_set(&part->cut, page + 1)) {
            memcpy(to, part->region->base + page * PAGE_BYTES, PAGE_BYTES);
            to += PAGE_BYTES;
        }
    }
    return 0;
}

static int stand_and_copy(struct replicator *replicator, struct fault *fault)
{
    struct guest *guest = replicator->config.guest;

    free(replicator->state);
    replicator->state = NULL;
    /* Also with disks only: what they were asked for has ended and is on them after it. */
    int r = guest->ops->save(guest->owner, &replicator->state, &replicator->state_bytes, fault);
    if (r < 0)
        return fault_wrap(fault, r, "saving the machine");
    if (replicator->state_bytes == 0 || replicator->state_bytes > MACHINE_STATE_MAX)
        return fault_set(fault, ERR_LIMIT, "a machine state of %zu bytes", replicator->state_bytes);
    return copy_aside(replicator, fault);
}

/* The guest stands still only in here, unless it is the last one. */
static int cut(struct replicator *replicator, bool is_last, struct fault *fault)
{
    struct guest *guest = replicator->config.guest;

    uint64_t begun_ns = world_now_ns();
    guest->ops->pause(guest->owner);
    int r = stand_and_copy(replicator, fault);
    replicator->guest_is_held = is_last && r == 0;
    if (!replicator->guest_is_held && guest->was_running) {
        struct fault broken = {0};
        int resumed = guest->ops->resume(guest->owner, &broken);
        if (resumed < 0) {
            replicator->guest_failed = true;
            *fault = broken;
            return fault_wrap(fault, resumed, "letting the guest run on");
        }
    }
    uint64_t pause_ns = world_now_ns() - begun_ns;
    (void)pthread_mutex_lock(&replicator->lock);
    replicator->status.pause_all_ns += pause_ns;
    if (r == 0) {
        replica_pace_cut(&replicator->pace, begun_ns, pause_ns);
        replicator->status.pause_ns = pause_ns;
    }
    (void)pthread_mutex_unlock(&replicator->lock);
    if (r == E_TOO_MUCH)
        return fault_set(fault, ERR_BUSY,
                         "the guest writes more than %llu MiB between two rounds: no checkpoint",
                         (unsigned long long)(replicator->aside_pages * PAGE_BYTES >> 20));
    replicator->guest_failed |= r < 0 && r != ERR_TIMEOUT && r != ERR_BUSY;
    return r;
}

/* ---- shipping ---- */
static int send_cut(struct replicator *replicator, struct fault *fault)
{
    const uint8_t *from = replicator->aside;
    int r = 0;
    for (unsigned i = 0; r == 0 && i < replicator->count; i++) {
        struct page_scan scan;
        struct page_batch batch;
        page_scan_init(&scan, &replicator->parts[i].cut, i);
        while (r == 0 && page_scan_next(&scan, &batch))
            r = send_block(replicator, &replicator->parts[i], &batch, &from, fault);
    }
    return r;
}

static int send_commit(struct replicator *replicator, struct fault *fault)
{
    bool has_state = replicator->config.ram_count != 0;
    uint64_t seq = replicator->core.sent.seq;
    uint8_t body[REPLICA_COMMIT_BYTES];
    const struct replica_commit commit = {
        .pages = replicator->pages,
        .running = replicator->running,
        .sum = replicator->sum,
        .state = has_state ? replica_frame_digest(replicator->state, replicator->state_bytes) : 0,
        .wall_ms = world_wall_ms(),
        .is_whole = replicator->is_whole,
    };

    int r = has_state ? send_segment(replicator, REPLICA_FRAME_STATE, seq, replicator->state,
                                     replicator->state_bytes, fault)
                      : 0;
    if (r < 0)
        return r;
    replicator_core_cut(&replicator->core, replicator->sum);
    replica_commit_put(&commit, body);
    return send_segment(replicator, REPLICA_FRAME_COMMIT, seq, body, sizeof body, fault);
}

static void forget_owed(struct replicator *replicator)
{
    for (unsigned i = 0; i < replicator->count; i++)
        bitmap_clear_all(&replicator->parts[i].owed);
}

/* It is held: nothing of it is owed any more. */
static void on_held(struct replicator *replicator)
{
    forget_owed(replicator);
    replicator->is_whole = false;
    if (replicator->aside_pages * PAGE_BYTES > COPY_BYTES_EASY)
        (void)madvise(replicator->aside + COPY_BYTES_EASY,
                      replicator->aside_pages * PAGE_BYTES - COPY_BYTES_EASY, MADV_DONTNEED);
    (void)pthread_mutex_lock(&replicator->lock);
    uint64_t now_ns = world_now_ns();
    struct replicator_status *status = &replicator->status;
    status->ship_ns = now_ns - replicator->pace.cut_ns;
    replica_pace_held(&replicator->pace, now_ns);
    status->rpo_worst_ns = replicator->pace.rpo_reached_ns;
    status->held = replicator->core.held;
    status->sum = replicator->core.held_sum;
    status->checkpoints++;
    status->pages += replicator->pages;
    status->owed_pages = 0;
    status->trouble = (struct fault){0};
    (void)pthread_mutex_unlock(&replicator->lock);
}

static bool is_asked_to_finish(struct replicator *replicator)
{
    (void)pthread_mutex_lock(&replicator->lock);
    bool asked = replicator->finish_until_ns != 0;
    (void)pthread_mutex_unlock(&replicator->lock);
    return asked;
}

/* One checkpoint, from its first page to HELD. */
static int ship_one(struct replicator *replicator, struct fault *fault)
{
    struct replica_frame answer;

    replicator->in_cut = false;
    if (replicator->core.sent.seq == 0) { /* else: what was cut too large goes on */
        (void)replicator_core_begin(&replicator->core);
        replicator->running = replicator->pages = 0;
    }
    int r = send_rounds(replicator, fault);
    if (r < 0)
        return r;
    replicator->in_cut = true;
    r = cut(replicator, is_asked_to_finish(replicator), fault);
    if (r < 0)
        return r;
    replicator->in_cut = false;
    r = send_cut(replicator, fault);
    if (r == 0)
        r = send_commit(replicator, fault);
    if (r == 0)
        r = read_segment(replicator, REPLICA_FRAME_HELD, &answer, NULL, 0, fault);
    if (r == 0)
        r = replicator_core_held(&replicator->core, &answer.id, fault);
    if (r < 0)
        return r;
    on_held(replicator);
    tell(replicator);
    return 0;
}

/* ---- a link ---- */
/* The image is begun anew: everything that has memory, and what is written from here on. */
static int begin_whole(struct replicator *replicator, struct fault *fault)
{
    replicator->sum = 0;
    for (unsigned i = 0; i < replicator->count; i++) {
        struct part *part = &replicator->parts[i];
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
    struct replica_held held;
    enum replicator_owes owes = REPLICATOR_OWES_WHOLE;

    int r = send_segment(replicator, REPLICA_FRAME_HELLO, 0, replicator->shape,
                         strlen(replicator->shape), fault);
    if (r == 0)
        r = read_segment(replicator, REPLICA_FRAME_WELCOME, &answer, body, sizeof body, fault);
    if (r == 0)
        r = replica_held_get(body, &held, fault);
    if (r == 0)
        r = replicator_core_linked(&replicator->core, &held, &owes, fault);
    if (r < 0)
        return r;
    replicator->is_whole = owes == REPLICATOR_OWES_WHOLE;
    for (unsigned i = 0; owes == REPLICATOR_OWES_SENT && i < replicator->count; i++)
        bitmap_or(&replicator->parts[i].pending, &replicator->parts[i].owed);
    forget_owed(replicator);
    return owes == REPLICATOR_OWES_WHOLE ? begin_whole(replicator, fault) : 0;
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
    tell(replicator);
}

static uint64_t next_cut_ns(struct replicator *replicator)
{
    (void)pthread_mutex_lock(&replicator->lock);
    uint64_t next_ns = replica_pace_next_ns(&replicator->pace);
    (void)pthread_mutex_unlock(&replicator->lock);
    return next_ns;
}

/* Nobody waits for a last checkpoint any more. */
static void give_up_finish(struct replicator *replicator)
{
    (void)pthread_mutex_lock(&replicator->lock);
    if (replicator->finish_until_ns && world_now_ns() >= replicator->finish_until_ns)
        replicator->finish_until_ns = 0;
    (void)pthread_mutex_unlock(&replicator->lock);
}

/* Before another attempt; who waits for a last checkpoint does not shorten it to nothing. */
static void rest(struct replicator *replicator, uint64_t ms)
{
    const struct timespec least = {.tv_nsec = RETRY_MS_MIN * 1000000L};

    if (is_asked_to_finish(replicator))
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
            await(replicator, next_cut_ns(replicator));
        if (is_stopping(replicator))
            break;
        int r = ship_one(replicator, fault);
        if (r < 0 && !is_passing(replicator, r))
            return r;
        if (r < 0) {
            note_trouble(replicator, fault);
            give_up_finish(replicator);
            tell(replicator);
            rest(replicator, RETRY_MS_MIN);
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
    replicator->guest_is_held = false;
    return guest->was_running ? guest->ops->resume(guest->owner, fault) : 0;
}

static int track(struct replicator *replicator, struct fault *fault)
{
    for (unsigned i = 0; i < replicator->count; i++) {
        struct part *part = &replicator->parts[i];
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
        struct part *part = &replicator->parts[i];
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
        give_up_finish(replicator);
        tell(replicator);
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
    struct part *part = &replicator->parts[replicator->count++];

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
        guest->region_count > PARTS_MAX || config->ram_count + config->disk_count == 0)
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
        r = page_codec_init(&replicator->codec, PAGE_TUNER_AUTO, fault);
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
    }
    if (replicator->aside)
        (void)munmap(replicator->aside, replicator->aside_pages * PAGE_BYTES);
    (void)pacer_free(replicator->pacer);
    page_codec_deinit(&replicator->codec);
    free(replicator->state);
    (void)pthread_cond_destroy(&replicator->changed);
    (void)pthread_mutex_destroy(&replicator->lock);
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

/* One checkpoint: rounds while the guest runs, the cut, and what follows it on the link. */
#include "migrate/replicator_inside.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/log.h"
#include "base/world.h"
#include "migrate/guest.h"
#include "migrate/pacer.h"
#include "migrate/page_copy.h"
#include "migrate/page_scan.h"
#include "migrate/region.h"
#include "migrate/watch.h"
#include "net/stream.h"

enum {
    ROUNDS_BEFORE_CUT_MAX = 8,
    READ_PAGES_EASY = 64, /* of disks: read from their medium in the pause */
};

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

int replicator_send(struct replicator *replicator, enum replica_frame_type type, uint64_t seq,
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

static int read_long(struct replicator *replicator, const struct replica_frame *frame,
                     struct replica_frame *ret_frame, uint8_t *ret_body, struct fault *fault)
{
    int r = stream_read(replicator->link, ret_body, frame->body_bytes, fault);
    watch_disarm(replicator->watch);
    if (r == 0)
        r = replica_frame_judge(frame, ret_body, fault);
    if (r == 0)
        *ret_frame = *frame;
    return r;
}

/* A segment of the replica that must be of this type, with a body of `size` bytes (HAVE: at most).
 */
int replicator_read(struct replicator *replicator, enum replica_frame_type type,
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
    if (r == 0 && frame.type != type && frame.type != REPLICA_FRAME_REFUSE)
        r = fault_set(fault, ERR_CORRUPT, "the replica's answer is out of its turn");
    if (r == 0 && frame.body_bytes > (frame.type == type ? size : REPLICA_TEXT_MAX))
        r = fault_set(fault, ERR_CORRUPT, "the replica's answer is too long");
    if (r == 0 && frame.type == type && type == REPLICA_FRAME_HAVE)
        return read_long(replicator, &frame, ret_frame, ret_body, fault);
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
    size_t count = page_codec_encode(codec, NULL, &bytes);

    if (count == 0)
        return 0;
    replicator->pages += codec->frame.count;
    if (pacer_wait(replicator->pacer, count, &waited_ns) == PACER_E_CLOSED)
        return fault_set(fault, ERR_CANCELED, "the replication was stopped");
    int r = replicator_send(replicator, REPLICA_FRAME_PAGES, replicator->core.sent.seq, bytes,
                            count, fault);
    page_codec_sent(codec, replicator->link, 0);
    return r;
}

static uint32_t frame_round(const struct replicator *replicator)
{
    return 1 + (uint32_t)(replicator->core.sent.seq % INT32_MAX);
}

/* Where a zero page need not be told of: the replica takes what is not named for zero. */
static void take_page(struct replicator *replicator, struct replicator_part *part, uint64_t page,
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
static int send_block(struct replicator *replicator, struct replicator_part *part,
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

static void move_block(struct replicator_part *part, const struct page_batch *batch)
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
        struct replicator_part *part = &replicator->parts[i];
        int r = part->region->ops->collect(part->region, &part->pending, fault);
        if (r < 0) {
            replicator->guest_failed = true;
            return fault_wrap(fault, r, "reading what was written of '%s'", part->region->name);
        }
    }
    return 0;
}

static uint64_t pending_pages(const struct replicator *replicator, unsigned first_part)
{
    uint64_t pages = 0;
    for (unsigned i = first_part; i < replicator->count; i++)
        pages += bitmap_count(&replicator->parts[i].pending);
    return pages;
}

/* All that is pending from that part on, while the guest runs. INV-5: cleared before it is read. */
static int send_round(struct replicator *replicator, unsigned first_part, struct fault *fault)
{
    int r = 0;
    for (unsigned i = first_part; r == 0 && i < replicator->count; i++) {
        struct replicator_part *part = &replicator->parts[i];
        struct page_scan scan;
        struct page_batch batch;
        page_scan_init(&scan, &part->pending, i);
        while (r == 0 && page_scan_next(&scan, &batch)) {
            r = part->region->ops->clear(part->region, batch.first_page, batch.mask, fault);
            replicator->guest_failed |= r < 0;
            if (r < 0)
                break;
            move_block(part, &batch);
            if (part->have)
                r = replicator_keep_blocks(replicator, part, &batch, fault);
            if (r == 0)
                r = send_block(replicator, part, &batch, NULL, fault);
        }
    }
    return r;
}

/* Smaller the dirty set, while that goes quickly: what is left stands for the pause. What is in memory
 * is copied so quickly that a little is left for it at once; what a disk has, is read from its medium,
 * page by page: one round of it in any case. */
static int send_rounds(struct replicator *replicator, struct fault *fault)
{
    uint64_t before = UINT64_MAX;

    for (unsigned round = 0; round < ROUNDS_BEFORE_CUT_MAX; round++) {
        int r = collect(replicator, fault);
        if (r < 0)
            return r;
        unsigned disks = replicator->config.ram_count; /* RAM's parts are first */
        uint64_t pages = pending_pages(replicator, 0);
        (void)pthread_mutex_lock(&replicator->lock);
        replicator->status.owed_pages = pages;
        (void)pthread_mutex_unlock(&replicator->lock);
        bool shrinks = pages < before - before / 8;
        bool compares =
            round == 0 && replicator_knows_blocks(replicator); /* while the guest runs */
        bool is_easy = pages * PAGE_BYTES <= REPLICATOR_COPY_BYTES_EASY;
        bool reads = round == 0 && pending_pages(replicator, disks) > READ_PAGES_EASY;
        if (!compares && !reads && (is_easy || (!shrinks && pages <= replicator->aside_pages)))
            return 0;
        before = pages;
        r = send_round(replicator, is_easy ? disks : 0, fault);
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
    if (pending_pages(replicator, 0) > replicator->aside_pages)
        return E_TOO_MUCH;
    for (unsigned i = 0; i < replicator->count; i++) {
        struct replicator_part *part = &replicator->parts[i];
        r = part->region->ops->clear_many(part->region, &part->pending, fault);
        if (r < 0)
            return r; /* all is pending still */
    }
    for (unsigned i = 0; i < replicator->count; i++) {
        struct replicator_part *part = &replicator->parts[i];
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
    return collect(replicator, fault); /* a disk that failed under the copying says so here */
}

/* The time since `*from_ns`, which becomes now. */
static uint64_t lap(uint64_t *from_ns)
{
    uint64_t now_ns = world_now_ns(), took_ns = now_ns - *from_ns;

    *from_ns = now_ns;
    return took_ns;
}

static int stand_and_copy(struct replicator *replicator, uint64_t begun_ns, struct fault *fault)
{
    struct guest *guest = replicator->config.guest;
    uint64_t lap_ns = begun_ns;

    guest->ops->pause(guest->owner);
    replicator->stop_ns = lap(&lap_ns);
    free(replicator->state);
    replicator->state = NULL;
    /* Also with disks only: what they were asked for has ended and is on them after it. */
    int r = guest->ops->save(guest->owner, &replicator->state, &replicator->state_bytes, fault);
    replicator->save_ns = lap(&lap_ns);
    if (r < 0)
        return fault_wrap(fault, r, "saving the machine");
    if (replicator->state_bytes == 0 || replicator->state_bytes > MACHINE_STATE_MAX)
        return fault_set(fault, ERR_LIMIT, "a machine state of %zu bytes", replicator->state_bytes);
    r = copy_aside(replicator, fault);
    replicator->copy_ns = lap(&lap_ns);
    return r;
}

/* The guest stands still only in here, unless it is the last one. */
static int cut(struct replicator *replicator, bool is_last, struct fault *fault)
{
    struct guest *guest = replicator->config.guest;

    replicator_hold(replicator);
    uint64_t begun_ns = world_now_ns();
    replicator->cut_wall_ms = world_wall_ms();
    int r = stand_and_copy(replicator, begun_ns, fault);
    replicator->guest_is_held = is_last && r == 0;
    struct fault broken = {0};
    int resumed = !replicator->guest_is_held && guest->was_running
                      ? guest->ops->resume(guest->owner, &broken)
                      : 0;
    replicator_release(replicator);
    if (resumed < 0) {
        replicator->guest_failed = true;
        *fault = broken;
        return fault_wrap(fault, resumed, "letting the guest run on");
    }
    uint64_t pause_ns = world_now_ns() - begun_ns;
    (void)pthread_mutex_lock(&replicator->lock);
    replicator->status.pause_all_ns += pause_ns;
    replicator->stood_ns = pause_ns;
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
        .wall_ms = replicator->cut_wall_ms,
        .is_whole = replicator->is_whole,
    };

    int r = has_state ? replicator_send(replicator, REPLICA_FRAME_STATE, seq, replicator->state,
                                        replicator->state_bytes, fault)
                      : 0;
    if (r < 0)
        return r;
    replicator_core_cut(&replicator->core, replicator->sum);
    replica_commit_put(&commit, body);
    return replicator_send(replicator, REPLICA_FRAME_COMMIT, seq, body, sizeof body, fault);
}

void replicator_forget_owed(struct replicator *replicator)
{
    for (unsigned i = 0; i < replicator->count; i++)
        bitmap_clear_all(&replicator->parts[i].owed);
}

/* It is held: nothing of it is owed any more. */
static void on_held(struct replicator *replicator)
{
    replicator_forget_owed(replicator);
    replicator_forget_blocks(replicator);
    replicator->is_whole = replicator->has_kept = false;
    if (replicator->aside_pages * PAGE_BYTES > REPLICATOR_COPY_BYTES_EASY)
        (void)madvise(replicator->aside + REPLICATOR_COPY_BYTES_EASY,
                      replicator->aside_pages * PAGE_BYTES - REPLICATOR_COPY_BYTES_EASY,
                      MADV_DONTNEED);
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
    log_debug("replicator",
              "checkpoint vm=%s seq=%llu rpo_us=%llu ship_us=%llu pause_us=%llu stop_us=%llu "
              "save_us=%llu copy_us=%llu pages=%llu",
              replicator->config.guest->vm_id, (unsigned long long)status->held.seq,
              (unsigned long long)(status->rpo_worst_ns / 1000),
              (unsigned long long)(status->ship_ns / 1000),
              (unsigned long long)(status->pause_ns / 1000),
              (unsigned long long)(replicator->stop_ns / 1000),
              (unsigned long long)(replicator->save_ns / 1000),
              (unsigned long long)(replicator->copy_ns / 1000), (unsigned long long)replicator->pages);
    (void)pthread_mutex_unlock(&replicator->lock);
}

/* One checkpoint, from its first page to HELD. */
int replicator_ship_one(struct replicator *replicator, struct fault *fault)
{
    struct replica_frame answer;

    replicator->in_cut = false;
    if (replicator->core.sent.seq == 0) { /* else: what was cut too large goes on */
        (void)replicator_core_begin(&replicator->core);
        replicator->running = replicator->pages = 0;
    }
    (void)pthread_mutex_lock(&replicator->lock);
    replica_pace_begin(&replicator->pace, world_now_ns());
    (void)pthread_mutex_unlock(&replicator->lock);
    int r = send_rounds(replicator, fault);
    if (r < 0)
        return r;
    replicator_give_up_finish(replicator);
    replicator->in_cut = true;
    r = cut(replicator, replicator_is_finishing(replicator), fault);
    if (r < 0)
        return r;
    replicator->in_cut = false;
    r = send_cut(replicator, fault);
    if (r == 0)
        r = send_commit(replicator, fault);
    if (r == 0)
        r = replicator_read(replicator, REPLICA_FRAME_HELD, &answer, NULL, 0, fault);
    if (r == 0)
        r = replicator_core_held(&replicator->core, &answer.id, fault);
    if (r < 0)
        return r;
    on_held(replicator);
    replicator_tell(replicator);
    return 0;
}

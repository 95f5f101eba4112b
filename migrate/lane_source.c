/* Happy path of one batch: clear its dirty bits, copy each page once into the frame (finding zeros
 * on the way), hash the copy, encode, write. What the guest writes after the clear shows in the
 * next round; what it writes between clear and copy is in the copy or in the next round or in both.
 */
#include "migrate/lane_source.h"

#include <assert.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

#include "base/failpoint.h"
#include "base/handoff.h"
#include "base/own.h"
#include "base/thread.h"
#include "base/world.h"
#include "migrate/lane_write.h"
#include "migrate/pacer.h"
#include "migrate/page_batch.h"
#include "migrate/page_codec.h"
#include "migrate/page_copy.h"
#include "migrate/page_digest.h"
#include "migrate/progress.h"
#include "migrate/region.h"
#include "net/stream.h"
#include "proto/page_frame.h"

struct lane_source {
    /* set before start, read by all */
    struct lane_source_config config;
    struct stream *stream; /* owned */
    struct handoff *batches;
    pthread_t thread;
    bool started;

    /* the lane's own */
    struct page_codec codec;
    struct page_delta_pace pace;
    struct lane_report report;
    uint64_t running;      /* digest of this round */
    uint64_t frames;       /* of this round */
    uint64_t wire_bytes;   /* told to progress so far */
    uint64_t held_back_ns; /* of all rounds */
    bool hot, ended;
};

static void lane_source_freep(struct lane_source **lane)
{
    *lane = lane_source_free(*lane);
}

/* Bytes that were changed on the way are no broken link: they would be changed again. */
static int link_fault(struct lane_source *lane, int r)
{
    lane->report.link_lost = r != ERR_CORRUPT && r != ERR_CANCELED;
    return r;
}

static int write_frame(struct lane_source *lane, struct fault *fault)
{
    struct page_codec *codec = &lane->codec;
    const uint8_t *bytes = NULL;
    struct page_mix_road road;
    bool sees = page_codec_look_ahead(codec, lane->stream, lane->config.pacer, &road);
    road.in_pause = lane->hot;
    size_t count = page_codec_encode(codec, sees ? &road : NULL, &bytes);
    if (count == 0)
        return 0;

    if (!lane->hot) {
        uint64_t waited_ns = 0;
        if (pacer_wait(lane->config.pacer, count, &waited_ns) == PACER_E_CLOSED)
            return fault_set(fault, ERR_CANCELED, "the move was stopped");
        lane->report.held_back_ns += waited_ns;
        lane->held_back_ns += waited_ns;
    }
    int r = lane_write(lane->stream, FAILPOINT_SOURCE_FRAME, bytes, count, fault);
    if (r < 0)
        return link_fault(lane, r);
    lane->frames++;
    page_codec_sent(codec, lane->stream, lane->held_back_ns);
    page_delta_pace_step(&lane->pace, world_now_ns(),
                         (uint64_t)codec->frame.data_count * PAGE_BYTES,
                         lane->stream->wait_out_ns + lane->held_back_ns);
    return 0;
}

/* How the page in the slot, which is not zero, has to go. `before`: the hash of the target's. */
static enum page_delta_answer judge_delta(struct lane_source *lane, const struct region *region,
                                          struct page_delta *delta, uint64_t page, uint64_t before,
                                          uint64_t hash, uint64_t *ret_lines)
{
    if (region->ops->write)
        return PAGE_DELTA_WHOLE; /* a target would have to read its medium to lay a patch over a page, in the pause too */
    if (!page_delta_pace_wants(&lane->pace, before != 0)) {
        page_delta_forget(delta, page);
        return PAGE_DELTA_WHOLE;
    }
    bool was_known = page_delta_is_known(delta, page);
    enum page_delta_answer answer =
        page_delta_step(delta, page, page_codec_slot(&lane->codec), before == 0, ret_lines);
    if (was_known)
        page_delta_pace_learn(&lane->pace, answer);
    if (answer == PAGE_DELTA_SAME && hash != before)
        return PAGE_DELTA_WHOLE; /* lines that only look the same */
    return answer;
}

/* Copy one page into the frame and account for it. */
static void take_page(struct lane_source *lane, const struct page_batch *batch, uint64_t page)
{
    const struct region *region = &lane->config.regions[batch->region];
    struct page_digest *digest = &lane->config.digests[batch->region];
    struct page_delta *delta = &lane->config.deltas[batch->region];
    struct page_codec *codec = &lane->codec;
    uint8_t *slot = page_codec_slot(codec);
    unsigned in_block = (unsigned)(page % BLOCK_PAGES);

    lane->report.pages++;
    uint64_t hash = 0, before = page_digest_get(digest, page), lines = 0;
    if (page_copy(slot, region->base + page * PAGE_BYTES)) {
        hash = page_digest_hash(slot);
        switch (judge_delta(lane, region, delta, page, before, hash, &lines)) {
        case PAGE_DELTA_WHOLE:
            page_codec_add_data(codec, in_block);
            break;
        case PAGE_DELTA_PATCH:
            page_codec_add_patch(codec, in_block, lines);
            break;
        case PAGE_DELTA_SAME:
            lane->report.same_pages++;
            return;
        }
    } else {
        lane->report.zero_pages++;
        if (before == 0)
            return; /* zero, and the target's is zero still: nothing to say */
        page_delta_forget(delta, page);
        page_codec_add_zero(codec, in_block);
    }
    page_digest_set(digest, page, hash, &lane->report.digest_sum);
    lane->running = page_digest_fold(lane->running, page, hash);
}

static void tell_progress(struct lane_source *lane, uint64_t pages, uint64_t zero_pages)
{
    uint64_t wire = lane->stream->wire_bytes_out;
    progress_add(lane->config.progress, pages, zero_pages, wire - lane->wire_bytes);
    lane->wire_bytes = wire;
}

static int send_pages(struct lane_source *lane, struct page_batch *batch, struct fault *fault)
{
    const struct region *region = &lane->config.regions[batch->region];
    uint64_t pages = lane->report.pages, zero_pages = lane->report.zero_pages;

    batch->begun_ns = world_now_ns();
    /* INV-5: cleared before it is read. In the pause nobody writes and tracking ends with the move:
     * nothing to clear. */
    batch->begun = true;
    if (!lane->hot) {
        int r = failpoint_check(FAILPOINT_SOURCE_CLEAR, fault);
        if (r == 0)
            r = region->ops->clear((struct region *)region, batch->first_page, batch->mask, fault);
        if (r < 0)
            return r;
    }
    page_codec_begin(&lane->codec, region->id, batch->first_page, lane->report.round);
    for (unsigned i = 0; i < PAGE_BATCH_WORDS; i++) {
        for (uint64_t word = batch->mask[i]; word; word &= word - 1) {
            uint64_t page = batch->first_page + i * 64 + (unsigned)__builtin_ctzll(word);
            assert(page < region->pages);
            take_page(lane, batch, page);
            if (lane->codec.frame.count < PAGE_FRAME_PAGES_MAX)
                continue;
            int r = write_frame(lane, fault);
            if (r < 0)
                return r;
            page_codec_begin(&lane->codec, region->id, batch->first_page, lane->report.round);
        }
    }
    int r = write_frame(lane, fault);
    if (r < 0)
        return r;
    tell_progress(lane, lane->report.pages - pages, lane->report.zero_pages - zero_pages);
    batch->round = lane->report.round;
    batch->frames_end = lane->frames;
    batch->running_end = lane->running;
    batch->done = true;
    return 0;
}

static int read_answer(struct lane_source *lane, struct fault *fault)
{
    uint8_t bytes[PAGE_FRAME_HEADER_BYTES];
    int r = stream_read(lane->stream, bytes, sizeof bytes, fault);
    if (r < 0)
        return link_fault(lane, r);
    struct page_frame answer;
    r = page_frame_get(bytes, &answer, fault);
    if (r < 0)
        return r;
    if (answer.type != PAGE_FRAME_ANSWER || answer.round != lane->report.round ||
        answer.digest != lane->running)
        return fault_set(fault, ERR_CORRUPT, "the target's answer does not fit round %u",
                         lane->report.round);
    return 0;
}

static void finish_report(struct lane_source *lane, enum lane_report_type type)
{
    struct lane_report *report = &lane->report;
    report->type = type;
    report->raw_pages = lane->codec.raw_pages;
    report->lz4_pages = lane->codec.lz4_pages;
    report->lz4_bytes = lane->codec.lz4_bytes;
    report->zstd_pages = lane->codec.zstd_pages;
    report->zstd_bytes = lane->codec.zstd_bytes;
    report->patch_pages = lane->codec.patch_pages;
    report->patch_bytes = lane->codec.patch_bytes;
    report->wire_bytes = lane->stream->wire_bytes_out;
    report->cpu_ns = world_thread_cpu_ns();
    lane->config.report(lane->config.data, report);
}

static void begin_round(struct lane_source *lane, unsigned round)
{
    lane->codec.raw_pages = lane->codec.lz4_pages = lane->codec.lz4_bytes = 0;
    lane->codec.zstd_pages = lane->codec.zstd_bytes = 0;
    lane->codec.patch_pages = lane->codec.patch_bytes = 0;
    lane->report = (struct lane_report){
        .lane = lane->config.lane, .round = round, .digest_sum = lane->report.digest_sum};
    lane->running = lane->frames = 0;
}

static int send_fence(struct lane_source *lane, enum page_batch_type type, struct fault *fault)
{
    struct page_frame fence = {.round = lane->report.round, .digest = lane->running};
    fence.type = type == PAGE_BATCH_FENCE       ? PAGE_FRAME_FENCE
                 : type == PAGE_BATCH_FENCE_HOT ? PAGE_FRAME_FENCE_HOT
                                                : PAGE_FRAME_FENCE_LAST;
    uint8_t bytes[PAGE_FRAME_HEAD_MAX];
    unsigned count = page_frame_put(&fence, NULL, bytes);

    int r = lane_write(lane->stream, FAILPOINT_SOURCE_FENCE, bytes, count, fault);
    if (r == 0)
        r = stream_flush(lane->stream, fault);
    if (r < 0)
        return link_fault(lane, r);
    if (type == PAGE_BATCH_FENCE_LAST) {
        tell_progress(lane, 0, 0);
        finish_report(lane, LANE_REPORT_LAST);
        lane->ended = true;
        return 0;
    }
    if (type == PAGE_BATCH_FENCE_HOT) {
        lane->hot = true;
        thread_hurry();
        stream_set_hot(lane->stream, lane->config.may_spin);
    }
    uint64_t asked_ns = world_now_ns();
    r = read_answer(lane, fault);
    if (r < 0)
        return r;
    lane->report.round_trip_ns = world_now_ns() - asked_ns;
    tell_progress(lane, 0, 0);
    finish_report(lane, type == PAGE_BATCH_FENCE ? LANE_REPORT_FENCE : LANE_REPORT_HOT);
    begin_round(lane, lane->report.round + 1);
    page_tuner_idle(&lane->codec.tuner);
    return 0;
}

static struct page_batch *next_batch(struct lane_source *lane)
{
    if (lane->hot && lane->config.may_spin) {
        uint64_t until_ns = world_now_ns() + LANE_SPIN_NS;
        do {
            struct page_batch *batch = handoff_try_take(lane->batches);
            if (batch)
                return batch;
            sched_yield();
        } while (world_now_ns() < until_ns);
    }
    return handoff_take(lane->batches);
}

static void *lane_source_run(void *data)
{
    struct lane_source *lane = data;
    struct page_batch *batch;
    struct fault fault = {0};
    int r = 0;
    thread_begin("lane out");
    thread_give_way();

    lane->report.digest_sum = lane->config.digest_sum;
    begin_round(lane, 1);
    while (r == 0 && !lane->ended && (batch = next_batch(lane)))
        r = batch->type == PAGE_BATCH_PAGES ? send_pages(lane, batch, &fault)
                                            : send_fence(lane, batch->type, &fault);
    if (r == 0 && !lane->ended)
        r = fault_set(&fault, ERR_CANCELED, "stopped");
    if (r < 0) {
        tell_progress(lane, 0, 0);
        (void)fault_wrap(&fault, r, "lane %u, round %u", lane->config.lane, lane->report.round);
        lane->report.fault = fault;
        finish_report(lane, LANE_REPORT_FAILED);
    }
    return NULL;
}

int lane_source_new(struct lane_source **ret_lane, const struct lane_source_config *config,
                    struct stream *stream, struct fault *fault)
{
    AUTO(lane_source_freep) struct lane_source *lane = calloc(1, sizeof *lane);
    if (!lane)
        return fault_set(fault, ERR_NOMEM, "no memory for lane %u", config->lane);
    lane->config = *config;
    lane->pace.policy = config->delta;
    int r = page_codec_init(&lane->codec, config->compress, config->takes_zstd, fault);
    if (r < 0)
        return r;
    lane->codec.tuner.mixes = stream_knows_queued(stream);
    if (handoff_new(&lane->batches, config->batches_max) < 0)
        return fault_set(fault, ERR_NOMEM, "no memory for the queue of lane %u", config->lane);

    lane->stream = stream;
    int error = pthread_create(&lane->thread, NULL, lane_source_run, lane);
    if (error) {
        lane->stream = NULL;
        return fault_set_errno(fault, ERR_NOMEM, error, "starting lane %u", config->lane);
    }
    lane->started = true;
    *ret_lane = TAKE(lane);
    return 0;
}

void lane_source_interrupt(struct lane_source *lane)
{
    stream_interrupt(lane->stream);
    handoff_close(lane->batches);
}

struct lane_source *lane_source_free(struct lane_source *lane)
{
    if (!lane)
        return NULL;
    if (lane->started) {
        lane_source_interrupt(lane);
        pthread_join(lane->thread, NULL);
    }
    handoff_free(lane->batches, NULL); /* batches are lent, not given */
    stream_free(lane->stream);
    page_codec_deinit(&lane->codec);
    free(lane);
    return NULL;
}

void lane_source_put(struct lane_source *lane, struct page_batch *batch)
{
    void *item = batch;
    (void)handoff_put(lane->batches, &item); /* closed: the lane failed and has said so */
}

#include "migrate/lane_target.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>

#include "base/failpoint.h"
#include "base/own.h"
#include "base/thread.h"
#include "base/world.h"
#include "migrate/lane_write.h"
#include "migrate/page_place.h"
#include "migrate/progress.h"
#include "net/stream.h"

struct lane_target {
    /* set before start, read by all */
    struct lane_target_config config;
    struct stream *stream; /* owned */
    pthread_t thread;
    bool started;

    /* the lane's own */
    struct page_place place;
    struct lane_report report;
    uint64_t wire_bytes;                /* told to progress so far */
    uint64_t frames;                    /* of this round */
    uint64_t mark_frames, mark_running; /* where its last block began */
    bool has_block;
    uint32_t block_region;
    uint64_t block_page;
    bool ended;
};

static void lane_target_freep(struct lane_target **lane)
{
    *lane = lane_target_free(*lane);
}

/* Bytes that were changed on the way are no broken link: they would be changed again. */
static int link_fault(struct lane_target *lane, int r)
{
    lane->report.link_lost = r != ERR_CORRUPT && r != ERR_CANCELED;
    return r;
}

/* The source's batches are blocks: where the next one begins, the one before has come whole. */
static void note_block(struct lane_target *lane, const struct page_frame *frame)
{
    if (lane->has_block && frame->region == lane->block_region &&
        frame->first_page == lane->block_page)
        return;
    lane->has_block = true;
    lane->block_region = frame->region;
    lane->block_page = frame->first_page;
    lane->mark_frames = lane->frames;
    lane->mark_running = lane->place.running;
}

static int read_pages(struct lane_target *lane, struct page_frame *frame, uint8_t *head,
                      struct fault *fault)
{
    assert(frame->count <= PAGE_FRAME_PAGES_MAX);
    int r = stream_read(lane->stream, head + PAGE_FRAME_HEADER_BYTES,
                        (size_t)frame->count * PAGE_ENTRY_BYTES, fault);
    if (r < 0)
        return link_fault(lane, r);
    struct page_frame_entry entries[PAGE_FRAME_PAGES_MAX];
    r = page_frame_get_entries(lane->config.plan, head, frame, entries, fault);
    if (r < 0)
        return r;

    note_block(lane, frame);
    uint64_t pages = lane->place.pages, zero_pages = lane->place.zero_pages;
    r = failpoint_check(FAILPOINT_TARGET_PLACE, fault);
    if (r == 0)
        r = page_place_frame(&lane->place, frame, entries, lane->stream, fault);
    if (r < 0)
        return link_fault(lane, r);
    lane->frames++;
    uint64_t wire = lane->stream->wire_bytes_in;
    progress_add(lane->config.progress, lane->place.pages - pages,
                 lane->place.zero_pages - zero_pages, wire - lane->wire_bytes);
    lane->wire_bytes = wire;
    return 0;
}

static void send_report(struct lane_target *lane, enum lane_report_type type)
{
    struct lane_report *report = &lane->report;
    report->type = type;
    report->pages = lane->place.pages;
    report->zero_pages = lane->place.zero_pages;
    report->digest_sum = lane->place.sum;
    report->wire_bytes = lane->stream->wire_bytes_in;
    report->cpu_ns = world_thread_cpu_ns();
    lane->config.report(lane->config.data, report);
}

static int read_fence(struct lane_target *lane, const struct page_frame *fence, struct fault *fault)
{
    if (fence->digest != lane->place.running)
        return fault_set(fault, ERR_CORRUPT, "the digest of its pages is not the source's");
    if (fence->type == PAGE_FRAME_FENCE_LAST) {
        lane->ended = true;
        send_report(lane, LANE_REPORT_LAST);
        return 0;
    }

    struct page_frame answer = {
        .type = PAGE_FRAME_ANSWER, .round = fence->round, .digest = fence->digest};
    uint8_t bytes[PAGE_FRAME_HEAD_MAX];
    unsigned count = page_frame_put(&answer, NULL, bytes);
    bool hot = fence->type == PAGE_FRAME_FENCE_HOT;
    if (hot) {
        thread_hurry();
        stream_set_hot(lane->stream, lane->config.may_spin);
    }
    send_report(lane, hot ? LANE_REPORT_HOT : LANE_REPORT_FENCE);
    int r = lane_write(lane->stream, FAILPOINT_TARGET_ANSWER, bytes, count, fault);
    if (r == 0)
        r = stream_flush(lane->stream, fault);
    lane->place.running = lane->frames = lane->mark_frames = lane->mark_running = 0;
    lane->has_block = false;
    lane->report.round++;
    return r < 0 ? link_fault(lane, r) : 0;
}

static int read_frame(struct lane_target *lane, struct fault *fault)
{
    uint8_t head[PAGE_FRAME_HEAD_MAX];
    int r = stream_read(lane->stream, head, PAGE_FRAME_HEADER_BYTES, fault);
    if (r < 0)
        return link_fault(lane, r);
    struct page_frame frame;
    r = failpoint_check(FAILPOINT_TARGET_READ, fault);
    if (r == 0)
        r = page_frame_get(head, &frame, fault);
    if (r < 0)
        return r;
    if (!__atomic_load_n(lane->config.frames_allowed, __ATOMIC_ACQUIRE)) /* INV-4 */
        return fault_set(fault, ERR_CORRUPT, "a page frame before the target was prepared");
    if (frame.round != lane->report.round)
        return fault_set(fault, ERR_CORRUPT, "a frame of round %u in round %u", frame.round,
                         lane->report.round);
    if (frame.type == PAGE_FRAME_ANSWER || frame.type == PAGE_FRAME_ASK)
        return fault_set(fault, ERR_CORRUPT, "an answer that nothing asked for");
    return frame.type == PAGE_FRAME_PAGES ? read_pages(lane, &frame, head, fault)
                                          : read_fence(lane, &frame, fault);
}

static void *lane_target_run(void *data)
{
    struct lane_target *lane = data;
    struct fault fault = {0};
    int r = 0;
    thread_begin("lane in");
    thread_give_way();

    while (r == 0 && !lane->ended)
        r = read_frame(lane, &fault);
    if (r < 0) {
        (void)fault_wrap(&fault, r, "lane %u, round %u", lane->config.lane, lane->report.round);
        lane->report.fault = fault;
        send_report(lane, LANE_REPORT_FAILED);
    }
    return NULL;
}

int lane_target_new(struct lane_target **ret_lane, const struct lane_target_config *config,
                    struct stream *stream, struct fault *fault)
{
    AUTO(lane_target_freep) struct lane_target *lane = calloc(1, sizeof *lane);
    if (!lane)
        return fault_set(fault, ERR_NOMEM, "no memory for lane %u", config->lane);
    lane->config = *config;
    lane->report = (struct lane_report){.lane = config->lane, .round = 1};
    int r = page_place_init(&lane->place, config->regions, config->digests, config->region_count,
                            fault);
    if (r < 0)
        return r;
    if (config->before) {
        lane->place.sum = config->before->sum;
        lane->place.pages = config->before->pages;
        lane->place.zero_pages = config->before->zero_pages;
    }

    lane->stream = stream;
    int error = pthread_create(&lane->thread, NULL, lane_target_run, lane);
    if (error) {
        lane->stream = NULL;
        return fault_set_errno(fault, ERR_NOMEM, error, "starting lane %u", config->lane);
    }
    lane->started = true;
    *ret_lane = TAKE(lane);
    return 0;
}

void lane_target_mark(const struct lane_target *lane, struct lane_mark *ret_mark)
{
    *ret_mark = (struct lane_mark){.round = lane->report.round,
                                   .frames = lane->mark_frames,
                                   .running = lane->mark_running,
                                   .sum = lane->place.sum,
                                   .pages = lane->place.pages,
                                   .zero_pages = lane->place.zero_pages};
}

void lane_target_interrupt(struct lane_target *lane)
{
    stream_interrupt(lane->stream);
}

struct lane_target *lane_target_free(struct lane_target *lane)
{
    if (!lane)
        return NULL;
    if (lane->started) {
        lane_target_interrupt(lane);
        pthread_join(lane->thread, NULL);
    }
    stream_free(lane->stream);
    page_place_deinit(&lane->place);
    free(lane);
    return NULL;
}

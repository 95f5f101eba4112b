/* Rounds over the guest's memory, from the bulk to the drain in the pause.
 *
 *      log -> collect -> only what is populated -> batches -> lanes -> reports -> core
 */
#include "migrate/source_inside.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/bitmap.h"
#include "base/err.h"
#include "base/failpoint.h"
#include "base/own.h"
#include "base/world.h"
#include "migrate/control_lane.h"
#include "migrate/guest.h"
#include "migrate/lane_source.h"
#include "migrate/page_batch.h"
#include "migrate/page_digest.h"
#include "migrate/page_scan.h"
#include "migrate/progress.h"
#include "migrate/receipt.h"
#include "migrate/watch.h"
#include "proto/limits.h"

enum { EXTRA_PAGES_MAX = 4096 };
/* Asking which pages are populated may cost this much inside the pause, not more. */
#define POPULATED_NS_MAX (500 * NS_PER_US)

/* ---- dirty pages ---------------------------------------------------------------------------- */

/* Learn which pages have memory by now; what once had stays known, since it may have been sent. */
int source_rounds_learn_populated(struct source *source, unsigned i, struct fault *fault)
{
    struct source_region *region = &source->regions[i];
    struct region *ops = &source->config.guest->regions[i];
    bitmap_clear_all(&region->scratch); /* its first touch is not part of the asking */
    uint64_t begun_ns = world_now_ns();
    int r = failpoint_check(FAILPOINT_SOURCE_POPULATED, fault);
    if (r == 0)
        r = ops->ops->populated(ops, &region->scratch, fault);
    if (r < 0)
        return fault_wrap(fault, r, "asking which pages of '%s' have memory", ops->name);
    region->learn_ns = world_now_ns() - begun_ns;
    bitmap_or(&region->populated, &region->scratch);
    return 0;
}

static uint64_t count_beyond(const struct bitmap *dirty, const struct bitmap *populated)
{
    uint64_t count = 0;
    for (size_t i = 0; i < bitmap_words(dirty); i++) {
        uint64_t word = dirty->words[i] & ~populated->words[i];
        if (word)
            count += (uint64_t)__builtin_popcountll(word);
    }
    return count;
}

/* Leave in `dirty` only pages that may be read: reading one without memory would give it some. The
 * collect came first, so what was written before it is seen populated now; what is written later is
 * still in the log, since only sending clears. */
static int keep_populated(struct source *source, unsigned i, struct fault *fault)
{
    struct source_region *region = &source->regions[i];
    uint64_t beyond = count_beyond(&region->dirty, &region->populated);
    if (beyond == 0)
        return 0;
    if (region->exact && beyond <= EXTRA_PAGES_MAX) {
        bitmap_or(&region->populated, &region->dirty); /* written, so there */
        return 0;
    }
    int r = source_rounds_learn_populated(source, i, fault);
    if (r < 0)
        return r;
    bitmap_and(&region->dirty, &region->populated);
    return 0;
}

static int collect(struct source *source, uint64_t *ret_pages, struct fault *fault)
{
    uint64_t pages = 0;
    for (unsigned i = 0; i < source->config.guest->region_count; i++) {
        struct region *ops = &source->config.guest->regions[i];
        int r = failpoint_check(FAILPOINT_SOURCE_COLLECT, fault);
        if (r == 0)
            r = ops->ops->collect(ops, &source->regions[i].dirty, fault);
        if (r < 0)
            return fault_wrap(fault, r, "collecting dirty pages of '%s'", ops->name);
        r = keep_populated(source, i, fault);
        if (r < 0)
            return r;
        pages += bitmap_count(&source->regions[i].dirty);
    }
    *ret_pages = pages;
    return 0;
}

/* Where asking for populated is slow, take all unpopulated pages out of the log before the first
 * round: from then on the log names only pages that were written, and nobody need ask again.
 * Cleared first, asked second: what is written before the clear is seen populated, what is written
 * after it is in the log. */
static int make_exact(struct source *source, unsigned i, struct fault *fault)
{
    struct source_region *region = &source->regions[i];
    struct region *ops = &source->config.guest->regions[i];
    size_t words = bitmap_words(&region->populated);

    for (size_t j = 0; j < words; j++)
        region->scratch.words[j] = ~region->populated.words[j];
    if (ops->pages % 64)
        region->scratch.words[words - 1] &= UINT64_MAX >> (64 - ops->pages % 64);
    int r = ops->ops->clear_many(ops, &region->scratch, fault);
    if (r < 0)
        return r;
    AUTO_FREE uint64_t *copy = calloc(words, sizeof *copy);
    if (!copy)
        return fault_set(fault, ERR_NOMEM, "no memory to compare populated pages");
    memcpy(copy, region->populated.words, words * sizeof *copy);
    r = source_rounds_learn_populated(source, i, fault);
    if (r < 0)
        return r;
    for (size_t j = 0; j < words; j++)
        region->dirty.words[j] |= region->populated.words[j] & ~copy[j];
    region->exact = true;
    return 0;
}

static unsigned fence_lanes(struct source *source, enum page_batch_type type)
{
    for (unsigned i = 0; i < source->lanes_open; i++) {
        source->fences[i] = (struct page_batch){.type = type};
        lane_source_put(source->lanes[i], &source->fences[i]);
    }
    return source->lanes_open;
}

void source_rounds_fence(struct source *source, uint64_t batches, enum page_batch_type fence)
{
    assert(batches <= source->batches_max);
    source->batches_used = batches;
    (void)fence_lanes(source, fence);
}

void source_rounds_begin(struct source *source, uint64_t pages)
{
    source->round++;
    source->round_begun_ns = world_now_ns();
    source->round_pages = pages;
    source->lanes_reported = 0;
    source->sum = (struct lane_report){0};
    progress_begin_round(&source->progress, pages, source->round_begun_ns);
}

/* Hand all dirty pages to the lanes, and a fence behind them. */
void source_rounds_dispatch(struct source *source, uint64_t pages, enum page_batch_type fence)
{
    uint64_t used = 0;
    source_rounds_begin(source, pages);
    for (unsigned i = 0; i < source->config.guest->region_count; i++) {
        struct page_scan scan;
        page_scan_init(&scan, &source->regions[i].dirty, i);
        while (used < source->batches_max && page_scan_next(&scan, &source->batches[used])) {
            struct page_batch *batch = &source->batches[used++];
            unsigned lane = page_scan_lane(i, batch->first_page, source->lanes_open);
            lane_source_put(source->lanes[lane], batch);
        }
        bitmap_clear_all(&source->regions[i].dirty);
    }
    source_rounds_fence(source, used, fence);
}

/* ---- todo ----------------------------------------------------------------------------------- */

int source_rounds_first_round(struct source *source, struct fault *fault)
{
    int r = source_mail_start_lanes(source, fault);
    if (r < 0)
        return r;
    struct guest *guest = source->config.guest;
    for (unsigned i = 0; i < guest->region_count; i++) {
        r = failpoint_check(FAILPOINT_SOURCE_TRACK, fault);
        if (r == 0)
            r = guest->regions[i].ops->track_start(&guest->regions[i], fault);
        if (r < 0)
            return fault_wrap(fault, r, "tracking dirty pages of '%s'", guest->regions[i].name);
        source->regions[i].tracking = true;
    }
    for (unsigned i = 0; i < guest->region_count; i++) {
        if (source->regions[i].learn_ns <= POPULATED_NS_MAX ||
            bitmap_count(&source->regions[i].populated) == guest->regions[i].pages)
            continue;
        r = make_exact(source, i, fault);
        if (r < 0)
            return r;
    }
    uint64_t pages = 0;
    r = collect(source, &pages, fault);
    if (r < 0)
        return r;
    pthread_mutex_lock(&source->mutex);
    source->core.populated_pages = pages;
    source->predicted_total_ns = world_now_ns() - source->core.started_ns +
                                 converge_forecast_ns(&source->core.converge, pages,
                                                      source->core.config.bandwidth_bytes_per_s, 0);
    pthread_mutex_unlock(&source->mutex);
    source->populated_pages = pages;
    source_rounds_next(source);
    return 0;
}

void source_rounds_next(struct source *source)
{
    uint64_t pages = source_rounds_dirty_count(source);
    if (source->streams)
        source_stream_round(source, pages);
    else
        source_rounds_dispatch(source, pages, PAGE_BATCH_FENCE);
}

uint64_t source_rounds_dirty_count(const struct source *source)
{
    uint64_t pages = 0;
    for (unsigned i = 0; i < source->config.guest->region_count; i++)
        pages += bitmap_count(&source->regions[i].dirty);
    return pages;
}

int source_rounds_stand_by(struct source *source, struct fault *fault)
{
    int r = source_post_is_on(source) ? source_post_stand_by(source, fault) : 0;
    if (r < 0 || source_current_phase(source) != PHASE_PRECOPY)
        return r;
    source->standing_by = true;
    source->lanes_reported = 0;
    source->hot_until_ns = world_now_ns() + LANE_HOT_NS;
    (void)fence_lanes(source, PAGE_BATCH_FENCE_HOT);
    watch_arm(source->watch, source_current_deadline(source));
    r = control_lane_send_hot(source->control, fault);
    watch_disarm(source->watch);
    if (r < 0)
        source_feed_fault(source, SOURCE_EVENT_LINK_LOST, fault);
    return 0;
}

int source_rounds_pause_guest(struct source *source, struct fault *fault)
{
    const struct guest *guest = source->config.guest;
    source->paused_at_ns = world_now_ns();
    source->hot_until_ns = source->paused_at_ns + LANE_HOT_NS;
    guest->ops->pause(guest->owner);
    source_throttle(source, 0);

    uint64_t pages = 0;
    int r = failpoint_check(FAILPOINT_SOURCE_PAUSE, fault);
    if (r == 0)
        r = collect(source, &pages, fault);
    if (r < 0)
        return r;
    source_feed_type(source, SOURCE_EVENT_PAUSED);
    return 0;
}

static int drained(struct source *source, struct fault *fault)
{
    if (source->drained_told || !source->saved || source->lanes_reported < source->lanes_open)
        return 0;
    source->drained_told = true;
    uint64_t sum = source->post_sum;
    for (unsigned i = 0; i < source->lanes_open; i++)
        sum += source->digest_sums[i];
    source->memory_digest = sum;
    if (source->reread) {
        long cores = sysconf(_SC_NPROCESSORS_ONLN);
        int r = page_digest_reread(source->digests, source->config.guest->regions,
                                   source->config.guest->region_count,
                                   cores > 0 ? (unsigned)cores : 1, &sum, fault);
        if (r < 0)
            return fault_wrap(fault, r, "reading all memory again at the source");
        assert(sum == source->memory_digest); /* every term was equal */
    }
    source_feed_type(source, SOURCE_EVENT_DRAINED);
    return 0;
}

int source_rounds_drain(struct source *source, struct fault *fault)
{
    const struct guest *guest = source->config.guest;
    int r = source_post_is_on(source) ? source_post_pause(source, fault) : 0;
    if (r < 0)
        return r;
    source_rounds_dispatch(source, source_rounds_dirty_count(source), PAGE_BATCH_FENCE_LAST);

    /* Saved while the lanes work. */
    enum failpoint_action wrong = failpoint(FAILPOINT_SOURCE_SAVE);
    r = wrong == FAILPOINT_ERROR
                ? failpoint_fail(FAILPOINT_SOURCE_SAVE, fault)
                : guest->ops->save(guest->owner, &source->machine, &source->machine_bytes, fault);
    if (r < 0)
        return fault_wrap(fault, r, "saving the machine");
    if (wrong == FAILPOINT_TRUNCATE)
        source->machine_bytes /= 2;
    if (source->machine_bytes > MACHINE_STATE_MAX)
        return fault_set(fault, ERR_LIMIT, "a machine state of %zu bytes, at most %d may be",
                         source->machine_bytes, MACHINE_STATE_MAX);
    source->state_digest = XXH3_64bits(source->machine, source->machine_bytes);
    source->saved = true;
    return drained(source, fault);
}

/* ---- what the lanes report ------------------------------------------------------------------ */

static void add_report(struct source *source, const struct lane_report *report)
{
    struct lane_report *sum = &source->sum;
    sum->pages += report->pages;
    sum->zero_pages += report->zero_pages;
    sum->raw_pages += report->raw_pages;
    sum->lz4_pages += report->lz4_pages;
    sum->lz4_bytes += report->lz4_bytes;
    sum->zstd_pages += report->zstd_pages;
    sum->zstd_bytes += report->zstd_bytes;
    sum->patch_pages += report->patch_pages;
    sum->patch_bytes += report->patch_bytes;
    sum->same_pages += report->same_pages;
    sum->wire_bytes += report->wire_bytes - source->lane_wire_bytes[report->lane];
    if (report->held_back_ns > sum->held_back_ns)
        sum->held_back_ns = report->held_back_ns; /* lanes wait side by side */
    if (report->round_trip_ns &&
        (!sum->round_trip_ns || report->round_trip_ns < sum->round_trip_ns))
        sum->round_trip_ns = report->round_trip_ns;
    source->lane_wire_bytes[report->lane] = report->wire_bytes;
    source->digest_sums[report->lane] = report->digest_sum;
    source->lane_cpu_ns[report->lane] = report->cpu_ns;
    source->lanes_reported++;
}

static void note_round(struct source *source, uint64_t duration_ns, uint64_t dirty_pages)
{
    const struct lane_report *sum = &source->sum;
    Godwit__MoveRound round = GODWIT__MOVE_ROUND__INIT;
#define FILL(field, value) (round.has_##field = 1, round.field = (value))
    FILL(number, source->round);
    FILL(pages, sum->pages);
    FILL(zero_pages, sum->zero_pages);
    FILL(raw_pages, sum->raw_pages);
    FILL(lz4_pages, sum->lz4_pages);
    FILL(lz4_bytes, sum->lz4_bytes);
    FILL(zstd_pages, sum->zstd_pages);
    FILL(zstd_bytes, sum->zstd_bytes);
    FILL(patch_pages, sum->patch_pages);
    FILL(patch_bytes, sum->patch_bytes);
    FILL(same_pages, sum->same_pages);
    FILL(wire_bytes, sum->wire_bytes);
    FILL(duration_ns, duration_ns);
    FILL(dirty_pages_after, dirty_pages);
#undef FILL
    receipt_add_round(&source->receipt, &round);
}

static int round_done(struct source *source, struct fault *fault)
{
    const struct lane_report *sum = &source->sum;
    uint64_t dirty_pages = 0, duration_ns = world_now_ns() - source->round_begun_ns;
    int r = collect(source, &dirty_pages, fault);
    if (r < 0)
        return r;
    if (source->streams && !source_stream_window_done(source, dirty_pages))
        return 0;
    note_round(source, duration_ns, dirty_pages);
    struct source_event event = {
        .type = SOURCE_EVENT_ROUND_DONE,
        .round = {.pages = sum->pages,
                  .data_pages = sum->raw_pages + sum->lz4_pages + sum->zstd_pages + sum->patch_pages,
                  .dirty_before = source->streams ? source->round_pages : 0,
                  .duration_ns = duration_ns,
                  .held_back_ns = sum->held_back_ns,
                  .dirty_pages = dirty_pages,
                  .round_trip_ns = sum->round_trip_ns},
    };
    source_feed(source, &event);
    return 0;
}

void source_rounds_break_off(struct source *source)
{
    for (unsigned i = 0; i < source->lanes_open; i++) {
        if (source->lane_ends[i].pages)
            add_report(source, &source->lane_ends[i]);
    }
    if (source->sum.pages)
        note_round(source, world_now_ns() - source->round_begun_ns,
                   source_rounds_dirty_count(source));
}

void source_rounds_stood_by(struct source *source)
{
    if (!source->control_hot || source->lanes_reported < source->lanes_open)
        return;
    if (source_current_phase(source) == PHASE_PRECOPY)
        source_feed_type(source, SOURCE_EVENT_STOOD_BY);
}

void source_rounds_take_report(struct source *source, const struct lane_report *report)
{
    struct fault fault = {0};
    if (report->type == LANE_REPORT_FAILED || report->type == LANE_REPORT_LAST) {
        source->lanes_ended++;
        source->lane_ends[report->lane] = *report;
    }
    if (report->type == LANE_REPORT_FAILED) {
        source->lane_cpu_ns[report->lane] = report->cpu_ns;
        bool is_link = report->link_lost || report->fault.code == ERR_CANCELED;
        if (source_reconnect_took_end(source) && is_link)
            return;
        source_feed_fault(source, is_link ? SOURCE_EVENT_LANE_LOST : SOURCE_EVENT_FAILED,
                          &report->fault);
        return;
    }
    if (source->hanging_up)
        return; /* said before it heard of it */
    add_report(source, report);
    if (source->lanes_reported < source->lanes_open)
        return;
    enum phase phase = source_current_phase(source);
    int r = 0;
    if (report->type == LANE_REPORT_FENCE && phase == PHASE_PRECOPY) {
        r = round_done(source, &fault);
    } else if (report->type == LANE_REPORT_HOT) {
        source_rounds_stood_by(source);
    } else if (report->type == LANE_REPORT_LAST && phase == PHASE_DRAIN) {
        note_round(source, world_now_ns() - source->round_begun_ns, 0);
        r = drained(source, &fault);
    }
    if (r < 0)
        source_feed_fault(source, SOURCE_EVENT_FAILED, &fault);
}

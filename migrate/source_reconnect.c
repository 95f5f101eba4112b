/* Lanes that were lost in pre-copy are replaced: all of them, since the first that breaks is rarely
 * the last, and since only then no old byte can arrive among new ones.
 *
 *      a lane or the control lane breaks -> hang up -> no thread is left -> dial, next epoch
 *      new control lane -> resume -> the target has no old lane either -> resumed, with its marks
 *      what the marks do not cover is dirty again -> lanes open -> next round
 *
 * A mark is a count of frames and the digest after them, at a place where a batch ended; each batch
 * remembers the same two of its end (page_batch). So what was confirmed is told by both sides, and
 * at most what was under way, and one block a lane, is sent twice. A page of an unconfirmed batch
 * may be anything at the target: its entry in the digest becomes one that no page has, so that the
 * next round tells of it even if it is zero by then.
 *
 * No mail of an old lane can be mistaken for a new one's: each thread's last word was taken from
 * the mailbox before the next epoch is dialled.
 */
#include "migrate/source_inside.h"

#include <assert.h>
#include <pthread.h>

#include "base/bitmap.h"
#include "base/err.h"
#include "base/log.h"
#include "migrate/control_lane.h"
#include "migrate/guest.h"
#include "migrate/lane_opener.h"
#include "migrate/lane_source.h"
#include "migrate/page_delta.h"
#include "migrate/page_digest.h"
#include "migrate/page_scan.h"
#include "net/stream.h"

bool source_reconnect_is_away(struct source *source)
{
    pthread_mutex_lock(&source->mutex);
    bool away = source->core.away != SOURCE_AWAY_NO && !source->core.ended;
    pthread_mutex_unlock(&source->mutex);
    return away;
}

/* ---- hanging up ----------------------------------------------------------------------------- */

static unsigned lanes_started(const struct source *source)
{
    unsigned count = 0;
    while (count < LANES_MAX && source->lanes[count])
        count++;
    return count;
}

static bool nobody_is_left(const struct source *source)
{
    return (!source->control || source->control_ended) &&
           (!source->opener || source->opener_ended) && source_post_has_ended(source) &&
           source->lanes_ended == lanes_started(source);
}

static void free_lanes(struct source *source)
{
    unsigned started = lanes_started(source);
    for (unsigned i = 0; i < started; i++) {
        source->lanes[i] = lane_source_free(source->lanes[i]);
        source->digest_sums[i] = source->lane_ends[i].digest_sum;
        source->before_cpu_ns += source->lane_ends[i].cpu_ns;
    }
    source_post_free(source);
    if (started && source_current_phase(source) != PHASE_POSTCOPY)
        source_rounds_break_off(source);
    for (unsigned i = 0; i < LANES_MAX; i++) {
        source->lane_streams[i] = stream_free(source->lane_streams[i]);
        source->lane_wire_bytes[i] = source->lane_cpu_ns[i] = 0;
    }
    source->lanes_open = source->lanes_ended = 0;
}

static void free_all(struct source *source)
{
    source->opener = lane_opener_free(source->opener);
    free_lanes(source);
    if (source->control) {
        source->before_cpu_ns += control_lane_cpu_ns(source->control);
        source->before_wire_bytes += control_lane_wire_bytes(source->control);
        source->control = control_lane_free(source->control);
    }
    source->standing_by = source->control_hot = false;
    source->hot_until_ns = 0;
}

bool source_reconnect_took_end(struct source *source)
{
    if (!source->hanging_up)
        return false;
    if (nobody_is_left(source)) {
        source->hanging_up = false;
        free_all(source);
        if (source_reconnect_is_away(source)) /* a verdict may have come meanwhile */
            source_feed_type(source, SOURCE_EVENT_HUNG_UP);
    }
    return true;
}

void source_reconnect_hang_up(struct source *source)
{
    assert(!source->hanging_up);
    source->hanging_up = true;
    if (source->control)
        control_lane_interrupt(source->control);
    if (source->opener)
        lane_opener_stop(source->opener);
    for (unsigned i = 0; i < LANES_MAX; i++) {
        if (source->lanes[i])
            lane_source_interrupt(source->lanes[i]);
    }
    source_post_interrupt(source);
    (void)source_reconnect_took_end(source);
}

/* ---- what the target has -------------------------------------------------------------------- */

/* Does the batch lie before the mark, and does the mark stand at its end? */
static int judge_batch(const struct page_batch *batch, const Godwit__MoveMark *mark,
                       bool *ret_confirmed, bool *ret_at_end, struct fault *fault)
{
    *ret_confirmed = *ret_at_end = false;
    if (!batch->done)
        return 0;
    if (batch->round > mark->round)
        return fault_set(fault, ERR_CORRUPT, "the target's mark is of round %u, we were in %u",
                         mark->round, batch->round);
    if (batch->round < mark->round) {
        *ret_confirmed = true;
        return 0;
    }
    *ret_confirmed = batch->frames_end <= mark->frames;
    *ret_at_end = batch->frames_end == mark->frames && batch->running_end == mark->running;
    return 0;
}

static void make_dirty(struct source *source, const struct page_batch *batch, uint64_t *sum)
{
    struct page_digest *digest = &source->digests[batch->region];
    struct bitmap *dirty = &source->regions[batch->region].dirty;
    for (unsigned i = 0; i < PAGE_BATCH_WORDS; i++) {
        for (uint64_t word = batch->mask[i]; word; word &= word - 1) {
            uint64_t page = batch->first_page + i * 64 + (unsigned)__builtin_ctzll(word);
            bitmap_set(dirty, page);
            if (!batch->begun)
                continue;
            page_digest_set(digest, page, PAGE_DIGEST_UNKNOWN, sum);
            page_delta_forget(&source->deltas[batch->region], page);
            source->resent_pages++;
        }
    }
}

static int take_mark(struct source *source, unsigned lane, const Godwit__MoveMark *mark,
                     struct fault *fault)
{
    bool is_ours = mark->epoch == source->batches_epoch; /* else it broke before it carried any */
    bool found = !is_ours || (mark->frames == 0 && mark->running == 0);
    if (is_ours && (mark->round < source->lane_ends[lane].round ||
                    mark->round > source->lane_ends[lane].round + 1))
        return fault_set(fault, ERR_CORRUPT, "the target's mark is of round %u, lane %u was in %u",
                         mark->round, lane, source->lane_ends[lane].round);
    for (uint64_t i = 0; i < source->batches_used; i++) {
        const struct page_batch *batch = &source->batches[i];
        if (page_scan_lane(batch->region, batch->first_page, source->lanes_wanted) != lane)
            continue;
        bool confirmed = false, at_end = false;
        int r = is_ours ? judge_batch(batch, mark, &confirmed, &at_end, fault) : 0;
        if (r < 0)
            return r;
        found |= at_end;
        if (!confirmed)
            make_dirty(source, batch, &source->digest_sums[lane]);
    }
    if (!found)
        return fault_set(fault, ERR_CORRUPT, "the target's mark of lane %u is none of ours", lane);
    return 0;
}

static int judge_resumed(struct source *source, const Godwit__MoveResumed *resumed,
                         struct fault *fault)
{
    if (!source_reconnect_is_away(source) || source->hanging_up || !source->resume_sent ||
        resumed->epoch != source->epoch)
        return fault_set(fault, ERR_CORRUPT, "the target said 'resumed' out of turn");
    bool serves = source_current_phase(source) == PHASE_POSTCOPY;
    if (resumed->postcopy != serves)
        return fault_set(fault, ERR_CORRUPT, "the target goes on %s post-copy, we do not",
                         resumed->postcopy ? "in" : "before");
    source->resume_sent = false;
    if (serves && resumed->has_missing_pages &&
        source_post_unsent(source) != resumed->missing_pages)
        return fault_set(fault, ERR_CORRUPT, "the target lacks %llu pages and has named %llu",
                         (unsigned long long)resumed->missing_pages,
                         (unsigned long long)source_post_unsent(source));
    if (serves)
        return 0;
    if (resumed->n_marks != source->lanes_wanted)
        return fault_set(fault, ERR_CORRUPT, "the target has %zu lanes, we have %u",
                         resumed->n_marks, source->lanes_wanted);
    return 0;
}

void source_reconnect_take_resumed(struct source *source, const Godwit__MoveResumed *resumed)
{
    struct fault fault = {0};
    int r = judge_resumed(source, resumed, &fault);
    for (unsigned i = 0; r == 0 && !resumed->postcopy && i < source->lanes_wanted; i++)
        r = take_mark(source, i, resumed->marks[i], &fault);
    if (r < 0) {
        source_feed_fault(source, SOURCE_EVENT_FAILED, &fault);
        return;
    }
    source->batches_used = 0; /* told; should this epoch break too, there is nothing more to ask */
    lane_opener_go_on(source->opener, resumed->postcopy
                                          ? source->post_wanted
                                          : source->lanes_wanted + source->post_wanted);
}

void source_reconnect_rejoin(struct source *source)
{
    struct fault fault = {0};
    if (!source_reconnect_is_away(source) || source->hanging_up)
        return; /* they end with the rest */
    int r = source_current_phase(source) == PHASE_POSTCOPY ? source_post_rejoin(source, &fault)
                                                           : source_mail_start_lanes(source, &fault);
    if (r < 0) {
        source_feed_fault(source, SOURCE_EVENT_FAILED, &fault);
        return;
    }
    log_info("source", "lanes are open again epoch=%u resent_pages=%llu vm=%s move=%s",
             source->epoch, (unsigned long long)source->resent_pages, source->config.guest->vm_id,
             source->move_id);
    source_feed_type(source, SOURCE_EVENT_REJOINED);
}

#include "migrate/progress.h"

#include <assert.h>

#include "base/bytes.h"
#include "base/world.h"
#include "migrate/converge.h"

void progress_add(struct progress *progress, uint64_t pages, uint64_t zero_pages,
                  uint64_t wire_bytes)
{
    __atomic_fetch_add(&progress->pages, pages, __ATOMIC_RELAXED);
    __atomic_fetch_add(&progress->zero_pages, zero_pages, __ATOMIC_RELAXED);
    __atomic_fetch_add(&progress->wire_bytes, wire_bytes, __ATOMIC_RELAXED);
}

uint64_t progress_pages(const struct progress *progress)
{
    return __atomic_load_n(&progress->pages, __ATOMIC_RELAXED);
}

uint64_t progress_wire_bytes(const struct progress *progress)
{
    return __atomic_load_n(&progress->wire_bytes, __ATOMIC_RELAXED);
}

void progress_begin_round(struct progress *progress, uint64_t pages, uint64_t now_ns)
{
    progress->round_begin_ns = now_ns;
    progress->round_begin_pages = progress_pages(progress);
    progress->round_pages = pages;
}

/* Half old, half new: steady enough to read, quick enough to follow. */
static void learn_rate(struct progress *progress, uint64_t now_ns, uint64_t wire_bytes)
{
    if (progress->told_ns && now_ns <= progress->told_ns)
        return;
    if (progress->told_ns) {
        double rate = (double)(wire_bytes - progress->told_wire_bytes) * 1e9 /
                      (double)(now_ns - progress->told_ns);
        progress->wire_bytes_per_s =
            (uint64_t)(progress->wire_bytes_per_s ? ((double)progress->wire_bytes_per_s + rate) / 2
                                                  : rate);
    }
    progress->told_ns = now_ns;
    progress->told_wire_bytes = wire_bytes;
}

/* What a page of this round has taken so far, waits and limits too; 0: none has gone yet. */
static uint64_t pace_ns(const struct progress *progress, uint64_t done, uint64_t now_ns)
{
    if (done == 0 || now_ns <= progress->round_begin_ns)
        return 0;
    return (now_ns - progress->round_begin_ns) / done;
}

void progress_fill(struct progress *progress, const struct progress_facts *facts,
                   Godwit__MoveProgress *ret_message)
{
    uint64_t pages = progress_pages(progress), wire = progress_wire_bytes(progress);
    assert(pages >= progress->round_begin_pages);
    learn_rate(progress, facts->now_ns, wire);
    uint64_t done = pages - progress->round_begin_pages;
    if (done > progress->round_pages && facts->converge)
        done = progress->round_pages;

    godwit__move_progress__init(ret_message);
    Godwit__MoveProgress *to = ret_message;
#define FILL(field, value) (to->has_##field = 1, to->field = (value))
    FILL(phase, facts->phase);
    FILL(round, facts->round);
    FILL(elapsed_ns, facts->now_ns - facts->started_ns);
    FILL(round_pages_done, done);
    FILL(round_pages_total, progress->round_pages);
    FILL(wire_bytes, wire);
    FILL(wire_bytes_per_s, progress->wire_bytes_per_s);
    FILL(memory_bytes_done, pages * PAGE_BYTES);
    FILL(memory_bytes_total, facts->memory_pages * PAGE_BYTES);
    FILL(zero_pages, __atomic_load_n(&progress->zero_pages, __ATOMIC_RELAXED));
    FILL(lanes, facts->lanes);
    FILL(away, facts->away);
    if (facts->converge) {
        const struct converge *converge = facts->converge;
        FILL(dirty_bytes_per_s, converge->dirty_pages_per_s * PAGE_BYTES);
        FILL(predicted_pause_ns, converge->predicted_ns);
        FILL(waiting_for_goal, converge->waiting_for_goal);
        FILL(throttle_permille, facts->throttle_permille);
        FILL(reconnects, facts->reconnects);
        FILL(postcopy_reason, facts->postcopy_reason);
        FILL(eta_ns, converge_forecast_ns(converge, progress->round_pages - done,
                                          facts->bandwidth_bytes_per_s,
                                          pace_ns(progress, done, facts->now_ns)));
    }
#undef FILL
}

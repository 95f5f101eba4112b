#include "migrate/page_tuner.h"

#include <assert.h>

/* Measured here on 64 KiB groups: 32: 1.2 GB/s, ratio 1.3; 8: 0.6 GB/s, 1.55; 1: 0.35, 1.85. Of words of a small
 * vocabulary: 32: 1.1 GB/s, 2.0; 1: 1.0, 2.6; zstd's level 1: 0.4, 5.1, and out of it 1.1. */
static const int accelerations[PAGE_TUNER_ARM_COUNT] = {0, 32, 8, 1, 0};

int page_tuner_acceleration(enum page_tuner_arm arm)
{
    assert(arm < PAGE_TUNER_ARM_COUNT);
    return accelerations[arm];
}

static enum page_tuner_arm first_arm(enum page_tuner_policy policy, bool takes_zstd)
{
    if (policy == PAGE_TUNER_ALWAYS_ZSTD)
        return takes_zstd ? PAGE_TUNER_ZSTD : PAGE_TUNER_LZ4;
    return policy == PAGE_TUNER_ALWAYS ? PAGE_TUNER_LZ4 : PAGE_TUNER_RAW;
}

void page_tuner_init(struct page_tuner *tuner, enum page_tuner_policy policy, bool takes_zstd)
{
    enum page_tuner_arm arm = first_arm(policy, takes_zstd);
    *tuner = (struct page_tuner){
        .policy = policy,
        .arm_count = takes_zstd ? PAGE_TUNER_ARM_COUNT : PAGE_TUNER_ZSTD,
        .arm = arm,
        .best = arm,
        .next_trial = PAGE_TUNER_LZ4_FAST,
        .gap = PAGE_TUNER_GAP_MIN,
        .until_trial = PAGE_TUNER_GAP_MIN,
    };
}

void page_tuner_idle(struct page_tuner *tuner)
{
    tuner->measuring = false;
}

static void begin_window(struct page_tuner *tuner, const struct page_tuner_look *look)
{
    tuner->measuring = true;
    tuner->begun = *look;
    tuner->bytes = 0;
}

/* Guest bytes a ns that this arm can keep up. A queue that grew says that the wire is slower than the lane; one that
 * shrank, that the lane is slower than the wire. */
static double kept_up(const struct page_tuner *tuner, const struct page_tuner_look *look)
{
    double written = (double)(look->wire_bytes - tuner->begun.wire_bytes);
    double grown = (double)look->queued_bytes - (double)tuner->begun.queued_bytes;
    double gone = grown < written ? written - grown : 0;
    double rate = (double)tuner->bytes / (double)(look->now_ns - tuner->begun.now_ns);
    return grown > 0 && written > 0 ? rate * gone / written : rate;
}

static enum page_tuner_arm arm_after(const struct page_tuner *tuner, enum page_tuner_arm arm)
{
    return (enum page_tuner_arm)((arm + 1) % tuner->arm_count);
}

static void begin_trial(struct page_tuner *tuner)
{
    if (tuner->next_trial == tuner->best)
        tuner->next_trial = arm_after(tuner, tuner->next_trial);
    tuner->arm = tuner->next_trial;
    tuner->next_trial = arm_after(tuner, tuner->next_trial);
}

static void end_trial(struct page_tuner *tuner)
{
    /* 3 %: less is noise, and changing has its price. */
    bool won = tuner->rate[tuner->arm] > tuner->rate[tuner->best] * 1.03;
    if (won) {
        tuner->best = tuner->arm;
        tuner->gap = PAGE_TUNER_GAP_MIN;
    } else if (tuner->next_trial == tuner->best || tuner->next_trial == PAGE_TUNER_RAW) {
        /* a whole turn without a better one */
        tuner->gap = tuner->gap * 2 < PAGE_TUNER_GAP_MAX ? tuner->gap * 2 : PAGE_TUNER_GAP_MAX;
    }
    tuner->arm = tuner->best;
    /* Bound by the CPU, nothing that takes more of it can win: look again, but seldom. */
    tuner->until_trial =
        tuner->best == PAGE_TUNER_RAW && tuner->wire_share < 0.2 ? PAGE_TUNER_GAP_MAX : tuner->gap;
}

static void end_window(struct page_tuner *tuner, const struct page_tuner_look *look)
{
    double rate = kept_up(tuner, look);
    double *known = &tuner->rate[tuner->arm];
    bool trial = tuner->arm != tuner->best;
    *known = trial || *known == 0 ? rate : *known * 0.5 + rate * 0.5;
    if (trial) {
        end_trial(tuner);
        return;
    }
    double share = (double)(look->waited_ns - tuner->begun.waited_ns) /
                   (double)(look->now_ns - tuner->begun.now_ns);
    tuner->wire_share = tuner->wire_share * 0.5 + (share < 1 ? share : 1) * 0.5;
    if (tuner->best == PAGE_TUNER_RAW && tuner->wire_share >= 0.2 &&
        tuner->until_trial > tuner->gap)
        tuner->until_trial = tuner->gap; /* the wire became the bottleneck meanwhile */
    if (--tuner->until_trial == 0) {
        if (tuner->best == PAGE_TUNER_RAW && tuner->wire_share < 0.05) {
            tuner->until_trial = PAGE_TUNER_GAP_MAX; /* never waits: compressing cannot win */
            return;
        }
        begin_trial(tuner);
    }
}

void page_tuner_step(struct page_tuner *tuner, uint64_t bytes, const struct page_tuner_look *look)
{
    if (tuner->policy != PAGE_TUNER_AUTO)
        return;
    if (!tuner->measuring) {
        begin_window(tuner, look);
        return;
    }
    tuner->bytes += bytes;
    uint64_t wall_ns = look->now_ns - tuner->begun.now_ns;
    if (wall_ns == 0 || tuner->bytes < PAGE_TUNER_WINDOW_BYTES_MIN ||
        (tuner->bytes < PAGE_TUNER_WINDOW_BYTES && wall_ns < PAGE_TUNER_WINDOW_NS))
        return;
    end_window(tuner, look);
    begin_window(tuner, look);
}

#include "migrate/page_tuner.h"

#include <assert.h>

static enum page_mix_arm first_arm(enum page_tuner_policy policy, bool takes_zstd)
{
    if (policy == PAGE_TUNER_ALWAYS_ZSTD)
        return takes_zstd ? PAGE_MIX_ZSTD : PAGE_MIX_LZ4;
    return policy == PAGE_TUNER_ALWAYS ? PAGE_MIX_LZ4 : PAGE_MIX_RAW;
}

static enum page_mix_arm tightest(const struct page_tuner *tuner)
{
    return (enum page_mix_arm)(tuner->arm_count - 1);
}

void page_tuner_init(struct page_tuner *tuner, enum page_tuner_policy policy, bool takes_zstd)
{
    enum page_mix_arm arm = first_arm(policy, takes_zstd);
    *tuner = (struct page_tuner){
        .policy = policy,
        .arm_count = takes_zstd ? PAGE_MIX_ARM_COUNT : PAGE_MIX_ZSTD,
        .arm = arm,
        .best = arm,
        .gap = PAGE_TUNER_GAP_MIN,
        .until_trial = PAGE_TUNER_GAP_MIN,
    };
    tuner->next_trial = tightest(tuner);
    page_mix_init(&tuner->mix);
}

enum page_mix_arm page_tuner_choose(struct page_tuner *tuner, uint64_t bytes,
                                    const struct page_mix_road *road)
{
    if (tuner->policy != PAGE_TUNER_AUTO || !road)
        return tuner->arm;
    return page_mix_choose(&tuner->mix, tuner->arm, bytes, road);
}

void page_tuner_idle(struct page_tuner *tuner)
{
    tuner->measuring = false;
    page_mix_idle(&tuner->mix);
}

static void begin_window(struct page_tuner *tuner, const struct page_mix_look *look)
{
    tuner->measuring = true;
    tuner->begun = *look;
    tuner->bytes = 0;
}

/* Guest bytes a ns that this arm can keep up. A queue that grew says that the wire is slower than the lane; one that
 * shrank, that the lane is slower than the wire. */
static double kept_up(const struct page_tuner *tuner, const struct page_mix_look *look)
{
    double written = (double)(look->wire_bytes - tuner->begun.wire_bytes);
    double grown = (double)look->queued_bytes - (double)tuner->begun.queued_bytes;
    double gone = grown < written ? written - grown : 0;
    double rate = (double)tuner->bytes / (double)(look->now_ns - tuner->begun.now_ns);
    return grown > 0 && written > 0 ? rate * gone / written : rate;
}

/* The tightest first: where the wire is short it is what wins, and lighter ones are used under it. */
static enum page_mix_arm arm_after(const struct page_tuner *tuner, enum page_mix_arm arm)
{
    return arm == PAGE_MIX_RAW ? tightest(tuner) : (enum page_mix_arm)(arm - 1);
}

/* 3 %: less is noise, and changing has its price. */
static bool beats(double rate, double best)
{
    return rate > best * 1.03;
}

static bool is_worth_a_trial(const struct page_tuner *tuner, enum page_mix_arm arm)
{
    if (arm == tuner->best)
        return false;
    if (tuner->mixes && arm != PAGE_MIX_RAW && arm != tightest(tuner))
        return false; /* under the tightest it is used where it is better */
    /* How much a tighter one leaves may have changed with the content. */
    double limit = arm < tuner->best ? page_mix_limit(&tuner->mix, arm) : 0;
    return tuner->tries_all || limit <= 0 || beats(limit, tuner->rate[tuner->best]);
}

/* What the wire's pace rules out comes to its turn only where nothing else was left to try for long. */
static void begin_trial(struct page_tuner *tuner)
{
    for (unsigned i = 0; i < tuner->arm_count; i++) {
        enum page_mix_arm arm = tuner->next_trial;
        tuner->next_trial = arm_after(tuner, arm);
        if (!is_worth_a_trial(tuner, arm))
            continue;
        tuner->arm = arm;
        tuner->tries_all = false;
        return;
    }
    tuner->tries_all = true;
    tuner->until_trial = PAGE_TUNER_GAP_MAX;
}

/* The lane waits anyway, and what does not shrink is hardly tried: other content may come. */
static bool is_free_to_try(const struct page_tuner *tuner)
{
    return tuner->mixes && tuner->best == PAGE_MIX_RAW && tuner->wire_share >= 0.5 &&
           tuner->mix.arms[tightest(tuner)].size > 0.9;
}

static void end_trial(struct page_tuner *tuner)
{
    if (beats(tuner->rate[tuner->arm], tuner->rate[tuner->best])) {
        tuner->best = tuner->arm;
        tuner->gap = PAGE_TUNER_GAP_MIN;
    } else if (tuner->next_trial == tuner->best || tuner->next_trial == tightest(tuner)) {
        /* a whole turn without a better one */
        unsigned most = is_free_to_try(tuner) ? PAGE_TUNER_GAP_WAITING : PAGE_TUNER_GAP_MAX;
        tuner->gap = tuner->gap * 2 < most ? tuner->gap * 2 : most;
    }
    tuner->arm = tuner->best;
    /* Bound by the CPU, nothing that takes more of it can win: look again, but seldom. */
    tuner->until_trial =
        tuner->best == PAGE_MIX_RAW && tuner->wire_share < 0.2 ? PAGE_TUNER_GAP_MAX : tuner->gap;
}

static void end_window(struct page_tuner *tuner, const struct page_mix_look *look)
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
    if (tuner->best == PAGE_MIX_RAW && tuner->wire_share >= 0.2 &&
        tuner->until_trial > tuner->gap)
        tuner->until_trial = tuner->gap; /* the wire became the bottleneck meanwhile */
    if (--tuner->until_trial == 0) {
        if (tuner->best == PAGE_MIX_RAW && tuner->wire_share < 0.05) {
            tuner->until_trial = PAGE_TUNER_GAP_MAX; /* never waits: compressing cannot win */
            return;
        }
        begin_trial(tuner);
    }
}

void page_tuner_step(struct page_tuner *tuner, uint64_t bytes, const struct page_mix_look *look)
{
    if (tuner->policy != PAGE_TUNER_AUTO)
        return;
    page_mix_look(&tuner->mix, look);
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

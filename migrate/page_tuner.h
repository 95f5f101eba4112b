/* Does compressing pay on this lane just now? Measured, not guessed.
 *
 * Flow:   lane_source's clock and waits -> [page_tuner] -> page_codec
 * Thread: one lane's; pure.
 *
 * Each way of encoding is an arm; a window of a MiB or so measures its guest bytes per second, wall
 * clock, so whatever is the bottleneck is inside the number. The best arm runs; others are tried
 * for one window now and then: sooner while the lane waits for the wire, seldom while it waits for
 * nothing but its own CPU, and ever more seldom as long as trying does not pay. A socket takes megabytes at
 * once and then nothing for a while: what only filled it does not count as sent. An arm is the tightest codec that a
 * frame may go by: page_mix takes a lighter one where the wire would run dry meanwhile. What the wire's measured pace
 * rules out is not tried.
 */
#ifndef GODWIT_MIGRATE_PAGE_TUNER_H
#define GODWIT_MIGRATE_PAGE_TUNER_H

#include <stdbool.h>
#include <stdint.h>

#include "migrate/page_mix.h"

enum page_tuner_policy { PAGE_TUNER_AUTO, PAGE_TUNER_OFF, PAGE_TUNER_ALWAYS, PAGE_TUNER_ALWAYS_ZSTD };

enum {
    PAGE_TUNER_WINDOW_BYTES = 1 << 20,
    PAGE_TUNER_WINDOW_BYTES_MIN = 512 << 10, /* enough after PAGE_TUNER_WINDOW_NS */
    PAGE_TUNER_GAP_MIN = 3,                  /* windows between two trials */
    PAGE_TUNER_GAP_MAX = 256,
    PAGE_TUNER_GAP_WAITING = 16, /* the most while the lane waits and nothing shrinks: trying is free */
};
#define PAGE_TUNER_WINDOW_NS UINT64_C(20000000)

struct page_tuner {
    enum page_tuner_policy policy;
    enum page_mix_arm arm_count; /* that may be tried */
    bool mixes; /* its owner always knows the road: all or nothing, page_mix does what is between */
    struct page_mix mix;
    enum page_mix_arm arm;  /* in use: the tightest that a frame may go by */
    enum page_mix_arm best; /* so far */
    enum page_mix_arm next_trial;
    double rate[PAGE_MIX_ARM_COUNT]; /* bytes per ns, 0: never measured */
    double wire_share;                 /* of wall time waiting for the wire, with the best arm */
    unsigned gap, until_trial;         /* windows */
    bool tries_all; /* in the next trial, also what the wire's pace rules out */
    bool measuring;
    uint64_t bytes; /* since the window began */
    struct page_mix_look begun;
};

/* Without `takes_zstd` always zstd is always LZ4. */
void page_tuner_init(struct page_tuner *tuner, enum page_tuner_policy policy, bool takes_zstd);
/* By what the next frame goes. `road`: NULL where nobody knows it; then by what is in use. */
enum page_mix_arm page_tuner_choose(struct page_tuner *tuner, uint64_t bytes,
                                    const struct page_mix_road *road);
/* `bytes` of guest memory went out. */
void page_tuner_step(struct page_tuner *tuner, uint64_t bytes, const struct page_mix_look *look);
/* The lane has nothing to do: what it measures next must not contain that. */
void page_tuner_idle(struct page_tuner *tuner);

#endif

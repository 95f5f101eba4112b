/* Does compressing pay on this lane just now? Measured, not guessed.
 *
 * Flow:   lane_source's clock and waits -> [page_tuner] -> page_codec
 * Thread: one lane's; pure.
 *
 * Each way of encoding is an arm; a window of a MiB or so measures its guest bytes per second, wall
 * clock, so whatever is the bottleneck is inside the number. The best arm runs; others are tried
 * for one window now and then: sooner while the lane waits for the wire, seldom while it waits for
 * nothing but its own CPU, and ever more seldom as long as trying does not pay. A socket takes megabytes at
 * once and then nothing for a while: what only filled it does not count as sent.
 */
#ifndef GODWIT_MIGRATE_PAGE_TUNER_H
#define GODWIT_MIGRATE_PAGE_TUNER_H

#include <stdbool.h>
#include <stdint.h>

enum page_tuner_arm {
    PAGE_TUNER_RAW,
    PAGE_TUNER_LZ4_FAST,
    PAGE_TUNER_LZ4,
    PAGE_TUNER_LZ4_TIGHT,
    PAGE_TUNER_ZSTD, /* only where the target takes it */
    PAGE_TUNER_ARM_COUNT
};

enum page_tuner_policy { PAGE_TUNER_AUTO, PAGE_TUNER_OFF, PAGE_TUNER_ALWAYS, PAGE_TUNER_ALWAYS_ZSTD };

enum {
    PAGE_TUNER_WINDOW_BYTES = 1 << 20,
    PAGE_TUNER_WINDOW_BYTES_MIN = 128 << 10, /* enough after PAGE_TUNER_WINDOW_NS */
    PAGE_TUNER_GAP_MIN = 3,                  /* windows between two trials */
    PAGE_TUNER_GAP_MAX = 256,
};
#define PAGE_TUNER_WINDOW_NS UINT64_C(20000000)

/* What the lane saw. */
struct page_tuner_look {
    uint64_t now_ns;
    uint64_t waited_ns;    /* all waits for the wire so far */
    uint64_t wire_bytes;   /* that all of it took, so far */
    uint64_t queued_bytes; /* of those, what is still in this host's socket */
};

struct page_tuner {
    enum page_tuner_policy policy;
    enum page_tuner_arm arm_count; /* that may be tried */
    enum page_tuner_arm arm;  /* in use */
    enum page_tuner_arm best; /* so far */
    enum page_tuner_arm next_trial;
    double rate[PAGE_TUNER_ARM_COUNT]; /* bytes per ns, 0: never measured */
    double wire_share;                 /* of wall time waiting for the wire, with the best arm */
    unsigned gap, until_trial;         /* windows */
    bool measuring;
    uint64_t bytes; /* since the window began */
    struct page_tuner_look begun;
};

/* Without `takes_zstd` always zstd is always LZ4. */
void page_tuner_init(struct page_tuner *tuner, enum page_tuner_policy policy, bool takes_zstd);
/* `bytes` of guest memory went out. */
void page_tuner_step(struct page_tuner *tuner, uint64_t bytes, const struct page_tuner_look *look);
/* The lane has nothing to do: what it measures next must not contain that. */
void page_tuner_idle(struct page_tuner *tuner);
int page_tuner_acceleration(enum page_tuner_arm arm); /* of LZ4; 0: another codec */

#endif

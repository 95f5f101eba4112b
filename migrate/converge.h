/* When to stop the guest: not after a time, but when waiting longer would not make the pause
 * shorter.
 *
 * Flow:   lanes' reports of a round -> [converge] -> source_core
 * Thread: the move's own; pure.
 *
 * After each round the dirty set of now is compared with the one that the round carried. Pause when
 * the predicted pause fits the goal AND the set has stopped shrinking (or is tiny). A set that has
 * stopped shrinking over the goal is told as waiting; the goal is never raised.
 */
#ifndef GODWIT_MIGRATE_CONVERGE_H
#define GODWIT_MIGRATE_CONVERGE_H

#include <stdbool.h>
#include <stdint.h>

enum {
    CONVERGE_TINY_PAGES = 64,     /* not worth another round */
    CONVERGE_SHRINK_PERCENT = 85, /* a set above this share of the last one no longer shrinks */
    CONVERGE_STALLS_MAX = 3,      /* rounds without shrinking before we say that we wait */
};

/* Pause that no page can be blamed for: kick, collect, save, load, answers (measured: 0.7-1 ms for
 * one vCPU), without the round trips. */
#define CONVERGE_FIXED_NS UINT64_C(500000)
#define CONVERGE_VCPU_NS UINT64_C(300000)
#define CONVERGE_PAGE_NS UINT64_C(4000) /* before anything was measured: 1 GB/s */

struct converge_round {
    uint64_t pages;         /* that the round carried, zero ones too */
    uint64_t data_pages;    /* of those, pages with bytes on the wire */
    uint64_t dirty_before;  /* when it began, where it left some out; 0: all were carried */
    uint64_t duration_ns;   /* until the last lane's fence was answered */
    uint64_t held_back_ns;  /* of it, waiting for the bandwidth limit (not so in the pause) */
    uint64_t dirty_pages;   /* now, after the round */
    uint64_t round_trip_ns; /* of the fence, the fastest lane's; 0: not measured */
};

struct converge {
    uint64_t downtime_ns_max;
    unsigned vcpus;

    uint64_t page_ns;       /* measured cost of one data page, 0: none yet */
    uint64_t round_trip_ns; /* the smallest seen */
    uint64_t dirty_before;  /* the set that the last round carried */
    uint64_t dirty_pages;   /* after it */
    uint64_t dirty_pages_per_s;
    uint64_t predicted_ns; /* pause, were it to begin now */
    unsigned rounds, stalls;
    bool waiting_for_goal;
};

enum converge_answer { CONVERGE_ROUND, CONVERGE_PAUSE };

void converge_init(struct converge *converge, uint64_t downtime_ns_max, unsigned vcpus);
/* Learn from a round and say what comes next. */
enum converge_answer converge_step(struct converge *converge, const struct converge_round *round);
uint64_t converge_predict_ns(const struct converge *converge, uint64_t dirty_pages);
/* Time until the guest runs at the target when `pages` are still to be sent in this round. `pace_ns`
 * is what a page of it has taken so far; 0: not known, as before it began. */
uint64_t converge_forecast_ns(const struct converge *converge, uint64_t pages,
                              uint64_t bytes_per_s_max, uint64_t pace_ns);

#endif

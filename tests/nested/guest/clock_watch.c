/* The guest's clocks as programs see them: neither may step back, and wall time keeps its distance from
 * monotonic time (nobody sets the clock here). */
#define _GNU_SOURCE
#include "load.h"

#include <time.h>

enum { PAIR_NS_MAX = 300000 }; /* read further apart, the two clocks are not comparable */

static uint64_t read_ns(clockid_t clock)
{
    struct timespec now;
    (void)clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static void *run(void *data)
{
    struct clock_watch *watch = data;
    uint64_t monotonic = 0, real = 0, distance = 0;
    for (;; watch->turns++) {
        uint64_t before = read_ns(CLOCK_MONOTONIC);
        uint64_t wall = read_ns(CLOCK_REALTIME);
        uint64_t after = read_ns(CLOCK_MONOTONIC);
        if (before < monotonic || after < before || wall < real)
            watch->back++;
        if (monotonic && before - monotonic > watch->step_ns_max)
            watch->step_ns_max = before - monotonic;
        if (after - before < PAIR_NS_MAX) {
            uint64_t apart = wall - before;
            if (!distance)
                distance = apart;
            uint64_t shift = apart > distance ? apart - distance : distance - apart;
            if (shift > watch->shift_ns_max)
                watch->shift_ns_max = shift;
        }
        monotonic = after;
        real = wall;
        sleep_ms(1);
    }
    return NULL;
}

void clock_watch_start(struct clock_watch *watch)
{
    start_thread(run, watch);
}

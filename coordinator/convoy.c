#include "coordinator/convoy.h"

/* One more move must carry so much more, or it is not worth its being one more. */
#define CLEARLY_MORE 1.08
#define MEASURE_S 1.5
#define FORGET_S 6.0
#define TRY_AGAIN_S 60.0
/* Of the rate that one move gets, a guest may rewrite so much. */
#define DIRTY_PART 0.6

unsigned convoy_limit(const struct convoy *convoy)
{
    return convoy->limit ? convoy->limit : CONVOY_START;
}

double convoy_rate(const struct convoy *convoy, unsigned moves)
{
    if (moves > CONVOY_MOST || convoy->seconds[moves] < MEASURE_S / 3)
        return 0;
    return convoy->bytes[moves] / convoy->seconds[moves];
}

static bool is_measured(const struct convoy *convoy, unsigned moves)
{
    return convoy->seconds[moves] >= MEASURE_S && convoy->ended[moves] >= moves;
}

static void set_limit(struct convoy *convoy, unsigned limit)
{
    convoy->limit = limit;
    convoy->since_s = 0;
    if (limit > convoy->most_tried)
        convoy->most_tried = limit;
}

static void decide(struct convoy *convoy)
{
    unsigned n = convoy_limit(convoy);
    if (!is_measured(convoy, n))
        return;
    double rate = convoy_rate(convoy, n), fewer = n > 1 ? convoy_rate(convoy, n - 1) : 0;
    if (n > CONVOY_START && fewer > 0 && rate < CLEARLY_MORE * fewer) {
        set_limit(convoy, n - 1);
        return;
    }
    bool is_new = convoy->most_tried <= n || convoy->since_s > TRY_AGAIN_S;
    if (n < CONVOY_MOST && is_new) {
        convoy->bytes[n + 1] = convoy->seconds[n + 1] = 0;
        convoy->ended[n + 1] = 0;
        set_limit(convoy, n + 1);
    }
}

void convoy_measure(struct convoy *convoy, unsigned moves, double bytes, double seconds,
                    unsigned ended)
{
    convoy->since_s += seconds;
    if (moves == 0 || moves > CONVOY_MOST)
        return;
    convoy->bytes[moves] += bytes;
    convoy->seconds[moves] += seconds;
    convoy->ended[moves] += ended;
    if (convoy->seconds[moves] > FORGET_S) {
        convoy->bytes[moves] /= 2;
        convoy->seconds[moves] /= 2;
    }
    decide(convoy);
}

bool convoy_carries(const struct convoy *convoy, double dirty_bytes_per_s, unsigned moves)
{
    for (unsigned n = moves; n > 0; n--) {
        double rate = convoy_rate(convoy, n);
        if (rate > 0)
            return dirty_bytes_per_s <= DIRTY_PART * rate / moves;
    }
    return true;
}

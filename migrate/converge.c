#include "migrate/converge.h"

#include <assert.h>
#include <string.h>

#include "base/bytes.h"
#include "base/world.h"

void converge_init(struct converge *converge, uint64_t downtime_ns_max, unsigned vcpus)
{
    *converge = (struct converge){.downtime_ns_max = downtime_ns_max, .vcpus = vcpus};
}

uint64_t converge_predict_ns(const struct converge *converge, uint64_t dirty_pages)
{
    uint64_t page_ns = converge->page_ns ? converge->page_ns : CONVERGE_PAGE_NS;
    /* Two round trips: state and READY, TRANSFER and STARTED. */
    return CONVERGE_FIXED_NS + CONVERGE_VCPU_NS * converge->vcpus + 2 * converge->round_trip_ns +
           dirty_pages * page_ns;
}

/* Only rounds with some weight tell the cost of a page; in the others latency drowns it. */
static void learn_page_ns(struct converge *converge, const struct converge_round *round)
{
    uint64_t weight = round->data_pages + (round->pages - round->data_pages) / 8;
    if (weight < 1024 && converge->page_ns)
        return;
    uint64_t busy_ns = round->duration_ns;
    busy_ns -= round->held_back_ns < busy_ns ? round->held_back_ns : busy_ns;
    busy_ns -= round->round_trip_ns < busy_ns ? round->round_trip_ns : busy_ns;
    if (weight < 16)
        return;
    uint64_t page_ns = busy_ns / weight;
    if (page_ns == 0)
        page_ns = 1;
    /* A light round may only correct upwards by little: it measured wake-ups. */
    if (weight < 1024 && page_ns > CONVERGE_PAGE_NS)
        page_ns = CONVERGE_PAGE_NS;
    converge->page_ns = converge->page_ns ? (converge->page_ns + page_ns) / 2 : page_ns;
}

enum converge_answer converge_step(struct converge *converge, const struct converge_round *round)
{
    assert(round->data_pages <= round->pages);

    if (round->round_trip_ns &&
        (converge->round_trip_ns == 0 || round->round_trip_ns < converge->round_trip_ns))
        converge->round_trip_ns = round->round_trip_ns;
    learn_page_ns(converge, round);
    if (round->duration_ns)
        converge->dirty_pages_per_s =
            (uint64_t)((double)round->dirty_pages * 1e9 / (double)round->duration_ns);
    converge->predicted_ns = converge_predict_ns(converge, round->dirty_pages);
    converge->rounds++;

    bool tiny = round->dirty_pages <= CONVERGE_TINY_PAGES;
    uint64_t before = round->dirty_before ? round->dirty_before : round->pages;
    bool shrinks = round->dirty_pages * 100 < before * CONVERGE_SHRINK_PERCENT;
    bool fits = converge->predicted_ns <= converge->downtime_ns_max;
    converge->dirty_before = before;
    converge->dirty_pages = round->dirty_pages;
    converge->stalls = shrinks ? 0 : converge->stalls + 1;
    converge->waiting_for_goal = !fits && (tiny || converge->stalls >= CONVERGE_STALLS_MAX);
    return fits && (tiny || !shrinks) ? CONVERGE_PAUSE : CONVERGE_ROUND;
}

uint64_t converge_forecast_ns(const struct converge *converge, uint64_t pages,
                              uint64_t bytes_per_s_max, uint64_t pace_ns)
{
    uint64_t page_ns = converge->page_ns ? converge->page_ns : CONVERGE_PAGE_NS;
    if (pace_ns) {
        page_ns = pace_ns; /* a limit has slowed it already */
    } else if (bytes_per_s_max) {
        uint64_t limit_ns = PAGE_BYTES * NS_PER_S / bytes_per_s_max;
        if (limit_ns > page_ns)
            page_ns = limit_ns;
    }
    /* Rounds are a geometric row: each dirties rho times what it carried. Near 1 there is no end
     * to forecast; four rounds is the most that is promised. */
    double rho = (double)converge->dirty_pages_per_s * (double)page_ns / 1e9;
    double factor = rho < 0.75 ? 1 / (1 - rho) : 4;
    return (uint64_t)((double)pages * (double)page_ns * factor) + converge_predict_ns(converge, 0);
}

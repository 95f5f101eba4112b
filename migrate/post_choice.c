#include "migrate/post_choice.h"

#include "base/bytes.h"
#include "base/world.h"

/* Another round of what is dirty now, and the pause behind it. */
static uint64_t next_round_ns(const struct converge *converge, uint64_t dirty_pages,
                              uint64_t bandwidth_bytes_per_s)
{
    uint64_t page_ns = converge->page_ns ? converge->page_ns : CONVERGE_PAGE_NS;
    if (bandwidth_bytes_per_s && PAGE_BYTES * NS_PER_S / bandwidth_bytes_per_s > page_ns)
        page_ns = PAGE_BYTES * NS_PER_S / bandwidth_bytes_per_s;
    return dirty_pages * page_ns + converge->predicted_ns;
}

Godwit__MovePostcopyReason post_choice_make(const struct converge *converge,
                                            const struct post_choice *facts)
{
    if (facts->ordered)
        return GODWIT__MOVE_POSTCOPY_REASON__MOVE_POSTCOPY_REASON_ORDERED;
    if (!facts->allowed)
        return GODWIT__MOVE_POSTCOPY_REASON__MOVE_POSTCOPY_REASON_NONE;
    bool fits = converge->predicted_ns <= converge->downtime_ns_max;
    if (!fits && converge->stalls > 0 && facts->throttle_permille >= POST_CHOICE_PERMILLE)
        return GODWIT__MOVE_POSTCOPY_REASON__MOVE_POSTCOPY_REASON_GOAL;
    uint64_t next_ns =
        next_round_ns(converge, converge->dirty_pages, facts->bandwidth_bytes_per_s);
    if (facts->left_ns <= next_ns)
        return GODWIT__MOVE_POSTCOPY_REASON__MOVE_POSTCOPY_REASON_DEADLINE;
    return GODWIT__MOVE_POSTCOPY_REASON__MOVE_POSTCOPY_REASON_NONE;
}

#include "migrate/throttle.h"

#include <assert.h>

void throttle_init(struct throttle *throttle, unsigned permille_max, unsigned stalls_min)
{
    assert(permille_max <= THROTTLE_PERMILLE_MAX);
    *throttle = (struct throttle){.permille_max = permille_max, .stalls_min = stalls_min};
}

void throttle_limit(struct throttle *throttle, unsigned permille_max, unsigned stalls_min)
{
    assert(permille_max <= THROTTLE_PERMILLE_MAX);
    throttle->permille_max = permille_max;
    throttle->stalls_min = stalls_min;
    if (throttle->permille > permille_max)
        throttle->permille = permille_max;
}

unsigned throttle_step(struct throttle *throttle, uint64_t pages, uint64_t dirty_pages,
                       unsigned stalls)
{
    if (throttle->permille == 0 && stalls < throttle->stalls_min)
        return 0;
    uint64_t slope = pages ? dirty_pages * 1000 / pages : 1000;
    if (slope <= THROTTLE_SLOPE_PERMILLE)
        return throttle->permille;
    /* A set that is written whole between two looks says 1000 however hard it is written: then the
     * cut is a half a round, and it takes some rounds to find the right one. */
    if (slope > 1000)
        slope = 1000;
    uint64_t runs = (1000 - throttle->permille) * (uint64_t)THROTTLE_SLOPE_PERMILLE / slope;
    unsigned permille = 1000 - (unsigned)runs;
    throttle->permille = permille < throttle->permille_max ? permille : throttle->permille_max;
    throttle->is_pressed = false;
    if (throttle->permille > throttle->permille_peak)
        throttle->permille_peak = throttle->permille;
    return throttle->permille;
}

bool throttle_press(struct throttle *throttle)
{
    unsigned permille = THROTTLE_PRESS_PERMILLE;
    if (permille > throttle->permille_max)
        permille = throttle->permille_max;
    if (throttle->permille >= permille)
        return false;
    throttle->permille = permille;
    throttle->is_pressed = true;
    if (throttle->permille > throttle->permille_peak)
        throttle->permille_peak = throttle->permille;
    return true;
}

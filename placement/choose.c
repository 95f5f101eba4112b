#include "placement/choose.h"

#include <math.h>
#include <string.h>

/* Stall that is not worth telling hosts apart by. */
#define STALL_EQUAL 1e-6

uint32_t choose_host(const struct layout *layout, uint32_t vm)
{
    uint32_t best = LAYOUT_NONE;
    double best_delta = INFINITY, best_pressure = INFINITY;
    for (uint32_t h = 0; h < layout_host_count(layout); h++) {
        double delta = layout_delta(layout, vm, h);
        if (delta > best_delta + STALL_EQUAL)
            continue;
        double pressure = layout_pressure(layout, h, vm);
        bool is_equal = delta > best_delta - STALL_EQUAL;
        if (is_equal && pressure > best_pressure)
            continue;
        if (is_equal && best != LAYOUT_NONE && pressure == best_pressure &&
            strcmp(layout_host(layout, h)->name, layout_host(layout, best)->name) > 0)
            continue;
        if (layout_judge(layout, vm, h, NULL) != LAYOUT_FITS)
            continue;
        best = h;
        best_delta = delta;
        best_pressure = pressure;
    }
    return best;
}

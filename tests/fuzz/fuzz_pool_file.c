/* A pool for what-if from any bytes: refused with words, or a layout that every plan can be made
 * of. */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "cli/pool_file.h"
#include "placement/balance.h"
#include "placement/evacuate.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count);

static void plan(struct layout *layout)
{
    const struct balance_ask ask = {.horizon_s = 1800,
                                    .hysteresis = 2,
                                    .gain_least = 1,
                                    .moves_most = 20,
                                    .link = FORECAST_LINK_UNKNOWN,
                                    .pause_goal_s = 0.1};
    struct moves moves = {0};
    struct balance_result result;
    if (layout_host_count(layout) > 16 || layout_vm_count(layout) > 64)
        return;
    assert(balance_repair(layout, &ask, &moves, NULL) == 0);
    moves_deinit(&moves);
    assert(balance_plan(layout, &ask, &moves, &result, NULL) == 0);
    moves_deinit(&moves);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    Godwit__PoolFile *pool = NULL;
    struct layout *layout = NULL;
    struct fault fault = {0};
    int r = pool_file_parse((const char *)bytes, count, "fuzz.yaml", &pool, &fault);
    assert((r == 0) == (pool != NULL));
    assert(r == 0 || fault.text[0]);
    if (!pool)
        return 0;
    r = pool_file_layout(pool, LAYOUT_STALL, &layout, &fault);
    assert((r == 0) == (layout != NULL));
    if (layout)
        plan(layout);
    layout = layout_free(layout);
    godwit__pool_file__free_unpacked(pool, NULL);
    return 0;
}

#include "agent/vm/disk_outflow_core.h"

#include <assert.h>

#include "base/world.h"

void disk_outflow_core_init(struct disk_outflow_core *core)
{
    *core = (struct disk_outflow_core){.step_bytes = DISK_OUTFLOW_STEP_FIRST};
}

void disk_outflow_core_arrived(struct disk_outflow_core *core, uint64_t bytes, uint64_t now_ns)
{
    if (core->waiting_bytes == 0)
        core->waiting_since_ns = now_ns;
    core->waiting_bytes += bytes;
}

uint64_t disk_outflow_core_due_ns(const struct disk_outflow_core *core)
{
    return core->waiting_bytes ? core->waiting_since_ns + DISK_OUTFLOW_AGE_MS * NS_PER_MS
                               : UINT64_MAX;
}

bool disk_outflow_core_is_due(const struct disk_outflow_core *core, uint64_t now_ns)
{
    if (core->under_way_bytes)
        return false;
    return core->waiting_bytes >= core->step_bytes || now_ns >= disk_outflow_core_due_ns(core);
}

void disk_outflow_core_begun(struct disk_outflow_core *core, uint64_t bytes, uint64_t now_ns)
{
    assert(bytes > 0 && bytes <= core->waiting_bytes);
    assert(core->under_way_bytes == 0);
    core->waiting_bytes -= bytes;
    core->waiting_since_ns = now_ns; /* what is left is younger than what went */
    core->under_way_bytes = bytes;
    core->begun_ns = now_ns;
}

void disk_outflow_core_ended(struct disk_outflow_core *core, uint64_t now_ns)
{
    const uint64_t goal_ns = DISK_OUTFLOW_STEP_MS * NS_PER_MS;
    uint64_t took_ns = now_ns - core->begun_ns, step = core->step_bytes;

    assert(core->under_way_bytes > 0);
    if (took_ns > goal_ns)
        step /= 2;
    else if (took_ns < goal_ns / 2 && core->under_way_bytes >= step / 2)
        step += step / 4; /* only a step of some weight tells of the next */
    if (step < DISK_OUTFLOW_STEP_MIN)
        step = DISK_OUTFLOW_STEP_MIN;
    if (step > DISK_OUTFLOW_STEP_MAX)
        step = DISK_OUTFLOW_STEP_MAX;
    core->step_bytes = step;
    core->under_way_bytes = 0;
}

bool disk_outflow_core_holds(const struct disk_outflow_core *core)
{
    return core->waiting_bytes >= DISK_OUTFLOW_HOLD_STEPS * core->step_bytes;
}

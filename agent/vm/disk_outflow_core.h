/* When what arrived of a disk goes out to the medium, how much at once, and when its lane is held.
 *
 * Flow:   disk_outflow -> [disk_outflow_core] -> disk_outflow
 * Thread: pure core; under the shell's lock.
 *
 *      arrived ---> waiting --begun--> under way --ended--> on the medium
 *                   |- held beyond two steps -|- one step -|
 *
 * Whoever else uses the medium stands behind what is under way: so that is little, and the less the slower
 * the medium is: a step is what it takes in STEP_MS. Only one is under way: a stream that never ends
 * keeps an elevator (mq-deadline) from ever turning back to the others. Nothing waits long, so that
 * the end is short.
 */
#ifndef GODWIT_AGENT_VM_DISK_OUTFLOW_CORE_H
#define GODWIT_AGENT_VM_DISK_OUTFLOW_CORE_H

#include <stdbool.h>
#include <stdint.h>

enum {
    DISK_OUTFLOW_STEP_MIN = 256 << 10,
    DISK_OUTFLOW_STEP_FIRST = 1 << 20,
    DISK_OUTFLOW_STEP_MAX = 8 << 20,
    DISK_OUTFLOW_STEP_MS = 20, /* what a step may take */
    DISK_OUTFLOW_AGE_MS = 50,  /* less than a step waits no longer than this */
    DISK_OUTFLOW_HOLD_STEPS = 2, /* so much may wait */
};

struct disk_outflow_core {
    uint64_t step_bytes;
    uint64_t waiting_bytes, waiting_since_ns;
    uint64_t under_way_bytes, begun_ns; /* 0: nothing is */
};

void disk_outflow_core_init(struct disk_outflow_core *core);
void disk_outflow_core_arrived(struct disk_outflow_core *core, uint64_t bytes, uint64_t now_ns);
/* A step is to begin now. */
bool disk_outflow_core_is_due(const struct disk_outflow_core *core, uint64_t now_ns);
/* When one will be though nothing more arrives; UINT64_MAX: nothing waits. */
uint64_t disk_outflow_core_due_ns(const struct disk_outflow_core *core);
/* A step of `bytes`, at most what waits, is begun; none is under way. */
void disk_outflow_core_begun(struct disk_outflow_core *core, uint64_t bytes, uint64_t now_ns);
/* What was under way is on the medium. */
void disk_outflow_core_ended(struct disk_outflow_core *core, uint64_t now_ns);
/* Who brings more is to wait. */
bool disk_outflow_core_holds(const struct disk_outflow_core *core);

#endif

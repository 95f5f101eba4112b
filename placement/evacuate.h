/* All of these VMs elsewhere, by moves that are legal in their order; what cannot go, and what
 * would have to give way.
 *
 * Flow:   coordinator, simulate -> [evacuate] -> moves
 * Thread: any one; pure but for the list's memory.
 */
#ifndef GODWIT_PLACEMENT_EVACUATE_H
#define GODWIT_PLACEMENT_EVACUATE_H

#include "placement/moves.h"

struct evacuate_ask {
    const uint32_t *vms;
    size_t count;
    struct forecast_link link;
    double pause_goal_s;
};

/* The layout stands at the plan's end afterwards. A VM that nothing takes directly is given room by
 * moving one other VM first. ERR_NOMEM is the only failure. */
int evacuate_plan(struct layout *layout, const struct evacuate_ask *ask, struct moves *moves,
                  struct fault *fault);
/* What would let this VM go, smallest first; for who was told a refusal. */
void evacuate_concede(struct layout *layout, uint32_t vm, struct blocker *blocker);
/* The same for one host: what would let it go just there. */
void evacuate_concede_on(struct layout *layout, uint32_t vm, uint32_t host,
                         struct blocker *blocker);

#endif

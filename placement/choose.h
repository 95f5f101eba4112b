/* Where should this one VM run? The host where it costs least, of those that may have it.
 *
 * Flow:   coordinator, evacuate -> [choose] -> layout
 * Thread: any one; pure.
 */
#ifndef GODWIT_PLACEMENT_CHOOSE_H
#define GODWIT_PLACEMENT_CHOOSE_H

#include "placement/layout.h"

/* Least stall and soft breaches first; where nobody would wait, the host that is least full then;
 * the name breaks a tie, so that a plan is repeatable. LAYOUT_NONE: no host may have it. */
uint32_t choose_host(const struct layout *layout, uint32_t vm);

#endif

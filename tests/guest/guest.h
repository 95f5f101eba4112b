/* The guest's boot, once ring 3 is reached.
 *
 * Flow:   vcpu_enter(0) -> [guest] -> ready
 * Thread: vCPU 0.
 */
#ifndef GUEST_GUEST_H
#define GUEST_GUEST_H

struct clock_page;

void guest_init(const struct clock_page *page);

#endif

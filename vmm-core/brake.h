/* Holds vCPUs back for a share of the time, so that what they write can be carried away.
 *
 * Flow:   migrate -> vm_brake -> [brake] -> vcpu, gate
 * Thread: its own, while the brake is on; set and free on one thread at a time.
 *
 * Time is cut into periods of some milliseconds; in each a vCPU is kicked out of the guest once and
 * stands for its share. Only those that write are held where KVM tells who does (page faults
 * taken); a vCPU that stands is let go at once when the gate closes: a pause never waits for the
 * brake.
 */
#ifndef GODWIT_VMM_CORE_BRAKE_H
#define GODWIT_VMM_CORE_BRAKE_H

#include <stdbool.h>
#include <stdint.h>

struct brake;
struct fault;
struct vm;

enum { BRAKE_PERMILLE_MAX = 990 };

/* One period: held first, then running. */
struct brake_period {
    uint64_t held_ns, period_ns;
};

/* Of at least 4 ms, longer where the running part would be too short to be worth a kick. */
struct brake_period brake_plan(unsigned permille);
/* Who is to be held, as a bit a vCPU: those with at least an eighth of the most faults; all of them
 * when nobody had any (KVM does not count them here). */
uint32_t brake_pick(const uint64_t *faults, unsigned vcpus);

int brake_new(struct brake **ret_brake, struct vm *vm, struct fault *fault);
struct brake *brake_free(struct brake *brake);
void brake_set(struct brake *brake, unsigned permille); /* 0: off */

#endif

/* How much a guest that writes faster than it can be sent must be held back: no more than needed.
 *
 * Flow:   converge, policy -> [throttle] -> source_core -> guest_ops.throttle
 * Thread: the move's own; pure.
 *
 * The controlled quantity is the slope of what is left: dirty pages after a round over pages that
 * it carried. While the goal is out of reach and the slope is not below a half, the time that the
 * guest may run is cut in proportion, once a round, down to what the policy allows; a cut is kept
 * until the move ends, so that what was won is not lost again.
 *
 * Where the goal is reached a last press pays, too: at slope a, with writers that run for a share b, rounds of
 * what is left take R + abR + ... = R / (1 - ab), and R (1 - b) / (1 - ab) of it are lost to the guest; standing
 * still it loses R at one go. With a <= 1 the first is never more by this count, which leaves out what
 * faults on protected pages cost; and no hole is longer than a period of the brake.
 */
#ifndef GODWIT_MIGRATE_THROTTLE_H
#define GODWIT_MIGRATE_THROTTLE_H

#include <stdbool.h>
#include <stdint.h>

enum {
    THROTTLE_PERMILLE_MAX = 990,
    THROTTLE_SLOPE_PERMILLE = 500,
    THROTTLE_PRESS_PERMILLE = 800,
};

/* A pause that is expected to be longer is worth pressing writers for: the brake itself lets them stand for
 * 4 ms at a time. */
#define THROTTLE_PRESS_NS_MIN UINT64_C(8000000)

struct throttle {
    unsigned permille_max; /* that the policy allows; 0: never */
    unsigned stalls_min;   /* rounds without shrinking before it begins */
    unsigned permille;     /* of the time, held back now */
    bool is_pressed;       /* for a shorter pause only: no sign of writers that are too fast */
    unsigned permille_peak;
};

void throttle_init(struct throttle *throttle, unsigned permille_max, unsigned stalls_min);
/* The policy changed on the way. */
void throttle_limit(struct throttle *throttle, unsigned permille_max, unsigned stalls_min);
/* After a round that did not reach the goal. `stalls`: as converge counts them. */
unsigned throttle_step(struct throttle *throttle, uint64_t pages, uint64_t dirty_pages,
                       unsigned stalls);
/* The goal is reached, and what is left is still much for one pause: hold writers back at once, as far as
 * the policy lets and no further than THROTTLE_PRESS_PERMILLE. False: they are already. */
bool throttle_press(struct throttle *throttle);

#endif

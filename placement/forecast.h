/* What one move will take and cost, before it begins: seconds, pause, what its guest and others
 * lose.
 *
 * Flow:   rates that were measured -> [forecast] -> evacuate, balance, plans
 * Thread: any; pure.
 *
 * Rounds of pre-copy: memory M at rate R while the guest writes D to distinct pages a second leaves
 * M (D/R)^n after n rounds, so the time is M/R (1 - rho^(n+1)) / (1 - rho). Every figure comes with
 * the high end of what it may be: who decides by gain against cost decides by the high end.
 */
#ifndef GODWIT_PLACEMENT_FORECAST_H
#define GODWIT_PLACEMENT_FORECAST_H

#include <stdbool.h>
#include <stdint.h>

struct forecast_link {
    double bytes_per_s; /* guest memory that one move carries */
    double doubt;       /* 0.2: the true rate may be a fifth off */
};
/* Nothing has been measured yet: a gigabit, give or take its half. */
#define FORECAST_LINK_UNKNOWN ((struct forecast_link){.bytes_per_s = 110e6, .doubt = 0.5})

struct forecast_guest {
    uint64_t populated_bytes;
    double dirty_bytes_per_s;
    uint32_t vcpus;
};

struct forecast {
    bool converges; /* else it ends at its deadline and rolls back */
    double seconds, seconds_high;
    double pause_s, pause_s_high;
    double bytes;
    double cost_s, cost_s_high; /* stall seconds: the pause, the slower guest, the link's use */
};

struct forecast forecast_move(const struct forecast_guest *guest, const struct forecast_link *link,
                              double pause_goal_s);
/* Measured anew: an average that forgets, and how far single moves are from it. */
void forecast_learn(struct forecast_link *link, double bytes_per_s);

#endif

/* Fewer stalls (or a more even pool) by moves that are worth their cost; or the honest word that
 * none is. Also: the fewest moves that bring broken hard rules back.
 *
 * Flow:   coordinator, simulate -> [balance] -> moves
 * Thread: any one; pure but for its memory.
 */
#ifndef GODWIT_PLACEMENT_BALANCE_H
#define GODWIT_PLACEMENT_BALANCE_H

#include "placement/moves.h"

struct balance_ask {
    double horizon_s;  /* LAYOUT_STALL: how long the loads are expected to last */
    double hysteresis; /* a move must bring so many times the high end of its cost */
    double gain_least; /* in the goal's unit; less is not worth a plan */
    uint32_t moves_most;
    struct forecast_link link;
    double pause_goal_s;
    /* Stop like Ganeti's hbal: below `even_enough` a move must bring `gain_least`. Then the plan is
     * never longer than that one-move descent and never ends worse. */
    bool is_budgeted;
    double even_enough;
};

struct balance_result {
    double before, after; /* the layout's score */
    double gain, cost;    /* stall seconds over the horizon; LAYOUT_EVEN: score and 0 */
    uint64_t candidates;  /* that were looked at */
    char verdict[LAYOUT_WORDS_SIZE];
};

/* Moves in an order that breaks no hard rule and runs out of no memory on the way. The layout
 * stands at the plan's end afterwards. */
int balance_plan(struct layout *layout, const struct balance_ask *ask, struct moves *moves,
                 struct balance_result *ret_result, struct fault *fault);

/* Each VM that breaks a hard rule where it is gets a host where it breaks none; what cannot is a
 * blocker with its concessions. */
int balance_repair(struct layout *layout, const struct balance_ask *ask, struct moves *moves,
                   struct fault *fault);

#endif

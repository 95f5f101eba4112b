/* An ordered list of moves, and what stands in the way of those that are not in it.
 *
 * Flow:   evacuate, balance -> [moves] -> plan, simulate
 * Thread: any one; heap.
 */
#ifndef GODWIT_PLACEMENT_MOVES_H
#define GODWIT_PLACEMENT_MOVES_H

#include <stddef.h>

#include "placement/forecast.h"
#include "placement/layout.h"

enum {
    MOVES_REJECTED_MAX = 4,    /* hosts that are told of a step */
    MOVES_CONCESSIONS_MAX = 4, /* told of a blocker, the smallest first */
    MOVES_MAX = 131072,
};

struct move {
    uint32_t vm, from, to;
    double gain; /* of the goal, beside what it costs; evacuations: 0 */
    struct forecast forecast;
    char reason[LAYOUT_WORDS_SIZE];
    char rejected[MOVES_REJECTED_MAX][LAYOUT_WORDS_SIZE];
    unsigned rejected_count;
    uint32_t rules[4]; /* that it leans on */
    unsigned rule_count;
};

struct blocker {
    uint32_t vm;
    char reason[LAYOUT_WORDS_SIZE];
    char concessions[MOVES_CONCESSIONS_MAX][LAYOUT_WORDS_SIZE];
    unsigned concession_count;
};

struct moves {
    struct move *moves;
    size_t count, room;
    struct blocker *blockers;
    size_t blocker_count, blocker_room;
};

/* Each gives a zeroed entry. NULL: no memory. */
struct move *moves_add(struct moves *moves);
struct blocker *moves_add_blocker(struct moves *moves);
void moves_deinit(struct moves *moves);
/* Why the move is as it is, by the layout as it is just before: the target's figures, the hosts
 * that were not taken and why, the rules it leans on. */
void moves_explain(const struct layout *layout, struct move *move);

/* Seconds that the moves take, nobody waiting for anybody's rule: the busiest host's moves one
 * after another, or the longest of all. */
double moves_lower_bound_s(const struct layout *layout, const struct moves *moves);

#endif

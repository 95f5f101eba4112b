/* Pools drawn from a seed: hosts of two sizes, VMs of many, placed as if by someone in a hurry.
 *
 * Flow:   tests, bench_planner -> [random_pool] -> layout
 * Thread: one.
 */
#ifndef GODWIT_TESTS_RANDOM_POOL_H
#define GODWIT_TESTS_RANDOM_POOL_H

#include "placement/layout.h"

struct random_pool {
    uint64_t seed;
    uint32_t hosts, vms, domains;
    double fill;    /* of all memory, by the VMs' sizes */
    double load;    /* demand over all cores */
    double skew;    /* 0: VMs go anywhere, 1: mostly to the first hosts */
    uint32_t rules; /* hard anti-affinities of three VMs each */
};

/* Gives a sealed layout; names live as long as the process. */
struct layout *random_pool_new(const struct random_pool *pool, enum layout_goal goal);
uint64_t random_pool_draw(uint64_t *seed);

#endif

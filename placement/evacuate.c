/* The hardest VMs choose first: those bound by company or rules, then the largest. Each takes the
 * cheapest host as the pool is by then. What fits nowhere tries to make room (one other VM moves
 * first). What is left over is a blocker, and every single concession is tried on it: a rule
 * relaxed, a cordon lifted, a VM stopped; then pairs of a rule and a stopped VM. */
#include "placement/evacuate.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/err.h"
#include "base/own.h"
#include "placement/choose.h"

enum { STOPS_TRIED_MAX = 64, HOSTS_TRIED_MAX = 256 };

struct evacuation {
    struct layout *layout;
    const struct evacuate_ask *ask;
    struct moves *moves;
    uint8_t *leaves; /* by VM */
};

static struct forecast forecast_of(const struct evacuation *evacuation, uint32_t v)
{
    const struct layout_vm *vm = layout_vm(evacuation->layout, v);
    const struct forecast_guest guest = {.populated_bytes = vm->populated_bytes,
                                         .dirty_bytes_per_s = vm->dirty_bytes_per_s,
                                         .vcpus = vm->vcpus};
    return forecast_move(&guest, &evacuation->ask->link, evacuation->ask->pause_goal_s);
}

static int make(struct evacuation *evacuation, uint32_t vm, uint32_t to, const char *why,
                struct fault *fault)
{
    struct move *move = moves_add(evacuation->moves);
    if (!move)
        return fault_set(fault, ERR_NOMEM, "no memory for the moves of a plan");
    move->vm = vm;
    move->from = layout_vm(evacuation->layout, vm)->host;
    move->to = to;
    move->forecast = forecast_of(evacuation, vm);
    if (why)
        (void)snprintf(move->reason, sizeof move->reason, "%s", why);
    moves_explain(evacuation->layout, move);
    layout_move(evacuation->layout, vm, to);
    return 0;
}

/* Somebody else moves first, so that `vm` can go to `host`: who, and where to. */
static uint32_t find_maker(const struct evacuation *evacuation, uint32_t vm, uint32_t host,
                           uint32_t *ret_to)
{
    struct layout *layout = evacuation->layout;
    uint32_t best = LAYOUT_NONE;
    for (uint32_t other = layout_first_vm(layout, host), next; other != LAYOUT_NONE; other = next) {
        next = layout_next_vm(layout, other);
        const struct layout_vm *of_other = layout_vm(layout, other);
        if (of_other->fixed || evacuation->leaves[other] || layout_has_company(layout, other) ||
            (best != LAYOUT_NONE &&
             of_other->memory_bytes >= layout_vm(layout, best)->memory_bytes))
            continue;
        uint32_t to = choose_host(layout, other);
        if (to == LAYOUT_NONE || to == layout_vm(layout, vm)->host)
            continue;
        layout_move(layout, other, to);
        if (layout_judge(layout, vm, host, NULL) == LAYOUT_FITS) {
            best = other;
            *ret_to = to;
        }
        layout_move(layout, other, host);
    }
    return best;
}

static int make_room(struct evacuation *evacuation, uint32_t vm, bool *ret_made,
                     struct fault *fault)
{
    struct layout *layout = evacuation->layout;
    unsigned tried = 0;
    for (uint32_t h = 0; h < layout_host_count(layout) && tried < HOSTS_TRIED_MAX; h++) {
        enum layout_obstacle obstacle = layout_judge(layout, vm, h, NULL);
        if (obstacle != LAYOUT_MEMORY && obstacle != LAYOUT_RULE)
            continue;
        uint32_t to = LAYOUT_NONE, maker = find_maker(evacuation, vm, h, &to);
        tried++;
        if (maker == LAYOUT_NONE)
            continue;
        char why[LAYOUT_WORDS_SIZE];
        (void)snprintf(why, sizeof why, "makes room on %s for %s", layout_host(layout, h)->name,
                       layout_vm(layout, vm)->name);
        int r = make(evacuation, maker, to, why, fault);
        if (r == 0)
            r = make(evacuation, vm, h, NULL, fault);
        *ret_made = true;
        return r;
    }
    *ret_made = false;
    return 0;
}

/* ---- concessions ------------------------------------------------------------------------------
 */

static void concede(struct blocker *blocker, const char *format, const char *a, const char *b)
{
    if (blocker->concession_count < MOVES_CONCESSIONS_MAX)
        (void)snprintf(blocker->concessions[blocker->concession_count++], LAYOUT_WORDS_SIZE, format,
                       a, b);
}

/* Would it fit if `stopped` ran nowhere? */
static bool fits_without(struct layout *layout, uint32_t vm, uint32_t host, uint32_t stopped)
{
    layout_move(layout, stopped, LAYOUT_NONE);
    bool fits = layout_judge(layout, vm, host, NULL) == LAYOUT_FITS;
    layout_move(layout, stopped, host);
    return fits;
}

/* The smallest VM whose stop lets `vm` in somewhere. */
static uint32_t find_stop(struct layout *layout, uint32_t vm)
{
    uint32_t best = LAYOUT_NONE;
    unsigned tried = 0;
    for (uint32_t h = 0; h < layout_host_count(layout) && tried < HOSTS_TRIED_MAX; h++) {
        enum layout_obstacle obstacle = layout_judge(layout, vm, h, NULL);
        if (obstacle != LAYOUT_MEMORY && obstacle != LAYOUT_RULE)
            continue;
        unsigned stops = 0;
        tried++;
        for (uint32_t other = layout_first_vm(layout, h), next;
             other != LAYOUT_NONE && stops < STOPS_TRIED_MAX; other = next, stops++) {
            next = layout_next_vm(layout, other);
            bool is_smaller = best == LAYOUT_NONE || layout_vm(layout, other)->memory_bytes <
                                                         layout_vm(layout, best)->memory_bytes;
            if (is_smaller && fits_without(layout, vm, h, other))
                best = other;
        }
    }
    return best;
}

static void concede_rules(struct layout *layout, uint32_t vm, struct blocker *blocker)
{
    for (uint32_t r = 0; r < layout_rule_count(layout); r++) {
        const struct layout_rule *rule = layout_rule(layout, r);
        bool is_member = false;
        for (uint32_t i = 0; rule->hard && !is_member && i < rule->vm_count; i++)
            is_member = rule->vms[i] == vm;
        if (!is_member)
            continue;
        layout_ignore_rule(layout, r, true);
        if (choose_host(layout, vm) != LAYOUT_NONE)
            concede(blocker, "relax rule %s%s", rule->id, "");
        layout_ignore_rule(layout, r, false);
    }
}

static void concede_rule_and_stop(struct layout *layout, uint32_t vm, struct blocker *blocker)
{
    for (uint32_t r = 0; blocker->concession_count == 0 && r < layout_rule_count(layout); r++) {
        const struct layout_rule *rule = layout_rule(layout, r);
        if (!rule->hard)
            continue;
        layout_ignore_rule(layout, r, true);
        uint32_t stop = find_stop(layout, vm);
        layout_ignore_rule(layout, r, false);
        if (stop != LAYOUT_NONE)
            concede(blocker, "relax rule %s and stop %s", rule->id, layout_vm(layout, stop)->name);
    }
}

void evacuate_concede(struct layout *layout, uint32_t vm, struct blocker *blocker)
{
    uint32_t from = layout_vm(layout, vm)->host;
    concede_rules(layout, vm, blocker);
    for (uint32_t h = 0; h < layout_host_count(layout); h++) {
        if (h == from || !layout_host(layout, h)->cordoned)
            continue;
        layout_cordon(layout, h, false);
        if (layout_judge(layout, vm, h, NULL) == LAYOUT_FITS)
            concede(blocker, "uncordon %s%s", layout_host(layout, h)->name, "");
        layout_cordon(layout, h, true);
    }
    uint32_t stop = find_stop(layout, vm);
    if (stop != LAYOUT_NONE)
        concede(blocker, "stop %s%s", layout_vm(layout, stop)->name, "");
    concede_rule_and_stop(layout, vm, blocker);
    concede(blocker, "stop %s itself%s", layout_vm(layout, vm)->name, "");
}

void evacuate_concede_on(struct layout *layout, uint32_t vm, uint32_t host, struct blocker *blocker)
{
    enum layout_obstacle first = layout_judge(layout, vm, host, NULL);
    if (first == LAYOUT_CORDONED) {
        layout_cordon(layout, host, false);
        if (layout_judge(layout, vm, host, NULL) == LAYOUT_FITS)
            concede(blocker, "uncordon %s%s", layout_host(layout, host)->name, "");
        layout_cordon(layout, host, true);
    }
    for (uint32_t r = 0; first == LAYOUT_RULE && r < layout_rule_count(layout); r++) {
        layout_ignore_rule(layout, r, true);
        if (layout_judge(layout, vm, host, NULL) == LAYOUT_FITS)
            concede(blocker, "relax rule %s%s", layout_rule(layout, r)->id, "");
        layout_ignore_rule(layout, r, false);
    }
    unsigned tried = 0;
    for (uint32_t other = layout_first_vm(layout, host), next;
         (first == LAYOUT_RULE || first == LAYOUT_MEMORY) && other != LAYOUT_NONE &&
         tried < STOPS_TRIED_MAX;
         other = next, tried++) {
        next = layout_next_vm(layout, other);
        if (!fits_without(layout, vm, host, other))
            continue;
        concede(blocker, "stop or move %s%s", layout_vm(layout, other)->name, "");
        break;
    }
}

static int block(struct evacuation *evacuation, uint32_t vm, struct fault *fault)
{
    struct layout *layout = evacuation->layout;
    const struct layout_vm *of_vm = layout_vm(layout, vm);
    struct blocker *blocker = moves_add_blocker(evacuation->moves);
    if (!blocker)
        return fault_set(fault, ERR_NOMEM, "no memory for the blockers of a plan");
    blocker->vm = vm;
    if (of_vm->fixed) {
        (void)snprintf(blocker->reason, sizeof blocker->reason, "%s", of_vm->fixed);
        return 0;
    }
    /* Of all hosts' reasons the one that is nearest to fitting says most. */
    enum layout_obstacle nearest = LAYOUT_SAME_HOST;
    for (uint32_t h = 0; h < layout_host_count(layout); h++) {
        enum layout_obstacle obstacle = layout_judge(layout, vm, h, NULL);
        if (obstacle <= nearest)
            continue;
        nearest = obstacle;
        (void)layout_obstacle_words(layout, vm, h, blocker->reason, sizeof blocker->reason);
    }
    if (nearest == LAYOUT_SAME_HOST)
        (void)snprintf(blocker->reason, sizeof blocker->reason, "the pool has no other host");
    evacuate_concede(layout, vm, blocker);
    return 0;
}

/* ---- the order --------------------------------------------------------------------------------
 */

struct ranked {
    uint32_t vm;
    uint64_t weight;
};

static int by_weight(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->weight != y->weight)
        return x->weight > y->weight ? -1 : 1;
    return x->vm < y->vm ? -1 : x->vm > y->vm;
}

static struct ranked *rank(const struct evacuation *evacuation)
{
    const struct evacuate_ask *ask = evacuation->ask;
    struct ranked *order = calloc(ask->count + 1, sizeof *order);
    for (size_t i = 0; order && i < ask->count; i++) {
        const struct layout_vm *vm = layout_vm(evacuation->layout, ask->vms[i]);
        bool is_bound = layout_has_company(evacuation->layout, ask->vms[i]);
        order[i] = (struct ranked){.vm = ask->vms[i],
                                   .weight = vm->memory_bytes + (is_bound ? UINT64_C(1) << 62 : 0)};
    }
    if (order)
        qsort(order, ask->count, sizeof *order, by_weight);
    return order;
}

static int place_one(struct evacuation *evacuation, uint32_t vm, struct fault *fault)
{
    if (layout_vm(evacuation->layout, vm)->fixed)
        return block(evacuation, vm, fault);
    uint32_t to = choose_host(evacuation->layout, vm);
    if (to != LAYOUT_NONE)
        return make(evacuation, vm, to, NULL, fault);
    bool made = false;
    int r = make_room(evacuation, vm, &made, fault);
    return r < 0 || made ? r : block(evacuation, vm, fault);
}

int evacuate_plan(struct layout *layout, const struct evacuate_ask *ask, struct moves *moves,
                  struct fault *fault)
{
    struct evacuation evacuation = {.layout = layout, .ask = ask, .moves = moves};
    AUTO_FREE uint8_t *leaves = calloc(layout_vm_count(layout) + 1, 1);
    AUTO_FREE struct ranked *order = rank(&evacuation);
    if (!leaves || !order)
        return fault_set(fault, ERR_NOMEM, "no memory for a plan");
    evacuation.leaves = leaves;
    for (size_t i = 0; i < ask->count; i++)
        leaves[ask->vms[i]] = 1;
    int r = 0;
    for (size_t i = 0; r == 0 && i < ask->count; i++)
        r = place_one(&evacuation, order[i].vm, fault);
    return r;
}

/* The plan is found in two halves. First an assignment: descent by single moves, then swaps and
 * moves that make room for one another, where one move can do no more. What a VM is displaced costs
 * once, however often the search changed its mind, and a VM that comes home costs nothing: so a
 * search step's price is the difference of two assignments, not a step. Then an order of the moves
 * from where VMs are to where they shall be, each legal when its turn comes; a ring of VMs that
 * wait for each other's memory is cut by leaving one at home.
 *
 * Scans look at the hosts that suffer most against those that suffer least (all of them while the
 * pool is small): the best move is nearly always among these. */
#include "placement/balance.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/own.h"
#include "placement/choose.h"
#include "placement/evacuate.h"

enum {
    SOURCES = 16,
    TARGETS = 24,
    SWAP_HOSTS = 12,
    FULL_SCAN = 20000, /* candidates a scan may have before it is pruned */
    ORDER_FULL = 512,  /* moves that are ordered by their gain */
};

struct rank {
    uint32_t host;
    double value;
};

struct balance {
    struct layout *layout;
    const struct balance_ask *ask;
    uint32_t *home; /* by VM: where it was when the plan began */
    double *cost;   /* by VM: what displacing it costs, hysteresis in; negative: computed later */
    double factor;  /* goal -> unit of cost */
    uint32_t displaced, displaced_most;
    uint64_t candidates;
    struct rank *ranks; /* by host */
    uint32_t sources[LAYOUT_HOSTS_MAX], targets[LAYOUT_HOSTS_MAX];
    uint32_t source_count, target_count;
};

struct step { /* of the search */
    double delta;
    uint32_t a, to, b, b_to; /* b: LAYOUT_NONE for a single move */
};

static double cost_of(struct balance *balance, uint32_t v)
{
    if (balance->ask->is_budgeted)
        return 0;
    if (balance->cost[v] >= 0)
        return balance->cost[v];
    const struct layout_vm *vm = layout_vm(balance->layout, v);
    const struct forecast_guest guest = {.populated_bytes = vm->populated_bytes,
                                         .dirty_bytes_per_s = vm->dirty_bytes_per_s,
                                         .vcpus = vm->vcpus};
    struct forecast forecast =
        forecast_move(&guest, &balance->ask->link, balance->ask->pause_goal_s);
    balance->cost[v] = forecast.converges ? balance->ask->hysteresis * forecast.cost_s_high : 1e12;
    return balance->cost[v];
}

/* Displacing costs, coming home gives it back. */
static double displacement(struct balance *balance, uint32_t v, uint32_t to, int *ret_more)
{
    uint32_t home = balance->home[v];
    bool was = layout_vm(balance->layout, v)->host != home, will = to != home;
    *ret_more = (int)will - (int)was;
    return *ret_more == 0 ? 0 : *ret_more * cost_of(balance, v);
}

static bool may_move(const struct balance *balance, uint32_t v)
{
    return !layout_vm(balance->layout, v)->fixed && !layout_has_company(balance->layout, v);
}

static bool within_budget(const struct balance *balance, int more)
{
    return more <= 0 || balance->displaced + (uint32_t)more <= balance->displaced_most;
}

static void carry_out(struct balance *balance, uint32_t v, uint32_t to)
{
    int more;
    (void)displacement(balance, v, to, &more);
    balance->displaced = (uint32_t)((int)balance->displaced + more);
    layout_move(balance->layout, v, to);
}

/* ---- which hosts ------------------------------------------------------------------------------
 */

static int by_value(const void *a, const void *b)
{
    const struct rank *x = a, *y = b;
    if (x->value != y->value)
        return x->value > y->value ? -1 : 1;
    return x->host < y->host ? -1 : x->host > y->host;
}

/* The `count` first by value to the front; the order of the rest does not matter. */
static void select_first(struct rank *ranks, uint32_t total, uint32_t count)
{
    uint32_t low = 0, high = total;
    while (count < total && high - low > 1) {
        struct rank pivot = ranks[low + (high - low) / 2];
        uint32_t i = low, j = high - 1;
        for (;;) {
            while (by_value(&ranks[i], &pivot) < 0)
                i++;
            while (by_value(&ranks[j], &pivot) > 0)
                j--;
            if (i >= j)
                break;
            struct rank kept = ranks[i];
            ranks[i] = ranks[j];
            ranks[j] = kept;
            i++;
            j--;
        }
        uint32_t middle = j + 1 > low ? j + 1 : low + 1;
        if (middle >= high)
            middle = high - 1;
        if (count < middle)
            high = middle;
        else
            low = middle;
    }
    qsort(ranks, count < total ? count : total, sizeof *ranks, by_value);
}

static double suffering(const struct layout *layout, uint32_t h)
{
    return 1e3 * layout_host_stall(layout, h) + layout_host_load(layout, h) +
           layout_pressure(layout, h, LAYOUT_NONE);
}

static void rank_hosts(struct balance *balance, bool prune)
{
    const struct layout *layout = balance->layout;
    uint32_t count = 0;
    for (uint32_t h = 0; h < layout_host_count(layout); h++) {
        if (layout_host(layout, h)->up)
            balance->ranks[count++] = (struct rank){.host = h, .value = suffering(layout, h)};
    }
    uint32_t sources = prune && count > SOURCES ? SOURCES : count;
    uint32_t targets = prune && count > TARGETS ? TARGETS : count;
    select_first(balance->ranks, count, sources);
    for (uint32_t i = 0; i < sources; i++)
        balance->sources[i] = balance->ranks[i].host;
    for (uint32_t i = 0; i < count; i++)
        balance->ranks[i].value = -balance->ranks[i].value;
    select_first(balance->ranks, count, targets);
    for (uint32_t i = 0; i < targets; i++)
        balance->targets[i] = balance->ranks[i].host;
    balance->source_count = sources;
    balance->target_count = targets;
}

/* ---- search steps -----------------------------------------------------------------------------
 */

static void try_single(struct balance *balance, uint32_t v, uint32_t to, struct step *best)
{
    int more;
    uint32_t from = layout_vm(balance->layout, v)->host;
    if (to == from)
        return;
    balance->candidates++;
    double delta = balance->factor * layout_delta(balance->layout, v, to);
    if (delta >= best->delta && delta >= 0 && balance->home[v] != to)
        return;
    delta += displacement(balance, v, to, &more);
    if (delta >= best->delta || !within_budget(balance, more) ||
        layout_judge(balance->layout, v, to, NULL) != LAYOUT_FITS)
        return;
    *best = (struct step){.delta = delta, .a = v, .to = to, .b = LAYOUT_NONE};
}

static struct step best_single(struct balance *balance, double least)
{
    struct layout *layout = balance->layout;
    struct step best = {.delta = -least, .a = LAYOUT_NONE, .b = LAYOUT_NONE};
    for (uint32_t s = 0; s < balance->source_count; s++) {
        uint32_t from = balance->sources[s];
        if (layout_host_stall(layout, from) <= 0 && !balance->ask->is_budgeted &&
            balance->displaced == 0 && layout_rule_count(layout) == 0)
            continue; /* nobody waits there */
        for (uint32_t v = layout_first_vm(layout, from); v != LAYOUT_NONE;
             v = layout_next_vm(layout, v)) {
            if (!may_move(balance, v))
                continue;
            for (uint32_t t = 0; t < balance->target_count; t++)
                try_single(balance, v, balance->targets[t], &best);
            if (balance->home[v] != from)
                try_single(balance, v, balance->home[v], &best);
        }
    }
    return best;
}

/* Both ways legal: each leaves before the other comes. The order is found later, or a ring is cut.
 */
static bool swap_fits(struct layout *layout, uint32_t a, uint32_t b)
{
    uint32_t of_a = layout_vm(layout, a)->host, of_b = layout_vm(layout, b)->host;
    layout_move(layout, b, LAYOUT_NONE);
    bool fits = layout_judge(layout, a, of_b, NULL) == LAYOUT_FITS;
    layout_move(layout, a, of_b);
    fits = fits && layout_judge(layout, b, of_a, NULL) == LAYOUT_FITS;
    layout_move(layout, a, of_a);
    layout_move(layout, b, of_b);
    return fits;
}

static void try_swap(struct balance *balance, uint32_t a, uint32_t b, struct step *best)
{
    int more_a, more_b;
    struct layout *layout = balance->layout;
    uint32_t of_a = layout_vm(layout, a)->host, of_b = layout_vm(layout, b)->host;
    balance->candidates++;
    double delta = balance->factor * layout_swap_delta(layout, a, b);
    if (delta >= best->delta && delta >= 0)
        return;
    delta += displacement(balance, a, of_b, &more_a) + displacement(balance, b, of_a, &more_b);
    if (delta >= best->delta || !within_budget(balance, more_a + more_b) ||
        !swap_fits(layout, a, b))
        return;
    *best = (struct step){.delta = delta, .a = a, .to = of_b, .b = b, .b_to = of_a};
}

static struct step best_swap(struct balance *balance, double least)
{
    struct layout *layout = balance->layout;
    struct step best = {.delta = -least, .a = LAYOUT_NONE, .b = LAYOUT_NONE};
    bool all = balance->source_count <= 2 * SWAP_HOSTS;
    uint32_t sources = all ? balance->source_count : SWAP_HOSTS;
    uint32_t targets = all ? balance->target_count : SWAP_HOSTS;
    for (uint32_t s = 0; s < sources; s++) {
        for (uint32_t t = 0; t < targets; t++) {
            uint32_t from = balance->sources[s], to = balance->targets[t];
            if (from == to || (all && from > to))
                continue;
            for (uint32_t a = layout_first_vm(layout, from), a_next; a != LAYOUT_NONE; a = a_next) {
                a_next = layout_next_vm(layout, a);
                if (!may_move(balance, a))
                    continue;
                for (uint32_t b = layout_first_vm(layout, to), b_next; b != LAYOUT_NONE;
                     b = b_next) {
                    b_next = layout_next_vm(layout, b);
                    if (may_move(balance, b))
                        try_swap(balance, a, b, &best);
                }
            }
        }
    }
    return best;
}

/* `a` to `to` once `b` has left it for a third host. */
static struct step best_chain(struct balance *balance, double least)
{
    struct layout *layout = balance->layout;
    struct step best = {.delta = -least, .a = LAYOUT_NONE, .b = LAYOUT_NONE};
    uint32_t sources = balance->source_count < SWAP_HOSTS ? balance->source_count : SWAP_HOSTS;
    uint32_t targets = balance->target_count < SWAP_HOSTS ? balance->target_count : SWAP_HOSTS;
    for (uint32_t s = 0; s < sources; s++) {
        uint32_t from = balance->sources[s], a_next;
        for (uint32_t a = layout_first_vm(layout, from); a != LAYOUT_NONE; a = a_next) {
            a_next = layout_next_vm(layout, a);
            for (uint32_t t = 0; may_move(balance, a) && t < targets; t++) {
                uint32_t to = balance->targets[t];
                if (to == from)
                    continue;
                enum layout_obstacle obstacle = layout_judge(layout, a, to, NULL);
                if (obstacle != LAYOUT_MEMORY && obstacle != LAYOUT_RULE)
                    continue;
                for (uint32_t b = layout_first_vm(layout, to), b_next; b != LAYOUT_NONE;
                     b = b_next) {
                    int more_a, more_b;
                    b_next = layout_next_vm(layout, b);
                    uint32_t b_to = may_move(balance, b) ? choose_host(layout, b) : LAYOUT_NONE;
                    if (b_to == LAYOUT_NONE || b_to == from)
                        continue;
                    balance->candidates++;
                    double delta = balance->factor * layout_delta(layout, b, b_to) +
                                   displacement(balance, b, b_to, &more_b);
                    layout_move(layout, b, b_to);
                    delta += balance->factor * layout_delta(layout, a, to) +
                             displacement(balance, a, to, &more_a);
                    bool fits = delta < best.delta && within_budget(balance, more_a + more_b) &&
                                layout_judge(layout, a, to, NULL) == LAYOUT_FITS;
                    layout_move(layout, b, to);
                    if (fits)
                        best =
                            (struct step){.delta = delta, .a = a, .to = to, .b = b, .b_to = b_to};
                }
            }
        }
    }
    return best;
}

static void take(struct balance *balance, const struct step *step)
{
    if (step->b != LAYOUT_NONE)
        carry_out(balance, step->b, step->b_to);
    carry_out(balance, step->a, step->to);
}

static bool scan_is_small(const struct balance *balance)
{
    return (uint64_t)layout_host_count(balance->layout) * layout_vm_count(balance->layout) <=
           FULL_SCAN;
}

/* Single moves while each is worth it; how many were made. */
static uint32_t descend(struct balance *balance)
{
    const struct balance_ask *ask = balance->ask;
    uint32_t made = 0;
    while (made < ask->moves_most) {
        double score = layout_score(balance->layout);
        double least = ask->gain_least;
        if (ask->is_budgeted)
            least = score < ask->even_enough ? ask->gain_least : 1e-9;
        if (ask->is_budgeted && score < 1e-9)
            break;
        rank_hosts(balance, !scan_is_small(balance));
        struct step best = best_single(balance, least);
        if (best.a == LAYOUT_NONE)
            break;
        take(balance, &best);
        made++;
    }
    return made;
}

/* Whatever still helps, of any shape, within the displacements that are allowed. */
static void improve(struct balance *balance)
{
    double least = balance->ask->is_budgeted ? 1e-9 : balance->ask->gain_least;
    bool is_small = scan_is_small(balance);
    uint32_t turns = is_small ? 4 * balance->displaced_most + 64 : balance->displaced_most / 4 + 16;
    if (turns > 4096)
        turns = 4096;
    for (uint32_t i = 0; i < turns; i++) {
        rank_hosts(balance, !is_small);
        struct step best = best_single(balance, least);
        if (best.a == LAYOUT_NONE || is_small) {
            struct step swap = best_swap(balance, best.a == LAYOUT_NONE ? least : -best.delta);
            if (swap.a != LAYOUT_NONE)
                best = swap;
        }
        if (best.a == LAYOUT_NONE)
            best = best_chain(balance, least);
        if (best.a == LAYOUT_NONE)
            return;
        take(balance, &best);
    }
}

/* ---- the order --------------------------------------------------------------------------------
 */

struct wish {
    uint32_t vm, to;
};

static int add_move(struct balance *balance, uint32_t vm, uint32_t to, struct moves *moves,
                    struct fault *fault)
{
    struct move *move = moves_add(moves);
    if (!move)
        return fault_set(fault, ERR_NOMEM, "no memory for the moves of a plan");
    struct layout *layout = balance->layout;
    const struct layout_vm *of_vm = layout_vm(layout, vm);
    const struct forecast_guest guest = {.populated_bytes = of_vm->populated_bytes,
                                         .dirty_bytes_per_s = of_vm->dirty_bytes_per_s,
                                         .vcpus = of_vm->vcpus};
    move->vm = vm;
    move->from = of_vm->host;
    move->to = to;
    move->forecast = forecast_move(&guest, &balance->ask->link, balance->ask->pause_goal_s);
    move->gain = -balance->factor * layout_delta(layout, vm, to);
    if (balance->ask->is_budgeted)
        (void)snprintf(move->reason, sizeof move->reason,
                       "takes %.4f off the unevenness of the pool", move->gain);
    else
        (void)snprintf(move->reason, sizeof move->reason,
                       "%s has load %.0f %%, %s %.0f %%: takes %.0f stall seconds off the next "
                       "%.0f min, costs %.1f",
                       layout_host(layout, move->from)->name,
                       100 * layout_host_load(layout, move->from), layout_host(layout, to)->name,
                       100 * layout_host_load(layout, to), move->gain, balance->ask->horizon_s / 60,
                       move->forecast.cost_s_high);
    if (layout_vm_count(layout) <= 20000 && moves->count <= ORDER_FULL)
        moves_explain(layout, move);
    layout_move(layout, vm, to);
    return 0;
}

/* The legal move that brings most now; any legal one of a long list. */
static size_t next_wish(const struct balance *balance, const struct wish *wishes, size_t count)
{
    size_t best = count;
    double best_delta = INFINITY;
    for (size_t i = 0; i < count; i++) {
        if (layout_judge(balance->layout, wishes[i].vm, wishes[i].to, NULL) != LAYOUT_FITS)
            continue;
        if (count > ORDER_FULL)
            return i;
        double delta = layout_delta(balance->layout, wishes[i].vm, wishes[i].to);
        if (delta < best_delta) {
            best_delta = delta;
            best = i;
        }
    }
    return best;
}

/* From home to where the search left them. Back to the start first; the score after may be less
 * good than the search's when a ring had to be cut. */
static int order_moves(struct balance *balance, struct moves *moves, struct fault *fault)
{
    struct layout *layout = balance->layout;
    AUTO_FREE struct wish *wishes = calloc((size_t)balance->displaced + 1, sizeof *wishes);
    if (!wishes)
        return fault_set(fault, ERR_NOMEM, "no memory to order a plan");
    size_t count = 0;
    for (uint32_t v = 0; v < layout_vm_count(layout); v++) {
        uint32_t home = balance->home[v], to = layout_vm(layout, v)->host;
        if (home == LAYOUT_NONE || to == home)
            continue;
        assert(count < balance->displaced);
        wishes[count++] = (struct wish){.vm = v, .to = to};
    }
    for (size_t i = 0; i < count; i++)
        layout_move(layout, wishes[i].vm, balance->home[wishes[i].vm]);
    while (count > 0) {
        size_t next = next_wish(balance, wishes, count);
        if (next == count)
            break; /* rings: each waits for another's place */
        int r = add_move(balance, wishes[next].vm, wishes[next].to, moves, fault);
        if (r < 0)
            return r;
        memmove(&wishes[next], &wishes[next + 1], (--count - next) * sizeof *wishes);
    }
    /* One of a ring takes a way round by a third host, once, when the budget has a move for it. */
    for (size_t i = 0; i < count && moves->count + count < balance->displaced_most; i++) {
        uint32_t aside = choose_host(layout, wishes[i].vm);
        if (aside == LAYOUT_NONE || aside == wishes[i].to)
            continue;
        int r = add_move(balance, wishes[i].vm, aside, moves, fault);
        bool went = true;
        while (r == 0 && went && count > 0) {
            size_t next = next_wish(balance, wishes, count);
            went = next < count;
            if (went) {
                r = add_move(balance, wishes[next].vm, wishes[next].to, moves, fault);
                memmove(&wishes[next], &wishes[next + 1], (--count - next) * sizeof *wishes);
            }
        }
        if (r < 0)
            return r;
        i = (size_t)-1; /* what is left is looked at anew */
    }
    return 0;
}

/* ---- all --------------------------------------------------------------------------------------
 */

static uint32_t *remember(const struct layout *layout)
{
    uint32_t *places = calloc((size_t)layout_vm_count(layout) + 1, sizeof *places);
    for (uint32_t v = 0; places && v < layout_vm_count(layout); v++)
        places[v] = layout_vm(layout, v)->host;
    return places;
}

static struct balance *balance_free(struct balance *balance)
{
    if (!balance)
        return NULL;
    free(balance->home);
    free(balance->cost);
    free(balance->ranks);
    free(balance);
    return NULL;
}

static int balance_new(struct balance **ret_balance, struct layout *layout,
                       const struct balance_ask *ask, struct fault *fault)
{
    struct balance *balance = calloc(1, sizeof *balance);
    if (balance) {
        balance->cost = calloc((size_t)layout_vm_count(layout) + 1, sizeof *balance->cost);
        balance->home = remember(layout);
        balance->ranks = calloc((size_t)layout_host_count(layout) + 1, sizeof *balance->ranks);
    }
    if (!balance || !balance->cost || !balance->ranks || !balance->home) {
        (void)balance_free(balance);
        return fault_set(fault, ERR_NOMEM, "no memory to balance the pool");
    }
    for (uint32_t v = 0; v < layout_vm_count(layout); v++)
        balance->cost[v] = -1;
    balance->layout = layout;
    balance->ask = ask;
    balance->factor = ask->is_budgeted ? 1 : ask->horizon_s;
    balance->displaced_most = ask->moves_most;
    *ret_balance = balance;
    return 0;
}

static void go_back(struct balance *balance, const uint32_t *places)
{
    for (uint32_t v = 0; v < layout_vm_count(balance->layout); v++) {
        if (layout_vm(balance->layout, v)->host != places[v])
            carry_out(balance, v, places[v]);
    }
}

static void say_verdict(const struct balance *balance, const struct moves *moves,
                        struct balance_result *result)
{
    if (moves->count > 0)
        (void)snprintf(result->verdict, sizeof result->verdict,
                       balance->ask->is_budgeted ? "%zu moves make the pool more even: %.4f -> %.4f"
                                                 : "%zu moves take stalls from %.2f to %.2f cores",
                       moves->count, result->before, result->after);
    else if (!balance->ask->is_budgeted && result->before <= 1e-9)
        (void)snprintf(result->verdict, sizeof result->verdict,
                       "no move helps: no guest waits for CPU or memory");
    else
        (void)snprintf(result->verdict, sizeof result->verdict,
                       "no move helps: none of %llu that were tried brings %.1f times its cost",
                       (unsigned long long)balance->candidates, balance->ask->hysteresis);
}

int balance_plan(struct layout *layout, const struct balance_ask *ask, struct moves *moves,
                 struct balance_result *ret_result, struct fault *fault)
{
    struct balance *balance;
    int r = balance_new(&balance, layout, ask, fault);
    if (r < 0)
        return r;
    *ret_result = (struct balance_result){.before = layout_score(layout)};
    uint32_t made = descend(balance);
    AUTO_FREE uint32_t *plain = remember(layout);
    double descended = layout_score(layout);
    if (ask->is_budgeted && made < balance->displaced_most)
        balance->displaced_most = made;
    improve(balance);
    r = plain ? order_moves(balance, moves, fault)
              : fault_set(fault, ERR_NOMEM, "no memory to balance the pool");
    /* The descent's own moves are legal in their order: nothing is lost by taking them instead. */
    if (r == 0 && layout_score(layout) > descended + 1e-12) {
        moves_deinit(moves);
        for (uint32_t v = 0; v < layout_vm_count(layout); v++)
            layout_move(layout, v, balance->home[v]);
        balance->displaced = 0;
        go_back(balance, plain);
        r = order_moves(balance, moves, fault);
    }
    ret_result->after = layout_score(layout);
    ret_result->candidates = balance->candidates;
    ret_result->gain = balance->factor * (ret_result->before - ret_result->after);
    for (size_t i = 0; !ask->is_budgeted && i < moves->count; i++)
        ret_result->cost += moves->moves[i].forecast.cost_s_high;
    say_verdict(balance, moves, ret_result);
    balance = balance_free(balance);
    return r;
}

/* ---- rules ------------------------------------------------------------------------------------
 */

/* How many VMs would break a hard rule if `vm` were at `host`? All that share a rule with it count.
 */
static uint32_t broken_around(const struct layout *layout, uint32_t vm)
{
    uint32_t broken = 0;
    for (uint32_t r = 0; r < layout_rule_count(layout); r++) {
        const struct layout_rule *rule = layout_rule(layout, r);
        bool is_member = false;
        for (uint32_t i = 0; rule->hard && !is_member && i < rule->vm_count; i++)
            is_member = rule->vms[i] == vm;
        for (uint32_t i = 0; is_member && i < rule->vm_count; i++)
            broken += layout_broken_rule(layout, rule->vms[i]) != LAYOUT_NONE;
    }
    return broken;
}

/* The move of one VM that leaves fewest VMs in breach; of equals the one that costs least. */
static struct step best_repair(struct balance *balance)
{
    struct layout *layout = balance->layout;
    struct step best = {.a = LAYOUT_NONE, .b = LAYOUT_NONE, .delta = INFINITY};
    uint32_t best_left = LAYOUT_NONE;
    for (uint32_t v = 0; v < layout_vm_count(layout); v++) {
        if (layout_vm(layout, v)->fixed || layout_broken_rule(layout, v) == LAYOUT_NONE)
            continue;
        uint32_t from = layout_vm(layout, v)->host, before = broken_around(layout, v);
        for (uint32_t h = 0; h < layout_host_count(layout); h++) {
            int more;
            enum layout_obstacle obstacle = layout_judge(layout, v, h, NULL);
            if (obstacle != LAYOUT_FITS)
                continue;
            double delta =
                balance->factor * layout_delta(layout, v, h) + displacement(balance, v, h, &more);
            layout_move(layout, v, h);
            uint32_t after = broken_around(layout, v);
            layout_move(layout, v, from);
            if (after >= before)
                continue;
            uint32_t gone = before - after, left = LAYOUT_NONE - 1 - gone;
            if (left < best_left || (left == best_left && delta < best.delta)) {
                best_left = left;
                best = (struct step){.a = v, .to = h, .b = LAYOUT_NONE, .delta = delta};
            }
        }
    }
    return best;
}

static int block_broken(struct layout *layout, struct moves *moves, struct fault *fault)
{
    for (uint32_t v = 0; v < layout_vm_count(layout); v++) {
        uint32_t rule = layout_broken_rule(layout, v);
        if (rule == LAYOUT_NONE)
            continue;
        struct blocker *blocker = moves_add_blocker(moves);
        if (!blocker)
            return fault_set(fault, ERR_NOMEM, "no memory for the blockers of a plan");
        blocker->vm = v;
        (void)snprintf(blocker->reason, sizeof blocker->reason, "breaks rule %s where it is: %s",
                       layout_rule(layout, rule)->id,
                       layout_vm(layout, v)->fixed ? layout_vm(layout, v)->fixed
                                                   : "no host would keep all rules");
        evacuate_concede(layout, v, blocker);
    }
    return 0;
}

int balance_repair(struct layout *layout, const struct balance_ask *ask, struct moves *moves,
                   struct fault *fault)
{
    struct balance *balance;
    int r = balance_new(&balance, layout, ask, fault);
    if (r < 0)
        return r;
    while (r == 0 && moves->count < ask->moves_most) {
        struct step best = best_repair(balance);
        if (best.a == LAYOUT_NONE)
            break;
        char why[LAYOUT_WORDS_SIZE];
        (void)snprintf(why, sizeof why, "repairs rule %s",
                       layout_rule(layout, layout_broken_rule(layout, best.a))->id);
        r = add_move(balance, best.a, best.to, moves, fault);
        if (r == 0)
            memcpy(moves->moves[moves->count - 1].reason, why, sizeof why);
    }
    if (r == 0)
        r = block_broken(layout, moves, fault);
    balance = balance_free(balance);
    return r;
}

/* Plans of whole pools: every state on the way is judged by a checker that knows nothing of the
 * planner but the layout's own judge, on a twin layout. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "placement/balance.h"
#include "placement/evacuate.h"
#include "tests/support/random_pool.h"

static uint32_t broken_count(const struct layout *layout)
{
    uint32_t count = 0;
    for (uint32_t v = 0; v < layout_vm_count(layout); v++)
        count += layout_broken_rule(layout, v) != LAYOUT_NONE;
    return count;
}

/* Each move in turn: it leaves from where the VM is, its target takes it, no rule is newly broken.
 */
static void assert_legal(struct layout *twin, const struct moves *moves)
{
    uint32_t broken = broken_count(twin);
    for (size_t i = 0; i < moves->count; i++) {
        const struct move *move = &moves->moves[i];
        assert_int_equal(layout_vm(twin, move->vm)->host, move->from);
        assert_int_equal(layout_judge(twin, move->vm, move->to, NULL), LAYOUT_FITS);
        layout_move(twin, move->vm, move->to);
        uint32_t now = broken_count(twin);
        assert_true(now <= broken);
        broken = now;
        assert_true(move->reason[0] != '\0');
    }
}

static struct random_pool draw_pool(uint64_t seed)
{
    return (struct random_pool){.seed = seed,
                                .hosts = 6 + (uint32_t)(seed % 9),
                                .vms = 40 + (uint32_t)(seed * 7 % 60),
                                .domains = 3,
                                .fill = 0.4 + 0.05 * (double)(seed % 8),
                                .load = 0.1 + 0.12 * (double)(seed % 6),
                                .skew = 0.2 * (double)(seed % 5),
                                .rules = (uint32_t)(seed % 12)};
}

static const struct forecast_link gigabit = {.bytes_per_s = 110e6, .doubt = 0.2};

static size_t vms_of(const struct layout *layout, uint32_t host, uint32_t *ret_vms)
{
    size_t count = 0;
    for (uint32_t v = layout_first_vm(layout, host); v != LAYOUT_NONE;
         v = layout_next_vm(layout, v))
        ret_vms[count++] = v;
    return count;
}

static void an_evacuation_is_legal_at_every_step_and_every_vm_goes_or_is_a_blocker(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 200; seed++) {
        const struct random_pool pool = draw_pool(seed);
        struct layout *layout = random_pool_new(&pool, LAYOUT_STALL);
        struct layout *twin = random_pool_new(&pool, LAYOUT_STALL);
        struct moves moves = {0};
        uint32_t vms[256], host = (uint32_t)(seed % pool.hosts);
        struct evacuate_ask ask = {.vms = vms, .link = gigabit, .pause_goal_s = 0.1};
        ask.count = vms_of(layout, host, vms);
        layout_cordon(layout, host, true);
        layout_cordon(twin, host, true);

        assert_int_equal(evacuate_plan(layout, &ask, &moves, NULL), 0);

        assert_legal(twin, &moves);
        size_t left = vms_of(twin, host, vms);
        assert_int_equal(left, moves.blocker_count);
        for (size_t i = 0; i < moves.blocker_count; i++)
            assert_true(moves.blockers[i].reason[0] && moves.blockers[i].concession_count > 0);
        moves_deinit(&moves);
        layout = layout_free(layout);
        twin = layout_free(twin);
    }
}

static void a_concession_that_is_offered_lets_the_vm_go(void **state)
{
    (void)state;
    struct layout *layout;
    uint32_t vms[] = {0};
    assert_int_equal(layout_new(&layout, NULL), 0);
    for (int i = 0; i < 2; i++) {
        const struct layout_host host = {.name = i ? "node2" : "node1",
                                         .up = true,
                                         .kvm = true,
                                         .cores = 4,
                                         .memory_bytes = GIB(8),
                                         .memory_free_bytes = GIB(8)};
        assert_int_equal(layout_add_host(layout, &host, NULL), 0);
    }
    struct layout_vm vm = {
        .name = "web-1", .host = 0, .baseline = LAYOUT_NONE, .vcpus = 1, .memory_bytes = GIB(4)};
    assert_int_equal(layout_add_vm(layout, &vm, NULL), 0);
    vm.name = "dev-3";
    vm.host = 1;
    vm.memory_bytes = GIB(2);
    assert_int_equal(layout_add_vm(layout, &vm, NULL), 0);
    const struct layout_rule rule = {.id = "web-spread",
                                     .kind = LAYOUT_ANTI_AFFINITY,
                                     .hard = true,
                                     .vms = (uint32_t[]){0, 1},
                                     .vm_count = 2};
    assert_int_equal(layout_add_rule(layout, &rule, NULL), 0);
    assert_int_equal(layout_seal(layout, LAYOUT_STALL, NULL), 0);
    layout_cordon(layout, 0, true);
    struct moves moves = {0};
    const struct evacuate_ask ask = {.vms = vms, .count = 1, .link = gigabit, .pause_goal_s = 0.1};

    assert_int_equal(evacuate_plan(layout, &ask, &moves, NULL), 0);

    assert_int_equal(moves.blocker_count, 1);
    assert_string_equal(moves.blockers[0].reason,
                        "node2 has dev-3, which rule web-spread keeps apart from it");
    assert_string_equal(moves.blockers[0].concessions[0], "relax rule web-spread");
    assert_string_equal(moves.blockers[0].concessions[1], "stop dev-3");
    moves_deinit(&moves);
    layout = layout_free(layout);
}

static void balance_is_legal_at_every_step_and_gains_more_than_it_costs(void **state)
{
    (void)state;
    uint32_t with_moves = 0;
    for (uint64_t seed = 1; seed <= 200; seed++) {
        const struct random_pool pool = draw_pool(seed);
        struct layout *layout = random_pool_new(&pool, LAYOUT_STALL);
        struct layout *twin = random_pool_new(&pool, LAYOUT_STALL);
        const struct balance_ask ask = {.horizon_s = 1800,
                                        .hysteresis = 2,
                                        .gain_least = 1,
                                        .moves_most = 60,
                                        .link = gigabit,
                                        .pause_goal_s = 0.1};
        struct moves moves = {0};
        struct balance_result result;

        assert_int_equal(balance_plan(layout, &ask, &moves, &result, NULL), 0);

        assert_legal(twin, &moves);
        assert_true(fabs(layout_score(twin) - result.after) < 1e-6);
        assert_true(result.after <= result.before + 1e-9);
        assert_true(moves.count == 0 || result.gain > result.cost);
        assert_true(moves.count > 0 || strncmp(result.verdict, "no move helps", 13) == 0);
        with_moves += moves.count > 0;
        moves_deinit(&moves);
        layout = layout_free(layout);
        twin = layout_free(twin);
    }
    assert_in_range(with_moves, 20, 199); /* the pools are of both sorts */
}

static void a_balanced_pool_is_left_alone_and_a_plan_is_not_planned_again(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 60; seed++) {
        struct random_pool pool = draw_pool(seed);
        const struct balance_ask ask = {.horizon_s = 1800,
                                        .hysteresis = 2,
                                        .gain_least = 1,
                                        .moves_most = 100,
                                        .link = gigabit,
                                        .pause_goal_s = 0.1};
        struct layout *layout = random_pool_new(&pool, LAYOUT_STALL);
        struct moves moves = {0}, again = {0};
        struct balance_result result;
        assert_int_equal(balance_plan(layout, &ask, &moves, &result, NULL), 0);
        double settled = layout_score(layout);

        /* What is done is the new start: what is still worth its cost from there is little. */
        assert_int_equal(balance_plan(layout, &ask, &again, &result, NULL), 0);

        assert_true(result.before - result.after <= 0.05 * (settled + 1));
        moves_deinit(&moves);
        moves_deinit(&again);
        layout = layout_free(layout);
    }
}

static void a_repair_mends_every_rule_that_can_be_mended_and_names_the_others(void **state)
{
    (void)state;
    uint32_t mended = 0;
    for (uint64_t seed = 1; seed <= 150; seed++) {
        struct random_pool pool = draw_pool(seed);
        pool.rules = 25;
        struct layout *layout = random_pool_new(&pool, LAYOUT_STALL);
        struct layout *twin = random_pool_new(&pool, LAYOUT_STALL);
        const struct balance_ask ask = {.horizon_s = 1800,
                                        .hysteresis = 1,
                                        .moves_most = 100,
                                        .link = gigabit,
                                        .pause_goal_s = 0.1};
        uint32_t before = broken_count(layout);
        struct moves moves = {0};

        assert_int_equal(balance_repair(layout, &ask, &moves, NULL), 0);

        assert_legal(twin, &moves);
        assert_int_equal(broken_count(twin), moves.blocker_count);
        assert_true(moves.count <= before); /* none moves twice, none that keeps its rules */
        mended += before > 0 && moves.blocker_count == 0;
        moves_deinit(&moves);
        layout = layout_free(layout);
        twin = layout_free(twin);
    }
    assert_true(mended > 50);
}

static void a_pair_in_breach_needs_one_move(void **state)
{
    (void)state;
    struct random_pool pool = {.seed = 3, .hosts = 5, .vms = 10, .fill = 0.3, .load = 0.3};
    struct layout *layout;
    assert_int_equal(layout_new(&layout, NULL), 0);
    for (uint32_t h = 0; h < pool.hosts; h++) {
        static const char *const names[] = {"a", "b", "c", "d", "e"};
        const struct layout_host host = {.name = names[h],
                                         .up = true,
                                         .kvm = true,
                                         .cores = 4,
                                         .memory_bytes = GIB(8),
                                         .memory_free_bytes = GIB(4)};
        assert_int_equal(layout_add_host(layout, &host, NULL), 0);
    }
    for (int v = 0; v < 2; v++) {
        const struct layout_vm vm = {.name = v ? "two" : "one",
                                     .host = 0,
                                     .baseline = LAYOUT_NONE,
                                     .vcpus = 1,
                                     .memory_bytes = GIB(1)};
        assert_int_equal(layout_add_vm(layout, &vm, NULL), 0);
    }
    const struct layout_rule rule = {.id = "apart",
                                     .kind = LAYOUT_ANTI_AFFINITY,
                                     .hard = true,
                                     .vms = (uint32_t[]){0, 1},
                                     .vm_count = 2};
    assert_int_equal(layout_add_rule(layout, &rule, NULL), 0);
    assert_int_equal(layout_seal(layout, LAYOUT_STALL, NULL), 0);
    const struct balance_ask ask = {
        .horizon_s = 60, .moves_most = 9, .link = gigabit, .pause_goal_s = 0.1};
    struct moves moves = {0};

    assert_int_equal(balance_repair(layout, &ask, &moves, NULL), 0);

    assert_int_equal(moves.count, 1);
    assert_string_equal(moves.moves[0].reason, "repairs rule apart");
    moves_deinit(&moves);
    layout = layout_free(layout);
}

static void a_forecast_grows_with_memory_and_dirt_and_says_what_does_not_converge(void **state)
{
    (void)state;
    struct forecast_guest guest = {.populated_bytes = 1 << 30, .dirty_bytes_per_s = 0, .vcpus = 2};
    struct forecast idle = forecast_move(&guest, &gigabit, 0.1);
    guest.dirty_bytes_per_s = 50e6;
    struct forecast busy = forecast_move(&guest, &gigabit, 0.1);
    guest.dirty_bytes_per_s = 200e6;
    struct forecast wild = forecast_move(&guest, &gigabit, 0.1);

    assert_true(idle.converges && busy.converges && !wild.converges);
    assert_true(idle.seconds > 9.7 && idle.seconds < 10.3);
    assert_true(busy.seconds > 1.5 * idle.seconds && busy.seconds < 2.2 * idle.seconds);
    assert_true(busy.seconds_high > busy.seconds && busy.pause_s_high > busy.pause_s);
    assert_true(busy.cost_s_high > idle.cost_s_high);
}

static void a_measured_rate_is_learned_and_doubt_shrinks_when_it_stays(void **state)
{
    (void)state;
    struct forecast_link link = FORECAST_LINK_UNKNOWN;

    for (int i = 0; i < 20; i++)
        forecast_learn(&link, 500e6);

    assert_true(fabs(link.bytes_per_s - 500e6) < 10e6);
    assert_true(link.doubt < 0.15);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_evacuation_is_legal_at_every_step_and_every_vm_goes_or_is_a_blocker),
        cmocka_unit_test(a_concession_that_is_offered_lets_the_vm_go),
        cmocka_unit_test(balance_is_legal_at_every_step_and_gains_more_than_it_costs),
        cmocka_unit_test(a_balanced_pool_is_left_alone_and_a_plan_is_not_planned_again),
        cmocka_unit_test(a_repair_mends_every_rule_that_can_be_mended_and_names_the_others),
        cmocka_unit_test(a_pair_in_breach_needs_one_move),
        cmocka_unit_test(a_forecast_grows_with_memory_and_dirt_and_says_what_does_not_converge),
        cmocka_unit_test(a_measured_rate_is_learned_and_doubt_shrinks_when_it_stays),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

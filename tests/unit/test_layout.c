#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/err.h"
#include "placement/choose.h"
#include "placement/layout.h"
#include "tests/support/random_pool.h"

static struct layout *layout;
static uint32_t v1, v3;

static void add_host(const char *name, const char *domain, uint64_t memory_bytes)
{
    const struct layout_host host = {.name = name,
                                     .domain = domain,
                                     .up = true,
                                     .kvm = true,
                                     .baselines = 1u << v1,
                                     .cores = 8,
                                     .memory_bytes = memory_bytes,
                                     .memory_free_bytes = memory_bytes};
    assert_int_equal(layout_add_host(layout, &host, NULL), 0);
}

static void add_vm(const char *name, uint32_t host, uint64_t memory_bytes)
{
    const struct layout_vm vm = {.name = name,
                                 .host = host,
                                 .baseline = LAYOUT_NONE,
                                 .vcpus = 2,
                                 .demand = 1,
                                 .memory_bytes = memory_bytes,
                                 .populated_bytes = memory_bytes / 2};
    assert_int_equal(layout_add_vm(layout, &vm, NULL), 0);
}

static void add_rule(const char *id, enum layout_rule_kind kind, bool hard, const uint32_t *vms,
                     uint32_t vm_count, const uint32_t *hosts, uint32_t host_count)
{
    const struct layout_rule rule = {.id = id,
                                     .kind = kind,
                                     .hard = hard,
                                     .weight = 0.5,
                                     .vms = vms,
                                     .vm_count = vm_count,
                                     .hosts = hosts,
                                     .host_count = host_count};
    assert_int_equal(layout_add_rule(layout, &rule, NULL), 0);
}

static void seal(enum layout_goal goal)
{
    assert_int_equal(layout_seal(layout, goal, NULL), 0);
}

static int set_up(void **state)
{
    (void)state;
    assert_int_equal(layout_new(&layout, NULL), 0);
    assert_int_equal(layout_add_baseline(layout, "x86-64-v1", &v1, NULL), 0);
    assert_int_equal(layout_add_baseline(layout, "x86-64-v3", &v3, NULL), 0);
    add_host("node1", "a", GIB(8));
    add_host("node2", "a", GIB(8));
    add_host("node3", "b", GIB(16));
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    layout = layout_free(layout);
    return 0;
}

static void a_leaving_vm_gives_back_what_it_populated_and_takes_its_whole_size(void **state)
{
    (void)state;
    add_vm("web", 0, GIB(4));
    seal(LAYOUT_STALL);
    uint64_t before_1 = layout_free_bytes(layout, 0), before_2 = layout_free_bytes(layout, 1);

    layout_move(layout, 0, 1);

    assert_int_equal(before_1, GIB(4)); /* by the sizes of its VMs */
    assert_int_equal(layout_free_bytes(layout, 0), GIB(8));
    assert_int_equal(layout_free_bytes(layout, 1), before_2 - GIB(4) - LAYOUT_OVERHEAD_BYTES);
}

static void refuses_memory_that_guests_could_still_populate(void **state)
{
    (void)state;
    add_vm("web", 0, GIB(4));
    add_vm("db", 1, GIB(6));
    seal(LAYOUT_STALL);

    assert_int_equal(layout_judge(layout, 0, 1, NULL), LAYOUT_MEMORY);
    assert_int_equal(layout_judge(layout, 0, 2, NULL), LAYOUT_FITS);
}

static void a_host_without_the_baseline_a_cordoned_and_a_silent_one_are_told_apart(void **state)
{
    (void)state;
    const struct layout_vm vm = {
        .name = "new", .host = 0, .baseline = v3, .vcpus = 1, .memory_bytes = GIB(1)};
    char text[LAYOUT_WORDS_SIZE];
    assert_int_equal(layout_add_vm(layout, &vm, NULL), 0);
    add_vm("old", 0, GIB(1));
    seal(LAYOUT_STALL);
    layout_cordon(layout, 1, true);
    layout_set_up(layout, 2, false);

    assert_int_equal(layout_obstacle_words(layout, 0, 1, text, sizeof text), GW_CPU_COMPAT);
    assert_string_equal(text, "node2 lacks CPU features of baseline x86-64-v3");
    assert_int_equal(layout_obstacle_words(layout, 1, 1, text, sizeof text), GW_HOST_CORDONED);
    assert_int_equal(layout_obstacle_words(layout, 1, 2, text, sizeof text), GW_HOST_DOWN);
    assert_int_equal(layout_obstacle_words(layout, 1, 0, text, sizeof text), GW_SAME_HOST);
}

static void anti_affinity_forbids_the_host_of_another_member_and_names_it(void **state)
{
    (void)state;
    char text[LAYOUT_WORDS_SIZE];
    add_vm("web-1", 0, GIB(1));
    add_vm("web-2", 1, GIB(1));
    add_rule("web-apart", LAYOUT_ANTI_AFFINITY, true, (uint32_t[]){0, 1}, 2, NULL, 0);
    seal(LAYOUT_STALL);

    assert_int_equal(layout_obstacle_words(layout, 0, 1, text, sizeof text), GW_RULE_FORBIDS);
    assert_string_equal(text, "node2 has web-2, which rule web-apart keeps apart from it");
    assert_int_equal(layout_judge(layout, 0, 2, NULL), LAYOUT_FITS);
}

static void a_spread_counts_members_in_a_failure_domain_not_on_a_host(void **state)
{
    (void)state;
    add_vm("web-1", 0, GIB(1));
    add_vm("web-2", 2, GIB(1));
    add_rule("web-spread", LAYOUT_SPREAD, true, (uint32_t[]){0, 1}, 2, NULL, 0);
    seal(LAYOUT_STALL);
    uint32_t rule = LAYOUT_NONE;

    assert_int_equal(layout_judge(layout, 1, 1, &rule), LAYOUT_RULE);
    assert_int_equal(rule, 0);
    assert_int_equal(layout_judge(layout, 0, 1, NULL), LAYOUT_FITS); /* within its own domain */
}

static void pin_and_exclude_say_where_a_vm_may_be(void **state)
{
    (void)state;
    add_vm("licensed", 0, GIB(1));
    add_vm("noisy", 0, GIB(1));
    add_rule("licence", LAYOUT_PIN, true, (uint32_t[]){0}, 1, (uint32_t[]){0, 2}, 2);
    add_rule("quiet", LAYOUT_EXCLUDE, true, (uint32_t[]){1}, 1, (uint32_t[]){2}, 1);
    seal(LAYOUT_STALL);

    assert_int_equal(layout_judge(layout, 0, 1, NULL), LAYOUT_RULE);
    assert_int_equal(layout_judge(layout, 0, 2, NULL), LAYOUT_FITS);
    assert_int_equal(layout_judge(layout, 1, 1, NULL), LAYOUT_FITS);
    assert_int_equal(layout_judge(layout, 1, 2, NULL), LAYOUT_RULE);
}

static void an_affinity_group_may_go_where_all_of_it_has_room(void **state)
{
    (void)state;
    add_vm("app", 0, GIB(3));
    add_vm("cache", 0, GIB(3));
    add_vm("other", 1, GIB(4));
    add_rule("together", LAYOUT_AFFINITY, true, (uint32_t[]){0, 1}, 2, NULL, 0);
    seal(LAYOUT_STALL);

    assert_int_equal(layout_judge(layout, 0, 1, NULL), LAYOUT_MEMORY); /* it alone would fit */
    assert_int_equal(layout_judge(layout, 0, 2, NULL), LAYOUT_FITS);
    layout_move(layout, 0, 2);
    assert_int_equal(layout_broken_rule(layout, 1), 0);
    assert_int_equal(layout_judge(layout, 1, 1, NULL), LAYOUT_RULE);
    assert_int_equal(layout_judge(layout, 1, 2, NULL), LAYOUT_FITS);
}

static void a_soft_rule_costs_but_does_not_forbid(void **state)
{
    (void)state;
    add_vm("web-1", 0, GIB(1));
    add_vm("web-2", 1, GIB(1));
    add_rule("apart", LAYOUT_ANTI_AFFINITY, false, (uint32_t[]){0, 1}, 2, NULL, 0);
    seal(LAYOUT_STALL);

    assert_int_equal(layout_judge(layout, 0, 1, NULL), LAYOUT_FITS);
    assert_true(layout_delta(layout, 0, 1) >= 0.5);
    assert_int_equal(choose_host(layout, 0), 2);
}

static void what_a_move_was_said_to_change_is_what_it_changes(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        const struct random_pool pool = {.seed = seed,
                                         .hosts = 12,
                                         .vms = 90,
                                         .domains = 3,
                                         .fill = 0.6,
                                         .load = 0.7,
                                         .skew = 0.5,
                                         .rules = 10};
        struct layout *random = random_pool_new(&pool, seed % 2 ? LAYOUT_EVEN : LAYOUT_STALL);
        uint64_t chance = seed + 77;
        for (int i = 0; i < 300; i++) {
            uint32_t vm = (uint32_t)(random_pool_draw(&chance) % pool.vms);
            uint32_t to = (uint32_t)(random_pool_draw(&chance) % pool.hosts);
            double before = layout_score(random), delta = layout_delta(random, vm, to);
            layout_move(random, vm, to);
            assert_true(fabs(layout_score(random) - before - delta) < 1e-6);
        }
        random = layout_free(random);
    }
}

static void a_swap_is_the_sum_of_its_two_moves(void **state)
{
    (void)state;
    const struct random_pool pool = {
        .seed = 5, .hosts = 8, .vms = 60, .fill = 0.5, .load = 0.8, .skew = 0.7};
    struct layout *random = random_pool_new(&pool, LAYOUT_EVEN);
    for (uint32_t a = 0; a < 30; a++) {
        uint32_t b = 59 - a, of_a = layout_vm(random, a)->host, of_b = layout_vm(random, b)->host;
        if (of_a == of_b || of_a == LAYOUT_NONE || of_b == LAYOUT_NONE)
            continue;
        double delta = layout_swap_delta(random, a, b), before = layout_score(random);
        layout_move(random, a, of_b);
        layout_move(random, b, of_a);
        assert_true(fabs(layout_score(random) - before - delta) < 1e-6);
    }
    random = layout_free(random);
}

static void where_nobody_waits_the_emptiest_host_is_chosen(void **state)
{
    (void)state;
    add_vm("web", 0, GIB(2));
    add_vm("db", 1, GIB(4));
    add_vm("new", LAYOUT_NONE, GIB(1));
    seal(LAYOUT_STALL);

    assert_int_equal(choose_host(layout, 2), 2);
    layout_cordon(layout, 2, true);
    assert_int_equal(choose_host(layout, 2), 0);
}

static void a_layout_that_names_what_it_lacks_is_refused(void **state)
{
    (void)state;
    struct fault fault = {0};
    const struct layout_vm vm = {.name = "lost", .host = 9};
    const struct layout_rule rule = {.id = "r", .vms = (uint32_t[]){4}, .vm_count = 1};

    assert_int_equal(layout_add_vm(layout, &vm, &fault), ERR_INVALID);
    assert_int_equal(layout_add_rule(layout, &rule, &fault), ERR_INVALID);
    assert_string_equal(fault.text, "rule r names what is not in the layout");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_leaving_vm_gives_back_what_it_populated_and_takes_its_whole_size),
        TEST(refuses_memory_that_guests_could_still_populate),
        TEST(a_host_without_the_baseline_a_cordoned_and_a_silent_one_are_told_apart),
        TEST(anti_affinity_forbids_the_host_of_another_member_and_names_it),
        TEST(a_spread_counts_members_in_a_failure_domain_not_on_a_host),
        TEST(pin_and_exclude_say_where_a_vm_may_be),
        TEST(an_affinity_group_may_go_where_all_of_it_has_room),
        TEST(a_soft_rule_costs_but_does_not_forbid),
        TEST(what_a_move_was_said_to_change_is_what_it_changes),
        TEST(a_swap_is_the_sum_of_its_two_moves),
        TEST(where_nobody_waits_the_emptiest_host_is_chosen),
        TEST(a_layout_that_names_what_it_lacks_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

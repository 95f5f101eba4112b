/* What operators are told of a VM that is bound to another pool when what they ask cannot be: what goes on, and what to do. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/log.h"
#include "coordinator/dr.h"
#include "coordinator/dr_ask.h"
#include "coordinator/dr_test.h"
#include "tests/support/two_pools.h"

static void says(const char *text, const char *words)
{
    if (!strstr(text, words))
        fail_msg("'%s' does not say '%s'", text, words);
}

static bool test_runs(void)
{
    const Godwit__DrTest *test = vm(THERE)->dr->info->test;
    return test && strcmp(test->step, "runs") == 0;
}

static bool is_forgotten_there(void)
{
    return !vm(THERE);
}

/* The source is free at once; what it is protected by anew waits until the other pool has ended the first. */
static void a_protection_anew_says_that_the_earlier_one_is_still_being_ended(void **ignored)
{
    (void)ignored;
    assert_int_equal(ask(THERE, GODWIT__DR_VERB__DR_VERB_TEST, NULL, false, false), 0);
    turn_until(test_runs, "its copy runs");
    power_off(THERE);
    assert_int_equal(unprotect(HERE, false), 0);
    turn_for(5000);
    assert_null(vm(HERE)->dr);
    protect();
    turn_for(2000);
    assert_string_equal(state(HERE), "syncing");
    assert_string_equal(vm(HERE)->dr->trouble,
                        "the other pool still ends the earlier protection of web (its test copy web-test "
                        "goes first, once node1 answers); this one begins then by itself");
    power_on(THERE);
    turn_until(is_held, "held by the new one");
    assert_true(world.pools[HERE].runs);
}

static void what_the_other_pool_holds_by_an_earlier_protection_is_named(void **ignored)
{
    (void)ignored;
    world.line = false;
    turn_for(1000);
    assert_int_equal(unprotect(HERE, true), 0);
    turn_for(1000);
    assert_null(vm(HERE)->dr);
    world.line = true;
    protect();
    turn_for(2000);
    assert_string_equal(vm(HERE)->dr->trouble,
                        "the other pool still holds web by an earlier protection, on node1: godwit dr "
                        "unprotect web --force there drops it, then this one begins by itself");
    assert_int_equal(unprotect(THERE, true), 0);
    turn_until(is_forgotten_there, "dropped there");
    turn_until(is_held, "held by the new one");
}

static int protect_within(int p)
{
    Godwit__DrRequest request = GODWIT__DR_REQUEST__INIT;
    struct pool *pool = &world.pools[p];
    request.has_verb = true;
    request.verb = GODWIT__DR_VERB__DR_VERB_PROTECT;
    request.vm = (char *)(uintptr_t) "web";
    request.to = (char *)(uintptr_t) "node1";
    world.problem = (struct problem){0};
    int r = dr_ask(&pool->cluster, &request, now(), &world.problem, &pool->todo);
    (void)apply(p);
    return r;
}

static int protect_there(int p)
{
    const struct dr_ask_peer peer = {.pool_id = ids[1 - p], .name = names[1 - p], .is_linked = true};
    Godwit__DrRequest request = GODWIT__DR_REQUEST__INIT;
    struct pool *pool = &world.pools[p];
    request.vm = (char *)(uintptr_t) "web";
    request.has_disks_only = request.disks_only = true; /* another one than there is */
    world.problem = (struct problem){0};
    int r = dr_ask_protect_there(&pool->cluster, &request, &peer, now(), &world.problem, &pool->todo);
    (void)apply(p);
    return r;
}

static void refuses_to_protect(int p, const char *text, const char *hint)
{
    int (*const ways[])(int) = {protect_within, protect_there};
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        assert_int_equal(ways[i](p), -1);
        assert_int_equal(world.problem.code, GW_DR_STATE);
        assert_string_equal(world.problem.text, text);
        assert_string_equal(world.problem.hint, hint);
    }
}

static void a_vm_that_is_bound_to_another_pool_is_protected_where_it_runs(void **ignored)
{
    (void)ignored;
    refuses_to_protect(HERE, "web has a replica in pool site-b already", "godwit dr unprotect web");
    refuses_to_protect(THERE, "what is here of web is a replica that is held for pool site-a",
                       "in pool site-a: godwit dr status web");
    assert_int_equal(take_over(NULL, false), 0);
    turn_until(is_over, "taken over");
    refuses_to_protect(HERE, "web runs in pool site-b: it is protected there",
                       "godwit dr failback web says how it comes back");
    refuses_to_protect(THERE, "web was taken over from pool site-a, and is bound to it until dr unprotect",
                       "godwit dr unprotect web");
}

static void an_end_across_pools_says_whom_it_waits_for(void **ignored)
{
    (void)ignored;
    world.line = false;
    turn_for(1000);
    assert_int_equal(unprotect(HERE, false), 0);
    turn_for(1000);
    refuses_to_protect(HERE,
                       "the earlier protection of web is still being ended (pool site-b is told once it "
                       "answers): say it again then",
                       "godwit dr status web");
}

/* ---- failback ---- */
static int failback(int p)
{
    return ask(p, GODWIT__DR_VERB__DR_VERB_FAILBACK, NULL, false, false);
}

static void failback_across_pools_says_what_to_do_instead(void **ignored)
{
    (void)ignored;
    assert_int_equal(failback(THERE), -1);
    assert_string_equal(world.problem.text, "web was not taken over: there is nothing to bring back");
    assert_int_equal(failback(HERE), -1);
    assert_string_equal(world.problem.text, "web was not taken over: there is nothing to bring back");
    assert_int_equal(take_over(NULL, false), 0);
    turn_until(is_over, "taken over");

    assert_int_equal(failback(THERE), -1);
    assert_int_equal(world.problem.code, GW_DR_STATE);
    says(world.problem.text, "taken over from pool site-a: failback is within one pool");
    says(world.problem.text, "by a protection in the other direction");
    assert_int_equal(world.problem.detail_count, 4);
    says(world.problem.details[0], "1. here: godwit dr unprotect web");
    says(world.problem.details[1], "2. in pool site-a: godwit dr unprotect web --force, then godwit vm rm web");
    says(world.problem.details[2], "3. here: godwit dr protect web --to site-a");
    says(world.problem.details[3], "4. in pool site-a, once it is held: godwit dr failover web");
    assert_string_equal(world.problem.hint, "godwit dr unprotect web");

    assert_int_equal(failback(HERE), -1);
    says(world.problem.text, "web runs in pool site-b: failback is within one pool");
    assert_int_equal(world.problem.detail_count, 5);
    says(world.problem.details[0], "1. in pool site-b: godwit dr unprotect web");
    says(world.problem.details[1], "2. here: godwit dr unprotect web --force, then godwit vm rm web");
    says(world.problem.details[2], "3. in pool site-b: godwit dr protect web --to POOL");
    says(world.problem.details[3], "4. here, once it is held: godwit dr failover web");
    says(world.problem.details[4], "POOL is this one, as godwit pool peer ls names it there");
}

/* Its first step would be refused until then. */
static void failback_across_pools_waits_for_the_old_one_to_hear(void **ignored)
{
    (void)ignored;
    power_off(HERE);
    world.line = false;
    turn_for(2000);
    assert_int_equal(take_over("site-a", false), 0);
    turn_until(runs_there, "taken");
    assert_int_equal(failback(THERE), -1);
    assert_int_equal(world.problem.detail_count, 5);
    says(world.problem.details[0], "0. pool site-a has not heard yet that it runs here");
    assert_string_equal(world.problem.hint, "godwit dr status web");
}

static void what_was_taken_over_says_so_to_a_failover_and_a_test(void **ignored)
{
    (void)ignored;
    assert_int_equal(take_over(NULL, false), 0);
    turn_until(is_over, "taken over");
    assert_int_equal(ask(HERE, GODWIT__DR_VERB__DR_VERB_FAILOVER, NULL, false, false), -1);
    assert_string_equal(world.problem.text, "web was taken over by pool site-b: it runs there");
    assert_string_equal(world.problem.hint, "godwit dr failback web says how it comes back");
    assert_int_equal(ask(HERE, GODWIT__DR_VERB__DR_VERB_TEST, NULL, false, false), -1);
    assert_string_equal(world.problem.text, "web runs in pool site-b: it has no replica to test");
    assert_int_equal(take_over(NULL, false), -1);
    assert_string_equal(world.problem.text, "web was taken over from pool site-a already: it runs here");
}

static void a_start_without_the_other_pool_says_which_word_lets_it(void **ignored)
{
    (void)ignored;
    power_off(HERE);
    world.line = false;
    turn_for(20000);
    power_on(HERE);
    turn_for(10000);
    assert_int_equal(start(HERE), -1);
    says(world.problem.text, "does not answer");
    assert_int_equal(world.problem.detail_count, 1);
    says(world.problem.details[0], "godwit dr unprotect web --force, then godwit vm start web");
}

#define test(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    log_set_level(LOG_ERROR);
    const struct CMUnitTest tests[] = {
        test(a_protection_anew_says_that_the_earlier_one_is_still_being_ended),
        test(what_the_other_pool_holds_by_an_earlier_protection_is_named),
        test(a_vm_that_is_bound_to_another_pool_is_protected_where_it_runs),
        test(an_end_across_pools_says_whom_it_waits_for),
        test(failback_across_pools_says_what_to_do_instead),
        test(failback_across_pools_waits_for_the_old_one_to_hear),
        test(what_was_taken_over_says_so_to_a_failover_and_a_test),
        test(a_start_without_the_other_pool_says_which_word_lets_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

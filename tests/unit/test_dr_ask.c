/* What operators are told when what they ask of a replica cannot be: what goes on, and what to do. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/log.h"
#include "base/world.h"
#include "coordinator/cluster_core.h"
#include "coordinator/dr.h"
#include "tests/support/one_pool.h"

static int ask_for(Godwit__DrVerb verb)
{
    Godwit__DrRequest request = request_of(verb);
    return ask(&request);
}

static int unprotect(void)
{
    return ask_for(GODWIT__DR_VERB__DR_VERB_UNPROTECT);
}

static void was_refused(int r, enum gw_code code, const char *text, const char *hint)
{
    assert_int_equal(r, -1);
    assert_string_equal(world.problem.text, text);
    assert_int_equal(world.problem.code, code);
    assert_string_equal(world.problem.hint, hint);
}

static void go_silent(int h)
{
    world.up[h] = false;
    lose(h);
}

static void an_end_that_still_goes_on_says_whom_it_waits_for(void **ignored)
{
    (void)ignored;
    hold();
    go_silent(1);
    assert_int_equal(unprotect(), 0);
    turn_for(1000);
    was_refused(protect("web", "node3", NULL, 0, 0), GW_DR_STATE,
                "the earlier protection of web is still being ended (node2 drops its replica once it "
                "answers): say it again then",
                "godwit dr status web");
    assert_string_equal(state(), "ending");
    world.up[1] = true;
    say_hello(1);
    turn_until(is_unprotected, "unprotected");
    assert_int_equal(protect("web", "node3", NULL, 0, 0), 0);
}

static bool test_runs(void)
{
    const Godwit__DrTest *test = vm(0)->dr->info->test;
    return test && strcmp(test->step, "runs") == 0;
}

static void an_end_waits_for_a_copy_of_a_test_and_says_so(void **ignored)
{
    (void)ignored;
    hold();
    assert_int_equal(ask_for(GODWIT__DR_VERB__DR_VERB_TEST), 0);
    turn_until(test_runs, "its copy runs");
    go_silent(1);
    assert_int_equal(unprotect(), 0);
    was_refused(protect("web", "node3", NULL, 0, 0), GW_DR_STATE,
                "the earlier protection of web is still being ended (its test copy web-test goes first, "
                "once node2 answers): say it again then",
                "godwit dr status web");
}

static void an_end_waits_for_its_source_and_says_so(void **ignored)
{
    (void)ignored;
    hold();
    go_silent(0);
    assert_int_equal(unprotect(), 0);
    turn_for(1000);
    was_refused(protect("web", "node3", NULL, 0, 0), GW_DR_STATE,
                "the earlier protection of web is still being ended (node1 stops replicating it once it "
                "answers): say it again then",
                "godwit dr status web");
}

static bool is_finishing(void)
{
    return dr_step_is(vm(0)->dr, "finish");
}

static void what_is_failed_over_just_now_is_called_that(void **ignored)
{
    (void)ignored;
    hold();
    assert_int_equal(failover(true, NULL, false), 0);
    for (int i = 0; i < 100 && !is_finishing(); i++) { /* its order is out, and not carried out yet */
        world.now_ns += 100 * NS_PER_MS;
        cluster_tick(&world.cluster, now(), &world.todo);
    }
    assert_true(is_finishing());
    was_refused(protect("web", "node2", NULL, 0, 0), GW_VM_BUSY, "its planned failover has web now",
                "godwit dr status web");
    was_refused(unprotect(), GW_VM_BUSY, "its planned failover has web now", "godwit dr status web");
}

static void what_was_not_taken_over_is_not_brought_back(void **ignored)
{
    (void)ignored;
    hold();
    was_refused(failback(), GW_DR_STATE, "web was not taken over: there is nothing to bring back",
                "godwit dr status web");
}

static void a_home_that_is_gone_is_no_end_of_protection(void **ignored)
{
    (void)ignored;
    hold();
    assert_int_equal(failover(true, NULL, false), 0);
    turn_until(is_away, "away");
    go_silent(0);
    was_refused(failback(), GW_HOST_DOWN, "node1, where web came from, does not answer",
                "godwit dr protect web --to HOST, where it never comes back");
}

int main(void)
{
    log_set_level(LOG_ERROR);
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(an_end_that_still_goes_on_says_whom_it_waits_for),
        TEST(an_end_waits_for_a_copy_of_a_test_and_says_so),
        TEST(an_end_waits_for_its_source_and_says_so),
        TEST(what_is_failed_over_just_now_is_called_that),
        TEST(what_was_not_taken_over_is_not_brought_back),
        TEST(a_home_that_is_gone_is_no_end_of_protection),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

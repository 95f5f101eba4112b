/* Tests and drills of a replica that is held for another pool: a copy beside it, which is never the VM. The other pool knows
 * nothing of it, and whatever it says meanwhile goes before. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/log.h"
#include "base/own.h"
#include "coordinator/cluster_ask.h"
#include "coordinator/dr.h"
#include "coordinator/dr_ask.h"
#include "coordinator/dr_peer.h"
#include "coordinator/dr_peer_hold.h"
#include "coordinator/dr_test.h"
#include "coordinator/pool_store.h"
#include "tests/support/two_pools.h"

static int begin_test(void)
{
    return ask(THERE, GODWIT__DR_VERB__DR_VERB_TEST, NULL, false, false);
}

static int end_test(void)
{
    return ask(THERE, GODWIT__DR_VERB__DR_VERB_TEST_END, NULL, false, false);
}

static const Godwit__DrTest *test_of(void)
{
    return vm(THERE) && vm(THERE)->dr ? vm(THERE)->dr->info->test : NULL;
}

static struct cluster_vm *twin(void)
{
    const struct cluster *cluster = &world.pools[THERE].cluster;
    for (size_t i = 0; i < cluster->vm_count; i++) {
        if (dr_test_is_copy(cluster->vms[i]))
            return cluster->vms[i];
    }
    return NULL;
}

static bool step_of_test_is(const char *step)
{
    return test_of() && strcmp(test_of()->step, step) == 0;
}

static bool test_runs(void)
{
    return step_of_test_is("runs");
}

static bool test_is_over(void)
{
    return step_of_test_is("over");
}

static bool is_gone_there(void)
{
    return !vm(THERE);
}

static void let_a_copy_run(void)
{
    assert_int_equal(begin_test(), 0);
    turn_until(test_runs, "its copy runs");
    assert_true(world.twin.runs);
}

static void a_copy_runs_beside_what_is_held_and_is_never_the_vm(void **ignored)
{
    (void)ignored;
    const struct cluster_dr *dr = vm(THERE)->dr;
    uint64_t link_no = dr->link_no, written = world.pools[HERE].written;
    let_a_copy_run();

    const struct cluster_vm *copy = twin();
    assert_string_equal(copy->spec->name, "web-test");
    assert_string_not_equal(copy->id, "id-web");
    assert_string_equal(copy->spec->disks[0]->file, "web-test-root.raw");
    assert_string_equal(copy->own.owner, "node1");
    assert_in_range(test_of()->rpo_ms, 600, 900);
    assert_true(test_of()->has_rto_ms);
    turn_for(3000);
    assert_true(is_held()); /* in both pools, by the same link */
    assert_int_equal(vm(THERE)->dr->link_no, link_no);
    assert_true(world.pools[THERE].held > written);
    assert_true(world.pools[HERE].runs && !world.pools[THERE].runs);
    assert_int_equal(vm(THERE)->own.phase, OWN_STOPPED);
    assert_int_equal(start(THERE), -1); /* what is held is started by a failover, and by nothing else */

    assert_int_equal(begin_test(), -1);
    assert_int_equal(world.problem.code, GW_DR_STATE);
    assert_int_equal(end_test(), 0);
    turn_until(test_is_over, "the test is over");
    assert_null(twin());
    assert_false(world.twin.exists);
    assert_string_equal(test_of()->error, "");
    assert_int_equal(end_test(), -1);
    assert_true(is_held());
}

/* No link that the other pool would have to be asked for, no word of it. */
static void it_needs_neither_the_line_nor_the_other_site(void **ignored)
{
    (void)ignored;
    world.line = false;
    power_off(HERE);
    turn_for(10000);
    let_a_copy_run();
    assert_true(test_of()->rpo_ms > 0);
    assert_int_equal(end_test(), 0);
    turn_until(test_is_over, "the test is over");
    assert_false(world.twin.exists);
}

static void the_source_has_nothing_to_test(void **ignored)
{
    static const Godwit__DrVerb verbs[] = {
        GODWIT__DR_VERB__DR_VERB_TEST, GODWIT__DR_VERB__DR_VERB_DRILL_NOW, GODWIT__DR_VERB__DR_VERB_DRILL};
    (void)ignored;
    for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++) {
        assert_int_equal(ask(HERE, verbs[i], NULL, false, false), -1);
        assert_non_null(strstr(world.problem.text, "in pool site-b"));
    }
    assert_string_equal(world.problem.hint, "in pool site-b: godwit dr drill web");
    assert_int_equal(ask(HERE, GODWIT__DR_VERB__DR_VERB_TEST_END, NULL, false, false), -1);
    assert_int_equal(ask(THERE, GODWIT__DR_VERB__DR_VERB_FAILBACK, NULL, false, false), -1);
    turn_for(1000);
    assert_int_equal(world.copies, 0);
}

static void a_takeover_goes_before_and_leaves_the_copy_alone(void **ignored)
{
    (void)ignored;
    let_a_copy_run();
    assert_int_equal(take_over(NULL, false), 0);
    assert_int_equal(ask(THERE, GODWIT__DR_VERB__DR_VERB_DRILL_NOW, NULL, false, false), -1);
    turn_until(is_over, "taken over");

    assert_true(world.pools[THERE].runs && !world.pools[HERE].runs && world.twin.runs);
    assert_int_equal(vm(THERE)->dr->info->last_rpo_ms, 0); /* nothing is lost by it */
    assert_int_equal(begin_test(), -1);
    assert_int_equal(end_test(), 0);
    turn_until(test_is_over, "the test is over");
    assert_false(world.twin.exists);
    assert_true(world.pools[THERE].runs);
    assert_int_equal(start(HERE), -1);
}

static void a_take_alone_goes_before_too(void **ignored)
{
    (void)ignored;
    let_a_copy_run();
    power_off(HERE);
    world.line = false;
    turn_for(2000);
    assert_int_equal(take_over("site-a", false), 0);
    turn_until(runs_there, "taken");
    assert_true(world.twin.runs);
    power_on(HERE);
    world.line = true;
    turn_until(is_over, "told");
    assert_false(world.pools[HERE].runs);

    assert_int_equal(unprotect(THERE, false), 0); /* its own VM from now on, and no copy beside it */
    turn_for(5000);
    assert_null(vm(THERE)->dr);
    assert_true(world.pools[THERE].runs);
    assert_false(world.twin.exists);
    assert_null(twin());
}

/* The order for it is out, and its host has not answered yet. */
static void a_takeover_does_not_wait_for_a_copy_that_is_being_made(void **ignored)
{
    (void)ignored;
    world.loses_answer = true;
    assert_int_equal(begin_test(), 0);
    turn_for(1000);
    assert_int_equal(take_over(NULL, false), 0);
    turn_until(is_over, "taken over");
    assert_true(world.pools[THERE].runs && !world.pools[HERE].runs);
    assert_true(step_of_test_is("copy") && !world.twin.runs);
    restart(THERE);
    turn_until(test_is_over, "the test is over");
    assert_false(world.twin.exists);
    assert_true(world.pools[THERE].runs);
}

/* Else what is made after all would be nobody's; the source is free at once. */
static void what_is_held_is_recorded_until_a_copy_that_is_being_made_is_gone(void **ignored)
{
    (void)ignored;
    world.loses_answer = true;
    assert_int_equal(begin_test(), 0);
    turn_for(1000);
    assert_int_equal(unprotect(HERE, false), 0);
    turn_for(5000);
    assert_null(vm(HERE)->dr);
    assert_true(step_is(THERE, "end") && step_of_test_is("end"));
    assert_true(world.twin.exists && twin());
    restart(THERE);
    turn_until(is_gone_there, "dropped there");
    assert_false(world.twin.exists);
    assert_null(twin());
}

static void a_copy_is_refused_while_it_is_taken_over(void **ignored)
{
    (void)ignored;
    assert_int_equal(take_over(NULL, false), 0);
    assert_true(step_is(THERE, "ask"));
    assert_int_equal(begin_test(), -1);
    assert_int_equal(world.problem.code, GW_DR_STATE);
    turn_until(is_over, "taken over");
    assert_int_equal(begin_test(), -1);
    assert_int_equal(world.copies, 0);
}

static void the_source_unprotects_and_the_copy_goes_with_what_was_held(void **ignored)
{
    (void)ignored;
    let_a_copy_run();
    assert_int_equal(unprotect(HERE, false), 0);
    turn_until(is_unprotected, "unprotected");
    assert_false(world.twin.exists);
    assert_null(twin());
    assert_false(world.pools[THERE].holds);
    assert_true(world.pools[HERE].runs);
    protect();
    turn_until(is_held, "held anew");
    let_a_copy_run();
}

/* The source is not kept waiting by a copy that cannot go. */
static void the_source_is_free_while_a_copy_still_waits_for_its_host(void **ignored)
{
    (void)ignored;
    let_a_copy_run();
    power_off(THERE);
    assert_int_equal(unprotect(HERE, false), 0);
    turn_for(5000);
    assert_null(vm(HERE)->dr);
    assert_true(step_is(THERE, "end"));
    assert_non_null(twin());
    assert_int_equal(begin_test(), -1);
    power_on(THERE);
    turn_until(is_gone_there, "dropped there");
    assert_null(twin());
    assert_false(world.twin.exists);
}

static void dropping_what_is_held_takes_the_copy_away_first(void **ignored)
{
    (void)ignored;
    let_a_copy_run();
    assert_int_equal(unprotect(THERE, true), 0);
    turn_until(is_gone_there, "dropped there");
    assert_false(world.twin.exists);
    assert_null(twin());
    assert_true(world.pools[HERE].runs);
}

/* What is held is of before, and goes; the copy is a VM of its own until somebody ends it. */
static void a_copy_stays_where_what_is_held_goes_stale(void **ignored)
{
    (void)ignored;
    let_a_copy_run();
    world.refuses_take = true;
    assert_int_equal(take_over(NULL, false), 0);
    turn_until(is_failed, "not taken");
    turn_for(20000);
    assert_true(world.pools[HERE].runs);
    assert_true(dr_peer_is_stale(vm(THERE)->dr));
    assert_true(world.twin.runs);
    assert_int_equal(end_test(), 0);
    turn_until(test_is_over, "the test is over");
    assert_int_equal(begin_test(), -1); /* nothing is held */
    assert_false(world.twin.exists);
}

static void a_coordinator_that_is_restarted_remembers_a_copy_that_runs(void **ignored)
{
    (void)ignored;
    let_a_copy_run();
    restart(THERE);
    turn_until(is_held, "held again");
    assert_true(test_runs());
    assert_int_equal(twin()->own.phase, OWN_RUN);
    assert_int_equal(end_test(), 0);
    restart(THERE);
    turn_until(test_is_over, "the test is over");
    assert_false(world.twin.exists);
    assert_null(twin());
}

static void a_copy_that_another_life_ordered_is_given_up(void **ignored)
{
    (void)ignored;
    world.loses_answer = true;
    assert_int_equal(begin_test(), 0);
    turn_for(1000);
    assert_true(world.twin.exists && step_of_test_is("copy"));
    restart(THERE);
    turn_until(test_is_over, "the test is over");
    assert_non_null(strstr(test_of()->error, "restarted"));
    assert_false(world.twin.exists);
    assert_null(twin());
    assert_true(vm(THERE)->own.phase == OWN_STOPPED && world.pools[HERE].runs);
}

/* Whenever it dies, of a test and of a takeover in the middle of it: nothing runs twice, and no copy is left. */
static void a_coordinator_that_dies_at_any_step_leaves_no_copy(void **state_of_test)
{
    unsigned deaths = 0;
    for (unsigned at = 1; at < 200; at++) {
        for (int durable = 0; durable < 2; durable++) {
            (void)tear_down(state_of_test);
            (void)set_up(state_of_test);
            world.dies_at = at;
            world.is_durable = durable;
            (void)begin_test();
            turn_for(1500);
            for (int tries = 0; tries < 4 && !is_over(); tries++) {
                (void)take_over(NULL, false); /* what died with its coordinator, or was refused, is said again */
                turn_for(10000);
            }
            turn_until(is_over, "taken over");
            (void)end_test();
            turn_for(3000);
            (void)end_test();
            turn_for(3000);
            assert_null(twin());
            assert_false(world.twin.exists);
            assert_true(world.pools[THERE].runs && !world.pools[HERE].runs);
            deaths += world.died;
        }
        if (!world.died)
            break;
    }
    assert_true(deaths > 20);
}

static void a_copy_that_cannot_be_made_says_so_and_leaves_nothing(void **ignored)
{
    (void)ignored;
    world.refuses_copy = true;
    assert_int_equal(begin_test(), 0);
    turn_until(test_is_over, "the test is over");
    assert_non_null(strstr(test_of()->error, "simulated"));
    assert_null(twin());
    assert_true(is_held());
}

static int set_drill(uint64_t every_ms)
{
    Godwit__DrRequest request = GODWIT__DR_REQUEST__INIT;
    struct pool *pool = &world.pools[THERE];
    request.has_verb = request.has_drill_every_ms = true;
    request.verb = GODWIT__DR_VERB__DR_VERB_DRILL;
    request.vm = (char *)(uintptr_t) "web";
    request.drill_every_ms = every_ms;
    world.problem = (struct problem){0};
    int r = dr_ask(&pool->cluster, &request, now(), &world.problem, &pool->todo);
    (void)apply(THERE);
    return r;
}

static void a_drill_of_what_is_held_comes_by_itself(void **ignored)
{
    (void)ignored;
    assert_int_equal(set_drill(DR_DRILL_EVERY_MS_MIN), 0);
    turn_for(DR_DRILL_EVERY_MS_MIN / 2);
    assert_int_equal(world.copies, 0);
    restart(THERE); /* the schedule is in the record */
    turn_for(DR_DRILL_EVERY_MS_MIN / 2);
    turn_until(test_is_over, "drilled");
    assert_int_equal(world.copies, 1);
    assert_true(test_of()->is_drill);
    assert_string_equal(test_of()->error, "");
    assert_true(test_of()->ran_ms >= DR_DRILL_WATCH_MS && test_of()->vcpu_ms > 0);
    assert_in_range(test_of()->rpo_ms, 600, 900);
    assert_true(is_held());
    assert_int_equal(set_drill(0), 0);
    turn_for(2 * DR_DRILL_EVERY_MS_MIN);
    assert_int_equal(world.copies, 1);
}

static void a_copy_of_what_is_held_needs_room_for_its_disks(void **ignored)
{
    (void)ignored;
    struct cluster_store *store = pool_store_find(&world.pools[THERE].cluster, "one", &world.problem);
    struct cluster_store_place *place = pool_store_place(store, "node1");
    place->seen_ns = world.now_ns;
    place->free_bytes = GIB(1) - 1;
    assert_int_equal(begin_test(), -1);
    assert_int_equal(world.problem.code, GW_STORE_FULL);
    assert_null(twin());
    place->free_bytes = GIB(1);
    let_a_copy_run();
}

static void refuses_drills(enum gw_code code, const char *words, const char *hint)
{
    assert_int_equal(set_drill(DR_DRILL_EVERY_MS_MIN), -1);
    assert_int_equal(world.problem.code, code);
    if (!strstr(world.problem.text, words))
        fail_msg("'%s' does not say '%s'", world.problem.text, words);
    assert_string_equal(world.problem.hint, hint);
    assert_int_equal(set_drill(0), 0); /* that there are to be none is always heard */
}

/* Never again is it a replica by this record. */
static void what_was_taken_over_is_not_drilled(void **ignored)
{
    (void)ignored;
    assert_int_equal(take_over(NULL, false), 0);
    refuses_drills(GW_VM_BUSY, "is just being taken over", "godwit dr status web");
    turn_until(is_over, "taken over");
    refuses_drills(GW_DR_STATE, "was taken over from pool site-a and runs here",
                   "godwit dr unprotect web, then godwit dr protect web --to site-a");
}

static void drills_of_what_was_taken_over_are_not_overdue(void **ignored)
{
    (void)ignored;
    assert_int_equal(set_drill(DR_DRILL_EVERY_MS_MIN), 0);
    assert_int_equal(take_over(NULL, false), 0);
    turn_until(is_over, "taken over");
    turn_for(3 * DR_DRILL_EVERY_MS_MIN);
    assert_int_equal(world.copies, 0);
    assert_int_equal(vm(THERE)->dr->overdue_unix_ms, 0);
}

static void what_is_being_dropped_is_not_drilled(void **ignored)
{
    (void)ignored;
    power_off(THERE);
    assert_int_equal(unprotect(HERE, false), 0);
    turn_for(2000);
    assert_true(step_is(THERE, "end"));
    refuses_drills(GW_DR_STATE, "is just being dropped", "godwit dr status web");
}

static void what_is_held_no_more_is_not_drilled(void **ignored)
{
    (void)ignored;
    world.refuses_take = true;
    assert_int_equal(take_over(NULL, false), 0);
    turn_until(is_failed, "not taken");
    turn_for(20000);
    assert_true(dr_peer_is_stale(vm(THERE)->dr));
    refuses_drills(GW_DR_STATE, "is of before, and dropped",
                   "in pool site-a: godwit dr unprotect web, then protect it anew");
}

static void a_drill_gives_way_to_a_takeover(void **ignored)
{
    (void)ignored;
    world.twin.stands = true;
    assert_int_equal(ask(THERE, GODWIT__DR_VERB__DR_VERB_DRILL_NOW, NULL, false, false), 0);
    turn_for(2000);
    assert_true(step_of_test_is("watch"));
    assert_int_equal(take_over(NULL, false), 0);
    turn_until(is_over, "taken over");
    turn_until(test_is_over, "drilled");
    assert_non_null(strstr(test_of()->error, "stands still"));
    assert_false(world.twin.exists);
    assert_true(world.pools[THERE].runs);
}

/* A copy has the kernel that its pool was let name; that is nobody's leave to name it again. */
static void a_kernel_of_a_copy_is_none_that_a_peer_may_name(void **ignored)
{
    (void)ignored;
    struct pool *there = &world.pools[THERE];
    Godwit__PeerDrHold hold = GODWIT__PEER_DR_HOLD__INIT;
    Godwit__PeerDrHeld held;
    uint64_t bytes[1] = {1 << 30};
    let_a_copy_run();
    dr_set_text(&twin()->spec->kernel, "/var/lib/kernel"); /* as of a store that is none any more */
    Godwit__VmSpec *spec = cluster_message_copy(&vm(HERE)->spec->base);
    dr_set_text(&spec->name, "other");
    dr_set_text(&spec->disks[0]->file, "other.raw");
    dr_set_text(&spec->kernel, "/var/lib/kernel");
    hold.vm_id = (char *)(uintptr_t) "id-other";
    hold.protection_id = (char *)(uintptr_t) "p";
    hold.generation = hold.link_no = 1;
    hold.is_new = true;
    hold.spec = spec;
    hold.disk_bytes = bytes;
    hold.n_disk_bytes = 1;

    assert_int_equal(dr_peer_hold(&there->cluster, ids[HERE], names[HERE], &hold, now(), &held,
                                  &world.problem, &there->todo),
                     -1);
    assert_int_equal(world.problem.code, GW_SPEC_INVALID);
    godwit__vm_spec__free_unpacked(spec, NULL);
}

#define test(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    log_set_level(LOG_ERROR);
    const struct CMUnitTest tests[] = {
        test(a_copy_runs_beside_what_is_held_and_is_never_the_vm),
        test(it_needs_neither_the_line_nor_the_other_site),
        test(the_source_has_nothing_to_test),
        test(a_takeover_goes_before_and_leaves_the_copy_alone),
        test(a_take_alone_goes_before_too),
        test(a_takeover_does_not_wait_for_a_copy_that_is_being_made),
        test(what_is_held_is_recorded_until_a_copy_that_is_being_made_is_gone),
        test(a_copy_is_refused_while_it_is_taken_over),
        test(the_source_unprotects_and_the_copy_goes_with_what_was_held),
        test(the_source_is_free_while_a_copy_still_waits_for_its_host),
        test(dropping_what_is_held_takes_the_copy_away_first),
        test(a_copy_stays_where_what_is_held_goes_stale),
        test(a_coordinator_that_is_restarted_remembers_a_copy_that_runs),
        test(a_copy_that_another_life_ordered_is_given_up),
        test(a_coordinator_that_dies_at_any_step_leaves_no_copy),
        test(a_copy_that_cannot_be_made_says_so_and_leaves_nothing),
        test(a_drill_of_what_is_held_comes_by_itself),
        test(a_copy_of_what_is_held_needs_room_for_its_disks),
        test(what_was_taken_over_is_not_drilled),
        test(drills_of_what_was_taken_over_are_not_overdue),
        test(what_is_being_dropped_is_not_drilled),
        test(what_is_held_no_more_is_not_drilled),
        test(a_drill_gives_way_to_a_takeover),
        test(a_kernel_of_a_copy_is_none_that_a_peer_may_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

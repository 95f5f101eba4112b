/* A replica across two pools. A coordinator of either that dies at any step goes on from what was durable; nothing runs
 * twice, and nothing is lost. */
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
#include "coordinator/cluster_core.h"
#include "coordinator/dr.h"
#include "coordinator/dr_peer.h"
#include "coordinator/dr_peer_hold.h"
#include "coordinator/dr_tell.h"
#include "coordinator/words.h"
#include "tests/support/two_pools.h"

static void what_is_held_is_told_in_both_and_started_in_none(void **ignored)
{
    (void)ignored;
    uint64_t here_ms = 0, there_ms = 0;

    assert_true(dr_rpo_now(&world.pools[HERE].cluster, vm(HERE)->dr, now(), &here_ms));
    assert_true(dr_rpo_now(&world.pools[THERE].cluster, vm(THERE)->dr, now(), &there_ms));
    assert_int_equal(here_ms, 800);
    assert_int_equal(there_ms, 800);
    assert_int_equal(start(THERE), -1);
    assert_non_null(strstr(world.problem.text, "held for pool site-a"));
    assert_int_equal(ask(HERE, GODWIT__DR_VERB__DR_VERB_FAILOVER, NULL, false, false), -1);
    assert_int_equal(take_over("site-a", true), -1);
    assert_int_equal(world.problem.code, GW_HOST_ALIVE);
    assert_int_equal(unprotect(THERE, false), -1);
}

static void a_planned_takeover_goes_over_whole(void **ignored)
{
    (void)ignored;
    uint64_t before = vm(HERE)->own.gen;

    assert_int_equal(take_over(NULL, false), 0);
    turn_until(is_over, "taken over");

    assert_false(world.pools[HERE].runs);
    assert_true(vm(THERE)->own.gen > before);
    assert_true(vm(THERE)->dr->info->has_last_rpo_ms);
    assert_int_equal(vm(THERE)->dr->info->last_rpo_ms, 0);
    assert_int_equal(start(HERE), -1);
    assert_non_null(strstr(world.problem.text, "taken over by pool site-b"));
    assert_int_equal(unprotect(HERE, false), -1);
    assert_int_equal(unprotect(THERE, false), 0);
    turn_for(1000);
    assert_null(vm(THERE)->dr); /* and its VM is its own */
    assert_true(world.pools[THERE].runs);
}

/* Of either pool, before and after each transaction is durable. */
static void a_coordinator_that_dies_at_any_step_of_a_takeover_goes_on(void **state_of_test)
{
    unsigned deaths = 0;
    for (unsigned at = 1; at < 200; at++) {
        for (int durable = 0; durable < 2; durable++) {
            (void)tear_down(state_of_test);
            (void)set_up(state_of_test);
            world.dies_at = at;
            world.is_durable = durable;
            (void)take_over(NULL, false);
            turn_for(1000);
            if (step_is(THERE, "hold") && world.died && !vm(THERE)->dr->info->op[0])
                (void)take_over(NULL, false); /* its order was not kept, or it was given up */
            for (int tries = 0; tries < 3 && !is_over(); tries++) {
                turn_for(30000);
                if (step_is(THERE, "hold") && runs_here_again())
                    (void)take_over(NULL, false);
            }
            turn_until(is_over, "taken over");
            assert_false(world.pools[HERE].runs);
        }
        if (!world.died) {
            deaths = at - 1;
            break;
        }
    }
    print_message("the coordinators died at each of %u transactions, before and after it\n", deaths);
    assert_true(deaths > 5);
}

static void a_lost_one_is_handed_over_as_it_is(void **ignored)
{
    (void)ignored;
    power_off(HERE);
    turn_for(3000);
    power_on(HERE); /* its host is there again, the VM is not */
    turn_for(3000);
    world.starts = 0;

    assert_int_equal(take_over(NULL, false), 0);
    turn_until(is_over, "taken over");

    assert_false(vm(THERE)->dr->info->has_last_rpo_ms);
    assert_int_equal(world.starts, 0);
}

static void a_site_that_comes_back_starts_nothing_of_what_was_taken(void **ignored)
{
    (void)ignored;
    power_off(HERE);
    world.line = false;
    turn_for(2000);

    assert_int_equal(take_over(NULL, false), -1);
    assert_int_equal(world.problem.code, GW_DR_NOT_FENCED);
    assert_int_equal(take_over("node1", true), -1);
    assert_int_equal(world.problem.code, GW_USAGE);
    assert_int_equal(take_over("site-a", true), 0);
    world.was_split = true;
    turn_until(runs_there, "taken");
    world.starts = 0;
    power_on(HERE);
    turn_for(5000);
    assert_int_equal(start(HERE), -1);
    assert_non_null(strstr(world.problem.text, "does not answer"));
    world.line = true;
    turn_until(is_over, "told");

    assert_int_equal(start(HERE), -1);
    turn_for(5000);
    assert_int_equal(world.starts, 0);
    assert_string_equal(state(HERE), "away");
}

static void one_that_still_runs_is_a_conflict_and_is_fought_by_nobody(void **ignored)
{
    (void)ignored;
    uint64_t ticket;
    world.line = false;
    turn_for(2000);
    world.was_split = true;
    assert_int_equal(take_over("site-a", false), 0);
    turn_until(runs_there, "taken");

    world.line = true;
    turn_for(5000);

    assert_true(world.pools[HERE].runs && world.pools[THERE].runs);
    assert_string_equal(state(HERE), "conflict");
    assert_int_equal(cluster_act(&world.pools[HERE].cluster, "web", GODWIT__VM_VERB__VM_VERB_STOP,
                                 false, now(), &ticket, &world.problem, &world.pools[HERE].todo),
                     0);
    (void)apply(HERE);
    turn_for(1000);
    assert_string_equal(state(HERE), "away");
    assert_true(world.pools[THERE].runs);
}

/* Its host says so only after the other pool did, and HA would wait for it for ever. */
static void what_is_found_lost_after_it_was_taken_rests(void **ignored)
{
    (void)ignored;
    world.line = false;
    turn_for(2000);
    world.was_split = true;
    assert_int_equal(take_over("site-a", true), 0);
    turn_until(runs_there, "taken");
    world.line = true;
    turn_for(3000);
    assert_string_equal(state(HERE), "conflict");

    power_off(HERE);
    own_lose(&vm(HERE)->own);
    turn_for(1000);

    assert_string_equal(state(HERE), "away");
    assert_int_equal(vm(HERE)->own.phase, OWN_STOPPED);
    assert_int_equal(vm(HERE)->want, WANT_STOPPED);
}

static void a_take_that_is_refused_starts_it_where_it_was(void **ignored)
{
    (void)ignored;
    world.refuses_take = true;

    assert_int_equal(take_over(NULL, false), 0);
    turn_until(is_failed, "refused");
    for (int i = 0; i < 300 && !world.pools[HERE].runs; i++)
        turn();

    assert_true(world.pools[HERE].runs);
    assert_false(world.pools[THERE].runs);
    assert_true(step_is(THERE, "hold"));
    assert_int_equal(vm(THERE)->own.phase, OWN_STOPPED);
}

static void without_the_line_it_is_not_started_and_with_it_it_is(void **ignored)
{
    (void)ignored;
    uint64_t ticket;
    world.line = false;
    turn_for(1000);
    assert_int_equal(cluster_act(&world.pools[HERE].cluster, "web", GODWIT__VM_VERB__VM_VERB_STOP,
                                 false, now(), &ticket, &world.problem, &world.pools[HERE].todo),
                     0);
    (void)apply(HERE);
    turn_for(1000);

    assert_int_equal(start(HERE), -1);
    world.line = true;
    turn_for(2000);
    assert_int_equal(start(HERE), 0);
    turn_until(runs_here_again, "held again");
    assert_true(vm(THERE)->dr->info->peer_generation >= vm(HERE)->own.gen);
}

static void unprotect_ends_both_and_force_ends_one(void **ignored)
{
    (void)ignored;
    assert_int_equal(unprotect(HERE, false), 0);
    turn_until(is_unprotected, "unprotected");
    assert_true(world.pools[HERE].runs && !world.pools[THERE].holds);
    protect();
    turn_until(is_held, "held anew");

    world.line = false;
    assert_int_equal(unprotect(HERE, false), 0);
    turn_for(3000);
    assert_non_null(vm(HERE)->dr); /* it may be taken yet */
    assert_int_equal(unprotect(HERE, true), 0);
    turn_for(1000);
    assert_null(vm(HERE)->dr);
    assert_int_equal(unprotect(THERE, true), 0);
    turn_until(is_unprotected, "dropped there");
}

static void what_was_taken_is_not_forgotten_before_the_other_pool_has_heard(void **ignored)
{
    (void)ignored;
    power_off(HERE);
    world.line = false;
    turn_for(2000);
    assert_int_equal(take_over("site-a", false), 0);
    turn_until(runs_there, "taken");

    assert_int_equal(unprotect(THERE, true), -1);
    assert_int_equal(world.problem.code, GW_DR_STATE);
    assert_true(step_is(THERE, "away"));
    world.starts = 0;
    power_on(HERE);
    world.line = true;
    turn_until(is_over, "told");
    assert_int_equal(unprotect(THERE, false), 0);
    turn_for(5000);
    assert_null(vm(THERE)->dr);
    assert_int_equal(world.starts, 0);
}

static void what_was_taken_is_free_once_its_other_pool_is_no_peer_any_more(void **ignored)
{
    (void)ignored;
    power_off(HERE);
    world.line = false;
    turn_for(2000);
    assert_int_equal(take_over("site-a", false), 0);
    turn_until(runs_there, "taken");
    world.is_no_peer = true;
    turn_for(TURN_MS);

    assert_int_equal(unprotect(THERE, false), -1);
    assert_int_equal(unprotect(THERE, true), 0);
    turn_for(1000);
    assert_null(vm(THERE)->dr);
    assert_true(world.pools[THERE].runs);
}

/* It runs there, under a record that the other pool lost: "I know nothing of it" is no word that it does not. */
static void one_that_is_down_is_not_freed_by_a_pool_that_knows_nothing_of_it(void **ignored)
{
    (void)ignored;
    struct pool *there = &world.pools[THERE];
    power_off(HERE);
    world.line = false;
    turn_for(2000);
    assert_int_equal(take_over("site-a", false), 0);
    turn_until(runs_there, "taken");
    dr_set_text(&vm(THERE)->dr->info->protection_id, "another");
    world.starts = 0;
    power_on(HERE);
    world.line = true;
    turn_for(3000);
    static char reason[CLUSTER_REASON_SIZE];
    (void)dr_state(&world.pools[HERE].cluster, vm(HERE)->dr, now(), reason);
    assert_non_null(strstr(reason, "knows nothing of it"));

    assert_int_equal(unprotect(HERE, false), 0);
    turn_for(5000);
    assert_true(step_is(HERE, "end"));
    assert_int_equal(start(HERE), -1);
    assert_int_equal(world.starts, 0);
    assert_true(there->runs);
    there->runs = false; /* somebody saw to that */
    assert_int_equal(unprotect(HERE, true), 0);
    turn_for(1000);
    assert_null(vm(HERE)->dr);
}

static void one_that_is_down_is_unprotected_by_the_word_that_its_replica_goes(void **ignored)
{
    (void)ignored;
    uint64_t ticket;
    assert_int_equal(cluster_act(&world.pools[HERE].cluster, "web", GODWIT__VM_VERB__VM_VERB_STOP,
                                 false, now(), &ticket, &world.problem, &world.pools[HERE].todo),
                     0);
    (void)apply(HERE);
    turn_for(1000);

    assert_int_equal(unprotect(HERE, false), 0);
    turn_until(is_unprotected, "unprotected");
}

static void a_replica_that_is_dropped_is_not_started(void **ignored)
{
    (void)ignored;
    uint64_t ticket;
    power_off(THERE);
    assert_int_equal(unprotect(HERE, false), 0);
    for (int i = 0; i < 100 && !step_is(THERE, "end"); i++)
        turn();
    assert_true(step_is(THERE, "end"));

    assert_int_equal(start(THERE), -1);
    assert_non_null(strstr(world.problem.text, "held for pool site-a"));
    assert_int_equal(dr_peer_judge_start(vm(THERE), now(), &world.problem), -1);
    assert_int_equal(world.problem.code, GW_VM_BUSY);
    world.problem = (struct problem){0};
    assert_int_equal(cluster_act(&world.pools[THERE].cluster, "web", GODWIT__VM_VERB__VM_VERB_RM,
                                 false, now(), &ticket, &world.problem, &world.pools[THERE].todo),
                     -1);
    assert_non_null(strstr(world.problem.text, "held for pool site-a"));
    power_on(THERE);
    turn_until(is_unprotected, "dropped");
}

static void what_is_found_running_is_not_dropped_with_its_replica(void **ignored)
{
    (void)ignored;
    struct cluster_vm *found = vm(THERE);
    assert_int_equal(unprotect(THERE, true), 0);
    found->dr->info->in_ended = true;
    own_start(&found->own, "node1", "boot-0");
    found->own.phase = OWN_RUN;
    world.was_split = true;

    turn_for(TURN_MS);

    assert_ptr_equal(vm(THERE), found);
    assert_true(step_is(THERE, "away"));
}

static bool is_back(void)
{
    return step_is(HERE, "back");
}

static bool is_of_two_pools_again(void)
{
    return world.pools[HERE].runs && step_is(HERE, "protect") && step_is(THERE, "hold");
}

/* Days later it is lost: what is held is of before, and may not be taken for its newest. */
static void what_ran_on_after_a_take_that_was_refused_is_not_taken_as_it_was(void **ignored)
{
    (void)ignored;
    world.refuses_take = true;
    assert_int_equal(take_over(NULL, false), 0);
    turn_until(is_of_two_pools_again, "runs again");
    turn_for(5000);

    assert_false(vm(THERE)->dr->info->has_held);
    assert_false(world.pools[THERE].holds);
    restart(THERE);
    turn_for(5000);
    assert_false(vm(THERE)->dr->info->has_held);
    power_off(HERE);
    turn_for(3000);
    power_on(HERE);
    turn_for(3000);
    assert_int_equal(take_over(NULL, false), -1);
    assert_non_null(strstr(world.problem.text, "nothing whole"));
    assert_false(world.pools[THERE].runs);
    world.line = false;
    turn_for(1000);
    assert_int_equal(take_over("site-a", true), -1);
}

/* And is handed over before a word of that generation was heard. */
static void what_ran_on_unheard_is_not_taken_as_it_was(void **ignored)
{
    (void)ignored;
    world.refuses_take = true;
    assert_int_equal(take_over(NULL, false), 0);
    turn_until(is_back, "given back");
    assert_true(step_is(THERE, "hold"));
    assert_int_equal(take_over(NULL, false), 0);
    struct cluster_dr *there = vm(THERE)->dr;
    struct pool *pool = &world.pools[THERE];
    Godwit__PeerDrWord said = GODWIT__PEER_DR_WORD__INIT, answer;
    said.vm_id = there->info->vm_id;
    said.protection_id = there->info->protection_id;
    said.step = (char *)(uintptr_t) "handed";
    said.hand_no = there->info->hand_no;
    said.generation = vm(HERE)->own.hiwater + 1;

    dr_peer_hear(&pool->cluster, there, &said, now(), &answer, &pool->todo);

    assert_string_equal(answer.step, "hold");
    assert_true(answer.returned_no == said.hand_no && !there->info->has_held);
    (void)apply(THERE);
}

static void one_whose_host_dies_before_it_starts_again_can_be_taken(void **ignored)
{
    (void)ignored;
    world.refuses_take = true;
    assert_int_equal(take_over(NULL, false), 0);
    turn_until(is_back, "given back");
    power_off(HERE);
    for (int i = 0; i < 600 && !step_is(HERE, "protect"); i++)
        turn();
    assert_true(step_is(HERE, "protect"));
    assert_int_equal(vm(HERE)->own.phase, OWN_STOPPED);

    turn_for(2000);
    assert_int_equal(take_over(NULL, false), 0);
    turn_until(is_over, "taken");
    assert_true(world.pools[THERE].runs);
}

static void a_restore_stops_nothing_that_was_to_be_handed_over(void **ignored)
{
    (void)ignored;
    static const char *const steps[] = {"finish", "undo", "stop"};
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        struct pool *here = &world.pools[HERE];
        WORDS_COPY(here->cluster.settings[SETTING_RESTORED].value, "1");
        dr_set_text(&vm(HERE)->dr->info->step, steps[i]);
        vm(HERE)->want = WANT_STOPPED;
        dr_tick(&here->cluster, now(), &here->todo);
        (void)apply(HERE);
        here->cluster.settings[SETTING_RESTORED].value[0] = '\0';

        assert_true(step_is(HERE, "protect"));
        turn_for(2000);
        assert_true(here->runs);
        assert_int_equal(vm(HERE)->want, WANT_RUNNING);
    }
    static const char *const kept[] = {"handed", "back", "away"};
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++) {
        struct pool *here = &world.pools[HERE];
        WORDS_COPY(here->cluster.settings[SETTING_RESTORED].value, "1");
        dr_set_text(&vm(HERE)->dr->info->step, kept[i]);
        dr_tick(&here->cluster, now(), &here->todo);
        assert_true(step_is(HERE, kept[i]));
        (void)apply(HERE);
    }
}

static void what_a_peer_may_not_describe_is_not_held(void **ignored)
{
    (void)ignored;
    struct pool *there = &world.pools[THERE];
    Godwit__PeerDrHold hold = GODWIT__PEER_DR_HOLD__INIT;
    Godwit__PeerDrHeld held;
    Godwit__VmSpec *spec = cluster_message_copy(&vm(HERE)->spec->base);
    uint64_t bytes[1] = {GIB(1)};
    assert_int_equal(dr_peer_hold(&there->cluster, ids[HERE], names[HERE], &hold, now(), &held,
                                  &world.problem, &there->todo),
                     -1);
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
    assert_int_equal(world.problem.code, GW_NAME_TAKEN); /* it holds one called so */
    dr_set_text(&spec->name, "other");
    dr_set_text(&spec->disks[0]->store, "");
    dr_set_text(&spec->disks[0]->file, "");
    dr_set_text(&spec->disks[0]->path, "/dev/sda");
    assert_int_equal(dr_peer_hold(&there->cluster, ids[HERE], names[HERE], &hold, now(), &held,
                                  &world.problem, &there->todo),
                     -1);
    assert_int_equal(world.problem.code, GW_SPEC_INVALID);
    assert_null(cluster_vm(&there->cluster, "id-other"));
    godwit__vm_spec__free_unpacked(spec, NULL);
}

/* `change` makes of a description that would be held one that would open something else of the holder's hosts. */
static void expect_not_held(void (*change)(Godwit__VmSpec *spec), const char *words)
{
    struct pool *there = &world.pools[THERE];
    Godwit__PeerDrHold hold = GODWIT__PEER_DR_HOLD__INIT;
    Godwit__PeerDrHeld held;
    Godwit__VmSpec *spec = cluster_message_copy(&vm(HERE)->spec->base);
    uint64_t bytes[1] = {GIB(1)};
    dr_set_text(&spec->name, "other");
    dr_set_text(&spec->disks[0]->file, "other.raw");
    hold.vm_id = (char *)(uintptr_t) "id-other";
    hold.protection_id = (char *)(uintptr_t) "p";
    hold.generation = hold.link_no = 1;
    hold.is_new = true;
    hold.spec = spec;
    hold.disk_bytes = bytes;
    hold.n_disk_bytes = 1;
    change(spec);

    int r = dr_peer_hold(&there->cluster, ids[HERE], names[HERE], &hold, now(), &held, &world.problem,
                         &there->todo);

    if (!words) { /* the change is none: what is refused else is refused for the change */
        assert_int_equal(r, 0);
    } else {
        assert_int_equal(r, -1);
        assert_int_equal(world.problem.code, GW_SPEC_INVALID);
        if (!strstr(world.problem.text, words))
            fail_msg("%s", world.problem.text);
        assert_null(cluster_vm(&there->cluster, "id-other"));
    }
    godwit__vm_spec__free_unpacked(spec, NULL);
}

static void lie_in_a_folder(Godwit__VmSpec *spec)
{
    dr_set_text(&spec->disks[0]->store, "/etc");
    dr_set_text(&spec->disks[0]->pool_store, "");
}

static void be_read_only(Godwit__VmSpec *spec)
{
    spec->disks[0]->has_read_only = spec->disks[0]->read_only = true;
    spec->disks[0]->has_size = false;
}

static void start_from_a_file_of_the_host(Godwit__VmSpec *spec)
{
    dr_set_text(&spec->kernel, "/etc/shadow");
}

static void climb_out_of_the_store(Godwit__VmSpec *spec)
{
    dr_set_text(&spec->initrd, "/srv/one/../../etc/shadow");
}

static void change_nothing(Godwit__VmSpec *spec)
{
    (void)spec;
}

static void a_peer_opens_nothing_but_what_lies_in_stores(void **ignored)
{
    (void)ignored;
    expect_not_held(lie_in_a_folder, "no store of the other pool");
    expect_not_held(be_read_only, "read-only");
    expect_not_held(start_from_a_file_of_the_host, "/etc/shadow is in no store");
    expect_not_held(climb_out_of_the_store, "is in no store");
    expect_not_held(change_nothing, NULL);
}

static void a_number_that_no_pool_counts_to_is_not_taken_over(void **ignored)
{
    (void)ignored;
    struct cluster_dr *dr = vm(THERE)->dr;
    const struct dr_cross before = dr->cross;
    Godwit__PeerDrWord word = GODWIT__PEER_DR_WORD__INIT, answer;
    word.vm_id = dr->info->vm_id;
    word.protection_id = dr->info->protection_id;
    word.step = (char *)(uintptr_t) "protect";
    word.generation = word.hand_no = word.permit = UINT64_MAX;

    dr_peer_hear(&world.pools[THERE].cluster, dr, &word, now(), &answer, &world.pools[THERE].todo);

    assert_int_equal(dr->cross.generation, before.generation);
    assert_int_equal(dr->cross.hand_no, before.hand_no);
    assert_int_equal(answer.permit, 0);
    (void)apply(THERE);
}

static void what_a_peer_says_is_fit_for_a_terminal(void **ignored)
{
    (void)ignored;
    struct cluster_dr *dr = vm(HERE)->dr;
    Godwit__ProtectStatus status = GODWIT__PROTECT_STATUS__INIT;
    dr_peer_held(dr, NULL, "no\x1b[2J room\xc2\x9b", now(), &world.pools[HERE].todo);
    assert_string_equal(dr->trouble, "no [2J room??");
    status.trouble = (char *)(uintptr_t) "slow\r\nlink";
    dr_keep_out(dr, &status, now());
    assert_string_equal(dr->out->trouble, "slow  link");
}

#define test(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    log_set_level(LOG_ERROR);
    const struct CMUnitTest tests[] = {
        test(what_is_held_is_told_in_both_and_started_in_none),
        test(a_planned_takeover_goes_over_whole),
        test(a_coordinator_that_dies_at_any_step_of_a_takeover_goes_on),
        test(a_lost_one_is_handed_over_as_it_is),
        test(a_site_that_comes_back_starts_nothing_of_what_was_taken),
        test(one_that_still_runs_is_a_conflict_and_is_fought_by_nobody),
        test(what_is_found_lost_after_it_was_taken_rests),
        test(a_take_that_is_refused_starts_it_where_it_was),
        test(without_the_line_it_is_not_started_and_with_it_it_is),
        test(unprotect_ends_both_and_force_ends_one),
        test(what_was_taken_is_not_forgotten_before_the_other_pool_has_heard),
        test(what_was_taken_is_free_once_its_other_pool_is_no_peer_any_more),
        test(one_that_is_down_is_not_freed_by_a_pool_that_knows_nothing_of_it),
        test(one_that_is_down_is_unprotected_by_the_word_that_its_replica_goes),
        test(a_replica_that_is_dropped_is_not_started),
        test(what_is_found_running_is_not_dropped_with_its_replica),
        test(what_ran_on_after_a_take_that_was_refused_is_not_taken_as_it_was),
        test(what_ran_on_unheard_is_not_taken_as_it_was),
        test(one_whose_host_dies_before_it_starts_again_can_be_taken),
        test(a_peer_opens_nothing_but_what_lies_in_stores),
        test(a_number_that_no_pool_counts_to_is_not_taken_over),
        test(what_a_peer_says_is_fit_for_a_terminal),
        test(a_restore_stops_nothing_that_was_to_be_handed_over),
        test(what_a_peer_may_not_describe_is_not_held),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The saga of a replica against two or three fake agents, with the real rows in the real store: a
 * coordinator that dies at any step goes on from what was durable, and nothing ever runs twice. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/log.h"
#include "base/own.h"
#include "coordinator/cluster_ask.h"
#include "coordinator/cluster_core.h"
#include "coordinator/cluster_ha.h"
#include "coordinator/dr.h"
#include "coordinator/dr_tell.h"
#include "coordinator/rule.h"
#include "coordinator/words.h"
#include "tests/support/one_pool.h"

static void a_vm_becomes_protected_and_says_so(void **ignored)
{
    (void)ignored;
    assert_int_equal(protect("web", "node2", NULL, 0, 0), 0);
    assert_string_equal(state(), "syncing");
    turn_until(is_held, "held");
    assert_string_equal(state(), "protected");
    uint64_t rpo_ms = 0;
    assert_true(dr_rpo_now(&world.cluster, vm(0)->dr, now(), &rpo_ms));
    assert_int_equal(rpo_ms, 800);
    char text[CLUSTER_REASON_SIZE];
    assert_false(dr_warning(&world.cluster, now(), text));
}

static void what_cannot_be_protected_is_refused(void **ignored)
{
    (void)ignored;
    assert_int_equal(protect("web", "node1", NULL, 0, 0), -1);
    assert_int_equal(world.problem.code, GW_SAME_HOST);
    assert_int_equal(protect("web", "node9", NULL, 0, 0), -1);
    assert_int_equal(world.problem.code, GW_HOST_UNKNOWN);
    vm(0)->spec->disks[0]->has_shared = vm(0)->spec->disks[0]->shared = true;
    assert_int_equal(protect("web", "node2", NULL, 0, 0), -1);
    assert_int_equal(world.problem.code, GW_DR_STATE);
    vm(0)->spec->disks[0]->shared = false;
    hold();
    assert_int_equal(protect("web", "node3", NULL, 0, 0), -1);
    assert_int_equal(world.problem.code, GW_DR_STATE);
    assert_int_equal(protect("web", "node2", "shop", 3, 0), 0); /* other goals */
    assert_int_equal(vm(0)->dr->info->order, 3);
}

static void either_end_that_comes_back_is_asked_again(void **ignored)
{
    (void)ignored;
    hold();
    unsigned before = world.orders[ORDER_PROTECT];
    world.processes[1][0].holds = false; /* the replica's host was booted anew */
    world.processes[1][0].in_id[0] = '\0';
    lose(1);
    world.boot[1]++;
    say_hello(1);
    assert_false(vm(0)->dr->info->has_held);
    turn_until(is_held, "held again");
    assert_int_equal(world.orders[ORDER_PROTECT], before + 1);
    lose(0); /* and the source's agent */
    world.processes[0][0].replicates = false;
    say_hello(0);
    turn_until(is_held, "held again");
    assert_int_equal(world.orders[ORDER_PROTECT], before + 2);
    assert_int_equal(world.orders[ORDER_REPLICA_IN], 3); /* a key serves once */
}

static void an_answer_that_comes_after_an_end_went_does_not_count(void **ignored)
{
    (void)ignored;
    world.loses_target = true; /* the replica's agent is restarted before the source has answered */
    hold();
    assert_false(world.loses_target);
    assert_int_equal(world.orders[ORDER_REPLICA_IN], 2);
    assert_int_equal(world.orders[ORDER_PROTECT], 2); /* its first key was of no use any more */
}

static void a_host_that_is_not_fenced_keeps_its_vm(void **ignored)
{
    (void)ignored;
    hold();
    assert_int_equal(failover(false, NULL, false), -1);
    assert_int_equal(world.problem.code, GW_DR_NOT_FENCED);
    world.up[0] = false;
    lose(0);
    turn_for(20000);
    assert_int_equal(failover(false, NULL, false), -1);
    assert_int_equal(world.problem.code, GW_DR_NOT_FENCED);
    assert_string_equal(state(), "late");
    char text[CLUSTER_REASON_SIZE];
    assert_true(dr_warning(&world.cluster, now(), text));
    assert_non_null(strstr(text, "node1 does not answer"));
    assert_int_equal(world.takes[0], 0);
}

static void a_fenced_hosts_vm_is_taken_once_and_its_loss_is_told(void **ignored)
{
    (void)ignored;
    hold();
    power_off(0);
    turn_for(10000);
    assert_int_equal(failover(false, "node1", false), 0);
    turn_until(is_away, "away");
    assert_string_equal(vm(0)->own.owner, "node2");
    assert_int_equal(world.takes[0], 1);
    assert_int_equal(running(0), 1);
    const Godwit__DrRecord *info = vm(0)->dr->info;
    assert_string_equal(info->last_state, "done");
    assert_true(info->has_last_rpo_ms && info->last_rpo_ms > 0 && info->last_rpo_ms < 2000);
    world.up[0] = true; /* the old host, booted: it starts nothing */
    say_hello(0);
    turn_for(20000);
    assert_int_equal(running(0), 1);
    assert_int_equal(failover(false, NULL, false), -1);
    assert_int_equal(world.problem.code, GW_DR_STATE);
}

static void a_checkpoint_from_after_the_last_beat_bounds_its_loss_where_the_next_was_missed(void **ignored)
{
    (void)ignored;
    for (unsigned i = 0; i < 2; i++) {
        if (i > 0) {
            assert_int_equal(tear_down(NULL), 0);
            assert_int_equal(set_up(NULL), 0);
        }
        hold();
        /* Within a beat; or so late that it was cut off and lived: nobody knows how long. */
        uint64_t later_ms = i == 0 ? 400 : 3000;
        world.processes[1][0].held_ms = cluster_host(&world.cluster, "node1")->seen_unix_ms + later_ms;
        power_off(0);
        tell_replicas(1);
        turn_for(10000);
        assert_int_equal(failover(false, "node1", false), 0);
        turn_until(is_away, "away");
        const Godwit__DrRecord *info = vm(0)->dr->info;
        assert_int_equal(info->has_last_rpo_ms, i == 0);
        assert_true(i > 0 || info->last_rpo_ms <= 600);
    }
}

static void a_fenced_hosts_vm_is_taken_also_before_its_record_says_lost(void **ignored)
{
    (void)ignored;
    hold();
    power_off(0);
    turn_for(10000);
    /* more records than one tick loses: this one is not yet among them */
    cluster_host(&world.cluster, "node1")->ha.phase = HA_FENCED;
    assert_int_equal(vm(0)->own.phase, OWN_RUN);
    assert_int_equal(failover(false, "node1", false), 0);
    assert_int_equal(vm(0)->own.phase, OWN_RUN);
    dr_tick(&world.cluster, now(), &world.todo); /* its turn, and still not */
    apply();
    assert_string_equal(vm(0)->dr->info->step, "queued");
    assert_int_equal(world.takes[0], 0);
    turn_until(is_away, "away");
    assert_int_equal(world.takes[0], 1);
    assert_int_equal(running(0), 1);
}

static void a_fenced_life_that_comes_back_ends_what_it_still_runs(void **ignored)
{
    (void)ignored;
    hold();
    world.up[0] =
        false; /* cut off, and said to be down: here the operator errs, and INV-1 is his */
    lose(0);
    turn_for(10000);
    struct process kept = world.processes[0][0];
    world.processes[0][0].runs = false;
    assert_int_equal(failover(false, "node1", false), 0);
    turn_until(is_away, "away");
    world.processes[0][0] = kept;
    world.up[0] = true;
    say_hello(0);
    assert_false(world.processes[0][0].runs);
    assert_true(world.processes[1][0].runs);
}

static void a_split_is_taken_with_the_words_typed_and_ended_when_its_host_is_back(void **ignored)
{
    (void)ignored;
    hold();
    assert_int_equal(failover(false, "node1", true), -1); /* it answers */
    assert_int_equal(world.problem.code, GW_HOST_ALIVE);
    world.up[0] = false;
    lose(0);
    turn_for(10000);
    assert_int_equal(failover(false, "node", true), -1); /* in full */
    assert_int_equal(world.problem.code, GW_USAGE);
    struct process kept = world.processes[0][0];
    world.processes[0][0].runs = false; /* as far as INV-1 can be asserted here */
    assert_int_equal(failover(false, "node1", true), 0);
    turn_until(is_away, "away");
    assert_string_equal(vm(0)->dr->info->split_host, "node1");
    world.processes[0][0] = kept; /* it ran all the time */
    world.up[0] = true;
    say_hello(0);
    turn_for(3000);
    assert_false(world.processes[0][0].runs);
    assert_true(world.processes[1][0].runs);
    assert_string_equal(vm(0)->dr->info->split_host, "");
    assert_true(world.processes[0][1].runs); /* the other VM of that host is not touched */
}

static void a_split_whose_take_is_refused_still_ends_what_was_given_up(void **ignored)
{
    (void)ignored;
    hold();
    world.up[0] = false;
    lose(0);
    turn_for(10000);
    struct process kept = world.processes[0][0];
    world.processes[0][0].runs = false;
    world.refuses_take = true;
    assert_int_equal(failover(false, "node1", true), 0);
    turn_until(is_failed, "failed");
    assert_string_equal(vm(0)->dr->info->split_host, "node1");
    world.processes[0][0] = kept;
    world.up[0] = true;
    say_hello(0);
    turn_for(3000);
    assert_int_equal(running(0), 0);
    assert_int_equal(failover(false, NULL, false), -1); /* its own disks are there, and newer */
}

/* It is away from node1, which is cut off and still runs its copy: kept aside, since INV-1 cannot
 * be asserted for what an operator gave up. */
static struct process split_from_node1(void)
{
    world.up[0] = false;
    lose(0);
    turn_for(10000);
    struct process kept = world.processes[0][0];
    world.processes[0][0].runs = false;
    assert_int_equal(failover(false, "node1", true), 0);
    turn_until(is_away, "away");
    assert_string_equal(vm(0)->dr->info->split_host, "node1");
    return kept;
}

static void come_back(int h, struct process kept)
{
    world.processes[h][0] = kept;
    world.up[h] = true;
    say_hello(h);
    turn_for(3000);
}

static void a_split_is_ended_also_when_its_protection_has_ended_meanwhile(void **ignored)
{
    Godwit__DrRequest unprotect = request_of(GODWIT__DR_VERB__DR_VERB_UNPROTECT);
    (void)ignored;
    hold();
    struct process kept = split_from_node1();
    assert_int_equal(ask(&unprotect), 0);
    turn_for(5000);
    assert_non_null(vm(0)->dr);
    assert_string_equal(state(), "ending");
    restart();
    turn_for(5000);
    assert_non_null(vm(0)->dr);
    come_back(0, kept);
    assert_false(world.processes[0][0].runs);
    assert_true(world.processes[1][0].runs);
    assert_true(is_unprotected());
}

static void a_split_whose_host_is_fenced_needs_no_order(void **ignored)
{
    Godwit__DrRequest unprotect = request_of(GODWIT__DR_VERB__DR_VERB_UNPROTECT);
    (void)ignored;
    hold();
    struct process kept = split_from_node1();
    assert_int_equal(ask(&unprotect), 0);
    assert_int_equal(cluster_ha_confirm_down(&world.cluster, "node1", "node1", now(),
                                             &world.problem, &world.todo),
                     0);
    apply();
    turn_until(is_unprotected, "no record");
    come_back(0, kept); /* the life that was fenced: quarantined, and it ends what it has */
    assert_false(world.processes[0][0].runs);
    assert_true(world.processes[1][0].runs);
}

static void a_second_split_waits_for_the_end_of_the_first(void **ignored)
{
    (void)ignored;
    hold();
    struct process first = split_from_node1();
    assert_int_equal(protect("web", "node3", NULL, 0, 0), 0);
    turn_until(is_held, "held on node3");
    world.up[1] = false;
    lose(1);
    turn_for(10000);
    assert_int_equal(failover(false, "node2", true), -1);
    assert_int_equal(world.problem.code, GW_DR_STATE);
    assert_string_equal(vm(0)->dr->info->split_host, "node1");
    struct process second = world.processes[1][0];
    world.processes[1][0].runs = false;
    come_back(0, first);
    assert_false(world.processes[0][0].runs);
    assert_int_equal(failover(false, "node2", true), 0);
    turn_until(is_away, "away");
    come_back(1, second);
    assert_false(world.processes[1][0].runs);
    assert_true(world.processes[2][0].runs);
}

static void an_operation_that_fails_does_not_forget_an_earlier_split(void **ignored)
{
    (void)ignored;
    hold();
    struct process kept = split_from_node1();
    assert_int_equal(protect("web", "node3", NULL, 0, 0), 0);
    turn_until(is_held, "held on node3");
    assert_int_equal(failover(true, NULL, false), 0); /* and just then node3 goes */
    world.up[2] = false;
    lose(2);
    turn_until(is_failed, "failed");
    assert_string_equal(vm(0)->dr->info->last_op, "planned");
    assert_string_equal(vm(0)->dr->info->split_host, "node1");
    come_back(0, kept);
    assert_false(world.processes[0][0].runs);
    assert_true(world.processes[1][0].runs);
    assert_string_equal(vm(0)->dr->info->split_host, "");
}

static void a_planned_failover_and_the_way_back_lose_nothing(void **ignored)
{
    (void)ignored;
    hold();
    assert_int_equal(failover(true, NULL, false), 0);
    turn_until(is_away, "away");
    assert_true(vm(0)->dr->info->has_last_rpo_ms);
    assert_int_equal(vm(0)->dr->info->last_rpo_ms, 0);
    assert_int_equal(world.orders[ORDER_PROTECT_FINISH], 1);
    assert_int_equal(running(0), 1);
    assert_int_equal(failback(), 0);
    turn_until(is_home, "home and held again");
    assert_string_equal(vm(0)->dr->info->target, "node2");
    assert_string_equal(vm(0)->dr->info->home, "");
    assert_int_equal(vm(0)->dr->info->last_bytes_kept, 900);
    assert_true(vm(0)->dr->info->keep_disks); /* what lies at node2 is a good start again */
    assert_int_equal(running(0), 1);
    assert_int_equal(world.takes[0], 2);
}

static void a_goal_that_is_missed_keeps_nobody_from_going_over_and_back(void **ignored)
{
    (void)ignored;
    hold();
    world.misses = true;
    turn_for(1000);
    assert_string_equal(state(), "late");
    assert_int_equal(failover(true, NULL, false), 0);
    turn_until(is_away, "away");
    assert_int_equal(failback(), 0);
    turn_until(is_home, "home");
}

static void a_finish_that_is_refused_leaves_the_guest_running(void **ignored)
{
    (void)ignored;
    hold();
    world.refuses_finish = true;
    assert_int_equal(failover(true, NULL, false), 0);
    turn_until(is_failed, "failed");
    assert_true(world.processes[0][0].runs && vm(0)->own.phase == OWN_RUN);
    turn_until(is_held, "held again");
}

static void a_guest_that_stands_still_for_nobody_runs_on(void **ignored)
{
    (void)ignored;
    hold();
    world.processes[0][0].finished = true; /* an order that came late */
    turn_for(3000);
    assert_false(world.processes[0][0].finished);
    turn_until(is_held, "held again");
    assert_int_equal(vm(0)->own.phase, OWN_RUN);
}

static void a_target_that_goes_at_the_last_checkpoint_lets_the_guest_run_on(void **ignored)
{
    (void)ignored;
    hold();
    world.target_goes = true;
    assert_int_equal(failover(true, NULL, false), 0);
    turn_until(is_failed, "failed");
    assert_true(world.processes[0][0].runs && !world.processes[0][0].finished);
    assert_int_equal(world.orders[ORDER_STOP], 0);
    assert_int_equal(world.takes[0], 0);
}

static void a_planned_take_that_is_refused_starts_it_cold_where_it_was(void **ignored)
{
    (void)ignored;
    hold();
    world.refuses_take = true;
    assert_int_equal(failover(true, NULL, false), 0);
    turn_until(is_failed, "failed");
    turn_until(is_home, "runs at home, held again");
    assert_non_null(strstr(vm(0)->dr->info->last_error, "starts cold on node1"));
    assert_int_equal(running(0), 1);
}

static bool is_back(void)
{
    return vm(0)->dr && dr_step_is(vm(0)->dr, "back");
}

static void a_source_that_dies_before_it_started_cold_is_failed_over(void **ignored)
{
    (void)ignored;
    hold();
    world.refuses_take = true;
    assert_int_equal(failover(true, NULL, false), 0);
    turn_until(is_back, "going back");
    assert_int_equal(running(0), 0);
    power_off(0);
    turn_for(20000);
    assert_string_equal(vm(0)->dr->info->step, "protect");
    assert_string_equal(state(), "lost");
    assert_int_equal(failover(false, NULL, false),
                     0); /* it was stopped there: no fence is needed */
    turn_until(is_away, "away");
    assert_int_equal(running(0), 1);
}

static void a_source_that_may_not_start_it_cold_leaves_it_to_its_operator(void **ignored)
{
    uint64_t ticket;
    (void)ignored;
    hold();
    struct cluster_host *source = cluster_host(&world.cluster, "node1");
    rule_cordon(source, true, "to be repaired", "", &world.todo);
    apply();
    world.refuses_take = true;
    assert_int_equal(failover(true, NULL, false), 0);
    turn_until(is_back, "going back");
    turn_for(30000);
    assert_true(is_back()); /* it may be a matter of seconds */
    turn_for(60000);
    assert_string_equal(vm(0)->dr->info->step, "protect");
    rule_cordon(source, false, "", "", &world.todo);
    apply();
    assert_int_equal(cluster_act(&world.cluster, "web", GODWIT__VM_VERB__VM_VERB_START, false,
                                 now(), &ticket, &world.problem, &world.todo),
                     0);
    apply();
    turn_until(is_home, "runs at home, held again");
}

static void what_was_refused_is_not_taken_later_once_it_ran_on(void **ignored)
{
    char before[ID_TEXT_SIZE];
    (void)ignored;
    hold();
    WORDS_COPY(before, vm(0)->dr->info->protection_id);
    world.refuses_take = true;
    assert_int_equal(failover(true, NULL, false), 0);
    turn_until(is_failed, "failed");
    turn_until(is_home, "runs at home, held again");
    assert_string_not_equal(vm(0)->dr->info->protection_id, before);
    assert_true(vm(0)->dr->info->keep_disks); /* what lies there is a good start */
    WORDS_COPY(before, vm(0)->dr->info->protection_id);
    turn_for(5000);
    assert_string_equal(vm(0)->dr->info->protection_id, before); /* once */
    assert_int_equal(failover(true, NULL, false), 0);
    turn_until(is_away, "away");
}

static void a_take_that_is_put_off_is_asked_for_again_as_the_same(void **ignored)
{
    (void)ignored;
    hold();
    world.busy_takes = 3; /* the agent was restarted meanwhile, and is not through yet */
    assert_int_equal(failover(true, NULL, false), 0);
    turn_until(is_away, "away");
    assert_string_equal(vm(0)->dr->info->last_state, "done");
    assert_int_equal(world.orders[ORDER_REPLICA_TAKE], 4);
    assert_int_equal(world.orders[ORDER_START], VMS); /* nothing was started cold */
    assert_int_equal(vm(0)->dr->info->take_generation, vm(0)->own.gen);
    assert_int_equal(running(0), 1);
}

static void a_take_that_is_refused_can_be_tried_again_as_another_generation(void **ignored)
{
    (void)ignored;
    hold();
    power_off(0);
    turn_for(10000);
    world.refuses_take = true;
    assert_int_equal(failover(false, "node1", false), 0);
    turn_until(is_failed, "failed");
    assert_string_equal(vm(0)->own.owner, "node1"); /* it never ran on node2 */
    uint64_t before = vm(0)->dr->info->take_generation;
    assert_string_equal(state(), "lost");
    assert_int_equal(failover(false, NULL, false), 0);
    turn_until(is_away, "away");
    assert_true(vm(0)->dr->info->take_generation > before);
    assert_int_equal(running(0), 1);
}

static void ha_leaves_a_vm_with_a_replica_to_its_operator(void **ignored)
{
    (void)ignored;
    assert_int_equal(cluster_ha_set_reserve(&world.cluster, 0, &world.problem, &world.todo), 0);
    assert_int_equal(
        cluster_ha_protect(&world.cluster, "web", true, 50, now(), &world.problem, &world.todo), 0);
    apply();
    hold();
    power_off(0);
    turn_for(10000);
    assert_int_equal(cluster_ha_confirm_down(&world.cluster, "node1", "node1", now(),
                                             &world.problem, &world.todo),
                     0);
    apply();
    turn_for(10000);
    assert_int_equal(running(0), 0);
    assert_true(own_is_lost(&vm(0)->own));
    char text[CLUSTER_REASON_SIZE];
    assert_true(dr_warning(&world.cluster, now(), text));
    assert_non_null(strstr(text, "godwit dr failover web"));
    assert_int_equal(failover(false, NULL, false), 0);
    turn_until(is_away, "away");
    assert_int_equal(running(0), 1);
}

static void disks_of_a_lost_vm_are_read_anew_when_their_host_was_booted(void **ignored)
{
    (void)ignored;
    assert_int_equal(protect("web", "node2", NULL, 0, 0), 0);
    vm(0)->dr->info->has_disks_only = vm(0)->dr->info->disks_only = true;
    turn_until(is_held, "held");
    power_off(0);
    turn_for(10000);
    assert_int_equal(cluster_ha_confirm_down(&world.cluster, "node1", "node1", now(),
                                             &world.problem, &world.todo),
                     0);
    apply();
    struct process disks = world.processes[1][0];
    power_off(1); /* what is in its stores stays; whose it is must be told */
    turn_for(2000);
    world.keeps_whole = true;
    WORDS_COPY(world.kept_id, disks.in_id);
    world.up[1] = true;
    say_hello(1);
    assert_false(vm(0)->dr->info->has_held);
    turn_for(3000);
    assert_true(vm(0)->dr->info->has_held);
    assert_int_equal(failover(false, NULL, false), 0);
    turn_until(is_away, "away");
    assert_int_equal(running(0), 1);
}

static void auto_takes_it_once_its_host_is_fenced(void **ignored)
{
    (void)ignored;
    hold();
    vm(0)->dr->info->has_auto_take = vm(0)->dr->info->auto_take = true;
    power_off(0);
    turn_for(10000);
    assert_int_equal(world.takes[0], 0); /* dead is not fenced */
    assert_int_equal(cluster_ha_confirm_down(&world.cluster, "node1", "node1", now(),
                                             &world.problem, &world.todo),
                     0);
    apply();
    turn_until(is_away, "away");
    assert_int_equal(running(0), 1);
}

static bool is_all_away(void)
{
    return is_away() && vm(1)->dr && dr_step_is(vm(1)->dr, "away");
}

static void a_group_goes_in_its_order_with_its_delays(void **ignored)
{
    Godwit__DrRequest request = request_of(GODWIT__DR_VERB__DR_VERB_FAILOVER);
    (void)ignored;
    assert_int_equal(protect("web", "node2", "shop", 2, 3000), 0);
    assert_int_equal(protect("db", "node3", "shop", 1, 0), 0);
    turn_for(3000);
    request.vm = NULL;
    request.group = (char *)(uintptr_t) "shop";
    request.planned = true;
    assert_int_equal(ask(&request), 0);
    turn_until(is_all_away, "both away");
    uint64_t db = vm(1)->dr->info->ended_unix_ms, web = vm(0)->dr->info->ended_unix_ms;
    assert_true(web >= db + 3000);
    assert_string_equal(vm(1)->own.owner, "node3");
    assert_int_equal(running(0) + running(1), 2);
}

static void auto_keeps_to_the_order_and_the_delays_of_a_group(void **ignored)
{
    (void)ignored;
    assert_int_equal(protect("web", "node2", "shop", 1, 0), 0);
    assert_int_equal(protect("db", "node3", "shop", 2, 3000), 0); /* the later record, seen first */
    turn_for(3000);
    for (int v = 0; v < VMS; v++)
        vm(v)->dr->info->has_auto_take = vm(v)->dr->info->auto_take = true;
    power_off(0);
    turn_for(10000);
    assert_int_equal(cluster_ha_confirm_down(&world.cluster, "node1", "node1", now(),
                                             &world.problem, &world.todo),
                     0);
    apply();
    turn_until(is_all_away, "both away");
    uint64_t web = vm(0)->dr->info->ended_unix_ms, db = vm(1)->dr->info->ended_unix_ms;
    assert_true(db >= web + 3000);
}

static void auto_waits_for_those_of_its_group_whose_record_is_not_lost_yet(void **ignored)
{
    (void)ignored;
    assert_int_equal(protect("web", "node2", "shop", 1, 0), 0);
    assert_int_equal(protect("db", "node3", "shop", 2, 3000), 0);
    turn_for(3000);
    for (int v = 0; v < VMS; v++)
        vm(v)->dr->info->has_auto_take = vm(v)->dr->info->auto_take = true;
    power_off(0);
    turn_for(10000);
    cluster_host(&world.cluster, "node1")->ha.phase = HA_FENCED;
    own_lose(&vm(1)->own); /* a tick loses so many, and web is of the next */
    dr_tick(&world.cluster, now(), &world.todo);
    apply();
    assert_int_equal(world.takes[1], 0);
    turn_until(is_all_away, "both away");
    assert_true(vm(1)->dr->info->ended_unix_ms >= vm(0)->dr->info->ended_unix_ms + 3000);
}

static void a_group_is_judged_whole(void **ignored)
{
    Godwit__DrRequest request = request_of(GODWIT__DR_VERB__DR_VERB_FAILOVER);
    (void)ignored;
    assert_int_equal(protect("web", "node2", "shop", 2, 0), 0);
    assert_int_equal(protect("db", "node3", "shop", 1, 0), 0);
    turn_for(3000);
    power_off(2);
    turn_for(8000);
    request.vm = NULL;
    request.group = (char *)(uintptr_t) "shop";
    request.planned = true;
    assert_int_equal(ask(&request), -1);
    turn_for(3000);
    assert_string_equal(vm(0)->dr->info->step, "protect");
    assert_string_equal(vm(0)->own.owner, "node1");
}

static void unprotect_ends_both_ends_also_those_that_come_later(void **ignored)
{
    Godwit__DrRequest request = request_of(GODWIT__DR_VERB__DR_VERB_UNPROTECT);
    (void)ignored;
    hold();
    world.up[1] = false;
    lose(1);
    assert_int_equal(ask(&request), 0);
    turn_for(5000);
    assert_non_null(vm(0)->dr);
    assert_string_equal(state(), "ending");
    world.up[1] = true;
    say_hello(1);
    turn_until(is_unprotected, "no record");
    assert_false(world.processes[0][0].replicates);
    assert_string_equal(world.processes[1][0].in_id, "");
    assert_true(world.processes[0][0].runs);
}

/* Who was asked is lost for good by the time that a new coordinator looks. */
static void an_end_that_was_reached_is_known_to_a_new_coordinator(void **ignored)
{
    Godwit__DrRequest request = request_of(GODWIT__DR_VERB__DR_VERB_UNPROTECT);
    (void)ignored;
    hold();
    world.up[0] = false; /* its line only: it runs on */
    lose(0);
    assert_int_equal(ask(&request), 0);
    turn_for(5000);
    assert_string_equal(world.processes[1][0].in_id, ""); /* the replica is dropped */
    assert_non_null(vm(0)->dr);
    world.up[1] = false;
    lose(1);
    restart();
    turn_for(5000);
    world.up[0] = true;
    say_hello(0);
    turn_until(is_unprotected, "no record");
    assert_false(world.processes[0][0].replicates);
    assert_true(world.processes[0][0].runs);
}

static bool goes_back(void)
{
    return vm(0)->dr && dr_step_is(vm(0)->dr, "protect") && dr_op_is(vm(0)->dr, "failback");
}

static void unprotect_ends_a_failback_as_failed(void **ignored)
{
    Godwit__DrRequest request = request_of(GODWIT__DR_VERB__DR_VERB_UNPROTECT);
    (void)ignored;
    hold();
    assert_int_equal(failover(true, NULL, false), 0);
    turn_until(is_away, "away");
    assert_int_equal(failback(), 0);
    turn_until(goes_back, "what differs is copied");
    assert_int_equal(ask(&request), 0);
    assert_string_equal(vm(0)->dr->info->op, "");
    assert_string_equal(vm(0)->dr->info->last_state, "failed");
    assert_int_equal(vm(0)->dr->info->last_code, GW_DR_FAILED);
    assert_true(vm(0)->dr->info->has_ended_unix_ms);
    assert_non_null(strstr(vm(0)->dr->info->last_error, "unprotect"));
    turn_until(is_unprotected, "no record");
    assert_int_equal(running(0), 1);
}

static bool runs_at_home(void)
{
    return vm(0)->own.phase == OWN_RUN && strcmp(vm(0)->own.owner, "node1") == 0;
}

static void a_failback_of_what_came_to_run_at_home_is_over(void **ignored)
{
    (void)ignored;
    for (size_t i = 0; i < vm(0)->spec->n_disks; i++) /* nothing is to bind it to a host */
        godwit__disk_spec__free_unpacked(vm(0)->spec->disks[i], NULL);
    vm(0)->spec->n_disks = 0;
    assert_int_equal(cluster_ha_set_reserve(&world.cluster, 0, &world.problem, &world.todo), 0);
    assert_int_equal(
        cluster_ha_protect(&world.cluster, "web", true, 50, now(), &world.problem, &world.todo), 0);
    apply();
    hold();
    assert_int_equal(failover(true, NULL, false), 0);
    turn_until(is_away, "away");
    assert_int_equal(failback(), 0);
    turn_until(goes_back, "what differs is copied");
    rule_cordon(cluster_host(&world.cluster, "node3"), true, "", "", &world.todo);
    power_off(1); /* nothing was held at home yet: HA starts it cold, and that is where */
    turn_for(10000);
    assert_int_equal(cluster_ha_confirm_down(&world.cluster, "node2", "node2", now(),
                                             &world.problem, &world.todo),
                     0);
    apply();
    turn_until(runs_at_home, "started by HA");
    turn_for(1000);
    assert_string_equal(vm(0)->dr->info->op, "");
    assert_string_equal(vm(0)->dr->info->last_state, "failed");
    assert_non_null(strstr(vm(0)->dr->info->last_error, "runs on node1 already"));
    assert_int_equal(running(0), 1);
}

static void a_protected_vm_does_not_move_to_its_replica_and_is_not_removed(void **ignored)
{
    struct cluster_job *job = NULL;
    uint64_t ticket;
    (void)ignored;
    hold();
    Godwit__MoveGoals goals = GODWIT__MOVE_GOALS__INIT;
    goals.has_with_local_disks = goals.with_local_disks = true;
    const struct cluster_move_ask there = {
        .vm = "web", .to = "node2", .goals = &goals, .job_id = "JAAAAAA", .move_id = "m-1"};
    assert_int_equal(
        cluster_migrate(&world.cluster, &there, now(), &job, &world.problem, &world.todo), -1);
    assert_int_equal(world.problem.code, GW_DR_STATE);
    assert_int_equal(cluster_act(&world.cluster, "web", GODWIT__VM_VERB__VM_VERB_RM, true, now(),
                                 &ticket, &world.problem, &world.todo),
                     -1);
    assert_int_equal(world.problem.code, GW_VM_STATE);
}

static void a_stop_waits_and_a_start_goes_on(void **ignored)
{
    uint64_t ticket;
    (void)ignored;
    hold();
    assert_int_equal(cluster_act(&world.cluster, "web", GODWIT__VM_VERB__VM_VERB_STOP, false, now(),
                                 &ticket, &world.problem, &world.todo),
                     0);
    apply();
    turn_for(2000);
    assert_string_equal(state(), "waiting");
    assert_int_equal(failover(false, NULL, false), -1); /* its own disks are newer */
    assert_int_equal(world.problem.code, GW_DR_STATE);
    assert_int_equal(cluster_act(&world.cluster, "web", GODWIT__VM_VERB__VM_VERB_START, false,
                                 now(), &ticket, &world.problem, &world.todo),
                     0);
    apply();
    turn_until(is_held, "held again");
    assert_int_equal(vm(0)->dr->info->generation, vm(0)->own.gen);
}

/* ---- death at every step ----------------------------------------------------------------------
 */

static int ask_planned(void)
{
    return failover(true, NULL, false);
}

static int ask_lost(void)
{
    return failover(false, "node1", false);
}

static void planned_and_back(void)
{
    until(ask_protect, is_held, "held");
    until(ask_planned, is_away, "away");
    until(failback, is_home, "home");
    assert_int_equal(running(0), 1);
    assert_true(world.processes[0][0].runs);
}

static void lost_and_back(void)
{
    until(ask_protect, is_held, "held");
    power_off(0);
    turn_for(10000);
    until(ask_lost, is_away, "away");
    world.up[0] = true;
    say_hello(0);
    until(failback, is_home, "home");
    assert_int_equal(running(0), 1);
}

static void a_coordinator_that_dies_at_any_step_of_a_planned_failover_goes_on(void **ignored)
{
    (void)ignored;
    dies_at_each_step_of(planned_and_back, 10);
}

static void a_coordinator_that_dies_at_any_step_of_a_failover_goes_on(void **ignored)
{
    (void)ignored;
    dies_at_each_step_of(lost_and_back, 10);
}

static int ask_unprotect(void)
{
    Godwit__DrRequest request = request_of(GODWIT__DR_VERB__DR_VERB_UNPROTECT);
    return ask(&request);
}

/* All that would have to be asked is lost by then. */
static void away_and_unprotect(void)
{
    until(ask_protect, is_held, "held");
    power_off(0);
    turn_for(10000);
    until(ask_lost, is_away, "away");
    world.up[0] = true;
    say_hello(0);
    world.up[1] = false;
    lose(1);
    until(ask_unprotect, is_unprotected, "no record");
    assert_true(world.processes[1][0].runs);
}

static void a_coordinator_that_dies_at_any_step_of_an_unprotect_ends_it(void **ignored)
{
    (void)ignored;
    dies_at_each_step_of(away_and_unprotect, 5);
}

int main(void)
{
    log_set_level(LOG_ERROR);
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(a_vm_becomes_protected_and_says_so),
        TEST(what_cannot_be_protected_is_refused),
        TEST(either_end_that_comes_back_is_asked_again),
        TEST(an_answer_that_comes_after_an_end_went_does_not_count),
        TEST(a_host_that_is_not_fenced_keeps_its_vm),
        TEST(a_fenced_hosts_vm_is_taken_once_and_its_loss_is_told),
        TEST(a_checkpoint_from_after_the_last_beat_bounds_its_loss_where_the_next_was_missed),
        TEST(a_fenced_hosts_vm_is_taken_also_before_its_record_says_lost),
        TEST(a_fenced_life_that_comes_back_ends_what_it_still_runs),
        TEST(a_split_is_taken_with_the_words_typed_and_ended_when_its_host_is_back),
        TEST(a_split_whose_take_is_refused_still_ends_what_was_given_up),
        TEST(a_split_is_ended_also_when_its_protection_has_ended_meanwhile),
        TEST(a_split_whose_host_is_fenced_needs_no_order),
        TEST(a_second_split_waits_for_the_end_of_the_first),
        TEST(an_operation_that_fails_does_not_forget_an_earlier_split),
        TEST(a_planned_failover_and_the_way_back_lose_nothing),
        TEST(a_goal_that_is_missed_keeps_nobody_from_going_over_and_back),
        TEST(a_finish_that_is_refused_leaves_the_guest_running),
        TEST(a_guest_that_stands_still_for_nobody_runs_on),
        TEST(a_target_that_goes_at_the_last_checkpoint_lets_the_guest_run_on),
        TEST(a_planned_take_that_is_refused_starts_it_cold_where_it_was),
        TEST(a_source_that_dies_before_it_started_cold_is_failed_over),
        TEST(a_source_that_may_not_start_it_cold_leaves_it_to_its_operator),
        TEST(what_was_refused_is_not_taken_later_once_it_ran_on),
        TEST(a_take_that_is_put_off_is_asked_for_again_as_the_same),
        TEST(a_take_that_is_refused_can_be_tried_again_as_another_generation),
        TEST(ha_leaves_a_vm_with_a_replica_to_its_operator),
        TEST(disks_of_a_lost_vm_are_read_anew_when_their_host_was_booted),
        TEST(auto_takes_it_once_its_host_is_fenced),
        TEST(a_group_goes_in_its_order_with_its_delays),
        TEST(auto_keeps_to_the_order_and_the_delays_of_a_group),
        TEST(auto_waits_for_those_of_its_group_whose_record_is_not_lost_yet),
        TEST(a_group_is_judged_whole),
        TEST(unprotect_ends_both_ends_also_those_that_come_later),
        TEST(an_end_that_was_reached_is_known_to_a_new_coordinator),
        TEST(unprotect_ends_a_failback_as_failed),
        TEST(a_failback_of_what_came_to_run_at_home_is_over),
        TEST(a_protected_vm_does_not_move_to_its_replica_and_is_not_removed),
        TEST(a_stop_waits_and_a_start_goes_on),
        cmocka_unit_test(a_coordinator_that_dies_at_any_step_of_a_planned_failover_goes_on),
        cmocka_unit_test(a_coordinator_that_dies_at_any_step_of_a_failover_goes_on),
        cmocka_unit_test(a_coordinator_that_dies_at_any_step_of_an_unprotect_ends_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

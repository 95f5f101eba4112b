/* Tests and drills of a replica: a copy of what is held runs beside it and is never the VM, and nothing of it is left,
 * whenever a coordinator dies. */
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
#include "coordinator/cluster_ha.h"
#include "coordinator/cluster_snapshot.h"
#include "coordinator/dr.h"
#include "coordinator/dr_test.h"
#include "coordinator/pool_store.h"
#include "proto/vm_spec.h"
#include "tests/support/one_pool.h"

static int begin_test(void)
{
    Godwit__DrRequest request = request_of(GODWIT__DR_VERB__DR_VERB_TEST);
    return ask(&request);
}

static int end_test(void)
{
    Godwit__DrRequest request = request_of(GODWIT__DR_VERB__DR_VERB_TEST_END);
    return ask(&request);
}

static const Godwit__DrTest *test_of(void)
{
    return vm(0)->dr ? vm(0)->dr->info->test : NULL;
}

static struct cluster_vm *twin(void)
{
    for (size_t i = 0; i < world.cluster.vm_count; i++) {
        if (dr_test_is_copy(world.cluster.vms[i]))
            return world.cluster.vms[i];
    }
    return NULL;
}

static bool test_runs(void)
{
    return test_of() && strcmp(test_of()->step, "runs") == 0;
}

static bool test_is_over(void)
{
    return test_of() && strcmp(test_of()->step, "over") == 0;
}

static void a_test_starts_a_copy_of_its_own_and_leaves_the_protection_alone(void **ignored)
{
    (void)ignored;
    hold();
    unsigned asked = world.orders[ORDER_REPLICA_IN] + world.orders[ORDER_PROTECT];
    assert_int_equal(begin_test(), 0);
    turn_until(test_runs, "its copy runs");

    const struct cluster_vm *copy = twin();
    assert_non_null(copy);
    assert_string_equal(copy->spec->name, "web-test");
    assert_string_equal(copy->spec->test_of, "id-web");
    assert_string_equal(copy->own.owner, "node2");
    assert_int_equal(copy->own.phase, OWN_RUN);
    assert_string_equal(copy->spec->disks[0]->file, "web-test-root.raw");
    assert_false(copy->spec->disks[0]->has_size); /* what is not there is not made */
    assert_null(copy->spec->ha);
    assert_in_range(test_of()->rpo_ms, 600, 900);
    assert_true(test_of()->has_rto_ms);
    assert_int_equal(world.orders[ORDER_REPLICA_IN] + world.orders[ORDER_PROTECT], asked);
    assert_true(is_held());
    assert_string_equal(vm(0)->own.owner, "node1");

    assert_int_equal(begin_test(), -1);
    assert_int_equal(world.problem.code, GW_DR_STATE);
    assert_int_equal(cluster_ha_protect(&world.cluster, "web-test", true, 50, now(), &world.problem,
                                        &world.todo),
                     -1);
    assert_int_equal(protect("web-test", "node3", NULL, 0, 0), -1);

    world.twin_is_busy = true; /* its host is asked again */
    assert_int_equal(end_test(), 0);
    turn_until(test_is_over, "the test is over");
    assert_null(twin());
    assert_false(world.twin.exists);
    assert_string_equal(test_of()->error, "");
    assert_int_equal(end_test(), -1);
    assert_true(is_held());
    assert_int_equal(running(0), 1);
}

static void a_nic_of_a_copy_is_on_no_bridge(void **ignored)
{
    Godwit__NicSpec nic = GODWIT__NIC_SPEC__INIT, *nics[] = {&nic};
    (void)ignored;
    hold();
    nic.bridge = (char *)(uintptr_t) "br0";
    nic.mac = (char *)(uintptr_t) "52:54:00:00:00:01";
    Godwit__VmSpec with = *vm(0)->spec;
    with.nics = nics;
    with.n_nics = 1;
    Godwit__VmSpec *whole = cluster_message_copy(&with.base);
    godwit__vm_spec__free_unpacked(vm(0)->spec, NULL);
    vm(0)->spec = whole;
    assert_int_equal(begin_test(), 0);
    turn_until(test_runs, "its copy runs");

    const Godwit__NicSpec *copied = twin()->spec->nics[0];
    assert_true(copied->unplugged);
    assert_true(!copied->bridge || !copied->bridge[0]);
    assert_string_not_equal(copied->mac, "52:54:00:00:00:01");
}

/* It would set itself up as another machine, which its VM's failover does not. */
static void a_copy_of_disks_alone_boots_with_its_vms_own_seed(void **ignored)
{
    Godwit__DrRequest request = request_of(GODWIT__DR_VERB__DR_VERB_PROTECT);
    Godwit__CloudInitSpec seed = GODWIT__CLOUD_INIT_SPEC__INIT;
    char meta_data[VM_SPEC_META_SIZE];
    (void)ignored;
    request.to = (char *)(uintptr_t) "node2";
    request.has_disks_only = request.disks_only = true;
    assert_int_equal(ask(&request), 0);
    turn_until(is_held, "held");
    seed.user_data = (char *)(uintptr_t) "#cloud-config\n";
    Godwit__VmSpec with = *vm(0)->spec;
    with.cloud_init = &seed;
    Godwit__VmSpec *whole = cluster_message_copy(&with.base);
    godwit__vm_spec__free_unpacked(vm(0)->spec, NULL);
    vm(0)->spec = whole;
    vm_spec_meta_data(vm(0)->spec, "id-web", meta_data);
    assert_int_equal(begin_test(), 0);

    assert_string_equal(twin()->spec->cloud_init->user_data, seed.user_data);
    assert_non_null(twin()->spec->cloud_init->meta_data);
    assert_string_equal(twin()->spec->cloud_init->meta_data, meta_data);
    assert_string_equal(twin()->suspended, "");
}

static void a_test_of_what_is_not_held_is_refused(void **ignored)
{
    (void)ignored;
    assert_int_equal(begin_test(), -1);
    assert_int_equal(world.problem.code, GW_DR_UNPROTECTED);
    assert_int_equal(protect("web", "node2", NULL, 0, 0), 0);
    assert_int_equal(begin_test(), -1);
    assert_int_equal(world.problem.code, GW_DR_STATE);
    turn_until(is_held, "held");
    world.up[1] = false;
    lose(1);
    assert_int_equal(begin_test(), -1);
    assert_int_equal(world.problem.code, GW_HOST_DOWN);
    assert_null(twin());
}

static void a_name_that_is_taken_or_none_changes_nothing(void **ignored)
{
    Godwit__DrRequest request = request_of(GODWIT__DR_VERB__DR_VERB_TEST);
    (void)ignored;
    hold();
    request.as = (char *)(uintptr_t) "db";
    assert_int_equal(ask(&request), -1);
    assert_int_equal(world.problem.code, GW_NAME_TAKEN);
    request.as = (char *)(uintptr_t) "../db";
    assert_int_equal(ask(&request), -1);
    assert_int_equal(world.problem.code, GW_USAGE);
    assert_int_equal(world.cluster.vm_count, VMS);
    assert_null(test_of());
}

/* Where there is no room for a copy's disks whole, which it may write: as what a landing one needs. */
static struct cluster_store_place *give_store(uint64_t free_bytes)
{
    Godwit__PoolStore given = GODWIT__POOL_STORE__INIT, *draft = NULL;
    char *hosts[] = {(char *)(uintptr_t) "node1", (char *)(uintptr_t) "node2"};
    struct cluster_store *store = NULL;
    given.name = (char *)(uintptr_t) "one";
    given.path = (char *)(uintptr_t) "/srv/one";
    given.hosts = hosts;
    given.n_hosts = 2;
    assert_int_equal(pool_store_draft(&world.cluster, &given, now(), &draft, &world.problem), 0);
    assert_int_equal(
        pool_store_add(&world.cluster, draft, now(), &store, &world.problem, &world.todo), 0);
    apply();
    dr_set_text(&vm(0)->spec->disks[0]->pool_store, "one");
    vm(0)->spec->disks[0]->has_size = false; /* it came of an image */
    struct cluster_store_place *place = pool_store_place(store, "node2");
    assert_non_null(place);
    place->seen_ns = world.now_ns;
    place->free_bytes = free_bytes;
    return place;
}

static void a_copy_needs_room_for_the_disks_that_it_is_given(void **ignored)
{
    (void)ignored;
    hold();
    struct cluster_store_place *place = give_store(GIB(1) - 1);
    assert_int_equal(begin_test(), -1);
    assert_int_equal(world.problem.code, GW_STORE_FULL);
    assert_non_null(strstr(world.problem.text, "1024 are needed"));
    assert_null(twin());
    assert_null(test_of());
    assert_true(is_held());
    place->free_bytes = GIB(2);
    place->growth_bytes = GIB(1);
    assert_int_equal(begin_test(), 0);
    turn_until(test_runs, "its copy runs");
    assert_false(twin()->spec->disks[0]->has_size); /* what is not there is not made */
}

/* Its source is lost, and so is the coordinator that had heard of it. */
static void a_copy_needs_room_also_where_its_replicas_host_alone_knows_how_much(void **ignored)
{
    (void)ignored;
    hold();
    power_off(0);
    restart();
    turn_for(10000);
    assert_int_equal(vm(0)->disk_bytes[0], 0);
    struct cluster_store_place *place = give_store(GIB(1) - 1);
    assert_int_equal(begin_test(), -1);
    assert_int_equal(world.problem.code, GW_STORE_FULL);
    place->free_bytes = GIB(1);
    assert_int_equal(begin_test(), 0);
}

static void a_copy_that_is_refused_or_does_not_start_is_taken_away(void **ignored)
{
    (void)ignored;
    hold();
    world.refuses_copy = true;
    assert_int_equal(begin_test(), 0);
    turn_until(test_is_over, "the test is over");
    assert_non_null(strstr(test_of()->error, "simulated"));
    assert_null(twin());
    world.refuses_copy = false;
    world.refuses_twin = true;
    assert_int_equal(begin_test(), 0);
    turn_until(test_is_over, "the test is over");
    assert_true(test_of()->error[0]);
    assert_false(test_of()->has_rto_ms);
    assert_null(twin());
    assert_false(world.twin.exists);
    assert_true(is_held());
}

static void vm_rm_of_the_copy_ends_the_test(void **ignored)
{
    uint64_t ticket;
    (void)ignored;
    hold();
    assert_int_equal(begin_test(), 0);
    turn_until(test_runs, "its copy runs");
    assert_int_equal(cluster_act(&world.cluster, "web-test", GODWIT__VM_VERB__VM_VERB_RM, true,
                                 now(), &ticket, &world.problem, &world.todo),
                     0);
    apply();
    turn_until(test_is_over, "the test is over");
    assert_string_equal(test_of()->error, "");
}

static int judge_snapshot(const char *name, bool with_memory)
{
    struct cluster_snapshot_order order;
    const struct cluster_snapshot_ask snapshot = {.vm = name, .with_memory = with_memory};
    world.problem = (struct problem){0};
    return cluster_snapshot_judge_take(&world.cluster, &snapshot, now(), &order, &world.problem);
}

/* It would keep the copy from going, and with it the end of the protection. */
static void no_snapshot_is_taken_of_a_copy(void **ignored)
{
    uint64_t ticket;
    (void)ignored;
    hold();
    assert_int_equal(begin_test(), 0);
    turn_until(test_runs, "its copy runs");
    assert_int_equal(judge_snapshot("web-test", true), -1);
    assert_int_equal(world.problem.code, GW_VM_STATE);
    assert_non_null(strstr(world.problem.text, "test copy"));
    assert_string_equal(world.problem.hint, "godwit dr test web-test --end");
    world.twin_may_rest = true;
    assert_int_equal(cluster_act(&world.cluster, "web-test", GODWIT__VM_VERB__VM_VERB_STOP, true,
                                 now(), &ticket, &world.problem, &world.todo),
                     0);
    apply();
    turn_for(1000);
    assert_int_equal(twin()->own.phase, OWN_STOPPED);
    assert_int_equal(judge_snapshot("web-test", false), -1);
    assert_non_null(strstr(world.problem.text, "test copy"));
    assert_int_equal(end_test(), 0);
    turn_until(test_is_over, "the test is over");
    assert_int_equal(judge_snapshot("db", false), 0);
    vm(1)->ticket = 0;
}

/* Its agent may be making it still: a record that is dropped would leave that behind. */
static void a_copy_whose_host_is_away_is_not_removed_by_its_record_alone(void **ignored)
{
    uint64_t ticket;
    (void)ignored;
    hold();
    assert_int_equal(begin_test(), 0);
    struct cluster_order making = world.queue[0];
    assert_int_equal(making.kind, ORDER_REPLICA_COPY);
    assert_int_equal(copy_replica(1, &making), 0); /* and its answer is lost */
    world.up[1] = false;
    lose(1);
    restart();
    turn_for(10000);
    world.problem = (struct problem){0};
    assert_int_equal(cluster_act(&world.cluster, "web-test", GODWIT__VM_VERB__VM_VERB_RM, true,
                                 now(), &ticket, &world.problem, &world.todo),
                     -1);
    apply();
    assert_int_equal(world.problem.code, GW_HOST_DOWN);
    assert_string_equal(world.problem.hint, "godwit dr test web-test --end");
    assert_non_null(twin());
    world.up[1] = true;
    say_hello(1);
    turn_until(test_is_over, "the test is over");
    assert_null(twin());
    assert_false(world.twin.exists);
}

static void the_real_one_is_taken_while_a_copy_runs_and_the_copy_ends_later(void **ignored)
{
    (void)ignored;
    hold();
    assert_int_equal(begin_test(), 0);
    turn_until(test_runs, "its copy runs");
    power_off(0);
    turn_for(10000);
    assert_int_equal(failover(false, "node1", false), 0);
    turn_until(is_away, "away");
    assert_string_equal(vm(0)->own.owner, "node2");
    assert_non_null(twin());
    assert_int_equal(begin_test(), -1);
    assert_int_equal(end_test(), 0);
    turn_until(test_is_over, "the test is over");
    assert_int_equal(running(0), 1);
    assert_false(world.twin.exists);
}

static void a_copy_is_not_started_again_when_its_host_comes_back(void **ignored)
{
    (void)ignored;
    hold();
    assert_int_equal(begin_test(), 0);
    turn_until(test_runs, "its copy runs");
    unsigned starts = world.orders[ORDER_START];
    power_off(1);
    world.twin.exists = world.twin.runs = false;
    turn_for(10000);
    world.up[1] = true;
    say_hello(1);
    turn_for(10000);
    assert_int_equal(world.orders[ORDER_START], starts);
    assert_int_equal(twin()->own.phase, OWN_STOPPED);
    assert_int_equal(end_test(), 0);
    turn_until(test_is_over, "the test is over");
    assert_null(twin());
}

static void unprotect_ends_a_test_first(void **ignored)
{
    Godwit__DrRequest request = request_of(GODWIT__DR_VERB__DR_VERB_UNPROTECT);
    (void)ignored;
    hold();
    assert_int_equal(begin_test(), 0);
    turn_until(test_runs, "its copy runs");
    assert_int_equal(ask(&request), 0);
    turn_until(is_unprotected, "unprotected");
    assert_null(twin());
    assert_false(world.twin.exists);
}

/* The VM was taken over, and then the host that has it and the copy of its replica was lost for good. */
static void lose_all_and_unprotect(void)
{
    Godwit__DrRequest request = request_of(GODWIT__DR_VERB__DR_VERB_UNPROTECT);
    hold();
    assert_int_equal(begin_test(), 0);
    turn_until(test_runs, "its copy runs");
    power_off(0);
    turn_for(10000);
    assert_int_equal(failover(false, "node1", false), 0);
    turn_until(is_away, "away");
    power_off(1);
    world.twin.runs = false;
    turn_for(10000);
    assert_int_equal(ask(&request), 0);
    turn_for(20000);
    assert_non_null(vm(0)->dr); /* it may come back */
    assert_non_null(twin());
    assert_int_equal(cluster_ha_confirm_down(&world.cluster, "node2", "node2", now(),
                                             &world.problem, &world.todo),
                     0);
    apply();
    turn_until(is_unprotected, "unprotected");
}

static void remove_copy(void)
{
    uint64_t ticket;
    assert_int_equal(cluster_act(&world.cluster, "web-test", GODWIT__VM_VERB__VM_VERB_RM, true,
                                 now(), &ticket, &world.problem, &world.todo),
                     0);
    apply();
    turn();
    assert_null(twin());
}

static void unprotect_gives_a_test_up_whose_host_is_lost_for_good(void **ignored)
{
    (void)ignored;
    lose_all_and_unprotect();
    assert_int_equal(world.given_up, 1);
    assert_non_null(strstr(world.told, "node2"));
    assert_non_null(strstr(world.told, "godwit vm rm web-test --stop"));
    assert_true(dr_is_down(twin()));
    remove_copy();
}

static void a_copy_that_was_given_up_goes_whole_when_its_host_is_back_after_all(void **ignored)
{
    (void)ignored;
    lose_all_and_unprotect();
    world.up[1] = true;
    say_hello(1);
    turn_for(10000);
    assert_int_equal(twin()->own.phase, OWN_STOPPED);
    assert_true(world.twin.exists);
    remove_copy();
    assert_false(world.twin.exists);
}

static int begin_drill(void)
{
    Godwit__DrRequest request = request_of(GODWIT__DR_VERB__DR_VERB_DRILL_NOW);
    return ask(&request);
}

static void a_drill_watches_its_copy_and_takes_it_away(void **ignored)
{
    (void)ignored;
    hold();
    assert_int_equal(begin_drill(), 0);
    turn_until(test_is_over, "the drill is over");
    assert_string_equal(test_of()->error, "");
    assert_true(test_of()->ran_ms >= DR_DRILL_WATCH_MS);
    assert_true(test_of()->vcpu_ms > 0);
    assert_null(twin());
    world.twin_stands = true;
    assert_int_equal(begin_drill(), 0);
    turn_until(test_is_over, "the drill is over");
    assert_non_null(strstr(test_of()->error, "stands still"));
    assert_false(world.twin.exists);
}

static void drills_come_by_themselves_as_often_as_was_said(void **ignored)
{
    Godwit__DrRequest request = request_of(GODWIT__DR_VERB__DR_VERB_DRILL);
    (void)ignored;
    hold();
    request.has_drill_every_ms = true;
    request.drill_every_ms = DR_DRILL_EVERY_MS_MIN - 1;
    assert_int_equal(ask(&request), -1);
    request.drill_every_ms = 100000;
    assert_int_equal(ask(&request), 0);
    restart(); /* it is in the record */
    turn_for(350000);
    assert_in_range(world.copies, 3, 4);
    assert_int_equal(world.overdue, 0);
    assert_true(test_is_over());
    request.drill_every_ms = 0;
    assert_int_equal(ask(&request), 0);
    unsigned copies = world.copies;
    turn_for(200000);
    assert_int_equal(world.copies, copies);
}

static int drill_every(uint64_t ms)
{
    Godwit__DrRequest request = request_of(GODWIT__DR_VERB__DR_VERB_DRILL);
    request.has_drill_every_ms = true;
    request.drill_every_ms = ms;
    return ask(&request);
}

/* Its stores are looked at before it: what was seen of them long ago is no reason to refuse it. */
static void a_drill_that_is_due_soon_is_known_before_it(void **ignored)
{
    (void)ignored;
    hold();
    assert_false(dr_test_is_due_within(&world.cluster, now(), 40000));
    assert_int_equal(drill_every(100000), 0);
    turn_for(50000);
    assert_false(dr_test_is_due_within(&world.cluster, now(), 40000));
    turn_for(20000);
    assert_int_equal(world.copies, 0);
    assert_true(dr_test_is_due_within(&world.cluster, now(), 40000));
    turn_until(test_is_over, "it is drilled");
    assert_false(dr_test_is_due_within(&world.cluster, now(), 40000));
    assert_int_equal(drill_every(0), 0);
    turn_for(100000);
    assert_false(dr_test_is_due_within(&world.cluster, now(), 40000));
}

static void a_drill_that_is_overdue_by_a_period_is_told_once(void **ignored)
{
    (void)ignored;
    hold();
    turn_for(200000);
    world.up[1] = false;
    lose(1);
    assert_int_equal(drill_every(60000), 0); /* due at once, as it was never drilled */
    turn_for(110000);
    assert_int_equal(world.overdue, 0);
    turn_for(200000);
    assert_int_equal(world.overdue, 1);
    assert_non_null(strstr(world.told, "node2"));
    world.up[1] = true;
    say_hello(1);
    turn_until(test_is_over, "it is drilled");
    turn_for(100000);
    assert_int_equal(world.overdue, 1);
    turn_until(test_is_over, "it is drilled");
    world.up[1] = false; /* once more */
    lose(1);
    turn_for(200000);
    assert_int_equal(world.overdue, 2);
    assert_int_equal(drill_every(0), 0);
    turn_for(200000);
    assert_int_equal(world.overdue, 2);
}

static bool is_drilled(void)
{
    return test_is_over() && test_of()->is_drill && is_home();
}

/* It runs from its replica: once it has one again, its drills come. */
static void a_schedule_that_is_set_while_it_is_away_counts_once_it_is_back(void **ignored)
{
    Godwit__DrRequest planned = request_of(GODWIT__DR_VERB__DR_VERB_FAILOVER);
    (void)ignored;
    hold();
    planned.planned = true;
    assert_int_equal(ask(&planned), 0);
    turn_until(is_away, "away");
    assert_int_equal(drill_every(60000), 0);
    turn_for(100000);
    assert_int_equal(world.copies, 0);
    assert_int_equal(failback(), 0);
    turn_until(is_drilled, "drilled at home");
    assert_int_equal(world.copies, 1);
}

static void what_is_being_unprotected_is_not_drilled(void **ignored)
{
    Godwit__DrRequest request = request_of(GODWIT__DR_VERB__DR_VERB_UNPROTECT);
    (void)ignored;
    hold();
    world.up[1] = false; /* it is to drop it */
    lose(1);
    assert_int_equal(ask(&request), 0);
    turn_for(1000);
    assert_int_equal(drill_every(60000), -1);
    assert_int_equal(world.problem.code, GW_DR_STATE);
    assert_non_null(strstr(world.problem.text, "is just being unprotected"));
    assert_string_equal(world.problem.hint, "godwit dr status web");
    assert_int_equal(drill_every(0), 0);
}

static void of_a_group_those_are_drilled_that_stay_protected(void **ignored)
{
    Godwit__DrRequest request = request_of(GODWIT__DR_VERB__DR_VERB_UNPROTECT);
    (void)ignored;
    for (int v = 0; v < VMS; v++)
        assert_int_equal(protect(vm_names[v], "node2", "shop", 0, 0), 0);
    turn_until(is_held, "held");
    world.up[1] = false;
    lose(1);
    assert_int_equal(ask(&request), 0);
    request = request_of(GODWIT__DR_VERB__DR_VERB_DRILL);
    request.vm = NULL;
    request.group = (char *)(uintptr_t) "shop";
    request.has_drill_every_ms = true;
    request.drill_every_ms = 60000;
    assert_int_equal(ask(&request), 0);
    assert_false(vm(0)->dr->info->drill_every_ms);
    assert_int_equal(vm(1)->dr->info->drill_every_ms, 60000);
}

static void a_test_that_is_forgotten_does_not_keep_drills_away_in_silence(void **ignored)
{
    (void)ignored;
    hold();
    assert_int_equal(drill_every(60000), 0);
    assert_int_equal(begin_test(), 0);
    turn_until(test_runs, "its copy runs");
    turn_for(100000);
    assert_int_equal(world.overdue, 0);
    turn_for(100000);
    assert_int_equal(world.overdue, 1);
    assert_non_null(strstr(world.told, "web-test"));
}

static bool has_copy_open(const struct cluster_vm *vm)
{
    return vm->dr && dr_test_is_open(vm->dr) && strcmp(vm->dr->info->test->step, "runs") != 0;
}

/* None counts the memory of a copy that is not started yet. */
static void drills_of_one_target_come_one_after_the_other(void **ignored)
{
    Godwit__DrRequest request = request_of(GODWIT__DR_VERB__DR_VERB_DRILL);
    unsigned drilled[VMS] = {0};
    bool was_open[VMS] = {false};
    (void)ignored;
    hold();
    assert_int_equal(protect("db", "node2", NULL, 0, 0), 0);
    request.vm = NULL;
    request.has_drill_every_ms = true;
    request.drill_every_ms = 100000;
    request.group = (char *)(uintptr_t) "shop";
    for (int v = 0; v < VMS; v++)
        assert_int_equal(protect(vm_names[v], "node2", "shop", 0, 0), 0);
    assert_int_equal(ask(&request), 0);
    for (int i = 0; i < 1800; i++) {
        turn();
        bool is_open[VMS] = {has_copy_open(vm(0)), has_copy_open(vm(1))};
        assert_false(is_open[0] && is_open[1]);
        for (int v = 0; v < VMS; v++) {
            drilled[v] += is_open[v] && !was_open[v];
            was_open[v] = is_open[v];
        }
    }
    assert_int_equal(drilled[0], 1);
    assert_int_equal(drilled[1], 1);
    for (int v = 0; v < VMS; v++)
        assert_string_equal(vm(v)->dr->info->test->error, "");
}

/* One that runs for an operator is counted as any VM is. */
static void a_drill_does_not_wait_for_a_test_that_runs(void **ignored)
{
    Godwit__DrRequest request = request_of(GODWIT__DR_VERB__DR_VERB_DRILL);
    (void)ignored;
    hold();
    assert_int_equal(protect("db", "node2", NULL, 0, 0), 0);
    assert_int_equal(begin_test(), 0);
    turn_until(test_runs, "its copy runs");
    request.vm = (char *)(uintptr_t) "db";
    request.has_drill_every_ms = true;
    request.drill_every_ms = DR_DRILL_EVERY_MS_MIN;
    assert_int_equal(ask(&request), 0);
    world.twin.exists = false; /* only one at a time here: the other one is not told of again */
    for (int i = 0; i < 1000 && !vm(1)->dr->info->test; i++)
        turn();
    assert_non_null(vm(1)->dr->info->test);
}

static bool test_came_to_something(void)
{
    return test_runs() || test_is_over();
}

static bool drill_is_over(void)
{
    return test_is_over() && test_of()->is_drill;
}

static bool nothing_is_left_of_it(void)
{
    return !twin() && (!test_of() || test_is_over());
}

/* ---- death at every step ----------------------------------------------------------------------
 */

static int ask_unprotect(void)
{
    Godwit__DrRequest request = request_of(GODWIT__DR_VERB__DR_VERB_UNPROTECT);
    return ask(&request);
}

/* Whatever dies when: no copy is left, and the VM is protected as before. */
static void test_and_end(void)
{
    until(ask_protect, is_held, "held");
    until(begin_test, test_came_to_something, "tested");
    until(end_test, nothing_is_left_of_it, "nothing of the copy");
    unsigned copies = world.copies;
    until(begin_drill, drill_is_over, "drilled");
    turn_until(nothing_is_left_of_it, "nothing of the drill's");
    assert_true(world.copies >= copies);
    turn_until(is_held, "held as before");
    assert_false(world.twin.exists);
    assert_int_equal(running(0), 1);
    assert_true(world.processes[0][0].runs);
}

static void test_and_unprotect(void)
{
    until(ask_protect, is_held, "held");
    until(begin_test, test_came_to_something, "tested");
    until(ask_unprotect, is_unprotected, "no record");
    turn_for(3000);
    assert_null(twin());
    assert_false(world.twin.exists);
    assert_false(world.processes[0][0].replicates);
    assert_string_equal(world.processes[1][0].in_id, "");
    assert_int_equal(running(0), 1);
}

static void a_coordinator_that_dies_at_any_step_of_a_test_leaves_no_copy(void **ignored)
{
    (void)ignored;
    dies_at_each_step_of(test_and_end, 10);
}

static void a_coordinator_that_dies_at_any_step_of_an_unprotect_leaves_no_copy(void **ignored)
{
    (void)ignored;
    dies_at_each_step_of(test_and_unprotect, 5);
}

int main(void)
{
    log_set_level(LOG_ERROR);
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(a_test_starts_a_copy_of_its_own_and_leaves_the_protection_alone),
        TEST(a_nic_of_a_copy_is_on_no_bridge),
        TEST(a_copy_of_disks_alone_boots_with_its_vms_own_seed),
        TEST(a_test_of_what_is_not_held_is_refused),
        TEST(a_name_that_is_taken_or_none_changes_nothing),
        TEST(a_copy_needs_room_for_the_disks_that_it_is_given),
        TEST(a_copy_needs_room_also_where_its_replicas_host_alone_knows_how_much),
        TEST(a_copy_that_is_refused_or_does_not_start_is_taken_away),
        TEST(vm_rm_of_the_copy_ends_the_test),
        TEST(no_snapshot_is_taken_of_a_copy),
        TEST(a_copy_whose_host_is_away_is_not_removed_by_its_record_alone),
        TEST(the_real_one_is_taken_while_a_copy_runs_and_the_copy_ends_later),
        TEST(a_copy_is_not_started_again_when_its_host_comes_back),
        TEST(unprotect_ends_a_test_first),
        TEST(unprotect_gives_a_test_up_whose_host_is_lost_for_good),
        TEST(a_copy_that_was_given_up_goes_whole_when_its_host_is_back_after_all),
        TEST(a_drill_watches_its_copy_and_takes_it_away),
        TEST(drills_come_by_themselves_as_often_as_was_said),
        TEST(a_drill_that_is_due_soon_is_known_before_it),
        TEST(a_drill_that_is_overdue_by_a_period_is_told_once),
        TEST(a_schedule_that_is_set_while_it_is_away_counts_once_it_is_back),
        TEST(what_is_being_unprotected_is_not_drilled),
        TEST(of_a_group_those_are_drilled_that_stay_protected),
        TEST(a_test_that_is_forgotten_does_not_keep_drills_away_in_silence),
        TEST(drills_of_one_target_come_one_after_the_other),
        TEST(a_drill_does_not_wait_for_a_test_that_runs),
        cmocka_unit_test(a_coordinator_that_dies_at_any_step_of_a_test_leaves_no_copy),
        cmocka_unit_test(a_coordinator_that_dies_at_any_step_of_an_unprotect_leaves_no_copy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

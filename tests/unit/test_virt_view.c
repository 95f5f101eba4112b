#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <libvirt/libvirt.h>

#include "agent/backend_libvirt/virt_view.h"

static void tells_an_arrival_from_a_paused_domain(void **state)
{
    (void)state;
    assert_int_equal(virt_view_sight(VIR_DOMAIN_PAUSED, VIR_DOMAIN_PAUSED_MIGRATION),
                     SIGHT_MIGRATING);
    assert_int_equal(virt_view_sight(VIR_DOMAIN_PAUSED, VIR_DOMAIN_PAUSED_USER), SIGHT_PAUSED);
    assert_int_equal(virt_view_sight(VIR_DOMAIN_RUNNING, 0), SIGHT_RUNNING);
    assert_int_equal(virt_view_sight(VIR_DOMAIN_SHUTOFF, 0), SIGHT_OFF);
    assert_int_equal(virt_view_sight(4711, 0), SIGHT_UNKNOWN);
}

static void a_started_event_is_no_proof_that_it_runs(void **state)
{
    (void)state;
    enum virt_sight sight;
    enum virt_how how;
    assert_false(virt_view_event(VIR_DOMAIN_EVENT_STARTED, 0, &sight, &how));
    assert_true(virt_view_event(VIR_DOMAIN_EVENT_STOPPED, VIR_DOMAIN_EVENT_STOPPED_MIGRATED, &sight,
                                &how));
    assert_int_equal(sight, SIGHT_OFF);
    assert_int_equal(how, HOW_MIGRATED);
}

static void every_plan_leaves_the_target_paused(void **state)
{
    (void)state;
    static char *const policies[] = {NULL, "gentle", "balanced", "finish"};
    for (size_t i = 0; i < 4; i++) {
        Godwit__MoveGoals goals = GODWIT__MOVE_GOALS__INIT;
        struct virt_plan plan;
        goals.policy = policies[i];
        virt_view_plan(&goals, true, false, &plan);
        assert_true(plan.flags & VIR_MIGRATE_PAUSED);
        assert_true(plan.flags & VIR_MIGRATE_PEER2PEER);
        assert_true(plan.flags & VIR_MIGRATE_TLS);
        assert_true(plan.flags & VIR_MIGRATE_UNDEFINE_SOURCE);
        assert_false(plan.flags & VIR_MIGRATE_POSTCOPY);
    }
}

static void only_gentle_never_holds_writers_back(void **state)
{
    (void)state;
    Godwit__MoveGoals goals = GODWIT__MOVE_GOALS__INIT;
    struct virt_plan plan;
    virt_view_plan(NULL, false, true, &plan);
    assert_true(plan.flags & VIR_MIGRATE_AUTO_CONVERGE);
    assert_false(plan.flags & (VIR_MIGRATE_TLS | VIR_MIGRATE_PERSIST_DEST));
    goals.policy = "gentle";
    virt_view_plan(&goals, false, true, &plan);
    assert_false(plan.flags & VIR_MIGRATE_AUTO_CONVERGE);
}

static void goals_become_limits_that_are_never_zero(void **state)
{
    (void)state;
    Godwit__MoveGoals goals = GODWIT__MOVE_GOALS__INIT;
    struct virt_plan plan;
    goals.bandwidth_bytes_per_s = 1000;
    goals.downtime_ns_max = 10;
    goals.lanes = 16;
    virt_view_plan(&goals, true, true, &plan);
    assert_int_equal(plan.bandwidth_mib_per_s, 1);
    assert_int_equal(plan.downtime_ms, 1);
    assert_int_equal(plan.connections, 8);
    assert_true(plan.flags & VIR_MIGRATE_PARALLEL);
}

static void statistics_become_progress_whatever_they_say(void **state)
{
    (void)state;
    Godwit__MoveProgress progress = GODWIT__MOVE_PROGRESS__INIT;
    struct virt_job job = {.data_total = 1 << 20, .data_remaining = UINT64_MAX, .iteration = 2};
    virt_view_progress(&job, 7, &progress);
    assert_int_equal(progress.round, 2);
    assert_int_equal(progress.memory_bytes_done, 0);
    job.data_remaining = 1 << 19;
    virt_view_progress(&job, 7, &progress);
    assert_int_equal(progress.memory_bytes_done, 1 << 19);
}

static void a_uuid_is_an_id_and_back(void **state)
{
    (void)state;
    char id[33], uuid[37];
    assert_true(virt_view_id("C7A5FDBD-cdaf-9455-926a-d65c16db1809", id));
    assert_string_equal(id, "c7a5fdbdcdaf9455926ad65c16db1809");
    assert_true(virt_view_uuid(id, uuid));
    assert_string_equal(uuid, "c7a5fdbd-cdaf-9455-926a-d65c16db1809");
    assert_false(virt_view_id("c7a5fdbd-cdaf-9455-926a-d65c16db180", id));
    assert_false(virt_view_id("c7a5fdbd+cdaf-9455-926a-d65c16db1809", id));
    assert_false(virt_view_uuid("../../../../../../../../etc/passw", uuid));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tells_an_arrival_from_a_paused_domain),
        cmocka_unit_test(a_started_event_is_no_proof_that_it_runs),
        cmocka_unit_test(every_plan_leaves_the_target_paused),
        cmocka_unit_test(only_gentle_never_holds_writers_back),
        cmocka_unit_test(goals_become_limits_that_are_never_zero),
        cmocka_unit_test(statistics_become_progress_whatever_they_say),
        cmocka_unit_test(a_uuid_is_an_id_and_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

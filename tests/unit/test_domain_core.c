#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "agent/backend_libvirt/domain_core.h"
#include "base/world.h"

static struct domain_core core;
static struct domain_todo todo;
static struct fault fault;

static int step(struct domain_event event)
{
    todo = (struct domain_todo){0};
    fault = (struct fault){0};
    return domain_core_step(&core, &event, &todo, &fault);
}

static void see(enum virt_sight sight, enum virt_how how, bool is_fresh)
{
    (void)step((struct domain_event){.type = DOMAIN_EVENT_SIGHT,
                                     .seen = {.sight = sight, .how = how, .is_fresh = is_fresh}});
}

static int setup(void **state)
{
    (void)state;
    core = (struct domain_core){.generation = 4, .sight = SIGHT_RUNNING};
    return 0;
}

static void move_out(void)
{
    assert_int_equal(step((struct domain_event){.type = DOMAIN_EVENT_MOVE_OUT,
                                                .move = {.move_id = "m", .generation = 5}}),
                     0);
    assert_true(todo.bits & DOMAIN_TODO_GREET);
}

static void copy(void)
{
    move_out();
    (void)step((struct domain_event){.type = DOMAIN_EVENT_GREETED});
    assert_true(todo.bits & DOMAIN_TODO_MIGRATE);
}

static void move_in(void)
{
    core = (struct domain_core){.sight = SIGHT_OFF};
    assert_int_equal(step((struct domain_event){.type = DOMAIN_EVENT_MOVE_IN,
                                                .move = {.move_id = "m", .generation = 5}}),
                     0);
    assert_int_equal(core.latch, GODWIT__LATCH__LATCH_IN);
}

static int take(uint64_t generation)
{
    return step((struct domain_event){.type = DOMAIN_EVENT_TAKE,
                                      .take = {.generation = generation}});
}

static void gives_only_when_the_domain_is_off_here(void **state)
{
    (void)state;
    copy();

    see(SIGHT_MIGRATING, HOW_UNKNOWN, true);
    assert_int_equal(core.latch, GODWIT__LATCH__LATCH_OUT);
    see(SIGHT_OFF, HOW_MIGRATED, true);

    assert_int_equal(core.latch, GODWIT__LATCH__LATCH_GAVE);
    assert_true(todo.bits & DOMAIN_TODO_TRANSFER);
    assert_int_equal(domain_core_state(&core), GODWIT__VM_STATE__VM_STATE_HELD);
}

static void a_sight_of_before_the_end_of_libvirts_call_decides_nothing(void **state)
{
    (void)state;
    copy();
    (void)step((struct domain_event){.type = DOMAIN_EVENT_MIGRATED});
    assert_true(todo.bits & DOMAIN_TODO_LOOK);

    see(SIGHT_RUNNING, HOW_UNKNOWN, false);
    assert_int_equal(core.latch, GODWIT__LATCH__LATCH_OUT);
    see(SIGHT_OFF, HOW_MIGRATED, true);

    assert_int_equal(core.latch, GODWIT__LATCH__LATCH_GAVE);
}

static void rolls_back_when_libvirt_runs_it_on_and_tells_the_target(void **state)
{
    (void)state;
    struct fault failed = {0};
    (void)fault_set(&failed, ERR_IO, "the socket broke");
    copy();

    (void)step((struct domain_event){.type = DOMAIN_EVENT_MIGRATED, .fault = &failed});
    see(SIGHT_RUNNING, HOW_UNKNOWN, true);

    assert_int_equal(core.latch, GODWIT__LATCH__LATCH_ABORTED);
    assert_true(todo.bits & DOMAIN_TODO_ABANDON);
    assert_string_equal(core.cause.text, "the socket broke");
    assert_int_equal(domain_core_state(&core), GODWIT__VM_STATE__VM_STATE_RUNNING);
}

/* Asked, since the source stands. */
static void target_says(Godwit__Latch latch)
{
    assert_true(todo.bits & DOMAIN_TODO_ASK_TARGET);
    assert_false(todo.bits & (DOMAIN_TODO_RESUME | DOMAIN_TODO_ABANDON));
    (void)step((struct domain_event){.type = DOMAIN_EVENT_TARGET_SAYS, .answer = {.latch = latch}});
    assert_true(todo.bits & DOMAIN_TODO_LOOK);
}

static void resumes_a_source_that_libvirt_left_standing(void **state)
{
    (void)state;
    copy();
    (void)step((struct domain_event){.type = DOMAIN_EVENT_MIGRATED});

    see(SIGHT_PAUSED, HOW_UNKNOWN, true);
    target_says(GODWIT__LATCH__LATCH_READY);
    see(SIGHT_PAUSED, HOW_UNKNOWN, true);
    assert_true(todo.bits & DOMAIN_TODO_RESUME);
    assert_int_equal(core.latch, GODWIT__LATCH__LATCH_OUT);
    see(SIGHT_RUNNING, HOW_UNKNOWN, true);

    assert_int_equal(core.latch, GODWIT__LATCH__LATCH_ABORTED);
}

static void a_source_that_libvirtd_forgot_in_the_midst_is_resumed_once_no_job_is_left(void **state)
{
    (void)state;
    struct fault failed = {0};
    (void)fault_set(&failed, ERR_CLOSED, "libvirtd ended the connection");
    copy();
    (void)step((struct domain_event){.type = DOMAIN_EVENT_JOBLESS}); /* while libvirt is at it */
    (void)step((struct domain_event){.type = DOMAIN_EVENT_MIGRATED, .fault = &failed});
    see(SIGHT_MIGRATING, HOW_UNKNOWN, true);
    assert_false(todo.bits & DOMAIN_TODO_RESUME); /* it may still be at it */
    (void)step((struct domain_event){.type = DOMAIN_EVENT_TICK});
    assert_true(todo.bits & DOMAIN_TODO_ASK_JOB);

    (void)step((struct domain_event){.type = DOMAIN_EVENT_JOBLESS});
    assert_true(todo.bits & DOMAIN_TODO_LOOK);
    see(SIGHT_MIGRATING, HOW_UNKNOWN, true);
    target_says(GODWIT__LATCH__LATCH_READY);
    see(SIGHT_MIGRATING, HOW_UNKNOWN, true);
    assert_true(todo.bits & DOMAIN_TODO_RESUME);
    see(SIGHT_RUNNING, HOW_UNKNOWN, true);
    assert_int_equal(core.latch, GODWIT__LATCH__LATCH_ABORTED);
    assert_true(todo.bits & DOMAIN_TODO_ABANDON);

    /* ... and with its agent */
    core = (struct domain_core){.generation = 4,
                                .latch = GODWIT__LATCH__LATCH_OUT,
                                .move_generation = 5,
                                .sight = SIGHT_MIGRATING};
    (void)step((struct domain_event){.type = DOMAIN_EVENT_INHERIT});
    (void)step((struct domain_event){.type = DOMAIN_EVENT_JOBLESS});
    see(SIGHT_MIGRATING, HOW_UNKNOWN, true);
    assert_false(todo.bits & DOMAIN_TODO_RESUME);
    (void)step((struct domain_event){.type = DOMAIN_EVENT_NO_JOB});
    (void)step((struct domain_event){.type = DOMAIN_EVENT_JOBLESS});
    see(SIGHT_MIGRATING, HOW_UNKNOWN, true);
    target_says(GODWIT__LATCH__LATCH_IN);
    see(SIGHT_MIGRATING, HOW_UNKNOWN, true);
    assert_true(todo.bits & DOMAIN_TODO_RESUME);
}

static void a_source_that_stands_goes_on_without_the_word_of_a_target_that_is_away(void **state)
{
    (void)state;
    struct fault away = {0};
    (void)fault_set(&away, ERR_UNREACHABLE, "no route");
    const struct domain_event no_answer = {.type = DOMAIN_EVENT_TARGET_SAYS, .answer = {.fault = &away}};
    struct domain_event stands = {.type = DOMAIN_EVENT_SIGHT,
                                  .now_ns = NS_PER_S,
                                  .seen = {.sight = SIGHT_PAUSED, .is_fresh = true}};
    copy();
    (void)step((struct domain_event){.type = DOMAIN_EVENT_MIGRATED});
    for (; stands.now_ns < 4 * NS_PER_S; stands.now_ns += NS_PER_S) {
        (void)step(stands);
        assert_true(todo.bits & DOMAIN_TODO_ASK_TARGET);
        assert_false(todo.bits & DOMAIN_TODO_RESUME);
        (void)step(no_answer);
        assert_int_equal(core.latch, GODWIT__LATCH__LATCH_OUT);
    }

    (void)step(stands);
    assert_true(todo.bits & DOMAIN_TODO_RESUME);
}

static void what_stands_here_stays_where_the_target_itself_says_that_it_runs(void **state)
{
    (void)state;
    for (unsigned was_paused = 0; was_paused < 2; was_paused++) {
        core = (struct domain_core){.generation = 4,
                                    .sight = was_paused ? SIGHT_PAUSED : SIGHT_RUNNING};
        copy();
        (void)step((struct domain_event){.type = DOMAIN_EVENT_MIGRATED});
        see(SIGHT_PAUSED, HOW_UNKNOWN, true);
        target_says(GODWIT__LATCH__LATCH_TOOK);
        for (uint64_t s = 1; s < 100; s++) {
            (void)step((struct domain_event){.type = DOMAIN_EVENT_SIGHT,
                                             .now_ns = s * NS_PER_S,
                                             .seen = {.sight = SIGHT_PAUSED, .is_fresh = true}});
            assert_false(todo.bits & (DOMAIN_TODO_RESUME | DOMAIN_TODO_ABANDON));
        }
        assert_int_equal(core.latch, GODWIT__LATCH__LATCH_OUT);
    }
}

/* Somebody let the arrival run by hand while the source's libvirtd was away. */
static void what_stands_here_never_goes_on_once_the_target_is_said_to_run_it(void **state)
{
    (void)state;
    static const enum virt_sight sights[] = {SIGHT_PAUSED, SIGHT_MIGRATING, SIGHT_RUNNING};
    struct fault failed = {0};
    (void)fault_set(&failed, ERR_CLOSED, "libvirtd ended the connection");
    copy();
    (void)step((struct domain_event){.type = DOMAIN_EVENT_MIGRATED, .fault = &failed});
    assert_true(step((struct domain_event){.type = DOMAIN_EVENT_STARTED}) < 0);
    (void)step((struct domain_event){.type = DOMAIN_EVENT_JOBLESS});
    for (unsigned i = 0; i < 3; i++) {
        see(sights[i], HOW_UNKNOWN, true);
        assert_false(todo.bits & (DOMAIN_TODO_RESUME | DOMAIN_TODO_ABANDON));
        assert_int_equal(core.latch, GODWIT__LATCH__LATCH_OUT);
    }
    see(SIGHT_OFF, HOW_UNKNOWN, true);
    assert_int_equal(core.latch, GODWIT__LATCH__LATCH_GAVE);
    assert_int_equal(step((struct domain_event){.type = DOMAIN_EVENT_STARTED}), 0);
    assert_int_equal(core.latch, GODWIT__LATCH__LATCH_RELEASED);
}

static void waits_while_libvirtd_does_not_say(void **state)
{
    (void)state;
    copy();
    (void)step((struct domain_event){.type = DOMAIN_EVENT_MIGRATED});

    see(SIGHT_UNKNOWN, HOW_UNKNOWN, true);
    assert_int_equal(core.phase, DOMAIN_SETTLE);
    (void)step((struct domain_event){.type = DOMAIN_EVENT_TICK, .now_ns = NS_PER_MS});

    assert_true(todo.bits & DOMAIN_TODO_LOOK);
    assert_int_equal(core.latch, GODWIT__LATCH__LATCH_OUT);
}

static void a_guest_that_switches_itself_off_is_not_given_away(void **state)
{
    (void)state;
    copy();

    see(SIGHT_OFF, HOW_SHUTDOWN, true);

    assert_int_equal(core.latch, GODWIT__LATCH__LATCH_ABORTED);
    assert_int_equal(domain_core_state(&core), GODWIT__VM_STATE__VM_STATE_STOPPED);
}

static void cancel_and_deadline_break_libvirts_migration_off(void **state)
{
    (void)state;
    struct fault canceled = {0};
    (void)fault_set(&canceled, ERR_CANCELED, "canceled");
    copy();
    assert_int_equal(step((struct domain_event){.type = DOMAIN_EVENT_CANCEL, .fault = &canceled}),
                     0);
    assert_true(todo.bits & DOMAIN_TODO_ABORT_JOB);

    (void)setup(NULL);
    copy();
    core.deadline_ns = 5;
    (void)step((struct domain_event){.type = DOMAIN_EVENT_TICK, .now_ns = 6});

    assert_true(todo.bits & DOMAIN_TODO_ABORT_JOB);
    assert_int_equal(core.cause.code, ERR_DEADLINE);
}

static void is_past_cancel_once_it_gave(void **state)
{
    (void)state;
    copy();
    see(SIGHT_OFF, HOW_MIGRATED, true);

    assert_int_equal(step((struct domain_event){.type = DOMAIN_EVENT_CANCEL}), ERR_STATE);
}

static void is_gone_once_the_target_took(void **state)
{
    (void)state;
    copy();
    see(SIGHT_OFF, HOW_MIGRATED, true);

    (void)step((struct domain_event){.type = DOMAIN_EVENT_TRANSFERRED,
                                     .answer = {.latch = GODWIT__LATCH__LATCH_TOOK}});

    assert_int_equal(core.latch, GODWIT__LATCH__LATCH_RELEASED);
    assert_int_equal(domain_core_state(&core), GODWIT__VM_STATE__VM_STATE_GONE);
    assert_true(todo.bits & DOMAIN_TODO_OVER);
}

static void a_source_that_dies_before_libvirt_stops_it_is_not_given_away(void **state)
{
    (void)state;
    copy();
    see(SIGHT_OFF, HOW_CRASHED, true);

    assert_int_equal(core.latch, GODWIT__LATCH__LATCH_ABORTED);
    assert_true(todo.bits & DOMAIN_TODO_ABANDON);
    assert_int_equal(domain_core_state(&core), GODWIT__VM_STATE__VM_STATE_CRASHED);
}

static void nothing_that_arrived_is_abandoned_once_it_is_wanted(void **state)
{
    (void)state;
    move_in();
    see(SIGHT_OFF, HOW_UNKNOWN, true);
    assert_int_equal(core.latch, GODWIT__LATCH__LATCH_IN); /* it may come yet */

    assert_int_equal(take(5), ERR_BUSY);
    assert_true(todo.bits & DOMAIN_TODO_LOOK);
    see(SIGHT_OFF, HOW_UNKNOWN, true);

    assert_int_equal(core.latch, GODWIT__LATCH__LATCH_ABANDONED);
    assert_int_equal(take(5), 0);
}

static void what_ended_on_both_hosts_has_crashed(void **state)
{
    (void)state;
    copy();
    see(SIGHT_MIGRATING, HOW_UNKNOWN, true);
    see(SIGHT_OFF, HOW_CRASHED, true);
    assert_int_equal(core.latch, GODWIT__LATCH__LATCH_GAVE);

    (void)step((struct domain_event){.type = DOMAIN_EVENT_TRANSFERRED,
                                     .answer = {.latch = GODWIT__LATCH__LATCH_ABANDONED}});

    assert_int_equal(core.phase, DOMAIN_OVER);
    assert_int_equal(domain_core_state(&core), GODWIT__VM_STATE__VM_STATE_CRASHED);
    assert_string_equal(core.reason, "it ended during a move, on both hosts");
}

static void asks_on_while_the_target_does_not_answer_and_says_that_it_is_parked(void **state)
{
    (void)state;
    copy();
    see(SIGHT_OFF, HOW_MIGRATED, true);

    (void)step((struct domain_event){.type = DOMAIN_EVENT_TRANSFERRED, .answer = {.fault = &fault}});
    (void)step((struct domain_event){.type = DOMAIN_EVENT_TICK, .now_ns = 3000 * NS_PER_MS});

    assert_int_equal(core.latch, GODWIT__LATCH__LATCH_GAVE);
    assert_true(todo.bits & DOMAIN_TODO_TRANSFER);
    assert_true(core.is_told_parked);
}

static void a_target_that_lost_the_key_is_left_to_the_coordinator_at_once(void **state)
{
    (void)state;
    struct fault denied = {0};
    (void)fault_set(&denied, ERR_DENIED, "not the source");
    copy();
    see(SIGHT_OFF, HOW_MIGRATED, true);

    (void)step((struct domain_event){.type = DOMAIN_EVENT_TRANSFERRED,
                                     .answer = {.fault = &denied}});

    assert_true(core.is_told_parked);
    assert_int_equal(core.latch, GODWIT__LATCH__LATCH_GAVE);
}

static void an_arrival_runs_by_our_word_alone(void **state)
{
    (void)state;
    move_in();
    assert_int_equal(take(5), ERR_BUSY); /* nothing is here */
    see(SIGHT_MIGRATING, HOW_UNKNOWN, true);
    assert_int_equal(take(5), ERR_BUSY);
    see(SIGHT_PAUSED, HOW_UNKNOWN, true);
    assert_int_equal(core.latch, GODWIT__LATCH__LATCH_READY);
    assert_false(todo.bits & DOMAIN_TODO_RESUME);
    assert_int_equal(take(4), ERR_DENIED); /* another generation's */

    assert_int_equal(take(5), 0);
    assert_int_equal(core.latch, GODWIT__LATCH__LATCH_TOOK);
    assert_true(todo.bits & DOMAIN_TODO_RESUME);
    see(SIGHT_RUNNING, HOW_UNKNOWN, true);

    assert_int_equal(core.generation, 5);
    assert_int_equal(domain_core_state(&core), GODWIT__VM_STATE__VM_STATE_RUNNING);
}

static void a_whole_arrival_is_never_given_up_by_itself(void **state)
{
    (void)state;
    move_in();
    see(SIGHT_PAUSED, HOW_UNKNOWN, true);

    for (uint64_t s = 1; s < 1000; s++) {
        (void)step((struct domain_event){.type = DOMAIN_EVENT_TICK, .now_ns = s * NS_PER_S});
        assert_false(todo.bits & DOMAIN_TODO_DISCARD);
    }
    assert_int_equal(core.latch, GODWIT__LATCH__LATCH_READY);
}

static void an_abandoned_arrival_is_destroyed_and_never_taken(void **state)
{
    (void)state;
    move_in();
    see(SIGHT_PAUSED, HOW_UNKNOWN, true);

    assert_int_equal(step((struct domain_event){.type = DOMAIN_EVENT_ABANDON}), 0);
    assert_true(todo.bits & DOMAIN_TODO_DISCARD);
    assert_int_equal(core.latch, GODWIT__LATCH__LATCH_ABANDONED);
    assert_int_equal(take(5), 0); /* answered with the latch, which says no */

    assert_false(todo.bits & DOMAIN_TODO_RESUME);
}

static void an_arrival_that_ends_is_abandoned(void **state)
{
    (void)state;
    move_in();
    see(SIGHT_OFF, HOW_UNKNOWN, true); /* has not come yet */
    assert_int_equal(core.latch, GODWIT__LATCH__LATCH_IN);
    see(SIGHT_MIGRATING, HOW_UNKNOWN, true);

    see(SIGHT_OFF, HOW_FAILED, true);

    assert_int_equal(core.latch, GODWIT__LATCH__LATCH_ABANDONED);
}

static void what_somebody_lets_run_by_hand_is_taken_as_it_is(void **state)
{
    (void)state;
    move_in();
    see(SIGHT_PAUSED, HOW_UNKNOWN, true);

    see(SIGHT_RUNNING, HOW_UNKNOWN, true);

    assert_int_equal(core.latch, GODWIT__LATCH__LATCH_TOOK);
    assert_int_equal(core.generation, 5);
}

static void a_restarted_agent_goes_on_from_the_latch(void **state)
{
    (void)state;
    /* source, and libvirt has finished meanwhile */
    core = (struct domain_core){.generation = 4,
                                .latch = GODWIT__LATCH__LATCH_OUT,
                                .move_generation = 5,
                                .sight = SIGHT_OFF};
    (void)step((struct domain_event){.type = DOMAIN_EVENT_INHERIT});
    assert_int_equal(core.latch, GODWIT__LATCH__LATCH_GAVE);

    /* source, and it runs: the migration is broken off before anything is decided */
    core = (struct domain_core){.generation = 4,
                                .latch = GODWIT__LATCH__LATCH_OUT,
                                .move_generation = 5,
                                .sight = SIGHT_RUNNING};
    (void)step((struct domain_event){.type = DOMAIN_EVENT_INHERIT});
    assert_true(todo.bits & DOMAIN_TODO_ABORT_JOB);
    see(SIGHT_RUNNING, HOW_UNKNOWN, true);
    assert_int_equal(core.latch, GODWIT__LATCH__LATCH_OUT);
    (void)step((struct domain_event){.type = DOMAIN_EVENT_NO_JOB});
    see(SIGHT_RUNNING, HOW_UNKNOWN, true);
    assert_int_equal(core.latch, GODWIT__LATCH__LATCH_ABORTED);

    /* target that had taken and not yet resumed */
    core = (struct domain_core){.generation = 5,
                                .latch = GODWIT__LATCH__LATCH_TOOK,
                                .move_generation = 5,
                                .is_resuming = true,
                                .sight = SIGHT_PAUSED};
    (void)step((struct domain_event){.type = DOMAIN_EVENT_INHERIT});
    (void)step((struct domain_event){.type = DOMAIN_EVENT_TICK});
    assert_true(todo.bits & DOMAIN_TODO_RESUME);
}

static void tells_how_it_ended(void **state)
{
    (void)state;
    see(SIGHT_OFF, HOW_DESTROYED, true);
    assert_int_equal(domain_core_state(&core), GODWIT__VM_STATE__VM_STATE_STOPPED);
    assert_string_equal(core.reason, "destroyed outside of the pool");

    (void)setup(NULL);
    see(SIGHT_OFF, HOW_FAILED, true);
    assert_int_equal(domain_core_state(&core), GODWIT__VM_STATE__VM_STATE_CRASHED);

    (void)setup(NULL);
    assert_int_equal(step((struct domain_event){.type = DOMAIN_EVENT_STOP}), 0);
    see(SIGHT_OFF, HOW_DESTROYED, true);
    assert_int_equal(core.ending, DOMAIN_ENDED_ASKED);
}

static void refuses_a_second_move_and_a_stop_meanwhile(void **state)
{
    (void)state;
    copy();
    assert_int_equal(step((struct domain_event){.type = DOMAIN_EVENT_MOVE_OUT,
                                                .move = {.move_id = "n", .generation = 6}}),
                     ERR_BUSY);
    assert_int_equal(step((struct domain_event){.type = DOMAIN_EVENT_STOP}), ERR_BUSY);
}

/* Asked for before it was started, answered after: as a look that stands behind others in libvirt. */
static void what_was_seen_before_it_was_started_does_not_end_it(void **state)
{
    (void)state;
    core = (struct domain_core){.sight = SIGHT_OFF};
    see(SIGHT_RUNNING, HOW_UNKNOWN, true);
    see(SIGHT_OFF, HOW_UNKNOWN, false);
    assert_int_equal(core.phase, DOMAIN_PLAIN);
    assert_int_equal(core.sight, SIGHT_RUNNING);
    assert_true(todo.bits & DOMAIN_TODO_LOOK);
    see(SIGHT_OFF, HOW_SHUTDOWN, true);
    assert_int_equal(core.phase, DOMAIN_OVER);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_seen_before_it_was_started_does_not_end_it),
        cmocka_unit_test_setup(gives_only_when_the_domain_is_off_here, setup),
        cmocka_unit_test_setup(a_sight_of_before_the_end_of_libvirts_call_decides_nothing, setup),
        cmocka_unit_test_setup(rolls_back_when_libvirt_runs_it_on_and_tells_the_target, setup),
        cmocka_unit_test_setup(resumes_a_source_that_libvirt_left_standing, setup),
        cmocka_unit_test_setup(
            a_source_that_libvirtd_forgot_in_the_midst_is_resumed_once_no_job_is_left, setup),
        cmocka_unit_test_setup(what_stands_here_never_goes_on_once_the_target_is_said_to_run_it, setup),
        cmocka_unit_test_setup(what_stands_here_stays_where_the_target_itself_says_that_it_runs, setup),
        cmocka_unit_test_setup(a_source_that_stands_goes_on_without_the_word_of_a_target_that_is_away, setup),
        cmocka_unit_test_setup(waits_while_libvirtd_does_not_say, setup),
        cmocka_unit_test_setup(a_guest_that_switches_itself_off_is_not_given_away, setup),
        cmocka_unit_test_setup(cancel_and_deadline_break_libvirts_migration_off, setup),
        cmocka_unit_test_setup(is_past_cancel_once_it_gave, setup),
        cmocka_unit_test_setup(is_gone_once_the_target_took, setup),
        cmocka_unit_test_setup(a_source_that_dies_before_libvirt_stops_it_is_not_given_away, setup),
        cmocka_unit_test_setup(nothing_that_arrived_is_abandoned_once_it_is_wanted, setup),
        cmocka_unit_test_setup(what_ended_on_both_hosts_has_crashed, setup),
        cmocka_unit_test_setup(asks_on_while_the_target_does_not_answer_and_says_that_it_is_parked,
                               setup),
        cmocka_unit_test_setup(a_target_that_lost_the_key_is_left_to_the_coordinator_at_once,
                               setup),
        cmocka_unit_test_setup(an_arrival_runs_by_our_word_alone, setup),
        cmocka_unit_test_setup(a_whole_arrival_is_never_given_up_by_itself, setup),
        cmocka_unit_test_setup(an_abandoned_arrival_is_destroyed_and_never_taken, setup),
        cmocka_unit_test_setup(an_arrival_that_ends_is_abandoned, setup),
        cmocka_unit_test_setup(what_somebody_lets_run_by_hand_is_taken_as_it_is, setup),
        cmocka_unit_test_setup(a_restarted_agent_goes_on_from_the_latch, setup),
        cmocka_unit_test_setup(tells_how_it_ended, setup),
        cmocka_unit_test_setup(refuses_a_second_move_and_a_stop_meanwhile, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

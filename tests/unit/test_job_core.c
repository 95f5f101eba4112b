#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/world.h"
#include "coordinator/job_core.h"
#include "proto/limits.h"

#define LATCH(name) GODWIT__LATCH__LATCH_##name
#define VERDICT(name) GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_##name

static struct job_core job;
static uint64_t now_ns;

static struct job_todo step(struct job_event event)
{
    struct job_todo todo = {0};
    now_ns += 10 * NS_PER_MS;
    event.now_ns = now_ns;
    job_core_step(&job, &event, &todo);
    return todo;
}

static struct job_todo report(bool at_target, Godwit__Latch latch)
{
    return step((struct job_event){.type = JOB_EVENT_REPORT,
                                   .report = {.at_target = at_target, .latch = latch}});
}

static struct job_todo source_tells_why(int fault_code, const char *text)
{
    return step((struct job_event){.type = JOB_EVENT_REPORT,
                                   .report = {.latch = LATCH(ABORTED),
                                              .ended = true,
                                              .has_receipt = true,
                                              .fault_code = fault_code,
                                              .fault_text = text}});
}

static struct job_todo tick(uint64_t ms)
{
    now_ns += ms * NS_PER_MS;
    return step((struct job_event){.type = JOB_EVENT_TICK});
}

static struct job_todo link_changes(bool at_target, bool up)
{
    return step(
        (struct job_event){.type = JOB_EVENT_LINK, .link = {.at_target = at_target, .up = up}});
}

static int set_up(void **state)
{
    (void)state;
    memset(&job, 0, sizeof job);
    now_ns = NS_PER_S;
    job_core_init(&job, now_ns);
    (void)snprintf(job.id, sizeof job.id, "J000001");
    (void)snprintf(job.source_host, sizeof job.source_host, "node1");
    (void)snprintf(job.target_host, sizeof job.target_host, "node2");
    job.source_generation = 1;
    job.generation = 2;
    return 0;
}

static int set_up_moving(void **state)
{
    (void)set_up(state);
    (void)step((struct job_event){.type = JOB_EVENT_BEGIN});
    (void)step((struct job_event){.type = JOB_EVENT_ADDRESS});
    (void)report(false, LATCH(OUT));
    return 0;
}

static void orders_the_source_only_after_it_is_stored(void **state)
{
    (void)state;
    struct job_todo begun = step((struct job_event){.type = JOB_EVENT_BEGIN});
    struct job_todo answered = step((struct job_event){.type = JOB_EVENT_ADDRESS});

    assert_int_equal(begun.bits & (JOB_TODO_STORE | JOB_TODO_MOVE_IN | JOB_TODO_MOVE_OUT),
                     JOB_TODO_STORE | JOB_TODO_MOVE_IN);
    assert_int_equal(answered.bits & (JOB_TODO_STORE | JOB_TODO_MOVE_OUT),
                     JOB_TODO_STORE | JOB_TODO_MOVE_OUT);
    assert_true(job.out_sent);
}

static void a_target_that_took_it_owns_it(void **state)
{
    (void)state;
    (void)report(false, LATCH(GAVE));

    struct job_todo took = report(true, LATCH(TOOK));
    assert_int_equal(took.own, JOB_OWN_TAKEN);
    assert_int_equal(took.source_verdict, VERDICT(STARTED));
    struct job_todo released = step((struct job_event){
        .type = JOB_EVENT_REPORT, .report = {.latch = LATCH(RELEASED), .has_receipt = true}});

    assert_true(released.bits & JOB_TODO_ENDED);
    assert_int_equal(job.state, JOB_DONE);
}

static void latches_that_come_late_or_twice_change_nothing(void **state)
{
    (void)state;
    (void)report(false, LATCH(GAVE));

    (void)report(false, LATCH(OUT));
    struct job_todo again = report(false, LATCH(GAVE));

    assert_int_equal(job.source.latch, LATCH(GAVE));
    assert_int_equal(again.bits & JOB_TODO_STORE, 0);
}

static void a_latch_of_the_other_end_is_not_believed(void **state)
{
    (void)state;

    (void)report(true, LATCH(GAVE));
    (void)report(false, LATCH(TOOK));

    assert_int_equal(job.source.latch, LATCH(OUT));
    assert_int_equal(job.step, JOB_MOVE);
}

static void an_aborted_source_ends_it_once_the_target_is_clear(void **state)
{
    (void)state;

    struct job_todo aborted = report(false, LATCH(ABORTED));
    assert_int_equal(aborted.target_verdict, VERDICT(ABANDON));
    assert_int_equal(aborted.own, JOB_OWN_KEEP);
    struct job_todo clear = report(true, LATCH(ABANDONED));
    assert_int_equal(clear.own, JOB_OWN_KEEP); /* why it rolled back is not told yet */
    struct job_todo told = source_tells_why(ERR_DEADLINE, "deadline");

    assert_int_equal(told.own, JOB_OWN_BACK);
    assert_int_equal(job.state, JOB_ROLLED_BACK);
    assert_int_equal(job.error_code, GW_MOVE_DEADLINE);
}

static void an_aborted_source_that_never_says_why_ends_it_all_the_same(void **state)
{
    (void)state;
    (void)report(false, LATCH(ABORTED));
    (void)report(true, LATCH(ABANDONED));

    struct job_todo later = tick(3000);

    assert_int_equal(later.own, JOB_OWN_BACK);
    assert_int_equal(job.error_code, GW_MOVE_ROLLED_BACK);
}

static void an_aborted_move_does_not_wait_for_ever_for_a_dead_target(void **state)
{
    (void)state;
    (void)link_changes(true, false);
    (void)report(false, LATCH(ABORTED));

    struct job_todo later = tick(6000);

    assert_int_equal(later.own, JOB_OWN_BACK);
}

static void a_parked_guest_is_pushed_forward_and_never_resumed_on_silence(void **state)
{
    (void)state;
    struct job_todo parked = step((struct job_event){
        .type = JOB_EVENT_REPORT, .report = {.latch = LATCH(GAVE), .parked = true}});
    assert_int_equal(parked.target_verdict, VERDICT(TAKE));
    (void)link_changes(true, false);

    struct job_todo alarmed = tick(PARK_ALARM_MS + 1000);
    assert_true(alarmed.bits & JOB_TODO_ALARM);
    (void)tick(PARK_FENCE_MS);
    assert_int_equal(job.state, JOB_ATTENTION);
    for (int i = 0; i < 100; i++) {
        struct job_todo todo = tick(60000);
        assert_int_equal(todo.own, JOB_OWN_KEEP);
        assert_int_equal(todo.source_verdict, 0);
    }

    (void)link_changes(true, true);
    struct job_todo took = report(true, LATCH(TOOK));
    assert_int_equal(took.own, JOB_OWN_TAKEN);
    assert_int_equal(job.state, JOB_RUNNING);
}

static void an_absence_that_was_asked_before_the_target_had_its_process_is_no_proof(void **state)
{
    (void)state;
    uint64_t asked_ns = job.address_ns; /* of what an earlier move had left there */
    (void)tick(10);
    (void)report(false, LATCH(GAVE));

    struct job_todo late = step(
        (struct job_event){.type = JOB_EVENT_REPORT,
                           .report = {.at_target = true, .absent = true, .asked_ns = asked_ns}});
    assert_int_equal(late.own, JOB_OWN_KEEP);
    assert_int_equal(job.step, JOB_MOVE);

    struct job_todo true_one =
        step((struct job_event){.type = JOB_EVENT_REPORT,
                                .report = {.at_target = true, .absent = true, .asked_ns = now_ns}});
    assert_int_equal(true_one.own, JOB_OWN_RECOVER);
}

static void an_abandoned_target_lets_the_source_go_on_as_a_new_generation(void **state)
{
    (void)state;
    (void)report(false, LATCH(GAVE));

    struct job_todo abandoned = report(true, LATCH(ABANDONED));
    assert_int_equal(abandoned.own, JOB_OWN_RECOVER);
    assert_int_equal(abandoned.source_verdict, 0); /* not before it is stored */
    job.resume_generation = 3;
    struct job_todo next = tick(100);
    assert_int_equal(next.source_verdict, VERDICT(RESUME));
    struct job_todo running = step((struct job_event){
        .type = JOB_EVENT_REPORT,
        .report = {.latch = LATCH(GAVE), .runs = true, .generation = 3, .asked_ns = now_ns}});

    assert_int_equal(running.own, JOB_OWN_RECOVERED);
    assert_int_equal(job.state, JOB_ROLLED_BACK);
}

static void a_cancel_asks_the_source_and_ends_as_canceled(void **state)
{
    (void)state;

    struct job_todo canceled = step((struct job_event){.type = JOB_EVENT_CANCEL});
    assert_int_equal(canceled.source_verdict, VERDICT(CANCEL));
    assert_int_equal(canceled.target_verdict, 0); /* it could park the guest for nothing */
    (void)report(false, LATCH(ABORTED));
    (void)report(true, LATCH(ABANDONED));
    (void)source_tells_why(ERR_CANCELED, "canceled");

    assert_int_equal(job.state, JOB_CANCELED);
    assert_int_equal(job.error_code, GW_MOVE_CANCELED);
}

static void a_cancel_with_an_unreachable_source_abandons_the_target_first(void **state)
{
    (void)state;
    (void)link_changes(false, false);

    struct job_todo canceled = step((struct job_event){.type = JOB_EVENT_CANCEL});
    assert_int_equal(canceled.target_verdict, VERDICT(ABANDON));
    struct job_todo clear = report(true, LATCH(ABANDONED));

    assert_int_equal(clear.own, JOB_OWN_KEEP); /* the source may have given it meanwhile */
    assert_int_equal(job.step, JOB_BACK);
}

static void a_refused_target_is_no_rolled_back_move(void **state)
{
    (void)state;
    struct fault fault = {0};
    (void)step((struct job_event){.type = JOB_EVENT_BEGIN});
    fault_set(&fault, ERR_NOMEM, "no memory");

    (void)step((struct job_event){.type = JOB_EVENT_MOVE_IN_FAILED,
                                  .failed = {.fault = &fault, .definite = true}});
    struct job_todo gone =
        step((struct job_event){.type = JOB_EVENT_REPORT,
                                .report = {.at_target = true, .absent = true, .asked_ns = now_ns}});

    assert_int_equal(gone.own, JOB_OWN_BACK);
    assert_int_equal(job.state, JOB_FAILED);
    assert_int_equal(job.error_code, GW_NO_MEMORY);
}

static void a_lost_order_to_the_source_is_cleared_up_before_it_ends(void **state)
{
    (void)state;
    struct fault fault = {0};
    job.source.latch = LATCH(NONE);
    fault_set(&fault, ERR_CLOSED, "the connection ended");
    (void)step((struct job_event){.type = JOB_EVENT_MOVE_OUT_FAILED, .failed = {.fault = &fault}});
    (void)step((struct job_event){.type = JOB_EVENT_CANCEL});
    uint64_t before_ns = now_ns;
    (void)tick(2000);

    (void)report(true, LATCH(ABANDONED));
    struct job_todo stale = step((struct job_event){
        .type = JOB_EVENT_REPORT, .report = {.runs = true, .asked_ns = before_ns}});
    assert_int_equal(stale.own, JOB_OWN_KEEP); /* asked before the target was out of it */
    struct job_todo fresh = step(
        (struct job_event){.type = JOB_EVENT_REPORT, .report = {.runs = true, .asked_ns = now_ns}});

    assert_int_equal(fresh.own, JOB_OWN_BACK);
}

/* The source answers a question of now, and knows of no such move. */
static struct job_todo source_knows_no_move(void)
{
    return step((struct job_event){.type = JOB_EVENT_REPORT,
                                   .report = {.runs = true, .asked_ns = now_ns}});
}

static void a_source_that_never_heard_of_it_ends_it_though_its_target_waits_for_ever(void **state)
{
    (void)state;
    struct fault fault = {0};
    job.source.latch = LATCH(NONE);
    (void)report(true, LATCH(IN));
    fault_set(&fault, ERR_CLOSED, "the connection ended");
    (void)step((struct job_event){.type = JOB_EVENT_MOVE_OUT_FAILED, .failed = {.fault = &fault}});
    (void)link_changes(false, false);
    (void)link_changes(false, true);
    (void)source_knows_no_move();
    assert_int_equal(job.step, JOB_MOVE); /* the order may be on its way inside that host */

    (void)tick(3100);
    (void)source_knows_no_move();
    assert_int_equal(job.step, JOB_BACK);
    struct job_todo todo = tick(1600);
    assert_int_equal(todo.target_verdict, VERDICT(ABANDON));
    (void)report(true, LATCH(ABANDONED));
    (void)tick(100);
    struct job_todo back = source_knows_no_move();
    assert_int_equal(back.own, JOB_OWN_BACK);
    assert_int_equal(job.state, JOB_ROLLED_BACK);
}

static void a_restarted_coordinator_ends_a_move_whose_order_had_not_left(void **state)
{
    (void)state;
    job.source.latch = LATCH(NONE);
    (void)step((struct job_event){.type = JOB_EVENT_RESTART});
    (void)link_changes(true, true);
    (void)link_changes(false, true);
    (void)source_knows_no_move();
    assert_int_equal(job.step, JOB_MOVE);

    (void)tick(3100);
    (void)source_knows_no_move();
    assert_int_equal(job.step, JOB_BACK);
}

static void a_restart_before_the_sources_order_rolls_back(void **state)
{
    (void)state;
    (void)step((struct job_event){.type = JOB_EVENT_BEGIN});

    (void)step((struct job_event){.type = JOB_EVENT_RESTART});
    (void)link_changes(true, true);
    (void)step((struct job_event){.type = JOB_EVENT_REPORT,
                                  .report = {.at_target = true, .absent = true}});
    struct job_todo back = link_changes(false, true);

    assert_int_equal(back.own, JOB_OWN_BACK);
    assert_int_equal(job.state, JOB_ROLLED_BACK);
}

static void a_restart_after_it_waits_for_both_sides(void **state)
{
    (void)state;

    struct job_todo restarted = step((struct job_event){.type = JOB_EVENT_RESTART});

    assert_int_equal(restarted.own, JOB_OWN_KEEP);
    assert_int_equal(job.step, JOB_MOVE);
    struct job_todo quiet = tick(10000);
    assert_int_equal(quiet.bits & (JOB_TODO_ASK_SOURCE | JOB_TODO_ASK_TARGET), 0);
}

static void a_roll_back_to_a_host_that_does_not_answer_says_that_nobody_knows(void **state)
{
    (void)state;
    (void)source_tells_why(0, NULL);
    (void)link_changes(false, false); /* its host dies, or is cut off */
    (void)report(true, LATCH(ABANDONED));

    struct job_todo soon = tick(1000);
    assert_int_equal(soon.bits & JOB_TODO_ENDED, 0); /* it may be back in a moment */
    struct job_todo late = tick(5000);

    assert_true(late.bits & JOB_TODO_ENDED);
    assert_int_equal(late.own, JOB_OWN_BACK); /* the record: it is nowhere else */
    assert_int_equal(job.state, JOB_FAILED);
    assert_int_equal(job.error_code, GW_SOURCE_SILENT);
}

static void a_source_that_is_back_in_time_was_rolled_back(void **state)
{
    (void)state;
    (void)source_tells_why(0, NULL);
    (void)link_changes(false, false);
    (void)report(true, LATCH(ABANDONED));
    (void)tick(1000);

    struct job_todo back = link_changes(false, true);

    assert_true(back.bits & JOB_TODO_ENDED);
    assert_int_equal(job.error_code, GW_MOVE_ROLLED_BACK);
}

static void a_source_whose_disks_were_written_since_is_dropped_not_resumed(void **state)
{
    (void)state;
    (void)report(false, LATCH(GAVE));
    (void)step((struct job_event){.type = JOB_EVENT_REPORT,
                                  .report = {.at_target = true, .absent = true}});
    assert_int_equal(job.step, JOB_RESUME);
    job.resume_generation = 3;
    assert_int_equal(tick(1000).source_verdict, VERDICT(RESUME));

    struct job_todo lost = step((struct job_event){.type = JOB_EVENT_RESUME_LOST});
    assert_int_equal(lost.source_verdict, VERDICT(DROP));
    struct job_todo gone =
        step((struct job_event){.type = JOB_EVENT_REPORT, .report = {.absent = true}});

    assert_int_equal(gone.own, JOB_OWN_STOP);
    assert_int_equal(job.error_code, GW_VM_LOST);
    assert_non_null(strstr(job.error_text, "node2 took the VM, wrote its disks and died"));
}

static void a_dead_source_process_before_gave_is_a_lost_vm(void **state)
{
    (void)state;
    (void)step((struct job_event){.type = JOB_EVENT_REPORT, .report = {.absent = true}});
    assert_int_equal(job.step, JOB_BACK);

    struct job_todo clear = report(true, LATCH(ABANDONED));

    assert_int_equal(clear.own, JOB_OWN_STOP);
    assert_int_equal(job.state, JOB_FAILED);
    assert_int_equal(job.error_code, GW_VM_LOST);
}

static struct job_todo move_and_lose_the_target(bool powered_off)
{
    (void)report(false, LATCH(GAVE));
    struct job_todo took = report(true, LATCH(TOOK));
    assert_int_equal(took.own, JOB_OWN_TAKEN);
    (void)step((struct job_event){
        .type = JOB_EVENT_REPORT,
        .report = {.at_target = true, .absent = true, .powered_off = powered_off}});
    (void)report(false, LATCH(RELEASED));
    assert_int_equal(job.step, JOB_FORWARD); /* the receipt is still to come */
    return tick(10000);
}

static void a_target_that_took_it_and_died_is_a_lost_vm_and_no_move_that_was_done(void **state)
{
    (void)state;
    struct job_todo end = move_and_lose_the_target(false);

    assert_int_equal(end.own, JOB_OWN_STOP);
    assert_int_equal(job.state, JOB_FAILED);
    assert_int_equal(job.error_code, GW_VM_LOST);
    assert_string_equal(job.error_text, "the VM's process on node2 ended during the move");
}

static struct job_todo post_copy_begins(void)
{
    (void)report(false, LATCH(GAVE));
    (void)report(true, LATCH(TOOK));
    return step((struct job_event){.type = JOB_EVENT_REPORT, .report = {.postcopy = true}});
}

static void a_target_that_dies_in_post_copy_is_a_lost_vm_and_its_source_drops_what_it_has(void **state)
{
    (void)state;
    (void)post_copy_begins();
    (void)tick(1000);

    struct job_todo gone = step((struct job_event){
        .type = JOB_EVENT_REPORT, .report = {.at_target = true, .absent = true}});
    if (!gone.source_verdict)
        gone = tick(1000);
    assert_int_equal(gone.source_verdict, VERDICT(DROP));
    assert_true(job_core_is_active(&job));
    struct job_todo end = step((struct job_event){
        .type = JOB_EVENT_REPORT, .report = {.latch = LATCH(RELEASED), .has_receipt = true}});

    assert_int_equal(end.own, JOB_OWN_STOP);
    assert_int_equal(job.state, JOB_FAILED);
    assert_int_equal(job.error_code, GW_VM_LOST);
    assert_non_null(strstr(job.error_text, "post-copy"));
}

/* It does not know yet that its source heard it, and would refuse the next move. */
static void a_post_copy_is_over_when_its_target_is_or_does_not_say_so_for_long(void **state)
{
    (void)state;
    (void)post_copy_begins();
    (void)step((struct job_event){
        .type = JOB_EVENT_REPORT,
        .report = {.latch = LATCH(RELEASED), .ended = true, .has_receipt = true}});
    (void)tick(5000);
    assert_true(job_core_is_active(&job));
    struct job_core silent = job;

    (void)step((struct job_event){
        .type = JOB_EVENT_REPORT,
        .report = {.at_target = true, .latch = LATCH(TOOK), .ended = true}});
    assert_int_equal(job.state, JOB_DONE);

    job = silent;
    (void)tick(20000);
    assert_int_equal(job.state, JOB_DONE);
}

/* The word that it has every page never reached the source: it would serve nobody for minutes. */
static void a_source_that_did_not_hear_that_its_target_has_all_is_told_to_let_go(void **state)
{
    (void)state;
    (void)post_copy_begins();
    (void)step((struct job_event){
        .type = JOB_EVENT_REPORT,
        .report = {.at_target = true, .latch = LATCH(TOOK), .ended = true}});
    uint64_t ended_ns = now_ns;
    struct job_todo told = {0};
    bool is_dropped = false;

    while (!is_dropped && now_ns - ended_ns < 60 * NS_PER_S) {
        told = tick(600);
        is_dropped = told.source_verdict == VERDICT(DROP);
        assert_true(is_dropped || !told.source_verdict || told.source_verdict == VERDICT(STARTED));
    }
    assert_true(is_dropped);
    assert_true(now_ns - ended_ns > 10 * NS_PER_S); /* it may still hear it by itself */

    (void)step((struct job_event){.type = JOB_EVENT_REPORT,
                                  .report = {.latch = LATCH(RELEASED),
                                             .ended = true,
                                             .has_receipt = true,
                                             .fault_code = ERR_ATTENTION,
                                             .fault_text = "dropped, and never compared"}});
    assert_int_equal(job.state, JOB_ATTENTION);
    assert_int_equal(job.error_code, GW_MEMORY_UNPROVEN);
}

/* A status is one look at a process whose move goes on meanwhile: it may be read wrong, the end's word may not. */
static void a_source_is_not_told_to_let_go_by_a_status_alone(void **state)
{
    (void)state;
    (void)post_copy_begins();
    (void)step((struct job_event){
        .type = JOB_EVENT_REPORT,
        .report = {.at_target = true, .latch = LATCH(TOOK), .has_all = true}});

    for (unsigned i = 0; i < 100; i++)
        assert_int_not_equal(tick(600).source_verdict, VERDICT(DROP));
}

/* Its memory may still come: the source's agent is away, not its process. */
static void a_post_copy_whose_source_is_away_is_not_over(void **state)
{
    (void)state;
    (void)post_copy_begins();
    (void)link_changes(false, false);

    (void)tick(60000);

    assert_true(job_core_is_active(&job));
    (void)link_changes(false, true);
    (void)step((struct job_event){.type = JOB_EVENT_REPORT,
                                  .report = {.latch = LATCH(RELEASED), .has_receipt = true}});
    assert_true(job_core_is_active(&job));
    (void)step((struct job_event){
        .type = JOB_EVENT_REPORT,
        .report = {.at_target = true, .latch = LATCH(TOOK), .ended = true}});
    assert_int_equal(job.state, JOB_DONE);
}

/* A coordinator that was away knows of post-copy only what is stored: that it was allowed. */
static void restart_in_forward(void)
{
    job.may_postcopy = true;
    (void)report(false, LATCH(GAVE));
    (void)report(true, LATCH(TOOK));
    job = (struct job_core){
        .source = {.latch = job.source.latch, .link_up = true},
        .target = {.latch = job.target.latch, .link_up = true},
        .step = job.step,
        .state = job.state,
        .out_sent = true,
        .may_postcopy = true,
    };
    assert_int_equal(job.step, JOB_FORWARD);
    (void)step((struct job_event){.type = JOB_EVENT_RESTART});
}

static struct job_todo target_says(bool lacks_pages)
{
    return step((struct job_event){.type = JOB_EVENT_REPORT,
                                   .report = {.at_target = true,
                                              .latch = LATCH(TOOK),
                                              .postcopy = lacks_pages,
                                              .has_all = !lacks_pages}});
}

static void a_restart_while_both_sides_are_away_does_not_end_what_may_be_a_post_copy(void **state)
{
    (void)state;
    restart_in_forward();

    (void)tick(60000);
    assert_true(job_core_is_active(&job));
    (void)link_changes(true, true);
    (void)target_says(true);
    (void)tick(60000);
    assert_true(job_core_is_active(&job));

    (void)target_says(false);
    (void)tick(10000); /* the source is told by its next HELLO */
    assert_int_equal(job.state, JOB_DONE);
}

static void a_target_that_dies_while_the_coordinator_is_away_has_its_source_dropped(void **state)
{
    (void)state;
    restart_in_forward();
    (void)link_changes(false, true);

    struct job_todo gone = step((struct job_event){
        .type = JOB_EVENT_REPORT, .report = {.at_target = true, .absent = true}});

    if (!gone.source_verdict)
        gone = tick(1000);
    assert_int_equal(gone.source_verdict, VERDICT(DROP));
}

/* The word that it has all was said when nobody listened. */
static void a_target_that_is_silent_is_asked_when_its_source_is_of_no_help(void **state)
{
    (void)state;
    (void)post_copy_begins();
    (void)link_changes(true, false);
    (void)step((struct job_event){.type = JOB_EVENT_REPORT,
                                  .report = {.latch = LATCH(RELEASED),
                                             .ended = true,
                                             .has_receipt = true,
                                             .fault_code = ERR_TIMEOUT,
                                             .fault_text = "the target is away"}});
    (void)tick(60000);
    assert_true(job_core_is_active(&job));

    struct job_todo asks = link_changes(true, true);
    assert_true(asks.bits & JOB_TODO_ASK_TARGET);
    struct job_todo end = target_says(false);

    assert_true(end.bits & JOB_TODO_ENDED);
    assert_int_equal(job.state, JOB_DONE);
    assert_int_equal(job.error_code, GW_NONE);
}

static void a_post_copy_whose_digests_differ_ends_as_one_that_somebody_has_to_look_at(void **state)
{
    (void)state;
    (void)post_copy_begins();

    struct job_todo told = step((struct job_event){.type = JOB_EVENT_REPORT,
                                                   .report = {.latch = LATCH(RELEASED),
                                                              .ended = true,
                                                              .has_receipt = true,
                                                              .fault_code = ERR_ATTENTION,
                                                              .fault_text = "digests differ"}});
    assert_true(told.bits & JOB_TODO_STORE);
    assert_true(job_core_is_active(&job)); /* whether it has all, its target has to say */
    struct job_todo end =
        step((struct job_event){.type = JOB_EVENT_REPORT,
                                .report = {.at_target = true, .ended = true}});

    assert_true(end.bits & JOB_TODO_ENDED);
    assert_int_equal(end.own, JOB_OWN_KEEP); /* it runs there */
    assert_int_equal(job.state, JOB_ATTENTION);
    assert_int_equal(job.error_code, GW_MEMORY_UNPROVEN);
    assert_string_equal(job.error_text, "digests differ");
}

static void a_guest_that_ends_itself_as_it_arrives_was_moved_and_is_stopped(void **state)
{
    (void)state;
    struct job_todo end = move_and_lose_the_target(true);

    assert_int_equal(end.own, JOB_OWN_ENDED);
    assert_int_equal(job.state, JOB_DONE);
}

static void a_target_that_took_it_and_died_in_one_word_changes_the_record_twice(void **state)
{
    (void)state;
    (void)step(
        (struct job_event){.type = JOB_EVENT_REPORT,
                           .report = {.latch = LATCH(GAVE), .absent = true, .has_receipt = true}});

    struct job_todo first = step(
        (struct job_event){.type = JOB_EVENT_REPORT,
                           .report = {.at_target = true, .latch = LATCH(TOOK), .absent = true}});
    assert_int_equal(first.own, JOB_OWN_TAKEN);
    assert_int_equal(job.step, JOB_FORWARD);
    struct job_todo second = tick(100);

    assert_int_equal(second.own, JOB_OWN_STOP);
    assert_int_equal(job.state, JOB_FAILED);
}

#define FRESH(name) cmocka_unit_test_setup(name, set_up)
#define MOVING(name) cmocka_unit_test_setup(name, set_up_moving)

int main(void)
{
    const struct CMUnitTest tests[] = {
        FRESH(orders_the_source_only_after_it_is_stored),
        MOVING(a_target_that_took_it_owns_it),
        MOVING(latches_that_come_late_or_twice_change_nothing),
        MOVING(a_latch_of_the_other_end_is_not_believed),
        MOVING(an_aborted_source_ends_it_once_the_target_is_clear),
        MOVING(an_aborted_source_that_never_says_why_ends_it_all_the_same),
        MOVING(an_aborted_move_does_not_wait_for_ever_for_a_dead_target),
        MOVING(a_parked_guest_is_pushed_forward_and_never_resumed_on_silence),
        MOVING(an_absence_that_was_asked_before_the_target_had_its_process_is_no_proof),
        MOVING(an_abandoned_target_lets_the_source_go_on_as_a_new_generation),
        MOVING(a_cancel_asks_the_source_and_ends_as_canceled),
        MOVING(a_cancel_with_an_unreachable_source_abandons_the_target_first),
        FRESH(a_refused_target_is_no_rolled_back_move),
        MOVING(a_lost_order_to_the_source_is_cleared_up_before_it_ends),
        MOVING(a_source_that_never_heard_of_it_ends_it_though_its_target_waits_for_ever),
        MOVING(a_restarted_coordinator_ends_a_move_whose_order_had_not_left),
        FRESH(a_restart_before_the_sources_order_rolls_back),
        MOVING(a_restart_after_it_waits_for_both_sides),
        MOVING(a_roll_back_to_a_host_that_does_not_answer_says_that_nobody_knows),
        MOVING(a_source_that_is_back_in_time_was_rolled_back),
        MOVING(a_source_whose_disks_were_written_since_is_dropped_not_resumed),
        MOVING(a_dead_source_process_before_gave_is_a_lost_vm),
        MOVING(a_target_that_took_it_and_died_is_a_lost_vm_and_no_move_that_was_done),
        MOVING(a_target_that_dies_in_post_copy_is_a_lost_vm_and_its_source_drops_what_it_has),
        MOVING(a_post_copy_is_over_when_its_target_is_or_does_not_say_so_for_long),
        MOVING(a_source_that_did_not_hear_that_its_target_has_all_is_told_to_let_go),
        MOVING(a_source_is_not_told_to_let_go_by_a_status_alone),
        MOVING(a_post_copy_whose_source_is_away_is_not_over),
        MOVING(a_restart_while_both_sides_are_away_does_not_end_what_may_be_a_post_copy),
        MOVING(a_target_that_dies_while_the_coordinator_is_away_has_its_source_dropped),
        MOVING(a_target_that_is_silent_is_asked_when_its_source_is_of_no_help),
        MOVING(a_post_copy_whose_digests_differ_ends_as_one_that_somebody_has_to_look_at),
        MOVING(a_guest_that_ends_itself_as_it_arrives_was_moved_and_is_stopped),
        MOVING(a_target_that_took_it_and_died_in_one_word_changes_the_record_twice),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

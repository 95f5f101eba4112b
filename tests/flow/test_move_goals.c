/* Goals and policies of whole moves: a writer that is faster than the wire, what each policy does
 * about it, and goals that change on the way. The wire takes 24 MiB/s, also inside the pause, so
 * that a page costs 0.16 ms however fast the machine is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "base/log.h"
#include "base/world.h"
#include "tests/support/fake_guest.h"
#include "tests/support/fake_move.h"

enum { PAGES = 3000, WRITTEN = 2000, WIRE_BYTES_PER_S = 24 << 20 };

struct scene {
    struct fake_guest_config source, target;
    Godwit__MoveGoals goals;
    struct fake_move_config config;
    struct fake_guest *source_guest, *target_guest;
    struct fake_move move;
    /* at the move's own thread */
    unsigned told, act_after, slowed_most;
    void (*act)(struct scene *scene);
    int acted; /* what it returned */
    unsigned throttle_seen;
};

static void on_source(struct fake_move *move, enum phase phase, Godwit__Latch latch, void *data)
{
    (void)move, (void)latch;
    struct scene *scene = data;
    unsigned permille = fake_guest_throttle(scene->source_guest);
    if (permille > scene->throttle_seen)
        scene->throttle_seen = permille;
    if (phase == PHASE_PRECOPY && ++scene->told == scene->act_after)
        scene->act(scene);
}

static void scene_init(struct scene *scene, const char *policy)
{
    *scene = (struct scene){
        .source = {.pages = PAGES,
                   .fill = FAKE_FILL_RANDOM,
                   .writers = 1,
                   .writer_pages = WRITTEN,
                   .writes_per_ms = 30,
                   .running = true},
        .target = {.pages = PAGES},
        .goals = GODWIT__MOVE_GOALS__INIT,
        .config = {.lanes = 1, .lane = {.bytes_per_s = WIRE_BYTES_PER_S}},
    };
    scene->goals.policy = (char *)policy;
    scene->goals.compress = (char *)"off";
    scene->goals.delta = (char *)"off";
    scene->goals.downtime_ns_max = 50 * NS_PER_MS; /* some 300 pages */
    scene->goals.deadline_ms = 60000;
    scene->config.on_source = on_source;
    scene->config.data = scene;
}

static void scene_run(struct scene *scene)
{
    scene->source_guest = fake_guest_new(&scene->source);
    scene->target_guest = fake_guest_new(&scene->target);
    scene->config.source_guest = fake_guest_guest(scene->source_guest);
    scene->config.target_guest = fake_guest_guest(scene->target_guest);
    scene->config.goals = &scene->goals;
    fake_move_init(&scene->move, &scene->config);
    fake_move_start(&scene->move);
    fake_move_await_end(&scene->move);
    print_message("%s: %s, %u rounds, total %.0f ms, held back at most %u permille\n",
                  scene->goals.policy,
                  scene->move.moved ? "moved" : scene->move.at_source.fault.text,
                  scene->move.rounds, (double)scene->move.total_ns / 1e6, scene->throttle_seen);
    /* Whatever came of it, whoever has the guest has it unthrottled. */
    assert_int_equal(fake_guest_throttle(scene->source_guest), 0);
    assert_int_equal(fake_guest_throttle(scene->target_guest), 0);
    if (scene->move.moved)
        assert_true(fake_guest_compare(scene->source_guest, scene->target_guest) == UINT64_MAX);
    else
        fake_guest_await_writes(scene->source_guest, 1000);
}

static void scene_deinit(struct scene *scene)
{
    fake_move_deinit(&scene->move);
    fake_guest_free(scene->source_guest);
    fake_guest_free(scene->target_guest);
}

static void finish_slows_a_writer_until_it_fits(void **state)
{
    (void)state;
    struct scene scene;
    scene_init(&scene, "finish");
    scene_run(&scene);
    assert_true(scene.move.moved);
    assert_in_range(scene.throttle_seen, 300, 990);
    assert_true(scene.move.throttled_ns > 0);
    assert_true(scene.move.predicted_ns <= scene.goals.downtime_ns_max);
    scene_deinit(&scene);
}

static void finish_slows_a_writer_in_a_stream_too(void **state)
{
    (void)state;
    struct scene scene;
    scene_init(&scene, "finish");
    scene.goals.mode = (char *)"stream";
    scene_run(&scene);
    assert_true(scene.move.moved);
    assert_true(scene.throttle_seen >= 300);
    assert_true(scene.move.predicted_ns <= scene.goals.downtime_ns_max);
    scene_deinit(&scene);
}

static void who_writes_little_of_each_page_is_sent_as_patches(void **state)
{
    (void)state;
    struct scene scene;
    scene_init(&scene, "finish");
    scene.goals.delta = (char *)"always";
    scene_run(&scene);
    assert_true(scene.move.moved);
    assert_true(scene.move.patch_pages > 0);
    scene_deinit(&scene);
}

/* Slowed as far as it may be for a while: then the deadline comes. */
static void end_when_slowed_most(struct scene *scene)
{
    if (fake_guest_throttle(scene->source_guest) >= 800)
        scene->slowed_most++;
    if (scene->slowed_most == 4) {
        scene->goals.deadline_ms = 1;
        scene->acted = source_tune(scene->move.source, &scene->goals, NULL);
    }
    scene->act_after++; /* at the next word again */
}

static void balanced_slows_no_further_than_it_may(void **state)
{
    (void)state;
    struct scene scene;
    scene_init(&scene, "balanced");
    scene.source.writers = 3;
    scene.source.writes_per_ms = 300; /* too much for four fifths */
    scene.act = end_when_slowed_most;
    scene.act_after = 1;
    scene_run(&scene);
    assert_false(scene.move.moved);
    assert_int_equal(scene.throttle_seen, 800);
    assert_int_equal(scene.move.at_source.fault.code, ERR_DEADLINE);
    scene_deinit(&scene);
}

static void gentle_never_slows(void **state)
{
    (void)state;
    struct scene scene;
    scene_init(&scene, "gentle");
    scene.source.writers = 3;
    scene.goals.deadline_ms = 1500;
    scene_run(&scene);
    assert_false(scene.move.moved);
    assert_int_equal(scene.throttle_seen, 0);
    assert_int_equal(scene.move.throttled_ns, 0);
    scene_deinit(&scene);
}

static void cancel(struct scene *scene)
{
    scene->acted = source_verdict(
        scene->move.source, GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_CANCEL, 0, "enough", NULL);
}

static void act_while_slowed(struct scene *scene)
{
    if (fake_guest_throttle(scene->source_guest))
        cancel(scene);
    else
        scene->act_after++; /* not yet: at the next word */
}

static void a_cancel_lets_a_slowed_guest_go(void **state)
{
    (void)state;
    struct scene scene;
    scene_init(&scene, "finish");
    scene.source.writes_per_ms = 300;
    scene.goals.downtime_ns_max = 1000 * NS_PER_US; /* never */
    scene.act = act_while_slowed;
    scene.act_after = 1;
    scene_run(&scene);
    assert_false(scene.move.moved);
    assert_int_equal(scene.move.at_source.fault.code, ERR_CANCELED);
    assert_true(scene.throttle_seen > 0);
    scene_deinit(&scene);
}

static void set_policy(struct scene *scene)
{
    scene->goals.policy = (char *)"finish";
    scene->acted = source_tune(scene->move.source, &scene->goals, NULL);
}

static void another_policy_counts_at_once(void **state)
{
    (void)state;
    struct scene scene;
    scene_init(&scene, "gentle");
    scene.act = set_policy;
    scene.act_after = 4;
    scene_run(&scene);
    assert_int_equal(scene.acted, 0);
    assert_true(scene.move.moved);
    assert_true(scene.throttle_seen > 0);
    scene_deinit(&scene);
}

static void raise_goal(struct scene *scene)
{
    scene->goals.downtime_ns_max = 2 * NS_PER_S;
    scene->acted = source_tune(scene->move.source, &scene->goals, NULL);
}

static void a_higher_goal_ends_the_waiting(void **state)
{
    (void)state;
    struct scene scene;
    scene_init(&scene, "gentle");
    scene.act = raise_goal;
    scene.act_after = 4;
    scene_run(&scene);
    assert_int_equal(scene.acted, 0);
    assert_true(scene.move.moved);
    assert_int_equal(scene.throttle_seen, 0);
    scene_deinit(&scene);
}

static void lift_limit(struct scene *scene)
{
    scene->goals.bandwidth_bytes_per_s = 0;
    scene->acted = source_tune(scene->move.source, &scene->goals, NULL);
}

static void a_limit_that_is_lifted_frees_a_lane_that_waits(void **state)
{
    (void)state;
    struct scene scene;
    scene_init(&scene, "gentle");
    scene.source.writers = 0;
    scene.config.lane.bytes_per_s = 0;
    scene.goals.bandwidth_bytes_per_s = 64 << 10; /* 3 minutes */
    scene.act = lift_limit;
    scene.act_after = 2;
    scene_run(&scene);
    assert_int_equal(scene.acted, 0);
    assert_true(scene.move.moved);
    assert_true(scene.move.total_ns < 60 * NS_PER_S);
    scene_deinit(&scene);
}

/* ---- the notice to the guest ---- */

struct notices {
    unsigned told;
    uint64_t told_ns;
    bool answers, cancels;
    bool ran;
};

static struct notices notices; /* of the one move at a time; its own thread writes it */

static void on_notice(struct fake_move *move, void *data)
{
    struct scene *scene = data;
    notices.told++;
    notices.told_ns = world_now_ns();
    notices.ran = fake_guest_runs(scene->source_guest);
    if (notices.answers)
        source_noticed(move->source);
    if (notices.cancels)
        (void)source_verdict(move->source, GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_CANCEL, 0,
                             "enough", NULL);
}

static void notice_scene(struct scene *scene, const char *mode, const struct notices *how)
{
    scene_init(scene, "balanced");
    scene->source.writes_per_ms = 1;
    scene->source.writer_pages = 100;
    scene->goals.mode = (char *)mode;
    scene->config.notice_ms_max = 300;
    scene->config.on_notice = on_notice;
    notices = *how;
    scene_run(scene);
}

static void a_guest_is_told_while_it_runs_and_its_answer_lets_the_move_go_on(void **state)
{
    (void)state;
    static const char *const modes[] = {"rounds", "stream"};
    for (unsigned i = 0; i < 2; i++) {
        struct scene scene;
        notice_scene(&scene, modes[i], &(struct notices){.answers = true});
        assert_int_equal(notices.told, 1);
        assert_true(notices.ran);
        assert_true(scene.move.moved);
        scene_deinit(&scene);
    }
}

static void a_guest_that_does_not_answer_is_moved_all_the_same(void **state)
{
    (void)state;
    static const char *const modes[] = {"rounds", "stream"};
    for (unsigned i = 0; i < 2; i++) {
        struct scene scene;
        notice_scene(&scene, modes[i], &(struct notices){0});
        assert_int_equal(notices.told, 1);
        assert_true(world_now_ns() - notices.told_ns >= 300 * NS_PER_MS); /* it had its time */
        assert_true(scene.move.moved);
        scene_deinit(&scene);
    }
}

static void a_move_that_is_cancelled_while_it_waits_lets_the_guest_run_on(void **state)
{
    (void)state;
    struct scene scene;
    notice_scene(&scene, "rounds", &(struct notices){.cancels = true});
    assert_false(scene.move.moved);
    assert_int_equal(scene.move.at_source.fault.code, ERR_CANCELED);
    assert_true(fake_guest_runs(scene.source_guest));
    scene_deinit(&scene);
}

static void a_guest_that_an_operator_paused_is_not_told(void **state)
{
    (void)state;
    struct scene scene;
    scene_init(&scene, "balanced");
    scene.source.writers = 0;
    scene.source.running = false;
    scene.config.notice_ms_max = 300;
    scene.config.on_notice = on_notice;
    notices = (struct notices){0};
    scene_run(&scene);
    assert_int_equal(notices.told, 0);
    assert_true(scene.move.moved);
    scene_deinit(&scene);
}

static void goals_of_a_move_that_ended_are_refused(void **state)
{
    (void)state;
    struct scene scene;
    struct fault fault = {0};
    scene_init(&scene, "balanced");
    scene.source.writers = 0;
    scene_run(&scene);
    assert_int_equal(source_tune(scene.move.source, &scene.goals, &fault), ERR_STATE);
    scene.goals.policy = (char *)"soon";
    assert_int_equal(source_tune(scene.move.source, &scene.goals, &fault), ERR_INVALID);
    scene_deinit(&scene);
}

int main(void)
{
    log_set_level(LOG_WARN);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finish_slows_a_writer_until_it_fits),
        cmocka_unit_test(finish_slows_a_writer_in_a_stream_too),
        cmocka_unit_test(who_writes_little_of_each_page_is_sent_as_patches),
        cmocka_unit_test(balanced_slows_no_further_than_it_may),
        cmocka_unit_test(gentle_never_slows),
        cmocka_unit_test(a_cancel_lets_a_slowed_guest_go),
        cmocka_unit_test(another_policy_counts_at_once),
        cmocka_unit_test(a_higher_goal_ends_the_waiting),
        cmocka_unit_test(a_limit_that_is_lifted_frees_a_lane_that_waits),
        cmocka_unit_test(a_guest_is_told_while_it_runs_and_its_answer_lets_the_move_go_on),
        cmocka_unit_test(a_guest_that_does_not_answer_is_moved_all_the_same),
        cmocka_unit_test(a_move_that_is_cancelled_while_it_waits_lets_the_guest_run_on),
        cmocka_unit_test(a_guest_that_an_operator_paused_is_not_told),
        cmocka_unit_test(goals_of_a_move_that_ended_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

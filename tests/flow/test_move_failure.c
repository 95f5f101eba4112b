/* Whatever breaks, wherever: the guest runs at exactly one end, at the source unless it was taken,
 * and nothing is left behind.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "base/log.h"
#include "base/world.h"
#include "tests/support/fake_guest.h"
#include "tests/support/fake_move.h"

enum { PAGES = 3000 };

struct scene {
    struct fake_guest_config source, target;
    Godwit__MoveGoals goals;
    struct fake_move_config config;
    struct fake_guest *source_guest, *target_guest;
    struct fake_move move;
    /* what the callbacks do */
    const char *hook_at;     /* a hook's name, at the source or target */
    enum phase cancel_phase; /* at the source's progress of this phase */
    Godwit__Latch at_latch;
    bool abandon_target; /* instead of cancelling the source */
    bool scribble;
    bool tell_target; /* of a roll-back, as the coordinator would */
    int verdict_result;
    bool acted;
};

static void act(struct scene *scene)
{
    if (scene->acted)
        return;
    scene->acted = true;
    if (scene->scribble)
        fake_guest_scribble(scene->target_guest, 100);
    else if (scene->abandon_target)
        scene->verdict_result = target_verdict(
            scene->move.target, GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_ABANDON, 0, "test", NULL);
    else
        scene->verdict_result = source_verdict(
            scene->move.source, GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_CANCEL, 0, "test", NULL);
}

static void hook(void *data, const char *what)
{
    struct scene *scene = data;
    if (scene->hook_at && strcmp(what, scene->hook_at) == 0)
        act(scene);
}

static void on_source(struct fake_move *move, enum phase phase, Godwit__Latch latch, void *data)
{
    (void)move;
    struct scene *scene = data;
    if ((phase != PHASE_NONE && phase == scene->cancel_phase) ||
        (latch != GODWIT__LATCH__LATCH_NONE && latch == scene->at_latch))
        act(scene);
}

static void on_target(struct fake_move *move, enum phase phase, Godwit__Latch latch, void *data)
{
    (void)phase;
    on_source(move, PHASE_NONE, latch, data);
}

static void scene_init(struct scene *scene)
{
    *scene = (struct scene){
        .source = {.pages = PAGES,
                   .fill = FAKE_FILL_MIX,
                   .writers = 1,
                   .writer_pages = 400,
                   .writes_per_ms = 20,
                   .running = true},
        .target = {.pages = PAGES},
        .goals = GODWIT__MOVE_GOALS__INIT,
    };
    scene->goals.downtime_ns_max = 2000 * NS_PER_MS;
    scene->goals.deadline_ms = 20000;
    scene->config.lanes = 2;
    scene->source.hook = scene->target.hook = hook;
    scene->source.data = scene->target.data = scene;
    scene->config.on_source = on_source;
    scene->config.on_target = on_target;
    scene->config.data = scene;
}

static bool source_stands(struct fake_move *move)
{
    return move->at_source.ended || move->at_source.parked;
}

/* As the coordinator would: a parked source is resolved by what the target latched. */
static void resolve_parked(struct scene *scene)
{
    struct fake_move *move = &scene->move;
    pthread_mutex_lock(&move->mutex);
    while (!source_stands(move))
        pthread_cond_wait(&move->changed, &move->mutex);
    bool parked = !move->at_source.ended;
    bool rolled_back = !parked && move->at_source.phase == PHASE_ROLLED_BACK;
    pthread_mutex_unlock(&move->mutex);
    if (rolled_back && scene->tell_target) /* it would find out by itself after 15 s */
        (void)target_verdict(move->target, GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_ABANDON, 0,
                             "the source rolled back", NULL);
    if (!parked)
        return;
    int r = target_verdict(move->target, GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_ABANDON, 0,
                           "parked", NULL);
    pthread_mutex_lock(&move->mutex);
    while (!move->at_target.ended)
        pthread_cond_wait(&move->changed, &move->mutex);
    bool took = move->at_target.phase == PHASE_DONE;
    pthread_mutex_unlock(&move->mutex);
    assert_false(took && r == 0);
    assert_int_equal(
        source_verdict(move->source, GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_RESUME, 7, NULL, NULL),
        ERR_STATE); /* not at the old generation, ever */
    (void)source_verdict(move->source,
                         took ? GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_STARTED
                              : GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_RESUME,
                         8, NULL, NULL);
}

/* Returns true when it runs at the target. */
static bool play(struct scene *scene)
{
    struct fake_move *move = &scene->move;
    scene->source_guest = fake_guest_new(&scene->source);
    scene->target_guest = fake_guest_new(&scene->target);
    scene->config.source_guest = fake_guest_guest(scene->source_guest);
    scene->config.target_guest = fake_guest_guest(scene->target_guest);
    scene->config.goals = &scene->goals;
    fake_move_init(move, &scene->config);

    fake_move_start(move);
    resolve_parked(scene);
    fake_move_await_end(move);

    bool at_target = move->at_target.phase == PHASE_DONE;
    assert_int_equal(move->at_source.phase, at_target ? PHASE_DONE : PHASE_ROLLED_BACK);
    assert_int_equal(fake_guest_runs(scene->source_guest), !at_target);
    assert_int_equal(fake_guest_runs(scene->target_guest), at_target);
    if (!at_target)
        assert_false(fake_guest_is_tracked(scene->source_guest));
    if (at_target)
        assert_true(fake_guest_compare(scene->source_guest, scene->target_guest) == UINT64_MAX);
    else if (scene->source.writers)
        fake_guest_await_writes(scene->source_guest, 1); /* it really runs */
    return at_target;
}

static void scene_deinit(struct scene *scene)
{
    fake_move_deinit(&scene->move);
    scene->source_guest = fake_guest_free(scene->source_guest);
    scene->target_guest = fake_guest_free(scene->target_guest);
}

static void expect_rolled_back(struct scene *scene, int code, const char *words)
{
    bool at_target = play(scene);
    struct fake_move *move = &scene->move;
    if (move->at_source.fault.code != code || !strstr(move->at_source.fault.text, words))
        print_message("source: %s | target: %s\n", move->at_source.fault.text,
                      move->at_target.fault.text);
    assert_false(at_target);
    assert_int_equal(move->at_source.fault.code, code);
    assert_non_null(strstr(move->at_source.fault.text, words));
    assert_false(move->moved);
    unsigned last = move->at_source.latch_count - 1;
    assert_int_equal(move->at_source.latches[last], GODWIT__LATCH__LATCH_ABORTED);
    scene_deinit(scene);
}

static void a_target_without_memory_is_told_in_its_words(void **state)
{
    (void)state;
    struct scene scene;
    scene_init(&scene);
    scene.target.fail_populate = true;
    expect_rolled_back(&scene, ERR_NOMEM, "this host has no memory for");
}

static void a_machine_that_does_not_load_rolls_back(void **state)
{
    (void)state;
    struct scene scene;
    scene_init(&scene);
    scene.target.fail_load = true;
    expect_rolled_back(&scene, ERR_UNSUPPORTED, "the machine's state does not fit");
}

static void a_machine_that_cannot_be_saved_rolls_back(void **state)
{
    (void)state;
    struct scene scene;
    scene_init(&scene);
    scene.source.fail_save = true;
    expect_rolled_back(&scene, ERR_IO, "vCPU 0 cannot be read");
}

static void a_log_that_cannot_be_read_rolls_back(void **state)
{
    (void)state;
    struct scene scene;
    scene_init(&scene);
    scene.source.fail_collect = true;
    expect_rolled_back(&scene, ERR_IO, "the log cannot be read");
    scene_init(&scene);
    scene.source.fail_clear = true;
    expect_rolled_back(&scene, ERR_IO, "the log cannot be cleared");
}

static void a_lane_that_does_not_open_rolls_back(void **state)
{
    (void)state;
    struct scene scene;
    scene_init(&scene);
    scene.config.fail_open = true;
    expect_rolled_back(&scene, ERR_UNREACHABLE, "lane 0 cannot be reached");
}

static void another_generation_is_refused_by_name(void **state)
{
    (void)state;
    struct scene scene;
    scene_init(&scene);
    scene.config.target_generation = 9;
    expect_rolled_back(&scene, ERR_REFUSED, "generation 7 offered, 9 granted");
}

static void another_size_is_refused_by_name(void **state)
{
    (void)state;
    struct scene scene;
    scene_init(&scene);
    scene.target.pages = PAGES - 1;
    expect_rolled_back(&scene, ERR_REFUSED, "region 'ram' of 3000 pages at the source");
}

static void memory_that_only_one_end_calls_shared_is_refused_by_name(void **state)
{
    (void)state;
    struct scene scene;
    scene_init(&scene);
    scene.source.shared_id = 11;
    expect_rolled_back(&scene, ERR_REFUSED, "are not the same memory");
    scene_init(&scene);
    scene.source.shared_id = 11;
    scene.target.shared_id = 12;
    expect_rolled_back(&scene, ERR_REFUSED, "are not the same memory");
}

/* An old copy would overwrite what the guest has written since. */
static void a_frame_for_memory_that_both_ends_have_is_refused(void **state)
{
    (void)state;
    struct scene scene;
    scene_init(&scene);
    scene.source.shared_id = scene.target.shared_id = 11;
    bool at_target = play(&scene); /* this source tracks and sends all the same */
    assert_false(at_target);
    assert_non_null(strstr(scene.move.at_target.fault.text, "of a region of 0"));
    scene_deinit(&scene);
}

static void a_goal_out_of_reach_ends_at_the_deadline(void **state)
{
    (void)state;
    struct scene scene;
    scene_init(&scene);
    scene.goals.downtime_ns_max = 1;
    scene.goals.deadline_ms = 600;
    bool at_target = play(&scene);
    assert_false(at_target);
    assert_int_equal(scene.move.at_source.fault.code, ERR_DEADLINE);
    assert_true(scene.move.at_source.waited_for_goal);
    assert_int_equal(scene.move.at_source.latches[1], GODWIT__LATCH__LATCH_ABORTED);
    scene_deinit(&scene);
}

static void a_cancel_is_prompt_in_every_phase(void **state)
{
    (void)state;
    static const enum phase phases[] = {PHASE_GREET, PHASE_PREPARE, PHASE_PRECOPY};
    static const char *const hooks[] = {"track", "populate", "pause", "save", "load"};
    for (unsigned i = 0; i < 3 + 5; i++) {
        struct scene scene;
        scene_init(&scene);
        if (i < 3)
            scene.cancel_phase = phases[i];
        else
            scene.hook_at = hooks[i - 3];
        scene.tell_target = true;
        uint64_t begun_ns = world_now_ns();
        expect_rolled_back(&scene, ERR_CANCELED, "cancelled: test");
        assert_true(world_now_ns() - begun_ns < 5 * NS_PER_S);
        assert_int_equal(scene.verdict_result, 0);
    }
}

static void a_cancel_frees_lanes_that_are_stuck(void **state)
{
    (void)state;
    struct scene scene;
    scene_init(&scene);
    scene.config.lane.fault = PIPE_FAULT_STALL;
    scene.config.lane.fault_at = 300000;
    scene.cancel_phase = PHASE_PRECOPY;
    expect_rolled_back(&scene, ERR_CANCELED, "cancelled");
}

static void a_cancel_after_gave_is_refused(void **state)
{
    (void)state;
    struct scene scene;
    scene_init(&scene);
    scene.at_latch = GODWIT__LATCH__LATCH_GAVE;
    assert_true(play(&scene));
    assert_int_equal(scene.verdict_result, ERR_STATE);
    scene_deinit(&scene);
}

static void the_target_may_abandon_before_it_took(void **state)
{
    (void)state;
    static const char *const hooks[] = {"track", "pause", "save", "load"};
    for (unsigned i = 0; i < 4; i++) {
        struct scene scene;
        scene_init(&scene);
        scene.hook_at = hooks[i];
        scene.abandon_target = true;
        expect_rolled_back(&scene, ERR_CANCELED, "told to abandon");
    }
    struct scene scene;
    scene_init(&scene);
    scene.at_latch = GODWIT__LATCH__LATCH_TOOK;
    scene.abandon_target = true;
    assert_true(play(&scene));
    assert_int_equal(scene.verdict_result, ERR_STATE);
    scene_deinit(&scene);
}

static void a_target_that_abandons_at_gave_parks_the_source_until_a_newer_generation(void **state)
{
    (void)state;
    struct scene scene;
    scene_init(&scene);
    scene.at_latch = GODWIT__LATCH__LATCH_GAVE;
    scene.abandon_target = true;
    bool at_target = play(&scene);
    assert_false(at_target);
    assert_true(scene.move.at_source.parked);
    assert_int_equal(scene.move.at_source.latches[1], GODWIT__LATCH__LATCH_GAVE);
    assert_int_equal(scene.move.at_source.latches[2], GODWIT__LATCH__LATCH_ABORTED);
    scene_deinit(&scene);
}

static void a_transfer_for_another_boot_is_not_taken(void **state)
{
    (void)state;
    struct scene scene;
    scene_init(&scene);
    scene.config.source_names_incarnation = "inc-old";
    bool at_target = play(&scene);
    assert_false(at_target);
    assert_true(scene.move.at_source.parked);
    assert_int_equal(scene.move.at_target.fault.code, ERR_DENIED);
    scene_deinit(&scene);
}

static void a_write_that_tracking_missed_is_found_by_reading_again(void **state)
{
    (void)state;
    struct scene scene;
    scene_init(&scene);
    scene.goals.verify_reread = true;
    scene.source.miss_write = true;
    scene.source.writer_pages = 4;
    scene.source.writes_per_ms = 0;
    expect_rolled_back(&scene, ERR_CORRUPT, "page 3 of region 'ram' is not what was sent");
}

static void a_page_that_changed_at_the_target_is_found_by_reading_again(void **state)
{
    (void)state;
    struct scene scene;
    scene_init(&scene);
    scene.goals.verify_reread = true;
    scene.hook_at = "save";
    scene.scribble = true;
    scene.source.writers = 0;
    expect_rolled_back(&scene, ERR_CORRUPT, "page 100 of region 'ram' is not what was sent");
}

static void break_everywhere(enum pipe_fault fault, bool control, bool back, const uint64_t *at,
                             unsigned count)
{
    unsigned moved = 0, parked = 0;
    for (unsigned i = 0; i < count; i++) {
        struct scene scene;
        scene_init(&scene);
        scene.tell_target = true;
        struct pipe_stream_config *pipe = control ? &scene.config.control : &scene.config.lane;
        if (back) {
            pipe->fault_back = fault;
            pipe->fault_back_at = at[i];
        } else {
            pipe->fault = fault;
            pipe->fault_at = at[i];
        }
        moved += play(&scene);
        parked += scene.move.at_source.parked;
        scene_deinit(&scene);
    }
    print_message("fault %d on %s%s: %u moved, %u parked of %u\n", (int)fault,
                  control ? "control" : "lane", back ? " (back)" : "", moved, parked, count);
    if (!control && !back && fault == PIPE_FAULT_FLIP)
        assert_in_range(moved, 0, 1); /* only where the byte was never reached */
}

static void every_break_of_a_lane_leaves_one_owner(void **state)
{
    (void)state;
    static const uint64_t at[] = {0, 5, 31, 33, 400, 5000, 70001, 1000000, 3000000, 4100000};
    for (enum pipe_fault fault = PIPE_FAULT_FLIP; fault <= PIPE_FAULT_DIE; fault++)
        break_everywhere(fault, false, false, at, 10);
    static const uint64_t back[] = {0, 17, 31, 32, 40, 63, 64};
    for (enum pipe_fault fault = PIPE_FAULT_FLIP; fault <= PIPE_FAULT_DIE; fault++)
        break_everywhere(fault, false, true, back, 7);
}

static void every_break_of_the_control_lane_leaves_one_owner(void **state)
{
    (void)state;
    /* hello 0-~100, extents, hot, state ~4.2 KiB, transfer */
    static const uint64_t at[] = {4,   7,   8,   60,   100,  108,  120,  125,  130,  140,  150, 160,
                                  170, 500, 900, 4000, 4250, 4280, 4300, 4320, 4330, 4340, 4350};
    for (enum pipe_fault fault = PIPE_FAULT_FLIP; fault <= PIPE_FAULT_DIE; fault++)
        break_everywhere(fault, true, false, at, 23);
    static const uint64_t back[] = {4, 9, 14, 16, 18, 22, 25, 28, 30, 36, 40, 44, 48, 56, 64};
    for (enum pipe_fault fault = PIPE_FAULT_FLIP; fault <= PIPE_FAULT_DIE; fault++)
        break_everywhere(fault, true, true, back, 15);
}

static void a_stalled_wire_ends_by_deadline(void **state)
{
    (void)state;
    /* pre-copy: the order's deadline; state: READY's; handover: parked after STARTED's */
    struct scene scene;
    scene_init(&scene);
    scene.config.lane.fault = PIPE_FAULT_STALL;
    scene.config.lane.fault_at = 300000;
    scene.goals.deadline_ms = 400;
    expect_rolled_back(&scene, ERR_DEADLINE, "");

    scene_init(&scene);
    scene.goals.downtime_ns_max = 50 * NS_PER_MS;
    scene.source.writers = 0;
    scene.config.control.buffer_bytes = 512; /* the state message does not fit: the write blocks */
    scene.config.control.fault = PIPE_FAULT_STALL;
    scene.config.control.fault_at = 900;
    expect_rolled_back(&scene, ERR_TIMEOUT, "phase state took longer");
}

int main(void)
{
    log_set_level(LOG_WARN);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_target_without_memory_is_told_in_its_words),
        cmocka_unit_test(a_machine_that_does_not_load_rolls_back),
        cmocka_unit_test(a_machine_that_cannot_be_saved_rolls_back),
        cmocka_unit_test(a_log_that_cannot_be_read_rolls_back),
        cmocka_unit_test(a_lane_that_does_not_open_rolls_back),
        cmocka_unit_test(another_generation_is_refused_by_name),
        cmocka_unit_test(another_size_is_refused_by_name),
        cmocka_unit_test(memory_that_only_one_end_calls_shared_is_refused_by_name),
        cmocka_unit_test(a_frame_for_memory_that_both_ends_have_is_refused),
        cmocka_unit_test(a_goal_out_of_reach_ends_at_the_deadline),
        cmocka_unit_test(a_cancel_is_prompt_in_every_phase),
        cmocka_unit_test(a_cancel_frees_lanes_that_are_stuck),
        cmocka_unit_test(a_cancel_after_gave_is_refused),
        cmocka_unit_test(the_target_may_abandon_before_it_took),
        cmocka_unit_test(a_target_that_abandons_at_gave_parks_the_source_until_a_newer_generation),
        cmocka_unit_test(a_transfer_for_another_boot_is_not_taken),
        cmocka_unit_test(a_write_that_tracking_missed_is_found_by_reading_again),
        cmocka_unit_test(a_page_that_changed_at_the_target_is_found_by_reading_again),
        cmocka_unit_test(every_break_of_a_lane_leaves_one_owner),
        cmocka_unit_test(every_break_of_the_control_lane_leaves_one_owner),
        cmocka_unit_test(a_stalled_wire_ends_by_deadline),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

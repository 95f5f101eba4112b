/* Lanes that break in pre-copy come back and go on from what the target has: the guest runs on, and
 * what was confirmed is not sent twice.
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

enum {
    PAGES = 6000,
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
    BREAK_STEP = 5, /* each takes several times as long */
#else
    BREAK_STEP = 1,
#endif
};

struct scene {
    struct fake_guest_config source, target;
    Godwit__MoveGoals goals;
    struct fake_move_config config;
    struct fake_guest *source_guest, *target_guest;
    struct fake_move move;
};

static void scene_init(struct scene *scene)
{
    *scene = (struct scene){
        .source = {.pages = PAGES,
                   .fill = FAKE_FILL_MIX,
                   .writers = 1,
                   .writer_pages = 600,
                   .writes_per_ms = 20,
                   .running = true},
        .target = {.pages = PAGES},
        .goals = GODWIT__MOVE_GOALS__INIT,
    };
    scene->goals.downtime_ns_max = 2000 * NS_PER_MS;
    scene->goals.deadline_ms = 120000;
    scene->goals.compress = (char *)"off"; /* bytes tell pages */
    scene->config.lanes = 2;
    scene->config.data = scene;
}

static void play(struct scene *scene)
{
    struct fake_move *move = &scene->move;
    scene->source_guest = fake_guest_new(&scene->source);
    scene->target_guest = fake_guest_new(&scene->target);
    scene->config.source_guest = fake_guest_guest(scene->source_guest);
    scene->config.target_guest = fake_guest_guest(scene->target_guest);
    scene->config.goals = &scene->goals;
    fake_move_init(move, &scene->config);
    fake_move_start(move);
}

static void expect_moved(struct scene *scene)
{
    struct fake_move *move = &scene->move;
    fake_move_await_end(move);
    if (move->at_source.phase != PHASE_DONE)
        print_message("source: %s | target: %s\n", move->at_source.fault.text,
                      move->at_target.fault.text);
    assert_int_equal(move->at_source.phase, PHASE_DONE);
    assert_int_equal(move->at_target.phase, PHASE_DONE);
    assert_true(move->moved);
    assert_true(fake_guest_runs(scene->target_guest));
    assert_false(fake_guest_runs(scene->source_guest));
    assert_true(fake_guest_compare(scene->source_guest, scene->target_guest) == UINT64_MAX);
}

static void expect_rolled_back(struct scene *scene, int code, const char *words)
{
    struct fake_move *move = &scene->move;
    pthread_mutex_lock(&move->mutex);
    while (!move->at_source.ended)
        pthread_cond_wait(&move->changed, &move->mutex);
    pthread_mutex_unlock(&move->mutex);
    (void)target_verdict(move->target, GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_ABANDON, 0,
                         "the source rolled back", NULL); /* as the coordinator would */
    fake_move_await_end(move);
    if (!strstr(move->at_source.fault.text, words))
        print_message("source: %s\n", move->at_source.fault.text);
    assert_int_equal(move->at_source.phase, PHASE_ROLLED_BACK);
    assert_int_equal(move->at_target.phase, PHASE_ROLLED_BACK);
    assert_int_equal(move->at_source.fault.code, code);
    assert_non_null(strstr(move->at_source.fault.text, words));
    assert_true(fake_guest_runs(scene->source_guest));
    assert_false(fake_guest_is_tracked(scene->source_guest));
    fake_guest_await_writes(scene->source_guest, 1); /* it really runs */
}

static void scene_deinit(struct scene *scene)
{
    fake_move_deinit(&scene->move);
    scene->source_guest = fake_guest_free(scene->source_guest);
    scene->target_guest = fake_guest_free(scene->target_guest);
}

static uint64_t sent_pages(const struct fake_move *move)
{
    uint64_t pages = 0;
    for (unsigned i = 0; i < move->rounds; i++)
        pages += move->round_pages[i];
    return pages;
}

static void a_lane_that_breaks_late_in_the_bulk_costs_only_what_was_under_way(void **state)
{
    (void)state;
    struct scene scene;
    scene_init(&scene);
    scene.source.writers = 0;
    scene.config.lanes = 1;
    scene.config.lane = (struct pipe_stream_config){
        .buffer_bytes = 64 << 10, .fault = PIPE_FAULT_DIE, .fault_at = MIB(8)};

    play(&scene);

    expect_moved(&scene);
    assert_int_equal(scene.move.reconnects, 1);
    /* 64 KiB in the pipe, a frame at each end, and the block that was under way */
    print_message("%llu pages again of %llu\n", (unsigned long long)scene.move.resent_pages,
                  (unsigned long long)sent_pages(&scene.move));
    assert_in_range(scene.move.resent_pages, 1, 3 * BLOCK_PAGES);
    assert_true(sent_pages(&scene.move) < PAGES + 3 * BLOCK_PAGES);
    scene_deinit(&scene);
}

static void a_lane_that_breaks_again_and_again_still_arrives(void **state)
{
    (void)state;
    struct scene scene;
    scene_init(&scene);
    scene.config.lane = (struct pipe_stream_config){
        .buffer_bytes = 64 << 10, .fault = PIPE_FAULT_DIE, .fault_at = MIB(2)};
    scene.config.epochs_with_faults = 2;

    play(&scene);

    expect_moved(&scene);
    assert_int_equal(scene.move.reconnects, 3);
    assert_true(scene.move.away_ns > 0);
    scene_deinit(&scene);
}

/* Wherever it breaks, in either direction, with a writer that also clears pages: what arrived is
 * what was there, page by page, read again on both sides. */
static void every_break_leaves_the_memory_as_it_was(void **state)
{
    (void)state;
    unsigned reconnects = 0;
    for (unsigned i = 0; i < 24; i += BREAK_STEP) {
        struct scene scene;
        scene_init(&scene);
        scene.goals.verify_reread = true;
        scene.source.writes_per_ms = 60;
        scene.source.clears_pages = true;
        scene.goals.mode = (char *)(i % 2 ? "stream" : "rounds");
        scene.goals.delta = (char *)(i / 2 % 2 ? "always" : "auto");
        struct pipe_stream_config *pipe = i % 3 ? &scene.config.lane : &scene.config.other_lanes;
        static const enum pipe_fault faults[] = {PIPE_FAULT_DIE, PIPE_FAULT_SWALLOW,
                                                 PIPE_FAULT_TRUNCATE};
        pipe->buffer_bytes = i % 2 ? MIB(5) : 16 << 10;
        pipe->fault = faults[i / 2 % 3];
        pipe->fault_at = 40 + i * UINT64_C(460777) + (i % 5) * PAGE_BYTES / 2;
        if (i % 4 == 3) { /* answers are what is lost */
            pipe->fault_back = PIPE_FAULT_DIE;
            pipe->fault_back_at = i % 8 == 3 ? 0 : 17;
        }
        scene.config.epochs_with_faults = i % 7 == 6;

        play(&scene);

        fake_move_await_source_end(&scene.move);
        int code = scene.move.at_source.fault.code;
        if (code == ERR_CORRUPT)
            fail_msg("break %u: %s", i, scene.move.at_source.fault.text);
        if (scene.move.at_source.phase == PHASE_DONE)
            expect_moved(&scene);
        else /* it broke inside the pause */
            expect_rolled_back(&scene, code, "");
        reconnects += scene.move.reconnects;
        scene_deinit(&scene);
    }
    print_message("%u reconnects\n", reconnects);
    assert_true(reconnects >= 8 / BREAK_STEP);
}

static void lanes_that_stay_away_roll_the_move_back(void **state)
{
    (void)state;
    struct scene scene;
    scene_init(&scene);
    scene.goals.away_ms_max = 700;
    scene.config.lane = (struct pipe_stream_config){.fault = PIPE_FAULT_DIE, .fault_at = MIB(1)};
    scene.config.fail_dial = ERR_UNREACHABLE;

    play(&scene);

    expect_rolled_back(&scene, ERR_TIMEOUT, "did not come back within 700 ms");
    assert_int_equal(scene.move.reconnects, 0);
    scene_deinit(&scene);
}

static void a_target_that_nobody_listens_for_ends_the_waiting_early(void **state)
{
    (void)state;
    struct scene scene;
    scene_init(&scene);
    scene.goals.away_ms_max = 100000;
    scene.config.lane = (struct pipe_stream_config){.fault = PIPE_FAULT_DIE, .fault_at = MIB(1)};
    scene.config.fail_dial = ERR_REFUSED;

    play(&scene);

    expect_rolled_back(&scene, ERR_CLOSED, "nobody awaits the move");
    scene_deinit(&scene);
}

static void a_move_whose_lanes_are_away_can_be_cancelled(void **state)
{
    (void)state;
    struct scene scene;
    scene_init(&scene);
    scene.goals.away_ms_max = 100000;
    scene.config.lane = (struct pipe_stream_config){.fault = PIPE_FAULT_DIE, .fault_at = MIB(1)};
    scene.config.fail_dial = ERR_UNREACHABLE;
    play(&scene);
    fake_move_await_source_away(&scene.move);

    assert_int_equal(source_verdict(scene.move.source,
                                    GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_CANCEL, 0, "enough",
                                    NULL),
                     0);

    expect_rolled_back(&scene, ERR_CANCELED, "enough");
    scene_deinit(&scene);
}

int main(void)
{
    log_set_level(LOG_WARN);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_lane_that_breaks_late_in_the_bulk_costs_only_what_was_under_way),
        cmocka_unit_test(a_lane_that_breaks_again_and_again_still_arrives),
        cmocka_unit_test(every_break_leaves_the_memory_as_it_was),
        cmocka_unit_test(lanes_that_stay_away_roll_the_move_back),
        cmocka_unit_test(a_target_that_nobody_listens_for_ends_the_waiting_early),
        cmocka_unit_test(a_move_whose_lanes_are_away_can_be_cancelled),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

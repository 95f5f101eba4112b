/* Post-copy: what does not fit the goal after one pass is left behind, and comes when it is touched
 * or in its turn. Every page that a reader at the target gets is the one that the source had when
 * its guest was stopped.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "base/failpoint.h"
#include "base/log.h"
#include "base/world.h"
#include "migrate/page_faults.h"
#include "migrate/source_inside.h"
#include "tests/support/fake_guest.h"
#include "tests/support/fake_move.h"

enum { PAGES = 6000 };

struct scene {
    struct fake_guest_config source, target;
    Godwit__MoveGoals goals;
    struct fake_move_config config;
    struct fake_guest *source_guest, *target_guest;
    struct fake_move move;
    pthread_t reader;
    bool reads; /* the target's move thread sets it, once */
    bool wants_reader;
    bool is_older_target; /* says nothing of packed frames */
    uint64_t wrong_page; /* the reader's */
};

static void need_faults(void)
{
    struct page_faults faults = {.fd = -1};
    struct fault fault = {0};
    if (page_faults_open(&faults, &fault) < 0)
        skip();
    page_faults_close(&faults);
}

/* A writer that no wire of 200 MB/s follows within a goal of 1 ms. */
static void scene_init(struct scene *scene)
{
    need_faults();
    *scene = (struct scene){
        .source = {.pages = PAGES,
                   .fill = FAKE_FILL_MIX,
                   .writers = 1,
                   .writer_pages = 3000,
                   .clears_pages = true,
                   .running = true},
        .target = {.pages = PAGES},
        .goals = GODWIT__MOVE_GOALS__INIT,
        .wrong_page = UINT64_MAX,
        .wants_reader = true,
    };
    scene->goals.downtime_ns_max = NS_PER_MS;
    scene->goals.deadline_ms = 120000;
    scene->goals.postcopy = true;
    scene->goals.compress = (char *)"off";
    scene->goals.lanes = 2; /* on a machine of any size */
    scene->config.lanes = 4; /* two of pages, two of post-copy */
    const struct pipe_stream_config slow = {.bytes_per_s = 200000000, .buffer_bytes = 64 << 10};
    const struct pipe_stream_config slower = {.bytes_per_s = 20000000, .buffer_bytes = 64 << 10};
    /* Long enough for the writer to come to write, however busy the machine is. */
    scene->config.lane = scene->config.other_lanes = slower;
    scene->config.post_asks = scene->config.post_pushes = slow;
    scene->config.data = scene;
}

/* Touches all of the target's memory, the last page first, while it is fetched from the other end:
 * nobody writes either of them any more. */
static void *read_run(void *data)
{
    struct scene *scene = data;
    const uint8_t *ours = fake_guest_guest(scene->target_guest)->regions[0].base;
    const uint8_t *theirs = fake_guest_guest(scene->source_guest)->regions[0].base;
    for (uint64_t i = 0; i < PAGES; i++) {
        uint64_t page = (PAGES - i) * 2741 % PAGES;
        if (memcmp(ours + page * PAGE_BYTES, theirs + page * PAGE_BYTES, PAGE_BYTES) != 0)
            scene->wrong_page = page;
    }
    return NULL;
}

static void on_target(struct fake_move *move, enum phase phase, Godwit__Latch latch, void *data)
{
    struct scene *scene = data;
    (void)move;
    (void)phase;
    if (latch != GODWIT__LATCH__LATCH_TOOK || !scene->wants_reader)
        return;
    scene->reads = pthread_create(&scene->reader, NULL, read_run, scene) == 0;
}

/* Its words are out of the way before anything is pushed: this is the source's move thread. */
static void on_source(struct fake_move *move, enum phase phase, Godwit__Latch latch, void *data)
{
    const struct scene *scene = data;
    (void)phase;
    (void)latch;
    if (scene->is_older_target)
        move->source->takes_packed_postcopy = false;
}

static void play(struct scene *scene)
{
    struct fake_move *move = &scene->move;
    scene->source_guest = fake_guest_new(&scene->source);
    scene->target_guest = fake_guest_new(&scene->target);
    scene->config.source_guest = fake_guest_guest(scene->source_guest);
    scene->config.target_guest = fake_guest_guest(scene->target_guest);
    scene->config.goals = &scene->goals;
    scene->config.on_source = on_source;
    scene->config.on_target = on_target;
    fake_move_init(move, &scene->config);
    fake_move_start(move);
}

static void join_reader(struct scene *scene)
{
    if (scene->reads)
        (void)pthread_join(scene->reader, NULL);
    scene->reads = false;
}

static void expect_moved(struct scene *scene)
{
    struct fake_move *move = &scene->move;
    fake_move_await_end(move);
    if (move->at_source.fault.code || move->at_target.fault.code)
        print_message("source: %s | target: %s\n", move->at_source.fault.text,
                      move->at_target.fault.text);
    assert_int_equal(move->at_source.phase, PHASE_DONE);
    assert_int_equal(move->at_target.phase, PHASE_DONE);
    assert_int_equal(move->at_target.fault.code, 0);
    assert_true(move->moved);
    assert_true(fake_guest_runs(scene->target_guest));
    assert_false(fake_guest_runs(scene->source_guest));
    join_reader(scene);
    assert_true(scene->wrong_page == UINT64_MAX);
    assert_true(fake_guest_compare(scene->source_guest, scene->target_guest) == UINT64_MAX);
    assert_int_equal(move->digest_pages, PAGES);
}

static void scene_deinit(struct scene *scene)
{
    fake_move_deinit(&scene->move); /* lets go who still waits for a page */
    join_reader(scene);
    scene->source_guest = fake_guest_free(scene->source_guest);
    scene->target_guest = fake_guest_free(scene->target_guest);
}

static void expect_latches(const struct fake_side *side, Godwit__Latch first, Godwit__Latch second,
                           Godwit__Latch third)
{
    assert_int_equal(side->latch_count, 3);
    assert_int_equal(side->latches[0], first);
    assert_int_equal(side->latches[1], second);
    assert_int_equal(side->latches[2], third);
}

static void what_misses_the_goal_comes_after_the_guest(void **state)
{
    (void)state;
    struct scene scene;
    scene_init(&scene);
    /* The push ends early, so that most of it has to be asked for, on a machine of any speed. */
    scene.config.post_pushes.fault = PIPE_FAULT_STALL;
    scene.config.post_pushes.fault_at = MIB(1);

    play(&scene);

    expect_moved(&scene);
    const struct fake_move *move = &scene.move;
    expect_latches(&move->at_source, GODWIT__LATCH__LATCH_OUT, GODWIT__LATCH__LATCH_GAVE,
                   GODWIT__LATCH__LATCH_RELEASED);
    expect_latches(&move->at_target, GODWIT__LATCH__LATCH_IN, GODWIT__LATCH__LATCH_READY,
                   GODWIT__LATCH__LATCH_TOOK);
    print_message("%llu pages in %llu ms after a pause of %llu us; %llu faults, P50 %llu us, P99 "
                  "%llu us\n",
                  (unsigned long long)move->postcopy_pages,
                  (unsigned long long)(move->postcopy_ns / NS_PER_MS),
                  (unsigned long long)(move->downtime_ns / 1000), (unsigned long long)move->faults,
                  (unsigned long long)(move->fault_p50_ns / 1000),
                  (unsigned long long)(move->fault_p99_ns / 1000));
    assert_in_range(move->postcopy_pages, 1, 3000);
    assert_true(move->faults > 0);
    assert_true(move->fault_p50_ns > 0 && move->fault_p99_ns >= move->fault_p50_ns);
    scene_deinit(&scene);
}

static void what_fits_the_goal_leaves_nothing_behind(void **state)
{
    (void)state;
    struct scene scene;
    scene_init(&scene);
    scene.source.writers = 0;

    play(&scene);

    expect_moved(&scene);
    assert_int_equal(scene.move.postcopy_pages, 0);
    scene_deinit(&scene);
}

/* What is pushed goes by the order's codec, whole and over lanes that break; what is touched meanwhile as it is. */
static void what_comes_after_the_guest_may_come_packed(void **state)
{
    (void)state;
    static const char *const codecs[] = {"lz4", "zstd", "auto"};
    for (unsigned i = 0; i < 6; i++) {
        struct scene scene;
        scene_init(&scene);
        scene.goals.compress = (char *)codecs[i % 3];
        scene.config.post_pushes.bytes_per_s = 20000000;
        if (i / 3) {
            scene.config.post_pushes.fault = PIPE_FAULT_DIE;
            scene.config.post_pushes.fault_at = 30000;
        }

        play(&scene);

        expect_moved(&scene);
        assert_true(scene.move.postcopy_pages > 0);
        scene_deinit(&scene);
    }
}

/* Bytes a page of what came after the guest: nobody touches it at the target, so all of it is pushed, and it packs well. */
static uint64_t pushed_page_bytes(bool to_an_older_target)
{
    struct scene scene;
    scene_init(&scene);
    scene.source.fill = FAKE_FILL_TEXT;
    scene.source.clears_pages = false;
    scene.source.writes_per_ms = 20; /* a few words a page: what is left behind is text still */
    scene.goals.compress = (char *)"lz4";
    scene.wants_reader = false;
    scene.is_older_target = to_an_older_target;

    play(&scene);

    expect_moved(&scene);
    assert_true(scene.move.postcopy_pages > 0);
    uint64_t bytes = scene.move.wire_bytes - scene.move.rounds_wire_bytes;
    print_message("%llu pages came later, in %llu bytes\n", (unsigned long long)scene.move.postcopy_pages,
                  (unsigned long long)bytes);
    bytes /= scene.move.postcopy_pages;
    scene_deinit(&scene);
    return bytes;
}

static void what_is_pushed_takes_less_than_its_pages(void **state)
{
    (void)state;
    assert_true(pushed_page_bytes(false) < PAGE_BYTES / 2);
}

/* It would take a packed frame for one that has no place there. */
static void to_an_older_target_pages_are_pushed_as_they_are(void **state)
{
    (void)state;
    assert_true(pushed_page_bytes(true) > PAGE_BYTES);
}

/* Wherever they break, and again in the next epoch. */
static void lanes_that_break_in_post_copy_come_back_and_the_rest_follows(void **state)
{
    (void)state;
    unsigned reconnects = 0;
    for (unsigned i = 0; i < 6; i++) {
        struct scene scene;
        scene_init(&scene);
        struct pipe_stream_config *pipe =
            i % 2 ? &scene.config.post_asks : &scene.config.post_pushes;
        pipe->fault = i % 3 ? PIPE_FAULT_DIE : PIPE_FAULT_TRUNCATE;
        pipe->fault_at = 3000 + i * UINT64_C(20011);
        scene.config.epochs_with_faults = i / 3;
        scene.config.fail_accepts = i % 2 ? 2 : 0; /* a target without a descriptor to spare */

        play(&scene);

        expect_moved(&scene);
        reconnects += scene.move.reconnects;
        scene_deinit(&scene);
    }
    print_message("%u reconnects\n", reconnects);
    assert_true(reconnects >= 2); /* one may be over before it breaks */
}

/* Bytes that no frame begins with, on either lane or on the way of what is asked for. */
static void a_changed_byte_in_post_copy_is_healed_by_new_lanes(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 3; i++) {
        struct scene scene;
        scene_init(&scene);
        struct pipe_stream_config *pipe =
            i == 1 ? &scene.config.post_pushes : &scene.config.post_asks;
        if (i == 2)
            pipe->fault_back = PIPE_FAULT_FLIP;
        else
            pipe->fault = PIPE_FAULT_FLIP;
        if (i != 1) { /* so that a page is asked for, on a machine of any speed */
            scene.config.post_pushes.fault = PIPE_FAULT_STALL;
            scene.config.post_pushes.fault_at = MIB(1);
        }

        play(&scene);

        expect_moved(&scene);
        assert_true(scene.move.reconnects >= 1);
        scene_deinit(&scene);
    }
}

/* A byte inside a page, on a wire that does not see it: the digests over all memory do. The guest
 * runs on, and both ends tell that somebody must look. */
static void memory_that_is_not_as_it_was_is_told_by_both_ends(void **state)
{
    (void)state;
    struct scene scene;
    scene_init(&scene);
    scene.wants_reader = false;
    scene.config.post_pushes.fault = PIPE_FAULT_FLIP;
    scene.config.post_pushes.fault_at = 2000; /* of its first page: no frame's head is as long */

    play(&scene);

    struct fake_move *move = &scene.move;
    fake_move_await_end(move);
    assert_int_equal(move->at_source.phase, PHASE_DONE);
    assert_int_equal(move->at_source.fault.code, ERR_ATTENTION);
    assert_non_null(strstr(move->at_source.fault.text, "but not as it was"));
    assert_false(move->moved);
    assert_int_equal(move->at_target.phase, PHASE_DONE);
    assert_int_equal(move->at_target.fault.code, ERR_ATTENTION);
    assert_non_null(strstr(move->at_target.fault.text, "but not as it was"));
    assert_true(fake_guest_runs(scene.target_guest));
    assert_false(fake_guest_runs(scene.source_guest));
    scene_deinit(&scene);
}

/* Longer than a pre-copy would wait for one who does not listen. */
static void a_firewall_that_refuses_for_seconds_loses_no_page(void **state)
{
    (void)state;
    struct scene scene;
    scene_init(&scene);
    scene.config.post_pushes.fault = scene.config.post_asks.fault = PIPE_FAULT_DIE;
    scene.config.post_pushes.fault_at = scene.config.post_asks.fault_at = 20000;
    scene.config.fail_dial = ERR_REFUSED;
    scene.config.fail_dials = 16; /* every 250 ms */

    play(&scene);

    expect_moved(&scene);
    assert_int_equal(scene.move.failed_dials, 16);
    assert_in_range(scene.move.away_ns, REFUSED_MS_MAX * NS_PER_MS, UINT64_MAX);
    scene_deinit(&scene);
}

/* Nobody has the guest any more: not the target, whose pages are gone, and never again the source.
 */
static void a_source_that_stays_away_takes_the_guest_with_it(void **state)
{
    (void)state;
    struct scene scene;
    scene_init(&scene);
    scene.goals.away_ms_max = 200; /* of the pre-copy: no guest dies of it */
    scene.config.postcopy_away_ms_max = 500;
    scene.config.post_pushes.fault = scene.config.post_asks.fault = PIPE_FAULT_DIE;
    scene.config.post_pushes.fault_at = scene.config.post_asks.fault_at = 20000;
    scene.config.fail_dial = ERR_UNREACHABLE;

    play(&scene);

    struct fake_move *move = &scene.move;
    fake_move_await_end(move);
    assert_int_equal(move->at_source.phase, PHASE_DONE);
    assert_int_equal(move->at_source.fault.code, ERR_ATTENTION);
    assert_non_null(strstr(move->at_source.fault.text, "did not come back within 500 ms"));
    assert_false(move->moved);
    assert_false(fake_guest_runs(scene.source_guest));
    assert_int_equal(move->at_target.phase, PHASE_DONE);
    assert_int_equal(move->at_target.fault.code, ERR_CORRUPT);
    assert_non_null(strstr(move->at_target.fault.text, "lost in post-copy"));
    assert_true(move->at_target.lost);
    scene_deinit(&scene);
}

/* ---- policy finish -------------------------------------------------------------------------- */

/* A goal that rounds never reach: its writers are held back, then the rest comes after the guest. */
static void finish_scene_init(struct scene *scene)
{
    scene_init(scene);
    scene->goals.postcopy = false;
    scene->goals.postcopy_late = true;
    scene->goals.policy = (char *)"finish";
    scene->goals.downtime_ns_max = 1000; /* no pause is as short */
}

static void finish_leaves_pages_behind_when_rounds_lead_nowhere(void **state)
{
    (void)state;
    struct scene scene;
    finish_scene_init(&scene);

    play(&scene);

    expect_moved(&scene);
    const struct fake_move *move = &scene.move;
    assert_int_equal(move->postcopy_reason, GODWIT__MOVE_POSTCOPY_REASON__MOVE_POSTCOPY_REASON_GOAL);
    assert_true(move->rounds >= 4); /* it was tried, with writers held back */
    assert_true(move->postcopy_pages <= 3000);
    assert_int_equal(move->throttle_permille_peak, 800);
    print_message("%u rounds, then %llu pages\n", move->rounds,
                  (unsigned long long)move->postcopy_pages);
    scene_deinit(&scene);
}

static void finish_whose_pause_fits_needs_none(void **state)
{
    (void)state;
    struct scene scene;
    finish_scene_init(&scene);
    scene.goals.downtime_ns_max = NS_PER_S;

    play(&scene);

    expect_moved(&scene);
    assert_int_equal(scene.move.postcopy_pages, 0);
    assert_int_equal(scene.move.postcopy_reason,
                     GODWIT__MOVE_POSTCOPY_REASON__MOVE_POSTCOPY_REASON_NONE);
    scene_deinit(&scene);
}

/* Its deadline then ends it as ever, and the receipt says what was in the way. */
static void finish_to_a_host_that_cannot_goes_on_with_rounds(void **state)
{
    (void)state;
    struct scene scene;
    finish_scene_init(&scene);
    scene.wants_reader = false;
    scene.goals.deadline_ms = 3000;
    assert_int_equal(failpoint_arm("target.faults_open=error\n", NULL), 0);

    play(&scene);

    struct fake_move *move = &scene.move;
    fake_move_await_end(move);
    (void)failpoint_arm("", NULL);
    assert_int_equal(move->at_source.phase, PHASE_ROLLED_BACK);
    assert_int_equal(move->at_source.fault.code, ERR_DEADLINE);
    assert_non_null(strstr(move->postcopy_refused, "target.faults_open"));
    assert_true(fake_guest_runs(scene.source_guest));
    scene_deinit(&scene);
}

/* The same host, and the same goal, but within reach. */
static void finish_to_a_host_that_cannot_moves_by_rounds(void **state)
{
    (void)state;
    struct scene scene;
    finish_scene_init(&scene);
    scene.goals.downtime_ns_max = NS_PER_S;
    assert_int_equal(failpoint_arm("target.faults_open=error\n", NULL), 0);

    play(&scene);

    expect_moved(&scene);
    (void)failpoint_arm("", NULL);
    assert_non_null(strstr(scene.move.postcopy_refused, "target.faults_open"));
    scene_deinit(&scene);
}

static void nothing_leads_back_once_the_target_runs(void **state)
{
    (void)state;
    struct scene scene;
    scene_init(&scene);
    scene.wants_reader = false;
    scene.config.post_pushes.fault = PIPE_FAULT_STALL; /* so that it lasts */
    scene.config.post_pushes.fault_at = 100000;
    play(&scene);
    fake_move_await_source_phase(&scene.move, PHASE_POSTCOPY);

    struct fault fault = {0};
    static const Godwit__MoveVerdictKind refused[] = {
        GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_CANCEL,
        GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_RESUME,
        GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_ABANDON};
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(source_verdict(scene.move.source, refused[i], 8, "back", &fault),
                         ERR_STATE);
    assert_int_equal(source_verdict(scene.move.source,
                                    GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_STARTED, 0, NULL, NULL),
                     0); /* known, and no reason to end */
    assert_int_equal(source_verdict(scene.move.source, GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_DROP,
                                    0, NULL, NULL),
                     0); /* the target is dead, says somebody who knows */

    fake_move_await_source_end(&scene.move);
    assert_int_equal(scene.move.at_source.phase, PHASE_DONE);
    assert_int_equal(scene.move.at_source.fault.code, ERR_ATTENTION);
    assert_false(fake_guest_runs(scene.source_guest));
    scene_deinit(&scene);
}

static void refuse(bool reread, bool disks, unsigned lanes, int code, const char *words)
{
    struct fake_guest *fake =
        fake_guest_new(&(struct fake_guest_config){.pages = 100, .running = true});
    Godwit__MoveGoals goals = GODWIT__MOVE_GOALS__INIT;
    goals.postcopy = true;
    goals.verify_reread = reread;
    goals.with_local_disks = disks;
    const struct source_config config = {.guest = fake_guest_guest(fake),
                                         .move_id = "move-1",
                                         .generation = 7,
                                         .target_incarnation = "inc-b",
                                         .goals = &goals,
                                         .lanes = lanes};
    struct source *source = NULL;
    struct fault fault = {0};

    assert_int_equal(source_new(&source, &config, &fault), code);
    assert_string_equal(fault.text, words);
    (void)fake_guest_free(fake);
}

static void what_it_cannot_do_is_refused_before_anything_begins(void **state)
{
    (void)state;
    refuse(true, false, 4, ERR_UNSUPPORTED,
           "a post-copy goes without reading all memory again in the pause");
    refuse(false, true, 4, ERR_UNSUPPORTED, "a post-copy goes without local disks");
    refuse(false, false, 2, ERR_INVALID, "2 lanes, a post-copy needs 3");
}

int main(void)
{
    log_set_level(LOG_WARN);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_misses_the_goal_comes_after_the_guest),
        cmocka_unit_test(what_fits_the_goal_leaves_nothing_behind),
        cmocka_unit_test(what_comes_after_the_guest_may_come_packed),
        cmocka_unit_test(what_is_pushed_takes_less_than_its_pages),
        cmocka_unit_test(to_an_older_target_pages_are_pushed_as_they_are),
        cmocka_unit_test(lanes_that_break_in_post_copy_come_back_and_the_rest_follows),
        cmocka_unit_test(a_changed_byte_in_post_copy_is_healed_by_new_lanes),
        cmocka_unit_test(memory_that_is_not_as_it_was_is_told_by_both_ends),
        cmocka_unit_test(a_firewall_that_refuses_for_seconds_loses_no_page),
        cmocka_unit_test(a_source_that_stays_away_takes_the_guest_with_it),
        cmocka_unit_test(finish_leaves_pages_behind_when_rounds_lead_nowhere),
        cmocka_unit_test(finish_whose_pause_fits_needs_none),
        cmocka_unit_test(finish_to_a_host_that_cannot_goes_on_with_rounds),
        cmocka_unit_test(finish_to_a_host_that_cannot_moves_by_rounds),
        cmocka_unit_test(nothing_leads_back_once_the_target_runs),
        cmocka_unit_test(what_it_cannot_do_is_refused_before_anything_begins),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

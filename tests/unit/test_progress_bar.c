#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/own.h"
#include "base/world.h"
#include "cli/progress_bar.h"
#include "cli/words.h"
#include "tests/golden/cli_golden.h"

struct move {
    Godwit__JobInfo job;
    Godwit__MoveProgress progress;
    Godwit__MoveGoals goals;
};

static void make_move(struct move *move)
{
    *move = (struct move){.job = GODWIT__JOB_INFO__INIT,
                          .progress = GODWIT__MOVE_PROGRESS__INIT,
                          .goals = GODWIT__MOVE_GOALS__INIT};
    move->job.id = (char *)"J4K7Q2A";
    move->job.vm = (char *)"db-01";
    move->job.source = (char *)"node1";
    move->job.target = (char *)"node2";
    move->job.has_memory_bytes = move->job.has_vcpus = true;
    move->job.memory_bytes = GIB(8);
    move->job.vcpus = 4;
    move->goals.policy = (char *)"balanced";
    move->goals.downtime_ns_max = 100 * NS_PER_MS;
    move->job.goals = &move->goals;
    move->job.progress = &move->progress;
    move->progress.has_phase = true;
    move->progress.phase = GODWIT__MOVE_PHASE__MOVE_PHASE_PRECOPY;
    move->progress.round = 1;
    move->progress.round_pages_done = GIB(4) / PAGE_BYTES;
    move->progress.round_pages_total = GIB(8) / PAGE_BYTES;
    move->progress.memory_bytes_done = GIB(4);
    move->progress.memory_bytes_total = GIB(8);
    move->progress.wire_bytes_per_s = MIB(1116);
    move->progress.eta_ns = 3700 * NS_PER_MS;
    move->progress.dirty_bytes_per_s = MIB(288);
    move->progress.zero_pages = GIB(1) / PAGE_BYTES;
    move->progress.lanes = 4;
}

static void make_stuck(struct move *move)
{
    make_move(move);
    move->progress.round = 5;
    move->progress.memory_bytes_done = GIB(14);
    move->progress.round_pages_done = 0;
    move->progress.round_pages_total = GIB(1) / PAGE_BYTES;
    move->progress.predicted_pause_ns = 310 * NS_PER_MS;
    move->progress.waiting_for_goal = true;
}

static void frames_are_as_recorded(void **state)
{
    (void)state;
    static const unsigned widths[] = {120, 80, 50};
    char all[16384] = "", frame[PROGRESS_FRAME_SIZE], header[256];
    for (size_t i = 0; i < ARRAY_COUNT(widths); i++) {
        struct move move;
        struct progress_bar bar;
        struct words words = {.text = all, .size = sizeof all, .used = strlen(all)};
        progress_bar_init(&bar, PROGRESS_LIVE, stderr, false, widths[i]);
        make_move(&move);
        progress_bar_header(&move.job, widths[i], header, sizeof header);
        (void)progress_bar_frame(&bar, &move.job, frame, sizeof frame);
        words_say(&words, "--- %u\n%s%s", widths[i], header, frame);
        make_stuck(&move);
        bar.spin++;
        (void)progress_bar_frame(&bar, &move.job, frame, sizeof frame);
        words_say(&words, "%s", frame);
        move.progress.phase = GODWIT__MOVE_PHASE__MOVE_PHASE_HANDOVER;
        (void)progress_bar_frame(&bar, &move.job, frame, sizeof frame);
        words_say(&words, "%s", frame);
        progress_bar_plain(&move.job, 91, frame, sizeof frame);
        words_say(&words, "%s", frame);
        make_stuck(&move);
        progress_bar_plain(&move.job, 91, frame, sizeof frame);
        words_say(&words, "%s", frame);
    }

    golden_check("cli_progress.txt", all);
}

static void lanes_that_are_away_are_told(void **state)
{
    (void)state;
    struct move move;
    char line[PROGRESS_FRAME_SIZE];
    make_move(&move);
    move.progress.away = true;
    progress_bar_plain(&move.job, 50, line, sizeof line);
    assert_non_null(strstr(line, "lanes lost, opening them again"));
    assert_null(strstr(line, "TLS 1.3"));
    move.progress.away = false;
    move.progress.reconnects = 1;
    progress_bar_plain(&move.job, 50, line, sizeof line);
    assert_non_null(strstr(line, "4 lanes, TLS 1.3, lost and back 1 x"));
}

static void no_live_line_is_wider_than_the_terminal(void **state)
{
    (void)state;
    for (unsigned width = 40; width <= 130; width++) {
        struct move move;
        struct progress_bar bar;
        char frame[PROGRESS_FRAME_SIZE];
        make_stuck(&move);
        progress_bar_init(&bar, PROGRESS_LIVE, stderr, false, width);

        unsigned lines = progress_bar_frame(&bar, &move.job, frame, sizeof frame);

        unsigned counted = 0;
        char *save = NULL;
        for (char *line = strtok_r(frame, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
            assert_in_range(words_width(line), 1, width);
            counted++;
        }
        assert_int_equal(counted, lines);
    }
}

static void a_bar_never_goes_back(void **state)
{
    (void)state;
    struct move move;
    struct progress_bar bar;
    char frame[PROGRESS_FRAME_SIZE];
    progress_bar_init(&bar, PROGRESS_LIVE, stderr, false, 100);
    make_move(&move);
    (void)progress_bar_frame(&bar, &move.job, frame, sizeof frame);
    unsigned before = bar.percent;
    move.progress.round = 2;
    move.progress.round_pages_total = GIB(40) / PAGE_BYTES;

    (void)progress_bar_frame(&bar, &move.job, frame, sizeof frame);

    assert_int_equal(bar.percent, before);
}

static void plain_tells_each_phase_once_and_every_ten_seconds(void **state)
{
    (void)state;
    struct move move;
    struct progress_bar bar;
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    make_move(&move);
    progress_bar_init(&bar, PROGRESS_PLAIN, out, false, 80);

    for (uint64_t ms = 1000; ms <= 22000; ms += 100)
        progress_bar_update(&bar, &move.job, ms);
    assert_int_equal(fclose(out), 0);

    unsigned lines = 0;
    for (const char *at = text; (at = strstr(at, "db-01: precopy")) != NULL; at++)
        lines++;
    assert_int_equal(lines, 3);
    free(text);
}

static void live_redraws_at_most_ten_times_a_second(void **state)
{
    (void)state;
    struct move move;
    struct progress_bar bar;
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    make_move(&move);
    progress_bar_init(&bar, PROGRESS_LIVE, out, false, 80);

    for (uint64_t ms = 1000; ms < 2000; ms++)
        progress_bar_update(&bar, &move.job, ms);
    progress_bar_clear(&bar);
    assert_int_equal(fclose(out), 0);

    unsigned frames = 0;
    for (const char *at = text; (at = strstr(at, "precopy")) != NULL; at++)
        frames++;
    assert_in_range(frames, 9, 10);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frames_are_as_recorded),
        cmocka_unit_test(lanes_that_are_away_are_told),
        cmocka_unit_test(no_live_line_is_wider_than_the_terminal),
        cmocka_unit_test(a_bar_never_goes_back),
        cmocka_unit_test(plain_tells_each_phase_once_and_every_ten_seconds),
        cmocka_unit_test(live_redraws_at_most_ten_times_a_second),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

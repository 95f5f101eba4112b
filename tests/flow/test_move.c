/* Whole moves in one process: memory is equal afterwards, whatever the lanes, codecs and writers.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "base/log.h"
#include "base/world.h"
#include "tests/support/fake_guest.h"
#include "tests/support/fake_move.h"

struct run {
    struct fake_guest_config guest;
    unsigned lanes;
    const char *compress, *delta, *mode;
    uint64_t bytes_per_s;
    uint64_t bandwidth;
    bool reread, is_written; /* the target's region has a write of its own */
    void (*on_target)(struct fake_move *move, enum phase phase, Godwit__Latch latch, void *data);
};

static void print_move(const char *what, const struct fake_move *move)
{
    print_message("%s: total %.1f ms, pause %.0f us (%.0f + %.0f + %.0f + %.0f), predicted %.0f "
                  "us, %u rounds, "
                  "%.1f MiB on the wire, raw %llu lz4 %llu zero %llu patch %llu same %llu\n",
                  what, (double)move->total_ns / 1e6, (double)move->downtime_ns / 1e3,
                  (double)move->pause_ns / 1e3, (double)move->drain_ns / 1e3,
                  (double)move->state_ns / 1e3, (double)move->resume_ns / 1e3,
                  (double)move->predicted_ns / 1e3, move->rounds,
                  (double)move->wire_bytes / 1048576, (unsigned long long)move->raw_pages,
                  (unsigned long long)move->lz4_pages, (unsigned long long)move->zero_pages,
                  (unsigned long long)move->patch_pages, (unsigned long long)move->same_pages);
}

static void move_and_compare(const char *what, const struct run *run, struct fake_move *move)
{
    struct fake_guest_config target_config = {.pages = run->guest.pages,
                                              .is_written = run->is_written};
    struct fake_guest *source = fake_guest_new(&run->guest);
    struct fake_guest *target = fake_guest_new(&target_config);
    Godwit__MoveGoals goals = GODWIT__MOVE_GOALS__INIT;
    goals.compress = (char *)run->compress;
    goals.delta = (char *)run->delta;
    goals.mode = (char *)run->mode;
    goals.lanes = run->lanes;
    goals.downtime_ns_max = 2000 * NS_PER_MS; /* a sanitizer is slow; the pause is not the matter */
    goals.bandwidth_bytes_per_s = run->bandwidth;
    goals.verify_reread = run->reread;
    struct fake_move_config config = {
        .source_guest = fake_guest_guest(source),
        .target_guest = fake_guest_guest(target),
        .goals = &goals,
        .lanes = run->lanes,
        .on_target = run->on_target,
        .lane = {.bytes_per_s = run->bytes_per_s},
        .other_lanes = {.bytes_per_s = run->bytes_per_s},
    };
    fake_move_init(move, &config);

    fake_move_start(move);
    fake_move_await_end(move);

    print_move(what, move);
    assert_string_equal(move->at_source.fault.text, "");
    assert_string_equal(move->at_target.fault.text, "");
    assert_int_equal(move->at_source.phase, PHASE_DONE);
    assert_int_equal(move->at_target.phase, PHASE_DONE);
    assert_true(move->moved);
    assert_false(fake_guest_runs(source));
    assert_true(fake_guest_runs(target));
    assert_true(fake_guest_is_tracked(source)); /* it ends as it is: stopping costs */
    assert_int_equal(move->at_source.latch_count, 3);
    assert_int_equal(move->at_source.latches[0], GODWIT__LATCH__LATCH_OUT);
    assert_int_equal(move->at_source.latches[1], GODWIT__LATCH__LATCH_GAVE);
    assert_int_equal(move->at_source.latches[2], GODWIT__LATCH__LATCH_RELEASED);
    assert_int_equal(move->at_target.latch_count, 3);
    assert_int_equal(move->at_target.latches[0], GODWIT__LATCH__LATCH_IN);
    assert_int_equal(move->at_target.latches[1], GODWIT__LATCH__LATCH_READY);
    assert_int_equal(move->at_target.latches[2], GODWIT__LATCH__LATCH_TOOK);
    assert_true(fake_guest_compare(source, target) == UINT64_MAX);
    assert_true(fake_guest_untold(target) == UINT64_MAX);

    fake_move_deinit(move);
    fake_guest_free(source);
    fake_guest_free(target);
}

enum { PAGES = 8192 + 37 }; /* not a whole block at the end */

static void an_idle_guest_moves(void **state)
{
    (void)state;
    struct fake_move move;
    struct run run = {
        .guest = {.pages = PAGES, .fill = FAKE_FILL_MIX, .half = true, .running = true},
        .lanes = 1};
    move_and_compare("idle", &run, &move);
    assert_in_range(move.rounds, 2, 3);
}

static void an_empty_guest_moves_without_a_page(void **state)
{
    (void)state;
    struct fake_move move;
    struct run run = {.guest = {.pages = 1 << 20, .running = true}, .lanes = 1};
    move_and_compare("empty 4 GiB", &run, &move);
    assert_true(move.wire_bytes < 8192);
}

static void zero_pages_cost_no_wire(void **state)
{
    (void)state;
    struct fake_move move;
    struct run run = {.guest = {.pages = PAGES, .fill = FAKE_FILL_ZERO, .running = true},
                      .lanes = 1};
    move_and_compare("zero", &run, &move);
    assert_int_equal(move.zero_pages, PAGES);
    assert_true(move.wire_bytes < 8192);
}

static void memory_is_equal_under_writers_with_one_to_four_lanes(void **state)
{
    (void)state;
    for (unsigned lanes = 1; lanes <= 4; lanes++) {
        struct fake_move move;
        struct run run = {.guest = {.pages = PAGES,
                                    .fill = FAKE_FILL_MIX,
                                    .half = true,
                                    .writers = 2,
                                    .writer_pages = 3000,
                                    .writes_per_ms = 20,
                                    .running = true},
                          .lanes = lanes};
        move_and_compare("writers", &run, &move);
        assert_int_equal(move.lanes, lanes);
    }
}

static void memory_is_equal_under_writers_that_never_rest(void **state)
{
    (void)state;
    struct fake_move move;
    struct run run = {.guest = {.pages = PAGES,
                                .fill = FAKE_FILL_MIX,
                                .writers = 2,
                                .writer_pages = 4000,
                                .running = true},
                      .lanes = 2,
                      .reread = true};
    move_and_compare("wild writers, reread", &run, &move);
    assert_true(move.reread_verified);
}

static void every_codec_moves_every_content(void **state)
{
    (void)state;
    static const char *const codecs[] = {"auto", "off", "lz4", "zstd"};
    static const enum fake_fill fills[] = {FAKE_FILL_RANDOM, FAKE_FILL_TEXT, FAKE_FILL_MIX};
    for (unsigned i = 0; i < 12; i++) {
        struct fake_move move;
        struct run run = {.guest = {.pages = 4096,
                                    .fill = fills[i % 3],
                                    .writers = 1,
                                    .writer_pages = 500,
                                    .writes_per_ms = 10,
                                    .running = true},
                          .lanes = 2,
                          .compress = codecs[i / 3]};
        move_and_compare(codecs[i / 3], &run, &move);
        if (i / 3 == 1)
            assert_int_equal(move.lz4_pages, 0);
        if (i / 3 == 2 && fills[i % 3] == FAKE_FILL_TEXT)
            assert_true(move.lz4_pages > 3500);
        if (i / 3 == 3 && fills[i % 3] == FAKE_FILL_TEXT)
            assert_true(move.zstd_pages > 3500);
    }
}

static void a_slow_wire_turns_compression_on(void **state)
{
    (void)state;
    struct fake_move move;
    struct run run = {.guest = {.pages = PAGES, .fill = FAKE_FILL_TEXT, .running = true},
                      .lanes = 1,
                      .bytes_per_s = 50 << 20};
    move_and_compare("slow wire", &run, &move);
    assert_true(move.lz4_pages + move.zstd_pages > move.raw_pages);
}

/* The fake guest writes a word here and there: a line of each page. */
static void pages_sent_again_go_as_patches_with_every_codec(void **state)
{
    (void)state;
    static const char *const codecs[] = {"off", "lz4", "auto"};
    for (unsigned i = 0; i < 3; i++) {
        struct fake_move move;
        struct run run = {.guest = {.pages = PAGES,
                                    .fill = FAKE_FILL_MIX,
                                    .writers = 2,
                                    .writer_pages = 3000,
                                    .writes_per_ms = 40,
                                    .running = true},
                          .lanes = 1 + i,
                          .compress = codecs[i],
                          .delta = "always",
                          .reread = true};
        move_and_compare("delta", &run, &move);
        assert_true(move.patch_pages > 0);
        assert_true(move.patch_bytes < move.patch_pages * 1024);
    }
}

static void a_region_that_is_written_by_calls_is_whole_with_every_codec(void **state)
{
    (void)state;
    static const char *const codecs[] = {"off", "lz4", "zstd", "auto"};
    for (unsigned i = 0; i < 4; i++) {
        struct fake_move move;
        struct run run = {.guest = {.pages = PAGES,
                                    .fill = FAKE_FILL_MIX,
                                    .writers = 2,
                                    .writer_pages = 3000,
                                    .writes_per_ms = 40,
                                    .clears_pages = true,
                                    .running = true},
                          .lanes = 2,
                          .compress = codecs[i],
                          .delta = "always",
                          .reread = true,
                          .is_written = true};
        move_and_compare("written", &run, &move);
        assert_true(move.patch_pages > 0);
    }
}

static void pages_of_a_region_that_is_written_by_calls_go_whole(void **state)
{
    (void)state;
    struct fake_move move;
    struct run run = {.guest = {.pages = PAGES,
                                .fill = FAKE_FILL_RANDOM,
                                .writers = 2,
                                .writer_pages = 3000,
                                .writes_per_ms = 40,
                                .is_written = true,
                                .running = true},
                      .lanes = 2,
                      .delta = "always",
                      .is_written = true};
    move_and_compare("written at both ends", &run, &move);
    assert_true(move.rounds > 1);
    assert_int_equal(move.patch_pages, 0);
}

static void no_patch_is_sent_where_none_may_be(void **state)
{
    (void)state;
    struct fake_move move;
    struct run run = {.guest = {.pages = PAGES,
                                .fill = FAKE_FILL_RANDOM,
                                .writers = 2,
                                .writer_pages = 3000,
                                .writes_per_ms = 40,
                                .running = true},
                      .lanes = 2,
                      .delta = "off"};
    move_and_compare("no delta", &run, &move);
    assert_int_equal(move.patch_pages, 0);
    assert_int_equal(move.same_pages, 0);
}

static void a_slow_wire_remembers_the_bulk_for_patches(void **state)
{
    (void)state;
    struct fake_move move;
    struct run run = {.guest = {.pages = PAGES,
                                .fill = FAKE_FILL_RANDOM,
                                .writers = 1,
                                .writer_pages = PAGES,
                                .writes_per_ms = 10,
                                .running = true},
                      .lanes = 1,
                      .compress = "off",
                      .bytes_per_s = 40 << 20};
    move_and_compare("slow wire, delta", &run, &move);
    assert_true(move.patch_pages > 0);
}

static void a_stream_of_windows_leaves_memory_equal(void **state)
{
    (void)state;
    for (unsigned lanes = 1; lanes <= 4; lanes++) {
        struct fake_move move;
        struct run run = {.guest = {.pages = 65536 + 37,
                                    .fill = FAKE_FILL_MIX,
                                    .half = true,
                                    .writers = 2,
                                    .writer_pages = 9000,
                                    .writes_per_ms = lanes < 4 ? 30 : 0,
                                    .running = true},
                          .lanes = lanes,
                          .mode = "stream",
                          .reread = true};
        move_and_compare("stream", &run, &move);
        assert_true(move.rounds >= 2);
        assert_true(move.round_pages[0] >= 32768); /* the bulk is one round, of several windows */
    }
}

static void a_stream_carries_an_idle_and_an_empty_guest(void **state)
{
    (void)state;
    struct fake_move move;
    struct run idle = {.guest = {.pages = PAGES, .fill = FAKE_FILL_MIX, .running = true},
                       .lanes = 2,
                       .mode = "stream"};
    move_and_compare("stream, idle", &idle, &move);
    assert_in_range(move.rounds, 2, 3);
    struct run empty = {.guest = {.pages = 1 << 20, .running = true}, .lanes = 1, .mode = "stream"};
    move_and_compare("stream, empty 4 GiB", &empty, &move);
    assert_true(move.wire_bytes < 8192);
}

static void a_stream_keeps_to_its_bandwidth(void **state)
{
    (void)state;
    struct fake_move move;
    struct run run = {.guest = {.pages = 4096, .fill = FAKE_FILL_RANDOM, .running = true},
                      .lanes = 2,
                      .compress = "off",
                      .mode = "stream",
                      .bandwidth = 64 << 20};
    move_and_compare("stream, limited", &run, &move);
    assert_true(move.total_ns > 200 * NS_PER_MS);
}

static void the_bandwidth_limit_holds(void **state)
{
    (void)state;
    struct fake_move move;
    struct run run = {.guest = {.pages = 4096, .fill = FAKE_FILL_RANDOM, .running = true},
                      .lanes = 2,
                      .compress = "off",
                      .bandwidth = 64 << 20};
    move_and_compare("limited", &run, &move);
    assert_true(move.total_ns > 200 * NS_PER_MS);
    assert_true(move.downtime_ns < 100 * NS_PER_MS);
}

/* Runs on the target's move thread, before the target has said anything of it. */
static void tell_the_source_at_took(struct fake_move *move, enum phase phase, Godwit__Latch latch,
                                    void *data)
{
    (void)phase, (void)data;
    struct fault fault = {0};
    if (latch != GODWIT__LATCH__LATCH_TOOK)
        return;
    int r = source_verdict(move->source, GODWIT__MOVE_VERDICT_KIND__MOVE_VERDICT_STARTED, 0, NULL,
                           &fault);
    assert_int_equal(r, 0);
    fake_move_await_source_latch(move, GODWIT__LATCH__LATCH_RELEASED);
}

static void the_receipt_says_what_the_target_spent_even_when_its_agent_was_faster(void **state)
{
    (void)state;
    struct fake_move move;
    struct run run = {.guest = {.pages = 4096, .fill = FAKE_FILL_RANDOM, .running = true},
                      .lanes = 1,
                      .on_target = tell_the_source_at_took};
    move_and_compare("told by its agent", &run, &move);
    assert_true(move.target_cpu_ns > 0);
}

int main(void)
{
    log_set_level(LOG_WARN);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_idle_guest_moves),
        cmocka_unit_test(an_empty_guest_moves_without_a_page),
        cmocka_unit_test(zero_pages_cost_no_wire),
        cmocka_unit_test(memory_is_equal_under_writers_with_one_to_four_lanes),
        cmocka_unit_test(memory_is_equal_under_writers_that_never_rest),
        cmocka_unit_test(every_codec_moves_every_content),
        cmocka_unit_test(a_slow_wire_turns_compression_on),
        cmocka_unit_test(pages_sent_again_go_as_patches_with_every_codec),
        cmocka_unit_test(a_region_that_is_written_by_calls_is_whole_with_every_codec),
        cmocka_unit_test(pages_of_a_region_that_is_written_by_calls_go_whole),
        cmocka_unit_test(no_patch_is_sent_where_none_may_be),
        cmocka_unit_test(a_slow_wire_remembers_the_bulk_for_patches),
        cmocka_unit_test(the_bandwidth_limit_holds),
        cmocka_unit_test(the_receipt_says_what_the_target_spent_even_when_its_agent_was_faster),
        cmocka_unit_test(a_stream_of_windows_leaves_memory_equal),
        cmocka_unit_test(a_stream_carries_an_idle_and_an_empty_guest),
        cmocka_unit_test(a_stream_keeps_to_its_bandwidth),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

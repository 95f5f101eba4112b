#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "base/world.h"
#include "migrate/page_mix.h"
#include "migrate/page_tuner.h"

enum { FRAME_BYTES = 256 << 10 };

/* Of a CPU and a content: ns a byte to pack it, and what is left of one. Words of a small vocabulary; programs. */
struct content {
    double cost[PAGE_MIX_ARM_COUNT], size[PAGE_MIX_ARM_COUNT];
};
static const struct content words = {{0, 0.9, 0.95, 1.0, 2.5}, {1, 0.5, 0.41, 0.385, 0.196}};
static const struct content programs = {{0, 0.83, 1.6, 2.9, 3.0}, {1, 0.77, 0.64, 0.54, 0.33}};
static const struct content noise = {{0, 0.02, 0.02, 0.02, 0.02}, {1, 1, 1, 1, 1}}; /* hardly tried */

/* A lane, its socket and a wire behind it. */
struct way {
    double wire, room, base; /* bytes a ns; bytes; ns a byte for all but packing */
    double round_trip_ns, allowed_ns;
    bool takes_zstd;
    unsigned stolen_every; /* frames; 0: nobody else wants the core */
    double now_ns, waited_ns, queued, sent;
    unsigned turn;
    uint64_t frames[PAGE_MIX_ARM_COUNT];
};

static void pass(struct way *way, double ns)
{
    way->queued -= ns * way->wire < way->queued ? ns * way->wire : way->queued; /* drains without us */
    way->now_ns += ns;
}

/* What is in flight counts as queued until its acknowledgement is back. */
static double seen_queued(const struct way *way)
{
    return way->queued + (way->queued > 0 ? way->wire * way->round_trip_ns : 0);
}

/* As a TCP socket takes it: as much as there is room, then the writer waits until a third is free. */
static void write_packed(struct way *way, double packed)
{
    for (double left = packed; left > 0;) {
        double room = way->room - way->queued, piece = left < room ? left : room;
        way->queued += piece;
        left -= piece;
        if (left > 0) {
            double wait_ns = (way->queued - way->room * 2 / 3) / way->wire;
            way->waited_ns += wait_ns;
            pass(way, wait_ns);
        }
    }
    way->sent += packed;
}

static void send_frame(struct way *way, struct page_tuner *tuner, const struct content *content)
{
    const struct page_mix_road road = {.now_ns = (uint64_t)way->now_ns, .queued_bytes = (uint64_t)seen_queued(way),
                                       .round_trip_ns = (uint64_t)way->round_trip_ns,
                                       .allowed_ns = (uint64_t)way->allowed_ns};
    enum page_mix_arm arm = page_tuner_choose(tuner, FRAME_BYTES, &road);
    double took = content->cost[arm] * FRAME_BYTES, packed = content->size[arm] * FRAME_BYTES;
    way->frames[arm]++;
    bool is_stolen = way->stolen_every && ++way->turn % way->stolen_every == 0;
    took += is_stolen ? 4e6 : 0; /* another thread's turn, in the middle of it */
    page_mix_note(&tuner->mix, arm, FRAME_BYTES, (uint64_t)packed, (uint64_t)took);
    pass(way, took + way->base * FRAME_BYTES);
    write_packed(way, packed);
    const struct page_mix_look look = {.now_ns = (uint64_t)way->now_ns,
                                       .waited_ns = (uint64_t)way->waited_ns,
                                       .blocked_ns = (uint64_t)way->waited_ns,
                                       .wire_bytes = (uint64_t)way->sent,
                                       .queued_bytes = (uint64_t)seen_queued(way)};
    page_tuner_step(tuner, FRAME_BYTES, &look);
}

/* Guest bytes a ns of the best mixture of two codecs: the lane and the wire both busy all the time. */
static double best_mixture(const struct way *way, const struct content *content)
{
    unsigned count = way->takes_zstd ? PAGE_MIX_ARM_COUNT : PAGE_MIX_ZSTD;
    double best = 0;
    for (unsigned i = 0; i < count; i++) {
        for (unsigned j = 0; j < count; j++) {
            for (double share = 0; share <= 1; share += 0.01) {
                double cpu = way->base + share * content->cost[i] + (1 - share) * content->cost[j];
                double wire = (share * content->size[i] + (1 - share) * content->size[j]) / way->wire;
                double rate = 1 / (cpu > wire ? cpu : wire);
                best = rate > best ? rate : best;
            }
        }
    }
    return best;
}

/* Guest bytes a ns, until all that is still in the socket has gone, too. */
static double rate_by(struct way *way, const struct content *content, struct page_tuner *tuner)
{
    unsigned frames = (512 << 20) / FRAME_BYTES;

    way->now_ns = 1e9;
    for (unsigned i = 0; i < frames; i++)
        send_frame(way, tuner, content);
    return (double)frames * FRAME_BYTES / (way->now_ns - 1e9 + way->queued / way->wire);
}

static double share_of_best(struct way *way, const struct content *content)
{
    struct page_tuner tuner;
    page_tuner_init(&tuner, PAGE_TUNER_AUTO, way->takes_zstd);
    tuner.mixes = true;
    double rate = rate_by(way, content, &tuner);
    double share = rate / best_mixture(way, content);
    print_message("wire %.3f, room %.1f MB, round trip %.1f ms: %.2f of the best; frames", way->wire,
                  way->room / 1e6, way->round_trip_ns / 1e6, share);
    for (unsigned i = 0; i < PAGE_MIX_ARM_COUNT; i++)
        print_message(" %llu", (unsigned long long)way->frames[i]);
    print_message("\n");
    return share;
}

static void wire_and_cpu_are_both_busy(void **state)
{
    (void)state;
    static const double wires[] = {0.0119, 0.06, 0.119, 0.3};
    static const struct content *const contents[] = {&words, &programs};
    for (unsigned i = 0; i < 16; i++) {
        struct way way = {.wire = wires[i % 4], .room = i % 8 < 4 ? 1e6 : 4e6, .base = 0.4, .takes_zstd = true};
        assert_true(share_of_best(&way, contents[i / 8]) > 0.9);
    }
}

/* 4 ms of every 16 are somebody else's. What is raw then costs the wire five times as much as it need. */
static void a_core_that_others_use_too_does_not_fill_the_wire_with_raw_pages(void **state)
{
    (void)state;
    struct way way = {.wire = 0.119, .room = 4e6, .base = 0.4, .takes_zstd = true, .stolen_every = 16};
    (void)share_of_best(&way, &words);
    assert_true(way.frames[PAGE_MIX_RAW] < 40);
    assert_true(way.frames[PAGE_MIX_ZSTD] > 500);
    assert_true(way.sent < 0.33 * (512 << 20));
}

static void a_target_that_takes_no_zstd_gets_none(void **state)
{
    (void)state;
    struct way way = {.wire = 0.119, .room = 1e6, .base = 0.4};
    assert_true(share_of_best(&way, &words) > 0.9);
    assert_int_equal(way.frames[PAGE_MIX_ZSTD], 0);
    assert_true(way.frames[PAGE_MIX_LZ4_TIGHT] > 1000);
}

/* What is under way is no work for the wire that could be done later. */
static void a_long_way_is_not_taken_for_a_full_socket(void **state)
{
    (void)state;
    struct way way = {.wire = 0.119, .room = 4e6, .base = 0.4, .round_trip_ns = 20e6, .takes_zstd = true};
    assert_true(share_of_best(&way, &words) > 0.9);
}

static void a_wire_that_makes_nobody_wait_gets_pages_as_they_are(void **state)
{
    (void)state;
    static const struct content *const contents[] = {&words, &programs, &noise};
    for (unsigned i = 0; i < 3; i++) {
        struct way way = {.wire = 4, .room = 1e6, .base = 0.5, .takes_zstd = true};
        assert_true(share_of_best(&way, contents[i]) > 0.98);
        assert_true(way.frames[PAGE_MIX_RAW] > 2000);
    }
}

static void what_does_not_shrink_is_not_packed(void **state)
{
    (void)state;
    struct way way = {.wire = 0.119, .room = 1e6, .base = 0.4, .takes_zstd = true};
    assert_true(share_of_best(&way, &noise) > 0.98);
}

static void content_that_changes_is_noticed(void **state)
{
    (void)state;
    struct way way = {.wire = 0.119, .room = 1e6, .base = 0.4, .takes_zstd = true};
    struct page_tuner tuner;
    page_tuner_init(&tuner, PAGE_TUNER_AUTO, true);
    tuner.mixes = true;
    way.now_ns = 1e9;
    for (unsigned i = 0; i < 4000; i++)
        send_frame(&way, &tuner, i / 400 % 2 ? &words : &noise);
    /* Half of it shrinks; of that nearly all went packed. */
    assert_true(way.frames[PAGE_MIX_ZSTD] + way.frames[PAGE_MIX_LZ4_TIGHT] > 1600);
}

static void words_after_much_noise_are_noticed(void **state)
{
    (void)state;
    struct way way = {.wire = 0.119, .room = 1e6, .base = 0.4, .takes_zstd = true};
    struct page_tuner tuner;
    page_tuner_init(&tuner, PAGE_TUNER_AUTO, true);
    tuner.mixes = true;
    way.now_ns = 1e9;
    for (unsigned i = 0; i < 8000; i++)
        send_frame(&way, &tuner, &noise);
    uint64_t raw = way.frames[PAGE_MIX_RAW];
    for (unsigned i = 0; i < 1000; i++)
        send_frame(&way, &tuner, &words);
    assert_true(way.frames[PAGE_MIX_RAW] - raw < 100); /* 16 windows of 4 frames, and a few */
}

/* All by one codec, whatever waits. */
static double best_single(const struct way *way, const struct content *content)
{
    double best = 0;
    for (enum page_mix_arm arm = PAGE_MIX_RAW; arm < PAGE_MIX_ARM_COUNT; arm++) {
        struct way fresh = *way;
        struct page_tuner tuner;
        page_tuner_init(&tuner, PAGE_TUNER_OFF, true);
        tuner.arm = arm;
        double rate = rate_by(&fresh, content, &tuner);
        best = rate > best ? rate : best;
    }
    return best;
}

/* SO_SNDBUF of a few pages: what waits in it lasts for a moment, and the lane waits in every write. */
static void a_socket_that_holds_less_than_a_frame_is_no_wire_that_runs_dry(void **state)
{
    (void)state;
    static const double wires[] = {0.0119, 0.06, 0.119}, rooms[] = {16 << 10, 64 << 10, 128 << 10, 250 << 10};
    static const struct content *const contents[] = {&words, &programs, &noise};
    for (unsigned i = 0; i < 36; i++) {
        const struct content *content = contents[i / 12];
        struct way way = {.wire = wires[i % 3], .room = rooms[i / 3 % 4], .base = 0.4, .takes_zstd = true};
        double best = best_single(&way, content);
        struct page_tuner tuner;
        page_tuner_init(&tuner, PAGE_TUNER_AUTO, true);
        tuner.mixes = true;
        double rate = rate_by(&way, content, &tuner);
        print_message("wire %.3f, room %.0f: %.2f of the best\n", way.wire, way.room, rate / best);
        assert_true(rate > 0.93 * best);
    }
}

/* There a lane waits, too, and nothing waits in the socket: for the pacer, which does not hold up the pause. */
static void a_limit_is_not_taken_for_the_wires_pace(void **state)
{
    (void)state;
    struct page_mix mix;
    page_mix_init(&mix);
    for (unsigned i = 0; i < 100; i++) {
        const struct page_mix_look look = {.now_ns = 1 + i * UINT64_C(10000000),
                                           .waited_ns = i * UINT64_C(9000000),
                                           .wire_bytes = i * (uint64_t)FRAME_BYTES};
        page_mix_look(&mix, &look);
    }
    assert_true(mix.wire == 0);
}

/* A bandwidth limit leaves the socket empty and the lane waiting all the same. */
static void a_limit_gives_time_as_a_queue_does(void **state)
{
    (void)state;
    struct page_mix mix;
    page_mix_init(&mix);
    page_mix_note(&mix, PAGE_MIX_LZ4_TIGHT, FRAME_BYTES, FRAME_BYTES / 3, 250000);
    page_mix_note(&mix, PAGE_MIX_ZSTD, FRAME_BYTES, FRAME_BYTES / 5, 650000);
    page_mix_note(&mix, PAGE_MIX_LZ4, FRAME_BYTES, FRAME_BYTES / 2, 240000);
    page_mix_note(&mix, PAGE_MIX_LZ4_FAST, FRAME_BYTES, FRAME_BYTES / 2, 240000);
    struct page_mix_road road = {.allowed_ns = 20000000};
    assert_int_equal(page_mix_choose(&mix, PAGE_MIX_ZSTD, FRAME_BYTES, &road), PAGE_MIX_ZSTD);
    road.allowed_ns = 0;
    assert_int_equal(page_mix_choose(&mix, PAGE_MIX_ZSTD, FRAME_BYTES, &road), PAGE_MIX_RAW);
}

/* In the pause the guest waits for all of it: packing, the wire, unpacking. */
static enum page_mix_arm in_pause_over(double wire, uint64_t later_ns)
{
    struct page_mix mix;
    page_mix_init(&mix);
    const struct page_mix_road road = {
        .now_ns = 100 * NS_PER_MS + later_ns, .in_pause = true, .queued_bytes = 1 << 20};
    assert_int_equal(page_mix_choose(&mix, PAGE_MIX_ZSTD, FRAME_BYTES, &road), PAGE_MIX_RAW); /* nothing known */
    for (enum page_mix_arm arm = PAGE_MIX_LZ4_FAST; arm <= PAGE_MIX_ZSTD; arm++)
        page_mix_note(&mix, arm, FRAME_BYTES, (uint64_t)(words.size[arm] * FRAME_BYTES),
                      (uint64_t)(words.cost[arm] * FRAME_BYTES));
    assert_int_equal(page_mix_choose(&mix, PAGE_MIX_ZSTD, FRAME_BYTES, &road), PAGE_MIX_RAW); /* the wire is not */
    double sent = 0;
    for (unsigned i = 0; i < 100; i++) {
        sent += wire * 1e6;
        const struct page_mix_look look = {.now_ns = 1 + i * UINT64_C(1000000),
                                           .wire_bytes = (uint64_t)sent,
                                           .queued_bytes = (uint64_t)(wire * 3e6)};
        page_mix_look(&mix, &look);
    }
    return page_mix_choose(&mix, PAGE_MIX_ZSTD, FRAME_BYTES, &road);
}

static void a_pause_is_packed_only_where_that_is_sooner(void **state)
{
    (void)state;
    assert_int_equal(in_pause_over(1.2, NS_PER_S), PAGE_MIX_RAW);
    assert_int_equal(in_pause_over(0.8, NS_PER_S), PAGE_MIX_RAW);
    assert_int_equal(in_pause_over(0.119, NS_PER_S), PAGE_MIX_LZ4_TIGHT);
    assert_int_equal(in_pause_over(0.05, NS_PER_S), PAGE_MIX_ZSTD);
}

/* The wire was busy in no round since: each was of less than a few ms of it, and so will be the pause. */
static void a_pace_that_was_not_seen_for_long_packs_nothing_in_a_pause(void **state)
{
    (void)state;
    assert_int_equal(in_pause_over(0.119, 3 * NS_PER_S), PAGE_MIX_RAW);
    assert_int_equal(in_pause_over(0.05, 3 * NS_PER_S), PAGE_MIX_RAW);
}

static void a_frame_of_a_few_pages_teaches_nothing(void **state)
{
    (void)state;
    struct page_mix mix;
    page_mix_init(&mix);
    page_mix_note(&mix, PAGE_MIX_ZSTD, 4096, 4000, 1000000);
    assert_true(mix.arms[PAGE_MIX_ZSTD].size == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wire_and_cpu_are_both_busy),
        cmocka_unit_test(a_core_that_others_use_too_does_not_fill_the_wire_with_raw_pages),
        cmocka_unit_test(a_target_that_takes_no_zstd_gets_none),
        cmocka_unit_test(a_long_way_is_not_taken_for_a_full_socket),
        cmocka_unit_test(a_wire_that_makes_nobody_wait_gets_pages_as_they_are),
        cmocka_unit_test(what_does_not_shrink_is_not_packed),
        cmocka_unit_test(content_that_changes_is_noticed),
        cmocka_unit_test(words_after_much_noise_are_noticed),
        cmocka_unit_test(a_socket_that_holds_less_than_a_frame_is_no_wire_that_runs_dry),
        cmocka_unit_test(a_limit_gives_time_as_a_queue_does),
        cmocka_unit_test(a_limit_is_not_taken_for_the_wires_pace),
        cmocka_unit_test(a_pause_is_packed_only_where_that_is_sooner),
        cmocka_unit_test(a_pace_that_was_not_seen_for_long_packs_nothing_in_a_pause),
        cmocka_unit_test(a_frame_of_a_few_pages_teaches_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

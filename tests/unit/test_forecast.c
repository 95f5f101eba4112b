/* The forecast against moves that are played in full: a model guest of single pages that is written
 * to, a model link, and migrate's own converge and throttle to decide. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "base/world.h"
#include "migrate/converge.h"
#include "migrate/throttle.h"
#include "placement/forecast.h"

enum { PAGES = 32768, STEP_NS = 200000 };

enum pattern { PATTERN_NONE, PATTERN_RANDOM, PATTERN_SWEEP, PATTERN_HOT };

struct writer {
    enum pattern pattern;
    unsigned pages; /* that it writes to */
    double pages_per_s;
    double owed;
    unsigned at;
    uint32_t seed;
};

static uint32_t chance(struct writer *writer)
{
    writer->seed = writer->seed * 1664525U + 1013904223U;
    return writer->seed >> 8;
}

static unsigned next_page(struct writer *writer)
{
    switch (writer->pattern) {
    case PATTERN_SWEEP:
        return writer->at++ % writer->pages;
    case PATTERN_HOT: /* nine of ten writes go to an eighth */
        return chance(writer) % 10 ? chance(writer) % (writer->pages / 8)
                                   : chance(writer) % writer->pages;
    case PATTERN_NONE:
    case PATTERN_RANDOM:
        break;
    }
    return chance(writer) % writer->pages;
}

/* Let it write for a while; pages of `exposed` become dirty. */
static void let_write(struct writer *writer, double seconds, const bool *exposed, bool *dirty)
{
    if (writer->pattern == PATTERN_NONE)
        return;
    for (writer->owed += writer->pages_per_s * seconds; writer->owed >= 1; writer->owed--) {
        unsigned page = next_page(writer);
        if (!exposed || exposed[page])
            dirty[page] = true;
    }
}

static unsigned count(const bool *pages)
{
    unsigned n = 0;
    for (unsigned i = 0; i < PAGES; i++)
        n += pages[i];
    return n;
}

/* What godwit-vm's sampler would tell. */
static void sample(struct writer writer, struct forecast_guest *guest)
{
    static const double at[] = {0.0625, 0.125, 0.25, 0.5, 1};
    static bool dirty[PAGES];
    memset(dirty, 0, sizeof dirty);
    double now = 0;
    guest->writes.count = 5;
    for (unsigned i = 0; i < 5; i++) {
        let_write(&writer, at[i] - now, NULL, dirty);
        now = at[i];
        guest->writes.seconds[i] = at[i];
        guest->writes.bytes[i] = count(dirty) * 4096.0;
    }
}

struct came {
    bool moved;
    double seconds, pause_s;
    unsigned rounds, permille;
};

/* Every page is cleared, then sent; what is written after its clear is of the next round. */
static struct came play(struct writer writer, double bytes_per_s, double goal_s,
                        unsigned permille_max)
{
    static bool carried[PAGES], exposed[PAGES], dirty[PAGES];
    struct came came = {0};
    struct converge converge;
    struct throttle throttle;
    converge_init(&converge, (uint64_t)(goal_s * 1e9), 1);
    throttle_init(&throttle, permille_max, 2);
    memset(carried, 1, sizeof carried);
    double page_s = 4096 / bytes_per_s;
    for (came.rounds = 1; came.rounds < 300; came.rounds++) {
        unsigned pages = count(carried);
        memcpy(exposed, carried, sizeof exposed);
        memset(dirty, 0, sizeof dirty);
        for (unsigned i = 0; i < PAGES; i++)
            exposed[i] = !carried[i]; /* clean ones show a write at once */
        double runs = 1 - (double)throttle.permille / 1000, began = came.seconds;
        for (unsigned i = 0; i < PAGES; i++) {
            if (!carried[i])
                continue;
            exposed[i] = true;
            let_write(&writer, page_s * runs, exposed, dirty);
            came.seconds += page_s;
        }
        came.seconds += 0.001;
        let_write(&writer, 0.001 * runs, exposed, dirty);
        const struct converge_round round = {
            .pages = pages,
            .data_pages = pages,
            .duration_ns = (uint64_t)((came.seconds - began) * 1e9),
            .dirty_pages = count(dirty),
            .round_trip_ns = 500000,
        };
        memcpy(carried, dirty, sizeof carried);
        if (converge_step(&converge, &round) == CONVERGE_PAUSE) {
            came.moved = converge.predicted_ns <= THROTTLE_PRESS_NS_MIN || !throttle_press(&throttle);
            came.permille = throttle.permille;
            if (came.moved)
                break;
        }
        if (converge.predicted_ns > converge.downtime_ns_max)
            came.permille =
                throttle_step(&throttle, round.pages, round.dirty_pages, converge.stalls);
    }
    came.pause_s = 0.005 + count(dirty) * page_s;
    came.seconds += came.pause_s + 0.25;
    return came;
}

static void judge(const char *name, struct writer writer, double bytes_per_s, double goal_s,
                  unsigned permille_max)
{
    struct forecast_guest guest = {.populated_bytes = (uint64_t)PAGES * 4096, .vcpus = 1};
    const struct forecast_link link = {.bytes_per_s = bytes_per_s, .doubt = 0.1, .setup_s = 0.25};
    const struct forecast_ask ask = {
        .pause_goal_s = goal_s, .throttle_permille_max = permille_max, .throttle_stalls_min = 2};
    sample(writer, &guest);
    struct forecast told = forecast_ask(&guest, &link, &ask);
    struct came came = play(writer, bytes_per_s, goal_s, permille_max);

    print_message("%-28s told %6.2f s (to %6.2f) %5.1f ms, %2u rounds, held %3u; came %6.2f s "
                  "%5.1f ms, %2u rounds, held %3u\n",
                  name, told.seconds, told.seconds_high, told.pause_s * 1e3, told.rounds,
                  told.throttle_permille, came.seconds, came.pause_s * 1e3, came.rounds,
                  came.permille);
    assert_int_equal(told.converges, came.moved);
    if (!came.moved)
        return;
    assert_true(fabs(told.seconds - came.seconds) <= 0.1 * came.seconds);
    assert_true(told.seconds_high >= came.seconds);
    assert_true(fabs(told.pause_s - came.pause_s) <= fmax(0.003, 0.25 * came.pause_s));
}

static void what_is_told_of_a_writer_is_what_comes(void **state)
{
    (void)state;
    struct writer none = {.pattern = PATTERN_NONE};
    struct writer slow = {.pattern = PATTERN_RANDOM, .pages = 4096, .pages_per_s = 2000};
    struct writer fast = {.pattern = PATTERN_RANDOM, .pages = 8192, .pages_per_s = 20000};
    struct writer sweep = {.pattern = PATTERN_SWEEP, .pages = 16384, .pages_per_s = 6000};
    struct writer hot = {.pattern = PATTERN_HOT, .pages = 16384, .pages_per_s = 10000};

    judge("idle, 1 GB/s", none, 1e9, 0.1, 0);
    judge("idle, 1 Gbit/s", none, 118e6, 0.1, 0);
    judge("8 MB/s random, 1 GB/s", slow, 1e9, 0.1, 0);
    judge("8 MB/s random, 1 Gbit/s", slow, 118e6, 0.1, 0);
    judge("80 MB/s random, 1 GB/s", fast, 1e9, 0.1, 0);
    judge("80 MB/s random, 1 Gbit/s", fast, 118e6, 0.4, 0);
    judge("25 MB/s sweep, 1 GB/s", sweep, 1e9, 0.1, 0);
    judge("25 MB/s sweep, 1 Gbit/s", sweep, 118e6, 0.1, 0);
    judge("40 MB/s hot and cold, 1 Gbit", hot, 118e6, 0.1, 0);
}

static void writers_that_are_pressed_before_a_long_pause_are_told_with_the_rounds_it_takes(void **state)
{
    (void)state;
    struct writer fast = {.pattern = PATTERN_RANDOM, .pages = 8192, .pages_per_s = 25000};
    struct writer wild = {.pattern = PATTERN_RANDOM, .pages = 16384, .pages_per_s = 120000};

    judge("100 MB/s random, 1 Gbit/s", fast, 118e6, 0.4, 800);
    judge("same, held by a half at most", fast, 118e6, 0.4, 500);
    judge("480 MB/s random, 4 Gbit/s", wild, 500e6, 0.1, 800);
}

static void a_writer_that_outruns_the_link_is_told_not_to_converge_or_how_it_is_held(void **state)
{
    (void)state;
    struct writer wild = {.pattern = PATTERN_RANDOM, .pages = 16384, .pages_per_s = 60000};

    judge("240 MB/s, gentle", wild, 118e6, 0.02, 0);

    struct forecast_guest guest = {.populated_bytes = (uint64_t)PAGES * 4096, .vcpus = 1};
    const struct forecast_link link = {.bytes_per_s = 118e6, .doubt = 0.1, .setup_s = 0.25};
    const struct forecast_ask ask = {
        .pause_goal_s = 0.1, .throttle_permille_max = 990, .throttle_stalls_min = 1};
    sample(wild, &guest);
    struct forecast held = forecast_ask(&guest, &link, &ask);
    struct came came = play(wild, 118e6, 0.1, 990);
    assert_true(held.converges && came.moved);
    assert_true(held.throttle_permille > 500);
    assert_true(fabs(held.seconds - came.seconds) <= 0.25 * came.seconds);
}

/* Held back as far as is done before it, it still outruns its link; a slower one does not need it. */
static void what_finish_leaves_behind_is_told_and_bounded(void **state)
{
    (void)state;
    struct writer wild = {.pattern = PATTERN_RANDOM, .pages = 16384, .pages_per_s = 600000};
    struct writer slow = {.pattern = PATTERN_RANDOM, .pages = 4096, .pages_per_s = 2000};
    struct forecast_guest guest = {.populated_bytes = (uint64_t)PAGES * 4096, .vcpus = 1};
    const struct forecast_link link = {.bytes_per_s = 118e6, .doubt = 0.1, .setup_s = 0.25};
    struct forecast_ask ask = {.pause_goal_s = 0.02,
                               .throttle_permille_max = 990,
                               .throttle_stalls_min = 1,
                               .postcopy_late = true};
    sample(wild, &guest);
    struct forecast told = forecast_ask(&guest, &link, &ask);
    assert_true(told.converges && told.postcopy);
    assert_int_equal(told.throttle_permille, 800);
    assert_true(told.pause_s <= ask.pause_goal_s);
    assert_true(told.seconds < 10);

    struct forecast_ask soon = ask;
    soon.deadline_s = 1.3; /* one pass takes 1.1 s */
    told = forecast_ask(&guest, &link, &soon);
    assert_true(told.converges && told.postcopy);
    assert_int_equal(told.rounds, 1);

    struct forecast_ask rounds_alone = ask;
    rounds_alone.postcopy_late = false;
    rounds_alone.throttle_permille_max = 800;
    assert_false(forecast_ask(&guest, &link, &rounds_alone).converges);

    sample(slow, &guest);
    told = forecast_ask(&guest, &link, &ask);
    assert_true(told.converges && !told.postcopy);
}

static void what_is_sampled_leads_on_as_its_writer_does(void **state)
{
    (void)state;
    struct forecast_guest guest = {.populated_bytes = (uint64_t)PAGES * 4096};
    struct writer random = {.pattern = PATTERN_RANDOM, .pages = 8192, .pages_per_s = 8192};
    struct writer sweep = {.pattern = PATTERN_SWEEP, .pages = 32768, .pages_per_s = 5000};

    sample(random, &guest);
    double within_4_s = 8192 * 4096.0 * (1 - exp(-4));
    assert_true(fabs(forecast_written(&guest, 4) - within_4_s) < 0.04 * within_4_s);
    assert_true(forecast_written(&guest, 0.03) < forecast_written(&guest, 0.0625));
    assert_true(forecast_written(&guest, 0) == 0);

    sample(sweep, &guest);
    assert_true(fabs(forecast_written(&guest, 3) - 15000 * 4096.0) < 15000 * 4096.0 * 0.02);
    assert_true(forecast_written(&guest, 100) <= PAGES * 4096.0);
}

static void zero_pages_and_limits_count(void **state)
{
    (void)state;
    struct forecast_guest guest = {.populated_bytes = 4ULL << 30, .vcpus = 1, .zero_share = 0.75};
    const struct forecast_link link = {.bytes_per_s = 1e9, .doubt = 0.1, .setup_s = 0.1};
    struct forecast_ask ask = {.pause_goal_s = 0.1};

    struct forecast zeros = forecast_ask(&guest, &link, &ask);
    ask.bytes_per_s_max = 100e6;
    struct forecast held = forecast_ask(&guest, &link, &ask);

    assert_true(zeros.seconds > 1.2 && zeros.seconds < 1.6);
    assert_true(held.seconds > 10.5 && held.seconds < 11.5);
    assert_true(held.pause_s < 0.01);
}

static void it_learns_what_it_errs_by_for_a_vm_and_for_a_link(void **state)
{
    (void)state;
    const struct forecast_guest guest = {.populated_bytes = 1 << 30, .vcpus = 1};
    const struct forecast_link link = {.bytes_per_s = 500e6, .doubt = 0.3};
    struct forecast_ask ask = {.pause_goal_s = 0.1};
    struct forecast_record record = {0};

    struct forecast first = forecast_ask(&guest, &link, &ask);
    for (int i = 0; i < 12; i++) {
        struct forecast told = forecast_ask(&guest, &link, &ask);
        double noise = i % 2 ? 1.03 : 0.97;
        forecast_record(&record, &told, 3.5 * noise, 0.0021);
        ask.vm = record;
    }
    struct forecast last = forecast_ask(&guest, &link, &ask);

    assert_true(fabs(first.seconds - 3.5) > 0.8);
    assert_true(fabs(last.seconds - 3.5) < 0.1);
    assert_true(last.seconds_high > 3.6 && last.seconds_high < 4.2);
    assert_true(fabs(last.pause_s - 0.0021) < 0.0003);
    assert_true(last.pause_s_high < 0.006);
    ask.vm = (struct forecast_record){0};
    ask.link = record;
    assert_true(fabs(forecast_ask(&guest, &link, &ask).seconds - 3.5) < 0.1);
}

static void a_first_move_that_stood_still_for_long_does_not_speak_for_the_next(void **state)
{
    (void)state;
    const struct forecast_guest guest = {.populated_bytes = 1 << 30, .vcpus = 1};
    const struct forecast_link link = {.bytes_per_s = 500e6, .doubt = 0.3};
    struct forecast_ask ask = {.pause_goal_s = 0.1};

    struct forecast told = forecast_ask(&guest, &link, &ask);
    forecast_record(&ask.vm, &told, told.model_s, 0.180);
    struct forecast second = forecast_ask(&guest, &link, &ask);
    told = second;
    for (int i = 0; i < 5; i++) {
        forecast_record(&ask.vm, &told, told.model_s, 0.0021);
        told = forecast_ask(&guest, &link, &ask);
    }

    assert_true(second.pause_s < 0.020);
    assert_true(second.pause_s_high > 0.050); /* it is doubt instead */
    assert_true(fabs(told.pause_s - 0.0021) < 0.003);
}

static void a_pause_that_is_long_every_time_is_learned_within_some_moves(void **state)
{
    (void)state;
    const struct forecast_guest guest = {.populated_bytes = 1 << 30, .vcpus = 16};
    const struct forecast_link link = {.bytes_per_s = 500e6, .doubt = 0.3};
    struct forecast_ask ask = {.pause_goal_s = 0.1};

    struct forecast told = forecast_ask(&guest, &link, &ask);
    for (int i = 0; i < 8; i++) {
        forecast_record(&ask.vm, &told, told.model_s, 0.060);
        told = forecast_ask(&guest, &link, &ask);
        assert_true(told.pause_s_high > 0.045);
    }

    assert_true(fabs(told.pause_s - 0.060) < 0.006);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_told_of_a_writer_is_what_comes),
        cmocka_unit_test(
            writers_that_are_pressed_before_a_long_pause_are_told_with_the_rounds_it_takes),
        cmocka_unit_test(a_writer_that_outruns_the_link_is_told_not_to_converge_or_how_it_is_held),
        cmocka_unit_test(what_finish_leaves_behind_is_told_and_bounded),
        cmocka_unit_test(what_is_sampled_leads_on_as_its_writer_does),
        cmocka_unit_test(zero_pages_and_limits_count),
        cmocka_unit_test(it_learns_what_it_errs_by_for_a_vm_and_for_a_link),
        cmocka_unit_test(a_first_move_that_stood_still_for_long_does_not_speak_for_the_next),
        cmocka_unit_test(a_pause_that_is_long_every_time_is_learned_within_some_moves),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

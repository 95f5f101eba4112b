#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/world.h"
#include "migrate/converge.h"
#include "migrate/progress.h"

static void tells_rates_and_what_is_left(void **state)
{
    (void)state;
    struct progress progress = {0};
    struct converge converge;
    converge_init(&converge, 100 * NS_PER_MS, 1);
    struct progress_facts facts = {.now_ns = NS_PER_S,
                                   .started_ns = NS_PER_S,
                                   .phase = GODWIT__MOVE_PHASE__MOVE_PHASE_PRECOPY,
                                   .round = 1,
                                   .lanes = 2,
                                   .memory_pages = 1000,
                                   .converge = &converge};
    Godwit__MoveProgress message;
    progress_begin_round(&progress, 1000, NS_PER_S);
    progress_fill(&progress, &facts, &message);
    progress_add(&progress, 400, 100, 2000000);
    facts.now_ns += NS_PER_S / 4;

    progress_fill(&progress, &facts, &message);

    assert_int_equal(message.round_pages_done, 400);
    assert_int_equal(message.round_pages_total, 1000);
    assert_int_equal(message.zero_pages, 100);
    assert_int_equal(message.wire_bytes_per_s, 8000000);
    assert_int_equal(message.memory_bytes_total, 4096000);
    assert_int_equal(message.elapsed_ns, NS_PER_S / 4);
    assert_true(message.eta_ns >= 600 * CONVERGE_PAGE_NS);
}

/* Its first round's pace, before any round was measured: not what a wire could carry. */
static void a_slow_first_round_is_told_as_long_as_it_takes(void **state)
{
    (void)state;
    struct progress progress = {0};
    struct converge converge;
    converge_init(&converge, 100 * NS_PER_MS, 1);
    struct progress_facts facts = {.now_ns = 20 * NS_PER_S, .round = 1, .converge = &converge};
    Godwit__MoveProgress message;
    progress_begin_round(&progress, 1000, 10 * NS_PER_S);
    progress_add(&progress, 250, 0, 1000000);

    progress_fill(&progress, &facts, &message);

    assert_in_range(message.eta_ns, 30 * NS_PER_S, 31 * NS_PER_S);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tells_rates_and_what_is_left),
        cmocka_unit_test(a_slow_first_round_is_told_as_long_as_it_takes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
